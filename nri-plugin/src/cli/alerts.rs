//! `alerts`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::SystemTime;

use clap::{Args, ValueEnum};

use super::{Label, Output};

pub(super) const ALERTS_HELP: &str = "\
Without FILE the daemon is asked: it tells the last alerts that it still has, up to 256, and with -f those that come. Who
reads slower than they come misses some, is told how many, and holds up nobody. With FILE, what `run --alerts` wrote is read.
A notice that alerts were lost is shown whatever the filters.

Exit codes:
  0  everything was read
  1  some lines are no alerts; stderr says how many
  2  bad usage, a file that cannot be read, or no daemon that answers, or one that ended before it had told all

Examples:
  nri-enforcer alerts -f --operation file --label app=web
  kubectl logs -n nri-enforcer ds/nri-enforcer | nri-enforcer alerts --severity 5 -
  nri-enforcer alerts -f --namespace default /var/log/nri-enforcer/alerts.jsonl
  nri-enforcer alerts --since 10m --action block /var/log/nri-enforcer/alerts.jsonl";

/// `alerts`.
#[derive(Debug, Args)]
pub struct AlertsArgs {
    /// File of alerts; `-` is stdin [default: the running daemon is asked]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Go on with what comes later, also when the file is replaced or cut
    #[arg(short, long)]
    pub follow: bool,
    /// Only of this namespace; may be repeated
    #[arg(long = "namespace", value_name = "NS")]
    pub namespaces: Vec<String>,
    /// Only of this pod; may be repeated
    #[arg(long = "pod", value_name = "NAME")]
    pub pods: Vec<String>,
    /// Only of the container with this name in its pod; may be repeated
    #[arg(long = "container", value_name = "NAME")]
    pub containers: Vec<String>,
    /// Only of pods with this label; may be repeated: they have all of them
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,
    /// Only of this policy, NAME or NAMESPACE/NAME, or DefaultPosture; may be repeated
    #[arg(long = "policy", value_name = "NAME")]
    pub policies: Vec<String>,
    /// Only about this; may be repeated
    #[arg(long = "operation", value_enum, value_name = "OPERATION")]
    pub operations: Vec<AlertOperation>,
    /// Only of policies with this severity, 1 to 10, or a higher one; what a posture decides has none, and is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=10))]
    pub severity: Option<u8>,
    /// Only those with this action
    #[arg(long, value_enum)]
    pub action: Option<AlertAction>,
    /// Only those of the last TIME, as in 90s or 2h, or since a time as in 2026-11-22T18:59:04Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Output format; json: the lines as they are
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Without FILE: the daemon's socket, as given to `run`
    #[arg(long, value_name = "PATH", default_value = crate::config::DEFAULT_ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
}

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AlertOperation {
    /// Reading and writing of files.
    File,
    /// Executions.
    Process,
    /// Sockets.
    Network,
    /// Capabilities.
    Capabilities,
    /// System calls.
    Syscall,
}

impl AlertOperation {
    /// As alerts have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "File",
            Self::Process => "Process",
            Self::Network => "Network",
            Self::Capabilities => "Capabilities",
            Self::Syscall => "Syscall",
        }
    }
}

/// What was done to the access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AlertAction {
    /// It was denied.
    Block,
    /// It passed, and was reported.
    Audit,
}

/// `--since`: the time that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since(pub SystemTime);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = humantime::parse_rfc3339_weak(text) {
            return Ok(Self(time));
        }
        let ago =
            humantime::parse_duration(text).map_err(|error| format!("{error}; write 10m, or a time"))?;
        // before the beginning of time there was nothing, too
        Ok(Self(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)))
    }
}
