//! What runs, compared with the policies: after a synchronisation, and whenever they change.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use enforcer_core::coverage::GapReason;

use super::ledger::{Created, Entry, State};
use super::profiles::Together;
use super::{NO_EFFECT, Seccomp, addresses, base, name, name_it};
use crate::container::Container;
use crate::order::Notice;
use crate::set::PolicySet;

impl Seccomp {
    /// Takes note of everything that runs: containers, what they were created with, and their first processes (0: none
    /// yet). Reads files where pods had to name their profiles.
    pub fn synchronized(
        &self,
        set: &PolicySet,
        containers: impl IntoIterator<Item = (Arc<Container>, Created, i32)>,
    ) {
        let (mut entries, mut named) = (Vec::new(), Vec::new());
        for (container, created, pid) in containers {
            if created.file.is_some() && pid > 0 {
                named.push((Arc::clone(&container), created.policies.clone(), pid));
            }
            entries.push((container, created));
        }
        self.registry.seccomp().replace(entries);
        let mut profiles = HashMap::new();
        for (container, created, pid) in named {
            let policies = self.selecting(set, &container);
            if self.digest(&policies) != Ok(created) {
                continue; // pending restart
            }
            let wanted = profiles
                .entry(addresses(&policies))
                .or_insert_with(|| self.compile(&policies, &base::runtime_default()));
            let seen = match wanted {
                Ok(wanted) => self.has_profile(wanted, pid, &container.id.to_string()),
                Err(_) => continue, // told by the comparison
            };
            if let Err(unlike) = seen {
                let why = name_it(&unlike, &policies);
                tracing::warn!(%container, why, "it runs without the seccomp profile of its policies");
                self.registry.seccomp().not_applied(&container.id, why);
            }
        }
        self.synchronized.store(true, Ordering::Relaxed);
        self.refresh(set, false);
    }

    /// Brings the files up to date, and tells what runs with an older profile. `changed`: whether the policies are other
    /// ones than at the last time. Blocks as long as the disk does.
    pub fn refresh(&self, set: &PolicySet, changed: bool) {
        if let (Err(unknown), true) = (&self.node, changed) {
            for policy in set.seccomp() {
                tracing::warn!(policy = %policy.id(), %unknown, advice = NO_EFFECT, "{}", GapReason::SeccompMachine);
            }
        }
        let used = self.compare(set);
        self.digests().retain(|made, _| used.contains(made));
        if self.node.is_err() {
            return;
        }
        let ledger = self.registry.seccomp();
        let in_use = self.synchronized.load(Ordering::Relaxed).then(|| ledger.files());
        let json = |policies: &Together| {
            let profile = self.compile(policies, &base::runtime_default());
            profile.map(|profile| profile.to_json()).unwrap_or_default()
        };
        let changed = self.failed.swap(false, Ordering::Relaxed) || changed;
        if let Err(error) = self.profiles.refresh(set, changed, in_use.as_ref(), json) {
            self.failed.store(true, Ordering::Relaxed);
            tracing::error!(%error, "cannot bring kubelet's seccomp profiles up to date; will try again");
        }
    }

    /// Compares every container with the policies, and tells what runs with an older profile, or can have none. The
    /// addresses of the policies that it met.
    pub(super) fn compare(&self, set: &PolicySet) -> HashSet<Vec<usize>> {
        let mut used = HashSet::new();
        let changed = self.registry.seccomp().compare(|container| {
            let policies = self.selecting(set, container);
            used.insert(addresses(&policies));
            self.digest(&policies)
        });
        for Entry { container, state, not_applied, .. } in changed {
            let policies = name(&self.selecting(set, &container));
            match not_applied {
                Some(advice) if state == State::NotApplied => {
                    tracing::warn!(%container, policies, advice, "it does not have the seccomp profile of its policies");
                    (self.notify)(Notice::SeccompNotApplied { container, policies, advice });
                }
                _ => {
                    tracing::warn!(%container, policies, "seccomp: pending restart; it keeps the profile that it was started with");
                    (self.notify)(Notice::SeccompPending { container, policies });
                }
            }
        }
        used
    }
}
