//! The daemon's side: counts what is there when asked, and has the kernel measure meanwhile.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use enforcer_core::enforce::Measuring;

use super::document::{Program, Snapshot};
use super::tally::Tally;
use crate::exit::chain;
use crate::lock::Lock;
use crate::metrics::node::{KernelSide, NORMAL, RING};
use crate::run::Unheard;
use crate::status::serve::Status;

/// Since when the clock of snapshots runs.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What snapshots are made of.
pub struct Source {
    status: Arc<Status>,
    kernel: Box<dyn KernelSide>,
    tally: Tally,
    unheard: Unheard,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Somebody looks: as long as this lives, the kernel measures.
#[derive(Debug)]
pub struct Look {
    measuring: Result<Option<Measuring>, String>,
}

impl Source {
    /// Of this daemon.
    pub(crate) fn new(
        status: Arc<Status>,
        kernel: Box<dyn KernelSide>,
        tally: Tally,
        unheard: Unheard,
    ) -> Self {
        Self { status, kernel, tally, unheard }
    }

    /// Begins to measure.
    #[must_use]
    pub fn look(&self) -> Look {
        Look { measuring: self.kernel.measure().map_err(|error| chain(&error)) }
    }

    /// What has been counted until now.
    #[must_use]
    pub fn snapshot(&self, look: &Look) -> Snapshot {
        let (denials, forgotten) = self.tally.rows();
        let not_measured = match &look.measuring {
            Ok(Some(_)) => None,
            Ok(None) => Some("there are no BPF programs on this node".to_owned()),
            Err(why) => Some(why.clone()),
        };
        let (counters, not_counted) = match self.kernel.counters() {
            Ok(counters) => (counters, None),
            Err(error) => (Vec::new(), Some(chain(&error))),
        };
        let dropped = counters.iter().find(|(name, _)| name == RING).map_or(0, |(_, count)| *count);
        let failed =
            |(name, count): &(String, u64)| *count > 0 && name != RING && !NORMAL.contains(&name.as_str());
        let failures: BTreeMap<String, u64> = counters.into_iter().filter(failed).collect();
        let programs = match &not_measured {
            Some(_) => Vec::new(),
            None => self
                .kernel
                .costs()
                .into_iter()
                .map(|cost| Program {
                    name: cost.name,
                    section: cost.section,
                    calls: cost.calls,
                    nanoseconds: cost.nanoseconds,
                })
                .collect(),
        };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Snapshot {
            node_name: self.status.node_name.clone(),
            lock: self.status.selection.lock.name().to_owned(),
            at_nanoseconds: u64::try_from(BEGIN.elapsed().as_nanos()).unwrap_or(u64::MAX),
            time_milliseconds: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            denials,
            not_seen: not_seen(self.status.selection.lock, self.unheard.why()),
            forgotten,
            programs,
            not_measured,
            ring_dropped: dropped,
            failures,
            not_counted,
        }
    }
}

/// Why the daemon does not see what the lock denies.
fn not_seen(lock: Lock, unheard: Option<String>) -> Option<String> {
    let nothing =
        "no lock denies anything here but seccomp, which tells of it in the audit log alone, if at all";
    match lock {
        Lock::Nothing => Some(nothing.to_owned()),
        Lock::Bpf => None,
        Lock::Both => unheard.map(|why| format!("what AppArmor denies: {why}")),
        Lock::AppArmor | Lock::Selinux => unheard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BPF tells of its denials itself; the others' are in audit records, which may not be heard.
    #[test]
    fn what_is_not_seen_depends_on_who_denies_and_on_what_is_heard() {
        let why = "audit is off";
        let told = |lock| [None, Some(why.to_owned())].map(|unheard| not_seen(lock, unheard));
        assert_eq!(told(Lock::Bpf), [None, None]);
        assert_eq!(told(Lock::Both), [None, Some(format!("what AppArmor denies: {why}"))]);
        for lock in [Lock::AppArmor, Lock::Selinux] {
            assert_eq!(told(lock), [None, Some(why.to_owned())]);
        }
        for told in told(Lock::Nothing) {
            assert!(told.unwrap().starts_with("no lock denies anything here but seccomp"));
        }
    }
}
