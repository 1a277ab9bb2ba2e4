//! The hook and its configuration on the host.

use std::fs;
use std::path::{Path, PathBuf};

use nri_enforcer_hook::config::{Config, DEFAULT_EXEMPT, EXEMPT_FILE, FILE, Mode, exempt_in, others_write};
use serde_json::{Map, Value, json};

use super::plan::{FileError, Plan};
use super::record::{Put, Record, RecordError};
use super::root::{Content, Root};
use super::{Failure, Told};
use crate::cli::InstallArgs;
use crate::inject::{self, TIMEOUT_SECONDS};
use crate::podman::storages;

/// Its name.
pub const NAME: &str = "nri-enforcer-hook";
/// Bytes of it at most; it has some 2 MiB.
const MAX_BYTES: usize = 16 << 20;
/// State directories of containerd: its own, that of k3s and RKE2, k0s', MicroK8s'.
const STATES: [&str; 4] = [
    "/run/containerd",
    "/run/k3s/containerd",
    "/run/k0s/containerd",
    "/var/snap/microk8s/common/run/containerd",
];
/// Where one keeps the bundles of containers, each with the hooks that it is still to run.
const BUNDLES: &str = "io.containerd.runtime.v2.task/*/*/config.json";
/// The same below a directory of containers/storage, whatever its driver: podman's, and CRI-O's.
const STORED: &str = "*-containers/*/userdata/config.json";

/// The entry of a hook in OCI's runtime specification, and in `hooks.d`, with more arguments than the stage.
#[must_use]
pub fn entry(hook: &Path, stage: &str, more: &[&str]) -> Value {
    let path = hook.to_string_lossy();
    let args: Vec<&str> = [&*path, stage].into_iter().chain(more.iter().copied()).collect();
    json!({"path": path, "args": args, "timeout": TIMEOUT_SECONDS})
}

/// Whether a hook that is there runs what the wanted one does.
#[must_use]
pub fn runs(hook: &Value, wanted: &Value) -> bool {
    ["path", "args"].iter().all(|key| hook.get(key) == wanted.get(key))
}

/// Whether only root can put a program where the hook is to be: a runtime runs it as root, in each container.
///
/// # Errors
/// When others can, at some part of the path that is there.
pub fn check_place(root: &Path, hook: &Path) -> Result<(), Failure> {
    inject::check_place(root, hook).map_err(|problem| unsafe_hook(hook, &problem))
}

/// The same of the hook that has been put there.
///
/// # Errors
/// When it is no program that only root can have written.
pub fn check(args: &InstallArgs) -> Result<(), Failure> {
    let hook = args.hook_dir.join(NAME);
    inject::check(&args.root, &hook).map_err(|problem| unsafe_hook(&hook, &problem))
}

fn unsafe_hook(hook: &Path, problem: &str) -> Failure {
    Failure::no(format!(
        "the hook `{}` {problem}: runtimes run it as root in each container, so whoever can write it is root on this host; make \
         each part of its path root's and let nobody else write there (chown root, chmod go-w), or name another --hook-dir; \
         nothing is changed",
        hook.display()
    ))
}

/// Puts both in place.
///
/// # Errors
/// When one cannot be read, or something else is there.
pub fn put(
    args: &InstallArgs,
    plan: &mut Plan,
    record: &mut Record,
    runtime: &str,
    told: &mut Told,
) -> Result<(), Failure> {
    let source = match &args.hook {
        Some(hook) => hook.clone(),
        None => std::env::current_exe()
            .map_err(|error| Failure::bad(format!("cannot find this program: {error}")))?
            .with_file_name(NAME),
    };
    let bytes = fs::read(&source).map_err(|error| {
        Failure::bad(format!("cannot read the hook `{}`: {error}; name it with --hook", source.display()))
    })?;
    if !bytes.starts_with(b"\x7fELF") || bytes.len() > MAX_BYTES {
        return Err(Failure::bad(format!(
            "`{}` is not the hook: no program, or too large a one",
            source.display()
        )));
    }
    let hook = record.hook.clone();
    if share(plan, record, runtime, &hook, Content::new(bytes, 0o755))? == Put::Kept {
        return Err(Failure::no(format!(
            "`{}` is there, and was not put there by this command: remove it, or name another --hook-dir",
            hook.display()
        )));
    }
    let config = match &args.hook_config {
        Some(path) => {
            let bytes = fs::read(path)
                .map_err(|error| Failure::bad(format!("cannot read `{}`: {error}", path.display())))?;
            Config::parse(&bytes).map_err(|problem| {
                Failure::bad(format!("`{}` is no configuration of the hook: {problem}", path.display()))
            })?;
            bytes
        }
        None => {
            format!("{:#}\n", json!({"mode": "closed", "exemptNamespaces": [DEFAULT_EXEMPT]})).into_bytes()
        }
    };
    keep_exempt(plan, record, runtime, config, told)
}

