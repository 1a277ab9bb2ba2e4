//! Alerts: what an event of the kernel says, with KubeArmor's field names so that what reads those reads ours.
//!
//! Every key is always there. An empty text, a pid of 0 or a uid of -1 means that it is not known: nothing is guessed. What is read from
//! `/proc` after the fact is only what is that process's for certain ([`living`]).
//!
//! Paths are bytes, JSON is text: a byte that is not part of valid UTF-8 is written `\xNN` with two lower-case
//! hexadecimal digits, and a backslash of the path itself `\\`, so that no two paths look alike and each can be had
//! back ([`escape`]). (JSON then doubles each backslash once more.)

mod denial;
pub mod living;
pub mod owner;
mod size;

use std::fmt::Write;
use std::time::SystemTime;

use enforcer_core::decide::Verdict;
use enforcer_core::enforce::ContainerId;
use enforcer_core::event::{Detail, Event, EventBy};
use enforcer_core::explain::DEFAULT_POSTURE;
use enforcer_core::preset::Preset;
use enforcer_core::ruleset::{Class, Origin};
use serde::Serialize;

use self::owner::Owner;
use crate::apply::changes::News;
use crate::apply::list;
use crate::container::{Container, name_policies};
use crate::observe::log::CONTAINER_LOG;
use crate::order::Notice;
use crate::registry::Registry;

/// Stands for a name that should be known and is not.
pub const UNKNOWN: &str = "unknown";

/// The type of an alert in which the daemon speaks of itself.
pub const SYSTEM_EVENT: &str = "SystemEvent";

/// The type of an alert about a process of the host.
pub const HOST_EVENT: &str = "MatchedHostPolicy";

/// One line of the alerts, or what a log is made of. See the [module](self) for what all fields have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Alert {
    /// Seconds since 1970.
    pub timestamp: u64,
    /// The same with microseconds, RFC 3339, UTC.
    pub updated_time: String,
    /// As configured.
    pub cluster_name: String,
    /// The node.
    pub host_name: String,
    /// Namespace of the pod; `unknown` for a container that the daemon does not know.
    pub namespace_name: String,
    /// The pod; `unknown` likewise.
    pub pod_name: String,
    /// Labels of the pod, `key=value` with commas.
    pub labels: String,
    /// The runtime's id; `unknown` where even the kernel side cannot tell.
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    /// Name in the pod; `unknown` likewise.
    pub container_name: String,
    /// Name of the image.
    pub container_image: String,
    /// Parent of the acting process, in the host's pid namespace.
    #[serde(rename = "HostPPID")]
    pub host_ppid: u32,
    /// The acting process, in the host's pid namespace.
    #[serde(rename = "HostPID")]
    pub host_pid: u32,
    /// Parent of the acting process, in the container's pid namespace.
    #[serde(rename = "PPID")]
    pub ppid: u32,
    /// The acting process, in the container's pid namespace.
    #[serde(rename = "PID")]
    pub pid: u32,
    /// The acting user, as the host numbers it; where that is not known it is written -1, never as root's number.
    #[serde(rename = "UID", serialize_with = "written_uid")]
    pub uid: Option<u32>,
    /// Executable of the parent of `ProcessName`: for executions the one that calls `execve`, else that of the parent process,
    /// if it still lives when this is written.
    pub parent_process_name: String,
    /// The executable that acts, or is to be executed.
    pub process_name: String,
    /// The policy; `DefaultPosture`, or `Unresolved` for what could not be matched to the end and no rule stands for.
    pub policy_name: String,
    /// Namespace of the policy.
    pub policy_namespace: String,
    /// The rule in the policy, such as `spec.file.matchPaths[0]`.
    pub rule: String,
    /// 1 to 10, as text.
    pub severity: String,
    /// Tags of the rule, with commas.
    pub tags: String,
    /// Tags of the rule.
    #[serde(rename = "ATags")]
    pub a_tags: Vec<String>,
    /// Message of the rule.
    pub message: String,
    /// `MatchedPolicy`, `MatchedHostPolicy` for a process of the host, or `SystemEvent` for what the daemon itself has to say;
    /// of a log `ContainerLog`.
    #[serde(rename = "Type")]
    pub kind: &'static str,
    /// The acting executable.
    pub source: String,
    /// `File`, `Process`, `Network`, `Capabilities` or `Syscall`; of a preset, `File` or `Process`.
    pub operation: &'static str,
    /// What is accessed: a path, or a socket (`domain=AF_INET type=SOCK_STREAM protocol=TCP ip=10.0.0.1 port=443`), a
    /// capability (`CAP_NET_RAW`), a system call (`unlink`).
    pub resource: String,
    /// `key=value` with spaces: the operation, the names of the task and its parent, `preset` and `syscall` where one is
    /// concerned, the ruleset, `path=truncated` where `Resource` is only the beginning of a path, and `written` with
    /// the policy's name for it where that is another one, which a link leads from.
    pub data: String,
    /// What enforces.
    pub enforcer: &'static str,
    /// `Block` or `Audit`.
    pub action: &'static str,
    /// `Permission denied` or `Passed`.
    pub result: &'static str,
    /// The working directory of the acting process when this is written, if it still lives then.
    pub cwd: String,
    /// Its terminal, as the kernel calls it (`pts0`); likewise.
    #[serde(rename = "TTY")]
    pub tty: String,
    /// What the pod belongs to.
    pub owner: Owner,
    /// How many alerts this is: more than one where it is a summary, which tells the last of them.
    pub count: u64,
    /// Of a summary, `UpdatedTime` of the first; else empty.
    pub first_time: String,
    /// Of a summary, `UpdatedTime` of the last; else empty.
    pub last_time: String,
}

