//! How the watch of the API server stands, for `status`, metrics and readiness.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::object::Resource;
use super::room::Room;
use super::trouble::Trouble;

/// How the watch of the API server stands. Cheap to clone; clones tell the same.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    resources: BTreeMap<Resource, Standing>,
    restored: Restored,
    read_before: BTreeSet<Resource>, // of which everything was known to what was found on disk
    loaded: Option<Instant>,         // when that was looked for
    answered: Option<String>,        // the server that gave the last list
    save_problem: Option<String>,
    /// What the cluster cannot be told, and why.
    untold: BTreeMap<&'static str, String>,
}

/// What was found on disk at the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Restored {
    /// Nothing: this is the first start here.
    #[default]
    Nothing,
    /// The last known set.
    Set {
        /// When it was saved.
        saved: SystemTime,
        /// How many objects it has.
        objects: usize,
    },
    /// A file that cannot be used: the daemon started without it.
    Refused(String),
}

/// How one resource stands.
#[derive(Debug, Default)]
struct Standing {
    /// When the objects in memory were known to be those of the server.
    current: Option<Instant>,
    trouble: Option<Trouble>,
    objects: usize,
    left_out: usize, // for want of room
}

/// What is worth telling about a new standing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It was told already.
    Nothing,
    /// It is new, for this resource or, where it concerns the whole server, for all of them.
    Tell,
}

