//! The service that the runtime calls, in both dialects: one procedure per event since NRI 0.12, before that most
//! events as a StateChange.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ttrpc::Code;
use ttrpc::r#async::TtrpcContext;

use crate::dispatch::{Outcome, budget, call};
use crate::event::{Event, EventMask};
use crate::handle::count;
use crate::link::{Link, Progress};
use crate::plugin::{Context, Plugin, Refusal};
use crate::proto::{api, api_ttrpc};
use crate::state::{Lost, RuntimeInfo};
use crate::types::wire::Wire;
use crate::types::{Container, PodSandbox};
use crate::version::NriVersion;

/// Serves one connection.
pub(crate) struct Service(pub(crate) Arc<Link>);

pub(crate) fn status(code: Code, message: impl Into<String>) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message.into()))
}

/// A message that a request should contain; absent means empty.
fn part<T: Wire<W> + Default, W>(field: protobuf::MessageField<W>) -> T {
    Option::from_wire(field).unwrap_or_default()
}

impl Service {
    /// Calls the handler of `event`, or says that there is none.
    ///
    /// UNIMPLEMENTED is the one status that makes a runtime fall back to the older dialect; every other one would
    /// count as the plugin's refusal.
    async fn handle<T, F>(
        &self,
        context: &TtrpcContext,
        event: Event,
        handler: impl FnOnce(Arc<dyn Plugin>, Context) -> F,
    ) -> ttrpc::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let link = &self.0;
        let Some(runtime) = link.runtime().filter(|runtime| runtime.events.contains(event)) else {
            count(&link.shared.counters.unimplemented);
            return Err(status(Code::UNIMPLEMENTED, format!("plugin is not subscribed to {event}")));
        };
        let _busy = link.begin();
        let counters = &link.shared.counters;
        count(&counters.requests);
        let budget = budget(context.timeout_nano, runtime.request_timeout);
        let plugin = Arc::clone(&link.plugin);
        match call(runtime, budget, |context| handler(plugin, context)).await {
            Outcome::Done(answer) => Ok(answer),
            Outcome::Refused(refusal) => {
                count(&counters.refusals);
                tracing::debug!(%event, %refusal, "handler refused");
                Err(status(Code::UNKNOWN, refusal.message()))
            }
            Outcome::Panicked(words) => {
                count(&counters.panics);
                tracing::error!(%event, panic = words, "handler panicked");
                Err(status(Code::INTERNAL, format!("plugin panicked in {event}: {words}")))
            }
            Outcome::Late(task) => {
                count(&counters.deadlines);
                tracing::error!(%event, ?budget, "handler is late");
                if event.is_fatal() {
                    task.abort();
                }
                Err(status(
                    Code::DEADLINE_EXCEEDED,
                    format!("plugin did not answer {event} within {} ms", budget.as_millis()),
                ))
            }
        }
    }

    /// An event about a pod that has no answer but yes or no.
    async fn pod(
        &self,
        context: &TtrpcContext,
        event: Event,
        pod: protobuf::MessageField<api::PodSandbox>,
    ) -> ttrpc::Result<()> {
        let pod: PodSandbox = part(pod);
        self.handle(context, event, |plugin, context| async move {
            match event {
                Event::RunPodSandbox => plugin.run_pod_sandbox(context, pod).await,
                Event::PostUpdatePodSandbox => plugin.post_update_pod_sandbox(context, pod).await,
                Event::StopPodSandbox => plugin.stop_pod_sandbox(context, pod).await,
                Event::RemovePodSandbox => plugin.remove_pod_sandbox(context, pod).await,
                other => Err(Refusal::new(format!("{other} is not an event about a pod alone"))),
            }
        })
        .await
    }

    /// An event about a container that has no answer but yes or no.
    async fn container(
        &self,
        context: &TtrpcContext,
        event: Event,
        pod: protobuf::MessageField<api::PodSandbox>,
        container: protobuf::MessageField<api::Container>,
    ) -> ttrpc::Result<()> {
        let (pod, container): (PodSandbox, Container) = (part(pod), part(container));
        self.handle(context, event, |plugin, context| async move {
            match event {
                Event::PostCreateContainer => plugin.post_create_container(context, pod, container).await,
                Event::StartContainer => plugin.start_container(context, pod, container).await,
                Event::PostStartContainer => plugin.post_start_container(context, pod, container).await,
                Event::PostUpdateContainer => plugin.post_update_container(context, pod, container).await,
                Event::RemoveContainer => plugin.remove_container(context, pod, container).await,
                other => Err(Refusal::new(format!("{other} is not a plain event about a container"))),
            }
        })
        .await
    }

    /// The runtime and its version, and what may be subscribed to.
    fn runtime_info(&self, request: api::ConfigureRequest) -> RuntimeInfo {
        let link = &self.0;
        let stated = NriVersion::parse(&request.NRI_version);
        let nri_version =
            stated.or_else(|| NriVersion::of_runtime(&request.runtime_name, &request.runtime_version));
        let known = if link.cautious && stated.is_none() {
            EventMask::OLDEST
        } else {
            EventMask::known_to(nri_version)
        };
        let milliseconds =
            |number: i64| u64::try_from(number).ok().filter(|n| *n > 0).map(Duration::from_millis);
        RuntimeInfo {
            name: request.runtime_name,
            version: request.runtime_version,
            nri_version,
            nri_version_stated: stated.is_some(),
            events: link.wanted & known,
            unavailable: link.wanted - known,
            config: request.config,
            registration_timeout: milliseconds(request.registration_timeout),
            request_timeout: milliseconds(request.request_timeout),
        }
    }

    /// Asks the plugin what it subscribes to.
    async fn negotiate(&self, context: &TtrpcContext, info: &mut RuntimeInfo) -> Result<(), String> {
        let link = &self.0;
        if info.events.is_empty() {
            // An empty subscription would mean all events.
            return Err(format!("{} {} knows none of the events {}", info.name, info.version, link.wanted));
        }
        let (plugin, offer) = (Arc::clone(&link.plugin), info.clone());
        let budget = budget(context.timeout_nano, info.request_timeout);
        let chosen =
            call(
                Arc::new(info.clone()),
                budget,
                |context| async move { plugin.configure(context, offer).await },
            );
        match chosen.await {
            Outcome::Done(chosen) => info.events = info.events & chosen,
            Outcome::Refused(refusal) => return Err(refusal.to_string()),
            Outcome::Panicked(words) => return Err(format!("plugin panicked in Configure: {words}")),
            Outcome::Late(task) => {
                task.abort();
                return Err(format!("plugin did not answer Configure within {} ms", budget.as_millis()));
            }
        }
        if info.events.is_empty() {
            return Err("the plugin subscribes to none of the events that it was offered".to_owned());
        }
        Ok(())
    }
}

