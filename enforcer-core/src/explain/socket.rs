//! Sockets as people write them.

use std::net::IpAddr;

use super::QuestionError;
use crate::network::{
    AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_SMC, AF_UNIX, IPPROTO_DCCP, IPPROTO_ICMP, IPPROTO_ICMPV6,
    IPPROTO_MPTCP, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, SOCK_DCCP, SOCK_DGRAM, SOCK_PACKET, SOCK_RAW,
    SOCK_RDM, SOCK_SEQPACKET, SOCK_STREAM, SocketAccess, SocketOp,
};
use crate::policy::suggest;

const AF_VSOCK: u16 = 40;
const IPPROTO_RAW: u16 = 255;

const FAMILIES: [(&str, u16); 7] = [
    ("unix", AF_UNIX),
    ("inet", AF_INET),
    ("inet6", AF_INET6),
    ("netlink", AF_NETLINK),
    ("packet", AF_PACKET),
    ("smc", AF_SMC),
    ("vsock", AF_VSOCK),
];

const KINDS: [(&str, u16); 7] = [
    ("stream", SOCK_STREAM),
    ("dgram", SOCK_DGRAM),
    ("raw", SOCK_RAW),
    ("rdm", SOCK_RDM),
    ("seqpacket", SOCK_SEQPACKET),
    ("dccp", SOCK_DCCP),
    ("packet", SOCK_PACKET),
];

/// A protocol of IP: its name, the type of its sockets, its number, and whether it has ports.
const TRANSPORTS: [(&str, u16, u16, bool); 8] = [
    ("tcp", SOCK_STREAM, IPPROTO_TCP, true),
    ("mptcp", SOCK_STREAM, IPPROTO_MPTCP, true),
    ("udp", SOCK_DGRAM, IPPROTO_UDP, true),
    ("icmp", SOCK_DGRAM, IPPROTO_ICMP, false),
    ("icmpv6", SOCK_DGRAM, IPPROTO_ICMPV6, false),
    ("sctp", SOCK_STREAM, IPPROTO_SCTP, true),
    ("dccp", SOCK_DCCP, IPPROTO_DCCP, true),
    ("raw", SOCK_RAW, IPPROTO_RAW, false),
];

/// `FAMILY:TYPE[:PROTOCOL]` for a socket without an IP address, `PROTOCOL[:ADDRESS[:PORT]]` for one with.
pub(super) fn parse(op: SocketOp, text: &str) -> Result<SocketAccess, QuestionError> {
    let wrong = |problem| QuestionError::Socket { given: text.to_owned(), problem };
    let (head, rest) = text.split_once(':').map_or((text, None), |(head, rest)| (head, Some(rest)));
    let addressed = matches!(op, SocketOp::Connect | SocketOp::Send | SocketOp::Bind | SocketOp::Listen);
    let transport = TRANSPORTS.iter().find(|(name, ..)| *name == head);
    if let Some((_, kind, protocol, has_ports)) = transport {
        let base = SocketAccess {
            op,
            family: if head == "icmpv6" { AF_INET6 } else { AF_INET },
            kind: *kind,
            protocol: *protocol,
            address: None,
            port: 0,
        };
        return match (addressed, rest) {
            (false, None) => Ok(base),
            (false, Some(_)) => Err(wrong("there is no address to name here")),
            (true, None) => Err(wrong("an address is missing, as in `tcp:10.0.0.1:443` or `udp:[::1]:53`")),
            (true, Some(rest)) => {
                let (address, port) = address(rest)
                    .ok_or_else(|| wrong("the address is none, as in `10.0.0.1:443` or `[::1]:53`"))?;
                if port.is_none() && *has_ports {
                    return Err(wrong("a port is missing, as in `10.0.0.1:443` or `[::1]:53`"));
                }
                let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
                Ok(SocketAccess { family, address: Some(address), port: port.unwrap_or(0), ..base })
            }
        };
    }
    let families = FAMILIES.map(|(name, _)| name);
    let transports = TRANSPORTS.map(|(name, ..)| name);
    let names = families.iter().chain(&transports).copied();
    let Some(family) = named(&FAMILIES, head) else {
        return Err(QuestionError::unknown("family or protocol", head, suggest(head, names)));
    };
    if addressed && matches!(family, AF_INET | AF_INET6 | AF_SMC) {
        return Err(wrong("name the protocol and the address, as in `tcp:10.0.0.1:443`"));
    }
    let mut parts = rest.unwrap_or_default().split(':');
    let kind = parts.next().filter(|kind| !kind.is_empty());
    let kind = kind.ok_or_else(|| wrong("a type is missing, as in `inet:stream` or `packet:raw`"))?;
    let Some(number) = named(&KINDS, kind) else {
        return Err(QuestionError::unknown(
            "type of socket",
            kind,
            suggest(kind, KINDS.map(|(name, _)| name)),
        ));
    };
    let protocol = match parts.next() {
        None => 0,
        Some(text) => protocol_number(text)
            .ok_or_else(|| QuestionError::unknown("protocol", text, suggest(text, transports)))?,
    };
    if parts.next().is_some() {
        return Err(wrong("there are at most three parts, as in `inet:stream:tcp`"));
    }
    Ok(SocketAccess { op, family, kind: number, protocol, address: None, port: 0 })
}

