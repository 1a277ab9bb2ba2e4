//! What of systemd goes into a guest that has it as its first process.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache;

/// Programs beside those that systemd itself runs.
const PROGRAMS: [&str; 4] = ["journalctl", "systemctl", "systemd-run", "systemd-tmpfiles"];
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
/// Of the units that other units want, these: an emulated machine starts whatever else there is for seconds, and none has to do
/// with services.
const WANTED: [&str; 4] = [
    "sockets.target.wants/systemd-journald.socket",
    "sockets.target.wants/systemd-journald-dev-log.socket",
    "sysinit.target.wants/systemd-journald.service",
    "sysinit.target.wants/systemd-tmpfiles-setup.service",
];

/// A tar archive: in `root` what goes to the same place of the guest's root, in `lib` libraries for where it has none such.
pub(super) fn archive() -> Result<Vec<u8>> {
    let from = cache::artefact("systemd")?;
    let mut files = Vec::new();
    for dir in LIBRARIES {
        for path in sorted(&from.join(dir))?.into_iter().filter(|path| path.is_symlink() || path.is_file()) {
            let name = path.file_name().context("a library")?.to_owned();
            files.push((path, Path::new("lib").join(name)));
        }
    }
    for name in PROGRAMS {
        let found = ["bin", "usr/bin"].map(|dir| from.join(dir).join(name));
        let path = found.into_iter().find(|path| path.exists()).with_context(|| format!("no `{name}`"))?;
        files.push((path, Path::new("root/usr/bin").join(name)));
    }
    below(
        &from.join("usr/lib/x86_64-linux-gnu/systemd"),
        "root/usr/lib/x86_64-linux-gnu/systemd",
        &mut files,
    )?;
    below(&from.join("lib/systemd"), "root/usr/lib/systemd", &mut files)?;
    files.retain(|(_, to)| {
        let to = to.to_string_lossy();
        !to.contains("-generators/")
            && (!to.contains(".wants/") || WANTED.iter().any(|unit| to.ends_with(unit)))
    });
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(false);
    tar.mode(tar::HeaderMode::Deterministic);
    for (path, to) in files {
        tar.append_path_with_name(&path, to).with_context(|| format!("read `{}`", path.display()))?;
    }
    Ok(tar.into_inner()?)
}

/// All files and links below a directory, and what they are called in the archive.
fn below(dir: &Path, to: &str, files: &mut Vec<(PathBuf, PathBuf)>) -> Result<()> {
    for path in sorted(dir)? {
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        let to = format!("{to}/{name}");
        match path.is_dir() && !path.is_symlink() {
            true => below(&path, &to, files)?,
            false => files.push((path, to.into())),
        }
    }
    Ok(())
}

/// In an order that is the same each time: the archive is part of a machine's key.
fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("read `{}`", dir.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
