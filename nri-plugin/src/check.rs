//! `check`: are these policies valid, and what would this host not enforce?

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use enforcer_core::compile::apparmor::Native;
use enforcer_core::coverage::{Gap, GapReason};
use enforcer_core::host::{self, Check as HostCheck};
use enforcer_core::policy::{Kind, Policy, PolicyError, PolicyId, SeccompPolicy};
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject;
use serde::Serialize;

use crate::apparmor;
use crate::cli::{CheckArgs, Output};
use crate::container::HOST_ADVICE;
use crate::exit::{Exit, chain};
use crate::input::{self, Input};
use crate::term::{BAD, BOLD, GOOD, WARN, complain, paint, render, say, say_json, table};

/// The answer, as `-o json` prints it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether there is no error (and, with `--strict`, no gap).
    pub ok: bool,
    /// What was read, file by file.
    pub files: Vec<FileReport>,
    /// Policies defined twice: only the first counts.
    pub duplicates: Vec<Duplicate>,
    /// What is understood and not enforced, on any host.
    pub gaps: Vec<Gap>,
    /// Which lock holds the rules of which policies: `bpf`, `apparmor` (with `--combine`), `seccomp`.
    pub held: BTreeMap<&'static str, BTreeSet<PolicyId>>,
    /// This host; absent with `--no-host`, and where all are seccomp policies, which need nothing of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
}

/// One file.
#[derive(Debug, Serialize)]
pub struct FileReport {
    /// Its path.
    pub file: PathBuf,
    /// Its good policies.
    pub policies: Vec<PolicyId>,
    /// Its errors.
    pub errors: Vec<PolicyError>,
}

/// A policy that is defined twice.
#[derive(Debug, Serialize)]
pub struct Duplicate {
    /// The policy.
    pub policy: PolicyId,
    /// The file that counts.
    pub first: PathBuf,
    /// A file that does not.
    pub second: PathBuf,
}

/// What this host lacks.
#[derive(Debug, Serialize)]
pub struct Host {
    /// Whether BPF-LSM works.
    pub enforces: bool,
    /// What does not hold.
    pub missing: Vec<HostCheck>,
}

/// Checks, and prints what it found.
pub fn run(args: &CheckArgs) -> Exit {
    let inputs = match input::load(&args.paths) {
        Ok(inputs) => inputs,
        Err(error) => {
            complain(format!("{}: {}\n", paint(BAD, "error"), chain(&error)));
            return Exit::BadInput;
        }
    };
    // seccomp policies need nothing that is looked for
    let only_seccomp = input::policies(&inputs).next().is_none() && input::seccomp(&inputs).next().is_some();
    let host = (!args.no_host && !only_seccomp).then(here);
    let report = report(&inputs, host, args);
    match args.output {
        Output::Json => say_json(&report),
        Output::Text => print(&report, &inputs),
    }
    if report.ok { Exit::Ok } else { Exit::No }
}

fn here() -> Host {
    let report = host::probe();
    Host {
        enforces: report.enforces(),
        missing: report.checks.into_iter().filter(|check| !check.ok).collect(),
    }
}

/// What of a policy is not enforced.
fn gaps(policy: &Policy, combine: bool, host: bool) -> Vec<Gap> {
    let id = policy.id();
    if id.kind == Kind::KubeArmorHostPolicy && !host {
        let gap = Gap {
            policy: id.clone(),
            field: "kind".to_owned(),
            reason: GapReason::HostPolicies,
            advice: HOST_ADVICE.to_owned(),
        };
        return vec![gap];
    }
    let Some(native) = policy.native_apparmor().filter(|_| combine) else { return policy.gaps().to_vec() };
    let native = Native { policy: policy.id().clone(), text: native.to_owned() };
    let none = Ruleset::resolve([], &Postures::default(), &Subject::default()).ruleset;
    let others = policy.gaps().iter().filter(|gap| gap.reason != GapReason::AppArmor).cloned();
    others.chain(apparmor::gaps(&none, &[native])).collect()
}

