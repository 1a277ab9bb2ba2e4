//! Promises about more than one figure.

use serde::Serialize;

use super::limits::{CONTAINER_MEMORY, FLAT_IN_CONTAINERS, FLAT_IN_RULES, RULESET_MEMORY};
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
