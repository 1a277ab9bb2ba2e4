//! Which seccomp profile each container was started with. A process keeps its filter until it ends, so when the policies
//! change, what runs has to be restarted, and until then this says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use enforcer_core::enforce::ContainerId;
use serde::{Deserialize, Serialize};

use crate::container::Container;

/// The annotation with the digest of the profile that a container was created with: SHA-256 of its JSON, as `compile --seccomp`
/// prints it. Over NRI goes another form of that profile, which says the same without an errno of the default.
pub const ANNOTATION: &str = "nri-enforcer.io/seccomp";
/// The annotation with the digest of what its policies said alone, without the profile below them: what is compared when
/// policies change, and when another daemon finds the container.
pub const POLICIES_ANNOTATION: &str = "nri-enforcer.io/seccomp-policies";
/// The annotation with the `localhostProfile` that its pod had to name, where the runtime takes no profile from us.
pub const FILE_ANNOTATION: &str = "nri-enforcer.io/seccomp-profile";
/// The annotation that says that the runtime did not show which profile the container has of its own: [`NOT_SHOWN`]. No other
/// value means anything.
pub const BASE_ANNOTATION: &str = "nri-enforcer.io/seccomp-base";
/// Its value.
const NOT_SHOWN: &str = "not-shown";

/// What a container was created with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// Digest of the profile; `None`: no seccomp policy selected it, or the daemon was not there.
    pub profile: Option<String>,
    /// Digest of what the policies said alone.
    pub policies: Option<String>,
    /// The file that the pod had to name.
    pub file: Option<String>,
    /// The runtime's default was taken for what it has of its own, which the runtime did not show: a gap of each policy.
    pub base_not_shown: bool,
}

impl Created {
    /// What a container's annotations tell.
    #[must_use]
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        let told = |key: &str| annotations.get(key).cloned();
        Self {
            profile: told(ANNOTATION),
            policies: told(POLICIES_ANNOTATION),
            file: told(FILE_ANNOTATION),
            base_not_shown: told(BASE_ANNOTATION).is_some_and(|value| value == NOT_SHOWN),
        }
    }

    /// The annotations that tell it.
    pub fn annotations(&self) -> impl Iterator<Item = (&'static str, String)> {
        let told = [
            (ANNOTATION, self.profile.clone()),
            (POLICIES_ANNOTATION, self.policies.clone()),
            (FILE_ANNOTATION, self.file.clone()),
            (BASE_ANNOTATION, self.base_not_shown.then(|| NOT_SHOWN.to_owned())),
        ];
        told.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }
}

/// How a container stands to the seccomp policies that select it now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It has what they say; also where none selects it.
    #[default]
    InForce,
    /// They changed, or came, since it was started.
    PendingRestart,
    /// It was started without the profile that they say, and a restart alone does not change that: its pod does not name
    /// it, and the runtime takes none from us; or there is none.
    NotApplied,
    /// It has ended, and the runtime has not removed it: nothing runs with another profile.
    Ended,
}

/// A container that the runtime has, and how it stands to its seccomp policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The container.
    pub container: Arc<Container>,
    /// What it was created with.
    pub created: Created,
    /// How it stands.
    pub state: State,
    /// Why the profile is not applied, as far as that could be seen.
    pub not_applied: Option<String>,
    /// How many gaps the profile has; `None`: it was made by another daemon.
    pub gaps: Option<usize>,
    /// When it was noted, where no runtime lists it.
    pub apart: Option<Instant>,
    /// Files that it may have been created from, where no daemon was there to annotate it.
    pub files: BTreeSet<String>,
}

/// What the policies say about a container now: the digest of the policies alone, `None` where none selects it; or why no
/// profile can be made of them.
pub type Wanted = Result<Option<String>, String>;

/// Containers by id.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<BTreeMap<ContainerId, Entry>>,
}

impl Ledger {
    /// Notes what a container is created with.
    pub fn put(&self, container: Arc<Container>, created: Created) {
        self.enter(container, created, None);
    }

    /// The same of a container that no runtime lists: it stays until it is forgotten.
    pub fn put_apart(&self, container: Arc<Container>, created: Created) {
        self.enter(container, created, Some(Instant::now()));
    }

    /// A container that no runtime lists is on its way to its first process from now on, whatever was noted of it.
    pub fn begins(&self, container: &Arc<Container>) {
        if let Some(entry) = self.entries().get_mut(&container.id) {
            entry.apart = entry.apart.map(|_| Instant::now());
            return;
        }
        self.put_apart(Arc::clone(container), Created::default());
    }

    fn enter(&self, container: Arc<Container>, created: Created, apart: Option<Instant>) {
        let (state, not_applied, gaps, files) = Default::default();
        let entry = Entry { state, created, not_applied, gaps, container, apart, files };
        self.entries().insert(entry.container.id.clone(), entry);
    }

    /// Notes how many gaps the profile of a container has.
    pub fn has_gaps(&self, id: &ContainerId, gaps: usize) {
        if let Some(entry) = self.entries().get_mut(id) {
            entry.gaps = Some(gaps);
        }
    }

