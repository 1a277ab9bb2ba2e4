//! What the holder of the lease does: makes the status of each policy of all reports, and writes it where it is another one.

use std::collections::{HashMap, HashSet};
use std::hash::RandomState;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use enforcer_core::policy::crd_plural;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::aggregate::{Nodes, Sum};
use super::conditions::{reduced, status};
use super::events::Refusals;
use super::follow::{Change, follow};
use super::known::{Digest, Known};
use super::wire::NodeReport;
use super::{Line, Shared, definition};
use crate::api::client::{Way, Write, read, write};
use crate::api::objects::About;
use crate::api::trouble::Trouble;
use crate::api::wire::encoded;
use crate::api::{Key, Resource};

/// The field manager of statuses.
const MANAGER: &str = "nri-enforcer-status";
/// Reports that wait at most for their turn: each may be of a megabyte.
const CHANGES: usize = 8;
/// What cannot be done where the server refuses the statuses of some policies alone.
const SINGLE: &str = "write the status of some policies";
/// Questions and writes one after the other, before changes are taken again.
const SLICE: usize = 100;
/// The wait after each of them: at most 20 a second.
const WAIT: Duration = Duration::from_millis(50);

/// Writes statuses as long as this daemon holds the lease.
pub(super) async fn publish(shared: Shared, mut leads: watch::Receiver<bool>, refusals: Refusals) {
    while leads.wait_for(|leads| *leads).await.is_ok() {
        tokio::select! {
            () = lead(&shared, &refusals) => return,
            over = leads.wait_for(|leads| !*leads) => if over.is_err() { return },
        }
    }
}

/// Until there is nothing to follow any more.
async fn lead(shared: &Shared, refusals: &Refusals) {
    let (sender, mut changes) = mpsc::channel(CHANGES);
    let mut following = JoinSet::new(); // ends with this future
    following.spawn(follow(shared.clone(), sender));
    let pace = shared.pace;
    let mut abouts = shared.abouts.clone();
    let mut leader = Leader::new(shared, refusals);
    // what changes with time alone: nodes that are silent
    let mut aging = Instant::now() + pace.interval;
    let mut due = Instant::now();
    let mut dirty = true;
    loop {
        tokio::select! {
            change = changes.recv() => {
                let Some(change) = change else { return };
                leader.take(change);
                dirty = true;
            }
            changed = abouts.changed() => {
                if changed.is_err() {
                    return;
                }
                dirty = true;
            }
            () = sleep_until(due) => {
                let now = Instant::now();
                if aging <= now {
                    aging = now + pace.interval;
                    dirty = true;
                    leader.tidy().await;
                }
                // before everything is known nothing can be said of it
                if dirty && leader.listed && shared.health.staleness().is_some() {
                    let all = abouts.borrow_and_update().clone();
                    dirty = !leader.round(&all).await;
                }
                due = Instant::now() + pace.evaluate();
            }
        }
    }
}

struct Leader<'a> {
    nodes: Nodes,
    /// Whether all reports were seen.
    listed: bool,
    /// By itself: that it works says nothing of the statuses, nor the other way round.
    tidying: Line,
    statuses: Statuses<'a>,
    namespaces: Namespaces,
}

/// The namespaces that have a mistake, by uid, as it was told. They have no status that could keep it.
#[derive(Debug, Default)]
struct Namespaces(HashMap<String, String>);

impl Namespaces {
    /// Takes all that have one, and tells what is new: each mistake once, and again by another holder of the lease.
    fn tell(&mut self, wrong: &[Arc<About>], refusals: &Refusals) {
        let mut now = HashMap::new();
        for (about, why) in wrong.iter().filter_map(|about| Some((about, about.refused.as_ref()?))) {
            if self.0.get(&about.uid) != Some(why) {
                refusals.invalid(about, why);
            }
            now.insert(about.uid.clone(), why.clone());
        }
        self.0 = now;
    }
}

struct Statuses<'a> {
    shared: &'a Shared,
    refusals: &'a Refusals,
    line: Line,
    /// What stands in the way of single ones.
    single: Line,
    /// The policies, by uid, whose status the server does not take as it is now.
    untaken: HashSet<String>,
    /// What is known of the status that each policy has, by uid.
    known: HashMap<String, Known>,
    hashes: RandomState,
    /// Where the next slice begins.
    from: usize,
    /// After trouble nothing is tried before this time.
    blocked: Option<Instant>,
}

