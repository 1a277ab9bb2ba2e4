//! Roots of the classes whose objects are no paths: tables of decisions by number, and what [`net`](super::net) makes
//! of rules about sockets. The layout is that of `bpf/src/plain.h`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::entry;
use super::image::{Builder, CELL_WORDS, Fields, to_cells};
use super::net::Sockets;
use crate::path::AbsPath;
use crate::preset::Preset;
use crate::ruleset::{Class, Effect, Object, Rule, Ruleset};

/// Root cells by source and class.
pub(super) type Roots<'r> = BTreeMap<(Option<&'r AbsPath>, Class), u32>;

/// Writes the roots of all classes without paths.
pub(super) fn roots<'r>(ruleset: &'r Ruleset, image: &mut Builder) -> Roots<'r> {
    let mut by_root: BTreeMap<_, Vec<&Rule>> = BTreeMap::new();
    for rule in ruleset.rules() {
        if !matches!(rule.class, Class::Process | Class::File) {
            by_root.entry((rule.source.as_ref(), rule.class)).or_default().push(rule);
        }
    }
    let mut sockets = Sockets::default();
    let mut roots = BTreeMap::new();
    for (key, rules) in by_root {
        let root = match key.1 {
            Class::Network => sockets.root(&rules, image),
            _ => table(&rules, image),
        };
        roots.insert(key, root);
    }
    sockets.finish(image);
    roots
}

/// One rule's answer by strength, then origin; what exempts comes last.
pub(super) type Answer = (Effect, Reverse<(u32, bool)>);

/// What a rule about something that is no path answers; `None` where its condition leaves the access to others.
pub(super) fn answer(rule: &Rule, terminal: bool) -> Option<Answer> {
    let holds = rule.conditions.no_terminal && !terminal;
    let origin = rule.origin.0;
    match rule.effect {
        Effect::Allow if rule.conditions.no_terminal && terminal => None,
        Effect::Allow => Some((Effect::Allow, Reverse((origin, false)))),
        effect => Some((if holds { Effect::Allow } else { effect }, Reverse((origin, holds)))),
    }
}

/// An answer as a decision; 0 for none.
pub(super) fn word(answer: Option<Answer>) -> u32 {
    answer.map_or(0, |(effect, Reverse((origin, exempt)))| entry(effect, exempt, origin))
}

/// The number under which the programs know what a rule speaks about; `None` for what they never see.
fn number(object: &Object) -> Option<u32> {
    match object {
        Object::Capability(capability) => Some(u32::from(capability.number())),
        Object::Syscall(syscall) => syscall.number(),
        Object::Preset(preset) => Some(match preset {
            Preset::FilelessExec => 0,
            Preset::AnonymousMapExec => 1,
            Preset::ProtectProc => 2,
            Preset::ProtectEnv => 3,
            Preset::Exec => 4,
        }),
        _ => None,
    }
}

/// A `table_cell` with its decisions.
fn table(rules: &[&Rule], image: &mut Builder) -> u32 {
    let numbered = || rules.iter().filter_map(|rule| Some((number(&rule.object)?, *rule)));
    let most = numbered().map(|(number, _)| number + 1).max().unwrap_or(0);
    let count = most.next_multiple_of(CELL_WORDS);
    let mut words = Vec::new();
    for terminal in [false, true] {
        let mut answers: BTreeMap<u32, Answer> = BTreeMap::new();
        for (number, answer) in numbered().filter_map(|(n, rule)| Some((n, answer(rule, terminal)?))) {
            let strongest = answers.entry(number).or_insert(answer);
            *strongest = answer.max(*strongest);
        }
        words.extend((0..count).map(|number| word(answers.get(&number).copied())));
    }
    let first = image.cells(to_cells(&words));
    image.cell(Fields::default().u32s(&[first, count]).cell())
}
