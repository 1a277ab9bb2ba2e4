//! What a plugin may ask for: adjustments of the container that is being created, updates of others.

use std::collections::BTreeMap;

use protobuf::MessageField;

use super::container::{Hook, HookPoint, Hooks, LinuxNamespace, Mount, Rlimit};
use super::linux::{IoPriority, LinuxDevice, LinuxScheduler, MemoryPolicy, Rdt};
use super::resources::LinuxResources;
use super::seccomp::LinuxSeccomp;
use super::wire::{Wire, mirror};
use crate::proto::api;

mirror! {
    /// A name and a value.
    pub struct KeyValue: KeyValue {
        /// The name; with a leading `-` it is taken away.
        key: String,
        /// The value.
        value: String,
    }
}

/// What is to change in a container that is being created, and on this occasion in others.
///
/// Two plugins that set the same thing (one annotation, one variable, the seccomp policy) make the creation
/// fail. Hooks never conflict. What the runtime is too old for is dropped by it without a word: the field's NRI
/// version is told here, the negotiated one by [`Context::runtime`](crate::Context::runtime).
///
/// ```
/// use nri::{ContainerAdjustment, Hook, HookPoint};
///
/// let adjustment = ContainerAdjustment::new()
///     .annotation("example.org/checked", "yes")
///     .env("TRACE", "1")
///     .hook(HookPoint::CreateRuntime, Hook::new("/opt/example/bin/hook").timeout(2));
/// assert!(!adjustment.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerAdjustment {
    /// Annotations of the OCI spec (not of the Kubernetes object); a key with a leading `-` is taken away.
    pub annotations: BTreeMap<String, String>,
    /// Mounts, each replacing one with the same destination; a destination with a leading `-` is taken away.
    pub mounts: Vec<Mount>,
    /// Environment.
    pub env: Vec<KeyValue>,
    /// OCI hooks, added after those that are there. A runtime can be configured to refuse any.
    pub hooks: Hooks,
    /// What is particular to Linux.
    pub linux: LinuxContainerAdjustment,
    /// Resource limits. NRI 0.4.
    pub rlimits: Vec<Rlimit>,
    /// CDI devices to inject, by qualified name. NRI 0.7.
    pub cdi_devices: Vec<String>,
    /// The whole command line; empty: unchanged. NRI 0.10.
    pub args: Vec<String>,
    /// Changes to *other* containers, sent with the same answer.
    pub updates: Vec<ContainerUpdate>,
}

mirror! {
    /// The Linux side of an adjustment.
    pub struct LinuxContainerAdjustment: LinuxContainerAdjustment {
        /// Devices to add; a path with a leading `-` is taken away.
        devices: Vec<LinuxDevice>,
        /// Resources.
        resources: Option<LinuxResources>,
        /// The cgroup; empty: unchanged.
        cgroups_path: String,
        /// Score adjustment of the out-of-memory killer. NRI 0.7.
        oom_score_adj: Option<i64>,
        /// I/O priority. NRI 0.10.
        io_priority: Option<IoPriority>,
        /// Replaces the container's seccomp policy as a whole. NRI 0.10.
        seccomp_policy: Option<LinuxSeccomp>,
        /// Namespaces, each replacing one of the same kind; a kind with a leading `-` is taken away. NRI 0.10.
        namespaces: Vec<LinuxNamespace>,
        /// Kernel parameters. NRI 0.11.
        sysctl: BTreeMap<String, String>,
        /// Network devices to move in: name on the host to name in the container. NRI 0.11.
        net_devices: BTreeMap<String, String>,
        /// Scheduling. NRI 0.11.
        scheduler: Option<LinuxScheduler>,
        /// RDT. NRI 0.11.
        rdt: Option<Rdt>,
        /// NUMA memory policy. NRI 0.12.
        memory_policy: Option<MemoryPolicy>,
    }
}

impl ContainerAdjustment {
    /// An adjustment that changes nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Sets an annotation. Use a key of your own domain: two plugins that set one key fail the creation.
    #[must_use]
    pub fn annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Takes an annotation away.
    #[must_use]
    pub fn remove_annotation(mut self, key: &str) -> Self {
        self.annotations.insert(removal(key), String::new());
        self
    }

    /// Adds a mount, or replaces the one at its destination.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Takes away the mount at `destination`.
    #[must_use]
    pub fn remove_mount(mut self, destination: &str) -> Self {
        self.mounts.push(Mount { destination: removal(destination), ..Mount::default() });
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push(KeyValue { key: name.into(), value: value.into() });
        self
    }

    /// Takes a variable away.
    #[must_use]
    pub fn remove_env(mut self, name: &str) -> Self {
        self.env.push(KeyValue { key: removal(name), value: String::new() });
        self
    }

