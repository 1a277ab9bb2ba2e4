//! Pods that leave our profile out, where the OCI hook is there so that nothing starts without its policies.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::cache;
use lab::node::{Container, Daemon, RunningContainer, RunningPod};
use lab::testing::{Node, in_guest_with_program};
use lab::vm::{Containerd, Kernel, Spec};
use nix::sys::signal::Signal;

use super::audited;
use super::node::{POLICY, pod, started, status, with_apparmor, with_profile};

/// Where the daemon finds the hook that it puts into containers.
const HOOK: &str = "/run/hook/nri-enforcer-hook";

#[test]
fn a_pod_that_leaves_its_profile_out_does_not_start() -> Result<()> {
    let spec = Spec::node(Kernel::V6_12, Containerd::V1_7);
    let parser = || Ok(cache::artefact("apparmor")?.join("apparmor_parser"));
    let files: [lab::testing::File; 2] = [("apparmor_parser", parser), ("hook", lab::run::hook)];
    let name = "hooked::a_pod_that_leaves_its_profile_out_does_not_start";
    in_guest_with_program(name, &spec, &files, |node| {
        Box::pin(async move {
            let mut daemon = with_apparmor(node).await?;
            hooked(node, &mut daemon).await.with_context(|| daemon.log())?;
            audited::reported(node, &mut daemon).await.with_context(|| daemon.log())
        })
    })
    .map(drop)
}

/// Puts the hook into its place, with this mode.
fn install(mode: &str) -> Result<()> {
    fs::create_dir_all(Path::new(HOOK).parent().context("a directory")?)?;
    fs::copy("hook", HOOK)?;
    let config = serde_json::json!({"mode": mode, "deadlineMillis": 5_000});
    Ok(fs::write(format!("{HOOK}.json"), config.to_string())?)
}

/// Why a container does not start; `None`: it does.
async fn refused(node: &Node, pod: &RunningPod, container: &Container) -> Result<Option<String>> {
    let created = node.cri.create(pod, container, 0).await?;
    let refused = node.cri.start(&created).await.err().map(|status| status.message().to_owned());
    if refused.is_some() {
        node.cri.remove(&created).await?;
    }
    Ok(refused)
}

/// Which profile a container is to have, by its own configuration.
fn annotation(container: &RunningContainer) -> Result<Option<String>> {
    let bundle = Path::new("/run/containerd/io.containerd.runtime.v2.task/k8s.io").join(&container.id);
    let config: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
    let profile = config.pointer("/annotations/nri-enforcer.io~1apparmor-profile");
    Ok(profile.and_then(|profile| profile.as_str()).map(str::to_owned))
}

async fn hooked(node: &mut Node, daemon: &mut Daemon) -> Result<()> {
    let arguments = daemon.options_mut().arguments.clone();
    daemon.options_mut().arguments.extend(["--hook", HOOK].map(str::to_owned));
    daemon.write_policy("policy.yaml", POLICY)?;
    install("closed")?;
    daemon.start().await?;
    let web = pod(node, "web", &["with", "idle"]).await?;
    let with = started(node, &web, &with_profile(Container::new("with", &["/bin/first"]))).await?;
    let exit = node.cri.wait(&with, Duration::from_secs(60)).await?.and_then(|state| state.exit);
    node.check("one that names the profile, through the gate", exit, Some(13));
    let passed = daemon.whole_log().matches("let through the gate").count();
    node.check("the gate says that it is armed", passed, 1);
    let idle = started(node, &web, &with_profile(Container::idle("idle"))).await?;
    let wanted = Some("nri-enforcer.default.web".to_owned());
    node.check("it says which profile it is to have", annotation(&idle)?, wanted);
    let why = refused(node, &web, &Container::new("without", &["/bin/first"])).await?.unwrap_or_default();
    println!("{why}");
    node.check(
        "one that does not is refused by the hook, and told what to do",
        why.contains("must not start") && why.contains("localhostProfile: nri-enforcer.default.NAME"),
        true,
    );
    let passed = daemon.whole_log().matches("let through the gate").count();
    node.check("the gate does not say armed of it", passed, 2);

    // the daemon's second lock, for a container that has no hook
    fs::remove_file(HOOK)?;
    let why = refused(node, &web, &Container::new("bare", &["/bin/first"])).await?.unwrap_or_default();
    node.check(
        "without the hook in the container its start is refused over NRI",
        !why.contains("nri-enforcer-hook:") && why.contains("localhostProfile: nri-enforcer.default.NAME"),
        true,
    );

    daemon.end(Signal::SIGTERM)?;
    install("open")?;
    daemon.start().await?;
    let open = started(node, &web, &Container::idle("open")).await?;
    node.check("in the mode `open` it starts", node.exec(&open, "/bin/first").await?.exit, 0);
    // the daemon lives, and tells soon what the hook has recorded
    let by_hook = |alert: &lab::node::Alert| alert["Data"] == "notice=open";
    let alerts = daemon.wait_for_alert(Duration::from_secs(60), by_hook).await?;
    node.check("which the hook records", alerts.iter().filter(|alert| by_hook(alert)).count(), 1);
    let (told, _, code) = status("open")?;
    node.check("its state", (told["state"].as_str(), code), (Some("notCovered"), Some(1)));
    let alerts = daemon.alerts().await?;
    let unprotected =
        alerts.iter().filter(|a| a["ContainerName"] == "open" && a["Data"] == "notice=unprotected");
    node.check("an alert about it", unprotected.count(), 1);

    daemon.end(Signal::SIGTERM)?;
    daemon.options_mut().arguments = arguments;
    Ok(node.cri.remove_pod(&web).await?)
}
