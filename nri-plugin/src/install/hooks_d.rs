//! `hooks.d`, for CRI-O and podman: a JSON file for each stage, and a drop-in where the directory is not read.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::edit::Toml;
use super::plan::Plan;
use super::program::{entry, found, runs};
use super::record::{Put, Record};
use super::root::Content;
use super::{Failure, Told};
use crate::cli::Runtime;

/// The distribution's: what both read, unless they are told otherwise.
const DEFAULT_DIR: &str = "/usr/share/containers/oci/hooks.d";

/// How a runtime is configured.
struct Layout {
    /// Its files, in the order in which they are read.
    files: &'static [&'static str],
    /// The table with `hooks_dir`.
    table: &'static str,
    /// Our drop-in, read after those of others.
    drop_in: &'static str,
    /// Files that are read even after it.
    last: &'static [&'static str],
    /// The directory of the hooks. Not the same one for both: only podman's say `--podman`.
    dir: &'static str,
    stages: &'static [&'static str],
    /// Arguments of the hook behind the stage.
    more: &'static [&'static str],
}

const CRIO: Layout = Layout {
    files: &["/etc/crio/crio.conf", "/etc/crio/crio.conf.d/*"],
    table: "crio.runtime",
    drop_in: "/etc/crio/crio.conf.d/99-nri-enforcer.conf",
    last: &[],
    dir: "/etc/containers/oci/hooks.d", // the administrator's
    stages: &["createRuntime", "poststop"],
    more: &[],
};
const PODMAN: Layout = Layout {
    files: &[
        "/usr/share/containers/containers.conf",
        "/etc/containers/containers.conf",
        "/etc/containers/containers.conf.d/*.conf",
    ],
    table: "engine",
    drop_in: "/etc/containers/containers.conf.d/99-nri-enforcer.conf",
    // root's own, which podman 5 reads, and podman 4.3 does not (containers/common pkg/config/new.go)
    last: &["/root/.config/containers/containers.conf", "/root/.config/containers/containers.conf.d/*.conf"],
    dir: "/etc/containers/oci/nri-enforcer-podman.d",
    stages: &["precreate", "createRuntime", "poststop"],
    more: &["--podman"],
};

fn layout(runtime: Runtime) -> &'static Layout {
    if runtime == Runtime::Podman { &PODMAN } else { &CRIO }
}

/// What the files of the host say.
struct Configured {
    dirs: Vec<String>,
    nri: Option<bool>,
}

/// Puts the files in place.
///
/// # Errors
/// When a configuration is none, or one that is read later would win.
pub fn put(runtime: Runtime, plan: &mut Plan, record: &mut Record, told: &mut Told) -> Result<(), Failure> {
    let layout = layout(runtime);
    let kept = |path: &Path, told: &mut Told| {
        told.note(format!("`{}` was changed by hand, and stays as it is", path.display()));
    };
    let lost = |path: &Path, what: &str| {
        let path = path.display();
        Failure::no(format!("`{path}` was changed by hand, and {what}: remove it, then install again"))
    };
    for stage in layout.stages {
        let path = PathBuf::from(format!("{}/nri-enforcer-{}.json", layout.dir, stage.to_lowercase()));
        let wanted = entry(&record.hook, stage, layout.more);
        let hook = json!({"version": "1.0.0", "hook": wanted, "when": {"always": true}, "stages": [stage]});
        if record.put(plan, &path, Content::new(format!("{hook:#}\n"), 0o644))? == Put::Kept {
            let is = plan.read(&path)?.map(|is| is.bytes).unwrap_or_default();
            if !holds(&is, &wanted, stage) {
                return Err(lost(&path, "does not run the hook any more"));
            }
            kept(&path, told);
        }
    }
    let Configured { mut dirs, nri } = configured(layout, plan)?;
    let mut text = String::from("# Made by `nri-enforcer install`, which also removes it (--uninstall).\n");
    let unread = position(&dirs, layout.dir).is_none();
    if unread {
        dirs.push(layout.dir.to_owned());
        text.push_str(&format!("[{}]\nhooks_dir = {}\n", layout.table, Value::from(dirs)));
    }
    let off = runtime == Runtime::Crio && nri != Some(true);
    if off {
        text.push_str("[crio.nri]\nenable_nri = true\n"); // since 1.30 the default
    }
    let path = Path::new(layout.drop_in);
    if (unread || off) && record.put(plan, path, Content::new(text, 0o644))? == Put::Kept {
        let is = drop_in(layout, plan)?;
        if unread && hooks_dirs(layout, &is).is_none_or(|dirs| position(&dirs, layout.dir).is_none()) {
            return Err(lost(path, "does not name the directory of the hook any more"));
        }
        if off && nri_of(&is) != Some(true) {
            return Err(lost(path, "does not switch NRI on any more"));
        }
        kept(path, told);
    }
    apart(runtime, plan)
}

