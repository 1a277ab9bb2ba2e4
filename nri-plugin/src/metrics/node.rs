//! What is looked up when somebody asks: containers, policies, connection, kernel side, threads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use enforcer_core::enforce::{ContainerId, Measuring, Occupancy, ProgramCost};
use enforcer_core::policy::Policy;
use enforcer_core::ruleset::RulesetDigest;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;

use super::health::Pulse;
use crate::exit::chain;
use crate::kernel::{Kernel, KernelError};
use crate::status::document::State;
use crate::status::serve::Status;

/// What the programs count without anything being wrong.
pub const NORMAL: [&str; 6] = ["audited", "blocked", "activated", "inherited", "by_pointer", "retried"];
/// The counter of events for which the ring buffer had no room.
pub const RING: &str = "event_dropped";
/// The counter of observations for which it had none, since the rest of it is for alerts.
pub const RING_LOGS: &str = "observation_dropped";

/// What is looked at.
pub struct Node {
    /// The containers and policies.
    pub status: Arc<Status>,
    /// The kernel side.
    pub kernel: Box<dyn KernelSide>,
    /// Threads, by name.
    pub threads: Vec<(&'static str, Arc<Pulse>)>,
    /// Counts what cannot be read.
    pub errors: Counter,
}

/// What those who only look need of a [`Kernel`].
pub trait KernelSide: Send + Sync {
    /// As [`Kernel::counters`].
    ///
    /// # Errors
    /// When the map cannot be read.
    fn counters(&self) -> Result<Vec<(String, u64)>, KernelError>;

    /// As [`Kernel::look`].
    ///
    /// # Errors
    /// When the maps cannot be read.
    fn look(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError>;

    /// As [`Kernel::measure`].
    ///
    /// # Errors
    /// When the kernel refuses.
    fn measure(&self) -> Result<Option<Measuring>, KernelError>;

    /// As [`Kernel::costs`].
    fn costs(&self) -> Vec<ProgramCost>;

    /// As [`Kernel::occupancy`].
    fn occupancy(&self) -> Option<Occupancy>;
}

impl<K: Kernel> KernelSide for Arc<K> {
    fn counters(&self) -> Result<Vec<(String, u64)>, KernelError> {
        Kernel::counters(self.as_ref())
    }

    fn look(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        Kernel::look(self.as_ref())
    }

    fn measure(&self) -> Result<Option<Measuring>, KernelError> {
        Kernel::measure(self.as_ref())
    }

    fn costs(&self) -> Vec<ProgramCost> {
        Kernel::costs(self.as_ref())
    }

    fn occupancy(&self) -> Option<Occupancy> {
        Kernel::occupancy(self.as_ref())
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Collector for Node {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.containers(&mut page)?;
        self.policies(&mut page)?;
        self.connection(&mut page)?;
        self.kernel(&mut page)?;
        page.counter(
            "log_lines_lost",
            "Lines of the log that stderr did not take in time",
            crate::log::lost(),
        )?;
        let threads = self.threads.iter().map(|(name, pulse)| (*name, pulse.age().as_secs_f64()));
        page.gauges(
            "thread_answer_age_seconds",
            "How long ago a thread gave a sign of life",
            "thread",
            threads,
        )
    }
}

impl Node {
    fn containers(&self, page: &mut Page<'_>) -> fmt::Result {
        let (states, gaps) = self.status.tally();
        let states = STATES.map(|(state, name)| (name, states.get(&state).copied().unwrap_or(0)));
        let help = "Containers by how they stand to their policies";
        page.gauges("containers", help, "state", states.into_iter().map(|(name, count)| (name, int(count))))?;
        page.gauge("container_gaps", "What of the policies of all containers is not enforced", int(gaps))
    }

