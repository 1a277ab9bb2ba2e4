//! Containers under crun, which CRI-O and podman take where both are there: by containerd and by podman, on a real kernel,
//! as under runc. What they may not do is denied from their first instruction, and the OCI hook holds the gate. At last podman
//! is alone there ([`alone`]). In a guest of its own systemd starts the daemon, by the unit that we ship ([`service`]).

#[path = "crun/alone.rs"]
mod alone;
#[path = "crun/service.rs"]
mod service;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::node::{Container, RunningContainer};
use lab::podman::{IMAGE_POLICY, containers_conf, for_guests, storage_conf};
use lab::run::{DAEMON_FILE, DAEMON_FOLDER, hook};
use lab::testing::{File, Node, in_guest_of_systemd, in_guest_with};
use lab::vm::{Containerd, Kernel, Spec};
use lab::{cache, image};
use nix::sys::signal::Signal;

const POLICY: &str = include_str!("../../examples/policies/block-etc-passwd-read.yaml");
/// What the policy selects.
const LABEL: (&str, &str) = ("app", "my-web-app");
/// What `first` exits with: EACCES, and success.
const DENIED: i32 = 13;
const OPENED: i32 = 0;
const PODMAN: &str = "/opt/podman/bin";
const IMAGE: &str = "localhost/shop/web:v1";
const HOOK: &str = "/opt/nri-enforcer/nri-enforcer-hook";

#[test]
fn crun_linux_6_12_containerd_1_7() -> Result<()> {
    let spec = Spec::node(Kernel::V6_12, Containerd::V1_7);
    let name = "crun_linux_6_12_containerd_1_7";
    let files: [File; 3] = [("hook", hook), ("podman.tar", podman_for_guests), ("crun.tar", newer_crun)];
    in_guest_with(name, &spec, true, &files, |node| {
        Box::pin(async move {
            set_up()?;
            let late = under_containerd(node).await?;
            under_podman(node)?;
            across_a_restart(node).await?;
            without_the_daemon(node, &late).await?;
            alone::alone(node).await
        })
    })
    .map(drop)
}

#[test]
fn the_unit_under_systemd_linux_6_12() -> Result<()> {
    let files: [File; 2] = [("hook", hook), ("podman.tar", podman_for_guests)];
    in_guest_of_systemd("the_unit_under_systemd_linux_6_12", Kernel::V6_12, &files, service::service)
}

