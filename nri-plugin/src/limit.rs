//! A limit for the alerts of each container. What is past it is told in summaries, how often and from when to when:
//! nothing is left out in silence, and one container cannot use up what there is for all.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use crate::alert::Alert;

/// The time over which alerts are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// How long alerts are gathered before their summary is told.
pub const GATHER: Duration = Duration::from_secs(5);
/// How many summaries of one container, in every detail, are gathered at a time; the same again by rule alone.
const DETAILED: usize = 64;
/// The same for all containers together.
const ALL: usize = 4096;
/// Bytes of all summaries together. Past that, there are only those of the least detail, some KB each.
const BYTES: usize = 8 << 20;

/// So many containers are remembered though they may be gone.
const FEW: usize = 256;

/// What alerts of one summary have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    action: &'static str,
    operation: &'static str,
    rule: Option<(String, String, String)>, // namespace and name of the policy; None: several
    access: Option<(String, String)>,       // source and resource; None: several
}

#[derive(Debug)]
struct Summary {
    last: Alert, // without what those of the least detail do not tell, where there is no room for it
    first: String,
    count: u64,
}

#[derive(Debug)]
struct Budget {
    window: Instant, // when it began
    told: u32,       // in it
    summaries: HashMap<Key, Summary>,
    due: Instant, // of `summaries`
}

/// Decides what is told one by one.
#[derive(Debug)]
pub struct Limiter {
    rate: u32,
    summarized: Counter,
    containers: BTreeMap<String, Budget>,
    pruned: Option<Instant>,
    gathered: usize,      // summaries of all containers
    bytes: usize,         // of those, keys included
    due: Option<Instant>, // the first of all that is due
}

impl Limiter {
    /// So many alerts of a container in each second are told one by one; 0: all. `summarized` counts those that are not.
    #[must_use]
    pub fn new(rate: u32, summarized: Counter) -> Self {
        Self { rate, summarized, containers: BTreeMap::new(), pruned: None, gathered: 0, bytes: 0, due: None }
    }

    /// Gives the alert back where it is to be told now. Otherwise its summary will be [due](Self::due).
    pub fn take(&mut self, mut alert: Alert, now: Instant) -> Option<Alert> {
        if self.rate == 0 {
            return Some(alert);
        }
        if self.containers.len() >= FEW && !self.containers.contains_key(&alert.container_id) {
            self.prune(now);
        }
        let fresh = || Budget { window: now, told: 0, summaries: HashMap::new(), due: now };
        let budget = self.containers.entry(alert.container_id.clone()).or_insert_with(fresh);
        if now.saturating_duration_since(budget.window) >= WINDOW {
            (budget.window, budget.told) = (now, 0);
        }
        if budget.told < self.rate {
            budget.told += 1;
            return Some(alert);
        }
        let no_room = self.bytes >= BYTES;
        let key = budget.key(&alert, no_room || self.gathered >= ALL);
        if no_room && key.access.is_none() {
            key.leave_out(&mut alert, "omitted=true");
        }
        self.bytes = self.bytes.saturating_add(alert.size());
        if let Some(summary) = budget.summaries.get_mut(&key) {
            summary.count += 1;
            self.bytes = self.bytes.saturating_sub(summary.last.size());
            summary.last = alert;
            return None;
        }
        if budget.summaries.is_empty() {
            budget.due = now + GATHER;
            self.due = Some(self.due.map_or(budget.due, |due| due.min(budget.due)));
        }
        let first = alert.updated_time.clone();
        self.bytes = self.bytes.saturating_add(key.size());
        budget.summaries.insert(key, Summary { last: alert, first, count: 1 });
        self.gathered += 1;
        None
    }

