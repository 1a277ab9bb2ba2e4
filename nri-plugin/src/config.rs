//! Configuration of `run`: flags over the file over defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use enforcer_core::enforce::host::Exempt;
use enforcer_core::ruleset::Postures;
use enforcer_core::visibility::{UnknownVisibility, Visibility};
use serde::Deserialize;

use crate::api::reports;
use crate::cli::{LogFormat, Posture, RunArgs, postures};
use crate::feed::address::Address;
use crate::host::HostConfig;
use crate::lock::{self, Lsm};
use crate::report::{DEFAULT_KEEP, DEFAULT_MAX_BYTES, Rotation};

/// Where programs and maps are pinned unless told otherwise.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf/nri-enforcer";
/// How many alerts of a container are told one by one in each second, unless told otherwise.
pub const DEFAULT_ALERT_RATE: u32 = 100;
/// The most old files of alerts that are kept.
const MAX_KEEP: u32 = 100;
/// The socket that containerd and CRI-O open by default.
pub const DEFAULT_NRI_SOCKET: &str = "/var/run/nri/nri.sock";
/// In the place of the NRI socket: this node has none, and what runs is found without (a file of this name is `./none`).
pub const NO_NRI: &str = "none";
/// The namespace that is left alone by default: a policy there could lock the node out.
pub const DEFAULT_EXEMPT: &str = "kube-system";
pub use crate::api::DEFAULT_STATE_DIR;
/// The name by which the runtime knows the daemon, unless told otherwise.
pub const PLUGIN_NAME: &str = "nri-enforcer";
/// The socket for the OCI hook, where the hook looks for it by default.
pub use nri_enforcer_hook::config::DEFAULT_SOCKET as DEFAULT_GATE_SOCKET;
/// The socket at which `status` asks.
pub const DEFAULT_STATUS_SOCKET: &str = "/run/nri-enforcer/status.sock";
/// The socket at which `apply` and `confirm` ask.
pub const DEFAULT_ADMIN_SOCKET: &str = "/run/nri-enforcer/admin.sock";
/// Where the OCI hook records what it let through.
pub use nri_enforcer_hook::config::DEFAULT_SPOOL as DEFAULT_OPEN_STARTS;
/// Environment variable with the daemon's own namespace (the downward API's `metadata.namespace`), always exempt.
pub const OWN_NAMESPACE_ENV: &str = "POD_NAMESPACE";

