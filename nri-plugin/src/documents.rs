//! `completions` and `man`: what shells and readers of manuals need, made of the command line itself.

use std::path::Path;

use clap::{Command, CommandFactory};

use crate::cli::{Cli, CompletionsArgs, ManArgs};
use crate::exit::Exit;
use crate::term::{BAD, complain, paint, say};

/// Prints the completions of a shell.
pub fn completions(args: &CompletionsArgs) -> Exit {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nri-enforcer", &mut text);
    print(&text)
}

/// Prints the manual page of the whole, or writes one for each command.
pub fn man(args: &ManArgs) -> Exit {
    let Some(dir) = &args.dir else {
        let mut text = Vec::new();
        return match clap_mangen::Man::new(Cli::command()).render(&mut text) {
            Ok(()) => print(&text),
            Err(error) => fail(&error.to_string()),
        };
    };
    match write(dir) {
        Ok(()) => Exit::Ok,
        Err(error) => fail(&format!("cannot write the pages into `{}`: {error}", dir.display())),
    }
}

fn write(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut command: Command = Cli::command().disable_help_subcommand(true);
    command.build();
    clap_mangen::generate_to(command, dir)
}

fn print(text: &[u8]) -> Exit {
    say(String::from_utf8_lossy(text));
    Exit::Ok
}

fn fail(problem: &str) -> Exit {
    complain(format!("{}: {problem}\n", paint(BAD, "error")));
    Exit::No
}
