//! Policies and pods that come and go: at the end the daemon has what the API server has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cluster::{Cluster, LONGEST};
use super::pods::{Pod, seccomp_policy};
use super::policies::MKDIR;
use super::release;
use super::tools::{apply, get, must, until};

/// How many names there are for policies.
const NAMES: u32 = 20;
/// Seconds, unless `NRI_ENFORCER_CHURN_SECONDS` says otherwise.
const SECONDS: u64 = 60;

pub fn misses_nothing(cluster: &mut Cluster) -> Result<()> {
    let seconds = match std::env::var("NRI_ENFORCER_CHURN_SECONDS") {
        Ok(text) => text.parse().context("NRI_ENFORCER_CHURN_SECONDS is no number")?,
        Err(_) => SECONDS,
    };
    let begin = Instant::now();
    let (mut changes, mut pods, mut denied, mut round) = (0_u32, 0_u32, 0_u32, 0_u32);
    while begin.elapsed() < Duration::from_secs(seconds) {
        // a walk through the names that is the same each time: made, changed, and every third deleted
        let number = round.wrapping_mul(7) % NAMES;
        let (name, app) = (format!("churn-{number}"), format!("app-{number}"));
        let errno = match round % 6 {
            2 | 5 => None,
            0 | 4 => Some(("EPERM", "Operation not permitted")),
            _ => Some(("EACCES", "Permission denied")),
        };
        match errno {
            None => drop(must(&["delete", "kubearmorseccomppolicy", "--ignore-not-found", &name])?),
            Some((errno, _)) => {
                apply(&seccomp_policy("default", &name, &app, &["mkdir", "mkdirat"], errno))?;
            }
        }
        changes += 1;
        if matches!(round % 12, 0 | 3 | 8) {
            let file = errno.map(|_| format!("nri-enforcer/default.{name}.json"));
            let pod = Pod {
                namespace: "default",
                name: "churn",
                app: &app,
                profile: file.as_deref(),
                command: MKDIR,
            };
            until("the change has arrived", LONGEST, || {
                let there = profiles()?.get(&format!("default.{name}")).copied();
                Ok((there == errno.map(|(errno, _)| errno)).then_some(()))
            })?;
            let (code, log) = pod.run()?;
            let good = errno.map_or(code == 0, |(_, told)| code == 1 && log.contains(told));
            ensure!(good, "a pod under {errno:?} ends with {code}: {log}");
            pods += 1;
            denied += u32::from(errno.is_some());
        }
        round += 1;
    }
    cluster
        .note(&format!("{changes} changes of policies and {pods} pods in {} s", begin.elapsed().as_secs()));
    cluster.check("a pod was denied by what had just changed", denied > 0, true);
    let server = on_server()?;
    let same = until("the daemon has what the API server has", LONGEST, || {
        Ok((in_daemon()? == server).then_some(()))
    });
    cluster.check("after the churn the daemon has what the API server has", same.is_ok(), true);
    cluster.check("and there are policies left to compare", server.len() > 2, true);
    must(&["delete", "kubearmorseccomppolicies", "-n", "default", "--all"])?;
    let left = until("they are gone", LONGEST, || Ok(in_daemon()?.is_empty().then_some(())));
    cluster.check("the deletion of all arrives", left.is_ok(), true);
    Ok(())
}

fn on_server() -> Result<BTreeSet<String>> {
    let list = get(&["kubearmorseccomppolicies", "-A"])?;
    let items = list.get("items").and_then(Value::as_array).context("items")?;
    let text = |item: &Value, pointer: &str| {
        item.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let name = |item: &Value| {
        format!(
            "{}.{} {}",
            text(item, "/metadata/namespace"),
            text(item, "/metadata/name"),
            text(item, "/spec/syscalls/0/errno")
        )
    };
    Ok(items.iter().map(name).collect())
}

/// The profiles that the daemon has written for kubelet: one for each policy, since each has an app of its own.
fn in_daemon() -> Result<BTreeSet<String>> {
    let status = release::status()?;
    let count = status.pointer("/daemon/policies").and_then(Value::as_u64).context("policies")?;
    let all: BTreeSet<String> =
        profiles()?.into_iter().map(|(name, errno)| format!("{name} {errno}")).collect();
    ensure!(u64::try_from(all.len())? == count, "{count} policies and {all:?}");
    Ok(all)
}

/// The errno of each profile, by the name of its file.
fn profiles() -> Result<BTreeMap<String, &'static str>> {
    let mut all = BTreeMap::new();
    for file in std::fs::read_dir("/var/lib/kubelet/seccomp/nri-enforcer")?.flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".json") else { continue };
        let profile: Value = serde_json::from_slice(&std::fs::read(file.path())?)?;
        all.insert(name.to_owned(), errno(&profile));
    }
    Ok(all)
}

/// The errno with which the profile denies `mkdir`.
fn errno(profile: &Value) -> &'static str {
    let rules = profile.get("syscalls").and_then(Value::as_array).into_iter().flatten();
    let mut denied = rules.filter(|rule| {
        let names = rule.get("names").and_then(Value::as_array).into_iter().flatten();
        names.into_iter().any(|name| name == "mkdir")
    });
    match denied.next().and_then(|rule| rule.get("errnoRet")).and_then(Value::as_u64) {
        Some(1) => "EPERM",
        Some(13) => "EACCES",
        _ => "?",
    }
}
