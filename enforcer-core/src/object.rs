//! What rules speak about, and what narrows them.

use std::fmt;
use std::sync::Arc;

use crate::capability::Capability;
use crate::network::{Endpoint, Protocol};
use crate::path::AbsPath;
use crate::pattern::Pattern;
use crate::posture::Class;
use crate::preset::Preset;
use crate::syscall::Syscall;

/// What a rule speaks about. Which classes have which objects: see [`Object::fits`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// This path and no other.
    Path(AbsPath),
    /// Every path whose last component is this name, in any directory.
    BaseName(String),
    /// Every path that the pattern matches.
    Pattern(Pattern),
    /// A directory itself and what is in it.
    Directory {
        /// The directory.
        dir: AbsPath,
        /// Whether the whole subtree is meant rather than the direct children alone.
        recursive: bool,
    },
    /// The program of many names at `program`, started as `name`; see [`applet`](crate::applet). Made of links, never
    /// written.
    Applet {
        /// The program.
        program: AbsPath,
        /// Which of its programs; at most 248 bytes.
        name: Vec<u8>,
    },
    /// Every operation on sockets of a kind.
    Sockets(Protocol),
    /// Connecting and sending to an address.
    Destination(Endpoint),
    /// Binding to an address, and listening on it.
    Listener(Endpoint),
    /// The use of a capability.
    Capability(Capability),
    /// A system call.
    Syscall(Syscall),
    /// What a preset is about.
    Preset(Preset),
}

impl Object {
    /// Whether rules of the class can speak about it.
    #[must_use]
    pub const fn fits(&self, class: Class) -> bool {
        match self {
            Self::Path(_) | Self::BaseName(_) | Self::Pattern(_) | Self::Directory { .. } => {
                matches!(class, Class::Process | Class::File)
            }
            Self::Applet { .. } => matches!(class, Class::Process),
            Self::Sockets(_) | Self::Destination(_) | Self::Listener(_) => matches!(class, Class::Network),
            Self::Capability(_) => matches!(class, Class::Capability),
            Self::Syscall(_) => matches!(class, Class::Syscall),
            Self::Preset(_) => matches!(class, Class::Preset),
        }
    }
}

/// `/path`, `name=base`, `pattern=/a/*.b`, `/dir/*`, `/dir/**`, `/bin/busybox as ls`, `tcp`, `to=tcp:10.0.0.0/8:443`, `at=*:*:80-90`, or the
/// name of a capability, system call or preset.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::BaseName(name) => write!(f, "name={name}"),
            Self::Pattern(pattern) => write!(f, "pattern={pattern}"),
            Self::Directory { dir, recursive } => {
                let slash = if dir.is_root() { "" } else { "/" };
                let depth = if *recursive { "**" } else { "*" };
                write!(f, "{dir}{slash}{depth}")
            }
            Self::Applet { program, name } => write!(f, "{program} as {}", name.escape_ascii()),
            Self::Sockets(protocol) => protocol.fmt(f),
            Self::Destination(endpoint) => write!(f, "to={endpoint}"),
            Self::Listener(endpoint) => write!(f, "at={endpoint}"),
            Self::Capability(capability) => capability.fmt(f),
            Self::Syscall(syscall) => syscall.fmt(f),
            Self::Preset(preset) => preset.fmt(f),
        }
    }
}

/// The arguments that a process may be started with: `allowedArgs`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Args(Arc<[String]>); // INVARIANT: sorted, no two equal

impl Args {
    /// The set of these arguments.
    #[must_use]
    pub fn new(args: impl IntoIterator<Item = String>) -> Self {
        let mut args: Vec<_> = args.into_iter().collect();
        args.sort_unstable();
        args.dedup();
        Self(args.into())
    }

    /// The arguments, sorted.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// Whether it holds this argument.
    #[must_use]
    pub fn contains(&self, arg: &[u8]) -> bool {
        self.0.binary_search_by(|other| other.as_bytes().cmp(arg)).is_ok()
    }
}

/// What narrows a rule. On an Allow rule all of them must hold for the rule to match; on an Audit or Block rule any
/// one that holds exempts the access.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conditions {
    /// `readOnly`: holds for reading and executing. Of process and file rules.
    pub read_only: bool,
    /// `ownerOnly`: holds for the owner of the file. Of process and file rules.
    pub owner_only: bool,
    /// `pts: false`: holds for who has no controlling terminal. Of process, file and network rules.
    pub no_terminal: bool,
    /// `allowedArgs`: holds where every argument after the first, `argv[0]`, is one of these. Of process rules.
    pub args: Option<Args>,
}

impl Conditions {
    /// Whether there is nothing to hold.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether rules of the class can have them.
    #[must_use]
    pub fn fit(&self, class: Class) -> bool {
        let Self { read_only, owner_only, no_terminal, args } = self;
        let of_files = *read_only || *owner_only;
        match class {
            Class::Process => true,
            Class::File => args.is_none(),
            Class::Network => args.is_none() && !of_files,
            Class::Capability | Class::Syscall | Class::Preset => args.is_none() && !of_files && !no_terminal,
        }
    }
}

/// ` readOnly ownerOnly pts=false args=[-c,x]`: those that there are, each with a space before it.
impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { read_only, owner_only, no_terminal, args } = self;
        for (set, name) in
            [(*read_only, " readOnly"), (*owner_only, " ownerOnly"), (*no_terminal, " pts=false")]
        {
            f.write_str(if set { name } else { "" })?;
        }
        match args {
            Some(args) => {
                let args: Vec<_> = args.as_slice().iter().map(|arg| arg.escape_debug().to_string()).collect();
                write!(f, " args=[{}]", args.join(","))
            }
            None => Ok(()),
        }
    }
}
