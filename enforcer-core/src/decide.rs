#![doc = include_str!("decide.md")]

use std::cmp::Reverse;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::access::{Access, PathAccess, PathClass, Target};
use crate::applet::applet;
use crate::network::{Endpoint, SocketAccess, SocketOp};
use crate::path::{components, same_components};
use crate::ruleset::{AbsPath, Args, Conditions, Effect, Object, OriginId, PostureAction, Rule, Ruleset};

/// What becomes of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It passes and is reported.
    Audit,
    /// It is denied and reported.
    Block,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Block => "block",
        })
    }
}

impl From<Effect> for Verdict {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Allow => Self::Allow,
            Effect::Audit => Self::Audit,
            Effect::Block => Self::Block,
        }
    }
}

impl From<PostureAction> for Verdict {
    fn from(action: PostureAction) -> Self {
        match action {
            PostureAction::Allow => Self::Allow,
            PostureAction::Audit => Self::Audit,
            PostureAction::Block => Self::Block,
        }
    }
}

/// A verdict and who gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the access.
    pub verdict: Verdict,
    /// Why.
    pub by: DecidedBy,
}

/// Who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DecidedBy {
    /// A rule with this origin.
    Rule(OriginId),
    /// A Block or Audit rule with this origin, whose condition exempts the access.
    Exempt(OriginId),
    /// No rule matched in a class that has Allow rules.
    DefaultPosture,
    /// No rule matched, and the class has no Allow rules.
    NoRule,
}

impl Ruleset {
    /// What becomes of `access` under these rules. See the [module](crate::decide) for the order of precedence.
    #[must_use]
    pub fn decide(&self, access: &Access<'_>) -> Decision {
        let decision = self.decide_object(access);
        let moved = access.path().filter(|access| access.tree).map(|access| access.path);
        match moved.and_then(|directory| self.strongest_below(access, directory)) {
            Some((effect, origin)) if Verdict::from(effect) > decision.verdict => {
                Decision { verdict: effect.into(), by: DecidedBy::Rule(origin) }
            }
            _ => decision,
        }
    }

    fn strongest_below(&self, access: &Access<'_>, directory: &[u8]) -> Option<(Effect, OriginId)> {
        let below = |rule: &&Rule| acts(rule, access) && lies_below(&rule.object, directory);
        let about = self.rules().iter().filter(below).map(|rule| (rule.effect, Reverse(rule.origin)));
        about
            .filter(|(effect, _)| *effect > Effect::Allow)
            .max()
            .map(|(effect, Reverse(origin))| (effect, origin))
    }

    fn decide_object(&self, access: &Access<'_>) -> Decision {
        let matching = self.rules().iter().filter_map(|rule| Match::of(rule, access));
        match matching.max() {
            Some(found) => found.decision(),
            None if self.whitelisted(access.class()) => {
                Decision { verdict: self.posture(access.class()).into(), by: DecidedBy::DefaultPosture }
            }
            None => Decision { verdict: Verdict::Allow, by: DecidedBy::NoRule },
        }
    }
}

/// A rule that matches an access. The order of the fields *is* the order of precedence: the greatest match decides.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Match {
    has_source: bool,
    specificity: Specificity,
    effect: Effect, // Allow for an exemption
    origin: Reverse<OriginId>,
    exempt: Reverse<bool>,
}

/// How closely an object matched; least first. Only those of one class are ever compared.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Specificity {
    Directory { depth: usize },
    Pattern,
    BaseName,
    Path,
    Sockets,
    Endpoint { prefix: Option<u8>, width: Reverse<u16> }, // no network is less than the shortest prefix
    Name,
}

impl Match {
    fn of(rule: &Rule, access: &Access<'_>) -> Option<Self> {
        let Rule { class: _, source, object, conditions, effect, origin } = rule;
        if !acts(rule, access) {
            return None;
        }
        let specificity = match_target(object, *effect, &access.target)?;
        let exempt = match effect {
            Effect::Allow if covers(conditions, access) => false,
            Effect::Allow => return None,
            Effect::Audit | Effect::Block => exempts(conditions, access),
        };
        Some(Self {
            has_source: source.is_some(),
            specificity,
            effect: if exempt { Effect::Allow } else { *effect },
            origin: Reverse(*origin),
            exempt: Reverse(exempt),
        })
    }

    fn decision(&self) -> Decision {
        let Self { effect, origin: Reverse(origin), exempt: Reverse(exempt), .. } = self;
        let by = if *exempt { DecidedBy::Exempt(*origin) } else { DecidedBy::Rule(*origin) };
        Decision { verdict: (*effect).into(), by }
    }
}

/// Whether the rule is of the access's class, and its source, where it has one, is who acts.
fn acts(rule: &Rule, access: &Access<'_>) -> bool {
    let named = |source: &AbsPath| access.source.is_some_and(|path| source.names(path));
    rule.class == access.class() && rule.source.as_ref().is_none_or(named)
}

/// Whether an Allow rule with these conditions covers the access: all of them hold.
fn covers(conditions: &Conditions, access: &Access<'_>) -> bool {
    held(conditions, access).into_iter().all(|(_, holds)| holds != Some(false))
}

