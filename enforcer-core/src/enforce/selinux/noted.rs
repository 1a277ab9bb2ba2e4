//! Files with labels, found by what an audit record tells of them.
//!
//! The kernel tells the path of an open file alone. Of any other it tells the last name and the inode, and of one that is to be made the
//! name alone, with the label of its directory. So there are hundreds of thousands of files to look among, for each denial, and nobody may
//! wait for a file system meanwhile: what is asked for is found by an index, and no file is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::compile::selinux::{Label, Labels, Reach};
use crate::decide::DecidedBy;
use crate::ruleset::{Ruleset, RulesetDigest};

/// The most that is handed over for one record.
const MOST: usize = 64;

/// Files that have labels, where they were when these were set. One that was moved since is where it was.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// By their inodes; sorted.
    files: Vec<(u64, Box<[u8]>)>,
    /// Directories in which a label forbids to make something, each with its label and whose decision that is.
    directories: BTreeMap<Box<[u8]>, (Label, DecidedBy)>,
    /// The same by their labels and by whose decision: what no rule names is judged alike in all of one group.
    groups: BTreeMap<Label, BTreeMap<DecidedBy, Group>>,
    /// By their last names, the directories of what rules name.
    named: BTreeMap<Box<[u8]>, BTreeSet<Box<[u8]>>>,
    /// The ruleset that was compiled, and what of it the labels hold.
    rules: Option<(RulesetDigest, Arc<Ruleset>)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Group {
    count: usize,
    some: Vec<Box<[u8]>>, // up to one more than MOST: where so many may be named, one is not
}

/// Where something may have been made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Makers<'n> {
    /// Paths of directories: whichever it was, what is decided there is decided in one of these.
    pub directories: Vec<&'n [u8]>,
    /// There is no other directory with that label.
    pub alone: bool,
    /// There are too many: other rules may have decided.
    pub more: bool,
}

impl Noted {
    /// Of files with their paths, inodes, and labels.
    #[must_use]
    pub fn new(labels: &Labels, files: impl IntoIterator<Item = (Vec<u8>, u64, Label)>) -> Self {
        let rules = Some((labels.compiled(), Arc::new(labels.rules().clone())));
        let mut noted = Self { rules, ..Self::default() };
        for (path, inode, label) in files {
            let path = path.into_boxed_slice();
            // nothing but a directory has it
            if label.has(Label::CREATE) {
                let by = labels.who_creates(&path);
                let group = noted.groups.entry(label).or_default().entry(by).or_default();
                group.count += 1;
                if group.some.len() <= MOST {
                    group.some.push(path.clone());
                }
                noted.directories.insert(path.clone(), (label, by));
            }
            noted.files.push((inode, path));
        }
        noted.files.sort_unstable();
        for place in labels.places.iter().filter(|place| place.reach != Reach::Above) {
            if let Some((directory, name)) = split(place.path.as_bytes()) {
                noted.named.entry(name.into()).or_default().insert(directory.into());
            }
        }
        noted
    }

    /// What of this ruleset the labels hold: without what labels cannot say, and without what was refused, be it for a file
    /// of this host. `None`: there are no labels, or those of another ruleset.
    #[must_use]
    pub fn held(&self, of: RulesetDigest) -> Option<&Arc<Ruleset>> {
        self.rules.as_ref().filter(|(compiled, _)| *compiled == of).map(|(_, held)| held)
    }

