//! Symbolic links: what a policy calls `/bin/ls` is `/usr/bin/ls` to the kernel where `/bin` is a link.
//!
//! Rules are about paths as the kernel sees them, without links. So the literal paths and directories of a ruleset,
//! sources too, are looked up in the container's own root when it is armed and whenever its policies change, and
//! [`Ruleset::with_links`] adds to each rule one for every other name. Both names count from then on; the origin is
//! the same, so an alert names the rule as it is written. The look-ups themselves are done by
//! `enforce::root::Root`; everything here is pure.
//!
//! # What is not followed
//!
//! | | instead |
//! |---|---|
//! | a link to a program of many names under a process rule, or as a source | only links on the way to it; a gap. To busybox, under a process rule: busybox started by that name (see [`applet`](crate::applet)), up to 255 answers for one program; a Block or Audit rule about a link that is called busybox itself means all of it |
//! | a link, where the rule would then weaken a stronger rule about what the link leads to | the stronger rule; a gap |
//! | a link that the container may replace itself, where the file posture is block and the rule allows | the posture; a gap |
//! | links that could not be looked up in time | the rule as written; a gap |
//! | a source in a volume whose directories are replaced (below) | the source as written; a gap |
//! | `execname`; in a pattern, what comes after the directories that it begins with | the kernel's name |
//!
//! # Hard links
//!
//! A file that a Block or Audit rule names, and that has several hard links, counts by all of its names in the container
//! too, as far as they are found; what is not found is a gap. Not so for process rules, which are about what a program is
//! called (images of busybox have hundreds of names for one file), for Allow rules, and for what a directory or a pattern
//! says.
//!
//! So what a container does to its own links can deny it more, and never allow it more.
//!
//! A link on the way to a path that a file rule blocks is itself protected: replacing it would make the path lead
//! elsewhere, just as renaming a directory would.
//!
//! # Volumes of Kubernetes
//!
//! Secrets, config maps and tokens are mounted as `token -> ..data/token`, where `..data` leads to a dated directory
//! such as `..2026_11_22_10_00_00.12345` and is replaced with it on every rotation. A rule about `token` becomes one
//! about `..*/token`, which no rotation changes; a directory rule without `recursive` also one about what is directly
//! in `..*`.

mod applets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use self::applets::Whole;
use crate::coverage::{Gap, GapReason};
use crate::decide::match_path;
use crate::path::{AbsPath, ROTATING, components, same_components};
use crate::pattern::Pattern;
use crate::ruleset::{Class, Conditions, Effect, Object, Origin, OriginId, PostureAction, Rule, Ruleset};

/// The link in a volume of Kubernetes that leads to the directory of the day.
pub const VOLUME_LINK: &str = "..data";

/// Comparisons of weaker aliases with stronger rules at most; past it the aliases are left out, and gaps.
const MAX_COMPARISONS: usize = 1 << 22;

/// Programs that do what their name says, and have many: base names, or what they begin with.
const MULTI_CALL: [&str; 9] =
    ["busybox", "toybox", "coreutils", "uutils", "dropbearmulti", "xtables", "kmod", "systemctl", "rustup"];

/// Another name of a path, by links that are there. One by a hard link has no links on the way, and leads to itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OtherName {
    /// Where the name stands: every link followed but the one that the last component may be.
    pub place: AbsPath,
    /// Where it leads: every link followed. The longest part that exists, and the rest as it is.
    pub target: AbsPath,
    /// The links on the way, each at its place. Names in one directory share them.
    pub via: Arc<[AbsPath]>,
}

/// What is known of the links on the way to a path.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resolution {
    /// Other names; none where no component is a link.
    pub names: Vec<OtherName>,
    /// Why there may be others.
    pub unknown: Option<Unknown>,
}

/// Why links could not be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unknown {
    /// The container's root cannot be opened, or a directory on the way cannot be read.
    Unreadable,
    /// It takes more look-ups than are made.
    TooMany,
    /// The file system did not answer in time.
    Late,
    /// The file has more hard links than were found.
    HardLinks,
}

impl Unknown {
    /// In words.
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::Unreadable => "the container's directories cannot be read",
            Self::TooMany => "it takes too many look-ups",
            Self::Late => "the container's file system did not answer in time",
            Self::HardLinks => "the file has names by hard links that were not found",
        }
    }
}