#[async_trait]
impl api_ttrpc::Plugin for Service {
    async fn configure(
        &self,
        context: &TtrpcContext,
        request: api::ConfigureRequest,
    ) -> ttrpc::Result<api::ConfigureResponse> {
        let mut info = self.runtime_info(request);
        if let Err(why) = self.negotiate(context, &mut info).await {
            self.0.fail(Lost::Configure(why.clone()));
            return Err(status(Code::FAILED_PRECONDITION, why));
        }
        let events = i32::try_from(info.events.bits()).unwrap_or_default();
        self.0.configured(info);
        Ok(api::ConfigureResponse { events, ..Default::default() })
    }

    async fn synchronize(
        &self,
        context: &TtrpcContext,
        request: api::SynchronizeRequest,
    ) -> ttrpc::Result<api::SynchronizeResponse> {
        let link = &self.0;
        let Some(runtime) = link.runtime() else {
            return Err(status(Code::FAILED_PRECONDITION, "Synchronize came before Configure"));
        };
        link.advance(Progress::Synchronizing);
        let more = request.more;
        let collected = link.collect(request).map_err(|why| status(Code::RESOURCE_EXHAUSTED, why))?;
        let Some((pods, containers)) = collected else {
            return Ok(api::SynchronizeResponse { more, ..Default::default() });
        };
        let plugin = Arc::clone(&link.plugin);
        let budget = budget(context.timeout_nano, runtime.request_timeout);
        count(&link.shared.counters.requests);
        let outcome = call(runtime, budget, |context| async move {
            let containers = containers.into_iter().map(Container::from_wire).collect();
            plugin
                .synchronize(context, pods.into_iter().map(PodSandbox::from_wire).collect(), containers)
                .await
        });
        match outcome.await {
            Outcome::Late(task) => {
                // Being dropped now would let every container through; so answer, and follow up.
                count(&link.shared.counters.deadlines);
                tracing::warn!(?budget, "synchronisation takes long; events may come before it is done");
                tokio::spawn(Arc::clone(link).finish_synchronizing(task));
                Ok(api::SynchronizeResponse::default())
            }
            outcome => {
                let updates = link.synchronized(outcome).map_err(|why| status(Code::UNKNOWN, why))?;
                Ok(api::SynchronizeResponse { update: updates.into_wire(), ..Default::default() })
            }
        }
    }

