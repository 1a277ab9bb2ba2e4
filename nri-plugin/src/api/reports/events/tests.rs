use enforcer_core::policy::Kind;

use super::*;
use crate::api::object::{Key, Resource};

fn occurrence(pod: &str, note: &str) -> Occurrence {
    let (refusals, Queue(mut queue)) = queue(&Metrics::default());
    let pod = Pod { namespace: "n".into(), name: pod.into(), uid: "u".into(), container: "main".into() };
    refusals.start(pod, note);
    queue.try_recv().unwrap()
}

fn told() -> (Told, Instant, Counter) {
    let lost = Counter::default();
    (Told::new(Duration::from_secs(5), Duration::from_secs(60), lost.clone()), Instant::now(), lost)
}

#[test]
fn the_same_again_makes_one_event_count_on() {
    let (mut told, begin, lost) = told();
    let at = |seconds: u64| begin + Duration::from_secs(seconds);
    told.take(occurrence("web", "process 17 is not there"), at(0));
    let (key, change) = told.next(at(0)).unwrap();
    let Change::Create { name, note } = &change else { panic!("{change:?}") };
    assert!(name.starts_with("web.") && note == "process 17 is not there", "{name} {note}");
    told.wrote(&key, &change, Ok(()), at(0));
    assert!(told.due().is_none() && told.next(at(1)).is_none());
    for number in 18..28 {
        told.take(occurrence("web", &format!("process {number} is not there")), at(number));
    }
    assert!(told.next(at(59)).is_none(), "once a minute");
    assert!(told.due().is_some_and(|due| due <= at(60)));
    let (key, change) = told.next(at(60)).unwrap();
    assert_eq!(change, Change::Count { name: name.clone(), count: 11 });
    // the server has forgotten it
    told.wrote(&key, &change, Err(Trouble::Absent), at(60));
    let (key, change) = told.next(at(60)).unwrap();
    assert!(matches!(&change, Change::Create { .. }));
    told.wrote(&key, &change, Ok(()), at(60));
    let (key, change) = told.next(at(120)).unwrap();
    assert!(matches!(&change, Change::Count { count: 10, .. }), "{change:?}");
    told.wrote(&key, &change, Ok(()), at(120));
    told.take(occurrence("web", "no memory"), at(121));
    assert!(matches!(told.next(at(121)), Some((_, Change::Create { .. }))), "another reason");
    assert_eq!(lost.get(), 0);
    told.forget(at(3 * 3600));
    assert!(told.known.is_empty());
    assert_eq!(lost.get(), 1, "the last one was never written");
}

#[test]
fn a_flood_has_a_budget_and_a_bound_and_what_is_lost_is_counted() {
    let (mut told, begin, lost) = told();
    let many = KNOWN + 100;
    for number in 0..many {
        told.take(occurrence(&format!("web-{number}"), "no"), begin + Duration::from_millis(1));
    }
    assert_eq!((told.known.len(), lost.get()), (KNOWN, 100));
    let mut write = |seconds: u64| {
        let now = begin + Duration::from_secs(seconds);
        let mut written = 0;
        while let Some((key, change)) = told.next(now) {
            told.wrote(&key, &change, Ok(()), now);
            written += 1;
        }
        written
    };
    assert_eq!([write(1), write(4), write(6), write(60)], [10, 0, 1, 10]);
    // the queue does not grow either
    let (refusals, _queue) = queue(&Metrics::default());
    for _ in 0..=QUEUE {
        refusals.start(Pod { namespace: "n".into(), name: "p".into(), ..Pod::default() }, "no");
    }
    assert_eq!(refusals.lost.get(), 1);
    refusals.start(Pod::default(), "podman's");
    assert_eq!(refusals.lost.get(), 1);
}

#[test]
fn what_is_in_the_way_of_one_is_not_in_that_of_others() {
    let (mut told, begin, lost) = told();
    let at = |seconds: u64| begin + Duration::from_secs(seconds);
    told.take(occurrence("a", "no"), at(0));
    let (a, create) = told.next(at(0)).unwrap();
    told.take(occurrence("b", "no"), at(0));
    // its namespace ends
    told.wrote(&a, &create, Err(Trouble::Forbidden("it ends".into())), at(0));
    let (b, other) = told.next(at(0)).unwrap();
    assert_eq!((a.name.as_str(), b.name.as_str()), ("a", "b"));
    told.wrote(&b, &other, Ok(()), at(0));
    assert!(told.next(at(59)).is_none());
    // it has ended
    let (again, create) = told.next(at(60)).unwrap();
    assert_eq!(again, a);
    told.wrote(&again, &create, Err(Trouble::Absent), at(60));
    assert_eq!((told.known.contains_key(&a), lost.get(), told.due()), (false, 1, None));
    // the server is away: nothing is tried
    for pod in ["c", "d"] {
        told.take(occurrence(pod, "no"), at(61));
    }
    let (c, create) = told.next(at(61)).unwrap();
    told.wrote(&c, &create, Err(Trouble::Unreachable("no".into())), at(61));
    assert!(told.next(at(62)).is_none() && told.next(at(121)).is_some());
}

#[test]
fn a_name_is_one_that_the_api_takes() {
    let long = occurrence(&format!("{}.{}", "a".repeat(199), "b".repeat(50)), "no");
    let name = name(&long, SystemTime::UNIX_EPOCH + Duration::from_nanos(255));
    assert_eq!(name, format!("{}.ff", "a".repeat(199)));
}

/// The API takes an event in the namespace alone that what it is about is said to be in; people of a namespace look in theirs.
#[test]
fn a_mistake_of_a_namespace_is_told_in_it_and_one_of_the_cluster_in_default() {
    let told = |resource, namespace: &str, name: &str| {
        let (refusals, Queue(mut queue)) = queue(&Metrics::default());
        let key = Key { resource, namespace: namespace.into(), name: name.into() };
        let about = About { key, uid: "u".into(), generation: 1, refused: None, policy: None, seccomp: None };
        refusals.invalid(&about, "`kubearmor-file-posture`: `deny` is no posture");
        let one = queue.try_recv().unwrap();
        let event = one.event("e", &one.note, "node", SystemTime::UNIX_EPOCH);
        assert_eq!(event["note"], "`kubearmor-file-posture`: `deny` is no posture");
        assert_eq!((&event["reason"], &event["regarding"]["uid"]), (&json!("PolicyInvalid"), &json!("u")));
        assert_eq!(one.place(), event["metadata"]["namespace"]);
        let of = |field: &str| event["regarding"][field].as_str().map(str::to_owned);
        (one.place().to_owned(), ["apiVersion", "kind", "namespace", "name"].map(of))
    };
    let text = |fields: [&str; 4]| fields.map(|text| (!text.is_empty()).then(|| text.to_owned()));
    let wanted = ("shop".to_owned(), text(["v1", "Namespace", "shop", "shop"]));
    assert_eq!(told(Resource::Namespaces, "", "shop"), wanted);
    let version = "security.kubearmor.com/v1";
    let wanted = ("shop".to_owned(), text([version, "KubeArmorPolicy", "shop", "p"]));
    assert_eq!(told(Resource::Policies(Kind::KubeArmorPolicy), "shop", "p"), wanted);
    let wanted = ("default".to_owned(), text([version, "KubeArmorClusterPolicy", "", "p"]));
    assert_eq!(told(Resource::Policies(Kind::KubeArmorClusterPolicy), "", "p"), wanted);
}
