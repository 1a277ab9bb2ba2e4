//! The record of containers that were let through: a directory of small files, written by the hook while the daemon may
//! be away, read and emptied by the daemon, again and again.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::json::Object;
use crate::message::readable;

/// Records at most; one more says that there were more.
pub const MAX_RECORDS: usize = 256;
/// Bytes of a text in a record at most.
const MAX_TEXT_BYTES: usize = 2 << 10;
/// Bytes of a record at most.
const MAX_RECORD_BYTES: u64 = 64 << 10;
/// The record that stands for all those there is no room for.
const MORE: &str = "more.json";
const ENDING: &str = ".json";

/// A container that started though the daemon did not vouch for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenStart {
    /// Milliseconds since 1970.
    pub time_millis: u64,
    /// The runtime's id; empty: the runtime's state could not be read.
    pub id: String,
    /// Namespace, pod and name in it, by the annotations; empty: not told.
    pub namespace: String,
    /// See `namespace`.
    pub pod: String,
    /// See `namespace`.
    pub container: String,
    /// Why the daemon did not vouch for it.
    pub reason: String,
    /// More of them followed than there was room for; this is the last one.
    pub more: bool,
}

impl OpenStart {
    /// When it was.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.time_millis)).unwrap_or(UNIX_EPOCH)
    }

    fn encode(&self) -> String {
        let text = |text: &str| readable(text, MAX_TEXT_BYTES);
        json!({
            "timeMillis": self.time_millis,
            "id": text(&self.id),
            "namespace": text(&self.namespace),
            "pod": text(&self.pod),
            "container": text(&self.container),
            "reason": text(&self.reason),
        })
        .to_string()
    }

    fn decode(bytes: &[u8], more: bool) -> Result<Self, String> {
        let mut object = Object::parse(bytes)?;
        let mut text =
            |key: &str| object.text(key).map(|text| readable(&text.unwrap_or_default(), MAX_TEXT_BYTES));
        let (id, namespace, pod) = (text("id")?, text("namespace")?, text("pod")?);
        let (container, reason) = (text("container")?, text("reason")?);
        let time_millis = object.number("timeMillis")?.unwrap_or(0);
        Ok(Self { time_millis, id, namespace, pod, container, reason, more })
    }
}

/// Adds a record, whole or not at all.
///
/// # Errors
/// When it cannot be written, or the directory is not root's alone.
pub fn record(dir: &Path, start: &OpenStart) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("cannot record it in `{}`: {error}", dir.display());
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
    check(dir)?;
    let count = std::fs::read_dir(dir).map_err(fail)?.take(MAX_RECORDS).count();
    let unique = format!("{}-{}", start.time_millis, std::process::id());
    let name = if count < MAX_RECORDS { format!("{unique}{ENDING}") } else { MORE.to_owned() };
    let temporary = dir.join(format!(".{unique}"));
    let written =
        write_new(&temporary, &start.encode()).and_then(|()| std::fs::rename(&temporary, dir.join(name)));
    written.map_err(|error| {
        let _gone = std::fs::remove_file(&temporary);
        fail(error)
    })
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Takes all records out, oldest first, and what could not be read of them. A directory that is not there has none.
///
/// # Errors
/// When the directory cannot be read, or others than root can write it.
pub fn take(dir: &Path) -> Result<(Vec<OpenStart>, Vec<String>), String> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        other => other.map_err(|error| format!("cannot read `{}`: {error}", dir.display()))?,
    };
    check(dir)?;
    let (mut starts, mut problems) = (Vec::new(), Vec::new());
    // one for the record of what there was no room for, and as many that were being written
    for entry in entries.take(2 * MAX_RECORDS + 1) {
        let Ok(entry) = entry else { continue };
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if !name.ends_with(ENDING) {
            continue; // being written, or left by a hook that was killed at that
        }
        match read(&path).and_then(|bytes| OpenStart::decode(&bytes, name == MORE)) {
            Ok(start) => starts.push(start),
            Err(problem) => problems.push(format!("`{}`: {problem}", path.display())),
        }
        if let Err(error) = std::fs::remove_file(&path) {
            problems.push(format!("`{}` cannot be removed: {error}", path.display()));
        }
    }
    starts.sort_by_key(|start| (start.more, start.time_millis));
    Ok((starts, problems))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_RECORD_BYTES).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Whoever can write there can hide what was let through, or invent it.
fn check(dir: &Path) -> Result<(), String> {
    let about = std::fs::symlink_metadata(dir)
        .map_err(|error| format!("cannot examine `{}`: {error}", dir.display()))?;
    if about.is_dir() && about.uid() == 0 && about.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(format!("`{}` is not a directory of root's alone (chown root, chmod 700)", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn start(time_millis: u64) -> OpenStart {
        let (id, namespace, reason) = ("c1".into(), "shop".into(), "nobody listens".into());
        OpenStart { time_millis, id, namespace, reason, ..OpenStart::default() }
    }

    #[test]
    fn what_is_recorded_is_taken_once() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("spool/open-starts");
        assert_eq!(take(&dir), Ok((vec![], vec![])));
        record(&dir, &start(2)).unwrap();
        record(&dir, &start(1)).unwrap();
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(take(&dir), Ok((vec![start(1), start(2)], vec![])));
        assert_eq!(take(&dir), Ok((vec![], vec![])));
    }

    #[test]
    fn there_are_only_so_many_and_one_that_says_there_were_more() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("spool");
        for time in 0..300 {
            record(&dir, &start(time)).unwrap();
        }
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), MAX_RECORDS + 1);
        let (starts, _) = take(&dir).unwrap();
        assert_eq!(starts.iter().filter(|start| start.more).count(), 1);
        assert_eq!((starts.len(), starts.last().unwrap().time_millis), (MAX_RECORDS + 1, 299));
    }

    #[test]
    fn a_directory_that_others_can_write_is_not_used() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("spool");
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(record(&dir, &start(1)).unwrap_err().contains("chmod 700"));
        assert!(take(&dir).unwrap_err().contains("chmod 700"));
        std::fs::remove_dir(&dir).unwrap();
        std::os::unix::fs::symlink("/tmp", &dir).unwrap();
        assert!(record(&dir, &start(1)).is_err(), "a link");
    }

    #[test]
    fn what_cannot_be_read_is_told_and_removed() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("spool");
        record(&dir, &start(1)).unwrap();
        std::fs::write(dir.join("bad.json"), "{").unwrap();
        std::fs::write(dir.join(".half"), "{").unwrap();
        let (starts, problems) = take(&dir).unwrap();
        assert_eq!((starts.len(), problems.len()), (1, 1));
        assert!(problems[0].contains("bad.json") && problems[0].contains("no JSON"), "{problems:?}");
        assert_eq!(take(&dir), Ok((vec![], vec![])));
    }

    proptest! {
        #[test]
        fn no_record_makes_the_daemon_panic(bytes: Vec<u8>) {
            let _any = OpenStart::decode(&bytes, false);
        }

        #[test]
        fn a_record_is_read_as_it_was_written(time_millis: u64, texts in proptest::array::uniform5("[^\\p{Cc}]{0,40}")) {
            let [id, namespace, pod, container, reason] = texts;
            let start = OpenStart { time_millis, id, namespace, pod, container, reason, more: true };
            prop_assert_eq!(OpenStart::decode(start.encode().as_bytes(), true), Ok(start));
        }
    }
}
