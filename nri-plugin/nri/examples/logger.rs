//! Prints every event: `cargo run -p nri --example logger -- [SOCKET]`. It changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use nri::{
    Container, ContainerAdjustment, ContainerUpdate, Context, DEFAULT_SOCKET, EventMask, LinuxResources,
    Plugin, PodSandbox, Refusal, RuntimeInfo, Stub, Validation, async_trait,
};

struct Logger;

fn about(event: &str, pod: &PodSandbox, container: Option<&Container>) {
    let container = container.map_or_else(String::new, |c| {
        format!(" container={} name={} pid={} state={:?} args={:?}", c.id, c.name, c.pid, c.state, c.args)
    });
    println!("{event} pod={}/{} labels={:?} pid={}{container}", pod.namespace, pod.name, pod.labels, pod.pid);
}

#[async_trait]
impl Plugin for Logger {
    async fn configure(&self, _: Context, runtime: RuntimeInfo) -> Result<EventMask, Refusal> {
        println!("Configure {runtime:?}");
        Ok(runtime.events)
    }
    async fn synchronize(
        &self,
        _: Context,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, Refusal> {
        println!("Synchronize pods={} containers={}", pods.len(), containers.len());
        for container in &containers {
            let pod = pods.iter().find(|pod| pod.id == container.pod_sandbox_id).cloned().unwrap_or_default();
            about("  running", &pod, Some(container));
        }
        Ok(Vec::new())
    }
    async fn run_pod_sandbox(&self, _: Context, pod: PodSandbox) -> Result<(), Refusal> {
        about("RunPodSandbox", &pod, None);
        Ok(())
    }
    async fn stop_pod_sandbox(&self, _: Context, pod: PodSandbox) -> Result<(), Refusal> {
        about("StopPodSandbox", &pod, None);
        Ok(())
    }
    async fn remove_pod_sandbox(&self, _: Context, pod: PodSandbox) -> Result<(), Refusal> {
        about("RemovePodSandbox", &pod, None);
        Ok(())
    }
    async fn create_container(
        &self,
        _: Context,
        pod: PodSandbox,
        container: Container,
    ) -> Result<ContainerAdjustment, Refusal> {
        about("CreateContainer", &pod, Some(&container));
        // For trying it out: an adjustment of so many bytes, and a refusal by annotation.
        if let Some(why) = pod.annotations.get("logger.example.org/refuse") {
            return Err(Refusal::new(why));
        }
        let size = pod.annotations.get("logger.example.org/adjust").and_then(|size| size.parse().ok());
        Ok(size.map_or_else(ContainerAdjustment::new, |size: usize| {
            ContainerAdjustment::new().env("LOGGER", "x".repeat(size.min(100_000)))
        }))
    }
    async fn post_create_container(&self, _: Context, pod: PodSandbox, c: Container) -> Result<(), Refusal> {
        about("PostCreateContainer", &pod, Some(&c));
        Ok(())
    }
    async fn start_container(&self, _: Context, pod: PodSandbox, c: Container) -> Result<(), Refusal> {
        about("StartContainer", &pod, Some(&c));
        Ok(())
    }
    async fn post_start_container(&self, _: Context, pod: PodSandbox, c: Container) -> Result<(), Refusal> {
        about("PostStartContainer", &pod, Some(&c));
        Ok(())
    }
    async fn update_container(
        &self,
        _: Context,
        pod: PodSandbox,
        c: Container,
        resources: Option<LinuxResources>,
    ) -> Result<Vec<ContainerUpdate>, Refusal> {
        about(&format!("UpdateContainer {resources:?}"), &pod, Some(&c));
        Ok(Vec::new())
    }
    async fn stop_container(
        &self,
        _: Context,
        pod: PodSandbox,
        c: Container,
    ) -> Result<Vec<ContainerUpdate>, Refusal> {
        about("StopContainer", &pod, Some(&c));
        Ok(Vec::new())
    }
    async fn remove_container(&self, _: Context, pod: PodSandbox, c: Container) -> Result<(), Refusal> {
        about("RemoveContainer", &pod, Some(&c));
        Ok(())
    }
    async fn validate_container_adjustment(&self, _: Context, request: Validation) -> Result<(), Refusal> {
        about(&format!("Validate plugins={:?}", request.plugins), &request.pod, Some(&request.container));
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), nri::Error> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let socket = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from);
    let stub = Stub::builder("logger", "90").socket(socket).environment().build()?;
    let handle = stub.handle();
    let mut state = handle.state();
    tokio::spawn(async move {
        while state.changed().await.is_ok() {
            eprintln!("state: {:?}", &*state.borrow_and_update());
        }
    });
    let interrupted = async {
        // Without a way to be interrupted it runs until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    };
    stub.run(Arc::new(Logger), interrupted).await?;
    eprintln!("{:?}", handle.counters());
    Ok(())
}
