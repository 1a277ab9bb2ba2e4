//! The host's own processes: who is judged, who is left alone, and that containers are none of them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use enforcer_core::enforce::host::{Exempt, HostExempt, Reach};
use enforcer_core::enforce::{ContainerId, EnforceError, Enforcer, Stage, Target, unload};
use enforcer_core::ruleset::Ruleset;
use lab::loaded::PROGRAM;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::container::Container;
use crate::{block, counter, events, options, ruleset, sh};

/// A command in a cgroup, by a process that executes it there.
fn moved(cgroup: &str, command: &str) -> String {
    format!("sh -c 'echo $$ > /sys/fs/cgroup/{cgroup}/cgroup.procs; exec {command}'")
}

/// Executes a program as a user, by a program that is exempt while it is there, as systemd starts a service.
fn managed(user: u32, program: &str) -> String {
    let (program, arguments) = program.split_once(' ').unwrap_or((program, ""));
    format!("/tmp/busybox-manager start-stop-daemon -S -n none -c {user}:{user} -a {program} -- {arguments}")
}

/// For a shell: waits for the file `go`, and without another execution writes `tried`, and before it `opened` where it could
/// open `file`.
fn waiting(go: &str, file: &str, opened: &str, tried: &str) -> String {
    format!("while [ ! -e {go} ]; do sleep 0.1; done; true < {file} && echo x > {opened}; echo x > {tried}")
}

/// Has [`arms_host`] arm the host, in a container.
const ARM_HOST: &str = "NRI_ENFORCER_ARM_HOST";

fn target() -> Target {
    Target { id: ContainerId::host(), pid: 1, stage: Stage::Running }
}

fn rules() -> Ruleset {
    ruleset(
        "  file: {matchPaths: [{path: /tmp/secret}]}\n  process: {matchPaths: [{path: /tmp/tool}]}\n  action: Block\n",
    )
}

/// No test of its own: a daemon that a container has, which arms the host all the same.
#[test]
fn arms_host() {
    if std::env::var_os(ARM_HOST).is_none() {
        return;
    }
    let enforcer = Enforcer::open(&options()).unwrap();
    enforcer.exempt(&exempt()).unwrap();
    enforcer.arm(&target(), &rules()).unwrap();
    assert!(fs::read("/tmp/secret").is_ok(), "it is not the host's");
    let confined = fs::read("/tmp/confined").is_err();
    assert_eq!(
        confined,
        std::env::var_os(ARM_HOST).unwrap() == "contained",
        "it is under the rules of its container"
    );
}

