//! From the policies that select a container, and the profile it has, to the profile that it gets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::action::{Action, EPERM};
use super::arch::Arch;
use super::base::{self, BaseProfile};
use super::decide::{self, sorted};
use super::emit;
use super::fit::{self, both_sizes, lower_halves};
use super::merge::{Function, Merge};
use super::oci::LinuxSeccomp;
use super::region::{MAX_REGIONS, TooMany, join, product};
use super::table::SyscallName;
use super::width::widths;
use crate::capability::Capability;
use crate::coverage::{Coverage, Gap, GapReason};
use crate::policy::SeccompPolicy;

/// The profile that a container has before any policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// None at all.
    Unconfined,
    /// The runtime's default for a container with these capabilities (those that it is started with: the permitted
    /// ones of its process).
    RuntimeDefault(BTreeSet<Capability>),
    /// This one.
    Profile(LinuxSeccomp),
}

/// What of a node decides about a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// What its kernel is built for.
    pub arch: Arch,
    /// The version of libseccomp that the runtime has, such as `(2, 5, 4)`: `runc --version` and `crun --version` tell.
    /// Names of system calls that it does not know are skipped by runtimes in silence.
    pub libseccomp: (u32, u32, u32),
}

/// A profile, and what of its policies it does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompProfile {
    /// The profile.
    pub oci: LinuxSeccomp,
    /// What is not enforced as written, sorted. Each errs to the strict side.
    pub gaps: Vec<Gap>,
    digest: ProfileDigest,
    bare: LinuxSeccomp,
}

impl SeccompProfile {
    /// The digest of [`SeccompProfile::to_json`].
    #[must_use]
    pub fn digest(&self) -> &ProfileDigest {
        &self.digest
    }

    /// The profile as JSON: the same bytes for the same policies, whatever their order.
    #[must_use]
    pub fn to_json(&self) -> String {
        json(&self.oci)
    }

    /// The same function for runtimes to which `defaultErrnoRet` does not get through, so that their default is `EPERM`:
    /// NRI's adjustment. Every known system call with another default has an entry. What this cannot say is `ENOSYS` for
    /// numbers that nobody knows yet: runc adds that by itself, with crun such a number returns `EPERM`. Nor can it say the
    /// value that a tracer is told by default.
    #[must_use]
    pub fn without_default_errno(&self) -> &LinuxSeccomp {
        &self.bare
    }
}

/// A profile has no maps and no keys that are no text: nothing of it can fail.
fn json(profile: &LinuxSeccomp) -> String {
    serde_json::to_string_pretty(profile).unwrap_or_default()
}

/// SHA-256 of a profile's JSON. Prints as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileDigest([u8; 32]);

impl ProfileDigest {
    /// Of a profile, however it was written where it was read.
    #[must_use]
    pub fn of(profile: &LinuxSeccomp) -> Self {
        Self(Sha256::digest(json(profile).as_bytes()).into())
    }
}

impl fmt::Display for ProfileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ProfileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProfileDigest({self})")
    }
}

impl Serialize for ProfileDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A base profile that no runtime would load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseError {
    /// An architecture that is not known here.
    #[error("`{0}` is no architecture of seccomp")]
    Arch(String),
    /// There are six arguments.
    #[error("an entry for `{name}` compares argument {index}; there are 0 to 5")]
    Index {
        /// The first system call of the entry.
        name: String,
        /// The index.
        index: u32,
    },
}

