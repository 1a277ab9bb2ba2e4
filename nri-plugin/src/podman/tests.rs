use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::*;

/// What podman 4.3.1 wrote for a container `web` with the label `app=web`, and for `in-pod` with `app=db`, in the pod `shop`
/// with `tier=front`; made by `podman create`.
const STATE: &[u8] = include_bytes!("state.db");
/// What containers/storage wrote for them.
const CONTAINERS: &str = include_str!("containers.json");
/// The container `web`.
pub(crate) const WEB: &str = "dd3468fe3f479d2fbcf486d2d0d97aaff292f7472f2d646619d98f1fd2f6e711";
/// The container `in-pod`.
pub(crate) const IN_POD: &str = "a8f646cf7ec14dca0868d7ae18c2fcdefdfaa2bc322e3a7a0b39630e5dd8f560";

/// What podman 5.4.2 wrote for the same, with other ids, and for `infra`, which holds the namespaces of the pod `held`.
const STATE_5: &[u8] = include_bytes!("db.sql");
/// What containers/storage wrote for them.
const CONTAINERS_5: &str = include_str!("containers-5.json");
const WEB_5: &str = "70387cd1749df79bdd32c5e00fa7c57d085c1eea33a000b2ca10749f2db8badf";
const IN_POD_5: &str = "6704eff4e595cc9418ac43f4944bc8d37e8886b7c7e953df29d7876bf11405b9";
const INFRA_5: &str = "bd45a4bc67b1f0b3dea1ba77287aa8fb4ce0850cf0f17f763a26e07e0cc86045";

/// podman 5 with these three.
fn storage_5(dir: &Path) -> Podman {
    fs::create_dir_all(dir.join("vfs-containers")).unwrap();
    fs::write(dir.join(SQLITE), STATE_5).unwrap();
    fs::write(dir.join("vfs-containers/containers.json"), CONTAINERS_5).unwrap();
    Podman::new(dir.to_owned())
}

/// Who changes its state behind podman's back.
fn writer(dir: &Path) -> Connection {
    let connection = Connection::open(dir.join(SQLITE)).unwrap();
    connection.pragma_update(None, "foreign_keys", false).unwrap();
    connection
}

fn subject(podman: &Podman, id: &str) -> Result<Option<Subject>, String> {
    let container = podman.container(&ContainerId::new(id).unwrap());
    container.map(|known| known.map(|known| known.subject)).map_err(|error| error.to_string())
}

