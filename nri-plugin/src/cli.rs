//! The command line: what a user may type. Each command's own module says what it does.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use enforcer_core::capability::Capability;
use enforcer_core::compile::apparmor::ProfileName;
use enforcer_core::ruleset::{Class, Effect, PostureAction, Postures};

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  the answer is no: a policy has errors, the verdict is not the expected one, this host cannot enforce, or the daemon failed
  2  bad usage or input that cannot be read";

/// Enforces KubeArmor policies on containers, from their first instruction, through NRI and BPF-LSM.
#[derive(Debug, Parser)]
#[command(name = "nri-enforcer", version, about, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: connect to the container runtime and enforce the policies of the given directories
    #[command(after_help = RUN_HELP)]
    Run(Box<RunArgs>),
    /// Validate policy files and show what this host would not enforce
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
    /// Print what the policies make of a container: with --seccomp, its seccomp profile as OCI JSON
    #[command(after_help = COMPILE_HELP)]
    Compile(Box<CompileArgs>),
    /// Say what the policies decide about one access of one container, and why
    #[command(after_help = EXPLAIN_HELP)]
    Explain(Box<ExplainArgs>),
    /// Show what this host supports, and what to do about the rest
    #[command(after_help = "Exit codes:\n  0  this host can enforce\n  1  it cannot; the table says why")]
    Probe(ProbeArgs),
    /// Ask the running daemon how each container stands to its policies
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Set a container runtime up for nri-enforcer, or undo that: NRI switched on, the OCI hook in place
    #[command(after_help = INSTALL_HELP)]
    Install(InstallArgs),
    /// Apply seccomp policies where there is no container runtime
    #[command(subcommand)]
    Seccomp(SeccompCommand),
    /// Make a policy of what was seen
    #[command(subcommand)]
    Learn(LearnCommand),
    /// Remove everything from the kernel: every container goes unprotected
    #[command(
        after_help = "Exit codes:\n  0  nothing is left in the kernel\n  1  something could not be removed\n  2  not confirmed"
    )]
    Unload(UnloadArgs),
}

const RUN_HELP: &str = "\
Signals:
  SIGTERM, SIGINT  stop; what is armed in the kernel stays in force (see `nri-enforcer unload`)
  SIGHUP           reopen the alerts file, and read the policies again

Exit codes:
  0  stopped by a signal
  1  could not start (the kernel cannot enforce, a policy directory cannot be read), or failed
  2  bad usage or configuration";

const CHECK_HELP: &str = "\
Exit codes:
  0  every policy is valid (and, with --strict, enforced completely here)
  1  a policy has errors (or, with --strict, gaps)
  2  bad usage, or a file that cannot be read";

const COMPILE_HELP: &str = "\
Exit codes:
  0  the profile is on stdout; what it does not say as written is on stderr
  1  with --strict, there is something that it does not say
  2  bad usage, or a policy or profile that cannot be read or has errors

Example:
  nri-enforcer compile --seccomp --policy policies/ --namespace default --label app=web > web.json
  nri-enforcer compile --apparmor --policy policies/ --namespace default --label app=web > web.profile";

const STATUS_HELP: &str = "\
States:
  armed            its policies are in force; gaps are what of them cannot be enforced here
  pending restart  seccomp policies changed since it was created; it keeps its profile until it is created again
  not covered      policies select it, and are not in force; the last column says why
  exempt           no policy reaches it
  not selected     no policy selects it
  ended            it has ended, and the runtime has not removed it yet

Exit codes:
  0  every container that policies select is covered, and the daemon is connected to the runtime
  1  some container is not covered or pending restart, or the daemon is not connected, or none answers
  2  bad usage

Example:
  nri-enforcer status --pending --namespace default";

const EXPLAIN_HELP: &str = "\
Accesses:
  file:read:PATH      open for reading or executing
  file:write:PATH     change; or one of create, delete, rename, link, truncate, chmod, chown, mkdir, rmdir, symlink, mknod
  process:exec:PATH   execute

