//! A container that tries to get round its policy.

use std::process::Command;

use anyhow::{Context, Result};
use lab::testing::Node;

use crate::{LABEL, POLICY};

/// No trick of a privileged container shakes a policy off. Without a policy each of them works: they are real attempts.
pub async fn evasion(node: &mut Node) -> Result<()> {
    node.daemon.apply("policy.yaml", POLICY).await?;
    for (name, labels, wanted) in [("control", &[][..], "opened"), ("web", &[LABEL], "denied")] {
        let pod = node.pod("default", name, labels).await?;
        let container = node.idle(&pod, "main").await?;
        let output = node.exec(&container, "/bin/probe evade").await?;
        let lines: Vec<_> = output.stdout.lines().filter_map(|l| l.split_once('\t')).collect();
        for (attempt, result) in &lines {
            node.check(&format!("{name}: {attempt}"), *result, wanted);
        }
        node.check("attempts", lines.len(), 22);
        if !output.stderr.is_empty() {
            println!("{}", output.stderr.trim());
        }
    }
    Ok(())
}

/// 6.1 with full preemption loses look-ups in task storage; nothing may get through there. Eight processes, two CPUs.
pub async fn full_preemption(node: &mut Node) -> Result<()> {
    let modes = std::fs::read_to_string("/sys/kernel/debug/sched/preempt").or_else(|_| {
        Command::new("mount").args(["-t", "debugfs", "debugfs", "/sys/kernel/debug"]).status()?;
        std::fs::read_to_string("/sys/kernel/debug/sched/preempt")
    })?;
    node.check("the kernel preempts fully", modes.contains("(full)"), true);
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let running = node.idle(&web, "running").await?;
    let output = node.exec(&running, "/bin/probe loop 20 8").await?.stdout;
    println!("{}", output.trim());
    let counts: Vec<u64> = output.split(' ').filter_map(|w| w.trim().parse().ok()).collect();
    let [denied, opened] = counts.try_into().ok().context("the probe's counts")?;
    node.check("opened", opened, 0);
    node.check("denied often enough to mean something", denied > 10_000, true);
    Ok(())
}
