//! The programs that a node cannot do without, by their paths. Two ask: who leaves processes of them alone when the host's own
//! processes are judged, and who denies nobody their files, where nobody is left alone.

/// What starts services before their program is executed, in a mount namespace that it makes for them.
pub(crate) const SYSTEMD: &[&str] = &["/usr/lib/systemd/systemd", "/usr/lib/systemd/systemd-executor"];
/// Other names of the first process's program.
const INIT: &[&str] = &["/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd"];
const LIBRARIES: &[&str] = &[
    "/lib64/ld-linux-x86-64.so.2",
    "/usr/lib64/ld-linux-x86-64.so.2",
    "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/usr/lib/ld-linux-aarch64.so.1",
    "/lib64/libc.so.6",
    "/usr/lib64/libc.so.6",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/aarch64-linux-gnu/libc.so.6",
    "/usr/lib/aarch64-linux-gnu/libc.so.6",
];
/// The master alone: of its sessions nobody is left alone.
pub(crate) const SSHD: &[&str] = &["/usr/sbin/sshd"];
/// Since OpenSSH 9.8 and 10.0 the master executes these for each connection.
pub(crate) const SSHD_SESSIONS: &[&str] = &[
    "/usr/lib/openssh/sshd-session",
    "/usr/lib/openssh/sshd-auth",
    "/usr/libexec/openssh/sshd-session",
    "/usr/libexec/openssh/sshd-auth",
    "/usr/lib/ssh/sshd-session",
    "/usr/lib/ssh/sshd-auth",
];
/// Daemons that have containers, and what stays with a container when they end.
pub(crate) const DAEMONS: &[&str] =
    &["/usr/bin/kubelet", "/usr/bin/containerd", "/usr/bin/containerd-shim-runc-v2", "/usr/bin/crio"];
/// The same on some hosts.
pub(crate) const DAEMONS_OF_SOME: &[&str] = &[
    "/usr/local/bin/kubelet",
    "/usr/local/bin/containerd",
    "/usr/local/bin/crio",
    "/usr/bin/dockerd",
    "/usr/bin/cri-dockerd",
    "/usr/local/bin/cri-dockerd",
    "/usr/bin/k0s",
    "/usr/local/bin/k0s",
    // what k0s unpacks
    "/var/lib/k0s/bin/kubelet",
    "/var/lib/k0s/bin/containerd",
    "/snap/microk8s/current/kubelite",
    "/snap/microk8s/current/bin/containerd",
    // these outlive the service that started them
    "/usr/local/bin/containerd-shim-runc-v2",
    "/var/lib/k0s/bin/containerd-shim-runc-v2",
    "/snap/microk8s/current/bin/containerd-shim-runc-v2",
];
/// What starts podman's and CRI-O's containers, whoever calls it.
pub(crate) const MONITORS: &[&str] =
    &["/usr/bin/conmon", "/usr/local/bin/conmon", "/usr/libexec/podman/conmon", "/usr/libexec/crio/conmon"];
/// What is started for a moment, by daemons that are left alone with all that they start.
const RUNTIMES: &[&str] = &["/usr/bin/runc", "/usr/sbin/runc", "/usr/bin/crun"];
const RUNTIMES_OF_SOME: &[&str] = &[
    "/usr/local/bin/runc",
    "/usr/local/sbin/runc",
    "/usr/local/bin/crun",
    "/usr/local/bin/k3s",
    "/usr/local/bin/rke2",
];
/// Without these no label could be taken off.
const SELINUX: &[&str] = &["/sbin/semodule", "/usr/sbin/semodule", "/usr/sbin/load_policy"];

/// Those that most hosts have, by the names that they have there. A text that would deny one of them is refused before any
/// host is looked at, so one that few hosts have is not among them.
pub(crate) fn of_most() -> impl Iterator<Item = &'static str> {
    [INIT, SYSTEMD, LIBRARIES, SSHD, DAEMONS, RUNTIMES, SELINUX].into_iter().flatten().copied()
}

/// All of them.
#[cfg(feature = "bpf")]
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    of_most()
        .chain([SSHD_SESSIONS, DAEMONS_OF_SOME, MONITORS, RUNTIMES_OF_SOME].into_iter().flatten().copied())
}

#[cfg(all(test, feature = "bpf"))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::enforce::host::{Exempt, HostExempt};

    #[test]
    fn what_is_left_alone_is_needed_and_nothing_is_named_twice() {
        let needed: BTreeSet<String> = all().map(str::to_owned).collect();
        assert_eq!(needed.len(), all().count());
        let programs = HostExempt::defaults().entries.into_iter().filter_map(|(one, _)| match one {
            Exempt::Program(path) => Some(path.display().to_string()),
            Exempt::Cgroup(_) => None,
        });
        let exempt: BTreeSet<String> = programs.collect();
        assert!(exempt.len() > 20 && exempt.is_subset(&needed), "{exempt:?}");
    }
}
