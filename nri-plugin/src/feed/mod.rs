//! The alert feed (`--feed`): gRPC, as clients of KubeArmor speak it (`proto/feeder.proto`), to whoever subscribes.
//! Whoever reports never waits: subscribers read from one ring of the last alerts, each at its own speed. One that is
//! slower than the ring is long loses the oldest, is told how many, and holds up nobody.

pub mod address;
pub mod messages;
pub mod serve;
mod service;

use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::{Stream, StreamExt};

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

/// Where alerts are handed to subscribers.
#[derive(Debug)]
pub struct Feed {
    ring: broadcast::Sender<Arc<Alert>>,
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
            places: Arc::new(Semaphore::new(SUBSCRIBERS)),
            alerts,
            counts,
        })
    }

    /// Hands an alert to subscribers. Never waits for them.
    pub fn publish(&self, alert: &Alert) {
        if self.ring.receiver_count() > 0 {
            let _left = self.ring.send(Arc::new(alert.clone())); // the last subscriber, meanwhile
        }
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
    fn subscribe<T, F: Fn(&Alert) -> Option<T>>(
        self: &Arc<Self>,
        stream: &'static str,
        make: F,
    ) -> Option<impl Stream<Item = T> + use<T, F>> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let labels = Labels { stream };
        self.counts.subscribers.get_or_create(&labels).inc();
        let subscriber = Subscriber { feed: Arc::clone(self), labels, _place: place };
        let ring = BroadcastStream::new(self.ring.subscribe());
        Some(ring.filter_map(move |next| {
            let made = match next {
                Ok(alert) => make(&alert),
                Err(BroadcastStreamRecvError::Lagged(count)) => make(&subscriber.lost(count)),
            };
            made.inspect(|_| {
                subscriber.feed.counts.sent.get_or_create(&subscriber.labels).inc();
            })
        }))
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
        self.feed.alerts.too_slow(count, SystemTime::now())
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.feed.counts.subscribers.get_or_create(&self.labels).dec();
    }
}

#[cfg(test)]
mod tests;
