//! What the chart makes, given to a server that checks it: the definitions, and the objects of the Prometheus operator.

use std::io::Write;
use std::process::{Command, Stdio};

use lab::cache::artefact;
use serde_json::{Value, json};

use super::server::Cluster;
use super::{calls, documents, files};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/chart");

/// The objects that helm makes of the chart with these values.
fn rendered(version: &str, values: &[&str]) -> Vec<Value> {
    let home = tempfile::tempdir().unwrap();
    let mut helm = Command::new(artefact(version).unwrap());
    helm.env_clear().env("HOME", home.path()).env("KUBECONFIG", "/dev/null");
    helm.args(["template", "demo", CHART, "--namespace", "security", "--set", "image.repository=x"]);
    for value in values {
        helm.args(["--set", value]);
    }
    let made = helm.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    documents(&String::from_utf8(made.stdout).unwrap())
}

/// The definitions come to a cluster by the chart, and the rules in them are in force there.
#[tokio::test(flavor = "multi_thread")]
async fn the_definitions_of_the_chart_refuse_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let client = cluster.client();
    for version in ["helm-3", "helm-4"] {
        let mut made = rendered(version, &[]);
        made.retain(|object| object["kind"] == "CustomResourceDefinition");
        assert_eq!(made.len(), 5, "{version}");
        client.define(&made).await;
    }
    client.apply(&files("right", "/x")).await;
    let mut neither = files("wrong", "/x");
    neither["spec"]["process"] = json!({"matchPaths": [{"ownerOnly": true}]});
    let mut nothing = files("wrong", "/x");
    nothing["spec"].as_object_mut().unwrap().remove("file");
    let mut unselected = calls("wrong", "mkdir");
    unselected["spec"].as_object_mut().unwrap().remove("selector");
    for (wrong, rule) in [
        (neither, "write either a `path`"),
        (nothing, "the policy has no rules"),
        (unselected, "write either a `selector` of pods"),
    ] {
        let (code, answer) = client.try_apply(&wrong).await;
        assert!(code == 422 && answer["message"].as_str().unwrap().contains(rule), "{code} {answer}");
    }
}

/// A definition of the operator's, with those of its fields that say what is scraped, how, and where it goes. By the
/// operator's API reference, monitoring.coreos.com/v1.
fn monitor(kind: &str, plural: &str, endpoints: &str, endpoint_fields: &Value) -> Value {
    let text = || json!({"type": "string"});
    let texts = || json!({"type": "array", "items": {"type": "string"}});
    let duration = || json!({"type": "string", "pattern": "^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"});
    let relabelings = json!({"type": "array", "items": {"type": "object", "properties": {
        "sourceLabels": {"type": "array", "items": {"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"}},
        "separator": text(), "targetLabel": text(), "regex": text(), "replacement": text(),
        "modulus": {"type": "integer"},
        "action": {"type": "string", "enum": [
            "replace", "Replace", "keep", "Keep", "drop", "Drop", "hashmod", "HashMod", "labelmap", "LabelMap",
            "labeldrop", "LabelDrop", "labelkeep", "LabelKeep", "lowercase", "Lowercase", "uppercase", "Uppercase",
            "keepequal", "KeepEqual", "dropequal", "DropEqual",
        ]},
    }}});
    let mut endpoint = json!({
        "path": text(), "scheme": {"type": "string", "enum": ["http", "https", "HTTP", "HTTPS"]},
        "params": {"type": "object", "additionalProperties": texts()},
        "interval": duration(), "scrapeTimeout": duration(),
        "honorLabels": {"type": "boolean"}, "honorTimestamps": {"type": "boolean"},
        "followRedirects": {"type": "boolean"}, "filterRunning": {"type": "boolean"},
        "relabelings": relabelings, "metricRelabelings": relabelings,
    });
    endpoint.as_object_mut().unwrap().extend(endpoint_fields.as_object().unwrap().clone());
    let selector = json!({"type": "object", "properties": {
        "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
        "matchExpressions": {"type": "array", "items": {"type": "object", "required": ["key", "operator"], "properties": {
            "key": text(), "operator": text(), "values": texts(),
        }}},
    }});
    let spec = json!({"type": "object", "required": ["selector", endpoints], "properties": {
        "jobLabel": text(), "podTargetLabels": texts(), "selector": selector,
        "namespaceSelector": {"type": "object", "properties": {"any": {"type": "boolean"}, "matchNames": texts()}},
        "sampleLimit": {"type": "integer"}, "targetLimit": {"type": "integer"},
        endpoints: {"type": "array", "items": {"type": "object", "properties": endpoint}},
    }});
    definition(kind, plural, &spec)
}

