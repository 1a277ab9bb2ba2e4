//! A node that starts for the first time: nothing is on its disk, and the server has told nothing yet.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use lab::run::hook;
use serde_json::json;

use super::server::wait;
use super::{Node, start};

/// Runs the OCI hook as a runtime does, for a container of this namespace that is about to start.
fn starts(dir: &Path, mode: &str, namespace: &str) -> Output {
    let config = dir.join("hook.json");
    // nobody is exempt by the hook's own word
    let text = json!({
        "mode": mode, "exemptNamespaces": [], "deadlineMillis": 5000, "socket": dir.join("run/gate"),
        "spool": dir.join("spool"),
    });
    fs::write(&config, text.to_string()).unwrap();
    let mut command = Command::new(hook().unwrap());
    command.args(["createRuntime", "--config"]).arg(config);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = pipes.spawn().unwrap();
    let state = json!({
        "ociVersion": "1.2.0", "id": "c1", "status": "creating", "pid": std::process::id(), "bundle": dir,
        "annotations": {"io.kubernetes.cri.sandbox-namespace": namespace, "io.kubernetes.cri.sandbox-name": "web-1"},
    });
    running.stdin.take().unwrap().write_all(state.to_string().as_bytes()).unwrap();
    running.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hook_is_refused_until_the_server_has_told_its_policies() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (mut cluster, _client, mut node) = start(dir).await;
    cluster.kill_server();
    node.start(&cluster).await;
    let passes = |node: &Node, mode: &str, namespace: &str| {
        let Output { status, stderr, .. } = starts(dir, mode, namespace);
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert!(status.success() || said.contains("must not start"), "{said}\n{}", node.log());
        (status.success(), said)
    };
    let records = || fs::read_dir(dir.join("spool")).map_or(0, |entries| entries.count());

    let (passed, said) = passes(&node, "closed", "default");
    assert!(
        !passed && said.contains("the policies are not known yet") && said.contains("KubeArmorPolicy"),
        "{said}"
    );
    assert_eq!(records(), 0);
    assert!(passes(&node, "closed", "kube-system").0, "exempt by the daemon's word");
    let (passed, said) = passes(&node, "open", "default");
    assert!(passed && said.contains("the policies are not known yet"), "{said}");
    assert_eq!(records(), 1, "an open start");

    cluster.start_server().await;
    let passed = async || passes(&node, "closed", "default").0.then_some(());
    wait("no policy reaches it", passed, || node.log()).await;
    node.until("ready", |_| dir.join("ready").exists()).await;

    // a later start has the set of this one, be it empty
    node.stop();
    cluster.kill_server();
    node.start(&cluster).await;
    let (passed, said) = passes(&node, "closed", "default");
    assert!(passed && said.is_empty(), "{said}");
    node.stop();
}
