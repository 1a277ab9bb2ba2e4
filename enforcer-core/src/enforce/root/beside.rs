//! Many paths at once: those that stand beside one another have their directory looked up once.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, ResolveFlags, Stat, openat2, statat};
use rustix::io::Errno;

use super::{HANDLE, MAX_LOOK_UPS, Root, Walk};
use crate::links::{OtherName, Resolution};
use crate::path::AbsPath;

/// What stands at the end of a path, if looking where it leads has shown that.
#[derive(Debug)]
pub(super) enum End {
    /// Nothing, or nothing that could be opened.
    Absent,
    /// This; it is no link.
    Stat(Box<Stat>),
    /// It has not shown.
    Unknown,
}

impl Root {
    /// Where each of the paths leads, in their order; the same as [`resolve`](Self::resolve) says about each. Where
    /// neighbours stand in one directory it takes a system call for each, or none where that is not there.
    pub fn resolve_all<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p AbsPath>,
    ) -> impl Iterator<Item = Resolution> {
        self.ends(paths).map(|(answer, _)| answer)
    }

    /// The same, and what stands there.
    pub(super) fn ends<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p AbsPath>,
    ) -> impl Iterator<Item = (Resolution, End)> {
        let mut last: Option<(&[u8], Directory<'_>)> = None;
        paths.into_iter().map(move |path| {
            let Some((above, name)) = split(path) else { return (self.resolve(path), End::Unknown) };
            if last.as_ref().is_none_or(|(of, _)| *of != above) {
                last = Some((above, self.directory(above)));
            }
            match &last {
                Some((_, directory)) if !self.late() => self.resolve_in(directory, path, name),
                _ => (self.resolve(path), End::Unknown),
            }
        })
    }

    fn directory(&self, above: &[u8]) -> Directory<'_> {
        let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let relative = above.strip_prefix(b"/").unwrap_or(above);
        match openat2(&self.fd, relative, HANDLE, Mode::empty(), flags) {
            Ok(fd) => Directory::Plain(fd),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Directory::Absent,
            Err(_) => {
                let walk = AbsPath::new(above).ok().map(|above| self.walk_to_end(&above));
                match walk {
                    // a step is left for the name
                    Some(Ok(Some((mut walk, _)))) if walk.look_ups < MAX_LOOK_UPS => {
                        let via = std::mem::take(&mut walk.via).into();
                        Directory::Linked(walk, via)
                    }
                    _ => Directory::Unknown,
                }
            }
        }
    }

    fn resolve_in(&self, directory: &Directory<'_>, path: &AbsPath, name: &[u8]) -> (Resolution, End) {
        let end = match directory {
            Directory::Absent => End::Absent,
            Directory::Plain(fd) => end(fd.as_fd(), name),
            Directory::Linked(walk, _) => walk.end().map_or(End::Absent, |fd| end(fd, name)),
            Directory::Unknown => End::Unknown,
        };
        let answer = match (directory, &end) {
            (_, End::Unknown) => self.resolve(path),
            (Directory::Linked(walk, via), _) => match walk.path_of(name) {
                Some(target) if target != *path => {
                    let (place, via) = (target.clone(), Arc::clone(via));
                    Resolution { names: vec![OtherName { place, target, via }], unknown: None }
                }
                _ => Resolution::default(),
            },
            _ => Resolution::default(),
        };
        (answer, end)
    }
}

/// What a directory's path leads to.
#[derive(Debug)]
enum Directory<'r> {
    /// No link is on the way.
    Plain(OwnedFd),
    /// It is not there, and no link is on as much of the way as there is.
    Absent,
    /// Links are on the way, these.
    Linked(Walk<'r>, Arc<[AbsPath]>),
    /// Each path is to be asked about on its own.
    Unknown,
}

/// A path's directory and its last component; `None` in the root, where nothing is gained.
fn split(path: &AbsPath) -> Option<(&[u8], &[u8])> {
    let bytes = path.as_bytes();
    let at = bytes.iter().rposition(|byte| *byte == b'/').filter(|at| *at > 0)?;
    let (above, name) = bytes.split_at(at);
    Some((above, name.strip_prefix(b"/")?))
}

/// What a name is, unless it is a link.
fn end(directory: BorrowedFd<'_>, name: &[u8]) -> End {
    match statat(directory, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink => End::Stat(Box::new(stat)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => End::Absent,
        Ok(_) | Err(_) => End::Unknown,
    }
}
