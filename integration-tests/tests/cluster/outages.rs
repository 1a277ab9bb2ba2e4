//! The daemon away, and the API server away.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::cluster::{Cluster, LONGEST};
use super::components::STATIC_PODS;
use super::install::{ON, SECCOMP};
use super::pods::Pod;
use super::policies::{WEB, known};
use super::release;
use super::tools::{NAMESPACE, must, until};

/// Where no node is, so that the daemon set has no pod.
const NOWHERE: &str = "nodeSelector.nowhere=yes";

pub fn are_survived(cluster: &mut Cluster) -> Result<()> {
    daemon_deleted(cluster)?;
    daemon_away(cluster)?;
    server_away(cluster)
}

/// The daemon set's pod comes back, and the new daemon knows what runs.
fn daemon_deleted(cluster: &mut Cluster) -> Result<()> {
    let lasting = Pod { name: "lasting", command: "sleep 3600", ..WEB };
    lasting.start()?;
    let before = release::pod_name()?;
    must(&["delete", "pod", "-n", NAMESPACE, &before])?;
    until("there is another pod", LONGEST, || Ok((release::pod_name()? != before).then_some(())))?;
    release::rolled_out()?;
    let container = release::container("lasting")?;
    let state = container.get("state").and_then(Value::as_str);
    cluster.check("the next daemon adopts what runs", state, Some("armed"));
    lasting.delete()
}

/// The hook is in every container: without a daemon none starts but exempt ones.
fn daemon_away(cluster: &mut Cluster) -> Result<()> {
    release::apply(cluster, "helm-3", &[&ON[..], &[SECCOMP, NOWHERE]].concat())?;
    until("the daemon is away", LONGEST, || Ok(release::pod()?.is_none().then_some(())))?;
    until("its socket is dead", LONGEST, || {
        Ok((must(&["get", "pods", "-n", NAMESPACE, "-o", "name"])?.is_empty()).then_some(()))
    })?;
    let plain = Pod { name: "plain", app: "plain", profile: None, command: "true", ..WEB };
    let told = plain.refused("must not start")?;
    cluster.check_has("without a daemon no pod starts, and kubelet says why", &told, "must not start");
    cluster.check_has("by the hook", &told, "nri-enforcer-hook");
    let exempt = Pod { namespace: "kube-system", ..plain };
    cluster.check("one of kube-system does", exempt.run()?.0, 0);
    release::apply(cluster, "helm-3", &[&ON[..], &[SECCOMP]].concat())?;
    release::rolled_out()?;
    cluster.check("with the daemon it starts", plain.run()?.0, 0);
    Ok(())
}

/// Without an API server kubelet starts what it knows, and the daemon what it has saved.
fn server_away(cluster: &mut Cluster) -> Result<()> {
    cluster.kill_server()?;
    let fixed = Pod { name: "fixed", ..WEB };
    let manifest = Path::new(STATIC_PODS).join("fixed.json");
    fs::write(&manifest, fixed.manifest().to_string())?;
    let denied = || {
        Ok(pod_log("default_fixed-node-1_")?.filter(|log| log.contains("Operation not permitted")).map(drop))
    };
    let found = until("a static pod is denied", LONGEST, denied);
    cluster.check("without an API server a pod is under its policies", found.is_ok(), true);
    fs::remove_file(&manifest)?;

    let daemon = daemon_pid()?.context("no daemon runs")?;
    nix::sys::signal::kill(daemon, nix::sys::signal::Signal::SIGKILL)?;
    until("kubelet starts the daemon again", LONGEST, || {
        Ok(daemon_pid()?.filter(|pid| *pid != daemon).map(drop))
    })?;
    let again = Pod { name: "again", ..WEB };
    let manifest = Path::new(STATIC_PODS).join("again.json");
    fs::write(&manifest, again.manifest().to_string())?;
    let denied = || {
        Ok(pod_log("default_again-node-1_")?.filter(|log| log.contains("Operation not permitted")).map(drop))
    };
    let found = until("a static pod is denied", LONGEST, denied);
    cluster.check("a daemon that starts without an API server has its policies", found.is_ok(), true);
    fs::remove_file(&manifest)?;

    cluster.start_server()?;
    release::rolled_out()?;
    known(1)?;
    until("the static pods are gone", LONGEST, || {
        Ok(must(&["get", "pods", "-n", "default", "-o", "name"])?.is_empty().then_some(()))
    })?;
    let status = release::status()?;
    let restored = status.pointer("/daemon/api/restored").and_then(Value::as_u64);
    cluster.check("it says from what it began", restored.is_some_and(|objects| objects > 0), true);
    Ok(())
}

/// What a pod's containers have logged, by the begin of the name of kubelet's folder.
fn pod_log(begin: &str) -> Result<Option<String>> {
    for pod in fs::read_dir("/var/log/pods")?.flatten() {
        if pod.file_name().to_string_lossy().starts_with(begin) {
            let logs = fs::read_dir(pod.path().join("main"))?.flatten();
            let texts: Vec<_> = logs.filter_map(|log| fs::read_to_string(log.path()).ok()).collect();
            return Ok(Some(texts.concat()));
        }
    }
    Ok(None)
}

/// The process of the daemon, which sees this pid namespace.
fn daemon_pid() -> Result<Option<nix::unistd::Pid>> {
    for process in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        if line.starts_with(b"/usr/local/bin/nri-enforcer\0run\0") {
            let pid: i32 = process.file_name().to_string_lossy().parse()?;
            return Ok(Some(nix::unistd::Pid::from_raw(pid)));
        }
    }
    Ok(None)
}
