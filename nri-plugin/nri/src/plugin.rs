//! What a plugin is: one handler per event.

use std::time::{Duration, Instant};
use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::event::EventMask;
use crate::state::RuntimeInfo;
use crate::types::{Container, ContainerAdjustment, ContainerUpdate, LinuxResources, PodSandbox, Validation};

/// A handler's "no", with the text that the user will read in the pod's events.
///
/// For an event whose error is fatal ([`Event::is_fatal`](crate::Event::is_fatal)) it stops what the event is
/// about; for the others the runtime only logs it. Any error type converts with `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(String);

impl Refusal {
    /// Refuses, and says why.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    /// The text.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error with all its causes, in one line.
impl<E: std::error::Error> From<E> for Refusal {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            text.push_str(": ");
            text.push_str(&next.to_string());
            cause = next.source();
        }
        Self(text)
    }
}

/// What a handler knows about its call.
#[derive(Clone, Debug)]
pub struct Context {
    deadline: Instant,
    cancelled: watch::Receiver<bool>,
    runtime: Arc<RuntimeInfo>,
}

impl Context {
    pub(crate) fn new(
        deadline: Instant,
        cancelled: watch::Receiver<bool>,
        runtime: Arc<RuntimeInfo>,
    ) -> Self {
        Self { deadline, cancelled, runtime }
    }

    /// A context of one's own, to call a handler outside any connection, as tests do. Nothing cancels it.
    #[must_use]
    pub fn detached(remaining: Duration, runtime: RuntimeInfo) -> Self {
        let (_, cancelled) = watch::channel(false);
        Self { deadline: Instant::now() + remaining, cancelled, runtime: Arc::new(runtime) }
    }

    /// When this crate answers in the handler's place. It lies before the runtime's own deadline, which would cost
    /// the plugin its connection and let the container through.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How long until [`Self::deadline`]; zero once it has passed.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether the answer was already given in the handler's place, so that its own comes too late.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// Waits until [`Self::is_cancelled`]. Blocking work started by a handler can watch for it.
    pub async fn cancelled(&self) {
        let mut cancelled = self.cancelled.clone();
        if cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
            // Nobody is left who could cancel: the call is over.
            std::future::pending().await
        }
    }

    /// The runtime that calls.
    #[must_use]
    pub fn runtime(&self) -> &RuntimeInfo {
        &self.runtime
    }
}

