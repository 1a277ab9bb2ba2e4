//! What can go wrong between user space and the kernel.

use std::io;
use std::path::PathBuf;

use crate::compile::bpf::CompileError;

/// Why the kernel does not, or may not, enforce.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnforceError {
    /// The kernel's list of security modules lacks `bpf`: programs would load and never be called.
    #[error(
        "the kernel does not run BPF-LSM programs: its active security modules are `{active}`; add `bpf` to the `lsm=` boot parameter"
    )]
    LsmDisabled {
        /// `/sys/kernel/security/lsm`.
        active: String,
    },
    /// It cannot be seen whether BPF-LSM is on.
    #[error("cannot read {path}: mount securityfs there (in a pod, a hostPath)")]
    LsmUnknown {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no bpffs at the place for pins.
    #[error("{path} is not on a bpf file system: mount one (`mount -t bpf bpf /sys/fs/bpf`)")]
    NotBpffs {
        /// The directory that was asked for.
        path: PathBuf,
    },
    /// Another daemon holds the pins.
    #[error("another process is using {path}: only one daemon can enforce at a time")]
    Busy {
        /// The pin directory.
        path: PathBuf,
    },
    /// A directory or pin could not be handled.
    #[error("cannot {what} {path}")]
    Pin {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// libbpf or the kernel refused.
    #[error("cannot {what}: {source}")]
    Bpf {
        /// What was tried.
        what: String,
        /// Why not.
        source: libbpf_rs::Error,
    },
    /// The rules do not fit.
    #[error("the rules cannot be compiled: {0}")]
    Compile(#[from] CompileError),
    /// The container's first process is not there (any more), or not visible from this pid namespace.
    #[error("there is no process {pid} (the daemon needs the pid namespace of the node: `hostPID: true`)")]
    NoProcess {
        /// As the runtime gave it.
        pid: i32,
    },
    /// The process shares the mount namespace of the daemon's own machine.
    #[error("process {pid} has no mount namespace of its own, so it is not a container")]
    NotAContainer {
        /// As the runtime gave it.
        pid: i32,
    },
    /// Processes of the host cannot be told from those of containers.
    #[error("the host's policies cannot be put in force: {0}")]
    Host(String),
    /// Deeper than the programs look.
    #[error("the container's cgroup is {level} levels deep, more than {max}")]
    CgroupTooDeep {
        /// Its level.
        level: u32,
        /// The greatest that can be armed.
        max: u32,
    },
    /// A container id that the maps cannot hold.
    #[error("container id `{0}` is empty or longer than 128 bytes")]
    BadId(String),
    /// The container is not armed.
    #[error("container {0} is not armed")]
    NotArmed(String),
    /// Some of the container's tasks could not be given their identity.
    #[error("{failed} tasks of container {id} could not be marked")]
    NotMarked {
        /// The container.
        id: String,
        /// How many.
        failed: u32,
    },
    /// What was read back from the kernel is not what was written.
    #[error("the kernel holds something else than was written to it: {0}")]
    ReadBack(String),
    /// Every identifier of some kind is taken.
    #[error("no room in the kernel: {0}")]
    Full(&'static str),
}

/// `.during("load the programs")?`
pub(super) trait During<T> {
    fn during(self, what: impl Into<String>) -> Result<T, EnforceError>;
}

impl<T> During<T> for Result<T, libbpf_rs::Error> {
    fn during(self, what: impl Into<String>) -> Result<T, EnforceError> {
        self.map_err(|source| EnforceError::Bpf { what: what.into(), source })
    }
}
