//! Makes container images as OCI layout archives, from our own programs or from a folder or archive of the user's.
//! No registry, no builder.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header, HeaderMode};

use crate::cache;

/// The program whose first system call opens `/etc/passwd`.
pub const FIRST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/first"));
/// The program that waits for ever.
pub const PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
/// The workload that misbehaves.
pub const PROBE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/probe"));
/// Does one thing and says by its exit status how that ended: `programs/act.c`.
pub const ACT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/act"));
/// Starts programs with arguments of all kinds: `programs/args.c`.
pub const ARGS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/args"));

/// The program of tricks to get round a policy.
pub const EVADE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/evade"));
/// What its tricks are to execute.
pub const GOAL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/goal"));
/// The same as a program that needs `ld.so`.
pub const GOAL_DYNAMIC: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/goal-dynamic"));
/// The program that measures.
pub const COST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cost"));
/// Makes the system calls that it is told and says how each ended: `programs/sys.c`.
pub const SYS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sys"));
/// The smallest program.
pub const NOTHING: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nothing"));
/// Tries what it reads and answers how that ended: `programs/visit.c`.
pub const VISIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/visit"));

/// Name of the pods' pause image, which containerd's configuration names too.
pub const PAUSE_IMAGE: &str = "lab.local/pause:1";
/// Name of the image that containers get unless the user brings a root of his own.
pub const DEFAULT_IMAGE: &str = "lab.local/root:1";
/// Name of the image made from the user's root.
pub const USER_IMAGE: &str = "lab.local/user:1";
/// What keeps a container alive that has no command; in every image, at a path that no policy will name.
pub const IDLE: &str = "/.lab/idle";

/// The pause image, as an OCI archive.
///
/// # Errors
/// None in practice: it is made in memory.
pub fn pause() -> Result<Vec<u8>> {
    let mut layer = Layer::default();
    layer.file("pause", 0o755, PAUSE)?;
    archive(PAUSE_IMAGE, &["/pause"], vec![layer.finish()?])
}

