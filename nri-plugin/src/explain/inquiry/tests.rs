use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc::channel;

use enforcer_core::enforce::ContainerId;
use enforcer_core::links::Resolution;
use tokio::sync::watch;

use super::*;
use crate::container::{Container, Selection};
use crate::explain::document::Which;
use crate::kernel::recording::Recording;
use crate::procs::tests::add;
use crate::reconciler::tests::{container, policies};
use crate::registry::Registry;
use crate::seccomp::tests::{policy, set};

const ID: &str = "c1aa";

struct Node {
    proc: tempfile::TempDir,
    kernel: Arc<Recording>,
    policies: watch::Sender<Arc<PolicySet>>,
    registry: Arc<Registry>,
    inquiry: Inquiry,
}

impl Node {
    fn new(selection: Selection, set: Arc<PolicySet>, container: Arc<Container>) -> Self {
        let proc = tempfile::tempdir().unwrap();
        add(proc.path(), 7, 'S', 100, "/");
        let procs = Procs::at(proc.path());
        let process = procs.find(7).unwrap();
        let (registry, kernel) = (Arc::<Registry>::default(), Arc::<Recording>::default());
        registry.add(Arc::clone(&container));
        registry.seccomp().put(container, Default::default());
        let (policies, seen) = watch::channel(set);
        let status = crate::status::tests::status(selection, &registry, seen, proc.path());
        let (orders, taken) = channel();
        std::thread::spawn(move || {
            for order in taken {
                let Order::RootOf { reply, .. } = order else { panic!("{order:?}") };
                let _gone = reply.send(Some(RootOf { process, below: "/".into() }));
            }
        });
        let looking = Box::new(Arc::clone(&kernel));
        let inquiry = Inquiry::new(Arc::new(status), looking, orders, procs);
        Self { proc, kernel, policies, registry, inquiry }
    }

    fn root(&self) -> std::path::PathBuf {
        self.proc.path().join("7/root")
    }

    /// Puts a ruleset in force, as the reconciler does.
    fn arm(&self, ruleset: Ruleset) {
        let id = ContainerId::new(ID).unwrap();
        self.kernel.preset(ID, Some(ruleset.digest()));
        self.registry.assign(&id, Some(Arc::new(ruleset)));
    }

    async fn ask(&self, access: &str) -> Result<Told, String> {
        let query = Query {
            which: Which::Id(ID.into()),
            access: access.into(),
            source: None,
            args: Vec::new(),
            terminal: false,
            uid: 0,
            owner: 0,
        };
        match self.inquiry.explain(&query).await? {
            Inquired::Told(told) => Ok(*told),
            other => panic!("{other:?}"),
        }
    }
}

fn web() -> Arc<Container> {
    container(ID, "default", "web")
}

/// The rules of the policies, for a container with this root.
fn rules(selection: &Selection, set: &PolicySet, of: &Container, root: &Path) -> Ruleset {
    let merged = selection.resolve(set, &of.subject, of.wish).unwrap();
    let root = enforcer_core::enforce::root::Root::at(root).unwrap();
    let found: BTreeMap<AbsPath, Resolution> = root.look_up(&merged.paths).into_iter().collect();
    merged.ruleset.with_links(|path| found.get(path).cloned().unwrap_or_default()).ruleset
}

