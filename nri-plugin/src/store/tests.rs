use super::*;
use tempfile::TempDir;

fn policy(name: &str, path: &str) -> String {
    format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata:\n  name: {name}\n  namespace: default\n\
         spec:\n  selector:\n    matchLabels:\n      app: web\n  file:\n    matchPaths:\n    - path: {path}\n  action: Block\n"
    )
}

struct Fixture {
    dir: TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(vec![dir.path().to_path_buf()]);
        Self { dir, store }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn names(&self) -> Vec<String> {
        self.store.set().iter().map(|policy| policy.id().to_string()).collect()
    }
}

#[test]
fn policies_come_change_and_go_with_their_files() {
    let mut f = Fixture::new();
    f.write("a.yaml", &policy("a", "/a"));
    f.write("b.yml", &policy("b", "/b"));
    f.write(".hidden.yaml", &policy("hidden", "/h"));
    f.write("notes.txt", "not a policy");
    let reload = f.store.reload();
    assert!(reload.changed && reload.problems.is_empty(), "{:?}", reload.problems);
    assert_eq!(f.names(), ["default/a", "default/b"]);

    let before = f.store.set();
    assert!(!f.store.reload().changed, "nothing differs");
    assert!(Arc::ptr_eq(&before, &f.store.set()));

    f.write("a.yaml", &policy("a", "/other"));
    assert!(f.store.reload().changed);
    assert!(!Arc::ptr_eq(&before, &f.store.set()));
    assert_eq!(before.len(), 2, "who still holds the old set sees it whole");

    std::fs::remove_file(f.dir.path().join("a.yaml")).unwrap();
    assert!(f.store.reload().changed);
    assert_eq!(f.names(), ["default/b"]);
}

/// A file that has not changed for long is known by its inode and times; nothing else escapes a look for changes.
#[test]
fn a_look_for_changes_reads_what_changed_and_no_other_file() {
    let mut f = Fixture::new();
    let path = f.dir.path().join("a.yaml");
    let text = |path: &str| policy("a", path);
    let object = |f: &Fixture| f.store.set().iter().next().unwrap().rules()[0].object.to_string();
    f.write("a.yaml", &text("/1"));
    f.store.reload();
    // changed a moment ago: its times would not tell the next version from this one, so it is read
    for version in ["/2", "/3", "/4"] {
        f.write("a.yaml", &text(version));
        assert!(f.store.reload_changed().changed, "{version}");
        assert_eq!(object(&f), version);
    }
    // settled: not read again
    while Version::of(&path).is_none() {
        std::thread::sleep(Duration::from_millis(50));
    }
    f.store.reload_changed();
    let known = f.store.files.values_mut().next().unwrap();
    assert!(known.version.is_some());
    known.text = Some("another text".into());
    assert!(!f.store.reload_changed().changed, "it was not read");
    assert!(f.store.reload().changed, "it was read");
    // another version of the same size, with the times of this one as far as anybody can set them
    let times = std::fs::metadata(&path).unwrap();
    f.write("a.yaml", &text("/5"));
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(times.modified().unwrap()).unwrap();
    assert!(f.store.reload_changed().changed);
    assert_eq!(object(&f), "/5");
    // another file under its name, as kubelet saves
    f.write("new", &text("/6"));
    std::fs::rename(f.dir.path().join("new"), &path).unwrap();
    assert!(f.store.reload_changed().changed);
    assert_eq!(object(&f), "/6");
    std::fs::remove_file(&path).unwrap();
    assert!(f.store.reload_changed().changed && f.store.set().is_empty());
}

