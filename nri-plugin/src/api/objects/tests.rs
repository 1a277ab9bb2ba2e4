use super::*;
use crate::api::object::{Item, MAX_TEXT};
use enforcer_core::policy::Kind;
use enforcer_core::ruleset::{PostureAction, Postures};
use serde_json::Value;
use serde_json::value::to_raw_value;

const KIND: Resource = Resource::Policies(Kind::KubeArmorPolicy);

fn object(resource: Resource, value: &Value) -> Option<Object> {
    Item::new(&to_raw_value(value).unwrap()).object(resource)
}

fn text(object: &Object) -> &str {
    let Says::Text(text) = &object.says else { panic!("{object:?}") };
    text
}

/// A policy as an API server gives it, bookkeeping and all.
fn policy(name: &str, uid: &str, path: &str) -> Object {
    let value = json!({
        "apiVersion": "security.kubearmor.com/v1",
        "kind": "KubeArmorPolicy",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": uid,
            "resourceVersion": "17",
            "generation": 2,
            "creationTimestamp": "2026-11-28T17:20:00Z",
            "aFieldOfALaterServer": {"x": [1]},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\"kind\":\"KubeArmorPolicy\"}\n"},
            "managedFields": [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "file": {"matchPaths": [{"path": path}]},
            "message": "tab\t, quote \", line\n, \u{1f600}, \u{85}, \u{7f}",
            "action": "Block",
        },
        "status": {"conditions": [{"type": "Accepted"}]},
    });
    object(KIND, &value).unwrap()
}

fn broken(name: &str, uid: &str) -> Object {
    let mut object = policy(name, uid, "/x");
    object.says = Says::Text(text(&object).replace("matchPaths", "matchPathz"));
    object
}

fn namespace(annotations: Value) -> Object {
    // as an item of a list: without kind and version
    let value = json!({
        "metadata": {"name": "shop", "uid": "n", "labels": {"kubernetes.io/metadata.name": "shop"}, "annotations": annotations},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    });
    object(Resource::Namespaces, &value).unwrap()
}

fn paths(objects: &Objects) -> Vec<String> {
    let snapshot = objects.snapshot();
    let each = snapshot.policies.iter().flat_map(|policy| {
        policy.rules().iter().map(|rule| format!("{} {}", policy.id(), rule.object)).collect::<Vec<_>>()
    });
    each.collect()
}

fn posture(objects: &Objects) -> Vec<PostureAction> {
    let snapshot = objects.snapshot();
    let postures =
        snapshot.namespaces.first().map_or(Postures::default(), |one| one.over(Postures::default()));
    [Class::File, Class::Network, Class::Capability].map(|class| postures.of(class)).to_vec()
}

/// What a start from what was saved comes to.
fn again(objects: &Objects) -> Objects {
    let mut again = Objects::default();
    for object in objects.saved() {
        again.apply(Change::Set(object));
    }
    again
}

#[test]
fn objects_come_change_and_go() {
    let mut objects = Objects::default();
    assert!(objects.apply(Change::Set(policy("a", "1", "/a"))));
    assert!(objects.apply(Change::Set(policy("b", "2", "/b"))));
    assert_eq!(paths(&objects), ["shop/a /a", "shop/b /b"]);
    assert!(objects.snapshot().errors.is_empty(), "{:?}", objects.snapshot().errors);
    let before = objects.snapshot();

    assert!(!objects.apply(Change::Set(policy("a", "1", "/a"))), "nothing differs");
    assert!(objects.apply(Change::Set(policy("a", "1", "/c"))));
    assert_eq!(paths(&objects), ["shop/a /c", "shop/b /b"]);
    let after = objects.snapshot();
    assert!(Arc::ptr_eq(&before.policies[1], &after.policies[1]), "what did not change is the same");

    assert!(objects.apply(Change::Gone(policy("a", "1", "/c").key)));
    assert!(!objects.apply(Change::Gone(policy("a", "1", "/c").key)));
    assert_eq!(paths(&objects), ["shop/b /b"]);
    assert_eq!(objects.count(KIND), 1);
}

