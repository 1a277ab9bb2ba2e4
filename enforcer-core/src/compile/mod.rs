//! Rulesets into what a kernel mechanism takes.
//!
//! Everything here is pure: no I/O, no clock; the same ruleset gives the same bytes. The back ends do not know each
//! other.

pub mod apparmor;
pub mod bpf;
pub mod selinux;
