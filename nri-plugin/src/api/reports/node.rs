//! A node's own report: when it is written.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::definition::path;
use super::wire::{Daemon, MAX_BYTES, NodeReport};
use super::{Line, Pace, Shared, jittered, now};
use crate::api::client::{Write, write};
use crate::api::trouble::Trouble;
use crate::api::wire::encoded;
use crate::status::serve::Status;

/// The field manager of reports. Each has one writer: the daemon of its node.
const MANAGER: &str = "nri-enforcer";
/// A report that is this small is never too large, in bytes.
const MIN_BYTES: usize = 16 << 10;
/// The longest wait after a failure.
const LONGEST: Duration = Duration::from_secs(300);

/// Writes the report whenever it is another one, and now and then though it is not.
pub(super) async fn report(mut shared: Shared, status: Arc<Status>) {
    let pace = shared.pace;
    let (mut line, mut schedule) = (Line::new(&shared.health), Schedule::new(pace));
    let mut written: Option<NodeReport> = None;
    let mut policies = status.policies.clone();
    let mut most = MAX_BYTES;
    let path = format!("{}/{}?fieldManager={MANAGER}&force=true", path(), encoded(&shared.node_name));
    loop {
        tokio::select! {
            changed = shared.abouts.changed() => match changed {
                Ok(()) => schedule.hint(Instant::now()),
                Err(_) => return, // the API server is followed no more
            },
            changed = policies.changed() => match changed {
                Ok(()) => schedule.hint(Instant::now()),
                Err(_) => return,
            },
            () = sleep_until(schedule.next()) => {
                // before the first lists there is nothing to tell, and it would read as "no policies"
                let report = match shared.health.staleness() {
                    Some(_) => make(&shared, &status, most).await,
                    None => None,
                };
                let Some(mut report) = report else {
                    schedule.looked(Instant::now(), false);
                    continue;
                };
                let differs = written.as_ref() != Some(&report);
                if !schedule.looked(Instant::now(), differs) {
                    continue;
                }
                let told = report.clone();
                report.renew_time = now();
                let body = serde_json::to_value(&report).unwrap_or_default();
                let answer = async { write(&line.way(&shared.connector).await?.client, Write::Apply, &path, &body).await };
                let answer = answer.await;
                shared.count("report", &answer);
                most = budget(most, answer.as_ref().map(|_| report.bytes()));
                let well = line.note("write the report of this node", answer).is_ok();
                if well {
                    written = Some(told);
                }
                schedule.wrote(Instant::now(), well);
            }
        }
    }
}

/// How many bytes the next report may have, where this one was allowed `most`. `answer`: the bytes that this one has, or why
/// it is not written.
fn budget(most: usize, answer: Result<usize, &Trouble>) -> usize {
    match answer {
        Err(trouble) if trouble.is_too_large() => (most / 2).max(MIN_BYTES),
        // else the next one would be too large again
        Ok(bytes) if bytes < most / 2 => MAX_BYTES,
        _ => most,
    }
}

/// The report as it would be now, without its time.
async fn make(shared: &Shared, status: &Arc<Status>, most: usize) -> Option<NodeReport> {
    let abouts = shared.abouts.borrow().clone();
    let (status, node_name) = (Arc::clone(status), shared.node_name.clone());
    let made = tokio::task::spawn_blocking(move || {
        let set = Arc::clone(&status.policies.borrow());
        let daemon = Daemon {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lock: status.selection.lock.name().to_owned(),
            connected: status.connection.knows(),
        };
        NodeReport::new(&node_name, daemon, &set, status.policies(), &abouts, most)
    });
    made.await.ok() // it panicked: the next look may not
}

/// When to look, and when to write.
#[derive(Debug)]
struct Schedule {
    pace: Pace,
    look: Instant,
    due: Option<Instant>,     // a write of what differs
    wrote: Option<Instant>,   // the last time that went well
    blocked: Option<Instant>, // after failures, until when
    failures: u32,            // one after the other
}

impl Schedule {
    fn new(pace: Pace) -> Self {
        let look = Instant::now() + jittered(pace.look());
        Self { pace, look, due: None, wrote: None, blocked: None, failures: 0 }
    }

