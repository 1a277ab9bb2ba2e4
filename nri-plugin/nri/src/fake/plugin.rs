//! One connected plugin, as the runtime sees it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use protobuf::{EnumOrUnknown, Message};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use ttrpc::asynchronous::transport::{Listener, Socket};
use ttrpc::asynchronous::{Client, Server, TtrpcContext};

use super::trunk::{Trunk, TrunkError};
use super::{Dialect, FakeError, Options};
use crate::event::{Event, EventMask};
use crate::mux;
use crate::proto::{api, api_ttrpc};
use crate::session::Once;
use crate::types::wire::Wire;
use crate::types::{Container, ContainerAdjustment, ContainerUpdate, LinuxResources, PodSandbox, Validation};

/// What a plugin says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registration {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: String,
    /// The NRI it speaks; empty: it does not say.
    pub nri_version: String,
}

/// A plugin's connection. Dropping it hangs up.
pub struct FakePlugin {
    options: Arc<Options>,
    trunk: Trunk,
    client: Client,
    plugin: api_ttrpc::PluginClient,
    registrations: mpsc::UnboundedReceiver<Registration>,
    updates: mpsc::UnboundedReceiver<Vec<ContainerUpdate>>,
    events: EventMask,
    _server: Server,
}

impl std::fmt::Debug for FakePlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakePlugin").field("events", &self.events).finish_non_exhaustive()
    }
}

