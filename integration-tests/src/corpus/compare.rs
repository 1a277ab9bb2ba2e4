//! The kernel's answers against `decide`.
//!
//! A difference passes with its reason alone. Where the kernel denies less, that is a gap that the back end tells of the
//! very rule that decided. Where it denies more, it is such a gap, or one of the [`Stricter`] that the documentation tells.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use enforcer_core::capability::Capability;
use enforcer_core::coverage::{Gap, GapReason};
use enforcer_core::decide::{Access, DecidedBy, Decision, Verdict};
use enforcer_core::ruleset::{Class, Effect, Postures, Rule, Ruleset};

use super::Case;
use super::probes::Probe;
use super::world::{OTHER, SCRIPT, SOURCE};

/// What holds the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// BPF-LSM.
    Bpf,
    /// AppArmor.
    AppArmor,
    /// SELinux.
    Selinux,
}

/// What a back end makes of a case.
#[derive(Clone, Debug)]
pub struct Held {
    /// What holds it.
    pub lock: Lock,
    /// The rules that it says it holds.
    pub ruleset: Ruleset,
    /// What it says it does not.
    pub gaps: Vec<Gap>,
}

/// Who tries the probes of a case.
#[derive(Clone, Copy, Debug)]
pub struct Actor {
    /// The program.
    pub program: &'static str,
    /// Whether the lock can tell so. Where it cannot, any of the programs may act, and the strongest answer counts.
    pub known: bool,
}

/// Whether the kernel denies more than `decide`, or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// It denies what `decide` lets pass.
    More,
    /// It lets pass what `decide` denies.
    Less,
}

/// Why a kernel denies more than `decide`, where no gap says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stricter {
    /// BPF-LSM: a program is opened to be executed, and that is reading it.
    ProgramRead,
    /// BPF-LSM: overlayfs uses capabilities on behalf of whoever makes a file.
    Overlay,
    /// AppArmor: a hard link of another's file.
    HardLink,
    /// AppArmor: who acts is not known, and so an exemption of one source is none.
    WhoActs,
    /// AppArmor: a program that leads to another profile, which may not read it, is killed.
    UnreadableProfile,
    /// SELinux: a program that may be executed and not read is killed.
    UnreadableProgram,
    /// SELinux: a directory takes all new names or none.
    NewNames,
}

/// Why the kernel and `decide` differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The back end tells a gap of the rule that decided.
    Gap(GapReason),
    /// The documentation tells it.
    Stricter(Stricter),
}

impl Stricter {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ProgramRead,
        Self::Overlay,
        Self::HardLink,
        Self::WhoActs,
        Self::UnreadableProfile,
        Self::UnreadableProgram,
        Self::NewNames,
    ];

    /// The page of `nri-plugin/docs` that tells it, and the heading there.
    #[must_use]
    pub const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::ProgramRead => ("policies.md", "A program is read while it is executed"),
            Self::Overlay => ("policies.md", "Capabilities that overlayfs uses"),
            Self::HardLink => ("apparmor.md", "A hard link of another's file"),
            Self::WhoActs => ("apparmor.md", "An actor that the profile cannot tell"),
            Self::UnreadableProfile => ("apparmor.md", "A program that its own profile may not read"),
            Self::UnreadableProgram => ("selinux.md", "A program that may not be read"),
            Self::NewNames => ("selinux.md", "New names in a directory"),
        }
    }
}

impl Why {
    /// All that there can be.
    fn of_name(name: &str) -> Option<Self> {
        let stricter = Stricter::ALL.into_iter().map(Self::Stricter);
        stricter.chain(GAPS.map(Self::Gap)).find(|why| why.to_string() == name)
    }
}

/// The gaps that explain a difference.
const GAPS: [GapReason; 11] = [
    GapReason::AppArmorObject,
    GapReason::AppArmorCondition,
    GapReason::AppArmorProtocol,
    GapReason::AppArmorProcess,
    GapReason::AppArmorTree,
    GapReason::AppArmorPattern,
    GapReason::SelinuxObject,
    GapReason::SelinuxPattern,
    GapReason::SelinuxCondition,
    GapReason::SelinuxSource,
    GapReason::SelinuxWhitelist,
];

impl std::str::FromStr for Why {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::of_name(name).with_context(|| format!("`{name}` is no reason to differ"))
    }
}

