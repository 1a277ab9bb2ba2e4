use super::*;
use crate::exit::chain;
use enforcer_core::policy::Kind;

fn object(name: &str, text: &str) -> Object {
    let key = Key {
        resource: Resource::Policies(Kind::KubeArmorPolicy),
        namespace: "shop".into(),
        name: name.into(),
    };
    Object {
        key,
        uid: format!("uid of {name}"),
        generation: 0,
        created: format!("made with {text}"),
        says: Says::Text(text.into()),
    }
}

fn when() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000)
}

fn set(objects: Vec<Object>) -> Saved {
    Saved { when: when(), read: BTreeSet::from([Resource::Namespaces]), more: BTreeSet::new(), objects }
}

fn saved(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join(FILE)).unwrap()
}

#[test]
fn what_is_saved_is_loaded_and_nobody_else_gets_at_it() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/state");
    let dir = Directory::open(&path).unwrap();
    assert_eq!(dir.load().unwrap(), None);
    let objects = vec![object("a", "old"), object("a", "text\n\u{1f600}"), object("b", "")];
    dir.save(set(vec![object("z", "an earlier set")])).unwrap();
    dir.save(set(objects.clone())).unwrap();
    assert_eq!(dir.load().unwrap(), Some(set(objects)));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&path), mode(&path.join(FILE))), (0o700, 0o600));
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1, "nothing is left beside it");

    // a directory that others may enter is closed; what is no directory of ours is refused
    std::fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    Directory::open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    let link = parent.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(Directory::open(&link), Err(SavedError::Directory { .. })));
    let theirs = parent.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::chown(&theirs, Some(65_534), None).unwrap();
    assert!(matches!(Directory::open(&theirs), Err(SavedError::Directory { .. })));
    assert!(matches!(Directory::open(&path.join(FILE)), Err(SavedError::Io { .. })));
}

#[test]
fn what_is_left_out_is_saved_without_its_text() {
    let parent = tempfile::tempdir().unwrap();
    let dir = Directory::open(parent.path()).unwrap();
    let left_out = Object { says: Says::NoRoom(17), ..object("b", "") };
    let more = BTreeSet::from([Resource::Policies(Kind::KubeArmorPolicy)]);
    let wanted = || Saved { more: more.clone(), ..set(vec![object("a", "text"), left_out.clone()]) };
    dir.save(wanted()).unwrap();
    assert_eq!(dir.load().unwrap(), Some(wanted()));
}

/// After an upgrade while the API server is away, the node must not be without its policies.
#[test]
fn the_format_before_is_read() {
    let parent = tempfile::tempdir().unwrap();
    let dir = Directory::open(&parent.path().join("state")).unwrap();
    let body = r#"{"saved":1795000000,"read":["Namespace"],"objects":[{"kind":"KubeArmorPolicy","namespace":"shop","name":"a","uid":"uid of a","text":"x"}]}"#;
    let head = format!(
        r#"{{"format":"{FORMAT}","version":1,"bytes":{},"sha256":"{}"}}"#,
        body.len(),
        digest(body.as_bytes())
    );
    std::fs::write(dir.path.join(FILE), format!("{head}\n{body}")).unwrap();
    let mode = Permissions::from_mode(0o600);
    std::fs::set_permissions(dir.path.join(FILE), mode).unwrap();
    assert_eq!(dir.load().unwrap(), Some(set(vec![Object { created: String::new(), ..object("a", "x") }])));
}

/// A disk that fails for a moment is no reason to lose the set: it is read the next time.
#[test]
fn a_file_that_cannot_be_read_now_stays() {
    let parent = tempfile::tempdir().unwrap();
    let dir = Directory::open(&parent.path().join("state")).unwrap();
    dir.save(set(vec![object("a", "x")])).unwrap();
    let path = dir.path.join(FILE);
    // reading fails: it is open for writing alone
    let unreadable = OpenOptions::new().write(true).open(&path).unwrap();
    assert!(read(&unreadable, MAX_FILE).is_err());
    assert!(dir.load().unwrap().is_some());

    // nor is one put aside that cannot be opened
    std::fs::rename(&path, dir.path.join("kept")).unwrap();
    std::os::unix::fs::symlink("kept", &path).unwrap();
    let error = dir.load().unwrap_err();
    assert!(matches!(error, SavedError::Io { .. }) && !error.help().contains("kept beside"), "{error}");
    assert!(path.symlink_metadata().is_ok() && !dir.path.join(REFUSED).exists());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "x\n").unwrap();
    assert!(dir.load().unwrap_err().help().contains("kept beside"));
}

