//! What must hold of `decide` and `resolve` whatever the rules: random rulesets over a small world, in which things
//! meet often.

#![expect(
    clippy::unwrap_used,
    clippy::string_slice,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use enforcer_core::decide::{Access, DecidedBy, Decision, PathAccess, PathClass, Target, Verdict};
use enforcer_core::policy::{Kind, Policy, PolicyId, parse};
use enforcer_core::ruleset::{
    AbsPath, Class, Conditions, Effect, Object, Origin, OriginId, PostureAction, Postures, Rule, Ruleset,
};
use enforcer_core::subject::Subject;
use proptest::prelude::*;
use proptest::sample::select;

// The world: three names, paths of up to four of them.

fn path() -> impl Strategy<Value = AbsPath> {
    prop::collection::vec(select(vec!["a", "b", "c"]), 0..4).prop_map(|names| {
        let text = names.iter().map(|name| format!("/{name}")).collect::<String>();
        if text.is_empty() { "/".parse().unwrap() } else { text.parse().unwrap() }
    })
}

fn source() -> impl Strategy<Value = Option<AbsPath>> {
    select(vec![None, Some("/s"), Some("/t")]).prop_map(|path| path.map(|path| path.parse().unwrap()))
}

fn class() -> impl Strategy<Value = Class> {
    select(vec![Class::File, Class::Process])
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        path().prop_map(Object::Path),
        select(vec!["a", "b", "c"]).prop_map(|name| Object::BaseName(name.to_owned())),
        (path(), any::<bool>()).prop_map(|(dir, recursive)| Object::Directory { dir, recursive }),
    ]
}

fn effect() -> impl Strategy<Value = Effect> {
    select(vec![Effect::Allow, Effect::Audit, Effect::Block])
}

fn rule() -> impl Strategy<Value = Rule> {
    let conditions = (prop::bool::weighted(0.3), prop::bool::weighted(0.3))
        .prop_map(|(read_only, owner_only)| Conditions { read_only, owner_only, ..Conditions::default() });
    (class(), source(), object(), conditions, effect()).prop_map(
        |(class, source, object, conditions, effect)| Rule {
            class,
            source,
            object,
            conditions,
            effect,
            origin: OriginId(0),
        },
    )
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    prop::collection::vec(rule(), 0..8)
}

fn postures() -> impl Strategy<Value = Postures> {
    let action = || select(vec![PostureAction::Allow, PostureAction::Audit, PostureAction::Block]);
    (action(), prop::option::of(action())).prop_map(|(file, process)| Postures {
        file,
        process,
        ..Postures::default()
    })
}

#[derive(Debug, Clone)]
struct Happening {
    class: Class,
    write: bool,
    tree: bool,
    object: AbsPath,
    source: Option<AbsPath>,
    owner: Option<u32>,
}

impl Happening {
    fn access(&self) -> Access<'_> {
        let is_file = self.class == Class::File;
        let path = PathAccess {
            class: if is_file { PathClass::File } else { PathClass::Process },
            path: self.object.as_bytes(),
            write: self.write && is_file,
            // the root is never renamed
            tree: self.tree && self.write && is_file && !self.object.is_root(),
            owner: self.owner,
            args: None,
        };
        let source = self.source.as_ref().map(AbsPath::as_bytes);
        Access { source, uid: 1, ..Access::to(Target::Path(path)) }
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    (class(), any::<bool>(), any::<bool>(), path(), source(), select(vec![None, Some(1), Some(2)])).prop_map(
        |(class, write, tree, object, source, owner)| Happening { class, write, tree, object, source, owner },
    )
}

fn origin_of(rule: &Rule, policy: &str) -> Origin {
    Origin {
        policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "d".into(), name: policy.into() },
        rule: rule.to_string(),
        severity: 1,
        tags: vec![],
        message: String::new(),
        action: rule.effect,
    }
}

fn ruleset(rules: &[Rule], postures: Postures) -> Ruleset {
    let origins = rules.iter().map(|rule| origin_of(rule, "p")).collect();
    let rules = (0..).zip(rules).map(|(id, rule)| Rule { origin: OriginId(id), ..rule.clone() }).collect();
    Ruleset::new(rules, origins, postures).unwrap()
}

