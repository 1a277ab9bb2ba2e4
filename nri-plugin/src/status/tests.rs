use std::path::Path;
use std::sync::Arc;

use enforcer_core::coverage::{Gap, GapReason};
use enforcer_core::policy::parse;
use tokio::sync::watch;

use super::document::{PolicyStatus, State};
use super::serve::{CALLERS, LONGEST, Status, Window};
use crate::connection::Connection;
use crate::container::{Container, Selection, Wish};
use crate::lock::Lock;
use crate::reconciler::tests::container;
use crate::registry::Registry;
use crate::seccomp::ledger::{Created, State as Profile};
use crate::set::PolicySet;

const FILES: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: files, namespace: n}\n\
    spec:\n  selector: {matchLabels: {app: web}}\n  file: {matchPaths: [{path: /x}]}\n  action: Block\n";
const CALLS: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\n\
    metadata: {name: calls, namespace: n}\nspec:\n  selector: {matchLabels: {app: web}}\n  syscalls: [mkdir]\n  action: Block\n";

/// Of a node that is connected and has taken over what runs there.
/// A connection to a runtime that stays so.
pub(crate) fn connection(state: nri::State, synced: bool) -> Connection {
    Connection::new(Some(watch::channel(state).1), watch::channel(synced).1)
}

pub(crate) fn status(
    selection: Selection,
    registry: &Arc<Registry>,
    policies: watch::Receiver<Arc<PolicySet>>,
    dir: &Path,
) -> Status {
    Status {
        seccomp: crate::seccomp::tests::seccomp(&selection, registry, dir),
        selection,
        policies,
        registry: Arc::clone(registry),
        connection: connection(nri::State::Synchronized(Arc::default()), true),
        strangers: Arc::default(),
        injection: Arc::default(),
        api: None,
        profiles: None,
        node_name: "node".into(),
        node: crate::host::Node::default(),
        host_exempt: Ok(Vec::new()),
        uncombined: None,
        changes: crate::apply::changes::Changes::nowhere(),
        unheard: crate::run::Unheard::default(),
    }
}

struct Node {
    registry: Arc<Registry>,
    status: Status,
    dir: tempfile::TempDir,
}

impl Node {
    fn new(text: &str, selection: Selection) -> Self {
        let parsed = parse("p.yaml", text);
        assert_eq!(parsed.errors, []);
        let set = PolicySet::new(parsed.policies.into_iter().map(Arc::new).collect())
            .with_seccomp(parsed.seccomp.into_iter().map(Arc::new).collect());
        let dir = tempfile::tempdir().unwrap();
        let registry = Arc::<Registry>::default();
        let seen = watch::channel(Arc::new(set)).1;
        let connection = connection(nri::State::Connecting { attempt: 1 }, true);
        let status = Status { connection, ..status(selection, &registry, seen, dir.path()) };
        Self { registry, status, dir }
    }

    fn add(&self, container: &Arc<Container>, created: Created) {
        self.registry.add(Arc::clone(container));
        self.registry.seccomp().put(Arc::clone(container), created);
    }

    fn state(&self) -> (State, String, usize) {
        let one = self.status.document().containers.remove(0);
        (one.state, one.reason, one.gaps)
    }

    fn arm(&self, container: &Container) {
        let set = Arc::clone(&self.status.policies.borrow());
        let merged = self.status.selection.resolve(&set, &container.subject, container.wish).unwrap();
        self.registry.assign(&container.id, Some(Arc::clone(&merged.ruleset)));
    }
}

