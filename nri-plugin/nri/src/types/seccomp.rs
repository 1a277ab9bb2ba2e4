//! Seccomp policies. NRI 0.10: an older runtime drops them without a word.

use super::wire::{mirror, mirror_enum};
use crate::proto::api;

mirror! {
    /// A whole seccomp policy, in the words of the OCI specification.
    pub struct LinuxSeccomp: LinuxSeccomp {
        /// What happens to a system call that no rule names, such as `SCMP_ACT_ERRNO`.
        default_action: String,
        /// The errno of the default action. **Runtimes lose it on the way** (as of NRI 0.12.2), so that the
        /// default action gives EPERM; the errno of a rule survives.
        default_errno: Option<u32>,
        /// Such as `SCMP_ARCH_X86_64`.
        architectures: Vec<String>,
        /// Such as `SECCOMP_FILTER_FLAG_LOG`.
        flags: Vec<String>,
        /// Socket of a notification agent.
        listener_path: String,
        /// Handed to the notification agent.
        listener_metadata: String,
        /// The rules.
        syscalls: Vec<LinuxSyscall>,
    }
}

mirror! {
    /// One rule: what happens to some system calls.
    pub struct LinuxSyscall: LinuxSyscall {
        /// The calls' names.
        names: Vec<String>,
        /// Such as `SCMP_ACT_ALLOW`.
        action: String,
        /// The errno of `SCMP_ACT_ERRNO`; absent: EPERM.
        errno_ret: Option<u32>,
        /// Conditions on the arguments; all must hold.
        args: Vec<LinuxSeccompArg>,
    }
}

mirror! {
    /// A condition on one argument of a system call.
    pub struct LinuxSeccompArg: LinuxSeccompArg {
        /// Which argument, 0 to 5.
        index: u32,
        /// What it is compared with; the mask of `SCMP_CMP_MASKED_EQ`.
        value: u64,
        /// What the masked argument is compared with.
        value_two: u64,
        /// Such as `SCMP_CMP_EQ`.
        op: String,
    }
}

mirror! {
    /// Which profile a pod asked for. NRI 0.10.
    pub struct SecurityProfile: SecurityProfile {
        /// The kind.
        kind => profile_type: ProfileKind,
        /// The file, for [`ProfileKind::Localhost`].
        localhost_ref: String,
    }
}

mirror_enum! {
    /// Kinds of profile.
    #[derive(Default)]
    pub enum ProfileKind: api::security_profile::ProfileType {
        /// The runtime's default.
        #[default]
        RuntimeDefault = RUNTIME_DEFAULT,
        /// None.
        Unconfined = UNCONFINED,
        /// A file on the node.
        Localhost = LOCALHOST,
    }
}
