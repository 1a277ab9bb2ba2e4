//! What was tried, and why it could not be judged by its path.

use enforcer_bpf::types;

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// `execve`, or the interpreter of a script.
    Exec,
    /// Opening for reading or for execution.
    OpenRead,
    /// Opening for writing.
    OpenWrite,
    /// Creating a file or node.
    Create,
    /// `mkdir`.
    Mkdir,
    /// `rmdir`.
    Rmdir,
    /// `unlink`.
    Unlink,
    /// `symlink`.
    Symlink,
    /// `link`, either name.
    Link,
    /// `rename`, either name.
    Rename,
    /// `truncate`.
    Truncate,
    /// `chmod`.
    Chmod,
    /// `chown`.
    Chown,
    /// Setting times, extended attributes, access control lists or flags.
    SetAttributes,
    /// Taking an open file from another process.
    Receive,
    /// Mapping a file to execute it, by a program that has no loader of its own.
    Map,
    /// Mounting, or moving a mount: the mount point, and what gets other names.
    Mount,
    /// Unmounting.
    Unmount,
    /// `pivot_root`.
    PivotRoot,
    /// Controlling another process.
    Ptrace,
    /// Connecting or sending to a unix socket that has a path.
    ConnectUnix,
    /// Making a socket.
    SocketCreate,
    /// Connecting a socket.
    SocketConnect,
    /// Sending to an address.
    SocketSend,
    /// Giving a socket an address.
    SocketBind,
    /// Listening.
    SocketListen,
    /// Taking a connection.
    SocketAccept,
    /// Using a capability.
    Capable,
    /// Making a system call.
    Syscall,
    /// `mprotect` that makes memory executable.
    Protect,
    /// Being sent into the container from outside.
    Enter,
    /// None: what the rules deny to open was found open, from before they were in force. Told once.
    Held,
    /// Reading or mapping what is [held](Self::Held).
    Read,
    /// Writing what is [held](Self::Held), or mapping it to write.
    Write,
}

impl Op {
    const ALL: [(types::enforcer_op, Self, &'static str); 34] = [
        (types::enforcer_op::OP_EXEC, Self::Exec, "exec"),
        (types::enforcer_op::OP_OPEN_READ, Self::OpenRead, "open-read"),
        (types::enforcer_op::OP_OPEN_WRITE, Self::OpenWrite, "open-write"),
        (types::enforcer_op::OP_CREATE, Self::Create, "create"),
        (types::enforcer_op::OP_MKDIR, Self::Mkdir, "mkdir"),
        (types::enforcer_op::OP_RMDIR, Self::Rmdir, "rmdir"),
        (types::enforcer_op::OP_UNLINK, Self::Unlink, "unlink"),
        (types::enforcer_op::OP_SYMLINK, Self::Symlink, "symlink"),
        (types::enforcer_op::OP_LINK, Self::Link, "link"),
        (types::enforcer_op::OP_RENAME, Self::Rename, "rename"),
        (types::enforcer_op::OP_TRUNCATE, Self::Truncate, "truncate"),
        (types::enforcer_op::OP_CHMOD, Self::Chmod, "chmod"),
        (types::enforcer_op::OP_CHOWN, Self::Chown, "chown"),
        (types::enforcer_op::OP_SETATTR, Self::SetAttributes, "set-attributes"),
        (types::enforcer_op::OP_RECEIVE, Self::Receive, "receive"),
        (types::enforcer_op::OP_MAP, Self::Map, "map"),
        (types::enforcer_op::OP_MOUNT, Self::Mount, "mount"),
        (types::enforcer_op::OP_UMOUNT, Self::Unmount, "unmount"),
        (types::enforcer_op::OP_PIVOT_ROOT, Self::PivotRoot, "pivot-root"),
        (types::enforcer_op::OP_PTRACE, Self::Ptrace, "ptrace"),
        (types::enforcer_op::OP_CONNECT_UNIX, Self::ConnectUnix, "connect-unix"),
        (types::enforcer_op::OP_SOCKET_CREATE, Self::SocketCreate, "create"),
        (types::enforcer_op::OP_SOCKET_CONNECT, Self::SocketConnect, "connect"),
        (types::enforcer_op::OP_SOCKET_SEND, Self::SocketSend, "send"),
        (types::enforcer_op::OP_SOCKET_BIND, Self::SocketBind, "bind"),
        (types::enforcer_op::OP_SOCKET_LISTEN, Self::SocketListen, "listen"),
        (types::enforcer_op::OP_SOCKET_ACCEPT, Self::SocketAccept, "accept"),
        (types::enforcer_op::OP_CAPABLE, Self::Capable, "use"),
        (types::enforcer_op::OP_SYSCALL, Self::Syscall, "syscall"),
        (types::enforcer_op::OP_PROTECT, Self::Protect, "mprotect"),
        (types::enforcer_op::OP_ENTER, Self::Enter, "enter"),
        (types::enforcer_op::OP_HELD, Self::Held, "held-open"),
        (types::enforcer_op::OP_READ, Self::Read, "read"),
        (types::enforcer_op::OP_WRITE, Self::Write, "write"),
    ];

    pub(super) fn of(code: u16) -> Option<Self> {
        Self::ALL.iter().find(|(op, ..)| op.0 == u32::from(code)).map(|(_, op, _)| *op)
    }

    /// The operation in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, op, _)| *op == self).map_or("", |(.., name)| name)
    }
}

