//! Metrics and health: counted where things happen, or looked up when somebody asks, and served over HTTP (`--metrics`).
//!
//! Names and labels are part of what the daemon promises: dashboards and alerts are made of them. Everything is encoded
//! as OpenMetrics, in which the names of counters end in `_total`.

pub mod health;
pub mod node;
mod process;
pub mod serve;
pub mod timed;
pub mod verdicts;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use self::verdicts::Verdicts;
use crate::top::tally::Tally;

/// How the names of all metrics begin that are not about the process as such.
pub const PREFIX: &str = "nri_enforcer";
/// Upper bounds of the histograms, in seconds: a runtime waits two seconds for a plugin by default.
const SECONDS: [f64; 12] = [0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5];

/// A request of the runtime, by what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// The handler.
    pub handler: &'static str,
    /// `ok` or `refused`.
    pub outcome: &'static str,
}

/// A question of the OCI hook, by its answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Question {
    /// The stage at which the hook asks; `unknown` where the message makes no sense.
    pub stage: &'static str,
    /// The answer, or `none`.
    pub answer: &'static str,
}

/// A write to the API server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiWrite {
    /// What is written: `report`, `lease`, `status` or `event`.
    pub object: &'static str,
    /// `ok` or `failed`.
    pub outcome: &'static str,
}

/// What is counted where it happens. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Denials and audited accesses.
    pub verdicts: Verdicts,
    /// The same by container, for `top`.
    pub tally: Tally,
    /// How long the runtime waited.
    pub requests: Family<Request, Histogram, fn() -> Histogram>,
    /// How long the OCI hook waited.
    pub questions: Family<Question, Histogram, fn() -> Histogram>,
    /// Connections to the runtime that got as far as registration.
    pub registrations: Counter,
    /// What is wrong with the policies as they were read last.
    pub problems: Gauge,
    /// When the policies in force changed last, in seconds since 1970.
    pub changed: Gauge,
    /// Lines of alerts that were written.
    pub written: Counter,
    /// Alerts that were not written; a lost summary is as many as it stands for.
    pub lost: Counter,
    /// Audit records that were not read, each perhaps a denial.
    pub audit_lost: Counter,
    /// Alerts that are told by a summary alone.
    pub summarized: Counter,
    /// Accesses that were reported only because they are to be seen.
    pub observed: Counter,
    /// Lines of logs that were written.
    pub logs_written: Counter,
    /// Logs that were not written; a lost summary is as many as it stands for.
    pub logs_lost: Counter,
    /// Logs that are told by a summary alone.
    pub logs_summarized: Counter,
    /// What could not be read while a page of metrics was made.
    pub scrape_errors: Counter,
    /// What was written to the API server.
    pub api_writes: Family<ApiWrite, Counter>,
    /// Refused starts of which no event tells.
    pub events_lost: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        Self {
            verdicts: Verdicts::default(),
            tally: Tally::default(),
            requests: Family::new_with_constructor(seconds),
            questions: Family::new_with_constructor(seconds),
            registrations: Counter::default(),
            problems: Gauge::default(),
            changed: Gauge::default(),
            written: Counter::default(),
            lost: Counter::default(),
            audit_lost: Counter::default(),
            summarized: Counter::default(),
            observed: Counter::default(),
            logs_written: Counter::default(),
            logs_lost: Counter::default(),
            logs_summarized: Counter::default(),
            scrape_errors: Counter::default(),
            api_writes: Family::default(),
            events_lost: Counter::default(),
        }
    }
}

impl Metrics {
    /// Notes that the policies were read, with so many problems. `changed`: others are in force than before.
    pub fn read_policies(&self, problems: usize, changed: bool) {
        self.problems.set(i64::try_from(problems).unwrap_or(i64::MAX));
        if changed {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            self.changed.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        }
    }

    /// Everything that is told to whoever asks. What else there is to tell can be registered with it.
    #[must_use]
    pub fn registry(&self) -> Registry {
        let mut all = Registry::default();
        all.register_collector(Box::new(process::Process));
        let registry = all.sub_registry_with_prefix(PREFIX);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);
        registry.register_collector(Box::new(self.verdicts.clone()));
        registry.register(
            "nri_request_duration_seconds",
            "How long requests of the runtime took",
            self.requests.clone(),
        );
        registry.register(
            "gate_question_duration_seconds",
            "How long questions of the OCI hook took",
            self.questions.clone(),
        );
        let counters = [
            (
                "nri_registrations",
                "Connections to the runtime that got as far as registration",
                &self.registrations,
            ),
            ("alerts_written", "Lines of alerts that were written", &self.written),
            ("alerts_lost", "Alerts that were not written", &self.lost),
            ("audit_records_lost", "Audit records of the kernel that were not read", &self.audit_lost),
            ("alerts_summarized", "Alerts that are told by a summary alone", &self.summarized),
            ("observations", "Accesses that are reported only because they are to be seen", &self.observed),
            ("logs_written", "Lines of logs that were written", &self.logs_written),
            ("logs_lost", "Logs that were not written", &self.logs_lost),
            ("logs_summarized", "Logs that are told by a summary alone", &self.logs_summarized),
            ("api_events_lost", "Refused starts of which no event tells", &self.events_lost),
            ("scrape_errors", "What could not be read while this page was made", &self.scrape_errors),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("api_writes", "What was written to the API server", self.api_writes.clone());
        registry.register(
            "policy_problems",
            "What is wrong with the policies as they were read last",
            self.problems.clone(),
        );
        registry.register(
            "policies_changed_timestamp_seconds",
            "When the policies in force changed last",
            self.changed.clone(),
        );
        all
    }
}

#[cfg(test)]
mod tests;
