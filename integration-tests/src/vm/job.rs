//! One job in a fresh copy of a saved machine.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::Flock;
use serde_json::json;
use tempfile::TempDir;

use super::qmp::{Qmp, connect};
use super::snapshot::{Guest, JOB_DISK, Machine};
use super::times;
use crate::cache::{self, Key};

/// Where a job's output goes, as it comes.
#[expect(missing_debug_implementations, reason = "writers have none")]
pub struct Streams<'a> {
    /// Standard output.
    pub out: &'a mut (dyn Write + Send),
    /// Standard error.
    pub err: &'a mut (dyn Write + Send),
}

/// Files and a shell script that is run among them, in `/lab` of the guest.
#[derive(Debug, Default)]
pub struct Job {
    files: Vec<(String, Content)>,
    /// The script, run by `sh` as root.
    pub script: String,
    /// The job is ended after this; `None`: five minutes.
    pub limit: Option<Duration>,
}

#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    Path(PathBuf),
    Helper(PathBuf),
}

/// How a job ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The script's exit status.
    pub status: i32,
    /// From the request to the machine's first instruction.
    pub restore: Duration,
    /// From there to the end.
    pub elapsed: Duration,
}

/// A machine after its job, which runs on; it ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    // Fields are dropped in this order: the machine before the folder with its sockets.
    guest: Guest,
    qmp: Qmp,
    _work: TempDir,
    _slot: Flock<File>,
}

impl Running {
    /// Where this machine reaches a port of the guest ([`super::Spec::ports`]).
    ///
    /// # Errors
    /// When the guest was made without that port.
    pub fn address(&self, port: u16) -> Result<SocketAddr> {
        let known = self.guest.ports.iter().find(|(guest, _)| *guest == port);
        Ok(known.with_context(|| format!("the guest has no port {port} that is reached"))?.1)
    }

    /// The end of its console, for an error message.
    #[must_use]
    pub fn tail(&self) -> String {
        self.guest.tail()
    }

    /// Saves the machine to `folder`, and with that ends it.
    pub(super) fn save(&mut self, folder: &Path) -> Result<()> {
        self.guest.save(&mut self.qmp, folder)
    }
}

impl Job {
    /// A job that runs this script.
    #[must_use]
    pub fn script(script: impl Into<String>) -> Self {
        Self { script: script.into(), ..Self::default() }
    }

    /// Adds a file with this content.
    #[must_use]
    pub fn bytes(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.to_owned(), Content::Bytes(content.into())));
        self
    }

    /// Adds a file of the host's, with its permissions.
    #[must_use]
    pub fn file(mut self, name: &str, path: impl Into<PathBuf>) -> Self {
        self.files.push((name.to_owned(), Content::Path(path.into())));
        self
    }

    /// Adds a file that does not count for what the job makes of a machine ([`Machine::after`]).
    #[must_use]
    pub fn helper(mut self, name: &str, path: impl Into<PathBuf>) -> Self {
        self.files.push((name.to_owned(), Content::Helper(path.into())));
        self
    }

    /// Runs it in a fresh copy of the machine. Waits for a free slot first.
    ///
    /// # Errors
    /// When the machine cannot be restored, the limit is passed, or the guest dies: then with the end of its console.
    /// A script that fails is no error: see [`Outcome::status`].
    pub fn run(&self, machine: &Machine, streams: Streams<'_>) -> Result<Outcome> {
        self.run_on(machine, streams).map(|(outcome, _)| outcome)
    }

    /// Runs it, and hands back the machine, which runs on.
    ///
    /// # Errors
    /// As those of [`Job::run`].
    pub fn run_on(&self, machine: &Machine, streams: Streams<'_>) -> Result<(Outcome, Running)> {
        let slot = cache::guest_slot()?;
        let begin = Instant::now();
        let work = tempfile::Builder::new().prefix("lab.").tempdir()?;
        let size = self.write_disk(&work.path().join("job.img"))?;
        let mut guest = machine.start(work.path(), true)?;
        let at = |name: &str| work.path().join(name);
        let mut qmp = Qmp::open(&at("qmp")).with_context(|| guest.tail())?;
        qmp.wait("query-status", &["paused", "running", "postmigrate", "prelaunch"])
            .with_context(|| guest.tail())?;
        let (mut out, err) = (connect(&at("out"))?, connect(&at("err"))?);
        qmp.call("cont", json!({}))?;
        let restore = begin.elapsed();

        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let token = format!("end-of-job-{}-{:x}", std::process::id(), now.as_nanos());
        writeln!(out, "run {token} {} {size}", now.as_secs())?;
        let limit = self.limit.unwrap_or(Duration::from_secs(300));
        let done = Arc::new(AtomicBool::new(false));
        let late = thread::scope(|scope| {
            let watchdog = scope.spawn({
                let done = Arc::clone(&done);
                let sockets = [out.try_clone(), err.try_clone()];
                move || {
                    let deadline = Instant::now() + limit;
                    while !done.load(Ordering::Relaxed) {
                        if Instant::now() > deadline {
                            for socket in sockets.iter().flatten() {
                                let _ = socket.shutdown(std::net::Shutdown::Both); // ends the readers
                            }
                            return true;
                        }
                        thread::sleep(Duration::from_millis(5));
                    }
                    false
                }
            });
            let errors = scope.spawn(|| copy(err, &token, streams.err));
            let status = copy(out, &token, streams.out);
            let errors = errors.join();
            done.store(true, Ordering::Relaxed);
            let late = watchdog.join().unwrap_or(false);
            (late, status, errors)
        });
        times::note(guest.child.id(), begin.elapsed(), machine.name());
        match late {
            (false, Ok(Some(status)), Ok(Ok(Some(_)))) => {
                let outcome = Outcome { status, restore, elapsed: begin.elapsed().saturating_sub(restore) };
                Ok((outcome, Running { guest, qmp, _work: work, _slot: slot }))
            }
            (true, ..) => bail!("the job did not end within {} s\n{}", limit.as_secs(), guest.tail()),
            (false, Err(e), _) | (false, _, Ok(Err(e))) => Err(e).context("the job's output"),
            (false, ..) => {
                thread::sleep(Duration::from_millis(100)); // its last words reach the console's file
                bail!(
                    "the guest died{}\n{}",
                    if guest.alive()? { " (QEMU did not)" } else { "" },
                    guest.tail()
                )
            }
        }
    }

    /// Adds all that makes this job what it is.
    pub(super) fn key(&self, mut key: Key) -> Result<Key> {
        key = key.bytes("script", self.script.as_bytes());
        for (name, content) in &self.files {
            key = match content {
                Content::Bytes(b) => key.bytes(name, b),
                Content::Path(p) => key.bytes("as", name.as_bytes()).file(p)?,
                Content::Helper(_) => key,
            };
        }
        Ok(key)
    }

    /// The files as a tar archive at the beginning of a disk; the archive's size.
    fn write_disk(&self, path: &Path) -> Result<u64> {
        let disk = File::create(path)?;
        let mut archive = tar::Builder::new(BufWriter::new(&disk));
        let mut add = |name: &str, mode: u32, size: u64, content: &mut dyn Read| -> Result<()> {
            let mut header = tar::Header::new_gnu();
            header.set_mode(mode);
            header.set_size(size);
            Ok(archive.append_data(&mut header, name, content)?)
        };
        add("run", 0o755, u64::try_from(self.script.len())?, &mut self.script.as_bytes())?;
        for (name, content) in &self.files {
            match content {
                Content::Bytes(b) => add(name, 0o644, u64::try_from(b.len())?, &mut b.as_slice())?,
                Content::Path(p) | Content::Helper(p) => {
                    let mut file = File::open(p).with_context(|| format!("open `{}`", p.display()))?;
                    let meta = file.metadata()?;
                    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777;
                    add(name, mode, meta.len(), &mut file)?;
                }
            }
        }
        archive.into_inner()?.flush()?;
        let size = disk.metadata()?.len();
        ensure!(size < JOB_DISK, "the job's files ({} MiB) do not fit on the job disk", size >> 20);
        disk.set_len(JOB_DISK)?;
        Ok(size)
    }
}

