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

/// How long to wait after a search that was made at `now`; `None`: until the next one is asked for. `changed` is when rules
/// changed last.
fn next(held: bool, changed: Instant, now: Instant) -> Option<Duration> {
    let later = LATER.checked_sub(now.saturating_duration_since(changed)).filter(|time| !time.is_zero());
    if held { Some(AGAIN) } else { later }
}

fn work(search: &Search, shared: &Shared) {
    let mut wait = None; // nothing is held, so far as is known
    let mut failed = false;
    let mut changed = Instant::now();
    loop {
        let idle = |progress: &mut Progress| progress.asked == progress.answered && !progress.stop;
        let progress = shared.progress();
        let progress = match wait {
            None => shared.changed.wait_while(progress, idle).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                let waited = shared.changed.wait_timeout_while(progress, time, idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if progress.stop {
            return;
        }
        let (asked, again) = (progress.asked, progress.asked == progress.answered && !failed);
        drop(progress);
        let now = Instant::now();
        if !again {
            changed = now;
        }
        let result = search.run(again);
        failed = result.is_err();
        let mut progress = shared.progress();
        wait = match result {
            Ok(found) => {
                progress.untold += found.untold;
                next(found.held, changed, now)
            }
            Err(_) => {
                progress.failed += 1;
                Some(RETRY)
            }
        };
        progress.answered = asked;
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_only_after_the_change_is_looked_for_once_more() {
        let changed = Instant::now();
        let after = |seconds| changed + Duration::from_secs(seconds);
        assert_eq!(next(false, changed, changed), Some(LATER));
        assert_eq!(next(false, changed, after(45)), Some(Duration::from_secs(15)));
        assert_eq!(next(false, changed, after(60)), None);
        assert_eq!(next(false, changed, after(61)), None);
        assert_eq!(next(true, changed, after(61)), Some(AGAIN), "until it is closed");
    }
}
