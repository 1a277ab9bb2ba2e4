#![doc = include_str!("seccomp.md")]

pub mod action;
pub mod arch;
pub mod base;
pub mod compile;
mod condition;
pub mod decide;
mod emit;
pub mod errno;
mod fit;
pub mod groups;
mod merge;
pub mod oci;
mod region;
pub mod runtime_default;
pub mod table;
pub mod width;

pub use self::action::Action;
pub use self::arch::Arch;
pub use self::base::BaseProfile;
pub use self::compile::{Base, BaseError, Node, ProfileDigest, SeccompProfile, compile};
pub(crate) use self::condition::never_hold;
pub use self::decide::{Call, decide};
pub use self::table::SyscallName;
