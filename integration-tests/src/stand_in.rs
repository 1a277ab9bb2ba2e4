//! What is not the daemon at the hook's socket: a test needs something that answers wrongly there.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// A user that is not root: `nobody`.
const NOBODY: u32 = 65534;
/// Tells [`listen`] where.
const LISTENER: &str = "NRI_ENFORCER_STAND_IN";
/// How long another user's program may take to begin.
const LONGEST: Duration = Duration::from_secs(90);

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// It is another user's, and says what the daemon would.
    Nobody,
    /// It sends what makes no sense.
    Garbage,
    /// It accepts, and says nothing.
    Silent,
}

/// Takes its place back; to be called when it has been asked.
pub type Stop = Box<dyn FnOnce() -> Result<()>>;

/// Puts it at `socket`, in whose directory nobody else may be. `program` runs [`listen`] in a test called `listener`, and
/// can be executed by everybody.
///
/// # Errors
/// When it cannot begin.
pub fn stand_in(socket: &Path, program: &Path, behaviour: Behaviour) -> Result<Stop> {
    let (dir, socket) = (socket.parent().context("a directory")?.to_owned(), socket.to_owned());
    if behaviour != Behaviour::Nobody {
        let listener = UnixListener::bind(&socket)?;
        std::thread::spawn(move || {
            let mut callers = Vec::new();
            for mut caller in listener.incoming().flatten() {
                if behaviour == Behaviour::Garbage {
                    let _gone = caller.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                }
                callers.push(caller); // held: hanging up would be an answer
            }
        });
        return Ok(Box::new(move || fs::remove_file(socket).context("the socket")));
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
    let mut child = Command::new(program)
        .args(["--exact", "listener"])
        .env(LISTENER, &socket)
        .uid(NOBODY)
        .stdout(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + LONGEST;
    while !socket.exists() {
        ensure!(Instant::now() < deadline, "nobody listens at {}", socket.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Box::new(move || {
        child.kill()?;
        child.wait()?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        fs::remove_file(socket).context("the socket")
    }))
}

/// Has what is answered at `socket` come so long after the question, as of a daemon that is slow: what it does is done at once.
///
/// # Errors
/// When it cannot begin.
pub fn slow(socket: &Path, delay: Duration) -> Result<Stop> {
    let (socket, daemon) = (socket.to_owned(), socket.with_extension("daemon"));
    fs::rename(&socket, &daemon).context("the daemon's socket")?;
    let listener = UnixListener::bind(&socket)?;
    let at = daemon.clone();
    std::thread::spawn(move || {
        for caller in listener.incoming().flatten() {
            let at = at.clone();
            // whoever gives up, or is not there, ends it
            std::thread::spawn(move || pass_on(caller, &at, delay));
        }
    });
    Ok(Box::new(move || fs::rename(daemon, socket).context("the daemon's socket")))
}

/// One question and its answer: each has its length before it.
fn pass_on(mut caller: UnixStream, daemon: &Path, delay: Duration) -> std::io::Result<()> {
    let begin = Instant::now();
    let mut daemon = UnixStream::connect(daemon)?;
    let message = |from: &mut UnixStream| -> std::io::Result<Vec<u8>> {
        let mut head = [0; 4];
        from.read_exact(&mut head)?;
        let mut body = vec![0; u32::from_be_bytes(head).try_into().unwrap_or(0)];
        from.read_exact(&mut body)?;
        Ok([&head[..], &body].concat())
    };
    daemon.write_all(&message(&mut caller)?)?;
    let answer = message(&mut daemon)?;
    std::thread::sleep(delay.saturating_sub(begin.elapsed()));
    caller.write_all(&answer)
}

/// The other user's program; returns at once where this is none.
///
/// # Errors
/// When it cannot listen.
pub fn listen() -> Result<()> {
    let Some(path) = std::env::var_os(LISTENER) else { return Ok(()) };
    for caller in UnixListener::bind(path)?.incoming() {
        let answer = br#"{"version":1,"answer":"armed"}"#;
        let _gone = caller?.write_all(&[&30_u32.to_be_bytes()[..], answer].concat());
    }
    Ok(())
}
