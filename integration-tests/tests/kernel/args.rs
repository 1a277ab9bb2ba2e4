//! `allowedArgs`: what a program is started with, as it will see it itself.

use std::fs;

use enforcer_core::decide::Verdict;
use enforcer_core::enforce::root::Root;
use enforcer_core::enforce::{Enforcer, Stage};
use enforcer_core::event::{ArgsUnseen, Event, EventBy, Op};
use enforcer_core::ruleset::{PostureAction, Postures, Ruleset};

use crate::container::Container;
use crate::{counter, events, ruleset, ruleset_under, sh};

/// What a shell says of a program that it may not execute.
const REFUSED: i32 = 126;
const EACCES: i32 = 13;
/// What the judged program says where it sees an argument that is not `listed`.
const UNLISTED: i32 = 77;

struct Bench {
    enforcer: Enforcer,
    container: Container,
}

impl Bench {
    fn set(&self, rules: &Ruleset) {
        self.enforcer.update(&self.container.id, rules).unwrap();
    }

    fn runs(&mut self, command: &str, status: i32) {
        events(&self.enforcer);
        assert_eq!(self.container.run(command), status, "{command}\n{:#?}", events(&self.enforcer));
        assert_eq!(events(&self.enforcer), vec![], "{command}");
    }

    /// It is denied, and said so of `path`.
    fn denied(&mut self, command: &str, status: i32, path: &str) -> Event {
        events(&self.enforcer);
        assert_eq!(self.container.run(command), status, "{command}");
        let mut told = events(&self.enforcer);
        let Some(last) = told.pop() else { panic!("{command}: no event") };
        assert_eq!(
            (last.op, last.verdict, last.path.as_slice()),
            (Op::Exec, Verdict::Block, path.as_bytes())
        );
        last
    }
}

/// Blocked unless all arguments are these.
fn block(path: &str, args: &str) -> Ruleset {
    ruleset(&format!(
        "  process: {{matchPaths: [{{path: {path}, allowedArgs: [{args}]}}]}}\n  action: Block\n"
    ))
}

pub fn arguments(enforcer: Enforcer) {
    for (name, program) in [("args", lab::image::ARGS), ("judged", lab::image::ARGS)] {
        fs::write(format!("/usr/bin/{name}"), program).unwrap();
    }
    fs::write("/usr/bin/script", "#!/usr/bin/judged listed\n").unwrap();
    sh("chmod +x /usr/bin/args /usr/bin/judged /usr/bin/script");
    let mut container = Container::created("args", true);
    let listed = block("/usr/bin/judged", "listed, ''");
    enforcer.arm(&container.target(Stage::Created), &listed).unwrap();
    container.start();
    let mut bench = Bench { enforcer, container };

    bench.runs("/usr/bin/judged listed", 0);
    bench.runs("/usr/bin/judged listed listed", 0);
    bench.runs("/usr/bin/judged", 0);
    bench.runs("/usr/bin/judged '' listed", 0);
    for command in
        ["unlisted", "listed unlisted", "list", "listed2", "x", "listed/", "listed ..", "-- listed"]
    {
        let event = bench.denied(&format!("/usr/bin/judged {command}"), REFUSED, "/usr/bin/judged");
        assert!(matches!(event.by, EventBy::Rule(_)), "{event:?}");
        assert_eq!(event.args, None);
    }
    // The first one is a name that anybody may choose; without it the kernel gives an empty one.
    bench.runs("/usr/bin/args as unlisted /usr/bin/judged listed", 0);
    bench.denied("/usr/bin/args as listed /usr/bin/judged unlisted", EACCES, "/usr/bin/judged");
    bench.runs("/usr/bin/args empty /usr/bin/judged", 0);

    // Many, to the bound and beyond it.
    bench.runs("/usr/bin/args many /usr/bin/judged 1700 listed", 0);
    bench.runs("/usr/bin/args many /usr/bin/judged 10000 ''", 0);
    for (count, argument) in [(1800, "listed"), (13000, "''"), (20000, "listed")] {
        let command = format!("/usr/bin/args many /usr/bin/judged {count} {argument}");
        let event = bench.denied(&command, EACCES, "/usr/bin/judged");
        assert!(matches!(event.by, EventBy::Rule(_)), "{event:?}");
        assert_eq!(event.args, Some(ArgsUnseen::TooLong), "{command}");
    }
    // one outcome of the two, which is not enough: it counts them
    assert_eq!(bench.container.run("/usr/bin/args race /usr/bin/judged 1"), 251);
    bench.container.run("/usr/bin/args race /usr/bin/judged 800; echo $? > /tmp/race");
    assert_eq!(fs::read_to_string("/tmp/race").unwrap(), "0\n", "changed while it was looked at");

    // Long, and across pages.
    bench.set(&block("/usr/bin/judged", &"x".repeat(1000)));
    bench.runs("/usr/bin/args long /usr/bin/judged 1000", 0);
    bench.runs(&format!("/usr/bin/args pages /usr/bin/judged {}", "x".repeat(1000)), 0);
    for len in [1, 247, 248, 249, 992, 999, 1001, 1240, 4096, 12_270, 12_288, 100_000] {
        bench.denied(&format!("/usr/bin/args long /usr/bin/judged {len}"), EACCES, "/usr/bin/judged");
    }
    bench.denied(
        &format!("/usr/bin/args pages /usr/bin/judged {}y", "x".repeat(999)),
        EACCES,
        "/usr/bin/judged",
    );

    // Scripts: what the interpreter is given, and what the script is.
    bench.set(&block("/usr/bin/judged", "listed"));
    bench.denied("/usr/bin/script", REFUSED, "/usr/bin/judged");
    bench.set(&block("/usr/bin/judged", "listed, /usr/bin/script"));
    bench.runs("/usr/bin/script", UNLISTED);
    bench.denied("/usr/bin/script unlisted", REFUSED, "/usr/bin/judged");
    bench.set(&block("/usr/bin/script", "listed"));
    bench.runs("/usr/bin/script listed", UNLISTED);
    bench.denied("/usr/bin/script unlisted", REFUSED, "/usr/bin/script");

    // What alone is allowed.
    let posture = Postures { process: Some(PostureAction::Block), ..Postures::default() };
    bench.set(&ruleset_under(
        "  process: {matchPaths: [{path: /usr/bin/args}, {path: /usr/bin/judged, allowedArgs: [listed]}]}\n  action: Allow\n",
        posture,
    ));
    bench.runs("/usr/bin/judged listed", 0);
    let event = bench.denied("/usr/bin/judged unlisted", REFUSED, "/usr/bin/judged");
    assert_eq!(event.by, EventBy::DefaultPosture);
    let event = bench.denied("/usr/bin/args many /usr/bin/judged 1800 listed", EACCES, "/usr/bin/judged");
    assert_eq!((event.by, event.args), (EventBy::DefaultPosture, Some(ArgsUnseen::TooLong)));
    assert_eq!(counter(&bench.enforcer, "unreadable") + counter(&bench.enforcer, "recursion_misses"), 0);
}

