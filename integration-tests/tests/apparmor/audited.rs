//! What is to be reported and not denied, told by a real kernel's audit records.

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::node::{Container, Daemon};
use lab::testing::Node;
use serde_json::Value;

use super::node::{pod, started, told, with_profile};

/// Rules to be reported, of a file, a program and sockets, and one that denies beside them.
const RULES: &str = "
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: watch, namespace: default}
spec:
  selector: {matchLabels: {app: my-web-app}}
  file: {matchPaths: [{path: /etc/passwd, action: Block}, {path: /etc/os-release}]}
  process: {matchPaths: [{path: /bin/probe}]}
  network: {matchProtocols: [{protocol: stream}]}
  action: Audit
";
/// A whitelist, whose posture is to report.
const WHITELIST: &str = "
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: known, namespace: default}
spec:
  selector: {matchLabels: {app: my-web-app}}
  file: {matchPaths: [{path: /etc/group}]}
  action: Allow
";

/// Rules with the action `Audit`, and a whitelist with the posture `audit`: nothing is denied, and all of it is an alert
/// with its policy and rule.
pub(super) async fn reported(node: &mut Node, daemon: &mut Daemon) -> Result<()> {
    daemon.write_policy("policy.yaml", RULES)?;
    daemon.start().await?;
    let web = pod(node, "watched", &["seen"]).await?;
    let seen = started(node, &web, &with_profile(Container::idle("seen"))).await?;
    let says = |policy: &str, rule: &str, action: &str| [policy, rule, action, "watched"].map(Value::from);

    let exit = node.exec(&seen, "cat /etc/os-release").await?.exit;
    node.check("a file that is to be reported opens", exit, 0);
    let alert = told(daemon, "seen", "/etc/os-release").await?;
    node.check("and is reported", alert, says("watch", "spec.file.matchPaths[1]", "Audit"));
    // by another one than the runtime, whose own executions are not judged
    let command = ["sh", "-c", "/bin/probe nothing; [ $? -ne 126 ]"].map(str::to_owned);
    let output = node.cri.exec(&seen, &command, Duration::from_secs(90)).await?;
    node.check("a program that is to be reported runs", output.exit, 0);
    let alert = told(daemon, "seen", "/bin/probe").await?;
    node.check("and is reported", alert, says("watch", "spec.process.matchPaths[0]", "Audit"));
    node.check("what is to be denied is", node.exec(&seen, "/bin/first").await?.exit, 13);
    let alert = told(daemon, "seen", "/etc/passwd").await?;
    node.check("and is told so", alert, says("watch", "spec.file.matchPaths[0]", "Block"));
    // nobody listens there, which is not the socket's fault
    node.exec(&seen, "nc -w 1 127.0.0.1 9").await?;
    let alert = told(daemon, "seen", "domain=AF_INET type=SOCK_STREAM").await?;
    node.check("a socket is reported", alert, says("watch", "spec.network.matchProtocols[0]", "Audit"));

    // the posture is `audit` unless told otherwise
    daemon.apply("policy.yaml", WHITELIST).await?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.exec(&seen, "/bin/first").await?.exit != 0 && Instant::now() < deadline {}
    node.check("what no rule allows opens", node.exec(&seen, "/bin/first").await?.exit, 0);
    node.check("and so does another file", node.exec(&seen, "cat /etc/shadow").await?.exit, 0);
    let alert = told(daemon, "seen", "/etc/shadow").await?;
    node.check("and is reported by the posture", alert, says("DefaultPosture", "", "Audit"));
    node.check("what a rule allows opens", node.exec(&seen, "cat /etc/group").await?.exit, 0);
    node.exec(&seen, "cat /etc/shadow").await?;
    let alerts = daemon.alerts().await?;
    let of_group = alerts.iter().filter(|alert| alert["Resource"] == "/etc/group").count();
    node.check("and is not reported", of_group, 0);
    node.cri.remove_pod(&web).await?;
    Ok(())
}
