//! Containers, as the runtime describes them.

use std::collections::BTreeMap;

use super::linux::{IoPriority, LinuxDevice, LinuxScheduler, Rdt};
use super::resources::LinuxResources;
use super::seccomp::{LinuxSeccomp, SecurityProfile};
use super::wire::{mirror, mirror_enum};
use crate::proto::api;

mirror! {
    /// A container.
    pub struct Container: Container {
        /// The runtime's id of the container.
        id: String,
        /// Id of the pod it belongs to.
        pod_sandbox_id: String,
        /// Its name within the pod.
        name: String,
        /// Its state.
        state: ContainerState,
        /// Labels.
        labels: BTreeMap<String, String>,
        /// Annotations, those of the OCI spec included.
        annotations: BTreeMap<String, String>,
        /// The command and its arguments.
        args: Vec<String>,
        /// The environment, as `NAME=value`.
        env: Vec<String>,
        /// Mounts.
        mounts: Vec<Mount>,
        /// OCI hooks already in the spec.
        hooks: Option<Hooks>,
        /// What is particular to Linux.
        linux: Option<LinuxContainer>,
        /// Process id of the container's init on the host; 0: no process yet, or not told. containerd fills it from
        /// StartContainer on, CRI-O 1.36 and later from PostCreateContainer on. CRI-O before that never does.
        pid: u32,
        /// Resource limits. NRI 0.4.
        rlimits: Vec<Rlimit>,
        /// When it was created, in nanoseconds since 1970; 0: not known. NRI 0.10.
        created_at: i64,
        /// When it was started, in nanoseconds since 1970; 0: not yet, or not known. NRI 0.10.
        started_at: i64,
        /// When it ended, in nanoseconds since 1970; 0: not yet, or not known. NRI 0.10.
        finished_at: i64,
        /// Exit status, meaningful only once it has ended. NRI 0.10.
        exit_code: i32,
        /// One word on why it is in its state. NRI 0.10.
        status_reason: String,
        /// A sentence on why it is in its state. NRI 0.10.
        status_message: String,
        /// CDI devices asked for, by their qualified names. NRI 0.10.
        cdi_devices => CDI_devices: Vec<String>,
        /// User and groups. NRI 0.11.
        user: Option<User>,
        /// The image. NRI 0.12.2.
        image: Option<Image>,
    }
}

mirror_enum! {
    /// What a container is doing.
    #[derive(Default)]
    pub enum ContainerState: api::ContainerState {
        /// Not known, also while it is being created.
        #[default]
        Unknown = CONTAINER_UNKNOWN,
        /// Created, not started.
        Created = CONTAINER_CREATED,
        /// Paused.
        Paused = CONTAINER_PAUSED,
        /// Running. containerd before 2.3 says so in StopContainer too, though the process is dead by then.
        Running = CONTAINER_RUNNING,
        /// Ended.
        Stopped = CONTAINER_STOPPED,
    }
}

mirror! {
    /// The image that a container runs. NRI 0.12.2.
    pub struct Image: Image {
        /// Its reference.
        name: String,
        /// Digest of its manifest.
        digest: String,
        /// Digest of its configuration.
        config_digest: String,
    }
}

mirror! {
    /// User and groups of a container's init.
    pub struct User: User {
        /// User id inside the container.
        uid: u32,
        /// Group id inside the container.
        gid: u32,
        /// Supplementary group ids.
        additional_gids: Vec<u32>,
    }
}

mirror! {
    /// One mount of the OCI spec.
    pub struct Mount: Mount {
        /// Where in the container.
        destination: String,
        /// The file system's type; `bind` for bind mounts.
        kind => type_: String,
        /// The device, or the path on the host.
        source: String,
        /// Mount options.
        options: Vec<String>,
    }
}

impl Mount {
    /// A bind mount of the host's `source` at `destination`; add options as needed.
    #[must_use]
    pub fn bind(source: impl Into<String>, destination: impl Into<String>) -> Self {
        Self {
            destination: destination.into(),
            kind: "bind".into(),
            source: source.into(),
            options: vec!["rbind".into()],
        }
    }

    /// Adds a mount option.
    #[must_use]
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }
}

mirror! {
    /// OCI hooks by the point at which the low-level runtime runs them.
    pub struct Hooks: Hooks {
        /// Deprecated in the OCI specification; see `create_runtime`.
        prestart: Vec<Hook>,
        /// On the host, after the namespaces exist and before the root is changed. A failure fails the start.
        create_runtime: Vec<Hook>,
        /// In the container's namespaces, before the root is changed. A failure fails the start.
        create_container: Vec<Hook>,
        /// In the container, right before the workload's own command.
        start_container: Vec<Hook>,
        /// On the host, after the start. runc before 1.4 runs these during create already.
        poststart: Vec<Hook>,
        /// On the host, after the container was deleted.
        poststop: Vec<Hook>,
    }
}

