//! The alert feed of the real daemon, read by a client that another implementation of gRPC generates from
//! `proto/feeder.proto`.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nri_plugin::alert::owner::Owner;
use nri_plugin::alert::{Alert, Alerts};
use nri_plugin::feed::ring::RING;
use nri_plugin::feed::serve::{CALLERS, Listener, open, serve};
use nri_plugin::feed::{Feed, messages};
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::{Daemon, SECCOMP, container, pod};

const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proto/feeder.proto");

/// A client that is running.
struct Client {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(address: &str, script: &[&str]) -> Self {
        let mut process =
            Command::new("/usr/bin/python3") // Debian's, whichever comes first in PATH
                .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/status/feed_client.py"))
                .args([PROTO, address])
                .args(script)
                .env_remove("PYTHONPATH")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// The next thing that it says.
    fn next(&mut self) -> Value {
        let line =
            self.lines.next().ok_or("integration-tests/setup.sh installs what the client needs").unwrap();
        serde_json::from_str(&line.unwrap()).unwrap()
    }

    fn end(mut self) -> Vec<Value> {
        let rest = self.lines.by_ref().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        assert!(self.process.wait().unwrap().success());
        rest
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}

/// Every field has a value of its own, so that none can be taken for another.
#[test]
fn every_field_has_the_number_that_is_published() {
    let text = |name: &str| format!("the {name}");
    let alert = Alert {
        timestamp: 1_795_373_944,
        updated_time: text("time"),
        cluster_name: text("cluster"),
        host_name: text("host"),
        namespace_name: text("namespace"),
        pod_name: text("pod"),
        labels: text("labels"),
        container_id: text("id"),
        container_name: text("container"),
        container_image: text("image"),
        host_ppid: 1,
        host_pid: 2,
        ppid: 3,
        pid: 4,
        uid: None,
        parent_process_name: text("parent"),
        process_name: text("process"),
        policy_name: text("policy"),
        policy_namespace: text("policy namespace"),
        rule: text("rule"),
        severity: text("severity"),
        tags: text("tags"),
        a_tags: vec!["one".into(), "two".into()],
        message: text("message"),
        kind: "the type",
        source: text("source"),
        operation: "the operation",
        resource: text("resource"),
        data: text("data"),
        enforcer: "the enforcer",
        action: "the action",
        result: "the result",
        cwd: text("cwd"),
        tty: text("tty"),
        owner: Owner { kind: "Deployment", name: text("owner"), namespace: text("owner's namespace") },
        count: 5,
        first_time: text("first"),
        last_time: text("last"),
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("alert");
    std::fs::write(&file, messages::Alert::from(&alert).encode_to_vec()).unwrap();
    let log = dir.path().join("log");
    std::fs::write(&log, messages::Log::from(&alert).encode_to_vec()).unwrap();
    let script = [format!("decode:Alert:{}", file.display()), format!("decode:Log:{}", log.display())];
    let decoded = Client::start("unused", &script.each_ref().map(String::as_str)).end();
    let wanted = json!({
        "Timestamp": "1795373944", "UpdatedTime": "the time", "ClusterName": "the cluster", "HostName": "the host",
        "NamespaceName": "the namespace", "PodName": "the pod", "Labels": "the labels", "ContainerID": "the id",
        "ContainerName": "the container", "ContainerImage": "the image", "HostPPID": 1, "HostPID": 2, "PPID": 3,
        "PID": 4, "UID": -1, "ParentProcessName": "the parent", "ProcessName": "the process",
        "PolicyName": "the policy", "Severity": "the severity", "Tags": "the tags", "ATags": ["one", "two"],
        "Message": "the message", "Type": "the type", "Source": "the source", "Operation": "the operation",
        "Resource": "the resource", "Data": "the data", "Enforcer": "the enforcer", "Action": "the action",
        "Result": "the result", "Cwd": "the cwd", "TTY": "the tty",
        "Owner": {"Ref": "Deployment", "Name": "the owner", "Namespace": "the owner's namespace"},
        "EventData": {"PolicyNamespace": "the policy namespace", "Rule": "the rule", "Count": "5",
            "FirstTime": "the first", "LastTime": "the last"},
    });
    let mut of_log = wanted.clone();
    let fields = of_log.as_object_mut().unwrap();
    for name in ["PolicyName", "Severity", "Tags", "ATags", "Message", "Enforcer", "Action"] {
        fields.remove(name).unwrap();
    }
    fields["EventData"]["Message"] = "the message".into();
    assert_eq!(decoded, [wanted, of_log]);
}

/// The address at which the daemon says that it serves.
async fn address(daemon: &Daemon) -> String {
    daemon.wait("the address", || daemon.log().contains("serving alerts by gRPC")).await;
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("serving alerts by gRPC")).unwrap();
    line.split("address=").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_get_what_they_ask_for() {
    let flags = ["--seccomp-only", "--feed=127.0.0.1:0"];
    let (daemon, _runtime, plugin) = Daemon::serving(&[("calls.yaml", SECCOMP)], &flags).await;
    let at = address(&daemon).await;

    let long = format!("alerts:{}:1", "x".repeat(100_000));
    let script = ["health", "alerts:system:1", "logs:policy:20", "logs:system:0.2", &long];
    let asked = Client::start(&at, &script).end();
    let wanted = [
        json!({"nonce": -7}),
        json!({"service": "", "status": [8, 1]}),
        json!({"service": "feeder.LogService", "status": [8, 1]}),
        json!({"nonsense": "UNIMPLEMENTED"}),
        json!("subscribed"),
        json!({"ended": "OK"}), // alerts are not of the system
        json!({"ended": "OK"}),
        json!({"ended": "DEADLINE_EXCEEDED"}),
        json!("subscribed"),
        json!({"ended": "OUT_OF_RANGE"}), // too long a question
    ];
    assert_eq!(asked, wanted);

    // a container is pending restart, which is an alert, and a message of the daemon
    let web = pod("web", "default");
    plugin.create_container(&web, &container(&web, "c1")).await.unwrap();
    plugin.start_container(&web, &container(&web, "c1")).await.unwrap();
    let subscribers = ["alerts:policy:1", "alerts:all:1", "messages:all:1", "messages:policy:1"];
    let mut subscribers = subscribers.map(|script| Client::start(&at, &[script]));
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.next(), "subscribed");
    }
    daemon.write("calls.yaml", &SECCOMP.replace("mkdir", "rmdir"));
    let [policy, all, messages, more] = subscribers.map(|subscriber| {
        let mut said = subscriber.end();
        assert_eq!(said.len(), 1, "{said:?}");
        said.remove(0)
    });
    assert_eq!((&policy, &messages), (&all, &more));
    let text = std::fs::read_to_string(daemon.dir.path().join("alerts")).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    for field in ["PodName", "ContainerID", "Message", "UpdatedTime", "Operation", "Enforcer", "Type", "Data"]
    {
        assert_eq!(policy.get(field), line.get(field), "{field}: {policy}\n{line}");
    }
    assert_eq!(policy.get("ContainerID"), Some(&"c1".into()));
    let message = messages.get("Message").and_then(Value::as_str).unwrap();
    assert!(message.starts_with("default/web-1/main: pending restart"), "{message}");
    assert_eq!(messages.get("Type"), Some(&"SystemEvent".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_the_file_system_is_roots_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("run/feed");
    let flag = format!("--feed=unix:{}", socket.display());
    let daemon = Daemon::start(dir, &[("calls.yaml", SECCOMP)], &["--seccomp-only", &flag]);
    let at = address(&daemon).await;
    assert_eq!(at, format!("unix:{}", socket.display()));
    let said = Client::start(&at, &["health"]).end();
    assert_eq!(said.first(), Some(&json!({"nonce": -7})));
    let mode = std::fs::metadata(socket.parent().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn an_address_that_makes_no_sense_is_refused() {
    let mut daemon =
        Daemon::start(tempfile::tempdir().unwrap(), &[("calls.yaml", SECCOMP)], &["--feed=32767"]);
    assert_eq!(daemon.process.wait().unwrap().code(), Some(2));
    assert!(daemon.log().contains("write IP:PORT"), "{}", daemon.log());
}

/// A feed that is served in this process, and its address.
async fn served() -> (std::sync::Arc<Feed>, String) {
    let feed = Feed::new(Alerts { cluster_name: "c".into(), host_name: "h".into() });
    let listener = open(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let at = if let Listener::Tcp(tcp) = &listener { tcp.local_addr().ok() } else { None };
    let at = at.unwrap().to_string();
    tokio::spawn(serve(listener, std::sync::Arc::clone(&feed)));
    (feed, at)
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_come_to_who_watches_logs() {
    let (feed, at) = served().await;
    let client = tokio::task::spawn_blocking(move || Client::start(&at, &["logs:system:20"]));
    let mut client = client.await.unwrap();
    while !feed.has_readers_of_logs() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    feed.publish(&Alert { pid: 1, count: 1, ..Alert::default() }.into());
    let log = Alert { pid: 2, count: 1, kind: nri_plugin::observe::log::CONTAINER_LOG, ..Alert::default() };
    feed.publish_log(&log.into());
    let said = client.next();
    assert_eq!((said.get("PID"), said.get("Type")), (Some(&2.into()), Some(&"ContainerLog".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_loses_and_the_others_do_not_notice() {
    let (feed, at) = served().await;
    let count = 10_000;
    let mut stuck = Client::start(&at, &["alerts:all:1000000"]);
    let mut quick = Client::start(&at, &[&format!("alerts:all:{count}")]);
    for client in [&mut stuck, &mut quick] {
        assert_eq!(client.next(), "subscribed");
    }
    let stuck_process = Pid::from_raw(i32::try_from(stuck.process.id()).unwrap());
    kill(stuck_process, Signal::SIGSTOP).unwrap();
    let mut longest = Duration::ZERO;
    let batch = RING / 4; // what the quick one reads meanwhile
    for begin in (1..=count).step_by(batch) {
        let numbers = begin..=count.min(begin + batch - 1);
        for number in numbers.clone() {
            let alert = Alert {
                pid: u32::try_from(number).unwrap(),
                count: 1,
                message: "x".repeat(500),
                ..Alert::default()
            };
            let begin = Instant::now();
            feed.publish(&alert.into());
            longest = longest.max(begin.elapsed());
        }
        for number in numbers {
            assert_eq!(quick.next().get("PID"), Some(&number.into()), "nothing is missing");
        }
    }
    assert!(longest < Duration::from_secs(1), "who reports waited {longest:?}");
    kill(stuck_process, Signal::SIGCONT).unwrap();
    let (mut seen, mut missing) = (0, 0);
    while seen + missing < count {
        let said = stuck.next();
        match said.get("PID") {
            Some(number) => {
                seen += 1;
                assert_eq!(number, &Value::from(seen + missing), "in their order, after what is missing");
            }
            None => {
                let message = said.get("Message").and_then(Value::as_str).unwrap();
                let lost: usize = message.split(' ').next().unwrap().parse().unwrap();
                assert!(message.contains("are missing here"), "{message}");
                missing += lost;
            }
        }
    }
    assert!(missing > 0 && seen >= RING, "{missing} missing, {seen} seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_say_nothing_lose_their_places() {
    let flags = ["--seccomp-only", "--feed=127.0.0.1:0"];
    let (daemon, _runtime, _plugin) = Daemon::serving(&[("calls.yaml", SECCOMP)], &flags).await;
    let at = address(&daemon).await;
    let mut silent = Vec::new();
    for number in 0..CALLERS {
        let socket = TcpSocket::new_v4().unwrap();
        let from = format!("127.0.0.{}:0", 2 + number / 4); // what one address may have
        socket.bind(from.parse().unwrap()).unwrap();
        silent.push(socket.connect(at.parse().unwrap()).await.unwrap());
    }
    let full = "all connections of the alert feed are taken";
    daemon.wait("the warning", || daemon.log().contains(full)).await;
    let begin = Instant::now();
    let said = tokio::task::spawn_blocking(move || Client::start(&at, &["health"]).end()).await.unwrap();
    assert_eq!(said.first(), Some(&json!({"nonce": -7})));
    assert!(begin.elapsed() > Duration::from_secs(3), "there are {CALLERS} places");
    assert_eq!(daemon.log().matches(full).count(), 1, "once");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_so_many_streams_on_all_its_connections() {
    let (_feed, at) = served().await;
    let said = tokio::task::spawn_blocking(move || Client::start(&at, &["many:9"]).end()).await.unwrap();
    assert_eq!(said, [json!({"DEADLINE_EXCEEDED": 8, "RESOURCE_EXHAUSTED": 1})]);
}
