//! Containers of whose start nobody tells, or not all: a runtime that restores one from a checkpoint tells NRI of its creation
//! alone (containerd 2.1, CRI-O), and crun runs no hooks for it; CRI-O before 1.36 tells of no process.

use std::collections::BTreeSet;

use enforcer_core::enforce::{ContainerId, Stage};

use super::late::Late;
use super::{Known, Reconciler};
use crate::kernel::Kernel;
use crate::procs::Process;

/// Sweeps at which a workload was there before it is taken for started: what is told in a moment is not to be told as late.
const TWICE: u32 = 2;
/// The same for a process of which it is not known whether it is the workload: it may be the runtime's, which waits for a
/// start (CRI-O has it from the creation on). Such a start is then judged from the runtime's last steps on. A workload cannot
/// hide for longer behind a program that is in none of its mounts.
const LONG: u32 = 10;
/// Why it is not sure which seccomp filters it has.
const RESTORED: &str = "it was restored from a checkpoint, with the filters that it had then; create it anew";

impl<K: Kernel> Reconciler<K> {
    /// Takes those for started that were created and have processes. A start that is under way is not among them: of that one
    /// the process is known before it executes the workload, from the gate or from the runtime, which waits.
    pub(super) fn sweep_untold(&mut self) {
        let untold = |known: &Known| known.process.is_none() && known.stage == Stage::Created;
        let waiting: BTreeSet<ContainerId> = self
            .known
            .iter()
            .filter(|(id, known)| untold(known) && !id.is_host())
            .map(|(id, _)| id.clone())
            .collect();
        let living = match self.procs.oldest(&waiting) {
            Ok(living) => living,
            Err(error) => {
                return tracing::error!(%error, "cannot list processes; what was restored is not found");
            }
        };
        for id in waiting {
            let process = living.get(&id).copied();
            if let Some(known) = self.known.get_mut(&id) {
                known.untold_for = if process.is_some() { known.untold_for.saturating_add(1) } else { 0 };
            }
            if let Some(process) = process {
                self.take_for_started(&id, process);
            }
        }
    }

    /// Looks for the first processes of those that run, so far as was told, without one that was found then: a runtime that only
    /// logs a refused start (CRI-O) lets them run unprotected.
    pub(super) fn sweep_unfound(&mut self) {
        let is_unfound = |known: &Known| {
            known.process.is_none() && known.stage == Stage::Running && !known.container.id.is_host()
        };
        let unfound = self.known.iter().filter(|(_, known)| is_unfound(known)).map(|(id, _)| id.clone());
        let found = match self.procs.first(&unfound.collect()) {
            Ok(found) => found,
            Err(error) => return tracing::error!(%error, "cannot list processes"),
        };
        for (id, process) in found {
            if self.runs_as(&id, Some(process)) {
                self.was_too_late(&id, Late::Elsewhere);
            }
            self.enqueue(id);
        }
    }

    fn take_for_started(&mut self, id: &ContainerId, process: Process) {
        let Some(known) = self.known.get_mut(id) else { return };
        let begun = self.procs.has_begun(process);
        if known.untold_for < if begun { TWICE } else { LONG } {
            return;
        }
        tracing::warn!(container = %known.container, pid = process.pid, "runs, though nobody told of its start: restored from a checkpoint?");
        known.unwatched |= known.armed.is_none();
        let elsewhere = self.runs_as(id, Some(process));
        let ledger = self.registry.seccomp();
        if begun && ledger.created(id).is_some_and(|created| created.profile.is_some()) {
            ledger.not_applied(id, RESTORED.to_owned());
        }
        match elsewhere {
            true => self.was_too_late(id, Late::Elsewhere),
            false => self.unheard_before(id),
        }
        self.enqueue(id.clone());
    }
}
