//! What this machine can enforce, and why not.

use std::fs;
use std::io;
use std::path::Path;

use libbpf_rs::btf::{Btf, types as btf};
use serde::Serialize;

use crate::enforce::door::{Doors, Reading};
use crate::enforce::load::{self, LSM_LIST};

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is checked.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// Whether enforcement is impossible without it.
    pub required: bool,
    /// What was found.
    pub detail: String,
    /// What to do where it does not hold; empty where it does.
    pub advice: String,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostReport {
    /// In the order in which they should be mended.
    pub checks: Vec<Check>,
}

impl HostReport {
    /// Whether everything that is required holds.
    #[must_use]
    pub fn enforces(&self) -> bool {
        self.checks.iter().all(|check| check.ok || !check.required)
    }
}

/// Hooks that came after 6.1, with what they are about or in the place of others: 6.2, 6.8, 6.17. A kernel without one has
/// nothing for it to see, or another hook sees it.
const NEWER: [&str; 5] =
    ["file_ioctl_compat", "file_truncate", "inode_file_setattr", "inode_remove_acl", "inode_set_acl"];

/// Looks at the machine. Loads the matcher and a program for one hook to see what the kernel says; attaches nothing.
#[must_use]
pub fn probe() -> HostReport {
    HostReport {
        checks: vec![
            privilege(),
            kernel(),
            lsm(),
            btf_and_hooks(),
            programs(),
            bpffs(),
            cgroup(),
            sequences(),
            arguments(),
        ],
    }
}

fn check(name: &str, required: bool, found: Result<String, (String, &str)>) -> Check {
    let (ok, detail, advice) = match found {
        Ok(detail) => (true, detail, String::new()),
        Err((detail, advice)) => (false, detail, advice.to_owned()),
    };
    Check { name: name.to_owned(), ok, required, detail, advice }
}

fn privilege() -> Check {
    let uid = rustix::process::geteuid();
    let found = match uid.is_root() {
        true => Ok("running as root".to_owned()),
        false => Err((
            format!("running as uid {}", uid.as_raw()),
            "run as root (in a pod: CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE)",
        )),
    };
    check("privilege", true, found)
}

fn kernel() -> Check {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let found = if version >= (6, 1) { Ok(release) } else { Err((release, "use Linux 6.1 or later")) };
    check("kernel", true, found)
}

fn lsm() -> Check {
    let found = match fs::read_to_string(LSM_LIST) {
        Ok(list) if list.trim().split(',').any(|module| module == "bpf") => Ok(list.trim().to_owned()),
        Ok(list) => {
            Err((list.trim().to_owned(), "add `bpf` to the list in the `lsm=` boot parameter and reboot"))
        }
        Err(error) => Err((
            format!("cannot read {LSM_LIST}: {error}"),
            "mount securityfs on /sys/kernel/security (in a pod: a hostPath volume)",
        )),
    };
    check("bpf-lsm", true, found)
}

/// Each hook that a program stands for: a hook that the kernel has not leaves a way round some rule. Of those that only
/// some kernels have, and need, what is missing is no fault.
fn btf_and_hooks() -> Check {
    let found = match (Btf::from_vmlinux(), load::hooks()) {
        (Err(error), _) => Err((error.to_string(), "use a kernel with CONFIG_DEBUG_INFO_BTF=y")),
        (_, Err(error)) => Err((error.to_string(), "this build of nri-enforcer is damaged")),
        (Ok(kernel), Ok(hooks)) => {
            let has = |hook: &str| kernel.type_by_name::<btf::Func<'_>>(&format!("bpf_lsm_{hook}")).is_some();
            let (present, missing): (Vec<String>, Vec<String>) =
                hooks.into_iter().partition(|hook| has(hook));
            let (newer, missing): (Vec<String>, Vec<String>) =
                missing.into_iter().partition(|hook| NEWER.contains(&hook.as_str()));
            let newer = match newer.as_slice() {
                [] => String::new(),
                newer => format!("; not in this kernel: {}", newer.join(", ")),
            };
            if missing.is_empty() {
                Ok(format!("{}: {}{newer}", present.len(), present.join(", ")))
            } else {
                let advice = "use a kernel with CONFIG_BPF_LSM=y, CONFIG_SECURITY_PATH=y and CONFIG_SECURITY_NETWORK=y (AppArmor brings the latter two)";
                Err((
                    format!("missing: {}; there: {}{newer}", missing.join(", "), present.join(", ")),
                    advice,
                ))
            }
        }
    };
    check("hooks", true, found)
}