impl<'a> Leader<'a> {
    fn new(shared: &'a Shared, refusals: &'a Refusals) -> Self {
        let statuses = Statuses {
            shared,
            refusals,
            line: Line::new(&shared.health),
            single: Line::new(&shared.health),
            untaken: HashSet::new(),
            known: HashMap::new(),
            hashes: RandomState::new(),
            from: 0,
            blocked: None,
        };
        let (nodes, namespaces) = (Nodes::default(), Namespaces::default());
        Self { nodes, listed: false, tidying: Line::new(&shared.health), statuses, namespaces }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::List => self.nodes.list(),
            Change::Set(report) => {
                let age = age(&report);
                self.nodes.set(*report, age);
            }
            Change::Gone(name) => self.nodes.gone(&name),
            Change::Listed => {
                self.nodes.listed();
                self.listed = true;
            }
        }
    }

    /// Lets texts go that no report has any more, and deletes the reports of nodes that are long gone.
    async fn tidy(&mut self) {
        self.nodes.tidy();
        let (shared, line) = (self.statuses.shared, &mut self.tidying);
        let silent = self.nodes.silent(shared.pace.forgotten());
        if silent.is_empty() {
            line.forget(); // what could not be deleted tells again, or somebody else has deleted it
        }
        for name in silent {
            let path = format!("{}/{}", definition::path(), encoded(&name));
            let deleted = async {
                let way = line.way(&shared.connector).await?;
                match write(&way.client, Write::Delete, &path, &Value::Null).await {
                    Ok(_) | Err(Trouble::Absent) => Ok(()),
                    Err(trouble) => Err(trouble),
                }
            };
            let deleted = deleted.await;
            if line.note("delete the report of a node that is gone", deleted).is_err() {
                return;
            }
            tracing::info!(node = name, "its report was not renewed for long, and is deleted");
            self.nodes.gone(&name);
        }
    }

    /// Writes what differs; whether that is all for now.
    async fn round(&mut self, abouts: &[Arc<About>]) -> bool {
        let (namespaces, policies): (Vec<_>, Vec<_>) =
            abouts.iter().cloned().partition(|about| about.is_of_namespace());
        self.namespaces.tell(&namespaces, self.statuses.refusals);
        self.statuses.round(&self.nodes, &policies).await
    }
}

impl Statuses<'_> {
    async fn round(&mut self, nodes: &Nodes, abouts: &[Arc<About>]) -> bool {
        if self.blocked.is_some_and(|until| until > Instant::now()) {
            return false;
        }
        let sums = nodes.sum(abouts, self.shared.pace.stale());
        if self.known.len() > abouts.len() {
            let present: HashSet<&str> = abouts.iter().map(|about| about.uid.as_str()).collect();
            self.known.retain(|uid, _| present.contains(uid.as_str()));
            self.untaken.retain(|uid| present.contains(uid.as_str()));
        }
        let from = if self.from < abouts.len() { self.from } else { 0 };
        let (mut asked, mut all) = (0_usize, true);
        for step in 0..abouts.len() {
            let at = (from + step) % abouts.len();
            let (Some(about), Some(sum)) = (abouts.get(at), sums.get(at)) else { continue };
            if asked >= SLICE {
                (self.from, all) = (at, false);
                break;
            }
            match self.one(about, sum).await {
                Ok(Done::Nothing) => continue,
                Ok(Done::Later) => {
                    all = false;
                    continue;
                }
                Ok(Done::Asked) => asked += 1,
                Err(trouble) => {
                    let _told = self.line.note::<()>("write the statuses of policies", Err(trouble));
                    self.blocked = Some(Instant::now() + self.shared.pace.look().max(Duration::from_secs(1)));
                    // one that is always in trouble must not stop the others
                    (self.from, all) = (at.saturating_add(1), false);
                    break;
                }
            }
            sleep(WAIT).await;
        }
        if self.blocked.is_some_and(|until| until <= Instant::now()) {
            self.blocked = None;
            let _told = self.line.note("write the statuses of policies", Ok(()));
        }
        if self.untaken.is_empty() {
            let _told = self.single.note(SINGLE, Ok(()));
        }
        all
    }

    /// One policy.
    async fn one(&mut self, about: &Arc<About>, sum: &Sum<'_>) -> Result<Done, Trouble> {
        let way = self.line.way(&self.shared.connector).await?;
        let path = path(&about.key);
        let mut asked = false;
        if !self.known.contains_key(&about.uid) {
            asked = true;
            let Some(status) = current(&way, about, &path).await? else { return Ok(Done::Asked) };
            self.known.insert(about.uid.clone(), Known::read(Digest::of(&status, &self.hashes)));
        }
        let Some(known) = self.known.get_mut(&about.uid) else { return Ok(Done::Nothing) };
        let done = if asked { Done::Asked } else { Done::Nothing };
        // until the first node knows it, what is there stays: it tells of which generation it is. Nor is it news that
        // nobody knows it yet.
        if sum.nodes == 0 && (sum.behind > 0 || !known.digest.told) {
            return Ok(done);
        }
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let wanted = status(about, sum, &known.digest, &now);
        if known.digest.is_of(&wanted, &self.hashes) {
            self.untaken.remove(&about.uid);
            return Ok(done);
        }
        if !known.may_write(Instant::now(), self.shared.pace) {
            return Ok(Done::Later);
        }
        let news = known.digest.refused_since(&wanted, &self.hashes).map(str::to_owned);
        // what is not known as written is wanted the next time, too
        let digest = Digest::of(&wanted, &self.hashes);
        let mut answer = put(&way, about, &path, &wanted).await;
        self.shared.count("status", &answer);
        if let Err(trouble) = &answer
            && is_about_content(trouble)
        {
            tracing::warn!(policy = %about.key, "the API server does not take the whole status, trying less of it: {trouble}");
            answer = put(&way, about, &path, &reduced(wanted)).await;
            self.shared.count("status", &answer);
        }
        match answer {
            Ok(()) => {
                if let Some(why) = news {
                    self.refusals.invalid(about, &why);
                }
                *known = Known::written(digest, Instant::now());
                self.untaken.remove(&about.uid);
            }
            // it is gone, or another one has its name
            Err(Trouble::Absent | Trouble::Refused(409, _)) => {
                self.known.remove(&about.uid);
                self.untaken.remove(&about.uid);
            }
            // the same would be refused again, as long as the server is as it is
            Err(trouble) if is_about_content(&trouble) => {
                if known.refused(Instant::now()) {
                    tracing::warn!(policy = %about.key, "the API server does not take the status: {trouble}");
                }
                self.untaken.insert(about.uid.clone());
                let _told = self.single.note::<()>(SINGLE, Err(trouble));
            }
            // others can be written: what is in the way of all of them is excepted
            Err(trouble @ Trouble::Refused(code, _)) if !matches!(code, 429 | 503 | 504) => {
                if known.failed(Instant::now()) {
                    tracing::warn!(policy = %about.key, "cannot write the status, trying again: {trouble}");
                }
                self.untaken.insert(about.uid.clone());
                let _told = self.single.note::<()>(SINGLE, Err(trouble));
            }
            Err(trouble) => return Err(trouble),
        }
        Ok(Done::Asked)
    }
}

