//! The library against real kernels, without any container runtime: identity, limits, upgrades, and what happens at
//! the edges. A "container" here is a shell with a mount namespace and, mostly, a cgroup of its own; the part of the
//! runtime's init is played by what it does before its first `exec` there.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_wrap,
    reason = "a test fails by panicking"
)]

mod args;
mod classes;
mod container;
mod held;
mod host;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use args::{applets, arguments};
use classes::{presets, sockets_and_capabilities};
use container::{Container, DESCEND, dig};
use enforcer_core::decide::Verdict;
use enforcer_core::enforce::{
    ContainerId, EnforceError, Enforcer, Occupancy, Options, Stage, Target, unload,
};
use enforcer_core::event::{Event, EventBy, Op, Unresolved};
use enforcer_core::policy::parse;
use enforcer_core::ruleset::{Class, Postures, Ruleset, RulesetDigest};
use enforcer_core::subject::Subject;
use enforcer_core::visibility::Visibility;
use held::held;
use host::host;
use lab::vm::{self, Job, Kernel, Spec, Streams};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

/// Set in the guest.
const INSIDE: &str = "NRI_ENFORCER_KERNEL_TEST";

/// Runs the test `name` of this program in a fresh guest, where it runs `body`.
fn in_guest(name: &str, kernel: Kernel, body: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let say = |text: &str| println!("{text}");
    let machine = vm::machine(&Spec::plain(kernel), &say).expect("a machine (run `make setup` as root)");
    let script =
        format!("{INSIDE}=1 RUST_BACKTRACE=0 exec ./kernel --exact {name} --nocapture --test-threads=1 2>&1");
    let mut job = Job::script(script).file("kernel", std::env::current_exe().unwrap());
    job.limit = Some(Duration::from_secs(400));
    let mut out = Vec::new();
    let outcome = job.run(&machine, Streams { out: &mut out, err: &mut std::io::sink() }).unwrap();
    print!("{}", String::from_utf8_lossy(&out));
    assert_eq!(outcome.status, 0, "the test failed in its guest ({kernel})");
}

macro_rules! on_both_kernels {
    ($($name:ident => $old:ident, $new:ident;)*) => {$(
        #[test]
        fn $old() {
            in_guest(stringify!($old), Kernel::V6_1, $name);
        }
        #[test]
        fn $new() {
            in_guest(stringify!($new), Kernel::V6_12, $name);
        }
    )*};
}

on_both_kernels! {
    identity => identity_on_6_1, identity_on_6_12;
    edges => edges_on_6_1, edges_on_6_12;
    upgrades => upgrades_on_6_1, upgrades_on_6_12;
    sockets_and_capabilities => sockets_and_capabilities_on_6_1, sockets_and_capabilities_on_6_12;
    presets => presets_on_6_1, presets_on_6_12;
    arguments => arguments_on_6_1, arguments_on_6_12;
    applets => applets_on_6_1, applets_on_6_12;
    held => held_on_6_1, held_on_6_12;
    host => host_on_6_1, host_on_6_12;
}

/// Kernels change what programs stand on: who is confined is asked on the newest one too.
#[test]
fn identity_on_the_newest() {
    in_guest("identity_on_the_newest", Kernel::Newest, identity);
}

/// And so is who is the host's.
#[test]
fn host_on_the_newest() {
    in_guest("host_on_the_newest", Kernel::Newest, host);
}

/// And so is the search through open files.
#[test]
fn held_on_the_newest() {
    in_guest("held_on_the_newest", Kernel::Newest, held);
}

/// And so is what is read in page tables.
#[test]
fn arguments_on_the_newest() {
    in_guest("arguments_on_the_newest", Kernel::Newest, arguments);
}

fn options() -> Options {
    Options::default()
}

fn ruleset(rules: &str) -> Ruleset {
    ruleset_under(rules, Postures::default())
}

