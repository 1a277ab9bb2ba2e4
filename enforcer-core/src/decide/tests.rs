use super::*;
use crate::capability::Capability;
use crate::network::{Ports, Protocol};
use crate::policy::{Kind, PolicyId};
use crate::preset::Preset;
use crate::ruleset::{Class, Origin, Postures};
use crate::syscall::Syscall;

mod classes;

/// A rule in short: `effect class object [conditions] [from source]`, as it prints.
fn rule(text: &str, origin: u32) -> Rule {
    let mut words = text.split(' ');
    let effect = match words.next().unwrap() {
        "allow" => Effect::Allow,
        "audit" => Effect::Audit,
        "block" => Effect::Block,
        other => panic!("{other}"),
    };
    let class = words.next().unwrap().parse().unwrap();
    let object = object(class, words.next().unwrap());
    let mut conditions = Conditions::default();
    let mut source = None;
    while let Some(word) = words.next() {
        match word {
            "readOnly" => conditions.read_only = true,
            "ownerOnly" => conditions.owner_only = true,
            "pts=false" => conditions.no_terminal = true,
            "from" => source = Some(words.next().unwrap().parse().unwrap()),
            args => {
                let args = args.strip_prefix("args=[").and_then(|args| args.strip_suffix(']')).unwrap();
                conditions.args = Some(Args::new(args.split(',').map(str::to_owned)));
            }
        }
    }
    let rule = Rule { class, source, object, conditions, effect, origin: OriginId(origin) };
    assert_eq!(rule.to_string(), text);
    rule
}

fn object(class: Class, text: &str) -> Object {
    let dir = |dir: &str| if dir.is_empty() { "/".parse().unwrap() } else { dir.parse::<AbsPath>().unwrap() };
    let (what, rest) = text.split_once('=').unwrap_or(("", text));
    match (class, what) {
        (Class::Network, "to") => Object::Destination(endpoint(rest)),
        (Class::Network, "at") => Object::Listener(endpoint(rest)),
        (Class::Network, _) => Object::Sockets(Protocol::by_name(rest).unwrap()),
        (Class::Capability, _) => Object::Capability(Capability::by_name(rest).unwrap()),
        (Class::Syscall, _) => Object::Syscall(Syscall::by_name(rest).unwrap()),
        (Class::Preset, _) => Object::Preset(Preset::by_name(rest).unwrap()),
        (_, "name") => Object::BaseName(rest.into()),
        (_, "pattern") => Object::Pattern(rest.parse().unwrap()),
        _ if text.ends_with("/**") => {
            Object::Directory { dir: dir(text.trim_end_matches("/**")), recursive: true }
        }
        _ if text.ends_with("/*") => {
            Object::Directory { dir: dir(text.trim_end_matches("/*")), recursive: false }
        }
        _ => Object::Path(text.parse().unwrap()),
    }
}

/// `tcp:10.0.0.0/8:443`, with `*` for what is left open.
fn endpoint(text: &str) -> Endpoint {
    let (protocol, rest) = text.split_once(':').unwrap();
    let (net, ports) = rest.rsplit_once(':').unwrap();
    let open = |text: &str| text == "*";
    Endpoint {
        net: (!open(net)).then(|| net.replace(['[', ']'], "").parse().unwrap()),
        ports: if open(ports) { Ports::ALL } else { ports.parse().unwrap() },
        protocol: (!open(protocol)).then(|| Protocol::by_name(protocol).unwrap()),
    }
}

fn ruleset(postures: Postures, rules: &[&str]) -> Ruleset {
    let rules: Vec<_> = (0..).zip(rules).map(|(id, text)| rule(text, id)).collect();
    let origins = rules
        .iter()
        .map(|rule| Origin {
            policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "d".into(), name: "p".into() },
            rule: rule.to_string(),
            severity: 1,
            tags: vec![],
            message: String::new(),
            action: rule.effect,
        })
        .collect();
    Ruleset::new(rules, origins, postures).unwrap()
}

fn blocking() -> Postures {
    let block = |postures: Postures, class| postures.with(class, PostureAction::Block);
    Class::ALL.into_iter().fold(Postures::default(), block)
}

/// Who decided: the rule as it prints, with `exempt: ` before it where it exempted, or `posture`, or `nothing`.
fn by(ruleset: &Ruleset, access: &Access<'_>) -> String {
    match ruleset.decide(access).by {
        DecidedBy::Rule(id) => ruleset.origin(id).unwrap().rule.clone(),
        DecidedBy::Exempt(id) => format!("exempt: {}", ruleset.origin(id).unwrap().rule),
        DecidedBy::DefaultPosture => "posture".into(),
        DecidedBy::NoRule => "nothing".into(),
    }
}

