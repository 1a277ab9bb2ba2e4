//! Reads podman's state as it is kept since 4.8, unless `bolt_state.db` is there already: a file of SQLite.
//!
//! podman writes it in exclusive transactions with a rollback journal, and waits up to 100 s for others. A read takes a
//! shared lock for the moment of one query; where podman has the file, it waits no longer than [`BUSY`]. Of two queries
//! about one container no consistency is asked: what is read of it never changes.
//!
//! Tables: <https://github.com/containers/podman>, `libpod/sqlite_state_internal.go`.

use std::path::Path;
use std::time::Duration;

use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};

use super::{Kind, StateError};

/// How long podman may keep others from reading. The hook waits a second for all that is done.
const BUSY: Duration = Duration::from_millis(500);
/// Bytes of a container's configuration at most; podman itself writes some 12 KiB.
const MAX_ROW: i32 = 16 << 20;

/// The file, open for reading.
#[derive(Debug)]
pub struct Sqlite(Connection);

impl Sqlite {
    /// Opens it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let fail = |why: String| StateError { path: path.to_owned(), why };
        // one that never ends would be waited for
        let metadata = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
        if !metadata.is_file() {
            return Err(fail("not a regular file".into()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(BUSY)?;
            connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_ROW)?;
            // nothing that a table's definition says is run
            connection.pragma_update(None, "trusted_schema", false)?;
            Ok(Self(connection))
        };
        open().map_err(|error| fail(why(&error)))
    }

    /// What podman says of a container, or a pod, as JSON; `None`: there is none of this id.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or podman has it for too long.
    pub fn get(&self, kind: Kind, id: &str) -> Result<Option<Vec<u8>>, StateError> {
        let query = match kind {
            Kind::Container => "SELECT JSON FROM ContainerConfig WHERE ID = ?1",
            Kind::Pod => "SELECT JSON FROM PodConfig WHERE ID = ?1",
        };
        // podman writes it as a blob, and may come to write text
        let json = |row: &rusqlite::Row<'_>| Ok(row.get_ref(0)?.as_bytes().map(<[u8]>::to_vec)?);
        let found = self.0.query_row(query, [id], json).optional();
        found.map_err(|error| StateError { path: self.0.path().unwrap_or_default().into(), why: why(&error) })
    }
}

fn why(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("podman has been changing it for more than {} ms", BUSY.as_millis())
        }
        Some(ErrorCode::TooBig) => format!("a configuration has more than {MAX_ROW} bytes"),
        // with a journal that is hot, which only who may write can play back
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
            format!("podman's last change was cut off, which its next one repairs: {error}")
        }
        _ => error.to_string(),
    }
}
