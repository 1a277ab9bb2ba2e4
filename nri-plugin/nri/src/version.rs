//! Which NRI a runtime speaks.

use std::fmt;

/// A version of NRI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NriVersion {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
    /// Patch.
    pub patch: u32,
}

impl NriVersion {
    /// The version whose protocol this crate speaks, and which it announces.
    pub const OURS: Self = Self::new(0, 12, 2);

    /// A version by its numbers.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Reads the version in a text as people and packagers write it: `0.12.2`, `v0.8.0`, `2.1.9+unknown`,
    /// `1.7.24~ds1`, `1.34`, `1.30.0-dev`. What follows the numbers is ignored, a missing number is 0.
    /// `None`: it does not begin with a number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
        let mut parts = numbers.split('.').map(str::parse);
        Some(Self {
            major: parts.next()?.ok()?,
            minor: parts.next().and_then(Result::ok).unwrap_or(0),
            patch: parts.next().and_then(Result::ok).unwrap_or(0),
        })
    }

    /// The NRI version that a runtime without a statement of its own contains, by its name and version. Read off
    /// the module files of the runtimes' releases. Where releases of one series differ, the older NRI is taken.
    /// `None`: a runtime that is not known.
    #[must_use]
    pub fn of_runtime(name: &str, version: &str) -> Option<Self> {
        let version = Self::parse(version)?;
        let table = match name.trim().to_ascii_lowercase().as_str() {
            "containerd" => CONTAINERD,
            "cri-o" | "crio" => CRI_O,
            "docker" | "dockerd" | "moby" => DOCKER,
            _ => return None,
        };
        let (_, nri) = table.iter().take_while(|(since, _)| *since <= version).last()?;
        Some(*nri)
    }
}

impl fmt::Display for NriVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// First release of a runtime, in rising order, with the NRI it contains.
type Table = &'static [(NriVersion, NriVersion)];

const fn row(runtime: (u32, u32, u32), nri: (u32, u32, u32)) -> (NriVersion, NriVersion) {
    (NriVersion::new(runtime.0, runtime.1, runtime.2), NriVersion::new(nri.0, nri.1, nri.2))
}

const CONTAINERD: Table = &[
    row((1, 7, 0), (0, 3, 0)),
    row((1, 7, 7), (0, 4, 0)),
    row((1, 7, 14), (0, 6, 0)),
    row((1, 7, 16), (0, 6, 1)),
    row((1, 7, 26), (0, 8, 0)),
    row((2, 0, 0), (0, 8, 0)),
    row((2, 2, 0), (0, 10, 0)),
    row((2, 2, 1), (0, 11, 0)),
    row((2, 3, 0), (0, 12, 0)),
    row((2, 4, 0), (0, 12, 1)),
];

const CRI_O: Table = &[
    row((1, 26, 0), (0, 2, 0)),
    row((1, 30, 0), (0, 6, 0)),
    row((1, 31, 0), (0, 6, 1)),
    row((1, 32, 0), (0, 9, 0)),
    row((1, 34, 0), (0, 10, 0)),
    row((1, 35, 0), (0, 11, 0)),
];

const DOCKER: Table = &[row((29, 2, 0), (0, 11, 0)), row((29, 7, 0), (0, 12, 1))];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_packagers_write() {
        for (text, expected) in [
            ("2.1.9+unknown", Some((2, 1, 9))),
            ("v1.7.24", Some((1, 7, 24))),
            ("1.7.24~ds1", Some((1, 7, 24))),
            ("1.7.24-1~deb13u1", Some((1, 7, 24))),
            ("v2.4.0-beta.0", Some((2, 4, 0))),
            ("2.2", Some((2, 2, 0))),
            ("2", Some((2, 0, 0))),
            (" v0.12.2 \n", Some((0, 12, 2))),
            ("1.30.0-dev", Some((1, 30, 0))),
            ("0.12.2.7", Some((0, 12, 2))),
            ("1..3", Some((1, 0, 3))),
            ("", None),
            ("v", None),
            ("unknown", None),
            (".5", None),
            ("-1.2.3", None),
            ("99999999999999999999.1", None),
            ("é1.2", None),
        ] {
            let expected = expected.map(|(a, b, c)| NriVersion::new(a, b, c));
            assert_eq!(NriVersion::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn maps_runtimes_to_their_nri() {
        for (name, version, expected) in [
            ("containerd", "1.7.0", Some("0.3.0")),
            ("containerd", "v1.7.13", Some("0.4.0")),
            ("containerd", "1.7.15", Some("0.6.0")),
            ("containerd", "1.7.24~ds1", Some("0.6.1")),
            ("containerd", "1.7.26", Some("0.8.0")),
            ("containerd", "2.0.0", Some("0.8.0")),
            ("containerd", "2.1.9+unknown", Some("0.8.0")),
            ("containerd", "v2.2.0", Some("0.10.0")),
            ("containerd", "2.2.7", Some("0.11.0")),
            ("containerd", "2.3.1", Some("0.12.0")),
            ("containerd", "3.0.0", Some("0.12.1")),
            ("containerd", "1.6.20", None),
            ("containerd", "unknown", None),
            ("cri-o", "1.29.1", Some("0.2.0")),
            ("cri-o", "1.33.0", Some("0.9.0")),
            ("CRI-O", "1.34.0", Some("0.10.0")),
            ("cri-o", "1.36.2", Some("0.11.0")),
            ("docker", "29.2.0", Some("0.11.0")),
            ("docker", "28.5", None),
            ("something", "9.9.9", None),
        ] {
            let found = NriVersion::of_runtime(name, version).map(|v| v.to_string());
            assert_eq!(found.as_deref(), expected, "{name} {version}");
        }
    }

    #[test]
    fn tables_rise() {
        for table in [CONTAINERD, CRI_O, DOCKER] {
            assert!(table.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
        }
    }
}
