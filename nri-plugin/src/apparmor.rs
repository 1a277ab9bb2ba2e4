//! AppArmor profiles of containers: which one a container has, what is in it, and how long it is kept.
//!
//! NRI neither shows nor changes a container's profile. So a pod names one of ours, by an annotation ([`names`]), which is
//! loaded before the runtime looks for it; podman's containers are given one each at `precreate`. What a container really
//! has is read from the runtime's configuration of it before it starts, and from its process afterwards. One that has none
//! of ours is reported, not refused: its rules cannot be expressed there (with `--strict` it is refused).
//!
//! A profile is exchanged by one write into the kernel: no process is unconfined for a moment. Containers that share a name
//! share the rules: where they want others, it has those of the first that wants any, and the others are reported.

mod beside;
mod holders;
mod keep;
mod kernel;
mod loader;
pub mod names;
mod podman;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use enforcer_core::compile::apparmor::{NAME_PREFIX, Native, Options, ProfileName, compile};
use enforcer_core::coverage::Gap;
use enforcer_core::enforce::ContainerId;
use enforcer_core::enforce::apparmor::{AppArmor, AppArmorError};
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject;
use tokio::sync::watch;

pub use self::beside::Beside;
pub use self::holders::{Holders, Rules};
pub use self::keep::{Awaits, awaits};
pub use self::loader::Loader;
use self::names::belongs;
pub use self::podman::for_podman;
use self::state::{Bound, Content, State, Turn, Turns};
use crate::container::Selection;
use crate::exit::chain;
use crate::kernel::{KernelError, Lacks};
use crate::procs::Process;
use crate::registry::Registry;
use crate::set::PolicySet;

/// How long after its arming a process may still be the runtime's, which takes the profile on when it executes the workload.
const STARTING: Duration = Duration::from_secs(60);

/// How long a container of podman's may take from `precreate` until it is armed, or armed again. What was never created, or
/// is over, has no use for its profile.
const GIVEN: Duration = Duration::from_secs(300);

/// Says what the daemon knows about a container: its namespace, and the native rules of its policies.
pub type About = Box<dyn Fn(&ContainerId) -> Option<(String, Vec<Native>)> + Send + Sync>;

/// Gives a sign of life.
pub type Alive = Box<dyn Fn() + Send + Sync>;

/// Asks the policies now in force about a container that the registry has.
#[must_use]
pub fn about(
    selection: &Selection,
    policies: &watch::Receiver<Arc<PolicySet>>,
    registry: &Arc<Registry>,
) -> About {
    let (selection, policies, registry) = (selection.clone(), policies.clone(), Arc::clone(registry));
    Box::new(move |id| {
        let container = registry.container(id)?;
        let set = Arc::clone(&policies.borrow());
        let merged = selection.resolve(&set, &container.subject, container.wish);
        let natives = merged.map(|merged| merged.natives.clone()).unwrap_or_default();
        Some((container.subject.namespace.clone(), natives))
    })
}

/// What a profile does not say of these rules.
#[must_use]
pub fn gaps(ruleset: &Ruleset, natives: &[Native]) -> Vec<Gap> {
    match format!("{NAME_PREFIX}any").parse() {
        Ok(name) => compile(ruleset, natives, &Options::named(name)).gaps,
        Err(_) => Vec::new(), // it is a name
    }
}

/// Profiles, and the containers that have them.
pub struct Profiles {
    loader: Box<dyn Loader>,
    root: PathBuf,
    natives_alone: bool, // the other rules are held by another lock
    state: Mutex<State>, // never locked while a profile is compiled
    turns: Turns,
    about: OnceLock<About>,
    awaits: OnceLock<Awaits>,
    lacks: OnceLock<Lacks>, // not where another lock has them told
    alive: OnceLock<Alive>,
}

impl std::fmt::Debug for Profiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profiles").field("state", &self.state).finish_non_exhaustive()
    }
}

/// A ruleset without rules.
fn nothing() -> Arc<Ruleset> {
    Arc::new(Ruleset::resolve([], &Postures::default(), &Subject::default()).ruleset)
}

impl Profiles {
    /// Those of this machine, and of an earlier daemon.
    ///
    /// # Errors
    /// When AppArmor does not work here; the error says what to do.
    pub fn open() -> Result<Self, AppArmorError> {
        let apparmor = AppArmor::open(None)?;
        apparmor.try_out()?;
        Self::with(Box::new(apparmor), "/".into())
    }

