//! The daemon's side: a socket at which whoever is root gets the document, and the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use enforcer_core::coverage::GapReason;
use enforcer_core::policy::{Policy, SeccompPolicy};
use enforcer_core::ruleset::{Class, Postures};
use enforcer_core::subject::Subject;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::document::{
    API_VERSION, ApiStatus, ContainerStatus, Daemon, Document, HostStatus, PolicyStatus, Seccomp, State,
    Verdicts,
};
use super::policies::{Policies, Stands};
use crate::api::Health;
use crate::api::health::Restored;
use crate::apparmor::Profiles;
use crate::apply::changes::Changes;
use crate::connection::Connection;
use crate::container::{Merged, Selection, Wish};
use crate::gate::strangers::Strangers;
use crate::host::Node;
use crate::inject::Injection;
use crate::lock::Lock;
use crate::registry::{Registry, Standing};
use crate::run::Unheard;
use crate::seccomp::ledger::{Created, Entry, State as Profile};
use crate::seccomp::profiles::selecting;
use crate::set::PolicySet;
use crate::socket::{Socket, SocketError, is_root};

/// How long a caller may take to read.
pub(super) const LONGEST: Duration = Duration::from_secs(5);
/// Callers at a time; more wait for their turn.
pub(super) const CALLERS: usize = 4;

/// What the document is made of.
#[derive(Debug)]
pub struct Status {
    /// How this node reads policies.
    pub selection: Selection,
    /// The policies now in force.
    pub policies: watch::Receiver<Arc<PolicySet>>,
    /// How containers stand.
    pub registry: Arc<Registry>,
    /// Which seccomp policies select what.
    pub seccomp: Arc<crate::seccomp::Seccomp>,
    /// Whether it is known what runs, and who tells.
    pub connection: Connection,
    /// Who may run of podman's, and is not known.
    pub strangers: Arc<Strangers>,
    /// Whether containers get the OCI hook.
    pub injection: Arc<Injection>,
    /// How the watch of the API server stands, where there is one.
    pub api: Option<Health>,
    /// AppArmor profiles, where they are used.
    pub profiles: Option<Arc<Profiles>>,
    /// The name of the node.
    pub node_name: String,
    /// What policies select the host by.
    pub node: Node,
    /// Why policies on it are not enforced though they should be, or what is exempt and not there.
    pub host_exempt: Result<Vec<String>, String>,
    /// Why AppArmor is not beside BPF-LSM, though it should be.
    pub uncombined: Option<String>,
    /// Changes of the policies that wait to be confirmed.
    pub changes: Arc<Changes>,
    /// Whether what AppArmor and SELinux deny is heard.
    pub(crate) unheard: Unheard,
}

impl Status {
    /// How the node stands now. Takes the time of looking at every container.
    #[must_use]
    pub fn document(&self) -> Document {
        let set = Arc::clone(&self.policies.borrow());
        let mut policies = self.no_container(&set);
        let look = |entry: &Entry| {
            let (status, stands) = self.describe(&set, entry);
            policies.add(&stands);
            status
        };
        let mut containers: Vec<ContainerStatus> =
            self.registry.seccomp().entries_now().iter().map(look).collect();
        let name = |one: &ContainerStatus| {
            (one.namespace.clone(), one.pod.clone(), one.container.clone(), one.id.clone())
        };
        containers.sort_by_cached_key(name);
        policies.held(&set, &self.selection);
        Document {
            api_version: API_VERSION.to_owned(),
            daemon: Daemon {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                node_name: self.node_name.clone(),
                seccomp_only: self.selection.seccomp_only,
                lock: self.selection.lock.name().to_owned(),
                not_seen: self.not_seen(),
                uncombined: self.uncombined.clone(),
                connected: self.connection.knows(),
                without_nri: self.connection.is_without_nri(),
                unknown: self.strangers.all().into_iter().map(|(id, why)| (id.to_string(), why)).collect(),
                policies: set.len(),
                postures: postures(&self.selection.postures),
                without_hook: self.injection.problem(),
                not_reverted: self.changes.not_reverted(),
                untrusted: set.untrusted().to_vec(),
                host: Some(self.host(&set)),
                api: self.api.as_ref().map(api),
            },
            containers,
            policies: policies.told(),
        }
    }

    /// How one container stands now.
    #[must_use]
    pub fn of(&self, entry: &Entry) -> ContainerStatus {
        let set = Arc::clone(&self.policies.borrow());
        self.describe(&set, entry).0
    }