    /// Notes everything that the runtime lists, and nothing else of it.
    pub fn replace(&self, containers: impl IntoIterator<Item = (Arc<Container>, Created)>) {
        self.entries().retain(|_, entry| entry.apart.is_some());
        containers.into_iter().for_each(|(container, created)| self.put(container, created));
    }

    /// Those that no runtime lists, and that were noted at least so long ago.
    #[must_use]
    pub fn apart_for(&self, age: Duration) -> BTreeSet<ContainerId> {
        let old = |entry: &Entry| entry.apart.is_some_and(|noted| noted.elapsed() >= age);
        self.entries().iter().filter(|(_, entry)| old(entry)).map(|(id, _)| id.clone()).collect()
    }

    /// All that no runtime lists was noted so much earlier.
    #[cfg(test)]
    pub(crate) fn pass(&self, time: Duration) {
        let mut entries = self.entries();
        let noted = entries.values_mut().filter_map(|entry| entry.apart.as_mut());
        noted.for_each(|noted| *noted = noted.checked_sub(time).unwrap());
    }

    /// Notes files with the profile of a container, one of which its pod may name.
    pub fn may_have(&self, id: &ContainerId, files: BTreeSet<String>) {
        if let Some(entry) = self.entries().get_mut(id) {
            entry.files = files;
        }
    }

    /// Notes that a container runs without its profile.
    pub fn not_applied(&self, id: &ContainerId, why: String) {
        if let Some(entry) = self.entries().get_mut(id) {
            (entry.not_applied, entry.state) = (Some(why), State::NotApplied);
        }
    }

    /// The container starts, with what it was `created` with where it is not known. Whether it had ended before: then it
    /// keeps the profile of that time, and is to be compared.
    pub fn started(&self, container: &Arc<Container>, created: impl FnOnce() -> Created) -> bool {
        if let Some(entry) = self.entries().get_mut(&container.id) {
            let ended = entry.state == State::Ended;
            if ended {
                entry.state = State::InForce;
            }
            return ended;
        }
        self.put(Arc::clone(container), created());
        true
    }

    /// The container has ended, and may be started again or be removed.
    pub fn ended(&self, id: &ContainerId) {
        if let Some(entry) = self.entries().get_mut(id) {
            entry.state = State::Ended;
        }
    }

    /// The container is over.
    pub fn forget(&self, id: &ContainerId) {
        self.entries().remove(id);
    }

    /// Compares every container that has not ended with what the policies say now. Those that have to be restarted since
    /// this comparison, and those that have no profile since, are returned.
    pub fn compare(&self, mut wanted: impl FnMut(&Container) -> Wanted) -> Vec<Entry> {
        // worked out without the lock, since that may take longer than a creation can wait
        let containers: Vec<_> = self.entries().values().map(|entry| Arc::clone(&entry.container)).collect();
        let now: Vec<_> = containers.iter().map(|container| wanted(container)).collect();
        let mut changed = Vec::new();
        let mut entries = self.entries();
        for (container, now) in containers.iter().zip(now) {
            let Some(entry) = entries.get_mut(&container.id) else { continue };
            let state = match now {
                _ if entry.state == State::Ended => continue,
                Err(why) => {
                    entry.not_applied = Some(why);
                    State::NotApplied
                }
                // it has no profile of ours: nothing to be rid of
                Ok(None) if entry.not_applied.is_some() => State::InForce,
                Ok(Some(_)) if entry.not_applied.is_some() => State::NotApplied,
                Ok(now) if now != entry.created.policies => State::PendingRestart,
                Ok(_) => State::InForce,
            };
            if std::mem::replace(&mut entry.state, state) != state && state != State::InForce {
                changed.push(entry.clone());
            }
        }
        changed
    }

    /// Every container that the runtime has.
    #[must_use]
    pub fn entries_now(&self) -> Vec<Entry> {
        self.entries().values().cloned().collect()
    }

    /// What one container was created with.
    #[must_use]
    pub fn created(&self, id: &ContainerId) -> Option<Created> {
        self.entries().get(id).map(|entry| entry.created.clone())
    }

    /// Whether a container was given a profile at its creation, or this daemon planned then that it goes without: that has
    /// a number of gaps.
    #[must_use]
    pub fn planned(&self, id: &ContainerId) -> bool {
        self.entries().get(id).is_some_and(|entry| entry.created.profile.is_some() || entry.gaps.is_some())
    }

    /// How one container stands.
    #[must_use]
    pub fn state(&self, id: &ContainerId) -> Option<State> {
        self.entries().get(id).map(|entry| entry.state)
    }

    /// The files that containers were started with, or may have been.
    #[must_use]
    pub fn files(&self) -> BTreeSet<String> {
        self.entries()
            .values()
            .flat_map(|entry| entry.created.file.iter().chain(&entry.files))
            .cloned()
            .collect()
    }

