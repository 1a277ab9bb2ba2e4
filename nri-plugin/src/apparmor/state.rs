//! What is known of profiles and their containers, and whose turn it is to load one.
//!
//! Compiling a profile takes seconds. Nothing here is locked meanwhile but the one name, so whoever only takes note of
//! something waits for nobody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use enforcer_core::compile::apparmor::{Native, ProfileName};
use enforcer_core::enforce::ContainerId;
use enforcer_core::ruleset::{Ruleset, RulesetDigest};

use crate::procs::Process;

/// How long it counts what was in a profile before, and who had one that is over.
pub(super) const LATELY: Duration = Duration::from_secs(10);
/// How many containers that are over are kept in mind.
const REMEMBERED: usize = 256;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) bound: BTreeMap<ContainerId, Bound>,
    pub(super) earlier: BTreeSet<ContainerId>, // of `bound`: an earlier daemon's, which this one has not armed
    pub(super) loaded: BTreeMap<ProfileName, Content>,
    pub(super) before: BTreeMap<ProfileName, (Content, Instant)>, // what was in profiles that were exchanged lately
    pub(super) asked: BTreeMap<String, BTreeSet<ProfileName>>,    // by pods, which are there
    pub(super) given: BTreeMap<ContainerId, (ProfileName, Instant)>, // to podman's containers, and when it was needed last
    pub(super) came: u64,                                            // how many had a profile so far
    pub(super) ended: VecDeque<(ContainerId, ProfileName, Instant)>, // those that are over, the last `REMEMBERED`
    pub(super) listed: bool, // the runtime has told its pods: before, none can be called unused
}

impl State {
    /// The profile has this in it now. What it had before is kept in mind for a moment, for denials that are told later.
    pub(super) fn has_loaded(&mut self, name: ProfileName, content: Content) {
        let now = Instant::now();
        self.before.retain(|_, (_, when)| now.saturating_duration_since(*when) < LATELY);
        if let Some(before) = self.loaded.insert(name.clone(), content) {
            self.before.insert(name, (before, now));
        }
    }

    /// Keeps in mind which profile a container had that is over: what it was denied may be told a moment later.
    pub(super) fn remember(&mut self, id: ContainerId, name: ProfileName) {
        self.ended.retain(|(known, ..)| *known != id);
        self.ended.push_back((id, name, Instant::now()));
        if self.ended.len() > REMEMBERED {
            self.ended.pop_front();
        }
    }

    /// The number of the next container that has a profile.
    pub(super) fn next(&mut self) -> u64 {
        self.came = self.came.saturating_add(1);
        self.came
    }
}

/// A container that has, or is about to have, a profile of ours.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) name: ProfileName,
    pub(super) want: Option<Arc<Ruleset>>, // None: an earlier daemon put it there, and nobody has said what it should be
    pub(super) no_new_privs: bool,
    pub(super) process: Option<Process>,
    pub(super) since: Instant,
    pub(super) came: u64, // its number among those that had a profile so far
}

/// What a profile is made of; `ruleset` is `None` for one of an earlier daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) ruleset: Option<RulesetDigest>,
    pub(super) natives: Vec<Native>,
    pub(super) no_new_privs: bool,
}

impl Content {
    pub(super) const UNKNOWN: Self = Self { ruleset: None, natives: Vec::new(), no_new_privs: false };

    pub(super) fn new(ruleset: &Ruleset, natives: &[Native], no_new_privs: bool) -> Self {
        let mut natives = natives.to_vec();
        natives.sort_unstable();
        Self { ruleset: Some(ruleset.digest()), natives, no_new_privs }
    }
}

/// Names that somebody is about to load.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<BTreeSet<ProfileName>>,
    over: Condvar,
}

/// Nobody else looks at what the profile is to be, and loads it, until this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    name: &'a ProfileName,
}

impl Turns {
    /// Waits until nobody else is about to load the profile.
    pub(super) fn take<'a>(&'a self, name: &'a ProfileName) -> Turn<'a> {
        let mut taken = self.taken();
        while !taken.insert(name.clone()) {
            taken = self.over.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { turns: self, name }
    }

    /// Those that somebody is about to load.
    pub(super) fn names(&self) -> BTreeSet<ProfileName> {
        self.taken().clone()
    }

    // nothing panics while this is locked
    fn taken(&self) -> MutexGuard<'_, BTreeSet<ProfileName>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Of which profile.
    pub(super) const fn name(&self) -> &ProfileName {
        self.name
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.taken().remove(self.name);
        self.turns.over.notify_all();
    }
}
