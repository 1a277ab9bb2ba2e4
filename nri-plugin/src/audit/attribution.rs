//! Who was denied something, and by which rule: the rules in force are asked about the same access.
//!
//! Where they deny it by one rule, that is the one. Where they do not, or several rules could be meant, that is said, and
//! nothing is guessed: a lock denies more than the rules say in some places, and the rules may be others by now.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use enforcer_core::audit::apparmor::Confined;
use enforcer_core::audit::selinux::Labelled;
use enforcer_core::audit::{By, Denial, Object};
use enforcer_core::capability::Capability;
use enforcer_core::compile::apparmor::{self, Native};
use enforcer_core::compile::selinux::{self, Label};
use enforcer_core::decide::{Access, DecidedBy, PathAccess, PathClass, Target, Verdict};
use enforcer_core::enforce::ContainerId;
use enforcer_core::enforce::selinux::Noted;
use enforcer_core::event::Socket;
use enforcer_core::network::{
    AF_INET, AF_INET6, IPPROTO_ICMP, IPPROTO_ICMPV6, SOCK_RAW, SocketAccess, SocketOp,
};
use enforcer_core::path::AbsPath;
use enforcer_core::policy::PolicyId;
use enforcer_core::ruleset::{Class, Origin, Ruleset, RulesetDigest};

use super::Heard;
use crate::apparmor::{Profiles, Rules};
use crate::container::Container;
use crate::registry::Registry;

/// How many rulesets are kept as the lock holds them.
const HELD: usize = 16;

/// Says which files have labels; `None`: none have, or it is not known yet.
pub type NotedFiles = Box<dyn Fn() -> Option<Arc<Noted>> + Send>;

/// What gave the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This rule.
    Rule(Box<Origin>),
    /// The posture of a class in which nothing allows the access.
    Posture,
    /// The native rules of this policy, which alone has any in the profile.
    Native(PolicyId),
    /// It is not known, and why.
    Unknown(String),
}

/// A denial, with whose it is and by what.
#[derive(Debug, Clone)]
pub struct Judged {
    /// What the kernel said.
    pub denial: Denial,
    /// The container, or the host, that was denied something; `None`: several have the profile, or none is known.
    pub container: Option<Arc<Container>>,
    /// The namespace of all that have the profile, where the container is not known.
    pub namespace: Option<String>,
    /// What gave the verdict.
    pub found: Found,
    /// The rules that were asked.
    pub ruleset: Option<RulesetDigest>,
    /// What kind of access it was.
    pub class: Class,
    /// The object's path, where it is one and known; without a `/` at its end.
    pub path: Option<Vec<u8>>,
    /// The socket, where it is one.
    pub socket: Option<Socket>,
    /// The executable that acted, where that is known.
    pub source: Option<AbsPath>,
}

/// Finds out. No file is touched for it, and what is looked at has a bound, however many files and rules there are.
pub struct Attribution {
    registry: Arc<Registry>,
    profiles: Option<Arc<Profiles>>,
    noted: NotedFiles,
    held: VecDeque<(RulesetDigest, &'static str, Arc<Ruleset>)>,
}

impl std::fmt::Debug for Attribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attribution").finish_non_exhaustive()
    }
}

impl Attribution {
    /// By these containers, rulesets and files.
    #[must_use]
    pub fn new(registry: Arc<Registry>, profiles: Option<Arc<Profiles>>, noted: NotedFiles) -> Self {
        Self { registry, profiles, noted, held: VecDeque::new() }
    }

    /// Says whose the denial is, and by what.
    pub fn judge(&mut self, Heard { denial, acting, .. }: Heard) -> Judged {
        let mut judged = Judged {
            container: None,
            namespace: None,
            found: Found::Unknown(String::new()),
            ruleset: None,
            class: class_of(&denial),
            path: None,
            socket: None,
            source: None,
            denial,
        };
        match judged.denial.by.clone() {
            By::AppArmor(confined) => self.confined(&confined, acting.as_ref(), &mut judged),
            By::Selinux(labelled) => self.of_label(&labelled, &mut judged),
        }
        judged
    }

