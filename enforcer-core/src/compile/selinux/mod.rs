#![doc = include_str!("selinux.md")]

mod gaps;
mod module;
mod vital;

use std::collections::{BTreeMap, BTreeSet};

pub use self::module::{Domain, InvalidDomain, MODULE, module};
pub(crate) use self::vital::SETTINGS;
pub use self::vital::Vital;
use crate::coverage::Gap;
use crate::decide::{Access, DecidedBy, Verdict};
use crate::path::{AbsPath, components};
use crate::ruleset::{Object, Ruleset, RulesetDigest};

/// What the name of every user of ours begins with; no label with another one is ever taken off.
pub const USER_PREFIX: &str = "nri_enforcer_";
/// What it ends with.
const USER_SUFFIX: &str = "_u";
/// The name of a file that stands for any that is made in a directory; no policy can write it, since its bytes are no text.
const ANY_NAME: &[u8] = b"/\xff";

/// What is denied about a file, as a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(u8);

impl Label {
    /// Nothing: the file keeps the user that it has.
    pub const NOTHING: Self = Self(0);
    /// Reading its content, or listing it.
    pub const READ: Self = Self(1);
    /// Changing it.
    pub const WRITE: Self = Self(1 << 1);
    /// Executing it.
    pub const EXECUTE: Self = Self(1 << 2);
    /// Making something in it.
    pub const CREATE: Self = Self(1 << 3);
    /// Renaming the directory.
    pub const MOVE: Self = Self(1 << 4);
    /// The bits, each with its letter in the user's name.
    const LETTERS: [(Self, char); 5] =
        [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::EXECUTE, 'x'), (Self::CREATE, 'c'), (Self::MOVE, 'm')];

    /// All that there are but [`NOTHING`](Self::NOTHING).
    pub fn all() -> impl Iterator<Item = Self> {
        (1..1 << Self::LETTERS.len()).map(Self)
    }

    /// What either denies.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is denied.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The user of its files; `None` where nothing is denied.
    #[must_use]
    pub fn user(self) -> Option<String> {
        let letters: String =
            Self::LETTERS.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, letter)| *letter).collect();
        (self != Self::NOTHING).then(|| format!("{USER_PREFIX}{letters}{USER_SUFFIX}"))
    }

    /// The label of files with this user; `None`: it is none of ours.
    #[must_use]
    pub fn of_user(user: &str) -> Option<Self> {
        Self::all().find(|label| label.user().as_deref() == Some(user))
    }
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A symbolic link, which can be changed; whoever follows it is judged by where it leads.
    Link,
    /// Any other.
    File,
}

/// Where to look for files that are to have a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The path.
    pub path: AbsPath,
    /// What of it.
    pub reach: Reach,
}

/// How much of a place is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// A directory above a rule's object.
    Above,
    /// What the path leads to.
    Itself,
    /// That, and what is in it.
    Children,
    /// That, and all that is below it.
    Below,
}

/// What is to be labelled, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    compiled: RulesetDigest,
    rules: Ruleset,
    /// Where files are that may have a label; sorted, no two equal.
    pub places: Vec<Place>,
    /// What of the rules is not in it; sorted, no two equal.
    pub gaps: Vec<Gap>,
    /// Paths of rules over links that were followed, each with its names then: these are among the places, too.
    linked: BTreeMap<AbsPath, BTreeSet<AbsPath>>,
}

/// What of a ruleset labels hold: by this, and not by what is written, an access is decided. It has a digest of its own and no
/// whitelists. Its Audit rules report nothing: what they name passes.
#[must_use]
pub fn held(ruleset: &Ruleset) -> Ruleset {
    vital::spared(gaps::expressible(ruleset)).0
}

