//! podman's containers: who they are, by podman's own files, which are only read.
//!
//! | what | where, below podman's storage directory |
//! |---|---|
//! | name, image | `overlay-containers/containers.json` of containers/storage; `volatile-containers.json` beside it or below the run root, for `--rm` in newer releases |
//! | labels, pod | podman's own state: `libpod/bolt_state.db` ([`bolt`]), or `db.sql` ([`sqlite`]) |
//!
//! Both are written before podman runs the first hook of a container. podman has one state: unless `database_backend` of
//! `containers.conf` says otherwise, `bolt_state.db` where that is there, else `db.sql`. Ids are random and what is read of a
//! container never changes, so whichever file has its id is right; where both have it, they must agree.

pub mod bolt;
pub mod sqlite;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use enforcer_core::enforce::ContainerId;
use enforcer_core::seccomp::oci::LinuxSeccomp;
use enforcer_core::subject::Subject;
use nri_enforcer_hook::spec::MAX_SPEC_BYTES;
use nri_enforcer_hook::state::PODMAN_NAMESPACE;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use self::bolt::Bolt;
use self::sqlite::Sqlite;
use crate::container::{Container, Wish};
use crate::exit::chain;
use crate::store::read_up_to;

/// Where root's podman keeps everything, unless its configuration says otherwise.
pub const DEFAULT_STORAGE: &str = "/var/lib/containers/storage";
/// Where it keeps what does not outlive a boot.
const RUN_ROOT: &str = "/run/containers/storage";
/// The label with the image's repository, `/` and `:` written as `_`.
pub const IMAGE_LABEL: &str = "nri-enforcer.io/image";
/// The label with the image's tag.
pub const TAG_LABEL: &str = "nri-enforcer.io/image-tag";
/// podman's state, below its storage directory, in the one format and the other.
const BOLT: &str = "libpod/bolt_state.db";
const SQLITE: &str = "db.sql";
/// Bytes of `containers.json` at most; some 400 a container.
const MAX_LIST: u64 = 64 << 20;

/// Why it is not known who a container is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodmanError {
    /// A file cannot be read.
    #[error("podman's `{}` cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file makes no sense.
    #[error("podman's `{}` makes no sense: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// podman's state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is none.
    #[error("podman's `{}` has neither `{BOLT}` nor `{SQLITE}`: is --podman-storage the `graphroot` of its storage.conf?", .0.display())]
    Stateless(PathBuf),
    /// Two files say different things of a container.
    #[error(
        "podman's `{BOLT}` and `{SQLITE}` differ about it; remove the one that `podman info` does not name as `databaseBackend`"
    )]
    Ambiguous,
    /// There is no such container.
    #[error("podman's `{}` has no container of this id: is --podman-storage the `graphroot` of its storage.conf?", .0.display())]
    Absent(PathBuf),
}

/// Why podman's state is not known.
#[derive(Debug, thiserror::Error)]
#[error("podman's state `{}` cannot be read: {why}", path.display())]
pub struct StateError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub why: String,
}

/// What podman's state tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A container.
    Container,
    /// A pod.
    Pod,
    /// What has become of a container since it was made.
    Run,
}

/// podman's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Podman {
    storage: PathBuf,
    /// Where it keeps what does not outlive a boot; the first that has something counts.
    runs: Vec<PathBuf>,
}

/// One of `containers.json`.
#[derive(Debug, Deserialize)]
struct Record {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    metadata: String,
}

/// What podman writes into `metadata`, as JSON in JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Metadata {
    image_name: String,
    name: String,
    pod_id: Option<String>,
}

/// What podman's state says of a container, or a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    name: String,
    labels: Option<BTreeMap<String, String>>,
    pod: String,
    /// Whether it only holds the namespaces of its pod. No image can say so: podman makes it with the pod.
    #[serde(rename = "pause")]
    infra: bool,
}

/// What has become of a container, as far as it is looked at. podman notes it a moment after it has started it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Run {
    state: i64,
    /// Its first process; 0: none. It may be over since, and its number another process's.
    pub pid: i32,
}

impl Run {
    /// Whether podman has noted that the workload runs.
    #[must_use]
    pub fn has_begun(self) -> bool {
        BEGUN.contains(&self.state)
    }
}

/// podman's state, open for what it says of runs.
#[derive(Debug)]
pub struct Runs {
    bolt: Option<(PathBuf, Bolt)>,
    sqlite: Option<(PathBuf, Sqlite)>,
}

