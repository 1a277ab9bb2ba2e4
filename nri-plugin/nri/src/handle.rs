//! What a plugin can do outside its handlers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::proto::api;
use crate::proto::api_ttrpc::RuntimeClient;
use crate::state::State;
use crate::types::ContainerUpdate;
use crate::types::wire::Wire;

/// Longest wait for the answer to an update: the runtime first finishes what it is at, other plugins included.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(30);

tokio::task_local! {
    /// Set while a handler runs, so that it cannot wait for the runtime that waits for it.
    pub(crate) static IN_HANDLER: ();
}

/// What the handles and the session both hold. It outlives connections.
pub(crate) struct Shared {
    pub(crate) state: watch::Sender<State>,
    client: Mutex<Option<RuntimeClient>>,
    /// One call at a time: ttrpc takes stream ids before it queues, and a runtime refuses an id that went back.
    turn: Arc<AsyncMutex<()>>,
    pub(crate) counters: Counts,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) refusals: AtomicU64,
    pub(crate) deadlines: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) unimplemented: AtomicU64,
    pub(crate) frames_dropped: Arc<AtomicU64>,
}

/// What happened so far, over all connections. Each number only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Connections that reached the trunk.
    pub connections: u64,
    /// Requests that a handler was called for.
    pub requests: u64,
    /// Handlers that answered with an error of their own.
    pub refusals: u64,
    /// Handlers that were not done at their deadline.
    pub deadlines: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Requests for events that the plugin did not subscribe to.
    pub unimplemented: u64,
    /// Frames on connections that nobody opened.
    pub frames_dropped: u64,
}

impl Counts {
    fn read(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            connections: read(&self.connections),
            requests: read(&self.requests),
            refusals: read(&self.refusals),
            deadlines: read(&self.deadlines),
            panics: read(&self.panics),
            unimplemented: read(&self.unimplemented),
            frames_dropped: read(&self.frames_dropped),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::new(State::Connecting { attempt: 1 }),
            client: Mutex::new(None),
            turn: Arc::new(AsyncMutex::new(())),
            counters: Counts::default(),
        }
    }

    pub(crate) fn set_client(&self, client: Option<RuntimeClient>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn client(&self) -> Option<RuntimeClient> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why an update did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Called from a handler, which the runtime waits for.
    #[error("containers cannot be updated from inside a handler; put the updates into its answer")]
    InHandler,
    /// Not in service.
    #[error("not connected to a runtime")]
    NotConnected,
    /// The runtime refused, or the connection broke.
    #[error("the runtime did not update the containers: {0}")]
    Failed(String),
}

/// Observes a [`Stub`](crate::Stub)'s connection and sends updates through it. It stays good across reconnections.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The connection's state, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counters.read()
    }

    /// Changes containers now, outside any event. Returns the updates that the runtime could not make. Calls wait for
    /// one another. A call that was begun is finished even if its caller gives up.
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub async fn update_containers(
        &self,
        updates: Vec<ContainerUpdate>,
    ) -> Result<Vec<ContainerUpdate>, UpdateError> {
        if IN_HANDLER.try_with(|()| ()).is_ok() {
            return Err(UpdateError::InHandler);
        }
        let shared = Arc::clone(&self.shared);
        // In a task of its own, because a call dropped halfway through its write would break the connection.
        let call = tokio::spawn(async move { update(&shared, updates).await });
        call.await.unwrap_or_else(|error| Err(UpdateError::Failed(error.to_string())))
    }
}

/// Sends one update in its turn.
pub(crate) async fn update(
    shared: &Shared,
    updates: Vec<ContainerUpdate>,
) -> Result<Vec<ContainerUpdate>, UpdateError> {
    let _turn = Arc::clone(&shared.turn).lock_owned().await;
    // Asked for only now: the connection may have changed while we waited.
    let client = shared.client().ok_or(UpdateError::NotConnected)?;
    let request = api::UpdateContainersRequest { update: updates.into_wire(), ..Default::default() };
    let answer = client
        .update_containers(ttrpc::context::with_duration(UPDATE_TIMEOUT), &request)
        .await
        .map_err(|error| UpdateError::Failed(error.to_string()))?;
    Ok(Wire::from_wire(answer.failed))
}
