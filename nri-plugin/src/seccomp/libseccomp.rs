//! Which libseccomp the node's runtime has, or its systemd: it decides which system calls a profile can name.

use std::path::Path;
use std::process::{Command, Stdio};

/// What is assumed where the runtime cannot be asked: Debian 12's.
const ASSUMED: (u32, u32, u32) = (2, 5, 4);

/// The oldest that is told from others: what it does not know needs a newer one.
pub const OLDEST: (u32, u32, u32) = (2, 5, 0);
/// Where systems have their libraries, or directories of them for one architecture each.
const LIBRARIES: [&str; 4] = ["usr/lib", "usr/lib64", "lib", "lib64"];
/// The library, as programs name it: a link to its file, whose name has the version.
const LIBRARY: &str = "libseccomp.so.2";

/// Reads a version: three numbers with dots.
#[must_use]
pub fn parse(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.trim().split('.').map(str::parse);
    let version = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    parts.next().is_none().then_some(version)
}

/// The version that `runc` or `crun` says it has, the first that does.
#[must_use]
pub fn of_runtime() -> (u32, u32, u32) {
    for runtime in ["runc", "crun"] {
        let output = Command::new(runtime).arg("--version").stdin(Stdio::null()).output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        if let Some(version) = told(&text) {
            return version;
        }
    }
    let (x, y, z) = ASSUMED;
    tracing::info!("no runc tells its libseccomp; {x}.{y}.{z} is assumed (see --libseccomp)");
    ASSUMED
}

/// The version of the libseccomp that programs of the system below `root` have, of several the oldest; `None`: there is none
/// whose version can be told.
#[must_use]
pub fn of_system(root: &Path) -> Option<(u32, u32, u32)> {
    let mut dirs = Vec::new();
    for dir in LIBRARIES.map(|dir| root.join(dir)) {
        let within = std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path());
        dirs.extend(within.filter(|path| path.to_string_lossy().contains("-linux-")));
        dirs.push(dir);
    }
    let versions = dirs.iter().filter_map(|dir| {
        let target = std::fs::read_link(dir.join(LIBRARY)).ok()?;
        parse(target.file_name()?.to_str()?.strip_prefix("libseccomp.so.")?)
    });
    versions.min()
}

/// The version in what `--version` prints.
fn told(text: &str) -> Option<(u32, u32, u32)> {
    text.lines().find_map(|line| parse(line.strip_prefix("libseccomp:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_three_numbers() {
        assert_eq!(parse(" 2.5.4\n"), Some((2, 5, 4)));
        for bad in ["", "2", "2.5", "2.5.x", "2.5.4.1", "v2.5.4"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let runc = "runc version 1.1.5+ds1\nspec: 1.0.2-dev\ngo: go1.19.8\nlibseccomp: 2.5.4\n";
        assert_eq!(told(runc), Some((2, 5, 4)));
        assert_eq!(told("crun version 1.8.1\n+SECCOMP +EBPF +YAJL\n"), None);
    }

    #[test]
    fn of_a_system_the_oldest_library_counts() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(of_system(root.path()), None);
        for (dir, target, found) in [
            ("usr/lib/x86_64-linux-gnu", "libseccomp.so.2.6.0", Some((2, 6, 0))),
            ("usr/lib64", "../lib/libseccomp.so.2.5.3", Some((2, 5, 3))),
            ("lib", "libseccomp.so.new", Some((2, 5, 3))),
        ] {
            let dir = root.path().join(dir);
            std::fs::create_dir_all(&dir).unwrap();
            std::os::unix::fs::symlink(target, dir.join(LIBRARY)).unwrap();
            assert_eq!(of_system(root.path()), found, "{target}");
        }
    }
}
