//! A program that embeds `enforcer-core`: it reads policies, says what they mean for one container, and can put them
//! in force on a process that has a mount namespace of its own.
//!
//! ```text
//! embed --policy examples/policies/block-etc-passwd-read.yaml --label app=my-web-app --access file:read:/etc/passwd
//! embed --policy ... --label app=my-web-app --arm PID --id ID --seconds 10      # as root, on a BPF-LSM kernel
//! ```

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use enforcer_core::enforce::{ContainerId, Enforcer, Options, Stage, Target};
use enforcer_core::event::{Event, EventBy};
use enforcer_core::explain::Question;
use enforcer_core::host;
use enforcer_core::policy::{Policy, parse};
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject;

/// Shows what policies mean for a container, and enforces them on a process
#[derive(Debug, Parser)]
struct Arguments {
    /// File with policies; may be repeated
    #[arg(long = "policy", required = true, value_name = "FILE")]
    policies: Vec<PathBuf>,
    /// Namespace of the pod
    #[arg(long, value_name = "NS", default_value = "default")]
    namespace: String,
    /// Label of the pod; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Name of the container in the pod
    #[arg(long, value_name = "NAME", default_value = "main")]
    container: String,
    /// An access to decide, as root, such as file:read:/etc/passwd; may be repeated
    #[arg(long = "access", value_name = "CLASS:OP:OBJECT")]
    accesses: Vec<Question>,
    /// Enforce on this process and its descendants; it must have a mount namespace of its own
    #[arg(long, value_name = "PID", requires = "id")]
    arm: Option<i32>,
    /// What the container is called
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// How long to enforce
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u64,
    /// Where to pin programs and maps; must not be that of a running nri-enforcer
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/nri-enforcer-embed")]
    bpffs: PathBuf,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, for example app=web".to_owned()),
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let policies = read(&arguments.policies)?;

    // The pure part: no I/O, the same input gives the same bytes.
    let subject = Subject {
        namespace: arguments.namespace,
        pod: String::new(),
        labels: arguments.labels.into_iter().collect(),
        container: arguments.container,
        host: false,
    };
    let resolved = Ruleset::resolve(&policies, &Postures::default(), &subject);
    println!("ruleset {}", resolved.ruleset.digest());
    print!("{}", resolved.ruleset);
    for gap in &resolved.coverage.gaps {
        println!("gap {gap}");
    }
    for question in &arguments.accesses {
        let decision = resolved.ruleset.decide(&question.access(None, 0, 0));
        println!("{question}: {}", decision.verdict);
    }

    // The part with a kernel.
    if let (Some(pid), Some(id)) = (arguments.arm, arguments.id) {
        let target = Target { id: ContainerId::new(id)?, pid, stage: Stage::Running };
        enforce(&arguments.bpffs, &target, &resolved.ruleset, Duration::from_secs(arguments.seconds))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A program that enforces may keep the good policies of a bad file, as `nri-enforcer run` does; this one refuses.
fn read(files: &[PathBuf]) -> Result<Vec<Policy>> {
    let mut policies = Vec::new();
    let mut mistakes = 0;
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        let parsed = parse(&file.to_string_lossy(), &text);
        for error in &parsed.errors {
            eprintln!("{error}");
        }
        mistakes += parsed.errors.len();
        policies.extend(parsed.policies);
    }
    ensure!(mistakes == 0, "{mistakes} mistakes in the policies");
    Ok(policies)
}

/// Arms, prints what is denied or audited for a while, disarms, and takes the programs out of the kernel.
fn enforce(bpffs: &Path, target: &Target, ruleset: &Ruleset, time: Duration) -> Result<()> {
    let report = host::probe();
    for check in report.checks.iter().filter(|check| !check.ok) {
        eprintln!("{}: {}; {}", check.name, check.detail, check.advice);
    }
    ensure!(report.enforces(), "this machine cannot enforce");

    let mut options = Options::default();
    options.bpffs = bpffs.to_owned();
    let enforcer = Enforcer::open(&options)?;
    let done = arm_and_watch(&enforcer, target, ruleset, time);
    // Without these two, enforcement goes on after this process: that is what a daemon wants.
    enforcer.disarm(&target.id)?;
    drop(enforcer);
    enforcer_core::enforce::unload(bpffs)?;
    done
}

fn arm_and_watch(enforcer: &Enforcer, target: &Target, ruleset: &Ruleset, time: Duration) -> Result<()> {
    let armed = enforcer.arm(target, ruleset)?;
    println!("armed {} (process {}, {} tasks)", target.id, target.pid, armed.tasks);
    thread::scope(|scope| {
        // A stream of events belongs to the thread that made it, and waiting blocks: it wants a thread of its own.
        let reader = scope.spawn(|| -> Result<()> {
            let mut events = enforcer.events()?;
            let end = Instant::now() + time;
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                events.poll(left.min(Duration::from_millis(200)), |event| {
                    println!("{}", line(&event, ruleset))
                })?;
            }
            Ok(())
        });
        reader.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the reader of events panicked")))
    })
}

fn line(event: &Event, ruleset: &Ruleset) -> String {
    let by = match event.by {
        // The number of a rule means something only in the ruleset that decided.
        EventBy::Rule(id) if event.ruleset == Some(ruleset.digest()) => match ruleset.origin(id) {
            Some(origin) => format!("{} {}", origin.policy, origin.rule),
            None => "an unknown rule".to_owned(),
        },
        EventBy::DefaultPosture => "DefaultPosture".to_owned(),
        EventBy::Unresolved(reason) => reason.as_str().to_owned(),
        _ => "unknown".to_owned(),
    };
    let (path, source) = (event.path.escape_ascii(), event.source.escape_ascii());
    format!("{} {} {path} by {source} (pid {}): {by}", event.verdict, event.op.as_str(), event.host_pid)
}