Exit codes:
  0  the question was answered, whatever the verdict
  1  the verdict is not the one that --expect names
  2  bad usage, or a policy that cannot be read or has errors

Example:
  nri-enforcer explain --policy policies/ --namespace default --label app=web --access file:read:/etc/passwd";

/// `run`: each flag can also be a key of the `--config` file; the flag wins.
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// YAML file with the same settings in camel case (policyDirs, nriSocket, ...); flags win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of policies (*.yaml, *.yml, *.json), watched for changes; may be repeated
    #[arg(long = "policy-dir", value_name = "DIR")]
    pub policy_dirs: Vec<PathBuf>,
    /// The runtime's NRI socket [default: /var/run/nri/nri.sock]
    #[arg(long, value_name = "PATH")]
    pub nri_socket: Option<PathBuf>,
    /// Socket at which the OCI hook asks whether a container may start [default: /run/nri-enforcer/gate.sock]
    #[arg(long, value_name = "PATH")]
    pub gate_socket: Option<PathBuf>,
    /// Socket at which `nri-enforcer status` asks [default: /run/nri-enforcer/status.sock]
    #[arg(long, value_name = "PATH")]
    pub status_socket: Option<PathBuf>,
    /// The OCI hook `nri-enforcer-hook` on the host: put into each container that a policy selects
    #[arg(long, value_name = "PATH")]
    pub hook: Option<PathBuf>,
    /// Directory in which the OCI hook records what it let through [default: /var/lib/nri-enforcer/open-starts]
    #[arg(long, value_name = "DIR")]
    pub open_starts: Option<PathBuf>,
    /// podman's storage directory [default: the graphroot of storage.conf, else /var/lib/containers/storage]
    #[arg(long, value_name = "DIR")]
    pub podman_storage: Option<PathBuf>,
    /// Name under which to register with the runtime [default: nri-enforcer]
    #[arg(long, value_name = "NAME")]
    pub plugin_name: Option<String>,
    /// Two digits: the place among the runtime's plugins [default: 10]
    #[arg(long, value_name = "NN")]
    pub plugin_index: Option<String>,
    /// Where alerts go, one JSON object a line: `-` is stdout, else a file that is appended to [default: -]
    #[arg(long, value_name = "-|FILE")]
    pub alerts: Option<PathBuf>,
    /// Directory below a bpffs where programs and maps are pinned [default: /sys/fs/bpf/nri-enforcer]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// What happens to an access that no rule matches, where a class has Allow rules; may be repeated
    #[arg(long = "posture", value_name = "CLASS=ACTION")]
    pub postures: Vec<Posture>,
    /// Namespace whose containers are left alone; may be repeated and replaces the default [default: kube-system]
    #[arg(long = "exempt-namespace", value_name = "NS")]
    pub exempt_namespaces: Vec<String>,
    /// Refuse to start a container whose policies cannot be enforced completely here
    #[arg(long)]
    pub strict: bool,
    /// Let pods switch their own enforcement off (annotation `kubearmor-policy: disabled`) or down (`audited`)
    #[arg(long)]
    pub honour_pod_annotations: bool,
    /// Enforce seccomp policies alone: nothing is loaded into the kernel, every other rule is a gap
    #[arg(long)]
    pub seccomp_only: bool,
    /// kubelet's directory of seccomp profiles (`KUBELET_ROOT/seccomp`); may be repeated [default: those of the kubelets
    /// that are found]
    #[arg(long = "seccomp-dir", value_name = "DIR")]
    pub seccomp_dirs: Vec<PathBuf>,
    /// Version of the libseccomp that the container runtime has [default: as `runc --version` says]
    #[arg(long, value_name = "X.Y.Z")]
    pub libseccomp: Option<String>,
    /// File to write once policies are loaded, programs attached, and the runtime's running containers taken over
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Name of the cluster, for alerts [default: default]
    #[arg(long, value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// Name of this node, for alerts [default: the host name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// How the log on stderr looks [default: text]
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormat>,
    /// What to log: a level or a filter in the syntax of RUST_LOG, which it beats [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
}

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
    #[arg(long = "policy", required = true, value_name = "FILE_OR_DIR")]
    pub policies: Vec<PathBuf>,
    /// Namespace of the pod
    #[arg(long, value_name = "NS", required_unless_present = "host")]
    pub namespace: Option<String>,
    /// Label of the pod; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,
    /// Name of the container in the pod
    #[arg(long, value_name = "NAME", default_value = "")]
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
    /// Ask as a process of the host
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
    /// An argument of the started process after its first, argv[0]; may be repeated
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
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The daemon's socket, as given to `run`
    #[arg(long, value_name = "PATH", default_value = crate::config::DEFAULT_STATUS_SOCKET)]
    pub status_socket: PathBuf,
    /// Only containers of this namespace
    #[arg(long, value_name = "NS")]
    pub namespace: Option<String>,
    /// Only containers that are not covered, or pending restart
    #[arg(long)]
    pub pending: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

