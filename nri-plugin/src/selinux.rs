//! SELinux in the place of BPF-LSM, for the host's own processes alone: our labels are on the files that its policies are
//! about. See [`enforcer_core::compile::selinux`] for what that can say.
//!
//! Looking for files may take long, so a thread of its own does it ([`Labeller`]): whoever arms or disarms the host is answered at
//! once, and what is not labelled yet is told as a lack.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use enforcer_core::compile::selinux::{Domain, Labels, compile};
use enforcer_core::coverage::Gap;
use enforcer_core::enforce::host::HostExempt;
use enforcer_core::enforce::selinux::{Applied, Noted, Restored, Selinux, SelinuxError};
use enforcer_core::enforce::{ContainerId, Target};
use enforcer_core::ruleset::{Ruleset, RulesetDigest};

use crate::exit::chain;
use crate::kernel::{Kernel, KernelError, Lacks};

/// How many files without their label, and how many domains, are named.
const NAMED: usize = 5;
/// The digest of what an earlier daemon labelled: no ruleset has it, so it will be replaced.
const UNKNOWN: [u8; 32] = [0; 32];
/// How long one step may take before that is told. It goes on: what a file system never answers cannot be ended.
const PATIENCE: Duration = Duration::from_secs(120);
/// What lacks until the files are labelled, the first time.
const BEGUN: &str = "not labelled for SELinux: its files are being looked for";

/// What labels do not say of these rules.
#[must_use]
pub fn gaps(ruleset: &Ruleset) -> Vec<Gap> {
    compile(ruleset).gaps
}

/// Sets labels and takes them off; each may take minutes.
pub trait Labeller: Send + Sync + 'static {
    /// Whether labels deny anything: at once.
    ///
    /// # Errors
    /// [`SelinuxError::Permissive`] and [`SelinuxError::NotInForce`] where they do not; else it is not known.
    fn holds(&self) -> Result<(), SelinuxError>;

    /// See [`Selinux::apply`].
    ///
    /// # Errors
    /// As there.
    fn apply(&self, labels: &Labels) -> Result<Applied, SelinuxError>;

    /// See [`Selinux::take_off`].
    ///
    /// # Errors
    /// As there.
    fn take_off(&self) -> Result<Restored, SelinuxError>;
}

impl Labeller for Selinux {
    fn holds(&self) -> Result<(), SelinuxError> {
        match (Self::enforces()?, self.in_force()?) {
            (false, _) => Err(SelinuxError::Permissive),
            (true, false) => Err(SelinuxError::NotInForce),
            (true, true) => Ok(()),
        }
    }

    fn apply(&self, labels: &Labels) -> Result<Applied, SelinuxError> {
        self.apply(labels)
    }

    fn take_off(&self) -> Result<Restored, SelinuxError> {
        self.take_off()
    }
}

/// The host's labels.
pub struct HostLabels<L = Selinux> {
    shared: Arc<Shared<L>>,
}

/// What the thread that sets labels shares.
struct Shared<L> {
    labeller: L,
    state: Mutex<State>, // never locked while labels are set
    changed: Condvar,
    lacks: OnceLock<Lacks>,
    _lock: Option<File>, // no other process sets labels, nor takes them off; None in tests
}

/// What the thread is to do.
#[derive(Debug, Clone)]
enum Job {
    Set(RulesetDigest, Arc<Labels>),
    TakeOff,
}

#[derive(Debug, Default)]
struct State {
    set: Option<(RulesetDigest, Arc<Labels>)>,
    earlier: bool,                           // a daemon before this one set labels
    next: Option<Job>,                       // a later one takes its place
    at_work: Option<(Job, Instant)>,         // since when
    failed: Option<(RulesetDigest, String)>, // what was tried last in vain, and why
    told: Option<String>,
    noted: Option<Arc<Noted>>,
    ended: bool,
}

impl State {
    /// What is to come of all that is asked for.
    fn wanted(&self) -> Option<&Job> {
        self.next.as_ref().or(self.at_work.as_ref().map(|(job, _)| job))
    }

    /// Why this ruleset was tried in vain; `None`: it was not, or has been set since.
    fn failure(&self, of: RulesetDigest) -> Option<&String> {
        self.failed.as_ref().filter(|(digest, _)| *digest == of).map(|(_, why)| why)
    }
}

impl<L> std::fmt::Debug for HostLabels<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostLabels").finish_non_exhaustive()
    }
}

impl<L> Drop for HostLabels<L> {
    /// The thread ends after what it is at; labels stay.
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.changed.notify_all();
    }
}

