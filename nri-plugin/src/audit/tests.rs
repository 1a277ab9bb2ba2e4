use enforcer_core::compile::apparmor::{Native, child_of};
use enforcer_core::compile::selinux::{self, Kind, Vital};
use enforcer_core::enforce::selinux::Noted;
use enforcer_core::enforce::{ContainerId, Stage, Target};
use enforcer_core::policy::parse;
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject;

use super::*;
use crate::alert::{Alert, Alerts};
use crate::apparmor::Profiles;
use crate::apparmor::tests::Memory;
use crate::container::Container;
use crate::kernel::Kernel as _;
use crate::procs::tests::add;
use crate::reconciler::tests::container;
use crate::registry::Registry;

const PROFILE: &str = "nri-enforcer.default.web";
const RULES: &str = "
  file:
    matchPaths:
    - {path: /etc/passwd, message: the list of users}
    - {path: /data/log, action: Audit}
    - {path: /keys/a, fromSource: [{path: /bin/one}]}
    matchDirectories: [{dir: /keys/, recursive: true, fromSource: [{path: /bin/two}]}]
  process: {matchPaths: [{path: /bin/nc}]}
  network: {matchProtocols: [{protocol: raw}]}
  capabilities: {matchCapabilities: [{capability: sys_time}]}";

fn resolved(rules: &str, subject: &Subject) -> Arc<Ruleset> {
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: web}}}}\n  action: Block{rules}\n"
    );
    let parsed = parse("test.yaml", &text);
    assert_eq!(parsed.errors, []);
    Arc::new(Ruleset::resolve(&parsed.policies, &Postures::default(), subject).ruleset)
}

struct Node {
    registry: Arc<Registry>,
    profiles: Arc<Profiles>,
    kernel: Memory,
    dir: tempfile::TempDir,
}

fn id(digit: char) -> String {
    std::iter::repeat_n(digit, 64).collect()
}

impl Node {
    fn new(natives: &[Native]) -> Self {
        let (kernel, dir) = (Memory::default(), tempfile::tempdir().unwrap());
        let profiles = Arc::new(Profiles::with(Box::new(kernel.clone()), dir.path().into()).unwrap());
        let natives = natives.to_vec();
        profiles.ask(Box::new(move |_| Some(("default".to_owned(), natives.clone()))));
        Self { registry: Arc::default(), profiles, kernel, dir }
    }

    /// A container whose first process is `pid`.
    fn has(&self, digit: char, pid: i32, rules: &str) -> Arc<Container> {
        let one = container(&id(digit), "default", "web");
        self.registry.add(Arc::clone(&one));
        let ruleset = resolved(rules, &one.subject);
        self.registry.assign(&one.id, Some(Arc::clone(&ruleset)));
        add(&self.dir.path().join("proc"), pid, 'S', 100, &format!("/kubepods/{}", id(digit)));
        self.kernel.runs(pid, PROFILE);
        let target = Target { id: one.id.clone(), pid, stage: Stage::Running };
        self.profiles.arm(&target, &ruleset).unwrap();
        one
    }

    fn attribution(&self) -> Attribution {
        Attribution::new(Arc::clone(&self.registry), Some(Arc::clone(&self.profiles)), Box::new(|| None))
    }

    fn told(&self, record: &str) -> Alert {
        let denial = Denial::parse(&format!("audit(1795852703.744:2): {record}")).unwrap().unwrap();
        let alerts = Alerts { cluster_name: "c".into(), host_name: "h".into() };
        let acting = self.profiles.container_of(i32::try_from(denial.pid).unwrap());
        alerts.denial(&self.attribution().judge(Heard { denial, acting, process: None }))
    }
}

fn file(operation: &str, child: &str, path: &str, pid: i32, mask: &str) -> String {
    format!(
        "apparmor=\"DENIED\" operation=\"{operation}\" class=\"file\" profile=\"{PROFILE}{child}\" name=\"{path}\" pid={pid} \
         comm=\"cat\" requested_mask=\"{mask}\" denied_mask=\"{mask}\" fsuid=0 ouid=0"
    )
}

fn by(alert: &Alert) -> (&str, &str, &str, &str) {
    (&alert.policy_name, &alert.rule, alert.operation, &alert.resource)
}

