//! Policies of the host, and what is only seen.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::node::Alert;
use lab::testing::Node;
use nix::sys::signal::Signal;

use crate::{DENIED, LABEL, OPENED, POLICY, on_host, text};

const HOST: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {name: no-users}\n\
    spec:\n  nodeSelector: {matchLabels: {kubernetes.io/os: linux, rack: a}}\n  file: {matchPaths: [{path: /etc/passwd}]}\n  \
    action: Block\n";

/// A host policy is about processes of the host, and about no container; and a change that locks out ends by itself.
pub async fn host_policies(node: &mut Node) -> Result<()> {
    let plain = node.pod("default", "plain", &[]).await?;
    let older = node.idle(&plain, "older").await?;
    // this daemon has no label of its own
    node.daemon.write_policy("host.yaml", &HOST.replace(", rack: a", ""))?;
    let known = becomes_known(node)?;
    node.check("a daemon that is not to enforce it knows it", known, true);
    node.check("and leaves the host alone", on_host()?, Some(OPENED));
    node.daemon.end(Signal::SIGTERM)?;
    node.daemon.write_policy("host.yaml", HOST)?;
    let containerd = which("containerd")?;
    let (exempt, logs) = (format!("--host-exempt={containerd}"), format!("--logs={LOGS}"));
    let arguments = ["--host-policies", "--node-label=rack=a", &exempt, &logs];
    node.daemon.options_mut().arguments.extend(arguments.map(str::to_owned));
    node.daemon.start().await?;
    node.check("process of the host", host_becomes(DENIED)?, true);
    let alerts = node
        .daemon
        .wait_for_alert(Duration::from_secs(10), |alert| alert["Type"] == "MatchedHostPolicy")
        .await?;
    let alert =
        alerts.iter().rev().find(|alert| alert["Type"] == "MatchedHostPolicy").cloned().unwrap_or_default();
    let told =
        ["PolicyName", "Resource", "Action", "PodName", "NamespaceName", "ContainerID", "ContainerName"];
    node.check(
        "its alert",
        told.map(|name| alert.get(name).map(text).unwrap_or_default()),
        ["no-users", "/etc/passwd", "Block", "", "", "", ""].map(str::to_owned),
    );
    node.check("names the host", alert.get("HostName").map(text).unwrap_or_default().is_empty(), false);

    // Containers: one from before, its next process, another one of the same pod, and one that has a policy of its own.
    let exit = node.exec(&older, "/bin/first").await?.exit;
    node.check("exec in a container that no policy selects, from before", exit, OPENED);
    let exit = node.entry(&plain, "newer", 0, &["/bin/first"]).await?;
    node.check("entry of a container that no policy selects", exit, OPENED);
    let newer = node.idle(&plain, "idle").await?;
    let exit = node.exec(&newer, "/bin/first").await?.exit;
    node.check("exec in it", exit, OPENED);
    node.daemon.apply("policy.yaml", &POLICY.replace("- path: /etc/passwd", "- path: /etc/group")).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let own = node.idle(&web, "own").await?;
    let exit = node.exec(&own, "/bin/first").await?.exit;
    node.check("exec in a container with a policy of its own", exit, OPENED);
    let exit = node.exec(&own, "cat /etc/group").await?.exit;
    node.check("what that denies", exit, 1);
    visibility(node).await?;

    // The daemon dies; a change that is not confirmed does not outlive it.
    let program = node.daemon.options_mut().program.clone();
    let ask = |what: &[&str]| Command::new(&program).args(what).stdin(std::process::Stdio::null()).output();
    std::fs::write("/tmp/host.yaml", HOST.replace("/etc/passwd", "/etc/group"))?;
    let mut waiting = Command::new(&program)
        .args(["apply", "--confirm-within", "1h", "/tmp/host.yaml"])
        .stdin(std::process::Stdio::null())
        .spawn()?;
    node.check("the change is in force", host_becomes(OPENED)?, true);
    node.daemon.end(Signal::SIGKILL)?;
    node.check("the command ends", waiting.wait()?.code(), Some(3));
    let reads = |path: &str| Command::new("cat").arg(path).output().map(|output| output.status.success());
    node.check("what is in force stays", (on_host()?, reads("/etc/group")?), (Some(OPENED), false));
    node.daemon.start().await?;
    node.check("it is reverted", host_becomes(DENIED)?, true);
    let confirm = ask(&["apply", "--confirm-within", "2s", "/tmp/host.yaml"])?;
    node.check("a change that nobody confirms", confirm.status.code(), Some(3));
    node.check("is reverted in time", host_becomes(DENIED)?, true);
    let status = ask(&["status", "-o", "json"])?;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
    let host = status.get("containers").and_then(serde_json::Value::as_array);
    let host = host.and_then(|all| all.iter().find(|one| one.get("host").is_some_and(|host| host == true)));
    let host = host.cloned().unwrap_or_default();
    node.check(
        "status",
        (host.get("state").map(text).unwrap_or_default(), host.get("policies").cloned().unwrap_or_default()),
        ("armed".into(), serde_json::json!(["no-users"])),
    );

    node.daemon.remove_policy("host.yaml")?;
    node.check("lifted", host_becomes(OPENED)?, true);
    Ok(())
}

