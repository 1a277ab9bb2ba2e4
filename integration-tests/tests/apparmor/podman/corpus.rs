//! The corpus of policies and probes in podman's containers: one is started for each policy, posture and actor.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use enforcer_core::compile::apparmor::{Options, compile, held};
use enforcer_core::decide::{Access, Verdict};
use lab::corpus::compare::{Actor, Held, Lock};
use lab::corpus::probes::Probe;
use lab::corpus::record::{BackEnd, Trial};
use lab::corpus::{Case, LABEL, world};
use lab::node::Daemon;

use super::{PODMAN, podman, run};

const IMAGE: &str = "localhost/corpus:1";
/// The program that nobody names, by which runc starts others.
const RUNTIME: &str = "/runc";

/// The image with the world.
fn import() -> Result<()> {
    fs::write("corpus.tar", world::archive()?)?;
    podman(&["import", "-q", "corpus.tar", IMAGE], "").map(drop)
}

/// What `visit` answers in a container with these options; `None`: it does not start.
fn answers(options: &[&str], command: &[&str], probes: &[Probe]) -> Result<Option<Vec<String>>> {
    let lines: String = probes.iter().flat_map(|probe| [probe.line.as_str(), "\n"]).collect();
    let output = run(PODMAN, &[&["run", "--rm", "-i"], options, &[IMAGE], command].concat(), &lines)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() || text.is_empty(),
        "{command:?}: {}: {complaint}\n{text}",
        output.status
    );
    if !output.status.success() {
        // anything else that keeps it from starting is no answer of the kernel's
        let denied = ["permission denied", "operation not permitted"];
        let denied = denied.iter().any(|why| complaint.to_lowercase().contains(why));
        ensure!(denied, "{command:?}: {}: {complaint}", output.status);
        println!("{command:?} does not start: {}: {complaint}", output.status);
    }
    Ok(output.status.success().then(|| text.lines().map(str::to_owned).collect()))
}

/// Whether the policy does not let the runtime start the program: BPF-LSM judges that, and that it is read for it; AppArmor
/// does not.
fn is_denied(case: &Case, lock: Lock, program: &str) -> bool {
    let path = program.as_bytes();
    let denies =
        |access: Access<'_>| case.ruleset.decide(&access.from(RUNTIME.as_bytes())).verdict == Verdict::Block;
    lock == Lock::Bpf && (denies(Access::exec(path).with_args(&[])) || denies(Access::read(path)))
}

/// Tries the corpus with the daemon that runs, whose lock this is.
pub(in super::super) async fn compared(daemon: &Daemon, lock: Lock) -> Result<()> {
    let begin = Instant::now();
    import()?;
    let mut runs = 0;
    let nothing = |probes: &[Probe]| answers(&[], &[world::OTHER], probes)?.context("nothing starts");
    let back_end = if lock == Lock::Bpf { BackEnd::PodmanBpf } else { BackEnd::PodmanAppArmor };
    let mut trial = Trial::new(back_end, nothing)?;
    let label = format!("{}={}", LABEL.0, LABEL.1);
    for case in trial.cases() {
        daemon.apply("policy.yaml", &case.documents()).await?;
        let what = match lock {
            Lock::AppArmor => {
                // whether processes may change their profiles is not known of podman's, so that they may not
                let named = Options::named("nri-enforcer.compared".parse()?);
                let profile = compile(&case.ruleset, &[], &Options { no_new_privs: true, ..named });
                Held { lock, ruleset: held(&case.ruleset), gaps: profile.gaps }
            }
            _ => Held { lock, ruleset: case.ruleset.clone(), gaps: Vec::new() },
        };
        for program in case.programs() {
            runs += 1;
            let told = |probes: &[Probe]| answers(&["--label", &label], &[program], probes);
            if is_denied(&case, lock, program) {
                ensure!(told(&[])?.is_none(), "{}: {program} starts", case.name);
                trial.without(&case);
            } else {
                let actor = Actor { program, known: lock == Lock::Bpf || case.programs().len() == 1 };
                trial.by(&case, &what, actor, |probes| told(probes)?.context("it does not start"))?;
            }
        }
    }
    println!("the corpus under podman took {:.1} s, {runs} containers", begin.elapsed().as_secs_f64());
    trial.end()
}
