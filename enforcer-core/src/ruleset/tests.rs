use std::collections::BTreeSet;

use super::*;
use crate::capability::Capability;
use crate::network::{Endpoint, Protocol};
use crate::policy::Kind;
use crate::preset::Preset;
use crate::syscall::Syscall;

fn origin(name: &str, rule: &str, action: Effect) -> Origin {
    Origin {
        policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "default".into(), name: name.into() },
        rule: rule.into(),
        severity: 1,
        tags: vec![],
        message: String::new(),
        action,
    }
}

fn file(path: &str, effect: Effect, origin: u32) -> Rule {
    Rule {
        class: Class::File,
        source: None,
        object: Object::Path(path.parse().unwrap()),
        conditions: Conditions::default(),
        effect,
        origin: OriginId(origin),
    }
}

#[test]
fn the_order_of_rules_and_origins_does_not_matter() {
    let a = origin("a", "spec.file.matchPaths[0]", Effect::Block);
    let b = origin("b", "spec.file.matchPaths[0]", Effect::Allow);
    let one = Ruleset::new(
        vec![file("/x", Effect::Block, 0), file("/y", Effect::Allow, 1)],
        vec![a.clone(), b.clone()],
        Postures::default(),
    )
    .unwrap();
    let other = Ruleset::new(
        vec![file("/y", Effect::Allow, 0), file("/x", Effect::Block, 2), file("/x", Effect::Block, 1)],
        vec![b, a.clone(), a],
        Postures::default(),
    )
    .unwrap();
    assert_eq!(one, other);
    assert_eq!(one.digest(), other.digest());
    assert_eq!(one.rules().len(), 2);
}

#[test]
fn unused_origins_are_left_out() {
    let ruleset = Ruleset::new(
        vec![file("/x", Effect::Block, 1)],
        vec![origin("a", "r", Effect::Block), origin("b", "r", Effect::Block)],
        Postures::default(),
    )
    .unwrap();
    assert_eq!(ruleset.origins().len(), 1);
    let id = ruleset.rules()[0].origin;
    assert_eq!(ruleset.origin(id).unwrap().policy.name, "b");
    assert_eq!(ruleset.origin(OriginId(1)), None);
}

#[test]
fn a_posture_counts_only_where_there_is_an_allow_rule() {
    let block = Postures::default().with(Class::File, PostureAction::Block);
    let make = |effect, postures| {
        Ruleset::new(vec![file("/x", effect, 0)], vec![origin("a", "r", effect)], postures).unwrap()
    };
    let plain = make(Effect::Block, block);
    assert!(!plain.whitelisted(Class::File));
    assert_eq!(plain.posture(Class::File), PostureAction::Allow);
    assert_eq!(plain, make(Effect::Block, Postures::default()));

    let whitelist = make(Effect::Allow, block);
    assert!(whitelist.whitelisted(Class::File) && !whitelist.whitelisted(Class::Process));
    assert_eq!(whitelist.posture(Class::File), PostureAction::Block);
    assert_eq!(whitelist.posture(Class::Process), PostureAction::Allow);
    assert_ne!(whitelist.digest(), make(Effect::Allow, Postures::default()).digest());
}

#[test]
fn a_whitelist_without_rules_is_not_nothing() {
    let block = Postures::default().with(Class::File, PostureAction::Block);
    let nothing = Ruleset::new(vec![], vec![], block).unwrap();
    assert!(nothing.is_empty());
    let closed = Ruleset::with_whitelists(vec![], vec![], block, &[Class::File]).unwrap();
    assert!(!closed.is_empty() && closed.whitelisted(Class::File) && !closed.whitelisted(Class::Process));
    assert_eq!(closed.posture(Class::File), PostureAction::Block);
    assert_ne!(closed.digest(), nothing.digest());
}

#[test]
fn the_digest_covers_every_field() {
    let base_origin = origin("a", "r", Effect::Block);
    let base_rule = file("/x", Effect::Block, 0);
    let digest = |rule: Rule, origin: Origin| {
        Ruleset::new(vec![rule], vec![origin], Postures::default()).unwrap().digest()
    };
    let path = |text: &str| text.parse::<AbsPath>().unwrap();
    let mut digests = vec![digest(base_rule.clone(), base_origin.clone())];
    let rules: [fn(&mut Rule); 4] = [
        |rule| rule.class = Class::Process,
        |rule| rule.conditions.read_only = true,
        |rule| rule.conditions.owner_only = true,
        |rule| rule.object = Object::BaseName("x".into()),
    ];
    for change in rules {
        let mut rule = base_rule.clone();
        change(&mut rule);
        digests.push(digest(rule, base_origin.clone()));
    }
    for object in [
        Object::Path(path("/y")),
        Object::Directory { dir: path("/x"), recursive: false },
        Object::Directory { dir: path("/x"), recursive: true },
    ] {
        digests.push(digest(Rule { object, ..base_rule.clone() }, base_origin.clone()));
    }
    digests.push(digest(Rule { source: Some(path("/x")), ..base_rule.clone() }, base_origin.clone()));
    digests.push(digest(
        Rule { effect: Effect::Audit, ..base_rule.clone() },
        Origin { action: Effect::Audit, ..base_origin.clone() },
    ));
    let origins: [fn(&mut Origin); 8] = [
        |origin| origin.policy.name = "b".into(),
        |origin| origin.policy.namespace = "b".into(),
        |origin| origin.policy.kind = Kind::KubeArmorHostPolicy,
        |origin| origin.rule = "s".into(),
        |origin| origin.severity = 2,
        |origin| origin.tags = vec!["t".into()],
        |origin| origin.tags = vec!["t".into(), String::new()],
        |origin| origin.message = "m".into(),
    ];
    for change in origins {
        let mut origin = base_origin.clone();
        change(&mut origin);
        digests.push(digest(base_rule.clone(), origin));
    }
    let count = digests.len();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), count, "two different rulesets share a digest");
}

