//! The last known set on disk, so that a node that boots without its API server enforces at once.
//!
//! One file, `policies.json`, in a directory that root alone may enter: a first line that says what it is, which version
//! of this format, how long the rest is and its SHA-256; then the objects. It is written to another name, synced and
//! renamed, so that there is always one whole file. The checksum is against damage, not against forgery: whoever may
//! write here is root on the node.
//!
//! A daemon reads the format of its own version and the one before, so that after an upgrade a node without its API server
//! enforces at once, too. A file that is damaged, or of another version, is renamed to `policies.json.refused` and never read;
//! the daemon starts without it, and says so. So it is after a downgrade.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::object::{Key, Object, Resource, Says};

/// What the first line says it is.
const FORMAT: &str = "nri-enforcer last known policies";
/// The version of the format. What objects say is as the API server has it, in any version; since 2 they tell when they were
/// made.
const VERSION: u32 = 2;
/// The earliest version that is read.
const EARLIEST: u32 = 1;
/// The longest file, in bytes: what the most objects come to, written as JSON text in JSON, with old versions.
pub const MAX_FILE: u64 = 224 << 20;
/// The longest first line, in bytes.
const MAX_HEAD: usize = 1024;
/// The file, and the name under which one is kept that cannot be used.
const FILE: &str = "policies.json";
const REFUSED: &str = "policies.json.refused";

/// Why the last known set cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The system says no.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The directory is not ours alone.
    #[error("`{}` {reason}; it must be a directory of the user that runs the daemon, and no link", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The file is not one that this daemon wrote.
    #[error("the last known policies in `{}` cannot be used: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is too much to write.
    #[error("the last known policies take {bytes} bytes, more than {most}")]
    TooLong {
        /// How much there is.
        bytes: usize,
        /// How much there may be.
        most: u64,
    },
}

impl SavedError {
    /// What becomes of it at the start.
    pub(super) const fn help(&self) -> &'static str {
        match self {
            Self::Unusable { .. } => {
                "the API's policies are in force once the API server answers; the file is kept beside for a look"
            }
            _ => "the API's policies are in force once the API server answers",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    version: u32,
    bytes: u64,
    sha256: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    /// Seconds since 1970.
    saved: u64,
    /// The kinds of which everything was known.
    read: Vec<String>,
    /// The kinds of which more objects were left out than were kept in mind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more: Vec<String>,
    objects: Vec<SavedObject>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedObject {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    created: String,
    /// None: it was left out for want of room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The bytes that it wants then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wants: Option<usize>,
}

/// A set as it was saved.
#[derive(Debug, PartialEq, Eq)]
pub struct Saved {
    /// When.
    pub when: SystemTime,
    /// The resources of which everything was known. Of others there may be objects, and more than those.
    pub read: BTreeSet<Resource>,
    /// The resources of which more objects were left out than were kept in mind.
    pub more: BTreeSet<Resource>,
    /// Versions of objects, each after the one that it replaces; what was left out has no text.
    pub objects: Vec<Object>,
}

/// The directory with the last known set.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    most: u64, // bytes of a file
}

impl Directory {
    /// Makes the directory where there is none, and takes it away from everybody else.
    ///
    /// # Errors
    /// When that cannot be done, or the directory is not ours.
    pub fn open(path: &Path) -> Result<Self, SavedError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(io("make the directory", path))?;
        let wrong = |reason| SavedError::Directory { path: path.to_path_buf(), reason };
        let meta = std::fs::symlink_metadata(path).map_err(io("examine", path))?;
        if !meta.is_dir() {
            return Err(wrong("is no directory"));
        }
        if meta.uid() != nix::unistd::geteuid().as_raw() {
            return Err(wrong("is another user's"));
        }
        if meta.mode() & 0o7777 != 0o700 {
            std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io("close", path))?;
        }
        Ok(Self { path: path.to_path_buf(), most: MAX_FILE })
    }

    /// The last known set; `None`: there is none. A file that cannot be used is put aside; one that cannot be read now stays,
    /// as it may be read the next time.
    ///
    /// # Errors
    /// When the file cannot be read, or not be used.
    pub fn load(&self) -> Result<Option<Saved>, SavedError> {
        let path = self.path.join(FILE);
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(&path);
        let file = match open {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io("open", &path))?,
        };
        match read(&file, self.most).map_err(io("read", &path))? {
            Ok(saved) => Ok(Some(saved)),
            Err(reason) => {
                std::fs::rename(&path, self.path.join(REFUSED)).map_err(io("put aside", &path))?;
                Err(SavedError::Unusable { path, reason })
            }
        }
    }

    /// Saves a set in the place of the one before.
    ///
    /// # Errors
    /// When it cannot be written; the one before is still there.
    pub fn save(&self, set: Saved) -> Result<(), SavedError> {
        let bytes = write(set);
        if u64::try_from(bytes.len()).map_or(true, |length| length > self.most) {
            return Err(SavedError::TooLong { bytes: bytes.len(), most: self.most });
        }
        let (path, new) = (self.path.join(FILE), self.path.join(".policies.json.new"));
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io("remove", &new)(error)),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        let mut file = file.map_err(io("make", &new))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io("write", &new))?;
        std::fs::rename(&new, &path).map_err(io("replace", &path))?;
        File::open(&self.path).and_then(|directory| directory.sync_all()).map_err(io("sync", &self.path))
    }
}

