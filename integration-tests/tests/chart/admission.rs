//! What the chart's admission policy makes of pods: by the API server's own evaluation of its CEL, without a cluster.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use enforcer_core::compile::apparmor::ProfileName;
use lab::cache;
use serde_json::{Value, json};

use super::helm::{self, at, list, of_kind};

const VALUES: [&str; 3] = ["lsmOrder={apparmor}", "apparmor.admission.enabled=true", "crds.install=false"];
const KINDS: [&str; 2] = ["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"];

/// The policy and its binding in a cluster of this version.
fn made(version: &str, more: &[&str]) -> Result<[Value; 2]> {
    let version = format!("@--kube-version={version}");
    let objects = helm::objects(&[&VALUES[..], &[&version], more].concat())?;
    let one = |kind| of_kind(&objects, kind).next().cloned().context(kind);
    Ok([one(KINDS[0])?, one(KINDS[1])?])
}

/// What becomes of pods, by the policy for the newest version.
fn admitted(pods: &[Value]) -> Result<Vec<Value>> {
    let [policy, _] = made("1.36.0", &[])?;
    let mut child = Command::new(cache::artefact("crdserver")?)
        .arg("mutate")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let asked = json!({"policy": policy, "pods": pods});
    child.stdin.take().context("no input")?.write_all(asked.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).context(said)?;
    ensure!(all.len() == pods.len(), "{all:?}");
    Ok(all)
}

fn pod(metadata: Value, spec: Value) -> Value {
    let mut whole = json!({"namespace": "shop"});
    if let (Some(whole), Some(more)) = (whole.as_object_mut(), metadata.as_object()) {
        whole.extend(more.clone());
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": whole, "spec": spec})
}

fn container(name: &str) -> Value {
    json!({"name": name, "image": "i"})
}

fn with(name: &str, context: Value) -> Value {
    json!({"name": name, "image": "i", "securityContext": context})
}

/// The profile of each container by its own field, and the one that the daemon is told of.
fn profiles(pod: &Value) -> Vec<(String, String, String)> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let of = |one: &Value| {
        let name = at(one, "/name");
        let profile = one.pointer("/securityContext/appArmorProfile");
        let named = profile.map(|profile| match at(profile, "/type") {
            "Localhost" => at(profile, "/localhostProfile").to_owned(),
            other => other.to_owned(),
        });
        let told = at(pod, &format!("/metadata/annotations/apparmor.nri-enforcer.io~1{name}")).to_owned();
        (name.to_owned(), named.unwrap_or_default(), told)
    };
    list(spec, "/initContainers").chain(list(spec, "/containers")).map(of).collect()
}

fn row(name: &str, profile: &str, told: &str) -> (String, String, String) {
    (name.to_owned(), profile.to_owned(), told.to_owned())
}

