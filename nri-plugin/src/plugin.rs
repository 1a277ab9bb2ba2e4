//! The NRI plugin: turns the runtime's events into orders, and refusals into answers. No network and no disk here,
//! and for a container that no policy selects nothing that could fail.

mod first;
mod profiles;
mod refused;
mod told;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use enforcer_core::compile;
use enforcer_core::enforce::ContainerId;
use enforcer_core::ruleset::Ruleset;
use nri::{
    ContainerAdjustment, ContainerState, ContainerUpdate, Context, Event, EventMask, PodSandbox, Validation,
    async_trait,
};
use tokio::sync::{oneshot, watch};

use self::told::{created, describe};
use crate::apparmor::Profiles;
use crate::container::{Container, Merged, Selection, WISH_ANNOTATION, Wish, name_policies};
use crate::inject::Injection;
use crate::lock::Lock;
use crate::order::{Order, Present, Refusal, Synced};
use crate::procs::Procs;
use crate::registry::Registry;
use crate::seccomp::Seccomp;
use crate::set::PolicySet;

/// The annotation that a selected container gets: the digest of its ruleset when it was created.
pub const ANNOTATION: &str = "nri-enforcer.io/ruleset";
/// How long before the deadline an answer is given up, so that the error still names who, what and why.
const MARGIN: Duration = Duration::from_millis(50);

/// The plugin.
#[derive(Debug)]
pub struct Plugin {
    selection: Selection,
    policies: watch::Receiver<Arc<PolicySet>>,
    registry: Arc<Registry>,
    injection: Arc<Injection>,
    seccomp: Arc<Seccomp>,
    profiles: Option<Arc<Profiles>>,
    orders: Sender<Order>,
    synced: watch::Sender<bool>,
    procs: Procs,
}

impl Plugin {
    /// A plugin that reads `policies` and sends `orders`; `registry` is the reconciler's. `synced` becomes true once a synchronisation is through.
    #[must_use]
    pub fn new(
        selection: Selection,
        policies: watch::Receiver<Arc<PolicySet>>,
        registry: Arc<Registry>,
        injection: Arc<Injection>,
        seccomp: Arc<Seccomp>,
        orders: Sender<Order>,
        synced: watch::Sender<bool>,
    ) -> Self {
        let (profiles, procs) = (None, Procs::default());
        Self { selection, policies, registry, injection, seccomp, profiles, orders, synced, procs }
    }

    /// The same, with this `/proc`.
    #[must_use]
    pub fn with_procs(self, procs: Procs) -> Self {
        Self { procs, ..self }
    }

    /// The policies now in force.
    fn set(&self) -> Arc<PolicySet> {
        Arc::clone(&self.policies.borrow())
    }

    /// The events that it needs.
    #[must_use]
    pub fn events() -> EventMask {
        Event::RunPodSandbox
            | Event::RemovePodSandbox
            | Event::CreateContainer
            | Event::PostCreateContainer
            | Event::StartContainer
            | Event::StopContainer
            | Event::RemoveContainer
            | Event::ValidateContainerAdjustment
    }

    fn resolve(&self, container: &Container) -> Option<Arc<Merged>> {
        let set = Arc::clone(&self.policies.borrow());
        let resolved = self.selection.resolve(&set, &container.subject, container.wish);
        resolved.filter(|resolved| resolved.is_of_policies())
    }

    /// The container as the daemon knows it. `None` for one whose id the kernel side cannot hold and that no policy
    /// selects; a selected one is refused. (No runtime makes such ids.)
    fn known(
        &self,
        pod: &PodSandbox,
        container: &nri::Container,
    ) -> Result<Option<Arc<Container>>, nri::Refusal> {
        let (subject, image) = describe(Some(pod), container);
        let wish = Wish::of(&pod.annotations);
        match ContainerId::new(container.id.clone()) {
            Ok(id) => {
                let pod_uid = pod.uid.clone();
                Ok(Some(Arc::new(Container { id, subject, pod_uid, image, wish })))
            }
            Err(error) => {
                let set = Arc::clone(&self.policies.borrow());
                let resolved = self.selection.resolve(&set, &subject, wish);
                if resolved.is_some_and(|resolved| resolved.is_of_policies())
                    || self.seccomp.selects(&set, &subject, wish)
                    || self.waits_for(&set, &subject.namespace, wish).is_some()
                {
                    Err(error.into())
                } else {
                    Ok(None)
                }
            }
        }
    }

