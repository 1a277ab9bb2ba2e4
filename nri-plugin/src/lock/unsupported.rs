//! Whether a lock that cannot be opened is one that this host has not, or one that fails. A fault may pass, and the
//! daemon ends so that it is started again; a lock that is not there is told for as long as the daemon lives.

use std::io::ErrorKind;
use std::path::Path;

use enforcer_core::enforce::EnforceError;
use enforcer_core::enforce::apparmor::AppArmorError;
use enforcer_core::enforce::selinux::SelinuxError;
use enforcer_core::host::HostReport;

/// The file system by which the kernel tells its locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Securityfs {
    /// It can be looked into.
    Mounted,
    /// The kernel has it, and it is not mounted (here): nothing is known of its locks.
    Unmounted,
    /// The kernel has none, and so no lock either.
    Missing,
}

impl Securityfs {
    /// That of this host, as this process sees it.
    #[must_use]
    pub fn of_this_host() -> Self {
        // the kernel makes the directory, empty; securityfs has `lsm` in it
        let path = Path::new("/sys/kernel/security");
        match (path.join("lsm").try_exists(), path.try_exists()) {
            (Ok(true), _) => Self::Mounted,
            (_, Ok(false)) => Self::Missing,
            _ => Self::Unmounted,
        }
    }
}

/// The checks of [`host::probe`](enforcer_core::host::probe) that no daemon, mount or memory changes.
const OF_THE_KERNEL: [&str; 2] = ["kernel", "hooks"];

/// Whether this host has no BPF-LSM.
pub fn bpf(error: &EnforceError, securityfs: Securityfs, report: impl FnOnce() -> HostReport) -> bool {
    match error {
        EnforceError::LsmDisabled { .. } => true,
        EnforceError::LsmUnknown { .. } => securityfs == Securityfs::Missing,
        EnforceError::Bpf { .. } => {
            report().checks.iter().any(|check| !check.ok && OF_THE_KERNEL.contains(&check.name.as_str()))
        }
        _ => false,
    }
}

/// The same of a host that was looked at, and where nothing was opened: all that is missing is of the kernel, or the first
/// thing is that a daemon finds.
#[must_use]
pub fn bpf_of(report: &HostReport, securityfs: Securityfs) -> bool {
    let fails = |name: &str| report.checks.iter().any(|check| !check.ok && check.name == name);
    match securityfs {
        Securityfs::Missing => true,
        Securityfs::Mounted => fails("bpf-lsm") || OF_THE_KERNEL.iter().any(|name| fails(name)),
        Securityfs::Unmounted => false,
    }
}

/// Whether this host has no AppArmor that denies, or no parser that can make our profiles.
#[must_use]
pub fn apparmor(error: &AppArmorError, securityfs: Securityfs) -> bool {
    match error {
        AppArmorError::Absent { source, .. } => match securityfs {
            Securityfs::Mounted => source.kind() == ErrorKind::NotFound,
            Securityfs::Unmounted => false,
            Securityfs::Missing => true,
        },
        AppArmorError::Unenforced { .. } => true,
        AppArmorError::NoParser { source, .. } => source.kind() == ErrorKind::NotFound,
        // one before 4.1 knows no priorities; one that was killed says nothing
        AppArmorError::Refused { said, .. } => said.contains("syntax error"),
        _ => false,
    }
}

