//! What is in the kernel, mirrored: read back once when the maps are adopted, then kept in step.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use enforcer_bpf::types;
use libbpf_rs::MapFlags;

use super::ContainerId;
use super::error::EnforceError;
use super::image::Publication;
use super::maps::Maps;
use super::withdraw::{Unused, Withdrawal};
use crate::compile::bpf::image::First;
use crate::compile::bpf::{BpfImage, compile_all};
use crate::ruleset::{Ruleset, RulesetDigest};

/// How full the maps in the kernel are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy {
    /// Armed containers. Past the limit another one cannot be armed, and is refused.
    pub containers: Entries,
    /// Rulesets, with those that are still being taken out. Containers with equal rules have one together.
    pub rulesets: Entries,
}

/// How full a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entries {
    /// What it holds.
    pub entries: usize,
    /// What it can hold.
    pub limit: usize,
}

/// Names for what events carry as numbers. What is gone stays known for a while: its last events are still to come.
#[derive(Debug, Default)]
pub(super) struct Names(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    containers: HashMap<u64, ContainerId>,
    rulesets: HashMap<u32, RulesetDigest>,
    gone_containers: VecDeque<u64>,
    gone_rulesets: VecDeque<u32>,
}

/// How many containers and rulesets that are gone are remembered.
const REMEMBERED: usize = 4096;

impl Names {
    pub(super) fn container(&self, key: u64) -> Option<ContainerId> {
        self.read().containers.get(&key).cloned()
    }

    pub(super) fn ruleset(&self, id: u32) -> Option<RulesetDigest> {
        self.read().rulesets.get(&id).copied()
    }

    pub(super) fn learn_container(&self, key: u64, id: ContainerId) {
        self.write().containers.insert(key, id);
    }

    pub(super) fn learn_ruleset(&self, id: u32, digest: RulesetDigest) {
        self.write().rulesets.insert(id, digest);
    }

    pub(super) fn retire_container(&self, key: u64) {
        let mut known = self.write();
        known.gone_containers.push_back(key);
        if known.gone_containers.len() > REMEMBERED
            && let Some(oldest) = known.gone_containers.pop_front()
        {
            known.containers.remove(&oldest);
        }
    }

    pub(super) fn retire_ruleset(&self, id: u32) {
        let mut known = self.write();
        known.gone_rulesets.push_back(id);
        if known.gone_rulesets.len() > REMEMBERED
            && let Some(oldest) = known.gone_rulesets.pop_front()
        {
            known.rulesets.remove(&oldest);
        }
    }