/// Writes alerts for one node.
#[derive(Debug, Clone)]
pub struct Alerts {
    /// Name of the cluster.
    pub cluster_name: String,
    /// Name of the node.
    pub host_name: String,
}

impl Alerts {
    /// The alert of an event that happened at `time`.
    #[must_use]
    pub fn event(&self, event: &Event, registry: &Registry, time: SystemTime) -> Alert {
        let container = event.container.as_ref().and_then(|id| registry.container(id));
        let ruleset = event.ruleset.as_ref().and_then(|digest| registry.ruleset(digest));
        let mut alert = self.blank(time);
        match container {
            Some(container) => alert.about(&container),
            None => {
                alert.container_id = event.container.as_ref().map_or(UNKNOWN.into(), ToString::to_string);
                for name in [&mut alert.namespace_name, &mut alert.pod_name, &mut alert.container_name] {
                    *name = UNKNOWN.into();
                }
            }
        }
        let of_host = event.container.as_ref().is_some_and(ContainerId::is_host);
        let observed = event.is_observation();
        alert.kind = match (observed, of_host) {
            (false, false) => alert.kind,
            (false, true) => HOST_EVENT,
            (true, _) => CONTAINER_LOG, // the host has no visibility
        };
        let by = match event.by {
            EventBy::Unresolved(_) => event.strongest.unwrap_or(event.by),
            by => by,
        };
        match by {
            EventBy::Rule(id) => match ruleset.as_ref().and_then(|ruleset| ruleset.origin(id)) {
                Some(origin) => alert.decided_by(origin),
                None => {
                    alert.policy_name = UNKNOWN.into();
                    alert.message = "decided by a ruleset that this daemon does not know".into();
                }
            },
            EventBy::DefaultPosture => {
                alert.policy_name = DEFAULT_POSTURE.into();
                alert.message = "no rule matches".into();
            }
            EventBy::Unresolved(_) => alert.policy_name = "Unresolved".into(),
            EventBy::Observed => {} // by nobody
            _ => {
                alert.policy_name = UNKNOWN.into();
                alert.message = "decided in a way that this version cannot tell".into();
            }
        }
        if let EventBy::Unresolved(reason) = event.by {
            if !alert.message.is_empty() {
                alert.message.push_str("; ");
            }
            alert.message.push_str("could not be matched against the rules: ");
            alert.message.push_str(reason.as_str());
        }
        let source = escape(&event.source);
        alert.resource = escape(&event.path);
        match event.class {
            Class::Process => {
                alert.operation = "Process";
                alert.process_name.clone_from(&alert.resource);
                alert.parent_process_name.clone_from(&source);
            }
            Class::File => {
                alert.operation = "File";
                alert.process_name.clone_from(&source);
            }
            Class::Network => alert.operation = "Network",
            Class::Capability => alert.operation = "Capabilities",
            Class::Syscall => alert.operation = "Syscall",
            Class::Preset => match event.detail {
                Detail::Preset(Preset::ProtectProc | Preset::ProtectEnv) => {
                    alert.operation = "File";
                    alert.process_name.clone_from(&source);
                }
                _ => {
                    alert.operation = "Process";
                    alert.process_name.clone_from(&alert.resource);
                    alert.parent_process_name.clone_from(&source);
                }
            },
        }
        if !matches!(event.class, Class::Process | Class::File | Class::Preset) {
            alert.process_name.clone_from(&source);
            alert.resource = event.detail.to_string();
        }
        alert.source = source;
        (alert.action, alert.result) = match event.verdict {
            Verdict::Block => ("Block", "Permission denied"),
            Verdict::Audit | Verdict::Allow => ("Audit", "Passed"),
        };
        if observed {
            (alert.action, alert.enforcer) = ("", "");
        }
        // quoted, since a process chooses its own name
        alert.data = format!("op={} comm={:?} parent={:?}", event.op.as_str(), event.comm, event.parent_comm);
        match event.detail {
            Detail::Preset(preset) => {
                let _infallible = write!(alert.data, " preset={preset}");
            }
            Detail::Syscall(call) => {
                let _infallible = write!(alert.data, " syscall=SYS_{}", call.name().to_ascii_uppercase());
                if call.compat {
                    alert.data.push_str(" abi=32-bit");
                }
            }
            _ => {}
        }
        if event.path_truncated {
            alert.data.push_str(" path=truncated");
        }
        if let Some(unseen) = event.args {
            let _infallible = write!(alert.data, " args={}", unseen.as_str());
        }
        if let EventBy::Rule(id) = event.by
            && let Some(link) = ruleset.as_ref().and_then(|ruleset| ruleset.written_as(id, &event.path))
        {
            let _infallible = write!(alert.data, " written={:?}", escape(link.path.as_bytes()));
        }
        if let Some(digest) = event.ruleset {
            let _infallible = write!(alert.data, " ruleset={digest}");
        }
        (alert.host_pid, alert.host_ppid) = (event.host_pid, event.host_ppid);
        (alert.pid, alert.ppid, alert.uid) = (event.pid, event.ppid, Some(event.uid));
        alert
    }

