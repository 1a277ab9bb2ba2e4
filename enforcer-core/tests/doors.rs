//! The BPF matcher against [`Ruleset::decide`]: random rulesets, random accesses, every answer compared.
//!
//! Runs the programs in this machine's own kernel through `SEC("syscall")` doors, so it needs root. `DOOR_CASES`
//! sets the number of comparisons (default 1,000,000), `DOOR_SEED` repeats a run.
#![cfg(feature = "bpf")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use enforcer_core::compile::bpf::CompileError;
use enforcer_core::decide::{Access, DecidedBy, Decision, PathAccess, PathClass, Target, Verdict};
use enforcer_core::enforce::EnforceError;
use enforcer_core::enforce::door::{Doors, Reading};
use enforcer_core::path::AbsPath;
use enforcer_core::pattern::Pattern;
use enforcer_core::policy::{Kind, PolicyId};
use enforcer_core::ruleset::{
    Args, Class, Conditions, Effect, Object, Origin, OriginId, PostureAction, Postures, Rule, Ruleset,
};
use enforcer_core::visibility::Visibility;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Few names, so that rules and accesses meet; some odd: long ones round the sizes that the matcher treats apart, one
/// that begins like another, bytes that are no UTF-8, NAME_MAX.
fn names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> =
        ["a", "b", "c", "etc", "passwd", "bin", "sh", "x.y", " ", "ä", "...", "-rf"]
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
    for len in
        [7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 63, 64, 65, 95, 96, 97, 128, 159, 160, 161, 224, 254, 255]
    {
        names.push(vec![b'n'; len]);
        let mut other = vec![b'n'; len];
        *other.last_mut().unwrap() = b'm';
        names.push(other);
    }
    names.push(vec![0xff, 0xfe, 1, b'\n', b'\\']);
    names
}

struct World {
    rng: SmallRng,
    names: Vec<Vec<u8>>,
}

impl World {
    fn path(&mut self) -> Vec<u8> {
        let depth = *[0, 1, 1, 2, 2, 2, 3, 3, 4, 5, 8].choose(&mut self.rng).unwrap();
        self.path_of(depth)
    }

