//! What runs, compared with the policies: after a synchronisation, and whenever they change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use enforcer_core::coverage::GapReason;
use enforcer_core::enforce::ContainerId;
use enforcer_core::seccomp::oci::LinuxSeccomp;
use enforcer_core::seccomp::{Base, ProfileDigest, SeccompProfile};
use nri::NriVersion;
use nri_enforcer_hook::spec::CRUN_FILTER;

use super::ledger::{Created, Entry, State};
use super::profiles::{Contents, Together, digest, localhost_profile};
use super::{NO_EFFECT, Seccomp, addresses, base, bundle, name, name_it, takes_profiles};
use crate::container::Container;
use crate::exit::chain;
use crate::order::{Notice, Refusal};
use crate::set::PolicySet;

impl Seccomp {
    /// A runtime has connected that speaks this version of NRI.
    pub fn connected(&self, version: Option<NriVersion>) {
        self.adjusts.store(takes_profiles(version), Ordering::Relaxed);
    }

    /// Whether a container may start that a runtime has told about. Where the runtime takes profiles, one that seccomp policies
    /// select must have been given its profile at its creation, or been told then to go without. A container that is not known
    /// is the reconciler's affair.
    ///
    /// # Errors
    /// When it was created while this daemon was away, or before the policies came.
    pub fn given(&self, set: &PolicySet, id: &ContainerId) -> Result<(), Refusal> {
        let Some(container) = self.registry.container(id) else { return Ok(()) };
        let policies = self.selecting(set, &container);
        if policies.is_empty() || self.node.is_err() || !self.adjusts.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.registry.seccomp().planned(id) {
            true => Ok(()),
            false => {
                let reason = "it was created without the profile, while the daemon was away or before the policies came";
                Err(Refusal::new(&container, name(&policies), reason, "create it again"))
            }
        }
    }

    /// What a container was created with, by the annotations of its configuration, in which it has this profile. Where the hook
    /// was not run at `precreate` they may be an image's word. So they count only of a profile that they are the digest of, and
    /// that crun takes no other filter in the place of. An image can know such a digest: that of podman's own profile. So one that
    /// is to hold the policies of now must be what these make of it, which is itself.
    pub(crate) fn confirmed(
        &self,
        set: &PolicySet,
        container: &Container,
        annotations: &BTreeMap<String, String>,
        has: Option<&LinuxSeccomp>,
    ) -> Created {
        let created = Created::of(annotations);
        let told = has.filter(|has| created.profile == Some(ProfileDigest::of(has).to_string()));
        let Some(has) = told.filter(|_| !annotations.contains_key(CRUN_FILTER)) else {
            return Created::default();
        };
        let policies = self.selecting(set, container);
        let of_now = !policies.is_empty() && self.digest(&policies) == Ok(created.policies.clone());
        let holds =
            || self.compile(&policies, &Base::Profile(has.clone())).is_ok_and(|made| made.oci == *has);
        if of_now && !holds() { Created::default() } else { created }
    }

    /// The profile that a container would be created with by these policies, over the runtime's default one, and the digest of
    /// what they say by themselves; `None`: none selects it.
    ///
    /// # Errors
    /// When none can be made; for people.
    pub(crate) fn would_have(
        &self,
        set: &PolicySet,
        container: &Container,
    ) -> Result<Option<(SeccompProfile, String)>, String> {
        let policies = self.selecting(set, container);
        if policies.is_empty() {
            return Ok(None);
        }
        let profile =
            self.compile_once(&policies, &base::runtime_default()).map_err(|error| chain(&error))?;
        Ok(Some((profile, self.alone(&policies)?.0)))
    }

    /// Takes note of everything that runs: containers, what they were created with, and their first processes (0: none
    /// yet). Reads files where pods had to name their profiles.
    pub fn synchronized(
        &self,
        set: &PolicySet,
        containers: impl IntoIterator<Item = (Arc<Container>, Created, i32)>,
    ) {
        let (mut entries, mut named, mut files) = (Vec::new(), Vec::new(), Vec::new());
        let contents = self.contents();
        for (container, mut created, pid) in containers {
            if let Some((found, has)) = self.files_of(set, &container, &created, pid, &contents) {
                files.push((container.id.clone(), found));
                created = has;
            }
            if created.file.is_some() && pid > 0 {
                named.push((Arc::clone(&container), created.policies.clone(), pid));
            }
            entries.push((container, created));
        }
        self.registry.seccomp().replace(entries);
        files.into_iter().for_each(|(id, files)| self.registry.seccomp().may_have(&id, files));
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

    /// Which files have which profile: what this daemon found when it came, since what runs may be of that time, and now.
    fn contents(&self) -> Contents {
        let mut contents = self.profiles.contents();
        for (digest, files) in self.found.get().into_iter().flatten() {
            contents.entry(digest.clone()).or_default().extend(files.iter().cloned());
        }
        contents
    }

    /// The files that have the profile of a container which was created while no daemon was there: its pod may name any of
    /// them, and they are to stay. And what it was created with, as far as its policies are known by that.
    fn files_of(
        &self,
        set: &PolicySet,
        container: &Container,
        created: &Created,
        pid: i32,
        contents: &Contents,
    ) -> Option<(BTreeSet<String>, Created)> {
        if *created != Created::default() || pid <= 0 || contents.is_empty() {
            return None;
        }
        let profile = bundle::profile(&self.root, pid, container.id.as_str()).ok().flatten()?;
        let files = contents.get(&digest(&profile))?;
        let policies = self.selecting(set, container);
        let file =
            (!policies.is_empty()).then(|| localhost_profile(&policies)).filter(|file| files.contains(file));
        let wanted = file.and_then(|file| {
            let wanted = self.compile(&policies, &base::runtime_default()).ok()?;
            let has = Created {
                profile: Some(wanted.digest().to_string()),
                policies: self.digest(&policies).ok()?,
                file: Some(file),
                base_not_shown: false, // it is the file's
            };
            (wanted.oci == profile).then_some(has)
        });
        Some((files.clone(), wanted.unwrap_or_default()))
    }

    /// Brings the files up to date, and tells what runs with an older profile. `changed`: whether the policies are other
    /// ones than at the last time. Blocks as long as the disk does.
    pub fn refresh(&self, set: &PolicySet, changed: bool) {
        if let (Err(unknown), true) = (&self.node, changed) {
            for policy in set.seccomp() {
                tracing::warn!(policy = %policy.id(), %unknown, advice = NO_EFFECT, "{}", GapReason::SeccompMachine);
            }
        }
        self.found.get_or_init(|| self.profiles.contents());
        let used = self.compare(set);
        self.digests().retain(|made, _| used.contains(made));
        if self.node.is_err() {
            return;
        }
        let ledger = self.registry.seccomp();
        // a file whose policies are not known yet is not one whose policies are gone
        let known = self.synchronized.load(Ordering::Relaxed) && set.untold().is_none();
        let in_use = known.then(|| ledger.files());
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
            // which policies there are is not known: those that it was created under may be
            let untold = self.selection.awaits_for(set, container);
            let created = untold.and_then(|_| self.registry.seccomp().created(&container.id)?.policies);
            created.map_or_else(|| self.digest(&policies), |created| Ok(Some(created)))
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
