//! Where lines go: stdout, or a file, which is begun anew before it gets too long.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How long a file may get, unless told otherwise: 100 MiB.
pub const DEFAULT_MAX_BYTES: u64 = 100 << 20;
/// How many old files are kept, unless told otherwise.
pub const DEFAULT_KEEP: u32 = 4;

/// When a file is begun anew, and what becomes of old ones: `FILE` is renamed to `FILE.1`, that to `FILE.2`, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// The length in bytes past which nothing more is written to a file, but for lines that are longer by themselves; 0: no
    /// limit.
    pub max_bytes: u64,
    /// How many old files are kept. 0: none; the file is emptied.
    pub keep: u32,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { max_bytes: DEFAULT_MAX_BYTES, keep: DEFAULT_KEEP }
    }
}

/// Where lines go.
#[derive(Debug)]
pub(super) enum Sink {
    Stdout,
    File(Growing),
}

/// A file, as long as it is known to be.
#[derive(Debug)]
pub(super) struct Growing {
    path: PathBuf,
    file: File,
    len: u64,
    rotation: Rotation,
    failed: bool, // it could not be begun anew, and that was said
}

impl Sink {
    pub(super) fn open(path: Option<PathBuf>, rotation: Rotation) -> std::io::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let (file, len) = append(&path)?;
        // what is put aside is the file, and not a link to it; what has no path of its own is no file, and grows
        let path = path.canonicalize().unwrap_or(path);
        Ok(Self::File(Growing { path, file, len, rotation, failed: false }))
    }

    /// Opens the file again: it may have been moved away.
    pub(super) fn reopen(&mut self) -> std::io::Result<()> {
        if let Self::File(growing) = self {
            (growing.file, growing.len) = append(&growing.path)?;
        }
        Ok(())
    }

    /// Sees that there is room for so many bytes; whether the file was begun anew. Where that cannot be done, it grows on:
    /// alerts that are lost are worse than a disk that fills.
    pub(super) fn make_room(&mut self, bytes: usize) -> bool {
        let Self::File(growing) = self else { return false };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let Rotation { max_bytes, .. } = growing.rotation;
        if max_bytes == 0 || growing.len == 0 || growing.len.saturating_add(bytes) <= max_bytes {
            return false;
        }
        match growing.begin_anew() {
            Ok(anew) => {
                growing.failed = false;
                anew
            }
            Err(error) => {
                if !std::mem::replace(&mut growing.failed, true) {
                    let file = growing.path.display();
                    tracing::error!(%error, %file, "cannot put the file aside to begin a new one; it grows on");
                }
                false
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::File(growing) => {
                let written = growing.file.write_all(bytes);
                // of a write that failed some may be there
                growing.len = match written {
                    Ok(()) => growing.len.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
                    Err(_) => growing.file.metadata().map_or(growing.len, |meta| meta.len()),
                };
                written
            }
        }
    }
}

