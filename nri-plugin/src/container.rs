//! A container as the daemon knows it, and what the policies say about it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use enforcer_core::compile::apparmor::Native;
use enforcer_core::coverage::{Coverage, Gap, GapReason};
use enforcer_core::enforce::ContainerId;
use enforcer_core::links::LookUps;
use enforcer_core::parallel;
use enforcer_core::policy::{Policy, PolicyId};
use enforcer_core::ruleset::{Origin, Postures, Resolved, Ruleset};
use enforcer_core::subject::Subject;
use enforcer_core::visibility::Visibility;

use crate::apparmor;
use crate::held::Node;
use crate::lock::Lock;
use crate::observe::watches::Watches;
use crate::selinux;
use crate::set::PolicySet;

/// A container of the runtime, with what policies select by and alerts tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id.
    pub id: ContainerId,
    /// Namespace, pod, labels, name.
    pub subject: Subject,
    /// The uid that its pod has in Kubernetes; empty where the runtime does not tell.
    pub pod_uid: String,
    /// The image's name; empty where the runtime does not tell.
    pub image: String,
    /// What its pod wishes.
    pub wish: Wish,
}

impl std::fmt::Display for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Subject { namespace, pod, container, host, .. } = &self.subject;
        if *host {
            return f.write_str("the host");
        }
        write!(f, "container `{container}` of pod `{namespace}/{pod}`")
    }
}

/// The annotation by which a pod may wish to be left alone.
pub const WISH_ANNOTATION: &str = "kubearmor-policy";

/// What a pod wishes for itself. Whoever may write a pod would switch enforcement off with it, so it counts only where
/// the node's configuration says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Wish {
    /// To be treated as its policies say.
    #[default]
    None,
    /// No policies.
    Disabled,
    /// Nothing denied, only reported.
    Audited,
}

impl Wish {
    /// What a pod's annotations wish.
    #[must_use]
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        match annotations.get(WISH_ANNOTATION).map(String::as_str) {
            Some("disabled") => Self::Disabled,
            Some("audited") => Self::Audited,
            _ => Self::None,
        }
    }
}

/// How this node reads policies.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Default postures.
    pub postures: Postures,
    /// Namespaces that no policy reaches: nothing may lock a node out.
    pub exempt: BTreeSet<String>,
    /// Whether a container with gaps must not start.
    pub strict: bool,
    /// Whether pods may wish.
    pub honour_pod_annotations: bool,
    /// Whether only seccomp policies are enforced, so that each other rule is a gap.
    pub seccomp_only: bool,
    /// What holds the others.
    pub lock: Lock,
    /// The postures of the host's own processes; `None`: policies on those are not enforced.
    pub host: Option<Postures>,
    /// Whether a container whose rules no lock holds must not start: the node has the OCI hook put into containers, in
    /// the mode `closed`.
    pub must_hold: bool,
    /// What is to be seen of containers whose namespace does not say.
    pub visibility: Visibility,
    /// Who wants to see more of single containers, for every clone of this.
    pub watches: Arc<Watches>,
    /// Rulesets made already, for every clone of this.
    pub merged: Arc<Mutex<Memo>>,
}

/// What policies say about the containers that they select, before links are followed.
#[derive(Debug, PartialEq, Eq)]
pub struct Merged {
    /// The rules.
    pub ruleset: Arc<Ruleset>,
    /// What of the policies is not in them.
    pub coverage: Coverage,
    /// The paths whose links matter.
    pub paths: Arc<LookUps>,
    /// Native AppArmor rules of the same policies, where AppArmor holds them.
    pub natives: Vec<Native>,
}

