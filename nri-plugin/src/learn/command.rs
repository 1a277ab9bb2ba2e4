//! The command's side: asks the daemon, waits, makes the policy, and prints.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::generalise::{Learned, Options, generalise};
use super::serve::Wanted;
use super::wire::Report;
use super::write::{self, About};
use crate::alert::escape;
use crate::apply::serve::{Answer, Request};
use crate::cli::{LearnPolicyArgs, Output};
use crate::exit::Exit;
use crate::observe::watches::Access;
use crate::term::{BAD, GOOD, WARN, clean, complain, paint, say, say_json};

/// How long the daemon may be silent beyond what it waits for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many of one kind of problem are told.
const TOLD: usize = 8;
/// Labels that differ from pod to pod of one workload, or from version to version: no policy selects by them.
const OF_ONE_POD: [&str; 6] = [
    "pod-template-hash",
    "controller-revision-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "controller-uid",
];

/// What was learned, as `-o json` prints it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Lesson {
    /// Whether the policy allows all that was done, as far as is known.
    complete: bool,
    policy: String,
    test: Option<String>,
    events: u64,
    accesses: usize,
    containers: Vec<super::wire::Watched>,
    /// What makes it incomplete.
    lost: Vec<String>,
    /// What else is to be known.
    remarks: Vec<String>,
}

fn fail(problem: impl std::fmt::Display, exit: Exit) -> Exit {
    complain(format!("{}: {problem}\n", paint(BAD, "error")));
    exit
}

/// `learn policy`.
pub fn run(args: &LearnPolicyArgs) -> Exit {
    if args.test.is_some() && args.file.is_none() {
        return fail("--test names the policy's file: give --file, too", Exit::BadInput);
    }
    let report = match ask(args) {
        Ok(report) => report,
        Err((problem, exit)) => return fail(problem, exit),
    };
    let lesson = match learn(args, &report) {
        Ok(lesson) => lesson,
        Err(problem) => return fail(problem, Exit::No),
    };
    if let Err(problem) = put(args, &lesson) {
        return fail(problem, Exit::No);
    }
    let exit = if lesson.complete || args.incomplete_ok { Exit::Ok } else { Exit::No };
    if args.output == Output::Json {
        say_json(&lesson);
        return exit;
    }
    for remark in &lesson.remarks {
        complain(format!("{}: {}\n", paint(WARN, "note"), clean(remark)));
    }
    for lost in &lesson.lost {
        complain(format!("{}: incomplete: {}\n", paint(WARN, "warning"), clean(lost)));
    }
    let mark = if lesson.complete { paint(GOOD, "Learned") } else { paint(WARN, "Learned in part") };
    complain(format!("{mark}: {} accesses, {} of them different\n", lesson.events, lesson.accesses));
    exit
}

