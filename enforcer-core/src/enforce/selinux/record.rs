//! The record: which paths have labels of ours, and the user that each had before.
//!
//! Text of our own, written whole to a file beside it and renamed: a first line, and then for each path its user and its
//! bytes in hexadecimal digits. A file that does not end as it should is told, never guessed at.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::error::{SelinuxError, failed};
use super::file::is_user;

pub(super) const NAME: &str = "labels";
const FIRST: &str = "nri-enforcer labels 1";
const LAST: &str = "end";

/// What is noted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) users: BTreeMap<Vec<u8>, String>,
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
        parse(&text).ok_or(SelinuxError::Damaged(path))
    }

    /// Writes it, and waits until it is on disk.
    pub(super) fn write(&self, dir: &Path) -> Result<(), SelinuxError> {
        make_dir(dir)?;
        let mut text = format!("{FIRST}\n");
        for (path, user) in &self.users {
            text.push_str(&format!("{user} "));
            path.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
            text.push('\n');
        }
        text.push_str(LAST);
        text.push('\n');
        replace(&dir.join(NAME), text.as_bytes())
    }
}

fn parse(text: &str) -> Option<Record> {
    let mut lines = text.strip_suffix('\n')?.lines();
    if lines.next()? != FIRST || lines.next_back()? != LAST {
        return None;
    }
    let users = lines.map(|line| {
        let (user, path) = line.split_once(' ')?;
        let digits: Option<Vec<u32>> = path.chars().map(|digit| digit.to_digit(16)).collect();
        let bytes: Option<Vec<u8>> = digits?
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => u8::try_from(high * 16 + low).ok(),
                _ => None,
            })
            .collect();
        let path = bytes.filter(|path| path.first() == Some(&b'/') && is_user(user))?;
        Some((path, user.to_owned()))
    });
    Some(Record { users: users.collect::<Option<_>>()? })
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

    #[test]
    fn a_record_is_read_as_it_was_written_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Record::default());
        let users = [(b"/a\n\xff b".to_vec(), "system_u".to_owned()), (b"/".to_vec(), "x_u".to_owned())];
        let record = Record { users: users.into() };
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), record);
        let text = fs::read(dir.path().join(NAME)).unwrap();
        for length in 0..text.len() {
            fs::write(dir.path().join(NAME), &text[..length]).unwrap();
            assert!(matches!(Record::read(dir.path()), Err(SelinuxError::Damaged(_))), "{length}");
        }
        for bad in ["u 6", "u zz", "u 61", " 2f", "u", "u:r 2f"] {
            assert_eq!(parse(&format!("{FIRST}\n{bad}\n{LAST}\n")), None, "{bad}");
        }
    }
}
