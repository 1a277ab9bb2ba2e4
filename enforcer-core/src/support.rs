//! What the BPF programs can do with a rule. The one place that says so: what it denies becomes a gap of the policy's
//! coverage, and a rule with it that reaches the compiler is an error there.

use crate::coverage::GapReason;
use crate::ruleset::{Class, Conditions, Object, Rule};

/// What the programs of this version can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Support {
    /// For tests of the language: as if the programs could do all that it says.
    pub(crate) everything: bool,
}

impl Support {
    /// Why nothing at all is enforced of a class; `None` where something is. An Allow rule makes no whitelist of such a
    /// class, since nothing would ask for the posture.
    #[must_use]
    pub const fn class_gap(self, class: Class) -> Option<GapReason> {
        match class {
            _ if self.everything => None,
            Class::Process
            | Class::File
            | Class::Network
            | Class::Capability
            | Class::Syscall
            | Class::Preset => None,
        }
    }

    /// Why nothing is enforced about such an object; `None` where it is.
    #[must_use]
    pub fn object_gap(self, object: &Object) -> Option<GapReason> {
        match object {
            _ if self.everything => None,
            Object::Path(_)
            | Object::BaseName(_)
            | Object::Pattern(_)
            | Object::Directory { .. }
            | Object::Applet { .. } => None,
            Object::Sockets(_) | Object::Destination(_) | Object::Listener(_) => {
                self.class_gap(Class::Network)
            }
            Object::Capability(_) => self.class_gap(Class::Capability),
            Object::Syscall(_) => self.class_gap(Class::Syscall),
            Object::Preset(_) => self.class_gap(Class::Preset),
        }
    }

    /// Why `pts: false` is not looked at; `None` where it is.
    #[must_use]
    pub const fn terminal_gap(self, _: Class, _: &Conditions) -> Option<GapReason> {
        None
    }

    /// Why `allowedArgs` is not looked at; `None` where it is.
    #[must_use]
    pub const fn args_gap(self, _: &Conditions) -> Option<GapReason> {
        None
    }

    /// The first reason why a rule cannot be enforced as it is.
    #[must_use]
    pub fn rule_gap(self, rule: &Rule) -> Option<GapReason> {
        self.object_gap(&rule.object)
            .or_else(|| self.terminal_gap(rule.class, &rule.conditions))
            .or_else(|| self.args_gap(&rule.conditions))
    }
}
