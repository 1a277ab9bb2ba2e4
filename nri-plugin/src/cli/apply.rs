//! Changes of the policies that wait to be confirmed.

use std::path::PathBuf;

use clap::Args;

pub(super) const APPLY_HELP: &str = "\
The files are put into the daemon's first policy directory, under their own names. What was there before comes back, byte for
byte, unless the change is confirmed in time: also when this command ends, the connection is lost, or the daemon dies.

Exit codes:
  0  applied, and confirmed where that was asked for
  1  not applied: the daemon refused or does not answer; or it cannot revert, and tries on
  2  bad usage, or files with errors
  3  reverted

Example:
  nri-enforcer apply --confirm-within 60s host.yaml";

pub(super) const CONFIRM_HELP: &str = "\
Exit codes:
  0  confirmed; with --revert, reverted
  1  no change waits to be confirmed, or the daemon does not answer
  2  bad usage";

/// `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Policy files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Undo it after this time, 1s to 1h, unless it is confirmed
    #[arg(long, value_name = "TIME")]
    pub confirm_within: Option<humantime::Duration>,
    /// The daemon's socket, as given to `run`
    #[arg(long, value_name = "PATH", default_value = crate::config::DEFAULT_ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
}

/// `confirm`.
#[derive(Debug, Args)]
pub struct ConfirmArgs {
    /// Undo the change now, rather than keep it
    #[arg(long)]
    pub revert: bool,
    /// The daemon's socket, as given to `run`
    #[arg(long, value_name = "PATH", default_value = crate::config::DEFAULT_ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
}
