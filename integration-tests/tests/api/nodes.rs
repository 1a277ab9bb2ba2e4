//! A cluster of many nodes: what the one that writes the statuses of policies keeps of the reports of all.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::DAEMON;
use super::server::{Client, LONGEST, wait_for};
use super::told::{REPORTS, node, start};

/// Nodes beside the one that writes, and policies, unless `NRI_ENFORCER_NODES` asks for more nodes; then [`MANY`] policies.
const NODES: usize = 20;
const POLICIES: usize = 30;
const MANY: usize = 1_000;
/// What the writer may take of memory with a thousand nodes and policies, in a release build: what any daemon may, and 40
/// bytes for each policy of each node.
const MEMORY: f64 = 64.0 * 1024.0 * 1024.0 + 40.0 * 1e6;

fn policy(number: usize) -> Value {
    json!({
        "apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorPolicy",
        "metadata": {"name": format!("files-of-application-{number}"), "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": format!("app-{number}")}},
            "file": {"matchPaths": [{"path": format!("/etc/{number}")}]}, "action": "Block",
        },
    })
}

/// What a node reports of these policies, by name and uid: each is on `containers` there, and each tenth has a gap.
fn report(node: usize, policies: &[(String, String)], containers: u32) -> Value {
    let one = |(place, (name, uid)): (usize, &(String, String))| {
        let gap = json!({
            "field": "spec.process.matchPaths[0]", "reason": "AppArmor does not judge all that is executed",
            "advice": "what the runtime starts is not judged",
        });
        let gaps = if place % 10 == 0 { vec![gap] } else { vec![] };
        json!({
            "kind": "KubeArmorPolicy", "namespace": "default", "name": name, "uid": uid, "generation": 1,
            "containers": containers, "gaps": gaps,
        })
    };
    json!({
        "apiVersion": "nri-enforcer.io/v1alpha1", "kind": "NodePolicyReport",
        "metadata": {"name": format!("worker-{node}")},
        "renewTime": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        "daemon": {"version": "0", "lock": "bpf", "connected": true},
        "total": policies.len(), "policies": policies.iter().enumerate().map(one).collect::<Vec<_>>(),
    })
}

/// Eight at a time, as one after the other takes too long.
async fn each<F: Future<Output = ()> + Send + 'static>(count: usize, act: impl Fn(usize) -> F) {
    let mut acting = tokio::task::JoinSet::new();
    for number in 0..count {
        if number >= 8 {
            acting.join_next().await.unwrap().unwrap();
        }
        acting.spawn(act(number));
    }
    while let Some(done) = acting.join_next().await {
        done.unwrap();
    }
}

/// The policies that there are.
async fn all(client: &Client) -> Vec<Value> {
    let (code, list) = client.get("/apis/security.kubearmor.com/v1/kubearmorpolicies").await;
    assert_eq!(code, 200, "{list}");
    list["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reports_of_all_nodes_are_one_status_of_each_policy_and_take_little_memory() {
    let asked = std::env::var("NRI_ENFORCER_NODES").ok().map(|text| text.parse().unwrap());
    let (nodes, policies) = asked.map_or((NODES, POLICIES), |nodes: usize| (nodes, MANY));
    // a real pace where it is real numbers
    let (interval, limit) = if asked.is_some() { (60, Duration::from_secs(900)) } else { (1, LONGEST) };
    let dir = tempfile::tempdir().unwrap();
    let (cluster, client) = start(dir.path()).await;
    let own = client.clone();
    each(policies, |number| {
        let client = own.clone();
        async move { drop(client.apply(&policy(number)).await) }
    })
    .await;
    let text = |one: &Value, field: &str| one["metadata"][field].as_str().unwrap().to_owned();
    let names: Vec<_> = all(&client).await.iter().map(|one| (text(one, "name"), text(one, "uid"))).collect();
    assert_eq!(names.len(), policies);
    let write = |method: &'static str, containers: u32| {
        let (client, names) = (client.clone(), names.clone());
        move |node: usize| {
            let (client, report) = (client.clone(), report(node, &names, containers));
            async move {
                let (path, kind) = match method {
                    "POST" => (REPORTS.to_owned(), "application/json"),
                    _ => (format!("{REPORTS}/worker-{node}"), "application/merge-patch+json"),
                };
                let (code, answer) =
                    client.send(method, &path, [kind, "application/json"], Some(&report)).await;
                assert!(code == 200 || code == 201, "{code}: {answer:.500}");
            }
        }
    };
    let begin = Instant::now();
    each(nodes, write("POST", 1)).await;
    println!("{nodes} reports of {policies} policies are there after {:?}", begin.elapsed());

    let mut leader = node(dir.path(), "leader", &[]);
    leader.flags.retain(|flag| !flag.starts_with("--kube-status-interval"));
    leader.flags.push(format!("--kube-status-interval={interval}"));
    let begin = Instant::now();
    leader.start(&cluster).await;
    for containers in [1, 2] {
        if containers == 2 {
            each(nodes, write("PATCH", containers)).await;
        }
        let wanted = u64::from(containers) * u64::try_from(nodes).unwrap();
        let holds =
            |one: &Value| one["status"]["nodes"] == nodes + 1 && one["status"]["containers"] == wanted;
        let told = async || all(&client).await.iter().all(holds).then_some(());
        let why = || leader.log();
        wait_for(limit, "every status tells of all nodes", told, why).await;
        println!("every status is told after {:?}", begin.elapsed());
    }
    // where the writer runs nothing holds them
    let of = |one: &Value, many: usize| {
        one["status"]["gaps"].as_array().is_some_and(|gaps| gaps.iter().any(|gap| gap["nodes"] == many))
    };
    let with = async |many| all(&client).await.iter().filter(|one| of(one, many)).count();
    let (of_all, of_one) = (with(nodes).await, with(1).await);
    assert_eq!(
        (of_all, of_one),
        (policies.div_ceil(10), policies),
        "gaps are told with the nodes that have them"
    );

    let page = leader.page("/metrics");
    let memory = page.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).unwrap();
    let memory: f64 = memory.parse().unwrap();
    println!("the daemon that writes the statuses has {:.1} MiB of memory", memory / 1_048_576.0);
    let released = asked.is_some() && std::env::var_os(DAEMON).is_some();
    assert!(!released || memory < MEMORY, "{memory} bytes");
    leader.stop();
}
