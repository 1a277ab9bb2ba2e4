//! A node that is full: a thousand policies of the API server and five hundred containers, of which some change at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nri::{Container, LinuxContainer, PodSandbox, SecurityProfile};
use serde_json::{Value, json};

use super::server::{Client, free_port, wait};
use super::told::start;
use super::{DAEMON, Node};

/// Apps, each with a container, a seccomp policy and a file policy.
const APPS: usize = 500;
/// How long things change, in seconds, unless `NRI_ENFORCER_CHURN_SECONDS` says otherwise.
const SECONDS: u64 = 3;
/// Between two changes where it is measured how long answers take: the API server and its store are on the same processors,
/// and would take all of their time. Without it everything comes as fast as it can, so that nothing is missed then either.
const PAUSE: Duration = Duration::from_millis(25);
/// What policies deny, one of them each.
const CALLS: [&str; 4] = ["mkdir", "rmdir", "chmod", "chown"];
/// How long the runtime may wait for 99 of 100 answers, in seconds: of a release build on a machine that does nothing else,
/// and what no machine that is merely busy reaches.
const PROMISED: f64 = 0.005;
const ABSURD: f64 = 1.0;
/// What the daemon may take of memory, in a release build.
const MEMORY: f64 = 64.0 * 1024.0 * 1024.0;

fn policy(app: usize, call: &str) -> Value {
    let name = format!("calls-{app}");
    json!({
        "apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorSeccompPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": format!("app-{app}")}}, "syscalls": [call], "action": "Block"},
    })
}

fn files(app: usize) -> Value {
    let name = format!("files-{app}");
    json!({
        "apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": format!("app-{app}")}},
            "file": {"matchPaths": [{"path": format!("/etc/{app}")}]}, "action": "Block",
        },
    })
}

