use proptest::prelude::*;

use super::*;
use crate::coverage::GapReason;
use crate::policy::{Kind as Of, PolicyId, parse};
use crate::ruleset::{Class, Conditions, Effect, Origin, OriginId, PostureAction, Postures, Rule};
use crate::subject::Subject;

fn rules(spec: &str) -> Ruleset {
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {{name: h}}\n\
         spec: {{nodeSelector: {{matchLabels: {{a: b}}}}, {spec}}}\n"
    );
    let parsed = parse("h.yaml", &text);
    assert_eq!(parsed.errors, []);
    let host = Subject::of_host([("a".to_owned(), "b".to_owned())].into());
    Ruleset::resolve(&parsed.policies, &Postures::default(), &host).ruleset
}

fn users(labels: &Labels, paths: &[(&str, Kind)]) -> Vec<String> {
    let user = |(path, kind): &(&str, Kind)| labels.of(path.as_bytes(), *kind).user();
    let bare = |user: String| user.trim_start_matches(USER_PREFIX).trim_end_matches(USER_SUFFIX).to_owned();
    paths.iter().map(user).map(|user| user.map_or("-".into(), bare)).collect()
}

#[test]
fn each_kind_of_file_gets_what_the_rules_deny() {
    use Kind::{Directory, File, Link};
    let labels = compile(&rules(
        "file: {matchPaths: [{path: /a/f}, {path: /a/ro, readOnly: true}], \
         matchDirectories: [{dir: /d/}, {dir: /t/s/, recursive: true, readOnly: true}]}, \
         process: {matchPaths: [{path: /a/f}, {path: /bin/x}]}",
    ));
    let paths = [
        ("/", Directory),
        ("/a", Directory),
        ("/a/f", File),
        ("/a/f", Directory),
        ("/a/f", Link),
        ("/a/ro", File),
        ("/a/other", File),
        ("/d", Directory),
        ("/d/x", File),
        ("/d/x", Directory),
        ("/d/x/y", File),
        ("/t", Directory),
        ("/t/s", Directory),
        ("/t/s/x/y", File),
        ("/t/s/x/y", Directory),
        ("/bin", Directory),
        ("/bin/x", File),
    ];
    let wanted =
        ["-", "m", "rwx", "rwm", "w", "w", "-", "rwcm", "rw", "rwm", "-", "m", "wcm", "w", "wcm", "-", "x"];
    assert_eq!(users(&labels, &paths), wanted);
    let places: Vec<String> =
        labels.places.iter().map(|Place { path, reach }| format!("{path} {reach:?}")).collect();
    assert_eq!(
        places,
        [
            "/a Above",
            "/a/f Itself",
            "/a/ro Itself",
            "/bin Above",
            "/bin/x Itself",
            "/d Children",
            "/t Above",
            "/t/s Below"
        ]
    );
    assert_eq!(labels.gaps, []);
}

#[test]
fn what_cannot_be_said_is_a_gap() {
    let gaps = |spec: &str| compile(&rules(spec)).gaps.iter().map(|gap| gap.reason).collect::<Vec<_>>();
    assert_eq!(
        gaps("capabilities: {matchCapabilities: [{capability: net_raw}]}"),
        [GapReason::SelinuxObject]
    );
    assert_eq!(gaps("network: {matchProtocols: [{protocol: tcp}]}"), [GapReason::SelinuxObject]);
    assert_eq!(gaps("file: {matchPatterns: [{pattern: '/a/*.x'}]}"), [GapReason::SelinuxPattern]);
    assert_eq!(gaps("process: {matchPaths: [{execname: nc}]}"), [GapReason::SelinuxPattern]);
    assert_eq!(gaps("file: {matchPaths: [{path: /a, ownerOnly: true}]}"), [GapReason::SelinuxCondition]);
    assert_eq!(
        gaps("file: {matchPaths: [{path: /a, fromSource: [{path: /b}]}]}"),
        [GapReason::SelinuxSource]
    );
    assert_eq!(gaps("action: Audit, file: {matchPaths: [{path: /a}]}"), [GapReason::SelinuxAudit]);
    assert_eq!(gaps("action: Allow, file: {matchPaths: [{path: /a}]}"), [GapReason::SelinuxWhitelist]);
}

