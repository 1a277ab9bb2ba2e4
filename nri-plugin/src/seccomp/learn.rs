//! `learn seccomp`: from what a filter logged to a policy that allows just that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use enforcer_core::seccomp::{Action, Arch, SyscallName};

use super::listen;
use super::record::{Line, Record};
use crate::cli::LearnSeccompArgs;
use crate::exit::Exit;
use crate::term::{BAD, WARN, complain, paint, say};

/// How many of one kind of problem are told.
const TOLD: usize = 5;

/// Learns, and prints the policy.
pub fn run(args: &LearnSeccompArgs) -> Exit {
    let mut lesson = Lesson::new(Wanted::of(args), PathBuf::from("/proc"));
    if let Err(error) = read(args, &mut lesson) {
        let from = args.from.display();
        complain(format!("{}: cannot read `{from}`: {error}\n", paint(BAD, "error")));
        return Exit::BadInput;
    }
    for problem in lesson.problems() {
        complain(format!("{}: {problem}\n", paint(WARN, "warning")));
    }
    if lesson.calls.is_empty() {
        complain(format!(
            "{}: no record of a logged system call; is the policy `action: Audit`, and was the container started \
             after it came?\n",
            paint(BAD, "error")
        ));
        return Exit::No;
    }
    say(lesson.policy(args));
    Exit::Ok
}

fn read(args: &LearnSeccompArgs, lesson: &mut Lesson) -> io::Result<()> {
    let time = args.r#for.map(|time| *time);
    let each = |line| lesson.take(line);
    match args.from.to_str() {
        Some("audit") => {
            let time = time.unwrap_or(Duration::from_secs(30));
            let tell = || complain(format!("listening for {} s\n", time.as_secs()));
            listen::audit(time, tell, each)
        }
        Some("-") => listen::file(io::stdin().lock(), each),
        Some("/dev/kmsg") => listen::kmsg(&args.from, time.unwrap_or_default(), each),
        _ => listen::file(fs::File::open(&args.from)?, each),
    }
}

/// Which records count.
#[derive(Debug, Default)]
struct Wanted {
    pids: BTreeSet<i32>,
    comms: BTreeSet<String>,
    exes: BTreeSet<String>,
    container: Option<String>,
    denied: bool,
}

impl Wanted {
    fn of(args: &LearnSeccompArgs) -> Self {
        Self {
            pids: args.pids.iter().copied().collect(),
            comms: args.comms.iter().cloned().collect(),
            exes: args.exes.iter().cloned().collect(),
            container: args.container.clone(),
            denied: args.denied,
        }
    }
}

/// What was learnt so far.
#[derive(Debug)]
struct Lesson {
    wanted: Wanted,
    proc: PathBuf,
    places: BTreeMap<i32, Option<String>>, // the cgroups of processes, looked up while they live
    calls: BTreeMap<&'static str, BTreeSet<Arch>>,
    unknown: BTreeSet<(Arch, u32)>,
    denied: usize,
    gone: usize,
    bad: Vec<String>,
    lost: usize,
}

impl Lesson {
    fn new(wanted: Wanted, proc: PathBuf) -> Self {
        Self {
            wanted,
            proc,
            places: BTreeMap::new(),
            calls: BTreeMap::new(),
            unknown: BTreeSet::new(),
            denied: 0,
            gone: 0,
            bad: Vec::new(),
            lost: 0,
        }
    }

    fn take(&mut self, line: Line) {
        match line {
            Line::Record(record) => self.learn(&record),
            Line::Bad(why) => self.bad.push(why),
            Line::Lost => self.lost += 1,
            Line::Other => {}
        }
    }

    fn learn(&mut self, record: &Record) {
        let wanted = &self.wanted;
        let of = (wanted.pids.is_empty() || wanted.pids.contains(&record.pid))
            && (wanted.comms.is_empty() || wanted.comms.contains(&record.comm))
            && (wanted.exes.is_empty() || wanted.exes.contains(&record.exe));
        if !of || !self.is_of_container(record.pid) {
            return;
        }
        if record.action != Action::Log && !self.wanted.denied {
            self.denied += 1;
            return;
        }
        match SyscallName::by_number(record.arch, record.number) {
            Some(name) => {
                self.calls.entry(name.as_str()).or_default().insert(record.arch);
            }
            None => {
                self.unknown.insert((record.arch, record.number));
            }
        }
    }

