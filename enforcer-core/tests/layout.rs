//! An image read through the types generated from the compiled BPF object: the compiler, which must build without
//! clang, writes the layout a second time, and this is what keeps the two together.
#![cfg(feature = "bpf")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use enforcer_bpf::{Shared, types};
use enforcer_core::compile::bpf::image::{RULE_NONE, RULE_POSTURE};
use enforcer_core::compile::bpf::{BpfImage, CELL_BYTES, compile};
use enforcer_core::policy::{Kind, PolicyId};
use enforcer_core::ruleset::{
    Class, Conditions, Effect, Object, Origin, OriginId, PostureAction, Postures, Rule, Ruleset,
};

fn ruleset() -> Ruleset {
    let long = format!("/etc/{}", "long-name-".repeat(12)); // 120 bytes: inline, one string cell and a half
    let rules = [
        (Class::File, None, Object::Path("/etc/passwd".parse().unwrap()), Effect::Block, true),
        (Class::File, None, Object::Path(long.parse().unwrap()), Effect::Audit, false),
        (
            Class::File,
            Some("/bin/sh"),
            Object::Directory { dir: "/tmp".parse().unwrap(), recursive: true },
            Effect::Allow,
            false,
        ),
        (Class::Process, None, Object::BaseName("wget".into()), Effect::Block, false),
    ];
    let origins = rules.iter().enumerate().map(|(n, rule)| Origin {
        policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "ns".into(), name: "p".into() },
        rule: format!("rule[{n}]"),
        severity: 1,
        tags: vec![],
        message: String::new(),
        action: rule.3,
    });
    let origins = origins.collect();
    let rules = rules.into_iter().enumerate().map(|(n, (class, source, object, effect, read_only))| Rule {
        class,
        source: source.map(|path| path.parse().unwrap()),
        object,
        conditions: Conditions { read_only, ..Conditions::default() },
        effect,
        origin: OriginId(n as u32),
    });
    let postures = Postures { file: PostureAction::Block, ..Postures::default() };
    Ruleset::new(rules.collect(), origins, postures).unwrap()
}

fn cell<T: Shared>(image: &BpfImage, index: u32) -> T {
    assert_eq!(size_of::<T>(), CELL_BYTES);
    T::of(&image.cells()[index as usize]).unwrap()
}

/// What a decision without conditions, about something with nothing below, holds.
fn always(entry: u32) -> [u32; 16] {
    by_condition([entry; 4], 0)
}

/// By reading and writing, by others and the owner; whether there is a terminal makes no difference.
fn by_condition(entries: [u32; 4], below: u32) -> [u32; 16] {
    let half = [entries, [below; 4]].concat();
    [half.clone(), half].concat().try_into().unwrap()
}

/// The node called `name` below `parent`, wherever it stands.
fn node(image: &BpfImage, parent: u32, name: &[u8]) -> types::node_cell {
    let header: types::header_cell = cell(image, 0);
    (header.table..=header.table + header.mask)
        .map(|index| cell::<types::node_cell>(image, index))
        .find(|node| {
            let words = std::iter::once(node.name).chain(node.name_on);
            let mut bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
            let mut more = node.more;
            while bytes.len() < node.len as usize {
                bytes.extend(image.cells()[more as usize]);
                more += 1;
            }
            node.parent == parent && bytes[..node.len as usize] == *name
        })
        .unwrap_or_else(|| panic!("no node {} below {parent}", name.escape_ascii()))
}

#[test]
fn an_image_reads_as_the_programs_read_it() {
    let ruleset = ruleset();
    let mut image = compile(&ruleset).unwrap();
    image.name(9);
    let origin = |rule: &str| ruleset.origins().iter().position(|origin| origin.rule == rule).unwrap() as u32;
    let header: types::header_cell = cell(&image, 0);
    assert_eq!((header.version, header.ruleset), (3, 9));
    assert_eq!(image.classes(), 0b11, "process and file");
    assert_eq!(header.cells as usize, image.cells().len());
    assert!((header.mask + 1).is_power_of_two());
    assert_eq!(header.table + header.mask + 1, header.cells, "the table comes last");

    let [process, file, network, capability, ..] = header.classes;
    assert_eq!((network, capability), (0, 0));

    // file: whitelisted by a rule with a source, posture block
    let class: types::class_cell = cell(&image, file);
    assert_eq!(class.otherwise, 3 << 28 | RULE_POSTURE);
    assert_eq!(class.unresolved, 3 << 28 | RULE_POSTURE);
    assert_eq!((class.conditions, class.has_source), (1, 1), "readOnly");
    let root: types::root_cell = cell(&image, class.root);
    assert_eq!((root.base, root.children, root.deep), (0, 0, 0));
    let etc = node(&image, root.node, b"etc");
    let passwd = node(&image, etc.node, b"passwd");
    let decision: types::decision_cell = cell(&image, passwd.exact);
    let block = origin("rule[0]");
    // read exempt, write blocked; by the owner the same
    let exempt = 1 << 31 | 1 << 28 | block;
    assert_eq!(decision.by_condition, by_condition([exempt, 3 << 28 | block, exempt, 3 << 28 | block], 0));
    // the directory above it: nothing about itself, but what lies below, should it be moved
    let above: types::decision_cell = cell(&image, etc.exact);
    assert_eq!(above.by_condition, by_condition([0; 4], 3 << 28 | block));
    let long = node(&image, etc.node, "long-name-".repeat(12).as_bytes());
    assert_eq!(
        cell::<types::decision_cell>(&image, long.exact).by_condition,
        always(2 << 28 | origin("rule[1]"))
    );

    // the source
    let bin = node(&image, header.source_node, b"bin");
    let sh = node(&image, bin.node, b"sh");
    let source: types::source_cell = cell(&image, sh.exact);
    assert_eq!(source.roots.map(|root| root != 0), [false, true, false, false, false, false, false, false]);
    let root: types::root_cell = cell(&image, source.roots[1]);
    let tmp = node(&image, root.node, b"tmp");
    assert_eq!(tmp.exact, 0);
    assert_eq!(tmp.children, tmp.deep, "recursive");
    assert_eq!(
        cell::<types::decision_cell>(&image, tmp.deep).by_condition,
        always(1 << 28 | origin("rule[2]"))
    );

    // process: a base name, no whitelist
    let class: types::class_cell = cell(&image, process);
    assert_eq!(class.otherwise, 1 << 28 | RULE_NONE);
    let root: types::root_cell = cell(&image, class.root);
    let wget = node(&image, root.base, b"wget");
    assert_eq!(
        cell::<types::decision_cell>(&image, wget.exact).by_condition,
        always(3 << 28 | origin("rule[3]"))
    );
}
