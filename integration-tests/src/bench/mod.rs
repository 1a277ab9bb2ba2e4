//! `lab bench`: what enforcement costs, in instructions, beside other enforcers with the same rules.
//!
//! Everything runs in one guest whose clock counts instructions, so figures are equal in every run and on every host.
//! They say nothing about caches and branches: they are for comparing and for noticing growth.

mod agent;
mod claims;
mod limits;
mod memory;
mod rules;
mod table;

use std::fmt;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

pub use agent::carry_out;
pub use claims::{Claim, compiled};
pub use rules::{Kind, Rules};
pub use table::{Cell, Row, Table, Verdict};

use crate::cache;
use crate::vm::{self, Job, Kernel, Spec, Streams};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// A process on a machine without any program attached: the baseline.
    Nothing,
    /// A process under so many Landlock rules, nothing attached.
    Landlock(u32),
    /// A process under an AppArmor profile, nothing attached.
    AppArmor(Rules),
    /// A process of the host's, while another one is confined.
    Host,
    /// A confined process.
    Confined(Rules),
    /// The same, while so many other containers are confined, each by a policy of its own.
    Crowd(Rules, u32),
    /// No process: the kernel's memory for these rules, in bytes.
    Memory(Rules),
}

/// The rules of the container that is measured in a crowd.
const IN_CROWD: Rules = Rules { kind: Kind::Block, count: 10 };
const CROWD: Subject = Subject::Crowd(IN_CROWD, 999);

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing attached"),
            Self::Landlock(rules) => write!(f, "Landlock {rules}"),
            Self::AppArmor(rules) => write!(f, "AppArmor {rules}"),
            Self::Host => f.write_str("host process"),
            Self::Confined(rules) => rules.fmt(f),
            Self::Crowd(rules, others) => write!(f, "{rules}, one of {}", others + 1),
            Self::Memory(rules) => write!(f, "memory {rules}"),
        }
    }
}

/// What the guest is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// In this order, but those with nothing attached first.
    pub subjects: Vec<Subject>,
    /// Few operations.
    pub quick: bool,
}

impl Plan {
    /// What is usually measured, or these rules.
    #[must_use]
    pub fn new(quick: bool, rules: &[Rules]) -> Self {
        let confined = |kinds: &[Kind], counts: &[u32]| -> Vec<Subject> {
            kinds
                .iter()
                .flat_map(|kind| {
                    counts.iter().map(|count| Subject::Confined(Rules { kind: *kind, count: *count }))
                })
                .collect()
        };
        let mut subjects = vec![Subject::Nothing];
        if !quick && rules.is_empty() {
            subjects.extend([1, 10, 100, 1_000].map(Subject::Landlock));
            let profiles = [
                (Kind::Block, [1, 10, 100, 1_000, 10_000].as_slice()),
                (Kind::Allow, &[10, 1_000]),
                (Kind::Glob, &[10, 100]),
                (Kind::Anywhere, &[10]),
                (Kind::Near, &[10, 100]),
            ];
            for (kind, counts) in profiles {
                subjects.extend(counts.iter().map(|count| Subject::AppArmor(Rules { kind, count: *count })));
            }
        }
        subjects.push(Subject::Host);
        if !rules.is_empty() {
            subjects.extend(rules.iter().map(|r| Subject::Confined(*r)));
        } else if quick {
            subjects.extend(confined(
                &[Kind::Block, Kind::Allow, Kind::Glob, Kind::Anywhere, Kind::Near, Kind::Network],
                &[10],
            ));
        } else {
            let all = [Kind::Block, Kind::Allow, Kind::Glob, Kind::Anywhere, Kind::Whitelist, Kind::Near];
            subjects.extend(confined(&all, &[1, 10, 100, 1_000, 10_000]));
            subjects.extend(confined(&[Kind::Wild, Kind::Deep, Kind::Network], &[10, 1_000]));
            subjects.extend([Kind::Block, Kind::Glob].map(|kind| Subject::Memory(Rules { kind, count: 50 })));
            subjects.push(CROWD);
        }
        Self { subjects, quick }
    }

    /// A crowd alone, beside one container.
    #[must_use]
    pub fn crowd() -> Self {
        Self { subjects: vec![Subject::Nothing, Subject::Confined(IN_CROWD), CROWD], quick: true }
    }
}

/// Instructions of one operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Which.
    pub operation: String,
    /// The least.
    pub min: i64,
    /// The median.
    pub p50: i64,
    /// All but one of a hundred.
    pub p99: i64,
}

/// What came of one subject.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Who.
    pub subject: Subject,
    /// Empty when there is a gap or an error.
    pub figures: Vec<Figures>,
    /// What of the rules is not enforced yet.
    pub gap: Option<String>,
    /// Why nothing could be measured.
    pub error: Option<String>,
}

/// Measures in a fresh guest.
///
/// # Errors
/// When the lab fails, or nothing can be measured at all.
pub fn measure(kernel: Kernel, plan: &Plan) -> Result<Vec<Line>> {
    let spec = Spec { icount: true, ..Spec::plain(kernel) };
    let say = |text: &str| eprintln!("lab: {text}");
    let mut machine = vm::machine(&spec, &say)?;
    if let Some(profiles) = profiles(plan)? {
        // The parser takes minutes for the large ones: done once, and saved with the machine.
        machine = machine.after("apparmor", &profiles, &say)?;
    }
    let mut job = Job::script("ulimit -n 16384; exec ./lab agent bench plan.json")
        .file("lab", cache::stripped(&std::env::current_exe()?)?)
        .bytes("plan.json", serde_json::to_vec(plan)?);
    job.limit = Some(Duration::from_secs(1800));
    let mut out = Vec::new();
    let outcome = job.run(&machine, Streams { out: &mut out, err: &mut io::stderr() })?;
    let text = String::from_utf8(out)?;
    if outcome.status != 0 {
        bail!("the lab's agent in the guest failed (status {})\n{}", outcome.status, text.trim());
    }
    let lines = text.lines().filter(|l| !l.is_empty());
    lines.map(|l| serde_json::from_str(l).with_context(|| format!("the agent's answer: `{l}`"))).collect()
}

/// Loads the AppArmor profiles that a plan is about.
fn profiles(plan: &Plan) -> Result<Option<Job>> {
    let mut job = Job::script("for p in bench-*; do ./apparmor_parser -K -T -a $p || exit; done");
    let mut any = false;
    for subject in &plan.subjects {
        if let Subject::AppArmor(rules) = subject {
            job = job.bytes(&rules.profile_name(), rules.profile());
            any = true;
        }
    }
    job.limit = Some(Duration::from_secs(1800));
    Ok(if any {
        Some(job.file("apparmor_parser", cache::artefact("apparmor")?.join("apparmor_parser")))
    } else {
        None
    })
}