/// What the daemon runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file with settings; `None`: there are flags alone.
    pub file: Option<PathBuf>,
    /// Directories of policies; at least one, unless policies come from the API server.
    pub policy_dirs: Vec<PathBuf>,
    /// Whether policies come from the API server, too.
    pub kube_api: bool,
    /// How to reach it; `None`: as pods do.
    pub kubeconfig: Option<PathBuf>,
    /// Whether the cluster is told how policies stand, and of starts that are refused.
    pub kube_status: bool,
    /// The least time between two reports of this node to it.
    pub kube_status_interval: Duration,
    /// The daemon's own namespace, where that is known.
    pub own_namespace: Option<String>,
    /// Where its last known policies are kept.
    pub state_dir: PathBuf,
    /// The runtime's NRI socket; `None`: this node has no NRI ([`NO_NRI`]).
    pub nri_socket: Option<PathBuf>,
    /// The socket at which the OCI hook asks.
    pub gate_socket: PathBuf,
    /// The socket at which `status` asks.
    pub status_socket: PathBuf,
    /// The socket at which `apply` and `confirm` ask.
    pub admin_socket: PathBuf,
    /// The OCI hook for containers that a policy selects, on the host; `None`: they get none.
    pub hook: Option<PathBuf>,
    /// Directory in which the OCI hook records what it let through.
    pub open_starts: PathBuf,
    /// podman's storage directory; `None`: where its configuration says.
    pub podman_storage: Option<PathBuf>,
    /// Name under which the plugin registers.
    pub plugin_name: String,
    /// Two digits.
    pub plugin_index: String,
    /// Where alerts go; `None` is stdout.
    pub alerts: Option<PathBuf>,
    /// When a file of alerts, or of logs, is begun anew.
    pub rotation: Rotation,
    /// How many alerts of a container are told one by one in each second; 0: all.
    pub alert_rate: u32,
    /// What is to be seen of containers whose namespace does not say.
    pub visibility: Visibility,
    /// Where logs go: `-` is stdout; `None`: nowhere but to the feed.
    pub logs: Option<PathBuf>,
    /// Logs of one container in a second that are told one by one; 0: all.
    pub log_rate: u32,
    /// Where programs and maps are pinned.
    pub bpffs: PathBuf,
    /// Default postures of the node.
    pub postures: Postures,
    /// Namespaces whose containers are left alone.
    pub exempt: BTreeSet<String>,
    /// Whether gaps refuse the start.
    pub strict: bool,
    /// Whether a pod's own annotations may switch its enforcement off.
    pub honour_pod_annotations: bool,
    /// Whether nothing but seccomp policies is enforced.
    pub seccomp_only: bool,
    /// The locks that are tried, in this order; at least one.
    pub lsm_order: Vec<Lsm>,
    /// Whether AppArmor is to hold what BPF-LSM cannot take.
    pub combine: bool,
    /// Policies on the host's own processes.
    pub host: HostConfig,
    /// kubelet's directories of seccomp profiles; empty: those of the kubelets that are found.
    pub seccomp_dirs: Vec<PathBuf>,
    /// Version of the runtime's libseccomp, where it was given.
    pub libseccomp: Option<(u32, u32, u32)>,
    /// Where metrics and health are served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Where alerts are served by gRPC; `None`: nowhere.
    pub feed: Option<Address>,
    /// File that says "ready".
    pub ready_file: Option<PathBuf>,
    /// For alerts.
    pub cluster_name: String,
    /// For alerts.
    pub node_name: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Filter of the log, if it was given here rather than by `RUST_LOG`.
    pub log_level: Option<String>,
}

/// The `--config` file. Unknown keys are errors: a misspelt `strict` must not be a silent "no".
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    policy_dirs: Vec<PathBuf>,
    #[serde(default)]
    kube_api: bool,
    kubeconfig: Option<PathBuf>,
    #[serde(default)]
    kube_status: bool,
    kube_status_interval: Option<u64>,
    state_dir: Option<PathBuf>,
    nri_socket: Option<PathBuf>,
    gate_socket: Option<PathBuf>,
    status_socket: Option<PathBuf>,
    admin_socket: Option<PathBuf>,
    hook: Option<PathBuf>,
    open_starts: Option<PathBuf>,
    podman_storage: Option<PathBuf>,
    plugin_name: Option<String>,
    plugin_index: Option<String>,
    alerts: Option<PathBuf>,
    alerts_max_bytes: Option<u64>,
    alerts_keep: Option<u32>,
    alert_rate: Option<u32>,
    visibility: Option<Seen>,
    logs: Option<PathBuf>,
    log_rate: Option<u32>,
    bpffs: Option<PathBuf>,
    #[serde(default)]
    posture: BTreeMap<String, String>,
    exempt_namespaces: Option<BTreeSet<String>>,
    #[serde(default)]
    strict: bool,
    #[serde(default)]
    honour_pod_annotations: bool,
    #[serde(default)]
    seccomp_only: bool,
    lsm_order: Option<Vec<String>>,
    #[serde(default)]
    combine: bool,
    #[serde(default)]
    host_policies: bool,
    #[serde(default)]
    host_exempt: Vec<String>,
    default_host_exempt: Option<bool>,
    #[serde(default)]
    host_posture: BTreeMap<String, String>,
    #[serde(default)]
    node_labels: BTreeMap<String, String>,
    #[serde(default)]
    seccomp_dirs: Vec<PathBuf>,
    libseccomp: Option<String>,
    metrics: Option<SocketAddr>,
    feed: Option<Address>,
    ready_file: Option<PathBuf>,
    cluster_name: Option<String>,
    node_name: Option<String>,
    log_format: Option<LogFormat>,
    log_level: Option<String>,
}

