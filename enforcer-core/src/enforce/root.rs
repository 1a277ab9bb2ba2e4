//! A container's root directory, in which the paths of its policies are looked up.
//!
//! The container owns what is looked at, so nothing is believed: every component is opened on its own, as a handle
//! that neither reads nor follows (`O_PATH | O_NOFOLLOW`), links are followed here, and `..` at the root stays at the
//! root. What this process has outside of that root is never reached.

mod beside;
mod twins;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::Instant;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, openat, openat2, readlinkat};
use rustix::io::Errno;

use crate::links::{LookUps, OtherName, Resolution, Unknown, VOLUME_LINK};
use crate::path::{AbsPath, ROTATING, components};

/// Links on the way to one path at most, as in the kernel; a path with more of them cannot be opened by anybody.
const MAX_LINKS: usize = 40;
/// Components opened for one path at most.
const MAX_LOOK_UPS: usize = 1024;
/// `PROC_SUPER_MAGIC`: the links of /proc do not lead where they say.
const PROC: u64 = 0x9fa0;

const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// A root directory, held open.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    deadline: Option<Instant>,
}

impl Root {
    /// The root of a process, in the pid namespace of the calling process. Whether it is still the same process is the
    /// caller's to know.
    ///
    /// # Errors
    /// When there is no such process, or it may not be looked at.
    pub fn of_process(pid: i32) -> io::Result<Self> {
        Self::at(format!("/proc/{pid}/root"))
    }

    /// A directory that is the root of something, such as an unpacked image.
    ///
    /// # Errors
    /// When it is no directory that can be opened.
    pub fn at(path: impl AsRef<Path>) -> io::Result<Self> {
        let fd = openat(CWD, path.as_ref(), HANDLE | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Self { fd, deadline: None })
    }

    /// No look-up begins after this; one that the file system never answers still has to be waited for elsewhere.
    #[must_use]
    pub fn until(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Where a path leads.
    #[must_use]
    pub fn resolve(&self, path: &AbsPath) -> Resolution {
        let unknown = |unknown| Resolution { names: Vec::new(), unknown: Some(unknown) };
        if self.late() {
            return unknown(Unknown::Late);
        }
        let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let relative = path.as_bytes().strip_prefix(b"/").unwrap_or_default();
        if relative.is_empty() {
            return Resolution::default();
        }
        match openat2(&self.fd, relative, HANDLE, Mode::empty(), flags) {
            // no link on all of it, or on as much of it as there is
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Resolution::default(),
            Err(_) => match self.walk(path) {
                Ok(Some(name)) => Resolution { names: vec![name], unknown: None },
                Ok(None) => Resolution::default(),
                Err(why) => unknown(why),
            },
        }
    }

    /// All answers for a ruleset that say something: links, and names by hard links of what must not be read or changed.
    #[must_use]
    pub fn look_up(&self, wanted: &LookUps) -> Vec<(AbsPath, Resolution)> {
        let mut files = twins::Files::default();
        let mut found = Vec::new();
        for (path, (answer, end)) in wanted.paths.iter().zip(self.ends(&wanted.paths)) {
            let linked = wanted.twins.contains(path) && files.add(self, (found.len(), path), &answer, end);
            if linked || answer != Resolution::default() {
                found.push((path.clone(), answer));
            }
        }
        files.search(self, &mut found);
        found.retain(|(_, answer)| *answer != Resolution::default());
        found
    }

    fn late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Component by component. `None` where nothing but the path's own name is found, also where no one can open it.
    fn walk(&self, path: &AbsPath) -> Result<Option<OtherName>, Unknown> {
        let Some((walk, place)) = self.walk_to_end(path)? else { return Ok(None) };
        let (Some(place), Some(target)) = (place, walk.path()) else { return Ok(None) };
        let via = walk.via.into();
        Ok((place != *path || target != *path).then_some(OtherName { place, target, via }))
    }

    /// The walk along a path, and where its last component stands. `None` after too many links.
    fn walk_to_end(&self, path: &AbsPath) -> Result<Option<(Walk<'_>, Option<AbsPath>)>, Unknown> {
        let mut walk = Walk { root: self, stack: Vec::new(), via: Vec::new(), look_ups: 0 };
        let mut todo: VecDeque<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        let mut of_path = todo.len(); // components that still are the path's own; the last one stands at `place`
        let mut place = None;
        while let Some(name) = todo.pop_front() {
            walk.look_ups += 1;
            if walk.look_ups > MAX_LOOK_UPS {
                return Err(Unknown::TooMany);
            }
            if self.late() {
                return Err(Unknown::Late);
            }
            let own = todo.len() < of_path;
            if own {
                of_path = todo.len();
            }
            let here = walk.path_of(&name);
            if own && of_path == 0 {
                place.clone_from(&here);
            }
            match walk.step(&name)? {
                Step::Into => {}
                Step::Link(target) => {
                    walk.via.extend(here);
                    if walk.via.len() > MAX_LINKS {
                        return Ok(None);
                    }
                    if name == VOLUME_LINK.as_bytes() && is_of_day(&target) {
                        if let Step::Link(_) = walk.step(&target)? {
                            continue; // not Kubernetes' work; a rule about it would be about nothing
                        }
                        walk.rename_last(ROTATING);
                        continue;
                    }
                    if target.first() == Some(&b'/') {
                        walk.stack.clear();
                    }
                    let names: Vec<&[u8]> = components(&target).filter(|name| *name != b".").collect();
                    names.into_iter().rev().for_each(|name| todo.push_front(name.to_vec()));
                }
            }
        }
        Ok(Some((walk, place)))
    }
}

/// One component that begins with `..` and is more than that.
fn is_of_day(target: &[u8]) -> bool {
    target.starts_with(ROTATING) && target.len() > ROTATING.len() && !target.contains(&b'/')
}

#[derive(Debug)]
struct Walk<'r> {
    root: &'r Root,
    stack: Vec<(Vec<u8>, Option<OwnedFd>)>, // names from the root on, with handles as far as they exist
    via: Vec<AbsPath>,                      // links on the way
    look_ups: usize,
}

