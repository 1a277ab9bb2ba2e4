//! `probe`: what this host supports, and why not.

use comfy_table::{Cell, Color};
use enforcer_core::host::{self, Check, HostReport};
use serde::Serialize;

use crate::cli::{Output, ProbeArgs};
use crate::exit::Exit;
use crate::term::{BAD, GOOD, mark, paint, say, say_json, table};

/// The answer, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct Report<'a> {
    enforces: bool,
    checks: &'a [Check],
}

/// Looks, and prints what it found.
pub fn run(args: &ProbeArgs) -> Exit {
    let host = host::probe();
    let enforces = host.enforces();
    match args.output {
        Output::Json => say_json(&Report { enforces, checks: &host.checks }),
        Output::Text => print(&host),
    }
    if enforces { Exit::Ok } else { Exit::No }
}

fn print(host: &HostReport) {
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
    let verdict = if host.enforces() {
        paint(GOOD, "This host can enforce.")
    } else {
        paint(BAD, "This host cannot enforce.")
    };
    say(format!("{verdict}\n"));
}
