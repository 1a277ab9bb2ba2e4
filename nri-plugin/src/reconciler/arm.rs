//! Putting rules in force for one container, and taking them out.

use std::fmt;
use std::sync::Arc;

use enforcer_core::enforce::{ContainerId, Stage, Target};
use enforcer_core::links::Unknown;
use enforcer_core::ruleset::Ruleset;

use super::late::{LIVES_ON, Late};
use super::{Known, Reconciler};
use crate::container::{Container, Merged, Selection, name_gaps};
use crate::exit::chain;
use crate::kernel::{Kernel, KernelError};
use crate::order::{Notice, Refusal};
use crate::procs::Process;
use crate::roots::all;

/// What to do about a container that is not covered, where the OCI hook holds the gate shut, and where its mode is `open`.
const SHUT: &str =
    "or set `mode` of the OCI hook to `open`: then it starts, and is told as one that is not covered";
const OPEN: &str = "only the OCI hook's mode `open` lets it start";

/// What becomes of a container whose first process waits.
#[derive(Debug)]
pub(super) enum First {
    /// Its rules are in force.
    Armed,
    /// Nothing has failed, and what it was created with does not hold its rules, or not all of them: why it is not vouched
    /// for.
    Uncovered(Refusal),
}

impl<K: Kernel> Reconciler<K> {
    /// Arms a container whose first process has not executed the workload yet, or refuses it: also one that is not covered,
    /// with `strict`, and where the OCI hook holds the gate shut. `other`: it is armed for another process.
    pub(super) fn arm_first(
        &mut self,
        container: &Arc<Container>,
        (pid, process): (i32, Option<Process>),
        other: bool,
        merged: &Arc<Merged>,
        stage: Stage,
    ) -> Result<First, Refusal> {
        let id = container.id.clone();
        let refuse = |reason: &dyn fmt::Display, advice| {
            Err(Refusal::new(container, merged.name_binding(), reason, advice))
        };
        if pid <= 0 {
            return refuse(
                &"the runtime did not tell its first process, and no process is in a cgroup with its id",
                "the daemon must share the host's pid namespace (hostPID: true)",
            );
        }
        if process.is_none() {
            return refuse(
                &format_args!("process {pid} is not there"),
                "the daemon must share the host's pid namespace (hostPID: true)",
            );
        }
        if other {
            if let Some(why) = self.lives_on(&id) {
                let advice = match why == LIVES_ON {
                    true => "end them, then start the container again",
                    false => "start the container again",
                };
                return refuse(&why, advice);
            }
            self.disarm(&id, "it has another first process"); // an update would not reach that one
            if let Some(known) = self.known.get_mut(&id).filter(|known| known.armed.is_some()) {
                known.late = Late::Elsewhere;
                return refuse(
                    &"it is armed for another process, and cannot be disarmed",
                    "start the container again",
                );
            }
        }
        let found = match self.question(&id, process, merged, true) {
            Some((question, _)) => self.roots.look_up(question),
            None => all(&merged.paths, Unknown::Unreadable),
        };
        let unlinked = self.unlinked(&id, process, Arc::clone(merged), found, None);
        let linked = self.link(&unlinked);
        let ruleset = &linked.ruleset;
        if self.selection.strict && !linked.gaps.is_empty() {
            return refuse(
                &format_args!("not enforceable completely (strict): {}", name_gaps(&linked.gaps)),
                "name the paths that the links lead to, or run without --strict",
            );
        }
        let told = self.known.get_mut(&id).and_then(Known::told);
        let armed = self.arm(&id, ruleset, stage, pid);
        let unheld = match &armed {
            Ok(()) => self.registry.lacking(&id),
            Err(error) if error.is_uncovered() => Some(chain(error)),
            Err(error) => return refuse(&chain(error), "`nri-enforcer probe` shows what this host supports"),
        };
        let Some(reason) = unheld else {
            tracing::info!(%container, ruleset = %ruleset.digest(), "armed before its first instruction");
            return Ok(First::Armed);
        };
        // nothing has failed: what it is created with cannot hold its rules, or not all of them, which is a gap
        let Selection { strict, must_hold, .. } = self.selection;
        match stage {
            _ if strict => return refuse(&reason, "or run without --strict"),
            _ if must_hold => return refuse(&reason, SHUT),
            Stage::Created if armed.is_err() && told.as_ref() == Some(&reason) => {}
            Stage::Created if armed.is_err() => {
                tracing::error!(%container, reason, "starts without its policies");
                let (container, ruleset) = (Arc::clone(container), Arc::clone(ruleset));
                (self.notify)(Notice::Unprotected { container, ruleset, reason: reason.clone() });
            }
            // should it start in spite of that, the sweep tells it: not every runtime asks again
            Stage::Creating { .. } if armed.is_err() => {
                if let Some(known) = self.known.get_mut(&id) {
                    known.untold = true;
                }
            }
            _ => {}
        }
        Ok(First::Uncovered(Refusal::new(container, merged.name_binding(), reason, OPEN)))
    }

    /// Puts `ruleset` in force, whatever was before. `pid` is 0 where only the rules of an armed container change.
    pub(super) fn arm(
        &mut self,
        id: &ContainerId,
        ruleset: &Arc<Ruleset>,
        stage: Stage,
        pid: i32,
    ) -> Result<(), KernelError> {
        let armed = self.known.get(id).and_then(|known| known.armed);
        let result = match armed {
            Some(_) if pid == 0 => self.kernel.update(id, ruleset),
            _ => self.kernel.arm(&Target { id: id.clone(), pid, stage }, ruleset),
        };
        if let Some(known) = self.known.get_mut(id)
            && stage == Stage::Running
            && pid != 0
            && result.is_ok()
        {
            known.late = Late::No;
        }
        self.note(id, ruleset, &result);
        result
    }

    /// Remembers what putting `ruleset` in force came to.
    pub(super) fn note(
        &mut self,
        id: &ContainerId,
        ruleset: &Arc<Ruleset>,
        result: &Result<(), KernelError>,
    ) {
        if let Some(known) = self.known.get_mut(id) {
            match result {
                Ok(()) => {
                    (known.armed, known.failed, known.unwatched) = (Some(ruleset.digest()), None, false);
                    known.armed_here = true;
                }
                Err(error) => known.failed = Some(chain(error)),
            }
        }
        if result.is_ok() {
            self.registry.assign(id, Some(Arc::clone(ruleset)));
        }
        self.publish(id);
    }

    /// Arms a container that has a process, if that can be seen.
    pub(super) fn arm_living(
        &mut self,
        id: &ContainerId,
        process: Option<Process>,
        ruleset: &Arc<Ruleset>,
        stage: Stage,
    ) -> Result<(), KernelError> {
        if let Some(process) = process {
            return self.arm(id, ruleset, stage, process.pid);
        }
        let error = KernelError::new("its first process is not there (the daemon needs hostPID: true)");
        if let Some(known) = self.known.get_mut(id) {
            known.failed = Some(chain(&error));
        }
        self.publish(id);
        Err(error)
    }

    pub(super) fn disarm(&mut self, id: &ContainerId, why: &'static str) {
        let result = self.kernel.disarm(id);
        if let Err(error) = &result {
            tracing::error!(container = %id, error = chain(error), why, "cannot disarm; will try again");
        } else {
            tracing::info!(container = %id, why, "disarmed");
            self.registry.assign(id, None);
        }
        if let Some(known) = self.known.get_mut(id) {
            match result {
                Ok(()) => (known.armed, known.failed, known.late) = (None, None, Late::No),
                Err(error) => known.failed = Some(chain(&error)),
            }
        }
        self.publish(id);
    }
}