#[tokio::test(flavor = "multi_thread")]
async fn an_armed_container_is_answered_for_by_what_the_kernel_has_and_by_all_names() {
    let (selection, named) = (Selection::default(), policies(&[("p", "/bin/ls")]));
    let node = Node::new(selection.clone(), Arc::clone(&named), web());
    std::fs::create_dir_all(node.root().join("usr/bin")).unwrap();
    symlink("usr/bin", node.root().join("bin")).unwrap();
    let ruleset = rules(&selection, &named, &web(), &node.root());
    let digest = ruleset.digest().to_string();
    node.arm(ruleset);
    for path in ["/bin/ls", "/usr/bin/ls"] {
        let told = node.ask(&format!("file:read:{path}")).await.unwrap();
        assert_eq!(
            (told.verdict(), told.explanation.policy.as_deref()),
            (Verdict::Block, Some("p")),
            "{told:?}"
        );
        assert!(told.explanation.reason.contains("/bin/ls (resolves to /usr/bin/ls)"), "{told:?}");
        assert_eq!((told.lock.as_deref(), told.ruleset.as_deref()), (Some("bpf"), Some(digest.as_str())));
        assert_eq!((told.as_written, told.container.state), (None, State::Armed));
    }
    let told = node.ask("file:read:/etc/hosts").await.unwrap();
    assert_eq!((told.verdict(), told.explanation.policy), (Verdict::Allow, None));

    // the policies change, and the kernel has not followed
    node.policies.send_replace(policies(&[("p", "/etc/hosts")]));
    for (path, now, written) in
        [("/bin/ls", Verdict::Block, Verdict::Allow), ("/etc/hosts", Verdict::Allow, Verdict::Block)]
    {
        let told = node.ask(&format!("file:read:{path}")).await.unwrap();
        let as_written = told.as_written.clone().unwrap();
        assert_eq!((told.verdict(), as_written.explanation.verdict), (now, written));
        assert!(as_written.not_in_force.contains("its turn has not come yet"), "{as_written:?}");
    }

    // a ruleset that nobody here knows is no answer, nor is a kernel that cannot be read
    node.kernel.preset(ID, Some(enforcer_core::ruleset::RulesetDigest::from_bytes([1; 32])));
    assert!(node.ask("file:read:/bin/ls").await.unwrap_err().contains("did not make"));
    node.kernel.breaks("armed", true);
    assert!(node.ask("file:read:/bin/ls").await.unwrap_err().contains("armed is broken"));
    assert!(node.ask("file:eat:/bin/ls").await.unwrap_err().starts_with("--access: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_armed_denies_nothing_and_says_why() {
    let exempt = Selection { exempt: ["default".to_owned()].into(), ..Selection::default() };
    let nothing = Selection { lock: Lock::Nothing, ..Selection::default() };
    let audited = Arc::new(Container { wish: Wish::Disabled, ..Container::clone(&web()) });
    let switched_off = Selection { honour_pod_annotations: true, ..Selection::default() };
    for (selection, container, state, why) in [
        (Selection::default(), web(), State::NotCovered, "not armed yet"),
        (exempt, web(), State::Exempt, "its namespace is exempt"),
        (nothing, web(), State::NotCovered, "nothing of its rules can be enforced"),
        (switched_off, audited, State::Exempt, "its pod switched enforcement off"),
    ] {
        let node = Node::new(selection, policies(&[("p", "/x")]), container);
        let told = node.ask("file:read:/x").await.unwrap();
        assert_eq!((told.verdict(), told.container.state), (Verdict::Allow, state));
        assert_eq!((told.lock, told.ruleset, told.explanation.policy), (None, None, None));
        let reason = &told.explanation.reason;
        assert!(reason.contains("nothing is denied") && reason.contains(why), "{reason}");
        let as_written = told.as_written.unwrap();
        assert_eq!(as_written.explanation.verdict, Verdict::Block);
        assert!(as_written.not_in_force.contains(why), "{as_written:?}");
    }
    let node = Node::new(Selection::default(), policies(&[("p", "/x")]), container(ID, "default", "db"));
    let told = node.ask("file:read:/x").await.unwrap();
    assert!(
        told.explanation.reason.ends_with("no policy selects it") && told.as_written.is_none(),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audited_pod_is_told_as_one() {
    let selection = Selection { honour_pod_annotations: true, ..Selection::default() };
    let audited = Arc::new(Container { wish: Wish::Audited, ..Container::clone(&web()) });
    let named = policies(&[("p", "/x")]);
    let node = Node::new(selection.clone(), Arc::clone(&named), Arc::clone(&audited));
    node.arm(rules(&selection, &named, &audited, &node.root()));
    let told = node.ask("file:read:/x").await.unwrap();
    assert_eq!((told.verdict(), told.container.audited), (Verdict::Audit, true));
    let as_written = told.as_written.unwrap();
    assert_eq!(as_written.explanation.verdict, Verdict::Block);
    assert!(as_written.not_in_force.contains("reported instead"), "{as_written:?}");
}

/// A process keeps its filter: what the policies say of a system call counts where it was created with them.
#[tokio::test(flavor = "multi_thread")]
async fn a_seccomp_policy_that_is_not_in_force_does_not_count() {
    let calls = set(&policy("calls", "web", "  syscalls: [mkdir]\n  action: Block"));
    let node = Node::new(Selection::default(), calls, web());
    let told = node.ask("syscall:mkdir").await.unwrap();
    let seccomp = told.seccomp.clone().unwrap();
    assert_eq!((told.verdict(), seccomp.not_in_force), (Verdict::Block, None));
    assert_eq!(seccomp.policy.as_deref(), Some("default/calls"));
    assert!(told.notes.iter().all(|note| !note.contains("default profile")), "a rule decides: {told:?}");
    let told = node.ask("syscall:rmdir").await.unwrap();
    assert_eq!(told.verdict(), Verdict::Allow);
    assert!(
        told.notes.iter().any(|note| note.contains("taken for the runtime's default profile")),
        "{told:?}"
    );
    node.registry.seccomp().not_applied(&ContainerId::new(ID).unwrap(), "its pod names another".into());
    let told = node.ask("syscall:mkdir").await.unwrap();
    assert_eq!(told.verdict(), Verdict::Allow);
    assert_eq!(told.seccomp.unwrap().not_in_force.as_deref(), Some("its pod names another"));
}

/// Policies of these specs, for `app: web` in the namespace `default`, or for the host.
fn specs(kind: &str, specs: &[&str]) -> Arc<PolicySet> {
    let selector = match kind {
        "KubeArmorHostPolicy" => "nodeSelector",
        _ => "selector",
    };
    let policies = specs.iter().enumerate().map(|(number, spec)| {
        let namespace = if kind == "KubeArmorHostPolicy" { "" } else { ", namespace: default" };
        let text = format!(
            "apiVersion: security.kubearmor.com/v1\nkind: {kind}\nmetadata: {{name: p{number}{namespace}}}\n\
             spec:\n  {selector}: {{matchLabels: {{app: web}}}}\n  {spec}\n"
        );
        let parsed = enforcer_core::policy::parse("test.yaml", &text);
        assert_eq!(parsed.errors, []);
        Arc::new(parsed.policies.into_iter().next().unwrap())
    });
    Arc::new(PolicySet::new(policies.collect()))
}

/// A profile and labels are made of less than what is written, and the ruleset is whole.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_lock_cannot_hold_is_not_told_as_held() {
    let set = specs(
        "KubeArmorPolicy",
        &[
            "network: {matchDestinations: [{cidr: 10.0.0.0/8, action: Block}]}",
            "file: {matchPaths: [{path: /secret, action: Block}]}",
        ],
    );
    let selection = Selection { lock: Lock::AppArmor, ..Selection::default() };
    let node = Node::new(selection.clone(), Arc::clone(&set), web());
    node.arm(rules(&selection, &set, &web(), &node.root()));
    let told = node.ask("network:connect:tcp:10.0.0.1:443").await.unwrap();
    assert_eq!((told.verdict(), told.lock.as_deref()), (Verdict::Allow, Some("apparmor")), "{told:?}");
    let as_written = told.as_written.unwrap();
    assert_eq!(as_written.explanation.verdict, Verdict::Block);
    assert!(as_written.not_in_force.contains("nothing of it has any effect"), "{as_written:?}");
    let told = node.ask("file:read:/secret").await.unwrap();
    assert_eq!((told.verdict(), told.as_written), (Verdict::Block, None), "that it holds");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_deny_what_is_named_alone_report_nothing_and_exempt_nobody() {
    let set = specs(
        "KubeArmorHostPolicy",
        &[
            "file: {matchPaths: [{path: /secret, action: Block}, {path: /seen, action: Audit}]}",
            "file: {matchPaths: [{path: /fine, action: Allow}]}",
        ],
    );
    let blocks = enforcer_core::ruleset::Postures::default()
        .with(Class::File, enforcer_core::ruleset::PostureAction::Block);
    for lock in [Lock::Selinux, Lock::Bpf] {
        let selection = Selection { lock, host: Some(blocks), ..Selection::default() };
        let subject = enforcer_core::subject::Subject::of_host([("app".to_owned(), "web".to_owned())].into());
        let host = Arc::new(Container { subject, ..Container::clone(&web()) });
        let node = Node::new(selection.clone(), Arc::clone(&set), Arc::clone(&host));
        node.arm(rules(&selection, &set, &host, &node.root()));
        let labels = lock == Lock::Selinux;
        let exempts = |told: &Told| told.notes.iter().any(|note| note.contains("exempt from host policies"));
        let told = node.ask("file:read:/secret").await.unwrap();
        assert_eq!((told.verdict(), exempts(&told)), (Verdict::Block, !labels), "{told:?}");
        for (path, written) in [("/seen", Verdict::Audit), ("/other", Verdict::Block)] {
            let told = node.ask(&format!("file:read:{path}")).await.unwrap();
            let wanted = if labels { Verdict::Allow } else { written };
            assert_eq!(told.verdict(), wanted, "{told:?}");
            let as_written = told.as_written.map(|written| written.explanation.verdict);
            assert_eq!(as_written, labels.then_some(written), "{path}");
            assert_eq!(told.postures["file"], if labels { "allow" } else { "block" });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconciler_that_is_gone_is_no_answer() {
    let node = Node::new(Selection::default(), policies(&[("p", "/x")]), web());
    let (orders, taken) = channel();
    drop(taken);
    let inquiry = Inquiry { orders, ..node.inquiry };
    let node = Node { inquiry, ..node };
    assert_eq!(node.ask("file:read:/x").await.unwrap_err(), "the daemon ends");
}

/// The policies of `text`, compared with those in force.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_come_is_compared_with_what_is_in_force_links_included() {
    use crate::apply::NewFile;
    let file = |name: &str, path: &str, action: &str| {
        let text = format!(
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
             spec:\n  selector: {{matchLabels: {{app: web}}}}\n  file: {{matchPaths: [{{path: {path}}}]}}\n  action: {action}\n"
        );
        [NewFile { name: "new.yaml".into(), text }]
    };
    let named = policies(&[("p", "/bin/ls"), ("other", "/etc/hosts")]);
    let node = Node::new(Selection::default(), named, web());
    std::fs::create_dir_all(node.root().join("usr/bin")).unwrap();
    symlink("usr/bin", node.root().join("bin")).unwrap();
    // the same by another name of its own: no policy of its name is in force, so both are
    let same = file("q", "/usr/bin/ls", "Block");
    let compared = node.inquiry.compare(&same, &[], None).await.unwrap();
    assert_eq!((compared.containers.len(), compared.notes.len()), (1, 0));
    let of = |compared: &crate::diff::node::Compared| -> Vec<(String, String)> {
        let rules = compared.containers[0].changes.rules.iter();
        rules.map(|rule| (format!("{:?}", rule.change), rule.about.clone())).collect()
    };
    assert_eq!(of(&compared), [("Reported".to_owned(), "file /usr/bin/ls".to_owned())], "a link leads there");
    // it takes the place of that of its name, of which both names go
    let changed = file("p", "/bin/cat", "Block");
    let compared = node.inquiry.compare(&changed, &[], None).await.unwrap();
    let wanted = [
        ("Removed", "file /bin/ls"),
        ("Removed", "file /usr/bin/ls"),
        ("Added", "file /bin/cat"),
        ("Added", "file /usr/bin/cat"),
    ];
    assert_eq!(of(&compared), wanted.map(|(change, about)| (change.to_owned(), about.to_owned())));
    assert!(
        compared.containers[0].changes.rules.iter().all(|rule| !rule.about.contains("hosts")),
        "the rest stays"
    );
    // the answer is the same on the other side of the socket
    let json = serde_json::to_string(&compared.containers).unwrap();
    let read: Vec<crate::diff::document::Container> = serde_json::from_str(&json).unwrap();
    assert_eq!(read, compared.containers);
    assert_eq!(node.inquiry.compare(&changed, &[], Some("elsewhere")).await.unwrap().containers, []);

    let bad = [NewFile { name: "bad.yaml".into(), text: "kind: Nonsense\n".into() }];
    let why = node.inquiry.compare(&bad, &[], None).await.unwrap_err();
    assert!(why.contains("bad.yaml"), "{why}");
}
