//! The node's container runtime: containerd, or CRI-O.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Cri;

/// How long it may take to serve.
const LIMIT: Duration = Duration::from_secs(60);

/// A running runtime. In a guest it was started before the machine was saved.
#[derive(Clone, Debug)]
pub struct Runtime {
    program: &'static str,
    socket: &'static str,
    log: PathBuf,
    pid_file: PathBuf,
}

impl Runtime {
    /// The containerd that runs in this guest.
    #[must_use]
    pub fn of_guest() -> Self {
        Self::called("containerd", "/run/containerd/containerd.sock")
    }

    /// The CRI-O that runs in this guest.
    #[must_use]
    pub fn crio() -> Self {
        Self::called("crio", "/run/crio/crio.sock")
    }

    fn called(program: &'static str, socket: &'static str) -> Self {
        let file = |end: &str| PathBuf::from(format!("/run/{program}.{end}"));
        Self { program, socket, log: file("log"), pid_file: file("pid") }
    }

    /// A client for it.
    ///
    /// # Errors
    /// When it does not serve.
    pub async fn cri(&self) -> Result<Cri> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match Cri::connect(self.socket.as_ref(), "/run/lab-logs".as_ref()).await {
                Ok(cri) => return Ok(cri),
                Err(e) if Instant::now() > deadline => return Err(e.context(self.log())),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Its process.
    ///
    /// # Errors
    /// When it was never started.
    pub fn pid(&self) -> Result<Pid> {
        let text =
            fs::read_to_string(&self.pid_file).with_context(|| format!("{}'s process id", self.program))?;
        Ok(Pid::from_raw(text.trim().parse()?))
    }

    /// Kills it with SIGKILL. Containers go on running; their shims, or monitors, hold them.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&self) -> Result<()> {
        let pid = self.pid()?;
        kill(pid, Signal::SIGKILL).with_context(|| format!("kill {}", self.program))?;
        let deadline = Instant::now() + LIMIT;
        while process_runs(pid) {
            if Instant::now() > deadline {
                bail!("{} does not die", self.program);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn start(&self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child =
            Command::new(self.program).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.with_context(|| format!("start {}", self.program))?;
        Ok(fs::write(&self.pid_file, child.id().to_string())?)
    }

    /// Makes the image in this archive known to containerd.
    ///
    /// # Errors
    /// When it refuses the archive.
    pub fn import(&self, archive: &str) -> Result<()> {
        let output = Command::new("ctr").args(["-n", "k8s.io", "images", "import", archive]).output()?;
        if !output.status.success() {
            bail!("containerd does not take the image: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// All of its log.
    #[must_use]
    pub fn whole_log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        format!("--- end of {}'s log\n{}", self.program, tail(&self.log, 8))
    }
}

/// Whether a process exists and is not just a name that its parent has not asked about yet.
pub(super) fn process_runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The last so many lines of a file.
pub(super) fn tail(path: &std::path::Path, number: usize) -> String {
    let text = fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(number)).copied().collect::<Vec<_>>().join("\n")
}