    /// Whether a process is of the container that is asked for. The record does not say, so its cgroup is looked up
    /// when the record is read; by then it may be gone.
    fn is_of_container(&mut self, pid: i32) -> bool {
        let Some(container) = &self.wanted.container else { return true };
        let proc = &self.proc;
        let place = self
            .places
            .entry(pid)
            .or_insert_with(|| fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).ok());
        match place {
            Some(cgroups) => cgroups.contains(container.as_str()),
            None => {
                self.gone += 1;
                false
            }
        }
    }

    /// What people should know about the policy.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.lost > 0 {
            problems.push(format!(
                "records were lost in {} places, so the policy is not complete: listen with `--from audit`, or read \
                 auditd's log",
                self.lost
            ));
        }
        if self.gone > 0 {
            problems.push(format!(
                "{} records are of processes that have ended, so their container is not known; listen with `--from \
                 audit` while it runs, or select by --exe",
                self.gone
            ));
        }
        if self.denied > 0 {
            problems.push(format!(
                "{} records are of system calls that were denied, and are left out; --denied takes them, too",
                self.denied
            ));
        }
        for (arch, number) in self.unknown.iter().take(TOLD) {
            problems
                .push(format!("system call {number} of {arch} has no name that is known, and is left out"));
        }
        let more = self.unknown.len().saturating_sub(TOLD);
        if more > 0 {
            problems.push(format!("so are {more} others"));
        }
        problems.extend(self.bad.iter().take(TOLD).map(|why| format!("a record is left out: {why}")));
        problems
    }

    /// The policy. A name is allowed for every architecture, so that one whose program was not run is no surprise.
    fn policy(&self, args: &LearnSeccompArgs) -> String {
        let mut arches: BTreeMap<Arch, usize> = BTreeMap::new();
        for arch in self.calls.values().flatten() {
            *arches.entry(*arch).or_default() += 1;
        }
        let seen: Vec<String> = arches.iter().map(|(arch, count)| format!("{count} of {arch}")).collect();
        let mut text = format!(
            "# Learnt from {} system calls ({}). What was not exercised is not in here.\n\
             apiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\nmetadata:\n  name: {}\n  \
             namespace: {}\nspec:\n  selector:\n    matchLabels:\n",
            self.calls.len(),
            seen.join(", "),
            scalar(&args.name),
            scalar(&args.namespace),
        );
        for label in &args.labels {
            let _infallible = writeln!(text, "      {}: {}", scalar(&label.key), scalar(&label.value));
        }
        if args.labels.is_empty() {
            text = text.replace("    matchLabels:\n", "    matchLabels: {}\n");
        }
        text.push_str("  action: Allow\n  syscalls:\n");
        for name in self.calls.keys() {
            let _infallible = writeln!(text, "    - {name}");
        }
        text
    }
}

/// A text as YAML has it on one line: as JSON, in quotes, since `on` and `1` would be no texts without.
fn scalar(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use enforcer_core::policy::parse;

    use crate::cli::{Cli, Command, LearnCommand};

    fn args(more: &[&str]) -> LearnSeccompArgs {
        let all = ["nri-enforcer", "learn", "seccomp", "--name", "web", "--namespace", "default"];
        match Cli::parse_from(all.iter().chain(more)).command {
            Command::Learn(LearnCommand::Seccomp(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn record(arch: &str, number: &str, comm: &str, pid: i32, code: &str) -> Line {
        Line::record(&format!(
            "1:2): pid={pid} comm=\"{comm}\" exe=\"/bin/{comm}\" sig=0 arch={arch} syscall={number} code={code}"
        ))
    }

    fn lesson(args: &LearnSeccompArgs, lines: impl IntoIterator<Item = Line>) -> Lesson {
        let mut lesson = Lesson::new(Wanted::of(args), "/proc".into());
        lines.into_iter().for_each(|line| lesson.take(line));
        lesson
    }

    const LOG: &str = "0x7ffc0000";

    #[test]
    fn what_is_learnt_is_a_policy_sorted_and_of_every_way_in() {
        let args = args(&["--label", "app=web", "--label", "tier=on"]);
        let lesson = lesson(
            &args,
            [
                record("c000003e", "63", "a", 1, LOG), // uname
                record("c000003e", "0", "a", 1, LOG),  // read
                record("c000003e", "0", "a", 1, LOG),
                record("40000003", "102", "a", 1, LOG), // socketcall, which x86-64 has not
                record("c000003e", "1073741887", "a", 1, LOG), // uname by x32
            ],
        );
        let text = lesson.policy(&args);
        assert!(text.contains("    - read\n    - socketcall\n    - uname\n"), "{text}");
        assert!(text.contains("(2 of x86_64, 1 of x86, 1 of x32)"), "{text}");
        let parsed = parse("learnt.yaml", &text);
        assert_eq!(parsed.errors, [], "{text}");
        let policy = &parsed.seccomp[0];
        assert_eq!(policy.id().to_string(), "default/web");
        assert_eq!(policy.selector().labels().get("tier").map(String::as_str), Some("on"), "not a boolean");
        assert_eq!(lesson.problems(), [""; 0]);
    }

    #[test]
    fn other_programs_denials_and_what_is_lost_are_left_out_and_told() {
        let args = args(&["--comm", "a"]);
        let lesson = lesson(
            &args,
            [
                record("c000003e", "0", "a", 1, LOG),
                record("c000003e", "1", "b", 1, LOG),
                record("c000003e", "2", "a", 1, "0x50001"),
                record("c000003e", "60000", "a", 1, LOG),
                Line::Lost,
                Line::Bad("why".into()),
            ],
        );
        assert_eq!(lesson.calls.keys().copied().collect::<Vec<_>>(), ["read"]);
        let problems = lesson.problems().join("\n");
        for part in
            ["lost in 1 places", "1 records are of system calls that were denied", "60000 of x86_64", "why"]
        {
            assert!(problems.contains(part), "{part} is not in {problems}");
        }
    }

    #[test]
    fn a_containers_processes_are_found_while_they_live() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, cgroup) in [(7, "/kubepods/abc"), (8, "/kubepods/def")] {
            crate::procs::tests::add(proc.path(), pid, 'S', 1, cgroup);
        }
        let mut lesson = Lesson::new(Wanted::of(&args(&["--container", "abc"])), proc.path().into());
        for (number, pid) in [("0", 7), ("1", 8), ("2", 9)] {
            lesson.take(record("c000003e", number, "a", pid, LOG));
        }
        assert_eq!(lesson.calls.keys().copied().collect::<Vec<_>>(), ["read"]);
        assert!(lesson.problems()[0].contains("1 records are of processes that have ended"));
    }
}