/// Whether this host has no SELinux that denies, or no tool to change its policy by.
#[must_use]
pub fn selinux(error: &SelinuxError) -> bool {
    match error {
        SelinuxError::Absent { source, .. } | SelinuxError::NoTool { source, .. } => {
            source.kind() == ErrorKind::NotFound
        }
        SelinuxError::Permissive | SelinuxError::NoPolicy(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use enforcer_core::host::Check;

    use super::*;

    fn report(failing: &str) -> HostReport {
        let check = |name: &str| Check {
            name: name.into(),
            ok: name != failing,
            required: true,
            detail: String::new(),
            advice: String::new(),
        };
        HostReport { checks: ["privilege", "kernel", "hooks", "bpf-programs", "bpffs"].map(check).into() }
    }

    #[test]
    fn a_fault_of_bpf_is_no_lack_of_it() {
        let told = |error: &EnforceError, failing| bpf(error, Securityfs::Mounted, || report(failing));
        let lsm = || "/sys/kernel/security/lsm".into();
        assert!(told(&EnforceError::LsmDisabled { active: "apparmor".into() }, ""));
        let refused = || EnforceError::Bpf { what: "load".into(), source: libbpf_error() };
        assert!(told(&refused(), "kernel") && told(&refused(), "hooks"));
        for passing in ["", "privilege", "bpf-programs", "bpffs"] {
            assert!(!told(&refused(), passing), "{passing}");
        }
        for fault in [
            EnforceError::Busy { path: "/x".into() },
            EnforceError::NotBpffs { path: "/x".into() },
            EnforceError::Pin { what: "open", path: "/x".into(), source: io::ErrorKind::OutOfMemory.into() },
            EnforceError::LsmUnknown { path: lsm(), source: io::ErrorKind::NotFound.into() },
        ] {
            assert!(!told(&fault, "kernel"), "{fault}");
        }
        let unknown = EnforceError::LsmUnknown { path: lsm(), source: io::ErrorKind::NotFound.into() };
        assert!(!bpf(&unknown, Securityfs::Unmounted, || report("")));
        assert!(bpf(&unknown, Securityfs::Missing, || report("")));
    }

    fn libbpf_error() -> libbpf_rs::Error {
        io::Error::from(io::ErrorKind::OutOfMemory).into()
    }

    #[test]
    fn a_fault_of_selinux_is_no_lack_of_it() {
        let absent = |kind: ErrorKind| SelinuxError::Absent { path: "/x".into(), source: kind.into() };
        let tool = |kind: ErrorKind| SelinuxError::NoTool { tool: "semodule", source: kind.into() };
        for lack in [absent(ErrorKind::NotFound), tool(ErrorKind::NotFound), SelinuxError::Permissive] {
            assert!(selinux(&lack), "{lack}");
        }
        let refused = SelinuxError::Refused { command: "semodule".into(), said: String::new() };
        for fault in [
            absent(ErrorKind::PermissionDenied),
            tool(ErrorKind::OutOfMemory),
            refused,
            SelinuxError::NotInForce,
        ] {
            assert!(!selinux(&fault), "{fault}");
        }
    }

    #[test]
    fn a_fault_of_apparmor_is_no_lack_of_it() {
        let absent = |kind: ErrorKind| AppArmorError::Absent { path: "/x".into(), source: kind.into() };
        let parser =
            |kind: ErrorKind| AppArmorError::NoParser { parser: "parser".into(), source: kind.into() };
        let name = || "nri-enforcer.probe".parse().unwrap();
        let refused =
            |said: &str| AppArmorError::Refused { parser: "parser".into(), name: name(), said: said.into() };
        let mounted = |error: &AppArmorError| apparmor(error, Securityfs::Mounted);
        assert!(mounted(&absent(ErrorKind::NotFound)) && !mounted(&absent(ErrorKind::PermissionDenied)));
        assert!(mounted(&parser(ErrorKind::NotFound)) && !mounted(&parser(ErrorKind::OutOfMemory)));
        assert!(mounted(&AppArmorError::Unenforced { mode: "complain".into(), path: "/x".into() }));
        assert!(mounted(&refused("line 2: syntax error, unexpected TOK_ID")) && !mounted(&refused("")));
        let passing = [AppArmorError::TooSlow(name()), AppArmorError::NotEnforced("x".into())];
        assert!(passing.iter().all(|error| !mounted(error)));
        assert!(!apparmor(&absent(ErrorKind::NotFound), Securityfs::Unmounted));
        assert!(apparmor(&absent(ErrorKind::NotFound), Securityfs::Missing));
    }
}