/// The configuration, and beside it the list of exempt namespaces that counts should it be damaged.
fn keep_exempt(
    plan: &mut Plan,
    record: &mut Record,
    runtime: &str,
    config: Vec<u8>,
    told: &mut Told,
) -> Result<(), Failure> {
    let [path, list] = [FILE, EXEMPT_FILE].map(|name| record.hook.with_file_name(name));
    let mut exempt = exempt_in(&config).unwrap_or_else(|| Config::default().exempt);
    let others = |is: &Content| is.owner.is_some_and(|(uid, _)| others_write(uid, is.mode).is_some());
    let put = share(plan, record, runtime, &path, Content::new(config, 0o644))?;
    if let Some(is) = plan.read(&path)? {
        let who = is.owner.and_then(|(uid, _)| others_write(uid, is.mode));
        let bad = who.map(str::to_owned).or_else(|| Config::parse(&is.bytes).err());
        match (put, bad) {
            // it says what it should; only who can write it is wrong
            (Put::Done, Some(_)) => {
                plan.set(&path, Some(Content { mode: is.mode & !0o022, owner: Some((0, 0)), ..is }))?;
            }
            (Put::Kept, Some(bad)) => {
                // a list that others can write is nobody's word, as for the hook
                let old = plan.read(&list)?.filter(|old| !others(old));
                exempt.extend(old.and_then(|old| exempt_in(&old.bytes)).unwrap_or_default());
                if who.is_none() {
                    exempt.extend(exempt_in(&is.bytes).unwrap_or_default());
                }
                told.note(format!(
                    "`{}` was changed by hand, and is bad: {bad}; but for the exempt namespaces the defaults count: \
                     repair it, or remove it and install again",
                    path.display()
                ));
            }
            (Put::Kept, None) => {
                exempt = exempt_in(&is.bytes).unwrap_or_else(|| Config::default().exempt);
                told.note(format!("`{}` was changed by hand, and stays as it is", path.display()));
            }
            (Put::Done, None) => {}
        }
    }
    // nobody changes the list by hand: whatever is there is written over
    let owner = plan.read(&list)?.filter(others).map(|_| (0, 0));
    plan.set(&list, None)?;
    let content = Content { owner, ..Content::new(Config::exempt_text(&exempt), 0o644) };
    share(plan, record, runtime, &list, content)?;
    Ok(())
}

/// Puts a file in place that the other runtimes have, too.
fn share(
    plan: &mut Plan,
    record: &mut Record,
    runtime: &str,
    path: &Path,
    content: Content,
) -> Result<Put, Failure> {
    let others = others(plan, record, runtime)?;
    if let Some(digest) = others.iter().find_map(|(_, other)| other.files.get(path)) {
        record.files.insert(path.to_owned(), digest.clone());
    }
    let put = record.put(plan, path, content)?;
    for (name, mut other) in others {
        if let (Some(theirs), Some(digest)) = (other.files.get_mut(path), record.files.get(path)) {
            theirs.clone_from(digest);
            Record::save(Some(&other), plan, name)?;
        }
    }
    Ok(put)
}

/// The records of the other runtimes that have this hook.
fn others(plan: &Plan, record: &Record, runtime: &str) -> Result<Vec<(&'static str, Record)>, RecordError> {
    let mut others = Vec::new();
    for name in ["containerd", "crio", "podman"].into_iter().filter(|name| *name != runtime) {
        let other = Record::load(plan, name)?.filter(|other| other.hook == record.hook);
        others.extend(other.map(|other| (name, other)));
    }
    Ok(others)
}

