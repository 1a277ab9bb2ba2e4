//! A policy that is learned from what a container does.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::testing::Node;

use crate::OPENED;

/// The policy of a container that starts while it is learned lets the same container do the same, and nothing else.
pub async fn learned(node: &mut Node) -> Result<()> {
    let program = node.daemon.options_mut().program.clone();
    let learning = Command::new(&program)
        .args([
            "learn",
            "policy",
            "--pod",
            "default/learned",
            "--for",
            "5s",
            "--wait",
            "60s",
            "--name",
            "learned",
        ])
        .args(["--file", "/run/learned.yaml", "--test", "/run/learned-test.yaml", "-o", "json"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !node.daemon.whole_log().contains("watched for a policy") && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let labels = [("app", "learned")];
    let pod = node.pod("default", "learned", &labels).await?;
    // the root itself is a path, too
    let group = ["/bin/sh", "-c", "ls / && cat /etc/group"];
    let passwd = ["/bin/sh", "-c", "ls / && cat /etc/passwd"];
    let exit = node.entry(&pod, "main", 0, &group).await?;
    node.check("while it is learned", exit, 0);
    let output = learning.wait_with_output()?;
    println!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    node.check("learn policy", output.status.code(), Some(0));
    let policy = std::fs::read_to_string("/run/learned.yaml").unwrap_or_default();
    println!("{policy}");
    let test = Command::new(&program).args(["test", "/run/learned-test.yaml"]).output()?;
    println!("{}", String::from_utf8_lossy(&test.stdout));
    node.check("its test", test.status.code(), Some(0));
    node.daemon.write_policy(
        "default.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: default\n  annotations:\n    kubearmor-file-posture: block\n    \
         kubearmor-network-posture: block\n    kubearmor-capabilities-posture: block\n",
    )?;
    node.daemon.apply("learned.yaml", &policy).await?;
    for (what, command, wanted) in
        [("the same", group, 0), ("another file", passwd, 1), ("the same, once more", group, 0)]
    {
        let again = node.pod("default", &format!("again-{}", what.len()), &labels).await?;
        let exit = node.entry(&again, "main", 0, &command).await?;
        node.check(what, exit, wanted);
    }
    let exit = node.entry(&pod, "first", 1, &["/bin/first"]).await;
    node.check("another program", exit.is_ok_and(|exit| exit == OPENED), false);
    Ok(())
}
