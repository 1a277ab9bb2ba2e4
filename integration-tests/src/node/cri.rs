//! A CRI client: as much of kubelet as starts a pod.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use prost::Message;
use serde::{Deserialize, Serialize};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::manifest::{Container, Pod};
use super::messages::*;
use crate::image;

/// Starting a container may take a while on an emulated machine; nothing that works takes this long.
const LIMIT: Duration = Duration::from_secs(90);
/// Exit status of a command that was ended because it took too long, as `timeout` reports it.
const TIMED_OUT: i32 = 124;
/// Exit statuses of a command that could not be started, as shells and `kubectl exec` report them.
const NOT_PERMITTED: i32 = 126;
const NOT_FOUND: i32 = 127;
/// CRI's number for the state of a running and of an ended container.
const RUNNING: i32 = 1;
const EXITED: i32 = 2;

/// A connection to containerd.
#[derive(Clone, Debug)]
pub struct Cri {
    channel: Channel,
    logs: PathBuf,
}

/// A pod that was started.
#[derive(Clone, Debug)]
pub struct RunningPod {
    /// Its id at the runtime.
    pub id: String,
    config: PodSandboxConfig,
}

/// A container that was created.
#[derive(Clone, Debug)]
pub struct RunningContainer {
    /// Its id at the runtime.
    pub id: String,
    log: PathBuf,
}

/// What a command did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Exit status; 126 and 127 when it could not be started, with the reason in `stderr`.
    pub exit: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A container's state at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// `None` while it is running or only created.
    pub exit: Option<i32>,
    /// Whether it is running.
    pub running: bool,
    /// Why it is not, in the runtime's words.
    pub reason: String,
}