#[test]
fn a_denial_of_apparmor_has_its_container_and_its_rule() {
    let node = Node::new(&[]);
    node.has('a', 7, RULES);
    let alert = node.told(&file("open", "", "/etc/passwd", 7, "r"));
    assert_eq!(by(&alert), ("p", "spec.file.matchPaths[0]", "File", "/etc/passwd"));
    assert_eq!((alert.action, alert.result, alert.enforcer), ("Block", "Permission denied", "AppArmor"));
    assert_eq!((alert.container_id.as_str(), alert.pod_name.as_str()), (id('a').as_str(), "pod"));
    assert_eq!(
        (alert.message.as_str(), alert.kind, alert.host_pid),
        ("the list of users", "MatchedPolicy", 7)
    );
    assert_eq!(alert.updated_time, "2026-11-28T07:58:23.744000Z");
    assert!(
        alert
            .data
            .starts_with("op=open comm=\"cat\" permissions=\"r\" profile=nri-enforcer.default.web ruleset="),
        "{}",
        alert.data
    );
    // who is over is the one that has it
    assert_eq!(node.told(&file("open", "", "/etc/passwd", 99, "r")).container_id, id('a'));

    let audited = file("open", "", "/data/log", 7, "r").replace("DENIED", "AUDIT");
    let alert = node.told(&audited);
    assert_eq!(by(&alert), ("p", "spec.file.matchPaths[1]", "File", "/data/log"));
    assert_eq!((alert.action, alert.result), ("Audit", "Passed"));
    let alert = node.told(&file("exec", "", "/bin/nc", 7, "x"));
    assert_eq!(by(&alert), ("p", "spec.process.matchPaths[0]", "Process", "/bin/nc"));
    assert_eq!(alert.process_name, "/bin/nc");
    // making the directory above it is denied with renaming it
    let alert = node.told(&file("rename_src", "", "/etc/", 7, "wd"));
    assert_eq!(by(&alert), ("p", "spec.file.matchPaths[0]", "File", "/etc"));
    let head = format!("apparmor=\"DENIED\" operation=\"X\" profile=\"{PROFILE}\" pid=7 comm=\"a\" ");
    let alert = node.told(&format!("{head}capability=25  capname=\"sys_time\""));
    assert_eq!(by(&alert), ("p", "spec.capabilities.matchCapabilities[0]", "Capabilities", "CAP_SYS_TIME"));
    let alert =
        node.told(&format!("{head}family=\"inet\" sock_type=\"raw\" protocol=1 denied_mask=\"create\""));
    assert_eq!(
        by(&alert),
        ("p", "spec.network.matchProtocols[0]", "Network", "domain=AF_INET type=SOCK_RAW protocol=ICMP")
    );
}

#[test]
fn what_the_rules_do_not_deny_is_not_guessed() {
    let node = Node::new(&[]);
    node.has('a', 7, RULES);
    let unknown = |record: &str, why: &str| {
        let alert = node.told(record);
        assert_eq!((alert.policy_name.as_str(), alert.rule.as_str()), ("unknown", ""));
        assert!(alert.message.contains(why), "{}", alert.message);
        alert
    };
    unknown(&file("open", "", "/etc/group", 7, "r"), "do not deny it");
    unknown(&file("open", "", "/data/log", 7, "r"), "do not deny it");
    let alert = unknown(&file("mount", "", "/mnt/", 7, "w"), "do not deny it");
    assert_eq!((alert.operation, alert.resource.as_str()), ("File", "/mnt/"));
    // whoever acts under the profile itself could be anybody; in a child it is one
    let alert = unknown(&file("open", "", "/keys/a", 7, "r"), "any of these");
    assert!(alert.message.contains("matchPaths[2]") && alert.message.contains("matchDirectories[0]"));
    let child = format!("//{}", child_of(&"/bin/two".parse().unwrap()));
    let alert = node.told(&file("open", &child, "/keys/a", 7, "r"));
    assert_eq!((alert.rule.as_str(), alert.source.as_str()), ("spec.file.matchDirectories[0]", "/bin/two"));
    assert_eq!(alert.process_name, "/bin/two");
    unknown(&file("open", "//other", "/keys/a", 7, "r"), "do not deny it");
    // what makes no sense costs the rule alone
    let alert = unknown(&file("open", "", "/etc/passwd", 7, "r").replace("ouid=0", "ouid=x"), "`ouid`");
    assert_eq!((alert.container_id, alert.resource.as_str()), (id('a'), "/etc/passwd"));
    let head = format!("apparmor=\"DENIED\" operation=\"create\" profile=\"{PROFILE}\" pid=7 comm=\"a\" ");
    let socket = |rest: &str| unknown(&format!("{head}{rest} denied_mask=\"create\""), "do not deny it");
    let alert = socket("family=\"inet\" sock_type=\"stream\" protocol=65536");
    assert_eq!(alert.operation, "Network");
    let alert = socket("family=\"inet\" sock_type=\"unknown(7)\" protocol=0");
    assert_eq!(
        (alert.operation, alert.resource.as_str()),
        ("Network", "domain=inet type=unknown(7) protocol=0")
    );
    // a profile that nobody is known to have: whoever acted says so by its cgroup alone
    let stranger =
        |pid| file("open", "", "/etc/passwd", pid, "r").replace(PROFILE, "nri-enforcer.default.none");
    assert_eq!(unknown(&stranger(7), "which rules are in the profile").container_id, id('a'));
    let alert = unknown(&stranger(99), "which rules are in the profile");
    assert_eq!((alert.container_id.as_str(), alert.pod_name.as_str()), ("unknown", "unknown"));
}