/// Busybox, as the guest has it: one program, and many links to it.
pub fn applets(enforcer: Enforcer) {
    fs::write("/usr/bin/args", lab::image::ARGS).unwrap();
    sh("chmod +x /usr/bin/args");
    let busybox = fs::canonicalize("/usr/bin/uname").unwrap();
    assert_eq!(busybox, std::path::Path::new("/usr/bin/busybox"), "the guest's programs are links to it");
    let mut container = Container::created("applets", true);
    let root = Root::of_process(container.pid()).unwrap();
    let linked = |rules: &str, postures| {
        let linked = ruleset_under(rules, postures).with_links(|path| root.resolve(path));
        assert_eq!(linked.gaps, []);
        linked.ruleset
    };
    let block =
        linked("  process: {matchPaths: [{path: /usr/bin/uname}]}\n  action: Block\n", Postures::default());
    enforcer.arm(&container.target(Stage::Created), &block).unwrap();
    container.start();
    let mut bench = Bench { enforcer, container };

    for command in [
        "/usr/bin/id",
        "/usr/bin/busybox id",
        "/usr/bin/busybox",
        "/usr/bin/args as unam /usr/bin/busybox true",
    ] {
        bench.container.run(command);
        assert_eq!(events(&bench.enforcer), vec![], "{command}");
    }
    assert_eq!(bench.container.run("/usr/bin/id"), 0);
    sh("ln -sf busybox /usr/bin/another");
    for (command, status) in [
        ("/usr/bin/uname", REFUSED),
        ("/usr/bin/busybox uname", REFUSED),
        ("/usr/bin/busybox busybox /x/y/uname -a", REFUSED),
        ("/usr/bin/args as uname /usr/bin/busybox", EACCES),
        ("/usr/bin/args as uname /usr/bin/another", EACCES),
        ("/usr/bin/args as -/x/uname /usr/bin/another", EACCES),
        ("/usr/bin/args as busybox-of-mine /usr/bin/another uname", EACCES),
        ("cd /usr/bin; ./uname", REFUSED),
        ("/proc/self/root/usr/bin/uname", REFUSED),
    ] {
        let event = bench.denied(command, status, "/usr/bin/busybox");
        assert!(matches!(event.by, EventBy::Rule(_)), "{command}: {event:?}");
    }
    // What it is cannot be told within the bound, so it may be that.
    let event = bench.denied("/usr/bin/args many /usr/bin/busybox 2000 busybox", EACCES, "/usr/bin/busybox");
    assert!(matches!(event.by, EventBy::Rule(_)), "{event:?}");

    // What alone is allowed: one applet is no way to another.
    let posture = Postures { process: Some(PostureAction::Block), ..Postures::default() };
    bench.set(&linked(
        "  process: {matchPaths: [{path: /usr/bin/args}, {path: /usr/bin/uname}]}\n  action: Allow\n",
        posture,
    ));
    for command in ["/usr/bin/uname", "/usr/bin/busybox uname", "/usr/bin/args as uname /usr/bin/another"] {
        bench.runs(command, 0);
    }
    for (command, status) in [
        ("/usr/bin/id", REFUSED),
        ("/usr/bin/busybox id", REFUSED),
        ("/usr/bin/busybox", REFUSED),
        ("/usr/bin/args as sh /usr/bin/uname -c id", EACCES),
        ("/usr/bin/args as busybox /usr/bin/uname sh", EACCES),
        ("/usr/bin/args empty /usr/bin/uname", EACCES),
        ("/usr/bin/args many /usr/bin/busybox 2000 busybox", EACCES),
    ] {
        let event = bench.denied(command, status, "/usr/bin/busybox");
        assert_eq!(event.by, EventBy::DefaultPosture, "{command}");
    }
    assert_eq!(counter(&bench.enforcer, "unreadable") + counter(&bench.enforcer, "recursion_misses"), 0);
}
