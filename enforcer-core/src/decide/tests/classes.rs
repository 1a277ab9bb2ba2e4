//! Patterns, conditions, and the classes that are not about files.

use super::*;
use crate::network::{AF_INET, AF_INET6, AF_UNIX, IPPROTO_TCP, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};

fn tcp(op: SocketOp, address: &str, port: u16) -> Access<'static> {
    let address: std::net::IpAddr = address.parse().unwrap();
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    let (kind, protocol) = (SOCK_STREAM, IPPROTO_TCP);
    Access::socket(SocketAccess { op, family, kind, protocol, address: Some(address), port })
}

fn create(family: u16, kind: u16, protocol: u16) -> Access<'static> {
    let op = SocketOp::Create;
    Access::socket(SocketAccess { op, family, kind, protocol, address: None, port: 0 })
}

/// Of each pair the first beats the second, whichever of the two blocks and whichever comes first.
#[test]
fn each_step_of_the_order_among_sockets() {
    let access = tcp(SocketOp::Connect, "10.1.2.3", 443).from(b"/bin/s");
    for (stronger, weaker) in [
        ("all from /bin/s", "to=tcp:10.1.2.3/32:443"),
        ("to=*:*:* from /bin/s", "to=tcp:10.1.2.3/32:443"),
        ("to=*:10.1.2.3/32:*", "to=tcp:10.1.2.0/24:443"),
        ("to=*:10.0.0.0/8:*", "to=*:0.0.0.0/0:443"),
        ("to=*:0.0.0.0/0:*", "to=tcp:*:443"),
        ("to=*:10.0.0.0/8:443", "to=*:10.0.0.0/8:443-444"),
        ("to=*:10.0.0.0/8:400-500", "to=tcp:10.0.0.0/8:*"),
        ("to=*:*:*", "tcp"),
        ("to=*:*:443", "all"),
        ("to=*:10.0.0.0/8:* from /bin/s", "tcp from /bin/s"),
    ] {
        for (one, other) in [("allow", "block"), ("block", "allow"), ("audit", "block"), ("allow", "audit")] {
            let strong = format!("{one} network {stronger}");
            let weak = format!("{other} network {weaker}");
            for rules in [[&*strong, &*weak], [&*weak, &*strong]] {
                assert_eq!(by(&ruleset(blocking(), &rules), &access), strong, "{rules:?}");
            }
        }
    }
    for equal in [["tcp", "all"], ["tcp", "stream"], ["to=tcp:*:443", "to=*:*:443"]] {
        for [one, other] in [equal, [equal[1], equal[0]]] {
            let rules = [format!("block network {one}"), format!("allow network {other}")];
            let set = ruleset(blocking(), &rules.each_ref().map(String::as_str));
            assert_eq!(by(&set, &access), rules[0]);
        }
    }
}

#[test]
fn each_operation_has_its_rules() {
    use SocketOp::{Accept, Bind, Connect, Create, Listen, Send};
    let to = ruleset(Postures::default(), &["block network to=*:10.0.0.0/8:*"]);
    let at = ruleset(Postures::default(), &["block network at=*:10.0.0.0/8:*"]);
    let kind = ruleset(Postures::default(), &["block network tcp"]);
    for (op, by_to, by_at) in [
        (Create, false, false),
        (Connect, true, false),
        (Send, true, false),
        (Bind, false, true),
        (Listen, false, true),
        (Accept, false, false),
    ] {
        let access = tcp(op, "10.1.2.3", 1);
        let blocked = |set: &Ruleset| set.decide(&access).verdict == Verdict::Block;
        assert_eq!((blocked(&to), blocked(&at), blocked(&kind)), (by_to, by_at, true), "{op:?}");
    }
}

