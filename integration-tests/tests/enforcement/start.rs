//! From when on a container is judged, and what is left alone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::node::Alert;
use lab::testing::Node;
use nix::sys::signal::Signal;

use crate::learned::learned;
use crate::{DENIED, LABEL, OPENED, POLICY, on_host, text};

/// Every way in which a program gets into a container is judged from its first system call; all else is left alone.
pub async fn first_instruction(node: &mut Node) -> Result<()> {
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    for (name, attempt, what) in [
        ("prepare", 0, "init container"),
        ("main", 0, "entry"),
        ("second", 0, "second container of the pod"),
        ("main", 1, "container restarted in the same pod"),
    ] {
        let exit = node.entry(&web, name, attempt, &["/bin/first"]).await?;
        node.check(what, exit, DENIED);
    }
    let running = node.idle(&web, "running").await?;
    let output = node.exec(&running, "/bin/first").await?;
    node.check("exec", (output.exit, output.stdout.as_str()), (DENIED, "DENIED\n"));
    let other = node.exec(&running, "cat /etc/group").await?.exit;
    node.check("exec that opens what no rule names", other, 0);

    let alerts =
        node.daemon.wait_for_alert(Duration::from_secs(10), |a| a["ContainerName"] == "running").await?;
    let mut found: Vec<_> = alerts
        .iter()
        .map(|a| {
            [&a["ContainerName"], &a["PolicyName"], &a["Rule"], &a["Resource"], &a["Source"], &a["Action"]]
                .map(text)
        })
        .collect();
    found.sort();
    let alert = |name: &str| {
        [name, "block-etc-passwd-read", "spec.file.matchPaths[0]", "/etc/passwd", "/bin/first", "Block"]
            .map(str::to_owned)
    };
    node.check("alerts", found, ["main", "main", "prepare", "running", "second"].map(alert).to_vec());

    let plain = node.pod("default", "plain", &[]).await?;
    let exit = node.entry(&plain, "main", 0, &["/bin/first"]).await?;
    node.check("pod without the label", exit, OPENED);
    node.check("process of the host", on_host()?, Some(OPENED));

    // A container that was there before the plugin. The daemon's end disarms nothing and protects nothing new.
    node.daemon.end(Signal::SIGTERM)?;
    let early = node.idle(&web, "early").await?;
    let exit = node.exec(&early, "/bin/first").await?.exit;
    node.check("container started while there is no daemon (control)", exit, OPENED);
    node.daemon.options_mut().arguments.push(format!("--metrics={METRICS}"));
    node.daemon.start().await?;
    let exit = node.exec(&early, "/bin/first").await?.exit;
    node.check("the same, after the daemon has connected", exit, DENIED);
    metrics(node).await?;
    node.check("process of the host, again", on_host()?, Some(OPENED));
    Ok(())
}

/// Where the daemon serves metrics in a guest.
const METRICS: &str = "127.0.0.1:9464";

/// What the daemon tells in numbers is what the kernel did: six denials, one of them under this daemon.
async fn metrics(node: &mut Node) -> Result<()> {
    let denied = |alert: &Alert| alert["ContainerName"] == "early" && alert["Action"] == "Block";
    node.daemon.wait_for_alert(Duration::from_secs(10), denied).await?;
    let get = |path: &str| -> Result<String> {
        let mut stream = TcpStream::connect(METRICS).context("connect to --metrics")?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    node.check("ready", get("/readyz")?.lines().next(), Some("HTTP/1.1 200 OK"));
    let page = get("/metrics")?;
    let value = |line: &str| {
        let told = page.lines().find_map(|told| told.strip_prefix(line)?.strip_prefix(' '));
        told.and_then(|value| value.parse::<f64>().ok())
    };
    let verdict = "nri_enforcer_verdicts_total{namespace=\"default\",policy_namespace=\"default\",\
        policy=\"block-etc-passwd-read\",rule=\"spec.file.matchPaths[0]\",operation=\"File\",action=\"Block\"}";
    node.check("verdicts of this daemon", value(verdict), Some(1.0));
    node.check(
        "denials since the programs were loaded",
        value("nri_enforcer_kernel_operations_total{kind=\"blocked\"}"),
        Some(6.0),
    );
    node.check("events that the ring had no room for", value("nri_enforcer_ring_dropped_total"), Some(0.0));
    node.check(
        "failures in the kernel",
        value("nri_enforcer_kernel_failures_total{place=\"unreadable\"}"),
        Some(0.0),
    );
    let map = |name: &str, map: &str| value(&format!("nri_enforcer_map_{name}{{map=\"{map}\"}}"));
    let armed = value("nri_enforcer_containers{state=\"armed\"}");
    node.check("some container is armed", armed.is_some_and(|count| count >= 2.0), true);
    node.check("as many are in the map", map("entries", "containers") >= armed, true);
    node.check("they have one ruleset together", map("entries", "rulesets"), Some(1.0));
    node.check(
        "there is room",
        (map("limit", "containers"), map("limit", "rulesets")),
        (Some(16_384.0), Some(16_384.0)),
    );
    Ok(())
}

/// Exempt namespaces, other namespaces, other containers: left alone.
pub async fn what_is_not_selected(node: &mut Node) -> Result<()> {
    node.daemon
        .write_policy("system.yaml", &POLICY.replace("namespace: default", "namespace: kube-system"))?;
    node.daemon.apply("policy.yaml", POLICY).await?;
    for (namespace, wanted) in [("kube-system", OPENED), ("shop", OPENED), ("default", DENIED)] {
        let pod = node.pod(namespace, "web", &[LABEL]).await?;
        let exit = node.entry(&pod, "main", 0, &["/bin/first"]).await?;
        node.check(&format!("labelled pod in namespace {namespace}"), exit, wanted);
    }
    learned(node).await
}
