//! What is said at the socket: one JSON document.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the document. Fields are added to it; another version takes some away, or changes what they mean.
pub const API_VERSION: &str = "status.nri-enforcer.io/v1";

/// How the node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// [`API_VERSION`]
    pub api_version: String,
    /// The daemon.
    pub daemon: Daemon,
    /// The containers that the runtime has, by namespace, pod and name; before them the host, where policies on its own
    /// processes are enforced.
    pub containers: Vec<ContainerStatus>,
    /// The policies in force, by kind, namespace and name. Empty: there are none, or the daemon is older than this field.
    #[serde(default)]
    pub policies: Vec<PolicyStatus>,
}

/// A policy, and how the node's containers that it selects stand to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty for the kinds that live in none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The containers on which it is in force, but for gaps.
    pub containers: u32,
    /// The containers that it selects, and on which it is not.
    #[serde(default)]
    pub uncovered: u32,
    /// Why, of the first of these; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Whether no lock of this node holds any of it: a container that it selects would be without it. Of policies on the
    /// host's own processes `uncovered` says that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unheld: bool,
    /// What it says and nothing enforces on this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<PolicyGap>,
    /// Who holds each of its rules on this node, in what it selects: the places (`spec.file.matchPaths[0]`) by `bpf`,
    /// `apparmor`, `selinux`, `seccomp`, or `none`. Empty: the daemon is older than this field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<String, Vec<String>>,
}

/// A part of a policy that is not enforced.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyGap {
    /// Where it stands: `spec.network.matchProtocols[0]`.
    pub field: String,
    /// Why it is not enforced.
    pub reason: String,
    /// What happens instead, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// The daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Daemon {
    /// Its version.
    pub version: String,
    /// The name of its node.
    pub node_name: String,
    /// Whether it enforces seccomp policies alone.
    pub seccomp_only: bool,
    /// What holds the rules other than seccomp policies: `bpf`, `apparmor`, `bpf+apparmor`, `selinux` (host policies alone),
    /// or `none`; empty: the daemon is older than this field.
    #[serde(default)]
    pub lock: String,
    /// Why what the lock denies is not counted under the containers' `verdicts`; `None`: it is. Denials by seccomp never are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_seen: Option<String>,
    /// Why AppArmor is not beside BPF-LSM, though it should be (`--combine`): native rules are gaps; `None`: it is, or need
    /// not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncombined: Option<String>,
    /// Whether it knows what runs: by its connection to the runtime, or, on a node without NRI, by podman's files and the
    /// kernel.
    pub connected: bool,
    /// Whether the node has no NRI by configuration (`--nri-socket none`), so that nothing but the OCI hook tells of starts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_nri: bool,
    /// Containers of podman's that may run, by id, and why it is not known who they are: no policy reaches them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unknown: BTreeMap<String, String>,
    /// How many policies there are.
    pub policies: usize,
    /// The node's postures, by class: `file: block`. `process` is there where it does not follow `file`.
    #[serde(default)]
    pub postures: BTreeMap<String, String>,
    /// Why selected containers do not get the OCI hook, though the daemon is to put it into them (`--hook`); `None`: they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_hook: Option<String>,
    /// Why a change of the policies that was not confirmed could not be reverted; `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_reverted: Option<String>,
    /// What others than root can change of where policies come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untrusted: Vec<String>,
    /// How policies on the host's own processes stand; `None`: the daemon is older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostStatus>,
    /// How the watch of the API server stands; `None`: no policies come from there (`--kube-api`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiStatus>,
}

