//! What the log says about the policies: each thing once, however often they are read or another of them changes.

use std::collections::BTreeSet;

use enforcer_core::coverage::GapReason;
use enforcer_core::policy::{Kind, Policy, PolicyId};

use crate::container::HOST_ADVICE;
use crate::set::PolicySet;
use crate::store::Reload;

/// Tells about readings of the policies.
#[derive(Debug, Default)]
pub(super) struct News {
    problems: BTreeSet<String>,
    kept: BTreeSet<(String, String)>,
    gaps: BTreeSet<(PolicyId, String)>,
    host: Option<bool>, // whether policies on the host's own processes are enforced, once that is known
    unenforced: Option<GapReason>, // why nothing but seccomp policies is enforced
}

impl News {
    /// From now on policies other than seccomp policies are told as not enforced, beginning with these.
    pub(super) fn unenforced(&mut self, why: GapReason, set: &PolicySet) {
        self.unenforced = Some(why);
        self.tell_gaps(set);
    }

    /// Whether policies on the host's own processes are enforced from now on; where they are not, they are told, beginning
    /// with these.
    pub(super) fn host(&mut self, enforced: bool, set: &PolicySet) {
        self.host = Some(enforced);
        self.tell_gaps(set);
    }

    /// How many problems the last reading had.
    pub(super) fn problems(&self) -> usize {
        self.problems.len()
    }

    pub(super) fn tell(&mut self, reload: &Reload) {
        let Reload { set, changed, problems, kept } = reload;
        let now: BTreeSet<String> = problems.iter().map(ToString::to_string).collect();
        for problem in problems {
            if !self.problems.contains(&problem.to_string()) {
                tracing::error!(help = problem.help(), "{problem}");
            }
        }
        let kept: BTreeSet<(String, String)> = kept.iter().cloned().collect();
        for (place, policy) in kept.difference(&self.kept) {
            tracing::warn!(policy, place, "the last good version stays in force");
        }
        self.kept = kept;
        if now.is_empty() && !self.problems.is_empty() {
            tracing::info!("every policy is good again");
        }
        self.problems = now;
        if *changed {
            tracing::info!(policies = set.len(), "policies in force");
            self.tell_gaps(set);
        }
    }

    fn tell_gaps(&mut self, set: &PolicySet) {
        let mut now = BTreeSet::new();
        for gap in set.iter().flat_map(Policy::gaps) {
            let gap_of = (gap.policy.clone(), format!("{} {}", gap.field, gap.reason));
            if !self.gaps.contains(&gap_of) {
                tracing::warn!(policy = %gap.policy, field = gap.field, advice = gap.advice, "{}", gap.reason);
            }
            now.insert(gap_of);
        }
        for (policy, reason) in set.iter().filter_map(|policy| Some((policy, self.unenforced?))) {
            let id = policy.id();
            let gap_of = (id.clone(), reason.to_string());
            if !self.gaps.contains(&gap_of) {
                let advice = "`nri-enforcer probe` says what BPF-LSM and AppArmor need";
                match reason {
                    GapReason::NoLock => tracing::error!(policy = %id, advice, "NOT ENFORCED: {reason}"),
                    _ => tracing::warn!(policy = %id, advice, "{reason}"),
                }
            }
            now.insert(gap_of);
        }
        let of_host = |policy: &&Policy| policy.id().kind == Kind::KubeArmorHostPolicy;
        for policy in set.iter().filter(of_host).filter(|_| self.host == Some(false)) {
            let id = policy.id();
            let gap_of = (id.clone(), GapReason::HostPolicies.to_string());
            if !self.gaps.contains(&gap_of) {
                tracing::warn!(policy = %id, advice = HOST_ADVICE, "{}", GapReason::HostPolicies);
            }
            now.insert(gap_of);
        }
        self.gaps = now;
    }
}
