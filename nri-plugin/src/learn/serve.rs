//! The daemon's side: watches containers as long as somebody at the admin socket wants to know what they do.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use enforcer_core::enforce::ContainerId;
use enforcer_core::visibility::Visibility;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::wire::{Report, Watched};
use crate::apply::serve::Answer;
use crate::container::{Container, Selection};
use crate::lock::Lock;
use crate::observe::watches::{Seen, WATCHES, Watching, Who};
use crate::order::Order;
use crate::registry::Registry;
use crate::set::PolicySet;

/// The longest that anything is watched, and that its start is waited for.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How often it is told how far it is.
const EACH: Duration = Duration::from_secs(1);
/// How long events may take from the kernel to here.
const LAG: Duration = Duration::from_millis(300);

/// Of a container that started while it was watched.
const MISSED: &str = "its start was not seen: it ran before it was armed";

/// What is to be watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wanted {
    /// The runtime's id of the container, or its beginning; the rest is not looked at then.
    pub id: Option<String>,
    /// The namespace of the pod.
    pub namespace: String,
    /// The pod's name.
    pub pod: Option<String>,
    /// Labels that the pod has.
    pub labels: BTreeMap<String, String>,
    /// The container's name.
    pub container: Option<String>,
    /// The classes, as `kubearmor-visibility` names them.
    pub classes: String,
    /// Milliseconds, from the first access on.
    pub time: u64,
    /// Milliseconds that the first access is waited for.
    pub patience: u64,
}

/// Called for how many events the kernel's ring buffer had no room; may block.
pub type Dropped = Box<dyn Fn() -> Option<u64> + Send + Sync>;

/// What is needed to watch.
pub struct Observatory {
    selection: Selection,
    policies: watch::Receiver<Arc<PolicySet>>,
    registry: Arc<Registry>,
    orders: Mutex<Option<Sender<Order>>>, // None at the end
    dropped: Dropped,
}

impl std::fmt::Debug for Observatory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observatory").finish_non_exhaustive()
    }
}

/// Has the containers made as they are to be, when it begins and when it is dropped.
struct Watch {
    watching: Option<Watching>,
    who: Who,
    by: Arc<Observatory>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.watching.take());
        self.by.order(&self.who);
    }
}

impl Observatory {
    /// Watches by these rules, and these containers.
    #[must_use]
    pub fn new(
        selection: Selection,
        policies: watch::Receiver<Arc<PolicySet>>,
        registry: Arc<Registry>,
        orders: Sender<Order>,
        dropped: Dropped,
    ) -> Arc<Self> {
        let orders = Mutex::new(Some(orders));
        Arc::new(Self { selection, policies, registry, orders, dropped })
    }

    /// Gives no order any more: the reconciler ends when nobody can.
    pub fn close(&self) {
        drop(self.orders().take());
    }

    fn order(&self, who: &Who) {
        if let Some(orders) = self.orders().as_ref() {
            let _ending = orders.send(Order::Watched(who.clone()));
        }
    }

