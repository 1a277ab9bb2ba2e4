//! How a test runs its body inside a fresh guest.
//!
//! A `#[test]` calls [`in_guest`] with its own name. On the host that ships the test program itself into a guest and runs
//! there the very same test; in the guest it runs the body. So a body is ordinary code on a real node, with everything
//! that it starts thrown away afterwards, and its failures and panics arrive as usual.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer_core::enforce::Enforcer;
use enforcer_core::event::Event;

use crate::node::{Container, Cri, Daemon, Options, Output, Pod, RunningContainer, RunningPod, Runtime};
use crate::run::{Target, guest_job, machine_with_daemon, running_daemon};
use crate::vm::{self, Kernel, Machine, Spec, Streams};

/// Set in the guest.
const INSIDE: &str = "NRI_ENFORCER_LAB_INSIDE";
/// Tests are ended after this.
const LIMIT: Duration = Duration::from_secs(600);

/// What a body works with.
#[derive(Debug)]
pub struct Node {
    /// The guest's runtime.
    pub runtime: Runtime,
    /// A client for it.
    pub cri: Cri,
    /// The daemon; running, without policies.
    pub daemon: Daemon,
    checks: Checks,
}

/// What a body has found to be as it should be, and what not.
#[derive(Debug, Default)]
pub struct Checks(Vec<bool>);

impl Checks {
    /// Notes that something is as it should be, or is not. The test goes on, and fails at its end: so that one look shows
    /// all that is wrong.
    pub fn check<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: T, wanted: T) {
        let good = found == wanted;
        let time = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let time = time.split(' ').next().unwrap_or_default();
        if good {
            println!("{time:>8} ok    {what}");
        } else {
            println!("{time:>8} WRONG {what}: {found:?}, not {wanted:?}");
        }
        self.0.push(good);
    }

    fn wrong(&self) -> usize {
        self.0.iter().filter(|good| !**good).count()
    }

    /// What becomes of a test whose body ended so.
    fn verdict(&self, result: Result<()>) -> Result<()> {
        result.context("the test could not go on")?;
        ensure!(!self.0.is_empty(), "the test checked nothing");
        ensure!(self.wrong() == 0, "{} of {} checks are wrong", self.wrong(), self.0.len());
        Ok(())
    }
}

impl Node {
    /// See [`Checks::check`].
    pub fn check<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: T, wanted: T) {
        self.checks.check(what, found, wanted);
    }

    /// Has containerd use AppArmor, with a parser, which it does where there is one at its usual place. No pod may run.
    ///
    /// # Errors
    /// When it does not start anew.
    pub async fn use_apparmor(&mut self, parser: &Path) -> Result<()> {
        std::fs::copy(parser, "/sbin/apparmor_parser").context("copy the parser")?;
        let path = "/etc/containerd/config.toml";
        let config = std::fs::read_to_string(path)?;
        ensure!(config.contains("disable_apparmor = true"), "{path} is another one: {config}");
        std::fs::write(path, config.replace("disable_apparmor = true", "disable_apparmor = false"))?;
        self.runtime.kill()?;
        self.runtime.start()?;
        self.cri = self.runtime.cri().await?;
        let begin = Instant::now();
        while !Path::new("/run/nri/nri.sock").exists() {
            ensure!(begin.elapsed() < Duration::from_secs(60), "containerd opens no NRI socket");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// A pod's sandbox; `labels` as `key=value`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn pod(&self, namespace: &str, name: &str, labels: &[(&str, &str)]) -> Result<RunningPod> {
        let mut pod = Pod::new(name, labels, Container { privileged: true, ..Container::idle("any") });
        namespace.clone_into(&mut pod.namespace);
        self.cri.run_pod(&pod).await.with_context(|| format!("pod {name}"))
    }

    /// Runs a container to its end; its exit status. `attempt` counts restarts.
    ///
    /// # Errors
    /// When it does not start or does not end.
    pub async fn entry(&self, pod: &RunningPod, name: &str, attempt: u32, command: &[&str]) -> Result<i32> {
        let created = self.cri.create(pod, &Container::new(name, command), attempt).await?;
        self.cri.start(&created).await.with_context(|| format!("start container {name}"))?;
        let state = self.cri.wait(&created, Duration::from_secs(60)).await?;
        state.and_then(|s| s.exit).with_context(|| format!("container {name} does not end"))
    }

    /// Starts a privileged container that only waits.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn idle(&self, pod: &RunningPod, name: &str) -> Result<RunningContainer> {
        let created =
            self.cri.create(pod, &Container { privileged: true, ..Container::idle(name) }, 0).await?;
        self.cri.start(&created).await.with_context(|| format!("start container {name}"))?;
        Ok(created)
    }

    /// Runs a command, split at spaces, in a container.
    ///
    /// # Errors
    /// When the container is not running.
    pub async fn exec(&self, container: &RunningContainer, command: &str) -> Result<Output> {
        let words: Vec<_> = command.split(' ').map(str::to_owned).collect();
        self.cri
            .exec(container, &words, Duration::from_secs(90))
            .await
            .with_context(|| format!("exec {command}"))
    }

    /// What a failed test shows beside its checks.
    fn logs(&self) -> String {
        format!("{}\n{}", self.runtime.log(), self.daemon.log())
    }
}

