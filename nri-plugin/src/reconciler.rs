//! The one owner of what is armed: a thread that takes orders, and between them brings some containers at a time to
//! what the policies say now. So nothing else needs a lock, a start never waits behind ten thousand updates, and the
//! kernel sees the changes of one container in order.

mod arm;
mod batch;
mod gate;
mod keep;
mod late;
mod linked;
mod living;
mod reuse;
mod sync;
mod untold;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use enforcer_core::enforce::{ContainerId, Stage};
use enforcer_core::ruleset::RulesetDigest;
use tokio::sync::{oneshot, watch};

use self::batch::Batch;
use self::late::Late;
use self::linked::{Answer, Answered, Linked, LookedUp};
use self::reuse::Reuse;
use crate::container::{Container, Merged, Selection};
use crate::kernel::Kernel;
use crate::memory;
use crate::order::{Gated, Notice, Order, Refusal, Synced};
use crate::procs::{Process, Procs};
use crate::registry::Registry;
use crate::roots::{Found, Roots};
use crate::set::PolicySet;

/// More containers than these looked at leave so much freed memory that it is given back.
const FEW: usize = 32;

/// Called for each [`Notice`]; must not block.
pub type Notify = Box<dyn Fn(Notice) + Send>;

/// What the reconciler works with.
pub struct Reconciler<K> {
    kernel: Arc<K>,
    selection: Selection,
    policies: watch::Receiver<Arc<PolicySet>>,
    registry: Arc<Registry>,
    procs: Procs,
    roots: Roots,
    notify: Notify,
    seen: Arc<PolicySet>, // what the containers were compared with last
    linked: HashMap<Answered, Answer>,
    names: HashSet<Arc<Found>>, // what was found in containers: in most the same
    known: BTreeMap<ContainerId, Known>,
    queue: VecDeque<ContainerId>,  // to bring up to date, each at most once
    queued: BTreeSet<ContainerId>, // what `queue` holds
    partly: BTreeSet<ContainerId>, // up to date but for links that may be others now: looked up when `queue` is empty
    ahead: Option<Batch>,          // taken from `queue`, and begun while the one before is exchanged
    reuse: Reuse,
    looked_at: usize,                                   // since there was nothing to do last
    syncing: Option<(oneshot::Sender<Synced>, Synced)>, // answered when `queue` is empty
    strangers: BTreeSet<ContainerId>,                   // armed and not known, at the last sweep
    later: bool, // all that runs is as it should be, and the kernel side is told so once the policies are known
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

/// Where the root of a container is, for its first process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum RootAt {
    /// It is the root of the process.
    #[default]
    Process,
    /// The process had not changed to it yet: where it was, and its inode number.
    Below(PathBuf, Option<u64>),
    /// The same, and it is not known: the root of the process is the host's.
    Unknown,
}

#[derive(Debug)]
struct Known {
    container: Arc<Container>,
    linked: Option<Arc<Linked>>, // made last
    looked_up: Option<LookedUp>, // None where not all could be
    /// The other names that each path had first. What the container makes of its links later may add names, and takes
    /// none away.
    names: Arc<Found>,
    process: Option<Process>, // None before it has one
    stage: Stage,             // of `process`
    root: RootAt,
    armed: Option<RulesetDigest>,
    armed_here: bool,       // by this daemon
    failed: Option<String>, // why the container is not what the policies say, until it is
    kept: bool, // by `failed`: it has rules of an earlier daemon, which stay until the policies are known
    untold: bool, // of what failed: it did not run yet
    unwatched: bool, // ran while nobody could have armed it
    late: Late,
    gone_once: bool, // its process was dead at the last sweep already
    untold_for: u32, // sweeps in a row at which it had processes, and nobody had told of its start
}

