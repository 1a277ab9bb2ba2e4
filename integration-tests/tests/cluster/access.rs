//! What the release may ask of the API server: all that the daemon asked, and nothing that it did not.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::cluster::Cluster;
use super::release;
use super::tools::{NAMESPACE, get, kubectl};

/// Group, resource and verb.
type Access = (String, String, String);

const ACCOUNT: &str = "system:serviceaccount:nri-enforcer:nri-enforcer";

pub fn is_enough_and_least(cluster: &mut Cluster) -> Result<()> {
    let role = get(&["clusterrole", "nri-enforcer"])?;
    let granted = granted(&role);
    let (used, refused) = used(cluster)?;
    cluster.check("there is something granted", granted.is_empty(), false);
    cluster.check("all that is granted was used", &used, &granted);
    cluster.check("nothing was refused", refused, BTreeSet::new());
    let log = release::log("nri-enforcer")?;
    let refusals: Vec<_> =
        log.lines().filter(|line| line.contains("forbidden") || line.contains("refuses")).collect();
    cluster.check("the daemon's log tells of no refusal", refusals, Vec::new());
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

/// What the account did, by the API server's audit log, and what of it was refused.
fn used(cluster: &Cluster) -> Result<(BTreeSet<Access>, BTreeSet<Access>)> {
    let log = fs::read_to_string(cluster.log("audit.log")).context("the audit log")?;
    let (mut used, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let at =
            |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        if at("/user/username") != ACCOUNT {
            continue;
        }
        let access = (at("/objectRef/apiGroup"), at("/objectRef/resource"), at("/verb"));
        match entry.pointer("/responseStatus/code").and_then(Value::as_u64) {
            Some(401 | 403) => refused.insert(access),
            _ => used.insert(access),
        };
    }
    Ok((used, refused))
}
