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
//! What it needs of the cluster: `list` and `watch` on the four kinds of `security.kubearmor.com` and on namespaces.

mod client;
mod follow;
pub mod health;
mod object;
pub mod objects;
pub mod saved;
mod trouble;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;

use self::client::Connector;
pub use self::health::Health;
use self::health::{News, Restored};
pub use self::object::{Key, Object, Resource};
pub use self::objects::Snapshot;
use self::objects::{Change, Objects};
use self::saved::{Directory, SavedError};
use crate::exit::chain;

/// Where the last known set is kept unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/nri-enforcer/state";
/// How many changes wait at most for their turn.
const CHANGES: usize = 256;
/// How long nothing must have changed before the set is saved, so that a rollout is not saved object by object.
const QUIET: Duration = Duration::from_millis(300);
/// The longest that a set which never stops changing waits for that; after a failure, the time to the next try.
const AT_MOST: Duration = Duration::from_secs(5);

/// The policies of the API server: first those of the last known set, then what the server says.
#[derive(Debug)]
pub struct Api {
    connector: Connector,
    directory: Directory,
    objects: Objects,
    snapshots: watch::Sender<Arc<Snapshot>>,
    health: Health,
}

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
            Ok(Some(saved)) => {
                for object in saved.objects {
                    objects.apply(Change::Set(object));
                }
                let count = Resource::ALL.map(|resource| {
                    let count = objects.count(resource);
                    health.count(resource, count);
                    count
                });
                let count = count.into_iter().sum();
                tracing::info!(
                    objects = count,
                    saved = %humantime::format_rfc3339_seconds(saved.when),
                    "the last known policies of the API server are in force"
                );
                health.restore(Restored::Set { saved: saved.when, objects: count });
            }
            Err(error) => {
                let problem = chain(&error);
                tracing::error!(
                    help = "the API's policies are in force once the API server answers; the file is kept beside for a look",
                    "{problem}"
                );
                health.restore(Restored::Refused(problem));
            }
        }
        let snapshots = watch::channel(Arc::new(objects.snapshot())).0;
        Ok(Self { connector: Connector { kubeconfig }, directory, objects, snapshots, health })
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

    /// Follows the API server until `end` is there; then saves what is not saved yet.
    pub async fn run(mut self, end: impl Future<Output = ()>) {
        let (sender, mut changes) = mpsc::channel(CHANGES);
        let connector = Arc::new(self.connector.clone());
        let mut following = JoinSet::new(); // dropped with this future, and its tasks with it
        for resource in Resource::ALL {
            let (sender, health) = (sender.clone(), self.health.clone());
            following.spawn(follow::follow(resource, Arc::clone(&connector), sender, health));
        }
        drop(sender);
        let mut unsaved: Option<Unsaved> = None;
        let mut saving: Option<Saving> = None; // beside: a disk that hangs must not hold changes up
        let mut end = pin!(end);
        loop {
            let due = unsaved.as_ref().map(|unsaved| unsaved.due);
            tokio::select! {
                () = &mut end => break,
                change = changes.recv() => {
                    let Some(change) = change else { break };
                    let mut waiting = vec![change];
                    while let Ok(more) = changes.try_recv() {
                        waiting.push(more);
                    }
                    if tokio::task::block_in_place(|| self.apply(waiting)) {
                        unsaved = Some(Unsaved::again(unsaved));
                    }
                }
                _ = following.join_next() => break, // one panicked, and its kind is followed no more
                () = until(due), if saving.is_none() => {
                    unsaved = None;
                    saving = Some(self.save());
                }
                ended = ending(&mut saving) => {
                    saving = None;
                    if !self.is_saved(ended) {
                        unsaved = unsaved.or_else(|| Some(Unsaved::later()));
                    }
                }
            }
        }
        if saving.is_some() {
            let ended = ending(&mut saving).await;
            if !self.is_saved(ended) {
                unsaved = unsaved.or_else(|| Some(Unsaved::later()));
            }
        }
        if unsaved.is_some() {
            let ended = self.save().await;
            self.is_saved(ended);
        }
    }

    /// Takes changes; whether anything differs now.
    fn apply(&mut self, changes: Vec<Change>) -> bool {
        let mut changed = false;
        for change in changes {
            changed |= self.objects.apply(change);
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
        tokio::task::spawn_blocking(move || directory.save(SystemTime::now(), objects))
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

type Saving = JoinHandle<Result<(), SavedError>>;

/// Since when something is not saved, and when it is to be.
#[derive(Debug, Clone, Copy)]
struct Unsaved {
    since: Instant,
    due: Instant,
}

impl Unsaved {
    /// After one more change.
    fn again(before: Option<Self>) -> Self {
        let now = Instant::now();
        let since = before.map_or(now, |before| before.since);
        Self { since, due: (now + QUIET).min(since + AT_MOST) }
    }

    /// After a failure.
    fn later() -> Self {
        let now = Instant::now();
        Self { since: now, due: now + AT_MOST }
    }
}

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