    /// Those that `loader` loads. `root` is `/`, but for tests.
    ///
    /// # Errors
    /// When it cannot be told who has profiles of an earlier daemon.
    pub fn with(loader: Box<dyn Loader>, root: PathBuf) -> Result<Self, AppArmorError> {
        let mut state = State::default();
        state.loaded.extend(loader.loaded()?.into_iter().map(|name| (name, Content::UNKNOWN)));
        let this = Self {
            loader,
            root,
            natives_alone: false,
            state: Mutex::default(),
            turns: Turns::default(),
            about: OnceLock::new(),
            awaits: OnceLock::new(),
            lacks: OnceLock::new(),
            alive: OnceLock::new(),
        };
        // who came first is known by the first process of each
        let mut processes: Vec<_> = this.loader.processes()?.into_iter().collect();
        let started =
            |(pid, _): &(i32, ProfileName)| this.procs().find(*pid).map_or(u64::MAX, Process::started);
        processes.sort_by_cached_key(started);
        for (pid, name) in processes {
            // a process that ended meanwhile needs none
            if let Some(id) = this.container_of(pid) {
                let bound = Bound {
                    name,
                    want: None,
                    no_new_privs: this.has_no_new_privs(pid),
                    process: None,
                    since: Instant::now(),
                    came: state.next(),
                };
                match state.bound.get(&id) {
                    Some(known) if known.name != bound.name => tracing::error!(
                        container = %id, profile = %known.name, other = %bound.name,
                        "processes of one container have several AppArmor profiles of ours"
                    ),
                    Some(_) => {}
                    None => {
                        state.earlier.insert(id.clone());
                        state.bound.insert(id, bound);
                    }
                }
            }
        }
        *this.state() = state;
        Ok(this)
    }

    /// The same for native rules alone, beside a lock that has all others.
    #[must_use]
    pub fn for_natives_alone(self) -> Self {
        Self { natives_alone: true, ..self }
    }

    /// What of these rules is for profiles.
    fn part(&self, ruleset: &Arc<Ruleset>) -> Arc<Ruleset> {
        if self.natives_alone { nothing() } else { Arc::clone(ruleset) }
    }

    /// The profile of ours that a container has, or is about to get.
    #[must_use]
    pub fn name_of(&self, id: &ContainerId) -> Option<ProfileName> {
        self.state().bound.get(id).map(|bound| bound.name.clone())
    }

    /// Tells where to ask about containers. Only the first call counts.
    pub fn ask(&self, about: About) {
        let _once = self.about.set(about);
    }

    /// Tells where whoever brings many profiles up to date gives a sign of life between them. Only the first call counts.
    pub fn gives_signs(&self, alive: Alive) {
        let _once = self.alive.set(alive);
    }

    // after a panic in another thread at worst a profile is loaded again
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn natives(&self, id: &ContainerId) -> Vec<Native> {
        self.about.get().and_then(|about| about(id)).map(|(_, natives)| natives).unwrap_or_default()
    }

    /// The runtime's pods, with the profiles that they name: those stay. Once they are known, what nobody has goes. On a node
    /// without NRI there are none.
    pub fn pods(&self, pods: impl IntoIterator<Item = (String, BTreeSet<ProfileName>)>) {
        let mut state = self.state();
        state.asked = pods.into_iter().collect();
        state.listed = true;
    }

    /// The pod is gone.
    pub fn pod_removed(&self, pod: &str) {
        self.state().asked.remove(pod);
    }

    /// A pod that is there names these profiles, too: they stay.
    pub fn pod(&self, pod: &str, names: impl IntoIterator<Item = ProfileName>) {
        self.state().asked.entry(pod.to_owned()).or_default().extend(names);
    }

    /// Sees to it that a profile that a pod names ([`Self::pod`]) is there before its container is created. What containers
    /// have already stays as it is; [`Self::bind`] says what is in it once this one is about to start. Nothing is done for a
    /// pod that is gone.
    ///
    /// # Errors
    /// When it is not there.
    pub fn prepare(
        &self,
        pod: &str,
        name: &ProfileName,
        ruleset: &Arc<Ruleset>,
        natives: &[Native],
    ) -> Result<(), AppArmorError> {
        let turn = self.turns.take(name);
        let state = self.state();
        let gone = !state.asked.get(pod).is_some_and(|names| names.contains(name));
        let has = || state.bound.values().any(|bound| bound.name == *name);
        if gone || state.loaded.contains_key(name) && has() {
            return Ok(());
        }
        drop(state);
        let ruleset = self.part(ruleset);
        let content = Content::new(&ruleset, natives, false);
        self.put(&turn, &ruleset, content)
    }

