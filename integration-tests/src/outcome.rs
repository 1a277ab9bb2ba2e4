//! What becomes of a container when the daemon is not as it should be: the cells of the hook's tables.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;

use crate::node::Alert;

/// Of a container that does what the policy denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was denied.
    Protected,
    /// And recorded, as the hook did not know.
    ProtectedRecorded,
    /// It does not start.
    Refused,
    /// It was not denied.
    Unprotected {
        /// Whether the hook recorded it.
        recorded: bool,
    },
}

/// [`Outcome::Protected`]
pub const PROTECTED: Outcome = Outcome::Protected;
/// [`Outcome::ProtectedRecorded`]
pub const LATE: Outcome = Outcome::ProtectedRecorded;
/// [`Outcome::Refused`]
pub const REFUSED: Outcome = Outcome::Refused;
/// [`Outcome::Unprotected`], and recorded.
pub const RECORDED: Outcome = Outcome::Unprotected { recorded: true };
/// [`Outcome::Unprotected`], and not recorded.
pub const STARTS: Outcome = Outcome::Unprotected { recorded: false };

impl Outcome {
    /// The cell's text.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Protected => "starts under its policies",
            Self::ProtectedRecorded => "starts under its policies, recorded",
            Self::Refused => "**does not start**",
            Self::Unprotected { recorded: true } => "starts unprotected, recorded",
            Self::Unprotected { recorded: false } => "starts",
        }
    }
}

/// The containers of which the daemon has told that the hook let them through, by id: a daemon that dies a moment after it told of
/// one has the next one tell of it again.
#[must_use]
pub fn told(alerts: &[Alert]) -> BTreeSet<String> {
    let open = alerts.iter().filter(|alert| alert.get("Data").is_some_and(|data| data == "notice=open"));
    open.filter_map(|alert| Some(alert.get("ContainerID")?.as_str()?.to_owned())).collect()
}

/// The containers that the hook has recorded so far: those, and what is in its directory, where a record stays for some seconds
/// once it has been told.
///
/// # Errors
/// When the directory or a record cannot be read.
pub fn recorded(spool: &Path, alerts: &[Alert]) -> Result<BTreeSet<String>> {
    let mut ids = told(alerts);
    let entries = match fs::read_dir(spool) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(ids),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|end| end != "json") {
            continue; // being written
        }
        match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {} // told meanwhile
            record => {
                let record: serde_json::Value = serde_json::from_slice(&record?)?;
                ids.extend(record.get("id").and_then(|id| Some(id.as_str()?.to_owned())));
            }
        }
    }
    Ok(ids)
}
