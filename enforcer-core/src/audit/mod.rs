//! The kernel's audit records, as far as they are about what this library has put in force.
//!
//! AppArmor and SELinux tell what they deny by audit records alone, as text: who tried what, and under which profile or
//! label, but not by which rule. Whoever watches them asks [`decide`](crate::decide) about the same access.
//!
//! Names in a record are chosen by whoever is denied something. The kernel writes those of plain characters in quotes, and
//! all others in hexadecimal digits, so no name ends its quotes or becomes a field: a quoted value is what is before the
//! next quote, and nothing else is believed of it.
//!
//! ```
//! use enforcer_core::audit::{Denial, Object};
//! use enforcer_core::decide::Verdict;
//!
//! let text = r#"audit(1795852703.744:2): apparmor="DENIED" operation="open" class="file" profile="nri-enforcer.default.web"
//!     name="/etc/passwd" pid=18375 comm="cat" requested_mask="r" denied_mask="r" fsuid=0 ouid=0"#;
//! let denial = Denial::parse(text).expect("it is about a profile of ours").expect("it can be read");
//! assert_eq!(denial.verdict, Verdict::Block);
//! assert_eq!(denial.object, Object::Path(b"/etc/passwd".to_vec()));
//! ```

pub mod apparmor;
mod fields;
pub mod selinux;

use std::time::{Duration, SystemTime};

pub use self::fields::{Field, fields};
use crate::decide::Verdict;

/// The type of AppArmor's and SELinux's records (`AUDIT_AVC` of `linux/audit.h`).
pub const AVC: u16 = 1400;
/// The longest name of a task, in bytes, is 15; what is longer is not one.
const MAX_COMM: usize = 64;
/// The longest name of a capability, a family, an operation or the like.
const MAX_WORD: usize = 64;

/// Something that was denied, or reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// When, by the machine's clock.
    pub time: SystemTime,
    /// The number of the record; those of one machine count up, and those of all kinds together.
    pub serial: u64,
    /// Block where it was denied; Audit where it passed and was reported.
    pub verdict: Verdict,
    /// Who reports.
    pub by: By,
    /// What was done, in the reporter's own words.
    pub operation: String,
    /// What was denied or reported of it: letters of AppArmor, words of SELinux with spaces.
    pub permissions: String,
    /// What it was done to.
    pub object: Object,
    /// The process, in the initial pid namespace; 0: not told.
    pub pid: u32,
    /// The name of its task, which it chooses itself.
    pub comm: String,
    /// The user id by which it acts on files, in the initial user namespace; `None`: not told.
    pub uid: Option<u32>,
    /// The owner of the object, likewise.
    pub owner: Option<u32>,
    /// A field that makes no sense and was left out, so that the rule cannot be told; of AppArmor's records alone.
    pub doubt: Option<BadRecord>,
}

/// Who reports a denial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// AppArmor, by a profile of ours.
    AppArmor(apparmor::Confined),
    /// SELinux, by a label of ours on the object.
    Selinux(selinux::Labelled),
}

/// What something was done to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A file, by its path; a directory may end in `/`.
    Path(Vec<u8>),
    /// A file whose path is not told.
    File {
        /// The last part of its path; empty: not told.
        name: Vec<u8>,
        /// Its inode; `None` where there is none yet, or it is not told.
        inode: Option<u64>,
    },
    /// A capability, by its name without `cap_`.
    Capability(String),
    /// A socket.
    Socket {
        /// Its family, in lower case, without `af_`.
        family: String,
        /// Its type, in lower case, without `sock_`.
        kind: String,
        /// Its protocol.
        protocol: u16,
    },
    /// Another process, a mount, or the like, in words; empty where nothing is told.
    Other(String),
}

/// Why a record of ours cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an audit record whose `{0}` is missing or makes no sense")]
pub struct BadRecord(pub &'static str);

impl Denial {
    /// Reads a record as the kernel hands it to listeners: without its type. `None`: it is not about a profile or a label of
    /// ours, or tells of no access.
    #[must_use]
    pub fn parse(text: &str) -> Option<Result<Self, BadRecord>> {
        let (stamp, rest) = match text.strip_prefix("audit(").and_then(|text| text.split_once("):")) {
            Some((stamp, rest)) => (stamp, rest.trim_start()),
            None => return None,
        };
        let read = if rest.starts_with("apparmor=") {
            Ok(apparmor::read(rest)?)
        } else if rest.starts_with("avc:") {
            selinux::read(rest)?
        } else {
            return None;
        };
        Some(read.and_then(|denial| {
            let (time, serial) = stamp_of(stamp).ok_or(BadRecord("audit"))?;
            Ok(Self { time, serial, ..denial })
        }))
    }
}

/// The number of a record of any kind; `None`: it is no record.
#[must_use]
pub fn serial(text: &str) -> Option<u64> {
    let (stamp, _) = text.strip_prefix("audit(")?.split_once("):")?;
    stamp_of(stamp).map(|(_, serial)| serial)
}

/// `SECONDS.MILLISECONDS:SERIAL`
fn stamp_of(text: &str) -> Option<(SystemTime, u64)> {
    let (time, serial) = text.split_once(':')?;
    let (seconds, milliseconds) = time.split_once('.')?;
    let milliseconds: u64 = milliseconds.parse().ok().filter(|number| *number < 1000)?;
    let since =
        Duration::from_secs(seconds.parse().ok()?).checked_add(Duration::from_millis(milliseconds))?;
    Some((SystemTime::UNIX_EPOCH.checked_add(since)?, serial.parse().ok()?))
}

/// The fields of one record, each by its first appearance.
struct Fields<'t>(Vec<Field<'t>>);

impl<'t> Fields<'t> {
    fn of(text: &'t str) -> Self {
        Self(fields(text).collect())
    }

    fn get(&self, key: &str) -> Option<&Field<'t>> {
        self.0.iter().find(|field| field.key == key)
    }

    fn number<N: std::str::FromStr>(&self, key: &'static str) -> Result<Option<N>, BadRecord> {
        let Some(field) = self.get(key) else { return Ok(None) };
        field.value.parse().map(Some).map_err(|_| BadRecord(key))
    }

    /// A word of the kernel's own, such as `unknown(7)`.
    fn word(&self, key: &'static str) -> Result<Option<String>, BadRecord> {
        let Some(field) = self.get(key) else { return Ok(None) };
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-. ()".contains(&byte);
        let fits = field.value.len() <= MAX_WORD && field.value.bytes().all(is_word);
        if fits { Ok(Some(field.value.to_owned())) } else { Err(BadRecord(key)) }
    }

    fn comm(&self) -> Result<String, BadRecord> {
        let comm = self.get("comm").map(Field::bytes).unwrap_or_default();
        if comm.len() > MAX_COMM {
            return Err(BadRecord("comm"));
        }
        Ok(String::from_utf8_lossy(&comm).into_owned())
    }
}

#[cfg(test)]
mod tests;
