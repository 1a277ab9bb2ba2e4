//! What a cluster is told of a policy.

use serde_json::{Value, json};

use super::schema::{described, object, words};
use crate::policy::Kind;

/// The most gaps that a status lists.
const MAX_GAPS: usize = 100;

pub(super) fn schema() -> Value {
    let count = |text: &str| json!({"type": "integer", "format": "int32", "minimum": 0, "description": text});
    let text = |text: &str| json!({"type": "string", "description": text});
    let generation =
        |text: &str| json!({"type": "integer", "format": "int64", "minimum": 0, "description": text});
    let condition = object(
        [
            (
                "type",
                json!({"type": "string", "maxLength": 316, "description": "`Accepted`: the policy has no mistake. `Enforced`: no container that it selects is without it."}),
            ),
            ("status", words(["True", "False", "Unknown"])),
            ("observedGeneration", generation("The generation that this is about.")),
            ("lastTransitionTime", json!({"type": "string", "format": "date-time"})),
            (
                "reason",
                json!({"type": "string", "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"}),
            ),
            ("message", json!({"type": "string", "maxLength": 32768})),
        ],
        &["type", "status", "lastTransitionTime", "reason", "message"],
    );
    let gap = object(
        [
            ("field", text("Where it stands: `spec.network.matchDNSQueries[0]`.")),
            ("reason", text("Why it is not enforced.")),
            ("advice", text("What that means, and what to do.")),
            ("nodes", count("The nodes on which it is so.")),
        ],
        &["field", "reason"],
    );
    let schema = object(
        [
            ("status", text("KubeArmor's own word for it.")),
            ("observedGeneration", generation("The newest generation that was looked at.")),
            ("nodes", count("The nodes that have the policy.")),
            ("containers", count("The containers that it is enforced on.")),
            (
                "conditions",
                json!({"type": "array", "maxItems": 8, "items": condition, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
            ),
            (
                "gaps",
                json!({"type": "array", "maxItems": MAX_GAPS, "items": gap, "x-kubernetes-list-type": "atomic", "description": "What the policy says and nothing enforces."}),
            ),
        ],
        &[],
    );
    described(schema, "What has become of the policy.")
}

/// The columns of `kubectl get`; those of KubeArmor among them.
pub(super) fn columns(kind: Kind) -> Value {
    let condition = |name: &str| json!({"name": name, "type": "string", "jsonPath": format!(".status.conditions[?(@.type==\"{name}\")].status")});
    let selector = match kind {
        Kind::KubeArmorHostPolicy => ".spec.nodeSelector.matchLabels",
        Kind::KubeArmorClusterPolicy => ".spec.selector.matchExpressions",
        Kind::KubeArmorPolicy | Kind::KubeArmorSeccompPolicy => ".spec.selector.matchLabels",
    };
    json!([
        {"name": "Action", "type": "string", "jsonPath": ".spec.action"},
        {"name": "Selector", "type": "string", "jsonPath": selector, "priority": 10},
        condition("Accepted"),
        condition("Enforced"),
        {"name": "Nodes", "type": "integer", "jsonPath": ".status.nodes"},
        {"name": "Containers", "type": "integer", "jsonPath": ".status.containers"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ])
}
