//! `probe`: what this host supports, and why not; and which lock is taken.

use comfy_table::{Cell, Color};
use enforcer_core::enforce::apparmor::AppArmor;
use enforcer_core::enforce::selinux::{RECORD, Selinux};
use enforcer_core::host::{self, Check, HostReport};
use serde::Serialize;

use crate::cli::{Output, ProbeArgs, RunArgs};
use crate::config::{Locks, nri_socket};
use crate::exit::{Exit, chain};
use crate::lock::taken::{Found, taken};
use crate::lock::unsupported::{self, Securityfs};
use crate::lock::{DEFAULT_ORDER, Lsm};
use crate::selinux::denied_nothing;
use crate::status;
use crate::term::{BAD, BOLD, GOOD, WARN, complain, mark, paint, say, say_json, table};

/// The answer, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether what is taken holds rules of containers.
    enforces: bool,
    /// What the daemon that runs here took, as its status has it; null: none was asked, or none answers, and `taken` is what
    /// one would take.
    running: Option<String>,
    /// The locks, in the order in which the daemon tries them, and then others.
    locks: Vec<Tried>,
    /// What BPF-LSM needs.
    checks: Vec<Check>,
    /// What is to be done about NRI; null: its socket is there, or the node is said to have none, or a daemon runs.
    nri: Option<String>,
}

/// A lock, tried.
#[derive(Debug, Serialize)]
struct Tried {
    lock: String,
    works: bool,
    /// Whether this host has it, and it fails: a daemon that tries it does not start.
    fails: bool,
    /// Whether it holds rules, or would.
    taken: bool,
    why: String,
    #[serde(skip)]
    lsm: Lsm,
}

/// Looks, and prints what it found.
pub fn run(args: &ProbeArgs) -> Exit {
    let settings = RunArgs {
        config: args.config.clone(),
        lsm_order: args.lsm_order.clone(),
        combine: args.combine,
        host_policies: args.host_policies,
        ..RunArgs::default()
    };
    let wanted = match Locks::new(&settings).and_then(|wanted| Ok((wanted, nri_socket(&settings)?))) {
        Ok(wanted) => wanted,
        Err(error) => {
            complain(format!("{}: {}\n", paint(BAD, "error"), chain(&error)));
            return Exit::BadInput;
        }
    };
    let (wanted, nri) = wanted;
    let asked = args.config.is_some() || !args.lsm_order.is_empty() || args.combine || args.host_policies;
    // an older daemon says nothing
    let running = (!asked).then(|| status::show::ask(&args.status_socket).ok()).flatten();
    let seccomp_only = running.as_ref().is_some_and(|document| document.daemon.seccomp_only);
    let running = running.map(|document| document.daemon.lock).filter(|lock| !lock.is_empty());
    let host = host::probe();
    let others = DEFAULT_ORDER.into_iter().filter(|lsm| !wanted.order.contains(lsm));
    let mut locks: Vec<Tried> =
        wanted.order.iter().copied().chain(others).map(|lsm| tried(lsm, &host)).collect();
    let found = |lsm: Lsm| match locks.iter().find(|lock| lock.lsm == lsm) {
        Some(lock) if lock.works => Found::Works,
        Some(lock) if lock.fails => Found::Fails,
        _ => Found::Absent,
    };
    let would = taken(&wanted, found);
    for lock in &mut locks {
        lock.taken = match (&running, &would) {
            (Some(running), _) => running.split('+').any(|name| name == lock.lock),
            (None, Ok(taken)) => taken.contains(&lock.lsm),
            (None, Err(_)) => false,
        };
    }
    let enforces = locks.iter().any(|lock| lock.taken && lock.lsm != Lsm::Selinux);
    let nri = nri.filter(|path| running.is_none() && !path.exists()).map(|path| {
        format!(
            "No runtime's NRI socket is at `{}`: switch NRI on (`nri-enforcer install --runtime containerd` or `crio`), or, where \
             there is only podman or the host itself, run the daemon with --nri-socket none.",
            path.display()
        )
    });
    let report = Report { enforces, running, locks, checks: host.checks, nri };
    match args.output {
        Output::Json => say_json(&report),
        Output::Text => print(&report, would.err(), seccomp_only),
    }
    if enforces { Exit::Ok } else { Exit::No }
}

