//! Policies from the API server of Kubernetes, beside those of directories.
//!
//! ```text
//! API server -> follow (a task for each kind) -> Objects -> Snapshot -> the store, which merges it with the directories
//!                                                   |  ^
//!                                                   v  | once, at the start
//!                                               policies.json
//! ```
//!
//! - The API is on no container's start path: what is in memory is in force, however old.
//! - Each object is read by the parser of files. One that is wrong is told, and keeps its last good version in force;
//!   others do not notice. An object that is deleted goes, and what comes later under its name begins anew.
//! - Only what the server says drops a policy: that the object was deleted, or a whole list without it. No answer, a
//!   refusal (401, 403), nonsense and a missing definition (404) drop nothing. Kubernetes deletes the objects of a
//!   definition before the definition itself, and a watch tells of each; a 404 alone may as well be an API server that
//!   is starting, an aggregator that is in trouble, or somebody between the two.
//! - Of a policy in a directory and one of the API with the same kind, namespace and name, that of the directory counts.
//! - What is in force is kept on disk ([`saved`]) and loaded before the runtime is told that there is a plugin.
//!
//! - Where host policies are enforced, the labels of the node are followed likewise. Those that were told last count, whatever
//!   becomes of the node's object.
//!
//! What it needs of the cluster: `list` and `watch` on the four kinds of `security.kubearmor.com`, on namespaces and, where host
//! policies are enforced, on nodes; what is told to the cluster, and what that needs, is in [`reports`].

mod client;
mod follow;
pub mod health;
mod listed;
pub mod node;
pub mod object;
pub mod objects;
pub mod reports;
mod room;
pub mod saved;
mod saving;
mod trouble;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use self::client::Connector;
pub use self::health::Health;
use self::health::{News, Restored};
pub use self::object::{Item, Key, Object, Resource, Says};
pub use self::objects::Snapshot;
use self::objects::{About, Change, Objects};
use self::saved::{Directory, Saved, SavedError};
use self::saving::Schedule;
use crate::exit::chain;
use crate::parts::{Ended, Parts, alone};

/// Where the last known set is kept unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/nri-enforcer/state";
/// How many changes wait at most for their turn: few, as each may be an object of some megabytes.
const CHANGES: usize = 8;

/// The policies of the API server: first those of the last known set, then what the server says.
#[derive(Debug)]
pub struct Api {
    connector: Connector,
    directory: Directory,
    objects: Objects,
    snapshots: watch::Sender<Arc<Snapshot>>,
    abouts: watch::Sender<Abouts>,
    health: Health,
    node: Option<String>,
}

/// What can be told of each policy of the API server.
type Abouts = Vec<Arc<About>>;

impl Api {
    /// Loads the last known set. A set that cannot be used is told, and no error: the node must not be without a daemon
    /// for it.
    ///
    /// # Errors
    /// When the directory cannot be used at all.
    pub fn load(kubeconfig: Option<PathBuf>, state_dir: &Path) -> Result<Self, SavedError> {
        let directory = Directory::open(state_dir)?;
        let mut objects = Objects::default();
        let health = Health::default();
        match directory.load() {
            Ok(None) => {
                tracing::info!(dir = %state_dir.display(), "no last known policies of the API server on this node");
            }
            Ok(Some(Saved { when, read, more, objects: saved })) => {
                // at once: looking for what there is room for costs as much as there is
                let more = more.into_iter().map(|resource| Change::More(resource, 0));
                objects.apply_all(saved.into_iter().map(Change::Set).chain(more));
                leave_out(&health, &objects);
                objects.restore_read(read.clone());
                let count = Resource::ALL.map(|resource| {
                    let count = objects.count(resource);
                    health.count(resource, count);
                    count
                });
                let count = count.into_iter().sum();
                tracing::info!(
                    objects = count,
                    saved = %humantime::format_rfc3339_seconds(when),
                    "the last known policies of the API server are in force"
                );
                for unread in Resource::ALL.iter().filter(|one| !read.contains(one)) {
                    tracing::warn!(kind = %unread, "not every object of this kind was known when they were saved");
                }
                health.restore(Restored::Set { saved: when, objects: count }, read);
            }
            Err(error) => {
                let problem = chain(&error);
                tracing::error!(help = error.help(), "{problem}");
                health.restore(Restored::Refused(problem), BTreeSet::new());
            }
        }
        let snapshots = watch::channel(Arc::new(objects.snapshot())).0;
        let abouts = watch::channel(objects.abouts()).0;
        let connector = Connector { kubeconfig };
        Ok(Self { connector, directory, objects, snapshots, abouts, health, node: None })
    }

    /// The same, which also follows the labels of the node with this name.
    #[must_use]
    pub fn with_labels_of(mut self, node_name: &str) -> Self {
        self.objects.of_node(node_name);
        self.snapshots.send_replace(Arc::new(self.objects.snapshot()));
        self.node = Some(node_name.to_owned());
        self
    }

