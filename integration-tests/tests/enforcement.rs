//! What is enforced on real containers, and what goes on being enforced when things go wrong. Each test runs in a fresh
//! guest; see `lab::testing`.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::image;
use lab::node::RunningContainer;
use lab::testing::{Node, in_guest};
use lab::vm::{Containerd, Kernel, Spec};
use nix::sys::signal::Signal;

const POLICY: &str = include_str!("../../examples/policies/block-etc-passwd-read.yaml");
/// What the policy selects.
const LABEL: (&str, &str) = ("app", "my-web-app");
/// What `first` exits with: EACCES, and success.
const DENIED: i32 = 13;
const OPENED: i32 = 0;

/// A test for each machine: `name: spec, body;`.
macro_rules! guest_tests {
    ($($name:ident: $spec:expr, $body:ident;)*) => {$(
        #[test]
        fn $name() -> Result<()> {
            in_guest(stringify!($name), &$spec, true, |node| Box::pin($body(node)))
        }
    )*};
}

const fn node(kernel: Kernel, containerd: Containerd) -> (Kernel, Containerd) {
    (kernel, containerd)
}

fn spec((kernel, containerd): (Kernel, Containerd)) -> Spec {
    Spec::node(kernel, containerd)
}

const OLD: (Kernel, Containerd) = node(Kernel::V6_1, Containerd::V1_7);
const OLD_KERNEL: (Kernel, Containerd) = node(Kernel::V6_1, Containerd::V2_1);
const OLD_RUNTIME: (Kernel, Containerd) = node(Kernel::V6_12, Containerd::V1_7);
const NEWEST: (Kernel, Containerd) = node(Kernel::Newest, Containerd::V2_1);
const NEW: (Kernel, Containerd) = node(Kernel::V6_12, Containerd::V2_1);

guest_tests! {
    first_instruction_linux_6_1_containerd_1_7: spec(OLD), first_instruction;
    first_instruction_linux_6_1_containerd_2_1: spec(OLD_KERNEL), first_instruction;
    first_instruction_linux_6_12_containerd_1_7: spec(OLD_RUNTIME), first_instruction;
    first_instruction_linux_6_12_containerd_2_1: spec(NEW), first_instruction;
    first_instruction_linux_newest_containerd_2_1: spec(NEWEST), first_instruction;
    daemon_killed_linux_6_1: spec(OLD), daemon_killed;
    daemon_killed_linux_6_12: spec(NEW), daemon_killed;
    daemon_stalled_linux_6_12: spec(NEW), daemon_stalled;
    containerd_killed_1_7: spec(OLD_RUNTIME), containerd_killed;
    containerd_killed_2_1: spec(OLD_KERNEL), containerd_killed;
    policies_changed_under_load_linux_6_1: spec(OLD_KERNEL), policies_changed_under_load;
    policies_changed_under_load_linux_6_12: spec(OLD_RUNTIME), policies_changed_under_load;
    evasion_linux_6_1: spec(OLD), evasion;
    evasion_linux_6_12: spec(NEW), evasion;
    full_preemption_linux_6_1: Spec { append: "preempt=full".into(), ..spec(OLD) }, full_preemption;
    what_is_not_selected_linux_6_12: spec(OLD_RUNTIME), what_is_not_selected;
}

/// Every way in which a program gets into a container is judged from its first system call; all else is left alone.
async fn first_instruction(node: &mut Node) -> Result<()> {
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    for (name, attempt, what) in [
        ("prepare", 0, "init container"),
        ("main", 0, "entry"),
        ("second", 0, "second container of the pod"),
        ("main", 1, "container restarted in the same pod"),
    ] {
        let exit = node.entry(&web, name, attempt, &["/bin/first"]).await?;
        node.check(what, exit, DENIED);
    }
    let running = node.idle(&web, "running").await?;
    let output = node.exec(&running, "/bin/first").await?;
    node.check("exec", (output.exit, output.stdout.as_str()), (DENIED, "DENIED\n"));
    let other = node.exec(&running, "cat /etc/group").await?.exit;
    node.check("exec that opens what no rule names", other, 0);

    let alerts =
        node.daemon.wait_for_alert(Duration::from_secs(10), |a| a["ContainerName"] == "running").await?;
    let mut found: Vec<_> = alerts
        .iter()
        .map(|a| {
            [&a["ContainerName"], &a["PolicyName"], &a["Rule"], &a["Resource"], &a["Source"], &a["Action"]]
                .map(text)
        })
        .collect();
    found.sort();
    let alert = |name: &str| {
        [name, "block-etc-passwd-read", "spec.file.matchPaths[0]", "/etc/passwd", "/bin/first", "Block"]
            .map(str::to_owned)
    };
    node.check("alerts", found, ["main", "main", "prepare", "running", "second"].map(alert).to_vec());

    let plain = node.pod("default", "plain", &[]).await?;
    let exit = node.entry(&plain, "main", 0, &["/bin/first"]).await?;
    node.check("pod without the label", exit, OPENED);
    node.check("process of the host", on_host()?, Some(OPENED));

    // A container that was there before the plugin. The daemon's end disarms nothing and protects nothing new.
    node.daemon.end(Signal::SIGTERM)?;
    let early = node.idle(&web, "early").await?;
    let exit = node.exec(&early, "/bin/first").await?.exit;
    node.check("container started while there is no daemon (control)", exit, OPENED);
    node.daemon.start().await?;
    let exit = node.exec(&early, "/bin/first").await?.exit;
    node.check("the same, after the daemon has connected", exit, DENIED);
    node.check("process of the host, again", on_host()?, Some(OPENED));
    Ok(())
}

