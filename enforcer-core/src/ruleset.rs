//! The rules of one container, merged from every policy that selects it.

mod digest;
mod resolve;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

pub use self::digest::RulesetDigest;
pub use self::resolve::Resolved;
use crate::links::Link;
pub use crate::object::{Args, Conditions, Object};
pub use crate::path::AbsPath;
pub use crate::pattern::Pattern;
use crate::policy::PolicyId;
pub use crate::posture::{Class, Effect, PostureAction, Postures, UnknownClass, UnknownPosture};
use crate::visibility::Visibility;

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
    /// The executable that must be acting (for the process class: calling `execve`); `None` for any. Presets have none.
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
        write!(f, "{effect} {class} {object}{conditions}")?;
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
    rules: Vec<Rule>,          // INVARIANT: sorted, no two equal, each origin within `origins`
    origins: Vec<Arc<Origin>>, // INVARIANT: sorted, no two equal, each used by a rule
    whitelists: Whitelists,
    observed: Visibility, // INVARIANT: only classes whose posture is Allow
    links: Vec<Link>,     // INVARIANT: sorted, no two equal
    digest: RulesetDigest,
}

/// The posture of each class that is a whitelist, in the order of [`Class::ALL`]; `None` where it is none.
type Whitelists = [Option<PostureAction>; Class::ALL.len()];

impl Ruleset {
    /// Puts rules into canonical form: both lists are sorted and deduplicated, origins that no rule uses are left
    /// out, and the [`OriginId`]s are renumbered accordingly.
    ///
    /// `rules[_].origin` is an index into `origins` as given here.
    ///
    /// # Errors
    /// When a rule names an origin that does not exist, its effect is not its origin's action, or its class has no
    /// such effect, source, object or condition, or its base name is empty or holds a `/` or a zero byte.
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
        let origins: Vec<Arc<Origin>> = origins.into_iter().map(Arc::new).collect();
        let rules = rules
            .into_iter()
            .map(|rule| {
                let origin = position(rule.origin)
                    .and_then(|index| origins.get(index))
                    .ok_or(InvalidRule::UnknownOrigin(rule.origin.0))?;
                check(&rule, origin)?;
                Ok((Arc::clone(origin), vec![rule]))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self::canonical(rules, postures, whitelists))
    }

    /// Takes rules that are known to be valid, by origin; their origin ids are overwritten.
    pub(crate) fn canonical(
        rules: impl IntoIterator<Item = (Arc<Origin>, Vec<Rule>)>,
        postures: Postures,
        whitelists: &[Class],
    ) -> Self {
        let mut by_origin: BTreeMap<Arc<Origin>, Vec<Rule>> = BTreeMap::new();
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
        let whitelists = Class::ALL.map(|class| {
            let is_one = class.can(Effect::Allow) && (whitelists.contains(&class) || allows(class));
            is_one.then(|| postures.of(class))
        });
        let observed = Visibility::NONE;
        let digest = digest::digest(&rules, &origins, whitelists, observed, &[]);
        Self { rules, origins, whitelists, observed, links: Vec::new(), digest }
    }

    /// The same ruleset with rules of the same origins and, sorted, the links that they come from.
    pub(crate) fn with_more(&self, added: Vec<Rule>, links: Vec<Link>) -> Self {
        let (origins, whitelists, observed) = (self.origins.clone(), self.whitelists, self.observed);
        let mut rules = Vec::with_capacity(self.rules.len() + added.len());
        rules.extend_from_slice(&self.rules);
        rules.extend(added);
        rules.sort_unstable();
        rules.dedup();
        let digest = digest::digest(&rules, &origins, whitelists, observed, &links);
        Self { rules, origins, whitelists, observed, links, digest }
    }