/// Of each pair the first beats the second, whichever of the two blocks and whichever comes first.
#[test]
fn each_step_of_the_order_of_precedence() {
    let access = Access::exec(b"/a/b/c").from(b"/bin/s");
    for (stronger, weaker) in [
        // A source beats everything without one.
        ("/**{} from /bin/s", "/a/b/c{}"),
        ("/a/b/**{} from /bin/s", "name=c{}"),
        ("/a/b/c{} from /bin/s", "/a/b/c{}"),
        // Among those with a source, and those without, the closer object.
        ("/a/b/c{}", "name=c{}"),
        ("/a/b/c{} from /bin/s", "name=c{} from /bin/s"),
        ("name=c{}", "pattern=/a/b/c{}"),
        ("name=c{} from /bin/s", "pattern=/a/** from /bin/s"),
        ("/a/b/c{}", "pattern=/a/b/c{}"),
        ("pattern=**{}", "/a/b/c/**{}"),
        ("pattern=/a/**{} from /bin/s", "/a/b/c{}"),
        ("name=c{}", "/a/b/**{}"),
        ("name=c{} from /bin/s", "/a/b/**{} from /bin/s"),
        ("/a/b/c/**{}", "/a/b/**{}"),
        ("/a/b/*{}", "/a/**{}"),
        ("/a/b/**{}", "/a/**{}"),
        ("/a/**{}", "/**{}"),
        ("/a/b/*{} from /bin/s", "/a/**{} from /bin/s"),
    ] {
        for (one, other) in [("allow", "block"), ("block", "allow"), ("audit", "block"), ("allow", "audit")] {
            let text = |effect, object: &str| format!("{effect} process {}", object.replace("{}", ""));
            let (strong, weak) = (text(one, stronger), text(other, weaker));
            for rules in [[&*strong, &*weak], [&*weak, &*strong]] {
                assert_eq!(by(&ruleset(blocking(), &rules), &access), strong, "{rules:?}");
            }
        }
    }
}

#[test]
fn among_equals_block_beats_audit_beats_allow() {
    for object in ["/a/b", "name=b", "/a/*", "/a/**", "pattern=/a/?", "/a/b from /s", "/a/** from /s"] {
        let texts = ["allow", "audit", "block"].map(|effect| format!("{effect} file {object}"));
        let [allow, audit, block] = texts.each_ref().map(String::as_str);
        let access = Access::read(b"/a/b").from(b"/s");
        assert_eq!(by(&ruleset(blocking(), &[allow, audit, block]), &access), block);
        assert_eq!(by(&ruleset(blocking(), &[audit, allow]), &access), audit);
        assert_eq!(by(&ruleset(blocking(), &[allow]), &access), allow);
    }
    // The same directory, recursive or not, is equally specific.
    let rules = ["block file /a/*", "allow file /a/**"];
    assert_eq!(by(&ruleset(blocking(), &rules), &Access::read(b"/a/b")), rules[0]);
    assert_eq!(by(&ruleset(blocking(), &rules), &Access::read(b"/a/b/c")), rules[1]);
    let rules = ["allow file /a/*", "block file /a/**"];
    assert_eq!(by(&ruleset(blocking(), &rules), &Access::read(b"/a/b")), rules[1]);
}

#[test]
fn of_equal_rules_the_smallest_origin_is_named() {
    let make = |name: &str| Origin {
        policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "d".into(), name: name.into() },
        rule: "r".into(),
        severity: 1,
        tags: vec![],
        message: String::new(),
        action: Effect::Block,
    };
    let rules = vec![rule("block file /a", 0), rule("block file /a", 1)];
    for origins in [vec![make("a"), make("b")], vec![make("b"), make("a")]] {
        let ruleset = Ruleset::new(rules.clone(), origins, Postures::default()).unwrap();
        let DecidedBy::Rule(id) = ruleset.decide(&Access::read(b"/a")).by else { panic!() };
        assert_eq!(ruleset.origin(id).unwrap().policy.name, "a");
    }
}

