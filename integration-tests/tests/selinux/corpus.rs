//! The corpus of policies and probes as host policies: labels are set and taken off for each.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use enforcer_core::compile::selinux::{compile, held};
use enforcer_core::enforce::selinux::Selinux;
use lab::corpus::actor::Visitor;
use lab::corpus::compare::{Actor, Held, Lock};
use lab::corpus::record::{BackEnd, Trial};
use lab::corpus::world;

use crate::PLAIN;
use crate::process::{as_host_command, label, relabel, said};

/// Not the daemon's.
const RECORD: &str = "/run/corpus";

pub fn compared() -> Result<()> {
    let begin = Instant::now();
    world::prepare()?;
    let selinux = Selinux::open(Path::new(RECORD))?;
    selinux.install()?;
    let fresh = || -> Result<()> {
        selinux.take_off()?;
        // what could not be moved back has its label still
        let paths = said(std::process::Command::new("find").arg(world::TOP))?;
        for path in paths.lines().filter(|path| label(path) != PLAIN) {
            relabel(path, PLAIN)?;
        }
        world::make()
    };
    let start = |program| Visitor::start(&mut as_host_command(&[program]));
    let mut trial = Trial::new(BackEnd::Selinux, |probes| {
        fresh()?;
        start(world::OTHER)?.try_all(probes)
    })?;
    for case in trial.cases() {
        let labels = compile(&case.ruleset);
        let held = Held { lock: Lock::Selinux, ruleset: held(&case.ruleset), gaps: labels.gaps.clone() };
        for program in case.programs() {
            fresh()?;
            // before there are labels: that the policy denies the program is asked of others
            let mut visitor = start(program)?;
            let applied = selinux.apply(&labels)?;
            // one policy allows what is in /proc, which has no labels
            let lacks = applied.lacks.iter().any(|lack| !lack.starts_with("`/proc/"));
            ensure!(!lacks && applied.permissive.is_empty(), "{}: {applied:?}", case.name);
            trial.by(&case, &held, Actor { program, known: true }, |probes| visitor.try_all(probes))?;
            visitor.end()?;
        }
    }
    fresh()?;
    let restored = selinux.unload()?;
    ensure!(restored.kept.is_empty(), "{restored:?}");
    println!("the corpus took {:.1} s", begin.elapsed().as_secs_f64());
    trial.end()
}
