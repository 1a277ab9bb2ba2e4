//! The guest's side: starts the measuring program for each subject, confines it, and passes its figures on.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use enforcer_core::enforce::{ContainerId, Enforcer, Options, Stage, Target, unload};
use enforcer_core::policy::parse;
use enforcer_core::ruleset::{Class, PostureAction, Postures, Ruleset};
use enforcer_core::subject::Subject as Labels;

use super::claims::{UPDATE_ONE, UPDATE_OWN, UPDATE_SHARED};
use super::memory;
use super::rules::{DENIED, Kind, OTHER, Rules, TREES};
use super::{Figures, Line, Plan, Subject};
use crate::image;

/// Carries a plan out and prints a [`Line`] for each subject.
///
/// # Errors
/// When nothing can be measured. What goes wrong with one subject is said in its line.
pub fn carry_out(plan: &Plan) -> Result<()> {
    prepare(plan)?;
    let (before, after): (Vec<Subject>, Vec<Subject>) = plan
        .subjects
        .iter()
        .copied()
        .partition(|s| matches!(s, Subject::Nothing | Subject::Landlock(_) | Subject::AppArmor(_)));
    let mut bench = Bench { quick: plan.quick, enforcer: None, number: 0 };
    for subject in before {
        bench.line(subject)?;
    }
    if !after.is_empty() {
        let options = Options::default();
        bench.enforcer = Some(Enforcer::open(&options)?);
        for subject in after {
            bench.line(subject)?;
        }
        drop(bench.enforcer.take());
        unload(&options.bpffs)?;
    }
    Ok(())
}

