//! Where the feed is served.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

/// `IP:PORT`, or `unix:/PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Address {
    /// For whoever reaches it.
    Tcp(SocketAddr),
    /// For root alone.
    Unix(PathBuf),
}

/// It is neither.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no address: write IP:PORT, for example 127.0.0.1:32767, or unix:/PATH")]
pub struct BadAddress(String);

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.to_owned());
        match text.strip_prefix("unix:") {
            Some(path) if Path::new(path).is_absolute() => Ok(Self::Unix(path.into())),
            Some(_) => Err(bad()),
            None => text.parse().map(Self::Tcp).map_err(|_| bad()),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = BadAddress;

    fn try_from(text: String) -> Result<Self, BadAddress> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_of_two_kinds() {
        for good in ["127.0.0.1:32767", "[::1]:1", "unix:/run/nri-enforcer/feed.sock"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in ["", "32767", ":32767", "localhost:1", "unix:feed", "unix:", "/run/x", "1.2.3.4:70000"] {
            assert!(bad.parse::<Address>().unwrap_err().to_string().contains("write IP:PORT"), "{bad}");
        }
    }
}
