//! Seccomp policies: what they mean together, and the profile that says so to a runtime.

pub mod action;
pub mod arch;
pub mod compile;
pub mod oci;

pub use self::action::Action;
pub use self::arch::Arch;
pub use self::compile::{Base, Node, ProfileDigest, SeccompProfile, compile};
