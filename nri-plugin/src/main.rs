//! The binary: reads the command line, calls the command, exits with its code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use nri_plugin::cli::{Cli, Command, LearnCommand, RunArgs, SeccompCommand};
use nri_plugin::config::{Config, OWN_NAMESPACE_ENV};
use nri_plugin::exit::{Exit, chain};
use nri_plugin::term::{BAD, complain, paint};
use nri_plugin::{
    alerts, apply, check, compile, crds, diff, documents, explain, install, kernel, learn, log, policy_test,
    probe, run, seccomp, status, top, unload,
};

fn main() -> ExitCode {
    let exit = match Cli::parse().command {
        Command::Run(args) => daemon(*args),
        Command::Check(args) => check::run(&args),
        Command::Compile(args) => compile::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Test(args) => policy_test::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Apply(args) => apply::command::apply(&args),
        Command::Confirm(args) => apply::command::confirm(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Status(args) => status::show::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Alerts(args) => alerts::run(&args),
        Command::Install(args) => install::run(&args),
        Command::InRoot(args) => return install::tool::in_root(&args),
        Command::Seccomp(SeccompCommand::Systemd(args)) => seccomp::systemd::run(&args),
        Command::Learn(LearnCommand::Policy(args)) => learn::command::run(&args),
        Command::Learn(LearnCommand::Seccomp(args)) => seccomp::learn::run(&args),
        Command::Unload(args) => unload::run(&args),
        Command::Completions(args) => documents::completions(&args),
        Command::Crds(args) => crds::run(&args),
        Command::Man(args) => documents::man(&args),
    };
    exit.into()
}

fn daemon(args: RunArgs) -> Exit {
    let fail = |problem: String, exit| {
        complain(format!("{}: {problem}\n", paint(BAD, "error")));
        exit
    };
    let config = match Config::new(args, std::env::var(OWN_NAMESPACE_ENV).ok()) {
        Ok(config) => config,
        Err(error) => return fail(chain(&error), Exit::BadInput),
    };
    let _log = match log::start(config.log_format, config.log_level.as_deref()) {
        Ok(log) => log,
        Err(problem) => return fail(problem, Exit::BadInput),
    };
    match run::run(config, kernel::open, kernel::open_apparmor) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tracing::error!("{error:#}");
            Exit::No
        }
    }
}
