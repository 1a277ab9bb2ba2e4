//! The profile that containerd gives a container for which nothing else is asked, as a function of its capabilities.
//!
//! The facts are those of containerd's main branch in August 2026: which system calls pass, for whom, and the errno of clone3. CRI-O's and
//! docker's differ in a few names; where a runtime shows the profile that a container has, that one is the base instead.

use std::collections::BTreeSet;

use super::action::{Action, ENOSYS, EPERM};
use super::arch::Arch;
use super::oci::{Arg, LinuxSeccomp, Op, SyscallEntry};
use crate::capability::Capability;

mod always;

use self::always::ALWAYS;

/// What a capability of the container lets pass beside.
const BY_CAPABILITY: [(&str, &[&str]); 14] = [
    ("bpf", &["bpf"]),
    ("dac_read_search", &["open_by_handle_at"]),
    ("perfmon", &["perf_event_open"]),
    (
        "sys_admin",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("sys_boot", &["reboot"]),
    ("sys_chroot", &["chroot"]),
    ("sys_module", &["delete_module", "finit_module", "init_module"]),
    ("sys_nice", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("sys_pacct", &["acct"]),
    (
        "sys_ptrace",
        &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"],
    ),
    ("sys_rawio", &["ioperm", "iopl"]),
    ("sys_time", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("sys_tty_config", &["vhangup"]),
    ("syslog", &["syslog"]),
];

/// The personalities that can be set: Linux, Linux with 32-bit addresses reported, each without `uname` of 2.6 or with, and
/// the one that only asks.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Sockets of the kernel's cryptography and of the hypervisor, which are of no namespace.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET`.
const NAMESPACES: u64 = 0x7e02_0000;

/// The runtime's default on a node for a container with these capabilities in its bounding set.
#[must_use]
pub fn profile(native: Arch, capabilities: &BTreeSet<Capability>) -> LinuxSeccomp {
    let has = |name: &str| capabilities.iter().any(|capability| capability.name() == name);
    let argument = |index, op, value| Arg { index, op, value, value_two: 0 };
    let mut syscalls =
        vec![allow(&ALWAYS, None), allow(&["process_vm_readv", "process_vm_writev", "ptrace"], None)];
    for (op, value) in [(Op::Less, AF_ALG), (Op::Equal, AF_ALG + 1), (Op::Greater, AF_VSOCK)] {
        syscalls.push(allow(&["socket"], Some(argument(0, op, value))));
    }
    for personality in PERSONALITIES {
        syscalls.push(allow(&["personality"], Some(argument(0, Op::Equal, personality))));
    }
    syscalls.push(allow(of_machine(native), None));
    for (capability, names) in BY_CAPABILITY {
        if has(capability) {
            syscalls.push(allow(names, None));
        }
    }
    if !has("sys_admin") {
        // The flags are the second argument there.
        let flags = u32::from(matches!(native, Arch::S390 | Arch::S390x));
        syscalls.push(allow(&["clone"], Some(argument(flags, Op::MaskedEqual, NAMESPACES))));
        syscalls.push(entry(&["clone3"], Action::Errno(ENOSYS), None));
    }
    let family = native.family();
    LinuxSeccomp {
        architectures: family.iter().map(|arch| arch.oci_name().to_owned()).collect(),
        syscalls,
        ..LinuxSeccomp::of(Action::Errno(EPERM))
    }
}

/// What only machines of one kind have.
const fn of_machine(native: Arch) -> &'static [&'static str] {
    match native {
        Arch::X86_64 | Arch::X32 => &["arch_prctl", "modify_ldt"],
        Arch::X86 => &["modify_ldt"],
        Arch::Aarch64 | Arch::Arm => &[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "breakpoint",
            "cacheflush",
            "set_tls",
            "sync_file_range2",
        ],
        Arch::Ppc64le => &["swapcontext", "sync_file_range2"],
        Arch::S390x | Arch::S390 => &["s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"],
        Arch::Riscv64 => &["riscv_flush_icache", "riscv_hwprobe"],
        Arch::Loongarch64 => &[],
    }
}

fn allow(names: &[&str], condition: Option<Arg>) -> SyscallEntry {
    entry(names, Action::Allow, condition)
}

fn entry(names: &[&str], action: Action, condition: Option<Arg>) -> SyscallEntry {
    let (name, errno_ret) = action.into();
    SyscallEntry {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        action: name,
        errno_ret,
        args: condition.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::table::SyscallName;

    #[test]
    fn every_name_is_one() {
        let by_capability = BY_CAPABILITY.iter().flat_map(|(_, names)| *names);
        for name in ALWAYS.iter().chain(by_capability).chain(Arch::all().flat_map(of_machine)) {
            assert!(SyscallName::by_name(name).is_some(), "{name}");
        }
        for (capability, _) in BY_CAPABILITY {
            assert!(Capability::by_name(capability).is_some(), "{capability}");
        }
        assert_eq!(
            NAMESPACES,
            0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000
        );
    }

    #[test]
    fn capabilities_open_what_they_are_for() {
        let names = |capabilities: &[&str]| -> BTreeSet<String> {
            let capabilities = capabilities.iter().map(|name| Capability::by_name(name).unwrap()).collect();
            let profile = profile(Arch::X86_64, &capabilities);
            let open =
                profile.syscalls.iter().filter(|entry| entry.args.is_empty() && entry.errno_ret.is_none());
            open.flat_map(|entry| entry.names.clone()).collect()
        };
        assert!(!names(&[]).contains("mount") && !names(&[]).contains("clone3"));
        assert!(names(&["sys_admin"]).contains("mount") && names(&["sys_admin"]).contains("clone3"));
        assert!(names(&["sys_chroot"]).contains("chroot") && !names(&["chown"]).contains("chroot"));
        assert!(!names(&["sys_admin"]).contains("io_uring_setup") && !names(&[]).contains("userfaultfd"));
    }
}
