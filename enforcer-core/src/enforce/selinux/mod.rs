//! SELinux: our module in the kernel's policy, and our labels on files.
//!
//! The module is built into the policy by `semodule`, once; it is the same for all rules. Labels live on files, so both
//! outlast the daemon. Which files have one, and which user each had before, is on disk before any label is set: the next
//! daemon, and `unload`, take them off again.
//!
//! A change first makes each label as strict as the old one and the new one together, and only then what it is to be: no
//! file is ever less protected than by both.

mod error;
mod file;
mod noted;
mod permissive;
mod record;
mod store;
mod vital;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::error::SelinuxError;
use self::error::failed;
use self::file::{Context, Labelled};
pub use self::noted::{Makers, Noted};
pub use self::permissive::Permissive;
use self::record::{Note, Record};
use self::vital::VitalFiles;
use self::walk::Found;
use super::exclusive;
use crate::compile::selinux::{Domain, Kind, Label, Labels, module};
use crate::coverage::Gap;

/// Where the kernel tells of SELinux.
const SELINUXFS: &str = "/sys/fs/selinux";
/// Where it is noted which files have labels, unless told otherwise.
pub const RECORD: &str = "/var/lib/nri-enforcer/selinux";
/// The label of this process.
const OWN_LABEL: &str = "/proc/self/attr/current";
/// The file beside the record that is our module as it was installed; its name is the module's.
const MODULE_FILE: &str = "nri_enforcer.cil";

/// The kernel's SELinux.
#[derive(Debug)]
pub struct Selinux {
    root: PathBuf, // `/`, but for tests
    record: PathBuf,
    own: Vec<PathBuf>, // what its user must be able to change
    keeper: Domain,
}

/// What came of setting labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Files that have a label now.
    pub files: usize,
    /// What could not be labelled, or not found, in words.
    pub lacks: Vec<String>,
    /// Rules that labels do not hold on this host: they would deny a file that it cannot do without.
    pub refused: Vec<Gap>,
    /// Domains of processes that run now and are denied nothing.
    pub permissive: Vec<Domain>,
    /// The files, as audit records tell of them.
    pub noted: Arc<Noted>,
}

/// What came of taking labels off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Files that have their own users again.
    pub files: usize,
    /// Files that are not where they were when they got their labels: deleted, or moved, with their labels.
    pub gone: usize,
    /// What could not be restored, in words; it is still noted.
    pub kept: Vec<String>,
}

impl Selinux {
    /// That of this machine, where it enforces a policy, and `semodule` can change that. Nothing is changed.
    ///
    /// # Errors
    /// What is missing.
    pub fn open(record: &Path) -> Result<Self, SelinuxError> {
        match Self::enforces()? {
            true => Self::found(record),
            false => Err(SelinuxError::Permissive),
        }
    }

    /// The same, where nothing is to be held: it may be permissive.
    ///
    /// # Errors
    /// What is missing.
    pub fn found(record: &Path) -> Result<Self, SelinuxError> {
        Self::enforces()?;
        let label = fs::read_to_string(OWN_LABEL).map_err(failed("read this process's label"))?;
        let keeper = Domain::of_label(&label).map_err(|error| SelinuxError::NoPolicy(error.to_string()))?;
        store::modules()?;
        Ok(Self { root: "/".into(), record: record.to_owned(), own: Vec::new(), keeper })
    }

    /// The same, whose user changes these files, and what is in these directories: no label denies anything of them.
    #[must_use]
    pub fn sparing(self, own: Vec<PathBuf>) -> Self {
        Self { own, ..self }
    }

    /// Whether the kernel denies: it is not permissive.
    ///
    /// # Errors
    /// [`SelinuxError::Absent`], where it has no SELinux, or none that is on.
    pub fn enforces() -> Result<bool, SelinuxError> {
        let path = Path::new(SELINUXFS).join("enforce");
        let text = fs::read_to_string(&path).map_err(|source| SelinuxError::Absent { path, source })?;
        Ok(text.trim() == "1")
    }