enum Step {
    Into,
    Link(Vec<u8>),
}

impl Walk<'_> {
    /// Goes one component on. A link is not entered.
    fn step(&mut self, name: &[u8]) -> Result<Step, Unknown> {
        if name == b".." {
            self.stack.pop();
            return Ok(Step::Into);
        }
        let parent = self.end();
        let fd = match parent.map(|parent| openat(parent, name, HANDLE | OFlags::NOFOLLOW, Mode::empty())) {
            None | Some(Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG)) => None,
            Some(Ok(fd)) => Some(fd),
            Some(Err(_)) => return Err(Unknown::Unreadable),
        };
        if let Some(fd) = &fd {
            match readlinkat(fd, "", Vec::new()) {
                Ok(target) if is_proc(fd) => drop(target), // the rest is taken as written
                Ok(target) => return Ok(Step::Link(target.into_bytes())),
                Err(Errno::NOENT | Errno::INVAL) => {} // no link
                Err(_) => return Err(Unknown::Unreadable),
            }
        }
        self.stack.push((name.to_vec(), fd));
        Ok(Step::Into)
    }

    /// What the walk has come to; `None`: there is nothing.
    fn end(&self) -> Option<BorrowedFd<'_>> {
        match self.stack.last() {
            None => Some(self.root.fd.as_fd()),
            Some((_, fd)) => fd.as_ref().map(AsFd::as_fd),
        }
    }

    fn rename_last(&mut self, name: &[u8]) {
        if let Some((last, _)) = self.stack.last_mut() {
            *last = name.to_vec();
        }
    }

    /// Where the walk is; `None` for a path that is too long for anybody.
    fn path(&self) -> Option<AbsPath> {
        AbsPath::from_components(self.stack.iter().map(|(name, _)| name.as_slice())).ok()
    }

    /// Where a component at this point of the walk stands.
    fn path_of(&self, name: &[u8]) -> Option<AbsPath> {
        let above = self.stack.iter().map(|(name, _)| name.as_slice());
        AbsPath::from_components(above.chain([name])).ok()
    }
}

fn is_proc(fd: &OwnedFd) -> bool {
    fstatfs(fd).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| kind == PROC))
}

#[cfg(test)]
mod tests;
