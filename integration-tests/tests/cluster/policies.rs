//! Policies and namespaces of the API server, and what becomes of real pods.

use anyhow::{Context, Result};
use serde_json::Value;

use super::cluster::{Cluster, LONGEST};
use super::install::{ON, SECCOMP};
use super::pods::{Pod, file_policy, seccomp_policy};
use super::release;
use super::tools::{apply, must, try_apply, until};

/// Tries one system call.
pub const MKDIR: &str = "mkdir /tmp/made && echo made";
/// The file of the policy `web` of the namespace `default`.
pub const WEB_PROFILE: &str = "nri-enforcer/default.web.json";
/// A pod that it selects.
pub const WEB: Pod<'static> =
    Pod { namespace: "default", name: "web", app: "web", profile: Some(WEB_PROFILE), command: MKDIR };
const MKDIRS: [&str; 2] = ["mkdir", "mkdirat"];

pub fn hold_in_pods(cluster: &mut Cluster) -> Result<()> {
    let bad = seccomp_policy("default", "bad", "web", &["mkdri"], "EPERM");
    let said = try_apply(&bad)?;
    cluster.check("the server refuses a system call that there is not", said.good, false);
    cluster.check_has("by the definition that the chart brought", &said.err, "mkdri");

    apply(&seccomp_policy("default", "web", "web", &MKDIRS, "EPERM"))?;
    known(1)?;
    let (code, log) = WEB.run()?;
    cluster.check("the pod that the policy selects is denied", code, 1);
    cluster.check_has("by the policy's errno", &log, "Operation not permitted");
    let other = Pod { name: "other", app: "other", profile: None, ..WEB };
    cluster.check("another pod is not", other.run()?, (0, "made\n".into()));
    must(&["create", "namespace", "shop"])?;
    let elsewhere = Pod { namespace: "shop", ..other };
    cluster.check("nor one with the label in another namespace", Pod { app: "web", ..elsewhere }.run()?.0, 0);

    apply(&seccomp_policy("default", "web", "web", &MKDIRS, "EACCES"))?;
    until("the change is in force for the next pod", LONGEST, || {
        Ok(WEB.run()?.1.contains("Permission denied").then_some(()))
    })?;
    cluster.check("a change of the policy is in force for the next pod", WEB.run()?.0, 1);

    let lasting = Pod { name: "lasting", command: "sleep 3600", ..WEB };
    lasting.start()?;
    let state = |container: &Value| container.get("state").and_then(Value::as_str).map(str::to_owned);
    cluster.check(
        "a pod with its profile is armed",
        state(&release::container("lasting")?),
        Some("armed".into()),
    );
    apply(&seccomp_policy("default", "web", "web", &MKDIRS, "EPERM"))?;
    let pending =
        || Ok((state(&release::container("lasting")?).as_deref() == Some("pendingRestart")).then_some(()));
    until("a change leaves it pending restart", LONGEST, pending)?;
    lasting.delete()?;

    let unnamed = Pod { name: "unnamed", profile: None, command: "sleep 3600", ..WEB };
    unnamed.start()?;
    let container = release::container("unnamed")?;
    cluster.check("one that names no profile is not covered", state(&container), Some("notCovered".into()));
    cluster.check_has("and is an alert", &release::log("nri-enforcer")?, "notice=seccomp-not-applied");
    unnamed.delete()?;
    namespaces(cluster)?;
    strictly(cluster)
}

/// Waits until the daemon has so many policies.
pub fn known(number: u64) -> Result<()> {
    until(&format!("the daemon has {number} policies"), LONGEST, || {
        let status = release::status()?;
        Ok((status.pointer("/daemon/policies").and_then(Value::as_u64) == Some(number)).then_some(()))
    })
}

/// Annotations of real namespaces: what is wrong with them is told, what is right is saved with the set.
fn namespaces(cluster: &mut Cluster) -> Result<()> {
    must(&["annotate", "namespace", "shop", "kubearmor-file-posture=blok"])?;
    release::logs("nri-enforcer", "blok")?;
    cluster.check_has("a posture that is none is told", &release::log("nri-enforcer")?, "shop");
    must(&["annotate", "--overwrite", "namespace", "shop", "kubearmor-file-posture=block"])?;
    // `Block` of the policies is another word
    let saved = || {
        let saved = std::fs::read_to_string("/var/lib/nri-enforcer/state/policies.json")?;
        Ok((saved.contains("kubearmor-file-posture") && saved.contains("block")).then_some(()))
    };
    let saved = until("the namespace is in the saved set", LONGEST, saved);
    cluster.check("a posture of a namespace is taken", saved.is_ok(), true);
    Ok(())
}

/// With `strict` what cannot be enforced is not started, and `kubectl describe pod` says why.
fn strictly(cluster: &mut Cluster) -> Result<()> {
    release::apply(cluster, "helm-4", &[&ON[..], &[SECCOMP, "strict=true"]].concat())?;
    release::rolled_out()?;
    let unnamed = Pod { name: "unnamed", profile: None, ..WEB };
    let told = unnamed.refused("nri-enforcer/default.web.json")?;
    cluster.check_has(
        "a pod without its profile is refused, with what to do",
        &told,
        "nri-enforcer/default.web.json",
    );
    let (reason, note) = unnamed.refused_again()?;
    cluster.check("it is an event on the pod that counts on", reason.as_str(), "PolicyNotEnforced");
    cluster.check_has("which says why", &note, "nri-enforcer/default.web.json");
    cluster.check("one with it starts", WEB.run()?.0, 1);
    // the pod has another name, which is in what is told of it anyhow
    apply(&file_policy("shop", "no-passwd", "files", "/etc/passwd"))?;
    known(2)?;
    let files =
        Pod { namespace: "shop", name: "files", app: "files", profile: None, command: "cat /etc/passwd" };
    let told = files.refused("shop/no-passwd")?;
    cluster.check_has("a pod under a file policy is refused where nothing holds it", &told, "shop/no-passwd");
    must(&["delete", "kubearmorpolicy", "-n", "shop", "no-passwd"])?;
    known(1)?;
    cluster.check("and starts when the policy is gone", files.run()?.0, 0);
    release::apply(cluster, "helm-3", &[&ON[..], &[SECCOMP]].concat())?;
    release::rolled_out().context("the release without `strict`")?;
    Ok(())
}