/// Nobody is exempt from labels, and they are in force before any daemon.
#[test]
fn what_a_node_cannot_do_without_is_not_denied() {
    for spec in [
        "file: {matchDirectories: [{dir: /, recursive: true}]}",
        "file: {matchDirectories: [{dir: /usr/, recursive: true}]}",
        "file: {matchDirectories: [{dir: /usr/bin/}]}",
        "process: {matchDirectories: [{dir: /usr/bin/, recursive: true}]}",
        "process: {matchDirectories: [{dir: /usr/sbin/}]}",
        "process: {matchPaths: [{path: /usr/sbin/sshd}]}",
        "process: {matchPaths: [{path: /usr/lib/systemd/systemd}]}",
        "process: {matchPaths: [{path: /usr/bin/kubelet}]}",
        "file: {matchPaths: [{path: /lib64/ld-linux-x86-64.so.2}]}",
        "file: {matchPaths: [{path: /usr/lib/x86_64-linux-gnu/libc.so.6}]}",
        "process: {matchPaths: [{path: /usr/sbin/semodule}]}",
        "file: {matchDirectories: [{dir: /etc/, recursive: true}]}",
        "file: {matchDirectories: [{dir: /etc/selinux/, recursive: true, readOnly: true}]}",
        "file: {matchDirectories: [{dir: /etc/selinux/targeted/policy/}]}",
        "file: {matchPaths: [{path: /etc/selinux/config, readOnly: true}]}",
        "file: {matchDirectories: [{dir: /var/lib/selinux/}]}",
    ] {
        let labels = compile(&rules(spec));
        let reasons: Vec<_> = labels.gaps.iter().map(|gap| gap.reason).collect();
        assert_eq!((reasons, labels.places.len()), (vec![GapReason::SelinuxVital], 0), "{spec}");
        assert!(labels.gaps[0].advice.contains("name narrower paths"), "{}", labels.gaps[0]);
        for (path, kind) in [("/usr/sbin/sshd", Kind::File), ("/etc/selinux", Kind::Directory)] {
            assert_eq!(labels.of(path.as_bytes(), kind), Label::NOTHING, "{spec}");
        }
        assert!(held(&rules(spec)).is_empty(), "`explain` would tell that it is held: {spec}");
    }
    // what is needed may be protected from changes, and beside a rule that is refused others hold
    for spec in [
        "file: {matchDirectories: [{dir: /usr/, recursive: true, readOnly: true}]}",
        "file: {matchPaths: [{path: /etc/passwd}]}",
        "process: {matchPaths: [{path: /usr/bin/nc}]}",
        "file: {matchDirectories: [{dir: /usr/}]}",
    ] {
        assert_eq!(compile(&rules(spec)).gaps, [], "{spec}");
    }
    let both =
        compile(&rules("process: {matchPaths: [{path: /usr/bin/nc}], matchDirectories: [{dir: /usr/bin/}]}"));
    let fields: Vec<_> = both.gaps.iter().map(|gap| gap.field.as_str()).collect();
    assert_eq!(fields, ["spec.process.matchDirectories[0]"]);
    assert_eq!(both.of(b"/usr/bin/nc", Kind::File), Label::EXECUTE);
    assert_eq!(both.of(b"/usr/bin/other", Kind::File), Label::NOTHING);
}

#[test]
fn every_label_is_its_user_and_back() {
    for label in Label::all() {
        let user = label.user().unwrap();
        assert_eq!(Label::of_user(&user), Some(label));
        assert!(user.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{user}");
    }
    assert_eq!(Label::all().count(), 31);
    for other in ["system_u", "nri_enforcer__u", "nri_enforcer_wr_u", "nri_enforcer_r", ""] {
        assert_eq!(Label::of_user(other), None, "{other}");
    }
}

#[test]
fn the_module_is_the_same_for_all_rules_and_takes_away_alone() {
    let text = module(&"nri_enforcer_t".parse().unwrap());
    let golden = include_str!("golden.cil");
    assert_eq!(text, golden, "the module has changed: see `golden.cil`");
    assert!(!text.contains("(allow"), "it allows nothing");
}

fn path() -> impl Strategy<Value = AbsPath> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..4)
        .prop_map(|names| format!("/{}", names.join("/")).parse().unwrap())
}

fn rule() -> impl Strategy<Value = Rule> {
    let object = (path(), 0..3_u8).prop_map(|(path, kind)| match kind {
        0 => Object::Path(path),
        one => Object::Directory { dir: path, recursive: one == 1 },
    });
    let class = prop::sample::select(vec![Class::File, Class::File, Class::Process]);
    let effect = prop::sample::select(vec![Effect::Block, Effect::Block, Effect::Audit, Effect::Allow]);
    (class, object, any::<bool>(), effect).prop_map(|(class, object, read_only, effect)| Rule {
        class,
        source: None,
        object,
        conditions: Conditions { read_only, ..Conditions::default() },
        effect,
        origin: OriginId(0),
    })
}

