//! Which file stands under a name.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// A file or a link, whatever it is called. The inode number alone would not do: a file system may give it to the next file
/// as soon as the last name of this one is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FileId {
    inode: u64,
    /// When it was made: seconds since 1970, and nanoseconds. `None`: the file system does not tell.
    born: Option<(u64, u32)>,
}

impl FileId {
    /// Of the file that this is about.
    pub(super) fn of(about: &Metadata) -> Self {
        let born = about.created().ok().and_then(|born| born.duration_since(SystemTime::UNIX_EPOCH).ok());
        Self { inode: about.ino(), born: born.map(|born| (born.as_secs(), born.subsec_nanos())) }
    }

    /// Of what stands at the path, a link itself rather than where it leads; `None`: nothing does.
    pub(super) fn at(path: &Path) -> std::io::Result<Option<Self>> {
        match std::fs::symlink_metadata(path) {
            Ok(about) => Ok(Some(Self::of(&about))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
