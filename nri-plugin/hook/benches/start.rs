//! How long the hook takes from its start to its end, when the daemon answers: what it adds to each container start
//! beside the arming itself. The program is the one that is installed; at the socket stands a thread that answers at
//! once.

use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nri_enforcer_hook::message::{Answer, body_len};

#[path = "../tests/build/mod.rs"]
mod build;

const ROUNDS: usize = 500;
/// For the median, and for 95 of 100.
const LIMIT: Duration = Duration::from_millis(3);

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("NOTHING IS MEASURED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    let program = build::program();
    let dir = tempfile::tempdir()?;
    let bundle = dir.path().join("bundle");
    std::fs::create_dir_all(bundle.join("rootfs"))?;
    // as long as a real one
    let padding = "x".repeat(24 << 10);
    std::fs::write(bundle.join("config.json"), format!(r#"{{"root":{{"path":"rootfs"}},"x":"{padding}"}}"#))?;
    let socket = dir.path().join("sock");
    let config = dir.path().join("config");
    std::fs::write(&config, format!(r#"{{"socket":"{}"}}"#, socket.display()))?;
    let listener = UnixListener::bind(socket)?;
    std::thread::spawn(move || {
        for mut caller in listener.incoming().flatten() {
            let mut head = [0; 4];
            let mut body = vec![0; caller.read_exact(&mut head).map_or(0, |()| body_len(head).unwrap_or(0))];
            if caller.read_exact(&mut body).is_ok() && !body.is_empty() {
                let _gone = caller.write_all(&Answer::Armed.encode());
            }
        }
    });
    let state = format!(
        r#"{{"id":"{}","status":"creating","pid":7,"bundle":"{}","annotations":{{"io.kubernetes.cri.sandbox-namespace":"shop"}}}}"#,
        "c".repeat(64),
        bundle.display()
    );
    let asked =
        measure(|| once(&program, &["createRuntime", "--config", &config.to_string_lossy()], &state, 0))?;
    let bare = measure(|| once(&program, &[], "", 2))?;
    let good = asked.median <= LIMIT && asked.high <= LIMIT;
    println!(
        "hook, from start to exit, {ROUNDS} rounds: {asked} (limit {LIMIT:?}: {})",
        if good { "ok" } else { "MISSED" }
    );
    println!("  of that, a process that starts and ends: {bare}");
    Ok(good)
}

fn once(program: &Path, arguments: &[&str], state: &str, wanted: i32) -> Result<Duration, Box<dyn Error>> {
    let begin = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let _ended = child.stdin.take().ok_or("no stdin")?.write_all(state.as_bytes());
    let status = child.wait()?;
    let took = begin.elapsed();
    if status.code() == Some(wanted) {
        return Ok(took);
    }
    let mut told = String::new();
    child.stderr.take().ok_or("no stderr")?.read_to_string(&mut told)?;
    Err(format!("{status}: {told}").into())
}

struct Times {
    median: Duration,
    high: Duration,
    highest: Duration,
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "median {:.2?}, 95 % within {:.2?}, 99 % within {:.2?}",
            self.median, self.high, self.highest
        )
    }
}

fn measure(mut once: impl FnMut() -> Result<Duration, Box<dyn Error>>) -> Result<Times, Box<dyn Error>> {
    let mut times = (0..ROUNDS).map(|_| once()).collect::<Result<Vec<_>, _>>()?;
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().ok_or("no rounds");
    Ok(Times { median: at(50)?, high: at(95)?, highest: at(99)? })
}