fn ruleset(rules: Vec<Rule>) -> Ruleset {
    let origin = |rule: &Rule| Origin {
        policy: PolicyId { kind: Of::KubeArmorHostPolicy, namespace: String::new(), name: "h".into() },
        rule: String::new(),
        severity: 1,
        tags: Vec::new(),
        message: String::new(),
        action: rule.effect,
    };
    let origins = rules.iter().map(origin).collect();
    let rules = (0..).zip(rules).map(|(id, rule)| Rule { origin: OriginId(id), ..rule }).collect();
    let postures = Postures { process: Some(PostureAction::Audit), ..Postures::default() };
    Ruleset::new(rules, origins, postures.with(Class::File, PostureAction::Audit)).unwrap()
}

proptest! {
    /// Rules about paths and directories are said whole, and every file that they deny something about is found from a
    /// place.
    #[test]
    fn labels_mean_what_decide_does(rules in prop::collection::vec(rule(), 0..6), asked in path()) {
        let ruleset = ruleset(rules);
        let labels = compile(&ruleset);
        // a whole rule goes then
        prop_assume!(labels.gaps.iter().all(|gap| gap.reason != GapReason::SelinuxVital));
        let denies = |access: &Access<'_>| ruleset.decide(access).verdict == Verdict::Block;
        let path = asked.as_bytes();
        let file = labels.of(path, Kind::File);
        prop_assert_eq!(file.has(Label::READ), denies(&Access::read(path)));
        prop_assert_eq!(file.has(Label::WRITE), denies(&Access::write(path)));
        prop_assert_eq!(file.has(Label::EXECUTE), denies(&Access::exec(path)));
        let directory = labels.of(path, Kind::Directory);
        prop_assert_eq!(directory.has(Label::READ), denies(&Access::read(path)));
        if !asked.is_root() {
            prop_assert_eq!(directory.has(Label::MOVE), denies(&Access::rename_directory(path)));
        }
        let new = [path.strip_suffix(b"/").unwrap_or(path), b"/new"].concat();
        let names = ruleset.rules().iter().any(|rule| matches!(&rule.object, Object::Path(path) if path.as_bytes() == new));
        if !names {
            prop_assert_eq!(directory.has(Label::CREATE), denies(&Access::write(&new)));
        }
        if file != Label::NOTHING || directory != Label::NOTHING {
            let reaches = |place: &Place| {
                let depth = asked.depth().checked_sub(place.path.depth());
                let begins = asked.components().take(place.path.depth()).eq(place.path.components());
                begins && match place.reach {
                    Reach::Above | Reach::Itself => depth == Some(0),
                    Reach::Children => depth.is_some_and(|depth| depth <= 1),
                    Reach::Below => depth.is_some(),
                }
            };
            prop_assert!(labels.places.iter().any(reaches), "{asked} of {ruleset}");
        }
    }

    /// No text becomes part of the module, unless it is a name.
    #[test]
    fn no_text_gets_into_the_module(text in ".*") {
        if let Ok(domain) = text.parse::<Domain>() {
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)));
            let count = |text: &str, sign: char| text.matches(sign).count();
            let (made, plain) = (module(&domain), module(&"t".parse().unwrap()));
            for sign in ['(', ')', ';', '"', '\n', ' '] {
                prop_assert_eq!(count(&made, sign), count(&plain, sign));
            }
        }
    }
}

#[test]
fn what_is_no_domain_is_refused() {
    for bad in ["", "a b", "a)", "(a", "a;b", "a\"b", "1a", "-a", "a\n", "ü", &"a".repeat(201)] {
        assert!(bad.parse::<Domain>().is_err(), "{bad:?}");
    }
    assert_eq!(Domain::of_label("system_u:system_r:kernel_t:s0\0").unwrap().as_str(), "kernel_t");
    assert_eq!(Domain::of_label("u:r:init_t\n").unwrap().as_str(), "init_t");
    for bad in ["kernel", "u:r", "u:r:a b:s0", "u:r::s0"] {
        assert!(Domain::of_label(bad).is_err(), "{bad:?}");
    }
}
