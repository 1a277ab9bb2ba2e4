//! Pods, from a Kubernetes manifest or from the command line.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::image;

/// What the lab starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Labels, which policies select by.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Run to completion, one after another, before the others.
    pub init: Vec<Container>,
    /// The containers; at least one.
    pub containers: Vec<Container>,
}

/// One container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// Image as the lab calls it; empty: the default one.
    pub image: String,
    /// Program and arguments; empty: it only waits.
    pub command: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Numeric user; `None`: root.
    pub user: Option<i64>,
    /// Working directory; empty: `/`.
    pub workdir: String,
    /// All capabilities, devices, and the node's cgroups.
    pub privileged: bool,
    /// Directories of the node that it sees: there, and where in the container.
    #[serde(default)]
    pub mounts: Vec<(String, String)>,
    /// A seccomp profile of the node, by its absolute path; `None`: as the runtime likes.
    #[serde(default)]
    pub seccomp: Option<String>,
    /// An AppArmor profile of the node, by its name; `None`: as the runtime likes.
    #[serde(default)]
    pub apparmor: Option<String>,
}

impl Pod {
    /// A pod in namespace `default` with one container.
    #[must_use]
    pub fn new(name: &str, labels: &[(&str, &str)], container: Container) -> Self {
        Self {
            namespace: "default".into(),
            name: name.into(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            containers: vec![container],
            ..Self::default()
        }
    }

    /// Uses this image for every container.
    pub fn set_image(&mut self, image: &str) {
        for container in self.init.iter_mut().chain(&mut self.containers) {
            image.clone_into(&mut container.image);
        }
    }
}

impl Container {
    /// A container with this name and command.
    #[must_use]
    pub fn new(name: &str, command: &[&str]) -> Self {
        Self {
            name: name.into(),
            command: command.iter().map(|c| (*c).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// A container that only waits.
    #[must_use]
    pub fn idle(name: &str) -> Self {
        Self::new(name, &[])
    }

    /// Whether nothing was asked of it but to wait.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.command.is_empty() || self.command == [image::IDLE]
    }
}

/// The fields of a manifest that the lab heeds; all others (images, probes, volumes, ...) are left out of account.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    containers: Vec<ContainerSpec>,
    #[serde(default)]
    init_containers: Vec<ContainerSpec>,
    #[serde(default)]
    security_context: SecurityContext,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerSpec {
    name: String,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default)]
    working_dir: String,
    #[serde(default)]
    security_context: SecurityContext,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecurityContext {
    run_as_user: Option<i64>,
    #[serde(default)]
    privileged: bool,
}

/// Reads a manifest (YAML or JSON) of kind Pod.
///
/// # Errors
/// When it is none, with the file's name, line and column.
pub fn parse(file: &str, text: &str) -> Result<Pod> {
    let manifest: Manifest =
        serde_yaml::from_str(text).with_context(|| format!("`{file}` is not a pod manifest"))?;
    if manifest.kind != "Pod" {
        bail!("`{file}` is of kind `{}`; the lab starts a Pod", manifest.kind);
    }
    let pod_user = manifest.spec.security_context.run_as_user;
    let convert = |c: ContainerSpec| Container {
        name: c.name,
        image: String::new(),
        command: c.command.into_iter().chain(c.args).collect(),
        env: c.env.into_iter().map(|v| (v.name, v.value)).collect(),
        user: c.security_context.run_as_user.or(pod_user),
        workdir: c.working_dir,
        privileged: c.security_context.privileged,
        mounts: Vec::new(),
        seccomp: None, // kubelet's business
        apparmor: None,
    };
    let pod = Pod {
        namespace: manifest.metadata.namespace.unwrap_or_else(|| "default".into()),
        name: manifest.metadata.name.unwrap_or_else(|| "lab".into()),
        labels: manifest.metadata.labels,
        annotations: manifest.metadata.annotations,
        init: manifest.spec.init_containers.into_iter().map(convert).collect(),
        containers: manifest.spec.containers.into_iter().map(convert).collect(),
    };
    ensure!(!pod.containers.is_empty(), "`{file}`: spec.containers is empty");
    let mut names: Vec<_> = pod.init.iter().chain(&pod.containers).map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    if let Some([twice, _]) = names.windows(2).find(|w| w.first() == w.last()) {
        bail!("`{file}`: two containers are called `{twice}`");
    }
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_as_users_write_it() {
        let text = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {a: b}}
spec:
  securityContext: {runAsUser: 1000}
  initContainers: [{name: prepare, image: x, command: [/bin/true]}]
  containers:
  - name: main
    image: nginx:latest
    command: [sh]
    args: [-c, 'echo hi']
    env: [{name: A, value: '1'}, {name: B}]
    ports: [{containerPort: 80}]
  - {name: side, securityContext: {runAsUser: 7, privileged: true}}
";
        let pod = parse("pod.yaml", text).unwrap();
        assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("shop", "web"));
        assert_eq!(pod.init[0].command, ["/bin/true"]);
        assert_eq!(pod.containers[0].command, ["sh", "-c", "echo hi"]);
        assert_eq!(pod.containers[0].env, [("A".into(), "1".into()), ("B".into(), String::new())]);
        assert_eq!((pod.containers[0].user, pod.containers[1].user), (Some(1000), Some(7)));
        assert!(pod.containers[1].privileged && pod.containers[1].is_idle());
    }

    #[test]
    fn what_is_no_pod_is_refused_with_a_reason() {
        for (text, reason) in [
            ("kind: Deployment\nspec: {containers: []}", "kind `Deployment`"),
            ("kind: Pod\nspec: {containers: []}", "is empty"),
            ("kind: Pod\nspec: {containers: [{name: a}, {name: a}]}", "two containers are called `a`"),
            ("kind: Pod\nspec: {containers: 3}", "line 2"),
        ] {
            let error = format!("{:#}", parse("p", text).unwrap_err());
            assert!(error.contains(reason), "{error}");
        }
    }
}
