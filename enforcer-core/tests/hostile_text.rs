//! Whatever the text: no panic, no endless work, no policy out of a broken document, and errors that point into the
//! text.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::LazyLock;

use enforcer_core::policy::{ParsedFile, parse, parse_tests};
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject;
use proptest::prelude::*;
use proptest::sample::{Index, select};

static EXAMPLES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let folders = ["/../examples/policies", "/../examples/tests"];
    let mut texts: Vec<_> = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir([env!("CARGO_MANIFEST_DIR"), folder].concat()).unwrap())
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    texts.sort();
    assert!(texts.len() > 10);
    texts
});

const PIECES: [&str; 64] = [
    "---\n",
    "...\n",
    "- ",
    "? ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "&a ",
    "*a",
    "!!str ",
    "!t ",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "#",
    "%YAML 1.2\n",
    "\n",
    "\r",
    "\t",
    "  ",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "\0",
    "~",
    "true",
    "1e9",
    "<<: *a\n",
    "\\x",
    "\\u12",
    "`",
    "@",
    "/",
    "..",
    "spec:\n",
    "file:\n",
    "matchPaths:\n",
    "path: /x\n",
    "kind: List\n",
    "items:\n",
    "network: ",
    "syscalls: ",
    "presets: [",
    "matchPatterns: [{pattern: ",
    "'/{a,[^b]}/**\\x'",
    "/[",
    "{{{{{{{{",
    "matchDestinations: [{",
    "cidr: ::ffff:0:0/96, ",
    "ports: [0-65535, 99999, 5-1], ",
    "protocol: 'tcp,,UDP', ",
    "fromSource: [{path: /x}, {dir: /y/}], ",
    "allowedArgs: ['', -x], ",
    "pts: false, ",
    "capability: CAP_CAP_, ",
    "syscall: [open, \"\"], ",
    "action: Allow, ",
    "}]",
    "cases: [{access: 'syscall:socket:1,0x', expect: Block, ",
    "subject: {namespace: '', labels: {a: b}}\n",
];

/// What holds of every text.
fn check(text: &str) -> ParsedFile {
    let parsed = parse("f", text);
    // At most the line after the last, where a parser that wants more stands; of all breaks that YAML ever had.
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() + 1;
    let tests = [false, true].map(|among_policies| parse_tests("f", text, among_policies));
    for error in tests.iter().flat_map(|tests| &tests.errors).chain(&parsed.errors) {
        assert!((1..=lines).contains(&error.line) && error.column >= 1, "{error} in {lines} lines");
        assert!(!error.message.is_empty());
        assert!(error.to_string().len() < 100_000);
    }
    for test in tests.iter().flat_map(|tests| &tests.tests) {
        assert!(!test.cases.is_empty() && !test.policies.is_empty(), "a test that tests nothing");
    }
    for policy in &parsed.policies {
        assert!(!policy.rules().is_empty() || !policy.gaps().is_empty(), "a policy that says nothing");
        let subject = Subject { namespace: policy.id().namespace.clone(), ..Subject::default() };
        let resolved = Ruleset::resolve([policy], &Postures::default(), &subject);
        assert_eq!(resolved.ruleset.is_empty() && resolved.coverage.is_full(), !policy.selects(&subject));
    }
    parsed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn pieces_of_yaml(pieces in prop::collection::vec(select(&PIECES[..]), 0..60)) {
        check(&pieces.concat());
    }

    #[test]
    fn examples_with_damage(
        example in any::<Index>(),
        edits in prop::collection::vec((any::<Index>(), 0..12usize, select(&PIECES[..])), 1..6),
    ) {
        let mut text: Vec<char> = example.get(&EXAMPLES).chars().collect();
        for (at, cut, piece) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + cut).min(text.len());
            text.splice(at..end, piece.chars());
        }
        check(&text.into_iter().collect::<String>());
    }

    #[test]
    fn damage_in_one_document_leaves_the_next_alone(
        example in any::<Index>(),
        at in any::<Index>(),
        piece in select(&PIECES[..]),
    ) {
        let mut text: Vec<char> = example.get(&EXAMPLES).chars().collect();
        let at = at.index(text.len() + 1);
        text.splice(at..at, piece.chars());
        let damaged: String = text.into_iter().collect();
        let last = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: the-last-one}\n\
                    spec: {selector: {}, file: {matchPaths: [{path: /x}]}}\n";
        let parsed = check(&format!("{damaged}\n---\n{last}"));
        prop_assert_eq!(parsed.policies.last().map(|policy| &*policy.id().name), Some("the-last-one"));
    }
}