impl HostLabels {
    /// Has our module in the policy, and finds what an earlier daemon labelled. `record` is where that is noted; `own` is
    /// what this daemon must be able to change, such as policies that are to be taken back.
    ///
    /// # Errors
    /// When SELinux does not work here; the error says what to do.
    pub fn open(record: &Path, own: Vec<PathBuf>) -> Result<Self, SelinuxError> {
        let selinux = Selinux::open(record)?.sparing(own);
        let lock = Selinux::lock(record)?;
        selinux.install()?;
        let earlier = Selinux::has_labels(record)?;
        tracing::info!(
            domain = %selinux.keeper(),
            "only processes of this domain can take labels off files that host policies are about; it should be this daemon's alone"
        );
        let begun = Self::with(selinux, Some(lock), earlier);
        begun.map_err(|source| SelinuxError::Io { what: "begin a thread".to_owned(), source })
    }
}

impl<L: Labeller> HostLabels<L> {
    fn with(labeller: L, lock: Option<File>, earlier: bool) -> io::Result<Self> {
        let state = Mutex::new(State { earlier, ..State::default() });
        let (changed, lacks) = (Condvar::new(), OnceLock::new());
        let shared = Arc::new(Shared { labeller, state, changed, lacks, _lock: lock });
        let of_thread = Arc::clone(&shared);
        thread::Builder::new().name("selinux labels".to_owned()).spawn(move || of_thread.work())?;
        Ok(Self { shared })
    }

    fn put(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), KernelError> {
        if *id != ContainerId::host() {
            return Err(KernelError::uncovered("SELinux holds policies on the host's own processes alone"));
        }
        self.shared.labeller.holds().map_err(KernelError::new)?;
        let digest = ruleset.digest();
        let mut state = self.shared.state();
        if !matches!(state.wanted(), Some(Job::Set(wanted, _)) if *wanted == digest) {
            state.next = Some(Job::Set(digest, Arc::new(compile(ruleset))));
            self.shared.changed.notify_all();
        }
        if state.told.is_none() {
            self.shared.tell(&mut state, Some(BEGUN.to_owned()));
        }
        match state.failure(digest) {
            // it is tried again, and until that works nobody is to take it for armed
            Some(why) => Err(KernelError::new(why.clone())),
            None => Ok(()),
        }
    }
}

impl<L> Shared<L> {
    // after a panic in another thread at worst labels are set again
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &mut State, lacks: Option<String>) {
        if state.told != lacks {
            match lacks.as_deref() {
                None | Some(BEGUN) => {}
                Some(lacks) => tracing::warn!(lacks, "not all that host policies are about is held"),
            }
            if let Some(tell) = self.lacks.get() {
                tell(&ContainerId::host(), lacks.clone());
            }
            state.told = lacks;
        }
    }
}

impl<L: Labeller> Shared<L> {
    /// Does what is asked for, one after another, until the daemon's end.
    fn work(&self) {
        let mut state = self.state();
        loop {
            if state.ended {
                return;
            }
            let Some(job) = state.next.take() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.at_work = Some((job.clone(), Instant::now()));
            drop(state);
            state = match job {
                Job::Set(digest, labels) => self.set(digest, labels),
                Job::TakeOff => self.take_off(),
            };
            state.at_work = None;
        }
    }

    fn set(&self, digest: RulesetDigest, labels: Arc<Labels>) -> MutexGuard<'_, State> {
        let applied = self.labeller.apply(&labels);
        let mut state = self.state();
        match applied {
            Ok(applied) => {
                let before = state.set.as_ref().map(|(digest, _)| *digest);
                (state.set, state.noted) = (Some((digest, labels)), Some(Arc::clone(&applied.noted)));
                if state.failure(digest).is_some() {
                    state.failed = None;
                }
                if before != Some(digest) {
                    tracing::info!(files = applied.files, ruleset = %digest, "files labelled for SELinux");
                }
                // with others to come it is not armed yet
                if state.next.is_none() {
                    self.tell(&mut state, name(&applied));
                }
            }
            Err(error) => {
                let why = format!("not labelled for SELinux since: {}", chain(&error));
                state.failed = Some((digest, why.clone()));
                self.tell(&mut state, Some(why));
            }
        }
        state
    }

    fn take_off(&self) -> MutexGuard<'_, State> {
        let restored = self.labeller.take_off();
        let mut state = self.state();
        let why = match restored {
            Ok(Restored { kept, .. }) if !kept.is_empty() => joined(&kept),
            Err(error) => chain(&error),
            Ok(Restored { gone, .. }) => {
                (state.set, state.earlier, state.failed, state.noted) = (None, false, None, None);
                if gone > 0 {
                    tracing::warn!(
                        files = gone,
                        "files that had SELinux labels of ours are not where they were; `restorecon -F` restores theirs"
                    );
                }
                // with others to come it is not armed yet
                if state.next.is_none() {
                    self.tell(&mut state, None);
                }
                return state;
            }
        };
        // some of it is still in force, as `armed` says, and the next sweep tries again; nobody sets it anew meanwhile
        (state.set, state.earlier) = (None, true);
        self.tell(&mut state, Some(format!("labels cannot be taken off: {why}")));
        state
    }
}

