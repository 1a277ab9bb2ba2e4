//! The one owner of what is armed: a thread that takes orders, and between them brings one container at a time to
//! what the policies say now. So nothing else needs a lock, a start never waits behind a thousand updates, and the
//! kernel sees the changes of one container in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use enforcer_core::enforce::{ContainerId, Stage, Target};
use enforcer_core::ruleset::{Ruleset, RulesetDigest};
use tokio::sync::{oneshot, watch};

use crate::container::{Container, Selection, name_policies};
use crate::exit::chain;
use crate::kernel::{Kernel, KernelError};
use crate::procs::{Process, Procs};
use crate::registry::Registry;
use crate::store::PolicySet;

/// What the reconciler is told.
#[derive(Debug)]
pub enum Order {
    /// A container is being created. It has no process yet.
    Created(Arc<Container>),
    /// A container that a policy selects is about to start: arm it now, and answer.
    Start {
        /// The container.
        container: Arc<Container>,
        /// Its first process, which has not executed the workload yet.
        pid: i32,
        /// The start is allowed, or refused.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// A container that no policy selected has started; nobody waits.
    Started {
        /// The container.
        container: Arc<Container>,
        /// Its first process; 0 where the runtime did not tell.
        pid: i32,
    },
    /// The runtime forgets the container.
    Removed(ContainerId),
    /// All that the runtime has, after it connected.
    Synchronize {
        /// The containers that are not over.
        present: Vec<Present>,
        /// Sent once each of them has been looked at.
        reply: oneshot::Sender<Synced>,
    },
    /// The policies are other ones.
    PoliciesChanged,
    /// Compare with what lives and what the kernel has; try again what failed.
    Sweep,
}

/// A container in a synchronisation.
#[derive(Debug)]
pub struct Present {
    /// The container.
    pub container: Arc<Container>,
    /// Its first process; 0 if it has none yet.
    pub pid: i32,
    /// Whether the workload runs, rather than the runtime's preparation for it.
    pub running: bool,
}

/// What a synchronisation came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Synced {
    /// Containers that an earlier daemon, or this one, had armed already.
    pub adopted: usize,
    /// Containers that ran unprotected until now.
    pub late: usize,
    /// Containers that should be armed and could not be.
    pub failed: usize,
}

/// Why a container must not start.
#[derive(Debug, thiserror::Error)]
#[error("{container}: {policies} cannot be put in force: {reason}; {advice}")]
pub struct Refusal {
    container: Arc<Container>,
    policies: String,
    reason: String,
    advice: &'static str,
}

impl Refusal {
    /// A refusal that names who, by which policies, why, and what to do.
    pub fn new(
        container: &Arc<Container>,
        policies: String,
        reason: impl fmt::Display,
        advice: &'static str,
    ) -> Self {
        Self { container: Arc::clone(container), policies, reason: reason.to_string(), advice }
    }
}

/// What people should know beyond single alerts.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A container whose processes ran before its policies were in force: whatever they did so far was not judged.
    Late {
        /// The container.
        container: Arc<Container>,
        /// The rules in force from now on.
        ruleset: Arc<Ruleset>,
    },
    /// A container that policies select runs, and they are not in force.
    Unprotected {
        /// The container.
        container: Arc<Container>,
        /// The rules that are not in force.
        ruleset: Arc<Ruleset>,
        /// Why.
        reason: String,
    },
}

/// Called for each [`Notice`]; must not block.
pub type Notify = Box<dyn Fn(Notice) + Send>;

/// What the reconciler works with.
pub struct Reconciler<K> {
    kernel: Arc<K>,
    selection: Selection,
    policies: watch::Receiver<Arc<PolicySet>>,
    registry: Arc<Registry>,
    procs: Procs,
    notify: Notify,
    known: BTreeMap<ContainerId, Known>,
    queue: VecDeque<ContainerId>,  // to bring up to date, each at most once
    queued: BTreeSet<ContainerId>, // what `queue` holds
    syncing: Option<(oneshot::Sender<Synced>, Synced)>, // answered when `queue` is empty
    synchronized: bool, // before the first synchronisation an armed container is not stale, only not known yet
}