    async fn shutdown(&self, _: &TtrpcContext, _: api::Empty) -> ttrpc::Result<api::Empty> {
        self.0.plugin.shutdown().await;
        Ok(api::Empty::default())
    }

    async fn create_container(
        &self,
        context: &TtrpcContext,
        request: api::CreateContainerRequest,
    ) -> ttrpc::Result<api::CreateContainerResponse> {
        let (pod, container) = (part(request.pod), part(request.container));
        let mut adjustment = self
            .handle(context, Event::CreateContainer, |plugin, context| async move {
                plugin.create_container(context, pod, container).await
            })
            .await?;
        let update = std::mem::take(&mut adjustment.updates).into_wire();
        let adjust = (!adjustment.is_empty()).then_some(adjustment).into_wire();
        Ok(api::CreateContainerResponse { adjust, update, ..Default::default() })
    }

    async fn update_container(
        &self,
        context: &TtrpcContext,
        request: api::UpdateContainerRequest,
    ) -> ttrpc::Result<api::UpdateContainerResponse> {
        let (pod, container) = (part(request.pod), part(request.container));
        let resources = Option::from_wire(request.linux_resources);
        let updates = self
            .handle(context, Event::UpdateContainer, |plugin, context| async move {
                plugin.update_container(context, pod, container, resources).await
            })
            .await?;
        Ok(api::UpdateContainerResponse { update: updates.into_wire(), ..Default::default() })
    }

    async fn stop_container(
        &self,
        context: &TtrpcContext,
        request: api::StopContainerRequest,
    ) -> ttrpc::Result<api::StopContainerResponse> {
        let (pod, container) = (part(request.pod), part(request.container));
        let updates = self
            .handle(context, Event::StopContainer, |plugin, context| async move {
                plugin.stop_container(context, pod, container).await
            })
            .await?;
        Ok(api::StopContainerResponse { update: updates.into_wire(), ..Default::default() })
    }

    async fn update_pod_sandbox(
        &self,
        context: &TtrpcContext,
        request: api::UpdatePodSandboxRequest,
    ) -> ttrpc::Result<api::UpdatePodSandboxResponse> {
        let pod = part(request.pod);
        let overhead = Option::from_wire(request.overhead_linux_resources);
        let resources = Option::from_wire(request.linux_resources);
        self.handle(context, Event::UpdatePodSandbox, |plugin, context| async move {
            plugin.update_pod_sandbox(context, pod, overhead, resources).await
        })
        .await?;
        Ok(api::UpdatePodSandboxResponse::default())
    }

    async fn validate_container_adjustment(
        &self,
        context: &TtrpcContext,
        request: api::ValidateContainerAdjustmentRequest,
    ) -> ttrpc::Result<api::ValidateContainerAdjustmentResponse> {
        let verdict =
            self.handle(context, Event::ValidateContainerAdjustment, |plugin, context| async move {
                // A refusal is an answer here, not an error: it names the plugin in the runtime's message.
                Ok(plugin.validate_container_adjustment(context, Wire::from_wire(request)).await)
            });
        let (reject, reason) = match verdict.await? {
            Ok(()) => (false, String::new()),
            Err(refusal) => {
                count(&self.0.shared.counters.refusals);
                (true, refusal.to_string())
            }
        };
        Ok(api::ValidateContainerAdjustmentResponse { reject, reason, ..Default::default() })
    }

