//! Policies and base profile as one function, system call by system call.

use std::cmp::Reverse;

use super::action::Action;
use super::arch::Arch;
use super::base::BaseProfile;
use super::condition;
use super::decide::{self, covers, default_denial, together};
use super::oci::Arg;
use super::region::{Cube, MAX_REGIONS, Partition, Region, TooMany, join, product};
use super::table::SyscallName;
use super::width::{mask, widths};
use crate::policy::{SeccompPolicy, SeccompRule};
use crate::posture::Effect;

/// The most parts of one system call: each becomes an entry of the profile, and some instructions of the filter for each
/// architecture.
const MAX_PARTS: usize = 192;
/// Up to so many parts a system call is told exactly, even where calls with stray high bits could be left out.
const FEW_PARTS: usize = 12;

/// What happens to one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Function {
    /// Disjoint, and together everything.
    pub(super) parts: Vec<(Region, Action)>,
    /// Whether this is stricter than what is written, since that would take too many parts.
    pub(super) cut: bool,
}

impl Function {
    pub(super) fn always(action: Action) -> Self {
        Self { parts: vec![(Region::ANY, action)], cut: false }
    }

    /// The one action, where arguments make no difference.
    pub(super) fn uniform(&self) -> Option<Action> {
        let (_, first) = self.parts.first()?;
        self.parts.iter().all(|(_, action)| action == first).then_some(*first)
    }

    /// The strictest that it does.
    pub(super) fn strictest(&self) -> Action {
        self.parts.iter().map(|part| part.1).max().unwrap_or(Action::KillProcess)
    }

    /// Its strictest action for everything.
    pub(super) fn cut(&self) -> Self {
        Self { cut: true, ..Self::always(self.strictest()) }
    }
}

/// The policies, with their rules by system call.
pub(super) struct Merge<'a> {
    base: &'a BaseProfile,
    policies: Vec<&'a SeccompPolicy>,
    whitelist: bool,
    /// By place in the table: rules in the order of their policies' names, with the place of the policy.
    rules: Vec<Vec<(usize, &'a SeccompRule)>>,
}

/// What the policies do to a part of the arguments: the action, and whether a rule says so.
type Above = (Action, bool);

impl<'a> Merge<'a> {
    /// `policies` are sorted.
    pub(super) fn new(policies: Vec<&'a SeccompPolicy>, base: &'a BaseProfile) -> Self {
        let mut rules = vec![Vec::new(); SyscallName::count()];
        for (place, policy) in policies.iter().enumerate() {
            for rule in policy.rules() {
                for name in &rule.syscalls {
                    if let Some(of_name) = rules.get_mut(name.index()) {
                        of_name.push((place, rule));
                    }
                }
            }
        }
        let whitelist = decide::whitelists(&policies);
        Self { base, policies, whitelist, rules }
    }

    /// The rules that name a system call.
    pub(super) fn rules(&self, name: SyscallName) -> impl Iterator<Item = &(usize, &'a SeccompRule)> {
        self.rules.get(name.index()).into_iter().flatten()
    }

    /// What happens to a system call on an architecture.
    pub(super) fn function(&self, name: SyscallName, arch: Arch) -> Function {
        let otherwise = if self.whitelist {
            (default_denial(&self.policies, Some(name)), false)
        } else {
            (Action::Allow, true)
        };
        let covering = self.rules(name).filter(|(place, _)| self.covers(*place, arch)).map(|(_, rule)| *rule);
        let mut rules: Vec<(&SeccompRule, &[Arg])> = covering.map(|rule| (rule, &*rule.conditions)).collect();
        if name.is_multiplexer() {
            rules.extend(self.multiplexed(name, arch).map(|rule| (rule, &[][..])));
        }
        // The sort is stable: among equals the rule of the first policy comes first.
        rules.sort_by_key(|(rule, _)| Reverse((rule.origin.action, decide::action(rule).rank())));
        let entries = self.base.entries(name);

        if let Some(function) = self.unconditional(&rules, entries, otherwise) {
            return function;
        }
        let narrow = narrow(name, &rules);
        let most = if narrow.is_empty() { MAX_REGIONS } else { MAX_PARTS };
        let whole = self.cut_up(name, &rules, entries, otherwise, (vec![Region::ANY], most));
        if let Ok(parts) = &whole
            && (parts.len() <= FEW_PARTS || narrow.is_empty())
            && parts.len() <= MAX_PARTS
        {
            return Function { parts: parts.clone(), cut: false };
        }
        // Calls whose upper bits are stray get the strictest answer: what is left of the function is smaller.
        let strictest = self.strictest(&rules, entries, otherwise);
        let sane = sane(&narrow);
        let within = self.cut_up(name, &rules, entries, otherwise, (sane.clone(), MAX_REGIONS));
        if let (false, Ok(mut parts)) = (narrow.is_empty(), within) {
            let mut outside = Partition::of(vec![Region::ANY]);
            if sane.iter().try_for_each(|region| outside.say(region, ())).is_ok() {
                parts.extend(outside.rest.into_iter().map(|region| (region, strictest)));
                let parts = join(parts);
                let answered = parts.iter().filter(|(_, action)| *action != strictest).count();
                if answered <= MAX_PARTS && whole.as_ref().map_or(true, |whole| parts.len() <= whole.len()) {
                    return Function { parts, cut: false };
                }
            }
        }
        match whole {
            Ok(parts) if parts.len() <= MAX_PARTS => Function { parts, cut: false },
            _ => Function { cut: true, ..Function::always(strictest) },
        }
    }

