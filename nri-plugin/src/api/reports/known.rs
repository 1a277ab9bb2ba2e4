//! What the holder of the lease keeps in mind of the status that a policy has. No I/O, no clock.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::Pace;

/// The longest wait after failures with one policy.
const LONGEST: Duration = Duration::from_secs(600);
/// So many failures one after the other make the wait as long as it gets.
const MANY: u32 = 10;
/// The most bytes of a time that is one.
const MAX_TIME: usize = 64;

/// The status of a policy, and how writing it went.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) digest: Digest,
    /// When this daemon wrote it, or tried to.
    written: Option<Instant>,
    /// How often one after the other that failed.
    failures: u32,
}

impl Known {
    /// It was read.
    pub(super) const fn read(digest: Digest) -> Self {
        Self { digest, written: None, failures: 0 }
    }

    /// It was written.
    pub(super) const fn written(digest: Digest, now: Instant) -> Self {
        Self { digest, written: Some(now), failures: 0 }
    }

    /// Another one could not be written; whether that is new.
    pub(super) const fn failed(&mut self, now: Instant) -> bool {
        self.written = Some(now);
        self.failures = self.failures.saturating_add(1);
        self.failures == 1
    }

    /// The server does not take another one, and would not take it a moment later; whether that is new.
    pub(super) const fn refused(&mut self, now: Instant) -> bool {
        let new = self.failures < MANY;
        (self.written, self.failures) = (Some(now), MANY);
        new
    }

    /// Whether another one may be written now.
    pub(super) fn may_write(&self, now: Instant, pace: Pace) -> bool {
        let least = pace.rewrite();
        let wait = least.saturating_mul(1 << self.failures.min(MANY)).min(LONGEST).max(least);
        self.written.is_none_or(|written| now.saturating_duration_since(written) >= wait)
    }
}

/// What is kept of a status: as many bytes for each policy, whatever gaps it has.
#[derive(Debug, Default)]
pub(super) struct Digest {
    whole: u64,
    /// Whether it has conditions.
    pub(super) told: bool,
    accepted: Option<Since>,
    enforced: Option<Since>,
    /// The message, where the policy is refused.
    refused: Option<u64>,
}

/// A condition is so since then.
#[derive(Debug)]
struct Since {
    status: &'static str,
    time: Box<str>,
}

impl Digest {
    /// Of a status. `hashes`: the same for all that are compared.
    pub(super) fn of(status: &Value, hashes: &RandomState) -> Self {
        Self {
            whole: hashes.hash_one(status),
            told: status.get("conditions").is_some(),
            accepted: Since::of(status, "Accepted"),
            enforced: Since::of(status, "Enforced"),
            refused: refused(status).map(|why| hashes.hash_one(why)),
        }
    }

    /// Whether it is of this status.
    pub(super) fn is_of(&self, status: &Value, hashes: &RandomState) -> bool {
        self.whole == hashes.hash_one(status)
    }

    /// Since when the condition is so; `None`: it is not.
    pub(super) fn since(&self, condition: &str, status: &str) -> Option<&str> {
        let since = match condition {
            "Accepted" => self.accepted.as_ref(),
            "Enforced" => self.enforced.as_ref(),
            _ => None,
        };
        since.filter(|since| since.status == status).map(|since| since.time.as_ref())
    }

    /// The message, where by `now` a policy is refused that was not, or in other words.
    pub(super) fn refused_since<'s>(&self, now: &'s Value, hashes: &RandomState) -> Option<&'s str> {
        let now = refused(now)?;
        (self.refused != Some(hashes.hash_one(now))).then_some(now)
    }
}

impl Since {
    /// `None`: there is no such condition, or none that this daemon would write.
    fn of(status: &Value, condition: &str) -> Option<Self> {
        let its = self::condition(status, condition)?;
        let has = its.get("status")?.as_str()?;
        let status = ["True", "False", "Unknown"].into_iter().find(|one| *one == has)?;
        let time = its.get("lastTransitionTime")?.as_str().filter(|time| time.len() <= MAX_TIME)?;
        Some(Self { status, time: time.into() })
    }
}

fn condition<'s>(status: &'s Value, name: &str) -> Option<&'s Value> {
    let named = |one: &&Value| one.get("type").and_then(Value::as_str) == Some(name);
    status.get("conditions")?.as_array()?.iter().find(named)
}

