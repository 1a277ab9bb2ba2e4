//! Accesses as people write them.

use std::fmt;
use std::str::FromStr;

use super::socket;
use crate::capability::Capability;
use crate::decide::{Access, PathAccess, PathClass, Target};
use crate::network::{SocketAccess, SocketOp};
use crate::path::{AbsPath, PathError};
use crate::policy::{nearest, suggest};
use crate::posture::{Class, UnknownClass};
use crate::preset::Preset;
use crate::syscall::Syscall;

/// An access as a person writes it: its class, what is done, and to what.
///
/// | | |
/// |---|---|
/// | `file:read:/etc/passwd`, `file:rename:/srv` | `read`, `write`, `truncate`, `delete`, `rename`, `link`, `chmod`, ... |
/// | `process:exec:/bin/sh` | |
/// | `network:create:inet:stream:tcp`, `network:create:packet:raw:0` | family, type, protocol; names or numbers |
/// | `network:connect:tcp:10.0.0.1:443`, `network:bind:udp:[::1]:53` | `connect`, `send`, `bind`, `listen` |
/// | `network:connect:unix:stream` | the same without an IP address |
/// | `network:accept:tcp` | |
/// | `capability:use:net_raw` | |
/// | `syscall:unlink`, `syscall:socket:16,3` | with its first arguments, for seccomp policies |
/// | `preset:filelessExec` | |
///
/// ```
/// use enforcer_core::explain::Question;
///
/// let question: Question = "file:create:/tmp/x".parse()?;
/// let access = question.access(Some(b"/bin/touch"), 1000, 0);
/// let path = access.path().expect("a file is accessed");
/// assert!(path.write);
/// assert_eq!(path.owner, None, "who creates a file owns it");
/// assert_eq!(question.to_string(), "creating /tmp/x");
///
/// let question: Question = "network:connect:tcp:[::1]:443".parse()?;
/// assert_eq!(question.to_string(), "connecting a tcp socket to [::1]:443");
/// # Ok::<(), enforcer_core::explain::QuestionError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    asked: Asked,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Path { operation: &'static Operation, object: AbsPath },
    Socket(SocketAccess),
    Capability(Capability),
    Syscall { syscall: Syscall, args: Option<[u64; 6]> },
    Preset(Preset),
}

#[derive(Debug, PartialEq, Eq)]
struct Operation {
    class: PathClass,
    names: &'static [&'static str],
    doing: &'static str,
    write: bool,
    /// Whether the object comes into being, so that it has no owner yet.
    creates: bool,
    /// Whether what lies below moves with it.
    tree: bool,
}

const fn operation(class: PathClass, names: &'static [&'static str], doing: &'static str) -> Operation {
    Operation { class, names, doing, write: false, creates: false, tree: false }
}

const fn writing(names: &'static [&'static str], doing: &'static str) -> Operation {
    Operation { write: true, ..operation(PathClass::File, names, doing) }
}

const fn creating(names: &'static [&'static str], doing: &'static str) -> Operation {
    Operation { creates: true, ..writing(names, doing) }
}

const OPERATIONS: [Operation; 14] = [
    operation(PathClass::Process, &["exec"], "executing"),
    operation(PathClass::File, &["read", "open"], "reading"),
    writing(&["write", "append"], "writing"),
    writing(&["truncate"], "truncating"),
    writing(&["delete", "unlink"], "deleting"),
    Operation { tree: true, ..writing(&["rename"], "renaming from or to") },
    writing(&["link"], "linking from or to"),
    writing(&["chmod"], "changing the mode of"),
    writing(&["chown"], "changing the owner of"),
    writing(&["rmdir"], "removing the directory"),
    creating(&["create"], "creating"),
    creating(&["mkdir"], "making the directory"),
    creating(&["symlink"], "making the symbolic link"),
    creating(&["mknod"], "making the node"),
];

impl Question {
    /// The kind of access.
    #[must_use]
    pub fn class(&self) -> Class {
        match &self.asked {
            Asked::Path { operation, .. } => operation.class.into(),
            Asked::Socket(_) => Class::Network,
            Asked::Capability(_) => Class::Capability,
            Asked::Syscall { .. } => Class::Syscall,
            Asked::Preset(_) => Class::Preset,
        }
    }

    /// The system call that it is about, with its arguments where some are given.
    pub(super) fn syscall(&self) -> Option<(Syscall, Option<[u64; 6]>)> {
        match &self.asked {
            Asked::Syscall { syscall, args } => Some((*syscall, *args)),
            _ => None,
        }
    }

    /// Whether it is about what a symbolic link leads to, rather than about the name itself, which may be that of a link.
    #[must_use]
    pub fn follows_links(&self) -> bool {
        const OF_NAMES: [&str; 7] = ["delete", "rename", "link", "rmdir", "mkdir", "symlink", "mknod"];
        match &self.asked {
            Asked::Path { operation, .. } => !operation.names.iter().any(|name| OF_NAMES.contains(name)),
            _ => true,
        }
    }

    /// The access, by this executable and user, and, where it is one to a file, to a file with this owner; what creates
    /// its object has no use for the owner. A process is started with its path as the first
    /// argument, and no others.
    #[must_use]
    pub fn access<'a>(&'a self, source: Option<&'a [u8]>, uid: u32, owner: u32) -> Access<'a> {
        let target = match &self.asked {
            Asked::Path { operation, object } => {
                let Operation { class, write, creates, tree, .. } = **operation;
                let owner = (!creates).then_some(owner);
                Target::Path(PathAccess {
                    class,
                    path: object.as_bytes(),
                    write,
                    tree,
                    owner,
                    argv0: Some(object.as_bytes()),
                    args: Some(&[]),
                })
            }
            Asked::Socket(access) => Target::Socket(*access),
            Asked::Capability(capability) => Target::Capability(*capability),
            Asked::Syscall { syscall, .. } => Target::Syscall(*syscall),
            Asked::Preset(preset) => Target::Preset(*preset),
        };
        Access { source, uid, ..Access::to(target) }
    }
}

