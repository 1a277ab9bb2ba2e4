//! The plugin, with a clock: how long the runtime waited for each answer.

use std::sync::Arc;
use std::time::Instant;

use nri::{
    Container, ContainerAdjustment, ContainerUpdate, Context, Event, EventMask, PodSandbox, Refusal,
    RuntimeInfo, Validation, async_trait,
};

use super::{Metrics, Request};
use crate::api::reports::events::{Pod, Refusals};

/// A plugin whose answers are timed.
#[derive(Debug)]
pub struct Timed<P> {
    plugin: P,
    metrics: Metrics,
    refusals: Option<Refusals>,
}

impl<P: nri::Plugin> Timed<P> {
    /// Times the answers of `plugin`, and tells `refusals` of containers that may not start.
    #[must_use]
    pub fn new(plugin: P, metrics: Metrics, refusals: Option<Refusals>) -> Arc<Self> {
        Arc::new(Self { plugin, metrics, refusals })
    }

    /// The events that are handed on. A plugin that needs others would be asked in vain.
    #[must_use]
    pub fn events() -> EventMask {
        Event::RunPodSandbox
            | Event::RemovePodSandbox
            | Event::CreateContainer
            | Event::PostCreateContainer
            | Event::StartContainer
            | Event::StopContainer
            | Event::RemoveContainer
            | Event::ValidateContainerAdjustment
    }

    /// The same where a refusal is one of the container's start.
    async fn timed_start<T>(
        &self,
        handler: &'static str,
        pod: Option<Pod>,
        answer: impl Future<Output = Result<T, Refusal>> + Send,
    ) -> Result<T, Refusal> {
        let answer = self.timed(handler, answer).await;
        if let (Some(refusals), Some(pod), Err(refusal)) = (&self.refusals, pod, &answer) {
            refusals.start(pod, refusal.message());
        }
        answer
    }

    /// The pod, where anybody is told of it.
    fn pod(&self, pod: &PodSandbox, container: &Container) -> Option<Pod> {
        self.refusals.as_ref().map(|_| Pod::of(pod, container))
    }

    async fn timed<T>(
        &self,
        handler: &'static str,
        answer: impl Future<Output = Result<T, Refusal>> + Send,
    ) -> Result<T, Refusal> {
        let begin = Instant::now();
        let answer = answer.await;
        let outcome = if answer.is_ok() { "ok" } else { "refused" };
        let requests = self.metrics.requests.get_or_create(&Request { handler, outcome });
        requests.observe(begin.elapsed().as_secs_f64());
        answer
    }
}

#[async_trait]
impl<P: nri::Plugin> nri::Plugin for Timed<P> {
    async fn configure(&self, context: Context, runtime: RuntimeInfo) -> Result<EventMask, Refusal> {
        self.metrics.registrations.inc();
        self.plugin.configure(context, runtime).await
    }

