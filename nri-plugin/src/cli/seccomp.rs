//! `seccomp`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::LibseccompVersion;

/// `seccomp`.
#[derive(Debug, Subcommand)]
pub enum SeccompCommand {
    /// Write drop-ins for the systemd services that policies name (`spec.services`)
    #[command(after_help = SYSTEMD_HELP)]
    Systemd(SystemdArgs),
}

pub(super) const SYSTEMD_HELP: &str = "\
Each service gets UNIT.d/zz-nri-enforcer-seccomp.conf; drop-ins of services that no policy names any more are removed.
Then run `systemctl daemon-reload`, and restart the services that are named.

Exit codes:
  0  the drop-ins are as the policies say
  1  a drop-in cannot be written or removed (or, with --strict, there are gaps, and nothing was written)
  2  bad usage, or a policy that cannot be read or has errors";

/// `seccomp systemd`.
#[derive(Debug, Args)]
pub struct SystemdArgs {
    /// Policy file, or directory of them; may be repeated
    #[arg(long = "policy", value_name = "FILE_OR_DIR", required_unless_present = "remove")]
    pub policies: Vec<PathBuf>,
    /// Root of the system whose units are meant
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Version of the libseccomp that systemd has [default: as its file is called, else the oldest]
    #[arg(long, value_name = "X.Y.Z")]
    pub libseccomp: Option<LibseccompVersion>,
    /// Print what would be done, and the drop-ins
    #[arg(long)]
    pub dry_run: bool,
    /// Remove all drop-ins of ours
    #[arg(long, conflicts_with = "policies")]
    pub remove: bool,
    /// Write nothing if a policy cannot be expressed completely
    #[arg(long)]
    pub strict: bool,
}
