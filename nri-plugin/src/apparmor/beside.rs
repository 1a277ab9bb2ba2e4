//! BPF-LSM, and beside it AppArmor for what BPF-LSM cannot take: native rules.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use enforcer_core::enforce::host::HostExempt;
use enforcer_core::enforce::{ContainerId, Measuring, Occupancy, ProgramCost, Stage, Target};
use enforcer_core::event::Event;
use enforcer_core::ruleset::{Ruleset, RulesetDigest};

use super::{Profiles, nothing};
use crate::exit::chain;
use crate::kernel::{Kernel, KernelError, Lacks};

/// Both locks.
pub struct Beside<K> {
    first: K,
    profiles: Arc<Profiles>,
    lacks: OnceLock<Lacks>,
    strict: bool,
}

impl<K> std::fmt::Debug for Beside<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Beside").field("profiles", &self.profiles).finish_non_exhaustive()
    }
}

impl<K> Beside<K> {
    /// `first` for all that it can take, `profiles` for native rules. `strict`: who has such rules and no profile is
    /// refused.
    #[must_use]
    pub fn new(first: K, profiles: Arc<Profiles>, strict: bool) -> Self {
        Self { first, profiles, lacks: OnceLock::new(), strict }
    }
}

impl<K: Kernel> Beside<K> {
    /// Puts the native rules of a container in force; it has none, or a profile of ours.
    fn natives(&self, target: &Target) -> Result<(), KernelError> {
        let wanted = !self.profiles.natives(&target.id).is_empty();
        // others that have its profile may have been told of since, and want native rules
        self.profiles.want_nothing();
        let result = match self.profiles.profile_of(target) {
            Ok(profile) => {
                let process = self.profiles.procs().find(target.pid);
                self.profiles.bind(&target.id, profile, process, &nothing())
            }
            Err(error) => Err(error),
        };
        let result = if wanted { result } else { Ok(()) };
        self.tell(&target.id, result.as_ref().err());
        result
    }

    fn tell(&self, id: &ContainerId, error: Option<&KernelError>) {
        if let Some(lacks) = self.lacks.get() {
            lacks(id, error.map(|error| format!("native AppArmor rules are not in force: {}", chain(error))));
        }
    }
}

impl<K: Kernel> Kernel for Beside<K> {
    fn arm(&self, target: &Target, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.first.arm(target, ruleset)?;
        if target.id.is_host() {
            return Ok(());
        }
        match self.natives(target) {
            Ok(()) => Ok(()),
            // what runs already would be without any rule; what lacks is told, and tried again by the next sweep
            Err(error) if target.stage != Stage::Running && (self.strict || !error.is_uncovered()) => {
                self.first.disarm(&target.id)?;
                Err(error)
            }
            Err(error) => {
                tracing::warn!(container = %target.id, error = chain(&error), "native AppArmor rules are not in force");
                Ok(())
            }
        }
    }

    fn update(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.first.update(id, ruleset)
    }

    fn update_all(&self, updates: &[(&ContainerId, &Ruleset)]) -> Vec<Result<(), KernelError>> {
        self.first.update_all(updates)
    }

    fn disarm(&self, id: &ContainerId) -> Result<(), KernelError> {
        self.profiles.release(id);
        self.first.disarm(id)
    }

    fn armed(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        // looks whether processes have their profiles
        if let Err(error) = self.profiles.armed() {
            tracing::warn!(error = chain(&error), "who has AppArmor profiles is not known");
        }
        self.first.armed()
    }

    fn look(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        self.first.look()
    }

    fn lives(&self, id: &ContainerId, pid: Option<i32>) -> Result<Option<bool>, KernelError> {
        self.first.lives(id, pid)
    }

    fn events(&self, go_on: &dyn Fn() -> bool, sink: &mut dyn FnMut(Event)) -> Result<(), KernelError> {
        self.first.events(go_on, sink)
    }

    fn measure(&self) -> Result<Option<Measuring>, KernelError> {
        self.first.measure()
    }

    fn costs(&self) -> Vec<ProgramCost> {
        self.first.costs()
    }

    fn occupancy(&self) -> Option<Occupancy> {
        self.first.occupancy()
    }

    fn settled(&self) -> Result<(), KernelError> {
        self.first.settled()
    }

    fn counters(&self) -> Result<Vec<(String, u64)>, KernelError> {
        self.first.counters()
    }

    fn has_not_begun(&self, id: &ContainerId, pid: i32) -> bool {
        self.first.has_not_begun(id, pid)
    }

    fn exempt(&self, exempt: &HostExempt) -> Result<Vec<String>, KernelError> {
        self.first.exempt(exempt)
    }

    fn lacking(&self, lacks: Lacks) {
        let _once = self.lacks.set(lacks);
    }

    fn tend(&self) {
        self.first.tend();
        self.profiles.want_nothing();
        self.profiles.forget_over();
        self.profiles.tend();
        let armed = match self.first.armed() {
            Ok(armed) => armed,
            Err(error) => {
                tracing::warn!(error = chain(&error), "who lacks native AppArmor rules is not known");
                return;
            }
        };
        for id in armed.keys() {
            let wanted = !self.profiles.natives(id).is_empty();
            let result = if wanted { self.profiles.check(id) } else { Ok(()) };
            self.tell(id, result.err().as_ref());
        }
    }
}