/// A path of a policy, and where it leads in a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Link {
    /// As written.
    #[serde(serialize_with = "as_text")]
    pub path: AbsPath,
    /// As the kernel sees it.
    #[serde(serialize_with = "as_text")]
    pub target: AbsPath,
}

fn as_text<S: Serializer>(path: &AbsPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}

/// `/bin/ls (resolves to /usr/bin/ls)`
impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (resolves to {})", self.path, self.target)
    }
}

/// A ruleset whose paths count by all of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// The rules, with those that links add; the names are in [`Ruleset::links`].
    pub ruleset: Ruleset,
    /// What was not followed, sorted.
    pub gaps: Vec<Gap>,
}

/// What has to be looked up in a container's root for a ruleset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LookUps {
    /// The paths whose links matter, sorted; see [`Ruleset::paths_to_resolve`].
    pub paths: Vec<AbsPath>,
    /// Those of them whose names by hard links matter, too: Block and Audit rules about files name them.
    pub twins: BTreeSet<AbsPath>,
}

impl LookUps {
    /// What a ruleset's paths may be called otherwise.
    #[must_use]
    pub fn of(ruleset: &Ruleset) -> Self {
        let of_rule = |rule: &Rule| match &rule.object {
            Object::Path(path) if guards(rule) => Some(path.clone()),
            _ => None,
        };
        Self {
            paths: ruleset.paths_to_resolve().into_iter().collect(),
            twins: ruleset.rules().iter().filter_map(of_rule).collect(),
        }
    }
}

impl Ruleset {
    /// Adds what rules mean by other names. `resolve` is asked once for each path that has to be looked up, in the
    /// order of the paths; the same answers give the same ruleset.
    #[must_use]
    pub fn with_links(&self, mut resolve: impl FnMut(&AbsPath) -> Resolution) -> Linked {
        let answers: BTreeMap<AbsPath, Resolution> =
            self.paths_to_resolve().into_iter().map(|path| (path.clone(), resolve(&path))).collect();
        let mut linking = Linking {
            ruleset: self,
            answers,
            added: Vec::new(),
            protecting: BTreeMap::new(),
            links: BTreeSet::new(),
            gaps: Vec::new(),
        };
        linking.run();
        let Linking { added, links, mut gaps, .. } = linking;
        gaps.sort_unstable();
        gaps.dedup();
        let ruleset = match added.is_empty() && links.is_empty() {
            true => self.clone(),
            false => self.with_more(added, links.into_iter().collect()),
        };
        Linked { ruleset, gaps }
    }

    /// The paths whose links matter, sorted: objects, the directories that patterns begin with, sources, and the
    /// volume's link in directories that are not meant with all that lies below.
    #[must_use]
    pub fn paths_to_resolve(&self) -> BTreeSet<AbsPath> {
        let mut paths = BTreeSet::new();
        for rule in self.rules() {
            paths.extend(rule.source.clone());
            match &rule.object {
                Object::Path(path) => paths.extend([path.clone()]),
                Object::Directory { dir, recursive } => {
                    paths.extend([dir.clone()]);
                    paths.extend((!recursive).then(|| volume_link(dir)).flatten());
                }
                Object::Pattern(pattern) => {
                    let dir = split(pattern).map(|(dir, _)| dir);
                    paths.extend(dir.as_ref().and_then(volume_link));
                    paths.extend(dir);
                }
                _ => {}
            }
        }
        paths
    }
}

/// Whether the rule keeps a file from being read or changed, so that the same file by another hard link is no other
/// file. A process rule is about what a program is called, and an Allow rule must not become wider.
fn guards(rule: &Rule) -> bool {
    rule.class == Class::File && rule.effect > Effect::Allow
}

impl Ruleset {
    /// The name by which a rule with this origin knows a path, where that is another one than the kernel's.
    #[must_use]
    pub fn written_as(&self, origin: OriginId, path: &[u8]) -> Option<&Link> {
        let leads_to = |target: &AbsPath| {
            path.first() == Some(&b'/')
                && same_components(target.components(), components(path).take(target.depth()))
        };
        let of_rule = |link: &&Link| {
            self.rules().iter().filter(|rule| rule.origin == origin).any(|rule| match &rule.object {
                Object::Path(object) => *object == link.path && link.target.names(path),
                Object::Directory { dir, .. } => *dir == link.path,
                _ => false,
            })
        };
        // the rules only for those few links that lead to the path: alerts come in floods
        let mut links = self.links().iter().filter(|link| leads_to(&link.target));
        links.find(of_rule).filter(|link| !link.path.names(path))
    }
}

