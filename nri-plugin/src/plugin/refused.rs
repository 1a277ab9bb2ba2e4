//! Who is refused at creation, by what the container is created with.

use std::path::Path;
use std::sync::Arc;

use enforcer_core::coverage::GapReason;
use nri::PodSandbox;
use nri_enforcer_hook::spec::{CRUN_FILTER, CRUN_HANDLERS, CRUN_HOOK_OUTPUT};
use nri_enforcer_hook::state::OWN_ANNOTATIONS;

use super::Plugin;
use super::told::own;
use crate::container::{AWAIT_ADVICE, Container, Merged, Wish, name, name_all_policies, name_gaps};
use crate::install::HOOK;
use crate::order::Refusal;
use crate::set::PolicySet;

impl Plugin {
    /// Where the OCI hook holds the gate shut, refuses a container of which it is not known yet which policies select it. What
    /// is exempt goes on: among that is what brings up the API server.
    pub(super) fn awaits(&self, container: &Arc<Container>) -> Result<(), Refusal> {
        let Container { subject, wish, .. } = &**container;
        match self.waits_for(&self.set(), &subject.namespace, *wish) {
            Some(why) => Err(Refusal::new(container, "its policies".into(), why, AWAIT_ADVICE)),
            None => Ok(()),
        }
    }

    /// Why such a container must not start yet.
    pub(super) fn waits_for(&self, set: &PolicySet, namespace: &str, wish: Wish) -> Option<String> {
        self.selection.must_hold.then(|| self.selection.awaits(set, namespace, wish)).flatten()
    }

    /// With `strict`, refuses a container whose policies have gaps; with the OCI hook, one whose rules no lock holds.
    pub(super) fn strict(&self, container: &Arc<Container>, resolved: &Merged) -> Result<(), Refusal> {
        let gaps = &resolved.coverage.gaps;
        let no_lock = |reason| matches!(reason, GapReason::NoLock | GapReason::SelinuxContainer);
        let unheld = gaps.iter().map(|gap| gap.reason).find(|reason| no_lock(*reason));
        match unheld {
            _ if gaps.is_empty() => return Ok(()),
            _ if self.selection.strict => {}
            Some(reason) if self.selection.must_hold => {
                let advice = "`nri-enforcer probe` says why; without --hook, or with the hook's mode `open`, it would start, \
                              and only be observed";
                return Err(Refusal::new(container, name_all_policies(resolved), reason, advice));
            }
            _ => return Ok(()),
        }
        let reason = format!("not enforceable completely (strict): {}", name_gaps(gaps));
        Err(Refusal::new(
            container,
            name_all_policies(resolved),
            reason,
            "remove these parts of the policies, or run without --strict",
        ))
    }

    /// Refuses a container that seccomp policies select, and that asks crun for another filter in place of their profile.
    /// Whoever may write a pod would be rid of them by that.
    pub(super) fn refuse_filter(
        &self,
        container: &Arc<Container>,
        pod: &PodSandbox,
        raw: &nri::Container,
    ) -> Result<(), Refusal> {
        if ![&pod.annotations, &raw.annotations].iter().any(|all| all.contains_key(CRUN_FILTER)) {
            return Ok(());
        }
        let policies = self.seccomp.selecting(&self.set(), container);
        if policies.is_empty() {
            return Ok(());
        }
        let reason =
            format!("its annotation `{CRUN_FILTER}` would put another filter in place of their profile");
        let policies = name(policies.iter().map(|policy| policy.id()));
        Err(Refusal::new(container, policies, reason, "remove the annotation"))
    }

    /// Refuses a container that a policy selects, and that has annotations which only this daemon writes, before it has
    /// written any: they would say of a container that it was created under its policies.
    pub(super) fn refuse_forged(
        &self,
        container: &Arc<Container>,
        pod: &PodSandbox,
        raw: &nri::Container,
    ) -> Result<(), Refusal> {
        let Some(key) =
            own(pod).or_else(|| raw.annotations.keys().find(|key| key.starts_with(OWN_ANNOTATIONS)))
        else {
            return Ok(());
        };
        let Some(policies) = self.selected(container) else { return Ok(()) };
        let reason = format!("its annotation `{key}` is one that only nri-enforcer writes");
        Err(Refusal::new(container, policies, reason, "remove the annotation"))
    }

    /// Refuses a container that a policy selects, and that asks crun to run something in place of its program. Then nothing
    /// is executed, with which file policies begin, and a virtual machine makes its system calls to another kernel.
    pub(super) fn refuse_handler(
        &self,
        container: &Arc<Container>,
        pod: &PodSandbox,
        raw: &nri::Container,
    ) -> Result<(), Refusal> {
        let has = |key: &&&str| pod.annotations.contains_key(**key) || raw.annotations.contains_key(**key);
        let Some(key) = CRUN_HANDLERS.iter().find(has) else { return Ok(()) };
        let Some(policies) = self.selected(container) else { return Ok(()) };
        let reason = format!("its annotation `{key}` would have crun run it in a way that they do not reach");
        Err(Refusal::new(container, policies, reason, "remove the annotation"))
    }

    /// Refuses a container that has the OCI hook, or would get it, and that asks crun to append what hooks print to files of the
    /// host. crun makes those as root, and only for containers with hooks: without ours the annotation does nothing.
    pub(super) fn refuse_output(
        &self,
        container: &Arc<Container>,
        pod: &PodSandbox,
        raw: &nri::Container,
    ) -> Result<(), Refusal> {
        let mut keys = pod.annotations.keys().chain(raw.annotations.keys());
        let Some(key) = keys.find(|key| key.starts_with(CRUN_HOOK_OUTPUT)) else { return Ok(()) };
        let is_ours = |hook: &nri::Hook| Path::new(&hook.path).file_name().is_some_and(|name| name == HOOK);
        let has_ours = raw.hooks.iter().flat_map(|hooks| &hooks.create_runtime).any(is_ours);
        let policies = match self.selected(container) {
            Some(policies) if self.injection.is_wanted() => policies,
            None | Some(_) if has_ours => "the OCI hook".into(),
            None | Some(_) => return Ok(()),
        };
        let reason = format!("by its annotation `{key}` crun would write to a file of the host, as root");
        Err(Refusal::new(container, policies, reason, "remove the annotation"))
    }

    /// The policies of every kind that select the container, for people; `None`: none does.
    pub(super) fn selected(&self, container: &Container) -> Option<String> {
        let (set, resolved) = (self.set(), self.resolve(container));
        let seccomp = self.seccomp.selecting(&set, container);
        if resolved.is_none() && seccomp.is_empty() {
            return None;
        }
        let origins = resolved.iter().flat_map(|resolved| resolved.ruleset.origins());
        let gaps = resolved.iter().flat_map(|resolved| &resolved.coverage.gaps);
        let policies = origins.map(|origin| &origin.policy).chain(gaps.map(|gap| &gap.policy));
        Some(name(policies.chain(seccomp.iter().map(|policy| policy.id()))))
    }
}
