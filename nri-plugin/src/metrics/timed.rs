//! The plugin, with a clock: how long the runtime waited for each answer.

use std::sync::Arc;
use std::time::Instant;

use nri::{
    Container, ContainerAdjustment, ContainerUpdate, Context, Event, EventMask, PodSandbox, Refusal,
    RuntimeInfo, Validation, async_trait,
};

use super::{Metrics, Request};

/// A plugin whose answers are timed.
#[derive(Debug)]
pub struct Timed<P> {
    plugin: P,
    metrics: Metrics,
}

impl<P: nri::Plugin> Timed<P> {
    /// Times the answers of `plugin`.
    #[must_use]
    pub fn new(plugin: P, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { plugin, metrics })
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
        self.plugin.remove_pod_sandbox(context, pod).await
    }

    async fn create_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<ContainerAdjustment, Refusal> {
        self.timed("create_container", self.plugin.create_container(context, pod, container)).await
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
        let answer = self.plugin.validate_container_adjustment(context, request);
        self.timed("validate_container_adjustment", answer).await
    }

    async fn start_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Refusal> {
        self.timed("start_container", self.plugin.start_container(context, pod, container)).await
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
}
