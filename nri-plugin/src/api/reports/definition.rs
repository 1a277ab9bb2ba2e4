//! The kind of object in which a node tells how policies stand on it.

use serde_json::{Value, json};

/// The kind.
pub const KIND: &str = "NodePolicyReport";
/// What the API calls its objects.
pub const PLURAL: &str = "nodepolicyreports";
/// Its group.
pub const GROUP: &str = "nri-enforcer.io";
/// Its version.
pub const VERSION: &str = "v1alpha1";

/// The path of all reports.
pub(super) fn path() -> String {
    format!("/apis/{GROUP}/{VERSION}/{PLURAL}")
}

/// The custom resource definition: `apiextensions.k8s.io/v1`, with a structural schema.
#[must_use]
pub fn crd() -> Value {
    let count = |text: &str| json!({"type": "integer", "format": "int32", "minimum": 0, "description": text});
    let text = |text: &str| json!({"type": "string", "description": text});
    let gap = json!({
        "type": "object",
        "required": ["field", "reason"],
        "properties": {
            "field": text("Where it stands."),
            "reason": text("Why it is not enforced."),
            "advice": text("What happens instead, and what to do."),
        },
    });
    let policy = json!({
        "type": "object",
        "required": ["kind", "name", "uid", "generation"],
        "properties": {
            "kind": text("Its kind."),
            "namespace": text("Its namespace, where it has one."),
            "name": text("Its name."),
            "uid": text("Tells it from an earlier policy of the same name."),
            "generation": {"type": "integer", "format": "int64", "minimum": 0, "description": "The generation that this is about."},
            "containers": count("The containers that it is enforced on."),
            "uncovered": count("The containers that it selects, and that are without it."),
            "reason": text("Why, of the first of these."),
            "refused": text("What is wrong with it."),
            "older": {"type": "boolean", "description": "What is in force is an older version of it."},
            "overridden": {"type": "boolean", "description": "A policy in a directory of the node counts in its place."},
            "unheld": {"type": "boolean", "description": "No lock of the node holds any of it: a container that it selects there is without it."},
            "gaps": {"type": "array", "items": gap, "x-kubernetes-list-type": "atomic", "description": "What it says and nothing enforces on the node."},
        },
    });
    let schema = json!({
        "type": "object",
        "description": "How policies stand on the node of the same name. Its daemon writes it, and no one else.",
        "required": ["renewTime", "policies"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "renewTime": {"type": "string", "format": "date-time", "description": "When the daemon wrote it. A report that is not renewed for half an hour does not count."},
            "daemon": {
                "type": "object",
                "properties": {
                    "version": text("Its version."),
                    "lock": text("What holds the rules: bpf, apparmor, bpf+apparmor, selinux (of policies on the host alone) or none."),
                    "connected": {"type": "boolean", "description": "Whether it knows what runs: by its connection to the runtime, or on a node without NRI by what it finds."},
                },
            },
            "total": count("The policies of the API server that the node knows."),
            "uncovered": count("Those of them that some container is without."),
            "omitted": count("Those for which there is no room here."),
            "policies": {"type": "array", "items": policy, "x-kubernetes-list-type": "atomic"},
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{PLURAL}.{GROUP}")},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": format!("{KIND}List"),
                "plural": PLURAL,
                "singular": KIND.to_ascii_lowercase(),
                "shortNames": ["npr"],
            },
            "scope": "Cluster",
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "additionalPrinterColumns": [
                    {"name": "Lock", "type": "string", "jsonPath": ".daemon.lock"},
                    {"name": "Connected", "type": "boolean", "jsonPath": ".daemon.connected"},
                    {"name": "Policies", "type": "integer", "jsonPath": ".total"},
                    {"name": "Uncovered", "type": "integer", "jsonPath": ".uncovered"},
                    {"name": "Renewed", "type": "date", "jsonPath": ".renewTime"},
                ],
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}
