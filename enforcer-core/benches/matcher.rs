//! The kernel's matcher through its `SEC("syscall")` door: 1 to 10,000 rules about paths, directories and patterns, paths
//! of 2 to 20 components, hit and miss. It runs in this machine's own kernel, so it needs root; where the matcher cannot
//! be loaded it says so and fails.
//!
//! Every figure holds, besides the match, what the door costs and a hook does not: handing the path to the kernel,
//! two system calls, and laying the path out as dentries, byte by byte. `floor` is the door without a layout and
//! without a match. So compare along one row: a path of one depth, with more and more rules. That the row is flat is
//! the claim. What an access costs on a hooked system call is not measured here.

use std::cell::Cell;
use std::error::Error;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion};
use enforcer_core::decide::{Access, Verdict};
use enforcer_core::enforce::EnforceError;
use enforcer_core::enforce::door::{Answer, Doors, Reading};
use enforcer_core::ruleset::{Postures, Ruleset};

mod rules;

use rules::SIZES;

const DEPTHS: [usize; 4] = [2, 5, 10, 20];

fn main() -> ExitCode {
    let criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    match run(criterion) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nNOTHING IS MEASURED: {error}");
            eprintln!(
                "This benchmark loads BPF programs into the running kernel: run it as root, on Linux 6.1 or later."
            );
            ExitCode::FAILURE
        }
    }
}

fn run(mut criterion: Criterion) -> Result<(), Box<dyn Error>> {
    let mut doors = Doors::open(Reading::AsHooks)?;
    floor(&mut criterion, &mut doors)?;
    for depth in DEPTHS {
        let mut group = criterion.benchmark_group(format!("match/depth {depth}"));
        for size in SIZES {
            doors.publish(&rules::ruleset(size, depth)?)?;
            let n = size / 2;
            for (name, path, wanted) in [
                ("hit", rules::path(n, depth), Verdict::Block),
                ("miss", rules::neighbour(n, depth), Verdict::Allow),
            ] {
                ask(&mut group, BenchmarkId::new(name, size), &mut doors, &path, wanted)?;
            }
            doors.withdraw()?;
        }
        group.finish();
    }
    for (kind, name) in [(Kind::Directories, "directories"), (Kind::Patterns, "patterns")] {
        for depth in DEPTHS {
            let mut group = criterion.benchmark_group(format!("{name}/depth {depth}"));
            for size in SIZES {
                let (ruleset, hit, miss) = elsewhere(kind, size, depth)?;
                doors.publish(&ruleset)?;
                for (name, path, wanted) in [("hit", hit, Verdict::Block), ("miss", miss, Verdict::Allow)] {
                    ask(&mut group, BenchmarkId::new(name, size), &mut doors, &path, wanted)?;
                }
                doors.withdraw()?;
            }
            group.finish();
        }
    }
    criterion.final_summary();
    Ok(())
}

/// Measures one question, whose answer must be right.
fn ask(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    doors: &mut Doors,
    path: &str,
    wanted: Verdict,
) -> Result<(), Box<dyn Error>> {
    let access = Access::read(path.as_bytes());
    let found = doors.ask(&access)?.decision().map(|decision| decision.verdict);
    if found != Some(wanted) {
        return Err(format!("{path}: {found:?}, not {wanted}").into());
    }
    let asked = Asked::default();
    group.bench_function(id, |b| b.iter(|| asked.check(doors.ask(black_box(&access)))));
    Ok(asked.finish()?)
}

/// A class without rules: the answer is there before a path is laid out.
fn floor(criterion: &mut Criterion, doors: &mut Doors) -> Result<(), Box<dyn Error>> {
    doors.publish(&rules::ruleset(1, 2)?)?;
    let access = Access::exec(b"/bin/sh");
    let asked = Asked::default();
    criterion.bench_function("match/floor", |b| b.iter(|| asked.check(doors.ask(black_box(&access)))));
    asked.finish()?;
    doors.withdraw()?;
    Ok(())
}

/// This many Block rules about directories with all below, or patterns, each in a directory of its own, a hundred of which
/// stand side by side, with a path that one of them is about and one as long that none is.
fn elsewhere(kind: Kind, count: usize, depth: usize) -> Result<(Ruleset, String, String), Box<dyn Error>> {
    let place = |n: usize| format!("/srv{}{}/dir-{n}", n / 100, "/component".repeat(depth.saturating_sub(3)));
    let (section, rule): (_, fn(String) -> String) = match kind {
        Kind::Directories => ("matchDirectories", |place| format!("{{dir: {place}/, recursive: true}}")),
        Kind::Patterns => ("matchPatterns", |place| format!("{{pattern: '{place}/f*e'}}")),
    };
    let list: Vec<String> = (0..count).map(|n| rule(place(n))).collect();
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: policy, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: web}}}}\n  file: {{{section}: [{}]}}\n",
        list.join(", ")
    );
    let ruleset = Ruleset::resolve(&rules::policies(&text)?, &Postures::default(), &rules::subject()).ruleset;
    let place = place(count / 2);
    let beside = place.replace("/dir-", "/der-");
    Ok((ruleset, format!("{place}/file"), format!("{beside}/filx")))
}

/// What rules are about.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Directories with all below.
    Directories,
    /// Patterns.
    Patterns,
}

/// Notices an error within the measured loop, where nothing can be returned.
#[derive(Default)]
struct Asked(Cell<Option<EnforceError>>);

impl Asked {
    fn check(&self, answer: Result<Answer, EnforceError>) -> Option<Answer> {
        answer.map_err(|error| self.0.set(Some(error))).ok()
    }

    fn finish(self) -> Result<(), EnforceError> {
        self.0.into_inner().map_or(Ok(()), Err)
    }
}
