//! Who is left alone by default: a real process for each name, under rules that deny everybody else everything.

use std::collections::BTreeSet;
use std::path::Path;

use enforcer_core::enforce::host::{Exempt, HostExempt, Reach};
use enforcer_core::enforce::{ContainerId, Enforcer, Stage, Target, unload};
use enforcer_core::ruleset::{PostureAction, Postures, Ruleset};

use crate::container::Container;
use crate::{options, ruleset_under, sh};

/// By its path: the shell is one program with all of its commands, and would execute itself.
const READ: &str = "/bin/cat /tmp/read";

/// Allows what programs, the test and what runs it need, and one file of `/tmp`: whoever is judged reads no other one there.
fn nearly_nothing() -> Ruleset {
    let postures = Postures { file: PostureAction::Block, ..Postures::default() };
    let dirs = ["bin", "sbin", "lib", "lib64", "usr", "var", "snap", "run", "dev", "sys", "proc"];
    let dirs = dirs.map(|dir| format!("{{dir: /{dir}/, recursive: true}}")).join(", ");
    let rules = format!(
        "  file:\n    matchPaths: [{{path: /tmp/allowed}}]\n    matchDirectories: [{dirs}]\n  action: Allow\n"
    );
    ruleset_under(&rules, postures)
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
    let programs = defaults.entries.iter().filter_map(|(exempt, _)| match exempt {
        Exempt::Program(path) => path.parent(),
        Exempt::Cgroup(_) => None,
    });
    // the guest's root is an overlayfs, on which a program that is exempt only while it is there counts for nobody
    for (number, dir) in programs.collect::<BTreeSet<&Path>>().into_iter().enumerate() {
        let (dir, place) = (dir.display(), format!("/tmp/programs-{number}"));
        sh(&format!("mkdir -p {dir} {place} && cp -a {dir}/. {place}/ && mount --bind {place} {dir}"));
    }
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
    assert_eq!(other.run(&moved("test-session", "cat /tmp/allowed")), 0);

    // those that ran before
    for (exempt, reach, process) in &mut alone {
        assert!(process.reads("/tmp/read"), "{exempt}");
        let below = process.run(&moved("test-session", READ)) == 0;
        assert_eq!(below, *reach != Reach::Here, "{exempt}: what it starts elsewhere");
    }
    // and those that systemd starts now, in their cgroups or by their programs
    let systemd = alone.iter_mut().find(|(exempt, ..)| exempt == "/usr/lib/systemd/systemd");
    let (.., systemd) = systemd.unwrap();
    for (exempt, reach) in &defaults.entries {
        let start = match exempt {
            Exempt::Cgroup(path) => moved(path, READ),
            Exempt::Program(path) => moved("test-session", &named(&path.display().to_string(), READ)),
        };
        assert_eq!(systemd.run(&start), 0, "{exempt}, started now");
        let of_container = *reach == Reach::Containers; // whoever executes a program there is a container's
        assert_eq!(other.run(&start) == 0, of_container, "{exempt}, by a login");
        assert_eq!(other.run(&start.replace("/tmp/read", "/tmp/allowed")), 0, "{exempt}, by a login");
    }
    assert_ne!(systemd.run(&moved("test-session", READ)), 0, "what is nobody's by default");

    enforcer.disarm(&host.id).unwrap();
    drop(enforcer);
    unload(&options().bpffs).unwrap();
    assert!(other.reads_soon("/tmp/read"));
}
