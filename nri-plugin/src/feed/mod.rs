//! The alert feed (`--feed`): gRPC, as clients of KubeArmor speak it (`proto/feeder.proto`), to whoever subscribes.
//! Whoever reports never waits: subscribers read from one ring of the last alerts, each at its own speed. One that is
//! slower than the ring is long loses the oldest, is told how many, and holds up nobody. Logs have such a ring, too.

pub mod address;
pub mod messages;
mod peers;
pub mod serve;
mod service;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_stream::Stream;
use tokio_stream::wrappers::BroadcastStream;

use self::peers::{Peer, Peers, Share};
use crate::alert::{Alert, Alerts};

/// How many alerts the ring holds: ten seconds of a busy node, some 2 MB, and nothing without subscribers.
pub const RING: usize = 1024;
/// How many bytes of alerts it holds, whatever their number: whoever is confined chooses paths.
pub const BYTES: usize = 8 << 20;
/// How many streams there are at most, each with up to 400 KB on their way. Further ones are refused.
pub const SUBSCRIBERS: usize = 32;
/// How many of them one address of the network may have.
const OF_ONE: usize = 8;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("there are {SUBSCRIBERS} subscribers already")]
    All,
    #[error("there are {OF_ONE} streams to this address already")]
    OfOne,
}

/// One of the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    stream: &'static str,
}

#[derive(Debug, Default)]
struct Counts {
    subscribers: Family<Labels, Gauge>,
    sent: Family<Labels, Counter>,
    lost: Family<Labels, Counter>,
    refused: Counter,
}

/// An alert in the ring.
#[derive(Debug, Clone)]
struct Published {
    /// Gone, once it has made place for later ones.
    alert: Weak<Alert>,
    count: u64,
    /// How many alerts were published with this one; a summary is as many as it stands for.
    through: u64,
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
        while self.alerts.len() > RING || (self.bytes > BYTES && self.alerts.len() > 1) {
            let Some((_, size)) = self.alerts.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(size);
        }
    }

    fn clear(&mut self) {
        (self.alerts, self.bytes) = Default::default();
    }
}

/// Alerts, or logs, for whoever reads them.
#[derive(Debug)]
struct Ring {
    sender: broadcast::Sender<Published>,
    held: Mutex<Held>, // locked while the ring is written, so that all is in the ring's order
}

impl Default for Ring {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(RING), held: Mutex::default() }
    }
}

impl Ring {
    fn publish(&self, alert: &Arc<Alert>) {
        let mut held = self.held();
        if self.sender.receiver_count() == 0 {
            return held.clear();
        }
        held.push(alert);
        held.through += alert.count;
        let published = Published { alert: Arc::downgrade(alert), count: alert.count, through: held.through };
        let _left = self.sender.send(published); // the last subscriber, meanwhile
    }

    // after a panic, too, there are alerts and numbers, if not quite the right ones
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream of logs; the others are made of alerts.
const LOGS: &str = "logs";

/// Where alerts and logs are handed to subscribers.
#[derive(Debug)]
pub struct Feed {
    ring: Ring,
    logs: Ring, // of their own: a flood of logs pushes no alert out
    places: Arc<Semaphore>,
    peers: Peers,
    alerts: Alerts,
    counts: Counts,
}

impl Feed {
    /// A feed without subscribers. `alerts` makes those that tell of a loss.
    #[must_use]
    pub fn new(alerts: Alerts) -> Arc<Self> {
        let counts = Counts::default();
        for stream in ["alerts", LOGS, "messages"] {
            let labels = Labels { stream };
            let (_there, _too) = (counts.sent.get_or_create(&labels), counts.lost.get_or_create(&labels));
            let _also = counts.subscribers.get_or_create(&labels);
        }
        Arc::new(Self {
            ring: Ring::default(),
            logs: Ring::default(),
            places: Arc::new(Semaphore::new(SUBSCRIBERS)),
            peers: Peers::default(),
            alerts,
            counts,
        })
    }

    /// Hands an alert to subscribers. Never waits for them.
    pub fn publish(&self, alert: &Arc<Alert>) {
        self.ring.publish(alert);
    }

    /// Hands a log to subscribers. Never waits for them.
    pub fn publish_log(&self, log: &Arc<Alert>) {
        self.logs.publish(log);
    }

