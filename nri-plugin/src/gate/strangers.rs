//! Containers of podman's that may run, and of which it is not known who they are: no policy reaches them until that is known.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use enforcer_core::enforce::ContainerId;

use crate::procs::{Process, Procs};

/// How many are remembered of those that asked.
const MOST: usize = 256;

/// Those containers, and why it is not known of each.
#[derive(Debug, Default)]
pub struct Strangers {
    procs: Procs,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    asked: VecDeque<Stranger>, // oldest first, each once
    listed: BTreeMap<ContainerId, String>,
}

/// One in whose name the OCI hook asked.
#[derive(Debug)]
struct Stranger {
    id: ContainerId,
    process: Process,
    why: String,
}

impl Strangers {
    /// Of which nobody has asked yet. Who of them lives is looked up in `procs`.
    #[must_use]
    pub fn new(procs: Procs) -> Self {
        Self { procs, ..Self::default() }
    }

    /// One with this first process may start, if only since the hook's mode is `open`.
    pub fn asked(&self, id: &ContainerId, pid: i32, why: &str) {
        let Some(process) = self.procs.find(pid) else { return };
        let mut inner = self.inner();
        inner.asked.retain(|one| one.id != *id);
        if inner.asked.len() >= MOST
            && let Some(oldest) = inner.asked.pop_front()
        {
            tracing::warn!(container = %oldest.id, why = oldest.why, "too many containers are not known; this one is not looked for any more, and no policy reaches it");
        }
        inner.asked.push_back(Stranger { id: id.clone(), process, why: why.to_owned() });
    }

    /// It is known now who it is.
    pub fn known(&self, id: &ContainerId) {
        self.inner().asked.retain(|one| one.id != *id);
    }

    /// The same as long as this is its first process: it may have been started again since.
    pub fn told(&self, id: &ContainerId, pid: i32) {
        self.inner().asked.retain(|one| one.id != *id || one.process.pid != pid);
    }

    /// Those that asked, and live, each with its first process, of which the hook told.
    pub fn living(&self) -> BTreeMap<ContainerId, Process> {
        let mut inner = self.inner();
        inner.asked.retain(|one| self.procs.alive(one.process));
        inner.asked.iter().map(|one| (one.id.clone(), one.process)).collect()
    }

    /// What was found in podman's files and is not known, in place of what was found before.
    pub fn listed(&self, unknown: BTreeMap<ContainerId, String>) {
        self.inner().listed = unknown;
    }

    /// All of them, and why.
    #[must_use]
    pub fn all(&self) -> BTreeMap<ContainerId, String> {
        self.living();
        let inner = self.inner();
        let asked = inner.asked.iter().map(|one| (one.id.clone(), one.why.clone()));
        inner.listed.clone().into_iter().chain(asked).collect()
    }

    // after a panic in another thread at worst one is missing
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procs::tests::add;

    #[test]
    fn strangers_are_told_as_long_as_they_live_up_to_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let strangers = Strangers::new(Procs::at(dir.path()));
        let id = |number: i32| ContainerId::new(format!("c{number}")).unwrap();
        strangers.asked(&id(1), 1, "it is not there");
        assert!(strangers.all().is_empty());
        let most = i32::try_from(MOST).unwrap();
        for number in 1..=most + 1 {
            add(dir.path(), number, 'S', 100, "/");
            strangers.asked(&id(number), number, "busy");
        }
        let all = strangers.all();
        assert!(all.len() == MOST && !all.contains_key(&id(1)), "the oldest has gone");
        // started again
        add(dir.path(), most, 'S', 200, "/");
        assert!(!strangers.living().contains_key(&id(most)), "another process has its number");
        strangers.asked(&id(most), most, "busy still");
        assert_eq!(strangers.all()[&id(most)], "busy still");
        std::fs::remove_dir_all(dir.path().join("2")).unwrap();
        strangers.told(&id(3), 4);
        assert!(strangers.living().contains_key(&id(3)), "it was started again");
        strangers.told(&id(3), 3);
        strangers.listed([(id(2), "listed".to_owned())].into());
        let all = strangers.all();
        assert_eq!((all.len(), all[&id(2)].as_str()), (MOST - 1, "listed"));
        strangers.listed(BTreeMap::new());
        assert_eq!(strangers.all().len(), MOST - 2);
        strangers.known(&id(4));
        assert_eq!(strangers.all().len(), MOST - 3);
    }
}
