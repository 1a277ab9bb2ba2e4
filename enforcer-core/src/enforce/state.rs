//! What is in the kernel, mirrored: read back once when the maps are adopted, then kept in step.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use enforcer_bpf::types;
use libbpf_rs::MapFlags;

use super::ContainerId;
use super::error::EnforceError;
use super::maps::Maps;
use crate::compile::bpf::compile;
use crate::compile::bpf::image::First;
use crate::ruleset::{Ruleset, RulesetDigest};

/// Names for what events carry as numbers. What is gone stays known for a while: its last events are still to come.
#[derive(Debug, Default)]
pub(super) struct Names {
    containers: HashMap<u64, ContainerId>,
    rulesets: HashMap<u32, RulesetDigest>,
    gone_containers: VecDeque<u64>,
    gone_rulesets: VecDeque<u32>,
}

/// How many containers and rulesets that are gone are remembered.
const REMEMBERED: usize = 4096;

impl Names {
    pub(super) fn container(&self, key: u64) -> Option<ContainerId> {
        self.containers.get(&key).cloned()
    }

    pub(super) fn ruleset(&self, id: u32) -> Option<RulesetDigest> {
        self.rulesets.get(&id).copied()
    }

    pub(super) fn learn_container(&mut self, key: u64, id: ContainerId) {
        self.containers.insert(key, id);
    }

    pub(super) fn learn_ruleset(&mut self, id: u32, digest: RulesetDigest) {
        self.rulesets.insert(id, digest);
    }

    pub(super) fn retire_container(&mut self, key: u64) {
        self.gone_containers.push_back(key);
        if self.gone_containers.len() > REMEMBERED
            && let Some(oldest) = self.gone_containers.pop_front()
        {
            self.containers.remove(&oldest);
        }
    }

    pub(super) fn retire_ruleset(&mut self, id: u32) {
        self.gone_rulesets.push_back(id);
        if self.gone_rulesets.len() > REMEMBERED
            && let Some(oldest) = self.gone_rulesets.pop_front()
        {
            self.rulesets.remove(&oldest);
        }
    }
}

/// An armed container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) key: u64,
    pub(super) slot: u32,
    pub(super) ruleset: u32, // 0: no rules at present
    pub(super) cgroup_id: u64,
    pub(super) mnt_ns: u32,
}

/// A ruleset in the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct InForce {
    pub(super) id: u32,
    pub(super) place: u32,
    pub(super) classes: u32,
    pub(super) first: [First; 2],
    pub(super) hints: u32,
    users: usize,
}

/// The mirror.
#[derive(Debug)]
pub(super) struct State {
    pub(super) containers: BTreeMap<ContainerId, Entry>,
    rulesets: BTreeMap<RulesetDigest, InForce>,
    by_id: BTreeMap<u32, RulesetDigest>,
    places: Numbers,
    slots: Numbers,
}

/// Small numbers, each given to one at a time.
#[derive(Debug)]
struct Numbers {
    taken: BTreeSet<u32>,
    room: u32,
    next: u32, // where to look first: numbers are not given again at once
}

impl Numbers {
    fn new(room: u32) -> Self {
        Self { taken: BTreeSet::new(), room, next: 0 }
    }

    fn take(&mut self) -> Option<u32> {
        let free = |number: &u32| !self.taken.contains(number);
        let number = (self.next..self.room).chain(0..self.next.min(self.room)).find(free)?;
        self.taken.insert(number);
        self.next = number + 1;
        Some(number)
    }

    fn give(&mut self, number: u32) {
        self.taken.remove(&number);
    }
}

/// `NAMESPACE_BITS`: word and bit of a mount namespace.
pub(super) fn place_of(namespace: u32) -> (usize, u64) {
    (usize::try_from(namespace % 4096 / 64).unwrap_or(0), 1 << (namespace % 64))
}

/// Key in `published` whose value has the next free ruleset id for its place. No ruleset has the id 0, and no id is
/// ever used twice: tasks remember sources by it.
const NEXT_ID: u32 = 0;

fn next_id(maps: &Maps) -> Result<u32, EnforceError> {
    Ok(maps.published.get(NEXT_ID)?.map_or(1, |held| held.place))
}

fn set_next_id(maps: &Maps, id: u32) -> Result<(), EnforceError> {
    maps.published.set(NEXT_ID, &types::published { place: id, ..Default::default() }, MapFlags::ANY)
}

