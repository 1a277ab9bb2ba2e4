//! What AppArmor and SELinux deny, on its way to the alerts.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use enforcer_core::enforce::selinux::RECORD;

use crate::alert::{Alert, Alerts};
use crate::apparmor::Profiles;
use crate::audit::{Attribution, Audit};
use crate::lock::Lock;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::report::Reporter;

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
                (Some(Self { audit, attribution, unheard: unheard.clone() }), unheard)
            }
            Err(why) => {
                tell_unheard(&why, &unheard, alerts, reporter);
                (None, unheard)
            }
        }
    }

    /// Tells what has come.
    pub(super) fn tell(
        &mut self,
        alerts: &Alerts,
        metrics: &Metrics,
        reporter: &Reporter,
        each: &dyn Fn(Alert),
    ) {
        let Self { audit, attribution, unheard } = self;
        audit.take(|heard| each(alerts.denial(&attribution.judge(heard))));
        let lost = audit.lost();
        if lost > 0 {
            metrics.audit_lost.inc_by(lost);
            reporter.report(alerts.audit_lost(lost, SystemTime::now()));
        }
        let unread = audit.unread();
        if unread > 0 {
            metrics.audit_lost.inc_by(unread);
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
