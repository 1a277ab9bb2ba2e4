//! What SELinux cannot say: what is left of each rule, and what is told of it.

use std::sync::Arc;

use crate::coverage::{Gap, GapReason};
use crate::posture::{PostureAction, Postures};
use crate::ruleset::{Class, Conditions, Effect, Object, Origin, Rule, Ruleset};

/// The rules that are left, without whitelists. What is left of a rule errs to the side of denying: without a condition
/// Allow allows nothing, and the others are enforced without it; without an object or a source nothing is left.
pub(super) fn expressible(ruleset: &Ruleset) -> Ruleset {
    let passes = Class::ALL
        .into_iter()
        .fold(Postures::default(), |postures, class| postures.with(class, PostureAction::Allow));
    let left = ruleset.rules().iter().filter_map(|rule| {
        let origin = ruleset.origin(rule.origin)?;
        left_of(rule).map(|rule| (Arc::new(origin.clone()), vec![rule]))
    });
    Ruleset::canonical(left, passes, &[])
}

fn left_of(rule: &Rule) -> Option<Rule> {
    if object_gap(rule).is_some() || rule.source.is_some() {
        return None;
    }
    if has_conditions(rule) && rule.effect == Effect::Allow {
        return None;
    }
    let conditions = Conditions { read_only: rule.conditions.read_only, ..Conditions::default() };
    Some(Rule { conditions, ..rule.clone() })
}

const fn has_conditions(rule: &Rule) -> bool {
    let Conditions { read_only: _, owner_only, no_terminal, args } = &rule.conditions;
    *owner_only || *no_terminal || args.is_some()
}

/// Why no label stands for such an object.
fn object_gap(rule: &Rule) -> Option<GapReason> {
    match &rule.object {
        // one of a volume that is replaced while others read it is not to be listed
        Object::Path(path) | Object::Directory { dir: path, .. } => {
            path.is_rotating().then_some(GapReason::SelinuxPattern)
        }
        Object::BaseName(_) | Object::Pattern(_) => Some(GapReason::SelinuxPattern),
        Object::Applet { .. }
        | Object::Sockets(_)
        | Object::Destination(_)
        | Object::Listener(_)
        | Object::Capability(_)
        | Object::Syscall(_)
        | Object::Preset(_) => Some(GapReason::SelinuxObject),
    }
}

/// What is told of the rules.
pub(super) fn of(ruleset: &Ruleset) -> Vec<Gap> {
    let mut gaps = Vec::new();
    for rule in ruleset.rules() {
        let Some(Origin { policy, rule: field, .. }) = ruleset.origin(rule.origin) else { continue };
        let told = of_rule(ruleset, rule).into_iter();
        gaps.extend(told.map(|(reason, advice)| Gap {
            policy: policy.clone(),
            field: field.clone(),
            reason,
            advice: advice.to_owned(),
        }));
    }
    gaps.sort_unstable();
    gaps.dedup();
    gaps
}

fn of_rule(ruleset: &Ruleset, rule: &Rule) -> Vec<(GapReason, &'static str)> {
    let allows = rule.effect == Effect::Allow;
    let nothing = if allows { "it allows nothing" } else { "nothing of it has any effect" };
    let mut told = Vec::new();
    match (object_gap(rule), &rule.source) {
        (Some(GapReason::SelinuxPattern), _) => told.push((
            GapReason::SelinuxPattern,
            if allows {
                "it allows nothing; name paths or directories"
            } else {
                "it denies nothing; name paths or directories"
            },
        )),
        (Some(reason), _) => told.push((reason, nothing)),
        (None, Some(_)) => told.push((GapReason::SelinuxSource, nothing)),
        (None, None) => {
            if has_conditions(rule) {
                let advice = if allows { "it allows nothing" } else { "the rule is enforced without it" };
                told.push((GapReason::SelinuxCondition, advice));
            }
            if rule.effect == Effect::Audit {
                told.push((GapReason::SelinuxAudit, "what it names passes without a report"));
            }
        }
    }
    if allows && ruleset.posture(rule.class) != PostureAction::Allow {
        told.push((
            GapReason::SelinuxWhitelist,
            "what no rule names passes without a report; name what is to be denied",
        ));
    }
    told
}
