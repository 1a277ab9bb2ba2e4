//! What an earlier daemon left pending, and which daemon may undo it.
//!
//! A daemon holds a lock on each of its policy directories for as long as it lives. A record in a directory that nobody
//! else holds is of a daemon that has died. The kernel lets go of the lock with the process, however that ends.
//!
//! What is mounted over a directory later is another directory, with a lock and perhaps a record of its own. The policies in
//! it are read by the next look at the directories, so it is looked at as those were that were there from the start.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{Pending, RECORD};
use crate::exit::chain;

/// Policy directories, each once, in the order they were given.
#[derive(Debug, Default)]
pub(super) struct Left(Vec<Dir>);

/// What became of one directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Files that were put back, and why.
    Reverted(Vec<String>, String),
    /// Why they cannot be, where that is another reason than before.
    Stuck(String),
}

#[derive(Debug)]
struct Dir {
    path: PathBuf,
    hold: Hold,
    which: Option<Which>, // directory of that name `hold` is about; None: it could not be looked at
    stuck: Option<String>, // why what is left there cannot be reverted
    back: Option<Back>,   // what was put back and is not read yet
}

#[derive(Debug)]
struct Back {
    names: Vec<String>, // of all files of the change, also those that were left as they were
    files: Vec<String>,
    why: String,
}

/// A directory, whatever it is called: device and inode number.
type Which = (u64, u64);

fn which(path: &Path) -> Option<Which> {
    let of = |about: Metadata| (about.dev(), about.ino());
    std::fs::metadata(path).ok().map(of)
}

/// Says why what is in a directory by now, of these names of a change that was reverted, is not in force; `None`: it is.
pub(super) type NotBack<'a> = &'a dyn Fn(&Path, &[String]) -> Option<String>;

/// A directory that was looked at before, for a look that waits for no disk while others do.
#[derive(Debug)]
pub(super) struct Looked {
    path: PathBuf,
    which: Option<Which>,
}

impl Looked {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another directory has its name by now, or a change is left in it.
    pub(super) fn is_news(&self) -> bool {
        which(&self.path) != self.which || std::fs::symlink_metadata(self.path.join(RECORD)).is_ok()
    }
}

#[derive(Debug)]
enum Hold {
    Ours { _until_dropped: Flock<File> },
    Another, // daemon's
    None,    // the file system has no locks, or the directory cannot be opened: nobody is kept away
}

impl Hold {
    fn take(dir: &Path) -> Self {
        let Ok(file) = File::open(dir) else { return Self::None };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Self::Ours { _until_dropped: lock },
            Err((_, Errno::EWOULDBLOCK)) => Self::Another,
            Err((_, error)) => {
                tracing::warn!(%error, dir = %dir.display(), "cannot lock the policy directory");
                Self::None
            }
        }
    }
}

impl Left {
    /// Locks the directories, and reverts what is left in them, before the policies are read. What cannot be now is tried
    /// again with [`try_again`](Self::try_again). The files, and what could not be reverted.
    #[must_use]
    pub(super) fn begin(dirs: &[PathBuf]) -> (Self, Vec<Outcome>) {
        let mut seen = std::collections::BTreeSet::new();
        let once = |path: &&PathBuf| seen.insert(path.canonicalize().unwrap_or_else(|_| (*path).clone()));
        let dir = |path: &PathBuf| {
            let which = which(path); // before the lock: what comes between the two is another one at the next look
            Dir { path: path.clone(), hold: Hold::take(path), which, stuck: None, back: None }
        };
        let mut left = Self(dirs.iter().filter(once).map(dir).collect());
        for Dir { path, hold, .. } in &left.0 {
            if matches!(hold, Hold::Another) {
                tracing::warn!(dir = %path.display(), "another daemon has this policy directory; it alone changes it");
            }
        }
        // nothing of them has been read yet
        let outcomes = left.0.iter_mut().filter_map(|dir| dir.settle(&|_, _| None)).collect();
        (left, outcomes)
    }

    /// The directories, to look whether there is something new about them. `waits`: not the first one, in which a change of
    /// this daemon waits.
    pub(super) fn looked(&self, waits: bool) -> Vec<Looked> {
        let dirs = self.0.iter().skip(usize::from(waits));
        dirs.map(|dir| Looked { path: dir.path.clone(), which: dir.which }).collect()
    }