const INSTALL_HELP: &str = "\
What is there is edited in place: comments, order and line ends stay. A changed file has a copy beside it
(FILE.nri-enforcer-backup). What was done is recorded in /var/lib/nri-enforcer/installed, and --uninstall undoes just that.

Exit codes:
  0  all is as it should be, changed or not
  1  nothing was changed, as something is in the way; or --uninstall had to leave something
  2  bad usage, or a configuration that cannot be read

Examples:
  nri-enforcer install --runtime containerd --dry-run
  nri-enforcer install --runtime containerd --base-runtime-spec
  nri-enforcer install --runtime podman --uninstall";

/// `install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Which runtime
    #[arg(long, value_enum)]
    pub runtime: Runtime,
    /// Undo what was installed; what others have changed since stays
    #[arg(long)]
    pub uninstall: bool,
    /// Show the differences, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Root of the host, where it is mounted elsewhere; all other paths but --hook and --hook-config are below it
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// The OCI hook to copy [default: nri-enforcer-hook beside this program]
    #[arg(long, value_name = "FILE", conflicts_with = "uninstall")]
    pub hook: Option<PathBuf>,
    /// Where the hook and its configuration are put
    #[arg(long, value_name = "DIR", default_value = "/opt/nri-enforcer")]
    pub hook_dir: PathBuf,
    /// Configuration of the hook to copy, unless one that was changed by hand is there [default: mode closed, kube-system
    /// exempt]
    #[arg(long, value_name = "FILE", conflicts_with = "uninstall")]
    pub hook_config: Option<PathBuf>,
    /// containerd's configuration, or a template of it (*.tmpl, as k3s has)
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml")]
    pub config: PathBuf,
    /// containerd: put the hook into the base specification of each runtime, so that every container has it
    #[arg(long, conflicts_with = "uninstall")]
    pub base_runtime_spec: bool,
    /// Program that prints containerd's specification (`ctr oci spec`)
    #[arg(long, value_name = "PROGRAM", default_value = "ctr")]
    pub ctr: PathBuf,
    /// Program that checks containerd's configuration (`containerd config dump`); left out where it is not there
    #[arg(long, value_name = "PROGRAM", default_value = "containerd")]
    pub containerd: PathBuf,
}

/// A container runtime that can be set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// containerd.
    Containerd,
    /// CRI-O.
    Crio,
    /// podman, as root.
    Podman,
}

/// `unload`.
#[derive(Debug, Args)]
pub struct UnloadArgs {
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Directory where programs and maps are pinned
    #[arg(long, value_name = "DIR", default_value = crate::config::DEFAULT_BPFFS)]
    pub bpffs: PathBuf,
}

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

const SYSTEMD_HELP: &str = "\
Each service gets UNIT.d/50-nri-enforcer-seccomp.conf; drop-ins of services that no policy names any more are removed.
Then run `systemctl daemon-reload`, and restart the services that are named.

