//! The report of a node, as it is written and read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use enforcer_core::policy::{Policy, PolicyId, SeccompPolicy};
use serde::{Deserialize, Serialize};

use super::cut;
use super::definition::{GROUP, KIND, VERSION};
use crate::api::objects::About;
use crate::api::{Abouts, Key, Resource};
use crate::set::PolicySet;
use crate::status::document::{PolicyGap, PolicyStatus};

/// The most bytes that the policies of a report have as JSON, as the API server writes it. etcd takes 1.5 MB.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// The most bytes of a text in it.
pub(super) const MAX_TEXT: usize = 1024;
/// The most bytes of a text where there is no room for all.
const SHORT: usize = 128;
/// The most gaps of one policy in it.
pub(super) const MAX_GAPS: usize = 100;

/// The report of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeReport {
    #[serde(default)]
    pub(super) api_version: String,
    #[serde(default)]
    pub(super) kind: String,
    pub(super) metadata: Metadata,
    pub(super) renew_time: String,
    #[serde(default)]
    pub(super) daemon: Daemon,
    #[serde(default)]
    pub(super) total: u32,
    #[serde(default)]
    pub(super) uncovered: u32,
    #[serde(default)]
    pub(super) omitted: u32,
    pub(super) policies: Vec<PolicyReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Metadata {
    pub(super) name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Daemon {
    pub(super) version: String,
    pub(super) lock: String,
    pub(super) connected: bool,
}

/// How a policy stands on a node. What is left out is nothing, or no.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PolicyReport {
    pub(super) kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) generation: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) containers: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) uncovered: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) refused: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) older: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) overridden: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) unheld: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) gaps: Vec<PolicyGap>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl NodeReport {
    /// The bytes of its policies, as the API server writes them.
    pub(super) fn bytes(&self) -> usize {
        self.policies.iter().map(size).sum()
    }

    /// The report of a node, of what its status tells and the API server has, with at most so many bytes of policies.
    /// Objects of which the server has not told since the daemon started are left out; so are those that the set does not
    /// have yet as the server told them, since nothing is known of these.
    pub(super) fn new(
        node_name: &str,
        daemon: Daemon,
        set: &PolicySet,
        told: Vec<PolicyStatus>,
        abouts: &Abouts,
        most: usize,
    ) -> Self {
        let address = |policy: &Arc<Policy>| Arc::as_ptr(policy).addr();
        let address_of_seccomp = |policy: &Arc<SeccompPolicy>| Arc::as_ptr(policy).addr();
        let in_force: HashSet<usize> =
            set.policies().iter().map(address).chain(set.seccomp().iter().map(address_of_seccomp)).collect();
        let mut told: HashMap<(String, String, String), PolicyStatus> = told
            .into_iter()
            .map(|one| ((one.kind.clone(), one.namespace.clone(), one.name.clone()), one))
            .collect();
        let each = abouts.iter().filter(|about| about.generation > 0 && !about.is_of_namespace()).filter_map(
            |about| {
                let About { key: Key { resource, namespace, name }, .. } = about.as_ref();
                let kind = resource.kind().to_owned();
                let told = told.remove(&(kind, namespace.clone(), name.clone()));
                let its = about.policy.as_ref().map(address);
                let its = its.or_else(|| about.seccomp.as_ref().map(address_of_seccomp));
                let known = its.is_some_and(|its| in_force.contains(&its));
                let overridden = !known && is_of_file(set, &about.key);
                let comes = its.is_some() && !known && !overridden;
                (!comes).then(|| one(about, told.filter(|_| known), overridden))
            },
        );
        let mut policies: Vec<PolicyReport> = each.collect();
        // what matters comes first: of the rest something may be left out
        policies.sort_by_key(|one| {
            let troubled = !one.refused.is_empty() || one.uncovered > 0 || one.overridden;
            (!troubled, one.containers == 0)
        });
        let total = number(policies.len());
        let uncovered = number(policies.iter().filter(|one| one.uncovered > 0).count());
        let policies = fitting(policies, most);
        let omitted = total.saturating_sub(number(policies.len()));
        Self {
            api_version: format!("{GROUP}/{VERSION}"),
            kind: KIND.to_owned(),
            metadata: Metadata { name: node_name.to_owned() },
            renew_time: String::new(),
            daemon,
            total,
            uncovered,
            omitted,
            policies,
        }
    }
}

/// Of these, in their order, as many as fit into so many bytes. First each with one gap, if it has any, as without it would
/// say that it has none; then more gaps. Where not all texts fit, all are short.
fn fitting(mut policies: Vec<PolicyReport>, most: usize) -> Vec<PolicyReport> {
    let mut gaps: HashMap<String, Vec<PolicyGap>> = HashMap::new();
    for one in policies.iter_mut().filter(|one| one.gaps.len() > 1) {
        gaps.insert(one.uid.clone(), one.gaps.split_off(1));
    }
    if policies.iter().map(size).sum::<usize>() > most {
        for one in &mut policies {
            let short = |text: &mut String| *text = cut(text, SHORT);
            [&mut one.refused, &mut one.reason].into_iter().for_each(short);
            for PolicyGap { field, reason, advice } in &mut one.gaps {
                [field, reason, advice].into_iter().for_each(short);
            }
        }
    }
    let mut room = most;
    let mut takes = |bytes: usize| match room.checked_sub(bytes) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    policies.retain(|one| takes(size(one)));
    for one in &mut policies {
        let more = gaps.remove(&one.uid).unwrap_or_default();
        one.gaps.extend(more.into_iter().take_while(|gap| takes(size(gap))));
    }
    policies
}

/// The bytes of an element of a list, as the API server writes it into its store: Go's encoder has six bytes for each `<`,
/// `>`, `&`, and for the two line separators of Unicode.
fn size(one: &impl Serialize) -> usize {
    let Ok(text) = serde_json::to_string(one) else { return MAX_BYTES };
    let more = text.chars().map(|sign| match sign {
        '<' | '>' | '&' => 5,
        '\u{2028}' | '\u{2029}' => 3,
        _ => 0,
    });
    text.len().saturating_add(more.sum()).saturating_add(1) // the comma
}

fn is_of_file(set: &PolicySet, Key { resource, namespace, name }: &Key) -> bool {
    let Resource::Policies(kind) = *resource else { return false };
    set.is_of_file(&PolicyId { kind, namespace: namespace.clone(), name: name.clone() })
}

fn one(about: &About, told: Option<PolicyStatus>, overridden: bool) -> PolicyReport {
    let About { key, uid, generation, refused, .. } = about;
    let in_force = about.policy.is_some() || about.seccomp.is_some();
    let mut one = PolicyReport {
        kind: key.resource.kind().to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: uid.clone(),
        generation: *generation,
        refused: refused.as_deref().map(|why| cut(why, MAX_TEXT)).unwrap_or_default(),
        older: refused.is_some() && in_force,
        overridden,
        ..PolicyReport::default()
    };
    if let Some(told) = told {
        let short = |gap: PolicyGap| PolicyGap {
            field: cut(&gap.field, MAX_TEXT),
            reason: cut(&gap.reason, MAX_TEXT),
            advice: cut(&gap.advice, MAX_TEXT),
        };
        one.containers = told.containers;
        one.uncovered = told.uncovered;
        one.unheld = told.unheld;
        one.reason = cut(&told.reason, MAX_TEXT);
        one.gaps = told.gaps.into_iter().take(MAX_GAPS).map(short).collect();
    }
    one
}

/// A count as the API has them.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX).min(i32::MAX.unsigned_abs())
}
