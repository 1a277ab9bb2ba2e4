//! The chart's release, and the daemon that it brings.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cluster::{Cluster, LONGEST};
use super::node::IMAGE;
use super::tools::{self, NAMESPACE, Said, get, helm, kubectl, must, until};

/// The chart as it is in the tree.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/chart");
/// What has no default.
const VALUES: [&str; 2] = ["image.pullPolicy=Never", "clusterName=test"];

/// `helm upgrade --install` with these values and no others. What is old about this Kubernetes is `kubeVersion` alone, which
/// helm has no flag to overlook: so a copy of the chart without that line is installed.
pub fn apply(cluster: &Cluster, version: &str, values: &[&str]) -> Result<()> {
    let chart = cluster.folder("chart")?;
    tools::output(Command::new("cp").args(["-rLT", CHART]).arg(&chart))?;
    let about = chart.join("Chart.yaml");
    let text = fs::read_to_string(&about)?;
    let kept: Vec<_> = text.lines().filter(|line| !line.starts_with("kubeVersion:")).collect();
    ensure!(kept.len() + 1 == text.lines().count(), "the chart says nothing about Kubernetes' version");
    fs::write(&about, kept.join("\n") + "\n")?;
    let said = upgrade(version, &chart, values)?;
    ensure!(said.good, "{version} {values:?}: {}", said.all());
    Ok(())
}

/// The same with the chart as it is.
pub fn upgrade(version: &str, chart: &Path, values: &[&str]) -> Result<Said> {
    let chart = chart.to_string_lossy();
    let image = format!("image.repository={IMAGE}");
    let mut arguments = vec!["upgrade", "--install", "nri-enforcer", &chart, "--create-namespace"];
    // the definitions have rules that this Kubernetes does not know, and leaves out
    arguments.push("--disable-openapi-validation");
    for value in [&[image.as_str()], &VALUES[..], values].concat() {
        arguments.extend(["--set", value]);
    }
    helm(version, &arguments)
}

/// Waits until the daemon set is as its newest template says, and ready.
pub fn rolled_out() -> Result<()> {
    let timeout = format!("--timeout={}s", LONGEST.as_secs());
    let said = kubectl(&["-n", NAMESPACE, "rollout", "status", "daemonset/nri-enforcer", &timeout])?;
    ensure!(
        said.good,
        "the daemon set is not ready: {}\n{}",
        said.all(),
        must(&["-n", NAMESPACE, "describe", "pods"])?
    );
    Ok(())
}

/// The pod of the daemon set that is not about to go; none where there is none.
pub fn pod() -> Result<Option<Value>> {
    let pods = get(&["pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=nri-enforcer"])?;
    let all = pods.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(all.into_iter().find(|pod| pod.pointer("/metadata/deletionTimestamp").is_none()))
}

/// Its name.
pub fn pod_name() -> Result<String> {
    let pod = pod()?.context("the daemon set has no pod")?;
    Ok(pod.pointer("/metadata/name").and_then(Value::as_str).context("a name")?.to_owned())
}

/// What a container of the pod has logged.
pub fn log(container: &str) -> Result<String> {
    Ok(kubectl(&["logs", "-n", NAMESPACE, &pod_name()?, "-c", container])?.all())
}

/// Waits until a container of the pod has logged something.
pub fn logs(container: &str, part: &str) -> Result<()> {
    let told = || Ok(log(container)?.contains(part).then_some(()));
    let found = until(&format!("`{part}` in the log of {container}"), LONGEST, told);
    found.with_context(|| log(container).unwrap_or_default())
}

/// Runs `nri-enforcer` in the daemon's pod.
pub fn exec(arguments: &[&str]) -> Result<Said> {
    let name = pod_name()?;
    let begin = ["exec", "-n", NAMESPACE, &name, "-c", "nri-enforcer", "--", "/usr/local/bin/nri-enforcer"];
    kubectl(&[&begin, arguments].concat())
}

/// The daemon's status document.
pub fn status() -> Result<Value> {
    let said = exec(&["status", "-o", "json"])?;
    serde_json::from_str(&said.out).with_context(|| said.all())
}

/// How a container stands, by its pod's name; waits until the daemon tells.
pub fn container(name: &str) -> Result<Value> {
    until(&format!("the status of {name}"), LONGEST, || {
        let status = status()?;
        let all = status.get("containers").and_then(Value::as_array).context("containers")?;
        Ok(all.iter().find(|one| one.get("pod").and_then(Value::as_str) == Some(name)).cloned())
    })
}
