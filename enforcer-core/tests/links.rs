//! Rulesets with other names of their paths, in the kernel's matcher against [`Ruleset::decide`]: random rules and
//! accesses around directories whose names begin with `..`. Needs root, as the test `doors` does.
#![cfg(feature = "bpf")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use enforcer_core::decide::{Access, DecidedBy};
use enforcer_core::enforce::door::{Doors, Reading};
use enforcer_core::links::{OtherName, Resolution};
use enforcer_core::path::AbsPath;
use enforcer_core::policy::parse;
use enforcer_core::ruleset::{Object, PostureAction, Postures, Ruleset};
use enforcer_core::subject::Subject;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const NAMES: [&str; 7] =
    ["a", "b", "..data", "..2026_11_22", "...", "day", "..a-name-longer-than-a-node-of-the-tree-holds"];

fn path(rng: &mut SmallRng) -> String {
    let depth = rng.random_range(1..5);
    (0..depth).map(|_| format!("/{}", NAMES.choose(rng).unwrap())).collect()
}

fn ruleset(rng: &mut SmallRng) -> Ruleset {
    let mut text =
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p, namespace: d}\n\
                    spec:\n  selector: {}\n  file:\n"
            .to_owned();
    for (list, key, end) in [("matchPaths", "path", ""), ("matchDirectories", "dir", "/")] {
        text += &format!("    {list}:\n");
        for _ in 0..rng.random_range(1..6) {
            let action = ["Allow", "Audit", "Block"].choose(rng).unwrap();
            let more = ["", ", readOnly: true", ", ownerOnly: true"].choose(rng).unwrap();
            let deep = if end.is_empty() || rng.random() { "" } else { ", recursive: true" };
            text += &format!("      - {{{key}: {}{end}, action: {action}{more}{deep}}}\n", path(rng));
        }
    }
    let parsed = parse("p.yaml", &text);
    assert_eq!(parsed.errors, [], "{text}");
    let postures = Postures {
        file: *[PostureAction::Audit, PostureAction::Block].choose(rng).unwrap(),
        ..Postures::default()
    };
    let subject = Subject { namespace: "d".into(), ..Subject::default() };
    Ruleset::resolve(&parsed.policies, &postures, &subject).ruleset
}

/// Mostly a path that a rule names, or one below.
fn object(rng: &mut SmallRng, ruleset: &Ruleset) -> String {
    let of_rule = ruleset.rules().choose(rng).and_then(|rule| match &rule.object {
        Object::Path(path) | Object::Directory { dir: path, .. } => Some(path),
        _ => None,
    });
    let Some(of_rule) = of_rule.filter(|_| rng.random_bool(0.8)) else { return path(rng) };
    let mut text = String::new();
    for name in of_rule.components() {
        let rotating = ["..data", "..2026_11_22", "..another"].choose(rng).unwrap();
        text += &format!("/{}", if name == b".." { rotating } else { std::str::from_utf8(name).unwrap() });
    }
    if rng.random_bool(0.3) { text + &path(rng) } else { text }
}

/// Every component `day` is a link to the directory of the day, `b` is one to `a`.
fn resolve(path: &AbsPath) -> Resolution {
    let target = path.components().fold("/".parse::<AbsPath>().unwrap(), |so_far, name| match name {
        b"day" => so_far.join_rotating().unwrap(),
        b"b" => so_far.join("a").unwrap(),
        name => so_far.join(name).unwrap(),
    });
    let name = OtherName { place: target.clone(), target: target.clone(), via: [].into() };
    Resolution { names: (target != *path).then_some(name).into_iter().collect(), unknown: None }
}

#[test]
fn the_bpf_matcher_knows_every_name() {
    let mut doors = Doors::open(Reading::AsHooks).expect("the kernel loads the matcher (needs root)");
    let mut rng = SmallRng::seed_from_u64(0xda7e);
    let (mut rotating, mut by_rule, mut cases) = (0, 0, 0);
    for _ in 0..400 {
        let ruleset = ruleset(&mut rng).with_links(resolve).ruleset;
        rotating += usize::from(ruleset.links().iter().any(|link| link.target.is_rotating()));
        doors.publish(&ruleset).unwrap();
        for _ in 0..200 {
            let object = object(&mut rng, &ruleset);
            let made = match rng.random_range(0..3) {
                0 => Access::read(object.as_bytes()),
                1 => Access::write(object.as_bytes()),
                _ => Access::rename_directory(object.as_bytes()),
            };
            let access = made.by(1, *[None, Some(1), Some(2)].choose(&mut rng).unwrap());
            let wanted = ruleset.decide(&access);
            let answer = doors.ask(&access).unwrap();
            assert_eq!(answer.decision(), Some(wanted), "{answer:?}\n{ruleset}\n{access:?}\n{object}");
            by_rule += usize::from(matches!(wanted.by, DecidedBy::Rule(_) | DecidedBy::Exempt(_)));
            cases += 1;
        }
    }
    assert!(rotating > 100 && by_rule * 2 > cases, "{rotating} rulesets, {by_rule} of {cases} by a rule");
}