/// Looks whether podman runs its own hook, where CRI-O has one too. Of files with one name podman takes that of the directory
/// it reads last, and ours have the same names in both.
fn apart(runtime: Runtime, plan: &Plan) -> Result<(), Failure> {
    let other = if runtime == Runtime::Podman { "crio" } else { "podman" };
    if Record::load(plan, other)?.is_none() {
        return Ok(());
    }
    let dirs = hooks_dirs(&PODMAN, &drop_in(&PODMAN, plan)?);
    let dirs = dirs.map_or_else(|| configured(&PODMAN, plan).map(|configured| configured.dirs), Ok)?;
    match (position(&dirs, PODMAN.dir), position(&dirs, CRIO.dir)) {
        (Some(own), Some(crio)) if crio > own => Err(Failure::no(format!(
            "podman reads `{}` after `{}`, and so runs CRI-O's hook in place of its own, which has the same file names: name \
             `{1}` last in `hooks_dir` in podman's configuration",
            CRIO.dir, PODMAN.dir
        ))),
        _ => Ok(()),
    }
}

/// Where in a list a directory is read last.
fn position(dirs: &[String], dir: &str) -> Option<usize> {
    dirs.iter().rposition(|one| Path::new(one) == Path::new(dir))
}

/// What our drop-in says; nothing where it is not there, or is no TOML.
fn drop_in(layout: &Layout, plan: &Plan) -> Result<Value, Failure> {
    let is = plan.read(Path::new(layout.drop_in))?.map(|is| is.bytes).unwrap_or_default();
    Ok(toml_edit::de::from_str(&String::from_utf8_lossy(&is)).unwrap_or_default())
}

/// Whether a file of `hooks.d` still runs the hook at its stage, in every container: any other condition beside `always`
/// leaves some out.
fn holds(file: &[u8], wanted: &Value, stage: &str) -> bool {
    let Ok(file) = serde_json::from_slice::<Value>(file) else { return false };
    let stages = file.get("stages").and_then(Value::as_array);
    file.get("hook").is_some_and(|hook| runs(hook, wanted))
        && file.get("when") == Some(&json!({"always": true}))
        && stages.is_some_and(|stages| stages.iter().any(|one| one == stage))
}

/// The `hooks_dir` of a file.
fn hooks_dirs(layout: &Layout, data: &Value) -> Option<Vec<String>> {
    Some(entries(layout, data)?.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// Whether it adds to what was read before: `{append = true}` in the list, since podman 5 (containers.conf(5)).
fn appends(layout: &Layout, data: &Value) -> bool {
    entries(layout, data).is_some_and(|entries| entries.contains(&json!({"append": true})))
}

fn entries<'a>(layout: &Layout, data: &'a Value) -> Option<&'a Vec<Value>> {
    let table = layout.table.split('.').try_fold(data, |at, table| at.get(table))?;
    table.get("hooks_dir")?.as_array()
}

/// Whether a file of CRI-O's switches NRI on; `None`: it does not say.
fn nri_of(data: &Value) -> Option<bool> {
    data.pointer("/crio/nri/enable_nri").and_then(Value::as_bool)
}

/// What the files say without our drop-in. Later files win.
fn configured(layout: &Layout, plan: &Plan) -> Result<Configured, Failure> {
    let mut configured = Configured { dirs: vec![DEFAULT_DIR.to_owned()], nri: None };
    let root = plan.root().clone();
    let drop_in = Path::new(layout.drop_in);
    let files = |patterns: &[&str]| -> Vec<PathBuf> {
        let files = patterns.iter().flat_map(|pattern| found(&root, pattern)).filter(|file| !file.is_dir());
        files.map(|file| Path::new("/").join(file.strip_prefix(root.dir()).unwrap_or(&file))).collect()
    };
    for path in files(layout.last) {
        let Some(data) = data_of(plan, &path)? else { continue };
        let without = hooks_dirs(layout, &data).is_some_and(|dirs| position(&dirs, layout.dir).is_none());
        if without && !appends(layout, &data) {
            return Err(Failure::no(format!(
                "`{}` is read after `{}`, and sets hooks_dir: podman would not run the hook. Take that out of it, or name `{}` there, \
                 too",
                path.display(),
                drop_in.display(),
                layout.dir
            )));
        }
    }
    for path in files(layout.files) {
        if path == drop_in {
            continue;
        }
        let Some(data) = data_of(plan, &path)? else { continue };
        let dirs = hooks_dirs(layout, &data);
        let nri = nri_of(&data);
        if path > *drop_in
            && path.parent() == drop_in.parent()
            && ((dirs.is_some() && !appends(layout, &data)) || nri == Some(false))
        {
            return Err(Failure::no(format!(
                "`{}` is read after `{}`, and sets hooks_dir or enable_nri: rename it, so that it is read before",
                path.display(),
                drop_in.display()
            )));
        }
        match dirs {
            Some(dirs) if appends(layout, &data) => configured.dirs.extend(dirs),
            Some(dirs) => configured.dirs = dirs,
            None => {}
        }
        configured.nri = nri.or(configured.nri);
    }
    Ok(configured)
}

/// A file of the host's; `None`: it is not there.
fn data_of(plan: &Plan, path: &Path) -> Result<Option<Value>, Failure> {
    let Some(content) = plan.read(path)? else { return Ok(None) };
    let text = String::from_utf8(content.bytes)
        .map_err(|_| Failure::bad(format!("`{}` is not UTF-8", path.display())))?;
    let toml = Toml::new(text, false)
        .map_err(|error| Failure::bad(format!("`{}`, {error}; it is left as it is", path.display())))?;
    Ok(Some(toml.data()))
}