impl Merged {
    /// Whether nothing is to be put in force.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.ruleset.is_empty() && self.natives.is_empty()
    }

    /// Whether there are rules of policies, without which the container must not start. Where it is only observed, it may.
    #[must_use]
    pub fn binds(&self) -> bool {
        !self.natives.is_empty() || !(self.ruleset.is_empty() || self.ruleset.only_observes())
    }

    /// `policy` or `policies` and the names of those that bind the container, for people.
    #[must_use]
    pub fn name_binding(&self) -> String {
        let natives = self.natives.iter().map(|native| &native.policy);
        name(self.ruleset.origins().iter().map(|origin| &origin.policy).chain(natives))
    }

    /// Whether some policy selects the container, be it with gaps alone.
    #[must_use]
    pub fn is_of_policies(&self) -> bool {
        self.binds() || !self.coverage.gaps.is_empty()
    }
}

impl From<Resolved> for Merged {
    fn from(Resolved { ruleset, coverage }: Resolved) -> Self {
        let paths = Arc::new(LookUps::of(&ruleset));
        Self { ruleset: Arc::new(ruleset), coverage, paths, natives: Vec::new() }
    }
}

/// Rulesets that the memo holds on to, twice: those wanted since it was full last, and those of the time before. What
/// is forgotten is made again.
const REMEMBERED: usize = 256;

/// Rulesets by the policies they are made of: containers that the same policies select share one. Those that were not
/// wanted for a while are forgotten.
#[derive(Debug, Default)]
pub struct Memo {
    young: HashMap<Made, (Vec<Arc<Policy>>, Arc<Merged>)>,
    old: HashMap<Made, (Vec<Arc<Policy>>, Arc<Merged>)>,
}

/// What a ruleset is made of: the addresses of policies, which the entry keeps in place, how they are read, and what is
/// seen besides; and that others are left out.
type Made = (Vec<usize>, Postures, Wish, Visibility, Option<Gap>);

impl Memo {
    /// Forgets what was not wanted since the last time.
    fn age(&mut self) {
        self.old = std::mem::take(&mut self.young);
    }

    fn put(&mut self, made: Made, policies: Vec<Arc<Policy>>, merged: Arc<Merged>) {
        if self.young.len() >= REMEMBERED {
            self.age();
        }
        self.young.insert(made, (policies, merged));
    }

    fn get(&mut self, made: &Made) -> Option<Arc<Merged>> {
        if let Some((_, merged)) = self.young.get(made) {
            return Some(Arc::clone(merged));
        }
        let (made, entry) = self.old.remove_entry(made)?;
        let merged = Arc::clone(&entry.1);
        self.young.insert(made, entry);
        Some(merged)
    }
}

/// What is to be made a ruleset.
struct Selected<'s> {
    policies: Vec<&'s Arc<Policy>>,
    subject: &'s Subject,
    postures: Postures,
    wish: Wish,
    visibility: Visibility,
    left_out: Option<&'s Gap>,
}

impl Selected<'_> {
    fn made_of(&self) -> Made {
        let policies = self.policies.iter().map(|policy| Arc::as_ptr(policy).addr()).collect();
        (policies, self.postures, self.wish, self.visibility, self.left_out.cloned())
    }
}

/// What to do about a container that waits for the policies.
pub const AWAIT_ADVICE: &str = "`nri-enforcer status` says what stands in the way of the API server; start the container again when it has told them";

/// Rulesets for which it is worth to begin a thread: making one of 20 rules takes some 20 microseconds.
const WORTH: usize = 16;

impl Selection {
    /// What the policies say about the subject; `None` where none selects it and nothing of it is to be seen, its namespace
    /// is exempt, or it wishes to be left alone and may.
    #[must_use]
    pub fn resolve(&self, set: &PolicySet, subject: &Subject, wish: Wish) -> Option<Arc<Merged>> {
        self.resolve_all(set, &[(subject, wish)]).pop().flatten()
    }

