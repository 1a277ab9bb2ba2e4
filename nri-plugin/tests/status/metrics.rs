//! What is told over HTTP, read by an independent parser.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nri::fake::{FakeRuntime, Options};
use nri_plugin::metrics::serve::CALLERS;
use serde_json::Value;

use super::{Daemon, FILES, SECCOMP, container, pod};

/// Asks for a page: the status line's code, the head and the body.
pub(super) fn get(address: &str, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_lowercase(), body.to_owned())
}

/// The families of metrics.
pub(super) struct Page(Value);

impl Page {
    pub(super) fn get(address: &str) -> Self {
        let (code, head, text) = get(address, "GET /metrics");
        assert_eq!(code, 200, "{text}");
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
        let mut parser =
            Command::new("/usr/bin/python3") // Debian's, whichever comes first in PATH
                .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/status/openmetrics.py"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
        parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = parser.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "integration-tests/setup.sh installs what it needs: {said}\n{text}");
        Self(serde_json::from_slice(&output.stdout).unwrap())
    }

    /// The sum of all samples of a name that have these labels.
    pub(super) fn sum(&self, sample: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.0.as_object().unwrap().values();
        let samples = families.flat_map(|family| family["samples"].as_array().unwrap());
        let wanted = samples.filter(|one| {
            one[0] == sample
                && labels.iter().all(|(label, value)| one[1].get(label).is_some_and(|told| told == value))
        });
        wanted.map(|one| one[2].as_f64().unwrap()).sum()
    }

    fn kind(&self, family: &str) -> &str {
        self.0.get(family).and_then(|family| family.get("type")?.as_str()).unwrap_or("missing")
    }
}

