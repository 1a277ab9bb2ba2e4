//! What is denied while labels are in force, and how it is told.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use enforcer_core::coverage::GapReason;
use enforcer_core::decide::{Access, Verdict};
use enforcer_core::policy::parse;
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject;
use lab::node::Daemon;
use lab::testing::Node;
use serde_json::Value;

use crate::process::{as_host_command, can, label, labels, said, sh, status, text, within};
use crate::{CONTAINER, DIRECTORIES, FILES, GAPS, RECORD, RULES, policy};

/// Every access of a process of the host, against `decide`.
pub fn compared(node: &mut Node) -> Result<()> {
    let parsed = parse("host.yaml", &policy(RULES));
    ensure!(parsed.errors.is_empty());
    let host = Subject::of_host([("kubernetes.io/os".to_owned(), "linux".to_owned())].into());
    let ruleset = Ruleset::resolve(&parsed.policies, &Postures::default(), &host).ruleset;
    let gaps: Vec<GapReason> =
        enforcer_core::compile::selinux::compile(&ruleset).gaps.iter().map(|gap| gap.reason).collect();
    node.check("gaps", gaps, vec![GapReason::SelinuxCondition, GapReason::SelinuxPattern]);
    let passes = |access: &Access<'_>| ruleset.decide(access).verdict != Verdict::Block;
    let (mut asked, mut wrong) = (0, Vec::new());
    let mut ask = |command: String, wanted: bool| {
        asked += 1;
        if can(&command) != wanted {
            wrong.push(format!("{command}: {}", !wanted));
        }
    };
    for path in FILES {
        let bytes = path.as_bytes();
        let (read, write) = (passes(&Access::read(bytes)), passes(&Access::write(bytes)));
        ask(format!("head -c1 {path}"), read);
        ask(format!("dd if=/dev/null of={path} conv=notrunc bs=1 count=0"), write);
        ask(format!("chmod 755 {path}"), write);
        ask(format!("ln {path} /t/free.d/ln"), write);
        ask(format!("mv {path} {path}.moved"), write);
        sh(&format!("rm -f /t/free.d/ln; [ ! -e {path}.moved ] || mv {path}.moved {path}"))?;
        // one that may not be read is not started either
        ask(path.to_owned(), passes(&Access::exec(bytes)) && read);
    }
    for path in DIRECTORIES {
        let bytes = path.as_bytes();
        ask(format!("ls {path}"), passes(&Access::read(bytes)));
        ask(format!("chmod 755 {path}"), passes(&Access::write(bytes)));
        let new = format!("{path}/new");
        ask(format!("touch {new}"), passes(&Access::write(new.as_bytes())));
        ask(format!("mkdir {new}.d"), passes(&Access::write(new.as_bytes())));
        ask(format!("mv {path} {path}.moved"), passes(&Access::rename_directory(bytes)));
        sh(&format!("[ ! -e {path}.moved ] || mv {path}.moved {path}; rm -rf {new}.d"))?;
    }
    ask("mv /t /t.moved".to_owned(), passes(&Access::rename_directory(b"/t")));
    println!("{asked} accesses, without {} paths that are gaps", GAPS.len());
    node.check("accesses against `decide`", wrong, Vec::new());
    ensure!(asked > 100);
    Ok(())
}

/// Denials whose rule cannot be told: what was done, the name, and why. Directories of two rules have one label, and the
/// kernel tells of what is to be made there its name alone.
const UNTOLD: [(&str, &str, &str); 2] =
    [("add_name", "new", "it may be any of these"), ("add_name", "new.d", "it may be any of these")];

/// What was denied until now has alerts, with the policy and the rule.
pub async fn told(node: &mut Node, daemon: &Daemon) -> Result<()> {
    let wanted = [
        ("/t/secret", "spec.file.matchPaths[0]", "File"),
        ("/t/dir/sub/y", "spec.file.matchDirectories[0]", "File"),
        ("/t/bin/tool", "spec.process.matchPaths[0]", "Process"),
    ];
    let alerts = daemon.alerts().await?;
    for (path, rule, operation) in wanted {
        let one = alerts.iter().find(|one| one["Resource"] == path && one["Operation"] == operation);
        let found =
            one.map(|one| ["PolicyName", "Rule", "Action", "Enforcer", "Type"].map(|key| one[key].clone()));
        let wanted = ["host", rule, "Block", "SELinux", "MatchedHostPolicy"].map(Value::from);
        node.check(&format!("the alert about {path}"), found, Some(wanted));
    }
    let ours: Vec<&Value> = alerts.iter().filter(|one| one["Enforcer"] == "SELinux").collect();
    let all: u64 = ours.iter().map(|one| one["Count"].as_u64().unwrap_or(1)).sum();
    let is_told = |one: &Value| {
        one["PolicyName"] == "host" && one["Rule"].as_str().is_some_and(|rule| rule.starts_with("spec."))
    };
    let is_known = |one: &Value| {
        let text = |key: &str| one[key].as_str().unwrap_or_default();
        UNTOLD.iter().any(|(op, resource, why)| {
            text("Data").starts_with(&format!("op={op} "))
                && text("Resource") == *resource
                && text("Message").contains(why)
        })
    };
    let untold = ours.iter().filter(|one| !is_told(one) && !is_known(one)).map(ToString::to_string);
    println!(
        "{all} denials, those of {} alerts with their rule",
        ours.iter().filter(|one| is_told(one)).count()
    );
    node.check("denials whose rule is not told", untold.collect(), Vec::<String>::new());
    node.check("there are some", all > 50, true);
    Ok(())
}

