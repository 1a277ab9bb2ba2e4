//! The container that policies are asked about.

use std::collections::BTreeMap;

use serde::Serialize;

/// A container of a pod, as the runtime describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name; for reports, nothing selects by it.
    pub pod: String,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// The container's name within the pod.
    pub container: String,
}