/// podman with these two containers, its files below `dir`.
pub(crate) fn storage(dir: &Path) -> Podman {
    fs::create_dir_all(dir.join("libpod")).unwrap();
    fs::create_dir_all(dir.join("overlay-containers")).unwrap();
    fs::write(dir.join("libpod/bolt_state.db"), STATE).unwrap();
    fs::write(dir.join("overlay-containers/containers.json"), CONTAINERS).unwrap();
    Podman::new(dir.to_owned())
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn names_and_labels_are_in_podmans_files() {
    let dir = tempfile::tempdir().unwrap();
    let podman = storage(dir.path());
    let container = |id: &str| podman.container(&ContainerId::new(id).unwrap()).unwrap().unwrap().subject;
    let web = container(WEB);
    assert_eq!((web.container.as_str(), web.pod.as_str(), web.namespace.as_str()), ("web", "web", "default"));
    assert_eq!(web.labels, labels(&[("app", "web")]));
    let in_pod = container(IN_POD);
    assert_eq!((in_pod.container.as_str(), in_pod.pod.as_str()), ("in-pod", "shop"));
    assert_eq!(in_pod.labels, labels(&[("app", "db"), ("tier", "front")]));
}

/// CRI-O's storage is podman's, unless it is configured otherwise.
#[test]
fn containers_of_cri_o_are_not_podmans() {
    let dir = tempfile::tempdir().unwrap();
    let podman = storage(dir.path());
    let ids = || podman.ids().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(ids(), [IN_POD, WEB]);
    let cri_o =
        CONTAINERS.replacen(r#"{\"image-name"#, r#"{\"pod-name\":\"p\",\"pod-id\":\"1\",\"image-name"#, 1);
    fs::write(dir.path().join("overlay-containers/containers.json"), cri_o).unwrap();
    assert_eq!(ids(), [IN_POD]);
}

#[test]
fn a_container_that_cannot_be_identified_is_told_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let podman = storage(dir.path());
    let why = |id: &str| podman.container(&ContainerId::new(id).unwrap()).unwrap_err().to_string();
    assert!(why(&"0".repeat(64)).contains("no container of this id"));
    fs::remove_file(dir.path().join(BOLT)).unwrap();
    assert!(why(WEB).contains("neither `libpod/bolt_state.db` nor `db.sql`"), "{}", why(WEB));
    fs::write(dir.path().join(SQLITE), "SQLite format 3").unwrap();
    assert!(why(WEB).contains("db.sql` cannot be read"), "{}", why(WEB));
    fs::write(dir.path().join("overlay-containers/containers.json"), "[{").unwrap();
    assert!(why(WEB).contains("containers.json` makes no sense"), "{}", why(WEB));
}

#[test]
fn podman_5_is_read_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let podman = storage_5(dir.path());
    let web = subject(&podman, WEB_5).unwrap().unwrap();
    assert_eq!((web.container.as_str(), web.pod.as_str()), ("web", "web"));
    let image = [(IMAGE_LABEL, "localhost_shop_web"), (TAG_LABEL, "v1")];
    assert_eq!(web.labels, labels(&[&image[..], &[("app", "web")]].concat()));
    let in_pod = subject(&podman, IN_POD_5).unwrap().unwrap();
    assert_eq!((in_pod.container.as_str(), in_pod.pod.as_str()), ("in-pod", "shop"));
    assert_eq!(in_pod.labels, labels(&[&image[..], &[("app", "db"), ("tier", "front")]].concat()));
    assert_eq!(subject(&podman, INFRA_5).unwrap(), None, "it only holds namespaces");
    assert_eq!(fs::read(dir.path().join(SQLITE)).unwrap(), STATE_5);
    let writer = writer(dir.path());
    let renamed = r#"{"labels": {"app": "other"}}"#; // as text, not as bytes
    writer.execute("UPDATE ContainerConfig SET JSON = ?1 WHERE ID = ?2", [renamed, WEB_5]).unwrap();
    assert_eq!(subject(&podman, WEB_5).unwrap().unwrap().labels["app"], "other");
    // labels of a container are its image's, too: they do not take it out of what is said about its pod
    let of_image = "UPDATE ContainerConfig SET JSON = json_set(JSON, '$.labels.tier', 'image') WHERE ID = ?1";
    assert_eq!(writer.execute(of_image, [IN_POD_5]).unwrap(), 1);
    assert_eq!(subject(&podman, IN_POD_5).unwrap().unwrap().labels, in_pod.labels);
}

