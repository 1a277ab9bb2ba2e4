//! Seccomp: a hundred policies that select one container, merged with the runtime's default. It has to take less than
//! 5 ms; what takes longer ends with an error.

use std::error::Error;
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use enforcer_core::policy::{SeccompPolicy, parse};
use enforcer_core::seccomp::{Arch, Base, Node, compile};

const LIMIT: Duration = Duration::from_millis(5);
const SIZES: [usize; 3] = [1, 10, 100];

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let node = Node { arch: Arch::native().ok_or("no seccomp on this architecture")?, libseccomp: (2, 5, 4) };
    let base = Base::RuntimeDefault([].into());
    let mut group = criterion.benchmark_group("seccomp");
    for size in SIZES {
        let policies = policies(size)?;
        let policies: Vec<&SeccompPolicy> = policies.iter().collect();
        compile(&policies, &base, &node)?;
        group.bench_with_input(BenchmarkId::new("compile", size), &policies, |b, policies| {
            b.iter(|| compile(black_box(policies), &base, &node));
        });
        let fastest = (0..10).map(|_| {
            let started = Instant::now();
            let _ = black_box(compile(black_box(&policies), &base, &node));
            started.elapsed()
        });
        let fastest = fastest.min().unwrap_or_default();
        println!("seccomp/compile/{size}: {fastest:?}, limit {LIMIT:?}");
        if fastest > LIMIT {
            return Err(format!("{size} policies take {fastest:?}, more than {LIMIT:?}").into());
        }
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// Policies as teams write them: what their program needs, what nobody may do, and some conditions.
fn policies(count: usize) -> Result<Vec<SeccompPolicy>, Box<dyn Error>> {
    let mut text = String::new();
    for number in 0..count {
        write!(
            text,
            "---\nkind: KubeArmorSeccompPolicy\nname: p{number}\napp: web\nsyscalls:\n\
             - {{name: \"@system-service\", action: Allow}}\n\
             - {{name: \"@mount\", action: Block, errno: EACCES}}\n\
             - {{name: socket, action: Block, args: [{{index: 0, value: {}}}]}}\n\
             - {{name: personality, action: Allow, args: [{{index: 0, value: {number}}}]}}\n\
             - {{name: kexec_load, action: Audit}}\n",
            10 + number % 8
        )?;
    }
    let parsed = parse("bench.yaml", &text);
    match parsed.errors.first() {
        Some(error) => Err(error.to_string().into()),
        None => Ok(parsed.seccomp),
    }
}
