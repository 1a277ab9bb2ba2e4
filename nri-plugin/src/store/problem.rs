//! What can be wrong with where policies come from.

use std::fmt;
use std::path::PathBuf;

use enforcer_core::policy::PolicyError;

use super::API;

/// One thing that is wrong with the policies. [`fmt::Display`] is one line; the help comes separately.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// A directory cannot be listed; what it yielded before stays in force.
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file cannot be read; what it yielded before stays in force.
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A document has an error.
    Document(Box<PolicyError>),
    /// An object of the API server has an error; its file is the object's kind, namespace and name.
    Object(Box<PolicyError>),
    /// Others than root can change what is read there.
    Untrusted {
        /// The directory or file.
        path: PathBuf,
        /// At which part of the way to it.
        at: PathBuf,
        /// Whether it is therefore not read (`--strict`).
        refused: bool,
    },
    /// Two documents define one policy, or one namespace; the second does not count.
    Duplicate {
        /// "the policy" or "the namespace", and which.
        what: String,
        /// The file that counts, or [`API`].
        first: String,
        /// The file that does not, or [`API`].
        second: String,
    },
}

impl Problem {
    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Directory { .. } => Some("what was read from it before stays in force".into()),
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => {
                Some("save the file as UTF-8; what was read from it before stays in force".into())
            }
            Self::Untrusted { refused, .. } => {
                let now = match refused {
                    true => "with --strict it is not read, and what was read from it before stays in force",
                    false => "whoever that is decides what is enforced",
                };
                Some(format!(
                    "{now}: make it root's, and let nobody else write there (chown root, chmod go-w)"
                ))
            }
            Self::File { .. } => Some("what was read from it before stays in force".into()),
            Self::Document(error) | Self::Object(error) => error.help.clone(),
            Self::Duplicate { first, .. } => {
                Some(format!("rename one of the two, or remove it; `{first}` counts"))
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, source } => {
                write!(f, "cannot list the directory `{}`: {source}", path.display())
            }
            Self::File { path, source } => write!(f, "cannot read `{}`: {source}", path.display()),
            Self::Untrusted { path, at, .. } => {
                write!(f, "`{}` can be changed by others than root, at `{}`", path.display(), at.display())
            }
            Self::Document(error) => {
                let PolicyError { file, line, column, field, message, help: _ } = error.as_ref();
                let colon = if field.is_empty() { "" } else { ": " };
                write!(f, "{file}:{line}:{column}: {field}{colon}{message}")
            }
            Self::Object(error) => {
                let PolicyError { file, field, message, .. } = error.as_ref();
                let colon = if field.is_empty() { "" } else { ": " };
                write!(f, "{file}, in {API}: {field}{colon}{message}")
            }
            Self::Duplicate { what, first, second } => {
                write!(f, "{second}: {what} is already defined in `{first}`")
            }
        }
    }
}
