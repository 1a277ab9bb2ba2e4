//! Names by hard links: a file that has more than one is looked for in the whole root.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat, openat2, statat};

use super::beside::End;
use super::{HANDLE, Root, is_proc};
use crate::links::{OtherName, Resolution, Unknown};
use crate::path::AbsPath;

/// Names that a file may have beside its own. One with more is a program of many names, or a store of equal files, and a
/// rule about one of them should not be about all.
const MAX_TWINS: usize = 16;
/// Entries of directories that are looked at.
const MAX_ENTRIES: usize = 1 << 17;
/// Directories inside each other.
const MAX_DEPTH: usize = 64;
/// How long the search may take; a start waits for it.
const LIMIT: Duration = Duration::from_millis(200);

/// Which file it is: device and inode number.
type Identity = (u64, u64);

/// A file that is looked for.
struct Sought {
    /// How many names the file has, by its own account.
    links: u64,
    names: Vec<AbsPath>,
    /// The links found: where a directory is mounted twice, one link has two names.
    found: HashSet<(Identity, Vec<u8>)>,
}

impl Sought {
    fn few(&self) -> bool {
        self.links <= MAX_TWINS as u64
    }

    fn complete(&self) -> bool {
        self.found.len() as u64 >= self.links
    }
}

/// Files with more than one name. A file has its number of links written on it, so nearly always there are none.
#[derive(Default)]
pub(super) struct Files {
    sought: HashMap<Identity, Sought>,
    asked: Vec<(usize, AbsPath, Identity)>, // the number of the answer, where its path leads, what is there
}

impl Files {
    /// Notes what stands at a path, whose answer gets this number. Whether it has other names.
    pub(super) fn add(
        &mut self,
        root: &Root,
        (number, path): (usize, &AbsPath),
        answer: &Resolution,
        end: End,
    ) -> bool {
        let target = answer.names.last().map_or(path, |name| &name.target);
        // a file in a volume that is replaced has a name for each day, and its path here is none that can be opened
        if target.is_rotating() {
            return false;
        }
        let stat = match end {
            End::Absent => None,
            End::Stat(stat) => Some(*stat),
            End::Unknown => stat_of(root, target),
        };
        let Some(stat) = stat else { return false };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink < 2 {
            return false;
        }
        let file = identity(&stat);
        self.sought.entry(file).or_insert_with(|| Sought {
            links: stat.st_nlink,
            names: Vec::new(),
            found: HashSet::new(),
        });
        self.asked.push((number, target.clone(), file));
        true
    }

    /// Adds the other names to the answers, by one search for all of them.
    pub(super) fn search(self, root: &Root, answers: &mut [(AbsPath, Resolution)]) {
        let Self { mut sought, asked } = self;
        if sought.values().any(Sought::few) {
            let deadline = Instant::now() + LIMIT;
            let deadline = root.deadline.map_or(deadline, |other| deadline.min(other));
            let mut search = Search { sought, entries: 0, deadline };
            search.directory(&root.fd, &mut Vec::new());
            sought = search.sought;
        }
        for (number, target, file) in asked {
            let (Some(file), Some((_, answer))) = (sought.get(&file), answers.get_mut(number)) else {
                continue;
            };
            if file.few() {
                let others = file.names.iter().filter(|name| **name != target);
                answer.names.extend(others.map(|name| OtherName {
                    place: name.clone(),
                    target: name.clone(),
                    via: [].into(),
                }));
            }
            if !(file.few() && file.complete()) && answer.unknown.is_none() {
                answer.unknown = Some(Unknown::HardLinks);
            }
        }
    }
}

fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

fn stat_of(root: &Root, path: &AbsPath) -> Option<Stat> {
    let relative = path.as_bytes().strip_prefix(b"/").filter(|path| !path.is_empty())?;
    let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let fd = openat2(&root.fd, relative, HANDLE, Mode::empty(), flags).ok()?;
    rustix::fs::fstat(fd).ok()
}

struct Search {
    sought: HashMap<Identity, Sought>,
    entries: usize,
    deadline: Instant,
}

impl Search {
    fn done(&self) -> bool {
        let found = |file: &Sought| !file.few() || file.complete();
        self.entries > MAX_ENTRIES || self.sought.values().all(found) || Instant::now() >= self.deadline
    }

    /// Looks through a directory, and those in it. What cannot be read has no names to add.
    fn directory(&mut self, handle: &OwnedFd, above: &mut Vec<Vec<u8>>) {
        if above.len() > MAX_DEPTH || is_proc(handle) {
            return;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(entries) = openat(handle, ".", flags, Mode::empty()).and_then(Dir::new) else { return };
        let Ok(this) = rustix::fs::fstat(handle).map(|stat| identity(&stat)) else { return };
        let mut below = Vec::new();
        for entry in entries.map_while(Result::ok) {
            self.entries += 1;
            if self.done() {
                return;
            }
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            match entry.file_type() {
                FileType::Directory => below.push(name.to_vec()),
                FileType::RegularFile => drop(self.entry(handle, this, above, name)),
                // some file systems do not say what an entry is
                FileType::Unknown if self.entry(handle, this, above, name) == Some(FileType::Directory) => {
                    below.push(name.to_vec());
                }
                _ => {}
            }
        }
        for name in below {
            let flags = HANDLE | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            if let Ok(child) = openat(handle, OsStr::from_bytes(&name), flags, Mode::empty()) {
                above.push(name);
                self.directory(&child, above);
                above.pop();
            }
            if self.done() {
                return;
            }
        }
    }

    /// What an entry is; noted if it is a file that is looked for.
    fn entry(
        &mut self,
        dir: &OwnedFd,
        identity_of_dir: Identity,
        above: &[Vec<u8>],
        name: &[u8],
    ) -> Option<FileType> {
        let stat = statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if let Some(sought) = self.sought.get_mut(&identity(&stat))
            && sought.names.len() <= MAX_TWINS
            && let Ok(path) = AbsPath::from_components(above.iter().map(Vec::as_slice).chain([name]))
        {
            sought.names.push(path);
            sought.found.insert((identity_of_dir, name.to_vec()));
        }
        Some(FileType::from_raw_mode(stat.st_mode))
    }
}