    async fn state_change(
        &self,
        context: &TtrpcContext,
        request: api::StateChangeEvent,
    ) -> ttrpc::Result<api::Empty> {
        let number = request.event.value();
        let event = Event::from_number(number);
        match event {
            // An event that is new, or that nobody asked for: an error might stop what it is about.
            Some(event) if self.0.runtime().is_none_or(|runtime| !runtime.events.contains(event)) => {
                count(&self.0.shared.counters.unimplemented);
            }
            Some(
                event @ (Event::RunPodSandbox
                | Event::PostUpdatePodSandbox
                | Event::StopPodSandbox
                | Event::RemovePodSandbox),
            ) => self.pod(context, event, request.pod).await?,
            Some(
                event @ (Event::PostCreateContainer
                | Event::StartContainer
                | Event::PostStartContainer
                | Event::PostUpdateContainer
                | Event::RemoveContainer),
            ) => self.container(context, event, request.pod, request.container).await?,
            _ => {
                count(&self.0.shared.counters.unimplemented);
                tracing::debug!(
                    number,
                    "state change of a kind that has a procedure of its own, or is not known"
                );
            }
        }
        Ok(api::Empty::default())
    }

    async fn run_pod_sandbox(
        &self,
        context: &TtrpcContext,
        request: api::RunPodSandboxRequest,
    ) -> ttrpc::Result<api::RunPodSandboxResponse> {
        self.pod(context, Event::RunPodSandbox, request.pod).await?;
        Ok(api::RunPodSandboxResponse::default())
    }

    async fn post_update_pod_sandbox(
        &self,
        context: &TtrpcContext,
        request: api::PostUpdatePodSandboxRequest,
    ) -> ttrpc::Result<api::PostUpdatePodSandboxResponse> {
        self.pod(context, Event::PostUpdatePodSandbox, request.pod).await?;
        Ok(api::PostUpdatePodSandboxResponse::default())
    }

    async fn stop_pod_sandbox(
        &self,
        context: &TtrpcContext,
        request: api::StopPodSandboxRequest,
    ) -> ttrpc::Result<api::StopPodSandboxResponse> {
        self.pod(context, Event::StopPodSandbox, request.pod).await?;
        Ok(api::StopPodSandboxResponse::default())
    }

    async fn remove_pod_sandbox(
        &self,
        context: &TtrpcContext,
        request: api::RemovePodSandboxRequest,
    ) -> ttrpc::Result<api::RemovePodSandboxResponse> {
        self.pod(context, Event::RemovePodSandbox, request.pod).await?;
        Ok(api::RemovePodSandboxResponse::default())
    }

    async fn post_create_container(
        &self,
        context: &TtrpcContext,
        request: api::PostCreateContainerRequest,
    ) -> ttrpc::Result<api::PostCreateContainerResponse> {
        self.container(context, Event::PostCreateContainer, request.pod, request.container).await?;
        Ok(api::PostCreateContainerResponse::default())
    }

    async fn start_container(
        &self,
        context: &TtrpcContext,
        request: api::StartContainerRequest,
    ) -> ttrpc::Result<api::StartContainerResponse> {
        self.container(context, Event::StartContainer, request.pod, request.container).await?;
        Ok(api::StartContainerResponse::default())
    }

    async fn post_start_container(
        &self,
        context: &TtrpcContext,
        request: api::PostStartContainerRequest,
    ) -> ttrpc::Result<api::PostStartContainerResponse> {
        self.container(context, Event::PostStartContainer, request.pod, request.container).await?;
        Ok(api::PostStartContainerResponse::default())
    }

    async fn post_update_container(
        &self,
        context: &TtrpcContext,
        request: api::PostUpdateContainerRequest,
    ) -> ttrpc::Result<api::PostUpdateContainerResponse> {
        self.container(context, Event::PostUpdateContainer, request.pod, request.container).await?;
        Ok(api::PostUpdateContainerResponse::default())
    }

    async fn remove_container(
        &self,
        context: &TtrpcContext,
        request: api::RemoveContainerRequest,
    ) -> ttrpc::Result<api::RemoveContainerResponse> {
        self.container(context, Event::RemoveContainer, request.pod, request.container).await?;
        Ok(api::RemoveContainerResponse::default())
    }
}