/// A denial is told a moment after it happened.
#[test]
fn rules_that_were_exchanged_meanwhile_are_asked_too() {
    let node = Node::new(&[]);
    let one = node.has('a', 7, RULES);
    let next = resolved("\n  file: {matchPaths: [{path: /etc/group}]}", &one.subject);
    node.profiles.update(&one.id, &next).unwrap();
    node.registry.assign(&one.id, Some(next));
    let of = |path: &str| node.told(&file("open", "", path, 7, "r"));
    assert_eq!((of("/etc/group").policy_name.as_str(), of("/etc/passwd").policy_name.as_str()), ("p", "p"));
    assert_ne!(of("/etc/group").data, of("/etc/passwd").data, "each tells its ruleset");
    assert_eq!(of("/etc/hosts").policy_name, "unknown");
}

#[test]
fn of_several_with_one_profile_the_process_says_which() {
    let node = Node::new(&[]);
    node.has('a', 7, RULES);
    node.has('b', 8, RULES);
    let of = |pid| node.told(&file("open", "", "/etc/passwd", pid, "r"));
    assert_eq!((of(7).container_id, of(8).container_id), (id('a'), id('b')));
    let gone = of(99);
    assert_eq!((gone.container_id.as_str(), gone.pod_name.as_str()), ("unknown", "unknown"));
    assert_eq!((gone.namespace_name.as_str(), gone.policy_name.as_str()), ("default", "p"));
    // one of them is over, and its denial comes late
    let id = ContainerId::new(id('b')).unwrap();
    node.profiles.disarm(&id).unwrap();
    node.registry.end(&id);
    assert_eq!(of(8).container_id, id.to_string());
    assert_eq!(of(99).container_id, "unknown");
}

/// The kernel says at once that there is no room, and what was kept before comes first.
#[test]
fn what_is_lost_is_counted_where_numbers_jump() {
    let count = |heard: &[Option<u64>]| {
        let mut numbers = Numbers::default();
        let mut each = Vec::new();
        for one in heard {
            each.push(match one {
                Some(serial) => numbers.has(*serial),
                None => numbers.lost(),
            });
        }
        each
    };
    let lost = None;
    assert_eq!(count(&[Some(1), Some(2), lost, Some(3), Some(4), Some(900)]), [0, 0, 1, 0, 0, 894]);
    assert_eq!(count(&[Some(1), lost, lost, Some(2), Some(4), Some(9)]), [0, 1, 0, 0, 0, 0]);
    assert_eq!(count(&[Some(1), lost, Some(5), lost, Some(6), Some(6), Some(9)]), [0, 1, 2, 1, 0, 0, 1]);
    assert_eq!(count(&[lost, Some(7), Some(9)]), [1, 0, 0]);
    assert_eq!(count(&[Some(5), Some(9), Some(3)]), [0, 0, 0]);
}