    /// The domain of this process, which alone can put labels on files and take them off.
    #[must_use]
    pub const fn keeper(&self) -> &Domain {
        &self.keeper
    }

    /// Has our module in the kernel's policy, with this process's domain as the keeper. Where it is there already nothing
    /// is done; else building the policy anew takes seconds, and up to a minute for a large one.
    ///
    /// # Errors
    /// When it cannot be built in, or is not in force then.
    pub fn install(&self) -> Result<(), SelinuxError> {
        let text = module(&self.keeper);
        let path = self.record.join(MODULE_FILE);
        let known = fs::read_to_string(&path).is_ok_and(|known| known == text);
        if known && store::has_ours()? && self.in_force()? {
            return Ok(());
        }
        record::make_dir(&self.record)?;
        record::replace(&path, text.as_bytes())?;
        let installed = store::install(&path);
        if installed.is_err() {
            // what is in force, if anything is, is not this
            let _gone = fs::remove_file(&path);
        }
        installed?;
        self.must_be_in_force()
    }

    /// Asks the kernel whether files with our users may be read and written by this process.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn in_force(&self) -> Result<bool, SelinuxError> {
        let own = fs::read_to_string(OWN_LABEL).map_err(failed("read this process's label"))?;
        let own = own.trim_end_matches(['\0', '\n']);
        let root = Labelled::open(&self.root, b"/").and_then(|root| root.context());
        let root = root.map_err(failed("read the label of `/`"))?;
        let Some(user) = Label::READ.with(Label::WRITE).user() else { return Ok(false) };
        for permission in ["read", "write"] {
            match allows(own, &root.with_user(&user), "file", permission) {
                Ok(false) => {}
                Ok(true) => return Ok(false),
                // a label that the policy does not know is no label of a policy with our module
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                    return Ok(false);
                }
                Err(error) => return Err(failed("ask what SELinux allows")(error)),
            }
        }
        Ok(true)
    }

    /// Takes the record for this process, as long as the file is open. Whoever sets labels or takes them off must have it.
    ///
    /// # Errors
    /// [`SelinuxError::Busy`], where another process has it.
    pub fn lock(record: &Path) -> Result<File, SelinuxError> {
        record::make_dir(record)?;
        let lock = exclusive::take(record).map_err(failed(format!("lock `{}`", record.display())))?;
        lock.ok_or_else(|| SelinuxError::Busy(record.to_owned()))
    }

    /// Whether some files have labels of ours, by the record.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn has_labels(record: &Path) -> Result<bool, SelinuxError> {
        Ok(!Record::read(record)?.users.is_empty())
    }

    /// Sets these labels, and takes all others of ours off. A rule by which a file would be denied that the host cannot do without
    /// is refused, whatever name it has for it: nobody is exempt, and labels are in force before any daemon.
    ///
    /// # Errors
    /// When SELinux or our module denies nothing, or the record cannot be read or written: nothing has changed then. What cannot be
    /// labelled by itself is no error, but told.
    pub fn apply(&self, labels: &Labels) -> Result<Applied, SelinuxError> {
        if !Self::enforces()? {
            return Err(SelinuxError::Permissive);
        }
        self.must_be_in_force()?;
        let mut record = Record::read(&self.record)?;
        let before = record.clone();
        let (labels, found, refused) = self.find(labels);
        let mut lacks = found.lacks;
        let known = record.by_identity();
        let mut set = Vec::new();
        for (identity, (path, label)) in &found.files {
            match self.file(path, *identity).and_then(|file| file.context()) {
                Ok(context) => {
                    let has = Label::of_user(&context.user).unwrap_or_default();
                    record.note(path, *identity, (has == Label::NOTHING).then_some(context.user), &known);
                    set.push((path, *identity, has, *label));
                }
                Err(error) => lacks.push(told(path, &error)),
            }
        }
        found.files.keys().for_each(|identity| record.find(*identity));
        if record != before {
            record.write(&self.record)?;
        }
        let steps: [fn(Label, Label) -> Label; 2] = [Label::with, |_, new| new];
        for step in steps {
            for (path, identity, has, new) in &mut set {
                let wanted = step(*has, *new);
                match self.change(path, *identity, *has, wanted) {
                    Ok(()) => *has = wanted,
                    Err(error) => lacks.push(told(path, &error)),
                }
            }
        }
        let files = set.iter().filter(|(.., has, new)| has == new).count();
        let wanted: BTreeSet<&[u8]> = found.files.values().map(|(path, _)| path.as_slice()).collect();
        let others: Vec<Vec<u8>> =
            record.users.keys().filter(|path| !wanted.contains(path.as_slice())).cloned().collect();
        if !others.is_empty() {
            let restored = self.restore(&mut record, others, |path, identity, kind| {
                Fate::of(path, identity, kind, &found.files, &labels)
            });
            found.files.keys().for_each(|identity| record.find(*identity));
            lacks.extend(restored.kept);
            record.write(&self.record)?;
        }
        // files are labelled, whatever is known of who is denied nothing
        let (permissive, unknown) = match self.permissive() {
            Ok(permissive) => {
                let unknown = permissive.unknown();
                (permissive.domains, unknown)
            }
            Err(error) => {
                let why = error.source().map(|why| format!(": {why}")).unwrap_or_default();
                (Vec::new(), Some(format!("which domains are permissive is not known: {error}{why}")))
            }
        };
        lacks.extend(unknown);
        lacks.sort_unstable();
        lacks.dedup();
        let noted = Arc::new(noted(&labels, record, &found.files));
        Ok(Applied { files, lacks, refused, permissive, noted })
    }

    /// What the labels are about, without the rules that are refused.
    fn find(&self, labels: &Labels) -> (Labels, Found, Vec<Gap>) {
        let vital = VitalFiles::of(&self.root, &self.record, &self.own);
        let (mut labels, mut refused) = (labels.clone(), Vec::new());
        loop {
            let mut found = walk::find(&self.root, &labels, walk::LIMITS, &vital);
            let (left, gaps) = labels.without(&found.vital);
            if gaps.is_empty() {
                // no rule tells why it would be denied: it is not, all the same, and that is told
                let lacks = &mut found.lacks;
                found.files.retain(|file, (path, label)| {
                    let denied = vital.denied_by(*file, *label).is_some();
                    if denied {
                        let path = String::from_utf8_lossy(path);
                        lacks.push(format!("`{path}`: the host cannot do without it, so it has no label"));
                    }
                    !denied
                });
                found.lacks.extend(vital.lacks);
                return (labels, found, refused);
            }
            refused.extend(gaps);
            labels = left;
        }
    }

    /// Takes all labels of ours off that are noted; our module stays.
    ///
    /// # Errors
    /// When our module is not in force, or the record cannot be read or written.
    pub fn take_off(&self) -> Result<Restored, SelinuxError> {
        self.must_be_in_force()?;
        let mut record = Record::read(&self.record)?;
        let restored = self.restore_all(&mut record);
        record.write(&self.record)?;
        Ok(restored)
    }

    /// Takes all labels of ours off that are noted, and our module out of the policy. With labels that cannot be taken off
    /// the module stays: without it the kernel would not know what these mean.
    ///
    /// # Errors
    /// When a daemon sets labels still, or a tool or the record fails. What was not done yet is left as it was.
    pub fn unload(&self) -> Result<Restored, SelinuxError> {
        let _lock = Self::lock(&self.record)?;
        if Self::has_labels(&self.record)? {
            // labels can be taken off by the keeper alone, which may be another domain until now
            self.install()?;
        }
        let restored = match Self::has_labels(&self.record)? {
            true => self.take_off()?,
            false => Restored { gone: Record::read(&self.record)?.moved(), ..Restored::default() },
        };
        if restored.kept.is_empty() {
            store::remove()?;
            for name in [record::NAME, MODULE_FILE] {
                let _absent = fs::remove_file(self.record.join(name));
            }
        }
        Ok(restored)
    }

    /// Whether the policy store of this machine has our module.
    ///
    /// # Errors
    /// When `semodule` cannot tell.
    pub fn is_installed() -> Result<bool, SelinuxError> {
        store::has_ours()
    }

    /// What is at a path, if it is this file still.
    fn file(&self, path: &[u8], identity: file::Identity) -> std::io::Result<Labelled> {
        let file = Labelled::open(&self.root, path)?;
        if file.identity() == identity { Ok(file) } else { Err(std::io::ErrorKind::NotFound.into()) }
    }

    fn change(
        &self,
        path: &[u8],
        identity: file::Identity,
        has: Label,
        wanted: Label,
    ) -> std::io::Result<()> {
        let Some(user) = wanted.user().filter(|_| has != wanted) else { return Ok(()) };
        let file = self.file(path, identity)?;
        file.put(&file.context()?.with_user(&user))
    }

    /// Without our module the kernel knows none of our users: labels are not what is read then, and could be lost.
    fn must_be_in_force(&self) -> Result<(), SelinuxError> {
        if self.in_force()? { Ok(()) } else { Err(SelinuxError::NotInForce) }
    }

    fn restore_all(&self, record: &mut Record) -> Restored {
        let all = record.users.keys().cloned().collect();
        let mut restored = self.restore(record, all, |_, _, _| Fate::Restored);
        restored.gone += record.moved();
        restored
    }

    fn restore(
        &self,
        record: &mut Record,
        paths: Vec<Vec<u8>>,
        fate: impl Fn(&[u8], file::Identity, Kind) -> Fate,
    ) -> Restored {
        let mut restored = Restored::default();
        let known = record.by_identity();
        for path in paths {
            let Some(Note { user, identity: noted }) = record.users.get(&path).cloned() else { continue };
            let mut here = None;
            let done = Labelled::open(&self.root, &path).and_then(|file| {
                let context = file.context()?;
                here = Some(file.identity());
                let user = noted.and_then(|_| known.get(&file.identity())).unwrap_or(&user);
                // a file that has another label by now
                if Label::of_user(&context.user).is_none() {
                    return Ok(false);
                }
                match fate(&path, file.identity(), file.kind()) {
                    Fate::Renamed(name) => {
                        let note = Note { user: user.clone(), identity: here };
                        record.users.insert(name, note);
                        Ok(false)
                    }
                    Fate::Kept => Err(std::io::Error::other("it was missed; it keeps the label that it has")),
                    Fate::Restored => file.put(&context.with_user(user)).map(|()| true),
                }
            });
            match done {
                Ok(true) => restored.files += 1,
                Ok(false) => {}
                // one that is known by its inode is counted as moved
                Err(error) if file::is_nothing(&error) => restored.gone += usize::from(noted.is_none()),
                Err(error) => {
                    restored.kept.push(told(&path, &error));
                    continue;
                }
            }
            record.users.remove(&path);
            if let Some(noted) = noted.filter(|noted| here != Some(*noted)) {
                record.lose(noted, user);
            }
        }
        restored
    }
}

