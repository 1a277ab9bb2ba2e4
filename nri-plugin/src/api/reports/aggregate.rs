//! The reports of all nodes, and what they come to for each policy. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cut;
use super::wire::{MAX_GAPS, MAX_TEXT, NodeReport, PolicyReport};
use crate::api::objects::About;
use crate::api::room::MAX_REPORTED;
use crate::status::document::PolicyGap;

/// The most nodes. Kubernetes is made for 5,000.
pub(super) const MAX_NODES: usize = 10_000;
/// The most bytes that all reports have here: three times what 1,000 nodes with 1,000 policies have.
const MAX_BYTES: usize = 128 << 20;
/// The most bytes of a text of a gap: a hundred of these are far less than etcd takes.
const MAX_GAP: usize = 512;
/// The longest uid that is one, in bytes; the API server's have 36.
const MAX_UID: usize = 64;
/// Fewer texts than this are not looked through for those that nobody has any more.
const FEW: usize = 1024;

/// The last report of each node, brought down to what counts.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    nodes: BTreeMap<String, Node>,
    /// Nodes that a list has not told yet.
    unlisted: Option<BTreeSet<String>>,
    /// Each uid once, and each set of troubles: a thousand nodes tell the same.
    uids: HashSet<Arc<str>>,
    troubles: HashSet<Arc<Troubles>>,
    /// How many of both there were when last those went that nobody had any more.
    tidied: usize,
    /// The bytes of both, and of all entries.
    bytes: usize,
    /// When a report had no place last.
    full: Option<Instant>,
}

#[derive(Debug)]
struct Node {
    renewed: Instant, // by our clock
    connected: bool,  // to the runtime
    entries: Vec<Entry>,
}

impl Node {
    const fn bytes(&self) -> usize {
        self.entries.capacity().saturating_mul(size_of::<Entry>())
    }
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
    unheld: bool,
    gaps: Vec<PolicyGap>,
}

impl Troubles {
    /// Roughly.
    fn bytes(&self) -> usize {
        let gap = |gap: &PolicyGap| {
            [&gap.field, &gap.reason, &gap.advice].iter().map(|text| text.len()).sum::<usize>()
                + size_of::<PolicyGap>()
        };
        let gaps: usize = self.gaps.iter().map(gap).sum();
        size_of::<Self>() + self.reason.len() + self.refused.len() + gaps
    }
}

