//! Descriptors that are older than the rules that deny them: looked for in a thread of its own, after each change of the
//! rules of a container that runs.
//!
//! Most searches find none, and then nothing is attached. While there are some, the kernel asks at each read and write of
//! every process, and the search is done again from time to time, to learn when the last one is closed.

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use enforcer_bpf::types;
use libbpf_rs::{Iter, Link, MapFlags};

use super::error::{During, EnforceError};
use super::hooks::{self, HELD};
use super::load::Loaded;
use super::lock;
use super::maps::Maps;

/// `HELD_SEARCHED` and `HELD_ALL`.
pub(super) const SEARCHED: u32 = 1;
pub(super) const ALL: u32 = 2;
/// When a search is done again while something is held.
const AGAIN: Duration = Duration::from_secs(30);
/// When one that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// What was being opened when the rules changed has been judged by the ones before, and is no descriptor yet. A lease lets
/// whoever has it keep an open waiting for `fs.lease-break-time`, 45 seconds unless the node says otherwise, so there is
/// one more search after this time.
const LATER: Duration = Duration::from_secs(60);
/// Runs through all tasks in one search. The second one finds what went, by fork, to a process that the first had passed;
/// more are made as long as each finds more.
const RUNS: usize = 8;

/// The iterators of a search.
#[derive(Debug)]
pub(super) struct Iterators {
    pub(super) rings: Link,
    pub(super) files: Link,
}

/// The outcome of a search.
#[derive(Debug, Clone, Copy)]
struct Found {
    held: bool,
    untold: u64, // descriptors that could not be judged or remembered, so that all of their containers' are judged
}

/// What a search needs.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) maps: Arc<Maps>,
    pub(super) loaded: Arc<Mutex<Loaded>>,
    pub(super) iterators: Iterators,
    pub(super) dir: PathBuf,
}

impl Search {
    /// What is held; if anything is, it is denied from here on.
    fn run(&self, again: bool) -> Result<Found, EnforceError> {
        let newest = self.maps.held_files.entries()?.into_iter().map(|(_, held)| held.generation).max();
        let generation = newest.unwrap_or(0).wrapping_add(1);
        let mut answer = self.walk(generation, again)?;
        for _ in 1..RUNS {
            let next = self.walk(generation, true)?;
            let more = next.found > answer.found || next.rings > answer.rings;
            answer = next;
            if !more {
                break;
            }
        }
        let held = answer.found != 0 || answer.rings != 0 || answer.failed != 0;
        if held {
            self.attach()?;
        }
        for (file, found) in self.maps.held_files.entries()? {
            if found.generation != generation {
                self.maps.held_files.remove(file)?;
            }
        }
        if !held {
            self.detach()?;
        }
        Ok(Found { held, untold: u64::from(answer.failed) })
    }

    fn walk(&self, generation: u32, again: bool) -> Result<types::held_search, EnforceError> {
        let question = types::held_search { generation, again: u32::from(again), ..Default::default() };
        self.maps.held.set(0, &question, MapFlags::ANY)?;
        for link in [&self.iterators.rings, &self.iterators.files] {
            let mut iterator = Iter::new(link).during("walk the open files")?;
            let read = iterator.read_to_end(&mut Vec::new()).map_err(libbpf_rs::Error::from);
            read.during("walk the open files")?;
        }
        self.maps.held.get(0)?.ok_or_else(|| EnforceError::ReadBack("no answer of the search".into()))
    }

    fn attach(&self) -> Result<(), EnforceError> {
        let mut loaded = lock(&self.loaded);
        if loaded.attached & HELD == 0 {
            hooks::attach_missing(&loaded.object, &self.dir, HELD)?;
            loaded.attached |= HELD;
        }
        Ok(())
    }

