//! `check`: are these policies valid, and what would this host not enforce?

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use enforcer_core::coverage::Gap;
use enforcer_core::host::{self, Check as HostCheck};
use enforcer_core::policy::{Policy, PolicyError, PolicyId, SeccompPolicy};
use serde::Serialize;

use crate::cli::{CheckArgs, Output};
use crate::exit::{Exit, chain};
use crate::held::{Holders, NATIVE, NOBODY, Node, holders_of_seccomp};
use crate::input::{self, Input};
use crate::lock::{Lock, Lsm};
use crate::status;
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
    /// What the rules are judged for, by its name in the status of a daemon: `bpf`, `bpf+apparmor`.
    pub lock: &'static str,
    /// Why for that one.
    pub judged: Judged,
    /// What is understood and not enforced there, on any host.
    pub gaps: Vec<Gap>,
    /// Which lock holds rules of which policies: `bpf`, `apparmor`, `selinux`, `seccomp`.
    pub held: BTreeMap<&'static str, BTreeSet<PolicyId>>,
    /// The same of each rule, in the order of the files.
    pub rules: Vec<PolicyRules>,
    /// This host; absent with `--no-host`, and where all are seccomp policies, which need nothing of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
}

/// Why rules are judged for a lock.
#[derive(Debug, Serialize)]
pub struct Judged {
    /// Who says that it is that one.
    pub by: SaidBy,
    /// The same for people.
    pub why: String,
}

/// Who says for which lock rules are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SaidBy {
    /// An option.
    Option,
    /// The daemon that runs here.
    Daemon,
    /// Nobody: it is the default, and a node may have another one.
    Default,
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

/// Who holds the rules of a policy.
#[derive(Debug, Serialize)]
pub struct PolicyRules {
    /// The policy.
    pub policy: PolicyId,
    /// The places of its rules, by lock; `none`: no lock holds them.
    pub held: Holders,
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
    let (node, judged) = match node(args) {
        Ok(node) => node,
        Err(problem) => {
            complain(format!("{}: {problem}\n", paint(BAD, "error")));
            return Exit::BadInput;
        }
    };
    let host = (!args.no_host && !only_seccomp && node.lock.uses_bpf()).then(here);
    if !only_seccomp {
        judged.tell(node.lock);
    }
    let report = report(&inputs, host, (node, judged), args.strict);
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

impl Judged {
    /// Says for which lock rules are judged, where no option names it.
    fn tell(&self, lock: Lock) {
        let (style, mark) = match self.by {
            SaidBy::Option => return,
            SaidBy::Daemon => (BOLD, "note"),
            SaidBy::Default => (WARN, "warning"),
        };
        complain(format!("{}: judged for the lock {}: {}\n", paint(style, mark), lock.name(), self.why));
    }
}

/// The lock that rules are judged for and why, and whether policies on the host's own processes are enforced.
///
/// # Errors
/// When what is asked for contradicts itself.
fn node(args: &CheckArgs) -> Result<(Node, Judged), String> {
    let lock = match (args.lock, args.combine) {
        (None | Some(Lsm::Bpf), true) => Some(Lock::Both),
        (Some(other), true) => {
            return Err(format!("--combine is for bpf, which holds all that it can, not for {other}"));
        }
        (Some(Lsm::Bpf), false) => Some(Lock::Bpf),
        (Some(Lsm::AppArmor), false) => Some(Lock::AppArmor),
        (Some(Lsm::Selinux), false) => Some(Lock::Selinux),
        (None, false) => None,
    };
    let host = args.host_policies;
    if let Some(lock) = lock {
        let why = "an option names it".to_owned();
        return Ok((Node { lock, host }, Judged { by: SaidBy::Option, why }));
    }
    let default = |why: String| {
        let why = format!("{why}; --lock names that of a node");
        (Node { lock: Lock::default(), host }, Judged { by: SaidBy::Default, why })
    };
    if args.no_host {
        return Ok(default("it is the default where no daemon is asked (--no-host)".to_owned()));
    }
    let daemon = match status::show::ask(&args.status_socket) {
        Ok(document) => document.daemon,
        Err(error) => return Ok(default(chain(&error))),
    };
    let Some(lock) = Lock::named(&daemon.lock) else {
        return Ok(default(format!(
            "the daemon that runs here has `{}`, which this command does not know",
            daemon.lock
        )));
    };
    let host = host || daemon.host.as_ref().is_some_and(|host| host.enforced);
    let why = "the daemon that runs here has it".to_owned();
    Ok((Node { lock, host }, Judged { by: SaidBy::Daemon, why }))
}

/// Which lock holds rules of which policies, and each of their rules.
fn held(inputs: &[Input], node: Node) -> (BTreeMap<&'static str, BTreeSet<PolicyId>>, Vec<PolicyRules>) {
    let of_rules = input::policies(inputs).map(|policy| (policy.id(), node.holders(policy)));
    let of_seccomp = input::seccomp(inputs).map(|policy| (policy.id(), holders_of_seccomp(policy)));
    let mut held: BTreeMap<_, BTreeSet<PolicyId>> = BTreeMap::new();
    let mut rules = Vec::new();
    for (policy, holders) in of_rules.chain(of_seccomp) {
        for lock in holders.keys().filter(|lock| **lock != NOBODY) {
            held.entry(*lock).or_default().insert(policy.clone());
        }
        rules.push(PolicyRules { policy: policy.clone(), held: holders });
    }
    (held, rules)
}

fn report(inputs: &[Input], host: Option<Host>, (node, judged): (Node, Judged), strict: bool) -> Report {
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
    let gaps: Vec<Gap> = input::policies(inputs).flat_map(|policy| node.gaps(policy)).collect();
    let errors = !duplicates.is_empty() || files.iter().any(|file| !file.errors.is_empty());
    let incomplete = !gaps.is_empty() || host.as_ref().is_some_and(|host| !host.enforces);
    let ok = !(errors || strict && incomplete);
    let (held, rules) = held(inputs, node);
    Report { ok, files, duplicates, lock: node.lock.name(), judged, gaps, held, rules, host }
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
    if report.lock != Lock::Bpf.name() {
        say(format!("\n{}: {}\n", paint(BOLD, "Judged for the lock"), report.lock));
    }
    let native = |one: &&PolicyRules| one.held.get("apparmor").is_some_and(|rules| rules.contains(NATIVE));
    let natives: Vec<String> = report.rules.iter().filter(native).map(|one| one.policy.to_string()).collect();
    if !natives.is_empty() {
        say(format!("{}: native rules of {}\n", paint(BOLD, "Held by AppArmor"), natives.join(", ")));
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