/// The points at which an OCI hook can run; see [`Hooks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HookPoint {
    /// Deprecated in the OCI specification.
    Prestart,
    /// On the host, before the root is changed.
    CreateRuntime,
    /// In the container's namespaces, before the root is changed.
    CreateContainer,
    /// In the container, before its command.
    StartContainer,
    /// After the start.
    Poststart,
    /// After the deletion.
    Poststop,
}

impl Hooks {
    /// The hooks that run at `point`.
    pub fn at_mut(&mut self, point: HookPoint) -> &mut Vec<Hook> {
        match point {
            HookPoint::Prestart => &mut self.prestart,
            HookPoint::CreateRuntime => &mut self.create_runtime,
            HookPoint::CreateContainer => &mut self.create_container,
            HookPoint::StartContainer => &mut self.start_container,
            HookPoint::Poststart => &mut self.poststart,
            HookPoint::Poststop => &mut self.poststop,
        }
    }
}

mirror! {
    /// One OCI hook.
    pub struct Hook: Hook {
        /// Absolute path of the program, on the host for all but start_container hooks.
        path: String,
        /// Its arguments, the program's own name first; empty: just the path.
        args: Vec<String>,
        /// Its whole environment, as `NAME=value`.
        env: Vec<String>,
        /// Seconds until the low-level runtime kills it; absent: no limit.
        timeout: Option<i64>,
    }
}

impl Hook {
    /// A hook that runs `path`.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// Sets the arguments; the first is the program's own name.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<String>>(mut self, args: I) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Adds a variable to the hook's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Sets the time limit, in seconds.
    #[must_use]
    pub fn timeout(mut self, seconds: i64) -> Self {
        self.timeout = Some(seconds);
        self
    }
}

mirror! {
    /// A POSIX resource limit.
    pub struct Rlimit: POSIXRlimit {
        /// Its OCI name, such as `RLIMIT_NOFILE`.
        kind => type_: String,
        /// Hard limit.
        hard: u64,
        /// Soft limit.
        soft: u64,
    }
}

impl Rlimit {
    /// A limit by its OCI name.
    #[must_use]
    pub fn new(kind: impl Into<String>, hard: u64, soft: u64) -> Self {
        Self { kind: kind.into(), hard, soft }
    }
}

mirror! {
    /// One Linux namespace.
    pub struct LinuxNamespace: LinuxNamespace {
        /// Its OCI name: `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup`, `time`.
        kind => type_: String,
        /// The namespace to join; empty: a new one.
        path: String,
    }
}

impl LinuxNamespace {
    /// A namespace by its OCI name; an empty `path` means a new one.
    #[must_use]
    pub fn new(kind: impl Into<String>, path: impl Into<String>) -> Self {
        Self { kind: kind.into(), path: path.into() }
    }
}

mirror! {
    /// The Linux side of a container.
    pub struct LinuxContainer: LinuxContainer {
        /// Namespaces.
        namespaces: Vec<LinuxNamespace>,
        /// Devices.
        devices: Vec<LinuxDevice>,
        /// Resources.
        resources: Option<LinuxResources>,
        /// Score adjustment of the out-of-memory killer.
        oom_score_adj: Option<i64>,
        /// The cgroup in the runtime's own notation (`/k8s.io/ID`, or `slice:cri-containerd:ID` under systemd),
        /// relative to the runtime's cgroup namespace. To find the real directory read `/proc/<pid>/cgroup`.
        cgroups_path: String,
        /// I/O priority. NRI 0.10.
        io_priority: Option<IoPriority>,
        /// Which kind of seccomp profile the pod asked for. NRI 0.10, but filled by containerd from 2.2.1 only.
        seccomp_profile: Option<SecurityProfile>,
        /// The seccomp policy itself. NRI 0.10, but filled by containerd from 2.3 only.
        seccomp_policy: Option<LinuxSeccomp>,
        /// Kernel parameters. NRI 0.11.
        sysctl: BTreeMap<String, String>,
        /// Network devices moved in: name on the host to name in the container. NRI 0.11.
        net_devices: BTreeMap<String, String>,
        /// Scheduling. NRI 0.11.
        scheduler: Option<LinuxScheduler>,
        /// Resource director technology class. NRI 0.11.
        rdt: Option<Rdt>,
    }
}
