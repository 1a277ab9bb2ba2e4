//! What is no access to a path: sockets, capabilities, presets. Each with its event, which names the rule.

use std::fs;
use std::process::Command;

use enforcer_core::capability::Capability;
use enforcer_core::decide::Verdict;
use enforcer_core::enforce::{Enforcer, Stage};
use enforcer_core::event::{Event, EventBy, Op};
use enforcer_core::network::{Endpoint, Ports, Protocol};
use enforcer_core::policy::{Kind, PolicyId};
use enforcer_core::preset::Preset;
use enforcer_core::ruleset::{
    Conditions, Effect, Object, Origin, OriginId, PostureAction, Postures, Rule, Ruleset,
};

use crate::container::Container;
use crate::{counter, events, options, sh};

/// Rules in the order of their origins, `rule[0]` first.
fn rules(rules: Vec<(Object, Effect)>) -> Vec<Rule> {
    let class = |object: &Object| {
        let mut classes = enforcer_core::ruleset::Class::ALL.into_iter();
        classes.find(|class| object.fits(*class)).unwrap()
    };
    let rules = rules.into_iter().zip(0..).map(|((object, effect), n)| Rule {
        class: class(&object),
        source: None,
        object,
        conditions: Conditions::default(),
        effect,
        origin: OriginId(n),
    });
    rules.collect()
}

fn ruleset(rules: Vec<Rule>) -> Ruleset {
    let origins = rules.iter().map(|rule| Origin {
        policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "default".into(), name: "p".into() },
        rule: format!("rule[{}]", rule.origin.0),
        severity: 1,
        tags: vec![],
        message: String::new(),
        action: rule.effect,
    });
    let origins = origins.collect();
    let (network, capabilities) = (PostureAction::Block, PostureAction::Block);
    Ruleset::new(rules, origins, Postures { network, capabilities, ..Postures::default() }).unwrap()
}

fn endpoint(net: &str, ports: Ports, protocol: Option<Protocol>) -> Endpoint {
    let net = (!net.is_empty()).then(|| net.parse().unwrap());
    Endpoint { net, ports, protocol }
}

fn port(port: u16) -> Ports {
    Ports::new(port, port).unwrap()
}

struct Bench {
    enforcer: Enforcer,
    container: Container,
    ruleset: Ruleset,
}

impl Bench {
    fn new(id: &str, enforcer: Enforcer) -> Self {
        fs::write("/usr/bin/act", lab::image::ACT).unwrap();
        sh("chmod +x /usr/bin/act; ip link set lo up");
        let mut container = Container::created(id, true);
        let nothing = ruleset(rules(vec![(Object::BaseName("nothing".into()), Effect::Block)]));
        enforcer.arm(&container.target(Stage::Created), &nothing).unwrap();
        container.start();
        Self { enforcer, container, ruleset: nothing }
    }

    fn set(&mut self, rules: Vec<Rule>) {
        self.ruleset = ruleset(rules);
        self.enforcer.update(&self.container.id, &self.ruleset).unwrap();
    }

    /// Runs `act` with these arguments: its exit status, and what was reported.
    fn act(&mut self, args: &str) -> (i32, Vec<Event>) {
        events(&self.enforcer);
        let status = self.container.run(&format!("/usr/bin/act {args}"));
        (status, events(&self.enforcer))
    }

    /// It passes, and nothing is said.
    fn passes(&mut self, args: &str) {
        let (status, told) = self.act(args);
        assert_eq!((status, told), (0, vec![]), "{args}\n{}", self.ruleset);
    }

    /// What happens is reported with the rule's name.
    fn told(&mut self, args: &str, status: i32, verdict: Verdict, rule: &str, op: Op, detail: &str) {
        let (ended, told) = self.act(args);
        assert_eq!(ended, status, "{args}\n{}{told:#?}", self.ruleset);
        let named = |event: &Event| match event.by {
            EventBy::Rule(id) => self.ruleset.origin(id).unwrap().rule.clone(),
            EventBy::DefaultPosture => "posture".into(),
            _ => String::new(),
        };
        assert!(
            told.iter().any(|event| {
                event.verdict == verdict
                    && named(event) == rule
                    && event.op == op
                    && event.detail.to_string() == detail
                    && event.container.as_ref() == Some(&self.container.id)
                    && event.ruleset == Some(self.ruleset.digest())
                    && event.source == b"/usr/bin/act"
            }),
            "{args}: {verdict} {rule} {op:?} {detail}\n{}{told:#?}",
            self.ruleset
        );
    }