/// SIGKILL: what is armed stays denied; a new daemon takes over, and its policies count.
async fn daemon_killed(node: &mut Node) -> Result<()> {
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let running = node.idle(&web, "running").await?;
    // A program that is inside all the while, through the daemon's death and the next one's start.
    let cri = node.cri.clone();
    let inside = running.clone();
    let loops = tokio::spawn(async move {
        let command = ["/bin/probe", "loop", "25", "1"].map(str::to_owned);
        cri.exec(&inside, &command, Duration::from_secs(90)).await
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    node.daemon.end(Signal::SIGKILL)?;
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec with the daemon dead", exit, DENIED);
    node.daemon.start().await?;
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec with the next daemon", exit, DENIED);
    let output = loops.await??;
    let opened = output.stdout.trim().rsplit_once(' ').map(|(_, n)| n.to_owned());
    println!("{}", output.stdout.trim());
    node.check("opens of the program inside", opened.as_deref(), Some("0"));
    let before = node.daemon.policy_changes();
    node.daemon.remove_policy("policy.yaml")?;
    node.daemon.wait_for_change(before).await?;
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec after the next daemon was told to lift the policy", exit, OPENED);
    Ok(())
}

/// SIGSTOP: the runtime waits for its limit, then goes on without the plugin. What is armed stays denied; what is started
/// meanwhile is not protected until the daemon is back, and then it is.
async fn daemon_stalled(node: &mut Node) -> Result<()> {
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let running = node.idle(&web, "running").await?;
    node.daemon.signal(Signal::SIGSTOP)?;
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec in an armed container", exit, DENIED);
    let begin = Instant::now();
    let late = node.idle(&web, "late").await?;
    node.check("a start waits for the runtime's limit", begin.elapsed() > Duration::from_secs(9), true);
    let exit = node.exec(&late, "/bin/first").await?.exit;
    node.check("exec in a container started meanwhile, as documented", exit, OPENED);
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec in the armed container, after the runtime has dropped the plugin", exit, DENIED);
    node.daemon.signal(Signal::SIGCONT)?;
    node.check(
        "the late container is armed once the daemon is back",
        becomes_denied(node, &late).await?,
        true,
    );
    let exit = node.entry(&web, "next", 0, &["/bin/first"]).await?;
    node.check("entry of the next container", exit, DENIED);
    Ok(())
}

/// containerd killed and started again: the daemon reconnects; old and new containers are denied.
async fn containerd_killed(node: &mut Node) -> Result<()> {
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let running = node.idle(&web, "running").await?;
    node.runtime.kill()?;
    node.runtime.start()?;
    node.cri = node.runtime.cri().await?;
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec in a container from before", exit, DENIED);
    node.check("the daemon runs", node.daemon.runs(), true);
    let next = node.pod("default", "next", &[LABEL]).await?;
    let late = node.idle(&next, "late").await?;
    node.check(
        "a new container is armed, at the latest when the plugin is back",
        becomes_denied(node, &late).await?,
        true,
    );
    let exit = node.entry(&next, "main", 0, &["/bin/first"]).await?;
    node.check("entry of a new container", exit, DENIED);
    Ok(())
}

/// Changes reach running programs at once and whole: two versions of a policy each deny one of two files, and never is
/// neither or both denied.
async fn policies_changed_under_load(node: &mut Node) -> Result<()> {
    let denies = |path: &str| POLICY.replace("- path: /etc/passwd", &format!("- path: {path}"));
    let web = node.pod("default", "web", &[LABEL]).await?;
    let running = node.idle(&web, "running").await?;
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec before there is a policy", exit, OPENED);
    node.daemon.apply("policy.yaml", &denies("/etc/passwd")).await?;
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("exec once there is one", exit, DENIED);

    let cri = node.cri.clone();
    let inside = running.clone();
    let swaps = tokio::spawn(async move {
        let command = ["/bin/probe", "swap", "/etc/passwd", "/etc/group", "15"].map(str::to_owned);
        cri.exec(&inside, &command, Duration::from_secs(90)).await
    });
    let mut changes = 0;
    // to an odd number of changes, so that the next one below is a change too
    while !swaps.is_finished() || changes % 2 == 0 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        changes += 1;
        let path = if changes % 2 == 0 { "/etc/passwd" } else { "/etc/group" };
        node.daemon.apply("policy.yaml", &denies(path)).await?;
    }
    let output = swaps.await??.stdout;
    println!("{changes} changes: {}", output.trim());
    let counts: Vec<u64> = output.split(' ').filter_map(|w| w.trim().parse().ok()).collect();
    let [passwd, group, both, neither] = counts.try_into().ok().context("the probe's counts")?;
    node.check("each version was seen at work", passwd > 0 && group > 0 && changes > 3, true);
    node.check("half a policy (both, neither)", (both, neither), (0, 0));

    node.daemon.apply("policy.yaml", POLICY).await?;
    node.daemon.write_policy(
        "bad.yaml",
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nspec: [nonsense\n",
    )?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !node.daemon.whole_log().contains("bad.yaml") && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let located = node.daemon.whole_log().lines().any(|l| l.contains("bad.yaml:"));
    node.check("a bad file is reported with its place", located, true);
    let exit = node.exec(&running, "/bin/first").await?.exit;
    node.check("the good policy beside it stays in force", exit, DENIED);
    Ok(())
}

/// No trick of a privileged container shakes a policy off. Without a policy each of them works: they are real attempts.
async fn evasion(node: &mut Node) -> Result<()> {
    node.daemon.apply("policy.yaml", POLICY).await?;
    for (name, labels, wanted) in [("control", &[][..], "opened"), ("web", &[LABEL], "denied")] {
        let pod = node.pod("default", name, labels).await?;
        let container = node.idle(&pod, "main").await?;
        let output = node.exec(&container, "/bin/probe evade").await?;
        let lines: Vec<_> = output.stdout.lines().filter_map(|l| l.split_once('\t')).collect();
        for (attempt, result) in &lines {
            node.check(&format!("{name}: {attempt}"), *result, wanted);
        }
        node.check("attempts", lines.len(), 22);
        if !output.stderr.is_empty() {
            println!("{}", output.stderr.trim());
        }
    }
    Ok(())
}

/// 6.1 with full preemption loses look-ups in task storage; nothing may get through there. Eight processes, two CPUs.
async fn full_preemption(node: &mut Node) -> Result<()> {
    let modes = std::fs::read_to_string("/sys/kernel/debug/sched/preempt").or_else(|_| {
        Command::new("mount").args(["-t", "debugfs", "debugfs", "/sys/kernel/debug"]).status()?;
        std::fs::read_to_string("/sys/kernel/debug/sched/preempt")
    })?;
    node.check("the kernel preempts fully", modes.contains("(full)"), true);
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let running = node.idle(&web, "running").await?;
    let output = node.exec(&running, "/bin/probe loop 20 8").await?.stdout;
    println!("{}", output.trim());
    let counts: Vec<u64> = output.split(' ').filter_map(|w| w.trim().parse().ok()).collect();
    let [denied, opened] = counts.try_into().ok().context("the probe's counts")?;
    node.check("opened", opened, 0);
    node.check("denied often enough to mean something", denied > 10_000, true);
    Ok(())
}

/// Exempt namespaces, other namespaces, other containers: left alone.
async fn what_is_not_selected(node: &mut Node) -> Result<()> {
    node.daemon
        .write_policy("system.yaml", &POLICY.replace("namespace: default", "namespace: kube-system"))?;
    node.daemon.apply("policy.yaml", POLICY).await?;
    for (namespace, wanted) in [("kube-system", OPENED), ("shop", OPENED), ("default", DENIED)] {
        let pod = node.pod(namespace, "web", &[LABEL]).await?;
        let exit = node.entry(&pod, "main", 0, &["/bin/first"]).await?;
        node.check(&format!("labelled pod in namespace {namespace}"), exit, wanted);
    }
    Ok(())
}

/// Waits up to half a minute until the container is denied.
async fn becomes_denied(node: &Node, container: &RunningContainer) -> Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if node.exec(container, "/bin/first").await?.exit == DENIED {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(false)
}

/// Runs `first` outside any container.
fn on_host() -> Result<Option<i32>> {
    let path = "/tmp/first";
    if !std::path::Path::new(path).exists() {
        std::fs::write(path, image::FIRST)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(Command::new(path).output()?.status.code())
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
