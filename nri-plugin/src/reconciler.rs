//! The one owner of what is armed: a thread that takes orders, and between them brings some containers at a time to
//! what the policies say now. So nothing else needs a lock, a start never waits behind ten thousand updates, and the
//! kernel sees the changes of one container in order.

mod batch;
mod gate;
mod sync;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Weak};

use enforcer_core::coverage::Gap;
use enforcer_core::enforce::{ContainerId, Stage, Target};
use enforcer_core::links::{Resolution, Unknown};
use enforcer_core::path::AbsPath;
use enforcer_core::ruleset::{Ruleset, RulesetDigest};
use tokio::sync::{oneshot, watch};

use crate::container::{Container, Merged, Selection, name_gaps, name_policies};
use crate::exit::chain;
use crate::kernel::{Kernel, KernelError};
use crate::memory;
use crate::order::{Gated, Notice, Order, Refusal, Synced};
use crate::procs::{Process, Procs};
use crate::registry::Registry;
use crate::roots::{Found, Question, Roots, all};
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
    looked_at: usize,              // since `queue` was empty last
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

/// A ruleset, what was found in a container's root now, and what had been found first, these two by their addresses:
/// containers in which the same was found share the result.
type Answered = (RulesetDigest, usize, usize);

/// What comes of it.
#[derive(Debug)]
struct Answer {
    linked: Weak<Linked>,
    names: Arc<Found>,       // the first ones from now on
    _found: [Arc<Found>; 2], // in place as long as their addresses mean something
}

/// A ruleset by all names that its paths have in a container.
#[derive(Debug)]
struct Linked {
    ruleset: Arc<Ruleset>,
    gaps: Vec<Gap>,
}

impl Linked {
    fn new(merged: &Merged, found: &Found) -> Self {
        let answers: HashMap<&AbsPath, &Resolution> =
            found.iter().map(|(path, answer)| (path, answer)).collect();
        let enforcer_core::links::Linked { ruleset, gaps } =
            merged.ruleset.with_links(|path| answers.get(path).copied().cloned().unwrap_or_default());
        let ruleset = match ruleset.digest() == merged.ruleset.digest() {
            true => Arc::clone(&merged.ruleset),
            false => Arc::new(ruleset),
        };
        Self { ruleset, gaps }
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
    /// The other names that each path had first. What the container makes of its links later may add names, and takes
    /// none away.
    names: Arc<Found>,
    process: Option<Process>, // None before it has one
    stage: Stage,             // of `process`
    root: RootAt,
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
        let seen = Arc::clone(&policies.borrow());
        Self {
            kernel,
            selection,
            policies,
            registry,
            roots: Roots::new(procs.path()),
            procs,
            notify,
            seen,
            linked: HashMap::new(),
            names: HashSet::new(),
            known: BTreeMap::new(),
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            looked_at: 0,
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
            Order::Gate { caller, reply } => {
                let answer = self.gate(&caller);
                if let Gated::Refused(refusal) = &answer {
                    tracing::error!(%refusal, "start refused");
                }
                let _late = reply.send(answer); // the hook may have given up, and has failed the container then
            }
            Order::Gone(id) => self.gone(&id),
            Order::Started { container, pid } => {
                let id = container.id.clone();
                let process = self.find(pid);
                let known = self.know(container);
                (known.process, known.stage, known.root) = (process, Stage::Running, RootAt::Process);
                self.enqueue(id);
            }
            Order::Removed(id) => self.remove(&id),
            Order::Synchronize { present, reply } => self.synchronize(present, reply),
            Order::PoliciesChanged => self.enqueue_touched(),
            Order::Sweep => {
                self.selection.age();
                self.prune();
                self.sweep();
            }
        }
        self.settle();
    }

