//! SELinux in the place of BPF-LSM, for the host's own processes alone: our labels are on the files that its policies are
//! about. See [`enforcer_core::compile::selinux`] for what that can say.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use enforcer_core::compile::selinux::{Labels, compile};
use enforcer_core::coverage::Gap;
use enforcer_core::enforce::host::HostExempt;
use enforcer_core::enforce::selinux::{Selinux, SelinuxError};
use enforcer_core::enforce::{ContainerId, Target};
use enforcer_core::event::Event;
use enforcer_core::ruleset::{Ruleset, RulesetDigest};

use crate::exit::chain;
use crate::kernel::{Kernel, KernelError, Lacks};

/// How long one wait for the end lasts: there are no events.
const POLL: Duration = Duration::from_millis(200);
/// How many files without their label are named.
const NAMED: usize = 5;
/// The digest of what an earlier daemon labelled: no ruleset has it, so it will be replaced.
const UNKNOWN: [u8; 32] = [0; 32];

/// What labels do not say of these rules.
#[must_use]
pub fn gaps(ruleset: &Ruleset) -> Vec<Gap> {
    compile(ruleset).gaps
}

/// The host's labels.
pub struct HostLabels {
    selinux: Selinux,
    state: Mutex<State>, // locked while labels are set, which one thread does
    lacks: OnceLock<Lacks>,
    _lock: File, // no other process sets labels, nor takes them off
}

#[derive(Debug, Default)]
struct State {
    set: Option<(RulesetDigest, Labels)>,
    earlier: bool, // a daemon before this one set labels
    told: Option<String>,
}

impl std::fmt::Debug for HostLabels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostLabels").field("selinux", &self.selinux).finish_non_exhaustive()
    }
}

impl HostLabels {
    /// Has our module in the policy, and finds what an earlier daemon labelled. `record` is where that is noted.
    ///
    /// # Errors
    /// When SELinux does not work here; the error says what to do.
    pub fn open(record: &Path) -> Result<Self, SelinuxError> {
        let selinux = Selinux::open(record)?;
        let lock = Selinux::lock(record)?;
        selinux.install()?;
        let state = State { earlier: Selinux::has_labels(record)?, ..State::default() };
        tracing::info!(
            domain = %selinux.keeper(),
            "only processes of this domain can take labels off files that host policies are about; it should be this daemon's alone"
        );
        Ok(Self { selinux, state: Mutex::new(state), lacks: OnceLock::new(), _lock: lock })
    }

    // after a panic in another thread at worst labels are set again
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: &mut State, digest: RulesetDigest, labels: Labels) -> Result<(), KernelError> {
        let applied = self.selinux.apply(&labels).map_err(KernelError::new)?;
        let before = state.set.as_ref().map(|(digest, _)| *digest);
        state.set = Some((digest, labels));
        if before != Some(digest) {
            tracing::info!(files = applied.files, ruleset = %digest, "files labelled for SELinux");
        }
        self.tell(state, name(&applied.lacks));
        Ok(())
    }

    fn tell(&self, state: &mut State, lacks: Option<String>) {
        if state.told != lacks {
            if let Some(lacks) = &lacks {
                tracing::warn!(lacks, "not all that host policies are about is labelled");
            }
            if let Some(tell) = self.lacks.get() {
                tell(&ContainerId::host(), lacks.clone());
            }
            state.told = lacks;
        }
    }

    fn put(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), KernelError> {
        if *id != ContainerId::host() {
            return Err(KernelError::uncovered("SELinux holds policies on the host's own processes alone"));
        }
        self.set(&mut self.state(), ruleset.digest(), compile(ruleset))
    }
}

/// What lacks its label, for people; `None`: nothing does.
fn name(lacks: &[String]) -> Option<String> {
    let named = lacks.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    match lacks.len().saturating_sub(NAMED) {
        0 if lacks.is_empty() => None,
        0 => Some(format!("not labelled for SELinux: {named}")),
        more => Some(format!("not labelled for SELinux: {named}; and {more} more")),
    }
}

impl Kernel for HostLabels {
    fn arm(&self, target: &Target, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.put(&target.id, ruleset)
    }

    fn update(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.put(id, ruleset)
    }

    fn disarm(&self, id: &ContainerId) -> Result<(), KernelError> {
        if *id != ContainerId::host() {
            return Ok(());
        }
        let mut state = self.state();
        let restored = self.selinux.take_off().map_err(KernelError::new)?;
        if let Some(kept) = name(&restored.kept) {
            return Err(KernelError::new(format!("labels cannot be taken off: {kept}")));
        }
        *state = State::default();
        if restored.gone > 0 {
            tracing::warn!(
                paths = restored.gone,
                "files that had SELinux labels of ours are not where they were; `restorecon -F` restores theirs"
            );
        }
        if let Some(tell) = self.lacks.get() {
            tell(id, None);
        }
        Ok(())
    }

    fn armed(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        // a kernel that only reports, or without our module, holds nothing: arming it says so
        let holds = || Ok(Selinux::enforces()? && self.selinux.in_force()?);
        if !holds().map_err(|error: SelinuxError| KernelError::new(error))? {
            return Ok(BTreeMap::new());
        }
        let state = self.state();
        let unknown = state.earlier.then(|| RulesetDigest::from_bytes(UNKNOWN));
        let digest = state.set.as_ref().map(|(digest, _)| *digest).or(unknown);
        Ok(digest.map(|digest| (ContainerId::host(), digest)).into_iter().collect())
    }

    fn events(&self, go_on: &dyn Fn() -> bool, _: &mut dyn FnMut(Event)) -> Result<(), KernelError> {
        while go_on() {
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn settled(&self) -> Result<(), KernelError> {
        Ok(())
    }

    fn counters(&self) -> Result<Vec<(String, u64)>, KernelError> {
        Ok(Vec::new())
    }

    fn exempt(&self, exempt: &HostExempt) -> Result<Vec<String>, KernelError> {
        tracing::warn!(
            "SELinux holds host policies: NOBODY IS EXEMPT from them, as programs and cgroups are under BPF-LSM"
        );
        Ok(exempt.entries.iter().map(|(one, _)| one.to_string()).collect())
    }

    fn lacking(&self, lacks: Lacks) {
        let _once = self.lacks.set(lacks);
    }

    /// Files are made and moved, which nobody tells.
    fn tend(&self) {
        let mut state = self.state();
        let Some((digest, labels)) = state.set.clone() else { return };
        if let Err(error) = self.set(&mut state, digest, labels) {
            self.tell(&mut state, Some(format!("not labelled for SELinux since: {}", chain(&error))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_its_label_is_named_and_counted() {
        let lacks = |count: usize| name(&(0..count).map(|n| format!("`/{n}`: why")).collect::<Vec<_>>());
        assert_eq!(lacks(0), None);
        assert_eq!(lacks(1).unwrap(), "not labelled for SELinux: `/0`: why");
        assert!(lacks(7).unwrap().ends_with("`/4`: why; and 2 more"));
    }
}
