//! What the chart's README says about taking the release away: pods start afterwards.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use super::cluster::{Cluster, LONGEST};
use super::install::{CONTAINERD, ON, SECCOMP, containerd_before};
use super::pods::Pod;
use super::release;
use super::tools::{NAMESPACE, helm, kubectl, must, until};

const PLAIN: Pod<'static> =
    Pod { namespace: "default", name: "plain", app: "plain", profile: None, command: "true" };

pub fn lets_pods_start_again(cluster: &mut Cluster) -> Result<()> {
    let lasting = Pod { name: "lasting", command: "sleep 3600", ..PLAIN };
    lasting.start()?;
    release::apply(cluster, "helm-3", &[&ON[..], &[SECCOMP, "uninstall=true"]].concat())?;
    release::logs("uninstall", "still runs it")?;
    cluster.check("it waits for a container with the hook", installed(), true);
    cluster.check("meanwhile a new pod starts", PLAIN.run()?.0, 0);
    lasting.delete()?;
    // containerd goes on giving the hook to each new container, of the pod that waits, too
    cluster.restart_containerd()?;
    let done = until("the release is off the node", LONGEST, || Ok((!installed()).then_some(())));
    if done.is_err() {
        cluster.note(&release::log("uninstall")?);
    }
    cluster.check("it goes when containerd was restarted", done.is_ok(), true);
    release::rolled_out()?;
    let (config, before) = (fs::read_to_string(CONTAINERD)?, fs::read_to_string(containerd_before(cluster))?);
    cluster.check("containerd's configuration is as it was", config, before);
    let said = helm("helm-3", &["uninstall", "nri-enforcer", "--wait"])?;
    ensure!(said.good, "{}", said.all());
    until("its pods are gone", LONGEST, || {
        Ok(must(&["get", "pods", "-n", NAMESPACE, "-o", "name"])?.is_empty().then_some(()))
    })?;
    cluster.check(
        "the definitions stay",
        kubectl(&["get", "crd", "kubearmorpolicies.security.kubearmor.com"])?.good,
        true,
    );
    cluster.check(
        "what is the cluster's is gone",
        kubectl(&["get", "clusterrole", "nri-enforcer"])?.good,
        false,
    );
    cluster.check("pods start", PLAIN.run()?.0, 0);
    cluster.restart_containerd()?;
    cluster.check("also after another start of containerd", PLAIN.run()?.0, 0);
    Ok(())
}

/// Whether the hook is on the node.
fn installed() -> bool {
    ["/opt/nri-enforcer/nri-enforcer-hook", "/var/lib/nri-enforcer/installed"]
        .iter()
        .any(|path| Path::new(path).exists())
}