/// Compiles a ruleset. The same input gives the same labels.
#[must_use]
pub fn compile(ruleset: &Ruleset) -> Labels {
    let (rules, refused) = vital::spared(gaps::expressible(ruleset));
    let mut linked = BTreeMap::<_, BTreeSet<_>>::new();
    for link in ruleset.links() {
        linked.entry(link.path.clone()).or_default().insert(link.target.clone());
    }
    let mut gaps = [gaps::of(ruleset), refused].concat();
    gaps.sort_unstable();
    gaps.dedup();
    Labels { compiled: ruleset.digest(), places: places(&rules), rules, gaps, linked }
}

/// Where what these rules are about may be; sorted, no two equal.
fn places(rules: &Ruleset) -> Vec<Place> {
    let mut places = BTreeSet::new();
    for rule in rules.rules() {
        let (path, reach) = match &rule.object {
            Object::Path(path) => (path, Reach::Itself),
            Object::Directory { dir, recursive: false } => (dir, Reach::Children),
            Object::Directory { dir, recursive: true } => (dir, Reach::Below),
            _ => continue,
        };
        places.insert(Place { path: path.clone(), reach });
        let names: Vec<&[u8]> = path.components().collect();
        for depth in 1..names.len() {
            let above = AbsPath::from_components(names.iter().take(depth).copied());
            places.extend(above.ok().map(|path| Place { path, reach: Reach::Above }));
        }
    }
    places.into_iter().collect()
}

impl Labels {
    /// The other names by which the rules of a path count, where it led over links ([`Ruleset::with_links`]); `None`: it did
    /// not, or where it led was not followed.
    #[must_use]
    pub fn linked(&self, path: &AbsPath) -> Option<&BTreeSet<AbsPath>> {
        self.linked.get(path)
    }

    /// The digest of the ruleset that was compiled.
    #[must_use]
    pub const fn compiled(&self) -> RulesetDigest {
        self.compiled
    }

    /// The rules that the labels hold: those of [`held`], unless some were refused by what is on the host
    /// ([`without`](Self::without)).
    #[must_use]
    pub const fn rules(&self) -> &Ruleset {
        &self.rules
    }

    /// Who decides about making something in the directory at this path, of a name that no rule is about.
    #[must_use]
    pub fn who_creates(&self, directory: &[u8]) -> DecidedBy {
        self.rules.decide(&Access::write(&any_in(directory))).by
    }

    /// The same without the rules that deny what is vital at these paths, and those as gaps. For names of vital files that no
    /// text tells, such as hard links.
    #[must_use]
    pub fn without(&self, vital: &[(Vec<u8>, Vital)]) -> (Self, Vec<Gap>) {
        let (rules, gaps) = vital::without(self.rules.clone(), vital);
        (Self { places: places(&rules), rules, ..self.clone() }, gaps)
    }

    /// As gaps the rules that deny something of files and directories that are to be changed as SELinux's settings are, by
    /// these paths.
    #[must_use]
    pub fn denying(&self, settings: &[&[u8]]) -> Vec<Gap> {
        self.without(&vital::named(&self.rules, settings)).1
    }

    /// The label of what is at this path.
    #[must_use]
    pub fn of(&self, path: &[u8], kind: Kind) -> Label {
        let denies = |access: &Access<'_>| self.rules.decide(access).verdict == Verdict::Block;
        let when = |denied: bool, label: Label| if denied { label } else { Label::NOTHING };
        let write = when(denies(&Access::write(path)), Label::WRITE);
        let read = || when(denies(&Access::read(path)), Label::READ);
        match kind {
            Kind::Link => write,
            Kind::File => write.with(read()).with(when(denies(&Access::exec(path)), Label::EXECUTE)),
            Kind::Directory => {
                // the root is never renamed
                let moves = components(path).next().is_some() && denies(&Access::rename_directory(path));
                let create = when(denies(&Access::write(&any_in(path))), Label::CREATE);
                write.with(read()).with(create).with(when(moves, Label::MOVE))
            }
        }
    }
}

/// A path in a directory that no rule names.
fn any_in(directory: &[u8]) -> Vec<u8> {
    [directory.strip_suffix(b"/").unwrap_or(directory), ANY_NAME].concat()
}

#[cfg(test)]
mod tests;
