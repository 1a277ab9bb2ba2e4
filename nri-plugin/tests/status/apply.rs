//! Changes that wait to be confirmed: the daemon's program and the commands.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Daemon, SECCOMP, end};

fn command(daemon: &Daemon, what: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
    let socket = daemon.dir.path().join("run/admin.sock");
    command.arg(what).arg("--admin-socket").arg(socket).args(args).stdin(Stdio::null());
    command
}

fn ask(daemon: &Daemon, what: &str, args: &[&str]) -> (i32, String, String) {
    end(&command(daemon, what, args).output().unwrap())
}

/// `apply`, at work; until the change is in force.
async fn begin(daemon: &Daemon, within: &str, file: &Path, text: &str) -> Child {
    let args = ["--confirm-within", within, file.to_str().unwrap()];
    let child =
        command(daemon, "apply", &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    daemon.wait("the change", || fs::read_to_string(in_force(daemon)).is_ok_and(|now| now == text)).await;
    child
}

fn in_force(daemon: &Daemon) -> PathBuf {
    daemon.dir.path().join("policies/calls.yaml")
}

fn policies(daemon: &Daemon) -> u64 {
    daemon.told(&[]).1.pointer("/daemon/policies").and_then(serde_json::Value::as_u64).unwrap()
}

/// A file outside the policy directory, with another version of [`SECCOMP`].
fn another(daemon: &Daemon) -> (PathBuf, String) {
    let dir = daemon.dir.path().join("mine");
    fs::create_dir_all(&dir).unwrap();
    let (path, text) = (dir.join("calls.yaml"), SECCOMP.replace("mkdir", "rmdir"));
    fs::write(&path, &text).unwrap();
    (path, text)
}

fn files(daemon: &Daemon) -> Vec<String> {
    let entries = fs::read_dir(daemon.dir.path().join("policies")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_undone_unless_it_is_confirmed() {
    let policies_now = [("calls.yaml", SECCOMP)];
    let (daemon, _runtime, _plugin) = Daemon::serving(&policies_now, &["--seccomp-only"]).await;
    let (path, text) = another(&daemon);
    let before = || assert_eq!(fs::read_to_string(in_force(&daemon)).unwrap(), SECCOMP);

    // nobody confirms
    let begun = Instant::now();
    let (code, out, err) = ask(&daemon, "apply", &["--confirm-within", "1s", path.to_str().unwrap()]);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(code, 3, "{out}{err}");
    assert!(out.contains("KubeArmorSeccompPolicy default/calls") && out.contains("undone in 1s"), "{out}");
    assert!(err.contains("Reverted: calls.yaml: it was not confirmed in time"), "{err}");
    before();
    assert_eq!(files(&daemon), ["calls.yaml"]);
    let alerts = || fs::read_to_string(daemon.dir.path().join("alerts")).unwrap_or_default();
    daemon.wait("the alert", || alerts().contains("notice=reverted")).await;
    assert!(daemon.log().contains("reverted"));

    // the command is killed
    let mut killed = begin(&daemon, "2s", &path, &text).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    daemon.wait("reverting", || fs::read_to_string(in_force(&daemon)).unwrap() == SECCOMP).await;
    assert_eq!(ask(&daemon, "confirm", &[]).0, 1, "it comes too late");

    // one at a time; reverted by wish
    let waiting = begin(&daemon, "1h", &path, &text).await;
    for more in [&["--confirm-within", "5s"][..], &[]] {
        let (code, _, err) = ask(&daemon, "apply", &[more, &[path.to_str().unwrap()]].concat());
        assert_eq!(code, 1);
        assert!(err.contains("a change waits to be confirmed already"), "{err}");
    }
    assert_eq!(ask(&daemon, "confirm", &["--revert"]).0, 0);
    assert_eq!(end(&waiting.wait_with_output().unwrap()).0, 3);
    before();

    // confirmed
    let waiting = begin(&daemon, "1h", &path, &text).await;
    let (code, out, _) = ask(&daemon, "confirm", &[]);
    assert_eq!((code, out.contains("Confirmed: calls.yaml")), (0, true), "{out}");
    assert_eq!(end(&waiting.wait_with_output().unwrap()).0, 0);
    assert_eq!(fs::read_to_string(in_force(&daemon)).unwrap(), text);
    assert_eq!(files(&daemon), ["calls.yaml"]);
    let (code, _, err) = ask(&daemon, "confirm", &[]);
    assert_eq!((code, err.contains("no change waits")), (1, true), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_does_not_outlive_a_daemon_that_dies_before_it_is_confirmed() {
    let (mut daemon, mut runtime, plugin) = Daemon::serving(&[], &["--seccomp-only"]).await;
    let (path, text) = another(&daemon);
    let waiting = begin(&daemon, "1h", &path, &text).await;
    daemon.wait("the policy", || policies(&daemon) == 1).await;
    daemon.process.kill().unwrap();
    daemon.process.wait().unwrap();
    let (code, _, err) = end(&waiting.wait_with_output().unwrap());
    assert_eq!((code, err.contains("the daemon ended before the change was confirmed")), (3, true), "{err}");
    assert!(in_force(&daemon).exists());
    drop(plugin);
    fs::remove_file(daemon.dir.path().join("ready")).unwrap();
    daemon.process = Daemon::spawn(daemon.dir.path(), &["--seccomp-only"]);
    let _plugin = runtime.accept().await.unwrap();
    daemon.wait("ready", || daemon.dir.path().join("ready").exists()).await;
    assert_eq!((files(&daemon), policies(&daemon)), (vec![], 0));
    let alerts = || fs::read_to_string(daemon.dir.path().join("alerts")).unwrap_or_default();
    daemon.wait("the alert", || alerts().contains("the daemon ended before it was confirmed")).await;
    assert_eq!(ask(&daemon, "confirm", &[]).0, 1, "there is nothing to confirm");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_for_good_and_what_is_no_change() {
    let (daemon, _runtime, _plugin) = Daemon::serving(&[], &["--seccomp-only"]).await;
    let (path, text) = another(&daemon);
    let (code, out, err) = ask(&daemon, "apply", &[path.to_str().unwrap()]);
    assert_eq!((code, out.contains("Applied.")), (0, true), "{out}{err}");
    assert_eq!(fs::read_to_string(in_force(&daemon)).unwrap(), text);
    daemon.wait("the policy", || policies(&daemon) == 1).await;

    let bad = path.with_file_name("bad.yaml");
    fs::write(&bad, SECCOMP.replace("action: Block", "action: Blokk")).unwrap();
    assert_eq!(ask(&daemon, "apply", &[bad.to_str().unwrap()]).0, 2);
    let text_file = path.with_file_name("calls.txt");
    fs::write(&text_file, SECCOMP).unwrap();
    let (code, _, err) = ask(&daemon, "apply", &[text_file.to_str().unwrap()]);
    assert_eq!((code, err.contains("is no name of a policy file")), (1, true), "{err}");
    assert_eq!(ask(&daemon, "apply", &["/nonexistent.yaml"]).0, 2);
    for time in ["0s", "2h"] {
        let (code, _, err) = ask(&daemon, "apply", &["--confirm-within", time, path.to_str().unwrap()]);
        assert_eq!((code, err.contains("1 second to 1 hour")), (1, true), "{err}");
    }
    assert_eq!(files(&daemon), ["calls.yaml"]);
}

/// A caller that stays, as `apply` at a terminal does.
struct Caller(BufReader<UnixStream>);

impl Caller {
    fn new(daemon: &Daemon) -> Self {
        let caller = UnixStream::connect(daemon.dir.path().join("run/admin.sock")).unwrap();
        caller.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(BufReader::new(caller))
    }

    /// Asks; the next answer.
    fn ask(&mut self, request: &serde_json::Value) -> serde_json::Value {
        self.0.get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_confirmed_and_reverted_on_its_own_connection() {
    let (daemon, _runtime, _plugin) = Daemon::serving(&[("calls.yaml", SECCOMP)], &["--seccomp-only"]).await;
    let (_, text) = another(&daemon);
    let files = serde_json::json!([{"name": "calls.yaml", "text": text}]);
    let apply = serde_json::json!({"request": "apply", "files": files, "confirmWithin": 60_000});
    for (request, ended, left) in [("revert", "reverted", SECCOMP), ("confirm", "confirmed", &text)] {
        let mut caller = Caller::new(&daemon);
        assert_eq!(caller.ask(&apply)["answer"], "pending");
        assert_eq!(caller.ask(&serde_json::json!({"request": request}))["answer"], ended);
        assert_eq!(fs::read_to_string(in_force(&daemon)).unwrap(), left, "{request}");
    }
    assert_eq!(ask(&daemon, "confirm", &[]).0, 1, "the daemon answers on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_not_come_back_is_not_replaced_for_a_while() {
    let bad = SECCOMP.replace("action: Block", "action: Blokk");
    let (daemon, _runtime, _plugin) = Daemon::serving(&[("calls.yaml", SECCOMP)], &["--seccomp-only"]).await;
    let (path, text) = another(&daemon);
    let path = path.to_str().unwrap();
    daemon.write("calls.yaml", &bad);
    let (code, _, err) = ask(&daemon, "apply", &["--confirm-within", "1h", path]);
    assert_eq!((code, err.contains("has errors") && err.contains("would not bring back")), (1, true), "{err}");
    assert_eq!(fs::read_to_string(in_force(&daemon)).unwrap(), bad);
    fs::write(in_force(&daemon), [0xff, 0xfe]).unwrap();
    let (code, _, err) = ask(&daemon, "apply", &["--confirm-within", "1h", path]);
    assert_eq!((code, err.contains("cannot be read")), (1, true), "{err}");
    assert_eq!(ask(&daemon, "apply", &[path]).0, 0, "for good it is");
    assert_eq!(fs::read_to_string(in_force(&daemon)).unwrap(), text);
}
