//! What sets labels of files anew: the system's own tools, a file in the place of another, and a relabelling at boot.

use std::fs;

use anyhow::Result;
use lab::node::Daemon;
use lab::testing::Node;
use nix::sys::signal::Signal;

use crate::PLAIN;
use crate::held::look;
use crate::process::{can, label, labels, relabel, reset, sh, within};

/// What the base policy says of files, as `semodule` writes it.
const CONTEXTS: &str = "/etc/selinux/small/contexts/files/file_contexts";
/// What the daemon says of labels that were lost.
const LOST: &str = "had a SELinux label of ours by the record were without";

/// `restorecon` by root, beside a daemon.
pub fn by_the_tool(node: &mut Node) -> Result<()> {
    fs::write("/t/free.d/plain", "")?;
    relabel("/t/free.d/plain", "guest_u:object_r:base_t:s0")?;
    let (done, said) = reset("restorecon -RF /t/free.d")?;
    node.check(&format!("restorecon: {said}"), (done, label("/t/free.d/plain")), (true, PLAIN.to_owned()));
    let before = labels();
    // nobody lists the first of them; the second is listed by everybody
    for directory in ["/t/dir", "/t/rodir/sub"] {
        let (done, said) = reset(&format!("restorecon -RF {directory}"))?;
        node.check(&format!("restorecon -RF {directory}: {said}"), done, false);
    }
    // types are what they should be, so there is nothing to do
    let (done, said) = reset("restorecon -R /t/rodir/sub")?;
    node.check(&format!("restorecon -R: {said}"), done, true);
    // and here one is not
    let (done, said) = reset("restorecon /t/rodir/secret")?;
    node.check(&format!("restorecon of another type: {said}"), done, false);
    node.check("no label is another", labels() == before, true);
    held(node, "after restorecon");
    Ok(())
}

/// What may be replaced has no label, until the daemon finds it: a program that may be written, and not executed.
pub async fn replaced(node: &mut Node, daemon: &Daemon) -> Result<()> {
    node.check("the program", can("/t/bin/tool"), false);
    sh("cp /t/bin/other /t/bin/tool.new")?;
    relabel("/t/bin/tool.new", "guest_u:object_r:base_t:s0")?;
    node.check("replacing it", can("mv /t/bin/tool.new /t/bin/tool"), true);
    node.check("until the daemon finds it", can("/t/bin/tool"), true);
    look(daemon).await?;
    within(|| !can("/t/bin/tool"))?;
    node.check("it has the label", label("/t/bin/tool").starts_with("nri_enforcer_x_u:"), true);
    let told = || daemon.whole_log().lines().any(|line| line.contains(LOST) && line.contains("/t/bin/tool"));
    within(told)
}

/// All labels are set anew before the daemon is there, as a system does that was told to at its boot.
pub async fn at_boot(node: &mut Node, daemon: &mut Daemon) -> Result<()> {
    let known = labels();
    // each by its name: to `setfiles`, files of an overlay are on another file system than their directory
    let anew =
        || reset(&format!("setfiles -F {CONTEXTS} /t/dir /t/dir/x /t/sbin /t/sbin/sub /t/sbin/sub/tool"));
    daemon.end(Signal::SIGKILL)?;
    let (done, said) = anew()?;
    let kept = (done, labels() == known);
    node.check(&format!("with our module: no label is another: {said}"), kept, (false, true));
    held(node, "with our module");
    // distributions do it with a permissive SELinux
    for (how, begin, end) in [
        ("permissive", "echo 0 >/sys/fs/selinux/enforce", "echo 1 >/sys/fs/selinux/enforce"),
        ("without our module", "semodule -X 400 -r nri_enforcer", "true"),
    ] {
        sh(begin)?;
        let (done, said) = anew()?;
        sh(end)?;
        let now = (label("/t/dir/x"), label("/t/sbin/sub/tool"));
        node.check(&format!("{how}: {said}"), (done, now), (true, (PLAIN.into(), PLAIN.into())));
        node.check(&format!("{how}: until the daemon's start"), can("head -c1 /t/dir/x"), true);
        let before = daemon.whole_log().matches(LOST).count();
        daemon.start().await?;
        within(|| daemon.whole_log().matches(LOST).count() > before)?;
        node.check(&format!("{how}: all labels are back"), labels() == known, true);
        held(node, how);
        daemon.end(Signal::SIGKILL)?;
    }
    daemon.start().await
}

fn held(node: &mut Node, when: &str) {
    let denied = [can("head -c1 /t/dir/x"), can("touch /t/rodir/sub/new"), can("/t/sbin/sub/tool")];
    node.check(&format!("{when}: what is denied"), denied, [false; 3]);
}