    /// How each policy in force stands on this node. Takes as long as the document.
    #[must_use]
    pub fn policies(&self) -> Vec<PolicyStatus> {
        let set = Arc::clone(&self.policies.borrow());
        let mut policies = self.no_container(&set);
        for entry in self.registry.seccomp().entries_now() {
            policies.add(&self.describe(&set, &entry).1);
        }
        policies.told()
    }

    /// How policies stand before any container is looked at.
    fn no_container(&self, set: &PolicySet) -> Policies {
        let mut policies = Policies::new(set, &self.selection);
        if !self.selection.holds_host() {
            let why = self.host_exempt.as_ref().err().cloned();
            let why = why.unwrap_or_else(|| format!("the host: {}", GapReason::HostPolicies));
            policies.without_host(&set.selecting(&self.subject(set)), &why);
        } else {
            let awaiting = set.awaiting_labels(&self.subject(set));
            policies.without_host(&awaiting, &format!("the host: {}", GapReason::NodeLabels));
        }
        policies
    }

    /// The host, as these policies select it.
    fn subject(&self, set: &PolicySet) -> Subject {
        self.node.subject(set.node())
    }

    /// How many containers there are in each state, and the sum of their gaps. Takes as long as the document.
    #[must_use]
    pub fn tally(&self) -> (BTreeMap<State, usize>, usize) {
        let set = Arc::clone(&self.policies.borrow());
        let (mut states, mut gaps) = (BTreeMap::new(), 0);
        for entry in self.registry.seccomp().entries_now() {
            let (one, _) = self.describe(&set, &entry);
            *states.entry(one.state).or_insert(0) += 1;
            gaps += one.gaps;
        }
        (states, gaps)
    }

    /// Why the daemon does not see what the lock denies; `None`: it does.
    #[must_use]
    pub fn not_seen(&self) -> Option<String> {
        not_seen(self.selection.lock, self.unheard.why())
    }

    /// How policies on the host's own processes stand.
    fn host(&self, set: &PolicySet) -> HostStatus {
        let enforced = self.selection.holds_host();
        let subject = self.subject(set);
        let awaiting_labels = if enforced { set.awaiting_labels(&subject).len() } else { 0 };
        let not_enforced = if enforced { 0 } else { set.selecting(&subject).len() };
        let postures = self.selection.host.filter(|_| enforced);
        HostStatus {
            enforced,
            problem: self.host_exempt.as_ref().err().cloned(),
            not_enforced,
            awaiting_labels,
            postures: postures.as_ref().map(self::postures).unwrap_or_default(),
            not_found: self.host_exempt.clone().unwrap_or_default(),
        }
    }

