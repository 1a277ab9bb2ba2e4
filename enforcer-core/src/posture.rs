//! Classes of access, what a rule does, and what happens where no rule speaks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What kind of access a rule speaks about. Each class is a world of its own: an Allow rule of one class never
/// turns another into a whitelist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Executing a file.
    Process,
    /// Reading or changing a file, or the name of one.
    File,
    /// Sockets.
    Network,
    /// Linux capabilities.
    Capability,
    /// System calls: reported at most.
    Syscall,
    /// Presets: each denies or reports, and none makes a whitelist.
    Preset,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 6] =
        [Self::Process, Self::File, Self::Network, Self::Capability, Self::Syscall, Self::Preset];

    /// Whether rules of the class can have this effect. System calls are only reported, and a preset has nothing to
    /// allow; so neither class is ever a whitelist.
    #[must_use]
    pub const fn can(self, effect: Effect) -> bool {
        match self {
            Self::Process | Self::File | Self::Network | Self::Capability => true,
            Self::Syscall => matches!(effect, Effect::Audit),
            Self::Preset => matches!(effect, Effect::Audit | Effect::Block),
        }
    }

    /// The class in lower case, singular.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::File => "file",
            Self::Network => "network",
            Self::Capability => "capability",
            Self::Syscall => "syscall",
            Self::Preset => "preset",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads what [`Class::as_str`] prints, and `capabilities`, `syscalls` and `presets`, as the sections of a policy are
/// called.
impl FromStr for Class {
    type Err = UnknownClass;

    fn from_str(text: &str) -> Result<Self, UnknownClass> {
        match text {
            "process" => Ok(Self::Process),
            "file" => Ok(Self::File),
            "network" => Ok(Self::Network),
            "capability" | "capabilities" => Ok(Self::Capability),
            "syscall" | "syscalls" => Ok(Self::Syscall),
            "preset" | "presets" => Ok(Self::Preset),
            _ => Err(UnknownClass(text.to_owned())),
        }
    }
}

/// Text that names no [`Class`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no class of access; there are `process`, `file`, `network`, `capability`, `syscall`, `preset`"
)]
pub struct UnknownClass(String);

/// What a rule does with the accesses it matches. The order is that of strength: among equally specific rules the
/// greatest effect decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The access passes, and everything that no rule of the class matches falls to the posture.
    Allow,
    /// The access passes and is reported.
    Audit,
    /// The access is denied and reported.
    Block,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Block => "block",
        })
    }
}

/// What becomes of an access that no rule of a whitelisted class matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PostureAction {
    /// It passes.
    Allow,
    /// It passes and is reported: the default, so that a first Allow rule breaks no workload.
    #[default]
    Audit,
    /// It is denied and reported.
    Block,
}

impl fmt::Display for PostureAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Block => "block",
        })
    }
}

impl FromStr for PostureAction {
    type Err = UnknownPosture;

    fn from_str(text: &str) -> Result<Self, UnknownPosture> {
        match text {
            "allow" => Ok(Self::Allow),
            "audit" => Ok(Self::Audit),
            "block" => Ok(Self::Block),
            _ => Err(UnknownPosture(text.to_owned())),
        }
    }
}

/// Text that names no [`PostureAction`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no posture; there are `allow`, `audit`, `block`")]
pub struct UnknownPosture(String);

/// The default postures of a container: those of its namespace where it sets them, else the node's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Postures {
    /// For files.
    pub file: PostureAction,
    /// For the network.
    pub network: PostureAction,
    /// For capabilities.
    pub capabilities: PostureAction,
    /// For processes; `None` takes that of files, as KubeArmor does.
    pub process: Option<PostureAction>,
}

impl Postures {
    /// The posture of one class; Allow for those that can have no Allow rule.
    #[must_use]
    pub fn of(&self, class: Class) -> PostureAction {
        match class {
            Class::Process => self.process.unwrap_or(self.file),
            Class::File => self.file,
            Class::Network => self.network,
            Class::Capability => self.capabilities,
            Class::Syscall | Class::Preset => PostureAction::Allow,
        }
    }

    /// The same postures with that of one class replaced; unchanged for a class that can have no Allow rule.
    #[must_use]
    pub fn with(mut self, class: Class, action: PostureAction) -> Self {
        match class {
            Class::Process => self.process = Some(action),
            Class::File => self.file = action,
            Class::Network => self.network = action,
            Class::Capability => self.capabilities = action,
            Class::Syscall | Class::Preset => {}
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_take_the_posture_of_files_unless_they_have_their_own() {
        let postures = Postures::default().with(Class::File, PostureAction::Block);
        assert_eq!(postures.of(Class::Process), PostureAction::Block);
        let postures = postures.with(Class::Process, PostureAction::Allow);
        assert_eq!(postures.of(Class::Process), PostureAction::Allow);
        assert_eq!(postures.of(Class::File), PostureAction::Block);
        assert_eq!(postures.of(Class::Network), PostureAction::Audit);
    }

    #[test]
    fn names_are_read_back() {
        for class in Class::ALL {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        assert_eq!("capabilities".parse(), Ok(Class::Capability));
        for action in [PostureAction::Allow, PostureAction::Audit, PostureAction::Block] {
            assert_eq!(action.to_string().parse(), Ok(action));
        }
        assert!("Block".parse::<PostureAction>().is_err());
    }
}
