//! The messages of `proto/feeder.proto`, as far as the daemon fills them in; a client takes absent fields for empty ones.
//! That the numbers are those of the file is tested with a client that is generated from it.

use std::collections::BTreeMap;

use prost::Message as Prost;

use crate::alert;

/// `NonceMessage`
#[derive(Clone, PartialEq, Eq, Prost)]
pub struct NonceMessage {
    /// Any number.
    #[prost(int32, tag = "1")]
    pub nonce: i32,
}

/// `ReplyMessage`
#[derive(Clone, PartialEq, Eq, Prost)]
pub struct ReplyMessage {
    /// The number of the question.
    #[prost(int32, tag = "1")]
    pub retval: i32,
}

/// `RequestMessage`
#[derive(Clone, PartialEq, Eq, Prost)]
pub struct RequestMessage {
    /// `policy`, `system` or `all`.
    #[prost(string, tag = "1")]
    pub filter: String,
}

/// `Message`
#[derive(Clone, PartialEq, Eq, Prost)]
pub struct Message {
    /// Seconds since 1970.
    #[prost(int64, tag = "1")]
    pub timestamp: i64,
    /// The same with microseconds, RFC 3339.
    #[prost(string, tag = "2")]
    pub updated_time: String,
    /// As configured.
    #[prost(string, tag = "3")]
    pub cluster_name: String,
    /// The node.
    #[prost(string, tag = "4")]
    pub host_name: String,
    /// `SystemEvent`
    #[prost(string, tag = "6")]
    pub kind: String,
    /// `WARN`
    #[prost(string, tag = "7")]
    pub level: String,
    /// What happened, and to which container.
    #[prost(string, tag = "8")]
    pub message: String,
}

/// `Podowner`
#[derive(Clone, PartialEq, Eq, Prost)]
pub struct Podowner {
    /// The kind.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
}

/// `Log`: the fields of [`alert::Alert`] that it has, too.
#[expect(missing_docs, reason = "they are told there")]
#[derive(Clone, PartialEq, Eq, Prost)]
pub struct Log {
    #[prost(int64, tag = "1")]
    pub timestamp: i64,
    #[prost(string, tag = "2")]
    pub updated_time: String,
    #[prost(string, tag = "3")]
    pub cluster_name: String,
    #[prost(string, tag = "4")]
    pub host_name: String,
    #[prost(string, tag = "5")]
    pub namespace_name: String,
    #[prost(string, tag = "6")]
    pub pod_name: String,
    #[prost(string, tag = "7")]
    pub container_id: String,
    #[prost(string, tag = "8")]
    pub container_name: String,
    #[prost(int32, tag = "9")]
    pub host_pid: i32,
    #[prost(int32, tag = "10")]
    pub ppid: i32,
    #[prost(int32, tag = "11")]
    pub pid: i32,
    #[prost(int32, tag = "12")]
    pub uid: i32,
    #[prost(string, tag = "13")]
    pub kind: String,
    #[prost(string, tag = "14")]
    pub source: String,
    #[prost(string, tag = "15")]
    pub operation: String,
    #[prost(string, tag = "16")]
    pub resource: String,
    #[prost(string, tag = "17")]
    pub data: String,
    #[prost(string, tag = "18")]
    pub result: String,
    #[prost(string, tag = "19")]
    pub container_image: String,
    #[prost(string, tag = "20")]
    pub parent_process_name: String,
    #[prost(string, tag = "21")]
    pub process_name: String,
    #[prost(int32, tag = "22")]
    pub host_ppid: i32,
    #[prost(string, tag = "23")]
    pub labels: String,
    #[prost(message, optional, tag = "24")]
    pub owner: Option<Podowner>,
    #[prost(string, tag = "25")]
    pub cwd: String,
    #[prost(string, tag = "26")]
    pub tty: String,
    #[prost(btree_map = "string, string", tag = "33")]
    pub event_data: BTreeMap<String, String>,
}

impl From<&alert::Alert> for Log {
    fn from(log: &alert::Alert) -> Self {
        // of what tells how many are missing; other logs say nothing here
        let message = (!log.is_log()).then(|| ("Message".to_owned(), log.message.clone()));
        let Alert {
            timestamp,
            updated_time,
            cluster_name,
            host_name,
            namespace_name,
            pod_name,
            container_id,
            container_name,
            host_pid,
            ppid,
            pid,
            uid,
            kind,
            source,
            operation,
            resource,
            data,
            result,
            container_image,
            parent_process_name,
            process_name,
            host_ppid,
            labels,
            owner,
            cwd,
            tty,
            mut event_data,
            ..
        } = Alert::from(log);
        event_data.extend(message);
        Self {
            timestamp,
            updated_time,
            cluster_name,
            host_name,
            namespace_name,
            pod_name,
            container_id,
            container_name,
            host_pid,
            ppid,
            pid,
            uid,
            kind,
            source,
            operation,
            resource,
            data,
            result,
            container_image,
            parent_process_name,
            process_name,
            host_ppid,
            labels,
            owner,
            cwd,
            tty,
            event_data,
        }
    }
}

