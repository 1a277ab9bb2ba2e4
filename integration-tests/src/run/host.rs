//! The host's side: finds what is to be shipped, ships it into a fresh guest, and takes the answer.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::{DAEMON_FILE, IMAGE_FILE, PROGRESS, Plan, Report};
use crate::vm::{self, Job, Machine, Outcome, Spec, Streams};
use crate::{cache, image};

/// Where a plan is carried out.
#[derive(Clone, Debug)]
pub struct Target {
    /// The machine.
    pub spec: Spec,
    /// The daemon; `None`: the one that was built beside this program.
    pub daemon: Option<PathBuf>,
}

impl Target {
    /// The daemon's program.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn daemon(&self) -> Result<PathBuf> {
        if let Some(path) = &self.daemon {
            if !path.is_file() {
                bail!("`{}` is no program", path.display());
            }
            return Ok(path.clone());
        }
        built(DAEMON_FILE)?.with_context(|| {
            format!(
                "`{DAEMON_FILE}` is not built: run `cargo build -p nri-plugin`, or name one with --daemon"
            )
        })
    }
}

/// The OCI hook as it is installed, built now if that is needed.
///
/// # Errors
/// When it cannot be built.
pub fn hook() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // flags of this run, such as those for coverage, would make another program of it
    let built = Command::new(cargo).current_dir(root).arg("build-hook").env_remove("RUSTFLAGS").output();
    let built = built.context("run `cargo build-hook`")?;
    if !built.status.success() {
        bail!("`cargo build-hook` failed\n{}", String::from_utf8_lossy(&built.stderr));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("hook/nri-enforcer-hook"))
}

/// A program that was built beside this one.
fn built(name: &str) -> Result<Option<PathBuf>> {
    // Test programs are one folder deeper (target/debug/deps).
    let own = std::env::current_exe()?;
    Ok(own.ancestors().skip(1).take(2).map(|d| d.join(name)).find(|p| p.is_file()))
}

/// A job that has this program and the daemon in it.
///
/// # Errors
/// When the daemon has not been built.
pub fn guest_job(target: &Target, with_daemon: bool, script: &str) -> Result<Job> {
    let mut job = Job::script(script).file("lab", cache::stripped(&std::env::current_exe()?)?);
    if with_daemon {
        job = job.file(DAEMON_FILE, cache::stripped(&target.daemon()?)?);
    }
    Ok(job)
}

/// The saved machine in which the daemon runs already, without policies: loading its programs takes an emulated machine
/// longer than all the rest. It is made anew for each build of the daemon.
///
/// # Errors
/// When the daemon has not been built or does not become ready.
pub fn machine_with_daemon(target: &Target, progress: &dyn Fn(&str)) -> Result<Machine> {
    with_daemon(&vm::machine(&target.spec, progress)?, target, progress)
}

/// The same of a machine that has its runtime from elsewhere.
///
/// # Errors
/// As those of [`machine_with_daemon`].
pub fn with_daemon(machine: &Machine, target: &Target, progress: &dyn Fn(&str)) -> Result<Machine> {
    // This program only starts the daemon there: that it was built anew is no reason to make the machine anew.
    let program = cache::stripped(&target.daemon()?)?;
    let lab = cache::stripped(
        &built("lab")?.context("`lab` is not built: run `cargo build -p integration-tests`")?,
    )?;
    let mut job =
        Job::script("exec ./lab agent daemon nri-enforcer").file(DAEMON_FILE, program).helper("lab", lab);
    job.limit = Some(Duration::from_secs(180));
    machine.after("daemon", &job, progress)
}

