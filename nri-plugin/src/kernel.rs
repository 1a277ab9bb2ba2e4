//! What the daemon needs of the kernel, so that its logic can be tested without one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use enforcer_core::enforce::host::HostExempt;
use enforcer_core::enforce::selinux::{Noted, RECORD};
use enforcer_core::enforce::{ContainerId, Enforcer, Measuring, Occupancy, Options, ProgramCost, Target};
use enforcer_core::event::Event;
use enforcer_core::host;
use enforcer_core::ruleset::{Ruleset, RulesetDigest};

use crate::apparmor::Profiles;
use crate::config::Config;
use crate::exit::chain;
use crate::lock::unsupported::{self, Securityfs};
use crate::selinux::HostLabels;

/// Rulesets of containers, in force. [`Enforcer`] is the real one; every call may block for
/// as long as system calls take.
pub trait Kernel: Send + Sync + 'static {
    /// Puts a ruleset in force for a container, and reads it back, also for the process that is named. A container that
    /// had none has none after an error.
    ///
    /// # Errors
    /// On any doubt that the ruleset is in force.
    fn arm(&self, target: &Target, ruleset: &Ruleset) -> Result<(), KernelError>;

    /// Replaces the ruleset of an armed container. After an error the one before is still in force.
    ///
    /// # Errors
    /// On any doubt that the ruleset is in force.
    fn update(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), KernelError>;

    /// The same for many containers, each by itself, in their order.
    fn update_all(&self, updates: &[(&ContainerId, &Ruleset)]) -> Vec<Result<(), KernelError>> {
        updates.iter().map(|(id, ruleset)| self.update(id, ruleset)).collect()
    }

    /// Takes a container's ruleset out of force; one that has none is fine.
    ///
    /// # Errors
    /// When the ruleset may still be in force.
    fn disarm(&self, id: &ContainerId) -> Result<(), KernelError>;

    /// What is in force, also what an earlier daemon armed.
    ///
    /// # Errors
    /// When the maps cannot be read.
    fn armed(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError>;

    /// The same, by whoever only looks, on any thread: nothing is let go for it, and nothing told.
    ///
    /// # Errors
    /// As [`armed`](Self::armed).
    fn look(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        self.armed()
    }

    /// Whether tasks of an armed container live, wherever they went; with `pid`, whether that process is one of them. `None`:
    /// the lock does not know that of tasks.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    fn lives(&self, _id: &ContainerId, _pid: Option<i32>) -> Result<Option<bool>, KernelError> {
        Ok(None)
    }

    /// Hands each event to `sink`, on this thread, as long as `go_on` says so, which is asked several times a second. Where
    /// nothing is said, there are none.
    ///
    /// # Errors
    /// When events cannot be read, or not any more.
    fn events(&self, go_on: &dyn Fn() -> bool, _: &mut dyn FnMut(Event)) -> Result<(), KernelError> {
        while go_on() {
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Told once everything that runs is armed: what daemons of other versions left in force may go.
    ///
    /// # Errors
    /// When it is still in force.
    fn settled(&self) -> Result<(), KernelError> {
        Ok(())
    }

    /// What the programs counted since they were loaded: drops and failures, by place.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn counters(&self) -> Result<Vec<(String, u64)>, KernelError> {
        Ok(Vec::new())
    }

    /// How full the maps are; `None`: there are none.
    fn occupancy(&self) -> Option<Occupancy> {
        None
    }

    /// Has the kernel measure what programs cost, as long as what is returned lives; `None`: there are no programs.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn measure(&self) -> Result<Option<Measuring>, KernelError> {
        Ok(None)
    }

    /// What each program has cost while that was measured.
    fn costs(&self) -> Vec<ProgramCost> {
        Vec::new()
    }

    /// Told who is left alone when the host is armed, before that; what of it is not on this host.
    ///
    /// # Errors
    /// When the host cannot be armed here.
    fn exempt(&self, _: &HostExempt) -> Result<Vec<String>, KernelError> {
        Err(KernelError::new("only BPF-LSM and SELinux enforce policies on the host's own processes"))
    }

    /// Told where to say what of its rules a container lacks that has the others.
    fn lacking(&self, _: Lacks) {}

    /// Whether an armed container waits for its first process to execute something, before which nothing is judged. Of one
    /// that runs that means that it was armed too late. What cannot be told is `false`.
    fn has_not_begun(&self, _: &ContainerId, _pid: i32) -> bool {
        false
    }

    /// Files with SELinux labels, as they were when these were set; `None`: there are none, or not yet.
    fn noted(&self) -> Option<Arc<Noted>> {
        None
    }

    /// Told now and then, and after each change of the policies: for what no digest of a ruleset tells.
    fn tend(&self) {}
}

