//! Presets: hardening by name.

use std::fmt;

/// What a preset denies or reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Preset {
    /// Executing what is in no file of a file system that lasts: memfd, tmpfs, a deleted file.
    FilelessExec,
    /// Memory that is executable and comes from no file, by `mmap` or by `mprotect`.
    AnonymousMapExec,
    /// Other processes' directories below `/proc`.
    ProtectProc,
    /// Other processes' `/proc/PID/environ`.
    ProtectEnv,
    /// Processes that enter the container from outside (`kubectl exec`): only its own may start processes.
    Exec,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 5] =
        [Self::FilelessExec, Self::AnonymousMapExec, Self::ProtectProc, Self::ProtectEnv, Self::Exec];

    /// The name, as policies write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FilelessExec => "filelessExec",
            Self::AnonymousMapExec => "anonymousMapExec",
            Self::ProtectProc => "protectProc",
            Self::ProtectEnv => "protectEnv",
            Self::Exec => "exec",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.as_str() == name)
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
