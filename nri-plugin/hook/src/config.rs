//! The hook's configuration: a JSON file beside the program.
//!
//! A file that cannot be read or makes no sense does not stop the hook: then the defaults count, which hold the gate
//! shut, and the problem is told. Only the exempt namespaces still count: as the file has them where only root can have
//! written it, else as the list beside it has them that `install` keeps. So a typing error locks no node out, and opens none.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::json::Object;
use crate::users;

/// Name of the file, in the directory of the program.
pub const FILE: &str = "nri-enforcer-hook.json";
/// Name of the file with the last good list of exempt namespaces, in the same directory: a configuration with that key alone.
pub const EXEMPT_FILE: &str = "nri-enforcer-hook-exempt.json";
const EXEMPT_KEY: &str = "exemptNamespaces";
/// The daemon's socket, unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/nri-enforcer/gate.sock";
/// Where open starts are recorded, unless told otherwise.
pub const DEFAULT_SPOOL: &str = "/var/lib/nri-enforcer/open-starts";
/// The namespace that is exempt, unless told otherwise: nothing may lock a node out.
pub const DEFAULT_EXEMPT: &str = "kube-system";
/// How long the daemon may take, unless told otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(1);
/// Bounds of the deadline, in milliseconds. The daemon asks runtimes to end the hook after ten seconds.
const DEADLINE_MILLIS: std::ops::RangeInclusive<u64> = 50..=5_000;
/// Bytes of a configuration at most.
const MAX_BYTES: u64 = 64 << 10;

/// What becomes of a container that the daemon does not vouch for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// It does not start.
    #[default]
    Closed,
    /// It starts, and that is recorded.
    Open,
}

/// What the hook works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// For everything from the start of the program to the daemon's answer.
    pub deadline: Duration,
    /// What becomes of a container that the daemon does not vouch for.
    pub mode: Mode,
    /// Namespaces whose containers always start; the daemon is not asked.
    pub exempt: BTreeSet<String>,
    /// The directory in which open starts are recorded.
    pub spool: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            deadline: DEFAULT_DEADLINE,
            mode: Mode::default(),
            exempt: BTreeSet::from([DEFAULT_EXEMPT.to_owned()]),
            spool: DEFAULT_SPOOL.into(),
        }
    }
}

impl Config {
    /// Reads a file; defaults where it is absent, and where it is bad: then with what is wrong, and with the exempt
    /// namespaces of [`EXEMPT_FILE`] beside it where the file itself does not tell them. A file that is absent beside such a
    /// list was lost, which is the same.
    #[must_use]
    pub fn load(path: &Path) -> (Self, Option<String>) {
        let bytes = read(path);
        let list = path.with_file_name(EXEMPT_FILE);
        let problem = match &bytes {
            Ok(Some(bytes)) => match Self::parse(bytes) {
                Ok(config) => return (config, None),
                Err(problem) => problem,
            },
            Ok(None) if !list.exists() => return (Self::default(), None),
            Ok(None) => "it is gone".to_owned(),
            Err(problem) => problem.clone(),
        };
        let told = bytes.ok().flatten().and_then(|bytes| exempt_in(&bytes)).map(|exempt| (exempt, path));
        let kept =
            || read(&list).ok().flatten().and_then(|bytes| exempt_in(&bytes)).map(|exempt| (exempt, &*list));
        let (exempt, of) = match told.or_else(kept) {
            Some((exempt, of)) => (exempt, format!("those of `{}`", of.display())),
            None => (Self::default().exempt, format!("`{DEFAULT_EXEMPT}` alone")),
        };
        let problem = format!(
            "bad configuration `{}`: {problem}; the defaults count until that is repaired; exempt namespaces are {of}",
            path.display()
        );
        (Self { exempt, ..Self::default() }, Some(problem))
    }

    /// The text of [`EXEMPT_FILE`].
    #[must_use]
    pub fn exempt_text(exempt: &BTreeSet<String>) -> String {
        format!("{:#}\n", serde_json::json!({ EXEMPT_KEY: exempt }))
    }

