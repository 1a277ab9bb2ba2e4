//! `diff`: what a change of the policies alters for a container, before it is applied.

mod compare;
pub mod document;
pub mod node;
mod show;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use enforcer_core::ruleset::Postures;
use enforcer_core::subject::Subject;

use self::compare::{Sides, changes};
use self::document::{Container, Report};
use crate::apply::NewFile;
use crate::apply::client::Daemon;
use crate::apply::serve::{Answer, Request};
use crate::cli::{BaseChoice, DiffArgs, LibseccompVersion, Output, Posture, postures};
use crate::exit::{Exit, chain};
use crate::input::{self, Input};
use crate::lock::Lock;
use crate::status::document::{Document, State};
use crate::status::show::ask;
use crate::term::{BAD, DIM, clean, complain, paint, say_json};

/// Compares, and prints what changes.
pub fn run(args: &DiffArgs) -> Exit {
    let compared =
        if args.old.is_empty() { in_force(args) } else { files(args).map(|one| (one, Vec::new())) };
    match compared {
        Ok((containers, notes)) => {
            let changed = containers.iter().any(|one| !one.changes.is_empty());
            let report = Report { changed, containers };
            match args.output {
                Output::Json => say_json(&report),
                Output::Text => show::print(&report, args.running || args.old.is_empty()),
            }
            for note in notes {
                complain(format!("{}: {}\n", paint(DIM, "note"), clean(&note)));
            }
            if changed { Exit::No } else { Exit::Ok }
        }
        Err(problem) => {
            complain(format!("{}: {}\n", paint(BAD, "error"), clean(&problem)));
            Exit::BadInput
        }
    }
}

fn load(flag: &str, paths: &[PathBuf]) -> Result<Vec<Input>, String> {
    let inputs = input::load_or_stdin(paths).map_err(|error| format!("{flag}: {}", chain(&error)))?;
    input::refuse_wrong(&inputs).map_err(|problem| format!("{flag}: {problem}"))?;
    Ok(inputs)
}

/// With what the daemon has in force: it compares. What it cannot tell of all is a note.
fn in_force(args: &DiffArgs) -> Result<(Vec<Container>, Vec<String>), String> {
    if let Some(flag) = said_in_vain(args) {
        return Err(format!(
            "{flag} goes with --old: without it, the daemon is asked about the containers that it really has"
        ));
    }
    let new = if args.new.is_empty() { Vec::new() } else { load("--new", &args.new)? };
    let says_nothing = |input: &Input| {
        input.parsed.policies.len() + input.parsed.seccomp.len() + input.parsed.namespaces.len() == 0
    };
    if args.remove.is_empty() && new.iter().all(says_nothing) {
        return Err(
            "there is no policy in what --new names; those in force would stay as they are".to_owned()
        );
    }
    let file = |Input { path, text, .. }: Input| NewFile { name: path.display().to_string(), text };
    let files = new.into_iter().map(file).collect();
    let request = Request::Diff { files, removed: args.remove.clone(), namespace: args.namespace.clone() };
    match Daemon::reach(&args.admin_socket)?.ask(&request)? {
        Answer::Compared { containers, notes } => Ok((containers, notes)),
        Answer::Refused { why } => Err(why),
        _ => Err("the daemon's answer makes no sense".to_owned()),
    }
}

/// What says something about containers or the node, of which the daemon knows better.
fn said_in_vain(args: &DiffArgs) -> Option<&'static str> {
    let said = [
        (!args.labels.is_empty(), "--label"),
        (!args.container.is_empty(), "--container"),
        (!args.postures.is_empty(), "--posture"),
        (args.base != BaseChoice::RuntimeDefault, "--base"),
        (!args.capabilities.is_empty(), "--cap"),
        (args.libseccomp != LibseccompVersion::default(), "--libseccomp"),
        (args.root.is_some(), "--root"),
    ];
    said.into_iter().find(|(is_said, _)| *is_said).map(|(_, flag)| flag)
}

/// With the files of --old.
fn files(args: &DiffArgs) -> Result<Vec<Container>, String> {
    if !args.running && args.namespace.is_none() {
        return Err("--old goes with --namespace, of a container's pod, or with --running".to_owned());
    }
    let stdin = |paths: &[PathBuf]| paths.iter().any(|path| path == Path::new(input::STDIN));
    if stdin(&args.old) && stdin(&args.new) {
        return Err("--old and --new cannot both be read from stdin".to_owned());
    }
    let old = load("--old", &args.old)?;
    let new = load("--new", &args.new)?;
    if input::is_empty(&old) && input::is_empty(&new) {
        return Err(
            "there is no policy in what --old and --new name; policies are in *.yaml, *.yml and *.json \
                    files"
                .to_owned(),
        );
    }
    let sides = Sides::new(&old, &new, args)?;
    let asked = if args.running { running(args)? } else { vec![named(args)] };
    asked
        .into_iter()
        .map(|asked| {
            let changes = changes(&sides, &asked)?;
            let Subject { namespace, pod, container, .. } = asked.subject;
            Ok(Container { namespace, pod, container, changes })
        })
        .collect()
}

/// A container to look at.
struct Asked {
    subject: Subject,
    /// The postures of its node.
    node: Postures,
    /// Whether what is denied is reported instead.
    audited: bool,
    /// Whether its node enforces seccomp policies alone.
    seccomp_only: bool,
}

fn named(args: &DiffArgs) -> Asked {
    let labels: BTreeMap<_, _> =
        args.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
    let namespace = args.namespace.clone().unwrap_or_default();
    let subject = Subject { namespace, labels, container: args.container.clone(), ..Subject::default() };
    Asked { subject, node: postures(&args.postures), audited: false, seccomp_only: false }
}

/// What the daemon has, but for what no policy reaches and what has ended.
fn running(args: &DiffArgs) -> Result<Vec<Asked>, String> {
    let Document { daemon, containers, .. } = ask(&args.status_socket).map_err(|error| error.to_string())?;
    if !daemon.connected {
        return Err("the daemon does not know what runs (yet): `nri-enforcer status` says why".to_owned());
    }
    let node = daemon.postures.iter().map(|(class, action)| Posture::new(class, action));
    let node =
        node.collect::<Result<Vec<_>, _>>().map_err(|error| format!("the daemon's postures: {error}"))?;
    let node = postures(&node);
    let host = daemon.host.as_ref().map(|host| &host.postures).into_iter().flatten();
    let host: Result<Vec<_>, _> = host.map(|(class, action)| Posture::new(class, action)).collect();
    let host = postures(&host.map_err(|error| format!("the daemon's postures of the host: {error}"))?);
    let wanted = |namespace: &String| args.namespace.as_ref().is_none_or(|wanted| wanted == namespace);
    containers
        .into_iter()
        .filter(|one| !matches!(one.state, State::Exempt | State::Ended) && wanted(&one.namespace))
        .map(|one| {
            let labels =
                one.labels.ok_or("the daemon is of a version that does not tell the labels of containers")?;
            let subject = match one.host {
                true => Subject::of_host(labels),
                false => {
                    let (namespace, pod, container) = (one.namespace, one.pod, one.container);
                    Subject { namespace, pod, labels, container, host: false }
                }
            };
            let node = if one.host { host } else { node };
            let lock = Lock::named(&daemon.lock);
            let unheld =
                lock.is_some_and(|lock| !if one.host { lock.holds_host() } else { lock.holds_containers() });
            let seccomp_only = daemon.seccomp_only || unheld;
            Ok(Asked { subject, node, audited: one.audited, seccomp_only })
        })
        .collect()
}