/// What becomes of a file that is noted, and was not found by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// It was found by another name: what it had before is noted by that one from now on.
    Renamed(Vec<u8>),
    /// Rules deny something of it still: looking for it failed, or it was elsewhere for a moment.
    Kept,
    /// No rule is about it any more.
    Restored,
}

impl Fate {
    fn of(
        path: &[u8],
        identity: file::Identity,
        kind: Kind,
        found: &BTreeMap<file::Identity, (Vec<u8>, Label)>,
        labels: &Labels,
    ) -> Self {
        match found.get(&identity) {
            Some((name, _)) => Self::Renamed(name.clone()),
            None if labels.of(path, kind) != Label::NOTHING => Self::Kept,
            None => Self::Restored,
        }
    }
}

/// What is in the record of this boot, also what was missed now.
fn noted(labels: &Labels, record: Record, found: &BTreeMap<file::Identity, (Vec<u8>, Label)>) -> Noted {
    let label = |identity| found.get(&identity).map_or(Label::NOTHING, |(_, label)| *label);
    let known = record.users.into_iter().filter_map(|(path, note)| Some((path, note.identity?)));
    Noted::new(labels, known.map(|(path, identity)| (path, identity.1, label(identity))))
}

fn told(path: &[u8], error: &std::io::Error) -> String {
    format!("`{}`: {error}", path.escape_ascii())
}