#[test]
fn a_file_that_becomes_bad_keeps_its_last_good_policies_in_force() {
    let mut f = Fixture::new();
    f.write("a.yaml", &format!("{}---\n{}", policy("one", "/1"), policy("two", "/2")));
    f.write("b.yaml", &policy("b", "/b"));
    f.store.reload();

    // `two` breaks, `one` changes, `three` comes
    let broken = policy("two", "/2").replace("matchPaths", "matchPathz");
    f.write("a.yaml", &format!("{}---\n{broken}---\n{}", policy("one", "/new"), policy("three", "/3")));
    let reload = f.store.reload();
    assert!(reload.changed);
    assert_eq!(f.names(), ["default/one", "default/three", "default/two", "default/b"]);
    assert_eq!(reload.kept.len(), 1);
    assert_eq!(reload.kept[0].1, "default/two");
    let [Problem::Document(error)] = &reload.problems[..] else { panic!("{:?}", reload.problems) };
    assert!(error.line > 14 && error.column > 0, "{error:?}");
    assert!(reload.problems[0].to_string().contains("a.yaml:"), "{}", reload.problems[0]);
    assert!(f.store.reload().problems.len() == 1, "reported until mended");

    f.write("a.yaml", &policy("one", "/1"));
    let reload = f.store.reload();
    assert!(reload.problems.is_empty() && reload.kept.is_empty());
    assert_eq!(f.names(), ["default/one", "default/b"]);
}

#[test]
fn garbage_keeps_everything_the_file_had() {
    let mut f = Fixture::new();
    f.write("a.yaml", &policy("a", "/a"));
    f.store.reload();
    for garbage in ["{", "\t\t: :", "kind: Nothing\n"] {
        f.write("a.yaml", garbage);
        let reload = f.store.reload();
        assert!(!reload.problems.is_empty(), "{garbage}");
        assert_eq!(f.names(), ["default/a"], "{garbage}");
    }
    std::fs::write(f.dir.path().join("a.yaml"), b"\xff\xfe").unwrap();
    let reload = f.store.reload();
    assert!(matches!(&reload.problems[0], Problem::Document(_) | Problem::File { .. }));
    assert_eq!(f.names(), ["default/a"]);
}

#[test]
fn a_bad_file_from_the_start_does_not_hide_the_good_ones() {
    let mut f = Fixture::new();
    f.write("a.yaml", "kind: [");
    f.write("b.yaml", &policy("b", "/b"));
    let reload = f.store.reload();
    assert_eq!(reload.problems.len(), 1);
    assert_eq!(f.names(), ["default/b"]);
}

#[test]
fn the_first_of_two_policies_with_one_name_counts() {
    let mut f = Fixture::new();
    f.write("a.yaml", &policy("same", "/a"));
    f.write("b.yaml", &policy("same", "/b"));
    let reload = f.store.reload();
    let [Problem::Duplicate { first, second, .. }] = &reload.problems[..] else {
        panic!("{:?}", reload.problems)
    };
    assert!(first.ends_with("a.yaml") && second.ends_with("b.yaml"));
    assert_eq!(f.names(), ["default/same"]);

    std::fs::remove_file(f.dir.path().join("a.yaml")).unwrap();
    assert!(f.store.reload().problems.is_empty());
    assert_eq!(f.names(), ["default/same"], "the second takes over");
}

#[test]
fn a_directory_that_vanishes_changes_nothing() {
    let mut f = Fixture::new();
    f.write("a.yaml", &policy("a", "/a"));
    f.store.reload();
    let moved = f.dir.path().with_extension("moved");
    std::fs::rename(f.dir.path(), &moved).unwrap();
    let reload = f.store.reload();
    std::fs::rename(&moved, f.dir.path()).unwrap();
    assert!(matches!(reload.problems[..], [Problem::Directory { .. }]));
    assert!(!reload.changed);
    assert_eq!(f.names(), ["default/a"]);
}

#[test]
fn a_dangling_link_is_reported() {
    let mut f = Fixture::new();
    std::os::unix::fs::symlink("/nonexistent", f.dir.path().join("a.yaml")).unwrap();
    assert!(matches!(f.store.reload().problems[..], [Problem::File { .. }]));
}

