//! What the programs report: a denial or an audited access, with the container, the rule and the actor.

use enforcer_bpf::{Shared, types};

use crate::compile::bpf::image::{RULE_NONE, RULE_POSTURE, effect_of};
use crate::decide::Verdict;
use crate::enforce::ContainerId;
use crate::ruleset::{Class, OriginId, RulesetDigest};

/// `EVENT_VERSION` of `enforcer.h`.
const VERSION: u32 = 1;

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
}

impl Op {
    const ALL: [(types::enforcer_op, Self, &'static str); 21] = [
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
    ];

    fn of(code: u16) -> Option<Self> {
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

    /// The reason as a sentence fragment.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, reason, _)| *reason == self).map_or("", |(.., text)| text)
    }
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventBy {
    /// A rule with this origin, in the ruleset of the event.
    Rule(OriginId),
    /// The default posture.
    DefaultPosture,
    /// The access could not be resolved, and the class may not let such pass unnoticed.
    Unresolved(Unresolved),
}

/// One report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The container; `None` when it is not known any more.
    pub container: Option<ContainerId>,
    /// The ruleset that decided; `None` when it is not known any more.
    pub ruleset: Option<RulesetDigest>,
    /// What kind of access.
    pub class: Class,
    /// What was tried.
    pub op: Op,
    /// What became of it: Audit or Block.
    pub verdict: Verdict,
    /// What decided.
    pub by: EventBy,
    /// The object's path in the container, as bytes; `memfd:NAME` and the like for what has none.
    pub path: Vec<u8>,
    /// Whether `path` is only the beginning.
    pub path_truncated: bool,
    /// The acting executable's path.
    pub source: Vec<u8>,
    /// Process id in the initial pid namespace.
    pub host_pid: u32,
    /// Thread id in the initial pid namespace.
    pub host_tid: u32,
    /// Process id of the parent in the initial pid namespace.
    pub host_ppid: u32,
    /// Process id in the task's own pid namespace.
    pub pid: u32,
    /// The parent's process id in its own pid namespace.
    pub ppid: u32,
    /// Real user id in the initial user namespace.
    pub uid: u32,
    /// Name of the task (`/proc/PID/comm`).
    pub comm: String,
    /// Name of the parent.
    pub parent_comm: String,
    /// Nanoseconds since boot, suspends included (`CLOCK_BOOTTIME`).
    pub time_ns: u64,
}

/// Why bytes are no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer bytes than its header, or than its lengths say.
    #[error("an event of {0} bytes is cut short")]
    Short(usize),
    /// Of programs that this daemon does not know.
    #[error("an event of version {0}, not {VERSION}")]
    Version(u32),
    /// A field holds what no program writes.
    #[error("an event with {0} {1}")]
    Field(&'static str, u32),
}

/// An event with the kernel's numbers for container and ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEvent {
    /// Key of the container.
    pub container_key: u64,
    /// Id of the ruleset.
    pub ruleset_id: u32,
    /// The rest; container and ruleset are not filled in.
    pub event: Event,
}

impl RawEvent {
    /// Decodes one record of the ring buffer.
    ///
    /// # Errors
    /// When the bytes are not what this version's programs write.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let short = DecodeError::Short(bytes.len());
        let head = types::event::of(bytes).ok_or(short)?;
        if head.version != VERSION {
            return Err(DecodeError::Version(head.version));
        }
        let rest = bytes.get(size_of::<types::event>()..).ok_or(short)?;
        let length = |len: u32| usize::try_from(len).map_err(|_| short);
        let (path, rest) = rest.split_at_checked(length(head.path_len)?).ok_or(short)?;
        let source = rest.get(..length(head.source_len)?).ok_or(short)?;

        let class = match types::enforcer_class(u32::from(head.class_)) {
            types::enforcer_class::CLASS_PROCESS => Class::Process,
            types::enforcer_class::CLASS_FILE => Class::File,
            types::enforcer_class::CLASS_NETWORK => Class::Network,
            types::enforcer_class::CLASS_CAPABILITY => Class::Capability,
            _ => return Err(DecodeError::Field("class", u32::from(head.class_))),
        };
        let op = Op::of(head.op).ok_or(DecodeError::Field("operation", u32::from(head.op)))?;
        let effect = effect_of(head.decision).ok_or(DecodeError::Field("decision", head.decision))?;
        let by = match (head.reason, head.decision & RULE_POSTURE) {
            (0, RULE_POSTURE) => EventBy::DefaultPosture,
            (0, RULE_NONE) => return Err(DecodeError::Field("decision", head.decision)),
            (0, rule) => EventBy::Rule(OriginId(rule)),
            (reason, _) => {
                let known = Unresolved::ALL.iter().find(|(code, ..)| code.0 == reason);
                EventBy::Unresolved(known.ok_or(DecodeError::Field("reason", reason))?.1)
            }
        };
        let event = Event {
            container: None,
            ruleset: None,
            class,
            op,
            verdict: effect.into(),
            by,
            path: path.to_vec(),
            path_truncated: head.flags & 1 != 0,
            source: source.to_vec(),
            host_pid: head.host_pid,
            host_tid: head.host_tid,
            host_ppid: head.host_ppid,
            pid: head.pid,
            ppid: head.ppid,
            uid: head.uid,
            comm: text(&head.comm),
            parent_comm: text(&head.parent_comm),
            time_ns: head.time_ns,
        };
        Ok(Self { container_key: head.container, ruleset_id: head.ruleset, event })
    }
}

/// A NUL-terminated name; what is no UTF-8 in it becomes the replacement character.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> (types::event, Vec<u8>) {
        let mut head = types::event {
            version: 1,
            container: 7,
            ruleset: 3,
            class_: 1,
            op: 2,
            decision: 0x3000_0005,
            path_len: 11,
            source_len: 7,
            ..Default::default()
        };
        head.comm[..3].copy_from_slice(b"cat");
        let bytes = [head.bytes(), b"/etc/passwd/bin/sh"].concat();
        (head, bytes)
    }

    #[test]
    fn a_record_is_decoded() {
        let raw = RawEvent::decode(&record().1).unwrap();
        assert_eq!((raw.container_key, raw.ruleset_id), (7, 3));
        assert_eq!(raw.event.by, EventBy::Rule(OriginId(5)));
        assert_eq!((raw.event.verdict, raw.event.op), (Verdict::Block, Op::OpenRead));
        assert_eq!(
            (raw.event.path.as_slice(), raw.event.source.as_slice()),
            (&b"/etc/passwd"[..], &b"/bin/sh"[..])
        );
        assert_eq!(raw.event.comm, "cat");
    }

    #[test]
    fn every_prefix_and_every_flipped_byte_is_an_error_or_an_event_but_no_panic() {
        let (_, bytes) = record();
        for end in 0..bytes.len() {
            assert!(RawEvent::decode(&bytes[..end]).is_err(), "{end}");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                let _ = RawEvent::decode(&bytes);
            }
        }
    }

    #[test]
    fn reasons_and_versions_are_told() {
        let (mut head, _) = record();
        head.reason = 4;
        head.decision = 0x3fff_fffe;
        let raw = RawEvent::decode(&[head.bytes(), &[b'x'; 18]].concat()).unwrap();
        assert_eq!(raw.event.by, EventBy::Unresolved(Unresolved::ForeignMount));
        head.reason = 99;
        assert_eq!(
            RawEvent::decode(&[head.bytes(), &[b'x'; 18]].concat()),
            Err(DecodeError::Field("reason", 99))
        );
        head.version = 2;
        assert_eq!(RawEvent::decode(head.bytes()), Err(DecodeError::Version(2)));
    }
}
