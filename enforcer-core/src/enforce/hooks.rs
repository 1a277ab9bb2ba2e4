//! Which hooks are attached: those that every ruleset needs always, the others only while some ruleset in the kernel
//! has rules of their classes. A hook costs each process of the node something, whether it is confined or not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use enforcer_bpf::types::enforcer_class as class;
use libbpf_rs::{Object, ProgramMut};

use super::error::{During, EnforceError};

/// A link's pin while it stands beside the one it is to replace.
const NEW: &str = "_new";
/// Hooks of a tracing point, not of the security module.
const TRACING: &str = "raw_tp/";
const LSM: &str = "lsm/";
/// Attached before all others: nothing may be judged that is not known, and nobody may be born unknown.
const IDENTITY: [&str; 3] = ["task_free", "task_alloc", "bprm_check_security"];

/// In a word of classes: there are descriptors that are older than the rules that deny them.
pub(super) const HELD: u32 = 1 << 31;

/// For which classes of rules a program is attached, a bit for each; `None`: always.
fn classes_of(program: &str) -> Option<u32> {
    let classes = match program {
        "capable" => 1 << class::CLASS_CAPABILITY.0,
        "sys_enter" => 1 << class::CLASS_SYSCALL.0,
        "mmap_file" => 1 << class::CLASS_PROCESS.0 | 1 << class::CLASS_PRESET.0,
        "file_mprotect" => 1 << class::CLASS_PROCESS.0,
        "preset_file_mprotect" => 1 << class::CLASS_PRESET.0,
        "file_permission" | "held_mmap_file" => HELD,
        "sctp_bind_connect" => 1 << class::CLASS_NETWORK.0,
        _ if program.starts_with("socket_") => 1 << class::CLASS_NETWORK.0,
        _ => return None,
    };
    Some(classes)
}

fn name_of(program: &ProgramMut<'_>) -> String {
    program.name().to_string_lossy().into_owned()
}

fn section_of(program: &ProgramMut<'_>) -> String {
    program.section().to_string_lossy().into_owned()
}

fn pin_of(name: &str) -> String {
    format!("link_{name}")
}

fn remove(path: &Path) -> Result<(), EnforceError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(EnforceError::Pin { what: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Attaches a program and pins its link, beside the old one before it takes its place: LSM links cannot be updated
/// (EINVAL), and while both run the stricter verdict holds.
fn attach_one(program: &ProgramMut<'_>, dir: &Path) -> Result<(), EnforceError> {
    let name = pin_of(&name_of(program));
    let (pin, new) = (dir.join(&name), dir.join(format!("{name}{NEW}")));
    remove(&new)?;
    let attached = match section_of(program).strip_prefix(TRACING) {
        Some(point) => program.attach_raw_tracepoint(point),
        None => program.attach_lsm(),
    };
    let mut link = attached.during(format!("attach {name}"))?;
    link.pin(&new).during(format!("pin {name}"))?;
    drop(link); // closes our descriptor; the pin holds the link
    fs::rename(&new, &pin).map_err(|source| EnforceError::Pin { what: "replace", path: pin, source })
}

/// The loaded programs of hooks, in the order in which they are attached.
fn hooks(object: &Object) -> Vec<ProgramMut<'_>> {
    let is_hook = |p: &ProgramMut<'_>| {
        let section = section_of(p);
        p.autoload() && (section.starts_with(LSM) || section.starts_with(TRACING))
    };
    let mut hooks: Vec<_> = object.progs_mut().filter(is_hook).collect();
    hooks.sort_by_key(|p| IDENTITY.iter().position(|name| p.name() == *name).unwrap_or(IDENTITY.len()));
    hooks
}

/// Attaches every hook that rules of these classes need, in place of what an earlier daemon attached, and takes away
/// what is left of that.
pub(super) fn attach(object: &Object, dir: &Path, classes: u32) -> Result<(), EnforceError> {
    let mut pins = Vec::new();
    for hook in hooks(object) {
        let name = name_of(&hook);
        if classes_of(&name).is_none_or(|needed| needed & classes != 0) {
            attach_one(&hook, dir)?;
            pins.push(pin_of(&name));
        }
    }
    for pin in pinned(dir)? {
        let name = pin.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("link_") && !pins.iter().any(|kept| *kept == name) {
            remove(&pin)?;
        }
    }
    Ok(())
}

/// Attaches the hooks that rules of these classes need and that are not there yet. To be called before anything in the
/// kernel names such rules.
pub(super) fn attach_missing(object: &Object, dir: &Path, classes: u32) -> Result<(), EnforceError> {
    for hook in hooks(object) {
        let name = name_of(&hook);
        let needed = classes_of(&name).is_some_and(|needed| needed & classes != 0);
        if needed && !dir.join(pin_of(&name)).exists() {
            attach_one(&hook, dir)?;
        }
    }
    Ok(())
}

/// Takes away the hooks that no rules of these classes need. To be called when nothing names any others.
pub(super) fn detach_unneeded(object: &Object, dir: &Path, classes: u32) -> Result<(), EnforceError> {
    for hook in hooks(object) {
        let name = name_of(&hook);
        if classes_of(&name).is_some_and(|needed| needed & classes == 0) {
            remove(&dir.join(pin_of(&name)))?;
        }
    }
    Ok(())
}

fn pinned(dir: &Path) -> Result<Vec<PathBuf>, EnforceError> {
    let unreadable = |source| EnforceError::Pin { what: "read", path: dir.to_owned(), source };
    let entries = fs::read_dir(dir).map_err(unreadable)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(unreadable)).collect()
}
