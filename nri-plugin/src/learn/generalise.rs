//! From accesses to rules. What is seen is allowed as it was seen, with four exceptions, all of them documented:
//!
//! - a process id below `/proc`, that of a thread below `task`, a number below `fd` and `fdinfo`, and what
//!   lies in `map_files`, stand for every one (`/proc/[0-9]*/stat`);
//! - what lies below `/tmp`, `/var/tmp` and `/dev/shm` is one directory, whatever it is called; not for what is executed;
//! - a directory with more than so many paths directly in it is named itself, and not they;
//! - so is one with more than so many rules anywhere below it, with all that it holds, but not one of the root.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_core::capability::Capability;
use enforcer_core::network::{AF_INET, AF_INET6, Protocol};
use enforcer_core::path::AbsPath;

use crate::observe::watches::Access;

/// Directories of names that are others each time.
const TEMPORARY: [&[&str]; 3] = [&["tmp"], &["var", "tmp"], &["dev", "shm"]];
/// Directories of a process whose entries are numbers.
const NUMBERED: [&str; 3] = ["task", "fd", "fdinfo"];
/// Any number, as a pattern.
const NUMBER: &str = "[0-9]*";
/// A directory with fewer components than these is not allowed with all below it, however much that is.
const DEEP: usize = 2;

/// How to generalise.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// More paths than these in a directory are the directory.
    pub max_paths: usize,
    /// Whether rules name who acts.
    pub sources: bool,
    /// Whether a socket of another family than IP is allowed where that allows every socket of its type, IP's among them.
    pub wide_sockets: bool,
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// This path.
    Path(String),
    /// What is in this directory, and, where it is recursive, everything below it.
    Directory(String, bool),
    /// What this pattern matches.
    Pattern(String),
}

/// Executables that a rule is for; `None`: any.
pub type Sources = Option<BTreeSet<String>>;

/// A policy that allows what was seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// What may be executed.
    pub process: BTreeMap<Target, Sources>,
    /// Which files may be read, and which may only be (`true`).
    pub file: BTreeMap<(Target, bool), Sources>,
    /// Which sockets may be used.
    pub network: BTreeMap<Protocol, Sources>,
    /// Which capabilities.
    pub capabilities: BTreeMap<&'static str, Sources>,
    /// What no rule can say, and why.
    pub omitted: BTreeSet<(Access, &'static str)>,
    /// Sockets of other families than IP that have a rule for every socket of their type.
    pub wide: BTreeSet<(Access, Protocol)>,
}

impl Learned {
    /// Whether nothing is allowed at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.process.is_empty()
            && self.file.is_empty()
            && self.network.is_empty()
            && self.capabilities.is_empty()
    }
}

/// What one executable did, or all of them.
#[derive(Default)]
struct Of {
    exec: Paths,
    read: Paths,
    write: Paths,
}

#[derive(Default)]
struct Paths {
    tree: Node,
    others: BTreeSet<Target>,
}

#[derive(Default)]
struct Node {
    here: bool,
    below: BTreeMap<String, Node>,
}

/// The least policy that allows all of these but what it says that it omits.
#[must_use]
pub fn generalise(accesses: &BTreeSet<(Access, Vec<u8>)>, options: Options) -> Learned {
    let mut learned = Learned::default();
    let mut by_source: BTreeMap<Option<String>, Of> = BTreeMap::new();
    for (access, source) in accesses {
        let source = options.sources.then(|| named(source)).flatten();
        let whole = BTreeSet::from_iter(source.clone());
        let only = |all: &mut Sources| add(all, (!whole.is_empty()).then(|| whole.clone()));
        match access {
            Access::Socket(family, kind, protocol) => match protocol_of(*family, *kind, *protocol) {
                Some(named) if is_wide(*family, named) && !options.wide_sockets => {
                    learned.omitted.insert((access.clone(), WIDE));
                }
                Some(protocol) if is_wide(*family, protocol) => {
                    learned.wide.insert((access.clone(), protocol));
                    only(learned.network.entry(protocol).or_insert_with(none));
                }
                Some(protocol) => only(learned.network.entry(protocol).or_insert_with(none)),
                None => drop(learned.omitted.insert((access.clone(), "no protocol of policies names it"))),
            },
            Access::Capability(number) => match Capability::by_number(*number) {
                Some(known) => only(learned.capabilities.entry(known.name()).or_insert_with(none)),
                None => drop(learned.omitted.insert((access.clone(), "it is not known here"))),
            },
            Access::Exec(path) | Access::Read(path) | Access::Write(path) => {
                let of = by_source.entry(source).or_default();
                let paths = match access {
                    Access::Exec(_) => &mut of.exec,
                    Access::Read(_) => &mut of.read,
                    _ => &mut of.write,
                };
                if let Err(why) = paths.insert(path, !matches!(access, Access::Exec(_))) {
                    learned.omitted.insert((access.clone(), why));
                }
            }
        }
    }
    for (source, of) in by_source {
        let of_source = source.map(|source| BTreeSet::from([source]));
        let of_source = || of_source.clone();
        for target in of.exec.targets(options.max_paths) {
            add(learned.process.entry(target).or_insert_with(none), of_source());
        }
        let written = of.write.targets(options.max_paths);
        for target in of.read.targets(options.max_paths).difference(&written) {
            add(learned.file.entry((target.clone(), true)).or_insert_with(none), of_source());
        }
        for target in written {
            add(learned.file.entry((target, false)).or_insert_with(none), of_source());
        }
    }
    learned
}

