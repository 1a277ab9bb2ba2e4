//! Seccomp profiles as the OCI runtime specification writes them, under `linux.seccomp`.
//!
//! They are read as runtimes read them: `null` is what is absent. containerd and runc take a key whatever the case of its
//! letters, crun does not, and of two keys that differ in that alone the last counts: a profile with a key that is like a
//! known one but for that is refused, since nobody could say what it means.

mod read;

use serde::{Deserialize, Serialize};

use super::action::{Action, EPERM};

/// `linux.seccomp` of a container's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "read::Profile")]
pub struct LinuxSeccomp {
    /// What happens where no entry of `syscalls` matches.
    pub default_action: ActionName,
    /// The errno, or the value for a tracer, of the default action; `EPERM` where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// `SCMP_ARCH_*`; the node's own is always among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// `SECCOMP_FILTER_FLAG_*`. Absent, the runtime has flags of its own; an empty list is none at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<String>>,
    /// The socket of the supervisor that `SCMP_ACT_NOTIFY` asks.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub listener_path: String,
    /// What the supervisor is told beside the file descriptor.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub listener_metadata: String,
    /// The entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<SyscallEntry>,
}

impl LinuxSeccomp {
    /// A profile that does this with every system call.
    #[must_use]
    pub fn of(default: Action) -> Self {
        let (default_action, default_errno_ret) = default.into();
        Self {
            default_action,
            default_errno_ret,
            architectures: Vec::new(),
            flags: None,
            listener_path: String::new(),
            listener_metadata: String::new(),
            syscalls: Vec::new(),
        }
    }
}

/// One of `syscalls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "read::Entry")]
pub struct SyscallEntry {
    /// The system calls.
    pub names: Vec<String>,
    /// What happens to them.
    pub action: ActionName,
    /// The errno, or the value for a tracer; `EPERM` where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// All must hold; but where one index stands twice, runtimes make an entry of its own of each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Arg>,
}

/// A comparison with one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "read::Comparison")]
pub struct Arg {
    /// Which argument, 0 to 5.
    pub index: u32,
    /// What it is compared with; the mask of [`Op::MaskedEqual`].
    pub value: u64,
    /// The value of [`Op::MaskedEqual`] under its mask; 0 and without meaning for the others.
    #[serde(skip_serializing_if = "is_zero")]
    pub value_two: u64,
    /// How.
    pub op: Op,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// How an argument is compared: all 64 bits, unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Op {
    /// argument != value
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    /// argument < value
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    /// argument <= value
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    /// argument == value
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    /// argument >= value
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    /// argument > value
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    /// argument & value == valueTwo & value
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// The name of an action; errno and values for tracers stand beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ActionName {
    /// The thread ends; the older name of `KillThread`.
    #[serde(rename = "SCMP_ACT_KILL")]
    Kill,
    /// The process ends.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    /// The thread ends.
    #[serde(rename = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    /// `SIGSYS`.
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// An errno.
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// A tracer is asked.
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    /// The system call is made.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    /// The system call is made and logged.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    /// A supervisor is asked.
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

impl ActionName {
    /// The action, with the errno or value beside it. Without one both runtimes return `EPERM`; past 16 bits only the
    /// lowest reach the kernel.
    #[must_use]
    pub fn with(self, errno: Option<u32>) -> Action {
        let value = errno.map_or(EPERM, |errno| u16::try_from(errno & 0xffff).unwrap_or(u16::MAX));
        match self {
            Self::Kill | Self::KillThread => Action::KillThread,
            Self::KillProcess => Action::KillProcess,
            Self::Trap => Action::Trap,
            Self::Errno => Action::Errno(value),
            Self::Trace => Action::Trace(value),
            Self::Allow => Action::Allow,
            Self::Log => Action::Log,
            Self::Notify => Action::Notify,
        }
    }
}

impl From<Action> for (ActionName, Option<u32>) {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => (ActionName::Allow, None),
            Action::Log => (ActionName::Log, None),
            Action::Trace(value) => (ActionName::Trace, Some(value.into())),
            Action::Notify => (ActionName::Notify, None),
            Action::Errno(errno) => (ActionName::Errno, Some(errno.into())),
            Action::Trap => (ActionName::Trap, None),
            Action::KillThread => (ActionName::KillThread, None),
            Action::KillProcess => (ActionName::KillProcess, None),
        }
    }
}
