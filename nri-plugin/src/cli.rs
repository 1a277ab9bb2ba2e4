//! The command line: what a user may type. Each command's own module says what it does.

mod alerts;
mod apply;
mod daemon;
mod diff;
mod documents;
mod install;
mod learn;
mod policy;
mod seccomp;
mod test;
mod top;
mod values;

use clap::{Parser, Subcommand};

use self::alerts::ALERTS_HELP;
use self::apply::{APPLY_HELP, CONFIRM_HELP};
use self::daemon::{PROBE_HELP, RUN_HELP, STATUS_HELP};
use self::diff::DIFF_HELP;
use self::documents::{COMPLETIONS_HELP, CRDS_HELP, MAN_HELP};
use self::install::INSTALL_HELP;
use self::policy::{CHECK_HELP, COMPILE_HELP, EXPLAIN_HELP};
use self::test::TEST_HELP;
use self::top::TOP_HELP;

pub use self::alerts::{AlertAction, AlertOperation, AlertsArgs, Since};
pub use self::apply::{ApplyArgs, ConfirmArgs};
pub use self::daemon::{LogFormat, ProbeArgs, RunArgs, StatusArgs, UnloadArgs};
pub use self::diff::DiffArgs;
pub use self::documents::{CompletionsArgs, CrdsArgs, ManArgs};
pub use self::install::{InRootArgs, InstallArgs, Runtime};
pub use self::learn::{LearnCommand, LearnPolicyArgs, LearnSeccompArgs};
pub use self::policy::{CheckArgs, CompileArgs, ExplainArgs};
pub use self::seccomp::{SeccompCommand, SystemdArgs};
pub use self::test::{TestArgs, TestOutput};
pub use self::top::{Sort, TopArgs};
pub use self::values::{BaseChoice, ExpectedVerdict, Label, LibseccompVersion, Output, Posture, postures};

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  the answer is no: a policy has errors, the verdict is not the expected one, this host cannot enforce, or the daemon failed
  2  bad usage or input that cannot be read";

/// Enforces KubeArmor policies on containers, from their first instruction, through NRI and BPF-LSM.
#[derive(Debug, Parser)]
#[command(name = "nri-enforcer", version, about, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: connect to the container runtime and enforce the policies of the given directories
    #[command(after_help = RUN_HELP)]
    Run(Box<RunArgs>),
    /// Validate policy files and show what this host would not enforce
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
    /// Print what the policies make of a container: with --seccomp, its seccomp profile as OCI JSON
    #[command(after_help = COMPILE_HELP)]
    Compile(Box<CompileArgs>),
    /// Say what the policies decide about one access of one container, and why
    #[command(after_help = EXPLAIN_HELP)]
    Explain(Box<ExplainArgs>),
    /// Run policy tests: accesses of a container, and what the policies must decide about each
    #[command(after_help = TEST_HELP)]
    Test(TestArgs),
    /// Say what a change of the policies alters for a container, or for all that run on this node
    #[command(after_help = DIFF_HELP)]
    Diff(Box<DiffArgs>),
    /// Put policy files into the running daemon's policy directory, for a while unless that is confirmed
    #[command(after_help = APPLY_HELP)]
    Apply(ApplyArgs),
    /// Keep a change that `apply --confirm-within` made, or end it now
    #[command(after_help = CONFIRM_HELP)]
    Confirm(ConfirmArgs),
    /// Show what this host supports, and what to do about the rest
    #[command(after_help = PROBE_HELP)]
    Probe(ProbeArgs),
    /// Ask the running daemon how each container stands to its policies
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Watch what is denied on this node now, and what enforcement costs in the kernel
    #[command(after_help = TOP_HELP)]
    Top(TopArgs),
    /// Show the daemon's alerts, by asking it or from a file, filtered, for people
    #[command(after_help = ALERTS_HELP)]
    Alerts(Box<AlertsArgs>),
    /// Set a container runtime up for nri-enforcer, or undo that: NRI switched on, the OCI hook in place
    #[command(after_help = INSTALL_HELP)]
    Install(InstallArgs),
    /// Run a program of the system below another root, as `chroot` does: for `install`, in an image that has no `chroot`
    #[command(hide = true)]
    InRoot(InRootArgs),
    /// Apply seccomp policies where there is no container runtime
    #[command(subcommand)]
    Seccomp(SeccompCommand),
    /// Make a policy of what was seen
    #[command(subcommand)]
    Learn(LearnCommand),
    /// Remove everything from the kernel: every container goes unprotected
    #[command(
        after_help = "Exit codes:\n  0  nothing is left in the kernel\n  1  something could not be removed\n  2  not confirmed"
    )]
    Unload(UnloadArgs),
    /// Print the custom resource definitions of the policies' kinds, or write each to a file
    #[command(after_help = CRDS_HELP)]
    Crds(CrdsArgs),
    /// Print what a shell needs to complete this command
    #[command(after_help = COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command
    #[command(after_help = MAN_HELP)]
    Man(ManArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
