//! `install`: sets a container runtime up, and undoes that. All is worked out before anything is written, and what was
//! written is put back when the runtime does not take it.

pub mod containerd;
pub mod edit;
pub mod hooks_d;
pub mod nri;
pub mod plan;
pub mod program;
pub mod record;
pub mod root;
pub mod tool;

use std::path::Path;

use nri_enforcer_hook::config::{EXEMPT_FILE, FILE};

use self::containerd::Wanted;
use self::edit::{Toml, Undone};
use self::plan::{FileError, Plan};
pub use self::program::NAME as HOOK;
use self::record::{Put, Record, RecordError};
use self::root::{Content, Root};
use crate::cli::{InstallArgs, Runtime};
use crate::exit::{Exit, chain};
use crate::term::{BAD, GOOD, WARN, complain, paint, say};

/// Why nothing was done.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    fn no(text: impl Into<String>) -> Self {
        Self { exit: Exit::No, text: text.into() }
    }

    fn bad(text: impl Into<String>) -> Self {
        Self { exit: Exit::BadInput, text: text.into() }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::no(chain(&error))
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        Self::no(chain(&error))
    }
}

/// What there is to tell in the end.
#[derive(Debug, Default)]
pub struct Told {
    notes: Vec<String>,
    left: Vec<String>,
}

impl Told {
    /// Something to know.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Something that had to stay.
    pub fn left(&mut self, text: String) {
        self.left.push(text);
    }
}

/// Does it, and says what was done.
pub fn run(args: &InstallArgs) -> Exit {
    match go(args) {
        Ok(exit) => exit,
        Err(Failure { exit, text }) => {
            complain(format!("{}: {text}\n", paint(BAD, "error")));
            exit
        }
    }
}

fn go(args: &InstallArgs) -> Result<Exit, Failure> {
    let mut plan = Plan::new(Root::new(&args.root));
    let mut told = Told::default();
    let mut wanted = Wanted::default();
    let before = Record::load(&plan, name(args.runtime))?;
    let mut directories = Default::default();
    if args.uninstall {
        if let Some(record) = before {
            directories = record.directories.clone();
            remove(args, &mut plan, record, &mut told)?;
        }
    } else {
        wanted = put(args, &mut plan, before, &mut told)?;
    }
    let changed = !plan.is_empty();
    if args.dry_run {
        say(plan.diff());
    } else {
        plan.apply(|| {
            if !args.uninstall {
                program::check(args)?;
            }
            match args.runtime {
                Runtime::Containerd if changed && !args.hook_only => containerd::check(args, &plan, &wanted),
                _ => Ok(()),
            }
        })?;
        plan.root().remove_directories(&directories);
        for (what, path) in plan.files() {
            say(format!("{} {}\n", paint(GOOD, what), path.display()));
        }
    }
    for note in &told.notes {
        complain(format!("{}: {note}\n", paint(WARN, "note")));
    }
    for left in &told.left {
        complain(format!("{}: {left}\n", paint(WARN, "left")));
    }
    if !changed {
        say("nothing to do\n");
    } else if let (Some(restart), false) = (restart(args), args.dry_run || args.hook_only) {
        say(format!("now run: {restart}\n"));
    }
    if args.hook_only {
        nri::listens(args, &plan)?;
    }
    if args.runtime == Runtime::Podman && !args.uninstall && !nri::is_there(args, &plan) {
        complain(format!(
            "{}: podman has no NRI, and `{}` is not there: where no other runtime is, run the daemon with --nri-socket none\n",
            paint(WARN, "note"),
            args.nri_socket.display()
        ));
    }
    Ok(if told.left.is_empty() { Exit::Ok } else { Exit::No })
}

/// What the runtime is called in records.
const fn name(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Containerd => "containerd",
        Runtime::Crio => "crio",
        Runtime::Podman => "podman",
    }
}

/// What makes the runtime read its configuration.
fn restart(args: &InstallArgs) -> Option<&'static str> {
    match args.runtime {
        Runtime::Containerd if args.config.to_string_lossy().contains("/k3s/") => {
            Some("systemctl restart k3s (or k3s-agent)")
        }
        Runtime::Containerd if args.config.to_string_lossy().contains("/rke2/") => {
            Some("systemctl restart rke2-server (or rke2-agent)")
        }
        Runtime::Containerd => Some("systemctl restart containerd"),
        Runtime::Crio => Some("systemctl restart crio"),
        Runtime::Podman => None, // it reads it for each container
    }
}

