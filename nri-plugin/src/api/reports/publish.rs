//! What the holder of the lease does: makes the status of each policy of all reports, and writes it where it is another one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use enforcer_core::policy::crd_plural;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::aggregate::{Nodes, Sum};
use super::conditions::status;
use super::events::Refusals;
use super::follow::{Change, follow};
use super::wire::NodeReport;
use super::{Line, Shared, definition};
use crate::api::client::{Way, Write, read, write};
use crate::api::follow::encoded;
use crate::api::objects::About;
use crate::api::trouble::Trouble;
use crate::api::{Key, Resource};

/// The field manager of statuses.
const MANAGER: &str = "nri-enforcer-status";
/// Reports that wait at most for their turn: each may be of a megabyte.
const CHANGES: usize = 8;
/// Questions and writes one after the other, before changes are taken again.
const SLICE: usize = 100;
/// The longest wait after failures with one policy.
const LONGEST: Duration = Duration::from_secs(600);
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
                    leader.nodes.tidy();
                    leader.forget().await;
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
    shared: &'a Shared,
    refusals: &'a Refusals,
    line: Line,
    nodes: Nodes,
    /// Whether all reports were seen.
    listed: bool,
    /// The status that each policy has, by uid.
    known: HashMap<String, Known>,
    /// Where the next slice begins.
    from: usize,
    /// After trouble nothing is tried before this time.
    blocked: Option<Instant>,
}

struct Known {
    status: Value,
    /// When this daemon wrote it, or tried to.
    written: Option<Instant>,
    /// How often one after the other that failed.
    failures: u32,
}

impl<'a> Leader<'a> {
    fn new(shared: &'a Shared, refusals: &'a Refusals) -> Self {
        Self {
            shared,
            refusals,
            line: Line::default(),
            nodes: Nodes::default(),
            listed: false,
            known: HashMap::new(),
            from: 0,
            blocked: None,
        }
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

    /// Deletes the reports of nodes that are long gone.
    async fn forget(&mut self) {
        for name in self.nodes.silent(self.shared.pace.forgotten()) {
            let path = format!("{}/{}", definition::path(), encoded(&name));
            let deleted = async {
                let way = self.line.way(&self.shared.connector).await?;
                match write(&way.client, Write::Delete, &path, &Value::Null).await {
                    Ok(_) | Err(Trouble::Absent) => Ok(()),
                    Err(trouble) => Err(trouble),
                }
            };
            let deleted = deleted.await;
            if self.line.note("delete the report of a node that is gone", deleted).is_err() {
                return;
            }
            tracing::info!(node = name, "its report was not renewed for long, and is deleted");
            self.nodes.gone(&name);
        }
    }

    /// Writes what differs; whether that is all for now.
    async fn round(&mut self, abouts: &[Arc<About>]) -> bool {
        if self.blocked.is_some_and(|until| until > Instant::now()) {
            return false;
        }
        let sums = self.nodes.sum(abouts, self.shared.pace.stale());
        if self.known.len() > abouts.len() {
            let present: std::collections::HashSet<&str> =
                abouts.iter().map(|about| about.uid.as_str()).collect();
            self.known.retain(|uid, _| present.contains(uid.as_str()));
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
        all
    }

    /// One policy.
    async fn one(&mut self, about: &Arc<About>, sum: &Sum) -> Result<Done, Trouble> {
        let way = self.line.way(&self.shared.connector).await?;
        let path = path(&about.key);
        let mut asked = false;
        let known = match self.known.get(&about.uid) {
            Some(known) => known,
            None => {
                asked = true;
                let Some(status) = current(&way, about, &path).await? else { return Ok(Done::Asked) };
                self.known.entry(about.uid.clone()).or_insert(Known { status, written: None, failures: 0 })
            }
        };
        let done = if asked { Done::Asked } else { Done::Nothing };
        // until the first node knows it, what is there stays: it tells of which generation it is. Nor is it news that
        // nobody knows it yet.
        if sum.nodes == 0 && (sum.behind > 0 || known.status.get("conditions").is_none()) {
            return Ok(done);
        }
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let wanted = status(about, sum, &known.status, &now);
        if wanted == known.status {
            return Ok(done);
        }
        let wait = self.shared.pace.rewrite().saturating_mul(1 << known.failures.min(10)).min(LONGEST);
        if known.written.is_some_and(|written| written.elapsed() < wait.max(self.shared.pace.rewrite())) {
            return Ok(Done::Later);
        }
        let answer = put(&way, about, &path, &wanted).await;
        self.shared.count("status", &answer);
        match answer {
            Ok(()) => {
                if let Some(why) = refused_since(&known.status, &wanted) {
                    self.refusals.policy(about, &why);
                }
            }
            // it is gone, or another one has its name
            Err(Trouble::Absent | Trouble::Refused(409, _)) => {
                self.known.remove(&about.uid);
                return Ok(Done::Asked);
            }
            // the same would be refused again
            Err(trouble) if trouble.is_too_large() || matches!(trouble, Trouble::Refused(400 | 422, _)) => {
                tracing::warn!(policy = %about.key, "the API server does not take the status: {trouble}");
            }
            // others can be written: what is in the way of all of them is excepted
            Err(trouble @ Trouble::Refused(code, _)) if !matches!(code, 429 | 503 | 504) => {
                if let Some(known) = self.known.get_mut(&about.uid) {
                    if known.failures == 0 {
                        tracing::warn!(policy = %about.key, "cannot write the status, trying again: {trouble}");
                    }
                    (known.written, known.failures) =
                        (Some(Instant::now()), known.failures.saturating_add(1));
                }
                return Ok(Done::Asked);
            }
            Err(trouble) => return Err(trouble),
        }
        self.known
            .insert(about.uid.clone(), Known { status: wanted, written: Some(Instant::now()), failures: 0 });
        Ok(Done::Asked)
    }
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
        Resource::Namespaces => "namespaces", // no status of these is made
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

/// The message, where a policy is refused now that was not, or in other words.
fn refused_since(before: &Value, now: &Value) -> Option<String> {
    let refused = |status: &Value| -> Option<String> {
        let all = status.get("conditions")?.as_array()?;
        let its = all.iter().find(|one| one.get("type") == Some(&json!("Accepted")))?;
        let refused = its.get("status")? == "False";
        refused.then(|| its.get("message").and_then(Value::as_str).unwrap_or_default().to_owned())
    };
    let now = refused(now)?;
    (refused(before).as_ref() != Some(&now)).then_some(now)
}
