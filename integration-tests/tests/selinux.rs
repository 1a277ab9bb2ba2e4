//! SELinux labels for host policies: a real kernel with a small policy, `semodule` and its store.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer_core::coverage::GapReason;
use enforcer_core::decide::{Access, Verdict};
use enforcer_core::policy::parse;
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject;
use lab::cache;
use lab::node::{Daemon, Options};
use lab::testing::{Node, in_guest_with_program};
use lab::vm::{Containerd, Kernel, Spec};
use nix::sys::signal::Signal;
use serde_json::Value;

const RECORD: &str = "/var/lib/nri-enforcer/selinux/labels";
/// The label that files have before.
const PLAIN: &str = "system_u:object_r:base_t:s0";
/// The settings of the module store: the policy has no contexts of files, and so nothing that checks them.
const SEMANAGE: &str = "module-store = direct\nexpand-check = 0\ndisable-genhomedircon = true\n\
    [setfiles]\npath = /bin/true\nargs =\n[end]\n[sefcontext_compile]\npath = /bin/true\nargs =\n[end]\n";

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {{name: host}}\n\
         spec:\n  nodeSelector: {{matchLabels: {{kubernetes.io/os: linux}}}}\n  action: Block\n{spec}\n"
    )
}

/// Not about the host.
const CONTAINER: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: container, namespace: default}\n\
    spec:\n  selector: {matchLabels: {app: none}}\n  action: Block\n  file: {matchPaths: [{path: /x}]}\n";

/// Everything that can be said, and some that cannot.
const RULES: &str = "
  file:
    matchPaths:
    - {path: /t/secret}
    - {path: /t/ro, readOnly: true}
    - {path: /t/missing/file}
    - {path: /t/over/file}
    - {path: /run/t}
    - {path: /t/alone, ownerOnly: true}
    matchDirectories:
    - {dir: /t/dir/, recursive: true}
    - {dir: /t/rodir/, recursive: true, readOnly: true}
    - {dir: /t/flat/, readOnly: true}
    matchPatterns: [{pattern: '/t/*.key'}]
  process:
    matchPaths: [{path: /t/bin/tool}]
    matchDirectories: [{dir: /t/sbin/, recursive: true}]";
const FILES: [&str; 12] = [
    "/t/secret",
    "/t/ro",
    "/t/free",
    "/t/dir/x",
    "/t/dir/sub/y",
    "/t/rodir/x",
    "/t/rodir/sub/y",
    "/t/flat/x",
    "/t/flat/sub/y",
    "/t/bin/tool",
    "/t/bin/other",
    "/t/sbin/sub/tool",
];
const DIRECTORIES: [&str; 9] = [
    "/t/dir",
    "/t/dir/sub",
    "/t/rodir",
    "/t/rodir/sub",
    "/t/flat",
    "/t/flat/sub",
    "/t/bin",
    "/t/sbin",
    "/t/free.d",
];
/// What no label stands for: these are not compared.
const GAPS: [&str; 2] = ["/t/a.key", "/t/alone"];

#[test]
fn selinux_holds_host_policies() -> Result<()> {
    let append = "lsm=landlock,lockdown,yama,selinux,bpf".to_owned();
    let spec = Spec { append, ..Spec::node(Kernel::V6_12, Containerd::V1_7) };
    let tools = || cache::artefact("selinux");
    let base = || Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/selinux.cil"));
    let files: [lab::testing::File; 2] = [("selinux.tar", tools), ("base.cil", base)];
    in_guest_with_program("selinux_holds_host_policies", &spec, &files, |node| {
        Box::pin(async move {
            set_up()?;
            let arguments = ["--lsm-order", "selinux", "--host-policies"].map(str::to_owned).to_vec();
            let options = Options { program: "./nri-enforcer".into(), postures: vec![], arguments };
            let mut daemon = Daemon::new("/run/selinux-daemon".as_ref(), options)?;
            with(node, &mut daemon).await.with_context(|| daemon.log())
        })
    })
}

