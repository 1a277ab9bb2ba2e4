//! What the programs report: a denial or an audited access, with the container, the rule and the actor.

mod detail;
mod op;

use enforcer_bpf::{Shared, types};

pub use self::detail::{ArgsUnseen, Detail, Socket, SyscallNumber};
pub use self::op::{Op, Unresolved};
use crate::compile::bpf::image::{RULE_NONE, RULE_OBSERVED, RULE_POSTURE, effect_of};
use crate::decide::Verdict;
use crate::enforce::ContainerId;
use crate::ruleset::{Class, OriginId, RulesetDigest};

/// `EVENT_VERSION` of `enforcer.h`.
const VERSION: u32 = 2;
/// `EVENT_WRITES`
const WRITES: u32 = 16;

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
                let reason = Unresolved::of(reason).ok_or(DecodeError::Field("reason", reason))?;
                EventBy::Unresolved(reason)
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
}
