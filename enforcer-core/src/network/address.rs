//! Addresses and ports.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::{AF_INET, AF_INET6, AF_SMC, Protocol, SocketAccess};

/// A network: an address and the number of leading bits that count.
///
/// ```
/// use enforcer_core::network::Cidr;
///
/// let net: Cidr = "10.0.0.0/8".parse()?;
/// assert!(net.contains("10.1.2.3".parse()?));
/// assert!(net.contains("::ffff:10.1.2.3".parse()?), "IPv4 in IPv6 is IPv4");
/// assert_eq!("10.0.0.1".parse::<Cidr>()?.to_string(), "10.0.0.1/32");
/// assert!("10.1.2.3/8".parse::<Cidr>().is_err(), "bits beyond the prefix");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr, // INVARIANT: canonical, its bits from `prefix` on are zero
    prefix: u8,      // INVARIANT: at most 32, or 128
}

impl Cidr {
    /// The network of an address with no bit set beyond the prefix. A network of IPv4 addresses in IPv6 becomes one of
    /// IPv4.
    ///
    /// # Errors
    /// When the prefix is too long, or bits are set beyond it.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, CidrError> {
        let (address, prefix) = match (address, address.to_canonical()) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if (96..=128).contains(&prefix) => (v4, prefix - 96),
            _ => (address, prefix),
        };
        let longest = width(address);
        if prefix > longest {
            return Err(CidrError::Prefix { prefix, longest });
        }
        let start = masked(address, prefix);
        if start != address {
            return Err(CidrError::Bits(Self { address: start, prefix }));
        }
        Ok(Self { address, prefix })
    }

    /// The first address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits count.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let beyond = u32::from(width(address).saturating_sub(prefix));
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(beyond).unwrap_or(0);
            std::net::Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(beyond).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

/// `10.0.0.0/8`, `fd00::/8`
impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// `ADDRESS/PREFIX`, or an address alone.
impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Shape)?;
        let prefix = match prefix {
            None => width(address),
            Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map_err(|_| CidrError::Shape)?
            }
            Some(_) => return Err(CidrError::Shape),
        };
        Self::new(address, prefix)
    }
}

/// Why a text is no [`Cidr`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not an address, or not an address with a prefix.
    #[error("not an address with a prefix, such as `10.0.0.0/8` or `fd00::/8`")]
    Shape,
    /// A longer prefix than the address has bits.
    #[error("a prefix of {prefix} is longer than the {longest} bits of the address")]
    Prefix {
        /// As given.
        prefix: u8,
        /// What the address has.
        longest: u8,
    },
    /// Bits beyond the prefix, which would not count. The network that is meant, perhaps.
    #[error("bits are set beyond the prefix; the network is `{0}`")]
    Bits(Cidr),
}

/// A range of ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    first: u16, // INVARIANT: at most `last`
    last: u16,
}

impl Ports {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// From `first` to `last`; `None` where the first is the greater one.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first <= last { Some(Self { first, last }) } else { None }
    }

    /// The lowest.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether the port is one of them.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// How many there are, less one.
    #[must_use]
    pub const fn width(self) -> u16 {
        self.last - self.first
    }
}

/// `443`, `8000-8999`, or `*` for every port.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { first, last } if first == last => write!(f, "{first}"),
            &Self::ALL => f.write_str("*"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

/// `443` or `8000-8999`.
impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let port = |text: &str| {
            let text = text.trim();
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or(PortsError::Shape)
        };
        match text.split_once('-') {
            None => port(text).map(|port| Self { first: port, last: port }),
            Some((first, last)) => {
                let (first, last) = (port(first)?, port(last)?);
                Self::new(first, last).ok_or(PortsError::Order { first, last })
            }
        }
    }
}

/// Why a text names no [`Ports`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// No number, or none that is a port.
    #[error("not a port from 0 to 65535, nor a range such as `8000-8999`")]
    Shape,
    /// The range ends before it starts.
    #[error("the range ends before it starts; write `{last}-{first}`")]
    Order {
        /// As given.
        first: u16,
        /// As given.
        last: u16,
    },
}

/// Where a connection goes to, or a server listens: an IP address, a port, a kind of socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The network; `None` for any IP address.
    pub net: Option<Cidr>,
    /// The ports.
    pub ports: Ports,
    /// The kind of socket; `None` for any.
    pub protocol: Option<Protocol>,
}

impl Endpoint {
    /// Whether the address and port are its own, and the socket of its kind.
    #[must_use]
    pub fn contains(&self, access: &SocketAccess) -> bool {
        let Self { net, ports, protocol } = self;
        access.judged_address().is_some_and(|address| net.is_none_or(|net| net.contains(address)))
            && ports.contains(access.port)
            && protocol.is_none_or(|protocol| access.is_of(protocol))
    }

    /// Whether a socket bound as `access` says could also receive what is for this endpoint: bound to no address in
    /// particular (`0.0.0.0`; `::`, which takes IPv4 too), it receives for all that the machine has.
    #[must_use]
    pub fn overlaps(&self, access: &SocketAccess) -> bool {
        let any_address = access
            .judged_address()
            .filter(IpAddr::is_unspecified)
            .is_some_and(|any| self.net.is_none_or(|net| any.is_ipv6() || net.address().is_ipv4()));
        let here = Self { net: None, ..self.clone() };
        self.contains(access) || (any_address && here.contains(access))
    }

    /// Whether sockets of this family, type and protocol can have to do with it at all.
    #[must_use]
    pub fn speaks_of(&self, access: &SocketAccess) -> bool {
        let family = match self.net {
            // an IPv6 socket reaches IPv4 addresses, too
            Some(net) if net.address().is_ipv6() => matches!(access.family, AF_INET6 | AF_SMC),
            _ => matches!(access.family, AF_INET | AF_INET6 | AF_SMC),
        };
        family && self.protocol.is_none_or(|protocol| access.is_of(protocol))
    }
}

/// `tcp:10.0.0.0/8:443`, `*:[fd00::]/8:*`
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { net, ports, protocol } = self;
        f.write_str(protocol.map_or("*", Protocol::as_str))?;
        match net {
            None => f.write_str(":*")?,
            Some(net) if net.address().is_ipv6() => write!(f, ":[{}]/{}", net.address(), net.prefix())?,
            Some(net) => write!(f, ":{net}")?,
        }
        write!(f, ":{ports}")
    }
}
