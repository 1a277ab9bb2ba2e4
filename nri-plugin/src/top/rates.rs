//! Two looks, and what happened between them.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::document::{Denial, Program, Snapshot};

/// What happened between two looks, and in all.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rates {
    /// The name of the node.
    pub(super) node_name: String,
    /// What holds the rules.
    pub(super) lock: String,
    /// The time between the two, in seconds.
    pub(super) seconds: f64,
    /// When the second one was, in milliseconds since 1970.
    pub(super) time_milliseconds: u64,
    /// Denials and audited accesses.
    pub(super) denials: Vec<DenialRate>,
    /// Why denials by the lock are not among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_seen: Option<String>,
    /// How many are in no row.
    pub(super) forgotten: u64,
    /// Programs in the kernel that ran between the two, the dearest first.
    pub(super) programs: Vec<ProgramRate>,
    /// The share of one CPU that all of them took.
    pub(super) cpu: f64,
    /// Why that is not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_measured: Option<String>,
    /// Events that the ring buffer had no room for.
    pub(super) ring_dropped: Count,
    /// What failed in the kernel, by place.
    pub(super) failures: BTreeMap<String, Count>,
    /// Why these two are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_counted: Option<String>,
}

/// How many, in all and a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Count {
    /// In all.
    pub(super) total: u64,
    /// A second, between the two looks.
    pub(super) per_second: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DenialRate {
    #[serde(flatten)]
    pub(super) denial: Denial,
    /// How many a second.
    pub(super) per_second: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProgramRate {
    pub(super) name: String,
    /// Where it stands.
    pub(super) section: String,
    /// Runs a second.
    pub(super) calls_per_second: f64,
    /// How long one took, in nanoseconds.
    pub(super) mean_nanoseconds: f64,
    /// The share of one CPU.
    pub(super) cpu: f64,
}

impl Rates {
    pub(super) fn new(before: &Snapshot, now: &Snapshot) -> Self {
        let passed = now.at_nanoseconds.saturating_sub(before.at_nanoseconds);
        let per_second = |old: u64, new: u64| ratio(new.saturating_sub(old), passed) * 1e9;
        let count = |old: u64, new: u64| Count { total: new, per_second: per_second(old, new) };
        let earlier: HashMap<_, u64> = before.denials.iter().map(|one| (key(one), one.total)).collect();
        let denials = now.denials.iter().map(|denial| {
            let old = earlier.get(&key(denial)).copied().unwrap_or(0);
            DenialRate { per_second: per_second(old, denial.total), denial: denial.clone() }
        });
        let programs = programs(&before.programs, &now.programs, passed);
        let failures = now.failures.iter().map(|(place, new)| {
            let old = before.failures.get(place).copied().unwrap_or(0);
            (place.clone(), count(old, *new))
        });
        Self {
            node_name: now.node_name.clone(),
            lock: now.lock.clone(),
            seconds: ratio(passed, 1_000_000_000),
            time_milliseconds: now.time_milliseconds,
            denials: denials.collect(),
            not_seen: now.not_seen.clone(),
            forgotten: now.forgotten,
            cpu: programs.iter().map(|program| program.cpu).sum(),
            programs,
            not_measured: now.not_measured.clone(),
            ring_dropped: count(before.ring_dropped, now.ring_dropped),
            failures: failures.collect(),
            not_counted: now.not_counted.clone(),
        }
    }
}

fn key(denial: &Denial) -> [&str; 6] {
    let Denial { id, policy_namespace, policy, rule, operation, action, .. } = denial;
    [id, policy_namespace, policy, rule, operation, action].map(String::as_str)
}

/// Those that ran, the dearest first. One that was loaded anew begins at nothing.
fn programs(before: &[Program], now: &[Program], passed: u64) -> Vec<ProgramRate> {
    let earlier: HashMap<&str, &Program> = before.iter().map(|one| (one.name.as_str(), one)).collect();
    let mut rates: Vec<ProgramRate> = now
        .iter()
        .filter_map(|program| {
            let old = earlier.get(program.name.as_str()).filter(|old| old.calls <= program.calls);
            let (calls, time) = old.map_or((0, 0), |old| (old.calls, old.nanoseconds));
            let calls = program.calls.saturating_sub(calls);
            let time = program.nanoseconds.saturating_sub(time);
            (calls > 0).then(|| ProgramRate {
                name: program.name.clone(),
                section: program.section.clone(),
                calls_per_second: ratio(calls, passed) * 1e9,
                mean_nanoseconds: ratio(time, calls),
                cpu: ratio(time, passed),
            })
        })
        .collect();
    rates.sort_by(|one, other| other.cpu.total_cmp(&one.cpu).then_with(|| one.name.cmp(&other.name)));
    rates
}

/// 0 where there is nothing to divide by.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(id: &str, total: u64) -> Denial {
        Denial {
            id: id.into(),
            namespace: "default".into(),
            pod: "web".into(),
            container: "main".into(),
            policy_namespace: "default".into(),
            policy: "p".into(),
            rule: "spec.file.matchPaths[0]".into(),
            operation: "File".into(),
            action: "Block".into(),
            total,
            last_milliseconds: 0,
        }
    }

    fn program(name: &str, calls: u64, nanoseconds: u64) -> Program {
        Program { name: name.into(), section: format!("lsm/{name}"), calls, nanoseconds }
    }

    #[test]
    fn rates_are_of_what_happened_between_the_two() {
        let before = Snapshot {
            at_nanoseconds: 1_000_000_000,
            denials: vec![denial("a", 10)],
            programs: vec![program("a", 100, 5_000), program("b", 1, 1), program("again", 50, 500)],
            ring_dropped: 3,
            ..Snapshot::default()
        };
        let now = Snapshot {
            at_nanoseconds: 3_000_000_000,
            denials: vec![denial("a", 14), denial("b", 2)],
            programs: vec![
                program("a", 300, 25_000),
                program("again", 2, 40),
                program("b", 1, 1),
                program("c", 1000, 200_000_000),
            ],
            ring_dropped: 7,
            failures: [("walk".to_owned(), 4)].into(),
            ..Snapshot::default()
        };
        let rates = Rates::new(&before, &now);
        assert_eq!(rates.seconds, 2.0);
        let denials: Vec<_> = rates.denials.iter().map(|one| (one.denial.total, one.per_second)).collect();
        assert_eq!(denials, [(14, 2.0), (2, 1.0)]);
        let programs: Vec<_> = rates
            .programs
            .iter()
            .map(|one| (one.name.as_str(), one.calls_per_second, one.mean_nanoseconds, one.cpu))
            .collect();
        assert_eq!(
            programs,
            [("c", 500.0, 200_000.0, 0.1), ("a", 100.0, 100.0, 0.000_01), ("again", 1.0, 20.0, 0.000_000_02)],
            "one that did not run is not there, one that was loaded anew counts from nothing"
        );
        assert_eq!(rates.ring_dropped, Count { total: 7, per_second: 2.0 });
        assert_eq!(rates.failures.get("walk"), Some(&Count { total: 4, per_second: 2.0 }));
    }

    #[test]
    fn no_time_is_no_division() {
        let now = Snapshot { denials: vec![denial("a", 1)], ..Snapshot::default() };
        let rates = Rates::new(&now, &now);
        assert_eq!((rates.seconds, rates.denials.first().unwrap().per_second), (0.0, 0.0));
    }
}