/// The profile for a container that these policies select (all of them must: nothing is asked of their selectors).
/// The order of the policies does not matter. What it means is [`decide`](super::decide::decide), with these liberties, all
/// to the strict side:
///
/// - what [`SeccompProfile::gaps`] tells;
/// - a call of which an argument that something compares has bits above those that the kernel looks at, which no compiler
///   leaves there: they are neither all zero nor all like the sign; it may get another errno, or be denied where that
///   would take too many entries;
/// - a negative number in such an argument may get another errno, where an architecture of 32 bits is in the profile;
/// - `vserver`, which no kernel has, returns an errno where x32 is among the architectures;
/// - `socketcall` and `ipc` have one answer, whatever their arguments; where that is an errno, it may be another one.
///
/// # Errors
/// When the base profile is one that no runtime would load.
pub fn compile(policies: &[&SeccompPolicy], base: &Base, node: &Node) -> Result<SeccompProfile, BaseError> {
    let base = BaseProfile::new(base, node)?;
    let policies = sorted(policies);
    let arches = decide::arches(&policies, &base, node.arch);
    let merge = Merge::new(policies.clone(), &base);
    let mut report = Report { policies: &policies, merge: &merge, node, gaps: Vec::new() };

    let classes = classes(&policies, &arches);
    let mut functions = BTreeMap::new();
    for name in SyscallName::all() {
        let mut present =
            classes.iter().filter(|class| class.iter().any(|arch| name.number(*arch).is_some()));
        let Some(first) = present.next().and_then(|class| class.first()) else { continue };
        // Also what this libseccomp should not know: distributions teach it newer names, and runtimes skip what it has not.
        let mut function = merge.function(name, *first);
        for class in present.filter_map(|class| class.first()) {
            let other = merge.function(name, *class);
            if other != function {
                report.of_rules(name, GapReason::SeccompArch, function.strictest());
                function = both(&function, &other);
            }
        }
        functions.insert(name, function);
    }

    let default = default(&policies, &base);
    report.unknown_names(default);
    let unknown = base::unknown(default);
    let bare_default = if matches!(default, Action::Errno(_)) { Action::Errno(EPERM) } else { default };
    let mut tight = Encoding::new(&functions, default, &arches);
    let mut bare = Encoding::new(&functions, bare_default, &arches);
    // The costliest first, until it fits: a filter that the kernel refuses lets no container start.
    while let Some(name) = tight.too_long().or_else(|| bare.too_long()) {
        let Some(function) = functions.get_mut(&name) else { break };
        *function = function.cut();
        tight = Encoding::new(&functions, default, &arches);
        bare = Encoding::new(&functions, bare_default, &arches);
    }
    // Numbers that nobody knows: in the default where that fits, else as runc has it.
    let ample = Encoding::new(&functions, unknown, &arches);
    let encoding = if ample.fits() && ample.cuts() <= tight.cuts() { ample } else { tight };
    if encoding.default != unknown {
        report.unknown_numbers(encoding.default);
    }
    for (name, function) in
        encoding.functions.iter().chain(&bare.functions).filter(|(_, function)| function.cut)
    {
        report.of_rules(*name, GapReason::SeccompConditions, function.strictest());
    }
    let (mut oci, mut bare) = (encoding.profile(&arches), bare.profile(&arches));
    bare.default_errno_ret = None;
    for profile in [&mut oci, &mut bare] {
        profile.flags.clone_from(&base.flags);
        (profile.listener_path, profile.listener_metadata) = base.listener.clone();
    }
    let digest = ProfileDigest::of(&oci);
    Ok(SeccompProfile { bare, gaps: Coverage::new(report.gaps).gaps, digest, oci })
}

/// The functions as entries beside a default.
struct Encoding {
    default: Action,
    functions: BTreeMap<SyscallName, Function>,
    /// How many instructions each takes at most.
    costs: BTreeMap<SyscallName, usize>,
}

impl Encoding {
    fn new(functions: &BTreeMap<SyscallName, Function>, default: Action, arches: &[Arch]) -> Self {
        // Where a multiplexer makes it, its entries come to be compared there as well.
        let has = |name: SyscallName, small: bool| {
            let there = |arch: Arch| {
                [Some(name), name.multiplexer()].iter().flatten().any(|one| one.number(arch).is_some())
            };
            arches.iter().any(|arch| arch.is_32_bit() == small && there(*arch))
        };
        let fit = |(name, function): (&SyscallName, &Function)| {
            let small = has(*name, true);
            let fitted = match function.uniform() {
                None if small && has(*name, false) => both_sizes(function, default, widths(*name)),
                None if small => lower_halves(function),
                _ => function.clone(),
            };
            let too_long = |function: &Function| emit::chain(function, default) > emit::MAX_CHAIN;
            let fitted = match fitted.uniform() {
                None if too_long(&fitted) => {
                    let terse = fit::terse(&fitted, default, widths(*name), small);
                    if too_long(&terse) { function.cut() } else { terse }
                }
                _ => fitted,
            };
            (*name, fitted)
        };
        let functions: BTreeMap<_, _> = functions.iter().map(fit).collect();
        let cost = |(name, function): (&SyscallName, &Function)| {
            (*name, emit::instructions(*name, function, default, arches))
        };
        let costs = functions.iter().map(cost).collect();
        Self { default, functions, costs }
    }

    fn fits(&self) -> bool {
        self.costs.values().sum::<usize>() <= emit::MAX_INSTRUCTIONS
    }

    fn cuts(&self) -> usize {
        self.functions.values().filter(|function| function.cut).count()
    }

    /// The costliest of those that arguments are compared for, where all of it does not fit.
    fn too_long(&self) -> Option<SyscallName> {
        let compared = self.functions.iter().filter(|(_, function)| function.uniform().is_none());
        let costliest = compared.max_by_key(|(name, _)| self.costs.get(name))?;
        (!self.fits()).then_some(*costliest.0)
    }

