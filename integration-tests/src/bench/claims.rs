//! Promises about more than one figure.

use std::time::Instant;

use anyhow::{Result, ensure};
use enforcer_core::compile::bpf::compile;
use enforcer_core::policy::parse;
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject as Labels;
use serde::Serialize;

use super::limits::{
    COMPILED, CONTAINER_MEMORY, FLAT_IN_CONTAINERS, FLAT_IN_RULES, RULESET_MEMORY, UPDATE, UPDATE_EACH,
};
use super::rules::{Kind, Rules};
use super::table::Verdict;
use super::{Line, Subject};

/// A promise about several figures.
#[derive(Clone, Debug, Serialize)]
pub struct Claim {
    /// What was promised.
    pub what: String,
    /// The limit; empty where there is none.
    pub limit: String,
    /// What was found.
    pub measured: String,
    /// How that stands.
    pub verdict: Verdict,
}

/// The operations that exchange the rules of a whole crowd: each its own for others of its own, those for one set that
/// all share, and that for another.
pub(super) const UPDATE_OWN: &str = "rules of their own";
/// See above.
pub(super) const UPDATE_ONE: &str = "rules of their own for shared ones";
/// See above.
pub(super) const UPDATE_SHARED: &str = "shared rules";

const NS_PER_MS: i64 = 1_000_000;

/// All that can be said about these lines; `added` is what an operation takes more than the baseline.
pub(super) fn all(lines: &[Line], added: &dyn Fn(&Line, &str) -> Option<i64>) -> Vec<Claim> {
    let find = |subject| lines.iter().find(|l| l.subject == subject);
    let mut claims = Vec::new();
    for line in lines {
        let (other, per_cent) = match line.subject {
            Subject::Confined(many) if many.count >= 10_000 => {
                // One rule is near one component only; a hundred are near each.
                let count = if many.kind == Kind::Near { 100 } else { 1 };
                (Subject::Confined(Rules { count, ..many }), FLAT_IN_RULES)
            }
            Subject::Crowd(rules, _) => (Subject::Confined(rules), FLAT_IN_CONTAINERS),
            Subject::Memory(_) => {
                memory(line, &mut claims);
                continue;
            }
            _ => continue,
        };
        for update in &line.figures {
            let limit = match update.operation.as_str() {
                UPDATE_OWN => UPDATE_EACH,
                UPDATE_ONE | UPDATE_SHARED => UPDATE,
                _ => continue,
            };
            claims.push(Claim {
                what: format!("{} exchanged, {}", update.operation, line.subject),
                limit: format!("{} ms", limit / NS_PER_MS),
                measured: format!(
                    "{} ms of the guest; what was before is out of the kernel after {} ms",
                    update.p50 / NS_PER_MS,
                    update.p99 / NS_PER_MS
                ),
                verdict: verdict(update.p50 <= limit),
            });
        }
        let Some(one) = find(other) else { continue };
        for operation in
            line.figures.iter().map(|f| f.operation.as_str()).filter(|o| o.starts_with("tmpfs d"))
        {
            if let (Some(few), Some(much)) = (added(one, operation), added(line, operation)) {
                let what = format!("{} against {}, {operation}", line.subject, one.subject);
                let limit = format!("{per_cent} % of {few:+}");
                let good = much * 100 <= few * per_cent;
                claims.push(Claim { what, limit, measured: format!("{much:+}"), verdict: verdict(good) });
            }
        }
    }
    claims
}

fn memory(line: &Line, claims: &mut Vec<Claim>) {
    let Subject::Memory(rules) = line.subject else { return };
    for figure in &line.figures {
        let (what, limit) = match figure.operation.as_str() {
            "ruleset" => (format!("memory of a ruleset ({rules})"), Some(RULESET_MEMORY)),
            "container" => ("memory of a further container that shares it".into(), Some(CONTAINER_MEMORY)),
            "all" => ("memory of a further container with its tasks' identities".into(), None),
            other => (format!("memory of {other}"), None),
        };
        claims.push(Claim {
            what: format!("kernel {what}"),
            limit: limit.map_or(String::new(), |l| format!("{l} bytes")),
            measured: format!("{} bytes", figure.p50),
            verdict: limit.map_or(Verdict::None, |l| verdict(figure.p50 <= l)),
        });
    }
}

fn verdict(good: bool) -> Verdict {
    if good { Verdict::Ok } else { Verdict::Missed }
}

/// Policies against containers, compiled on this machine: a time, unlike all else here.
///
/// # Errors
/// When a policy of the bench cannot be read or compiled.
pub fn compiled() -> Result<Claim> {
    const NODE: u32 = 1_000;
    let rules = Rules { kind: Kind::Block, count: 10 };
    let text: Vec<_> = (0..NODE).map(|n| rules.variant(n)).collect();
    let mut policies = Vec::new();
    for text in &text {
        let parsed = parse("bench.yaml", text);
        ensure!(parsed.errors.is_empty(), "{:?}", parsed.errors);
        policies.extend(parsed.policies);
    }
    let begin = Instant::now();
    for n in 0..NODE {
        let labels = [("app".into(), format!("app-{n}"))].into();
        let subject = Labels { namespace: "default".into(), labels, ..Labels::default() };
        let ruleset = Ruleset::resolve(&policies, &Postures::default(), &subject).ruleset;
        ensure!(!ruleset.is_empty(), "no policy selects app-{n}");
        compile(&ruleset)?;
    }
    let taken = begin.elapsed();
    Ok(Claim {
        what: format!(
            "{NODE} policies of {} rules compiled for {NODE} containers, on this machine",
            rules.count
        ),
        limit: format!("{} ms", COMPILED.as_millis()),
        measured: format!("{} ms", taken.as_millis()),
        verdict: verdict(taken <= COMPILED),
    })
}
