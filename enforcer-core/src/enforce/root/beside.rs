//! Many paths at once: those that stand beside one another have their directory looked up once.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, ResolveFlags, openat2};
use rustix::io::Errno;

use super::{HANDLE, MAX_LOOK_UPS, Root, Walk};
use crate::links::{OtherName, Resolution};
use crate::path::AbsPath;

impl Root {
    /// Where each of the paths leads, in their order; the same as [`resolve`](Self::resolve) says about each. Where
    /// neighbours stand in one directory it takes a system call for each, or none where that is not there.
    pub fn resolve_all<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p AbsPath>,
    ) -> impl Iterator<Item = Resolution> {
        let mut last: Option<(&[u8], Directory<'_>)> = None;
        paths.into_iter().map(move |path| {
            let Some((above, name)) = split(path) else { return self.resolve(path) };
            if last.as_ref().is_none_or(|(of, _)| *of != above) {
                last = Some((above, self.directory(above)));
            }
            match &last {
                Some((_, directory)) if !self.late() => self.resolve_in(directory, path, name),
                _ => self.resolve(path),
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
                    Some(Ok(Some((walk, _)))) if walk.look_ups < MAX_LOOK_UPS => Directory::Linked(walk),
                    _ => Directory::Unknown,
                }
            }
        }
    }

    fn resolve_in(&self, directory: &Directory<'_>, path: &AbsPath, name: &[u8]) -> Resolution {
        match directory {
            Directory::Absent => Resolution::default(),
            Directory::Plain(fd) if is_no_link(fd.as_fd(), name) => Resolution::default(),
            Directory::Linked(walk) if walk.end().is_none_or(|end| is_no_link(end, name)) => {
                match walk.path_of(name) {
                    Some(target) if target != *path => {
                        let (place, via) = (target.clone(), walk.via.clone());
                        Resolution { names: vec![OtherName { place, target, via }], unknown: None }
                    }
                    _ => Resolution::default(),
                }
            }
            Directory::Plain(_) | Directory::Linked(_) | Directory::Unknown => self.resolve(path),
        }
    }
}

/// What a directory's path leads to.
#[derive(Debug)]
enum Directory<'r> {
    /// No link is on the way.
    Plain(OwnedFd),
    /// It is not there, and no link is on as much of the way as there is.
    Absent,
    /// Links are on the way.
    Linked(Walk<'r>),
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

/// Whether a name is there and no link, or not there.
fn is_no_link(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    matches!(
        openat2(directory, name, HANDLE, Mode::empty(), ResolveFlags::NO_SYMLINKS),
        Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG)
    )
}