/// Why an access could not be resolved to a path or to rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unresolved {
    /// Renames or mounts changed the path in every attempt.
    Raced,
    /// Too many steps to the root.
    TooDeep,
    /// No way from the file to a root.
    Disconnected,
    /// On a mount of another mount namespace, a detached or an anonymous one.
    ForeignMount,
    /// All work areas of the CPU were in use.
    NoScratch,
    /// The container's rules were not in the kernel.
    NoRules,
    /// A kernel structure could not be read.
    Unreadable,
    /// A mount gives other paths to what cannot be said beforehand.
    NewNames,
    /// Another container's process, or the host's.
    ForeignTask,
}

impl Unresolved {
    const ALL: [(types::enforcer_reason, Self, &'static str); 9] = [
        (types::enforcer_reason::REASON_RACED, Self::Raced, "the path was being renamed or mounted over"),
        (types::enforcer_reason::REASON_TOO_DEEP, Self::TooDeep, "the path has too many components"),
        (
            types::enforcer_reason::REASON_DISCONNECTED,
            Self::Disconnected,
            "the file is not connected to a root directory",
        ),
        (
            types::enforcer_reason::REASON_FOREIGN_MOUNT,
            Self::ForeignMount,
            "the file is on a mount outside the container's mount namespace",
        ),
        (types::enforcer_reason::REASON_NO_SCRATCH, Self::NoScratch, "all work areas of the CPU were in use"),
        (
            types::enforcer_reason::REASON_NO_RULES,
            Self::NoRules,
            "the container's rules are not in the kernel",
        ),
        (types::enforcer_reason::REASON_UNREADABLE, Self::Unreadable, "a kernel structure could not be read"),
        (
            types::enforcer_reason::REASON_NEW_NAMES,
            Self::NewNames,
            "a mount gives other paths to files, which ones cannot be told beforehand",
        ),
        (
            types::enforcer_reason::REASON_FOREIGN_TASK,
            Self::ForeignTask,
            "the process is not of this container",
        ),
    ];

    pub(super) fn of(code: u32) -> Option<Self> {
        Self::ALL.iter().find(|(reason, ..)| reason.0 == code).map(|(_, reason, _)| *reason)
    }

    /// The reason as a sentence fragment.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, reason, _)| *reason == self).map_or("", |(.., text)| text)
    }
}
