//! What the programs report: a denial or an audited access, with the container, the rule and the actor.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_bpf::{Shared, types};

use crate::capability::Capability;
use crate::compile::bpf::image::{RULE_NONE, RULE_OBSERVED, RULE_POSTURE, effect_of};
use crate::decide::Verdict;
use crate::enforce::ContainerId;
use crate::network;
use crate::preset::Preset;
use crate::ruleset::{Class, OriginId, RulesetDigest};
use crate::syscall::Syscall;

/// `EVENT_VERSION` of `enforcer.h`.
const VERSION: u32 = 2;

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
    /// Nothing: no rule speaks about the access, and it is reported because its class is to be seen.
    Observed,
    /// The access could not be resolved, and the class may not let such pass unnoticed.
    Unresolved(Unresolved),
}

/// What was accessed, where it is no file, or not only a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Detail {
    /// A file, which the event's path names.
    Path,
    /// A socket.
    Socket(Socket),
    /// A capability; `None` for one that this version does not know.
    Capability(Option<Capability>, u32),
    /// A system call, by the machine's own number.
    Syscall(SyscallNumber),
    /// A preset.
    Preset(Preset),
}

/// A socket, and the address that was spoken to or offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// `AF_*`
    pub family: u16,
    /// `SOCK_*`
    pub kind: u16,
    /// `IPPROTO_*`, or what the family has in its place.
    pub protocol: u16,
    /// Address and port; `None` where there was none, or one of another family than IP.
    pub address: Option<(IpAddr, u16)>,
}

/// The number of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyscallNumber {
    /// As the kernel counts for 64-bit programs.
    pub number: u32,
    /// Made in the 32-bit way, by a call that does the same.
    pub compat: bool,
}

impl Socket {
    /// The family, as headers spell it, or its number.
    #[must_use]
    pub fn family_name(&self) -> String {
        let name = match self.family {
            network::AF_UNIX => "AF_UNIX",
            network::AF_INET => "AF_INET",
            network::AF_INET6 => "AF_INET6",
            network::AF_NETLINK => "AF_NETLINK",
            network::AF_PACKET => "AF_PACKET",
            network::AF_SMC => "AF_SMC",
            other => return other.to_string(),
        };
        name.into()
    }

    /// The type, as headers spell it, or its number.
    #[must_use]
    pub fn kind_name(&self) -> String {
        let name = match self.kind {
            network::SOCK_STREAM => "SOCK_STREAM",
            network::SOCK_DGRAM => "SOCK_DGRAM",
            network::SOCK_RAW => "SOCK_RAW",
            network::SOCK_RDM => "SOCK_RDM",
            network::SOCK_SEQPACKET => "SOCK_SEQPACKET",
            network::SOCK_DCCP => "SOCK_DCCP",
            network::SOCK_PACKET => "SOCK_PACKET",
            other => return other.to_string(),
        };
        name.into()
    }

    /// The protocol in capitals where it is one of IP that is known, or its number.
    #[must_use]
    pub fn protocol_name(&self) -> String {
        let inet = matches!(self.family, network::AF_INET | network::AF_INET6);
        let name = match (self.protocol, self.kind) {
            (network::IPPROTO_ICMP, _) if inet => "ICMP",
            (network::IPPROTO_TCP, _) | (0, network::SOCK_STREAM) if inet => "TCP",
            (network::IPPROTO_UDP, _) | (0, network::SOCK_DGRAM) if inet => "UDP",
            (network::IPPROTO_DCCP, _) if inet => "DCCP",
            (network::IPPROTO_ICMPV6, _) if inet => "ICMPv6",
            (network::IPPROTO_SCTP, _) if inet => "SCTP",
            (network::IPPROTO_MPTCP, _) if inet => "MPTCP",
            (other, _) => return other.to_string(),
        };
        name.into()
    }
}

/// `domain=AF_INET type=SOCK_STREAM protocol=TCP`, with ` ip=10.0.0.1 port=443` where there is an address.
impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, kind, protocol) = (self.family_name(), self.kind_name(), self.protocol_name());
        write!(f, "domain={family} type={kind} protocol={protocol}")?;
        match self.address {
            Some((address, port)) => write!(f, " ip={address} port={port}"),
            None => Ok(()),
        }
    }
}

impl SyscallNumber {
    /// The name; the number where it has none here.
    #[must_use]
    pub fn name(&self) -> String {
        Syscall::by_number(self.number).map_or_else(|| self.number.to_string(), |call| call.name().to_owned())
    }
}

