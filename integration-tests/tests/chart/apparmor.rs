//! `lsmOrder: [apparmor]` in the pod: the daemon in the container that the chart then describes, with the parser that
//! `make image-programs APPARMOR=1` puts into the image, on a real kernel.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use lab::cache;
use lab::node::{Container, Pod};
use lab::run::{DAEMON_FILE, hook};
use lab::testing::{File, Node, in_guest_with};
use lab::vm::{Containerd, Kernel, Spec};
use serde_json::Value;

use super::helm::at;
use super::node::{ROOT, daemon, lacks_nothing, start, written};

const PARSER: &str = "apparmor_parser";
const PROFILE: &str = "nri-enforcer.default.web";
const ANNOTATION: &str = "apparmor.nri-enforcer.io";

fn release() -> Result<PathBuf> {
    written("release-apparmor.json", &["lsmOrder={apparmor}"])
}

fn parser() -> Result<PathBuf> {
    Ok(cache::artefact("apparmor")?.join(PARSER))
}

/// That the parser runs in the image with nothing but what is put there is a test of `image.rs`; here the guest's C library
/// is in the container, as the tests' daemon is not static.
#[test]
fn the_daemon_of_the_chart_holds_rules_by_apparmor_in_its_pod() -> Result<()> {
    let spec = Spec::node(Kernel::V6_12, Containerd::V1_7);
    let files: &[File] =
        &[(DAEMON_FILE, daemon), ("nri-enforcer-hook", hook), ("release.json", release), (PARSER, parser)];
    let name = "apparmor::the_daemon_of_the_chart_holds_rules_by_apparmor_in_its_pod";
    in_guest_with(name, &spec, false, files, |node| Box::pin(holds(node))).map(drop)
}

async fn holds(node: &mut Node) -> Result<()> {
    let release: Value = serde_json::from_slice(&fs::read("release.json")?)?;
    node.use_apparmor(PARSER.as_ref()).await?;
    fs::create_dir_all(format!("{ROOT}/usr/sbin"))?;
    fs::copy(PARSER, format!("{ROOT}/usr/sbin/{PARSER}"))?;
    start(node, &release).await?;

    let mut pod = Pod::new("web", &[("app", "my-web-app")], Container::idle("any"));
    for container in ["first", "idle"] {
        pod.annotations.insert(format!("{ANNOTATION}/{container}"), PROFILE.to_owned());
    }
    let web = node.cri.run_pod(&pod).await?;
    let with = |container: Container| Container { apparmor: Some(PROFILE.to_owned()), ..container };
    let first = node.cri.create(&web, &with(Container::new("first", &["/bin/first"])), 0).await?;
    node.cri.start(&first).await?;
    let exit = node.cri.wait(&first, Duration::from_secs(60)).await?.and_then(|state| state.exit);
    node.check("the first instruction is denied", exit, Some(13)); // EACCES
    let idle = node.cri.create(&web, &with(Container::idle("idle")), 0).await?;
    node.cri.start(&idle).await?;
    node.check("what enters is denied", node.exec(&idle, "/bin/first").await?.exit, 13);
    node.check("what no rule names is not", node.exec(&idle, "cat /etc/group").await?.exit, 0);
    // told by an audit record, which the daemon may hear
    let denied = |alert: &Value| {
        at(alert, "/Enforcer") == "AppArmor" && at(alert, "/PolicyName") == "block-etc-passwd-read"
    };
    let alerts = node.daemon.wait_for_alert(Duration::from_secs(20), denied).await?;
    node.check("an alert names the policy", alerts.iter().any(denied), true);
    lacks_nothing(node);
    // without the profile it is not covered, so the hook of the chart lets it not start
    let without = node.cri.create(&web, &Container::idle("without"), 0).await?;
    let refused = node.cri.start(&without).await.err().map(|status| status.to_string());
    let why = refused.unwrap_or_default();
    node.check("one that leaves the profile out does not start", why.contains("no AppArmor profile"), true);
    Ok(())
}
