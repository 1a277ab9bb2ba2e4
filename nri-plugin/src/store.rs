//! The policies in force: read from directories and the API server, swapped as a whole, and never lost to a bad edit.
//!
//! - Only files that end in `.yaml`, `.yml` or `.json` directly in a directory count; names that start with a dot do
//!   not (Kubernetes mounts keep their machinery there). Links are followed.
//! - A file whose new version has errors keeps in force what it yielded last: its new good documents take effect, and
//!   the last good version of every policy that it no longer yields stays, since that may be the one that went bad.
//!   It says so until the file is mended. A file that cannot be read keeps all it had.
//! - A file that is gone takes its policies with it. A *directory* that cannot be listed changes nothing.
//! - Of two policies with the same identity the first counts, by directory as configured and then by file name; the
//!   other is an error. The identity is kind, namespace and name. So it is with documents of the kind `Namespace`.
//!   What comes from the API server stands behind every directory: what the node's owner wrote there counts.
//! - What others than root can change is told; with `strict` it is not read, and what was read before stays in force.
//! - Of a `Namespace`, an annotation with a value that is no posture keeps the last valid value; where there was none,
//!   the node's default holds.

mod problem;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use enforcer_core::policy::{Namespace, ParsedFile, Policy, PolicyError, PolicyId, SeccompPolicy, parse};
use tokio::sync::watch;

pub use self::problem::Problem;
use crate::api::Snapshot;
use crate::set::PolicySet;
use crate::trust;

/// The largest policy file that is read, in bytes: far above 10,000 rules, far below what would hurt.
pub const MAX_FILE_LEN: u64 = 16 << 20;

/// Where policies are defined that no file defines.
pub const API: &str = "the API server";

/// What a reading of the directories found, and what the API server has told by then.
#[derive(Debug)]
pub struct Reload {
    /// The policies now in force.
    pub set: Arc<PolicySet>,
    /// Whether any file or object came, went or differs from the reading before.
    pub changed: bool,
    /// What is wrong, in the order of the files; then objects of the API server.
    pub problems: Vec<Problem>,
    /// Policies and namespaces that count in an older version than that of their file or of [`API`], with where that is.
    pub kept: Vec<(String, String)>,
}

/// Reads policy directories again and again, remembering what was good.
#[derive(Debug)]
pub struct Store {
    dirs: Vec<PathBuf>,
    files: BTreeMap<Place, File>,
    api: Option<watch::Receiver<Arc<Snapshot>>>,
    told: Arc<Snapshot>, // by the API server, as merged last
    config: Option<PathBuf>,
    strict: bool,
    set: Arc<PolicySet>,
}

/// Where a file is, in the order that decides between duplicates: the directory's number, then the name.
type Place = (usize, PathBuf);

/// How long ago a file must have changed last for its times to tell it from every later version: far more than the steps
/// in which any file system counts.
const SETTLED: Duration = Duration::from_secs(2);

/// What tells a version of a file from others without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64), // the inode: nobody can set this one
}