/// Whether a Block or Audit rule with these conditions exempts the access: any one of them holds.
fn exempts(conditions: &Conditions, access: &Access<'_>) -> bool {
    held(conditions, access).into_iter().any(|(_, holds)| holds == Some(true))
}

/// The conditions, and for each one that there is, whether it holds.
pub(crate) fn held(conditions: &Conditions, access: &Access<'_>) -> [(&'static str, Option<bool>); 4] {
    let Conditions { read_only, owner_only, no_terminal, args } = conditions;
    let path = access.path();
    let owner = || path.is_some_and(|path| path.owner.is_none_or(|owner| owner == access.uid));
    let allowed = |args: &Args| {
        let given = path.and_then(|path| path.args);
        given.is_some_and(|given| given.iter().all(|arg| args.contains(arg)))
    };
    [
        ("readOnly", read_only.then(|| path.is_some_and(|path| !path.write))),
        ("ownerOnly", owner_only.then(owner)),
        ("pts: false", no_terminal.then_some(!access.terminal)),
        ("allowedArgs", args.as_ref().map(allowed)),
    ]
}

/// Whether the rule has a say in the access: its object, its source and, for an Allow rule, its conditions.
pub(crate) fn speaks(rule: &Rule, access: &Access<'_>) -> bool {
    let moved = access.path().filter(|access| access.tree).map(|access| access.path);
    Match::of(rule, access).is_some()
        || (moved.is_some_and(|directory| lies_below(&rule.object, directory)) && acts(rule, access))
}

fn match_target(object: &Object, effect: Effect, target: &Target<'_>) -> Option<Specificity> {
    match (object, target) {
        (Object::Applet { program, name }, Target::Path(access)) => {
            (program.names(access.path) && runs(access, name, effect)).then_some(Specificity::Path)
        }
        (object, Target::Path(access)) => match_path(object, access.path),
        (object, Target::Socket(access)) => match_socket(object, effect, access),
        (Object::Capability(wanted), Target::Capability(used)) => {
            (wanted == used).then_some(Specificity::Name)
        }
        (Object::Syscall(wanted), Target::Syscall(made)) => (wanted == made).then_some(Specificity::Name),
        (Object::Preset(wanted), Target::Preset(done)) => (wanted == done).then_some(Specificity::Name),
        _ => None,
    }
}

/// Whether a program of many names does what it does by this one. Where that is not known, an Allow rule does not speak
/// about it, and the others do.
fn runs(access: &PathAccess<'_>, name: &[u8], effect: Effect) -> bool {
    match (access.argv0, access.args) {
        (Some(argv0), Some(args)) => applet(argv0, args) == Some(name),
        _ => effect != Effect::Allow,
    }
}

pub(crate) fn match_path(object: &Object, path: &[u8]) -> Option<Specificity> {
    if path.first() != Some(&b'/') {
        return None;
    }
    match object {
        Object::Path(wanted) => wanted.names(path).then_some(Specificity::Path),
        Object::BaseName(name) => {
            (components(path).last() == Some(name.as_bytes())).then_some(Specificity::BaseName)
        }
        Object::Pattern(pattern) => pattern.matches(path).then_some(Specificity::Pattern),
        Object::Directory { dir, recursive } => {
            let depth = dir.depth();
            let below = components(path).count().checked_sub(depth)?;
            let inside = same_components(dir.components(), components(path).take(depth));
            (inside && (*recursive || below <= 1)).then_some(Specificity::Directory { depth })
        }
        _ => None,
    }
}

fn match_socket(object: &Object, effect: Effect, access: &SocketAccess) -> Option<Specificity> {
    use SocketOp::{Bind, Connect, Create, Listen, Send};
    let allows = effect == Effect::Allow;
    let (endpoint, matches) = match (object, access.op) {
        (Object::Sockets(protocol), _) => return access.is_of(*protocol).then_some(Specificity::Sockets),
        (Object::Destination(to), Connect | Send) => (to, to.contains(access)),
        // What takes every address takes this one, too, and what is allowed here is not allowed everywhere.
        (Object::Listener(at), Bind | Listen) if allows => (at, at.contains(access)),
        (Object::Listener(at), Bind | Listen) => (at, at.overlaps(access)),
        // A socket that may not be made could not be connected.
        (Object::Destination(end) | Object::Listener(end), Create) => (end, allows && end.speaks_of(access)),
        _ => return None,
    };
    let Endpoint { net, ports, protocol: _ } = endpoint;
    let prefix = net.map(|net| net.prefix());
    matches.then_some(Specificity::Endpoint { prefix, width: Reverse(ports.width()) })
}

/// Whether a rule about the object is about something below the directory.
fn lies_below(object: &Object, directory: &[u8]) -> bool {
    if directory.first() != Some(&b'/') {
        return false;
    }
    match object {
        Object::Path(about)
        | Object::Directory { dir: about, .. }
        | Object::Applet { program: about, .. } => {
            let depth = components(directory).count();
            about.depth() > depth && same_components(about.components().take(depth), components(directory))
        }
        Object::Pattern(pattern) => pattern.could_match_below(directory),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
