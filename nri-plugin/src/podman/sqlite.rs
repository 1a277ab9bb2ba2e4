//! Reads podman's state as it is kept since 4.8, unless `bolt_state.db` is there already: a file of SQLite.
//!
//! podman writes it in exclusive transactions with a rollback journal, and waits up to 100 s for others. A read takes a
//! shared lock for the moment of one query; where podman has the file, all queries together wait no longer than [`BUSY`].
//! Of two queries about one container no consistency is asked: what is read of it never changes.
//!
//! A write-ahead log is refused. podman 4.5.0 and 4.5.1 began one, where `database_backend` was `sqlite`, which it was not by
//! itself before 4.8; none before or since does, up to 5.8, but none ends it either, and a file keeps it. Who only reads such
//! a file has to make others beside it (`-shm`, and `-wal`) where podman has not, which it has only while it runs; and a copy of the file and its
//! log is of two moments. <https://www.sqlite.org/wal.html>
//! <https://www.sqlite.org/fileformat2.html#file_format_version_numbers>
//!
//! Tables: <https://github.com/containers/podman>, `libpod/sqlite_state_internal.go`.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};

use super::{Kind, StateError};

/// How long podman may keep others from reading a file, from its opening on. The hook waits a second for all that is done.
const BUSY: Duration = Duration::from_millis(500);
/// Bytes of a container's configuration at most; podman itself writes some 12 KiB.
const MAX_ROW: i32 = 16 << 20;

/// Bytes of the header up to the versions that who writes and who reads must know.
const VERSIONS: usize = 20;
/// The version of a file with a write-ahead log.
const WAL: u8 = 2;

/// The file, open for reading.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    deadline: Instant,
}

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
        if has_wal(path).map_err(|error| fail(error.to_string()))? {
            return Err(fail(
                "it has a write-ahead log, which podman 4.5 began and nobody reads without changing files; while no podman runs: \
                 `sqlite3 FILE 'PRAGMA journal_mode = DELETE'`"
                    .into(),
            ));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_ROW)?;
            // nothing that a table's definition says is run
            connection.pragma_update(None, "trusted_schema", false)?;
            Ok(Self { connection, deadline: Instant::now() + BUSY })
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
            Kind::Run => "SELECT JSON FROM ContainerState WHERE ID = ?1",
        };
        // podman writes it as a blob, and may come to write text
        let json = |row: &rusqlite::Row<'_>| Ok(row.get_ref(0)?.as_bytes().map(<[u8]>::to_vec)?);
        let left = self.deadline.saturating_duration_since(Instant::now());
        let found = self.connection.busy_timeout(left);
        let found = found.and_then(|()| self.connection.query_row(query, [id], json).optional());
        let path = || self.connection.path().unwrap_or_default().into();
        found.map_err(|error| StateError { path: path(), why: why(&error) })
    }
}

/// Whether the file has a write-ahead log, by its header. One that is too short to have a header has none.
fn has_wal(path: &Path) -> std::io::Result<bool> {
    let mut header = [0; VERSIONS];
    match File::open(path)?.read_exact(&mut header) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
        read => read?,
    }
    let [.., to_write, to_read] = header;
    Ok(to_write == WAL || to_read == WAL)
}

fn why(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("podman has been changing it for more than {} ms", BUSY.as_millis())
        }
        Some(ErrorCode::TooBig) => format!("a configuration has more than {MAX_ROW} bytes"),
        // with a journal that is hot, which only who may write can play back
        Some(ErrorCode::ReadOnly) => {
            format!("podman's last change was cut off, which its next one repairs: {error}")
        }
        _ => error.to_string(),
    }
}
