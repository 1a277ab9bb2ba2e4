//! `make demo`: one policy, shown at work step by step. Every step is checked; one that does not go as it should ends
//! the demonstration with an error.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use console::{Style, style};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::cli::DemoArgs;
use crate::commands::colours;
use crate::node::{Container, Cri, Daemon, Pod, RunningContainer, RunningPod, Runtime};
use crate::run::{Target, alert_line, guest_job, machine_with_daemon, running_daemon};
use crate::vm::{Spec, Streams};

/// How long an alert may take to arrive.
const ALERT: Duration = Duration::from_secs(10);
/// The label that the policy selects.
const LABEL: (&str, &str) = ("app", "my-web-app");
/// What `first` exits with when the open is denied: EACCES.
const DENIED: i32 = 13;

/// What the guest's side needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub struct Setting {
    policy: String,
    colours: bool,
}

/// The host's side: explains, and runs the rest in a fresh guest.
///
/// # Errors
/// When the lab fails. A step that does not go as it should is exit status 1.
pub fn on_host(args: &DemoArgs) -> Result<i32> {
    let begin = Instant::now();
    let policy =
        fs::read_to_string(&args.policy).with_context(|| format!("read `{}`", args.policy.display()))?;
    let spec = Spec::node(args.kernel, args.containerd);
    println!("{}", style("nri-enforcer: a policy denies a container its very first system call").bold());
    println!("\nThe policy, {}:\n", style(args.policy.display()).cyan());
    for line in policy.lines().filter(|l| !l.trim_start().starts_with('#')) {
        println!("    {}", style(line).dim());
    }
    println!(
        "\nThe containers run a static program whose {} opens /etc/passwd. They are started over CRI by\n\
         containerd {} on a stock Debian kernel {}, in a fresh virtual machine.\n",
        style("first system call").bold(),
        args.containerd,
        args.kernel
    );
    let target = Target { spec, daemon: args.daemon.clone() };
    let setting = serde_json::to_vec(&Setting { policy, colours: colours() })?;
    let mut job = guest_job(&target, false, "exec ./lab agent demo demo.json")?.bytes("demo.json", setting);
    job.limit = Some(Duration::from_secs(180));
    let machine = machine_with_daemon(&target, &|text| eprintln!("lab: {text}"))?;
    let outcome = job.run(&machine, Streams { out: &mut std::io::stdout(), err: &mut std::io::stderr() })?;
    if outcome.status == 0 {
        println!(
            "{} All as it should be, in {:.0} s.",
            style("✔").green().bold(),
            begin.elapsed().as_secs_f64()
        );
        println!("\nTry a policy of your own:");
        println!("    make lab ARGS=\"run --policy FILE --label app=my-web-app -- cat /etc/passwd\"");
    }
    Ok(outcome.status.min(1))
}

/// The guest's side.
///
/// # Errors
/// Never: what goes wrong is printed, and is exit status 1.
pub async fn in_guest(setting: &Setting) -> Result<i32> {
    console::set_colors_enabled(setting.colours);
    match steps(setting).await {
        Ok(()) => Ok(0),
        Err(error) => {
            println!("{} {error:#}", style("✘").red().bold());
            Ok(1)
        }
    }
}

fn step(number: u8, text: &str) {
    println!("{} {}", style(format!("{number}.")).cyan().bold(), style(text).bold());
}

fn shown(what: &str, output: &str, exit: i32) {
    let verdict = if exit == 0 { Style::new().green() } else { Style::new().red() }.bold();
    println!(
        "   {} {what}\n   {} {}",
        style("$").dim(),
        verdict.apply_to(output.trim()),
        style(format!("(exit {exit})")).dim()
    );
}

async fn steps(setting: &Setting) -> Result<()> {
    let cri = Runtime::of_guest().cri().await?;
    let mut daemon = running_daemon()?;
    daemon.apply("block-etc-passwd-read.yaml", &setting.policy).await?;
    let result = acts(&cri, &mut daemon).await;
    result.map_err(|e| e.context(daemon.log()))
}

async fn acts(cri: &Cri, daemon: &mut Daemon) -> Result<()> {
    step(1, &format!("A pod with the label {}={}", LABEL.0, LABEL.1));
    let web = sandbox(cri, "web", &[LABEL]).await?;
    let (exit, output) = run_first(cri, &web).await?;
    shown("first", &output, exit);
    let alerts = daemon.wait_for_alert(ALERT, |a| a["PolicyName"] == "block-etc-passwd-read").await?;
    for alert in &alerts {
        println!("   {} {}", style("alert").magenta(), alert_line(alert));
    }
    ensure!(exit == DENIED, "the labelled pod was not denied: it exited with {exit}");
    let alert =
        alerts.iter().find(|a| a["Resource"] == "/etc/passwd").context("no alert about /etc/passwd came")?;
    ensure!(
        alert["PolicyName"] == "block-etc-passwd-read" && alert["Action"] == "Block",
        "a wrong alert: {alert}"
    );

    step(2, "A pod without it");
    let (exit, output) = run_first(cri, &sandbox(cri, "other", &[]).await?).await?;
    shown("first", &output, exit);
    ensure!(exit == 0, "the pod that no policy selects was not left alone: it exited with {exit}");

    step(3, "A program that enters a running labelled container, as by `kubectl exec`");
    let container = cri.create(&web, &Container::idle("sidecar"), 0).await?;
    cri.start(&container).await?;
    enter(cri, &container, "the exec entry").await?;

    step(4, "The daemon is killed with SIGKILL; the same again");
    daemon.end(Signal::SIGKILL)?;
    enter(cri, &container, "with the daemon dead, the exec entry").await?;
    println!("   {}\n", style("enforcement is in the kernel: it outlives the daemon").dim());
    Ok(())
}

async fn sandbox(cri: &Cri, name: &str, labels: &[(&str, &str)]) -> Result<RunningPod> {
    Ok(cri.run_pod(&Pod::new(name, labels, Container::idle("main"))).await?)
}

/// Runs `first` as a container's own program.
async fn run_first(cri: &Cri, pod: &RunningPod) -> Result<(i32, String)> {
    let container = cri.create(pod, &Container::new("main", &["/bin/first"]), 0).await?;
    cri.start(&container).await?;
    let state = cri.wait(&container, Duration::from_secs(30)).await?.context("`first` does not end")?;
    Ok((state.exit.context("`first` has no exit status")?, cri.output(&container).0))
}

async fn enter(cri: &Cri, container: &RunningContainer, what: &str) -> Result<()> {
    for command in [&["/bin/first"][..], &["cat", "/etc/passwd"]] {
        let words: Vec<_> = command.iter().map(|w| (*w).to_owned()).collect();
        let output = cri.exec(container, &words, Duration::from_secs(30)).await?;
        let text = if output.stdout.is_empty() { &output.stderr } else { &output.stdout };
        shown(&format!("exec {}", words.join(" ")), text, output.exit);
        ensure!(output.exit != 0, "{what} was not denied: `{}` exited with 0", words.join(" "));
    }
    Ok(())
}
