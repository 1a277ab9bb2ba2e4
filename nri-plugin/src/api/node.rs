//! What the API server says about the node that the daemon is on.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

/// The labels of this node, by which host policies select it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NodeLabels {
    /// Nobody asks the API server for them.
    #[default]
    NotAsked,
    /// The API server has not told them yet, nor at an earlier start.
    Unknown,
    /// These, as told last.
    Known(Arc<BTreeMap<String, String>>),
}

#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    labels: BTreeMap<String, String>,
}

/// The labels of a node, from the document that is kept of it.
pub(super) fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let node: Result<Node, _> = serde_json::from_str(text);
    node.map(|node| node.metadata.labels).map_err(|error| format!("has labels that cannot be read: {error}"))
}
