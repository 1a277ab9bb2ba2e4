//! What an earlier daemon left pending, and which daemon may undo it.
//!
//! A daemon holds a lock on each of its policy directories for as long as it lives. A record in a directory that nobody
//! else holds is of a daemon that has died. The kernel lets go of the lock with the process, however that ends.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Pending;
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
    stuck: Option<String>, // why what is left there cannot be reverted
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
        let dir = |path: &PathBuf| Dir { path: path.clone(), hold: Hold::take(path), stuck: None };
        let mut left = Self(dirs.iter().filter(once).map(dir).collect());
        for Dir { path, hold, .. } in &left.0 {
            if matches!(hold, Hold::Another) {
                tracing::warn!(dir = %path.display(), "another daemon has this policy directory; it alone changes it");
            }
        }
        let outcomes = left.0.iter_mut().filter_map(Dir::settle).collect();
        (left, outcomes)
    }

    /// Takes the locks that have become free, and tries again to revert.
    pub(super) fn try_again(&mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for dir in &mut self.0 {
            let freed = matches!(dir.hold, Hold::Another) && {
                dir.hold = Hold::take(&dir.path);
                !matches!(dir.hold, Hold::Another)
            };
            if freed || dir.stuck.is_some() {
                outcomes.extend(dir.settle());
            }
        }
        outcomes
    }

    /// After a change of the first directory has failed: whether something of it is left.
    pub(super) fn look(&mut self) -> Option<Outcome> {
        self.0.first_mut().and_then(Dir::settle)
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
    /// Reverts what is left; what there is to tell.
    fn settle(&mut self) -> Option<Outcome> {
        if matches!(self.hold, Hold::Another) {
            return None;
        }
        let reverted = Pending::left(&self.path).and_then(|left| {
            let Some(mut left) = left else { return Ok(None) };
            let others = left.revert()?;
            let why = left.with_others("the daemon ended before it was confirmed", &others);
            Ok(Some((left.names_without(&others), why)))
        });
        match reverted {
            Ok(reverted) => {
                self.stuck = None;
                reverted.map(|(files, why)| Outcome::Reverted(files, why))
            }
            Err(error) => {
                let why = chain(&error);
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
        assert_eq!((outcomes, second.stuck(), second.try_again()), (vec![], None, vec![]));
        assert!(second.obstacle().is_some_and(|why| why.contains("another daemon")));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        drop(first);
        let why = "the daemon ended before it was confirmed";
        assert_eq!(second.try_again(), [Outcome::Reverted(vec!["a.yaml".into()], why.into())]);
        assert_eq!((second.obstacle(), second.try_again()), (None, vec![]));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    }

    #[test]
    fn what_a_change_leaves_that_failed_is_found_and_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let (mut left, _) = Left::begin(&[dir.path().to_owned()]);
        let record = dir.path().join(super::super::RECORD);
        std::fs::write(&record, "{").unwrap();
        assert!(matches!(left.look(), Some(Outcome::Stuck(_))));
        assert_eq!(left.try_again(), []);
        assert!(left.stuck().is_some() && left.obstacle().is_some());
        std::fs::remove_file(&record).unwrap();
        assert_eq!((left.try_again(), left.stuck()), (vec![], None));
    }
}
