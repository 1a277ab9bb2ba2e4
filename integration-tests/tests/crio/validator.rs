//! NRI's default validator, which CRI-O has from 1.34 on: a daemon that it requires, and hooks that it forbids.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::node::{Alert, Container, Pod};
use lab::testing::Node;
use nix::sys::signal::Signal;

use super::installed::{configuration, restart};
use super::{DENIED, HOOK, LABEL, OPENED, POLICY, has_validators, in_service, install, passed, soon};

const DROP_IN: &str = "/etc/crio/crio.conf.d/50-validator.conf";
const TOLERATION: &str = "tolerate-missing-plugins.nri-enforcer.io";

pub async fn heeded(node: &mut Node) -> Result<()> {
    if !configuration()?.contains("nri_validator_required_plugins") {
        // nothing to require by; that it is so is what is known of it
        node.check("a CRI-O without validators has an NRI before 0.10", has_validators(node), false);
        return Ok(());
    }
    required(node).await?;
    forbidden(node).await
}

async fn with(node: &mut Node, settings: &str) -> Result<()> {
    fs::create_dir_all("/etc/crio/crio.conf.d")?;
    let text = format!("[crio.nri.default_validator]\nnri_enable_default_validator = true\n{settings}");
    fs::write(DROP_IN, text)?;
    let connections = in_service(node);
    restart(node).await?;
    soon("the daemon is connected again", || in_service(node) > connections).await
}

/// While the daemon is away nothing is created, but in pods that tolerate that.
async fn required(node: &mut Node) -> Result<()> {
    with(
        node,
        &format!(
            "nri_validator_required_plugins = [\"nri-enforcer\"]\n\
             nri_validator_tolerate_missing_plugins_annotation = \"{TOLERATION}\"\n"
        ),
    )
    .await?;
    let plain = node.pod("default", "plain", &[]).await?;
    let mut tolerant = Pod::new("tolerant", &[], Container::idle("any"));
    tolerant.annotations = [(TOLERATION.to_owned(), "true".to_owned())].into();
    let tolerant = node.cri.run_pod(&tolerant).await?;
    node.check("with the daemon", node.entry(&plain, "main", 0, &["/bin/first"]).await?, OPENED);
    node.daemon.end(Signal::SIGKILL)?;
    let refused = node.cri.create(&plain, &Container::new("main", &["/bin/first"]), 1).await;
    let said = refused.err().map(|status| status.message().to_owned()).unwrap_or_default();
    node.check(&format!("without it: {said}"), said.contains("nri-enforcer"), true);
    node.check("a pod that tolerates that", node.entry(&tolerant, "main", 0, &["/bin/first"]).await?, OPENED);
    node.daemon.start().await?;
    node.check("with the next one", node.entry(&plain, "main", 2, &["/bin/first"]).await?, OPENED);
    Ok(())
}

/// A few containers are created in vain; then they go without the hook, which is told.
async fn forbidden(node: &mut Node) -> Result<()> {
    install(node)?;
    // only the daemon is to give it to containers
    for stage in ["createruntime", "poststop"] {
        fs::remove_file(format!("/etc/containers/oci/hooks.d/nri-enforcer-{stage}.json"))?;
    }
    node.daemon.end(Signal::SIGTERM)?;
    node.daemon.options_mut().arguments = vec!["--hook".into(), HOOK.into()];
    node.daemon.start().await?;
    with(node, "nri_validator_reject_oci_hook_adjustment = true\n").await?;
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let mut refused = 0;
    while node.cri.create(&web, &Container::new("main", &["/bin/first"]), refused).await.is_err() {
        refused += 1;
        ensure!(refused < 10, "no container is created any more");
    }
    node.check("containers that are refused", refused, 3);
    node.check(
        "the next ones are armed all the same",
        node.entry(&web, "next", 0, &["/bin/first"]).await?,
        DENIED,
    );
    node.check("without the hook", passed(node), 0);
    let told = |alert: &Alert| alert["Data"] == "notice=without-hook" && alert["ContainerName"] == "next";
    let alerts = node.daemon.wait_for_alert(Duration::from_secs(10), told).await?;
    node.check("which is told", alerts.iter().filter(|alert| told(alert)).count(), 1);
    Ok(())
}