    fn denied(&mut self, args: &str, status: i32, rule: &str, op: Op, detail: &str) {
        self.told(args, status, Verdict::Block, rule, op, detail);
    }
}

const TCP: &str = "domain=AF_INET type=SOCK_STREAM protocol=TCP";
const UDP: &str = "domain=AF_INET type=SOCK_DGRAM protocol=UDP";
const TCP6: &str = "domain=AF_INET6 type=SOCK_STREAM protocol=TCP";

/// Sockets and capabilities: denied, reported, and what alone is allowed.
pub fn sockets_and_capabilities(enforcer: Enforcer) {
    let mut bench = Bench::new("sockets", enforcer);
    let local = || endpoint("127.0.0.1/32", port(9), None);

    // By kind.
    bench.set(rules(vec![
        (Object::Sockets(Protocol::Tcp), Effect::Block),
        (Object::Sockets(Protocol::Udp), Effect::Audit),
        (Object::Sockets(Protocol::Raw), Effect::Block),
    ]));
    bench.denied("socket 2 1 0", 13, "rule[0]", Op::SocketCreate, TCP);
    bench.denied("socket 10 1 6", 13, "rule[0]", Op::SocketCreate, TCP6);
    bench.passes("socket 1 1 0");
    bench.denied(
        "socket 17 3 0",
        13,
        "rule[2]",
        Op::SocketCreate,
        "domain=AF_PACKET type=SOCK_RAW protocol=0",
    );
    bench.told("socket 2 2 0", 0, Verdict::Audit, "rule[1]", Op::SocketCreate, UDP);
    let sent = format!("{UDP} ip=127.0.0.1 port=9");
    bench.told("send 127.0.0.1 9", 0, Verdict::Audit, "rule[1]", Op::SocketSend, &sent);

    // Every operation is seen.
    bench.set(rules(vec![(Object::Sockets(Protocol::Tcp), Effect::Audit)]));
    let (status, told) = bench.act("accept");
    assert_eq!(status, 0);
    for op in [Op::SocketCreate, Op::SocketBind, Op::SocketListen, Op::SocketConnect, Op::SocketAccept] {
        assert!(told.iter().any(|event| event.op == op), "{op:?} in {told:#?}");
    }

    // By address, however it is spelt and reached.
    bench.set(rules(vec![(Object::Destination(local()), Effect::Block)]));
    let there = |kind: &str| format!("{kind} ip=127.0.0.1 port=9");
    bench.denied("connect 127.0.0.1 9", 13, "rule[0]", Op::SocketConnect, &there(TCP));
    bench.denied("connect 0.0.0.0 9", 13, "rule[0]", Op::SocketConnect, &there(TCP));
    bench.denied("connect ::ffff:127.0.0.1 9", 13, "rule[0]", Op::SocketConnect, &there(TCP6));
    bench.denied("connect-udp 127.0.0.1 9", 13, "rule[0]", Op::SocketConnect, &there(UDP));
    bench.denied("send 127.0.0.1 9", 13, "rule[0]", Op::SocketSend, &there(UDP));
    bench.denied("send-unspec 127.0.0.1 9", 13, "rule[0]", Op::SocketSend, &there(UDP));
    bench.denied("fastopen 127.0.0.1 9", 13, "rule[0]", Op::SocketSend, &there(TCP));
    bench.passes("connect 127.0.0.1 10");
    bench.passes("connect 127.0.0.2 9");
    bench.passes("connect ::1 9");
    bench.passes("bind 127.0.0.1 9");
    bench.passes("disconnect");
    // A prefix beats a longer one's absence; the longer one beats it.
    bench.set(rules(vec![
        (Object::Destination(endpoint("127.0.0.0/8", Ports::ALL, None)), Effect::Block),
        (Object::Destination(endpoint("127.1.0.0/16", port(9), Some(Protocol::Tcp))), Effect::Audit),
    ]));
    bench.denied(
        "connect 127.0.0.1 80",
        13,
        "rule[0]",
        Op::SocketConnect,
        &format!("{TCP} ip=127.0.0.1 port=80"),
    );
    bench.told(
        "connect 127.1.0.1 9",
        0,
        Verdict::Audit,
        "rule[1]",
        Op::SocketConnect,
        &format!("{TCP} ip=127.1.0.1 port=9"),
    );
    bench.denied(
        "connect 127.1.0.1 10",
        13,
        "rule[0]",
        Op::SocketConnect,
        &format!("{TCP} ip=127.1.0.1 port=10"),
    );

    // Listening; on every address is on this one, too.
    bench.set(rules(vec![(Object::Listener(endpoint("127.0.0.1/32", port(8080), None)), Effect::Block)]));
    bench.denied(
        "bind 127.0.0.1 8080",
        13,
        "rule[0]",
        Op::SocketBind,
        &format!("{TCP} ip=127.0.0.1 port=8080"),
    );
    bench.denied("bind 0.0.0.0 8080", 13, "rule[0]", Op::SocketBind, &format!("{TCP} ip=0.0.0.0 port=8080"));
    bench.denied("bind :: 8080", 13, "rule[0]", Op::SocketBind, &format!("{TCP6} ip=:: port=8080"));
    bench.passes("listen 127.0.0.1 8081");
    bench.passes("connect 127.0.0.1 8080");

    // What alone is allowed.
    let to = endpoint("127.0.0.1/32", port(9), Some(Protocol::Tcp));
    bench.set(rules(vec![(Object::Destination(to), Effect::Allow)]));
    bench.passes("connect 127.0.0.1 9");
    bench.denied(
        "connect 127.0.0.1 10",
        13,
        "posture",
        Op::SocketConnect,
        &format!("{TCP} ip=127.0.0.1 port=10"),
    );
    bench.denied("socket 2 2 0", 13, "posture", Op::SocketCreate, UDP);
    bench.denied("bind 127.0.0.1 9", 13, "posture", Op::SocketBind, &there(TCP));

    // Of one program, and of who has a terminal.
    let mut by_act = rules(vec![(Object::Sockets(Protocol::Tcp), Effect::Block)]);
    by_act[0].source = Some("/usr/bin/act".parse().unwrap());
    bench.set(by_act);
    bench.denied("socket 2 1 0", 13, "rule[0]", Op::SocketCreate, TCP);
    sh("cp /usr/bin/act /usr/bin/other");
    assert_eq!(bench.container.run("/usr/bin/other socket 2 1 0"), 0);
    let mut on_terminal = rules(vec![(Object::Sockets(Protocol::Tcp), Effect::Block)]);
    on_terminal[0].conditions.no_terminal = true;
    bench.set(on_terminal);
    assert!(attached("socket_connect") && attached("socket_create") && !attached("capable"));
    sh("mkdir -p /dev/pts; mount -t devpts devpts /dev/pts; [ -e /dev/ptmx ] || mknod /dev/ptmx c 5 2");
    bench.passes("socket 2 1 0");
    bench.denied("tty /usr/bin/act socket 2 1 0", 13, "rule[0]", Op::SocketCreate, TCP);

    // Capabilities.
    let capability = |name: &str| Object::Capability(Capability::by_name(name).unwrap());
    bench.set(rules(vec![(capability("sys_chroot"), Effect::Block)]));
    bench.denied("chroot", 1, "rule[0]", Op::Capable, "CAP_SYS_CHROOT");
    bench.passes("bind 127.0.0.1 80");
    bench.set(rules(vec![(capability("sys_chroot"), Effect::Audit)]));
    bench.told("chroot", 0, Verdict::Audit, "rule[0]", Op::Capable, "CAP_SYS_CHROOT");
    bench.set(rules(vec![(capability("sys_chroot"), Effect::Allow)]));
    bench.passes("chroot");
    bench.denied("bind 127.0.0.1 80", 13, "posture", Op::Capable, "CAP_NET_BIND_SERVICE");

    // System calls: reported, and looked at only while a rule asks for it.
    assert!(!attached("sys_enter"));
    assert!(attached("capable"));
    assert!(!attached("socket_connect") && !attached("mmap_file") && !attached("file_mprotect"));
    let call = Object::Syscall(enforcer_core::syscall::Syscall::by_name("unlink").unwrap());
    bench.set(rules(vec![(call, Effect::Audit)]));
    assert!(attached("sys_enter"));
    assert!(!attached("capable"));
    bench.told("unlink /nowhere", 2, Verdict::Audit, "rule[0]", Op::Syscall, "unlink");
    bench.passes("chroot");
    // However they are made: as 32-bit programs do, and with the bit of x32, which these kernels refuse.
    bench.told("unlink-32", 2, Verdict::Audit, "rule[0]", Op::Syscall, "unlink");
    assert_eq!(bench.act("stat64-32"), (2, vec![]), "195 is another call there");
    bench.told("unlink-x32", 38, Verdict::Audit, "rule[0]", Op::Syscall, "unlink");
    for (name, how, status) in [
        ("stat", "stat64-32", 2),
        ("socket", "socket-32", 0),
        ("msgget", "msgget-32", 0),
        ("rt_sigaction", "rt_sigaction-x32", 38),
    ] {
        let call = Object::Syscall(enforcer_core::syscall::Syscall::by_name(name).unwrap());
        bench.set(rules(vec![(call, Effect::Audit)]));
        bench.told(how, status, Verdict::Audit, "rule[0]", Op::Syscall, name);
    }
    bench.set(rules(vec![(capability("sys_chroot"), Effect::Audit)]));
    assert!(!attached("sys_enter"));
    assert!(attached("capable"));
    assert_eq!(counter(&bench.enforcer, "unreadable") + counter(&bench.enforcer, "recursion_misses"), 0);
}

