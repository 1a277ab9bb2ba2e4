//! `unload`: takes everything out of the kernel again.

use std::io::{BufRead, IsTerminal};

use crate::cli::UnloadArgs;
use crate::exit::{Exit, chain};
use crate::term::{BAD, GOOD, WARN, complain, paint, say};

/// Asks, unless told not to, and removes.
pub fn run(args: &UnloadArgs) -> Exit {
    if !args.yes && !confirmed(args) {
        return Exit::BadInput;
    }
    match enforcer_core::enforce::unload(&args.bpffs) {
        Ok(()) => {
            say(format!(
                "{} nothing of `{}` is left in the kernel\n",
                paint(GOOD, "ok"),
                args.bpffs.display()
            ));
            Exit::Ok
        }
        Err(error) => {
            complain(format!("{}: {}\n", paint(BAD, "error"), chain(&error)));
            Exit::No
        }
    }
}

fn confirmed(args: &UnloadArgs) -> bool {
    let what = format!("every container that `{}` protects goes unprotected", args.bpffs.display());
    if !std::io::stdin().is_terminal() {
        complain(format!("{}: {what}; say --yes if that is meant\n", paint(BAD, "error")));
        return false;
    }
    complain(format!("{}: {what}. Go on? [y/N] ", paint(WARN, "warning")));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
