//! What a systemd unit says about system calls without us, read in systemd's order (systemd.unit(5)): the first directory
//! that has the unit, then the drop-ins of all directories by name. Of two of one name the earlier directory's counts.

mod file;
mod name;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use enforcer_core::seccomp::Action;
use enforcer_core::seccomp::errno;

pub use self::file::entries;
use self::file::{MOST_LINKS, resolve, settings};
use self::name::{instance_of, names, template};

/// The name of our drop-ins. Of several `SystemCallFilter=` the first says what kind of list it is, and each later one adds
/// to it or takes away: the last has the last word, and `z` is behind what others use.
pub const FILE_NAME: &str = "zz-nri-enforcer-seccomp.conf";
/// Where the administrator's units are, and our drop-ins.
pub const ADMIN: &str = "etc/systemd/system";
/// Where units and drop-ins are, in systemd's order.
const DIRS: [&str; 13] = [
    "etc/systemd/system.control",
    "run/systemd/system.control",
    "run/systemd/transient",
    "run/systemd/generator.early",
    ADMIN,
    "etc/systemd/system.attached",
    "run/systemd/system",
    "run/systemd/system.attached",
    "run/systemd/generator",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
    "run/systemd/generator.late",
];
/// What all services share.
const EVERY: &str = "service";

/// What a list of system calls is, as its first `SystemCallFilter=` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// Of what is allowed.
    Allowed,
    /// Of what is denied.
    Denied,
}

/// What a unit says by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its own `SystemCallFilter=`.
    pub list: Option<List>,
    /// What its own filter does to a system call without an answer of its own: `SystemCallErrorNumber=`.
    pub answer: Action,
    /// `SystemCallArchitectures=`, in systemd's words; `None`: it does not say.
    pub architectures: Option<BTreeSet<String>>,
    /// Drop-ins that are read after ours, or in its place, with what they say about system calls.
    pub after: BTreeSet<(PathBuf, String)>,
    /// Settings with commands that systemd runs without any filter: `needs_sandboxing` of its `exec_child`.
    pub unfiltered: BTreeSet<String>,
    /// Whether it is of `Type=exec`: its `exec_child` writes to a pipe behind the filter, right before it starts the program.
    pub writes: bool,
}

impl Default for Unit {
    /// systemd kills unless it is told otherwise.
    fn default() -> Self {
        Self {
            list: None,
            answer: Action::KillProcess,
            architectures: None,
            after: BTreeSet::new(),
            unfiltered: BTreeSet::new(),
            writes: false,
        }
    }
}

/// A unit while it is read.
#[derive(Debug, Default)]
struct Reading {
    unit: Unit,
    /// Settings with commands, and whether one of them has a `+`: no filter.
    commands: BTreeMap<String, bool>,
    /// `PermissionsStartOnly=`: only `ExecStart=` has a filter.
    start_only: bool,
}

impl Reading {
    fn take(&mut self, key: &str, value: &str) {
        let unit = &mut self.unit;
        match key {
            "SystemCallFilter" if value.is_empty() => unit.list = None,
            "SystemCallFilter" => {
                let list = if value.starts_with('~') { List::Denied } else { List::Allowed };
                unit.list.get_or_insert(list);
            }
            "SystemCallErrorNumber" => unit.answer = answer(value).unwrap_or(unit.answer),
            "SystemCallArchitectures" if value.is_empty() => unit.architectures = None,
            "SystemCallArchitectures" => unit
                .architectures
                .get_or_insert_default()
                .extend(value.split_whitespace().map(|word| word.trim_matches(['"', '\'']).to_owned())),
            "Type" if TYPES.contains(&value) => unit.writes = value == "exec",
            "PermissionsStartOnly" => self.start_only = boolean(value).unwrap_or(self.start_only),
            _ if key.starts_with("Exec") && value.is_empty() => drop(self.commands.remove(key)),
            _ if key.starts_with("Exec") => {
                *self.commands.entry(key.to_owned()).or_default() |= privileged(value)
            }
            _ => {}
        }
    }

