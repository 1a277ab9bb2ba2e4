//! The record: which paths have labels of ours, and the user that each had before.
//!
//! Text of our own, written whole to a file beside it and renamed: a first line with the boot, and then a line for each path
//! with its user, device, inode, and bytes in hexadecimal digits, or `-` for a file that is not where it was. A file that does
//! not end as it should is told, never guessed at.
//!
//! By its inode a file is known that was moved. Numbers of devices mean something until the next boot, so what an earlier
//! boot noted counts by its path alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::error::{SelinuxError, failed};
use super::file::{Identity, is_user};

pub(super) const NAME: &str = "labels";
const FIRST: &str = "nri-enforcer labels 2 ";
const LAST: &str = "end";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// The user of files that were found with a label of ours, and without a note of what they had before.
const USUAL_USER: &str = "system_u";
/// Files that are not where they were, at most; of more some are forgotten. Most of them are deleted.
const MAX_MOVED: usize = 10_000;

/// What a file had before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) user: String,
    /// Which file it is; `None`: noted before this boot.
    pub(super) identity: Option<Identity>,
}

/// What is noted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) users: BTreeMap<Vec<u8>, Note>,
    /// Files that are not where they were.
    moved: BTreeMap<Identity, String>,
}

impl Record {
    /// What is in the directory; nothing where there is no record.
    pub(super) fn read(dir: &Path) -> Result<Self, SelinuxError> {
        let path = dir.join(NAME);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Err(SelinuxError::Damaged(path));
            }
            text => text.map_err(failed(format!("read `{}`", path.display())))?,
        };
        parse(&text, &boot()).ok_or(SelinuxError::Damaged(path))
    }

    /// Writes it, and waits until it is on disk.
    pub(super) fn write(&self, dir: &Path) -> Result<(), SelinuxError> {
        make_dir(dir)?;
        replace(&dir.join(NAME), self.text(&boot()).as_bytes())
    }

    fn text(&self, boot: &str) -> String {
        let mut text = format!("{FIRST}{boot}\n");
        for (identity, user) in &self.moved {
            text.push_str(&line(user, Some(*identity)));
            text.push_str("-\n");
        }
        for (path, Note { user, identity }) in &self.users {
            text.push_str(&line(user, *identity));
            path.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
            text.push('\n');
        }
        text.push_str(LAST);
        text.push('\n');
        text
    }

    /// Notes that a file is at this path: with the `user` that it has, or, where that is one of ours already, what it had
    /// before by what is `known` of it, or of its path.
    pub(super) fn note(
        &mut self,
        path: &[u8],
        identity: Identity,
        user: Option<String>,
        known: &BTreeMap<Identity, String>,
    ) {
        let before = self.users.remove(path);
        let usual = || before.as_ref().map_or_else(|| USUAL_USER.to_owned(), |before| before.user.clone());
        let user = user.or_else(|| known.get(&identity).cloned()).unwrap_or_else(usual);
        self.find(identity);
        self.users.insert(path.to_vec(), Note { user, identity: Some(identity) });
        // another file was here
        if let Some(Note { user, identity: Some(other) }) = before
            && other != identity
        {
            self.lose(other, user);
        }
    }

    /// What each file had before, by which it is.
    pub(super) fn by_identity(&self) -> BTreeMap<Identity, String> {
        let noted = self.users.values().filter_map(|note| Some((note.identity?, note.user.clone())));
        self.moved.clone().into_iter().chain(noted).collect()
    }

    /// Files that are not where they were.
    pub(super) fn moved(&self) -> usize {
        self.moved.len()
    }

    /// Remembers what a file had that is not where it was.
    pub(super) fn lose(&mut self, identity: Identity, user: String) {
        self.moved.insert(identity, user);
        while self.moved.len() > MAX_MOVED {
            self.moved.pop_first();
        }
    }

    /// The file is somewhere again, or another one has its number.
    pub(super) fn find(&mut self, identity: Identity) {
        self.moved.remove(&identity);
    }
}

