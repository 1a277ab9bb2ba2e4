//! AppArmor in the place of BPF-LSM: all rules of a container are in its profile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use enforcer_core::compile::apparmor::ProfileName;
use enforcer_core::enforce::apparmor::AppArmorError;
use enforcer_core::enforce::{ContainerId, Stage, Target};
use enforcer_core::ruleset::{Ruleset, RulesetDigest};

use super::{Profiles, STARTING, State, names};
use crate::exit::chain;
use crate::kernel::{Kernel, KernelError, Lacks};
use crate::procs::Procs;
use crate::seccomp::bundle;

/// How long the ids of containers are, in hexadecimal digits.
const ID: usize = 64;
/// What is in the name of a pod's cgroup under podman, by systemd; and what such cgroups are in, without systemd.
const PODMAN_POD: &str = "libpod_pod_";
const PODMAN_PARENT: &str = "libpod_parent";
/// The digest of what an earlier daemon loaded: no ruleset has it, so it will be replaced.
const UNKNOWN: [u8; 32] = [0; 32];

impl Profiles {
    pub(super) fn procs(&self) -> Procs {
        Procs::at(self.root.join("proc"))
    }

    fn read_of(&self, pid: i32, file: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join("proc").join(pid.to_string()).join(file)).ok()
    }

    pub(super) fn has_no_new_privs(&self, pid: i32) -> bool {
        // what cannot be read is taken for the stricter
        self.read_of(pid, "status").is_none_or(|text| {
            let flag = text.lines().find_map(|line| line.strip_prefix("NoNewPrivs:"));
            flag.is_none_or(|flag| flag.trim() != "0")
        })
    }

    /// The container of a process, by its cgroup: containerd, CRI-O and podman have its id of 64 digits there. The
    /// outermost counts: what is below the container's own is named by whoever may write there, which the container may.
    pub fn container_of(&self, pid: i32) -> Option<ContainerId> {
        let cgroups = self.read_of(pid, "cgroup")?;
        let mut above = "";
        for part in cgroups.split(['/', '\n']) {
            // pods of podman's have such ids, too
            let of_pod = above == PODMAN_PARENT && part.len() == ID || part.contains(PODMAN_POD);
            above = part;
            let mut words = part.split(|c: char| !c.is_ascii_hexdigit());
            if !of_pod && let Some(id) = words.find(|word| word.len() == ID) {
                return ContainerId::new(id).ok();
            }
        }
        None
    }

    /// The runtime lists a container with its first process, which runs: the profile of that counts, whatever other
    /// processes that seem to be of the container have.
    pub fn listed(&self, id: &ContainerId, pid: i32) {
        let Some(process) = self.procs().find(pid) else { return };
        let Ok(has) = self.loader.of_process(pid) else { return };
        if !self.procs().alive(process) {
            return;
        }
        let mut state = self.state();
        match state.bound.get_mut(id) {
            Some(bound) if has.as_ref() == Some(&bound.name) => bound.process = Some(process),
            Some(bound) => {
                tracing::error!(container = %id, profile = %bound.name, "another process of it has another AppArmor profile than the first one");
                state.bound.remove(id); // it is armed anew, by what it has
            }
            None => {}
        }
    }

    /// The profile of ours that a container has or is about to get, and whether `no_new_privs` is set for it.
    pub(super) fn profile_of(&self, target: &Target) -> Result<(ProfileName, bool), KernelError> {
        let Target { id, pid, stage } = target;
        if let Stage::Running = stage {
            let has = self.loader.of_process(*pid).map_err(KernelError::new)?;
            return match has {
                Some(name) => Ok((name, self.has_no_new_privs(*pid))),
                None => Err(self.without(id, "it runs without an AppArmor profile of ours")),
            };
        }
        let created = bundle::process(&self.root, *pid, id.as_str());
        let given = self.state().given.get(id).map(|(name, _)| name.clone());
        match (created, given) {
            (Ok(process), given) => match process.apparmor_profile.as_deref().unwrap_or_default().parse() {
                Ok(name) => Ok((name, process.no_new_privileges)),
                Err(_) if given.is_some() => {
                    Err(self.without(id, "it does not have the AppArmor profile that it was given"))
                }
                Err(_) => Err(self.without(id, "it has no AppArmor profile of ours")),
            },
            // what podman was handed back at `precreate`; whether its process has it is looked at once it runs
            (Err(_), Some(name)) => Ok((name, true)),
            (Err(unseen), None) => {
                Err(self.without(id, &format!("which AppArmor profile it has is not known: {unseen}")))
            }
        }
    }

    /// Makes one of many profiles what its containers want. All of them together take their time, each of them not.
    fn bring(&self, name: &ProfileName) -> BTreeMap<ContainerId, Result<(), KernelError>> {
        let results = self.suit(&self.turns.take(name));
        if let Some(alive) = self.alive.get() {
            alive();
        }
        results
    }

    /// What the kernel has; `None`: it denies nothing, whatever it has.
    fn enforced(&self) -> Result<Option<BTreeSet<ProfileName>>, KernelError> {
        match self.loader.loaded() {
            Ok(enforced) => Ok(Some(enforced)),
            Err(AppArmorError::Unenforced { .. }) => Ok(None),
            Err(error) => Err(KernelError::new(error)),
        }
    }

    /// What containers have, and which ones do not have their profiles any more. `enforced`: what the kernel has.
    fn standing(
        &self,
        state: &State,
        enforced: &BTreeSet<ProfileName>,
    ) -> Result<(BTreeMap<ContainerId, RulesetDigest>, Vec<ContainerId>), KernelError> {
        let (mut armed, mut lost) = (BTreeMap::new(), Vec::new());
        for (id, bound) in &state.bound {
            let running = bound.process.filter(|process| self.procs().alive(*process));
            let has = match running {
                Some(process) if bound.since.elapsed() > STARTING => {
                    self.loader.of_process(process.pid).map_err(KernelError::new)?
                }
                _ => Some(bound.name.clone()),
            };
            match state.loaded.get(&bound.name).filter(|_| enforced.contains(&bound.name)) {
                Some(content) if has.as_ref() == Some(&bound.name) => {
                    let digest = content.ruleset.unwrap_or(RulesetDigest::from_bytes(UNKNOWN));
                    armed.insert(id.clone(), digest);
                }
                _ => lost.push(id.clone()),
            }
        }
        Ok((armed, lost))
    }

    /// Says where others ask whether a container has what its policies say: its ruleset may be in force, and not its native
    /// rules.
    pub(super) fn tell(&self, id: &ContainerId, result: &Result<(), KernelError>) {
        if let Err(error) = result {
            tracing::warn!(container = %id, error = chain(error), "its AppArmor profile is not what its policies say");
        }
        if let Some(lacks) = self.lacks.get() {
            lacks(id, result.as_ref().err().map(|error| chain(error)));
        }
    }

    /// What is wrong, and what to do.
    pub(super) fn without(&self, id: &ContainerId, what: &str) -> KernelError {
        let known = self.about.get().and_then(|about| about(id));
        let namespace = known.map_or_else(|| "NAMESPACE".to_owned(), |(namespace, _)| namespace);
        let name = format!("{}NAME", names::prefix(&namespace));
        KernelError::uncovered(format!(
            "{what}; set its `securityContext.appArmorProfile` to `type: Localhost` and `localhostProfile: {name}`, with a NAME \
             of your choice, and the annotation `apparmor.nri-enforcer.io/CONTAINER: {name}` of its pod, and create it again"
        ))
    }
}

