//! Denials and audited accesses by policy and rule. Whoever may write policies chooses these labels, so there is a bound.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::alert::Alert;

/// How many series there are at most, some 300 bytes each. Verdicts of others are counted as [`OTHER`].
pub const SERIES: usize = 1000;
/// Stands for every label of a verdict but operation and action, where there are too many of them.
pub const OTHER: &str = "(other)";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    namespace: String,
    policy_namespace: String,
    policy: String,
    rule: String,
    operation: &'static str,
    action: &'static str,
}

#[derive(Debug, Default)]
struct Counts {
    series: HashMap<Labels, u64>,
    folded: u64,
}

/// The counts. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Verdicts(Arc<Mutex<Counts>>);

impl Verdicts {
    /// Counts what an alert tells.
    pub fn count(&self, alert: &Alert) {
        let labels = Labels {
            namespace: alert.namespace_name.clone(),
            policy_namespace: alert.policy_namespace.clone(),
            policy: alert.policy_name.clone(),
            rule: alert.rule.clone(),
            operation: alert.operation,
            action: alert.action,
        };
        let mut counts = self.counts();
        if let Some(count) = counts.series.get_mut(&labels) {
            *count += 1;
            return;
        }
        if counts.series.len() < SERIES {
            counts.series.insert(labels, 1);
            return;
        }
        let other = || OTHER.to_owned();
        let Labels { operation, action, .. } = labels;
        let folded = Labels {
            namespace: other(),
            policy_namespace: other(),
            policy: other(),
            rule: other(),
            operation,
            action,
        };
        *counts.series.entry(folded).or_insert(0) += 1;
        counts.folded += 1;
    }

    // numbers are whole after a panic, too
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Verdicts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.counts();
        let help = "Denials and audited accesses";
        let mut metric = encoder.encode_descriptor("verdicts", help, None, MetricType::Counter)?;
        for (labels, count) in &counts.series {
            ConstCounter::new(*count).encode(metric.encode_family(labels)?)?;
        }
        let help = "Verdicts that are counted as (other), since there were too many series";
        let metric = encoder.encode_descriptor("verdicts_folded", help, None, MetricType::Counter)?;
        ConstCounter::new(counts.folded).encode(metric)
    }
}
