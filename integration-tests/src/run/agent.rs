//! What happens on the node.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{DAEMON_FILE, DAEMON_FOLDER, Entry, Exec, IMAGE_FILE, PROGRESS, Plan, Report};
use crate::image;
use crate::node::{
    Alert, Container, Cri, Daemon, Options, Pod, RunningContainer, RunningPod, Runtime, start_failure,
};

/// Carries a plan out on this machine, with the files that came with it in `folder`.
///
/// # Errors
/// When the lab itself fails: containerd, the daemon. What a policy denies is part of the report.
pub async fn carry_out(plan: &Plan, folder: &Path) -> Result<Report> {
    let runtime = Runtime::of_guest();
    let result =
        Run { plan, folder, cri: runtime.cri().await?, late: Cell::new(false) }.report(&runtime).await;
    result.map_err(|e| e.context(format!("the lab failed\n{}", runtime.log())))
}

fn progress(text: &str) {
    eprintln!("{PROGRESS}{text}");
}

/// How the daemon of a saved machine was, and is again, started.
fn options(folder: &Path) -> Options {
    Options { program: folder.join(DAEMON_FILE), ..Options::default() }
}

/// Starts the daemon that came with the job, without policies, and leaves it running for the machine to be saved.
///
/// # Errors
/// When it does not become ready.
pub async fn leave_daemon(program: &Path) -> Result<()> {
    let folder = Path::new(DAEMON_FOLDER);
    std::fs::create_dir_all(folder)?;
    std::fs::copy(program, folder.join(DAEMON_FILE))?;
    let mut daemon = Daemon::new(folder, options(folder))?;
    daemon.start().await?;
    daemon.leave_running()
}

/// The daemon that was left running.
///
/// # Errors
/// When there is none.
pub(crate) fn running_daemon() -> Result<Daemon> {
    let folder = Path::new(DAEMON_FOLDER);
    Daemon::running(folder, options(folder))
}

/// The container's own program, those of init containers, and the commands.
type Outcome = (Entry, Vec<Entry>, Vec<Exec>);

struct Run<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    cri: Cri,
    /// Whether a container was started before the daemon.
    late: Cell<bool>,
}

