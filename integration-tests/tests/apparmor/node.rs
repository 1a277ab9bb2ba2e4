//! Profiles on a node: a real containerd, whose pods name profiles that the daemon makes.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::cache;
use lab::corpus::compare::Lock;
use lab::corpus::record::{BackEnd, check};
use lab::node::{Alert, Container, Daemon, Options, Pod, RunningContainer, RunningPod};
use lab::testing::{Node, in_guest_with_program};
use lab::vm::{Containerd, Kernel, Spec};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::podman;

pub(super) const POLICY: &str = include_str!("../../../examples/policies/block-etc-passwd-read.yaml");
pub(super) const LABEL: (&str, &str) = ("app", "my-web-app");
pub(super) const PROFILE: &str = "nri-enforcer.default.web";
/// Beside the one above, by native rules alone.
const NATIVE: &str = "
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: native, namespace: default}
spec:
  selector: {matchLabels: {app: my-web-app}}
  apparmor: |
    audit deny /etc/group r,
";

#[test]
fn apparmor_holds_the_rules_of_real_containers() -> Result<()> {
    let spec = Spec::node(Kernel::V6_12, Containerd::V1_7);
    let parser = || Ok(cache::artefact("apparmor")?.join("apparmor_parser"));
    let files: [lab::testing::File; 3] =
        [("apparmor_parser", parser), ("hook", lab::run::hook), ("podman.tar", podman::packed)];
    let name = "node::apparmor_holds_the_rules_of_real_containers";
    let said = in_guest_with_program(name, &spec, &files, |node| {
        Box::pin(async move {
            let mut daemon = with_apparmor(node).await?;
            primary(node, &mut daemon).await.with_context(|| daemon.log())?;
            podman::containers(node, &mut daemon).await.with_context(|| daemon.log())?;
            corpora(&mut daemon).await.with_context(|| daemon.log())?;
            beside_bpf(node, &mut daemon).await.with_context(|| daemon.log())
        })
    })?;
    let Some(said) = said else { return Ok(()) };
    [BackEnd::PodmanAppArmor, BackEnd::PodmanBpf].into_iter().try_for_each(|back_end| check(back_end, &said))
}

/// The corpus under podman, with each lock that the guest has.
async fn corpora(daemon: &mut Daemon) -> Result<()> {
    podman::compared(daemon, Lock::AppArmor).await?;
    daemon.end(Signal::SIGTERM)?;
    daemon.options_mut().arguments = ["--lsm-order", "bpf"].map(str::to_owned).to_vec();
    daemon.start().await?;
    podman::compared(daemon, Lock::Bpf).await
}

/// A daemon that does nothing yet, on a node that uses AppArmor.
pub(super) async fn with_apparmor(node: &mut Node) -> Result<Daemon> {
    node.use_apparmor("apparmor_parser".as_ref()).await?;
    let arguments = ["--lsm-order", "apparmor"].map(str::to_owned).to_vec();
    let options = Options { program: "./nri-enforcer".into(), postures: vec![], arguments };
    Daemon::new("/run/apparmor-daemon".as_ref(), options)
}

/// A pod that names the profile for each of these containers.
pub(super) async fn pod(node: &Node, name: &str, containers: &[&str]) -> Result<RunningPod> {
    let mut pod = Pod::new(name, &[LABEL], Container::idle("any"));
    for container in containers {
        let key = format!("container.apparmor.security.beta.kubernetes.io/{container}");
        pod.annotations.insert(key, format!("localhost/{PROFILE}"));
    }
    Ok(node.cri.run_pod(&pod).await?)
}

pub(super) async fn started(
    node: &Node,
    pod: &RunningPod,
    container: &Container,
) -> Result<RunningContainer> {
    let created = node.cri.create(pod, container, 0).await?;
    node.cri.start(&created).await?;
    Ok(created)
}

pub(super) fn with_profile(container: Container) -> Container {
    Container { apparmor: Some(PROFILE.to_owned()), ..container }
}

/// What `status` says of a container, and its exit code.
pub(super) fn status(container: &str) -> Result<(Value, Value, Option<i32>)> {
    let output = std::process::Command::new("./nri-enforcer").args(["status", "-o", "json"]).output()?;
    let document: Value = serde_json::from_slice(&output.stdout).context("status")?;
    let all = document["containers"].as_array().context("containers")?;
    let one = all.iter().find(|one| one["container"] == container).with_context(|| container.to_owned())?;
    Ok((one.clone(), document["daemon"].clone(), output.status.code()))
}