    /// Adds an OCI hook.
    #[must_use]
    pub fn hook(mut self, point: HookPoint, hook: Hook) -> Self {
        self.hooks.at_mut(point).push(hook);
        self
    }

    /// Adds a resource limit. NRI 0.4.
    #[must_use]
    pub fn rlimit(mut self, limit: Rlimit) -> Self {
        self.rlimits.push(limit);
        self
    }

    /// Replaces the command line. NRI 0.10.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<String>>(mut self, args: I) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Injects a CDI device by its qualified name. NRI 0.7.
    #[must_use]
    pub fn cdi_device(mut self, name: impl Into<String>) -> Self {
        self.cdi_devices.push(name.into());
        self
    }

    /// Replaces the seccomp policy as a whole. NRI 0.10.
    #[must_use]
    pub fn seccomp(mut self, policy: LinuxSeccomp) -> Self {
        self.linux.seccomp_policy = Some(policy);
        self
    }

    /// Adds a device.
    #[must_use]
    pub fn device(mut self, device: LinuxDevice) -> Self {
        self.linux.devices.push(device);
        self
    }

    /// Sets resources.
    #[must_use]
    pub fn resources(mut self, resources: LinuxResources) -> Self {
        self.linux.resources = Some(resources);
        self
    }

    /// Adds a namespace or replaces the one of its kind. NRI 0.10.
    #[must_use]
    pub fn namespace(mut self, namespace: LinuxNamespace) -> Self {
        self.linux.namespaces.push(namespace);
        self
    }

    /// Sets a kernel parameter. NRI 0.11.
    #[must_use]
    pub fn sysctl(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.linux.sysctl.insert(key.into(), value.into());
        self
    }

    /// Changes another container on this occasion.
    #[must_use]
    pub fn update(mut self, update: ContainerUpdate) -> Self {
        self.updates.push(update);
        self
    }
}

/// The protocol's mark for "take this away".
fn removal(key: &str) -> String {
    format!("-{key}")
}

/// Absent on the wire when it is empty, so that an empty adjustment owns nothing.
fn unless_default<T: Default + PartialEq + Wire<W>, W>(value: T) -> MessageField<W> {
    MessageField::from_option((value != T::default()).then(|| value.into_wire()))
}

impl Wire<api::ContainerAdjustment> for ContainerAdjustment {
    fn from_wire(wire: api::ContainerAdjustment) -> Self {
        Self {
            annotations: Wire::from_wire(wire.annotations),
            mounts: Wire::from_wire(wire.mounts),
            env: Wire::from_wire(wire.env),
            hooks: Option::<Hooks>::from_wire(wire.hooks).unwrap_or_default(),
            linux: Option::<LinuxContainerAdjustment>::from_wire(wire.linux).unwrap_or_default(),
            rlimits: Wire::from_wire(wire.rlimits),
            cdi_devices: Wire::from_wire(wire.CDI_devices),
            args: Wire::from_wire(wire.args),
            updates: Vec::new(),
        }
    }

    fn into_wire(self) -> api::ContainerAdjustment {
        api::ContainerAdjustment {
            annotations: self.annotations.into_wire(),
            mounts: self.mounts.into_wire(),
            env: self.env.into_wire(),
            hooks: unless_default(self.hooks),
            linux: unless_default(self.linux),
            rlimits: self.rlimits.into_wire(),
            CDI_devices: self.cdi_devices.into_wire(),
            args: self.args.into_wire(),
            ..Default::default()
        }
    }
}

/// A change to a container that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerUpdate {
    /// Which container.
    pub container_id: String,
    /// Its new resources.
    pub resources: Option<LinuxResources>,
    /// Whether the request goes on when this update fails.
    pub ignore_failure: bool,
}

impl ContainerUpdate {
    /// New resources for a container.
    #[must_use]
    pub fn new(container_id: impl Into<String>, resources: LinuxResources) -> Self {
        Self { container_id: container_id.into(), resources: Some(resources), ignore_failure: false }
    }
}

impl Wire<api::ContainerUpdate> for ContainerUpdate {
    fn from_wire(wire: api::ContainerUpdate) -> Self {
        Self {
            container_id: wire.container_id,
            resources: wire.linux.0.and_then(|linux| Wire::from_wire(linux.resources)),
            ignore_failure: wire.ignore_failure,
        }
    }

    fn into_wire(self) -> api::ContainerUpdate {
        let linux = self.resources.map(|resources| api::LinuxContainerUpdate {
            resources: Some(resources).into_wire(),
            ..Default::default()
        });
        api::ContainerUpdate {
            container_id: self.container_id,
            linux: MessageField::from_option(linux),
            ignore_failure: self.ignore_failure,
            ..Default::default()
        }
    }
}
