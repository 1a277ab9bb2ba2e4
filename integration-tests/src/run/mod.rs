//! `lab run`: a pod under policies, the commands in it, and what came of it.

mod agent;
mod host;
mod render;

use serde::{Deserialize, Serialize};

use crate::node::{Alert, Pod};

pub(crate) use agent::running_daemon;
pub use agent::{carry_out, command_line, leave_daemon};
pub use host::{Target, guest_job, hook, in_guest, machine_with_daemon, on_host, with_daemon};
pub use render::{alert_line, print};

/// Where the agent finds the user's root, as an image archive.
pub(crate) const IMAGE_FILE: &str = "image.tar";
/// Where the agent finds the daemon.
pub const DAEMON_FILE: &str = "nri-enforcer";
/// Where a daemon works that is part of a saved machine. Not in `/lab`, where jobs' files go.
pub const DAEMON_FOLDER: &str = "/run/lab-daemon";
/// Lines that the agent sends beside the result begin with this: what it is doing.
pub(crate) const PROGRESS: &str = "@lab ";

/// Name and text of a policy file.
pub type PolicyFile = (String, String);

/// What is to be done on the node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The pod to start.
    pub pod: Pod,
    /// The container that commands run in, and whose own program is reported.
    pub container: String,
    /// None: no daemon is started.
    pub policies: Vec<PolicyFile>,
    /// `CLASS=ACTION`, for the daemon.
    pub postures: Vec<String>,
    /// Whether a daemon is part of the saved machine; else it comes with the job.
    pub daemon_runs: bool,
    /// Whether the pod is removed at the end; a guest is thrown away with all that runs in it.
    pub clean_up: bool,
    /// Whether the pod's image comes with the job.
    pub own_image: bool,
    /// Commands to run in the container, in this order.
    pub execs: Vec<String>,
    /// Seconds that each program may take.
    pub timeout: u64,
}

/// What came of it. This is `-o json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The container's own program.
    pub entry: Entry,
    /// Those of init containers, in order; absent where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init: Vec<Entry>,
    /// The commands, in order.
    pub execs: Vec<Exec>,
    /// The daemon's alerts, in order. What the lab itself runs to keep a container alive is left out.
    pub alerts: Vec<Alert>,
}

/// A container's own program.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Entry {
    /// Name of the container.
    pub container: String,
    /// Program and arguments; empty when it was only to wait.
    pub command: Vec<String>,
    /// Whether it was started. When not, `reason` says why.
    pub started: bool,
    /// Exit status; `null` when it was still running at the end, or never started.
    pub exit: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Why it was not started, or how it ended, in the runtime's words; empty when there is nothing to say.
    pub reason: String,
}

/// A command in the container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exec {
    /// As it was given.
    pub command: String,
    /// Exit status: 127 when it is not there, 126 when it is no program, 124 when it took too long. Where a policy denies
    /// its execution, the runtime's helper has failed in its place and says so in `stderr`: 1 or 255.
    pub exit: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error; for 126 and 127 the runtime's words.
    pub stderr: String,
}