#[test]
fn the_digest_is_stable() {
    // It is stored in containers' annotations and in pinned maps: a change needs a new VERSION.
    let ruleset = Ruleset::new(
        vec![file("/etc/passwd", Effect::Block, 0)],
        vec![origin("a", "spec.file.matchPaths[0]", Effect::Block)],
        Postures::default(),
    )
    .unwrap();
    assert_eq!(ruleset.digest().to_string().len(), 64);
    assert_eq!(
        ruleset.digest().to_string(),
        "4ea214f5d90afe0eb3fd7508c425ecb44045e3a0217057a592e666963f38d28e"
    );
    assert_eq!(RulesetDigest::from_bytes(*ruleset.digest().as_bytes()), ruleset.digest());
}

#[test]
fn refused() {
    let new = |rule: Rule, origin: Origin| Ruleset::new(vec![rule], vec![origin], Postures::default());
    let block = origin("a", "r", Effect::Block);
    assert_eq!(new(file("/x", Effect::Block, 7), block.clone()), Err(InvalidRule::UnknownOrigin(7)));
    assert_eq!(
        new(file("/x", Effect::Allow, 0), block.clone()),
        Err(InvalidRule::OtherAction { effect: Effect::Allow, action: Effect::Block })
    );
    for name in ["", "a/b", "a\0"] {
        let rule = Rule { object: Object::BaseName(name.into()), ..file("/x", Effect::Block, 0) };
        assert_eq!(new(rule, block.clone()), Err(InvalidRule::BaseName(name.into())));
    }
    for class in [Class::Network, Class::Capability, Class::Syscall, Class::Preset] {
        let rule = Rule { class, ..file("/x", Effect::Block, 0) };
        assert_eq!(new(rule, block.clone()), Err(InvalidRule::NoSuchObject { class, object: "/x".into() }));
    }
    let audit = origin("a", "r", Effect::Audit);
    let about = |class, object| Rule { class, object, ..file("/x", Effect::Audit, 0) };
    let preset = about(Class::Preset, Object::Preset(Preset::Exec));
    let syscall = about(Class::Syscall, Object::Syscall(Syscall::by_name("unlink").unwrap()));
    let socket = about(Class::Network, Object::Sockets(Protocol::Tcp));
    for rule in [&preset, &syscall, &socket] {
        assert!(new(rule.clone(), audit.clone()).is_ok());
        let owner = Conditions { owner_only: true, ..Conditions::default() };
        let rule = Rule { conditions: owner, ..rule.clone() };
        assert_eq!(new(rule.clone(), audit.clone()), Err(InvalidRule::NoSuchCondition(rule.class)));
    }
    let source = Some("/s".parse().unwrap());
    let sourced = Rule { source, ..preset.clone() };
    assert_eq!(new(sourced, audit), Err(InvalidRule::NoSuchCondition(Class::Preset)));
    let args = Some(Args::new(["x".to_owned()]));
    let with_args =
        Rule { conditions: Conditions { args, ..Conditions::default() }, ..file("/x", Effect::Block, 0) };
    assert_eq!(new(with_args, block.clone()), Err(InvalidRule::NoSuchCondition(Class::File)));
    for (rule, effect) in [(&preset, Effect::Allow), (&syscall, Effect::Block)] {
        let class = rule.class;
        let rule = Rule { effect, ..rule.clone() };
        assert_eq!(new(rule, origin("a", "r", effect)), Err(InvalidRule::NoSuchEffect { class, effect }));
    }
}

