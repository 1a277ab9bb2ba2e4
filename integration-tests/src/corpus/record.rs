//! What came of the corpus on one back end: a small text, committed, that the test compares.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use super::compare::{Actor, Held, Way, Why, compared};
use super::probes::{Probe, probes};
use super::{About, Case, cases};

/// A back end on a real kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackEnd {
    /// BPF-LSM on Linux 6.1.
    Bpf61,
    /// BPF-LSM on Linux 6.12.
    Bpf612,
    /// BPF-LSM on the newest kernel.
    BpfNewest,
    /// AppArmor profiles.
    AppArmor,
    /// SELinux labels, for host policies.
    Selinux,
    /// podman's containers, with AppArmor.
    PodmanAppArmor,
    /// podman's containers, with BPF-LSM.
    PodmanBpf,
}

impl BackEnd {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Bpf61,
        Self::Bpf612,
        Self::BpfNewest,
        Self::AppArmor,
        Self::Selinux,
        Self::PodmanAppArmor,
        Self::PodmanBpf,
    ];

    /// The name of its record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bpf61 => "bpf-6.1",
            Self::Bpf612 => "bpf-6.12",
            Self::BpfNewest => "bpf-newest",
            Self::AppArmor => "apparmor",
            Self::Selinux => "selinux",
            Self::PodmanAppArmor => "podman-apparmor",
            Self::PodmanBpf => "podman-bpf",
        }
    }

    /// What readers know it by.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Bpf61 => "BPF-LSM, 6.1",
            Self::Bpf612 => "BPF-LSM, 6.12",
            Self::BpfNewest => "BPF-LSM, newest",
            Self::AppArmor => "AppArmor",
            Self::Selinux => "SELinux",
            Self::PodmanAppArmor => "podman, AppArmor",
            Self::PodmanBpf => "podman, BPF-LSM",
        }
    }

    /// Whom its policies are about.
    #[must_use]
    pub const fn about(self) -> About {
        match self {
            Self::Selinux => About::Host,
            _ => About::Container,
        }
    }

    /// Before each line of its record in what a test says in its guest.
    fn mark(self) -> String {
        format!("corpus on {}: ", self.name())
    }

    fn path(self) -> PathBuf {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/differences");
        PathBuf::from(folder).join(format!("{}.txt", self.name()))
    }

    /// Its committed record.
    ///
    /// # Errors
    /// When there is none, or it is no record.
    pub fn recorded(self) -> Result<Record> {
        let path = self.path();
        let text = fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))?;
        text.parse().with_context(|| path.display().to_string())
    }
}

/// What was asked about a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Probes, counted once for each posture and each actor.
    pub asked: usize,
    /// Those of them that the kernel denied.
    pub denied: usize,
    /// Those that cannot be asked, since they fail without any policy, or the policy lets nobody start who could.
    pub left_out: usize,
}

/// A difference, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Which way.
    pub way: Way,
    /// The policy.
    pub policy: String,
    /// The reason.
    pub why: Why,
    /// What was tried.
    pub line: String,
}

/// What came of the corpus on one back end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// By policy.
    pub asked: BTreeMap<String, Count>,
    /// The differences, and in how many postures and by how many actors each was met.
    pub differences: BTreeMap<Difference, usize>,
}

impl Record {
    /// How many accesses differ of a policy.
    #[must_use]
    pub fn differing(&self, policy: &str, way: Way) -> usize {
        let of_it = self.differences.iter().filter(|(one, _)| one.policy == policy && one.way == way);
        of_it.map(|(_, times)| times).sum()
    }

    fn add(&mut self, difference: Difference) {
        *self.differences.entry(difference).or_default() += 1;
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (policy, Count { asked, denied, left_out }) in &self.asked {
            writeln!(f, "asked {policy} {asked} {denied} {left_out}")?;
        }
        for (Difference { way, policy, why, line }, times) in &self.differences {
            writeln!(f, "{way} {policy} {why} {times} {line}")?;
        }
        Ok(())
    }
}

impl FromStr for Record {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut record = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(5, ' ').collect();
            match words.as_slice() {
                ["asked", policy, asked, denied, left_out] => {
                    let (asked, denied, left_out) = (asked.parse()?, denied.parse()?, left_out.parse()?);
                    let count = Count { asked, denied, left_out };
                    record.asked.insert((*policy).to_owned(), count);
                }
                [way @ ("more" | "less"), policy, why, times, line] => {
                    let way = if *way == "more" { Way::More } else { Way::Less };
                    let (policy, line) = ((*policy).to_owned(), (*line).to_owned());
                    let difference = Difference { way, policy, why: why.parse()?, line };
                    record.differences.insert(difference, times.parse()?);
                }
                _ => bail!("`{line}` is no line of a record"),
            }
        }
        Ok(record)
    }
}