/// What the loaded policy says of a process with one label and an object with another.
struct Answer {
    /// The permissions, as bits.
    allowed: u32,
    /// Whether the process is denied nothing all the same.
    permissive: bool,
}

/// Asks the kernel.
fn ask(source: &str, target: &Context, class: &str) -> std::io::Result<Answer> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let index = number(&Path::new(SELINUXFS).join("class").join(class).join("index"))?;
    let mut file = File::options().read(true).write(true).open(Path::new(SELINUXFS).join("access"))?;
    file.write_all(format!("{source} {target} {index}").as_bytes())?;
    let mut answer = String::new();
    file.read_to_string(&mut answer)?;
    // allowed, decided, audited when allowed and when denied, the policy's number, flags
    let words: Vec<&str> = answer.split_ascii_whitespace().collect();
    let [allowed, _, _, _, _, flags] = words.as_slice() else { return Err(invalid()) };
    let hex = |word: &str| u32::from_str_radix(word, 16).map_err(|_| invalid());
    Ok(Answer { allowed: hex(allowed)?, permissive: hex(flags)? & PERMISSIVE != 0 })
}

/// `AVD_FLAGS_PERMISSIVE` of the kernel.
const PERMISSIVE: u32 = 1;

/// Whether the loaded policy allows a process with the label `source` this access to an object with the label `target`.
fn allows(source: &str, target: &Context, class: &str, permission: &str) -> std::io::Result<bool> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let bit = number(&Path::new(SELINUXFS).join("class").join(class).join("perms").join(permission))?;
    let mask = bit.checked_sub(1).and_then(|bit| 1_u32.checked_shl(bit)).ok_or_else(invalid)?;
    Ok(ask(source, target, class)?.allowed & mask != 0)
}