impl State {
    /// Reads what an earlier daemon left.
    pub(super) fn adopt(maps: &Maps, names: &mut Names) -> Result<Self, EnforceError> {
        let mut state = Self {
            containers: BTreeMap::new(),
            rulesets: BTreeMap::new(),
            by_id: BTreeMap::new(),
            places: Numbers::new(maps.places.count()),
            slots: Numbers::new(maps.armed.room()),
        };
        for (id, held) in maps.published.entries()? {
            if id == NEXT_ID {
                continue;
            }
            // An id without rules is what a daemon left that died between the two.
            if !maps.places.holds(held.place)? {
                maps.published.remove(id)?;
                continue;
            }
            let digest = RulesetDigest::from_bytes(held.digest);
            let types::published { place, classes, first, hints, .. } = held;
            let in_force = InForce { id, place, classes, first, hints, users: 0 };
            state.rulesets.insert(digest, in_force);
            state.by_id.insert(id, digest);
            state.places.taken.insert(held.place);
            names.learn_ruleset(id, digest);
        }
        for (key, value) in maps.containers.entries()? {
            let id = ContainerId::of_value(&value)?;
            let slot = value.slot;
            let armed = maps.armed.get(slot)?.filter(|armed| armed.container == key);
            let ruleset = armed.map_or(0, |armed| armed.ruleset);
            let entry = Entry { key, slot, ruleset, cgroup_id: value.cgroup_id, mnt_ns: value.mnt_ns };
            if let Some(digest) = state.by_id.get(&ruleset)
                && let Some(in_force) = state.rulesets.get_mut(digest)
            {
                in_force.users += 1;
            }
            names.learn_container(key, id.clone());
            state.slots.taken.insert(slot);
            state.containers.insert(id, entry);
        }
        let unused: Vec<u32> = state.rulesets.values().filter(|p| p.users == 0).map(|p| p.id).collect();
        for id in unused {
            state.withdraw(maps, names, id)?;
        }
        Ok(state)
    }

    /// The digest of a container's rules.
    pub(super) fn digest(&self, entry: &Entry) -> Option<RulesetDigest> {
        self.by_id.get(&entry.ruleset).copied()
    }

    /// A bit for each class of which some ruleset in the kernel has rules.
    pub(super) fn classes(&self) -> u32 {
        self.rulesets.values().fold(0, |all, in_force| all | in_force.classes)
    }

    /// The mount namespaces of the armed containers, and of one that is to be.
    pub(super) fn namespaces(&self, coming: Option<u32>) -> types::namespace_bits {
        let mut bits = types::namespace_bits::default();
        for number in self.containers.values().map(|entry| entry.mnt_ns).chain(coming) {
            let (word, bit) = place_of(number);
            bits.words.iter_mut().skip(word).take(1).for_each(|word| *word |= bit);
        }
        bits
    }

    /// A place among the armed containers.
    pub(super) fn take_slot(&mut self) -> Result<u32, EnforceError> {
        self.slots.take().ok_or(EnforceError::Full("armed containers"))
    }

    /// Nothing may be left in the maps that names the slot.
    pub(super) fn give_slot(&mut self, slot: u32) {
        self.slots.give(slot);
    }

    /// `ruleset` in the kernel, published if need be, with one more user.
    pub(super) fn acquire(
        &mut self,
        maps: &Maps,
        names: &mut Names,
        ruleset: &Ruleset,
    ) -> Result<InForce, EnforceError> {
        let digest = ruleset.digest();
        if let Some(in_force) = self.rulesets.get_mut(&digest) {
            in_force.users += 1;
            return Ok(*in_force);
        }
        let image = compile(ruleset)?;
        let id = next_id(maps)?;
        set_next_id(maps, id.checked_add(1).ok_or(EnforceError::Full("ruleset ids"))?)?;
        let place = self.places.take().ok_or(EnforceError::Full("rulesets"))?;
        let (classes, first, hints) = (image.classes(), image.first(), image.hints());
        let in_force = InForce { id, place, classes, first, hints, users: 1 };
        // The digest first: a digest without rules is removed at the next adoption, rules without one never would be.
        let value = types::published { digest: *digest.as_bytes(), place, classes, first, hints, pad: 0 };
        let published = maps
            .published
            .set(id, &value, MapFlags::NO_EXIST)
            .and_then(|()| maps.places.publish(place, id, &image));
        if let Err(error) = published {
            // Best effort: the next adoption removes what is left.
            maps.published.remove(id).ok();
            maps.places.withdraw(place).ok();
            self.places.give(place);
            return Err(error);
        }
        self.rulesets.insert(digest, in_force);
        self.by_id.insert(id, digest);
        names.learn_ruleset(id, digest);
        Ok(in_force)
    }

    /// One user less; the last one takes the ruleset out of the kernel.
    pub(super) fn release(&mut self, maps: &Maps, names: &mut Names, id: u32) -> Result<(), EnforceError> {
        let Some(in_force) = self.by_id.get(&id).and_then(|digest| self.rulesets.get_mut(digest)) else {
            return Ok(());
        };
        in_force.users = in_force.users.saturating_sub(1);
        if in_force.users == 0 { self.withdraw(maps, names, id) } else { Ok(()) }
    }

    fn withdraw(&mut self, maps: &Maps, names: &mut Names, id: u32) -> Result<(), EnforceError> {
        let Some(in_force) = self.by_id.remove(&id).and_then(|digest| self.rulesets.remove(&digest)) else {
            return Ok(());
        };
        names.retire_ruleset(id);
        maps.places.withdraw(in_force.place)?;
        self.places.give(in_force.place);
        maps.published.remove(id)
    }
}

impl ContainerId {
    fn of_value(value: &types::container) -> Result<Self, EnforceError> {
        let len = usize::try_from(value.id_len).unwrap_or(usize::MAX);
        let bytes = value.id.get(..len).unwrap_or_default();
        Self::new(String::from_utf8_lossy(bytes))
    }
}
