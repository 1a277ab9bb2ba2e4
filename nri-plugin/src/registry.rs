//! Who is who: lets an event of the kernel be told with names. Written by the reconciler, read by the reporter, which also
//! counts here what was decided about each container.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use enforcer_core::coverage::Gap;
use enforcer_core::enforce::ContainerId;
use enforcer_core::ruleset::{Ruleset, RulesetDigest};

use crate::alert::{Alert, HOST_EVENT};
use crate::container::Container;
use crate::procs::Process;
use crate::seccomp::ledger::Ledger;

/// How many containers and rulesets are remembered after their end, for the events that are still on their way.
const REMEMBERED: usize = 256;
/// How many other names of paths are told of one container.
const NAMES: usize = 256;

/// Containers by id and rulesets by digest.
#[derive(Debug, Default)]
pub struct Registry {
    inner: RwLock<Inner>,
    seccomp: Ledger,
}

#[derive(Debug, Default)]
struct Inner {
    containers: BTreeMap<ContainerId, Entry>,
    rulesets: BTreeMap<RulesetDigest, (Arc<Ruleset>, usize)>, // with the number of containers that have it
    ended: VecDeque<ContainerId>, // entries of `containers` that are over, oldest first
    unused: VecDeque<RulesetDigest>, // entries of `rulesets` that had a count of 0 when put here, oldest first
}

#[derive(Debug)]
struct Entry {
    container: Arc<Container>,
    ruleset: Option<RulesetDigest>,
    ended: bool,
    problem: Option<String>,
    gaps: Arc<[Gap]>,
    lacks: Option<String>,
    process: Option<Process>,
    verdicts: Counts,
}

/// What was decided about one container. Whoever counts only reads the registry.
#[derive(Debug, Default)]
struct Counts {
    blocked: AtomicU64,
    audited: AtomicU64,
}

/// How a container stands to the rules that the kernel enforces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The ruleset that is in force for it; one without rules counts.
    pub ruleset: Option<RulesetDigest>,
    /// Why it is not the one that the policies say, where something failed.
    pub problem: Option<String>,
    /// What of its rules is not in force beside those that are, and why.
    pub lacks: Option<String>,
    /// The links among its paths that are not followed, each a gap.
    pub gaps: Arc<[Gap]>,
    /// Other names by which paths of its rules count, by links in the container, in words; the first `NAMES`.
    pub names: Vec<String>,
    /// Denials since this daemon knows the container.
    pub blocked: u64,
    /// Accesses that passed and were reported since then.
    pub audited: u64,
}

impl Standing {
    /// Whether a ruleset is in force for it.
    #[must_use]
    pub const fn is_armed(&self) -> bool {
        self.ruleset.is_some()
    }
}

impl Registry {
    /// Remembers a container, or what changed about it.
    pub fn add(&self, container: Arc<Container>) {
        let mut inner = self.write();
        let id = container.id.clone();
        let before = inner.containers.remove(&id);
        let entry = match before {
            Some(before) => Entry { container, ended: false, ..before },
            None => Entry::new(container),
        };
        inner.containers.insert(id, entry);
    }

    /// Remembers which ruleset a container has; `None` is none any more.
    pub fn assign(&self, id: &ContainerId, ruleset: Option<Arc<Ruleset>>) {
        let mut inner = self.write();
        let digest = ruleset.as_ref().map(|ruleset| ruleset.digest());
        if let Some(ruleset) = ruleset {
            inner.rulesets.entry(ruleset.digest()).or_insert((ruleset, 0)).1 += 1;
        }
        let before = match inner.containers.get_mut(id) {
            Some(entry) => std::mem::replace(&mut entry.ruleset, digest),
            None => digest, // a container that was never added holds nothing
        };
        if let Some(before) = before {
            inner.release(before);
        }
    }

    /// Remembers why a container is not what the policies say; `None`: it is.
    pub fn fail(&self, id: &ContainerId, problem: Option<String>) {
        if let Some(entry) = self.write().containers.get_mut(id) {
            entry.problem = problem;
        }
    }

    /// Remembers what of its rules a container lacks, and why; `None`: nothing.
    pub fn lacks(&self, id: &ContainerId, what: Option<String>) {
        if let Some(entry) = self.write().containers.get_mut(id) {
            entry.lacks = what;
        }
    }

    /// Remembers the first process of a container of podman's.
    pub fn runs_as(&self, id: &ContainerId, process: Option<Process>) {
        if let Some(entry) = self.write().containers.get_mut(id) {
            entry.process = process;
        }
    }

    /// The first process of a container of podman's that is not over, where that was found in podman's files, and is known: nobody
    /// need be told of it again.
    #[must_use]
    pub fn process(&self, id: &ContainerId) -> Option<Process> {
        self.read().containers.get(id).filter(|entry| !entry.ended)?.process
    }

