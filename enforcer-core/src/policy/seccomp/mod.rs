//! Policies of the kind `KubeArmorSeccompPolicy`.

mod lower;
mod wire;

use std::collections::BTreeSet;

pub(super) use self::lower::{OPS, policy};
pub(super) use self::wire::{MAX_ARGS, MAX_ENTRIES, decode, is_one};
use super::{PolicyId, Selector};
use crate::ruleset::Origin;
use crate::seccomp::oci::Arg;
use crate::seccomp::{Arch, SyscallName};
use crate::subject::Subject;

/// A seccomp policy that is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompPolicy {
    pub(super) id: PolicyId,
    pub(super) selector: Selector,
    pub(super) services: BTreeSet<String>,
    pub(super) arches: BTreeSet<Arch>,
    pub(super) rules: Vec<SeccompRule>,
    pub(super) default_deny: Option<Deny>,
}

/// One entry of `spec.syscalls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompRule {
    /// The system calls, sorted; groups are written out.
    pub syscalls: Vec<SyscallName>,
    /// Those of them that are written by their own names rather than by a group's.
    pub named: Vec<SyscallName>,
    /// Comparisons with arguments; all must hold, and two may be about one argument.
    pub conditions: Vec<Arg>,
    /// What a Block rule does.
    pub deny: Deny,
    /// Where it stands (`spec.syscalls[0]`), what it does, and what is said about it.
    pub origin: Origin,
}

/// How a system call is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deny {
    /// It returns this errno.
    Errno(u16),
    /// The process ends.
    Kill,
}

impl SeccompPolicy {
    /// Its kind, namespace and name.
    #[must_use]
    pub fn id(&self) -> &PolicyId {
        &self.id
    }

    /// Which containers it is about.
    #[must_use]
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Whether it is about this container.
    #[must_use]
    pub fn selects(&self, subject: &Subject) -> bool {
        self.services.is_empty() && self.selector.selects(subject)
    }

    /// The services of the host that it is about, such as `nginx.service`: `spec.services`, which stands in the place of
    /// a selector. Empty for a policy about containers.
    #[must_use]
    pub fn services(&self) -> &BTreeSet<String> {
        &self.services
    }

    /// The architectures that its rules are about; empty for all.
    #[must_use]
    pub fn arches(&self) -> &BTreeSet<Arch> {
        &self.arches
    }

    /// The entries, in the order of the text.
    #[must_use]
    pub fn rules(&self) -> &[SeccompRule] {
        &self.rules
    }

    /// How what no Allow rule names is denied, where the policy says so: `spec.defaultErrno`.
    #[must_use]
    pub fn default_deny(&self) -> Option<Deny> {
        self.default_deny
    }
}

#[cfg(test)]
mod tests;
