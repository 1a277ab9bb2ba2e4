//! Arming: rules complete in the kernel, tasks marked, entries published, all of it read back.

use std::io::Read;

use enforcer_bpf::types;
use libbpf_rs::{Iter, MapFlags};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::error::{During, EnforceError};
use super::held::SEARCHED;
use super::host::HINT_HOST;
use super::state::{Entry, InForce, State, place_of};
use super::{Armed, ContainerId, Enforcer, ID_BYTES, Stage, Target, lock};
use crate::ruleset::Ruleset;

/// `MAX_CGROUP_LEVEL`: how deep the programs look for a container's cgroup.
const MAX_CGROUP_LEVEL: u32 = 32;
/// Runs of the iterator until no task of a running container is left unmarked. A task that is being born in one run
/// inherits or is found in the next; a fork bomb of unmarked tasks loses, for every marked one has marked children.
const MARK_ROUNDS: usize = 64;
/// Attempts to read a mark back: below 6.2 storage may be busy for a moment.
const READ_BACK_ROUNDS: usize = 8;
/// `SUBJECT_PENDING`: nothing is judged until the first execution in the container.
const PENDING: u32 = 2;
/// `SUBJECT_ACTIVE`.
const ACTIVE: u32 = 3;

impl Enforcer {
    pub(super) fn arm_target(&self, target: &Target, ruleset: &Ruleset) -> Result<Armed, EnforceError> {
        if target.id.is_host() {
            return self.arm_host(ruleset);
        }
        let pidfd = open_process(target.pid)?;
        if lock(&self.state).containers.contains_key(&target.id) {
            self.update(&target.id, ruleset)?;
            let entry = lock(&self.state).containers.get(&target.id).copied();
            let entry = entry.ok_or_else(|| EnforceError::NotArmed(target.id.to_string()))?;
            self.read_back(target, &entry, &pidfd)?;
            if target.stage == Stage::Running {
                self.begin(target, ruleset, &entry)?;
            }
            return Ok(Armed { ruleset: ruleset.digest(), tasks: 0, already: true });
        }
        let facts = self.find(target)?;
        let own_cgroup = own_cgroup(&facts)?;

        let mut state = lock(&self.state);
        let acquired = state.acquire(&self.maps, &self.names, &[ruleset])?;
        let [rules] = acquired.as_slice() else { return Err(EnforceError::Full("rulesets")) };
        let slot = match state.take_slot() {
            Ok(slot) => slot,
            Err(error) => {
                state.release(&self.names, rules.id);
                return Err(error);
            }
        };
        let cgroup_id = own_cgroup;
        // what denies nothing needs no search for what it denies
        let held = target.stage == Stage::Running && !ruleset.only_observes();
        let mnt_ns = facts.mnt_ns;
        let entry =
            Entry { key: boottime_ns(), slot, ruleset: rules.id, cgroup_id, mnt_ns, held, host: false };
        self.names.learn_container(entry.key, target.id.clone());
        let armed = self
            .attach_for(&state)
            .and_then(|()| self.settle_namespaces(&state, Some(entry.mnt_ns)))
            .and_then(|()| self.insert(&target.id, &entry, rules, barrier(target, &facts)))
            .and_then(|()| self.mark_and_publish(target, &facts, &entry, &pidfd));
        match armed {
            Ok(tasks) => {
                state.containers.insert(target.id.clone(), entry);
                if entry.held {
                    self.searcher.ask();
                }
                Ok(Armed { ruleset: ruleset.digest(), tasks, already: false })
            }
            Err(error) => {
                self.take_back(&mut state, &entry)?;
                Err(error)
            }
        }
    }