/// In one word.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap(reason) => f.write_str(&reason.name()),
            Self::Stricter(stricter) => write!(f, "{stricter:?}"),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::More => "more",
            Self::Less => "less",
        })
    }
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Passes,
    Denied,
    /// The program was killed.
    Killed,
    /// It passed, and was denied when it was undone.
    NotUndone,
}

impl Found {
    fn of(answer: &str) -> Result<Self> {
        Ok(match answer {
            "0" => Self::Passes,
            "1" | "13" => Self::Denied,
            "253" => Self::NotUndone,
            "255" => Self::Killed,
            _ => bail!("the answer {answer} is neither a success nor a denial"),
        })
    }
}

/// One access of a probe, by who may be acting.
struct Judged {
    access: Access<'static>,
    decision: Decision,
}

/// How the kernel's answer differs from `decide`; `None`: it does not.
///
/// # Errors
/// When it does for no known reason.
pub fn compared(
    case: &Case,
    held: &Held,
    actor: Actor,
    probe: &Probe,
    answer: &str,
) -> Result<Option<(Way, Why)>> {
    let programs: &[&'static str] = if actor.known { &[actor.program] } else { &[OTHER, SOURCE] };
    let judged: Vec<Judged> = programs
        .iter()
        .flat_map(|program| probe.accesses.iter().map(|access| access.from(program.as_bytes())))
        .map(|access| Judged { access, decision: case.ruleset.decide(&access) })
        .collect();
    let denied: Vec<&Judged> = judged.iter().filter(|one| one.decision.verdict == Verdict::Block).collect();
    let found = Found::of(answer)?;
    let why = match (denied.is_empty(), found) {
        (true, Found::Passes) | (false, Found::Denied) => return Ok(None),
        // what could not be undone was let pass
        (false, Found::Passes | Found::NotUndone) => {
            let why = denied.into_iter().map(|one| less(case, held, probe, one).map(Why::Gap));
            why.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().min()).map(|why| (Way::Less, why))
        }
        (true, _) => {
            let gap = judged.iter().find_map(|one| more(case, held, one)).map(Why::Gap);
            let told = || stricter(case, held, actor, probe, found).map(Why::Stricter);
            gap.or_else(told).map(|why| (Way::More, why))
        }
        (false, Found::Killed) => None,
    };
    ensure!(
        why.is_some(),
        "{} (posture {}), {}{}: `{}` is answered by {answer}, and `decide` says {:?}\n{}",
        case.name,
        case.posture,
        actor.program,
        if actor.known { "" } else { " or any other" },
        probe.line,
        judged.iter().map(|one| one.decision).collect::<Vec<_>>(),
        held.gaps.iter().map(|gap| format!("{gap}\n")).collect::<String>(),
    );
    Ok(why)
}

/// The gaps of the rule that decided.
fn gaps_of<'h>(case: &Case, held: &'h Held, by: DecidedBy) -> impl Iterator<Item = GapReason> + use<'h> {
    let origin = match by {
        DecidedBy::Rule(id) | DecidedBy::Exempt(id) => case.ruleset.origin(id).cloned(),
        DecidedBy::DefaultPosture | DecidedBy::NoRule => None,
    };
    let of_it = move |gap: &&Gap| {
        origin.as_ref().is_some_and(|origin| (&origin.policy, &origin.rule) == (&gap.policy, &gap.field))
    };
    held.gaps.iter().filter(of_it).map(|gap| gap.reason)
}

/// The gap by which the kernel lets pass what `decide` denies.
fn less(case: &Case, held: &Held, probe: &Probe, one: &Judged) -> Option<GapReason> {
    let passes = held.ruleset.decide(&one.access).verdict != Verdict::Block;
    if one.decision.by == DecidedBy::DefaultPosture {
        return whitelist(case, held, one.access.class()).filter(|_| passes);
    }
    gaps_of(case, held, one.decision.by).find(|reason| match reason {
        // wider than the rules that are held say
        GapReason::AppArmorTree => one.access.path().is_some_and(|path| path.tree),
        GapReason::AppArmorProtocol => one.access.class() == Class::Network,
        GapReason::AppArmorProcess => {
            let is_script = |path: &[u8]| path == SCRIPT.as_bytes();
            probe.runs_script() && !one.access.path().is_some_and(|path| is_script(path.path))
        }
        GapReason::AppArmorSource => false,
        _ => passes,
    })
}

