//! The daemon as users run it, against a fake runtime, and what `status` says about it. It loads nothing into the kernel.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "status/alerts.rs"]
mod alerts;
#[path = "status/apply.rs"]
mod apply;
#[path = "status/diff.rs"]
mod diff;
#[path = "status/explain.rs"]
mod explain;
#[path = "status/feed.rs"]
mod feed;
#[path = "status/log.rs"]
mod log;
#[path = "status/metrics.rs"]
mod metrics;
#[path = "status/top.rs"]
mod top;
#[path = "status/without_nri.rs"]
mod without_nri;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nri::fake::{FakePlugin, FakeRuntime, Options};
use nri::{Container, LinuxContainer, PodSandbox, SecurityProfile};
use serde_json::Value;

/// A seccomp policy for the pods of `app: web`.
const SECCOMP: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\n\
    metadata: {name: calls, namespace: default}\nspec:\n  selector: {matchLabels: {app: web}}\n  \
    syscalls: [mkdir]\n  action: Block\n";
const FILES: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\n\
    metadata: {name: files, namespace: default}\nspec:\n  selector: {matchLabels: {app: web}}\n  \
    file: {matchPaths: [{path: /etc/passwd}]}\n  action: Block\n";

struct Daemon {
    dir: tempfile::TempDir,
    process: Child,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}

impl Daemon {
    /// Starts it; its socket is at the path `nri.sock`.
    fn start(dir: tempfile::TempDir, policies: &[(&str, &str)], more: &[&str]) -> Self {
        fs::create_dir(dir.path().join("policies")).unwrap();
        for (name, text) in policies {
            fs::write(dir.path().join("policies").join(name), text).unwrap();
        }
        let process = Self::spawn(dir.path(), more);
        Self { dir, process }
    }

    fn spawn(dir: &Path, more: &[&str]) -> Child {
        let log = File::create(dir.join("log")).unwrap();
        Self::command(dir, more).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    fn command(dir: &Path, more: &[&str]) -> Command {
        let at = |flag: &str, name: &str| format!("--{flag}={}", dir.join(name).display());
        // what securityfs tells of locks is there on any machine: where it is not mounted a lock fails, and none is missing
        let mounted = "/bin/mount -t securityfs securityfs /sys/kernel/security 2>&- ; exec \"$0\" \"$@\"";
        let mut command = Command::new("/usr/bin/unshare");
        command
            .args(["--mount", "/bin/sh", "-c", mounted, env!("CARGO_BIN_EXE_nri-enforcer"), "run"])
            .args([at("policy-dir", "policies"), at("alerts", "alerts")])
            .args((!more.contains(&"--nri-socket=none")).then(|| at("nri-socket", "nri.sock")))
            .args([at("gate-socket", "run/gate"), at("status-socket", "run/status")])
            .args([at("open-starts", "open"), at("seccomp-dir", "seccomp"), at("ready-file", "ready")])
            .args(more)
            .env_remove("RUST_LOG")
            .env("PATH", "/nonexistent") // no test depends on what is installed
            .stdin(Stdio::null());
        command
    }

    /// The same, in service.
    async fn serving(policies: &[(&str, &str)], more: &[&str]) -> (Self, FakeRuntime, FakePlugin) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::containerd("2.4.0");
        let mut runtime = FakeRuntime::bind(dir.path().join("nri.sock"), options).unwrap();
        let daemon = Self::start(dir, policies, more);
        let plugin = runtime.accept().await.unwrap();
        daemon.wait("ready", || daemon.dir.path().join("ready").exists()).await;
        (daemon, runtime, plugin)
    }

    async fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < Duration::from_secs(20), "waited in vain: {what}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join("policies").join(name);
        fs::write(path, text).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/status")
    }

    fn status(&self, more: &[&str]) -> (i32, String, String) {
        end(&asking(&self.socket()).args(more).output().unwrap())
    }

    /// The answer as JSON, and the exit code.
    fn told(&self, more: &[&str]) -> (i32, Value) {
        let (code, out, err) = self.status(&[more, &["-o", "json"]].concat());
        assert_eq!(err, "");
        (code, serde_json::from_str(&out).unwrap())
    }
}

fn asking(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
    command.arg("status").arg("--status-socket").arg(socket);
    command
}

