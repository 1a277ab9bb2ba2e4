//! The dashboard and the alerts: each query is about metrics that a daemon serves.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use nri::fake::{FakeRuntime, Options};
use nri::{Container, PodSandbox};
use nri_plugin::api::object::Resource;
use nri_plugin::api::saved::{Directory, Saved};
use regex::Regex;
use serde_json::Value;

use super::helm::{self, at, list, of_kind};
use super::page::Page;

/// What only a daemon with programs in the kernel has, or has samples of; see `node.rs`.
const OF_KERNELS: [&str; 7] = [
    "kernel_failures",
    "kernel_operations",
    "map_entries",
    "map_limit",
    "ring_dropped",
    "ring_logs_dropped",
    "verdicts",
];
const POLICY: &str = include_str!("../../../examples/policies/block-etc-passwd-read.yaml");
/// No node enforces it.
const GAP: &str = "apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: names, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  network: {matchDNSQueries: [{domain: example.org}]}
  action: Block
";
const LONGEST: Duration = Duration::from_secs(60);

/// The panels' queries, with their titles.
fn panels(objects: &[Value]) -> Result<Vec<(String, String)>> {
    let dashboard: Value = serde_json::from_str(&helm::config(objects, "nri-enforcer.json")?)?;
    let mut queries = Vec::new();
    let mut numbers = BTreeSet::new();
    for panel in list(&dashboard, "/panels") {
        let title = at(panel, "/title").to_owned();
        ensure!(
            numbers.insert(panel.get("id").map(ToString::to_string)),
            "two panels have the number of {title}"
        );
        let targets: Vec<_> = list(panel, "/targets").map(|target| at(target, "/expr")).collect();
        ensure!(at(panel, "/type") == "row" || !targets.is_empty(), "{title} asks nothing");
        queries.extend(targets.into_iter().map(|query| (title.clone(), query.to_owned())));
    }
    ensure!(queries.len() > 35, "{} queries", queries.len());
    Ok(queries)
}

/// The alerts' expressions, with their names.
fn alerts(objects: &[Value]) -> Result<Vec<(String, String)>> {
    let rules = of_kind(objects, "PrometheusRule").next().context("a PrometheusRule")?;
    let groups = list(rules, "/spec/groups").flat_map(|group| list(group, "/rules"));
    let found: Vec<_> =
        groups.map(|rule| (at(rule, "/alert").to_owned(), at(rule, "/expr").to_owned())).collect();
    ensure!(found.len() >= 5 && found.iter().all(|(name, _)| name.starts_with("NriEnforcer")), "{found:?}");
    Ok(found)
}

fn objects() -> Result<Vec<Value>> {
    helm::objects(&["dashboard.enabled=true", "metrics.rules.enabled=true", "crds.install=false"])
}

/// Every query of the chart.
pub fn queries() -> Result<Vec<(String, String)>> {
    let objects = objects()?;
    let mut queries = [panels(&objects)?, alerts(&objects)?].concat();
    let dashboard: Value = serde_json::from_str(&helm::config(&objects, "nri-enforcer.json")?)?;
    let variables = list(&dashboard, "/templating/list").map(|variable| at(variable, "/definition"));
    queries.extend(
        variables.filter(|query| !query.is_empty()).map(|query| ("variable".into(), query.to_owned())),
    );
    Ok(queries)
}

/// Whether only a daemon with programs in the kernel can answer the query.
pub fn is_of_kernels(query: &str) -> bool {
    OF_KERNELS.iter().any(|name| query.contains(&format!("nri_enforcer_{name}")))
}

/// Checks queries against a page that has samples of everything that they ask.
pub fn check<'a>(page: &Page, queries: impl Iterator<Item = &'a (String, String)>) -> Result<()> {
    for (title, query) in queries {
        let unknown = page.check(query).with_context(|| format!("{title}: `{query}`"))?;
        ensure!(unknown.is_empty(), "{title}: no samples of {unknown:?}, and so no labels");
    }
    Ok(())
}

/// A page that is served at an address.
pub fn get(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: node\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a page")?;
    ensure!(head.contains(" 200 "), "{head}");
    Ok(body.to_owned())
}

struct Daemon {
    dir: PathBuf,
    process: Child,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}