/// The daemon would label everything again, while the module goes.
pub fn in_use(node: &mut Node) -> Result<()> {
    let (known, record) = (labels(), fs::read(RECORD)?);
    let output = Command::new("./nri-enforcer").args(["unload", "--yes"]).output()?;
    let said = text(&output.stderr);
    node.check("unload beside a daemon", (output.status.code(), said.contains("is in use")), (Some(1), true));
    node.check("its labels and record", (labels() == known, fs::read(RECORD)? == record), (true, true));
    let modules = self::said(Command::new("semodule").arg("-l"))?;
    node.check("its module", modules.lines().any(|line| line.trim() == "nri_enforcer"), true);
    Ok(())
}

/// A rule's path over a link counts by both names, and the link stays.
pub fn over_a_link(node: &mut Node) -> Result<()> {
    let read = (can("head -c1 /t/over/file"), can("head -c1 /t/linked.d/file"));
    node.check("a path over a link, and where it leads", read, (false, false));
    node.check("leading it elsewhere", can("rm /t/over"), false);
    let (host, _) = status()?;
    let reason = host["reason"].as_str().unwrap_or_default().to_owned();
    node.check("nothing lacks for that", reason.contains("/t/over"), false);
    Ok(())
}

/// What may be moved keeps the note of the user that it had.
pub async fn moved(node: &mut Node, daemon: &Daemon) -> Result<()> {
    let is_noted = || fs::read_to_string(RECORD).is_ok_and(|text| text.contains(&hex("/t/sbin/moved")));
    node.check("moving a program", can("mv /t/bin/tool /t/sbin/moved"), true);
    look(daemon).await?;
    within(is_noted)?;
    node.check("its label", label("/t/sbin/moved").starts_with("nri_enforcer_x_u:"), true);
    let text = fs::read_to_string(RECORD)?;
    let noted = text.lines().find(|line| line.ends_with(&format!(" {}", hex("/t/sbin/moved"))));
    node.check("what it had", noted.map(|line| line.starts_with("guest_u ")), Some(true));
    // and away, where no rule is about it
    node.check("moving it away", can("mv /t/sbin/moved /t/free.d/away"), true);
    look(daemon).await?;
    within(|| !is_noted())?;
    let kept = || {
        fs::read_to_string(RECORD)
            .is_ok_and(|text| text.lines().any(|line| line.starts_with("guest_u ") && line.ends_with(" -")))
    };
    node.check("what it had is kept", kept(), true);
    node.check("and back", can("mv /t/free.d/away /t/bin/tool"), true);
    look(daemon).await?;
    within(|| !kept())?;
    Ok(())
}

/// Rules that would take the node down are refused, by whatever name: its files keep their labels.
pub async fn vital(node: &mut Node, daemon: &Daemon) -> Result<()> {
    let init = fs::canonicalize("/proc/1/exe")?.display().to_string();
    sh(&format!(
        "mkdir /t/vital; cp {init} /t/vital/plain; ln {init} /t/vital/init || mount --bind $(dirname {init}) /t/vital"
    ))?;
    let init_label = || label(&init);
    let before = (init_label(), label("/etc/selinux/config"), label("/sbin/semodule"));
    let dirs = ["/t/vital/", "/usr/", "/etc/", "/sbin/"]
        .map(|dir| format!("{{dir: {dir}, recursive: true}}"))
        .join(", ");
    let own = fs::canonicalize("./nri-enforcer")?.display().to_string();
    let rules = format!(
        "  file: {{matchDirectories: [{dirs}], matchPaths: [{{path: /t/free}}]}}\n  process: {{matchPaths: [{{path: {own}}}]}}"
    );
    daemon.apply("host.yaml", &policy(&rules)).await?;
    within(|| !can("head -c1 /t/free"))?;
    let reason = || status().map(|(host, _)| host["reason"].as_str().unwrap_or_default().to_owned());
    within(|| reason().is_ok_and(|reason| reason.contains("cannot do without")))?;
    println!("{}", reason()?);
    let after = (init_label(), label("/etc/selinux/config"), label("/sbin/semodule"));
    node.check("what the node needs keeps its label", after, before);
    node.check("and is executed", can(&format!("{own} --version")), true);
    node.check("the settings are read", can("head -c1 /etc/selinux/config"), true);
    sh("umount /t/vital 2>/dev/null || true; rm -rf /t/vital")?;
    daemon.apply("host.yaml", &policy(RULES)).await?;
    within(|| !can("head -c1 /t/secret"))
}

/// Each change of the policies makes the daemon look for files.
pub async fn look(daemon: &Daemon) -> Result<()> {
    daemon.apply("container.yaml", CONTAINER).await?;
    let before = daemon.policy_changes();
    daemon.remove_policy("container.yaml")?;
    daemon.wait_for_change(before).await
}

fn hex(path: &str) -> String {
    path.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Whoever connects to a socket by its path writes to it.
pub fn connected(node: &mut Node) -> Result<()> {
    let program = fs::canonicalize("./nri-enforcer")?.display().to_string();
    let denied = |socket: &str| -> Result<bool> {
        let output = as_host_command(&[&program, "status", "--status-socket", socket]).output()?;
        let said = text(&output.stderr);
        println!("{socket}: {said}");
        ensure!(!output.status.success() && said.contains(socket), "{said}");
        Ok(said.contains("Permission denied"))
    };
    let both = (denied("/t/dir/sock")?, denied("/t/free.sock")?);
    node.check("connecting to a socket", both, (true, false));
    Ok(())
}
