//! Lines of a file that grows, and is replaced or cut when it is rotated; or of the daemon.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest line, in bytes; an alert has a few thousand. What is longer is passed over.
const MAX_LINE: usize = 1 << 20;
/// How often a file that is followed is looked at.
const PAUSE: Duration = Duration::from_millis(200);

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// All of it, without its end.
    Whole(&'a [u8]),
    /// One longer than [`MAX_LINE`].
    TooLong,
}

/// Reads lines.
pub(super) struct Lines {
    from: Source,
    /// What was read and not given out: from `start` on.
    buffer: Vec<u8>,
    start: usize,
    /// Whether the rest of a line is passed over.
    too_long: bool,
    ended: bool,
}

enum Source {
    Stdin,
    /// `left`: how many lines are still to come; `None`: any number, until the daemon ends.
    Daemon {
        lines: BufReader<UnixStream>,
        left: Option<usize>,
    },
    File {
        path: PathBuf,
        file: File,
        follow: bool,
        replaced: bool,
    },
}

impl Lines {
    /// Opens the file; `-` is stdin, which is read to its end in any case.
    pub(super) fn open(path: &Path, follow: bool) -> io::Result<Self> {
        let from = match path.as_os_str() == "-" {
            true => Source::Stdin,
            false => Source::File { path: path.to_owned(), file: open(path)?, follow, replaced: false },
        };
        Ok(Self::from(from))
    }

    /// So many that the daemon tells; `None`: any number. That it ends before is an error: there are more than it has told.
    pub(super) fn of_daemon(lines: BufReader<UnixStream>, count: Option<usize>) -> Self {
        Self::from(Source::Daemon { lines, left: count })
    }

    const fn from(from: Source) -> Self {
        Self { from, buffer: Vec::new(), start: 0, too_long: false, ended: false }
    }

    /// The next line; `None` at the end, which a file that is followed has not. The last line may lack its end.
    pub(super) fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        let (end, next) = loop {
            let rest = self.buffer.get(self.start..).unwrap_or_default();
            match rest.iter().position(|byte| *byte == b'\n') {
                Some(length) => break (self.start + length, self.start + length + 1),
                None if self.ended && rest.is_empty() && !self.too_long => return Ok(None),
                None if self.ended => break (self.buffer.len(), self.buffer.len()),
                None => {}
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            if self.buffer.len() > MAX_LINE {
                self.buffer.clear();
                self.too_long = true;
            }
            self.more()?;
        };
        let line = self.start..end;
        self.start = next;
        if std::mem::take(&mut self.too_long) || line.len() > MAX_LINE {
            return Ok(Some(Line::TooLong));
        }
        Ok(Some(Line::Whole(self.buffer.get(line).unwrap_or_default())))
    }

    /// Reads on, or finds that this is the end. Waits while a file that is followed has nothing new.
    fn more(&mut self) -> io::Result<()> {
        let mut piece = vec![0; 1 << 16];
        loop {
            let read = match &mut self.from {
                Source::Stdin => io::stdin().read(&mut piece),
                Source::Daemon { lines, .. } => match lines.read(&mut piece) {
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(0),
                    read => read,
                },
                Source::File { file, .. } => file.read(&mut piece),
            };
            match read {
                Ok(0) => {}
                Ok(length) => {
                    let new = piece.get(..length).unwrap_or_default();
                    if let Source::Daemon { left: Some(left), .. } = &mut self.from {
                        *left = left.saturating_sub(new.iter().filter(|byte| **byte == b'\n').count());
                    }
                    self.buffer.extend(new);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            match &mut self.from {
                Source::File { path, file, follow: true, replaced } => {
                    if *replaced {
                        // nothing came in a whole pause: whoever wrote it has the new one
                        if let Ok(new) = open(path) {
                            (*file, *replaced) = (new, false);
                            self.end_line();
                            return Ok(());
                        }
                    } else if is_replaced(path, file)? {
                        *replaced = true;
                    } else if file.metadata()?.len() < file.stream_position()? {
                        file.seek(SeekFrom::Start(0))?;
                        self.end_line();
                        return Ok(());
                    }
                    std::thread::sleep(PAUSE);
                }
                Source::Daemon { left: None, .. } => return Err(ended("it has ended".to_owned())),
                Source::Daemon { left: Some(left @ 1..), .. } => {
                    return Err(ended(format!("it has ended, and has not told {left} of its alerts")));
                }
                Source::Stdin | Source::Daemon { .. } | Source::File { .. } => {
                    self.ended = true;
                    return Ok(());
                }
            }
        }
    }

    /// What was cut off in the middle ends here, and does not run on into another file.
    fn end_line(&mut self) {
        if !self.buffer.is_empty() || self.too_long {
            self.buffer.push(b'\n');
        }
    }
}

fn ended(why: String) -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, why)
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    match file.metadata()?.is_dir() {
        true => Err(ErrorKind::IsADirectory.into()),
        false => Ok(file),
    }
}