fn number(path: &Path) -> std::io::Result<u32> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| std::io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rules_deny_keeps_its_label_when_it_is_missed() {
        let labels = walk::tests::labels(
            "  file: {matchDirectories: [{dir: /a/, recursive: true}]}\n  process: {matchPaths: [{path: /bin/tool}]}",
        );
        let found = BTreeMap::from([((1, 2), (b"/a/name".to_vec(), Label::READ))]);
        let fate = |path: &[u8], inode, kind| Fate::of(path, (1, inode), kind, &found, &labels);
        assert_eq!(fate(b"/a/sub/x", 3, Kind::File), Fate::Kept);
        assert_eq!(fate(b"/a/sub", 3, Kind::Directory), Fate::Kept);
        assert_eq!(fate(b"/bin/tool", 3, Kind::File), Fate::Kept);
        assert_eq!(fate(b"/bin/other", 3, Kind::File), Fate::Restored);
        assert_eq!(fate(b"/a/other", 2, Kind::File), Fate::Renamed(b"/a/name".to_vec()));
    }

    #[test]
    fn what_is_not_where_it_was_is_counted_also_after_a_boot() {
        let dir = tempfile::tempdir().unwrap();
        let (root, keeper) = (dir.path().to_owned(), "keeper_t".parse().unwrap());
        let selinux = Selinux { root: root.clone(), record: root, own: Vec::new(), keeper };
        let mut record = Record::default();
        let note = |identity| Note { user: "system_u".to_owned(), identity };
        record.users.insert(b"/before-the-boot".to_vec(), note(None));
        record.users.insert(b"/since-the-boot".to_vec(), note(Some((1, 2))));
        record.lose((1, 3), "system_u".to_owned());
        let restored = selinux.restore_all(&mut record);
        assert_eq!(restored, Restored { files: 0, gone: 3, kept: Vec::new() });
        assert!(record.users.is_empty());
    }

    #[test]
    fn one_process_alone_sets_labels() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("selinux");
        let lock = Selinux::lock(&record).unwrap();
        assert!(matches!(Selinux::lock(&record), Err(SelinuxError::Busy(path)) if path == record));
        drop(lock);
        Selinux::lock(&record).unwrap();
    }
}
