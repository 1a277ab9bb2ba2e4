//! What runs on a node that has no NRI: it is found in podman's files and in the kernel, when the daemon starts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use enforcer_core::enforce::ContainerId;
use tokio::sync::{oneshot, watch};

use crate::apparmor::Profiles;
use crate::gate::podman::{Listing, PodmanGate};
use crate::kernel::Kernel;
use crate::order::{Order, Synced};
use crate::procs::Procs;
use crate::seccomp::Seccomp;
use crate::set::PolicySet;

/// Finds what runs, and has it taken over.
pub(super) struct Look<K> {
    pub(super) podman: Arc<PodmanGate>,
    pub(super) kernel: Arc<K>,
    pub(super) procs: Procs,
    pub(super) profiles: Option<Arc<Profiles>>,
    pub(super) seccomp: Arc<Seccomp>,
    pub(super) policies: watch::Receiver<Arc<PolicySet>>,
    pub(super) orders: Sender<Order>,
    pub(super) synced: watch::Sender<bool>,
}

impl<K: Kernel> Look<K> {
    /// Looks until all that runs is known and is what the policies say, each time after `every`. What comes later the OCI
    /// hook tells. Never ends.
    pub(super) async fn until_complete(self, every: Duration) {
        let (mut found, mut told, mut lacks) = (None, BTreeMap::new(), String::new());
        loop {
            match self.once().await {
                Ok((synced, unknown)) => {
                    for (id, why) in unknown.iter().filter(|(id, why)| told.get(*id) != Some(*why)) {
                        tracing::warn!(container = %id, why, "it may run, and no policy reaches it: start it again, or remove it");
                    }
                    self.podman.strangers().listed(unknown.clone());
                    told = unknown;
                    if found.replace(synced) != Some(synced) {
                        let Synced { adopted, late, failed, unknown } = synced;
                        tracing::info!(
                            adopted,
                            late,
                            failed,
                            unknown,
                            "what runs is taken over, without NRI"
                        );
                    }
                    self.synced.send_replace(true);
                    if synced.is_complete() {
                        break;
                    }
                }
                Err(why) if why != lacks => {
                    tracing::error!(why, "what runs is not known; will try on");
                    lacks = why;
                }
                Err(_) => {}
            }
            tokio::time::sleep(every).await;
        }
        std::future::pending().await
    }

    /// What that came to, and which containers may run and are not known; or why nothing is.
    async fn once(&self) -> Result<(Synced, BTreeMap<ContainerId, String>), String> {
        let (podman, kernel, procs) =
            (Arc::clone(&self.podman), Arc::clone(&self.kernel), self.procs.clone());
        let profiles = self.profiles.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let listing = podman.running(kernel.as_ref(), &procs)?;
            if let Some(profiles) = profiles {
                let known = listing.running.iter().filter(|one| one.pid > 0);
                known.for_each(|one| profiles.listed(&one.container.id, one.pid));
                profiles.pods([]); // no pod will be told of, whose profiles would have to stay
            }
            Ok::<_, String>(listing)
        });
        let Listing { running, unknown, .. } = looking.await.map_err(|error| error.to_string())??;
        let (reply, answer) = oneshot::channel();
        let _ending = self.orders.send(Order::Listed { running, unknown: unknown.len(), reply });
        let synced = answer.await.map_err(|_| "it cannot be taken over now".to_owned())?;
        let (seccomp, set) = (Arc::clone(&self.seccomp), Arc::clone(&self.policies.borrow()));
        let comparing = tokio::task::spawn_blocking(move || seccomp.refresh(&set, false));
        comparing.await.map_err(|error| error.to_string())?;
        Ok((synced, unknown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apparmor::names;
    use crate::apparmor::tests::Memory;
    use crate::container::Selection;
    use crate::gate::tests::{podman_gate, seccomp};
    use crate::kernel::recording::Recording;
    use crate::podman::tests::WEB;
    use crate::procs::tests::add;
    use crate::reconciler::Reconciler;
    use crate::reconciler::tests::policies;
    use crate::registry::Registry;

    /// podman's list makes no sense at first. Then its container `web` runs, of which the daemon before loaded the profile, as it
    /// did of one that is over.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_runs_is_taken_over_as_soon_as_it_is_known_and_profiles_of_others_go() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let (registry, selection) = (Arc::<Registry>::default(), Selection::default());
        let (_policies, seen) = watch::channel(policies(&[("p", "/a")]));
        let seccomp = seccomp(&selection, &registry);
        let podman = podman_gate(dir.path(), &selection, seen.clone(), &registry, Arc::clone(&seccomp));
        let list = at("storage/overlay-containers/containers.json");
        let good = std::fs::read(&list).unwrap();
        std::fs::write(&list, "[{").unwrap();
        let noted = at(&format!("run/overlay-containers/{WEB}/userdata"));
        std::fs::create_dir_all(&noted).unwrap();
        std::fs::write(noted.join("pidfile"), "7").unwrap();
        add(&at("proc"), 7, 'S', 1000, &format!("/libpod-{WEB}"));

        let loader = Memory::default();
        let over = ContainerId::new("0".repeat(64)).unwrap();
        let web = ContainerId::new(WEB).unwrap();
        let loaded = |id: &ContainerId| loader.has(&names::of_podman(id).unwrap());
        let before = Profiles::with(Box::new(loader.clone()), dir.path().into()).unwrap();
        let nothing = crate::apparmor::tests::no_rules();
        for id in [&over, &web] {
            before.give(id, &nothing, &[]).unwrap();
        }
        drop(before);
        loader.runs(7, names::of_podman(&web).unwrap().as_str());
        let profiles = Arc::new(Profiles::with(Box::new(loader.clone()), dir.path().into()).unwrap());
        Kernel::tend(&profiles);
        assert!(loaded(&over), "until it is known what runs");

        let kernel = Arc::<Recording>::default();
        let (orders, taken) = std::sync::mpsc::channel();
        let procs = Procs::at(at("proc"));
        let (used, known) = (Arc::clone(&kernel), Arc::clone(&registry));
        let reconciler =
            Reconciler::new(used, selection, seen.clone(), known, procs.clone(), Box::new(|_| {}));
        std::thread::spawn(move || reconciler.run(&taken));
        let (synced, mut is_synced) = watch::channel(false);
        let look = Look {
            podman,
            kernel: Arc::clone(&kernel),
            procs,
            profiles: Some(Arc::clone(&profiles)),
            seccomp,
            policies: seen,
            orders,
            synced,
        };
        assert!(look.once().await.unwrap_err().contains("makes no sense"));
        assert_eq!((*is_synced.borrow(), kernel.ids(), kernel.times_settled()), (false, vec![], 0));
        let looking = tokio::spawn(look.until_complete(Duration::from_millis(5)));
        std::fs::write(&list, good).unwrap();
        is_synced.wait_for(|synced| *synced).await.unwrap();
        assert_eq!(kernel.ids(), [WEB]);
        while kernel.times_settled() == 0 {
            tokio::task::yield_now().await; // a moment after the answer
        }
        Kernel::tend(&profiles);
        assert!(loaded(&web) && !loaded(&over));
        assert!(!looking.is_finished(), "the end of a part is the daemon's");
        looking.abort();
    }
}
