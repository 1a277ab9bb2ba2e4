//! What the release may ask of the API server: all that the daemon asked, and nothing that it did not.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::cluster::{Cluster, LONGEST};
use super::install::{ON, SECCOMP};
use super::pods::{Pod, seccomp_policy};
use super::release;
use super::tools::{NAMESPACE, apply, get, kubectl, must, until};

/// Group, resource and verb.
type Access = (String, String, String);

const ACCOUNT: &str = "system:serviceaccount:nri-enforcer:nri-enforcer";

pub fn is_enough_and_least(cluster: &mut Cluster) -> Result<()> {
    let mut granted = granted(&get(&["clusterrole", "nri-enforcer"])?);
    granted.extend(self::granted(&get(&["role", "-n", NAMESPACE, "nri-enforcer"])?));
    let Answers { used, refused, wrong } = answers(cluster)?;
    let unused = unused();
    cluster.check("what this test has no use for is granted", unused.is_subset(&granted), true);
    cluster.check("all else that is granted was used", &used, &(&granted - &unused));
    cluster.check("nothing was refused", refused, BTreeSet::new());
    cluster.check("nothing that was asked made no sense", wrong, BTreeSet::new());
    for (allowed, verb, what) in [
        (true, "list", "kubearmorpolicies.security.kubearmor.com"),
        (true, "watch", "namespaces"),
        (false, "get", "secrets"),
        (false, "list", "secrets"),
        (false, "list", "pods"),
        (false, "delete", "pods"),
        (false, "create", "pods"),
        (false, "patch", "namespaces"),
        (false, "create", "kubearmorpolicies.security.kubearmor.com"),
        (false, "delete", "kubearmorpolicies.security.kubearmor.com"),
        (false, "impersonate", "users"),
    ] {
        let said = kubectl(&["auth", "can-i", verb, what, "--all-namespaces", "--as", ACCOUNT])?;
        let answer = said.out.trim().to_owned();
        cluster.check(&format!("may it {verb} {what}?"), answer.as_str(), if allowed { "yes" } else { "no" });
    }
    let exec = kubectl(&["auth", "can-i", "create", "pods/exec", "-n", NAMESPACE, "--as", ACCOUNT])?;
    cluster.check("may it enter pods?", exec.out.trim(), "no");
    Ok(())
}

/// Without a permission to tell how things stand, the daemon enforces as before, says in its own status what it cannot tell,
/// and tells it once it may again.
pub fn that_is_taken_away_is_told(cluster: &mut Cluster) -> Result<()> {
    let mut role = get(&["clusterrole", "nri-enforcer"])?;
    let whole = role.clone();
    let rules = role.get_mut("rules").and_then(Value::as_array_mut).context("rules")?;
    let before = rules.len();
    rules.retain(|rule| {
        let text = rule.to_string();
        !text.contains("/status") && !text.contains("nodepolicyreports") && !text.contains("events.k8s.io")
    });
    cluster.check("three rules are about what the daemon tells", before - rules.len(), 3);
    release::apply(cluster, "helm-3", &[&ON[..], &[SECCOMP, "strict=true"]].concat())?;
    release::rolled_out()?;
    apply(&without_versions(role).to_string())?;
    apply(&seccomp_policy("default", "untold", "untold", &["mkdir", "mkdirat"], "EPERM"))?;
    let untold = Pod { namespace: "default", name: "untold", app: "untold", profile: None, command: "true" };
    cluster.check_has(
        "a pod without its profile is refused",
        &untold.refused("untold")?,
        "default.untold.json",
    );
    let told = || {
        let status = release::status()?;
        let untold = status.pointer("/daemon/api/untold").and_then(Value::as_object).cloned();
        Ok::<_, anyhow::Error>(untold.unwrap_or_default())
    };
    let all = |told: &serde_json::Map<String, Value>| {
        // no status is written without the reports
        ["report of this node", "follow the reports", "events"]
            .iter()
            .all(|what| told.iter().any(|(about, why)| about.contains(what) && forbids(why)))
    };
    let found = until("all that is refused is told", LONGEST, || Ok(all(&told()?).then_some(())));
    cluster.note(&format!("{:?}", told()?));
    cluster.check("`status` says what the daemon may not tell", found.is_ok(), true);
    let shown = release::exec(&["status"])?;
    cluster.check_has("in words, too", &shown.all(), "forbidden");
    let pod = Pod { profile: Some("nri-enforcer/default.untold.json"), command: "mkdir /tmp/made", ..untold };
    cluster.check("what it enforces stays in force", pod.run()?.0, 1);
    apply(&without_versions(whole).to_string())?;
    let again = until("nothing is untold", LONGEST, || Ok(told()?.is_empty().then_some(())));
    cluster.check("with the permissions it tells everything again", again.is_ok(), true);
    let conditions = || {
        let policy = get(&["kubearmorseccomppolicy", "-n", "default", "untold"])?;
        Ok(policy.pointer("/status/conditions").map(drop))
    };
    let status = until("the policy has its status", LONGEST, conditions);
    cluster.check("and the policy has its status", status.is_ok(), true);
    must(&["delete", "kubearmorseccomppolicy", "-n", "default", "untold"])?;
    release::apply(cluster, "helm-3", &[&ON[..], &[SECCOMP]].concat())?;
    release::rolled_out()
}