/// Whether another file is at the path. While there is none, its successor is waited for.
fn is_replaced(path: &Path, file: &File) -> io::Result<bool> {
    let known = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(now) => Ok((now.dev(), now.ino()) != (known.dev(), known.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn text(lines: &mut Lines) -> String {
        match lines.next_line().unwrap() {
            Some(Line::Whole(text)) => String::from_utf8(text.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_that_is_replaced_or_cut_is_followed_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts");
        let mut old = File::create(&path).unwrap();
        old.write_all(b"one\ntwo\n").unwrap();
        let mut lines = Lines::open(&path, true).unwrap();
        assert_eq!((text(&mut lines), text(&mut lines)), ("one".into(), "two".into()));
        // logrotate renames, and the daemon still writes to what it has open
        std::fs::rename(&path, dir.path().join("alerts.1")).unwrap();
        std::fs::write(&path, "four\nfi").unwrap();
        old.write_all(b"three\ncut").unwrap();
        assert_eq!(text(&mut lines), "three");
        assert_eq!(text(&mut lines), "cut", "it does not run on into the new file");
        assert_eq!(text(&mut lines), "four");
        File::options().append(true).open(&path).unwrap().write_all(b"ve\n").unwrap();
        assert_eq!(text(&mut lines), "five");
        // copytruncate
        std::fs::write(&path, "six\n").unwrap();
        assert_eq!(text(&mut lines), "six");
    }

    #[test]
    fn a_daemon_that_ends_before_it_has_told_all_is_no_end_of_the_list() {
        let told = |count: Option<usize>, said: &str| {
            let (mut daemon, own) = UnixStream::pair().unwrap();
            daemon.write_all(said.as_bytes()).unwrap();
            drop(daemon);
            let mut lines = Lines::of_daemon(BufReader::new(own), count);
            let mut whole = 0;
            loop {
                match lines.next_line() {
                    Ok(Some(Line::Whole(_))) => whole += 1,
                    Ok(None) => return (whole, None),
                    Err(error) => return (whole, Some(error.to_string())),
                    other => panic!("{other:?}"),
                }
            }
        };
        assert_eq!(told(Some(2), "a\nb\n"), (2, None));
        assert_eq!(told(Some(0), ""), (0, None));
        let lacks = |number: usize| Some(format!("it has ended, and has not told {number} of its alerts"));
        assert_eq!(told(Some(2), "a\n"), (1, lacks(1)));
        assert_eq!(told(Some(3), "a\nb"), (1, lacks(2)), "what is cut off is no alert");
        assert_eq!(told(Some(1), ""), (0, lacks(1)));
        assert_eq!(told(None, "a\n"), (1, Some("it has ended".to_owned())));
    }

    #[test]
    fn a_line_without_an_end_counts_and_one_too_long_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts");
        for long in [MAX_LINE + 1, 3 * MAX_LINE] {
            std::fs::write(&path, ["a\n", &"x".repeat(long), "\n\nb"].concat()).unwrap();
            let mut lines = Lines::open(&path, false).unwrap();
            assert_eq!(text(&mut lines), "a");
            assert_eq!(lines.next_line().unwrap(), Some(Line::TooLong));
            assert_eq!((text(&mut lines), text(&mut lines)), (String::new(), "b".into()));
            assert_eq!(lines.next_line().unwrap(), None);
            assert_eq!(lines.next_line().unwrap(), None);
        }
        std::fs::write(&path, "x".repeat(2 * MAX_LINE)).unwrap();
        let mut lines = Lines::open(&path, false).unwrap();
        assert_eq!(lines.next_line().unwrap(), Some(Line::TooLong));
        assert_eq!(lines.next_line().unwrap(), None);
        assert!(Lines::open(dir.path(), false).is_err());
    }
}