/// The programs and files that are measured.
fn prepare(plan: &Plan) -> Result<()> {
    for (path, program) in [("/tmp/cost", image::COST), ("/tmp/nothing", image::NOTHING)] {
        fs::write(path, program)?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    for file in DENIED.into_iter().chain([OTHER]) {
        fs::create_dir_all(Path::new(file).parent().context("a file in no folder")?)?;
        fs::write(file, "x")?;
    }
    fs::create_dir_all(TREES[1])?;
    ensure!(Command::new("/tmp/cost").arg("trees").args(TREES).status()?.success(), "no files to measure");
    for rules in
        plan.subjects.iter().filter_map(|s| if let Subject::AppArmor(r) = s { Some(r) } else { None })
    {
        let profiles = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
        let name = rules.profile_name();
        ensure!(profiles.lines().any(|l| l.split(' ').next() == Some(&name)), "profile {name} is not loaded");
    }
    Ok(())
}

struct Bench {
    quick: bool,
    enforcer: Option<Enforcer>,
    number: u32,
}

impl Bench {
    fn line(&mut self, subject: Subject) -> Result<()> {
        eprintln!("measuring {subject}");
        let mut line = Line { subject, figures: Vec::new(), gap: None, error: None };
        match self.measure(subject) {
            Ok(Outcome::Figures(figures)) => line.figures = figures,
            Ok(Outcome::Gap(gap)) => line.gap = Some(gap),
            Err(error) => line.error = Some(format!("{error:#}")),
        }
        println!("{}", serde_json::to_string(&line)?);
        Ok(())
    }

    fn measure(&mut self, subject: Subject) -> Result<Outcome> {
        match subject {
            Subject::Nothing => self.start(&["-m"])?.measure(),
            Subject::Landlock(rules) => {
                self.start(&["-m", "-l", &rules.to_string(), "-b", OTHER, "-p", OTHER])?.measure()
            }
            Subject::AppArmor(rules) => {
                let profile = rules.profile_name();
                self.start(&["-m", "-a", &profile, "-b", rules.denied(), "-p", rules.permitted()])?.measure()
            }
            Subject::Host => {
                // Somebody else is confined.
                let other = self.start(&["-m"])?;
                let rules = Rules { kind: Kind::Block, count: 10 };
                if let Err(gap) = self.arm(&other, rules)? {
                    return Ok(Outcome::Gap(gap));
                }
                let outcome = self.start(&["-p", rules.denied()])?.measure();
                self.disarm(&other)?;
                outcome
            }
            Subject::Confined(rules) => self.confined(rules),
            Subject::Crowd(rules, others) => {
                let mut crowd = Vec::new();
                for n in 0..others {
                    let other = self.start(&["-m", "-w"])?;
                    if let Err(gap) = self.arm_by(&other, &rules.variant(n), &format!("app-{n}"))? {
                        return Ok(Outcome::Gap(gap));
                    }
                    crowd.push(other);
                }
                let mut outcome = self.confined(rules)?;
                // Each gets other rules of its own; then one policy that selects them all takes their place, then another.
                for (operation, count, own) in
                    [(UPDATE_OWN, 50, true), (UPDATE_ONE, 50, false), (UPDATE_SHARED, 51, false)]
                {
                    let mut rulesets = Vec::new();
                    for n in (0..others).take(if own { crowd.len() } else { 1 }) {
                        let rules = Rules { count, ..rules };
                        let (policy, app) = if own {
                            (rules.variant(n), format!("app-{n}"))
                        } else {
                            (rules.policy(), "bench".into())
                        };
                        rulesets.push(ruleset(&policy, &app)?.ok().context("a policy has a gap")?);
                    }
                    let updates: Vec<_> =
                        crowd.iter().map(|other| &other.id).zip(rulesets.iter().cycle()).collect();
                    let begin = Instant::now();
                    self.enforcer()?.update_all(&updates).into_iter().collect::<Result<(), _>>()?;
                    let in_force = i64::try_from(begin.elapsed().as_nanos())?;
                    self.enforcer()?.settle();
                    let taken = i64::try_from(begin.elapsed().as_nanos())?;
                    eprintln!(
                        "{operation}: in force after {in_force} ns, the last old ones gone after {taken} ns"
                    );
                    if let Outcome::Figures(figures) = &mut outcome {
                        figures.push(Figures {
                            operation: operation.into(),
                            min: in_force,
                            p50: in_force,
                            p99: taken,
                        });
                    }
                }
                crowd.iter().try_for_each(|other| self.disarm(other))?;
                Ok(outcome)
            }
            Subject::Memory(rules) => self.memory(rules),
        }
    }

    fn confined(&mut self, rules: Rules) -> Result<Outcome> {
        let mut arguments = vec!["-m", "-b", rules.denied(), "-p", rules.permitted()];
        arguments.extend(rules.denies_a_destination().then_some("-d"));
        let process = self.start(&arguments)?;
        if let Err(gap) = self.arm(&process, rules)? {
            return Ok(Outcome::Gap(gap));
        }
        let id = process.id.clone();
        let outcome = process.measure();
        self.enforcer()?.disarm(&id)?;
        outcome
    }

    /// Bytes: of the first container with these rules, and of each of some hundreds that share them.
    fn memory(&mut self, rules: Rules) -> Result<Outcome> {
        const SHARING: u32 = 500;
        let mut processes = Vec::new();
        for _ in 0..SHARING + 2 {
            processes.push(self.start(&["-m", "-w"])?);
        }
        let mut processes = processes.into_iter();
        let mut armed = Vec::new();
        let mut arm = |count: u32| -> Result<Option<String>> {
            for process in processes.by_ref().take(usize::try_from(count)?) {
                if let Err(gap) = self.arm(&process, rules)? {
                    return Ok(Some(gap));
                }
                armed.push(process);
            }
            Ok(None)
        };
        self.enforcer()?.settle(); // what was measured before may still be going
        let empty = memory::of_maps()?;
        if let Some(gap) = arm(1)? {
            return Ok(Outcome::Gap(gap));
        }
        let one = memory::of_maps()?;
        arm(1)?; // what is only taken for the second
        let (two, kernel) = (memory::of_maps()?, memory::of_kernel()?);
        arm(SHARING)?;
        let (many, kernel_many) = (memory::of_maps()?, memory::of_kernel()?);
        armed.iter().try_for_each(|process| self.disarm(process))?;
        let figures = [
            ("all maps before the first container", empty),
            ("ruleset", one - empty),
            ("container", (many - two) / i64::from(SHARING)),
            ("all", (kernel_many - kernel) / i64::from(SHARING)),
        ];
        let figures = figures.map(|(operation, bytes)| Figures {
            operation: operation.into(),
            min: bytes,
            p50: bytes,
            p99: bytes,
        });
        Ok(Outcome::Figures(figures.into()))
    }

    fn enforcer(&self) -> Result<&Enforcer> {
        self.enforcer.as_ref().context("nothing is attached")
    }

    /// Arms a process; the inner error is what is not enforced yet.
    fn arm(&self, process: &Process, rules: Rules) -> Result<Result<(), String>> {
        self.arm_by(process, &rules.policy(), "bench")
    }

    fn arm_by(&self, process: &Process, policy: &str, app: &str) -> Result<Result<(), String>> {
        let ruleset = match ruleset(policy, app)? {
            Ok(ruleset) => ruleset,
            Err(gap) => return Ok(Err(gap)),
        };
        let target =
            Target { id: process.id.clone(), pid: i32::try_from(process.child.id())?, stage: Stage::Running };
        self.enforcer()?.arm(&target, &ruleset)?;
        Ok(Ok(()))
    }

    fn disarm(&self, process: &Process) -> Result<()> {
        Ok(self.enforcer()?.disarm(&process.id)?)
    }

    /// A measuring process that waits.
    fn start(&mut self, arguments: &[&str]) -> Result<Process> {
        self.number += 1;
        let cgroup = PathBuf::from(format!("/sys/fs/cgroup/bench-{}", self.number));
        fs::create_dir(&cgroup)?;
        let mut command = Command::new("/tmp/cost");
        command.args(["run", "-t", TREES[0], "-o", TREES[1], "-x", "/tmp/nothing", "-c"]).arg(&cgroup);
        command.args(arguments).args(self.quick.then_some("-q"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("run cost")?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let id = ContainerId::new(format!("bench-{}", self.number))?;
        let mut process = Process { child, output, id, cgroup };
        let ready = process.read()?;
        ensure!(ready == "ready", "the measuring program says `{ready}`");
        Ok(process)
    }
}

/// What a policy means for this app; the inner error is what is not enforced yet.
fn ruleset(policy: &str, app: &str) -> Result<Result<Ruleset, String>> {
    let parsed = parse("bench.yaml", policy);
    if let Some(error) = parsed.errors.first() {
        bail!("{error}");
    }
    let labels = Labels {
        namespace: "default".into(),
        labels: [("app".into(), app.into())].into(),
        ..Labels::default()
    };
    let postures = Postures::default().with(Class::File, PostureAction::Block);
    let resolved = Ruleset::resolve(&parsed.policies, &postures, &labels);
    Ok(match resolved.coverage.gaps.first() {
        Some(gap) => Err(gap.reason.to_string()),
        None => Ok(resolved.ruleset),
    })
}

enum Outcome {
    Figures(Vec<Figures>),
    Gap(String),
}

struct Process {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    id: ContainerId,
    cgroup: PathBuf,
}

impl Process {
    fn read(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Has it measure, to its end.
    fn measure(mut self) -> Result<Outcome> {
        let mut input = self.child.stdin.take().context("no input")?;
        writeln!(input, "go")?;
        let mut all = Vec::new();
        loop {
            let line = self.read()?;
            if line == "done" {
                break;
            }
            let words: Vec<_> = line.split('\t').collect();
            let [operation, min, p50, p99] = words.as_slice() else {
                bail!("the measuring program says `{line}`");
            };
            let operation = (*operation).to_owned();
            all.push(Figures { operation, min: min.parse()?, p50: p50.parse()?, p99: p99.parse()? });
        }
        ensure!(self.child.wait()?.success(), "the measuring program failed");
        ensure!(!all.is_empty(), "nothing was measured");
        Ok(Outcome::Figures(all))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir(&self.cgroup);
    }
}
