use proptest::prelude::*;

use super::super::listed::Listed;
use super::super::object::{Object, Says};
use super::super::objects::{Change, Objects};
use super::*;

const KINDS: [Resource; 2] =
    [Resource::Policies(Kind::KubeArmorPolicy), Resource::Policies(Kind::KubeArmorSeccompPolicy)];

/// What somebody made: of which kind, in which namespace, when, how large, and how large before.
type Made = (usize, u8, u8, usize, Option<usize>);

fn made(all: &[Made]) -> Vec<(Key, String, usize, Option<usize>)> {
    let one = |(number, (kind, namespace, created, bytes, older)): (usize, &Made)| {
        let (resource, namespace) = (KINDS[*kind], format!("n{namespace}"));
        (Key { resource, namespace, name: format!("o{number}") }, format!("t{created:03}"), *bytes, *older)
    };
    all.iter().enumerate().map(one).collect()
}

fn claims(all: &[(Key, String, usize, Option<usize>)]) -> impl Iterator<Item = Claim<'_>> {
    all.iter().map(|(key, created, bytes, older)| Claim { key, created, bytes: *bytes, older: *older })
}

fn all_made() -> impl Strategy<Value = Vec<Made>> {
    let older = proptest::option::weighted(0.2, 0usize..40);
    prop::collection::vec((0..2usize, 0..5u8, 0..50u8, 0..40usize, older), 0..60)
}

proptest! {
    #[test]
    fn no_namespace_takes_what_another_needs_and_loses_its_newest_first(
        all in all_made(), objects in 0..40usize, bytes in 0..400usize, mix in any::<u64>(),
    ) {
        let most = Amount { objects, bytes };
        let rooms = Rooms::of_each(most);
        let all = made(&all);
        let places: HashMap<&Key, Place> = rooms.without(claims(&all)).into_iter().collect();
        let place = |claim: &Claim<'_>| places.get(claim.key).copied();

        // no more than there is
        let used = claims(&all).fold(Amount::default(), |used, claim| match place(&claim) {
            None => used.with(claim.bytes),
            Some(Place::Older) => used.with(claim.older.unwrap()),
            Some(Place::Nothing) => used,
        });
        prop_assert!(used.fits(most), "{used:?}");

        let mut of_each: HashMap<&str, Vec<Claim<'_>>> = HashMap::new();
        claims(&all).for_each(|claim| of_each.entry(&claim.key.namespace).or_default().push(claim));
        let many = of_each.len().max(1);
        for claims in of_each.values() {
            // an equal share is safe, whatever others do
            let wanted = claims.iter().fold(Amount::default(), |sum, claim| sum.with(claim.bytes));
            let equal = Amount { objects: objects / many, bytes: bytes / many };
            let out: Vec<_> = claims.iter().filter(|claim| place(claim).is_some()).collect();
            prop_assert!(!wanted.fits(equal) || out.is_empty());
            // who loses something loses the newest
            let oldest_out = out.iter().map(|claim| (claim.created, claim.key)).min();
            let newest_in = claims.iter().filter(|claim| place(claim).is_none());
            let newest_in = newest_in.map(|claim| (claim.created, claim.key)).max();
            prop_assert!(oldest_out.is_none() || newest_in < oldest_out);
        }

        // the order in which it is told means nothing
        let mut mixed = all.clone();
        mixed.sort_by_key(|(key, ..)| key.name.bytes().fold(mix, |sum, byte| sum.rotate_left(7) ^ u64::from(byte)));
        let again: HashMap<&Key, Place> = rooms.without(claims(&mixed)).into_iter().collect();
        prop_assert_eq!(&again, &places);

        // what has no room in a part has none in the whole: a list may let it go before its end
        for part in [&all[..all.len() / 2], &all[all.len() / 3..]] {
            for (key, place) in rooms.without(claims(part)) {
                prop_assert!(places.contains_key(key), "{key} {place:?}");
            }
        }
    }

    /// A list that is read, and objects that come one by one in any order, take the same.
    #[test]
    fn what_is_in_force_hangs_on_what_there_is_alone(all in all_made(), objects in 1..30usize, mix in any::<u64>()) {
        let rooms = Rooms::of_each(Amount { objects, bytes: usize::MAX });
        let all: Vec<Object> = made(&all).into_iter().map(|(key, created, ..)| object(key, created)).collect();
        let mut mixed = all.clone();
        mixed.sort_by_key(|one| one.key.name.bytes().fold(mix, |sum, byte| sum.rotate_left(7) ^ u64::from(byte)));
        let mut at_once = Objects::with_rooms(rooms);
        for resource in KINDS {
            let mut listed = Listed::with_rooms(resource, rooms);
            mixed.iter().filter(|one| one.key.resource == resource).for_each(|one| listed.push(one.clone()));
            at_once.apply(Change::All(resource, listed.end().0));
        }
        let mut by_and_by = Objects::with_rooms(rooms);
        for one in &mixed {
            by_and_by.apply(Change::Set(one.clone()));
        }
        // what had no room at first and has some now is listed again
        for wanted in [&mut at_once, &mut by_and_by] {
            for resource in wanted.wanted() {
                let mut listed = Listed::with_rooms(resource, rooms);
                all.iter().filter(|one| one.key.resource == resource).for_each(|one| listed.push(one.clone()));
                wanted.apply(Change::All(resource, listed.end().0));
            }
        }
        let names = |objects: &Objects| {
            objects.snapshot().policies.iter().map(|policy| policy.id().to_string())
                .chain(objects.snapshot().seccomp.iter().map(|policy| policy.id().to_string()))
                .collect::<Vec<_>>()
        };
        let without: Vec<Key> = {
            let claims = all.iter().map(|one| Claim { key: &one.key, created: &one.created, bytes: 0, older: None });
            rooms.without(claims).into_iter().map(|(key, _)| key.clone()).collect()
        };
        let mut wanted: Vec<&Object> = all.iter().filter(|one| !without.contains(&one.key)).collect();
        wanted.sort_by_key(|one| &one.key);
        let wanted: Vec<String> =
            wanted.iter().map(|one| format!("{}/{}", one.key.namespace, one.key.name)).collect();
        prop_assert_eq!(names(&at_once), wanted.clone());
        prop_assert_eq!(names(&by_and_by), wanted);
    }
}