/// A container that is not armed yet, or whose arming failed.
#[test]
fn a_denial_of_one_that_is_not_known_to_have_the_profile_is_not_anothers() {
    let node = Node::new(&[]);
    node.has('a', 7, RULES);
    node.registry.add(container(&id('b'), "default", "web"));
    add(&node.dir.path().join("proc"), 8, 'S', 100, &format!("/kubepods/{}", id('b')));
    node.kernel.runs(8, PROFILE);
    let alert = node.told(&file("open", "", "/etc/passwd", 8, "r"));
    assert_eq!((alert.container_id, alert.policy_name.as_str()), (id('b'), "p"));
    assert_eq!(node.told(&file("open", "", "/etc/passwd", 7, "r")).container_id, id('a'));
}

#[test]
fn native_rules_are_named_where_no_other_policy_can_have_said_it() {
    let native = |name: &str| {
        Native {
        policy: parse("n.yaml", &format!(
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
             spec:\n  selector: {{matchLabels: {{app: web}}}}\n  apparmor: 'deny /etc/group r,'\n"
        )).policies[0].id().clone(),
        text: "deny /etc/group r,".to_owned(),
    }
    };
    let node = Node::new(&[native("one")]);
    node.has('a', 7, RULES);
    let group = file("open", "", "/etc/group", 7, "r");
    assert_eq!(by(&node.told(&group)), ("one", "spec.apparmor", "File", "/etc/group"));
    assert_eq!(node.told(&file("open", "", "/etc/passwd", 7, "r")).policy_name, "p");
    assert_eq!(node.told(&file("link", "", "/etc/group", 7, "l")).policy_name, "unknown");
    let either = node.told(&file("open", "", "/keys/a", 7, "r"));
    assert!(either.policy_name == "unknown" && either.message.contains("any of these"), "{either:?}");
    let node = Node::new(&[native("one"), native("two")]);
    node.has('a', 7, RULES);
    assert_eq!(node.told(&group).policy_name, "unknown");
}

/// The host under a policy with these rules, and its files with their inodes; directories end in `/`.
fn host(rules: &str, files: &[(&str, u64)]) -> (Arc<Registry>, Attribution) {
    host_without(rules, files, &[])
}

/// The same, where the rules that deny any of these files are refused, for the host cannot do without them.
fn host_without(rules: &str, files: &[(&str, u64)], vital: &[&str]) -> (Arc<Registry>, Attribution) {
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {{name: host}}\n\
         spec:\n  nodeSelector: {{matchLabels: {{kubernetes.io/os: linux}}}}\n  action: Block\n{rules}\n"
    );
    let parsed = parse("host.yaml", &text);
    assert_eq!(parsed.errors, []);
    let subject = Subject::of_host([("kubernetes.io/os".to_owned(), "linux".to_owned())].into());
    let ruleset = Ruleset::resolve(&parsed.policies, &Postures::default(), &subject).ruleset;
    let vital: Vec<_> = vital.iter().map(|path| (path.as_bytes().to_vec(), Vital::Program)).collect();
    let labels = selinux::compile(&ruleset).without(&vital).0;
    let files = files.iter().map(|(path, inode)| {
        let kind = if path.ends_with('/') { Kind::Directory } else { Kind::File };
        let path = path.trim_end_matches('/').as_bytes().to_vec();
        let label = labels.of(&path, kind);
        (path, *inode, label)
    });
    let noted = Arc::new(Noted::new(&labels, files));
    let registry = Arc::new(Registry::default());
    let host = Container { id: ContainerId::host(), subject, ..(*container("a", "default", "web")).clone() };
    registry.add(Arc::new(host));
    registry.assign(&ContainerId::host(), Some(Arc::new(ruleset)));
    let attribution =
        Attribution::new(Arc::clone(&registry), None, Box::new(move || Some(Arc::clone(&noted))));
    (registry, attribution)
}

fn told_of_label(attribution: &mut Attribution, permissions: &str, what: &str, class: &str) -> Alert {
    let text = format!(
        "audit(1.000:2): avc:  denied  {{ {permissions} }} for  pid=311 comm=\"head\" {what} dev=\"vda\" \
         scontext=system_u:system_r:host_t:s0 tcontext=nri_enforcer_rwcm_u:object_r:base_t:s0 tclass={class} permissive=0"
    );
    let denial = Denial::parse(&text).unwrap().unwrap();
    let alerts = Alerts { cluster_name: "c".into(), host_name: "h".into() };
    alerts.denial(&attribution.judge(Heard { denial, acting: None, process: None }))
}

