//! What the cluster is told: the status of each policy, and events of starts that were refused (`--kube-status`).
//!
//! ```text
//! each node:   what `nri-enforcer status` tells -> its own NodePolicyReport
//! one of them: every NodePolicyReport -> `status` of each policy        (who, says a Lease)
//! each node:   refused starts -> a bounded queue -> Events
//! ```
//!
//! Why so: were each node to write the status of each policy, a change of 1,000 policies on 1,000 nodes would be 1,000,000
//! writes to 1,000 objects, most of them refused as conflicts. Here no two write to one object: each node writes its own
//! report, and the holder of the lease the statuses, by server-side apply as one field manager. Two that hold themselves for
//! the holder for a moment write the same.
//!
//! With 1,000 nodes and 1,000 policies, and [`Pace::default`]:
//!
//! - Nothing changes: a report is renewed every 10 minutes, 100 writes a minute; the lease every 20 seconds, 3 a minute;
//!   999 look at the lease every minute, which the server answers from its cache. (Kubelets renew 6,000 leases a minute.)
//! - A policy changes: each node writes one report within 10 seconds, chosen at random by each, and the next one not before
//!   a minute; the holder writes the policy's status at most twice a minute. 1,000 writes, and 2.
//! - Everything changes all the time: 1,000 reports a minute, and at most 20 statuses a second, one after the other.
//! - A new holder reads 1,000 statuses, 20 a second, and writes those that differ.
//!
//! A report has some 150 bytes for each policy, 150 KB here, and never more than [`wire::MAX_BYTES`]: what it leaves out it
//! counts, and that is said in no policy's favour: a policy is in force where all nodes have told of it. The holder keeps
//! 40 bytes for each node and policy, 40 MB here (`make nodes` measures it), and never more than 128 MiB: what has no room is
//! not known. What it makes of them for a policy points to their texts, and of a status that it wrote it keeps a digest of some 200 bytes.
//!
//! What a dead holder had not written the next one writes, since all it was made of is in the reports. Nothing here is on a
//! container's start path, and nothing that fails here changes what is enforced.

mod aggregate;
mod conditions;
pub mod definition;
mod election;
pub mod events;
mod follow;
mod known;
mod node;
mod publish;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use self::events::{Queue, Refusals};
use super::client::{Connector, Way};
use super::trouble::Trouble;
use super::{Abouts, Api, Health};
use crate::metrics::{ApiWrite, Metrics};
use crate::parts::{Ended, Parts, alone};
use crate::status::serve::Status;

/// The least time between two reports of a node, unless told otherwise.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// How often what is done. All of it follows from one time, so that nothing is out of proportion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// The least time between two reports of a node.
    interval: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: DEFAULT_INTERVAL }
    }
}

impl Pace {
    /// How often a node looks whether its report is another one; and over which time nodes spread what all of them see at
    /// the same moment.
    fn look(self) -> Duration {
        self.interval / 6
    }

    /// After which time a report is written again though nothing changed.
    fn heartbeat(self) -> Duration {
        self.interval.saturating_mul(10)
    }

    /// After which time without a report a node does not count.
    fn stale(self) -> Duration {
        self.interval.saturating_mul(30)
    }

    /// After which time the report of such a node is deleted.
    fn forgotten(self) -> Duration {
        self.interval.saturating_mul(24 * 60)
    }

    /// How often at most the statuses are made.
    fn evaluate(self) -> Duration {
        self.interval / 12
    }

    /// The least time between two writes of one policy's status.
    fn rewrite(self) -> Duration {
        self.interval / 2
    }

    /// How long the lease lasts: not too short for a server that is slow, nor so long that nobody follows a dead holder.
    fn lease(self) -> Duration {
        self.interval.clamp(Duration::from_secs(3), DEFAULT_INTERVAL)
    }
}

/// A duration of which a random part of up to one half is taken off: nodes that begin together must not go on together.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::random_range(0.5..=1.0))
}

/// Tells the cluster.
#[derive(Debug)]
pub struct Reports {
    shared: Shared,
    queue: Queue,
    refusals: Refusals,
    /// What works is started in this.
    parts: Parts,
}

/// What every part needs.
#[derive(Debug, Clone)]
struct Shared {
    connector: Arc<Connector>,
    /// The namespace of the lease; `None`: that of the service account, or of the kubeconfig.
    namespace: Option<String>,
    node_name: String,
    abouts: watch::Receiver<Abouts>,
    health: Health,
    metrics: Metrics,
    pace: Pace,
}