fn tried(lsm: Lsm, host: &HostReport) -> Tried {
    let securityfs = Securityfs::of_this_host();
    let found = match lsm {
        Lsm::Bpf if host.enforces() => Ok("the matcher and a program for a hook load".to_owned()),
        Lsm::Bpf => {
            let missing = host.checks.iter().filter(|check| check.required && !check.ok);
            let why: Vec<_> = missing.map(|check| format!("{}: {}", check.name, check.detail)).collect();
            Err((why.join("; "), unsupported::bpf_of(host, securityfs)))
        }
        Lsm::Selinux => match Selinux::open(RECORD.as_ref()) {
            Ok(selinux) => Ok(selinux_works(&selinux)),
            Err(error) => Err((chain(&error), unsupported::selinux(&error))),
        },
        Lsm::AppArmor => match AppArmor::open(None).and_then(|apparmor| apparmor.try_out()) {
            Ok(()) => Ok("a profile was compiled, loaded, and removed".to_owned()),
            Err(error) => Err((chain(&error), unsupported::apparmor(&error, securityfs))),
        },
    };
    let (works, fails) = (found.is_ok(), matches!(found, Err((_, false))));
    let why = found.unwrap_or_else(|(why, _)| why);
    Tried { lock: lsm.to_string(), works, fails, taken: false, why, lsm }
}

fn selinux_works(selinux: &Selinux) -> String {
    let permissive = match selinux.permissive() {
        Ok(found) => {
            let named = (!found.domains.is_empty()).then(|| denied_nothing(&found.domains));
            named.into_iter().chain(found.unknown()).map(|what| format!("; {what}")).collect()
        }
        Err(error) => format!("; which domains are permissive is not known: {}", chain(&error)),
    };
    format!("it is enforcing, and `semodule` reads its modules; for `--host-policies` alone{permissive}")
}

/// `failing`: the lock by which a daemon would not start. `seccomp_only`: the one that runs is for seccomp policies alone.
fn print(report: &Report, failing: Option<Lsm>, seccomp_only: bool) {
    let Report { enforces, running, locks, checks, nri } = report;
    let mut rows = table(["", "Lock", "Why"], 2);
    for Tried { lock, works, fails, taken, why, .. } in locks {
        let word = match (works, taken) {
            (_, true) => mark("taken", Color::Green),
            (true, false) => mark("works", Color::Green),
            (false, _) if *fails => mark("fails", Color::Red),
            (false, _) => mark("is not there", Color::Red),
        };
        rows.add_row([word, Cell::new(lock), Cell::new(why)]);
    }
    say(format!("{rows}\n"));
    say(format!("{}\n", paint(BOLD, "What BPF-LSM needs")));
    let mut rows = table(["", "Check", "Found", "What to do"], 2);
    for Check { name, ok, required, detail, advice } in checks {
        let ok = match (ok, required) {
            (true, _) => mark("yes", Color::Green),
            (false, true) => mark("no", Color::Red),
            (false, false) => mark("no, optional", Color::Yellow),
        };
        rows.add_row([ok, Cell::new(name), Cell::new(detail), Cell::new(advice)]);
    }
    say(format!("{rows}\n"));
    if let Some(nri) = nri {
        say(format!("{}\n", paint(WARN, nri)));
    }
    let taken: Vec<&str> = locks.iter().filter(|lock| lock.taken).map(|lock| lock.lock.as_str()).collect();
    let by = taken.join(" and ");
    let style = if *enforces { GOOD } else { BAD };
    let verdict = match (running, failing) {
        (Some(_), _) if taken.is_empty() && seccomp_only => {
            "The daemon that runs here enforces seccomp policies alone.".to_owned()
        }
        (Some(_), _) if taken.is_empty() => "The daemon that runs here only observes.".to_owned(),
        (Some(_), _) if !enforces => {
            format!("The daemon that runs here enforces policies on the host's own processes alone, by {by}.")
        }
        (Some(_), _) => format!("The daemon that runs here enforces, by {by}."),
        (None, Some(lsm)) => format!("The daemon would not start: {lsm} is there, and fails."),
        (None, None) if taken.is_empty() => {
            "This host cannot enforce: the daemon would only observe.".to_owned()
        }
        (None, None) if !enforces => format!(
            "This host cannot enforce policies on containers; those on its own processes it can, by {by}."
        ),
        (None, None) => format!("This host can enforce, by {by}."),
    };
    say(format!("{}\n", paint(style, verdict)));
}