impl Health {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Time since the policies and postures in memory were last known to be those of the server; of the resources, the
    /// one that is furthest behind counts. `None`: some resource has not been read since the daemon started. Where all
    /// is well it stays below two minutes: in quiet times the server gives a sign of life about once a minute.
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        self.with(|state| {
            let each = Resource::ALL.map(|one| state.resources.get(&one).and_then(|one| one.current));
            let oldest = each.into_iter().collect::<Option<Vec<Instant>>>()?.into_iter().min()?;
            Some(oldest.elapsed())
        })
    }

    /// How old what is in memory is: [`staleness`](Self::staleness), where what has not been read since the start is as old as
    /// the last known set from disk. That may have been the server's for longer: it is saved when something changes. `None`:
    /// there is no [set](Self::has_set), so that there is nothing to be old.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.with(|state| {
            let from_disk = match (&state.restored, state.loaded) {
                (Restored::Set { saved, .. }, Some(loaded)) => {
                    // the clock of a node that has just booted may be behind: it is not younger than this daemon
                    Some(saved.elapsed().unwrap_or_default().max(loaded.elapsed()))
                }
                _ => None,
            };
            let of = |one: Resource| {
                let current = state.resources.get(&one).and_then(|one| one.current);
                let known = || from_disk.filter(|_| state.read_before.contains(&one));
                current.map(|when| when.elapsed()).or_else(known)
            };
            let each = Resource::ALL.map(of).into_iter().collect::<Option<Vec<Duration>>>();
            each?.into_iter().max()
        })
    }

    /// Whether there is a set to enforce: each kind was read from the server since the start, or was known to the last
    /// known set from disk. While there is none, policies of the API are missing.
    #[must_use]
    pub fn has_set(&self) -> bool {
        self.with(|state| {
            let current = |one| state.resources.get(one).is_some_and(|standing| standing.current.is_some());
            Resource::ALL.iter().all(|one| state.read_before.contains(one) || current(one))
        })
    }

    /// What stands in the way now, by kind of object.
    #[must_use]
    pub fn troubles(&self) -> Vec<(&'static str, String)> {
        self.with(|state| {
            let troubles = state.resources.iter();
            troubles
                .filter_map(|(one, standing)| Some((one.kind(), standing.trouble.as_ref()?.to_string())))
                .collect()
        })
    }

    /// How many objects of each kind there are in memory, wrong ones among them.
    #[must_use]
    pub fn objects(&self) -> Vec<(&'static str, usize)> {
        self.with(|state| {
            let count = |one: Resource| state.resources.get(&one).map_or(0, |standing| standing.objects);
            Resource::ALL.into_iter().map(|one| (one.kind(), count(one))).collect()
        })
    }

    /// How many objects of each kind are left out for want of room. Where there are more of them than are kept in mind, these
    /// are one more.
    #[must_use]
    pub fn left_out(&self) -> Vec<(&'static str, usize)> {
        self.with(|state| {
            let count = |one: Resource| state.resources.get(&one).map_or(0, |standing| standing.left_out);
            let all = Resource::ALL.into_iter().chain([Resource::Node]);
            all.map(|one| (one.kind(), count(one))).collect()
        })
    }

    /// Whether objects are left out that do not live in a namespace, so that a whole cluster may be without them. Those of a
    /// namespace are left out by what is made in that namespace alone.
    #[must_use]
    pub fn lacks_of_cluster(&self) -> bool {
        self.with(|state| {
            let lacking = state.resources.iter().filter(|(_, standing)| standing.left_out > 0);
            lacking.into_iter().any(|(resource, _)| Room::of(*resource) != Room::Shared)
        })
    }

    /// What the cluster cannot be told now, and why.
    #[must_use]
    pub fn all_untold(&self) -> BTreeMap<&'static str, String> {
        self.with(|state| state.untold.clone())
    }

    /// Takes why the cluster cannot be told something; `None`: it can, or nobody tries any more.
    pub(super) fn untold(&self, what: &'static str, why: Option<String>) {
        self.with(|state| match why {
            Some(why) => state.untold.insert(what, why),
            None => state.untold.remove(what),
        });
    }

    /// What was found on disk at the start.
    #[must_use]
    pub fn restored(&self) -> Restored {
        self.with(|state| state.restored.clone())
    }

    /// Why the set could not be saved last time; `None`: it was, or there was nothing to save.
    #[must_use]
    pub fn save_problem(&self) -> Option<String> {
        self.with(|state| state.save_problem.clone())
    }

    /// Takes what was found on disk, and of which resources everything was known to it.
    pub(super) fn restore(&self, restored: Restored, read: BTreeSet<Resource>) {
        self.with(|state| {
            (state.restored, state.read_before, state.loaded) = (restored, read, Some(Instant::now()));
        });
    }

    /// Takes how saving ended; whether that is news.
    pub(super) fn saved(&self, problem: Option<String>) -> News {
        self.with(|state| {
            let news = if problem == state.save_problem { News::Nothing } else { News::Tell };
            state.save_problem = problem;
            news
        })
    }

    pub(super) fn count(&self, resource: Resource, objects: usize) {
        self.with(|state| state.resources.entry(resource).or_default().objects = objects);
    }

    pub(super) fn leave_out(&self, resource: Resource, (named, more): (usize, bool)) {
        let count = named.saturating_add(usize::from(more));
        self.with(|state| state.resources.entry(resource).or_default().left_out = count);
    }

    /// What is in memory of the resource is what the server has; whether that is news.
    pub(super) fn current(&self, resource: Resource) -> News {
        self.with(|state| {
            let standing = state.resources.entry(resource).or_default();
            let first = standing.current.replace(Instant::now()).is_none();
            let before = standing.trouble.take();
            match before {
                None if first => News::Tell,
                None => News::Nothing,
                Some(before) if before.is_everywhere() && state.has(&before) => News::Nothing,
                Some(_) => News::Tell,
            }
        })
    }

    /// Something stands in the way; whether that is news.
    pub(super) fn trouble(&self, resource: Resource, trouble: Trouble) -> News {
        self.with(|state| {
            let elsewhere = trouble.is_everywhere() && state.has(&trouble);
            let standing = state.resources.entry(resource).or_default();
            let told = standing.trouble.as_ref().is_some_and(|before| before.is_like(&trouble));
            standing.trouble = Some(trouble);
            if told || elsewhere { News::Nothing } else { News::Tell }
        })
    }

    /// The server has given a whole list; whether that is news.
    pub(super) fn listed(&self, resource: Resource, server: &str) -> News {
        self.with(|state| state.answered = Some(server.to_owned()));
        self.current(resource)
    }

    /// The server answers again, and has not said yet that what is in memory is what it has; whether that is news.
    pub(super) fn answers(&self, resource: Resource) -> News {
        self.with(|state| match state.resources.entry(resource).or_default().trouble.take() {
            None => News::Nothing,
            Some(before) if before.is_everywhere() && state.has(&before) => News::Nothing,
            Some(_) => News::Tell,
        })
    }

    /// The server knows no such kind, and not just for a moment: where nothing of it is in memory, that is in step.
    /// Whether it is. It is not for what every API server has, nor from one that has not given any list: who answers so
    /// to everything may be anybody.
    pub(super) fn missing(&self, resource: Resource, server: &str) -> bool {
        self.with(|state| {
            let known = resource != Resource::Namespaces && state.answered.as_deref() == Some(server);
            let standing = state.resources.entry(resource).or_default();
            let counts = known && standing.objects == 0;
            if counts {
                standing.current = Some(Instant::now());
            }
            counts
        })
    }
}