fn wanted(args: &LearnPolicyArgs) -> Result<Wanted, String> {
    let (namespace, pod) = match (&args.pod, &args.namespace) {
        (Some(pod), _) => {
            let (namespace, name) = pod.split_once('/').ok_or("--pod is NAMESPACE/NAME")?;
            (namespace.to_owned(), Some(name.to_owned()))
        }
        (None, Some(namespace)) => (namespace.clone(), None),
        (None, None) => (String::new(), None),
    };
    let selects = args.id.is_none() && args.pod.is_none();
    let labels = args.labels.iter().filter(|_| selects);
    let millis = |time: humantime::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Ok(Wanted {
        id: args.id.clone(),
        namespace,
        pod,
        labels: labels.map(|label| (label.key.clone(), label.value.clone())).collect(),
        container: args.container.clone(),
        classes: args.classes.to_string(),
        time: millis(args.r#for),
        patience: millis(args.wait),
    })
}

/// Has the daemon watch.
fn ask(args: &LearnPolicyArgs) -> Result<Report, (String, Exit)> {
    let wanted = wanted(args).map_err(|problem| (problem, Exit::BadInput))?;
    let no = |problem: String| (problem, Exit::No);
    let nobody = |error: std::io::Error| {
        let socket = args.admin_socket.display();
        no(format!(
            "no daemon answers at `{socket}`: {error}; is `nri-enforcer run` running, with the same --admin-socket? (only root may ask)"
        ))
    };
    let mut daemon = UnixStream::connect(&args.admin_socket).map_err(nobody)?;
    let silence = Duration::from_millis(wanted.time).max(Duration::from_millis(wanted.patience)) + PATIENCE;
    daemon.set_read_timeout(Some(silence)).map_err(nobody)?;
    let mut line = serde_json::to_vec(&Request::Watch(wanted)).map_err(|error| no(error.to_string()))?;
    line.push(b'\n');
    daemon.write_all(&line).map_err(nobody)?;
    let terminal = std::io::stderr().is_terminal() && args.output == Output::Text;
    let mut answers = BufReader::new(daemon);
    loop {
        let mut line = String::new();
        let length = answers
            .read_line(&mut line)
            .map_err(|error| no(format!("the daemon does not answer: {error}")))?;
        if length == 0 {
            return Err(no("the daemon ended before it told what it saw (only root may ask)".into()));
        }
        match serde_json::from_str(&line)
            .map_err(|error| no(format!("the daemon's answer makes no sense: {error}")))?
        {
            Answer::Watching { containers } => match containers.len() {
                0 => complain(format!(
                    "waiting for it to start, for {}\n",
                    humantime::format_duration(*args.wait)
                )),
                count => complain(format!(
                    "watching {count} running, for {}\n",
                    humantime::format_duration(*args.r#for)
                )),
            },
            Answer::Progress { events, accesses, containers } if terminal => {
                complain(format!("\r{accesses} different accesses of {events}, in {containers} containers "));
            }
            Answer::Progress { .. } => {}
            Answer::Seen { report } => {
                if terminal {
                    complain("\n");
                }
                return Ok(*report);
            }
            Answer::Refused { why } => return Err(no(clean(&why))),
            _ => return Err(no("the daemon's answer makes no sense".into())),
        }
    }
}

/// What the report comes to.
fn learn(args: &LearnPolicyArgs, report: &Report) -> Result<Lesson, String> {
    let accesses = report.accesses()?;
    if accesses.is_empty() {
        return Err("nothing was seen, so there is nothing to allow; did it run meanwhile?".into());
    }
    let options = Options {
        max_paths: args.max_paths_per_directory,
        sources: args.sources,
        wide_sockets: args.wide_sockets,
    };
    let learned = generalise(&accesses, options);
    if learned.is_empty() {
        return Err("nothing was seen that a policy can allow".into());
    }
    let about = about(args, report)?;
    let policy = write::policy(&learned, &about)?;
    // what is handed out was read and asked about every access
    let ruleset = write::means(&policy, &about).map_err(|error| format!("the policy is none: {error}"))?;
    let denied = write::denied(&ruleset, &accesses);
    let mut lost = lost(report);
    lost.extend(omitted(&learned, &denied));
    let mut remarks = remarks(args, report, &learned);
    let test = match (&args.test, &args.file) {
        (Some(test), Some(file)) => {
            let path = beside(test, file);
            let (text, left_out) = write::test(&accesses, &ruleset, &about, &path, args.sources)?;
            if left_out > 0 {
                remarks.push(format!(
                    "the test asks about {} accesses, and leaves {left_out} out",
                    write::CASES
                ));
            }
            Some(text)
        }
        _ => None,
    };
    Ok(Lesson {
        complete: lost.is_empty(),
        policy,
        test,
        events: report.events,
        accesses: accesses.len(),
        containers: report.containers.clone(),
        lost,
        remarks,
    })
}

/// Whom the policy is for.
fn about(args: &LearnPolicyArgs, report: &Report) -> Result<About, String> {
    let given: BTreeMap<String, String> =
        args.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
    let labels = match given.is_empty() {
        false => given,
        true => {
            let mut all = report.containers.iter().map(|one| &one.labels);
            let first = all.next().cloned().unwrap_or_default();
            let common = all.fold(first, |common, labels| {
                common.into_iter().filter(|(key, value)| labels.get(key) == Some(value)).collect()
            });
            common.into_iter().filter(|(key, _)| !OF_ONE_POD.contains(&key.as_str())).collect()
        }
    };
    if labels.is_empty() {
        return Err("its pod has no labels by which a policy could select it: give some with --label".into());
    }
    let name = args.name.clone().unwrap_or_else(|| {
        let container = report.containers.first().map(|one| one.container.as_str()).unwrap_or_default();
        let good =
            |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
        let name: String = container.chars().map(good).take(48).collect();
        format!("learned-{}", name.trim_matches('-')).trim_matches('-').to_owned()
    });
    Ok(About { name, namespace: report.namespace.clone(), labels })
}

/// What is missing, and how much.
fn lost(report: &Report) -> Vec<String> {
    let mut lost = Vec::new();
    match report.dropped {
        Some(0) => {}
        Some(count) => lost.push(format!(
            "{count} events, of any container, had no room in the kernel's ring buffer; they may be of this one"
        )),
        None => lost.push("it is not known whether the kernel's ring buffer had room for all events".into()),
    }
    if report.lost > 0 {
        lost.push(format!("{} different accesses were more than the daemon keeps", report.lost));
    }
    if !report.unknown.is_empty() {
        let some =
            report.unknown.iter().take(TOLD).map(|one| format!("{} `{}`: {}", one.class, one.path, one.why));
        let some: Vec<String> = some.collect();
        lost.push(format!("{} accesses cannot be told: {}", report.unknown.len(), some.join("; ")));
    }
    let problems = report.containers.iter().filter(|one| !one.problem.is_empty());
    lost.extend(
        problems.map(|one| format!("container `{}` of pod `{}`: {}", one.container, one.pod, one.problem)),
    );
    lost
}

/// Accesses that the policy does not allow, each with why.
fn omitted(learned: &Learned, denied: &BTreeSet<Access>) -> Vec<String> {
    let why = |access: &Access| {
        let why = learned.omitted.iter().find(|(omitted, _)| omitted == access).map(|(_, why)| *why);
        why.unwrap_or("no rule says it exactly")
    };
    let known = learned.omitted.iter().map(|(access, _)| access);
    let all: BTreeSet<&Access> = denied.iter().chain(known).collect();
    if all.is_empty() {
        return Vec::new();
    }
    let some = all.iter().take(TOLD).map(|access| format!("{}: {}", shown(access), why(access)));
    let some: Vec<String> = some.collect();
    vec![format!("{} accesses are not allowed by the policy: {}", all.len(), some.join("; "))]
}

fn shown(access: &Access) -> String {
    let path = |doing: &str, path: &Vec<u8>| format!("{doing} `{}`", escape(path));
    match access {
        Access::Exec(of) => path("executing", of),
        Access::Read(of) => path("reading", of),
        Access::Write(of) => path("writing", of),
        Access::Socket(family, kind, protocol) => {
            format!("a socket of family {family}, type {kind}, protocol {protocol}")
        }
        Access::Capability(number) => format!("capability {number}"),
    }
}

fn remarks(args: &LearnPolicyArgs, report: &Report, learned: &Learned) -> Vec<String> {
    let mut remarks = Vec::new();
    for one in &report.containers {
        if one.ran_before {
            remarks.push(format!(
                "container `{}` of pod `{}` ran already: what it did before, its start among it, was not seen, nor what it does \
                 with files that it had open",
                one.container, one.pod
            ));
        }
        if !one.policies.is_empty() {
            remarks.push(format!(
                "container `{}` of pod `{}` is selected by {}: what their rules allow was not seen, so the policy is one to \
                 stand beside them",
                one.container,
                one.pod,
                one.policies.join(", ")
            ));
        }
    }
    for (access, protocol) in &learned.wide {
        remarks.push(format!(
            "{} is allowed as `{protocol}`, which is every socket of that type, IP and packet sockets among them",
            shown(access)
        ));
    }
    let denied = report.denied;
    if denied > 0 {
        remarks.push(format!(
            "{denied} accesses were denied by the policies in force, and are not allowed by this one"
        ));
    }
    use enforcer_core::ruleset::Class;
    let empty = [
        (Class::Process, "process", learned.process.is_empty()),
        (Class::File, "file", learned.file.is_empty()),
        (Class::Network, "network", learned.network.is_empty()),
        (Class::Capability, "capabilities", learned.capabilities.is_empty()),
    ];
    for (class, name, empty) in empty {
        if empty && args.classes.contains(class) {
            remarks.push(format!(
                "nothing of `{name}` was seen, so the policy says nothing about it: all of it stays allowed"
            ));
        }
    }
    remarks.push("the policy denies nothing until the posture of its classes is `block` (`--posture`, or annotations of the namespace)".into());
    remarks
}

/// The policy's file as the test names it.
fn beside(test: &Path, file: &Path) -> String {
    if test.parent() == file.parent()
        && let Some(name) = file.file_name()
    {
        return name.to_string_lossy().into_owned();
    }
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned()).to_string_lossy().into_owned()
}

/// Writes what is to be written.
fn put(args: &LearnPolicyArgs, lesson: &Lesson) -> Result<(), String> {
    let write = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(|error| format!("cannot write `{}`: {error}", path.display()))
    };
    match &args.file {
        Some(file) => write(file, &lesson.policy)?,
        None if args.output == Output::Text => say(&lesson.policy),
        None => {}
    }
    match (&args.test, &lesson.test) {
        (Some(file), Some(text)) => write(file, text),
        _ => Ok(()),
    }
}