    /// How the container stands, for people and to each policy.
    fn describe(&self, set: &PolicySet, entry: &Entry) -> (ContainerStatus, Stands) {
        let container = &entry.container;
        let subject = &container.subject;
        let wish = if self.selection.honour_pod_annotations { container.wish } else { Wish::None };
        let wished = match wish {
            Wish::None => None,
            Wish::Disabled => Some("its pod switched enforcement off, and may"),
            Wish::Audited => Some("its pod has policies audited only, and may"),
        };
        // a namespace is exempt by the node's configuration, so policies do not count it against themselves
        let of_namespace = self.selection.exempt.contains(&subject.namespace);
        let exempt = match of_namespace {
            true => Some("its namespace is exempt"),
            false => wished.filter(|_| wish == Wish::Disabled),
        };
        let by_seccomp = self.seccomp.selecting(set, container);
        let merged = self.selection.resolve(set, subject, container.wish);
        let merged = merged.filter(|merged| merged.is_of_policies());
        let standing = self.registry.standing(&container.id);
        let by_rules: Vec<Arc<Policy>> = match of_namespace {
            true => Vec::new(),
            false => set.selecting(subject).into_iter().cloned().collect(),
        };
        let in_force = by_rules.iter().filter(|_| exempt.is_none());
        let mut policies: Vec<String> = in_force.map(|policy| policy.id().to_string()).collect();
        policies.extend(by_seccomp.iter().map(|policy| policy.id().to_string()));
        policies.sort_unstable();
        let of_rules = merged.as_ref().map_or(0, |merged| merged.coverage.gaps.len() + standing.gaps.len());
        let of_profile = entry.gaps.unwrap_or_else(|| self.seccomp.gaps_alone(&by_seccomp, &entry.created));
        let gaps = of_rules + if by_seccomp.is_empty() { 0 } else { of_profile };
        let seccomp = profile(entry, !by_seccomp.is_empty());

        let held = self.held(merged.as_deref(), &by_seccomp);
        let rules = merged.as_ref().is_some_and(|merged| merged.binds());
        let uncovered = not_in_force(&standing, rules, merged.is_some());
        let stands = Stands {
            ended: entry.state == Profile::Ended,
            without_profile: match (entry.state, &seccomp) {
                (Profile::NotApplied | Profile::PendingRestart, Some(profile)) => {
                    Some(profile.reason.clone())
                }
                _ => wished.map(str::to_owned),
            },
            profile_gaps: of_profile,
            without_rules: uncovered.clone().or_else(|| wished.map(str::to_owned)),
            rules: by_rules,
            seccomp: match wished.filter(|_| !of_namespace) {
                Some(_) => selecting(set, subject),
                None => by_seccomp.clone(),
            },
            merged: merged.clone(),
            links: Arc::clone(&standing.gaps),
        };
        let (state, reason) = match (entry.state, exempt, uncovered) {
            (Profile::Ended, _, _) => (State::Ended, String::new()),
            (_, Some(why), _) if entry.state == Profile::InForce => (State::Exempt, why.to_owned()),
            (Profile::NotApplied, _, uncovered) => {
                let why = seccomp.as_ref().map(|profile| profile.reason.clone()).unwrap_or_default();
                let both = uncovered.into_iter().chain([format!("seccomp: {why}")]);
                (State::NotCovered, both.collect::<Vec<_>>().join("; "))
            }
            (_, None, Some(why)) => (State::NotCovered, why),
            (Profile::PendingRestart, _, _) => {
                let why = seccomp.as_ref().map(|profile| profile.reason.clone()).unwrap_or_default();
                (State::PendingRestart, format!("seccomp: {why}"))
            }
            (_, _, _) if policies.is_empty() => (State::NotSelected, String::new()),
            (_, _, _) => (State::Armed, String::new()),
        };
        let status = ContainerStatus {
            id: container.id.to_string(),
            namespace: subject.namespace.clone(),
            pod: subject.pod.clone(),
            container: if subject.host { "(host)".to_owned() } else { subject.container.clone() },
            host: subject.host,
            labels: Some(subject.labels.clone()),
            audited: wish == Wish::Audited,
            state,
            reason,
            policies,
            gaps,
            ruleset: standing.ruleset.map(|digest| digest.to_string()),
            verdicts: Some(Verdicts { blocked: standing.blocked, audited: standing.audited }),
            held,
            apparmor: self
                .profiles
                .as_ref()
                .and_then(|all| all.name_of(&container.id))
                .map(|name| name.to_string()),
            names: standing.names,
            seccomp,
        };
        (status, stands)
    }
}

fn api(health: &Health) -> ApiStatus {
    let (restored, not_restored) = match health.restored() {
        Restored::Nothing => (None, None),
        Restored::Set { objects, .. } => (Some(objects), None),
        Restored::Refused(why) => (None, Some(why)),
    };
    let named = |(kind, count): (&str, usize)| (kind.to_owned(), count);
    let told = |(kind, trouble): (&str, String)| (kind.to_owned(), trouble);
    ApiStatus {
        staleness_seconds: health.staleness().map(|age| age.as_secs()),
        age_seconds: health.age().map(|age| age.as_secs()),
        has_set: health.has_set(),
        objects: health.objects().into_iter().map(named).collect(),
        left_out: health.left_out().into_iter().filter(|(_, count)| *count > 0).map(named).collect(),
        troubles: health.troubles().into_iter().map(told).collect(),
        untold: health.all_untold().into_iter().map(told).collect(),
        restored,
        not_restored,
        not_saved: health.save_problem(),
    }
}

impl Status {
    /// Who holds the rules of which policies.
    fn held(&self, merged: Option<&Merged>, seccomp: &[Arc<SeccompPolicy>]) -> BTreeMap<String, Vec<String>> {
        let mut held: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        if let Some(merged) = merged {
            let first = match self.selection.lock {
                Lock::AppArmor => "apparmor",
                Lock::Selinux => "selinux",
                Lock::Bpf | Lock::Both | Lock::Nothing => "bpf",
            };
            let rules = merged.ruleset.origins().iter().map(|origin| (first, origin.policy.to_string()));
            let natives = merged.natives.iter().map(|native| ("apparmor", native.policy.to_string()));
            rules.chain(natives).for_each(|(lock, policy)| {
                held.entry(lock).or_default().insert(policy);
            });
        }
        let seccomp = seccomp.iter().map(|policy| policy.id().to_string());
        seccomp.for_each(|policy| {
            held.entry("seccomp").or_default().insert(policy);
        });
        held.into_iter().map(|(lock, policies)| (lock.to_owned(), policies.into_iter().collect())).collect()
    }
}

