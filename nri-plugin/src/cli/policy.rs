//! What is asked about policies without a container: `check`, `compile`, `explain`.

use std::path::PathBuf;

use clap::Args;
use enforcer_core::capability::Capability;
use enforcer_core::compile::apparmor::ProfileName;

use super::values::capability;
use super::{BaseChoice, ExpectedVerdict, Label, LibseccompVersion, Output, Posture};
use crate::lock::Lsm;

pub(super) const CHECK_HELP: &str = "\
Exit codes:
  0  every policy is valid (and, with --strict, enforced completely here)
  1  a policy has errors (or, with --strict, gaps)
  2  bad usage, or a file that cannot be read";

pub(super) const COMPILE_HELP: &str = "\
Exit codes:
  0  the profile is on stdout; what it does not say as written is on stderr
  1  with --strict, there is something that it does not say
  2  bad usage, or a policy or profile that cannot be read or has errors

Example:
  nri-enforcer compile --seccomp --policy policies/ --namespace default --label app=web > web.json
  nri-enforcer compile --apparmor --policy policies/ --namespace default --label app=web > web.profile";

pub(super) const EXPLAIN_HELP: &str = "\
Accesses:
  file:read:PATH      open for reading or executing
  file:write:PATH     change; or one of create, delete, rename, link, truncate, chmod, chown, mkdir, rmdir, symlink, mknod
  process:exec:PATH   execute

With --policy, the answer is what those policies say. Without, the running daemon is asked what a container really has: the
rules that it put in force, its links, its state; --host without --policy asks about the host.

Exit codes:
  0  the question was answered, whatever the verdict
  1  the verdict is not the one that --expect names
  2  bad usage, a policy that cannot be read or has errors, no daemon that answers, or no or more than one such container

Examples:
  nri-enforcer explain --policy policies/ --namespace default --label app=web --access file:read:/etc/passwd
  nri-enforcer explain --pod default/web-0 --container nginx --access file:read:/etc/passwd";

/// What says something about a container that does not run.
const OFFLINE: [&str; 7] = ["policies", "namespace", "labels", "postures", "base", "capabilities", "root"];

/// `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Policy files, or directories of them
    #[arg(required = true, value_name = "FILE_OR_DIR")]
    pub paths: Vec<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Gaps fail the check
    #[arg(long)]
    pub strict: bool,
    /// Judge the policies alone, not what this host supports
    #[arg(long)]
    pub no_host: bool,
    /// Judge for a node on which this lock holds the rules: bpf, apparmor, selinux [default: that of the daemon that runs
    /// here, unless --no-host is given; else bpf]
    #[arg(long, value_name = "LOCK")]
    pub lock: Option<Lsm>,
    /// Judge for a daemon with --combine: native `apparmor` rules are held by AppArmor, beside bpf
    #[arg(long)]
    pub combine: bool,
    /// Judge for a daemon with --host-policies
    #[arg(long)]
    pub host_policies: bool,
    /// The socket of the daemon that runs here, as given to `run`
    #[arg(long, value_name = "PATH", default_value = crate::config::DEFAULT_STATUS_SOCKET)]
    pub status_socket: PathBuf,
}