    /// Takes the locks that have become free, and tries again to revert: in these directories, and where that failed.
    pub(super) fn try_again(&mut self, news: &[Looked], not_back: NotBack<'_>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for dir in &mut self.0 {
            let is_news = news.iter().any(|looked| looked.path == dir.path);
            if is_news {
                dir.take_anew();
            }
            let freed = matches!(dir.hold, Hold::Another) && {
                dir.hold = Hold::take(&dir.path);
                !matches!(dir.hold, Hold::Another)
            };
            if is_news || freed || dir.stuck.is_some() {
                outcomes.extend(dir.settle(not_back));
            }
        }
        outcomes
    }

    /// After a change of the first directory has failed: whether something of it is left.
    pub(super) fn look(&mut self, not_back: NotBack<'_>) -> Option<Outcome> {
        self.0.first_mut().and_then(|dir| dir.settle(not_back))
    }

    /// Why no change can be made in the first directory now.
    pub(super) fn obstacle(&self) -> Option<String> {
        let Dir { hold, stuck, .. } = self.0.first()?;
        match (hold, stuck) {
            (Hold::Another, _) => Some("another daemon has the policy directory".into()),
            (_, Some(why)) => Some(format!("an earlier change cannot be reverted, which is tried on: {why}")),
            _ => None,
        }
    }

    /// What cannot be reverted, of all directories.
    pub(super) fn stuck(&self) -> Option<String> {
        self.0.iter().find_map(|dir| dir.stuck.clone())
    }
}

impl Dir {
    /// Locks the directory that has the name now, where that is another one.
    fn take_anew(&mut self) {
        let which = which(&self.path);
        if which == self.which {
            return;
        }
        (self.hold, self.which, self.back) = (Hold::take(&self.path), which, None);
        match self.hold {
            Hold::Another => {
                tracing::warn!(dir = %self.path.display(), "another directory is there now, which another daemon has");
            }
            Hold::Ours { .. } | Hold::None => {
                tracing::info!(dir = %self.path.display(), "another directory is there now");
            }
        }
    }

