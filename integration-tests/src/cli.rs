//! The command line of `lab`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bench::Rules;
use crate::vm::{Containerd, Kernel};

const EXIT_CODES: &str = "\
Exit codes of `run`:
  0..255  that of the command, when there is exactly one (127: it is not there, 126: it is no program, 124: too slow;
          where a policy denies its execution, the runtime's helper fails in its place, with 1 or 255)
  0       when there are several; the report has theirs
  2       bad usage: an argument, a policy or a manifest that cannot be read
  125     the lab itself failed";

/// Tries policies on real containers: containerd and runc on a stock Debian kernel, in a fresh virtual machine each time.
#[derive(Debug, Parser)]
#[command(name = "lab", version, about, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a pod under policies, run commands in it, and show what was denied
    #[command(after_help = RUN_HELP)]
    Run(Box<RunArgs>),
    /// Show nri-enforcer at work: a policy denies a container its first system call, and goes on when the daemon is killed
    Demo(DemoArgs),
    /// Run a program of this machine in a fresh guest, as root, with the given files beside it
    Guest(GuestArgs),
    /// Count the instructions that enforcement adds to single operations, and compare them with what is promised
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
    /// Load every program on every kernel, and compare what the verifier went through with the record
    Verifier(VerifierArgs),
    /// Make the saved machines that tests use, so that the first test does not wait for them
    Prepare,
    /// The lab's own side in a guest
    #[command(hide = true)]
    Agent(AgentArgs),
}

const RUN_HELP: &str = "\
The commands of --exec run in their order, then COMMAND (unless it is the container's own with --entry). They are
executed as they stand; those that contain what only a shell can do (pipes, redirections, variables, ...) by
/bin/sh -c. Containers get a busybox system as their root, each applet a file of its own, unless --rootfs names another.

Examples:
  lab run --policy examples/policies/block-etc-passwd-read.yaml --label app=my-web-app -- cat /etc/passwd
  lab run --policy policies/*.yaml --pod pod.yaml --exec 'id' --exec 'echo x > /etc/motd' -o json
  lab run --kernel 6.1 --containerd 2.1 --policy p.yaml --label app=web --entry -- /bin/first

Exit codes: see `lab --help`";

/// `lab run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The guest's kernel: 6.1, 6.12 or newest
    #[arg(long, value_name = "VERSION", default_value = "6.12")]
    pub kernel: Kernel,
    /// The guest's containerd: 1.7 or 2.1
    #[arg(long, value_name = "VERSION", default_value = "2.1")]
    pub containerd: Containerd,
    /// Policy files, or directories of them; without any, no daemon runs
    #[arg(long = "policy", value_name = "FILE", num_args = 1..)]
    pub policies: Vec<PathBuf>,
    /// Kubernetes manifest of the pod (metadata, init containers, containers: names, commands, environment, users)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["namespace", "labels", "user"])]
    pub pod: Option<PathBuf>,
    /// Root of the containers: a folder or a tar archive
    #[arg(long, value_name = "DIR_OR_TAR")]
    pub rootfs: Option<PathBuf>,
    /// COMMAND is the container's own program, not one that is run in it
    #[arg(long, requires = "command")]
    pub entry: bool,
    /// A command to run in the container; may be repeated
    #[arg(long = "exec", value_name = "COMMAND")]
    pub execs: Vec<String>,
    /// Namespace of the pod
    #[arg(long, value_name = "NS", default_value = "default")]
    pub namespace: String,
    /// Label of the pod; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Name of the container; with --pod, the one that commands run in [default: the first]
    #[arg(long, value_name = "NAME")]
    pub container: Option<String>,
    /// What happens to an access that no rule matches, where a class has Allow rules; may be repeated
    #[arg(long = "posture", value_name = "CLASS=ACTION", value_parser = posture)]
    pub postures: Vec<String>,
    /// Numeric user that the container runs as
    #[arg(long, value_name = "UID", value_parser = clap::value_parser!(i64).range(0..=4_294_967_294))]
    pub user: Option<i64>,
    /// Seconds that each program may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
    /// How the result is shown
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Use this machine's own kernel, which must be able to load BPF-LSM programs, not a guest
    #[arg(long)]
    pub host: bool,
    /// The daemon [default: the nri-enforcer that was built beside this program]
    #[arg(long, value_name = "PROGRAM", env = "NRI_ENFORCER_DAEMON")]
    pub daemon: Option<PathBuf>,
    /// The command
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `lab demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The policy
    #[arg(long, value_name = "FILE", default_value = "examples/policies/block-etc-passwd-read.yaml")]
    pub policy: PathBuf,
    /// The guest's kernel: 6.1, 6.12 or newest
    #[arg(long, value_name = "VERSION", default_value = "6.12")]
    pub kernel: Kernel,
    /// The guest's containerd: 1.7 or 2.1
    #[arg(long, value_name = "VERSION", default_value = "2.1")]
    pub containerd: Containerd,
    /// The daemon [default: the nri-enforcer that was built beside this program]
    #[arg(long, value_name = "PROGRAM", env = "NRI_ENFORCER_DAEMON")]
    pub daemon: Option<PathBuf>,
}

/// `lab guest`.
#[derive(Debug, Args)]
pub struct GuestArgs {
    /// The guest's kernel: 6.1, 6.12 or newest
    #[arg(long, value_name = "VERSION", default_value = "6.12")]
    pub kernel: Kernel,
    /// Have this containerd running: 1.7 or 2.1
    #[arg(long, value_name = "VERSION")]
    pub containerd: Option<Containerd>,
    /// The guest's clock counts instructions (1 ns each), the same in every run
    #[arg(long)]
    pub icount: bool,
    /// systemd is the guest's first process
    #[arg(long, conflicts_with_all = ["containerd", "icount"])]
    pub systemd: bool,
    /// More words for the kernel's command line
    #[arg(long, value_name = "WORDS", default_value = "", allow_hyphen_values = true)]
    pub append: String,
    /// A file to bring along; may be repeated
    #[arg(long = "put", value_name = "SOURCE[:NAME]")]
    pub files: Vec<String>,
    /// The job is ended after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
    /// Program of this machine (shipped, without debug information) or, where there is no such file, of the guest; and
    /// its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

const BENCH_HELP: &str = "\
KIND is one of
  block      Block rules elsewhere: paths, directories, programs (the first one is the file that must be denied)
  allow      the same as Allow rules, with the measured trees; the rest is blocked
  glob       Block rules by patterns that begin elsewhere
  anywhere   the same after one that may match anywhere (/**/*.secretkey)
  whitelist  Allow rules by patterns, with the measured trees; the rest is blocked
  wild       the same after one that ends in a wildcard too (/**/*.secretkey*)
  deep       Allow rules for each directory on the way to the measured files; the rest is blocked
  near       Block rules beside each component of the measured paths
  network    one Block rule for a file, the others for addresses elsewhere