/// A store with our small policy, loaded and enforcing, and the files that policies are about.
fn set_up() -> Result<()> {
    sh("tar -xf selinux.tar -C /")?;
    sh("mkdir -p /etc/selinux/small/contexts/files /etc/selinux/small/policy /var/lib/selinux")?;
    fs::write("/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=small\n")?;
    fs::write("/etc/selinux/semanage.conf", SEMANAGE)?;
    sh("mount -t selinuxfs selinuxfs /sys/fs/selinux")?;
    sh("semodule -n -s small -X 100 -i base.cil")?;
    sh("load_policy -i || cat /etc/selinux/small/policy/policy.* > /sys/fs/selinux/load")?;
    sh("mkdir -p /t/dir/sub /t/rodir/sub /t/flat/sub /t/bin /t/sbin/sub /t/free.d")?;
    for path in FILES.iter().chain(&GAPS) {
        fs::write(path, lab::image::FIRST)?;
        sh(&format!("chmod 755 {path}"))?;
    }
    // what a file had before is what it gets back, and its type is never another
    relabel("/t/free", "guest_u:object_r:base_t:s0")?;
    for path in ["/t/ro", "/t/bin/tool"] {
        relabel(path, "guest_u:object_r:base_t:s0")?;
    }
    fs::write("/run/t", "x")?;
    fs::create_dir("/t/linked.d")?;
    fs::write("/t/linked.d/file", "x")?;
    sh("ln -s linked.d /t/over")?;
    fs::write("/t/rodir/secret", "")?;
    relabel("/t/rodir/secret", "system_u:object_r:secret_t:s0")?;
    sh("ln /t/secret /t/another-name; ln -s /t/free /t/dir/link")?;
    Ok(())
}

async fn with(node: &mut Node, daemon: &mut Daemon) -> Result<()> {
    for path in ["/t/dir/sock", "/t/free.sock"] {
        let listener = UnixListener::bind(path)?;
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }
    sh("mkdir /t/rodir/mnt")?;
    let before = labels();
    // permissive: nothing would be held
    fs::write("/sys/fs/selinux/enforce", "0")?;
    let probe = said(Command::new("./nri-enforcer").args(["probe", "-o", "json"]))?;
    node.check("probe says why not", probe.contains("SELinux is permissive"), true);
    daemon.write_policy("host.yaml", &policy(RULES))?;
    daemon.start().await?;
    let (_, lock) = status()?;
    node.check("no lock is taken", lock.as_str(), "none");
    node.check("nothing is labelled", labels() == before, true);
    daemon.end(Signal::SIGTERM)?;

    sh("mount -t tmpfs tmpfs /t/rodir/mnt && echo x > /t/rodir/mnt/x")?;
    fs::write("/sys/fs/selinux/enforce", "1")?;
    // opened before, and read when the file has its label
    let earlier = |path: &str| {
        let script = format!("exec 3<{path}; while [ ! -e /run/go ]; do sleep 0.1; done; read -r -n1 x <&3");
        as_host_command(&["sh", "-c", &script]).spawn()
    };
    let (mut denied, mut free) = (earlier("/t/secret")?, earlier("/t/free")?);
    std::thread::sleep(Duration::from_secs(1));
    node.check("a process of the host", as_host("cat /proc/self/attr/current").0.contains(":host_t:"), true);
    node.check(
        "probe",
        said(Command::new("./nri-enforcer").args(["probe", "-o", "json"]))?.contains("`semodule` reads"),
        true,
    );
    let begin = Instant::now();
    daemon.start().await?;
    println!("ready after {:.1} s", begin.elapsed().as_secs_f64());
    within(|| !can("head -c1 /t/secret"))?;
    fs::write("/run/go", "")?;
    node.check("a file that was open", (denied.wait()?.success(), free.wait()?.success()), (false, true));
    compared(node)?;
    told(node, daemon).await?;
    node.check("another name of it", can("head -c1 /t/another-name"), false);
    connected(node)?;
    node.check("the base policy holds still", can("head -c1 /t/rodir/secret"), false);
    node.check("a type is what it was", label("/t/rodir/secret").contains(":secret_t:"), true);
    node.check("following a link", can("head -c1 /t/dir/link"), true);
    let relabels = |domain: &str| -> Result<bool> { allows(domain, &label("/t/secret"), "relabelfrom") };
    node.check("taking a label off", (relabels("host_t")?, relabels("kernel_t")?), (false, true));
    sh("echo x > /t/free.d/new")?;
    node.check("putting another over it", can("mv /t/free.d/new /t/secret"), false);
    let (host, lock) = status()?;
    node.check("the lock", lock.as_str(), "selinux");
    node.check("who holds the rules", host["held"]["selinux"].clone(), serde_json::json!(["host"]));
    let reason = host["reason"].as_str().unwrap_or_default().to_owned();
    node.check("what is not there is told", reason.contains("`/t/missing/file`: there is nothing yet"), true);

    node.check("what is mounted is told", reason.contains("`/t/rodir/mnt`: something else is mounted"), true);
    node.check("what is mounted is left alone", label("/t/rodir/mnt/x"), PLAIN.to_owned());
    sh("umount /t/rodir/mnt")?;
    in_use(node)?;
    over_a_link(node)?;
    moved(node, daemon).await?;
    permissive_domain(node, daemon).await?;
    vital(node, daemon).await?;

    // it comes
    sh("mkdir /t/missing; echo x > /t/missing/file")?;
    changed(node, daemon).await?;
    without_module(node, daemon).await?;
    permissive(node)?;
    ended(node, daemon, &before).await
}