    // after a panic in another thread at worst a container's state is old
    fn entries(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconciler::tests::container;

    fn pending(ledger: &Ledger, wanted: impl FnMut(&Container) -> Wanted) -> Vec<String> {
        let changed = ledger.compare(wanted).into_iter();
        changed
            .filter(|one| one.state == State::PendingRestart)
            .map(|one| one.container.id.to_string())
            .collect()
    }

    fn created(policies: &str) -> Created {
        let file = Some(format!("nri-enforcer/{policies}.json"));
        Created { profile: Some("p".into()), policies: Some(policies.into()), file, ..Created::default() }
    }

    #[test]
    fn annotations_tell_what_a_container_was_created_with() {
        for base_not_shown in [false, true] {
            let created = Created { base_not_shown, ..created("x") };
            let annotations = created.annotations().map(|(key, value)| (key.to_owned(), value)).collect();
            assert_eq!(Created::of(&annotations), created);
        }
        assert_eq!(Created::of(&BTreeMap::new()), Created::default());
        assert_eq!(Created::default().annotations().count(), 0);
    }

    #[test]
    fn a_container_waits_for_its_restart_until_the_policies_are_again_what_it_has() {
        let ledger = Ledger::default();
        let (a, b) = (container("a", "default", "web"), container("b", "default", "web"));
        ledger.put(Arc::clone(&a), created("x"));
        ledger.put(Arc::clone(&b), Created::default());
        assert_eq!(ledger.compare(|one| Ok((one.id == a.id).then(|| "x".into()))), []);
        assert_eq!(ledger.entries_now().len(), 2);
        // other policies; and policies for what had none
        assert_eq!(pending(&ledger, |_| Ok(Some("y".into()))), ["a", "b"]);
        assert_eq!(pending(&ledger, |_| Ok(Some("y".into()))), [""; 0], "told once");
        assert_eq!(ledger.state(&a.id), Some(State::PendingRestart));
        // none any more: the filter stays all the same
        ledger.compare(|_| Ok(None));
        assert_eq!(ledger.state(&a.id), Some(State::PendingRestart));
        assert_eq!(ledger.state(&b.id), Some(State::InForce));
        ledger.compare(|one| Ok((one.id == a.id).then(|| "x".into())));
        assert_eq!(ledger.state(&a.id), Some(State::InForce));
    }

    #[test]
    fn what_has_ended_waits_for_nothing_until_it_is_started_again() {
        let ledger = Ledger::default();
        let a = container("a", "default", "web");
        ledger.put(Arc::clone(&a), created("x"));
        assert!(!ledger.started(&a, || panic!("it is known")), "its first start");
        assert_eq!(pending(&ledger, |_| Ok(Some("y".into()))), ["a"]);
        ledger.ended(&a.id);
        assert_eq!(pending(&ledger, |_| Ok(Some("z".into()))), [""; 0]);
        assert_eq!(ledger.state(&a.id), Some(State::Ended));
        assert_eq!(ledger.files().len(), 1, "it may be started again, with its file");
        assert!(ledger.started(&a, || panic!("it is known")));
        assert_eq!(pending(&ledger, |_| Ok(Some("z".into()))), ["a"], "with the profile of its creation");
        // one that had ended before this daemon came
        let b = container("b", "default", "web");
        ledger.ended(&b.id);
        assert_eq!(ledger.state(&b.id), None);
        assert!(ledger.started(&b, || created("x")));
        assert_eq!(pending(&ledger, |_| Ok(Some("z".into()))), ["b"]);
    }

    #[test]
    fn where_no_profile_can_be_made_no_restart_is_waited_for() {
        let ledger = Ledger::default();
        let a = container("a", "default", "web");
        ledger.put(Arc::clone(&a), Created::default());
        let told = ledger.compare(|_| Err("why".into()));
        assert_eq!((told.len(), told[0].state), (1, State::NotApplied));
        assert_eq!(told[0].not_applied.as_deref(), Some("why"));
        assert_eq!(ledger.compare(|_| Err("why".into())), [], "told once");
    }

    #[test]
    fn what_was_not_applied_stays_so_and_what_is_over_is_forgotten() {
        let ledger = Ledger::default();
        let a = container("a", "default", "web");
        ledger.put(Arc::clone(&a), created("x"));
        ledger.not_applied(&a.id, "why".into());
        ledger.compare(|_| Ok(Some("x".into())));
        assert_eq!(ledger.state(&a.id), Some(State::NotApplied));
        assert_eq!(pending(&ledger, |_| Ok(Some("y".into()))), [""; 0], "a restart alone would not do");
        assert_eq!(pending(&ledger, |_| Ok(None)), [""; 0]);
        assert_eq!(ledger.state(&a.id), Some(State::InForce), "it has nothing that it should not");
        ledger.compare(|_| Ok(Some("x".into())));
        assert_eq!(ledger.files(), ["nri-enforcer/x.json".to_owned()].into());
        let apart = container("p", "default", "web");
        ledger.put_apart(Arc::clone(&apart), Created::default());
        ledger.replace([(Arc::clone(&a), created("z"))]);
        assert_eq!(ledger.created(&apart.id), Some(Created::default()), "no runtime lists it");
        assert_eq!(ledger.files(), ["nri-enforcer/z.json".to_owned()].into());
        ledger.forget(&a.id);
        assert_eq!((ledger.state(&a.id), ledger.files().len()), (None, 0));
    }
}
