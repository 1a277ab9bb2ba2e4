//! What runs on a node: the daemon, and what asks or ends it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use enforcer_core::visibility::Visibility;

use super::{Label, Output, Posture};
use crate::feed::address::Address;

pub(super) const RUN_HELP: &str = "\
Signals:
  SIGTERM, SIGINT  stop; what is armed in the kernel stays in force (see `nri-enforcer unload`)
  SIGHUP           reopen the files of alerts and logs, and read the policies again

Exit codes:
  0  stopped by a signal
  1  could not start (a lock that this host has fails, a policy directory or --state-dir cannot be used), or failed
  2  bad usage or configuration";

pub(super) const STATUS_HELP: &str = "\
States:
  armed            its policies are in force; gaps are what of them cannot be enforced here
  pending restart  seccomp policies changed since it was created; it keeps its profile until it is created again
  not covered      policies select it, and are not in force; the last column says why
  exempt           no policy reaches it
  not selected     no policy selects it
  ended            it has ended, and the runtime has not removed it yet

Exit codes:
  0  every container that policies select is covered, and the daemon knows what runs: it is connected to
     the runtime, or the node has no NRI by configuration (--nri-socket none)
  1  some container, or the host, is not covered or pending restart, or no lock works here, or AppArmor is not there to be combined, the
     daemon does not know what runs, it has no policies of the API server though it is to have them, or none answers
  2  bad usage

Example:
  nri-enforcer status --pending --namespace default";

pub(super) const PROBE_HELP: &str = "\
Which lock is taken is what the daemon that runs here says. Without one, and with --config, --lsm-order, --combine or
--host-policies, it is what a daemon with these settings would take.

Exit codes:
  0  policies on containers are enforced, or would be
  1  they are not; the table says why
  2  bad usage or configuration

Example:
  nri-enforcer probe --lsm-order apparmor,bpf";

