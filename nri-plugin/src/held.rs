//! Which lock holds each rule of a policy, and what of it no lock holds as written. By the policy alone: whether a container
//! has what it takes is its own state, and where its links lead makes gaps of its own.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_core::compile::apparmor::Native;
use enforcer_core::compile::{apparmor, selinux};
use enforcer_core::coverage::{Gap, GapReason};
use enforcer_core::policy::{Kind, Policy, SeccompPolicy};
use enforcer_core::ruleset::{Effect, Postures, Ruleset};

use crate::apparmor::gaps as gaps_of_profile;
use crate::container::{HOST_ADVICE, gaps_for};
use crate::lock::Lock;
use crate::selinux::gaps as gaps_of_labels;

/// What no lock holds.
pub const NOBODY: &str = "none";
/// Where native rules stand in a policy.
pub const NATIVE: &str = "spec.apparmor";
const BPF: &str = "bpf";
const APPARMOR: &str = "apparmor";
const SELINUX: &str = "selinux";
const SECCOMP: &str = "seccomp";

/// The places of rules in a policy (`spec.file.matchPaths[0]`), by who holds them: a lock, or [`NOBODY`].
pub type Holders = BTreeMap<&'static str, BTreeSet<String>>;

/// What holds rules of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// The lock.
    pub lock: Lock,
    /// Whether policies on the host's own processes are enforced.
    pub host: bool,
}

impl Node {
    /// Whether any rule of the policy may be held here, by the processes that it is about.
    fn reaches(self, policy: &Policy) -> bool {
        match policy.id().kind {
            Kind::KubeArmorHostPolicy => self.host && self.lock.holds_host(),
            _ => self.lock.holds_containers(),
        }
    }

    /// The native rules of the policy, where they are for AppArmor.
    fn natives(self, policy: &Policy) -> Vec<Native> {
        let of_containers = policy.id().kind != Kind::KubeArmorHostPolicy;
        let text = policy.native_apparmor().filter(|_| of_containers && self.lock.takes_natives());
        text.map(|text| Native { policy: policy.id().clone(), text: text.to_owned() }).into_iter().collect()
    }

    /// Who holds each rule of a policy.
    #[must_use]
    pub fn holders(self, policy: &Policy) -> Holders {
        let mut holders = Holders::new();
        let mut put = |lock, fields: BTreeSet<String>| {
            if !fields.is_empty() {
                holders.entry(lock).or_default().extend(fields);
            }
        };
        let ruleset = Ruleset::of(policy, &Postures::default());
        let places = |rules: &Ruleset| -> BTreeSet<String> {
            rules.origins().iter().map(|origin| origin.rule.clone()).collect()
        };
        let (lock, held) = match self.lock {
            _ if !self.reaches(policy) => (NOBODY, BTreeSet::new()),
            Lock::Bpf | Lock::Both => (BPF, places(&ruleset)),
            Lock::AppArmor => (APPARMOR, places(&apparmor::held(&ruleset))),
            Lock::Selinux => {
                // labels report nothing
                let rules = selinux::held(&ruleset);
                let denying = rules.origins().iter().filter(|origin| origin.action != Effect::Audit);
                (SELINUX, denying.map(|origin| origin.rule.clone()).collect())
            }
            Lock::Nothing => (NOBODY, BTreeSet::new()),
        };
        let natives = self.natives(policy);
        let nobodys = places(&ruleset).into_iter().chain(policy.gaps().iter().map(|gap| gap.field.clone()));
        let nobodys = nobodys.filter(|place| !held.contains(place));
        let nobodys = nobodys.filter(|place| natives.is_empty() || place != NATIVE).collect();
        put(NOBODY, nobodys);
        put(lock, held);
        if !natives.is_empty() {
            put(APPARMOR, [NATIVE.to_owned()].into());
        }
        holders
    }

    /// What of a policy is not enforced as written.
    #[must_use]
    pub fn gaps(self, policy: &Policy) -> Vec<Gap> {
        let of_host = policy.id().kind == Kind::KubeArmorHostPolicy;
        if of_host && !self.reaches(policy) {
            return vec![Gap {
                policy: policy.id().clone(),
                field: "kind".to_owned(),
                reason: GapReason::HostPolicies,
                advice: HOST_ADVICE.to_owned(),
            }];
        }
        let natives = self.natives(policy);
        let read = |gap: &&Gap| natives.is_empty() || gap.reason != GapReason::AppArmor;
        let own = policy.gaps().iter().filter(read).cloned();
        let ruleset = || Ruleset::of(policy, &Postures::default());
        let rules = || policy.rules().iter().map(|rule| rule.origin.as_ref());
        let more = match self.lock {
            Lock::Bpf => Vec::new(),
            Lock::Both if natives.is_empty() => Vec::new(),
            Lock::Both => match Ruleset::new(Vec::new(), Vec::new(), Postures::default()) {
                Ok(nothing) => gaps_of_profile(&nothing, &natives),
                Err(_) => Vec::new(), // it has no rule that could be wrong
            },
            Lock::AppArmor => gaps_of_profile(&ruleset(), &natives),
            Lock::Selinux if of_host => gaps_of_labels(&ruleset()),
            Lock::Selinux => gaps_for(rules(), GapReason::SelinuxContainer).collect(),
            Lock::Nothing => gaps_for(rules(), GapReason::NoLock).collect(),
        };
        let all: BTreeSet<Gap> = own.chain(more).collect();
        all.into_iter().collect()
    }
}

