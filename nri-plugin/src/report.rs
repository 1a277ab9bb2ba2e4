//! Alerts, and logs, on their way out: one JSON object a line, to stdout or a file. Who reports never waits: what does not fit
//! into the queue is dropped and counted, and the count is an alert itself.

mod sink;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;

use self::sink::Sink;
pub use self::sink::{DEFAULT_KEEP, DEFAULT_MAX_BYTES, Rotation};
use crate::alert::{Alert, Alerts};
use crate::feed::Feed;
use crate::metrics::Metrics;
use crate::metrics::health::Pulse;
use crate::observe::log::Line;

/// How many alerts wait at most: about a second of a flood, some 10 MB.
pub const QUEUE: usize = 8192;
/// How many bytes they have at most, whatever their number: whoever is confined chooses paths.
const BYTES: usize = 16 << 20;
/// How many alerts are written at once at most.
const BATCH: usize = 256;
/// How long an idle writer takes to notice that the file is to be reopened or that alerts were dropped.
const IDLE: Duration = Duration::from_millis(500);

/// Takes alerts; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reporter {
    queue: SyncSender<Arc<Alert>>,
    shared: Arc<Shared>,
    writer: Weak<()>,
    lost: Counter,
    feed: Option<Arc<Feed>>,
}

/// What is written, and what counts it.
#[derive(Debug, Clone)]
struct Counts {
    what: &'static str,
    written: Counter,
    lost: Counter,
}

impl Counts {
    fn of_alerts(metrics: &Metrics) -> Self {
        Self { what: "alerts", written: metrics.written.clone(), lost: metrics.lost.clone() }
    }

    fn of_logs(metrics: &Metrics) -> Self {
        Self { what: "logs", written: metrics.logs_written.clone(), lost: metrics.logs_lost.clone() }
    }
}

#[derive(Debug, Default)]
struct Shared {
    pulse: Arc<Pulse>,  // of the thread that writes
    dropped: AtomicU64, // since the last alert that said so
    bytes: AtomicUsize, // of what is in the queue
    reopen: AtomicBool,
}

impl Reporter {
    /// Starts the thread that writes to `path`, or to stdout. It ends when every reporter is gone and all is written.
    ///
    /// # Errors
    /// When the file cannot be opened, or the thread not started.
    pub fn start(
        path: Option<PathBuf>,
        rotation: Rotation,
        alerts: Alerts,
        metrics: &Metrics,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        Self::spawn(path, rotation, alerts, Counts::of_alerts(metrics))
    }

    /// The same for logs, which have a queue and a thread of their own: a flood of them costs no alert.
    ///
    /// # Errors
    /// When the file cannot be opened, or the thread not started.
    pub fn start_logs(
        path: Option<PathBuf>,
        rotation: Rotation,
        alerts: Alerts,
        metrics: &Metrics,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        Self::spawn(path, rotation, alerts, Counts::of_logs(metrics))
    }

    fn spawn(
        path: Option<PathBuf>,
        rotation: Rotation,
        alerts: Alerts,
        counts: Counts,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let sink = Sink::open(path, rotation)?;
        let (mut reporter, queue) = Self::with_queue(QUEUE, &counts);
        let alive = Arc::new(());
        reporter.writer = Arc::downgrade(&alive);
        let (shared, name) = (Arc::clone(&reporter.shared), counts.what);
        let writer = Writer { queue, shared, sink, alerts, counts, broken: false, _alive: alive };
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || writer.run())?;
        Ok((reporter, thread))
    }

    fn with_queue(len: usize, counts: &Counts) -> (Self, Receiver<Arc<Alert>>) {
        let (sender, queue) = sync_channel(len);
        let lost = counts.lost.clone();
        (Self { queue: sender, shared: Arc::default(), writer: Weak::new(), lost, feed: None }, queue)
    }

    /// Also hands what is reported to the subscribers of a feed.
    #[must_use]
    pub fn with_feed(mut self, feed: Arc<Feed>) -> Self {
        self.feed = Some(feed);
        self
    }

    /// Puts an alert into the queue, or drops and counts it. Never waits.
    pub fn report(&self, alert: Alert) {
        let alert = Arc::new(alert);
        if let Some(feed) = &self.feed {
            feed.publish(&alert);
        }
        self.queue(alert);
    }

    /// The same, for what is told again until it is in the queue: whether it is. What is not has been handed to nobody, and is not
    /// counted as lost.
    #[must_use]
    pub fn hand_on(&self, alert: Alert) -> bool {
        let alert = Arc::new(alert);
        let queued = self.put(Arc::clone(&alert));
        if let Some(feed) = self.feed.as_ref().filter(|_| queued) {
            feed.publish(&alert);
        }
        queued
    }

    /// Puts it into the queue alone. Never waits.
    pub fn queue(&self, alert: Arc<Alert>) {
        let count = alert.count; // of a summary, all that it stands for
        if !self.put(alert) {
            self.shared.dropped.fetch_add(count, Ordering::Relaxed);
            self.lost.inc_by(count);
        }
    }

    fn put(&self, alert: Arc<Alert>) -> bool {
        let size = alert.size();
        let before = self.shared.bytes.fetch_add(size, Ordering::Relaxed);
        let queued = before < BYTES && self.queue.try_send(alert).is_ok();
        if !queued {
            self.shared.bytes.fetch_sub(size, Ordering::Relaxed);
        }
        queued
    }

    /// The signs of life of the thread that writes, and what can be upgraded as long as there is one.
    #[must_use]
    pub fn writer(&self) -> (Arc<Pulse>, Weak<()>) {
        (Arc::clone(&self.shared.pulse), Weak::clone(&self.writer))
    }

    /// Opens the file again before the next alert: it may have been moved away.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Relaxed);
    }
}

