//! What a systemd unit says about system calls without us, read in systemd's order (systemd.unit(5)): the first directory
//! that has the unit, then the drop-ins of all directories by name. Of two of one name the earlier directory's counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use enforcer_core::seccomp::Action;
use enforcer_core::seccomp::errno;

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
/// How many symbolic links are followed, as the kernel does.
const MOST_LINKS: usize = 40;
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
}

impl Default for Unit {
    /// systemd kills unless it is told otherwise.
    fn default() -> Self {
        Self { list: None, answer: Action::KillProcess, architectures: None, after: BTreeSet::new() }
    }
}

impl Unit {
    fn take(&mut self, key: &str, value: &str) {
        match key {
            "SystemCallFilter" if value.is_empty() => self.list = None,
            "SystemCallFilter" => {
                let list = if value.starts_with('~') { List::Denied } else { List::Allowed };
                self.list.get_or_insert(list);
            }
            "SystemCallErrorNumber" => self.answer = answer(value).unwrap_or(self.answer),
            "SystemCallArchitectures" if value.is_empty() => self.architectures = None,
            "SystemCallArchitectures" => self
                .architectures
                .get_or_insert_default()
                .extend(value.split_whitespace().map(|word| word.trim_matches(['"', '\'']).to_owned())),
            _ => {}
        }
    }
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
}

impl Units {
    /// Looks at the units of the system below `root`.
    ///
    /// # Errors
    /// Those of the system; a directory that is not there has no units.
    pub fn new(root: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for dir in DIRS {
            for path in entries(&resolve(root, &root.join(dir)))? {
                let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
                if !name.ends_with(".service") || files.contains_key(name) {
                    continue;
                }
                let other =
                    fs::read_link(&path).ok().and_then(|to| Some(to.file_name()?.to_str()?.to_owned()));
                let entry = match other {
                    Some(other) if other != name && other.ends_with(".service") => Err(other),
                    _ => Ok(resolve(root, &path)),
                };
                files.insert(name.to_owned(), entry);
            }
        }
        Ok(Self { root: root.to_owned(), files })
    }

    /// The name that a unit has itself, where this one is an alias.
    #[must_use]
    pub fn real_name(&self, unit: &str) -> String {
        let mut name = unit.to_owned();
        for _ in 0..MOST_LINKS {
            let template = template(&name);
            let other = match (self.files.get(&name), template.as_ref().and_then(|name| self.files.get(name)))
            {
                (Some(Err(other)), _) => other.clone(),
                // an alias of the template stands for one of each instance
                (None, Some(Err(other))) => instance_of(other, &name),
                _ => break,
            };
            name = other;
        }
        name
    }