/// `compile`.
#[derive(Debug, Args)]
pub struct CompileArgs {
    /// Print the seccomp profile
    #[arg(long, required_unless_present = "apparmor", conflicts_with = "apparmor")]
    pub seccomp: bool,
    /// Print the AppArmor profile
    #[arg(long)]
    pub apparmor: bool,
    /// Policy file, or directory of them; may be repeated
    #[arg(long = "policy", required = true, value_name = "FILE_OR_DIR")]
    pub policies: Vec<PathBuf>,
    /// Namespace of the pod
    #[arg(long, value_name = "NS")]
    pub namespace: String,
    /// Label of the pod; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,
    /// Name of the container in the pod
    #[arg(long, value_name = "NAME", default_value = "")]
    pub container: String,
    /// With --seccomp: the profile below the policies: runtime-default, unconfined, or a file of OCI JSON
    #[arg(long, value_name = "PROFILE", default_value = "runtime-default", conflicts_with = "apparmor")]
    pub base: BaseChoice,
    /// With --seccomp: capability of the container, for runtime-default; may be repeated [default: those of containerd]
    #[arg(long = "cap", value_name = "CAP", value_parser = capability, conflicts_with = "apparmor")]
    pub capabilities: Vec<Capability>,
    /// With --seccomp: version of the runtime's libseccomp: `runc --version` tells
    #[arg(long, value_name = "VERSION", default_value = "2.5.4", conflicts_with = "apparmor")]
    pub libseccomp: LibseccompVersion,
    /// With --seccomp: print what is sent through NRI, which leaves the default errno out
    #[arg(long, conflicts_with = "apparmor")]
    pub nri: bool,
    /// With --apparmor: name of the profile
    #[arg(long, value_name = "NAME", default_value = "nri-enforcer.profile", conflicts_with = "seccomp")]
    pub name: ProfileName,
    /// With --apparmor: the container's processes have no_new_privs set (allowPrivilegeEscalation: false)
    #[arg(long, conflicts_with = "seccomp")]
    pub no_new_privs: bool,
    /// With --apparmor: what happens to an access that no rule matches, where a class has Allow rules; may be repeated
    #[arg(long = "posture", value_name = "CLASS=ACTION", conflicts_with = "seccomp")]
    pub postures: Vec<Posture>,
    /// With --apparmor: root of the container's image: symbolic links in it are followed
    #[arg(long, value_name = "DIR", conflicts_with = "seccomp")]
    pub root: Option<PathBuf>,
    /// Fail where the profile does not say what is written
    #[arg(long)]
    pub strict: bool,
}

/// `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Policy file, or directory of them; may be repeated
    #[arg(
        long = "policy",
        required_unless_present_any = ["pod", "id", "host"],
        value_name = "FILE_OR_DIR"
    )]
    pub policies: Vec<PathBuf>,
    /// Ask the running daemon about a container of this pod
    #[arg(long, value_name = "NS/NAME", conflicts_with_all = OFFLINE, conflicts_with_all = ["id", "host"])]
    pub pod: Option<String>,
    /// Ask the running daemon about the container whose id begins so: four characters at least
    #[arg(long, value_name = "ID", conflicts_with_all = OFFLINE, conflicts_with_all = ["host", "container"])]
    pub id: Option<String>,
    /// Namespace of the pod
    #[arg(long, value_name = "NS", required_unless_present_any = ["host", "pod", "id"])]
    pub namespace: Option<String>,
    /// Label of the pod; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,
    /// Name of the container in the pod
    #[arg(short, long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub container: String,
    /// What happens to an access that no rule matches, where a class has Allow rules; may be repeated
    #[arg(long = "posture", value_name = "CLASS=ACTION")]
    pub postures: Vec<Posture>,
    /// The seccomp profile below seccomp policies: runtime-default, unconfined, or a file of OCI JSON
    #[arg(long, value_name = "PROFILE", default_value = "runtime-default")]
    pub base: BaseChoice,
    /// Capability of the container, for --base runtime-default; may be repeated [default: those of containerd]
    #[arg(long = "cap", value_name = "CAP", value_parser = capability)]
    pub capabilities: Vec<Capability>,
    /// Root of the container's image: symbolic links in it are followed, as they are when a container is armed
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Ask as a process of the host: by the policies of --policy, or by what this host has
    #[arg(long)]
    pub host: bool,
    /// The access: file:read:/etc/passwd, process:exec:/bin/sh, network:connect:tcp:10.0.0.1:443,
    /// network:create:inet:stream:tcp, capability:use:net_raw, syscall:unlink, syscall:socket:16,3, preset:filelessExec
    #[arg(long, value_name = "CLASS:OP:OBJECT")]
    pub access: String,
    /// Executable of the acting process (for process:exec, of the one that calls execve)
    #[arg(long, value_name = "PATH")]
    pub source: Option<String>,
    /// Executable that starts the process: --source by another name, for process:exec
    #[arg(long, value_name = "PATH", conflicts_with = "source")]
    pub parent: Option<String>,
    /// An argument of the started process after its own name; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub args: Vec<String>,
    /// The acting process has a controlling terminal
    #[arg(long)]
    pub tty: bool,
    /// User id of the acting process
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub uid: u32,
    /// User id that owns the object
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub owner: u32,
    /// Fail unless this is the verdict
    #[arg(long, value_enum, value_name = "VERDICT")]
    pub expect: Option<ExpectedVerdict>,
    /// The daemon's socket, as given to `run`
    #[arg(long, value_name = "PATH", default_value = crate::config::DEFAULT_ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}
