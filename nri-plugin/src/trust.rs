//! Whether others than root can write what the daemon believes: policies in directories, and its own configuration.
//!
//! - What others reach no way to, they cannot write, whatever its own mode: below a directory that only root may search,
//!   everything is root's. So it is with the volumes of config maps, which kubelet makes `0777` below directories of its own.
//! - In a container a volume is seen without what is above it on the host. Where the daemon sees the host's root by its first
//!   process (`hostPID`, CAP_SYS_PTRACE), the path there counts, found by the mounts of both; else what is seen in the container.
//! - Write permission of a group counts as others', be it root's.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The process whose mounts are the host's.
const FIRST: u32 = 1;

/// At which part of the way to `path` others than root can change what is read there; `None`: nowhere. A link counts with
/// where it is, and with where it leads.
///
/// # Errors
/// When the path, or the way to it, cannot be examined.
pub fn others_write(path: &Path) -> io::Result<Option<PathBuf>> {
    as_seen_by(FIRST, path)
}

/// The same where `first` is the process whose mounts are the host's.
fn as_seen_by(first: u32, path: &Path) -> io::Result<Option<PathBuf>> {
    let real = path.canonicalize()?;
    let on_host = on_host(first, &real).unwrap_or_default();
    if !on_host.is_empty() {
        let host = root_of(first);
        // to be reached by others in one of these ways is enough
        let examined = on_host.iter().map(|path| examine(&host, path));
        return Ok(examined.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().next());
    }
    let link = std::path::absolute(path)?;
    Ok(match examine(Path::new("/"), &link)? {
        None if link != real => examine(Path::new("/"), &real)?,
        found => found,
    })
}

/// The part of a path below a root directory at which others can change it.
fn examine(root: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    let mut at = root.to_owned();
    let mut parts = path.strip_prefix("/").unwrap_or(path).components().peekable();
    loop {
        let about = std::fs::metadata(&at)?;
        // in a directory like /tmp nobody can replace what is root's; what is read of it is all that is in it
        let sticky = about.mode() & 0o1000 != 0 && parts.peek().is_some();
        if about.uid() != 0 || (about.mode() & 0o022 != 0 && !sticky) {
            return Ok(Some(Path::new("/").join(at.strip_prefix(root).unwrap_or(&at))));
        }
        if about.is_dir() && is_closed(&about) {
            return Ok(None);
        }
        match parts.next() {
            Some(part) => at.push(part),
            None => return Ok(None),
        }
    }
}

/// Whether only root may search the directory.
fn is_closed(about: &Metadata) -> bool {
    about.mode() & 0o001 == 0 && (about.mode() & 0o010 == 0 || about.gid() == 0)
}

/// Where the host has what is at `real`, when this process has other mounts than the host. Empty: it has the same, or that
/// cannot be found out.
fn on_host(first: u32, real: &Path) -> io::Result<Vec<PathBuf>> {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt"));
    let host = first.to_string();
    if namespace(&host)? == namespace("self")? {
        return Ok(Vec::new());
    }
    let mounts =
        |process: &str| std::fs::read(format!("/proc/{process}/mountinfo")).map(|text| mounts(&text));
    let there = elsewhere(real, &mounts("self")?, &mounts(&host)?);
    let file = |path: &Path| std::fs::metadata(path).ok().map(|about| (about.dev(), about.ino()));
    let here = file(real);
    // another mount may hide it there
    let same = |path: &PathBuf| file(&root_of(first).join(path.strip_prefix("/").unwrap_or(path))) == here;
    Ok(there.into_iter().filter(same).collect())
}

/// The root directory of a process.
fn root_of(process: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/root"))
}

/// One line of `mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    device: Vec<u8>,
    root: PathBuf, // of what is mounted, in its file system
    at: PathBuf,
}

fn mounts(text: &[u8]) -> Vec<Mount> {
    let line = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let device = fields.next()?.to_vec();
        let mut path = || fields.next().map(|field| PathBuf::from(OsString::from_vec(unescaped(field))));
        Some(Mount { device, root: path()?, at: path()? })
    };
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// A field, in which space, tab, newline and backslash are written as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        text.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    text
}

