//! What the gate does for podman, whose containers no NRI tells about: it finds out by podman's files who asks, and at
//! `precreate` says what is to be changed in the configuration. When the daemon starts, these files tell what runs already.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use enforcer_core::enforce::ContainerId;
use enforcer_core::seccomp::oci::LinuxSeccomp;
use nri_enforcer_hook::message::{Answer, Request};
use nri_enforcer_hook::spec::{Adjustment, CRUN_HANDLERS};
use nri_enforcer_hook::state::{PODMAN_NAMESPACE, Stage};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_blocking;

use super::strangers::Strangers;
use crate::container::{AWAIT_ADVICE, Container, Selection, Wish};
use crate::exit::chain;
use crate::kernel::Kernel;
use crate::order::{Order, Running};
use crate::podman::{Living, Podman};
use crate::procs::{Process, Procs};
use crate::registry::Registry;
use crate::seccomp::Seccomp;
use crate::set::PolicySet;

/// The AppArmor profile that a container is to have, which is loaded; `None`: what podman gives it. An error refuses it.
pub type Apparmor = Box<dyn Fn(&PolicySet, &Container) -> Result<Option<String>, String> + Send + Sync>;

/// What the gate needs for podman. All of it may block, as long as the disk does.
pub struct PodmanGate {
    podman: Podman,
    selection: Selection,
    pub(super) reading: Arc<Semaphore>, // one place
    policies: watch::Receiver<Arc<PolicySet>>,
    registry: Arc<Registry>,
    seccomp: Arc<Seccomp>,
    apparmor: Apparmor,
    strangers: Arc<Strangers>,
}

impl std::fmt::Debug for PodmanGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodmanGate").field("podman", &self.podman).finish_non_exhaustive()
    }
}

/// What runs of podman's.
#[derive(Debug, Default)]
pub struct Listing {
    /// Those of which it is known who they are.
    pub running: Vec<Running>,
    /// Those that may run, and why it is not known who they are, or whether they do.
    pub unknown: BTreeMap<ContainerId, String>,
    /// Of some it could not be read whether podman has noted that they run.
    pub unread: bool,
}

/// Who asks, or what to answer when that need not or cannot be known.
pub(super) type Known = Result<Arc<Container>, Answer>;

impl PodmanGate {
    /// For containers of this podman.
    #[must_use]
    pub fn new(
        podman: Podman,
        selection: Selection,
        policies: watch::Receiver<Arc<PolicySet>>,
        registry: Arc<Registry>,
        seccomp: Arc<Seccomp>,
        apparmor: Apparmor,
        strangers: Arc<Strangers>,
    ) -> Self {
        Self {
            podman,
            selection,
            reading: Arc::new(Semaphore::new(1)),
            policies,
            registry,
            seccomp,
            apparmor,
            strangers,
        }
    }

    /// Who may run and is not known.
    #[must_use]
    pub fn strangers(&self) -> &Strangers {
        &self.strangers
    }

    /// Finds in podman's files, each time after `every`, what runs and was not known, or is restored from a checkpoint, for
    /// which crun runs no hooks; and has it taken over. Looks only where the files have changed or somebody is not known. Never
    /// ends.
    pub async fn look_on(
        self: Arc<Self>,
        kernel: Arc<impl Kernel>,
        procs: Procs,
        orders: Sender<Order>,
        every: Duration,
    ) {
        let (mut seen, mut told) = (None, String::new());
        loop {
            tokio::time::sleep(every).await;
            let (podman, kernel, procs) = (Arc::clone(&self), Arc::clone(&kernel), procs.clone());
            let last = seen.take();
            let looking = spawn_blocking(move || {
                let now = podman.podman.changed();
                if podman.strangers.living().is_empty() && last.as_ref() == Some(&now) {
                    return Ok((Listing::default(), now));
                }
                let runtime = Handle::current();
                let turn = || runtime.block_on(Arc::clone(&podman.reading).acquire_owned()).ok();
                // one that podman has only made has not begun, for good reason; the hook tells of it
                let wanted = |id: &ContainerId, process: Option<Process>, begun: bool| {
                    begun && process.is_some() && podman.registry.process(id) != process
                };
                let listing = podman.list(kernel.as_ref(), &procs, &wanted, &turn)?;
                podman.note(&listing.running);
                podman.strangers.listed(listing.unknown.clone());
                Ok::<_, String>((listing, now))
            });
            match looking.await.unwrap_or_else(|error| Err(chain(&error))) {
                Ok((Listing { running, unknown, unread }, now)) => {
                    let ids: Vec<_> = running.iter().map(|one| (one.container.id.clone(), one.pid)).collect();
                    if !running.is_empty() {
                        let _ending = orders.send(Order::Identified(running));
                    }
                    ids.iter().for_each(|(id, pid)| self.strangers.told(id, *pid));
                    seen = Some(now).filter(|_| unknown.is_empty() && !unread);
                    told.clear();
                }
                Err(why) if why != told => {
                    tracing::error!(why, "what runs of podman's is not known; will try on");
                    told = why;
                }
                Err(_) => {}
            }
        }
    }

