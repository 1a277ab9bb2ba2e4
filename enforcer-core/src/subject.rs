//! The container that policies are asked about, or the host.

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
    /// The host's own processes, which are in no container: then `labels` are those of the node, and the names are empty.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host: bool,
}

/// The label with the node's name.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

impl Subject {
    /// The processes of a host, by the labels of its node.
    #[must_use]
    pub fn of_host(labels: BTreeMap<String, String>) -> Self {
        Self { labels, host: true, ..Self::default() }
    }
}