    /// The summaries that are due.
    pub fn due(&mut self, now: Instant) -> Vec<Alert> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.end(Some(now))
    }

    /// All summaries, at the end.
    pub fn rest(&mut self) -> Vec<Alert> {
        self.end(None)
    }

    fn end(&mut self, now: Option<Instant>) -> Vec<Alert> {
        let mut told = Vec::new();
        for budget in self.containers.values_mut() {
            if now.is_none_or(|now| budget.due <= now) {
                self.gathered = self.gathered.saturating_sub(budget.summaries.len());
                told.extend(budget.summaries.drain());
            }
        }
        for (key, summary) in &told {
            self.bytes = self.bytes.saturating_sub(key.size().saturating_add(summary.last.size()));
        }
        self.containers.retain(|_, budget| now.is_some_and(|now| budget.is_current(now)));
        let waiting = self.containers.values().filter(|budget| !budget.summaries.is_empty());
        self.due = waiting.map(|budget| budget.due).min();
        let mut told: Vec<Alert> = told.into_iter().map(|(key, summary)| self.tell(&key, summary)).collect();
        told.sort_by(|a, b| a.updated_time.cmp(&b.updated_time));
        told
    }

    /// Forgets containers that are quiet, which may be gone. At most once in a window: those of a window stay anyway.
    fn prune(&mut self, now: Instant) {
        if self.pruned.is_none_or(|last| now.saturating_duration_since(last) >= WINDOW) {
            self.pruned = Some(now);
            self.containers.retain(|_, budget| budget.is_current(now));
        }
    }

    fn tell(&self, key: &Key, Summary { last: mut alert, first, count }: Summary) -> Alert {
        if count == 1 {
            return alert;
        }
        self.summarized.inc_by(count);
        key.leave_out(&mut alert, "several=true");
        alert.summarize(count, first);
        alert
    }
}

impl Key {
    /// Takes out of an alert what its summary does not tell; `why` is what its data are then.
    fn leave_out(&self, alert: &mut Alert, why: &str) {
        if self.rule.is_none() {
            let Alert { policy_name, policy_namespace, rule, message, tags, severity, .. } = alert;
            let texts = [policy_name, policy_namespace, rule, message, tags, severity];
            texts.into_iter().for_each(|text| *text = String::new()); // clear() would keep the memory
            alert.a_tags = Vec::new();
        }
        if self.access.is_none() {
            let Alert { source, resource, process_name, parent_process_name, .. } = alert;
            let texts = [source, resource, process_name, parent_process_name];
            texts.into_iter().for_each(|text| *text = String::new());
            (alert.host_pid, alert.host_ppid, alert.pid, alert.ppid) = Default::default();
            alert.uid = None;
            alert.data = why.into();
        }
    }

    fn size(&self) -> usize {
        let rule = self.rule.iter().map(|(namespace, name, rule)| namespace.len() + name.len() + rule.len());
        let access = self.access.iter().map(|(source, resource)| source.len() + resource.len());
        rule.chain(access).sum::<usize>() + size_of::<(Self, Summary)>() - size_of::<Alert>()
    }
}

impl Budget {
    /// Whether there is something to remember.
    fn is_current(&self, now: Instant) -> bool {
        !self.summaries.is_empty() || now.saturating_duration_since(self.window) < WINDOW
    }

