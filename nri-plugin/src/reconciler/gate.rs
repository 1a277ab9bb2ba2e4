//! Containers that the OCI hook asks about: their root has not changed yet.

use std::sync::Arc;

use enforcer_core::enforce::{ContainerId, Stage};

use super::arm::First;
use super::{Late, Reconciler, RootAt};
use crate::container::{Container, Wish, name_all_policies};
use crate::kernel::Kernel;
use crate::order::{Caller, Gated, Refusal};

impl<K: Kernel> Reconciler<K> {
    /// Arms the container as it was told by the runtime, and says whether it may start.
    pub(super) fn gate(&mut self, caller: &Caller) -> Gated {
        let known = self.known.get(&caller.id);
        let (namespace, wish) = known.map_or((&caller.namespace, Wish::None), |known| {
            (&known.container.subject.namespace, known.container.wish)
        });
        // a set that is not there yet must not read as one that selects nothing
        if let Some(why) = self.selection.awaits(&self.policies.borrow(), namespace, wish) {
            return Gated::Awaits(why);
        }
        let Some(known) = known else {
            // No runtime's annotations have the labels of the pod, so it cannot be told which policies select it: only
            // that none does.
            let exempt = self.selection.is_exempt(&caller.namespace, Wish::None);
            let reached = self.policies.borrow().reaches(&caller.namespace);
            return if exempt || !reached { Gated::Nothing } else { Gated::Unknown };
        };
        let container = Arc::clone(&known.container);
        let Some(merged) = self.wanted(&[&container]).pop().flatten() else {
            return self.observed(&container).map_or(Gated::Nothing, Gated::Refused);
        };
        let process = self.find(caller.pid);
        let stage = Stage::Creating { root: caller.root_inode };
        let Some(known) = self.known.get_mut(&caller.id) else { return Gated::Unknown };
        let before = std::mem::replace(&mut known.process, process);
        let other = known.armed.is_some() && (before != process || known.late == Late::Elsewhere);
        known.root =
            caller.root.clone().map_or(RootAt::Unknown, |root| RootAt::Below(root, caller.root_inode));
        known.stage = Stage::Running; // for whatever comes after this: armed later, it may run already
        known.unwatched |= known.armed.is_none(); // should it start in spite of a refusal (the hook's mode is open)
        match self.arm_first(&container, (caller.pid, process), other, &merged, stage) {
            Ok(First::Armed) => {
                tracing::info!(%container, "let through the gate");
                Gated::Armed
            }
            // whether it starts is the hook's to say, which is told the truth
            Ok(First::Uncovered(refusal)) | Err(refusal) if merged.binds() => Gated::Refused(refusal),
            Ok(First::Uncovered(refusal)) | Err(refusal) => {
                self.unobserved(&container, Err(refusal));
                Gated::Nothing
            }
        }
    }

    /// Why a container that policies select must not start where no lock works: the hook is there so that none starts
    /// without its policies.
    fn observed(&self, container: &Arc<Container>) -> Option<Refusal> {
        let set = Arc::clone(&self.policies.borrow());
        let selected = || self.selection.resolve(&set, &container.subject, container.wish);
        let reason = self.selection.holds_none().filter(|_| !self.selection.seccomp_only)?;
        let merged = selected()?;
        let advice =
            "`nri-enforcer probe` says why; without the OCI hook it would start, and only be observed";
        Some(Refusal::new(container, name_all_policies(&merged), reason, advice))
    }

    /// The container is over, says the hook; what lives is believed more. It need not be known: one that failed before it came
    /// to the gate has only been noted.
    pub(super) fn gone(&mut self, id: &ContainerId) {
        if let Some(known) = self.known.get(id)
            && known.process.is_some_and(|process| self.procs.alive(process))
        {
            tracing::warn!(container = %id, "lives, though the OCI hook tells its end; it stays armed");
            return;
        }
        let ids = [id.clone()].into();
        match self.procs.inhabited(&ids) {
            Ok(inhabited) if inhabited.is_empty() && !self.has_tasks(id) => self.remove_any(id),
            Ok(_) => tracing::debug!(container = %id, "has processes, though its end is told"),
            Err(error) => tracing::error!(%error, "cannot list processes; nothing is disarmed"),
        }
    }
}
