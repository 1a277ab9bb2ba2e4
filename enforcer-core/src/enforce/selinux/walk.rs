//! Which files there are for labels.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::file::{Identity, Labelled, is_link, is_mounted, is_nothing};
use super::told;
use super::vital::VitalFiles;
use crate::compile::selinux::{Kind, Label, Labels, Place, Reach, Vital};
use crate::enforce::root::Root;
use crate::links::OtherName;
use crate::path::AbsPath;

/// How much is looked at for one place of the rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The most files. Each takes some 100 bytes of memory, and tens of microseconds.
    pub(super) files: usize,
    /// How long it may take. One access that never returns is not ended by it.
    pub(super) time: Duration,
}

/// Those of the daemon.
pub(super) const LIMITS: Limits = Limits { files: 200_000, time: Duration::from_secs(10) };

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By inode, one of its paths and its label: that of all its names together.
    pub(super) files: BTreeMap<Identity, (Vec<u8>, Label)>,
    /// What could not be looked at, in words, and paths of rules at which there is nothing.
    pub(super) lacks: Vec<String>,
    /// Paths at which there is what the labels must not deny.
    pub(super) vital: Vec<(Vec<u8>, Vital)>,
}

/// Looks for what the labels are about, below `root`. A place that is too large for the limits is looked at in part, and told;
/// no other place is looked at less for that.
pub(super) fn find(root: &Path, labels: &Labels, limits: Limits, vital: &VitalFiles) -> Found {
    let mut found = Found::default();
    for place in &labels.places {
        found.look_at(root, place, (labels, vital), limits);
    }
    found
}

impl Found {
    fn look_at(
        &mut self,
        root: &Path,
        place: &Place,
        (labels, vital): (&Labels, &VitalFiles),
        limits: Limits,
    ) {
        let path = place.path.as_bytes();
        let top = match Labelled::open(root, path) {
            Ok(top) => top,
            Err(error) if is_link(&error) && labels.linked(&place.path).is_some() => {
                return self.follow(root, &place.path, labels);
            }
            Err(error) if is_nothing(&error) => {
                if place.reach != Reach::Above {
                    let why = match is_link(&error) {
                        true => {
                            "a link is on the way to it that was not followed; name the path that it leads to"
                        }
                        false => "there is nothing yet",
                    };
                    self.lacks.push(format!("`{}`: {why}", path.escape_ascii()));
                }
                return;
            }
            Err(error) => return self.lacks.push(told(path, &error)),
        };
        self.add(&top, path, labels, vital);
        if top.kind() == Kind::Link {
            return self.follow(root, &place.path, labels);
        }
        let within = match place.reach {
            Reach::Below => Reach::Below,
            Reach::Children => Reach::Itself,
            Reach::Above | Reach::Itself => return,
        };
        let deadline = Instant::now() + limits.time;
        let base = path.strip_suffix(b"/").unwrap_or(path);
        let (mut looked, mut left) = (0_usize, Vec::new());
        let mut whole = top.kind() != Kind::Directory || self.list(&top, path, b"", limits.files, &mut left);
        while let Some(relative) = left.pop() {
            looked += 1;
            if looked > limits.files || Instant::now() > deadline {
                whole = false;
                break;
            }
            let path = [base, b"/", relative.as_slice()].concat();
            let file = match top.below(&relative) {
                Ok(file) => file,
                // it is gone by now
                Err(error) if is_nothing(&error) => continue,
                Err(error) if is_mounted(&error) => {
                    let named = |place: &Place| place.path.as_bytes() == path && place.reach == Reach::Below;
                    if !labels.places.iter().any(named) {
                        let why = "something else is mounted there; name it in a rule of its own";
                        self.lacks.push(format!("`{}`: {why}", path.escape_ascii()));
                    }
                    continue;
                }
                Err(error) => {
                    self.lacks.push(told(&path, &error));
                    continue;
                }
            };
            self.add(&file, &path, labels, vital);
            if file.kind() == Kind::Directory && within == Reach::Below {
                whole &= self.list(&file, &path, &relative, limits.files, &mut left);
            }
        }
        if !whole {
            self.lacks.push(format!(
                "`{}`: there are more than {} files, or looking at them takes more than {} s; name narrower directories",
                path.escape_ascii(),
                limits.files,
                limits.time.as_secs()
            ));
        }
    }

