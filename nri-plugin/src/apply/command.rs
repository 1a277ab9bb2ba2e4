//! The commands' side: asks the daemon, waits, and prints.

use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::time::Duration;

use enforcer_core::policy::{Policy, SeccompPolicy};

use super::NewFile;
use super::client::{Daemon, PATIENCE, send};
use super::serve::{Answer, Request};
use crate::cli::{ApplyArgs, ConfirmArgs};
use crate::exit::{Exit, chain};
use crate::input::{self, Input};
use crate::term::{BAD, BOLD, GOOD, WARN, clean, complain, paint, say};

fn fail(problem: impl std::fmt::Display, exit: Exit) -> Exit {
    complain(format!("{}: {problem}\n", paint(BAD, "error")));
    exit
}

/// `apply`.
pub fn apply(args: &ApplyArgs) -> Exit {
    if let Some(dir) = args.files.iter().find(|path| path.is_dir()) {
        return fail(format_args!("`{}` is a directory; name files", dir.display()), Exit::BadInput);
    }
    let inputs = match input::load(&args.files) {
        Ok(inputs) => inputs,
        Err(error) => return fail(chain(&error), Exit::BadInput),
    };
    if let Err(problem) = input::refuse_bad(&inputs) {
        return fail(problem, Exit::BadInput);
    }
    let name = |input: &Input| input.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let files: Vec<NewFile> =
        inputs.iter().map(|input| NewFile { name: name(input), text: input.text.clone() }).collect();
    let within = args.confirm_within.map(Duration::from);
    let confirm_within = within.map(|within| u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
    let mut daemon = match Daemon::reach(&args.admin_socket) {
        Ok(daemon) => daemon,
        Err(problem) => return fail(problem, Exit::No),
    };
    match daemon.ask(&Request::Apply { files, confirm_within }) {
        Ok(Answer::Applied { dir, remarks }) => {
            print(&inputs, &dir, &remarks);
            say(format!("{}\n", paint(GOOD, "Applied.")));
            Exit::Ok
        }
        Ok(Answer::Pending { dir, remarks }) => {
            print(&inputs, &dir, &remarks);
            wait(daemon, within.unwrap_or_default(), PATIENCE, remarks.is_empty())
        }
        Ok(answer) => end(answer),
        Err(problem) => fail(problem, Exit::No),
    }
}

/// What is put where, and what of it is not in force.
fn print(inputs: &[Input], dir: &Path, remarks: &[String]) {
    for Input { path, parsed, .. } in inputs {
        let policies =
            parsed.policies.iter().map(Policy::id).chain(parsed.seccomp.iter().map(SeccompPolicy::id));
        let policies: Vec<String> = policies.map(|id| format!("{} {id}", id.kind)).collect();
        let policies = if policies.is_empty() { "no policy".to_owned() } else { policies.join(", ") };
        let to = dir.join(path.file_name().unwrap_or_default());
        say(format!("{}: {}\n", paint(BOLD, clean(&to.display().to_string())), clean(&policies)));
    }
    for remark in remarks {
        complain(format!("{}: not in force: {}\n", paint(WARN, "warning"), clean(remark)));
    }
}

/// How the change ends. `patience`: how much longer than `within` the daemon may say nothing.
fn wait(mut daemon: Daemon, within: Duration, patience: Duration, all: bool) -> Exit {
    let terminal = std::io::stdin().is_terminal();
    let or_here = if terminal { ", or press Enter here" } else { "" };
    say(format!(
        "{}: all of it is undone in {} unless you run `nri-enforcer confirm`{or_here}.\n",
        paint(WARN, if all { "In force for now" } else { "In force in part for now" }),
        humantime::format_duration(within)
    ));
    if let (true, Ok(mut requests)) = (terminal, daemon.requests.try_clone()) {
        std::thread::spawn(move || {
            let mut line = String::new();
            if std::io::stdin().lock().read_line(&mut line).is_ok_and(|length| length > 0) {
                let _ended = send(&mut requests, &Request::Confirm);
            }
        });
    }
    let _unbounded = daemon.requests.set_read_timeout(Some(within + patience));
    loop {
        match daemon.next() {
            Ok(Some(Answer::Refused { why })) => complain(format!("{}: {why}\n", paint(WARN, "warning"))),
            Ok(Some(answer)) => return end(answer),
            Ok(None) => {
                return fail(
                    "the daemon ended before the change was confirmed: it is reverted when the daemon starts again, and in \
                     force until then",
                    Exit::Reverted,
                );
            }
            Err(problem) => {
                return fail(
                    format_args!(
                        "{problem}; the change may still be in force: `nri-enforcer status` tells what cannot be reverted"
                    ),
                    Exit::No,
                );
            }
        }
    }
}

fn list(files: &[String]) -> String {
    clean(&super::list(files))
}

fn end(answer: Answer) -> Exit {
    match answer {
        Answer::Confirmed { files } => {
            say(format!("{}: {} stays in force.\n", paint(GOOD, "Confirmed"), list(&files)));
            Exit::Ok
        }
        Answer::Reverted { files, why } => {
            complain(format!("{}: {}: {}\n", paint(BAD, "Reverted"), list(&files), clean(&why)));
            Exit::Reverted
        }
        Answer::Nothing => fail("no change waits to be confirmed", Exit::No),
        Answer::Refused { why } => fail(why, Exit::No),
        _ => fail("the daemon's answer makes no sense", Exit::No),
    }
}

/// `confirm`.
pub fn confirm(args: &ConfirmArgs) -> Exit {
    let request = if args.revert { Request::Revert } else { Request::Confirm };
    let answer = Daemon::reach(&args.admin_socket).and_then(|mut daemon| daemon.ask(&request));
    match answer {
        Ok(Answer::Reverted { files, why }) if args.revert => {
            say(format!("{}: {}: {}\n", paint(GOOD, "Reverted"), list(&files), clean(&why)));
            Exit::Ok
        }
        Ok(answer) => end(answer),
        Err(problem) => fail(problem, Exit::No),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// What a change comes to for its maker where the daemon answers this; it stays, or ends.
    fn ends(answers: &[Answer], stays: bool) -> Exit {
        let (requests, mut daemon) = UnixStream::pair().unwrap();
        let answers_read = BufReader::new(requests.try_clone().unwrap());
        for answer in answers {
            daemon.write_all(&[&serde_json::to_vec(answer).unwrap()[..], b"\n"].concat()).unwrap();
        }
        let _until_the_end = stays.then_some(daemon);
        let short = Duration::from_millis(50);
        wait(Daemon { answers: answers_read, requests }, short, short, true)
    }

    #[test]
    fn reverted_is_said_of_what_is_reverted_alone() {
        let stuck = || Answer::Refused { why: "cannot put back".into() };
        let reverted = || Answer::Reverted { files: vec!["a.yaml".into()], why: "in time".into() };
        assert_eq!(ends(&[stuck()], true), Exit::No, "tried on, for ever");
        assert_eq!(ends(&[], true), Exit::No, "the daemon hangs");
        assert_eq!(ends(&[Answer::Nothing], true), Exit::No);
        assert_eq!(ends(&[stuck(), stuck(), reverted()], true), Exit::Reverted);
        assert_eq!(ends(&[stuck()], false), Exit::Reverted, "the next daemon begins with it");
        assert_eq!(ends(&[Answer::Confirmed { files: vec![] }], true), Exit::Ok);
    }
}