/// Which lock holds the rules of which policies.
fn held(inputs: &[Input], combine: bool) -> BTreeMap<&'static str, BTreeSet<PolicyId>> {
    let mut held: BTreeMap<_, BTreeSet<PolicyId>> = BTreeMap::new();
    for policy in input::policies(inputs) {
        let native = combine && policy.native_apparmor().is_some();
        for (lock, _) in
            [("bpf", !policy.rules().is_empty()), ("apparmor", native)].iter().filter(|(_, has)| *has)
        {
            held.entry(*lock).or_default().insert(policy.id().clone());
        }
    }
    for policy in input::seccomp(inputs) {
        held.entry("seccomp").or_default().insert(policy.id().clone());
    }
    held
}

fn report(inputs: &[Input], host: Option<Host>, args: &CheckArgs) -> Report {
    let files: Vec<FileReport> = inputs
        .iter()
        .map(|Input { path, text: _, parsed }| FileReport {
            file: path.clone(),
            policies: (parsed.policies.iter().map(Policy::id))
                .chain(parsed.seccomp.iter().map(SeccompPolicy::id))
                .cloned()
                .collect(),
            errors: parsed.errors.clone(),
        })
        .collect();
    let duplicates: Vec<Duplicate> = input::duplicates(inputs)
        .into_iter()
        .map(|(policy, first, second)| Duplicate { policy, first, second })
        .collect();
    let gaps: Vec<Gap> =
        input::policies(inputs).flat_map(|policy| gaps(policy, args.combine, args.host_policies)).collect();
    let errors = !duplicates.is_empty() || files.iter().any(|file| !file.errors.is_empty());
    let incomplete = !gaps.is_empty() || host.as_ref().is_some_and(|host| !host.enforces);
    let ok = !(errors || args.strict && incomplete);
    Report { ok, files, duplicates, gaps, held: held(inputs, args.combine), host }
}

fn print(report: &Report, inputs: &[Input]) {
    for Input { path, text, parsed } in inputs {
        for error in &parsed.errors {
            say(render(error, text));
        }
        let (style, mark) = if parsed.errors.is_empty() { (GOOD, "ok") } else { (BAD, "bad") };
        let policies = count(parsed.policies.len() + parsed.seccomp.len(), "policy", "policies");
        let errors = match parsed.errors.len() {
            0 => String::new(),
            number => format!(", {}", count(number, "error", "errors")),
        };
        say(format!("{} {}: {policies}{errors}\n", paint(style, format!("{mark:<4}")), path.display()));
    }
    for Duplicate { policy, first, second } in &report.duplicates {
        say(format!(
            "{}: the policy `{policy}` is defined in `{}` and again in `{}`, which does not count\n",
            paint(BAD, "error"),
            first.display(),
            second.display()
        ));
    }
    if inputs.is_empty() {
        say(format!("{}: no policy file (*.yaml, *.yml, *.json) there\n", paint(WARN, "warning")));
    }
    if let Some(policies) = report.held.get("apparmor") {
        let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
        say(format!("\n{}: native rules of {}\n", paint(BOLD, "Held by AppArmor"), names.join(", ")));
    }
    if !report.gaps.is_empty() {
        say(format!("\n{}\n", paint(BOLD, "Not enforced")));
        let mut rows = table(["Policy", "Field", "Why", "What to do"], 2);
        for Gap { policy, field, reason, advice } in &report.gaps {
            rows.add_row([policy.to_string(), field.clone(), reason.to_string(), advice.clone()]);
        }
        say(format!("{rows}\n"));
    }
    if let Some(Host { enforces, missing }) = &report.host
        && !missing.is_empty()
    {
        let title = match enforces {
            true => paint(BOLD, "What this host lacks, and can do without"),
            false => paint(
                WARN,
                "BPF-LSM does not work on this host: its rules are AppArmor's (see `nri-enforcer probe`), or nobody's",
            ),
        };
        say(format!("\n{title}\n"));
        let mut rows = table(["Missing", "Needed", "Found", "What to do"], 2);
        for HostCheck { name, required, detail, advice, .. } in missing {
            let needed = if *required { "yes" } else { "no" };
            rows.add_row([name.as_str(), needed, detail, advice]);
        }
        say(format!("{rows}\n"));
    }
}

fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}
