//! The corpus of policies and probes in two armed containers, one for each program: the kernel does what `decide` says.

use anyhow::Result;
use enforcer_core::enforce::{Enforcer, Stage};
use lab::corpus::compare::{Actor, Held, Lock};
use lab::corpus::probes::Probe;
use lab::corpus::record::{BackEnd, Trial, check};
use lab::corpus::world;
use lab::vm::Kernel;

use crate::container::Container;
use crate::{block, in_guest};

/// The name of the body.
pub const BODY: &str = "corpus";

#[test]
fn the_corpus_on_6_1() -> Result<()> {
    check(BackEnd::Bpf61, &in_guest(Kernel::V6_1, BODY)?)
}

#[test]
fn the_corpus_on_6_12() -> Result<()> {
    check(BackEnd::Bpf612, &in_guest(Kernel::V6_12, BODY)?)
}

#[test]
fn the_corpus_on_the_newest() -> Result<()> {
    check(BackEnd::BpfNewest, &in_guest(Kernel::Newest, BODY)?)
}

/// In the guest.
pub fn compared(enforcer: Enforcer) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let back_end = match release.split('.').take(2).collect::<Vec<_>>().as_slice() {
        ["6", "1"] => BackEnd::Bpf61,
        ["6", "12"] => BackEnd::Bpf612,
        _ => BackEnd::BpfNewest,
    };
    world::prepare().unwrap();
    world::make().unwrap();
    // a process has its program before the policy comes: that the policy denies it is asked of others
    let nothing = block("/nothing");
    let mut containers = [world::OTHER, world::SOURCE].map(|program| {
        let mut container = Container::created(program.rsplit('/').next().unwrap(), true);
        enforcer.arm(&container.target(Stage::Created), &nothing).unwrap();
        container.start();
        container.becomes(program);
        (program, container)
    });
    let mut trial = Trial::new(back_end, |probes| try_all(&mut containers[0].1, probes)).unwrap();
    for case in trial.cases() {
        let held = Held { lock: Lock::Bpf, ruleset: case.ruleset.clone(), gaps: Vec::new() };
        for program in case.programs() {
            let (_, container) = containers.iter_mut().find(|(one, _)| one == program).unwrap();
            enforcer.update(&container.id, &case.ruleset).unwrap();
            let actor = Actor { program, known: true };
            trial.by(&case, &held, actor, |probes| try_all(container, probes)).unwrap();
        }
    }
    trial.end().unwrap();
}

fn try_all(container: &mut Container, probes: &[Probe]) -> Result<Vec<String>> {
    probes.iter().map(|probe| container.ask(&probe.line)).collect()
}