impl Runs {
    /// What it says of a container; nothing of one that it does not have.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(&self, id: &ContainerId) -> Result<Run, PodmanError> {
        let run = |path: &Path, json: Option<Vec<u8>>| -> Result<Run, PodmanError> {
            Ok(json.map(|json| parsed(path, &json)).transpose()?.unwrap_or_default())
        };
        if let Some((path, bolt)) = &self.bolt {
            let run = run(path, bolt.get(&["ctr", id.as_str()], "state")?)?;
            if run.has_begun() {
                return Ok(run);
            }
        }
        match &self.sqlite {
            Some((path, sqlite)) => run(path, sqlite.get(Kind::Run, id.as_str())?),
            None => Ok(Run::default()),
        }
    }
}

/// A container's configuration, as far as it is looked at.
#[derive(Debug, Default, Deserialize)]
pub struct Spec {
    annotations: Option<BTreeMap<String, String>>,
    linux: Option<Linux>,
}

#[derive(Debug, Deserialize)]
struct Linux {
    seccomp: Option<LinuxSeccomp>,
}

impl Spec {
    /// Its annotations, and the seccomp profile that it has.
    #[must_use]
    pub fn into_parts(self) -> (BTreeMap<String, String>, Option<LinuxSeccomp>) {
        (self.annotations.unwrap_or_default(), self.linux.and_then(|linux| linux.seccomp))
    }
}

/// Of podman's states of a container those in which its workload has begun, by `libpod/define/containerstate.go`: running,
/// paused, stopping. A container that is not started yet is 2, made by the runtime; one that was, and is started again, is
/// noted as over (6) while the runtime makes it.
const BEGUN: [i64; 3] = [3, 5, 8];

/// A container that may run.
#[derive(Debug)]
pub struct Living {
    /// Who it is.
    pub container: Container,
    /// Its first process, see [`Podman::pid`] and [`Run::pid`]; 0: not noted.
    pub pid: i32,
    /// Whether podman has noted that its workload runs. It does so a moment after it has started it.
    pub started: bool,
}

impl Podman {
    /// With its files in `storage`, the `graphroot` of `storage.conf`.
    #[must_use]
    pub fn new(storage: PathBuf) -> Self {
        let runs = configured(Path::new("/"), "runroot").into_iter().chain([RUN_ROOT.into()]).collect();
        Self { storage, runs }
    }

    /// The same with what does not outlive a boot below `dir`.
    #[cfg(test)]
    pub(crate) fn running_in(self, dir: &Path) -> Self {
        Self { runs: vec![dir.to_owned()], ..self }
    }

    /// With its files where `storage.conf` says.
    #[must_use]
    pub fn detect() -> Self {
        Self::new(configured(Path::new("/"), "graphroot").unwrap_or_else(|| DEFAULT_STORAGE.into()))
    }