    fn confined(&mut self, confined: &Confined, acting: Option<&ContainerId>, judged: &mut Judged) {
        let Some(profiles) = &self.profiles else {
            judged.found = Found::Unknown("this daemon has no AppArmor profiles".into());
            return;
        };
        let holders = profiles.holders(&confined.profile, acting, Instant::now());
        judged.container = holders.acted.as_ref().and_then(|id| self.registry.container(id));
        let known = holders.containers.iter().filter_map(|id| self.registry.container(id));
        let namespaces: BTreeSet<String> = known.map(|one| one.subject.namespace.clone()).collect();
        judged.namespace = namespaces.first().filter(|_| namespaces.len() == 1).cloned();
        if let Object::Path(path) = &judged.denial.object {
            judged.path = Some(without_slash(path).to_vec());
        }
        judged.socket = socket_of(&judged.denial.object);
        let mut first = None;
        for content in &holders.contents {
            let (found, source) = self.by_content(content, confined.child.as_deref(), judged);
            let is_known = !matches!(found, Found::Unknown(_));
            if is_known || first.is_none() {
                first = Some((content.ruleset, found, source));
            }
            if is_known {
                break;
            }
        }
        let none = || (None, Found::Unknown("which rules are in the profile is not known".into()), None);
        (judged.ruleset, judged.found, judged.source) = first.unwrap_or_else(none);
        if let Some(bad) = &judged.denial.doubt {
            judged.found = Found::Unknown(format!("the kernel told {bad}"));
        }
    }

    /// Which of the rules in a profile it is, and the executable that acted, where that is known.
    fn by_content(
        &mut self,
        content: &Rules,
        child: Option<&str>,
        judged: &Judged,
    ) -> (Found, Option<AbsPath>) {
        let denial = &judged.denial;
        let Some(ruleset) = content.ruleset.and_then(|digest| self.registry.ruleset(&digest)) else {
            // beside another lock a profile has no rules but native ones
            let unknown = || Found::Unknown("which rules are in the profile is not known".into());
            return (by_natives(&content.natives, denial).unwrap_or_else(unknown), None);
        };
        let rules = self.as_held(&ruleset, "apparmor", apparmor::held);
        let actors = apparmor::actors(&rules, child);
        let accesses = accesses(judged);
        let mut answers = Answers::new(denial.verdict);
        for actor in &actors {
            let source = actor.map(AbsPath::as_bytes);
            accesses.iter().for_each(|access| answers.ask(&rules, &Access { source, ..*access }));
        }
        // where several rules deny it, one of those may have said it as well
        let natives = || by_natives(&content.natives, denial).filter(|_| answers.by.is_empty());
        let found = answers.one(&rules).or_else(natives);
        let source = match actors.as_slice() {
            [Some(source)] => Some((*source).clone()),
            _ => None,
        };
        (found.unwrap_or_else(|| answers.unknown(&rules)), source)
    }

    fn of_label(&mut self, labelled: &Labelled, judged: &mut Judged) {
        let host = ContainerId::host();
        judged.container = self.registry.container(&host);
        let Some(ruleset) = self.registry.in_force(&host) else {
            judged.found = Found::Unknown("which rules are in force is not known".into());
            return;
        };
        judged.ruleset = Some(ruleset.digest());
        let noted = (self.noted)();
        // what was refused for a file of this host denies nothing, so it is not asked
        let held = noted.as_ref().and_then(|noted| noted.held(ruleset.digest())).map(Arc::clone);
        let in_step = held.is_some();
        let rules = held.unwrap_or_else(|| self.as_held(&ruleset, "selinux", selinux::held));
        let paths = match paths_of(labelled, &judged.denial, noted.as_deref(), in_step) {
            Ok(paths) => paths,
            Err(why) => {
                judged.found = Found::Unknown(why.into());
                return;
            }
        };
        if let [path] = paths.may_be.as_slice()
            && paths.told
        {
            judged.path = Some(path.clone());
        }
        let mut found = Answers::new(Verdict::Block); // where it passes, the kernel is permissive
        for path in &paths.may_be {
            asked_of_label(path, labelled, &judged.denial)
                .iter()
                .for_each(|access| found.ask(&rules, access));
        }
        judged.found = match found.one(&rules).filter(|_| !paths.more) {
            Some(found) => found,
            None => found.unknown(&rules),
        };
    }

    /// What of a ruleset the lock holds.
    fn as_held(
        &mut self,
        ruleset: &Ruleset,
        by: &'static str,
        held: fn(&Ruleset) -> Ruleset,
    ) -> Arc<Ruleset> {
        let digest = ruleset.digest();
        let known = self.held.iter().find(|(of, lock, _)| *of == digest && *lock == by);
        if let Some((.., rules)) = known {
            return Arc::clone(rules);
        }
        if self.held.len() >= HELD {
            self.held.pop_front();
        }
        let rules = Arc::new(held(ruleset));
        self.held.push_back((digest, by, Arc::clone(&rules)));
        rules
    }
}