/// Whether the server refuses what a status says, and not that it is written.
fn is_about_content(trouble: &Trouble) -> bool {
    trouble.is_too_large() || matches!(trouble, Trouble::Refused(400 | 422, _))
}

enum Done {
    /// It has what it is to have.
    Nothing,
    /// Something is to be written that was written a moment ago.
    Later,
    /// The server was asked.
    Asked,
}

/// How long ago a report was written, by the node's clock and ours.
fn age(report: &NodeReport) -> Duration {
    let written = humantime::parse_rfc3339(&report.renew_time).ok();
    let age = written.and_then(|written| SystemTime::now().duration_since(written).ok());
    age.unwrap_or_default()
}

/// Where the status of a policy is.
fn path(Key { resource, namespace, name }: &Key) -> String {
    let plural = match resource {
        Resource::Policies(kind) => crd_plural(*kind),
        // no status of these is made
        Resource::Namespaces => "namespaces",
        Resource::Node => "nodes",
    };
    let within =
        if namespace.is_empty() { String::new() } else { format!("namespaces/{}/", encoded(namespace)) };
    format!("/apis/security.kubearmor.com/v1/{within}{plural}/{}/status", encoded(name))
}

/// The status that a policy has; `None`: there is no such policy any more.
async fn current(way: &Way, about: &About, path: &str) -> Result<Option<Value>, Trouble> {
    let object = match read(&way.client, path).await {
        Ok(object) => object,
        Err(Trouble::Absent) => return Ok(None),
        Err(trouble) => return Err(trouble),
    };
    let same = object.pointer("/metadata/uid").and_then(Value::as_str) == Some(about.uid.as_str());
    Ok(same.then(|| object.get("status").cloned().unwrap_or_else(|| json!({}))))
}

async fn put(way: &Way, about: &About, path: &str, status: &Value) -> Result<(), Trouble> {
    let mut metadata = json!({"name": about.key.name, "uid": about.uid});
    if let Some(fields) = metadata.as_object_mut().filter(|_| !about.key.namespace.is_empty()) {
        fields.insert("namespace".to_owned(), json!(about.key.namespace));
    }
    let body = json!({
        "apiVersion": "security.kubearmor.com/v1",
        "kind": about.key.resource.kind(),
        "metadata": metadata,
        "status": status,
    });
    let path = format!("{path}?fieldManager={MANAGER}&force=true");
    write(&way.client, Write::Apply, &path, &body).await.map(drop)
}

#[cfg(test)]
mod tests;
