//! Rulesets into the kernel, container by container.
//!
//! - [`Enforcer::open`] loads the BPF-LSM programs and pins them with their maps, or takes over from an earlier
//!   daemon: each new program is attached before the old one goes, and whatever is armed stays armed.
//! - [`Enforcer::arm`] makes a container's rules complete in the kernel, gives its first process (or all of them) its
//!   identity, and reads back; [`Enforcer::update`] exchanges the rules by one pointer; [`Enforcer::disarm`] ends it.
//! - What is armed outlives this process. [`unload`] takes everything away.
//!
//! ```no_run
//! use enforcer_core::enforce::{ContainerId, Enforcer, Options, Stage, Target};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let ruleset: enforcer_core::ruleset::Ruleset = unimplemented!();
//! let enforcer = Enforcer::open(&Options::default())?;
//! let target = Target { id: ContainerId::new("0123abcd")?, pid: 4711, stage: Stage::Created };
//! enforcer.arm(&target, &ruleset)?;
//! # Ok(()) }
//! ```

pub mod apparmor;
mod arm;
mod cost;
pub mod door;
mod error;
mod events;
mod exclusive;
mod held;
mod hooks;
pub mod host;
mod image;
pub(crate) mod load;
mod maps;
pub mod root;
pub mod selinux;
mod spread;
mod state;
mod tool;
mod withdraw;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use enforcer_bpf::types;
use libbpf_rs::{MapCore, MapFlags};

pub use cost::{Measuring, ProgramCost};
pub use error::EnforceError;
pub use events::EventStream;
pub use state::{Entries, Occupancy};

use crate::ruleset::{Ruleset, RulesetDigest};
use error::During;
use held::{Search, Searcher};
use hooks::HELD;
use host::HostExempt;
use load::Loaded;
use maps::Maps;
use state::{Entry, InForce, Names, State};

/// Containers whose rules are exchanged together: their rules hold two file descriptors each, and 1,024 is what a process
/// is commonly allowed.
const TOGETHER: usize = 256;
/// `CONTAINER_ID_BYTES`.
const ID_BYTES: usize = 128;

/// A container's id, as the runtime gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String); // INVARIANT: 1..=128 bytes

impl ContainerId {
    /// Checks the length.
    ///
    /// # Errors
    /// When it is empty or longer than 128 bytes.
    pub fn new(id: impl Into<String>) -> Result<Self, EnforceError> {
        let id = id.into();
        if id.is_empty() || id.len() > ID_BYTES { Err(EnforceError::BadId(id)) } else { Ok(Self(id)) }
    }

    /// The host's own processes, which are armed as one container. No runtime gives this id.
    #[must_use]
    pub fn host() -> Self {
        Self("(host)".to_owned())
    }

    /// Whether it is [the host](Self::host).
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.0 == "(host)"
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How far a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The runtime prepares it (OCI's `creating`, when createRuntime hooks run): the first process is the runtime's, in
    /// its final namespaces, but its root directory is still the host's. The rules begin with the first execution in
    /// the container's mount namespace under another root, so that the runtime's createContainer hooks are left alone.
    Creating {
        /// The inode number of the directory that is to be the root. `None`, or that of the present root (two
        /// subvolumes of one btrfs): the change could not be told, and the rules begin with the first execution in the
        /// mount namespace, be it that of such a hook.
        root: Option<u64>,
    },
    /// The first process is the runtime's, in its final namespaces and root directory, and has not executed the
    /// workload: the rules begin with that execution.
    Created,
    /// The workload runs: the rules begin at once, for every task of the container. What it has open is looked at
    /// soon after, in the background: reading and writing what the rules deny to open is denied from then on, and so is
    /// mapping it. What is mapped already stays.
    Running,
}

/// A container to arm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its id.
    pub id: ContainerId,
    /// Its first process, in the pid namespace of the calling process.
    pub pid: i32,
    /// How far it has come.
    pub stage: Stage,
}

/// What [`Enforcer::arm`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Armed {
    /// The rules in force.
    pub ruleset: RulesetDigest,
    /// Tasks that were given their identity; the others inherit it.
    pub tasks: u32,
    /// Whether the container had been armed before, so that only its rules were exchanged.
    pub already: bool,
}

/// A container that is armed, by this daemon or an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArmedContainer {
    /// Its id.
    pub id: ContainerId,
    /// Its rules; `None` when it is armed without any.
    pub ruleset: Option<RulesetDigest>,
}

/// Where and how to enforce.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Directory on a bpf file system for the pins.
    pub bpffs: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self { bpffs: PathBuf::from("/sys/fs/bpf/nri-enforcer") }
    }
}

