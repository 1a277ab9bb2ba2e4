use super::*;
use enforcer_core::policy::Kind;
use std::time::Duration;

const KIND: Resource = Resource::Policies(Kind::KubeArmorPolicy);

/// A program that gives credentials may take its time; what answers the runtime goes on.
#[test]
fn a_slow_program_for_credentials_holds_nobody_up() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let [program, began, kubeconfig] = ["program", "began", "kubeconfig"].map(|name| dir.path().join(name));
    std::fs::write(&program, format!("#!/bin/sh\n: > {}\nexec sleep 30\n", began.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let exec = serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1", "command": program, "interactiveMode": "Never",
    });
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "c", "user": {"exec": exec}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let api = Api::load(Some(kubeconfig), &dir.path().join("state")).unwrap();
    // one thread alone, where the daemon has two
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begin = Instant::now();
    runtime.block_on(async {
        let (end, ends) = oneshot::channel();
        let following = tokio::spawn(api.run(ends));
        while !began.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(begin.elapsed() < Duration::from_secs(10), "the program was not started");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!following.is_finished());
        drop(end);
    });
    runtime.shutdown_background();
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
}

/// What is saved says of which kinds it is the whole, and an empty list is worth a saving.
#[test]
fn a_kind_that_was_read_and_is_empty_is_saved_and_known_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let load = || Api::load(None, dir.path()).unwrap();
    let mut api = load();
    let empty = |resource| vec![Change::All(resource, vec![])];
    assert!(api.apply(empty(KIND)), "it is known now that there are none");
    assert!(!api.apply(empty(KIND)));
    let save = |api: &Api| {
        let (objects, read) = (api.objects.saved(), api.objects.read().clone());
        api.directory.save(Saved { when: SystemTime::now(), read, more: BTreeSet::new(), objects }).unwrap();
    };
    save(&api);
    assert!(!load().health().has_set(), "of the others nothing is known");
    for resource in Resource::ALL {
        api.apply(empty(resource));
    }
    save(&api);
    let again = load();
    assert!(again.health().has_set());
    assert_eq!(again.objects.read().len(), Resource::ALL.len());
}

/// As whoever asks about a container sees it: an empty set is one only when the server has said so, or had at an earlier start.
#[test]
fn a_set_says_what_it_lacks_until_everything_about_containers_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let mut api = Api::load(None, dir.path()).unwrap();
    let mut store = crate::store::Store::new(vec![]).with_api(api.snapshots());
    let host = Resource::Policies(Kind::KubeArmorHostPolicy);
    let mut known = BTreeSet::new();
    let mut untold = store.reload().set.untold();
    for resource in Resource::ALL.into_iter().filter(|one| *one != host) {
        let why = untold.unwrap();
        for one in Resource::ALL {
            let lacks = one != host && !known.contains(&one);
            assert_eq!(why.contains(&format!(" {},", one.kind())), lacks, "{one}: {why}");
        }
        // that there is none of a kind is told, be it by a list or as the kind is not defined
        let change = match resource {
            Resource::Policies(Kind::KubeArmorSeccompPolicy) => Change::Missing(resource),
            _ => Change::All(resource, vec![]),
        };
        api.apply(vec![change]);
        known.insert(resource);
        untold = store.reload_changed().set.untold();
    }
    assert_eq!(untold, None, "host policies are of no container");
    let of_host = |set: &crate::set::PolicySet| {
        set.untold_of_host(&enforcer_core::subject::Subject::of_host(BTreeMap::new()))
    };
    assert!(of_host(&store.set()).unwrap().contains(" KubeArmorHostPolicy,"));
    api.apply(vec![Change::All(host, vec![])]);
    assert_eq!(of_host(&store.reload_changed().set), None);
    let (objects, read) = (api.objects.saved(), api.objects.read().clone());
    api.directory.save(Saved { when: SystemTime::now(), read, more: BTreeSet::new(), objects }).unwrap();
    let again = Api::load(None, dir.path()).unwrap();
    let mut store = crate::store::Store::new(vec![]).with_api(again.snapshots());
    assert_eq!(store.reload().set.untold(), None, "from disk");
}

/// Looking for what there is room for costs as much as there is: once for all that was saved, not once for each.
#[test]
fn a_saved_set_is_looked_at_once_whatever_is_left_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let object = |number: u32, says| Object {
        key: Key { resource: KIND, namespace: "shop".into(), name: format!("p{number}") },
        uid: format!("{number}"),
        generation: 1,
        created: String::new(),
        says,
    };
    let text = |number: u32| {
        format!(
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: p{number}, namespace: shop}}\n\
             spec:\n  selector: {{matchLabels: {{app: web}}}}\n  action: Block\n  file: {{matchPaths: [{{path: /x}}]}}\n"
        )
    };
    let whole = (0..500).map(|number| object(number, Says::Text(text(number))));
    let objects = whole.chain((500..1000).map(|number| object(number, Says::NoRoom(100)))).collect();
    let read = Resource::ALL.into_iter().collect();
    let saved = Saved { when: SystemTime::now(), read, more: BTreeSet::from([KIND]), objects };
    Directory::open(dir.path()).unwrap().save(saved).unwrap();
    room::LOOKS.set(0);
    let api = Api::load(None, dir.path()).unwrap();
    assert_eq!(room::LOOKS.get(), 1);
    assert_eq!((api.objects.count(KIND), api.objects.left_out(KIND)), (500, (500, true)));
}
