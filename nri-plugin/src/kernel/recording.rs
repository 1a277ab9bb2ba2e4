//! A kernel that only remembers: what was armed, by which calls, and which of them are to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use enforcer_core::enforce::Entries;

use super::*;

#[derive(Debug)]
pub(crate) struct Recording {
    state: Mutex<State>,
    events: Mutex<Receiver<Event>>,
    pub(crate) emit: Sender<Event>,
}

#[derive(Debug, Default)]
struct State {
    armed: BTreeMap<ContainerId, RulesetDigest>,
    calls: Vec<String>,
    broken: BTreeSet<&'static str>,
    settled: usize,
    listed: usize,
    delay: Duration,
    dropped: u64,
    waiting: BTreeSet<ContainerId>,
    tasks: Option<BTreeSet<(ContainerId, i32)>>, // None: it does not know tasks
}

impl Default for Recording {
    fn default() -> Self {
        let (emit, events) = channel();
        Self { state: Mutex::default(), events: Mutex::new(events), emit }
    }
}

impl Recording {
    /// Makes every `call` (arm, update, disarm, armed, lives) fail, or work again; `uncovered`: every arming and update, as for a container
    /// that cannot have its rules.
    pub(crate) fn breaks(&self, call: &'static str, broken: bool) {
        let mut state = self.state.lock().unwrap();
        if broken {
            state.broken.insert(call)
        } else {
            state.broken.remove(call)
        };
    }

    /// Makes every arming take this long.
    pub(crate) fn slow(&self, delay: Duration) {
        self.state.lock().unwrap().delay = delay;
    }

    /// These tasks of containers live, and no others.
    pub(crate) fn has_tasks(&self, tasks: &[(&str, i32)]) {
        let tasks = tasks.iter().map(|(id, pid)| (ContainerId::new(*id).unwrap(), *pid));
        self.state.lock().unwrap().tasks = Some(tasks.collect());
    }

    /// The ring buffer has no room for so many more events.
    pub(crate) fn drops(&self, count: u64) {
        self.state.lock().unwrap().dropped += count;
    }

    /// What was called since the last time, without `armed`.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    /// How often it was told that all is settled.
    pub(crate) fn times_settled(&self) -> usize {
        self.state.lock().unwrap().settled
    }

    /// How often it was asked what is armed.
    pub(crate) fn times_listed(&self) -> usize {
        self.state.lock().unwrap().listed
    }

    /// Ids of what is armed.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.state.lock().unwrap().armed.keys().map(ToString::to_string).collect()
    }

    /// The digest of what is armed for a container.
    pub(crate) fn digest(&self, id: &str) -> Option<RulesetDigest> {
        self.state.lock().unwrap().armed.get(&ContainerId::new(id).unwrap()).copied()
    }

    /// Arms as an earlier daemon did, or disarms behind the daemon's back.
    pub(crate) fn preset(&self, id: &str, digest: Option<RulesetDigest>) {
        let mut state = self.state.lock().unwrap();
        let id = ContainerId::new(id).unwrap();
        match digest {
            Some(digest) => state.armed.insert(id, digest),
            None => state.armed.remove(&id),
        };
    }

    /// A container that an earlier daemon armed waits for its first execution.
    pub(crate) fn waits(&self, id: &str) {
        self.state.lock().unwrap().waiting.insert(ContainerId::new(id).unwrap());
    }

    fn call(
        &self,
        name: &'static str,
        text: String,
    ) -> Result<std::sync::MutexGuard<'_, State>, KernelError> {
        let delay = self.state.lock().unwrap().delay;
        std::thread::sleep(delay);
        let mut state = self.state.lock().unwrap();
        state.calls.push(text);
        if matches!(name, "arm" | "update") && state.broken.contains("uncovered") {
            Err(KernelError::uncovered("it has no profile"))
        } else if state.broken.contains(name) {
            Err(KernelError::new(format!("{name} is broken")))
        } else {
            Ok(state)
        }
    }
}