impl Cri {
    /// Connects to a socket; containers' logs go to files below `logs`.
    ///
    /// # Errors
    /// When nothing answers there.
    pub async fn connect(socket: &Path, logs: &Path) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let channel =
            endpoint.connect().await.with_context(|| format!("connect to `{}`", socket.display()))?;
        let cri = Self { channel, logs: logs.to_owned() };
        cri.version().await?;
        Ok(cri)
    }

    async fn call<Q, R>(&self, method: &'static str, request: Q) -> Result<R, Status>
    where
        Q: Message + Send + Sync + 'static,
        R: Message + Default + Send + Sync + 'static,
    {
        self.call_within(method, request, LIMIT).await
    }

    async fn call_within<Q, R>(&self, method: &'static str, request: Q, limit: Duration) -> Result<R, Status>
    where
        Q: Message + Send + Sync + 'static,
        R: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let codec = tonic_prost::ProstCodec::<Q, R>::default();
        let mut request = Request::new(request);
        request.set_timeout(limit);
        Ok(grpc.unary(request, PathAndQuery::from_static(method), codec).await?.into_inner())
    }

    /// The runtime's version.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn version(&self) -> Result<String, Status> {
        let version: Version = self.call("/runtime.v1.RuntimeService/Version", Nothing {}).await?;
        Ok(version.runtime_version)
    }

    /// Starts a pod's sandbox: on the node's network (there is no CNI), with a pid namespace per container.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn run_pod(&self, pod: &Pod) -> Result<RunningPod, Status> {
        let uid = format!("{}-{}", pod.namespace, pod.name);
        let own = [("name", &pod.name), ("namespace", &pod.namespace), ("uid", &uid)];
        let mut labels: HashMap<_, _> =
            own.map(|(k, v)| (format!("io.kubernetes.pod.{k}"), v.clone())).into();
        labels.extend(pod.labels.clone());
        let log_directory = self.logs.join(&uid);
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: pod.name.clone(),
                uid,
                namespace: pod.namespace.clone(),
                attempt: 0,
            }),
            log_directory: log_directory.to_string_lossy().into_owned(),
            labels,
            annotations: pod.annotations.clone().into_iter().collect(),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    privileged: pod.init.iter().chain(&pod.containers).any(|c| c.privileged),
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        };
        let request = RunPodSandboxRequest { config: Some(config.clone()) };
        let id: PodSandboxId = self.call("/runtime.v1.RuntimeService/RunPodSandbox", request).await?;
        Ok(RunningPod { id: id.pod_sandbox_id, config })
    }

    /// Creates a container. `attempt` counts its restarts, as kubelet's does.
    ///
    /// # Errors
    /// As the runtime (and so an NRI plugin) says.
    pub async fn create(
        &self,
        pod: &RunningPod,
        container: &Container,
        attempt: u32,
    ) -> Result<RunningContainer, Status> {
        let log_path = format!("{}-{attempt}.log", container.name);
        let metadata = pod.config.metadata.clone().unwrap_or_default();
        let own = [
            ("io.kubernetes.container.name", &container.name),
            ("io.kubernetes.pod.name", &metadata.name),
            ("io.kubernetes.pod.namespace", &metadata.namespace),
            ("io.kubernetes.pod.uid", &metadata.uid),
        ];
        let image = if container.image.is_empty() {
            image::DEFAULT_IMAGE.to_owned()
        } else {
            container.image.clone()
        };
        let command =
            if container.is_idle() { vec![image::IDLE.to_owned()] } else { container.command.clone() };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: container.name.clone(), attempt }),
            image: Some(ImageSpec { image }),
            command,
            working_dir: container.workdir.clone(),
            envs: container.env.iter().map(|(k, v)| KeyValue { key: k.clone(), value: v.clone() }).collect(),
            mounts: container
                .mounts
                .iter()
                .map(|(there, here)| Mount { host_path: there.clone(), container_path: here.clone() })
                .collect(),
            labels: own.map(|(k, v)| (k.to_owned(), v.clone())).into(),
            log_path: log_path.clone(),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    privileged: container.privileged,
                    namespace_options: Some(namespaces()),
                    run_as_user: container.user.map(|value| Int64Value { value }),
                    // as kubelet asks for the file of a `localhostProfile`
                    seccomp: container
                        .seccomp
                        .clone()
                        .map(|localhost_ref| SecurityProfile { kind: 2, localhost_ref }),
                    apparmor: container
                        .apparmor
                        .clone()
                        .map(|localhost_ref| SecurityProfile { kind: 2, localhost_ref }),
                }),
            }),
            ..ContainerConfig::default()
        };
        let log = Path::new(&pod.config.log_directory).join(log_path);
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let id: ContainerId = self.call("/runtime.v1.RuntimeService/CreateContainer", request).await?;
        Ok(RunningContainer { id: id.container_id, log })
    }

    /// Starts a created container.
    ///
    /// # Errors
    /// As the runtime says: its program may not be executed, or an NRI plugin refuses.
    pub async fn start(&self, container: &RunningContainer) -> Result<(), Status> {
        let request = ContainerId { container_id: container.id.clone() };
        self.call::<_, Nothing>("/runtime.v1.RuntimeService/StartContainer", request).await.map(drop)
    }

    /// A container's state.
    ///
    /// # Errors
    /// When the runtime does not know it.
    pub async fn state(&self, container: &RunningContainer) -> Result<State, Status> {
        let request = ContainerStatusRequest { container_id: container.id.clone(), verbose: false };
        let answer: ContainerStatusResponse =
            self.call("/runtime.v1.RuntimeService/ContainerStatus", request).await?;
        let status = answer.status.unwrap_or_default();
        let reason = [status.reason, status.message].join(": ").trim_matches([':', ' ']).to_owned();
        Ok(State {
            exit: (status.state == EXITED).then_some(status.exit_code),
            running: status.state == RUNNING,
            reason,
        })
    }

    /// Waits until a started container runs the program at `path`; `false`: it ended first, since the program may not be
    /// executed. The runtime calls a container started before that is known.
    ///
    /// # Errors
    /// When the runtime does not know it.
    pub async fn runs_program(&self, container: &RunningContainer, path: &str) -> Result<bool, Status> {
        let request = ContainerStatusRequest { container_id: container.id.clone(), verbose: true };
        loop {
            let answer: ContainerStatusResponse =
                self.call("/runtime.v1.RuntimeService/ContainerStatus", request.clone()).await?;
            if answer.status.unwrap_or_default().state != RUNNING {
                return Ok(false);
            }
            let info = answer.info.get("info").map(String::as_str).unwrap_or_default();
            let info: serde_json::Value = serde_json::from_str(info).unwrap_or_default();
            let pid = info.get("pid").and_then(serde_json::Value::as_i64).unwrap_or_default();
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            if program == Path::new(path) {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a container has ended. `None`: it is still running after `limit`.
    ///
    /// # Errors
    /// When the runtime does not know it.
    pub async fn wait(&self, container: &RunningContainer, limit: Duration) -> Result<Option<State>, Status> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let state = self.state(container).await?;
            if state.exit.is_some() {
                return Ok(Some(state));
            }
            if tokio::time::Instant::now() > deadline {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// What a container has written so far: its standard output and error.
    #[must_use]
    pub fn output(&self, container: &RunningContainer) -> (String, String) {
        split_log(&std::fs::read(&container.log).unwrap_or_default())
    }

    /// Runs a command in a running container, for at most `limit`. That it cannot be started, or takes longer, is an
    /// outcome, not an error.
    ///
    /// # Errors
    /// When the container is not running, or the runtime fails.
    pub async fn exec(
        &self,
        container: &RunningContainer,
        command: &[String],
        limit: Duration,
    ) -> Result<Output, Status> {
        const METHOD: &str = "/runtime.v1.RuntimeService/ExecSync";
        let timeout = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX).max(1);
        let request = ExecSyncRequest { container_id: container.id.clone(), cmd: command.to_vec(), timeout };
        match self.call_within::<_, ExecSyncResponse>(METHOD, request, limit + LIMIT).await {
            Ok(r) => Ok(Output {
                exit: r.exit_code,
                stdout: String::from_utf8_lossy(&r.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&r.stderr).into_owned(),
            }),
            Err(status)
                if status.message().contains("context deadline exceeded")
                    && status.message().contains("timeout") =>
            {
                let stderr = format!("ended after {timeout} s: it took too long\n");
                Ok(Output { exit: TIMED_OUT, stdout: String::new(), stderr })
            }
            Err(status) => match start_failure(status.message()) {
                Some((exit, stderr)) => Ok(Output { exit, stdout: String::new(), stderr }),
                None => Err(status),
            },
        }
    }

    /// Kills a container.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn stop(&self, container: &RunningContainer) -> Result<(), Status> {
        let request = StopContainerRequest { container_id: container.id.clone(), timeout: 0 };
        self.call::<_, Nothing>("/runtime.v1.RuntimeService/StopContainer", request).await.map(drop)
    }

    /// Removes an ended container.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn remove(&self, container: &RunningContainer) -> Result<(), Status> {
        let request = ContainerId { container_id: container.id.clone() };
        self.call::<_, Nothing>("/runtime.v1.RuntimeService/RemoveContainer", request).await.map(drop)
    }

    /// Stops and removes a pod with all its containers.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn remove_pod(&self, pod: &RunningPod) -> Result<(), Status> {
        let id = PodSandboxId { pod_sandbox_id: pod.id.clone() };
        self.call::<_, Nothing>("/runtime.v1.RuntimeService/StopPodSandbox", id.clone()).await?;
        self.call::<_, Nothing>("/runtime.v1.RuntimeService/RemovePodSandbox", id).await.map(drop)
    }
}

