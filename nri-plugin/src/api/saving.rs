//! When the set is saved.

use std::time::Duration;

use tokio::time::Instant;

/// How long nothing must have changed before the set is saved, so that a rollout is not saved object by object.
const QUIET: Duration = Duration::from_millis(300);
/// The longest that a set which never stops changing waits for that. And the least time from one saving to the next, lest
/// objects that change all the time wear the disk out; the same after a failure.
const AT_MOST: Duration = Duration::from_secs(5);

/// What is not saved yet, and when it is to be.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    unsaved: Option<Unsaved>,
    ended: Option<Instant>, // the last saving
}

#[derive(Debug, Clone, Copy)]
struct Unsaved {
    since: Instant,
    last: Instant,
}

impl Schedule {
    /// Something changed.
    pub(super) fn changed(&mut self, now: Instant) {
        let since = self.unsaved.map_or(now, |unsaved| unsaved.since);
        self.unsaved = Some(Unsaved { since, last: now });
    }

    /// Saving begins; what changes from now on is not part of it.
    pub(super) fn begin(&mut self) {
        self.unsaved = None;
    }

    /// Saving ended.
    pub(super) fn end(&mut self, now: Instant, well: bool) {
        self.ended = Some(now);
        if !well {
            self.changed(now);
        }
    }

    /// When to save; `None`: there is nothing to save.
    pub(super) fn due(&self) -> Option<Instant> {
        let Unsaved { since, last } = self.unsaved?;
        let due = (last + QUIET).min(since + AT_MOST);
        Some(self.ended.map_or(due, |ended| due.max(ended + AT_MOST)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_is_saved_soon_and_later_ones_not_too_often() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut schedule = Schedule::default();
        assert_eq!(schedule.due(), None);
        schedule.changed(at(0));
        assert_eq!(schedule.due(), Some(at(300)));
        // it never stops
        (1..=24).for_each(|number| schedule.changed(at(number * 200)));
        assert_eq!(schedule.due(), Some(at(5000)), "five seconds after the first");
        schedule.begin();
        assert_eq!(schedule.due(), None);
        schedule.changed(at(5050));
        schedule.end(at(5100), true);
        assert_eq!(schedule.due(), Some(at(10_100)), "what came meanwhile");
        schedule.begin();
        schedule.end(at(10_100), true);
        schedule.changed(at(11_000));
        assert_eq!(schedule.due(), Some(at(15_100)), "one change each second is no saving each second");
        schedule.begin();
        schedule.end(at(20_000), false);
        assert_eq!(schedule.due(), Some(at(25_000)), "after a failure");
        schedule.begin();
        schedule.end(at(25_000), true);
        schedule.changed(at(60_000));
        assert_eq!(schedule.due(), Some(at(60_300)), "the last saving is long ago");
    }
}
