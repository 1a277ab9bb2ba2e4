//! What the daemon tells the command. Paths are as in alerts ([`escape`]), so that every byte comes across.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::alert::escape;
use crate::observe::watches::{Access, Seen, Untold};

/// Something that was done, and by which executable; empty: not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    what: What,
    #[serde(default)]
    source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum What {
    Exec(String),
    Read(String),
    Write(String),
    Socket(u16, u16, u16),
    Capability(u32),
}

/// Something that was done, and is not known well enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unknown {
    /// `process`, `file`.
    pub class: String,
    /// As much as is known of it.
    pub path: String,
    /// What is missing.
    pub why: String,
}

/// A container that was watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watched {
    /// The runtime's id.
    pub id: String,
    /// The pod.
    pub pod: String,
    /// Its name.
    pub container: String,
    /// Labels of the pod.
    pub labels: BTreeMap<String, String>,
    /// Whether it ran before it was watched, so that its start was not seen.
    pub ran_before: bool,
    /// Policies that select it; what their Allow rules allow was not seen.
    pub policies: Vec<String>,
    /// Why not all of it was seen; empty: no reason is known.
    pub problem: String,
}

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The namespace.
    pub namespace: String,
    /// Each of the containers.
    pub containers: Vec<Watched>,
    /// What was done.
    pub done: Vec<Done>,
    /// What was done, and cannot be told.
    pub unknown: Vec<Unknown>,
    /// Accesses in all.
    pub events: u64,
    /// Accesses that were denied, which are not in `done`.
    pub denied: u64,
    /// Different accesses that the daemon had no room for.
    pub lost: u64,
    /// Events of any container that the kernel's ring buffer had no room for meanwhile; `None`: not known.
    pub dropped: Option<u64>,
}

impl Report {
    /// Takes what was collected.
    pub fn take(&mut self, seen: &Seen) {
        let done = seen.accesses.iter().map(|(access, source)| Done {
            what: match access {
                Access::Exec(path) => What::Exec(escape(path)),
                Access::Read(path) => What::Read(escape(path)),
                Access::Write(path) => What::Write(escape(path)),
                Access::Socket(family, kind, protocol) => What::Socket(*family, *kind, *protocol),
                Access::Capability(number) => What::Capability(*number),
            },
            source: escape(source),
        });
        self.done = done.collect();
        let unknown = |Untold { class, path, why }: &Untold| Unknown {
            class: (*class).to_owned(),
            path: escape(path),
            why: (*why).to_owned(),
        };
        self.unknown = seen.untold.iter().map(unknown).collect();
        (self.events, self.denied, self.lost) = (seen.events, seen.denied, seen.lost);
    }

    /// What was done, with the executable that acted.
    ///
    /// # Errors
    /// When it is not what a daemon writes.
    pub fn accesses(&self) -> Result<BTreeSet<(Access, Vec<u8>)>, String> {
        let access = |Done { what, source }: &Done| {
            let access = match what {
                What::Exec(path) => Access::Exec(unescape(path)?),
                What::Read(path) => Access::Read(unescape(path)?),
                What::Write(path) => Access::Write(unescape(path)?),
                What::Socket(family, kind, protocol) => Access::Socket(*family, *kind, *protocol),
                What::Capability(number) => Access::Capability(*number),
            };
            Some((access, unescape(source)?))
        };
        let wrong = || "the daemon's answer has a path that makes no sense".to_owned();
        self.done.iter().map(|done| access(done).ok_or_else(wrong)).collect()
    }
}

/// The bytes that [`escape`] writes so; `None` where it writes no such text.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('\\');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    while let Some(part) = parts.next() {
        if part.is_empty() {
            // a backslash of the path itself, and what comes after it
            bytes.push(b'\\');
            bytes.extend_from_slice(parts.next()?.as_bytes());
            continue;
        }
        let (digits, rest) = part.strip_prefix('x')?.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_path_comes_across(path in proptest::collection::vec(any::<u8>(), 0..64), source in "[\\\\x0-9a-f/ü]*") {
            prop_assert_eq!(unescape(&escape(&path)), Some(path.clone()));
            let mut seen = Seen::default();
            seen.accesses.insert((Access::Read(path), source.into_bytes()));
            let mut report = Report::default();
            report.take(&seen);
            let text = serde_json::to_string(&report).unwrap();
            let report: Report = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(report.accesses(), Ok(seen.accesses));
        }
    }

    #[test]
    fn what_escape_does_not_write_is_refused() {
        for text in ["\\", "a\\q", "\\x1", "\\xzz", "\\x"] {
            assert_eq!(unescape(text), None, "{text}");
        }
    }
}