fn end(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn pod(app: &str, namespace: &str) -> PodSandbox {
    let mut pod = PodSandbox::default();
    (pod.id, pod.name, pod.namespace) = (format!("pod-{app}"), format!("{app}-1"), namespace.into());
    pod.labels.insert("app".into(), app.into());
    pod
}

fn container(of: &PodSandbox, id: &str) -> Container {
    let mut container = Container::default();
    (container.id, container.name) = (id.into(), "main".into());
    container.pod_sandbox_id.clone_from(&of.id);
    // as containerd shows what kubelet asks for
    let mut linux = LinuxContainer::default();
    linux.seccomp_profile = Some(SecurityProfile::default());
    container.linux = Some(linux);
    container
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_is_left_out_is_told() {
    for (hook, code) in [("--hook=/no/such/hook", 1), ("--strict", 0)] {
        let (daemon, _runtime, _plugin) = Daemon::serving(&[("calls.yaml", SECCOMP)], &[hook]).await;
        let (found, out, _) = daemon.status(&[]);
        let told = out.contains("without the OCI hook: the OCI hook is not there");
        assert_eq!((found, told), (code, code == 1), "{out}");
        assert_eq!(daemon.told(&[]).1["daemon"]["withoutHook"].is_string(), code == 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_policies_waits_for_a_restart_until_the_container_is_created_anew() {
    let (daemon, _runtime, plugin) = Daemon::serving(&[("p.yaml", SECCOMP)], &["--seccomp-only"]).await;
    let (web, db, system) = (pod("web", "default"), pod("db", "other"), pod("web", "kube-system"));
    for (pod, id) in [(&web, "c1"), (&db, "c2"), (&system, "c3")] {
        plugin.create_container(pod, &container(pod, id)).await.unwrap();
        plugin.start_container(pod, &container(pod, id)).await.unwrap();
    }
    let (code, told) = daemon.told(&[]);
    assert_eq!((code, &told["apiVersion"]), (0, &"status.nri-enforcer.io/v1".into()));
    let about = &told["daemon"];
    assert_eq!(
        (&about["connected"], &about["seccompOnly"], &about["policies"]),
        (&true.into(), &true.into(), &1.into())
    );
    let states: Vec<_> = told["containers"].as_array().unwrap().iter().map(|one| &one["state"]).collect();
    assert_eq!(states, ["armed", "exempt", "notSelected"], "by namespace");
    let one = &told["containers"][0];
    let name = ["id", "namespace", "pod", "container"].map(|key| one[key].as_str().unwrap());
    assert_eq!(name, ["c1", "default", "web-1", "main"]);
    assert_eq!((&one["policies"][0], &one["gaps"]), (&"default/calls".into(), &0.into()));
    assert_eq!(one["seccomp"]["state"], "inForce");
    let digest = one["seccomp"]["profile"].as_str().unwrap().to_owned();
    assert_eq!((digest.len(), &told["containers"][2]["seccomp"]), (64, &Value::Null));
    assert_eq!(daemon.told(&["--pending"]).1["containers"], serde_json::json!([]));

    // another policy: what runs keeps the old profile
    daemon.write("p.yaml", &SECCOMP.replace("mkdir", "rmdir"));
    daemon.wait("pending", || daemon.status(&[]).0 == 1).await;
    let (code, told) = daemon.told(&["--pending"]);
    assert_eq!((code, told["containers"].as_array().unwrap().len()), (1, 1));
    let one = &told["containers"][0];
    assert_eq!((&one["id"], &one["state"]), (&"c1".into(), &"pendingRestart".into()));
    assert_eq!(
        (&one["seccomp"]["state"], &one["seccomp"]["profile"]),
        (&"pendingRestart".into(), &digest.clone().into())
    );
    assert!(one["reason"].as_str().unwrap().contains("changed since it was created"), "{one}");
    let (code, out, err) = daemon.status(&[]);
    assert_eq!((code, err.as_str()), (1, ""));
    for part in [
        "pending restart",
        "web-1",
        "default/calls",
        digest.get(..12).unwrap(),
        "1 container is not covered",
        "exempt",
    ] {
        assert!(out.contains(part), "{part} is not in:\n{out}");
    }
    assert!(!out.contains('\u{1b}'), "no colours where nobody sees them");
    assert_eq!(daemon.told(&["--namespace", "other"]).0, 0, "nothing waits there");

    // it ends, and is created anew
    plugin.stop_container(&web, &container(&web, "c1")).await.unwrap();
    let (code, told) = daemon.told(&[]);
    assert_eq!((code, &told["containers"][0]["state"]), (0, &"ended".into()));
    plugin.create_container(&web, &container(&web, "c4")).await.unwrap();
    plugin.remove_container(&web, &container(&web, "c1")).await.unwrap();
    daemon.wait("removed", || daemon.told(&[]).1["containers"].as_array().unwrap().len() == 3).await;
    let (code, told) = daemon.told(&["--namespace", "default"]);
    let one = &told["containers"][0];
    assert_eq!((code, &one["id"], &one["state"]), (0, &"c4".into(), &"armed".into()));
    assert!(one["seccomp"]["state"] == "inForce" && one["seccomp"]["profile"] != digest, "{one}");

    // nobody but root is told, whoever gets at the socket
    for (path, mode) in [("", 0o755), ("run", 0o755), ("run/status", 0o666)] {
        fs::set_permissions(daemon.dir.path().join(path), Permissions::from_mode(mode)).unwrap();
    }
    let stranger = end(&asking(&daemon.socket()).uid(65_534).gid(65_534).output().unwrap());
    assert_eq!((stranger.0, stranger.1.as_str()), (1, ""), "{}", stranger.2);
    assert!(stranger.2.contains("only root may ask"), "{}", stranger.2);
    daemon.wait("the log", || daemon.log().contains("user 65534, not root")).await;
}

/// AppArmor is asked for alone, and there is no parser: nothing works, on any machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_a_lock_observes_and_says_so_everywhere() {
    for more in ["", "--strict", "--hook=/opt/nri-enforcer-hook"] {
        let strict = !more.is_empty();
        let more = ["--lsm-order=apparmor", more];
        let more = if strict { &more[..] } else { &more[..1] };
        let (daemon, _runtime, plugin) = Daemon::serving(&[("p.yaml", FILES)], more).await;
        let web = pod("web", "default");
        let created = plugin.create_container(&web, &container(&web, "c1")).await;
        if strict {
            let refused = created.unwrap_err().to_string();
            assert!(refused.contains("no lock works on this node"), "{refused}");
            continue;
        }
        created.unwrap();
        plugin.start_container(&web, &container(&web, "c1")).await.unwrap();
        let (code, told) = daemon.told(&[]);
        let lock = (&told["daemon"]["lock"], &told["daemon"]["seccompOnly"]);
        assert_eq!((code, lock), (1, (&"none".into(), &false.into())));
        let one = &told["containers"][0];
        assert_eq!((&one["state"], &one["gaps"]), (&"notCovered".into(), &1.into()));
        let (code, out, _) = daemon.status(&[]);
        assert!(code == 1 && out.contains("NO LOCK WORKS ON THIS NODE"), "{out}");
        // what it took is its to say, whatever works
        let probe = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
            command.arg("probe").arg("--status-socket").arg(daemon.socket());
            command
        };
        let (code, out, _) = end(&probe().args(["-o", "json"]).output().unwrap());
        let said: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &said["running"], &said["enforces"]), (1, &"none".into(), &false.into()), "{said}");
        assert!(said["locks"].as_array().unwrap().iter().all(|lock| lock["taken"] == false), "{said}");
        let (_, out, _) = end(&probe().output().unwrap());
        assert!(out.contains("The daemon that runs here only observes."), "{out}");
        let (_, out, _) = end(&probe().args(["--lsm-order=apparmor", "-o", "json"]).output().unwrap());
        let said: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(said["running"], Value::Null, "it is asked of another daemon than that: {said}");
        let log = daemon.log();
        for part in ["NO LOCK WORKS ON THIS NODE", "NOT ENFORCED", "default/files", "not taken: apparmor: "] {
            assert!(log.contains(part), "{part} is not in:\n{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn diff_asks_what_runs() {
    let (daemon, _runtime, plugin) =
        Daemon::serving(&[("p.yaml", SECCOMP)], &["--seccomp-only", "--posture=file=block"]).await;
    for (app, namespace, id) in
        [("web", "default", "c1"), ("db", "default", "c2"), ("web", "kube-system", "c3")]
    {
        let pod = pod(app, namespace);
        plugin.create_container(&pod, &container(&pod, id)).await.unwrap();
        plugin.start_container(&pod, &container(&pod, id)).await.unwrap();
    }
    let (_, told) = daemon.told(&[]);
    assert_eq!(told["daemon"]["postures"]["file"], "block");
    assert_eq!(told["containers"][1]["labels"]["app"], "web");
    let new = daemon.dir.path().join("new.yaml");
    let diff = |text: &str, more: &[&str]| {
        fs::write(&new, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
        command.arg("diff").arg("--old").arg(daemon.dir.path().join("policies")).arg("--new").arg(&new);
        command.arg("--running").arg("--status-socket").arg(daemon.socket());
        end(&command.args(more).output().unwrap())
    };
    let (code, out, err) = diff(&SECCOMP.replace("mkdir", "rmdir"), &["-o", "json"]);
    assert_eq!((code, err.as_str()), (1, ""));
    let report: Value = serde_json::from_str(&out).unwrap();
    let told: Vec<_> = report["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["pod"], &one["seccomp"]["pendingRestart"]))
        .collect();
    assert_eq!(told, [(&"db-1".into(), &Value::Null), (&"web-1".into(), &true.into())], "not the exempt one");
    let (code, out, _) = diff(&SECCOMP.replace("mkdir", "rmdir"), &[]);
    assert_eq!(code, 1);
    assert!(out.contains("default/web-1 main") && out.contains("Nothing changes for 1 container."), "{out}");
    assert_eq!(diff(SECCOMP, &[]).0, 0);
    assert_eq!(diff("", &["--namespace", "other"]).0, 0, "nothing runs there");
    // rules have no effect on this node
    assert_eq!(diff(&format!("{SECCOMP}---\n{FILES}"), &[]).0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_bpf_fails_seccomp_policies_are_enforced_alone_and_what_comes_later_is_a_gap() {
    // no bpffs, so that nothing can be loaded on any machine
    let bad = tempfile::tempdir().unwrap();
    let flag = format!("--bpffs={}", bad.path().display());
    let (daemon, _runtime, plugin) = Daemon::serving(&[("p.yaml", SECCOMP)], &[&flag]).await;
    let log = daemon.log();
    assert!(log.contains("this daemon enforces seccomp policies alone"), "{log}");
    let web = pod("web", "default");
    let adjustment = plugin.create_container(&web, &container(&web, "c1")).await.unwrap();
    assert!(adjustment.linux.seccomp_policy.is_some());
    plugin.start_container(&web, &container(&web, "c1")).await.unwrap();
    assert_eq!(daemon.told(&[]).0, 0);

    daemon.write("q.yaml", FILES);
    daemon.wait("not covered", || daemon.status(&[]).0 == 1).await;
    let (_, told) = daemon.told(&[]);
    let one = &told["containers"][0];
    assert_eq!((&one["state"], &one["gaps"]), (&"notCovered".into(), &1.into()));
    assert_eq!(one["policies"], serde_json::json!(["default/calls", "default/files"]));
    assert_eq!(one["seccomp"]["state"], "inForce");
    let gap = |line: &str| {
        line.contains("this node enforces seccomp policies alone") && line.contains("default/files")
    };
    daemon.wait("told", || daemon.log().lines().any(gap)).await;
    let (_, out, _) = daemon.status(&[]);
    assert!(
        out.contains("not covered") && out.contains("This daemon enforces seccomp policies alone."),
        "{out}"
    );
    // what its seccomp policy says is enforced all the same
    let adjustment = plugin.create_container(&web, &container(&web, "c2")).await.unwrap();
    assert!(adjustment.linux.seccomp_policy.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_lock_works_and_there_is_another_policy_it_is_no_daemon_for_seccomp_policies_alone() {
    for policies in [&[("p.yaml", SECCOMP), ("q.yaml", FILES)][..], &[("q.yaml", FILES)], &[]] {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(dir, policies, &["--lsm-order=apparmor"]);
        daemon.wait("told", || daemon.log().contains("NO LOCK WORKS ON THIS NODE")).await;
        daemon.wait("it runs", || daemon.socket().exists()).await;
        assert!(!daemon.log().contains("enforces seccomp policies alone"), "{}", daemon.log());
    }
}

#[test]
fn no_answer_and_a_strange_one_are_errors_that_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("status");
    let (code, out, err) = end(&asking(&socket).output().unwrap());
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains(socket.to_str().unwrap()) && err.contains("`nri-enforcer run`"), "{err}");
    let listener = UnixListener::bind(&socket).unwrap();
    for (answer, wanted) in [
        ("", "no daemon answers"),
        ("{", "makes no sense"),
        ("{}", "the daemon speaks `nothing`"),
        ("{\"apiVersion\": \"status.nri-enforcer.io/v2\"}", "use the command of the daemon's version"),
        ("{\"apiVersion\": \"status.nri-enforcer.io/v1\"}", "makes no sense"),
    ] {
        let asked = asking(&socket).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut caller, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut caller, answer.as_bytes()).unwrap();
        drop(caller);
        let (code, out, err) = end(&asked.wait_with_output().unwrap());
        assert_eq!((code, out.as_str()), (1, ""), "{answer}");
        assert!(err.contains(wanted), "{answer}: {err}");
    }
}
