//! What AppArmor and SELinux deny, on its way to the alerts.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use enforcer_core::enforce::selinux::RECORD;

use crate::alert::{Alert, Alerts};
use crate::apparmor::Profiles;
use crate::audit::{Attribution, Audit};
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

    fn set(&self, why: &str) {
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
        profiles: Option<&Arc<Profiles>>,
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
                let record = Path::new(RECORD).to_owned();
                let attribution = Attribution::new(Arc::clone(registry), profiles.cloned(), record);
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
        audit.take(|heard| each(alerts.denial(&attribution.judge(heard))));
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
