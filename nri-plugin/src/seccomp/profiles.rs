//! The profiles that kubelet finds: files below the directory that `localhostProfile` of a pod is relative to.
//!
//! A file is named after the policies that it is made of, `nri-enforcer/NAMESPACE.POLICY.json`, or
//! `nri-enforcer/NAMESPACE.POLICY+POLICY.json` where several select a container, so that a pod can name it and the name
//! stays the same when the policies change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use enforcer_core::policy::{Scope, SeccompPolicy};
use enforcer_core::seccomp::oci::LinuxSeccomp;
use enforcer_core::subject::Subject;
use sha2::{Digest, Sha256};

use crate::set::PolicySet;

/// The directory of ours below kubelet's.
pub const SUBDIRECTORY: &str = "nri-enforcer";
/// Where kubelet keeps its state: kubeadm, k3s since 0.10 and most others; k3s before; k0s; microk8s.
const KUBELET_ROOTS: [&str; 4] = [
    "var/lib/kubelet",
    "var/lib/rancher/k3s/agent/kubelet",
    "var/lib/k0s/kubelet",
    "var/snap/microk8s/common/var/lib/kubelet",
];
/// The longest name of a file, in bytes, on every file system that matters, less what a temporary name adds.
const MAX_NAME: usize = 240;

/// Policies that together select a container; never empty.
pub type Together = Vec<Arc<SeccompPolicy>>;

/// Names of files (`localhostProfile`) by the digest of what they contain.
pub type Contents = BTreeMap<String, BTreeSet<String>>;

/// What a profile is told by, however it is written: SHA-256.
#[must_use]
pub fn digest(profile: &LinuxSeccomp) -> String {
    let text = serde_json::to_string(profile).unwrap_or_default(); // it has no maps: nothing of it can fail
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name by which a pod asks for the profile of these policies (`localhostProfile`).
#[must_use]
pub fn localhost_profile(policies: &[Arc<SeccompPolicy>]) -> String {
    format!("{SUBDIRECTORY}/{}", file_name(policies))
}

fn file_name(policies: &[Arc<SeccompPolicy>]) -> String {
    let names: BTreeSet<&str> = policies.iter().map(|policy| policy.id().name.as_str()).collect();
    let namespace = policies.first().map_or("", |policy| policy.id().namespace.as_str());
    let names: Vec<&str> = names.into_iter().collect();
    let name = format!("{namespace}.{}.json", names.join("+"));
    if name.len() <= MAX_NAME {
        return name;
    }
    let digest: String = Sha256::digest(&name).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{namespace}.{digest}.json")
}

/// The policies that select a container.
#[must_use]
pub fn selecting(set: &PolicySet, subject: &Subject) -> Together {
    set.seccomp().iter().filter(|policy| policy.selects(subject)).map(Arc::clone).collect()
}

/// The profiles that pods may name, by file name: for each policy, of it and of those that select all that it selects
/// by label; and of those that a file was made for already, while their policies are there.
fn wanted(set: &PolicySet, files: &BTreeSet<String>) -> BTreeMap<String, Together> {
    let mut wanted = BTreeMap::new();
    for policy in set.seccomp().iter().filter(|policy| policy.services().is_empty()) {
        let Scope::Namespace(namespace) = policy.selector().scope() else { continue };
        let labels = policy.selector().labels().clone();
        let subject = Subject { namespace: namespace.clone(), labels, ..Subject::default() };
        let mut together = selecting(set, &subject);
        if !together.iter().any(|one| Arc::ptr_eq(one, policy)) {
            together.push(Arc::clone(policy)); // it also wants something that is no label
        }
        wanted.insert(file_name(&together), together);
    }
    let by_name: BTreeMap<(&str, &str), &Arc<SeccompPolicy>> = set
        .seccomp()
        .iter()
        .map(|policy| ((policy.id().namespace.as_str(), policy.id().name.as_str()), policy))
        .collect();
    for file in files {
        let Some((namespace, names)) = file.strip_suffix(".json").and_then(|name| name.split_once('.'))
        else {
            continue;
        };
        let policies =
            names.split('+').map(|name| by_name.get(&(namespace, name)).map(|one| Arc::clone(one)));
        if let Some(together) = policies.collect::<Option<Together>>() {
            wanted.entry(file.clone()).or_insert(together);
        }
    }
    wanted
}

/// The directories of profiles, one for each kubelet of this node. Usually one; none where there is no kubelet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profiles {
    dirs: Vec<PathBuf>,
}

