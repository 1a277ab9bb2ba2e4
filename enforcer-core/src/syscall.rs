//! System calls by name.

mod table;

use std::fmt;

use self::table::{NONE, TABLE};

/// A system call that Linux has, or had, on some machine.
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
pub struct Syscall(u16); // INVARIANT: an index of the table, which is sorted by name

impl Syscall {
    /// The one with this name, in lower case.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let index = TABLE.binary_search_by(|(other, ..)| (*other).cmp(name)).ok()?;
        u16::try_from(index).ok().map(Self)
    }

    /// The one with this number on the machine that this is built for.
    #[must_use]
    pub fn by_number(number: u32) -> Option<Self> {
        Self::all().find(|syscall| syscall.number() == Some(number))
    }

    /// All of them, sorted by name.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        (0..u16::try_from(TABLE.len()).unwrap_or(u16::MAX)).map(Self)
    }

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The number on the machine that this is built for; `None` where it has no such system call, so that nothing can
    /// make it.
    #[must_use]
    pub fn number(self) -> Option<u32> {
        let (_, x86_64, aarch64) = self.row();
        let number = if cfg!(target_arch = "x86_64") {
            x86_64
        } else if cfg!(target_arch = "aarch64") {
            aarch64
        } else {
            NONE
        };
        (number != NONE).then_some(u32::from(number))
    }

    fn row(self) -> (&'static str, u16, u16) {
        TABLE.get(usize::from(self.0)).copied().unwrap_or(("", NONE, NONE))
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
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_is_sorted_and_no_number_stands_twice() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for column in [|row: &(&str, u16, u16)| row.1, |row: &(&str, u16, u16)| row.2] {
            let numbers: Vec<_> = TABLE.iter().map(column).filter(|number| *number != NONE).collect();
            assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
            assert!(numbers.len() > 300);
        }
    }

    #[test]
    fn names_and_numbers_lead_back() {
        for syscall in Syscall::all() {
            assert_eq!(Syscall::by_name(syscall.name()), Some(syscall));
            if let Some(number) = syscall.number() {
                assert_eq!(Syscall::by_number(number), Some(syscall));
            }
        }
        assert_eq!(Syscall::by_number(100_000), None);
    }
}