impl State {
    /// Whether something like this stands in the way of any resource.
    fn has(&self, trouble: &Trouble) -> bool {
        self.resources.values().any(|one| one.trouble.as_ref().is_some_and(|its| its.is_like(trouble)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_core::policy::Kind;

    #[test]
    fn a_change_of_state_is_told_once() {
        let health = Health::default();
        let [one, two] = [Resource::Namespaces, Resource::Policies(Kind::KubeArmorPolicy)];
        let away = |why: &str| Trouble::Unreachable(why.to_owned());
        assert_eq!(health.current(one), News::Tell, "the first time");
        assert_eq!(health.current(one), News::Nothing);
        assert_eq!(health.trouble(one, away("refused")), News::Tell);
        assert_eq!(health.trouble(one, away("reset")), News::Nothing, "the same in other words");
        assert_eq!(health.trouble(two, away("refused")), News::Nothing, "the same for another kind");
        assert_eq!(health.troubles().len(), 2);
        assert_eq!(health.trouble(two, Trouble::Forbidden("no".into())), News::Tell);
        assert_eq!(health.trouble(two, Trouble::Forbidden("no, no".into())), News::Nothing);
        assert_eq!(health.current(one), News::Tell);
        assert_eq!(health.current(two), News::Tell);
        assert!(health.troubles().is_empty());
    }

    #[test]
    fn staleness_is_that_of_the_kind_that_is_furthest_behind() {
        let health = Health::default();
        assert!(!health.has_set());
        for resource in Resource::ALL {
            assert_eq!(health.staleness(), None, "not all have been read");
            health.current(resource);
        }
        assert!(health.staleness().is_some_and(|age| age < Duration::from_secs(5)) && health.has_set());
        std::thread::sleep(Duration::from_millis(30));
        for resource in Resource::ALL {
            assert!(health.staleness().is_some_and(|age| age >= Duration::from_millis(30)));
            health.current(resource);
        }
        assert!(health.staleness().is_some_and(|age| age < Duration::from_millis(30)));
    }

    /// A node without policies of the cluster, postures, or its own labels is not ready; one namespace cannot do that.
    #[test]
    fn what_is_left_out_of_one_namespace_is_no_lack_of_the_cluster() {
        let health = Health::default();
        let counted = |kind: &str| health.left_out().into_iter().find(|(one, _)| *one == kind).unwrap().1;
        let of_namespaces = Resource::Policies(Kind::KubeArmorPolicy);
        health.leave_out(of_namespaces, (2, true));
        assert_eq!((counted(of_namespaces.kind()), health.lacks_of_cluster()), (3, false));
        for lacking in
            [Resource::Policies(Kind::KubeArmorClusterPolicy), Resource::Namespaces, Resource::Node]
        {
            health.leave_out(lacking, (0, true));
            assert_eq!((counted(lacking.kind()), health.lacks_of_cluster()), (1, true), "{lacking}");
            health.leave_out(lacking, (0, false));
            assert!(!health.lacks_of_cluster());
        }
    }

    /// A definition that is not there is no lack where there is nothing of its kind; else its objects grow old.
    #[test]
    fn a_kind_without_a_definition_is_stale_while_objects_of_it_are_kept() {
        let health = Health::default();
        let kind = Resource::Policies(Kind::KubeArmorPolicy);
        for (objects, stale) in [(1, true), (0, false)] {
            for resource in Resource::ALL {
                health.listed(resource, "here");
            }
            health.count(kind, objects);
            std::thread::sleep(Duration::from_millis(30));
            for resource in Resource::ALL.into_iter().filter(|one| *one != kind) {
                health.current(resource);
            }
            health.trouble(kind, Trouble::Absent);
            assert_eq!(health.missing(kind, "here"), !stale);
            let age = health.staleness().unwrap();
            assert_eq!(age >= Duration::from_millis(30), stale, "{age:?}");
        }
    }

    /// Who knows nothing at all is no API server that has no policies.
    #[test]
    fn only_a_server_that_gives_lists_can_be_without_a_kind() {
        let health = Health::default();
        for resource in Resource::ALL {
            assert!(!health.missing(resource, "here"));
        }
        health.listed(Resource::Policies(Kind::KubeArmorPolicy), "here");
        for resource in Resource::ALL {
            assert!(!health.missing(resource, "elsewhere"));
        }
        assert!(!health.has_set());
        for resource in Resource::ALL {
            assert_eq!(health.missing(resource, "here"), resource != Resource::Namespaces);
        }
        assert!(!health.has_set(), "there are namespaces everywhere");
        health.listed(Resource::Namespaces, "here");
        assert!(health.has_set());
    }

    #[test]
    fn a_server_that_answers_is_no_trouble_and_not_in_step_by_that() {
        let health = Health::default();
        let kind = Resource::Namespaces;
        assert_eq!(health.answers(kind), News::Nothing);
        health.trouble(kind, Trouble::Unreachable("refused".into()));
        assert_eq!((health.answers(kind), health.troubles().len()), (News::Tell, 0));
        for resource in Resource::ALL {
            health.answers(resource);
        }
        assert!(health.staleness().is_none() && !health.has_set());
    }

    #[test]
    fn a_set_from_disk_is_one_where_every_kind_was_known_to_it() {
        let set = || Restored::Set { saved: SystemTime::UNIX_EPOCH, objects: 0 };
        let all = || Resource::ALL.into_iter().collect::<BTreeSet<_>>();
        let health = Health::default();
        health.restore(Restored::Refused("it is corrupt".into()), BTreeSet::new());
        assert!(!health.has_set());
        let mut some = all();
        some.remove(&Resource::Namespaces);
        health.restore(set(), some);
        assert!(!health.has_set() && health.age().is_none());
        health.current(Resource::Namespaces);
        assert!(
            health.has_set() && health.staleness().is_none(),
            "one from the server, the others from disk"
        );
        assert!(health.age().unwrap() > Duration::from_secs(1 << 30), "as old as the oldest");
        let health = Health::default();
        assert_eq!(health.age(), None, "nothing is there");
        let hour = Duration::from_secs(3600);
        for (saved, least) in [(SystemTime::now() - hour, hour), (SystemTime::now() + hour, Duration::ZERO)] {
            health.restore(Restored::Set { saved, objects: 0 }, all());
            assert!(health.has_set() && health.staleness().is_none());
            std::thread::sleep(Duration::from_millis(20));
            let age = health.age().unwrap();
            assert!(age >= least + Duration::from_millis(20) && age < least + hour / 2, "{age:?}");
        }
        for one in Resource::ALL {
            let _news = health.current(one);
        }
        assert!(health.age().unwrap() < Duration::from_secs(60), "since it was read");
    }
}