#[test]
fn rules_of_the_kernel_are_armed_or_it_is_told_why_not() {
    let node = Node::new(FILES, Selection::default());
    let web = container("c1", "n", "web");
    node.add(&web, Created::default());
    let (state, reason, _) = node.state();
    assert!(state == State::NotCovered && reason.contains("not armed yet"), "{reason}");
    node.arm(&web);
    assert_eq!(node.state(), (State::Armed, String::new(), 0));
    let link = |path: &str| Gap {
        policy: node.status.policies.borrow().policies()[0].id().clone(),
        field: path.into(),
        reason: GapReason::Link,
        advice: String::new(),
    };
    node.registry.has_gaps(&web.id, [link("/a"), link("/b")].into());
    assert_eq!(node.state().2, 2, "links that are not followed");
    let told = node.status.policies().remove(0);
    let fields: Vec<_> = told.gaps.iter().map(|gap| gap.field.as_str()).collect();
    assert_eq!((fields, told.containers, told.uncovered), (vec!["/a", "/b"], 1, 0));
    node.registry.fail(&web.id, Some("no memory".into()));
    assert_eq!(node.state(), (State::NotCovered, "no memory".into(), 2));
    node.registry.add(Arc::clone(&web));
    assert_eq!(node.state().1, "no memory", "what is told about it again changes nothing");
    node.registry.fail(&web.id, None);
    assert_eq!(node.state().0, State::Armed);
    node.registry.seccomp().ended(&web.id);
    assert_eq!(node.state().0, State::Ended);
    node.registry.end(&web.id);
    assert!(node.status.document().containers.is_empty());
    assert!(!node.status.document().daemon.connected);
}

/// A host policy about a label that may be this node's is not told as one that has nothing to do here.
#[test]
fn a_host_policy_that_waits_for_the_nodes_labels_is_not_covered() {
    let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {name: h}\nspec:\n  \
        nodeSelector: {matchLabels: {rack: a}}\n  file: {matchPaths: [{path: /x}]}\n  action: Block\n";
    let selection = Selection { host: Some(Default::default()), ..Selection::default() };
    let mut node = Node::new(text, selection);
    let policies = node.status.policies.borrow().policies().to_vec();
    let mut told = |labels: crate::api::node::NodeLabels| {
        let set = PolicySet::new(policies.clone()).with_node(labels);
        node.status.policies = watch::channel(Arc::new(set)).1;
        let policy = node.status.policies().remove(0);
        let host = node.status.document().daemon.host.unwrap();
        (policy.uncovered, policy.reason, host.awaiting_labels)
    };
    let waits = "the host: the labels of this node are not known yet".to_owned();
    assert_eq!(told(crate::api::node::NodeLabels::Unknown), (1, waits, 1));
    let known = crate::api::node::NodeLabels::Known(Arc::new([("rack".into(), "b".into())].into()));
    assert_eq!(told(known), (0, String::new(), 0), "it is another node's");
    assert_eq!(told(crate::api::node::NodeLabels::NotAsked), (0, String::new(), 0));
}

#[test]
fn what_was_decided_about_a_container_is_counted_and_its_ruleset_named() {
    use super::document::Verdicts;
    use crate::alert::{Alert, HOST_EVENT};
    let node = Node::new(FILES, Selection::default());
    let [web, other] = ["c1", "c2"].map(|id| container(id, "n", "web"));
    let host = Container { id: enforcer_core::enforce::ContainerId::host(), ..Container::clone(&web) };
    for one in [&web, &other, &Arc::new(host)] {
        node.add(one, Created::default());
    }
    let told = || {
        let containers = node.status.document().containers;
        containers.into_iter().map(|one| (one.id, one.ruleset, one.verdicts.unwrap())).collect::<Vec<_>>()
    };
    assert!(
        told().iter().all(|(_, ruleset, verdicts)| ruleset.is_none() && *verdicts == Verdicts::default())
    );
    node.arm(&web);
    let block = Alert { container_id: "c1".into(), action: "Block", ..Alert::default() };
    let audit = Alert { action: "Audit", ..block.clone() };
    let of_host = Alert { kind: HOST_EVENT, container_id: String::new(), ..block.clone() };
    let unknown = Alert { container_id: crate::alert::UNKNOWN.into(), ..block.clone() };
    for alert in [&block, &audit, &block, &of_host, &unknown] {
        node.registry.count(alert);
    }
    node.registry.add(Arc::clone(&web)); // told about again
    let digest = node.registry.in_force(&web.id).unwrap().digest().to_string();
    let counted = |blocked, audited| Verdicts { blocked, audited };
    let mut wanted = vec![
        ("c1".to_owned(), Some(digest), counted(2, 1)),
        ("c2".to_owned(), None, counted(0, 0)),
        (enforcer_core::enforce::ContainerId::host().to_string(), None, counted(1, 0)),
    ];
    wanted.sort_by(|one, next| one.0.cmp(&next.0));
    assert_eq!(told(), wanted);
    node.registry.end(&web.id);
    node.add(&container("c1", "n", "web"), Created::default());
    assert_eq!(told().into_iter().find(|one| one.0 == "c1").unwrap().1, None);
}

