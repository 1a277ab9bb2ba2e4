//! The files of this host that no label may deny, by their inodes: whatever name a rule has for them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::file::Identity;
use crate::compile::selinux::{Label, SETTINGS, Vital};
use crate::needed;

/// What is looked at of SELinux's settings and our own records, at most; a distribution's module store has some 2,000 files.
const MOST: usize = 50_000;

/// They, and what of them could not be found out.
#[derive(Debug, Default)]
pub(super) struct VitalFiles {
    files: BTreeMap<Identity, Vital>,
    pub(super) lacks: Vec<String>,
}

impl VitalFiles {
    /// Those below `root`: programs that keep a node alive, what the first process and this one execute, libraries too, and
    /// SELinux's settings, with what is in `record` and in `own`.
    pub(super) fn of(root: &Path, record: &Path, own: &[PathBuf]) -> Self {
        let mut all = Self::default();
        let at = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        needed::all().for_each(|path| all.add(&at(Path::new(path)), Vital::Program));
        for process in ["1", "self"] {
            all.add(&Path::new("/proc").join(process).join("exe"), Vital::Program);
            match mapped(process) {
                Ok(paths) => paths.iter().for_each(|path| all.add(&at(path), Vital::Program)),
                Err(error) => {
                    all.lacks.push(format!("what process {process} executes cannot be read: {error}"))
                }
            }
        }
        let mut left: Vec<PathBuf> = SETTINGS.iter().map(|path| at(Path::new(path))).collect();
        left.push(record.to_owned());
        // one may be a link, which is what a rule may be about, too
        let own = own.iter().map(|path| at(path));
        left.extend(own.flat_map(|path| fs::canonicalize(&path).into_iter().chain([path])));
        let mut looked = 0;
        while let Some(path) = left.pop() {
            looked += 1;
            if looked > MOST {
                all.lacks.push(format!("SELinux's settings are more than {MOST} files: not all are known"));
                break;
            }
            let Ok(about) = fs::symlink_metadata(&path) else { continue }; // there is none
            all.files.insert((about.dev(), about.ino()), Vital::Settings);
            if about.is_dir() {
                match fs::read_dir(&path) {
                    Ok(entries) => left.extend(entries.filter_map(|entry| Some(entry.ok()?.path()))),
                    Err(error) => all.lacks.push(format!("`{}`: {error}", path.display())),
                }
            }
        }
        all
    }

    /// A file that is there, links followed.
    fn add(&mut self, path: &Path, vital: Vital) {
        if let Ok(about) = fs::metadata(path).or_else(|_| fs::symlink_metadata(path)) {
            self.files.entry((about.dev(), about.ino())).or_insert(vital);
        }
    }

    /// Whether this label denies of the file what nobody may be denied.
    pub(super) fn denied_by(&self, file: Identity, label: Label) -> Option<Vital> {
        let vital = *self.files.get(&file)?;
        let denies = match vital {
            Vital::Program => label.has(Label::READ) || label.has(Label::EXECUTE),
            // one that cannot be renamed is there still
            Vital::Settings => [Label::READ, Label::WRITE, Label::EXECUTE, Label::CREATE]
                .into_iter()
                .any(|one| label.has(one)),
        };
        denies.then_some(vital)
    }
}

/// The files that a process has mapped as code.
fn mapped(process: &str) -> std::io::Result<Vec<PathBuf>> {
    Ok(code(&fs::read_to_string(format!("/proc/{process}/maps"))?))
}