    /// The same for many, in their order, on as many CPUs as this process may use. Subjects that the same policies select
    /// share the result.
    #[must_use]
    pub fn resolve_all(&self, set: &PolicySet, subjects: &[(&Subject, Wish)]) -> Vec<Option<Arc<Merged>>> {
        let selected: Vec<_> =
            subjects.iter().map(|(subject, wish)| self.selected(set, subject, *wish)).collect();
        let made_of: Vec<_> = selected.iter().map(|one| one.as_ref().map(Selected::made_of)).collect();
        let mut known = HashMap::new();
        let mut new = Vec::new();
        for (made, one) in made_of.iter().zip(&selected) {
            if let (Some(made), Some(one)) = (made, one)
                && !known.contains_key(made)
            {
                let before = self.memo().get(made);
                if before.is_none() {
                    new.push((made, one));
                }
                known.insert(made, before);
            }
        }
        let merged = parallel::map(&new, WORTH, |(_, one)| Arc::new(self.merge(one)));
        for ((made, one), merged) in new.into_iter().zip(merged) {
            let policies = one.policies.iter().copied().cloned().collect();
            self.memo().put(made.clone(), policies, Arc::clone(&merged));
            known.insert(made, Some(merged));
        }
        // a policy may select a container and yet have no rule that can be expressed: then there are only gaps
        let says = |merged: &Arc<Merged>| !merged.is_nothing() || !merged.coverage.gaps.is_empty();
        let of = |made: &Option<Made>| known.get(made.as_ref()?).cloned().flatten().filter(says);
        made_of.iter().map(of).collect()
    }

    /// Whether no policy binds the container, whatever it says.
    #[must_use]
    pub fn is_exempt(&self, namespace: &str, wish: Wish) -> bool {
        self.exempt.contains(namespace) || (self.honour_pod_annotations && wish == Wish::Disabled)
    }

    /// Why it cannot be known which policies are to hold for a container; `None`: it is known, or none is to.
    #[must_use]
    pub fn awaits(&self, set: &PolicySet, namespace: &str, wish: Wish) -> Option<String> {
        set.untold().filter(|_| !self.is_exempt(namespace, wish))
    }

    /// The same of a container that is there, or of the host.
    #[must_use]
    pub fn awaits_for(&self, set: &PolicySet, container: &Container) -> Option<String> {
        match container.subject.host {
            true => set.untold_of_host(&container.subject),
            false => self.awaits(set, &container.subject.namespace, container.wish),
        }
    }

    /// What is to be made one for the subject; `None` where nothing is.
    fn selected<'s>(&self, set: &'s PolicySet, subject: &'s Subject, wish: Wish) -> Option<Selected<'s>> {
        if self.is_exempt(&subject.namespace, wish) {
            return None;
        }
        let wish = if self.honour_pod_annotations { wish } else { Wish::None };
        let policies = set.selecting(subject);
        let postures = self.postures_of(set, subject);
        let visibility = self.visibility_of(set, subject);
        let left_out = set.left_out(subject);
        let any = !policies.is_empty() || !visibility.is_none() || left_out.is_some();
        any.then_some(Selected { policies, subject, postures, wish, visibility, left_out })
    }

    /// What becomes of the subject's accesses in the classes that are whitelists.
    #[must_use]
    pub fn postures_of(&self, set: &PolicySet, subject: &Subject) -> Postures {
        match subject.host {
            true => self.host.unwrap_or_default(),
            false => set.postures(&subject.namespace, self.postures),
        }
    }

    /// What is to be seen of the subject. Only BPF-LSM can tell it.
    #[must_use]
    pub fn visibility_of(&self, set: &PolicySet, subject: &Subject) -> Visibility {
        if subject.host || self.seccomp_only || !matches!(self.lock, Lock::Bpf | Lock::Both) {
            return Visibility::NONE;
        }
        set.visibility(&subject.namespace, self.visibility).with(self.watches.visibility(subject))
    }