    /// Who a container is; `None`: one that only holds the namespaces of its pod. Reads files, of up to some 300 MiB in
    /// all: one at a time is enough.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn container(&self, id: &ContainerId) -> Result<Option<Container>, PodmanError> {
        let Record { names, metadata, .. } = self.record(&id.to_string())?;
        let metadata: Metadata = serde_json::from_str(&metadata).unwrap_or_default(); // another maker's
        let state = self.state(&id.to_string())?;
        if state.infra {
            return Ok(None);
        }
        let name = names.into_iter().next().unwrap_or(metadata.name);
        let mut labels = state.labels;
        let pod = match state.pod {
            None => name.clone(),
            // the pod's labels win: those of a container are its image's, too
            Some((pod, of_pod)) => {
                labels.extend(of_pod);
                pod
            }
        };
        name_image(&mut labels, &metadata.image_name);
        let namespace = PODMAN_NAMESPACE.to_owned();
        let subject = Subject { namespace, pod, labels, container: name, ..Subject::default() };
        Ok(Some(Container {
            id: id.clone(),
            subject,
            pod_uid: String::new(),
            image: metadata.image_name,
            wish: Wish::None,
        }))
    }

    /// The first process of a container, as `conmon` noted it when it made it; `None`: not noted, or elsewhere (`--pidfile`).
    /// The container may be over since, and its number another process's.
    #[must_use]
    pub fn pid(&self, id: &ContainerId) -> Option<i32> {
        let place = Path::new(id.as_str()).join("userdata/pidfile");
        let mut files = self.runs.iter().flat_map(|root| drivers(root)).map(|dir| dir.join(&place));
        files.find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok()).filter(|pid| *pid > 0)
    }

    /// The configuration that podman gave the runtime, as hooks have left it; nothing where it cannot be read.
    #[must_use]
    pub fn spec(&self, id: &ContainerId) -> Spec {
        let place = Path::new(id.as_str()).join("userdata/config.json");
        let mut files = drivers(&self.storage).into_iter().map(|dir| dir.join(&place));
        let read = |path: PathBuf| serde_json::from_str(&read_up_to(&path, MAX_SPEC_BYTES as u64).ok()?).ok();
        files.find_map(read).unwrap_or_default()
    }

    /// The containers that there are, running or not. None where there is no podman, and none of CRI-O's, which keeps its own
    /// in the same lists, each with the id of its pod (its `internal/storage/runtime.go`).
    ///
    /// # Errors
    /// When podman's list of them cannot be read.
    pub fn ids(&self) -> Result<BTreeSet<ContainerId>, PodmanError> {
        let mut ids = BTreeSet::new();
        for path in self.lists() {
            // what is no id is no container that could be armed
            let podmans = records(&path)?.into_iter().filter(|record| {
                let about = serde_json::from_str::<Metadata>(&record.metadata).unwrap_or_default();
                about.pod_id.is_none()
            });
            ids.extend(podmans.filter_map(|record| ContainerId::new(record.id).ok()));
        }
        Ok(ids)
    }

    /// Where containers/storage may have its list of containers.
    fn lists(&self) -> impl Iterator<Item = PathBuf> {
        let dirs = [&self.storage].into_iter().chain(&self.runs).collect::<BTreeSet<_>>().into_iter();
        let files = |dir: PathBuf| ["containers.json", "volatile-containers.json"].map(|file| dir.join(file));
        dirs.flat_map(|dir| drivers(dir)).flat_map(files)
    }

    /// What podman knows of an armed container; `None`: it is none of podman's, or, with a word in the log, cannot be
    /// identified.
    #[must_use]
    pub fn living(&self, id: &ContainerId) -> Option<Living> {
        let container = match self.container(id) {
            Ok(container) => container?,
            Err(PodmanError::Absent(_) | PodmanError::Stateless(_)) => return None,
            Err(error) => {
                tracing::warn!(container = %id, error = chain(&error), "armed, and podman's files do not tell who it is");
                return None;
            }
        };
        let run = self.runs().and_then(|runs| runs.of(id)).unwrap_or_else(|error| {
            tracing::warn!(container = %id, error = chain(&error), "whether it was started is not known; it is taken for one that was not");
            Run::default()
        });
        Some(Living { container, pid: self.pid(id).unwrap_or(run.pid), started: run.has_begun() })
    }

    /// When its state was changed last, and how long it is: another answer than the last time says that it has changed.
    #[must_use]
    pub fn changed(&self) -> [Option<(SystemTime, u64)>; 2] {
        [BOLT, SQLITE].map(|name| {
            let about = fs::metadata(self.storage.join(name)).ok()?;
            Some((about.modified().ok()?, about.len()))
        })
    }

    /// What podman's state says of runs.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn runs(&self) -> Result<Runs, PodmanError> {
        let [bolt, sqlite] =
            [BOLT, SQLITE].map(|name| Some(self.storage.join(name)).filter(|path| there(path)));
        let bolt = bolt.map(|path| Ok::<_, StateError>((path.clone(), Bolt::read(&path)?))).transpose()?;
        let sqlite =
            sqlite.map(|path| Ok::<_, StateError>((path.clone(), Sqlite::open(&path)?))).transpose()?;
        Ok(Runs { bolt, sqlite })
    }

    /// What containers/storage says of a container.
    fn record(&self, id: &str) -> Result<Record, PodmanError> {
        for path in self.lists() {
            if let Some(record) = records(&path)?.into_iter().find(|record| record.id == id) {
                return Ok(record);
            }
        }
        Err(PodmanError::Absent(self.storage.clone()))
    }

    /// What podman's own state says of it.
    fn state(&self, id: &str) -> Result<Identity, PodmanError> {
        let (bolt, sqlite) = (self.storage.join(BOLT), self.storage.join(SQLITE));
        let mut found = None;
        if there(&bolt) {
            let file = Bolt::read(&bolt)?;
            let get = |kind, id: &str| match kind {
                Kind::Container => file.get(&["ctr", id], "config"),
                Kind::Pod => file.get(&["pod", id], "config"),
                Kind::Run => file.get(&["ctr", id], "state"),
            };
            found = identity(&bolt, id, get)?;
        } else if !there(&sqlite) {
            return Err(PodmanError::Stateless(self.storage.clone()));
        }
        if there(&sqlite) {
            let file = Sqlite::open(&sqlite)?;
            let other = identity(&sqlite, id, |kind, id| file.get(kind, id))?;
            if found.is_some() && other.is_some() && found != other {
                return Err(PodmanError::Ambiguous);
            }
            found = found.or(other);
        }
        found.ok_or_else(|| PodmanError::Absent(self.storage.clone()))
    }
}