    // After a panic of a holder at worst a name is missing in an event.
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
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
    pub(super) held: bool, // it ran when its present rules came: descriptors may be older than those
    pub(super) host: bool, // the host itself
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
    by_class: [usize; CLASSES], // rulesets with rules of the class
    places: Numbers,
    slots: Numbers,
    withdrawal: Withdrawal,
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

/// Bits of a word of classes.
const CLASSES: usize = 32;

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
    pub(super) fn adopt(maps: &Arc<Maps>, names: &Names) -> Result<Self, EnforceError> {
        let mut state = Self {
            containers: BTreeMap::new(),
            rulesets: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_class: [0; CLASSES],
            places: Numbers::new(maps.places.count()),
            slots: Numbers::new(maps.armed.room()),
            withdrawal: Withdrawal::start(Arc::clone(maps))?,
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
            state.count(classes, |rulesets| rulesets + 1);
            state.rulesets.insert(digest, in_force);
            state.by_id.insert(id, digest);
            state.places.taken.insert(held.place);
            names.learn_ruleset(id, digest);
        }
        for (key, value) in maps.containers.entries()? {
            let id = ContainerId::of_value(&value)?;
            let slot = value.slot;
            let armed = maps.armed.get(slot)?.filter(|armed| armed.container == key);
            let (ruleset, held) = armed.map_or((0, 0), |armed| (armed.ruleset, armed.held));
            let types::container { cgroup_id, mnt_ns, .. } = value;
            let host = id.is_host();
            let entry = Entry { key, slot, ruleset, cgroup_id, mnt_ns, held: held != 0, host };
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
        unused.into_iter().for_each(|id| state.withdraw(names, id));
        Ok(state)
    }

    /// How full the maps are.
    pub(super) fn occupancy(&self) -> Occupancy {
        let of = |numbers: &Numbers| Entries {
            entries: numbers.taken.len(),
            limit: usize::try_from(numbers.room).unwrap_or(usize::MAX),
        };
        Occupancy { containers: of(&self.slots), rulesets: of(&self.places) }
    }

    /// The digest of a container's rules.
    pub(super) fn digest(&self, entry: &Entry) -> Option<RulesetDigest> {
        self.by_id.get(&entry.ruleset).copied()
    }

    /// A bit for each class of which some ruleset in the kernel has rules.
    pub(super) fn classes(&self) -> u32 {
        let used = (0..).zip(self.by_class).filter(|(_, rulesets)| *rulesets > 0);
        used.fold(0, |all, (class, _): (u32, _)| all | 1 << class)
    }

    fn count(&mut self, classes: u32, change: impl Fn(usize) -> usize) {
        let of = (0..).zip(&mut self.by_class).filter(|(class, _): &(u32, _)| classes >> class & 1 != 0);
        of.for_each(|(_, rulesets)| *rulesets = change(*rulesets));
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

    /// The rulesets in the kernel, in their order, each with one more user. Those that are not there are published,
    /// all with one wait for what the CPUs may still read. Each of these holds up to two file descriptors meanwhile.
    pub(super) fn acquire(
        &mut self,
        maps: &Maps,
        names: &Names,
        rulesets: &[&Ruleset],
    ) -> Result<Vec<InForce>, EnforceError> {
        let absent = rulesets.iter().map(|ruleset| (ruleset.digest(), *ruleset));
        let absent: BTreeMap<_, _> =
            absent.filter(|(digest, _)| !self.rulesets.contains_key(digest)).collect();
        let (digests, absent): (Vec<_>, Vec<_>) = absent.into_iter().unzip();
        let compiled: Result<Vec<_>, _> = compile_all(&absent).into_iter().collect();
        let new: BTreeMap<_, _> = digests.into_iter().zip(compiled?).collect();
        if !new.is_empty() {
            self.publish(maps, names, new)?;
        }
        let mut acquired = Vec::with_capacity(rulesets.len());
        for ruleset in rulesets {
            if let Some(in_force) = self.rulesets.get_mut(&ruleset.digest()) {
                in_force.users += 1;
                acquired.push(*in_force);
            }
        }
        Ok(acquired)
    }

    /// Puts rulesets into the kernel that are not there. Nobody uses them yet.
    fn publish(
        &mut self,
        maps: &Maps,
        names: &Names,
        mut new: BTreeMap<RulesetDigest, BpfImage>,
    ) -> Result<(), EnforceError> {
        let count = u32::try_from(new.len()).map_err(|_| EnforceError::Full("rulesets"))?;
        let first = next_id(maps)?;
        let next = first.checked_add(count).ok_or(EnforceError::Full("ruleset ids"))?;
        set_next_id(maps, next)?;
        let mut rulesets = Vec::with_capacity(new.len());
        for ((digest, image), id) in new.iter_mut().zip(first..next) {
            image.name(id);
            let Some(place) = self.take_place() else {
                rulesets.iter().for_each(|(_, other): &(_, InForce)| self.places.give(other.place));
                return Err(EnforceError::Full("rulesets"));
            };
            let (classes, first, hints) = (image.classes(), image.first(), image.hints());
            rulesets.push((*digest, InForce { id, place, classes, first, hints, users: 0 }));
        }
        let images: Vec<_> = rulesets
            .iter()
            .zip(new.values())
            .map(|((_, InForce { place, .. }), image)| Publication { place: *place, image })
            .collect();
        // The digests first: one without rules is removed at the next adoption, rules without one never would be.
        let published = rulesets
            .iter()
            .try_for_each(|(digest, InForce { id, place, classes, first, hints, .. })| {
                let (digest, place, classes) = (*digest.as_bytes(), *place, *classes);
                let value = types::published { digest, place, classes, first: *first, hints: *hints, pad: 0 };
                maps.published.set(*id, &value, MapFlags::NO_EXIST)
            })
            .and_then(|()| maps.places.publish(&images));
        for (digest, in_force) in rulesets {
            let InForce { id, place, .. } = in_force;
            if published.is_err() {
                self.withdrawal.begin(Unused { id, place });
                continue;
            }
            self.count(in_force.classes, |rulesets| rulesets + 1);
            self.rulesets.insert(digest, in_force);
            self.by_id.insert(id, digest);
            names.learn_ruleset(id, digest);
        }
        published
    }

    /// A place for a ruleset; where all are taken, one of those that are being emptied, as soon as it is.
    fn take_place(&mut self) -> Option<u32> {
        self.withdrawal.empty().into_iter().for_each(|place| self.places.give(place));
        self.places.take().or_else(|| {
            self.withdrawal.next_empty().into_iter().for_each(|place| self.places.give(place));
            self.places.take()
        })
    }

    /// One user less; after the last one the ruleset is taken out of the kernel, which this does not wait for.
    pub(super) fn release(&mut self, names: &Names, id: u32) {
        let Some(in_force) = self.by_id.get(&id).and_then(|digest| self.rulesets.get_mut(digest)) else {
            return;
        };
        in_force.users = in_force.users.saturating_sub(1);
        if in_force.users == 0 {
            self.withdraw(names, id);
        }
    }

    fn withdraw(&mut self, names: &Names, id: u32) {
        if let Some(in_force) = self.by_id.remove(&id).and_then(|digest| self.rulesets.remove(&digest)) {
            self.count(in_force.classes, |rulesets| rulesets.saturating_sub(1));
            names.retire_ruleset(id);
            self.withdrawal.begin(Unused { id, place: in_force.place });
        }
    }

    /// Rulesets that nobody uses and that could not be taken out of the kernel.
    pub(super) fn stuck(&self) -> u64 {
        self.withdrawal.stuck()
    }

    /// Waits until the kernel holds nothing that nobody uses.
    pub(super) fn settle(&self) {
        self.withdrawal.wait();
    }
}

impl ContainerId {
    fn of_value(value: &types::container) -> Result<Self, EnforceError> {
        let len = usize::try_from(value.id_len).unwrap_or(usize::MAX);
        let bytes = value.id.get(..len).unwrap_or_default();
        Self::new(String::from_utf8_lossy(bytes))
    }
}