/// The address at which the daemon says that it serves.
pub(super) async fn address(daemon: &Daemon) -> String {
    daemon.wait("the address", || daemon.log().contains("serving /metrics")).await;
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("serving /metrics")).unwrap();
    line.split("address=").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_metrics_is_well_formed_and_the_values_move() {
    let flags = ["--seccomp-only", "--metrics=127.0.0.1:0", "--feed=127.0.0.1:0", "--hook=/no/such/hook"];
    let (daemon, _runtime, plugin) = Daemon::serving(&[("calls.yaml", SECCOMP)], &flags).await;
    let at = address(&daemon).await;
    let before = Page::get(&at);
    for (family, kind) in [
        ("nri_enforcer_build", "info"),
        ("nri_enforcer_verdicts", "counter"),
        ("nri_enforcer_verdicts_folded", "counter"),
        ("nri_enforcer_containers", "gauge"),
        ("nri_enforcer_container_gaps", "gauge"),
        ("nri_enforcer_policies", "gauge"),
        ("nri_enforcer_policies_changed_timestamp_seconds", "gauge"),
        ("nri_enforcer_policy_problems", "gauge"),
        ("nri_enforcer_policy_gaps", "gauge"),
        ("nri_enforcer_nri_wanted", "gauge"),
        ("nri_enforcer_nri_connected", "gauge"),
        ("nri_enforcer_nri_synchronized", "gauge"),
        ("nri_enforcer_nri_registrations", "counter"),
        ("nri_enforcer_nri_request_duration_seconds", "histogram"),
        ("nri_enforcer_kernel_operations", "counter"),
        ("nri_enforcer_kernel_failures", "counter"),
        ("nri_enforcer_alerts_written", "counter"),
        ("nri_enforcer_alerts_lost", "counter"),
        ("nri_enforcer_alerts_summarized", "counter"),
        ("nri_enforcer_feed_subscribers", "gauge"),
        ("nri_enforcer_feed_sent", "counter"),
        ("nri_enforcer_feed_lost", "counter"),
        ("nri_enforcer_feed_refused", "counter"),
        ("nri_enforcer_hook_injected", "gauge"),
        ("nri_enforcer_thread_answer_age_seconds", "gauge"),
        ("nri_enforcer_scrape_errors", "counter"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_start_time_seconds", "gauge"),
        ("process_cpu_seconds", "counter"),
        ("process_open_fds", "gauge"),
    ] {
        assert_eq!(before.kind(family), kind, "{family}");
    }
    assert_eq!(before.sum("nri_enforcer_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert_eq!(before.sum("nri_enforcer_nri_wanted", &[]), 1.0);
    assert_eq!(before.sum("nri_enforcer_nri_connected", &[]), 1.0);
    assert_eq!(before.sum("nri_enforcer_nri_synchronized", &[]), 1.0);
    assert_eq!(before.sum("nri_enforcer_nri_registrations_total", &[]), 1.0);
    assert_eq!(before.sum("nri_enforcer_hook_injected", &[]), 0.0);
    assert_eq!(before.sum("nri_enforcer_policies", &[("kind", "KubeArmorSeccompPolicy")]), 1.0);
    assert_eq!(before.sum("nri_enforcer_containers", &[]), 0.0);
    let create = [("handler", "create_container"), ("outcome", "ok")];
    let requests = "nri_enforcer_nri_request_duration_seconds_count";
    assert_eq!(before.sum(requests, &create), 0.0);
    let thread = |name| before.sum("nri_enforcer_thread_answer_age_seconds", &[("thread", name)]);
    for name in ["reconciler", "events", "alerts"] {
        assert!(thread(name) < 20.0, "{name}: {}", thread(name));
    }

    // containers come, policies change and break
    let (web, db, system) = (pod("web", "default"), pod("db", "other"), pod("web", "kube-system"));
    for (pod, id) in [(&web, "c1"), (&db, "c2"), (&system, "c3")] {
        plugin.create_container(pod, &container(pod, id)).await.unwrap();
        plugin.start_container(pod, &container(pod, id)).await.unwrap();
    }
    let mut forged = container(&web, "c4");
    forged.annotations.insert("nri-enforcer.io/ruleset".into(), "x".into());
    plugin.create_container(&web, &forged).await.unwrap_err();
    daemon.write("calls.yaml", &SECCOMP.replace("mkdir", "rmdir"));
    daemon.write("bad.yaml", "kind: Nonsense\n");
    daemon.write("files.yaml", &FILES.replace("app: web", "app: none"));
    daemon.wait("pending", || daemon.status(&[]).0 == 1).await;
    daemon.wait("the problem", || Page::get(&at).sum("nri_enforcer_policy_problems", &[]) > 0.0).await;
    let after = Page::get(&at);
    let containers = |state| after.sum("nri_enforcer_containers", &[("state", state)]);
    let states = ["armed", "pending_restart", "not_covered", "exempt", "not_selected", "ended"];
    assert_eq!(states.map(containers), [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]);
    assert_eq!(after.sum(requests, &create), 3.0);
    assert_eq!(after.sum(requests, &[("handler", "create_container"), ("outcome", "refused")]), 1.0);
    assert_eq!(after.sum(requests, &[("handler", "start_container")]), 3.0);
    assert!(after.sum("nri_enforcer_policies", &[("kind", "KubeArmorPolicy")]) > 0.0);
    let written = after.sum("nri_enforcer_alerts_written_total", &[]);
    assert!(written >= 1.0, "that it is pending is an alert: {written}");

    // the daemon is alive, and in service but for the hook that it was told to use
    for (path, wanted) in [("/healthz", 200), ("/readyz", 503)] {
        let (code, _, text) = get(&at, &format!("GET {path}"));
        assert!(code == wanted && text.contains("reconciler: ok\n"), "{path}: {code} {text}");
        let lacks = text.lines().filter(|line| !line.ends_with(": ok")).collect::<Vec<_>>();
        let hook = lacks.iter().all(|line| line.starts_with("hook: the OCI hook is not there: "));
        assert!(hook && lacks.len() == usize::from(wanted == 503), "{path}: {text}");
    }
    assert_eq!(get(&at, "GET /").0, 404);
    let (code, head, _) = get(&at, "POST /metrics");
    assert!(code == 405 && head.contains("allow: get, head"), "{head}");
    let endless = format!("GET /{}", "x".repeat(1 << 20));
    let mut stream = TcpStream::connect(&at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap(); // before whoever says nothing is hung up on
    let _refused = stream.write_all(endless.as_bytes());
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(0) => {}
        Ok(_) => assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer)),
        // what it did not read makes the kernel hang up in this way
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    let silent: Vec<_> = (0..CALLERS).map(|_| TcpStream::connect(&at).unwrap()).collect();
    let begin = Instant::now();
    assert_eq!(get(&at, "GET /healthz").0, 200);
    assert!(begin.elapsed() < Duration::from_secs(3), "those who say nothing are not waited for");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_as_long_as_the_runtime_is_there_and_alive_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nri.sock");
    let daemon = Daemon::start(dir, &[("calls.yaml", SECCOMP)], &["--seccomp-only", "--metrics=[::1]:0"]);
    let at = address(&daemon).await;
    let (code, _, text) = get(&at, "GET /readyz");
    assert!(code == 503 && text.contains("nri: not connected to the runtime\n"), "{text}");
    assert_eq!(get(&at, "GET /healthz").0, 200);
    assert_eq!(Page::get(&at).sum("nri_enforcer_nri_connected", &[]), 0.0);

    let mut runtime = FakeRuntime::bind(&socket, Options::containerd("2.4.0")).unwrap();
    let plugin = runtime.accept().await.unwrap();
    daemon.wait("ready", || get(&at, "GET /readyz").0 == 200).await;
    drop((plugin, runtime));
    daemon.wait("no more", || get(&at, "GET /readyz").0 == 503).await;
    assert_eq!(get(&at, "GET /healthz").0, 200, "a restart of this daemon would not help");

    let _old = std::fs::remove_file(&socket);
    let mut runtime = FakeRuntime::bind(&socket, Options::containerd("2.4.0")).unwrap();
    let _plugin = runtime.accept().await.unwrap();
    daemon.wait("ready again", || get(&at, "GET /readyz").0 == 200).await;
    assert_eq!(Page::get(&at).sum("nri_enforcer_nri_registrations_total", &[]), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_ready_while_containers_get_no_hook() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hook");
    std::os::unix::fs::symlink("/bin/true", &path).unwrap();
    let flags = ["--seccomp-only", "--metrics=127.0.0.1:0", &format!("--hook={}", path.display())];
    let (daemon, _runtime, _plugin) = Daemon::serving(&[("calls.yaml", SECCOMP)], &flags).await;
    let at = address(&daemon).await;
    let (code, _, text) = get(&at, "GET /readyz");
    assert!(code == 503 && text.contains("\nhook: the OCI hook is reached by a link, "), "{code} {text}");
    assert_eq!(get(&at, "GET /healthz").0, 200, "a restart of this daemon would not help");
    std::fs::remove_file(&path).unwrap();
    std::fs::copy("/bin/true", &path).unwrap();
    let (code, _, text) = get(&at, "GET /readyz");
    assert!(code == 200 && text.contains("\nhook: ok\n"), "{code} {text}");
}

#[test]
fn an_address_that_is_taken_ends_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let flag = format!("--metrics={}", taken.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir, &[("calls.yaml", SECCOMP)], &["--seccomp-only", &flag]);
    assert_eq!(daemon.process.wait().unwrap().code(), Some(1));
    assert!(daemon.log().contains("(--metrics)"), "{}", daemon.log());
}

/// Scrapes come every few seconds for years: the page of a full node takes no long time, and no memory that stays.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_full_node_is_cheap() {
    let policies: Vec<(String, String)> = (0..200)
        .map(|number| {
            (format!("p{number}.yaml"), SECCOMP.replace("name: calls", &format!("name: calls-{number}")))
        })
        .collect();
    let policies: Vec<_> = policies.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let (daemon, _runtime, plugin) =
        Daemon::serving(&policies, &["--seccomp-only", "--metrics=127.0.0.1:0"]).await;
    let at = address(&daemon).await;
    let web = pod("web", "default");
    for number in 0..1000 {
        let container = container(&web, &format!("c{number}"));
        plugin.create_container(&web, &container).await.unwrap();
        plugin.start_container(&web, &container).await.unwrap();
    }
    let resident = |page: &Page| page.sum("process_resident_memory_bytes", &[]);
    let scrape = |times: usize| {
        let begin = Instant::now();
        (0..times).for_each(|_| assert_eq!(get(&at, "GET /metrics").0, 200));
        begin.elapsed() / u32::try_from(times).unwrap()
    };
    let _warm = scrape(10);
    let before = Page::get(&at);
    assert_eq!(before.sum("nri_enforcer_containers", &[("state", "armed")]), 1000.0);
    let each = scrape(40);
    let grown = resident(&Page::get(&at)) - resident(&before);
    println!("{each:?} a page, {} MiB resident, {grown} more", resident(&before) / 1048576.0);
    assert!(each < Duration::from_secs(2), "{each:?} a page");
    assert!(grown < 8e6, "{grown} bytes more after 40 pages");
}
