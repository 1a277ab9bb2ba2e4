//! Linux capabilities by name.

use std::fmt;

/// In the order of their numbers in the kernel.
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// A capability.
///
/// ```
/// use enforcer_core::capability::Capability;
///
/// let net_raw = Capability::by_name("CAP_NET_RAW").expect("it is one");
/// assert_eq!((net_raw.number(), net_raw.to_string()), (13, "net_raw".into()));
/// assert_eq!(Capability::by_name("net_row"), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(u8); // INVARIANT: an index of NAMES

impl Capability {
    /// The one with this name, in any case, with or without `cap_` before it.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("cap_").unwrap_or(&name);
        Self::all().find(|capability| capability.name() == name)
    }

    /// The one with the kernel's number.
    #[must_use]
    pub fn by_number(number: u32) -> Option<Self> {
        u8::try_from(number).ok().filter(|number| usize::from(*number) < NAMES.len()).map(Self)
    }

    /// All of them, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        (0..u8::try_from(NAMES.len()).unwrap_or(u8::MAX)).map(Self)
    }

    /// The name in lower case, without `cap_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.get(usize::from(self.0)).copied().unwrap_or_default()
    }

    /// The kernel's number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capability({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        for (name, number) in [
            ("chown", 0),
            ("kill", 5),
            ("net_raw", 13),
            ("sys_ptrace", 19),
            ("sys_admin", 21),
            ("mknod", 27),
            ("setfcap", 31),
            ("syslog", 34),
            ("audit_read", 37),
            ("perfmon", 38),
            ("checkpoint_restore", 40),
        ] {
            let capability = Capability::by_name(name).unwrap();
            assert_eq!(u32::from(capability.number()), number, "{name}");
            assert_eq!(Capability::by_number(number), Some(capability));
        }
        assert_eq!(Capability::all().count(), 41);
        assert_eq!(Capability::by_number(41), None);
    }

    #[test]
    fn any_case_and_the_prefix_are_read() {
        for text in ["sys_admin", "SYS_ADMIN", "cap_sys_admin", "CAP_SYS_ADMIN", "Cap_Sys_Admin"] {
            assert_eq!(Capability::by_name(text).map(Capability::number), Some(21), "{text}");
        }
        for text in ["", "cap_", "cap_cap_chown", "sys admin", "admin"] {
            assert_eq!(Capability::by_name(text), None, "{text}");
        }
    }
}
