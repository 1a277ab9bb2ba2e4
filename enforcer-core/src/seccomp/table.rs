//! The system calls of every architecture, by name.

mod rows;

use std::fmt;

use self::rows::{NONE, RELEASES, ROWS};
use super::arch::{Arch, X32_BIT};

/// The order of the columns.
const ARCHES: [Arch; 10] = [
    Arch::X86_64,
    Arch::X86,
    Arch::X32,
    Arch::Aarch64,
    Arch::Arm,
    Arch::Riscv64,
    Arch::Loongarch64,
    Arch::Ppc64le,
    Arch::S390x,
    Arch::S390,
];

/// What is also reached through a system call that takes its number as the first argument, and the others in memory, where
/// no filter can look. The order is that of `linux/net.h`.
const SOCKET_CALLS: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

/// The same for `linux/ipc.h`.
const IPC_CALLS: [&str; 12] = [
    "semop",
    "semget",
    "semctl",
    "semtimedop",
    "msgsnd",
    "msgrcv",
    "msgget",
    "msgctl",
    "shmat",
    "shmdt",
    "shmget",
    "shmctl",
];

/// A system call that Linux has on some architecture, as seccomp profiles name it.
///
/// ```
/// use enforcer_core::seccomp::{Arch, table::SyscallName};
///
/// let accept4 = SyscallName::by_name("accept4").expect("it is in the table");
/// assert_eq!(accept4.number(Arch::X86_64), Some(288));
/// assert_eq!(accept4.number(Arch::X32), Some(0x4000_0000 | 288));
/// assert_eq!(SyscallName::by_name("mmap2").and_then(|name| name.number(Arch::X86_64)), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyscallName(u16); // INVARIANT: an index of ROWS, which is sorted by name

impl SyscallName {
    /// The one with this name, in lower case.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let index = ROWS.binary_search_by(|(other, ..)| (*other).cmp(name)).ok()?;
        u16::try_from(index).ok().map(Self)
    }

    /// The one with this number, as the kernel puts it into `seccomp_data.nr`.
    #[must_use]
    pub fn by_number(arch: Arch, number: u32) -> Option<Self> {
        Self::all().find(|name| name.number(arch) == Some(number))
    }

    /// All of them, sorted by name.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        (0..u16::try_from(ROWS.len()).unwrap_or(u16::MAX)).map(Self)
    }

    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        ROWS.get(usize::from(self.0)).map_or("", |row| row.0)
    }

    /// The number on an architecture, with [`X32_BIT`] on x32; `None` where it does not exist.
    #[must_use]
    pub fn number(self, arch: Arch) -> Option<u32> {
        let column = ARCHES.iter().position(|one| *one == arch)?;
        let number = *ROWS.get(usize::from(self.0))?.1.get(column)?;
        let bit = if arch == Arch::X32 { X32_BIT } else { 0 };
        (number != NONE).then_some(number | bit)
    }

    /// Whether a libseccomp of this version knows the name. One that is newer than all the table knows counts as the
    /// newest of the table.
    #[must_use]
    pub fn known_to(self, libseccomp: (u32, u32, u32)) -> bool {
        let since = ROWS.get(usize::from(self.0)).map_or(u8::MAX, |row| row.2);
        match RELEASES.get(usize::from(since)) {
            // What is older than the first release of the list is taken for known.
            Some(_) if since == 0 => true,
            Some(release) => *release <= libseccomp,
            None => false,
        }
    }

    /// The release of libseccomp that first knows it, `None` where none does.
    #[must_use]
    pub fn since(self) -> Option<(u32, u32, u32)> {
        ROWS.get(usize::from(self.0)).and_then(|row| RELEASES.get(usize::from(row.2))).copied()
    }

    /// The multiplexer through which it is made as well, on architectures that have that: `socketcall` or `ipc`.
    #[must_use]
    pub fn multiplexer(self) -> Option<Self> {
        let name = self.as_str();
        if SOCKET_CALLS.contains(&name) {
            Self::by_name("socketcall")
        } else if IPC_CALLS.contains(&name) {
            Self::by_name("ipc")
        } else {
            None
        }
    }

    /// What is made through it; nothing unless it is a multiplexer.
    pub fn multiplexed(self) -> impl Iterator<Item = Self> {
        let names: &[&str] = match self.as_str() {
            "socketcall" => &SOCKET_CALLS,
            "ipc" => &IPC_CALLS,
            _ => &[],
        };
        names.iter().filter_map(|name| Self::by_name(name))
    }

    /// Whether it is one of the two multiplexers.
    #[must_use]
    pub fn is_multiplexer(self) -> bool {
        matches!(self.as_str(), "socketcall" | "ipc")
    }

    /// Its place in the table: less than [`SyscallName::count`].
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// How many there are.
    pub(crate) fn count() -> usize {
        ROWS.len()
    }
}

impl fmt::Display for SyscallName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SyscallName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SyscallName({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_and_no_number_stands_twice() {
        assert!(ROWS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for arch in Arch::all() {
            let mut numbers: Vec<_> = SyscallName::all().filter_map(|name| name.number(arch)).collect();
            let all = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert!(numbers.len() == all && all > 300, "{arch}");
        }
        for name in SyscallName::all() {
            assert_eq!(SyscallName::by_name(name.as_str()), Some(name));
        }
    }

    #[test]
    fn releases_learn_names() {
        let known = |name: &str, version| SyscallName::by_name(name).unwrap().known_to(version);
        assert!(known("read", (2, 4, 0)) && known("clone3", (2, 5, 0)));
        assert!(!known("futex_waitv", (2, 5, 3)) && known("futex_waitv", (2, 5, 4)));
        assert!(!known("mseal", (2, 5, 6)) && known("mseal", (2, 6, 0)));
    }

    #[test]
    fn multiplexed_calls_are_all_known() {
        for name in SOCKET_CALLS.iter().chain(&IPC_CALLS) {
            let multiplexer = SyscallName::by_name(name).unwrap().multiplexer().unwrap();
            assert!(multiplexer.is_multiplexer() && multiplexer.number(Arch::X86).is_some());
        }
    }
}