/// The corpus as it is tried on one back end.
#[derive(Debug)]
pub struct Trial {
    back_end: BackEnd,
    cases: Vec<Case>,
    probes: Vec<Probe>,
    can: Vec<bool>, // which probes succeed without a policy
    record: Record,
    wrong: Vec<String>,
}

impl Trial {
    /// One of this back end, where `ask` gives the answers to all probes while no policy is in force.
    ///
    /// # Errors
    /// When the corpus is not in order, or `ask` fails.
    pub fn new(back_end: BackEnd, ask: impl FnOnce(&[Probe]) -> Result<Vec<String>>) -> Result<Self> {
        let probes = probes()?;
        let answers = ask(&probes)?;
        ensure!(answers.len() == probes.len(), "{} answers to {} probes", answers.len(), probes.len());
        for (probe, answer) in probes.iter().zip(&answers).filter(|(_, answer)| *answer != "0") {
            println!("left out: `{}` is answered by {answer} without a policy", probe.line);
        }
        let can = answers.iter().map(|answer| answer == "0").collect();
        let cases = cases(back_end.about())?;
        Ok(Self { back_end, cases, probes, can, record: Record::default(), wrong: Vec::new() })
    }

    /// The cases.
    #[must_use]
    pub fn cases(&self) -> Vec<Case> {
        self.cases.clone()
    }

    /// Tries all probes in one case, by one actor.
    ///
    /// # Errors
    /// When `ask` fails. What is answered otherwise than it may be is told at the [end](Self::end).
    pub fn by(
        &mut self,
        case: &Case,
        held: &Held,
        actor: Actor,
        ask: impl FnOnce(&[Probe]) -> Result<Vec<String>>,
    ) -> Result<()> {
        let answers =
            ask(&self.probes).with_context(|| format!("{}, posture {}", case.name, case.posture))?;
        ensure!(
            answers.len() == self.probes.len(),
            "{} answers to {} probes",
            answers.len(),
            self.probes.len()
        );
        let count = self.record.asked.entry(case.name.to_owned()).or_default();
        let mut found = Vec::new();
        for ((probe, answer), can) in self.probes.iter().zip(&answers).zip(&self.can) {
            if !can {
                count.left_out += 1;
                continue;
            }
            count.asked += 1;
            count.denied += usize::from(answer != "0");
            match compared(case, held, actor, probe, answer) {
                Ok(None) => {}
                Ok(Some((way, why))) => {
                    let (policy, line) = (case.name.to_owned(), probe.line.clone());
                    found.push(Difference { way, policy, why, line });
                }
                Err(error) => self.wrong.push(format!("{error:#}")),
            }
        }
        found.into_iter().for_each(|difference| self.record.add(difference));
        Ok(())
    }

    /// Notes that an actor cannot be had in a case, since the policy does not let it start.
    pub fn without(&mut self, case: &Case) {
        self.record.asked.entry(case.name.to_owned()).or_default().left_out += self.probes.len();
    }

    /// Says what came of it, for [`check`].
    ///
    /// # Errors
    /// When answers were wrong, with all of them.
    pub fn end(self) -> Result<()> {
        let Self { back_end, record, wrong, .. } = self;
        let mark = back_end.mark();
        ensure!(
            wrong.is_empty(),
            "{} answers differ for no known reason:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        println!(); // whatever the test's harness has begun a line with
        record.to_string().lines().for_each(|line| println!("{mark}{line}"));
        Ok(())
    }
}

/// Compares what a test said in its guest with the record of the back end; with `UPDATE_GOLDEN` writes that.
///
/// # Errors
/// When it is another one, or it said nothing.
pub fn check(back_end: BackEnd, said: &str) -> Result<()> {
    let mark = back_end.mark();
    let lines = said.lines().filter_map(|line| line.strip_prefix(&mark));
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    let record: Record = text.parse()?;
    let asked: usize = record.asked.values().map(|count| count.asked).sum();
    println!("{}: {asked} accesses, {} kinds of difference", back_end.title(), record.differences.len());
    ensure!(asked > 0, "{} was not asked anything", back_end.title());
    let path = back_end.path();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, record.to_string())?;
    }
    let recorded = back_end.recorded()?;
    ensure!(
        recorded == record,
        "{} differs from `decide` in another way than it did; run with UPDATE_GOLDEN=1 and look at `{}`. New is:\n{}",
        back_end.title(),
        path.display(),
        news(&recorded, &record),
    );
    Ok(())
}

/// The lines of one record alone.
fn news(old: &Record, new: &Record) -> String {
    let (old, new) = (old.to_string(), new.to_string());
    let only = |sign: &str, of: &str, other: &str| -> String {
        of.lines()
            .filter(|line| !other.lines().any(|known| known == *line))
            .map(|line| format!("{sign} {line}\n"))
            .collect()
    };
    only("-", &old, &new) + &only("+", &new, &old)
}