/// Classes in the file: a list, or a text with commas, as KubeArmor has it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Seen {
    Text(String),
    List(Vec<String>),
}

impl Seen {
    fn read(self) -> Result<Visibility, ConfigError> {
        let text = match self {
            Self::Text(text) => text,
            Self::List(words) => words.join(","),
        };
        text.parse().map_err(ConfigError::Visibility)
    }
}

/// Which locks are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locks {
    /// Those that are tried, in this order; at least one.
    pub order: Vec<Lsm>,
    /// Whether AppArmor is to hold what BPF-LSM cannot take.
    pub combine: bool,
    /// Whether policies on the host's own processes are enforced, for which there is a lock of their own.
    pub host: bool,
    /// Whether nothing but seccomp policies is enforced.
    pub seccomp_only: bool,
}

impl Default for Locks {
    fn default() -> Self {
        Self { order: lock::DEFAULT_ORDER.to_vec(), combine: false, host: false, seccomp_only: false }
    }
}

impl Locks {
    /// What flags of `run` and the file want, as a daemon with them would read it. Nothing else of them is looked at.
    ///
    /// # Errors
    /// When the file cannot be read, or what it wants makes no sense.
    pub fn new(args: &RunArgs) -> Result<Self, ConfigError> {
        match &args.config {
            Some(path) => Self::over(args, &File::read(path)?.0),
            None => Self::over(args, &File::default()),
        }
    }

    fn over(args: &RunArgs, file: &File) -> Result<Self, ConfigError> {
        let order = match (args.lsm_order.as_slice(), &file.lsm_order) {
            ([], None) => lock::DEFAULT_ORDER.to_vec(),
            ([], Some(names)) => lock::order(names).map_err(ConfigError::LsmOrder)?,
            (names, _) => lock::order(names).map_err(ConfigError::LsmOrder)?,
        };
        let combine = args.combine || file.combine;
        if combine && order.first() != Some(&Lsm::Bpf) {
            let why =
                "with `combine` it begins with `bpf`, which holds all that it can; AppArmor has the rest";
            return Err(ConfigError::LsmOrder(why.into()));
        }
        Ok(Self {
            order,
            combine,
            host: args.host_policies || file.host_policies,
            seccomp_only: args.seccomp_only || file.seccomp_only,
        })
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be; the source has line and column.
    #[error("bad configuration file `{}`", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_yaml::Error,
    },
    /// A posture of the file has no such action.
    #[error("bad configuration file `{}`: posture: {problem}", path.display())]
    Posture {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Nothing to enforce could ever arrive.
    #[error(
        "no policy directory; give at least one with --policy-dir, or --kube-api for policies of the API server"
    )]
    NoPolicyDir,
    /// It would be of no use, and the policies that were meant to come never would.
    #[error("--kubeconfig without --kube-api; give both, or neither")]
    KubeconfigAlone,
    /// The daemon puts it into containers over NRI alone.
    #[error(
        "--hook without NRI (--nri-socket none): no runtime would take it; `nri-enforcer install` puts it into every container of \
         podman, CRI-O or (--base-runtime-spec) containerd"
    )]
    HookWithoutNri,
    /// There would be nothing to tell.
    #[error("--kube-status without --kube-api; give both, or neither")]
    StatusAlone,
    /// No time between reports that makes sense.
    #[error("bad --kube-status-interval `{0}`; give seconds from 1 to 3600")]
    StatusInterval(u64),
    /// The runtime takes exactly two digits.
    #[error("bad plugin index `{0}`; use two digits, for example 10")]
    PluginIndex(String),
    /// The runtime takes a non-empty name of letters, digits, `_`, `.`, `+`, `-`.
    #[error("bad plugin name `{0}`; use letters, digits, and the characters `_.+-`")]
    PluginName(String),
    /// No order of locks.
    #[error("bad order of locks (--lsm-order, `lsmOrder`): {0}")]
    LsmOrder(String),
    /// Neither a program nor a cgroup.
    #[error("bad exemption from host policies (--host-exempt, `hostExempt`): {0}")]
    HostExempt(String),
    /// A word of what is to be seen.
    #[error("bad visibility: {0}")]
    Visibility(UnknownVisibility),
    /// Each is renamed whenever a file is put aside.
    #[error("bad number of old files `{0}` (--alerts-keep, `alertsKeep`); give at most {MAX_KEEP}")]
    Keep(u32),
    /// Not three numbers.
    #[error("bad version of libseccomp `{0}`; write it as `runc --version` does, for example 2.5.4")]
    Libseccomp(String),
}

