//! The rules of one container, merged from every policy that selects it.

mod digest;
mod resolve;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

pub use self::digest::RulesetDigest;
pub use self::resolve::Resolved;
pub use crate::path::AbsPath;
use crate::policy::PolicyId;
pub use crate::posture::{Class, Effect, PostureAction, Postures, UnknownClass, UnknownPosture};

/// What a rule speaks about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// This path and no other.
    Path(AbsPath),
    /// Every path whose last component is this name, in any directory.
    BaseName(String),
    /// A directory itself and what is in it.
    Directory {
        /// The directory.
        dir: AbsPath,
        /// Whether the whole subtree is meant rather than the direct children alone.
        recursive: bool,
    },
}

/// `/path`, `name=base`, `/dir/*` or `/dir/**`.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::BaseName(name) => write!(f, "name={name}"),
            Self::Directory { dir, recursive } => {
                let slash = if dir.is_root() { "" } else { "/" };
                let depth = if *recursive { "**" } else { "*" };
                write!(f, "{dir}{slash}{depth}")
            }
        }
    }
}

/// What narrows a rule. On an Allow rule all of them must hold for the rule to match; on an Audit or Block rule any
/// one that holds exempts the access.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conditions {
    /// Holds for reading and executing.
    pub read_only: bool,
    /// Holds for the owner of the file.
    pub owner_only: bool,
}

impl Conditions {
    /// Whether there is nothing to hold.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        !self.read_only && !self.owner_only
    }
}

/// Which [`Origin`] of its [`Ruleset`] a rule comes from. It means nothing in another ruleset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct OriginId(pub u32);

/// Where a rule comes from, and what its alerts say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Origin {
    /// The policy.
    pub policy: PolicyId,
    /// The rule's place in the policy, such as `spec.file.matchPaths[0]`.
    pub rule: String,
    /// 1 (least) to 10.
    pub severity: u8,
    /// Tags, as written.
    pub tags: Vec<String>,
    /// The message; empty where there is none.
    pub message: String,
    /// What the rule does.
    pub action: Effect,
}

/// One rule of a ruleset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// What kind of access it speaks about.
    pub class: Class,
    /// The executable that must be acting (for the process class: calling `execve`); `None` for any.
    pub source: Option<AbsPath>,
    /// What is accessed.
    pub object: Object,
    /// What narrows it.
    pub conditions: Conditions,
    /// What it does; always equal to its origin's action.
    pub effect: Effect,
    /// Where it comes from.
    pub origin: OriginId,
}

/// `block file /etc/passwd ownerOnly from /bin/sh`, without the origin.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, source, object, conditions, effect, origin: _ } = self;
        write!(f, "{effect} {class} {object}")?;
        if conditions.read_only {
            f.write_str(" readOnly")?;
        }
        if conditions.owner_only {
            f.write_str(" ownerOnly")?;
        }
        match source {
            Some(source) => write!(f, " from {source}"),
            None => Ok(()),
        }
    }
}

/// The rules of one container, in one canonical form: whatever the order in which policies arrived, the same rules
/// with the same origins give the same value, byte for byte, and the same [`digest`](Self::digest).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    rules: Vec<Rule>,     // INVARIANT: sorted, no two equal, each origin within `origins`
    origins: Vec<Origin>, // INVARIANT: sorted, no two equal, each used by a rule
    whitelists: Whitelists,
    digest: RulesetDigest,
}

/// The posture of each class that is a whitelist, in the order of [`Class::ALL`]; `None` where it is none.
type Whitelists = [Option<PostureAction>; 4];

impl Ruleset {
    /// Puts rules into canonical form: both lists are sorted and deduplicated, origins that no rule uses are left
    /// out, and the [`OriginId`]s are renumbered accordingly.
    ///
    /// `rules[_].origin` is an index into `origins` as given here.
    ///
    /// # Errors
    /// When a rule names an origin that does not exist, its effect is not its origin's action, its class has no
    /// such objects, or its base name is empty or holds a `/` or a zero byte.
    pub fn new(rules: Vec<Rule>, origins: Vec<Origin>, postures: Postures) -> Result<Self, InvalidRule> {
        Self::with_whitelists(rules, origins, postures, &[])
    }

