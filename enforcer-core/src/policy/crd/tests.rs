mod server;

use std::fs;
use std::path::Path;

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::*;
use crate::policy::parse;

/// Every document of a text that is a policy, as it is sent to a server.
fn objects(text: &str) -> Vec<Value> {
    let documents =
        serde_yaml::Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap());
    documents.filter(|document| !document.is_null()).map(full).collect()
}

/// The short form of a seccomp policy, which is for files alone, as an object.
fn full(mut document: Value) -> Value {
    if document.get("spec").is_some() || document.get("metadata").is_some() {
        return document;
    }
    let fields = document.as_object_mut().unwrap();
    let mut take = |name: &str| fields.remove(name);
    let (kind, name, namespace, app) = (take("kind"), take("name"), take("namespace"), take("app"));
    take("apiVersion");
    if let Some(app) = app {
        fields.insert("selector".to_owned(), json!({"matchLabels": {"app": app}}));
    }
    json!({
        "apiVersion": "security.kubearmor.com/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": document,
    })
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(fields) => fields.values().any(has_null),
        value => value.is_null(),
    }
}

fn validate(object: &Value) -> Vec<String> {
    let kind = Kind::ALL.into_iter().find(|kind| object["kind"] == kind.as_str()).unwrap();
    let crd = crd(kind);
    server::validate(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], object)
}

/// Called with every text that a test of the parser finds to be good: an API server must take it, too. What has a field
/// without a value is left out; a server refuses that, and KubeArmor's definitions do.
pub(in crate::policy) fn assert_admitted(text: &str) {
    for object in objects(text) {
        let spec = &object["spec"];
        if !has_null(spec) {
            assert_eq!(validate(&object), Vec::<String>::new(), "{spec:#}");
        }
    }
}

#[test]
fn the_example_policies_are_admitted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policies");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(objects(&text).iter().all(|object| !has_null(&object["spec"])));
        assert_admitted(&text);
        seen += objects(&text).len();
    }
    assert!(seen > 20, "{seen} policies");
}

fn policy(kind: &str, spec: &str) -> String {
    format!("apiVersion: security.kubearmor.com/v1\nkind: {kind}\nmetadata: {{name: p}}\nspec: {spec}\n")
}

/// For both the schema and the parser: refused, and by the schema with this message.
fn refused(kind: &str, spec: &str, message: &str) {
    let text = policy(kind, spec);
    assert!(!parse("f", &text).errors.is_empty(), "the parser takes {spec}");
    let found = objects(&text).iter().flat_map(validate).collect::<Vec<_>>();
    assert!(found.iter().any(|found| found.contains(message)), "{spec}\n{found:?}");
}

#[test]
fn mistakes_are_refused() {
    let path = |rule: &str| format!("{{selector: {{}}, file: {{matchPaths: [{rule}]}}}}");
    let process = |rule: &str| format!("{{selector: {{}}, process: {{matchPaths: [{rule}]}}}}");
    for (spec, message) in [
        ("{file: {matchPaths: [{path: /x}]}}".to_owned(), ".spec: \"selector\" is required"),
        ("{selector: {}}".to_owned(), ".spec: the policy has no rules"),
        ("{selector: {}, file: {matchPaths: []}}".to_owned(), ".spec: the policy has no rules"),
        ("{selector: {}, apparmor: ' '}".to_owned(), ".spec: the policy has no rules"),
        ("{selector: {}, file: {matchPath: [{path: /x}]}}".to_owned(), "unknown field `matchPath`"),
        (path("{path: x}"), ".path: `x` does not match"),
        (path("{path: /x/}"), ".path: `/x/` does not match"),
        (path("{path: /x/../y}"), ".path: what it must not be"),
        (path("{path: /x, action: audit}"), "\"audit\" is not supported"),
        (path("{path: /x, severity: 11}"), "11 is out of bounds"),
        (path("{path: /x, severity: 0}"), "0 is out of bounds"),
        (path("{path: /x, severity: '1'}"), "must be of type integer"),
        (path("{path: /x, fromSource: []}"), "0 items"),
        (path("{path: /x, fromSource: [{}]}"), "\"path\" is required"),
        (path("{path: /x, allowedArgs: [a]}"), "unknown field `allowedArgs`"),
        (path("{readOnly: true}"), "\"path\" is required"),
        (path(&format!("{{path: /{}}}", "x".repeat(MAX_PATH))), "too long"),
        (process("{path: /x, execname: x}"), "write either a `path`"),
        (process("{ownerOnly: true}"), "write either a `path`"),
        (process("{execname: a/b}"), "`a/b` does not match"),
        (process("{execname: '..'}"), "what it must not be"),
        (process("{path: /x, allowedArgs: []}"), "0 items"),
        (process(&format!("{{path: /x, allowedArgs: [{}]}}", ["a"; 21].join(","))), "21 items"),
        ("{selector: {}, file: {matchDirectories: [{dir: /x}]}}".to_owned(), "`/x` does not match"),
        ("{selector: {}, file: {matchPatterns: [{pattern: '*.key'}]}}".to_owned(), "does not match"),
        ("{selector: {}, network: {matchProtocols: [{protocol: 'tcp,upd'}]}}".to_owned(), "does not match"),
        ("{selector: {}, network: {matchProtocols: [{protocol: xtcp}]}}".to_owned(), "does not match"),
        ("{selector: {}, network: {matchDestinations: [{pts: false}]}}".to_owned(), "none of anyOf"),
        ("{selector: {}, network: {matchDestinations: [{cidr: example.com}]}}".to_owned(), "does not match"),
        ("{selector: {}, network: {matchListeners: [{ports: []}]}}".to_owned(), "0 items"),
        ("{selector: {}, network: {matchListeners: [{ports: 70000}]}}".to_owned(), "out of bounds"),
        ("{selector: {}, network: {matchListeners: [{ports: 1.5}]}}".to_owned(), "out of bounds"),
        ("{selector: {}, network: {matchListeners: [{ports: http}]}}".to_owned(), "does not match"),
        ("{selector: {}, network: {matchListeners: [{ports: [http]}]}}".to_owned(), "does not match"),
        ("{selector: {}, network: {matchListeners: [{ports: [[[80]]]}]}}".to_owned(), "integer or string"),
        ("{selector: {}, capabilities: {matchCapabilities: [{capability: foonet_raw}]}}".to_owned(), "does not match"),
        ("{selector: {}, syscalls: {matchSyscalls: [{syscall: [unlnik]}]}}".to_owned(), "\"unlnik\" is not supported"),
        ("{selector: {}, syscalls: {matchSyscalls: [{syscall: []}]}}".to_owned(), "0 items"),
        ("{selector: {}, syscalls: {action: Block, matchSyscalls: [{syscall: [kill]}]}}".to_owned(), "\"Block\" is not supported"),
        ("{selector: {}, syscalls: {matchSyscalls: [{syscall: [kill], fromSource: [{path: /a, dir: /b/}]}]}}".to_owned(), "not one of oneOf"),
        ("{selector: {}, presets: [{name: filelesExec}]}".to_owned(), "\"filelesExec\" is not supported"),
        ("{selector: {}, presets: [{name: exec, action: Allow}]}".to_owned(), "\"Allow\" is not supported"),
        ("{selector: {}, device: {matchDevice: [{class: x}]}}".to_owned(), "unknown field `device`"),
        ("{selector: {matchLabels: {pod-template-hash: x}}, presets: [{name: exec}]}".to_owned(), "nothing is selected by the label"),
        ("{selector: {matchExpressions: [{key: app, operator: In, values: [a=b]}]}, presets: [{name: exec}]}".to_owned(), "\"app\" is not supported"),
        ("{selector: {matchExpressions: [{key: label, operator: Is, values: [a=b]}]}, presets: [{name: exec}]}".to_owned(), "\"Is\" is not supported"),
        ("{selector: {matchExpressions: [{key: label, operator: In, values: [b]}]}, presets: [{name: exec}]}".to_owned(), "not all of allOf"),
        ("{selector: {matchExpressions: [{key: label, operator: In, values: []}]}, presets: [{name: exec}]}".to_owned(), "0 items"),
    ] {
        refused("KubeArmorPolicy", &spec, message);
    }
    let cluster =
        "{selector: {matchExpressions: [{key: label, operator: In, values: [b]}]}, presets: [{name: exec}]}";
    refused("KubeArmorClusterPolicy", cluster, "none of anyOf");
    refused(
        "KubeArmorHostPolicy",
        "{selector: {}, file: {matchPaths: [{path: /x}]}}",
        "unknown field `selector`",
    );
    refused(
        "KubeArmorHostPolicy",
        "{nodeSelector: {}, device: {matchDevice: [{level: 1}]}}",
        "\"class\" is required",
    );
}

