//! Changes for people: what surprises first.

use std::collections::BTreeMap;

use comfy_table::{Cell, Color};
use enforcer_core::decide::Verdict;
use enforcer_core::ruleset::PostureAction;

use super::document::{
    Change, Changes, Container, Gap, Otherwise, Report, RuleChange, SeccompChange, Side, VerdictChange,
};
use crate::term::{BAD, BOLD, GOOD, WARN, clean, mark, paint, say, table};

/// How many containers are named where the same changes for all of them.
const NAMED: usize = 8;
/// How much of a digest is shown, in characters.
const SHORT: usize = 12;

pub(super) fn print(report: &Report, running: bool) {
    // Containers for which the same changes stand together, in the order of the first.
    let mut groups: Vec<(&Changes, Vec<&Container>)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let same = report.containers.iter().filter(|one| one.changes.is_empty()).count();
    for one in report.containers.iter().filter(|one| !one.changes.is_empty()) {
        let key = format!("{:?}", one.changes);
        let place = *places.entry(key).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, containers)) => containers.push(one),
            None => groups.push((&one.changes, vec![one])),
        }
    }
    for (changes, containers) in &groups {
        if running {
            say(format!("{}\n", paint(BOLD, names(containers))));
        }
        print_changes(changes);
    }
    match (running, same, groups.is_empty()) {
        (false, _, false) => {}
        (false, _, true) => say(format!("{}\n", paint(GOOD, "Nothing changes."))),
        (true, 1, _) => say("Nothing changes for 1 container.\n"),
        (true, same, _) => say(format!("Nothing changes for {same} containers.\n")),
    }
}

fn names(containers: &[&Container]) -> String {
    let name = |one: &&Container| clean(&format!("{}/{} {}", one.namespace, one.pod, one.container));
    let told: Vec<String> = containers.iter().take(NAMED).map(name).collect();
    match containers.len().saturating_sub(NAMED) {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

fn print_changes(changes: &Changes) {
    let Changes { otherwise, rules, new_gaps, closed_gaps, seccomp } = changes;
    for Otherwise { class, new, meaning, because, .. } in otherwise {
        let style = match new {
            Some(PostureAction::Block) => BAD,
            _ => WARN,
        };
        let because = because.as_ref().map(|rule| format!(" ({rule})")).unwrap_or_default();
        say(format!("{} {}{}\n", paint(style, format!("{class}:")), meaning, clean(&because)));
    }
    if let Some(SeccompChange { old, new, pending_restart }) = seccomp {
        let digest = |digest: &Option<String>| match digest {
            Some(digest) => digest.chars().take(SHORT).collect(),
            None => "none".to_owned(),
        };
        let restart = match pending_restart {
            true => "; what runs is pending restart, and keeps its profile until it is created again",
            false => "",
        };
        let profile = match old == new {
            true => "the profile stays as it is".to_owned(),
            false => format!("profile {} -> {}", digest(old), digest(new)),
        };
        say(format!("{} {profile}{restart}\n", paint(WARN, "seccomp:")));
    }
    print_rules(rules);
    for (style, word, gaps) in [(WARN, "new gap", new_gaps), (GOOD, "gap closed", closed_gaps)] {
        for Gap { policy, field, reason, .. } in gaps {
            say(format!(
                "{} {}\n",
                paint(style, format!("{word}:")),
                clean(&format!("{policy}: {field}: {reason}"))
            ));
        }
    }
    say("\n");
}

fn print_rules(rules: &[RuleChange]) {
    let mut rows = table(["", "About", "Before", "After", "Verdict", "Where"], 1);
    let mut moved = 0;
    for rule in rules {
        let (word, color) = match rule.change {
            Change::Changed => ("changed", Color::Yellow),
            Change::Removed => ("removed", Color::Red),
            Change::Added => ("added", Color::Green),
            Change::Reported => ("alerts", Color::Grey),
            Change::Moved => {
                moved += 1;
                continue;
            }
        };
        let does = |sides: &[Side]| match sides {
            [] => "-".to_owned(),
            sides => sides.iter().map(|side| side.does.as_str()).collect::<Vec<_>>().join("; "),
        };
        let verdict = verdicts(&rule.verdicts);
        let opens = rule.verdicts.iter().any(|one| one.new < one.old);
        let closes = rule.verdicts.iter().any(|one| one.new > one.old);
        let verdict = match (opens, closes) {
            (false, false) => Cell::new(verdict),
            (_, true) => mark(&verdict, Color::Red),
            (true, false) => mark(&verdict, Color::Yellow),
        };
        let sides = if rule.new.is_empty() { &rule.old } else { &rule.new };
        let place = |side: &Side| format!("{} {}", side.policy, side.rule);
        let places = sides.iter().map(place).collect::<Vec<_>>().join("; ");
        rows.add_row([
            mark(word, color),
            Cell::new(clean(&rule.about)),
            Cell::new(clean(&does(&rule.old))),
            Cell::new(clean(&does(&rule.new))),
            verdict,
            Cell::new(clean(&places)),
        ]);
    }
    if rules.len() > moved {
        say(format!("{rows}\n"));
    }
    match moved {
        0 => {}
        1 => say("1 rule does the same from another place of its policy, which alerts name.\n"),
        moved => say(format!(
            "{moved} rules do the same from other places of their policies, which alerts name.\n"
        )),
    }
}

/// `block -> allow`, or by access where they differ.
fn verdicts(verdicts: &[VerdictChange]) -> String {
    let told = |old: Verdict, new: Verdict| match old == new {
        true => format!("still {new}"),
        false => format!("{old} -> {new}"),
    };
    match verdicts {
        [] => String::new(),
        [first, rest @ ..] if rest.iter().all(|one| (one.old, one.new) == (first.old, first.new)) => {
            told(first.old, first.new)
        }
        all => {
            let each = all.iter().map(|one| format!("{} {}", one.access, told(one.old, one.new)));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}