    fn done(mut self) -> Unit {
        let unfiltered = self
            .commands
            .into_iter()
            .filter(|(key, privileged)| *privileged || self.start_only && key != "ExecStart");
        self.unit.unfiltered = unfiltered.map(|(key, _)| key).collect();
        self.unit
    }
}

/// The types of services that systemd knows, up to 257. It ignores others.
const TYPES: [&str; 8] = ["simple", "exec", "forking", "oneshot", "dbus", "notify", "notify-reload", "idle"];

/// A truth as systemd writes it; `None`: systemd ignores it.
fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

/// Whether one of several commands, with a `;` between them, has a `+` among the signs before its program. A word that only
/// systemd's own reader understands (`\x2b`) is taken for one.
fn privileged(commands: &str) -> bool {
    let mut first = true;
    commands.split_whitespace().any(|word| {
        let at_begin = std::mem::replace(&mut first, word == ";");
        let signs = word.chars().take_while(|sign| "@-:!+|\"'\\".contains(*sign));
        at_begin && signs.into_iter().any(|sign| matches!(sign, '+' | '\\'))
    })
}

/// An errno as systemd writes it; `None`: systemd ignores it.
fn answer(value: &str) -> Option<Action> {
    match value {
        "" | "kill" => Some(Action::KillProcess),
        name => errno::by_name(name).or_else(|| name.parse().ok()).map(Action::Errno),
    }
}

/// The units of a system.
#[derive(Debug)]
pub struct Units {
    root: PathBuf,
    /// What stands under each name in the first directory that has it: a file, or the name that it is another one for.
    files: BTreeMap<String, Result<PathBuf, String>>,
    /// Names that have a directory of drop-ins.
    with_drop_ins: BTreeSet<String>,
}

impl Units {
    /// Looks at the units of the system below `root`.
    ///
    /// # Errors
    /// Those of the system; a directory that is not there has no units.
    pub fn new(root: &Path) -> io::Result<Self> {
        let (mut files, mut with_drop_ins) = (BTreeMap::new(), BTreeSet::new());
        for dir in DIRS {
            for path in entries(&resolve(root, &root.join(dir)))? {
                let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
                if let Some(unit) = name.strip_suffix(".d").filter(|unit| unit.ends_with(".service")) {
                    with_drop_ins.insert(unit.to_owned());
                }
                if !name.ends_with(".service") || files.contains_key(name) {
                    continue;
                }
                let entry = match alias_for(root, &path) {
                    Some(other) if other != name && other.ends_with(".service") => Err(other),
                    _ => Ok(resolve(root, &path)),
                };
                files.insert(name.to_owned(), entry);
            }
        }
        Ok(Self { root: root.to_owned(), files, with_drop_ins })
    }

    /// The name that a unit has itself, where this one is an alias.
    #[must_use]
    pub fn real_name(&self, unit: &str) -> String {
        let mut name = unit.to_owned();
        for _ in 0..MOST_LINKS {
            let of_template = template(&name).and_then(|name| self.files.get(&name));
            name = match self.files.get(&name).or(of_template) {
                // an alias for a template stands for one of each instance
                Some(Err(other)) if other.contains("@.") => instance_of(other, &name),
                Some(Err(other)) => other.clone(),
                _ => break,
            };
        }
        name
    }