/// Called with what of its rules a container lacks, and why; `None`: nothing.
pub type Lacks = Box<dyn Fn(&ContainerId, Option<String>) + Send + Sync>;

/// What the kernel side said, opaque: the daemon passes it on to people, and decides nothing by it but whether the
/// container is to be refused.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct KernelError {
    source: Box<dyn std::error::Error + Send + Sync>,
    uncovered: bool,
}

impl KernelError {
    /// Wraps an error of a [`Kernel`].
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: error.into(), uncovered: false }
    }

    /// The container is not one that can have its rules, as it was created: nothing has failed. That is a gap.
    #[must_use]
    pub fn uncovered(why: impl Into<String>) -> Self {
        Self { source: why.into().into(), uncovered: true }
    }

    /// Whether it is such a gap.
    #[must_use]
    pub const fn is_uncovered(&self) -> bool {
        self.uncovered
    }
}

/// Why there is no lock.
#[derive(Debug)]
pub enum Unopened {
    /// This host has not what it takes. Another one may take its place.
    Unsupported(anyhow::Error),
    /// It has, and something failed, which may pass: nothing weaker takes its place.
    Failed(anyhow::Error),
}

/// The real one, for this configuration.
///
/// # Errors
/// When the kernel cannot enforce, or another daemon does; the text says what to do.
pub fn open(config: &Config) -> Result<Enforcer, Unopened> {
    let mut options = Options::default();
    options.bpffs.clone_from(&config.bpffs);
    Enforcer::open(&options).map_err(|error| {
        let lacking = unsupported::bpf(&error, Securityfs::of_this_host(), host::probe);
        let told = anyhow::Error::new(error)
            .context("cannot enforce on this host (`nri-enforcer probe` shows what it lacks)");
        if lacking { Unopened::Unsupported(told) } else { Unopened::Failed(told) }
    })
}

/// AppArmor's profiles of this host.
///
/// # Errors
/// When profiles cannot be loaded here; the text says what to do.
pub fn open_apparmor() -> Result<Profiles, Unopened> {
    Profiles::open().map_err(|error| match unsupported::apparmor(&error, Securityfs::of_this_host()) {
        true => Unopened::Unsupported(error.into()),
        false => Unopened::Failed(error.into()),
    })
}

/// SELinux labels on this host's files, but for those of this daemon.
///
/// # Errors
/// When they cannot be set here, or nothing is denied by them; the text says what to do.
pub fn open_selinux(config: &Config) -> Result<Box<dyn Kernel>, Unopened> {
    match HostLabels::open(RECORD.as_ref(), config.own_files()) {
        Ok(labels) => Ok(Box::new(labels)),
        Err(error) if unsupported::selinux(&error) => Err(Unopened::Unsupported(error.into())),
        Err(error) => Err(Unopened::Failed(error.into())),
    }
}

/// Whichever there is.
impl Kernel for Box<dyn Kernel> {
    fn arm(&self, target: &Target, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.as_ref().arm(target, ruleset)
    }

    fn update(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.as_ref().update(id, ruleset)
    }

    fn update_all(&self, updates: &[(&ContainerId, &Ruleset)]) -> Vec<Result<(), KernelError>> {
        self.as_ref().update_all(updates)
    }

    fn disarm(&self, id: &ContainerId) -> Result<(), KernelError> {
        self.as_ref().disarm(id)
    }

    fn armed(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        self.as_ref().armed()
    }

    fn look(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        self.as_ref().look()
    }

    fn lives(&self, id: &ContainerId, pid: Option<i32>) -> Result<Option<bool>, KernelError> {
        self.as_ref().lives(id, pid)
    }

    fn events(&self, go_on: &dyn Fn() -> bool, sink: &mut dyn FnMut(Event)) -> Result<(), KernelError> {
        self.as_ref().events(go_on, sink)
    }

    fn settled(&self) -> Result<(), KernelError> {
        self.as_ref().settled()
    }

    fn counters(&self) -> Result<Vec<(String, u64)>, KernelError> {
        self.as_ref().counters()
    }

    fn occupancy(&self) -> Option<Occupancy> {
        self.as_ref().occupancy()
    }

    fn measure(&self) -> Result<Option<Measuring>, KernelError> {
        self.as_ref().measure()
    }

    fn costs(&self) -> Vec<ProgramCost> {
        self.as_ref().costs()
    }

    fn exempt(&self, exempt: &HostExempt) -> Result<Vec<String>, KernelError> {
        self.as_ref().exempt(exempt)
    }

    fn lacking(&self, lacks: Lacks) {
        self.as_ref().lacking(lacks);
    }

