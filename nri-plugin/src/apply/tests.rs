use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;

fn file(name: &str, text: &str) -> NewFile {
    NewFile { name: name.into(), text: text.into() }
}

/// Every file with its inode number and text, and what links say.
fn all(dir: &Path) -> BTreeMap<String, (u64, Vec<u8>)> {
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
    let pending = Pending::begin(&dir, &files).unwrap();
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
    let left = Pending::left(&dir).unwrap().unwrap();
    assert_eq!(left.names().collect::<Vec<_>>(), ["a.yaml", "c.yaml"]);
    left.revert().unwrap();
    assert_eq!(all(&dir), before);
}

/// Whatever step a daemon dies after, the next one finds what was before, or, once it is confirmed, what is new.
#[test]
fn it_may_be_cut_off_after_any_step() {
    let (_top, dir) = policies();
    let before = all(&dir);
    let files = [file("a.yaml", "new"), file("c.yaml", "new")];
    let hidden = |name: &str| dir.join(format!("{BEFORE}{name}"));
    let record = Record {
        files: vec![
            Replaced { name: "a.yaml".into(), before: true },
            Replaced { name: "c.yaml".into(), before: false },
        ],
    };
    let steps: [&dyn Fn(); 6] = [
        &|| fs::write(dir.join(format!("{NEW}record")), "{\"fil").unwrap(),
        &|| fs::hard_link(dir.join("a.yaml"), hidden("a.yaml")).unwrap(),
        &|| fs::write(dir.join(RECORD), serde_json::to_vec(&record).unwrap()).unwrap(),
        &|| fs::write(dir.join(format!("{NEW}a.yaml")), "ne").unwrap(),
        &|| {
            fs::remove_file(dir.join("a.yaml")).unwrap();
            fs::write(dir.join("a.yaml"), "new").unwrap();
        },
        &|| fs::write(dir.join("c.yaml"), "new").unwrap(),
    ];
    for done in 0..=steps.len() {
        steps.iter().take(done).for_each(|step| step());
        match Pending::left(&dir).unwrap() {
            Some(left) => left.revert().unwrap(),
            None => assert!(done < 3, "{done}"),
        }
        let visible = |all: BTreeMap<String, (u64, Vec<u8>)>| -> Vec<_> {
            all.into_iter().filter(|(name, _)| !name.starts_with('.')).collect()
        };
        assert_eq!(visible(all(&dir)), visible(before.clone()), "after {done} steps");
        // and what is left in the way of nobody goes with the next change
        Pending::begin(&dir, &files).unwrap().revert().unwrap();
        assert_eq!(all(&dir), before, "after {done} steps");
    }
    // reverting, cut off between two files
    let pending = Pending::begin(&dir, &[file("a.yaml", "new"), file("b.yaml", "new")]).unwrap();
    fs::rename(hidden("a.yaml"), dir.join("a.yaml")).unwrap();
    Pending::left(&dir).unwrap().unwrap().revert().unwrap();
    assert_eq!(all(&dir), before);
    // confirming, cut off before the old files went
    let again = Pending::begin(&dir, &[file("a.yaml", "new")]).unwrap();
    fs::remove_file(dir.join(RECORD)).unwrap();
    assert!(Pending::left(&dir).unwrap().is_none());
    assert_eq!(text(&dir, "a.yaml"), "new");
    drop((pending, again));
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
    let pending = Pending::begin(&dir, &[file("x.yaml", "1")]).unwrap();
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
    for record in ["", "{}", "{\"files\":[]}", "{\"files\":[{\"name\":\"../victim.yaml\",\"before\":false}]}"]
    {
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
    assert!(!exists(&dir.join(RECORD)).unwrap());
}