    /// The alert of something that the daemon noticed.
    #[must_use]
    pub fn notice(&self, notice: &Notice, now: SystemTime) -> Alert {
        let mut alert = self.blank(now);
        (alert.kind, alert.operation, alert.action, alert.result) =
            (SYSTEM_EVENT, "Process", "Audit", "Passed");
        match notice {
            Notice::Late { container, ruleset } => {
                alert.about(container);
                alert.message = format!(
                    "the container ran unprotected until now: {} in force from now on, what its processes did before \
                     was not judged",
                    name_policies(ruleset)
                );
                alert.data = "notice=late".into();
            }
            Notice::Open(start) => {
                for (name, told) in [
                    (&mut alert.namespace_name, &start.namespace),
                    (&mut alert.pod_name, &start.pod),
                    (&mut alert.container_name, &start.container),
                    (&mut alert.container_id, &start.id),
                ] {
                    *name = if told.is_empty() { UNKNOWN.into() } else { told.clone() };
                }
                let more = match start.more {
                    0 => String::new(),
                    more => format!("; it is the last of {more} that had no room for records of their own"),
                };
                let when = humantime::format_rfc3339_millis(start.time());
                alert.message = format!(
                    "at {when} the OCI hook let the container start, since its mode is open: {}{more}",
                    start.reason
                );
                alert.data = "notice=open".into();
                if start.more > 0 {
                    (alert.count, alert.data) = (start.more, format!("notice=open count={}", start.more));
                }
            }
            Notice::Unprotected { container, ruleset, reason } => {
                alert.about(container);
                alert.message = format!(
                    "the container runs unprotected: {} not in force: {reason}",
                    name_policies(ruleset)
                );
                alert.data = "notice=unprotected".into();
            }
            Notice::WithoutHook { container, reason } => {
                alert.about(container);
                alert.message = format!("the container is created without the OCI hook: {reason}");
                alert.data = "notice=without-hook".into();
            }
            Notice::SeccompPending { container, policies } => {
                alert.about(container);
                (alert.operation, alert.enforcer) = ("Syscall", "Seccomp");
                alert.message = format!(
                    "pending restart: the container keeps the seccomp profile that it was started with; selected \
                     now by {policies}"
                );
                alert.data = "notice=seccomp-pending-restart".into();
            }
            Notice::SeccompNotApplied { container, policies, advice } => {
                alert.about(container);
                (alert.operation, alert.enforcer) = ("Syscall", "Seccomp");
                alert.message = format!(
                    "the container starts without the seccomp profile of its policies: {policies}: {advice}"
                );
                alert.data = "notice=seccomp-not-applied".into();
            }
        }
        alert
    }

