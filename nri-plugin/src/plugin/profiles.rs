//! The AppArmor profiles that pods name: loaded before the runtime looks for them, kept as long as the pods are there.

use std::collections::BTreeSet;
use std::sync::Arc;

use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject;
use nri::{ContainerAdjustment, Context, PodSandbox};

use super::told::describe;
use super::{Plugin, patience};
use crate::apparmor::Profiles;
use crate::apparmor::names::{asked, wanted};
use crate::container::{Container, Merged, Wish};
use crate::lock::Lock;
use crate::order::Present;

/// The annotation that a container gets of which AppArmor holds rules: the profile that it is to have.
pub const PROFILE_ANNOTATION: &str = "nri-enforcer.io/apparmor-profile";

impl Plugin {
    /// The same with these profiles; `None`: AppArmor is not used.
    #[must_use]
    pub fn with_profiles(self, profiles: Option<Arc<Profiles>>) -> Self {
        Self { profiles, ..self }
    }

    /// Loads the profiles that a pod names. Where that fails or takes too long the runtime does not find them, and creates no
    /// container.
    pub(super) async fn load_profiles(&self, context: &Context, pod: &PodSandbox) {
        let Some(loading) = self.loading(pod) else { return };
        let working = tokio::task::spawn_blocking(loading);
        if tokio::time::timeout(patience(context), working).await.is_err() {
            tracing::error!(
                pod = pod.name,
                namespace = pod.namespace,
                "its AppArmor profiles are not loaded in time"
            );
        }
    }

    /// Says which profile a container is to have, where AppArmor holds rules of it. Whether it has that is for its start.
    pub(super) fn want_profile(
        &self,
        pod: &PodSandbox,
        container: &Container,
        merged: &Merged,
        adjustment: ContainerAdjustment,
    ) -> ContainerAdjustment {
        let held = match self.selection.lock {
            Lock::AppArmor => true,
            Lock::Both => !merged.natives.is_empty(),
            Lock::Bpf | Lock::Selinux | Lock::Nothing => false,
        };
        let name = || wanted(&pod.namespace, &pod.name, &container.subject.container, &pod.annotations);
        match held.then(name).flatten() {
            Some(name) => adjustment.annotation(PROFILE_ANNOTATION, name.to_string()),
            None => adjustment,
        }
    }

    /// What loads the profiles that a pod names, which is noted at once; `None`: it names none.
    fn loading(&self, pod: &PodSandbox) -> Option<impl FnOnce() + Send + 'static> {
        let profiles = Arc::clone(self.profiles.as_ref()?);
        let named = asked(&pod.namespace, &pod.annotations);
        if named.is_empty() {
            return None;
        }
        profiles.pod(&pod.id, named.values().cloned());
        let (subject, _) = describe(Some(pod), &nri::Container::default());
        let (set, wish, id) = (self.set(), Wish::of(&pod.annotations), pod.id.clone());
        let selection = self.selection.clone();
        Some(move || {
            let mut seen = BTreeSet::new();
            for (container, name) in named {
                // of containers that share one, the first
                if !seen.insert(name.clone()) {
                    continue;
                }
                let subject = Subject { container, ..subject.clone() };
                let merged = selection.resolve(&set, &subject, wish);
                // one that no policy selects has a profile without rules: a later policy finds it
                let nothing = || Arc::new(Ruleset::resolve([], &Postures::default(), &subject).ruleset);
                let ruleset = merged.as_ref().map_or_else(nothing, |merged| Arc::clone(&merged.ruleset));
                let natives = merged.as_ref().map(|merged| merged.natives.as_slice()).unwrap_or_default();
                let _told = profiles.prepare(&id, &name, &ruleset, natives);
            }
        })
    }

    /// Takes note of the pods that there are, and begins to load what they name: nobody waits for that, since what runs has
    /// its profile, and what is created next loads its own.
    pub(super) fn list_profiles(&self, pods: &[PodSandbox]) {
        let Some(profiles) = &self.profiles else { return };
        profiles.pods(pods.iter().map(|pod| {
            let names: BTreeSet<_> = asked(&pod.namespace, &pod.annotations).into_values().collect();
            (pod.id.clone(), names)
        }));
        let loading: Vec<_> = pods.iter().filter_map(|pod| self.loading(pod)).collect();
        drop(tokio::task::spawn_blocking(move || loading.into_iter().for_each(|load| load())));
    }

    /// Compares what an earlier daemon's containers seem to have with what their first processes have. Reads some files of
    /// `/proc` for each.
    pub(super) async fn confirm_profiles(&self, present: &[Present]) {
        let Some(profiles) = self.profiles.clone() else { return };
        let running = present.iter().filter(|one| one.running && one.pid > 0);
        let running: Vec<_> = running.map(|one| (one.container.id.clone(), one.pid)).collect();
        let working = tokio::task::spawn_blocking(move || {
            running.iter().for_each(|(id, pid)| profiles.listed(id, *pid))
        });
        if working.await.is_err() {
            tracing::error!("the AppArmor profiles of running containers could not be looked at");
        }
    }

    /// The pod is gone.
    pub(super) fn forget_profiles(&self, pod: &PodSandbox) {
        if let Some(profiles) = &self.profiles {
            profiles.pod_removed(&pod.id);
        }
    }
}
