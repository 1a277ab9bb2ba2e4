//! What the commands of `lab` do.

use std::fmt::Display;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use enforcer_core::policy::{Policy, parse};
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject;

use crate::bench;
use crate::cli::{BenchArgs, Command, GuestArgs, OutputFormat, RunArgs, VerifierArgs};
use crate::node::{self, Container, Pod};
use crate::run::{self, Plan, PolicyFile, Report, Target};
use crate::vm::{self, Containerd, Job, Kernel, Spec, Streams};
use crate::{cache, demo, verifier};

/// The user asked for something that makes no sense; exit code 2.
#[derive(Debug)]
struct BadUsage(String);

impl Display for BadUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadUsage {}

fn bad(message: impl Into<String>) -> anyhow::Error {
    BadUsage(message.into()).into()
}

/// Carries a command out and prints its errors.
#[must_use]
pub fn carry_out(command: Command) -> ExitCode {
    let result = match command {
        Command::Run(args) => run_command(&args),
        Command::Demo(args) => demo::on_host(&args),
        Command::Guest(args) => guest(&args),
        Command::Bench(args) => bench_command(&args),
        Command::Verifier(args) => verifier_command(&args),
        Command::Prepare => prepare(),
        Command::Agent(args) => agent(&args.task, args.file.as_deref()),
    };
    match result {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        Err(error) => {
            let usage = error.is::<BadUsage>();
            eprintln!("{} {error:#}", console::style("error:").red().bold().for_stderr());
            ExitCode::from(if usage { 2 } else { 125 })
        }
    }
}

fn run_command(args: &RunArgs) -> Result<i32> {
    let plan = plan(args)?;
    let target = Target { spec: Spec::node(args.kernel, args.containerd), daemon: args.daemon.clone() };
    let report = if args.host {
        run::on_host(&plan, args.rootfs.as_deref(), &target)?
    } else {
        run::in_guest(&plan, args.rootfs.as_deref(), &target)?
    };
    let mut out = io::stdout().lock();
    match args.output {
        OutputFormat::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
        OutputFormat::Text => run::print(&report, &mut out)?,
    }
    Ok(status(&plan, &report))
}

/// The exit status of the one program that the user named, if it is one.
fn status(plan: &Plan, report: &Report) -> i32 {
    let entry = plan.pod.containers.iter().any(|c| c.name == plan.container && !c.is_idle());
    match (report.execs.as_slice(), entry) {
        ([exec], false) => exec.exit,
        ([], true) => report.entry.exit.unwrap_or(if report.entry.started { 0 } else { 125 }),
        _ => 0,
    }
}

/// What `lab run` was asked to do; all that can be wrong with it is found here, before a machine is started.
fn plan(args: &RunArgs) -> Result<Plan> {
    let (policies, parsed) = policies(&args.policies)?;
    let mut pod = match &args.pod {
        Some(file) => {
            node::parse(&file.to_string_lossy(), &read(file)?).map_err(|e| bad(format!("{e:#}")))?
        }
        None => {
            let name = args.container.clone().unwrap_or_else(|| "main".into());
            let mut pod = Pod::new("lab", &[], Container { name, user: args.user, ..Container::default() });
            pod.namespace.clone_from(&args.namespace);
            pod.labels = args.labels.iter().cloned().collect();
            pod
        }
    };
    let names: Vec<_> = pod.containers.iter().map(|c| c.name.clone()).collect();
    let container = args.container.clone().or_else(|| names.first().cloned()).unwrap_or_default();
    let Some(chosen) = pod.containers.iter_mut().find(|c| c.name == container) else {
        return Err(bad(format!("the pod has no container `{container}`; it has {}", names.join(", "))));
    };
    let mut execs = args.execs.clone();
    if args.entry {
        chosen.command.clone_from(&args.command);
    } else if !args.command.is_empty() {
        execs.push(
            shlex::try_join(args.command.iter().map(String::as_str)).context("a NUL byte in the command")?,
        );
    }
    for command in &execs {
        run::command_line(command).map_err(|e| bad(e.to_string()))?;
    }
    let idle = pod.init.iter().chain(&pod.containers).all(Container::is_idle);
    if execs.is_empty() && idle {
        return Err(bad(
            "nothing to run: give a command after `--`, --exec, or a pod whose container has one",
        ));
    }
    if let Some(root) = args.rootfs.as_ref().filter(|r| !r.exists()) {
        return Err(bad(format!("there is no `{}`", root.display())));
    }
    hint(&parsed, &pod, &container);
    let (postures, own_image, timeout) = (args.postures.clone(), args.rootfs.is_some(), args.timeout);
    Ok(Plan {
        pod,
        container,
        policies,
        postures,
        daemon_runs: false,
        clean_up: false,
        own_image,
        execs,
        timeout,
    })
}

