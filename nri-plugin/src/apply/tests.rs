use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;

fn file(name: &str, text: &str) -> NewFile {
    NewFile { name: name.into(), text: text.into() }
}

/// Every file with its inode number and text, and what links say.
type All = BTreeMap<String, (u64, Vec<u8>)>;

fn all(dir: &Path) -> All {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let inode = fs::symlink_metadata(entry.path()).unwrap().ino();
        (name, (inode, fs::read(entry.path()).unwrap()))
    };
    fs::read_dir(dir).unwrap().map(entry).collect()
}

fn text(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

/// A directory with policies, one of them a link.
fn policies() -> (tempfile::TempDir, PathBuf) {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("policies");
    fs::create_dir(&dir).unwrap();
    fs::write(top.path().join("elsewhere"), "linked").unwrap();
    fs::write(dir.join("a.yaml"), [0xff, b'a']).unwrap();
    fs::write(dir.join("b.yaml"), "b").unwrap();
    std::os::unix::fs::symlink("../elsewhere", dir.join("link.yaml")).unwrap();
    (top, dir)
}

#[test]
fn reverting_brings_back_the_very_files() {
    let (_top, dir) = policies();
    let before = all(&dir);
    let files = [file("a.yaml", "new"), file("link.yaml", "new"), file("c.yaml", "new")];
    let mut pending = Pending::begin(&dir, &files).unwrap();
    assert_eq!(text(&dir, "a.yaml") + &text(&dir, "c.yaml") + &text(&dir, "link.yaml"), "newnewnew");
    assert_eq!(text(&dir, "b.yaml"), "b");
    let visible: Vec<String> = all(&dir).into_keys().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(visible, ["a.yaml", "b.yaml", "c.yaml", "link.yaml"], "nothing else is read as a policy");
    pending.revert().unwrap();
    assert_eq!(all(&dir), before);
    pending.revert().unwrap();
    assert_eq!(all(&dir), before, "once more");
}

#[test]
fn what_is_confirmed_stays_and_nothing_else_is_left() {
    let (_top, dir) = policies();
    Pending::begin(&dir, &[file("a.yaml", "new"), file("c.yaml", "new")]).unwrap().confirm().unwrap();
    assert_eq!(all(&dir).into_keys().collect::<Vec<_>>(), ["a.yaml", "b.yaml", "c.yaml", "link.yaml"]);
    assert_eq!(text(&dir, "a.yaml") + &text(&dir, "c.yaml"), "newnew");
    assert!(Pending::left(&dir).unwrap().is_none());
}

#[test]
fn another_daemon_reverts_from_the_record_alone() {
    let (_top, dir) = policies();
    let before = all(&dir);
    drop(Pending::begin(&dir, &[file("a.yaml", "new"), file("c.yaml", "new")]).unwrap());
    let mut left = Pending::left(&dir).unwrap().unwrap();
    assert_eq!(left.names().collect::<Vec<_>>(), ["a.yaml", "c.yaml"]);
    left.revert().unwrap();
    assert_eq!(all(&dir), before);
}

thread_local! {
    /// The steps that are still done, and how many fail after them.
    static STEPS: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

pub(super) fn step() -> std::io::Result<()> {
    let (now, result) = match STEPS.get() {
        Some((0, 0)) | None => (None, Ok(())),
        Some((0, failing)) => (Some((0, failing - 1)), Err(std::io::Error::other("cut off"))),
        Some((done, failing)) => (Some((done - 1, failing)), Ok(())),
    };
    STEPS.set(now);
    result
}

/// For each of its steps, what it comes to where that fails, and with `failing` so many after it; then it is well. Each finds
/// a directory of its own in which a change waits, where `waits` says so. The number of steps.
fn after_each_step(
    failing: usize,
    waits: bool,
    act: impl Fn(&Path, Option<&mut Pending>) -> Result<(), ApplyError>,
    look: impl Fn(&str, &Path, Option<Pending>, &All),
) -> usize {
    for done in 0..1000 {
        let (_top, dir) = policies();
        let before = all(&dir);
        let mut pending = waits.then(|| Pending::begin(&dir, &CHANGE()).unwrap());
        STEPS.set(Some((done, failing)));
        let result = act(&dir, pending.as_mut());
        let untouched = STEPS.replace(None).is_some_and(|(_, left)| left == failing);
        if untouched {
            assert!(result.is_ok(), "it has fewer steps");
            return done;
        }
        look(&format!("{failing} fail after {done}"), &dir, pending, &before);
    }
    panic!("it has no end");
}

/// Puts in place, replaces and replaces a link.
const CHANGE: fn() -> [NewFile; 3] =
    || [file("a.yaml", "new"), file("c.yaml", "new"), file("link.yaml", "new")];

fn visible(dir: &Path) -> All {
    all(dir).into_iter().filter(|(name, _)| !name.starts_with('.')).collect()
}

/// What is there is what was before, and the next change finds nothing in its way and leaves nothing.
fn is_as_before(what: &str, dir: &Path, before: &All) {
    assert_eq!(visible(dir), *before, "{what}");
    Pending::begin(dir, &CHANGE()).unwrap().revert().unwrap();
    assert_eq!(all(dir), *before, "{what}");
}

/// All of the change is there, and the next one finds nothing in its way and leaves nothing.
fn is_new(what: &str, dir: &Path, before: &All) {
    let new = ["a.yaml", "c.yaml", "link.yaml"].map(|name| text(dir, name));
    assert_eq!(new, ["new"; 3], "{what}");
    Pending::begin(dir, &CHANGE()).unwrap().confirm().unwrap();
    assert_eq!(all(dir).len(), before.len() + 1, "{what}");
}

/// Steps fail for good: the daemon has died. The next one finds the record, or none.
#[test]
fn it_may_be_cut_off_after_any_step() {
    let next = |dir: &Path| {
        let others = Pending::left(dir).unwrap().map(|mut left| left.revert().unwrap());
        assert_eq!(others.clone().unwrap_or_default(), [""; 0]);
        others.is_some()
    };
    let dies = usize::MAX;
    let begin = after_each_step(
        dies,
        false,
        |dir, _| Pending::begin(dir, &CHANGE()).map(drop),
        |what, dir, _, before| {
            next(dir);
            is_as_before(what, dir, before);
        },
    );
    let revert = after_each_step(
        dies,
        true,
        |_, pending| pending.unwrap().revert().map(drop),
        |what, dir, _, before| {
            next(dir);
            is_as_before(what, dir, before);
        },
    );
    // all of it or nothing
    let either = |what: &str, dir: &Path, _: Option<Pending>, before: &All| match next(dir)
        || visible(dir) == *before
    {
        true => is_as_before(what, dir, before),
        false => is_new(what, dir, before),
    };
    let confirm = after_each_step(dies, true, |_, pending| pending.unwrap().confirm(), either);
    let keep = after_each_step(dies, false, |dir, _| keep(dir, &CHANGE()), either);
    assert!(begin > 15 && revert > 8 && confirm > 1 && keep > begin, "{begin} {revert} {confirm} {keep}");
}

/// One step fails, and the next works: what is said to be pending still is, and can be reverted.
#[test]
fn any_step_may_fail_once() {
    after_each_step(
        1,
        false,
        |dir, _| Pending::begin(dir, &CHANGE()).map(drop),
        |what, dir, _, before| is_as_before(what, dir, before),
    );
    let again = |what: &str, dir: &Path, pending: Option<Pending>, before: &All| {
        assert_eq!(pending.unwrap().revert().unwrap(), [""; 0]);
        is_as_before(what, dir, before);
    };
    after_each_step(1, true, |_, pending| pending.unwrap().revert().map(drop), again);
    // where only the old files' names could not go it is confirmed, and has no error
    let noted = |result: Result<(), ApplyError>| {
        CONFIRMED.set(result.is_ok());
        result
    };
    let confirm = |_: &Path, pending: Option<&mut Pending>| noted(pending.unwrap().confirm());
    after_each_step(1, true, confirm, |what, dir, pending, before| match CONFIRMED.get() {
        true => is_new(what, dir, before),
        false => again(what, dir, pending, before),
    });
    after_each_step(1, true, confirm, |what, dir, pending, before| {
        if !CONFIRMED.get() {
            pending.unwrap().confirm().unwrap();
        }
        assert!(Pending::left(dir).unwrap().is_none(), "{what}");
        is_new(what, dir, before);
    });
    // a change for good that is said to have failed has changed nothing
    after_each_step(
        1,
        false,
        |dir, _| noted(keep(dir, &CHANGE())),
        |what, dir, _, before| match CONFIRMED.get() {
            true => is_new(what, dir, before),
            false => is_as_before(what, dir, before),
        },
    );
}

thread_local! {
    static CONFIRMED: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn a_change_whose_record_is_gone_is_not_confirmed_and_can_be_reverted() {
    let (_top, dir) = policies();
    let before = all(&dir);
    let mut pending = Pending::begin(&dir, &CHANGE()).unwrap();
    fs::remove_file(dir.join(RECORD)).unwrap(); // as confirming does first
    assert!(matches!(pending.confirm(), Err(ApplyError::Gone(_))));
    pending.revert().unwrap();
    assert_eq!(all(&dir), before);
}

#[test]
fn one_change_at_a_time_and_only_files_that_are_read() {
    let (_top, dir) = policies();
    let before = all(&dir);
    for name in ["../x.yaml", "/etc/x.yaml", ".x.yaml", "x.txt", "", "..", "d/x.yaml", "x.yaml/", "yaml"] {
        let result = Pending::begin(&dir, &[file("ok.yaml", "x"), file(name, "x")]);
        assert!(matches!(result, Err(ApplyError::Name(_))), "{name}");
        assert!(keep(&dir, &[file(name, "x")]).is_err(), "{name}");
    }
    for files in [vec![], vec![file("x.yaml", "1"), file("x.yaml", "2")]] {
        assert!(matches!(Pending::begin(&dir, &files), Err(ApplyError::Names)));
    }
    assert_eq!(all(&dir), before);
    let mut pending = Pending::begin(&dir, &[file("x.yaml", "1")]).unwrap();
    assert!(matches!(Pending::begin(&dir, &[file("y.yaml", "2")]), Err(ApplyError::Pending)));
    assert!(matches!(keep(&dir, &[file("y.yaml", "2")]), Err(ApplyError::Pending)));
    pending.revert().unwrap();
    keep(&dir, &[file("y.yaml", "2")]).unwrap();
    assert_eq!(text(&dir, "y.yaml"), "2");
}

#[test]
fn a_record_that_makes_no_sense_is_an_error_and_leads_nowhere() {
    let (top, dir) = policies();
    fs::write(top.path().join("victim.yaml"), "x").unwrap();
    let victim = at(&top.path().join("victim.yaml")).unwrap().unwrap();
    let elsewhere =
        Record { files: vec![Replaced { name: "../victim.yaml".into(), old: None, new: victim }] };
    let elsewhere = serde_json::to_string(&elsewhere).unwrap();
    for record in ["", "{}", "{\"files\":[]}", "{\"files\":[{\"name\":\"a.yaml\"}]}", &elsewhere] {
        fs::write(dir.join(RECORD), record).unwrap();
        assert!(Pending::left(&dir).is_err(), "{record}");
    }
    assert_eq!(text(top.path(), "victim.yaml"), "x");
}

#[test]
fn where_a_directory_cannot_be_written_nothing_changes() {
    let (_top, dir) = policies();
    fs::create_dir(dir.join("c.yaml")).unwrap(); // a file cannot be put there
    fs::write(dir.join("c.yaml/in"), "").unwrap();
    assert!(matches!(
        Pending::begin(&dir, &[file("a.yaml", "new"), file("c.yaml", "new")]),
        Err(ApplyError::Io { .. })
    ));
    assert_eq!(fs::read(dir.join("a.yaml")).unwrap(), [0xff, b'a']);
    assert!(at(&dir.join(RECORD)).unwrap().is_none());
}

/// Whose hidden old file is gone is not taken as put back; the others are put back nevertheless.
#[test]
fn what_is_to_be_put_back_and_is_gone_is_an_error() {
    for restarted in [false, true] {
        let (_top, dir) = policies();
        let before = all(&dir);
        let mut pending = Pending::begin(&dir, &CHANGE()).unwrap();
        if restarted {
            pending = Pending::left(&dir).unwrap().unwrap();
        }
        let hidden = hidden(&dir, "a.yaml");
        fs::rename(&hidden, dir.join("elsewhere")).unwrap();
        for _ in 0..2 {
            assert!(matches!(pending.revert(), Err(ApplyError::Lost(path)) if path == hidden));
            assert_eq!((text(&dir, "a.yaml"), text(&dir, "link.yaml")), ("new".into(), "linked".into()));
            assert!(at(&dir.join("c.yaml")).unwrap().is_none());
            assert!(at(&dir.join(RECORD)).unwrap().is_some(), "it is still pending");
        }
        fs::rename(dir.join("elsewhere"), &hidden).unwrap();
        assert_eq!(pending.revert().unwrap(), [""; 0]);
        assert_eq!(all(&dir), before);
    }
}

/// Where nothing was before, what somebody else has put there by now is not removed.
#[test]
fn what_somebody_else_has_put_there_stays() {
    let replaced: [fn(&Path); 3] = [
        |path| {
            std::thread::sleep(std::time::Duration::from_millis(20)); // coarse clocks
            fs::remove_file(path).unwrap(); // its number may be the next one's
        },
        |path| fs::rename(path, path.with_file_name("moved.yaml")).unwrap(),
        |path| {
            fs::write(path.with_file_name("x"), "").unwrap();
            fs::rename(path.with_file_name("x"), path).unwrap();
        },
    ];
    for replace in replaced {
        let (_top, dir) = policies();
        let before = visible(&dir);
        let mut pending = Pending::begin(&dir, &CHANGE()).unwrap();
        replace(&dir.join("c.yaml"));
        fs::write(dir.join("c.yaml"), "another").unwrap();
        assert_eq!(pending.revert().unwrap(), ["c.yaml"]);
        assert_eq!(text(&dir, "c.yaml"), "another");
        for name in ["c.yaml", "moved.yaml"] {
            remove(&dir.join(name)).unwrap();
        }
        assert_eq!(all(&dir), before);
    }
}

/// So does what somebody else has put in the place of a file that the change replaced; and so that nothing is lost, that one.
#[test]
fn what_somebody_else_has_put_in_the_place_of_an_old_file_stays() {
    for restarted in [false, true] {
        let (_top, dir) = policies();
        let mut pending = Pending::begin(&dir, &CHANGE()).unwrap();
        if restarted {
            pending = Pending::left(&dir).unwrap().unwrap();
        }
        for name in ["a.yaml", "link.yaml", "c.yaml"] {
            fs::write(dir.join("x"), "newer").unwrap();
            fs::rename(dir.join("x"), dir.join(name)).unwrap();
        }
        let others = pending.revert().unwrap();
        assert_eq!(others, ["a.yaml", "c.yaml", "link.yaml"]);
        assert_eq!(["a.yaml", "c.yaml", "link.yaml"].map(|name| text(&dir, name)), ["newer"; 3]);
        assert_eq!(fs::read(hidden(&dir, "a.yaml")).unwrap(), [0xff, b'a']);
        assert_eq!(text(&dir, ".nri-enforcer-before-link.yaml"), "linked");
        let told = pending.with_others("late", &others);
        let before = |name: &str| format!("{name} (before: `{}`)", hidden(&dir, name).display());
        let names = [before("a.yaml"), "c.yaml".to_owned(), before("link.yaml")].join(", ");
        assert_eq!(told, format!("late; left as they are, since somebody else has put them there: {names}"));
        assert_eq!(pending.names_without(&others), [""; 0]);
        assert!(Pending::left(&dir).unwrap().is_none());
        // the next change begins with what is there
        Pending::begin(&dir, &CHANGE()).unwrap().revert().unwrap();
        assert_eq!(text(&dir, "a.yaml"), "newer");
    }
}
