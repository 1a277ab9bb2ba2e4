//! The daemon under test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::runtime::tail;

/// How long the daemon may take to be ready: it loads BPF programs, which an emulated machine verifies slowly.
const READY: Duration = Duration::from_secs(120);
/// Alerts that are on their way arrive within this time of the last one.
const QUIET: Duration = Duration::from_millis(400);

/// One line of the daemon's alerts.
pub type Alert = serde_json::Value;

/// How the daemon is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The program.
    pub program: PathBuf,
    /// `CLASS=ACTION`, as its command line takes them.
    pub postures: Vec<String>,
    /// More arguments.
    pub arguments: Vec<String>,
}

/// A daemon with a policy directory, an alert file and a log of its own. Killed when dropped; what it armed stays.
#[derive(Debug)]
pub struct Daemon {
    options: Options,
    folder: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// A daemon that is not started yet, with an empty policy directory below `folder`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(folder: &Path, options: Options) -> Result<Self> {
        fs::create_dir_all(folder.join("policies"))?;
        Ok(Self { options, folder: folder.to_owned(), child: None })
    }

    /// Writes a policy file, as a whole: by renaming, as editors and Kubernetes' volumes do.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write_policy(&self, name: &str, text: &str) -> Result<()> {
        let temporary = self.folder.join(name);
        fs::write(&temporary, text)?;
        Ok(fs::rename(temporary, self.folder.join("policies").join(name))?)
    }

    /// Removes a policy file.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove_policy(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.folder.join("policies").join(name))?)
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or takes too long: then with the end of its log.
    pub async fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the daemon runs already");
        let ready = self.folder.join("ready");
        let _ = fs::remove_file(&ready); // a killed one leaves it
        let log = File::options().create(true).append(true).open(self.folder.join("log"))?;
        let mut command = Command::new(&self.options.program);
        command.arg("run").arg("--policy-dir").arg(self.folder.join("policies"));
        command.arg("--alerts").arg(self.folder.join("alerts")).arg("--ready-file").arg(&ready);
        for posture in &self.options.postures {
            command.args(["--posture", posture]);
        }
        command.args(&self.options.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start `{}`", self.options.program.display()))?;
        self.child = Some(child);
        let deadline = Instant::now() + READY;
        while !ready.exists() {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                self.child = None;
                bail!("the daemon ended before it was ready: {status}\n{}", self.log());
            }
            if Instant::now() > deadline {
                bail!("the daemon is not ready after {} s\n{}", READY.as_secs(), self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is not running.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the daemon is not running")?;
        Ok(kill(Pid::from_raw(child.id().try_into()?), signal)?)
    }

    /// Ends it with this signal and waits for its end.
    ///
    /// # Errors
    /// When it is not running.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        let mut child = self.child.take().context("the daemon is not running")?;
        child.wait()?;
        Ok(())
    }

    /// Whether it is running still.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?.is_none(),
            None => false,
        })
    }

    /// The alerts so far, once no more are coming.
    ///
    /// # Errors
    /// When one is no JSON.
    pub async fn alerts(&self) -> Result<Vec<Alert>> {
        let path = self.folder.join("alerts");
        let size = || fs::metadata(&path).map_or(0, |m| m.len());
        let (mut last, mut since) = (size(), Instant::now());
        while since.elapsed() < QUIET {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if size() != last {
                (last, since) = (size(), Instant::now());
            }
        }
        self.alerts_now()
    }

    /// The alerts so far, once there is one that `wanted` takes, and at most after `limit`.
    ///
    /// # Errors
    /// When one is no JSON.
    pub async fn wait_for_alert(&self, limit: Duration, wanted: impl Fn(&Alert) -> bool) -> Result<Vec<Alert>> {
        let deadline = Instant::now() + limit;
        loop {
            let alerts = self.alerts_now()?;
            if alerts.iter().any(&wanted) || Instant::now() > deadline {
                return Ok(alerts);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn alerts_now(&self) -> Result<Vec<Alert>> {
        let text = fs::read_to_string(self.folder.join("alerts")).unwrap_or_default();
        // A line without an end is being written.
        let whole = text.rfind('\n').and_then(|at| text.get(..at)).unwrap_or_default();
        whole.lines().map(|l| serde_json::from_str(l).with_context(|| format!("an alert that is no JSON: `{l}`"))).collect()
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        format!("--- end of the daemon's log\n{}", tail(&self.folder.join("log")))
    }

    /// All of its log.
    #[must_use]
    pub fn whole_log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Errors mean that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
