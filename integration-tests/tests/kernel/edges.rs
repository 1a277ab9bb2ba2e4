//! Depth, size, number, speed of change: what cannot be finished is denied, and said.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use enforcer_core::decide::Verdict;
use enforcer_core::enforce::{ContainerId, EnforceError, Enforcer, Stage, Target};
use enforcer_core::event::{Event, EventBy, Unresolved};
use enforcer_core::ruleset::{Class, Postures, Ruleset, RulesetDigest};
use enforcer_core::subject::Subject;
use enforcer_core::visibility::Visibility;
use lab::loaded::PROGRAM;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::container::{Container, DESCEND, dig};
use crate::{audit, block, counter, events, ruleset, sh};

fn block_below(dir: &str) -> Ruleset {
    ruleset(&format!("  file: {{matchDirectories: [{{dir: {dir}, recursive: true}}]}}\n  action: Block\n"))
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

fn digests(enforcer: &Enforcer) -> BTreeMap<ContainerId, Option<RulesetDigest>> {
    enforcer.armed().unwrap().into_iter().map(|armed| (armed.id, armed.ruleset)).collect()
}

pub fn edges(enforcer: Enforcer) {
    sh("mkdir -p /tmp/deep /tmp/a /tmp/jail; echo x > /tmp/secret; echo x > /tmp/other");

    // Deeper than PATH_MAX below a directory that is blocked; and so deep that the walk gives up.
    let mut deep = Container::created("deep", true);
    enforcer.arm(&deep.target(Stage::Created), &block_below("/tmp/deep/")).unwrap();
    dig("/tmp/deep", 3000);
    deep.start();
    let descend = |top: &str| format!("{DESCEND}={top} RUST_BACKTRACE=0 ./{PROGRAM} --exact edges::descend");
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
    events(&enforcer); // those of before
    let flood = "i=0; while [ $i -lt 20000 ]; do true < /tmp/a/other; i=$((i+1)); done; exit 0";
    assert_eq!(visible.run(flood), 0);
    assert!(counter(&enforcer, "observation_dropped") > 0, "half of the ring never filled");
    let before = counter(&enforcer, "event_dropped");
    assert!(!racing.reads("/tmp/a/secret"));
    assert_eq!(counter(&enforcer, "event_dropped"), before, "no room for what was denied");
    let told = events(&enforcer);
    let denied = |event: &&Event| {
        event.container.as_ref() == Some(&racing.id)
            && event.path == b"/tmp/a/secret"
            && !event.is_observation()
    };
    assert_eq!(told.iter().filter(denied).count(), 1, "the denial is told, behind {} others", told.len());
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
