//! Containers under runc and crun on this very machine: what needs nothing of the kernel but what every kernel has.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{cache, image};

/// Where the program of a bundle is in its container.
pub const PROGRAM: &str = "/sys";

/// An OCI runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// runc.
    Runc,
    /// crun.
    Crun,
}

impl Runtime {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Runc, Self::Crun];

    /// Its program.
    ///
    /// # Errors
    /// When the lab is not set up.
    pub fn program(self) -> Result<PathBuf> {
        let name = match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
        };
        Ok(cache::artefact("oci-runtimes")?.join(name))
    }

    /// Runs a container to its end: one that may do nothing but what the kernel lets everybody, with this `linux.seccomp`,
    /// whose program makes these system calls (`programs/sys.c` says how they are written).
    ///
    /// # Errors
    /// When it cannot be run, or the program does not get to its end.
    pub fn run(self, seccomp: &Value, calls: &[&str]) -> Result<BTreeMap<String, String>> {
        let output = self.output(seccomp, calls)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{self:?}: {}\n{out}{err}", output.status);
        let ends = out.lines().filter_map(|line| line.split_once('\t'));
        let ends: BTreeMap<_, _> = ends.map(|(call, end)| (call.to_owned(), end.to_owned())).collect();
        ensure!(
            calls.iter().all(|call| ends.contains_key(*call)),
            "{self:?}: not every call was made\n{out}{err}"
        );
        Ok(ends)
    }

    /// As [`Self::run`], whatever becomes of it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn output(self, seccomp: &Value, calls: &[&str]) -> Result<Output> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let bundle = bundle(seccomp, calls)?;
        let id = format!("lab-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        // crun takes no hybrid of cgroup v1 and v2: in a mount namespace of its own the v2 part of one is out of sight.
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
        Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(self.program()?)
            .arg("--root")
            .arg(bundle.path().join("state"))
            .args(["run", "--bundle"])
            .arg(bundle.path())
            .arg(id)
            .stdin(Stdio::null())
            .output()
            .context("run `unshare`")
    }

    /// The version of the libseccomp that it has; both have the machine's.
    ///
    /// # Errors
    /// When runc does not tell.
    pub fn libseccomp() -> Result<(u32, u32, u32)> {
        let output = Command::new(Self::Runc.program()?).arg("--version").output().context("run runc")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find_map(|line| line.strip_prefix("libseccomp:"));
        let parts: Vec<u32> =
            version.unwrap_or_default().trim().split('.').filter_map(|part| part.parse().ok()).collect();
        match parts.as_slice() {
            [x, y, z] => Ok((*x, *y, *z)),
            _ => anyhow::bail!("runc does not tell its libseccomp: `{text}`"),
        }
    }
}

fn bundle(seccomp: &Value, calls: &[&str]) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("rootfs");
    for mount in ["proc", "dev"] {
        fs::create_dir_all(root.join(mount))?; // crun wants /dev, whatever is mounted there
    }
    executable(&root.join(PROGRAM.trim_start_matches('/')), image::SYS)?;
    let args: Vec<&str> = std::iter::once(PROGRAM).chain(calls.iter().copied()).collect();
    let namespaces = ["pid", "mount", "ipc", "uts"].map(|kind| json!({"type": kind}));
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": args, "env": [],
            // none; and without them a process may only have a filter if it can gain none
            "capabilities": {"bounding": [], "effective": [], "permitted": []}, "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": namespaces, "seccomp": seccomp},
    });
    fs::write(dir.path().join("config.json"), serde_json::to_vec(&config)?)?;
    Ok(dir)
}

fn executable(path: &Path, program: &[u8]) -> Result<()> {
    fs::write(path, program)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