    /// Where a link leads is a place of its own, if it leads where it did when the policies were read. One that no file
    /// rule protects may be replaced since.
    fn follow(&mut self, root: &Path, path: &AbsPath, labels: &Labels) {
        let Some(then) = labels.linked(path) else { return };
        let now = match Root::at(root) {
            Ok(root) => root.resolve(path),
            Err(error) => return self.lacks.push(told(path.as_bytes(), &error)),
        };
        // a program of many names counts by where its name stands alone
        let known = |OtherName { place, target, .. }: &OtherName| {
            then.contains(target) || then.iter().all(|name| name == place)
        };
        if !now.names.iter().any(known) {
            let why = match now.unknown {
                Some(_) => "where it leads cannot be looked up",
                None => "it leads elsewhere than when the policies were read",
            };
            self.lacks.push(format!("`{}`: {why}", path.as_bytes().escape_ascii()));
        }
    }

    fn add(&mut self, file: &Labelled, path: &[u8], labels: &Labels, vital: &VitalFiles) {
        let label = labels.of(path, file.kind());
        if label != Label::NOTHING {
            self.vital.extend(vital.denied_by(file.identity(), label).map(|vital| (path.to_vec(), vital)));
            let (_, has) = self.files.entry(file.identity()).or_insert_with(|| (path.to_vec(), label));
            *has = has.with(label);
        }
    }

