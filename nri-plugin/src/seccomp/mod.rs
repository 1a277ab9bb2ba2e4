//! Seccomp policies on containers: which profile one gets, by which way, and what is to be said about it.
//!
//! - The runtime takes a profile over NRI (0.12 and later): it gets the policies merged with what the container has.
//! - It does not: the profile is a file that kubelet finds ([`profiles`]), the pod has to name it, and whether it did is
//!   looked at before the container starts ([`bundle`]). If it did not, that is a gap.
//!
//! None of this needs anything of the kernel but seccomp. What runs keeps its filter; see [`ledger`].

pub mod base;
pub mod bundle;
mod compiled;
pub mod dropin;
pub mod learn;
pub mod ledger;
pub mod libseccomp;
pub mod listen;
pub mod profiles;
pub mod record;
mod running;
pub mod systemd;
pub mod unit;
pub mod wire;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use enforcer_core::coverage::{Gap, GapReason};
use enforcer_core::policy::SeccompPolicy;
use enforcer_core::seccomp::oci::LinuxSeccomp;
use enforcer_core::seccomp::{Base, Node, SeccompProfile, compile};
use enforcer_core::subject::Subject;
use nri::{ContainerAdjustment, Context, NriVersion};

use self::compiled::Compiled;
use self::ledger::{ANNOTATION, Created, Wanted};
use self::profiles::{Contents, Profiles, Together, localhost_profile, selecting};
use crate::container::{Container, Selection, Wish};
use crate::exit::chain;
use crate::order::{Notice, Refusal};
use crate::registry::Registry;
use crate::set::PolicySet;

/// Since when runtimes take a seccomp policy from plugins. NRI before 0.10 drops it without a word. 0.10 and 0.11 (containerd 2.2,
/// CRI-O 1.34 to 1.36) die of one that has a rule with an errno, by a nil pointer, and every profile has one: for clone3.
const ADJUSTABLE: NriVersion = NriVersion::new(0, 12, 0);
/// How long before the deadline an answer is given up, so that the error still says why.
const MARGIN: Duration = Duration::from_millis(50);

/// What becomes of policies on a machine that no profiles are made for.
const NO_EFFECT: &str = "the container keeps the profile that it has, and the policy has no effect";

/// What happens where the runtime does not show which profile a container has of its own.
const NOT_SHOWN: &str = "the runtime does not show it, and the runtime's default with the policies takes its place, also where \
    it is stricter (`Localhost`) or there is none (`Unconfined`); containerd shows it from 2.2.1 on, CRI-O does not";

/// Called for each [`Notice`]; must not block.
pub type Notify = Box<dyn Fn(Notice) + Send + Sync>;

/// What applies seccomp policies. Shared by the plugin and the watch of the policies.
pub struct Seccomp {
    selection: Selection,
    node: Result<Node, UnknownMachine>,
    profiles: Profiles,
    registry: Arc<Registry>,
    root: PathBuf,
    notify: Notify,
    synchronized: AtomicBool, // before the first synchronisation nobody knows which files are in use
    failed: AtomicBool,       // to write the files, the last time
    told: AtomicBool,         // what NRI loses
    adjusts: AtomicBool,      // the runtime takes profiles; false before one has connected
    digests: Mutex<Digests>,
    compiled: Compiled,
    found: OnceLock<Contents>, // the files that were there when this daemon came
}

/// Digests of what policies say by themselves, and how many gaps that has, by the addresses of the policies, which the entry
/// keeps in place.
type Digests = HashMap<Vec<usize>, (Together, Result<(String, usize), String>)>;

/// A machine for which no seccomp profiles are made: every seccomp policy is a gap there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no seccomp profiles are made for the architecture `{0}`")]
pub struct UnknownMachine(pub String);

impl std::fmt::Debug for Seccomp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seccomp")
            .field("node", &self.node)
            .field("profiles", &self.profiles)
            .finish_non_exhaustive()
    }
}

