//! Containers that no runtime tells about: podman's, which an earlier daemon armed, or which run on a node without NRI.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use enforcer_core::enforce::{ContainerId, Stage};
use enforcer_core::ruleset::RulesetDigest;
use tokio::sync::oneshot;

use super::{Known, Late, Reconciler, RootAt};
use crate::container::Container;
use crate::exit::chain;
use crate::kernel::Kernel;
use crate::order::{Running, Synced};

/// How long a container may be on its way from `precreate` to its first process.
const ON_ITS_WAY: Duration = Duration::from_secs(300);

impl<K: Kernel> Reconciler<K> {
    /// Knows from now on who an armed container is. Its process is believed to be `pid` where the kernel says that this
    /// is one of its own. `started`: it runs, so an identity that waits for its first execution waits in vain. That is not so
    /// of one that podman has made and not started (`podman init`): it has not begun for good reason.
    pub(super) fn adopt(&mut self, container: Arc<Container>, pid: i32, started: bool) {
        let id = container.id.clone();
        if self.known.contains_key(&id) {
            return; // it was started again since
        }
        let armed = match self.kernel.armed() {
            Ok(armed) => armed.get(&id).copied(),
            Err(error) => {
                tracing::error!(container = %id, error = chain(&error), "cannot read what is armed; it stays unknown");
                return;
            }
        };
        if armed.is_none() {
            return; // it is over
        }
        let own = pid > 0
            && self.kernel.lives(&id, Some(pid)).unwrap_or_else(|error| {
                tracing::warn!(container = %id, pid, error = chain(&error), "its first process is not known");
                None
            }) == Some(true);
        let process = own.then(|| self.find(pid)).flatten();
        tracing::info!(%container, "armed by an earlier daemon, and found in podman's files");
        let known = self.know(container);
        (known.process, known.armed) = (process, armed);
        (known.stage, known.root) = (Stage::Running, RootAt::Process);
        if started {
            self.unheard_before(&id);
        }
        self.enqueue(id);
    }

    /// Knows what runs on a node where no runtime tells: from now on what is armed and not known is nobody's. What this
    /// daemon knows already stays as it is, since the gate tells of it later than podman's files do.
    pub(super) fn list(&mut self, running: Vec<Running>, unknown: usize, reply: oneshot::Sender<Synced>) {
        let armed = match self.kernel.armed() {
            Ok(armed) => armed,
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "cannot read what is armed; what runs is not taken over yet"
                );
                return;
            }
        };
        let mut synced = Synced { unknown, ..Synced::default() };
        for one in running {
            let id = one.container.id.clone();
            let armed = armed.get(&id).copied();
            if self.take_over(one, armed) || self.known.contains_key(&id) {
                synced.adopted += usize::from(armed.is_some());
                self.enqueue(id);
            }
        }
        self.synchronized = true;
        self.answer_later(reply, synced);
    }

    /// The same of some that run, at any time. The kernel is asked once for all, and not for those that are known and live.
    pub(super) fn identified(&mut self, running: Vec<Running>) {
        let mut armed = None;
        for one in running {
            let (id, process) = (one.container.id.clone(), self.find(one.pid));
            if !self.known_to_live(&id) {
                let armed = armed.get_or_insert_with(|| {
                    self.kernel.look().unwrap_or_else(|error| {
                        tracing::error!(error = chain(&error), "cannot read what is armed");
                        BTreeMap::new() // the sweep compares
                    })
                });
                let armed = armed.get(&id).copied();
                if self.take_over(one, armed) {
                    self.enqueue(id.clone());
                }
            }
            if let Some(known) = self.known.get(&id).filter(|known| known.process == process) {
                self.registry.runs_as(&id, known.process);
            }
        }
    }

    /// Whether it is known, with a process that lives.
    fn known_to_live(&self, id: &ContainerId) -> bool {
        let process = self.known.get(id).and_then(|known| known.process);
        process.is_some_and(|process| self.procs.alive(process))
    }

    /// Knows a container that runs, unless it is known already, with a process that lives: podman's files are older than what
    /// the gate says. Whether it does since now.
    fn take_over(&mut self, one: Running, armed: Option<RulesetDigest>) -> bool {
        let Running { container, pid, started, created } = one;
        let id = container.id.clone();
        let process = self.find(pid);
        let new = !self.known.contains_key(&id);
        let over = process.is_none() && (armed.is_none() || !new);
        if over || self.known_to_live(&id) || !(new || started) {
            return false;
        }
        let ledger = self.registry.seccomp();
        if ledger.created(&id).is_none() {
            ledger.put_apart(Arc::clone(&container), created);
        }
        tracing::info!(%container, pid, "runs, and is known from now on");
        let known = self.know(container);
        known.armed = armed;
        known.unwatched |= armed.is_none();
        // restored from a checkpoint, or started around the hook, and no hook told of the end before
        if self.runs_as(&id, process) {
            self.was_too_late(&id, Late::Elsewhere);
        } else if started {
            self.unheard_before(&id);
        }
        true
    }

    /// Armed containers that nobody knows. Until it is known what runs, from a runtime or without one ([`Self::list`]), only
    /// those that were so at the last sweep and of which the kernel says that no task lives: a hook or a runtime may tell
    /// about the others yet.
    pub(super) fn stale(&mut self, armed: &BTreeMap<ContainerId, RulesetDigest>) -> BTreeSet<ContainerId> {
        let strangers: BTreeSet<ContainerId> =
            armed.keys().filter(|id| !self.known.contains_key(*id) && !id.is_host()).cloned().collect();
        let before = std::mem::replace(&mut self.strangers, strangers.clone());
        if self.synchronized {
            return strangers;
        }
        let over = |id: &ContainerId| matches!(self.kernel.lives(id, None), Ok(Some(false)));
        strangers.into_iter().filter(|id| before.contains(id) && over(id)).collect()
    }

    /// Whether tasks of the container live, wherever they went. What the kernel cannot be asked about is not over.
    pub(super) fn has_tasks(&self, id: &ContainerId) -> bool {
        self.kernel.lives(id, None).unwrap_or_else(|error| {
            tracing::error!(container = %id, error = chain(&error), "cannot ask whether it lives; it stays armed");
            Some(true)
        }) == Some(true)
    }

    /// A container that is over: one that is known, or armed, or only noted.
    pub(super) fn remove_any(&mut self, id: &ContainerId) {
        if !self.known.contains_key(id) && self.is_armed(id) {
            self.disarm(id, "over, and armed by an earlier daemon");
        }
        self.remove(id);
    }

    /// Forgets containers of podman's that failed on their way: `precreate` notes them, `createRuntime` asks for them, and
    /// neither a process nor a runtime tells of them. Not every runtime runs `poststop` for those.
    pub(super) fn sweep_failed(&mut self) {
        let mut failed = self.registry.seccomp().apart_for(ON_ITS_WAY);
        let begun = |known: &Known| known.process.is_some() || known.armed.is_some();
        failed.retain(|id| !id.is_host() && !self.known.get(id).is_some_and(begun));
        match self.procs.inhabited(&failed) {
            Ok(inhabited) => failed.difference(&inhabited).for_each(|id| self.remove(id)),
            Err(error) => tracing::error!(%error, "cannot list processes; nothing is forgotten"),
        }
    }

    /// Whether it is armed, as far as that can be told without looking at its processes.
    pub(super) fn is_armed(&self, id: &ContainerId) -> bool {
        self.kernel.look().is_ok_and(|armed| armed.contains_key(id))
    }
}