/// Policy files, checked as the daemon will check them. It would go on without a bad one; here that would mislead.
fn policies(paths: &[PathBuf]) -> Result<(Vec<PolicyFile>, Vec<Policy>)> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries =
                fs::read_dir(path).map_err(|e| bad(format!("cannot read `{}`: {e}", path.display())))?;
            let mut found: Vec<_> = entries.flatten().map(|e| e.path()).filter(|p| is_policy(p)).collect();
            found.sort();
            files.extend(found);
        } else {
            files.push(path.clone());
        }
    }
    let (mut texts, mut parsed, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (number, path) in files.iter().enumerate() {
        let text = read(path)?;
        let file = parse(&path.to_string_lossy(), &text);
        errors.extend(file.errors.iter().map(ToString::to_string));
        parsed.extend(file.policies);
        // The number keeps apart files of one name from several folders.
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        texts.push((format!("{number:02}-{name}.yaml"), text));
    }
    if !errors.is_empty() {
        return Err(bad(format!("the policies have mistakes\n{}", errors.join("\n"))));
    }
    Ok((texts, parsed))
}

fn is_policy(path: &Path) -> bool {
    path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e == *known))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| bad(format!("cannot read `{}`: {e}", path.display())))
}

/// What the user should know before he wonders about the result.
fn hint(policies: &[Policy], pod: &Pod, container: &str) {
    let note = console::style("note:").cyan().bold().for_stderr();
    let subject = Subject {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        labels: pod.labels.clone(),
        container: container.to_owned(),
        ..Subject::default()
    };
    let resolved = Ruleset::resolve(policies, &Postures::default(), &subject);
    if !policies.is_empty() && resolved.ruleset.is_empty() {
        let labels: Vec<_> = pod.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let labels = if labels.is_empty() { "no labels".to_owned() } else { labels.join(",") };
        eprintln!(
            "{note} no policy selects container `{container}` of {}/{} ({labels})",
            pod.namespace, pod.name
        );
    }
    for gap in &resolved.coverage.gaps {
        eprintln!("{note} {gap}");
    }
}

fn guest(args: &GuestArgs) -> Result<i32> {
    let spec = Spec {
        containerd: args.containerd,
        icount: args.icount,
        systemd: args.systemd,
        append: args.append.clone(),
        ..Spec::plain(args.kernel)
    };
    let Some((program, rest)) = args.command.split_first() else { return Err(bad("no command")) };
    let local = Path::new(program);
    let mut words = vec![program.clone()];
    words.extend(rest.iter().cloned());
    let mut job = Job::default();
    if local.is_file() {
        let name = local.file_name().unwrap_or_default().to_string_lossy().into_owned();
        job = job.file(&name, cache::stripped(local).unwrap_or_else(|_| local.to_owned()));
        if let Some(first) = words.first_mut() {
            *first = format!("./{name}");
        }
    }
    for file in &args.files {
        let (source, name) = match file.rsplit_once(':') {
            Some((source, name)) => (source, name.to_owned()),
            None => (
                file.as_str(),
                Path::new(file).file_name().unwrap_or_default().to_string_lossy().into_owned(),
            ),
        };
        if !Path::new(source).is_file() {
            return Err(bad(format!("there is no file `{source}`")));
        }
        job = job.file(&name, source);
    }
    job.script = format!("exec {}", shlex::try_join(words.iter().map(String::as_str))?);
    job.limit = Some(Duration::from_secs(args.timeout));
    let machine = vm::machine(&spec, &|text| eprintln!("lab: {text}"))?;
    Ok(job.run(&machine, Streams { out: &mut io::stdout(), err: &mut io::stderr() })?.status)
}