/// The files that are mapped as code, by a text as proc(5) has it. One that was replaced since, as an upgrade does, counts by
/// its name: what has that now is what is mapped the next time.
fn code(maps: &str) -> Vec<PathBuf> {
    let code = maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|bits| bits.contains('x')));
    let paths = code.filter_map(|line| line.find('/').and_then(|at| line.get(at..)));
    paths.map(|path| PathBuf::from(path.strip_suffix(" (deleted)").unwrap_or(path))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::walk::{LIMITS, find, tests::labels};
    use super::*;

    #[test]
    fn a_library_that_was_replaced_counts_by_its_name() {
        let maps = "7f00-7f01 r-xp 00000000 fd:00 7 /usr/lib/libsystemd-shared.so (deleted)\n\
            7f01-7f02 r--p 00000000 fd:00 8 /usr/lib/data\n7f02-7f03 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(code(maps), [PathBuf::from("/usr/lib/libsystemd-shared.so")]);
    }

    #[test]
    fn what_is_vital_is_found_under_any_name() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path.trim_start_matches('/'));
        for dir in ["usr/bin", "opt/tools", "opt/other", "etc/selinux/small/policy", "srv/store"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        for file in
            ["usr/bin/kubelet", "opt/tools/plain", "opt/other/x", "etc/selinux/small/policy/policy.33"]
        {
            fs::write(at(file), "").unwrap();
        }
        fs::hard_link(at("usr/bin/kubelet"), at("opt/tools/agent")).unwrap();
        fs::hard_link(at("etc/selinux/small/policy/policy.33"), at("srv/store/copy")).unwrap();
        let vital = VitalFiles::of(root.path(), &at("var/lib/record"), &[]);
        // who runs this may not look into the first process
        assert!(vital.lacks.iter().all(|lack| lack.contains("process 1 executes")), "{:?}", vital.lacks);
        // neither name is one that a text could refuse
        let rules = labels(
            "  process: {matchDirectories: [{dir: /opt/tools/}, {dir: /opt/other/}]}\n  \
             file: {matchDirectories: [{dir: /opt/tools/, readOnly: true}, {dir: /srv/store/, readOnly: true}]}",
        );
        assert_eq!(rules.gaps, []);
        let found = find(root.path(), &rules, LIMITS, &vital);
        let mut refused: Vec<_> = found.vital.iter().map(|(path, vital)| (path.as_slice(), *vital)).collect();
        refused.sort_by_key(|(path, _)| *path);
        assert_eq!(
            refused,
            [(&b"/opt/tools/agent"[..], Vital::Program), (b"/srv/store/copy", Vital::Settings)]
        );
        let (left, gaps) = rules.without(&found.vital);
        let fields: Vec<_> = gaps.iter().map(|gap| (gap.field.as_str(), gap.reason.name())).collect();
        let reason = || "SelinuxVital".to_owned();
        assert_eq!(
            fields,
            [("spec.process.matchDirectories[0]", reason()), ("spec.file.matchDirectories[1]", reason())]
        );
        assert!(gaps[0].advice.contains("`/opt/tools/agent`"), "{}", gaps[0].advice);
        let found = find(root.path(), &left, LIMITS, &vital);
        let user = |path: &str| {
            found.files.values().find(|(name, _)| name == path.as_bytes()).map(|(_, label)| label.user())
        };
        // protected from changes still, and the rule beside it holds
        assert_eq!((found.vital.len(), user("/opt/tools/plain")), (0, Some(Some("nri_enforcer_w_u".into()))));
        assert_eq!(user("/opt/other/x"), Some(Some("nri_enforcer_x_u".into())));
    }

    /// Else a change that is not confirmed could not be taken back.
    #[test]
    fn what_the_daemon_writes_has_no_label() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path.trim_start_matches('/'));
        for dir in ["etc/ours/policies", "srv/policies", "etc/other"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        for file in ["etc/ours/policies/one.yaml", "srv/policies/two.yaml", "etc/other/x"] {
            fs::write(at(file), "").unwrap();
        }
        std::os::unix::fs::symlink("../../srv/policies", at("etc/ours/linked")).unwrap();
        let own = ["/etc/ours/policies", "/etc/ours/linked"].map(PathBuf::from);
        let vital = VitalFiles::of(root.path(), &at("var/lib/record"), &own);
        let told = |rules: &str, vital: &VitalFiles| {
            let rules = labels(rules);
            let found = find(root.path(), &rules, LIMITS, vital);
            let (left, gaps) = rules.without(&found.vital);
            let left = find(root.path(), &left, LIMITS, vital).files.into_values().map(|(path, _)| path);
            (gaps.len(), left.map(|path| String::from_utf8(path).unwrap()).collect::<Vec<_>>())
        };
        for rule in [
            "matchDirectories: [{dir: /etc/ours/, recursive: true, readOnly: true}]",
            "matchDirectories: [{dir: /etc/ours/policies/, readOnly: true}]",
            "matchPaths: [{path: /etc/ours/policies/one.yaml, readOnly: true}]",
            "matchDirectories: [{dir: /srv/policies/}]",
            "matchPaths: [{path: /etc/ours/linked, readOnly: true}]",
        ] {
            let rules = format!("  file:\n    {rule}");
            assert_eq!(told(&rules, &vital), (1, vec![]), "{rule}");
            let none = VitalFiles::of(root.path(), &at("var/lib/record"), &[]);
            let (gaps, files) = told(&rules, &none);
            assert!(gaps == 0 && !files.is_empty(), "{rule}: {files:?}");
        }
        let (gaps, files) = told("  file: {matchPaths: [{path: /etc/other/x}]}", &vital);
        assert!(gaps == 0 && files.contains(&"/etc/other/x".to_owned()), "{files:?}");
    }

    #[test]
    fn this_program_and_its_libraries_are_vital() {
        let vital = VitalFiles::of(Path::new("/"), Path::new("/nowhere"), &[]);
        let of = |path: &Path| {
            let about = fs::metadata(path).unwrap();
            vital.denied_by((about.dev(), about.ino()), Label::READ)
        };
        assert_eq!(of(&std::env::current_exe().unwrap()), Some(Vital::Program));
        let libc =
            mapped("self").unwrap().into_iter().find(|path| path.to_string_lossy().contains("libc.so"));
        assert_eq!(of(&libc.unwrap()), Some(Vital::Program));
        assert_eq!(of(Path::new("/etc/hostname")), None);
        let about = fs::metadata("/proc/self/exe").unwrap();
        assert_eq!(
            vital.denied_by((about.dev(), about.ino()), Label::WRITE),
            None,
            "an upgrade may be denied"
        );
    }
}
