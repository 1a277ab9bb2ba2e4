//! Links to busybox under process rules: busybox started by the link's name.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Executed, Link, Linking, Meant, OtherName, is_multi_call};
use crate::applet::{MAX_NAME, is_busybox};
use crate::compile::bpf::{MAX_ALTERNATIVES, MAX_LISTS};
use crate::coverage::GapReason;
use crate::path::AbsPath;
use crate::ruleset::{Effect, Object, Rule};

/// What a link of a process rule means of the program that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// The program.
    Yes,
    /// Only as it is started by the link's name: see [`Linking::applets`].
    AsNamed,
    /// Nothing that the kernel could tell from other names of that program: a gap.
    No,
}

/// A name of busybox's own is that of no applet, so a link by such a name (`busybox -> busybox.static`) means all of the
/// program, as the same name does where it is no link. A rule that allows stays with less.
pub(super) fn meant(rule: &Rule, path: &AbsPath, target: &AbsPath, executed: Executed) -> Whole {
    match executed {
        Executed::No => Whole::Yes,
        _ if !is_multi_call(path, target) => Whole::Yes,
        Executed::Object if is_busybox_at(path) && is_busybox_at(target) => {
            if rule.effect > Effect::Allow {
                Whole::Yes
            } else {
                Whole::No
            }
        }
        Executed::Object if is_busybox_at(target) => Whole::AsNamed,
        Executed::Object | Executed::Source => Whole::No,
    }
}

fn is_busybox_at(path: &AbsPath) -> bool {
    path.base_name().is_some_and(is_busybox)
}

/// How many answers about its object a rule gives at most: one where its list of arguments holds, one where not.
fn answers(rule: &Rule) -> usize {
    if rule.conditions.args.is_some() && rule.effect > Effect::Allow { 2 } else { 1 }
}

impl Linking<'_> {
    /// The program of many names that a path leads to, started by the path's own.
    pub(super) fn applets(&mut self, rule: &Rule, path: &AbsPath) -> Vec<Meant<Object>> {
        let names = self.answers.get(path).map(|answer| answer.names.clone()).unwrap_or_default();
        let Some(name) = path.base_name().filter(|name| name.len() <= MAX_NAME) else { return Vec::new() };
        let leads = |OtherName { target, via, .. }: &OtherName| {
            !via.is_empty() && meant(rule, path, target, Executed::Object) == Whole::AsNamed
        };
        let applet = |OtherName { target, via, .. }: OtherName| {
            self.links.insert(Link { path: path.clone(), target: target.clone() });
            (Object::Applet { program: target, name: name.to_vec() }, via)
        };
        names.into_iter().filter(leads).map(applet).collect()
    }

    /// Leaves out the weakest of the names of a program, past what the kernel's programs look through: a container that
    /// makes many links must not make its rules impossible.
    pub(super) fn bound_applets(&mut self) {
        let program = |rule: &Rule| match &rule.object {
            Object::Path(path) | Object::Applet { program: path, .. } => Some(path.clone()),
            _ => None,
        };
        let of_process = |rule: &&Rule| rule.class == crate::ruleset::Class::Process;
        let named = |rule: &Rule| matches!(rule.object, Object::Applet { .. });
        let mut used: BTreeMap<AbsPath, usize> = BTreeMap::new();
        let fixed = self.added.iter().filter(|rule| !named(rule)).chain(self.ruleset.rules());
        for rule in fixed.filter(of_process) {
            if let Some(path) = program(rule) {
                *used.entry(path).or_default() += answers(rule);
            }
        }
        let mut aliases: Vec<Rule> = self.added.extract_if(.., |rule| named(rule)).collect();
        aliases.sort_by_key(|rule| (Reverse(rule.effect), rule.origin));
        let mut names: BTreeSet<(Vec<u8>, bool)> = BTreeSet::new();
        for alias in aliases {
            let Object::Applet { program, name } = &alias.object else { continue };
            let own = used.entry(program.clone()).or_default();
            // by the name, and whether it also holds where it cannot be told
            let key = (name.clone(), alias.effect > Effect::Allow);
            let room = names.len() < MAX_LISTS || names.contains(&key);
            if *own + answers(&alias) > MAX_ALTERNATIVES || !room {
                let advice = format!(
                    "more links to `{program}` are named than are told apart, the one by which it is `{}` among them; a \
                     rule about `{program}` covers all of its names",
                    String::from_utf8_lossy(name)
                );
                self.gap(&alias, GapReason::Link, advice);
                continue;
            }
            *own += answers(&alias);
            names.insert(key);
            self.added.push(alias);
        }
    }
}