/// The paths that a record of SELinux may mean, or why there is none. The kernel tells the whole path of an open file
/// alone, else a name and an inode; and of what is to be made only the name, so that each directory with the label may be
/// the one. `in_step`: the labels are those of the rules in force.
fn paths_of(
    by: &Labelled,
    denial: &Denial,
    noted: Option<&Noted>,
    in_step: bool,
) -> Result<Paths, &'static str> {
    let one = |path: Vec<u8>| Paths { may_be: vec![path], told: true, more: false };
    let (name, inode) = match &denial.object {
        Object::Path(path) => return Ok(one(path.clone())),
        Object::File { name, inode } => (name, *inode),
        _ => return Err("the kernel tells neither a path nor a name"),
    };
    let noted =
        noted.ok_or("the kernel does not tell the path, and which files have labels is not known yet")?;
    let paths = if by.class == "dir" && denial.permissions.split(' ').any(|one| one == "add_name") {
        // which directories one rule is about the files' own rules say
        if !in_step {
            return Err(
                "the kernel does not tell the path, and files have the labels of other rules than those in force",
            );
        }
        let makers = noted.makers(by.label, name);
        let below = |dir: &&[u8]| [without_slash(dir), b"/", name].concat();
        Paths {
            may_be: makers.directories.iter().map(below).collect(),
            told: makers.alone,
            more: makers.more,
        }
    } else {
        // one inode of several file systems, or of several names: each is asked about
        let of_name = |name| -> Vec<Vec<u8>> {
            inode.into_iter().flat_map(|inode| noted.files(inode, name)).map(<[u8]>::to_vec).collect()
        };
        let more = inode.is_some_and(|inode| noted.has_more(inode));
        let may_be = of_name(name);
        match may_be.is_empty() {
            // of a file with several names the kernel tells any, also one that no rule is about
            true => Paths { may_be: of_name(b""), told: false, more },
            false => Paths { may_be, told: true, more },
        }
    };
    match paths.may_be.is_empty() {
        true => Err("the kernel does not tell the path, and no labelled file is that one"),
        false => Ok(paths),
    }
}

/// Paths that a record may mean.
struct Paths {
    /// At least one.
    may_be: Vec<Vec<u8>>,
    /// Where it is one it is that; else it is one that is judged alike.
    told: bool,
    /// There are more.
    more: bool,
}

/// What rules answer about the accesses that a record may mean.
struct Answers {
    wanted: Verdict,
    by: BTreeSet<DecidedBy>,
}

impl Answers {
    fn new(wanted: Verdict) -> Self {
        Self { wanted, by: BTreeSet::new() }
    }

    fn ask(&mut self, rules: &Ruleset, access: &Access<'_>) {
        let decision = rules.decide(access);
        if decision.verdict == self.wanted {
            self.by.insert(decision.by);
        }
    }

    fn one(&self, rules: &Ruleset) -> Option<Found> {
        let only = self.by.first().filter(|_| self.by.len() == 1)?;
        match only {
            DecidedBy::Rule(id) | DecidedBy::Exempt(id) => {
                rules.origin(*id).map(|origin| Found::Rule(Box::new(origin.clone())))
            }
            DecidedBy::DefaultPosture => Some(Found::Posture),
            DecidedBy::NoRule => None,
        }
    }

    fn unknown(&self, rules: &Ruleset) -> Found {
        let name = |by: &DecidedBy| match by {
            DecidedBy::Rule(id) | DecidedBy::Exempt(id) => {
                rules.origin(*id).map(|origin| format!("{} of {}", origin.rule, origin.policy))
            }
            DecidedBy::DefaultPosture => Some("the posture".to_owned()),
            DecidedBy::NoRule => None,
        };
        let names: Vec<String> = self.by.iter().filter_map(name).take(5).collect();
        Found::Unknown(match (names.is_empty(), self.wanted) {
            (false, _) => format!("it may be any of these: {}", names.join(", ")),
            (true, Verdict::Block) => {
                "the rules in force do not deny it: the lock denies more than they say, or they were others then".into()
            }
            (true, _) => "the rules in force do not report it, or they were others then".into(),
        })
    }
}