#[test]
fn a_denial_by_a_label_is_of_the_host() {
    let rules =
        "  file: {matchPaths: [{path: /t/secret}], matchDirectories: [{dir: /t/dir/, recursive: true}]}";
    let files = [("/t/secret", 7), ("/t/dir/", 8), ("/t/dir/x", 9), ("/t/dir/sub/", 10)];
    let (registry, mut attribution) = host(rules, &files);
    let mut told = |permissions: &str, what: &str, class: &str| {
        told_of_label(&mut attribution, permissions, what, class)
    };
    let alert = told("read", "name=\"secret\" ino=7", "file");
    assert_eq!(by(&alert), ("host", "spec.file.matchPaths[0]", "File", "/t/secret"));
    assert_eq!((alert.kind, alert.enforcer, alert.action), ("MatchedHostPolicy", "SELinux", "Block"));
    assert_eq!((alert.namespace_name.as_str(), alert.host_pid), ("", 311));
    // the kernel tells any name of a file that has several: by which it was opened is not known
    let alert = told("read", "name=\"linked\" ino=7", "file");
    assert_eq!(by(&alert), ("host", "spec.file.matchPaths[0]", "File", "linked"));
    assert!(alert.data.contains("path=unknown"), "{}", alert.data);
    // of what is to be made there is a name alone; in which of the directories is not known
    let alert = told("add_name", "name=\"new\"", "dir");
    assert_eq!(by(&alert), ("host", "spec.file.matchDirectories[0]", "File", "new"));
    // a file of the same name that has no label of ours
    let alert = told("read", "name=\"secret\" ino=77", "file");
    assert_eq!((alert.policy_name.as_str(), alert.resource.as_str()), ("unknown", "secret"));
    assert!(
        alert.data.contains("path=unknown") && alert.message.contains("does not tell the path"),
        "{alert:?}"
    );
    // until files have the labels of the rules in force
    let next = resolved(
        "\n  file: {matchPaths: [{path: /t/other}]}",
        &registry.container(&ContainerId::host()).unwrap().subject,
    );
    registry.assign(&ContainerId::host(), Some(next));
    let alert = told("add_name", "name=\"new\"", "dir");
    assert!(alert.policy_name == "unknown" && alert.message.contains("labels of other rules"), "{alert:?}");
    let mut none = Attribution::new(registry, None, Box::new(|| None));
    let alert = told_of_label(&mut none, "read", "name=\"secret\" ino=7", "file");
    assert!(alert.policy_name == "unknown" && alert.message.contains("not known yet"), "{alert:?}");
}

/// A rule that is refused for a file of this host is none of those in force: it is not blamed, and all others are found still.
#[test]
fn rules_that_were_refused_by_inode_have_denied_nothing() {
    let rules = "  file: {matchPaths: [{path: /t/agent}], \
        matchDirectories: [{dir: /t/, recursive: true}, {dir: /a/, recursive: true}]}";
    let files = [("/a/", 1), ("/a/x", 2), ("/t/agent", 3), ("/t/y", 4)];
    let told = |vital: &[&str], permissions: &str, what: &str, class: &str| {
        let alert = told_of_label(&mut host_without(rules, &files, vital).1, permissions, what, class);
        (alert.rule, alert.message)
    };
    let rule = |number: u8| format!("spec.file.matchDirectories[{number}]");
    assert_eq!(told(&[], "read", "name=\"y\" ino=4", "file").0, rule(0));
    let refused = told(&["/t/agent"], "read", "name=\"y\" ino=4", "file");
    assert!(refused.0.is_empty() && refused.1.contains("do not deny it"), "{refused:?}");
    assert_eq!(told(&["/t/agent"], "read", "name=\"x\" ino=2", "file").0, rule(1));
    assert_eq!(told(&["/t/agent"], "add_name", "name=\"new\"", "dir"), (rule(1), String::new()));
}

