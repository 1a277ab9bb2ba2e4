//! `lab`: see `lab --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    lab::commands::carry_out(lab::cli::Cli::parse().command)
}