impl Growing {
    /// Puts the file aside and opens a new one. At any moment each line that was written is in one of the files, but those of
    /// the oldest, which goes.
    fn begin_anew(&mut self) -> std::io::Result<bool> {
        let ours = self.file.metadata()?;
        if !ours.is_file() {
            return Ok(false); // a device, or a pipe
        }
        // somebody may have moved the file away and not told yet; or it was put aside, and no new one could be opened
        let there = match std::fs::symlink_metadata(&self.path) {
            Ok(there) => there.dev() == ours.dev() && there.ino() == ours.ino(),
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if there && self.rotation.keep == 0 {
            self.file.set_len(0)?;
            self.len = 0;
            return Ok(true);
        }
        if there {
            for number in (1..self.rotation.keep).rev() {
                moved(&self.numbered(number), &self.numbered(number.saturating_add(1)))?;
            }
            moved(&self.path, &self.numbered(1))?;
        }
        (self.file, self.len) = append(&self.path)?;
        Ok(true)
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// Renames, where there is something.
fn moved(from: &Path, to: &Path) -> std::io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The file, to be appended to, and how long it is.
fn append(path: &Path) -> std::io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let len = file.metadata()?.len();
    Ok((file, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(path: &Path, max_bytes: u64, keep: u32) -> Sink {
        Sink::open(Some(path.to_path_buf()), Rotation { max_bytes, keep }).unwrap()
    }

    fn write(sink: &mut Sink, line: &str) -> bool {
        let anew = sink.make_room(line.len());
        sink.write(line.as_bytes()).unwrap();
        anew
    }

    fn texts(dir: &Path) -> Vec<(String, String)> {
        let all = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let text = |path: PathBuf| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(path).unwrap())
        };
        let mut all: Vec<_> = all.map(text).collect();
        all.sort();
        all
    }

    fn wanted(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn a_file_over_a_link_is_bounded_too() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::fs::create_dir(dir.path().join("logs")).unwrap();
        std::os::unix::fs::symlink("logs/a", &link).unwrap();
        let mut sink = sink(&link, 4, 1);
        for line in ["1\n", "2\n", "3\n"] {
            write(&mut sink, line);
        }
        assert_eq!(texts(&dir.path().join("logs")), wanted(&[("a", "3\n"), ("a.1", "1\n2\n")]));
    }

    #[test]
    fn a_file_is_begun_anew_before_it_is_too_long_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "old\n").unwrap();
        let mut sink = sink(&path, 8, 2);
        for (line, anew) in
            [("1\n", false), ("2\n", false), ("3\n", true), ("long line\n", true), ("5\n", true)]
        {
            assert_eq!(write(&mut sink, line), anew, "{line}");
        }
        assert_eq!(texts(dir.path()), wanted(&[("a", "5\n"), ("a.1", "long line\n"), ("a.2", "3\n")]));
    }

    #[test]
    fn without_old_files_it_is_emptied_and_without_a_limit_it_grows() {
        let dir = tempfile::tempdir().unwrap();
        let mut emptied = sink(&dir.path().join("a"), 3, 0);
        let mut grows = sink(&dir.path().join("b"), 0, 4);
        for line in ["1\n", "2\n"] {
            write(&mut emptied, line);
            assert!(!write(&mut grows, line));
        }
        assert_eq!(texts(dir.path()), wanted(&[("a", "2\n"), ("b", "1\n2\n")]));
    }

    /// `logrotate` moves the file and sends SIGHUP; both may be at work.
    #[test]
    fn a_file_that_somebody_else_moved_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut sink = sink(&path, 5, 4);
        write(&mut sink, "1\n");
        std::fs::rename(&path, dir.path().join("a.1")).unwrap();
        write(&mut sink, "2\n");
        assert!(write(&mut sink, "3\n"), "not told yet");
        std::fs::rename(&path, dir.path().join("b")).unwrap();
        std::fs::write(&path, "another's\n").unwrap();
        write(&mut sink, "4\n");
        assert!(write(&mut sink, "5\n"), "what is there is not ours to put aside");
        sink.reopen().unwrap();
        assert!(write(&mut sink, "6\n"), "its length is known after it was opened again");
        let all = [("a", "6\n"), ("a.1", "another's\n5\n"), ("a.2", "1\n2\n"), ("b", "3\n4\n")];
        assert_eq!(texts(dir.path()), wanted(&all));
    }

    #[test]
    fn where_it_cannot_be_put_aside_it_grows_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut sink = sink(&path, 3, 1);
        std::fs::create_dir_all(dir.path().join("a.1/full")).unwrap();
        assert!(!write(&mut sink, "1\n") && !write(&mut sink, "2\n"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n");
        std::fs::remove_dir_all(dir.path().join("a.1")).unwrap();
        assert!(write(&mut sink, "3\n"), "tried each time");
        // what is no file has no length
        let mut full = Sink::open(Some("/dev/null".into()), Rotation { max_bytes: 1, keep: 1 }).unwrap();
        assert!(!write(&mut full, "1\n") && !write(&mut full, "2\n"));
    }
}
