//! Who is confined, from when on, and how it ends.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use enforcer_core::enforce::{ContainerId, EnforceError, Enforcer, Occupancy, Stage, Target, unload};
use enforcer_core::event::{EventBy, Op};

use crate::container::Container;
use crate::{block, counter, events, options, sh};

pub fn identity(enforcer: Enforcer) {
    fs::write("/tmp/secret", "x").unwrap();
    fs::write("/tmp/other", "x").unwrap();
    let rules = block("/tmp/secret");

    // Armed before its start: the runtime's part is not judged, the workload is from its first instruction on.
    let mut one = Container::created("one", true);
    let armed = enforcer.arm(&one.target(Stage::Created), &rules).unwrap();
    assert_eq!((armed.already, armed.ruleset), (false, rules.digest()));
    assert!(armed.tasks >= 1);
    let Occupancy { containers, rulesets } = enforcer.occupancy();
    assert_eq!((containers.entries, rulesets.entries), (1, 1));
    assert_eq!((containers.limit, rulesets.limit), (16_384, 16_384));
    one.start();
    assert!(!one.reads("/tmp/secret"));
    assert!(one.reads("/tmp/other"));
    assert_ne!(one.run("cat /tmp/secret"), 0, "children too");
    assert_eq!(one.run("cat /tmp/other"), 0);
    assert!(fs::read("/tmp/secret").is_ok(), "the host is not confined");
    let found = events(&enforcer);
    let event = found
        .iter()
        .find(|event| event.source.starts_with(b"/usr/bin/"))
        .unwrap_or_else(|| panic!("no event of the shell: {found:#?}"));
    assert_eq!(event.container.as_ref(), Some(&one.id));
    assert_eq!(event.ruleset, Some(rules.digest()));
    assert_eq!((event.op, event.path.as_slice()), (Op::OpenRead, &b"/tmp/secret"[..]));
    assert!(matches!(event.by, EventBy::Rule(_)));

    // A second arming of the same container exchanges its rules.
    assert!(enforcer.arm(&one.target(Stage::Created), &block("/tmp/other")).unwrap().already);
    assert!(one.reads("/tmp/secret"));
    assert!(!one.reads("/tmp/other"));
    enforcer.update(&one.id, &rules).unwrap();

    // Whoever enters from outside is found by the cgroup, also from a cgroup below it.
    let enter = |cgroup: &str| {
        format!(
            "mkdir -p {cgroup}; echo $$ > {cgroup}/cgroup.procs; exec nsenter -m -t {} cat /tmp/secret",
            one.pid()
        )
    };
    let entered = |cgroup: &str| Command::new("sh").args(["-c", &enter(cgroup)]).output().unwrap();
    assert!(!entered("/sys/fs/cgroup/test-one").status.success());
    assert!(!entered("/sys/fs/cgroup/test-one/a/b/c").status.success());
    assert!(entered("/sys/fs/cgroup/test-elsewhere").status.success(), "neither inside nor a descendant");

    // Without a cgroup of its own: by the mount namespace.
    let mut two = Container::created("two", false);
    enforcer.arm(&two.target(Stage::Created), &rules).unwrap();
    two.start();
    assert!(!two.reads("/tmp/secret"));
    let entered = |pid: i32| {
        Command::new("nsenter").args(["-m", "-t", &pid.to_string(), "cat", "/tmp/secret"]).output().unwrap()
    };
    assert!(!entered(two.pid()).status.success(), "by mount namespace");
    // The namespace's number is used again, the container is not disarmed yet: the new one is not confined.
    let number = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let old = number(two.pid());
    drop(two);
    let mut again = Container::created("again", false);
    let mut tries = Vec::new();
    while number(again.pid()) != old && tries.len() < 50 {
        tries.push(std::mem::replace(&mut again, Container::created("again", false)));
    }
    assert_eq!(number(again.pid()), old, "the number did not come back");
    assert!(entered(again.pid()).status.success(), "a used number is not an identity");
    drop((tries, again));
    enforcer.disarm(&ContainerId::new("two").unwrap()).unwrap();

    // Running already, with older children, some in a cgroup below, and the first process in one too: all, at once.
    let mut three = Container::created("three", true);
    three.start();
    assert!(three.reads("/tmp/secret"));
    three.run("mkdir -p /sys/fs/cgroup/test-three/sub /sys/fs/cgroup/test-three/init");
    let child = |move_to: &str| {
        format!(
            "( sh -c '{move_to} while [ ! -e /tmp/go ]; do sleep 0.1; done; cat /tmp/secret && echo x >> /tmp/opened; echo x >> /tmp/tried' & )"
        )
    };
    for _ in 0..3 {
        three.run(&child(""));
        three.run(&child("echo $$ > /sys/fs/cgroup/test-three/sub/cgroup.procs;"));
    }
    std::thread::sleep(Duration::from_secs(1));
    sh(&format!("echo {} > /sys/fs/cgroup/test-three/init/cgroup.procs", three.pid()));
    let armed = enforcer.arm(&three.target(Stage::Running), &rules).unwrap();
    assert!(armed.tasks >= 7, "{armed:?}");
    assert!(!three.reads("/tmp/secret"));
    let entered = |cgroup: &str| {
        let enter = format!(
            "echo $$ > {cgroup}/cgroup.procs; exec nsenter -m -t {} /bin/cat /tmp/secret",
            three.pid()
        );
        Command::new("sh").args(["-c", &enter]).output().unwrap().status.success()
    };
    assert!(
        !entered("/sys/fs/cgroup/test-three"),
        "the container's cgroup, not the one its first process moved to"
    );
    fs::write("/tmp/go", "").unwrap();
    while fs::read("/tmp/tried").map_or(0, |tried| tried.len()) < 12 {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!Path::new("/tmp/opened").exists(), "an older child opened it");

    // Armed before the root has changed: what the runtime executes until then is its own.
    let root = Path::new("/tmp/root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/sh")).unwrap();
    for file in ["secret", "other"] {
        fs::write(root.join(file), "x").unwrap();
    }
    let inside = |file: &str| format!("chroot /tmp/root /bin/sh -c 'true < /{file}'");
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let below = block("/tmp/root/secret");
    let mut four = Container::created("four", true);
    enforcer.arm(&four.target(Stage::Creating { root: Some(inode(root)) }), &below).unwrap();
    four.start();
    assert!(four.reads("/tmp/root/secret"), "as a createContainer hook would");
    assert_ne!(four.run(&inside("secret")), 0, "the workload");
    assert_eq!(four.run(&inside("other")), 0);
    let enter = "echo $$ > /sys/fs/cgroup/test-four/cgroup.procs; exec nsenter -m -t";
    let entered = |file: &str| {
        let enter = format!("{enter} {} {}", four.pid(), inside(file));
        Command::new("sh").args(["-c", &enter]).output().unwrap().status.success()
    };
    assert!(!entered("secret") && entered("other"), "and who enters later");
    // A change of the root that could not be told is not waited for.
    for (id, root) in [("five", None), ("six", Some(inode(Path::new("/"))))] {
        let mut same = Container::created(id, true);
        enforcer.arm(&same.target(Stage::Creating { root }), &below).unwrap();
        same.start();
        assert!(!same.reads("/tmp/root/secret"), "{id}");
        // Armed for one process is not armed for another.
        for stage in [Stage::Created, Stage::Running] {
            let another = Target { id: four.id.clone(), pid: same.pid(), stage };
            assert!(matches!(enforcer.arm(&another, &below), Err(EnforceError::ReadBack(_))));
        }
    }
    assert!(enforcer.arm(&four.target(Stage::Created), &below).unwrap().already);

    // It had begun when it was armed as one that had not: what it waits for has been. Armed as one that runs it is judged.
    let mut seven = Container::created("seven", true);
    seven.start();
    assert!(seven.reads("/tmp/secret"), "it runs");
    enforcer.arm(&seven.target(Stage::Created), &rules).unwrap();
    assert!(seven.reads("/tmp/secret"));
    let again = enforcer.arm(&seven.target(Stage::Running), &rules).unwrap();
    assert!(again.already);
    assert!(!seven.reads("/tmp/secret"));
    assert!(seven.reads("/tmp/other"));
    assert_ne!(seven.run("cat /tmp/secret"), 0, "children too");

    // Refusals.
    assert!(matches!(
        enforcer
            .arm(&Target { id: ContainerId::new("x").unwrap(), pid: 999_999, stage: Stage::Created }, &rules),
        Err(EnforceError::NoProcess { .. })
    ));
    assert!(matches!(
        enforcer.arm(&Target { id: ContainerId::new("x").unwrap(), pid: 1, stage: Stage::Created }, &rules),
        Err(EnforceError::NotAContainer { .. })
    ));
    assert!(matches!(
        enforcer.update(&ContainerId::new("x").unwrap(), &rules),
        Err(EnforceError::NotArmed(_))
    ));
    assert!(matches!(Enforcer::open(&options()), Err(EnforceError::Busy { .. })), "one daemon at a time");

    // The end.
    enforcer.disarm(&one.id).unwrap();
    enforcer.disarm(&one.id).unwrap();
    assert!(one.reads("/tmp/secret"));
    assert!(!three.reads("/tmp/secret"));
    assert_eq!(counter(&enforcer, "recursion_misses"), 0);
    assert_eq!([counter(&enforcer, "inherit_failed"), counter(&enforcer, "identify_failed")], [0, 0]);
    drop(enforcer);
    assert!(!three.reads("/tmp/secret"), "enforcement outlives the process");
    unload(&options().bpffs).unwrap();
    assert!(three.reads_soon("/tmp/secret"));
}
