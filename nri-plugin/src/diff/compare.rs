//! The rules and profiles of a container before and after a change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use enforcer_core::coverage::{self, Coverage};
use enforcer_core::decide::Access;
use enforcer_core::ruleset::{
    AbsPath, Class, Conditions, Effect, Object, Origin, PostureAction, Postures, Rule, Ruleset,
};
use enforcer_core::seccomp::Base;
use enforcer_core::subject::Subject;

use super::Asked;
use super::document::{Change, Changes, Otherwise, RuleChange, SeccompChange, Side, VerdictChange};
use crate::cli::{DiffArgs, LibseccompVersion};
use crate::compile;
use crate::input::Input;
use crate::judge::Judge;

/// Everything but the container.
pub(super) struct Sides<'a> {
    old: &'a [Input],
    new: &'a [Input],
    base: Base,
    libseccomp: LibseccompVersion,
    root: Option<PathBuf>,
}

impl<'a> Sides<'a> {
    pub(super) fn new(old: &'a [Input], new: &'a [Input], args: &DiffArgs) -> Result<Self, String> {
        let base = compile::base(&args.base, &args.capabilities)?;
        Ok(Self { old, new, base, libseccomp: args.libseccomp, root: args.root.clone() })
    }

    /// What one side says about the container.
    fn side(&self, inputs: &[Input], asked: &Asked) -> Result<Said, String> {
        let Asked { subject, node, audited, seccomp_only } = asked;
        let mut judge = Judge::new(inputs, subject, *node, self.root.as_deref())?;
        if *audited {
            judge.ruleset = judge.ruleset.audited();
            judge.seccomp.clear(); // the daemon leaves its profile alone
        }
        if *seccomp_only {
            judge.ruleset = Ruleset::resolve([], &Postures::default(), &Subject::default()).ruleset;
            judge.coverage = Coverage::default();
        }
        let profile = self.profile(&judge)?;
        let of_profile = profile.iter().flat_map(|profile| profile.gaps.iter().cloned());
        let gaps = judge.coverage.gaps.iter().cloned().chain(of_profile).collect();
        Ok(Said { ruleset: judge.ruleset, gaps, profile })
    }

    fn profile(&self, judge: &Judge<'_>) -> Result<Option<Profile>, String> {
        let Some(merged) = judge.profile(|| Ok(self.base.clone()), self.libseccomp)? else { return Ok(None) };
        // what the daemon compares, since the profile below does not change with the policies
        let alone = judge.profile(|| Ok(Base::Unconfined), self.libseccomp)?;
        let alone = alone.map(|alone| alone.digest().to_string()).unwrap_or_default();
        Ok(Some(Profile { merged: merged.digest().to_string(), alone, gaps: merged.gaps }))
    }
}

/// What policies say to a container.
pub(super) struct Said {
    pub(super) ruleset: Ruleset,
    /// Those of the profile, too.
    pub(super) gaps: BTreeSet<coverage::Gap>,
    pub(super) profile: Option<Profile>,
}

/// A seccomp profile.
pub(super) struct Profile {
    /// Digest of all of it.
    pub(super) merged: String,
    /// Digest of what the policies say by themselves, by which a container is pending restart.
    pub(super) alone: String,
    pub(super) gaps: Vec<coverage::Gap>,
}

/// What changes for the container.
pub(super) fn changes(sides: &Sides<'_>, asked: &Asked) -> Result<Changes, String> {
    Ok(between(&sides.side(sides.old, asked)?, &sides.side(sides.new, asked)?))
}