#[test]
fn too_large_a_file_is_refused() {
    let f = Fixture::new();
    let path = f.dir.path().join("large.yaml");
    std::fs::File::create(&path).unwrap().set_len(MAX_FILE_LEN + 1).unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("split the file"));
}

#[test]
fn a_namespace_with_a_bad_posture_keeps_its_last_good_one() {
    use enforcer_core::ruleset::{Class, PostureAction, Postures};
    let namespace = |posture: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: n, annotations: {{kubearmor-file-posture: {posture}}}}}\n"
        )
    };
    let posture = |f: &Fixture| f.store.set().postures("n", Postures::default()).of(Class::File);
    let mut f = Fixture::new();
    f.write("n.yaml", &namespace("blok"));
    assert_eq!(f.store.reload().problems.len(), 1);
    assert_eq!(posture(&f), PostureAction::Audit, "the node's");
    f.write("n.yaml", &namespace("block"));
    assert!(f.store.reload().problems.is_empty());
    assert_eq!(posture(&f), PostureAction::Block);
    for bad in [namespace("blok"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: [}\n".into()] {
        f.write("n.yaml", &bad);
        let reload = f.store.reload();
        assert_eq!((reload.problems.len(), reload.kept.len()), (1, 1), "{bad}");
        assert_eq!(reload.kept[0].1, "namespace n");
        assert_eq!(posture(&f), PostureAction::Block);
    }
    f.write("n.yaml", &namespace("allow"));
    f.write("o.yaml", &namespace("block"));
    let reload = f.store.reload();
    assert!(matches!(&reload.problems[..], [Problem::Duplicate { what, .. }] if what == "the namespace `n`"));
    assert_eq!(posture(&f), PostureAction::Allow, "the first file counts");
    std::fs::remove_file(f.dir.path().join("n.yaml")).unwrap();
    std::fs::remove_file(f.dir.path().join("o.yaml")).unwrap();
    f.store.reload();
    assert_eq!(posture(&f), PostureAction::Audit);
}

