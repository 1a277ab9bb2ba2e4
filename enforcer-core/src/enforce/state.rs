//! What is in the kernel, mirrored: read back once when the maps are adopted, then kept in step.

use std::collections::{BTreeMap, HashMap, VecDeque};

use enforcer_bpf::types;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::error::{During, EnforceError};
use super::maps::Maps;
use super::{ContainerId, image};
use crate::compile::bpf::compile;
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
    pub(super) ruleset: u32, // 0: no rules at present
    pub(super) cgroup_id: u64,
    pub(super) mnt_ns: u32,
}

/// A ruleset in the kernel.
#[derive(Debug, Clone, Copy)]
struct Published {
    id: u32,
    users: usize,
}

/// The mirror.
#[derive(Debug)]
pub(super) struct State {
    pub(super) containers: BTreeMap<ContainerId, Entry>,
    rulesets: BTreeMap<RulesetDigest, Published>,
    by_id: BTreeMap<u32, RulesetDigest>,
}

/// Key in `digests` whose value begins with the next free ruleset id. No ruleset has the id 0, and no id is ever
/// used twice: tasks remember sources by it.
const NEXT_ID: u32 = 0;

fn next_id(digests: &MapHandle) -> Result<u32, EnforceError> {
    let held = digests.lookup(&NEXT_ID.to_ne_bytes(), MapFlags::ANY).during("read the next ruleset id")?;
    Ok(held.and_then(|bytes| bytes.first_chunk().copied()).map_or(1, u32::from_ne_bytes))
}

fn set_next_id(digests: &MapHandle, id: u32) -> Result<(), EnforceError> {
    let mut value = [0; 32];
    value.iter_mut().zip(id.to_ne_bytes()).for_each(|(to, from)| *to = from);
    digests.update(&NEXT_ID.to_ne_bytes(), &value, MapFlags::ANY).during("write the next ruleset id")
}

impl State {
    /// Reads what an earlier daemon left.
    pub(super) fn adopt(maps: &Maps, names: &mut Names) -> Result<Self, EnforceError> {
        let mut state =
            Self { containers: BTreeMap::new(), rulesets: BTreeMap::new(), by_id: BTreeMap::new() };
        for key in maps.digests.keys() {
            let Some(id) = key.first_chunk().copied().map(u32::from_ne_bytes) else { continue };
            let value = maps.digests.lookup(&key, MapFlags::ANY).during("read the digests")?;
            let Some(digest) = value.and_then(|value| value.first_chunk().copied()) else { continue };
            if id == NEXT_ID {
                continue;
            }
            // An id without rules is what a daemon left that died between the two.
            if maps.rulesets.lookup(&key, MapFlags::ANY).during("read the rulesets")?.is_none() {
                maps.digests.delete(&key).during("forget a ruleset")?;
                continue;
            }
            let digest = RulesetDigest::from_bytes(digest);
            state.rulesets.insert(digest, Published { id, users: 0 });
            state.by_id.insert(id, digest);
            names.learn_ruleset(id, digest);
        }
        for (key, value) in maps.containers.entries()? {
            let id = ContainerId::of_value(&value)?;
            let entry =
                Entry { key, ruleset: value.ruleset, cgroup_id: value.cgroup_id, mnt_ns: value.mnt_ns };
            if let Some(digest) = state.by_id.get(&value.ruleset)
                && let Some(published) = state.rulesets.get_mut(digest)
            {
                published.users += 1;
            }
            names.learn_container(key, id.clone());
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

    /// The id of `ruleset` in the kernel, published if need be, with one more user; 0 for a ruleset without effect.
    pub(super) fn acquire(
        &mut self,
        maps: &Maps,
        names: &mut Names,
        ruleset: &Ruleset,
    ) -> Result<u32, EnforceError> {
        let digest = ruleset.digest();
        if let Some(published) = self.rulesets.get_mut(&digest) {
            published.users += 1;
            return Ok(published.id);
        }
        let image = compile(ruleset)?;
        let id = next_id(&maps.digests)?;
        set_next_id(&maps.digests, id.checked_add(1).ok_or(EnforceError::Full("ruleset ids"))?)?;
        // The digest first: a digest without rules is removed at the next adoption, rules without one never would be.
        let value = digest.as_bytes();
        maps.digests.update(&id.to_ne_bytes(), value, MapFlags::NO_EXIST).during("store a digest")?;
        if let Err(error) = image::publish(&maps.rulesets, id, &image) {
            maps.digests.delete(&id.to_ne_bytes()).ok();
            return Err(error);
        }
        self.rulesets.insert(digest, Published { id, users: 1 });
        self.by_id.insert(id, digest);
        names.learn_ruleset(id, digest);
        Ok(id)
    }

    /// One user less; the last one takes the ruleset out of the kernel.
    pub(super) fn release(&mut self, maps: &Maps, names: &mut Names, id: u32) -> Result<(), EnforceError> {
        let Some(published) = self.by_id.get(&id).and_then(|digest| self.rulesets.get_mut(digest)) else {
            return Ok(());
        };
        published.users = published.users.saturating_sub(1);
        if published.users == 0 { self.withdraw(maps, names, id) } else { Ok(()) }
    }

    fn withdraw(&mut self, maps: &Maps, names: &mut Names, id: u32) -> Result<(), EnforceError> {
        if let Some(digest) = self.by_id.remove(&id) {
            self.rulesets.remove(&digest);
        }
        names.retire_ruleset(id);
        maps.rulesets.delete(&id.to_ne_bytes()).during("withdraw a ruleset")?;
        maps.digests.delete(&id.to_ne_bytes()).during("forget a digest")
    }
}

impl ContainerId {
    fn of_value(value: &types::container) -> Result<Self, EnforceError> {
        let len = usize::try_from(value.id_len).unwrap_or(usize::MAX);
        let bytes = value.id.get(..len).unwrap_or_default();
        Self::new(String::from_utf8_lossy(bytes))
    }
}