#[test]
fn where_denials_are_not_heard_that_is_told() {
    let node = Node::new(FILES, Selection { lock: Lock::AppArmor, ..Selection::default() });
    assert_eq!(node.status.document().daemon.not_seen, None);
    node.status.unheard.set("it takes a capability");
    assert_eq!(node.status.document().daemon.not_seen.as_deref(), Some("it takes a capability"));
    let node = Node::new(FILES, Selection { lock: Lock::Nothing, ..Selection::default() });
    assert!(node.status.document().daemon.not_seen.unwrap().contains("no lock denies anything"));
}

#[test]
fn a_seccomp_profile_that_is_missing_or_old_is_told_with_the_reason() {
    let node = Node::new(CALLS, Selection::default());
    let web = container("c1", "n", "web");
    let created = Created { profile: Some("d".into()), policies: Some("old".into()), ..Created::default() };
    node.add(&web, created.clone());
    assert_eq!((node.state().0, node.state().2), (State::Armed, 0));
    node.registry.seccomp().has_gaps(&web.id, 3);
    assert_eq!(node.state().2, 3);
    node.registry.seccomp().compare(|_| Ok(Some("new".into())));
    let (state, reason, _) = node.state();
    assert!(state == State::PendingRestart && reason.contains("changed since"), "{reason}");
    node.registry.seccomp().not_applied(&web.id, "its pod does not name it".into());
    let (state, reason, _) = node.state();
    assert!(state == State::NotCovered && reason == "seccomp: its pod does not name it", "{reason}");
    let profile = node.status.document().containers.remove(0).seccomp.unwrap();
    assert_eq!((profile.state, profile.profile.as_deref()), (Profile::NotApplied, Some("d")));
    // created while no daemon was there
    node.registry.seccomp().put(Arc::clone(&web), Created::default());
    node.registry.seccomp().compare(|_| Ok(Some("new".into())));
    assert!(node.state().1.contains("created without"), "{:?}", node.state());
    // the policies are gone
    let gone = Node::new(FILES, Selection::default());
    let db = container("c1", "n", "db");
    gone.add(&db, created);
    gone.registry.seccomp().compare(|_| Ok(None));
    let (state, reason, _) = gone.state();
    assert!(state == State::PendingRestart && reason.contains("are gone"), "{reason}");
}

#[test]
fn what_no_policy_reaches_is_exempt_or_not_selected() {
    let both = format!("{FILES}---\n{CALLS}");
    let exempt = Selection { exempt: ["n".to_owned()].into(), ..Selection::default() };
    let honours = Selection { honour_pod_annotations: true, ..Selection::default() };
    for (selection, app, wish, wanted) in [
        (&exempt, "web", Wish::None, State::Exempt),
        (&honours, "web", Wish::Disabled, State::Exempt),
        (&Selection::default(), "db", Wish::None, State::NotSelected),
        (&Selection::default(), "web", Wish::Disabled, State::NotCovered),
    ] {
        let node = Node::new(&both, selection.clone());
        let one = Container { wish, ..Container::clone(&container("c1", "n", app)) };
        node.add(&Arc::new(one), Created::default());
        let told = node.status.document().containers.remove(0);
        assert_eq!((told.state, told.policies.is_empty()), (wanted, wanted != State::NotCovered));
        assert_eq!(told.seccomp.is_some(), wanted == State::NotCovered);
        assert!(told.state != State::Exempt || !told.reason.is_empty());
    }
}