/// No executable yet.
fn none() -> Sources {
    Some(BTreeSet::new())
}

/// Any one, once one is not known.
fn add(all: &mut Sources, more: Sources) {
    match (all.as_mut(), more) {
        (Some(all), Some(more)) => all.extend(more),
        _ => *all = None,
    }
}

/// An executable as a policy can name it. One that has no path acts as any does.
fn named(source: &[u8]) -> Option<String> {
    text(source).ok().filter(|path| path != "/")
}

/// What is a line break in YAML 1.1 (section 4.2) beside those that are written escaped: LS and PS. libyaml's emitter writes them as
/// they are, and its parser folds them.
const BREAKS: [char; 2] = ['\u{2028}', '\u{2029}'];

/// A path as a policy can name it.
pub(super) fn text(path: &[u8]) -> Result<String, &'static str> {
    let Ok(text) = std::str::from_utf8(path) else { return Err("it is not UTF-8, as policies are") };
    if text.contains(BREAKS) {
        return Err("it has a sign at which YAML begins a line");
    }
    match AbsPath::new(path) {
        Ok(spelled) if spelled.as_bytes() == path => Ok(text.to_owned()),
        _ => Err("it is no absolute path"),
    }
}

/// Why a socket is not allowed that only a type names.
const WIDE: &str = "only a rule about every socket of its type names it, IP and packet sockets among them; --wide-sockets allows that";

/// Whether allowing a socket of this family so allows sockets of other families, too, that were not seen.
fn is_wide(family: u16, protocol: Protocol) -> bool {
    use Protocol::{Dgram, Raw, Rdm, Seqpacket, Stream};
    !matches!(family, AF_INET | AF_INET6) && matches!(protocol, Raw | Stream | Dgram | Seqpacket | Rdm)
}

/// The closest kind of socket.
fn protocol_of(family: u16, kind: u16, protocol: u16) -> Option<Protocol> {
    let kinds = Protocol::EACH.into_iter().filter(|one| *one != Protocol::All);
    // by transport, then packet sockets, then by type
    let (narrow, wide): (Vec<_>, Vec<_>) = kinds.partition(|one| {
        use Protocol::{Dccp, Icmp, Icmpv6, Packet, Sctp, Tcp, Udp};
        matches!(one, Tcp | Udp | Icmp | Icmpv6 | Sctp | Dccp | Packet)
    });
    narrow.into_iter().chain(wide).find(|one| one.covers(family, kind, protocol))
}

impl Paths {
    /// Adds one. `temporary`: names below directories for temporary files are not told apart.
    fn insert(&mut self, path: &[u8], temporary: bool) -> Result<(), &'static str> {
        let text = text(path)?;
        let names: Vec<&str> = text.split('/').filter(|name| !name.is_empty()).collect();
        let below = |dir: &&[&str]| names.len() > dir.len() && names.starts_with(dir);
        if let Some(dir) = TEMPORARY.iter().find(|dir| temporary && below(dir)) {
            self.others.insert(Target::Directory(directory(dir), true));
        } else if let Some(pattern) = of_process(&names) {
            self.others.insert(Target::Pattern(pattern));
        } else {
            let mut node = &mut self.tree;
            for name in names {
                node = node.below.entry(name.to_owned()).or_default();
            }
            node.here = true;
        }
        Ok(())
    }

    fn targets(&self, max: usize) -> BTreeSet<Target> {
        let mut targets = self.others.clone();
        let mut names = Vec::new();
        if self.tree.here {
            // as a path it would be taken for a directory that was meant
            targets.insert(Target::Pattern("/".to_owned()));
        }
        targets.extend(self.tree.targets(&mut names, max));
        targets
    }
}

impl Node {
    /// The rules about what lies below; `names` lead here.
    fn targets<'n>(&'n self, names: &mut Vec<&'n str>, max: usize) -> Vec<Target> {
        let here: Vec<&str> =
            self.below.iter().filter(|(_, node)| node.here).map(|(name, _)| name.as_str()).collect();
        let many = here.len() > max && !names.is_empty();
        let mut targets: Vec<Target> = match many {
            true => vec![Target::Directory(directory(names), false)],
            false => here.iter().map(|name| Target::Path(directory(names) + name)).collect(),
        };
        for (name, node) in &self.below {
            if !node.below.is_empty() {
                names.push(name);
                targets.extend(node.targets(names, max));
                names.pop();
            }
        }
        if targets.len() > max && names.len() >= DEEP {
            targets = vec![Target::Directory(directory(names), true)];
        }
        targets
    }
}

/// The directory of these names, with a slash at its end.
fn directory(names: &[&str]) -> String {
    names.iter().fold("/".to_owned(), |path, name| path + name + "/")
}

/// A pattern for a path below that of a process in `/proc`; `None` for any other path.
fn of_process(names: &[&str]) -> Option<String> {
    let [proc, pid, rest @ ..] = names else { return None };
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    if *proc != "proc" || !is_number(pid) {
        return None;
    }
    let mut pattern = format!("/proc/{NUMBER}");
    let mut before = "";
    for name in rest {
        pattern.push('/');
        match before {
            "map_files" => pattern.push('*'), // addresses
            _ if NUMBERED.contains(&before) && is_number(name) => pattern.push_str(NUMBER),
            _ => pattern.push_str(&literal(name)),
        }
        before = name;
    }
    Some(pattern)
}

/// A name as a pattern that matches nothing else.
fn literal(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for letter in name.chars() {
        if "*?[]{}\\,!^-".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}
