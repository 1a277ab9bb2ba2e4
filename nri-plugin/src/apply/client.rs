//! The commands' connection to the daemon's admin socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::serve::{Answer, Request};

/// How long the daemon may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the daemon.
pub(crate) struct Daemon {
    pub(super) answers: BufReader<UnixStream>,
    pub(super) requests: UnixStream,
}

impl Daemon {
    /// The daemon at this socket.
    pub(crate) fn reach(socket: &Path) -> Result<Self, String> {
        let nobody = |error: std::io::Error| {
            format!(
                "no daemon answers at `{}`: {error}; is `nri-enforcer run` running, with the same --admin-socket? (only root may ask)",
                socket.display()
            )
        };
        let requests = UnixStream::connect(socket).map_err(nobody)?;
        let answers = BufReader::new(requests.try_clone().map_err(nobody)?);
        Ok(Self { answers, requests })
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Answer, String> {
        send(&mut self.requests, request)?;
        self.requests.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        self.next()?.ok_or_else(|| "the daemon ended without an answer (only root may ask)".to_owned())
    }

    /// Asks for alerts: they are lines, and how many; with `follow` any number, `None`, until the daemon ends.
    pub(crate) fn alerts(mut self, follow: bool) -> Result<(BufReader<UnixStream>, Option<usize>), String> {
        let count = match self.ask(&Request::Alerts { follow })? {
            Answer::Alerts { count } if count.is_none() == follow => count,
            Answer::Alerts { .. } => {
                return Err("the daemon does not say how many alerts it has: use the command of its version"
                    .to_owned());
            }
            Answer::Refused { why } => return Err(why),
            _ => return Err("the daemon's answer makes no sense".to_owned()),
        };
        // the next alert may be days away
        self.requests.set_read_timeout(None).map_err(|error| error.to_string())?;
        Ok((self.answers, count))
    }

    /// The next answer; `None`: the daemon has ended.
    pub(super) fn next(&mut self) -> Result<Option<Answer>, String> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => serde_json::from_str(&line)
                .map(Some)
                .map_err(|error| format!("the daemon's answer makes no sense: {error}")),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(format!("the daemon does not answer: {error}")),
        }
    }
}

/// Sends a request. To one that has closed it is no error: what it said before that is read next, or that it has ended.
pub(super) fn send(daemon: &mut UnixStream, request: &Request) -> Result<(), String> {
    let mut line = serde_json::to_vec(request).map_err(|error| error.to_string())?;
    line.push(b'\n');
    match daemon.write_all(&line) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("the daemon takes no request: {error}"))
        }
        _ => Ok(()),
    }
}