/// What all nodes together say of a policy. The texts are those of the reports: many policies may have the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sum<'a> {
    /// The nodes that have this generation, or a later one.
    pub(super) nodes: u32,
    /// The nodes that have an earlier one.
    pub(super) behind: u32,
    /// The nodes that have told of no version of it: their reports leave it out, or had no place here.
    pub(super) untold: u32,
    /// The nodes among `nodes` whose runtime is not connected, and the first of them: their containers are not known.
    pub(super) disconnected: Option<(u32, &'a str)>,
    /// The containers that it is enforced on.
    pub(super) containers: u64,
    /// The containers that are without it.
    pub(super) uncovered: u64,
    /// The first node with such, and why.
    pub(super) why: Option<(&'a str, &'a str)>,
    /// The nodes that refuse it, and what the first of them says.
    pub(super) refused: Option<(u32, &'a str)>,
    /// The nodes on which an older version is in force.
    pub(super) older: u32,
    /// The nodes on which another policy counts in its place, and the first of them.
    pub(super) overridden: Option<(u32, &'a str)>,
    /// The nodes of which no lock holds any of it, and the first of them.
    pub(super) unheld: Option<(u32, &'a str)>,
    /// What is not enforced, and on how many nodes.
    pub(super) gaps: BTreeMap<&'a PolicyGap, u32>,
}

impl Nodes {
    /// All reports follow.
    pub(super) fn list(&mut self) {
        self.unlisted = Some(self.nodes.keys().cloned().collect());
    }

    /// That were all.
    pub(super) fn listed(&mut self) {
        for name in self.unlisted.take().unwrap_or_default() {
            self.gone(&name);
        }
        self.tidy();
    }

    /// Lets texts go that stand in no report any more.
    pub(super) fn tidy(&mut self) {
        self.uids.retain(|uid| Arc::strong_count(uid) > 1);
        self.troubles.retain(|troubles| Arc::strong_count(troubles) > 1);
        self.uids.shrink_to(self.uids.len().saturating_mul(2));
        self.troubles.shrink_to(self.troubles.len().saturating_mul(2));
        self.tidied = self.uids.len() + self.troubles.len();
        let entries: usize = self.nodes.values().map(Node::bytes).sum();
        let uids: usize = self.uids.iter().map(|uid| bytes(uid)).sum();
        let troubles: usize = self.troubles.iter().map(|troubles| troubles.bytes()).sum();
        self.bytes = entries.saturating_add(uids).saturating_add(troubles);
    }

    #[cfg(test)]
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a report, which was written so long ago by its own clock. For which there is no room, that node's policies are
    /// not known.
    pub(super) fn set(&mut self, report: NodeReport, age: Duration) {
        self.set_within(report, age, MAX_BYTES);
    }

    fn set_within(&mut self, report: NodeReport, age: Duration, most: usize) {
        let name = report.metadata.name;
        let listed = self.unlisted.as_mut().is_some_and(|unlisted| unlisted.remove(&name));
        let now = Instant::now();
        // a clock that is behind ours must not make a living node one that is gone: what comes by a watch is new
        let renewed = match (listed, self.nodes.get(&name)) {
            (true, Some(before)) => before.renewed.max(now.checked_sub(age).unwrap_or(before.renewed)),
            _ if self.unlisted.is_some() => now.checked_sub(age).unwrap_or(now),
            _ => now,
        };
        self.gone(&name);
        if self.nodes.len() >= MAX_NODES {
            self.is_full(&name);
            return;
        }
        let mut policies = report.policies;
        policies.retain(|one| one.uid.len() <= MAX_UID);
        // a policy counts once for a node, however often its report has it
        policies.sort_by(|one, other| one.uid.cmp(&other.uid));
        policies.dedup_by(|one, other| one.uid == other.uid);
        policies.truncate(MAX_REPORTED);
        // not collected: that would keep the report's memory, which is five times as much
        let mut entries = Vec::with_capacity(policies.len());
        for one in policies {
            entries.push(self.entry(one));
        }
        let mut node = Node { renewed, connected: report.daemon.connected, entries };
        if self.bytes.saturating_add(node.bytes()) > most {
            self.tidy(); // texts that nobody has any more may have the room
        }
        if self.bytes.saturating_add(node.bytes()) > most {
            node.entries = Vec::new();
            self.tidy();
            self.is_full(&name);
        }
        self.bytes = self.bytes.saturating_add(node.bytes());
        self.nodes.insert(name, node);
        if self.uids.len() + self.troubles.len() > self.tidied.saturating_mul(2).max(FEW) {
            self.tidy();
        }
    }

    fn is_full(&mut self, name: &str) {
        if self.full.replace(Instant::now()).is_none() {
            tracing::warn!(
                node = name,
                "there is no room for its report, so how policies stand there is not told; there are more than \
                 {MAX_NODES} reports or {MAX_BYTES} bytes of them: delete those of nodes that are gone"
            );
        }
    }

    /// The node's report is gone.
    pub(super) fn gone(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove(name) {
            self.bytes = self.bytes.saturating_sub(node.bytes());
        }
    }

    /// The nodes whose reports were not renewed for so long.
    pub(super) fn silent(&self, longest: Duration) -> Vec<String> {
        let silent = self.nodes.iter().filter(|(_, node)| node.renewed.elapsed() > longest);
        silent.map(|(name, _)| name.clone()).collect()
    }

    /// What the nodes say of each policy, in the order of `abouts`. Reports that were not renewed for longer than `stale` do
    /// not count.
    pub(super) fn sum(&self, abouts: &[Arc<About>], stale: Duration) -> Vec<Sum<'_>> {
        let mut sums = vec![Sum::default(); abouts.len()];
        let places: HashMap<&str, usize> =
            abouts.iter().enumerate().map(|(place, about)| (about.uid.as_str(), place)).collect();
        // of nodes that have no place at all there is one at least
        let mut live =
            u32::from(self.nodes.len() >= MAX_NODES && self.full.is_some_and(|full| full.elapsed() <= stale));
        for (name, node) in self.nodes.iter().filter(|(_, node)| node.renewed.elapsed() <= stale) {
            live = live.saturating_add(1);
            for entry in &node.entries {
                let place = places.get(entry.uid.as_ref()).copied();
                let Some((sum, about)) = place.and_then(|at| Some((sums.get_mut(at)?, abouts.get(at)?)))
                else {
                    continue; // it is gone
                };
                match entry.generation < about.generation {
                    true => sum.behind = sum.behind.saturating_add(1),
                    false => sum.add(name, node.connected, entry),
                }
            }
        }
        for sum in &mut sums {
            sum.untold = live.saturating_sub(sum.nodes).saturating_sub(sum.behind);
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
            unheld,
            gaps,
            ..
        } = one;
        // as whoever writes one cuts it; a daemon that was taken over may not
        let short = |text: String, most| if text.len() > most { cut(&text, most) } else { text };
        let gap = |gap: PolicyGap| PolicyGap {
            field: short(gap.field, MAX_GAP),
            reason: short(gap.reason, MAX_GAP),
            advice: short(gap.advice, MAX_GAP),
        };
        let mut gaps: Vec<PolicyGap> = gaps.into_iter().take(MAX_GAPS).map(gap).collect();
        // each counts once for a node, also where two differ in what was cut off
        gaps.sort_unstable();
        gaps.dedup();
        let (reason, refused) = (short(reason, MAX_TEXT), short(refused, MAX_TEXT));
        let troubles = Troubles { reason, refused, older, overridden, unheld, gaps };
        let troubles = (troubles != Troubles::default()).then(|| self.troubles(troubles));
        let uid = match self.uids.get(uid.as_str()) {
            Some(uid) => Arc::clone(uid),
            None => {
                self.bytes = self.bytes.saturating_add(bytes(&uid));
                let uid = Arc::<str>::from(uid);
                self.uids.insert(Arc::clone(&uid));
                uid
            }
        };
        Entry { uid, generation, containers, uncovered, troubles }
    }

    fn troubles(&mut self, one: Troubles) -> Arc<Troubles> {
        if let Some(known) = self.troubles.get(&one) {
            return Arc::clone(known);
        }
        self.bytes = self.bytes.saturating_add(one.bytes());
        let one = Arc::new(one);
        self.troubles.insert(Arc::clone(&one));
        one
    }
}

/// Roughly those of a uid, with its counts and its place in the set.
const fn bytes(uid: &str) -> usize {
    uid.len().saturating_add(64)
}

impl<'a> Sum<'a> {
    fn add(&mut self, name: &'a str, connected: bool, entry: &'a Entry) {
        self.nodes = self.nodes.saturating_add(1);
        if !connected {
            let (nodes, _) = self.disconnected.get_or_insert((0, name));
            *nodes = nodes.saturating_add(1);
        }
        self.containers = self.containers.saturating_add(entry.containers.into());
        self.uncovered = self.uncovered.saturating_add(entry.uncovered.into());
        let Some(troubles) = &entry.troubles else { return };
        let Troubles { reason, refused, older, overridden, unheld, gaps } = troubles.as_ref();
        if entry.uncovered > 0 && self.why.is_none() {
            self.why = Some((name, reason.as_str()));
        }
        if !refused.is_empty() {
            let (nodes, _) = self.refused.get_or_insert((0, refused.as_str()));
            *nodes = nodes.saturating_add(1);
        }
        self.older = self.older.saturating_add((*older).into());
        if *overridden {
            let (nodes, _) = self.overridden.get_or_insert((0, name));
            *nodes = nodes.saturating_add(1);
        }
        if *unheld {
            let (nodes, _) = self.unheld.get_or_insert((0, name));
            *nodes = nodes.saturating_add(1);
        }
        for gap in gaps {
            if let Some(nodes) = self.gaps.get_mut(gap) {
                *nodes = nodes.saturating_add(1);
            } else if self.gaps.len() < MAX_GAPS {
                self.gaps.insert(gap, 1);
            }
        }
    }
}

#[cfg(test)]
mod tests;
