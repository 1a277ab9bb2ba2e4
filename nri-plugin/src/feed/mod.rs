//! The alert feed (`--feed`): gRPC, as clients of KubeArmor speak it (`proto/feeder.proto`), to whoever subscribes.
//! Whoever reports never waits: subscribers read from one ring of the last alerts, each at its own speed. One that is
//! slower than the ring is long loses the oldest, is told how many, and holds up nobody.

pub mod address;
pub mod messages;
pub mod serve;
mod service;

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

use crate::alert::{Alert, Alerts};

/// How many alerts the ring holds: ten seconds of a busy node, some 2 MB, and nothing without subscribers.
pub const RING: usize = 1024;
/// How many streams there are at most, each with up to 400 KB on their way. Further ones are refused.
pub const SUBSCRIBERS: usize = 32;

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
}

/// An alert in the ring.
#[derive(Debug, Clone)]
struct Published {
    alert: Arc<Alert>,
    /// How many alerts were published with this one; a summary is as many as it stands for.
    through: u64,
}

/// Where alerts are handed to subscribers.
#[derive(Debug)]
pub struct Feed {
    ring: broadcast::Sender<Published>,
    published: Mutex<u64>, // held while the ring is written, so that it is in the ring's order
    places: Arc<Semaphore>,
    alerts: Alerts,
    counts: Counts,
}

impl Feed {
    /// A feed without subscribers. `alerts` makes those that tell of a loss.
    #[must_use]
    pub fn new(alerts: Alerts) -> Arc<Self> {
        let counts = Counts::default();
        for stream in ["alerts", "logs", "messages"] {
            let labels = Labels { stream };
            let (_there, _too) = (counts.sent.get_or_create(&labels), counts.lost.get_or_create(&labels));
            let _also = counts.subscribers.get_or_create(&labels);
        }
        Arc::new(Self {
            ring: broadcast::Sender::new(RING),
            published: Mutex::default(),
            places: Arc::new(Semaphore::new(SUBSCRIBERS)),
            alerts,
            counts,
        })
    }

    /// Hands an alert to subscribers. Never waits for them.
    pub fn publish(&self, alert: &Alert) {
        if self.ring.receiver_count() > 0 {
            let alert = Arc::new(alert.clone());
            let mut published = self.published();
            *published += alert.count;
            let _left = self.ring.send(Published { alert, through: *published }); // the last subscriber, meanwhile
        }
    }

    // a number is whole after a panic, too
    fn published(&self) -> MutexGuard<'_, u64> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is counted.
    pub fn register(&self, registry: &mut Registry) {
        let Counts { subscribers, sent, lost } = &self.counts;
        registry.register("feed_subscribers", "Streams of the feed", subscribers.clone());
        registry.register("feed_sent", "What subscribers of the feed were sent", sent.clone());
        registry.register("feed_lost", "Alerts that subscribers of the feed were too slow for", lost.clone());
    }

    /// What `make` makes of alerts from now on; of a loss, it is given the alert that says so. `None`: all places are
    /// taken.
    fn subscribe<T, F: Fn(&Alert) -> Option<T> + Unpin>(
        self: &Arc<Self>,
        stream: &'static str,
        make: F,
    ) -> Option<Subscription<F>> {
        let subscriber = self.enter(stream)?;
        let published = self.published();
        let ring = BroadcastStream::new(self.ring.subscribe());
        Some(Subscription { ring, seen: *published, next: None, make, subscriber })
    }

    /// A stream that takes a place, and on which nothing ever comes. `None`: all places are taken.
    fn wait<T>(self: &Arc<Self>, stream: &'static str) -> Option<impl Stream<Item = T> + use<T>> {
        Some(Silence { _subscriber: self.enter(stream)?, nothing: PhantomData })
    }

    fn enter(self: &Arc<Self>, stream: &'static str) -> Option<Subscriber> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let labels = Labels { stream };
        self.counts.subscribers.get_or_create(&labels).inc();
        Some(Subscriber { feed: Arc::clone(self), labels, _place: place })
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
                    Some(Ok(Published { alert, through })) => {
                        let lost = through.saturating_sub(alert.count).saturating_sub(self.seen);
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

/// A stream on which nothing comes.
struct Silence<T> {
    _subscriber: Subscriber,
    nothing: PhantomData<fn() -> T>,
}

impl<T> Stream for Silence<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
        Poll::Pending // whoever subscribed ends it
    }
}

/// Counts one as long as it is there.
struct Subscriber {
    feed: Arc<Feed>,
    labels: Labels,
    _place: OwnedSemaphorePermit,
}

impl Subscriber {
    fn lost(&self, count: u64) -> Alert {
        self.feed.counts.lost.get_or_create(&self.labels).inc_by(count);
        // what was lost is not there to be asked whether it was a message
        let most = self.labels.stream != "alerts";
        self.feed.alerts.too_slow(count, most, SystemTime::now())
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.feed.counts.subscribers.get_or_create(&self.labels).dec();
    }
}

#[cfg(test)]
mod tests;
