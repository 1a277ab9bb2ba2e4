//! Rules about sockets: AppArmor knows a socket's family and type, and nothing else of it.
//!
//! So what all rules together say is asked for each pair of the two, with the protocol that such a socket has unless its
//! maker says otherwise; raw sockets of IP, which always have one, are asked for as raw and as ICMP, and the stronger
//! answer counts.

use std::fmt::Write as _;

use super::Actor;
use crate::decide::{Access, Verdict};
use crate::network::{
    AF_INET, AF_INET6, IPPROTO_ICMP, IPPROTO_ICMPV6, SOCK_DCCP, SOCK_DGRAM, SOCK_PACKET, SOCK_RAW, SOCK_RDM,
    SOCK_SEQPACKET, SOCK_STREAM, SocketAccess, SocketOp,
};

/// The families that every AppArmor from 3.0 on names, and their numbers.
const FAMILIES: [(&str, u16); 43] = [
    ("unix", 1),
    ("inet", 2),
    ("ax25", 3),
    ("ipx", 4),
    ("appletalk", 5),
    ("netrom", 6),
    ("bridge", 7),
    ("atmpvc", 8),
    ("x25", 9),
    ("inet6", 10),
    ("rose", 11),
    ("netbeui", 13),
    ("security", 14),
    ("key", 15),
    ("netlink", 16),
    ("packet", 17),
    ("ash", 18),
    ("econet", 19),
    ("atmsvc", 20),
    ("rds", 21),
    ("sna", 22),
    ("irda", 23),
    ("pppox", 24),
    ("wanpipe", 25),
    ("llc", 26),
    ("ib", 27),
    ("mpls", 28),
    ("can", 29),
    ("tipc", 30),
    ("bluetooth", 31),
    ("iucv", 32),
    ("rxrpc", 33),
    ("isdn", 34),
    ("phonet", 35),
    ("ieee802154", 36),
    ("caif", 37),
    ("alg", 38),
    ("nfc", 39),
    ("vsock", 40),
    ("kcm", 41),
    ("qipcrtr", 42),
    ("smc", 43),
    ("xdp", 44),
];
/// The types of sockets, by the names that AppArmor gives them. For `SOCK_DCCP` it has none: such a socket is meant by a
/// rule about all types of its family alone.
const TYPES: [(&str, u16); 6] = [
    ("stream", SOCK_STREAM),
    ("dgram", SOCK_DGRAM),
    ("raw", SOCK_RAW),
    ("rdm", SOCK_RDM),
    ("seqpacket", SOCK_SEQPACKET),
    ("packet", SOCK_PACKET),
];
/// No family and no type that there is: what becomes of those that have no name here.
const NONE: u16 = 255;

/// Whether AppArmor has such a family.
pub(super) fn is_family(name: &str) -> bool {
    FAMILIES.iter().any(|(known, _)| *known == name)
}

/// Whether AppArmor has such a type.
pub(super) fn is_type(name: &str) -> bool {
    TYPES.iter().any(|(known, _)| *known == name)
}

/// The numbers of a family and a type, by the names that the kernel's AppArmor gives them.
pub(super) fn numbers(family: &str, kind: &str) -> Option<(u16, u16)> {
    let (_, family) = FAMILIES.iter().find(|(known, _)| *known == family)?;
    let of_dccp = [("dccp", SOCK_DCCP)];
    let (_, kind) = TYPES.iter().chain(&of_dccp).find(|(known, _)| *known == kind)?;
    Some((*family, *kind))
}

/// The rules about sockets.
pub(super) fn rules(actor: &Actor<'_>) -> String {
    let otherwise = of_cell(actor, NONE, NONE);
    let mut out = String::new();
    if otherwise == Verdict::Allow {
        out.push_str("  network,\n");
    }
    for (family, number) in FAMILIES {
        let cells = TYPES.map(|(kind, of)| (kind, of_cell(actor, number, of)));
        let unnamed = of_cell(actor, number, SOCK_DCCP);
        let uniform = cells.iter().all(|(_, verdict)| *verdict == unnamed).then_some(unnamed);
        match uniform {
            Some(verdict) => line(&mut out, otherwise, verdict, family),
            None => {
                for (kind, verdict) in cells {
                    line(&mut out, otherwise, verdict, &format!("{family} {kind}"));
                }
            }
        }
    }
    out
}

/// One rule, where what holds otherwise does not say the same. What nothing allows is denied, and reported.
fn line(out: &mut String, otherwise: Verdict, verdict: Verdict, sockets: &str) {
    let how = match verdict {
        Verdict::Allow if otherwise == Verdict::Allow => return,
        Verdict::Allow => "",
        Verdict::Audit => "audit ",
        Verdict::Block if otherwise == Verdict::Allow => "audit deny ",
        Verdict::Block => return,
    };
    writeln!(out, "  {how}network {sockets},").unwrap_or_default();
}

fn of_cell(actor: &Actor<'_>, family: u16, kind: u16) -> Verdict {
    let icmp = match (family, kind) {
        (AF_INET, SOCK_RAW) => Some(IPPROTO_ICMP),
        (AF_INET6, SOCK_RAW) => Some(IPPROTO_ICMPV6),
        _ => None,
    };
    let protocols = [Some(0), icmp].into_iter().flatten();
    let of = |protocol| {
        actor.decide(&Access::socket(SocketAccess {
            op: SocketOp::Connect,
            family,
            kind,
            protocol,
            address: None,
            port: 0,
        }))
    };
    protocols.map(of).max().unwrap_or(Verdict::Block)
}