fn boot() -> String {
    fs::read_to_string(BOOT).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn line(user: &str, identity: Option<Identity>) -> String {
    let (device, inode) = identity.unwrap_or_default();
    format!("{user} {device} {inode} ")
}

/// `boot` is the one that runs; empty: not known, and so none that was noted.
fn parse(text: &str, boot: &str) -> Option<Record> {
    let mut lines = text.strip_suffix('\n')?.lines();
    let noted = lines.next()?.strip_prefix(FIRST)?;
    if lines.next_back()? != LAST {
        return None;
    }
    let same_boot = noted == boot && !boot.is_empty();
    let mut record = Record::default();
    for line in lines {
        let mut words = line.split(' ');
        let (user, device, inode, path) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let identity: Identity = (device.parse().ok()?, inode.parse().ok()?);
        // no file has the inode 0
        let identity = Some(identity).filter(|(_, inode)| same_boot && *inode != 0);
        if words.next().is_some() || !is_user(user) {
            return None;
        }
        if path == "-" {
            record.moved.extend(identity.map(|identity| (identity, user.to_owned())));
            continue;
        }
        let digits: Option<Vec<u32>> = path.chars().map(|digit| digit.to_digit(16)).collect();
        let bytes: Option<Vec<u8>> = digits?
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => u8::try_from(high * 16 + low).ok(),
                _ => None,
            })
            .collect();
        let path = bytes.filter(|path| path.first() == Some(&b'/'))?;
        record.users.insert(path, Note { user: user.to_owned(), identity });
    }
    Some(record)
}

/// Makes the directory, for root alone.
pub(super) fn make_dir(dir: &Path) -> Result<(), SelinuxError> {
    let make = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    make.map_err(failed(format!("make `{}`", dir.display())))
}

/// Puts a file in the place of another, or leaves that as it is.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), SelinuxError> {
    let new = path.with_extension("new");
    let write = || {
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(failed(format!("write `{}`", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let note = |user: &str, identity| Note { user: user.to_owned(), identity };
        let users =
            [(b"/a\n\xff b".to_vec(), note("system_u", Some((1, 2)))), (b"/".to_vec(), note("x_u", None))];
        let mut record = Record { users: users.into(), ..Record::default() };
        record.lose((3, 4), "y_u".to_owned());
        record
    }

    #[test]
    fn a_record_is_read_as_it_was_written_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Record::default());
        let record = record();
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), record);
        let text = fs::read(dir.path().join(NAME)).unwrap();
        for length in 0..text.len() {
            fs::write(dir.path().join(NAME), &text[..length]).unwrap();
            assert!(matches!(Record::read(dir.path()), Err(SelinuxError::Damaged(_))), "{length}");
        }
        for bad in [
            "u 1 1 6",
            "u 1 1 zz",
            "u 1 1 61",
            " 1 1 2f",
            "u",
            "u:r 1 1 2f",
            "u x 1 2f",
            "u 1 2f",
            "u 1 1 2f 2f",
        ] {
            assert_eq!(parse(&format!("{FIRST}b\n{bad}\n{LAST}\n"), "b"), None, "{bad}");
        }
    }

    #[test]
    fn after_a_boot_paths_count_alone() {
        let record = record();
        let text = record.text("one");
        assert_eq!(parse(&text, "one").unwrap(), record);
        for boot in ["two", ""] {
            let later = parse(&text, boot).unwrap();
            assert_eq!((later.moved(), later.by_identity().len()), (0, 0), "{boot}");
            assert!(later.users.keys().eq(record.users.keys()), "{boot}");
        }
    }

    #[test]
    fn a_file_that_is_moved_keeps_what_it_had() {
        let mut record = Record::default();
        let user = |record: &Record, path: &[u8]| record.users[path].user.clone();
        record.note(b"/a", (1, 1), Some("guest_u".to_owned()), &BTreeMap::new());
        // to another place of the rules
        let known = record.by_identity();
        record.note(b"/b", (1, 1), None, &known);
        assert_eq!(user(&record, b"/b"), "guest_u");
        // out of them, another file in its place, and back over that
        record.note(b"/b", (1, 2), Some("x_u".to_owned()), &record.by_identity());
        assert_eq!((user(&record, b"/b").as_str(), record.moved()), ("x_u", 1));
        record.note(b"/b", (1, 1), None, &record.by_identity());
        assert_eq!(user(&record, b"/b"), "guest_u");
        assert_eq!(record.moved.keys().collect::<Vec<_>>(), [&(1, 2)]);
        // a new file of the same number has a label that is none of ours
        record.note(b"/c", (1, 2), Some("y_u".to_owned()), &record.by_identity());
        assert_eq!((user(&record, b"/c").as_str(), record.moved()), ("y_u", 0));
        // one that is not known at all
        record.note(b"/d", (1, 9), None, &record.by_identity());
        assert_eq!(user(&record, b"/d"), USUAL_USER);
        (0..20_000).for_each(|inode| record.lose((2, inode), "x_u".to_owned()));
        assert_eq!(record.moved(), MAX_MOVED);
    }
}
