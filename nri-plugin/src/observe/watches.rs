//! Who watches what: for as long as somebody learns a container's policy, all that it does is reported and collected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use enforcer_core::decide::Verdict;
use enforcer_core::enforce::ContainerId;
use enforcer_core::event::{Detail, Event, EventBy, Op, Socket};
use enforcer_core::ruleset::Class;
use enforcer_core::subject::Subject;
use enforcer_core::visibility::Visibility;

use crate::container::Container;

/// How many different accesses one watch holds, and of how many bytes. What is past that is counted as lost.
const ACCESSES: usize = 1 << 16;
const BYTES: usize = 16 << 20;
/// Watches at a time.
pub const WATCHES: usize = 8;

/// Which containers are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Their namespace.
    pub namespace: String,
    /// Their pod; `None`: any.
    pub pod: Option<String>,
    /// Labels that their pod has.
    pub labels: BTreeMap<String, String>,
    /// Their name; `None`: any.
    pub container: Option<String>,
    /// The only one; `None`: any.
    pub id: Option<ContainerId>,
}

impl Who {
    /// Whether the rules of such a subject are to make it visible.
    #[must_use]
    pub fn is(&self, subject: &Subject) -> bool {
        let same = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|wanted| wanted == has);
        !subject.host
            && self.namespace == subject.namespace
            && same(&self.pod, &subject.pod)
            && same(&self.container, &subject.container)
            && self.labels.iter().all(|(key, value)| subject.labels.get(key) == Some(value))
    }

    /// Whether it is such a container.
    #[must_use]
    pub fn is_container(&self, container: &Container) -> bool {
        self.id.as_ref().is_none_or(|id| *id == container.id) && self.is(&container.subject)
    }
}

/// One thing that a container did.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// It executed a program.
    Exec(Vec<u8>),
    /// It read a file.
    Read(Vec<u8>),
    /// It changed a file, or the name of one.
    Write(Vec<u8>),
    /// It used a socket: the family, the type, the protocol.
    Socket(u16, u16, u16),
    /// It used the capability of this number.
    Capability(u32),
}

/// An access that could not be told, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Untold {
    /// The class.
    pub class: &'static str,
    /// As much as is known of what was accessed.
    pub path: Vec<u8>,
    /// Why that is not enough.
    pub why: &'static str,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Accesses, each with the executable that acted; empty: not known.
    pub accesses: BTreeSet<(Access, Vec<u8>)>,
    /// Those that could not be told.
    pub untold: BTreeSet<Untold>,
    /// How many there were, of all.
    pub events: u64,
    /// How many were denied, and are not among them.
    pub denied: u64,
    /// How many there was no room for.
    pub lost: u64,
    /// The containers, with their pods' labels.
    pub containers: BTreeMap<ContainerId, Arc<Container>>,
    /// Those that ran for a while without being seen.
    pub missed: BTreeMap<ContainerId, Arc<Container>>,
    bytes: usize,
}

impl Seen {
    fn note(&mut self, event: &Event, container: &Arc<Container>) {
        self.events += 1;
        self.containers.entry(container.id.clone()).or_insert_with(|| Arc::clone(container));
        if event.verdict == Verdict::Block {
            self.denied += 1;
            return;
        }
        let full = self.accesses.len() + self.untold.len() >= ACCESSES || self.bytes >= BYTES;
        let size = event.path.len() + event.source.len() + size_of::<(Access, Vec<u8>)>();
        let new = match access(event) {
            Some(Ok(access)) => {
                let access = (access, event.source.clone());
                match (self.accesses.contains(&access), full) {
                    (true, _) => false,
                    (false, true) => return self.lost += 1,
                    (false, false) => self.accesses.insert(access),
                }
            }
            Some(Err(why)) => {
                let one = Untold { class: event.class.as_str(), path: event.path.clone(), why };
                match (self.untold.contains(&one), full) {
                    (true, _) => false,
                    (false, true) => return self.lost += 1,
                    (false, false) => self.untold.insert(one),
                }
            }
            None => false,
        };
        self.bytes += if new { size } else { 0 };
    }
}

