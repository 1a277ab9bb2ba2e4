//! The node's containerd.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Cri;

/// How long containerd may take to serve.
const LIMIT: Duration = Duration::from_secs(60);

/// A running containerd. In a guest it was started before the machine was saved.
#[derive(Debug)]
pub struct Runtime {
    log: PathBuf,
    pid_file: PathBuf,
}

impl Runtime {
    /// The one that runs in this guest.
    #[must_use]
    pub fn of_guest() -> Self {
        Self { log: "/run/containerd.log".into(), pid_file: "/run/containerd.pid".into() }
    }

    /// A client for it.
    ///
    /// # Errors
    /// When it does not serve.
    pub async fn cri(&self) -> Result<Cri> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match Cri::connect("/run/containerd/containerd.sock".as_ref(), "/run/lab-logs".as_ref()).await {
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
        let text = fs::read_to_string(&self.pid_file).context("containerd's process id")?;
        Ok(Pid::from_raw(text.trim().parse()?))
    }

    /// Kills it with SIGKILL. Containers go on running; their shims hold them.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&self) -> Result<()> {
        let pid = self.pid()?;
        kill(pid, Signal::SIGKILL).context("kill containerd")?;
        let deadline = Instant::now() + LIMIT;
        while process_runs(pid) {
            if Instant::now() > deadline {
                bail!("containerd does not die");
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
            Command::new("containerd").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        Ok(fs::write(&self.pid_file, child.context("start containerd")?.id().to_string())?)
    }

    /// Makes the image in this archive known to it.
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

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        format!("--- end of containerd's log\n{}", tail(&self.log, 8))
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
