//! Rulesets that nobody uses any more go out of the kernel in a thread of its own: each waits until no CPU can be reading
//! it, and neither a start nor a change of the policies waits for that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::error::EnforceError;
use super::maps::Maps;
use super::spread::spread;

/// Threads that withdraw what has come together: nobody is in a hurry, but places must not run out.
const THREADS: usize = 16;
/// Rulesets that are withdrawn between two looks at whether to stop.
const ROUND: usize = 256;

/// A ruleset that no container has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unused {
    pub(super) id: u32,
    pub(super) place: u32,
}

#[derive(Debug, Default)]
struct Progress {
    pending: usize,
    empty: Vec<u32>, // places, since they were asked for last
    stuck: u64,
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Shared {
    // What it holds is whole after each statement.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl Fn(&Progress) -> bool) -> MutexGuard<'_, Progress> {
        self.changed
            .wait_while(self.progress(), |progress| condition(progress))
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread. Its end is waited for when this is dropped; what it has not come to is left to the next daemon, which
/// finds that nobody uses it.
#[derive(Debug)]
pub(super) struct Withdrawal {
    orders: Option<Sender<Unused>>, // None while it is being dropped
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Withdrawal {
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start(maps: Arc<Maps>) -> Result<Self, EnforceError> {
        let (orders, taken) = channel();
        let shared = Arc::new(Shared::default());
        let body = {
            let shared = Arc::clone(&shared);
            move || work(&maps, &taken, &shared)
        };
        let thread = Builder::new().name("withdraw".into()).spawn(body);
        let thread = thread.map_err(|_| EnforceError::Full("threads"))?;
        Ok(Self { orders: Some(orders), shared, thread: Some(thread) })
    }

    /// Takes the ruleset out of the kernel some time. Its place is taken until then.
    pub(super) fn begin(&self, unused: Unused) {
        self.shared.progress().pending += 1;
        let sent = self.orders.as_ref().map(|orders| orders.send(unused));
        if !matches!(sent, Some(Ok(()))) {
            let mut progress = self.shared.progress(); // the thread is not there any more
            progress.pending -= 1;
            progress.stuck += 1;
        }
    }

    /// Places that became empty since the last time.
    pub(super) fn empty(&self) -> Vec<u32> {
        std::mem::take(&mut self.shared.progress().empty)
    }

    /// The same, but waits for one if any are being emptied.
    pub(super) fn next_empty(&self) -> Vec<u32> {
        let waits = |progress: &Progress| progress.empty.is_empty() && progress.pending > 0;
        std::mem::take(&mut self.shared.wait_while(waits).empty)
    }

    /// Waits until all that was begun is done.
    pub(super) fn wait(&self) {
        drop(self.shared.wait_while(|progress| progress.pending > 0));
    }

    /// How many could not be taken out. Their places are not used again before the next daemon.
    pub(super) fn stuck(&self) -> u64 {
        self.shared.progress().stuck
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn work(maps: &Maps, orders: &Receiver<Unused>, shared: &Shared) {
    while let Ok(first) = orders.recv() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let round: Vec<Unused> = [first].into_iter().chain(orders.try_iter().take(ROUND - 1)).collect();
        let _told_one_by_one = spread(&round, THREADS, |part| {
            for Unused { id, place } in part {
                let withdrawn = maps.places.withdraw(*place).and_then(|()| maps.published.remove(*id));
                let mut progress = shared.progress();
                progress.pending -= 1;
                match withdrawn {
                    Ok(()) => progress.empty.push(*place),
                    Err(_) => progress.stuck += 1,
                }
                shared.changed.notify_all();
            }
            Ok(())
        });
    }
}
