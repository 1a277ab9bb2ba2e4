//! From a node with NRI turned off to a daemon that is ready, by the steps that the chart's README tells.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::cluster::{Cluster, LONGEST};
use super::components::NODE_IP;
use super::node::PROGRAMS;
use super::pods::{Pod, phase};
use super::release;
use super::tools::{NAMESPACE, helm, must, until};

/// What the node needs after the first step.
pub const ON: [&str; 3] = ["nri.autoEnable=true", "hook.everyContainer=true", "feed.enabled=true"];
/// containerd's configuration.
pub const CONTAINERD: &str = "/etc/containerd/config.toml";
/// What a machine without BPF-LSM enforces.
pub const SECCOMP: &str = "seccompOnly=true";

/// Where the text is kept that it had before.
pub fn containerd_before(cluster: &Cluster) -> PathBuf {
    cluster.log("containerd-before.toml")
}

pub fn becomes_ready_when_nri_is_on(cluster: &mut Cluster) -> Result<()> {
    fs::copy(CONTAINERD, containerd_before(cluster))?;
    let said = release::upgrade("helm-3", Path::new(release::CHART), &[])?;
    cluster.check_has("the chart says that this Kubernetes is too old", &said.err, "kubeVersion: >=1.26.0-0");

    release::apply(cluster, "helm-3", &[])?;
    release::logs("hook", "no runtime answers at")?;
    let pod = release::pod()?.context("a pod")?;
    cluster.check("without NRI the pod waits in Init", phase(&pod), "Pending");
    cluster.check(
        "the hook is on the node",
        Path::new("/opt/nri-enforcer/nri-enforcer-hook").is_file(),
        true,
    );

    release::apply(cluster, "helm-3", &ON)?;
    let edited = || Ok(fs::read_to_string(CONTAINERD)?.contains("base_runtime_spec").then_some(()));
    until("containerd's configuration is edited", LONGEST, edited)?;
    cluster.restart_containerd()?;
    by_default(cluster)?;

    release::apply(cluster, "helm-3", &[&ON[..], &[SECCOMP]].concat())?;
    release::rolled_out()?;
    cluster.note("ready with seccomp policies alone");
    endpoints(cluster)
}

/// What the chart does by default depends on the machine, which says itself what it has.
fn by_default(cluster: &mut Cluster) -> Result<()> {
    let locks = fs::read_to_string("/sys/kernel/security/lsm")?;
    let ends = "cannot enforce on this host";
    let begun = until("the daemon is ready, observes or ends", LONGEST, || {
        let lock = release::status()
            .ok()
            .and_then(|status| Some(status.pointer("/daemon/lock")?.as_str()?.to_owned()));
        Ok(lock.or_else(|| release::log("nri-enforcer").ok()?.contains(ends).then(|| "ends".into())))
    })?;
    if locks.contains("bpf") && begun != "ends" {
        cluster.check("with BPF-LSM it holds the rules", begun.as_str(), "bpf");
        return release::rolled_out();
    }
    // a lock that is there and fails is a fault, which may pass: nothing weaker takes its place. It may only fail where it does
    // for the machine's own root, too: else the pod lacks something
    let wanted = match (locks.contains("bpf"), loads_for_root()?) {
        (false, _) => "none",
        (true, false) => "ends",
        (true, true) => "bpf",
    };
    cluster.check("without BPF-LSM it does not pretend", begun.as_str(), wanted);
    std::thread::sleep(Duration::from_secs(10)); // two probes
    let pod = release::pod()?.context("a pod")?;
    let ready = pod.pointer("/status/containerStatuses/0/ready").and_then(Value::as_bool);
    cluster.check("and is not ready", ready, Some(false));
    Ok(())
}

/// Whether the kernel takes a BPF-LSM program of a process that is root and in no pod.
fn loads_for_root() -> Result<bool> {
    let program = Path::new(PROGRAMS).join("nri-enforcer");
    let output = Command::new(program).args(["probe", "-o", "json"]).output().context("run the probe")?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let checks = report.get("checks").and_then(Value::as_array).context("checks")?;
    let programs = |check: &&Value| check.get("name").and_then(Value::as_str) == Some("bpf-programs");
    let check = checks.iter().find(programs).context("the check `bpf-programs`")?;
    check.get("ok").and_then(Value::as_bool).context("`ok`")
}

fn endpoints(cluster: &mut Cluster) -> Result<()> {
    let status = release::exec(&["status"])?;
    cluster.check("`status` in the pod is good", (status.good, status.err.as_str()), (true, ""));
    let status = release::status()?;
    let at = |pointer: &str| status.pointer(pointer).cloned();
    cluster.check("it is connected to the runtime", at("/daemon/connected"), Some(true.into()));
    cluster.check("it knows its node", at("/daemon/nodeName"), Some("node-1".into()));
    cluster.check("it has a set of the API server", at("/daemon/api/hasSet"), Some(true.into()));
    cluster.check("nothing stands in the way", at("/daemon/api/troubles"), Some(serde_json::json!({})));

    let pages = format!(
        "for page in readyz healthz metrics; do wget -q -O - http://{NODE_IP}:9750/$page || exit 1; done; \
         nc -w 2 {NODE_IP} 32767 </dev/null >/dev/null && echo feed"
    );
    let pod =
        Pod { namespace: "default", name: "prometheus", app: "prometheus", profile: None, command: &pages };
    let (code, told) = pod.run()?;
    cluster.check("the pages and the feed are served to the pod network", code, 0);
    for part in [
        "feed",
        "nri_enforcer_nri_connected 1",
        "nri_enforcer_policies",
        "nri_enforcer_policy_staleness_seconds",
    ] {
        cluster.check_has(&format!("`{part}` is among them"), &told, part);
    }
    let test = helm("helm-3", &["test", "nri-enforcer"])?;
    cluster.check("`helm test` is good", (test.good, test.all().contains("Succeeded")), (true, true));
    let token = must(&[
        "get",
        "pod",
        "-n",
        NAMESPACE,
        &release::pod_name()?,
        "-o",
        "jsonpath={.spec.automountServiceAccountToken}",
    ])?;
    cluster.check("the pod's other containers have no token", token.as_str(), "false");
    Ok(())
}