    /// Says what becomes of what a pod wishes: a workload that thinks itself exempt, or is, should not surprise.
    fn tell_wish(&self, container: &Container) {
        let wish = match container.wish {
            Wish::None => return,
            Wish::Disabled => "disabled",
            Wish::Audited => "audited",
        };
        if self.selection.honour_pod_annotations {
            tracing::warn!(%container, "the pod's annotation `{WISH_ANNOTATION}: {wish}` is honoured");
        } else {
            tracing::warn!(
                %container,
                "the pod's annotation `{WISH_ANNOTATION}: {wish}` is ignored; exempt the namespace, or run with \
                 --honour-pod-annotations"
            );
        }
    }

    /// Tells the reconciler. Only its end, which ends the daemon, can make this fail.
    fn order(&self, order: Order) {
        if self.orders.send(order).is_err() {
            tracing::error!("the reconciler is gone");
        }
    }
}

#[async_trait]
impl nri::Plugin for Plugin {
    async fn configure(&self, _: Context, runtime: nri::RuntimeInfo) -> Result<EventMask, nri::Refusal> {
        let version = runtime.nri_version.as_ref().map(ToString::to_string);
        tracing::info!(
            runtime = runtime.name,
            version = runtime.version,
            nri = version,
            "registered with the runtime"
        );
        self.seccomp.connected(runtime.nri_version);
        self.injection.connected(!runtime.unavailable.contains(Event::ValidateContainerAdjustment));
        if !runtime.unavailable.is_empty() {
            tracing::warn!(
                events = %runtime.unavailable,
                "the runtime is too old for these events: if this daemon dies between a container's creation and its \
                 start, the container starts unprotected until the daemon is back, unless it has the OCI hook (--hook)"
            );
        }
        Ok(runtime.events)
    }

    async fn synchronize(
        &self,
        _: Context,
        pods: Vec<PodSandbox>,
        containers: Vec<nri::Container>,
    ) -> Result<Vec<ContainerUpdate>, nri::Refusal> {
        self.list_profiles(&pods);
        let pods: BTreeMap<&str, &PodSandbox> = pods.iter().map(|pod| (pod.id.as_str(), pod)).collect();
        let count = containers.len();
        let living: Vec<_> = containers.iter().filter(|one| one.state != ContainerState::Stopped).collect();
        let pids = self.first_processes(&living).await;
        let mut seccomp = Vec::new();
        let present = living.into_iter().filter_map(|one| {
            let pod = pods.get(one.pod_sandbox_id.as_str()).copied();
            let (subject, image) = describe(pod, one);
            let wish = pod.map(|pod| Wish::of(&pod.annotations)).unwrap_or_default();
            let id = ContainerId::new(one.id.clone())
                .inspect_err(|error| tracing::error!(%error, "a container that cannot be armed"))
                .ok()?;
            let pod_uid = pod.map(|pod| pod.uid.clone()).unwrap_or_default();
            let container = Arc::new(Container { id, subject, pod_uid, image, wish });
            let pid = pids.get(&one.id).copied().unwrap_or(0);
            seccomp.push((Arc::clone(&container), created(pod, one), pid));
            Some(Present {
                container,
                pid,
                running: matches!(one.state, ContainerState::Running | ContainerState::Paused),
            })
        });
        let present: Vec<Present> = present.collect();
        self.confirm_profiles(&present).await;
        let (reply, answer) = oneshot::channel();
        self.order(Order::Synchronize { present, reply });
        let (ledger, set) = (Arc::clone(&self.seccomp), self.set());
        let noted = tokio::task::spawn_blocking(move || ledger.synchronized(&set, seccomp));
        // a late answer is no reason to lose the connection: the library answers in time, and this goes on
        if let Ok(Synced { adopted, late, failed, .. }) = answer.await
            && noted.await.is_ok()
        {
            tracing::info!(containers = count, adopted, late, failed, "synchronized with the runtime");
            self.synced.send_replace(true);
        }
        Ok(Vec::new())
    }