#[test]
fn what_may_be_reached_may_be_made() {
    for rule in ["allow network to=tcp:10.0.0.0/8:443", "allow network at=tcp:10.0.0.1/32:80"] {
        let set = ruleset(blocking(), &[rule]);
        assert_eq!(by(&set, &create(AF_INET, SOCK_STREAM, 0)), rule);
        assert_eq!(by(&set, &create(AF_INET6, SOCK_STREAM, IPPROTO_TCP)), rule, "it reaches IPv4, too");
        assert_eq!(by(&set, &create(AF_INET, SOCK_DGRAM, 0)), "posture");
        assert_eq!(by(&set, &create(AF_UNIX, SOCK_STREAM, 0)), "posture");
        // Making one is not what a Block rule about an address is about.
        let block = rule.replace("allow", "block");
        assert_eq!(by(&ruleset(blocking(), &[&block]), &create(AF_INET, SOCK_STREAM, 0)), "nothing");
        // Among rules about making it, the more specific decides.
        assert_eq!(
            by(&ruleset(blocking(), &[rule, "block network tcp"]), &create(AF_INET, SOCK_STREAM, 0)),
            rule
        );
    }
    // Allowed to be made for one purpose, it may not be used for another.
    let set = ruleset(blocking(), &["allow network to=*:10.0.0.0/8:*"]);
    assert_eq!(by(&set, &tcp(SocketOp::Listen, "10.0.0.1", 80)), "posture");
    assert_eq!(by(&set, &tcp(SocketOp::Connect, "11.0.0.1", 80)), "posture");
}

#[test]
fn raw_is_a_type_in_any_family_and_a_unix_stream_is_no_tcp() {
    let set = ruleset(Postures::default(), &["block network raw", "block network tcp"]);
    for family in [AF_INET, AF_INET6, AF_UNIX, 16, 17] {
        assert_eq!(by(&set, &create(family, SOCK_RAW, 0)), "block network raw");
    }
    assert_eq!(by(&set, &create(AF_UNIX, SOCK_STREAM, 0)), "nothing");
    assert_eq!(by(&set, &create(AF_INET, SOCK_STREAM, 0)), "block network tcp");
}

#[test]
fn no_spelling_of_an_address_gets_round_a_rule() {
    let set = ruleset(
        blocking(),
        &["allow network all", "block network to=*:127.0.0.0/8:*", "block network at=*:10.0.0.0/8:80"],
    );
    for address in ["127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1", "0.0.0.0", "::ffff:0.0.0.0"] {
        assert_eq!(set.decide(&tcp(SocketOp::Connect, address, 1)).verdict, Verdict::Block, "{address}");
    }
    for address in ["10.0.0.1", "::ffff:10.0.0.1", "0.0.0.0", "::"] {
        assert_eq!(set.decide(&tcp(SocketOp::Bind, address, 80)).verdict, Verdict::Block, "{address}");
        assert_eq!(set.decide(&tcp(SocketOp::Bind, address, 81)).verdict, Verdict::Allow, "{address}");
    }
    // What is allowed on one address is not allowed on all of them.
    let set = ruleset(blocking(), &["allow network at=*:10.0.0.1/32:80"]);
    assert_eq!(set.decide(&tcp(SocketOp::Bind, "10.0.0.1", 80)).verdict, Verdict::Allow);
    assert_eq!(by(&set, &tcp(SocketOp::Bind, "0.0.0.0", 80)), "posture");
}

#[test]
fn a_terminal_and_arguments_narrow_and_exempt() {
    let run = Access::exec(b"/x");
    for (conditions, access, holds) in [
        ("pts=false", run, true),
        ("pts=false", run.on_terminal(), false),
        ("args=[-a,b]", run, false),
        ("args=[-a,b]", run.with_args(&[]), true),
        ("args=[-a,b]", run.with_args(&[b"b", b"-a", b"b"]), true),
        ("args=[-a,b]", run.with_args(&[b"b", b"-A"]), false),
        ("args=[-a,b]", run.with_args(&[b""]), false),
        ("pts=false args=[a]", run.with_args(&[b"a"]), true),
    ] {
        let allow = format!("allow process /x {conditions}");
        let expected = if holds { &*allow } else { "posture" };
        assert_eq!(by(&ruleset(blocking(), &[&allow]), &access), expected, "{access:?}");
        let block = format!("block process /x {conditions}");
        let expected = if holds { format!("exempt: {block}") } else { block.clone() };
        // Under a whitelist, too: what is exempt is decided.
        assert_eq!(by(&ruleset(blocking(), &[&block, "allow process /y"]), &access), expected, "{access:?}");
    }
    // All for an Allow rule, any for the others.
    let half = run.with_args(&[b"a"]).on_terminal();
    assert_eq!(by(&ruleset(blocking(), &["allow process /x pts=false args=[a]"]), &half), "posture");
    let block = "block process /x pts=false args=[a]";
    assert_eq!(by(&ruleset(blocking(), &[block]), &half), format!("exempt: {block}"));
    let set = ruleset(blocking(), &["block network tcp pts=false"]);
    assert_eq!(by(&set, &create(AF_INET, SOCK_STREAM, 0)), "exempt: block network tcp pts=false");
    assert_eq!(by(&set, &create(AF_INET, SOCK_STREAM, 0).on_terminal()), "block network tcp pts=false");
}

