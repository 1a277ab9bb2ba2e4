//! What was accessed, where it is no file.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_bpf::types;

use super::DecodeError;
use crate::capability::Capability;
use crate::network;
use crate::preset::Preset;
use crate::ruleset::Class;
use crate::syscall::Syscall;

/// `SYSCALL_COMPAT`
const COMPAT: u32 = 0x1_0000;

/// What was accessed, where it is no file, or not only a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Detail {
    /// A file, which the event's path names.
    Path,
    /// A socket.
    Socket(Socket),
    /// A capability; `None` for one that this version does not know.
    Capability(Option<Capability>, u32),
    /// A system call, by the machine's own number.
    Syscall(SyscallNumber),
    /// A preset.
    Preset(Preset),
}

/// A socket, and the address that was spoken to or offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// `AF_*`
    pub family: u16,
    /// `SOCK_*`
    pub kind: u16,
    /// `IPPROTO_*`, or what the family has in its place.
    pub protocol: u16,
    /// Address and port; `None` where there was none, or one of another family than IP.
    pub address: Option<(IpAddr, u16)>,
}

/// The number of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyscallNumber {
    /// As the kernel counts for 64-bit programs.
    pub number: u32,
    /// Made in the 32-bit way, by a call that does the same.
    pub compat: bool,
}

impl Socket {
    /// The family, as headers spell it, or its number.
    #[must_use]
    pub fn family_name(&self) -> String {
        let name = match self.family {
            network::AF_UNIX => "AF_UNIX",
            network::AF_INET => "AF_INET",
            network::AF_INET6 => "AF_INET6",
            network::AF_NETLINK => "AF_NETLINK",
            network::AF_PACKET => "AF_PACKET",
            network::AF_SMC => "AF_SMC",
            other => return other.to_string(),
        };
        name.into()
    }

    /// The type, as headers spell it, or its number.
    #[must_use]
    pub fn kind_name(&self) -> String {
        let name = match self.kind {
            network::SOCK_STREAM => "SOCK_STREAM",
            network::SOCK_DGRAM => "SOCK_DGRAM",
            network::SOCK_RAW => "SOCK_RAW",
            network::SOCK_RDM => "SOCK_RDM",
            network::SOCK_SEQPACKET => "SOCK_SEQPACKET",
            network::SOCK_DCCP => "SOCK_DCCP",
            network::SOCK_PACKET => "SOCK_PACKET",
            other => return other.to_string(),
        };
        name.into()
    }

    /// The protocol in capitals where it is one of IP that is known, or its number.
    #[must_use]
    pub fn protocol_name(&self) -> String {
        let inet = matches!(self.family, network::AF_INET | network::AF_INET6);
        let name = match (self.protocol, self.kind) {
            (network::IPPROTO_ICMP, _) if inet => "ICMP",
            (network::IPPROTO_TCP, _) | (0, network::SOCK_STREAM) if inet => "TCP",
            (network::IPPROTO_UDP, _) | (0, network::SOCK_DGRAM) if inet => "UDP",
            (network::IPPROTO_DCCP, _) if inet => "DCCP",
            (network::IPPROTO_ICMPV6, _) if inet => "ICMPv6",
            (network::IPPROTO_SCTP, _) if inet => "SCTP",
            (network::IPPROTO_MPTCP, _) if inet => "MPTCP",
            (other, _) => return other.to_string(),
        };
        name.into()
    }
}

/// `domain=AF_INET type=SOCK_STREAM protocol=TCP`, with ` ip=10.0.0.1 port=443` where there is an address.
impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, kind, protocol) = (self.family_name(), self.kind_name(), self.protocol_name());
        write!(f, "domain={family} type={kind} protocol={protocol}")?;
        match self.address {
            Some((address, port)) => write!(f, " ip={address} port={port}"),
            None => Ok(()),
        }
    }
}

impl SyscallNumber {
    /// The name; the number where it has none here.
    #[must_use]
    pub fn name(&self) -> String {
        Syscall::by_number(self.number).map_or_else(|| self.number.to_string(), |call| call.name().to_owned())
    }
}

/// What follows the operation in an alert: the socket, the capability, the call, the preset; nothing for a file.
impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => Ok(()),
            Self::Socket(socket) => socket.fmt(f),
            Self::Capability(Some(capability), _) => {
                write!(f, "CAP_{}", capability.name().to_ascii_uppercase())
            }
            Self::Capability(None, number) => write!(f, "CAP_{number}"),
            Self::Syscall(call) => f.write_str(&call.name()),
            Self::Preset(preset) => preset.fmt(f),
        }
    }
}

