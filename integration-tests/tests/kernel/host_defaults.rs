//! Who is left alone by default: a real process for each name, under rules that deny everybody else everything.

use enforcer_core::enforce::host::{Exempt, HostExempt, Reach};
use enforcer_core::enforce::{ContainerId, Enforcer, Stage, Target, unload};

use enforcer_core::ruleset::{PostureAction, Postures, Ruleset};

use crate::container::Container;
use crate::{options, ruleset_under, sh};

const READ: &str = "cat /tmp/read";

/// Allows one file, and nothing else.
fn nearly_nothing() -> Ruleset {
    let postures = Postures { file: PostureAction::Block, ..Postures::default() };
    ruleset_under("  file: {matchPaths: [{path: /tmp/allowed}]}\n  action: Allow\n", postures)
}

/// For a shell, which goes on where it was: the kernel moves who writes, here a subshell.
fn moved(cgroup: &str, command: &str) -> String {
    format!("echo 0 > /sys/fs/cgroup/{cgroup}/cgroup.procs && exec {command}")
}

/// As the program of this name.
fn named(path: &str, command: &str) -> String {
    format!("-a busybox {path} {command}")
}

pub fn host_defaults(enforcer: Enforcer) {
    sh("mkdir -p /sys/fs/cgroup/test-session; echo x > /tmp/read; echo x > /tmp/allowed");
    let defaults = HostExempt::defaults();
    let mut alone = Vec::new();
    for (exempt, reach) in &defaults.entries {
        let process = match exempt {
            Exempt::Cgroup(path) => {
                sh(&format!("mkdir -p /sys/fs/cgroup/{path}"));
                Container::of_host("/bin/sh", Some(path))
            }
            Exempt::Program(path) => {
                let (path, dir) = (path.display(), path.parent().unwrap().display());
                sh(&format!("mkdir -p {dir} && cp /bin/busybox {path}"));
                Container::of_host(&named(&path.to_string(), "sh"), None)
            }
        };
        alone.push((exempt.to_string(), *reach, process));
    }
    for name in [
        "k0sworker",
        "k0s/bin/kubelet",
        "microk8s.daemon-kubelite",
        "microk8s/current/kubelite",
        "cri-docker",
    ] {
        assert!(alone.iter().any(|(exempt, ..)| exempt.contains(name)), "{name}");
    }
    let mut other = Container::of_host("/bin/sh", None);
    assert!(other.reads("/tmp/read"));

    assert_eq!(enforcer.exempt(&defaults).unwrap(), [""; 0], "not all is there");
    let host = Target { id: ContainerId::host(), pid: 1, stage: Stage::Running };
    enforcer.arm(&host, &nearly_nothing()).unwrap();
    assert!(!other.reads("/tmp/read") && other.reads("/tmp/allowed"));

    // those that ran before
    for (exempt, reach, process) in &mut alone {
        assert!(process.reads("/tmp/read"), "{exempt}");
        let below = process.run(&moved("test-session", READ)) == 0;
        assert_eq!(below, *reach != Reach::Here, "{exempt}: what it starts elsewhere");
    }
    // and those that systemd starts now, in their cgroups or by their programs
    let systemd = alone.iter_mut().find(|(exempt, ..)| exempt == "/usr/lib/systemd/systemd");
    let (.., systemd) = systemd.unwrap();
    for (exempt, _) in &defaults.entries {
        let start = match exempt {
            Exempt::Cgroup(path) => moved(path, READ),
            Exempt::Program(path) => moved("test-session", &named(&path.display().to_string(), READ)),
        };
        assert_eq!(systemd.run(&start), 0, "{exempt}, started now");
        assert_ne!(other.run(&start), 0, "{exempt}, by a login");
    }
    assert_ne!(systemd.run(&moved("test-session", READ)), 0, "what is nobody's by default");

    enforcer.disarm(&host.id).unwrap();
    drop(enforcer);
    unload(&options().bpffs).unwrap();
    assert!(other.reads_soon("/tmp/read"));
}
