//! Events (`events.k8s.io/v1`) of starts that were refused, on their pods, of policies that are refused, and of namespaces
//! with annotations that are.
//!
//! Who reports never waits: what does not fit into the queue is counted as lost. The same thing that happens again, as it
//! does with each of kubelet's attempts, makes one event count on; all of a node's events together have a budget.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use enforcer_core::enforce::ContainerId;
use nri::{Container, PodSandbox};
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{Instant, sleep_until};

use super::{Line, Shared, cut};
use crate::api::client::{Write, write};
use crate::api::objects::About;
use crate::api::trouble::Trouble;
use crate::api::wire::encoded;
use crate::gate::Refused;
use crate::metrics::Metrics;
use crate::registry::Registry;

/// How many wait at most.
const QUEUE: usize = 256;
/// How many different ones are kept in mind at most; of more the one that is longest ago is forgotten.
const KNOWN: usize = 512;
/// How long the same makes one event count on. Servers keep an event for an hour after its last change.
const SAME: Duration = Duration::from_secs(1800);
/// How many can be written at once after a quiet time.
const BURST: u32 = 10;
/// The most bytes of a note, by the API.
const MAX_NOTE: usize = 1024;
/// The most bytes of what reports, by the API.
const MAX_INSTANCE: usize = 128;
/// The most bytes of an object's name in an event's, with room for the rest.
const MAX_NAME: usize = 200;
/// Who reports, by the API.
const CONTROLLER: &str = "nri-enforcer.io/nri-enforcer";

/// Takes what is to be told. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Refusals {
    sender: mpsc::Sender<Occurrence>,
    lost: Counter,
}

/// What was taken.
#[derive(Debug)]
pub(super) struct Queue(mpsc::Receiver<Occurrence>);

/// A pod, and its container that is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Tells it from others of its name; empty where that is not known.
    pub uid: String,
    /// The container's name.
    pub container: String,
}

impl Pod {
    /// As the runtime tells it.
    #[must_use]
    pub fn of(pod: &PodSandbox, container: &Container) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            container: container.name.clone(),
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Occurrence {
    api_version: &'static str,
    kind: &'static str,
    namespace: String,
    name: String,
    uid: String,
    field: String,
    reason: &'static str,
    action: &'static str,
    note: String,
}

pub(super) fn queue(metrics: &Metrics) -> (Refusals, Queue) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (Refusals { sender, lost: metrics.events_lost.clone() }, Queue(queue))
}

/// What takes occurrences, and what was taken: pod, uid and note of each.
#[cfg(test)]
pub(crate) fn recorded() -> (Refusals, impl FnMut() -> Vec<[String; 3]>) {
    let (refusals, Queue(mut queue)) = queue(&Metrics::default());
    let taken = move || {
        std::iter::from_fn(|| queue.try_recv().ok()).map(|one| [one.name, one.uid, one.note]).collect()
    };
    (refusals, taken)
}

impl Refusals {
    /// A container of the pod was not allowed to start. Never waits.
    pub fn start(&self, pod: Pod, why: &str) {
        let Pod { namespace, name, uid, container } = pod;
        // what no API server knows: podman's containers, or a runtime that does not tell
        if namespace.is_empty() || name.is_empty() {
            return;
        }
        self.take(Occurrence {
            api_version: "v1",
            kind: "Pod",
            namespace,
            name,
            uid,
            field: format!("spec.containers{{{container}}}"),
            reason: "PolicyNotEnforced",
            action: "Starting",
            note: cut(why, MAX_NOTE),
        });
    }

    /// What takes those that the OCI hook was told to refuse. Podman's containers are in no cluster.
    #[must_use]
    pub fn at_gate(self, registry: Arc<Registry>) -> Refused {
        Arc::new(move |request, why| {
            if request.podman {
                return;
            }
            let known = ContainerId::new(request.id.clone()).ok().and_then(|id| registry.container(&id));
            let pod = Pod {
                namespace: request.namespace.clone(),
                name: request.pod.clone(),
                uid: known.map(|known| known.pod_uid.clone()).unwrap_or_default(),
                container: request.container.clone(),
            };
            self.start(pod, why);
        })
    }