fn postures(postures: &Postures) -> BTreeMap<String, String> {
    let Postures { file, network, capabilities, process } = *postures;
    let of_all = [(Class::File, file), (Class::Network, network), (Class::Capability, capabilities)];
    let all = of_all.into_iter().chain(process.map(|action| (Class::Process, action)));
    all.map(|(class, action)| (class.to_string(), action.to_string())).collect()
}

/// Why rules are not in force. `rules`: there are some; `selected`: there are policies, be it with gaps alone.
fn not_in_force(standing: &Standing, rules: bool, selected: bool) -> Option<String> {
    match &standing.problem {
        Some(problem) => Some(problem.clone()),
        None if rules && !standing.is_armed() => {
            Some("not armed yet: it was not started, or its turn has not come".to_owned())
        }
        None if standing.lacks.is_some() => standing.lacks.clone(),
        None if selected && !rules => Some("nothing of its rules can be enforced: they are gaps".to_owned()),
        None => None,
    }
}

/// Its profile, in words. `selected`: a seccomp policy selects it.
fn profile(entry: &Entry, selected: bool) -> Option<Seccomp> {
    let Entry { created, state, not_applied, .. } = entry;
    if *created == Created::default() && !selected && *state != Profile::PendingRestart {
        return None;
    }
    let reason = match (state, &created.policies) {
        (Profile::InForce | Profile::Ended, _) => String::new(),
        (Profile::NotApplied, _) => not_applied.clone().unwrap_or_default(),
        (Profile::PendingRestart, None) => {
            "pending restart: it was created without its seccomp policies".to_owned()
        }
        (Profile::PendingRestart, Some(_)) if !selected => {
            "pending restart: its seccomp policies are gone, and it keeps their profile".to_owned()
        }
        (Profile::PendingRestart, Some(_)) => {
            "pending restart: its seccomp policies changed since it was created".to_owned()
        }
    };
    Some(Seccomp { state: *state, reason, profile: created.profile.clone(), file: created.file.clone() })
}

/// The socket, open to callers. It goes when this is dropped.
#[derive(Debug)]
pub struct Window(Socket);

impl Window {
    /// Makes the socket.
    ///
    /// # Errors
    /// When it cannot be made, others could get at it, or somebody listens there.
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        Socket::open(path, "--status-socket").map(Self)
    }

    /// Gives callers the document. Nobody else waits for it.
    pub async fn serve(self, status: Arc<Status>) {
        let places = Arc::new(Semaphore::new(CALLERS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let caller = self.0.accept().await;
            let status = Arc::clone(&status);
            tokio::spawn(async move {
                match timeout(LONGEST, tell(caller, status)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(problem)) => tracing::warn!(problem, "a caller that asked for the status"),
                    Err(_) => tracing::warn!("a caller that asked for the status does not read it"),
                }
                drop(place);
            });
        }
    }
}

async fn tell(mut caller: UnixStream, status: Arc<Status>) -> Result<(), String> {
    is_root(&caller)?;
    let made = tokio::task::spawn_blocking(move || serde_json::to_vec(&status.document()));
    let text = made.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let told = async {
        caller.write_all(&text).await?;
        caller.write_all(b"\n").await?;
        caller.shutdown().await
    };
    told.await.map_err(|error: std::io::Error| error.to_string())
}

/// Why the daemon does not see what the lock denies.
fn not_seen(lock: Lock, unheard: Option<String>) -> Option<String> {
    let nothing =
        "no lock denies anything here but seccomp, which tells of it in the audit log alone, if at all";
    match lock {
        Lock::Nothing => Some(nothing.to_owned()),
        Lock::Bpf => None,
        Lock::Both => unheard.map(|why| format!("what AppArmor denies: {why}")),
        Lock::AppArmor | Lock::Selinux => unheard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BPF tells of its denials itself; the others' are in audit records, which may not be heard.
    #[test]
    fn what_is_not_seen_depends_on_who_denies_and_on_what_is_heard() {
        let why = "audit is off";
        let told = |lock| [None, Some(why.to_owned())].map(|unheard| not_seen(lock, unheard));
        assert_eq!(told(Lock::Bpf), [None, None]);
        assert_eq!(told(Lock::Both), [None, Some(format!("what AppArmor denies: {why}"))]);
        for lock in [Lock::AppArmor, Lock::Selinux] {
            assert_eq!(told(lock), [None, Some(why.to_owned())]);
        }
        for told in told(Lock::Nothing) {
            assert!(told.unwrap().starts_with("no lock denies anything here but seccomp"));
        }
    }
}