    // a panic cannot leave it half done
    fn orders(&self) -> MutexGuard<'_, Option<Sender<Order>>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches until the time is over, or `ended`. `tell` is given what there is to tell; an error of it ends the watch.
    ///
    /// # Errors
    /// Those of `tell`.
    pub async fn watch<F: Future<Output = Result<(), String>>>(
        self: Arc<Self>,
        wanted: Wanted,
        ended: impl Future<Output = ()>,
        mut tell: impl FnMut(Answer) -> F,
    ) -> Result<(), String> {
        let (who, classes) = match self.read(&wanted) {
            Ok(read) => read,
            Err(why) => return tell(Answer::Refused { why }).await,
        };
        let Some(watching) = self.selection.watches.begin(who.clone(), classes) else {
            let why = format!("{WATCHES} others are watching already");
            return tell(Answer::Refused { why }).await;
        };
        let watch = Watch { watching: Some(watching), who, by: Arc::clone(&self) };
        let dropped_before = self.dropped().await;
        let before = self.living(&watch.who);
        tracing::info!(namespace = watch.who.namespace, pod = watch.who.pod, %classes, "watched for a policy to be learned");
        self.order(&watch.who);
        let names = before.iter().map(|container| container.id.to_string()).collect();
        tell(Answer::Watching { containers: names }).await?;

        let begin = Instant::now();
        let (time, patience) = (Duration::from_millis(wanted.time), Duration::from_millis(wanted.patience));
        let mut until = begin + patience;
        let mut seen_any = false;
        let mut told = (0, 0, 0);
        let mut ended = std::pin::pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => break,
                () = sleep_until(until) => break,
                () = sleep(EACH) => {}
            }
            let counts = watch.watching.as_ref().map(Watching::counts).unwrap_or_default();
            if counts.0 > 0 && !std::mem::replace(&mut seen_any, true) {
                until = Instant::now() + time;
            }
            if counts != told {
                told = counts;
                let (events, accesses, containers) = counts;
                tell(Answer::Progress { events, accesses, containers }).await?;
            }
        }
        sleep(LAG).await;
        let seen = watch.watching.as_ref().map(Watching::seen).unwrap_or_default();
        let mut report = self.report(&watch.who, &before, &seen, classes);
        let dropped = self.dropped().await;
        report.dropped = dropped.zip(dropped_before).map(|(now, before)| now.saturating_sub(before));
        drop(watch);
        tell(Answer::Seen { report: Box::new(report) }).await
    }

    async fn dropped(self: &Arc<Self>) -> Option<u64> {
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || (this.dropped)()).await.ok().flatten()
    }

    fn read(&self, wanted: &Wanted) -> Result<(Who, Visibility), String> {
        let Wanted { id, namespace, pod, labels, container, classes, time, patience } = wanted;
        if self.selection.seccomp_only || !matches!(self.selection.lock, Lock::Bpf | Lock::Both) {
            return Err(
                "only BPF-LSM can tell what a container does, and it is not what holds rules here".into()
            );
        }
        let longest = u64::try_from(LONGEST.as_millis()).unwrap_or(u64::MAX);
        if *time > longest || *patience > longest {
            return Err("a container is watched for 24 hours at most".into());
        }
        let classes: Visibility = classes
            .parse()
            .map_err(|error: enforcer_core::visibility::UnknownVisibility| error.to_string())?;
        if classes.is_none() {
            return Err("no class is to be watched".into());
        }
        let who = match id {
            Some(id) => self.one(id)?,
            None => Who {
                namespace: namespace.clone(),
                pod: pod.clone(),
                labels: labels.clone(),
                container: container.clone(),
                id: None,
            },
        };
        if self.selection.exempt.contains(&who.namespace) {
            return Err(format!("the namespace `{}` is exempt: nothing there is touched", who.namespace));
        }
        Ok((who, classes))
    }

    /// The one container whose id begins so.
    fn one(&self, id: &str) -> Result<Who, String> {
        let all = self.registry.seccomp().entries_now();
        let mut like = all.iter().filter(|entry| entry.container.id.to_string().starts_with(id));
        let found = like.next().ok_or_else(|| format!("there is no container `{id}`"))?;
        if id.is_empty()
            || (like.next().is_some() && !all.iter().any(|entry| entry.container.id.to_string() == id))
        {
            return Err(format!("more than one container's id begins with `{id}`"));
        }
        let exact = all.iter().find(|entry| entry.container.id.to_string() == id).unwrap_or(found);
        let Container { id, subject, .. } = exact.container.as_ref();
        Ok(Who {
            namespace: subject.namespace.clone(),
            pod: Some(subject.pod.clone()),
            labels: BTreeMap::new(),
            container: Some(subject.container.clone()),
            id: Some(id.clone()),
        })
    }

    /// The containers that are there.
    fn living(&self, who: &Who) -> Vec<Arc<Container>> {
        let all = self.registry.seccomp().entries_now().into_iter();
        let there = all.filter(|entry| entry.state != crate::seccomp::ledger::State::Ended);
        there.map(|entry| entry.container).filter(|container| who.is_container(container)).collect()
    }

    fn report(&self, who: &Who, before: &[Arc<Container>], seen: &Seen, classes: Visibility) -> Report {
        let mut report = Report { namespace: who.namespace.clone(), ..Report::default() };
        report.take(seen);
        let mut all: BTreeMap<ContainerId, Arc<Container>> = seen.containers.clone();
        all.extend(seen.missed.clone());
        all.extend(before.iter().chain(&self.living(who)).map(|one| (one.id.clone(), Arc::clone(one))));
        let set = Arc::clone(&self.policies.borrow());
        let watched = |container: &Arc<Container>| {
            let policies = set.selecting(&container.subject);
            let ran_before = before.iter().any(|one| one.id == container.id);
            Watched {
                id: container.id.to_string(),
                pod: container.subject.pod.clone(),
                container: container.subject.container.clone(),
                labels: container.subject.labels.clone(),
                ran_before,
                policies: policies.iter().map(|policy| policy.id().to_string()).collect(),
                problem: match self.problem(container, classes) {
                    Some(problem) => problem,
                    None if !ran_before && seen.missed.contains_key(&container.id) => MISSED.to_owned(),
                    None => String::new(),
                },
            }
        };
        report.containers = all.values().map(watched).collect();
        report
    }

    /// Why not all was seen, of those that started since.
    #[cfg(test)]
    pub(crate) fn problems(&self, who: &Who, seen: &Seen, classes: Visibility) -> Vec<String> {
        self.report(who, &[], seen, classes).containers.into_iter().map(|one| one.problem).collect()
    }

    /// Why not all that a container did was seen.
    fn problem(&self, container: &Container, classes: Visibility) -> Option<String> {
        let set = Arc::clone(&self.policies.borrow());
        let standing = self.registry.standing(&container.id);
        let wanted = self.selection.resolve(&set, &container.subject, container.wish);
        match (standing.problem, wanted) {
            (Some(problem), _) => Some(problem),
            (None, None) => Some("its pod switched enforcement off, and may".to_owned()),
            (None, Some(merged)) => {
                // one that is over has none in force any more
                let in_force = self.registry.in_force(&container.id);
                let ruleset = in_force.as_ref().unwrap_or(&merged.ruleset);
                let unseen = |class: &enforcer_core::ruleset::Class| {
                    !ruleset.observes(*class) && !ruleset.whitelisted(*class)
                };
                let unseen = Visibility::of(classes.classes().filter(unseen));
                (!unseen.is_none()).then(|| format!("{unseen} could not be seen"))
            }
        }
    }
}