/// What an event tells; `None` where nobody learns that, an error where it does not tell enough.
fn access(event: &Event) -> Option<Result<Access, &'static str>> {
    if let EventBy::Unresolved(why) = event.by {
        return Some(Err(why.as_str()));
    }
    let path = || match event.path.first() {
        _ if event.path_truncated => Err("its path is too long to be told"),
        Some(b'/') => Ok(event.path.clone()),
        _ => Err("it has no path"),
    };
    match (event.class, event.detail) {
        (Class::Process, _) => Some(path().map(Access::Exec)),
        // nothing is done with what is only found open
        (Class::File, _) if event.op == Op::Held => None,
        (Class::File, _) if matches!(event.op, Op::OpenRead | Op::Read) => Some(path().map(Access::Read)),
        (Class::File, _) if event.op == Op::Receive && !event.writes => Some(path().map(Access::Read)),
        (Class::File, _) => Some(path().map(Access::Write)),
        (Class::Network, Detail::Socket(Socket { family, kind, protocol, .. })) => {
            Some(Ok(Access::Socket(family, kind, protocol)))
        }
        (Class::Capability, Detail::Capability(_, number)) => Some(Ok(Access::Capability(number))),
        _ => None,
    }
}

/// One who watches.
#[derive(Debug)]
struct Watch {
    who: Who,
    classes: Visibility,
    seen: Mutex<Seen>,
}

impl Watch {
    // after a panic what was seen is there all the same
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All who watch.
#[derive(Debug, Default)]
pub struct Watches(RwLock<Vec<Arc<Watch>>>);

impl Watches {
    /// What they want to see of the subject.
    #[must_use]
    pub fn visibility(&self, subject: &Subject) -> Visibility {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let of = all.iter().filter(|watch| watch.who.is(subject)).map(|watch| watch.classes);
        of.fold(Visibility::NONE, Visibility::with)
    }

    /// Collects what a container did for those who watch it.
    pub fn note(&self, event: &Event, container: Option<&Arc<Container>>) {
        let Some(container) = container else { return };
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for watch in all.iter() {
            if watch.classes.contains(event.class) && watch.who.is_container(container) {
                watch.seen().note(event, container);
            }
        }
    }

    /// The container runs, or is about to, and is not seen yet: whoever watches it has missed something.
    pub fn missed(&self, container: &Arc<Container>) {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for watch in all.iter().filter(|watch| watch.who.is_container(container)) {
            watch.seen().missed.insert(container.id.clone(), Arc::clone(container));
        }
    }

    /// Whether nobody watches anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Begins to watch, until the answer is dropped; `None` where too many do.
    #[must_use]
    pub fn begin(self: &Arc<Self>, who: Who, classes: Visibility) -> Option<Watching> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= WATCHES {
            return None;
        }
        let watch = Arc::new(Watch { who, classes, seen: Mutex::default() });
        all.push(Arc::clone(&watch));
        Some(Watching { watch, all: Arc::clone(self) })
    }
}

/// Watches as long as it is there.
#[derive(Debug)]
pub struct Watching {
    watch: Arc<Watch>,
    all: Arc<Watches>,
}

impl Watching {
    /// How many accesses there were so far, how many different ones, and in how many containers.
    #[must_use]
    pub fn counts(&self) -> (u64, usize, usize) {
        let seen = self.watch.seen();
        (seen.events, seen.accesses.len(), seen.containers.len())
    }

    /// What was seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.watch.seen().clone()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut all = self.all.0.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|watch| !Arc::ptr_eq(watch, &self.watch));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was open already, or comes to be read, is not written.
    #[test]
    fn what_is_only_read_or_only_open_is_not_written() {
        let container = crate::reconciler::tests::container("c1", "default", "web");
        let seen = |op, writes| {
            let mut event = crate::alert::tests::observed();
            (event.op, event.writes) = (op, writes);
            let mut seen = Seen::default();
            seen.note(&event, &container);
            seen.accesses.into_iter().map(|(access, _)| access).collect::<Vec<_>>()
        };
        let path = b"/etc/passwd".to_vec();
        assert_eq!(seen(Op::Held, true), []);
        for (op, writes) in [(Op::OpenRead, false), (Op::Read, false), (Op::Receive, false)] {
            assert_eq!(seen(op, writes), [Access::Read(path.clone())], "{op:?}");
        }
        for (op, writes) in
            [(Op::OpenWrite, true), (Op::Write, true), (Op::Receive, true), (Op::Unlink, false)]
        {
            assert_eq!(seen(op, writes), [Access::Write(path.clone())], "{op:?}");
        }
    }
}