    /// Notes what those were created with of which that is not known, and compares it with the policies.
    fn note(&self, running: &[Running]) {
        let ledger = self.registry.seccomp();
        let new: Vec<_> = running.iter().filter(|one| ledger.created(&one.container.id).is_none()).collect();
        new.iter().for_each(|one| ledger.put_apart(Arc::clone(&one.container), one.created.clone()));
        if !new.is_empty() {
            self.seccomp.refresh(&Arc::clone(&self.policies.borrow()), false);
        }
    }

    /// It cannot be told who asks, and it may start, where no policy reaches it or the hook's mode is `open`.
    pub(super) fn not_known(&self, request: &Request, why: &str) {
        if let (Stage::CreateRuntime, Ok(id)) = (request.stage, ContainerId::new(request.id.clone())) {
            self.strangers.asked(&id, request.pid, why);
        }
    }

    /// Tells who the containers of podman's are that an earlier daemon armed: nobody else does. For each it takes its turn
    /// to read podman's files, as callers do: none of them waits for more than one of these.
    pub async fn find_armed(self: Arc<Self>, kernel: Arc<impl Kernel>, orders: Sender<Order>) {
        let unknown = |why: String| tracing::error!(why, "podman's containers that are armed stay unknown");
        let armed = match spawn_blocking(move || kernel.look()).await {
            Ok(Ok(armed)) => armed,
            Ok(Err(error)) => return unknown(chain(&error)),
            Err(error) => return unknown(chain(&error)),
        };
        for id in armed.into_keys().filter(|id| !id.is_host()) {
            let Ok(turn) = Arc::clone(&self.reading).acquire_owned().await else { return };
            let podmans = Arc::clone(&self);
            let found = spawn_blocking(move || {
                let found = podmans.podman.living(&id);
                drop(turn);
                found
            });
            match found.await {
                Ok(Some(Living { container, pid, started })) => {
                    let _ending = orders.send(Order::Found { container: Arc::new(container), pid, started });
                }
                Ok(None) => {}
                Err(error) => unknown(chain(&error)),
            }
        }
    }

    /// What runs of podman's: for a node on which no runtime tells. Reads podman's files, and some of `/proc`.
    ///
    /// # Errors
    /// When it is not known what there is; for people.
    pub fn running(&self, kernel: &impl Kernel, procs: &Procs) -> Result<Listing, String> {
        self.list(kernel, procs, &|_, _, _| true, &|| None)
    }