/// The gap of the Allow rules of a class whose posture is not held.
fn whitelist(case: &Case, held: &Held, class: Class) -> Option<GapReason> {
    let allows = |field: &str| {
        let mut rules =
            case.ruleset.rules().iter().filter(|rule| rule.class == class && rule.effect == Effect::Allow);
        rules.any(|rule| case.ruleset.origin(rule.origin).is_some_and(|origin| origin.rule == field))
    };
    let told = |gap: &&Gap| gap.reason == GapReason::SelinuxWhitelist && allows(&gap.field);
    held.gaps.iter().find(told).map(|gap| gap.reason)
}

/// The gap by which the kernel denies what `decide` lets pass.
fn more(case: &Case, held: &Held, one: &Judged) -> Option<GapReason> {
    let denies = held.ruleset.decide(&one.access).verdict == Verdict::Block;
    gaps_of(case, held, one.decision.by).find(|reason| match reason {
        GapReason::AppArmorProtocol => one.access.class() == Class::Network,
        _ => denies,
    })
}

/// What the documentation tells of a denial.
fn stricter(case: &Case, held: &Held, actor: Actor, probe: &Probe, found: Found) -> Option<Stricter> {
    let denies = |access: &Access<'_>| held.ruleset.decide(access).verdict == Verdict::Block;
    let unreadable = |by: Option<&'static str>| {
        let executed = probe.accesses.iter().filter(|access| access.class() == Class::Process);
        executed.filter_map(Access::path).any(|program| {
            let reads = Access::read(program.path);
            denies(&reads.from(by.map_or(program.path, str::as_bytes)))
        })
    };
    let of_another = || {
        let owners = probe.accesses.iter().filter_map(Access::path).map(|path| path.owner);
        probe.line.starts_with("link ") && owners.into_iter().any(|owner| owner != Some(0))
    };
    let any_name = || {
        let directories = probe.accesses.iter().filter_map(Access::path).filter_map(|path| parent(path.path));
        directories.map(|directory| [directory, b"/\xff"].concat()).any(|name| denies(&Access::write(&name)))
    };
    let others_file = || probe.line.starts_with("as ") && probe.line.contains(" create ");
    let dac_override =
        || Capability::by_name("dac_override").is_some_and(|one| denies(&Access::capability(one)));
    match (held.lock, found) {
        (Lock::Bpf, Found::Denied) if unreadable(Some(actor.program)) => Some(Stricter::ProgramRead),
        (Lock::Bpf, Found::Denied) if others_file() && dac_override() => Some(Stricter::Overlay),
        (Lock::AppArmor, Found::Killed) if case.programs().len() > 1 && unreadable(None) => {
            Some(Stricter::UnreadableProfile)
        }
        (Lock::AppArmor, Found::Denied) if of_another() => Some(Stricter::HardLink),
        (Lock::AppArmor, Found::Denied) if !actor.known && blocked_for_one(case, probe) => {
            Some(Stricter::WhoActs)
        }
        (Lock::Selinux, Found::Denied | Found::Killed) if unreadable(Some(actor.program)) => {
            Some(Stricter::UnreadableProgram)
        }
        (Lock::Selinux, Found::Denied | Found::NotUndone) if any_name() => Some(Stricter::NewNames),
        _ => None,
    }
}

/// Whether a Block rule with a source is about an access of the probe, whatever a closer rule of that source says.
fn blocked_for_one(case: &Case, probe: &Probe) -> bool {
    let blocks = |rule: &&Rule| rule.source.is_some() && rule.effect == Effect::Block;
    let rules = case.ruleset.rules().iter().filter(blocks).cloned().collect();
    let origins = case.ruleset.origins().iter().map(|origin| origin.as_ref().clone()).collect();
    let denies = |blocks: &Ruleset, access: &Access<'static>| {
        [OTHER, SOURCE].iter().any(|by| blocks.decide(&access.from(by.as_bytes())).verdict == Verdict::Block)
    };
    Ruleset::new(rules, origins, Postures::default())
        .is_ok_and(|blocks| probe.accesses.iter().any(|access| denies(&blocks, access)))
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|byte| *byte == b'/').and_then(|at| path.get(..at))
}

#[cfg(test)]
mod tests {
    use enforcer_core::compile::{apparmor, selinux};
    use enforcer_core::ruleset::PostureAction;

    use super::*;
    use crate::corpus::probes::probes;
    use crate::corpus::{About, cases};

    fn case(about: About, name: &str) -> Case {
        let found = cases(about).unwrap().into_iter().filter(|case| case.name == name);
        found.max_by_key(|case| case.posture == PostureAction::Block).unwrap()
    }