    /// A policy, or a namespace, has a mistake. That of a namespace is told in it, where its people may look.
    pub(super) fn invalid(&self, about: &About, why: &str) {
        let namespace = if about.is_of_namespace() { &about.key.name } else { &about.key.namespace };
        self.take(Occurrence {
            api_version: about.key.resource.api_version(),
            kind: about.key.resource.kind(),
            namespace: namespace.clone(),
            name: about.key.name.clone(),
            uid: about.uid.clone(),
            field: String::new(),
            reason: "PolicyInvalid",
            action: "Accepting",
            note: cut(why, MAX_NOTE),
        });
    }

    fn take(&self, one: Occurrence) {
        if let Err(TrySendError::Full(_) | TrySendError::Closed(_)) = self.sender.try_send(one) {
            self.lost.inc();
        }
    }
}

/// Writes what is taken, until nobody can tell anything any more.
pub(super) async fn tell(shared: Shared, Queue(mut queue): Queue) {
    let mut line = Line::new(&shared.health);
    let mut told =
        Told::new(shared.pace.evaluate(), shared.pace.interval, shared.metrics.events_lost.clone());
    loop {
        tokio::select! {
            one = queue.recv() => match one {
                Some(one) => told.take(one, Instant::now()),
                None => return,
            },
            () = until(told.due()) => {}
        }
        told.forget(Instant::now());
        let Some((key, change)) = told.next(Instant::now()) else { continue };
        let answer = async {
            let way = line.way(&shared.connector).await?;
            let all = format!("/apis/events.k8s.io/v1/namespaces/{}/events", encoded(key.place()));
            match &change {
                Change::Create { name, note } => {
                    let body = key.event(name, note, &shared.node_name, SystemTime::now());
                    write(&way.client, Write::Create, &all, &body).await
                }
                Change::Count { name, count } => {
                    let last = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
                    let body = json!({"series": {"count": count, "lastObservedTime": last}});
                    write(&way.client, Write::Merge, &format!("{all}/{}", encoded(name)), &body).await
                }
            }
        };
        let answer = answer.await;
        shared.count("event", &answer);
        let answer = line.note("write events of what was refused", answer).map(drop);
        told.wrote(&key, &change, answer, Instant::now());
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Occurrence {
    /// The namespace of the event: of what lives in none, the API wants this one.
    fn place(&self) -> &str {
        if self.namespace.is_empty() { "default" } else { &self.namespace }
    }

    fn event(&self, event: &str, note: &str, node_name: &str, time: SystemTime) -> Value {
        let Self { api_version, kind, namespace, name, uid, field, reason, action, .. } = self;
        let mut regarding = json!({"apiVersion": api_version, "kind": kind, "name": name});
        let more = [("namespace", namespace), ("uid", uid), ("fieldPath", field)];
        if let Some(fields) = regarding.as_object_mut() {
            let more = more.into_iter().filter(|(_, text)| !text.is_empty());
            fields.extend(more.map(|(name, text)| (name.to_owned(), json!(text))));
        }
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": event, "namespace": self.place()},
            "eventTime": humantime::format_rfc3339_micros(time).to_string(),
            "reportingController": CONTROLLER,
            "reportingInstance": cut(node_name, MAX_INSTANCE),
            "type": "Warning",
            "reason": reason,
            "action": action,
            "note": note,
            "regarding": regarding,
        })
    }
}

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// An event.
    Create { name: String, note: String },
    /// The same has happened so often.
    Count { name: String, count: u32 },
}

/// What was taken lately, and what of it was told. No I/O.
#[derive(Debug)]
struct Told {
    known: HashMap<Occurrence, Known>,
    tokens: u32,       // writes that are left
    refilled: Instant, // when there was one more, or should have been
    refill: Duration,
    again: Duration, // the least time between two writes about the same
    blocked: Option<Instant>,
    lost: Counter,
}

#[derive(Debug)]
struct Known {
    note: String,          // of the first
    event: Option<String>, // its name, once there is one
    first: Instant,
    count: u32,
    told: u32,     // how many of these the event says
    next: Instant, // when more may be told
}

impl Told {
    fn new(refill: Duration, again: Duration, lost: Counter) -> Self {
        Self {
            known: HashMap::new(),
            tokens: BURST,
            refilled: Instant::now(),
            refill,
            again,
            blocked: None,
            lost,
        }
    }

