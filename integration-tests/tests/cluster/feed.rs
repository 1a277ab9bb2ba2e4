//! A client of the alert feed that another implementation of gRPC generates from the published interface.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::cluster::LONGEST;

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../nri-plugin/tests/status/feed_client.py");
const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../nri-plugin/proto/feeder.proto");

/// A client that is running.
#[derive(Debug)]
pub struct Client {
    process: Child,
    said: Receiver<Value>,
    /// All that it has said.
    pub all: Vec<Value>,
}

impl Client {
    /// Starts one on this script, see `feed_client.py`.
    pub fn start(address: &str, script: &str) -> Result<Self> {
        let mut process = Command::new("/usr/bin/python3") // Debian's, whichever comes first in PATH
            .args([CLIENT, PROTO, address, script])
            .env_remove("PYTHONPATH")
            .stdout(Stdio::piped())
            .spawn()
            .context("run python3")?;
        let lines = BufReader::new(process.stdout.take().context("its output")?).lines();
        let (sender, said) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if serde_json::from_str(&line).is_ok_and(|value: Value| sender.send(value).is_err()) {
                    break;
                }
            }
        });
        Ok(Self { process, said, all: Vec::new() })
    }

    /// The first thing that it says, or has said, that is so; `meanwhile` is done again and again.
    pub fn wait(
        &mut self,
        what: &str,
        so: impl Fn(&Value) -> bool,
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<Value> {
        let begin = Instant::now();
        loop {
            if let Some(found) = self.all.iter().find(|value| so(value)) {
                return Ok(found.clone());
            }
            match self.said.recv_timeout(Duration::from_secs(2)) {
                Ok(value) => self.all.push(value),
                Err(RecvTimeoutError::Disconnected) => bail!("the feed ended before {what}: {:#?}", self.all),
                Err(RecvTimeoutError::Timeout) if begin.elapsed() > LONGEST => {
                    bail!("waited in vain: {what} from the feed: {:#?}", self.all)
                }
                Err(RecvTimeoutError::Timeout) => meanwhile()?,
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}