    /// A container that was armed as one that has not begun may have begun before that: what waits for its first execution
    /// is judged from here on. Its rules stay in force meanwhile.
    fn begin(&self, target: &Target, ruleset: &Ruleset, entry: &Entry) -> Result<(), EnforceError> {
        let facts = self.find(target)?;
        let searched = !ruleset.only_observes();
        if searched && !entry.held {
            let mut state = lock(&self.state);
            let Some(known) = state.containers.get_mut(&target.id) else {
                return Err(EnforceError::NotArmed(target.id.to_string()));
            };
            let in_kernel = self.maps.armed.get(entry.slot)?;
            let in_kernel = in_kernel.filter(|armed| armed.container == entry.key);
            let in_kernel = in_kernel.ok_or_else(|| EnforceError::NotArmed(target.id.to_string()))?;
            let value = types::armed { held: SEARCHED, ..in_kernel };
            self.maps.armed.set(entry.slot, &value, MapFlags::ANY)?;
            known.held = true;
        }
        // what is not marked yet is passed over by a search
        let marked = self.mark_all(&target.id, identity(target, &facts, entry))?;
        if searched && marked > 0 {
            self.searcher.ask();
        }
        Ok(())
    }

    pub(super) fn first_is_pending(&self, id: &ContainerId, pid: i32) -> Result<bool, EnforceError> {
        let pidfd = open_process(pid)?;
        let key = lock(&self.state).containers.get(id).map(|entry| entry.key);
        let key = key.ok_or_else(|| EnforceError::NotArmed(id.to_string()))?;
        for _ in 0..READ_BACK_ROUNDS {
            match self.maps.subjects.get(pidfd.as_raw_fd())? {
                Some(held) => return Ok(held.container == key && held.state == PENDING),
                None => std::thread::yield_now(),
            }
        }
        Ok(false)
    }

    /// Undoes an arming that came to no end. Marked tasks of a container that is not there are not confined.
    pub(super) fn take_back(&self, state: &mut State, entry: &Entry) -> Result<(), EnforceError> {
        self.remove(entry)?;
        state.give_slot(entry.slot);
        self.names.retire_container(entry.key);
        state.release(&self.names, entry.ruleset);
        Ok(())
    }

    /// Takes a container's entries out of the maps; the container itself last, so that nothing finds half of it.
    pub(super) fn remove(&self, entry: &Entry) -> Result<(), EnforceError> {
        if entry.host {
            self.maps.host.set(0, &types::host::default(), MapFlags::ANY)?;
        }
        if entry.cgroup_id != 0 && self.maps.cgroups.get(entry.cgroup_id)? == Some(entry.key) {
            self.maps.cgroups.remove(entry.cgroup_id)?;
        }
        if self.maps.namespaces.get(entry.mnt_ns)?.is_some_and(|held| held.container == entry.key) {
            self.maps.namespaces.remove(entry.mnt_ns)?;
        }
        let held = self.maps.armed.get(entry.slot)?;
        if held.is_some_and(|held| held.container == entry.key) {
            self.maps.armed.set(entry.slot, &types::armed::default(), MapFlags::ANY)?;
        }
        self.maps.containers.remove(entry.key)
    }

    /// Where a container's first process is, from the kernel's own structures.
    fn find(&self, target: &Target) -> Result<types::mark, EnforceError> {
        let pid = target.pid;
        let process = u32::try_from(pid).map_err(|_| EnforceError::NoProcess { pid })?;
        let ask = |pid, climb| types::mark {
            mode: types::mark_mode::MARK_FIND.0,
            pid,
            climb,
            ..Default::default()
        };
        let found = self.run(ask(process, levels_below(target)))?;
        if found.found == 0 {
            return Err(EnforceError::NoProcess { pid });
        }
        let own = self.run(ask(std::process::id(), 0))?;
        if own.found != 0 && own.mnt_ns == found.mnt_ns {
            return Err(EnforceError::NotAContainer { pid });
        }
        Ok(found)
    }

