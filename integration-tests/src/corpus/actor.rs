//! Who tries the probes: a running `visit`, which answers line by line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::probes::Probe;

/// A running `visit`.
#[derive(Debug)]
pub struct Visitor {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Visitor {
    /// Starts it by this command, which ends in its program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take().context("no input")?;
        let stdout = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, stdin, stdout })
    }

    /// What it answers to one line.
    ///
    /// # Errors
    /// When it does not.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        ask(&mut self.stdin, &mut self.stdout, line)
    }

    /// What it answers to each probe.
    ///
    /// # Errors
    /// When it does not.
    pub fn try_all(&mut self, probes: &[Probe]) -> Result<Vec<String>> {
        probes.iter().map(|probe| self.ask(&probe.line)).collect()
    }

    /// Ends it, and waits for its end.
    ///
    /// # Errors
    /// When it fails.
    pub fn end(self) -> Result<()> {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        let status = child.wait()?;
        ensure!(status.success(), "a program that tries things ended with {status}");
        Ok(())
    }
}

/// What the program at the other ends answers to one line.
///
/// # Errors
/// When it has ended.
pub fn ask(stdin: &mut impl Write, stdout: &mut impl BufRead, line: &str) -> Result<String> {
    writeln!(stdin, "{line}").with_context(|| format!("ask `{line}`"))?;
    let mut answer = String::new();
    stdout.read_line(&mut answer)?;
    ensure!(!answer.is_empty(), "no answer to `{line}`");
    Ok(answer.trim_end().to_owned())
}
