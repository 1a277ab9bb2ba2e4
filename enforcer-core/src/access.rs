//! What is asked: one access, as the kernel sees it.

use crate::capability::Capability;
use crate::network::SocketAccess;
use crate::posture::Class;
use crate::preset::Preset;
use crate::syscall::Syscall;

/// One access, as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access<'a> {
    /// What is accessed, and how.
    pub target: Target<'a>,
    /// The acting executable; of the process class, the one that calls `execve`. `None` for an actor without one,
    /// which no rule with a source matches. Not for an actor whose executable could not be found out: there a back
    /// end has to deny without asking.
    pub source: Option<&'a [u8]>,
    /// The user id that acts.
    pub uid: u32,
    /// Whether the actor has a controlling terminal.
    pub terminal: bool,
}

/// What is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A file.
    Path(PathAccess<'a>),
    /// A socket.
    Socket(SocketAccess),
    /// A capability is used.
    Capability(Capability),
    /// A system call is made.
    Syscall(Syscall),
    /// Something is done that a preset is about.
    Preset(Preset),
}

/// An access to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathAccess<'a> {
    /// Whether it is executed, or else read or changed.
    pub class: PathClass,
    /// The path as the kernel prints it: absolute and normalised. What has no such path (a pipe, say) matches no rule.
    pub path: &'a [u8],
    /// `true` for opening to write, creating, deleting, renaming and linking (both names), truncating, changing
    /// mode or owner, making a symbolic link, a directory or a node; `false` for reading and executing.
    pub write: bool,
    /// `true` for renaming a directory, both names: all that lies below moves with it.
    pub tree: bool,
    /// The user id that owns the file; `None` where there is no file yet: who creates it will own it.
    pub owner: Option<u32>,
    /// The first argument that a process is started with; `None` where it is not known. A name that whoever starts it may
    /// choose, and by which programs of many names go.
    pub argv0: Option<&'a [u8]>,
    /// What a process is started with, without the first argument (`argv[0]`); `None` where it is not known, so that
    /// `allowedArgs` does not hold.
    pub args: Option<&'a [&'a [u8]]>,
}

/// The classes whose rules are about files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathClass {
    /// [`Class::Process`]
    Process,
    /// [`Class::File`]
    File,
}

impl From<PathClass> for Class {
    fn from(class: PathClass) -> Self {
        match class {
            PathClass::Process => Self::Process,
            PathClass::File => Self::File,
        }
    }
}

impl<'a> Access<'a> {
    /// An access to this target: by root, by no particular executable, without a terminal.
    #[must_use]
    pub const fn to(target: Target<'a>) -> Self {
        Self { target, source: None, uid: 0, terminal: false }
    }

    const fn file(class: PathClass, path: &'a [u8], write: bool, tree: bool) -> Self {
        Self::to(Target::Path(PathAccess {
            class,
            path,
            write,
            tree,
            owner: Some(0),
            argv0: None,
            args: None,
        }))
    }

    /// Root reads its own file, by no particular executable.
    #[must_use]
    pub const fn read(path: &'a [u8]) -> Self {
        Self::file(PathClass::File, path, false, false)
    }

    /// Root writes its own file, by no particular executable.
    #[must_use]
    pub const fn write(path: &'a [u8]) -> Self {
        Self::file(PathClass::File, path, true, false)
    }

    /// Root renames its own directory, by no particular executable; one of the two names.
    #[must_use]
    pub const fn rename_directory(path: &'a [u8]) -> Self {
        Self::file(PathClass::File, path, true, true)
    }

    /// Root executes its own file, from no particular executable.
    #[must_use]
    pub const fn exec(path: &'a [u8]) -> Self {
        Self::file(PathClass::Process, path, false, false)
    }

    /// Something is done with a socket.
    #[must_use]
    pub const fn socket(socket: SocketAccess) -> Self {
        Self::to(Target::Socket(socket))
    }

    /// A capability is used.
    #[must_use]
    pub const fn capability(capability: Capability) -> Self {
        Self::to(Target::Capability(capability))
    }

    /// A system call is made.
    #[must_use]
    pub const fn syscall(syscall: Syscall) -> Self {
        Self::to(Target::Syscall(syscall))
    }

    /// Something is done that a preset is about.
    #[must_use]
    pub const fn preset(preset: Preset) -> Self {
        Self::to(Target::Preset(preset))
    }

    /// The same access by this executable.
    #[must_use]
    pub const fn from(self, source: &'a [u8]) -> Self {
        Self { source: Some(source), ..self }
    }

    /// The same access by this user, to a file with this owner where it is one to a file.
    #[must_use]
    pub const fn by(self, uid: u32, owner: Option<u32>) -> Self {
        let target = match self.target {
            Target::Path(access) => Target::Path(PathAccess { owner, ..access }),
            target => target,
        };
        Self { target, uid, ..self }
    }

    /// The same access with these arguments after the first one, where a process is started.
    #[must_use]
    pub const fn with_args(self, args: &'a [&'a [u8]]) -> Self {
        let target = match self.target {
            Target::Path(access) => Target::Path(PathAccess { args: Some(args), ..access }),
            target => target,
        };
        Self { target, ..self }
    }

    /// The same access with this first argument, where a process is started.
    #[must_use]
    pub const fn called(self, argv0: &'a [u8]) -> Self {
        let target = match self.target {
            Target::Path(access) => Target::Path(PathAccess { argv0: Some(argv0), ..access }),
            target => target,
        };
        Self { target, ..self }
    }

    /// The same access by who has a controlling terminal.
    #[must_use]
    pub const fn on_terminal(self) -> Self {
        Self { terminal: true, ..self }
    }

    /// What kind of access it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self.target {
            Target::Path(access) => access.class.into(),
            Target::Socket(_) => Class::Network,
            Target::Capability(_) => Class::Capability,
            Target::Syscall(_) => Class::Syscall,
            Target::Preset(_) => Class::Preset,
        }
    }

    /// The file, where it is one.
    #[must_use]
    pub const fn path(&self) -> Option<&PathAccess<'a>> {
        match &self.target {
            Target::Path(access) => Some(access),
            _ => None,
        }
    }
}
