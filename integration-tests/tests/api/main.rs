//! A real API server of Kubernetes, and the daemon as users run it beside a fake runtime: definitions, objects, watches,
//! and what becomes of policies when either of the two goes away. Nothing is loaded into the kernel.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod chart;
mod crowd;
mod first;
mod nodes;
mod server;
mod told;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nri::fake::{FakePlugin, FakeRuntime, Options};
use nri::{Container, LinuxContainer, PodSandbox, SecurityProfile};
use serde::Deserialize;
use serde_json::{Value, json};

use self::server::{Client, Cluster, Process, wait};

/// How soon the daemon is to have taken up a change, in the middle of other tests.
const SOON: Duration = Duration::from_secs(1);

/// Names another daemon than the one built beside this program: one built for release, which is held to its limits.
const DAEMON: &str = "NRI_ENFORCER_DAEMON";

/// The daemon's program, built beside this one unless [`DAEMON`] names one.
fn program() -> PathBuf {
    if let Some(named) = std::env::var_os(DAEMON) {
        return PathBuf::from(named);
    }
    let own = std::env::current_exe().unwrap();
    let beside =
        own.ancestors().skip(1).take(2).map(|dir| dir.join("nri-enforcer")).find(|path| path.is_file());
    beside.expect("`nri-enforcer` is not built: run `cargo build -p nri-plugin`")
}

fn documents(text: &str) -> Vec<Value> {
    let each = serde_yaml::Deserializer::from_str(text).map(|one| Value::deserialize(one).unwrap());
    each.filter(|one| !one.is_null()).collect()
}

/// The objects of a list, or the object.
fn items(object: Value) -> Vec<Value> {
    match object.get("items").and_then(Value::as_array) {
        Some(items) => items.clone(),
        None => vec![object],
    }
}

/// The definitions as a cluster gets them.
fn definitions() -> Vec<Value> {
    let printed = Command::new(program()).arg("crds").output().unwrap();
    assert!(printed.status.success());
    documents(&String::from_utf8(printed.stdout).unwrap())
}

/// A policy about system calls of the pods of `app: web`.
fn calls(name: &str, syscall: &str) -> Value {
    json!({
        "apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorSeccompPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "syscalls": [syscall], "action": "Block"},
    })
}

fn files(name: &str, path: &str) -> Value {
    json!({
        "apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "file": {"matchPaths": [{"path": path}]}, "action": "Block"},
    })
}

/// Lists within lists, deeper than decoders go.
fn nested() -> Value {
    (0..200).fold(json!(80), |inner, _| json!([inner]))
}

/// A daemon and the runtime that it serves.
struct Node {
    dir: PathBuf,
    daemon: Option<Process>,
    runtime: FakeRuntime,
    plugin: Option<FakePlugin>,
    port: u16,
    created: u32,
    flags: Vec<String>,
}

impl Node {
    fn new(dir: &Path) -> Self {
        let runtime = FakeRuntime::bind(dir.join("nri.sock"), Options::containerd("2.4.0")).unwrap();
        fs::create_dir(dir.join("policies")).unwrap();
        Self {
            dir: dir.to_path_buf(),
            daemon: None,
            runtime,
            plugin: None,
            port: server::free_port(),
            created: 0,
            flags: Vec::new(),
        }
    }

    /// Starts the daemon; returns once it has registered with the runtime.
    async fn start(&mut self, cluster: &Cluster) {
        let at = |flag: &str, name: &str| format!("--{flag}={}", self.dir.join(name).display());
        let mut command = Command::new(program());
        command
            .args(["run", "--kube-api", "--seccomp-only", "--log-level=info,nri_plugin::api=debug"])
            .arg(format!("--kubeconfig={}", cluster.kubeconfig().display()))
            .args([at("state-dir", "state"), at("policy-dir", "policies"), at("nri-socket", "nri.sock")])
            .args([at("alerts", "alerts"), at("gate-socket", "run/gate"), at("status-socket", "run/status")])
            .args([at("open-starts", "open"), at("seccomp-dir", "seccomp"), at("ready-file", "ready")])
            .arg(format!("--metrics=127.0.0.1:{}", self.port))
            .args(&self.flags)
            .env_remove("RUST_LOG");
        self.daemon = Some(Process::start(&mut command, &self.dir.join("log")));
        let registered = tokio::time::timeout(server::LONGEST, self.runtime.accept()).await;
        self.plugin = Some(registered.unwrap_or_else(|_| panic!("no daemon comes\n{}", self.log())).unwrap());
    }