fn volume_link(dir: &AbsPath) -> Option<AbsPath> {
    dir.join(VOLUME_LINK).ok()
}

/// The directories that a pattern begins with, where it names them literally, and the rest of it from the `/` on.
fn split(pattern: &Pattern) -> Option<(AbsPath, &str)> {
    let text = pattern.as_str();
    let literal =
        text.find(['*', '?', '[', '{', '\\']).map_or(text, |end| text.get(..end).unwrap_or_default());
    let (dir, rest) = text.split_at_checked(literal.rfind('/')?)?;
    // the root is no link
    let dir = AbsPath::new(dir).ok()?;
    (!dir.is_root()).then_some((dir, rest))
}

/// A pattern for what `rest` matches in a directory.
fn join_pattern(dir: &AbsPath, rest: &str) -> Option<Pattern> {
    let mut text = String::new();
    for component in dir.components() {
        text.push('/');
        if component == ROTATING {
            text.push_str("..*");
            continue;
        }
        for character in std::str::from_utf8(component).ok()?.chars() {
            if "*?[]{},\\".contains(character) {
                text.push('\\');
            }
            text.push(character);
        }
    }
    (text + rest).parse().ok()
}

/// Whether the program at `target` does what the name at `path` says rather than what its own name says.
fn is_multi_call(path: &AbsPath, target: &AbsPath) -> bool {
    let (Some(name), Some(base)) = (path.base_name(), target.base_name()) else { return false };
    name != base && MULTI_CALL.iter().any(|known| base.starts_with(known.as_bytes()))
}

/// Whether a path is that of a program: what a process rule is about, or who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Executed {
    No,
    Object,
    Source,
}

struct Linking<'r> {
    ruleset: &'r Ruleset,
    answers: BTreeMap<AbsPath, Resolution>,
    added: Vec<Rule>,
    /// Rules that protect links, without their origin, and the first of those: no other one ever decides.
    protecting: BTreeMap<Rule, OriginId>,
    links: BTreeSet<Link>,
    gaps: Vec<Gap>,
}

/// A name that a rule means, and the links that lead to it; none for the name as written.
type Meant<T> = (T, Arc<[AbsPath]>);