impl FakePlugin {
    /// A plugin at the other end of a stream that is there already, as a pre-installed plugin's is.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn over(trunk: std::os::unix::net::UnixStream, options: Options) -> Result<Self, FakeError> {
        trunk.set_nonblocking(true)?;
        Self::start(UnixStream::from_std(trunk)?, Arc::new(options)).await
    }

    pub(super) async fn start(trunk: UnixStream, options: Arc<Options>) -> Result<Self, FakeError> {
        let (trunk, ends) = Trunk::start(trunk, &[mux::PLUGIN, mux::RUNTIME]);
        let [plugin_end, runtime_end] =
            <[_; 2]>::try_from(ends).map_err(|_| FakeError::Trunk(TrunkError::Closed))?;
        let (register, registrations) = mpsc::unbounded_channel();
        let (update, updates) = mpsc::unbounded_channel();
        let service = RuntimeService { register, update, options: Arc::clone(&options) };
        let service: Arc<dyn api_ttrpc::Runtime + Send + Sync> = Arc::new(service);
        let mut server = Server::new()
            .add_listener(Listener::new(Once(Some(runtime_end))))
            .register_service(api_ttrpc::create_runtime(service));
        server.start().await.map_err(|error| FakeError::Trunk(TrunkError::Io(error.to_string())))?;
        let client = Client::new(Socket::new(plugin_end));
        let plugin = api_ttrpc::PluginClient::new(client.clone());
        Ok(Self {
            options,
            trunk,
            client,
            plugin,
            registrations,
            updates,
            events: EventMask::NONE,
            _server: server,
        })
    }

    /// Waits for the plugin's registration, for as long as the runtime would.
    ///
    /// # Errors
    /// The trunk ended, or nothing came in time.
    pub async fn registered(&mut self) -> Result<Registration, FakeError> {
        tokio::select! {
            registration = timeout(self.options.registration_timeout, self.registrations.recv()) => match registration {
                Ok(Some(registration)) => Ok(registration),
                Ok(None) => Err(FakeError::Trunk(TrunkError::Closed)),
                Err(_) => Err(FakeError::TimedOut),
            },
            error = self.trunk.ended() => Err(FakeError::Trunk(error)),
        }
    }

    /// Configures the plugin; gives its subscription, which is kept to from now on.
    ///
    /// # Errors
    /// As for any call; and a subscription to what this runtime does not know.
    pub async fn configure(&mut self) -> Result<EventMask, FakeError> {
        let options = &self.options;
        let milliseconds = |limit: Duration| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let mut request = api::ConfigureRequest {
            config: options.config.clone(),
            runtime_name: options.runtime_name.clone(),
            runtime_version: options.runtime_version.clone(),
            NRI_version: options.nri_version.clone(),
            ..Default::default()
        };
        if options.tells_timeouts {
            request.registration_timeout = milliseconds(options.registration_timeout);
            request.request_timeout = milliseconds(options.request_timeout);
        }
        let answer = self.result(self.plugin.configure(self.limit(), &request).await)?;
        let bits = u32::try_from(answer.events).unwrap_or(u32::MAX);
        if bits & !options.known_events.bits() != 0 {
            return Err(FakeError::InvalidEvents(bits & !options.known_events.bits()));
        }
        self.events = if bits == 0 { options.known_events } else { EventMask::from_bits(bits) };
        Ok(self.events)
    }

    /// Tells the plugin what runs, in as many parts as it takes. Gives the plugin's updates and the number of parts.
    ///
    /// # Errors
    /// As for any call; and a plugin that does not keep to the rules for parts.
    pub async fn synchronize(
        &self,
        pods: &[PodSandbox],
        containers: &[Container],
    ) -> Result<(Vec<ContainerUpdate>, usize), FakeError> {
        let mut pods: Vec<api::PodSandbox> = pods.iter().cloned().map(Wire::into_wire).collect();
        let mut containers: Vec<api::Container> = containers.iter().cloned().map(Wire::into_wire).collect();
        let mut parts = 0_usize;
        // All parts together have one request's time.
        let deadline = tokio::time::Instant::now() + self.options.request_timeout;
        loop {
            let (mut p, mut c) = (pods.len(), containers.len());
            let request = loop {
                let request = api::SynchronizeRequest {
                    pods: pods.get(..p).unwrap_or_default().to_vec(),
                    containers: containers.get(..c).unwrap_or_default().to_vec(),
                    more: p < pods.len() || c < containers.len(),
                    ..Default::default()
                };
                let size = usize::try_from(request.compute_size()).unwrap_or(usize::MAX);
                if size <= self.options.largest_message || p.saturating_add(c) <= 8 {
                    break request;
                }
                // Shrink in proportion, but by a tenth at least.
                let shrink = |n: usize| (n * self.options.largest_message / size).min(n * 9 / 10);
                (p, c) = (shrink(p), shrink(c));
            };
            pods.drain(..p);
            containers.drain(..c);
            parts = parts.saturating_add(1);
            let more = request.more;
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let context = ttrpc::context::with_duration(left.max(Duration::from_millis(1)));
            let answer = self.result(self.plugin.synchronize(context, &request).await)?;
            if answer.more != more || (more && !answer.update.is_empty()) {
                return Err(FakeError::BadSynchronize);
            }
            if !more {
                return Ok((Wire::from_wire(answer.update), parts));
            }
        }
    }

    /// The events that the plugin subscribed to.
    #[must_use]
    pub fn events(&self) -> EventMask {
        self.events
    }

    /// Creates a container: gives what the plugin changes, or nothing if it is not subscribed.
    ///
    /// # Errors
    /// As for any call.
    pub async fn create_container(
        &self,
        pod: &PodSandbox,
        container: &Container,
    ) -> Result<ContainerAdjustment, FakeError> {
        if !self.events.contains(Event::CreateContainer) {
            return Ok(ContainerAdjustment::new());
        }
        let request = api::CreateContainerRequest {
            pod: Some(pod.clone()).into_wire(),
            container: Some(container.clone()).into_wire(),
            ..Default::default()
        };
        let answer = self.result(self.plugin.create_container(self.limit(), &request).await)?;
        let mut adjustment: ContainerAdjustment = Option::from_wire(answer.adjust).unwrap_or_default();
        adjustment.updates = Wire::from_wire(answer.update);
        Ok(adjustment)
    }

    /// Changes a container's resources.
    ///
    /// # Errors
    /// As for any call.
    pub async fn update_container(
        &self,
        pod: &PodSandbox,
        container: &Container,
        resources: &LinuxResources,
    ) -> Result<Vec<ContainerUpdate>, FakeError> {
        if !self.events.contains(Event::UpdateContainer) {
            return Ok(Vec::new());
        }
        let request = api::UpdateContainerRequest {
            pod: Some(pod.clone()).into_wire(),
            container: Some(container.clone()).into_wire(),
            linux_resources: Some(resources.clone()).into_wire(),
            ..Default::default()
        };
        let answer = self.result(self.plugin.update_container(self.limit(), &request).await)?;
        Ok(Wire::from_wire(answer.update))
    }

    /// Tells that a container ended.
    ///
    /// # Errors
    /// As for any call.
    pub async fn stop_container(
        &self,
        pod: &PodSandbox,
        container: &Container,
    ) -> Result<Vec<ContainerUpdate>, FakeError> {
        if !self.events.contains(Event::StopContainer) {
            return Ok(Vec::new());
        }
        let request = api::StopContainerRequest {
            pod: Some(pod.clone()).into_wire(),
            container: Some(container.clone()).into_wire(),
            ..Default::default()
        };
        let answer = self.result(self.plugin.stop_container(self.limit(), &request).await)?;
        Ok(Wire::from_wire(answer.update))
    }

    /// Asks for the last look at an adjustment. The inner `Err` is the plugin's reason to reject it.
    ///
    /// # Errors
    /// As for any call. Unlike for other events, the runtime refuses the container then.
    pub async fn validate(&self, request: &Validation) -> Result<Result<(), String>, FakeError> {
        if !self.events.contains(Event::ValidateContainerAdjustment) {
            return Ok(Ok(()));
        }
        let request = request.clone().into_wire();
        let answer = self.result(self.plugin.validate_container_adjustment(self.limit(), &request).await)?;
        Ok(if answer.reject { Err(answer.reason) } else { Ok(()) })
    }

    /// Starts a container.
    ///
    /// # Errors
    /// As for any call.
    pub async fn start_container(&self, pod: &PodSandbox, container: &Container) -> Result<(), FakeError> {
        self.event(Event::StartContainer, pod, Some(container)).await
    }

    /// Removes a container.
    ///
    /// # Errors
    /// As for any call.
    pub async fn remove_container(&self, pod: &PodSandbox, container: &Container) -> Result<(), FakeError> {
        self.event(Event::RemoveContainer, pod, Some(container)).await
    }

    /// Tells an event that has no answer but yes or no, in this runtime's dialect, if the plugin subscribed to it.
    ///
    /// # Errors
    /// As for any call.
    pub async fn event(
        &self,
        event: Event,
        pod: &PodSandbox,
        container: Option<&Container>,
    ) -> Result<(), FakeError> {
        if !self.events.contains(event) {
            return Ok(());
        }
        self.event_unasked(event, pod, container).await
    }

    /// As [`Self::event`], but whether the plugin subscribed or not, which no runtime does.
    ///
    /// # Errors
    /// As for any call.
    pub async fn event_unasked(
        &self,
        event: Event,
        pod: &PodSandbox,
        container: Option<&Container>,
    ) -> Result<(), FakeError> {
        if self.options.dialect == Dialect::PerEvent {
            // The fields are numbered alike in all these requests.
            let request = api::StartContainerRequest {
                pod: Some(pod.clone()).into_wire(),
                container: container.cloned().into_wire(),
                ..Default::default()
            };
            let payload = request.write_to_bytes().map_err(|error| FakeError::Other(error.to_string()))?;
            match self.call(event.name(), payload).await {
                Err(FakeError::Status { code, .. }) if code == ttrpc::Code::UNIMPLEMENTED as i32 => {}
                other => return other.map(|_| ()),
            }
        }
        self.state_change(event as i32, pod, container).await
    }

    /// Sends a StateChange with any number.
    ///
    /// # Errors
    /// As for any call.
    pub async fn state_change(
        &self,
        number: i32,
        pod: &PodSandbox,
        container: Option<&Container>,
    ) -> Result<(), FakeError> {
        let request = api::StateChangeEvent {
            event: EnumOrUnknown::from_i32(number),
            pod: Some(pod.clone()).into_wire(),
            container: container.cloned().into_wire(),
            ..Default::default()
        };
        self.result(self.plugin.state_change(self.limit(), &request).await).map(|_| ())
    }

    /// Calls any procedure of the plugin with any bytes.
    ///
    /// # Errors
    /// As for any call.
    pub async fn call(&self, method: &str, payload: Vec<u8>) -> Result<Vec<u8>, FakeError> {
        let request = ttrpc::Request {
            service: "nri.pkg.api.v1alpha1.Plugin".to_owned(),
            method: method.to_owned(),
            timeout_nano: self.limit().timeout_nano,
            payload,
            ..Default::default()
        };
        self.result(self.client.request(request).await).map(|response| response.payload)
    }

    /// The next UpdateContainers that the plugin sends; `None`: it is gone.
    pub async fn next_update(&mut self) -> Option<Vec<ContainerUpdate>> {
        self.updates.recv().await
    }

    /// Why the connection ended; waits until it has.
    pub async fn closed(&self) -> TrunkError {
        self.trunk.ended().await
    }

    /// Hangs up, as a runtime does with a plugin that is late.
    pub fn hang_up(&self) {
        self.trunk.close();
    }

    fn limit(&self) -> ttrpc::context::Context {
        ttrpc::context::with_duration(self.options.request_timeout)
    }

    /// An answer as the runtime sees it.
    fn result<T>(&self, answer: ttrpc::Result<T>) -> Result<T, FakeError> {
        answer.map_err(|error| match (self.trunk.end(), error) {
            (_, ttrpc::Error::RpcStatus(status)) => {
                FakeError::Status { code: status.code.value(), message: status.message }
            }
            (Some(end), _) => FakeError::Trunk(end),
            (None, ttrpc::Error::Others(text)) if text.contains("deadline") => {
                self.hang_up();
                FakeError::TimedOut
            }
            (None, error) => FakeError::Other(error.to_string()),
        })
    }
}