/// Where the daemon writes logs in a guest.
const LOGS: &str = "/run/logs.jsonl";

/// What no policy selects can be seen, from its first instruction, and nobody is alerted.
async fn visibility(node: &mut Node) -> Result<()> {
    let seen = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: seen\n  annotations: {kubearmor-visibility: 'process,file'}\n";
    node.daemon.apply("namespace.yaml", seen).await?;
    for namespace in ["seen", "shop"] {
        let pod = node.pod(namespace, "any", &[]).await?;
        let exit = node.entry(&pod, "main", 0, &["/bin/first"]).await?;
        node.check("nothing is denied", exit, OPENED);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let wanted = [("File", "/etc/passwd"), ("Process", "/bin/first")];
    let found = loop {
        let text = std::fs::read_to_string(LOGS).unwrap_or_default();
        let logs = text.lines().filter_map(|line| serde_json::from_str::<Alert>(line).ok());
        let told = |log: Alert| {
            ["Type", "NamespaceName", "Operation", "Resource", "Result"]
                .map(|name| log.get(name).map(self::text).unwrap_or_default())
        };
        let of = |told: &[String; 5]| wanted.iter().any(|(_, resource)| told[3] == *resource);
        let found: BTreeSet<_> = logs.map(told).filter(of).collect();
        if found.len() >= wanted.len() || Instant::now() > deadline {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let log =
        |(operation, resource)| ["ContainerLog", "seen", operation, resource, "Passed"].map(str::to_owned);
    let read = ("File", "/bin/first"); // to be executed
    let found: BTreeSet<_> = found.into_iter().filter(|told| *told != log(read)).collect();
    node.check("logs of the namespace, and of no other", found, wanted.map(log).into());
    let alerts = node.daemon.alerts().await?;
    node.check("alerts", alerts.iter().filter(|alert| alert["NamespaceName"] == "seen").count(), 0);
    Ok(())
}

/// Waits up to half a minute until the daemon says that there is one host policy, and that it does not enforce it.
fn becomes_known(node: &mut Node) -> Result<bool> {
    let program = node.daemon.options_mut().program.clone();
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        let status = Command::new(&program).args(["status", "-o", "json"]).output()?;
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        if status.pointer("/daemon/host/notEnforced").and_then(serde_json::Value::as_u64) == Some(1) {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(false)
}

/// Waits up to half a minute until a process of the host ends so.
fn host_becomes(exit: i32) -> Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if on_host()? == Some(exit) {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(false)
}

fn which(program: &str) -> Result<String> {
    let output = Command::new("sh").args(["-c", &format!("readlink -f $(command -v {program})")]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