impl Linking<'_> {
    fn run(&mut self) {
        let ruleset = self.ruleset;
        let strong: Vec<&Rule> = ruleset.rules().iter().filter(|rule| rule.effect > Effect::Allow).collect();
        let mut comparisons = 0usize;
        for rule in ruleset.rules() {
            let sources = self.sources(rule);
            let objects = self.objects(rule);
            for (object, via) in &objects {
                for (source, _) in &sources {
                    if *object == rule.object && *source == rule.source {
                        continue;
                    }
                    let alias = Rule { source: source.clone(), object: object.clone(), ..rule.clone() };
                    comparisons =
                        comparisons.saturating_add(if may_weaken(&alias) { strong.len() } else { 0 });
                    self.add(rule, alias, via, &strong, comparisons > MAX_COMPARISONS);
                }
            }
        }
        let protecting = std::mem::take(&mut self.protecting);
        self.added.extend(protecting.into_iter().map(|(rule, origin)| Rule { origin, ..rule }));
        self.bound_applets();
    }

    /// Adds an alias, unless it would make the container's world wider than its policies do.
    fn add(&mut self, rule: &Rule, alias: Rule, via: &[AbsPath], strong: &[&Rule], too_many: bool) {
        if may_weaken(&alias) && (too_many || strong.iter().any(|other| weakens(&alias, other))) {
            let advice =
                format!("a stronger rule speaks about `{}`; name that path in this rule", alias.object);
            return self.gap(rule, GapReason::Link, advice);
        }
        if alias.effect == Effect::Allow
            && alias.class == Class::File
            && self.guarded()
            && let Some(link) =
                via.iter().find(|link| !of_volume(link, &alias.object) && self.replaceable(link))
        {
            let advice = format!(
                "the container may replace the link `{link}`; allow `{}` by its own name",
                alias.object
            );
            return self.gap(rule, GapReason::Link, advice);
        }
        if alias.class == Class::File && alias.effect == Effect::Block {
            self.protect(rule, via);
        }
        self.added.push(alias);
    }

    /// A link on the way to what is blocked must not be replaced; reading through it is not its business.
    fn protect(&mut self, rule: &Rule, via: &[AbsPath]) {
        for link in via {
            let protecting = Rule {
                object: Object::Path(link.clone()),
                conditions: Conditions { read_only: true, ..Conditions::default() },
                origin: OriginId(0),
                ..rule.clone()
            };
            let first = self.protecting.entry(protecting).or_insert(rule.origin);
            *first = rule.origin.min(*first);
        }
    }

    fn sources(&mut self, rule: &Rule) -> Vec<Meant<Option<AbsPath>>> {
        let mut meant = vec![(rule.source.clone(), Arc::default())];
        if let Some(path) = &rule.source {
            for (path, via) in self.names(rule, path, Executed::Source) {
                if path.is_rotating() {
                    let advice =
                        format!("programs in `{path}` are not told apart as sources; put it elsewhere");
                    self.gap(rule, GapReason::Link, advice);
                } else {
                    meant.push((Some(path), via));
                }
            }
        }
        meant
    }

    fn objects(&mut self, rule: &Rule) -> Vec<Meant<Object>> {
        let mut meant = vec![(rule.object.clone(), Arc::default())];
        match &rule.object {
            Object::Path(path) => {
                let process = rule.class == Class::Process;
                let names = self.names(rule, path, if process { Executed::Object } else { Executed::No });
                meant.extend(names.into_iter().map(|(path, via)| (Object::Path(path), via)));
                if process {
                    meant.extend(self.applets(rule, path));
                }
            }
            Object::Directory { dir, recursive } => {
                let recursive = *recursive;
                let names = self.directories(rule, dir, !recursive);
                meant.extend(names.into_iter().map(|(dir, via)| (Object::Directory { dir, recursive }, via)));
            }
            Object::Pattern(pattern) => {
                let Some((dir, rest)) = split(pattern) else { return meant };
                for (dir, via) in self.directories(rule, &dir, true) {
                    match join_pattern(&dir, rest) {
                        Some(pattern) => meant.push((Object::Pattern(pattern), via)),
                        None => {
                            let advice = format!("no pattern can be made of `{dir}`; write one for it");
                            self.gap(rule, GapReason::Link, advice);
                        }
                    }
                }
            }
            _ => {}
        }
        meant
    }

    /// The other names of a directory; with `flat`, also the directories of the day in it.
    fn directories(&mut self, rule: &Rule, dir: &AbsPath, flat: bool) -> Vec<Meant<AbsPath>> {
        let mut names = self.names(rule, dir, Executed::No);
        if let Some(link) = volume_link(dir).filter(|_| flat) {
            let of_day = self.names(rule, &link, Executed::No);
            names.extend(of_day.into_iter().filter(|(path, _)| path.base_name() == Some(ROTATING)));
        }
        names
    }

    /// The other names of a path, without those that would mean other programs too.
    fn names(&mut self, rule: &Rule, path: &AbsPath, executed: Executed) -> Vec<Meant<AbsPath>> {
        let Resolution { mut names, mut unknown } = self.answers.get(path).cloned().unwrap_or_default();
        if !guards(rule) {
            names.retain(|name| !name.via.is_empty());
            unknown = unknown.filter(|unknown| *unknown != Unknown::HardLinks);
        }
        if let Some(unknown) = unknown {
            let advice = format!(
                "`{path}` counts as written: {}; name the path that it leads to as well",
                unknown.why()
            );
            self.gap(rule, GapReason::Link, advice);
        }
        let mut meant: Vec<Meant<AbsPath>> = Vec::new();
        for OtherName { place, target, via } in names {
            let whole = match applets::meant(rule, path, &target, executed) {
                Whole::Yes => Some(target),
                Whole::AsNamed => None,
                Whole::No => {
                    let advice = format!(
                        "`{path}` is one of many names of `{target}`, and running that program by another way is not \
                         covered; a rule about `{target}` covers all of its names"
                    );
                    self.gap(rule, GapReason::MultiCall, advice);
                    None
                }
            };
            for other in [Some(place), whole].into_iter().flatten() {
                if other != *path && !meant.iter().any(|(known, _)| *known == other) {
                    self.links.insert(Link { path: path.clone(), target: other.clone() });
                    meant.push((other, via.clone()));
                }
            }
        }
        meant
    }

    /// Whether what the container may not name is denied to it.
    fn guarded(&self) -> bool {
        self.ruleset.whitelisted(Class::File) && self.ruleset.posture(Class::File) == PostureAction::Block
    }

    /// Whether some rule may let somebody in the container replace what is at `place`, or a directory above it.
    fn replaceable(&self, place: &AbsPath) -> bool {
        let components: Vec<&[u8]> = place.components().collect();
        let above = (0..=components.len())
            .filter_map(|depth| AbsPath::from_components(components.iter().take(depth).copied()).ok());
        let places: Vec<AbsPath> = above.collect();
        let lets = |rule: &&Rule| {
            rule.class == Class::File
                && match rule.effect {
                    Effect::Allow => !rule.conditions.read_only,
                    Effect::Audit => true,
                    Effect::Block => rule.conditions.owner_only,
                }
        };
        let mut rules = self.ruleset.rules().iter().filter(lets);
        rules.any(|rule| places.iter().any(|place| match_path(&rule.object, place.as_bytes()).is_some()))
    }

    fn gap(&mut self, rule: &Rule, reason: GapReason, advice: String) {
        if let Some(Origin { policy, rule: field, .. }) = self.ruleset.origin(rule.origin) {
            self.gaps.push(Gap { policy: policy.clone(), field: field.clone(), reason, advice });
        }
    }
}

