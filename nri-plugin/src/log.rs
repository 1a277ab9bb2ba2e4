//! The log, on stderr: stdout belongs to the alerts. Nobody waits for who reads it: a runtime takes a plugin that does not
//! answer in time for one that is gone, and starts containers without it.

use std::fmt;
use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// Lines that wait for stderr. More are lost, and counted.
const WAITING: usize = 4096;

static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// Writes what waits when it is dropped, as long as that takes no longer than a moment.
pub struct Log(#[expect(dead_code, reason = "it works by being dropped")] WorkerGuard);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

/// How many lines were lost, since stderr did not take them.
#[must_use]
pub fn lost() -> u64 {
    LOST.get().map_or(0, |lost| u64::try_from(lost.dropped_lines()).unwrap_or(u64::MAX))
}

/// Starts logging. `filter` beats `RUST_LOG`; without either it is `info`.
///
/// # Errors
/// When the filter makes no sense.
pub fn start(format: LogFormat, filter: Option<&str>) -> Result<Log, String> {
    let from_env = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
    let text = filter.map(str::to_owned).or(from_env).unwrap_or_else(|| "info".into());
    let filter = EnvFilter::try_new(&text).map_err(|error| format!("bad log filter `{text}`: {error}"))?;
    let waiting = NonBlockingBuilder::default().buffered_lines_limit(WAITING).lossy(true).thread_name("log");
    let (writer, guard) = waiting.finish(std::io::stderr());
    let _once = LOST.set(writer.error_counter());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let started = match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| format!("cannot start logging: {error}"))?;
    Ok(Log(guard))
}