/// How policies on the host's own processes stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// Whether they are enforced.
    pub enforced: bool,
    /// Why they are not, though they should be (`--host-policies`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How many there are that select this node and are not enforced.
    #[serde(default)]
    pub not_enforced: usize,
    /// How many there are that may select this node, whose labels are not known yet, and so are not enforced.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub awaiting_labels: usize,
    /// The postures of the host.
    #[serde(default)]
    pub postures: BTreeMap<String, String>,
    /// What is exempt and was not found on this host when the daemon started: cgroups and programs.
    #[serde(default)]
    pub not_found: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// How the watch of the API server stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiStatus {
    /// Seconds since what is in memory was last known to be what the server has; `None`: it has not been read since the
    /// daemon started.
    pub staleness_seconds: Option<u64>,
    /// The same where the last known set from disk counts, by when it was saved; `None`: there is no set, or the daemon is
    /// older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Whether there is a set to enforce: read from the server, or the last known one.
    pub has_set: bool,
    /// How many objects there are, by kind.
    pub objects: BTreeMap<String, usize>,
    /// How many of them are left out for want of room, by kind; kinds of which none is are not there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, usize>,
    /// What stands in the way now, by kind.
    pub troubles: BTreeMap<String, String>,
    /// What the cluster cannot be told now (`--kube-status`), and why. It changes nothing of what is enforced.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub untold: BTreeMap<String, String>,
    /// Where the daemon started from a last known set: how many objects it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<usize>,
    /// Why the last known set could not be used at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_restored: Option<String>,
    /// Why the set cannot be saved for the next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_saved: Option<String>,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// The runtime's id.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Its name.
    pub container: String,
    /// The labels that policies select it by; `None`: the daemon is older than this field.
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
    /// Whether it is no container, but the host's own processes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host: bool,
    /// Whether its pod may have what policies deny reported instead, and does.
    #[serde(default)]
    pub audited: bool,
    /// How it stands.
    pub state: State,
    /// Why, where that is not plain; else empty.
    pub reason: String,
    /// The policies that select it, `NAMESPACE/NAME`, sorted.
    pub policies: Vec<String>,
    /// What of them is not enforced as written.
    pub gaps: usize,
    /// Digest of the ruleset that is in force for it, as alerts have it in `Data`; `None`: there is none, or the daemon is
    /// older than this field.
    #[serde(default)]
    pub ruleset: Option<String>,
    /// What was decided about it; `None`: the daemon is older than this field.
    #[serde(default)]
    pub verdicts: Option<Verdicts>,
    /// Who holds the rules of which policies: `bpf`, `apparmor` and `seccomp`, each with `NAMESPACE/NAME`s, sorted.
    #[serde(default)]
    pub held: BTreeMap<String, Vec<String>>,
    /// Its AppArmor profile, where that is one of ours.
    #[serde(default)]
    pub apparmor: Option<String>,
    /// Other names by which paths of its rules count, by links in the container: `/bin/ls (resolves to /usr/bin/ls)`.
    #[serde(default)]
    pub names: Vec<String>,
    /// Its seccomp profile; `None`: no seccomp policy selects it, and it was created with none.
    pub seccomp: Option<Seccomp>,
}

/// What was decided about a container since it started; where the daemon started later, since then. Each counts, also where
/// alerts were summarized or lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdicts {
    /// Accesses that were denied.
    pub blocked: u64,
    /// Accesses that passed, and were reported.
    pub audited: u64,
}

/// How a container stands to its policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// They are in force, but for gaps.
    Armed,
    /// They are in force, but for seccomp policies that changed since it was created.
    PendingRestart,
    /// They, or some of them, are not in force.
    NotCovered,
    /// No policy reaches it: its namespace is exempt, or its pod may switch enforcement off, and does.
    Exempt,
    /// No policy selects it.
    NotSelected,
    /// It has ended, and the runtime has not removed it yet.
    Ended,
}

impl State {
    /// Whether it is as it should be.
    #[must_use]
    pub const fn is_good(self) -> bool {
        match self {
            Self::Armed | Self::Exempt | Self::NotSelected | Self::Ended => true,
            Self::PendingRestart | Self::NotCovered => false,
        }
    }
}

/// The seccomp profile of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    /// How it stands to the policies.
    pub state: crate::seccomp::ledger::State,
    /// Why; empty where it is in force.
    pub reason: String,
    /// Digest of the profile that it was created with, as in the annotation `nri-enforcer.io/seccomp`.
    pub profile: Option<String>,
    /// The file that its pod had to name, on runtimes before NRI 0.10.
    pub file: Option<String>,
}
