//! System calls by name.

use std::fmt;

use crate::seccomp::Arch;
use crate::seccomp::table::SyscallName;

/// A system call that Linux has, or had, on x86-64 or 64-bit Arm.
///
/// ```
/// use enforcer_core::syscall::Syscall;
///
/// let unlink = Syscall::by_name("unlink").expect("it is in the table");
/// assert_eq!(unlink.name(), "unlink");
/// assert_eq!(unlink.number(), if cfg!(target_arch = "x86_64") { Some(87) } else { None });
/// assert_eq!(Syscall::by_name("unlinkx"), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Syscall(SyscallName); // INVARIANT: one that has a number on one of MACHINES

/// The machines that the programs run on.
const MACHINES: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

impl Syscall {
    /// The one with this name, in lower case.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        SyscallName::by_name(name).and_then(Self::of)
    }

    /// The one with this number on the machine that this is built for.
    #[must_use]
    pub fn by_number(number: u32) -> Option<Self> {
        SyscallName::by_number(Arch::native()?, number).and_then(Self::of)
    }

    /// All of them, sorted by name.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        SyscallName::all().filter_map(Self::of)
    }

    fn of(name: SyscallName) -> Option<Self> {
        MACHINES.into_iter().any(|arch| name.number(arch).is_some()).then_some(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.as_str()
    }

    /// The number on the machine that this is built for; `None` where it has no such system call, so that nothing can
    /// make it.
    #[must_use]
    pub fn number(self) -> Option<u32> {
        self.0.number(Arch::native()?)
    }
}

impl fmt::Display for Syscall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Syscall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Syscall({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back() {
        for syscall in Syscall::all() {
            assert_eq!(Syscall::by_name(syscall.name()), Some(syscall));
            if let Some(number) = syscall.number() {
                assert_eq!(Syscall::by_number(number), Some(syscall));
            }
        }
        assert_eq!(Syscall::by_number(100_000), None);
        assert!(Syscall::all().count() > 380);
        assert_eq!(Syscall::by_name("socketcall"), None, "only of 32-bit machines");
    }
}