fn put(
    args: &InstallArgs,
    plan: &mut Plan,
    before: Option<Record>,
    told: &mut Told,
) -> Result<Wanted, Failure> {
    if args.required_plugin && args.runtime != Runtime::Containerd {
        return Err(Failure::bad("--required-plugin is for containerd"));
    }
    let hook = args.hook_dir.join(program::NAME);
    if !hook.is_absolute() {
        return Err(Failure::bad("--hook-dir is no absolute path"));
    }
    if plan.resolve(&hook)? != hook {
        return Err(Failure::no(format!(
            "`{}` is reached by a link: name another --hook-dir",
            hook.display()
        )));
    }
    program::check_place(&args.root, &hook)?;
    let mut record = before.unwrap_or_else(|| Record::new(hook.clone()));
    if record.hook != hook {
        return Err(Failure::no(format!(
            "the hook is installed as `{}`: uninstall first, or name that --hook-dir",
            record.hook.display()
        )));
    }
    program::put(args, plan, &mut record, name(args.runtime), told)?;
    let wanted = match args.runtime {
        _ if args.hook_only => Wanted::default(),
        Runtime::Containerd => containerd::put(args, plan, &mut record, told)?,
        runtime => {
            hooks_d::put(runtime, plan, &mut record, told)?;
            Wanted::default()
        }
    };
    Record::save(Some(&record), plan, name(args.runtime))?;
    let made = plan.directories();
    if !made.is_empty() {
        record.directories.extend(made);
        Record::save(Some(&record), plan, name(args.runtime))?;
    }
    Ok(wanted)
}

fn remove(args: &InstallArgs, plan: &mut Plan, mut record: Record, told: &mut Told) -> Result<(), Failure> {
    for path in containerd::edited(&record) {
        undo(plan, &mut record, &path, told)?;
    }
    let hook = record.hook.clone();
    let own = [hook.with_file_name(FILE), hook.with_file_name(EXEMPT_FILE), hook];
    let others: Vec<_> = record.files.keys().filter(|path| !own.contains(path)).cloned().collect();
    for path in others {
        if record.remove(plan, &path)? == Put::Kept {
            told.left(format!("`{}` was changed by hand, and stays", path.display()));
        }
    }
    program::remove(plan, &mut record, name(args.runtime), told)?;
    let over = record.files.is_empty() && record.edits.is_empty();
    Record::save((!over).then_some(&record), plan, name(args.runtime))?;
    Ok(())
}

/// Undoes the edits of a file.
fn undo(plan: &mut Plan, record: &mut Record, path: &Path, told: &mut Told) -> Result<(), Failure> {
    let shown = path.display();
    let edits: Vec<_> =
        record.edits.iter().filter(|(file, _)| file == path).map(|(_, edit)| edit.clone()).collect();
    record.edits.retain(|(file, _)| file != path);
    let created = record.created.remove(path);
    let Some(content) = plan.read(path)? else {
        told.note(format!("`{shown}` is gone"));
        return Ok(());
    };
    let text = String::from_utf8(content.bytes.clone())
        .map_err(|_| Failure::bad(format!("`{shown}` is not UTF-8")))?;
    let template = path.extension().is_some_and(|end| end == "tmpl");
    let mut toml = Toml::new(text, template)
        .map_err(|error| Failure::bad(format!("`{shown}`, {error}; repair it, then uninstall")))?;
    for edit in edits.iter().rev() {
        let key = edit.key.join(".");
        match toml.undo(edit) {
            Undone::Restored => {}
            Undone::Gone => told.note(format!("`{shown}` has no `{key}` any more")),
            Undone::Changed => told.note(format!("`{key}` in `{shown}` was changed by hand, and stays")),
            Undone::Stuck => {
                return Err(Failure::no(format!(
                    "`{key}` cannot be taken out of `{shown}`: remove it by hand, then uninstall"
                )));
            }
        }
    }
    if created.is_some_and(|begin| begin == toml.text()) {
        plan.set(path, None)?;
    } else {
        plan.set(path, Some(Content { bytes: toml.text().into(), ..content }))?;
    }
    if !plan.forget_backup(path)? {
        told.note(format!("`{shown}` differs from the copy beside it, which stays: there are later changes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