/// Network of the node, pid namespace of the container, ipc of the pod. Containers need it too: else they join the
/// pause container's pid namespace.
fn namespaces() -> NamespaceOption {
    NamespaceOption { network: 2, pid: 1, ipc: 0 }
}

/// The part of a runtime's error that says why a program could not be started, and the exit status a shell would give.
/// `None`: the error is about something else.
#[must_use]
pub fn start_failure(message: &str) -> Option<(i32, String)> {
    let at = message.find("unable to start container process:").or_else(|| message.find("exec failed:"))?;
    let reason = message.get(at..)?.to_owned();
    if reason.contains("permission denied") || reason.contains("operation not permitted") {
        Some((NOT_PERMITTED, reason))
    } else if reason.contains("no such file or directory") || reason.contains("executable file not found") {
        Some((NOT_FOUND, reason))
    } else {
        None
    }
}

/// Lines of CRI's log format, `TIME STREAM F|P TEXT`, put together again per stream. `P` is a part of a line.
fn split_log(log: &[u8]) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    for line in String::from_utf8_lossy(log).lines() {
        let mut fields = line.splitn(4, ' ').skip(1);
        let (Some(stream), Some(tag)) = (fields.next(), fields.next()) else { continue };
        let to = if stream == "stderr" { &mut err } else { &mut out };
        to.push_str(fields.next().unwrap_or_default());
        if tag.starts_with('F') {
            to.push('\n');
        }
    }
    (out, err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_split_and_joined() {
        let log = b"T1 stdout P hel\nT2 stderr F oops\nT3 stdout F lo\nT4 stdout F \nbroken\n";
        assert_eq!(split_log(log), ("hello\n\n".into(), "oops\n".into()));
    }

    #[test]
    fn start_failures_are_told_from_others() {
        let denied = r#"failed to exec in container: OCI runtime exec failed: exec failed: unable to start container process: exec: "/bin/cat": permission denied: unknown"#;
        assert_eq!(start_failure(denied).map(|f| f.0), Some(126));
        let absent = r#"exec failed: unable to start container process: exec: "nope": executable file not found in $PATH: unknown"#;
        assert_eq!(start_failure(absent).map(|f| f.0), Some(127));
        assert_eq!(start_failure("container is in CONTAINER_EXITED state"), None);
    }
}