    fn detach(&self) -> Result<(), EnforceError> {
        let mut loaded = lock(&self.loaded);
        if loaded.attached & HELD != 0 {
            hooks::detach_unneeded(&loaded.object, &self.dir, loaded.attached & !HELD)?;
            loaded.attached &= !HELD;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Progress {
    asked: u64, // searches, and the last of those that is answered: one answers all that were asked for before it
    answered: u64,
    failed: u64,
    untold: u64,
    stop: bool,
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Shared {
    // What it holds is whole after each statement.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread. Its end is waited for when this is dropped; what was not looked for then, the next daemon looks for.
#[derive(Debug)]
pub(super) struct Searcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Searcher {
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start(search: Search) -> Result<Self, EnforceError> {
        let shared = Arc::new(Shared::default());
        let body = {
            let shared = Arc::clone(&shared);
            move || work(&search, &shared)
        };
        let thread = Builder::new().name("held".into()).spawn(body);
        let thread = thread.map_err(|_| EnforceError::Full("threads"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// To be called after rules have come into force that open files may be older than.
    pub(super) fn ask(&self) {
        self.shared.progress().asked += 1;
        self.shared.changed.notify_all();
    }

    /// Waits until all that was asked for is answered.
    pub(super) fn wait(&self) {
        let asked = self.shared.progress().asked;
        let open = |progress: &mut Progress| progress.answered < asked && !progress.stop;
        drop(
            self.shared
                .changed
                .wait_while(self.shared.progress(), open)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// How many searches failed. Each was, or is being, tried again.
    pub(super) fn failed(&self) -> u64 {
        self.shared.progress().failed
    }

    /// How many descriptors could not be told apart, in all searches: past the bound of the map, or with all work areas
    /// in use. All reads and writes of their containers are judged.
    pub(super) fn untold(&self) -> u64 {
        self.shared.progress().untold
    }
}

impl Drop for Searcher {
    fn drop(&mut self) {
        self.shared.progress().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// When searches are made.
#[derive(Debug)]
struct Rhythm {
    changed: Instant, // when rules changed last, or one that failed was tried again
    failed: bool,
    wait: Option<Duration>, // until the next one; `None`: until it is asked for
}

impl Rhythm {
    fn new(now: Instant) -> Self {
        Self { changed: now, failed: false, wait: None }
    }

    /// A search is made at `now`, `asked` for or because its time has come. Whether it only looks again, so that what is
    /// audited has been told. What was just being opened when a rule that audits it came is not told by the later one.
    fn begin(&mut self, asked: bool, now: Instant) -> bool {
        let again = !asked && !self.failed;
        if !again {
            self.changed = now;
        }
        again
    }

    /// It has found that something is `held`, or failed.
    fn end(&mut self, held: Option<bool>, begun: Instant) {
        self.failed = held.is_none();
        let since = begun.saturating_duration_since(self.changed);
        self.wait = match held {
            None => Some(RETRY),
            Some(true) => Some(AGAIN),
            Some(false) => LATER.checked_sub(since).filter(|time| !time.is_zero()),
        };
    }
}

fn work(search: &Search, shared: &Shared) {
    let mut rhythm = Rhythm::new(Instant::now());
    loop {
        let idle = |progress: &mut Progress| progress.asked == progress.answered && !progress.stop;
        let progress = shared.progress();
        let progress = match rhythm.wait {
            None => shared.changed.wait_while(progress, idle).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                let waited = shared.changed.wait_timeout_while(progress, time, idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if progress.stop {
            return;
        }
        let asked = progress.asked;
        let begun = Instant::now();
        let again = rhythm.begin(asked != progress.answered, begun);
        drop(progress);
        let result = search.run(again);
        rhythm.end(result.as_ref().ok().map(|found| found.held), begun);
        let mut progress = shared.progress();
        match result {
            Ok(found) => progress.untold += found.untold,
            Err(_) => progress.failed += 1,
        }
        progress.answered = asked;
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_only_after_a_change_is_looked_for_once_more() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rhythm = Rhythm::new(start);
        // also after the second change, long after the first
        for change in [0, 600] {
            assert!(!rhythm.begin(true, at(change)));
            rhythm.end(Some(false), at(change));
            assert_eq!(rhythm.wait, Some(LATER));
            assert!(rhythm.begin(false, at(change + 60)));
            rhythm.end(Some(false), at(change + 60));
            assert_eq!(rhythm.wait, None);
        }
    }

    #[test]
    fn while_something_is_held_it_is_looked_for_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rhythm = Rhythm::new(start);
        assert!(!rhythm.begin(true, start));
        rhythm.end(Some(true), start);
        assert_eq!(rhythm.wait, Some(AGAIN));
        assert!(rhythm.begin(false, at(30)));
        rhythm.end(Some(false), at(30));
        assert_eq!(rhythm.wait, Some(Duration::from_secs(30)), "what was just being opened");
        // one that failed is made anew, as the one that was asked for
        rhythm.begin(false, at(60));
        rhythm.end(None, at(60));
        assert_eq!(rhythm.wait, Some(RETRY));
        assert!(!rhythm.begin(false, at(61)));
    }
}