/// A list is the whole truth about its kind, and about no other.
#[test]
fn a_list_takes_the_place_of_what_was_known_of_its_kind() {
    let mut objects = Objects::default();
    objects.apply(Change::Set(namespace(json!({"kubearmor-file-posture": "block"}))));
    objects.apply(Change::All(KIND, vec![policy("a", "1", "/a"), policy("b", "2", "/b")]));
    let before = objects.snapshot();
    assert!(!objects.apply(Change::All(KIND, vec![policy("b", "2", "/b"), policy("a", "1", "/a")])));
    assert!(objects.apply(Change::All(KIND, vec![policy("b", "2", "/b"), policy("c", "3", "/c")])));
    assert_eq!(paths(&objects), ["shop/b /b", "shop/c /c"]);
    assert!(Arc::ptr_eq(&before.policies[1], &objects.snapshot().policies[0]));
    assert!(objects.apply(Change::All(KIND, vec![])));
    assert!(paths(&objects).is_empty());
    assert_eq!(posture(&objects)[0], PostureAction::Block);
}

#[test]
fn an_object_that_goes_bad_keeps_its_last_good_version_and_others_do_not_notice() {
    let mut objects = Objects::default();
    objects.apply(Change::All(KIND, vec![policy("a", "1", "/a"), broken("b", "2")]));
    assert_eq!(paths(&objects), ["shop/a /a"]);
    objects.apply(Change::Set(broken("a", "1")));
    objects.apply(Change::Set(policy("c", "3", "/c")));
    for objects in [&objects, &again(&objects)] {
        assert_eq!(paths(objects), ["shop/a /a", "shop/c /c"]);
        let snapshot = objects.snapshot();
        assert_eq!(snapshot.kept, ["KubeArmorPolicy shop/a"]);
        let told: Vec<_> =
            snapshot.errors.iter().map(|error| (error.file.as_str(), error.field.as_str())).collect();
        let field = "spec.file.matchPathz";
        assert!(told.contains(&("KubeArmorPolicy shop/a", field)), "{told:?}");
        assert!(told.contains(&("KubeArmorPolicy shop/b", field)), "{told:?}");
    }
    // a list tells it no better
    objects.apply(Change::All(KIND, vec![broken("a", "1"), policy("c", "3", "/c")]));
    assert_eq!((paths(&objects).len(), objects.snapshot().kept.len()), (2, 1));
    objects.apply(Change::Set(policy("a", "1", "/mended")));
    let snapshot = objects.snapshot();
    assert_eq!((snapshot.errors.len(), snapshot.kept.len()), (0, 0), "{:?}", snapshot.errors);
    assert_eq!(paths(&objects), ["shop/a /mended", "shop/c /c"]);
}

#[test]
fn an_object_that_was_made_anew_takes_nothing_over() {
    let mut objects = Objects::default();
    objects.apply(Change::Set(policy("a", "1", "/a")));
    // its deletion was not seen
    assert!(objects.apply(Change::All(KIND, vec![broken("a", "2")])));
    assert!(paths(&objects).is_empty() && objects.snapshot().kept.is_empty());
    assert_eq!(objects.snapshot().errors.len(), 1);
}