    fn told(case: &Case, held: &Held, known: bool, line: &str, answer: &str) -> Result<Option<(Way, Why)>> {
        let probe = probes().unwrap().into_iter().find(|probe| probe.line == line).unwrap();
        compared(case, held, Actor { program: OTHER, known }, &probe, answer)
    }

    fn plain(case: &Case, lock: Lock) -> Held {
        Held { lock, ruleset: case.ruleset.clone(), gaps: Vec::new() }
    }

    #[test]
    fn a_difference_without_a_reason_is_an_error() {
        let case = case(About::Container, "paths");
        for lock in [Lock::Bpf, Lock::AppArmor, Lock::Selinux] {
            let held = plain(&case, lock);
            let told = |line, answer| told(&case, &held, true, line, answer);
            assert_eq!(told("read /w/data/a", "13").unwrap(), None);
            assert_eq!(told("read /w/data/b", "0").unwrap(), None);
            assert!(told("read /w/data/a", "0").is_err(), "{lock:?}: it denies less");
            assert!(told("read /w/data/b", "13").is_err(), "{lock:?}: it denies more");
            for answer in ["2", "17", "254", "", "x"] {
                assert!(told("read /w/data/b", answer).is_err(), "{lock:?}: `{answer}` is no answer");
            }
        }
    }

    #[test]
    fn a_gap_explains_its_own_rule_alone() {
        let case = case(About::Host, "sources");
        let labels = selinux::compile(&case.ruleset);
        let mut held = Held { lock: Lock::Selinux, ruleset: selinux::held(&case.ruleset), gaps: labels.gaps };
        let source = Actor { program: SOURCE, known: true };
        let probe = probes().unwrap().into_iter().find(|probe| probe.line == "read /w/data/mine").unwrap();
        let told = |held: &Held| compared(&case, held, source, &probe, "0");
        assert_eq!(told(&held).unwrap(), Some((Way::Less, Why::Gap(GapReason::SelinuxSource))));
        // a rule that is held, and lets pass all the same
        let b = probes().unwrap().into_iter().find(|probe| probe.line == "read /w/data/b").unwrap();
        assert!(compared(&case, &held, Actor { program: OTHER, known: true }, &b, "0").is_err());
        // the gap of another rule, and of another policy
        for change in [|gap: &mut Gap| gap.field.push('x'), |gap: &mut Gap| gap.policy.name.push('x')] {
            let gaps = held.gaps.clone();
            held.gaps.iter_mut().for_each(change);
            assert!(told(&held).is_err());
            held.gaps = gaps;
        }
        // one that says it holds what it does not
        held.ruleset = case.ruleset.clone();
        assert!(told(&held).is_err());
    }

    #[test]
    fn what_is_denied_beyond_is_told_only_where_the_documentation_tells_it() {
        let paths = case(About::Container, "paths");
        let held = plain(&paths, Lock::AppArmor);
        let told = |known, line, answer| told(&paths, &held, known, line, answer);
        let link = "link /w/data/mine /w/free/new-mine";
        assert_eq!(told(true, link, "13").unwrap(), Some((Way::More, Why::Stricter(Stricter::HardLink))));
        assert!(told(true, "link /w/data/b /w/free/new-b", "13").is_err(), "its own file");
        assert!(told(false, "read /w/data/b", "13").is_err(), "no rule has a source");
        assert!(told(true, "exec /w/bin/tool", "255").is_err(), "nothing leads to another profile");
        let unreadable = case(About::Container, "unreadable-program");
        let held = plain(&unreadable, Lock::Bpf);
        let told = |line| super::tests::told(&unreadable, &held, true, line, "13");
        assert_eq!(
            told("exec /w/bin/tool").unwrap(),
            Some((Way::More, Why::Stricter(Stricter::ProgramRead)))
        );
        assert!(told("exec /w/bin/other").is_err(), "that one may be read");
    }

    #[test]
    fn a_script_alone_is_what_apparmor_does_not_judge() {
        let case = case(About::Container, "processes");
        let gaps = apparmor::compile(
            &case.ruleset,
            &[],
            &apparmor::Options::named("nri-enforcer.x".parse().unwrap()),
        )
        .gaps;
        let held = Held { lock: Lock::AppArmor, ruleset: apparmor::held(&case.ruleset), gaps };
        let told = |line| told(&case, &held, true, line, "0");
        let why = Some((Way::Less, Why::Gap(GapReason::AppArmorProcess)));
        assert_eq!(told("exec /w/bin/script").unwrap(), why);
        assert!(told("exec /w/bin/tool").is_err());
    }
}