#[test]
fn every_part_of_a_rule_is_in_the_digest() {
    let net = |text: &str| Some(text.parse().unwrap());
    let endpoint = |net, ports: &str, protocol| Endpoint { net, ports: ports.parse().unwrap(), protocol };
    let objects = [
        Object::Sockets(Protocol::Tcp),
        Object::Sockets(Protocol::Udp),
        Object::Destination(endpoint(None, "1", None)),
        Object::Listener(endpoint(None, "1", None)),
        Object::Listener(endpoint(None, "1-2", None)),
        Object::Listener(endpoint(net("0.0.0.0/0"), "1", None)),
        Object::Listener(endpoint(net("::/0"), "1", None)),
        Object::Listener(endpoint(net("10.0.0.0/8"), "1", None)),
        Object::Listener(endpoint(net("10.0.0.0/9"), "1", None)),
        Object::Listener(endpoint(net("10.0.0.0/9"), "1", Some(Protocol::Tcp))),
        Object::Capability(Capability::by_name("chown").unwrap()),
        Object::Capability(Capability::by_name("kill").unwrap()),
        Object::Syscall(Syscall::by_name("kill").unwrap()),
        Object::Preset(Preset::Exec),
        Object::Preset(Preset::ProtectEnv),
        Object::Pattern("/a*".parse().unwrap()),
        Object::Pattern("/a**".parse().unwrap()),
        Object::Path("/a*".parse().unwrap()),
    ];
    let class = |object: &Object| Class::ALL.into_iter().rev().find(|class| object.fits(*class)).unwrap();
    let mut rules: Vec<_> = objects
        .into_iter()
        .map(|object| Rule { class: class(&object), object, ..file("/a", Effect::Audit, 0) })
        .collect();
    let process = Rule { class: Class::Process, ..file("/a", Effect::Audit, 0) };
    let args = |args: &[&str]| Some(Args::new(args.iter().map(|arg| (*arg).to_owned())));
    for conditions in [
        Conditions { no_terminal: true, ..Conditions::default() },
        Conditions { args: args(&[]), ..Conditions::default() },
        Conditions { args: args(&["a", "b"]), ..Conditions::default() },
        Conditions { args: args(&["ab"]), ..Conditions::default() },
    ] {
        rules.push(Rule { conditions, ..process.clone() });
    }
    rules.push(process);
    let digests: BTreeSet<_> = rules
        .iter()
        .map(|rule| {
            let origins = vec![origin("a", "r", Effect::Audit)];
            Ruleset::new(vec![rule.clone()], origins, Postures::default()).unwrap().digest()
        })
        .collect();
    assert_eq!(digests.len(), rules.len());
}

#[test]
fn audited_denies_nothing_and_keeps_the_rest() {
    let block = Postures::default().with(Class::File, PostureAction::Block);
    let rules = Ruleset::new(
        vec![file("/x", Effect::Block, 0), file("/y", Effect::Allow, 1), file("/z", Effect::Audit, 2)],
        vec![
            origin("a", "r0", Effect::Block),
            origin("a", "r1", Effect::Allow),
            origin("a", "r2", Effect::Audit),
        ],
        block,
    )
    .unwrap();
    let audited = rules.audited();
    let effects = |rules: &Ruleset| {
        rules.rules().iter().map(|rule| (rule.object.to_string(), rule.effect)).collect::<Vec<_>>()
    };
    assert_eq!(
        effects(&audited),
        [("/x".into(), Effect::Audit), ("/y".into(), Effect::Allow), ("/z".into(), Effect::Audit)]
    );
    assert_eq!(audited.posture(Class::File), PostureAction::Audit);
    assert!(audited.rules().iter().all(|rule| audited.origin(rule.origin).unwrap().action == rule.effect));
    assert_eq!(audited.audited(), audited);
}

#[test]
fn visibility_changes_what_is_seen_and_nothing_else() {
    let none = || Ruleset::new(vec![], vec![], Postures::default()).unwrap();
    let seen = none().observing(Visibility::ALL);
    assert!(seen.only_observes() && !seen.is_empty() && none().is_empty() && !none().only_observes());
    assert!(!seen.whitelisted(Class::File) && seen.observes(Class::File) && !seen.observes(Class::Syscall));
    assert_ne!(seen.digest(), none().digest());
    assert_ne!(seen.digest(), none().observing(Visibility::of([Class::File])).digest());
    assert_eq!(none().observing(Visibility::NONE), none());
    assert_eq!(seen.clone().observing(Visibility::NONE), none());
    assert!(seen.to_string().contains("observe file otherwise [visibility]"), "{seen}");
    // what the posture does not let through is reported or denied anyway, in its own name
    for (posture, observed) in
        [(PostureAction::Allow, true), (PostureAction::Audit, false), (PostureAction::Block, false)]
    {
        let whitelist = Ruleset::new(
            vec![file("/x", Effect::Allow, 0)],
            vec![origin("a", "r0", Effect::Allow)],
            Postures::default().with(Class::File, posture),
        );
        let whitelist = whitelist.unwrap();
        let seen = whitelist.clone().observing(Visibility::ALL);
        assert_eq!(seen.observes(Class::File), observed, "{posture}");
        assert!(seen.observes(Class::Process) && !seen.only_observes());
        assert_eq!(seen.audited().observes(Class::File), observed, "{posture}");
        for path in [b"/x", b"/y"] {
            let access = crate::decide::Access::read(path);
            assert_eq!(seen.decide(&access), whitelist.decide(&access));
        }
        let more = seen.with_more(vec![file("/z", Effect::Allow, 0)], vec![]);
        assert_eq!(more.observes(Class::File), observed, "links change nothing");
    }
}