#[test]
fn a_pattern_that_something_below_could_match_moves_with_its_directory() {
    let rules = [
        "allow file /data/**",
        "block file pattern=/data/*/keys/*.pem readOnly",
        "audit file pattern=**.log",
    ];
    let set = ruleset(blocking(), &rules);
    let renamed = |path: &'static str| by(&set, &Access::rename_directory(path.as_bytes()));
    assert_eq!(renamed("/data/a/keys"), rules[1]);
    assert_eq!(renamed("/data/a"), rules[1]);
    assert_eq!(renamed("/data"), rules[1]);
    assert_eq!(renamed("/data/a/kexs"), rules[2], "anything may hold a log");
    assert_eq!(by(&set, &Access::write(b"/data/a/keys")), rules[0], "a file takes nothing along");
    assert_eq!(by(&set, &Access::read(b"/data/a/keys/x.pem")), format!("exempt: {}", rules[1]));
}

#[test]
fn names_of_capabilities_system_calls_and_presets() {
    let rules = [
        "allow capability net_raw from /bin/ping",
        "block capability sys_admin",
        "audit syscall unlink",
        "audit syscall kill from /bin/s",
        "block preset exec",
        "audit preset exec",
        "audit preset protectEnv",
    ];
    let set = ruleset(blocking(), &rules);
    let capability = |name| Access::capability(Capability::by_name(name).unwrap());
    let syscall = |name| Access::syscall(Syscall::by_name(name).unwrap());
    for (access, expected) in [
        (capability("net_raw").from(b"/bin/ping"), rules[0]),
        (capability("net_raw"), "posture"),
        (capability("sys_admin").from(b"/bin/ping"), rules[1]),
        (capability("kill"), "posture"),
        (syscall("unlink"), rules[2]),
        (syscall("unlinkat"), "nothing"),
        (syscall("kill"), "nothing"),
        (syscall("kill").from(b"/bin/s"), rules[3]),
        (Access::preset(Preset::Exec), rules[4]),
        (Access::preset(Preset::ProtectEnv), rules[6]),
        (Access::preset(Preset::ProtectProc), "nothing"),
    ] {
        assert_eq!(by(&set, &access), expected, "{access:?}");
    }
    assert_eq!(set.decide(&syscall("unlink")).verdict, Verdict::Audit);
}

#[test]
fn a_whitelist_is_one_of_its_class_alone() {
    let accesses = [
        (Class::Process, Access::exec(b"/x")),
        (Class::File, Access::read(b"/x")),
        (Class::Network, create(AF_INET, SOCK_STREAM, 0)),
        (Class::Capability, Access::capability(Capability::by_name("kill").unwrap())),
        (Class::Syscall, Access::syscall(Syscall::by_name("kill").unwrap())),
        (Class::Preset, Access::preset(Preset::Exec)),
    ];
    for (class, rule) in [
        (Class::Process, "allow process /y"),
        (Class::File, "allow file /y"),
        (Class::Network, "allow network udp"),
        (Class::Capability, "allow capability chown"),
        (Class::Syscall, "audit syscall unlink"),
        (Class::Preset, "block preset protectEnv"),
    ] {
        let set = ruleset(blocking(), &[rule]);
        for (other, access) in &accesses {
            let whitelisted = class == *other && class.can(Effect::Allow);
            assert_eq!(by(&set, access), if whitelisted { "posture" } else { "nothing" }, "{rule} {other}");
        }
    }
}
