//! What AppArmor and SELinux deny, on its way to the alerts.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::alert::{Alert, Alerts};
use crate::apparmor::Profiles;
use crate::audit::{Attribution, Audit, NotedFiles};
use crate::lock::Lock;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::report::Reporter;

/// How often is told what has come: each event of the kernel's programs asks for it.
const PACE: Duration = Duration::from_millis(200);
/// For how long losses are gathered into one notice.
const GATHER: Duration = Duration::from_secs(5);

/// Why denials are not heard; `None`: they are, or no lock tells of any by audit records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unheard(Arc<Mutex<Option<String>>>);

impl Unheard {
    /// Why not.
    pub(crate) fn why(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, why: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }
}

/// What is heard, and who is asked about it.
pub(super) struct Denials {
    audit: Audit,
    attribution: Attribution,
    unheard: Unheard,
    told: Option<Instant>,
    lost: Gathered,
    unread: Gathered,
}

/// A number that grows, and is told together.
#[derive(Debug, Default)]
struct Gathered {
    count: u64,
    since: Option<Instant>, // None: it is 0
}

impl Gathered {
    /// Adds to it. Returns the sum once it was gathered for [`GATHER`], and begins anew.
    fn add(&mut self, count: u64, now: Instant) -> Option<u64> {
        if count > 0 {
            self.count = self.count.saturating_add(count);
            self.since.get_or_insert(now);
        }
        if now.saturating_duration_since(self.since?) < GATHER {
            return None;
        }
        self.since = None;
        Some(std::mem::take(&mut self.count))
    }
}

impl Denials {
    /// Begins to listen where the lock tells of denials by audit records alone. Where it cannot, an alert says so.
    pub(super) fn listen(
        lock: Lock,
        registry: &Arc<Registry>,
        (profiles, noted): (Option<&Arc<Profiles>>, NotedFiles),
        stop: &Arc<AtomicBool>,
        (alerts, reporter): (&Alerts, &Reporter),
    ) -> (Option<Self>, Unheard) {
        let unheard = Unheard::default();
        if !matches!(lock, Lock::AppArmor | Lock::Both | Lock::Selinux) {
            return (None, unheard);
        }
        let of = profiles.cloned();
        let container_of = Box::new(move |pid| of.as_ref()?.container_of(i32::try_from(pid).ok()?));
        match Audit::listen(Arc::clone(stop), container_of) {
            Ok(audit) => {
                let attribution = Attribution::new(Arc::clone(registry), profiles.cloned(), noted);
                let (lost, unread) = (Gathered::default(), Gathered::default());
                let denials = Self { audit, attribution, unheard: unheard.clone(), told: None, lost, unread };
                (Some(denials), unheard)
            }
            Err(why) => {
                tell_unheard(&why, &unheard, alerts, reporter);
                (None, unheard)
            }
        }
    }

    /// Tells what has come, where it is time for it.
    pub(super) fn tell(
        &mut self,
        alerts: &Alerts,
        metrics: &Metrics,
        reporter: &Reporter,
        each: &dyn Fn(Alert),
    ) {
        let now = Instant::now();
        let Self { audit, attribution, unheard, told, .. } = self;
        if told.is_some_and(|told| now.saturating_duration_since(told) < PACE) {
            return;
        }
        *told = Some(now);
        audit.take(|mut heard| {
            let process = heard.process.take();
            let mut alert = alerts.denial(&attribution.judge(heard));
            if let Some(process) = process {
                process.fill(&mut alert);
            }
            each(alert);
        });
        let lost = audit.lost();
        metrics.audit_lost.inc_by(lost);
        if let Some(lost) = self.lost.add(lost, now) {
            reporter.report(alerts.audit_lost(lost, SystemTime::now()));
        }
        let unread = audit.unread();
        metrics.audit_lost.inc_by(unread);
        if let Some(unread) = self.unread.add(unread, now) {
            tracing::warn!(
                records = unread,
                "audit records about our profiles or labels that cannot be understood"
            );
        }
        if let Some(why) = audit.ended() {
            tell_unheard(&why, unheard, alerts, reporter);
        }
    }
}

fn tell_unheard(why: &str, unheard: &Unheard, alerts: &Alerts, reporter: &Reporter) {
    tracing::error!(why, "what AppArmor or SELinux deny has no alerts; policies hold all the same");
    reporter.report(alerts.audit_unheard(why, SystemTime::now()));
    unheard.set(why);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Rotation;

    /// The alerts that are told in so many turns, and how many records are counted as lost.
    fn told(denials: &mut Denials, times: usize) -> (Vec<serde_json::Value>, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts");
        let alerts = Alerts { cluster_name: "c".into(), host_name: "h".into() };
        let metrics = Metrics::default();
        let (reporter, writer) =
            Reporter::start(Some(path.clone()), Rotation::default(), alerts.clone(), &metrics).unwrap();
        for _ in 0..times {
            denials.told = None;
            denials.tell(&alerts, &metrics, &reporter, &|_| panic!("nothing was denied"));
        }
        drop(reporter);
        writer.join().unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), metrics.audit_lost.get())
    }

    fn denials(audit: Audit) -> Denials {
        let attribution = Attribution::new(Arc::default(), None, Box::new(|| None));
        let (lost, unread) = (Gathered::default(), Gathered::default());
        Denials { audit, attribution, unheard: Unheard::default(), told: None, lost, unread }
    }

    /// Policies hold all the same, and who looks at alerts is not to take their absence for peace.
    #[test]
    fn that_nothing_is_heard_any_more_is_one_alert_and_stays_told() {
        let mut denials = denials(Audit::ended_for(0, 0, "no buffer space"));
        assert_eq!(denials.unheard.why(), None);
        let (alerts, _) = told(&mut denials, 3);
        let [alert] = alerts.as_slice() else { panic!("{alerts:?}") };
        let message = alert["Message"].as_str().unwrap();
        assert!(message.contains("no buffer space") && message.contains("hold all the same"), "{alert}");
        assert_eq!(alert["Data"], "notice=audit-unheard");
        assert_eq!(denials.unheard.why().as_deref(), Some("no buffer space"));
    }

    #[test]
    fn records_that_were_lost_are_counted_at_once_and_one_alert_later() {
        let mut denials = denials(Audit::ended_for(3, 2, ""));
        assert!(denials.audit.ended().is_some(), "it is no concern of this test");
        assert_eq!(told(&mut denials, 2), (vec![], 5), "those that cannot be understood are in the log");
        denials.lost.since = Instant::now().checked_sub(GATHER);
        let (alerts, _) = told(&mut denials, 2);
        let [alert] = alerts.as_slice() else { panic!("{alerts:?}") };
        assert!(alert["Message"].as_str().unwrap().starts_with("up to 3 denials"), "{alert}");
    }

    #[test]
    fn losses_of_some_seconds_are_one_notice() {
        let (begin, mut lost) = (Instant::now(), Gathered::default());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(lost.add(0, begin), None);
        assert_eq!([lost.add(3, at(1)), lost.add(4, at(2)), lost.add(0, at(5))], [None; 3]);
        assert_eq!([lost.add(0, at(6)), lost.add(0, at(20)), lost.add(1, at(21))], [Some(7), None, None]);
        assert_eq!(lost.add(1, at(26)), Some(2));
    }
}