/// The BPF-LSM programs, in force, and the containers they know. One process at a time.
#[derive(Debug)]
pub struct Enforcer {
    bpffs: PathBuf,
    // These two are dropped first: what they do in the background must end before the lock of `loaded` is given.
    searcher: Searcher,
    state: Mutex<State>,
    loaded: Arc<Mutex<Loaded>>,
    maps: Arc<Maps>,
    names: Arc<Names>,
    exempt: Mutex<Option<HostExempt>>, // None: not told, so that the host cannot be armed
}

/// A lock whose holder panicked: the maps are the truth, and every operation reads back what it wrote.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Enforcer {
    /// Loads the programs, or takes over from an earlier daemon without a gap.
    ///
    /// # Errors
    /// When the kernel has no BPF-LSM or refuses a program, when `bpffs` is none, or when another process enforces.
    /// What was in force before stays in force.
    pub fn open(options: &Options) -> Result<Self, EnforceError> {
        let (loaded, iterators) = load::load(&options.bpffs)?;
        let loaded = Arc::new(Mutex::new(loaded));
        let dir = load::pin_directory(&options.bpffs);
        let maps = Arc::new(Maps::of(&lock(&loaded).object)?);
        let names = Arc::new(Names::default());
        let state = Mutex::new(State::adopt(&maps, &names)?);
        let bpffs = options.bpffs.clone();
        let exempt = Mutex::new(None);
        let search =
            Search { maps: Arc::clone(&maps), loaded: Arc::clone(&loaded), iterators, dir: dir.clone() };
        let enforcer = Self { searcher: Searcher::start(search)?, bpffs, state, loaded, maps, names, exempt };
        {
            let state = lock(&enforcer.state);
            enforcer.settle_namespaces(&state, None)?;
            let held = state.containers.values().any(|entry| entry.held);
            let mut loaded = lock(&enforcer.loaded);
            // What an earlier daemon found to be held is denied until the first search says otherwise.
            let classes = state.classes() | if held { HELD } else { 0 };
            hooks::attach(&loaded.object, &dir, classes)?;
            loaded.attached = classes;
            if held {
                enforcer.searcher.ask();
            }
        }
        Ok(enforcer)
    }

    /// The hooks that the rules in the kernel need, before any container is under those.
    fn attach_for(&self, state: &State) -> Result<(), EnforceError> {
        let mut loaded = lock(&self.loaded);
        let classes = state.classes();
        if classes & !loaded.attached != 0 {
            hooks::attach_missing(&loaded.object, &load::pin_directory(&self.bpffs), classes)?;
            loaded.attached |= classes;
        }
        Ok(())
    }

    /// Takes away hooks that no rules in the kernel need any more.
    fn detach_for(&self, state: &State) -> Result<(), EnforceError> {
        let mut loaded = lock(&self.loaded);
        let classes = state.classes() | loaded.attached & HELD;
        if loaded.attached & !classes != 0 {
            hooks::detach_unneeded(&loaded.object, &load::pin_directory(&self.bpffs), classes)?;
            loaded.attached &= classes;
        }
        Ok(())
    }

    fn settle_namespaces(&self, state: &State, coming: Option<u32>) -> Result<(), EnforceError> {
        self.maps.armed_namespaces.set(0, &state.namespaces(coming), MapFlags::ANY)
    }

    /// Puts `ruleset` in force for a container. Nothing else can see the container before its rules are complete in
    /// the kernel, and it returns only after reading back. One that is armed already is
    /// [updated](Self::update), and read back too, by the process that is named.
    ///
    /// # Errors
    /// On any doubt; then the container is not armed, and must not be started.
    pub fn arm(&self, target: &Target, ruleset: &Ruleset) -> Result<Armed, EnforceError> {
        self.arm_target(target, ruleset)
    }

    /// Exchanges the rules of an armed container: the new ones are complete before one pointer changes, so every
    /// access is judged by the old rules or by the new ones.
    ///
    /// # Errors
    /// When the container is not armed, or the new rules do not get into the kernel; then the old ones stay in force.
    pub fn update(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), EnforceError> {
        self.exchange_rules(&mut lock(&self.state), &[(id, ruleset)])?.into_iter().collect()
    }

    /// [Updates](Self::update) many containers, each by itself, in hardly more time than one takes: what one answers
    /// says nothing about the others. In their order.
    pub fn update_all(&self, updates: &[(&ContainerId, &Ruleset)]) -> Vec<Result<(), EnforceError>> {
        updates.chunks(TOGETHER).flat_map(|part| self.update_part(part)).collect()
    }

    /// Rules that cannot be put in force are in nobody's way but their own: they are found by halves, and mostly before
    /// anything is written, since it is compiling that fails.
    fn update_part(&self, part: &[(&ContainerId, &Ruleset)]) -> Vec<Result<(), EnforceError>> {
        let exchanged = self.exchange_rules(&mut lock(&self.state), part);
        match exchanged {
            Ok(results) => results,
            Err(error) if part.len() < 2 => vec![Err(error)],
            Err(_) => {
                let (some, others) = part.split_at(part.len() / 2);
                let mut results = self.update_part(some);
                results.extend(self.update_part(others));
                results
            }
        }
    }

    /// All rules complete in the kernel, and the hooks attached that they need; only then one container after another.
    fn exchange_rules(
        &self,
        state: &mut State,
        updates: &[(&ContainerId, &Ruleset)],
    ) -> Result<Vec<Result<(), EnforceError>>, EnforceError> {
        if let [(id, _)] = updates
            && !state.containers.contains_key(id)
        {
            return Err(EnforceError::NotArmed(id.to_string()));
        }
        let rulesets: Vec<&Ruleset> = updates.iter().map(|(_, ruleset)| *ruleset).collect();
        let acquired = state.acquire(&self.maps, &self.names, &rulesets)?;
        if let Err(error) = self.attach_for(state) {
            acquired.iter().for_each(|rules| state.release(&self.names, rules.id));
            return Err(error);
        }
        let mut changed = false;
        let mut results: Vec<_> = updates
            .iter()
            .zip(&acquired)
            .map(|((id, ruleset), new)| {
                let exchanged = match state.containers.get_mut(id) {
                    Some(entry) => self.exchange(entry, new, ruleset.only_observes()),
                    None => Err(EnforceError::NotArmed(id.to_string())),
                };
                changed |= exchanged.as_ref().is_ok_and(|before| *before != new.id);
                // where nothing changed it is the extra user that goes
                state.release(&self.names, *exchanged.as_ref().unwrap_or(&new.id));
                exchanged.map(drop)
            })
            .collect();
        if let (Err(error), Some(last)) = (self.detach_for(state), results.last_mut()) {
            *last = Err(error); // tried again with that one
        }
        if changed {
            self.searcher.ask();
        }
        Ok(results)
    }

    /// The id of the rules before. `observes`: they deny nothing, so there are no descriptors that they deny.
    fn exchange(&self, entry: &mut Entry, rules: &InForce, observes: bool) -> Result<u32, EnforceError> {
        let mut wanted = arm::armed(entry, rules);
        let newer = entry.ruleset != rules.id && !observes;
        if newer {
            wanted.held |= held::SEARCHED;
        }
        if observes {
            wanted.held = 0; // other rules, which may deny, have it searched again, and rings are found then
        } else if entry.held {
            // a ring may hold files that are older still
            wanted.held |= self.maps.armed.get(entry.slot)?.map_or(0, |before| before.held & held::ALL);
        }
        self.maps.armed.set(entry.slot, &wanted, MapFlags::ANY)?;
        match self.maps.armed.get(entry.slot)? {
            Some(held) if held.container == entry.key && held.ruleset == rules.id => {
                entry.held |= newer;
                Ok(std::mem::replace(&mut entry.ruleset, rules.id))
            }
            _ => Err(EnforceError::ReadBack(format!("other rules for container {}", entry.key))),
        }
    }

    /// Ends enforcement for a container. One that is not armed is no error.
    ///
    /// # Errors
    /// When the maps cannot be written; it may still be armed then.
    pub fn disarm(&self, id: &ContainerId) -> Result<(), EnforceError> {
        let mut state = lock(&self.state);
        let Some(entry) = state.containers.get(id).copied() else { return Ok(()) };
        self.remove(&entry)?;
        state.containers.remove(id);
        state.give_slot(entry.slot);
        self.names.retire_container(entry.key);
        state.release(&self.names, entry.ruleset);
        self.settle_namespaces(&state, None)?;
        self.detach_for(&state)
    }

    /// Waits until the kernel holds no rules that no container has, and until what running containers have open was
    /// looked at under the rules of now. Both happens by itself; this is for those who count.
    pub fn settle(&self) {
        lock(&self.state).settle();
        self.searcher.wait();
    }

    /// Takes out of the kernel what a daemon with another layout of maps left in force: programs of two layouts do
    /// not share containers, so each denies what it denies. To be called once everything that runs is armed here;
    /// until then the old rules hold. How many layouts were taken out.
    ///
    /// # Errors
    /// When such a daemon is still running, or a pin cannot be removed.
    pub fn retire_others(&self) -> Result<usize, EnforceError> {
        load::retire_others(&self.bpffs)
    }

    /// What is armed, by whomever.
    ///
    /// # Errors
    /// None at present: the kernel was read when it was adopted.
    pub fn armed(&self) -> Result<Vec<ArmedContainer>, EnforceError> {
        let state = lock(&self.state);
        let armed =
            |(id, entry): (&ContainerId, _)| ArmedContainer { id: id.clone(), ruleset: state.digest(entry) };
        Ok(state.containers.iter().map(armed).collect())
    }

    /// Whether a container was armed as one that has not begun, and its first process has executed nothing since: that is
    /// not judged yet. Of a container that runs it says that it was armed too late, by whomever: arming it with
    /// [`Stage::Running`] mends that.
    ///
    /// # Errors
    /// When the container is not armed, or the process is gone.
    pub fn has_not_begun(&self, id: &ContainerId, pid: i32) -> Result<bool, EnforceError> {
        self.first_is_pending(id, pid)
    }

    /// Whether tasks of an armed container live, wherever they went: by the identity that they have in the kernel, which no
    /// cgroup and no namespace tells. With `pid`, whether that process is one of them, in the pid namespace of the calling
    /// process. One that is not armed has none.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn lives(&self, id: &ContainerId, pid: Option<i32>) -> Result<bool, EnforceError> {
        let state = lock(&self.state);
        let Some(entry) = state.containers.get(id) else { return Ok(false) };
        let pid = match pid {
            Some(pid) => {
                u32::try_from(pid).ok().filter(|pid| *pid > 0).ok_or(EnforceError::NoProcess { pid })?
            }
            None => 0,
        };
        let subject = types::subject { container: entry.key, ..Default::default() };
        let ask = types::mark { mode: types::mark_mode::MARK_LIVES.0, subject, pid, ..Default::default() };
        Ok(self.run(ask)?.found > 0)
    }

    /// The stream of denials and audited accesses.
    ///
    /// # Errors
    /// When the ring buffer cannot be opened.
    pub fn events(&self) -> Result<EventStream, EnforceError> {
        EventStream::new(&self.maps.events, Arc::clone(&self.names))
    }

    /// How full the maps are, with what earlier daemons armed.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        lock(&self.state).occupancy()
    }

    /// What the programs have counted since they were first loaded, by name, summed over CPUs; and what this process has:
    /// rulesets that nobody uses and that the kernel keeps all the same, and failed searches for descriptors that are
    /// older than the rules.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Vec<(String, u64)>, EnforceError> {
        let mut counters = Vec::with_capacity(COUNTERS.len() + 4);
        for (index, name) in COUNTERS {
            let values = self
                .maps
                .counters
                .lookup_percpu(&index.0.to_ne_bytes(), MapFlags::ANY)
                .during("read counters")?;
            let sum = values
                .unwrap_or_default()
                .iter()
                .filter_map(|v| v.first_chunk().copied())
                .map(u64::from_ne_bytes)
                .sum();
            counters.push((name.to_owned(), sum));
        }
        counters.push(("recursion_misses".to_owned(), load::recursion_misses(&lock(&self.loaded).object)));
        counters.push(("withdraw_failed".to_owned(), lock(&self.state).stuck()));
        counters.push(("search_failed".to_owned(), self.searcher.failed()));
        counters.push(("descriptors_untold".to_owned(), self.searcher.untold()));
        Ok(counters)
    }
}