    /// Reads a configuration. A key that is not known is an error: a misspelt one must not be a silent default.
    ///
    /// # Errors
    /// When it is none; the text says why.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut object = Object::parse(bytes)?;
        let mut config = Self::default();
        let path = |key: &str, text: String| match text.starts_with('/') {
            true => Ok(PathBuf::from(text)),
            false => Err(format!("`{key}` is no absolute path")),
        };
        if let Some(socket) = object.text("socket")? {
            config.socket = path("socket", socket)?;
        }
        if let Some(spool) = object.text("spool")? {
            config.spool = path("spool", spool)?;
        }
        if let Some(millis) = object.number("deadlineMillis")? {
            if !DEADLINE_MILLIS.contains(&millis) {
                let (least, most) = (DEADLINE_MILLIS.start(), DEADLINE_MILLIS.end());
                return Err(format!("`deadlineMillis` is not within {least} and {most}"));
            }
            config.deadline = Duration::from_millis(millis);
        }
        match object.text("mode")?.as_deref() {
            None | Some("closed") => {}
            Some("open") => config.mode = Mode::Open,
            Some(other) => return Err(format!("there is no mode `{other}`; there are `closed` and `open`")),
        }
        if let Some(exempt) = object.texts(EXEMPT_KEY)? {
            config.exempt = exempt.into_iter().collect();
        }
        match object.unknown() {
            Some(key) => Err(format!(
                "there is no key `{key}`; there are `socket`, `deadlineMillis`, `mode`, `exemptNamespaces`, `spool`"
            )),
            None => Ok(config),
        }
    }
}

/// The exempt namespaces of a configuration, whatever else is wrong with it; what is no text among them is no namespace.
/// `None`: it has no list of them.
#[must_use]
pub fn exempt_in(bytes: &[u8]) -> Option<BTreeSet<String>> {
    let Some(Value::Array(list)) = Object::parse(bytes).ok()?.any(EXEMPT_KEY) else { return None };
    let text = |value| if let Value::String(text) = value { Some(text) } else { None };
    Some(list.into_iter().filter_map(text).collect())
}

/// Why a file with these permission bits and this owner does not count; `None`: only root can write it.
#[must_use]
pub fn others_write(uid: u32, mode: u32) -> Option<&'static str> {
    (uid != 0 || mode & 0o022 != 0).then_some("others than root can write it (chown root, chmod go-w)")
}

/// The bytes of the file; `None`: there is none. Whoever can write it opens the gate, so it must be root's.
fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot open it: {error}")),
    };
    let about = file.metadata().map_err(|error| format!("cannot examine it: {error}"))?;
    if let Some(problem) = others_write(users::owner(about.uid()), about.mode()) {
        return Err(problem.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot read it: {error}"))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_BYTES) {
        return Err(format!("it has more than {MAX_BYTES} bytes"));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn every_key_counts() {
        let text = br#"{"socket":"/s","deadlineMillis":200,"mode":"open","exemptNamespaces":["a","b"],"spool":"/p"}"#;
        let config = Config::parse(text).unwrap();
        assert_eq!((config.socket, config.spool), ("/s".into(), "/p".into()));
        assert_eq!((config.deadline, config.mode), (Duration::from_millis(200), Mode::Open));
        assert_eq!(config.exempt, ["a".to_owned(), "b".to_owned()].into());
        assert_eq!(Config::parse(b"{}"), Ok(Config::default()));
    }

    #[test]
    fn mistakes_are_told() {
        for (text, wanted) in [
            ("", "no JSON"),
            (r#"{"mod":"open"}"#, "`mod`"),
            (r#"{"mode":"ajar"}"#, "`ajar`"),
            (r#"{"deadlineMillis":0}"#, "50"),
            (r#"{"deadlineMillis":60000}"#, "5000"),
            (r#"{"deadlineMillis":-1}"#, "`deadlineMillis`"),
            (r#"{"socket":"run/x"}"#, "absolute"),
            (r#"{"exemptNamespaces":"kube-system"}"#, "`exemptNamespaces`"),
            (r#"{"exemptNamespaces":[1]}"#, "`exemptNamespaces`"),
        ] {
            let problem = Config::parse(text.as_bytes()).unwrap_err();
            assert!(problem.contains(wanted), "{text}: {problem}");
        }
    }

    #[test]
    fn a_bad_file_is_told_and_the_defaults_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(Config::load(&path), (Config::default(), None), "no file");
        let write = |text: &[u8], mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Config::load(&path)
        };
        let open = br#"{"mode":"open"}"#;
        assert_eq!(write(open, 0o644).0.mode, Mode::Open);
        for (text, mode, wanted) in [
            (&b"{"[..], 0o644, "no JSON"),
            (open, 0o666, "others than root"),
            (open, 0o664, "others than root"),
            (&[b' '; 70_000][..], 0o644, "65536 bytes"),
        ] {
            let (config, problem) = write(text, mode);
            assert_eq!(config, Config::default());
            assert!(problem.as_ref().is_some_and(|problem| problem.contains(wanted)), "{problem:?}");
        }
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        assert!(write(open, 0o644).1.unwrap().contains("others than root"));
    }
}
