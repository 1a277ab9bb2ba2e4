//! What NRI does without the hook of `hooks.d`: containers are armed, known again after restarts of either side, and let go.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::node::{Alert, Container, RunningContainer, RunningPod};
use lab::stand_in::slow;
use lab::testing::Node;
use nix::sys::signal::Signal;

use super::{DENIED, GATE, HOOK, LABEL, OPENED, POLICY, configure, first_creation, in_service, passed, soon};

/// A seccomp policy for the same pods.
const SECCOMP: &str = "
apiVersion: security.kubearmor.com/v1
kind: KubeArmorSeccompPolicy
metadata: {name: no-rmdir, namespace: default}
spec:
  selector: {matchLabels: {app: my-web-app}}
  action: Block
  syscalls: ['rmdir:95']
";
/// How long a command in a container may take.
const LONG: Duration = Duration::from_secs(90);

pub async fn hold(node: &mut Node) -> Result<()> {
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let running = first_instruction(node, &web).await?;
    identity(node, &running).await?;
    the_daemon_restarts(node, &web, &running).await?;
    crio_restarts(node, &web, &running).await?;
    seccomp(node, &web).await?;
    with_the_hook(node, &web).await?;
    let log = node.runtime.whole_log();
    node.check("CRI-O has refused nothing of what it was asked", log.matches("NRI start failed").count(), 0);
    Ok(())
}

async fn first_instruction(node: &mut Node, web: &RunningPod) -> Result<RunningContainer> {
    node.check("the first instruction", node.entry(web, "main", 0, &["/bin/first"]).await?, DENIED);
    let plain = node.pod("default", "plain", &[]).await?;
    node.check("without the label", node.entry(&plain, "main", 0, &["/bin/first"]).await?, OPENED);
    let running = node.idle(web, "running").await?;
    node.check("exec", node.exec(&running, "/bin/first").await?.exit, DENIED);
    node.check("exec of what no rule names", node.exec(&running, "cat /etc/group").await?.exit, 0);
    let told = |alert: &Alert| alert["ContainerName"] == "running" && alert["Resource"] == "/etc/passwd";
    let alerts = node.daemon.wait_for_alert(Duration::from_secs(10), told).await?;
    let alert = alerts.iter().find(|alert| told(alert)).context("no alert names the container")?;
    for (key, wanted) in
        [("NamespaceName", "default"), ("PodName", "web"), ("ContainerImage", "lab.local/root:1")]
    {
        node.check(key, alert[key].as_str(), Some(wanted));
    }
    Ok(running)
}

/// The policy holds wherever in its cgroup a process is, and each change reaches what runs.
async fn identity(node: &mut Node, running: &RunningContainer) -> Result<()> {
    let nested = "mkdir -p /sys/fs/cgroup/in/deep && echo $$ >/sys/fs/cgroup/in/deep/cgroup.procs && \
                  grep -q /in/deep /proc/self/cgroup && exec /bin/first";
    let words = ["sh", "-c", nested].map(str::to_owned);
    let output = node.cri.exec(running, &words, LONG).await?;
    node.check("in a nested cgroup", (output.exit, output.stdout.as_str()), (DENIED, "DENIED\n"));
    changes_reach(node, running, "at first").await
}

async fn changes_reach(node: &mut Node, running: &RunningContainer, when: &str) -> Result<()> {
    for (policy, wanted) in [(&*POLICY.replace("/etc/passwd", "/etc/group"), OPENED), (POLICY, DENIED)] {
        node.daemon.apply("policy.yaml", policy).await?;
        soon_exits(node, running, wanted).await.with_context(|| format!("a change reaches it, {when}"))?;
    }
    Ok(())
}

async fn soon_exits(node: &Node, container: &RunningContainer, wanted: i32) -> Result<()> {
    let deadline = std::time::Instant::now() + LONG;
    while node.exec(container, "/bin/first").await?.exit != wanted {
        ensure!(std::time::Instant::now() < deadline, "waited in vain for exit status {wanted}");
    }
    Ok(())
}