    fn has_not_begun(&self, id: &ContainerId, pid: i32) -> bool {
        self.as_ref().has_not_begun(id, pid)
    }

    fn noted(&self) -> Option<Arc<Noted>> {
        self.as_ref().noted()
    }

    fn tend(&self) {
        self.as_ref().tend();
    }
}

/// How long one wait for events lasts at most, and so how late the end of the daemon is noticed.
const POLL: Duration = Duration::from_millis(200);

impl Kernel for Enforcer {
    fn arm(&self, target: &Target, ruleset: &Ruleset) -> Result<(), KernelError> {
        let armed = self.arm(target, ruleset).map_err(KernelError::new)?;
        if armed.ruleset == ruleset.digest() {
            return Ok(());
        }
        Err(KernelError::new(format!(
            "ruleset {} is in force instead of {}",
            armed.ruleset,
            ruleset.digest()
        )))
    }

    fn update(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.update(id, ruleset).map_err(KernelError::new)
    }

    fn update_all(&self, updates: &[(&ContainerId, &Ruleset)]) -> Vec<Result<(), KernelError>> {
        self.update_all(updates).into_iter().map(|result| result.map_err(KernelError::new)).collect()
    }

    fn disarm(&self, id: &ContainerId) -> Result<(), KernelError> {
        self.disarm(id).map_err(KernelError::new)
    }

    fn armed(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        let armed = self.armed().map_err(KernelError::new)?;
        // armed with a ruleset that cannot be told: no ruleset has this digest, so it will be replaced
        let unknown = RulesetDigest::from_bytes([0; 32]);
        Ok(armed.into_iter().map(|one| (one.id, one.ruleset.unwrap_or(unknown))).collect())
    }

    fn lives(&self, id: &ContainerId, pid: Option<i32>) -> Result<Option<bool>, KernelError> {
        self.lives(id, pid).map(Some).map_err(KernelError::new)
    }

    fn events(&self, go_on: &dyn Fn() -> bool, sink: &mut dyn FnMut(Event)) -> Result<(), KernelError> {
        let mut stream = self.events().map_err(KernelError::new)?;
        let mut undecodable = 0;
        while go_on() {
            stream.poll(POLL, &mut *sink).map_err(KernelError::new)?;
            if stream.undecodable() > undecodable {
                undecodable = stream.undecodable();
                tracing::warn!(total = undecodable, "events that cannot be decoded");
            }
        }
        Ok(())
    }

    fn settled(&self) -> Result<(), KernelError> {
        let retired = self.retire_others().map_err(KernelError::new)?;
        if retired > 0 {
            tracing::info!(retired, "took programs of another version out of the kernel");
        }
        Ok(())
    }

    fn counters(&self) -> Result<Vec<(String, u64)>, KernelError> {
        self.counters().map_err(KernelError::new)
    }

    fn occupancy(&self) -> Option<Occupancy> {
        Some(self.occupancy())
    }

    fn measure(&self) -> Result<Option<Measuring>, KernelError> {
        Measuring::begin().map(Some).map_err(KernelError::new)
    }

    fn costs(&self) -> Vec<ProgramCost> {
        self.costs()
    }

    fn exempt(&self, exempt: &HostExempt) -> Result<Vec<String>, KernelError> {
        self.exempt(exempt).map_err(KernelError::new)
    }

    fn has_not_begun(&self, id: &ContainerId, pid: i32) -> bool {
        self.has_not_begun(id, pid).unwrap_or_else(|error| {
            tracing::warn!(container = %id, error = chain(&error), "whether it has begun is not known");
            false
        })
    }

    fn tend(&self) {
        // programs are replaced, cgroups come
        if let Err(error) = self.exempt_again() {
            tracing::warn!(
                error = chain(&error),
                "who of the host's processes is exempt is not looked for again"
            );
        }
    }
}

/// No kernel side: nothing is loaded, and nothing can be armed. For nodes that enforce seccomp policies alone, or nothing.
#[derive(Debug, Clone, Copy)]
pub struct Absent;

impl Kernel for Absent {
    fn arm(&self, _: &Target, _: &Ruleset) -> Result<(), KernelError> {
        Err(KernelError::new("this node enforces nothing but seccomp policies"))
    }

    fn update(&self, _: &ContainerId, _: &Ruleset) -> Result<(), KernelError> {
        Err(KernelError::new("this node enforces nothing but seccomp policies"))
    }

    fn disarm(&self, _: &ContainerId) -> Result<(), KernelError> {
        Ok(())
    }

    fn armed(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        Ok(BTreeMap::new())
    }
}

#[cfg(test)]
pub(crate) mod recording;
