//! Pods and policies of the test, and how it went with them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::image::DEFAULT_IMAGE;
use serde_json::{Value, json};

use super::cluster::LONGEST;
use super::tools::{Said, apply, get, kubectl, must, until};

/// What a refusal says where a node was too slow, as an emulated one may be for a moment. It asks for another start, which kubelet
/// does for pods that are to be started again.
const LATE: [&str; 2] = ["took too long", "did not answer"];
/// How often such a pod is started.
const TRIES: u32 = 5;

/// How long it may take until a refusal that happens again is told: a minute, and kubelet's next attempt.
const COUNTED: Duration = Duration::from_secs(180);

/// A pod with one container, `main`, that is not started again.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub app: &'a str,
    /// `localhostProfile`; none: the runtime's default.
    pub profile: Option<&'a str>,
    pub command: &'a str,
}

impl Pod<'_> {
    pub fn manifest(&self) -> Value {
        let profile = match self.profile {
            Some(file) => json!({"type": "Localhost", "localhostProfile": file}),
            None => json!({"type": "RuntimeDefault"}),
        };
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": {"app": self.app}},
            "spec": {
                "restartPolicy": "Never", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                "securityContext": {"seccompProfile": profile},
                "tolerations": [{"operator": "Exists"}],
                "containers": [{
                    "name": "main", "image": DEFAULT_IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", self.command],
                }],
            },
        })
    }

    /// Starts it, and waits until it has ended: exit code, and what it printed.
    pub fn run(&self) -> Result<(i64, String)> {
        self.run_to_end(&self.manifest())
    }

    /// The same with a program of the image, instead of the shell.
    pub fn run_program(&self, program: &str) -> Result<(i64, String)> {
        let mut manifest = self.manifest();
        *manifest.pointer_mut("/spec/containers/0/command").context("a command")? = json!([program]);
        self.run_to_end(&manifest)
    }

    fn run_to_end(&self, manifest: &Value) -> Result<(i64, String)> {
        for _ in 0..TRIES {
            apply(&manifest.to_string())?;
            let ended = until(&format!("{} ends", self.name), LONGEST, || {
                let pod = self.get()?;
                let refused = refusal(&pod).map(|why| Err(why.to_owned()));
                Ok(exit_code(&pod).map(Ok).or(refused))
            });
            match ended.with_context(|| self.describe().unwrap_or_default())? {
                Ok(code) => {
                    let log = must(&["logs", "-n", self.namespace, self.name])?;
                    self.delete()?;
                    return Ok((code, log));
                }
                Err(why) if LATE.iter().any(|late| why.contains(late)) => {
                    println!("{} is started again: {why}", self.name);
                    self.delete()?;
                }
                Err(why) => bail!("{} is not started: {why}", self.name),
            }
        }
        bail!("{} times the node was too slow to start {}", TRIES, self.name)
    }

    /// Starts it, and waits until it runs.
    pub fn start(&self) -> Result<()> {
        apply(&self.manifest().to_string())?;
        let runs = || Ok((phase(&self.get()?) == "Running").then_some(()));
        until(&format!("{} runs", self.name), LONGEST, runs)
            .with_context(|| self.describe().unwrap_or_default())
    }

    /// Starts it where it must be refused: what `kubectl describe pod` says, as soon as kubelet has failed to start its
    /// container and that has `reason`, or after a while. The pod is deleted.
    pub fn refused(&self, reason: &str) -> Result<String> {
        apply(&self.manifest().to_string())?;
        let failed = |told: &str| {
            let event = |line: &str| line.split_whitespace().take(2).eq(["Warning", "Failed"]);
            told.lines().any(event) || told.contains("StartError")
        };
        let told = || Ok(Some(self.describe()?).filter(|told| failed(told) && told.contains(reason)));
        let told = until(&format!("{} is refused", self.name), Duration::from_secs(60), told);
        let pod = self.get()?;
        let ran = phase(&pod) == "Succeeded" || exit_code(&pod) == Some(0);
        let told = match told {
            _ if ran => "it ran".to_owned(),
            Ok(told) => told,
            // a reason without a failure is none
            Err(_) => self.describe()?.replace(reason, "(the reason, and no failure)"),
        };
        self.delete()?;
        Ok(told)
    }

    /// Starts it where it must be refused again and again: the reason and the note of the event that tells so, once it has
    /// counted on. The pod is deleted.
    pub fn refused_again(&self) -> Result<(String, String)> {
        let mut manifest = self.manifest();
        // kubelet does not try a second time otherwise
        let policy = manifest.pointer_mut("/spec/restartPolicy").context("no restart policy")?;
        *policy = json!("OnFailure");
        apply(&manifest.to_string())?;
        let pod = self.get()?;
        let uid = text(&pod, "/metadata/uid");
        let counted = || {
            let events = get(&["events.events.k8s.io", "-n", self.namespace])?;
            let mut events = events.get("items").and_then(Value::as_array).into_iter().flatten();
            let ours = events.find(|event| {
                text(event, "/reportingController").starts_with("nri-enforcer.io/")
                    && text(event, "/regarding/uid") == uid
                    && event.pointer("/series/count").and_then(Value::as_u64).is_some_and(|count| count >= 2)
            });
            Ok(ours.map(|event| (text(event, "/reason").to_owned(), text(event, "/note").to_owned())))
        };
        // at most once in a minute it is told that it happened again
        let told = until(&format!("{} is refused again", self.name), LONGEST.max(COUNTED), counted);
        let told = told.with_context(|| self.describe().unwrap_or_default());
        self.delete()?;
        told
    }

    /// Runs a command, split at spaces, in it.
    pub fn exec(&self, command: &str) -> Result<Said> {
        let words: Vec<_> = command.split(' ').collect();
        kubectl(&[&["exec", "-n", self.namespace, self.name, "--"], words.as_slice()].concat())
    }

    pub fn get(&self) -> Result<Value> {
        get(&["pod", "-n", self.namespace, self.name])
    }

    pub fn describe(&self) -> Result<String> {
        Ok(kubectl(&["describe", "pod", "-n", self.namespace, self.name])?.all())
    }

    pub fn delete(&self) -> Result<()> {
        must(&[
            "delete",
            "pod",
            "-n",
            self.namespace,
            self.name,
            "--grace-period=0",
            "--force",
            "--wait=true",
        ])
        .map(drop)
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The phase of a pod.
pub fn phase(pod: &Value) -> &str {
    pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default()
}

/// The exit code of its only container, once that has ended. A container that was not started has none.
fn exit_code(pod: &Value) -> Option<i64> {
    let state = pod.pointer("/status/containerStatuses/0/state/terminated")?;
    state.get("exitCode").and_then(Value::as_i64).filter(|_| refusal(pod).is_none())
}

/// Why its only container was not started.
fn refusal(pod: &Value) -> Option<&str> {
    let state = pod.pointer("/status/containerStatuses/0/state/terminated")?;
    let refused = state.get("reason").and_then(Value::as_str) == Some("StartError");
    refused.then(|| state.get("message").and_then(Value::as_str).unwrap_or_default())
}

/// A seccomp policy that denies these system calls with an errno to the pods of an app.
pub fn seccomp_policy(namespace: &str, name: &str, app: &str, calls: &[&str], errno: &str) -> String {
    json!({
        "apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorSeccompPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": app}},
            "syscalls": [{"names": calls, "action": "Block", "errno": errno}],
        },
    })
    .to_string()
}

/// A file policy that denies a path to the pods of an app.
pub fn file_policy(namespace: &str, name: &str, app: &str, path: &str) -> String {
    json!({
        "apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": app}},
            "file": {"matchPaths": [{"path": path}]}, "action": "Block",
        },
    })
    .to_string()
}