/// What changes from one to the other.
pub(super) fn between(old: &Said, new: &Said) -> Changes {
    let digests =
        |said: &Said| said.profile.as_ref().map(|profile| (profile.merged.clone(), profile.alone.clone()));
    let (before, after) = (digests(old), digests(new));
    let seccomp = (before != after).then(|| {
        let alone = |side: &Option<(String, String)>| side.as_ref().map(|(_, alone)| alone.clone());
        let pending_restart = alone(&before) != alone(&after);
        let merged = |side: Option<(String, String)>| side.map(|(merged, _)| merged);
        SeccompChange { old: merged(before), new: merged(after), pending_restart }
    });
    let gaps = |these: &Said, but: &Said| these.gaps.difference(&but.gaps).map(Into::into).collect();
    Changes {
        otherwise: otherwise(&old.ruleset, &new.ruleset),
        rules: rules(&old.ruleset, &new.ruleset),
        new_gaps: gaps(new, old),
        closed_gaps: gaps(old, new),
        seccomp,
    }
}

fn otherwise(old: &Ruleset, new: &Ruleset) -> Vec<Otherwise> {
    let whitelist = |ruleset: &Ruleset, class| ruleset.whitelisted(class).then(|| ruleset.posture(class));
    let mut found: Vec<_> = Class::ALL
        .into_iter()
        .map(|class| (class, whitelist(old, class), whitelist(new, class)))
        .filter(|(_, old, new)| old != new)
        .map(|(class, before, after)| {
            let because = if after.is_some() { because(new, class) } else { None };
            Otherwise { class, old: before, new: after, meaning: meaning(before, after), because }
        })
        .collect();
    // what breaks workloads before what opens them
    found.sort_by_key(|one| (one.new != Some(PostureAction::Block), one.new.is_some()));
    found
}

fn because(ruleset: &Ruleset, class: Class) -> Option<String> {
    let rule = ruleset.rules().iter().find(|rule| rule.class == class && rule.effect == Effect::Allow)?;
    ruleset.origin(rule.origin).map(|origin| format!("{} {}", origin.policy, origin.rule))
}

fn meaning(old: Option<PostureAction>, new: Option<PostureAction>) -> String {
    let now = match new.unwrap_or(PostureAction::Allow) {
        PostureAction::Block => "is now blocked",
        PostureAction::Audit => "now passes and is reported",
        PostureAction::Allow if old.unwrap_or(PostureAction::Allow) == PostureAction::Allow => "still passes",
        PostureAction::Allow => "passes now",
    };
    match (old, new) {
        (None, _) => format!("becomes a whitelist: everything else {now}"),
        (_, None) => format!("is no whitelist any more: everything else {now}"),
        (Some(_), Some(_)) => format!("is a whitelist with another posture: everything else {now}"),
    }
}

/// What rules are about: class, source, object.
type About<'a> = (Class, Option<&'a AbsPath>, &'a Object);
/// What a rule about it does, and where it comes from.
type Does<'a> = BTreeSet<(Effect, &'a Conditions, Option<&'a Origin>)>;

fn by_object(ruleset: &Ruleset) -> BTreeMap<About<'_>, Does<'_>> {
    let mut found: BTreeMap<About<'_>, Does<'_>> = BTreeMap::new();
    for rule in ruleset.rules() {
        let Rule { class, source, object, conditions, effect, origin } = rule;
        let does = found.entry((*class, source.as_ref(), object)).or_default();
        does.insert((*effect, conditions, ruleset.origin(*origin)));
    }
    found
}

fn rules(old: &Ruleset, new: &Ruleset) -> Vec<RuleChange> {
    let (before, after) = (by_object(old), by_object(new));
    let none = Does::default();
    let objects: BTreeSet<&About<'_>> = before.keys().chain(after.keys()).collect();
    let mut found: Vec<RuleChange> = objects
        .into_iter()
        .filter_map(|about| {
            let was = before.get(about).unwrap_or(&none);
            let is = after.get(about).unwrap_or(&none);
            let change = change(was, is)?;
            let verdicts = match change {
                Change::Reported | Change::Moved => Vec::new(),
                _ if was.iter().chain(is).any(|(_, conditions, _)| !conditions.is_empty()) => Vec::new(),
                _ => verdicts(about, old, new),
            };
            Some(RuleChange { change, about: name(about), old: told(was), new: told(is), verdicts })
        })
        .collect();
    found.sort_by_key(|one| one.change);
    found
}

