//! What policies and namespaces of the API server do to real pods on a kernel that enforces.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::cluster::{Cluster, LONGEST};
use super::components::NODE_IP;
use super::feed::Client;
use super::guest::Guest;
use super::pods::{Pod, file_policy};
use super::policies::known;
use super::release;
use super::tools::{NAMESPACE, apply, get, must, until};

/// An emulated machine takes longer to answer the hook than a node; all else is as the chart has it.
const VALUES: [&str; 2] = ["feed.enabled=true", "hook.deadlineMillis=5000"];
const FILE: &str = "/etc/passwd";
const READ: &str = "cat /etc/passwd";
const DENIED: &str = "Permission denied";
/// It was there before there were policies.
const WEB: Pod<'static> =
    Pod { namespace: "default", name: "web", app: "web", profile: None, command: "sleep 36000" };
/// Each rule of [`acts`] is tried, and one access that no rule is about. A path, since this shell is `date` itself, too.
const ACTS: &str = "/bin/date; echo process $?; nc -w 3 127.0.0.1 9 </dev/null; echo network $?; \
                    touch /tmp/own; chown 1 /tmp/own; echo capability $?; cat /etc/group >/dev/null; echo rest $?";

pub fn hold(cluster: &mut Cluster, guest: &Guest) -> Result<()> {
    WEB.start()?;
    release::apply(cluster, "helm-3", &VALUES)?;
    release::rolled_out()?;
    let status = release::status()?;
    let at = |pointer: &str| status.pointer(pointer).cloned();
    cluster.check("it holds rules by BPF-LSM", at("/daemon/lock"), Some("bpf".into()));
    cluster.check("it is connected to the runtime", at("/daemon/connected"), Some(true.into()));
    let mut alerts = Client::start(&guest.feed()?, "alerts:policy:100000")?;
    alerts.wait("a subscription", |said| said == "subscribed", || Ok(()))?;

    files(cluster)?;
    rules(cluster)?;
    told(cluster, &mut alerts)?;
    postures(cluster, &mut alerts)?;
    visibility(cluster, guest)?;
    memory(cluster)?;
    daemon_away(cluster)
}

/// A file, of a pod that runs and of one from its first instruction.
fn files(cluster: &mut Cluster) -> Result<()> {
    cluster.check("without a policy a pod reads the file", WEB.exec(READ)?.good, true);
    let first = Pod { name: "first", ..WEB };
    cluster.check("as does the first instruction of one", first.run_program("/bin/first")?.0, 0);
    apply(&file_policy("default", "web", "web", FILE))?;
    known(1)?;
    let read = until("the policy holds in the pod that runs", LONGEST, || {
        Ok(Some(WEB.exec(READ)?).filter(|said| !said.good))
    });
    cluster.check("with a policy the pod that runs does not", read.is_ok(), true);
    cluster.check_has("it is denied", &read?.err, DENIED);
    cluster.check("it reads others", WEB.exec("cat /etc/group")?.good, true);
    cluster.check("a pod is denied its first instruction", first.run_program("/bin/first")?.0, 13); // EACCES
    let other = Pod { name: "other", app: "other", command: READ, ..WEB };
    cluster.check("another app is not", other.run()?.0, 0);
    must(&["create", "namespace", "shop"])?;
    cluster.check(
        "nor the app in another namespace",
        Pod { namespace: "shop", app: "web", ..other }.run()?.0,
        0,
    );
    Ok(())
}

/// A process, a protocol and a capability.
fn rules(cluster: &mut Cluster) -> Result<()> {
    let pod = Pod { name: "acts", app: "acts", command: ACTS, ..WEB };
    let free = pod.run()?.1;
    for part in ["process 0", "Connection refused", "capability 0", "rest 0"] {
        cluster.check_has(&format!("without a policy: {part}"), &free, part);
    }
    apply(&acts())?;
    known(2)?;
    let held = pod.run()?.1;
    for (what, part) in [
        ("a program is not executed", "/bin/date: Permission denied"),
        ("which the shell tells by 126", "process 126"),
        ("a protocol is not spoken", "network 1"),
        ("a capability is not used", "capability 1"),
        ("what no rule is about is free", "rest 0"),
    ] {
        cluster.check_has(what, &held, part);
    }
    cluster.check("no connection is tried", held.contains("refused"), false);
    Ok(())
}

