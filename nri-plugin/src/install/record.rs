//! What was installed for a runtime, so that just that is undone. A file on the host, one for each runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::edit::Edit;
use super::plan::{FileError, Plan};
use super::root::Content;

/// Where the records are.
const DIR: &str = "/var/lib/nri-enforcer/installed";
/// The version of the format.
const VERSION: u32 = 1;

/// What was installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    version: u32,
    /// The hook.
    pub hook: PathBuf,
    /// Files that were made, and a digest of what was written into them.
    pub files: BTreeMap<PathBuf, String>,
    /// Edits of files that were there, the oldest first.
    pub edits: Vec<(PathBuf, Edit)>,
    /// Files that were made to be edited, with what they began with.
    pub created: BTreeMap<PathBuf, String>,
    /// Directories that were made, the upper ones first.
    pub directories: BTreeSet<PathBuf>,
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It makes no sense.
    #[error("`{}` is no record of what is installed: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What becomes of a file of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is as it should be, or will be.
    Done,
    /// Somebody else has written or changed it: it stays.
    Kept,
}

impl Record {
    /// Nothing yet, with this hook.
    #[must_use]
    pub fn new(hook: PathBuf) -> Self {
        Self { version: VERSION, hook, ..Self::default() }
    }

    /// Where the record of a runtime is.
    #[must_use]
    pub fn path(runtime: &str) -> PathBuf {
        Path::new(DIR).join(format!("{runtime}.json"))
    }

    /// What is installed for a runtime; `None`: nothing.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn load(plan: &Plan, runtime: &str) -> Result<Option<Self>, RecordError> {
        let path = Self::path(runtime);
        let Some(content) = plan.read(&path)? else { return Ok(None) };
        let bad = |why: String| RecordError::Format { path: path.clone(), why };
        let record: Self = serde_json::from_slice(&content.bytes).map_err(|error| bad(error.to_string()))?;
        match record.version {
            VERSION => Ok(Some(record)),
            other => Err(bad(format!("version {other}, not {VERSION}"))),
        }
    }

    /// Puts the record into the plan; `None`: nothing is installed any more.
    ///
    /// # Errors
    /// When the file there cannot be read.
    pub fn save(record: Option<&Self>, plan: &mut Plan, runtime: &str) -> Result<(), RecordError> {
        let path = Self::path(runtime);
        let json = |record| serde_json::to_string_pretty(record).map(|json| Content::new(json + "\n", 0o600));
        let content = record.map(json).transpose();
        let content =
            content.map_err(|error| RecordError::Format { path: path.clone(), why: error.to_string() })?;
        plan.set(&path, content)?;
        if record.is_some() {
            plan.lead(&path); // should the machine stop in between, it is known what was done
        }
        Ok(())
    }

    /// A file of ours, unless somebody else has written one there or changed ours.
    ///
    /// # Errors
    /// When the file there cannot be read.
    pub fn put(&mut self, plan: &mut Plan, path: &Path, content: Content) -> Result<Put, FileError> {
        let path = plan.resolve(path)?;
        match plan.read(&path)? {
            Some(is) if is.bytes == content.bytes => return Ok(Put::Done), // recorded, or not ours to remove
            Some(is) if self.files.get(&path) != Some(&digest(&is.bytes)) => return Ok(Put::Kept),
            _ => {}
        }
        self.files.insert(path.clone(), digest(&content.bytes));
        plan.set(&path, Some(content))?;
        Ok(Put::Done)
    }

    /// Removes a file of ours, unless somebody else has changed it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn remove(&mut self, plan: &mut Plan, path: &Path) -> Result<Put, FileError> {
        let Some(written) = self.files.get(path) else { return Ok(Put::Done) };
        match plan.read(path)? {
            Some(is) if digest(&is.bytes) != *written => return Ok(Put::Kept),
            _ => plan.set(path, None)?,
        }
        self.files.remove(path);
        Ok(Put::Done)
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