fn podman_for_guests() -> Result<PathBuf> {
    for_guests(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

/// A newer crun with libraries of the guest's Debian.
fn newer_crun() -> Result<PathBuf> {
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crun.tar");
    let mut tar = tar::Builder::new(fs::File::create(&to)?);
    tar.follow_symlinks(false);
    tar.append_dir_all(".", cache::artefact("crun")?)?;
    tar.into_inner()?.sync_all()?;
    Ok(to)
}

/// podman 4.3 with the crun of its release, 1.8; a newer one, 1.21, for containerd; and an image.
fn set_up() -> Result<()> {
    unpack("crun")?;
    set_up_podman()?;
    let daemon = Path::new(DAEMON_FOLDER).join(DAEMON_FILE);
    set_up_hook(&daemon.display().to_string())
}

/// Libraries that the guest has stay its own, and those of its own Debian come first.
fn unpack(name: &str) -> Result<()> {
    sh(&format!("mkdir /opt/{name} && tar -xf {name}.tar -C /opt/{name} && rm {name}.tar"))?;
    let into = "/usr/lib/x86_64-linux-gnu";
    sh(&format!("cd /opt/{name}/lib; for f in *; do [ -e {into}/$f ] || cp -P $f {into}; done"))
}

fn set_up_podman() -> Result<()> {
    sh("mkdir -p /var/tmp")?;
    unpack("podman")?;
    let conf = Path::new("/etc/containers");
    fs::create_dir_all(conf)?;
    fs::create_dir_all("/usr/share/containers")?;
    let containers =
        containers_conf(PODMAN.as_ref(), "/usr/sbin/runc".as_ref(), "/opt/podman/bin/crun".as_ref());
    fs::write(conf.join("containers.conf"), containers)?;
    fs::write(conf.join("storage.conf"), storage_conf("/var/lib/containers/storage".as_ref()))?;
    fs::write(conf.join("policy.json"), IMAGE_POLICY)?;
    fs::copy("/opt/podman/seccomp.json", "/usr/share/containers/seccomp.json")?;
    let root = Path::new("/tmp/image");
    fs::create_dir_all(root.join("etc"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    for (name, program) in [("first", image::FIRST), ("pause", image::PAUSE)] {
        fs::write(root.join(name), program)?;
    }
    sh("chmod 755 /tmp/image/first /tmp/image/pause; cd /tmp/image; tar -cf ../image.tar .")?;
    let imported = podman(&["import", "-q", "/tmp/image.tar", IMAGE])?;
    ensure!(imported.status.success(), "import: {}", said(&imported));
    Ok(())
}

fn set_up_hook(daemon: &str) -> Result<()> {
    sh(&format!("{daemon} install --runtime podman --hook ./hook"))?;
    // an emulated machine is slower than a node
    let config = serde_json::json!({"exemptNamespaces": ["kube-system"], "deadlineMillis": 5_000});
    Ok(fs::write(format!("{HOOK}.json"), config.to_string())?)
}

/// Each container is crun's, also those that hold a pod's namespaces. One is created, and not started.
async fn under_containerd(node: &mut Node) -> Result<RunningContainer> {
    let path = "/etc/containerd/config.toml";
    let cri = "[plugins.\"io.containerd.grpc.v1.cri\".containerd";
    let handler = format!(
        "\n{cri}]\n  default_runtime_name = \"crun\"\n{cri}.runtimes.crun]\n  runtime_type = \"io.containerd.runc.v2\"\n\
         {cri}.runtimes.crun.options]\n  BinaryName = \"/opt/crun/bin/crun\"\n"
    );
    fs::write(path, fs::read_to_string(path)? + &handler)?;
    node.daemon.end(Signal::SIGTERM)?;
    node.runtime.kill()?;
    node.runtime.start()?;
    node.cri = node.runtime.cri().await?;
    node.daemon.options_mut().arguments = vec!["--hook".into(), HOOK.into()];
    node.daemon.start().await?;
    let connected = |node: &Node| node.daemon.whole_log().matches("in service").count() >= 2;
    soon("the daemon is connected again", || connected(node)).await?;
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    for (name, attempt) in [("main", 0), ("second", 0), ("main", 1)] {
        let exit = node.entry(&web, name, attempt, &["/bin/first"]).await?;
        node.check(&format!("containerd: entry of {name}, {attempt}"), exit, DENIED);
    }
    let running = node.idle(&web, "running").await?;
    // crun leaves its state where only it writes
    let state = Path::new("/run/containerd/runc/k8s.io").join(&running.id).join("status");
    let is_crun = fs::read_to_string(&state).is_ok_and(|text| text.contains("\"bundle\""));
    node.check("it is crun's", is_crun, true);
    let output = node.exec(&running, "/bin/first").await?;
    node.check("containerd: exec", (output.exit, output.stdout.as_str()), (DENIED, "DENIED\n"));
    node.check("containerd: what no rule names", node.exec(&running, "cat /etc/group").await?.exit, 0);
    node.check("the hook armed them", passed(node), 4);
    let plain = node.pod("default", "plain", &[]).await?;
    node.check("without the label", node.entry(&plain, "main", 0, &["/bin/first"]).await?, OPENED);
    Ok(node.cri.create(&web, &Container::new("late", &["/bin/first"]), 0).await?)
}

fn under_podman(node: &mut Node) -> Result<()> {
    let label = format!("{}={}", LABEL.0, LABEL.1);
    for runtime in ["lab", "crun"] {
        let before = passed(node);
        let run = |options: &[&str], program: &str| {
            podman(&[&["--runtime", runtime, "run"], options, &[IMAGE, program]].concat())
        };
        let denied = (Some(DENIED), "DENIED".to_owned());
        let output = run(&["--rm", "-l", &label], "/first")?;
        node.check(&format!("podman, {runtime}: run --rm"), ended(&output), denied.clone());
        let output = run(&["--rm"], "/first")?;
        node.check(
            &format!("podman, {runtime}: no label"),
            ended(&output),
            (Some(OPENED), "OPENED".to_owned()),
        );
        let name = format!("again-{runtime}");
        let output = run(&["-l", &label, "--name", &name], "/first")?;
        node.check(&format!("podman, {runtime}: run"), ended(&output), denied.clone());
        let output = podman(&["start", "-a", &name])?;
        node.check(&format!("podman, {runtime}: start again"), ended(&output), denied.clone());
        let name = format!("running-{runtime}");
        let output = run(&["-d", "-l", &label, "--name", &name], "/pause")?;
        ensure!(output.status.success(), "{}", said(&output));
        let output = podman(&["exec", &name, "/first"])?;
        node.check(&format!("podman, {runtime}: exec"), ended(&output), denied.clone());
        node.check(&format!("podman, {runtime}: the hook armed them"), passed(node) - before, 4);
        let used = podman(&["inspect", "--format", "{{.OCIRuntime}}", &name])?;
        node.check(&format!("podman, {runtime}: it is its"), ended(&used).1, runtime.to_owned());
    }
    Ok(())
}

/// The next daemon knows whom the one before has armed, and lets nobody go but who is over.
async fn across_a_restart(node: &mut Node) -> Result<()> {
    let label = format!("{}={}", LABEL.0, LABEL.1);
    let run = |name: &str, more: &[&str]| -> Result<String> {
        let options = ["--runtime", "crun", "run", "-d", "-l", &label, "--name", name];
        let output = podman(&[&options, more, &[IMAGE, "/pause"]].concat())?;
        ensure!(output.status.success(), "{}", said(&output));
        Ok(ended(&output).1)
    };
    // no cgroup has its id in its path
    let nowhere = run("nowhere", &["--cgroups=disabled"])?;
    let over = run("over", &[])?;
    let names = ["running-lab", "running-crun", "nowhere"];
    let first = |name: &str| podman(&["exec", name, "/first"]).map(|output| ended(&output));
    let (denied, opened) = ((Some(DENIED), "DENIED".to_owned()), (Some(OPENED), "OPENED".to_owned()));
    for name in names {
        node.check(&format!("{name}, under the daemon that armed it"), first(name)?, denied.clone());
    }
    node.daemon.end(Signal::SIGKILL)?;
    let output = podman(&["kill", "over"])?;
    ensure!(output.status.success(), "{}", said(&output));
    let found = |node: &Node| node.daemon.whole_log().matches("found in podman's files").count();
    let disarmed = |node: &Node, id: &str| {
        node.daemon.whole_log().lines().any(|line| line.contains(id) && line.contains("disarmed"))
    };
    let before = found(node);
    node.daemon.start().await?;
    soon("it knows who they are", || found(node) >= before + names.len()).await?;
    // what nobody knows and what is over is disarmed when the runtime has told what there is, and every half minute
    soon("what is over is disarmed", || disarmed(node, &over)).await?;
    let told = |node: &Node, name: &str| -> Result<usize> {
        let alerts = node.daemon.alerts_now()?;
        let of =
            |alert: &&lab::node::Alert| alert["ContainerName"] == name && alert["Resource"] == "/etc/passwd";
        Ok(alerts.iter().filter(of).count())
    };
    for name in names {
        let alerts = told(node, name)?;
        node.check(&format!("{name}, under the next daemon"), first(name)?, denied.clone());
        soon("an alert names it", || told(node, name).is_ok_and(|now| now > alerts)).await?;
    }
    node.daemon.apply("policy.yaml", &POLICY.replace("/etc/passwd", "/etc/group")).await?;
    for name in names {
        let reached = || first(name).is_ok_and(|found| found == opened);
        soon(&format!("a change of the policies reaches {name}"), reached).await?;
    }
    node.daemon.apply("policy.yaml", POLICY).await?;
    for name in names {
        soon(&format!("and the next one reaches {name}"), || first(name).is_ok_and(|found| found == denied))
            .await?;
    }
    node.check("one whose tasks no cgroup tells is armed all the time", disarmed(node, &nowhere), false);
    let output = podman(&["rm", "-f", "-t", "0", "nowhere"])?;
    ensure!(output.status.success(), "{}", said(&output));
    soon("its end is found", || disarmed(node, &nowhere)).await
}

/// What was created while it lived does not start.
async fn without_the_daemon(node: &mut Node, late: &RunningContainer) -> Result<()> {
    node.daemon.end(Signal::SIGKILL)?;
    // why it must not is not in what crun says
    let told = node.cri.start(late).await.err().map(|status| status.message().to_owned()).unwrap_or_default();
    node.check(&format!("containerd: {told}"), told.contains("error executing hook"), true);
    for runtime in ["lab", "crun"] {
        let name = format!("again-{runtime}");
        let output = podman(&["start", "-a", &name])?;
        let refused = !output.status.success() && said(&output).contains("hook");
        node.check(
            &format!("podman, {runtime}: with the daemon dead"),
            (refused, said(&output)),
            (true, said(&output)),
        );
    }
    Ok(())
}

/// How many containers the daemon has armed before their root changed.
fn passed(node: &Node) -> usize {
    node.daemon.whole_log().matches("let through the gate").count()
}

fn podman(arguments: &[&str]) -> Result<Output> {
    Command::new(format!("{PODMAN}/podman")).args(arguments).output().context("run podman")
}

fn ended(output: &Output) -> (Option<i32>, String) {
    if !output.stderr.is_empty() {
        println!("{}", said(output));
    }
    (output.status.code(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

fn sh(script: &str) -> Result<()> {
    let output = Command::new("sh").args(["-e", "-c", script]).output()?;
    ensure!(output.status.success(), "`{script}`: {}", said(&output));
    Ok(())
}

async fn soon(what: &str, done: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !done() {
        ensure!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