/// Every access of a process of the host, against `decide`.
fn compared(node: &mut Node) -> Result<()> {
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

/// What was denied until now has alerts, with the policy and the rule.
async fn told(node: &mut Node, daemon: &Daemon) -> Result<()> {
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
    let (known, all) =
        alerts.iter().filter(|one| one["Enforcer"] == "SELinux").fold((0, 0), |(known, all), one| {
            let count = one["Count"].as_u64().unwrap_or(1);
            (known + if one["PolicyName"] == "host" { count } else { 0 }, all + count)
        });
    println!("{all} denials, {known} of them with their policy");
    for one in alerts.iter().filter(|one| one["Enforcer"] == "SELinux" && one["PolicyName"] != "host") {
        println!("{one}");
    }
    node.check("there are some", all > 50, true);
    Ok(())
}

/// The daemon would label everything again, while the module goes.
fn in_use(node: &mut Node) -> Result<()> {
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
fn over_a_link(node: &mut Node) -> Result<()> {
    let read = (can("head -c1 /t/over/file"), can("head -c1 /t/linked.d/file"));
    node.check("a path over a link, and where it leads", read, (false, false));
    node.check("leading it elsewhere", can("rm /t/over"), false);
    let (host, _) = status()?;
    let reason = host["reason"].as_str().unwrap_or_default().to_owned();
    node.check("nothing lacks for that", reason.contains("/t/over"), false);
    Ok(())
}

/// What may be moved keeps the note of the user that it had.
async fn moved(node: &mut Node, daemon: &Daemon) -> Result<()> {
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
async fn vital(node: &mut Node, daemon: &Daemon) -> Result<()> {
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
async fn look(daemon: &Daemon) -> Result<()> {
    daemon.apply("container.yaml", CONTAINER).await?;
    let before = daemon.policy_changes();
    daemon.remove_policy("container.yaml")?;
    daemon.wait_for_change(before).await
}

fn hex(path: &str) -> String {
    path.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// As `semanage permissive -a host_t` has it.
async fn permissive_domain(node: &mut Node, daemon: &Daemon) -> Result<()> {
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

/// Whoever connects to a socket by its path writes to it.
fn connected(node: &mut Node) -> Result<()> {
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

/// Policies change, and the daemon dies.
async fn changed(node: &mut Node, daemon: &mut Daemon) -> Result<()> {
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
async fn without_module(node: &mut Node, daemon: &mut Daemon) -> Result<()> {
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
fn permissive(node: &mut Node) -> Result<()> {
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

async fn ended(node: &mut Node, daemon: &mut Daemon, before: &[(String, String)]) -> Result<()> {
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
    Ok(())
}

/// The state of the host, and the lock.
fn status() -> Result<(Value, String)> {
    let output = Command::new("./nri-enforcer").args(["status", "-o", "json"]).output()?;
    let document: Value = serde_json::from_slice(&output.stdout).context("status")?;
    let lock = document["daemon"]["lock"].as_str().unwrap_or_default().to_owned();
    let all = document["containers"].as_array().cloned().unwrap_or_default();
    let host = all.into_iter().find(|one| one["host"] == true).unwrap_or_default();
    Ok((host, lock))
}

/// A command as a process of the host. A program by its path, any other as one of busybox's: by the name alone the shell
/// would do it itself, without executing anything.
fn as_host_command(words: &[&str]) -> Command {
    let script = "printf 'system_u:system_r:host_t:s0' > /proc/self/attr/exec || exit 99; exec \"$@\"";
    let by_path = words.first().is_some_and(|word| word.starts_with('/'));
    let mut command = Command::new("/bin/busybox");
    command.args(["sh", "-c", script, "sh"]).args((!by_path).then_some("/bin/busybox")).args(words);
    command
}

/// Runs one: its output, and whether it succeeds.
fn as_host(command: &str) -> (String, bool) {
    let output = as_host_command(&command.split(' ').collect::<Vec<_>>()).output().unwrap();
    assert_ne!(output.status.code(), Some(99), "{command}: {}", text(&output.stderr));
    (text(&output.stdout), output.status.success())
}

fn can(command: &str) -> bool {
    as_host(command).1
}

/// What the kernel says of a domain and a file.
fn allows(domain: &str, label: &str, permission: &str) -> Result<bool> {
    let number = |path: &str| -> Result<u32> {
        Ok(fs::read_to_string(format!("/sys/fs/selinux/class/file/{path}"))?.trim().parse()?)
    };
    let mut access = fs::File::options().read(true).write(true).open("/sys/fs/selinux/access")?;
    let question = format!("system_u:system_r:{domain}:s0 {label} {}", number("index")?);
    access.write_all(question.as_bytes())?;
    let mut answer = String::new();
    access.read_to_string(&mut answer)?;
    let allowed = u32::from_str_radix(answer.split(' ').next().unwrap_or_default(), 16)?;
    Ok(allowed >> (number(&format!("perms/{permission}"))? - 1) & 1 == 1)
}

fn within(mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !holds() {
        ensure!(Instant::now() < deadline, "it does not come to be");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// All that is below `/t`, with its label.
fn labels() -> Vec<(String, String)> {
    let paths = said(Command::new("find").arg("/t")).unwrap();
    let mut found: Vec<(String, String)> = paths.lines().map(|path| (path.to_owned(), label(path))).collect();
    found.sort();
    found
}

fn label(path: &str) -> String {
    let mut bytes = [0; 256];
    let length = rustix::fs::lgetxattr(path, "security.selinux", &mut bytes[..]).unwrap_or(0);
    text(&bytes[..length]).trim_end_matches('\0').to_owned()
}

fn relabel(path: &str, label: &str) -> Result<()> {
    let flags = rustix::fs::XattrFlags::empty();
    Ok(rustix::fs::lsetxattr(path, "security.selinux", format!("{label}\0").as_bytes(), flags)?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn said(command: &mut Command) -> Result<String> {
    let Output { stdout, .. } = command.output()?;
    Ok(text(&stdout))
}

fn sh(command: &str) -> Result<()> {
    let output = Command::new("/bin/busybox").args(["sh", "-c", command]).output()?;
    ensure!(output.status.success(), "{command}: {}", text(&output.stderr));
    Ok(())
}