fn bench_command(args: &BenchArgs) -> Result<i32> {
    let plan = if args.crowd { bench::Plan::crowd() } else { bench::Plan::new(args.quick, &args.rules) };
    let mut table = bench::Table::new(args.kernel, &bench::measure(args.kernel, &plan)?)?;
    if !args.quick && !args.crowd && args.rules.is_empty() {
        table.claims.push(bench::compiled()?);
    }
    let mut out = io::stdout().lock();
    match args.output {
        OutputFormat::Json => writeln!(out, "{}", serde_json::to_string_pretty(&table)?)?,
        OutputFormat::Text => write!(out, "{}", table.text(colours()))?,
    }
    Ok(i32::from(!table.holds()))
}

fn verifier_command(args: &VerifierArgs) -> Result<i32> {
    let kernels: &[Kernel] = if args.kernels.is_empty() { &Kernel::ALL } else { &args.kernels };
    let mut record = verifier::Record::read(&args.file)?;
    let mut wrong = 0;
    let mut out = io::stdout().lock();
    for kernel in kernels {
        let found = verifier::measure(*kernel, &|text| eprintln!("lab: {text}"))?;
        let report = record.compare(*kernel, &found);
        write!(out, "{report}")?;
        wrong += report.wrong();
        if args.record {
            record.replace(*kernel, &found);
        }
    }
    if args.record {
        record.write(&args.file)?;
        writeln!(out, "recorded in {}", args.file.display())?;
        return Ok(0);
    }
    Ok(i32::from(wrong > 0))
}

/// Machines, as many at once as guests run at once: making one takes slots as tests do.
fn prepare() -> Result<i32> {
    let all =
        Kernel::LONG_TERM.iter().flat_map(|kernel| Containerd::ALL.map(|containerd| (*kernel, containerd)));
    // the longest first
    let all: Vec<_> = [(Kernel::Newest, Containerd::V2_1)].into_iter().chain(all).collect();
    std::thread::scope(|scope| {
        let made: Vec<_> = all
            .iter()
            .map(|(kernel, containerd)| {
                scope.spawn(|| {
                    let target = Target { spec: Spec::node(*kernel, *containerd), daemon: None };
                    run::machine_with_daemon(&target, &|text| eprintln!("lab: {text}")).map(drop)
                })
            })
            .collect();
        made.into_iter().try_for_each(|machine| {
            machine.join().unwrap_or_else(|_| Err(anyhow::anyhow!("making a machine panicked")))
        })
    })?;
    Ok(0)
}

fn agent(task: &str, file: Option<&Path>) -> Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = file.map(fs::read).transpose()?.unwrap_or_default();
    let folder = std::env::current_dir()?;
    match task {
        "run" => {
            let report = runtime.block_on(run::carry_out(&serde_json::from_slice(&text)?, &folder))?;
            println!("{}", serde_json::to_string(&report)?);
            Ok(0)
        }
        "bench" => bench::carry_out(&serde_json::from_slice(&text)?).map(|()| 0),
        "verifier" => verifier::carry_out().map(|()| 0),
        "daemon" => {
            runtime.block_on(run::leave_daemon(&folder.join(file.unwrap_or(Path::new(""))))).map(|()| 0)
        }
        "demo" => runtime.block_on(demo::in_guest(&serde_json::from_slice(&text)?)),
        _ => Err(bad(format!("no task is called `{task}`"))),
    }
}

/// Whether to colour what goes to standard output.
#[must_use]
pub fn colours() -> bool {
    io::stdout().is_terminal() && console::colors_enabled()
}
