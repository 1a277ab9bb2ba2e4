//! `seccomp` and `learn`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Label, LibseccompVersion};

/// `seccomp`.
#[derive(Debug, Subcommand)]
pub enum SeccompCommand {
    /// Write drop-ins for the systemd services that policies name (`spec.services`)
    #[command(after_help = SYSTEMD_HELP)]
    Systemd(SystemdArgs),
}

/// `learn`.
#[derive(Debug, Subcommand)]
pub enum LearnCommand {
    /// Make a seccomp policy of the system calls that an Audit policy logged
    #[command(after_help = LEARN_HELP)]
    Seccomp(LearnSeccompArgs),
}

pub(super) const SYSTEMD_HELP: &str = "\
Each service gets UNIT.d/zz-nri-enforcer-seccomp.conf; drop-ins of services that no policy names any more are removed.
Then run `systemctl daemon-reload`, and restart the services that are named.

Exit codes:
  0  the drop-ins are as the policies say
  1  a drop-in cannot be written or removed (or, with --strict, there are gaps, and nothing was written)
  2  bad usage, or a policy that cannot be read or has errors";

pub(super) const LEARN_HELP: &str = "\
Give the container a policy with `syscalls: [\"@known\"]` and `action: Audit`, start it, and run this while it works.

Exit codes:
  0  a policy was printed
  1  nothing was logged
  2  bad usage, or a log that cannot be read

Example:
  nri-enforcer learn seccomp --for 60s --namespace default --label app=web --name web > web.yaml";

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

/// `learn seccomp`.
#[derive(Debug, Args)]
pub struct LearnSeccompArgs {
    /// `audit` listens to the kernel, `-` is stdin, `/dev/kmsg` the kernel's log (which loses most), else a log file
    #[arg(long, value_name = "audit|-|FILE", default_value = "audit")]
    pub from: PathBuf,
    /// How long to listen, for example 60s or 10m [default: 30s; for /dev/kmsg, until its end]
    #[arg(long, value_name = "TIME")]
    pub r#for: Option<humantime::Duration>,
    /// Only this process; may be repeated
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<i32>,
    /// Only tasks of this name; may be repeated
    #[arg(long = "comm", value_name = "NAME")]
    pub comms: Vec<String>,
    /// Only this executable, as the container has it; may be repeated
    #[arg(long = "exe", value_name = "PATH")]
    pub exes: Vec<String>,
    /// Only processes of the container with this id, as long as they live
    #[arg(long, value_name = "ID")]
    pub container: Option<String>,
    /// System calls that were denied, too
    #[arg(long)]
    pub denied: bool,
    /// Name of the policy
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Namespace of the policy
    #[arg(long, value_name = "NS")]
    pub namespace: String,
    /// Label of the pods that it selects; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,
}