    fn take(&mut self, mut one: Occurrence, now: Instant) {
        // the same in other numbers is the same: pids differ at each attempt
        let note = std::mem::take(&mut one.note);
        one.note = note.chars().filter(|sign| !sign.is_ascii_digit()).collect();
        if !self.known.contains_key(&one) && self.known.len() >= KNOWN {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.first).map(|(key, _)| key.clone());
            oldest.into_iter().for_each(|key| self.drop(&key));
        }
        let known = self.known.entry(one).or_insert(Known {
            note,
            event: None,
            first: now,
            count: 0,
            told: 0,
            next: now,
        });
        known.count = known.count.saturating_add(1);
    }

    fn drop(&mut self, key: &Occurrence) {
        if let Some(known) = self.known.remove(key) {
            self.lost.inc_by(known.count.saturating_sub(known.told).into());
        }
    }

    /// Forgets what was begun long ago: what is taken from now on makes a new event.
    fn forget(&mut self, now: Instant) {
        let old = |known: &Known| now.saturating_duration_since(known.first) >= SAME;
        let old: Vec<Occurrence> =
            self.known.iter().filter(|(_, known)| old(known)).map(|(key, _)| key.clone()).collect();
        old.iter().for_each(|key| self.drop(key));
    }

    /// When there is something to write, as far as is known now.
    fn due(&self) -> Option<Instant> {
        let untold = self.known.values().filter(|known| known.count > known.told);
        let due = untold.map(|known| known.next).min()?;
        let token = if self.tokens > 0 { due } else { due.max(self.refilled + self.refill) };
        Some(self.blocked.map_or(token, |blocked| blocked.max(token)))
    }

    /// What to write now.
    fn next(&mut self, now: Instant) -> Option<(Occurrence, Change)> {
        while self.tokens < BURST && self.refilled + self.refill <= now {
            self.tokens += 1;
            self.refilled += self.refill;
        }
        if self.tokens == BURST {
            self.refilled = now;
        }
        if self.tokens == 0 || self.blocked.is_some_and(|blocked| blocked > now) {
            return None;
        }
        let untold = self.known.iter().filter(|(_, known)| known.count > known.told && known.next <= now);
        let (key, known) = untold.min_by_key(|(_, known)| known.next)?;
        let change = match &known.event {
            None => Change::Create { name: name(key, SystemTime::now()), note: known.note.clone() },
            Some(name) => Change::Count { name: name.clone(), count: known.count },
        };
        self.tokens -= 1;
        Some((key.clone(), change))
    }

    fn wrote(&mut self, key: &Occurrence, change: &Change, answer: Result<(), Trouble>, now: Instant) {
        let again = self.again;
        let Some(known) = self.known.get_mut(key) else { return };
        match (answer, change) {
            (Ok(()), Change::Create { name, .. }) => {
                // what came in the meantime is told by the count
                (known.event, known.told, known.next) = (Some(name.clone()), 1, now + again);
                self.blocked = None;
            }
            (Ok(()), Change::Count { count, .. }) => {
                (known.told, known.next) = (*count, now + again);
                self.blocked = None;
            }
            // its time was over, and it tells nothing any more
            (Err(Trouble::Absent), Change::Count { .. }) => {
                known.count = known.count.saturating_sub(known.told);
                (known.event, known.told, known.first) = (None, 0, now);
            }
            // the namespace is gone, or the API does not take it: never will
            (Err(Trouble::Absent | Trouble::Refused(400 | 409 | 422, _)), _) => self.drop(&key.clone()),
            // what is in the way of this one, as a namespace that ends, must not be in that of others
            (Err(trouble), _) => {
                known.next = now + again;
                if trouble.is_everywhere() {
                    self.blocked = Some(now + again);
                }
            }
        }
    }
}

/// The name of an event, which no other has: the time is part of it.
fn name(of: &Occurrence, time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut begin: String = of.name.chars().take(MAX_NAME).collect();
    begin.truncate(begin.trim_end_matches(['.', '-']).len());
    format!("{begin}.{:x}", since.as_nanos())
}

#[cfg(test)]
mod tests;