/// Making something may be denied by any rule that is about a directory with that label.
#[test]
fn what_is_made_is_of_one_rule_or_of_none() {
    let one = "  file: {matchDirectories: [{dir: /a/, recursive: true}]}";
    let made = |rules: &str, files: &[(&str, u64)]| {
        told_of_label(&mut host(rules, files).1, "add_name", "name=\"new\"", "dir")
    };
    let alert = made(one, &[("/a/", 1)]);
    assert_eq!(by(&alert), ("host", "spec.file.matchDirectories[0]", "File", "/a/new"));
    let two = "  file: {matchDirectories: [{dir: /a/, recursive: true}, {dir: /b/, recursive: true}]}";
    let alert = made(two, &[("/a/", 1), ("/b/", 2)]);
    assert!(alert.policy_name == "unknown" && alert.message.contains("any of these"), "{alert:?}");
    let alert = made(two, &[("/a/", 1)]);
    assert_eq!(alert.rule, "spec.file.matchDirectories[0]");
    // more rules than are asked: what those say that are asked is not all
    let dirs: Vec<String> = (0..100).map(|n| format!("/d{n}/")).collect();
    let files: Vec<(&str, u64)> = dirs.iter().map(String::as_str).zip(1..).collect();
    let rules: Vec<String> = dirs.iter().map(|dir| format!("{{dir: {dir}, recursive: true}}")).collect();
    let alert = made(&format!("  file: {{matchDirectories: [{}]}}", rules.join(", ")), &files);
    assert!(alert.policy_name == "unknown" && alert.message.contains("any of these"), "{alert:?}");
}

/// Whoever judges them has a sign of life to give meanwhile; what is left is for the next time.
#[test]
fn slow_judgements_are_given_up_in_time_and_nothing_is_left_out() {
    let (sender, queue) = sync_channel(8);
    let text = "audit(1.000:2): apparmor=\"DENIED\" operation=\"open\" profile=\"nri-enforcer.a\" name=\"/x\" pid=7 comm=\"x\" \
                requested_mask=\"r\" denied_mask=\"r\" fsuid=0 ouid=0";
    let denial = Denial::parse(text).unwrap().unwrap();
    for _ in 0..3 {
        sender.try_send(Heard { denial: denial.clone(), acting: None, process: None }).unwrap();
    }
    let audit = Audit { queue, shared: Arc::default() };
    let taken = || {
        let mut taken = 0;
        audit.take(|_| {
            std::thread::sleep(AT_ONCE);
            taken += 1;
        });
        taken
    };
    assert_eq!([taken(), taken(), taken(), taken()], [1, 1, 1, 0]);
}

/// What is left of it could be taken for all that the kernel told.
#[test]
fn a_record_that_is_cut_off_is_no_denial_and_counted_where_it_is_ours() {
    let (sender, queue) = sync_channel(8);
    let mut reader = Reader {
        socket: socket::tests::open(1 << 20),
        sender,
        shared: Arc::default(),
        container_of: Box::new(|_| None),
        stop: Arc::default(),
        living: Living::new(crate::procs::Procs::default()),
        numbers: Numbers::default(),
    };
    let ours = format!("audit(1.000:2): {}", file("open", "", "/etc/passwd", 7, "r"));
    let others = ours.replace(PROFILE, "another");
    assert!(reader.record(audit::AVC, &ours, true) && reader.record(audit::AVC, &others, true));
    assert!(reader.record(audit::AVC + 1, &ours, false), "of another kind");
    assert_eq!((queue.try_iter().count(), reader.shared.unread.load(Ordering::Relaxed)), (0, 1));
    assert!(reader.record(audit::AVC, &ours, false));
    assert_eq!(queue.try_iter().count(), 1);
}

/// Set for the process in which `Audit::listen` is tried.
const WITHOUT: &str = "AUDIT_TEST_WITHOUT";
/// For a shell that is the first process: it is in the network namespace, what it starts is in another.
const ELSEWHERE: &str = "unshare --net \"$0\" \"$@\"; exit $?";

#[test]
fn why_nothing_can_be_heard_is_told() {
    if let Ok(wanted) = std::env::var(WITHOUT) {
        let why = Audit::listen(Arc::default(), Box::new(|_| None)).unwrap_err();
        assert!(
            why.starts_with("the kernel's audit records cannot be listened to") && why.contains(&wanted),
            "{why}"
        );
        return;
    }
    for (program, arguments, wanted) in [
        (
            "unshare",
            &["--fork", "--pid", "--mount-proc", "sh", "-c", ELSEWHERE][..],
            "outside the host's network namespace",
        ),
        ("setpriv", &["--bounding-set=-audit_read"], "CAP_AUDIT_READ"),
    ] {
        let mut command = std::process::Command::new(program);
        command.args(arguments).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "audit::tests::why_nothing_can_be_heard_is_told"]).env(WITHOUT, wanted);
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{program}: {told}");
    }
}