/// What a container is created with.
#[derive(Debug)]
struct Plan {
    adjustment: ContainerAdjustment,
    created: Created,
    gaps: Vec<Gap>,
    not_applied: Option<String>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
enum PlanError {
    #[error("the profile that it has cannot be merged with: {0}")]
    Base(String),
    #[error("the container's profile: {0}")]
    Profile(String),
    #[error(transparent)]
    Machine(#[from] UnknownMachine),
}

impl Seccomp {
    /// For a node like this, or for one that nothing can be done on. `root` is `/`, but for tests.
    #[must_use]
    pub fn new(
        selection: Selection,
        node: Result<Node, UnknownMachine>,
        profiles: Profiles,
        registry: Arc<Registry>,
        root: PathBuf,
        notify: Notify,
    ) -> Self {
        let (synchronized, failed, told, adjusts) = Default::default();
        let (digests, compiled, found) = Default::default();
        Self {
            selection,
            node,
            profiles,
            registry,
            root,
            notify,
            synchronized,
            failed,
            told,
            adjusts,
            digests,
            compiled,
            found,
        }
    }

    /// Whether a seccomp policy selects this, and may.
    #[must_use]
    pub fn selects(&self, set: &PolicySet, subject: &Subject, wish: Wish) -> bool {
        !self.selecting_subject(set, subject, wish).is_empty()
    }

    /// The seccomp policies that select the container, and may.
    pub(crate) fn selecting(&self, set: &PolicySet, container: &Container) -> Together {
        self.selecting_subject(set, &container.subject, container.wish)
    }

    /// A pod that may wish to be left alone, or only to be audited, gets none: a filter that only logs what it would
    /// deny is another policy.
    fn selecting_subject(&self, set: &PolicySet, subject: &Subject, wish: Wish) -> Together {
        let audited = self.selection.honour_pod_annotations && wish == Wish::Audited;
        if self.selection.is_exempt(&subject.namespace, wish) || audited {
            return Together::new();
        }
        selecting(set, subject)
    }

    fn compile(&self, policies: &Together, base: &Base) -> Result<SeccompProfile, PlanError> {
        let node = self.node.as_ref().map_err(Clone::clone)?;
        let policies: Vec<_> = policies.iter().map(AsRef::as_ref).collect();
        compile(&policies, base, node).map_err(|error| PlanError::Base(chain(&error)))
    }

    /// The same for a container that is waited for.
    fn compile_once(&self, policies: &Together, base: &Base) -> Result<SeccompProfile, PlanError> {
        self.compiled.get(policies, base, || self.compile(policies, base))
    }

    /// The digest of what the policies say by themselves, and the number of gaps in it.
    fn alone(&self, policies: &Together) -> Result<(String, usize), String> {
        if let Some((_, made)) = self.digests().get(&addresses(policies)) {
            return made.clone();
        }
        let profile = self.compile(policies, &Base::Unconfined);
        let made = profile
            .map(|profile| (profile.digest().to_string(), profile.gaps.len()))
            .map_err(|error| error.to_string());
        self.digests().insert(addresses(policies), (policies.clone(), made.clone()));
        made
    }

    fn digest(&self, policies: &Together) -> Wanted {
        if policies.is_empty() {
            return Ok(None);
        }
        self.alone(policies).map(|(digest, _)| Some(digest))
    }

    /// How many gaps the policies have by themselves, and as the annotations say: for a container whose profile another daemon
    /// made, or that was listed anew.
    pub(crate) fn gaps_alone(&self, policies: &Together, created: &Created) -> usize {
        if policies.is_empty() {
            return 0;
        }
        let not_shown = if created.base_not_shown { policies.len() } else { 0 };
        self.alone(policies).map_or(policies.len(), |(_, gaps)| gaps + not_shown)
    }