impl Daemon {
    /// One that tells the API server, has a last known set of it, and cannot reach it; that serves the feed; and that has no
    /// hook where it was told that there is one.
    fn start(dir: &Path) -> Result<Self> {
        fs::create_dir(dir.join("policies"))?;
        fs::write(dir.join("policies/files.yaml"), POLICY)?;
        fs::write(dir.join("policies/gap.yaml"), GAP)?;
        let saved = Saved {
            when: SystemTime::now() - Duration::from_secs(3600),
            read: Resource::ALL.into_iter().collect(),
            more: BTreeSet::new(),
            objects: Vec::new(),
        };
        Directory::open(&dir.join("state"))?.save(saved)?;
        fs::write(
            dir.join("kubeconfig"),
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]\n\
             contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n",
        )?;
        let own = std::env::current_exe()?;
        let program =
            own.ancestors().skip(1).take(2).map(|dir| dir.join("nri-enforcer")).find(|path| path.is_file());
        let program = program.context("`nri-enforcer` is not built: run `cargo build -p nri-plugin`")?;
        let at = |flag: &str, name: &str| format!("--{flag}={}", dir.join(name).display());
        let log = fs::File::create(dir.join("log"))?;
        let process = Command::new(program)
            .args(["run", "--seccomp-only", "--kube-api", "--kube-status", "--kube-status-interval=1"])
            .args([at("kubeconfig", "kubeconfig"), at("state-dir", "state"), at("policy-dir", "policies")])
            .args([at("nri-socket", "nri.sock"), at("alerts", "alerts"), at("gate-socket", "run/gate")])
            .args([
                at("status-socket", "run/status"),
                at("open-starts", "open"),
                at("seccomp-dir", "seccomp"),
            ])
            .args(["--metrics=127.0.0.1:0", "--feed=127.0.0.1:0", "--hook=/no/such/hook"])
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { dir: dir.to_owned(), process })
    }

    async fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
        let begin = Instant::now();
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            ensure!(begin.elapsed() < LONGEST, "waited in vain: {what}\n{}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_is_about_what_a_daemon_serves() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut runtime = FakeRuntime::bind(dir.path().join("nri.sock"), Options::containerd("2.4.0"))?;
    let daemon = Daemon::start(dir.path())?;
    let plugin = tokio::time::timeout(LONGEST, runtime.accept()).await.context("no daemon comes")??;
    let mut pod = PodSandbox::default();
    (pod.id, pod.name, pod.namespace) = ("pod".into(), "web-1".into(), "default".into());
    let mut container = Container::default();
    (container.id, container.name, container.pod_sandbox_id) = ("c1".into(), "main".into(), "pod".into());
    plugin.create_container(&pod, &container).await?;
    // one that a policy selects, with an annotation that is not the pod's to write
    pod.labels.insert("app".into(), "my-web-app".into());
    container.annotations.insert("nri-enforcer.io/ruleset".into(), "forged".into());
    ensure!(plugin.create_container(&pod, &container).await.is_err(), "a creation that is refused");
    // who asks at the gate, and makes no sense, is refused
    let nonsense = b"nonsense";
    let mut gate = UnixStream::connect(dir.path().join("run/gate"))?;
    gate.write_all(&u32::try_from(nonsense.len())?.to_be_bytes())?;
    gate.write_all(nonsense)?;
    gate.read_to_end(&mut Vec::new())?;

    let address = || {
        let log = fs::read_to_string(dir.path().join("log")).ok()?;
        let line = log.lines().find(|line| line.contains("serving /metrics"))?;
        Some(line.split("address=").nth(1)?.split(' ').next()?.to_owned())
    };
    let address = daemon.until("the address", address).await?;
    let failed = || {
        get(&address).ok().filter(|text| {
            text.contains("outcome=\"failed\"") && text.contains("_gate_question_duration_seconds_bucket")
        })
    };
    let page = Page::read(&daemon.until("an event that cannot be written", failed).await?)?;
    let queries = queries()?;
    check(&page, queries.iter().filter(|(_, query)| !is_of_kernels(query)))?;
    let panels = panels(&objects()?)?;
    let unseen = page.unasked(panels.iter().map(|(_, query)| query.as_str()))?;
    ensure!(unseen.is_empty(), "no panel shows {unseen:?}");
    Ok(())
}

/// Slips that a look at the panels would not show: brackets that do not close, a node that is not the one that was chosen.
#[test]
fn queries_make_sense() -> Result<()> {
    let objects = objects()?;
    for (title, query) in queries()? {
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            let count = |wanted| query.chars().filter(|char| *char == wanted).count();
            ensure!(count(open) == count(close), "{title}: `{query}`");
        }
    }
    let named = Regex::new(r"\b(nri_enforcer|process)_[a-z_]+")?;
    for (title, query) in panels(&objects)? {
        let chosen = query.matches("node=~\"$node\"").count();
        ensure!(chosen == named.find_iter(&query).count(), "{title}: `{query}` asks all nodes");
    }
    for (name, query) in alerts(&objects)? {
        ensure!(query.contains("by (node"), "{name}: `{query}` does not say which node");
    }
    Ok(())
}

/// What an alert says names labels that its expression has.
#[test]
fn alerts_name_what_they_have() -> Result<()> {
    let named = Regex::new(r"\{\{ \$labels\.([a-z_]+) \}\}")?;
    let objects = objects()?;
    let rules = of_kind(&objects, "PrometheusRule").next().context("a PrometheusRule")?;
    for rule in list(rules, "/spec/groups").flat_map(|group| list(group, "/rules")) {
        let (name, expression) = (at(rule, "/alert"), at(rule, "/expr"));
        let texts = ["/annotations/summary", "/annotations/description"].map(|text| at(rule, text));
        ensure!(texts.iter().all(|text| text.len() > 20), "{name} says nothing");
        for label in texts.iter().flat_map(|text| named.captures_iter(text)) {
            let labels = expression.split("by (").nth(1).and_then(|rest| rest.split(')').next());
            let has = labels.is_some_and(|labels| labels.split(", ").any(|one| one == &label[1]));
            ensure!(has, "{name}: `{}` is not in `{expression}`", &label[1]);
        }
        ensure!(!at(rule, "/for").is_empty() && !at(rule, "/labels/severity").is_empty(), "{name}");
    }
    Ok(())
}