/// What ran, what was created, and what starts while it is away.
async fn the_daemon_restarts(node: &mut Node, web: &RunningPod, running: &RunningContainer) -> Result<()> {
    let waiting = node.cri.create(web, &Container::new("waiting", &["/bin/first"]), 0).await?;
    node.daemon.end(Signal::SIGKILL)?;
    node.check("while the daemon is away", node.exec(running, "/bin/first").await?.exit, DENIED);
    first_creation(node, web, "is dead", 0).await?;
    let meanwhile = node.idle(web, "meanwhile").await?;
    node.check(
        "what starts meanwhile, without a hook",
        node.exec(&meanwhile, "/bin/first").await?.exit,
        OPENED,
    );
    node.daemon.start().await?;
    node.check("what ran", node.exec(running, "/bin/first").await?.exit, DENIED);
    node.check("what started meanwhile", node.exec(&meanwhile, "/bin/first").await?.exit, DENIED);
    let late = |alert: &Alert| alert["Data"] == "notice=late" && alert["ContainerName"] == "meanwhile";
    let alerts = node.daemon.wait_for_alert(Duration::from_secs(10), late).await?;
    node.check("that is told", alerts.iter().filter(|alert| late(alert)).count(), 1);
    node.cri.start(&waiting).await?;
    let state = node.cri.wait(&waiting, LONG).await?.context("it does not end")?;
    node.check("what was created before, and starts now", state.exit, Some(DENIED));
    changes_reach(node, &meanwhile, "after the daemon's restart").await?;
    let disarmed = |node: &Node, id: &str| {
        node.daemon.whole_log().lines().any(|line| line.contains(id) && line.contains("disarmed"))
    };
    node.check("it is armed", disarmed(node, &meanwhile.id), false);
    node.cri.stop(&meanwhile).await?;
    node.cri.remove(&meanwhile).await?;
    soon("what is removed is disarmed", || disarmed(node, &meanwhile.id)).await
}

async fn crio_restarts(node: &mut Node, web: &RunningPod, running: &RunningContainer) -> Result<()> {
    let waiting = node.cri.create(web, &Container::new("waiting", &["/bin/first"]), 1).await?;
    let before = in_service(node);
    node.runtime.kill()?;
    node.check("while CRI-O is away, its container lives", Path::new("/run/crio.pid").exists(), true);
    node.runtime.start()?;
    node.cri = node.runtime.cri().await?;
    soon("the daemon is connected again", || in_service(node) > before).await?;
    node.check("what ran before CRI-O", node.exec(running, "/bin/first").await?.exit, DENIED);
    changes_reach(node, running, "after CRI-O's restart").await?;
    node.cri.start(&waiting).await?;
    let state = node.cri.wait(&waiting, LONG).await?.context("it does not end")?;
    node.check("what was created before CRI-O's end", state.exit, Some(DENIED));
    node.check("what is new", node.entry(web, "main", 1, &["/bin/first"]).await?, DENIED);
    Ok(())
}

/// NRI 0.12 takes profiles, and CRI-O lives on. One with NRI 0.10 or 0.11 would die of them, and gets none.
async fn seccomp(node: &mut Node, web: &RunningPod) -> Result<()> {
    node.daemon.apply("seccomp.yaml", SECCOMP).await?;
    let created = node.cri.create(web, &Container::new("seccomp", &["rmdir", "/nothing"]), 0).await?;
    node.cri.start(&created).await?;
    node.cri.wait(&created, LONG).await?.context("it does not end")?;
    let (_, said) = node.cri.output(&created);
    let wanted =
        if node.daemon.whole_log().contains("nri=\"0.12") { "not supported" } else { "No such file" };
    node.check(&format!("rmdir under a seccomp policy: {said}"), said.contains(wanted), true);
    let told = node.daemon.whole_log().contains("default.no-rmdir.json");
    node.check("what its pod has to name is told", told, wanted == "No such file");
    node.daemon.remove_policy("seccomp.yaml")?;
    Ok(())
}

/// The daemon gives containers the hook, which CRI-O runs while it creates them.
async fn with_the_hook(node: &mut Node, web: &RunningPod) -> Result<()> {
    node.daemon.end(Signal::SIGTERM)?;
    fs::create_dir_all(Path::new(HOOK).parent().context("a directory")?)?;
    fs::copy("hook", HOOK)?;
    configure("closed", 5_000)?;
    node.daemon.options_mut().arguments = vec!["--hook".into(), HOOK.into()];
    node.daemon.start().await?;
    let before = passed(node);
    node.check("with the hook", node.entry(web, "hooked", 0, &["/bin/first"]).await?, DENIED);
    node.check("the hook armed it", passed(node) - before, 1);
    let waiting = node.cri.create(web, &Container::new("hooked", &["/bin/first"]), 1).await?;
    let stop = slow(Path::new(GATE), Duration::from_millis(4_000))?;
    configure("closed", 2_000)?;
    let refused = node.cri.create(web, &Container::new("hooked", &["/bin/first"]), 2).await;
    let said = refused.err().map(|status| status.message().to_owned()).unwrap_or_default();
    node.check(&format!("no answer in time: {said}"), said.contains("must not start"), true);
    stop()?;
    configure("closed", 5_000)?;
    node.daemon.end(Signal::SIGKILL)?;
    node.cri.start(&waiting).await?;
    let state = node.cri.wait(&waiting, LONG).await?.context("it does not end")?;
    node.check("created before the daemon died", state.exit, Some(DENIED));
    node.daemon.start().await
}
