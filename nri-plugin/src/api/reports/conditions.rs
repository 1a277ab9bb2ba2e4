//! The status of a policy, of what all nodes say. No I/O, no clock.

use enforcer_core::policy::Kind;
use serde_json::{Value, json};

use super::aggregate::Sum;
use super::cut;
use super::known::Digest;
use crate::api::Resource;
use crate::api::objects::About;

/// The most bytes of a message.
const MAX_MESSAGE: usize = 4096;
/// The most bytes of a message in a status that the server did not take whole.
const SHORT_MESSAGE: usize = 256;
/// KubeArmor's words in its field `status.status`.
const WORDS: [&str; 2] = ["OK", "Not OK"];

/// Yes, no, or not known, with why.
type Verdict = (&'static str, &'static str, String);

/// The status as it is to be, where `before` is what the policy has. A condition that stays as it was keeps the time at which
/// it became so; else that is `now`.
pub(super) fn status(about: &About, sum: &Sum<'_>, before: &Digest, now: &str) -> Value {
    let (accepted, enforced) = (accepted(sum), enforced(about, sum));
    let word = WORDS.get(usize::from(accepted.0 == "False")).copied().unwrap_or_default();
    let condition = |name: &str, (status, reason, message): Verdict| {
        json!({
            "type": name,
            "status": status,
            "observedGeneration": about.generation,
            "lastTransitionTime": before.since(name, status).unwrap_or(now),
            "reason": reason,
            "message": cut(&message, MAX_MESSAGE),
        })
    };
    let gaps = sum.gaps.iter().map(|(gap, nodes)| {
        let mut told = json!({"field": gap.field, "reason": gap.reason, "nodes": nodes});
        if let Some(fields) = told.as_object_mut().filter(|_| !gap.advice.is_empty()) {
            fields.insert("advice".to_owned(), json!(gap.advice));
        }
        told
    });
    json!({
        "status": word,
        "observedGeneration": about.generation,
        "nodes": sum.nodes,
        "containers": i32::try_from(sum.containers).unwrap_or(i32::MAX),
        "conditions": [condition("Accepted", accepted), condition("Enforced", enforced)],
        "gaps": gaps.collect::<Vec<_>>(),
    })
}

/// What matters most of a status, where the server does not take the whole: no gaps, of which the condition tells how many
/// there are, and short messages.
pub(super) fn reduced(mut status: Value) -> Value {
    if let Some(gaps) = status.get_mut("gaps") {
        *gaps = json!([]);
    }
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        if let Some(Value::String(message)) = condition.get_mut("message") {
            *message = cut(message, SHORT_MESSAGE);
        }
    }
    status
}

fn accepted(sum: &Sum<'_>) -> Verdict {
    match &sum.refused {
        Some((nodes, why)) if *nodes < sum.nodes => {
            let message = format!("{why} (so say {nodes} of {})", count(sum.nodes, "node"));
            ("False", "Invalid", message)
        }
        Some((_, why)) => ("False", "Invalid", (*why).to_owned()),
        None if sum.nodes > 0 => ("True", "Accepted", "it has no mistake".to_owned()),
        None => not_reported(sum),
    }
}

fn enforced(about: &About, sum: &Sum<'_>) -> Verdict {
    let nodes = || count(sum.nodes, "node");
    if sum.nodes == 0 {
        return not_reported(sum);
    }
    if sum.refused.is_some() {
        let (containers, older) = (count(sum.containers, "container"), count(sum.older, "node"));
        return match sum.older {
            0 => ("False", "NotAccepted", "nothing of it is in force".to_owned()),
            _ => (
                "False",
                "OlderVersion",
                format!("its last good version is in force on {containers} of {older}"),
            ),
        };
    }
    if sum.uncovered > 0 {
        let (node, reason) = sum.why.unwrap_or_default();
        let all = count(sum.uncovered.saturating_add(sum.containers), "container");
        return (
            "False",
            "ContainersUncovered",
            format!("{} of {all} without it; first on {node}: {reason}", sum.uncovered),
        );
    }
    if let Some((on, first)) = &sum.overridden {
        let on = count(*on, "node");
        let message = format!("a policy of its name in a directory counts on {on}, {first} among them");
        return ("False", "Overridden", message);
    }
    if let Some((on, first)) = &sum.unheld {
        let message = format!(
            "no lock holds it on {on} of {}, {first} among them: a container that it selects there is without it",
            nodes()
        );
        return ("False", "NoLock", message);
    }
    let missing = sum.behind.saturating_add(sum.untold);
    if missing > 0 {
        let all = count(sum.nodes.saturating_add(missing), "node");
        return ("Unknown", "Progressing", format!("{missing} of {all} have not told of this version"));
    }
    if let Some((on, first)) = &sum.disconnected {
        let message = format!(
            "the runtime of {on} of {} is not connected, so their containers are not known; {first} is one",
            nodes()
        );
        return ("Unknown", "NotConnected", message);
    }
    let of_hosts = about.key.resource == Resource::Policies(Kind::KubeArmorHostPolicy);
    if sum.containers == 0 && of_hosts {
        let message = format!("it selects none of {}: compare its nodeSelector with their labels", nodes());
        return ("False", "NoNodes", message);
    }
    if sum.containers == 0 {
        return ("True", "NoContainers", format!("it selects no container on {}", nodes()));
    }
    let on = format!("on {} of {}", count(sum.containers, "container"), nodes());
    match sum.gaps.len() {
        0 => ("True", "Enforced", on),
        gaps => ("True", "WithGaps", format!("{on}, but for {}", count(number(gaps), "gap"))),
    }
}

fn not_reported(sum: &Sum<'_>) -> Verdict {
    match sum.behind {
        0 => ("Unknown", "NotReported", "no node has told that it knows it".to_owned()),
        behind => {
            ("Unknown", "Progressing", format!("{} still have an earlier version", count(behind, "node")))
        }
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn count(number: impl Into<u64>, thing: &str) -> String {
    match number.into() {
        1 => format!("1 {thing}"),
        number => format!("{number} {thing}s"),
    }
}