/// The message, where the policy is refused.
fn refused(status: &Value) -> Option<&str> {
    let its =
        condition(status, "Accepted").filter(|its| its.get("status").is_some_and(|is| is == "False"))?;
    Some(its.get("message").and_then(Value::as_str).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(accepted: &str, message: &str, gaps: usize) -> Value {
        json!({
            "conditions": [
                {"type": "Accepted", "status": accepted, "lastTransitionTime": "1", "message": message},
                {"type": "Enforced", "status": "True", "lastTransitionTime": "2"},
            ],
            "gaps": vec![json!({"field": "x".repeat(500)}); gaps],
        })
    }

    #[test]
    fn what_is_kept_of_a_status_tells_whether_another_is_the_same_and_is_small() {
        let hashes = RandomState::new();
        let whole = status("False", &"x".repeat(4096), 100);
        let digest = Digest::of(&whole, &hashes);
        assert!(digest.is_of(&whole.clone(), &hashes) && digest.told);
        assert!(!digest.is_of(&status("False", &"x".repeat(4096), 99), &hashes));
        assert_eq!((digest.since("Accepted", "False"), digest.since("Accepted", "True")), (Some("1"), None));
        assert_eq!((digest.since("Enforced", "True"), digest.since("Other", "True")), (Some("2"), None));
        let texts = [&digest.accepted, &digest.enforced].into_iter().flatten();
        assert_eq!(texts.map(|since| since.time.len()).sum::<usize>(), 2);
        assert!(size_of::<Known>() <= 144, "{}", size_of::<Known>());
        // what others wrote there
        let mut strange = whole;
        strange["conditions"][0]["status"] = json!("Perhaps");
        strange["conditions"][1]["lastTransitionTime"] = json!("9".repeat(MAX_TIME + 1));
        let strange = Digest::of(&strange, &hashes);
        assert_eq!((strange.since("Accepted", "Perhaps"), strange.since("Enforced", "True")), (None, None));
        let nothing = Digest::of(&json!({}), &hashes);
        assert!(!nothing.told && nothing.since("Accepted", "True").is_none());
    }

    #[test]
    fn a_refusal_is_news_once_for_each_message() {
        let hashes = RandomState::new();
        let refused = status("False", "no such path", 0);
        let before = |status: &Value| Digest::of(status, &hashes);
        let new = |before: Digest, now: &Value| before.refused_since(now, &hashes).map(str::to_owned);
        assert_eq!(new(before(&json!({})), &refused), Some("no such path".into()));
        assert_eq!(new(before(&status("True", "no such path", 0)), &refused), Some("no such path".into()));
        assert_eq!(new(before(&status("False", "no such path", 1)), &refused), None);
        assert_eq!(new(before(&status("False", "other", 0)), &refused), Some("no such path".into()));
        assert_eq!(new(before(&refused), &status("True", "", 0)), None);
    }

    #[test]
    fn after_failures_a_policy_waits_longer_and_longer() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let writes = |known: &Known, seconds: u64| known.may_write(at(seconds), Pace::default());
        let mut known = Known::read(Digest::default());
        assert!(writes(&known, 0), "what was only read");
        let written = Known::written(Digest::default(), begin);
        assert!(!writes(&written, 29) && writes(&written, 30));
        for (failures, wait) in [(1, 60), (2, 120), (3, 240), (4, 480), (5, 600), (6, 600)] {
            assert_eq!(known.failed(begin), failures == 1);
            assert!(!writes(&known, wait - 1) && writes(&known, wait), "{failures}");
        }
        for _ in 0..100 {
            known.failed(begin); // more than a number can be shifted by
        }
        assert!(!writes(&known, 599) && writes(&known, 600));
        let long = Pace { interval: Duration::from_secs(3600) };
        assert!(!known.may_write(at(1799), long), "never more often than without failures");
    }

    #[test]
    fn what_the_server_does_not_take_is_not_known_as_written_and_tried_again_much_later() {
        let begin = Instant::now();
        let (hashes, wanted) = (RandomState::new(), status("True", "", 100));
        let mut known = Known::read(Digest::of(&json!({}), &hashes));
        assert!(known.refused(begin) && !known.refused(begin), "told once");
        assert!(!known.digest.is_of(&wanted, &hashes));
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        assert!(!known.may_write(at(599), Pace::default()) && known.may_write(at(600), Pace::default()));
    }
}