/// What `explain` says of an access of a container: verdict, policy, lock, and the verdict as written where that is another.
fn explain(pod: &str, container: &str, access: &str) -> Result<[Value; 4]> {
    let output = std::process::Command::new("./nri-enforcer")
        .args(["explain", "-o", "json", "--pod", pod, "--container", container, "--access", access])
        .output()?;
    let told: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok(["/verdict", "/policy", "/lock", "/asWritten/verdict"]
        .map(|at| told.pointer(at).cloned().unwrap_or_default()))
}

/// What `top` says: how often the container `with` was denied something, once it was denied that again while `top` looks;
/// and whether the program that did so has a cost.
async fn top(node: &Node, with: &RunningContainer) -> Result<(Option<u64>, bool)> {
    let top = std::process::Command::new("./nri-enforcer")
        .args(["top", "--once", "-o", "json", "--interval", "10s"])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    node.exec(with, "/bin/first").await?;
    let output = tokio::task::spawn_blocking(|| top.wait_with_output()).await??;
    let told: Value = serde_json::from_slice(&output.stdout).context("top")?;
    let all = |key: &str| told[key].as_array().cloned().unwrap_or_default();
    let row = all("denials").into_iter().find(|row| {
        row["container"] == "with" && row["policy"] == "block-etc-passwd-read" && row["action"] == "Block"
    });
    let opens = |one: &Value| {
        let number = |key: &str| one[key].as_f64().unwrap_or_default();
        one["section"] == "lsm/file_open" && number("callsPerSecond") > 0.0 && number("meanNanoseconds") > 0.0
    };
    let measured = all("programs").iter().any(opens) && told["cpu"].as_f64().is_some_and(|cpu| cpu > 0.0);
    println!("{told:#}");
    Ok((row.and_then(|row| row["total"].as_u64()), measured))
}

/// The alert of what a container was denied, or did, that AppArmor told of, about what begins so: its policy, rule, action
/// and pod.
pub(super) async fn told(daemon: &Daemon, container: &str, resource: &str) -> Result<[Value; 4]> {
    let about = |one: &Alert| {
        one["ContainerName"] == container
            && one["Enforcer"] == "AppArmor"
            && one["Resource"].as_str().is_some_and(|told| told.starts_with(resource))
    };
    let alerts = daemon.wait_for_alert(Duration::from_secs(20), about).await?;
    let one = alerts.iter().find(|one| about(one));
    let all = || alerts.iter().filter(|one| one["Enforcer"] == "AppArmor").count();
    let one = one.with_context(|| format!("no alert about {resource} of {container} among {}", all()))?;
    println!("{one}");
    Ok(["PolicyName", "Rule", "Action", "PodName"].map(|key| one[key].clone()))
}

/// A shell is denied a file, and is there a moment longer: of several containers with one profile it is known whose it is.
async fn denied(node: &Node, container: &RunningContainer, path: &str) -> Result<()> {
    let script = format!("read -r x < {path}; sleep 3");
    let command = ["sh", "-c", &script].map(str::to_owned);
    node.cri.exec(container, &command, Duration::from_secs(90)).await?;
    Ok(())
}

fn profiles() -> String {
    fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default()
}