impl Config {
    /// Puts flags over the file over the defaults. `own_namespace` is the daemon's own, where that is known.
    ///
    /// # Errors
    /// When the file cannot be read or a value makes no sense.
    pub fn new(args: RunArgs, own_namespace: Option<String>) -> Result<Self, ConfigError> {
        let (file, file_postures, file_host_postures) = match &args.config {
            Some(path) => File::read(path)?,
            None => (File::default(), Vec::new(), Vec::new()),
        };
        let locks = Locks::over(&args, &file)?;
        let named = [file.host_exempt, args.host_exempt].concat();
        let exempt_of_host: Result<Vec<Exempt>, String> =
            named.iter().map(|text| Exempt::parse(text)).collect();
        let mut node_labels = file.node_labels;
        node_labels.extend(args.node_labels.into_iter().map(|label| (label.key, label.value)));
        let host = HostConfig {
            enforce: locks.host,
            exempt: exempt_of_host.map_err(ConfigError::HostExempt)?,
            defaults: !args.no_default_host_exempt && file.default_host_exempt.unwrap_or(true),
            postures: postures(&[file_host_postures, args.host_postures].concat()),
            labels: node_labels,
        };
        let flag_postures = args.postures;
        let file_visibility = file.visibility.map(Seen::read).transpose()?;
        let policy_dirs = if args.policy_dirs.is_empty() { file.policy_dirs } else { args.policy_dirs };
        let kube_api = args.kube_api || file.kube_api;
        let kubeconfig = args.kubeconfig.or(file.kubeconfig);
        if policy_dirs.is_empty() && !kube_api {
            return Err(ConfigError::NoPolicyDir);
        }
        if kubeconfig.is_some() && !kube_api {
            return Err(ConfigError::KubeconfigAlone);
        }
        let kube_status = args.kube_status || file.kube_status;
        if kube_status && !kube_api {
            return Err(ConfigError::StatusAlone);
        }
        let interval = args.kube_status_interval.or(file.kube_status_interval);
        let interval = interval.unwrap_or(reports::DEFAULT_INTERVAL.as_secs());
        if !(1..=3600).contains(&interval) {
            return Err(ConfigError::StatusInterval(interval));
        }
        let nri_socket = nri_of(args.nri_socket.or(file.nri_socket));
        let hook = args.hook.or(file.hook);
        if hook.is_some() && nri_socket.is_none() {
            return Err(ConfigError::HookWithoutNri);
        }
        let own_namespace = own_namespace.filter(|namespace| !namespace.is_empty());
        let plugin_index = args.plugin_index.or(file.plugin_index).unwrap_or_else(|| "10".into());
        if plugin_index.len() != 2 || !plugin_index.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ConfigError::PluginIndex(plugin_index));
        }
        let plugin_name = args.plugin_name.or(file.plugin_name).unwrap_or_else(|| PLUGIN_NAME.into());
        if !is_plugin_name(&plugin_name) {
            return Err(ConfigError::PluginName(plugin_name));
        }
        let mut exempt = if args.exempt_namespaces.is_empty() {
            file.exempt_namespaces.unwrap_or_else(|| BTreeSet::from([DEFAULT_EXEMPT.into()]))
        } else {
            args.exempt_namespaces.into_iter().collect()
        };
        exempt.extend(own_namespace.clone());
        let libseccomp = args
            .libseccomp
            .or(file.libseccomp)
            .map(|text| crate::seccomp::libseccomp::parse(&text).ok_or(ConfigError::Libseccomp(text)));
        let status_socket =
            args.status_socket.or(file.status_socket).unwrap_or_else(|| DEFAULT_STATUS_SOCKET.into());
        let alerts = args.alerts.or(file.alerts).filter(|path| path != Path::new("-"));
        let rotation = Rotation {
            max_bytes: args.alerts_max_bytes.or(file.alerts_max_bytes).unwrap_or(DEFAULT_MAX_BYTES),
            keep: args.alerts_keep.or(file.alerts_keep).unwrap_or(DEFAULT_KEEP),
        };
        if rotation.keep > MAX_KEEP {
            return Err(ConfigError::Keep(rotation.keep));
        }
        Ok(Self {
            file: args.config,
            policy_dirs,
            kube_api,
            kubeconfig,
            kube_status,
            kube_status_interval: Duration::from_secs(interval),
            own_namespace,
            state_dir: args.state_dir.or(file.state_dir).unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            nri_socket,
            gate_socket: args.gate_socket.or(file.gate_socket).unwrap_or_else(|| DEFAULT_GATE_SOCKET.into()),
            admin_socket: args
                .admin_socket
                .or(file.admin_socket)
                .unwrap_or_else(|| status_socket.with_file_name("admin.sock")),
            status_socket,
            hook,
            open_starts: args.open_starts.or(file.open_starts).unwrap_or_else(|| DEFAULT_OPEN_STARTS.into()),
            podman_storage: args.podman_storage.or(file.podman_storage),
            plugin_name,
            plugin_index,
            alerts,
            rotation,
            alert_rate: args.alert_rate.or(file.alert_rate).unwrap_or(DEFAULT_ALERT_RATE),
            visibility: args.visibility.or(file_visibility).unwrap_or_default(),
            logs: args.logs.or(file.logs),
            log_rate: args.log_rate.or(file.log_rate).unwrap_or(DEFAULT_ALERT_RATE),
            bpffs: args.bpffs.or(file.bpffs).unwrap_or_else(|| DEFAULT_BPFFS.into()),
            // flags come last, so they win
            postures: postures(&[file_postures, flag_postures].concat()),
            exempt,
            strict: args.strict || file.strict,
            honour_pod_annotations: args.honour_pod_annotations || file.honour_pod_annotations,
            seccomp_only: locks.seccomp_only,
            lsm_order: locks.order,
            combine: locks.combine,
            host,
            seccomp_dirs: if args.seccomp_dirs.is_empty() { file.seccomp_dirs } else { args.seccomp_dirs },
            libseccomp: libseccomp.transpose()?,
            metrics: args.metrics.or(file.metrics),
            feed: args.feed.or(file.feed),
            ready_file: args.ready_file.or(file.ready_file),
            cluster_name: args.cluster_name.or(file.cluster_name).unwrap_or_else(|| "default".into()),
            node_name: args.node_name.or(file.node_name).unwrap_or_else(host_name),
            log_format: args.log_format.or(file.log_format).unwrap_or_default(),
            log_level: args.log_level.or(file.log_level),
        })
    }

    /// The files and directories on this host that decide what is enforced: the daemon reads them, and changes some.
    #[must_use]
    pub fn own_files(&self) -> Vec<PathBuf> {
        self.policy_dirs.iter().chain(&self.file).chain([&self.state_dir]).cloned().collect()
    }
}

