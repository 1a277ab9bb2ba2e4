//! The rules of containers by all names that their paths have there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use enforcer_core::coverage::Gap;
use enforcer_core::enforce::ContainerId;
use enforcer_core::links::{LookUps, Resolution};
use enforcer_core::parallel;
use enforcer_core::path::AbsPath;
use enforcer_core::ruleset::{Ruleset, RulesetDigest};

use super::{Known, Reconciler, RootAt};
use crate::container::{Container, Merged};
use crate::kernel::Kernel;
use crate::order::RootOf;
use crate::procs::Process;
use crate::roots::{Found, Question};

/// What was found in the root of a container when it was looked at last.
#[derive(Debug)]
pub(super) struct LookedUp {
    process: Option<Process>,
    root: RootAt,
    paths: Arc<LookUps>,
    found: Arc<Found>,
}

/// Answers from before that still count, for now.
#[derive(Debug)]
pub(super) struct Kept {
    asked: Arc<LookUps>, // what they are not used for
    found: Arc<Found>,
}

/// A ruleset, what was found in a container's root now, and what had been found first, these two by their addresses:
/// containers in which the same was found share the result.
pub(super) type Answered = (RulesetDigest, usize, usize);

/// What comes of it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) linked: Weak<Linked>,
    names: Arc<Found>,       // the first ones from now on
    _found: [Arc<Found>; 2], // in place as long as their addresses mean something
}

/// A ruleset by all names that its paths have in a container.
#[derive(Debug)]
pub(super) struct Linked {
    pub(super) ruleset: Arc<Ruleset>,
    pub(super) gaps: Arc<[Gap]>,
}

impl Linked {
    /// `found` is sorted.
    fn new(merged: &Merged, found: &Found) -> Self {
        let answer = |path: &AbsPath| {
            let at = found.binary_search_by(|(found, _)| found.cmp(path)).ok()?;
            found.get(at).map(|(_, answer)| answer.clone())
        };
        let enforcer_core::links::Linked { ruleset, gaps } =
            merged.ruleset.with_links(|path| answer(path).unwrap_or_default());
        let ruleset = match ruleset.digest() == merged.ruleset.digest() {
            true => Arc::clone(&merged.ruleset),
            false => Arc::new(ruleset),
        };
        Self { ruleset, gaps: gaps.into() }
    }
}

/// A container, and what its links are followed by.
#[derive(Debug)]
pub(super) struct Unlinked {
    id: ContainerId,
    process: Option<Process>,
    merged: Arc<Merged>,
    found: Arc<Found>, // now
    first: Arc<Found>,
}

impl Unlinked {
    fn answered(&self, first: &Arc<Found>) -> Answered {
        (self.merged.ruleset.digest(), Arc::as_ptr(&self.found).addr(), Arc::as_ptr(first).addr())
    }

    /// The rules by all names, and the names that were found first from now on.
    fn link(&self) -> (Linked, Found) {
        let mut all_names = Found::clone(&self.found);
        let names = remember(&self.first, &self.merged.paths.paths, &mut all_names);
        (Linked::new(&self.merged, &all_names), names)
    }
}

/// Rulesets for which it is worth to begin a thread: following the links of 20 paths takes some 40 microseconds.
const WORTH: usize = 16;

impl<K: Kernel> Reconciler<K> {
    /// What has to be looked up for a container, and what stands in for the rest unless the `whole` is asked for; `None`
    /// where its root cannot be told.
    pub(super) fn question(
        &mut self,
        id: &ContainerId,
        process: Option<Process>,
        merged: &Merged,
        whole: bool,
    ) -> Option<(Question, Option<Kept>)> {
        let below = self.below(id, process)?;
        let known = self.known.get(id);
        let same = |known: &&Known| known.armed.is_some() && !whole;
        let same_root = |last: &&LookedUp, known: &Known| last.process == process && last.root == known.root;
        let last = known
            .filter(same)
            .and_then(|known| known.looked_up.as_ref().filter(|last| same_root(last, known)));
        let kept = last.map(|last| Kept {
            asked: self.reuse.fewer(&last.paths, &merged.paths),
            found: Arc::clone(&last.found),
        });
        let paths = Arc::clone(kept.as_ref().map_or(&merged.paths, |kept| &kept.asked));
        Some((Question { id: id.clone(), process: process?, below, paths }, kept))
    }

    /// Where the root of a container is, in the root of its first process; `None` where that cannot be told.
    fn below(&self, id: &ContainerId, process: Option<Process>) -> Option<PathBuf> {
        Some(match self.known.get(id).map(|known| &known.root) {
            None | Some(RootAt::Process) => PathBuf::from("/"),
            // podman tells nothing when it has changed
            Some(RootAt::Below(_, Some(inode))) if self.procs.root_inode(process?) == Some(*inode) => {
                PathBuf::from("/")
            }
            Some(RootAt::Below(root, _)) => root.clone(),
            Some(RootAt::Unknown) => return None,
        })
    }

    /// The same for whoever asks.
    pub(super) fn root_of(&self, id: &ContainerId) -> Option<RootOf> {
        let process = self.known.get(id)?.process?;
        let below = self.below(id, Some(process))?;
        Some(RootOf { process, below })
    }

