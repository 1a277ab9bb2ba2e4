//! What the daemon tells `top`: what has been counted until now. Rates come of two of these.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What has been counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The name of the node.
    pub node_name: String,
    /// What holds the rules, as in `status`.
    pub lock: String,
    /// When this was counted, in nanoseconds of a clock that nobody sets; only differences mean something.
    pub at_nanoseconds: u64,
    /// The same by the clock of the day, in milliseconds since 1970.
    pub time_milliseconds: u64,
    /// Denials and audited accesses since the daemon started.
    pub denials: Vec<Denial>,
    /// Why denials by the lock are not among them; `None`: they are. Those by seccomp never are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_seen: Option<String>,
    /// How many of them are in no row, since there were too many rows.
    pub forgotten: u64,
    /// The programs in the kernel, by name.
    pub programs: Vec<Program>,
    /// Why their cost is not measured; `None`: it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_measured: Option<String>,
    /// Events that the ring buffer had no room for, since the programs were loaded first.
    pub ring_dropped: u64,
    /// What failed in the kernel since then, by place; places without a failure are left out.
    pub failures: BTreeMap<String, u64>,
    /// Why these two could not be read; `None`: they could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_counted: Option<String>,
}

/// Verdicts of one rule on one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denial {
    /// The container's id.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Its name.
    pub container: String,
    /// Namespace of the policy; empty for kinds that live in none.
    pub policy_namespace: String,
    /// The policy, or `DefaultPosture`.
    pub policy: String,
    /// The rule in it.
    pub rule: String,
    /// As in alerts: `File`, `Process`, ...
    pub operation: String,
    /// As in alerts: `Block` or `Audit`.
    pub action: String,
    /// How many there were.
    pub total: u64,
    /// When the last one was told, in milliseconds since 1970.
    pub last_milliseconds: u64,
}

/// A program in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Where it stands: `lsm/file_open`.
    pub section: String,
    /// How often it ran while somebody measured.
    pub calls: u64,
    /// How long that took, in nanoseconds.
    pub nanoseconds: u64,
}