/// A plugin. Every handler has a body that does nothing, so implement those you subscribe to.
///
/// Rules of the house, for all handlers:
/// - The runtime delivers one event at a time, to all plugins in turn, under a lock for the whole node: what a
///   handler takes, every pod start on the node takes longer. Answer from memory.
/// - An error fails closed for the events that can be refused; a handler that panics is an error too. One that is
///   not done at [`Context::deadline`] is answered for: with an error status. If the event can be refused, its
///   future is then dropped at its next await; otherwise it runs on to its end.
/// - Never call [`Handle::update_containers`](crate::Handle::update_containers) inside a handler: the runtime
///   would wait for the handler and the handler for the runtime. (It is refused.) Put updates into the answer.
/// - Handlers must not block the thread they run on; use `tokio::task::spawn_blocking` or a multi-threaded
///   runtime, else the deadline cannot be kept.
///
/// ```
/// use nri::{Container, ContainerAdjustment, Context, Plugin, PodSandbox, Refusal, async_trait};
///
/// struct NoLatest;
///
/// #[async_trait]
/// impl Plugin for NoLatest {
///     async fn create_container(
///         &self,
///         _context: Context,
///         pod: PodSandbox,
///         container: Container,
///     ) -> Result<ContainerAdjustment, Refusal> {
///         if container.annotations.get("example.org/image").is_some_and(|image| image.ends_with(":latest")) {
///             return Err(Refusal::new(format!("pod `{}`: images need a fixed tag", pod.name)));
///         }
///         Ok(ContainerAdjustment::new().env("CHECKED_BY", "no-latest"))
///     }
/// }
/// ```
#[async_trait]
#[expect(
    unused_variables,
    reason = "the default bodies ignore what they are given, under the names that implementors want"
)]
pub trait Plugin: Send + Sync + 'static {
    /// A connection begins. Returns the events to subscribe to, out of those in `runtime.events` (what the
    /// builder asked for, less what the runtime does not know); more than that is ignored. `runtime.config` is the
    /// configuration text, if the runtime has one for a pre-installed plugin.
    ///
    /// # Errors
    /// An error ends the connection; another is tried after a pause.
    async fn configure(&self, context: Context, runtime: RuntimeInfo) -> Result<EventMask, Refusal> {
        Ok(runtime.events)
    }

    /// All pods and containers there are, once per connection, right after [`Self::configure`]. The answer can
    /// change any of the containers. Until it has been given no container is created or started.
    ///
    /// A handler that is late here keeps running; the runtime gets an answer without updates in time, and the
    /// updates follow as soon as they are there.
    ///
    /// # Errors
    /// An error ends the connection; another is tried after a pause.
    async fn synchronize(
        &self,
        context: Context,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, Refusal> {
        Ok(Vec::new())
    }

    /// A pod's sandbox is up.
    ///
    /// # Errors
    /// Fails the pod. containerd 2.1 leaks the sandbox's process then: prefer to refuse its containers.
    async fn run_pod_sandbox(&self, context: Context, pod: PodSandbox) -> Result<(), Refusal> {
        Ok(())
    }

    /// A pod's resources are about to change. NRI 0.10.
    ///
    /// # Errors
    /// Fails the change.
    async fn update_pod_sandbox(
        &self,
        context: Context,
        pod: PodSandbox,
        overhead: Option<LinuxResources>,
        resources: Option<LinuxResources>,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    /// A pod's resources were changed. NRI 0.10.
    ///
    /// # Errors
    /// Logged by the runtime.
    async fn post_update_pod_sandbox(&self, context: Context, pod: PodSandbox) -> Result<(), Refusal> {
        Ok(())
    }

    /// A pod was stopped.
    ///
    /// # Errors
    /// Logged by the runtime.
    async fn stop_pod_sandbox(&self, context: Context, pod: PodSandbox) -> Result<(), Refusal> {
        Ok(())
    }

    /// A pod was removed.
    ///
    /// # Errors
    /// Logged by the runtime.
    async fn remove_pod_sandbox(&self, context: Context, pod: PodSandbox) -> Result<(), Refusal> {
        Ok(())
    }

    /// A container is about to be created; there is no process yet.
    ///
    /// # Errors
    /// Fails the creation.
    async fn create_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<ContainerAdjustment, Refusal> {
        Ok(ContainerAdjustment::new())
    }

    /// A container was created.
    ///
    /// # Errors
    /// Logged by the runtime.
    async fn post_create_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    /// A container is about to run: its process (`container.pid`) is there, in its final namespaces, cgroup and root,
    /// and waits.
    ///
    /// # Errors
    /// Fails the start. CRI-O only logs it.
    async fn start_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    /// A container was started.
    ///
    /// # Errors
    /// Logged by the runtime.
    async fn post_start_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    /// A container's resources are about to change, to `resources`. The answer can change them further, by an
    /// update of the same container, and others.
    ///
    /// # Errors
    /// Fails the change.
    async fn update_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
        resources: Option<LinuxResources>,
    ) -> Result<Vec<ContainerUpdate>, Refusal> {
        Ok(Vec::new())
    }

    /// A container's resources were changed.
    ///
    /// # Errors
    /// Logged by the runtime.
    async fn post_update_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    /// A container ended by itself or was stopped; its process is gone. The answer can change others.
    ///
    /// # Errors
    /// Logged by the runtime.
    async fn stop_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Vec<ContainerUpdate>, Refusal> {
        Ok(Vec::new())
    }

    /// A container was removed.
    ///
    /// # Errors
    /// Logged by the runtime.
    async fn remove_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    /// The last look at a container before its creation, with what all plugins changed. NRI 0.10. A plugin that
    /// subscribes to this as well as to the creation makes the runtime refuse the container when the plugin dies in
    /// between, where it would otherwise let it through.
    ///
    /// # Errors
    /// Fails the creation.
    async fn validate_container_adjustment(
        &self,
        context: Context,
        request: Validation,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    /// The runtime says goodbye. No runtime does so today (as of NRI 0.12.2): a connection just ends.
    async fn shutdown(&self) {}
}
