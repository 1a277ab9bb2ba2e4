//! What a comparison says: as `-o json` prints it, and as the daemon answers.

use std::borrow::Cow;
use std::fmt;

use enforcer_core::coverage;
use enforcer_core::decide::Verdict;
use enforcer_core::ruleset::{Class, PostureAction};
use serde::{Deserialize, Serialize};

/// The answer, as `-o json` prints it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Whether anything changes.
    pub changed: bool,
    /// What changes, container by container; those for which nothing does are there, too.
    pub containers: Vec<Container>,
}

/// A container, and what changes for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its namespace.
    pub namespace: String,
    /// Its pod; empty where none was named.
    pub pod: String,
    /// Its name.
    pub container: String,
    /// What changes.
    #[serde(flatten)]
    pub changes: Changes,
}

impl Container {
    /// What containers are sorted by.
    pub(super) fn place(&self) -> (&str, &str, &str) {
        (&self.namespace, &self.pod, &self.container)
    }
}

/// What changes for a container. All empty: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// What becomes of accesses that no rule is about.
    pub otherwise: Vec<Otherwise>,
    /// Rules.
    pub rules: Vec<RuleChange>,
    /// What was enforced or not said, and is a gap.
    pub new_gaps: Vec<Gap>,
    /// What was a gap, and is enforced or not said any more.
    pub closed_gaps: Vec<Gap>,
    /// The seccomp profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<SeccompChange>,
}

impl Changes {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of accesses of a class that no rule is about. `None`: the class is no whitelist, they pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Otherwise {
    /// The class.
    pub class: Class,
    /// Before.
    pub old: Option<PostureAction>,
    /// After.
    pub new: Option<PostureAction>,
    /// What that means.
    pub meaning: String,
    /// The rule that makes it a whitelist, `POLICY RULE`; none where there is no whitelist, or its Allow rules are gaps.
    pub because: Option<String>,
}

/// How a rule changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// It does something else, or under other conditions.
    Changed,
    /// It is gone.
    Removed,
    /// It is new.
    Added,
    /// It does the same, and its alerts say something else: policy, severity, tags, message.
    Reported,
    /// It does the same, and stands at another place of its policy, which alerts name.
    Moved,
}

/// A change of what is said about one object: by one source or any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleChange {
    /// How.
    pub change: Change,
    /// What the rules are about: `file /etc/passwd from /bin/sh`.
    pub about: String,
    /// The rules before.
    pub old: Vec<Side>,
    /// The rules after.
    pub new: Vec<Side>,
    /// What becomes of an access to just that, before and after: by all rules together. Only where that depends on
    /// nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<VerdictChange>,
}

/// A rule on one side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Side {
    /// What it does, and on which conditions: `block ownerOnly`.
    pub does: String,
    /// The policy, `NAMESPACE/NAME`.
    pub policy: String,
    /// The rule's place in the policy.
    pub rule: String,
}

/// What becomes of an access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictChange {
    /// `read`, `write`, `exec`, or `use`.
    pub access: Cow<'static, str>,
    /// Before.
    pub old: Verdict,
    /// After.
    pub new: Verdict,
}

/// How the seccomp profile changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompChange {
    /// Digest of the profile before; `None`: no policy selected the container.
    pub old: Option<String>,
    /// Digest after.
    pub new: Option<String>,
    /// Whether a running container is pending restart: it keeps its profile until it is created again.
    pub pending_restart: bool,
}

/// A part of a policy that is not enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The policy.
    pub policy: PolicyName,
    /// The part of it.
    pub field: String,
    /// What is not enforced.
    pub reason: String,
    /// What happens instead, and what to do.
    pub advice: String,
}

impl From<&coverage::Gap> for Gap {
    fn from(coverage::Gap { policy, field, reason, advice }: &coverage::Gap) -> Self {
        let (namespace, name) = (policy.namespace.clone(), policy.name.clone());
        Self {
            policy: PolicyName { kind: policy.kind.as_str().to_owned(), namespace, name },
            field: field.clone(),
            reason: reason.to_string(),
            advice: advice.clone(),
        }
    }
}

/// What a policy is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyName {
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty for the kinds that live in none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// `namespace/name`, or `name` alone.
impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.is_empty() {
            true => f.write_str(&self.name),
            false => write!(f, "{}/{}", self.namespace, self.name),
        }
    }
}