/// Copies what comes until a line that is the token and a number, which it returns; `None` when the stream ends first.
fn copy(mut from: UnixStream, token: &str, to: &mut (dyn Write + Send)) -> Result<Option<i32>> {
    let mark = format!("\n{token} ");
    let mut held = Vec::new(); // what may be the beginning of the mark
    let mut chunk = vec![0_u8; 64 << 10];
    loop {
        let n = match from.read(&mut chunk) {
            Ok(0) => break,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e.into()),
            Ok(n) => n,
        };
        held.extend(chunk.iter().take(n));
        if let Some(at) = held.windows(mark.len()).position(|w| w == mark.as_bytes()) {
            let (output, rest) = held.split_at(at);
            let number = String::from_utf8_lossy(rest.get(mark.len()..).unwrap_or_default()).into_owned();
            let Some((number, _)) = number.split_once('\n') else { continue };
            to.write_all(output)?;
            to.flush()?;
            return Ok(Some(number.trim().parse().context("the guest's exit status")?));
        }
        let sure = held.len().saturating_sub(mark.len());
        to.write_all(held.get(..sure).unwrap_or_default())?;
        to.flush()?;
        held.drain(..sure);
    }
    to.write_all(&held)?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(pieces: &[&str]) -> (Option<i32>, String) {
        let (reader, mut writer) = UnixStream::pair().unwrap();
        let pieces: Vec<String> = pieces.iter().map(|p| (*p).to_owned()).collect();
        let sender = thread::spawn(move || {
            for piece in pieces {
                writer.write_all(piece.as_bytes()).unwrap();
                thread::sleep(Duration::from_millis(5));
            }
        });
        let mut out = Vec::new();
        let status = copy(reader, "tok", &mut out).unwrap();
        sender.join().unwrap();
        (status, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_token_ends_a_stream_wherever_it_is_cut() {
        assert_eq!(copied(&["hello\n", "\nto", "k 3", "\n"]), (Some(3), "hello\n".into()));
        assert_eq!(copied(&["no newline\ntok 0\n"]), (Some(0), "no newline".into()));
        assert_eq!(copied(&["the guest died"]), (None, "the guest died".into()));
        assert_eq!(
            copied(&["not tok 1\nnor\ntokk 2\n\ntok 7\n"]),
            (Some(7), "not tok 1\nnor\ntokk 2\n".into())
        );
    }
}