/// The container of an app, as it is for the `turn`th time.
fn container(app: usize, turn: usize) -> (PodSandbox, Container) {
    let mut pod = PodSandbox::default();
    (pod.id, pod.name, pod.namespace) = (format!("pod-{app}"), format!("app-{app}"), "default".into());
    pod.labels.insert("app".into(), format!("app-{app}"));
    let mut container = Container::default();
    (container.id, container.name) = (format!("c-{app}-{turn}"), "main".into());
    container.pod_sandbox_id.clone_from(&pod.id);
    let mut linux = LinuxContainer::default();
    linux.seccomp_profile = Some(SecurityProfile::default());
    container.linux = Some(linux);
    (pod, container)
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

struct Crowd {
    client: Client,
    node: Node,
    turns: Vec<usize>,
    /// The policies of the API server: what each app's denies.
    denied: BTreeMap<usize, &'static str>,
    /// Apps whose policy changed.
    changed: BTreeSet<usize>,
}

impl Crowd {
    /// Puts another container in the place of an app's; which call its profile denies, if it has one.
    async fn restart(&mut self, app: usize) -> Option<&'static str> {
        let turn = self.turns[app];
        let plugin = self.node.plugin.as_ref().unwrap();
        if turn > 0 {
            let (pod, old) = container(app, turn);
            plugin.stop_container(&pod, &old).await.unwrap();
            plugin.remove_container(&pod, &old).await.unwrap();
        }
        self.turns[app] = turn + 1;
        let (pod, new) = container(app, turn + 1);
        let adjustment = plugin.create_container(&pod, &new).await.unwrap();
        plugin.start_container(&pod, &new).await.unwrap();
        let profile = adjustment.linux.seccomp_policy?;
        let allowed = |call: &str| {
            profile.syscalls.iter().any(|rule| {
                rule.action == "SCMP_ACT_ALLOW"
                    && rule.args.is_empty()
                    && rule.names.iter().any(|name| name == call)
            })
        };
        let denied: Vec<_> = CALLS.into_iter().filter(|call| !allowed(call)).collect();
        assert_eq!(denied.len(), 1, "one call is denied: {denied:?}");
        denied.first().copied()
    }

    /// Something changes: a policy, or a container.
    async fn change(&mut self, numbers: &mut Numbers) {
        let app = numbers.below(APPS);
        match numbers.below(4) {
            0 => drop(self.restart(app).await),
            1 if self.denied.contains_key(&app) => {
                self.client.delete(&policy(app, "mkdir")).await;
                self.denied.remove(&app);
                self.changed.insert(app);
            }
            _ => {
                let call = CALLS[numbers.below(CALLS.len())];
                self.client.apply(&policy(app, call)).await;
                self.denied.insert(app, call);
                self.changed.insert(app);
            }
        }
    }

    fn metric(&self, begin: &str) -> Vec<(String, f64)> {
        let page = self.node.page("/metrics");
        let lines = page.lines().filter(|line| line.starts_with(begin));
        lines
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect()
    }

    /// The bound of the histogram's bucket below which 99 of 100 answers are, and how many answers there were.
    fn p99(&self, handler: &str) -> (f64, f64) {
        let begin = "nri_enforcer_nri_request_duration_seconds_bucket{";
        let buckets: Vec<_> = self
            .metric(begin)
            .into_iter()
            .filter(|(name, _)| {
                name.contains(&format!("handler=\"{handler}\"")) && name.contains("outcome=\"ok\"")
            })
            .map(|(name, count)| {
                let bound = name.split("le=\"").nth(1).unwrap().split('"').next().unwrap();
                (bound.parse::<f64>().unwrap_or(f64::INFINITY), count)
            })
            .collect();
        let all = buckets.iter().map(|(_, count)| *count).fold(0.0, f64::max);
        let within = buckets.iter().filter(|(_, count)| *count >= all * 0.99).map(|(bound, _)| *bound);
        (within.fold(f64::INFINITY, f64::min), all)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_policies_and_five_hundred_containers_change_and_nothing_is_missed() {
    let seconds = std::env::var("NRI_ENFORCER_CHURN_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (cluster, client) = start(dir.path()).await;
    let mut node = Node::new(dir.path());
    // what the chart turns on, and what a cluster of several nodes has of it: this node writes the statuses
    node.flags = vec!["--kube-status".into(), "--node-name=node".into()];
    node.flags.push(format!("--feed=127.0.0.1:{}", free_port()));
    let mut applying = tokio::task::JoinSet::new();
    for part in 0..8 {
        let client = client.clone();
        applying.spawn(async move {
            for app in (part..APPS).step_by(8) {
                client.apply(&policy(app, CALLS[app % CALLS.len()])).await;
                client.apply(&files(app)).await;
            }
        });
    }
    while let Some(done) = applying.join_next().await {
        done.unwrap();
    }
    node.start(&cluster).await;
    node.policies(2 * u64::try_from(APPS).unwrap()).await;
    let denied = (0..APPS).map(|app| (app, CALLS[app % CALLS.len()])).collect();
    let mut crowd = Crowd { client, node, turns: vec![0; APPS], denied, changed: BTreeSet::new() };
    for app in 0..APPS {
        assert_eq!(crowd.restart(app).await, Some(CALLS[app % CALLS.len()]), "app {app}");
    }

    let released = std::env::var_os(DAEMON).is_some();
    let (begin, mut numbers, mut changes) = (Instant::now(), Numbers(1), 0_u64);
    while begin.elapsed() < Duration::from_secs(seconds) {
        crowd.change(&mut numbers).await;
        changes += 1;
        if released {
            tokio::time::sleep(PAUSE).await;
        }
    }

    // the numbers alone would not tell a change that was missed: each app's next container must have what the server says
    assert!(!crowd.changed.is_empty());
    crowd.node.policies(u64::try_from(APPS + crowd.denied.len()).unwrap()).await;
    for app in crowd.changed.clone() {
        let wanted = crowd.denied.get(&app).copied();
        let begin = Instant::now();
        while crowd.restart(app).await != wanted {
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "app {app}: not {wanted:?}\n{}",
                crowd.node.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let containers =
        async || (crowd.node.status()["containers"].as_array().map(Vec::len) == Some(APPS)).then_some(());
    wait("every container is in the status", containers, || crowd.node.log()).await;

    let longest = if released { PROMISED } else { ABSURD };
    for handler in ["create_container", "start_container"] {
        let (bound, answers) = crowd.p99(handler);
        println!("{handler}: 99 of 100 of {answers} answers within {} ms", bound * 1000.0);
        assert!(answers >= 500.0, "{handler}: {answers} answers");
        assert!(bound <= longest, "{handler}: {bound} s");
    }
    let written = crowd.metric("nri_enforcer_api_writes_total{object=\"status\",outcome=\"ok\"}");
    assert!(!released || written.first().is_some_and(|(_, count)| *count > 0.0), "no status is written");
    let memory = crowd.metric("process_resident_memory_bytes").first().unwrap().1;
    println!("{changes} changes in {seconds} s; the daemon has {:.1} MiB of memory", memory / 1_048_576.0);
    assert!(!released || memory < MEMORY, "{memory} bytes");
    crowd.node.stop();
}