impl Run<'_> {
    async fn report(&self, runtime: &Runtime) -> Result<Report> {
        let mut pod = self.plan.pod.clone();
        if self.plan.own_image {
            progress("importing the root");
            runtime.import(&self.folder.join(IMAGE_FILE).to_string_lossy())?;
            pod.set_image(image::USER_IMAGE);
        }
        let mut daemon = self.daemon().await?;
        let outcome = self.pod(&pod, &mut daemon).await;
        let (entry, init, execs) = match outcome {
            Ok(outcome) => outcome,
            Err(e) => return Err(e.context(daemon.map(|d| d.log()).unwrap_or_default())),
        };
        let alerts = match &daemon {
            Some(daemon) => {
                daemon.alerts().await?.into_iter().filter(|a| !is_ours(a, self.late.get())).collect()
            }
            None => Vec::new(),
        };
        Ok(Report { entry, init, execs, alerts })
    }

    async fn daemon(&self) -> Result<Option<Daemon>> {
        if self.plan.policies.is_empty() {
            return Ok(None);
        }
        if self.plan.daemon_runs {
            let daemon = running_daemon()?;
            let before = daemon.policy_changes();
            for (name, text) in &self.plan.policies {
                daemon.write_policy(name, text)?;
            }
            daemon.wait_for_change(before).await?;
            return Ok(Some(daemon));
        }
        progress("starting nri-enforcer");
        let program = self.folder.join(DAEMON_FILE);
        let options = Options { program, postures: self.plan.postures.clone(), ..Options::default() };
        let mut daemon = Daemon::new(&self.folder.join("daemon"), options)?;
        for (name, text) in &self.plan.policies {
            daemon.write_policy(name, text)?;
        }
        daemon.start().await?;
        Ok(Some(daemon))
    }

    async fn pod(&self, pod: &Pod, daemon: &mut Option<Daemon>) -> Result<Outcome> {
        progress(&format!("starting pod {}/{}", pod.namespace, pod.name));
        let running = self.cri.run_pod(pod).await.context("start the pod's sandbox")?;
        let outcome = self.containers(pod, &running, daemon).await;
        if self.plan.clean_up {
            self.cri.remove_pod(&running).await.context("remove the pod")?;
        }
        outcome
    }

    async fn containers(
        &self,
        pod: &Pod,
        running: &RunningPod,
        daemon: &mut Option<Daemon>,
    ) -> Result<Outcome> {
        let limit = Duration::from_secs(self.plan.timeout);
        let mut init = Vec::new();
        for container in &pod.init {
            progress(&format!("running init container {}", container.name));
            let (entry, created) = self.start(running, container).await?;
            let entry = self.finish(entry, created.as_ref(), limit).await?;
            let failed = entry.exit != Some(0);
            init.push(entry);
            if failed {
                let reason = format!("init container `{}` did not succeed", container.name);
                let entry = Entry { container: self.plan.container.clone(), reason, ..Entry::default() };
                return Ok((entry, init, self.not_run("the container was not started")));
            }
        }
        let mut chosen = None;
        for container in &pod.containers {
            progress(&format!("starting container {}", container.name));
            let (mut entry, mut created) = self.start(running, container).await?;
            if let (true, Some(daemon), Some(idle)) = (container.is_idle(), daemon.as_mut(), &created) {
                let denied = match entry.started {
                    true => !self.cri.runs_program(idle, image::IDLE).await?,
                    false => start_failure(&entry.reason).is_some(),
                };
                if denied {
                    (entry, created) = self.start_before_daemon(running, container, daemon).await?;
                }
            }
            if container.name == self.plan.container {
                chosen = Some((entry, created));
            }
        }
        let (entry, created) =
            chosen.with_context(|| format!("no container is called `{}`", self.plan.container))?;
        let (Some(created), true) = (created, entry.started) else {
            return Ok((entry, init, self.not_run("the container is not running")));
        };
        let mut execs = Vec::new();
        for command in &self.plan.execs {
            progress(&format!("running: {command}"));
            let output = match self.cri.exec(&created, &command_line(command)?, limit).await {
                Ok(output) => output,
                Err(e) => crate::node::Output {
                    exit: 125,
                    stdout: String::new(),
                    stderr: format!("{}\n", e.message()),
                },
            };
            execs.push(Exec {
                command: command.clone(),
                exit: output.exit,
                stdout: output.stdout,
                stderr: output.stderr,
            });
        }
        // A program that is only there for the commands is not waited for.
        let wait = if execs.is_empty() && !entry.command.is_empty() { limit } else { Duration::ZERO };
        Ok((self.finish(entry, Some(&created), wait).await?, init, execs))
    }

    async fn start(
        &self,
        pod: &RunningPod,
        container: &Container,
    ) -> Result<(Entry, Option<RunningContainer>)> {
        let mut entry = Entry {
            container: container.name.clone(),
            command: container.command.clone(),
            ..Entry::default()
        };
        let created = match self.cri.create(pod, container, 0).await {
            Ok(created) => created,
            Err(e) => {
                e.message().clone_into(&mut entry.reason);
                return Ok((entry, None));
            }
        };
        match self.cri.start(&created).await {
            Ok(()) => entry.started = true,
            Err(e) => {
                e.message().clone_into(&mut entry.reason);
                entry.exit = start_failure(e.message()).map(|f| f.0);
            }
        }
        Ok((entry, Some(created)))
    }

    /// Policies that list what may run do not list the lab's own idle program. It is started while no daemon is
    /// connected; the daemon then takes the running container over, as it does on a node where it is installed later.
    async fn start_before_daemon(
        &self,
        pod: &RunningPod,
        container: &Container,
        daemon: &mut Daemon,
    ) -> Result<(Entry, Option<RunningContainer>)> {
        progress("the policies deny the lab's idle program: starting it before the daemon");
        self.late.set(true);
        daemon.end(Signal::SIGTERM)?;
        let created = self.cri.create(pod, container, 1).await?;
        self.cri.start(&created).await?;
        daemon.start().await?;
        let entry = Entry { container: container.name.clone(), started: true, ..Entry::default() };
        Ok((entry, Some(created)))
    }

    /// Waits for a container's program and reads its output.
    async fn finish(
        &self,
        mut entry: Entry,
        created: Option<&RunningContainer>,
        limit: Duration,
    ) -> Result<Entry> {
        let Some(created) = created else { return Ok(entry) };
        if entry.started {
            match self.cri.wait(created, limit).await? {
                Some(state) => {
                    entry.exit = state.exit;
                    entry.reason = if state.reason == "Completed" { String::new() } else { state.reason };
                }
                None if !limit.is_zero() => {
                    entry.reason = format!("still running after {} s", limit.as_secs())
                }
                None => {}
            }
        }
        (entry.stdout, entry.stderr) = self.cri.output(created);
        Ok(entry)
    }

    fn not_run(&self, why: &str) -> Vec<Exec> {
        let failed = |command: &String| Exec {
            command: command.clone(),
            exit: 125,
            stdout: String::new(),
            stderr: format!("{why}\n"),
        };
        self.plan.execs.iter().map(failed).collect()
    }
}

