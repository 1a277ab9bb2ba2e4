//! The log, on stderr: stdout belongs to the alerts. Nobody waits for who reads it: a runtime takes a plugin that does not
//! answer in time for one that is gone, and starts containers without it.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// Lines that wait for stderr. More are lost, and counted.
const WAITING: usize = 4096;
/// How long the end waits for what is left.
const LAST: Duration = Duration::from_secs(1);

static LOST: AtomicU64 = AtomicU64::new(0);

/// How many lines were lost, since stderr did not take them, or not in time.
#[must_use]
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

enum Message {
    Line(Vec<u8>),
    End,
}

#[derive(Clone)]
struct Queue(SyncSender<Message>);

/// A line in one piece, as the subscriber writes it.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Message::Line(line.to_vec())).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// When it is dropped, what waits is written, if stderr takes that within a second.
pub struct Log {
    queue: Queue,
    ended: Receiver<()>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let until = Instant::now() + LAST;
        while let Err(TrySendError::Full(_)) = self.queue.0.try_send(Message::End) {
            if Instant::now() > until {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _in_vain = self.ended.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Starts logging. `filter` beats `RUST_LOG`; without either it is `info`.
///
/// # Errors
/// When the filter makes no sense, or no thread can be started.
pub fn start(format: LogFormat, filter: Option<&str>) -> Result<Log, String> {
    let from_env = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
    let text = filter.map(str::to_owned).or(from_env).unwrap_or_else(|| "info".into());
    let filter = EnvFilter::try_new(&text).map_err(|error| format!("bad log filter `{text}`: {error}"))?;
    let (queue, lines) = sync_channel(WAITING);
    let (ending, ended) = sync_channel(1);
    let write = move || {
        for message in lines {
            match message {
                Message::Line(line) if io::stderr().write_all(&line).is_err() => {
                    LOST.fetch_add(1, Ordering::Relaxed);
                }
                Message::Line(_) => {}
                Message::End => {
                    let _nobody_waits = ending.try_send(());
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("log".into()).spawn(write);
    thread.map_err(|error| format!("cannot start a thread for the log: {error}"))?;
    let queue = Queue(queue);
    let writer = queue.clone();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || writer.clone());
    let started = match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| format!("cannot start logging: {error}"))?;
    Ok(Log { queue, ended })
}