/// What follows the operation in an alert: the socket, the capability, the call, the preset; nothing for a file.
impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => Ok(()),
            Self::Socket(socket) => socket.fmt(f),
            Self::Capability(Some(capability), _) => {
                write!(f, "CAP_{}", capability.name().to_ascii_uppercase())
            }
            Self::Capability(None, number) => write!(f, "CAP_{number}"),
            Self::Syscall(call) => f.write_str(&call.name()),
            Self::Preset(preset) => preset.fmt(f),
        }
    }
}

impl Detail {
    fn of(class: Class, detail: &types::event_detail) -> Result<Self, DecodeError> {
        let field = |name, value: u32| DecodeError::Field(name, value);
        Ok(match class {
            Class::Process | Class::File => Self::Path,
            Class::Network => {
                let [a, b, c, d, ..] = detail.address;
                let address = match detail.version {
                    0 => None,
                    4 => Some(IpAddr::from(Ipv4Addr::new(a, b, c, d))),
                    6 => Some(IpAddr::from(Ipv6Addr::from(detail.address))),
                    other => return Err(field("address version", other.into())),
                };
                let types::event_detail { family, kind, protocol, port, .. } = *detail;
                Self::Socket(Socket { family, kind, protocol, address: address.map(|ip| (ip, port)) })
            }
            Class::Capability => Self::Capability(Capability::by_number(detail.number), detail.number),
            Class::Syscall => {
                let (number, compat) = (detail.number & !COMPAT, detail.number & COMPAT != 0);
                Self::Syscall(SyscallNumber { number, compat })
            }
            Class::Preset => {
                let index = usize::try_from(detail.number).unwrap_or(usize::MAX);
                Self::Preset(Preset::ALL.get(index).copied().ok_or(field("preset", detail.number))?)
            }
        })
    }
}

/// Why a program's arguments count as not listed by rules, whatever they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ArgsUnseen {
    /// They are longer together than what is looked at.
    TooLong,
    /// They could not be read.
    Unreadable,
}

impl ArgsUnseen {
    /// `EVENT_ARGS_UNSEEN` and `EVENT_ARGS_UNREADABLE`.
    const fn of(flags: u32) -> Option<Self> {
        match (flags & 4 != 0, flags & 8 != 0) {
            (_, true) => Some(Self::Unreadable),
            (true, _) => Some(Self::TooLong),
            _ => None,
        }
    }

    /// In one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too-long",
            Self::Unreadable => "unreadable",
        }
    }
}

/// `EVENT_WRITES`
const WRITES: u32 = 16;
/// `SYSCALL_COMPAT`
const COMPAT: u32 = 0x1_0000;

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
    /// Of an access that could not be resolved: the rule, or the posture, that gave the strongest answer that the class
    /// has, which is taken; `None` where the rules were not there to ask.
    pub strongest: Option<EventBy>,
    /// What was accessed beside a file.
    pub detail: Detail,
    /// The object's path in the container, as bytes; `memfd:NAME` and the like for what has none. Empty where no file
    /// is concerned.
    pub path: Vec<u8>,
    /// Whether `path` is only the beginning.
    pub path_truncated: bool,
    /// Whether a file is opened, or comes, to be written.
    pub writes: bool,
    /// Why not all arguments of the program were looked at, where rules list arguments.
    pub args: Option<ArgsUnseen>,
    /// The acting executable's path.
    pub source: Vec<u8>,
    /// What else there is to say; empty mostly.
    pub text: Vec<u8>,
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

impl Event {
    /// Whether it is an observation: no policy has anything to do with the access, which passed, and nobody is to be alerted.
    #[must_use]
    pub fn is_observation(&self) -> bool {
        let by = match self.by {
            EventBy::Unresolved(_) => self.strongest,
            by => Some(by),
        };
        by == Some(EventBy::Observed) && self.verdict != Verdict::Block
    }
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
        let (source, rest) = rest.split_at_checked(length(head.source_len)?).ok_or(short)?;
        let text = rest.get(..length(head.text_len)?).ok_or(short)?;

