//! What the reconciler is told, and what it answers.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use enforcer_core::enforce::ContainerId;
use enforcer_core::ruleset::Ruleset;
use nri_enforcer_hook::spool::OpenStart;
use tokio::sync::oneshot;

use crate::container::Container;
use crate::metrics::health::Pulse;
use crate::observe::watches::Who;
use crate::procs::Process;
use crate::seccomp::ledger::Created;

/// What the reconciler is told.
#[derive(Debug)]
pub enum Order {
    /// A container is being created. It has no process yet.
    Created(Arc<Container>),
    /// A container that a policy selects is about to start: arm it now, and answer.
    Start {
        /// The container.
        container: Arc<Container>,
        /// Its first process, which has not executed the workload yet.
        pid: i32,
        /// The start is allowed, or refused.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// The OCI hook asks whether a container may start, before its root has changed: arm it now, and answer.
    Gate {
        /// The container, as the hook tells it.
        caller: Caller,
        /// What is said to the hook.
        reply: oneshot::Sender<Gated>,
    },
    /// The OCI hook was not there any more when it was told that its container is armed.
    Unheard(ContainerId),
    /// The OCI hook tells that a container is gone.
    Gone(ContainerId),
    /// A container that no policy selected has started; nobody waits.
    Started {
        /// The container.
        container: Arc<Container>,
        /// Its first process; 0 where the runtime did not tell.
        pid: i32,
    },
    /// A container that an earlier daemon armed, and of which no runtime tells: podman's, found in its files.
    Found {
        /// The container.
        container: Arc<Container>,
        /// Its first process, as podman noted it: it may be another one's by now; 0: not noted.
        pid: i32,
        /// Whether podman has noted that the workload runs: it does not only wait for its start.
        started: bool,
    },
    /// The runtime forgets the container.
    Removed(ContainerId),
    /// All that the runtime has, after it connected.
    Synchronize {
        /// The containers that are not over.
        present: Vec<Present>,
        /// Sent once each of them has been looked at.
        reply: oneshot::Sender<Synced>,
    },
    /// All that runs on a node where no runtime tells, as far as podman's files do; so nobody tells of more.
    Listed {
        /// podman's containers that run.
        running: Vec<Running>,
        /// How many more run of which it is not known who they are.
        unknown: usize,
        /// Sent once each of them has been looked at; dropped where that cannot be.
        reply: oneshot::Sender<Synced>,
    },
    /// Containers of podman's run, and were not known until now, or were restored from a checkpoint.
    Identified(Vec<Running>),
    /// Somebody begins to watch these containers, or has ended.
    Watched(Who),
    /// The policies are other ones.
    PoliciesChanged,
    /// Say where a container's root is.
    RootOf {
        /// The container.
        id: ContainerId,
        /// `None`: it has no process, or its root cannot be told.
        reply: oneshot::Sender<Option<RootOf>>,
    },
    /// Give a sign of life.
    Ping(Arc<Pulse>),
    /// Compare with what lives and what the kernel has; try again what failed.
    Sweep,
}

/// Where the root of a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootOf {
    /// Its first process.
    pub process: Process,
    /// Where it is in the root of that process.
    pub below: PathBuf,
}

/// A container in whose name the OCI hook asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The runtime's id.
    pub id: ContainerId,
    /// Its first process.
    pub pid: i32,
    /// The directory that is to be its root, in the mount namespace of that process; `None`: not known.
    pub root: Option<PathBuf>,
    /// That directory's inode number.
    pub root_inode: Option<u64>,
    /// Its pod's namespace, by the runtime's annotations; empty: not told.
    pub namespace: String,
}

/// What the OCI hook is to be answered.
#[derive(Debug)]
pub enum Gated {
    /// The policies are in force.
    Armed,
    /// No policy selects the container.
    Nothing,
    /// The runtime has not told about the container, and a policy may select it.
    Unknown,
    /// It is not known yet which policies there are, and why.
    Awaits(String),
    /// It must not start.
    Refused(Refusal),
}

/// A container in a synchronisation.
#[derive(Debug)]
pub struct Present {
    /// The container.
    pub container: Arc<Container>,
    /// Its first process; 0 if it has none yet.
    pub pid: i32,
    /// Whether the workload runs, rather than the runtime's preparation for it.
    pub running: bool,
}

/// A container of podman's that runs.
#[derive(Debug)]
pub struct Running {
    /// The container.
    pub container: Arc<Container>,
    /// Its first process, which is certainly its own; 0: it is armed, and that process is not known.
    pub pid: i32,
    /// Whether podman has noted that it was started: one that it has only made has not begun for good reason.
    pub started: bool,
    /// What it was created with.
    pub created: Created,
}

/// What a synchronisation came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Synced {
    /// Containers that an earlier daemon, or this one, had armed already.
    pub adopted: usize,
    /// Containers that ran unprotected until now.
    pub late: usize,
    /// Containers that should be armed and could not be.
    pub failed: usize,
    /// Containers that run and that nobody can tell who they are: no policy reaches them.
    pub unknown: usize,
}

impl Synced {
    /// Whether everything that runs is as it should be: nothing else needs to hold any of it any more.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.failed == 0 && self.unknown == 0
    }
}

/// Why a container must not start.
#[derive(Debug, thiserror::Error)]
#[error("{container}: {policies} cannot be put in force: {reason}; {advice}")]
pub struct Refusal {
    container: Arc<Container>,
    policies: String,
    reason: String,
    advice: &'static str,
}

impl Refusal {
    /// A refusal that names who, by which policies, why, and what to do.
    pub fn new(
        container: &Arc<Container>,
        policies: String,
        reason: impl fmt::Display,
        advice: &'static str,
    ) -> Self {
        Self { container: Arc::clone(container), policies, reason: reason.to_string(), advice }
    }
}

/// What people should know beyond single alerts.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A container whose processes ran before its policies were in force: whatever they did so far was not judged.
    Late {
        /// The container.
        container: Arc<Container>,
        /// The rules in force from now on.
        ruleset: Arc<Ruleset>,
    },
    /// A container that policies select runs, and they are not in force.
    Unprotected {
        /// The container.
        container: Arc<Container>,
        /// The rules that are not in force.
        ruleset: Arc<Ruleset>,
        /// Why.
        reason: String,
    },
    /// A container that policies select is created without the OCI hook, though the node is to have it.
    WithoutHook {
        /// The container.
        container: Arc<Container>,
        /// Why, and what that means.
        reason: String,
    },
    /// The OCI hook let a container through though no daemon vouched for it, while this one was away.
    Open(OpenStart),
    /// The seccomp policies of a container changed since it was started; it keeps its profile until it is restarted.
    SeccompPending {
        /// The container.
        container: Arc<Container>,
        /// The policies that select it now, for people.
        policies: String,
    },
    /// A container starts without the seccomp profile of its policies.
    SeccompNotApplied {
        /// The container.
        container: Arc<Container>,
        /// The policies, for people.
        policies: String,
        /// Why, and what to do.
        advice: String,
    },
}
