//! What the cluster is told: statuses of policies, by one of several daemons, and events.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::{self, Client, Cluster, wait};
use super::{Node, calls, definitions, files};

const POLICIES: &str = "/apis/security.kubearmor.com/v1/namespaces/default/kubearmorpolicies";
const CALLS: &str = "/apis/security.kubearmor.com/v1/namespaces/default/kubearmorseccomppolicies";
const BROKEN: &str = "/apis/security.kubearmor.com/v1/kubearmorclusterpolicies/bad";
pub(super) const REPORTS: &str = "/apis/nri-enforcer.io/v1alpha1/nodepolicyreports";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/nri-enforcer-status";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// Leases and events as Kubernetes has them: the part of it that runs here serves no core types, and these by definitions of
/// the same shape, with the limits that Kubernetes has for them.
fn core_types() -> Vec<Value> {
    let text = |most: u32| json!({"type": "string", "maxLength": most, "minLength": 1});
    let time = || json!({"type": "string", "format": "date-time"});
    let fields = |fields: Value| json!({"type": "object", "properties": fields});
    let lease = fields(json!({
        "holderIdentity": {"type": "string"},
        "leaseDurationSeconds": {"type": "integer", "minimum": 1},
        "acquireTime": time(), "renewTime": time(), "leaseTransitions": {"type": "integer", "minimum": 0},
    }));
    let mut series = fields(json!({"count": {"type": "integer", "minimum": 2}, "lastObservedTime": time()}));
    series["required"] = json!(["count", "lastObservedTime"]);
    let name = || json!({"type": "string"});
    let regarding = fields(json!({
        "apiVersion": name(), "kind": name(), "namespace": name(), "name": name(), "uid": name(), "fieldPath": name(),
    }));
    let mut event = fields(json!({
        "eventTime": time(), "reportingController": text(253), "reportingInstance": text(128), "action": text(128),
        "reason": text(128), "note": text(1024), "type": {"type": "string", "enum": ["Normal", "Warning"]},
        "regarding": regarding, "series": series,
    }));
    event["required"] = json!([
        "eventTime",
        "reportingController",
        "reportingInstance",
        "action",
        "reason",
        "type",
        "regarding"
    ]);
    event["x-kubernetes-validations"] = json!([{
        "rule": "self.note == oldSelf.note && self.reason == oldSelf.reason && self.regarding == oldSelf.regarding",
        "message": "only the series may change",
    }]);
    let define = |group: &str, kind: &str, plural: &str, schema: Value| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{plural}.{group}"),
                "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
            },
            "spec": {
                "group": group, "scope": "Namespaced",
                "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
            },
        })
    };
    vec![
        define("coordination.k8s.io", "Lease", "leases", fields(json!({"spec": lease}))),
        define("events.k8s.io", "Event", "events", event),
    ]
}

/// A node that tells the cluster of its policies, at a pace that a test can wait for.
pub(super) fn node(dir: &Path, name: &str, more: &[&str]) -> Node {
    let dir = dir.join(name);
    fs::create_dir(&dir).unwrap();
    let mut node = Node::new(&dir);
    node.flags =
        vec!["--kube-status".into(), "--kube-status-interval=1".into(), format!("--node-name={name}")];
    node.flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    node
}

impl Node {
    /// Creates a container of `app: web`, and leaves it there; why not, where it is refused.
    async fn creates(&mut self) -> Result<(), String> {
        let (pod, container) = self.another();
        let answer = self.plugin.as_ref().unwrap().create_container(&pod, &container).await;
        answer.map(drop).map_err(|error| error.to_string())
    }

    /// How many writes to the API server there were.
    fn writes(&self, object: &str) -> u64 {
        let page = self.page("/metrics");
        let begin = format!("nri_enforcer_api_writes_total{{object=\"{object}\",outcome=\"ok\"}} ");
        let count =
            page.lines().find_map(|line| line.strip_prefix(&begin)).map(|count| count.parse().unwrap());
        count.unwrap_or_default()
    }
}

/// A condition of a status: whether it holds, why, and in words.
fn condition<'a>(object: &'a Value, name: &str) -> [&'a str; 3] {
    let all = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let its = all.iter().find(|one| one["type"] == name).unwrap_or(&Value::Null);
    ["status", "reason", "message"].map(|field| its[field].as_str().unwrap_or_default())
}

/// Waits until an object is as it should be; the object.
async fn until(client: &Client, path: &str, nodes: &[&Node], holds: impl Fn(&Value) -> bool) -> Value {
    let last = std::cell::RefCell::new(Value::Null);
    let look = async || {
        let (_, object) = client.get(path).await;
        let found = holds(&object).then(|| object.clone());
        last.replace(object);
        found
    };
    let why = || {
        let logs: Vec<_> = nodes.iter().map(|node| node.log()).collect();
        format!("{:#}\n{}", last.borrow()["status"], logs.join("\n"))
    };
    wait(path, look, why).await
}