    /// The same of those that are `wanted`, by their first process and whether they have begun. Reads podman's files when it is
    /// its `turn`: of one container at a time.
    fn list(
        &self,
        kernel: &impl Kernel,
        procs: &Procs,
        wanted: &dyn Fn(&ContainerId, Option<Process>, bool) -> bool,
        turn: &dyn Fn() -> Option<OwnedSemaphorePermit>,
    ) -> Result<Listing, String> {
        let reading = turn();
        let ids = self.podman.ids().map_err(|error| chain(&error))?;
        let armed = kernel.look().map_err(|error| format!("cannot read what is armed: {}", chain(&error)))?;
        let living = procs.oldest(&ids).map_err(|error| format!("cannot list processes: {error}"))?;
        let runs = self.podman.runs().map_err(|error| chain(&error));
        drop(reading);
        let asked = self.strangers.living();
        let mut listing = Listing::default();
        for id in ids {
            let run = runs
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|all| all.of(&id).map_err(|error| chain(&error)));
            let noted = [self.podman.pid(&id), run.as_ref().ok().map(|run| run.pid)];
            let noted: Vec<i32> = noted.into_iter().flatten().filter(|pid| *pid > 0).collect();
            let asking = asked.get(&id).copied(); // of this one the hook told
            let alive = noted.iter().filter_map(|pid| procs.find(*pid)).chain(asking);
            let alive: Vec<Process> = alive.collect();
            let armed = armed.contains_key(&id);
            let own = |process: &&Process| {
                asking == Some(**process)
                    || procs.is_in(**process, &id)
                    || matches!(kernel.lives(&id, Some(process.pid)), Ok(Some(true)))
            };
            // what podman has not noted to run yet is the hook's to tell of
            let begun = run.as_ref().is_ok_and(|run| run.has_begun())
                || asking.is_some_and(|process| procs.has_begun(process));
            listing.unread |= run.is_err();
            let process = alive.iter().find(own).or_else(|| living.get(&id).filter(|_| begun));
            if process.is_none() && !armed {
                let why = match (&run, alive.first()) {
                    (_, Some(Process { pid, .. })) => {
                        format!("podman noted process {pid} for it, and nothing shows that this is its own")
                    }
                    (Err(why), None) => format!("whether it runs is not known: {why}"),
                    (Ok(_), None) if begun && noted.is_empty() => {
                        "podman noted that it runs, and no process of it".to_owned()
                    }
                    (Ok(_), None) => continue, // it is over, or was not started
                };
                listing.unknown.insert(id, why);
                continue;
            }
            if !wanted(&id, process.copied(), begun) {
                continue;
            }
            let _reading = turn();
            match self.podman.container(&id) {
                Ok(Some(container)) => {
                    let (annotations, has) = self.podman.spec(&id).into_parts();
                    let set = Arc::clone(&self.policies.borrow());
                    let created = self.seccomp.confirmed(&set, &container, &annotations, has.as_ref());
                    let pid = process.map_or(0, |process| process.pid);
                    let container = Arc::new(container);
                    listing.running.push(Running { container, pid, started: begun, created });
                }
                Ok(None) => self.strangers.known(&id), // it only holds namespaces
                Err(error) => drop(listing.unknown.insert(id, chain(&error))),
            }
        }
        Ok(listing)
    }

    /// Who asks; reads podman's files. One that cannot be identified is refused where a policy could select it.
    pub(super) fn identify(&self, request: &Request) -> Known {
        let refused = |why: String| Answer::Refused { reason: format!("container `{}`: {why}", request.id) };
        let id = ContainerId::new(request.id.clone()).map_err(|error| refused(error.to_string()))?;
        match self.podman.container(&id) {
            Ok(known) => {
                self.strangers.known(&id);
                known.map(Arc::new).ok_or(Answer::Nothing)
            }
            Err(error) => {
                let why = format!("its name and labels are not known: {}", chain(&error));
                let set = Arc::clone(&self.policies.borrow());
                let exempt = self.selection.is_exempt(PODMAN_NAMESPACE, Wish::None);
                let reached = !exempt && (set.reaches(PODMAN_NAMESPACE) || set.untold().is_some());
                tracing::warn!(container = request.id, reached, "{why}");
                self.not_known(request, &why);
                Err(if reached { refused(why) } else { Answer::Nothing })
            }
        }
    }

    /// What is to be changed in the configuration of a container.
    pub(super) fn precreate(&self, container: &Arc<Container>, request: &Request) -> Answer {
        let refused = |reason: String| {
            tracing::error!(%container, reason, "refused at the gate");
            Answer::Refused { reason }
        };
        let profile: Option<LinuxSeccomp> =
            match request.seccomp.clone().map(serde_json::from_value).transpose() {
                Ok(profile) => profile,
                Err(error) => {
                    return refused(format!("{container}: its seccomp profile makes no sense: {error}"));
                }
            };
        let set = Arc::clone(&self.policies.borrow());
        if let Some(why) = self.selection.awaits(&set, &container.subject.namespace, container.wish) {
            return refused(format!("{container}: {why}; {AWAIT_ADVICE}"));
        }
        let apparmor = match (self.apparmor)(&set, container) {
            Ok(apparmor) => apparmor,
            Err(why) => return refused(format!("{container}: its AppArmor profile: {why}")),
        };
        let mut adjustment = Adjustment { apparmor, ..Adjustment::default() };
        let merged = self.selection.resolve(&set, &container.subject, container.wish);
        let mut selected = merged.is_some_and(|merged| merged.is_of_policies());
        match self.seccomp.adjust(&set, container, profile) {
            Ok(None) => {}
            Ok(Some((profile, created))) => {
                selected = true;
                adjustment.seccomp = match serde_json::to_value(&profile) {
                    Ok(profile) => Some(profile),
                    Err(error) => return refused(format!("{container}: its seccomp profile: {error}")),
                };
                let annotations = created.annotations().map(|(key, value)| (key.to_owned(), value.clone()));
                adjustment.annotations = annotations.collect();
            }
            Err(refusal) => return refused(refusal.to_string()),
        }
        if selected {
            adjustment.without = CRUN_HANDLERS.map(str::to_owned).into();
        }
        match adjustment == Adjustment::default() {
            true => Answer::Nothing,
            false => Answer::Adjust(adjustment),
        }
    }

    /// Notes that a container is on its way to its first process, also where nothing was noted at `precreate`: one that fails now
    /// is forgotten after some minutes.
    pub(super) fn begins(&self, container: &Arc<Container>) {
        self.registry.seccomp().begins(container);
    }

    /// Whether a container that is about to start may be armed: one that seccomp policies select must have been through
    /// [`Self::precreate`].
    ///
    /// # Errors
    /// What to answer in place of arming it.
    pub(super) fn create(&self, container: &Arc<Container>, request: &Request) -> Result<(), Answer> {
        let set = Arc::clone(&self.policies.borrow());
        let selected = self.seccomp.selects(&set, &container.subject, container.wish);
        if !selected || !self.seccomp.makes_profiles() {
            return Ok(());
        }
        let given = self.registry.seccomp().created(&container.id).and_then(|created| created.profile);
        if given.as_ref() == Some(&request.seccomp_digest) {
            return Ok(());
        }
        let reason = format!(
            "{container}: it does not have the profile of its seccomp policies, as the hook was not run at `precreate`, or they \
             have changed since; start it again, and see that `nri-enforcer install --runtime podman` has been run"
        );
        Err(Answer::Refused { reason })
    }
}

#[cfg(test)]
mod tests;
