//! Which of the containers that the daemon knows is meant.

use super::document::Which;
use crate::seccomp::ledger::{Entry, State};

/// The shortest beginning of an id that counts.
const SHORTEST: usize = 4;

/// Those that may be meant, among which one has to be chosen where there are several. One that has ended counts only where
/// no other does: a container that is started anew has the same name.
pub(super) fn choose<'a>(entries: &'a [Entry], which: &Which) -> Vec<&'a Entry> {
    let is_host = |entry: &Entry| entry.container.subject.host;
    let named: Vec<&Entry> = match which {
        Which::Host => return entries.iter().filter(|entry| is_host(entry)).collect(),
        Which::Id(id) => {
            let whole = entries.iter().find(|entry| entry.container.id.as_str() == id);
            if let Some(whole) = whole {
                return vec![whole];
            }
            if id.len() < SHORTEST {
                return Vec::new();
            }
            entries.iter().filter(|entry| entry.container.id.as_str().starts_with(id.as_str())).collect()
        }
        Which::Pod { namespace, name, container } => entries
            .iter()
            .filter(|entry| {
                let subject = &entry.container.subject;
                !subject.host
                    && subject.namespace == *namespace
                    && subject.pod == *name
                    && container.as_ref().is_none_or(|wanted| subject.container == *wanted)
            })
            .collect(),
    };
    let living: Vec<&Entry> = named.iter().copied().filter(|entry| entry.state != State::Ended).collect();
    if living.is_empty() { named } else { living }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use enforcer_core::enforce::ContainerId;
    use enforcer_core::subject::Subject;

    use super::*;
    use crate::container::{Container, Wish};
    use crate::seccomp::ledger::Ledger;

    fn ledger(all: &[(&str, &str, &str)]) -> Ledger {
        let ledger = Ledger::default();
        for (id, pod, name) in all {
            let subject = Subject {
                namespace: "default".into(),
                pod: (*pod).into(),
                container: (*name).into(),
                ..Subject::default()
            };
            let id = ContainerId::new(*id).unwrap();
            let (pod_uid, image, wish) = (String::new(), String::new(), Wish::None);
            ledger.put(Arc::new(Container { id, subject, pod_uid, image, wish }), Default::default());
        }
        ledger
    }

    fn chosen(ledger: &Ledger, which: &Which) -> Vec<String> {
        let entries = ledger.entries_now();
        choose(&entries, which).iter().map(|entry| entry.container.id.to_string()).collect()
    }

    fn pod(name: &str, container: Option<&str>) -> Which {
        Which::Pod { namespace: "default".into(), name: name.into(), container: container.map(str::to_owned) }
    }

    #[test]
    fn what_has_ended_counts_where_nothing_else_is_meant() {
        let ledger = ledger(&[("aaaa1", "web", "init"), ("aaaa2", "web", "main"), ("bbbb", "db", "main")]);
        assert_eq!(chosen(&ledger, &pod("web", None)), ["aaaa1", "aaaa2"]);
        assert_eq!(chosen(&ledger, &pod("web", Some("main"))), ["aaaa2"]);
        ledger.ended(&ContainerId::new("aaaa1").unwrap());
        assert_eq!(chosen(&ledger, &pod("web", None)), ["aaaa2"]);
        assert_eq!(chosen(&ledger, &pod("web", Some("init"))), ["aaaa1"], "it is named");
        assert_eq!(chosen(&ledger, &pod("cache", None)), [""; 0]);
        let other = Which::Pod { namespace: "other".into(), name: "web".into(), container: None };
        assert_eq!(chosen(&ledger, &other), [""; 0]);
    }

    #[test]
    fn an_id_may_be_begun() {
        let ledger = ledger(&[("aaaa1", "web", "a"), ("aaaa12", "web", "b"), ("abc", "db", "c")]);
        let id = |text: &str| chosen(&ledger, &Which::Id(text.to_owned()));
        assert_eq!(id("aaaa"), ["aaaa1", "aaaa12"]);
        assert_eq!(id("aaaa1"), ["aaaa1"], "the whole id of one");
        assert_eq!(id("aaaa12"), ["aaaa12"]);
        assert_eq!(id("aaa"), [""; 0], "too short");
        assert_eq!(id("abc"), ["abc"]);
        assert_eq!(id(""), [""; 0]);
    }
}
