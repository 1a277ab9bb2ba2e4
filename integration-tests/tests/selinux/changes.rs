//! What becomes of labels when policies, the module or SELinux itself change, and at the end.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::node::Daemon;
use lab::testing::Node;
use nix::sys::signal::Signal;

use crate::held::look;
use crate::process::{as_host_command, can, label, labels, relabel, reset, said, sh, status, text, within};
use crate::{CONTAINER, PLAIN, RECORD, policy};

/// A file that no rule is about, and that is not looked at before.
const LOST: &str = "/var/lost";

/// As `semanage permissive -a host_t` has it.
pub async fn permissive_domain(node: &mut Node, daemon: &Daemon) -> Result<()> {
    // not on overlayfs, which asks a second time for who mounted it
    node.check("before", can("head -c1 /run/t"), false);
    fs::write("permissive_host_t.cil", "(typepermissive host_t)")?;
    sh("semodule -X 400 -i permissive_host_t.cil")?;
    let mut process = as_host_command(&["sleep", "600"]).spawn()?;
    let reason = || status().map(|(host, _)| host["reason"].as_str().unwrap_or_default().to_owned());
    let told =
        || reason().is_ok_and(|reason| reason.contains("permissive domains are denied nothing: host_t"));
    look(daemon).await?;
    within(told)?;
    node.check("it is denied nothing", can("head -c1 /run/t"), true);
    let probe = said(Command::new("./nri-enforcer").args(["probe", "-o", "json"]))?;
    node.check("probe tells it", probe.contains("denied nothing: host_t"), true);
    sh("semodule -X 400 -r permissive_host_t")?;
    look(daemon).await?;
    within(|| !told())?;
    process.kill()?;
    process.wait()?;
    Ok(())
}

/// Policies change, and the daemon dies.
pub async fn changed(node: &mut Node, daemon: &mut Daemon) -> Result<()> {
    daemon.end(Signal::SIGKILL)?;
    node.check("with the daemon dead", can("head -c1 /t/secret"), false);
    node.check("what has come, until the next one", can("head -c1 /t/missing/file"), true);
    let begin = Instant::now();
    daemon.start().await?;
    within(|| !can("head -c1 /t/missing/file"))?;
    println!("what has come is denied after {:.1} s", begin.elapsed().as_secs_f64());
    let (host, _) = status()?;
    node.check("nothing is missing now", host["state"].as_str(), Some("armed"));
    let begin = Instant::now();
    daemon
        .apply(
            "host.yaml",
            &policy("  file: {matchPaths: [{path: /t/free}, {path: /t/secret, readOnly: true}]}"),
        )
        .await?;
    within(|| !can("head -c1 /t/free"))?;
    within(|| can("head -c1 /t/secret"))?;
    println!("a change is in force after {:.1} s", begin.elapsed().as_secs_f64());
    node.check("it is still not written", can("chmod 755 /t/secret"), false);
    within(|| can("head -c1 /t/dir/x"))?;
    node.check("what no rule names any more", can("chmod 755 /t/dir/x"), true);
    node.check("its label", label("/t/dir/x"), PLAIN.to_owned());
    // what cannot be labelled any more is told, though the rules are the same
    let record = fs::read(RECORD)?;
    fs::write(RECORD, "no record")?;
    daemon.apply("container.yaml", CONTAINER).await?;
    let reason = || status().map(|(host, _)| host["reason"].as_str().unwrap_or_default().to_owned());
    within(|| reason().is_ok_and(|reason| reason.contains("is damaged")))?;
    node.check("with a damaged record, what was held", can("head -c1 /t/free"), false);
    fs::write(RECORD, record)?;
    Ok(())
}

/// Somebody removes our module while the daemon runs.
pub async fn without_module(node: &mut Node, daemon: &mut Daemon) -> Result<()> {
    sh("semodule -X 400 -r nri_enforcer")?;
    let next = policy("  file: {matchPaths: [{path: /t/free}]}");
    daemon.apply("host.yaml", &next).await?;
    let reason = || status().map(|(host, _)| host["reason"].as_str().unwrap_or_default().to_owned());
    within(|| reason().is_ok_and(|reason| reason.contains("does not enforce the module")))?;
    node.check("nothing is denied, and told", can("head -c1 /t/free"), true);
    let unchanged = label("/t/secret");
    node.check("no label is lost", unchanged.ends_with(":base_t:s0"), true);
    daemon.end(Signal::SIGTERM)?;
    daemon.start().await?;
    within(|| !can("head -c1 /t/free"))?;
    within(|| can("chmod 755 /t/secret"))?;
    node.check("the next daemon has it again", label("/t/secret"), PLAIN.to_owned());
    Ok(())
}

/// SELinux is made permissive while the daemon runs.
pub fn permissive(node: &mut Node) -> Result<()> {
    fs::write("/sys/fs/selinux/enforce", "0")?;
    let begin = Instant::now();
    let told = loop {
        let (host, _) = status()?;
        let reason = host["reason"].as_str().unwrap_or_default().to_owned();
        if reason.contains("permissive") || begin.elapsed() > Duration::from_secs(45) {
            break reason;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    println!("told after {:.1} s", begin.elapsed().as_secs_f64());
    node.check("that it is permissive", told.contains("SELinux is permissive: nothing is enforced"), true);
    fs::write("/sys/fs/selinux/enforce", "1")?;
    Ok(())
}

pub async fn ended(node: &mut Node, daemon: &mut Daemon, before: &[(String, String)]) -> Result<()> {
    daemon.end(Signal::SIGKILL)?;
    node.check(
        "labels outlive the daemon",
        label("/t/free"),
        "nri_enforcer_rw_u:object_r:base_t:s0".to_owned(),
    );
    fs::write("other.cil", "(type other_t)")?;
    sh("semodule -X 400 -i other.cil")?;
    let modules = || said(Command::new("semodule").arg("-l"));
    node.check("our module", modules()?.lines().any(|line| line.trim() == "nri_enforcer"), true);
    // as what was moved away keeps its label
    fs::write(LOST, "")?;
    relabel(LOST, "nri_enforcer_rw_u:object_r:base_t:s0")?;
    let unload = || Command::new("./nri-enforcer").args(["unload", "--yes"]).output();
    let output = unload()?;
    println!("{}{}", text(&output.stdout), text(&output.stderr));
    node.check("unload", output.status.code(), Some(0));
    let left: Vec<_> =
        labels().into_iter().filter(|(path, _)| before.iter().any(|(known, _)| known == path)).collect();
    node.check("labels are what they were", left, before.to_vec());
    node.check("what came meanwhile", label("/t/missing/file").starts_with("system_u:"), true);
    node.check("who may read now", can("head -c1 /t/free") && can("chmod 755 /t/secret"), true);
    let modules = modules()?;
    let has = |name: &str| modules.lines().any(|line| line.trim() == name);
    node.check("the modules", (has("nri_enforcer"), has("other"), has("base")), (false, true, true));
    node.check("the record", Path::new(RECORD).exists(), false);
    node.check("unload again", unload()?.status.code(), Some(0));
    relabel("/t/dir/x", "guest_u:object_r:base_t:s0")?;
    let (done, said) = reset(&format!("restorecon -RF /t/dir {LOST}"))?;
    node.check(&format!("restorecon works as ever: {said}"), done, true);
    node.check(
        "also for a user that is none any more",
        (label("/t/dir/x"), label(LOST)),
        (PLAIN.into(), PLAIN.into()),
    );
    Ok(())
}
