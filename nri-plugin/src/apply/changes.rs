//! The daemon's changes of its policies: one at a time, each with the clock that ends it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use enforcer_core::policy::parse;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::left::{Left, Looked, Outcome};
use super::remarks::remarks;
use super::serve::Answer;
use super::{ApplyError, NewFile, Pending, keep};
use crate::container::Selection;
use crate::exit::chain;
use crate::store::read;
use crate::trust;

/// The least and the most that a change waits to be confirmed.
pub const WITHIN: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// When reverting is tried again after it has failed.
const AGAIN: Duration = Duration::from_secs(1);
/// When it is tried again with what was left by an earlier daemon.
const STUCK: Duration = Duration::from_secs(3);

/// What there is to tell about a change.
#[derive(Debug, Clone, Copy)]
pub enum News<'a> {
    /// These files were put back, and why.
    Reverted(&'a [String], &'a str),
    /// Those of a change that was not confirmed cannot be, and why; it is tried on.
    NotReverted(&'a str),
}

/// Called with what there is to tell.
pub type Tell = Box<dyn Fn(News<'_>) + Send + Sync>;

/// Changes of the first policy directory, one at a time.
pub struct Changes {
    dirs: Vec<PathBuf>,
    selection: Selection,
    nudge: Arc<Notify>,
    tell: Tell,
    now: Mutex<Now>,
    not_reverted: Mutex<Option<String>>, // of what is now; on its own, since `now` is held while the disk is written
}

struct Now {
    left: Left,
    waiting: Option<Waiting>,
}

struct Waiting {
    pending: Pending,
    until: Instant,
    ended: watch::Sender<Option<Answer>>,
    stuck: Option<String>, // why it could not be reverted
}

/// What the one who made a change that waits has of it.
pub(super) struct Own {
    /// Which one it is: when it ends.
    pub until: Instant,
    /// How it ended. [`Answer::Refused`]: it could not be, and that is tried on.
    pub ends: watch::Receiver<Option<Answer>>,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub struct Found {
    left: Left,
    outcomes: Vec<Outcome>,
}

/// Locks the policy directories, and reverts what a daemon that has died left pending, before the policies are read.
pub fn revert_left(dirs: &[PathBuf]) -> Found {
    let (left, outcomes) = Left::begin(dirs);
    Found { left, outcomes }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("dirs", &self.dirs).finish_non_exhaustive()
    }
}

fn refused(why: impl Into<String>) -> Answer {
    Answer::Refused { why: why.into() }
}

/// Why what the file says is not in force as it stands there, or not all of it; `None`: it is, or there is no such file. Of
/// one that has errors, cannot be read, or with `strict` can be changed by others, the last good version is in force, and that
/// is nowhere but in memory until another version comes.
fn not_in_force(dir: &Path, name: &str, strict: bool) -> Option<String> {
    let path = dir.join(name);
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        _ => {}
    }
    let others = || trust::others_write(&path).ok().flatten().filter(|_| strict);
    let what = match (read(&path), others()) {
        (Err(error), _) => format!("cannot be read: {error}"),
        (Ok(_), Some(at)) => format!("can be changed by others than root, at `{}` (--strict)", at.display()),
        (Ok(text), None) => format!("has errors: {}", parse(name, &text).errors.first()?),
    };
    Some(format!("`{}` {what}", path.display()))
}

/// Why what the file replaces could not come back into force with the file.
fn not_to_come_back(dir: &Path, name: &str, strict: bool) -> Option<String> {
    let why = not_in_force(dir, name, strict)?;
    Some(format!(
        "{why}; reverting would not bring back what is in force of it: mend or remove it first, or apply without \
         --confirm-within"
    ))
}

/// Why what a change put in force stays so though its files are gone: of what is there now, put back or put there by somebody
/// else, nothing can be taken.
fn not_back(dir: &Path, names: &[String], strict: bool) -> Option<String> {
    let why = names.iter().find_map(|name| not_in_force(dir, name, strict))?;
    Some(format!(
        "{why}; what was read there last stays in force, as it does of the change that was to end: mend or remove it"
    ))
}