    // after a panic in another thread at worst something is made again
    fn digests(&self) -> MutexGuard<'_, Digests> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the container is to be created with, but for what its policies say by themselves and the annotations that tell
    /// all of it. Reads a file where its pod names one.
    fn plan(&self, policies: &Together, raw: &nri::Container, adjusts: bool) -> Result<Plan, PlanError> {
        let mut created = Created::default();
        let mut adjustment = ContainerAdjustment::new();
        let profile = if adjusts {
            let base = match base::base(raw.linux.as_ref()) {
                Ok(base) => base,
                Err(unknown) => {
                    let advice =
                        format!("it keeps its profile as it is, and the policies have no effect: {unknown}");
                    let gaps = gaps(policies, GapReason::SeccompBase, &advice);
                    return Ok(Plan { adjustment, created, gaps, not_applied: Some(advice) });
                }
            };
            created.base_not_shown = base.is_none();
            let mut profile = self.compile_once(policies, &base.unwrap_or_else(base::runtime_default))?;
            self.tell_lost_errno();
            // of the whole profile; what is sent has another default
            profile.gaps.retain(|gap| gap.reason != GapReason::SeccompUnknown);
            if created.base_not_shown {
                profile.gaps.extend(gaps(policies, GapReason::SeccompBase, NOT_SHOWN));
            }
            adjustment = adjustment.seccomp(wire::to_nri(profile.without_default_errno()));
            profile
        } else {
            created.file = Some(localhost_profile(policies));
            self.compile_once(policies, &base::runtime_default())?
        };
        created.profile = Some(profile.digest().to_string());
        Ok(Plan { adjustment, created, gaps: profile.gaps, not_applied: None })
    }

    /// A pod is there: the profile of its containers is written before one of them is created, if it names that one.
    pub async fn pod(self: &Arc<Self>, context: &Context, set: &PolicySet, pod: &Subject, wish: Wish) {
        let policies = self.selecting_subject(set, pod, wish);
        let nowhere = self.node.is_err() || self.profiles.dirs().is_empty();
        if adjusts(context) || policies.is_empty() || nowhere {
            return;
        }
        let this = Arc::clone(self);
        let written = blocking(context, move || {
            let profile = this.compile_once(&policies, &base::runtime_default())?;
            this.profiles
                .put(&policies, &profile.to_json())
                .map_err(|error| PlanError::Profile(format!("cannot be written: {error}")))
        });
        if let Err(error) = written.await {
            tracing::error!(pod = pod.pod, error, "the seccomp profile of its containers is not there");
        }
    }

    /// What to change in a container that is being created. Nothing, if no seccomp policy selects it.
    ///
    /// # Errors
    /// When its policies cannot be applied; with `strict`, when not completely.
    pub async fn create(
        self: &Arc<Self>,
        context: &Context,
        set: &PolicySet,
        container: &Arc<Container>,
        raw: &nri::Container,
    ) -> Result<ContainerAdjustment, Refusal> {
        let policies = self.selecting(set, container);
        if policies.is_empty() {
            self.registry.seccomp().put(Arc::clone(container), Created::default());
            return Ok(ContainerAdjustment::new());
        }
        if let Err(unknown) = &self.node {
            let why = unknown.to_string();
            self.registry.seccomp().put(Arc::clone(container), Created::default());
            self.note_not_applied(container, &policies, &why, policies.len());
            self.tell_gaps(container, &policies, &gaps(&policies, GapReason::SeccompMachine, NO_EFFECT))?;
            return Ok(ContainerAdjustment::new());
        }
        let (this, raw, takes) = (Arc::clone(self), raw.clone(), adjusts(context));
        let planning = {
            let policies = policies.clone();
            blocking(context, move || this.plan(&policies, &raw, takes))
        };
        // side by side: both take their time where nothing like it was created lately
        let (this, alone) = (Arc::clone(self), policies.clone());
        let digesting = blocking(context, move || this.digest(&alone).map_err(PlanError::Base));
        let (planned, alone) = tokio::join!(planning, digesting);
        let refuse = |reason: String, advice| Err(Refusal::new(container, name(&policies), reason, advice));
        let planned = planned.and_then(|plan| Ok((plan, alone?)));
        let (Plan { mut adjustment, mut created, gaps, not_applied }, alone) = match planned {
            Ok(both) => both,
            Err(error) => return refuse(error, "mend the profile, or the policies"),
        };
        created.policies = alone;
        if created.profile.is_some() {
            for (key, value) in created.annotations() {
                adjustment = adjustment.annotation(key, value);
            }
        }
        self.tell_gaps(container, &policies, &gaps)?;
        if let Some(profile) = &created.profile {
            tracing::info!(%container, profile, file = created.file, "created under seccomp policies");
        }
        self.registry.seccomp().put(Arc::clone(container), created);
        self.registry.seccomp().has_gaps(&container.id, gaps.len());
        if let Some(why) = not_applied {
            self.note_not_applied(container, &policies, &why, gaps.len());
        }
        Ok(adjustment)
    }