async fn primary(node: &mut Node, daemon: &mut Daemon) -> Result<()> {
    daemon.write_policy("policy.yaml", POLICY)?;
    daemon.start().await?;
    let web = pod(node, "web", &["main", "idle"]).await?;
    let main = started(node, &web, &with_profile(Container::new("main", &["/bin/first"]))).await?;
    let exit = node.cri.wait(&main, Duration::from_secs(60)).await?.and_then(|state| state.exit);
    node.check("the first instruction of a container that names the profile", exit, Some(13));
    let idle = started(node, &web, &with_profile(Container::idle("idle"))).await?;
    node.check("an exec in another one", node.exec(&idle, "/bin/first").await?.exit, 13);
    node.check("what no rule names", node.exec(&idle, "cat /etc/group").await?.exit, 0);
    denied(node, &idle, "/etc/passwd").await?;
    let rule = "spec.file.matchPaths[0]";
    node.check(
        "the alert of what it was denied",
        told(daemon, "idle", "/etc/passwd").await?,
        ["block-etc-passwd-read", rule, "Block", "web"].map(Value::from),
    );
    let (told, of_daemon, _) = status("idle")?;
    node.check("its state", told["state"].as_str(), Some("armed"));
    node.check("its profile", told["apparmor"].as_str(), Some(PROFILE));
    node.check(
        "who holds its rules",
        told["held"]["apparmor"][0].as_str(),
        Some("default/block-etc-passwd-read"),
    );
    node.check("the lock", of_daemon["lock"].as_str(), Some("apparmor"));

    let answer =
        |verdict: &str, policy: Value, lock: Value, written: Value| [verdict.into(), policy, lock, written];
    let policy = || Value::from("block-etc-passwd-read");
    let read = "file:read:/etc/passwd";
    node.check(
        "what explain says of it",
        explain("default/web", "idle", read)?,
        answer("block", policy(), "apparmor".into(), Value::Null),
    );

    // a container of the same pod that does not name it
    let without = started(node, &web, &Container::idle("without")).await?;
    node.check("an exec without the profile", node.exec(&without, "/bin/first").await?.exit, 0);
    let (told, _, code) = status("without")?;
    let reason = told["reason"].as_str().unwrap_or_default().to_owned();
    node.check("its state", (told["state"].as_str(), code), (Some("notCovered"), Some(1)));
    node.check("what to do", reason.contains("localhostProfile: nri-enforcer.default.NAME"), true);
    node.check(
        "what explain says of it",
        explain("default/web", "without", read)?,
        answer("allow", Value::Null, Value::Null, "block".into()),
    );
    let alerts = daemon.alerts().await?;
    let unprotected = alerts.iter().any(|a| {
        a["ContainerName"] == "without" && a["Data"].as_str().is_some_and(|d| d.contains("unprotected"))
    });
    node.check("an alert about it", unprotected, true);
    node.cri.stop(&without).await?;
    node.cri.remove(&without).await?;
    // one whose pod does not say so beforehand finds no profile
    let other = Container { apparmor: Some("nri-enforcer.default.other".into()), ..Container::idle("other") };
    let refused = node.cri.create(&web, &other, 0).await.err().map(|status| status.message().to_owned());
    let refused = refused.is_some_and(|why| why.contains("apparmor profile not found"));
    node.check("a profile that nothing announced refuses the creation", refused, true);

    exchanged(node, daemon, &idle).await?;
    restarted(node, daemon, &idle).await?;

    node.cri.remove_pod(&web).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    daemon.apply("policy.yaml", &POLICY.replace("/etc/passwd", "/etc/hosts")).await?;
    let deadline = Instant::now() + Duration::from_secs(45);
    while profiles().contains(PROFILE) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.check("a profile that nobody has is removed", profiles().contains(PROFILE), false);
    node.check("that of the runtime stays", profiles().contains("cri-containerd.apparmor.d"), true);
    Ok(())
}

/// Policies that deny one file each take turns: at no moment are both open, or both denied.
async fn exchanged(node: &mut Node, daemon: &Daemon, idle: &RunningContainer) -> Result<()> {
    let (cri, inside) = (node.cri.clone(), idle.clone());
    let swaps = tokio::spawn(async move {
        let command = ["/bin/probe", "swap", "/etc/passwd", "/etc/group", "4"].map(str::to_owned);
        cri.exec(&inside, &command, Duration::from_secs(90)).await
    });
    let mut changes = 0;
    while !swaps.is_finished() || changes % 2 == 1 {
        changes += 1;
        let path = if changes % 2 == 1 { "/etc/group" } else { "/etc/passwd" };
        daemon.apply("policy.yaml", &POLICY.replace("/etc/passwd", path)).await?;
    }
    let output = swaps.await??.stdout;
    println!("{changes} changes: {}", output.trim());
    let words: Vec<&str> = output.split_whitespace().collect();
    let count = |name: &str| {
        words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)?.parse::<u64>().ok())
    };
    node.check("neither was denied", count("neither"), Some(0));
    node.check("both were denied", count("both"), Some(0));
    let seen = count("a").is_some_and(|n| n > 0) && count("b").is_some_and(|n| n > 0);
    node.check("each was denied at some time", seen, true);
    Ok(())
}