fn ruleset_under(rules: &str, postures: Postures) -> Ruleset {
    let policy = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: x}}}}\n{rules}"
    );
    let parsed = parse("test.yaml", &policy);
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    let subject = Subject {
        namespace: "default".into(),
        labels: BTreeMap::from([("app".into(), "x".into())]),
        ..Subject::default()
    };
    let resolved = Ruleset::resolve(&parsed.policies, &postures, &subject);
    assert!(!resolved.ruleset.is_empty() && resolved.coverage.is_full(), "{}", resolved.coverage);
    resolved.ruleset
}

fn block(path: &str) -> Ruleset {
    ruleset(&format!("  file: {{matchPaths: [{{path: {path}}}]}}\n  action: Block\n"))
}

fn audit(path: &str) -> Ruleset {
    ruleset(&format!("  file: {{matchPaths: [{{path: {path}}}]}}\n  action: Audit\n"))
}

fn block_below(dir: &str) -> Ruleset {
    ruleset(&format!("  file: {{matchDirectories: [{{dir: {dir}, recursive: true}}]}}\n  action: Block\n"))
}

/// No test of its own: opens the file that [`dig`] left, from inside a container, where this program is run again.
#[test]
fn descend() {
    let Some(top) = std::env::var_os(DESCEND) else { return };
    let open =
        |dir: &OwnedFd, name: &str| openat(dir, name, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty());
    let mut dir = open(&fs::File::open("/").unwrap().into(), top.to_str().unwrap()).unwrap();
    while let Ok(next) = open(&dir, "d") {
        dir = next;
    }
    openat(&dir, "file", OFlag::O_RDONLY, Mode::empty()).unwrap();
}

fn sh(command: &str) {
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
}

fn counter(enforcer: &Enforcer, name: &str) -> u64 {
    enforcer.counters().unwrap().into_iter().find(|(counter, _)| counter == name).unwrap().1
}

fn events(enforcer: &Enforcer) -> Vec<Event> {
    lab::testing::events(enforcer, Duration::from_millis(200)).unwrap()
}

/// Who is confined, from when on, and how it ends.
fn identity() {
    let enforcer = Enforcer::open(&options()).unwrap();
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
        let another = Target { id: four.id.clone(), pid: same.pid(), stage: Stage::Created };
        assert!(matches!(enforcer.arm(&another, &below), Err(EnforceError::ReadBack(_))));
    }
    assert!(enforcer.arm(&four.target(Stage::Created), &below).unwrap().already);

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

/// Containers that get other rules together: each those that it was given, whatever becomes of the others.
fn exchange_many(enforcer: &Enforcer, crowd: &[ContainerId]) {
    // more than go together, several times, so that places are used again
    let crowd = crowd.get(..700).unwrap();
    let pattern = format!("/srv/*a{}", "?".repeat(40)); // an automaton of 2^40 states
    let too_much =
        ruleset(&format!("  file: {{matchPatterns: [{{pattern: '{pattern}'}}]}}\n  action: Block\n"));
    let stranger = ContainerId::new("stranger").unwrap();
    for round in 0..3 {
        let own = |n: usize| match n {
            300 => too_much.clone(),
            _ if n.is_multiple_of(10) => block("/tmp/shared"),
            _ => block(&format!("/tmp/secret-{round}-{n}")),
        };
        let rulesets: Vec<Ruleset> = (0..crowd.len()).map(own).collect();
        let before = digests(enforcer);
        let mut updates: Vec<_> = crowd.iter().zip(&rulesets).collect();
        updates.insert(5, (&stranger, &rulesets[5]));
        let begin = std::time::Instant::now();
        let results = enforcer.update_all(&updates);
        println!("{} rulesets exchanged in {:?}", updates.len(), begin.elapsed());
        assert_eq!(results.len(), updates.len());
        let now = digests(enforcer);
        for ((id, ruleset), result) in updates.iter().zip(&results) {
            if **id == stranger {
                assert!(matches!(result, Err(EnforceError::NotArmed(_))), "{result:?}");
            } else if std::ptr::eq(*ruleset, &rulesets[300]) {
                assert!(matches!(result, Err(EnforceError::Compile(_))), "{result:?}");
                assert_eq!(now[*id], before[*id], "the rules before stay");
            } else {
                assert!(result.is_ok(), "{result:?}");
                assert_eq!(now[*id], Some(ruleset.digest()));
            }
        }
        assert_eq!(now.len(), before.len());
    }
    enforcer.settle();
    assert_eq!(counter(enforcer, "withdraw_failed"), 0);
}

