//! The log, on stderr: stdout belongs to the alerts.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// Starts logging. `filter` beats `RUST_LOG`; without either it is `info`.
///
/// # Errors
/// When the filter makes no sense.
pub fn start(format: LogFormat, filter: Option<&str>) -> Result<(), String> {
    let from_env = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
    let text = filter.map(str::to_owned).or(from_env).unwrap_or_else(|| "info".into());
    let filter = EnvFilter::try_new(&text).map_err(|error| format!("bad log filter `{text}`: {error}"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| format!("cannot start logging: {error}"))
}
