use super::*;
use std::sync::Arc;
use std::time::Duration;

use crate::container::Selection;
use crate::set::PolicySet;
use enforcer_core::capability::Capability;
use enforcer_core::enforce::ContainerId;
use enforcer_core::event::{Op, Socket, SyscallNumber, Unresolved};
use enforcer_core::policy::parse;
use enforcer_core::ruleset::{OriginId, Ruleset};
use enforcer_core::subject::Subject;
use enforcer_core::syscall::Syscall;

const POLICY: &str = "apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: no-passwd, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  severity: 7
  tags: [PCI, MITRE]
  message: no user list
  file: {matchPaths: [{path: /etc/passwd}]}
  process: {matchPaths: [{path: /bin/sh}]}
  action: Block
";

fn alerts() -> Alerts {
    Alerts { cluster_name: "lab".into(), host_name: "node-1".into() }
}

fn container() -> Arc<Container> {
    let labels =
        [("app", "web"), ("tier", "front")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let (namespace, pod, container) = ("shop".into(), "web-1".into(), "main".into());
    let subject = Subject { namespace, pod, labels, container, ..Subject::default() };
    Arc::new(Container {
        id: ContainerId::new("c1").unwrap(),
        subject,
        pod_uid: String::new(),
        image: "example.com/web:1".into(),
        wish: Default::default(),
    })
}

/// A registry that knows the container, and its ruleset.
fn registry() -> (Registry, Arc<Ruleset>) {
    let parsed = parse("p.yaml", POLICY);
    assert_eq!(parsed.errors, []);
    let set = PolicySet::new(parsed.policies.into_iter().map(Arc::new).collect());
    let container = container();
    let resolved = Selection::default().resolve(&set, &container.subject, Default::default()).unwrap();
    let ruleset = Arc::clone(&resolved.ruleset);
    let registry = Registry::default();
    registry.add(Arc::clone(&container));
    registry.assign(&container.id, Some(Arc::clone(&ruleset)));
    (registry, ruleset)
}

fn event(ruleset: &Ruleset, rule: &str) -> Event {
    let id = ruleset.origins().iter().position(|origin| origin.rule == rule).unwrap();
    Event {
        container: Some(ContainerId::new("c1").unwrap()),
        ruleset: Some(ruleset.digest()),
        class: Class::File,
        op: Op::OpenRead,
        verdict: Verdict::Block,
        by: EventBy::Rule(OriginId(u32::try_from(id).unwrap())),
        strongest: None,
        detail: Detail::Path,
        text: vec![],
        path: b"/etc/passwd".to_vec(),
        source: b"/bin/cat".to_vec(),
        host_pid: 4242,
        host_ppid: 4200,
        pid: 12,
        ppid: 1,
        uid: 1000,
        comm: "cat".into(),
        parent_comm: "sh".into(),
        path_truncated: false,
        writes: false,
        args: None,
        host_tid: 1,
        time_ns: 5,
    }
}

/// Reading `/etc/passwd`, which is only seen.
pub(crate) fn observed() -> Event {
    let (_, ruleset) = registry();
    Event { verdict: Verdict::Audit, by: EventBy::Observed, ..event(&ruleset, "spec.file.matchPaths[0]") }
}

/// 2026-11-22T17:42:36.000001Z
fn time() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_369_356_000_001)
}

#[test]
fn what_is_only_to_be_seen_is_a_log_without_a_policy() {
    let (registry, ruleset) = registry();
    let seen = Event {
        verdict: Verdict::Audit,
        by: EventBy::Observed,
        ..event(&ruleset, "spec.file.matchPaths[0]")
    };
    let log = alerts().event(&seen, &registry, time());
    assert!(
        log.is_log() && log.kind == "ContainerLog" && log.policy_name.is_empty() && log.message.is_empty()
    );
    let line = serde_json::to_value(crate::observe::log::Line::of(&log).unwrap()).unwrap();
    assert_eq!((&line["Type"], &line["Result"]), (&"ContainerLog".into(), &"Passed".into()));
    assert_eq!((&line["Resource"], &line["PodName"]), (&"/etc/passwd".into(), &"web-1".into()));
    let fields = line.as_object().unwrap();
    assert!(["PolicyName", "Action", "Enforcer", "Severity"].iter().all(|name| !fields.contains_key(*name)));
    let unresolved =
        Event { by: EventBy::Unresolved(Unresolved::TooDeep), strongest: Some(EventBy::Observed), ..seen };
    let log = alerts().event(&unresolved, &registry, time());
    assert!(log.is_log() && log.message.starts_with("could not be matched"), "{log:?}");
    let alert = alerts().event(&event(&ruleset, "spec.file.matchPaths[0]"), &registry, time());
    assert!(!alert.is_log() && crate::observe::log::Line::of(&alert).is_none());
}