    /// One run of the task iterator.
    pub(super) fn run(&self, question: types::mark) -> Result<types::mark, EnforceError> {
        let loaded = lock(&self.loaded);
        self.maps.mark.set(0, &question, MapFlags::ANY)?;
        let mut iterator = Iter::new(&loaded.mark).during("walk the tasks")?;
        iterator.read_to_end(&mut Vec::new()).map_err(libbpf_rs::Error::from).during("walk the tasks")?;
        self.maps.mark.get(0)?.ok_or_else(|| EnforceError::ReadBack("no answer of the task iterator".into()))
    }

    /// The container's entries, under a key that was never used before.
    pub(super) fn insert(
        &self,
        id: &ContainerId,
        entry: &Entry,
        rules: &InForce,
        (root_ino, root_dev): (u64, u32),
    ) -> Result<(), EnforceError> {
        let bytes = id.as_str().as_bytes();
        let mut name = [0; ID_BYTES];
        name.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let value = types::container {
            slot: entry.slot,
            mnt_ns: entry.mnt_ns,
            cgroup_id: entry.cgroup_id,
            root_ino,
            root_dev,
            id_len: u32::try_from(bytes.len()).unwrap_or(0),
            id: name,
        };
        self.maps.armed.set(entry.slot, &armed(entry, rules), MapFlags::ANY)?;
        self.maps.containers.set(entry.key, &value, MapFlags::NO_EXIST)
    }

    fn mark_and_publish(
        &self,
        target: &Target,
        facts: &types::mark,
        entry: &Entry,
        pidfd: &OwnedFd,
    ) -> Result<u32, EnforceError> {
        let ask = identity(target, facts, entry);
        let tasks = match target.stage {
            // The identity first: whoever enters by exec comes after the start.
            Stage::Creating { .. } | Stage::Created => {
                let marked = self.mark(&target.id, ask, types::mark_mode::MARK_PROCESS)?.marked;
                self.publish(entry)?;
                marked
            }
            Stage::Running => {
                self.publish(entry)?;
                self.mark_all(&target.id, ask)?
            }
        };
        self.read_back(target, entry, pidfd)?;
        Ok(tasks)
    }

    pub(super) fn mark(
        &self,
        id: &ContainerId,
        ask: types::mark,
        mode: types::mark_mode,
    ) -> Result<types::mark, EnforceError> {
        let answer = self.run(types::mark { mode: mode.0, found: 0, marked: 0, failed: 0, ..ask })?;
        if answer.failed != 0 {
            return Err(EnforceError::NotMarked { id: id.to_string(), failed: answer.failed });
        }
        Ok(answer)
    }

    fn mark_all(&self, id: &ContainerId, ask: types::mark) -> Result<u32, EnforceError> {
        let tasks = self.mark(id, ask, types::mark_mode::MARK_PROCESS)?.marked;
        Ok(tasks + self.mark_until_none(id, ask, types::mark_mode::MARK_CONTAINER)?)
    }

    /// Marks until every task that should be is.
    pub(super) fn mark_until_none(
        &self,
        id: &ContainerId,
        ask: types::mark,
        mode: types::mark_mode,
    ) -> Result<u32, EnforceError> {
        let mut tasks = 0;
        for _ in 0..MARK_ROUNDS {
            let marked = self.mark(id, ask, mode)?.marked;
            if marked == 0 {
                return Ok(tasks);
            }
            tasks += marked;
        }
        Err(EnforceError::NotMarked { id: id.to_string(), failed: 1 })
    }

    /// From now on whoever enters is known.
    fn publish(&self, entry: &Entry) -> Result<(), EnforceError> {
        if entry.cgroup_id != 0 {
            return self.maps.cgroups.set(entry.cgroup_id, &entry.key, MapFlags::ANY);
        }
        let value = types::entry_ns { container: entry.key, seq: 0 };
        self.maps.namespaces.set(entry.mnt_ns, &value, MapFlags::ANY)
    }