Exit codes:
  0  the drop-ins are as the policies say
  1  a drop-in cannot be written or removed (or, with --strict, there are gaps, and nothing was written)
  2  bad usage, or a policy that cannot be read or has errors";

const LEARN_HELP: &str = "\
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

/// How a command answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// A verdict as `--expect` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExpectedVerdict {
    /// The access passes.
    Allow,
    /// The access passes and is reported.
    Audit,
    /// The access is denied.
    Block,
}

/// `CLASS=ACTION` of `--posture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posture {
    /// Left of the `=`.
    pub class: Class,
    /// Right of the `=`, in any case.
    pub action: PostureAction,
}

impl Posture {
    /// Reads both halves.
    ///
    /// # Errors
    /// When one of them is no such thing; the text names what there is.
    pub fn new(class: &str, action: &str) -> Result<Self, String> {
        let class = class.parse::<Class>().map_err(|error| error.to_string())?;
        if !class.can(Effect::Allow) {
            return Err(format!(
                "{class} rules allow nothing, so no posture decides there; there are `process`, `file`, `network`, \
                 `capabilities`"
            ));
        }
        let action =
            action.to_ascii_lowercase().parse::<PostureAction>().map_err(|error| error.to_string())?;
        Ok(Self { class, action })
    }
}

impl FromStr for Posture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (class, action) = text.split_once('=').ok_or("expected CLASS=ACTION, for example file=block")?;
        Self::new(class, action)
    }
}

/// The postures that the flags describe; the last flag of a class wins.
#[must_use]
pub fn postures(flags: &[Posture]) -> Postures {
    flags.iter().fold(Postures::default(), |postures, flag| postures.with(flag.class, flag.action))
}

/// `--base`: the seccomp profile that a container has before any policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseChoice {
    /// The one that a runtime gives where nothing else is asked.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// This one.
    File(PathBuf),
}

impl FromStr for BaseChoice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "runtime-default" => Self::RuntimeDefault,
            "unconfined" => Self::Unconfined,
            path => Self::File(path.into()),
        })
    }
}

/// `--libseccomp`: a version of three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LibseccompVersion(pub (u32, u32, u32));

impl FromStr for LibseccompVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Vec<u32> = text.split('.').map_while(|number| number.parse().ok()).collect();
        match *numbers {
            [major, minor, patch] if text.split('.').count() == 3 => Ok(Self((major, minor, patch))),
            _ => Err("expected three numbers, for example 2.5.4".into()),
        }
    }
}

fn capability(text: &str) -> Result<Capability, String> {
    Capability::by_name(text)
        .ok_or_else(|| format!("`{text}` is no capability; names are those of `man 7 capabilities`"))
}

/// `KEY=VALUE` of `--label`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Left of the first `=`.
    pub key: String,
    /// Right of it; may be empty.
    pub value: String,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self { key: key.into(), value: value.into() }),
            _ => Err("expected KEY=VALUE, for example app=web".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_last_posture_of_a_class_wins() {
        let flags: Vec<Posture> = ["file=block", "process=audit", "file=allow"]
            .iter()
            .map(|flag| flag.parse().expect("valid"))
            .collect();
        let postures = postures(&flags);
        assert_eq!(postures.file, PostureAction::Allow);
        assert_eq!(postures.process, Some(PostureAction::Audit));
        assert_eq!(postures.network, PostureAction::Audit);
    }

    #[test]
    fn a_bad_posture_or_label_says_what_is_possible() {
        assert!("files=block".parse::<Posture>().expect_err("no such class").contains("`network`"));
        assert!("syscall=block".parse::<Posture>().expect_err("no posture").contains("`network`"));
        assert!("file=deny".parse::<Posture>().expect_err("no such action").contains("`block`"));
        assert!("=x".parse::<Label>().is_err());
        assert_eq!("a=b=c".parse(), Ok(Label { key: "a".into(), value: "b=c".into() }));
    }
}