/// `Alert`: the fields of [`alert::Alert`].
#[expect(missing_docs, reason = "they are told there")]
#[derive(Clone, PartialEq, Eq, Prost)]
pub struct Alert {
    #[prost(int64, tag = "1")]
    pub timestamp: i64,
    #[prost(string, tag = "2")]
    pub updated_time: String,
    #[prost(string, tag = "3")]
    pub cluster_name: String,
    #[prost(string, tag = "4")]
    pub host_name: String,
    #[prost(string, tag = "5")]
    pub namespace_name: String,
    #[prost(string, tag = "6")]
    pub pod_name: String,
    #[prost(string, tag = "7")]
    pub container_id: String,
    #[prost(string, tag = "8")]
    pub container_name: String,
    #[prost(int32, tag = "9")]
    pub host_pid: i32,
    #[prost(int32, tag = "10")]
    pub ppid: i32,
    #[prost(int32, tag = "11")]
    pub pid: i32,
    #[prost(int32, tag = "12")]
    pub uid: i32,
    #[prost(string, tag = "13")]
    pub policy_name: String,
    #[prost(string, tag = "14")]
    pub severity: String,
    #[prost(string, tag = "15")]
    pub tags: String,
    #[prost(string, tag = "16")]
    pub message: String,
    #[prost(string, tag = "17")]
    pub kind: String,
    #[prost(string, tag = "18")]
    pub source: String,
    #[prost(string, tag = "19")]
    pub operation: String,
    #[prost(string, tag = "20")]
    pub resource: String,
    #[prost(string, tag = "21")]
    pub data: String,
    #[prost(string, tag = "22")]
    pub action: String,
    #[prost(string, tag = "23")]
    pub result: String,
    #[prost(string, tag = "24")]
    pub container_image: String,
    #[prost(string, tag = "25")]
    pub parent_process_name: String,
    #[prost(string, tag = "26")]
    pub process_name: String,
    #[prost(int32, tag = "27")]
    pub host_ppid: i32,
    #[prost(string, tag = "28")]
    pub enforcer: String,
    #[prost(string, tag = "29")]
    pub labels: String,
    #[prost(string, repeated, tag = "30")]
    pub a_tags: Vec<String>,
    #[prost(message, optional, tag = "31")]
    pub owner: Option<Podowner>,
    #[prost(string, tag = "32")]
    pub cwd: String,
    #[prost(string, tag = "33")]
    pub tty: String,
    #[prost(btree_map = "string, string", tag = "43")]
    pub event_data: BTreeMap<String, String>,
}

impl From<&alert::Alert> for Alert {
    fn from(alert: &alert::Alert) -> Self {
        let alert = alert.clone();
        let mut data = BTreeMap::new();
        let mut tell = |key: &str, value: String| {
            if !value.is_empty() {
                data.insert(key.to_owned(), value);
            }
        };
        tell("PolicyNamespace", alert.policy_namespace);
        tell("Rule", alert.rule);
        if alert.count > 1 {
            tell("Count", alert.count.to_string());
            tell("FirstTime", alert.first_time);
            tell("LastTime", alert.last_time);
        }
        let alert::owner::Owner { kind, name, namespace } = alert.owner;
        let owner = (!kind.is_empty()).then(|| Podowner { kind: kind.into(), name, namespace });
        Self {
            timestamp: seconds(alert.timestamp),
            updated_time: alert.updated_time,
            cluster_name: alert.cluster_name,
            host_name: alert.host_name,
            namespace_name: alert.namespace_name,
            pod_name: alert.pod_name,
            container_id: alert.container_id,
            container_name: alert.container_name,
            host_pid: alert.host_pid.cast_signed(),
            ppid: alert.ppid.cast_signed(),
            pid: alert.pid.cast_signed(),
            uid: alert.uid.map_or(-1, u32::cast_signed), // KubeArmor's field has a sign, too
            policy_name: alert.policy_name,
            severity: alert.severity,
            tags: alert.tags,
            message: alert.message,
            kind: alert.kind.into(),
            source: alert.source,
            operation: alert.operation.into(),
            resource: alert.resource,
            data: alert.data,
            action: alert.action.into(),
            result: alert.result.into(),
            container_image: alert.container_image,
            parent_process_name: alert.parent_process_name,
            process_name: alert.process_name,
            host_ppid: alert.host_ppid.cast_signed(),
            enforcer: alert.enforcer.into(),
            labels: alert.labels,
            a_tags: alert.a_tags,
            owner,
            cwd: alert.cwd,
            tty: alert.tty,
            event_data: data,
        }
    }
}

impl Message {
    /// What an alert says that comes from the daemon itself; `None` for one about an access.
    #[must_use]
    pub fn of(alert: &alert::Alert) -> Option<Self> {
        if alert.kind != alert::SYSTEM_EVENT {
            return None;
        }
        let names = [&alert.namespace_name, &alert.pod_name, &alert.container_name];
        let about = match names.iter().all(|name| name.is_empty()) {
            true => String::new(),
            false => format!("{}: ", names.map(String::as_str).join("/")),
        };
        Some(Self {
            timestamp: seconds(alert.timestamp),
            updated_time: alert.updated_time.clone(),
            cluster_name: alert.cluster_name.clone(),
            host_name: alert.host_name.clone(),
            kind: alert.kind.into(),
            level: "WARN".into(),
            message: format!("{about}{}", alert.message),
        })
    }
}

fn seconds(since_1970: u64) -> i64 {
    i64::try_from(since_1970).unwrap_or(i64::MAX)
}
