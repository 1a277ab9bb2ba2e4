//! A node with podman alone, without containerd and NRI (`--nri-socket none`): the daemon finds by itself what runs, also what
//! another version of it armed, and is as good there as anywhere.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::run::{DAEMON_FILE, DAEMON_FOLDER};
use lab::testing::Node;
use nix::sys::signal::Signal;

use crate::{DENIED, IMAGE, LABEL, OPENED, POLICY, ended, podman, said, soon};

const BPFFS: &str = "/sys/fs/bpf/nri-enforcer";
const METRICS: &str = "127.0.0.1:9640";
/// Containers that the daemon before armed, and that run.
const BEFORE: [&str; 2] = ["running-lab", "running-crun"];

/// The daemon is dead, and is started again as one of another version, on a node that has no containerd any more.
pub async fn alone(node: &mut Node) -> Result<()> {
    node.runtime.kill()?;
    fs::remove_file("/var/run/nri/nri.sock").context("the socket of a killed containerd")?;
    let older = Path::new(BPFFS).join("v0");
    fs::rename(layout()?, &older)?;
    for name in BEFORE {
        node.check(&format!("{name}, by the version before"), first(name)?, denied());
    }
    let arguments = ["--nri-socket", "none", "--metrics", METRICS];
    node.daemon.options_mut().arguments = arguments.map(str::to_owned).to_vec();
    node.daemon.start().await?; // ready
    soon("the version before is out of the kernel", || !older.exists()).await?;
    well(node, "after an upgrade")?;
    reached(node, &BEFORE).await?;
    let output = podman(&["run", "--rm", "-l", &label(), IMAGE, "/first"])?;
    node.check("podman alone: the first instruction", ended(&output), denied());
    around(node).await?;
    let output = podman(&["run", "-d", "-l", &label(), "--name", "kept", IMAGE, "/pause"])?;
    ensure!(output.status.success(), "{}", said(&output));
    // the hook tells the end of one, and nobody that of the other
    removed("running-lab")?;
    soon("the end of a container is told", || armed().is_ok_and(|count| count == 2)).await?;
    node.daemon.end(Signal::SIGKILL)?;
    removed("running-crun")?;
    node.daemon.start().await?;
    soon("the end of one while the daemon was away is found", || armed().is_ok_and(|count| count == 1))
        .await?;
    well(node, "after a restart")?;
    let before = told(node)?;
    node.check("kept, under the next daemon", first("kept")?, denied());
    soon("an alert names it", || told(node).is_ok_and(|now| now > before)).await?;
    reached(node, &["kept"]).await?;
    removed("kept")?;
    soon("nothing is left armed", || armed().is_ok_and(|count| count == 0)).await?;
    well(node, "when nothing runs")
}

/// No hook tells of one that crun restores from a checkpoint, nor of one that is started around it; and podman's own directory
/// does not tell its process. It is found all the same, and so is its end.
async fn around(node: &mut Node) -> Result<()> {
    let hooks = Path::new("/run/no-hooks");
    fs::create_dir(hooks)?;
    let hooks = hooks.display().to_string();
    let label = label();
    let options = ["--hooks-dir", &hooks, "run", "-d", "--pidfile", "/run/around.pid", "-l", &label];
    let output = podman(&[&options[..], &["--name", "around", IMAGE, "/pause"]].concat())?;
    ensure!(output.status.success(), "{}", said(&output));
    soon("what was started around the hook is armed", || {
        first("around").is_ok_and(|found| found == denied())
    })
    .await?;
    let late = |alert: &serde_json::Value| {
        alert["ContainerName"] == "around" && alert["Data"].to_string().contains("notice=late")
    };
    soon("it is told as late", || node.daemon.alerts_now().is_ok_and(|all| all.iter().any(late))).await?;
    well(node, "with what was started around the hook")?;
    removed("around")?;
    soon("its end is found", || armed().is_ok_and(|count| count == BEFORE.len())).await
}

/// Each change of the policies reaches what runs, also those that take something back: nothing else denies it.
async fn reached(node: &Node, names: &[&str]) -> Result<()> {
    let opened = (Some(OPENED), "OPENED".to_owned());
    for (policy, wanted) in [(&*POLICY.replace("/etc/passwd", "/etc/group"), opened), (POLICY, denied())] {
        node.daemon.apply("policy.yaml", policy).await?;
        for name in names {
            let is_so = || first(name).is_ok_and(|found| found == wanted);
            soon(&format!("a change of the policies reaches {name}"), is_so).await?;
        }
    }
    Ok(())
}

/// What the daemon says of itself.
fn well(node: &mut Node, when: &str) -> Result<()> {
    let program = Path::new(DAEMON_FOLDER).join(DAEMON_FILE);
    let output = Command::new(program).arg("status").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let told = (output.status.code(), text.contains("No NRI, by configuration"));
    node.check(&format!("status {when}: {text}"), told, (Some(0), true));
    let page = page("/readyz")?;
    node.check(&format!("readyz {when}: {page}"), page.starts_with("HTTP/1.1 200 "), true);
    Ok(())
}

fn denied() -> (Option<i32>, String) {
    (Some(DENIED), "DENIED".to_owned())
}

fn label() -> String {
    format!("{}={}", LABEL.0, LABEL.1)
}

fn first(name: &str) -> Result<(Option<i32>, String)> {
    podman(&["exec", name, "/first"]).map(|output| ended(&output))
}

fn removed(name: &str) -> Result<()> {
    let output = podman(&["rm", "-f", "-t", "0", name])?;
    ensure!(output.status.success(), "{}", said(&output));
    Ok(())
}

/// How many alerts there are about `kept`.
fn told(node: &Node) -> Result<usize> {
    let alerts = node.daemon.alerts_now()?;
    Ok(alerts.iter().filter(|alert| alert["ContainerName"] == "kept").count())
}

/// How many containers are armed, by the maps in the kernel.
fn armed() -> Result<usize> {
    let page = page("/metrics")?;
    let name = "nri_enforcer_map_entries{map=\"containers\"} ";
    let value = page.lines().find_map(|line| line.strip_prefix(name)).context("no such metric")?;
    Ok(value.trim().parse()?)
}

fn page(path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Where this version has its maps.
fn layout() -> Result<PathBuf> {
    let pinned =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('v'));
    let mut paths = fs::read_dir(BPFFS)?.flatten().map(|entry| entry.path());
    paths.find(pinned).context("nothing is pinned")
}
