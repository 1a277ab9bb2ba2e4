//! Sockets and addresses: what network rules speak about.

mod address;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use self::address::{Cidr, CidrError, Endpoint, Ports, PortsError};

/// `AF_UNIX`
pub const AF_UNIX: u16 = 1;
/// `AF_INET`
pub const AF_INET: u16 = 2;
/// `AF_INET6`
pub const AF_INET6: u16 = 10;
/// `AF_NETLINK`
pub const AF_NETLINK: u16 = 16;
/// `AF_PACKET`
pub const AF_PACKET: u16 = 17;
/// `AF_SMC`, whose sockets fall back to TCP.
pub const AF_SMC: u16 = 43;

/// `SOCK_STREAM`
pub const SOCK_STREAM: u16 = 1;
/// `SOCK_DGRAM`
pub const SOCK_DGRAM: u16 = 2;
/// `SOCK_RAW`
pub const SOCK_RAW: u16 = 3;
/// `SOCK_RDM`
pub const SOCK_RDM: u16 = 4;
/// `SOCK_SEQPACKET`
pub const SOCK_SEQPACKET: u16 = 5;
/// `SOCK_DCCP`
pub const SOCK_DCCP: u16 = 6;
/// `SOCK_PACKET`
pub const SOCK_PACKET: u16 = 10;

/// `IPPROTO_ICMP`
pub const IPPROTO_ICMP: u16 = 1;
/// `IPPROTO_TCP`
pub const IPPROTO_TCP: u16 = 6;
/// `IPPROTO_UDP`
pub const IPPROTO_UDP: u16 = 17;
/// `IPPROTO_DCCP`
pub const IPPROTO_DCCP: u16 = 33;
/// `IPPROTO_ICMPV6`
pub const IPPROTO_ICMPV6: u16 = 58;
/// `IPPROTO_SCTP`
pub const IPPROTO_SCTP: u16 = 132;
/// `IPPROTO_MPTCP`
pub const IPPROTO_MPTCP: u16 = 262;

/// A kind of socket, as `matchProtocols` names it: by transport where it has one, else by type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP over IP, with MPTCP and SMC, which fall back to it.
    Tcp,
    /// UDP over IP.
    Udp,
    /// ICMP, by raw and by ping sockets.
    Icmp,
    /// ICMPv6, by raw and by ping sockets.
    Icmpv6,
    /// SCTP over IP.
    Sctp,
    /// DCCP.
    Dccp,
    /// `SOCK_RAW` of any family.
    Raw,
    /// `SOCK_STREAM` of any family.
    Stream,
    /// `SOCK_DGRAM` of any family.
    Dgram,
    /// `SOCK_RDM` of any family.
    Rdm,
    /// `SOCK_SEQPACKET` of any family.
    Seqpacket,
    /// Packet sockets: `AF_PACKET`, and the old `SOCK_PACKET`.
    Packet,
    /// Every socket.
    All,
}

impl Protocol {
    /// Every kind.
    pub const EACH: [Self; 13] = [
        Self::Tcp,
        Self::Udp,
        Self::Icmp,
        Self::Icmpv6,
        Self::Sctp,
        Self::Dccp,
        Self::Raw,
        Self::Stream,
        Self::Dgram,
        Self::Rdm,
        Self::Seqpacket,
        Self::Packet,
        Self::All,
    ];

    /// The name in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Icmpv6 => "icmpv6",
            Self::Sctp => "sctp",
            Self::Dccp => "dccp",
            Self::Raw => "raw",
            Self::Stream => "stream",
            Self::Dgram => "dgram",
            Self::Rdm => "rdm",
            Self::Seqpacket => "seqpacket",
            Self::Packet => "packet",
            Self::All => "all",
        }
    }

    /// The kind with this name, in any case.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::EACH.into_iter().find(|protocol| protocol.as_str().eq_ignore_ascii_case(name))
    }

    /// Whether a socket of this family, type and protocol is of this kind. A Unix stream is no TCP.
    #[must_use]
    pub const fn covers(self, family: u16, kind: u16, protocol: u16) -> bool {
        let inet = matches!(family, AF_INET | AF_INET6);
        match self {
            Self::Tcp => {
                family == AF_SMC
                    || (inet && kind == SOCK_STREAM && matches!(protocol, 0 | IPPROTO_TCP | IPPROTO_MPTCP))
            }
            Self::Udp => inet && kind == SOCK_DGRAM && matches!(protocol, 0 | IPPROTO_UDP),
            Self::Icmp => family == AF_INET && protocol == IPPROTO_ICMP,
            Self::Icmpv6 => family == AF_INET6 && protocol == IPPROTO_ICMPV6,
            Self::Sctp => inet && (protocol == IPPROTO_SCTP || (kind == SOCK_SEQPACKET && protocol == 0)),
            Self::Dccp => kind == SOCK_DCCP || (inet && protocol == IPPROTO_DCCP),
            Self::Raw => kind == SOCK_RAW,
            Self::Stream => kind == SOCK_STREAM,
            Self::Dgram => kind == SOCK_DGRAM,
            Self::Rdm => kind == SOCK_RDM,
            Self::Seqpacket => kind == SOCK_SEQPACKET,
            Self::Packet => family == AF_PACKET || kind == SOCK_PACKET,
            Self::All => true,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is done with a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketOp {
    /// Making it.
    Create,
    /// Connecting it, or setting where a datagram socket sends to.
    Connect,
    /// Sending with an address: a datagram, or TCP fast open.
    Send,
    /// Giving it an address of its own.
    Bind,
    /// Listening.
    Listen,
    /// Taking a connection.
    Accept,
}

impl SocketOp {
    /// Every operation.
    pub const ALL: [Self; 6] =
        [Self::Create, Self::Connect, Self::Send, Self::Bind, Self::Listen, Self::Accept];

    /// The operation in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Bind => "bind",
            Self::Listen => "listen",
            Self::Accept => "accept",
        }
    }
}

/// An operation on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketAccess {
    /// What is done.
    pub op: SocketOp,
    /// The address family, `AF_*`, of the socket.
    pub family: u16,
    /// The socket's type, `SOCK_*`, without its flags.
    pub kind: u16,
    /// The socket's protocol; 0 where its maker left the choice to the kernel.
    pub protocol: u16,
    /// The address that is connected, sent or bound to, or listened on; `None` where there is none, or one of
    /// another family than IP.
    pub address: Option<IpAddr>,
    /// The port that goes with the address.
    pub port: u16,
}

impl SocketAccess {
    /// The address as rules are asked about it: IPv4 in IPv6 (`::ffff:a.b.c.d`) is IPv4, and connecting or sending to
    /// no address in particular (`0.0.0.0`, `::`) reaches the machine itself, so it is the loopback's.
    #[must_use]
    pub fn judged_address(&self) -> Option<IpAddr> {
        let address = self.address?.to_canonical();
        let reaches = matches!(self.op, SocketOp::Connect | SocketOp::Send);
        Some(match address {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) if reaches => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) if reaches => Ipv6Addr::LOCALHOST.into(),
            address => address,
        })
    }

    /// Whether the socket is of the kind.
    #[must_use]
    pub const fn is_of(&self, protocol: Protocol) -> bool {
        protocol.covers(self.family, self.kind, self.protocol)
    }
}

#[cfg(test)]
mod tests;