const COUNTERS: [(types::enforcer_counter, &str); 19] = {
    use types::enforcer_counter as C;
    [
        (C::COUNTER_AUDITED, "audited"),
        (C::COUNTER_BLOCKED, "blocked"),
        (C::COUNTER_EVENT_DROPPED, "event_dropped"),
        (C::COUNTER_OBSERVATION_DROPPED, "observation_dropped"),
        (C::COUNTER_ACTIVATED, "activated"),
        (C::COUNTER_INHERITED, "inherited"),
        (C::COUNTER_INHERIT_FAILED, "inherit_failed"),
        (C::COUNTER_IDENTIFY_FAILED, "identify_failed"),
        (C::COUNTER_BY_POINTER, "by_pointer"),
        (C::COUNTER_RETRIED, "retried"),
        (C::COUNTER_RACED, "raced"),
        (C::COUNTER_TOO_DEEP, "too_deep"),
        (C::COUNTER_DISCONNECTED, "disconnected"),
        (C::COUNTER_FOREIGN_MOUNT, "foreign_mount"),
        (C::COUNTER_NO_SCRATCH, "no_scratch"),
        (C::COUNTER_NO_RULES, "no_rules"),
        (C::COUNTER_UNREADABLE, "unreadable"),
        (C::COUNTER_NEW_NAMES, "new_names"),
        (C::COUNTER_FOREIGN_TASK, "foreign_task"),
    ]
};

/// Takes every program and map out of the kernel: enforcement ends.
///
/// # Errors
/// When a pin cannot be removed, or a daemon is running.
pub fn unload(bpffs: &Path) -> Result<(), EnforceError> {
    load::unload(bpffs)
}