impl Shared {
    /// Counts a write.
    fn count<T>(&self, object: &'static str, answer: &Result<T, Trouble>) {
        let outcome = if answer.is_ok() { "ok" } else { "failed" };
        self.metrics.api_writes.get_or_create(&ApiWrite { object, outcome }).inc();
    }
}

impl Api {
    /// What tells the cluster how policies stand on `node_name`, and more. `interval`: the least time between two reports.
    /// `namespace`: where the lease is, `None` for that of the service account.
    #[must_use]
    pub fn reports(
        &self,
        node_name: &str,
        namespace: Option<String>,
        interval: Duration,
        metrics: &Metrics,
    ) -> Reports {
        let (refusals, queue) = events::queue(metrics);
        let shared = Shared {
            connector: Arc::new(self.connector.clone()),
            namespace,
            node_name: node_name.to_owned(),
            abouts: self.abouts.subscribe(),
            health: self.health.clone(),
            metrics: metrics.clone(),
            pace: Pace { interval: interval.max(Duration::from_millis(100)) },
        };
        Reports { shared, queue, refusals, parts: Parts::default() }
    }
}

impl Reports {
    /// Takes refused starts.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        self.refusals.clone()
    }

    /// Tells until `end` is there, on a thread of its own: whoever answers the runtime does not wait for it.
    ///
    /// # Errors
    /// Which part of it ended before, and why: without the one that writes statuses, say, whoever holds the lease would keep
    /// everybody from writing them.
    pub async fn run(self, status: Arc<Status>, end: oneshot::Receiver<()>) -> Ended {
        alone("reports", work(self, status, end)).await
    }
}

async fn work(reports: Reports, status: Arc<Status>, end: oneshot::Receiver<()>) -> Ended {
    let Reports { shared, queue, refusals, mut parts } = reports;
    let (leading, leads) = watch::channel(false);
    let (resign, resigned) = oneshot::channel();
    let others = [
        parts.start("the report of this node", node::report(shared.clone(), status)),
        parts.start("the writer of events", events::tell(shared.clone(), queue)),
        parts.start("the writer of statuses", publish::publish(shared.clone(), leads, refusals)),
    ];
    parts.start("the election", election::stand(shared, leading, resigned));
    let result = tokio::select! {
        _ended = end => Ok(()),
        why = parts.ended() => Err(why),
    };
    others.iter().for_each(AbortHandle::abort);
    drop(resign);
    // else the next holder waits until the lease is over
    let _late = parts.finish(election::RESIGNING).await;
    result
}

/// A connection to the server, made anew after trouble: another token or address may have come by then.
struct Line {
    way: Option<Way>,
    /// What cannot be done, and why.
    said: Option<(&'static str, Trouble)>,
    health: Health,
}

/// Nobody tries any more.
impl Drop for Line {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Line {
    fn new(health: &Health) -> Self {
        Self { way: None, said: None, health: health.clone() }
    }

    /// What stood in the way does so no more; whether something did.
    fn forget(&mut self) -> bool {
        let before = self.said.take();
        if let Some((what, _)) = &before {
            self.health.untold(what, None);
        }
        before.is_some()
    }

    async fn way(&mut self, connector: &Connector) -> Result<Way, Trouble> {
        match &self.way {
            Some(way) => Ok(way.clone()),
            None => Ok(self.way.insert(connector.way().await?).clone()),
        }
    }

    /// What goes on for long does so again: whether it ends well is known later.
    fn works(&self) {
        if let Some((what, _)) = &self.said {
            self.health.untold(what, None);
        }
    }

    /// Takes how something ended, and tells what stands in the way once. `what`: what cannot be done.
    fn note<T>(&mut self, what: &'static str, answer: Result<T, Trouble>) -> Result<T, Trouble> {
        match &answer {
            Ok(_) => {
                if self.forget() {
                    tracing::info!("can again {what}");
                }
            }
            Err(trouble) => {
                let known = matches!(trouble, Trouble::Absent | Trouble::Forbidden(_) | Trouble::Refused(..));
                if !known {
                    self.way = None;
                }
                if !self.said.as_ref().is_some_and(|(_, said)| said.is_like(trouble)) {
                    tracing::warn!("cannot {what}; enforcement goes on, trying again: {trouble}");
                }
                self.forget();
                self.health.untold(what, Some(trouble.to_string()));
                self.said = Some((what, trouble.clone()));
            }
        }
        answer
    }
}

/// A time as Kubernetes writes it, with microseconds.
fn now() -> String {
    humantime::format_rfc3339_micros(std::time::SystemTime::now()).to_string()
}

/// At most so many bytes of a text, with a mark where something was cut off.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    const MARK: &str = "...";
    let mut end = most.saturating_sub(MARK.len());
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    format!("{}{MARK}", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests;