/// 3: running, 5: paused, 8: stopping. What podman itself writes when it starts a container is tested with podman.
#[test]
fn whether_a_container_was_started_is_in_podmans_files() {
    let dir = tempfile::tempdir().unwrap();
    let (podman, _) = (storage(dir.path()), storage_5(dir.path()));
    let living = |id: &str| podman.living(&ContainerId::new(id).unwrap()).map(|living| living.started);
    assert_eq!([WEB, IN_POD, WEB_5].map(living), [Some(false); 3], "made by `podman create`");
    assert_eq!([INFRA_5, &"0".repeat(64)].map(living), [None; 2]);
    let writer = writer(dir.path());
    let put = |json: &str| {
        writer.execute("UPDATE ContainerState SET JSON = ?1 WHERE ID = ?2", [json, WEB_5]).unwrap();
        living(WEB_5).unwrap()
    };
    let begun = (0..10).filter(|state| put(&format!(r#"{{"state": {state}, "pid": 7}}"#)));
    assert_eq!(begun.collect::<Vec<i32>>(), [3, 5, 8]);
    // `--pidfile`, or another run root: podman's own directory has no such file
    assert_eq!(podman.living(&ContainerId::new(WEB_5).unwrap()).unwrap().pid, 7);
    assert!(!put("{}") && !put("{"), "it is not known");
    let bolt = dir.path().join(BOLT);
    let mut bytes = STATE.to_vec();
    let at: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(br#"{"state":1"#)).collect();
    at.iter().for_each(|at| bytes[at + 9] = b'3');
    fs::write(&bolt, bytes).unwrap();
    assert_eq!([WEB, IN_POD].map(living), [Some(true); 2]);
}

/// podman has noted so of `web`, in its newer state: `{"state": 3, "pid": 7}`.
pub(crate) fn notes(dir: &Path, state: &str) {
    fs::write(dir.join(SQLITE), STATE_5).unwrap();
    let json = r#"{"labels": {"app": "web"}}"#;
    let writer = writer(dir);
    writer.execute("INSERT OR REPLACE INTO ContainerConfig VALUES (?1, 'w', NULL, ?2)", [WEB, json]).unwrap();
    writer.execute("INSERT OR REPLACE INTO ContainerState VALUES (?1, 3, 0, ?2)", [WEB, state]).unwrap();
}

#[test]
fn a_write_ahead_log_is_refused_and_nothing_is_made_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let podman = storage_5(dir.path());
    let writer = writer(dir.path());
    writer.pragma_update(None, "journal_mode", "wal").unwrap();
    writer.execute("UPDATE ContainerConfig SET Name = 'w' WHERE ID = ?1", [WEB_5]).unwrap();
    writer.close().unwrap(); // the last one removes the log
    let names = || {
        let entries = fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    assert_eq!(before, ["db.sql", "vfs-containers"]);
    let told = subject(&podman, WEB_5).unwrap_err();
    assert!(told.contains("has a write-ahead log"), "{told}");
    assert_eq!(names(), before);
    let writer = Connection::open(dir.path().join(SQLITE)).unwrap();
    writer.pragma_update(None, "journal_mode", "delete").unwrap();
    assert_eq!(subject(&podman, WEB_5).unwrap().unwrap().container, "web");
}

#[test]
fn two_queries_wait_no_longer_than_one() {
    let dir = tempfile::tempdir().unwrap();
    let _podman = storage_5(dir.path());
    let writer = writer(dir.path());
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let file = Sqlite::open(&dir.path().join(SQLITE)).unwrap();
    file.get(Kind::Container, WEB_5).unwrap_err();
    let begin = Instant::now();
    let told = file.get(Kind::Pod, WEB_5).unwrap_err().to_string();
    assert!(told.contains("has been changing it for more than 500 ms"), "{told}");
    assert!(begin.elapsed() < Duration::from_millis(400), "{:?}", begin.elapsed());
}

/// SQLite takes no path of more than 512 bytes.
#[test]
fn what_cannot_be_opened_is_no_change_that_was_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let long = (0..6).fold(dir.path().to_owned(), |path, _| path.join("d".repeat(100)));
    let podman = storage_5(&long);
    let told = subject(&podman, WEB_5).unwrap_err();
    assert!(told.contains("unable to open database file") && !told.contains("cut off"), "{told}");
}

#[test]
fn of_two_states_the_one_that_has_the_container_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (podman, _) = (storage(dir.path()), storage_5(dir.path()));
    for (id, app) in [(WEB, "web"), (IN_POD, "db"), (WEB_5, "web"), (IN_POD_5, "db")] {
        assert_eq!(subject(&podman, id).unwrap().unwrap().labels["app"], app);
    }
    assert!(subject(&podman, &"0".repeat(64)).unwrap_err().contains("no container of this id"));
    // both have it: moved from one to the other, or put there by hand
    let writer = writer(dir.path());
    let put = |labels: &str| {
        let json = format!(r#"{{"labels": {labels}}}"#);
        writer
            .execute("INSERT OR REPLACE INTO ContainerConfig VALUES (?1, 'w', NULL, ?2)", [WEB, &json])
            .unwrap();
    };
    put(r#"{"app": "web"}"#);
    assert_eq!(subject(&podman, WEB).unwrap().unwrap().labels["app"], "web");
    put(r#"{"app": "other"}"#);
    assert!(subject(&podman, WEB).unwrap_err().contains("differ about it"));
    fs::write(dir.path().join(BOLT), "").unwrap();
    assert!(subject(&podman, WEB_5).unwrap_err().contains("no file of bbolt"), "it could be there");
}

#[test]
fn a_state_that_podman_changes_or_left_half_changed_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let podman = storage_5(dir.path());
    let why = || subject(&podman, WEB_5).unwrap_err();
    let writer = writer(dir.path());
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let begin = Instant::now();
    assert!(why().contains("has been changing it for more than 500 ms"), "{}", why());
    assert!(begin.elapsed() < Duration::from_secs(5));
    // podman is killed in the middle: what it changed is in the file, what was there in the journal
    let big = "x".repeat(8 << 20);
    writer.execute_batch("PRAGMA cache_size = 1").unwrap();
    writer.execute("UPDATE ContainerConfig SET JSON = ?1 WHERE ID = ?2", [&big, WEB_5]).unwrap();
    let killed = tempfile::tempdir().unwrap();
    let other = storage_5(killed.path());
    for name in ["db.sql", "db.sql-journal"] {
        fs::copy(dir.path().join(name), killed.path().join(name)).unwrap();
    }
    let told = subject(&other, WEB_5).unwrap_err();
    assert!(told.contains("podman's last change was cut off"), "{told}");
    // and who waits for a moment gets it
    let waits = std::thread::scope(|scope| {
        let reader = scope.spawn(|| subject(&podman, WEB_5));
        std::thread::sleep(Duration::from_millis(100));
        writer.execute_batch("ROLLBACK").unwrap();
        reader.join().unwrap()
    });
    assert_eq!(waits.unwrap().unwrap().container, "web");
    let huge = "x".repeat(17 << 20);
    writer.execute("UPDATE ContainerConfig SET JSON = ?1 WHERE ID = ?2", [&huge, WEB_5]).unwrap();
    assert!(why().contains("has more than 16777216 bytes"), "{}", why());
    writer.execute("UPDATE ContainerConfig SET JSON = '{' WHERE ID = ?1", [WEB_5]).unwrap();
    assert!(why().contains("db.sql` makes no sense"), "{}", why());
    writer.execute_batch("DROP TABLE ContainerConfig").unwrap();
    assert!(why().contains("no such table"), "{}", why());
}

#[test]
fn a_damaged_file_of_sqlite_is_told_and_panics_never() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db.sql");
    assert!(Sqlite::open(&path).is_err(), "not there");
    assert!(!path.exists(), "none is made");
    assert!(Sqlite::open(dir.path()).unwrap_err().to_string().contains("not a regular file"));
    let (mut read, mut damaged) = (0, 0);
    for at in (0..STATE_5.len()).step_by(499) {
        for bytes in [
            STATE_5[..at].to_vec(),
            [&STATE_5[..at], &[0xff; 9], &STATE_5[(at + 9).min(STATE_5.len())..]].concat(),
        ] {
            fs::write(&path, bytes).unwrap();
            let found = Sqlite::open(&path).and_then(|file| file.get(Kind::Container, WEB_5));
            *(if found.is_ok() { &mut read } else { &mut damaged }) += 1;
        }
    }
    assert!(read > 50 && damaged > 50, "{read} {damaged}");
}

#[test]
fn image_names_are_labels() {
    let both = |image: &str| {
        let mut labels = labels(&[(IMAGE_LABEL, "forged"), (TAG_LABEL, "forged"), ("app", "web")]);
        name_image(&mut labels, image);
        assert_eq!(labels.get("app").map(String::as_str), Some("web"));
        let of = |key: &str| labels.get(key).cloned().unwrap_or_default();
        (of(IMAGE_LABEL), of(TAG_LABEL))
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(both("registry.example/library/nginx:1.25"), pair("registry.example_library_nginx", "1.25"));
    assert_eq!(both("localhost:5000/web"), pair("localhost_5000_web", ""));
    assert_eq!(both("localhost:5000/web:v1@sha256:abc"), pair("localhost_5000_web", "v1"));
    assert_eq!(both(""), pair("", ""));
    assert_eq!(both(&format!("{}:v", "a".repeat(64))), pair("", "v"), "too long");
}

#[test]
fn damaged_files_are_told_and_panic_never() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    assert!(Bolt::read(&path).is_err(), "not there");
    for text in [&b""[..], b"SQLite format 3", &[0; 8192]] {
        fs::write(&path, text).unwrap();
        assert!(Bolt::read(&path).unwrap_err().to_string().contains("no file of bbolt"));
    }
    let (mut read, mut found) = (0, 0);
    for at in (0..STATE.len()).step_by(149) {
        for bytes in
            [STATE[..at].to_vec(), [&STATE[..at], &[0xff; 4], &STATE[(at + 4).min(STATE.len())..]].concat()]
        {
            fs::write(&path, bytes).unwrap();
            let Ok(bolt) = Bolt::read(&path) else { continue };
            read += 1;
            for id in [WEB, IN_POD] {
                found += usize::from(matches!(bolt.get(&["ctr", id], "config"), Ok(Some(_))));
            }
        }
    }
    assert!(read > 50 && found > 50, "{read} {found}");
}
