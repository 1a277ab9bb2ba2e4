//! The daemon under test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::runtime::{process_runs, tail};

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
    process: Option<Process>,
}

/// A running daemon: a child of ours, or one that was started before the machine was saved.
#[derive(Debug)]
struct Process {
    pid: Pid,
    child: Option<Child>,
}

impl Daemon {
    /// A daemon that is not started yet, with an empty policy directory below `folder`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(folder: &Path, options: Options) -> Result<Self> {
        fs::create_dir_all(folder.join("policies"))?;
        Ok(Self { options, folder: folder.to_owned(), process: None })
    }

    /// The daemon that runs with `folder` since before the machine was saved ([`Daemon::leave_running`]).
    ///
    /// # Errors
    /// When there is none.
    pub fn running(folder: &Path, options: Options) -> Result<Self> {
        let text = fs::read_to_string(folder.join("pid")).context("no daemon was left running")?;
        let pid = Pid::from_raw(text.trim().parse()?);
        ensure!(process_runs(pid), "the daemon that was left running has ended");
        Ok(Self { options, folder: folder.to_owned(), process: Some(Process { pid, child: None }) })
    }

    /// How it is started the next time.
    pub fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    /// Lets the daemon go on after this program's end, for [`Daemon::running`].
    ///
    /// # Errors
    /// When it is not running.
    pub fn leave_running(mut self) -> Result<()> {
        let process = self.process.take().context("the daemon is not running")?;
        Ok(fs::write(self.folder.join("pid"), process.pid.to_string())?)
    }

    /// Writes a policy file and waits until the running daemon has taken it up.
    ///
    /// # Errors
    /// When it does not.
    pub async fn apply(&self, name: &str, text: &str) -> Result<()> {
        let before = self.policy_changes();
        self.write_policy(name, text)?;
        self.wait_for_change(before).await
    }

    /// Waits until the policies have changed once more than `before` times.
    ///
    /// # Errors
    /// When they do not within a minute.
    pub async fn wait_for_change(&self, before: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.policy_changes() <= before {
            if Instant::now() > deadline {
                bail!("the daemon did not take up the change of its policies\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// How often policies have come into force since the start, by the daemon's log.
    #[must_use]
    pub fn policy_changes(&self) -> usize {
        self.whole_log().lines().filter(|l| l.contains("policies in force")).count()
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
        self.spawn()?;
        self.wait_until_ready().await
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be executed, or runs already.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the daemon runs already");
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
        let pid = Pid::from_raw(child.id().try_into()?);
        self.process = Some(Process { pid, child: Some(child) });
        Ok(())
    }

    /// Waits until it has taken the node over.
    ///
    /// # Errors
    /// When it ends or takes too long: then with the end of its log.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        let ready = self.folder.join("ready");
        let deadline = Instant::now() + READY;
        while !ready.exists() {
            if !self.runs() {
                self.process = None;
                bail!("the daemon ended before it was ready\n{}", self.log());
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
        let process = self.process.as_ref().context("the daemon is not running")?;
        Ok(kill(process.pid, signal)?)
    }

    /// Ends it with this signal and waits for its end.
    ///
    /// # Errors
    /// When it is not running, or does not end.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.runs() {
            ensure!(Instant::now() < deadline, "{signal} does not end the daemon\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(child) = self.process.take().and_then(|p| p.child) {
            let _ = { child }.wait(); // it has ended: this only clears its name
        }
        Ok(())
    }

    /// Whether it is running.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.process.as_ref().is_some_and(|p| process_runs(p.pid))
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
    pub async fn wait_for_alert(
        &self,
        limit: Duration,
        wanted: impl Fn(&Alert) -> bool,
    ) -> Result<Vec<Alert>> {
        let deadline = Instant::now() + limit;
        loop {
            let alerts = self.alerts_now()?;
            if alerts.iter().any(&wanted) || Instant::now() > deadline {
                return Ok(alerts);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The alerts so far.
    ///
    /// # Errors
    /// When one is no JSON.
    pub fn alerts_now(&self) -> Result<Vec<Alert>> {
        let text = fs::read_to_string(self.folder.join("alerts")).unwrap_or_default();
        // A line without an end is being written.
        let whole = text.rfind('\n').and_then(|at| text.get(..at)).unwrap_or_default();
        whole
            .lines()
            .map(|l| serde_json::from_str(l).with_context(|| format!("an alert that is no JSON: `{l}`")))
            .collect()
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        format!("--- end of the daemon's log\n{}", tail(&self.folder.join("log"), 25))
    }

    /// All of its log.
    #[must_use]
    pub fn whole_log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // Errors mean that it has ended already.
            let _ = kill(process.pid, Signal::SIGKILL);
            if let Some(child) = &mut process.child {
                let _ = child.wait();
            }
        }
    }
}
