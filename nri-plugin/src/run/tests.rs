use super::*;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use enforcer_core::decide::Verdict;
use enforcer_core::ruleset::{Class, OriginId};
use nix::time::{ClockId, clock_gettime};
use nri::fake::{FakeRuntime, Options};
use nri::{Container, PodSandbox};

use crate::cli::{Cli, Command};
use crate::kernel::recording::Recording;
use enforcer_core::enforce::ContainerId;
use enforcer_core::event::{Event, EventBy, Op};

const POLICY: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p, namespace: n}\n\
    spec:\n  selector: {matchLabels: {app: web}}\n  file: {matchPaths: [{path: /etc/passwd}]}\n  action: Block\n";

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn no_apparmor() -> Result<apparmor::Profiles, Unopened> {
    Err(Unopened::Unsupported(anyhow::anyhow!("no AppArmor")))
}

fn config(dir: &Path) -> Config {
    let flag = |name: &str, file: &str| format!("--{name}={}", dir.join(file).display());
    let args = [
        "nri-enforcer".into(),
        "run".into(),
        flag("policy-dir", "policies"),
        flag("alerts", "alerts"),
        flag("logs", "logs"),
        flag("ready-file", "ready"),
        flag("nri-socket", "nri.sock"),
        flag("gate-socket", "gate/gate.sock"),
        flag("status-socket", "gate/status.sock"),
        flag("open-starts", "open-starts"),
        format!("--metrics={}", free_address()),
    ];
    match Cli::parse_from(args).command {
        Command::Run(args) => Config::new(*args, None).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// An address at which nobody listens.
fn free_address() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The page of metrics.
fn metrics(address: std::net::SocketAddr) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn alerts(dir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(dir.join("alerts")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The only test that may raise signals: they reach the whole process.
#[test]
fn the_daemon_from_its_start_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    std::fs::create_dir(path("policies")).unwrap();
    std::fs::write(path("policies/p.yaml"), POLICY).unwrap();
    std::fs::write(path("ready"), "of an earlier daemon").unwrap();
    let open = nri_enforcer_hook::spool::OpenStart {
        time_millis: 1_795_373_944_000,
        id: "c0".into(),
        namespace: "n".into(),
        reason: "nobody listens".into(),
        ..Default::default()
    };
    nri_enforcer_hook::spool::record(&path("open-starts"), &open).unwrap();

    let kernel = Arc::<Recording>::default();
    let config = config(dir.path());
    let address = config.metrics.unwrap();
    let daemon = {
        let kernel = Arc::clone(&kernel);
        std::thread::spawn(move || run(config, |_| Ok(kernel), no_apparmor))
    };
    wait("the old ready file goes", || !path("ready").exists());

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut fake = runtime
        .block_on(async { FakeRuntime::bind(path("nri.sock"), Options::containerd("2.1.9")) })
        .unwrap();
    let plugin = runtime.block_on(fake.accept()).unwrap();
    wait("ready", || path("ready").exists());

    // what the hook let through meanwhile is told
    wait("an alert about it", || alerts(dir.path()).len() == 1);
    let alert = &alerts(dir.path())[0];
    assert_eq!((&alert["ContainerID"], &alert["Data"]), (&"c0".into(), &"notice=open".into()));
    let message = alert["Message"].as_str().unwrap();
    assert!(message.contains("2026-11-22T18:59:04") && message.contains("nobody listens"), "{message}");
    // and so is what it lets through while the daemon lives, and refuses
    let open = nri_enforcer_hook::spool::OpenStart {
        id: "c00".into(),
        time_millis: open.time_millis + 1, // a name of its own
        ..open
    };
    nri_enforcer_hook::spool::record(&path("open-starts"), &open).unwrap();
    wait("an alert about that, too", || alerts(dir.path()).len() == 2);
    assert_eq!(alerts(dir.path())[1]["ContainerID"], "c00");
    wait("what was told goes", || std::fs::read_dir(path("open-starts")).unwrap().count() == 0);

    // a selected container starts (in this very process, which certainly lives)
    let mut pod = PodSandbox::default();
    (pod.name, pod.namespace) = ("web-1".into(), "n".into());
    pod.labels.insert("app".into(), "web".into());
    let mut container = Container::default();
    (container.id, container.name, container.pid) = ("c1".into(), "main".into(), std::process::id());
    runtime.block_on(plugin.start_container(&pod, &container)).unwrap();
    let before = kernel.digest("c1").expect("armed");

    // the kernel denies something
    let event = Event {
        detail: enforcer_core::event::Detail::Path,
        text: vec![],
        container: Some(ContainerId::new("c1").unwrap()),
        ruleset: Some(before),
        class: Class::File,
        op: Op::OpenRead,
        verdict: Verdict::Block,
        by: EventBy::Rule(OriginId(0)),
        strongest: None,
        path: b"/etc/passwd".to_vec(),
        source: b"/bin/cat".to_vec(),
        host_pid: 1,
        host_ppid: 1,
        pid: 1,
        ppid: 0,
        uid: 0,
        comm: "cat".into(),
        parent_comm: "sh".into(),
        path_truncated: false,
        writes: false,
        args: None,
        host_tid: 1,
        time_ns: Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap())
            .as_nanos()
            .try_into()
            .unwrap(),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    kernel.emit.send(event.clone()).unwrap();
    wait("an alert", || alerts(dir.path()).len() == 3);
    let alert = &alerts(dir.path())[2];
    assert_eq!((&alert["PodName"], &alert["PolicyName"]), (&"web-1".into(), &"p".into()));
    assert!(alert["Timestamp"].as_u64().unwrap().abs_diff(now) <= 5, "{alert}");

    // and so is the number
    wait("written", || metrics(address).contains("nri_enforcer_alerts_written_total 3\n"));
    let page = metrics(address);
    for line in [
        "nri_enforcer_verdicts_total{namespace=\"n\",policy_namespace=\"n\",policy=\"p\",rule=\"spec.file.matchPaths[0]\",\
         operation=\"File\",action=\"Block\"} 1",
        "nri_enforcer_kernel_operations_total{kind=\"blocked\"} 5",
        "nri_enforcer_kernel_failures_total{place=\"raced\"} 1",
        "nri_enforcer_ring_dropped_total 3",
        "nri_enforcer_map_entries{map=\"containers\"} 1",
        "nri_enforcer_map_limit{map=\"rulesets\"} 16",
        "nri_enforcer_policies{kind=\"KubeArmorPolicy\"} 1",
    ] {
        assert!(page.lines().any(|told| told == line), "no `{line}` in\n{page}");
    }

    // what is only to be seen is a log, and neither an alert nor a verdict of a policy; so is a flood of it
    let seen =
        Event { verdict: Verdict::Audit, by: EventBy::Observed, path: b"/seen".to_vec(), ..event.clone() };
    for _ in 0..500 {
        kernel.emit.send(seen.clone()).unwrap();
    }
    wait("logs", || metrics(address).contains("nri_enforcer_observations_total 500\n"));
    wait("written logs", || !metrics(address).contains("nri_enforcer_logs_written_total 0\n"));
    let log = std::fs::read_to_string(path("logs")).unwrap();
    let log: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!((&log["Type"], &log["Resource"]), (&"ContainerLog".into(), &"/seen".into()));
    assert_eq!(alerts(dir.path()).len(), 3);
    assert!(!metrics(address).contains("action=\"Audit\""), "no policy has anything to do with it");

    watched(&path("gate/admin.sock"), &kernel, &seen, before);

    // a change of the policies reaches the container; a bad one does not take the good one away
    std::fs::write(path("policies/p.yaml"), POLICY.replace("/etc/passwd", "/etc/shadow")).unwrap();
    wait("another ruleset", || kernel.digest("c1") != Some(before));
    let good = kernel.digest("c1");
    std::fs::write(path("policies/p.yaml"), POLICY.replace("matchPaths", "matchPathz")).unwrap();
    std::fs::write(path("policies/q.yaml"), POLICY.replace("name: p", "name: q")).unwrap();
    wait("both policies", || kernel.digest("c1") != good);
    let both = kernel.digest("c1").unwrap();
    std::fs::remove_file(path("policies/q.yaml")).unwrap();
    wait("only the last good one", || kernel.digest("c1") == good);
    assert_ne!(Some(both), good);

    // a flood is told in summaries, at the latest at the end
    for _ in 0..500 {
        kernel.emit.send(event.clone()).unwrap();
    }
    wait("all of it counted", || metrics(address).contains("action=\"Block\"} 501\n"));

    // SIGHUP opens the alerts again
    std::fs::rename(path("alerts"), path("alerts.1")).unwrap();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).unwrap();
    let mut emitted = 501;
    wait("a new alerts file", || {
        emitted += 1;
        kernel.emit.send(event.clone()).unwrap();
        !alerts(dir.path()).is_empty()
    });

    // whoever is connected does not hold up the end, which is when all alerts are written
    let open = std::net::TcpStream::connect(address).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
    daemon.join().unwrap().expect("a clean end");
    assert!(begin.elapsed() < Duration::from_secs(1), "it took {:?} to end", begin.elapsed());
    drop(open);
    let logs = std::fs::read_to_string(path("logs")).unwrap();
    let counts = logs
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["Count"].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), 503, "all logs are told, most in summaries, and those of the watch");
    std::fs::rename(path("alerts"), path("alerts.2")).unwrap();
    let files = ["alerts.1", "alerts.2"].map(|name| std::fs::read_to_string(path(name)).unwrap());
    let all = files.iter().flat_map(|text| text.lines());
    let all = all.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let counts: Vec<u64> =
        all.filter(|one| one["PolicyName"] == "p").map(|one| one["Count"].as_u64().unwrap()).collect();
    assert!(counts.len() < 401 && counts.iter().any(|count| *count > 1), "{counts:?}");
    let sum: u64 = counts.iter().sum();
    assert!((501..=emitted).contains(&sum), "{sum} of {emitted}, the last of which may not have been read");
    assert!(!path("ready").exists() && !path("gate/gate.sock").exists());
    assert_eq!(kernel.ids(), ["c1"], "what is armed stays armed");
}

