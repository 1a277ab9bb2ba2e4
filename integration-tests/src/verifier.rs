//! `lab verifier`: every program of the enforcer loads on every kernel, and what the kernel's verifier goes through for
//! it does not grow unnoticed. A program that grows tenfold still loads, takes seconds where it took a moment, and is
//! refused by the next kernel.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use enforcer_core::enforce::{Enforcer, Options, unload};
use libbpf_rs::query::ProgInfoIter;
use serde::{Deserialize, Serialize};

use crate::cache;
use crate::vm::{self, Job, Kernel, Spec, Streams};

/// Where the figures are kept that new ones are compared with.
pub const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/verifier.txt");
/// What a program may grow by unnoticed, in per cent.
const GROWTH: u64 = 20;
/// The verifier gives up after so many.
const VERIFIER_LIMIT: u64 = 1_000_000;
/// What the record begins with.
const HEAD: &str = "\
# Instructions that the kernel's verifier went through for each program (15 letters of its name), by kernel.
# Written by `lab verifier --record`; a test fails when one grows by more than 20 %.
";

/// What one kernel said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// Its release.
    pub release: String,
    /// Milliseconds that loading and attaching took, in an emulated machine; `None`: they were loaded before.
    pub milliseconds: Option<u64>,
    /// Instructions that the verifier went through, by program; those of one name (the kernel keeps 15 bytes) together.
    pub programs: BTreeMap<String, u64>,
}

impl Found {
    /// Of what this kernel has loaded.
    ///
    /// # Errors
    /// When it does not say.
    pub fn of_this_kernel() -> Result<Self> {
        let mut programs = BTreeMap::new();
        for info in ProgInfoIter::default() {
            let name = info.name.to_string_lossy().into_owned();
            *programs.entry(name).or_insert(0) += u64::from(info.verified_insns);
        }
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        if programs.is_empty() || programs.values().any(|n| *n == 0) {
            bail!("Linux {release} does not say what its verifier went through: {programs:?}");
        }
        Ok(Self { release, milliseconds: None, programs })
    }
}

/// The guest's side: loads everything and prints a [`Found`].
///
/// # Errors
/// When this kernel refuses a program.
pub fn carry_out() -> Result<()> {
    let options = Options::default();
    let begin = Instant::now();
    let enforcer = Enforcer::open(&options)?;
    let milliseconds = Some(u64::try_from(begin.elapsed().as_millis())?);
    let found = Found { milliseconds, ..Found::of_this_kernel()? };
    drop(enforcer);
    unload(&options.bpffs)?;
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

/// Has a fresh guest with this kernel load every program.
///
/// # Errors
/// When the lab fails, or a program does not load: then with the verifier's words.
pub fn measure(kernel: Kernel, progress: &dyn Fn(&str)) -> Result<Found> {
    let machine = vm::machine(&Spec::plain(kernel), progress)?;
    let mut job =
        Job::script("exec ./lab agent verifier").file("lab", cache::stripped(&std::env::current_exe()?)?);
    job.limit = Some(Duration::from_secs(300));
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let outcome = job.run(&machine, Streams { out: &mut out, err: &mut errors })?;
    if outcome.status != 0 {
        bail!("the programs do not load on Linux {kernel}:\n{}", String::from_utf8_lossy(&errors).trim());
    }
    serde_json::from_slice(&out).context("the agent's answer")
}

/// Earlier figures.
#[derive(Debug, Default)]
pub struct Record(BTreeMap<String, BTreeMap<String, u64>>);

impl Record {
    /// From a file; one that is not there is empty.
    ///
    /// # Errors
    /// When it cannot be read, or a line of it is not `KERNEL PROGRAM NUMBER`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.with_context(|| format!("read `{}`", path.display()))?,
        };
        Self::parse(&text).with_context(|| format!("in `{}`", path.display()))
    }

    /// From a file's text.
    ///
    /// # Errors
    /// When a line of it is not `KERNEL PROGRAM NUMBER`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut record = Self::default();
        for line in text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
            let words: Vec<_> = line.split_whitespace().collect();
            let [kernel, program, number] = words.as_slice() else {
                bail!("`{line}` is not KERNEL PROGRAM NUMBER");
            };
            let number = number.parse().with_context(|| format!("`{line}`: the number"))?;
            record.0.entry((*kernel).to_owned()).or_default().insert((*program).to_owned(), number);
        }
        Ok(record)
    }

    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for (kernel, programs) in &self.0 {
            for (program, number) in programs {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{kernel:<7} {program:<16} {number:>7}");
            }
        }
        text
    }

    /// To a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &PathBuf) -> Result<()> {
        fs::write(path, self.text()).with_context(|| format!("write `{}`", path.display()))
    }

    /// Takes new figures for a kernel.
    pub fn replace(&mut self, kernel: Kernel, found: &Found) {
        self.0.insert(kernel.to_string(), found.programs.clone());
    }

    /// How new figures stand.
    #[must_use]
    pub fn compare(&self, kernel: Kernel, found: &Found) -> Report {
        let empty = BTreeMap::new();
        let before = self.0.get(&kernel.to_string()).unwrap_or(&empty);
        let mut lines: Vec<_> = found
            .programs
            .iter()
            .map(|(program, now)| Compared {
                program: program.clone(),
                now: *now,
                before: before.get(program).copied(),
            })
            .collect();
        lines.sort_by_key(|l| std::cmp::Reverse(l.now));
        let gone = before.keys().filter(|p| !found.programs.contains_key(*p)).cloned().collect();
        Report { release: found.release.clone(), milliseconds: found.milliseconds, lines, gone }
    }
}

