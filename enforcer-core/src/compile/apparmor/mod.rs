#![doc = include_str!("apparmor.md")]

mod base;
mod gaps;
mod glob;
mod layers;
mod mounts;
mod native;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

pub use self::base::FEATURES;
pub use self::native::Native;
use crate::capability::Capability;
use crate::coverage::Gap;
use crate::decide::{Access, Verdict};
use crate::ruleset::{AbsPath, Class, Rule, Ruleset};

/// What the name of every profile begins with; no other profile is ever loaded or removed.
pub const NAME_PREFIX: &str = "nri-enforcer.";
/// The longest name of a profile, in bytes. The kernel prints names in alerts, and podman in file names.
const MAX_NAME: usize = 200;
/// The most sources that have a profile of their own: AppArmor has 12 names for profiles to go to, and one is for others.
pub const MAX_SOURCES: usize = 11;

/// The child of what is no source.
const OTHER: &str = "other";
/// How much of the digest of a source's path is in its child's name, in bytes. Of two with the same name the parser would
/// refuse the profile.
const CHILD_DIGEST: usize = 8;

/// The name of a profile: [`NAME_PREFIX`] and letters, digits, `_`, `-` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileName(String); // INVARIANT: as documented

impl ProfileName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProfileName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let rest = text.strip_prefix(NAME_PREFIX).ok_or_else(|| InvalidName(text.to_owned()))?;
        if text.len() > MAX_NAME || !is_safe(rest) {
            return Err(InvalidName(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Whether a part of a name means nothing to the parser.
fn is_safe(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that is no [`ProfileName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is no name of a profile: `{NAME_PREFIX}` and letters, digits, `_`, `-` and `.`, at most {MAX_NAME} bytes",
    .0.escape_debug()
)]
pub struct InvalidName(String);

/// What of a ruleset profiles hold, with its whitelists: by this, and not by what is written, an access is decided. It has a
/// digest of its own. What a profile says of the rest wider than it is written is not in it, and told as gaps.
#[must_use]
pub fn held(ruleset: &Ruleset) -> Ruleset {
    gaps::expressible(ruleset)
}

/// What a profile is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Its name.
    pub name: ProfileName,
    /// Whether the container's processes have `no_new_privs` set (`allowPrivilegeEscalation: false`), so that they
    /// cannot change to another profile.
    pub no_new_privs: bool,
    /// The children that the profile with this name has in the kernel, by their own names. A profile that takes its place
    /// keeps those that it has not itself, with the old rules, and processes in them would go on under those: so each of
    /// these is in the profile, with the rules for anybody where no rule needs it any more. One whose name is not made of
    /// letters, digits, `_`, `-` and `.` is left out, and nothing loads such a profile.
    pub keep: BTreeSet<String>,
}

impl Options {
    /// For processes that may change to a child of the profile.
    #[must_use]
    pub const fn named(name: ProfileName) -> Self {
        Self { name, no_new_privs: false, keep: BTreeSet::new() }
    }
}

/// A profile, dead data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppArmorProfile {
    /// Its name.
    pub name: ProfileName,
    /// What `apparmor_parser` takes, with [`FEATURES`].
    pub text: String,
    /// The names of the profile and its children, as the kernel lists them.
    pub profiles: Vec<String>,
    /// What of the rules is not in it; sorted, no two equal.
    pub gaps: Vec<Gap>,
}

/// Compiles a ruleset and the native rules of the same policies. The same input gives the same bytes.
#[must_use]
pub fn compile(ruleset: &Ruleset, natives: &[Native], options: &Options) -> AppArmorProfile {
    let rules = gaps::expressible(ruleset);
    let sources = sources(&rules);
    let transitions = !options.no_new_privs && sources.len() <= MAX_SOURCES;
    let mut gaps = gaps::of(ruleset, transitions);
    let (mut lines, mut given) = (Vec::new(), BTreeSet::new());
    for native in natives.iter().collect::<BTreeSet<_>>() {
        let (taken, refused) = native::read(&native.text);
        given.extend(taken.iter().filter(|line| line.gives_withheld()).map(|_| &native.policy));
        lines.extend(taken);
        gaps.extend(refused.into_iter().map(|why| gaps::of_native(&native.policy, why)));
    }
    let held = mounts::rounds(ruleset) || lines.iter().any(native::Line::denies_paths);
    if held {
        gaps.extend(mounts::gaps(ruleset));
        gaps.extend(given.into_iter().map(mounts::gap_of_native));
    }
    let writer = Writer { name: &options.name, rules: &rules, natives: &lines, held };
    let name = |child: &str| format!("{}//{child}", options.name);
    let apart = transitions && !sources.is_empty();
    let targets: Vec<(&AbsPath, String)> = match apart {
        true => sources.iter().map(|source| (*source, name(&child_of(source)))).collect(),
        false => Vec::new(),
    };
    let (leave, stay) = match apart {
        true => (
            Transition::Children { other: Some(name(OTHER)), sources: &targets },
            Transition::Children { other: None, sources: &targets },
        ),
        false => (Transition::Inherit, Transition::Inherit),
    };
    let mut children = BTreeMap::new();
    if apart {
        children.insert(OTHER.to_owned(), writer.profile(OTHER, &Who::Other, &stay, &[]));
        for source in &sources {
            let child = child_of(source);
            let profile = writer.profile(&child, &Who::Source(source), &leave, &[]);
            children.insert(child, profile);
        }
    }
    for child in options.keep.iter().filter(|child| is_safe(child)) {
        let unknown = || writer.profile(child, &Who::Unknown, &leave, &[]);
        children.entry(child.clone()).or_insert_with(unknown);
    }
    let who = if sources.is_empty() { Who::Other } else { Who::Unknown };
    let profiles =
        std::iter::once(options.name.to_string()).chain(children.keys().map(|child| name(child))).collect();
    let text = writer.profile("", &who, &leave, &children.into_values().collect::<Vec<_>>());
    gaps.sort_unstable();
    gaps.dedup();
    AppArmorProfile { name: options.name.clone(), text, profiles, gaps }
}

/// The name of the child for a source, below the profile's. It is of that source whatever other policies come and go: a
/// process in it has the rules of its own executable after each change.
#[must_use]
pub fn child_of(source: &AbsPath) -> String {
    let digest = Sha256::digest(source.as_bytes());
    digest.iter().take(CHILD_DIGEST).fold("source-".to_owned(), |name, byte| name + &format!("{byte:02x}"))
}

/// Whether this is the name of a capability that a profile denies, whatever rules say of capabilities, where rules or native
/// rules deny something of files or programs: paths are got round with it.
#[must_use]
pub fn is_withheld(capability: &str) -> bool {
    mounts::NAMES.contains(&capability)
}

/// The numbers of a socket's family and type, by the names that AppArmor gives them in its records: `inet`, `stream`.
#[must_use]
pub fn socket_numbers(family: &str, kind: &str) -> Option<(u16, u16)> {
    sockets::numbers(family, kind)
}

/// The executables for which a process may act that has the profile, or the child of it by this name: as many as are
/// [`MAX_SOURCES`] and more in the profile itself, which is of everybody. `None` among them is one that no rule names.
#[must_use]
pub fn actors<'r>(rules: &'r Ruleset, child: Option<&str>) -> Vec<Option<&'r AbsPath>> {
    let sources = sources(rules);
    match child {
        Some(OTHER) => vec![None],
        Some(child) if sources.iter().any(|source| child_of(source) == child) => {
            sources.into_iter().filter(|source| child_of(source) == child).map(Some).collect()
        }
        // one that is kept judges like the profile itself
        _ => std::iter::once(None).chain(sources.into_iter().map(Some)).collect(),
    }
}

/// The executables that rules name as their sources, sorted.
fn sources(rules: &Ruleset) -> Vec<&AbsPath> {
    let found: BTreeSet<&AbsPath> = rules.rules().iter().filter_map(|rule| rule.source.as_ref()).collect();
    found.into_iter().collect()
}

/// Who acts under a profile.
enum Who<'r> {
    /// An executable that no rule names as its source.
    Other,
    /// This one.
    Source(&'r AbsPath),
    /// Any of them.
    Unknown,
}

struct Actor<'r> {
    rules: &'r Ruleset,
    who: &'r Who<'r>,
}

impl Actor<'_> {
    /// Whether a rule counts for it by its source. For an actor that is not known, only those without one.
    fn is_meant(&self, rule: &Rule) -> bool {
        match (&rule.source, self.who) {
            (None, _) => true,
            (Some(source), Who::Source(path)) => source.names(path.as_bytes()),
            (Some(_), Who::Other | Who::Unknown) => false,
        }
    }

    /// What becomes of an access of this actor: of one that is not known, the strongest of all answers.
    fn decide(&self, access: &Access<'_>) -> Verdict {
        let by = |source: Option<&AbsPath>| {
            let source = source.map(AbsPath::as_bytes);
            self.rules.decide(&Access { source, ..*access }).verdict
        };
        match self.who {
            Who::Other => by(None),
            Who::Source(path) => by(Some(path)),
            Who::Unknown => {
                let each = sources(self.rules).into_iter().map(|source| by(Some(source)));
                each.fold(by(None), Ord::max)
            }
        }
    }
}

/// Where executing a program leads to.
enum Transition<'a> {
    /// Nowhere: the profile stays.
    Inherit,
    /// To the profile of its own.
    Children {
        /// That of programs that are no source; `None` where it is this one.
        other: Option<String>,
        /// The sources, each with its profile.
        sources: &'a [(&'a AbsPath, String)],
    },
}

impl Transition<'_> {
    /// Permissions, with that to execute what is no source.
    fn perms(&self, more: &str) -> String {
        match self {
            Self::Children { other: Some(profile), .. } => format!("{more}px -> \"{profile}\""),
            Self::Inherit | Self::Children { other: None, .. } => format!("{more}ix"),
        }
    }

    fn sources(&self) -> &[(&AbsPath, String)] {
        match self {
            Self::Inherit => &[],
            Self::Children { sources, .. } => sources,
        }
    }
}

struct Writer<'a> {
    name: &'a ProfileName,
    rules: &'a Ruleset,
    natives: &'a [native::Line],
    held: bool, // nobody may get round its paths
}

impl Writer<'_> {
    /// One profile; `child` is its own name below the profile, empty for the profile itself.
    fn profile(
        &self,
        child: &str,
        who: &Who<'_>,
        transition: &Transition<'_>,
        children: &[String],
    ) -> String {
        let actor = Actor { rules: self.rules, who };
        let process = layers::lines(&actor, Class::Process, transition);
        let file = layers::lines(&actor, Class::File, transition);
        let above = match process.top.max(file.top) {
            0 => String::new(),
            top => format!("priority={top} "),
        };
        let all = format!("{}{{,//*}}", self.name);
        let traced = match (who, transition) {
            (Who::Source(_), _) => format!("{}//{child}", self.name),
            // one that is kept
            (Who::Unknown, _) if !child.is_empty() => format!("{}//{child}", self.name),
            (_, Transition::Inherit) => self.name.to_string(),
            _ => format!("{}{{,//other}}", self.name),
        };
        let mut body = String::new();
        if let Who::Source(path) = who {
            body.push_str(&format!("  # {}\n", path.as_bytes().escape_ascii()));
        }
        body.push_str(&base::denied(&above));
        body.push_str(&base::among(&all, &traced));
        body.push_str(&process.text);
        body.push_str(&file.text);
        body.push_str(&sockets::rules(&actor));
        body.push_str(&capabilities(&actor));
        if self.held {
            body.push_str(&mounts::denied());
        }
        for line in self.natives {
            let priority = if line.denies_paths() { &*above } else { "" };
            body.push_str(&format!("  {priority}{},\n", line.text));
        }
        let name = if child.is_empty() { self.name.as_str() } else { child };
        let children: String = children
            .iter()
            .flat_map(|child| child.lines())
            .fold(String::new(), |text, line| text + "  " + line + "\n");
        format!("profile {name} flags=(attach_disconnected,mediate_deleted) {{\n{body}{children}}}\n")
    }
}

/// The rules about capabilities. What nothing allows is denied, and reported.
fn capabilities(actor: &Actor<'_>) -> String {
    let verdicts: Vec<_> = Capability::all()
        .map(|capability| (capability.name(), actor.decide(&Access::capability(capability))))
        .collect();
    let all_pass = verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Allow);
    if all_pass {
        return "  capability,\n".to_owned();
    }
    let of = |wanted: Verdict, how: &str| {
        let names: Vec<&str> =
            verdicts.iter().filter(|(_, verdict)| *verdict == wanted).map(|(name, _)| *name).collect();
        if names.is_empty() { String::new() } else { format!("  {how}capability {},\n", names.join(" ")) }
    };
    of(Verdict::Allow, "") + &of(Verdict::Audit, "audit ")
}

#[cfg(test)]
mod tests;