/// `run`: each flag can also be a key of the `--config` file; the flag wins.
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// YAML file with the same settings in camel case (policyDirs, nriSocket, ...); flags win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of policies (*.yaml, *.yml, *.json), watched for changes; may be repeated
    #[arg(long = "policy-dir", value_name = "DIR")]
    pub policy_dirs: Vec<PathBuf>,
    /// Take policies and the postures of namespaces from the API server, too; may stand in the place of --policy-dir
    #[arg(long)]
    pub kube_api: bool,
    /// How to reach the API server [default: as pods do, by their service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Tell the cluster how policies stand, in their status, and of refused starts, by events; with --kube-api
    #[arg(long)]
    pub kube_status: bool,
    /// The least time between two reports of this node to the API server; other times follow from it [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub kube_status_interval: Option<u64>,
    /// Directory in which the last known policies of the API server are kept, for a start without it
    /// [default: /var/lib/nri-enforcer/state]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The runtime's NRI socket; `none`: this node has no NRI, and podman's files, the kernel and the OCI hook tell what runs
    /// [default: /var/run/nri/nri.sock]
    #[arg(long, value_name = "PATH")]
    pub nri_socket: Option<PathBuf>,
    /// Socket at which the OCI hook asks whether a container may start [default: /run/nri-enforcer/gate.sock]
    #[arg(long, value_name = "PATH")]
    pub gate_socket: Option<PathBuf>,
    /// Socket at which `nri-enforcer status` asks [default: /run/nri-enforcer/status.sock]
    #[arg(long, value_name = "PATH")]
    pub status_socket: Option<PathBuf>,
    /// Socket at which `nri-enforcer apply` and `confirm` ask [default: admin.sock beside the status socket]
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
    /// The OCI hook `nri-enforcer-hook` on the host: put into each container that a policy selects
    #[arg(long, value_name = "PATH")]
    pub hook: Option<PathBuf>,
    /// Directory in which the OCI hook records what it let through [default: /var/lib/nri-enforcer/open-starts]
    #[arg(long, value_name = "DIR")]
    pub open_starts: Option<PathBuf>,
    /// podman's storage directory [default: the graphroot of storage.conf, else /var/lib/containers/storage]
    #[arg(long, value_name = "DIR")]
    pub podman_storage: Option<PathBuf>,
    /// Name under which to register with the runtime; `install --required-plugin` needs the same [default: nri-enforcer]
    #[arg(long, value_name = "NAME")]
    pub plugin_name: Option<String>,
    /// Two digits: the place among the runtime's plugins [default: 10]
    #[arg(long, value_name = "NN")]
    pub plugin_index: Option<String>,
    /// Where alerts go, one JSON object a line: `-` is stdout, else a file that is appended to [default: -]
    #[arg(long, value_name = "-|FILE")]
    pub alerts: Option<PathBuf>,
    /// A file of alerts, or of logs, is put aside as FILE.1 before it gets longer than so many bytes, and a new one is begun;
    /// 0: no limit [default: 104857600]
    #[arg(long, value_name = "BYTES")]
    pub alerts_max_bytes: Option<u64>,
    /// How many such old files are kept, FILE.1 being the newest; 0: none, and the file is emptied [default: 4]
    #[arg(long, value_name = "N")]
    pub alerts_keep: Option<u32>,
    /// Alerts of one container in a second that are told one by one; what is past it is told in summaries, which say how
    /// many and from when to when; 0: no limit [default: 100]
    #[arg(long, value_name = "N")]
    pub alert_rate: Option<u32>,
    /// What is told of containers whose namespace does not say, beside what policies tell: process, file, network,
    /// capabilities, none; accesses of these classes that no rule speaks about are logs [default: none]
    #[arg(long, value_name = "CLASS,...")]
    pub visibility: Option<Visibility>,
    /// Where logs go, one JSON object a line: `-` is stdout, else a file that is appended to [default: nowhere but --feed]
    #[arg(long, value_name = "-|FILE")]
    pub logs: Option<PathBuf>,
    /// The same as --alert-rate for logs [default: 100]
    #[arg(long, value_name = "N")]
    pub log_rate: Option<u32>,
    /// Directory below a bpffs where programs and maps are pinned [default: /sys/fs/bpf/nri-enforcer]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// What happens to an access that no rule matches, where a class has Allow rules; may be repeated
    #[arg(long = "posture", value_name = "CLASS=ACTION")]
    pub postures: Vec<Posture>,
    /// Namespace whose containers are left alone; may be repeated and replaces the default [default: kube-system]
    #[arg(long = "exempt-namespace", value_name = "NS")]
    pub exempt_namespaces: Vec<String>,
    /// Refuse to start a container whose policies cannot be enforced completely here; refuse policies that others than root can write
    #[arg(long)]
    pub strict: bool,
    /// Let pods switch their own enforcement off (annotation `kubearmor-policy: disabled`) or down (`audited`)
    #[arg(long)]
    pub honour_pod_annotations: bool,
    /// Enforce seccomp policies alone: nothing is loaded into the kernel, every other rule is a gap
    #[arg(long)]
    pub seccomp_only: bool,
    /// Locks for everything but seccomp policies: the first that works here holds them; where none does, the daemon only
    /// observes [default: bpf,apparmor,selinux]
    #[arg(long, value_name = "LOCK,...", value_delimiter = ',')]
    pub lsm_order: Vec<String>,
    /// Let AppArmor hold what BPF-LSM cannot take: native `apparmor` rules
    #[arg(long)]
    pub combine: bool,
    /// Enforce KubeArmorHostPolicy on processes outside containers. Needs BPF-LSM and cgroup v2; with SELinux less
    /// is held, and nobody is exempt
    #[arg(long)]
    pub host_policies: bool,
    /// Leave a cgroup (such as `system.slice/backup.service`) or a program (an absolute path) alone when host policies are
    /// enforced, with all that it starts; may be repeated, and adds to the defaults
    #[arg(long, value_name = "CGROUP|PROGRAM")]
    pub host_exempt: Vec<String>,
    /// Leave nobody alone but who --host-exempt names, the first process and the daemon: kubelet, the container runtime and
    /// sshd may be denied what they need
    #[arg(long)]
    pub no_default_host_exempt: bool,
    /// The same as --posture for the host's own processes; may be repeated [default: audit]
    #[arg(long = "host-posture", value_name = "CLASS=ACTION")]
    pub host_postures: Vec<Posture>,
    /// Label of this node, by which host policies select it beside `kubernetes.io/hostname`, `kubernetes.io/arch` and
    /// `kubernetes.io/os`; may be repeated
    #[arg(long = "node-label", value_name = "KEY=VALUE")]
    pub node_labels: Vec<Label>,
    /// kubelet's directory of seccomp profiles (`KUBELET_ROOT/seccomp`); may be repeated [default: those of the kubelets
    /// that are found]
    #[arg(long = "seccomp-dir", value_name = "DIR")]
    pub seccomp_dirs: Vec<PathBuf>,
    /// Version of the libseccomp that the container runtime has [default: as `runc --version` says]
    #[arg(long, value_name = "X.Y.Z")]
    pub libseccomp: Option<String>,
    /// Serve Prometheus metrics, /healthz and /readyz over HTTP at this address, without any authentication [default: off]
    #[arg(long, value_name = "IP:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Serve alerts by gRPC, as clients of KubeArmor ask for them, at this address: in plain text and without any
    /// authentication, or for root alone at a socket of the file system [default: off]
    #[arg(long, value_name = "IP:PORT|unix:PATH")]
    pub feed: Option<Address>,
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

/// `probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Say which lock a daemon with this --config would take, and not the one that runs here
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The same of a daemon with this --lsm-order
    #[arg(long, value_name = "LOCK,...", value_delimiter = ',')]
    pub lsm_order: Vec<String>,
    /// The same of a daemon with --combine
    #[arg(long)]
    pub combine: bool,
    /// The same of a daemon with --host-policies
    #[arg(long)]
    pub host_policies: bool,
    /// The socket of the daemon that runs here, as given to `run`
    #[arg(long, value_name = "PATH", default_value = crate::config::DEFAULT_STATUS_SOCKET)]
    pub status_socket: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
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
