//! The library of nri-enforcer: KubeArmor policies in, enforcement of containers by the kernel out.

#![forbid(unsafe_code)]

pub mod compile;
pub mod coverage;
pub mod decide;
#[cfg(feature = "bpf")]
pub mod enforce;
#[cfg(feature = "bpf")]
pub mod event;
pub mod explain;
#[cfg(feature = "bpf")]
pub mod host;
pub mod path;
pub mod policy;
mod posture;
pub mod ruleset;
pub mod subject;
