//! Alerts of what AppArmor and SELinux deny.

use std::fmt::Write as _;
use std::time::SystemTime;

use enforcer_core::audit::{By, Object};
use enforcer_core::decide::Verdict;
use enforcer_core::explain::DEFAULT_POSTURE;
use enforcer_core::ruleset::Class;

use super::{Alert, Alerts, HOST_EVENT, SYSTEM_EVENT, UNKNOWN, escape};
use crate::audit::{Found, Judged};

/// Where native rules stand in a policy.
const NATIVE_RULES: &str = "spec.apparmor";

impl Alerts {
    /// The alert of a denial that the kernel told by an audit record.
    #[must_use]
    pub fn denial(&self, judged: &Judged) -> Alert {
        let denial = &judged.denial;
        let mut alert = self.blank(denial.time);
        match &judged.container {
            Some(container) => {
                alert.about(container);
                if container.subject.host {
                    alert.kind = HOST_EVENT;
                    alert.container_id = container.id.to_string();
                }
            }
            None => {
                alert.container_id = UNKNOWN.into();
                alert.namespace_name = judged.namespace.clone().unwrap_or_else(|| UNKNOWN.into());
                for name in [&mut alert.pod_name, &mut alert.container_name] {
                    *name = UNKNOWN.into();
                }
            }
        }
        match &judged.found {
            Found::Rule(origin) => alert.decided_by(origin),
            Found::Posture => {
                alert.policy_name = DEFAULT_POSTURE.into();
                alert.message = "no rule matches".into();
            }
            Found::Native(policy) => {
                alert.policy_name.clone_from(&policy.name);
                alert.policy_namespace.clone_from(&policy.namespace);
                alert.rule = NATIVE_RULES.into();
            }
            Found::Unknown(why) => {
                alert.policy_name = UNKNOWN.into();
                alert.message = format!("by which rule is not known: {why}");
            }
        }
        alert.operation = match judged.class {
            Class::Process => "Process",
            Class::Network => "Network",
            Class::Capability => "Capabilities",
            Class::File | Class::Syscall | Class::Preset => "File",
        };
        alert.resource = match (&denial.object, &judged.path) {
            (_, Some(path)) => escape(path),
            (Object::Path(path), None) => escape(path),
            (Object::File { name, .. }, None) => escape(name),
            (Object::Capability(name), None) => format!("CAP_{}", name.to_ascii_uppercase()),
            (Object::Socket { family, kind, protocol }, None) => match &judged.socket {
                Some(socket) => socket.to_string(),
                None => format!("domain={family} type={kind} protocol={protocol}"),
            },
            (Object::Other(what), None) => escape(what.as_bytes()),
        };
        if let Some(source) = &judged.source {
            alert.source = escape(source.as_bytes());
        }
        let is_file = matches!(denial.object, Object::Path(_) | Object::File { .. });
        if judged.class == Class::Process && is_file {
            alert.process_name.clone_from(&alert.resource);
            alert.parent_process_name.clone_from(&alert.source);
        } else {
            alert.process_name.clone_from(&alert.source);
        }
        (alert.action, alert.result) = match denial.verdict {
            Verdict::Block => ("Block", "Permission denied"),
            Verdict::Audit | Verdict::Allow => ("Audit", "Passed"),
        };
        (alert.host_pid, alert.uid) = (denial.pid, denial.uid);
        let data = &mut alert.data;
        // quoted, since a process chooses its own name
        let _infallible = write!(data, "op={} comm={:?}", denial.operation, denial.comm);
        if !denial.permissions.is_empty() {
            let _infallible = write!(data, " permissions={:?}", denial.permissions);
        }
        match &denial.by {
            By::AppArmor(by) => {
                alert.enforcer = "AppArmor";
                let _infallible = write!(data, " profile={}", by.profile);
                if let Some(child) = &by.child {
                    let _infallible = write!(data, "//{}", child.escape_debug());
                }
                if !by.info.is_empty() {
                    let _infallible = write!(data, " info={:?}", by.info);
                }
            }
            By::Selinux(by) => {
                alert.enforcer = "SELinux";
                let _infallible = write!(data, " scontext={} tclass={}", by.source, by.class);
                if let (Object::File { inode: Some(inode), .. }, None) = (&denial.object, &judged.path) {
                    let _infallible = write!(data, " ino={inode} path=unknown");
                }
            }
        }
        if let Some(digest) = judged.ruleset {
            let _infallible = write!(data, " ruleset={digest}");
        }
        alert
    }

    /// The alert that says how many audit records were not read: whose they were is not known.
    #[must_use]
    pub fn audit_lost(&self, count: u64, now: SystemTime) -> Alert {
        let message = format!(
            "up to {count} denials by AppArmor or SELinux have no alert, since the kernel's audit records came faster than \
             they were read; policies held all the same"
        );
        Alert {
            message,
            data: format!("notice=audit-lost count={count}"),
            ..self.dropped(count, "alerts", now)
        }
    }

    /// The alert that says that what AppArmor or SELinux deny has no alerts, and why.
    #[must_use]
    pub fn audit_unheard(&self, why: &str, now: SystemTime) -> Alert {
        let mut alert = self.blank(now);
        (alert.kind, alert.operation, alert.action, alert.result) =
            (SYSTEM_EVENT, "Process", "Audit", "Passed");
        alert.message =
            format!("what AppArmor or SELinux deny has no alerts: {why}; policies hold all the same");
        alert.data = "notice=audit-unheard".into();
        alert
    }
}