impl Detail {
    pub(super) fn of(class: Class, detail: &types::event_detail) -> Result<Self, DecodeError> {
        let field = |name, value: u32| DecodeError::Field(name, value);
        Ok(match class {
            Class::Process | Class::File => Self::Path,
            Class::Network => {
                let [a, b, c, d, ..] = detail.address;
                let address = match detail.version {
                    0 => None,
                    4 => Some(IpAddr::from(Ipv4Addr::new(a, b, c, d))),
                    6 => Some(IpAddr::from(Ipv6Addr::from(detail.address))),
                    other => return Err(field("address version", other.into())),
                };
                let types::event_detail { family, kind, protocol, port, .. } = *detail;
                Self::Socket(Socket { family, kind, protocol, address: address.map(|ip| (ip, port)) })
            }
            Class::Capability => Self::Capability(Capability::by_number(detail.number), detail.number),
            Class::Syscall => {
                let (number, compat) = (detail.number & !COMPAT, detail.number & COMPAT != 0);
                Self::Syscall(SyscallNumber { number, compat })
            }
            Class::Preset => {
                let index = usize::try_from(detail.number).unwrap_or(usize::MAX);
                Self::Preset(Preset::ALL.get(index).copied().ok_or(field("preset", detail.number))?)
            }
        })
    }
}

/// Why a program's arguments count as not listed by rules, whatever they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ArgsUnseen {
    /// They are longer together than what is looked at.
    TooLong,
    /// They could not be read.
    Unreadable,
}

impl ArgsUnseen {
    /// `EVENT_ARGS_UNSEEN` and `EVENT_ARGS_UNREADABLE`.
    pub(super) const fn of(flags: u32) -> Option<Self> {
        match (flags & 4 != 0, flags & 8 != 0) {
            (_, true) => Some(Self::Unreadable),
            (true, _) => Some(Self::TooLong),
            _ => None,
        }
    }

    /// In one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too-long",
            Self::Unreadable => "unreadable",
        }
    }
}

#[cfg(test)]
mod tests {
    use enforcer_bpf::Shared;

    use super::*;
    use crate::event::{Op, RawEvent, VERSION};

    #[test]
    fn what_is_no_file_is_told() {
        let mut head =
            types::event { version: VERSION, class_: 2, op: 33, decision: 0x3000_0005, ..Default::default() };
        let detail = &mut head.detail;
        (detail.family, detail.kind, detail.protocol, detail.port, detail.version) = (2, 1, 6, 443, 4);
        detail.address[..4].copy_from_slice(&[10, 0, 0, 1]);
        let event = |head: &types::event| RawEvent::decode(head.bytes()).map(|raw| raw.event);
        let told = event(&head).unwrap();
        assert_eq!(told.op, Op::SocketConnect);
        assert_eq!(
            told.detail.to_string(),
            "domain=AF_INET type=SOCK_STREAM protocol=TCP ip=10.0.0.1 port=443"
        );
        head.detail.version = 6;
        head.detail.address = [0; 16];
        head.detail.address[15] = 1;
        assert!(event(&head).unwrap().detail.to_string().ends_with("ip=::1 port=443"));
        head.detail.version = 5;
        assert_eq!(event(&head), Err(DecodeError::Field("address version", 5)));
        (head.class_, head.op, head.detail.number) = (3, 38, 13);
        assert_eq!(event(&head).unwrap().detail.to_string(), "CAP_NET_RAW");
        head.detail.number = 77;
        assert_eq!(event(&head).unwrap().detail.to_string(), "CAP_77");
        (head.class_, head.op, head.detail.number) = (5, 40, 1);
        assert_eq!(event(&head).unwrap().detail.to_string(), "anonymousMapExec");
        head.detail.number = 5;
        assert_eq!(event(&head), Err(DecodeError::Field("preset", 5)));
        (head.class_, head.op) = (4, 39);
        head.detail.number = Syscall::by_name("openat").and_then(Syscall::number).unwrap();
        assert_eq!(event(&head).unwrap().detail.to_string(), "openat");
        head.detail.number |= 0x1_0000;
        let detail = event(&head).unwrap().detail;
        assert_eq!(detail.to_string(), "openat");
        assert!(matches!(detail, Detail::Syscall(SyscallNumber { compat: true, .. })));
        head.detail.number = 9999;
        assert_eq!(event(&head).unwrap().detail.to_string(), "9999");
    }
}
