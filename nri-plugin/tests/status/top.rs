//! `top`: the daemon's program and the command, on a node without programs in the kernel.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Daemon, SECCOMP, end};

#[tokio::test(flavor = "multi_thread")]
async fn top_is_for_programs_and_for_people() {
    let (daemon, _runtime, _plugin) = Daemon::serving(&[("calls.yaml", SECCOMP)], &["--seccomp-only"]).await;
    let socket = daemon.dir.path().join("run/admin.sock");
    let top = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
        command.arg("top").arg("--admin-socket").arg(&socket).args(args);
        end(&command.output().unwrap())
    };
    let (code, out, err) = top(&["--once", "-o", "json", "--interval", "100ms"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let told: Value = serde_json::from_str(&out).unwrap();
    assert!(told["seconds"].as_f64().is_some_and(|seconds| (0.1..5.0).contains(&seconds)), "{told}");
    assert_eq!((&told["denials"], &told["programs"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert_eq!(told["notMeasured"], "there are no BPF programs on this node");
    assert!(told["notSeen"].as_str().is_some_and(|why| why.starts_with("no lock denies")), "{told}");
    // no terminal
    let (code, out, _) = top(&["--interval", "100ms"]);
    assert!(code == 0 && out.contains("CONTAINER") && out.contains("denials and audits: not seen"), "{out}");
    for (args, wanted) in [(&["--interval", "1ms"][..], "expected 100ms to 1m"), (&["-o", "json"], "--once")]
    {
        let (code, _, err) = top(args);
        assert!(code == 2 && err.contains(wanted), "{err}");
    }

    // a terminal
    let mut on_terminal = Command::new("/usr/bin/timeout")
        .args(["30", "/usr/bin/script", "--quiet", "--return", "--command"])
        .arg(format!("{} top --admin-socket {}", env!("CARGO_BIN_EXE_nri-enforcer"), socket.display()))
        .arg("/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keys, mut shown) = (on_terminal.stdin.take().unwrap(), on_terminal.stdout.take().unwrap());
    let (mut text, mut part) = (String::new(), [0; 4096]);
    let until = |wanted: &str, shown: &mut dyn Read, text: &mut String, part: &mut [u8]| {
        while !text.contains(wanted) {
            let length = shown.read(part).unwrap();
            assert!(length > 0, "{wanted} is not in:\n{text}");
            text.push_str(&String::from_utf8_lossy(&part[..length]));
        }
    };
    until("sorted by rate", &mut shown, &mut text, &mut part);
    keys.write_all(b"\x1b[C").unwrap();
    until("sorted by total", &mut shown, &mut text, &mut part);
    keys.write_all(b"q").unwrap();
    until("\u{1b}[?1049l", &mut shown, &mut text, &mut part); // the screen from before is back
    assert_eq!(on_terminal.wait().unwrap().code(), Some(0));
    drop(keys);

    onlookers_leave_room(&socket);

    drop(daemon);
    let (code, _, err) = top(&["--once"]);
    assert!(code == 1 && err.contains("no daemon answers"), "{err}");
}

/// However many look on, a change can be confirmed.
fn onlookers_leave_room(socket: &Path) {
    let mut onlookers: Vec<_> = (0..16).map(|_| UnixStream::connect(socket).unwrap()).collect();
    let mut refused = 0;
    for onlooker in &mut onlookers {
        onlooker.write_all(b"{\"request\":\"top\"}\n").unwrap();
        let mut answer = String::new();
        BufReader::new(&*onlooker).read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        match answer["answer"].as_str().unwrap() {
            "counted" => {}
            "refused" => {
                assert!(answer["why"].as_str().unwrap().contains("room for no more"), "{answer}");
                refused += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(refused, 8);
    let begin = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
    let (_, out, err) = end(&command.arg("confirm").arg("--admin-socket").arg(socket).output().unwrap());
    assert!(format!("{out}{err}").contains("no change waits to be confirmed"), "{out}{err}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}
