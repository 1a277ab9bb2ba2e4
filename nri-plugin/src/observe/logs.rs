//! Logs on their way out: to a file or stdout (`--logs`), and to subscribers of the feed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::alert::{Alert, Alerts};
use crate::config::Config;
use crate::feed::Feed;
use crate::limit::Limiter;
use crate::metrics::Metrics;
use crate::report::Reporter;

/// Takes logs.
#[derive(Debug)]
pub struct Logs {
    limiter: Limiter,
    reporter: Option<Reporter>,
    feed: Arc<Feed>,
}

impl Logs {
    /// Logs for a file, where the configuration has one, and the feed; with what opens the file again, and the thread that
    /// writes it.
    ///
    /// # Errors
    /// When the file cannot be opened, or the thread not started.
    pub fn open(
        config: &Config,
        alerts: Alerts,
        metrics: &Metrics,
        feed: Arc<Feed>,
    ) -> std::io::Result<(Self, Option<Reporter>, Option<JoinHandle<()>>)> {
        let stdout = |path: &PathBuf| path == Path::new("-");
        let path = config.logs.as_ref().map(|path| Some(path.clone()).filter(|path| !stdout(path)));
        let started =
            path.map(|path| Reporter::start_logs(path, config.rotation, alerts, metrics)).transpose()?;
        let (reporter, writer) = started.unzip();
        let limiter = Limiter::new(config.log_rate, metrics.logs_summarized.clone());
        Ok((Self { limiter, reporter: reporter.clone(), feed }, reporter, writer))
    }

    /// Whether anybody reads them. Making one costs more than finding that out.
    #[must_use]
    pub fn are_read(&self) -> bool {
        self.reporter.is_some() || self.feed.has_readers_of_logs()
    }

    /// Tells a log, now or in a summary. Never waits.
    pub fn take(&mut self, log: Alert, now: Instant) {
        if let Some(log) = self.limiter.take(log, now) {
            self.tell(log);
        }
    }

    /// Tells the summaries that are due.
    pub fn due(&mut self, now: Instant) {
        for log in self.limiter.due(now) {
            self.tell(log);
        }
    }

    /// Tells all summaries, at the end.
    pub fn end(mut self) {
        for log in self.limiter.rest() {
            self.tell(log);
        }
    }

    fn tell(&self, log: Alert) {
        let log = Arc::new(log);
        self.feed.publish_log(&log);
        if let Some(reporter) = &self.reporter {
            reporter.queue(log);
        }
    }
}