    /// Adds what is in a directory to what is left; whether there is room for all of it.
    fn list(
        &mut self,
        directory: &Labelled,
        path: &[u8],
        relative: &[u8],
        most: usize,
        left: &mut Vec<Vec<u8>>,
    ) -> bool {
        let entries = match fs::read_dir(directory.by_handle()) {
            Ok(entries) => entries,
            Err(error) => {
                self.lacks.push(told(path, &error));
                return true;
            }
        };
        for entry in entries {
            match entry {
                Ok(_) if left.len() >= most => return false,
                Ok(entry) if relative.is_empty() => left.push(entry.file_name().as_bytes().to_vec()),
                Ok(entry) => left.push([relative, b"/", entry.file_name().as_bytes()].concat()),
                Err(error) => {
                    self.lacks.push(told(path, &error));
                    return true;
                }
            }
        }
        true
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::compile::selinux::compile;
    use crate::links::LookUps;
    use crate::policy::parse;
    use crate::ruleset::{Postures, Ruleset};
    use crate::subject::Subject;

    fn nothing() -> VitalFiles {
        VitalFiles::default()
    }

    fn ruleset(rules: &str) -> Ruleset {
        let policy = format!(
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {{name: host}}\n\
             spec:\n  nodeSelector: {{matchLabels: {{kubernetes.io/os: linux}}}}\n  action: Block\n{rules}\n"
        );
        let parsed = parse("host.yaml", &policy);
        assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
        let host = Subject::of_host([("kubernetes.io/os".to_owned(), "linux".to_owned())].into());
        Ruleset::resolve(&parsed.policies, &Postures::default(), &host).ruleset
    }

    pub(in crate::enforce::selinux) fn labels(rules: &str) -> Labels {
        compile(&ruleset(rules))
    }

    #[test]
    fn a_path_over_a_link_counts_by_where_it_leads() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("usr/bin")).unwrap();
        fs::create_dir_all(at("etc")).unwrap();
        ["usr/bin/tool", "usr/bin/other", "etc/real"]
            .iter()
            .for_each(|path| fs::write(at(path), "").unwrap());
        std::os::unix::fs::symlink("/usr/bin", at("bin")).unwrap();
        std::os::unix::fs::symlink("/etc/real", at("etc/name")).unwrap();
        let written =
            ruleset("  file: {matchPaths: [{path: /bin/tool}, {path: /bin/missing}, {path: /etc/name}]}");
        let found: BTreeMap<_, _> =
            Root::at(dir.path()).unwrap().look_up(&LookUps::of(&written)).into_iter().collect();
        let linked = written.with_links(|path| found.get(path).cloned().unwrap_or_default());
        assert_eq!(linked.gaps, []);
        let found = find(dir.path(), &compile(&linked.ruleset), LIMITS, &nothing());
        assert_eq!(found.lacks, ["`/usr/bin/missing`: there is nothing yet"]);
        let label = |path: &str| {
            let found = found.files.values().find(|(name, _)| name == path.as_bytes());
            found.map(|(_, label)| label.user().unwrap())
        };
        assert_eq!(label("/usr/bin/tool").as_deref(), Some("nri_enforcer_rw_u"));
        assert_eq!(label("/etc/real").as_deref(), Some("nri_enforcer_rw_u"));
        assert_eq!(label("/usr/bin/other"), None);
        // nobody leads the name elsewhere
        assert_eq!(label("/bin").as_deref(), Some("nri_enforcer_w_u"));
        assert_eq!(label("/etc/name").as_deref(), Some("nri_enforcer_w_u"));
        // what was not followed is told as such
        let lacks = find(dir.path(), &compile(&written), LIMITS, &nothing()).lacks;
        assert!(lacks.iter().any(|lack| lack.starts_with("`/bin/tool`: a link is on the way")), "{lacks:?}");
    }

    #[test]
    fn a_link_that_leads_elsewhere_now_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for directory in ["usr/bin", "usr/local", "opt"] {
            fs::create_dir_all(at(directory)).unwrap();
            ["tool", "real", "other"]
                .iter()
                .for_each(|name| fs::write(at(directory).join(name), "").unwrap());
        }
        let link = |name: &str, target: &str| {
            let _absent = fs::remove_file(at(name));
            std::os::unix::fs::symlink(target, at(name)).unwrap();
        };
        link("bin", "usr/bin");
        link("opt/name", "/opt/real");
        let written =
            ruleset("  process: {matchPaths: [{path: /bin/tool}, {path: /opt/name}, {path: /bin/name}]}");
        let linked = |found: BTreeMap<_, _>| {
            let linked = written.with_links(|path| found.get(path).cloned().unwrap_or_default());
            compile(&linked.ruleset)
        };
        link("usr/bin/name", "real"); // both ways at once
        let look_up = || Root::at(dir.path()).unwrap().look_up(&LookUps::of(&written)).into_iter().collect();
        let labels = linked(look_up());
        let executable = |found: &Found, path: &str| {
            found.files.values().any(|(name, label)| name == path.as_bytes() && label.has(Label::EXECUTE))
        };
        let found = find(dir.path(), &labels, LIMITS, &nothing());
        assert_eq!(found.lacks, [""; 0]);
        for path in ["/usr/bin/tool", "/usr/bin/real", "/opt/real"] {
            assert!(executable(&found, path), "{path}");
        }
        link("usr/bin/name", "other");
        link("opt/name", "/opt/other");
        let elsewhere = |path: &str| format!("`{path}`: it leads elsewhere than when the policies were read");
        let lacks = find(dir.path(), &labels, LIMITS, &nothing()).lacks;
        assert_eq!(lacks, [elsewhere("/bin/name"), elsewhere("/opt/name")]);
        link("bin", "usr/local");
        let lacks = find(dir.path(), &labels, LIMITS, &nothing()).lacks;
        assert!(lacks.contains(&elsewhere("/bin/tool")), "{lacks:?}");
        // until the policies are read again
        fs::remove_file(at("bin")).unwrap();
        link("bin", "opt");
        assert_eq!(find(dir.path(), &linked(look_up()), LIMITS, &nothing()).lacks, [""; 0]);
    }

    #[test]
    fn a_place_that_is_too_large_takes_nothing_from_the_others() {
        let root = tempfile::tempdir().unwrap();
        let directories = ["a/sub", "b", "c"].map(|name| root.path().join(name));
        directories.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        for name in (0..20).map(|n| format!("b/{n}")).chain(["a/sub/x", "c/y"].map(str::to_owned)) {
            fs::write(root.path().join(name), "").unwrap();
        }
        let labels = labels(
            "  file: {matchDirectories: [{dir: /a/, recursive: true}, {dir: /b/, recursive: true}, {dir: /c/, recursive: true}]}",
        );
        let paths = |found: &Found| -> Vec<String> {
            let paths = found.files.values().map(|(path, _)| String::from_utf8_lossy(path).into_owned());
            paths.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
        };
        let all = find(root.path(), &labels, LIMITS, &nothing());
        assert_eq!((all.files.len(), all.lacks.as_slice()), (26, &[][..]), "{:?}", paths(&all));
        let some = find(root.path(), &labels, Limits { files: 5, ..LIMITS }, &nothing());
        assert_eq!(some.lacks.len(), 1, "{:?}", some.lacks);
        assert!(some.lacks[0].starts_with("`/b`: there are more than 5 files"), "{:?}", some.lacks);
        assert_eq!(some.files.len(), 4 + 5 + 1 + 1, "{:?}", paths(&some));
        let late = find(root.path(), &labels, Limits { time: Duration::ZERO, ..LIMITS }, &nothing());
        assert_eq!((late.files.len(), late.lacks.len()), (3, 3), "{:?}", late.lacks);
    }
}