#[test]
fn a_directory_is_itself_its_children_and_recursively_what_is_below() {
    let flat = ruleset(Postures::default(), &["block file /a/b/*"]);
    let deep = ruleset(Postures::default(), &["block file /a/b/**"]);
    for (path, in_flat, in_deep) in [
        ("/a/b", true, true),
        ("/a/b/c", true, true),
        ("/a/b/c/d", false, true),
        ("/a", false, false),
        ("/", false, false),
        ("/a/bc", false, false),
        ("/a/bc/d", false, false),
        ("/x/a/b/c", false, false),
    ] {
        let blocked =
            |ruleset: &Ruleset| ruleset.decide(&Access::read(path.as_bytes())).verdict == Verdict::Block;
        assert_eq!((blocked(&flat), blocked(&deep)), (in_flat, in_deep), "{path}");
    }
    let flat = ruleset(Postures::default(), &["block file /*"]);
    let deep = ruleset(Postures::default(), &["block file /**"]);
    assert_eq!(by(&flat, &Access::read(b"/")), "block file /*");
    assert_eq!(by(&flat, &Access::read(b"/x")), "block file /*");
    assert_eq!(by(&flat, &Access::read(b"/x/y")), "nothing");
    assert_eq!(by(&deep, &Access::read(b"/x/y")), "block file /**");
}

#[test]
fn names_are_compared_whole_and_bytewise() {
    let set = ruleset(Postures::default(), &["block process name=sh", "block file /\u{e9}/x"]);
    assert_eq!(set.decide(&Access::exec(b"/usr/local/bin/sh")).verdict, Verdict::Block);
    for other in ["/bin/bash", "/bin/sh2", "/sh/x", "/bin/SH", "/"] {
        assert_eq!(by(&set, &Access::exec(other.as_bytes())), "nothing", "{other}");
    }
    assert_eq!(set.decide(&Access::read("/\u{e9}/x".as_bytes())).verdict, Verdict::Block);
    assert_eq!(
        by(&set, &Access::read("/e\u{301}/x".as_bytes())),
        "nothing",
        "another spelling is another file"
    );
}

#[test]
fn what_has_no_path_matches_no_rule() {
    let set = ruleset(blocking(), &["allow process /**", "allow process name=x", "block file /**"]);
    for object in [&b"memfd:x"[..], b"x", b"", b"pipe:[1]", b"./x"] {
        assert_eq!(by(&set, &Access::exec(object)), "posture");
        assert_eq!(set.decide(&Access::exec(object)).verdict, Verdict::Block);
    }
}

#[test]
fn conditions_narrow_an_allow_rule() {
    let mine = |access: Access<'static>| access.by(7, Some(7));
    let others = |access: Access<'static>| access.by(7, Some(8));
    let new = |access: Access<'static>| access.by(7, None);
    for (conditions, read_mine, read_others, write_mine, write_others) in [
        ("", true, true, true, true),
        (" readOnly", true, true, false, false),
        (" ownerOnly", true, false, true, false),
        (" readOnly ownerOnly", true, false, false, false),
    ] {
        let text = format!("allow file /x{conditions}");
        let set = ruleset(blocking(), &[&text]);
        for (access, covered) in [
            (mine(Access::read(b"/x")), read_mine),
            (others(Access::read(b"/x")), read_others),
            (mine(Access::write(b"/x")), write_mine),
            (others(Access::write(b"/x")), write_others),
            (new(Access::write(b"/x")), write_mine),
        ] {
            let expected = if covered { &*text } else { "posture" };
            assert_eq!(by(&set, &access), expected, "{access:?}");
            assert_eq!(set.decide(&access).verdict == Verdict::Allow, covered);
        }
    }
}

#[test]
fn a_narrowed_allow_rule_leaves_the_access_to_a_less_specific_one() {
    let set = ruleset(blocking(), &["allow file /a/b readOnly", "audit file /a/**"]);
    assert_eq!(by(&set, &Access::read(b"/a/b")), "allow file /a/b readOnly");
    assert_eq!(by(&set, &Access::write(b"/a/b")), "audit file /a/**");
    let set = ruleset(blocking(), &["allow file /a/b readOnly from /s", "audit file /a/b"]);
    assert_eq!(by(&set, &Access::write(b"/a/b").from(b"/s")), "audit file /a/b");
}

#[test]
fn conditions_exempt_from_a_block_or_audit_rule() {
    for (effect, verdict) in [("block", Verdict::Block), ("audit", Verdict::Audit)] {
        for (conditions, read_mine, read_others, write_mine, write_others) in [
            ("", false, false, false, false),
            (" readOnly", true, true, false, false),
            (" ownerOnly", true, false, true, false),
            (" readOnly ownerOnly", true, true, true, false),
        ] {
            let text = format!("{effect} file /x{conditions}");
            // Under a whitelist that blocks: an exempt access is decided, and does not fall to the posture.
            let set = ruleset(blocking(), &[&text, "allow file /other"]);
            for (access, exempt) in [
                (Access::read(b"/x").by(7, Some(7)), read_mine),
                (Access::read(b"/x").by(7, Some(8)), read_others),
                (Access::write(b"/x").by(7, Some(7)), write_mine),
                (Access::write(b"/x").by(7, Some(8)), write_others),
                (Access::write(b"/x").by(7, None), write_mine),
            ] {
                let expected = if exempt { format!("exempt: {text}") } else { text.clone() };
                assert_eq!(by(&set, &access), expected, "{access:?}");
                assert_eq!(set.decide(&access).verdict, if exempt { Verdict::Allow } else { verdict });
            }
        }
    }
}