    /// What a unit says by itself; `unit` is no alias. One that is not there says nothing.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, unit: &str) -> io::Result<Unit> {
        let mut read = Reading::default();
        // a link of an instance to its template is no file of its own
        let own = self.files.get(unit).and_then(|file| file.as_ref().ok());
        if let Some(file) = own.or_else(|| self.files.get(&template(unit)?)?.as_ref().ok()) {
            settings(file)?.iter().for_each(|(key, value)| read.take(key, value));
        }
        let (drop_ins, hidden) = self.drop_ins(unit)?;
        for (name, path) in &drop_ins {
            match name.as_str() {
                FILE_NAME => {}
                name if name < FILE_NAME => {
                    settings(path)?.iter().for_each(|(key, value)| read.take(key, value));
                }
                _ => {
                    for (key, value) in settings(path)? {
                        if key.starts_with("SystemCall") {
                            read.unit.after.insert((path.clone(), format!("{key}=")));
                        } else {
                            read.take(&key, &value); // whenever it is read
                        }
                    }
                }
            }
        }
        read.unit.after.extend(hidden.map(|path| (path, FILE_NAME.to_owned())));
        Ok(read.done())
    }

    /// Every unit that is known by a file, or a directory of drop-ins, by its real name. An instance of which none tells is
    /// like its template.
    #[must_use]
    pub fn all(&self) -> BTreeSet<String> {
        let known: BTreeSet<&String> = self.files.keys().chain(&self.with_drop_ins).collect();
        let (instances, others): (Vec<&String>, Vec<&String>) =
            known.into_iter().partition(|name| template(name).is_some());
        // `a-@1.service.d` is for `a-b@1.service`, too
        let templates = others.iter().filter(|name| name.contains("@."));
        let more = templates.flat_map(|template| {
            let of =
                |one: &&String| Some(instance_of(template, one)).filter(|unit| names(unit).contains(*one));
            instances.iter().filter_map(of).collect::<Vec<_>>()
        });
        let all = more.chain(instances.iter().chain(&others).map(|name| (*name).clone()));
        all.map(|name| self.real_name(&name)).collect()
    }

    /// The names whose drop-ins a unit has, the nearest first: its own, then those of its aliases.
    #[must_use]
    pub fn names(&self, unit: &str) -> Vec<String> {
        std::iter::once(unit.to_owned()).chain(self.aliases(unit)).flat_map(|name| names(&name)).collect()
    }

    /// The drop-ins of a unit by name, and what stands in the place of ours.
    fn drop_ins(&self, unit: &str) -> io::Result<(BTreeMap<String, PathBuf>, Option<PathBuf>)> {
        let mut found = BTreeMap::new();
        let (mut hidden, mut passed) = (None, false);
        for name in std::iter::once(unit.to_owned()).chain(self.aliases(unit)) {
            for dir in DIRS {
                for of in names(&name) {
                    self.add(dir, &of, &mut found)?;
                    passed |= dir == ADMIN && of == unit;
                    if !passed {
                        hidden = found.get(FILE_NAME).cloned();
                    }
                }
            }
        }
        for dir in DIRS {
            self.add(dir, EVERY, &mut found)?;
        }
        Ok((found, hidden))
    }

    fn add(&self, dir: &str, of: &str, found: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
        for path in entries(&resolve(&self.root, &self.root.join(dir).join(format!("{of}.d"))))? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.ends_with(".conf") && !name.starts_with('.') {
                found.entry(name.to_owned()).or_insert_with(|| resolve(&self.root, &path));
            }
        }
        Ok(())
    }

    /// The aliases of a unit.
    fn aliases(&self, unit: &str) -> impl Iterator<Item = String> {
        let links = self.files.iter().filter(|(_, file)| file.is_err());
        links.filter_map(move |(name, _)| self.alias(name, unit))
    }

    /// The name of `unit` that `name` gives it, where it is an alias of it.
    fn alias(&self, name: &str, unit: &str) -> Option<String> {
        let name = if name.contains("@.") { instance_of(name, unit) } else { name.to_owned() };
        (name != unit && self.real_name(&name) == unit).then_some(name)
    }
}

/// The name that a link in one of the directories is an alias for: that of its target, if that is in one of them, too. Else
/// the link is itself the unit, by its own name.
fn alias_for(root: &Path, path: &Path) -> Option<String> {
    let to = fs::read_link(path).ok()?;
    let to = match to.strip_prefix("/") {
        Ok(absolute) => root.join(absolute),
        Err(_) => path.parent()?.join(to),
    };
    let parent = resolve(root, to.parent()?);
    let known = |dir: &&str| {
        let dir = root.join(dir);
        parent.starts_with(&dir) || parent.starts_with(resolve(root, &dir))
    };
    DIRS.iter().any(known).then(|| to.file_name()?.to_str().map(str::to_owned))?
}

#[cfg(test)]
mod tests;