    /// What the links of a container are followed by, in whose first process's root this was found.
    pub(super) fn unlinked(
        &mut self,
        id: &ContainerId,
        process: Option<Process>,
        merged: Arc<Merged>,
        found: Found,
        kept: Option<&Kept>,
    ) -> Unlinked {
        let mut found = self.shared(found);
        if let Some(Kept { asked, found: before }) = kept {
            let share = |found| share(&mut self.names, found);
            found = self.reuse.complete([&found, before], [asked, &merged.paths], share);
        }
        let first = match self.known.get(id) {
            Some(known) => Arc::clone(&known.names),
            None => self.shared(Found::new()),
        };
        Unlinked { id: id.clone(), process, merged, found, first }
    }

    /// The rules of each by all names that their paths have, in their order.
    pub(super) fn link_all(&mut self, all: &[Unlinked]) -> Vec<Arc<Linked>> {
        let mut new = HashMap::new();
        for one in all.iter().filter(|one| self.answer(one).is_none()) {
            new.entry(one.answered(&one.first)).or_insert(one);
        }
        let new: Vec<&Unlinked> = new.into_values().collect();
        let made = parallel::map(&new, WORTH, |one| one.link());
        let made: Vec<_> = new.into_iter().zip(made).map(|(one, made)| self.keep(one, made)).collect();
        let linked = all.iter().map(|one| self.link(one)).collect();
        drop(made); // had to live until it was found again
        linked
    }

    /// The rules by all names that their paths have in the root of the container's first process.
    pub(super) fn link(&mut self, one: &Unlinked) -> Arc<Linked> {
        let (linked, names) = self.answer(one).unwrap_or_else(|| self.keep(one, one.link()));
        if let Some(known) = self.known.get_mut(&one.id) {
            let complete = one.found.iter().all(|(_, answer)| answer.unknown.is_none());
            known.looked_up = complete.then(|| LookedUp {
                process: one.process,
                root: known.root.clone(),
                paths: Arc::clone(&one.merged.paths),
                found: Arc::clone(&one.found),
            });
            known.names = names;
            self.registry.has_gaps(&one.id, Arc::clone(&linked.gaps));
            let before = known.linked.replace(Arc::clone(&linked));
            if before.is_none_or(|before| !Arc::ptr_eq(&before, &linked)) {
                tell_links(&known.container, &linked);
            }
        }
        linked
    }

    fn answer(&self, one: &Unlinked) -> Option<(Arc<Linked>, Arc<Found>)> {
        let answer = self.linked.get(&one.answered(&one.first))?;
        Some((answer.linked.upgrade()?, Arc::clone(&answer.names)))
    }

    fn keep(&mut self, one: &Unlinked, (linked, names): (Linked, Found)) -> (Arc<Linked>, Arc<Found>) {
        let (linked, names) = (Arc::new(linked), self.shared(names));
        // the same comes of it the next time, when those names were first
        for first in [&one.first, &names] {
            let answer = Answer {
                linked: Arc::downgrade(&linked),
                names: Arc::clone(&names),
                _found: [&one.found, first].map(Arc::clone),
            };
            self.linked.insert(one.answered(first), answer);
        }
        (linked, names)
    }

    /// The same for all in which the same was found.
    pub(super) fn shared(&mut self, found: Found) -> Arc<Found> {
        share(&mut self.names, found)
    }
}

fn share(names: &mut HashSet<Arc<Found>>, found: Found) -> Arc<Found> {
    match names.get(&found) {
        Some(same) => Arc::clone(same),
        None => {
            let found = Arc::new(found);
            names.insert(Arc::clone(&found));
            found
        }
    }
}

/// Paths with other names that no rule names any more, and whose names are remembered all the same: a policy may go and
/// come back, and what the container made of its links meanwhile must not count alone then.
pub(super) const GONE: usize = 8;

/// Adds the names that were found first to those found now; those that are the first from now on. Of paths that no rule
/// names any more the last [`GONE`] come after the others, newest first: a daemon that lives for months must not hold
/// what each policy ever named.
fn remember(first: &Found, paths: &[AbsPath], found: &mut Found) -> Found {
    let wanted: BTreeSet<&AbsPath> = paths.iter().collect();
    let (named, gone): (Found, Found) = first.iter().cloned().partition(|(path, _)| wanted.contains(path));
    let mut names: BTreeMap<AbsPath, Resolution> = named.into_iter().collect();
    for (path, answer) in found.iter().filter(|(_, answer)| !answer.names.is_empty()) {
        let of_first = || Resolution { names: answer.names.clone(), unknown: None };
        names.entry(path.clone()).or_insert_with(of_first);
    }
    let mut all: BTreeMap<AbsPath, Resolution> = std::mem::take(found).into_iter().collect();
    for path in paths {
        for name in names.get(path).iter().flat_map(|answer| &answer.names) {
            let answer = all.entry(path.clone()).or_default();
            if !answer.names.contains(name) {
                answer.names.push(name.clone());
                answer.names.sort_unstable();
            }
        }
    }
    found.extend(all);
    names.into_iter().chain(gone.into_iter().take(GONE)).collect()
}

/// How many links and gaps of one container are told.
const TOLD: usize = 8;

fn tell_links(container: &Container, linked: &Linked) {
    let links = linked.ruleset.links();
    if !links.is_empty() {
        let told: Vec<String> = links.iter().take(TOLD).map(ToString::to_string).collect();
        let more = links.len().saturating_sub(TOLD);
        tracing::info!(%container, more, "follows links: {}", told.join(", "));
    }
    for Gap { policy, field, reason, advice } in linked.gaps.iter().take(TOLD) {
        tracing::warn!(%container, %policy, field, advice, "{reason}");
    }
    if linked.gaps.len() > TOLD {
        tracing::warn!(%container, gaps = linked.gaps.len(), "more links are not followed");
    }
}