fn forbids(why: &Value) -> bool {
    why.as_str().is_some_and(|why| why.contains("refuses") || why.contains("forbidden"))
}

/// The object as it is applied: over whatever is there.
fn without_versions(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    object
}

/// What is needed, and does not happen here, or not by this name.
fn unused() -> BTreeSet<Access> {
    let access =
        |group: &str, resource: &str, verb: &str| (group.to_owned(), resource.to_owned(), verb.to_owned());
    let mut all = BTreeSet::from([
        access("nri-enforcer.io", "nodepolicyreports", "delete"), // of a node that was gone for a day
        access("nri-enforcer.io", "nodepolicyreports", "create"), // an apply is told as a patch
    ]);
    // policies of these kinds do not live here until their status is written
    for kind in ["kubearmorpolicies", "kubearmorclusterpolicies", "kubearmorhostpolicies"] {
        all.extend(
            ["get", "patch"].map(|verb| access("security.kubearmor.com", &format!("{kind}/status"), verb)),
        );
    }
    all
}

fn granted(role: &Value) -> BTreeSet<Access> {
    let texts = |rule: &Value, key: &str| -> Vec<String> {
        let items = rule.get(key).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut all = BTreeSet::new();
    for rule in role.get("rules").and_then(Value::as_array).into_iter().flatten() {
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                all.extend(
                    texts(rule, "verbs").into_iter().map(|verb| (group.clone(), resource.clone(), verb)),
                );
            }
        }
    }
    all
}

/// What the account asked, by how it was answered.
#[derive(Default)]
struct Answers {
    used: BTreeSet<Access>,
    /// It may not.
    refused: BTreeSet<Access>,
    /// It may, and the server does not take it, with the code.
    wrong: BTreeSet<(Access, u64)>,
}

/// What the account did, by the API server's audit log.
fn answers(cluster: &Cluster) -> Result<Answers> {
    let log = fs::read_to_string(cluster.log("audit.log")).context("the audit log")?;
    let mut answers = Answers::default();
    for (number, line) in log.lines().enumerate() {
        let entry: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let at =
            |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        if at("/user/username") != ACCOUNT {
            continue;
        }
        let resource = match at("/objectRef/subresource") {
            part if part.is_empty() => at("/objectRef/resource"),
            part => format!("{}/{part}", at("/objectRef/resource")),
        };
        let access = (at("/objectRef/apiGroup"), resource, at("/verb"));
        match entry.pointer("/responseStatus/code").and_then(Value::as_u64) {
            // a server that is not ready knows no roles yet
            Some(401 | 403) if cluster.was_starting(number) => {}
            Some(401 | 403) => drop(answers.refused.insert(access)),
            // what is not there, what somebody else was faster with, what is too long ago, and too much at once
            Some(404 | 409 | 410 | 429) => drop(answers.used.insert(access)),
            Some(code @ 400..=499) => drop(answers.wrong.insert((access, code))),
            _ => drop(answers.used.insert(access)),
        }
    }
    Ok(answers)
}
