//! The profile that a container is about to run with, read from the runtime's own configuration of it.
//!
//! Runtimes without a seccomp adjustment do not show the profile either. But at StartContainer the OCI runtime's
//! `config.json` is written, and that is what it was created from. containerd's shim, the parent of the container's
//! first process, has the bundle of the container, or of another one of its pod, as its working directory; CRI-O keeps
//! bundles in one place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use enforcer_core::seccomp::oci::LinuxSeccomp;
use serde::Deserialize;

use crate::store::read_up_to;

/// Where CRI-O has the bundle of a container: `ID/userdata` below this.
const CRI_O: &str = "run/containers/storage/overlay-containers";
/// The largest configuration that is read, in bytes. Kubernetes allows pods of 1.5 MB.
const MAX_LEN: u64 = 16 << 20;

/// Why the profile cannot be seen.
#[derive(Debug, thiserror::Error)]
pub enum Unseen {
    /// The parent of the process cannot be told.
    #[error("cannot read whose child process {pid} is: {source}")]
    Parent {
        /// The container's first process.
        pid: i32,
        /// What the system said.
        source: io::Error,
    },
    /// No bundle is in the places that are known.
    #[error("no configuration of the container was found; looked for {}", name(looked))]
    Nowhere {
        /// The places.
        looked: Vec<PathBuf>,
    },
    /// It is there and cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn name(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| format!("`{}`", path.display())).collect();
    paths.join(", ")
}

#[derive(Deserialize)]
struct Spec {
    process: Option<Process>,
    linux: Option<Linux>,
}

/// What the configuration says about the container's processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// The AppArmor profile; absent or empty: none.
    pub apparmor_profile: Option<String>,
    /// Whether they have `no_new_privs`.
    #[serde(default)]
    pub no_new_privileges: bool,
}

#[derive(Deserialize)]
struct Linux {
    seccomp: Option<LinuxSeccomp>,
}

/// The profile of the container `id` with the first process `pid`; `None`: it has none. `root` is `/`, but for tests.
///
/// # Errors
/// When it cannot be seen.
pub fn profile(root: &Path, pid: i32, id: &str) -> Result<Option<LinuxSeccomp>, Unseen> {
    Ok(spec(root, pid, id)?.linux.and_then(|linux| linux.seccomp))
}

/// What is said about the processes of the same container.
///
/// # Errors
/// When it cannot be seen.
pub fn process(root: &Path, pid: i32, id: &str) -> Result<Process, Unseen> {
    Ok(spec(root, pid, id)?.process.unwrap_or_default())
}

fn spec(root: &Path, pid: i32, id: &str) -> Result<Spec, Unseen> {
    let proc = root.join("proc");
    let parent = parent(&proc, pid).map_err(|source| Unseen::Parent { pid, source })?;
    let shim = proc.join(parent.to_string()).join("cwd");
    let own = fs::read_link(&shim).is_ok_and(|target| target.file_name().is_some_and(|name| name == id));
    let beside = if own { shim } else { shim.join("..").join(id) };
    let looked = vec![beside.join("config.json"), root.join(CRI_O).join(id).join("userdata/config.json")];
    for path in &looked {
        let text = match read_up_to(path, MAX_LEN) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text,
        };
        let spec = text.and_then(|text| serde_json::from_str::<Spec>(&text).map_err(io::Error::other));
        return spec.map_err(|source| Unseen::Unreadable { path: path.clone(), source });
    }
    Err(Unseen::Nowhere { looked })
}

fn parent(proc: &Path, pid: i32) -> io::Result<i32> {
    let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat"))?;
    // the name, in parentheses, may contain anything
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let parent = fields.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok());
    parent.ok_or_else(|| io::Error::other("an unknown format"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_core::seccomp::oci::ActionName;

    const CONFIG: &str =
        r#"{"ociVersion":"1.1.0","linux":{"namespaces":[],"seccomp":{"defaultAction":"SCMP_ACT_LOG"}}}"#;

    /// A root in which process 7 is the child of process 6, which is in the bundle `of`.
    fn node(of: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for pid in ["6", "7"] {
            fs::create_dir_all(root.join("proc").join(pid)).unwrap();
        }
        fs::write(root.join("proc/7/stat"), "7 (runc:[2:INIT] ) 1) S 6 7 7 0 -1").unwrap();
        fs::create_dir_all(root.join("bundles").join(of)).unwrap();
        std::os::unix::fs::symlink(root.join("bundles").join(of), root.join("proc/6/cwd")).unwrap();
        dir
    }

    #[test]
    fn the_shim_leads_to_the_bundle_of_each_container_of_its_pod() {
        for of in ["c1", "pause"] {
            let dir = node(of);
            assert!(matches!(profile(dir.path(), 7, "c1"), Err(Unseen::Nowhere { .. })));
            fs::create_dir_all(dir.path().join("bundles/c1")).unwrap();
            fs::write(dir.path().join("bundles/c1/config.json"), CONFIG).unwrap();
            let found = profile(dir.path(), 7, "c1").unwrap().unwrap();
            assert_eq!(found.default_action, ActionName::Log, "{of}");
        }
    }

    #[test]
    fn cri_o_keeps_bundles_in_one_place_and_a_container_may_have_no_profile() {
        let dir = node("elsewhere");
        let bundle = dir.path().join(CRI_O).join("c1/userdata");
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), CONFIG).unwrap();
        assert!(profile(dir.path(), 7, "c1").unwrap().is_some());
        fs::write(bundle.join("config.json"), r#"{"linux":{}}"#).unwrap();
        assert!(profile(dir.path(), 7, "c1").unwrap().is_none());
        fs::write(bundle.join("config.json"), "{").unwrap();
        assert!(matches!(profile(dir.path(), 7, "c1"), Err(Unseen::Unreadable { .. })));
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        let dir = node("c1");
        assert!(matches!(profile(dir.path(), 8, "c1"), Err(Unseen::Parent { pid: 8, .. })));
    }
}