fn acts() -> String {
    json!({
        "apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorPolicy",
        "metadata": {"name": "acts", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "acts"}},
            "process": {"matchPaths": [{"path": "/bin/date"}]},
            "network": {"matchProtocols": [{"protocol": "tcp"}]},
            "capabilities": {"matchCapabilities": [{"capability": "chown"}]},
            "action": "Block",
        },
    })
    .to_string()
}

/// A denial that an alert is to tell.
#[derive(Debug)]
struct Denial {
    policy: &'static str,
    pod: &'static str,
    operation: &'static str,
    resource: &'static str,
}

const WEB_DENIED: Denial = Denial { policy: "web", pod: "web", operation: "File", resource: FILE };

impl Denial {
    fn is_told_by(&self, alert: &Value) -> bool {
        let has = |field: &str, wanted: &str| alert.get(field).and_then(Value::as_str) == Some(wanted);
        has("Type", "MatchedPolicy")
            && has("PolicyName", self.policy)
            && has("PodName", self.pod)
            && has("Operation", self.operation)
            && has("Action", "Block")
            && has("Result", DENIED)
            && has("Enforcer", "BPFLSM")
            && alert.get("Resource").and_then(Value::as_str).is_some_and(|text| text.contains(self.resource))
    }

    /// It is in the daemon's log.
    fn logged(&self) -> Result<bool> {
        let log = release::log("nri-enforcer")?;
        let mut lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        Ok(lines.any(|line: Value| self.is_told_by(&line)))
    }
}

/// Denials are in the daemon's log and come over the feed; the policy says how it stands.
fn told(cluster: &mut Cluster, alerts: &mut Client) -> Result<()> {
    let acts = |operation, resource| Denial { policy: "acts", pod: "acts", operation, resource };
    for (denial, rule) in [
        (WEB_DENIED, "spec.file.matchPaths[0]"),
        (Denial { pod: "first", ..WEB_DENIED }, "spec.file.matchPaths[0]"),
        (acts("Process", "/bin/date"), "spec.process.matchPaths[0]"),
        (acts("Network", "type=SOCK_STREAM"), "spec.network.matchProtocols[0]"),
        (acts("Capabilities", "CAP_CHOWN"), "spec.capabilities.matchCapabilities[0]"),
    ] {
        let come = alerts.wait("the denial", |alert| denial.is_told_by(alert), || Ok(()));
        let come = come.with_context(|| format!("{denial:?}"))?;
        let named = come.pointer("/EventData/Rule").and_then(Value::as_str);
        let what = format!("over the feed comes what was denied to {}: {}", denial.pod, denial.resource);
        cluster.check(&what, named, Some(rule));
    }
    cluster.check("`kubectl logs` has it, too", WEB_DENIED.logged()?, true);

    let enforced = until("the policy's status", LONGEST, || {
        let policy = get(&["kubearmorpolicy", "-n", "default", "web"])?;
        let all = policy.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let holds = |name: &str| {
            let condition = all.iter().find(|one| one.get("type").and_then(Value::as_str) == Some(name));
            condition.and_then(|one| one.get("status")).and_then(Value::as_str) == Some("True")
        };
        let containers = policy.pointer("/status/containers").and_then(Value::as_u64);
        Ok((holds("Accepted") && holds("Enforced") && containers == Some(1)).then_some(()))
    });
    cluster.check("`status` of the policy says that it holds in one container", enforced.is_ok(), true);
    Ok(())
}

/// What becomes of what an allow list does not have is for the namespace to say.
fn postures(cluster: &mut Cluster, alerts: &mut Client) -> Result<()> {
    let listed = ["/bin/", "/dev/", "/etc/", "/proc/"].map(|dir| json!({"dir": dir, "recursive": true}));
    let allowed = json!({
        "apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorPolicy",
        "metadata": {"name": "listed", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "listed"}},
            "file": {"matchDirectories": listed},
            "action": "Allow",
        },
    });
    apply(&allowed.to_string())?;
    known(3)?;
    let command = "cat /etc/group >/dev/null; echo listed $?; touch /tmp/made; echo other $?";
    let pod = Pod { namespace: "shop", name: "listed", app: "listed", profile: None, command };
    let audited = pod.run()?.1;
    cluster.check("by default what is not listed is only audited", audited.as_str(), "listed 0\nother 0\n");
    must(&["annotate", "namespace", "shop", "kubearmor-file-posture=block"])?;
    let blocked =
        until(
            "the posture holds",
            LONGEST,
            || Ok(Some(pod.run()?.1).filter(|said| said.contains("other 1"))),
        );
    cluster.check("the namespace's posture denies it", blocked.is_ok(), true);
    let blocked = blocked?;
    cluster.check_has("what is listed is allowed", &blocked, "listed 0");
    cluster.check_has("what is not is denied", &blocked, DENIED);
    let denial = Denial { policy: "DefaultPosture", pod: "listed", operation: "File", resource: "/tmp/made" };
    let come = alerts.wait("the denial", |alert| denial.is_told_by(alert), || Ok(()));
    cluster.check("which is an alert", come.is_ok(), true);
    Ok(())
}