#[test]
fn a_namespace_counts_where_it_sets_postures() {
    use PostureAction::{Allow, Audit, Block};
    let mut objects = Objects::default();
    let none = json!({"kubearmor-policy": "enabled", "other": "x"});
    assert!(!objects.apply(Change::Set(namespace(none.clone()))));
    // what is to be seen counts, too, and outlives a bad value, also in what is saved
    let seen = |objects: &Objects| {
        let all = objects.snapshot().namespaces;
        all.first().and_then(|one| one.visibility()).map(|seen| seen.to_string())
    };
    assert!(objects.apply(Change::Set(namespace(json!({"kubearmor-visibility": "file"})))));
    let mixed = json!({"kubearmor-visibility": "fil", "kubearmor-file-posture": "block"});
    objects.apply(Change::Set(namespace(mixed)));
    for objects in [&objects, &again(&objects)] {
        assert_eq!((seen(objects).as_deref(), posture(objects)[0]), (Some("file"), Block));
    }
    objects.apply(Change::Set(namespace(json!({"kubearmor-file-posture": "block"}))));
    assert_eq!((posture(&objects), objects.count(Resource::Namespaces)), (vec![Block, Audit, Audit], 1));
    // one by one they go bad, and good ones change
    objects.apply(Change::Set(namespace(
        json!({"kubearmor-file-posture": "blok", "kubearmor-network-posture": "allow"}),
    )));
    assert_eq!(posture(&objects), [Block, Allow, Audit]);
    let bad = json!({
        "kubearmor-file-posture": 7, "kubearmor-network-posture": "alow", "kubearmor-capabilities-posture": "block",
    });
    objects.apply(Change::Set(namespace(bad)));
    for objects in [&objects, &again(&objects)] {
        assert_eq!(posture(objects), [Block, Allow, Block]);
        assert_eq!(
            (objects.snapshot().errors.len(), objects.snapshot().kept),
            (2, vec!["Namespace shop".to_owned()])
        );
    }
    let worse = json!({"kubearmor-network-posture": "", "kubearmor-capabilities-posture": "blocked"});
    objects.apply(Change::Set(namespace(worse)));
    for objects in [&objects, &again(&objects)] {
        assert_eq!(posture(objects), [Audit, Allow, Block]);
    }
    // a misspelt annotation is told
    objects.apply(Change::Set(namespace(json!({"kubearmor-files-posture": "block"}))));
    assert_eq!(objects.snapshot().errors.len(), 1);
    assert!(objects.apply(Change::Set(namespace(none))));
    assert_eq!(posture(&objects), [Audit, Audit, Audit]);
    assert_eq!(objects.count(Resource::Namespaces), 0);
}

fn rooms(objects: usize, bytes: usize) -> Rooms {
    Rooms::of_each(Amount { objects, bytes })
}

/// The same, made at another time or in another namespace.
fn made(object: Object, namespace: &str, created: &str) -> Object {
    let Says::Text(text) = &object.says else { panic!("{object:?}") };
    let says =
        Says::Text(text.replace("\"namespace\": \"shop\"", &format!("\"namespace\": \"{namespace}\"")));
    let key = Key { namespace: namespace.into(), ..object.key };
    Object { key, says, created: created.into(), ..object }
}

#[test]
fn more_than_there_is_room_for_is_left_out_and_told() {
    let one = text(&policy("a", "1", "/a")).len();
    let mut objects = Objects::with_rooms(rooms(3, 4 * one));
    for name in ["a", "b", "c", "d"] {
        objects.apply(Change::Set(policy(name, name, "/a")));
    }
    assert_eq!(paths(&objects).len(), 3);
    let errors = objects.snapshot().errors;
    assert!(
        errors[0].file == "KubeArmorPolicy shop/d" && errors[0].message.contains("left out: its namespace"),
        "{errors:?}"
    );
    assert_eq!(objects.left_out(KIND), (1, false));
    // a version that is too large leaves the last one in force, and what is newer is not to hang on it
    let mut large = policy("c", "c", "/b");
    large.says = Says::Text(text(&large).to_owned() + &" ".repeat(2 * one));
    objects.apply(Change::Set(large));
    assert_eq!((paths(&objects)[2].as_str(), objects.snapshot().errors.len()), ("shop/c /a", 2));
    objects.apply(Change::Set(policy("c", "c", "/a")));
    objects.apply(Change::Gone(policy("d", "d", "/a").key));
    assert!(objects.snapshot().errors.is_empty());
    objects.apply(Change::Gone(policy("c", "c", "/a").key));
    objects.apply(Change::Set(policy("d", "d", "/d")));
    assert_eq!(paths(&objects)[2], "shop/d /d", "there is room again");
    for name in ["a", "b", "d"] {
        objects.apply(Change::Gone(policy(name, name, "/a").key));
    }
    assert_eq!(objects.held(Room::Shared), Amount::default(), "the count does not drift");
}

