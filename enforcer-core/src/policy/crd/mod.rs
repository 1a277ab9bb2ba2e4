//! Policies as objects of a cluster: the custom resource definitions, made of the tables that the parser itself reads by.
//!
//! What a schema admits and the parser refuses is refused by the parser still; the other way round must not be. Three things
//! are stricter than the parser, since an API server and KubeArmor's own definitions are so as well: a field without a value
//! (`null`) is refused, a path has at most [`MAX_PATH_LEN`](crate::path::MAX_PATH_LEN) characters as it is written, and white
//! space around protocols and ports is that of ASCII.

mod rules;
mod schema;
mod seccomp;
mod status;

use serde_json::{Value, json};

use self::schema::{at_most, described, object, texts, words};
use super::Kind;
use super::names::{CONTAINER_NAME, IGNORED_LABELS};

const GROUP: &str = "security.kubearmor.com";
const VERSION: &str = "v1";

/// The custom resource definition of a kind: `apiextensions.k8s.io/v1`, with a structural schema. Its file is
/// `manifests/crds/PLURAL.yaml`; see [`crd_plural`].
#[must_use]
pub fn crd(kind: Kind) -> Value {
    let (plural, short, _) = names(kind);
    let spec = match kind {
        Kind::KubeArmorSeccompPolicy => seccomp::spec(selector(kind)),
        _ => rules::spec(kind, selector(kind)),
    };
    let schema = object(
        [
            ("apiVersion", json!({"type": "string"})),
            ("kind", json!({"type": "string"})),
            ("metadata", json!({"type": "object"})),
            ("spec", spec),
            ("status", status::schema()),
        ],
        &["spec"],
    );
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}")},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.as_str(),
                "listKind": format!("{}List", kind.as_str()),
                "plural": plural,
                "singular": kind.as_str().to_ascii_lowercase(),
                "shortNames": [short],
            },
            "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": status::columns(kind),
                "schema": {"openAPIV3Schema": described(schema, names(kind).2)},
            }],
        },
    })
}

/// What the API calls the kind's objects: `kubearmorpolicies`.
#[must_use]
pub const fn crd_plural(kind: Kind) -> &'static str {
    names(kind).0
}

/// Plural, short name, description. The first three are KubeArmor's.
const fn names(kind: Kind) -> (&'static str, &'static str, &'static str) {
    match kind {
        Kind::KubeArmorPolicy => {
            ("kubearmorpolicies", "ksp", "What the containers of a namespace's pods may do.")
        }
        Kind::KubeArmorClusterPolicy => {
            ("kubearmorclusterpolicies", "csp", "What the containers of a cluster's pods may do.")
        }
        Kind::KubeArmorHostPolicy => (
            "kubearmorhostpolicies",
            "hsp",
            "What the host's own processes may do, on nodes whose daemon runs with `--host-policies`.",
        ),
        Kind::KubeArmorSeccompPolicy => (
            "kubearmorseccomppolicies",
            "kscmp",
            "Which system calls the containers of a namespace's pods may make, by seccomp.",
        ),
    }
}

/// `selector`, or `nodeSelector`.
fn selector(kind: Kind) -> (&'static str, Value) {
    let whose = match kind {
        Kind::KubeArmorHostPolicy => {
            "a node must have, all of them: those of its daemon's configuration, `kubernetes.io/hostname`, `kubernetes.io/arch` \
             and `kubernetes.io/os`. `kubearmor.io/hostname: \"a,b\"` names hosts."
                .to_owned()
        }
        _ => format!("a pod must have, all of them. `{CONTAINER_NAME}: \"[a,b]\"` narrows to containers."),
    };
    let labels = json!({
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": format!("Labels that {whose}"),
        "x-kubernetes-validations": IGNORED_LABELS.map(|label| json!({
            "rule": format!("!('{label}' in self)"),
            "message": format!("nothing is selected by the label `{label}`, which a controller sets anew with every rollout"),
        })),
    });
    match kind {
        Kind::KubeArmorHostPolicy => (
            "nodeSelector",
            described(object([("matchLabels", labels)], &[]), "Which nodes; `{}` selects every node."),
        ),
        Kind::KubeArmorClusterPolicy => (
            "selector",
            described(
                object([("matchExpressions", expressions(kind))], &[]),
                "Which pods; `{}` selects every pod of the cluster.",
            ),
        ),
        Kind::KubeArmorPolicy | Kind::KubeArmorSeccompPolicy => (
            "selector",
            described(
                object([("matchLabels", labels), ("matchExpressions", expressions(kind))], &[]),
                "Which pods; `{}` selects every pod of the namespace.",
            ),
        ),
    }
}

fn expressions(kind: Kind) -> Value {
    let keys: &[&str] = if kind.namespaced() { &["label"] } else { &["namespace", "label"] };
    let fixed = IGNORED_LABELS.iter().chain([&CONTAINER_NAME]).map(|label| label.replace('.', "[.]"));
    let label = json!({
        "pattern": "^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?=([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$",
        "not": {"pattern": format!("^({})=", fixed.collect::<Vec<_>>().join("|"))},
    });
    let mut item = object(
        [
            ("key", described(words(keys.iter().copied()), "What is compared.")),
            (
                "operator",
                described(words(["In", "NotIn"]), "`In`: one of the values holds. `NotIn`: none does."),
            ),
            (
                "values",
                described(
                    at_most(texts(json!({"type": "string"})), None),
                    "Labels as `key=value`, or names of namespaces.",
                ),
            ),
        ],
        &["key", "operator", "values"],
    );
    let only_labels = json!({"properties": {"values": {"items": label}}});
    let (word, rule) = match kind.namespaced() {
        true => ("allOf", json!([only_labels])),
        false => ("anyOf", json!([{"properties": {"key": {"enum": ["namespace"]}}}, only_labels])),
    };
    if let Some(item) = item.as_object_mut() {
        item.insert(word.to_owned(), rule);
    }
    json!({"type": "array", "items": item, "description": "What must hold beside the labels, all of them."})
}

#[cfg(test)]
pub(super) mod tests;
