//! What no label may deny: nobody is exempt from labels, and they are in force at boot before any daemon that could take them
//! off. A rule that denies something of it is refused whole, since what it would deny beside that is as likely to be needed.

use std::sync::Arc;

use super::ANY_NAME;
use crate::coverage::{Gap, GapReason};
use crate::decide::{Access, DecidedBy, Decision, Verdict};
use crate::needed;
use crate::path::components;
use crate::posture::{PostureAction, Postures};
use crate::ruleset::{Class, Effect, Object, OriginId, Ruleset};

/// SELinux's own settings, policies and modules: labels go by these, so they are not even to be protected from changes.
pub(crate) const SETTINGS: [&str; 2] = ["/etc/selinux", "/var/lib/selinux"];

/// How much of a file nobody may be denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vital {
    /// Reading and executing it.
    Program,
    /// Anything.
    Settings,
}

/// The rules that are left of those that labels can say, and what is told of the others.
pub(super) fn spared(rules: Ruleset) -> (Ruleset, Vec<Gap>) {
    let settings = SETTINGS.map(str::as_bytes);
    // what else there is on a host is found by its inode when files are labelled
    let programs = needed::of_most().map(|path| (path.as_bytes().to_vec(), Vital::Program));
    let all: Vec<_> = named(&rules, &settings).into_iter().chain(programs).collect();
    without(rules, &all)
}

/// These settings, and what rules name in them.
pub(super) fn named(rules: &Ruleset, settings: &[&[u8]]) -> Vec<(Vec<u8>, Vital)> {
    let is_within = |path: &[u8]| {
        settings.iter().any(|setting| {
            let mut names = components(path);
            components(setting).all(|name| names.next() == Some(name))
        })
    };
    let within = rules.rules().iter().filter_map(|rule| match &rule.object {
        Object::Path(path) | Object::Directory { dir: path, .. } if is_within(path.as_bytes()) => {
            Some(path.as_bytes())
        }
        _ => None,
    });
    settings.iter().copied().chain(within).map(|path| (path.to_vec(), Vital::Settings)).collect()
}

/// The rules without those that deny any of this.
pub(super) fn without(mut rules: Ruleset, vital: &[(Vec<u8>, Vital)]) -> (Ruleset, Vec<Gap>) {
    let mut gaps = Vec::new();
    // behind a rule that is refused there may be another one
    loop {
        let denied: Vec<(OriginId, &[u8])> = vital
            .iter()
            .flat_map(|(path, vital)| {
                denying(&rules, path, *vital).map(move |origin| (origin, path.as_slice()))
            })
            .collect();
        if denied.is_empty() {
            return (rules, gaps);
        }
        for (id, path) in &denied {
            let Some(origin) = rules.origin(*id) else { continue };
            let (policy, field) = (origin.policy.clone(), origin.rule.clone());
            if gaps.iter().any(|gap: &Gap| (&gap.policy, &gap.field) == (&policy, &field)) {
                continue; // one path says enough
            }
            let advice = format!(
                "nothing of it has any effect: it denies `{}`, and nobody is exempt from labels; name narrower paths",
                path.escape_ascii()
            );
            gaps.push(Gap { policy, field, reason: GapReason::SelinuxVital, advice });
        }
        let left = rules.rules().iter().filter(|rule| {
            rule.effect != Effect::Block || !denied.iter().any(|(origin, _)| *origin == rule.origin)
        });
        let left =
            left.filter_map(|rule| Some((Arc::new(rules.origin(rule.origin)?.clone()), vec![rule.clone()])));
        let passes = Class::ALL
            .into_iter()
            .fold(Postures::default(), |postures, class| postures.with(class, PostureAction::Allow));
        rules = Ruleset::canonical(left.collect::<Vec<_>>(), passes, &[]);
    }
}

/// The origins of rules that deny what nobody may be denied of what is at this path.
fn denying(rules: &Ruleset, path: &[u8], vital: Vital) -> impl Iterator<Item = OriginId> {
    let of = |access: &Access<'_>| match rules.decide(access) {
        Decision { verdict: Verdict::Block, by: DecidedBy::Rule(origin) } => Some(origin),
        _ => None,
    };
    let any = [path, ANY_NAME].concat();
    let changes = (vital == Vital::Settings)
        .then(|| [of(&Access::write(path)), of(&Access::read(&any)), of(&Access::write(&any))])
        .into_iter()
        .flatten();
    [of(&Access::read(path)), of(&Access::exec(path))]
        .into_iter()
        .chain(changes)
        .flatten()
        .collect::<Vec<_>>()
        .into_iter()
}
