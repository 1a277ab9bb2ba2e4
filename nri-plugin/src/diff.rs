//! `diff`: what a change of the policies alters for a container, before it is applied.

mod compare;
mod show;

use std::collections::BTreeMap;

use enforcer_core::decide::Verdict;
use enforcer_core::policy::Gap;
use enforcer_core::ruleset::{Class, PostureAction, Postures};
use enforcer_core::subject::Subject;
use serde::Serialize;

use self::compare::{Sides, changes};
use crate::cli::{DiffArgs, Output, Posture, postures};
use crate::exit::{Exit, chain};
use crate::input::{self, Input};
use crate::status::document::{Document, State};
use crate::status::show::ask;
use crate::term::{BAD, complain, paint, say_json};

/// The answer, as `-o json` prints it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether anything changes.
    pub changed: bool,
    /// What changes, container by container; those for which nothing does are there, too.
    pub containers: Vec<Container>,
}

/// A container, and what changes for it.
#[derive(Debug, Serialize)]
pub struct Container {
    /// Its namespace.
    pub namespace: String,
    /// Its pod; empty where none was named.
    pub pod: String,
    /// Its name.
    pub container: String,
    /// What changes.
    #[serde(flatten)]
    pub changes: Changes,
}

/// What changes for a container. All empty: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// What becomes of accesses that no rule is about.
    pub otherwise: Vec<Otherwise>,
    /// Rules.
    pub rules: Vec<RuleChange>,
    /// What was enforced or not said, and is a gap.
    pub new_gaps: Vec<Gap>,
    /// What was a gap, and is enforced or not said any more.
    pub closed_gaps: Vec<Gap>,
    /// The seccomp profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<SeccompChange>,
}

impl Changes {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of accesses of a class that no rule is about. `None`: the class is no whitelist, they pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Otherwise {
    /// The class.
    pub class: Class,
    /// Before.
    pub old: Option<PostureAction>,
    /// After.
    pub new: Option<PostureAction>,
    /// What that means.
    pub meaning: String,
    /// The rule that makes it a whitelist, `POLICY RULE`; none where there is no whitelist, or its Allow rules are gaps.
    pub because: Option<String>,
}

/// How a rule changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// It does something else, or under other conditions.
    Changed,
    /// It is gone.
    Removed,
    /// It is new.
    Added,
    /// It does the same, and its alerts say something else: policy, severity, tags, message.
    Reported,
    /// It does the same, and stands at another place of its policy, which alerts name.
    Moved,
}

/// A change of what is said about one object: by one source or any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleChange {
    /// How.
    pub change: Change,
    /// What the rules are about: `file /etc/passwd from /bin/sh`.
    pub about: String,
    /// The rules before.
    pub old: Vec<Side>,
    /// The rules after.
    pub new: Vec<Side>,
    /// What becomes of an access to just that, before and after: by all rules together. Only where that depends on
    /// nothing else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<VerdictChange>,
}

/// A rule on one side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Side {
    /// What it does, and on which conditions: `block ownerOnly`.
    pub does: String,
    /// The policy, `NAMESPACE/NAME`.
    pub policy: String,
    /// The rule's place in the policy.
    pub rule: String,
}

/// What becomes of an access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerdictChange {
    /// `read`, `write`, `exec`, or `use`.
    pub access: &'static str,
    /// Before.
    pub old: Verdict,
    /// After.
    pub new: Verdict,
}

/// How the seccomp profile changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompChange {
    /// Digest of the profile before; `None`: no policy selected the container.
    pub old: Option<String>,
    /// Digest after.
    pub new: Option<String>,
    /// Whether a running container is pending restart: it keeps its profile until it is created again.
    pub pending_restart: bool,
}

/// Compares, and prints what changes.
pub fn run(args: &DiffArgs) -> Exit {
    match compare(args) {
        Ok(containers) => {
            let changed = containers.iter().any(|one| !one.changes.is_empty());
            let report = Report { changed, containers };
            match args.output {
                Output::Json => say_json(&report),
                Output::Text => show::print(&report, args.running),
            }
            if changed { Exit::No } else { Exit::Ok }
        }
        Err(problem) => {
            complain(format!("{}: {problem}\n", paint(BAD, "error")));
            Exit::BadInput
        }
    }
}

fn load(flag: &str, paths: &[std::path::PathBuf]) -> Result<Vec<Input>, String> {
    let inputs = input::load(paths).map_err(|error| format!("{flag}: {}", chain(&error)))?;
    input::refuse_wrong(&inputs).map_err(|problem| format!("{flag}: {problem}"))?;
    Ok(inputs)
}

fn compare(args: &DiffArgs) -> Result<Vec<Container>, String> {
    let old = load("--old", &args.old)?;
    let new = load("--new", &args.new)?;
    if input::is_empty(&old) && input::is_empty(&new) {
        return Err(
            "there is no policy in what --old and --new name; policies are in *.yaml, *.yml and *.json \
                    files"
                .to_owned(),
        );
    }
    let sides = Sides::new(&old, &new, args)?;
    let asked = if args.running { running(args)? } else { vec![named(args)] };
    asked
        .into_iter()
        .map(|asked| {
            let changes = changes(&sides, &asked)?;
            let Subject { namespace, pod, container, .. } = asked.subject;
            Ok(Container { namespace, pod, container, changes })
        })
        .collect()
}

/// A container to look at.
struct Asked {
    subject: Subject,
    /// The postures of its node.
    node: Postures,
    /// Whether what is denied is reported instead.
    audited: bool,
    /// Whether its node enforces seccomp policies alone.
    seccomp_only: bool,
}

fn named(args: &DiffArgs) -> Asked {
    let labels: BTreeMap<_, _> =
        args.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
    let namespace = args.namespace.clone().unwrap_or_default();
    let subject = Subject { namespace, labels, container: args.container.clone(), ..Subject::default() };
    Asked { subject, node: postures(&args.postures), audited: false, seccomp_only: false }
}

/// What the daemon has, but for what no policy reaches and what has ended.
fn running(args: &DiffArgs) -> Result<Vec<Asked>, String> {
    let Document { daemon, containers, .. } = ask(&args.status_socket).map_err(|error| error.to_string())?;
    if !daemon.connected {
        return Err("the daemon is not connected to the runtime, and does not know what runs".to_owned());
    }
    let node = daemon.postures.iter().map(|(class, action)| Posture::new(class, action));
    let node =
        node.collect::<Result<Vec<_>, _>>().map_err(|error| format!("the daemon's postures: {error}"))?;
    let node = postures(&node);
    let host = daemon.host.as_ref().map(|host| &host.postures).into_iter().flatten();
    let host: Result<Vec<_>, _> = host.map(|(class, action)| Posture::new(class, action)).collect();
    let host = postures(&host.map_err(|error| format!("the daemon's postures of the host: {error}"))?);
    let wanted = |namespace: &String| args.namespace.as_ref().is_none_or(|wanted| wanted == namespace);
    containers
        .into_iter()
        .filter(|one| !matches!(one.state, State::Exempt | State::Ended) && wanted(&one.namespace))
        .map(|one| {
            let labels =
                one.labels.ok_or("the daemon is of a version that does not tell the labels of containers")?;
            let subject = match one.host {
                true => Subject::of_host(labels),
                false => {
                    let (namespace, pod, container) = (one.namespace, one.pod, one.container);
                    Subject { namespace, pod, labels, container, host: false }
                }
            };
            let node = if one.host { host } else { node };
            let seccomp_only = daemon.seccomp_only || daemon.lock == "none";
            Ok(Asked { subject, node, audited: one.audited, seccomp_only })
        })
        .collect()
}
