//! Which libseccomp the node's runtime has: it decides which system calls a profile can name.

use std::process::{Command, Stdio};

/// What is assumed where the runtime cannot be asked: Debian 12's.
const ASSUMED: (u32, u32, u32) = (2, 5, 4);

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
}