struct Writer {
    queue: Receiver<Arc<Alert>>,
    shared: Arc<Shared>,
    sink: Sink,
    alerts: Alerts,
    counts: Counts,
    broken: bool, // the last write failed, perhaps in the middle of a line
    _alive: Arc<()>,
}

impl Writer {
    fn run(mut self) {
        let mut lines = Vec::new();
        loop {
            self.shared.pulse.beat();
            let next = self.queue.recv_timeout(IDLE);
            if self.shared.reopen.swap(false, Ordering::Relaxed) {
                self.reopen();
            }
            let mut batch = Batch::default();
            if let Ok(alert) = &next {
                batch.push(&mut lines, alert);
                self.queue.try_iter().take(BATCH).for_each(|alert| batch.push(&mut lines, &alert));
                self.shared.bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
            }
            let dropped = self.shared.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let what = self.counts.what;
                tracing::warn!(dropped, "{what} were dropped, since they could not be written fast enough");
                push(&mut lines, &self.alerts.dropped(dropped, what, SystemTime::now()));
            }
            if !lines.is_empty() {
                self.write(&lines, &batch, dropped);
                lines.clear();
            }
            if matches!(next, Err(RecvTimeoutError::Disconnected)) {
                return;
            }
        }
    }

    /// Writes a batch, and how many alerts there are not.
    fn write(&mut self, lines: &[u8], batch: &Batch, dropped: u64) {
        let anew = self.sink.make_room(lines.len());
        // a line that was cut off must not swallow the next one
        let result = if self.broken && !anew {
            self.sink.write(b"\n").and_then(|()| self.sink.write(lines))
        } else {
            self.sink.write(lines)
        };
        match result {
            Ok(()) => {
                self.broken = false;
                self.counts.written.inc_by(batch.lines);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.broken, true) {
                    let what = self.counts.what;
                    tracing::error!(%error, "cannot write {what}; enforcement goes on, they are dropped and counted");
                }
                self.counts.lost.inc_by(batch.alerts);
                self.shared.dropped.fetch_add(batch.alerts + dropped, Ordering::Relaxed);
                std::thread::sleep(IDLE); // a full disk is not made emptier by trying at once
                self.reopen();
            }
        }
    }

    fn reopen(&mut self) {
        if let Err(error) = self.sink.reopen() {
            let what = self.counts.what;
            tracing::error!(%error, "cannot open the file of {what} again; the old one stays in use");
        }
    }
}

/// What is written at once.
#[derive(Debug, Default)]
struct Batch {
    lines: u64,
    alerts: u64,  // a summary is as many as it stands for
    bytes: usize, // in memory
}

impl Batch {
    fn push(&mut self, lines: &mut Vec<u8>, alert: &Alert) {
        self.lines += 1;
        self.alerts += alert.count;
        self.bytes += alert.size();
        push(lines, alert);
    }
}