fn object(key: Key, created: String) -> Object {
    let rules = match key.resource {
        Resource::Policies(Kind::KubeArmorSeccompPolicy) => "syscalls: [mkdir]",
        _ => "file: {matchPaths: [{path: /x}]}",
    };
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: {}\nmetadata: {{name: {}, namespace: {}}}\nspec:\n  \
         selector: {{matchLabels: {{app: web}}}}\n  {rules}\n  action: Block\n",
        key.resource, key.name, key.namespace
    );
    let uid = format!("uid of {key}");
    Object { key, uid, generation: 1, created, says: Says::Text(text) }
}

#[test]
fn a_level_is_what_fills_the_room_and_no_less_than_an_equal_share() {
    for (total, wanted, each) in [
        (10, vec![], 10),
        (10, vec![3, 3, 4], 10),
        (10, vec![1, 2, 100], 7),
        (10, vec![100, 2, 100], 4),
        (10, vec![100, 100, 100], 3),
        (0, vec![1], 0),
        (2, vec![0, 0, 0, 5], 2),
    ] {
        assert_eq!(level(total, wanted.clone()), each, "{total} {wanted:?}");
    }
}

/// Postures and policies of the cluster have rooms of their own, however full the other is.
#[test]
fn what_is_of_the_cluster_has_room_of_its_own() {
    let rooms = Rooms::of_each(Amount { objects: 2, bytes: 100 });
    let cluster = Resource::Policies(Kind::KubeArmorClusterPolicy);
    let key = |resource, namespace: &str, name: &str| Key {
        resource,
        namespace: namespace.into(),
        name: name.into(),
    };
    let keys: Vec<Key> = (0..9)
        .map(|number| key(KINDS[0], "greedy", &number.to_string()))
        .chain(["a", "b"].map(|name| key(cluster, "", name)))
        .chain(["a", "b", "c"].map(|name| key(Resource::Namespaces, "", name)))
        .collect();
    let claim = |key| Claim { key, created: "", bytes: 1, older: None };
    let without: Vec<String> =
        rooms.without(keys.iter().map(claim)).into_iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(without.len(), 1 + 7, "{without:?}");
    assert_eq!(without[0], "Namespace c");
    assert!(without[1..].iter().all(|name| name.contains("greedy")), "{without:?}");
}

/// A million objects take no more memory than those that there is room for, twice.
#[test]
fn a_list_of_any_length_is_held_in_bounds() {
    let rooms = Rooms::of_each(Amount { objects: 10, bytes: 1 << 20 });
    let mut listed = Listed::with_rooms(KINDS[0], rooms);
    let key = |namespace: &str, name: String| Key { resource: KINDS[0], namespace: namespace.into(), name };
    for number in 0..20_000 {
        listed.push(object(key("greedy", format!("o{number}")), "t2".to_owned()));
    }
    listed.push(object(key("modest", "o".to_owned()), "t9".to_owned()));
    assert!(listed.len() < 10 + 10 + 2 * 4096, "{}", listed.len());
    let (objects, more) = listed.end();
    assert_eq!(objects.len() + more, 20_001, "what is not there is counted");
    let whole: Vec<&str> = objects
        .iter()
        .filter(|one| matches!(one.says, Says::Text(_)))
        .map(|one| one.key.namespace.as_str())
        .collect();
    assert_eq!((whole.len(), whole.contains(&"modest")), (10, true), "{whole:?}");
    assert!(objects.len() <= 20, "{}", objects.len());
}

/// Who may make objects may make wrong ones, and any number of namespaces without postures.
#[test]
fn what_is_wrong_takes_room_and_what_says_nothing_takes_none() {
    let rooms = Rooms::of_each(Amount { objects: 10, bytes: 1 << 20 });
    let listed = |resource, says: &dyn Fn(u32) -> Says| {
        let mut listed = Listed::with_rooms(resource, rooms);
        for number in 0..20_000 {
            let key = Key { resource, namespace: String::new(), name: format!("o{number:05}") };
            let uid = format!("uid of {key}");
            listed.push(Object { key, uid, generation: 1, created: String::new(), says: says(number) });
            assert!(listed.len() <= 20 + 2 * 4096, "{}", listed.len());
        }
        listed.end()
    };
    assert_eq!(listed(Resource::Namespaces, &|_| Says::Nothing), (vec![], 0));
    let cluster = Resource::Policies(Kind::KubeArmorClusterPolicy);
    for resource in [Resource::Namespaces, cluster] {
        let (objects, more) = listed(resource, &|number| Says::Wrong(format!("wrong in the way {number}")));
        let wrong = objects.iter().filter(|one| matches!(one.says, Says::Wrong(_))).count();
        assert_eq!((wrong, objects.len(), more), (10, 20, 20_000 - 20));
    }
}
