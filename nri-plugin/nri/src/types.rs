//! The protocol's nouns as plain Rust data.

mod adjust;
mod container;
mod linux;
mod pod;
mod resources;
mod seccomp;
mod validation;
pub(crate) mod wire;

pub use adjust::{ContainerAdjustment, ContainerUpdate, KeyValue, LinuxContainerAdjustment};
pub use container::{
    Container, ContainerState, Hook, HookPoint, Hooks, Image, LinuxContainer, LinuxNamespace, Mount, Rlimit,
    User,
};
pub use linux::{
    IoPriority, IoPriorityClass, LinuxDevice, LinuxDeviceCgroup, LinuxScheduler, MemoryPolicy,
    MemoryPolicyFlag, MemoryPolicyMode, Rdt, SchedulerFlag, SchedulerPolicy,
};
pub use pod::{LinuxPodSandbox, PodSandbox};
pub use resources::{HugepageLimit, LinuxCpu, LinuxMemory, LinuxResources};
pub use seccomp::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall, ProfileKind, SecurityProfile};
pub use validation::{FieldOwners, PluginInstance, Validation};
