//! The daemon's side: counts what is there when asked, and has the kernel measure meanwhile.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use enforcer_core::enforce::Measuring;

use super::document::{Program, Snapshot};
use super::tally::Tally;
use crate::exit::chain;
use crate::metrics::node::{KernelSide, NORMAL, RING};
use crate::status::serve::Status;

/// Since when the clock of snapshots runs.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What snapshots are made of.
pub struct Source {
    status: Arc<Status>,
    kernel: Box<dyn KernelSide>,
    tally: Tally,
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
    pub(crate) fn new(status: Arc<Status>, kernel: Box<dyn KernelSide>, tally: Tally) -> Self {
        Self { status, kernel, tally }
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
            not_seen: self.status.not_seen(),
            forgotten,
            programs,
            not_measured,
            ring_dropped: dropped,
            failures,
            not_counted,
        }
    }
}
