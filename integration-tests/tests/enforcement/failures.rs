//! What goes on being enforced while the daemon or the runtime is not there, or policies change.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::testing::Node;
use nix::sys::signal::Signal;

use crate::{DENIED, LABEL, OPENED, POLICY, becomes_denied};

/// SIGKILL: what is armed stays denied; a new daemon takes over, and its policies count.
pub async fn daemon_killed(node: &mut Node) -> Result<()> {
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let running = node.idle(&web, "running").await?;
    // A program that is inside all the while, through the daemon's death and the next one's start.
    let cri = node.cri.clone();
    let inside = running.clone();
    let loops = tokio::spawn(async move {
        let command = ["/bin/probe", "loop", "25", "1"].map(str::to_owned);
        cri.exec(&inside, &command, Duration::from_secs(90)).await
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    node.daemon.end(Signal::SIGKILL)?;
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec with the daemon dead", exit, DENIED);
    node.daemon.start().await?;
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec with the next daemon", exit, DENIED);
    let output = loops.await??;
    let opened = output.stdout.trim().rsplit_once(' ').map(|(_, n)| n.to_owned());
    println!("{}", output.stdout.trim());
    node.check("opens of the program inside", opened.as_deref(), Some("0"));
    let before = node.daemon.policy_changes();
    node.daemon.remove_policy("policy.yaml")?;
    node.daemon.wait_for_change(before).await?;
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec after the next daemon was told to lift the policy", exit, OPENED);
    Ok(())
}

/// SIGSTOP: the runtime waits for its limit, then goes on without the plugin. What is armed stays denied; what is started
/// meanwhile is not protected until the daemon is back, and then it is.
pub async fn daemon_stalled(node: &mut Node) -> Result<()> {
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let running = node.idle(&web, "running").await?;
    node.daemon.signal(Signal::SIGSTOP)?;
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec in an armed container", exit, DENIED);
    let begin = Instant::now();
    let late = node.idle(&web, "late").await?;
    node.check("a start waits for the runtime's limit", begin.elapsed() > Duration::from_secs(9), true);
    let exit = node.exec(&late, "/bin/first").await?.exit;
    node.check("exec in a container started meanwhile, as documented", exit, OPENED);
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec in the armed container, after the runtime has dropped the plugin", exit, DENIED);
    node.daemon.signal(Signal::SIGCONT)?;
    node.check(
        "the late container is armed once the daemon is back",
        becomes_denied(node, &late).await?,
        true,
    );
    let exit = node.entry(&web, "next", 0, &["/bin/first"]).await?;
    node.check("entry of the next container", exit, DENIED);
    Ok(())
}

/// containerd killed and started again: the daemon reconnects; old and new containers are denied.
pub async fn containerd_killed(node: &mut Node) -> Result<()> {
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let running = node.idle(&web, "running").await?;
    node.runtime.kill()?;
    node.runtime.start()?;
    node.cri = node.runtime.cri().await?;
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec in a container from before", exit, DENIED);
    node.check("the daemon runs", node.daemon.runs(), true);
    let next = node.pod("default", "next", &[LABEL]).await?;
    let late = node.idle(&next, "late").await?;
    node.check(
        "a new container is armed, at the latest when the plugin is back",
        becomes_denied(node, &late).await?,
        true,
    );
    let exit = node.entry(&next, "main", 0, &["/bin/first"]).await?;
    node.check("entry of a new container", exit, DENIED);
    Ok(())
}

/// Changes reach running programs at once and whole: two versions of a policy each deny one of two files, and never is
/// neither or both denied.
pub async fn policies_changed_under_load(node: &mut Node) -> Result<()> {
    let denies = |path: &str| POLICY.replace("- path: /etc/passwd", &format!("- path: {path}"));
    let web = node.pod("default", "web", &[LABEL]).await?;
    let running = node.idle(&web, "running").await?;
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec before there is a policy", exit, OPENED);
    node.daemon.apply("policy.yaml", &denies("/etc/passwd")).await?;
    // Arming follows the change; what the runtime is sending in at that moment is judged too, and refused.
    node.check("exec once there is one", becomes_denied(node, &running).await?, true);

    let cri = node.cri.clone();
    let inside = running.clone();
    let swaps = tokio::spawn(async move {
        let command = ["/bin/probe", "swap", "/etc/passwd", "/etc/group", "15"].map(str::to_owned);
        cri.exec(&inside, &command, Duration::from_secs(90)).await
    });
    let mut changes = 0;
    // to an odd number of changes, so that the next one below is a change too
    while !swaps.is_finished() || changes % 2 == 0 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        changes += 1;
        let path = if changes % 2 == 0 { "/etc/passwd" } else { "/etc/group" };
        node.daemon.apply("policy.yaml", &denies(path)).await?;
    }
    let output = swaps.await??.stdout;
    println!("{changes} changes: {}", output.trim());
    let counts: Vec<u64> = output.split(' ').filter_map(|w| w.trim().parse().ok()).collect();
    let [passwd, group, both, neither] = counts.try_into().ok().context("the probe's counts")?;
    node.check("each version was seen at work", passwd > 0 && group > 0 && changes > 3, true);
    node.check("half a policy (both, neither)", (both, neither), (0, 0));

    node.daemon.apply("policy.yaml", POLICY).await?;
    node.daemon.write_policy(
        "bad.yaml",
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nspec: [nonsense\n",
    )?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !node.daemon.whole_log().contains("bad.yaml") && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let located = node.daemon.whole_log().lines().any(|l| l.contains("bad.yaml:"));
    node.check("a bad file is reported with its place", located, true);
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("the good policy beside it stays in force", exit, DENIED);
    Ok(())
}
