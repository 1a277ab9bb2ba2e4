//! A small world, in which things meet often: three names, paths of up to four of them, a handful of addresses.

use std::net::IpAddr;

use enforcer_core::capability::Capability;
use enforcer_core::decide::{Access, PathAccess, PathClass, Target};
use enforcer_core::network::{Endpoint, Ports, Protocol, SocketAccess, SocketOp};
use enforcer_core::policy::{Kind, PolicyId};
use enforcer_core::preset::Preset;
use enforcer_core::ruleset::{
    AbsPath, Args, Class, Conditions, Effect, Object, Origin, OriginId, Pattern, PostureAction, Postures,
    Rule, Ruleset,
};
use enforcer_core::syscall::Syscall;
use proptest::prelude::*;
use proptest::sample::select;

pub fn path() -> impl Strategy<Value = AbsPath> {
    prop::collection::vec(select(vec!["a", "b", "c"]), 0..4).prop_map(|names| {
        let text = names.iter().map(|name| format!("/{name}")).collect::<String>();
        if text.is_empty() { "/".parse().unwrap() } else { text.parse().unwrap() }
    })
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let piece = select(vec![
        "/a",
        "/b",
        "/*",
        "/**",
        "/?",
        "/[ab]",
        "/[^a]",
        "/{a,b}",
        "{/a,/b/c}",
        "{,/a}",
        "*",
        "**",
        "b",
        "/a*",
    ]);
    prop::collection::vec(piece, 1..4).prop_filter_map("no pattern", |pieces| pieces.concat().parse().ok())
}

fn source() -> impl Strategy<Value = Option<AbsPath>> {
    select(vec![None, Some("/s"), Some("/t")]).prop_map(|path| path.map(|path| path.parse().unwrap()))
}

fn class() -> impl Strategy<Value = Class> {
    use Class::*;
    select(vec![File, File, Process, Process, Network, Network, Network, Capability, Syscall, Preset])
}

/// Kinds of sockets, and what `matchProtocols` calls them.
pub const SOCKETS: [((u16, u16, u16), &str); 12] = [
    ((2, 1, 6), "tcp stream all"),
    ((10, 1, 0), "tcp stream all"),
    ((2, 1, 262), "tcp stream all"),
    ((43, 1, 0), "tcp stream all"),
    ((2, 2, 17), "udp dgram all"),
    ((10, 2, 0), "udp dgram all"),
    ((2, 3, 1), "icmp raw all"),
    ((10, 2, 58), "icmpv6 dgram all"),
    ((2, 5, 0), "sctp seqpacket all"),
    ((1, 1, 0), "stream all"),
    ((16, 3, 0), "raw all"),
    ((17, 2, 0), "dgram packet all"),
];

const ADDRESSES: [&str; 11] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.1.0.1",
    "127.0.0.1",
    "0.0.0.0",
    "::ffff:10.0.0.1",
    "::ffff:0.0.0.0",
    "fd00::1",
    "::1",
    "::",
    "8.8.8.8",
];

const NETS: [&str; 10] = [
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.1/32",
    "10.0.0.2/31",
    "127.0.0.0/8",
    "0.0.0.0/0",
    "::/0",
    "fd00::/8",
    "::1/128",
    "::ffff:10.0.0.0/120",
];

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let net = prop::option::weighted(0.7, select(&NETS[..]));
    let ports = select(vec![(0, 65535), (0, 65535), (0, 0), (1, 1), (1, 2), (2, 3), (0, 3)]);
    let protocol = prop::option::weighted(0.3, select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Stream]));
    (net, ports, protocol).prop_map(|(net, (first, last), protocol)| Endpoint {
        net: net.map(|net| net.parse().unwrap()),
        ports: Ports::new(first, last).unwrap(),
        protocol,
    })
}

fn object(class: Class) -> BoxedStrategy<Object> {
    match class {
        Class::Process | Class::File => prop_oneof![
            3 => path().prop_map(Object::Path),
            2 => select(vec!["a", "b", "c"]).prop_map(|name| Object::BaseName(name.to_owned())),
            3 => pattern().prop_map(Object::Pattern),
            3 => (path(), any::<bool>()).prop_map(|(dir, recursive)| Object::Directory { dir, recursive }),
        ]
        .boxed(),
        Class::Network => prop_oneof![
            2 => select(&Protocol::EACH[..]).prop_map(Object::Sockets),
            3 => endpoint().prop_map(Object::Destination),
            3 => endpoint().prop_map(Object::Listener),
        ]
        .boxed(),
        Class::Capability => capability().prop_map(Object::Capability).boxed(),
        Class::Syscall => syscall().prop_map(Object::Syscall).boxed(),
        Class::Preset => select(&Preset::ALL[..]).prop_map(Object::Preset).boxed(),
    }
}

fn capability() -> impl Strategy<Value = Capability> {
    select(vec!["chown", "net_raw", "bpf", "sys_admin"]).prop_map(|name| Capability::by_name(name).unwrap())
}

fn syscall() -> impl Strategy<Value = Syscall> {
    select(vec!["kill", "unlink", "open"]).prop_map(|name| Syscall::by_name(name).unwrap())
}

pub fn effect() -> impl Strategy<Value = Effect> {
    select(vec![Effect::Allow, Effect::Audit, Effect::Block])
}