/// Adds an alert, or a log, as a line; whether it could be written. This is how each is told, wherever it goes as JSON.
pub(crate) fn push(lines: &mut Vec<u8>, alert: &Alert) -> bool {
    let before = lines.len();
    let written = match Line::of(alert) {
        Some(log) => serde_json::to_writer(&mut *lines, &log),
        None => serde_json::to_writer(&mut *lines, alert),
    };
    match written {
        Ok(()) => lines.push(b'\n'),
        Err(error) => {
            lines.truncate(before);
            tracing::error!(%error, "an alert cannot be written as JSON");
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alerts() -> Alerts {
        Alerts { cluster_name: "c".into(), host_name: "h".into() }
    }

    fn writer(queue: Receiver<Arc<Alert>>, shared: &Arc<Shared>, sink: Sink, metrics: &Metrics) -> Writer {
        let (shared, counts) = (Arc::clone(shared), Counts::of_alerts(metrics));
        Writer { queue, shared, sink, alerts: alerts(), counts, broken: false, _alive: Arc::default() }
    }

    fn numbered(pid: u32) -> Alert {
        Alert { pid, count: 1, ..Alert::default() }
    }

    fn lines(path: &std::path::Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn every_alert_is_a_line_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts");
        std::fs::write(&path, "{}\n").unwrap();
        let (reporter, thread) =
            Reporter::start(Some(path.clone()), Rotation::default(), alerts(), &Metrics::default()).unwrap();
        (0..1000).for_each(|pid| reporter.report(numbered(pid)));
        drop(reporter);
        thread.join().unwrap();
        let lines = lines(&path);
        assert_eq!(lines.len(), 1001, "appended");
        assert!(lines.iter().skip(1).zip(0..).all(|(line, pid)| line["PID"] == pid));
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_never_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts");
        let metrics = Metrics::default();
        let (reporter, queue) = Reporter::with_queue(2, &Counts::of_alerts(&metrics));
        (0..4).for_each(|pid| reporter.report(numbered(pid))); // nobody reads yet
        reporter.report(Alert { count: 40, ..numbered(4) });
        let shared = Arc::clone(&reporter.shared);
        drop(reporter);
        let sink = Sink::open(Some(path.clone()), Rotation::default()).unwrap();
        writer(queue, &shared, sink, &metrics).run();
        assert_eq!((metrics.written.get(), metrics.lost.get()), (2, 42));
        let lines = lines(&path);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2]["Operation"], "AlertThreshold");
        assert_eq!(lines[2]["Data"], "notice=dropped count=42");
    }

    #[test]
    fn long_paths_take_no_more_memory_than_there_is_for_them() {
        let metrics = Metrics::default();
        let (reporter, queue) = Reporter::with_queue(QUEUE, &Counts::of_alerts(&metrics));
        let all = 2000;
        (0..all).for_each(|pid| reporter.report(Alert { resource: "x".repeat(16 << 10), ..numbered(pid) }));
        let lost = metrics.lost.get();
        assert!((500..1500).contains(&lost), "{lost}");
        let shared = Arc::clone(&reporter.shared);
        drop(reporter);
        let dir = tempfile::tempdir().unwrap();
        let sink = Sink::open(Some(dir.path().join("alerts")), Rotation::default()).unwrap();
        writer(queue, &shared, sink, &metrics).run();
        assert_eq!(metrics.written.get() + lost, u64::from(all));
        assert_eq!(shared.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_moved_file_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("alerts"), dir.path().join("alerts.1"));
        let (reporter, thread) =
            Reporter::start(Some(path.clone()), Rotation::default(), alerts(), &Metrics::default()).unwrap();
        reporter.report(numbered(1));
        while lines(&path).is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::fs::rename(&path, &moved).unwrap();
        reporter.reopen();
        reporter.report(numbered(2));
        drop(reporter);
        thread.join().unwrap();
        assert_eq!((lines(&moved).len(), lines(&path).len()), (1, 1));
    }

    /// A flood takes no more of the disk than the files that are kept, and the newest alerts are there.
    #[test]
    fn files_are_begun_anew_before_they_are_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let (path, metrics) = (dir.path().join("alerts"), Metrics::default());
        let rotation = Rotation { max_bytes: 400_000, keep: 2 };
        let (reporter, thread) = Reporter::start(Some(path.clone()), rotation, alerts(), &metrics).unwrap();
        for pid in 0..6000 {
            while reporter.shared.bytes.load(Ordering::Relaxed) > BYTES / 2 {
                std::thread::yield_now();
            }
            reporter.report(numbered(pid));
        }
        drop(reporter);
        thread.join().unwrap();
        let files: Vec<PathBuf> = ["alerts.2", "alerts.1", "alerts"].map(|name| dir.path().join(name)).into();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        for file in &files {
            assert!(std::fs::metadata(file).unwrap().len() <= 400_000);
        }
        let all: Vec<_> = files.iter().flat_map(|file| lines(file)).collect();
        let pids: Vec<u64> = all.iter().map(|line| line["PID"].as_u64().unwrap()).collect();
        let first = 6000 - u64::try_from(pids.len()).unwrap();
        assert_eq!((metrics.written.get(), metrics.lost.get()), (6000, 0));
        assert!(pids.iter().copied().eq(first..6000), "none is missing between them");
    }

    #[test]
    fn a_sink_that_fails_counts_what_it_lost() {
        let metrics = Metrics::default();
        let (reporter, queue) = Reporter::with_queue(8, &Counts::of_alerts(&metrics));
        reporter.report(numbered(1));
        reporter.report(Alert { count: 40, ..numbered(2) });
        let shared = Arc::clone(&reporter.shared);
        drop(reporter);
        let sink = Sink::open(Some("/dev/full".into()), Rotation::default()).unwrap();
        writer(queue, &shared, sink, &metrics).run();
        assert_eq!((metrics.written.get(), metrics.lost.get()), (0, 41));
        assert_eq!(shared.dropped.load(Ordering::Relaxed), 41);
    }
}