/// A test's body.
pub type Body = for<'a> fn(&'a mut Node) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A file that a body needs: its name there, and what makes it here and says where it is.
pub type File = (&'static str, fn() -> Result<PathBuf>);

/// Runs the body of the test `name` in a fresh guest of this kind. A machine that cannot be had fails the test.
///
/// # Errors
/// When a check failed, or anything else.
pub fn in_guest(name: &str, spec: &Spec, needs_daemon: bool, body: Body) -> Result<()> {
    run_in_guest(name, spec, needs_daemon, false, &[], body).map(drop)
}

/// The same with these files in the body's working directory, by name; each is made only where the guest is started. What
/// the guest said; `None` in the guest itself.
///
/// # Errors
/// When a check failed, or anything else.
pub fn in_guest_with(
    name: &str,
    spec: &Spec,
    needs_daemon: bool,
    files: &[File],
    body: Body,
) -> Result<Option<String>> {
    run_in_guest(name, spec, needs_daemon, false, files, body)
}

/// As [`in_guest_with`], with the daemon's program at hand and not running: for what has to be started in its own way.
///
/// # Errors
/// When a check failed, or anything else.
pub fn in_guest_with_program(name: &str, spec: &Spec, files: &[File], body: Body) -> Result<Option<String>> {
    run_in_guest(name, spec, false, true, files, body)
}

/// Runs the body in a fresh guest in which systemd is the first process, with the daemon's program and these files in its working
/// directory. There is no containerd.
///
/// # Errors
/// When a check failed, or anything else.
pub fn in_guest_of_systemd(
    name: &str,
    kernel: Kernel,
    files: &[File],
    body: fn(&mut Checks) -> Result<()>,
) -> Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        return ship(name, &vm::machine(&Spec::systemd(kernel), &say)?, true, files).map(drop);
    }
    let mut checks = Checks::default();
    let result = body(&mut checks);
    checks.verdict(result)
}

/// As [`in_guest_with`], in a copy of a machine with this runtime and the daemon running, which is made only where the guest is
/// started.
///
/// # Errors
/// When a check failed, or anything else.
pub fn in_machine(
    name: &str,
    machine: impl FnOnce(&dyn Fn(&str)) -> Result<Machine>,
    runtime: Runtime,
    files: &[File],
    body: Body,
) -> Result<Option<String>> {
    if std::env::var_os(INSIDE).is_some() {
        return inside(runtime, true, body).map(|()| None);
    }
    let machine = machine(&say)?;
    ship(name, &machine, false, files).map(Some)
}

fn say(text: &str) {
    println!("{text}");
}

fn run_in_guest(
    name: &str,
    spec: &Spec,
    needs_daemon: bool,
    program: bool,
    files: &[File],
    body: Body,
) -> Result<Option<String>> {
    if std::env::var_os(INSIDE).is_some() {
        return inside(Runtime::of_guest(), needs_daemon, body).map(|()| None);
    }
    let target = Target { spec: spec.clone(), daemon: None };
    let machine = if needs_daemon { machine_with_daemon(&target, &say)? } else { vm::machine(spec, &say)? };
    ship(name, &machine, program, files).map(Some)
}

/// Runs the test `name` of this program in a copy of the machine; what it said.
fn ship(name: &str, machine: &Machine, program: bool, files: &[File]) -> Result<String> {
    let spec = machine.spec();
    let target = Target { spec: spec.clone(), daemon: None };
    let script =
        format!("{INSIDE}=1 RUST_BACKTRACE=0 exec ./lab --exact {name} --nocapture --test-threads=1 2>&1");
    let mut job = guest_job(&target, program, &script)?;
    for (name, file) in files {
        job = job.file(name, file()?);
    }
    job.limit = Some(LIMIT);
    let mut out = Printed::default();
    let outcome = job.run(machine, Streams { out: &mut out, err: &mut std::io::sink() })?;
    println!(
        "guest {}: restored in {:.2} s, ran {:.1} s",
        spec.name(),
        outcome.restore.as_secs_f64(),
        outcome.elapsed.as_secs_f64()
    );
    ensure!(outcome.status == 0, "the test failed in its guest ({})", spec.name());
    Ok(out.into_text())
}

fn inside(runtime: Runtime, needs_daemon: bool, body: Body) -> Result<()> {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    executor.block_on(async {
        let cri = runtime.cri().await?;
        let daemon = if needs_daemon {
            running_daemon()?
        } else {
            Daemon::new("/run/no-daemon".as_ref(), Options::default())?
        };
        let mut node = Node { runtime, cri, daemon, checks: Checks::default() };
        let result = body(&mut node).await;
        if result.is_err() || node.checks.wrong() > 0 {
            println!("{}", node.logs());
        }
        node.checks.verdict(result)
    })
}

/// Passes a guest's output on through `print!`, which the test harness captures, and keeps it.
#[derive(Default)]
pub(crate) struct Printed(Vec<u8>);

impl Printed {
    pub(crate) fn into_text(self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        print!("{}", String::from_utf8_lossy(bytes));
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The events that have come, once nothing has for `wait`, and those that come while they are taken.
///
/// # Errors
/// When the ring cannot be read.
pub fn events(enforcer: &Enforcer, mut wait: Duration) -> Result<Vec<Event>> {
    let (mut events, mut stream) = (Vec::new(), enforcer.events()?);
    loop {
        let before = events.len();
        stream.poll(wait, |event| events.push(event))?;
        if events.len() == before {
            return Ok(events);
        }
        wait = Duration::ZERO; // a flood is handed over in parts
    }
}