/// What the API server has stands behind the directories, whichever came first.
#[test]
fn policies_of_the_api_server_are_merged_and_those_of_directories_count() {
    use enforcer_core::ruleset::{Class, PostureAction, Postures};
    const NAMESPACE: &str =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: n, annotations: {kubearmor-file-posture: ";
    let snapshot = |text: &str| {
        let ParsedFile { policies, namespaces, errors, .. } = parse("KubeArmorPolicy default/x", text);
        let policies = policies.into_iter().map(Arc::new).collect();
        Arc::new(Snapshot {
            policies,
            namespaces,
            errors,
            kept: vec!["KubeArmorPolicy default/x".into()],
            ..Snapshot::default()
        })
    };
    let object = |f: &Fixture, at: usize| f.store.set().policies()[at].rules()[0].object.to_string();
    let posture = |f: &Fixture| f.store.set().postures("n", Postures::default()).of(Class::File);
    let mut f = Fixture::new();
    let (sender, receiver) =
        watch::channel(snapshot(&format!("{}---\n{NAMESPACE}block}}}}\n", policy("same", "/api"))));
    f.store = f.store.with_api(receiver);
    let reload = f.store.reload();
    assert!(reload.changed && reload.problems.is_empty(), "{:?}", reload.problems);
    assert_eq!(reload.kept, [(API.to_owned(), "KubeArmorPolicy default/x".to_owned())]);
    assert_eq!((object(&f, 0).as_str(), posture(&f)), ("/api", PostureAction::Block));
    assert!(!f.store.reload().changed, "nothing differs");

    f.write("a.yaml", &format!("{}---\n{NAMESPACE}allow}}}}\n", policy("same", "/file")));
    let reload = f.store.reload();
    let told: Vec<_> = reload.problems.iter().map(ToString::to_string).collect();
    assert!(
        told[0].starts_with("the API server: the policy `default/same` is already defined in `/"),
        "{told:?}"
    );
    assert!(told[1].starts_with("the API server: the namespace `n` is already defined in `/"), "{told:?}");
    assert_eq!(
        (f.names(), object(&f, 0), posture(&f)),
        (vec!["default/same".into()], "/file".into(), PostureAction::Allow)
    );

    // a namespace that sets no posture switches off none; one whose posture is misspelt is meant to set one
    for (annotation, expected) in [
        ("other/annotation: x", PostureAction::Block),
        ("kubearmor-file-posture: blok", PostureAction::Audit),
    ] {
        let silent = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: n, annotations: {{{annotation}}}}}\n"
        );
        f.write("a.yaml", "");
        f.store.reload();
        f.write("a.yaml", &silent);
        let reload = f.store.reload();
        assert_eq!(
            (posture(&f), reload.problems.is_empty()),
            (expected, expected == PostureAction::Block),
            "{annotation}"
        );
    }
    f.write("a.yaml", &format!("{}---\n{NAMESPACE}allow}}}}\n", policy("same", "/file")));
    f.store.reload();

    // a change there is one, also where it changes no file; an error names the object and the field, and no line
    let before = f.store.set();
    let wrong = policy("wrong", "relative");
    sender.send_replace(snapshot(&format!("{}---\n{wrong}", policy("other", "/other"))));
    let reload = f.store.reload_changed();
    assert!(reload.changed && f.names() == ["default/same", "default/other"]);
    assert!(Arc::ptr_eq(&before.policies()[0], &f.store.set().policies()[0]));
    let [problem @ Problem::Object(_)] = &reload.problems[..] else { panic!("{:?}", reload.problems) };
    let told = problem.to_string();
    assert!(
        told.starts_with("KubeArmorPolicy default/x, in the API server: spec.file.matchPaths[0].path: "),
        "{told}"
    );
    assert!(problem.help().is_some());

    f.write("b.yaml", "kind: [");
    assert_eq!(f.store.reload().problems.len(), 2);
    std::fs::remove_file(f.dir.path().join("a.yaml")).unwrap();
    std::fs::remove_file(f.dir.path().join("b.yaml")).unwrap();
    f.store.reload();
    assert_eq!(f.names(), ["default/other"]);
}

/// What others can write is told, and not read where that is refused; what was read before counts on.
#[test]
fn what_others_can_change_is_told_and_with_strict_not_read() {
    use std::os::unix::fs::PermissionsExt;
    let mode =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    for strict in [false, true] {
        let parent = tempfile::tempdir().unwrap();
        mode(parent.path(), 0o755); // else nobody gets there
        let dir = parent.path().join("policies");
        let config = parent.path().join("config.yaml");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(&config, "").unwrap();
        let mut f = Fixture {
            store: Store::new(vec![dir.clone()]).judging(Some(config.clone()), strict),
            dir: parent,
        };
        f.write("policies/a.yaml", &policy("a", "/a"));
        assert!(f.store.reload().problems.is_empty());
        let paths = [config, dir.clone(), dir.join("a.yaml")];
        for (number, path) in paths.iter().enumerate() {
            let before = path.metadata().unwrap().mode();
            mode(path, before | 0o002);
            f.write("policies/a.yaml", &policy(&format!("a{number}"), "/a"));
            let reload = f.store.reload();
            let [problem @ Problem::Untrusted { at, refused, .. }] = &reload.problems[..] else {
                panic!("{:?}", reload.problems)
            };
            assert_eq!((at, *refused), (path, strict));
            assert_eq!(reload.set.untrusted(), [problem.to_string()]);
            let read = !strict || number == 0;
            let wanted = if read { number } else { number - 1 };
            assert_eq!(f.names(), [format!("default/a{wanted}")], "{}", path.display());
            mode(path, before);
            let reload = f.store.reload();
            assert!(reload.changed && reload.problems.is_empty() && reload.set.untrusted().is_empty());
            assert_eq!(f.names(), [format!("default/a{number}")]);
        }
    }
}