#[test]
fn a_denied_file_access_field_by_field() {
    let (registry, ruleset) = registry();
    let alert = alerts().event(&event(&ruleset, "spec.file.matchPaths[0]"), &registry, time());
    let golden = format!(
        concat!(
            r#"{{"Timestamp":1795369356,"UpdatedTime":"2026-11-22T17:42:36.000001Z","ClusterName":"lab","#,
            r#""HostName":"node-1","NamespaceName":"shop","PodName":"web-1","Labels":"app=web,tier=front","#,
            r#""ContainerID":"c1","ContainerName":"main","ContainerImage":"example.com/web:1","HostPPID":4200,"#,
            r#""HostPID":4242,"PPID":1,"PID":12,"UID":1000,"ParentProcessName":"","ProcessName":"/bin/cat","#,
            r#""PolicyName":"no-passwd","PolicyNamespace":"shop","Rule":"spec.file.matchPaths[0]","Severity":"7","#,
            r#""Tags":"PCI,MITRE","ATags":["PCI","MITRE"],"Message":"no user list","Type":"MatchedPolicy","#,
            r#""Source":"/bin/cat","Operation":"File","Resource":"/etc/passwd","#,
            r#""Data":"op=open-read comm=\"cat\" parent=\"sh\" ruleset={digest}","Enforcer":"BPFLSM","Action":"Block","#,
            r#""Result":"Permission denied","Cwd":"","TTY":"","#,
            r#""Owner":{{"Ref":"","Name":"","Namespace":""}},"Count":1,"FirstTime":"","LastTime":""}}"#
        ),
        digest = ruleset.digest()
    );
    assert_eq!(serde_json::to_string(&alert).unwrap(), golden);
}

#[test]
fn the_owner_of_the_pod_is_told() {
    let (registry, ruleset) = registry();
    let mut container = Container::clone(&container());
    container.subject.pod = "web-6b7f-abcde".into();
    container.subject.labels.insert("pod-template-hash".into(), "6b7f".into());
    registry.add(Arc::new(container));
    let alert = alerts().event(&event(&ruleset, "spec.file.matchPaths[0]"), &registry, time());
    assert_eq!(
        serde_json::to_value(&alert).unwrap()["Owner"],
        serde_json::json!({"Ref": "Deployment", "Name": "web", "Namespace": "shop"})
    );
}

#[test]
fn an_execution_names_who_executes_and_what() {
    let (registry, ruleset) = registry();
    let event = Event {
        class: Class::Process,
        op: Op::Exec,
        verdict: Verdict::Audit,
        path: b"/bin/sh".to_vec(),
        ..event(&ruleset, "spec.process.matchPaths[0]")
    };
    let alert = alerts().event(&event, &registry, time());
    assert_eq!((alert.operation, alert.action, alert.result), ("Process", "Audit", "Passed"));
    assert_eq!((&*alert.process_name, &*alert.parent_process_name), ("/bin/sh", "/bin/cat"));
    assert_eq!((&*alert.resource, &*alert.source), ("/bin/sh", "/bin/cat"));
    assert_eq!(alert.rule, "spec.process.matchPaths[0]");
}

#[test]
fn what_has_no_path_is_named_by_what_it_is() {
    let (registry, ruleset) = registry();
    let event = Event { path: vec![], ..event(&ruleset, "spec.file.matchPaths[0]") };
    let alert = |class, op, detail, path: &[u8]| {
        let event = Event { class, op, detail, path: path.to_vec(), ..event.clone() };
        alerts().event(&event, &registry, time())
    };
    let address = Some(("10.0.0.1".parse().unwrap(), 443));
    let socket = Detail::Socket(Socket { family: 2, kind: 1, protocol: 6, address });
    let network = alert(Class::Network, Op::SocketConnect, socket, b"");
    assert_eq!((network.operation, &*network.process_name), ("Network", "/bin/cat"));
    assert_eq!(network.resource, "domain=AF_INET type=SOCK_STREAM protocol=TCP ip=10.0.0.1 port=443");
    assert!(network.data.starts_with("op=connect "), "{}", network.data);
    assert_eq!((&*network.policy_name, &*network.rule), ("no-passwd", "spec.file.matchPaths[0]"));
    let detail = Detail::Capability(Capability::by_name("net_raw"), 13);
    let capability = alert(Class::Capability, Op::Capable, detail, b"");
    assert_eq!((capability.operation, &*capability.resource), ("Capabilities", "CAP_NET_RAW"));
    let number = Syscall::by_name("openat").and_then(Syscall::number).unwrap();
    let detail = Detail::Syscall(SyscallNumber { number, compat: false });
    let syscall = alert(Class::Syscall, Op::Syscall, detail, b"");
    assert_eq!((syscall.operation, &*syscall.resource), ("Syscall", "openat"));
    assert!(syscall.data.contains(" syscall=SYS_OPENAT ruleset="), "{}", syscall.data);
    let detail = Detail::Syscall(SyscallNumber { number, compat: true });
    let syscall = alert(Class::Syscall, Op::Syscall, detail, b"");
    assert_eq!(&*syscall.resource, "openat");
    assert!(syscall.data.contains(" syscall=SYS_OPENAT abi=32-bit ruleset="), "{}", syscall.data);
    let fileless = alert(Class::Preset, Op::Exec, Detail::Preset(Preset::FilelessExec), b"/dev/shm/x");
    assert_eq!(
        (fileless.operation, &*fileless.process_name, &*fileless.parent_process_name),
        ("Process", "/dev/shm/x", "/bin/cat")
    );
    assert!(fileless.data.contains(" preset=filelessExec"), "{}", fileless.data);
    let proc = alert(Class::Preset, Op::OpenRead, Detail::Preset(Preset::ProtectEnv), b"/proc/1/environ");
    assert_eq!((proc.operation, &*proc.resource), ("File", "/proc/1/environ"));
}