    async fn run_pod_sandbox(&self, context: Context, pod: PodSandbox) -> Result<(), nri::Refusal> {
        let (subject, _) = describe(Some(&pod), &nri::Container::default());
        self.seccomp.pod(&context, &self.set(), &subject, Wish::of(&pod.annotations)).await;
        self.load_profiles(&context, &pod).await;
        Ok(())
    }

    async fn remove_pod_sandbox(&self, _: Context, pod: PodSandbox) -> Result<(), nri::Refusal> {
        self.forget_profiles(&pod);
        Ok(())
    }

    async fn create_container(
        &self,
        context: Context,
        pod: PodSandbox,
        raw: nri::Container,
    ) -> Result<ContainerAdjustment, nri::Refusal> {
        let Some(container) = self.known(&pod, &raw)? else { return Ok(ContainerAdjustment::new()) };
        self.tell_wish(&container);
        self.awaits(&container).inspect_err(|refusal| tracing::error!(%refusal, "creation refused"))?;
        self.load_profiles(&context, &pod).await;
        self.refuse_filter(&container, &pod, &raw)
            .and_then(|()| self.refuse_forged(&container, &pod, &raw))
            .and_then(|()| self.refuse_handler(&container, &pod, &raw))
            .and_then(|()| self.refuse_output(&container, &pod, &raw))
            .inspect_err(|refusal| tracing::error!(%refusal, "creation refused"))?;
        let adjustment = self
            .seccomp
            .create(&context, &self.set(), &container, &raw)
            .await
            .inspect_err(|refusal| tracing::error!(%refusal, "creation refused"))?;
        let Some(resolved) = self.resolve(&container) else {
            self.order(Order::Created(container));
            return Ok(adjustment);
        };
        self.strict(&container, &resolved)
            .inspect_err(|refusal| tracing::error!(%refusal, "creation refused"))?;
        if !resolved.binds() {
            self.order(Order::Created(container));
            return Ok(adjustment);
        }
        let digest = resolved.ruleset.digest();
        // what some container has was compiled for it
        if self.selection.lock != Lock::AppArmor && self.registry.ruleset(&digest).is_none() {
            try_compile(&context, &container, &resolved.ruleset)
                .await
                .inspect_err(|refusal| tracing::error!(%refusal, "creation refused"))?;
        }
        tracing::info!(%container, ruleset = %digest, "created under policies");
        let adjustment = adjustment.annotation(ANNOTATION, digest.to_string());
        let adjustment = self.want_profile(&pod, &container, &resolved, adjustment);
        let adjustment = self.injection.add(&container, adjustment);
        self.order(Order::Created(container));
        Ok(adjustment)
    }

    /// What was asked for it was taken.
    async fn post_create_container(
        &self,
        _: Context,
        _: PodSandbox,
        container: nri::Container,
    ) -> Result<(), nri::Refusal> {
        self.injection.created(&ContainerId::new(container.id)?);
        Ok(())
    }

    async fn validate_container_adjustment(
        &self,
        _: Context,
        request: Validation,
    ) -> Result<(), nri::Refusal> {
        let Some(container) = self.known(&request.pod, &request.container)? else { return Ok(()) };
        let unmarked = self
            .resolve(&container)
            .filter(|resolved| resolved.binds() && !request.adjustment.annotations.contains_key(ANNOTATION));
        let (policies, missing) = match unmarked {
            Some(resolved) => (name_policies(&resolved.ruleset), format!("the annotation `{ANNOTATION}`")),
            None if self.seccomp.went_past(&self.set(), &container, &request.adjustment) => {
                ("its seccomp policies".into(), "the seccomp profile".into())
            }
            None => return Ok(()),
        };
        let reason = format!("its creation went past this plugin: {missing} is missing");
        let refusal = Refusal::new(&container, policies, reason, "create the container again");
        tracing::error!(%refusal, "creation refused");
        Err(refusal.into())
    }