const MAX_PATH: usize = crate::path::MAX_PATH_LEN;

#[test]
fn mistakes_in_seccomp_policies_are_refused() {
    for (spec, message) in [
        ("{syscalls: [read]}", "write either a `selector`"),
        ("{selector: {}, services: [nginx], syscalls: [read]}", "write either a `selector`"),
        ("{services: [], syscalls: [read]}", "0 items"),
        ("{services: [a/b], syscalls: [read]}", "`a/b` does not match"),
        ("{selector: {}, syscalls: []}", "0 items"),
        ("{selector: {}, syscalls: [raed]}", "`raed` does not match"),
        ("{selector: {}, syscalls: ['@nothing']}", "`@nothing` does not match"),
        ("{selector: {}, syscalls: ['read:ENOTHING']}", "does not match"),
        ("{selector: {}, syscalls: [{action: Allow}]}", "none of anyOf"),
        ("{selector: {}, syscalls: [{names: []}]}", "0 items"),
        ("{selector: {}, syscalls: [{name: raed}]}", "`raed` does not match"),
        ("{selector: {}, syscalls: [{name: read, args: [{index: 6, value: 1}]}]}", "6 is out of bounds"),
        ("{selector: {}, syscalls: [{name: read, args: [{index: 0, value: x}]}]}", "`x` does not match"),
        (
            "{selector: {}, syscalls: [{name: read, args: [{index: 0, value: 1, op: '='}]}]}",
            "\"=\" is not supported",
        ),
        ("{selector: {}, syscalls: [{name: read, args: [{index: 0}]}]}", "\"value\" is required"),
        ("{selector: {}, arch: [vax], syscalls: [read]}", "\"vax\" is not supported"),
        ("{selector: {}, errno: 4096, syscalls: [read]}", "4096 is out of bounds"),
        ("{selector: {}, defaultErrno: EPREM, syscalls: [read]}", "`EPREM` does not match"),
    ] {
        refused("KubeArmorSeccompPolicy", spec, message);
    }
}

#[test]
fn a_status_is_admitted() {
    let status = json!({
        "status": "OK",
        "observedGeneration": 2,
        "nodes": 3,
        "containers": 40,
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Valid", "message": "", "observedGeneration": 2,
            "lastTransitionTime": "2024-01-01T00:00:00Z",
        }],
        "gaps": [{"field": "spec.presets[0]", "reason": "no such hook", "advice": "use another kernel", "nodes": 1}],
    });
    for kind in Kind::ALL {
        let crd = crd(kind);
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
        assert_eq!(server::validate(schema, &status), Vec::<String>::new());
        assert!(!server::validate(schema, &json!({"conditions": [{"type": "Accepted"}]})).is_empty());
    }
}
