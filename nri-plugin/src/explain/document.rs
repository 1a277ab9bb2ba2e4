//! What is asked about a container that runs, and answered: said at the admin socket.

use std::collections::BTreeMap;

use enforcer_core::decide::Verdict;
use enforcer_core::explain::Explanation;
use serde::{Deserialize, Serialize};

use crate::status::document::ContainerStatus;

/// An access of a container that the daemon knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Query {
    /// The container.
    pub which: Which,
    /// The access, as `--access` has it.
    pub access: String,
    /// The executable that acts.
    #[serde(default)]
    pub source: Option<String>,
    /// The arguments after the first that a process is started with.
    #[serde(default)]
    pub args: Vec<String>,
    /// Whether who acts has a controlling terminal.
    #[serde(default)]
    pub terminal: bool,
    /// The user id that acts.
    #[serde(default)]
    pub uid: u32,
    /// The user id that owns the object.
    #[serde(default)]
    pub owner: u32,
}

/// Which container is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Which {
    /// One of a pod.
    Pod {
        /// The pod's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The container's name; `None`: the only one.
        container: Option<String>,
    },
    /// The one whose id begins so.
    Id(String),
    /// None: the host's own processes.
    Host,
}

/// The answer, by what the kernel has for the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// What happens by the rules in force, and why.
    #[serde(flatten)]
    pub explanation: Explanation,
    /// The same of seccomp policies, where the access is a system call and one selects the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<SeccompTold>,
    /// What holds the rules in force: `bpf` or `apparmor`; `None`: none is in force.
    pub lock: Option<String>,
    /// Digest of the ruleset in force; `None`: there is none.
    pub ruleset: Option<String>,
    /// What becomes of accesses that no rule is about, in the classes that the ruleset in force makes a whitelist.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub postures: BTreeMap<String, String>,
    /// What the policies say as they are written, where that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_written: Option<AsWritten>,
    /// What of its policies is not enforced as written.
    #[serde(default)]
    pub gaps: Vec<GapTold>,
    /// What else there is to know.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The container.
    pub container: ContainerStatus,
}

impl Told {
    /// What happens: the rules and the seccomp profile both ask, and the stricter of the two counts.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let seccomp = self.seccomp.as_ref().filter(|seccomp| seccomp.not_in_force.is_none());
        seccomp.map_or(Verdict::Allow, |seccomp| seccomp.verdict).max(self.explanation.verdict)
    }
}

/// What the policies say, and is not so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AsWritten {
    /// What they say.
    #[serde(flatten)]
    pub explanation: Explanation,
    /// Why that is not in force.
    pub not_in_force: String,
}

/// What seccomp policies say about a system call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompTold {
    /// What happens by it.
    pub verdict: Verdict,
    /// The action: `allow`, `log`, `errno 1`, ...
    pub action: String,
    /// The policy whose rule decides.
    pub policy: Option<String>,
    /// The place of the rule in the policy.
    pub rule: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
    /// Why that is not what its processes have; `None`: it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_in_force: Option<String>,
}

/// A part of a policy that is not enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GapTold {
    /// The policy, `NAMESPACE/NAME`.
    pub policy: String,
    /// Where it stands: `spec.network.matchProtocols[0]`.
    pub field: String,
    /// Why it is not enforced.
    pub reason: String,
    /// What happens instead, and what to do.
    pub advice: String,
}