        let class = match types::enforcer_class(u32::from(head.class_)) {
            types::enforcer_class::CLASS_PROCESS => Class::Process,
            types::enforcer_class::CLASS_FILE => Class::File,
            types::enforcer_class::CLASS_NETWORK => Class::Network,
            types::enforcer_class::CLASS_CAPABILITY => Class::Capability,
            types::enforcer_class::CLASS_SYSCALL => Class::Syscall,
            types::enforcer_class::CLASS_PRESET => Class::Preset,
            _ => return Err(DecodeError::Field("class", u32::from(head.class_))),
        };
        let op = Op::of(head.op).ok_or(DecodeError::Field("operation", u32::from(head.op)))?;
        let effect = effect_of(head.decision).ok_or(DecodeError::Field("decision", head.decision))?;
        let answer = match head.decision & RULE_POSTURE {
            RULE_POSTURE => Some(EventBy::DefaultPosture),
            RULE_OBSERVED => Some(EventBy::Observed),
            RULE_NONE => None,
            rule => Some(EventBy::Rule(OriginId(rule))),
        };
        let by = match (head.reason, answer) {
            (0, answer) => answer.ok_or(DecodeError::Field("decision", head.decision))?,
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
            strongest: answer.filter(|_| head.reason != 0),
            detail: Detail::of(class, &head.detail)?,
            text: text.to_vec(),
            path: path.to_vec(),
            path_truncated: head.flags & 1 != 0,
            writes: head.flags & WRITES != 0,
            args: ArgsUnseen::of(head.flags),
            source: source.to_vec(),
            host_pid: head.host_pid,
            host_tid: head.host_tid,
            host_ppid: head.host_ppid,
            pid: head.pid,
            ppid: head.ppid,
            uid: head.uid,
            comm: name(&head.comm),
            parent_comm: name(&head.parent_comm),
            time_ns: head.time_ns,
        };
        Ok(Self { container_key: head.container, ruleset_id: head.ruleset, event })
    }
}

/// A NUL-terminated name; what is no UTF-8 in it becomes the replacement character.
fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> (types::event, Vec<u8>) {
        let mut head = types::event {
            version: VERSION,
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
    fn what_is_observed_is_no_answer_of_a_policy() {
        let (mut head, bytes) = record();
        let rest = &bytes[head.bytes().len()..];
        let decode = |head: &types::event| RawEvent::decode(&[head.bytes(), rest].concat()).unwrap().event;
        assert!(!decode(&head).is_observation());
        head.decision = 2 << 28 | RULE_OBSERVED;
        let event = decode(&head);
        assert_eq!((event.by, event.verdict), (EventBy::Observed, Verdict::Audit));
        assert!(event.is_observation());
        head.reason = 4;
        assert!(decode(&head).is_observation(), "its path cannot be told");
        head.decision = 2 << 28 | RULE_POSTURE;
        assert!(!decode(&head).is_observation());
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
        head.reason = 4;
        for (flags, args) in [(0, None), (4, Some(ArgsUnseen::TooLong)), (8, Some(ArgsUnseen::Unreadable))] {
            head.flags = flags;
            assert_eq!(RawEvent::decode(&[head.bytes(), &[b'x'; 18]].concat()).unwrap().event.args, args);
        }
        head.version = 1;
        assert_eq!(RawEvent::decode(head.bytes()), Err(DecodeError::Version(1)));
    }

    #[test]
    fn what_is_no_file_is_told() {
        let (mut head, _) = record();
        (head.path_len, head.source_len) = (0, 0);
        (head.class_, head.op) = (2, 33);
        let detail = &mut head.detail;
        (detail.family, detail.kind, detail.protocol, detail.port, detail.version) = (2, 1, 6, 443, 4);
        detail.address[..4].copy_from_slice(&[10, 0, 0, 1]);
        let event = |head: &types::event| RawEvent::decode(head.bytes()).map(|raw| raw.event);
        let told = event(&head).unwrap();
        assert_eq!(told.op, Op::SocketConnect);
        assert_eq!(
            told.detail.to_string(),
            "domain=AF_INET type=SOCK_STREAM protocol=TCP ip=10.0.0.1 port=443"
        );
        head.detail.version = 6;
        head.detail.address = [0; 16];
        head.detail.address[15] = 1;
        assert!(event(&head).unwrap().detail.to_string().ends_with("ip=::1 port=443"));
        head.detail.version = 5;
        assert_eq!(event(&head), Err(DecodeError::Field("address version", 5)));
        (head.class_, head.op, head.detail.number) = (3, 38, 13);
        assert_eq!(event(&head).unwrap().detail.to_string(), "CAP_NET_RAW");
        head.detail.number = 77;
        assert_eq!(event(&head).unwrap().detail.to_string(), "CAP_77");
        (head.class_, head.op, head.detail.number) = (5, 40, 1);
        assert_eq!(event(&head).unwrap().detail.to_string(), "anonymousMapExec");
        head.detail.number = 5;
        assert_eq!(event(&head), Err(DecodeError::Field("preset", 5)));
        (head.class_, head.op) = (4, 39);
        head.detail.number = Syscall::by_name("openat").and_then(Syscall::number).unwrap();
        assert_eq!(event(&head).unwrap().detail.to_string(), "openat");
        head.detail.number |= 0x1_0000;
        let detail = event(&head).unwrap().detail;
        assert_eq!(detail.to_string(), "openat");
        assert!(matches!(detail, Detail::Syscall(SyscallNumber { compat: true, .. })));
        head.detail.number = 9999;
        assert_eq!(event(&head).unwrap().detail.to_string(), "9999");
    }
}
