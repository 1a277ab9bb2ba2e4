//! Containers that are armed too late, or as what they are not.

use std::sync::Arc;

use enforcer_core::enforce::{ContainerId, Stage};

use super::{Reconciler, RootAt};
use crate::container::Container;
use crate::exit::chain;
use crate::kernel::Kernel;
use crate::procs::Process;

/// Why a container is not armed for the process that it has now.
pub(super) const LIVES_ON: &str =
    "tasks of its run before live on, under the rules of then, and what runs now is not under them";

/// The same where that cannot be known.
const NOT_SAID: &str = "it is armed for another process, and the kernel cannot be asked whether tasks of that run live on; what runs \
                        now is not under its rules";

/// Whether a container is armed as what it is not: one whose first process has not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    No,
    /// The OCI hook has given up: it has failed the container, or lets it start, where its mode is `open`. What the runtime
    /// itself does before that is not to be judged, so it counts as begun from the sweep after the next on. So does one that
    /// an earlier daemon armed, and that waits for its first execution still though it runs.
    Unheard,
    /// The process may have begun before that. Its rules stay in force until it is armed as one that runs.
    Begun,
    /// It is armed for another process: nothing of it reaches this one, and it is disarmed first, as soon as no task of that
    /// one lives.
    Elsewhere,
}

impl<K: Kernel> Reconciler<K> {
    /// Nobody waits for the answer any more: the container runs, or the runtime removes what it was refused.
    pub(super) fn start_unanswered(&mut self, container: Arc<Container>, pid: i32) {
        tracing::warn!(%container, "its start was not waited for; it is armed as one that runs");
        let (id, process) = (container.id.clone(), self.find(pid));
        let known = self.know(container);
        known.unwatched |= known.armed.is_none();
        if self.runs_as(&id, process) {
            self.was_too_late(&id, Late::Elsewhere);
        }
        self.enqueue(id);
    }

    /// Notes that a known container runs, with this first process. Whether it is armed for another one, of which nothing reaches
    /// this one: whoever asks says so by [`Self::was_too_late`].
    pub(super) fn runs_as(&mut self, id: &ContainerId, process: Option<Process>) -> bool {
        let Some(known) = self.known.get_mut(id) else { return false };
        let before = std::mem::replace(&mut known.process, process);
        (known.stage, known.root) = (Stage::Running, RootAt::Process);
        let Some(now) = process.filter(|_| known.armed.is_some() && before != process) else {
            return false;
        };
        before.is_some() || matches!(self.kernel.lives(id, Some(now.pid)), Ok(Some(false)))
    }

    /// The container may have executed its workload before it was armed: an identity that waits for that would wait for
    /// ever. It is armed again, as one that runs.
    pub(super) fn was_too_late(&mut self, id: &ContainerId, late: Late) {
        let Some(known) = self.known.get_mut(id) else { return };
        known.unwatched = true;
        if known.armed.is_some() {
            if known.late != Late::Elsewhere {
                known.late = late;
            }
            if known.late == Late::Elsewhere && self.lives_on(id).is_none() {
                self.disarm(id, "it has another first process");
            }
        }
        self.enqueue(id.clone());
    }

    /// Whether tasks live for which the container is armed, and which nothing would confine if it were disarmed for the sake of
    /// another process. With neither a pid namespace nor a cgroup of its own (podman's `--pid=host --cgroups=disabled`) a
    /// container's tasks outlive its first process, and may outlive its restart.
    /// Then, or where the kernel cannot be asked, it is why nothing is disarmed.
    pub(super) fn lives_on(&mut self, id: &ContainerId) -> Option<&'static str> {
        let why = match self.kernel.lives(id, None) {
            Ok(Some(true)) => LIVES_ON,
            Ok(_) => return None,
            Err(error) => {
                tracing::error!(container = %id, error = chain(&error), "cannot ask whether it lives; it stays armed");
                NOT_SAID
            }
        };
        if let Some(known) = self.known.get_mut(id) {
            (known.late, known.failed) = (Late::Elsewhere, Some(why.to_owned()));
            self.publish(id);
        }
        Some(why)
    }

    /// The OCI hook did not hear that the container is armed.
    pub(super) fn unheard(&mut self, id: &ContainerId) {
        if let Some(known) = self.known.get_mut(id)
            && known.armed.is_some()
            && known.late == Late::No
        {
            (known.unwatched, known.late) = (true, Late::Unheard);
        }
    }

    /// The same of one that runs and that an earlier daemon armed: that may have died before it knew that nobody waited.
    pub(super) fn unheard_before(&mut self, id: &ContainerId) {
        let adopted = self.known.get(id).filter(|known| known.armed.is_some() && !known.armed_here);
        let process = adopted.and_then(|known| known.process);
        if process.is_some_and(|process| self.kernel.has_not_begun(id, process.pid)) {
            self.unheard(id);
        }
    }

    /// Arms those again that were armed as what they are not.
    pub(super) fn sweep_late(&mut self) {
        let late: Vec<_> = self.known.iter().map(|(id, known)| (id.clone(), known.late)).collect();
        for (id, late) in late {
            match late {
                Late::No => {}
                Late::Unheard => self.has_had_time(&id),
                Late::Begun | Late::Elsewhere => self.was_too_late(&id, late),
            }
        }
    }

    /// The runtime is through with its own work by the next sweep, unless its process is in the root of before still.
    fn has_had_time(&mut self, id: &ContainerId) {
        let Some(known) = self.known.get_mut(id) else { return };
        let before = match (&known.root, known.process) {
            (RootAt::Below(_, Some(inode)), Some(process)) => {
                self.procs.root_inode(process).is_some_and(|now| now != *inode)
            }
            _ => false,
        };
        if !before {
            known.late = Late::Begun;
        }
    }
}