impl Changes {
    /// Of the first of these directories, where a daemon found this. `nudge` is notified when files have changed.
    #[must_use]
    pub fn new(
        dirs: &[PathBuf],
        Found { left, outcomes }: Found,
        selection: Selection,
        nudge: Arc<Notify>,
        tell: Tell,
    ) -> Arc<Self> {
        let now = Mutex::new(Now { left, waiting: None });
        let not_reverted = Mutex::default();
        let changes = Arc::new(Self { dirs: dirs.to_vec(), selection, nudge, tell, now, not_reverted });
        changes.note(&changes.now());
        changes.tell_left(&outcomes);
        changes
    }

    /// Of a daemon without a policy directory.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Arc<Self> {
        Self::new(&[], Found::default(), Selection::default(), Arc::default(), Box::new(|_| {}))
    }

    // after a panic of a holder what is in the directory is the truth, and the next start of the daemon reverts it
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a change that was not confirmed is still there; `None`: none is. Waits for nobody.
    #[must_use]
    pub fn not_reverted(&self) -> Option<String> {
        self.not_reverted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// To be called where `now` has changed.
    fn note(&self, now: &Now) {
        let why = now.left.stuck().or_else(|| now.waiting.as_ref()?.stuck.clone());
        *self.not_reverted.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    fn tell_left(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            match outcome {
                Outcome::Reverted(files, why) => {
                    tracing::warn!(files = files.join(", "), why, "reverted");
                    (self.tell)(News::Reverted(files, why));
                    self.nudge.notify_one();
                }
                Outcome::Stuck(why) => (self.tell)(News::NotReverted(why)),
            }
        }
    }

    /// Tries again, now and then, what could not be reverted. Never ends.
    pub(super) async fn settle(&self) {
        loop {
            sleep(STUCK).await;
            tokio::task::block_in_place(|| self.look_again());
        }
    }

    fn look_again(&self) {
        let looked = {
            let now = self.now();
            now.left.looked(now.waiting.is_some())
        };
        // a disk that hangs must not hold up who confirms or reverts
        let mut news: Vec<Looked> = looked.into_iter().filter(Looked::is_news).collect();
        let mut now = self.now();
        let first = self.dirs.first().filter(|_| now.waiting.is_some()); // by now
        news.retain(|one| Some(one.path()) != first.map(PathBuf::as_path));
        let outcomes = now.left.try_again(&news, &|dir, names| self.not_back(dir, names));
        self.note(&now);
        drop(now);
        self.tell_left(&outcomes);
    }

    fn not_back(&self, dir: &Path, names: &[String]) -> Option<String> {
        not_back(dir, names, self.selection.strict)
    }

    /// Puts files in place. Where they are to be confirmed, also what its maker has of the change.
    pub(super) fn apply(
        self: &Arc<Self>,
        files: &[NewFile],
        within: Option<Duration>,
    ) -> (Answer, Option<Own>) {
        let Some(dir) = self.dirs.first() else {
            return (refused("the daemon has no policy directory (--policy-dir)"), None);
        };
        if within.is_some_and(|within| !WITHIN.contains(&within)) {
            return (refused("a change waits for 1 second to 1 hour"), None);
        }
        let mut parsed = Vec::new();
        for NewFile { name, text } in files {
            let of_this = parse(name, text);
            if let Some(error) = of_this.errors.first() {
                return (refused(format!("`{name}` has errors: {error}")), None);
            }
            parsed.push((name.clone(), of_this));
        }
        let own = match self.enter(dir, files, within) {
            Ok(own) => own,
            Err(why) => return (refused(why), None),
        };
        self.nudge.notify_one();
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        tracing::info!(files = names.join(", "), ?within, "applied");
        let (dir, remarks) = (dir.clone(), remarks(&self.dirs, dir, &parsed, &self.selection));
        match own {
            None => (Answer::Applied { dir, remarks }, None),
            Some(own) => (Answer::Pending { dir, remarks }, Some(own)),
        }
    }

    /// Why not is the error.
    fn enter(
        self: &Arc<Self>,
        dir: &Path,
        files: &[NewFile],
        within: Option<Duration>,
    ) -> Result<Option<Own>, String> {
        let mut now = self.now();
        if let Some(why) = now.left.obstacle() {
            return Err(why);
        }
        if now.waiting.is_some() {
            return Err(chain(&ApplyError::Pending));
        }
        let bad = |file: &NewFile| not_to_come_back(dir, &file.name, self.selection.strict);
        if let Some(why) = within.and_then(|_| files.iter().find_map(bad)) {
            return Err(why);
        }
        let begun = match within {
            None => keep(dir, files).map(|()| None),
            Some(within) => Pending::begin(dir, files).map(|pending| Some((pending, within))),
        };
        let (pending, within) = match begun {
            Ok(Some(begun)) => begun,
            Ok(None) => return Ok(None),
            Err(error) => {
                let outcome = now.left.look(&|dir, names| self.not_back(dir, names));
                self.note(&now);
                drop(now);
                self.tell_left(outcome.as_slice());
                return Err(chain(&error));
            }
        };
        let (ended, ends) = watch::channel(None);
        let until = Instant::now() + within;
        now.waiting = Some(Waiting { pending, until, ended, stuck: None });
        drop(now);
        let changes = Arc::clone(self);
        let failing = ends.clone();
        tokio::spawn(async move { changes.end_in_time(until, failing).await });
        Ok(Some(Own { until, ends }))
    }

    /// Reverts when the time is over, and tries on from when somebody could not revert it before.
    async fn end_in_time(&self, until: Instant, mut ends: watch::Receiver<Option<Answer>>) {
        let failed = async {
            drop(ends.wait_for(Option::is_some).await);
            sleep(AGAIN).await;
        };
        tokio::select! {
            () = sleep_until(until) => {}
            () = failed => {}
        }
        let end = || self.end(Some(until), false, "it was not confirmed in time");
        while let Answer::Refused { why } = tokio::task::block_in_place(end) {
            tracing::error!(why, "cannot revert; will try again");
            sleep(AGAIN).await;
        }
    }

    /// Ends what is pending; with `only`, that one alone: another one may wait by now.
    pub(super) fn end(&self, only: Option<Instant>, keep: bool, why: &str) -> Answer {
        let mut now = self.now();
        let Now { left, waiting } = &mut *now;
        let is_meant = |waiting: &&mut Waiting| only.is_none_or(|only| waiting.until == only);
        let Some(Waiting { pending, until, ended, stuck }) = waiting.as_mut().filter(is_meant) else {
            let obstacle = left.obstacle().filter(|_| only.is_none());
            return obstacle.map_or(Answer::Nothing, refused);
        };
        // some of its files may have been put back already
        if keep && let Some(why) = stuck {
            return refused(format!("it is being reverted, and cannot be: {why}"));
        }
        if keep && *until <= Instant::now() {
            return refused("it comes too late: the change is being reverted");
        }
        let done = if keep { pending.confirm().map(|()| Vec::new()) } else { pending.revert() };
        let done = done.map_err(|error| chain(&error)).and_then(|others| {
            if keep {
                return Ok(others);
            }
            self.nudge.notify_one(); // the others of it are back
            self.not_back(pending.dir(), &pending.names_without(&[])).map_or(Ok(others), Err)
        });
        let others = match done {
            Ok(others) => others,
            Err(why) => {
                let answer = refused(why);
                if let (false, Answer::Refused { why }) = (keep, &answer)
                    && stuck.as_ref() != Some(why)
                {
                    (self.tell)(News::NotReverted(why));
                    *stuck = Some(why.clone());
                    ended.send_replace(Some(answer.clone()));
                    self.note(&now);
                }
                return answer;
            }
        };
        let why = pending.with_others(why, &others);
        let files = pending.names_without(&others);
        let answer = match keep {
            true => {
                tracing::info!(files = files.join(", "), "confirmed");
                Answer::Confirmed { files }
            }
            false => {
                tracing::warn!(files = files.join(", "), why, "reverted");
                (self.tell)(News::Reverted(&files, &why));
                Answer::Reverted { files, why }
            }
        };
        let done = waiting.take();
        self.note(&now); // before whoever waits for the end asks how it stands
        drop(now);
        if let Some(Waiting { ended, .. }) = done {
            ended.send_replace(Some(answer.clone()));
        }
        self.nudge.notify_one();
        answer
    }
}

#[cfg(test)]
mod tests;
