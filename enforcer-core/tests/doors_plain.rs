//! The BPF matcher for what has no path against [`Ruleset::decide`]: random rules about sockets, capabilities, system
//! calls and presets, random accesses, every answer compared.
//!
//! Runs the programs in this machine's own kernel through `SEC("syscall")` doors, so it needs root. `DOOR_CASES`
//! sets the number of comparisons (default 400,000), `DOOR_SEED` repeats a run.
#![cfg(feature = "bpf")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_core::capability::Capability;
use enforcer_core::decide::{Access, DecidedBy, Decision, Verdict};
use enforcer_core::enforce::door::{Doors, Reading};
use enforcer_core::network::{
    AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_SMC, AF_UNIX, Cidr, Endpoint, Ports, Protocol, SocketAccess,
    SocketOp,
};
use enforcer_core::path::AbsPath;
use enforcer_core::policy::{Kind, PolicyId};
use enforcer_core::preset::Preset;
use enforcer_core::ruleset::{
    Class, Conditions, Effect, Object, Origin, OriginId, PostureAction, Postures, Rule, Ruleset,
};
use enforcer_core::syscall::Syscall;
use enforcer_core::visibility::Visibility;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const SOURCES: [&str; 3] = ["/a", "/bin/sh", "/usr/bin/curl"];

struct World {
    rng: SmallRng,
}