/// A namespace makes its pods visible, to those who watch logs.
fn visibility(cluster: &mut Cluster, guest: &Guest) -> Result<()> {
    must(&["create", "namespace", "seen"])?;
    let pod = Pod { namespace: "seen", name: "seen", app: "seen", ..WEB };
    pod.start()?;
    must(&["annotate", "namespace", "seen", "kubearmor-visibility=process,file"])?;
    let mut logs = Client::start(&guest.feed()?, "logs:system:36000")?;
    let read = || {
        WEB.exec("cat /etc/group")?;
        pod.exec("cat /etc/group").map(drop)
    };
    for (operation, resource) in [("File", "/etc/group"), ("Process", "/bin/cat")] {
        let so = |log: &Value| {
            let has = |field: &str, wanted: &str| log.get(field).and_then(Value::as_str) == Some(wanted);
            let resource =
                log.get("Resource").and_then(Value::as_str).is_some_and(|text| text.contains(resource));
            has("Type", "ContainerLog") && has("PodName", "seen") && has("Operation", operation) && resource
        };
        let seen = logs.wait(resource, so, read);
        cluster.check(&format!("{resource} is seen"), seen.as_ref().err().map(ToString::to_string), None);
    }
    let of_others =
        logs.all.iter().filter_map(|log| log.get("NamespaceName")?.as_str()).find(|name| *name != "seen");
    cluster.check("other namespaces are not", of_others, None);
    Ok(())
}

/// What the daemon has of memory with programs in the kernel, in bytes.
const MEMORY: f64 = 64.0 * 1024.0 * 1024.0;

fn memory(cluster: &mut Cluster) -> Result<()> {
    let command = format!("wget -q -O - http://{NODE_IP}:9750/metrics");
    let page = Pod { name: "metrics", app: "metrics", command: &command, ..WEB }.run()?.1;
    let memory = page.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    let memory: f64 = memory.with_context(|| format!("no memory is told: {page:.500}"))?.parse()?;
    println!("the daemon has {:.1} MiB of memory", memory / 1_048_576.0);
    cluster.check("its memory is within 64 MiB", memory < MEMORY, true);
    Ok(())
}

/// The kernel goes on without the daemon, and the next one takes over.
fn daemon_away(cluster: &mut Cluster) -> Result<()> {
    let before = release::pod_name()?;
    must(&["delete", "pod", "-n", NAMESPACE, &before, "--wait=true"])?;
    let read = WEB.exec(READ)?;
    let ready = release::pod()?;
    let ready = ready.as_ref().and_then(|pod| pod.pointer("/status/containerStatuses/0/ready"));
    cluster.check("the daemon is away", ready.and_then(Value::as_bool).unwrap_or(false), false);
    cluster.check("the pod that runs is denied the file", read.good, false);
    cluster.check_has("as before", &read.err, DENIED);
    let other = release::pod_name().map(|name| name != before);
    cluster.check("another pod is to take over", other.ok(), Some(true));
    release::rolled_out()?;
    let container = release::container(WEB.name)?;
    let state = container.get("state").and_then(Value::as_str);
    cluster.check("the next daemon adopts what runs", state, Some("armed"));
    cluster.check_has("which it still denies", &WEB.exec(READ)?.err, DENIED);
    let tells = until("an alert", LONGEST, || Ok(WEB_DENIED.logged()?.then_some(())));
    cluster.check("and tells of", tells.is_ok(), true);
    let first = Pod { name: "first", ..WEB };
    cluster.check("a new pod is denied its first instruction", first.run_program("/bin/first")?.0, 13);
    must(&["delete", "kubearmorpolicy", "-n", "default", "web"])?;
    let free = until("the policy is gone", LONGEST, || Ok(WEB.exec(READ)?.good.then_some(())));
    cluster.check("without the policy the file is read again", free.is_ok(), true);
    Ok(())
}