fn definition(kind: &str, plural: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.monitoring.coreos.com")},
        "spec": {
            "group": "monitoring.coreos.com", "scope": "Namespaced",
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "required": ["spec"], "properties": {"spec": spec},
            }}}],
        },
    })
}

/// The operator's definition of alerts, by the same reference.
fn rules() -> Value {
    let text = || json!({"type": "string"});
    let texts = || json!({"type": "object", "additionalProperties": {"type": "string"}});
    let duration = || json!({"type": "string", "pattern": "^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"});
    let rule = json!({"type": "object", "required": ["expr"], "properties": {
        "alert": text(), "record": text(), "expr": {"x-kubernetes-int-or-string": true},
        "for": duration(), "keep_firing_for": duration(), "labels": texts(), "annotations": texts(),
    }});
    let group = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "minLength": 1}, "interval": duration(), "labels": texts(), "limit": {"type": "integer"},
        "rules": {"type": "array", "items": rule},
    }});
    let spec = json!({"type": "object", "properties": {"groups": {"type": "array", "items": group}}});
    definition("PrometheusRule", "prometheusrules", &spec)
}

/// Fields that the operator does not know it would leave out without a word, and nothing would be scraped as it was meant.
#[tokio::test(flavor = "multi_thread")]
async fn the_prometheus_operator_knows_every_field() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let client = cluster.client();
    let (text, number) = (json!({"type": "string"}), json!({"type": "integer"}));
    let either = json!({"x-kubernetes-int-or-string": true});
    let of_pods = json!({"port": text, "portNumber": number, "targetPort": either});
    let of_services = json!({"port": text, "targetPort": either});
    let definitions = [
        monitor("PodMonitor", "podmonitors", "podMetricsEndpoints", &of_pods),
        monitor("ServiceMonitor", "servicemonitors", "endpoints", &of_services),
        rules(),
    ];
    client.define(&definitions).await;
    let made = rendered(
        "helm-3",
        &[
            "metrics.podMonitor.enabled=true",
            "metrics.serviceMonitor.enabled=true",
            "metrics.rules.enabled=true",
            "crds.install=false",
        ],
    );
    for (kind, plural, field) in [
        ("PodMonitor", "podmonitors", "selector"),
        ("ServiceMonitor", "servicemonitors", "selector"),
        ("PrometheusRule", "prometheusrules", "groups"),
    ] {
        let object = made.iter().find(|object| object["kind"] == kind).unwrap();
        let name = object["metadata"]["name"].as_str().unwrap();
        let path = format!(
            "/apis/monitoring.coreos.com/v1/namespaces/security/{plural}/{name}?fieldManager=test&fieldValidation=Strict"
        );
        let kinds = ["application/apply-patch+yaml", "application/json"];
        let (code, answer) = client.send("PATCH", &path, kinds, Some(object)).await;
        assert_eq!(code, 201, "{answer}");
        let mut misspelt = object.clone();
        let wrong = format!("{field}_");
        misspelt["spec"][&wrong] = misspelt["spec"][field].clone();
        let (code, answer) = client.send("PATCH", &path, kinds, Some(&misspelt)).await;
        assert!(code >= 400 && answer["message"].as_str().unwrap().contains(&wrong), "{code} {answer}");
    }
    // the port that is named is one of the pod's, and the labels are those of the pods and of the service
    let labels_of = |object: &Value| object["metadata"]["labels"].as_object().unwrap().clone();
    let set = made.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    let pod = &set["spec"]["template"];
    let service = made
        .iter()
        .find(|one| one["kind"] == "Service" && one["spec"]["ports"][0]["name"] == "metrics")
        .unwrap();
    for (kind, endpoints, labels, ports) in [
        ("PodMonitor", "podMetricsEndpoints", labels_of(pod), &pod["spec"]["containers"][0]["ports"]),
        ("ServiceMonitor", "endpoints", labels_of(service), &service["spec"]["ports"]),
    ] {
        let spec = &made.iter().find(|object| object["kind"] == kind).unwrap()["spec"];
        let wanted = spec["selector"]["matchLabels"].as_object().unwrap();
        assert!(
            wanted.iter().all(|(key, value)| labels.get(key) == Some(value)),
            "{kind}: {wanted:?} {labels:?}"
        );
        let port = &spec[endpoints][0]["port"];
        assert!(
            ports.as_array().unwrap().iter().any(|one| one["name"] == *port),
            "{kind}: {port} of {ports}"
        );
    }
}

