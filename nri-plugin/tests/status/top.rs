//! `top`: the daemon's program and the command, on a node without programs in the kernel.

#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
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

    on_a_terminal(&socket);
    onlookers_leave_room(&socket);

    drop(daemon);
    let (code, _, err) = top(&["--once"]);
    assert!(code == 1 && err.contains("no daemon answers"), "{err}");
}

/// Ended by a key and by a signal: either way the screen from before is back.
fn on_a_terminal(socket: &Path) {
    let program = env!("CARGO_BIN_EXE_nri-enforcer");
    for by_key in [true, false] {
        let mut on_terminal = Command::new("/usr/bin/timeout")
            .args(["30", "/usr/bin/script", "--quiet", "--return", "--command"])
            .arg(format!("exec {program} top --admin-socket {}", socket.display()))
            .arg("/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut keys, mut shown) = (on_terminal.stdin.take().unwrap(), on_terminal.stdout.take().unwrap());
        let (mut text, mut part) = (String::new(), [0; 4096]);
        let mut until = |wanted: &str| {
            while !text.contains(wanted) {
                let length = shown.read(&mut part).unwrap();
                assert!(length > 0, "{wanted} is not in:\n{text}");
                text.push_str(&String::from_utf8_lossy(&part[..length]));
            }
        };
        until("sorted by rate");
        keys.write_all(b"\x1b[C").unwrap();
        until("sorted by total");
        match by_key {
            true => keys.write_all(b"q").unwrap(),
            false => kill(running(program, socket), Signal::SIGTERM).unwrap(),
        }
        until("\u{1b}[?1049l");
        assert_eq!(on_terminal.wait().unwrap().code(), Some(0));
    }
}

/// The process of this program that asks at this socket.
fn running(program: &str, socket: &Path) -> Pid {
    let is_it = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let args: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        args[0] == program.as_bytes() && args.contains(&socket.as_os_str().as_encoded_bytes())
    };
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|one| one.unwrap().file_name().to_str()?.parse().ok());
    Pid::from_raw(pids.into_iter().find(is_it).unwrap())
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
            "refused" => {
                assert!(answer["why"].as_str().unwrap().contains("room for no more"), "{answer}");
                refused += 1;
            }
            other => assert_eq!(other, "counted"),
        }
    }
    assert_eq!(refused, 8);
    let begin = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
    let (_, out, err) = end(&command.arg("confirm").arg("--admin-socket").arg(socket).output().unwrap());
    assert!(format!("{out}{err}").contains("no change waits to be confirmed"), "{out}{err}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}