/// Somebody watches a container: it is visible as long as the connection lives, and what it does is told at the end.
fn watched(socket: &Path, kernel: &Recording, seen: &Event, before: enforcer_core::ruleset::RulesetDigest) {
    use std::io::{BufRead, BufReader, Write};
    let ask = |time: u64| {
        let mut daemon = std::os::unix::net::UnixStream::connect(socket).unwrap();
        let wanted = format!(
            "{{\"request\":\"watch\",\"namespace\":\"n\",\"pod\":\"web-1\",\"labels\":{{}},\"classes\":\"file,process\",\"time\":{time},\
             \"patience\":60000}}\n"
        );
        daemon.write_all(wanted.as_bytes()).unwrap();
        daemon
    };
    let visible = |wanted: bool| {
        wait("visible, or not", || (kernel.digest("c1") != Some(before)) == wanted);
    };
    let mut answers = BufReader::new(ask(200)).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&answers.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["containers"], serde_json::json!(["c1"]));
    visible(true);
    kernel.emit.send(seen.clone()).unwrap();
    let write = Event { op: Op::OpenWrite, path: b"/w\xff".to_vec(), ..seen.clone() };
    kernel.emit.send(write).unwrap();
    kernel.emit.send(Event { verdict: Verdict::Block, by: EventBy::DefaultPosture, ..seen.clone() }).unwrap();
    let other = Some(ContainerId::new("c2").unwrap());
    kernel.emit.send(Event { container: other, path: b"/other".to_vec(), ..seen.clone() }).unwrap();
    let report = loop {
        let answer = next();
        if answer["answer"] == "seen" {
            break answer["report"].clone();
        }
    };
    let done = serde_json::json!([
        {"what": {"read": "/seen"}, "source": "/bin/cat"},
        {"what": {"write": "/w\\xff"}, "source": "/bin/cat"},
    ]);
    assert_eq!((&report["done"], &report["denied"], &report["events"]), (&done, &1.into(), &3.into()));
    assert_eq!((&report["dropped"], &report["lost"]), (&0.into(), &0.into()));
    let container = &report["containers"][0];
    assert_eq!(
        (&container["ranBefore"], &container["policies"]),
        (&true.into(), &serde_json::json!(["n/p"]))
    );
    visible(false);
    // whoever watched is gone
    let watcher = ask(3_600_000);
    visible(true);
    drop(watcher);
    visible(false);
}

