//! What must hold of `decide` and `resolve` whatever the rules: random rulesets of every class over a small world, and
//! the meaning told a second time.

#![expect(
    clippy::unwrap_used,
    clippy::string_slice,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../../fuzz/naive.rs"]
mod naive;
mod telling;
mod world;

use enforcer_core::decide::{DecidedBy, Decision, Verdict};
use enforcer_core::policy::{Policy, parse};
use enforcer_core::ruleset::{Class, Conditions, Effect, Object, OriginId, Postures, Rule, Ruleset};
use enforcer_core::subject::Subject;
use proptest::prelude::*;
use proptest::sample::select;
use telling::by_passes;
use world::{What, effect, happening, postures, rules, ruleset};

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
        rules in rules(), postures in postures(), happening in happening(), effect in effect(),
        class in select(vec![Class::File, Class::Process]),
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
        let access = happening.access();
        let object = match &happening.what {
            What::Path { path, .. } => Object::Path(path.clone()),
            What::Capability(capability) => Object::Capability(*capability),
            What::Preset(preset) => Object::Preset(*preset),
            // an address has narrower rules than any of its own could be, and a system call is never blocked
            What::Socket(_) | What::Syscall(_) => return Ok(()),
        };
        let block = Rule {
            class: access.class(),
            source: happening.source.clone().filter(|_| access.class() != Class::Preset),
            object,
            conditions: Conditions::default(),
            effect: Effect::Block,
            origin: OriginId(0),
        };
        rules.push(block);
        prop_assert_eq!(ruleset(&rules, postures).decide(&access).verdict, Verdict::Block);
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