    /// Something may be different.
    fn hint(&mut self, now: Instant) {
        self.look = self.look.min(now + (self.pace.look() / 10).max(Duration::from_millis(200)));
    }

    /// When to look.
    fn next(&self) -> Instant {
        self.due.map_or(self.look, |due| due.min(self.look))
    }

    /// It was looked, and what would be written differs from what was, or not; whether to write it now.
    fn looked(&mut self, now: Instant, differs: bool) -> bool {
        self.look = now + jittered(self.pace.look());
        let renewal = self.wrote.is_some_and(|wrote| wrote + self.pace.heartbeat() <= now);
        if !differs && !renewal {
            self.due = None;
            return false;
        }
        let due = *self.due.get_or_insert_with(|| {
            let soon = now + jittered(self.pace.look());
            let floor = self.wrote.map(|wrote| wrote + self.pace.interval);
            floor.map_or(soon, |floor| soon.max(floor))
        });
        let due = self.blocked.map_or(due, |blocked| due.max(blocked));
        self.due = Some(due);
        due <= now
    }

    /// It was written, or could not be.
    fn wrote(&mut self, now: Instant, well: bool) {
        self.due = None;
        if well {
            (self.wrote, self.blocked, self.failures) = (Some(now), None, 0);
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let wait = self.pace.look().saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.blocked = Some(now + jittered(wait));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_written_soon_not_too_often_and_what_does_not_now_and_then() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut schedule = Schedule::new(Pace::default());
        assert!(schedule.next() <= at(11), "the first look");
        assert!(!schedule.looked(at(0), true), "nodes that see the same spread their writes");
        let due = schedule.next();
        assert!(due <= at(10) && due >= at(5));
        assert!(schedule.looked(at(10), true));
        schedule.wrote(at(10), true);
        assert!(!schedule.looked(at(20), false));
        schedule.hint(at(21));
        assert!(schedule.next() <= at(22));
        assert!(!schedule.looked(at(22), true));
        assert!(!schedule.looked(at(60), true), "not within a minute of the last");
        assert!(schedule.looked(at(70), true));
        schedule.wrote(at(70), true);
        assert!(!schedule.looked(at(600), false));
        // nothing changed for ten minutes
        assert!(!schedule.looked(at(670), false));
        assert!(schedule.looked(at(680), false));
        schedule.wrote(at(680), true);
        // what went back to what it was is nothing to write
        assert!(!schedule.looked(at(681), true) && !schedule.looked(at(690), false));
        assert_eq!(schedule.due, None);
    }

    #[test]
    fn a_report_that_is_too_large_is_made_smaller_until_it_is_small_by_itself() {
        let (large, other) = (Trouble::Refused(413, String::new()), Trouble::Refused(503, String::new()));
        for (most, answer, wanted) in [
            (MAX_BYTES, Err(&large), MAX_BYTES / 2),
            (MAX_BYTES / 2, Err(&large), MAX_BYTES / 4),
            (MIN_BYTES + 1, Err(&large), MIN_BYTES),
            (MIN_BYTES, Err(&large), MIN_BYTES),
            (MAX_BYTES / 2, Err(&other), MAX_BYTES / 2),
            (MAX_BYTES / 2, Err(&Trouble::Absent), MAX_BYTES / 2),
            (MAX_BYTES / 2, Ok(MAX_BYTES / 4), MAX_BYTES / 2),
            (MAX_BYTES / 2, Ok(MAX_BYTES / 4 - 1), MAX_BYTES),
            (MAX_BYTES, Ok(MAX_BYTES), MAX_BYTES),
        ] {
            assert_eq!(budget(most, answer), wanted, "{most} {answer:?}");
        }
    }

    #[test]
    fn failures_are_tried_again_later_and_later() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut schedule = Schedule::new(Pace::default());
        assert!(!schedule.looked(at(0), true) && schedule.looked(at(10), true));
        schedule.wrote(at(10), false);
        assert!(!schedule.looked(at(15), true));
        assert!(schedule.looked(at(31), true));
        for _ in 0..10 {
            schedule.wrote(at(31), false);
        }
        assert!(!schedule.looked(at(31 + 149), true), "at least half of five minutes");
        assert!(schedule.looked(at(31 + 301), true));
    }
}
