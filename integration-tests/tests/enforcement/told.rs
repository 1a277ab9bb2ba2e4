//! What alerts tell: who acted, and of more denials than are told one by one how many there were.

use std::time::Duration;

use anyhow::{Context, Result};
use lab::node::{Alert, RunningContainer};
use lab::testing::Node;
use serde_json::json;

use crate::{LABEL, POLICY, text};

/// Longer than alerts are gathered for a summary, on an emulated machine.
const LONGEST: Duration = Duration::from_secs(60);

/// Of a process that lives all is told; a flood of denials becomes summaries, in which none is missing.
pub async fn alerts(node: &mut Node) -> Result<()> {
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web =
        node.pod("default", "web-5d8f9c7b6d-x2x9z", &[LABEL, ("pod-template-hash", "5d8f9c7b6d")]).await?;
    let running = node.idle(&web, "running").await?;
    who_acted(node, &running).await?;
    how_many(node, &running).await
}

async fn exec(node: &Node, container: &RunningContainer, command: &[&str]) -> Result<String> {
    let words: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
    let output =
        node.cri.exec(container, &words, LONGEST).await.with_context(|| format!("exec {command:?}"))?;
    Ok(output.stdout)
}

async fn who_acted(node: &mut Node, running: &RunningContainer) -> Result<()> {
    // the shell itself opens the file, and lives on
    exec(node, running, &["/bin/sh", "-c", "cd /etc; read line < passwd; sleep 3"]).await?;
    let by_shell = |alert: &Alert| alert["Source"] == "/bin/sh";
    let alerts = node.daemon.wait_for_alert(LONGEST, by_shell).await?;
    let alert = alerts.iter().find(|alert| by_shell(alert)).context("no alert of the shell")?;
    let owner = json!({"Ref": "Deployment", "Name": "web", "Namespace": "default"});
    node.check("owner", alert["Owner"].clone(), owner);
    node.check("labels", text(&alert["Labels"]), "app=my-web-app,pod-template-hash=5d8f9c7b6d".to_owned());
    node.check("working directory", text(&alert["Cwd"]), "/etc".to_owned());
    node.check("terminal", text(&alert["TTY"]), String::new());
    let parent = text(&alert["ParentProcessName"]);
    node.check("the parent, on the host", parent.ends_with("/containerd-shim-runc-v2"), true);
    node.check("user", alert["UID"].clone(), json!(0));
    let numbers = |field: &str| alert[field].as_u64().unwrap_or_default();
    node.check("numbers in the container and on the host", numbers("PID") < numbers("HostPID"), true);
    node.check("number of the parent", numbers("HostPPID") > 1, true);
    Ok(())
}

async fn how_many(node: &mut Node, running: &RunningContainer) -> Result<()> {
    let output = exec(node, running, &["/bin/probe", "loop", "3", "2"]).await?;
    let attempts =
        output.split_whitespace().find_map(|word| word.parse::<u64>().ok()).context("no attempts")?;
    node.check("more than are told one by one", attempts > 1_000, true);
    let by_probe = |alert: &&Alert| alert["Source"] == "/bin/probe";
    let told = |alerts: &[Alert]| -> u64 {
        let lost = alerts.iter().filter_map(|alert| {
            let (notice, count) = alert["Data"].as_str()?.strip_prefix("notice=")?.split_once(" count=")?;
            matches!(notice, "ring-full" | "dropped").then(|| count.parse::<u64>().ok()).flatten()
        });
        alerts.iter().filter(by_probe).filter_map(|alert| alert["Count"].as_u64()).chain(lost).sum()
    };
    let deadline = tokio::time::Instant::now() + LONGEST;
    let mut alerts = node.daemon.alerts_now()?;
    while told(&alerts) < attempts && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
        alerts = node.daemon.alerts_now()?;
    }
    node.check("alerts, summaries and losses are as many as attempts", told(&alerts), attempts);
    let summaries: Vec<_> =
        alerts.iter().filter(by_probe).filter(|alert| alert["Count"].as_u64() > Some(1)).collect();
    node.check("there are summaries", summaries.is_empty(), false);
    let bounded = summaries.iter().all(|alert| text(&alert["FirstTime"]) <= text(&alert["LastTime"]));
    node.check("each says from when to when", bounded, true);
    let single = alerts.iter().filter(by_probe).count();
    node.check("most are in summaries", u64::try_from(single)? < attempts / 2, true);
    Ok(())
}
