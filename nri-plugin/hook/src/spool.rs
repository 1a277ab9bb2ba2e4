//! The record of containers that were let through: a directory of small files, written by the hook while the daemon may
//! be away, read and emptied by the daemon, again and again. What it has read it removes only when that has been handed on: a
//! daemon that dies between the two has it told twice.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::json::Object;
use crate::message::readable;

/// Records at most; one more stands for all others.
pub const MAX_RECORDS: usize = 256;
/// Bytes of a text in a record at most.
const MAX_TEXT_BYTES: usize = 2 << 10;
/// Bytes of a record at most.
const MAX_RECORD_BYTES: u64 = 64 << 10;
/// The record that stands for all those there is no room for: the last of them.
const MORE: &str = "more.json";
/// A file that is one byte longer for each of these, so that hooks that run at the same time need no lock to count.
const COUNT: &str = "more.count";
/// A count that is being removed.
const COUNTED: &str = ".more.counted";
const ENDING: &str = ".json";
/// Files that are looked at in one go at most.
const MAX_FILES: usize = 16 << 10;
/// A hook writes for seconds at most; what it has not renamed by then was left by one that was killed.
const ABANDONED: Duration = Duration::from_secs(60);

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
    /// How many there was no room to record by themselves, this one among them, which is the last; 0: it has a record of its own.
    pub more: u64,
}

/// What is in the directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// By the name that [`remove`] takes, oldest first.
    pub starts: Vec<(String, OpenStart)>,
    /// What could not be read, or not removed, in words.
    pub problems: Vec<String>,
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

    fn decode(bytes: &[u8], more: u64) -> Result<Self, String> {
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
    let is_record = |name: &str| name.ends_with(ENDING) && name != MORE;
    let entries = std::fs::read_dir(dir).map_err(fail)?.flatten();
    let records = entries.filter(|entry| is_record(&entry.file_name().to_string_lossy()));
    let has_room = records.take(MAX_RECORDS).count() < MAX_RECORDS;
    let unique = format!("{}-{}", start.time_millis, std::process::id());
    let name = if has_room { format!("{unique}{ENDING}") } else { MORE.to_owned() };
    let temporary = dir.join(format!(".{unique}"));
    let written = write_new(&temporary, &start.encode())
        .and_then(|()| if has_room { Ok(()) } else { lengthen(&dir.join(COUNT), 1) })
        .and_then(|()| std::fs::rename(&temporary, dir.join(name)));
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

/// Adds so many bytes; each such addition is whole, whoever else makes one.
fn lengthen(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(&vec![b'+'; usize::try_from(bytes).unwrap_or(usize::MAX).min(MAX_FILES)])
}

/// What is recorded. A directory that is not there has nothing. What cannot be read is removed, and so is what hooks left that were
/// killed while they wrote it.
///
/// # Errors
/// When the directory cannot be read, or others than root can write it.
pub fn read(dir: &Path) -> Result<Found, String> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::default()),
        other => other.map_err(|error| format!("cannot read `{}`: {error}", dir.display()))?,
    };
    check(dir)?;
    let mut found = Found::default();
    // a daemon was killed while it removed that: what it told may be told again
    let counted = dir.join(COUNTED);
    if let left @ 1.. = length(&counted) {
        let added = lengthen(&dir.join(COUNT), left).map_err(|error| error.to_string());
        found.problems.extend(added.and_then(|()| gone(&counted)).err());
    }
    for entry in entries.take(MAX_FILES).flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if !name.ends_with(ENDING) {
            if name != COUNT && name != COUNTED && is_abandoned(&path) {
                found.problems.extend(gone(&path).err());
            }
            continue;
        }
        let more = if name == MORE { length(&dir.join(COUNT)).max(1) } else { 0 };
        match content(&path).and_then(|bytes| OpenStart::decode(&bytes, more)) {
            Ok(start) => found.starts.push((name, start)),
            Err(problem) => {
                found.problems.push(format!("`{}`: {problem}", path.display()));
                found.problems.extend(gone(&path).err());
            }
        }
    }
    let uncounted = length(&dir.join(COUNT));
    if uncounted > 0 && !found.starts.iter().any(|(name, _)| name == MORE) {
        let reason = "the record of the last one is gone".to_owned();
        found.starts.push((MORE.to_owned(), OpenStart { reason, more: uncounted, ..OpenStart::default() }));
    }
    found.starts.sort_by_key(|(_, start)| (start.more, start.time_millis));
    Ok(found)
}

/// Removes what [`read`] has found. Of those that one record stands for, as many as were told: what came since stays.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(dir: &Path, name: &str, start: &OpenStart) -> Result<(), String> {
    if start.more == 0 {
        return gone(&dir.join(name));
    }
    let (count, counted) = (dir.join(COUNT), dir.join(COUNTED));
    let fail = |error: std::io::Error| format!("`{}`: {error}", count.display());
    match std::fs::rename(&count, &counted) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let left = length(&counted).saturating_sub(start.more);
    if left > 0 {
        lengthen(&count, left).map_err(fail)?;
    }
    gone(&counted)?;
    // a hook that counts itself just now puts its record there
    if length(&count) == 0 { gone(&dir.join(name)) } else { Ok(()) }
}

fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |about| about.len())
}

fn gone(path: &Path) -> Result<(), String> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("`{}` cannot be removed: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

fn is_abandoned(path: &Path) -> bool {
    let changed = path.symlink_metadata().and_then(|about| about.modified());
    changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age > ABANDONED))
}

fn content(path: &Path) -> Result<Vec<u8>, String> {
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

    /// As the daemon does: what is found, and then removed.
    fn take(dir: &Path) -> (Vec<OpenStart>, Vec<String>) {
        let Found { starts, problems } = read(dir).unwrap();
        starts.iter().for_each(|(name, start)| remove(dir, name, start).unwrap());
        (starts.into_iter().map(|(_, start)| start).collect(), problems)
    }

    #[test]
    fn what_is_recorded_is_there_until_it_is_removed() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("spool/open-starts");
        assert_eq!(take(&dir), (vec![], vec![]));
        record(&dir, &start(2)).unwrap();
        record(&dir, &start(1)).unwrap();
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(read(&dir), read(&dir));
        assert_eq!(take(&dir), (vec![start(1), start(2)], vec![]));
        assert_eq!(take(&dir), (vec![], vec![]));
    }

    #[test]
    fn there_are_only_so_many_and_one_that_counts_the_others() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("spool");
        (0..300).for_each(|time| record(&dir, &start(time)).unwrap());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), MAX_RECORDS + 2);
        let found = read(&dir).unwrap().starts;
        let (name, last) = found.last().unwrap();
        assert_eq!((found.len(), last.more, last.time_millis), (MAX_RECORDS + 1, 44, 299));
        // some more, before those are removed that were told
        (300..303).for_each(|time| record(&dir, &start(time)).unwrap());
        remove(&dir, name, last).unwrap();
        let (starts, problems) = take(&dir);
        let last = starts.last().unwrap();
        assert_eq!((starts.len(), last.more, last.time_millis), (MAX_RECORDS + 1, 3, 302), "{problems:?}");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn a_count_is_told_whoever_was_killed_over_it() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("spool");
        (0..260).for_each(|time| record(&dir, &start(time)).unwrap());
        // a daemon, between its steps
        std::fs::rename(dir.join(COUNT), dir.join(COUNTED)).unwrap();
        (260..263).for_each(|time| record(&dir, &start(time)).unwrap());
        assert_eq!(read(&dir).unwrap().starts.last().unwrap().1.more, 7);
        // a hook, between its own
        std::fs::remove_file(dir.join(MORE)).unwrap();
        let (starts, problems) = take(&dir);
        assert_eq!((starts.len(), starts.last().unwrap().more), (MAX_RECORDS + 1, 7), "{problems:?}");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn hooks_count_at_the_same_time() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("spool");
        (0..256).for_each(|time| record(&dir, &start(time)).unwrap());
        std::thread::scope(|scope| {
            for hook in 0..8_u64 {
                let dir = &dir;
                scope.spawn(move || {
                    (0..20).for_each(|time| record(dir, &start(1000 * (hook + 1) + time)).unwrap());
                });
            }
        });
        assert_eq!(take(&dir).0.last().unwrap().more, 160);
    }

    #[test]
    fn what_hooks_left_half_written_goes_and_takes_no_room() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("spool");
        record(&dir, &start(1)).unwrap();
        let old = SystemTime::now() - ABANDONED * 2;
        for number in 0..2 * MAX_RECORDS + 10 {
            let file = File::create(dir.join(format!(".{number}"))).unwrap();
            file.set_modified(old).unwrap();
        }
        std::fs::write(dir.join(".new"), "{").unwrap();
        record(&dir, &start(2)).unwrap();
        assert_eq!(take(&dir), (vec![start(1), start(2)], vec![]));
        let left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [".new"], "that may be being written");
    }

    #[test]
    fn a_directory_that_others_can_write_is_not_used() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("spool");
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(record(&dir, &start(1)).unwrap_err().contains("chmod 700"));
        assert!(read(&dir).unwrap_err().contains("chmod 700"));
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
        let (starts, problems) = take(&dir);
        assert_eq!((starts.len(), problems.len()), (1, 1));
        assert!(problems[0].contains("bad.json") && problems[0].contains("no JSON"), "{problems:?}");
        assert_eq!(take(&dir), (vec![], vec![]));
    }

    proptest! {
        #[test]
        fn no_record_makes_the_daemon_panic(bytes: Vec<u8>) {
            let _any = OpenStart::decode(&bytes, 0);
        }

        #[test]
        fn a_record_is_read_as_it_was_written(time_millis: u64, more: u64, texts in proptest::array::uniform5("[^\\p{Cc}]{0,40}")) {
            let [id, namespace, pod, container, reason] = texts;
            let start = OpenStart { time_millis, id, namespace, pod, container, reason, more };
            prop_assert_eq!(OpenStart::decode(start.encode().as_bytes(), more), Ok(start));
        }
    }
}