/// What a list of containers/storage holds; nothing where there is none.
fn records(path: &Path) -> Result<Vec<Record>, PodmanError> {
    let text = match read_up_to(path, MAX_LIST) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|source| PodmanError::Read { path: path.to_owned(), source })?,
    };
    serde_json::from_str(&text)
        .map_err(|error| PodmanError::Format { path: path.to_owned(), why: error.to_string() })
}

/// Whether there is a file; one that cannot be examined is there, and reading it fails.
fn there(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// What a file of the state says of a container; `None`: it has none of this id.
fn identity(
    path: &Path,
    id: &str,
    get: impl Fn(Kind, &str) -> Result<Option<Vec<u8>>, StateError>,
) -> Result<Option<Identity>, PodmanError> {
    let read = |kind, id: &str| -> Result<Option<State>, PodmanError> {
        get(kind, id)?.map(|json| parsed(path, &json)).transpose()
    };
    let Some(State { labels, pod, infra, .. }) = read(Kind::Container, id)? else { return Ok(None) };
    let pod = match pod.as_str() {
        "" => None,
        pod => {
            let absent =
                || PodmanError::Format { path: path.to_owned(), why: format!("it has no pod `{pod}`") };
            let State { name, labels, .. } = read(Kind::Pod, pod)?.ok_or_else(absent)?;
            Some((name, labels.unwrap_or_default()))
        }
    };
    Ok(Some(Identity { labels: labels.unwrap_or_default(), pod, infra }))
}

/// What a file of the state says, which is JSON.
fn parsed<T: DeserializeOwned>(path: &Path, json: &[u8]) -> Result<T, PodmanError> {
    let format =
        |error: serde_json::Error| PodmanError::Format { path: path.to_owned(), why: error.to_string() };
    serde_json::from_slice(json).map_err(format)
}

/// What podman's state tells of a container.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    labels: BTreeMap<String, String>,
    /// Name and labels.
    pod: Option<(String, BTreeMap<String, String>)>,
    infra: bool,
}

/// What `storage.conf` says of a directory, on a host with this root: `graphroot`, or `runroot`; `None`: nothing.
fn configured(root: &Path, key: &str) -> Option<PathBuf> {
    ["etc/containers/storage.conf", "usr/share/containers/storage.conf"].iter().find_map(|path| {
        let data: serde_json::Value =
            toml_edit::de::from_str(&fs::read_to_string(root.join(path)).ok()?).ok()?;
        Some(PathBuf::from(data.pointer("/storage")?.get(key)?.as_str()?))
    })
}

/// Where root's podman may keep the configurations of its containers, on a host with this root.
pub(crate) fn storages(root: &Path) -> BTreeSet<PathBuf> {
    let configured = ["graphroot", "runroot"].into_iter().filter_map(|key| configured(root, key));
    configured.chain([DEFAULT_STORAGE.into(), RUN_ROOT.into()]).collect()
}

/// The directories of storage drivers: `overlay-containers`, `vfs-containers`.
fn drivers(storage: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(storage).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().ends_with("-containers")).collect()
}

/// Writes an image's name into the labels of its container, and nothing else may stand there: an image brings labels of its
/// own, and so could pass for another one. A label's value has no `/` and no `:`, and 63 bytes at most. One that would be
/// longer is left out, since what is cut could be another image's.
pub(crate) fn name_image(labels: &mut BTreeMap<String, String>, image: &str) {
    labels.retain(|key, _| key != IMAGE_LABEL && key != TAG_LABEL);
    let image = image.split('@').next().unwrap_or_default();
    let (repository, tag) = match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, ""),
    };
    for (key, value) in [(IMAGE_LABEL, repository.replace(['/', ':'], "_")), (TAG_LABEL, tag.to_owned())] {
        if !value.is_empty() && value.len() <= 63 {
            labels.insert(key.to_owned(), value);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