#[derive(Debug)]
struct Compared {
    program: String,
    now: u64,
    before: Option<u64>,
}

impl Compared {
    /// What is wrong with it; `None`: nothing.
    fn wrong(&self) -> Option<&'static str> {
        match self.before {
            None => Some("NOT RECORDED"),
            Some(before) if self.now * 100 > before * (100 + GROWTH) => Some("GROWN"),
            Some(_) => None,
        }
    }
}

/// New figures against the record.
#[derive(Debug)]
pub struct Report {
    release: String,
    milliseconds: Option<u64>,
    lines: Vec<Compared>,
    gone: Vec<String>,
}

impl Report {
    /// How many programs have grown, are not recorded, or are recorded and gone.
    #[must_use]
    pub fn wrong(&self) -> usize {
        self.lines.iter().filter(|l| l.wrong().is_some()).count() + self.gone.len()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: u64 = self.lines.iter().map(|l| l.now).sum();
        writeln!(
            f,
            "Linux {}: {} programs, {all} instructions verified{}",
            self.release,
            self.lines.len(),
            self.milliseconds.map_or(String::new(), |n| format!(", loaded and attached in {n} ms"))
        )?;
        for line in &self.lines {
            let before = line.before.map_or("-".into(), |n| n.to_string());
            let share = line.now * 100 / VERIFIER_LIMIT;
            let word = line.wrong().unwrap_or_default();
            writeln!(
                f,
                "  {:<16} {:>7}, was {before:>7}  {share:>2} % of the limit  {word}",
                line.program, line.now
            )?;
        }
        for program in &self.gone {
            writeln!(f, "  {program:<16} is recorded and GONE")?;
        }
        if self.wrong() > 0 {
            writeln!(f, "  where that is meant: `lab verifier --record`, and commit the record")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(programs: &[(&str, u64)]) -> Found {
        let programs = programs.iter().map(|(p, n)| ((*p).to_owned(), *n)).collect();
        Found { release: "6.1.0".into(), milliseconds: None, programs }
    }

    #[test]
    fn growth_is_noticed() {
        let mut record = Record::default();
        record.replace(Kernel::V6_1, &found(&[("file_open", 1000), ("task_alloc", 50)]));
        record.replace(Kernel::V6_12, &found(&[("file_open", 900)]));
        let again = Record::parse(&record.text()).unwrap();
        assert_eq!(again.0, record.0);
        for (programs, wrong) in [
            (&[("file_open", 1000), ("task_alloc", 50)][..], 0),
            (&[("file_open", 1200), ("task_alloc", 1)], 0),
            (&[("file_open", 1201), ("task_alloc", 50)], 1),
            (&[("file_open", 1000), ("task_alloc", 50), ("new", 1)], 1),
            (&[("file_open", 1000)], 1),
        ] {
            let report = record.compare(Kernel::V6_1, &found(programs));
            assert_eq!(report.wrong(), wrong, "{report}");
        }
        assert_eq!(
            record.compare(Kernel::Newest, &found(&[("file_open", 1)])).wrong(),
            1,
            "an unknown kernel"
        );
        assert!(Record::parse("6.1 file_open many").is_err());
        assert!(Record::parse("6.1 file_open").is_err());
    }
}