pub(super) async fn start(dir: &Path) -> (Cluster, Client) {
    let cluster = Cluster::start(dir).await;
    let client = cluster.client();
    client.define(&[definitions(), core_types()].concat()).await;
    (cluster, client)
}

/// Lets any cluster policy in.
async fn loosen(client: &Client) {
    let kind = |one: &Value| one["spec"]["names"]["kind"] == "KubeArmorClusterPolicy";
    let mut loose = definitions().into_iter().find(kind).unwrap();
    let schema = &mut loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    *schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    client.apply(&loose).await;
}

fn broken() -> Value {
    json!({
        "apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorClusterPolicy", "metadata": {"name": "bad"},
        "spec": {"selector": {}, "file": {"matchPathz": []}},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_policy_is_what_all_nodes_say_and_one_of_them_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, client) = start(dir.path()).await;
    loosen(&client).await;
    client.apply(&calls("one", "mkdir")).await;
    client.apply(&files("two", "/a")).await;
    let applied = async || matches!(client.try_apply(&broken()).await.0, 200 | 201).then_some(());
    wait("the server takes anything", applied, String::new).await;
    let (mut a, mut b) = (node(dir.path(), "a", &[]), node(dir.path(), "b", &["--strict"]));
    a.start(&cluster).await;
    b.start(&cluster).await;
    for node in [&a, &b] {
        node.policies(2).await;
    }
    // no lock works on these nodes: that is told of a policy that selects no container, too
    let (two, nodes) = (format!("{POLICIES}/two"), [&a, &b]);
    let unheld = |two: &Value| two["status"]["nodes"] == 2 && condition(two, "Enforced")[0] == "False";
    let found = until(&client, &two, &nodes, unheld).await;
    let [_, reason, message] = condition(&found, "Enforced");
    assert!(
        reason == "NoLock" && message.starts_with("no lock holds it on 2 of 2 nodes, a among"),
        "{message}"
    );
    let gap = &found["status"]["gaps"][0];
    assert_eq!((&gap["nodes"], &gap["field"]), (&json!(2), &json!("spec.file.matchPaths[0]")), "{gap}");
    assert_eq!(gap["reason"], "this node enforces seccomp policies alone");
    a.creates().await.unwrap();

    // one is in force, of the other nothing can be, and of the third nothing makes sense
    let one = format!("{CALLS}/one");
    let enforced = ["True", "Enforced", "on 1 container of 2 nodes"];
    let found = until(&client, &one, &[&a, &b], |one| condition(one, "Enforced") == enforced).await;
    let status = &found["status"];
    assert_eq!(condition(&found, "Accepted")[0], "True", "{status:#}");
    assert_eq!([&status["nodes"], &status["observedGeneration"]], [2, 1], "{status:#}");
    assert_eq!(status["status"], "OK");
    let found =
        until(&client, &two, &[&a, &b], |two| condition(two, "Enforced")[1] == "ContainersUncovered").await;
    let status = &found["status"];
    let message = condition(&found, "Enforced")[2];
    assert!(
        message.starts_with("1 of 1 container without it; first on a: nothing of its rules"),
        "{message}"
    );
    assert_eq!([&status["gaps"][0]["nodes"], &status["containers"]], [2, 0], "{status:#}");
    assert_eq!(status["gaps"][0]["field"], "spec.file.matchPaths[0]", "{status:#}");
    let found = until(&client, BROKEN, &[&a, &b], |bad| bad["status"]["nodes"] == 2).await;
    let [accepted, reason, message] = condition(&found, "Accepted");
    assert!((accepted, reason) == ("False", "Invalid") && message.contains("matchPathz"), "{message}");
    assert_eq!(
        (condition(&found, "Enforced")[1], &found["status"]["status"]),
        ("NotAccepted", &json!("Not OK"))
    );

    // `kubectl get ksp`
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let (_, shown) = client.send("GET", POLICIES, ["application/json", table], None).await;
    let columns = shown["columnDefinitions"].as_array().unwrap();
    let cell = |name: &str| {
        let at = columns.iter().position(|one| one["name"] == name).unwrap();
        shown["rows"][0]["cells"][at].clone()
    };
    assert_eq!([cell("Accepted"), cell("Enforced")], ["True", "False"]);
    assert_eq!([cell("Nodes"), cell("Containers")], [2, 0]);

    // nothing changes: nothing is written
    let quiet = async || {
        let before = [a.writes("report"), b.writes("report"), a.writes("status") + b.writes("status")];
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = [a.writes("report"), b.writes("report"), a.writes("status") + b.writes("status")];
        (before == after).then_some(after)
    };
    let writes = wait("nothing is written", quiet, || format!("{}\n{}", a.log(), b.log())).await;
    assert!(writes[0] <= 6 && writes[1] <= 6 && writes[2] <= 15, "{writes:?}");
    let read = |node: &Node| node.log().matches("policies in force").count();
    let times = [read(&a), read(&b)];

    // a condition that holds on keeps its time; another version of the policy is told as one
    let before = until(&client, &one, &[], |_| true).await;
    a.creates().await.unwrap();
    let found = until(&client, &one, &[&a, &b], |one| one["status"]["containers"] == 2).await;
    let since = |object: &Value| object["status"]["conditions"][1]["lastTransitionTime"].clone();
    assert_eq!(since(&before), since(&found));
    assert_eq!(found["metadata"]["generation"], 1, "a status is no other version");
    assert_eq!([read(&a), read(&b)], times, "a status makes nobody read policies anew\n{}", a.log());
    client.apply(&calls("one", "rmdir")).await;
    let again =
        |one: &Value| one["status"]["observedGeneration"] == 2 && condition(one, "Enforced")[0] == "False";
    let found = until(&client, &one, &[&a, &b], again).await;
    let message = condition(&found, "Enforced")[2];
    assert!(message.starts_with("2 of 2 containers") && message.contains("pending restart"), "{message}");

    // the holder dies, and what comes then is told by the other
    let (_, lease) = client.get(LEASE).await;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap().to_owned();
    let wrote = [&a, &b].map(|node| node.writes("status"));
    let by_others = if holder == "a" { wrote[1] } else { wrote[0] };
    let one_holder = lease["spec"]["leaseTransitions"] == 1;
    assert!(wrote.iter().sum::<u64>() > 0 && (by_others == 0 || !one_holder), "{lease:#}: {wrote:?}");
    let (dies, mut lives) = if holder == "a" { (&mut a, b) } else { (&mut b, a) };
    dies.daemon.take().unwrap().kill();
    dies.plugin = None;
    client.apply(&calls("three", "chmod")).await;
    let three = format!("{CALLS}/three");
    let found = until(&client, &three, &[&lives], |three| three["status"]["nodes"] == 1).await;
    // of the dead one nothing is known but that its report is fresh
    let wanted = if holder == "a" { "Progressing" } else { "ContainersUncovered" };
    assert_eq!((condition(&found, "Enforced")[1], condition(&found, "Accepted")[0]), (wanted, "True"));
    let (_, lease) = client.get(LEASE).await;
    assert!(lease["spec"]["holderIdentity"] != holder.as_str(), "{lease:#}");

    // a policy that is made anew under its name, and the definition of reports that goes and comes back
    client.delete(&calls("three", "chmod")).await;
    client.apply(&calls("three", "chown")).await;
    until(&client, &three, &[&lives], |three| three["status"]["nodes"] == 1).await;
    let reports =
        definitions().into_iter().find(|one| one["spec"]["names"]["kind"] == "NodePolicyReport").unwrap();
    client.delete(&reports).await;
    let gone = async || (client.get(&server::path(&reports)).await.0 == 404).then_some(());
    wait("the definition is gone", gone, String::new).await;
    client.apply(&calls("three", "mkdir")).await;
    lives.says("cannot write the report of this node").await;
    client.define(std::slice::from_ref(&reports)).await;
    let again = |three: &Value| three["status"]["observedGeneration"] == 2 && three["status"]["nodes"] == 1;
    until(&client, &three, &[&lives], again).await;

    // and what was the server's absence is over with it
    cluster.cut().await;
    client.apply(&calls("three", "chmod")).await;
    lives
        .until("unreachable", |daemon| {
            daemon["api"]["troubles"].as_object().is_some_and(|all| !all.is_empty())
        })
        .await;
    cluster.mend().await;
    until(&client, &three, &[&lives], |three| three["status"]["observedGeneration"] == 3).await;

    // whoever may not read what he needs is told so once, and goes on when he may
    cluster.forbid("status nri-enforcer-status nodepolicyreports");
    cluster.cut().await;
    cluster.mend().await;
    client.apply(&calls("three", "chown")).await;
    lives.says("cannot stand for election as the one who writes the statuses of policies").await;
    lives.says("writes the statuses of policies no more").await;
    let election = "stand for election as the one who writes the statuses of policies";
    let untold = |daemon: &Value| daemon["api"]["untold"][election].as_str().map(str::to_owned);
    lives.until("told", |daemon| untold(daemon).is_some_and(|why| why.contains("refuses"))).await;
    let page = lives.page("/metrics");
    assert!(page.contains("nri_enforcer_api_writes_total{object=\"lease\",outcome=\"failed\"}"), "{page}");
    cluster.forbid("");
    until(&client, &three, &[&lives], |three| three["status"]["observedGeneration"] == 4).await;
    lives.until("it stands again", |daemon| untold(daemon).is_none()).await;
    let (_, report) = client.get(&format!("{REPORTS}/{}", if holder == "a" { "b" } else { "a" })).await;
    assert_eq!(report["daemon"]["lock"], "none", "{report:#}");
    lives.stop();
    let (_, lease) = client.get(LEASE).await;
    assert_eq!(lease["spec"]["holderIdentity"], "", "given back: {lease:#}");
}

/// A server whose definition of a policy has no room for gaps, as one whose store has none.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_the_server_does_not_take_is_written_without_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, client) = start(dir.path()).await;
    let kind = |one: &Value| one["spec"]["names"]["kind"] == "KubeArmorPolicy";
    let mut tight = definitions().into_iter().find(kind).unwrap();
    let schema = &mut tight["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
    assert!(schema["properties"]["gaps"].is_object(), "{schema:#}");
    schema["properties"]["gaps"]["maxItems"] = json!(0);
    client.apply(&tight).await;
    client.apply(&files("two", "/a")).await;
    let mut node = node(dir.path(), "a", &[]);
    node.start(&cluster).await;
    node.policies(1).await;
    node.creates().await.unwrap();
    let two = format!("{POLICIES}/two");
    let uncovered = |two: &Value| condition(two, "Enforced")[1] == "ContainersUncovered";
    let found = until(&client, &two, &[&node], uncovered).await;
    assert_eq!(found["status"]["gaps"], json!([]), "{:#}", found["status"]);
    node.says("does not take the whole status").await;
    // and nothing more is written, as it is what was wanted
    let quiet = async || {
        let before = node.writes("status");
        tokio::time::sleep(Duration::from_secs(2)).await;
        (before == node.writes("status")).then_some(before)
    };
    let writes = wait("nothing is written", quiet, || node.log()).await;
    assert!(writes <= 6, "{writes}");
    // one that it does not take at all is told, and once it is gone there is nothing to tell
    let single = "write the status of some policies";
    let untold = |daemon: &Value| daemon["api"]["untold"][single].as_str().map(str::to_owned);
    let schema = &mut tight["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
    schema["properties"]["conditions"]["maxItems"] = json!(0);
    client.apply(&tight).await;
    client.apply(&files("never", "/b")).await;
    node.until("told", |daemon| untold(daemon).is_some_and(|why| why.contains("conditions"))).await;
    client.delete(&files("never", "/b")).await;
    client.delete(&files("two", "/a")).await;
    node.until("not told", |daemon| untold(daemon).is_none()).await;
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_start_is_an_event_on_its_pod_and_the_same_again_counts_on() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, client) = start(dir.path()).await;
    loosen(&client).await;
    client.apply(&files("two", "/a")).await;
    let mut node = node(dir.path(), "b", &["--strict"]);
    node.start(&cluster).await;
    node.policies(1).await;
    let refusal = node.creates().await.unwrap_err();
    assert!(refusal.contains("strict"), "{refusal}");
    let event = |all: &Value, reason: &str| {
        let all = all["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().find(|one| one["reason"] == reason).cloned()
    };
    let found = until(&client, EVENTS, &[&node], |all| event(all, "PolicyNotEnforced").is_some()).await;
    let found = event(&found, "PolicyNotEnforced").unwrap();
    let regarding = json!({
        "apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "web-1", "uid": "uid of web-1",
        "fieldPath": "spec.containers{main}",
    });
    assert_eq!((&found["regarding"], &found["type"]), (&regarding, &json!("Warning")), "{found:#}");
    assert_eq!((&found["reportingInstance"], &found["series"]), (&json!("b"), &Value::Null), "{found:#}");
    let note = found["note"].as_str().unwrap();
    assert!(note.contains("policy `default/two` cannot be put in force") && refusal.contains(note), "{note}");
    for _ in 0..3 {
        node.creates().await.unwrap_err();
    }
    let counted =
        |all: &Value| event(all, "PolicyNotEnforced").is_some_and(|one| one["series"]["count"] == 4);
    let all = until(&client, EVENTS, &[&node], counted).await;
    assert_eq!(all["items"].as_array().unwrap().len(), 1, "{all:#}");

    // a policy with a mistake has one, too
    let applied = async || matches!(client.try_apply(&broken()).await.0, 200 | 201).then_some(());
    wait("the server takes anything", applied, String::new).await;
    let all = until(&client, EVENTS, &[&node], |all| event(all, "PolicyInvalid").is_some()).await;
    let found = event(&all, "PolicyInvalid").unwrap();
    assert_eq!(found["regarding"]["name"], "bad");
    assert!(found["note"].as_str().unwrap().contains("matchPathz"), "{found:#}");
    assert!(node.page("/metrics").contains("nri_enforcer_api_events_lost_total 0"));
    node.stop();
}