impl File {
    /// With its postures, and those of the host.
    fn read(path: &Path) -> Result<(Self, Vec<Posture>, Vec<Posture>), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        let file = if text.trim().is_empty() {
            Self::default()
        } else {
            serde_yaml::from_str::<Self>(&text)
                .map_err(|source| ConfigError::Parse { path: path.to_path_buf(), source })?
        };
        let read = |postures: &BTreeMap<String, String>| -> Result<Vec<Posture>, ConfigError> {
            let one = |(class, action): (&String, &String)| Posture::new(class, action);
            let read: Result<_, String> = postures.iter().map(one).collect();
            read.map_err(|problem| ConfigError::Posture { path: path.to_path_buf(), problem })
        };
        let (postures, of_host) = (read(&file.posture)?, read(&file.host_posture)?);
        Ok((file, postures, of_host))
    }
}

/// The NRI socket that a daemon with these flags and this file would have; `None`: it is told that there is none.
///
/// # Errors
/// When the file cannot be read, or makes no sense.
pub fn nri_socket(args: &RunArgs) -> Result<Option<PathBuf>, ConfigError> {
    let of_file = match &args.config {
        Some(path) => File::read(path)?.0.nri_socket,
        None => None,
    };
    Ok(nri_of(args.nri_socket.clone().or(of_file)))
}