    /// Counts what an alert tells, where its container is known.
    pub fn count(&self, alert: &Alert) {
        let id = match alert.kind {
            HOST_EVENT => Ok(ContainerId::host()),
            _ => ContainerId::new(&alert.container_id),
        };
        let Ok(id) = id else { return };
        let inner = self.read();
        let Some(entry) = inner.containers.get(&id) else { return };
        let Counts { blocked, audited } = &entry.verdicts;
        let count = if alert.action == "Block" { blocked } else { audited };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// What of its rules a container lacks, and why; `None`: nothing that is known.
    #[must_use]
    pub fn lacking(&self, id: &ContainerId) -> Option<String> {
        self.read().containers.get(id)?.lacks.clone()
    }

    /// Remembers the gaps that the links of a container make.
    pub fn has_gaps(&self, id: &ContainerId, gaps: Arc<[Gap]>) {
        if let Some(entry) = self.write().containers.get_mut(id) {
            entry.gaps = gaps;
        }
    }

    /// How a container stands; as nothing where it is not known.
    #[must_use]
    pub fn standing(&self, id: &ContainerId) -> Standing {
        let inner = self.read();
        let Some(entry) = inner.containers.get(id) else { return Standing::default() };
        let ruleset = entry.ruleset.as_ref().and_then(|digest| inner.rulesets.get(digest));
        let links = ruleset.map(|(ruleset, _)| ruleset.links()).unwrap_or_default();
        Standing {
            ruleset: entry.ruleset,
            problem: entry.problem.clone(),
            lacks: entry.lacks.clone(),
            gaps: Arc::clone(&entry.gaps),
            names: links.iter().take(NAMES).map(ToString::to_string).collect(),
            blocked: entry.verdicts.blocked.load(Ordering::Relaxed),
            audited: entry.verdicts.audited.load(Ordering::Relaxed),
        }
    }

    /// The seccomp profile of each container, and whether it is the one that the policies say.
    #[must_use]
    pub fn seccomp(&self) -> &Ledger {
        &self.seccomp
    }

    /// The container is over; it is remembered a little longer.
    pub fn end(&self, id: &ContainerId) {
        self.seccomp.forget(id);
        self.assign(id, None);
        let mut inner = self.write();
        if let Some(entry) = inner.containers.get_mut(id)
            && !std::mem::replace(&mut entry.ended, true)
        {
            entry.process = None;
            inner.ended.push_back(id.clone());
        }
        while inner.ended.len() > REMEMBERED {
            if let Some(id) = inner.ended.pop_front()
                && inner.containers.get(&id).is_some_and(|entry| entry.ended)
            {
                inner.containers.remove(&id);
            }
        }
    }

    /// A container that lives, or ended lately.
    #[must_use]
    pub fn container(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.read().containers.get(id).map(|entry| Arc::clone(&entry.container))
    }

    /// A ruleset that some container has, or had lately.
    #[must_use]
    pub fn ruleset(&self, digest: &RulesetDigest) -> Option<Arc<Ruleset>> {
        self.read().rulesets.get(digest).map(|(ruleset, _)| Arc::clone(ruleset))
    }

    /// The ruleset that is in force for a container.
    #[must_use]
    pub fn in_force(&self, id: &ContainerId) -> Option<Arc<Ruleset>> {
        let inner = self.read();
        let digest = inner.containers.get(id)?.ruleset?;
        inner.rulesets.get(&digest).map(|(ruleset, _)| Arc::clone(ruleset))
    }

    // A panic while the lock is held leaves at worst a stale name in an alert, so poison is no reason to stop alerting.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(container: Arc<Container>) -> Self {
        Self {
            container,
            ruleset: None,
            ended: false,
            problem: None,
            gaps: Arc::default(),
            lacks: None,
            process: None,
            verdicts: Counts::default(),
        }
    }
}

impl Inner {
    fn release(&mut self, digest: RulesetDigest) {
        if let Some((_, count)) = self.rulesets.get_mut(&digest) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.unused.push_back(digest);
            }
        }
        while self.unused.len() > REMEMBERED {
            if let Some(digest) = self.unused.pop_front()
                && !self.unused.contains(&digest)
                && self.rulesets.get(&digest).is_some_and(|(_, count)| *count == 0)
            {
                self.rulesets.remove(&digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconciler::tests::{container, policies};
    use enforcer_core::ruleset::Postures;

    fn ruleset(path: &str) -> Arc<Ruleset> {
        let set = policies(&[("p", path)]);
        let subject = &container("c", "default", "web").subject;
        Arc::new(Ruleset::resolve(set.iter(), &Postures::default(), subject).ruleset)
    }

    #[test]
    fn one_ruleset_is_kept_for_all_that_have_it_and_a_while_longer() {
        let registry = Registry::default();
        let (a, b) = (container("a", "default", "web"), container("b", "default", "web"));
        registry.add(Arc::clone(&a));
        registry.add(Arc::clone(&b));
        registry.assign(&a.id, Some(ruleset("/x")));
        registry.assign(&b.id, Some(ruleset("/x")));
        let digest = ruleset("/x").digest();
        assert_eq!(registry.read().rulesets.len(), 1);
        registry.assign(&a.id, Some(ruleset("/first")));
        for number in 0..=REMEMBERED {
            registry.assign(&a.id, Some(ruleset(&format!("/{number}"))));
        }
        assert!(registry.ruleset(&digest).is_some(), "b still has it");
        assert!(registry.ruleset(&ruleset("/first").digest()).is_none(), "long over");
        assert!(registry.ruleset(&ruleset("/0").digest()).is_some(), "over lately");
        assert!(registry.read().rulesets.len() <= REMEMBERED + 2);
    }

    #[test]
    fn ended_containers_are_remembered_up_to_a_bound() {
        let registry = Registry::default();
        let name = |number: usize| container(&format!("c{number}"), "default", "web");
        for number in 0..2 * REMEMBERED {
            registry.add(name(number));
            registry.end(&name(number).id);
            registry.end(&name(number).id);
        }
        assert_eq!(registry.read().containers.len(), REMEMBERED);
        assert!(registry.container(&name(0).id).is_none());
        let last = name(2 * REMEMBERED - 1);
        assert!(registry.container(&last.id).is_some());
        registry.add(Arc::clone(&last));
        for number in 0..2 * REMEMBERED - 1 {
            registry.add(name(number));
            registry.end(&name(number).id);
        }
        assert!(registry.container(&last.id).is_some(), "it came back, so it is not over");
    }
}
