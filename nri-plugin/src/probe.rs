//! `probe`: what this host supports, and why not.

use comfy_table::{Cell, Color};
use enforcer_core::enforce::apparmor::AppArmor;
use enforcer_core::enforce::selinux::{RECORD, Selinux};
use enforcer_core::host::{self, Check, HostReport};
use serde::Serialize;

use crate::cli::{Output, ProbeArgs};
use crate::exit::{Exit, chain};
use crate::lock::{DEFAULT_ORDER, Lsm};
use crate::selinux::denied_nothing;
use crate::term::{BAD, BOLD, GOOD, mark, paint, say, say_json, table};

/// The answer, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Whether some lock works for containers.
    enforces: bool,
    /// The locks, in the order in which the daemon tries them unless told otherwise.
    locks: &'a [Tried],
    /// What BPF-LSM needs.
    checks: &'a [Check],
}

/// A lock, tried.
#[derive(Debug, Serialize)]
struct Tried {
    lock: String,
    works: bool,
    /// Whether it is the first that works.
    taken: bool,
    why: String,
}

/// Looks, and prints what it found.
pub fn run(args: &ProbeArgs) -> Exit {
    let host = host::probe();
    let mut locks = Vec::new();
    for lsm in DEFAULT_ORDER {
        let found = match lsm {
            Lsm::Bpf if host.enforces() => Ok("the matcher and a program for a hook load".to_owned()),
            Lsm::Bpf => {
                let missing = host.checks.iter().filter(|check| check.required && !check.ok);
                Err(missing
                    .map(|check| format!("{}: {}", check.name, check.detail))
                    .collect::<Vec<_>>()
                    .join("; "))
            }
            Lsm::Selinux => match Selinux::open(RECORD.as_ref()) {
                Ok(selinux) => Ok(selinux_works(&selinux)),
                Err(error) => Err(chain(&error)),
            },
            Lsm::AppArmor => match AppArmor::open(None).and_then(|apparmor| apparmor.try_out()) {
                Ok(()) => Ok("a profile was compiled, loaded, and removed".to_owned()),
                Err(error) => Err(chain(&error)),
            },
        };
        let works = found.is_ok();
        let taken = works && locks.iter().all(|before: &Tried| !before.works);
        let why = found.unwrap_or_else(|why| why);
        locks.push(Tried { lock: lsm.to_string(), works, taken, why });
    }
    let host_alone = Lsm::Selinux.to_string();
    let enforces = locks.iter().any(|lock| lock.works && lock.lock != host_alone);
    match args.output {
        Output::Json => say_json(&Report { enforces, locks: &locks, checks: &host.checks }),
        Output::Text => print(&host, &locks),
    }
    if enforces { Exit::Ok } else { Exit::No }
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

fn print(host: &HostReport, locks: &[Tried]) {
    let mut rows = table(["", "Lock", "Why"], 2);
    for Tried { lock, works, taken, why } in locks {
        let word = match (works, taken) {
            (_, true) => mark("taken", Color::Green),
            (true, false) => mark("works", Color::Green),
            (false, _) => mark("does not work", Color::Red),
        };
        rows.add_row([word, Cell::new(lock), Cell::new(why)]);
    }
    say(format!("{rows}\n"));
    say(format!("{}\n", paint(BOLD, "What BPF-LSM needs")));
    let mut rows = table(["", "Check", "Found", "What to do"], 2);
    for Check { name, ok, required, detail, advice } in &host.checks {
        let ok = match (ok, required) {
            (true, _) => mark("yes", Color::Green),
            (false, true) => mark("no", Color::Red),
            (false, false) => mark("no, optional", Color::Yellow),
        };
        rows.add_row([ok, Cell::new(name), Cell::new(detail), Cell::new(advice)]);
    }
    say(format!("{rows}\n"));
    let verdict = match locks.iter().find(|lock| lock.taken) {
        Some(Tried { lock, .. }) if *lock == Lsm::Selinux.to_string() => paint(
            BAD,
            "This host cannot enforce policies on containers; those on its own processes it can, by selinux.",
        ),
        Some(lock) => paint(GOOD, format!("This host can enforce, by {}.", lock.lock)),
        None => paint(BAD, "This host cannot enforce: the daemon would only observe."),
    };
    say(format!("{verdict}\n"));
}