fn programs() -> Check {
    let found = match Doors::open(Reading::AsHooks).and_then(|_| load::try_one_hook()) {
        Ok(()) => Ok("the matcher and a program for a hook load".to_owned()),
        Err(error) => Err((
            error.to_string(),
            "see the kernel's log; lockdown, a missing capability or the kernel's own policy refuses BPF programs",
        )),
    };
    check("bpf-programs", true, found)
}

fn bpffs() -> Check {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let path = "/sys/fs/bpf";
    let found = match rustix::fs::statfs(path) {
        Ok(stat) if stat.f_type & 0xffff_ffff == BPF_FS_MAGIC => Ok(path.to_owned()),
        Ok(_) => Err((format!("{path} is something else"), "mount -t bpf bpf /sys/fs/bpf")),
        Err(error) => Err((format!("{path}: {}", io::Error::from(error)), "mount -t bpf bpf /sys/fs/bpf")),
    };
    check("bpffs", true, found)
}

fn cgroup() -> Check {
    let v2 = |dir: &str| Path::new(dir).join("cgroup.controllers").exists();
    let found = if v2("/sys/fs/cgroup") {
        Ok("unified hierarchy".to_owned())
    } else if v2("/sys/fs/cgroup/unified") {
        Ok("hybrid: containers with a cgroup of their own in the unified hierarchy are found by it"
            .to_owned())
    } else {
        Err((
            "no cgroup v2".to_owned(),
            "processes that enter by exec are found by their mount namespace; cgroup v2 is safer",
        ))
    };
    check("cgroup-v2", false, found)
}

fn sequences() -> Check {
    let found = match fs::read_to_string("/proc/kallsyms") {
        Ok(symbols) if ["rename_lock", "mount_lock"].iter().all(|name| has_symbol(&symbols, name)) => {
            Ok("renames and mounts during a look-up are noticed".to_owned())
        }
        _ => Err((
            "the kernel does not show rename_lock and mount_lock".to_owned(),
            "use a kernel with CONFIG_KALLSYMS_ALL=y; else a rename in the middle of a look-up can show a mixture of two paths",
        )),
    };
    check("path-sequences", false, found)
}

/// What the programs find the arguments of a program by; `allowedArgs` fails closed without.
fn arguments() -> Check {
    let paravirtual = fs::read_to_string("/sys/hypervisor/guest_type").is_ok_and(|kind| kind.trim() == "PV");
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let denied =
        "; rules that allow with `allowedArgs` cover nothing here, and those that block exempt nothing";
    let found = if cfg!(not(target_arch = "x86_64")) {
        Err((format!("page tables of this architecture are not read{denied}"), "use x86-64 for such rules"))
    } else if paravirtual {
        Err((
            format!("a paravirtual guest of Xen, whose page tables name the machine's memory{denied}"),
            "use a PVH or HVM guest",
        ))
    } else if ["page_offset_base", "pgdir_shift"].iter().all(|name| has_symbol(&symbols, name)) {
        Ok("arguments of programs are read where the kernel has copied them to".to_owned())
    } else {
        Err((
            format!("the kernel does not show page_offset_base and pgdir_shift{denied}"),
            "use a kernel with CONFIG_KALLSYMS_ALL=y and CONFIG_RANDOMIZE_MEMORY=y, as distributions build it",
        ))
    };
    check("program-arguments", false, found)
}

fn has_symbol(symbols: &str, name: &str) -> bool {
    symbols.lines().any(|line| line.split_whitespace().nth(2) == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_required_does_not_prevent_enforcement() {
        let mut report = HostReport {
            checks: vec![check("a", true, Ok(String::new())), check("b", false, Err((String::new(), "do")))],
        };
        assert!(report.enforces());
        report.checks.push(check("c", true, Err((String::new(), "do"))));
        assert!(!report.enforces());
    }

    /// The list is the programs' own: one that is not told of is one that nobody misses.
    #[test]
    fn the_hooks_that_are_looked_for_are_those_of_the_programs() {
        let hooks = load::hooks().unwrap();
        assert!(NEWER.iter().all(|newer| hooks.iter().any(|hook| hook == newer)), "{hooks:?}");
        let told = btf_and_hooks();
        let words: Vec<&str> = told.detail.split([' ', ',', ':', ';']).collect();
        for hook in &hooks {
            assert!(words.contains(&hook.as_str()), "{hook} is not in {}", told.detail);
        }
        for hook in ["task_alloc", "file_open", "socket_connect", "capable", "sb_mount", "mmap_file"] {
            assert!(hooks.iter().any(|found| found == hook), "{hook}");
        }
    }

    #[test]
    fn the_probe_answers_everything_with_advice_where_something_is_missing() {
        for check in probe().checks {
            assert_eq!(check.ok, check.advice.is_empty(), "{check:?}");
            assert!(!check.detail.is_empty(), "{check:?}");
        }
    }
}