    fn profile(&self, arches: &[Arch]) -> LinuxSeccomp {
        let mut profile = emit::profile(&self.functions, self.default, arches);
        if base::unknown(self.default) != self.default {
            // runc takes the newest name of a profile for the newest number that is known, whatever its entry says.
            profile.syscalls.push(emit::denied(&self.functions, self.default));
        }
        profile
    }
}

/// What holds for a system call that nothing names.
fn default(policies: &[&SeccompPolicy], base: &BaseProfile) -> Action {
    match decide::whitelists(policies) {
        true => decide::together(decide::default_denial(policies, None), false, base.default(), false),
        false => base.default(),
    }
}

/// The architectures, those together about which the same policies speak.
fn classes(policies: &[&SeccompPolicy], arches: &[Arch]) -> Vec<Vec<Arch>> {
    let mut classes: BTreeMap<Vec<bool>, Vec<Arch>> = BTreeMap::new();
    for arch in arches {
        let speaking = policies.iter().map(|policy| decide::covers(policy, *arch)).collect();
        classes.entry(speaking).or_default().push(*arch);
    }
    classes.into_values().collect()
}

/// The strictest of two functions.
fn both(one: &Function, other: &Function) -> Function {
    match product(&one.parts, &other.parts, MAX_REGIONS, Action::strictest) {
        Ok(parts) => Function { parts: join(parts), cut: one.cut || other.cut },
        Err(TooMany) => {
            Function { cut: true, ..Function::always(one.strictest().strictest(other.strictest())) }
        }
    }
}

struct Report<'a> {
    policies: &'a [&'a SeccompPolicy],
    merge: &'a Merge<'a>,
    node: &'a Node,
    gaps: Vec<Gap>,
}

impl Report<'_> {
    /// A gap of every policy: numbers that nobody knows get this instead of `ENOSYS`.
    fn unknown_numbers(&mut self, default: Action) {
        let advice = format!(
            "with crun they get {default} instead of ENOSYS, so that programs may not fall back to older ones; compare \
             fewer arguments, or fewer architectures (`arch`)"
        );
        let gap = |policy: &&SeccompPolicy| Gap {
            policy: policy.id().clone(),
            field: "spec".to_owned(),
            reason: GapReason::SeccompUnknown,
            advice: advice.clone(),
        };
        self.gaps.extend(self.policies.iter().map(gap));
    }

    /// A gap of every rule about a system call, or, where no rule is, of every policy.
    fn of_rules(&mut self, name: SyscallName, reason: GapReason, action: Action) {
        let advice = match reason {
            GapReason::SeccompArch => {
                format!("`{name}` does what is strictest on any; write the same rules for all architectures")
            }
            _ => format!(
                "`{name}` gets {action} whatever its arguments; compare fewer of them, or single values"
            ),
        };
        let rules =
            self.merge.rules(name).map(|(_, rule)| (rule.origin.policy.clone(), rule.origin.rule.clone()));
        let mut places: Vec<_> = rules.collect();
        if places.is_empty() {
            places = self.policies.iter().map(|policy| (policy.id().clone(), "spec".to_owned())).collect();
        }
        self.gaps.extend(places.into_iter().map(|(policy, field)| Gap {
            policy,
            field,
            reason,
            advice: advice.clone(),
        }));
    }

    /// Names that the node's libseccomp skips. What a group has of them is only told where it would be denied and is not.
    fn unknown_names(&mut self, default: Action) {
        let (major, minor, patch) = self.node.libseccomp;
        let native =
            |name: &SyscallName| self.node.arch.family().iter().any(|arch| name.number(*arch).is_some());
        for rule in self.policies.iter().flat_map(|policy| policy.rules()) {
            let lost = decide::action(rule).rank() > default.rank();
            let names = if lost { &rule.syscalls } else { &rule.named };
            let unknown = names.iter().filter(|name| !name.known_to(self.node.libseccomp) && native(name));
            let unknown: Vec<_> = unknown.map(|name| format!("`{name}`")).collect();
            if unknown.is_empty() {
                continue;
            }
            let instead =
                if default.passes() { "they pass" } else { "they return an error, as on an older kernel" };
            self.gaps.push(Gap {
                policy: rule.origin.policy.clone(),
                field: rule.origin.rule.clone(),
                reason: GapReason::SeccompName,
                advice: format!(
                    "libseccomp {major}.{minor}.{patch} of this node does not have {}: {instead}; update it",
                    unknown.join(", ")
                ),
            });
        }
    }
}