/// `reading /etc/passwd`
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.asked {
            Asked::Path { operation, object } => write!(f, "{} {object}", operation.doing),
            Asked::Socket(access) => f.write_str(&socket::doing(access)),
            Asked::Capability(capability) => write!(f, "using the capability {capability}"),
            Asked::Syscall { syscall, .. } => write!(f, "the system call {syscall}"),
            Asked::Preset(preset) => write!(f, "what the preset {preset} is about"),
        }
    }
}

impl FromStr for Question {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let shape = || QuestionError::Shape(text.to_owned());
        let (class, rest) = text.split_once(':').ok_or_else(shape)?;
        let class = class.parse()?;
        let asked = match class {
            Class::Syscall => {
                let rest = rest.strip_prefix("call:").unwrap_or(rest);
                let (name, args) = match rest.split_once(':') {
                    Some((name, args)) => (name, Some(arguments(args).ok_or_else(shape)?)),
                    None => (rest, None),
                };
                let known = Syscall::by_name(name).map(|syscall| Asked::Syscall { syscall, args });
                let help = || match nearest(name, Syscall::all().map(Syscall::name)) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => "names are those of `man 2 syscalls`".to_owned(),
                };
                known.ok_or_else(|| QuestionError::unknown("system call", name, help()))?
            }
            Class::Preset => {
                let known = Preset::by_name(rest).map(Asked::Preset);
                let names = Preset::ALL.map(Preset::as_str);
                known.ok_or_else(|| QuestionError::unknown("preset", rest, suggest(rest, names)))?
            }
            class => {
                let (name, object) = rest.split_once(':').ok_or_else(shape)?;
                match class {
                    Class::Network => Asked::Socket(network(name, object)?),
                    Class::Capability => Asked::Capability(capability(name, object)?),
                    Class::Process => path(PathClass::Process, name, object)?,
                    _ => path(PathClass::File, name, object)?,
                }
            }
        };
        Ok(Self { asked })
    }
}

/// Up to six numbers with commas between them, in decimal or, after `0x`, hexadecimal; the others are 0.
fn arguments(text: &str) -> Option<[u64; 6]> {
    let mut args = [0; 6];
    let mut places = args.iter_mut();
    for number in text.split(',') {
        *places.next()? = match number.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok()?,
            None => number.parse().ok().or_else(|| number.parse::<i64>().ok().map(i64::cast_unsigned))?,
        };
    }
    Some(args)
}

fn path(class: PathClass, name: &str, object: &str) -> Result<Asked, QuestionError> {
    let mut of_class = OPERATIONS.iter().filter(|operation| operation.class == class);
    let Some(operation) = of_class.clone().find(|operation| operation.names.contains(&name)) else {
        let names: Vec<_> = of_class.by_ref().flat_map(|operation| operation.names).copied().collect();
        return Err(QuestionError::no_operation(class.into(), name, &names));
    };
    let object =
        object.parse().map_err(|source| QuestionError::Object { given: object.to_owned(), source })?;
    Ok(Asked::Path { operation, object })
}

fn network(name: &str, object: &str) -> Result<SocketAccess, QuestionError> {
    let names = SocketOp::ALL.map(SocketOp::as_str);
    let Some(op) = SocketOp::ALL.into_iter().find(|op| op.as_str() == name) else {
        return Err(QuestionError::no_operation(Class::Network, name, &names));
    };
    socket::parse(op, object)
}

fn capability(name: &str, object: &str) -> Result<Capability, QuestionError> {
    if name != "use" {
        return Err(QuestionError::no_operation(Class::Capability, name, &["use"]));
    }
    let names = || Capability::all().map(Capability::name);
    Capability::by_name(object)
        .ok_or_else(|| QuestionError::unknown("capability", object, suggest(object, names())))
}

/// Why a text is no [`Question`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuestionError {
    /// Too few parts.
    #[error(
        "`{0}` is not `CLASS:OP:OBJECT`; write it as in `file:read:/etc/passwd`, `process:exec:/bin/sh`, \
         `network:connect:tcp:10.0.0.1:443`, `capability:use:net_raw`, `syscall:unlink` or `preset:exec`"
    )]
    Shape(String),
    /// The class.
    #[error(transparent)]
    Class(#[from] UnknownClass),
    /// The operation.
    #[error("`{given}` is no {class} operation; there are `{names}`")]
    UnknownOperation {
        /// The class.
        class: Class,
        /// The operation as given.
        given: String,
        /// Those there are.
        names: String,
    },
    /// The object of an access to a file.
    #[error("`{given}` is no object of an access: {source}")]
    Object {
        /// The object as given.
        given: String,
        /// What is wrong with it.
        source: PathError,
    },
    /// A name that nothing has.
    #[error("`{given}` is no {what}; {help}")]
    UnknownName {
        /// What it should name.
        what: &'static str,
        /// As given.
        given: String,
        /// What there is.
        help: String,
    },
    /// A part of a question about a socket.
    #[error("`{given}` names no socket: {problem}")]
    Socket {
        /// As given.
        given: String,
        /// What is missing or too much.
        problem: &'static str,
    },
}

impl QuestionError {
    fn no_operation(class: Class, given: &str, names: &[&str]) -> Self {
        Self::UnknownOperation { class, given: given.to_owned(), names: names.join("`, `") }
    }

    pub(super) fn unknown(what: &'static str, given: &str, help: String) -> Self {
        Self::UnknownName { what, given: given.to_owned(), help }
    }
}