#[test]
fn what_is_only_observed_is_not_selected() {
    let selection = Selection { visibility: "file".parse().unwrap(), ..Selection::default() };
    let node = Node::new(FILES, selection);
    let db = container("c1", "n", "db");
    node.add(&db, Created::default());
    assert_eq!(node.state().0, State::NotSelected);
    node.arm(&db);
    assert_eq!(node.state().0, State::NotSelected);
    let web = Node::new(FILES, node.status.selection.clone());
    web.add(&container("c1", "n", "web"), Created::default());
    assert_eq!(web.state().0, State::NotCovered, "its policies are not in force");
}

#[test]
fn rules_that_are_all_gaps_are_not_covered() {
    let node = Node::new(FILES, Selection { seccomp_only: true, ..Selection::default() });
    node.add(&container("c1", "n", "web"), Created::default());
    let (state, reason, gaps) = node.state();
    assert!(state == State::NotCovered && gaps == 1 && reason.contains("gaps"), "{reason}");
}

#[test]
fn each_policy_is_told_with_the_containers_that_it_is_and_is_not_in_force_on() {
    let node = Node::new(&format!("{FILES}---\n{CALLS}"), Selection::default());
    let told = || -> Vec<(String, u32, u32, String)> {
        let each = node.status.document().policies.into_iter();
        let without_rules = |mut one: PolicyStatus| {
            one.rules.clear();
            one
        };
        let document: Vec<_> = node.status.document().policies.into_iter().map(without_rules).collect();
        assert_eq!(node.status.policies(), document);
        each.map(|one| (one.name, one.containers, one.uncovered, one.reason)).collect()
    };
    let is = |name: &str, containers, uncovered, reason: &str| {
        (name.to_owned(), containers, uncovered, reason.to_owned())
    };
    assert_eq!(told(), [is("files", 0, 0, ""), is("calls", 0, 0, "")]);
    let [web, db, late] =
        [("c1", "web"), ("c2", "db"), ("c3", "web")].map(|(id, app)| container(id, "n", app));
    for one in [&web, &db, &late] {
        node.add(one, Created { policies: Some("d".into()), ..Created::default() });
    }
    node.arm(&web);
    node.registry.seccomp().compare(|_| Ok(Some("d".into())));
    let why = "not armed yet: it was not started, or its turn has not come";
    assert_eq!(told(), [is("files", 1, 1, why), is("calls", 2, 0, "")]);
    // one of them has no profile, which is nothing to the policy of files
    node.registry.seccomp().not_applied(&web.id, "its pod does not name it".into());
    node.registry.fail(&late.id, Some("no memory".into()));
    assert_eq!(told(), [is("files", 1, 1, "no memory"), is("calls", 1, 1, "its pod does not name it")]);
    node.registry.seccomp().ended(&late.id);
    assert_eq!(told(), [is("files", 1, 0, ""), is("calls", 0, 1, "its pod does not name it")]);

    let gaps = Node::new(FILES, Selection { seccomp_only: true, ..Selection::default() });
    gaps.add(&web, Created::default());
    let one = gaps.status.document().policies.remove(0);
    assert_eq!(
        (one.uncovered, one.gaps.len(), one.gaps[0].field.as_str()),
        (1, 1, "spec.file.matchPaths[0]")
    );
    assert!(one.reason.contains("they are gaps"), "{}", one.reason);
}

