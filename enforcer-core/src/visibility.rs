//! What is seen beside what rules say: the classes in which accesses are reported that no rule speaks about, and that
//! pass.

use std::fmt;
use std::str::FromStr;

use crate::posture::Class;

/// The classes that can be seen, as KubeArmor's annotation `kubearmor-visibility` calls them.
const SEEN: [(&str, Class); 4] = [
    ("process", Class::Process),
    ("file", Class::File),
    ("network", Class::Network),
    ("capabilities", Class::Capability),
];
/// What KubeArmor can see beside these, and nothing here can: read, without any effect.
const NOT_SEEN: [&str; 2] = ["dns", "ima"];

/// A set of classes. Nothing, unless somebody asks for more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Visibility {
    bits: u8, // in the order of `SEEN`
}

impl Visibility {
    /// No class.
    pub const NONE: Self = Self { bits: 0 };
    /// Every class that can be seen.
    pub const ALL: Self = Self { bits: 0b1111 };

    /// These classes, without those that cannot be seen.
    #[must_use]
    pub fn of(classes: impl IntoIterator<Item = Class>) -> Self {
        Self { bits: classes.into_iter().fold(0, |bits, class| bits | bit(class)) }
    }

    /// Whether it is no class at all.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.bits == 0
    }

    /// Whether the class is one of them.
    #[must_use]
    pub fn contains(self, class: Class) -> bool {
        self.bits & bit(class) != 0
    }

    /// The classes of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self { bits: self.bits | other.bits }
    }

    /// The classes, in the order of [`Class::ALL`].
    pub fn classes(self) -> impl Iterator<Item = Class> {
        SEEN.into_iter().map(|(_, class)| class).filter(move |class| self.contains(*class))
    }

    /// The words that name a class, for suggestions.
    #[must_use]
    pub fn words() -> [&'static str; 5] {
        let [process, file, network, capabilities] = SEEN.map(|(word, _)| word);
        [process, file, network, capabilities, "none"]
    }
}

fn bit(class: Class) -> u8 {
    SEEN.iter().position(|(_, seen)| *seen == class).map_or(0, |at| 1 << at)
}

/// As it is read: `process,file`, or `none`.
impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = SEEN.iter().filter(|(_, class)| self.contains(*class)).map(|(word, _)| *word);
        let words: Vec<&str> = words.collect();
        f.write_str(if words.is_empty() { "none" } else { "" })?;
        f.write_str(&words.join(","))
    }
}

/// Reads words with commas between them: `process`, `file`, `network`, `capabilities`, and `none`, which names no class.
/// `dns` and `ima` are KubeArmor's, and name none either.
impl FromStr for Visibility {
    type Err = UnknownVisibility;

    fn from_str(text: &str) -> Result<Self, UnknownVisibility> {
        let mut all = Self::NONE;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let lower = word.to_ascii_lowercase();
            match SEEN.iter().find(|(name, class)| *name == lower || class.as_str() == lower) {
                Some((_, class)) => all = all.with(Self::of([*class])),
                None if lower == "none" || NOT_SEEN.contains(&lower.as_str()) => {}
                None => return Err(UnknownVisibility(word.to_owned())),
            }
        }
        Ok(all)
    }
}

/// A word that names nothing that can be seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is nothing that can be seen; there are `process`, `file`, `network`, `capabilities`, `none`")]
pub struct UnknownVisibility(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_written() {
        let all: Visibility = "process, file,Network,capabilities,dns".parse().unwrap();
        assert_eq!(all, Visibility::ALL);
        assert_eq!(all.to_string(), "process,file,network,capabilities");
        for text in ["", "none", "dns", " , "] {
            assert_eq!(text.parse(), Ok(Visibility::NONE), "{text}");
        }
        assert_eq!(Visibility::NONE.to_string(), "none");
        assert_eq!("files".parse::<Visibility>(), Err(UnknownVisibility("files".into())));
        let some = Visibility::of([Class::File, Class::Syscall]);
        assert_eq!(some.classes().collect::<Vec<_>>(), [Class::File]);
        assert!(
            some.contains(Class::File) && !some.contains(Class::Process) && !some.contains(Class::Syscall)
        );
    }
}
