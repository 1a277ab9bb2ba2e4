//! A container as the daemon knows it, and what the policies say about it.

use std::collections::BTreeSet;

use enforcer_core::coverage::Gap;
use enforcer_core::enforce::ContainerId;
use enforcer_core::policy::PolicyId;
use enforcer_core::ruleset::{Postures, Resolved, Ruleset};
use enforcer_core::subject::Subject;

use crate::store::PolicySet;

/// A container of the runtime, with what policies select by and alerts tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id.
    pub id: ContainerId,
    /// Namespace, pod, labels, name.
    pub subject: Subject,
    /// The image's name; empty where the runtime does not tell.
    pub image: String,
}

impl std::fmt::Display for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Subject { namespace, pod, container, .. } = &self.subject;
        write!(f, "container `{container}` of pod `{namespace}/{pod}`")
    }
}

/// How this node reads policies.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Default postures.
    pub postures: Postures,
    /// Namespaces that no policy reaches: nothing may lock a node out.
    pub exempt: BTreeSet<String>,
    /// Whether a container with gaps must not start.
    pub strict: bool,
}

impl Selection {
    /// What the policies say about the subject; `None` where none selects it, or its namespace is exempt.
    #[must_use]
    pub fn resolve(&self, set: &PolicySet, subject: &Subject) -> Option<Resolved> {
        if self.exempt.contains(&subject.namespace) {
            return None;
        }
        let resolved = Ruleset::resolve(set.iter(), &self.postures, subject);
        // a policy may select a container and yet have no rule that can be expressed: then there are only gaps
        (!resolved.ruleset.is_empty() || !resolved.coverage.gaps.is_empty()).then_some(resolved)
    }
}

/// `policy` or `policies` and the names of those that a ruleset comes from, for people.
#[must_use]
pub fn name_policies(ruleset: &Ruleset) -> String {
    name(ruleset.origins().iter().map(|origin| &origin.policy))
}

/// The same with the policies that have nothing but gaps.
#[must_use]
pub fn name_all_policies(resolved: &Resolved) -> String {
    let gaps = resolved.coverage.gaps.iter().map(|gap| &gap.policy);
    name(resolved.ruleset.origins().iter().map(|origin| &origin.policy).chain(gaps))
}

fn name<'a>(policies: impl Iterator<Item = &'a PolicyId>) -> String {
    let policies: BTreeSet<&PolicyId> = policies.collect();
    let names: Vec<String> = policies.iter().map(|id| format!("`{id}`")).collect();
    match names.len() {
        0 => "the default posture".into(), // a whitelist whose only Allow rules are gaps
        1 => format!("policy {}", names.concat()),
        _ => format!("policies {}", names.join(", ")),
    }
}

/// The gaps as one readable text.
#[must_use]
pub fn name_gaps(gaps: &[Gap]) -> String {
    let gaps: Vec<String> =
        gaps.iter().map(|gap| format!("`{}` {}: {}", gap.policy, gap.field, gap.reason)).collect();
    gaps.join("; ")
}