/// Removes both, unless something on the host still needs the hook.
///
/// # Errors
/// When something cannot be read.
pub fn remove(plan: &mut Plan, record: &mut Record, runtime: &str, told: &mut Told) -> Result<(), Failure> {
    let hook = record.hook.clone();
    let paths = [hook.with_file_name(FILE), hook.with_file_name(EXEMPT_FILE), hook.clone()];
    if let Some((name, mut other)) = others(plan, record, runtime)?.pop() {
        paths.iter().for_each(|path| drop(record.files.remove(path))); // theirs now
        other.directories.extend(record.directories.iter().cloned());
        return Ok(Record::save(Some(&other), plan, name)?);
    }
    if let Some(user) = user(plan, record)? {
        told.left(format!("`{}` stays: {user} still runs it", hook.display()));
        return open(plan, record, told);
    }
    for path in &paths {
        if record.remove(plan, path)? == Put::Kept {
            told.left(format!("`{}` was changed by hand, and stays", path.display()));
        }
    }
    Ok(())
}

/// Opens a hook that has to stay. A runtime goes on giving it to each container until it is restarted, where its base
/// specification had it; with no daemon to vouch for them nothing would start, this command's own pod included.
fn open(plan: &mut Plan, record: &mut Record, told: &mut Told) -> Result<(), Failure> {
    let path = record.hook.with_file_name(FILE);
    let is = plan.read(&path)?.map(|content| content.bytes).unwrap_or_default();
    if Config::parse(&is).is_ok_and(|config| config.mode == Mode::Open) {
        return Ok(());
    }
    // what makes no sense is read by the hook as the defaults, as is nothing
    let mut config = serde_json::from_slice::<Map<String, Value>>(&is).unwrap_or_default();
    config.insert("mode".into(), "open".into());
    let content = Content::new(format!("{:#}\n", Value::from(config)), 0o644);
    match record.put(plan, &path, content)? {
        Put::Done => told.note(format!(
            "`{}` is open now: a container that still gets the hook starts without the daemon",
            path.display()
        )),
        Put::Kept => told.left(format!(
            "`{}` was changed by hand, and stays closed: a container that still gets the hook does not start without the daemon",
            path.display()
        )),
    }
    Ok(())
}

/// Who still runs the hook: without it their containers could not start, or not be removed.
fn user(plan: &Plan, record: &Record) -> Result<Option<String>, FileError> {
    let (hook, config) = (&record.hook, record.hook.with_file_name(FILE));
    for path in record.files.keys().filter(|path| *path != hook && **path != config) {
        if plan.read(path)?.is_some_and(|content| names(&content.bytes, hook)) {
            return Ok(Some(format!("`{}`", path.display())));
        }
    }
    let stored = storages(plan.root().dir());
    let stored =
        stored.iter().map(|dir| format!("{}/{STORED}", glob::Pattern::escape(&dir.to_string_lossy())));
    let bundles = STATES.iter().map(|state| format!("{state}/{BUNDLES}"));
    let patterns: Vec<_> = bundles.chain(stored).collect();
    let containers = patterns.iter().flat_map(|pattern| found(plan.root(), pattern));
    let count = containers.filter(|path| fs::read(path).is_ok_and(|bytes| names(&bytes, hook))).count();
    Ok((count > 0).then(|| format!("{count} container(s), until they are removed,")))
}

fn names(bytes: &[u8], hook: &Path) -> bool {
    String::from_utf8_lossy(bytes).contains(&*hook.to_string_lossy())
}

/// The files below the root that a pattern means.
pub fn found(root: &Root, pattern: &str) -> Vec<PathBuf> {
    let pattern = pattern.trim_start_matches('/');
    let pattern = format!("{}/{pattern}", glob::Pattern::escape(&root.dir().to_string_lossy()));
    glob::glob(&pattern).map(|paths| paths.filter_map(Result::ok).collect()).unwrap_or_default()
}