/// Whether a link on the way to an object is one that Kubernetes makes in a volume: `..data`, or `token` to
/// `..data/token`. Whoever replaces such a link gains nothing, since the object lies in the same directory under the
/// same name.
fn of_volume(link: &AbsPath, object: &Object) -> bool {
    let (Object::Path(object) | Object::Directory { dir: object, .. }) = object else { return false };
    let depth = link.depth().saturating_sub(1);
    let mut rest = object.components().skip(depth);
    let below = link.components().take(depth).eq(object.components().take(depth));
    let name = link.base_name();
    below && rest.next() == Some(ROTATING) && (name == Some(VOLUME_LINK.as_bytes()) || rest.next() == name)
}

/// Whether a rule can let pass what another one denies or reports.
fn may_weaken(alias: &Rule) -> bool {
    alias.effect < Effect::Block || !alias.conditions.is_empty()
}

/// Whether `alias` would decide, weaker, some access that `strong` decides now.
fn weakens(alias: &Rule, strong: &Rule) -> bool {
    let stronger =
        strong.effect > alias.effect || strong.effect == alias.effect && !alias.conditions.is_empty();
    if strong.class != alias.class || !stronger || strong.source.is_some() && strong.source != alias.source {
        return false;
    }
    // with a source it beats every rule without one that it meets, however closely that names the object
    let always = alias.source.is_some() && strong.source.is_none();
    let within = |inner: &AbsPath, outer: &AbsPath, recursive: bool| {
        inner.depth() > outer.depth()
            && (recursive || inner.depth() == outer.depth() + 1)
            && same_components(outer.components(), inner.components().take(outer.depth()))
    };
    match (&alias.object, &strong.object) {
        (Object::Path(_) | Object::Applet { .. }, Object::Path(_) | Object::Applet { .. }) if !always => {
            false
        }
        (Object::Path(path) | Object::Applet { program: path, .. }, Object::Applet { program, .. }) => {
            path == program
        }
        (Object::Path(path) | Object::Applet { program: path, .. }, object) => {
            match_path(object, path.as_bytes()).is_some()
        }
        (Object::Directory { dir: inner, .. }, Object::Directory { dir: outer, recursive })
            if within(inner, outer, *recursive) =>
        {
            true
        }
        // a pattern beats every directory; what it matches there is not worth finding out
        (Object::Pattern(pattern), Object::Directory { dir, .. }) => split(pattern)
            .is_none_or(|(own, _)| own == *dir || within(&own, dir, true) || within(dir, &own, true)),
        (Object::Directory { dir, .. }, Object::Path(path) | Object::Directory { dir: path, .. }) => {
            always && (dir == path || within(path, dir, true) || within(dir, path, true))
        }
        // a name or a pattern beats a directory, so only a source can come before it
        _ => always,
    }
}

#[cfg(test)]
mod tests;