/// What is loaded outlives the daemon; the next one knows who has it.
async fn restarted(node: &mut Node, daemon: &mut Daemon, idle: &RunningContainer) -> Result<()> {
    // the last change was read; when it is in force is a moment later
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.exec(idle, "/bin/first").await?.exit != 13 && Instant::now() < deadline {}
    daemon.end(Signal::SIGKILL)?;
    node.check("an exec with the daemon dead", node.exec(idle, "/bin/first").await?.exit, 13);
    daemon.start().await?;
    node.check("an exec with the next one", node.exec(idle, "/bin/first").await?.exit, 13);
    let (told, _, _) = status("idle")?;
    node.check("its state", told["state"].as_str(), Some("armed"));
    let late = daemon
        .alerts()
        .await?
        .iter()
        .any(|alert| alert["Data"].as_str().is_some_and(|data| data.contains("late")));
    node.check("it is not told to have been unprotected", late, false);
    daemon.apply("policy.yaml", &POLICY.replace("/etc/passwd", "/etc/group")).await?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.exec(idle, "cat /etc/group").await?.exit == 0 && Instant::now() < deadline {}
    node.check("a change reaches it", node.exec(idle, "cat /etc/group").await?.exit, 1);
    let of_idle = |alert: &&Value| alert["ContainerName"] == "idle" && alert["Enforcer"] == "AppArmor";
    let alerts = daemon.alerts().await?;
    let (all, unknown) = alerts
        .iter()
        .filter(of_idle)
        .fold((0, 0), |(all, unknown), one| (all + 1, unknown + usize::from(one["PolicyName"] == "unknown")));
    println!("{all} alerts of AppArmor about one container, {unknown} of them without a policy");
    // what was denied while profiles were exchanged is told a moment later, by the rules of then
    node.check("alerts have their policies", all > 10 && unknown * 10 < all, true);
    Ok(())
}

/// BPF-LSM has all that it can, AppArmor the native rules.
async fn beside_bpf(node: &mut Node, daemon: &mut Daemon) -> Result<()> {
    daemon.end(Signal::SIGTERM)?;
    daemon.options_mut().arguments = vec!["--combine".to_owned()];
    daemon.write_policy("policy.yaml", POLICY)?;
    daemon.write_policy("native.yaml", NATIVE)?;
    daemon.start().await?;
    let web = pod(node, "both", &["with"]).await?;
    let with = started(node, &web, &with_profile(Container::idle("with"))).await?;
    node.check("BPF denies", node.exec(&with, "/bin/first").await?.exit, 13);
    node.check("AppArmor denies", node.exec(&with, "cat /etc/group").await?.exit, 1);
    node.check("what no rule names", node.exec(&with, "cat /etc/hosts").await?.exit, 0);
    let (told, of_daemon, _) = status("with")?;
    let held = serde_json::json!({"bpf": ["default/block-etc-passwd-read"], "apparmor": ["default/native"]});
    node.check("who holds what", told["held"].clone(), held);
    node.check(
        "its state and gaps",
        (told["state"].as_str(), told["gaps"].as_u64()),
        (Some("armed"), Some(0)),
    );
    node.check("the locks", of_daemon["lock"].as_str(), Some("bpf+apparmor"));
    node.check(
        "what explain says of it",
        explain("default/both", "with", "file:read:/etc/passwd")?,
        ["block".into(), "block-etc-passwd-read".into(), "bpf".into(), Value::Null],
    );
    node.check(
        "the alert of what AppArmor denied",
        self::told(daemon, "with", "/etc/group").await?,
        ["native", "spec.apparmor", "Block", "both"].map(Value::from),
    );
    let (denied, measured) = top(node, &with).await?;
    node.check("top has what was denied", denied, Some(2));
    node.check("top has what that costs", measured, true);
    let without = started(node, &web, &Container::idle("without")).await?;
    node.check("BPF denies without the profile", node.exec(&without, "/bin/first").await?.exit, 13);
    node.check("AppArmor does not", node.exec(&without, "cat /etc/group").await?.exit, 0);
    let (told, _, code) = status("without")?;
    let reason =
        told["reason"].as_str().unwrap_or_default().contains("native AppArmor rules are not in force");
    node.check("which is told", (told["state"].as_str(), reason, code), (Some("notCovered"), true, Some(1)));
    Ok(())
}