fn wait_for(path: &str) {
    while !Path::new(path).exists() {
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn exempt() -> HostExempt {
    let cgroup = |path: &str| Exempt::parse(path).unwrap();
    HostExempt {
        entries: vec![
            (cgroup("test-here"), Reach::Here),
            (cgroup("test-runtime/a.service"), Reach::Below),
            (cgroup("test-machine"), Reach::Containers),
            (cgroup("test-none/b.service"), Reach::Below),
            (Exempt::Program("/tmp/busybox-runtime".into()), Reach::Below),
            (Exempt::Program("/tmp/busybox-manager".into()), Reach::Here),
            (Exempt::Program("/tmp/none".into()), Reach::Here),
        ],
        ..HostExempt::nothing()
    }
}

fn pinned(map: &str) -> MapHandle {
    let pins = fs::read_dir(options().bpffs).unwrap().map(|layout| layout.unwrap().path().join(map));
    MapHandle::from_pinned_path(pins.last().unwrap()).unwrap()
}

/// Leaves of the armed host what a daemon leaves that is killed on the way: all but who is to be judged from now on.
fn forget_host() {
    let map = pinned("host");
    map.update(&0_u32.to_ne_bytes(), &vec![0; map.value_size() as usize], MapFlags::ANY).unwrap();
}

/// Does `act` while other tasks leave no room in the map by which tasks are known below 6.2.
fn without_room(act: impl FnOnce()) {
    const AT_ONCE: u32 = 4096;
    let map = pinned("pointer_subjects");
    let keys = |part: u64| -> Vec<u8> {
        let first = 1 + part * u64::from(AT_ONCE); // no address of a task
        (first..first + u64::from(AT_ONCE)).flat_map(u64::to_ne_bytes).collect()
    };
    let values = vec![0; (AT_ONCE * map.value_size()) as usize];
    let fill =
        |part: &u64| map.update_batch(&keys(*part), &values, AT_ONCE, MapFlags::ANY, MapFlags::ANY).is_ok();
    let parts = (0..).take_while(fill).count() as u64;
    assert!(parts > 10, "{parts}");
    let [one, value] = [u64::MAX.to_ne_bytes().to_vec(), vec![0; map.value_size() as usize]];
    assert!(map.update(&one, &value, MapFlags::ANY).is_err(), "there is room");
    act();
    for part in 0..parts {
        map.delete_batch(&keys(part), AT_ONCE, MapFlags::ANY, MapFlags::ANY).unwrap();
    }
    keys(parts).chunks(8).for_each(|key| drop(map.delete(key)));
    map.update(&one, &value, MapFlags::ANY).unwrap();
    map.delete(&one).unwrap();
}

pub fn host(enforcer: Enforcer) {
    sh("cd /sys/fs/cgroup; mkdir -p test-here test-runtime test-machine/c test-session test-elsewhere");
    sh("echo x > /tmp/secret; echo x > /tmp/other; cp /bin/busybox /tmp/busybox-runtime");
    sh("echo x > /tmp/confined; cp /bin/busybox /tmp/busybox-manager");
    sh("mkdir -p /etc; printf '%s:x:%s:%s::/:/bin/sh\\n' root 0 0 user 1000 1000 > /etc/passwd");
    fs::write("/tmp/tool", lab::image::FIRST).unwrap();
    sh("chmod +x /tmp/tool");
    let (target, rules) = (target(), rules());
    assert!(matches!(enforcer.arm(&target, &rules), Err(EnforceError::Host(_))), "nobody is exempt yet");
    assert!(enforcer.armed().unwrap().is_empty());
    let none = ["test-runtime/a.service", "test-none/b.service", "/tmp/none"];
    assert_eq!(enforcer.exempt(&exempt()).unwrap(), none);
    // a service that is started anew has another cgroup of the same name
    sh("mkdir /sys/fs/cgroup/test-runtime/a.service");
    assert_eq!(enforcer.exempt(&exempt()).unwrap(), none[1..]);
    sh("rmdir /sys/fs/cgroup/test-runtime/a.service; mkdir /sys/fs/cgroup/test-runtime/a.service");

    // Older than the policies: an ordinary process with a child, a master like sshd's, a runtime, what that has started
    // elsewhere, and a container.
    let mut older = Container::of_host("/bin/sh", None);
    older.run("( while [ ! -e /tmp/go ]; do sleep 0.1; done; cat /tmp/secret && echo x > /tmp/opened; echo x > /tmp/tried ) </dev/null >/dev/null 2>&1 &");
    let mut master = Container::of_host("/bin/sh", Some("test-here"));
    let mut runtime = Container::of_host("/bin/sh", Some("test-runtime/a.service"));
    let mut program = Container::of_host("/tmp/busybox-runtime sh", None);
    // a child of its own, not of a shell that has ended
    runtime.open(&format!(
        "5>/dev/null; {} >/dev/null 2>&1 & true",
        moved(
            "test-session",
            "sh -c \"while [ ! -e /tmp/go ]; do sleep 0.1; done; cat /tmp/secret > /tmp/shim; echo x > /tmp/shimmed\""
        )
    ));
    let mut plain = Container::created("plain", true);
    plain.start();
    plain.run(
        "/tmp/busybox-runtime sh -c 'echo x > /tmp/outside; while [ ! -e /tmp/go ]; do /bin/sleep 0.1; done; \
         nsenter -m -t 1 /bin/cat /tmp/secret && echo x > /tmp/plain-opened; echo x > /tmp/plain-tried' </dev/null &",
    );
    wait_for("/tmp/outside");
    // The path of an exempt program says nothing in another mount namespace, nor of who is not root.
    let mut manager = Container::of_host("/tmp/busybox-manager sh", None);
    let mut user = Container::of_host(&managed(1000, "/tmp/busybox-runtime sh"), None);
    let mut confined = Container::created("confined", true);
    enforcer.arm(&confined.target(Stage::Created), &block("/tmp/confined")).unwrap();
    confined.start();
    confined.run(&format!(
        "/tmp/busybox-runtime sh -c 'echo x > /tmp/inside; {}' </dev/null &",
        waiting("/tmp/go", "/tmp/confined", "/tmp/escaped", "/tmp/unescaped")
    ));
    wait_for("/tmp/inside");

    let armed = enforcer.arm(&target, &rules).unwrap();
    assert!(!armed.already && armed.tasks >= 4, "{armed:?}");
    fs::write("/tmp/go", "").unwrap();
    assert!(!older.reads("/tmp/secret"));
    assert!(older.reads("/tmp/other"));
    assert_eq!(older.run("/tmp/tool"), 126, "an execution");
    let found = events(&enforcer);
    let event =
        found.iter().find(|event| event.path == b"/tmp/secret").unwrap_or_else(|| panic!("{found:#?}"));
    assert_eq!(event.container, Some(ContainerId::host()));
    assert_eq!(event.ruleset, Some(rules.digest()));
    // It stays the host's, and names count as they are where it is.
    for outside in ["cat", "unshare -m cat", "unshare -m -p -f cat", "chroot / cat"] {
        assert_ne!(older.run(&format!("{outside} /tmp/secret")), 0, "{outside}");
        assert_eq!(older.run(&format!("{outside} /tmp/other")), 0, "{outside}");
    }
    for cgroup in ["test-here", "test-runtime/a.service", "test-session", "test-elsewhere"] {
        assert_ne!(older.run(&moved(cgroup, "cat /tmp/secret")), 0, "{cgroup}");
        assert_ne!(older.run(&moved(cgroup, "unshare -m cat /tmp/secret")), 0, "{cgroup}");
    }
    assert_ne!(older.run("unshare -m sh -c 'mount --bind /tmp /mnt && cat /mnt/secret'"), 0, "other names");
    assert_ne!(
        older.run("/tmp/busybox-runtime cat /tmp/secret"),
        0,
        "it does not become exempt by a program"
    );
    // Exempt while it is there, but not what it sends elsewhere.
    assert!(master.reads("/tmp/secret"));
    assert_eq!(master.run("cat /tmp/secret"), 0);
    assert_ne!(master.run(&moved("test-session", "cat /tmp/secret")), 0);
    assert_eq!(master.run(&moved("test-session", "cat /tmp/other")), 0);
    // Exempt with all that it starts.
    for exempt in [&mut runtime, &mut program] {
        assert!(exempt.reads("/tmp/secret"));
        assert_eq!(exempt.run("/tmp/tool"), 0);
        for inside in ["cat", "unshare -m cat", "sh -c \"cat /tmp/secret\" ;:"] {
            assert_eq!(exempt.run(&moved("test-session", &format!("{inside} /tmp/secret"))), 0, "{inside}");
        }
    }
    assert!(fs::read("/tmp/secret").is_ok(), "the daemon itself");
    assert!(Command::new("cat").arg("/tmp/secret").output().unwrap().status.success(), "and its children");
    for tried in ["/tmp/tried", "/tmp/shimmed", "/tmp/unescaped", "/tmp/plain-tried"] {
        wait_for(tried);
    }
    assert!(!Path::new("/tmp/plain-opened").exists(), "a path of its own made a container's process exempt");
    assert!(!Path::new("/tmp/escaped").exists(), "arming the host let a container's process out");
    assert!(!confined.reads("/tmp/confined"));
    enforcer.disarm(&confined.id).unwrap();
    // A program exempts root alone.
    assert!(manager.reads("/tmp/secret"));
    assert!(!user.reads("/tmp/secret") && user.reads("/tmp/other"), "an older one");
    for program in ["/tmp/busybox-manager", "/tmp/busybox-runtime"] {
        let reads = |user, file| managed(user, &format!("{program} cat {file}"));
        assert_eq!(manager.run(&reads(0, "/tmp/secret")), 0, "{program}");
        assert_eq!(manager.run(&reads(1000, "/tmp/other")), 0, "{program}");
        assert_ne!(manager.run(&reads(1000, "/tmp/secret")), 0, "{program}");
    }
    assert!(!Path::new("/tmp/opened").exists(), "an older child opened it");
    assert_ne!(fs::read("/tmp/shim").unwrap(), b"", "what a runtime had started elsewhere");

    // Containers are none of the host's: neither one that no policy selects, nor one that a process of the host starts
    // where containers are.
    assert!(plain.reads("/tmp/secret"));
    assert_eq!(plain.run("/tmp/tool"), 0);
    assert_eq!(older.run(&moved("test-machine/c", "unshare -m cat /tmp/secret")), 0);
    let mut own = Container::created("own", true);
    enforcer.arm(&own.target(Stage::Created), &block("/tmp/other")).unwrap();
    own.start();
    assert!(own.reads("/tmp/secret") && !own.reads("/tmp/other"), "its own rules, and no others");
    let enter = |file: &str| moved("test-own", &format!("nsenter -m -t {} cat {file}", own.pid()));
    assert_eq!(older.run(&enter("/tmp/secret")), 0, "who enters is the container's");
    assert_ne!(older.run(&enter("/tmp/other")), 0);
    assert_eq!(older.run(&moved("test-own", "/tmp/tool")), 126, "who only goes to its cgroup is the host's");
    enforcer.disarm(&own.id).unwrap();

    // The daemon goes and comes back; in between one of a container of its own.
    let mut daemon = Container::created("daemon", true);
    enforcer.arm(&daemon.target(Stage::Created), &block("/tmp/confined")).unwrap();
    daemon.start();
    drop(enforcer);
    assert!(!older.reads("/tmp/secret"), "enforcement outlives the process");
    assert_ne!(master.run(&moved("test-session", "cat /tmp/secret")), 0);
    // one that a login started, which is judged, exempts itself
    let again = format!("{ARM_HOST}=1 RUST_BACKTRACE=0 ./{PROGRAM} --exact host::arms_host");
    assert_eq!(older.run(&again), 0);
    assert_eq!(
        daemon.run(&format!("{ARM_HOST}=contained RUST_BACKTRACE=0 ./{PROGRAM} --exact host::arms_host")),
        0
    );
    assert!(daemon.reads("/tmp/secret") && !daemon.reads("/tmp/confined"));
    let enforcer = Enforcer::open(&options()).unwrap();
    enforcer.disarm(&daemon.id).unwrap();
    assert_eq!(enforcer.armed().unwrap()[0].id, ContainerId::host());
    enforcer.exempt(&exempt()).unwrap();
    // It was killed while it disarmed the host, or armed it: what is started then is nobody's.
    forget_host();
    assert_eq!(master.run(&moved("test-session", "cat /tmp/secret")), 0);
    master.open(&format!(
        "5>/dev/null; {} >/dev/null 2>&1 & true",
        moved(
            "test-session",
            &format!("sh -c \"{}\"", waiting("/tmp/again", "/tmp/other", "/tmp/reopened", "/tmp/retried"))
        )
    ));
    assert!(enforcer.arm(&target, &block("/tmp/other")).unwrap().already);
    assert!(older.reads("/tmp/secret") && !older.reads("/tmp/other"));
    assert_ne!(master.run(&moved("test-session", "cat /tmp/other")), 0);
    fs::write("/tmp/again", "").unwrap();
    wait_for("/tmp/retried");
    assert!(!Path::new("/tmp/reopened").exists(), "one that was started in between opened it");

    // The end, and once more.
    enforcer.disarm(&target.id).unwrap();
    assert!(older.reads("/tmp/other"));
    assert_eq!(master.run(&moved("test-session", "cat /tmp/other")), 0);
    let mut between = Container::of_host("/bin/sh", None); // by an exempt process, so exempt for good
    enforcer.arm(&target, &rules).unwrap();
    assert!(!older.reads("/tmp/secret"));
    assert_ne!(older.run("cat /tmp/secret"), 0);
    assert!(between.reads("/tmp/secret"));
    assert_eq!(counter(&enforcer, "recursion_misses"), 0);
    assert_eq!([counter(&enforcer, "inherit_failed"), counter(&enforcer, "identify_failed")], [0, 0]);

    // What is exempt is not refused for want of room.
    let old = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().starts_with("6.1.");
    assert_eq!(pinned("pointer_subjects").max_entries() > 1, old);
    if old {
        without_room(|| {
            assert_eq!(program.run("cat /tmp/secret"), 0, "its children");
            assert_eq!(master.run("/tmp/busybox-runtime cat /tmp/secret"), 0, "what becomes exempt");
        });
        assert!(counter(&enforcer, "inherit_failed") > 0 && counter(&enforcer, "identify_failed") > 0);
    }
    drop(enforcer);
    unload(&options().bpffs).unwrap();
    assert!(older.reads_soon("/tmp/secret"));
}