impl Profiles {
    /// These directories, each of which is what kubelet calls its seccomp profile root.
    #[must_use]
    pub fn new(dirs: Vec<PathBuf>) -> Self {
        Self { dirs }
    }

    /// Those of the kubelets whose state is below `root` (`/`, but for tests).
    #[must_use]
    pub fn detect(root: &Path) -> Self {
        let roots = KUBELET_ROOTS.iter().map(|path| root.join(path)).filter(|path| path.is_dir());
        Self { dirs: roots.map(|path| path.join("seccomp")).collect() }
    }

    /// The directories.
    #[must_use]
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Which files have which profile, by its [`digest`]. One that cannot be read has none that a container could have.
    #[must_use]
    pub fn contents(&self) -> Contents {
        let mut contents = Contents::new();
        for dir in self.dirs.iter().map(|dir| dir.join(SUBDIRECTORY)) {
            for name in files(&dir).unwrap_or_default() {
                let text = fs::read(dir.join(&name)).unwrap_or_default();
                let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(&text) else { continue };
                contents.entry(digest(&profile)).or_default().insert(format!("{SUBDIRECTORY}/{name}"));
            }
        }
        contents
    }

    /// Makes the files what the policies say: all of them, or where nothing `changed` those that are missing. `json` makes
    /// a profile's text; `in_use` are the files that running containers were started with: those stay when their
    /// policies are gone. `None` where that is not known yet: then all stay.
    ///
    /// # Errors
    /// The first that there was; what can be done is done all the same.
    pub fn refresh(
        &self,
        set: &PolicySet,
        changed: bool,
        in_use: Option<&BTreeSet<String>>,
        json: impl Fn(&Together) -> String,
    ) -> io::Result<()> {
        let mut result = Ok(());
        let mut note = |outcome: io::Result<()>| {
            if result.is_ok() {
                result = outcome;
            }
        };
        for dir in &self.dirs {
            let files = match files(&dir.join(SUBDIRECTORY)) {
                Ok(files) => files,
                Err(error) => {
                    note(Err(error));
                    continue;
                }
            };
            let wanted = wanted(set, &files);
            for (name, together) in wanted.iter().filter(|(name, _)| changed || !files.contains(*name)) {
                note(put(&dir.join(SUBDIRECTORY), name, &json(together)));
            }
            let Some(in_use) = in_use else { continue };
            for name in files.iter().filter(|name| !wanted.contains_key(*name)) {
                if !in_use.contains(&format!("{SUBDIRECTORY}/{name}")) {
                    note(fs::remove_file(dir.join(SUBDIRECTORY).join(name)));
                    tracing::info!(profile = name, "removed: its policies are gone, and no container has it");
                }
            }
        }
        result
    }

    /// Writes the profile of these policies, which a pod may name from now on.
    ///
    /// # Errors
    /// Those of the system.
    pub fn put(&self, policies: &Together, json: &str) -> io::Result<()> {
        self.dirs.iter().try_for_each(|dir| put(&dir.join(SUBDIRECTORY), &file_name(policies), json))
    }
}

/// The profiles in a directory of ours; none where it is not there yet.
fn files(dir: &Path) -> io::Result<BTreeSet<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
    let names: BTreeSet<String> = names.collect::<io::Result<_>>()?;
    Ok(names.into_iter().filter(|name| name.ends_with(".json") && !name.starts_with('.')).collect())
}

/// Writes a file that every reader sees whole; one that is there already with this text is left alone.
pub(super) fn put(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let path = dir.join(name);
    if fs::read(&path).is_ok_and(|is| is == text.as_bytes()) {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    let temporary = dir.join(format!(".{name}.new"));
    let mut file = fs::File::create(&temporary)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?; // whatever the umask
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, &path)
}

#[cfg(test)]
mod tests;