impl World {
    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.rng).unwrap()
    }

    /// Few, so that rules and accesses meet: in few networks, near their edges, mapped, and those that mean any.
    fn address(&mut self) -> IpAddr {
        let low = self.one_of(&[0, 1, 2, 127, 128, 255]);
        match self.rng.random_range(0..12) {
            0 => Ipv4Addr::UNSPECIFIED.into(),
            1 => Ipv6Addr::UNSPECIFIED.into(),
            2 => Ipv4Addr::new(127, 0, 0, 1).into(),
            3 => Ipv6Addr::LOCALHOST.into(),
            4 => Ipv4Addr::new(10, 0, low, 1).to_ipv6_mapped().into(),
            5..9 => {
                let high = self.one_of(&[0, 10, 11, 192]);
                Ipv4Addr::new(high, self.one_of(&[0, 168]), self.one_of(&[0, 1]), low).into()
            }
            _ => {
                let high = self.one_of(&[0xfd00, 0xfe80, 0x2001]);
                let middle = self.one_of(&[0, 1, 0x8000]);
                Ipv6Addr::new(high, 0, 0, middle, self.one_of(&[0, 0x8000]), 0, 0, low.into()).into()
            }
        }
    }

    fn cidr(&mut self) -> Cidr {
        loop {
            let address = self.address();
            let prefix = if address.is_ipv4() {
                self.one_of(&[0, 1, 8, 16, 24, 25, 31, 32])
            } else {
                self.one_of(&[0, 1, 8, 16, 48, 63, 64, 65, 96, 104, 120, 127, 128])
            };
            // the network that the address is in: its bits beyond the prefix cleared
            let net = match address {
                IpAddr::V4(v4) => {
                    let bits = v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                    Ipv4Addr::from_bits(bits).into()
                }
                IpAddr::V6(v6) => {
                    let bits = v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                    Ipv6Addr::from_bits(bits).into()
                }
            };
            if let Ok(cidr) = Cidr::new(net, prefix) {
                return cidr;
            }
        }
    }

    fn port(&mut self) -> u16 {
        self.one_of(&[0, 1, 53, 79, 80, 81, 443, 8000, 8080, 65534, 65535])
    }

    fn endpoint(&mut self) -> Endpoint {
        let net = self.rng.random_bool(0.7).then(|| self.cidr());
        let (a, b) = (self.port(), self.port());
        let ports = match self.rng.random_range(0..3) {
            0 => Ports::ALL,
            1 => Ports::new(a, a).unwrap(),
            _ => Ports::new(a.min(b), a.max(b)).unwrap(),
        };
        let protocol = self.rng.random_bool(0.5).then(|| self.protocol());
        Endpoint { net, ports, protocol }
    }

    fn protocol(&mut self) -> Protocol {
        if self.rng.random_bool(0.5) {
            return self.one_of(&[Protocol::Tcp, Protocol::Udp, Protocol::Stream, Protocol::Raw]);
        }
        self.one_of(&Protocol::EACH)
    }

    fn object(&mut self) -> (Class, Object) {
        match self.rng.random_range(0..12) {
            0..3 => (Class::Network, Object::Sockets(self.protocol())),
            3..6 => (Class::Network, Object::Destination(self.endpoint())),
            6..8 => (Class::Network, Object::Listener(self.endpoint())),
            8..10 => (Class::Capability, Object::Capability(self.capability())),
            10 => (Class::Syscall, Object::Syscall(self.syscall())),
            _ => (Class::Preset, Object::Preset(self.one_of(&Preset::ALL))),
        }
    }

    fn capability(&mut self) -> Capability {
        let few = self.rng.random_range(0..4);
        Capability::by_number(self.one_of(&[few, few, 13, 15, 16, 31, 32, 40])).unwrap()
    }

    fn syscall(&mut self) -> Syscall {
        let all: Vec<_> = Syscall::all().collect();
        let any = *all.choose(&mut self.rng).unwrap();
        let names = ["read", "unlinkat", "openat", "mseal", "chmod"];
        if self.rng.random() { Syscall::by_name(self.one_of(&names)).unwrap() } else { any }
    }

    fn ruleset(&mut self) -> Ruleset {
        let count = self.one_of(&[0, 1, 2, 4, 8, 16, 40, 120]);
        let mut rules = Vec::new();
        let mut origins = Vec::new();
        for n in 0..count {
            let (class, object) = self.object();
            let effects: Vec<Effect> = [Effect::Allow, Effect::Audit, Effect::Block]
                .into_iter()
                .filter(|effect| class.can(*effect))
                .collect();
            let effect = self.one_of(&effects);
            let source = (class != Class::Preset && self.rng.random_bool(0.3))
                .then(|| self.one_of(&SOURCES).parse::<AbsPath>().unwrap());
            let no_terminal = class == Class::Network && self.rng.random_bool(0.25);
            origins.push(Origin {
                policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "ns".into(), name: "p".into() },
                rule: format!("rule[{n:03}]"),
                severity: 1,
                tags: vec![],
                message: String::new(),
                action: effect,
            });
            let conditions = Conditions { no_terminal, ..Conditions::default() };
            rules.push(Rule { class, source, object, conditions, effect, origin: OriginId(n) });
        }
        let mut posture = || self.one_of(&[PostureAction::Allow, PostureAction::Audit, PostureAction::Block]);
        let postures = Postures { network: posture(), capabilities: posture(), ..Postures::default() };
        let observed = self.one_of(&[Visibility::NONE, Visibility::NONE, Visibility::ALL]);
        Ruleset::new(rules, origins, postures).unwrap().observing(observed)
    }

    /// Mostly near a rule: its address or the next one, its port or the next one.
    fn socket(&mut self, ruleset: &Ruleset) -> SocketAccess {
        let mut address = self.rng.random_bool(0.9).then(|| self.address());
        let mut port = self.port();
        let near = ruleset.rules().choose(&mut self.rng).map(|rule| &rule.object);
        if let Some(Object::Destination(end) | Object::Listener(end)) = near
            && self.rng.random_bool(0.6)
        {
            if let Some(net) = end.net {
                address = Some(net.address());
            }
            let wanted = self.one_of(&[end.ports.first(), end.ports.last()]);
            port = self.one_of(&[wanted, wanted.wrapping_add(1), wanted.wrapping_sub(1)]);
        }
        SocketAccess {
            op: self.one_of(&SocketOp::ALL),
            family: self
                .one_of(&[AF_INET, AF_INET, AF_INET6, AF_INET6, AF_UNIX, AF_NETLINK, AF_PACKET, AF_SMC, 40]),
            kind: self.one_of(&[1, 1, 1, 2, 2, 3, 4, 5, 6, 10, 0, 99]),
            protocol: self.one_of(&[0, 0, 0, 1, 6, 17, 33, 58, 132, 262, 255]),
            address,
            port,
        }
    }

    fn access(&mut self, ruleset: &Ruleset) -> Access<'static> {
        let mut access = match self.rng.random_range(0..8) {
            0..5 => Access::socket(self.socket(ruleset)),
            5 => Access::capability(self.capability()),
            6 => Access::syscall(self.syscall()),
            _ => Access::preset(self.one_of(&Preset::ALL)),
        };
        access.terminal = self.rng.random();
        access.source = match self.rng.random_range(0..3) {
            0 => None,
            1 => Some(b"/elsewhere"),
            _ => Some(self.one_of(&SOURCES).as_bytes()),
        };
        access
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn the_bpf_matcher_decides_as_decide_does_where_there_is_no_path() {
    let cases = number("DOOR_CASES", 400_000);
    let seed = number("DOOR_SEED", 0x5eed);
    let mut doors = Doors::open(Reading::AsHooks).expect("the kernel loads the matcher (needs root)");
    let mut world = World { rng: SmallRng::seed_from_u64(seed) };
    let (mut done, mut decided) = (0, [0; 6]);
    while done < cases {
        let ruleset = world.ruleset();
        doors.publish(&ruleset).unwrap();
        for _ in 0..500 {
            let access = world.access(&ruleset);
            let mut wanted = ruleset.decide(&access);
            if ruleset.observes(access.class())
                && matches!(wanted.by, DecidedBy::NoRule | DecidedBy::DefaultPosture)
            {
                assert_eq!(wanted.verdict, Verdict::Allow);
                wanted = Decision { verdict: Verdict::Audit, by: DecidedBy::NoRule };
            }
            let answer = doors.ask_plain(&access).unwrap();
            // what this machine has no number for is never seen
            let unseen = matches!(access.target, enforcer_core::decide::Target::Syscall(call) if call.number().is_none());
            if !unseen {
                assert_eq!(
                    answer.decision(),
                    Some(wanted),
                    "seed {seed:#x}, case {done}, answer {answer:?}\n{ruleset}\n{access:?}"
                );
            }
            decided[access.class() as usize] += u64::from(wanted.by != DecidedBy::NoRule);
            done += 1;
        }
    }
    println!("{done} accesses compared; decided by a rule or a posture, by class: {decided:?}");
    assert!(decided[Class::Network as usize] * 4 > done);
    assert!(decided[2..].iter().all(|class| class * 200 > done), "{decided:?}");
}

