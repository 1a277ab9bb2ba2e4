//! Descriptors that are older than the rules that deny them.

use std::fs;
use std::path::PathBuf;

use enforcer_core::decide::Verdict;
use enforcer_core::enforce::{Enforcer, Stage};
use enforcer_core::event::{Event, Op};

use crate::container::Container;
use crate::{audit, block, counter, events, options, ruleset, sh};

const HOOKS: [&str; 2] = ["link_file_permission", "link_held_mmap_file"];

/// How many of the hooks are attached that every process of the machine pays for.
fn attached() -> usize {
    let pinned = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('v');
    let dir: PathBuf =
        fs::read_dir(options().bpffs).unwrap().map(Result::unwrap).find(pinned).unwrap().path();
    HOOKS.iter().filter(|hook| dir.join(hook).exists()).count()
}

/// What was done about a path, in order, each thing once.
fn done(events: &[Event], path: &str) -> Vec<(Op, Verdict)> {
    let mut done: Vec<_> =
        events.iter().filter(|e| e.path == path.as_bytes()).map(|e| (e.op, e.verdict)).collect();
    done.dedup();
    done
}

pub fn held(enforcer: Enforcer) {
    sh("echo x > /tmp/secret; echo x > /tmp/other");
    let (secret, other) = ("/tmp/secret", "/tmp/other");
    let unrelated = block("/tmp/unrelated");

    // Opened under rules that let it; 3 and 4 to read, 5 to write. The shell's own open files stay.
    let mut one = Container::created("one", true);
    enforcer.arm(&one.target(Stage::Created), &unrelated).unwrap();
    one.start();
    one.open(&format!("3<{secret} 4<{other} 5>>{secret}"));
    let mut two = Container::created("two", true);
    enforcer.arm(&two.target(Stage::Created), &unrelated).unwrap();
    two.start();
    two.open(&format!("3<{secret}"));
    enforcer.settle();
    assert_eq!(
        (attached(), events(&enforcer).len()),
        (0, 0),
        "nothing has changed, so nothing is looked for"
    );

    // Other rules: no open file matters, and nobody pays.
    enforcer.update(&one.id, &block("/tmp/unrelated-too")).unwrap();
    enforcer.settle();
    assert_eq!((attached(), one.run("cat <&3")), (0, 0));

    // Rules that deny what is open. Each descriptor is told once, and of no use any more, in children either.
    enforcer.update(&one.id, &block(secret)).unwrap();
    enforcer.settle();
    assert_eq!(attached(), 2);
    let told = events(&enforcer);
    assert_eq!(done(&told, secret), [(Op::Held, Verdict::Block)]);
    assert_eq!(told.len(), 2, "3 and 5, and neither the other file nor the other container: {told:#?}");
    let event = &told[0];
    assert_eq!(
        (event.container.as_ref(), event.host_pid),
        (Some(&one.id), u32::try_from(one.pid()).unwrap())
    );
    assert_ne!(one.run("cat <&3"), 0);
    assert_ne!(one.run("echo y >&5"), 0);
    assert_ne!(one.run("dd bs=1 count=1 <&3"), 0, "another program");
    assert_eq!(one.run("cat <&4"), 0, "what the rules let is as it was");
    assert_eq!(one.run(&format!("cat {other}")), 0);
    assert_eq!(two.run("cat <&3"), 0, "its rules have not changed");
    assert_eq!(
        done(&events(&enforcer), secret),
        [(Op::Read, Verdict::Block), (Op::Write, Verdict::Block), (Op::Read, Verdict::Block)]
    );
    assert_eq!(fs::read_to_string(secret).unwrap(), "x\n");

    // The daemon goes and comes back.
    drop(enforcer);
    assert_ne!(one.run("cat <&3"), 0);
    let enforcer = Enforcer::open(&options()).unwrap();
    assert_ne!(one.run("cat <&3"), 0);
    enforcer.settle();
    assert_eq!(attached(), 2);
    assert_ne!(one.run("cat <&3"), 0);
    events(&enforcer);

    // Only to read: writing is what is denied.
    let read_only = "  file: {matchPaths: [{path: /tmp/secret, readOnly: true}]}\n  action: Block\n";
    enforcer.update(&one.id, &ruleset(read_only)).unwrap();
    enforcer.settle();
    assert_eq!((one.run("cat <&3"), one.run("echo y >&5") == 0), (0, false));

    // Audited: told, and let be; and nobody pays for that.
    events(&enforcer);
    enforcer.update(&one.id, &audit(secret)).unwrap();
    enforcer.settle();
    assert_eq!(done(&events(&enforcer), secret), [(Op::Held, Verdict::Audit)]);
    assert_eq!((attached(), one.run("cat <&3")), (0, 0));

    // Armed while it runs: what it had open before.
    let mut three = Container::created("three", true);
    three.start();
    three.open(&format!("3<{secret} 4<{other}"));
    enforcer.arm(&three.target(Stage::Running), &block(secret)).unwrap();
    enforcer.settle();
    assert_ne!(three.run("cat <&3"), 0);
    assert_eq!(three.run("cat <&4"), 0);

    // Taken for one at its start though it ran: what it had open is found once it is armed as one that runs, though its rules
    // were exchanged meanwhile.
    let mut four = Container::created("four", true);
    four.start();
    four.open(&format!("3<{secret} 4<{other}"));
    enforcer.arm(&four.target(Stage::Created), &unrelated).unwrap();
    enforcer.update(&four.id, &block(secret)).unwrap();
    enforcer.settle();
    enforcer.arm(&four.target(Stage::Running), &block(secret)).unwrap();
    enforcer.settle();
    assert_ne!(four.run("cat <&3"), 0);
    assert_eq!(four.run("cat <&4"), 0);
    enforcer.disarm(&four.id).unwrap();

    // Each container's are told, where the memory of one that is over is used again for the next one's, too.
    for round in 0..8 {
        let mut next = Container::created("next", true);
        next.start();
        next.open(&(3..10).map(|fd| format!("{fd}<{secret} ")).collect::<String>());
        events(&enforcer);
        enforcer.arm(&next.target(Stage::Running), &block(secret)).unwrap();
        enforcer.settle();
        let mut told = events(&enforcer);
        told.retain(|event| event.op == Op::Held && event.container.as_ref() == Some(&next.id));
        assert_eq!(told.len(), 7, "round {round}: {told:#?}");
        assert_ne!(next.run("cat <&9"), 0);
        enforcer.disarm(&next.id).unwrap();
    }

    // The last of them are closed: the next search takes the hooks away.
    three.open("3<&-");
    enforcer.update(&one.id, &unrelated).unwrap();
    enforcer.settle();
    assert_eq!((attached(), one.run("cat <&3"), three.run("cat <&4")), (0, 0, 0));
    assert_eq!(counter(&enforcer, "search_failed"), 0);
    assert_eq!(counter(&enforcer, "recursion_misses"), 0);
}
