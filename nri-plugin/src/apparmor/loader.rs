//! What the daemon needs of the kernel's AppArmor.

use std::collections::BTreeSet;

use enforcer_core::compile::apparmor::{AppArmorProfile, ProfileName};
use enforcer_core::enforce::apparmor::{AppArmor, AppArmorError};

/// The kernel's AppArmor, so that the daemon's logic can be tested without.
pub trait Loader: Send + Sync {
    /// Puts a profile in the place of the one with its name.
    ///
    /// # Errors
    /// When it is not in force afterwards; the one before is then.
    fn load(&self, profile: &AppArmorProfile) -> Result<(), AppArmorError>;
    /// The children that a profile has now, by their own names.
    ///
    /// # Errors
    /// When that cannot be read.
    fn children(&self, name: &ProfileName) -> Result<BTreeSet<String>, AppArmorError>;
    /// The profiles of ours that are enforced.
    ///
    /// # Errors
    /// When that cannot be read, or the kernel denies nothing.
    fn loaded(&self) -> Result<BTreeSet<ProfileName>, AppArmorError>;
    /// The processes that have one of ours.
    ///
    /// # Errors
    /// When that cannot be read.
    fn processes(&self) -> Result<BTreeSet<(i32, ProfileName)>, AppArmorError>;
    /// The profile of ours that a process has.
    ///
    /// # Errors
    /// When that cannot be read.
    fn of_process(&self, pid: i32) -> Result<Option<ProfileName>, AppArmorError>;
    /// Removes those of ours that are not to be kept, and that no process has.
    ///
    /// # Errors
    /// When it cannot be told who has them, or the kernel refuses.
    fn remove_unused(&self, keep: &BTreeSet<ProfileName>) -> Result<Vec<ProfileName>, AppArmorError>;
}

impl Loader for AppArmor {
    fn load(&self, profile: &AppArmorProfile) -> Result<(), AppArmorError> {
        self.load(profile)
    }

    fn children(&self, name: &ProfileName) -> Result<BTreeSet<String>, AppArmorError> {
        self.children(name)
    }

    fn loaded(&self) -> Result<BTreeSet<ProfileName>, AppArmorError> {
        self.loaded()
    }

    fn processes(&self) -> Result<BTreeSet<(i32, ProfileName)>, AppArmorError> {
        self.processes()
    }

    fn of_process(&self, pid: i32) -> Result<Option<ProfileName>, AppArmorError> {
        self.of_process(pid)
    }

    fn remove_unused(&self, keep: &BTreeSet<ProfileName>) -> Result<Vec<ProfileName>, AppArmorError> {
        self.remove_unused(keep)
    }
}