#[test]
fn a_namespace_that_has_too_many_loses_its_newest_and_no_other_loses_any() {
    let mut objects = Objects::with_rooms(rooms(4, usize::MAX));
    for name in ["a", "b", "c", "d"] {
        objects.apply(Change::Set(made(policy(name, name, "/a"), "greedy", &format!("t{name}"))));
    }
    assert_eq!(paths(&objects).len(), 4, "nobody else wants any");
    assert!(objects.snapshot().left_out.is_empty());
    objects.apply(Change::Set(made(policy("z", "z", "/z"), "modest", "tz")));
    assert_eq!(paths(&objects), ["greedy/a /a", "greedy/b /a", "greedy/c /a", "modest/z /z"]);
    // whatever runs there may be without one of its policies
    let left_out = objects.snapshot().left_out;
    let told: Vec<_> =
        left_out.iter().map(|(namespace, gap)| (namespace.as_str(), gap.to_string())).collect();
    assert!(
        told.len() == 1 && told[0].0 == "greedy" && told[0].1.starts_with("greedy/d: spec: "),
        "{told:?}"
    );
    // in the other order it comes to the same, and what is old is no newer for being changed
    let mut other = Objects::with_rooms(rooms(4, usize::MAX));
    other.apply(Change::Set(made(policy("z", "z", "/z"), "modest", "tz")));
    for name in ["d", "c", "b", "a"] {
        other.apply(Change::Set(made(policy(name, name, "/a"), "greedy", &format!("t{name}"))));
    }
    assert_eq!(paths(&other), paths(&objects));
    other.apply(Change::Set(made(policy("a", "a", "/b"), "greedy", "ta")));
    assert_eq!(paths(&other)[0], "greedy/a /b");
    // once there is room, all are listed again
    assert!(objects.wanted().is_empty());
    objects.apply(Change::Gone(made(policy("z", "z", "/z"), "modest", "").key));
    assert_eq!(objects.wanted(), BTreeSet::from([KIND]));
}

#[test]
fn of_what_is_left_out_it_is_told_too() {
    let mut objects = Objects::with_rooms(rooms(1, 1 << 20));
    for name in ["a", "b"] {
        objects.apply(Change::Set(Object { generation: 3, ..policy(name, name, "/a") }));
    }
    let abouts = objects.abouts();
    assert_eq!(abouts.len(), 2);
    assert_eq!(abouts[0].refused, None);
    let left_out = &abouts[1];
    let why = "is left out: its namespace has more than its share of the room for 1 policies";
    assert!(left_out.refused.as_ref().is_some_and(|told| told.contains(why)), "{left_out:?}");
    assert_eq!((left_out.uid.as_str(), left_out.generation, &left_out.policy), ("b", 3, &None));
    assert!(objects.told());
    objects.apply(Change::Gone(policy("b", "b", "/a").key));
    assert!(objects.told() && objects.abouts().len() == 1);
    // a version that has no room leaves an older one in force
    let large = Object { says: Says::NoRoom(2 << 20), generation: 4, ..policy("a", "a", "/b") };
    objects.apply(Change::Set(large));
    assert!(objects.told());
    let first = objects.abouts().remove(0);
    assert!(first.refused.is_some() && first.policy.is_some() && first.generation == 4, "{first:?}");
    assert!(objects.snapshot().left_out.is_empty(), "something of it is in force");
}

fn node(name: &str, labels: Value) -> Object {
    let value = json!({
        "metadata": {"name": name, "uid": "u", "labels": labels, "annotations": {"x": "y"}},
        "spec": {"podCIDR": "10.0.0.0/24"}, "status": {"images": []},
    });
    object(Resource::Node, &value).unwrap()
}

