//! Capabilities by which a process gets another path for a file than the one that rules name.
//!
//! Of a file that is in no mount tree of the container AppArmor takes the path within its file system
//! (`attach_disconnected`, without which a container could not use what its runtime opened for it). Whoever clones a tree
//! or makes a file system, and attaches it nowhere, chooses these paths, and the kernel asks no rule about mounts then: it
//! asks for CAP_SYS_ADMIN alone. It asks the profile for that in a user namespace, too, where every process has it that
//! made one. CAP_DAC_READ_SEARCH opens files by handles: one that the kernel has no name for in its caches is `/`.

use crate::coverage::{Gap, GapReason};
use crate::policy::PolicyId;
use crate::ruleset::{Class, Effect, Object, Origin, PostureAction, Rule, Ruleset};

/// They.
pub(super) const NAMES: [&str; 2] = ["dac_read_search", "sys_admin"];

/// Whether somebody is denied something by these rules that one could get round so.
pub(super) fn rounds(rules: &Ruleset) -> bool {
    let paths = [Class::File, Class::Process];
    let denies = |rule: &Rule| paths.contains(&rule.class) && rule.effect == Effect::Block;
    rules.rules().iter().any(denies)
        || paths.iter().any(|class| rules.posture(*class) == PostureAction::Block)
}

/// Whether a rule lets one of these capabilities pass.
pub(super) fn gives(rule: &Rule) -> bool {
    let Object::Capability(capability) = &rule.object else { return false };
    NAMES.contains(&capability.name()) && rule.effect != Effect::Block
}

/// The rule that denies them, whatever else is said of capabilities.
pub(super) fn denied() -> String {
    format!("  audit deny capability {},\n", NAMES.join(" "))
}

/// What is told of rules that let them pass.
pub(super) fn gaps(ruleset: &Ruleset) -> impl Iterator<Item = Gap> {
    ruleset.rules().iter().filter(|rule| gives(rule)).filter_map(|rule| {
        let Origin { policy, rule: field, .. } = ruleset.origin(rule.origin)?;
        Some(gap(policy, field))
    })
}

/// The same of native rules.
pub(super) fn gap_of_native(policy: &PolicyId) -> Gap {
    gap(policy, "spec.apparmor")
}

fn gap(policy: &PolicyId, field: &str) -> Gap {
    Gap {
        policy: policy.clone(),
        field: field.to_owned(),
        reason: GapReason::AppArmorCapability,
        advice: format!(
            "{} are denied: with them rules that block files or programs are got round",
            NAMES.join(" and ")
        ),
    }
}