    /// Reverts what is left; what there is to tell.
    fn settle(&mut self, not_back: NotBack<'_>) -> Option<Outcome> {
        if matches!(self.hold, Hold::Another) {
            return None;
        }
        let reverted = Pending::left(&self.path).and_then(|left| {
            let Some(mut left) = left else { return Ok(self.back.take()) };
            let others = left.revert()?;
            let why = left.with_others("the daemon ended before it was confirmed", &others);
            Ok(Some(Back { names: left.names_without(&[]), files: left.names_without(&others), why }))
        });
        let reverted = reverted.map_err(|error| chain(&error)).and_then(|reverted| {
            let Some(back) = reverted else { return Ok(None) };
            match not_back(&self.path, &back.names) {
                Some(not_back) => {
                    self.back = Some(back);
                    Err(not_back)
                }
                None => Ok(Some(Outcome::Reverted(back.files, back.why))),
            }
        });
        match reverted {
            Ok(reverted) => {
                self.stuck = None;
                reverted
            }
            Err(why) => {
                if self.stuck.as_ref() == Some(&why) {
                    return None;
                }
                tracing::error!(dir = %self.path.display(), why, "a change that was not confirmed cannot be reverted; will try on");
                self.stuck = Some(why.clone());
                Some(Outcome::Stuck(why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::NewFile;
    use super::*;

    /// All that is put back is read.
    fn read(_: &Path, _: &[String]) -> Option<String> {
        None
    }

    /// Looks again, as is done now and then.
    fn again(left: &mut Left) -> Vec<Outcome> {
        let news: Vec<Looked> = left.looked(false).into_iter().filter(Looked::is_news).collect();
        left.try_again(&news, &read)
    }

    #[test]
    fn a_directory_is_one_daemons_until_that_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, "old").unwrap();
        let dirs = [dir.path().to_owned(), dir.path().join(".")];
        let (first, outcomes) = Left::begin(&dirs);
        assert_eq!((outcomes, first.obstacle()), (vec![], None), "a directory named twice is one");
        drop(Pending::begin(dir.path(), &[NewFile { name: "a.yaml".into(), text: "new".into() }]).unwrap());
        let (mut second, outcomes) = Left::begin(&dirs);
        assert_eq!((outcomes, second.stuck(), again(&mut second)), (vec![], None, vec![]));
        assert!(second.obstacle().is_some_and(|why| why.contains("another daemon")));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        drop(first);
        let why = "the daemon ended before it was confirmed";
        assert_eq!(again(&mut second), [Outcome::Reverted(vec!["a.yaml".into()], why.into())]);
        assert_eq!((second.obstacle(), again(&mut second)), (None, vec![]));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    }

    #[test]
    fn what_a_change_leaves_that_failed_is_found_and_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let (mut left, _) = Left::begin(&[dir.path().to_owned()]);
        let record = dir.path().join(super::super::RECORD);
        std::fs::write(&record, "{").unwrap();
        assert!(matches!(left.look(&read), Some(Outcome::Stuck(_))));
        assert_eq!(again(&mut left), []);
        assert!(left.stuck().is_some() && left.obstacle().is_some());
        std::fs::remove_file(&record).unwrap();
        assert_eq!((again(&mut left), left.stuck()), (vec![], None));
    }

    /// As where a file system is mounted over the directory once the daemon runs.
    #[test]
    fn what_is_left_in_a_directory_that_comes_later_is_reverted() {
        let top = tempfile::tempdir().unwrap();
        let (dir, later) = (top.path().join("policies"), top.path().join("later"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::create_dir(&later).unwrap();
        std::fs::write(later.join("a.yaml"), "old").unwrap();
        let new = || [NewFile { name: "a.yaml".into(), text: "new".into() }];
        drop(Pending::begin(&later, &new()).unwrap());
        let dirs = [dir.clone()];
        let (mut left, outcomes) = Left::begin(&dirs);
        assert_eq!((outcomes, again(&mut left)), (vec![], vec![]));
        std::fs::rename(&dir, top.path().join("before")).unwrap();
        std::fs::rename(&later, &dir).unwrap();
        // while what is put back is not read it is not "reverted"
        let unread = |_: &Path, names: &[String]| Some(format!("unread: {}", names.join(", ")));
        let news: Vec<Looked> = left.looked(false).into_iter().filter(Looked::is_news).collect();
        assert_eq!(left.try_again(&news, &unread), [Outcome::Stuck("unread: a.yaml".into())]);
        assert_eq!((left.try_again(&[], &unread), left.stuck()), (vec![], Some("unread: a.yaml".into())));
        let why = "the daemon ended before it was confirmed";
        assert_eq!(again(&mut left), [Outcome::Reverted(vec!["a.yaml".into()], why.into())]);
        assert_eq!((again(&mut left), left.stuck()), (vec![], None));
        assert_eq!(std::fs::read_to_string(dir.join("a.yaml")).unwrap(), "old");
        // it is this daemon's now, and what waits in it is not left by anybody
        let (other, _) = Left::begin(&dirs);
        assert!(other.obstacle().is_some_and(|why| why.contains("another daemon")));
        let _waits = Pending::begin(&dir, &new()).unwrap();
        assert!(left.looked(true).is_empty());
        // and a record that is there without a change of this daemon is
        assert_eq!(again(&mut left), [Outcome::Reverted(vec!["a.yaml".into()], why.into())]);
    }

    /// What somebody else has put there is asked about, too.
    #[test]
    fn what_is_left_is_not_reverted_while_what_somebody_else_put_there_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, "old").unwrap();
        let (mut left, _) = Left::begin(&[dir.path().to_owned()]);
        drop(Pending::begin(dir.path(), &[NewFile { name: "a.yaml".into(), text: "new".into() }]).unwrap());
        std::fs::write(dir.path().join("x"), "theirs").unwrap();
        std::fs::rename(dir.path().join("x"), &path).unwrap();
        let unread = |_: &Path, names: &[String]| Some(format!("unread: {}", names.join(", ")));
        assert_eq!(left.look(&unread), Some(Outcome::Stuck("unread: a.yaml".into())));
        assert_eq!(left.try_again(&[], &unread), []);
        let outcomes = again(&mut left);
        assert!(
            matches!(&outcomes[..], [Outcome::Reverted(files, why)] if files.is_empty() && why.contains("a.yaml")),
            "{outcomes:?}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
    }
}
