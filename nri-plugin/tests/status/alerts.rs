//! `alerts` without a file: the daemon's program and the command.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Daemon, SECCOMP, container, end, pod};

fn command(daemon: &Daemon, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
    command.arg("alerts").arg("--admin-socket").arg(daemon.dir.path().join("run/admin.sock")).args(args);
    command.stdin(Stdio::null());
    command
}

fn alerts(daemon: &Daemon, args: &[&str]) -> (i32, String, String) {
    end(&command(daemon, args).output().unwrap())
}

/// A container whose seccomp policies change is an alert, since it is pending restart. No feed is served.
#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_tells_its_last_alerts_and_those_that_come() {
    let (daemon, _runtime, plugin) = Daemon::serving(&[("calls.yaml", SECCOMP)], &["--seccomp-only"]).await;
    assert_eq!(alerts(&daemon, &[]), (0, String::new(), String::new()), "there is none yet");
    let create = async |name: &str| {
        let web = pod("web", "default");
        let mut one = container(&web, &format!("id-of-{name}"));
        one.name = name.into();
        plugin.create_container(&web, &one).await.unwrap();
        plugin.start_container(&web, &one).await.unwrap();
    };
    create("first").await;
    create("second").await;
    daemon.write("calls.yaml", &SECCOMP.replace("mkdir", "rmdir"));
    daemon.wait("alerts", || alerts(&daemon, &[]).1.lines().count() == 2).await;
    let (code, out, err) = alerts(&daemon, &["--container", "second"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("default/web-1 second: pending restart: the container keeps"), "{out}");
    assert_eq!(out.lines().count(), 1);
    assert_eq!(alerts(&daemon, &["--label", "app=db"]).1, "");
    // the same lines as in the file
    let file = || fs::read_to_string(daemon.dir.path().join("alerts")).unwrap();
    daemon.wait("the file", || file().lines().count() == 2).await;
    assert_eq!(alerts(&daemon, &["-o", "json"]).1, file());

    let mut follower = command(&daemon, &["-f", "--label", "app=web"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut told = |wanted: &str| {
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains(wanted), "{line}");
    };
    told(" first: ");
    told(" second: ");
    create("third").await;
    daemon.write("calls.yaml", &SECCOMP.replace("mkdir", "chmod"));
    told(" third: ");

    // a bound of readers, of which nobody else feels anything
    let socket = daemon.dir.path().join("run/admin.sock");
    let readers: Vec<_> = (0..8).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let mut refused = Vec::new();
    for mut reader in &readers {
        reader.write_all(b"{\"request\":\"alerts\",\"follow\":true}\n").unwrap();
        let mut answer = String::new();
        BufReader::new(reader).read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        match answer["answer"].as_str().unwrap() {
            "refused" => refused.push(answer["why"].clone()),
            other => assert_eq!(other, "alerts"),
        }
    }
    assert_eq!(refused, ["8 read alerts already, and there is room for no more"]);
    let (code, _, err) = alerts(&daemon, &["-f"]);
    assert!(code == 2 && err.contains("room for no more"), "{err}");
    let mut top = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
    let top = top.args(["top", "--once", "--interval", "100ms", "--admin-socket"]).arg(&socket);
    assert_eq!(top.output().unwrap().status.code(), Some(0), "who looks on has other places");
    drop(readers);
    daemon.wait("places are free again", || alerts(&daemon, &[]).0 == 0).await;

    // nobody but root is told, whoever gets at the socket
    for (path, mode) in [("", 0o755), ("run", 0o755), ("run/admin.sock", 0o666)] {
        fs::set_permissions(daemon.dir.path().join(path), Permissions::from_mode(mode)).unwrap();
    }
    let stranger = end(&command(&daemon, &["-f"]).uid(65_534).gid(65_534).output().unwrap());
    assert_eq!((stranger.0, stranger.1.as_str()), (2, ""), "{}", stranger.2);
    assert!(stranger.2.contains("only root may ask"), "{}", stranger.2);

    let dir = daemon.dir.path().to_owned();
    drop(daemon);
    assert_eq!(follower.wait().unwrap().code(), Some(2), "its end is told");
    let mut why = String::new();
    std::io::Read::read_to_string(&mut follower.stderr.take().unwrap(), &mut why).unwrap();
    assert!(why.contains("run/admin.sock`: it has ended"), "{why}");
    let mut nobody = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
    let nobody = nobody.args(["alerts", "-f", "--admin-socket"]).arg(dir.join("run/admin.sock"));
    let (code, _, err) = end(&nobody.output().unwrap());
    assert_eq!(code, 2);
    for part in ["no daemon answers at `", "is `nri-enforcer run` running", "`-` stdin"] {
        assert!(err.contains(part), "{part} is not in:\n{err}");
    }
}