#[test]
fn the_posture_and_the_unresolved_are_named_as_such() {
    let (registry, ruleset) = registry();
    let event = event(&ruleset, "spec.file.matchPaths[0]");
    let alert = alerts().event(&Event { by: EventBy::DefaultPosture, ..event.clone() }, &registry, time());
    assert_eq!((&*alert.policy_name, &*alert.rule, &*alert.severity), ("DefaultPosture", "", ""));
    let deep = Event { by: EventBy::Unresolved(Unresolved::TooDeep), ..event.clone() };
    let alert = alerts().event(&deep, &registry, time());
    assert_eq!(alert.policy_name, "Unresolved");
    assert!(alert.message.contains("too many components"), "{}", alert.message);
    let alert = alerts().event(&Event { strongest: Some(event.by), ..deep }, &registry, time());
    assert_eq!((&*alert.policy_name, &*alert.rule), ("no-passwd", "spec.file.matchPaths[0]"));
    assert!(alert.message.starts_with("no user list; could not be"), "{}", alert.message);
}

#[test]
fn what_is_not_known_is_said_to_be_unknown() {
    let (registry, ruleset) = registry();
    let event = event(&ruleset, "spec.file.matchPaths[0]");
    let stranger = Event { container: Some(ContainerId::new("c9").unwrap()), ..event.clone() };
    let alert = alerts().event(&stranger, &registry, time());
    assert_eq!(
        (&*alert.container_id, &*alert.container_name, &*alert.namespace_name),
        ("c9", "unknown", "unknown")
    );
    assert_eq!(alert.policy_name, "no-passwd", "the ruleset is known all the same");
    let nobody = Event { container: None, ruleset: None, ..event.clone() };
    let alert = alerts().event(&nobody, &registry, time());
    assert_eq!((&*alert.container_id, &*alert.policy_name), ("unknown", "unknown"));
    let other = Ruleset::resolve([], &Default::default(), &Subject::default()).ruleset.digest();
    let alert = alerts().event(&Event { ruleset: Some(other), ..event }, &registry, time());
    assert_eq!(alert.policy_name, "unknown", "an id means nothing in another ruleset");
}

#[test]
fn a_container_that_just_ended_is_still_named() {
    let (registry, ruleset) = registry();
    registry.end(&container().id);
    let alert = alerts().event(&event(&ruleset, "spec.file.matchPaths[0]"), &registry, time());
    assert_eq!((&*alert.pod_name, &*alert.policy_name), ("web-1", "no-passwd"));
}

#[test]
fn a_late_container_is_an_alert_that_names_the_policies() {
    let (_, ruleset) = registry();
    let alert = alerts().notice(&Notice::Late { container: container(), ruleset }, time());
    assert_eq!((alert.kind, &*alert.data, &*alert.pod_name), ("SystemEvent", "notice=late", "web-1"));
    assert!(alert.message.contains("policy `shop/no-passwd`"), "{}", alert.message);
}

#[test]
fn escaping_loses_nothing() {
    for (bytes, text) in [
        (&b"/a/b"[..], "/a/b"),
        ("/\u{e4}\u{1f600}".as_bytes(), "/\u{e4}\u{1f600}"),
        (b"/\xff\xfe", r"/\xff\xfe"),
        (br"/\xff", r"/\\xff"),
        (b"/\xc3", r"/\xc3"),
        (b"\\\\", r"\\\\"),
        (b"/a\nb", "/a\nb"),
    ] {
        assert_eq!(escape(bytes), text);
    }
}
