use std::fs;
use std::sync::mpsc;

use super::*;

const POLICY: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\n\
    metadata: {name: calls, namespace: default}\nspec:\n  selector: {matchLabels: {app: web}}\n  \
    syscalls: [mkdir]\n  action: Block\n";

fn changes(dir: &Path) -> Arc<Changes> {
    with(dir, false)
}

fn with(dir: &Path, strict: bool) -> Arc<Changes> {
    let dirs = [dir.to_owned()];
    let selection = Selection { strict, ..Selection::default() };
    Changes::new(&dirs, revert_left(&dirs), selection, Arc::default(), Box::new(|_| {}))
}

fn begin(changes: &Arc<Changes>) -> Own {
    let files = [NewFile { name: "calls.yaml".into(), text: POLICY.into() }];
    let (answer, own) = changes.apply(&files, Some(Duration::from_secs(3600)));
    assert!(matches!(answer, Answer::Pending { .. }), "{answer:?}");
    own.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_end_one_change_does_not_end_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let changes = changes(dir.path());
    let first = begin(&changes);
    assert!(matches!(changes.end(None, true, ""), Answer::Confirmed { .. }));
    let second = begin(&changes);
    for keep in [false, true] {
        assert_eq!(changes.end(Some(first.until), keep, "it was not confirmed in time"), Answer::Nothing);
        assert_eq!(*second.ends.borrow(), None, "it waits");
    }
    // the clock of the first, which is late
    let late = Arc::clone(&changes);
    let nobody = watch::channel(None).1;
    tokio::spawn(async move { late.end_in_time(Instant::now(), nobody).await }).await.unwrap();
    assert_eq!(*second.ends.borrow(), None, "it waits");
    assert!(matches!(changes.end(Some(second.until), false, "of its own"), Answer::Reverted { .. }));
    assert_eq!(changes.end(Some(second.until), false, "again"), Answer::Nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_made_a_change_that_cannot_be_reverted_is_told_each_reason_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calls.yaml");
    fs::write(&path, POLICY).unwrap();
    let changes = changes(dir.path());
    let mut own = begin(&changes);
    fs::remove_file(&path).unwrap();
    fs::create_dir_all(path.join("in the way")).unwrap();
    let answer = changes.end(None, false, "that was asked for");
    let Answer::Refused { why } = &answer else { panic!("{answer:?}") };
    assert_eq!(*own.ends.borrow_and_update(), Some(answer.clone()));
    assert_eq!(changes.not_reverted().as_ref(), Some(why));
    assert_eq!(changes.end(None, false, "once more"), answer);
    assert!(!own.ends.has_changed().unwrap(), "it is the same reason");
    let kept = changes.end(None, true, "");
    assert!(matches!(&kept, Answer::Refused { why } if why.starts_with("it is being reverted")), "{kept:?}");
    fs::remove_dir_all(&path).unwrap();
    reverted(&mut own).await;
    assert_eq!(changes.not_reverted(), None);
}

/// Nobody asks again, and the time is not over for long.
async fn reverted(own: &mut Own) {
    let is_reverted = |answer: &Option<Answer>| matches!(answer, Some(Answer::Reverted { .. }));
    let waits = own.ends.wait_for(is_reverted);
    tokio::time::timeout(Duration::from_secs(30), waits).await.expect("it is tried on").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_half_reverted_cannot_be_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (dir.path().join("a.yaml"), dir.path().join("c.yaml"));
    fs::write(&one, POLICY).unwrap();
    let changes = changes(dir.path());
    let files = ["a.yaml", "c.yaml"].map(|name| NewFile { name: name.into(), text: POLICY.into() });
    let mut own = changes.apply(&files, Some(Duration::from_secs(3600))).1.unwrap();
    fs::remove_file(&one).unwrap();
    fs::create_dir_all(one.join("in the way")).unwrap();
    assert!(matches!(changes.end(None, false, "that was asked for"), Answer::Refused { .. }));
    assert!(!other.exists(), "the others are reverted nevertheless");
    for only in [None, Some(own.until)] {
        let kept = changes.end(only, true, "");
        assert!(
            matches!(&kept, Answer::Refused { why } if why.starts_with("it is being reverted")),
            "{kept:?}"
        );
    }
    assert!(changes.not_reverted().is_some(), "it is still pending");
    fs::remove_dir_all(&one).unwrap();
    reverted(&mut own).await;
    assert!(one.is_file() && !other.exists());
}

/// `status` is answered while a change is written to a disk that hangs.
#[test]
fn whether_something_is_not_reverted_is_told_while_a_change_is_made() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(super::super::RECORD), "{").unwrap();
    let changes = changes(dir.path());
    let being_made = changes.now();
    let (tell, told) = mpsc::channel();
    let asked = Arc::clone(&changes);
    std::thread::spawn(move || tell.send(asked.not_reverted()));
    let why = told.recv_timeout(Duration::from_secs(10)).expect("it is told").expect("it is stuck");
    assert!(why.contains("says nothing that can be understood"), "{why}");
    drop(being_made);
}