Files are opened at depth 2, 5, 10 and 20, each for the first time under its rules (`again`: the same one over and over).

Exit codes:
  0    everything is within its limit, or excused
  1    a limit is missed, or something could not be measured
  2    bad usage
  125  the lab itself failed";

/// `lab bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The guest's kernel: 6.1, 6.12 or newest
    #[arg(long, value_name = "VERSION", default_value = "6.12")]
    pub kernel: Kernel,
    /// Few rows and columns; under a minute
    #[arg(long)]
    pub quick: bool,
    /// Confined by these rules, instead of the usual ones; may be repeated
    #[arg(long, value_name = "KIND:N", num_args = 1..)]
    pub rules: Vec<Rules>,
    /// Only changes of the policies of 1,000 containers, and what is confined among these
    #[arg(long, conflicts_with_all = ["quick", "rules"])]
    pub crowd: bool,
    /// How the result is shown
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// `lab verifier`.
#[derive(Debug, Args)]
pub struct VerifierArgs {
    /// A kernel: 6.1, 6.12 or newest; may be repeated [default: all]
    #[arg(long = "kernel", value_name = "VERSION")]
    pub kernels: Vec<Kernel>,
    /// Write what was found into the record
    #[arg(long)]
    pub record: bool,
    /// The record
    #[arg(long, value_name = "FILE", default_value = crate::verifier::RECORD)]
    pub file: PathBuf,
}

/// `lab agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// `run`, `demo`, ...
    pub task: String,
    /// The task's file, if it has one
    pub file: Option<PathBuf>,
}

/// How a result is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object
    Json,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, for example app=web".into()),
    }
}

fn posture(text: &str) -> Result<String, String> {
    use enforcer_core::ruleset::{Class, PostureAction};
    let (class, action) = text.split_once('=').ok_or("expected CLASS=ACTION, for example file=block")?;
    class.parse::<Class>().map_err(|e| e.to_string())?;
    action.to_ascii_lowercase().parse::<PostureAction>().map_err(|e| e.to_string())?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_are_checked() {
        for (arguments, reason) in [
            (vec!["--kernel", "5.4", "--", "id"], "not a kernel of the lab"),
            (vec!["--label", "web", "--", "id"], "KEY=VALUE"),
            (vec!["--posture", "file=maybe", "--", "id"], "posture"),
            (vec!["--pod", "a", "--user", "1", "--", "id"], "cannot be used with"),
            (vec!["--user=-1", "--", "id"], "--user"),
            (vec!["--entry"], "COMMAND"),
        ] {
            let error = Cli::try_parse_from(["lab", "run"].iter().chain(&arguments)).unwrap_err().to_string();
            assert!(error.contains(reason), "{arguments:?}: {error}");
        }
    }
}
