//! Rules about files and processes: the order of precedence as priorities.
//!
//! AppArmor 4.1 lets a rule take precedence: for each permission the matching rules of the highest priority count alone,
//! and among those denying wins, then auditing adds up. That is the order of [`decide`](crate::decide) once each degree of
//! closeness has a priority of its own. Most policies need none of it: where a closer rule only ever says something
//! stronger than a wider one, both have the same priority, and AppArmor 3.0 takes the profile, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::glob;
use super::{Actor, Transition, Who};
use crate::decide::{Access, Verdict};
use crate::ruleset::{Class, Effect, Object, PostureAction, Rule, Ruleset};

/// The lines of one class, and the highest priority among them.
pub(super) struct Lines {
    pub(super) text: String,
    pub(super) top: usize,
}

/// How closely a rule speaks about what it matches; least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Closeness {
    Directory(usize),
    Pattern,
    BaseName,
    Path,
}

impl Closeness {
    fn of(object: &Object) -> Option<Self> {
        match object {
            Object::Path(_) => Some(Self::Path),
            Object::BaseName(_) => Some(Self::BaseName),
            Object::Pattern(_) => Some(Self::Pattern),
            Object::Directory { dir, .. } => Some(Self::Directory(dir.depth())),
            _ => None,
        }
    }
}

/// The files of whom: AppArmor's qualifier.
const OWNER: &str = "owner ";
const OTHER: &str = "other ";
const ANYBODY: &str = "";

/// A kind of access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Link,
    Execute,
}

/// Those of a class.
const fn kinds(class: Class) -> &'static [Kind] {
    match class {
        Class::File => &[Kind::Read, Kind::Write, Kind::Link],
        _ => &[Kind::Execute],
    }
}

/// What a rule says about the owner of what it matches, and about others; `None` for nothing.
///
/// A link is a new name for a file, and the kernel allows it where the file's own name allows at least as much. It looks
/// at that for the file's owner alone: `apparmor_parser` sets the flag for it (`AA_LINK_SUBSET`) for no one else. So nobody
/// else may make one.
fn says(rule: &Rule, kind: Kind) -> [Option<Effect>; 2] {
    let conditions = &rule.conditions;
    let reads = conditions.read_only && matches!(kind, Kind::Read | Kind::Execute);
    [true, false].map(|owner| {
        let owns = conditions.owner_only && owner;
        let said = match rule.effect {
            Effect::Allow => {
                let covered = (reads || !conditions.read_only) && (owns || !conditions.owner_only);
                covered.then_some(Effect::Allow)
            }
            effect => Some(if reads || owns { Effect::Allow } else { effect }),
        };
        said.filter(|effect| owner || kind != Kind::Link || *effect == Effect::Block)
    })
}

/// The permissions of one kind of access.
fn perms(kind: Kind, rule: &Rule, effect: Effect, transition: &Transition<'_>) -> String {
    // What is mapped to execute it is a program that `ld.so` was told to run, or a library. The first is judged where a
    // rule names it; where it names a place, libraries may be there, and no rule is about those.
    let maps = if matches!(rule.object, Object::Path(_) | Object::BaseName(_)) { "m" } else { "" };
    match kind {
        Kind::Read => "r".to_owned(),
        Kind::Write => "w".to_owned(),
        Kind::Link => "l".to_owned(),
        Kind::Execute if effect == Effect::Block => format!("{maps}x"),
        Kind::Execute => transition.perms(maps),
    }
}

/// The lines of `class` for one actor.
pub(super) fn lines(actor: &Actor<'_>, class: Class, transition: &Transition<'_>) -> Lines {
    let mut out = Lines { text: String::new(), top: 0 };
    otherwise(actor.rules, class, transition, &mut out);
    let mut strongest = match actor.rules.posture(class) {
        PostureAction::Audit => Effect::Audit,
        // what nothing allows is denied, and whatever allows it comes before that
        PostureAction::Allow | PostureAction::Block => Effect::Allow,
    };
    for rules in layers(actor, class).values() {
        let said =
            || rules.iter().flat_map(|rule| kinds(class).iter().flat_map(|kind| says(rule, *kind))).flatten();
        let Some((least, most)) = said().min().zip(said().max()) else { continue };
        if least < strongest {
            out.top += 1;
            strongest = most;
        } else {
            strongest = strongest.max(most);
        }
        let top = out.top;
        out.layer(rules, class, transition, top, Effect::Allow);
    }
    if let Who::Unknown = actor.who {
        out.anybody(actor, class, transition);
    }
    if class == Class::File {
        out.directories(actor);
    }
    if let Transition::Children { .. } = transition
        && class == Class::Process
    {
        out.sources(actor, transition);
    }
    out
}

/// What becomes of what no rule is about.
fn otherwise(ruleset: &Ruleset, class: Class, transition: &Transition<'_>, out: &mut Lines) {
    let how = match ruleset.posture(class) {
        PostureAction::Allow => Some(""),
        PostureAction::Audit => Some("audit "),
        PostureAction::Block => None,
    };
    let (always, perms) = match class {
        // locking a file that is open is no access
        Class::File => ("k", "rw".to_owned()),
        // libraries are mapped, and no rule is about those
        _ => ("m", transition.perms("")),
    };
    out.add(0, &format!("\"/{{,**}}\" {always}"));
    if let Some(how) = how {
        out.add(0, &format!("{how}\"/{{,**}}\" {perms}"));
        if class == Class::File {
            out.add(0, &format!("{how}{OWNER}\"/{{,**}}\" l"));
        }
    }
}