/// The paths by which other mounts may have what is at `real`.
fn elsewhere(real: &Path, own: &[Mount], others: &[Mount]) -> Vec<PathBuf> {
    // of several the longest is seen, and of those the last
    let around = own.iter().filter(|mount| real.starts_with(&mount.at));
    let Some(mount) = around.max_by_key(|mount| mount.at.as_os_str().len()) else { return Vec::new() };
    let Ok(below) = real.strip_prefix(&mount.at) else { return Vec::new() };
    let inside = mount.root.join(below);
    let of_device = others.iter().filter(|other| other.device == mount.device);
    of_device.filter_map(|other| Some(other.at.join(inside.strip_prefix(&other.root).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::process::Command;

    /// Name a path to the test `inside`, in another mount namespace, and a process outside.
    const INSIDE: &str = "TRUST_TEST_PATH";
    const OUTSIDE: &str = "TRUST_TEST_PROCESS";

    /// A tree in a directory that is searchable for all.
    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        create_dir_all(dir.path().join("a/b")).unwrap();
        write(dir.path().join("a/b/p.yaml"), "").unwrap();
        for path in ["", "a", "a/b"] {
            mode(&dir.path().join(path), 0o755);
        }
        dir
    }

    fn mode(path: &Path, mode: u32) {
        set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn whoever_can_change_any_part_of_the_way_can_write() {
        let dir = tree();
        let at = |path: &str| dir.path().join(path);
        let file = at("a/b/p.yaml");
        assert_eq!(others_write(&file).unwrap(), None);
        for part in ["a", "a/b", "a/b/p.yaml"] {
            let before = at(part).metadata().unwrap().mode();
            for bad in [0o775, 0o757] {
                mode(&at(part), bad);
                assert_eq!(others_write(&file).unwrap(), Some(at(part)), "{part} {bad:o}");
                mode(&at(part), before);
            }
            chown(at(part), Some(65_534), None).unwrap();
            assert_eq!(others_write(&file).unwrap(), Some(at(part)), "{part}");
            chown(at(part), Some(0), None).unwrap();
        }
        // others add to a directory like /tmp, and replace nothing in it
        mode(&at("a/b"), 0o1777);
        assert_eq!(others_write(&file).unwrap(), None);
        assert_eq!(others_write(&at("a/b")).unwrap(), Some(at("a/b")));
        // a link counts with both ends
        symlink(at("a/b"), at("link")).unwrap();
        assert_eq!(others_write(&at("link")).unwrap(), Some(at("link")), "where it leads");
        mode(&at("a/b"), 0o755);
        assert_eq!(others_write(&at("link")).unwrap(), None);
        create_dir_all(at("c")).unwrap();
        symlink(&file, at("c/p.yaml")).unwrap();
        mode(&at("c"), 0o777);
        assert_eq!(others_write(&at("c/p.yaml")).unwrap(), Some(at("c")), "where it is");
        assert!(others_write(&at("none")).is_err());
    }

    #[test]
    fn what_others_reach_no_way_to_they_cannot_write() {
        let dir = tree();
        let at = |path: &str| dir.path().join(path);
        for path in ["a/b", "a/b/p.yaml"] {
            mode(&at(path), 0o777);
        }
        for (closed, group, is_closed) in
            [(0o700, 0, true), (0o750, 0, true), (0o750, 12, false), (0o701, 0, false)]
        {
            mode(&at("a"), closed);
            chown(at("a"), None, Some(group)).unwrap();
            for path in ["a/b", "a/b/p.yaml"] {
                assert_eq!(
                    others_write(&at(path)).unwrap().is_none(),
                    is_closed,
                    "{closed:o} {group} {path}"
                );
            }
        }
        // whoever can replace what is closed opens it
        mode(&at("a"), 0o700);
        chown(at("a"), None, Some(0)).unwrap();
        mode(dir.path(), 0o777);
        assert_eq!(others_write(&at("a/b")).unwrap().as_deref(), Some(dir.path()));
    }

    #[test]
    fn a_volume_is_found_where_the_host_has_it() {
        let kubelet = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~configmap/policies";
        let own = mounts(
            format!("1 0 0:50 / / rw - overlay overlay rw\n2 1 254:1 {kubelet} /policies/files ro - ext4 /dev/vda rw\n")
                .as_bytes(),
        );
        let host =
            mounts(b"1 0 254:1 / / rw - ext4 /dev/vda rw\n2 1 254:1 /a\\040b /mnt rw - ext4 /dev/vda rw\n");
        let real = Path::new("/policies/files/..2026/p.yaml");
        assert_eq!(elsewhere(real, &own, &host), [Path::new(kubelet).join("..2026/p.yaml")]);
        assert_eq!(elsewhere(Path::new("/etc/x"), &own, &host), [""; 0].map(PathBuf::from), "the image's");
        assert_eq!(host[1].root, Path::new("/a b"));
        // a file system that the host has elsewhere
        let host = mounts(b"1 0 254:1 /var /var rw - ext4 /dev/vda rw\nnonsense\n\n");
        assert_eq!(elsewhere(real, &own, &host), [Path::new(kubelet).join("..2026/p.yaml")]);
    }

    /// As kubelet mounts a config map: anybody may write in the volume, and only root gets there.
    #[test]
    fn in_a_container_the_way_on_the_host_counts() {
        let dir = tree();
        let volume = dir.path().join("a/b");
        let mount = dir.path().join("mount");
        create_dir_all(&mount).unwrap();
        mode(&volume, 0o777);
        let script = format!(
            "mount --bind {} {} && exec {} --exact trust::tests::inside",
            volume.display(),
            mount.display(),
            std::env::current_exe().unwrap().display()
        );
        for (above, safe) in [(0o750, true), (0o755, false)] {
            mode(&dir.path().join("a"), above);
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &script]).env(INSIDE, mount.join("p.yaml"));
            command.env(OUTSIDE, std::process::id().to_string());
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains("1 passed") || said.contains("1 failed"), "{output:?}");
            assert_eq!(output.status.success(), safe, "{above:o}: {said}");
        }
    }

    /// Not a test by itself: what is in the other mount namespace of the test above.
    #[test]
    fn inside() {
        if let Some(path) = std::env::var_os(INSIDE) {
            let outside = std::env::var(OUTSIDE).unwrap().parse().unwrap();
            assert_eq!(as_seen_by(outside, Path::new(&path)).unwrap(), None);
        }
    }
}
