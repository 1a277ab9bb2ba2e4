//! Paths and names that look like rules: none adds a rule, and each is meant as it stands.

use std::fmt::Write as _;

use enforcer_core::compile::apparmor::{Options, child_of, compile};
use enforcer_core::decide::Verdict;
use enforcer_core::policy::{Kind, PolicyId};
use enforcer_core::ruleset::{
    AbsPath, Class, Conditions, Effect, Object, Origin, OriginId, Pattern, Postures, Rule, Ruleset,
};
use lab::apparmor::compiled;

use crate::binary::{EXEC, Profile, READ, profiles};

/// Parts of a path that mean something to somebody.
const PIECES: [&str; 36] = [
    "\"",
    "\\",
    "\\\"",
    "\" rw,\n}\nprofile evil { /** rwklmux, }\n#",
    "}",
    "{",
    "{,}",
    "{a,b}",
    "@{PROC}",
    "@{",
    "${x}",
    "*",
    "**",
    "?",
    "[a]",
    "[^a]",
    "]",
    "^",
    "\n",
    "\r",
    "\t",
    " ",
    "#",
    "#include <tunables>",
    ",",
    "\\052",
    "\\x2a",
    "\\d042",
    "'",
    "$",
    "|",
    "(.*)",
    "+",
    "é",
    "\u{202e}",
    "a -> b",
];

/// Names: each byte alone, the pieces, and each piece between letters.
fn names() -> Vec<Vec<u8>> {
    let bytes = (1..=u8::MAX).filter(|byte| !matches!(byte, b'/' | b'.')).map(|byte| vec![byte]);
    let pieces = PIECES.iter().filter(|piece| !piece.contains('/')).map(|piece| piece.as_bytes().to_vec());
    let between = PIECES.iter().map(|piece| format!("x{piece}y").replace('/', "%").into_bytes());
    let mut names: Vec<_> = bytes.chain(pieces).chain(between).collect();
    names.sort();
    names.dedup();
    names
}

fn ruleset(objects: Vec<(Class, Option<AbsPath>, Object)>) -> Ruleset {
    let origin = Origin {
        policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "d".into(), name: "p".into() },
        rule: "} \" \n".into(),
        severity: 1,
        tags: vec!["\n}".into()],
        message: "\n} profile evil {}".into(),
        action: Effect::Block,
    };
    let rule = |(class, source, object)| Rule {
        class,
        source,
        object,
        conditions: Conditions::default(),
        effect: Effect::Block,
        origin: OriginId(0),
    };
    Ruleset::new(objects.into_iter().map(rule).collect(), vec![origin], Postures::default()).unwrap()
}

/// The profiles of a ruleset: those that there should be, and no other.
fn made(ruleset: &Ruleset, children: &[&str]) -> std::collections::BTreeMap<String, Profile> {
    let profile = compile(ruleset, &[], &Options::named("nri-enforcer.h".parse().unwrap()));
    let found =
        profiles(&compiled(&profile.text).unwrap_or_else(|error| panic!("{error:#}\n{}", profile.text)));
    let mut wanted = vec!["nri-enforcer.h".to_owned()];
    wanted.extend(children.iter().map(|child| format!("nri-enforcer.h//{child}")));
    assert_eq!(found.keys().cloned().collect::<Vec<_>>(), wanted);
    found
}

fn path(name: &[u8]) -> Vec<u8> {
    [b"/dir/", name].concat()
}

/// A profile that denies `/dir/NAME` for every other name denies those and not the rest.
fn every_second_name(object: impl Fn(&[u8]) -> Option<Object>) {
    let names = names();
    for offset in [0, 1] {
        let meant = |index: usize| index % 2 == offset;
        let rules = names.iter().enumerate().filter(|(index, _)| meant(*index));
        let objects: Vec<Object> = rules.filter_map(|(_, name)| object(name)).collect();
        let found =
            made(&ruleset(objects.into_iter().map(|object| (Class::File, None, object)).collect()), &[]);
        let mut wrong = String::new();
        for (index, name) in names.iter().enumerate().filter(|(_, name)| object(name).is_some()) {
            let wanted = if meant(index) { Verdict::Block } else { Verdict::Allow };
            let verdict = found["nri-enforcer.h"].file(&path(name), true, READ);
            if verdict != wanted {
                writeln!(wrong, "{}: {verdict}", name.escape_ascii()).unwrap();
            }
        }
        assert_eq!(wrong, "");
    }
}

#[test]
fn paths() {
    every_second_name(|name| Some(Object::Path(AbsPath::new(path(name)).unwrap())));
}

#[test]
fn base_names() {
    every_second_name(|name| Some(Object::BaseName(std::str::from_utf8(name).ok()?.to_owned())));
}

#[test]
fn patterns_of_escaped_signs() {
    every_second_name(|name| {
        let text = std::str::from_utf8(name).ok()?;
        let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
        Some(Object::Pattern(format!("/dir/{escaped}").parse::<Pattern>().unwrap()))
    });
}

#[test]
fn sets_of_every_byte() {
    let in_set = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            char::from(byte).to_string()
        } else {
            format!("\\{}", char::from(byte))
        }
    };
    let ascii = || (1..0x80).filter(|byte| *byte != b'/');
    for (invert, every) in [(false, 2), (true, 2), (false, 7), (true, 7), (true, 120)] {
        let chosen: Vec<u8> = ascii().filter(|byte| byte % every == 1).collect();
        let set: String = chosen.iter().map(|byte| in_set(*byte)).collect();
        let pattern: Pattern = format!("/dir/[{}{set}]", if invert { "^" } else { "" }).parse().unwrap();
        let object = Object::Pattern(pattern.clone());
        let found = made(&ruleset(vec![(Class::File, None, object)]), &[]);
        for byte in 1..=u8::MAX {
            let blocked = found["nri-enforcer.h"].file(&path(&[byte]), true, READ) == Verdict::Block;
            assert_eq!(blocked, pattern.matches(&path(&[byte])), "{byte:#x} of {pattern}");
        }
    }
}

#[test]
fn directories_and_sources() {
    for piece in PIECES.iter().filter(|piece| !piece.contains('/')) {
        let dir: AbsPath = format!("/dir/{piece}").parse().unwrap();
        let child = child_of(&dir);
        let found = made(
            &ruleset(vec![
                (Class::File, None, Object::Directory { dir: dir.clone(), recursive: true }),
                (Class::Process, Some(dir.clone()), Object::Path("/x".parse().unwrap())),
            ]),
            &["other", &child],
        );
        let below = [dir.as_bytes(), b"/a/b"].concat();
        for profile in found.values() {
            assert_eq!(profile.file(&below, true, READ), Verdict::Block, "{piece:?}");
            assert_eq!(profile.file(b"/dir/other", true, READ), Verdict::Allow, "{piece:?}");
        }
        assert_eq!(found[&format!("nri-enforcer.h//{child}")].file(b"/x", true, EXEC), Verdict::Block);
        assert_eq!(found["nri-enforcer.h//other"].file(b"/x", true, EXEC), Verdict::Allow);
    }
}