    /// Notes that a container has not the profile of its policies, and lets people know.
    fn note_not_applied(&self, container: &Arc<Container>, policies: &Together, why: &str, gaps: usize) {
        self.registry.seccomp().not_applied(&container.id, why.to_owned());
        self.registry.seccomp().has_gaps(&container.id, gaps);
        (self.notify)(Notice::SeccompNotApplied {
            container: Arc::clone(container),
            policies: name(policies),
            advice: why.to_owned(),
        });
    }

    /// Whether profiles can be made for this machine.
    #[must_use]
    pub fn makes_profiles(&self) -> bool {
        self.node.is_ok()
    }

    /// The profile that a container is to be given in the place of `profile`, which it would have otherwise, and what it is
    /// created with then; `None`: no seccomp policy selects it. For a runtime that hands the whole configuration over.
    ///
    /// # Errors
    /// When its policies cannot be applied; with `strict`, when not completely.
    pub fn adjust(
        &self,
        set: &PolicySet,
        container: &Arc<Container>,
        profile: Option<LinuxSeccomp>,
    ) -> Result<Option<(LinuxSeccomp, Created)>, Refusal> {
        let policies = self.selecting(set, container);
        if policies.is_empty() {
            self.registry.seccomp().put_apart(Arc::clone(container), Created::default());
            return Ok(None);
        }
        if let Err(unknown) = &self.node {
            let why = unknown.to_string();
            self.registry.seccomp().put_apart(Arc::clone(container), Created::default());
            self.note_not_applied(container, &policies, &why, policies.len());
            self.tell_gaps(container, &policies, &gaps(&policies, GapReason::SeccompMachine, NO_EFFECT))?;
            return Ok(None);
        }
        let base = profile.map_or(Base::Unconfined, Base::Profile);
        let profile = self.compile_once(&policies, &base).map_err(|error| {
            Refusal::new(container, name(&policies), error, "mend the profile, or the policies")
        })?;
        self.tell_gaps(container, &policies, &profile.gaps)?;
        let digest = profile.digest().to_string();
        tracing::info!(%container, profile = digest, "created under seccomp policies");
        let wanted = self
            .digest(&policies)
            .map_err(|error| Refusal::new(container, name(&policies), error, "mend the policies"))?;
        let created = Created { profile: Some(digest), policies: wanted, ..Created::default() };
        self.registry.seccomp().put_apart(Arc::clone(container), created.clone());
        self.registry.seccomp().has_gaps(&container.id, profile.gaps.len());
        Ok(Some((profile.oci, created)))
    }

    /// Takes note of a start, of what was `created` so where it is not known. Looks whether a container that is about to start has the profile that its pod had to name; only
    /// where the runtime takes none from us.
    ///
    /// # Errors
    /// With `strict`, when it does not have it.
    pub async fn start(
        self: &Arc<Self>,
        context: &Context,
        set: &Arc<PolicySet>,
        container: &Arc<Container>,
        created: Created,
        pid: i32,
    ) -> Result<(), Refusal> {
        if self.registry.seccomp().started(container, || created) {
            let (this, set) = (Arc::clone(self), Arc::clone(set));
            let _nobody_waits = tokio::task::spawn_blocking(move || this.compare(&set));
        }
        let policies = self.selecting(set, container);
        if policies.is_empty() || adjusts(context) || self.node.is_err() {
            return Ok(());
        }
        let this = Arc::clone(self);
        let id = container.id.to_string();
        let seen = {
            let policies = policies.clone();
            let seen = move || {
                let wanted = this.compile_once(&policies, &base::runtime_default())?;
                this.has_profile(&wanted, pid, &id)
            };
            blocking(context, seen).await
        };
        let Err(reason) = seen else { return Ok(()) };
        let advice = name_it(&reason, &policies);
        let gaps = gaps(&policies, GapReason::SeccompProfile, &advice);
        self.note_not_applied(container, &policies, &advice, gaps.len());
        self.tell_gaps(container, &policies, &gaps)
    }

