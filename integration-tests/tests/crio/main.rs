//! A real CRI-O in a guest whose kernel enforces. `make crio-test CRIO=DIR` alone runs this: no registry of packages has CRI-O, so
//! whoever runs it brings the programs.

mod faults;
mod installed;
mod machine;
mod over_nri;
mod validator;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::node::{Container, RunningPod};
use lab::outcome;
use lab::run::{DAEMON_FILE, DAEMON_FOLDER};
use lab::stand_in::listen;
use lab::testing::Node;

const POLICY: &str = include_str!("../../../examples/policies/block-etc-passwd-read.yaml");
/// What the policy selects.
const LABEL: (&str, &str) = ("app", "my-web-app");
/// What `first` exits with: EACCES, and success.
const DENIED: i32 = 13;
const OPENED: i32 = 0;
/// The hook where `install` puts it.
const HOOK: &str = "/opt/nri-enforcer/nri-enforcer-hook";
const GATE: &str = "/run/nri-enforcer/gate.sock";
const SPOOL: &str = "/var/lib/nri-enforcer/open-starts";
/// CRI-O's socket of NRI.
const NRI: &str = "/var/run/nri/nri.sock";

#[test]
fn containers_are_under_their_policies_over_nri() -> Result<()> {
    machine::in_guest("containers_are_under_their_policies_over_nri", |node| Box::pin(over_nri::hold(node)))
        .map(drop)
}

#[test]
fn what_becomes_of_containers_when_the_daemon_is_not_as_it_should_be() -> Result<()> {
    let name = "what_becomes_of_containers_when_the_daemon_is_not_as_it_should_be";
    let said = machine::in_guest(name, |node| Box::pin(faults::matrix(node)))?;
    said.map_or(Ok(()), |said| faults::TABLE.compare(faults::TABLE.said(&said)?))
}

#[test]
fn crio_takes_what_install_writes() -> Result<()> {
    machine::in_guest("crio_takes_what_install_writes", |node| Box::pin(installed::checked(node))).map(drop)
}

#[test]
fn the_default_validator_is_heeded() -> Result<()> {
    machine::in_guest("the_default_validator_is_heeded", |node| Box::pin(validator::heeded(node))).map(drop)
}

/// Not a test by itself: another user's program, which answers what the daemon would.
#[test]
fn listener() -> Result<()> {
    listen()
}

/// Runs the daemon's program; what it printed.
fn enforcer(arguments: &[&str]) -> Result<String> {
    let program = Path::new(DAEMON_FOLDER).join(DAEMON_FILE);
    let output = Command::new(program).args(arguments).output().context("run nri-enforcer")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Puts the hook into every container, as an administrator does. CRI-O is to be restarted then.
fn install(_: &Node) -> Result<String> {
    enforcer(&["install", "--runtime", "crio", "--hook", "./hook"])
}

fn configure(mode: &str, patience: u64) -> Result<()> {
    let config =
        serde_json::json!({"mode": mode, "exemptNamespaces": ["kube-system"], "deadlineMillis": patience});
    Ok(fs::write(format!("{HOOK}.json"), config.to_string())?)
}

/// Whether CRI-O's NRI has validators: 0.10 or later.
fn has_validators(node: &Node) -> bool {
    let old = |nri: &str| node.daemon.whole_log().contains(&format!("nri=\"{nri}"));
    !["0.2.", "0.6.", "0.9."].iter().any(|nri| old(nri))
}

/// The first creation after a daemon's end, or while it hangs: where NRI has validators, the daemon is one still, and it fails.
async fn first_creation(node: &mut Node, pod: &RunningPod, what: &str, attempt: u32) -> Result<()> {
    let created = node.cri.create(pod, &Container::new("lost", &["/bin/first"]), attempt).await;
    let said = created.err().map(|status| status.message().to_owned()).unwrap_or_default();
    let wanted = has_validators(node);
    node.check(
        &format!("the first creation when it {what}: {said}"),
        said.contains("validator plugin"),
        wanted,
    );
    Ok(())
}

/// How many open starts are told.
fn told(node: &Node) -> Result<usize> {
    Ok(outcome::told(&node.daemon.alerts_now()?).len())
}

/// How many containers the daemon has armed before their root changed.
fn passed(node: &Node) -> usize {
    node.daemon.whole_log().matches("let through the gate").count()
}

fn in_service(node: &Node) -> usize {
    node.daemon.whole_log().matches("in service").count()
}

async fn soon(what: &str, done: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !done() {
        ensure!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
