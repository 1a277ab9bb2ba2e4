use super::*;
use crate::seccomp::tests::{policy, set};

const BLOCK: &str = "  syscalls: [mkdir]\n  action: Block";

fn together(text: &str) -> Together {
    set(text).seccomp().to_vec()
}

#[test]
fn names_are_those_of_the_policies_in_any_order() {
    let (a, b) = (policy("a", "web", BLOCK), policy("b.c", "web", BLOCK));
    let name = localhost_profile(&together(&(b.clone() + &a)));
    assert_eq!(name, "nri-enforcer/default.a+b.c.json");
    assert_eq!(name, localhost_profile(&together(&(a + &b))));
    let long: String = (0..40).map(|number| policy(&format!("policy-{number}"), "web", BLOCK)).collect();
    let name = file_name(&together(&long));
    assert!(name.len() < MAX_NAME && name.starts_with("default."), "{name}");
}

#[test]
fn each_policy_has_a_profile_of_all_that_select_what_it_selects() {
    let all = policy("all", "web", BLOCK).replace("{matchLabels: {app: web}}", "{}");
    let set = set(&(policy("a", "web", BLOCK) + &all + &policy("b", "db", BLOCK)));
    let names: Vec<String> = wanted(&set, &BTreeSet::new()).into_keys().collect();
    assert_eq!(names, ["default.a+all.json", "default.all+b.json", "default.all.json"]);
    // what was made for a pod stays while its policies are there
    let made = ["default.a+b.json", "default.a+gone.json", "other.a.json", "x"].map(str::to_owned).into();
    let names: Vec<String> = wanted(&set, &made).into_keys().collect();
    assert!(names.contains(&"default.a+b.json".to_owned()));
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn kubelets_are_found_where_distributions_put_them() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Profiles::detect(dir.path()).dirs().is_empty());
    let places = [
        "var/lib/kubelet",
        "var/lib/rancher/k3s/agent/kubelet",
        "var/lib/k0s/kubelet",
        "var/snap/microk8s/common/var/lib/kubelet",
    ];
    for (count, path) in (1..).zip(places) {
        fs::create_dir_all(dir.path().join(path)).unwrap();
        let found = Profiles::detect(dir.path());
        assert_eq!(found.dirs().len(), count, "{path}");
        assert_eq!(found.dirs()[count - 1], dir.path().join(path).join("seccomp"));
    }
}

#[test]
fn files_are_whole_readable_by_all_and_of_the_newest_policies() {
    let dir = tempfile::tempdir().unwrap();
    let profiles = Profiles::new(vec![dir.path().join("kubelet/seccomp")]);
    let set = set(&policy("a", "web", BLOCK));
    let none = BTreeSet::new();
    let path = dir.path().join("kubelet/seccomp/nri-enforcer/default.a.json");
    profiles.refresh(&set, false, Some(&none), |_| "1".into()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "1");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o755);
    profiles.refresh(&set, false, Some(&none), |_| "2".into()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "1", "nothing changed");
    profiles.refresh(&set, true, Some(&none), |_| "2".into()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "2");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
    // what is not ours is left alone, and what is in use stays
    let foreign = dir.path().join("kubelet/seccomp/theirs.json");
    fs::write(&foreign, "3").unwrap();
    let in_use = ["nri-enforcer/default.a.json".to_owned()].into();
    profiles.refresh(&PolicySet::default(), true, Some(&in_use), |_| "4".into()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "2");
    profiles.refresh(&PolicySet::default(), true, None, |_| "4".into()).unwrap();
    assert!(path.exists());
    profiles.refresh(&PolicySet::default(), true, Some(&none), |_| "4".into()).unwrap();
    assert!(!path.exists() && foreign.exists());
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("seccomp"), "a file").unwrap();
    let profiles = Profiles::new(vec![dir.path().join("seccomp")]);
    assert!(profiles.refresh(&set(&policy("a", "web", BLOCK)), true, None, |_| "1".into()).is_err());
}