    /// Whether anybody reads logs.
    #[must_use]
    pub fn has_readers_of_logs(&self) -> bool {
        self.logs.sender.receiver_count() > 0
    }

    fn ring(&self, stream: &str) -> &Ring {
        if stream == LOGS { &self.logs } else { &self.ring }
    }

    /// What is counted.
    pub fn register(&self, registry: &mut Registry) {
        let Counts { subscribers, sent, lost, refused } = &self.counts;
        registry.register("feed_subscribers", "Streams of the feed", subscribers.clone());
        registry.register("feed_sent", "What subscribers of the feed were sent", sent.clone());
        registry.register(
            "feed_lost",
            "Alerts and logs that subscribers of the feed were too slow for",
            lost.clone(),
        );
        let help = "Connections and streams of the feed that were refused, since there were too many";
        registry.register("feed_refused", help, refused.clone());
    }

    /// What `make` makes of the stream's alerts or logs from now on; of a loss, it is given the alert that says so.
    fn subscribe<T, F: Fn(&Alert) -> Option<T> + Unpin>(
        self: &Arc<Self>,
        stream: &'static str,
        peer: Peer,
        make: F,
    ) -> Result<Subscription<F>, Refused> {
        let subscriber = self.enter(stream, peer)?;
        let ring = self.ring(stream);
        let held = ring.held();
        let ring = BroadcastStream::new(ring.sender.subscribe());
        Ok(Subscription { ring, seen: held.through, next: None, make, subscriber })
    }

    fn enter(self: &Arc<Self>, stream: &'static str, peer: Peer) -> Result<Subscriber, Refused> {
        let share = self.peers.take(peer, OF_ONE).ok_or(Refused::OfOne);
        let place = || Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refused::All);
        let held = share.and_then(|share| Ok((place()?, share))).inspect_err(|_| self.refuse())?;
        let labels = Labels { stream };
        self.counts.subscribers.get_or_create(&labels).inc();
        Ok(Subscriber { feed: Arc::clone(self), labels, _held: held })
    }

    /// Counts what is refused.
    fn refuse(&self) {
        self.counts.refused.inc();
    }
}

/// What a subscriber gets.
struct Subscription<F> {
    ring: BroadcastStream<Published>,
    seen: u64,                // `through` of the last one that came
    next: Option<Arc<Alert>>, // after a loss that was told
    make: F,
    subscriber: Subscriber,
}

impl<T, F: Fn(&Alert) -> Option<T> + Unpin> Stream for Subscription<F> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            let alert = match self.next.take() {
                Some(alert) => alert,
                None => match ready!(Pin::new(&mut self.ring).poll_next(context)) {
                    None => return Poll::Ready(None),
                    Some(Err(_)) => continue, // it lags; how many alerts that are, the next one tells
                    Some(Ok(Published { alert, count, through })) => {
                        let Some(alert) = alert.upgrade() else { continue }; // likewise
                        let lost = through.saturating_sub(count).saturating_sub(self.seen);
                        self.seen = through;
                        if lost == 0 {
                            alert
                        } else {
                            self.next = Some(alert);
                            Arc::new(self.subscriber.lost(lost))
                        }
                    }
                },
            };
            if let Some(made) = (self.make)(&alert) {
                self.subscriber.feed.counts.sent.get_or_create(&self.subscriber.labels).inc();
                return Poll::Ready(Some(made));
            }
        }
    }
}

/// Counts one as long as it is there.
struct Subscriber {
    feed: Arc<Feed>,
    labels: Labels,
    _held: (OwnedSemaphorePermit, Share),
}

impl Subscriber {
    fn lost(&self, count: u64) -> Alert {
        self.feed.counts.lost.get_or_create(&self.labels).inc_by(count);
        // what was lost is not there to be asked whether it was a message
        let most = self.labels.stream == "messages";
        let what = if self.labels.stream == LOGS { LOGS } else { "alerts" };
        self.feed.alerts.too_slow(count, what, most, SystemTime::now())
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let ring = self.feed.ring(self.labels.stream);
        let mut held = ring.held(); // so that nobody subscribes or publishes meanwhile
        if ring.sender.receiver_count() == 0 {
            held.clear();
        }
        drop(held);
        self.feed.counts.subscribers.get_or_create(&self.labels).dec();
    }
}

#[cfg(test)]
mod tests;