    /// What a unit says by itself; `unit` is no alias. One that is not there says nothing.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, unit: &str) -> io::Result<Unit> {
        let mut read = Unit::default();
        let file = self.files.get(unit).or_else(|| self.files.get(&template(unit)?));
        if let Some(Ok(file)) = file {
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
                    let keys = settings(path)?.into_iter().map(|(key, _)| key);
                    read.after.extend(keys.map(|key| (path.clone(), format!("{key}="))));
                }
            }
        }
        read.after.extend(hidden.map(|path| (path, FILE_NAME.to_owned())));
        Ok(read)
    }

    /// The drop-ins of a unit by name, and what stands in the place of ours.
    fn drop_ins(&self, unit: &str) -> io::Result<(BTreeMap<String, PathBuf>, Option<PathBuf>)> {
        let mut found = BTreeMap::new();
        let (mut hidden, mut passed) = (None, false);
        let aliases = self.files.keys().filter(|name| *name != unit).flat_map(|name| self.alias(name, unit));
        for name in std::iter::once(unit.to_owned()).chain(aliases) {
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

    /// The name of `unit` that `name` gives it, where it is an alias of it.
    fn alias(&self, name: &str, unit: &str) -> Option<String> {
        let name = if name.contains("@.") { instance_of(name, unit) } else { name.to_owned() };
        (name != unit && self.real_name(&name) == unit).then_some(name)
    }
}

/// The names whose drop-ins a unit has, the nearest first: its own, that of its template, and those that it begins like, up
/// to a `-`.
#[must_use]
pub fn names(unit: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut name = unit.to_owned();
    loop {
        let template = template(&name);
        let instance = template.as_ref().and_then(|_| name.split_once('@')).map(|(_, rest)| rest.to_owned());
        names.push(name.clone());
        names.extend(template);
        let prefix =
            name.split_once('@').map_or_else(|| name.strip_suffix(".service"), |(prefix, _)| Some(prefix));
        let prefix = prefix.unwrap_or_default();
        // one dash at the end is that of the step before
        let Some((prefix, _)) = prefix.strip_suffix('-').unwrap_or(prefix).rsplit_once('-') else { break };
        if prefix.is_empty() {
            break;
        }
        name = match instance {
            Some(rest) => format!("{prefix}-@{rest}"),
            None => format!("{prefix}-.service"),
        };
    }
    names
}

/// The template of an instance: `getty@.service` of `getty@tty1.service`.
fn template(unit: &str) -> Option<String> {
    let (name, rest) = unit.split_once('@')?;
    (rest != ".service").then(|| format!("{name}@.service"))
}

/// The same instance of another template; a unit that is no instance stays what it is.
fn instance_of(template: &str, unit: &str) -> String {
    match (template.split_once('@'), unit.split_once('@')) {
        (Some((name, _)), Some((_, rest))) => format!("{name}@{rest}"),
        _ => template.to_owned(),
    }
}

/// The settings about system calls of a file, in its order, as systemd reads it.
fn settings(file: &Path) -> io::Result<Vec<(String, String)>> {
    let text = match fs::read(file) {
        // a mask: a link to the empty device, which an image of a system may not have
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => String::from_utf8_lossy(&text?).into_owned(),
    };
    let (mut section, mut whole) = (String::new(), String::new());
    let mut settings = Vec::new();
    for line in text.lines().chain([""]) {
        if line.trim_start().starts_with(['#', ';']) {
            continue; // also between the parts of a line
        }
        if let Some(part) = line.strip_suffix('\\') {
            whole += part;
            whole.push(' ');
            continue;
        }
        whole += line;
        let line = std::mem::take(&mut whole);
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let (Some((key, value)), "Service") = (line.split_once('='), &*section)
            && key.trim_end().starts_with("SystemCall")
        {
            settings.push((key.trim_end().to_owned(), value.trim_start().to_owned()));
        }
    }
    Ok(settings)
}

/// The file that a path leads to in the system below `root`, where absolute links begin there.
fn resolve(root: &Path, path: &Path) -> PathBuf {
    let Ok(rest) = path.strip_prefix(root) else { return path.to_owned() };
    let mut left: Vec<PathBuf> =
        rest.components().rev().map(|part| PathBuf::from(part.as_os_str())).collect();
    let (mut at, mut links) = (root.to_owned(), 0);
    while let Some(part) = left.pop() {
        match part.components().next() {
            Some(Component::RootDir) => at = root.to_owned(),
            Some(Component::ParentDir) if at != root => drop(at.pop()),
            Some(Component::Normal(name)) => match fs::read_link(at.join(name)) {
                Ok(target) if links < MOST_LINKS => {
                    links += 1;
                    left.extend(target.components().rev().map(|part| PathBuf::from(part.as_os_str())));
                }
                _ => at.push(name),
            },
            _ => {}
        }
    }
    at
}

/// What is in a directory; nothing where it is not there.
pub fn entries(dir: &Path) -> io::Result<BTreeSet<PathBuf>> {
    match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(BTreeSet::new())
        }
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

#[cfg(test)]
mod tests;
