//! What the BPF programs can do with a rule. The one place that says so: what it denies becomes a gap of the policy's
//! coverage, and a rule with it that reaches the compiler is an error there.

use crate::coverage::GapReason;
use crate::ruleset::{Conditions, Object, Rule};

/// Why nothing is enforced about such an object; `None` where it is.
#[must_use]
pub fn object_gap(object: &Object) -> Option<GapReason> {
    match object {
        Object::Path(_) | Object::BaseName(_) | Object::Directory { .. } => None,
        Object::Pattern(_) => Some(GapReason::Pattern),
        Object::Sockets(_) | Object::Destination(_) | Object::Listener(_) => Some(GapReason::Network),
        Object::Capability(_) => Some(GapReason::Capabilities),
        Object::Syscall(_) => Some(GapReason::Syscalls),
        Object::Preset(_) => Some(GapReason::Preset),
    }
}

/// Why `pts: false` is not looked at; `None` where it is.
#[must_use]
pub fn terminal_gap(conditions: &Conditions) -> Option<GapReason> {
    conditions.no_terminal.then_some(GapReason::Terminal)
}

/// Why `allowedArgs` is not looked at; `None` where it is.
#[must_use]
pub fn args_gap(conditions: &Conditions) -> Option<GapReason> {
    conditions.args.is_some().then_some(GapReason::AllowedArgs)
}

/// The first reason why a rule cannot be enforced as it is.
#[must_use]
pub fn rule_gap(rule: &Rule) -> Option<GapReason> {
    object_gap(&rule.object).or_else(|| terminal_gap(&rule.conditions)).or_else(|| args_gap(&rule.conditions))
}