/// Also of a policy that selects nothing there: what it selects tomorrow would be without it.
#[test]
fn where_no_lock_holds_rules_each_of_every_policy_is_a_gap() {
    let host = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {name: host}\n\
                spec:\n  nodeSelector: {matchLabels: {a: b}}\n  file: {matchPaths: [{path: /x}]}\n  action: Block\n";
    for (lock, seccomp_only, reason) in [
        (Lock::Nothing, false, Some(GapReason::NoLock)),
        (Lock::Selinux, false, Some(GapReason::SelinuxContainer)),
        (Lock::Bpf, true, Some(GapReason::OtherThanSeccomp)),
        (Lock::Bpf, false, None),
        (Lock::AppArmor, false, None),
    ] {
        let selection = Selection { lock, seccomp_only, ..Selection::default() };
        let node = Node::new(&format!("{FILES}---\n{CALLS}---\n{host}"), selection);
        let told = node.status.policies().into_iter().map(|one| {
            let gaps: Vec<_> = one.gaps.into_iter().map(|gap| (gap.field, gap.reason)).collect();
            (one.name, (one.unheld, gaps))
        });
        let told: std::collections::BTreeMap<_, _> = told.collect();
        let gap = |reason: GapReason| ("spec.file.matchPaths[0]".to_owned(), reason.to_string());
        assert_eq!(told["files"], (reason.is_some(), reason.map(gap).into_iter().collect()), "{lock:?}");
        for other in ["calls", "host"] {
            assert_eq!(told[other], (false, vec![]), "{lock:?} {other}");
        }
    }
}

#[test]
fn each_rule_of_a_policy_is_told_with_who_holds_it() {
    let files = FILES.replace("  file:", "  apparmor: |\n    audit deny /n r,\n  file:");
    let (path, native) = ("spec.file.matchPaths[0]", "spec.apparmor");
    for (lock, wanted) in [
        (Lock::Bpf, vec![("bpf", path), ("none", native)]),
        (Lock::Both, vec![("apparmor", native), ("bpf", path)]),
    ] {
        let node = Node::new(&format!("{files}---\n{CALLS}"), Selection { lock, ..Selection::default() });
        let policies = node.status.document().policies;
        let told = |name: &str| {
            let one = policies.iter().find(|one| one.name == name).unwrap();
            let each =
                one.rules.iter().flat_map(|(lock, rules)| rules.iter().map(move |rule| (&**lock, &**rule)));
            each.collect::<Vec<_>>()
        };
        assert_eq!(told("files"), wanted, "{lock:?}");
        assert_eq!(told("calls"), [("seccomp", "spec.syscalls[0]")]);
    }
}

/// Nothing of a policy is denied where a pod has it switched off, or audited only.
#[test]
fn a_policy_is_not_in_force_where_a_pod_wished_it_away() {
    for (honour_pod_annotations, wish, wanted) in [
        (false, Wish::Disabled, (1, 0, "")),
        (false, Wish::Audited, (1, 0, "")),
        (true, Wish::None, (1, 0, "")),
        (true, Wish::Disabled, (0, 1, "its pod switched enforcement off, and may")),
        (true, Wish::Audited, (0, 1, "its pod has policies audited only, and may")),
    ] {
        let selection = Selection { honour_pod_annotations, ..Selection::default() };
        let node = Node::new(&format!("{FILES}---\n{CALLS}"), selection);
        let one = Arc::new(Container { wish, ..Container::clone(&container("c1", "n", "web")) });
        node.add(&one, Created { policies: Some("d".into()), ..Created::default() });
        if (honour_pod_annotations, wish) != (true, Wish::Disabled) {
            node.arm(&one);
        }
        for told in node.status.policies() {
            let stands = (told.containers, told.uncovered, told.reason.as_str());
            assert_eq!(stands, wanted, "{honour_pod_annotations} {wish:?} {}", told.name);
        }
    }
    // what the node's configuration takes out is not selected
    let exempt = Selection { exempt: ["n".to_owned()].into(), ..Selection::default() };
    let node = Node::new(&format!("{FILES}---\n{CALLS}"), exempt);
    node.add(&container("c1", "n", "web"), Created::default());
    assert!(node.status.policies().iter().all(|one| (one.containers, one.uncovered) == (0, 0)));
}

