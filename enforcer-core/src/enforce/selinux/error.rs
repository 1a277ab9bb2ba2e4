//! What can go wrong.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why SELinux cannot hold rules, or labels cannot be set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelinuxError {
    /// The kernel has no SELinux, or it is off.
    #[error("SELinux is not there: cannot read `{}`; boot with `lsm=...,selinux` and a policy", path.display())]
    Absent {
        /// What was looked for.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// It is permissive: it reports, and denies nothing.
    #[error("SELinux is permissive: nothing is enforced; `setenforce 1`")]
    Permissive,
    /// No policy is loaded.
    #[error("SELinux has no policy: {0}")]
    NoPolicy(String),
    /// A tool cannot be started.
    #[error("cannot run `{tool}`; install policycoreutils")]
    NoTool {
        /// Its name.
        tool: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A tool fails.
    #[error("`{command}` says: {said}")]
    Refused {
        /// How it was called.
        command: String,
        /// What it says.
        said: String,
    },
    /// A tool takes too long.
    #[error("`{command}` takes more than {}", humantime(*.limit))]
    TooSlow {
        /// How it was called.
        command: String,
        /// How long it might take.
        limit: Duration,
    },
    /// The kernel's policy has not our module: somebody removed it, or it was installed in vain.
    #[error("SELinux does not enforce the module `nri_enforcer`; start the daemon again, which installs it")]
    NotInForce,
    /// Another process sets labels, or takes them off.
    #[error("`{}` is in use: end the daemon that sets labels first", .0.display())]
    Busy(PathBuf),
    /// The record is not what was written.
    #[error("`{}` is damaged: which files have labels is not known; run `restorecon -F` on them, and remove it", .0.display())]
    Damaged(PathBuf),
    /// A file or directory of ours, or the kernel's.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

fn humantime(limit: Duration) -> String {
    format!("{} s", limit.as_secs())
}

pub(super) fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> SelinuxError {
    let what = what.into();
    move |source| SelinuxError::Io { what, source }
}