/// A directory whose files anybody gets to.
fn open_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    mode(dir.path(), 0o755);
    dir
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

/// The system calls that are in force, as a store reads the directory.
fn in_force(store: &mut crate::store::Store) -> Vec<String> {
    store.reload().set.seccomp().iter().map(|policy| policy.id().name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_not_be_read_again_is_not_replaced_for_a_time() {
    let dir = open_directory();
    let path = dir.path().join("calls.yaml");
    fs::write(&path, POLICY).unwrap();
    mode(&path, 0o664);
    let files = [NewFile { name: "calls.yaml".into(), text: POLICY.into() }];
    let Answer::Refused { why } = with(dir.path(), true).apply(&files, Some(Duration::from_secs(3600))).0
    else {
        panic!("it would not come back");
    };
    assert!(
        why.contains("can be changed by others than root") && why.contains("without --confirm-within"),
        "{why}"
    );
    // for good it may be
    assert!(matches!(with(dir.path(), true).apply(&files, None).0, Answer::Applied { .. }));
    mode(&path, 0o664);
    begin(&with(dir.path(), false));
}

/// The file is back, and the store goes on with what it read last: the change is in force, and that is not "reverted".
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_not_reverted_while_what_was_put_back_is_not_read() {
    let new = POLICY.replace("name: calls", "name: new");
    for dangles in [false, true] {
        let (dir, elsewhere) = (open_directory(), open_directory());
        let (path, target) = (dir.path().join("calls.yaml"), elsewhere.path().join("target"));
        fs::write(&target, POLICY).unwrap();
        match dangles {
            true => std::os::unix::fs::symlink(&target, &path).unwrap(),
            false => fs::hard_link(&target, &path).unwrap(),
        }
        let changes = with(dir.path(), true);
        let mut store = crate::store::Store::new(vec![dir.path().to_owned()]).judging(None, true);
        assert_eq!(in_force(&mut store), ["calls"]);
        let files = [NewFile { name: "calls.yaml".into(), text: new.clone() }];
        let mut own = changes.apply(&files, Some(Duration::from_secs(3600))).1.unwrap();
        assert_eq!(in_force(&mut store), ["new"]);
        match dangles {
            true => fs::remove_file(&target).unwrap(),
            false => mode(&target, 0o664),
        }
        let answer = changes.end(None, false, "that was asked for");
        let Answer::Refused { why } = &answer else { panic!("{answer:?}") };
        assert!(why.contains("what was read there last stays in force"), "{why}");
        assert_eq!(in_force(&mut store), ["new"], "so it is");
        assert_eq!(changes.not_reverted().as_ref(), Some(why));
        match dangles {
            true => fs::write(&target, POLICY).unwrap(),
            false => mode(&target, 0o644),
        }
        reverted(&mut own).await;
        assert_eq!((in_force(&mut store), changes.not_reverted()), (vec!["calls".to_owned()], None));
    }
}

/// A record that somebody else left is reverted wherever it comes from; that of a change which waits is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_for_what_is_left_leaves_a_change_that_waits() {
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let dirs = [first.path().to_owned(), second.path().to_owned()];
    let (tell, told) = mpsc::channel();
    let tell = move |news: News<'_>| tell.send(format!("{news:?}")).unwrap();
    let changes =
        Changes::new(&dirs, revert_left(&dirs), Selection::default(), Arc::default(), Box::new(tell));
    let own = begin(&changes);
    let file = NewFile { name: "other.yaml".into(), text: POLICY.into() };
    drop(Pending::begin(second.path(), &[file]).unwrap());
    changes.look_again();
    assert_eq!(*own.ends.borrow(), None, "it waits");
    let told: Vec<String> = told.try_iter().collect();
    assert!(told.len() == 1 && told[0].contains("other.yaml"), "{told:?}");
    assert!(!second.path().join("other.yaml").exists() && first.path().join("calls.yaml").exists());
    assert!(matches!(changes.end(None, true, ""), Answer::Confirmed { .. }));
}

/// Somebody else's file, of which nothing can be taken, leaves the change in force as what was there before does.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_not_reverted_while_what_somebody_else_put_there_is_not_read() {
    let new = POLICY.replace("name: calls", "name: new");
    for has_errors in [false, true] {
        let dir = open_directory();
        let path = dir.path().join("calls.yaml");
        fs::write(&path, POLICY).unwrap();
        let changes = with(dir.path(), true);
        let mut store = crate::store::Store::new(vec![dir.path().to_owned()]).judging(None, true);
        assert_eq!(in_force(&mut store), ["calls"]);
        let files = [NewFile { name: "calls.yaml".into(), text: new.clone() }];
        let mut own = changes.apply(&files, Some(Duration::from_secs(3600))).1.unwrap();
        assert_eq!(in_force(&mut store), ["new"]);
        let theirs = POLICY.replace("name: calls", "name: theirs");
        let (text, bits) = if has_errors { ("kind: [", 0o644) } else { (theirs.as_str(), 0o664) };
        replace(&path, text, bits);
        // once more, when the change has no file in place any more
        for _ in 0..2 {
            let answer = changes.end(None, false, "that was asked for");
            let Answer::Refused { why } = &answer else { panic!("{answer:?}") };
            assert_eq!(
                (in_force(&mut store), changes.not_reverted().as_ref()),
                (vec!["new".to_owned()], Some(why))
            );
        }
        replace(&path, &theirs, 0o644);
        reverted(&mut own).await;
        let told = own.ends.borrow().clone();
        let Some(Answer::Reverted { files, why }) = told else { panic!("{told:?}") };
        let before = dir.path().join(".nri-enforcer-before-calls.yaml");
        assert!(files.is_empty() && why.contains(&*before.to_string_lossy()), "{files:?} {why}");
        assert_eq!(fs::read_to_string(before).unwrap(), POLICY, "it is kept");
        assert_eq!((in_force(&mut store), changes.not_reverted()), (vec!["theirs".to_owned()], None));
    }
}