    fn covers(&self, place: usize, arch: Arch) -> bool {
        self.policies.get(place).is_some_and(|policy| covers(policy, arch))
    }

    /// What is said about calls that are made through this one, other than that they are allowed.
    fn multiplexed(&self, name: SyscallName, arch: Arch) -> impl Iterator<Item = &'a SeccompRule> {
        let mut rules: Vec<_> = name.multiplexed().flat_map(|one| self.rules(one)).copied().collect();
        rules.retain(|(place, rule)| rule.origin.action != Effect::Allow && self.covers(*place, arch));
        rules.sort_by_key(|(place, _)| *place);
        rules.into_iter().map(|(_, rule)| rule)
    }

    /// The function, where no condition has a part in it.
    fn unconditional(
        &self,
        rules: &[(&SeccompRule, &[Arg])],
        entries: &[(Vec<Arg>, Action)],
        otherwise: Above,
    ) -> Option<Function> {
        let above = match rules.first() {
            Some((rule, [])) => (decide::action(rule), true),
            Some(_) => return None,
            None => otherwise,
        };
        let below = match entries.first() {
            Some((conditions, action)) if conditions.is_empty() => (*action, true),
            // The policies answer for all of it, more strictly than the base does anywhere.
            Some((_, action)) if above.0.rank() > action.rank().max(self.base.default.rank()) => {
                (*action, true)
            }
            Some(_) => return None,
            None => (self.base.default, false),
        };
        Some(Function::always(together(above.0, above.1, below.0, below.1)))
    }

    fn cut_up(
        &self,
        name: SyscallName,
        rules: &[(&SeccompRule, &[Arg])],
        entries: &[(Vec<Arg>, Action)],
        otherwise: Above,
        (domain, most): (Vec<Region>, usize),
    ) -> Result<Vec<(Region, Action)>, TooMany> {
        let mut above = Partition::at_most(most, domain);
        for (rule, conditions) in rules {
            let widths = if rule.origin.action == Effect::Allow { [64; 6] } else { widths(name) };
            for region in condition::regions(conditions, widths)? {
                above.say(&region, (decide::action(rule), true))?;
            }
        }
        let mut below = Partition::of(vec![Region::ANY]);
        for (conditions, action) in entries {
            for region in condition::regions(conditions, [64; 6])? {
                below.say(&region, (*action, true))?;
            }
        }
        let above = join(above.finish(otherwise));
        let below = join(below.finish((self.base.default, false)));
        let both = |(above, explicit): Above, (below, entry): Above| together(above, explicit, below, entry);
        Ok(join(product(&above, &below, most, both)?))
    }

    fn strictest(
        &self,
        rules: &[(&SeccompRule, &[Arg])],
        entries: &[(Vec<Arg>, Action)],
        otherwise: Above,
    ) -> Action {
        let below = entries.iter().map(|entry| entry.1).fold(self.base.default, Action::strictest);
        rules
            .iter()
            .map(|(rule, _)| decide::action(rule))
            .fold(otherwise.0, Action::strictest)
            .strictest(below)
    }
}

/// The arguments, with their widths, that are compared by less than their 64 bits.
fn narrow(name: SyscallName, rules: &[(&SeccompRule, &[Arg])]) -> Vec<(usize, u8)> {
    let widths = widths(name);
    let denying = rules.iter().filter(|(rule, _)| rule.origin.action != Effect::Allow);
    let compared: Vec<u32> = denying.flat_map(|(_, conditions)| *conditions).map(|arg| arg.index).collect();
    (0_u32..)
        .zip(widths)
        .filter(|(index, width)| *width < 64 && compared.contains(index))
        .filter_map(|(index, width)| Some((usize::try_from(index).ok()?, width)))
        .collect()
}

/// The calls of which those arguments are as compilers leave them in registers: upper bits all zero, or all like the
/// sign.
fn sane(narrow: &[(usize, u8)]) -> Vec<Region> {
    let mut found = vec![Region::ANY];
    for (index, width) in narrow {
        let upper = !mask(*width);
        let sign = (mask(*width) >> 1) + 1;
        let halves = [Cube::new(upper, 0), Cube::new(upper | sign, u64::MAX)];
        let with = |region: &Region, cube: Cube| {
            let mut region = *region;
            if let Some(slot) = region.0.get_mut(*index) {
                *slot = cube;
            }
            region
        };
        found = found.iter().flat_map(|region| halves.map(|half| with(region, half))).collect();
    }
    found
}