    /// Paths of files with this inode, on any file system, and this last name: `/` is what the root of each is called, and
    /// an empty one is not told.
    pub fn files<'n>(&'n self, inode: u64, name: &[u8]) -> impl Iterator<Item = &'n [u8]> {
        let from = self.files.partition_point(|(one, _)| *one < inode);
        let same = self.files.iter().skip(from).inspect(|_| look()).take_while(move |(one, _)| *one == inode);
        let is_it = move |path: &&[u8]| {
            matches!(name, b"" | b"/") || split(path).is_some_and(|(_, last)| last == name)
        };
        same.take(MOST).map(|(_, path)| &**path).filter(is_it)
    }

    /// Whether there are more files with this inode than [`files`](Self::files) looks at.
    #[must_use]
    pub fn has_more(&self, inode: u64) -> bool {
        let from = self.files.partition_point(|(one, _)| *one < inode);
        self.files.get(from.saturating_add(MOST)).is_some_and(|(one, _)| *one == inode)
    }

    /// Directories with this label, in one of which nothing of this name could be made.
    #[must_use]
    pub fn makers(&self, label: Label, name: &[u8]) -> Makers<'_> {
        let Some(groups) = self.groups.get(&label) else { return Makers::default() };
        let none = BTreeSet::new();
        let named = self.named.get(name).unwrap_or(&none);
        let mut makers = Makers { more: named.len() > MOST || groups.len() > MOST, ..Makers::default() };
        let mut left: BTreeMap<DecidedBy, usize> = BTreeMap::new();
        for path in named.iter().take(MOST).inspect(|_| look()) {
            match self.directories.get_key_value(path) {
                Some((path, (of, by))) if *of == label => {
                    *left.entry(*by).or_default() += 1;
                    makers.directories.push(path);
                }
                _ => {}
            }
        }
        for (by, group) in groups.iter().take(MOST) {
            if group.count > left.get(by).copied().unwrap_or(0) {
                let mut some = group.some.iter().inspect(|_| look());
                makers.directories.extend(some.find(|path| !named.contains(*path)).map(|path| &**path));
            }
        }
        makers.alone = groups.values().take(2).map(|group| group.count).sum::<usize>() == 1;
        makers
    }
}

/// The directory and the last name of a path; `None`: it is the root.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = path.iter().rposition(|byte| *byte == b'/')?;
    let (directory, name) = (path.get(..at.max(1))?, path.get(at + 1..)?);
    (!name.is_empty()).then_some((directory, name))
}