    /// What is in force of the API, now and later.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    /// How the watch stands.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Follows the API server until `end` is there, on a thread of its own: whoever answers the runtime does not wait for the
    /// decoding of objects, nor for a program that a kubeconfig names to get credentials, which has all the time it wants.
    /// Then saves what is not saved yet.
    ///
    /// # Errors
    /// Why it follows no more, before `end`.
    pub async fn run(self, end: oneshot::Receiver<()>) -> Ended {
        alone("api", self.follow(async { drop(end.await) })).await
    }

    async fn follow(mut self, end: impl Future<Output = ()>) -> Ended {
        let (sender, mut changes) = mpsc::channel(CHANGES);
        let connector = Arc::new(self.connector.clone());
        let mut again = BTreeMap::new();
        let mut following = Parts::default(); // dropped with this future, and its tasks with it
        let node = self.node.clone().map(|name| (Resource::Node, Some(name)));
        for followed in Resource::ALL.into_iter().map(|resource| (resource, None)).chain(node) {
            let resource = followed.0;
            let (sender, health, list) = (sender.clone(), self.health.clone(), Arc::new(Notify::new()));
            again.insert(resource, Arc::clone(&list));
            let one = follow::follow(followed, Arc::clone(&connector), sender, health, list);
            following.start(resource.kind(), one);
        }
        drop(sender);
        let mut schedule = Schedule::default();
        let mut saving: Option<Saving> = None; // beside: a disk that hangs must not hold changes up
        let mut end = pin!(end);
        let result = loop {
            tokio::select! {
                () = &mut end => break Ok(()),
                Some(change) = changes.recv() => {
                    let mut waiting = vec![change];
                    while waiting.len() < CHANGES && let Ok(more) = changes.try_recv() {
                        waiting.push(more);
                    }
                    if self.apply(waiting) {
                        schedule.changed(Instant::now());
                    }
                    for resource in self.objects.wanted() {
                        again.get(&resource).into_iter().for_each(|list| list.notify_one());
                    }
                }
                why = following.ended() => break Err(why),
                () = until(schedule.due()), if saving.is_none() => {
                    schedule.begin();
                    saving = Some(self.save());
                }
                ended = ending(&mut saving) => {
                    saving = None;
                    schedule.end(Instant::now(), self.is_saved(ended));
                }
            }
        };
        if saving.is_some() {
            let ended = ending(&mut saving).await;
            schedule.end(Instant::now(), self.is_saved(ended));
        }
        if schedule.due().is_some() {
            let ended = self.save().await;
            self.is_saved(ended);
        }
        result
    }

    /// Takes changes; whether what is to be saved differs now.
    fn apply(&mut self, changes: Vec<Change>) -> bool {
        let read = self.objects.read().len();
        let mut changed = self.objects.apply_all(changes);
        changed |= self.objects.read().len() > read; // that there is nothing of a kind is worth knowing, too
        leave_out(&self.health, &self.objects);
        if self.objects.told() {
            self.abouts.send_replace(self.objects.abouts());
        }
        if changed {
            for resource in Resource::ALL {
                self.health.count(resource, self.objects.count(resource));
            }
            self.snapshots.send_replace(Arc::new(self.objects.snapshot()));
        }
        changed
    }

    /// Saves the set.
    fn save(&self) -> Saving {
        let (directory, objects) = (self.directory.clone(), self.objects.saved());
        let (read, more) = (self.objects.read().clone(), self.objects.unnamed().collect());
        let when = SystemTime::now();
        tokio::task::spawn_blocking(move || directory.save(Saved { when, read, more, objects }))
    }

    /// Tells how saving ended, where that is news; whether it went well.
    fn is_saved(&self, ended: Result<Result<(), SavedError>, JoinError>) -> bool {
        let problem = match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(chain(&error)),
            Err(error) => Some(error.to_string()),
        };
        let news = self.health.saved(problem.clone());
        match &problem {
            Some(problem) if news == News::Tell => tracing::error!(
                help = "after a start without the API server an older set would be in force; trying again",
                "the policies of the API server cannot be saved: {problem}"
            ),
            None if news == News::Tell => tracing::info!("the policies of the API server are saved again"),
            _ => {}
        }
        problem.is_none()
    }
}

/// Tells what is left out, of the node itself, too: without its labels host policies are not in force.
fn leave_out(health: &Health, objects: &Objects) {
    for resource in Resource::ALL.into_iter().chain([Resource::Node]) {
        health.leave_out(resource, objects.left_out(resource));
    }
}

type Saving = JoinHandle<Result<(), SavedError>>;

async fn ending(saving: &mut Option<Saving>) -> Result<Result<(), SavedError>, JoinError> {
    match saving {
        Some(saving) => saving.await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
