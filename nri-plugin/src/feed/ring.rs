//! The last alerts, or logs, for whoever reads them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use crate::alert::Alert;

/// How many alerts the ring holds: ten seconds of a busy node, some 2 MB.
pub const RING: usize = 1024;
/// How many bytes of alerts it holds, whatever their number: whoever is confined chooses paths.
pub const BYTES: usize = 8 << 20;
/// How many alerts are kept for the next one who asks for the last of them, where nobody reads now, and how many bytes.
pub const KEPT: Size = Size { alerts: 256, bytes: 1 << 20 };
const NOTHING: Size = Size { alerts: 0, bytes: 0 };

/// How much of something there may be at most.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Alerts.
    pub alerts: usize,
    /// Bytes of them.
    pub bytes: usize,
}

/// An alert in the ring.
#[derive(Debug, Clone)]
pub(super) struct Published {
    /// Gone, once it has made place for later ones.
    pub(super) alert: Weak<Alert>,
    pub(super) count: u64,
    /// How many alerts were published with this one; a summary is as many as it stands for.
    pub(super) through: u64,
}

/// The alerts of the ring, which are there as long as they are in here.
#[derive(Debug, Default)]
struct Held {
    through: u64, // as in `Published`
    alerts: VecDeque<(Arc<Alert>, usize)>,
    bytes: usize,
}

impl Held {
    fn push(&mut self, alert: &Arc<Alert>) {
        let size = alert.size();
        self.bytes += size;
        self.alerts.push_back((Arc::clone(alert), size));
    }

    /// Lets go of the oldest until the rest is no more than this.
    fn shrink(&mut self, to: Size) {
        while self.alerts.len() > to.alerts || (self.bytes > to.bytes && self.alerts.len() > 1) {
            let Some((_, size)) = self.alerts.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(size);
        }
    }

    /// The newest, no more than [`KEPT`], oldest first.
    fn last(&self) -> VecDeque<Arc<Alert>> {
        let mut last = VecDeque::new();
        let mut bytes = 0_usize;
        for (alert, size) in self.alerts.iter().rev().take(KEPT.alerts) {
            bytes = bytes.saturating_add(*size);
            if bytes > KEPT.bytes && !last.is_empty() {
                break;
            }
            last.push_front(Arc::clone(alert));
        }
        last
    }
}

/// Alerts, or logs, for whoever reads them.
#[derive(Debug)]
pub(super) struct Ring {
    sender: broadcast::Sender<Published>,
    held: Mutex<Held>, // locked while the ring is written, so that all is in the ring's order
    kept: Size,
}

/// What a new reader begins with.
pub(super) struct Begin {
    /// What was published before, oldest first.
    pub(super) last: VecDeque<Arc<Alert>>,
    /// What is published from now on.
    pub(super) next: BroadcastStream<Published>,
    /// `through` of the last one before.
    pub(super) through: u64,
}

impl Ring {
    /// One that keeps the last for who comes later.
    pub(super) fn keeping() -> Self {
        Self { sender: broadcast::Sender::new(RING), held: Mutex::default(), kept: KEPT }
    }

    /// One that holds nothing for nobody.
    pub(super) fn passing() -> Self {
        Self { kept: NOTHING, ..Self::keeping() }
    }

    /// Never waits for readers.
    pub(super) fn publish(&self, alert: &Arc<Alert>) {
        let mut held = self.held();
        let is_read = self.is_read();
        held.push(alert);
        held.shrink(if is_read { Size { alerts: RING, bytes: BYTES } } else { self.kept });
        held.through += alert.count;
        if is_read {
            let (alert, count, through) = (Arc::downgrade(alert), alert.count, held.through);
            let _left = self.sender.send(Published { alert, count, through }); // the last subscriber, meanwhile
        }
    }

    /// A new reader. `last`: what was published before is for it, too.
    pub(super) fn begin(&self, last: bool) -> Begin {
        let held = self.held();
        let last = if last { held.last() } else { VecDeque::new() };
        Begin { last, next: BroadcastStream::new(self.sender.subscribe()), through: held.through }
    }

    /// The newest ones, oldest first.
    pub(super) fn last(&self) -> VecDeque<Arc<Alert>> {
        self.held().last()
    }

    /// Whether anybody reads.
    pub(super) fn is_read(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// A reader has left.
    pub(super) fn left(&self) {
        let mut held = self.held(); // so that nobody subscribes or publishes meanwhile
        if !self.is_read() {
            held.shrink(self.kept);
        }
    }

    /// How many alerts are held, and how many bytes they have.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        let held = self.held();
        (held.alerts.len(), held.bytes)
    }

    /// The oldest that is held.
    #[cfg(test)]
    pub(super) fn oldest(&self) -> Option<Weak<Alert>> {
        self.held().alerts.front().map(|(alert, _)| Arc::downgrade(alert))
    }

    /// How many read.
    #[cfg(test)]
    pub(super) fn readers(&self) -> usize {
        self.sender.receiver_count()
    }

    // after a panic, too, there are alerts and numbers, if not quite the right ones
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
