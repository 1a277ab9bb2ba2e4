use super::*;

/// What podman 4.3.1 wrote for a container `web` with the label `app=web`, and for `in-pod` with `app=db`, in the pod `shop`
/// with `tier=front`; made by `podman create`.
const STATE: &[u8] = include_bytes!("state.db");
/// What containers/storage wrote for them.
const CONTAINERS: &str = include_str!("containers.json");
/// The container `web`.
pub(crate) const WEB: &str = "dd3468fe3f479d2fbcf486d2d0d97aaff292f7472f2d646619d98f1fd2f6e711";
const IN_POD: &str = "a8f646cf7ec14dca0868d7ae18c2fcdefdfaa2bc322e3a7a0b39630e5dd8f560";

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

#[test]
fn a_container_that_cannot_be_identified_is_told_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let podman = storage(dir.path());
    let why = |id: &str| podman.container(&ContainerId::new(id).unwrap()).unwrap_err().to_string();
    assert!(why(&"0".repeat(64)).contains("no container of this id"));
    fs::remove_file(dir.path().join("libpod/bolt_state.db")).unwrap();
    assert!(why(WEB).contains("bolt_state.db` cannot be read: No such file"), "{}", why(WEB));
    fs::write(dir.path().join("db.sql"), "SQLite format 3").unwrap();
    assert!(why(WEB).contains("SQLite"), "{}", why(WEB));
    fs::write(dir.path().join("overlay-containers/containers.json"), "[{").unwrap();
    assert!(why(WEB).contains("containers.json` makes no sense"), "{}", why(WEB));
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
