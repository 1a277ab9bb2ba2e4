//! What is enforced on real containers, and what goes on being enforced when things go wrong. Each test runs in a fresh
//! guest; see `lab::testing`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::image;
use lab::node::{Alert, Container, RunningContainer};
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
    links_linux_6_1: spec(OLD), links;
    links_linux_6_12: spec(NEW), links;
    volumes_linux_6_1: spec(OLD_KERNEL), volumes;
    volumes_linux_6_12: spec(OLD_RUNTIME), volumes;
    what_is_not_selected_linux_6_12: spec(OLD_RUNTIME), what_is_not_selected;
    host_policies_linux_6_12: spec(NEW), host_policies;
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
    node.daemon.options_mut().arguments.push(format!("--metrics={METRICS}"));
    node.daemon.start().await?;
    let exit = node.exec(&early, "/bin/first").await?.exit;
    node.check("the same, after the daemon has connected", exit, DENIED);
    metrics(node).await?;
    node.check("process of the host, again", on_host()?, Some(OPENED));
    Ok(())
}

/// Where the daemon serves metrics in a guest.
const METRICS: &str = "127.0.0.1:9464";

/// What the daemon tells in numbers is what the kernel did: six denials, one of them under this daemon.
async fn metrics(node: &mut Node) -> Result<()> {
    let denied = |alert: &Alert| alert["ContainerName"] == "early" && alert["Action"] == "Block";
    node.daemon.wait_for_alert(Duration::from_secs(10), denied).await?;
    let get = |path: &str| -> Result<String> {
        let mut stream = TcpStream::connect(METRICS).context("connect to --metrics")?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    node.check("ready", get("/readyz")?.lines().next(), Some("HTTP/1.1 200 OK"));
    let page = get("/metrics")?;
    let value = |line: &str| {
        let told = page.lines().find_map(|told| told.strip_prefix(line)?.strip_prefix(' '));
        told.and_then(|value| value.parse::<f64>().ok())
    };
    let verdict = "nri_enforcer_verdicts_total{namespace=\"default\",policy_namespace=\"default\",\
        policy=\"block-etc-passwd-read\",rule=\"spec.file.matchPaths[0]\",operation=\"File\",action=\"Block\"}";
    node.check("verdicts of this daemon", value(verdict), Some(1.0));
    node.check(
        "denials since the programs were loaded",
        value("nri_enforcer_kernel_operations_total{kind=\"blocked\"}"),
        Some(6.0),
    );
    node.check("events that the ring had no room for", value("nri_enforcer_ring_dropped_total"), Some(0.0));
    node.check(
        "failures in the kernel",
        value("nri_enforcer_kernel_failures_total{place=\"unreadable\"}"),
        Some(0.0),
    );
    let map = |name: &str, map: &str| value(&format!("nri_enforcer_map_{name}{{map=\"{map}\"}}"));
    let armed = value("nri_enforcer_containers{state=\"armed\"}");
    node.check("some container is armed", armed.is_some_and(|count| count >= 2.0), true);
    node.check("as many are in the map", map("entries", "containers") >= armed, true);
    node.check("they have one ruleset together", map("entries", "rulesets"), Some(1.0));
    node.check(
        "there is room",
        (map("limit", "containers"), map("limit", "rulesets")),
        (Some(16_384.0), Some(16_384.0)),
    );
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
    // Arming follows the change; what the runtime is sending in at that moment is judged too, and refused.
    node.check("exec once there is one", becomes_denied(node, &running).await?, true);

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
    learned(node).await
}

/// Where the daemon writes logs in a guest.
const LOGS: &str = "/run/logs.jsonl";

/// What no policy selects can be seen, from its first instruction, and nobody is alerted.
async fn visibility(node: &mut Node) -> Result<()> {
    let seen = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: seen\n  annotations: {kubearmor-visibility: 'process,file'}\n";
    node.daemon.apply("namespace.yaml", seen).await?;
    for namespace in ["seen", "shop"] {
        let pod = node.pod(namespace, "any", &[]).await?;
        let exit = node.entry(&pod, "main", 0, &["/bin/first"]).await?;
        node.check("nothing is denied", exit, OPENED);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let wanted = [("File", "/etc/passwd"), ("Process", "/bin/first")];
    let found = loop {
        let text = std::fs::read_to_string(LOGS).unwrap_or_default();
        let logs = text.lines().filter_map(|line| serde_json::from_str::<Alert>(line).ok());
        let told = |log: Alert| {
            ["Type", "NamespaceName", "Operation", "Resource", "Result"]
                .map(|name| log.get(name).map(self::text).unwrap_or_default())
        };
        let of = |told: &[String; 5]| wanted.iter().any(|(_, resource)| told[3] == *resource);
        let found: BTreeSet<_> = logs.map(told).filter(of).collect();
        if found.len() >= wanted.len() || Instant::now() > deadline {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let log =
        |(operation, resource)| ["ContainerLog", "seen", operation, resource, "Passed"].map(str::to_owned);
    let read = ("File", "/bin/first"); // to be executed
    let found: BTreeSet<_> = found.into_iter().filter(|told| *told != log(read)).collect();
    node.check("logs of the namespace, and of no other", found, wanted.map(log).into());
    let alerts = node.daemon.alerts().await?;
    node.check("alerts", alerts.iter().filter(|alert| alert["NamespaceName"] == "seen").count(), 0);
    Ok(())
}

/// The policy of a container that starts while it is learned lets the same container do the same, and nothing else.
async fn learned(node: &mut Node) -> Result<()> {
    let program = node.daemon.options_mut().program.clone();
    let learning = Command::new(&program)
        .args([
            "learn",
            "policy",
            "--pod",
            "default/learned",
            "--for",
            "5s",
            "--wait",
            "60s",
            "--name",
            "learned",
        ])
        .args(["--file", "/run/learned.yaml", "--test", "/run/learned-test.yaml", "-o", "json"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !node.daemon.whole_log().contains("watched for a policy") && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let labels = [("app", "learned")];
    let pod = node.pod("default", "learned", &labels).await?;
    // the root itself is a path, too
    let group = ["/bin/sh", "-c", "ls / && cat /etc/group"];
    let passwd = ["/bin/sh", "-c", "ls / && cat /etc/passwd"];
    let exit = node.entry(&pod, "main", 0, &group).await?;
    node.check("while it is learned", exit, 0);
    let output = learning.wait_with_output()?;
    println!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    node.check("learn policy", output.status.code(), Some(0));
    let policy = std::fs::read_to_string("/run/learned.yaml").unwrap_or_default();
    println!("{policy}");
    let test = Command::new(&program).args(["test", "/run/learned-test.yaml"]).output()?;
    println!("{}", String::from_utf8_lossy(&test.stdout));
    node.check("its test", test.status.code(), Some(0));
    node.daemon.write_policy(
        "default.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: default\n  annotations:\n    kubearmor-file-posture: block\n    \
         kubearmor-network-posture: block\n    kubearmor-capabilities-posture: block\n",
    )?;
    node.daemon.apply("learned.yaml", &policy).await?;
    for (what, command, wanted) in
        [("the same", group, 0), ("another file", passwd, 1), ("the same, once more", group, 0)]
    {
        let again = node.pod("default", &format!("again-{}", what.len()), &labels).await?;
        let exit = node.entry(&again, "main", 0, &command).await?;
        node.check(what, exit, wanted);
    }
    let exit = node.entry(&pod, "first", 1, &["/bin/first"]).await;
    node.check("another program", exit.is_ok_and(|exit| exit == OPENED), false);
    Ok(())
}

/// An image as distributions make them today: `/bin` is a link to `usr/bin`. A policy that says `/bin/ls` means the
/// program, by whatever name; so does a source. One of a busybox system does not mean every program.
async fn links(node: &mut Node) -> Result<()> {
    let root = std::path::Path::new("/run/merged");
    std::fs::create_dir_all(root.join("usr/bin"))?;
    std::fs::create_dir_all(root.join("etc"))?;
    for name in ["usr/bin/ls", "usr/bin/cat", "usr/bin/busybox", "usr/bin/toybox"] {
        std::fs::write(root.join(name), image::FIRST)?;
        std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(0o755))?;
    }
    for file in ["etc/passwd", "etc/group"] {
        std::fs::write(root.join(file), "root:x:0:0:root:/:/bin/sh\n")?;
    }
    let links = [
        ("bin", "usr/bin"),
        ("usr/bin/vi", "busybox"),
        ("usr/bin/more", "busybox"),
        ("usr/bin/ed", "toybox"),
    ];
    for (link, target) in links {
        std::os::unix::fs::symlink(target, root.join(link))?;
    }
    std::fs::write("/run/merged.tar", image::user_root(root)?)?;
    node.runtime.import("/run/merged.tar")?;

    let policy = |body: &str| {
        format!(
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: links, namespace: default}}\n\
             spec:\n  selector: {{matchLabels: {{app: my-web-app}}}}\n{body}"
        )
    };
    let programs = "  process: {matchPaths: [{path: /bin/ls}, {path: /bin/vi}, {path: /bin/ed}]}\n  \
                    file: {matchPaths: [{path: /etc/passwd, fromSource: [{path: /bin/cat}]}]}\n";
    node.daemon.apply("policy.yaml", &policy(programs)).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let merged = Container { image: image::USER_IMAGE.into(), privileged: true, ..Container::idle("merged") };
    let running = node.cri.create(&web, &merged, 0).await?;
    node.cri.start(&running).await?;
    // runtimes report a program that may not be executed in their own ways
    const NOT_EXECUTED: i32 = 126;
    let outcome = |exit| if [OPENED, DENIED].contains(&exit) { exit } else { NOT_EXECUTED };
    for (program, wanted, what) in [
        ("/bin/ls", NOT_EXECUTED, "the program by the policy's name"),
        ("/usr/bin/ls", NOT_EXECUTED, "the program by the kernel's name"),
        ("/proc/self/root/bin/ls", NOT_EXECUTED, "the program by another way"),
        ("/usr/bin/cat", DENIED, "what the source may not open"),
        ("/bin/cat", DENIED, "the same by the policy's name"),
        ("/bin/vi", NOT_EXECUTED, "one name of a program of many, by the policy's name"),
        ("/usr/bin/vi", NOT_EXECUTED, "the same by the kernel's name"),
        ("/bin/busybox", OPENED, "a program of many names"),
        ("/bin/more", OPENED, "another of its names"),
    ] {
        let exit = node.exec(&running, program).await?.exit;
        node.check(what, outcome(exit), wanted);
    }
    let alerts =
        node.daemon.wait_for_alert(Duration::from_secs(10), |a| a["Resource"] == "/usr/bin/ls").await?;
    let alert = alerts.iter().find(|a| a["Resource"] == "/usr/bin/ls").context("no alert")?;
    node.check("the alert's rule", text(&alert["Rule"]), "spec.process.matchPaths[0]".to_owned());
    node.check("the alert has both names", text(&alert["Data"]).contains("written=\"/bin/ls\""), true);
    let log = node.daemon.whole_log();
    node.check("the log tells the link", log.contains("/bin/ls (resolves to /usr/bin/ls)"), true);
    node.check("the log tells what is not followed", log.contains("program of many names"), true);

    // again when the policies change
    node.daemon
        .apply("policy.yaml", &policy("  process: {matchPaths: [{path: /bin/more}, {path: /bin/cat}]}\n"))
        .await?;
    for (program, wanted) in [("/usr/bin/ls", OPENED), ("/usr/bin/cat", NOT_EXECUTED)] {
        let exit = node.exec(&running, program).await?.exit;
        node.check(&format!("{program} under other policies"), outcome(exit), wanted);
    }
    Ok(())
}

/// A volume as kubelet makes it: `token -> ..data/token`, `..data ->` the directory of the day. A rule about the token
/// holds before and after it is rotated; so do a rule about the directory, and one that allows.
async fn volumes(node: &mut Node) -> Result<()> {
    let volume = std::path::Path::new("/run/volume");
    let rotate = |day: &str| -> Result<()> {
        std::fs::create_dir_all(volume.join(day))?;
        for file in ["token", "ca.crt"] {
            std::fs::write(volume.join(day).join(file), format!("{file} of {day}\n"))?;
        }
        std::os::unix::fs::symlink(day, volume.join("..data_tmp"))?;
        let before = std::fs::read_link(volume.join("..data")).ok();
        std::fs::rename(volume.join("..data_tmp"), volume.join("..data"))?;
        before.map_or(Ok(()), |before| std::fs::remove_dir_all(volume.join(before)))?;
        Ok(())
    };
    rotate("..2026_11_22_10_00_00.1")?;
    for file in ["token", "ca.crt"] {
        std::os::unix::fs::symlink(format!("..data/{file}"), volume.join(file))?;
    }
    let seen = "/var/run/secrets/kubernetes.io/serviceaccount";
    let policy = |rules: &str| {
        format!(
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: token, namespace: default}}\n\
             spec:\n  selector: {{matchLabels: {{app: my-web-app}}}}\n  file:\n    {rules}\n"
        )
    };
    node.daemon.apply("policy.yaml", &policy(&format!("matchPaths: [{{path: {seen}/token}}]"))).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let mounts = vec![(volume.to_string_lossy().into_owned(), seen.to_owned())];
    let container = Container { mounts, ..Container::idle("main") };
    let running = node.cri.create(&web, &container, 0).await?;
    node.cri.start(&running).await?;

    let mut day = 22;
    // (rules, what is denied, what is not)
    let by_directory = format!("matchDirectories: [{{dir: {seen}/}}]");
    for (rules, denied, open) in
        [(None, &["token"][..], &["ca.crt"][..]), (Some(by_directory.as_str()), &["token", "ca.crt"], &[])]
    {
        if let Some(rules) = rules {
            node.daemon.apply("policy.yaml", &policy(rules)).await?;
        }
        for when in ["before", "after one", "after two"] {
            for (files, wanted) in [(denied, 1), (open, 0)] {
                for file in files {
                    let exit = node.exec(&running, &format!("cat {seen}/{file}")).await?.exit;
                    node.check(&format!("{file} {when}, {}", rules.unwrap_or("by its path")), exit, wanted);
                }
            }
            day += 1;
            rotate(&format!("..2026_11_{day}_10_00_00.{day}"))?;
        }
    }
    let alerts = node
        .daemon
        .wait_for_alert(Duration::from_secs(10), |a| text(&a["Resource"]).ends_with("/token"))
        .await?;
    let written = format!("written=\"{seen}/token\"");
    node.check(
        "alerts name the path of the policy",
        alerts.iter().any(|a| text(&a["Data"]).contains(&written)),
        true,
    );
    Ok(())
}

const HOST: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {name: no-users}\n\
    spec:\n  nodeSelector: {matchLabels: {kubernetes.io/os: linux, rack: a}}\n  file: {matchPaths: [{path: /etc/passwd}]}\n  \
    action: Block\n";

/// A host policy is about processes of the host, and about no container; and a change that locks out ends by itself.
async fn host_policies(node: &mut Node) -> Result<()> {
    let plain = node.pod("default", "plain", &[]).await?;
    let older = node.idle(&plain, "older").await?;
    // this daemon has no label of its own
    node.daemon.write_policy("host.yaml", &HOST.replace(", rack: a", ""))?;
    let known = becomes_known(node)?;
    node.check("a daemon that is not to enforce it knows it", known, true);
    node.check("and leaves the host alone", on_host()?, Some(OPENED));
    node.daemon.end(Signal::SIGTERM)?;
    node.daemon.write_policy("host.yaml", HOST)?;
    let containerd = which("containerd")?;
    let (exempt, logs) = (format!("--host-exempt={containerd}"), format!("--logs={LOGS}"));
    let arguments = ["--host-policies", "--node-label=rack=a", &exempt, &logs];
    node.daemon.options_mut().arguments.extend(arguments.map(str::to_owned));
    node.daemon.start().await?;
    node.check("process of the host", host_becomes(DENIED)?, true);
    let alerts = node
        .daemon
        .wait_for_alert(Duration::from_secs(10), |alert| alert["Type"] == "MatchedHostPolicy")
        .await?;
    let alert =
        alerts.iter().rev().find(|alert| alert["Type"] == "MatchedHostPolicy").cloned().unwrap_or_default();
    let told =
        ["PolicyName", "Resource", "Action", "PodName", "NamespaceName", "ContainerID", "ContainerName"];
    node.check(
        "its alert",
        told.map(|name| alert.get(name).map(text).unwrap_or_default()),
        ["no-users", "/etc/passwd", "Block", "", "", "", ""].map(str::to_owned),
    );
    node.check("names the host", alert.get("HostName").map(text).unwrap_or_default().is_empty(), false);

    // Containers: one from before, its next process, another one of the same pod, and one that has a policy of its own.
    let exit = node.exec(&older, "/bin/first").await?.exit;
    node.check("exec in a container that no policy selects, from before", exit, OPENED);
    let exit = node.entry(&plain, "newer", 0, &["/bin/first"]).await?;
    node.check("entry of a container that no policy selects", exit, OPENED);
    let newer = node.idle(&plain, "idle").await?;
    let exit = node.exec(&newer, "/bin/first").await?.exit;
    node.check("exec in it", exit, OPENED);
    node.daemon.apply("policy.yaml", &POLICY.replace("- path: /etc/passwd", "- path: /etc/group")).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let own = node.idle(&web, "own").await?;
    let exit = node.exec(&own, "/bin/first").await?.exit;
    node.check("exec in a container with a policy of its own", exit, OPENED);
    let exit = node.exec(&own, "cat /etc/group").await?.exit;
    node.check("what that denies", exit, 1);
    visibility(node).await?;

    // The daemon dies; a change that is not confirmed does not outlive it.
    let program = node.daemon.options_mut().program.clone();
    let ask = |what: &[&str]| Command::new(&program).args(what).stdin(std::process::Stdio::null()).output();
    std::fs::write("/tmp/host.yaml", HOST.replace("/etc/passwd", "/etc/group"))?;
    let mut waiting = Command::new(&program)
        .args(["apply", "--confirm-within", "1h", "/tmp/host.yaml"])
        .stdin(std::process::Stdio::null())
        .spawn()?;
    node.check("the change is in force", host_becomes(OPENED)?, true);
    node.daemon.end(Signal::SIGKILL)?;
    node.check("the command ends", waiting.wait()?.code(), Some(3));
    let reads = |path: &str| Command::new("cat").arg(path).output().map(|output| output.status.success());
    node.check("what is in force stays", (on_host()?, reads("/etc/group")?), (Some(OPENED), false));
    node.daemon.start().await?;
    node.check("it is reverted", host_becomes(DENIED)?, true);
    let confirm = ask(&["apply", "--confirm-within", "2s", "/tmp/host.yaml"])?;
    node.check("a change that nobody confirms", confirm.status.code(), Some(3));
    node.check("is reverted in time", host_becomes(DENIED)?, true);
    let status = ask(&["status", "-o", "json"])?;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
    let host = status.get("containers").and_then(serde_json::Value::as_array);
    let host = host.and_then(|all| all.iter().find(|one| one.get("host").is_some_and(|host| host == true)));
    let host = host.cloned().unwrap_or_default();
    node.check(
        "status",
        (host.get("state").map(text).unwrap_or_default(), host.get("policies").cloned().unwrap_or_default()),
        ("armed".into(), serde_json::json!(["no-users"])),
    );

    node.daemon.remove_policy("host.yaml")?;
    node.check("lifted", host_becomes(OPENED)?, true);
    Ok(())
}

/// Waits up to half a minute until the daemon says that there is one host policy, and that it does not enforce it.
fn becomes_known(node: &mut Node) -> Result<bool> {
    let program = node.daemon.options_mut().program.clone();
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        let status = Command::new(&program).args(["status", "-o", "json"]).output()?;
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        if status.pointer("/daemon/host/notEnforced").and_then(serde_json::Value::as_u64) == Some(1) {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(false)
}

/// Waits up to half a minute until a process of the host ends so.
fn host_becomes(exit: i32) -> Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if on_host()? == Some(exit) {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(false)
}

fn which(program: &str) -> Result<String> {
    let output = Command::new("sh").args(["-c", &format!("readlink -f $(command -v {program})")]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
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
