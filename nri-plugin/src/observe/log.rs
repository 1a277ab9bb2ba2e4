//! A log as a line of JSON: the fields of an [`Alert`] that KubeArmor's logs have, too.

use serde::Serialize;

use crate::alert::owner::Owner;
use crate::alert::{Alert, written_uid};

/// The type of a log about a container.
pub const CONTAINER_LOG: &str = "ContainerLog";

/// One line of the logs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Line<'a> {
    timestamp: u64,
    updated_time: &'a str,
    cluster_name: &'a str,
    host_name: &'a str,
    namespace_name: &'a str,
    pod_name: &'a str,
    labels: &'a str,
    #[serde(rename = "ContainerID")]
    container_id: &'a str,
    container_name: &'a str,
    container_image: &'a str,
    #[serde(rename = "HostPPID")]
    host_ppid: u32,
    #[serde(rename = "HostPID")]
    host_pid: u32,
    #[serde(rename = "PPID")]
    ppid: u32,
    #[serde(rename = "PID")]
    pid: u32,
    #[serde(rename = "UID", serialize_with = "written_uid")]
    uid: Option<u32>,
    parent_process_name: &'a str,
    process_name: &'a str,
    #[serde(rename = "Type")]
    kind: &'a str,
    source: &'a str,
    operation: &'a str,
    resource: &'a str,
    data: &'a str,
    result: &'a str,
    cwd: &'a str,
    #[serde(rename = "TTY")]
    tty: &'a str,
    owner: &'a Owner,
    count: u64,
    first_time: &'a str,
    last_time: &'a str,
}

impl<'a> Line<'a> {
    /// The line of what is a log, and no alert.
    #[must_use]
    pub fn of(log: &'a Alert) -> Option<Self> {
        log.is_log().then_some(Self {
            timestamp: log.timestamp,
            updated_time: &log.updated_time,
            cluster_name: &log.cluster_name,
            host_name: &log.host_name,
            namespace_name: &log.namespace_name,
            pod_name: &log.pod_name,
            labels: &log.labels,
            container_id: &log.container_id,
            container_name: &log.container_name,
            container_image: &log.container_image,
            host_ppid: log.host_ppid,
            host_pid: log.host_pid,
            ppid: log.ppid,
            pid: log.pid,
            uid: log.uid,
            parent_process_name: &log.parent_process_name,
            process_name: &log.process_name,
            kind: log.kind,
            source: &log.source,
            operation: log.operation,
            resource: &log.resource,
            data: &log.data,
            result: log.result,
            cwd: &log.cwd,
            tty: &log.tty,
            owner: &log.owner,
            count: log.count,
            first_time: &log.first_time,
            last_time: &log.last_time,
        })
    }
}