    /// Whether the container was created from this profile.
    fn has_profile(&self, wanted: &SeccompProfile, pid: i32, id: &str) -> Result<(), PlanError> {
        match bundle::profile(&self.root, pid, id) {
            Ok(Some(profile)) if profile == wanted.oci => Ok(()),
            Ok(Some(_)) => Err(PlanError::Profile("it is another one".into())),
            Ok(None) => Err(PlanError::Profile("it has none".into())),
            Err(unseen) => Err(PlanError::Profile(unseen.to_string())),
        }
    }

    /// Whether the creation of a container that seccomp policies select went past this plugin.
    #[must_use]
    pub fn went_past(
        &self,
        set: &PolicySet,
        container: &Container,
        adjustment: &ContainerAdjustment,
    ) -> bool {
        if self.selecting(set, container).is_empty() {
            return false;
        }
        match self.registry.seccomp().created(&container.id) {
            None => true,
            // what has no profile of ours was told about, or selected only now
            Some(Created { profile: None, .. }) => false,
            Some(Created { profile: Some(profile), file, .. }) => {
                adjustment.annotations.get(ANNOTATION) != Some(&profile)
                    // one that its pod has to name does not come with the adjustment
                    || (file.is_none() && adjustment.linux.seccomp_policy.is_none())
            }
        }
    }

    /// Tells once what no profile that goes over NRI can say.
    fn tell_lost_errno(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::info!(
                "NRI does not carry the errno of a seccomp profile's default: where the runtime is crun, system calls that \
                 are not known yet return EPERM instead of ENOSYS (runc answers ENOSYS by itself)"
            );
        }
    }

    /// Tells gaps; with `strict`, refuses for them.
    fn tell_gaps(
        &self,
        container: &Arc<Container>,
        policies: &Together,
        gaps: &[Gap],
    ) -> Result<(), Refusal> {
        for Gap { policy, field, reason, advice } in gaps {
            tracing::warn!(%container, %policy, field, advice, "{reason}");
        }
        if !self.selection.strict || gaps.is_empty() {
            return Ok(());
        }
        let reason = format!("not enforceable completely (strict): {}", crate::container::name_gaps(gaps));
        let first = gaps.first().map(|gap| gap.advice.clone()).unwrap_or_default();
        let reason = format!("{reason}; {first}");
        Err(Refusal::new(container, name(policies), reason, "or run without --strict"))
    }
}

/// Whether the runtime takes a seccomp policy over NRI. One that is not known and does not say what it speaks is taken
/// for an old one: the files work everywhere.
fn adjusts(context: &Context) -> bool {
    takes_profiles(context.runtime().nri_version)
}

fn takes_profiles(version: Option<NriVersion>) -> bool {
    version.is_some_and(|version| version >= ADJUSTABLE)
}

fn addresses(policies: &Together) -> Vec<usize> {
    policies.iter().map(|policy| Arc::as_ptr(policy).addr()).collect()
}

/// What to do about a pod that does not name its profile.
fn name_it(reason: &impl std::fmt::Display, policies: &Together) -> String {
    let file = localhost_profile(policies);
    format!(
        "{reason}; set `securityContext.seccompProfile` of the pod or container to `type: Localhost` and \
         `localhostProfile: {file}`"
    )
}

/// One gap for each of the policies.
fn gaps(policies: &Together, reason: GapReason, advice: &str) -> Vec<Gap> {
    let gap = |policy: &Arc<SeccompPolicy>| Gap {
        policy: policy.id().clone(),
        field: "spec.syscalls".into(),
        reason,
        advice: advice.into(),
    };
    policies.iter().map(gap).collect()
}

/// The policies for people.
fn name(policies: &Together) -> String {
    if policies.is_empty() {
        return "no policy".into();
    }
    crate::container::name(policies.iter().map(|policy| policy.id()))
}

/// Does what may block, and gives it up in time.
async fn blocking<T: Send + 'static>(
    context: &Context,
    body: impl FnOnce() -> Result<T, PlanError> + Send + 'static,
) -> Result<T, String> {
    let patience = context.remaining().saturating_sub(MARGIN);
    match tokio::time::timeout(patience, tokio::task::spawn_blocking(body)).await {
        Ok(Ok(result)) => result.map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it took too long".into()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
