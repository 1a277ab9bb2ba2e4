//! The meaning of seccomp policies, in plain Rust: one call, asked of every rule. The compiler is tested against it.

use std::cmp::Ordering;

use super::action::{Action, ENOSYS, EPERM};
use super::arch::Arch;
use super::base::{BaseProfile, unknown};
use super::table::SyscallName;
use super::width::widths;
use crate::policy::{Deny, SeccompPolicy, SeccompRule};
use crate::posture::Effect;

impl From<Deny> for Action {
    fn from(deny: Deny) -> Self {
        match deny {
            Deny::Errno(errno) => Self::Errno(errno),
            Deny::Kill => Self::KillProcess,
        }
    }
}

/// A system call as a filter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// How the kernel is entered.
    pub arch: Arch,
    /// The number; with [`X32_BIT`](super::arch::X32_BIT) on x32.
    pub number: u32,
    /// The arguments.
    pub args: [u64; 6],
}

/// What happens to a call, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// What happens.
    pub action: Action,
    /// What of the policies speaks.
    pub by: By<'a>,
    /// What the base profile alone does; the policies and it together are `action`.
    pub base: Action,
}

/// What of the policies speaks about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By<'a> {
    /// A rule.
    Rule(&'a SeccompRule),
    /// None, and an Allow rule of some policy makes the policies a whitelist.
    Whitelist,
    /// None, and there is no whitelist.
    NoRule,
    /// No filter lets system calls of this architecture through.
    Arch,
}

/// What the policies do together, without what is below them. They select the container, all of them.
pub(super) fn sorted<'a>(policies: &[&'a SeccompPolicy]) -> Vec<&'a SeccompPolicy> {
    let mut sorted = policies.to_vec();
    sorted.sort_by(|a, b| a.id().cmp(b.id()));
    sorted
}

/// Whether these policies have an Allow rule, which denies all that none allows.
pub(super) fn whitelists(policies: &[&SeccompPolicy]) -> bool {
    policies.iter().any(|policy| allows(policy))
}

pub(super) fn allows(policy: &SeccompPolicy) -> bool {
    policy.rules().iter().any(|rule| rule.origin.action == Effect::Allow)
}

/// How what no rule allows is denied: the strictest of what the policies say; of two errnos that of the first policy by
/// name. Where none says anything it is `EPERM`, and `ENOSYS` for clone3, without which no thread could be made: the C
/// library tries it first, and clone after that errno alone.
pub(super) fn default_denial(policies: &[&SeccompPolicy], name: Option<SyscallName>) -> Action {
    let said = policies.iter().filter_map(|policy| policy.default_deny()).map(Action::from);
    let strictest = said.reduce(Action::strictest);
    strictest.unwrap_or(match name.map(SyscallName::as_str) {
        Some("clone3") => Action::Errno(ENOSYS),
        _ => Action::Errno(EPERM),
    })
}

/// Whether a policy is about system calls of this architecture.
pub(super) fn covers(policy: &SeccompPolicy, arch: Arch) -> bool {
    policy.arches().is_empty() || policy.arches().contains(&arch)
}

/// The architectures that the filter lets through: those of the base, without those about which no whitelisting policy
/// has an Allow rule. The node's own is always there.
pub(super) fn arches(policies: &[&SeccompPolicy], base: &BaseProfile, native: Arch) -> Vec<Arch> {
    let open = |arch: Arch| policies.iter().any(|policy| covers(policy, arch) && allows(policy));
    let whitelist = whitelists(policies);
    base.arches().iter().copied().filter(|arch| *arch == native || !whitelist || open(*arch)).collect()
}

/// What happens to a call of a container that these policies select. The order of the policies does not matter.
///
/// Of a call that stands for others (`socketcall`, `ipc`) a Block or Audit rule about any of those counts, whatever its
/// conditions: their arguments are in memory, where no filter looks.
#[must_use]
pub fn decide<'a>(
    policies: &[&'a SeccompPolicy],
    base: &BaseProfile,
    native: Arch,
    call: &Call,
) -> Decision<'a> {
    let policies = sorted(policies);
    if !arches(&policies, base, native).contains(&call.arch) {
        return Decision { action: Action::KillThread, by: By::Arch, base: Action::KillThread };
    }
    let whitelist = whitelists(&policies);
    let Some(name) = SyscallName::by_number(call.arch, call.number) else {
        let below = base.unknown();
        let above = if whitelist { unknown(default_denial(&policies, None)) } else { Action::Allow };
        let by = if whitelist { By::Whitelist } else { By::NoRule };
        return Decision { action: together(above, false, below, false), by, base: below };
    };
    let args = if call.arch.is_32_bit() { call.args.map(|arg| arg & 0xffff_ffff) } else { call.args };
    let (below, entry) = base.decide(name, &args);
    let covering = policies.iter().filter(|policy| covers(policy, call.arch));
    let matching = covering.flat_map(|policy| policy.rules()).filter(|rule| speaks(rule, name, &args));
    // Of equals the first stays, and the policies are sorted.
    let strongest = matching.reduce(|best, rule| match strength(rule).cmp(&strength(best)) {
        Ordering::Greater => rule,
        Ordering::Equal | Ordering::Less => best,
    });
    let (by, above, explicit) = match strongest {
        Some(rule) => (By::Rule(rule), action(rule), true),
        None if whitelist => (By::Whitelist, default_denial(&policies, Some(name)), false),
        None => (By::NoRule, Action::Allow, true),
    };
    Decision { action: together(above, explicit, below, entry), by, base: below }
}

fn speaks(rule: &SeccompRule, name: SyscallName, args: &[u64; 6]) -> bool {
    if rule.syscalls.contains(&name) {
        let widths = if rule.origin.action == Effect::Allow { [64; 6] } else { widths(name) };
        if rule.conditions.iter().all(|condition| condition.holds_within(args, widths)) {
            return true;
        }
    }
    rule.origin.action != Effect::Allow
        && name.is_multiplexer()
        && rule.syscalls.iter().any(|one| one.multiplexer() == Some(name))
}

/// What a rule does where it decides.
pub(super) fn action(rule: &SeccompRule) -> Action {
    match rule.origin.action {
        Effect::Allow => Action::Allow,
        Effect::Audit => Action::Log,
        Effect::Block => rule.deny.into(),
    }
}

fn strength(rule: &SeccompRule) -> (Effect, u8) {
    (rule.origin.action, action(rule).rank())
}

/// Both as one: the strictest. Of two errnos that of a Block rule, then that of an entry of the base profile, so that its
/// `ENOSYS` survives a whitelist, then that of the policies' default.
pub(super) fn together(above: Action, explicit: bool, below: Action, entry: bool) -> Action {
    if !explicit && entry { below.strictest(above) } else { above.strictest(below) }
}