/// Whoever mends what was put back makes another file of it, as `sed -i` does.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_back_may_be_replaced_until_it_is_read() {
    let (dir, elsewhere) = (open_directory(), open_directory());
    let (path, target) = (dir.path().join("calls.yaml"), elsewhere.path().join("target"));
    fs::write(&target, POLICY).unwrap();
    fs::hard_link(&target, &path).unwrap();
    let changes = with(dir.path(), true);
    let mut store = crate::store::Store::new(vec![dir.path().to_owned()]).judging(None, true);
    let files = [NewFile { name: "calls.yaml".into(), text: POLICY.replace("name: calls", "name: new") }];
    let mut own = changes.apply(&files, Some(Duration::from_secs(3600))).1.unwrap();
    assert_eq!(in_force(&mut store), ["new"]);
    mode(&target, 0o664);
    assert!(matches!(changes.end(None, false, "that was asked for"), Answer::Refused { .. }));
    replace(&path, POLICY, 0o664);
    let answer = changes.end(None, false, "that was asked for");
    assert!(matches!(answer, Answer::Refused { .. }), "{answer:?}");
    assert_eq!(in_force(&mut store), ["new"]);
    replace(&path, POLICY, 0o644);
    reverted(&mut own).await;
    let told = own.ends.borrow().clone();
    assert!(matches!(&told, Some(Answer::Reverted { files, .. }) if files == &["calls.yaml"]), "{told:?}");
    assert_eq!(in_force(&mut store), ["calls"]);
}

/// Puts another file in the place of one.
fn replace(path: &Path, text: &str, bits: u32) {
    let other = path.with_file_name("other");
    fs::write(&other, text).unwrap();
    mode(&other, bits);
    fs::rename(other, path).unwrap();
}
