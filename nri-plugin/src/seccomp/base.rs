//! The profile that a container has before any policy, as far as the runtime shows it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use enforcer_core::capability::Capability;
use enforcer_core::seccomp::Base;
use enforcer_core::seccomp::oci::LinuxSeccomp;
use nri::{LinuxContainer, ProfileKind};

use super::wire::from_nri;

/// The capabilities that containers get unless their pod asks for others: containerd's and CRI-O's defaults, together.
/// No message of NRI tells those of a container. One that was given more gets the runtime's default as for these, which
/// is stricter.
pub const CAPABILITIES: [&str; 14] = [
    "audit_write",
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "mknod",
    "net_bind_service",
    "net_raw",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_chroot",
];

/// The largest profile that is read, in bytes.
const MAX_LEN: u64 = 1 << 20;

/// Why a container's own profile is not known.
#[derive(Debug, thiserror::Error)]
pub enum BaseUnknown {
    /// What the runtime shows cannot be understood.
    #[error("the runtime shows a seccomp profile that cannot be read: {0}")]
    Shown(#[source] serde_json::Error),
    /// The file that the pod names cannot be read.
    #[error("the seccomp profile `{}` cannot be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A kind of profile that came after this version.
    #[error("the runtime shows a kind of seccomp profile that is not known: {0}")]
    Kind(i32),
}

/// The runtime's default for a container whose capabilities are not known.
#[must_use]
pub fn runtime_default() -> Base {
    Base::RuntimeDefault(CAPABILITIES.into_iter().filter_map(Capability::by_name).collect::<BTreeSet<_>>())
}

/// What the container has: its profile where the runtime shows it (containerd 2.3 and later), the file that its pod
/// names or none where it shows that (containerd 2.2.1 and later). May read a file. `None`: the runtime shows nothing, as
/// CRI-O and containerd 2.2.0; it may have any profile, or none.
///
/// # Errors
/// When the container has a profile that cannot be known. Nothing may be put in its place then: it could be stricter.
pub fn base(linux: Option<&LinuxContainer>) -> Result<Option<Base>, BaseUnknown> {
    let Some(linux) = linux else { return Ok(None) };
    if let Some(policy) = &linux.seccomp_policy {
        return from_nri(policy).map(|profile| Some(Base::Profile(profile))).map_err(BaseUnknown::Shown);
    }
    let Some(profile) = &linux.seccomp_profile else { return Ok(None) };
    match profile.kind {
        ProfileKind::RuntimeDefault => Ok(Some(runtime_default())),
        ProfileKind::Unconfined => Ok(Some(Base::Unconfined)),
        ProfileKind::Localhost => {
            read(Path::new(&profile.localhost_ref)).map(|profile| Some(Base::Profile(profile)))
        }
        ProfileKind::Other(number) => Err(BaseUnknown::Kind(number)),
        _ => Err(BaseUnknown::Kind(-1)),
    }
}

/// A profile's file. Fields that are not the OCI's are ignored, as runtimes do.
fn read(path: &Path) -> Result<LinuxSeccomp, BaseUnknown> {
    let text = crate::store::read_up_to(path, MAX_LEN);
    let parsed = text.and_then(|text| serde_json::from_str(&text).map_err(std::io::Error::other));
    parsed.map_err(|source| BaseUnknown::File { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_core::seccomp::oci::ActionName;
    use nri::SecurityProfile;

    fn with(kind: ProfileKind, localhost_ref: &str) -> LinuxContainer {
        let mut profile = SecurityProfile::default();
        (profile.kind, profile.localhost_ref) = (kind, localhost_ref.into());
        let mut linux = LinuxContainer::default();
        linux.seccomp_profile = Some(profile);
        linux
    }

    #[test]
    fn every_default_capability_is_one() {
        let Base::RuntimeDefault(capabilities) = runtime_default() else { panic!("no default") };
        assert_eq!(capabilities.len(), CAPABILITIES.len());
    }

    #[test]
    fn the_base_is_what_the_runtime_shows() {
        assert!(matches!(base(None), Ok(None)));
        assert!(matches!(base(Some(&LinuxContainer::default())), Ok(None)));
        let default = base(Some(&with(ProfileKind::RuntimeDefault, "")));
        assert!(matches!(default, Ok(Some(Base::RuntimeDefault(_)))));
        assert!(matches!(base(Some(&with(ProfileKind::Unconfined, ""))), Ok(Some(Base::Unconfined))));
        let mut shown = with(ProfileKind::RuntimeDefault, "");
        let mut policy = nri::LinuxSeccomp::default();
        policy.default_action = "SCMP_ACT_LOG".into();
        shown.seccomp_policy = Some(policy);
        let Ok(Some(Base::Profile(profile))) = base(Some(&shown)) else { panic!("not shown") };
        assert_eq!(profile.default_action, ActionName::Log);
    }

    #[test]
    fn a_profile_of_the_node_is_read_and_one_that_cannot_be_is_no_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.json");
        let file = with(ProfileKind::Localhost, path.to_str().unwrap());
        assert!(matches!(base(Some(&file)), Err(BaseUnknown::File { .. })));
        std::fs::write(&path, "{\"defaultAction\": \"SCMP_ACT_KILL\", \"defaultErrno\": \"EPERM\"}").unwrap();
        let Ok(Some(Base::Profile(profile))) = base(Some(&file)) else { panic!("not read") };
        assert_eq!(profile.default_action, ActionName::Kill);
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(base(Some(&file)), Err(BaseUnknown::File { .. })));
        assert!(matches!(base(Some(&with(ProfileKind::Other(7), ""))), Err(BaseUnknown::Kind(7))));
    }
}
