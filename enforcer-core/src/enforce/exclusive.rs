//! Directories that one process alone works with.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// Takes a directory for this process, as long as the file is open. `None`: another process has it, or another user made it.
///
/// # Errors
/// When there is no such directory, or it cannot be locked.
pub(super) fn take(dir: &Path) -> io::Result<Option<File>> {
    let file = File::open(dir)?;
    if file.metadata()?.uid() != rustix::process::geteuid().as_raw() {
        return Ok(None);
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