    fn read_back(&self, target: &Target, entry: &Entry, pidfd: &OwnedFd) -> Result<(), EnforceError> {
        let wrong = |what: &str| Err(EnforceError::ReadBack(format!("{what} of container {}", target.id)));
        match self.maps.armed.get(entry.slot)? {
            Some(held) if held.container == entry.key && held.ruleset == entry.ruleset => {}
            _ => return wrong("the rules"),
        }
        if entry.cgroup_id != 0 && self.maps.cgroups.get(entry.cgroup_id)? != Some(entry.key) {
            return wrong("the cgroup");
        }
        let (word, bit) = place_of(entry.mnt_ns);
        let held = self.maps.armed_namespaces.get(0)?;
        if held.is_none_or(|held| held.words.get(word).is_none_or(|held| held & bit == 0)) {
            return wrong("the mount namespace");
        }
        for _ in 0..READ_BACK_ROUNDS {
            match self.maps.subjects.get(pidfd.as_raw_fd())? {
                Some(held) if held.container == entry.key => return Ok(()),
                _ => std::thread::yield_now(),
            }
        }
        wrong("the first process")
    }
}

/// The root directory, by inode and device number, under which nothing is judged yet. 0/0: none, so that the first
/// execution in the mount namespace is judged.
fn barrier(target: &Target, facts: &types::mark) -> (u64, u32) {
    match target.stage {
        Stage::Creating { root: Some(root) } if root != facts.root_ino => (facts.root_ino, facts.root_dev),
        _ => (0, 0),
    }
}

/// What tasks of the container are to be marked as.
fn identity(target: &Target, facts: &types::mark, entry: &Entry) -> types::mark {
    let state = match target.stage {
        Stage::Creating { .. } | Stage::Created => PENDING,
        Stage::Running => ACTIVE,
    };
    let (root_ino, root_dev) = barrier(target, facts);
    let subject = types::subject {
        container: entry.key,
        root_ino,
        root_dev,
        mnt_ns: facts.mnt_ns,
        state,
        slot: entry.slot,
        ..Default::default()
    };
    types::mark { subject, cgroup_id: entry.cgroup_id, ..*facts }
}

/// What hooks ask about the container.
pub(super) fn armed(entry: &Entry, rules: &InForce) -> types::armed {
    types::armed {
        container: entry.key,
        ruleset: rules.id,
        place: rules.place,
        classes: rules.classes,
        first: rules.first,
        hints: rules.hints | if entry.host { HINT_HOST } else { 0 },
        held: if entry.held { SEARCHED } else { 0 },
        mnt_ns: entry.mnt_ns,
    }
}

/// Held until the end, so that the process number cannot come to mean another process unnoticed.
fn open_process(pid: i32) -> Result<OwnedFd, EnforceError> {
    let process = Pid::from_raw(pid).ok_or(EnforceError::NoProcess { pid })?;
    pidfd_open(process, PidfdFlags::empty()).map_err(|_| EnforceError::NoProcess { pid })
}

/// The id of the container's cgroup in the v2 hierarchy; 0 where it shares one with its parent, the runtime.
fn own_cgroup(facts: &types::mark) -> Result<u64, EnforceError> {
    if facts.cgroup_level == 0 || facts.cgroup_id == facts.parent_cgroup_id {
        return Ok(0);
    }
    if facts.cgroup_level >= MAX_CGROUP_LEVEL {
        return Err(EnforceError::CgroupTooDeep { level: facts.cgroup_level, max: MAX_CGROUP_LEVEL - 1 });
    }
    Ok(facts.cgroup_id)
}

/// How many levels below its container's cgroup a process that has run for a while has moved (systemd goes to
/// `init.scope`): told by the name of the runtime's cgroup, which holds the container's id. 0 where no name does.
fn levels_below(target: &Target) -> u32 {
    let path = std::fs::read_to_string(format!("/proc/{}/cgroup", target.pid)).unwrap_or_default();
    let path = path.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let above = path.split('/').rev().position(|name| name.contains(target.id.as_str()));
    u32::try_from(above.unwrap_or(0)).unwrap_or(0)
}

pub(super) fn boottime_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