fn change(old: &Does<'_>, new: &Does<'_>) -> Option<Change> {
    let without = |side: &Does<'_>| -> BTreeSet<_> {
        side.iter().map(|(effect, conditions, _)| (*effect, (*conditions).clone())).collect()
    };
    // the place in the policy left out
    let reported = |side: &Does<'_>| -> BTreeSet<_> {
        let origin = |origin: &Origin| Origin { rule: String::new(), ..origin.clone() };
        side.iter().map(|(effect, _, of)| (*effect, of.map(origin))).collect()
    };
    match () {
        () if old == new => None,
        () if old.is_empty() => Some(Change::Added),
        () if new.is_empty() => Some(Change::Removed),
        () if without(old) != without(new) => Some(Change::Changed),
        () if reported(old) != reported(new) => Some(Change::Reported),
        () => Some(Change::Moved),
    }
}

fn name((class, source, object): &About<'_>) -> String {
    match source {
        Some(source) => format!("{class} {object} from {source}"),
        None => format!("{class} {object}"),
    }
}

fn told(does: &Does<'_>) -> Vec<Side> {
    let side = |(effect, conditions, origin): &(Effect, &Conditions, Option<&Origin>)| Side {
        does: format!("{effect}{conditions}"),
        policy: origin.map(|origin| origin.policy.to_string()).unwrap_or_default(),
        rule: origin.map(|origin| origin.rule.clone()).unwrap_or_default(),
    };
    does.iter().map(side).collect()
}

/// What becomes of accesses to just what the rules are about.
fn verdicts((class, source, object): &About<'_>, old: &Ruleset, new: &Ruleset) -> Vec<VerdictChange> {
    let accesses: Vec<(&'static str, Access<'_>)> = match object {
        Object::Path(path) if *class == Class::File => {
            let path = path.as_bytes();
            vec![("read", Access::read(path)), ("write", Access::write(path))]
        }
        Object::Path(path) => vec![("exec", Access::exec(path.as_bytes()))],
        Object::Capability(capability) => vec![("use", Access::capability(*capability))],
        Object::Syscall(syscall) => vec![("use", Access::syscall(*syscall))],
        Object::Preset(preset) => vec![("use", Access::preset(*preset))],
        _ => Vec::new(),
    };
    let verdict = |(name, access): (&'static str, Access<'_>)| {
        let source = source.map(AbsPath::as_bytes);
        let access = Access { source, ..access };
        let [old, new] = [old, new].map(|ruleset| ruleset.decide(&access).verdict);
        VerdictChange { access: name.into(), old, new }
    };
    accesses.into_iter().map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input;

    #[test]
    fn the_profile_of_an_audited_container_does_not_change() {
        let dir = tempfile::tempdir().unwrap();
        let load = |call: &str| {
            let path = dir.path().join(format!("{call}.yaml"));
            let text = format!(
                "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\nmetadata: {{name: calls}}\n\
                 spec:\n  selector: {{matchLabels: {{app: web}}}}\n  syscalls: [{call}]\n  action: Block\n"
            );
            std::fs::write(&path, text).unwrap();
            input::load(&[path]).unwrap()
        };
        let (old, new) = (load("mkdir"), load("rmdir"));
        let libseccomp = LibseccompVersion::default();
        let sides = Sides { old: &old, new: &new, base: Base::Unconfined, libseccomp, root: None };
        let subject = Subject {
            namespace: "default".into(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            ..Subject::default()
        };
        let asked = |audited| Asked {
            subject: subject.clone(),
            node: Postures::default(),
            audited,
            seccomp_only: false,
        };
        assert!(changes(&sides, &asked(false)).unwrap().seccomp.is_some_and(|change| change.pending_restart));
        assert_eq!(changes(&sides, &asked(true)).unwrap(), Changes::default());
    }
}