#[test]
fn an_exemption_has_the_rank_of_allow_among_equals() {
    let access = Access::read(b"/x");
    let set = ruleset(blocking(), &["block file /x readOnly", "block file /x"]);
    assert_eq!(by(&set, &access), "block file /x");
    let set = ruleset(blocking(), &["block file /x readOnly", "audit file /x"]);
    assert_eq!(by(&set, &access), "audit file /x");
    let set = ruleset(blocking(), &["block file /x readOnly", "block file /**"]);
    assert_eq!(by(&set, &access), "exempt: block file /x readOnly", "more specific than the other");
    let set = ruleset(blocking(), &["block file /x readOnly", "allow file /x"]);
    assert_eq!(set.decide(&access).verdict, Verdict::Allow);
    assert_eq!(set.decide(&Access::write(b"/x")).verdict, Verdict::Block);
}

#[test]
fn a_source_is_the_whole_path_of_the_actor() {
    let set = ruleset(blocking(), &["allow file /x from /bin/s"]);
    assert_eq!(by(&set, &Access::read(b"/x").from(b"/bin/s")), "allow file /x from /bin/s");
    for other in [&b"/bin/ss"[..], b"/bin", b"/usr/bin/s", b"s", b""] {
        assert_eq!(
            by(&set, &Access::read(b"/x").from(other)),
            "posture",
            "the whole container is a whitelist"
        );
    }
    assert_eq!(by(&set, &Access::read(b"/x")), "posture");
}

#[test]
fn postures() {
    for (posture, verdict) in [
        (PostureAction::Allow, Verdict::Allow),
        (PostureAction::Audit, Verdict::Audit),
        (PostureAction::Block, Verdict::Block),
    ] {
        let files = Postures::default().with(Class::File, posture);
        let set = ruleset(files, &["allow file /x", "block process /y"]);
        let expected = Decision { verdict, by: DecidedBy::DefaultPosture };
        assert_eq!(set.decide(&Access::read(b"/other")), expected);
        assert_eq!(by(&set, &Access::exec(b"/other")), "nothing", "Block alone makes no whitelist");
        let set = ruleset(files, &["allow process /x"]);
        assert_eq!(
            set.decide(&Access::exec(b"/other")),
            expected,
            "the process class takes the posture of files"
        );
        assert_eq!(by(&set, &Access::read(b"/other")), "nothing");
        let own = files.with(Class::Process, PostureAction::Audit);
        assert_eq!(ruleset(own, &["allow process /x"]).decide(&Access::exec(b"/o")).verdict, Verdict::Audit);
    }
}

#[test]
fn nothing_decides_where_nothing_speaks() {
    let set = ruleset(blocking(), &[]);
    for access in [Access::read(b"/x"), Access::exec(b"/x")] {
        assert_eq!(set.decide(&access), Decision { verdict: Verdict::Allow, by: DecidedBy::NoRule });
    }
}

#[test]
fn moving_a_directory_is_a_write_to_all_that_lies_below() {
    let set = ruleset(
        blocking(),
        &[
            "allow file /data/**",
            "audit file /data/a/log/*",
            "block file /data/a/b/key readOnly",
            "block file /data/c/key from /bin/mv",
            "block file name=key",
        ],
    );
    let renamed = |path: &'static str| by(&set, &Access::rename_directory(path.as_bytes()));
    assert_eq!(renamed("/data/a/b"), "block file /data/a/b/key readOnly");
    assert_eq!(renamed("/data/a"), "block file /data/a/b/key readOnly", "Block before Audit");
    assert_eq!(renamed("/data/a/lo"), "allow file /data/**", "components, not text");
    assert_eq!(renamed("/data/a/log"), "audit file /data/a/log/*", "the directory itself");
    assert_eq!(renamed("/data/c"), "allow file /data/**", "another source");
    let moved = Access::rename_directory(b"/data/c").from(b"/bin/mv");
    assert_eq!(by(&set, &moved), "block file /data/c/key from /bin/mv");
    assert_eq!(renamed("/elsewhere"), "posture");
    // a file, or a directory that stays where it is, takes nothing along
    assert_eq!(by(&set, &Access::write(b"/data/a")), "allow file /data/**");
}