fn named(names: &[(&str, u16)], text: &str) -> Option<u16> {
    number(text).or_else(|| names.iter().find(|(name, _)| *name == text).map(|(_, number)| *number))
}

fn protocol_number(text: &str) -> Option<u16> {
    number(text)
        .or_else(|| TRANSPORTS.iter().find(|(name, ..)| *name == text).map(|(_, _, number, _)| *number))
}

fn number(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// `10.0.0.1:443`, `[::1]:443`, or either without a port.
fn address(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let address = IpAddr::V6(address.parse().ok()?);
        return match rest.strip_prefix(':') {
            Some(port) => Some((address, Some(number(port)?))),
            None => rest.is_empty().then_some((address, None)),
        };
    }
    match text.split_once(':') {
        None => Some((text.parse().ok()?, None)),
        Some((address, port)) => Some((IpAddr::V4(address.parse().ok()?), Some(number(port)?))),
    }
}

/// What is done, in words.
pub(super) fn doing(access: &SocketAccess) -> String {
    let SocketAccess { op, family, kind, protocol, address, port } = access;
    let name = |names: &[(&str, u16)], number: u16| {
        let known = names.iter().find(|(_, other)| *other == number);
        known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
    };
    let inet = matches!(*family, AF_INET | AF_INET6);
    let transport = TRANSPORTS.iter().find(|(_, of, number, _)| inet && (of, number) == (kind, protocol));
    let socket = match transport {
        Some((name, ..)) => format!("{name} socket"),
        None => format!("{} {} socket (protocol {protocol})", name(&FAMILIES, *family), name(&KINDS, *kind)),
    };
    let article = if socket.starts_with('i') { "an" } else { "a" };
    let place = match address {
        None => String::new(),
        Some(address) => {
            let address = if address.is_ipv4() { address.to_string() } else { format!("[{address}]") };
            let has_port = transport.is_none_or(|(.., has_ports)| *has_ports);
            if has_port { format!("{address}:{port}") } else { address }
        }
    };
    let (before, after) = match op {
        SocketOp::Create => ("making", ""),
        SocketOp::Connect => ("connecting", " to "),
        SocketOp::Send => ("sending from", " to "),
        SocketOp::Bind => ("binding", " to "),
        SocketOp::Listen => ("listening with", " on "),
        SocketOp::Accept => ("accepting on", ""),
    };
    let after = if place.is_empty() { "" } else { after };
    format!("{before} {article} {socket}{after}{place}")
}