/// Shared with the daemon that has it.
impl Kernel for std::sync::Arc<Recording> {
    fn arm(&self, target: &Target, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.as_ref().arm(target, ruleset)
    }

    fn update(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.as_ref().update(id, ruleset)
    }

    fn disarm(&self, id: &ContainerId) -> Result<(), KernelError> {
        self.as_ref().disarm(id)
    }

    fn armed(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        self.as_ref().armed()
    }

    fn lives(&self, id: &ContainerId, pid: Option<i32>) -> Result<Option<bool>, KernelError> {
        self.as_ref().lives(id, pid)
    }

    fn events(&self, go_on: &dyn Fn() -> bool, sink: &mut dyn FnMut(Event)) -> Result<(), KernelError> {
        self.as_ref().events(go_on, sink)
    }

    fn settled(&self) -> Result<(), KernelError> {
        self.as_ref().settled()
    }

    fn counters(&self) -> Result<Vec<(String, u64)>, KernelError> {
        self.as_ref().counters()
    }

    fn occupancy(&self) -> Option<Occupancy> {
        self.as_ref().occupancy()
    }

    fn has_not_begun(&self, id: &ContainerId, pid: i32) -> bool {
        self.as_ref().has_not_begun(id, pid)
    }
}

impl Kernel for Recording {
    fn arm(&self, target: &Target, ruleset: &Ruleset) -> Result<(), KernelError> {
        let Target { id, pid, stage } = target;
        let mut state = self.call("arm", format!("arm {id} {pid} {stage:?}"))?;
        state.armed.insert(id.clone(), ruleset.digest());
        Ok(())
    }

    fn update(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), KernelError> {
        let mut state = self.call("update", format!("update {id}"))?;
        assert!(state.armed.contains_key(id), "updated without being armed");
        state.armed.insert(id.clone(), ruleset.digest());
        Ok(())
    }

    fn disarm(&self, id: &ContainerId) -> Result<(), KernelError> {
        self.call("disarm", format!("disarm {id}"))?.armed.remove(id);
        Ok(())
    }

    fn armed(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        let mut state = self.state.lock().unwrap();
        state.listed += 1;
        if state.broken.contains("armed") {
            Err(KernelError::new("armed is broken"))
        } else {
            Ok(state.armed.clone())
        }
    }

    fn lives(&self, id: &ContainerId, pid: Option<i32>) -> Result<Option<bool>, KernelError> {
        let state = self.state.lock().unwrap();
        match state.tasks.as_ref() {
            _ if state.broken.contains("lives") => Err(KernelError::new("lives is broken")),
            None => Ok(None),
            Some(tasks) => {
                Ok(Some(tasks.iter().any(|(of, task)| of == id && pid.is_none_or(|pid| pid == *task))))
            }
        }
    }

    fn events(&self, go_on: &dyn Fn() -> bool, sink: &mut dyn FnMut(Event)) -> Result<(), KernelError> {
        let events = self.events.lock().unwrap();
        while go_on() {
            if let Ok(event) = events.recv_timeout(Duration::from_millis(10)) {
                sink(event);
            }
        }
        Ok(())
    }

    fn settled(&self) -> Result<(), KernelError> {
        self.state.lock().unwrap().settled += 1;
        Ok(())
    }

    fn has_not_begun(&self, id: &ContainerId, _: i32) -> bool {
        self.state.lock().unwrap().waiting.contains(id)
    }

    fn counters(&self) -> Result<Vec<(String, u64)>, KernelError> {
        let dropped = 3 + self.state.lock().unwrap().dropped;
        let counters = [("blocked", 5), ("event_dropped", dropped), ("raced", 1)];
        Ok(counters.map(|(name, count)| (name.to_owned(), count)).into())
    }

    fn occupancy(&self) -> Option<Occupancy> {
        let state = self.state.lock().unwrap();
        let rulesets: BTreeSet<_> = state.armed.values().map(|digest| *digest.as_bytes()).collect();
        let of = |entries| Entries { entries, limit: 16 };
        Some(Occupancy { containers: of(state.armed.len()), rulesets: of(rulesets.len()) })
    }
}