    async fn synchronize(
        &self,
        context: Context,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, Refusal> {
        self.timed("synchronize", self.plugin.synchronize(context, pods, containers)).await
    }

    async fn run_pod_sandbox(&self, context: Context, pod: PodSandbox) -> Result<(), Refusal> {
        self.timed("run_pod_sandbox", self.plugin.run_pod_sandbox(context, pod)).await
    }

    async fn remove_pod_sandbox(&self, context: Context, pod: PodSandbox) -> Result<(), Refusal> {
        self.timed("remove_pod_sandbox", self.plugin.remove_pod_sandbox(context, pod)).await
    }

    async fn create_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<ContainerAdjustment, Refusal> {
        let told = self.pod(&pod, &container);
        let answer = self.plugin.create_container(context, pod, container);
        self.timed_start("create_container", told, answer).await
    }

    async fn post_create_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Refusal> {
        self.timed("post_create_container", self.plugin.post_create_container(context, pod, container)).await
    }

    async fn validate_container_adjustment(
        &self,
        context: Context,
        request: Validation,
    ) -> Result<(), Refusal> {
        let told = self.pod(&request.pod, &request.container);
        let answer = self.plugin.validate_container_adjustment(context, request);
        self.timed_start("validate_container_adjustment", told, answer).await
    }

    async fn start_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Refusal> {
        let told = self.pod(&pod, &container);
        let answer = self.plugin.start_container(context, pod, container);
        self.timed_start("start_container", told, answer).await
    }

    async fn stop_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Vec<ContainerUpdate>, Refusal> {
        self.timed("stop_container", self.plugin.stop_container(context, pod, container)).await
    }

    async fn remove_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Refusal> {
        self.timed("remove_container", self.plugin.remove_container(context, pod, container)).await
    }

    async fn shutdown(&self) {
        self.plugin.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_of_the_plugin_is_handed_on() {
        type OfPlugin = Timed<crate::plugin::Plugin>;
        assert_eq!(crate::plugin::Plugin::events(), OfPlugin::events());
    }

    /// A plugin that refuses everything, by the name of the handler.
    struct Refuses;

    fn no<T>(handler: &str) -> Result<T, Refusal> {
        Err(Refusal::new(handler))
    }

    #[async_trait]
    impl nri::Plugin for Refuses {
        async fn configure(&self, _: Context, _: RuntimeInfo) -> Result<EventMask, Refusal> {
            no("configure")
        }
        async fn synchronize(
            &self,
            _: Context,
            _: Vec<PodSandbox>,
            _: Vec<Container>,
        ) -> Result<Vec<ContainerUpdate>, Refusal> {
            no("synchronize")
        }
        async fn run_pod_sandbox(&self, _: Context, _: PodSandbox) -> Result<(), Refusal> {
            no("run_pod_sandbox")
        }
        async fn remove_pod_sandbox(&self, _: Context, _: PodSandbox) -> Result<(), Refusal> {
            no("remove_pod_sandbox")
        }
        async fn create_container(
            &self,
            _: Context,
            _: PodSandbox,
            _: Container,
        ) -> Result<ContainerAdjustment, Refusal> {
            no("create_container")
        }
        async fn post_create_container(
            &self,
            _: Context,
            _: PodSandbox,
            _: Container,
        ) -> Result<(), Refusal> {
            no("post_create_container")
        }
        async fn validate_container_adjustment(&self, _: Context, _: Validation) -> Result<(), Refusal> {
            no("validate_container_adjustment")
        }
        async fn start_container(&self, _: Context, _: PodSandbox, _: Container) -> Result<(), Refusal> {
            no("start_container")
        }
        async fn stop_container(
            &self,
            _: Context,
            _: PodSandbox,
            _: Container,
        ) -> Result<Vec<ContainerUpdate>, Refusal> {
            no("stop_container")
        }
        async fn remove_container(&self, _: Context, _: PodSandbox, _: Container) -> Result<(), Refusal> {
            no("remove_container")
        }
    }

    fn of_pod() -> PodSandbox {
        let mut pod = PodSandbox::default();
        (pod.namespace, pod.name, pod.uid) = ("n".into(), "web-1".into(), "u".into());
        pod
    }

    #[tokio::test]
    async fn a_refusal_of_each_handler_is_handed_on_and_timed() {
        use nri::Plugin as _;
        let metrics = Metrics::default();
        let (events, mut told) = crate::api::reports::events::recorded();
        let timed = Timed::new(Refuses, metrics.clone(), Some(events));
        let context = || Context::detached(std::time::Duration::from_secs(1), RuntimeInfo::default());
        let (pod, container) = (of_pod, Container::default);
        let mut validation = Validation::default();
        validation.pod = of_pod();
        let refusals = [
            ("configure", timed.configure(context(), RuntimeInfo::default()).await.err()),
            ("synchronize", timed.synchronize(context(), vec![], vec![]).await.err()),
            ("run_pod_sandbox", timed.run_pod_sandbox(context(), pod()).await.err()),
            ("remove_pod_sandbox", timed.remove_pod_sandbox(context(), pod()).await.err()),
            ("create_container", timed.create_container(context(), pod(), container()).await.err()),
            ("post_create_container", timed.post_create_container(context(), pod(), container()).await.err()),
            (
                "validate_container_adjustment",
                timed.validate_container_adjustment(context(), validation).await.err(),
            ),
            ("start_container", timed.start_container(context(), pod(), container()).await.err()),
            ("stop_container", timed.stop_container(context(), pod(), container()).await.err()),
            ("remove_container", timed.remove_container(context(), pod(), container()).await.err()),
        ];
        let starts = ["create_container", "validate_container_adjustment", "start_container"];
        assert_eq!(
            told(),
            starts.map(|handler| ["web-1", "u", handler].map(str::to_owned)),
            "of starts alone"
        );
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &metrics.registry()).unwrap();
        for (handler, refusal) in refusals {
            assert_eq!(refusal, Some(Refusal::new(handler)));
            let count = format!("count{{handler=\"{handler}\",outcome=\"refused\"}} 1\n");
            assert_eq!(page.contains(&count), handler != "configure", "{handler}: {page}");
        }
    }
}