/// A file is looked at: tests count them.
fn look() {
    #[cfg(test)]
    tests::LOOKED.set(tests::LOOKED.get() + 1);
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::compile::selinux::Kind;
    use crate::enforce::selinux::walk::tests::labels;

    thread_local! {
        pub(super) static LOOKED: Cell<usize> = const { Cell::new(0) };
    }

    /// What is found, and how many files were looked at for it.
    fn looked<T>(find: impl FnOnce() -> T) -> (T, usize) {
        LOOKED.set(0);
        let found = find();
        (found, LOOKED.get())
    }

    /// Files of these paths, with the labels that rules give them, and their places in the list for inodes.
    fn noted(labels: &Labels, directories: &[&str], files: impl Iterator<Item = String>) -> Noted {
        let directories = directories.iter().map(|path| ((*path).to_owned(), Kind::Directory));
        let all = directories.chain(files.map(|path| (path, Kind::File)));
        let all = all.zip(1..).map(|((path, kind), inode)| {
            let label = labels.of(path.as_bytes(), kind);
            (path.into_bytes(), inode, label)
        });
        Noted::new(labels, all)
    }

    fn text<'n>(paths: impl IntoIterator<Item = &'n [u8]>) -> Vec<&'n str> {
        paths.into_iter().map(|path| std::str::from_utf8(path).unwrap()).collect()
    }

    const CREATES: Label = Label::READ.with(Label::WRITE).with(Label::CREATE).with(Label::MOVE);

    #[test]
    fn among_ever_so_many_files_few_are_looked_at() {
        let labels = labels("  file: {matchDirectories: [{dir: /a/, recursive: true}]}");
        let directories: Vec<String> = (0..1_000).map(|n| format!("/a/{n}")).collect();
        let directories: Vec<&str> = directories.iter().map(String::as_str).collect();
        let files = (0..200_000).map(|n| format!("/a/{}/same", n % 1_000));
        let noted = noted(&labels, &directories, files);
        let (found, count) = looked(|| text(noted.files(150_001, b"same")));
        assert_eq!((found, count), (vec!["/a/0/same"], 2), "that one, and the first that has another inode");
        let (found, count) = looked(|| noted.makers(CREATES, b"new"));
        assert_eq!((text(found.directories), found.alone, found.more), (vec!["/a/0"], false, false));
        assert_eq!(count, 1);
        assert_eq!(looked(|| noted.files(900_000, b"same").count()), (0, 0));
        assert_eq!(looked(|| noted.makers(Label::CREATE, b"new")), (Makers::default(), 0));
    }

    #[test]
    fn files_are_found_by_inode_and_name() {
        let labels = labels("  file: {matchDirectories: [{dir: /a/, recursive: true}]}");
        let files = [("/a/x", 7), ("/a/y", 7), ("/a/sub/x", 7), ("/a", 8), ("/", 9)];
        let noted =
            Noted::new(&labels, files.map(|(path, inode)| (path.as_bytes().to_vec(), inode, Label::READ)));
        let found = |inode, name: &str| text(noted.files(inode, name.as_bytes()));
        assert_eq!(found(7, "x"), ["/a/sub/x", "/a/x"]);
        assert_eq!((found(7, ""), found(7, "z")), (vec!["/a/sub/x", "/a/x", "/a/y"], vec![]));
        // the root of a file system has no name of its own
        assert_eq!((found(9, "/"), found(8, "/"), found(8, "a")), (vec!["/"], vec!["/a"], vec!["/a"]));
    }

    /// Each rule that may have decided is asked about in some directory, and no other one.
    #[test]
    fn what_is_made_is_judged_wherever_rules_differ() {
        let labels = labels(
            "  file:\n    matchPaths: [{path: /a/1/own}, {path: /b/own}]\n\
             \x20   matchDirectories: [{dir: /a/, recursive: true}, {dir: /b/, recursive: true}]",
        );
        let noted = noted(&labels, &["/a", "/a/1", "/a/2", "/b", "/c"], std::iter::empty());
        let makers = |name: &str| {
            let found = noted.makers(CREATES, name.as_bytes());
            (text(found.directories), found.alone, found.more)
        };
        assert_eq!(makers("new"), (vec!["/a", "/b"], false, false));
        // where all directories of a rule are named by others, it decides nothing
        assert_eq!(makers("own"), (vec!["/a/1", "/b", "/a"], false, false));
    }

    #[test]
    fn the_only_directory_is_told_as_such() {
        let labels = labels("  file: {matchDirectories: [{dir: /a/, recursive: true}]}");
        assert!(noted(&labels, &["/a", "/c"], std::iter::empty()).makers(CREATES, b"x").alone);
        assert!(!noted(&labels, &["/a", "/a/b"], std::iter::empty()).makers(CREATES, b"x").alone);
    }

    #[test]
    fn of_too_many_rules_some_are_asked_and_the_rest_is_told() {
        let rules = |n: usize| -> String {
            let dirs: Vec<String> = (0..n).map(|n| format!("{{dir: /d{n:03}/, recursive: true}}")).collect();
            format!("  file: {{matchDirectories: [{}]}}", dirs.join(", "))
        };
        let made = |n: usize| {
            let labels = labels(&rules(n));
            let directories: Vec<String> = (0..n).map(|n| format!("/d{n:03}")).collect();
            let directories: Vec<&str> = directories.iter().map(String::as_str).collect();
            let noted = noted(&labels, &directories, std::iter::empty());
            let (found, count) = looked(|| {
                let found = noted.makers(CREATES, b"x");
                (found.directories.len(), found.more)
            });
            assert!(count <= MOST, "{count}");
            found
        };
        assert_eq!((made(MOST), made(MOST + 1), made(MOST * 3)), ((MOST, false), (MOST, true), (MOST, true)));
        // the same for the names
        let rules: Vec<String> = (0..MOST * 3).map(|n| format!("{{path: /d/{n:03}/own}}")).collect();
        let rules = format!(
            "  file: {{matchPaths: [{}], matchDirectories: [{{dir: /d/, recursive: true}}]}}",
            rules.join(", ")
        );
        let labels = labels(&rules);
        let directories: Vec<String> = (0..1_000).map(|n| format!("/d/{n:03}")).collect();
        let directories: Vec<&str> = directories.iter().map(String::as_str).collect();
        let noted = noted(&labels, &directories, std::iter::empty());
        let (found, count) = looked(|| noted.makers(CREATES, b"own"));
        assert!(found.more && found.directories.len() <= MOST + 1 && count <= 3 * MOST, "{count}");
    }
}
