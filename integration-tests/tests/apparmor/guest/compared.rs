//! The corpus of policies and probes, under each profile that a policy has.

use std::collections::BTreeSet;
use std::process::Command;

use enforcer_core::compile::apparmor::{Options, compile, held};
use enforcer_core::enforce::apparmor::AppArmor;
use lab::corpus::actor::Visitor;
use lab::corpus::compare::{Actor, Held, Lock};
use lab::corpus::record::{BackEnd, Trial};
use lab::corpus::world;

use super::{source, under};

/// The name of each profile in its turn. It is left loaded.
pub(super) const PROFILE: &str = "nri-enforcer.policy";

pub(super) fn compared(apparmor: &AppArmor) {
    let start = |label: &str, program| Visitor::start(&mut under(label, &[program]));
    let without = || Visitor::start(&mut Command::new(world::OTHER));
    let mut trial = Trial::new(BackEnd::AppArmor, |probes| without()?.try_all(probes)).unwrap();
    for case in trial.cases() {
        let profile = compile(&case.ruleset, &[], &Options::named(PROFILE.parse().unwrap()));
        // nobody is in the children of the one before
        apparmor.remove_unused(&BTreeSet::new()).unwrap();
        apparmor.load(&profile).unwrap_or_else(|error| panic!("{error}\n{}", profile.text));
        let apart = profile.profiles.len() > 1;
        let held = Held { lock: Lock::AppArmor, ruleset: held(&case.ruleset), gaps: profile.gaps };
        // the label, and the actor
        let mut actors = vec![(PROFILE.to_owned(), Actor { program: world::OTHER, known: !apart })];
        if apart {
            let child = |child: &str| format!("{PROFILE}//{child}");
            actors.push((child("other"), Actor { program: world::OTHER, known: true }));
            actors.push((child(&source()), Actor { program: world::SOURCE, known: true }));
        }
        for (label, actor) in actors {
            let mut visitor = start(&label, actor.program).unwrap();
            trial.by(&case, &held, actor, |probes| visitor.try_all(probes)).unwrap();
            visitor.end().unwrap();
        }
    }
    trial.end().unwrap();
}