#[test]
fn a_lock_that_fails_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("policies")).unwrap();
    let open = |_: &Config| Err(Unopened::Failed(anyhow::anyhow!("another daemon is here")));
    let error = run::<Arc<Recording>>(config(dir.path()), open, no_apparmor).unwrap_err();
    assert_eq!(error.to_string(), "another daemon is here");
}

#[test]
fn a_policy_directory_that_is_not_there_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let error =
        run::<Arc<Recording>>(config(dir.path()), |_| panic!("never asked"), no_apparmor).unwrap_err();
    assert!(error.to_string().contains("policies"), "{error}");
}

/// A daemon that left out what it may not believe would enforce less than it is told to.
#[test]
fn with_strict_policies_that_others_can_write_end_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let policies = dir.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    std::fs::set_permissions(&policies, std::fs::Permissions::from_mode(0o777)).unwrap();
    let config = Config { strict: true, ..config(dir.path()) };
    let error =
        run::<Arc<Recording>>(config, |_| panic!("never asked"), no_apparmor).unwrap_err().to_string();
    assert!(error.contains("can be changed by others than root") && error.contains("--strict"), "{error}");
}

/// Of the API server any policy may come, so that seccomp policies alone are no reason to go on without the kernel.
#[test]
fn with_the_api_server_a_lock_that_fails_ends_the_start_in_any_case() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("policies")).unwrap();
    let policy = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\nmetadata: {name: p, namespace: n}\n\
        spec:\n  selector: {matchLabels: {app: web}}\n  syscalls: [mkdir]\n  action: Block\n";
    std::fs::write(dir.path().join("policies/p.yaml"), policy).unwrap();
    let config = Config { kube_api: true, state_dir: dir.path().join("state"), ..config(dir.path()) };
    let open = |_: &Config| Err(Unopened::Failed(anyhow::anyhow!("another daemon is here")));
    let error = run::<Arc<Recording>>(config, open, no_apparmor).unwrap_err();
    assert!(format!("{error:#}").contains("another daemon is here"), "{error:#}");
}