    /// Gives a container of podman's a profile of its own.
    ///
    /// # Errors
    /// When it is not there.
    pub fn give(
        &self,
        id: &ContainerId,
        ruleset: &Arc<Ruleset>,
        natives: &[Native],
    ) -> Result<ProfileName, AppArmorError> {
        let name = names::of_podman(id)?;
        let ruleset = self.part(ruleset);
        let content = Content::new(&ruleset, natives, false);
        let turn = self.turns.take(&name);
        self.state().given.insert(id.clone(), (name.clone(), Instant::now())); // it is not to be removed at once
        let result = self.put(&turn, &ruleset, content);
        if result.is_err() {
            self.state().given.remove(id);
        }
        drop(turn);
        result.map(|()| name)
    }

    /// Loads a profile unless it is what is loaded.
    fn put(&self, turn: &Turn<'_>, ruleset: &Ruleset, content: Content) -> Result<(), AppArmorError> {
        let name = turn.name();
        if self.state().loaded.get(name) == Some(&content) {
            // the node may deny nothing any more
            return self.loader.loaded().map(drop);
        }
        let result = self.loader.children(name).and_then(|keep| {
            let options = Options { name: name.clone(), no_new_privs: content.no_new_privs, keep };
            self.loader.load(&compile(ruleset, &content.natives, &options))
        });
        match &result {
            Ok(()) => {
                tracing::info!(profile = %name, ruleset = %ruleset.digest(), "AppArmor profile loaded");
                self.state().has_loaded(name.clone(), content);
            }
            Err(error) => {
                tracing::error!(profile = %name, error = chain(error), "cannot load the AppArmor profile");
            }
        }
        result
    }

    /// A container has a profile by this name, and wants these rules.
    fn bind(
        &self,
        id: &ContainerId,
        (name, no_new_privs): (ProfileName, bool),
        process: Option<Process>,
        ruleset: &Arc<Ruleset>,
    ) -> Result<(), KernelError> {
        self.may_have(id, &name)?;
        let want = Some(Arc::clone(ruleset));
        let turn = self.turns.take(&name);
        let mut state = self.state();
        let now = Instant::now();
        let before = state.bound.get(id).filter(|before| before.name == name).map(|before| before.came);
        let came = before.unwrap_or_else(|| state.next());
        let bound = Bound { name: name.clone(), want, no_new_privs, process, since: now, came };
        let before = state.bound.insert(id.clone(), bound);
        let earlier = state.earlier.remove(id);
        drop(state);
        let mut results = self.suit(&turn);
        let result = results.remove(id).unwrap_or(Ok(()));
        results.iter().for_each(|(id, result)| self.tell(id, result));
        if result.as_ref().is_err_and(|error| !error.is_uncovered()) {
            // it could not be loaded, and the container is not to start; one that runs has what it had
            let mut state = self.state();
            match before {
                Some(before) => {
                    state.bound.insert(id.clone(), before);
                    if earlier {
                        state.earlier.insert(id.clone());
                    }
                }
                None => drop(state.bound.remove(id)),
            }
        }
        result
    }

    /// Whether the profile is one that the container may have: else those of another namespace would have a say in it.
    fn may_have(&self, id: &ContainerId, name: &ProfileName) -> Result<(), KernelError> {
        let known = self.about.get().and_then(|about| about(id));
        // of one that is not known (yet) nothing is wanted either
        let Some((namespace, _)) = known else { return Ok(()) };
        if belongs(name, &namespace) || names::of_podman(id).is_ok_and(|own| own == *name) {
            return Ok(());
        }
        Err(KernelError::uncovered(format!(
            "its AppArmor profile `{name}` is not one of its namespace; name one that begins with `{}`",
            names::prefix(&namespace)
        )))
    }

