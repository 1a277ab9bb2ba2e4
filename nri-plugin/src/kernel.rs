//! What the daemon needs of the kernel, so that its logic can be tested without one.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use crate::pending::enforce::{ContainerId, Target};
use crate::pending::event::Event;
use enforcer_core::ruleset::{Ruleset, RulesetDigest};

/// Rulesets of containers, in force. [`crate::pending::enforce::Enforcer`] is the real one; every call may block for
/// as long as system calls take.
pub trait Kernel: Send + Sync + 'static {
    /// Puts a ruleset in force for a container that has none, and reads it back. Nothing is in force after an error.
    ///
    /// # Errors
    /// On any doubt that the ruleset is in force.
    fn arm(&self, target: &Target, ruleset: &Ruleset) -> Result<(), KernelError>;

    /// Replaces the ruleset of an armed container. After an error the one before is still in force.
    ///
    /// # Errors
    /// On any doubt that the ruleset is in force.
    fn update(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), KernelError>;

    /// Takes a container's ruleset out of force; one that has none is fine.
    ///
    /// # Errors
    /// When the ruleset may still be in force.
    fn disarm(&self, id: &ContainerId) -> Result<(), KernelError>;

    /// What is in force, also what an earlier daemon armed.
    ///
    /// # Errors
    /// When the maps cannot be read.
    fn armed(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError>;

    /// Hands each event to `sink`, on this thread, until `stop`.
    ///
    /// # Errors
    /// When events cannot be read, or not any more.
    fn events(&self, stop: &AtomicBool, sink: &mut dyn FnMut(Event)) -> Result<(), KernelError>;

    /// What the programs counted since they were loaded: drops and failures, by place.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn counters(&self) -> Result<Vec<(String, u64)>, KernelError>;
}

/// What the kernel side said, opaque: the daemon passes it on to people and decides nothing by it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct KernelError(Box<dyn std::error::Error + Send + Sync>);

impl KernelError {
    /// Wraps an error of a [`Kernel`].
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// temporary
pub fn open(_: &crate::config::Config) -> anyhow::Result<Never> {
    anyhow::bail!("pending")
}
/// temporary
#[derive(Debug)]
pub enum Never {}
impl Kernel for Never {
    fn arm(&self, _: &Target, _: &Ruleset) -> Result<(), KernelError> {
        match *self {}
    }
    fn update(&self, _: &ContainerId, _: &Ruleset) -> Result<(), KernelError> {
        match *self {}
    }
    fn disarm(&self, _: &ContainerId) -> Result<(), KernelError> {
        match *self {}
    }
    fn armed(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        match *self {}
    }
    fn events(&self, _: &AtomicBool, _: &mut dyn FnMut(Event)) -> Result<(), KernelError> {
        match *self {}
    }
    fn counters(&self) -> Result<Vec<(String, u64)>, KernelError> {
        match *self {}
    }
}

#[cfg(test)]
pub(crate) mod recording;