/// What the API server says of another node, or of none, is nothing; and what it once said stays.
#[test]
fn the_labels_of_the_node_are_those_that_were_told_last() {
    let known = |objects: &Objects| match objects.snapshot().node {
        NodeLabels::Known(labels) => {
            labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
        }
        other => vec![format!("{other:?}")],
    };
    let mut objects = Objects::default();
    assert_eq!(known(&objects), ["NotAsked"]);
    objects.of_node("node-1");
    assert_eq!(known(&objects), ["Unknown"]);
    objects.apply(Change::All(Resource::Node, vec![]));
    assert_eq!(known(&objects), ["Unknown"], "it is not registered yet");
    assert!(objects.apply(Change::All(Resource::Node, vec![node("node-1", json!({"rack": "a"}))])));
    assert_eq!(known(&objects), ["rack=a"]);
    assert!(objects.snapshot().errors.is_empty() && objects.abouts().is_empty());
    assert!(!objects.apply(Change::Set(node("node-1", json!({"rack": "a"})))), "nothing differs");
    objects.apply(Change::Set(node("node-1", json!({"rack": "b", "zone": ""}))));
    for bad in [json!({"rack": 7}), json!("x")] {
        objects.apply(Change::Set(node("node-1", bad)));
        assert_eq!(
            (known(&objects), objects.snapshot().errors.len()),
            (vec!["rack=b".into(), "zone=".into()], 1)
        );
    }
    objects.apply(Change::Gone(node("node-1", json!({})).key));
    objects.apply(Change::All(Resource::Node, vec![]));
    assert_eq!(known(&objects), ["rack=b", "zone="], "the node is deleted, and goes on");
    // a start without the API server
    let mut again = again(&objects);
    assert_eq!(known(&again), ["NotAsked"]);
    again.of_node("node-1");
    assert_eq!(known(&again), ["rack=b", "zone="]);
    again.of_node("node-2");
    assert_eq!(known(&again), ["Unknown"], "a disk of another node");
}

#[test]
fn what_is_no_object_is_none() {
    for value in
        [json!(null), json!([]), json!({}), json!({"metadata": {"name": ""}}), json!({"metadata": "x"})]
    {
        assert_eq!(object(KIND, &value), None, "{value}");
    }
    // of any shape, it is read and told
    let mut objects = Objects::default();
    for (number, spec) in [json!(null), json!([[]]), json!("x"), json!({"selector": {"matchLabels": [1]}})]
        .into_iter()
        .enumerate()
    {
        let value =
            json!({"kind": "List", "items": [], "spec": spec, "metadata": {"name": format!("p{number}")}});
        objects.apply(Change::Set(object(KIND, &value).unwrap()));
        assert!(objects.snapshot().errors.len() > number);
    }
    assert!(paths(&objects).is_empty());
}

fn nested(depth: usize, inner: &str) -> String {
    format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth))
}

fn with_spec(name: &str, spec: &str) -> Object {
    let raw =
        format!(r#"{{"metadata": {{"name": "{name}", "namespace": "shop", "uid": "1"}}, "spec": {spec}}}"#);
    let raw = serde_json::value::RawValue::from_string(raw).unwrap();
    Item::new(&raw).object(KIND).unwrap()
}

/// Deeper than the decoder goes: an error of that object alone, which keeps its last good version.
#[test]
fn an_object_that_cannot_be_decoded_is_an_error_of_its_own() {
    let mut objects = Objects::default();
    objects.apply(Change::Set(policy("a", "1", "/a")));
    objects.apply(Change::All(
        KIND,
        vec![with_spec("a", &nested(100_000, "7")), with_spec("b", &nested(200, ""))],
    ));
    objects.apply(Change::Set(policy("c", "3", "/c")));
    assert_eq!(paths(&objects), ["shop/a /a", "shop/c /c"]);
    let snapshot = objects.snapshot();
    assert_eq!(snapshot.kept, ["KubeArmorPolicy shop/a"]);
    let told: Vec<_> =
        snapshot.errors.iter().map(|error| (error.file.as_str(), error.message.as_str())).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|(_, message)| message.contains("cannot be read: recursion limit")), "{told:?}");
    // what is saved is the good version
    assert_eq!(paths(&again(&objects)), ["shop/a /a", "shop/c /c"]);
    assert!(objects.apply(Change::Set(policy("a", "1", "/mended"))));
    assert_eq!((paths(&objects)[0].as_str(), objects.snapshot().errors.len()), ("shop/a /mended", 1));
}

