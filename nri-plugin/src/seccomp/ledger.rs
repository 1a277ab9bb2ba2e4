//! Which seccomp profile each container was started with. A process keeps its filter until it ends, so when the policies
//! change, what runs has to be restarted, and until then this says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use enforcer_core::enforce::ContainerId;
use serde::Serialize;

use crate::container::Container;

/// The annotation with the digest of the profile that a container was created with.
pub const ANNOTATION: &str = "nri-enforcer.io/seccomp";
/// The annotation with the digest of what its policies said alone, without the profile below them: what is compared when
/// policies change, and when another daemon finds the container.
pub const POLICIES_ANNOTATION: &str = "nri-enforcer.io/seccomp-policies";
/// The annotation with the `localhostProfile` that its pod had to name, where the runtime takes no profile from us.
pub const FILE_ANNOTATION: &str = "nri-enforcer.io/seccomp-profile";

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
}

impl Created {
    /// What a container's annotations tell.
    #[must_use]
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        let told = |key: &str| annotations.get(key).cloned();
        Self { profile: told(ANNOTATION), policies: told(POLICIES_ANNOTATION), file: told(FILE_ANNOTATION) }
    }

    /// The annotations that tell it.
    pub fn annotations(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let told = [
            (ANNOTATION, &self.profile),
            (POLICIES_ANNOTATION, &self.policies),
            (FILE_ANNOTATION, &self.file),
        ];
        told.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)))
    }
}

/// How a container stands to the seccomp policies that select it now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It has what they say; also where none selects it.
    #[default]
    InForce,
    /// They changed, or came, since it was started.
    PendingRestart,
    /// It was started without the profile that they say: its pod does not name it, and the runtime takes none from us.
    NotApplied,
}

#[derive(Debug)]
struct Entry {
    container: Arc<Container>,
    created: Created,
    state: State,
    applied: bool, // as far as that could be seen
}

/// Containers by id.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<BTreeMap<ContainerId, Entry>>,
}

impl Ledger {
    /// Notes what a container is created with.
    pub fn put(&self, container: Arc<Container>, created: Created) {
        let entry = Entry { state: State::InForce, created, applied: true, container };
        self.entries().insert(entry.container.id.clone(), entry);
    }

    /// Notes everything that runs, and nothing else.
    pub fn replace(&self, containers: impl IntoIterator<Item = (Arc<Container>, Created)>) {
        self.entries().clear();
        containers.into_iter().for_each(|(container, created)| self.put(container, created));
    }

    /// Notes that a container runs without its profile.
    pub fn not_applied(&self, id: &ContainerId) {
        if let Some(entry) = self.entries().get_mut(id) {
            (entry.applied, entry.state) = (false, State::NotApplied);
        }
    }

    /// The container is over.
    pub fn forget(&self, id: &ContainerId) {
        self.entries().remove(id);
    }

    /// Compares every container with what the policies say now: `wanted` gives the digest of the policies alone. Those
    /// that have to be restarted since this comparison are returned.
    pub fn compare(&self, mut wanted: impl FnMut(&Container) -> Option<String>) -> Vec<Arc<Container>> {
        // worked out without the lock, since that may take longer than a creation can wait
        let containers: Vec<_> = self.entries().values().map(|entry| Arc::clone(&entry.container)).collect();
        let now: Vec<_> = containers.iter().map(|container| wanted(container)).collect();
        let mut pending = Vec::new();
        let mut entries = self.entries();
        for (container, now) in containers.iter().zip(now) {
            let Some(entry) = entries.get_mut(&container.id) else { continue };
            let state = if now != entry.created.policies {
                State::PendingRestart
            } else if now.is_some() && !entry.applied {
                State::NotApplied
            } else {
                State::InForce
            };
            if std::mem::replace(&mut entry.state, state) != state && state == State::PendingRestart {
                pending.push(Arc::clone(&entry.container));
            }
        }
        pending
    }

    /// How every container stands that seccomp policies selected when it was created, or select now.
    #[must_use]
    pub fn states(&self) -> Vec<(Arc<Container>, Created, State)> {
        let entries = self.entries();
        let told = entries
            .values()
            .filter(|entry| entry.created != Created::default() || entry.state != State::InForce);
        told.map(|entry| (Arc::clone(&entry.container), entry.created.clone(), entry.state)).collect()
    }

    /// What one container was created with.
    #[must_use]
    pub fn created(&self, id: &ContainerId) -> Option<Created> {
        self.entries().get(id).map(|entry| entry.created.clone())
    }

    /// How one container stands.
    #[must_use]
    pub fn state(&self, id: &ContainerId) -> Option<State> {
        self.entries().get(id).map(|entry| entry.state)
    }

    /// The files that containers were started with.
    #[must_use]
    pub fn files(&self) -> BTreeSet<String> {
        self.entries().values().filter_map(|entry| entry.created.file.clone()).collect()
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

    fn created(policies: &str) -> Created {
        let file = Some(format!("nri-enforcer/{policies}.json"));
        Created { profile: Some("p".into()), policies: Some(policies.into()), file }
    }

    #[test]
    fn annotations_tell_what_a_container_was_created_with() {
        let created = created("x");
        let annotations = created.annotations().map(|(key, value)| (key.to_owned(), value.clone())).collect();
        assert_eq!(Created::of(&annotations), created);
        assert_eq!(Created::of(&BTreeMap::new()), Created::default());
        assert_eq!(Created::default().annotations().count(), 0);
    }

    #[test]
    fn a_container_waits_for_its_restart_until_the_policies_are_again_what_it_has() {
        let ledger = Ledger::default();
        let (a, b) = (container("a", "default", "web"), container("b", "default", "web"));
        ledger.put(Arc::clone(&a), created("x"));
        ledger.put(Arc::clone(&b), Created::default());
        assert_eq!(ledger.compare(|one| (one.id == a.id).then(|| "x".into())), []);
        assert_eq!(ledger.states(), [(Arc::clone(&a), created("x"), State::InForce)]);
        // other policies; and policies for what had none
        let pending = ledger.compare(|_| Some("y".into()));
        assert_eq!(pending, [Arc::clone(&a), Arc::clone(&b)]);
        assert_eq!(ledger.compare(|_| Some("y".into())), [], "told once");
        assert_eq!(ledger.state(&a.id), Some(State::PendingRestart));
        // none any more: the filter stays all the same
        ledger.compare(|_| None);
        assert_eq!(ledger.state(&a.id), Some(State::PendingRestart));
        assert_eq!(ledger.state(&b.id), Some(State::InForce));
        ledger.compare(|one| (one.id == a.id).then(|| "x".into()));
        assert_eq!(ledger.state(&a.id), Some(State::InForce));
    }

    #[test]
    fn what_was_not_applied_stays_so_and_what_is_over_is_forgotten() {
        let ledger = Ledger::default();
        let a = container("a", "default", "web");
        ledger.put(Arc::clone(&a), created("x"));
        ledger.not_applied(&a.id);
        ledger.compare(|_| Some("x".into()));
        assert_eq!(ledger.state(&a.id), Some(State::NotApplied));
        assert_eq!(ledger.files(), ["nri-enforcer/x.json".to_owned()].into());
        ledger.replace([(Arc::clone(&a), created("z"))]);
        assert_eq!(ledger.files(), ["nri-enforcer/z.json".to_owned()].into());
        ledger.forget(&a.id);
        assert_eq!((ledger.state(&a.id), ledger.files().len()), (None, 0));
    }
}
