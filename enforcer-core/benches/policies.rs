//! The pure stages: parse, resolve, compile, and `decide`, for 1 to 10,000 rules.
//!
//! `decide` is the definition and scans the rules one by one; that it grows with their number is expected. What the
//! kernel runs is measured by the benchmark `matcher`.

use std::error::Error;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use enforcer_core::compile::bpf::compile;
use enforcer_core::decide::{Access, Verdict};
use enforcer_core::policy::parse;
use enforcer_core::ruleset::{Postures, Ruleset};

mod rules;

use rules::SIZES;

/// Components of each rule's path.
const DEPTH: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    parsing(&mut criterion)?;
    resolving(&mut criterion)?;
    compiling(&mut criterion)?;
    deciding(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

fn parsing(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let mut group = criterion.benchmark_group("parse");
    for size in SIZES {
        let text = rules::text(size, DEPTH)?;
        rules::policies(&text)?;
        group.throughput(Throughput::Bytes(u64::try_from(text.len())?));
        group.bench_with_input(BenchmarkId::from_parameter(size), &text, |b, text| {
            b.iter(|| parse("bench.yaml", black_box(text)));
        });
    }
    group.finish();
    Ok(())
}

fn resolving(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let mut group = criterion.benchmark_group("resolve");
    let (postures, subject) = (Postures::default(), rules::subject());
    for size in SIZES {
        let policies = rules::policies(&rules::text(size, DEPTH)?)?;
        group.bench_with_input(BenchmarkId::from_parameter(size), &policies, |b, policies| {
            b.iter(|| Ruleset::resolve(black_box(policies), &postures, &subject));
        });
    }
    group.finish();
    Ok(())
}

fn compiling(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let mut group = criterion.benchmark_group("compile");
    for size in SIZES {
        let ruleset = rules::ruleset(size, DEPTH)?;
        compile(&ruleset)?;
        group.bench_with_input(BenchmarkId::from_parameter(size), &ruleset, |b, ruleset| {
            b.iter(|| compile(black_box(ruleset)));
        });
    }
    group.finish();
    Ok(())
}

fn deciding(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let mut group = criterion.benchmark_group("decide");
    for size in SIZES {
        let ruleset = rules::ruleset(size, DEPTH)?;
        let n = size / 2;
        for (name, path, wanted) in [
            ("hit", rules::path(n, DEPTH), Verdict::Block),
            ("miss", rules::neighbour(n, DEPTH), Verdict::Allow),
        ] {
            let access = Access::read(path.as_bytes());
            let found = ruleset.decide(&access).verdict;
            if found != wanted {
                return Err(format!("{path}: {found}, not {wanted}").into());
            }
            group.bench_with_input(BenchmarkId::new(name, size), &access, |b, access| {
                b.iter(|| ruleset.decide(black_box(access)));
            });
        }
    }
    group.finish();
    Ok(())
}
