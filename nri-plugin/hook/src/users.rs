//! Whether the hook is run for a user's own container (rootless podman): by root of a user namespace who is another one outside.

/// The owner that every file of a user shows who has no name in the namespace, root among them.
const NOBODY: u32 = 65_534;

/// Whether it is.
pub(crate) fn own() -> bool {
    root_is_another(&std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
}

/// Whose file it is: there root of the host is nobody, as is each other user. Who runs that hook chooses it, so whom of them it
/// takes for root opens nothing that is closed to them.
pub(crate) fn owner(uid: u32) -> u32 {
    if uid == NOBODY && own() { 0 } else { uid }
}

/// Whether user 0 of a user namespace is another one outside.
fn root_is_another(map: &str) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.next() == Some("0") && fields.next().is_some_and(|outside| outside != "0")
    })
}

#[cfg(test)]
mod tests {
    use super::root_is_another;

    #[test]
    fn a_user_namespace_is_told_by_its_map() {
        assert!(!root_is_another("         0          0 4294967295\n"));
        assert!(root_is_another("         0       1000          1\n         1     100000      65536\n"));
        assert!(!root_is_another("      1000       1000          1\n") && !root_is_another(""));
    }
}
