//! The alert feed (`--feed`): gRPC, as clients of KubeArmor speak it (`proto/feeder.proto`), to whoever subscribes.
//! Whoever reports never waits: subscribers read from one ring of the last alerts, each at its own speed. One that is
//! slower than the ring is long loses the oldest, is told how many, and holds up nobody. Logs have such a ring, too.
//!
//! The command `alerts` reads from the same ring, also where no feed is served: of the last alerts some are kept for it.

pub mod address;
pub mod messages;
mod peers;
pub mod ring;
pub mod serve;
mod service;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::Stream;
use tokio_stream::wrappers::BroadcastStream;

use self::peers::{Peer, Peers, Share};
use self::ring::{Begin, Published, Ring};
use crate::alert::{Alert, Alerts};
use crate::report::push;

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

/// The stream of logs; the others are made of alerts.
const LOGS: &str = "logs";
/// The stream of the command `alerts`.
const COMMAND: &str = "command";

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
        for stream in ["alerts", LOGS, "messages", COMMAND] {
            let labels = Labels { stream };
            let (_there, _too) = (counts.sent.get_or_create(&labels), counts.lost.get_or_create(&labels));
            let _also = counts.subscribers.get_or_create(&labels);
        }
        Arc::new(Self {
            ring: Ring::keeping(),
            logs: Ring::passing(),
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
        self.logs.is_read()
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
        Ok(Subscription::new(self.ring(stream).begin(false), make, subscriber))
    }

    /// The last alerts as lines of JSON, oldest first: no more than [`ring::KEPT`].
    #[must_use]
    pub fn last_lines(&self) -> Vec<Vec<u8>> {
        self.ring.last().iter().filter_map(|alert| line(alert)).collect()
    }

    /// The same, and those that come from now on; what a slow reader misses is told by a line, too. Whoever calls this has
    /// to bound how many there are.
    pub fn follow_lines(self: &Arc<Self>) -> impl Stream<Item = Vec<u8>> + Send + Unpin + use<> {
        let subscriber = self.seat(COMMAND, None);
        Subscription::new(self.ring.begin(true), line, subscriber)
    }

    fn enter(self: &Arc<Self>, stream: &'static str, peer: Peer) -> Result<Subscriber, Refused> {
        let share = self.peers.take(peer, OF_ONE).ok_or(Refused::OfOne);
        let place = || Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refused::All);
        let held = share.and_then(|share| Ok((place()?, share))).inspect_err(|_| self.refuse())?;
        Ok(self.seat(stream, Some(held)))
    }

    fn seat(
        self: &Arc<Self>,
        stream: &'static str,
        held: Option<(OwnedSemaphorePermit, Share)>,
    ) -> Subscriber {
        let labels = Labels { stream };
        self.counts.subscribers.get_or_create(&labels).inc();
        Subscriber { feed: Arc::clone(self), labels, _held: held }
    }

    /// Counts what is refused.
    fn refuse(&self) {
        self.counts.refused.inc();
    }
}

/// An alert as a line, as alerts are written.
fn line(alert: &Alert) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    push(&mut line, alert).then_some(line)
}

/// What a subscriber gets.
struct Subscription<F> {
    ring: BroadcastStream<Published>,
    seen: u64,                   // `through` of the last one that came
    ahead: VecDeque<Arc<Alert>>, // before the next of the ring: the last ones, or that after a loss that was told
    make: F,
    subscriber: Subscriber,
}

impl<F> Subscription<F> {
    fn new(Begin { last, next, through }: Begin, make: F, subscriber: Subscriber) -> Self {
        Self { ring: next, seen: through, ahead: last, make, subscriber }
    }
}

impl<T, F: Fn(&Alert) -> Option<T> + Unpin> Stream for Subscription<F> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            let alert = match self.ahead.pop_front() {
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
                            self.ahead.push_back(alert);
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
    _held: Option<(OwnedSemaphorePermit, Share)>, // None: whoever let it in has it counted
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
        self.feed.ring(self.labels.stream).left();
        self.feed.counts.subscribers.get_or_create(&self.labels).dec();
    }
}

#[cfg(test)]
mod tests;
