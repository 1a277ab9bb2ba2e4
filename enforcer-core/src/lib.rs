//! The library of nri-enforcer: KubeArmor policies in, enforcement of containers by the kernel out.

#![forbid(unsafe_code)]

pub mod decide;
pub mod path;
pub mod policy;
mod posture;
pub mod ruleset;