#[test]
fn a_container_that_names_no_profile_gets_one_by_its_pod() -> Result<()> {
    let (own, privileged) = (json!({"appArmorProfile": {"type": "Unconfined"}}), json!({"privileged": true}));
    let replica = pod(
        json!({"generateName": "web-5d4f7c9d8-", "annotations": {"team": "web"}}),
        json!({
            "initContainers": [container("setup")],
            "containers": [with("web", json!({"runAsNonRoot": true})), container("log")],
        }),
    );
    let mixed = pod(
        json!({"name": "mixed", "annotations": {"container.apparmor.security.beta.kubernetes.io/old": "unconfined"}}),
        json!({"containers": [with("own", own), with("host", privileged), container("old"), container("new")]}),
    );
    let whole = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
    let of_pod = pod(json!({"name": "p"}), json!({"securityContext": whole, "containers": [container("c")]}));
    let windows =
        pod(json!({"name": "w"}), json!({"os": {"name": "windows"}, "containers": [container("c")]}));
    let many = |number: usize| {
        let all: Vec<_> = (1..number).map(|one| container(&format!("c{one}"))).collect();
        pod(json!({"name": "many"}), json!({"initContainers": [container("c0")], "containers": all}))
    };
    let long = "n".repeat(63);
    let longest =
        pod(json!({"name": "p".repeat(253), "namespace": long}), json!({"containers": [container(&long)]}));
    let mut all = admitted(&[replica, mixed, of_pod, windows, many(33), longest, many(32)])?.into_iter();
    let mut next = || -> Result<Value> {
        let mut one = all.next().context("a pod")?;
        ensure!(one.get("error").is_none(), "{one}");
        Ok(one.get_mut("pod").map(Value::take).unwrap_or_default())
    };
    let replica = next()?;
    let name = |container: &str| format!("nri-enforcer.shop.web-5d4f7c9d8.{container}");
    let wanted: Vec<_> = ["setup", "web", "log"].map(|one| row(one, &name(one), &name(one))).into();
    ensure!(profiles(&replica) == wanted, "{replica:#}");
    ensure!(at(&replica, "/metadata/annotations/team") == "web", "what was there stays: {replica:#}");
    let context = replica.pointer("/spec/containers/0/securityContext").context("a security context")?;
    ensure!(context.get("runAsNonRoot") == Some(&json!(true)), "what was there stays: {context}");
    let mixed = next()?;
    let new = "nri-enforcer.shop.mixed.new";
    let wanted =
        [row("own", "Unconfined", ""), row("host", "", ""), row("old", "", ""), row("new", new, new)];
    ensure!(profiles(&mixed) == wanted, "{mixed:#}");
    for whose in ["of the pod", "of Windows", "more than are loaded"] {
        ensure!(next()?.is_null(), "{whose}: left alone");
    }
    let longest = next()?;
    let [(_, name, told)] = &profiles(&longest)[..] else { anyhow::bail!("{longest:#}") };
    let name: ProfileName = name.parse()?;
    ensure!(name.as_str() == told && told.len() == 199, "{name}");
    ensure!(name.as_str().starts_with(&format!("nri-enforcer.{long}.")), "of its namespace: {name}");

    let many = next()?;
    ensure!(profiles(&many).len() == 32 && !profiles(&many).iter().any(|row| row.1.is_empty()), "{many:#}");

    // another policy, or a webhook, changed something, and it is asked once more
    let again = admitted(std::slice::from_ref(&replica))?.remove(0);
    ensure!(again.get("pod") == Some(&replica), "{again:#}");
    Ok(())
}

#[test]
fn the_policy_is_of_the_version_that_the_cluster_serves_and_of_the_pods_that_are_chosen() -> Result<()> {
    let group = "admissionregistration.k8s.io";
    for (cluster, version) in [
        ("1.32.0", "v1alpha1"),
        ("1.33.7", "v1alpha1"),
        ("1.34.1", "v1beta1"),
        ("1.35.0", "v1beta1"),
        ("1.36.0-rc.1", "v1"),
        ("1.40.2", "v1"),
    ] {
        for object in made(cluster, &[])? {
            ensure!(at(&object, "/apiVersion") == format!("{group}/{version}"), "{cluster}: {object:#}");
        }
    }
    let selected =
        ["exemptNamespaces={kube-system,infra}", "apparmor.admission.podSelector.matchLabels.app=web"];
    let [policy, binding] = made("1.36.0", &selected)?;
    ensure!(at(&binding, "/spec/policyName") == at(&policy, "/metadata/name"), "{binding:#}");
    let constraints = policy.pointer("/spec/matchConstraints").context("constraints")?;
    let exempt = json!([{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["infra", "kube-system", "security"]}]);
    ensure!(constraints.pointer("/namespaceSelector/matchExpressions") == Some(&exempt), "{constraints:#}");
    ensure!(
        constraints.get("objectSelector") == Some(&json!({"matchLabels": {"app": "web"}})),
        "{constraints:#}"
    );
    // what takes the daemon off the nodes leaves no pod that needs it
    let gone = helm::objects(&[&VALUES[..], &["uninstall=true", "@--kube-version=1.36.0"]].concat())?;
    ensure!(KINDS.iter().all(|kind| of_kind(&gone, kind).next().is_none()), "it stays");
    Ok(())
}