/// The policy whose native rules must have said it, since it alone has any in the profile.
fn by_natives(natives: &[Native], denial: &Denial) -> Option<Found> {
    let can = match &denial.object {
        Object::Path(_) => !denial.permissions.contains('l') && !denial.operation.starts_with("rename"),
        // the profile denies some of its own accord
        Object::Capability(name) => !apparmor::is_withheld(name),
        Object::Socket { .. } => true,
        Object::File { .. } | Object::Other(_) => false,
    };
    match natives {
        [only] if can => Some(Found::Native(only.policy.clone())),
        _ => None,
    }
}

fn class_of(denial: &Denial) -> Class {
    let executes = match &denial.by {
        By::AppArmor(_) => denial.operation == "exec" || denial.permissions.contains(['x', 'm']),
        By::Selinux(_) => denial.permissions.split(' ').any(executes),
    };
    match &denial.object {
        Object::Capability(_) => Class::Capability,
        Object::Socket { .. } => Class::Network,
        Object::Path(_) | Object::File { .. } if executes => Class::Process,
        Object::Other(_) if matches!(denial.operation.as_str(), "ptrace" | "signal") => Class::Process,
        // its protocol is none
        Object::Other(_) if denial.operation == "create" => Class::Network,
        Object::Path(_) | Object::File { .. } | Object::Other(_) => Class::File,
    }
}

fn executes(permission: &str) -> bool {
    matches!(permission, "execute" | "execute_no_trans" | "entrypoint")
}

/// The accesses that a record of AppArmor may mean.
fn accesses(judged: &Judged) -> Vec<Access<'_>> {
    let Judged { denial, path, class, .. } = judged;
    match &denial.object {
        Object::Path(whole) => {
            let Some(path) = path else { return Vec::new() };
            let is = |letters: &[char]| denial.permissions.contains(letters);
            let directory = whole.len() > path.len();
            let path = |class, write, tree| {
                let target = PathAccess {
                    class,
                    path: path.as_slice(),
                    write,
                    tree,
                    owner: denial.owner,
                    argv0: None,
                    args: None,
                };
                Access { uid: denial.uid.unwrap_or(0), ..Access::to(Target::Path(target)) }
            };
            let mut all = Vec::new();
            if *class == Class::Process {
                all.push(path(PathClass::Process, false, false));
            }
            if is(&['r']) {
                all.push(path(PathClass::File, false, false));
            }
            if is(&['w', 'a', 'c', 'd', 'l']) {
                // making, removing and changing a directory is denied with renaming it
                all.push(path(PathClass::File, true, directory));
            }
            all
        }
        Object::Capability(name) => Capability::by_name(name).map(Access::capability).into_iter().collect(),
        object => {
            let Some(socket) = socket_of(object) else { return Vec::new() };
            let Socket { family, kind, protocol, .. } = socket;
            // profiles tell sockets apart by family and type: what any protocol is denied, all are
            let more = match (family, kind) {
                (AF_INET, SOCK_RAW) => vec![0, IPPROTO_ICMP],
                (AF_INET6, SOCK_RAW) => vec![0, IPPROTO_ICMPV6],
                _ => vec![0],
            };
            let of = |protocol| {
                let op = SocketOp::Create;
                Access::socket(SocketAccess { op, family, kind, protocol, address: None, port: 0 })
            };
            more.into_iter().chain([protocol]).map(of).collect()
        }
    }
}

fn socket_of(object: &Object) -> Option<Socket> {
    let Object::Socket { family, kind, protocol } = object else { return None };
    let (family, kind) = apparmor::socket_numbers(family, kind)?;
    Some(Socket { family, kind, protocol: *protocol, address: None })
}

/// The accesses that a record of SELinux may mean, about this path.
fn asked_of_label<'p>(path: &'p [u8], by: &Labelled, denial: &Denial) -> Vec<Access<'p>> {
    let path = without_slash(path);
    let directory = by.class == "dir";
    let of = |permission: &str| match permission {
        "read" => Some(Access::read(path)),
        permission if executes(permission) => Some(Access::exec(path)),
        "rename" | "reparent" if directory && by.label.has(Label::MOVE) => {
            Some(Access::rename_directory(path))
        }
        "write" | "append" | "rename" | "reparent" | "rmdir" | "unlink" | "link" | "setattr" | "add_name" => {
            Some(Access::write(path))
        }
        _ => None,
    };
    denial.permissions.split(' ').filter_map(of).collect()
}

fn without_slash(path: &[u8]) -> &[u8] {
    match path.strip_suffix(b"/") {
        Some(rest) if !rest.is_empty() => rest,
        _ => path,
    }
}