    /// Makes the profile what its containers want, and says for each whether it is.
    fn suit(&self, turn: &Turn<'_>) -> BTreeMap<ContainerId, Result<(), KernelError>> {
        let (name, state) = (turn.name(), self.state());
        // an earlier daemon's containers were not looked at when they were found
        let mut strangers = BTreeMap::new();
        for (id, _) in state.bound.iter().filter(|(_, bound)| bound.name == *name) {
            if let Err(error) = self.may_have(id, name) {
                strangers.insert(id.clone(), Err(error));
            }
        }
        // before what they want is asked: what comes between the two finds the profile looked at again
        let kept = self.kept(&state, name, |id| !strangers.contains_key(id));
        let members =
            || state.bound.iter().filter(|(id, bound)| bound.name == *name && !strangers.contains_key(*id));
        let no_new_privs = members().any(|(_, bound)| bound.no_new_privs);
        let mut wants: Vec<(ContainerId, Arc<Ruleset>, Content, u64)> = members()
            .filter_map(|(id, bound)| {
                let ruleset = bound.want.as_ref()?;
                let content = Content::new(ruleset, &self.natives(id), no_new_privs);
                Some((id.clone(), Arc::clone(ruleset), content, bound.came))
            })
            .collect();
        // Whoever comes later, or has no rules, takes no rules away from another one.
        wants.sort_by_key(|(_, ruleset, content, came)| {
            (ruleset.is_empty() && content.natives.is_empty(), *came)
        });
        drop(state);
        let Some((_, ruleset, content, _)) = wants.first() else { return strangers };
        if let Some(why) = kept {
            let something = wants
                .iter()
                .filter(|(_, ruleset, content, _)| !(ruleset.is_empty() && content.natives.is_empty()));
            let uncovered = |id: &ContainerId| (id.clone(), Err(KernelError::uncovered(why.clone())));
            return something.map(|(id, ..)| uncovered(id)).chain(strangers).collect();
        }
        let put = self.put(turn, ruleset, content.clone()).map_err(|error| chain(&error));
        wants
            .iter()
            .map(|(id, _, want, _)| {
                let result = match &put {
                    Err(error) => Err(KernelError::new(error.clone())),
                    Ok(()) if want == content => Ok(()),
                    Ok(()) => Err(KernelError::uncovered(format!(
                        "its AppArmor profile `{name}` has the rules of other containers, and it should have others; name \
                         a profile that is its own"
                    ))),
                };
                (id.clone(), result)
            })
            .chain(strangers)
            .collect()
    }

    /// Whether a container has its profile, with what should be in it.
    fn check(&self, id: &ContainerId) -> Result<(), KernelError> {
        let Some(name) = self.name_of(id) else {
            return Err(self.without(id, "it was created without an AppArmor profile of ours"));
        };
        self.suit(&self.turns.take(&name)).remove(id).unwrap_or(Ok(()))
    }

    /// Containers of an earlier daemon are to have no rules but native ones. Of one that is not known yet these are not
    /// known either: it keeps what it has.
    fn want_nothing(&self) {
        let Some(about) = self.about.get() else { return };
        for (id, bound) in &mut self.state().bound {
            if bound.want.is_none() && about(id).is_some() {
                bound.want = Some(nothing());
            }
        }
    }

    /// The container is over.
    fn release(&self, id: &ContainerId) {
        let mut state = self.state();
        state.earlier.remove(id);
        if let Some(bound) = state.bound.remove(id) {
            state.remember(id.clone(), bound.name);
        }
        // it may be armed again, for another first process
        if let Some((_, needed)) = state.given.get_mut(id) {
            *needed = Instant::now();
        }
    }

    /// Removes profiles that no container has and no pod names. Whoever takes note of one meanwhile waits, and loads it
    /// afterwards.
    fn tidy(&self) {
        let mut state = self.state();
        let State { bound, given, .. } = &mut *state;
        given.retain(|id, (_, needed)| bound.contains_key(id) || needed.elapsed() < GIVEN);
        if !state.listed {
            return;
        }
        let keep: BTreeSet<ProfileName> = (state.bound.values().map(|bound| &bound.name))
            .chain(state.asked.values().flatten())
            .chain(state.given.values().map(|(name, _)| name))
            // what somebody loaded by hand, as `compile` prints it, is no namespace's
            .chain(state.loaded.keys().filter(|name| !names::is_of_namespace(name)))
            .cloned()
            .chain(self.turns.names())
            .collect();
        match self.loader.remove_unused(&keep) {
            Ok(removed) => {
                for name in removed {
                    tracing::info!(profile = %name, "AppArmor profile removed: no container has it");
                    state.loaded.remove(&name);
                }
            }
            Err(error) => tracing::warn!(error = chain(&error), "AppArmor profiles that nobody has stay"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