/// What lacks its label, and who is denied nothing, for people; `None`: nothing lacks.
fn name(applied: &Applied) -> Option<String> {
    let refused: Vec<String> = applied.refused.iter().map(ToString::to_string).collect();
    let refused = (!refused.is_empty()).then(|| joined(&refused));
    let lacks = &applied.lacks;
    let lacks = (!lacks.is_empty()).then(|| format!("not labelled for SELinux: {}", joined(lacks)));
    let permissive = (!applied.permissive.is_empty()).then(|| denied_nothing(&applied.permissive));
    let all: Vec<String> = permissive.into_iter().chain(refused).chain(lacks).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Whose processes are denied nothing.
pub(crate) fn denied_nothing(permissive: &[Domain]) -> String {
    let domains: Vec<String> = permissive.iter().map(ToString::to_string).collect();
    format!("processes of permissive domains are denied nothing: {}", joined(&domains))
}

fn joined(all: &[String]) -> String {
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}

impl<L: Labeller> HostLabels<L> {
    /// Has the files looked for again, or tells that whoever does so has not come back for longer than `patience`.
    fn tend_within(&self, patience: Duration) {
        let mut state = self.shared.state();
        if state.at_work.as_ref().is_some_and(|(_, since)| since.elapsed() >= patience) {
            let lacks = format!(
                "SELinux labels: looking for files has taken more than {} s; one does not answer, or it has failed, \
                 as the log says then",
                patience.as_secs()
            );
            return self.shared.tell(&mut state, Some(lacks));
        }
        if state.wanted().is_none() {
            state.next = state.set.clone().map(|(digest, labels)| Job::Set(digest, labels));
            self.shared.changed.notify_all();
        }
    }
}

impl<L: Labeller> Kernel for HostLabels<L> {
    /// Labels are on their way when this returns; until they are set that is told as a lack.
    fn arm(&self, target: &Target, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.put(&target.id, ruleset)
    }

    fn update(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.put(id, ruleset)
    }

    /// Labels are on their way off when this returns; what stays is told.
    fn disarm(&self, id: &ContainerId) -> Result<(), KernelError> {
        if *id == ContainerId::host() {
            self.shared.state().next = Some(Job::TakeOff);
            self.shared.changed.notify_all();
        }
        Ok(())
    }

    /// What is asked for counts: what of it is not done is told as a lack.
    fn armed(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        // a kernel that only reports, or without our module, holds nothing: arming it says so
        match self.shared.labeller.holds() {
            Ok(()) => {}
            Err(SelinuxError::Permissive | SelinuxError::NotInForce) => return Ok(BTreeMap::new()),
            Err(error) => return Err(KernelError::new(error)),
        }
        let state = self.shared.state();
        let digest = match state.wanted() {
            Some(Job::Set(digest, _)) if state.failure(*digest).is_none() => Some(*digest),
            Some(Job::TakeOff) => None,
            // what failed before counts once it is done
            Some(Job::Set(..)) | None => {
                let unknown = state.earlier.then(|| RulesetDigest::from_bytes(UNKNOWN));
                state.set.as_ref().map(|(digest, _)| *digest).or(unknown)
            }
        };
        Ok(digest.map(|digest| (ContainerId::host(), digest)).into_iter().collect())
    }

    fn exempt(&self, exempt: &HostExempt) -> Result<Vec<String>, KernelError> {
        tracing::warn!(
            "SELinux holds host policies: NOBODY IS EXEMPT from them, as programs and cgroups are under BPF-LSM"
        );
        Ok(exempt.entries.iter().map(|(one, _)| one.to_string()).collect())
    }

    fn lacking(&self, lacks: Lacks) {
        let _once = self.shared.lacks.set(lacks);
    }

    fn noted(&self) -> Option<Arc<Noted>> {
        self.shared.state().noted.clone()
    }

    /// Files are made and moved, which nobody tells.
    fn tend(&self) {
        self.tend_within(PATIENCE);
    }
}

#[cfg(test)]
mod tests;