fn digests(enforcer: &Enforcer) -> BTreeMap<ContainerId, Option<RulesetDigest>> {
    enforcer.armed().unwrap().into_iter().map(|armed| (armed.id, armed.ruleset)).collect()
}

/// Depth, size, number, speed of change: what cannot be finished is denied, and said.
fn edges() {
    let enforcer = Enforcer::open(&options()).unwrap();
    sh("mkdir -p /tmp/deep /tmp/a /tmp/jail; echo x > /tmp/secret; echo x > /tmp/other");

    // Deeper than PATH_MAX below a directory that is blocked; and so deep that the walk gives up.
    let mut deep = Container::created("deep", true);
    enforcer.arm(&deep.target(Stage::Created), &block_below("/tmp/deep/")).unwrap();
    dig("/tmp/deep", 3000);
    deep.start();
    let descend = |top: &str| format!("{DESCEND}={top} RUST_BACKTRACE=0 ./kernel --exact descend");
    assert_ne!(deep.run(&descend("/tmp/deep")), 0, "3,000 levels down");
    let found = events(&enforcer);
    assert!(
        found.iter().any(|event| event.path_truncated && event.path.starts_with(b"/tmp/deep/d/d/")),
        "{found:?}"
    );
    // So deep that the walk gives up: denied although no rule is near, and let go where there is no Block rule.
    dig("/tmp/abyss", 70_000);
    assert_ne!(deep.run(&descend("/tmp/abyss")), 0);
    let found = events(&enforcer);
    assert!(found.iter().any(|event| event.by == EventBy::Unresolved(Unresolved::TooDeep)), "{found:?}");
    enforcer.update(&deep.id, &audit("/tmp/secret")).unwrap();
    assert_eq!(deep.run(&descend("/tmp/abyss")), 0);
    assert!(events(&enforcer).iter().any(|event| event.verdict == Verdict::Audit), "but not unnoticed");

    // A mount of another namespace has no name here: denied, with the reason.
    let mut foreign = Container::created("foreign", true);
    enforcer.arm(&foreign.target(Stage::Created), &block("/tmp/secret")).unwrap();
    foreign.start();
    assert!(foreign.reads("/tmp/other"));
    assert_ne!(foreign.run("unshare -m cat /tmp/other"), 0);
    assert!(events(&enforcer).iter().any(|event| event.by == EventBy::Unresolved(Unresolved::ForeignMount)));
    assert!(counter(&enforcer, "foreign_mount") > 0);
    // A chroot changes nothing.
    sh("mkdir -p /tmp/jail/etc; echo x > /tmp/jail/etc/passwd");
    fs::write("/tmp/jail/first", lab::image::FIRST).unwrap();
    sh("chmod +x /tmp/jail/first");
    assert_eq!(foreign.run("chroot /tmp/jail /first"), 0);
    enforcer.update(&foreign.id, &block("/tmp/jail/etc/passwd")).unwrap();
    assert_eq!(foreign.run("chroot /tmp/jail /first"), 13, "EACCES");
    // An executable whose path cannot be told may be the one that a rule names. (Every program here is busybox.)
    let id = foreign.id.clone();
    let by = |program: &str| {
        let rules =
            format!("  file: {{matchPaths: [{{path: /tmp/other, fromSource: [{{path: {program}}}]}}]}}\n");
        enforcer.update(&id, &ruleset(&rules)).unwrap();
    };
    by("/usr/bin/another");
    assert!(foreign.reads("/tmp/other"));
    by("/usr/bin/busybox");
    assert!(!foreign.reads("/tmp/other"));
    by("/usr/bin/another");
    assert_ne!(foreign.run("exec 5</tmp; unshare -m /usr/bin/cat /proc/self/fd/5/other"), 0);
    // A directory above does not take what is protected elsewhere, nor bring another thing in its place.
    sh("mkdir -p /tmp/t/u/v /tmp/w; echo x > /tmp/t/u/v/key; echo x > /tmp/w/key");
    enforcer.update(&foreign.id, &block("/tmp/t/u/v/key")).unwrap();
    for kept in ["mv /tmp/t/u/v /tmp/t/u/x", "mv /tmp/t/u /tmp/y", "mv /tmp/t /tmp/z"] {
        assert_ne!(foreign.run(kept), 0, "{kept}");
    }
    assert_eq!(foreign.run("mkdir /tmp/t/u/other && mv /tmp/t/u/other /tmp/t/u/another"), 0);
    sh("mv /tmp/t/u/v /tmp/t/u/gone");
    assert_ne!(foreign.run("mv /tmp/w /tmp/t/u/v"), 0, "another directory under the protected name");
    assert_eq!(foreign.run("mv /tmp/w /tmp/t/u/elsewhere"), 0);
    // What has no path at all is not judged by paths.
    assert_eq!(foreign.run("echo x | cat /proc/self/fd/0"), 0);

    // 10,000 rules, and 4,096 containers that share them.
    let paths: Vec<String> = (0..10_000).map(|n| format!("{{path: /srv/{}/file-{n}}}", n % 97)).collect();
    let many = ruleset(&format!("  file:\n    matchPaths: [{}]\n  action: Block\n", paths.join(", ")));
    assert_eq!(many.rules().len(), 10_000);
    sh("mkdir -p /srv/5");
    enforcer.update(&foreign.id, &many).unwrap();
    let denied = (0..10_000).filter(|n| n % 97 == 5).max().unwrap();
    fs::write(format!("/srv/5/file-{denied}"), "x").unwrap();
    assert!(!foreign.reads(&format!("/srv/5/file-{denied}")));
    fs::write("/srv/5/file-x", "x").unwrap();
    assert!(foreign.reads("/srv/5/file-x"));
    let crowd: Vec<ContainerId> = (0..4096).map(|n| ContainerId::new(format!("{n:064x}")).unwrap()).collect();
    let pid = foreign.pid();
    for id in &crowd {
        enforcer.arm(&Target { id: id.clone(), pid, stage: Stage::Created }, &many).unwrap();
    }
    assert_eq!(enforcer.armed().unwrap().len(), 4096 + 2);
    exchange_many(&enforcer, &crowd);
    for id in &crowd {
        enforcer.disarm(id).unwrap();
    }
    drop(foreign);

    // Renames all the time, on another CPU: never a way round, and no false denial either.
    let mut racing = Container::created("racing", true);
    enforcer.arm(&racing.target(Stage::Created), &block("/tmp/a/secret")).unwrap();
    sh("mkdir -p /tmp/a /tmp/m/1; echo x > /tmp/a/secret; echo x > /tmp/a/other");
    let mut storm = Command::new("sh")
        .args(["-c", "cd /tmp/m; while :; do mv 1 2; mv 2 1; done"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    racing.start();
    for _ in 0..300 {
        assert!(!racing.reads("/tmp/a/secret"));
        assert!(racing.reads("/tmp/a/other"));
    }
    storm.kill().unwrap();
    storm.wait().unwrap();
    println!("walks done again because of renames: {}", counter(&enforcer, "retried"));

    // What is only seen fills half of the ring, and leaves the other one to what is denied.
    let mut visible = Container::created("visible", true);
    let nothing = Ruleset::resolve([], &Postures::default(), &Subject::default()).ruleset;
    let seen = nothing.observing(Visibility::of([Class::File]));
    enforcer.arm(&visible.target(Stage::Created), &seen).unwrap();
    visible.start();
    let flood = "i=0; while [ $i -lt 20000 ]; do true < /tmp/a/other; i=$((i+1)); done; exit 0";
    assert_eq!(visible.run(flood), 0);
    assert!(counter(&enforcer, "observation_dropped") > 0, "half of the ring never filled");
    let before = counter(&enforcer, "event_dropped");
    assert!(!racing.reads("/tmp/a/secret"));
    assert_eq!(counter(&enforcer, "event_dropped"), before, "no room for what was denied");
    enforcer.disarm(&visible.id).unwrap();
    drop(visible);

    // More events than the ring holds: denied all the same, and counted.
    let before = counter(&enforcer, "event_dropped");
    let opened = racing
        .run("i=0; while [ $i -lt 60000 ]; do true < /tmp/a/secret && exit 7; i=$((i+1)); done; exit 0");
    assert_eq!(opened, 0);
    let (blocked, dropped) = (counter(&enforcer, "blocked"), counter(&enforcer, "event_dropped") - before);
    println!("blocked {blocked}, events dropped {dropped}");
    assert!(blocked >= 60_000);
    assert!(dropped > 0, "the ring never filled");
    assert_eq!(counter(&enforcer, "recursion_misses"), 0);
}

/// A daemon that goes and comes back: what is armed stays armed, without a gap, and is known again.
fn upgrades() {
    sh("echo x > /tmp/secret; echo x > /tmp/other; rm -f /tmp/opened /tmp/stop");
    let rules = block("/tmp/secret");
    let enforcer = Enforcer::open(&options()).unwrap();
    let mut container = Container::created("kept", true);
    enforcer.arm(&container.target(Stage::Created), &rules).unwrap();
    container.start();
    let attack = "while [ ! -e /tmp/stop ]; do true < /tmp/secret && echo x >> /tmp/opened; echo x >> /tmp/tries; done";
    assert_eq!(container.run(&format!("( {attack} ) </dev/null >/dev/null 2>&1 &")), 0);
    drop(enforcer);
    for round in 0..3 {
        let enforcer = Enforcer::open(&options()).unwrap();
        let armed = enforcer.armed().unwrap();
        assert_eq!(armed.len(), 1, "round {round}");
        assert_eq!((&armed[0].id, armed[0].ruleset), (&container.id, Some(rules.digest())));
        // The same rules again: nothing is loaded twice; others: exchanged by the new daemon.
        enforcer.update(&container.id, &rules).unwrap();
        assert!(!container.reads("/tmp/secret"));
        assert!(container.reads("/tmp/other"));
        drop(enforcer);
    }
    // An upgrade that was cut off between the new link and the rename leaves a pin, and the next one clears it.
    let pinned = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('v');
    let dir = fs::read_dir(options().bpffs).unwrap().map(Result::unwrap).find(pinned).unwrap().path();
    let links = |dir: &Path| {
        fs::read_dir(dir)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("link_"))
            .count()
    };
    let before = links(&dir);
    fs::write("/tmp/stop", "").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(!Path::new("/tmp/opened").exists(), "an open got through during an upgrade");
    let tries = fs::read("/tmp/tries").unwrap().len() / 2;
    println!("0 of {tries} opens got through 3 upgrades");
    assert!(tries > 1000);
    let enforcer = Enforcer::open(&options()).unwrap();
    assert_eq!(links(&dir), before);
    // A daemon with another layout of maps: both deny until the new one has armed what runs; then the old one goes.
    drop(enforcer);
    let older = options().bpffs.join("v0");
    fs::rename(&dir, &older).unwrap();
    let enforcer = Enforcer::open(&options()).unwrap();
    assert!(enforcer.armed().unwrap().is_empty());
    assert!(!container.reads("/tmp/secret"), "the old rules hold");
    enforcer.arm(&container.target(Stage::Running), &rules).unwrap();
    assert_eq!(enforcer.retire_others().unwrap(), 1);
    assert!(!older.exists());
    assert!(!container.reads("/tmp/secret"), "the new rules hold");
    let mut late = Container::created("late", true);
    enforcer.arm(&late.target(Stage::Created), &rules).unwrap();
    late.start();
    assert!(!late.reads("/tmp/secret"));
    enforcer.disarm(&container.id).unwrap();
    assert!(container.reads_soon("/tmp/secret"));
    assert!(!late.reads("/tmp/secret"), "they shared the rules, not the fate");
}
