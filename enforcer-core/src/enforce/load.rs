//! The programs into the kernel: load, and adopt the maps that an earlier daemon pinned.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use enforcer_bpf::types;
use libbpf_rs::btf::{Btf, ReferencesType as _, types as btf};
use libbpf_rs::{Link, Object, ObjectBuilder, OpenObject};
use rustix::fs::statfs;

use super::error::{During, EnforceError};
use super::exclusive;
use super::held::Iterators;

/// Maps that outlive the daemon.
const PINNED: [&str; 16] = [
    "task_subjects",
    "pointer_subjects",
    "armed",
    "containers",
    "cgroup_containers",
    "namespace_containers",
    "armed_namespaces",
    "host",
    "exempt_cgroups",
    "exempt_programs",
    "rulesets",
    "automata",
    "published",
    "held_files",
    "events",
    "counters",
];
/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// Where the kernel lists its active security modules.
pub(crate) const LSM_LIST: &str = "/sys/kernel/security/lsm";

/// The loaded object and what keeps it in force.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) object: Object,
    pub(super) mark: Link,
    /// The classes of rules whose hooks are attached, a bit for each.
    pub(super) attached: u32,
    /// The pin directory, locked as long as this is open.
    _lock: fs::File,
}

/// The directory that holds the pins of this layout.
pub(super) fn pin_directory(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("v{}", enforcer_bpf::LAYOUT))
}

/// Whether the kernel calls BPF-LSM programs at all: they would load and attach even where it does not.
pub(super) fn check_lsm() -> Result<(), EnforceError> {
    let active = fs::read_to_string(LSM_LIST)
        .map_err(|source| EnforceError::LsmUnknown { path: LSM_LIST.into(), source })?;
    let active = active.trim().to_owned();
    if active.split(',').any(|module| module == "bpf") {
        return Ok(());
    }
    Err(EnforceError::LsmDisabled { active })
}

/// Task storage may answer NULL while another task was preempted inside it, below 6.2 (bc235cdb423a, "bpf: Prevent
/// deadlock from recursive bpf_task_storage_[get|delete]"). Told by what 6.2 also brought, not by a version number
/// that a distribution may change: the hook `file_truncate`.
fn needs_pointer_map(kernel: &Btf<'_>) -> bool {
    !has_hook(kernel, "file_truncate")
}

/// Plain loads from any kernel address (fd264ca02094, "bpf: Add kfunc bpf_rdonly_cast", 6.2).
pub(super) fn has_direct_loads(kernel: &Btf<'_>) -> bool {
    kernel.type_by_name::<btf::Func<'_>>("bpf_rdonly_cast").is_some()
}

/// Sets a constant of the programs.
pub(super) fn settle(data: &mut [u8], at: usize, value: bool) {
    data.iter_mut().skip(at).zip(u32::from(value).to_ne_bytes()).for_each(|(to, from)| *to = from);
}

fn has_hook(kernel: &Btf<'_>, hook: &str) -> bool {
    kernel.type_by_name::<btf::Func<'_>>(&format!("bpf_lsm_{hook}")).is_some()
}

/// How many arguments a hook has; 0 where the kernel has no such hook.
fn arguments(kernel: &Btf<'_>, hook: &str) -> usize {
    let function = kernel.type_by_name::<btf::Func<'_>>(&format!("bpf_lsm_{hook}"));
    let prototype = function.and_then(|function| btf::FuncProto::try_from(function.referenced_type()).ok());
    prototype.map_or(0, |prototype| prototype.len())
}

/// Loads the programs, taking over pinned maps. Nothing is attached yet but the iterators.
pub(super) fn load(bpffs: &Path) -> Result<(Loaded, Iterators), EnforceError> {
    check_lsm()?;
    let dir = pin_directory(bpffs);
    let lock = lock(&dir)?;
    let object = prepare(&dir)?.load().during("load the BPF programs")?;
    let iterator = |name: &str| {
        let program = object.progs_mut().find(|program| program.name() == name);
        let program = program.ok_or(EnforceError::Full("an iterator is missing from the object"))?;
        program.attach().during(format!("attach {name}"))
    };
    let mark = iterator("mark_tasks")?;
    let iterators = Iterators { rings: iterator("find_rings")?, files: iterator("find_held")? };
    Ok((Loaded { object, mark, attached: 0, _lock: lock }, iterators))
}

/// The hooks that the programs stand on, each once, sorted; from the object itself. Loads nothing.
pub(crate) fn hooks() -> Result<Vec<String>, EnforceError> {
    let open = ObjectBuilder::default().open_memory(enforcer_bpf::OBJECT).during("read the BPF object")?;
    let sections = open.progs().map(|program| program.section().to_string_lossy().into_owned());
    let hooks: BTreeSet<String> =
        sections.filter_map(|section| section.strip_prefix("lsm/").map(str::to_owned)).collect();
    Ok(hooks.into_iter().collect())
}

/// Loads one small program for a hook, attaches nothing, and lets it go: some kernels list `bpf` and refuse.
pub(crate) fn try_one_hook() -> Result<(), EnforceError> {
    let mut open =
        ObjectBuilder::default().open_memory(enforcer_bpf::OBJECT).during("read the BPF object")?;
    for mut program in open.progs_mut() {
        let wanted = program.name() == "task_free";
        program.set_autoload(wanted);
    }
    open.load().during("load a program for a hook").map(drop)
}