/// Who holds each rule of a seccomp policy.
#[must_use]
pub fn holders_of_seccomp(policy: &SeccompPolicy) -> Holders {
    let rules: BTreeSet<String> = policy.rules().iter().map(|rule| rule.origin.rule.clone()).collect();
    [(SECCOMP, rules)].into_iter().filter(|(_, rules)| !rules.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_core::policy::parse;

    const POLICIES: &str = "apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  apparmor: |
    audit deny /n r,
  file: {matchPaths: [{path: /a}]}
  process: {matchPaths: [{path: /b, action: Audit}]}
  network: {matchDestinations: [{cidr: 10.0.0.0/8}], matchDNSQueries: [{domain: example.com}]}
---
apiVersion: security.kubearmor.com/v1
kind: KubeArmorHostPolicy
metadata: {name: host}
spec:
  nodeSelector: {matchLabels: {a: b}}
  file: {matchPaths: [{path: /a}, {path: /c, action: Audit}]}
  capabilities: {matchCapabilities: [{capability: net_raw}]}
";

    fn told(lock: Lock, host: bool, kind: Kind) -> Vec<(&'static str, Vec<String>)> {
        let parsed = parse("p", POLICIES);
        assert_eq!(parsed.errors, []);
        let policy = parsed.policies.iter().find(|policy| policy.id().kind == kind).unwrap();
        let node = Node { lock, host };
        let holders = node.holders(policy);
        let all: BTreeSet<String> = holders.values().flatten().cloned().collect();
        assert_eq!(
            all.len(),
            holders.values().map(BTreeSet::len).sum::<usize>(),
            "each has one holder: {holders:?}"
        );
        // whoever is nobody's is a gap, or the whole policy is one
        let gaps: BTreeSet<String> = node.gaps(policy).into_iter().map(|gap| gap.field).collect();
        for place in holders.get(NOBODY).into_iter().flatten() {
            assert!(gaps.contains(place) || gaps.contains("kind"), "{lock:?} {place}: {gaps:?}");
        }
        holders.into_iter().map(|(lock, places)| (lock, places.into_iter().collect())).collect()
    }

    fn places(names: &[&str]) -> Vec<String> {
        let mut places: Vec<String> = names.iter().map(|name| format!("spec.{name}")).collect();
        places.sort();
        places
    }

    #[test]
    fn each_rule_has_one_holder_and_what_has_none_is_a_gap() {
        let (file, process) = ("file.matchPaths[0]", "process.matchPaths[0]");
        let (net, dns) = ("network.matchDestinations[0]", "network.matchDNSQueries[0]");
        let web = |lock| told(lock, false, Kind::KubeArmorPolicy);
        let bpf = ("bpf", places(&[file, process, net]));
        assert_eq!(web(Lock::Bpf), [bpf.clone(), ("none", places(&["apparmor", dns]))]);
        assert_eq!(web(Lock::Both), [("apparmor", places(&["apparmor"])), bpf, ("none", places(&[dns]))]);
        assert_eq!(
            web(Lock::AppArmor),
            [("apparmor", places(&["apparmor", file, process])), ("none", places(&[net, dns]))]
        );
        for lock in [Lock::Selinux, Lock::Nothing] {
            assert_eq!(web(lock), [("none", places(&["apparmor", file, process, net, dns]))]);
        }
    }

    #[test]
    fn the_hosts_rules_are_held_where_policies_on_it_are() {
        let (a, c, cap) = ("file.matchPaths[0]", "file.matchPaths[1]", "capabilities.matchCapabilities[0]");
        let host = |lock, host| told(lock, host, Kind::KubeArmorHostPolicy);
        let nobody = [("none", places(&[a, c, cap]))];
        for lock in [Lock::Bpf, Lock::AppArmor, Lock::Selinux, Lock::Both, Lock::Nothing] {
            assert_eq!(host(lock, false), nobody, "{lock:?}");
        }
        assert_eq!(host(Lock::Bpf, true), [("bpf", places(&[a, c, cap]))]);
        assert_eq!(host(Lock::AppArmor, true), nobody);
        assert_eq!(host(Lock::Selinux, true), [("none", places(&[c, cap])), ("selinux", places(&[a]))]);
    }
}
