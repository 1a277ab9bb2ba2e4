//! Groups of system calls, as systemd's `SystemCallFilter=` has them.

mod rows;

use self::rows::ROWS;
use super::table::SyscallName;

/// Every system call that there is a name for.
const KNOWN: &str = "@known";

/// The members of a group, such as `@mount`, sorted by name; `@known` has every system call.
#[must_use]
pub fn members(group: &str) -> Option<Vec<SyscallName>> {
    if group == KNOWN {
        return Some(SyscallName::all().collect());
    }
    let index = ROWS.binary_search_by(|(name, _)| (*name).cmp(group)).ok()?;
    let (_, names) = ROWS.get(index)?;
    Some(names.iter().filter_map(|name| SyscallName::by_name(name)).collect())
}

/// The names of the groups, with the `@`.
pub fn names() -> impl Iterator<Item = &'static str> + Clone {
    ROWS.iter().map(|row| row.0).chain([KNOWN])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_is_a_system_call() {
        assert!(ROWS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(names().count(), 29);
        for (name, listed) in ROWS {
            assert_eq!(members(name).unwrap().len(), listed.len(), "{name}");
        }
        let has = |group, name| members(group).unwrap().contains(&SyscallName::by_name(name).unwrap());
        assert!(has("@mount", "pivot_root") && has("@system-service", "read") && has("@known", "mseal"));
        assert!(!has("@system-service", "mount"));
        assert_eq!(members("@nothing"), None);
    }
}