impl<K> fmt::Debug for Reconciler<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconciler")
            .field("known", &self.known)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Known {
    container: Arc<Container>,
    process: Option<Process>, // None before it has one
    stage: Stage,             // of `process`
    armed: Option<RulesetDigest>,
    failed: Option<String>, // why the container is not what the policies say, until it is
    unwatched: bool,        // ran while nobody could have armed it
    gone_once: bool,        // its process was dead at the last sweep already
}

impl<K: Kernel> Reconciler<K> {
    /// A reconciler that knows no container yet.
    pub fn new(
        kernel: Arc<K>,
        selection: Selection,
        policies: watch::Receiver<Arc<PolicySet>>,
        registry: Arc<Registry>,
        procs: Procs,
        notify: Notify,
    ) -> Self {
        Self {
            kernel,
            selection,
            policies,
            registry,
            procs,
            notify,
            known: BTreeMap::new(),
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            syncing: None,
            synchronized: false,
        }
    }

    /// Works until every sender of orders is gone.
    pub fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let order = if self.queue.is_empty() {
                match orders.recv() {
                    Ok(order) => Some(order),
                    Err(_) => return,
                }
            } else {
                match orders.try_recv() {
                    Ok(order) => Some(order),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return,
                }
            };
            match order {
                Some(order) => self.take(order),
                None => self.step(),
            }
        }
    }

    /// Takes one order.
    pub fn take(&mut self, order: Order) {
        match order {
            Order::Created(container) => {
                self.know(container);
            }
            Order::Start { container, pid, reply } => {
                let answer = self.start(container, pid);
                if let Err(refusal) = &answer {
                    tracing::error!(%refusal, "start refused");
                }
                let _late = reply.send(answer); // whoever asked may have given up, and has answered an error then
            }
            Order::Started { container, pid } => {
                let id = container.id.clone();
                let process = self.find(pid);
                let known = self.know(container);
                (known.process, known.stage) = (process, Stage::Running);
                self.enqueue(id);
            }
            Order::Removed(id) => self.remove(&id),
            Order::Synchronize { present, reply } => self.synchronize(present, reply),
            Order::PoliciesChanged => self.enqueue_all(),
            Order::Sweep => self.sweep(),
        }
        self.settle();
    }

    /// Brings the first container of the queue up to date.
    pub fn step(&mut self) {
        if let Some(id) = self.queue.pop_front() {
            self.queued.remove(&id);
            self.reconcile(&id);
        }
        self.settle();
    }

    /// Whether every container has been looked at since the last change.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    fn find(&self, pid: i32) -> Option<Process> {
        (pid > 0).then(|| self.procs.find(pid)).flatten()
    }

    /// Remembers the container, or what changed about it.
    fn know(&mut self, container: Arc<Container>) -> &mut Known {
        self.registry.add(Arc::clone(&container));
        let known = self.known.entry(container.id.clone()).or_insert_with(|| Known {
            container: Arc::clone(&container),
            process: None,
            stage: Stage::Created,
            armed: None,
            failed: None,
            unwatched: false,
            gone_once: false,
        });
        known.container = container;
        known
    }

    fn enqueue(&mut self, id: ContainerId) {
        if self.queued.insert(id.clone()) {
            self.queue.push_back(id);
        }
    }

    fn enqueue_all(&mut self) {
        let ids: Vec<ContainerId> = self.known.keys().cloned().collect();
        ids.into_iter().for_each(|id| self.enqueue(id));
    }

    /// What the policies say now; an empty ruleset is `None`.
    fn wanted(&self, container: &Container) -> Option<Arc<Ruleset>> {
        let set = Arc::clone(&self.policies.borrow());
        let resolved = self.selection.resolve(&set, &container.subject)?;
        (!resolved.ruleset.is_empty()).then(|| Arc::new(resolved.ruleset))
    }

    fn start(&mut self, container: Arc<Container>, pid: i32) -> Result<(), Refusal> {
        let id = container.id.clone();
        let process = self.find(pid);
        let wanted = self.wanted(&container);
        let known = self.know(Arc::clone(&container));
        (known.process, known.stage) = (process, Stage::Running); // for whatever comes after this start
        let Some(ruleset) = wanted else {
            self.enqueue(id); // the policies changed since the question was asked; nothing is to be armed now
            return Ok(());
        };
        let refuse = |reason: &dyn fmt::Display, advice| {
            Err(Refusal::new(&container, name_policies(&ruleset), reason, advice))
        };
        if pid <= 0 {
            return refuse(&"the runtime did not tell the process", "this runtime is not supported");
        }
        if process.is_none() {
            return refuse(
                &format_args!("process {pid} is not there"),
                "the daemon must share the host's pid namespace (hostPID: true)",
            );
        }
        match self.arm(&id, &ruleset, Stage::Created, pid) {
            Ok(()) => {
                tracing::info!(%container, ruleset = %ruleset.digest(), "armed before its first instruction");
                Ok(())
            }
            Err(error) => refuse(&chain(&error), "`nri-enforcer probe` shows what this host supports"),
        }
    }

    /// Puts `ruleset` in force, whatever was before.
    fn arm(
        &mut self,
        id: &ContainerId,
        ruleset: &Arc<Ruleset>,
        stage: Stage,
        pid: i32,
    ) -> Result<(), KernelError> {
        let armed = self.known.get(id).and_then(|known| known.armed);
        let result = match armed {
            Some(_) => self.kernel.update(id, ruleset),
            None => self.kernel.arm(&Target { id: id.clone(), pid, stage }, ruleset),
        };
        if let Some(known) = self.known.get_mut(id) {
            match &result {
                Ok(()) => {
                    (known.armed, known.failed, known.unwatched) = (Some(ruleset.digest()), None, false)
                }
                Err(error) => known.failed = Some(chain(error)),
            }
        }
        if result.is_ok() {
            self.registry.assign(id, Some(Arc::clone(ruleset)));
        }
        result
    }

    /// Makes one container what the policies say. An error is remembered, told, and tried again by the next sweep.
    fn reconcile(&mut self, id: &ContainerId) {
        let Some(Known { container, process, stage, armed, failed, unwatched, .. }) = self.known.get(id)
        else {
            return;
        };
        let (container, process, stage, armed) = (Arc::clone(container), *process, *stage, *armed);
        let (failed, unwatched) = (failed.clone(), *unwatched);
        let wanted = self.wanted(&container);
        match (wanted, armed) {
            (Some(ruleset), Some(armed)) if ruleset.digest() == armed => {
                self.registry.assign(id, Some(ruleset));
                if let Some(known) = self.known.get_mut(id) {
                    known.failed = None;
                }
            }
            (Some(ruleset), Some(_)) => match self.arm(id, &ruleset, stage, 0) {
                Ok(()) => tracing::info!(%container, ruleset = %ruleset.digest(), "ruleset replaced"),
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(%container, error, "cannot replace the ruleset; the one before stays in force");
                    self.count_failed();
                }
            },
            (Some(_), None) if process.is_none() && stage == Stage::Created => {} // StartContainer arms it
            (Some(ruleset), None) => match self.arm_living(id, process, &ruleset, stage) {
                Ok(()) if unwatched => {
                    tracing::warn!(%container, policies = name_policies(&ruleset), "ran unprotected until now");
                    self.count_late();
                    (self.notify)(Notice::Late { container, ruleset });
                }
                Ok(()) => tracing::info!(%container, ruleset = %ruleset.digest(), "ruleset in force"),
                Err(error) => {
                    let reason = chain(&error);
                    tracing::error!(%container, error = reason, "runs unprotected: cannot arm; will try again");
                    self.count_failed();
                    if failed.as_ref() != Some(&reason) {
                        (self.notify)(Notice::Unprotected { container, ruleset, reason });
                    }
                }
            },
            (None, Some(armed)) => self.release(id, &container, armed),
            (None, None) => {
                if let Some(known) = self.known.get_mut(id) {
                    (known.failed, known.unwatched) = (None, false);
                }
            }
        }
    }

    /// Arms a container that has run for a while, if its first process is still the one it was: a pid may be another
    /// process's by now.
    fn arm_living(
        &mut self,
        id: &ContainerId,
        process: Option<Process>,
        ruleset: &Arc<Ruleset>,
        stage: Stage,
    ) -> Result<(), KernelError> {
        let result = match process.filter(|process| self.procs.alive(*process)) {
            Some(process) => return self.arm(id, ruleset, stage, process.pid),
            None => Err(KernelError::new("its first process is not there")),
        };
        if let (Err(error), Some(known)) = (&result, self.known.get_mut(id)) {
            known.failed = Some(chain(error));
        }
        result
    }

    /// No policy selects the container any more: it gets a ruleset without rules. It stays armed, since what its
    /// processes are is known only from having been there at their start; a later policy then finds every one of them.
    fn release(&mut self, id: &ContainerId, container: &Arc<Container>, armed: RulesetDigest) {
        let nothing = Arc::new(Ruleset::resolve([], &self.selection.postures, &container.subject).ruleset);
        if armed == nothing.digest() {
            return;
        }
        match self.arm(id, &nothing, Stage::Running, 0) {
            Ok(()) => tracing::info!(%container, "no policy selects it any more"),
            Err(error) => {
                let error = chain(&error);
                tracing::error!(%container, error, "cannot lift the policies; they stay in force, will try again");
                self.count_failed();
            }
        }
    }

    fn disarm(&mut self, id: &ContainerId, why: &'static str) {
        let result = self.kernel.disarm(id);
        if let Err(error) = &result {
            tracing::error!(container = %id, error = chain(error), why, "cannot disarm; will try again");
        } else {
            tracing::info!(container = %id, why, "disarmed");
            self.registry.assign(id, None);
        }
        if let Some(known) = self.known.get_mut(id) {
            match result {
                Ok(()) => (known.armed, known.failed) = (None, None),
                Err(error) => known.failed = Some(chain(&error)),
            }
        }
    }

    /// The container is over. A failure to disarm is left to the sweep, which finds what is armed and not known.
    fn remove(&mut self, id: &ContainerId) {
        if let Some(known) = self.known.get(id)
            && (known.armed.is_some() || known.failed.is_some())
        {
            self.disarm(id, "removed");
        }
        self.known.remove(id);
        self.registry.end(id);
    }

    fn synchronize(&mut self, present: Vec<Present>, reply: oneshot::Sender<Synced>) {
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
            let new = !self.known.contains_key(&id);
            let known = self.know(container);
            known.process = process.or(known.process);
            known.stage = if running { Stage::Running } else { Stage::Created };
            known.armed = armed.get(&id).copied().or(known.armed);
            known.unwatched |= new && running && known.armed.is_none();
            synced.adopted += usize::from(known.armed.is_some());
            self.enqueue(id);
        }
        let ended: Vec<ContainerId> = self.known.keys().filter(|id| !listed.contains(*id)).cloned().collect();
        for id in ended {
            // the runtime may leave out a container that lives: only what is dead is over, and the sweep knows that
            let lives =
                self.known.get(&id).and_then(|known| known.process).is_some_and(|one| self.procs.alive(one));
            if lives {
                tracing::warn!(container = %id, "lives, but the runtime did not list it; it stays armed");
            } else if self.known.get(&id).is_some_and(|known| known.armed.is_none()) {
                self.remove(&id);
            }
        }
        self.synchronized = true;
        if let Some((earlier, synced)) = self.syncing.replace((reply, synced)) {
            let _gone = earlier.send(synced); // a connection that was lost meanwhile
        }
    }

    fn count_late(&mut self) {
        if let Some((_, synced)) = &mut self.syncing {
            synced.late += 1;
        }
    }

    fn count_failed(&mut self) {
        if let Some((_, synced)) = &mut self.syncing {
            synced.failed += 1;
        }
    }

    /// Answers a synchronisation once nothing is left to do for it.
    fn settle(&mut self) {
        if self.queue.is_empty()
            && let Some((reply, synced)) = self.syncing.take()
        {
            let _gone = reply.send(synced);
            self.sweep(); // what an earlier daemon armed and nobody lists: after the answer, since it takes longer
        }
    }

    /// Looks for what nobody tells: containers that are over, armed containers that nobody knows, rulesets that are
    /// not in the kernel any more, and failures to try again.
    fn sweep(&mut self) {
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
        if self.synchronized {
            over.extend(armed.keys().filter(|id| !self.known.contains_key(*id)).cloned());
        }
        let inhabited = match self.procs.inhabited(&over) {
            Ok(inhabited) => inhabited,
            Err(error) => {
                tracing::error!(%error, "cannot list processes; nothing is disarmed");
                return;
            }
        };
        for id in over.difference(&inhabited) {
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
            } else if known.failed.is_some() {
                again.push(id.clone());
            }
        }
        again.into_iter().for_each(|id| self.enqueue(id));
    }
}

#[cfg(test)]
pub(crate) mod tests;