/// The rules of the class that count for whoever acts, by precedence. For an actor that is not known, those without a
/// source.
fn layers<'r>(actor: &Actor<'r>, class: Class) -> BTreeMap<(bool, Closeness), Vec<&'r Rule>> {
    let mut layers: BTreeMap<_, Vec<&Rule>> = BTreeMap::new();
    for rule in actor.rules.rules().iter().filter(|rule| rule.class == class && actor.is_meant(rule)) {
        if let Some(closeness) = Closeness::of(&rule.object) {
            layers.entry((rule.source.is_some(), closeness)).or_default().push(rule);
        }
    }
    layers
}

impl Lines {
    fn add(&mut self, priority: usize, rule: &str) {
        let priority = if priority == 0 { String::new() } else { format!("priority={priority} ") };
        writeln!(self.text, "  {priority}{rule},").unwrap_or_default();
    }

    /// The rules of one priority: what they say that is at least so strong.
    fn layer(
        &mut self,
        rules: &[&Rule],
        class: Class,
        transition: &Transition<'_>,
        priority: usize,
        least: Effect,
    ) {
        let mut lines = BTreeSet::new();
        for rule in rules {
            // what is too complex is left out, as a gap of the rule
            let Some(Ok(globs)) = glob::globs(&rule.object, class == Class::File) else { continue };
            let spelled = spelled(rule, class, transition);
            for (who, effect, perms) in spelled.iter().filter(|(_, effect, _)| *effect >= least) {
                let how = match effect {
                    Effect::Allow => "",
                    Effect::Audit => "audit ",
                    Effect::Block => "audit deny ",
                };
                lines.extend(globs.iter().map(|glob| format!("{how}{who}\"{glob}\" {perms}")));
            }
        }
        lines.iter().for_each(|line| self.add(priority, line));
    }

    /// Whether a report can be asked for without allowing what is not allowed: a higher priority would undo denials, among
    /// several none is right for all, and in a whitelist that blocks there is nothing that denies.
    fn may_report(&self, actor: &Actor<'_>, class: Class) -> bool {
        self.top == 0 && actor.rules.posture(class) != PostureAction::Block
    }

    /// What somebody is denied may not be done by who could be anybody.
    fn anybody(&mut self, actor: &Actor<'_>, class: Class, transition: &Transition<'_>) {
        let rules = actor.rules.rules().iter().filter(|rule| {
            let audits = rule.effect == Effect::Audit && self.may_report(actor, class);
            rule.class == class && rule.source.is_some() && (rule.effect == Effect::Block || audits)
        });
        let rules: Vec<&Rule> = rules.collect();
        // an exemption of one source's rule is none for the others
        self.layer(&rules, class, transition, self.top, Effect::Audit);
    }

    /// Whoever renames a directory moves what lies below it.
    fn directories(&mut self, actor: &Actor<'_>) {
        let mut lines = BTreeSet::new();
        for rule in actor.rules.rules().iter().filter(|rule| rule.class == Class::File) {
            let how = match rule.effect {
                Effect::Block => "audit deny ",
                Effect::Audit if self.may_report(actor, Class::File) => "audit ",
                Effect::Allow | Effect::Audit => continue,
            };
            if !(actor.is_meant(rule) || matches!(actor.who, Who::Unknown)) {
                continue;
            }
            if let Ok((above, _)) = glob::above(&rule.object) {
                lines.extend(above.iter().map(|glob| format!("{how}\"{glob}\" w")));
            }
        }
        let top = self.top;
        lines.iter().for_each(|line| self.add(top, line));
    }

    /// Executing a source leads to its own profile, if it may be executed at all.
    fn sources(&mut self, actor: &Actor<'_>, transition: &Transition<'_>) {
        let mut lines = Vec::new();
        for (source, profile) in transition.sources() {
            let path = source.as_bytes();
            let verdict = |owner| actor.decide(&Access::exec(path).by(0, Some(owner)));
            let how = |verdict| match verdict {
                Verdict::Allow => Some(""),
                Verdict::Audit => Some("audit "),
                Verdict::Block => None,
            };
            let (owner, other) = (how(verdict(0)), how(verdict(1)));
            let both =
                if owner == other { vec![(owner, ANYBODY)] } else { vec![(owner, OWNER), (other, OTHER)] };
            for (how, who) in both {
                if let Some(how) = how {
                    lines.push(format!("{how}{who}\"{}\" mpx -> \"{profile}\"", glob::of_path(source)));
                }
            }
        }
        if !lines.is_empty() {
            self.top += 1;
        }
        let top = self.top;
        lines.iter().for_each(|line| self.add(top, line));
    }
}

/// What a rule says as few rules: for whom, what, and which permissions.
fn spelled(rule: &Rule, class: Class, transition: &Transition<'_>) -> Vec<(&'static str, Effect, String)> {
    let mut found: BTreeMap<(&'static str, Effect), String> = BTreeMap::new();
    for kind in kinds(class) {
        let mut add = |who, effect: Option<Effect>| {
            if let Some(effect) = effect {
                let perms = perms(*kind, rule, effect, transition);
                found.entry((who, effect)).or_default().push_str(&perms);
            }
        };
        match says(rule, *kind) {
            [owner, other] if owner == other => add(ANYBODY, owner),
            [owner, other] => {
                add(OWNER, owner);
                add(OTHER, other);
            }
        }
    }
    found.into_iter().map(|((who, effect), perms)| (who, effect, perms)).collect()
}