    /// A page that it serves, head and all.
    fn page(&self, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: node\r\n\r\n").as_bytes()).unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    }

    fn stop(&mut self) {
        assert_eq!(self.daemon.take().unwrap().terminate(), Some(0), "{}", self.log());
        self.plugin = None; // not before: the daemon would connect again, and be the next one that is accepted
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// What the daemon says of itself; null where nobody answers yet.
    fn status(&self) -> Value {
        let mut text = Vec::new();
        let asked =
            UnixStream::connect(self.dir.join("run/status")).and_then(|mut one| one.read_to_end(&mut text));
        asked.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    fn api(&self) -> Value {
        self.status()["daemon"]["api"].clone()
    }

    /// Waits for a state; how long that took.
    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Duration {
        let begin = Instant::now();
        let look = async || holds(&self.status()["daemon"]).then_some(());
        wait(what, look, || format!("{:#}\n{}", self.status()["daemon"], self.log())).await;
        begin.elapsed()
    }

    async fn policies(&self, number: u64) -> Duration {
        self.until(&format!("{number} policies"), |daemon| daemon["policies"] == number).await
    }

    /// Waits for a line of the log.
    async fn says(&self, text: &str) {
        let look = async || self.log().contains(text).then_some(());
        wait(text, look, || self.log()).await;
    }

    /// A container of `app: web` that there was not before, and its pod.
    fn another(&mut self) -> (PodSandbox, Container) {
        self.created += 1;
        let mut pod = PodSandbox::default();
        (pod.id, pod.name, pod.namespace) = ("pod".into(), "web-1".into(), "default".into());
        pod.uid = "uid of web-1".into();
        pod.labels.insert("app".into(), "web".into());
        let mut container = Container::default();
        (container.id, container.name) = (format!("c{}", self.created), "main".into());
        container.pod_sandbox_id.clone_from(&pod.id);
        let mut linux = LinuxContainer::default();
        linux.seccomp_profile = Some(SecurityProfile::default());
        container.linux = Some(linux);
        (pod, container)
    }

    /// Creates a container of `app: web`; whether it gets a profile, which policies make alone.
    async fn creates_confined(&mut self) -> bool {
        let (pod, container) = self.another();
        let plugin = self.plugin.as_ref().unwrap();
        let adjustment = plugin.create_container(&pod, &container).await.unwrap();
        plugin.remove_container(&pod, &container).await.unwrap();
        adjustment.linux.seccomp_policy.is_some()
    }
}

/// Whether a text is in the set on disk.
fn saved(state: &Path, text: &str) -> bool {
    fs::read_to_string(state).is_ok_and(|saved| saved.contains(text))
}

async fn start(dir: &Path) -> (Cluster, Client, Node) {
    let cluster = Cluster::start(dir).await;
    let client = cluster.client();
    client.define(&definitions()).await;
    (cluster, client, Node::new(dir))
}

/// What the definitions are for: the server takes what the daemon takes, and tells people what is wrong and what there is.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_takes_every_example_refuses_what_is_wrong_and_shows_columns() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let client = cluster.client();
    client.define(&definitions()).await;

    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policies");
    let mut count = 0;
    for file in fs::read_dir(examples).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for object in documents(&text)
            .into_iter()
            .flat_map(items)
            .filter(|one| one["kind"] != "Namespace" && one["metadata"].is_object())
        {
            client.apply(&object).await;
            count += 1;
        }
    }
    assert!(count > 20, "{count} examples");

    // what is said comes from the rules of our definitions
    let mut wrong = files("wrong", "/x");
    wrong["spec"]["file"]["matchPaths"][0]["path"] = "relative".into();
    let (code, answer) = client.try_apply(&wrong).await;
    let message = answer["message"].as_str().unwrap();
    assert_eq!(code, 422, "{answer}");
    assert!(message.contains("spec.file.matchPaths[0].path"), "{message}");
    let mut wrong = calls("wrong", "mkdir");
    wrong["spec"].as_object_mut().unwrap().remove("selector");
    let (code, answer) = client.try_apply(&wrong).await;
    let message = answer["message"].as_str().unwrap();
    assert_eq!(code, 422, "{answer}");
    assert!(message.contains("write either a `selector` of pods"), "{message}");
    // ports are no place for anything else
    let mut wrong = files("wrong", "/x");
    wrong["spec"]["network"] = json!({"matchListeners": [{"ports": nested()}]});
    let (code, answer) = client.try_apply(&wrong).await;
    let message = answer["message"].as_str().unwrap();
    assert!(code == 422 && message.contains("matchListeners[0].ports"), "{code} {message:.500}");
    // a misspelt field
    let mut wrong = files("wrong", "/x");
    wrong["spec"]["file"]["matchPathz"] = json!([]);
    let (code, answer) = client.try_apply(&wrong).await;
    assert!(code >= 400 && answer["message"].as_str().unwrap().contains("matchPathz"), "{code} {answer}");

    // `kubectl get ksp`
    client.apply(&files("shown", "/x")).await;
    let path = "/apis/security.kubearmor.com/v1/namespaces/default/kubearmorpolicies";
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let (code, answer) = client.send("GET", path, ["application/json", table], None).await;
    let columns: Vec<_> = answer["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(code, 200);
    let at = columns.iter().position(|name| *name == "Action").unwrap();
    assert!(columns.contains(&"Accepted") && columns.contains(&"Enforced"), "{columns:?}");
    let shown = answer["rows"].as_array().unwrap().iter().find(|row| row["cells"][0] == "shown").unwrap();
    assert_eq!(shown["cells"][at], "Block");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_follows_the_server_and_no_bad_object_stops_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, client, mut node) = start(dir.path()).await;
    client.apply(&calls("one", "mkdir")).await;
    node.start(&cluster).await;
    node.policies(1).await;
    node.until("all kinds", |daemon| daemon["api"]["stalenessSeconds"].is_u64()).await;
    assert!(node.api()["troubles"].as_object().unwrap().is_empty(), "{}", node.api());
    node.until("ready", |_| dir.path().join("ready").exists()).await;
    assert!(node.creates_confined().await);

    // comes, changes, goes
    let mut times = Vec::new();
    client.apply(&files("two", "/a")).await;
    times.push(node.policies(2).await);
    let changes = |node: &Node| node.log().matches("policies in force").count();
    let before = changes(&node);
    client.apply(&files("two", "/b")).await;
    times.push(node.until("another version", |_| changes(&node) > before).await);
    client.delete(&files("two", "/b")).await;
    times.push(node.policies(1).await);
    assert!(times.iter().all(|time| *time < SOON), "{times:?}");

    // a directory's policy of the same name counts, and that is told
    let ours = calls("one", "rmdir");
    fs::write(dir.path().join("policies/ours.json"), ours.to_string()).unwrap();
    node.says("the API server: the policy `default/one` is already defined in").await;
    assert_eq!(node.status()["daemon"]["policies"], 1);
    fs::remove_file(dir.path().join("policies/ours.json")).unwrap();
    node.says("every policy is good again").await;

    // a definition that lets anything in
    let mut loose = definitions()
        .into_iter()
        .find(|one| one["spec"]["names"]["kind"] == "KubeArmorSeccompPolicy")
        .unwrap();
    let (_, kept) = client.get(&server::path(&loose)).await;
    loose["metadata"]["resourceVersion"] = kept["metadata"]["resourceVersion"].clone();
    let anything =
        json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    loose["spec"]["versions"][0]["schema"] = anything;
    let (code, answer) =
        client.send("PUT", &server::path(&loose), ["application/json"; 2], Some(&loose)).await;
    assert_eq!(code, 200, "{answer}");
    let mut bad = calls("bad", "mkdir");
    bad["spec"] = json!([{"anything": null}, 7]);
    let accepted = async || matches!(client.try_apply(&bad).await.0, 200 | 201).then_some(());
    wait("the server takes anything", accepted, || node.log()).await;
    node.says(
        "KubeArmorSeccompPolicy default/bad, in the API server: spec: expected a mapping, found a list",
    )
    .await;
    // deeper than a decoder goes: no list and no watch ends by it, before or after the daemon's start
    let mut deep = calls("deep", "mkdir");
    deep["spec"] = nested();
    client.apply(&deep).await;
    node.says("KubeArmorSeccompPolicy default/deep, in the API server: cannot be read: recursion limit")
        .await;
    // a good one that goes bad keeps its last good version, and others still come
    let mut one = calls("one", "mkdir");
    one["spec"]["syscalls"] = json!(["mkdri"]);
    client.apply(&one).await;
    node.says(
        "KubeArmorSeccompPolicy default/one, in the API server: spec.syscalls[0]: `mkdri` is no system call",
    )
    .await;
    node.says("the last good version stays in force").await;
    client.apply(&calls("three", "chmod")).await;
    node.policies(2).await;
    assert!(node.creates_confined().await);
    client.delete(&calls("three", "chmod")).await;
    client.delete(&bad).await;
    client.delete(&deep).await;
    node.policies(1).await;
    assert!(node.creates_confined().await, "by what is left: the last good version of `one`");
    client.delete(&one).await;
    node.policies(0).await;
    assert!(!node.creates_confined().await);

    // whoever may not list keeps what was read, is told once, and goes on when he may
    client.apply(&files("four", "/a")).await;
    node.policies(1).await;
    cluster.forbid("kubearmorpolicies");
    cluster.cut().await;
    cluster.mend().await;
    node.until("forbidden", |daemon| {
        daemon["api"]["troubles"]["KubeArmorPolicy"].as_str().is_some_and(|why| why.contains("is forbidden"))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await; // several tries
    assert_eq!(node.log().matches("the API server refuses").count(), 1, "{}", node.log());
    assert_eq!(node.status()["daemon"]["policies"], 1);
    assert!(node.api()["stalenessSeconds"].as_u64().unwrap() >= 2, "{}", node.api());
    cluster.forbid("");
    client.apply(&files("five", "/a")).await;
    node.policies(2).await;
    // no kind was missing for long, and the server's absence was told once
    let told = |text: &str| node.log().matches(text).count();
    assert_eq!((told("knows no such kind"), told("cannot be reached")), (0, 1), "{}", node.log());
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_stay_in_force_without_the_server_over_a_restart_and_nothing_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, client, mut node) = start(dir.path()).await;
    client.apply(&calls("one", "mkdir")).await;
    client.apply(&files("two", "/a")).await;
    node.start(&cluster).await;
    node.policies(2).await;
    let state = dir.path().join("state/policies.json");
    wait("it is saved", async || state.exists().then_some(()), || node.log()).await;

    // the server goes away and comes back
    cluster.kill_server();
    node.until("unreachable", |daemon| daemon["api"]["troubles"]["KubeArmorPolicy"].is_string()).await;
    assert!(node.creates_confined().await);
    cluster.start_server().await;
    node.until("in step", |daemon| daemon["api"]["troubles"].as_object().unwrap().is_empty()).await;
    assert_eq!(node.status()["daemon"]["policies"], 2);

    // what happens while it cannot be reached is not missed
    cluster.cut().await;
    client.apply(&calls("three", "chmod")).await;
    client.delete(&files("two", "/a")).await;
    client.apply(&calls("four", "chown")).await;
    node.until("unreachable", |daemon| daemon["api"]["troubles"]["KubeArmorPolicy"].is_string()).await;
    cluster.mend().await;
    node.policies(3).await;

    // the daemon is restarted while the server is away: it enforces before the runtime can ask
    client.apply(&calls("five", "chown")).await;
    node.policies(4).await;
    cluster.cut().await;
    node.stop(); // this saves what is not
    assert!(saved(&state, "five"), "{}", fs::read_to_string(&state).unwrap());
    node.start(&cluster).await;
    assert!(node.creates_confined().await, "the very first container");
    node.policies(4).await;
    node.until("ready", |_| dir.path().join("ready").exists()).await;
    let api = node.api();
    assert_eq!(
        (&api["restored"], &api["stalenessSeconds"], &api["hasSet"]),
        (&json!(4), &Value::Null, &json!(true))
    );
    assert!(api["ageSeconds"].is_u64(), "{api}");
    let page = node.page("/metrics");
    assert!(page.contains("\nnri_enforcer_policy_staleness_seconds "), "of the last known set: {page}");
    cluster.mend().await;
    node.until("in step", |daemon| daemon["api"]["stalenessSeconds"].is_u64()).await;

    // its place in the history is lost, and what happened since is nothing that a watch could tell
    cluster.cut().await;
    client.delete(&calls("three", "chmod")).await;
    client.delete(&calls("five", "chown")).await;
    for number in 0..20 {
        client.apply(&calls("four", ["chown", "chmod"][number % 2])).await;
    }
    cluster.compact().await;
    cluster.kill_server();
    cluster.start_server().await;
    client.served(&definitions()).await;
    cluster.mend().await;
    node.policies(2).await;
    node.says("the place in the API server's history is too old").await;

    // a set that is damaged on disk
    cluster.cut().await;
    node.stop();
    let mut damaged = fs::read(&state).unwrap();
    let last = damaged.len() - 10;
    damaged[last] ^= 1;
    fs::write(&state, &damaged).unwrap();
    node.start(&cluster).await;
    node.says("its checksum is wrong").await;
    let api = node.api();
    assert!(api["notRestored"].as_str().unwrap().contains("its checksum is wrong"), "{api}");
    assert_eq!(api["hasSet"], false);
    let page = node.page("/readyz");
    assert!(page.contains(" 503 ") && page.contains("api: the API server has not been read"), "{page}");
    assert!(!node.page("/metrics").contains("policy_staleness_seconds "));
    assert!(!node.creates_confined().await && !dir.path().join("ready").exists());
    assert_eq!(fs::read(state.with_extension("json.refused")).unwrap(), damaged);
    let asked = Command::new(program())
        .arg("status")
        .arg("--status-socket")
        .arg(dir.path().join("run/status"))
        .output();
    let asked = asked.unwrap();
    let text = String::from_utf8(asked.stdout).unwrap();
    assert_eq!(asked.status.code(), Some(1), "{text}");
    assert!(
        text.contains("its policies are not in force") && text.contains("its checksum is wrong"),
        "{text}"
    );
    cluster.mend().await;
    node.policies(2).await;
    node.until("ready", |_| dir.path().join("ready").exists()).await;
    assert!(node.creates_confined().await);
    let page = node.page("/readyz");
    assert!(page.contains(" 200 ") && page.contains("api: ok"), "{page}");
    node.until("all kinds", |daemon| daemon["api"]["stalenessSeconds"].is_u64()).await;
    let page = node.page("/metrics");
    assert!(page.contains("\nnri_enforcer_policy_staleness_seconds "), "{page}");
    wait("it is saved again", async || state.exists().then_some(()), || node.log()).await;
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_goes_takes_its_policies_only_by_their_deletion() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, client, mut node) = start(dir.path()).await;
    let definition = definitions()
        .into_iter()
        .find(|one| one["spec"]["names"]["kind"] == "KubeArmorSeccompPolicy")
        .unwrap();
    client.apply(&calls("one", "mkdir")).await;
    client.apply(&files("two", "/a")).await;
    // more than a page of a list
    let mut applying = tokio::task::JoinSet::new();
    for part in 0..10 {
        let client = client.clone();
        applying.spawn(async move {
            for number in 0..55 {
                client.apply(&files(&format!("many-{part}-{number}"), "/a")).await;
            }
        });
    }
    while let Some(done) = applying.join_next().await {
        done.unwrap();
    }
    node.start(&cluster).await;
    node.policies(552).await;
    client.delete_all("/apis/security.kubearmor.com/v1/namespaces/default/kubearmorpolicies").await;
    client.apply(&files("two", "/a")).await;
    node.policies(2).await;

    // Kubernetes deletes the objects of a definition first, and says so
    client.delete(&definition).await;
    node.policies(1).await;
    let absent = |daemon: &Value| {
        daemon["api"]["troubles"]["KubeArmorSeccompPolicy"]
            .as_str()
            .is_some_and(|why| why.contains("no such kind"))
    };
    node.until("absent", absent).await;
    assert!(!node.creates_confined().await);
    client.define(std::slice::from_ref(&definition)).await;
    client.apply(&calls("one", "mkdir")).await;
    node.policies(2).await;

    // what happens while the server cannot be reached is not known: a kind that is not there says nothing about policies
    cluster.cut().await;
    client.delete(&definition).await;
    let gone = async || (client.get(&server::path(&definition)).await.0 == 404).then_some(());
    wait("the definition is gone", gone, String::new).await;
    cluster.mend().await;
    node.until("absent", absent).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.status()["daemon"]["policies"], 2);
    assert!(node.creates_confined().await);
    assert!(node.api()["stalenessSeconds"].as_u64().unwrap() >= 1, "{}", node.api());
    // an empty list does
    client.define(&[definition]).await;
    node.policies(1).await;
    assert!(!node.creates_confined().await);
    node.stop();
}