/// However a file was cut off or changed: it is refused, put aside, and the next start finds none.
#[test]
fn a_damaged_file_is_refused_and_put_aside() {
    let parent = tempfile::tempdir().unwrap();
    let dir = Directory::open(&parent.path().join("state")).unwrap();
    dir.save(set(vec![object("a", "some text"), object("b", "more")])).unwrap();
    let good = saved(&dir.path);
    for end in 0..good.len() {
        assert!(parse(good.get(..end).unwrap()).is_err(), "cut off after {end} bytes");
    }
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(parse(&bad).is_err(), "byte {at}, bit {bit}");
        }
    }
    let longer = [good.as_slice(), b"x"].concat();
    assert!(parse(&longer).is_err() && parse(&good).is_ok());

    std::fs::write(dir.path.join(FILE), &longer).unwrap();
    let error = dir.load().unwrap_err().to_string();
    assert!(error.contains("cannot be used") && error.contains("bytes of"), "{error}");
    assert_eq!(std::fs::read(dir.path.join(REFUSED)).unwrap(), longer);
    assert_eq!(dir.load().unwrap(), None);
}

#[test]
fn a_file_of_another_version_sort_or_owner_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let dir = Directory::open(&parent.path().join("state")).unwrap();
    let path = dir.path.join(FILE);
    let load = |text: &[u8]| {
        std::fs::write(&path, text).unwrap();
        chain(&dir.load().unwrap_err())
    };
    let chain_of = |text: &str| load(text.as_bytes());
    let newer = r#"{"format":"nri-enforcer last known policies","version":3,"compression":"zstd"}"#;
    assert!(
        chain_of(&format!("{newer}\n...")).contains("version 3 of the format, and this daemon reads 1 to 2")
    );
    assert!(chain_of("{\"format\":\"x\"}\n").contains("another sort of file"));
    assert!(chain_of("").contains("no first line"));
    assert!(load(&[b'{'; 4096]).contains("no first line"));

    dir.save(set(vec![])).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    assert!(chain(&dir.load().unwrap_err()).contains("others may have written it"));
    dir.save(set(vec![])).unwrap();
    std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
    assert!(chain(&dir.load().unwrap_err()).contains("others may have written it"));
    // what is no file neither hangs nor is followed
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(chain(&dir.load().unwrap_err()).contains("no regular file"));
    std::os::unix::fs::symlink(dir.path.join(REFUSED), &path).unwrap();
    assert!(matches!(dir.load().unwrap_err(), SavedError::Io { .. }));
    assert!(dir.save(set(vec![object("a", "x")])).is_ok(), "a link is replaced");
    assert_eq!(dir.load().unwrap().unwrap().objects.len(), 1);
}

#[test]
fn a_set_that_cannot_be_written_leaves_the_one_before() {
    let parent = tempfile::tempdir().unwrap();
    let dir = Directory::open(&parent.path().join("state")).unwrap();
    dir.save(set(vec![object("a", "x")])).unwrap();
    let before = saved(&dir.path);
    // what an earlier daemon left when it was killed is no hindrance
    std::fs::write(dir.path.join(".policies.json.new"), "half a f").unwrap();
    dir.save(set(vec![object("a", "x")])).unwrap();
    assert_eq!(saved(&dir.path), before);
    // a full or broken disk, as far as a test can have one
    std::fs::create_dir(dir.path.join(".policies.json.new")).unwrap();
    assert!(dir.save(set(vec![])).is_err());
    assert_eq!(saved(&dir.path), before);
    std::fs::remove_dir(dir.path.join(".policies.json.new")).unwrap();
    let small = Directory { most: 300, ..dir.clone() };
    let large = "x".repeat(300);
    assert!(matches!(small.save(set(vec![object("a", &large)])), Err(SavedError::TooLong { .. })));
    assert_eq!(saved(&dir.path), before);
    // nor is a longer one read
    dir.save(set(vec![object("a", &large)])).unwrap();
    assert!(chain(&small.load().unwrap_err()).contains("longer than 300 bytes"));
}