/// Many rules of each kind on one prefix, and many prefixes: the same answers, and an image that is not too large.
#[test]
fn ten_thousand_rules_about_addresses_decide_and_fit() {
    let mut doors = Doors::open(Reading::AsHooks).expect("the kernel loads the matcher (needs root)");
    let origin = |n: usize| Origin {
        policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "ns".into(), name: "p".into() },
        rule: format!("rule[{n:05}]"),
        severity: 1,
        tags: vec![],
        message: String::new(),
        action: Effect::Block,
    };
    let rule = |n: u32, endpoint| Rule {
        class: Class::Network,
        source: None,
        object: Object::Destination(endpoint),
        conditions: Conditions::default(),
        effect: Effect::Block,
        origin: OriginId(n),
    };
    let mut rules = Vec::new();
    for n in 0..5_000u32 {
        let net = Cidr::new(Ipv4Addr::from_bits(0x0a00_0000 + 16 * n).into(), 28).unwrap();
        rules.push(rule(2 * n, Endpoint { net: Some(net), ports: Ports::ALL, protocol: None }));
        let first = u16::try_from(5 * n).unwrap();
        let ports = Ports::new(first, first + 2).unwrap();
        rules.push(rule(2 * n + 1, Endpoint { net: None, ports, protocol: Some(Protocol::Tcp) }));
    }
    let ruleset = Ruleset::new(rules, (0..10_000).map(origin).collect(), Postures::default()).unwrap();
    doors.publish(&ruleset).unwrap();
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..2_000 {
        let access = Access::socket(SocketAccess {
            op: SocketOp::Connect,
            family: AF_INET,
            kind: 1,
            protocol: 0,
            address: Some(Ipv4Addr::from_bits(0x0a00_0000 + rng.random_range(0..160_000)).into()),
            port: rng.random_range(0..30_000),
        });
        assert_eq!(doors.ask_plain(&access).unwrap().decision(), Some(ruleset.decide(&access)));
    }
}