fn io<'a>(action: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> SavedError + 'a {
    move |source| SavedError::Io { action, path: path.to_path_buf(), source }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write(Saved { when, read, more, objects }: Saved) -> Vec<u8> {
    let saved = when.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let objects = objects.into_iter().filter_map(|Object { key, uid, says, created, generation: _ }| {
        let Key { resource, namespace, name } = key;
        let (text, wants) = match says {
            Says::Text(text) => (Some(text), None),
            Says::NoRoom(bytes) => (None, Some(bytes)),
            Says::Nothing | Says::Wrong(_) => return None,
        };
        Some(SavedObject { kind: resource.kind().to_owned(), namespace, name, uid, created, text, wants })
    });
    let kinds =
        |all: BTreeSet<Resource>| all.into_iter().map(|resource| resource.kind().to_owned()).collect();
    let body = Body { saved, read: kinds(read), more: kinds(more), objects: objects.collect() };
    // neither can fail: these are strings and numbers
    let body = serde_json::to_vec(&body).unwrap_or_default();
    let bytes = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let head = Head { format: FORMAT.to_owned(), version: VERSION, bytes, sha256: digest(&body) };
    let mut text = serde_json::to_vec(&head).unwrap_or_default();
    text.push(b'\n');
    text.extend_from_slice(&body);
    text
}

/// What the file says, or what is wrong with it.
fn read(file: &File, most: u64) -> std::io::Result<Result<Saved, String>> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(Err("it is no regular file".to_owned()));
    }
    if meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return Ok(Err("others may have written it".to_owned()));
    }
    let mut bytes = Vec::new();
    let length = file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(length).map_or(true, |length| length > most) {
        return Ok(Err(format!("it is longer than {most} bytes")));
    }
    Ok(parse(&bytes))
}

/// What a file says. Of any bytes.
fn parse(bytes: &[u8]) -> Result<Saved, String> {
    let end = bytes.iter().take(MAX_HEAD).position(|byte| *byte == b'\n');
    let (head, body) = end.and_then(|end| bytes.split_at_checked(end)).ok_or("it has no first line")?;
    let body = body.get(1..).unwrap_or_default();
    // the version first: another one may have other fields
    let head: serde_json::Value =
        serde_json::from_slice(head).map_err(|error| format!("its first line is damaged: {error}"))?;
    if head.get("format").and_then(serde_json::Value::as_str) != Some(FORMAT) {
        return Err("it is another sort of file".to_owned());
    }
    match head.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if (u64::from(EARLIEST)..=u64::from(VERSION)).contains(&version) => {}
        Some(version) => {
            return Err(format!(
                "it has version {version} of the format, and this daemon reads {EARLIEST} to {VERSION}"
            ));
        }
        None => return Err("it tells no version".to_owned()),
    }
    let head: Head =
        serde_json::from_value(head).map_err(|error| format!("its first line is damaged: {error}"))?;
    if u64::try_from(body.len()).ok() != Some(head.bytes) {
        return Err(format!("it has {} bytes of {}", body.len(), head.bytes));
    }
    if digest(body) != head.sha256 {
        return Err("its checksum is wrong".to_owned());
    }
    let body: Body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let resource = |kind: &str| Resource::by_kind(kind).ok_or_else(|| format!("it has a `{kind}`"));
    let when = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(body.saved));
    let objects = body.objects.into_iter().map(|one| {
        let SavedObject { kind, namespace, name, uid, created, text, wants } = one;
        let key = Key { resource: resource(&kind)?, namespace, name };
        let says = match (text, wants) {
            (Some(text), None) => Says::Text(text),
            (None, Some(bytes)) => Says::NoRoom(bytes),
            _ => return Err(format!("it has neither a text nor a length of {key}, or both")),
        };
        Ok(Object { key, uid, generation: 0, created, says })
    });
    let kinds =
        |all: &[String]| all.iter().map(|kind| resource(kind)).collect::<Result<BTreeSet<_>, String>>();
    let (read, more) = (kinds(&body.read)?, kinds(&body.more)?);
    Ok(Saved {
        when: when.ok_or("its time is none")?,
        read,
        more,
        objects: objects.collect::<Result<Vec<_>, String>>()?,
    })
}

#[cfg(test)]
mod tests;