impl Version {
    /// Of the file, where it has not changed lately.
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        let (seconds, nanoseconds) =
            (u64::try_from(meta.ctime()).ok()?, u64::try_from(meta.ctime_nsec()).ok()?);
        let changed = Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        (now.checked_sub(changed)? >= SETTLED).then(|| Self {
            device: meta.dev(),
            inode: meta.ino(),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// What is known of one file.
#[derive(Debug, Default)]
struct File {
    version: Option<Version>,         // of `text`; None: it is to be read again
    text: Option<String>,             // as parsed last; None while the file has never been readable
    policies: Vec<Arc<Policy>>,       // in force
    seccomp: Vec<Arc<SeccompPolicy>>, // likewise
    namespaces: Vec<Namespace>,       // likewise
    kept: BTreeSet<String>,           // what of them is older than `text`
    errors: Vec<PolicyError>,         // of `text`
}

impl Store {
    /// A store that has read nothing yet.
    #[must_use]
    pub fn new(dirs: Vec<PathBuf>) -> Self {
        Self {
            dirs,
            files: BTreeMap::new(),
            api: None,
            told: Arc::default(),
            config: None,
            strict: false,
            set: Arc::default(),
        }
    }

    /// The same, which also tells whether others can change this file, the daemon's own configuration. `strict`: what others can
    /// change is not read.
    #[must_use]
    pub fn judging(self, config: Option<PathBuf>, strict: bool) -> Self {
        Self { config, strict, ..self }
    }

    /// The same with what the API server has.
    #[must_use]
    pub fn with_api(mut self, snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        self.api = Some(snapshots);
        self
    }

    /// Tells when the API server has told more than the last reading took. Never where there is none.
    pub(crate) fn api_changes(&self) -> ApiChanges {
        ApiChanges { snapshots: self.api.clone(), taken: Arc::clone(&self.told) }
    }

    /// The policies now in force.
    #[must_use]
    pub fn set(&self) -> Arc<PolicySet> {
        Arc::clone(&self.set)
    }

    /// Reads every file of every directory.
    pub fn reload(&mut self) -> Reload {
        self.files.values_mut().for_each(|file| file.version = None);
        self.reload_changed()
    }

    /// Reads the files that are new or whose inode, size or times are other ones. A change that none of these shows (some
    /// network file systems) is left to the next [`reload`](Self::reload).
    pub fn reload_changed(&mut self) -> Reload {
        let mut problems = Vec::new();
        let mut changed = false;
        problems.extend(self.config.as_deref().and_then(|path| self.distrust(path)));
        for (number, dir) in self.dirs.clone().into_iter().enumerate() {
            let distrust = self.distrust(&dir);
            let (is_told, refused) = (distrust.is_some(), distrust.is_some() && self.strict);
            problems.extend(distrust);
            if refused {
                continue;
            }
            let paths = match policy_files(&dir) {
                Ok(paths) => paths,
                Err(source) => {
                    problems.push(Problem::Directory { path: dir, source });
                    continue;
                }
            };
            let before = self.files.len();
            self.files.retain(|(of, path), _| *of != number || paths.contains(path));
            changed |= before != self.files.len();
            for path in paths {
                let distrust = if is_told || is_roots(&path) { None } else { self.distrust(&path) };
                let refused = distrust.is_some() && self.strict;
                problems.extend(distrust);
                if refused {
                    continue;
                }
                let file = self.files.entry((number, path.clone())).or_default();
                let version = Version::of(&path); // before the text: what comes between the two is read again
                if version.is_some() && version == file.version {
                    continue;
                }
                file.version = None;
                match read(&path) {
                    Ok(text) => {
                        changed |= file.update(&path, text);
                        file.version = version;
                    }
                    Err(source) => problems.push(Problem::File { path, source }),
                }
            }
        }
        for file in self.files.values() {
            problems.extend(file.errors.iter().cloned().map(|error| Problem::Document(Box::new(error))));
        }
        if let Some(api) = &mut self.api {
            let told = Arc::clone(&api.borrow_and_update());
            changed |= !Arc::ptr_eq(&told, &self.told);
            self.told = told;
        }
        problems.extend(self.told.errors.iter().cloned().map(|error| Problem::Object(Box::new(error))));
        let policies =
            self.merge(|file| &file.policies, &self.told.policies, |policy| policy.id(), &mut problems);
        let seccomp =
            self.merge(|file| &file.seccomp, &self.told.seccomp, |policy| policy.id(), &mut problems);
        let namespaces = self.merge_namespaces(&mut problems);
        let untrusted: Vec<String> = problems
            .iter()
            .filter(|problem| matches!(problem, Problem::Untrusted { .. }))
            .map(ToString::to_string)
            .collect();
        changed |= untrusted != self.set.untrusted();
        if changed {
            let files = self.files.values();
            let of_files = files.flat_map(|file| {
                let rules = file.policies.iter().map(|policy| policy.id().clone());
                rules.chain(file.seccomp.iter().map(|policy| policy.id().clone()))
            });
            let of_files = of_files.collect();
            let set = PolicySet::with_namespaces(policies, namespaces).with_seccomp(seccomp);
            let set = set.with_those_of_files(of_files).with_left_out(self.told.left_out.clone());
            let set = set.with_node(self.told.node.clone()).with_unread(self.told.unread.clone());
            self.set = Arc::new(set.with_untrusted(untrusted));
        }
        let kept = self
            .files
            .iter()
            .flat_map(|((_, path), file)| {
                file.kept.iter().map(|policy| (path.display().to_string(), policy.clone()))
            })
            .chain(self.told.kept.iter().map(|object| (API.to_owned(), object.clone())));
        Reload { set: self.set(), changed, problems, kept: kept.collect() }
    }

    /// What is wrong with who can change a directory or file. What cannot be examined cannot be read, which is told where it is.
    fn distrust(&self, path: &Path) -> Option<Problem> {
        let at = trust::others_write(path).ok().flatten()?;
        Some(Problem::Untrusted { path: path.to_owned(), at, refused: self.strict })
    }

    /// All policies of one sort without duplicates: those of files, then those of the API server.
    fn merge<T>(
        &self,
        of: impl Fn(&File) -> &[Arc<T>],
        told: &[Arc<T>],
        id: impl for<'a> Fn(&'a T) -> &'a PolicyId,
        problems: &mut Vec<Problem>,
    ) -> Vec<Arc<T>> {
        let mut seen: BTreeMap<&PolicyId, Where<'_>> = BTreeMap::new();
        let mut policies = Vec::new();
        let files =
            self.files.iter().flat_map(|((_, path), file)| of(file).iter().map(|one| (Some(&**path), one)));
        for (place, policy) in files.chain(told.iter().map(|one| (None, one))) {
            match seen.get(id(policy)) {
                None => {
                    seen.insert(id(policy), place);
                    policies.push(Arc::clone(policy));
                }
                Some(first) => {
                    problems.push(duplicate(format!("the policy `{}`", id(policy)), *first, place))
                }
            }
        }
        policies
    }

    fn merge_namespaces(&self, problems: &mut Vec<Problem>) -> Vec<Namespace> {
        let mut seen: BTreeMap<&str, (Where<'_>, &Namespace)> = BTreeMap::new();
        let files = self
            .files
            .iter()
            .flat_map(|((_, path), file)| file.namespaces.iter().map(|one| (Some(&**path), one)));
        let all = files.chain(self.told.namespaces.iter().map(|one| (None, one)));
        // one that says nothing must not switch off what another place says
        for (place, namespace) in all.filter(|(_, namespace)| namespace.sets_any()) {
            match seen.get(namespace.name()) {
                None => drop(seen.insert(namespace.name(), (place, namespace))),
                Some((first, _)) => {
                    problems.push(duplicate(format!("the namespace `{}`", namespace.name()), *first, place));
                }
            }
        }
        seen.into_values().map(|(_, namespace)| namespace.clone()).collect()
    }
}

/// Whether a file is one that only root can write, without a look at the way to it, which is that to its directory.
fn is_roots(path: &Path) -> bool {
    let about = std::fs::symlink_metadata(path);
    about.is_ok_and(|about| about.is_file() && about.uid() == 0 && about.mode() & 0o022 == 0)
}

/// The file, or the API server.
type Where<'a> = Option<&'a Path>;

fn duplicate(what: String, first: Where<'_>, second: Where<'_>) -> Problem {
    let name = |place: Where<'_>| place.map_or(API.to_owned(), |path| path.display().to_string());
    Problem::Duplicate { what, first: name(first), second: name(second) }
}

/// Waits for what the API server tells.
#[derive(Debug)]
pub(crate) struct ApiChanges {
    snapshots: Option<watch::Receiver<Arc<Snapshot>>>,
    taken: Arc<Snapshot>,
}

impl ApiChanges {
    /// Until there is more than was taken.
    pub(crate) async fn more(&mut self) {
        let Some(snapshots) = &mut self.snapshots else { return std::future::pending().await };
        let taken = &self.taken;
        if snapshots.wait_for(|now| !Arc::ptr_eq(now, taken)).await.is_err() {
            std::future::pending().await // nobody tells any more: whoever did is missed elsewhere
        }
    }
}

impl File {
    /// Takes a new version of the text; whether anything differs.
    fn update(&mut self, path: &Path, text: String) -> bool {
        if self.text.as_deref() == Some(text.as_str()) {
            return false;
        }
        let ParsedFile { policies, seccomp, mut namespaces, errors } =
            parse(&path.display().to_string(), &text);
        let mut policies: Vec<Arc<Policy>> = policies.into_iter().map(Arc::new).collect();
        let mut seccomp: Vec<Arc<SeccompPolicy>> = seccomp.into_iter().map(Arc::new).collect();
        self.kept.clear();
        if !errors.is_empty() {
            keep(&mut policies, &self.policies, Policy::id, &mut self.kept);
            keep(&mut seccomp, &self.seccomp, SeccompPolicy::id, &mut self.kept);
            for old in &self.namespaces {
                let kept = match namespaces.iter_mut().find(|new| new.name() == old.name()) {
                    Some(new) => new.keep(old),
                    None => {
                        namespaces.push(old.clone());
                        true
                    }
                };
                self.kept.extend(kept.then(|| format!("namespace {}", old.name())));
            }
        }
        self.policies = policies;
        self.seccomp = seccomp;
        self.namespaces = namespaces;
        self.errors = errors;
        self.text = Some(text);
        true
    }
}

/// Adds the old policies that the new ones do not replace, and notes them.
fn keep<T>(new: &mut Vec<Arc<T>>, old: &[Arc<T>], id: fn(&T) -> &PolicyId, kept: &mut BTreeSet<String>) {
    let yielded: BTreeSet<PolicyId> = new.iter().map(|policy| id(policy).clone()).collect();
    for old in old.iter().filter(|old| !yielded.contains(id(old))) {
        kept.insert(id(old).to_string());
        new.push(Arc::clone(old));
    }
}

/// The policy files directly in `dir`, by name.
///
/// # Errors
/// When the directory cannot be listed to its end.
pub fn policy_files(dir: &Path) -> std::io::Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let is_dir = || match entry.file_type() {
            Ok(kind) if kind.is_file() => false,
            _ => path.is_dir(),
        };
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let policy = path
            .extension()
            .and_then(OsStr::to_str)
            .is_some_and(|end| matches!(end, "yaml" | "yml" | "json"));
        // a dangling link is kept here, so that reading it is an error instead of a policy that silently is not there
        if policy && !hidden && !is_dir() {
            paths.insert(path);
        }
    }
    Ok(paths)
}

/// Reads a policy file.
///
/// # Errors
/// When it cannot be read, is not UTF-8, is no regular file, or is larger than [`MAX_FILE_LEN`].
pub fn read(path: &Path) -> std::io::Result<String> {
    read_up_to(path, MAX_FILE_LEN).map_err(|error| match error.kind() {
        std::io::ErrorKind::FileTooLarge => std::io::Error::other(format!("{error}; split the file")),
        _ => error,
    })
}

/// Reads what is to be as a policy file, to its end.
///
/// # Errors
/// When it cannot be read, is not UTF-8, or is larger than [`MAX_FILE_LEN`].
pub fn read_from(from: impl std::io::Read) -> std::io::Result<String> {
    up_to(from, MAX_FILE_LEN)
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// When it cannot be read, is not UTF-8, is no regular file, or is larger.
pub fn read_up_to(path: &Path, limit: u64) -> std::io::Result<String> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    up_to(std::fs::File::open(path)?, limit)
}

fn up_to(from: impl std::io::Read, limit: u64) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(limit.saturating_add(1)).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|len| len > limit) {
        let message = format!("larger than {limit} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