/// A kubeconfig for a server that does not answer.
fn nobody(dir: &Path) -> PathBuf {
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    let path = dir.join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

/// A daemon that went on without one of them would look well from outside.
#[test]
fn the_end_of_any_part_ends_the_daemon_and_is_named() {
    for name in [
        "the gate of the OCI hook",
        "the socket of `apply`",
        "the socket of `status`",
        "the alert feed",
        "the page of metrics",
        "the watch of the policies",
        "the watch of the connection",
        "the watch of the reconciler",
        "the sweep",
        "the watch of the hook's open starts",
        "telling the cluster",
        "following the API server",
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("policies")).unwrap();
        let config = Config {
            kube_api: true,
            kube_status: true,
            kubeconfig: Some(nobody(dir.path())),
            state_dir: dir.path().join("state"),
            feed: Some(format!("unix:{}", dir.path().join("gate/feed.sock").display()).parse().unwrap()),
            ..config(dir.path())
        };
        let parts = [Parts::failing(name), Parts::failing(name)];
        let error = run_with(config, |_| Ok(Arc::<Recording>::default()), no_apparmor, parts)
            .unwrap_err()
            .to_string();
        assert_eq!(error, format!("{name} ended: it panicked: a fault of {name}"));
    }
}

#[test]
fn without_nri_the_end_of_the_look_for_what_runs_ends_the_daemon() {
    let (dir, name) = (tempfile::tempdir().unwrap(), "the look for what runs");
    std::fs::create_dir(dir.path().join("policies")).unwrap();
    let config = Config { nri_socket: None, ..config(dir.path()) };
    let parts = [Parts::failing(name), Parts::default()];
    let error = run_with(config, |_| Ok(Arc::<Recording>::default()), no_apparmor, parts).unwrap_err();
    assert_eq!(error.to_string(), format!("{name} ended: it panicked: a fault of {name}"));
}

/// The last known set is read before anything else is done; a directory that cannot be used ends the start.
#[test]
fn a_state_directory_that_is_none_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("policies")).unwrap();
    std::fs::write(dir.path().join("state"), "a file").unwrap();
    let config = Config { kube_api: true, state_dir: dir.path().join("state"), ..config(dir.path()) };
    let error = run::<Arc<Recording>>(config, |_| panic!("never asked"), no_apparmor).unwrap_err();
    assert!(format!("{error:#}").contains("state"), "{error:#}");
}