/// Carries a plan out in a fresh guest.
///
/// # Errors
/// When the lab fails.
pub fn in_guest(plan: &Plan, root: Option<&Path>, target: &Target) -> Result<Report> {
    let progress = Progress::new();
    let mut plan = plan.clone();
    // A daemon that is to be started otherwise than the saved one comes with the job.
    plan.daemon_runs = !plan.policies.is_empty() && plan.postures.is_empty();
    let with_job = !plan.policies.is_empty() && !plan.daemon_runs;
    let mut job = guest_job(target, with_job, "exec ./lab agent run plan.json")?;
    job = job.bytes("plan.json", serde_json::to_vec(&plan)?);
    if let Some(root) = root {
        progress.say("reading the root");
        job = job.bytes(IMAGE_FILE, image::user_root(root)?);
    }
    let programs = u64::try_from(plan.execs.len() + plan.pod.init.len() + 1)?;
    job.limit = Some(Duration::from_secs(180 + programs * (plan.timeout + 30)));
    let say = |text: &str| progress.say(text);
    let machine =
        if plan.daemon_runs { machine_with_daemon(target, &say)? } else { vm::machine(&target.spec, &say)? };
    progress.say("restoring the machine");
    let mut out = Vec::new();
    let mut errors = progress.lines();
    let Outcome { status, .. } = job.run(&machine, Streams { out: &mut out, err: &mut errors })?;
    errors.flush()?;
    drop(errors);
    if status != 0 {
        bail!(
            "the lab's agent in the guest failed (status {status})\n{}",
            String::from_utf8_lossy(&out).trim()
        );
    }
    serde_json::from_slice(&out)
        .with_context(|| format!("the agent's answer: `{}`", String::from_utf8_lossy(&out)))
}

/// What is going on: a line that changes on a terminal, plain lines elsewhere. On standard error.
struct Progress(ProgressBar);

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {wide_msg:.dim} {elapsed:.dim}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    fn say(&self, text: &str) {
        if self.0.is_hidden() {
            eprintln!("lab: {text}");
        } else {
            self.0.set_message(text.to_owned());
        }
    }

    fn lines(&self) -> Lines<'_> {
        Lines { progress: self, held: Vec::new() }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Takes the guest's standard error: progress goes to [`Progress`], the rest to ours.
struct Lines<'a> {
    progress: &'a Progress,
    held: Vec<u8>,
}

impl Write for Lines<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        while let Some(end) = self.held.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.held.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match line.trim_end().strip_prefix(PROGRESS) {
                Some(text) => self.progress.say(text),
                None => self.progress.0.suspend(|| eprint!("{line}")),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Carries a plan out on this machine's own kernel, with the userland of a guest, in mount and pid namespaces
/// of its own.
///
/// # Errors
/// When this is not root, when this kernel cannot enforce, or when the lab fails.
pub fn on_host(plan: &Plan, root: Option<&Path>, target: &Target) -> Result<Report> {
    if !nix::unistd::geteuid().is_root() {
        bail!("--host needs root: it starts containerd on this machine's kernel");
    }
    let containerd = target.spec.containerd.context("a specification without a containerd")?;
    let mut plan = plan.clone();
    plan.clean_up = true;
    let work = tempfile::Builder::new().prefix("lab.").tempdir()?;
    let job = work.path().join("job");
    fs::create_dir(&job)?;
    fs::copy(std::env::current_exe()?, job.join("lab"))?;
    if !plan.policies.is_empty() {
        fs::copy(target.daemon()?, job.join(DAEMON_FILE))?;
    }
    fs::write(job.join("plan.json"), serde_json::to_vec(&plan)?)?;
    fs::write(job.join("warm"), include_bytes!("../../guest/warm"))?;
    fs::write(job.join("pause.tar"), image::pause()?)?;
    fs::write(job.join("root.tar"), image::default_root()?)?;
    if let Some(root) = root {
        fs::write(job.join(IMAGE_FILE), image::user_root(root)?)?;
    }
    fs::write(work.path().join("host"), include_bytes!("../../guest/host"))?;
    let progress = Progress::new();
    progress.say(&format!("starting containerd {containerd} on this machine's kernel"));
    let mut command = Command::new("unshare");
    // The pid namespace ends all that was started, however this ends.
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "host"]);
    command.arg(cache::artefact(&format!("root-{containerd}"))?).arg(containerd.to_string());
    let output = command.current_dir(work.path()).stdin(Stdio::null()).output().context("run unshare")?;
    let mut errors = progress.lines();
    errors.write_all(&output.stderr)?;
    drop(errors);
    match output.status.code() {
        Some(0) => serde_json::from_slice(&output.stdout).context("the agent's answer"),
        Some(3) => bail!("this kernel cannot enforce (see above); leave out --host to use a guest"),
        _ => bail!("the lab failed on this machine: {}", output.status),
    }
}