    /// The same as [`new`](Self::new), with classes that are whitelists even where they have no Allow rule: those
    /// whose Allow rules cannot be enforced. Without such a rule its class must not fall open.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn with_whitelists(
        rules: Vec<Rule>,
        origins: Vec<Origin>,
        postures: Postures,
        whitelists: &[Class],
    ) -> Result<Self, InvalidRule> {
        let rules = rules
            .into_iter()
            .map(|rule| {
                let origin = position(rule.origin)
                    .and_then(|index| origins.get(index))
                    .ok_or(InvalidRule::UnknownOrigin(rule.origin.0))?;
                check(&rule, origin)?;
                Ok((origin.clone(), vec![rule]))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self::canonical(rules, postures, whitelists))
    }

    /// Takes rules that are known to be valid, by origin; their origin ids are overwritten.
    pub(crate) fn canonical(
        rules: impl IntoIterator<Item = (Origin, Vec<Rule>)>,
        postures: Postures,
        whitelists: &[Class],
    ) -> Self {
        let mut by_origin: BTreeMap<Origin, Vec<Rule>> = BTreeMap::new();
        for (origin, of_origin) in rules {
            by_origin.entry(origin).or_default().extend(of_origin);
        }
        let mut rules = Vec::new();
        let mut origins = Vec::with_capacity(by_origin.len());
        for (index, (origin, of_origin)) in by_origin.into_iter().enumerate() {
            // Four thousand million origins do not fit into memory; were there more, the last would share a name.
            let id = OriginId(u32::try_from(index).unwrap_or(u32::MAX));
            origins.push(origin);
            rules.extend(of_origin.into_iter().map(|rule| Rule { origin: id, ..rule }));
        }
        rules.sort_unstable();
        rules.dedup();

        let allows = |class| rules.iter().any(|rule| rule.class == class && rule.effect == Effect::Allow);
        let whitelists = Class::ALL
            .map(|class| (whitelists.contains(&class) || allows(class)).then(|| postures.of(class)));
        let digest = digest::digest(&rules, &origins, whitelists);
        Self { rules, origins, whitelists, digest }
    }

    /// The rules, sorted.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The origins, sorted; [`OriginId`] is the index.
    #[must_use]
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// One origin; `None` for an id of another ruleset.
    #[must_use]
    pub fn origin(&self, id: OriginId) -> Option<&Origin> {
        position(id).and_then(|index| self.origins.get(index))
    }

    /// Whether it says nothing at all: no rule, and no class is a whitelist. Such a container needs no enforcement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.whitelists.iter().all(Option::is_none)
    }

    /// Whether the class is a whitelist: it has an Allow rule, with or without a source, or had one that cannot be
    /// enforced.
    #[must_use]
    pub fn whitelisted(&self, class: Class) -> bool {
        self.whitelist(class).is_some()
    }

    /// What becomes of an access of the class that no rule matches: the default posture where the class is
    /// [`whitelisted`](Self::whitelisted), else Allow.
    #[must_use]
    pub fn posture(&self, class: Class) -> PostureAction {
        self.whitelist(class).unwrap_or(PostureAction::Allow)
    }

    fn whitelist(&self, class: Class) -> Option<PostureAction> {
        let [process, file, network, capability] = self.whitelists;
        match class {
            Class::Process => process,
            Class::File => file,
            Class::Network => network,
            Class::Capability => capability,
        }
    }

    /// The identity of the ruleset: equal digests mean equal rules, equal origins, and the same whitelists
    /// with the same postures.
    #[must_use]
    pub fn digest(&self) -> RulesetDigest {
        self.digest
    }
}

/// A line for each rule with its origin, and one for each posture that matters; made to be read and compared.
impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in &self.rules {
            match self.origin(rule.origin) {
                Some(origin) => writeln!(f, "{rule} [{} {}]", origin.policy, origin.rule)?,
                None => writeln!(f, "{rule}")?,
            }
        }
        for class in Class::ALL {
            if self.whitelisted(class) {
                writeln!(f, "{} {class} otherwise [DefaultPosture]", self.posture(class))?;
            }
        }
        Ok(())
    }
}

fn position(id: OriginId) -> Option<usize> {
    usize::try_from(id.0).ok()
}

fn check(rule: &Rule, origin: &Origin) -> Result<(), InvalidRule> {
    if rule.effect != origin.action {
        return Err(InvalidRule::OtherAction { effect: rule.effect, action: origin.action });
    }
    match rule.class {
        Class::Process | Class::File => {}
        Class::Network | Class::Capability => return Err(InvalidRule::NoSuchObject(rule.class)),
    }
    if let Object::BaseName(name) = &rule.object
        && (name.is_empty() || name.bytes().any(|byte| byte == b'/' || byte == 0))
    {
        return Err(InvalidRule::BaseName(name.clone()));
    }
    Ok(())
}

/// Why [`Ruleset::new`] refuses a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// The rule's origin is not in the list.
    #[error("there is no origin {0}")]
    UnknownOrigin(u32),
    /// The rule does one thing and its origin says another.
    #[error("the rule's effect is {effect}, its origin's action is {action}")]
    OtherAction {
        /// The rule's.
        effect: Effect,
        /// The origin's.
        action: Effect,
    },
    /// Files are no objects of this class; the objects of these classes are still to come.
    #[error("a {0} rule cannot speak about files")]
    NoSuchObject(Class),
    /// No file can have this name.
    #[error("`{0}` is no name of a file")]
    BaseName(String),
}

#[cfg(test)]
mod tests;
