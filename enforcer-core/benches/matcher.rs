//! The kernel's matcher through its `SEC("syscall")` door: 1 to 10,000 rules, paths of 2 to 20 components, hit and
//! miss. It runs in this machine's own kernel, so it needs root; where the matcher cannot be loaded it says so and
//! fails.
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

use criterion::{BenchmarkId, Criterion};
use enforcer_core::decide::{Access, Verdict};
use enforcer_core::enforce::EnforceError;
use enforcer_core::enforce::door::{Answer, Doors, Reading};

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
                let access = Access::read(path.as_bytes());
                let found = doors.ask(&access)?.decision().map(|decision| decision.verdict);
                if found != Some(wanted) {
                    return Err(format!("{path}: {found:?}, not {wanted}").into());
                }
                let asked = Asked::default();
                group.bench_function(BenchmarkId::new(name, size), |b| {
                    b.iter(|| asked.check(doors.ask(black_box(&access))));
                });
                asked.finish()?;
            }
            doors.withdraw()?;
        }
        group.finish();
    }
    criterion.final_summary();
    Ok(())
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
