//! QEMU's control socket: one JSON object per line, a reply for each command, events in between.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take to open a socket or to answer. It answers at once unless the host is badly overloaded.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connects to a socket that QEMU is about to open.
pub(super) fn connect(path: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(e) if Instant::now() > deadline => {
                return Err(e).with_context(|| format!("connect to `{}`", path.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(3)),
        }
    }
}

#[derive(Debug)]
pub(super) struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Connects and leaves the negotiation state.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let writer = connect(path)?;
        writer.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(writer.try_clone()?);
        reader.read_line(&mut String::new())?; // the greeting
        let mut qmp = Self { reader, writer };
        qmp.call("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// One command; its `return` value.
    pub(super) fn call(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.writer, "{request}").with_context(|| format!("send `{command}` to QEMU"))?;
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).with_context(|| format!("QEMU's answer to `{command}`"))? == 0
            {
                bail!("QEMU ended during `{command}`");
            }
            let mut answer: Value = serde_json::from_str(&line)?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses `{command}`: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Asks for the `status` of `command` until it is one of `wanted`.
    pub(super) fn wait(&mut self, command: &str, wanted: &[&str]) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.call(command, json!({}))?;
            let status = answer.get("status").and_then(Value::as_str).unwrap_or_default();
            if wanted.contains(&status) {
                return Ok(status.to_owned());
            }
            if Instant::now() > deadline {
                bail!("QEMU still says `{status}` to `{command}`");
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}
