//! The reconciler's wide looks: at all that the runtime has, and at what nobody tells.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_core::enforce::{ContainerId, Stage};
use enforcer_core::ruleset::RulesetDigest;
use tokio::sync::oneshot;

use super::{Reconciler, RootAt};
use crate::exit::chain;
use crate::kernel::Kernel;
use crate::order::{Present, Synced};

impl<K: Kernel> Reconciler<K> {
    pub(super) fn synchronize(&mut self, present: Vec<Present>, reply: oneshot::Sender<Synced>) {
        let armed = self.kernel.armed().unwrap_or_else(|error| {
            // arming what is armed already is the kernel side's to refuse or to do; nothing is disarmed on no knowledge
            tracing::error!(error = chain(&error), "cannot read what is armed");
            BTreeMap::new()
        });
        let mut synced = Synced::default();
        let listed: BTreeSet<ContainerId> =
            present.iter().map(|present| present.container.id.clone()).collect();
        for Present { container, pid, running } in present {
            let id = container.id.clone();
            let process = self.find(pid);
            // CRI-O lists one as created until its start is over, when it has begun
            let running = running || process.is_some_and(|process| self.procs.has_begun(process));
            let new = !self.known.contains_key(&id);
            let known = self.know(container);
            known.process = process.or(known.process);
            known.stage = if running { Stage::Running } else { Stage::Created };
            if running {
                known.root = RootAt::Process;
            }
            known.armed = armed.get(&id).copied().or(known.armed);
            known.unwatched |= new && running && known.armed.is_none();
            synced.adopted += usize::from(known.armed.is_some());
            if running {
                self.unheard_before(&id);
            }
            self.enqueue(id);
        }
        let ended: Vec<ContainerId> = self.known.keys().filter(|id| !listed.contains(*id)).cloned().collect();
        for id in ended {
            // the runtime may leave out a container that lives: only what is dead is over, and the sweep knows that
            let lives =
                self.known.get(&id).and_then(|known| known.process).is_some_and(|one| self.procs.alive(one));
            if id.is_host() {
                continue; // no runtime lists it
            }
            if lives {
                tracing::warn!(container = %id, "lives, but the runtime did not list it; it stays armed");
            } else if self.known.get(&id).is_some_and(|known| known.armed.is_none()) {
                self.remove(&id);
            }
        }
        self.synchronized = true;
        self.answer_later(reply, synced);
    }

    /// Answers a synchronisation when each of its containers has been looked at.
    pub(super) fn answer_later(&mut self, reply: oneshot::Sender<Synced>, synced: Synced) {
        if let Some((earlier, synced)) = self.syncing.replace((reply, synced)) {
            let _gone = earlier.send(synced); // a connection that was lost meanwhile
        }
    }

    /// Answers a synchronisation once nothing is left to do for it.
    pub(super) fn settle(&mut self) {
        if self.queue.is_empty()
            && self.ahead.is_none()
            && let Some((reply, synced)) = self.syncing.take()
        {
            let complete = synced.is_complete();
            let _gone = reply.send(synced);
            self.all_is_well(complete);
            self.sweep(); // what an earlier daemon armed and nobody lists: after the answer, since it takes longer
        }
        self.all_is_well_now();
    }

    /// Looks for what nobody tells: containers that are over, armed containers that nobody knows, rulesets that are
    /// not in the kernel any more, and failures to try again.
    pub(super) fn sweep(&mut self) {
        self.sweep_late();
        self.sweep_unfound();
        self.sweep_untold();
        self.sweep_failed();
        let armed = match self.kernel.armed() {
            Ok(armed) => armed,
            Err(error) => {
                tracing::error!(error = chain(&error), "cannot read what is armed");
                return;
            }
        };
        self.compare(&armed);
        // Candidates for the end: the first process is dead, for the second time, so that an event of the runtime
        // had the time to come; or nobody knows the container. Over is what also has no process in its cgroup left.
        let mut over = BTreeSet::new();
        for (id, known) in &mut self.known {
            // what was armed by an earlier daemon and never listed with a process is a candidate, too
            let gone = known.process.map_or(known.armed.is_some(), |process| !self.procs.alive(process));
            if std::mem::replace(&mut known.gone_once, gone) && gone {
                over.insert(id.clone());
            }
        }
        over.extend(self.stale(&armed));
        let inhabited = match self.procs.inhabited(&over) {
            Ok(inhabited) => inhabited,
            Err(error) => {
                tracing::error!(%error, "cannot list processes; nothing is disarmed");
                return;
            }
        };
        for id in over.difference(&inhabited) {
            if self.has_tasks(id) {
                tracing::debug!(container = %id, "has tasks, though no cgroup names it");
                continue;
            }
            match self.known.get(id) {
                Some(_) => self.remove(id),
                None => self.disarm(id, "over, and unknown to the runtime"),
            }
        }
        for id in inhabited {
            tracing::debug!(container = %id, "has processes, though its first one is dead or the runtime does not list it");
        }
    }

    /// Believes the kernel about what is armed, and queues what differs.
    fn compare(&mut self, armed: &BTreeMap<ContainerId, RulesetDigest>) {
        let mut again = Vec::new();
        for (id, known) in &mut self.known {
            let in_kernel = armed.get(id).copied();
            if known.armed != in_kernel {
                if known.armed.is_some() {
                    tracing::error!(container = %known.container, "the kernel has another ruleset than was armed");
                }
                known.unwatched |= in_kernel.is_none();
                known.armed = in_kernel;
                again.push(id.clone());
            } else if known.failed.is_some() && !known.kept {
                again.push(id.clone());
            }
        }
        again.into_iter().for_each(|id| self.enqueue(id));
    }
}
