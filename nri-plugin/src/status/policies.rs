//! How the node's containers stand to each policy.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use enforcer_core::coverage::Gap;
use enforcer_core::policy::{Kind, Policy, PolicyId, SeccompPolicy};

use super::document::{PolicyGap, PolicyStatus};
use crate::container::{Merged, Selection, gaps_for};
use crate::held::holders_of_seccomp;
use crate::set::PolicySet;

/// The most gaps that are told of one policy.
const MAX_GAPS: usize = 100;

/// How one container stands to the policies that select it.
#[derive(Debug)]
pub(super) struct Stands {
    /// Whether it is over; then it stands to none.
    pub(super) ended: bool,
    /// Why the rules are not in force on it; `None`: they are, but for gaps.
    pub(super) without_rules: Option<String>,
    /// Why it has not the profile of its seccomp policies.
    pub(super) without_profile: Option<String>,
    /// How many parts of the seccomp policies are not in its profile as written.
    pub(super) profile_gaps: usize,
    /// The policies other than seccomp policies that select it.
    pub(super) rules: Vec<Arc<Policy>>,
    /// The seccomp policies that select it.
    pub(super) seccomp: Vec<Arc<SeccompPolicy>>,
    /// What the rules come to.
    pub(super) merged: Option<Arc<Merged>>,
    /// The links among their paths that are not followed.
    pub(super) links: Arc<[Gap]>,
}

/// Every policy in force, and what is known of it.
#[derive(Debug, Default)]
pub(super) struct Policies(BTreeMap<PolicyId, One>);

#[derive(Debug, Default)]
struct One {
    containers: u32,
    uncovered: u32,
    reason: String,
    unheld: bool,
    gaps: BTreeSet<PolicyGap>,
    rules: BTreeMap<String, Vec<String>>,
}

impl Policies {
    /// The policies of the set, of which no container is known yet, with what of each the node does not hold as written.
    pub(super) fn new(set: &PolicySet, selection: &Selection) -> Self {
        let node = selection.node();
        let mut all = Self::default();
        for policy in set.iter() {
            let of_host = policy.id().kind == Kind::KubeArmorHostPolicy;
            let unheld = selection.holds_none().filter(|_| !of_host);
            let rules = policy.rules().iter().map(|rule| rule.origin.as_ref());
            let gaps: Vec<Gap> = match unheld {
                // the reason is not the lock alone
                Some(reason) => policy.gaps().iter().cloned().chain(gaps_for(rules, reason)).collect(),
                // that policies on the host are not enforced is told where one is selected
                None if of_host && !node.host => policy.gaps().to_vec(),
                None => node.gaps(policy),
            };
            let gaps = gaps.iter().map(told).take(MAX_GAPS).collect();
            let one = One { unheld: unheld.is_some(), gaps, ..One::default() };
            all.0.insert(policy.id().clone(), one);
        }
        for policy in set.seccomp() {
            all.0.insert(policy.id().clone(), One::default());
        }
        all
    }

    /// Takes how a container stands.
    pub(super) fn add(&mut self, stands: &Stands) {
        if stands.ended {
            return;
        }
        // once, and not for each policy: all of them together have as many as the container has
        let (mut gaps_of, mut with_rules) = (HashMap::<&PolicyId, Vec<&Gap>>::new(), HashSet::new());
        if let Some(merged) = stands.merged.as_deref().filter(|_| !stands.rules.is_empty()) {
            for gap in merged.coverage.gaps.iter().chain(stands.links.iter()) {
                let gaps = gaps_of.entry(&gap.policy).or_default();
                if gaps.len() < MAX_GAPS {
                    gaps.push(gap);
                }
            }
            with_rules.extend(merged.ruleset.origins().iter().map(|origin| &origin.policy));
            with_rules.extend(merged.natives.iter().map(|native| &native.policy));
        }
        for policy in &stands.rules {
            let id = policy.id();
            let Some(one) = self.0.get_mut(id) else { continue };
            let gaps = gaps_of.get(id).map(Vec::as_slice).unwrap_or_default();
            for gap in gaps {
                if one.gaps.len() < MAX_GAPS {
                    one.gaps.insert(told(gap));
                }
            }
            // other policies of the container may have rules that are in force
            let nothing = !gaps.is_empty() && !with_rules.contains(id);
            let why = stands.without_rules.clone().or_else(|| {
                nothing.then(|| "nothing of its rules can be enforced: they are gaps".to_owned())
            });
            one.count(why);
        }
        for policy in &stands.seccomp {
            let Some(one) = self.0.get_mut(policy.id()) else { continue };
            one.count(stands.without_profile.clone());
            if stands.profile_gaps > 0 && one.gaps.len() < MAX_GAPS {
                one.gaps.insert(PolicyGap {
                    field: "spec.syscalls".to_owned(),
                    reason: format!(
                        "parts of the container's seccomp policies that its profile does not say as written: {}",
                        stands.profile_gaps
                    ),
                    advice: "the log of the node's daemon names each".to_owned(),
                });
            }
        }
    }

    /// Takes that policies on the host's own processes are not enforced, though they select this node.
    pub(super) fn without_host(&mut self, policies: &[&Arc<Policy>], why: &str) {
        for policy in policies {
            if let Some(one) = self.0.get_mut(policy.id()) {
                one.count(Some(why.to_owned()));
            }
        }
    }

    /// Takes who holds each rule.
    pub(super) fn held(&mut self, set: &PolicySet, selection: &Selection) {
        let node = selection.node();
        let of_rules = set.iter().map(|policy| (policy.id(), node.holders(policy)));
        let of_seccomp = set.seccomp().iter().map(|policy| (policy.id(), holders_of_seccomp(policy)));
        for (id, holders) in of_rules.chain(of_seccomp) {
            if let Some(one) = self.0.get_mut(id) {
                let each = holders.into_iter();
                one.rules =
                    each.map(|(lock, rules)| (lock.to_owned(), rules.into_iter().collect())).collect();
            }
        }
    }

    /// The policies, by kind, namespace and name.
    pub(super) fn told(self) -> Vec<PolicyStatus> {
        let each = self.0.into_iter().map(|(id, one)| PolicyStatus {
            kind: id.kind.as_str().to_owned(),
            namespace: id.namespace,
            name: id.name,
            containers: one.containers,
            uncovered: one.uncovered,
            reason: one.reason,
            unheld: one.unheld,
            gaps: one.gaps.into_iter().collect(),
            rules: one.rules,
        });
        each.collect()
    }
}

impl One {
    /// Counts a container. `why`: it is without the policy.
    fn count(&mut self, why: Option<String>) {
        match why {
            None => self.containers = self.containers.saturating_add(1),
            Some(why) => {
                self.uncovered = self.uncovered.saturating_add(1);
                if self.reason.is_empty() {
                    self.reason = why;
                }
            }
        }
    }
}

fn told(gap: &Gap) -> PolicyGap {
    let Gap { field, reason, advice, .. } = gap;
    PolicyGap { field: field.clone(), reason: reason.to_string(), advice: advice.clone() }
}
