//! `top`: what is denied on this node now, and what that costs.

pub mod document;
mod rates;
mod screen;
mod show;
pub mod source;
pub mod tally;

use std::io::IsTerminal;
use std::thread::sleep;

use self::document::Snapshot;
use self::rates::Rates;
use crate::apply::client::Daemon;
use crate::apply::serve::{Answer, Request};
use crate::cli::{Output, TopArgs};
use crate::exit::Exit;
use crate::term::{BAD, clean, complain, paint, say, say_json};

/// Looks, and shows.
pub fn run(args: &TopArgs) -> Exit {
    let shown = match args.once || !std::io::stdout().is_terminal() {
        true => once(args),
        false => screen::run(args),
    };
    match shown {
        Ok(()) => Exit::Ok,
        Err(problem) => {
            complain(format!("{}: {}\n", paint(BAD, "error"), clean(&problem)));
            Exit::No
        }
    }
}

fn once(args: &TopArgs) -> Result<(), String> {
    let mut daemon = Daemon::reach(&args.admin_socket)?;
    let before = look(&mut daemon)?;
    sleep(args.interval);
    let rates = Rates::new(&before, &look(&mut daemon)?);
    match args.output {
        Output::Json => say_json(&rates),
        Output::Text => say(show::all(&rates, args.sort)),
    }
    Ok(())
}

fn look(daemon: &mut Daemon) -> Result<Snapshot, String> {
    match daemon.ask(&Request::Top)? {
        Answer::Counted { counted } => Ok(*counted),
        Answer::Refused { why } => Err(why),
        _ => Err("the daemon's answer makes no sense".to_owned()),
    }
}
