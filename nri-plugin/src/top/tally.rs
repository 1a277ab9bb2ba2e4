//! Denials and audited accesses by container, policy and rule, for whoever looks. Pods come and go, so there is a bound:
//! those that were seen longest ago are forgotten first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::document::Denial;
use crate::alert::Alert;

/// How many are remembered, some 400 bytes each.
const ROWS: usize = 4096;
/// How many are forgotten at a time.
const FORGOTTEN: usize = ROWS / 8;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    container: String,
    policy_namespace: String,
    policy: String,
    rule: String,
    operation: &'static str,
    action: &'static str,
}

#[derive(Debug)]
struct Count {
    namespace: String,
    pod: String,
    name: String,
    count: u64,
    last: u64,
}

#[derive(Debug, Default)]
struct Counts {
    rows: HashMap<Key, Count>,
    forgotten: u64,
}

/// The counts. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<Counts>>);

impl Tally {
    /// Counts what an alert tells.
    pub fn count(&self, alert: &Alert) {
        let key = Key {
            container: alert.container_id.clone(),
            policy_namespace: alert.policy_namespace.clone(),
            policy: alert.policy_name.clone(),
            rule: alert.rule.clone(),
            operation: alert.operation,
            action: alert.action,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let last = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let mut counts = self.counts();
        if let Some(row) = counts.rows.get_mut(&key) {
            (row.count, row.last) = (row.count.saturating_add(1), last);
            return;
        }
        if counts.rows.len() >= ROWS {
            counts.forget();
        }
        let row = Count {
            namespace: alert.namespace_name.clone(),
            pod: alert.pod_name.clone(),
            name: alert.container_name.clone(),
            count: 1,
            last,
        };
        counts.rows.insert(key, row);
    }

    /// All that is remembered, and how many verdicts were counted in what is not.
    #[must_use]
    pub fn rows(&self) -> (Vec<Denial>, u64) {
        let counts = self.counts();
        let row = |(key, count): (&Key, &Count)| Denial {
            id: key.container.clone(),
            namespace: count.namespace.clone(),
            pod: count.pod.clone(),
            container: count.name.clone(),
            policy_namespace: key.policy_namespace.clone(),
            policy: key.policy.clone(),
            rule: key.rule.clone(),
            operation: key.operation.to_owned(),
            action: key.action.to_owned(),
            total: count.count,
            last_milliseconds: count.last,
        };
        (counts.rows.iter().map(row).collect(), counts.forgotten)
    }

    // numbers are whole after a panic, too
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn forget(&mut self) {
        let mut times: Vec<u64> = self.rows.values().map(|row| row.last).collect();
        times.sort_unstable();
        let Some(until) = times.get(FORGOTTEN.saturating_sub(1)).copied() else { return };
        let Self { rows, forgotten } = self;
        // of those of the same moment no more than are to go
        let mut left = FORGOTTEN;
        rows.retain(|_, row| {
            let goes = row.last <= until && left > 0;
            if goes {
                left = left.saturating_sub(1);
                *forgotten = forgotten.saturating_add(row.count);
            }
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(container: &str, rule: &str) -> Alert {
        Alert {
            container_id: container.into(),
            rule: rule.into(),
            pod_name: "web".into(),
            operation: "File",
            action: "Block",
            ..Alert::default()
        }
    }

    #[test]
    fn each_container_and_rule_is_counted_by_itself() {
        let tally = Tally::default();
        for (container, rule) in [("a", "x"), ("a", "x"), ("b", "x"), ("a", "y")] {
            tally.count(&alert(container, rule));
        }
        let (mut rows, forgotten) = tally.rows();
        rows.sort_by(|one, other| (&one.id, &one.rule).cmp(&(&other.id, &other.rule)));
        let told: Vec<_> = rows.iter().map(|row| (row.id.as_str(), row.rule.as_str(), row.total)).collect();
        assert_eq!((told, forgotten), (vec![("a", "x", 2), ("a", "y", 1), ("b", "x", 1)], 0));
        assert!(rows.iter().all(|row| row.last_milliseconds > 1_600_000_000_000 && row.pod == "web"));
    }

    #[test]
    fn there_is_a_bound_and_what_is_past_it_is_told() {
        let tally = Tally::default();
        let many = ROWS * 3;
        for number in 0..many {
            tally.count(&alert(&format!("c{number}"), "x"));
            tally.count(&alert(&format!("c{number}"), "x"));
        }
        let (rows, forgotten) = tally.rows();
        assert!(rows.len() <= ROWS && rows.len() > ROWS - FORGOTTEN, "{}", rows.len());
        assert_eq!(forgotten + rows.iter().map(|row| row.total).sum::<u64>(), 2 * many as u64);
        assert!(rows.iter().any(|row| row.id == format!("c{}", many - 1)), "the last one is there");
    }
}
