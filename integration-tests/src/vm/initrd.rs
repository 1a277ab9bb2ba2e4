//! The guest's first root: busybox, the modules it needs to find its disk, and what brings the node up.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Spec, systemd};
use crate::cpio::Archive;
use crate::{cache, image};

/// What a guest may need and a kernel may have as a module. Modules that are not there before the machine is saved are
/// not there after. Built-in ones are skipped.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_console", "ext4", "overlay", "veth", "bridge"];
/// Only for guests with a network.
const NETWORK: &str = "virtio_net";

/// The initial root for a machine.
///
/// # Errors
/// When the lab is not set up.
pub(super) fn build(spec: &Spec) -> Result<Vec<u8>> {
    let kernel = cache::artefact(&format!("kernel-{}", spec.kernel))?;
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "rw", "mods", "lab"] {
        archive.directory(directory)?;
    }
    archive.device("dev/console", 5, 1)?;
    archive.file("bin/busybox", 0o755, &fs::read(cache::artefact("busybox")?)?)?;
    archive.file("init", 0o755, include_bytes!("../../guest/init"))?;
    let (mounts, jobs) = (include_bytes!("../../guest/mounts"), include_bytes!("../../guest/jobs"));
    let next: &[u8] = if spec.systemd { include_bytes!("../../guest/systemd") } else { jobs };
    archive.file("lab/stage2", 0o755, &[mounts.as_slice(), next].concat())?;
    if spec.systemd {
        archive.file("lab/jobs", 0o755, jobs)?;
        archive.file("lab/systemd.tar", 0o644, &systemd::archive()?)?;
    }
    let network = (!spec.ports.is_empty()).then_some(NETWORK);
    let wanted = MODULES.iter().copied().chain(network);
    for (order, (name, module)) in modules(&kernel.join("modules"), wanted)?.into_iter().enumerate() {
        archive.file(&format!("mods/{order:02}-{name}.ko"), 0o644, &module)?;
    }
    if let Some(containerd) = spec.containerd {
        archive.file("lab/warm", 0o755, include_bytes!("../../guest/warm"))?;
        archive.file("lab/env", 0o644, format!("CONTAINERD={containerd}\n").as_bytes())?;
        archive.file("lab/pause.tar", 0o644, &image::pause()?)?;
        archive.file("lab/root.tar", 0o644, &image::default_root()?)?;
    }
    archive.finish()
}

/// The wanted modules and what they depend on, in the order of loading.
fn modules<'a>(folder: &Path, wanted: impl Iterator<Item = &'a str>) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    index(folder, &mut files)?;
    ensure!(!files.is_empty(), "no modules below `{}`", folder.display());
    let mut done = Vec::new();
    for name in wanted {
        load(name, &files, &mut done)?;
    }
    Ok(done)
}

fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read `{}`", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            index(&entry.path(), files)?;
        } else if let Some((name, "" | ".xz" | ".zst")) =
            entry.file_name().to_string_lossy().split_once(".ko")
        {
            files.insert(name.replace('-', "_"), entry.path());
        }
    }
    Ok(())
}

fn load(name: &str, files: &BTreeMap<String, PathBuf>, done: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let Some(path) = files.get(name) else { return Ok(()) }; // built in
    if done.iter().any(|(n, _)| n == name) {
        return Ok(());
    }
    let module = read_module(path)?;
    for dependency in dependencies(&module) {
        load(&dependency.replace('-', "_"), files, done)?;
    }
    done.push((name.to_owned(), module));
    Ok(())
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return Ok(fs::read(path)?),
    };
    let output = Command::new(tool)
        .arg("-dcq")
        .arg(path)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {tool}"))?;
    ensure!(output.status.success(), "`{}` cannot be unpacked", path.display());
    Ok(output.stdout)
}

/// The list in a module's `.modinfo`: `depends=a,b`, after and before a NUL.
fn dependencies(module: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b"\0depends=";
    let Some(start) = module.windows(MARK.len()).position(|w| w == MARK) else { return Vec::new() };
    let list: Vec<u8> = module.iter().skip(start + MARK.len()).take_while(|b| **b != 0).copied().collect();
    String::from_utf8_lossy(&list).split(',').filter(|d| !d.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_of_a_module() {
        assert_eq!(dependencies(b"x\0license=GPL\0depends=a,b-c\0name=d\0"), ["a", "b-c"]);
        assert!(dependencies(b"x\0depends=\0name=d\0").is_empty());
        assert!(dependencies(b"no list").is_empty());
    }
}