    fn merge(&self, selected: &Selected<'_>) -> Merged {
        let Selected { policies, subject, postures, wish, visibility, left_out } = selected;
        let mut resolved = Ruleset::resolve(policies.iter().map(AsRef::as_ref), postures, subject);
        if *wish == Wish::Audited {
            resolved.ruleset = resolved.ruleset.audited();
        }
        let mut natives = Vec::new();
        let unheld = match subject.host && !self.seccomp_only {
            true => (!self.holds_host()).then_some(GapReason::HostPolicies),
            false => self.holds_none(),
        };
        if let Some(reason) = unheld {
            let gaps = gaps_for(resolved.ruleset.origins().iter().map(AsRef::as_ref), reason);
            let coverage = Coverage::new(resolved.coverage.gaps.iter().cloned().chain(gaps));
            resolved = Resolved { ruleset: none(postures, subject), coverage };
        }
        match self.lock {
            _ if unheld.is_some() => {}
            Lock::Selinux => {
                let gaps = selinux::gaps(&resolved.ruleset);
                resolved.coverage = Coverage::new(resolved.coverage.gaps.iter().cloned().chain(gaps));
            }
            Lock::Bpf | Lock::Nothing => {}
            // native rules deny, which is not what an audited pod gets
            Lock::Both if *wish == Wish::Audited || subject.host => {}
            Lock::Both => {
                natives = Native::of(policies.iter().map(AsRef::as_ref), subject);
                let of_natives = apparmor::gaps(&none(postures, subject), &natives);
                resolved.coverage = held_by_apparmor(&resolved.coverage, of_natives);
            }
            Lock::AppArmor => {
                if *wish != Wish::Audited {
                    natives = Native::of(policies.iter().map(AsRef::as_ref), subject);
                }
                let gaps = apparmor::gaps(&resolved.ruleset, &natives);
                resolved.coverage = match natives.is_empty() {
                    true => Coverage::new(resolved.coverage.gaps.iter().cloned().chain(gaps)),
                    false => held_by_apparmor(&resolved.coverage, gaps),
                };
            }
        }
        if let Some(gap) = left_out.cloned() {
            resolved.coverage = Coverage::new(resolved.coverage.gaps.into_iter().chain([gap]));
        }
        resolved.ruleset = resolved.ruleset.observing(*visibility);
        Merged { natives, ..Merged::from(resolved) }
    }

    /// Why no rule of any container is held here, but for seccomp policies; `None`: rules are.
    #[must_use]
    pub const fn holds_none(&self) -> Option<GapReason> {
        match self.lock {
            _ if self.seccomp_only => Some(GapReason::OtherThanSeccomp),
            Lock::Nothing => Some(GapReason::NoLock),
            Lock::Selinux => Some(GapReason::SelinuxContainer),
            Lock::Bpf | Lock::AppArmor | Lock::Both => None,
        }
    }

    /// What holds rules here.
    #[must_use]
    pub fn node(&self) -> Node {
        let lock = if self.seccomp_only { Lock::Nothing } else { self.lock };
        Node { lock, host: self.holds_host() }
    }

    /// Whether policies on the host's own processes are enforced: BPF-LSM and SELinux can, and only if they are to.
    #[must_use]
    pub fn holds_host(&self) -> bool {
        self.host.is_some() && !self.seccomp_only && self.lock.holds_host()
    }

    /// Forgets rulesets that were not wanted lately.
    pub fn age(&self) {
        self.memo().age();
    }

    /// Forgets all of them, after a time in which every container was looked at.
    pub fn forget(&self) {
        *self.memo() = Memo::default();
    }

