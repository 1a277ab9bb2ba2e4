//! What a filter answers.

use std::cmp::Ordering;
use std::fmt;

/// `EPERM` of every architecture here: what a denial returns where nothing else is said.
pub const EPERM: u16 = 1;
/// `ENOSYS` of every architecture here: what the kernel returns for a system call that it does not have.
pub const ENOSYS: u16 = 38;
/// The greatest errno that a filter can return (`MAX_ERRNO` of the kernel; a greater one is cut to it).
pub const MAX_ERRNO: u16 = 4095;

/// What the kernel does with a system call, as `SECCOMP_RET_*`.
///
/// The order is that of strictness, and so the kernel's: of two filters on one process the greater answer holds. Of two
/// actions of one kind with different values neither is stricter; the order is then by value, for the sake of having
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It is made.
    Allow,
    /// It is made, and written to the audit log.
    Log,
    /// A tracer decides, and is told the value; without one, `ENOSYS`.
    Trace(u16),
    /// A supervisor at the other end of a file descriptor decides.
    Notify,
    /// It is not made and returns this errno.
    Errno(u16),
    /// It is not made, and the thread gets `SIGSYS`.
    Trap,
    /// The thread ends.
    KillThread,
    /// The process ends.
    KillProcess,
}

impl Action {
    /// The stricter of the two as the kernel has it. Between two of a kind the first stays: the errno of a policy before
    /// that of the profile below it.
    #[must_use]
    pub fn strictest(self, other: Self) -> Self {
        match self.rank().cmp(&other.rank()) {
            Ordering::Less => other,
            Ordering::Equal | Ordering::Greater => self,
        }
    }

    /// Strictness without the value.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Self::Allow => 0,
            Self::Log => 1,
            Self::Trace(_) => 2,
            Self::Notify => 3,
            Self::Errno(_) => 4,
            Self::Trap => 5,
            Self::KillThread => 6,
            Self::KillProcess => 7,
        }
    }

    /// Whether the system call is made, whoever listens.
    #[must_use]
    pub const fn passes(self) -> bool {
        matches!(self, Self::Allow | Self::Log)
    }
}

/// `allow`, `errno 1`
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Log => f.write_str("log"),
            Self::Trace(value) => write!(f, "trace {value}"),
            Self::Notify => f.write_str("notify"),
            Self::Errno(errno) => write!(f, "errno {errno}"),
            Self::Trap => f.write_str("trap"),
            Self::KillThread => f.write_str("kill the thread"),
            Self::KillProcess => f.write_str("kill the process"),
        }
    }
}