/// The default image: a busybox system with the probes. Every applet is a hard link, hence a program with a path of its
/// own as in a distribution, and policies that name `/bin/cat` mean it.
///
/// # Errors
/// When the lab is not set up.
pub fn default_root() -> Result<Vec<u8>> {
    let busybox = cache::artefact("busybox")?;
    let list = Command::new(&busybox).arg("--list-full").output().context("list busybox's applets")?;
    let mut layer = Layer::default();
    for directory in [
        "bin",
        "dev",
        "etc",
        "home",
        "home/user",
        "proc",
        "root",
        "run",
        "sbin",
        "srv",
        "sys",
        "usr",
        "usr/bin",
        "usr/sbin",
    ] {
        layer.directory(directory, 0o755)?;
    }
    for directory in
        ["usr/lib", "usr/share", "usr/local", "usr/local/bin", "opt", "mnt", "var", "var/lib", "var/log"]
    {
        layer.directory(directory, 0o755)?;
    }
    for directory in ["tmp", "var/tmp"] {
        layer.directory(directory, 0o1777)?;
    }
    layer.file("bin/busybox", 0o755, &std::fs::read(&busybox)?)?;
    for applet in
        String::from_utf8(list.stdout)?.lines().filter(|a| *a != "bin/busybox" && !a.starts_with("linuxrc"))
    {
        layer.hard_link(applet, "bin/busybox")?;
    }
    for (name, program) in [("bin/first", FIRST), ("bin/probe", PROBE)] {
        layer.file(name, 0o755, program)?;
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    layer.file("etc/passwd", 0o644, passwd.as_bytes())?;
    layer.file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n")?;
    layer.file("etc/shadow", 0o640, b"root:*:20000:0:99999:7:::\nuser:*:20000:0:99999:7:::\n")?;
    layer.file("etc/os-release", 0o644, b"ID=lab\nPRETTY_NAME=\"lab\"\n")?;
    archive(DEFAULT_IMAGE, &[IDLE], vec![layer.finish()?, idle_layer()?])
}

/// An image from a folder, or from a tar archive (plain, gzip, xz or zstd).
///
/// # Errors
/// When the root cannot be read, or is neither.
pub fn user_root(root: &Path) -> Result<Vec<u8>> {
    let bytes = if root.is_dir() {
        let mut builder = Builder::new(Vec::new());
        builder.mode(HeaderMode::Complete);
        builder.follow_symlinks(false);
        builder.append_dir_all("", root).with_context(|| format!("read `{}`", root.display()))?;
        builder.into_inner()?
    } else {
        plain_tar(root)?
    };
    archive(USER_IMAGE, &[IDLE], vec![bytes, idle_layer()?])
}

fn idle_layer() -> Result<Vec<u8>> {
    let mut layer = Layer::default();
    layer.directory(".lab", 0o755)?;
    layer.file(IDLE.trim_start_matches('/'), 0o755, PAUSE)?;
    layer.finish()
}

/// The bytes of a tar archive, unpacked by the tool that its first bytes ask for.
fn plain_tar(path: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(path).with_context(|| format!("open `{}`", path.display()))?;
    let mut magic = Vec::new();
    file.by_ref().take(6).read_to_end(&mut magic)?;
    let tool = match magic.as_slice() {
        [0x1f, 0x8b, ..] => "gzip",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => "cat",
    };
    let mut command = Command::new(tool);
    if tool != "cat" {
        command.arg("-dc");
    }
    let output = command
        .stdin(File::open(path)?)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {tool}"))?;
    ensure!(output.status.success(), "`{}` cannot be unpacked by {tool}", path.display());
    if output.stdout.get(257..262) != Some(b"ustar") {
        bail!("`{}` is neither a folder nor a tar archive", path.display());
    }
    Ok(output.stdout)
}

/// A layer in the making; every entry belongs to root and has no time, so that equal content is equal bytes.
#[derive(Default)]
struct Layer(Option<Builder<Vec<u8>>>);

impl Layer {
    fn append(
        &mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        content: &[u8],
        link: Option<&str>,
    ) -> Result<()> {
        let builder = self.0.get_or_insert_with(|| Builder::new(Vec::new()));
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(u64::try_from(content.len())?);
        header.set_mtime(0);
        match link {
            Some(to) => builder.append_link(&mut header, path, to)?,
            None => builder.append_data(&mut header, path, content)?,
        }
        Ok(())
    }

    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.append(path, EntryType::Directory, mode, &[], None)
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.append(path, EntryType::Regular, mode, content, None)
    }

    fn hard_link(&mut self, path: &str, to: &str) -> Result<()> {
        self.append(path, EntryType::Link, 0o755, &[], Some(to))
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(self.0.unwrap_or_else(|| Builder::new(Vec::new())).into_inner()?)
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// An OCI image layout with one image, as a tar archive that `ctr images import` takes.
fn archive(name: &str, command: &[&str], layers: Vec<Vec<u8>>) -> Result<Vec<u8>> {
    let describe = |kind: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{}", digest(bytes)), "size": bytes.len()});
    let diff_ids: Vec<_> = layers.iter().map(|l| format!("sha256:{}", digest(l))).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("config.v1+json", &config),
        "layers": layers.iter().map(|l| describe("layer.v1.tar", l)).collect::<Vec<_>>(),
    }))?;
    let mut entry = describe("manifest.v1+json", &manifest);
    if let Some(entry) = entry.as_object_mut() {
        entry.insert("platform".into(), json!({"architecture": "amd64", "os": "linux"}));
        entry.insert(
            "annotations".into(),
            json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "1"}),
        );
    }
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;
    let mut out = Layer::default();
    out.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    out.file("index.json", 0o644, &index)?;
    for blob in layers.iter().chain([&config, &manifest]) {
        out.file(&format!("blobs/sha256/{}", digest(blob)), 0o644, blob)?;
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_complete_and_the_same_each_time() {
        let image = pause().unwrap();
        assert_eq!(image, pause().unwrap());
        let mut names = Vec::new();
        let mut index = String::new();
        for entry in tar::Archive::new(image.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            if let Some(hash) = name.strip_prefix("blobs/sha256/") {
                let mut blob = Vec::new();
                entry.read_to_end(&mut blob).unwrap();
                assert_eq!(digest(&blob), hash, "a blob's name is its digest");
            } else if name == "index.json" {
                entry.read_to_string(&mut index).unwrap();
            }
            names.push(name);
        }
        assert_eq!(names.len(), 5, "layout, index, layer, config, manifest: {names:?}");
        assert!(index.contains(PAUSE_IMAGE), "{index}");
    }

    #[test]
    fn a_root_that_is_no_archive_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello").unwrap();
        let error = user_root(file.path()).unwrap_err().to_string();
        assert!(error.contains("neither a folder nor a tar archive"), "{error}");
    }
}
