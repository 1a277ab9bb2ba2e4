//! kubectl and helm, as an administrator runs them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::cache::artefact;
use serde_json::Value;

/// The namespace of the release.
pub const NAMESPACE: &str = "nri-enforcer";
/// How often it is looked whether something has happened.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct Programs {
    kubectl: PathBuf,
    config: PathBuf,
    home: PathBuf,
}

static PROGRAMS: OnceLock<Programs> = OnceLock::new();

/// Says once how the cluster is reached.
pub fn configure(config: &Path, home: &Path) -> Result<()> {
    let kubectl = artefact("kubectl")?;
    PROGRAMS.get_or_init(|| Programs { kubectl, config: config.to_owned(), home: home.to_owned() });
    Ok(())
}

/// What a program said.
#[derive(Debug)]
pub struct Said {
    pub good: bool,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Both streams.
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { good: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn command(program: &Path, arguments: &[&str]) -> Result<Command> {
    let programs = PROGRAMS.get().context("no cluster is configured")?;
    let mut command = Command::new(program);
    command.env("KUBECONFIG", &programs.config).env("HOME", &programs.home).args(arguments);
    Ok(command)
}

/// Runs kubectl, whatever becomes of it.
pub fn kubectl(arguments: &[&str]) -> Result<Said> {
    let program = &PROGRAMS.get().context("no cluster is configured")?.kubectl;
    Ok(command(program, arguments)?.stdin(Stdio::null()).output().context("run kubectl")?.into())
}

/// What kubectl prints where it must succeed.
pub fn must(arguments: &[&str]) -> Result<String> {
    let said = kubectl(arguments)?;
    ensure!(said.good, "kubectl {}: {}", arguments.join(" "), said.all());
    Ok(said.out)
}

/// Applies manifests; what kubectl says.
pub fn try_apply(text: &str) -> Result<Said> {
    let program = &PROGRAMS.get().context("no cluster is configured")?.kubectl;
    let mut child = command(program, &["apply", "-f", "-"])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("its input")?.write_all(text.as_bytes())?;
    Ok(child.wait_with_output()?.into())
}

/// The same where it must succeed.
pub fn apply(text: &str) -> Result<()> {
    let said = try_apply(text)?;
    ensure!(said.good, "kubectl apply: {}\n{text}", said.all());
    Ok(())
}

/// An object, or a list, as JSON.
pub fn get(arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&must(&[&["get", "-o", "json"], arguments].concat())?)?)
}

/// Runs helm on the release, with more arguments.
pub fn helm(version: &str, arguments: &[&str]) -> Result<Said> {
    let mut helm = command(&artefact(version)?, arguments)?;
    helm.args(["--namespace", NAMESPACE]);
    Ok(helm.stdin(Stdio::null()).output().with_context(|| format!("run {version}"))?.into())
}

/// Runs a program that must succeed; what it prints.
pub fn output(command: &mut Command) -> Result<String> {
    let said = Said::from(command.output().with_context(|| format!("run {command:?}"))?);
    ensure!(said.good, "{command:?}: {}", said.all());
    Ok(said.out)
}

/// Waits until something is found.
pub fn until<T>(what: &str, longest: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        match look() {
            Ok(Some(found)) => return Ok(found),
            Err(error) if begin.elapsed() > longest => {
                return Err(error.context(format!("waited in vain: {what}")));
            }
            Ok(None) if begin.elapsed() > longest => bail!("waited in vain: {what}"),
            Ok(None) | Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