/// What the API server's own code says to writes of reports under the policy of the chart: whether it lets each pass.
fn admits(policy: &Value, writes: &[(&str, &[&str], &str)]) -> Vec<bool> {
    let write = |(user, nodes, name): &(&str, &[&str], &str)| {
        let mut extra = json!({"authentication.kubernetes.io/pod-name": ["nri-enforcer-x"]});
        if !nodes.is_empty() {
            extra["authentication.kubernetes.io/node-name"] = json!(nodes);
        }
        json!({"user": user, "extra": extra, "object": {
            "apiVersion": "nri-enforcer.io/v1alpha1", "kind": "NodePolicyReport", "metadata": {"name": name},
        }})
    };
    let writes: Vec<Value> = writes.iter().map(write).collect();
    let asked = json!({"policy": policy, "resource": "nodepolicyreports", "writes": writes}).to_string();
    let mut server = Command::new(artefact("crdserver").unwrap());
    let mut server = server.arg("admit").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    server.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
    let answered = server.wait_with_output().unwrap();
    assert!(answered.status.success());
    let answers: Vec<Value> = serde_json::from_slice(&answered.stdout).unwrap();
    assert_eq!(answers.len(), writes.len());
    for answer in &answers {
        assert_eq!(answer["errors"], json!([]), "an expression that fails, and does not deny");
    }
    answers.iter().map(|answer| answer["denied"] == json!([])).collect()
}

/// A daemon that was taken over, or its token, cannot tell for other nodes.
#[test]
fn a_daemon_writes_the_report_of_its_own_node_alone() {
    let made = rendered("helm-4", &["policies.protectReports=true", "serviceAccount.name=daemon"]);
    let policy = made.iter().find(|object| object["kind"] == "ValidatingAdmissionPolicy").unwrap();
    let binding = made.iter().find(|object| object["kind"] == "ValidatingAdmissionPolicyBinding").unwrap();
    assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    let daemon = "system:serviceaccount:security:daemon";
    let writes: [(&str, &[&str], &str); 6] = [
        (daemon, &["node-1"], "node-1"),
        (daemon, &["node-1"], "node-2"),
        (daemon, &["node-2", "node-1"], "node-1"),
        // a token that is bound to no pod
        (daemon, &[], "node-1"),
        ("system:serviceaccount:other:daemon", &["node-1"], "node-2"),
        ("admin", &[], "node-2"),
    ];
    assert_eq!(admits(policy, &writes), [true, false, false, false, true, true]);
}