/// What the runtime serves.
struct RuntimeService {
    register: mpsc::UnboundedSender<Registration>,
    update: mpsc::UnboundedSender<Vec<ContainerUpdate>>,
    options: Arc<Options>,
}

#[async_trait]
impl api_ttrpc::Runtime for RuntimeService {
    async fn register_plugin(
        &self,
        _: &TtrpcContext,
        request: api::RegisterPluginRequest,
    ) -> ttrpc::Result<api::Empty> {
        if !self.options.refuse_registration.is_empty() {
            let why = self.options.refuse_registration.clone();
            return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::UNKNOWN, why)));
        }
        let registration = Registration {
            name: request.plugin_name,
            index: request.plugin_idx,
            nri_version: request.NRI_version,
        };
        // The receiver goes only with the whole connection.
        let _ = self.register.send(registration);
        tokio::time::sleep(self.options.registration_delay).await;
        Ok(api::Empty::default())
    }

    async fn update_containers(
        &self,
        _: &TtrpcContext,
        request: api::UpdateContainersRequest,
    ) -> ttrpc::Result<api::UpdateContainersResponse> {
        let (failed, done) = request
            .update
            .into_iter()
            .partition(|update| self.options.failing_updates.contains(&update.container_id));
        let _ = self.update.send(Wire::from_wire(done));
        Ok(api::UpdateContainersResponse { failed, ..Default::default() })
    }
}
