//! The profile below the policies, as a function.

use std::collections::BTreeSet;

use super::action::{Action, ENOSYS};
use super::arch::Arch;
use super::compile::{Base, BaseError, Node};
use super::oci::{Arg, LinuxSeccomp};
use super::runtime_default;
use super::table::SyscallName;

/// A base profile whose names and architectures are resolved.
///
/// Where entries for one system call overlap, the strictest of those that match holds: what libseccomp makes of such a
/// profile depends on the order and the version.
#[derive(Debug, Clone)]
pub struct BaseProfile {
    pub(super) default: Action,
    pub(super) arches: BTreeSet<Arch>,
    pub(super) flags: Option<Vec<String>>,
    pub(super) listener: (String, String),
    /// What each system call has, by its place in the table: conditions and action, the strictest first.
    entries: Vec<Vec<(Vec<Arg>, Action)>>,
}

impl BaseProfile {
    /// What a base says on a node.
    ///
    /// # Errors
    /// When it is a profile that no runtime would load.
    pub fn new(base: &Base, node: &Node) -> Result<Self, BaseError> {
        match base {
            Base::Unconfined => {
                let family = node.arch.family();
                let architectures = family.iter().map(|arch| arch.oci_name().to_owned()).collect();
                Self::of(&LinuxSeccomp { architectures, ..LinuxSeccomp::of(Action::Allow) }, node)
            }
            Base::RuntimeDefault(capabilities) => {
                Self::of(&runtime_default::profile(node.arch, capabilities), node)
            }
            Base::Profile(profile) => Self::of(profile, node),
        }
    }

    fn of(profile: &LinuxSeccomp, node: &Node) -> Result<Self, BaseError> {
        let mut arches = BTreeSet::from([node.arch]);
        for name in &profile.architectures {
            arches.insert(Arch::by_oci_name(name).ok_or_else(|| BaseError::Arch(name.clone()))?);
        }
        // What this kernel does not run is of no use in the filter.
        arches.retain(|arch| node.arch.family().contains(arch));
        let mut entries = vec![Vec::new(); SyscallName::count()];
        for entry in &profile.syscalls {
            if let Some(arg) = entry.args.iter().find(|arg| arg.index > 5) {
                let name = entry.names.first().cloned().unwrap_or_default();
                return Err(BaseError::Index { name, index: arg.index });
            }
            let action = entry.action.with(entry.errno_ret);
            let alternatives = alternatives(&entry.args);
            // A name that is not in the table is skipped by the runtime as well.
            for name in entry.names.iter().filter_map(|name| SyscallName::by_name(name)) {
                if let Some(of_name) = entries.get_mut(name.index()) {
                    of_name.extend(alternatives.iter().map(|conditions| (conditions.clone(), action)));
                }
            }
        }
        for of_name in &mut entries {
            of_name.sort_by_key(|(_, action)| std::cmp::Reverse(*action));
        }
        Ok(Self {
            default: profile.default_action.with(profile.default_errno_ret),
            arches,
            flags: profile.flags.clone(),
            listener: (profile.listener_path.clone(), profile.listener_metadata.clone()),
            entries,
        })
    }

    /// What happens to a system call that no entry names.
    #[must_use]
    pub fn default(&self) -> Action {
        self.default
    }

    /// The architectures of which system calls are judged; any other is killed by the filter.
    #[must_use]
    pub fn arches(&self) -> &BTreeSet<Arch> {
        &self.arches
    }

    /// What happens to a call, and whether an entry says so rather than the default.
    #[must_use]
    pub fn decide(&self, name: SyscallName, args: &[u64; 6]) -> (Action, bool) {
        let matching =
            self.entries(name).iter().filter(|(conditions, _)| conditions.iter().all(|one| one.holds(args)));
        match matching.map(|(_, action)| *action).max() {
            Some(action) => (action, true),
            None => (self.default, false),
        }
    }

    /// What happens to the numbers that are in no table.
    pub(super) fn unknown(&self) -> Action {
        unknown(self.default)
    }

    pub(super) fn entries(&self, name: SyscallName) -> &[(Vec<Arg>, Action)] {
        self.entries.get(name.index()).map_or(&[], Vec::as_slice)
    }
}

/// What numbers that nobody knows get where this is the default. What would be denied is answered as a kernel does that
/// does not have it, so that programs fall back to what they know.
pub(super) const fn unknown(default: Action) -> Action {
    match default {
        Action::Errno(_) | Action::Trap | Action::KillThread | Action::KillProcess => Action::Errno(ENOSYS),
        Action::Allow | Action::Log | Action::Trace(_) | Action::Notify => default,
    }
}

/// The conditions of an entry as runtimes take them: all must hold, unless one argument has two of them; then any is
/// enough.
fn alternatives(args: &[Arg]) -> Vec<Vec<Arg>> {
    let mut indices = BTreeSet::new();
    if args.iter().all(|arg| indices.insert(arg.index)) {
        vec![args.to_vec()]
    } else {
        args.iter().map(|arg| vec![*arg]).collect()
    }
}