/// Whether an alert is about what the lab does itself: the program that keeps a container alive, and (`late`) that such a
/// container was started before the daemon.
fn is_ours(alert: &Alert, late: bool) -> bool {
    if late && alert.get("Type").and_then(Alert::as_str) == Some("SystemEvent") {
        return true;
    }
    ["Resource", "ProcessName", "Source"]
        .iter()
        .any(|k| alert.get(*k).and_then(Alert::as_str) == Some(image::IDLE))
}

/// A command as given by `--exec`: split into words as a shell would; run by `/bin/sh -c` only if it contains anything
/// that a shell alone can do.
///
/// # Errors
/// When it is empty or a quote is not closed.
pub fn command_line(text: &str) -> Result<Vec<String>> {
    let words = shlex::split(text).with_context(|| format!("a quote is not closed in `{text}`"))?;
    ensure!(!words.is_empty(), "an empty command");
    if needs_shell(text) { Ok(vec!["/bin/sh".into(), "-c".into(), text.into()]) } else { Ok(words) }
}

fn needs_shell(text: &str) -> bool {
    let (mut single, mut double, mut escaped) = (false, false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if !single => escaped = true,
            '\'' if !double => single = !single,
            '"' if !single => double = !double,
            '$' | '`' if !single => return true,
            '|' | '&' | ';' | '<' | '>' | '(' | ')' | '*' | '?' | '~' | '\n' if !single && !double => {
                return true;
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_used_only_where_one_is_needed() {
        let plain = |text: &str| command_line(text).unwrap();
        assert_eq!(plain("cat /etc/passwd"), ["cat", "/etc/passwd"]);
        assert_eq!(plain("sh -c 'a; b > c'"), ["sh", "-c", "a; b > c"]);
        assert_eq!(plain(r#"echo "a b" c\;d"#), ["echo", "a b", "c;d"]);
        for text in ["a > b", "a; b", "echo $HOME", "ls *", "a | b", "echo \"$X\"", "a && b"] {
            assert_eq!(plain(text), ["/bin/sh", "-c", text]);
        }
        assert!(command_line("echo 'x").is_err());
        assert!(command_line("  ").is_err());
    }

    #[test]
    fn own_alerts_are_known() {
        assert!(is_ours(&serde_json::json!({"Resource": image::IDLE}), false));
        let other = serde_json::json!({"Resource": "/bin/cat", "Source": "/bin/sh", "Type": "MatchedPolicy"});
        assert!(!is_ours(&other, false) && !is_ours(&other, true));
        let system = serde_json::json!({"Type": "SystemEvent"});
        assert!(!is_ours(&system, false) && is_ours(&system, true));
    }
}