#[test]
fn what_policies_go_by_is_told_and_an_older_daemon_told_less() {
    use enforcer_core::ruleset::{Class, PostureAction, Postures};
    let postures = Postures::default().with(Class::Process, PostureAction::Block);
    let selection = Selection { honour_pod_annotations: true, postures, ..Selection::default() };
    let node = Node::new(FILES, selection);
    let one = Container { wish: Wish::Audited, ..Container::clone(&container("c1", "n", "web")) };
    node.add(&Arc::new(one), Created::default());
    let document = node.status.document();
    let told = &document.containers[0];
    assert_eq!((told.labels.as_ref().unwrap()["app"].as_str(), told.audited), ("web", true));
    let told: Vec<_> =
        document.daemon.postures.iter().map(|(class, action)| format!("{class}={action}")).collect();
    assert_eq!(told, ["capability=audit", "file=audit", "network=audit", "process=block"]);
    let mut older = serde_json::to_value(&document).unwrap();
    for field in ["labels", "audited", "ruleset", "verdicts"] {
        older["containers"][0].as_object_mut().unwrap().remove(field);
    }
    let older: super::document::Document = serde_json::from_value(older).unwrap();
    assert_eq!(older.containers[0].labels, None, "not the same as none");
    assert_eq!(older.containers[0].verdicts, None, "likewise");
}

/// podman's, whose files could not be read when it was started.
#[test]
fn who_is_not_known_is_told() {
    let node = Node::new(FILES, Selection::default());
    assert!(serde_json::to_value(node.status.document()).unwrap()["daemon"].get("unknown").is_none());
    let id = enforcer_core::enforce::ContainerId::new("c1").unwrap();
    let own = i32::try_from(std::process::id()).unwrap();
    node.status.strangers.asked(&id, own, "busy");
    assert_eq!(node.status.document().daemon.unknown, [("c1".to_owned(), "busy".to_owned())].into());
}

/// Whoever asks and does not read takes a place, and loses it in time; nobody else is told less for it.
#[tokio::test(flavor = "multi_thread")]
async fn callers_that_do_not_read_hold_others_up_for_a_while_and_no_longer() {
    use std::time::{Duration, Instant};
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    let node = Node::new(FILES, Selection::default());
    for number in 0..4_000 {
        node.add(&container(&format!("c{number}"), "n", "web"), Created::default()); // more than a socket takes
    }
    let path = node.dir.path().join("run/status");
    let window = Window::open(&path).unwrap();
    tokio::spawn(window.serve(Arc::new(node.status)));
    let read = async || {
        let mut text = Vec::new();
        UnixStream::connect(&path).await.unwrap().read_to_end(&mut text).await.unwrap();
        let document: super::document::Document = serde_json::from_slice(&text).unwrap();
        document.containers.len()
    };
    let mut silent = Vec::new();
    for _ in 1..CALLERS {
        silent.push(UnixStream::connect(&path).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(500)).await; // they have their places
    let begin = Instant::now();
    assert_eq!(read().await, 4_000, "one place is left");
    assert!(begin.elapsed() < LONGEST - Duration::from_secs(2), "{:?}", begin.elapsed());
    silent.push(UnixStream::connect(&path).await.unwrap());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let early = tokio::time::timeout(Duration::from_millis(500), read()).await;
    assert!(early.is_err(), "there are {CALLERS} places");
    assert_eq!(read().await, 4_000, "after the time of the first");
    assert!(begin.elapsed() < LONGEST * 3, "{:?}", begin.elapsed());
    drop(silent);
}
