//! `learn`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use enforcer_core::visibility::Visibility;

use super::{Label, Output};

/// `learn`.
#[derive(Debug, Subcommand)]
pub enum LearnCommand {
    /// Make a policy of what a container does: the least that allows it
    #[command(after_help = POLICY_HELP)]
    Policy(Box<LearnPolicyArgs>),
    /// Make a seccomp policy of the system calls that an Audit policy logged
    #[command(after_help = LEARN_HELP)]
    Seccomp(Box<LearnSeccompArgs>),
}

const POLICY_HELP: &str = "\
The running daemon makes the container visible for that time, and until this command ends. A container that starts meanwhile is
seen from its first instruction; of one that runs already its start is missing. Needs BPF-LSM.

What is seen is allowed as it was seen, but: process ids below /proc stand for every one; /tmp, /var/tmp and /dev/shm are one
directory each for files; a directory with more than --max-paths-per-directory paths in it is named itself; so is one with more
rules than that below it, with all that it holds, unless it is one of the root.

Policies name sockets that are none of IP only by their type, with every other socket of it: a netlink socket, by which names are
resolved, is `raw`, which packet sockets are, too. So they are left out and told, and --wide-sockets allows them.

Exit codes:
  0  the policy was written
  1  something that was done is missing in it, which is told (it is written all the same, and with --incomplete-ok this is 0),
     nothing was seen, or no daemon answers
  2  bad usage

Example:
  nri-enforcer learn policy --pod shop/web-0 --for 60s --file web.yaml --test web-test.yaml && nri-enforcer test web-test.yaml";

const LEARN_HELP: &str = "\
Give the container a policy with `syscalls: [\"@known\"]` and `action: Audit`, start it, and run this while it works.

Exit codes:
  0  a policy was printed
  1  nothing was logged
  2  bad usage, or a log that cannot be read

Example:
  nri-enforcer learn seccomp --for 60s --namespace default --label app=web --name web > web.yaml";

/// `learn policy`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("who").required(true).args(["pod", "id", "namespace"])))]
pub struct LearnPolicyArgs {
    /// The pod, which need not run yet
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub pod: Option<String>,
    /// The runtime's id of the container, or its beginning; it must be there
    #[arg(long, value_name = "ID", conflicts_with = "container")]
    pub id: Option<String>,
    /// Every pod of this namespace that has the labels of --label
    #[arg(long, value_name = "NS", requires = "labels")]
    pub namespace: Option<String>,
    /// Only the container of this name
    #[arg(long, value_name = "NAME")]
    pub container: Option<String>,
    /// Label of the pods that the policy selects; may be repeated [default: those that the pod has]
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,
    /// How long to watch, from its first access on
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub r#for: humantime::Duration,
    /// How long to wait for its first access
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub wait: humantime::Duration,
    /// What to learn: process, file, network, capabilities
    #[arg(long = "class", value_name = "CLASS,...", default_value = "process,file,network,capabilities")]
    pub classes: Visibility,
    /// Name of the policy [default: `learned-` and the container's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Allow each executable what it did, and not what others did (`fromSource`)
    #[arg(long)]
    pub sources: bool,
    /// Allow a Unix, netlink or other socket that is none of IP by a rule about every socket of its type
    #[arg(long)]
    pub wide_sockets: bool,
    /// More paths than these in a directory are the directory
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub max_paths_per_directory: usize,
    /// Where the policy goes [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Also write a policy test: what was seen is allowed, and some of what was not is denied
    #[arg(long, value_name = "FILE")]
    pub test: Option<PathBuf>,
    /// That something is missing is no failure
    #[arg(long)]
    pub incomplete_ok: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The daemon's socket, as given to `run`
    #[arg(long, value_name = "PATH", default_value = crate::config::DEFAULT_ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
}

/// `learn seccomp`.
#[derive(Debug, Args)]
pub struct LearnSeccompArgs {
    /// `audit` listens to the kernel, `-` is stdin, `/dev/kmsg` the kernel's log (which loses most), else a log file
    #[arg(long, value_name = "audit|-|FILE", default_value = "audit")]
    pub from: PathBuf,
    /// How long to listen, for example 60s or 10m [default: 30s; for /dev/kmsg, until its end]
    #[arg(long, value_name = "TIME")]
    pub r#for: Option<humantime::Duration>,
    /// Only this process; may be repeated
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<i32>,
    /// Only tasks of this name; may be repeated
    #[arg(long = "comm", value_name = "NAME")]
    pub comms: Vec<String>,
    /// Only this executable, as the container has it; may be repeated
    #[arg(long = "exe", value_name = "PATH")]
    pub exes: Vec<String>,
    /// Only processes of the container with this id, as long as they live
    #[arg(long, value_name = "ID")]
    pub container: Option<String>,
    /// System calls that were denied, too
    #[arg(long)]
    pub denied: bool,
    /// Name of the policy
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Namespace of the policy
    #[arg(long, value_name = "NS")]
    pub namespace: String,
    /// Label of the pods that it selects; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command, LearnCommand};

    #[test]
    fn one_of_three_ways_says_who_is_watched() {
        let parse = |args: &[&str]| {
            let all = ["nri-enforcer", "learn", "policy"].iter().chain(args);
            match Cli::try_parse_from(all)?.command {
                Command::Learn(LearnCommand::Policy(args)) => Ok::<_, clap::Error>(args),
                other => panic!("{other:?}"),
            }
        };
        let args = parse(&[
            "--pod", "shop/web", "--for", "5s", "--wait", "1m", "--file", "f", "--test", "t", "-o", "json",
        ]);
        let args = args.unwrap();
        assert_eq!(
            (args.pod.as_deref(), args.classes.to_string().as_str()),
            (Some("shop/web"), "process,file,network,capabilities")
        );
        assert!(parse(&["--id", "c1", "--class", "file"]).is_ok());
        assert!(parse(&["--namespace", "shop", "--label", "app=web", "--container", "main"]).is_ok());
        for bad in [
            &["--namespace", "shop"][..],
            &["--label", "app=web"],
            &["--pod", "a/b", "--id", "c"],
            &["--pod", "a/b", "--class", "files"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
