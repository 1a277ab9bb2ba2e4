//! The reports of all nodes, and what they come to for each policy. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::wire::{NodeReport, PolicyReport};
use crate::api::objects::About;
use crate::status::document::PolicyGap;

/// The most gaps that are told of one policy.
const MAX_GAPS: usize = 100;

/// The last report of each node, brought down to what counts.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    nodes: BTreeMap<String, Node>,
    /// Nodes that a list has not told yet.
    unlisted: Option<BTreeSet<String>>,
    /// Each uid once, and each set of troubles: a thousand nodes tell the same.
    uids: HashSet<Arc<str>>,
    troubles: HashSet<Arc<Troubles>>,
}

#[derive(Debug)]
struct Node {
    renewed: Instant, // by our clock
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    uid: Arc<str>,
    generation: i64,
    containers: u32,
    uncovered: u32,
    troubles: Option<Arc<Troubles>>,
}

/// What is said beside numbers.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
struct Troubles {
    reason: String,
    refused: String,
    older: bool,
    overridden: bool,
    gaps: Vec<PolicyGap>,
}

/// What all nodes together say of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sum {
    /// The nodes that have this generation, or a later one.
    pub(super) nodes: u32,
    /// The nodes that have an earlier one.
    pub(super) behind: u32,
    /// The containers that it is enforced on.
    pub(super) containers: u64,
    /// The containers that are without it.
    pub(super) uncovered: u64,
    /// The first node with such, and why.
    pub(super) why: Option<(String, String)>,
    /// The nodes that refuse it, and what the first of them says.
    pub(super) refused: Option<(u32, String)>,
    /// The nodes on which an older version is in force.
    pub(super) older: u32,
    /// The nodes on which another policy counts in its place, and the first of them.
    pub(super) overridden: Option<(u32, String)>,
    /// What is not enforced, and on how many nodes.
    pub(super) gaps: BTreeMap<PolicyGap, u32>,
}

impl Nodes {
    /// All reports follow.
    pub(super) fn list(&mut self) {
        self.unlisted = Some(self.nodes.keys().cloned().collect());
    }

    /// That were all.
    pub(super) fn listed(&mut self) {
        for name in self.unlisted.take().unwrap_or_default() {
            self.nodes.remove(&name);
        }
        self.uids.retain(|uid| Arc::strong_count(uid) > 1);
        self.troubles.retain(|troubles| Arc::strong_count(troubles) > 1);
    }

    /// Takes a report, which was written so long ago by its own clock.
    pub(super) fn set(&mut self, report: NodeReport, age: Duration) {
        let name = report.metadata.name;
        let listed = self.unlisted.as_mut().is_some_and(|unlisted| unlisted.remove(&name));
        let now = Instant::now();
        // a clock that is behind ours must not make a living node one that is gone: what comes by a watch is new
        let renewed = match (listed, self.nodes.get(&name)) {
            (true, Some(before)) => before.renewed.max(now.checked_sub(age).unwrap_or(before.renewed)),
            _ if self.unlisted.is_some() => now.checked_sub(age).unwrap_or(now),
            _ => now,
        };
        // not collected: that would keep the report's memory, which is five times as much
        let mut entries = Vec::with_capacity(report.policies.len());
        for one in report.policies {
            entries.push(self.entry(one));
        }
        self.nodes.insert(name, Node { renewed, entries });
    }

    /// The node's report is gone.
    pub(super) fn gone(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// The nodes whose reports were not renewed for so long.
    pub(super) fn silent(&self, longest: Duration) -> Vec<String> {
        let silent = self.nodes.iter().filter(|(_, node)| node.renewed.elapsed() > longest);
        silent.map(|(name, _)| name.clone()).collect()
    }

    /// What the nodes say of each policy, in the order of `abouts`. Reports that were not renewed for longer than `stale` do
    /// not count.
    pub(super) fn sum(&self, abouts: &[Arc<About>], stale: Duration) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); abouts.len()];
        let places: HashMap<&str, usize> =
            abouts.iter().enumerate().map(|(place, about)| (about.uid.as_str(), place)).collect();
        for (name, node) in self.nodes.iter().filter(|(_, node)| node.renewed.elapsed() <= stale) {
            for entry in &node.entries {
                let place = places.get(entry.uid.as_ref()).copied();
                let Some((sum, about)) = place.and_then(|at| Some((sums.get_mut(at)?, abouts.get(at)?)))
                else {
                    continue; // it is gone
                };
                match entry.generation < about.generation {
                    true => sum.behind = sum.behind.saturating_add(1),
                    false => sum.add(name, entry),
                }
            }
        }
        sums
    }

    fn entry(&mut self, one: PolicyReport) -> Entry {
        let PolicyReport {
            uid,
            generation,
            containers,
            uncovered,
            reason,
            refused,
            older,
            overridden,
            gaps,
            ..
        } = one;
        let troubles = Troubles { reason, refused, older, overridden, gaps };
        let troubles = (troubles != Troubles::default()).then(|| interned(&mut self.troubles, troubles));
        let uid = match self.uids.get(uid.as_str()) {
            Some(uid) => Arc::clone(uid),
            None => {
                let uid = Arc::<str>::from(uid);
                self.uids.insert(Arc::clone(&uid));
                uid
            }
        };
        Entry { uid, generation, containers, uncovered, troubles }
    }
}

fn interned(all: &mut HashSet<Arc<Troubles>>, one: Troubles) -> Arc<Troubles> {
    if let Some(known) = all.get(&one) {
        return Arc::clone(known);
    }
    let one = Arc::new(one);
    all.insert(Arc::clone(&one));
    one
}

impl Sum {
    fn add(&mut self, name: &str, entry: &Entry) {
        self.nodes = self.nodes.saturating_add(1);
        self.containers = self.containers.saturating_add(entry.containers.into());
        self.uncovered = self.uncovered.saturating_add(entry.uncovered.into());
        let Some(troubles) = &entry.troubles else { return };
        let Troubles { reason, refused, older, overridden, gaps } = troubles.as_ref();
        if entry.uncovered > 0 && self.why.is_none() {
            self.why = Some((name.to_owned(), reason.clone()));
        }
        if !refused.is_empty() {
            let (nodes, _) = self.refused.get_or_insert_with(|| (0, refused.clone()));
            *nodes = nodes.saturating_add(1);
        }
        self.older = self.older.saturating_add((*older).into());
        if *overridden {
            let (nodes, _) = self.overridden.get_or_insert_with(|| (0, name.to_owned()));
            *nodes = nodes.saturating_add(1);
        }
        for gap in gaps {
            if let Some(nodes) = self.gaps.get_mut(gap) {
                *nodes = nodes.saturating_add(1);
            } else if self.gaps.len() < MAX_GAPS {
                self.gaps.insert(gap.clone(), 1);
            }
        }
    }
}