    /// Brings the first containers of the queue up to date.
    pub fn step(&mut self) {
        if !self.queue.is_empty() {
            self.reconcile();
            if self.queue.is_empty() {
                self.selection.forget();
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
        self.queue.is_empty()
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
            names: nothing,
            process: None,
            stage: Stage::Created,
            root: RootAt::Process,
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

    /// What the policies say now; an empty ruleset is `None`.
    fn wanted(&self, container: &Container) -> Option<Arc<Merged>> {
        let set = Arc::clone(&self.policies.borrow());
        let merged = self.selection.resolve(&set, &container.subject, container.wish)?;
        (!merged.ruleset.is_empty()).then_some(merged)
    }

    /// What has to be looked up for a container; `None` where its root cannot be told.
    fn question(&self, id: &ContainerId, process: Option<Process>, merged: &Merged) -> Option<Question> {
        let below = match self.known.get(id).map(|known| &known.root) {
            None | Some(RootAt::Process) => PathBuf::from("/"),
            // podman tells nothing when it has changed
            Some(RootAt::Below(_, Some(inode))) if self.procs.root_inode(process?) == Some(*inode) => {
                PathBuf::from("/")
            }
            Some(RootAt::Below(root, _)) => root.clone(),
            Some(RootAt::Unknown) => return None,
        };
        Some(Question { id: id.clone(), pid: process?.pid, below, paths: Arc::clone(&merged.paths) })
    }

    /// The rules by all names that their paths have in the root of a container's first process, in which this was found.
    fn link(
        &mut self,
        id: &ContainerId,
        process: Option<Process>,
        merged: &Merged,
        mut found: Found,
    ) -> Arc<Linked> {
        // a process that has ended meanwhile may have been another's number already
        if process.is_none_or(|process| !self.procs.alive(process)) {
            found = all(&merged.paths, Unknown::Unreadable);
        }
        let found = self.shared(found);
        let first = match self.known.get(id) {
            Some(known) => Arc::clone(&known.names),
            None => self.shared(Found::new()),
        };
        let answered = (merged.ruleset.digest(), Arc::as_ptr(&found).addr(), Arc::as_ptr(&first).addr());
        let made = self
            .linked
            .get(&answered)
            .and_then(|answer| Some((answer.linked.upgrade()?, Arc::clone(&answer.names))));
        let (linked, names) = made.unwrap_or_else(|| {
            let mut all_names = Found::clone(&found);
            let names = self.shared(remember(&first, &merged.paths.paths, &mut all_names));
            let linked = Arc::new(Linked::new(merged, &all_names));
            let answer =
                Answer { linked: Arc::downgrade(&linked), names: Arc::clone(&names), _found: [found, first] };
            self.linked.insert(answered, answer);
            (linked, names)
        });
        if let Some(known) = self.known.get_mut(id) {
            known.names = names;
            self.registry.has_gaps(id, linked.gaps.len());
            let before = known.linked.replace(Arc::clone(&linked));
            if before.is_none_or(|before| !Arc::ptr_eq(&before, &linked)) {
                tell_links(&known.container, &linked);
            }
        }
        linked
    }

    /// The same for all in which the same was found.
    fn shared(&mut self, found: Found) -> Arc<Found> {
        match self.names.get(&found) {
            Some(same) => Arc::clone(same),
            None => {
                let found = Arc::new(found);
                self.names.insert(Arc::clone(&found));
                found
            }
        }
    }

    fn start(&mut self, container: Arc<Container>, pid: i32) -> Result<(), Refusal> {
        let process = self.find(pid);
        let wanted = self.wanted(&container);
        let known = self.know(Arc::clone(&container));
        let before = std::mem::replace(&mut known.process, process);
        (known.stage, known.root) = (Stage::Running, RootAt::Process); // for whatever comes after this start
        known.unwatched |= known.armed.is_none(); // should it run in spite of a refusal (CRI-O only logs those)
        let other = known.armed.is_some() && before != process;
        let Some(merged) = wanted else {
            self.enqueue(container.id.clone()); // the policies changed since the question was asked; nothing is to be armed now
            return Ok(());
        };
        self.arm_first(&container, (pid, process), other, &merged, Stage::Created)
    }

    /// Arms a container whose first process has not executed the workload yet, or refuses it. `other`: it is armed for
    /// another process.
    fn arm_first(
        &mut self,
        container: &Arc<Container>,
        (pid, process): (i32, Option<Process>),
        other: bool,
        merged: &Merged,
        stage: Stage,
    ) -> Result<(), Refusal> {
        let id = container.id.clone();
        let refuse = |reason: &dyn fmt::Display, advice| {
            Err(Refusal::new(container, name_policies(&merged.ruleset), reason, advice))
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
        if other {
            self.disarm(&id, "it has another first process"); // an update would not reach that one
            if self.known.get(&id).is_some_and(|known| known.armed.is_some()) {
                return refuse(
                    &"it is armed for another process, and cannot be disarmed",
                    "start the container again",
                );
            }
        }
        let found = match self.question(&id, process, merged) {
            Some(question) => self.roots.look_up(question),
            None => all(&merged.paths, Unknown::Unreadable),
        };
        let linked = self.link(&id, process, merged, found);
        let ruleset = &linked.ruleset;
        if self.selection.strict && !linked.gaps.is_empty() {
            return refuse(
                &format_args!("not enforceable completely (strict): {}", name_gaps(&linked.gaps)),
                "name the paths that the links lead to, or run without --strict",
            );
        }
        match self.arm(&id, ruleset, stage, pid) {
            Ok(()) => {
                tracing::info!(%container, ruleset = %ruleset.digest(), "armed before its first instruction");
                Ok(())
            }
            Err(error) => refuse(&chain(&error), "`nri-enforcer probe` shows what this host supports"),
        }
    }

    /// Puts `ruleset` in force, whatever was before. `pid` is 0 where only the rules of an armed container change.
    fn arm(
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
        self.note(id, ruleset, &result);
        result
    }

    /// Remembers what putting `ruleset` in force came to.
    fn note(&mut self, id: &ContainerId, ruleset: &Arc<Ruleset>, result: &Result<(), KernelError>) {
        if let Some(known) = self.known.get_mut(id) {
            match result {
                Ok(()) => {
                    (known.armed, known.failed, known.unwatched) = (Some(ruleset.digest()), None, false)
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
    fn arm_living(
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
        self.publish(id);
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
        self.roots.forget(id);
        self.registry.end(id);
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

/// Paths with other names that no rule names any more, and whose names are remembered all the same: a policy may go and
/// come back, and what the container made of its links meanwhile must not count alone then.
const GONE: usize = 8;

/// Adds the names that were found first to those found now; those that are the first from now on. Of paths that no rule
/// names any more the last [`GONE`] come after the others, newest first: a daemon that lives for months must not hold
/// what each policy ever named.
fn remember(first: &Found, paths: &[AbsPath], found: &mut Found) -> Found {
    let wanted: BTreeSet<&AbsPath> = paths.iter().collect();
    let (named, gone): (Found, Found) = first.iter().cloned().partition(|(path, _)| wanted.contains(path));
    let mut names: BTreeMap<AbsPath, Resolution> = named.into_iter().collect();
    for (path, answer) in found.iter().filter(|(_, answer)| !answer.names.is_empty()) {
        let of_first = || Resolution { names: answer.names.clone(), unknown: None };
        names.entry(path.clone()).or_insert_with(of_first);
    }
    let mut all: BTreeMap<AbsPath, Resolution> = std::mem::take(found).into_iter().collect();
    for path in paths {
        for name in names.get(path).iter().flat_map(|answer| &answer.names) {
            let answer = all.entry(path.clone()).or_default();
            if !answer.names.contains(name) {
                answer.names.push(name.clone());
                answer.names.sort_unstable();
            }
        }
    }
    found.extend(all);
    names.into_iter().chain(gone.into_iter().take(GONE)).collect()
}

/// How many links and gaps of one container are told.
const TOLD: usize = 8;

fn tell_links(container: &Container, linked: &Linked) {
    let links = linked.ruleset.links();
    if !links.is_empty() {
        let told: Vec<String> = links.iter().take(TOLD).map(ToString::to_string).collect();
        let more = links.len().saturating_sub(TOLD);
        tracing::info!(%container, more, "follows links: {}", told.join(", "));
    }
    for Gap { policy, field, reason, advice } in linked.gaps.iter().take(TOLD) {
        tracing::warn!(%container, %policy, field, advice, "{reason}");
    }
    if linked.gaps.len() > TOLD {
        tracing::warn!(%container, gaps = linked.gaps.len(), "more links are not followed");
    }
}

#[cfg(test)]
pub(crate) mod tests;