impl Kernel for Arc<Profiles> {
    fn arm(&self, target: &Target, ruleset: &Ruleset) -> Result<(), KernelError> {
        let profile = self.profile_of(target)?;
        let process = self.procs().find(target.pid);
        self.bind(&target.id, profile, process, &Arc::new(ruleset.clone()))?;
        // what it lacked when it ran before, under the same id
        self.tell(&target.id, &Ok(()));
        Ok(())
    }

    fn update(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.update_all(&[(id, ruleset)]).pop().unwrap_or(Ok(()))
    }

    fn update_all(&self, updates: &[(&ContainerId, &Ruleset)]) -> Vec<Result<(), KernelError>> {
        let mut state = self.state();
        let mut touched = BTreeSet::new();
        // all that changes is known before a profile is looked at: containers that share one change together
        for (id, ruleset) in updates {
            if let Some(bound) = state.bound.get_mut(*id) {
                bound.want = Some(Arc::new((*ruleset).clone()));
                touched.insert(bound.name.clone());
            }
        }
        drop(state);
        let mut results = BTreeMap::new();
        for name in &touched {
            results.extend(self.bring(name));
        }
        // nobody asks about others that have it; what those asked about lacked before, they do not any more
        let asked: BTreeSet<&ContainerId> = updates.iter().map(|(id, _)| *id).collect();
        let told = results.iter().filter(|(id, result)| result.is_ok() || !asked.contains(*id));
        told.for_each(|(id, result)| self.tell(id, result));
        let missing = || Err(KernelError::new("it has no AppArmor profile of ours"));
        updates.iter().map(|(id, _)| results.remove(*id).unwrap_or_else(missing)).collect()
    }

    fn disarm(&self, id: &ContainerId) -> Result<(), KernelError> {
        // as long as some process has the profile, that stays as strict as it was
        self.release(id);
        Ok(())
    }

    fn armed(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        let mut state = self.state();
        // who has which profile is known still once it denies again; until then arming says so
        let Some(enforced) = self.enforced()? else { return Ok(BTreeMap::new()) };
        state.loaded.retain(|name, _| enforced.contains(name));
        let (armed, lost) = self.standing(&state, &enforced)?;
        for id in lost {
            tracing::error!(container = %id, "it does not have its AppArmor profile any more");
            state.bound.remove(&id);
        }
        Ok(armed)
    }

    fn look(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        let Some(enforced) = self.enforced()? else { return Ok(BTreeMap::new()) };
        self.standing(&self.state(), &enforced).map(|(armed, _)| armed)
    }

    fn lacking(&self, lacks: Lacks) {
        let _once = self.lacks.set(lacks);
    }

    /// Native rules may be others now, which no digest of a ruleset tells.
    fn tend(&self) {
        let names: Vec<ProfileName> = self.state().loaded.keys().cloned().collect();
        for name in &names {
            let results = self.bring(name);
            results.iter().for_each(|(id, result)| self.tell(id, result));
        }
        self.tidy();
    }
}
