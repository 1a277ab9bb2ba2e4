//! What the parts of one connection share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::dispatch::{Outcome, finished};
use crate::event::EventMask;
use crate::handle::{Shared, count, update};
use crate::plugin::{Plugin, Refusal};
use crate::proto::api;
use crate::proto::api_ttrpc::RuntimeClient;
use crate::state::{Lost, RuntimeInfo, State};
use crate::types::ContainerUpdate;

/// Most pods and containers that one synchronisation may name; a node has some hundreds.
const MAX_SYNCHRONIZED: usize = 1 << 20;

/// How far a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Progress {
    Connected,
    Configured,
    Synchronizing,
    Synchronized,
}

/// One connection, from the trunk to its end.
pub(crate) struct Link {
    pub(crate) plugin: Arc<dyn Plugin>,
    pub(crate) shared: Arc<Shared>,
    /// What the plugin asks for.
    pub(crate) wanted: EventMask,
    /// Subscribe to nothing that not every runtime knows: the last try ended right after the subscription.
    pub(crate) cautious: bool,
    client: RuntimeClient,
    failure: watch::Sender<Option<Lost>>,
    /// Requests that are being handled.
    busy: watch::Sender<usize>,
    inner: Mutex<Inner>,
}

struct Inner {
    progress: Progress,
    /// Cleared when the connection ends, so that a late handler does not speak for the next one.
    live: bool,
    runtime: Option<Arc<RuntimeInfo>>,
    pods: Vec<api::PodSandbox>,
    containers: Vec<api::Container>,
}

impl Link {
    pub(crate) fn new(
        plugin: Arc<dyn Plugin>,
        shared: Arc<Shared>,
        wanted: EventMask,
        cautious: bool,
        client: RuntimeClient,
    ) -> Self {
        let inner = Inner {
            progress: Progress::Connected,
            live: true,
            runtime: None,
            pods: Vec::new(),
            containers: Vec::new(),
        };
        let failure = watch::Sender::new(None);
        let busy = watch::Sender::new(0);
        Self { plugin, shared, wanted, cautious, client, failure, busy, inner: Mutex::new(inner) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runtime, once it has configured us.
    pub(crate) fn runtime(&self) -> Option<Arc<RuntimeInfo>> {
        self.inner().runtime.clone()
    }

    pub(crate) fn progress(&self) -> Progress {
        self.inner().progress
    }

    pub(crate) fn advance(&self, progress: Progress) {
        let mut inner = self.inner();
        inner.progress = inner.progress.max(progress);
    }

    /// Counts a request as being handled until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.send_modify(|busy| *busy = busy.saturating_add(1));
        Busy(Arc::clone(self))
    }

    /// Waits until no request is being handled.
    pub(crate) async fn idle(&self) {
        let mut busy = self.busy.subscribe();
        drop(busy.wait_for(|busy| *busy == 0).await);
    }

    /// Marks the connection as broken by us; the first reason stays.
    pub(crate) fn fail(&self, reason: Lost) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(reason);
            first
        });
    }

    /// Waits until [`Self::fail`].
    pub(crate) async fn failed(&self) -> Lost {
        let mut failure = self.failure.subscribe();
        let found = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        found.unwrap_or(Lost::Closed)
    }

    pub(crate) fn configured(&self, info: RuntimeInfo) {
        let info = Arc::new(info);
        tracing::info!(
            runtime = info.name,
            version = info.version,
            nri = info.nri_version.map(|version| version.to_string()),
            events = %info.events,
            "registered"
        );
        if !info.unavailable.is_empty() {
            tracing::warn!(events = %info.unavailable, "the runtime is too old for some events");
        }
        let mut inner = self.inner();
        inner.progress = inner.progress.max(Progress::Configured);
        inner.runtime = Some(Arc::clone(&info));
        if inner.live {
            self.shared.state.send_replace(State::Registered(info));
        }
    }

    /// Adds one part of the list of what runs. Gives the whole with the last part.
    ///
    /// # Errors
    /// More than any node runs.
    #[expect(clippy::type_complexity, reason = "it is the request's two lists")]
    pub(crate) fn collect(
        &self,
        request: api::SynchronizeRequest,
    ) -> Result<Option<(Vec<api::PodSandbox>, Vec<api::Container>)>, String> {
        let mut inner = self.inner();
        inner.pods.extend(request.pods);
        inner.containers.extend(request.containers);
        let known = inner.pods.len().saturating_add(inner.containers.len());
        if known > MAX_SYNCHRONIZED {
            (inner.pods, inner.containers) = (Vec::new(), Vec::new());
            return Err(format!("more than {MAX_SYNCHRONIZED} pods and containers to synchronise"));
        }
        if request.more {
            return Ok(None);
        }
        Ok(Some((std::mem::take(&mut inner.pods), std::mem::take(&mut inner.containers))))
    }

    /// Takes the plugin's answer to the list of what runs: in service, or failed.
    ///
    /// # Errors
    /// The text for the runtime.
    pub(crate) fn synchronized(
        &self,
        outcome: Outcome<Vec<ContainerUpdate>>,
    ) -> Result<Vec<ContainerUpdate>, String> {
        let why = match outcome {
            Outcome::Done(updates) => {
                let mut inner = self.inner();
                inner.progress = Progress::Synchronized;
                if let (true, Some(runtime)) = (inner.live, &inner.runtime) {
                    self.shared.set_client(Some(self.client.clone()));
                    self.shared.state.send_replace(State::Synchronized(Arc::clone(runtime)));
                }
                return Ok(updates);
            }
            Outcome::Refused(refusal) => {
                count(&self.shared.counters.refusals);
                refusal.to_string()
            }
            Outcome::Panicked(words) => {
                count(&self.shared.counters.panics);
                format!("plugin panicked in Synchronize: {words}")
            }
            Outcome::Late(task) => {
                task.abort();
                "plugin did not answer Synchronize in time".to_owned()
            }
        };
        self.fail(Lost::Synchronize(why.clone()));
        Err(why)
    }

    /// Waits for a synchronisation that was answered for, and sends its updates after it.
    pub(crate) async fn finish_synchronizing(
        self: Arc<Self>,
        task: JoinHandle<Result<Vec<ContainerUpdate>, Refusal>>,
    ) {
        match self.synchronized(finished(task.await)) {
            Ok(updates) if !updates.is_empty() && self.inner().live => {
                match update(&self.shared, updates).await {
                    Ok(failed) if failed.is_empty() => {}
                    Ok(failed) => tracing::warn!(failed = failed.len(), "late updates were not made"),
                    Err(error) => tracing::warn!(%error, "late updates were not sent"),
                }
            }
            Ok(_) => {}
            Err(why) => tracing::error!(why, "late synchronisation failed"),
        }
    }

    /// Ends the connection's say over what all see.
    pub(crate) fn end(&self) {
        let mut inner = self.inner();
        inner.live = false;
        self.shared.set_client(None);
    }
}

/// A request that is being handled.
pub(crate) struct Busy(Arc<Link>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|busy| *busy = busy.saturating_sub(1));
    }
}