    /// The same rules, with the accesses of these classes reported that no rule matches and the posture lets through. In a
    /// class whose posture is another one they are reported or denied anyway, and nothing changes.
    #[must_use]
    pub fn observing(mut self, classes: Visibility) -> Self {
        let passes = |class: &Class| self.posture(*class) == PostureAction::Allow;
        let observed = Visibility::of(classes.classes().filter(passes));
        if observed != self.observed {
            self.observed = observed;
            self.digest = digest::digest(&self.rules, &self.origins, self.whitelists, observed, &self.links);
        }
        self
    }

    /// Whether accesses of the class are reported that no rule matches and that pass. Such a report is an observation: it
    /// says nothing of any policy.
    #[must_use]
    pub fn observes(&self, class: Class) -> bool {
        self.observed.contains(class)
    }

    /// Whether it denies nothing and has no rule, and is there to observe alone.
    #[must_use]
    pub fn only_observes(&self) -> bool {
        !self.observed.is_none() && self.says_nothing()
    }

    /// Whether there is no rule, and no class is a whitelist.
    fn says_nothing(&self) -> bool {
        self.rules.is_empty() && self.whitelists.iter().all(Option::is_none)
    }

    /// The paths of rules that have other names in the container, each with one of them; sorted.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The rules, sorted.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The origins, sorted; [`OriginId`] is the index. They are shared with the policies that they come from.
    #[must_use]
    pub fn origins(&self) -> &[Arc<Origin>] {
        &self.origins
    }

    /// One origin; `None` for an id of another ruleset.
    #[must_use]
    pub fn origin(&self, id: OriginId) -> Option<&Origin> {
        position(id).and_then(|index| self.origins.get(index)).map(AsRef::as_ref)
    }

    /// Whether it says nothing at all: no rule, no class is a whitelist, and none is observed. Such a container needs no
    /// enforcement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.observed.is_none() && self.says_nothing()
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
        let [process, file, network, capability, syscall, preset] = self.whitelists;
        match class {
            Class::Process => process,
            Class::File => file,
            Class::Network => network,
            Class::Capability => capability,
            Class::Syscall => syscall,
            Class::Preset => preset,
        }
    }

    /// The identity of the ruleset: equal digests mean equal rules, equal origins, the same whitelists with
    /// the same postures, and the same observed classes.
    #[must_use]
    pub fn digest(&self) -> RulesetDigest {
        self.digest
    }
}

/// A line for each rule with its origin, one for each posture that matters or class that is observed, and one for each link; made to be read and
/// compared.
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
        for class in self.observed.classes() {
            writeln!(f, "observe {class} otherwise [visibility]")?;
        }
        self.links.iter().try_for_each(|link| writeln!(f, "{link}"))
    }
}

fn position(id: OriginId) -> Option<usize> {
    usize::try_from(id.0).ok()
}

fn check(rule: &Rule, origin: &Origin) -> Result<(), InvalidRule> {
    if rule.effect != origin.action {
        return Err(InvalidRule::OtherAction { effect: rule.effect, action: origin.action });
    }
    let Rule { class, source, object, conditions, effect, origin: _ } = rule;
    if !object.fits(*class) {
        return Err(InvalidRule::NoSuchObject { class: *class, object: object.to_string() });
    }
    if !class.can(*effect) {
        return Err(InvalidRule::NoSuchEffect { class: *class, effect: *effect });
    }
    if !conditions.fit(*class) || (source.is_some() && *class == Class::Preset) {
        return Err(InvalidRule::NoSuchCondition(*class));
    }
    if let Object::BaseName(name) = object
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
    /// Nothing that this class speaks about.
    #[error("a {class} rule cannot speak about `{object}`")]
    NoSuchObject {
        /// The class.
        class: Class,
        /// The object.
        object: String,
    },
    /// Nothing that rules of this class do.
    #[error("a {class} rule cannot {effect}")]
    NoSuchEffect {
        /// The class.
        class: Class,
        /// The effect.
        effect: Effect,
    },
    /// A condition or a source that this class has not.
    #[error("a {0} rule has no such condition or source")]
    NoSuchCondition(Class),
    /// No file can have this name.
    #[error("`{0}` is no name of a file")]
    BaseName(String),
}

#[cfg(test)]
mod tests;