fn args() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(select(vec!["-a", "-b", ""]), 0..3)
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let flag = || prop::bool::weighted(0.25);
    (flag(), flag(), flag(), prop::option::weighted(0.25, args())).prop_map(
        |(read_only, owner_only, no_terminal, args)| Conditions {
            read_only,
            owner_only,
            no_terminal,
            args: args.map(|args| Args::new(args.into_iter().map(str::to_owned))),
        },
    )
}

pub fn rule() -> impl Strategy<Value = Rule> {
    let object = class().prop_flat_map(|class| (Just(class), object(class)));
    (object, source(), conditions(), effect()).prop_map(|((class, object), source, conditions, effect)| {
        Rule {
            class,
            source: source.filter(|_| class != Class::Preset),
            object,
            conditions: fitting(class, conditions),
            effect: if class.can(effect) { effect } else { Effect::Audit },
            origin: OriginId(0),
        }
    })
}

/// Those that the class has.
fn fitting(class: Class, conditions: Conditions) -> Conditions {
    match class {
        Class::Process => conditions,
        Class::File => Conditions { args: None, ..conditions },
        Class::Network => Conditions { no_terminal: conditions.no_terminal, ..Conditions::default() },
        _ => Conditions::default(),
    }
}

pub fn rules() -> impl Strategy<Value = Vec<Rule>> {
    prop::collection::vec(rule(), 0..10)
}

pub fn postures() -> impl Strategy<Value = Postures> {
    let action = || select(vec![PostureAction::Allow, PostureAction::Audit, PostureAction::Block]);
    (action(), prop::option::of(action()), action(), action())
        .prop_map(|(file, process, network, capabilities)| Postures { file, process, network, capabilities })
}

/// An access that owns what it is about.
#[derive(Debug, Clone)]
pub struct Happening {
    pub source: Option<AbsPath>,
    terminal: bool,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    Path {
        class: PathClass,
        write: bool,
        tree: bool,
        path: AbsPath,
        owner: Option<u32>,
        args: Option<Vec<&'static [u8]>>,
    },
    Socket(SocketAccess),
    Capability(Capability),
    Syscall(Syscall),
    Preset(Preset),
}

impl Happening {
    pub fn access(&self) -> Access<'_> {
        let target = match &self.what {
            What::Path { class, write, tree, path, owner, args } => {
                let is_file = *class == PathClass::File;
                Target::Path(PathAccess {
                    class: *class,
                    path: path.as_bytes(),
                    write: *write && is_file,
                    // the root is never renamed
                    tree: *tree && *write && is_file && !path.is_root(),
                    owner: *owner,
                    argv0: None,
                    args: args.as_deref(),
                })
            }
            What::Socket(access) => Target::Socket(*access),
            What::Capability(capability) => Target::Capability(*capability),
            What::Syscall(syscall) => Target::Syscall(*syscall),
            What::Preset(preset) => Target::Preset(*preset),
        };
        let source = self.source.as_ref().map(AbsPath::as_bytes);
        Access { source, uid: 1, terminal: self.terminal, ..Access::to(target) }
    }
}

fn on_path() -> impl Strategy<Value = What> {
    let class = select(vec![PathClass::Process, PathClass::File]);
    let owner = select(vec![None, Some(1), Some(2)]);
    (class, any::<bool>(), any::<bool>(), path(), owner, prop::option::of(args())).prop_map(
        |(class, write, tree, path, owner, args)| {
            let args = args.map(|args| args.into_iter().map(str::as_bytes).collect());
            What::Path { class, write, tree, path, owner, args }
        },
    )
}

fn on_socket() -> impl Strategy<Value = What> {
    let address = prop::option::weighted(0.9, select(&ADDRESSES[..]));
    (select(&SocketOp::ALL[..]), select(&SOCKETS[..]), address, 0..5u16).prop_map(
        |(op, ((family, kind, protocol), _), address, port)| {
            // only those of IP have addresses that are judged
            let ip = matches!(family, 2 | 10 | 43) && op != SocketOp::Create;
            let address = address.filter(|_| ip).map(|text| text.parse::<IpAddr>().unwrap());
            What::Socket(SocketAccess { op, family, kind, protocol, address, port })
        },
    )
}

pub fn happening() -> impl Strategy<Value = Happening> {
    let what = prop_oneof![
        5 => on_path(),
        5 => on_socket(),
        1 => capability().prop_map(What::Capability),
        1 => syscall().prop_map(What::Syscall),
        1 => select(&Preset::ALL[..]).prop_map(What::Preset),
    ];
    (source(), any::<bool>(), what).prop_map(|(source, terminal, what)| Happening { source, terminal, what })
}

fn origin_of(rule: &Rule, policy: &str) -> Origin {
    Origin {
        policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "d".into(), name: policy.into() },
        rule: rule.to_string(),
        severity: 1,
        tags: vec![],
        message: String::new(),
        action: rule.effect,
    }
}

pub fn ruleset(rules: &[Rule], postures: Postures) -> Ruleset {
    let origins = rules.iter().map(|rule| origin_of(rule, "p")).collect();
    let rules = (0..).zip(rules).map(|(id, rule)| Rule { origin: OriginId(id), ..rule.clone() }).collect();
    Ruleset::new(rules, origins, postures).unwrap()
}
