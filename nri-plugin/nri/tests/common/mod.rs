//! What the tests share: a plugin that does as it is told and remembers, and a stub that runs it.
#![allow(clippy::allow_attributes, dead_code, reason = "every test file uses its own part")]

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nri::{
    Container, ContainerAdjustment, ContainerUpdate, Context, Event, EventMask, Handle, LinuxResources,
    Plugin, PodSandbox, Refusal, RuntimeInfo, State, Stub, StubBuilder, Validation, async_trait,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What a handler is told to do.
#[derive(Clone, Debug)]
pub enum Act {
    Refuse(&'static str),
    Panic(&'static str),
    Hang(Duration),
    HangThenRefuse(Duration, &'static str),
    /// Blocks its thread.
    Block(Duration),
}

#[derive(Default)]
pub struct Recorder {
    pub acts: Mutex<HashMap<&'static str, Act>>,
    /// Handlers that were called, with what they were called about.
    pub calls: Mutex<Vec<(String, String)>>,
    /// Handlers that ran to their end.
    pub finished: Mutex<Vec<String>>,
    /// Handlers that learnt that they were late.
    pub cancelled: Mutex<Vec<String>>,
    pub adjustment: Mutex<ContainerAdjustment>,
    pub updates: Mutex<Vec<ContainerUpdate>>,
    pub synchronized: Mutex<(Vec<PodSandbox>, Vec<Container>)>,
    pub resources: Mutex<Option<LinuxResources>>,
    pub validation: Mutex<Option<Validation>>,
    pub remaining: Mutex<Duration>,
    pub runtimes: Mutex<Vec<RuntimeInfo>>,
    pub subset: Mutex<Option<EventMask>>,
    pub handle: Mutex<Option<Handle>>,
}

impl Recorder {
    pub fn told(self: &Arc<Self>, handler: &'static str, act: Act) -> Arc<Self> {
        self.acts.lock().unwrap().insert(handler, act);
        Arc::clone(self)
    }

    pub fn names(&self) -> Vec<String> {
        self.calls.lock().unwrap().iter().map(|(name, _)| name.clone()).collect()
    }

    pub fn finished(&self, name: &str) -> bool {
        self.finished.lock().unwrap().iter().any(|n| n == name)
    }

    pub fn cancelled(&self, name: &str) -> bool {
        self.cancelled.lock().unwrap().iter().any(|n| n == name)
    }

    async fn act(&self, context: &Context, name: &'static str, about: &str) -> Result<(), Refusal> {
        self.calls.lock().unwrap().push((name.to_owned(), about.to_owned()));
        *self.remaining.lock().unwrap() = context.remaining();
        let act = self.acts.lock().unwrap().get(name).cloned();
        match act {
            None => {}
            Some(Act::Refuse(why)) => return Err(Refusal::new(why)),
            Some(Act::Panic(why)) => panic!("{why}"),
            Some(Act::HangThenRefuse(time, why)) => {
                tokio::time::sleep(time).await;
                return Err(Refusal::new(why));
            }
            Some(Act::Hang(time)) => {
                let late = context.clone();
                let cancelled = async {
                    late.cancelled().await;
                    self.cancelled.lock().unwrap().push(name.to_owned());
                };
                tokio::join!(tokio::time::sleep(time), async {
                    let _ = tokio::time::timeout(time, cancelled).await;
                });
            }
            Some(Act::Block(time)) => {
                std::thread::sleep(time);
                if context.is_cancelled() {
                    self.cancelled.lock().unwrap().push(name.to_owned());
                }
            }
        }
        self.finished.lock().unwrap().push(name.to_owned());
        Ok(())
    }
}

#[async_trait]
impl Plugin for Recorder {
    async fn configure(&self, context: Context, runtime: RuntimeInfo) -> Result<EventMask, Refusal> {
        let events = self.subset.lock().unwrap().unwrap_or(runtime.events);
        self.runtimes.lock().unwrap().push(runtime);
        self.act(&context, "Configure", "").await?;
        Ok(events)
    }
    async fn synchronize(
        &self,
        context: Context,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, Refusal> {
        *self.synchronized.lock().unwrap() = (pods, containers);
        self.act(&context, "Synchronize", "").await?;
        Ok(self.updates.lock().unwrap().clone())
    }
    async fn run_pod_sandbox(&self, context: Context, pod: PodSandbox) -> Result<(), Refusal> {
        self.act(&context, "RunPodSandbox", &pod.id).await
    }
    async fn update_pod_sandbox(
        &self,
        context: Context,
        pod: PodSandbox,
        _: Option<LinuxResources>,
        resources: Option<LinuxResources>,
    ) -> Result<(), Refusal> {
        *self.resources.lock().unwrap() = resources;
        self.act(&context, "UpdatePodSandbox", &pod.id).await
    }
    async fn post_update_pod_sandbox(&self, context: Context, pod: PodSandbox) -> Result<(), Refusal> {
        self.act(&context, "PostUpdatePodSandbox", &pod.id).await
    }
    async fn stop_pod_sandbox(&self, context: Context, pod: PodSandbox) -> Result<(), Refusal> {
        self.act(&context, "StopPodSandbox", &pod.id).await
    }
    async fn remove_pod_sandbox(&self, context: Context, pod: PodSandbox) -> Result<(), Refusal> {
        self.act(&context, "RemovePodSandbox", &pod.id).await
    }
    async fn create_container(
        &self,
        context: Context,
        _: PodSandbox,
        container: Container,
    ) -> Result<ContainerAdjustment, Refusal> {
        let handle = self.handle.lock().unwrap().clone();
        if let Some(handle) = handle {
            let error = handle.update_containers(Vec::new()).await.unwrap_err();
            return Err(error.into());
        }
        self.act(&context, "CreateContainer", &container.id).await?;
        Ok(self.adjustment.lock().unwrap().clone())
    }
    async fn post_create_container(
        &self,
        context: Context,
        _: PodSandbox,
        c: Container,
    ) -> Result<(), Refusal> {
        self.act(&context, "PostCreateContainer", &c.id).await
    }
    async fn start_container(&self, context: Context, _: PodSandbox, c: Container) -> Result<(), Refusal> {
        self.act(&context, "StartContainer", &c.id).await
    }
    async fn post_start_container(
        &self,
        context: Context,
        _: PodSandbox,
        c: Container,
    ) -> Result<(), Refusal> {
        self.act(&context, "PostStartContainer", &c.id).await
    }
    async fn update_container(
        &self,
        context: Context,
        _: PodSandbox,
        container: Container,
        resources: Option<LinuxResources>,
    ) -> Result<Vec<ContainerUpdate>, Refusal> {
        *self.resources.lock().unwrap() = resources;
        self.act(&context, "UpdateContainer", &container.id).await?;
        Ok(self.updates.lock().unwrap().clone())
    }
    async fn post_update_container(
        &self,
        context: Context,
        _: PodSandbox,
        c: Container,
    ) -> Result<(), Refusal> {
        self.act(&context, "PostUpdateContainer", &c.id).await
    }
    async fn stop_container(
        &self,
        context: Context,
        _: PodSandbox,
        container: Container,
    ) -> Result<Vec<ContainerUpdate>, Refusal> {
        self.act(&context, "StopContainer", &container.id).await?;
        Ok(self.updates.lock().unwrap().clone())
    }
    async fn remove_container(&self, context: Context, _: PodSandbox, c: Container) -> Result<(), Refusal> {
        self.act(&context, "RemoveContainer", &c.id).await
    }
    async fn validate_container_adjustment(
        &self,
        context: Context,
        request: Validation,
    ) -> Result<(), Refusal> {
        let about = request.container.id.clone();
        *self.validation.lock().unwrap() = Some(request);
        self.act(&context, "ValidateContainerAdjustment", &about).await
    }
}

/// A stub that runs until it is dropped.
pub struct Running {
    pub handle: Handle,
    pub task: JoinHandle<Result<(), nri::Error>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Running {
    pub fn start(builder: StubBuilder, plugin: &Arc<Recorder>) -> Self {
        let stub = builder.build().unwrap();
        let handle = stub.handle();
        let (stop, stopped) = oneshot::channel::<()>();
        let plugin = Arc::clone(plugin);
        let task = tokio::spawn(stub.run(plugin, async {
            let _ = stopped.await;
        }));
        Self { handle, task, stop: Some(stop) }
    }

    /// Waits for a state.
    pub async fn state(&self, wanted: impl FnMut(&State) -> bool) -> State {
        let mut state = self.handle.state();
        within(state.wait_for(wanted)).await.unwrap().clone()
    }

    pub async fn synchronized(&self) -> State {
        self.state(State::is_synchronized).await
    }

    pub async fn stop(mut self) -> Result<(), nri::Error> {
        self.stop.take().unwrap().send(()).unwrap();
        within(&mut self.task).await.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A directory with a socket in it.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    pub fn socket(&self) -> PathBuf {
        self.0.path().join("nri.sock")
    }
}

pub fn builder(socket: impl AsRef<Path>) -> StubBuilder {
    Stub::builder("recorder", "42").socket(socket)
}

/// No test waits longer than this for anything.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("nothing happened for 20 s")
}

pub fn pod(id: &str) -> PodSandbox {
    let mut pod = PodSandbox::default();
    pod.id = id.to_owned();
    pod.namespace = "default".to_owned();
    pod
}

pub fn container(id: &str) -> Container {
    let mut container = Container::default();
    container.id = id.to_owned();
    container
}

/// The events that have no answer but yes or no.
pub const PLAIN: &[Event] = &[
    Event::RunPodSandbox,
    Event::StopPodSandbox,
    Event::RemovePodSandbox,
    Event::PostCreateContainer,
    Event::StartContainer,
    Event::PostStartContainer,
    Event::PostUpdateContainer,
    Event::RemoveContainer,
];