/// Annotations that cannot be read do not switch postures off.
#[test]
fn a_namespace_that_cannot_be_decoded_keeps_its_postures() {
    let mut objects = Objects::default();
    objects.apply(Change::Set(namespace(json!({"kubearmor-file-posture": "block"}))));
    for annotations in [
        r#"{"kubearmor-file-posture": DEEP}"#,
        r#"{"kubearmor-file-posture": "\\ud800"}"#,
        r#"{"\\ud800": ""}"#,
    ] {
        let annotations = annotations.replace("DEEP", &nested(200, "")).replace("\\\\", "\\");
        let raw = format!(r#"{{"metadata": {{"name": "shop", "uid": "n", "annotations": {annotations}}}}}"#);
        let raw = serde_json::value::RawValue::from_string(raw).unwrap();
        objects.apply(Change::Set(Item::new(&raw).object(Resource::Namespaces).unwrap()));
        assert_eq!(
            (posture(&objects)[0], objects.snapshot().errors.len()),
            (PostureAction::Block, 1),
            "{annotations}"
        );
    }
}

/// Depth makes no object large, and one that is large by itself takes no room from others.
#[test]
fn a_deep_or_large_object_takes_no_room_from_others() {
    // some 600 kB of fields, 18 levels down; indented it had 24 MB
    let fields: Vec<String> = (0..60_000).map(|number| format!("\"f{number}\":1")).collect();
    let deep = nested(100, &format!("{{{}}}", fields.join(",")));
    let deep = with_spec("deep", &deep);
    assert!(text(&deep).len() < 2 * 60_000 * 11, "{}", text(&deep).len());
    let large = with_spec("large", &format!("\"{}\"", "x".repeat(MAX_TEXT)));
    assert!(
        matches!(&large.says, Says::Wrong(why) if why.contains("more than 4194304")),
        "{:.100?}",
        large.says
    );
    // each number gets a line
    let lines = with_spec("lines", &format!("[{}0]", "0,".repeat(MAX_TEXT / 3)));
    assert!(
        matches!(&lines.says, Says::Wrong(why) if why.contains("more than 4194304")),
        "{:.100?}",
        lines.says
    );
    let mut objects = Objects::default();
    for object in [large, lines, policy("a", "1", "/a")] {
        objects.apply(Change::Set(object));
    }
    let Amount { bytes, .. } = objects.held(Room::Shared);
    assert!(bytes < 2000, "{bytes}");
    assert_eq!((paths(&objects).len(), objects.snapshot().errors.len()), (1, 2));
}

#[test]
fn what_was_left_out_is_wanted_once_there_is_room() {
    let one = text(&policy("a", "1", "/a")).len();
    let mut objects = Objects::with_rooms(rooms(10, 2 * one));
    let large = |name: &str| Object { says: Says::NoRoom(10 * one), ..policy(name, name, "/a") };
    objects.apply(Change::All(
        KIND,
        vec![policy("a", "1", "/a"), policy("b", "2", "/b"), policy("c", "3", "/c"), large("l")],
    ));
    assert_eq!((paths(&objects).len(), objects.snapshot().errors.len()), (2, 2));
    assert!(objects.wanted().is_empty(), "there is no room");
    objects.apply(Change::Gone(policy("a", "1", "/a").key));
    assert_eq!(objects.wanted(), BTreeSet::from([KIND]));
    assert!(objects.wanted().is_empty(), "it was told");
    objects.apply(Change::All(KIND, vec![policy("b", "2", "/b"), policy("c", "3", "/c"), large("l")]));
    assert_eq!(paths(&objects), ["shop/b /b", "shop/c /c"]);
    assert!(objects.wanted().is_empty());
    // one for which there was no room keeps its old version, unless it was made anew
    objects.apply(Change::Set(Object { uid: "3".into(), ..large("c") }));
    assert_eq!(paths(&objects), ["shop/b /b", "shop/c /c"]);
    objects.apply(Change::Set(large("c")));
    assert_eq!(paths(&objects), ["shop/b /b"]);
    objects.apply(Change::Gone(policy("b", "2", "/b").key));
    assert!(objects.wanted().is_empty(), "neither fits");
    // more than are kept in mind
    let mut objects = Objects::with_rooms(rooms(3, one));
    objects.apply(Change::All(
        KIND,
        ["1", "2", "3", "4", "5", "6"].map(|name| policy(name, name, "/a")).to_vec(),
    ));
    let errors = objects.snapshot().errors;
    let last = errors.last().unwrap();
    assert_eq!(errors.len(), 4, "{errors:?}");
    assert!(
        last.file == "KubeArmorPolicy"
            && last.message.starts_with("more are left out (2 when all were listed): "),
        "{last:?}"
    );
    assert_eq!(objects.left_out(KIND), (3, true));
    // what is left of the list is told of, and what comes later may have been counted already
    let told = |objects: &Objects| objects.snapshot().errors.last().unwrap().message.clone();
    objects.apply(Change::More(KIND, 40));
    objects.apply(Change::Set(policy("7", "7", "/a")));
    assert!(
        told(&objects).starts_with("more are left out (42 when all were listed): "),
        "{}",
        told(&objects)
    );
    objects.apply(Change::All(KIND, vec![]));
    assert!(objects.snapshot().errors.is_empty());
    // of those of an earlier start the number is not known
    objects.apply(Change::More(KIND, 0));
    assert!(told(&objects).starts_with("more are left out: "), "{}", told(&objects));
}

/// The server keeps the small text alone, so this is what would fill a node's memory.
#[test]
fn a_last_good_version_counts_until_it_goes() {
    let mut objects = Objects::default();
    let good = policy("a", "a", "/a");
    let bytes = text(&good).len();
    objects.apply(Change::Set(good));
    objects.apply(Change::Set(broken("a", "a")));
    assert_eq!(paths(&objects), ["shop/a /a"]);
    assert_eq!(objects.held(Room::Shared).bytes, bytes + text(&broken("a", "a")).len());
    objects.apply(Change::Set(policy("a", "a", "/b")));
    assert_eq!(objects.held(Room::Shared).bytes, bytes);
}

/// Without it `--strict` would let start, after a start without the API server, what it refused before.
#[test]
fn what_is_left_out_is_so_after_a_start_without_the_server() {
    let mut objects = Objects::with_rooms(rooms(1, usize::MAX));
    for name in ["a", "b"] {
        objects.apply(Change::Set(policy(name, name, "/a")));
    }
    assert!(objects.snapshot().left_out.contains_key("shop"));
    let mut restored = Objects::with_rooms(rooms(1, usize::MAX));
    for object in objects.saved() {
        restored.apply(Change::Set(object));
    }
    assert_eq!((paths(&restored), restored.left_out(KIND)), (paths(&objects), (1, false)));
    assert!(restored.snapshot().left_out.contains_key("shop"));
}

#[test]
fn what_waits_for_one_that_now_fits_is_wanted() {
    let one = text(&policy("a", "a", "/a")).len();
    let mut objects = Objects::with_rooms(rooms(10, 3 * one));
    let mut large = made(policy("d", "d", "/d"), "shop", "t2");
    large.says = Says::Text(text(&large).to_owned() + &" ".repeat(3 * one));
    objects.apply(Change::Set(made(policy("a", "a", "/a"), "shop", "t1")));
    objects.apply(Change::Set(large));
    objects.apply(Change::Set(made(policy("e", "e", "/e"), "shop", "t3")));
    assert_eq!(paths(&objects), ["shop/a /a"], "what is newer is left out with what is too large");
    objects.wanted();
    objects.apply(Change::Set(made(policy("d", "d", "/d"), "shop", "t2")));
    assert_eq!(objects.wanted(), BTreeSet::from([KIND]));
}

#[test]
fn annotations_of_a_namespace_are_short() {
    let posture = |value: &str| namespace(json!({"kubearmor-file-posture": value}));
    assert!(matches!(posture("block").says, Says::Text(_)));
    let Says::Wrong(why) = posture(&"x".repeat(5000)).says else { panic!("it has room") };
    assert!(why.contains("more than 4096"), "{why}");
}

#[test]
fn of_an_object_with_many_errors_some_are_told() {
    let paths: Vec<String> = (0..25).map(|number| format!(r#"{{"path": "relative/{number}"}}"#)).collect();
    let spec = format!(
        r#"{{"selector": {{"matchLabels": {{"app": "web"}}}}, "file": {{"matchPaths": [{}]}}, "action": "Block"}}"#,
        paths.join(",")
    );
    let mut objects = Objects::default();
    objects.apply(Change::Set(with_spec("a", &spec)));
    let errors = objects.snapshot().errors;
    assert_eq!((errors.len(), errors[10].message.as_str()), (11, "and 15 more errors"), "{errors:?}");
}

#[test]
fn of_which_kinds_all_is_known_is_kept_in_mind() {
    let mut objects = Objects::default();
    objects.apply(Change::Set(policy("a", "1", "/a")));
    assert!(objects.read().is_empty(), "one object is not all of them");
    objects.apply(Change::All(KIND, vec![]));
    assert!(!objects.apply(Change::Missing(Resource::Namespaces)));
    assert_eq!(*objects.read(), BTreeSet::from([KIND, Resource::Namespaces]));
}

/// What is told to the cluster names the version that it is about, and a version alone is no reason to compile.
#[test]
fn the_generation_is_told_and_changes_nothing_else() {
    let mut objects = Objects::default();
    let mut object = policy("p", "1", "/a");
    assert!(objects.apply(Change::Set(object.clone())) && objects.told() && !objects.told());
    let about = objects.abouts().remove(0);
    assert_eq!((about.generation, about.uid.as_str(), &about.refused), (2, "1", &None));
    object.generation = 3;
    assert!(!objects.apply(Change::Set(object.clone())) && objects.told(), "nothing to compile");
    let later = objects.abouts().remove(0);
    assert_eq!(later.generation, 3);
    assert!(Arc::ptr_eq(later.policy.as_ref().unwrap(), about.policy.as_ref().unwrap()));
    assert!(!objects.apply(Change::Set(object)) && !objects.told());
    let mut worse = broken("p", "1");
    worse.generation = 4;
    assert!(objects.apply(Change::Set(worse)) && objects.told());
    let about = objects.abouts().remove(0);
    assert!(about.refused.as_ref().unwrap().contains("spec.file.matchPathz: "), "{about:?}");
    assert!(about.policy.is_some(), "the last good version is in force");
    assert!(objects.apply(Change::Gone(about.key.clone())) && objects.told() && objects.abouts().is_empty());
    objects.apply(Change::Set(namespace(json!({"kubearmor-file-posture": "block"}))));
    assert!(objects.abouts().is_empty(), "namespaces are none");
    objects.apply(Change::Set(namespace(json!({"kubearmor-file-posture": "blok"}))));
    let about = objects.abouts().remove(0);
    assert!(
        about.is_of_namespace() && about.refused.as_ref().unwrap().contains("`blok`"),
        "but for a mistake"
    );
    objects.apply(Change::Set(namespace(json!({"kubearmor-file-posture": "audit"}))));
    assert!(objects.told() && objects.abouts().is_empty());
}
