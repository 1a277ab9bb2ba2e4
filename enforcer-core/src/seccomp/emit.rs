//! From functions to the entries of a profile, in the form that libseccomp gets right.
//!
//! What is known of libseccomp, and tested: rules of one system call whose conditions are `EQ` and `MASKED_EQ` and that are
//! disjoint where their actions differ mean what they say, in any order; two `LT` or `LE` do not. An entry without
//! conditions beats every other of that system call. A rule about a call that a multiplexer makes as well brings a rule
//! about the multiplexer along, on architectures that have one; so each multiplexer has an entry without conditions, and
//! that comes first.

use std::collections::{BTreeMap, BTreeSet};

use super::action::{Action, ENOSYS, EPERM};
use super::arch::Arch;
use super::merge::Function;
use super::oci::{Arg, LinuxSeccomp, Op, SyscallEntry};
use super::region::{Cube, Region};
use super::table::SyscallName;

/// A system call that x86 has a number for and no kernel makes.
const ANCHOR: &str = "vserver";
/// The most instructions of a filter (`BPF_MAXINSNS` of the kernel), less what a runtime puts before it.
pub(super) const MAX_INSTRUCTIONS: usize = 4096 - 96;

/// The most instructions for the comparisons of one system call. Jumps over more than 255 are made by others, and libseccomp
/// 2.5.4 shares those among jumps of which one has loaded what the target compares, and the other has not.
pub(super) const MAX_CHAIN: usize = 240;

/// The entries where `default` holds for the rest.
fn entries(
    functions: &BTreeMap<SyscallName, Function>,
    default: Action,
    arches: &[Arch],
) -> Vec<SyscallEntry> {
    let mut first = Vec::new();
    let mut grouped: BTreeMap<(Vec<Arg>, Action), Vec<SyscallName>> = BTreeMap::new();
    for (name, function) in functions {
        if name.is_multiplexer() {
            let action = multiplexer(*name, functions, function, default);
            first.extend((action != default).then(|| entry(&[*name], action, Vec::new())));
            continue;
        }
        match function.uniform() {
            Some(action) if action == default => {}
            Some(action) => grouped.entry((Vec::new(), action)).or_default().push(*name),
            None => {
                for (region, action) in function.parts.iter().filter(|(_, action)| *action != default) {
                    grouped.entry((args(region), *action)).or_default().push(*name);
                }
            }
        }
    }
    if arches.contains(&Arch::X32) {
        first.extend(anchor(functions, default));
    }
    first.extend(grouped.into_iter().map(|((args, action), names)| entry(&names, action, args)));
    first
}

/// An entry without conditions on x86-64: without any, libseccomp 2.5.4 forgets to load the number of the system call where
/// x32 and 32-bit x86 are in the profile, too, and no entry of x86-64 matches. It is about one that no kernel has, and
/// which is not made.
fn anchor(functions: &BTreeMap<SyscallName, Function>, default: Action) -> Option<SyscallEntry> {
    let name = SyscallName::by_name(ANCHOR)?;
    functions.get(&name).filter(|function| function.uniform() == Some(default))?;
    let errno = if default == Action::Errno(ENOSYS) { EPERM } else { ENOSYS };
    Some(entry(&[name], Action::Errno(errno), Vec::new()))
}

/// An entry with every name that is denied by default alone: it says nothing beside, and runtimes skip it.
pub(super) fn denied(functions: &BTreeMap<SyscallName, Function>, default: Action) -> SyscallEntry {
    let names = functions
        .iter()
        .filter(|(name, function)| !name.is_multiplexer() && function.uniform() == Some(default));
    let names: Vec<_> = names.map(|(name, _)| *name).collect();
    entry(&names, default, Vec::new())
}

/// One answer for all that a multiplexer does. It must not be the default where a call that it makes has another: an entry
/// that says the same as the default is skipped by runtimes, and each of those calls would bring a rule of its own along.
fn multiplexer(
    name: SyscallName,
    functions: &BTreeMap<SyscallName, Function>,
    function: &Function,
    default: Action,
) -> Action {
    let mut action = function.uniform().unwrap_or_else(|| function.strictest());
    if action == default && default.passes() {
        let through = name.multiplexed().filter_map(|one| functions.get(&one));
        action = through.map(Function::strictest).fold(action, Action::max);
    }
    match (action, default) {
        (action, default) if action != default || action.passes() => action,
        (Action::Errno(ENOSYS), _) => Action::Errno(EPERM),
        (Action::Errno(_), _) => Action::Errno(ENOSYS),
        (Action::KillThread, _) => Action::KillProcess,
        (Action::Trap | Action::KillProcess, _) => Action::KillThread,
        // What asks somebody cannot ask about arguments that nobody sees.
        (_, _) => Action::Errno(ENOSYS),
    }
}

fn entry(names: &[SyscallName], action: Action, args: Vec<Arg>) -> SyscallEntry {
    let (name, errno_ret) = action.into();
    SyscallEntry {
        names: names.iter().map(|name| name.as_str().to_owned()).collect(),
        action: name,
        errno_ret,
        args,
    }
}

fn args(region: &Region) -> Vec<Arg> {
    let compared = (0_u32..).zip(region.0).filter(|(_, cube)| *cube != Cube::ANY);
    compared
        .map(|(index, cube)| match cube.mask {
            u64::MAX => Arg { index, op: Op::Equal, value: cube.value, value_two: 0 },
            mask => Arg { index, op: Op::MaskedEqual, value: mask, value_two: cube.value },
        })
        .collect()
}

/// How many instructions libseccomp makes of the comparisons of a system call on a 64-bit architecture: three for each half
/// that is compared, where entries that begin alike share them.
pub(super) fn chain(function: &Function, default: Action) -> usize {
    let mut nodes = BTreeSet::new();
    for (region, _) in function.parts.iter().filter(|(_, action)| *action != default) {
        let mut path = Vec::new();
        for Arg { index, op, value, value_two } in args(region) {
            let (mask, wanted) = if op == Op::Equal { (u64::MAX, value) } else { (value, value_two) };
            for shift in [32, 0] {
                path.push((index, op, mask >> shift & 0xffff_ffff, wanted >> shift & 0xffff_ffff));
                nodes.insert(path.clone());
            }
        }
    }
    2 + 3 * nodes.len()
}

/// How many instructions libseccomp makes of a function at most, for all these architectures.
pub(super) fn instructions(
    name: SyscallName,
    function: &Function,
    default: Action,
    arches: &[Arch],
) -> usize {
    let present = arches.iter().filter(|arch| name.number(**arch).is_some()).count();
    let of_one = match function.uniform() {
        Some(action) if action == default => 0,
        Some(_) => 2,
        None => chain(function, default),
    };
    present * of_one
}

/// The profile, but for what it has from the base.
pub(super) fn profile(
    functions: &BTreeMap<SyscallName, Function>,
    default: Action,
    arches: &[Arch],
) -> LinuxSeccomp {
    LinuxSeccomp {
        architectures: arches.iter().map(|arch| arch.oci_name().to_owned()).collect(),
        syscalls: entries(functions, default, arches),
        ..LinuxSeccomp::of(default)
    }
}
