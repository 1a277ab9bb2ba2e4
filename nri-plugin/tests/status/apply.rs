//! Changes that wait to be confirmed: the daemon's program and the commands.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Daemon, FILES, SECCOMP, end};

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
    assert_eq!(
        (code, err.contains("has errors") && err.contains("would not bring back")),
        (1, true),
        "{err}"
    );
    assert_eq!(fs::read_to_string(in_force(&daemon)).unwrap(), bad);
    fs::write(in_force(&daemon), [0xff, 0xfe]).unwrap();
    let (code, _, err) = ask(&daemon, "apply", &["--confirm-within", "1h", path]);
    assert_eq!((code, err.contains("cannot be read")), (1, true), "{err}");
    assert_eq!(ask(&daemon, "apply", &[path]).0, 0, "for good it is");
    assert_eq!(fs::read_to_string(in_force(&daemon)).unwrap(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_reverted_is_told_and_tried_again() {
    let (mut daemon, mut runtime, plugin) =
        Daemon::serving(&[("calls.yaml", SECCOMP)], &["--seccomp-only"]).await;
    let (path, text) = another(&daemon);
    let waiting = begin(&daemon, "1h", &path, &text).await;
    daemon.process.kill().unwrap();
    daemon.process.wait().unwrap();
    drop((plugin, waiting.wait_with_output().unwrap()));
    fs::remove_file(in_force(&daemon)).unwrap();
    fs::create_dir_all(in_force(&daemon).join("in the way")).unwrap();
    fs::remove_file(daemon.dir.path().join("ready")).unwrap();
    daemon.process = Daemon::spawn(daemon.dir.path(), &["--seccomp-only"]);
    let _plugin = runtime.accept().await.unwrap();
    daemon.wait("ready", || daemon.dir.path().join("ready").exists()).await;

    let stuck = || daemon.told(&[]).1.pointer("/daemon/notReverted").is_some();
    assert!(stuck());
    let (code, out, _) = daemon.status(&[]);
    assert_eq!((code, out.contains("is not reverted")), (1, true), "{out}");
    let alerts = |notice: &str| {
        fs::read_to_string(daemon.dir.path().join("alerts")).is_ok_and(|alerts| alerts.contains(notice))
    };
    daemon.wait("the alert", || alerts("notice=not-reverted")).await;
    let apply = ["--confirm-within", "1h", path.to_str().unwrap()];
    for (what, args) in
        [("apply", &apply[..]), ("apply", &apply[2..]), ("confirm", &[]), ("confirm", &["--revert"])]
    {
        let (code, _, err) = ask(&daemon, what, args);
        assert_eq!((code, err.contains("an earlier change cannot be reverted")), (1, true), "{err}");
    }
    fs::remove_dir_all(in_force(&daemon)).unwrap();
    daemon.wait("reverting", || fs::read_to_string(in_force(&daemon)).is_ok_and(|now| now == SECCOMP)).await;
    daemon.wait("the end of it", || !stuck()).await;
    daemon.wait("the policy", || policies(&daemon) == 1).await;
    assert_eq!((daemon.status(&[]).0, files(&daemon)), (0, vec!["calls.yaml".to_owned()]));
    daemon.wait("the alert", || alerts("notice=reverted")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_reverted_in_time_is_told_until_it_is() {
    let (daemon, _runtime, _plugin) = Daemon::serving(&[("calls.yaml", SECCOMP)], &["--seccomp-only"]).await;
    let (path, text) = another(&daemon);
    let waiting = begin(&daemon, "2s", &path, &text).await;
    fs::remove_file(in_force(&daemon)).unwrap();
    fs::create_dir_all(in_force(&daemon).join("in the way")).unwrap();
    daemon.wait("the problem", || daemon.told(&[]).1.pointer("/daemon/notReverted").is_some()).await;
    let alerts = || fs::read_to_string(daemon.dir.path().join("alerts")).unwrap_or_default();
    daemon.wait("the alert", || alerts().contains("notice=not-reverted")).await;
    fs::remove_dir_all(in_force(&daemon)).unwrap();
    let (code, _, err) = end(&waiting.wait_with_output().unwrap());
    assert_eq!((code, err.matches("warning: cannot put back").count()), (3, 1), "{err}");
    assert_eq!(fs::read_to_string(in_force(&daemon)).unwrap(), SECCOMP);
    assert_eq!(alerts().matches("notice=not-reverted").count(), 1, "once");
    daemon.wait("all well", || daemon.status(&[]).0 == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_makes_no_sense_is_told_until_it_is_gone() {
    let record = ".nri-enforcer-pending.json";
    let (daemon, _runtime, _plugin) = Daemon::serving(&[(record, "{")], &["--seccomp-only"]).await;
    let (code, out, _) = daemon.status(&[]);
    assert_eq!((code, out.contains("says nothing that can be understood")), (1, true), "{out}");
    fs::remove_file(daemon.dir.path().join("policies").join(record)).unwrap();
    daemon.wait("all well", || daemon.status(&[]).0 == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_daemon_leaves_a_change_that_waits_alone() {
    let (mut first, _runtime, _plugin) =
        Daemon::serving(&[("calls.yaml", SECCOMP)], &["--seccomp-only"]).await;
    let (path, text) = another(&first);
    let waiting = begin(&first, "1h", &path, &text).await;
    let shared = format!("--policy-dir={}", first.dir.path().join("policies").display());
    let (second, _other_runtime, _other_plugin) = Daemon::serving(&[], &["--seccomp-only", &shared]).await;
    assert!(second.log().contains("another daemon has this policy directory"));
    assert_eq!(fs::read_to_string(in_force(&first)).unwrap(), text);
    assert_eq!(ask(&first, "confirm", &[]).0, 0);
    assert_eq!(end(&waiting.wait_with_output().unwrap()).0, 0);
    assert_eq!(fs::read_to_string(in_force(&first)).unwrap(), text);

    // it reverts what the first one leaves when that dies
    fs::write(&path, SECCOMP).unwrap();
    let waiting = begin(&first, "1h", &path, SECCOMP).await;
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    assert_eq!(end(&waiting.wait_with_output().unwrap()).0, 3);
    second.wait("reverting", || fs::read_to_string(in_force(&first)).unwrap() == text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_of_a_change_is_not_in_force_is_told() {
    let (daemon, _runtime, _plugin) = Daemon::serving(&[("calls.yaml", SECCOMP)], &["--seccomp-only"]).await;
    let path = daemon.dir.path().join("later.yaml");
    fs::write(&path, format!("{SECCOMP}---\n{FILES}")).unwrap();
    let (code, out, err) = ask(&daemon, "apply", &["--confirm-within", "1s", path.to_str().unwrap()]);
    assert_eq!((code, out.contains("In force in part for now")), (3, true), "{out}{err}");
    assert!(err.contains("later.yaml: the policy `default/calls` is already defined in"), "{err}");
    assert!(err.contains("not in force: default/files"), "{err}");
    let (code, _, err) = ask(&daemon, "apply", &[path.to_str().unwrap()]);
    assert_eq!((code, err.contains("is already defined in")), (0, true), "{err}");
}
