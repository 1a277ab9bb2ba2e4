//! The first process of a container, where the runtime does not tell it: CRI-O before 1.36 never does.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_core::enforce::ContainerId;

use super::Plugin;

impl Plugin {
    /// The first process of each of these containers that has one, by id: as the runtime tells it, else as it is found by its
    /// cgroup. Looks through all processes where one is not told.
    pub(super) async fn first_processes(&self, containers: &[&nri::Container]) -> BTreeMap<String, i32> {
        let told = |one: &&nri::Container| i32::try_from(one.pid).ok().filter(|pid| *pid > 0);
        let mut pids: BTreeMap<String, i32> =
            containers.iter().filter_map(|one| Some((one.id.clone(), told(one)?))).collect();
        let untold = containers.iter().filter(|one| told(one).is_none());
        let untold: BTreeSet<_> = untold.filter_map(|one| ContainerId::new(one.id.clone()).ok()).collect();
        if untold.is_empty() {
            return pids;
        }
        let procs = self.procs.clone();
        let found = tokio::task::spawn_blocking(move || procs.first(&untold)).await;
        match found {
            Ok(Ok(found)) => pids.extend(found.into_iter().map(|(id, first)| (id.to_string(), first.pid))),
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot list processes, and the runtime does not tell them")
            }
            Err(error) => tracing::error!(%error, "processes were not looked through"),
        }
        pids
    }
}