    /// The summary to which an alert belongs: the less exact, the more there are. `full`: no new ones but of the least.
    fn key(&self, alert: &Alert, full: bool) -> Key {
        let rule = (alert.policy_namespace.clone(), alert.policy_name.clone(), alert.rule.clone());
        let access = (alert.source.clone(), alert.resource.clone());
        let (action, operation) = (alert.action, alert.operation);
        let exact = Key { action, operation, rule: Some(rule.clone()), access: Some(access) };
        let by_rule = Key { action, operation, rule: Some(rule), access: None };
        for (key, most) in [(exact, DETAILED), (by_rule, 2 * DETAILED)] {
            if self.summaries.contains_key(&key) || (!full && self.summaries.len() < most) {
                return key;
            }
        }
        Key { action, operation, rule: None, access: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(container: &str, resource: usize) -> Alert {
        Alert {
            container_id: container.into(),
            policy_name: "p".into(),
            resource: resource.to_string(),
            updated_time: format!("{resource:05}"),
            action: "Block",
            operation: "File",
            count: 1,
            ..Alert::default()
        }
    }

    fn told(limiter: &mut Limiter, container: &str, count: usize, now: Instant) -> usize {
        (0..count).filter_map(|_| limiter.take(alert(container, 1), now)).count()
    }

    #[test]
    fn what_is_past_the_limit_is_told_once_with_its_number_and_times() {
        let counter = Counter::default();
        let mut limiter = Limiter::new(3, counter.clone());
        let begin = Instant::now();
        assert_eq!(told(&mut limiter, "noisy", 1000, begin), 3);
        assert_eq!(told(&mut limiter, "quiet", 3, begin), 3, "another one's noise is not theirs");
        assert_eq!(limiter.due(begin + GATHER / 2), []);
        let last = Alert { updated_time: "9".into(), ..alert("noisy", 1) };
        assert_eq!(limiter.take(last, begin), None);
        let summaries = limiter.due(begin + GATHER);
        assert_eq!(summaries.len(), 1);
        let one = &summaries[0];
        assert_eq!((one.count, one.first_time.as_str(), one.last_time.as_str()), (998, "00001", "9"));
        assert_eq!((one.policy_name.as_str(), one.resource.as_str(), one.action), ("p", "1", "Block"));
        assert!(one.data.ends_with("count=998 first=00001 last=9"), "{}", one.data);
        assert_eq!(counter.get(), 998);
        assert_eq!(limiter.due(begin + GATHER * 9), [], "once");
        assert!(limiter.containers.is_empty(), "nothing is kept of those that are quiet");
        assert_eq!(told(&mut limiter, "noisy", 9, begin + GATHER), 3, "a new second");
    }

    #[test]
    fn a_single_alert_past_the_limit_is_only_late() {
        let counter = Counter::default();
        let mut limiter = Limiter::new(1, counter.clone());
        let begin = Instant::now();
        let all: Vec<_> = (1..=3).filter_map(|number| limiter.take(alert("c", number), begin)).collect();
        assert_eq!(all, [alert("c", 1)]);
        assert_eq!(limiter.rest(), [alert("c", 2), alert("c", 3)]);
        assert_eq!(counter.get(), 0);
        let mut unlimited = Limiter::new(0, counter);
        assert_eq!(told(&mut unlimited, "c", 1000, begin), 1000);
    }

    #[test]
    fn containers_that_come_and_go_leave_nothing_behind() {
        let mut limiter = Limiter::new(10, Counter::default());
        let begin = Instant::now();
        for number in 0..10_000 {
            let now = begin + Duration::from_millis(10) * number;
            assert!(limiter.take(alert(&format!("c{number}"), 1), now).is_some());
        }
        assert!(limiter.containers.len() <= FEW + 200, "{}", limiter.containers.len());
    }

    /// Whoever attacks chooses what is accessed: memory has a bound, and every alert is in some summary.
    #[test]
    fn many_different_ones_are_told_with_less_detail_and_counted_all() {
        let mut limiter = Limiter::new(1, Counter::default());
        let begin = Instant::now();
        let mut sum = 0;
        for container in 0..100 {
            for number in 0..1000 {
                let mut one = alert(&format!("c{container}"), number);
                one.rule = (number % 300).to_string();
                sum += u64::from(limiter.take(one, begin).is_some());
            }
        }
        assert!(limiter.gathered <= ALL + 100 + 2 * DETAILED, "{}", limiter.gathered);
        let summaries = limiter.due(begin + GATHER);
        sum += summaries.iter().map(|one| one.count).sum::<u64>();
        assert_eq!(sum, 100_000);
        let several = summaries.iter().filter(|one| one.rule.is_empty() && one.resource.is_empty());
        assert_eq!(several.count(), 100);
        assert_eq!((limiter.gathered, limiter.bytes, limiter.due), (0, 0, None));
    }

    /// Paths of 4 KB whose bytes are all escaped, as the source and the resource of executions.
    #[test]
    fn long_paths_take_no_more_memory_than_there_is_for_them() {
        let mut limiter = Limiter::new(1, Counter::default());
        let begin = Instant::now();
        let mut sum = 0;
        for container in 0..100 {
            for number in 0..40 {
                let mut one = alert(&format!("c{container}"), number);
                one.resource.push_str(&"\\xff".repeat(4096));
                one.process_name.clone_from(&one.resource);
                one.source.clone_from(&one.resource);
                one.data.clone_from(&one.resource);
                sum += u64::from(limiter.take(one, begin).is_some());
            }
        }
        let summaries = limiter.containers.values().flat_map(|budget| &budget.summaries);
        let bytes: usize = summaries.map(|(key, summary)| key.size() + summary.last.size()).sum();
        assert_eq!(bytes, limiter.bytes);
        assert!(bytes < BYTES + 100 * 4096, "{bytes}");
        let summaries = limiter.due(begin + GATHER);
        sum += summaries.iter().map(|one| one.count).sum::<u64>();
        assert_eq!(sum, 4000);
        let exact = summaries.iter().filter(|one| !one.resource.is_empty()).count();
        assert!(exact > 50, "as long as there is room all is told: {exact}");
        assert_eq!(limiter.bytes, 0);
    }

    #[test]
    fn one_for_whose_details_there_is_no_room_says_so() {
        let mut limiter = Limiter::new(1, Counter::default());
        let begin = Instant::now();
        limiter.bytes = BYTES;
        assert!(limiter.take(alert("c", 1), begin).is_some());
        assert_eq!(limiter.take(alert("c", 2), begin), None);
        let [one] = <[Alert; 1]>::try_from(limiter.rest()).unwrap();
        assert_eq!((one.count, one.data.as_str(), one.resource.as_str()), (1, "omitted=true", ""));
    }
}