    // after a panic in another thread at worst something is made again
    fn memo(&self) -> MutexGuard<'_, Memo> {
        self.merged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is not enforced where native rules are held by AppArmor, and `more` is not.
fn held_by_apparmor(coverage: &Coverage, more: Vec<Gap>) -> Coverage {
    let others = coverage.gaps.iter().filter(|gap| gap.reason != GapReason::AppArmor).cloned();
    Coverage::new(others.chain(more))
}

fn none(postures: &Postures, subject: &Subject) -> Ruleset {
    Ruleset::resolve([], postures, subject).ruleset
}

/// What to do where policies on the host's own processes are not enforced.
pub const HOST_ADVICE: &str = "it has no effect; run the daemon with --host-policies, on a node with BPF-LSM and cgroup v2, or with SELinux";

/// A gap for each of these rules, none of which is held.
pub(crate) fn gaps_for<'o>(
    rules: impl IntoIterator<Item = &'o Origin>,
    reason: GapReason,
) -> impl Iterator<Item = Gap> {
    let advice = match reason {
        GapReason::HostPolicies => HOST_ADVICE,
        _ => {
            "it has no effect; `nri-enforcer probe` says what BPF-LSM and AppArmor need; SELinux holds host policies alone"
        }
    };
    rules.into_iter().map(move |origin| Gap {
        policy: origin.policy.clone(),
        field: origin.rule.clone(),
        reason,
        advice: advice.into(),
    })
}

/// `policy` or `policies` and the names of those that a ruleset comes from, for people.
#[must_use]
pub fn name_policies(ruleset: &Ruleset) -> String {
    name(ruleset.origins().iter().map(|origin| &origin.policy))
}

/// The same with the policies that have nothing but gaps.
#[must_use]
pub fn name_all_policies(resolved: &Merged) -> String {
    let gaps = resolved.coverage.gaps.iter().map(|gap| &gap.policy);
    name(resolved.ruleset.origins().iter().map(|origin| &origin.policy).chain(gaps))
}

/// The same for these policies.
pub(crate) fn name<'a>(policies: impl Iterator<Item = &'a PolicyId>) -> String {
    let policies: BTreeSet<&PolicyId> = policies.collect();
    let names: Vec<String> = policies.iter().map(|id| format!("`{id}`")).collect();
    match names.len() {
        0 => "the default posture".into(), // a whitelist whose only Allow rules are gaps
        1 => format!("policy {}", names.concat()),
        _ => format!("policies {}", names.join(", ")),
    }
}

/// The gaps as one readable text.
#[must_use]
pub fn name_gaps(gaps: &[Gap]) -> String {
    let gaps: Vec<String> =
        gaps.iter().map(|gap| format!("`{}` {}: {}", gap.policy, gap.field, gap.reason)).collect();
    gaps.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_core::policy::parse;

    #[test]
    fn many_at_once_are_what_each_is_alone_and_share_what_is_the_same() {
        let policy = |name: &str, selector: &str| {
            format!(
                "---\napiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
                 spec:\n  selector: {selector}\n  file: {{matchPaths: [{{path: /{name}}}]}}\n"
            )
        };
        let apps: String = (0..40)
            .map(|n| policy(&format!("app-{n}"), &format!("{{matchLabels: {{app: app-{n}}}}}")))
            .collect();
        let parsed = parse("p.yaml", &apps);
        assert_eq!(parsed.errors, []);
        let set = PolicySet::new(parsed.policies.into_iter().map(Arc::new).collect());
        let subject = |n: usize| Subject {
            namespace: if n.is_multiple_of(7) { "other" } else { "shop" }.into(),
            labels: [("app".into(), format!("app-{}", n % 50))].into(),
            ..Subject::default()
        };
        let subjects: Vec<Subject> = (0..500).map(subject).collect();
        let asked: Vec<_> = subjects.iter().map(|subject| (subject, Wish::None)).collect();
        let all = Selection::default().resolve_all(&set, &asked);
        assert_eq!(all.len(), asked.len());
        for (n, (merged, subject)) in all.iter().zip(&subjects).enumerate() {
            assert_eq!(*merged, Selection::default().resolve(&set, subject, Wish::None), "{n}");
            assert_eq!(merged.is_some(), !n.is_multiple_of(7) && n % 50 < 40, "{n}");
        }
        let [Some(one), Some(other)] = [&all[1], &all[51]] else { panic!("both are selected") };
        assert!(Arc::ptr_eq(one, other), "the same policies select them");
    }
}