impl Known {
    /// What failed and has been told. Whoever asks tells what has not.
    fn told(&mut self) -> Option<String> {
        let untold = std::mem::take(&mut self.untold);
        self.failed.clone().filter(|_| !untold)
    }
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
        let seen = Arc::clone(&policies.borrow());
        Self {
            kernel,
            selection,
            policies,
            registry,
            roots: Roots::new(procs.clone()),
            procs,
            notify,
            seen,
            linked: HashMap::new(),
            names: HashSet::new(),
            known: BTreeMap::new(),
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            partly: BTreeSet::new(),
            ahead: None,
            reuse: Reuse::default(),
            looked_at: 0,
            syncing: None,
            strangers: BTreeSet::new(),
            later: false,
            synchronized: false,
        }
    }

    /// Works until every sender of orders is gone.
    pub fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let order = if self.is_idle() {
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
        self.stop_ahead();
        match order {
            Order::Created(container) => {
                let ended = self.known.get(&container.id).and_then(|known| known.process);
                let ended = ended.is_some_and(|process| !self.procs.alive(process));
                let known = self.know(container);
                // podman's, which is started again
                if ended {
                    (known.process, known.stage) = (None, Stage::Created);
                }
            }
            Order::Start { container, pid, reply } if reply.is_closed() => {
                self.start_unanswered(container, pid)
            }
            Order::Start { container, pid, reply } => {
                let id = container.id.clone();
                let answer = self.start(container, pid);
                if let Err(refusal) = &answer {
                    tracing::error!(%refusal, "start refused");
                }
                if reply.send(answer).is_err() {
                    self.was_too_late(&id, Late::Begun);
                }
            }
            Order::Gate { caller, reply } => {
                let answer = self.gate(&caller);
                if let Gated::Refused(refusal) = &answer {
                    tracing::error!(%refusal, "start refused");
                }
                if reply.send(answer).is_err() {
                    self.unheard(&caller.id);
                }
            }
            Order::Unheard(id) => self.unheard(&id),
            Order::Gone(id) => self.gone(&id),
            Order::Started { container, pid } => {
                let id = container.id.clone();
                let process = self.find(pid);
                let host = id.is_host().then(|| self.kernel.look().ok()?.remove(&id)).flatten();
                let known = self.know(container);
                if id.is_host() {
                    (known.process, known.stage, known.root) = (process, Stage::Running, RootAt::Process);
                    // what an earlier daemon armed: no runtime's list tells of that
                    known.armed = known.armed.or(host);
                } else if self.runs_as(&id, process) {
                    self.was_too_late(&id, Late::Elsewhere);
                }
                self.enqueue(id);
            }
            Order::Found { container, pid, started } => self.adopt(container, pid, started),
            Order::Removed(id) => self.remove(&id),
            Order::Synchronize { present, reply } => self.synchronize(present, reply),
            Order::Listed { running, unknown, reply } => self.list(running, unknown, reply),
            Order::Identified(running) => self.identified(running),
            Order::Watched(who) => {
                let ids = self.known.iter().filter(|(_, known)| who.is(&known.container.subject));
                let ids: Vec<ContainerId> = ids.map(|(id, _)| id.clone()).collect();
                ids.into_iter().for_each(|id| self.enqueue(id));
            }
            Order::PoliciesChanged => {
                self.enqueue_touched();
                self.kernel.tend();
            }
            Order::RootOf { id, reply } => {
                let _gone = reply.send(self.root_of(&id));
            }
            Order::Ping(pulse) => pulse.beat(),
            Order::Sweep => {
                self.kernel.tend();
                self.selection.age();
                self.prune();
                self.sweep();
            }
        }
        self.settle();
    }

    /// Brings the first containers of the queue up to date.
    pub fn step(&mut self) {
        if !self.is_idle() {
            self.reconcile();
            if self.is_idle() {
                self.selection.forget();
                self.reuse.forget();
                self.prune();
                if std::mem::take(&mut self.looked_at) > FEW {
                    memory::give_back();
                }
            }
        }
        self.settle();
    }

    /// Forgets what no container has any more.
    fn prune(&mut self) {
        self.linked.retain(|_, answer| answer.linked.strong_count() > 0);
        self.names.retain(|names| Arc::strong_count(names) > 1);
    }

    /// Whether every container has been looked at since the last change.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.ahead.is_none() && self.partly.is_empty()
    }

    fn find(&self, pid: i32) -> Option<Process> {
        (pid > 0).then(|| self.procs.find(pid)).flatten()
    }

    /// Remembers the container, or what changed about it.
    fn know(&mut self, container: Arc<Container>) -> &mut Known {
        self.registry.add(Arc::clone(&container));
        let nothing = self.shared(Found::new());
        let known = self.known.entry(container.id.clone()).or_insert_with(|| Known {
            container: Arc::clone(&container),
            linked: None,
            looked_up: None,
            names: nothing,
            process: None,
            stage: Stage::Created,
            root: RootAt::Process,
            armed: None,
            armed_here: false,
            failed: None,
            kept: false,
            untold: false,
            unwatched: false,
            late: Late::No,
            gone_once: false,
            untold_for: 0,
        });
        known.container = container;
        known
    }

    fn enqueue(&mut self, id: ContainerId) {
        if self.queued.insert(id.clone()) {
            self.queue.push_back(id);
        }
    }

    /// Queues the containers to which the change can make a difference.
    fn enqueue_touched(&mut self) {
        let set = Arc::clone(&self.policies.borrow());
        let difference = self.seen.difference(&set);
        self.seen = set;
        let touched = |known: &Known| known.failed.is_some() || difference.touches(&known.container.subject);
        let ids = self.known.iter().filter(|(_, known)| touched(known)).map(|(id, _)| id.clone());
        let ids: Vec<ContainerId> = ids.collect();
        ids.into_iter().for_each(|id| self.enqueue(id));
    }

    /// What the policies say now about each; an empty ruleset is `None`.
    fn wanted(&self, containers: &[&Container]) -> Vec<Option<Arc<Merged>>> {
        let set = Arc::clone(&self.policies.borrow());
        let subjects: Vec<_> = containers.iter().map(|one| (&one.subject, one.wish)).collect();
        let merged = self.selection.resolve_all(&set, &subjects).into_iter();
        merged.map(|merged| merged.filter(|merged| !merged.is_nothing())).collect()
    }

    fn start(&mut self, container: Arc<Container>, pid: i32) -> Result<(), Refusal> {
        let process = self.find(pid);
        let wanted = self.wanted(&[&container]).pop().flatten();
        let known = self.know(Arc::clone(&container));
        let before = std::mem::replace(&mut known.process, process);
        (known.stage, known.root) = (Stage::Running, RootAt::Process); // for whatever comes after this start
        known.unwatched |= known.armed.is_none(); // should it run in spite of a refusal (CRI-O only logs those)
        let other = known.armed.is_some() && (before != process || known.late == Late::Elsewhere);
        if known.late != Late::Elsewhere {
            known.late = Late::No; // the runtime waits: it has not begun
        }
        let Some(merged) = wanted else {
            self.enqueue(container.id.clone()); // the policies changed since the question was asked; nothing is to be armed now
            return Ok(());
        };
        // one that is not covered starts where the node's configuration does not refuse it: nothing failed
        let armed = self.arm_first(&container, (pid, process), other, &merged, Stage::Created).map(drop);
        if merged.binds() {
            return armed;
        }
        self.unobserved(&container, armed);
        Ok(())
    }

    /// Lets others know what failed, or that it did not.
    fn publish(&self, id: &ContainerId) {
        if let Some(known) = self.known.get(id) {
            self.registry.fail(id, known.failed.clone());
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

    /// A container that is only observed starts, observed or not.
    fn unobserved(&self, container: &Arc<Container>, armed: Result<(), Refusal>) {
        if let Err(refusal) = armed {
            tracing::warn!(%refusal, "starts all the same: it was only to be observed");
            self.selection.watches.missed(container);
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
}

#[cfg(test)]
pub(crate) mod tests;