type Question = Box<dyn Fn(&Object) -> bool>;

/// The same meaning told another way: what lies below a directory that moves, as text.
fn by_passes(set: &Ruleset, access: &Access<'_>) -> Decision {
    let mut decision = object_by_passes(set, access);
    let Target::Path(path) = access.target else { return decision };
    let below = format!("{}/", std::str::from_utf8(path.path).unwrap());
    let mut rules: Vec<_> =
        set.rules().iter().filter(|rule| path.tree && rule.class == access.class()).collect();
    rules.sort_by_key(|rule| rule.origin);
    for rule in rules {
        let about = match &rule.object {
            Object::Path(path) | Object::Directory { dir: path, .. } => path.to_string(),
            _ => continue,
        };
        let acting = rule.source.as_ref().is_none_or(|path| Some(path.as_bytes()) == access.source);
        if acting && about.starts_with(&below) && Verdict::from(rule.effect) > decision.verdict {
            decision = Decision { verdict: rule.effect.into(), by: DecidedBy::Rule(rule.origin) };
        }
    }
    decision
}

/// The same meaning told another way: as passes over the rules, each narrower question before the wider one.
fn object_by_passes(set: &Ruleset, access: &Access<'_>) -> Decision {
    let path = *access.path().unwrap();
    let text = std::str::from_utf8(path.path).unwrap().to_owned();
    let trimmed = text.trim_end_matches('/').to_owned();
    let name = trimmed.rsplit('/').next().unwrap_or_default().to_owned();
    // The path's own directory reading first, then each parent, up to the root.
    let mut dirs = vec![];
    let mut rest = trimmed.as_str();
    loop {
        dirs.push(if rest.is_empty() { "/".to_owned() } else { rest.to_owned() });
        match rest.rfind('/') {
            Some(slash) => rest = &rest[..slash],
            None => break,
        }
    }
    let mine = path.owner.is_none() || path.owner == Some(access.uid);
    let sources = [access.source.map(|source| Some(source.to_vec())), Some(None)];
    for source in sources.into_iter().flatten() {
        let pass: Vec<_> = set
            .rules()
            .iter()
            .filter(|rule| rule.class == access.class())
            .filter(|rule| rule.source.as_ref().map(|path| path.as_bytes().to_vec()) == source)
            .collect();
        let mut questions: Vec<Question> = vec![];
        let whole = text.clone();
        questions
            .push(Box::new(move |object| matches!(object, Object::Path(path) if path.to_string() == whole)));
        let last = name.clone();
        questions.push(Box::new(
            move |object| matches!(object, Object::BaseName(name) if !last.is_empty() && *name == last),
        ));
        for (up, wanted) in dirs.iter().cloned().enumerate() {
            questions.push(Box::new(move |object| {
                matches!(object, Object::Directory { dir, recursive } if dir.to_string() == wanted && (*recursive || up <= 1))
            }));
        }
        for question in questions {
            let mut best: Option<(u8, OriginId, bool)> = None;
            for rule in pass.iter().filter(|rule| question(&rule.object)) {
                let Conditions { read_only, owner_only, .. } = rule.conditions;
                let (rank, exempt) = match rule.effect {
                    Effect::Allow if (read_only && path.write) || (owner_only && !mine) => continue,
                    Effect::Allow => (0, false),
                    _ if (read_only && !path.write) || (owner_only && mine) => (0, true),
                    Effect::Audit => (1, false),
                    Effect::Block => (2, false),
                };
                if best
                    .is_none_or(|(other, origin, _)| rank > other || (rank == other && rule.origin < origin))
                {
                    best = Some((rank, rule.origin, exempt));
                }
            }
            if let Some((rank, origin, exempt)) = best {
                let verdict = [Verdict::Allow, Verdict::Audit, Verdict::Block][usize::from(rank)];
                let by = if exempt { DecidedBy::Exempt(origin) } else { DecidedBy::Rule(origin) };
                return Decision { verdict, by };
            }
        }
    }
    if set.rules().iter().any(|rule| rule.class == access.class() && rule.effect == Effect::Allow) {
        Decision { verdict: set.posture(access.class()).into(), by: DecidedBy::DefaultPosture }
    } else {
        Decision { verdict: Verdict::Allow, by: DecidedBy::NoRule }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_tellings_of_the_meaning_agree(rules in rules(), postures in postures(), happening in happening()) {
        let set = ruleset(&rules, postures);
        let access = happening.access();
        prop_assert_eq!(set.decide(&access), by_passes(&set, &access));
    }

    #[test]
    fn the_order_of_rules_makes_no_difference(
        (rules, shuffled) in rules().prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
        postures in postures(),
    ) {
        let one = ruleset(&rules, postures);
        let other = ruleset(&shuffled, postures);
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert_eq!(one, other);
    }

    #[test]
    fn a_rule_about_something_else_changes_nothing(
        rules in rules(), postures in postures(), happening in happening(), effect in effect(), class in class(),
    ) {
        let access = happening.access();
        let before = ruleset(&rules, postures);
        let elsewhere = Rule {
            class,
            source: None,
            object: Object::Directory { dir: "/elsewhere".parse().unwrap(), recursive: true },
            conditions: Conditions::default(),
            effect,
            origin: OriginId(0),
        };
        let after = ruleset(&[rules, vec![elsewhere]].concat(), postures);
        // An Allow rule makes its class a whitelist: that is its other effect, on what no rule decides.
        let whitelists = effect == Effect::Allow && class == access.class();
        // (Or on what only rules about something below a moving directory decide.)
        if !(whitelists && (access.path().is_some_and(|path| path.tree) || before.decide(&access).by == DecidedBy::NoRule)) {
            let names = |set: &Ruleset| match set.decide(&access) {
                Decision { verdict, by: DecidedBy::Rule(id) | DecidedBy::Exempt(id) } => {
                    (verdict, set.origin(id).cloned())
                }
                Decision { verdict, .. } => (verdict, None),
            };
            prop_assert_eq!(names(&before), names(&after));
        }
    }

    #[test]
    fn a_plain_block_of_the_same_object_always_wins(
        mut rules in rules(), postures in postures(), happening in happening(),
    ) {
        let block = Rule {
            class: happening.class,
            source: happening.source.clone(),
            object: Object::Path(happening.object.clone()),
            conditions: Conditions::default(),
            effect: Effect::Block,
            origin: OriginId(0),
        };
        rules.push(block);
        prop_assert_eq!(ruleset(&rules, postures).decide(&happening.access()).verdict, Verdict::Block);
    }

    #[test]
    fn what_decides_does_so_alone(rules in rules(), postures in postures(), happening in happening()) {
        let access = happening.access();
        let set = ruleset(&rules, postures);
        let Decision { verdict, by } = set.decide(&access);
        if let DecidedBy::Rule(id) | DecidedBy::Exempt(id) = by {
            let text = set.origin(id).unwrap().rule.clone();
            let alone: Vec<_> = rules.into_iter().filter(|rule| rule.to_string() == text).collect();
            prop_assert_eq!(ruleset(&alone, postures).decide(&access).verdict, verdict);
        }
    }

    #[test]
    fn equal_digests_mean_equal_rulesets(one in rules(), other in rules(), postures in postures()) {
        let (one, other) = (ruleset(&one, postures), ruleset(&other, postures));
        prop_assert_eq!(one.digest() == other.digest(), one == other);
    }
}

fn examples() -> Vec<Policy> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/policies");
    let mut policies = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        policies.extend(parse("example", &text).policies);
    }
    assert!(policies.len() > 10);
    policies
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_policies_makes_no_difference(shuffled in Just(examples()).prop_shuffle()) {
        let ordered = examples();
        for (namespace, labels) in [("default", [("app", "my-web-app")]), ("shop", [("app", "checkout")]), ("web", [("app", "uploads")])] {
            let subject = Subject {
                namespace: namespace.into(),
                labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
                ..Subject::default()
            };
            let resolve = |policies: &[Policy]| Ruleset::resolve(policies, &Postures::default(), &subject);
            prop_assert!(!resolve(&ordered).ruleset.is_empty());
            prop_assert_eq!(resolve(&ordered), resolve(&shuffled));
            // Named twice is named once.
            let twice = [&ordered[..], &shuffled[..]].concat();
            prop_assert_eq!(resolve(&ordered), resolve(&twice));
        }
    }
}