/// Creates the pin directory and takes it for this process.
fn lock(dir: &Path) -> Result<fs::File, EnforceError> {
    let pin = |what| move |source| EnforceError::Pin { what, path: dir.to_owned(), source };
    let existing = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(dir);
    let magic = statfs(existing).map_err(io::Error::from).map_err(pin("look at"))?.f_type;
    if magic & 0xffff_ffff != BPF_FS_MAGIC {
        return Err(EnforceError::NotBpffs { path: dir.to_owned() });
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(pin("create"))?;
    let lock = exclusive::take(dir).map_err(pin("lock"))?;
    lock.ok_or_else(|| EnforceError::Busy { path: dir.to_owned() })
}

/// Opens the object and settles what depends on the kernel.
fn prepare(dir: &Path) -> Result<OpenObject, EnforceError> {
    let kernel =
        Btf::from_vmlinux().during("read the kernel's type information (/sys/kernel/btf/vmlinux)")?;
    let pointers = needs_pointer_map(&kernel);
    let mut open =
        ObjectBuilder::default().open_memory(enforcer_bpf::OBJECT).during("read the BPF object")?;
    for mut program in open.progs_mut() {
        let section = program.section().to_string_lossy().into_owned();
        let plain = program.name() == "inode_setattr_plain";
        let wanted = match section.strip_prefix("lsm/") {
            Some("task_free") => pointers,
            // two programs for the two shapes of the hook
            Some("inode_setattr") => arguments(&kernel, "inode_setattr") == if plain { 2 } else { 3 },
            Some(hook) => has_hook(&kernel, hook),
            None => section.starts_with("iter/") || section.starts_with("raw_tp/"),
        };
        program.set_autoload(wanted);
    }
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if PINNED.contains(&name.as_str()) {
            map.set_pin_path(dir.join(&name)).during(format!("place map {name}"))?;
        }
        if name == "pointer_subjects" && !pointers {
            map.set_max_entries(1).during("shrink map pointer_subjects")?;
        }
        if name.ends_with(".rodata") {
            let data = map.initial_value_mut().unwrap_or_default();
            settle(data, std::mem::offset_of!(types::rodata, use_pointer_map), pointers);
            settle(data, std::mem::offset_of!(types::rodata, direct_loads), has_direct_loads(&kernel));
        }
        if name.starts_with("door_") {
            map.set_autocreate(false).during("leave the doors out")?;
        }
    }
    Ok(open)
}

fn pins(dir: &Path) -> Result<Vec<String>, EnforceError> {
    let unreadable = |source| EnforceError::Pin { what: "read", path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        names.push(entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Pin directories of every layout, in the order of their names.
fn layouts(bpffs: &Path) -> Result<Vec<PathBuf>, EnforceError> {
    let is_layout = |name: &String| name.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok());
    let mut names: Vec<String> = if bpffs.exists() { pins(bpffs)? } else { Vec::new() };
    names.retain(is_layout);
    names.sort();
    Ok(names.into_iter().map(|name| bpffs.join(name)).collect())
}

/// Takes one layout's pins out of the kernel: links first, so that no program runs on maps that are going.
fn remove_layout(dir: &Path) -> Result<(), EnforceError> {
    let _lock = lock(dir)?;
    let mut names = pins(dir)?;
    names.sort_by_key(|name| !name.starts_with("link_"));
    for name in names {
        let path = dir.join(name);
        fs::remove_file(&path).map_err(|source| EnforceError::Pin { what: "remove", path, source })?;
    }
    fs::remove_dir(dir).map_err(|source| EnforceError::Pin { what: "remove", path: dir.to_owned(), source })
}

/// Takes everything out of the kernel, whichever version put it there.
pub(super) fn unload(bpffs: &Path) -> Result<(), EnforceError> {
    layouts(bpffs)?.iter().try_for_each(|dir| remove_layout(dir))?;
    fs::remove_dir(bpffs).ok(); // it may be the file system's own root, or hold what is not ours
    Ok(())
}

/// Takes out what daemons of another layout left; how many layouts that were.
pub(super) fn retire_others(bpffs: &Path) -> Result<usize, EnforceError> {
    let own = pin_directory(bpffs);
    let others: Vec<PathBuf> = layouts(bpffs)?.into_iter().filter(|dir| *dir != own).collect();
    others.iter().try_for_each(|dir| remove_layout(dir))?;
    Ok(others.len())
}

/// Runs of each program that the kernel skipped because one was active on the CPU: must stay 0.
pub(super) fn recursion_misses(object: &Object) -> u64 {
    let ids: Vec<u32> = object
        .progs_mut()
        .filter(|program| program.autoload())
        .filter_map(|program| {
            use std::os::fd::AsFd;
            libbpf_rs::Program::id_from_fd(program.as_fd()).ok()
        })
        .collect();
    libbpf_rs::query::ProgInfoIter::default()
        .filter(|info| ids.contains(&info.id))
        .map(|info| info.recursion_misses)
        .sum()
}