fn nri_of(given: Option<PathBuf>) -> Option<PathBuf> {
    Some(given.unwrap_or_else(|| DEFAULT_NRI_SOCKET.into())).filter(|path| path != Path::new(NO_NRI))
}

/// The host's name, or `unknown` where even that cannot be had: an alert without it is better than none.
/// Whether a runtime takes this as the name of a plugin.
pub fn is_plugin_name(name: &str) -> bool {
    let ok = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
    !name.is_empty() && name.bytes().all(ok)
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_core::ruleset::PostureAction;

    fn with_file(text: &str, mut args: RunArgs) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, text).expect("write");
        args.config = Some(path);
        Config::new(args, None)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let text = "policyDirs: [/file]\nnriSocket: /file.sock\nposture: {file: Block, process: allow}\n\
            metrics: \"[::1]:9464\"\nfeed: unix:/x\n";
        let args = RunArgs {
            policy_dirs: vec!["/flag".into()],
            postures: vec!["file=audit".parse().expect("valid")],
            ..RunArgs::default()
        };
        let config = with_file(text, args).expect("valid");
        assert_eq!(config.policy_dirs, [PathBuf::from("/flag")]);
        assert!(config.own_files().contains(&"/flag".into()));
        assert_eq!(config.nri_socket.as_deref(), Some(Path::new("/file.sock")));
        assert_eq!(config.postures.file, PostureAction::Audit);
        assert_eq!(config.postures.process, Some(PostureAction::Allow));
        assert_eq!(config.plugin_index, "10");
        assert_eq!(config.exempt, BTreeSet::from(["kube-system".to_owned()]));
        assert_eq!(config.alerts, None);
        assert_eq!(config.feed, Some("unix:/x".parse().expect("valid")));
        assert_eq!(config.metrics, Some("[::1]:9464".parse().expect("valid")));
    }

    #[test]
    fn visibility_is_off_unless_somebody_asks_and_reads_as_kubearmors() {
        let none = with_file("policyDirs: [/p]\n", RunArgs::default()).expect("valid");
        assert_eq!((none.visibility, none.logs), (Visibility::NONE, None));
        for text in ["process,file", "[process, file]", "\"process,file,dns\""] {
            let text = format!("policyDirs: [/p]\nvisibility: {text}\nlogs: \"-\"\n");
            let config = with_file(&text, RunArgs::default()).expect("valid");
            assert_eq!(config.visibility.to_string(), "process,file");
            let args = RunArgs { visibility: Some(Visibility::NONE), ..RunArgs::default() };
            assert_eq!(with_file(&text, args).expect("valid").visibility, Visibility::NONE);
        }
        let bad = with_file("policyDirs: [/p]\nvisibility: files\n", RunArgs::default());
        assert!(matches!(bad, Err(ConfigError::Visibility(_))));
    }

    #[test]
    fn files_of_alerts_are_bounded_unless_somebody_wants_them_not_to_be() {
        let of = |text: &str| with_file(&format!("policyDirs: [/p]\n{text}"), RunArgs::default());
        assert_eq!(of("").expect("valid").rotation, Rotation::default());
        let config = of("alertsMaxBytes: 0\nalertsKeep: 1\n").expect("valid");
        assert_eq!(config.rotation, Rotation { max_bytes: 0, keep: 1 });
        assert!(matches!(of("alertsKeep: 101\n"), Err(ConfigError::Keep(101))));
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_place() {
        let error = with_file("policyDirs: [/p]\nstrickt: true\n", RunArgs::default()).expect_err("misspelt");
        let source = std::error::Error::source(&error).expect("has a source").to_string();
        assert!(source.contains("strickt") && source.contains("line 2"), "{source}");
    }

    #[test]
    fn a_bad_index_name_or_posture_is_refused() {
        let args = |index: &str, name: &str| RunArgs {
            policy_dirs: vec!["/p".into()],
            plugin_index: Some(index.into()),
            plugin_name: Some(name.into()),
            ..RunArgs::default()
        };
        assert!(matches!(Config::new(args("1", "x"), None), Err(ConfigError::PluginIndex(_))));
        assert!(matches!(Config::new(args("10", "a b"), None), Err(ConfigError::PluginName(_))));
        let error = with_file("policyDirs: [/p]\nposture: {file: deny}\n", RunArgs::default());
        assert!(matches!(error, Err(ConfigError::Posture { .. })));
        assert!(matches!(Config::new(RunArgs::default(), None), Err(ConfigError::NoPolicyDir)));
    }

    #[test]
    fn the_api_server_may_stand_in_the_place_of_directories() {
        let config = with_file("kubeApi: true\nkubeconfig: /k\n", RunArgs::default()).expect("valid");
        assert_eq!((config.policy_dirs.len(), config.kubeconfig), (0, Some("/k".into())));
        assert_eq!(config.state_dir, PathBuf::from("/var/lib/nri-enforcer/state"));
        let args = RunArgs { kube_api: true, state_dir: Some("/s".into()), ..RunArgs::default() };
        let config = with_file("stateDir: /t\n", args).expect("valid");
        let own = config.own_files();
        assert!(
            own.len() == 2 && own.contains(&"/s".into()) && Some(&own[0]) == config.file.as_ref(),
            "{own:?}"
        );
        assert_eq!((config.kube_api, config.state_dir), (true, PathBuf::from("/s")));
        let alone = with_file("policyDirs: [/p]\nkubeconfig: /k\n", RunArgs::default());
        assert!(matches!(alone, Err(ConfigError::KubeconfigAlone)));
    }

    #[test]
    fn the_cluster_is_told_only_where_it_is_read() {
        let told = |text: &str| with_file(text, RunArgs::default());
        let config = told("kubeApi: true\nkubeStatus: true\nkubeStatusInterval: 30\n").expect("valid");
        assert!(config.kube_status && config.kube_status_interval == Duration::from_secs(30));
        assert!(!told("kubeApi: true\n").expect("valid").kube_status);
        let alone = told("policyDirs: [/p]\nkubeStatus: true\n");
        assert!(matches!(alone, Err(ConfigError::StatusAlone)));
        let never = told("kubeApi: true\nkubeStatusInterval: 0\n");
        assert!(matches!(never, Err(ConfigError::StatusInterval(0))));
    }

    #[test]
    fn a_node_may_have_no_nri_and_then_no_hook_goes_into_containers_over_it() {
        let args = |nri: &str| RunArgs {
            policy_dirs: vec!["/p".into()],
            nri_socket: Some(nri.into()),
            ..RunArgs::default()
        };
        assert_eq!(Config::new(args("none"), None).expect("valid").nri_socket, None);
        let file = Config::new(args("./none"), None).expect("valid");
        assert_eq!(file.nri_socket, Some("./none".into()), "a file");
        let hook = RunArgs { hook: Some("/hook".into()), ..args("none") };
        assert!(matches!(Config::new(hook, None), Err(ConfigError::HookWithoutNri)));
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, "policyDirs: [/p]\nnriSocket: none\n").expect("written");
        let args = RunArgs { config: Some(path), ..RunArgs::default() };
        assert_eq!(Config::new(args, None).expect("valid").nri_socket, None);
    }

    #[test]
    fn the_own_namespace_is_always_exempt() {
        let args = RunArgs {
            policy_dirs: vec!["/p".into()],
            exempt_namespaces: vec!["infra".into()],
            ..RunArgs::default()
        };
        let config = Config::new(args, Some("security".into())).expect("valid");
        assert_eq!(config.exempt, BTreeSet::from(["infra".to_owned(), "security".to_owned()]));
    }
}
