//! What every profile holds beside the policies: what a container may do with a profile of its runtime, so that ours in
//! its place takes nothing away and gives nothing more.
//!
//! containerd, CRI-O, docker and podman give much the same profile. It allows files, capabilities, sockets and `umount`,
//! and denies what would reach beyond the container: `mount`, writing to `/proc` but for the directories of processes
//! and `kernel/shm*`, writing to `/sys` but for `fs/cgroup`, the memory of the kernel, its firmware and its security
//! modules. Without rights to `mount` and `pivot_root` a path stays what the policies call it, as far as the file is in a
//! tree that the container has (for others see `mounts.rs`). Nothing here depends on what the policies say, and no rule of
//! theirs, nor a native one, opens it.

use std::fmt::Write as _;

/// What the parser is to assume of the kernel: the classes of access below and no others, so that a newer kernel, which
/// could mediate more, denies nothing that the profile does not speak about. In the form of the files below
/// `/sys/kernel/security/apparmor/features`; for `apparmor_parser --policy-features`.
pub const FEATURES: &str = "\
caps {mask {chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service \
net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin sys_boot \
sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog \
wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore
}
}
domain {change_hat {yes
}
change_onexec {yes
}
change_profile {yes
}
stack {yes
}
version {1.2
}
}
file {mask {create read write exec append mmap_exec link lock
}
}
mount {mask {mount umount pivot_root
}
}
network_v8 {af_mask {unspec unix inet ax25 ipx appletalk netrom bridge atmpvc x25 inet6 rose netbeui security key netlink \
packet ash econet atmsvc rds sna irda pppox wanpipe llc ib mpls can tipc bluetooth iucv rxrpc isdn phonet ieee802154 caif \
alg nfc vsock kcm qipcrtr smc xdp
}
}
policy {set_load {yes
}
versions {v8 {yes
}
v7 {yes
}
v6 {yes
}
v5 {yes
}
}
}
ptrace {mask {read trace
}
}
signal {mask {hup int quit ill trap abrt bus fpe kill usr1 segv usr2 pipe alrm term stkflt chld cont stop stp ttin ttou \
urg xcpu xfsz vtalrm prof winch io pwr sys emt lost
}
}
";

/// Paths that are denied, and how; they stand above every rule of a policy.
pub(super) fn denied(priority: &str) -> String {
    let mut out = String::new();
    let mut deny = |glob: &str, perms: &str| {
        writeln!(out, "  {priority}deny \"{glob}\" {perms},").unwrap_or_default();
    };
    deny("/proc/*", "wl");
    deny("/proc/[^0-9s]*/**", "wl");
    deny("/proc/{scsi,sysvipc}/**", "wl");
    deny(&beside("/proc/sys/", "kernel/shm"), "wl");
    deny("/proc/{sysrq-trigger,mem,kmem,kcore}", "rwklmx");
    deny(&beside("/sys/", "fs/cgroup/"), "wl");
    deny("/sys/{firmware,devices/virtual/powercap,kernel/security}/{,**}", "rwklmx");
    out
}

/// What is below `directory`, but not what starts with `kept`.
fn beside(directory: &str, kept: &str) -> String {
    let cut = |(index, next): (usize, char)| {
        let start: String = kept.chars().take(index).collect();
        // a `/` in brackets is a byte like any other
        format!("{start}[^{next}]")
    };
    let cuts: Vec<String> = kept.chars().enumerate().map(cut).collect();
    format!("{directory}{{{}}}**", cuts.join(","))
}

/// Who may send signals to whom, and trace whom: `traced` are the profiles that are as good as this one.
pub(super) fn among(all: &str, traced: &str) -> String {
    format!(
        "  umount,
  signal (receive) peer=unconfined,
  signal (receive) peer=\"{{,/usr/bin/,/usr/sbin/}}{{runc,crun,youki,podman,conmon}}\",
  signal (send, receive) peer=\"{all}\",
  ptrace (read, readby) peer=\"{all}\",
  ptrace (trace, tracedby) peer=\"{traced}\",
"
    )
}