    fn path_of(&mut self, depth: usize) -> Vec<u8> {
        let few = self.rng.random_bool(0.8);
        let mut path = Vec::new();
        for _ in 0..depth {
            let pool = if few { &self.names[..4] } else { &self.names[..] };
            let name = pool.choose(&mut self.rng).unwrap();
            if path.len() + 1 + name.len() > 4095 {
                break;
            }
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        path
    }

    /// 200 components, or 4,095 bytes, or 2,047 components.
    fn long_path(&mut self) -> Vec<u8> {
        match self.rng.random_range(0..3) {
            0 => self.path_of(200),
            1 => {
                let mut path = self.path_of(60);
                while path.len() < 4095 {
                    let room = 4095 - path.len() - 1;
                    if room == 0 {
                        break;
                    }
                    path.push(b'/');
                    path.extend(std::iter::repeat_n(b'z', room.min(255)));
                }
                path
            }
            _ => b"/a".repeat(2047),
        }
    }

    fn source(&mut self) -> Vec<u8> {
        loop {
            let depth = self.rng.random_range(1..3);
            let path = self.path_of(depth);
            if path.len() > 1 {
                return path;
            }
        }
    }

    fn ruleset(&mut self) -> Ruleset {
        let count = *[0, 1, 2, 3, 5, 8, 20, 60].choose(&mut self.rng).unwrap();
        // Rules that can be told by a path's first component and its end: mostly allowed directories, and patterns
        // that may match anywhere.
        let near = self.rng.random_bool(0.3);
        let mut rules = Vec::new();
        let mut origins = Vec::new();
        for n in 0..count {
            let class = *[Class::File, Class::File, Class::Process].choose(&mut self.rng).unwrap();
            let mut effect = *[Effect::Allow, Effect::Audit, Effect::Block].choose(&mut self.rng).unwrap();
            if near && self.rng.random_bool(0.7) {
                effect = Effect::Allow;
            }
            let long = self.rng.random_bool(0.02);
            let path = if long { self.long_path() } else { self.path() };
            let top = path.iter().skip(1).position(|b| *b == b'/').map_or(path.len(), |end| end + 1);
            let applet = class == Class::Process && self.rng.random_bool(if near { 0.05 } else { 0.3 });
            let object = match self.rng.random_range(0..13) {
                _ if applet => {
                    Object::Applet { program: AbsPath::new(&path).unwrap(), name: self.applet().into() }
                }
                0..4 if near => Object::Directory {
                    dir: AbsPath::new(path.get(..top).unwrap()).unwrap(),
                    recursive: self.rng.random_bool(0.9),
                },
                4..6 if near => {
                    let name =
                        String::from_utf8_lossy(self.names.choose(&mut self.rng).unwrap()).into_owned();
                    let end = name.char_indices().nth_back(1).map_or(0, |(at, _)| at);
                    let end = name.get(end..).unwrap_or("a");
                    format!("/**/*{end}")
                        .parse()
                        .map_or_else(|_| Object::Pattern("/**/*a".parse().unwrap()), Object::Pattern)
                }
                10.. => Object::Pattern(self.pattern(&path)),
                0..4 => Object::Path(AbsPath::new(&path).unwrap()),
                4..6 => Object::BaseName(
                    String::from_utf8_lossy(self.names.choose(&mut self.rng).unwrap()).into_owned(),
                ),
                _ => Object::Directory { dir: AbsPath::new(&path).unwrap(), recursive: self.rng.random() },
            };
            let source = (!near && self.rng.random_bool(0.3)).then(|| AbsPath::new(self.source()).unwrap());
            let odd = if near { 0.03 } else { 0.2 };
            let conditions = Conditions {
                read_only: self.rng.random_bool(odd),
                owner_only: self.rng.random_bool(odd),
                no_terminal: self.rng.random_bool(odd),
                args: (class == Class::Process && self.rng.random_bool(if near { 0.05 } else { 0.5 }))
                    .then(|| self.list()),
            };
            origins.push(Origin {
                policy: PolicyId {
                    kind: Kind::KubeArmorPolicy,
                    namespace: "ns".into(),
                    name: format!("p{}", n % 7),
                },
                rule: format!("rule[{n:03}]"),
                severity: 1,
                tags: vec![],
                message: String::new(),
                action: effect,
            });
            let origin = OriginId(u32::try_from(n).unwrap());
            rules.push(Rule { class, source, object, conditions, effect, origin });
        }
        let mut posture = || {
            *[PostureAction::Allow, PostureAction::Audit, PostureAction::Block].choose(&mut self.rng).unwrap()
        };
        let postures = Postures {
            file: posture(),
            network: posture(),
            capabilities: posture(),
            process: Some(posture()),
        };
        let observed =
            Visibility::of([Class::File, Class::Process].into_iter().filter(|_| self.rng.random_bool(0.2)));
        Ruleset::new(rules, origins, postures).unwrap().observing(observed)
    }

    /// A few arguments; some are long, and begin like others.
    fn list(&mut self) -> Args {
        let count = self.rng.random_range(1..6);
        Args::new((0..count).map(|_| self.arg()))
    }

    fn arg(&mut self) -> String {
        const LONG: [usize; 10] = [8, 31, 33, 247, 248, 249, 256, 496, 497, 1024];
        match self.rng.random_range(0..12) {
            0 => String::new(),
            1 => "/".into(),
            2 => format!(
                "{}{}",
                "o".repeat(*LONG.choose(&mut self.rng).unwrap() - 1),
                self.rng.random_range(0..2)
            ),
            n => ["-c", "-m", "x", "..", "--a-longer-option=value"][n % 5].into(),
        }
    }

    fn applet(&mut self) -> String {
        let long = "w".repeat(*[247, 248].choose(&mut self.rng).unwrap());
        ["sh", "wget", "-c", "x", "ls", &long].choose(&mut self.rng).unwrap().to_string()
    }

    /// How a program is called: as an applet, as busybox itself, by odd names.
    fn argv0(&mut self) -> Vec<u8> {
        let name = self.applet();
        match self.rng.random_range(0..8) {
            0 => "busybox".into(),
            1 => "/a-b/busybox.static".into(),
            2 => format!("-{name}").into(),
            3 => format!("--{name}").into(),
            4 => format!("/bin//{name}").into(),
            5 => [String::new(), "-".into(), "/".into(), format!("{name}/")]
                .choose(&mut self.rng)
                .unwrap()
                .clone()
                .into(),
            _ => name.into(),
        }
    }

    /// Mostly arguments that some rule lists; seldom more than are looked at.
    fn given(&mut self, ruleset: &Ruleset) -> Vec<Vec<u8>> {
        let lists: Vec<_> = ruleset.rules().iter().filter_map(|rule| rule.conditions.args.clone()).collect();
        let count = match self.rng.random_range(0..200) {
            0 => self.rng.random_range(10..3000),
            n => n % 5,
        };
        let list = lists.choose(&mut self.rng);
        let mut args: Vec<Vec<u8>> = Vec::new();
        while self.rng.random_bool(0.1) {
            args.push(self.argv0());
        }
        for _ in 0..count {
            let listed = list.and_then(|list| list.as_slice().choose(&mut self.rng));
            args.push(listed.cloned().unwrap_or_else(|| self.arg()).into());
        }
        if self.rng.random_bool(0.3) && !args.is_empty() {
            let at = self.rng.random_range(0..args.len());
            args[at] = self.arg().into();
        }
        args
    }

    /// A path in which something has become a wildcard, so that paths of other rules meet it.
    fn pattern(&mut self, path: &[u8]) -> Pattern {
        let path = String::from_utf8_lossy(path).replace(['\\', '*', '?', '[', ']', '{', '}', ','], "x");
        let names: Vec<&str> = path.split('/').skip(1).take(6).collect();
        let at = self.rng.random_range(0..names.len());
        let wild = |rng: &mut SmallRng, name: &str| {
            let (head, tail) = name.split_at(name.char_indices().nth(1).map_or(name.len(), |(at, _)| at));
            match rng.random_range(0..9) {
                0 => "*".to_owned(),
                1 => "**".to_owned(),
                2 => format!("?{tail}"),
                3 => format!("[a-n]{tail}"),
                4 => format!("[!bp]{tail}"),
                5 => format!("{{{name},b,c*}}"),
                6 => format!("{head}*"),
                7 => format!("*{tail}"),
                _ => format!("{name}**"),
            }
        };
        let mut text = String::new();
        for (index, name) in names.iter().enumerate() {
            text.push('/');
            match index == at || self.rng.random_bool(0.2) {
                true => text += &wild(&mut self.rng, name),
                false => text += name,
            }
        }
        if self.rng.random_bool(0.1) {
            text = format!("**{text}");
        }
        let end = (0..=text.len().min(1000)).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.parse().unwrap_or_else(|_| "/a*".parse().unwrap())
    }

    /// Mostly near the rules: a rule's own path, one above, one below, or any.
    fn object(&mut self, ruleset: &Ruleset) -> Vec<u8> {
        let near = ruleset.rules().choose(&mut self.rng);
        let mut path = match near.map(|rule| &rule.object) {
            Some(
                Object::Path(path)
                | Object::Directory { dir: path, .. }
                | Object::Applet { program: path, .. },
            ) if self.rng.random_bool(0.6) => path.as_bytes().to_vec(),
            Some(Object::BaseName(name)) if self.rng.random_bool(0.6) => {
                let mut path = self.path();
                path.push(b'/');
                path.extend_from_slice(name.as_bytes());
                AbsPath::new(path).unwrap().as_bytes().to_vec()
            }
            _ if self.rng.random_bool(0.02) => self.long_path(),
            _ => self.path(),
        };
        match self.rng.random_range(0..10) {
            0 => path.truncate(path.iter().rposition(|b| *b == b'/').unwrap_or(0).max(1)),
            1..4 => {
                let more = self.path();
                if path.len() + more.len() <= 4095 && more.len() > 1 {
                    if path.len() == 1 {
                        path.clear();
                    }
                    path.extend(more);
                }
            }
            _ => {}
        }
        path
    }
}

/// `ARGS_BYTES`
const ARGS_BYTES: usize = 12_288;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn the_bpf_matcher_decides_as_decide_does() {
    compare(Reading::AsHooks, number("DOOR_CASES", 1_000_000));
}

/// The way of kernels before 6.2.
#[test]
fn the_bpf_matcher_that_copies_decides_as_decide_does() {
    compare(Reading::Copying, number("DOOR_CASES", 1_000_000) / 4);
}

/// What the matcher answers: where visibility is asked for, what passes by no rule is reported.
fn observed(ruleset: &Ruleset, access: &Access<'_>) -> Decision {
    let decision = ruleset.decide(access);
    match decision.by {
        DecidedBy::NoRule | DecidedBy::DefaultPosture if ruleset.observes(access.class()) => {
            assert_eq!(decision.verdict, Verdict::Allow);
            Decision { verdict: Verdict::Audit, by: DecidedBy::NoRule }
        }
        _ => decision,
    }
}

fn compare(reading: Reading, cases: u64) {
    let seed = number("DOOR_SEED", 0x5eed);
    let mut doors = Doors::open(reading).expect("the kernel loads the matcher (needs root)");
    let mut world = World { rng: SmallRng::seed_from_u64(seed), names: names() };
    let mut done = 0;
    let (mut decided, mut passed, mut quickly, mut refused) = (0, 0, 0, 0);
    let (mut by_args, mut by_name, mut unseen) = (0, 0, 0);
    while done < cases {
        let ruleset = world.ruleset();
        match doors.publish(&ruleset) {
            // A long name in a pattern that may begin anywhere can make one that no block holds.
            Err(EnforceError::Compile(CompileError::PatternTooComplex { .. }))
                if refused < cases / 50_000 =>
            {
                refused += 1;
                continue;
            }
            published => published.unwrap(),
        }
        for _ in 0..500 {
            let object = world.object(&ruleset);
            let named = ruleset.rules().iter().filter_map(|rule| rule.source.as_ref()).collect::<Vec<_>>();
            let source = match world.rng.random_range(0..3) {
                0 => None,
                1 => Some(world.source()),
                _ => named.choose(&mut world.rng).map(|path| path.as_bytes().to_vec()),
            };
            let class =
                *[PathClass::File, PathClass::File, PathClass::Process].choose(&mut world.rng).unwrap();
            let given = world.given(&ruleset);
            let given: Vec<&[u8]> = given.iter().map(Vec::as_slice).collect();
            let argv0 = world.argv0();
            let known = class == PathClass::Process && world.rng.random_bool(0.9);
            let path = PathAccess {
                class,
                path: &object,
                write: world.rng.random(),
                tree: world.rng.random_bool(0.3),
                owner: *[None, Some(1000), Some(0)].choose(&mut world.rng).unwrap(),
                argv0: known.then_some(&argv0[..]),
                args: known.then_some(&given[..]),
            };
            let terminal = world.rng.random();
            let access =
                Access { source: source.as_deref(), uid: 1000, terminal, ..Access::to(Target::Path(path)) };
            let answer = doors.ask(&access).unwrap();
            // what is longer than what is looked at is on no list
            let long = argv0.len() + 1 + given.iter().map(|arg| arg.len() + 1).sum::<usize>() > ARGS_BYTES;
            let cut: Vec<&[u8]> = given.iter().copied().take(20).chain([&b"unlisted"[..]]).collect();
            let seen = if long && known { access.with_args(&cut) } else { access };
            let wanted = observed(&ruleset, &seen);
            assert!(long || !answer.unseen);
            let listed = ruleset.rules().iter().any(|rule| rule.conditions.args.is_some());
            by_args +=
                u64::from(known && listed && wanted != observed(&ruleset, &access.with_args(&[b"unlisted"])));
            by_name += u64::from(known && wanted != observed(&ruleset, &seen.called(b"nothing")));
            unseen += u64::from(answer.unseen);
            assert_eq!(
                answer.decision(),
                Some(wanted),
                "seed {seed:#x}, case {done}, answer {answer:?}\n{ruleset}\n{access:?}\nobject {}",
                object.escape_ascii()
            );
            if answer.passes {
                assert_eq!(
                    wanted.verdict,
                    Verdict::Allow,
                    "seed {seed:#x}, case {done}\n{ruleset}\n{access:?}"
                );
            }
            passed += u64::from(wanted.verdict == Verdict::Allow);
            quickly += u64::from(answer.passes);
            decided += u64::from(!matches!(wanted.by, DecidedBy::NoRule));
            done += 1;
        }
    }
    assert!(by_args * 300 > done && unseen > 0, "{by_args} decided by arguments, {unseen} of them too long");
    assert!(by_name * 4000 > done, "{by_name} decided by the name of an applet");
    assert!(decided * 4 > done, "only {decided} of {done} accesses met a rule or a posture");
    let wanted = if reading == Reading::AsHooks { passed / 4 } else { 0 };
    assert!(quickly >= wanted, "the short way passed {quickly} of {passed}");
    println!("{quickly} of {passed} passed in the short way");
    println!("{done} accesses compared, {decided} of them decided by a rule or a posture");
}

#[test]
fn what_is_no_path_is_unresolved_and_not_allowed() {
    let mut doors = Doors::open(Reading::AsHooks).expect("the kernel loads the matcher (needs root)");
    let mut world = World { rng: SmallRng::seed_from_u64(1), names: names() };
    let ruleset = loop {
        let ruleset = world.ruleset();
        if ruleset.rules().iter().any(|rule| rule.class == Class::File && rule.source.is_none()) {
            break ruleset;
        }
    };
    doors.publish(&ruleset).unwrap();
    // a component longer than NAME_MAX cannot exist; the matcher must say so rather than match a part of it
    let object = [b"/".as_slice(), &[b'q'; 256]].concat();
    assert_eq!(doors.ask(&Access::read(&object)).unwrap().decision(), None);
    doors.withdraw().unwrap();
    assert_eq!(doors.ask(&Access::read(b"/a")).unwrap().decision(), None, "no such ruleset");
}

/// The root has no components, and a pattern can be about it.
#[test]
fn a_pattern_of_the_root_is_about_the_root_alone() {
    let mut doors = Doors::open(Reading::AsHooks).expect("the kernel loads the matcher (needs root)");
    let origin = Origin {
        policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "ns".into(), name: "p".into() },
        rule: "rule".into(),
        severity: 1,
        tags: vec![],
        message: String::new(),
        action: Effect::Allow,
    };
    let rule = Rule {
        class: Class::File,
        source: None,
        object: Object::Pattern("/".parse().unwrap()),
        conditions: Conditions { read_only: true, ..Conditions::default() },
        effect: Effect::Allow,
        origin: OriginId(0),
    };
    let block = Postures::default().with(Class::File, PostureAction::Block);
    let ruleset = Ruleset::new(vec![rule], vec![origin], block).unwrap();
    doors.publish(&ruleset).unwrap();
    for access in [Access::read(b"/"), Access::write(b"/"), Access::read(b"/a"), Access::read(b"/a/b")] {
        assert_eq!(doors.ask(&access).unwrap().decision(), Some(ruleset.decide(&access)), "{access:?}");
    }
    assert_eq!(ruleset.decide(&Access::read(b"/")).verdict, Verdict::Allow);
}