/// Whether a program is attached to its hook, by its pin.
fn attached(program: &str) -> bool {
    let layouts = fs::read_dir(options().bpffs).unwrap();
    layouts.map(|layout| layout.unwrap().path().join(format!("link_{program}"))).any(|pin| pin.exists())
}

/// Each preset with what it denies and what it leaves alone.
pub fn presets(enforcer: Enforcer) {
    sh("mkdir -p /mnt/memory; mount -t tmpfs none /mnt/memory");
    let mut bench = Bench::new("presets", enforcer);
    let block = |preset| rules(vec![(Object::Preset(preset), Effect::Block)]);

    bench.set(block(Preset::FilelessExec));
    bench.denied("memfd-exec", 1, "rule[0]", Op::Exec, "filelessExec");
    bench.denied("run-copy /mnt/memory/copy", 1, "rule[0]", Op::Exec, "filelessExec");
    bench.denied("map-memfd", 1, "rule[0]", Op::Map, "filelessExec");
    bench.passes("run-copy /usr/bin/copy");
    bench.passes("map-file /usr/bin/act");
    bench.passes("map-anonymous");
    bench.set(rules(vec![(Object::Preset(Preset::FilelessExec), Effect::Audit)]));
    bench.told("memfd-exec", 0, Verdict::Audit, "rule[0]", Op::Exec, "filelessExec");

    bench.set(block(Preset::AnonymousMapExec));
    for how in ["map-anonymous", "map-shared", "map-zero", "map-memfd", "map-write-exec /usr/bin/act"] {
        bench.denied(how, 1, "rule[0]", Op::Map, "anonymousMapExec");
    }
    for how in ["protect-anonymous", "protect-written /usr/bin/act"] {
        bench.denied(how, 1, "rule[0]", Op::Protect, "anonymousMapExec");
    }
    bench.passes("map-file /usr/bin/act");
    bench.passes("protect-read /usr/bin/act");
    // a program in memory is mapped from there while it is executed
    assert_eq!(bench.act("memfd-exec").0, 139);

    bench.set(block(Preset::ProtectProc));
    for other in ["/proc/1/status", "/proc/1/environ", "/proc/1/mem", "/proc/1/task/1/maps", "/proc/1"] {
        bench.denied(&format!("open {other}"), 1, "rule[0]", Op::OpenRead, "protectProc");
    }
    bench.denied("open /proc/1/root/etc", 13, "rule[0]", Op::Ptrace, "protectProc");
    bench.denied("peek 1", 1, "rule[0]", Op::Ptrace, "protectProc");
    for own in
        ["/proc/self/environ", "/proc/thread-self/status", "/proc/self/root/etc", "/proc/mounts", "/proc"]
    {
        bench.passes(&format!("open {own}"));
    }

    bench.set(block(Preset::ProtectEnv));
    bench.denied("open /proc/1/environ", 1, "rule[0]", Op::OpenRead, "protectEnv");
    bench.denied("open /proc/1/task/1/environ", 1, "rule[0]", Op::OpenRead, "protectEnv");
    bench.passes("open /proc/1/status");
    bench.passes("open /proc/self/environ");

    bench.set(block(Preset::Exec));
    let pid = bench.container.pid();
    let enter = || {
        let enter = format!(
            "echo $$ > /sys/fs/cgroup/test-presets/cgroup.procs; exec nsenter -m -t {pid} /usr/bin/act nothing"
        );
        Command::new("sh").args(["-c", &enter]).status().unwrap().success()
    };
    bench.passes("nothing");
    events(&bench.enforcer);
    assert!(!enter());
    let told = events(&bench.enforcer);
    assert!(
        told.iter().any(|event| {
            (event.op, event.verdict, event.path.as_slice())
                == (Op::Enter, Verdict::Block, b"/usr/bin/act".as_slice())
        }),
        "{told:#?}"
    );
    bench.set(block(Preset::FilelessExec));
    assert!(enter());
    assert_eq!(counter(&bench.enforcer, "recursion_misses"), 0);
}