    async fn start_container(
        &self,
        context: Context,
        pod: PodSandbox,
        container: nri::Container,
    ) -> Result<(), nri::Refusal> {
        let raw = &container;
        let Some(container) = self.known(&pod, raw)? else { return Ok(()) };
        let pid = self.first_processes(&[raw]).await.remove(&raw.id).unwrap_or(0);
        self.injection.created(&container.id);
        self.awaits(&container).inspect_err(|refusal| tracing::error!(%refusal, "start refused"))?;
        self.refuse_handler(&container, &pod, raw)
            .inspect_err(|refusal| tracing::error!(%refusal, "start refused"))?;
        self.seccomp
            .start(&context, &self.set(), &container, created(Some(&pod), raw), pid)
            .await
            .inspect_err(|refusal| tracing::error!(%refusal, "start refused"))?;
        let Some(resolved) = self.resolve(&container) else {
            return self.start_free(&context, container, pid).await;
        };
        self.strict(&container, &resolved)
            .inspect_err(|refusal| tracing::error!(%refusal, "start refused"))?;
        if !resolved.binds() {
            return self.start_free(&context, container, pid).await;
        }
        let (reply, answer) = oneshot::channel();
        self.order(Order::Start { container: Arc::clone(&container), pid, reply });
        match tokio::time::timeout(patience(&context), answer).await {
            Ok(Ok(result)) => Ok(result?),
            Ok(Err(_)) => refuse(&container, &resolved.ruleset, "the daemon is ending"),
            Err(_) => refuse(&container, &resolved.ruleset, "the kernel took too long"),
        }
    }

    /// What its processes left behind stays under its rules until it is removed, and it may be started again; only its
    /// seccomp profile is nobody's any more.
    async fn stop_container(
        &self,
        _: Context,
        _: PodSandbox,
        container: nri::Container,
    ) -> Result<Vec<ContainerUpdate>, nri::Refusal> {
        self.registry.seccomp().ended(&ContainerId::new(container.id)?);
        Ok(Vec::new())
    }

    async fn remove_container(
        &self,
        _: Context,
        _: PodSandbox,
        container: nri::Container,
    ) -> Result<(), nri::Refusal> {
        let id = ContainerId::new(container.id)?;
        self.injection.removed(&id);
        self.order(Order::Removed(id));
        Ok(())
    }
}

impl Plugin {
    /// A container starts that no rule binds. Where it is to be observed that begins first, if that takes no longer than
    /// the runtime waits. It is refused only where rules that came meanwhile bind it and are not in force.
    async fn start_free(
        &self,
        context: &Context,
        container: Arc<Container>,
        pid: i32,
    ) -> Result<(), nri::Refusal> {
        let resolved = self.selection.resolve(&self.set(), &container.subject, container.wish);
        if resolved.is_none_or(|resolved| resolved.is_nothing()) {
            self.order(Order::Started { container, pid });
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.order(Order::Start { container: Arc::clone(&container), pid, reply });
        match tokio::time::timeout(patience(context), answer).await {
            Ok(Ok(result)) => Ok(result?),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(%container, "starts, and what it does first may not be seen");
                self.selection.watches.missed(&container);
                Ok(())
            }
        }
    }
}

fn refuse(container: &Arc<Container>, ruleset: &Ruleset, reason: &str) -> Result<(), nri::Refusal> {
    let refusal = Refusal::new(container, name_policies(ruleset), reason, "start the container again");
    tracing::error!(%refusal, "start refused");
    Err(refusal.into())
}

fn patience(context: &Context) -> Duration {
    context.remaining().saturating_sub(MARGIN)
}

/// Finds out at creation what would otherwise refuse the start.
async fn try_compile(
    context: &Context,
    container: &Arc<Container>,
    ruleset: &Arc<Ruleset>,
) -> Result<(), Refusal> {
    let compiling = Arc::clone(ruleset);
    let compiled = tokio::task::spawn_blocking(move || compile::bpf::compile(&compiling).map(drop));
    let refuse = |reason: String| {
        Err(Refusal::new(container, name_policies(ruleset), reason, "make the policies smaller"))
    };
    match tokio::time::timeout(patience(context), compiled).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => refuse(error.to_string()),
        Ok(Err(error)) => refuse(error.to_string()),
        Err(_) => refuse("compiling took too long".into()),
    }
}

#[cfg(test)]
mod tests;