    /// The alert that says how many alerts, or logs, there are not.
    #[must_use]
    pub fn dropped(&self, count: u64, what: &str, now: SystemTime) -> Alert {
        let mut alert = self.blank(now);
        (alert.kind, alert.operation, alert.action, alert.result) =
            (SYSTEM_EVENT, "AlertThreshold", "Audit", "Passed");
        alert.message = format!("{count} {what} were dropped, since they could not be written fast enough");
        alert.data = format!("notice=dropped count={count}");
        alert
    }

    /// The alert of a change of the policies that was reverted, or could not be.
    #[must_use]
    pub fn change(&self, news: News<'_>, now: SystemTime) -> Alert {
        let mut alert = self.blank(now);
        (alert.kind, alert.operation, alert.action, alert.result) =
            (SYSTEM_EVENT, "Process", "Audit", "Passed");
        (alert.message, alert.data) = match news {
            News::Reverted(files, why) => (
                format!("a change of the policies was reverted: {why}: {}", list(files)),
                "notice=reverted".into(),
            ),
            News::NotReverted(why) => (
                format!("a change of the policies that was not confirmed cannot be reverted: {why}"),
                "notice=not-reverted".into(),
            ),
        };
        alert
    }

    /// The alert that says for how many events the kernel's ring buffer had no room: whose they were is not known.
    #[must_use]
    pub fn ring_full(&self, count: u64, now: SystemTime) -> Alert {
        let message = format!(
            "{count} accesses have no alert, or no log where they are to be seen, since the kernel's ring buffer was full; \
             policies held all the same"
        );
        Alert {
            message,
            data: format!("notice=ring-full count={count}"),
            ..self.dropped(count, "alerts", now)
        }
    }

    /// The alert that says to a subscriber of the feed how many it did not get; `most`: so many at most, since some of
    /// them would not have been for it.
    #[must_use]
    pub fn too_slow(&self, count: u64, what: &str, most: bool, now: SystemTime) -> Alert {
        let most = if most { "up to " } else { "" };
        let message =
            format!("{most}{count} {what} are missing here, since this subscriber was too slow for them");
        Alert { message, ..self.dropped(count, what, now) }
    }

    fn blank(&self, time: SystemTime) -> Alert {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Alert {
            timestamp: since.as_secs(),
            updated_time: humantime::format_rfc3339_micros(time).to_string(),
            cluster_name: self.cluster_name.clone(),
            host_name: self.host_name.clone(),
            kind: "MatchedPolicy",
            enforcer: "BPFLSM",
            count: 1,
            ..Alert::default()
        }
    }
}

impl Alert {
    fn about(&mut self, container: &Container) {
        let subject = &container.subject;
        if subject.host {
            return; // it is in no container, and `HostName` says where it is
        }
        self.namespace_name.clone_from(&subject.namespace);
        self.pod_name.clone_from(&subject.pod);
        self.container_name.clone_from(&subject.container);
        self.container_image.clone_from(&container.image);
        self.container_id = container.id.to_string();
        let labels: Vec<String> =
            subject.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.labels = labels.join(",");
        self.owner = Owner::of(subject);
    }

    /// Whether it is a log, and no alert.
    #[must_use]
    pub fn is_log(&self) -> bool {
        self.kind == CONTAINER_LOG
    }

    /// Makes it stand for so many, the last of which it is.
    pub fn summarize(&mut self, count: u64, first: String) {
        let last = &self.updated_time;
        let _infallible = write!(self.data, " count={count} first={first} last={last}");
        (self.count, self.first_time, self.last_time) = (count, first, last.clone());
    }

    fn decided_by(&mut self, origin: &Origin) {
        self.policy_name.clone_from(&origin.policy.name);
        self.policy_namespace.clone_from(&origin.policy.namespace);
        self.rule.clone_from(&origin.rule);
        self.severity = origin.severity.to_string();
        self.tags = origin.tags.join(",");
        self.a_tags.clone_from(&origin.tags);
        self.message.clone_from(&origin.message);
    }
}

/// A user id in JSON; -1, which is no user's, where it is not known.
///
/// # Errors
/// Those of the serializer.
pub fn written_uid<S: serde::Serializer>(uid: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(uid.map_or(-1, i64::from))
}

/// Bytes as text, without loss: see the [module](self).
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for part in chunk.valid().split_inclusive('\\') {
            text.push_str(part);
            if part.ends_with('\\') {
                text.push('\\');
            }
        }
        for byte in chunk.invalid() {
            let _infallible = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
pub(crate) mod tests;