    fn policies(&self, page: &mut Page<'_>) -> fmt::Result {
        let set = Arc::clone(&self.status.policies.borrow());
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        let ids = set.iter().map(Policy::id).chain(set.seccomp().iter().map(|policy| policy.id()));
        ids.for_each(|id| *kinds.entry(id.kind.to_string()).or_default() += 1);
        let kinds = kinds.iter().map(|(kind, count)| (kind.as_str(), int(*count)));
        page.gauges("policies", "Policies in force", "kind", kinds)?;
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for gap in set.iter().flat_map(Policy::gaps) {
            *reasons.entry(gap.reason.name()).or_default() += 1;
        }
        let reasons = reasons.iter().map(|(reason, count)| (reason.as_str(), int(*count)));
        page.gauges("policy_gaps", "What no node enforces of the policies in force", "reason", reasons)?;
        if let Some(api) = &self.status.api {
            let help = "Objects of the API server that are left out for want of room";
            let left_out = api.left_out().into_iter().map(|(kind, count)| (kind, int(count)));
            page.gauges("objects_left_out", help, "kind", left_out)?;
        }
        // not there while there are no policies of the API server's: no number would be true
        match self.status.api.as_ref().and_then(crate::api::Health::age) {
            Some(age) => {
                let help = "How long ago the policies in memory were known to be those of the API server; until it was \
                            read, since they were saved";
                page.gauge("policy_staleness_seconds", help, age.as_secs_f64())
            }
            None => Ok(()),
        }
    }

    fn connection(&self, page: &mut Page<'_>) -> fmt::Result {
        let connection = &self.status.connection;
        let wanted = !connection.is_without_nri();
        page.gauge("nri_wanted", "Whether the node has NRI, by configuration", i64::from(wanted))?;
        let connected = connection.has_runtime();
        page.gauge("nri_connected", "Whether there is a connection to the runtime", i64::from(connected))?;
        let help = "Whether it is known what runs: the runtime has told, or, without NRI, it was found";
        page.gauge("nri_synchronized", help, i64::from(connection.knows()))?;
        match self.status.injection.is_wanted() {
            true => {
                let help = "Whether containers that policies select get the OCI hook";
                let injected = self.status.injection.problem().is_none();
                page.gauge("hook_injected", help, i64::from(injected))
            }
            false => Ok(()),
        }
    }

    fn kernel(&self, page: &mut Page<'_>) -> fmt::Result {
        let counters = self.kernel.counters().unwrap_or_else(|error| {
            self.errors.inc();
            tracing::warn!(error = chain(&error), "cannot read the counters");
            Vec::new()
        });
        let of = |wanted: fn(&str) -> bool| {
            let counters = counters.iter().filter(move |(name, _)| wanted(name));
            counters.map(|(name, count)| (name.as_str(), *count))
        };
        page.counters(
            "kernel_operations",
            "What the programs in the kernel did",
            "kind",
            of(|name| NORMAL.contains(&name)),
        )?;
        let failures = of(|name| name != RING && name != RING_LOGS && !NORMAL.contains(&name));
        page.counters("kernel_failures", "What failed in the kernel, by place", "place", failures)?;
        if let Some((_, dropped)) = counters.iter().find(|(name, _)| name == RING) {
            page.counter("ring_dropped", "Events that the ring buffer had no room for", *dropped)?;
        }
        if let Some((_, dropped)) = counters.iter().find(|(name, _)| name == RING_LOGS) {
            let help = "Logs that the ring buffer had no room for, beside what is kept for alerts";
            page.counter("ring_logs_dropped", help, *dropped)?;
        }
        let Some(Occupancy { containers, rulesets }) = self.kernel.occupancy() else { return Ok(()) };
        let maps = [("containers", containers), ("rulesets", rulesets)];
        let used = maps.map(|(name, map)| (name, int(map.entries)));
        page.gauges("map_entries", "What the maps in the kernel hold", "map", used.into_iter())?;
        let limits = maps.map(|(name, map)| (name, int(map.limit)));
        page.gauges("map_limit", "What the maps in the kernel can hold", "map", limits.into_iter())
    }
}

/// The states of containers, and their labels.
const STATES: [(State, &str); 6] = [
    (State::Armed, "armed"),
    (State::PendingRestart, "pending_restart"),
    (State::NotCovered, "not_covered"),
    (State::Exempt, "exempt"),
    (State::NotSelected, "not_selected"),
    (State::Ended, "ended"),
];

/// A page of metrics in the making.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge<N: EncodeGaugeValue>(&mut self, name: &str, help: &str, value: N) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    fn gauges<'a, N: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (&'a str, N)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value, number) in values {
            ConstGauge::new(number).encode(metric.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    }

    fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (&'a str, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, number) in values {
            ConstCounter::new(number).encode(metric.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    }
}

fn int(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
