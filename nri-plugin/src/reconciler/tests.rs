use std::sync::Mutex;

use super::linked::GONE;
use super::*;
use crate::container::Wish;
use crate::kernel::recording::Recording;
use crate::order::Present;
use crate::procs::tests::{add, executes};
use crate::registry::Standing;
use enforcer_core::decide::{Access, Verdict};
use enforcer_core::policy::parse;
use enforcer_core::ruleset::Ruleset;
use enforcer_core::subject::Subject;

/// A policy `name` that blocks `path` for `app: web` in the namespace `default`.
pub(crate) fn policies(named: &[(&str, &str)]) -> Arc<PolicySet> {
    let policy = |(name, path): &(&str, &str)| {
        let text = format!(
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
             spec:\n  selector: {{matchLabels: {{app: web}}}}\n  file: {{matchPaths: [{{path: {path}}}]}}\n  action: Block\n"
        );
        let parsed = parse("test.yaml", &text);
        assert_eq!(parsed.errors, []);
        Arc::new(parsed.policies.into_iter().next().unwrap())
    };
    Arc::new(PolicySet::new(named.iter().map(policy).collect()))
}

pub(crate) fn container(id: &str, namespace: &str, app: &str) -> Arc<Container> {
    let labels = [("app".to_owned(), app.to_owned())].into();
    let subject = Subject {
        namespace: namespace.into(),
        pod: "pod".into(),
        labels,
        container: "main".into(),
        ..Subject::default()
    };
    Arc::new(Container {
        id: ContainerId::new(id).unwrap(),
        subject,
        pod_uid: "uid".into(),
        image: "image".into(),
        wish: Default::default(),
    })
}

struct Fixture {
    kernel: Arc<Recording>,
    policies: watch::Sender<Arc<PolicySet>>,
    proc: tempfile::TempDir,
    notices: Arc<Mutex<Vec<String>>>,
    registry: Arc<Registry>,
    reconciler: Reconciler<Recording>,
}

impl Fixture {
    fn new(set: Arc<PolicySet>) -> Self {
        Self::with(Arc::default(), set)
    }

    fn with(kernel: Arc<Recording>, set: Arc<PolicySet>) -> Self {
        let (policies, seen) = watch::channel(set);
        let proc = tempfile::tempdir().unwrap();
        let notices = Arc::<Mutex<Vec<String>>>::default();
        let registry = Arc::new(Registry::default());
        let notify = {
            let notices = Arc::clone(&notices);
            Box::new(move |notice: Notice| {
                notices.lock().unwrap().push(match notice {
                    Notice::Late { container, .. } => format!("late {}", container.id),
                    Notice::Unprotected { container, .. } => format!("unprotected {}", container.id),
                    Notice::Open(start) => format!("open {}", start.id),
                    other => panic!("not the reconciler's: {other:?}"),
                });
            })
        };
        let selection = Selection { exempt: ["kube-system".to_owned()].into(), ..Selection::default() };
        let procs = Procs::at(proc.path());
        let reconciler =
            Reconciler::new(Arc::clone(&kernel), selection, seen, Arc::clone(&registry), procs, notify);
        Self { kernel, policies, proc, notices, registry, reconciler }
    }

    /// A process lives (in a cgroup that names the container).
    fn lives(&self, pid: i32, id: &str) {
        add(self.proc.path(), pid, 'S', 1000, &format!("/k8s.io/{id}"));
    }

    fn dies(&self, pid: i32) {
        std::fs::remove_dir_all(self.proc.path().join(pid.to_string())).unwrap();
    }

    fn take(&mut self, order: Order) {
        self.reconciler.take(order);
        self.work();
    }

    fn work(&mut self) {
        while !self.reconciler.is_idle() {
            self.reconciler.step();
        }
    }

    fn start(&mut self, container: &Arc<Container>, pid: i32) -> Result<(), String> {
        let (reply, mut answer) = oneshot::channel();
        self.take(Order::Created(Arc::clone(container)));
        self.take(Order::Start { container: Arc::clone(container), pid, reply });
        answer.try_recv().expect("answered").map_err(|refusal| refusal.to_string())
    }

    /// A container that runs since before.
    fn running(&self, id: &str, pid: i32, app: &str) -> Present {
        self.lives(pid, id);
        Present { container: container(id, "default", app), pid, running: true }
    }

    fn synchronize(&mut self, present: Vec<Present>) -> Synced {
        let (reply, mut answer) = oneshot::channel();
        self.take(Order::Synchronize { present, reply });
        answer.try_recv().expect("answered once idle")
    }

    fn change(&mut self, set: Arc<PolicySet>) {
        self.policies.send_replace(set);
        self.take(Order::PoliciesChanged);
    }

    fn notices(&self) -> Vec<String> {
        std::mem::take(&mut *self.notices.lock().unwrap())
    }
}

pub(crate) fn wanted(set: &PolicySet) -> RulesetDigest {
    let subject = container("x", "default", "web").subject.clone();
    Selection::default().resolve(set, &subject, Default::default()).unwrap().ruleset.digest()
}

/// The digest of the ruleset of a container that no policy selects.
fn nothing() -> RulesetDigest {
    Ruleset::resolve([], &Default::default(), &Subject::default()).ruleset.digest()
}

#[test]
fn a_start_arms_the_created_process_and_a_removal_disarms() {
    let set = policies(&[("p", "/etc/passwd")]);
    let mut f = Fixture::new(Arc::clone(&set));
    f.lives(7, "c1");
    let c1 = container("c1", "default", "web");
    f.take(Order::Created(Arc::clone(&c1)));
    assert_eq!(f.kernel.calls(), [""; 0], "nothing to arm before there is a process");
    assert_eq!(f.start(&c1, 7), Ok(()));
    assert_eq!(f.kernel.calls(), ["arm c1 7 Created"]);
    assert_eq!(f.kernel.digest("c1"), Some(wanted(&set)));
    assert!(f.registry.ruleset(&wanted(&set)).is_some());
    assert_eq!(f.notices(), [""; 0]);

    f.take(Order::Removed(c1.id.clone()));
    assert_eq!(f.kernel.calls(), ["disarm c1"]);
    assert!(f.registry.container(&c1.id).is_some(), "events may still be on their way");
}

#[test]
fn an_arming_that_fails_refuses_the_start_and_says_who_what_and_why() {
    let mut f = Fixture::new(policies(&[("p", "/etc/passwd")]));
    f.lives(7, "c1");
    f.kernel.breaks("arm", true);
    let refusal = f.start(&container("c1", "default", "web"), 7).unwrap_err();
    for part in ["container `main` of pod `default/pod`", "policy `default/p`", "arm is broken", "probe"] {
        assert!(refusal.contains(part), "{part} is not in: {refusal}");
    }
    assert_eq!(f.kernel.ids(), [""; 0]);
}

#[test]
fn a_selected_container_without_a_process_is_refused() {
    let mut f = Fixture::new(policies(&[("p", "/etc/passwd")]));
    assert!(
        f.start(&container("c1", "default", "web"), 0)
            .unwrap_err()
            .contains("did not tell its first process")
    );
    assert!(f.start(&container("c1", "default", "web"), 9).unwrap_err().contains("hostPID"));
    assert_eq!(f.kernel.calls(), [""; 0]);
}

/// CRI-O starts it all the same.
#[test]
fn what_runs_in_spite_of_a_refusal_is_armed_once_its_process_is_found() {
    let mut f = Fixture::new(policies(&[("p", "/etc/passwd")]));
    f.start(&container("c1", "default", "web"), 0).unwrap_err();
    f.take(Order::Sweep);
    assert_eq!(f.kernel.calls(), [""; 0]);
    f.lives(9, "c1");
    f.take(Order::Sweep);
    assert_eq!(f.kernel.calls(), ["arm c1 9 Running"]);
    assert_eq!(f.notices(), ["late c1"]);
}

#[test]
fn what_no_policy_selects_is_never_touched() {
    let mut f = Fixture::new(policies(&[("p", "/etc/passwd")]));
    f.kernel.breaks("arm", true);
    for (pid, c) in (1..).zip([container("a", "default", "db"), container("b", "other", "web")]) {
        f.take(Order::Created(Arc::clone(&c)));
        f.take(Order::Started { container: Arc::clone(&c), pid });
        f.take(Order::Removed(c.id.clone()));
    }
    f.take(Order::Sweep);
    assert_eq!(f.kernel.calls(), [""; 0]);
}

#[test]
fn an_exempt_namespace_is_not_selected_by_its_own_policies() {
    let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p, namespace: kube-system}\n\
                spec:\n  selector: {matchLabels: {app: web}}\n  file: {matchPaths: [{path: /x}]}\n  action: Block\n";
    let policies = parse("p", text).policies.into_iter().map(Arc::new).collect();
    let mut f = Fixture::new(Arc::new(PolicySet::new(policies)));
    f.lives(7, "c1");
    let c1 = container("c1", "kube-system", "web");
    f.take(Order::Started { container: c1, pid: 7 });
    let present = Present { container: container("c2", "kube-system", "web"), pid: 7, running: true };
    assert_eq!(f.synchronize(vec![present]), Synced::default());
    assert_eq!(f.kernel.calls(), [""; 0]);
}

#[test]
fn a_synchronisation_arms_what_runs_and_reports_it() {
    let mut f = Fixture::new(policies(&[("p", "/etc/passwd")]));
    let created = Present { container: container("c4", "default", "web"), pid: 0, running: false };
    f.lives(14, "c5");
    let prepared = Present { container: container("c5", "default", "web"), pid: 14, running: false };
    let present = vec![
        f.running("c1", 11, "web"),
        f.running("c2", 12, "web"),
        f.running("c3", 13, "db"),
        created,
        prepared,
    ];
    assert_eq!(f.synchronize(present), Synced { adopted: 0, late: 2, failed: 0, unknown: 0 });
    assert_eq!(f.kernel.calls(), ["arm c1 11 Running", "arm c2 12 Running", "arm c5 14 Created"]);
    assert_eq!(f.notices(), ["late c1", "late c2"]);
}

#[test]
fn what_an_earlier_daemon_armed_is_adopted_updated_or_disarmed() {
    let set = policies(&[("p", "/etc/passwd")]);
    let kernel = Arc::<Recording>::default();
    kernel.preset("same", Some(wanted(&set)));
    kernel.preset("old", Some(wanted(&policies(&[("p", "/old")]))));
    kernel.preset("unselected", Some(wanted(&set)));
    kernel.preset("over", Some(wanted(&set)));
    kernel.preset("unlisted", Some(wanted(&set)));
    let mut f = Fixture::with(kernel, Arc::clone(&set));
    f.take(Order::Sweep);
    assert_eq!(f.kernel.calls(), [""; 0], "before the synchronisation nothing is known, so nothing is stale");
    f.lives(99, "unlisted"); // the runtime forgot it, and yet it lives
    let present =
        vec![f.running("same", 1, "web"), f.running("old", 2, "web"), f.running("unselected", 3, "db")];
    assert_eq!(f.synchronize(present), Synced { adopted: 3, late: 0, failed: 0, unknown: 0 });
    assert_eq!(f.kernel.calls(), ["update old", "update unselected", "disarm over"]);
    assert_eq!(f.kernel.digest("old"), Some(wanted(&set)));
    assert_eq!(f.kernel.digest("unselected"), Some(nothing()));
    assert_eq!(f.kernel.ids(), ["old", "same", "unlisted", "unselected"]);
    assert_eq!(f.notices(), [""; 0]);
    assert!(f.registry.ruleset(&wanted(&set)).is_some(), "events of adopted containers can be told");
}

/// The daemon that armed it died before it knew that the OCI hook had given up.
#[test]
fn what_was_armed_unheard_by_an_earlier_daemon_is_armed_again_as_one_that_runs() {
    let set = policies(&[("p", "/etc/passwd")]);
    let kernel = Arc::<Recording>::default();
    for id in ["created", "fine", "late"] {
        kernel.preset(id, Some(wanted(&set)));
    }
    kernel.waits("created");
    kernel.waits("late");
    let mut f = Fixture::with(kernel, Arc::clone(&set));
    let created = Present { running: false, ..f.running("created", 3, "web") };
    let present = vec![created, f.running("fine", 2, "web"), f.running("late", 1, "web")];
    assert_eq!(f.synchronize(present), Synced { adopted: 3, late: 0, failed: 0, unknown: 0 });
    assert_eq!(f.kernel.calls(), [""; 0], "the runtime may be at its own work still");
    f.take(Order::Sweep);
    assert_eq!(
        (f.kernel.calls(), f.notices()),
        (vec!["arm late 1 Running".to_owned()], vec!["late late".to_owned()])
    );
    f.take(Order::Sweep);
    assert_eq!(f.kernel.calls(), [""; 0]);
}

/// CRI-O does, while it ends a start and waits for this very synchronisation.
#[test]
fn what_is_listed_as_created_and_has_begun_is_armed_as_one_that_runs() {
    let mut f = Fixture::new(policies(&[("p", "/etc/passwd")]));
    let created = |f: &Fixture, id: &str, pid| Present { running: false, ..f.running(id, pid, "web") };
    let present = vec![created(&f, "begun", 3), created(&f, "waits", 4)];
    executes(f.proc.path(), 3, true);
    executes(f.proc.path(), 4, false);
    f.synchronize(present);
    assert_eq!(f.kernel.calls(), ["arm begun 3 Running", "arm waits 4 Created"]);
    assert_eq!(f.notices(), ["late begun"]);
}

#[test]
fn what_another_version_left_goes_only_once_everything_is_armed() {
    let mut fixture = Fixture::new(policies(&[("p", "/a")]));
    let present = vec![fixture.running("c1", 10, "web")];
    fixture.kernel.breaks("arm", true);
    fixture.synchronize(present);
    assert_eq!(fixture.kernel.times_settled(), 0, "c1 has only the old rules");
    fixture.kernel.breaks("arm", false);
    let present = vec![fixture.running("c1", 10, "web")];
    fixture.synchronize(present);
    assert_eq!(fixture.kernel.times_settled(), 1);
}

#[test]
fn a_failure_in_a_synchronisation_is_reported_once_and_tried_again() {
    let mut f = Fixture::new(policies(&[("p", "/etc/passwd")]));
    f.kernel.breaks("arm", true);
    let present = vec![f.running("c1", 11, "web")];
    assert_eq!(f.synchronize(present), Synced { adopted: 0, late: 0, failed: 1, unknown: 0 });
    f.take(Order::Sweep);
    assert_eq!(f.notices(), ["unprotected c1"], "not at each try");
    let id = container("c1", "default", "web").id.clone();
    let standing = f.registry.standing(&id);
    assert!(!standing.is_armed() && standing.problem.is_some(), "{standing:?}");
    f.kernel.breaks("arm", false);
    f.kernel.calls();
    f.take(Order::Sweep);
    assert_eq!(f.kernel.calls(), ["arm c1 11 Running"]);
    let standing = f.registry.standing(&id);
    assert!(standing.is_armed());
    assert_eq!(standing, Standing { ruleset: standing.ruleset, ..Standing::default() });
    assert_eq!(f.notices(), ["late c1"]);
}

#[test]
fn a_connection_that_comes_back_finds_what_started_meanwhile() {
    let mut f = Fixture::new(policies(&[("p", "/etc/passwd")]));
    let present = vec![f.running("c1", 11, "web")];
    f.synchronize(present);
    f.notices();
    f.dies(11);
    let present = vec![f.running("c2", 12, "web")];
    assert_eq!(f.synchronize(present), Synced { adopted: 0, late: 1, failed: 0, unknown: 0 });
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), ["c2"], "c1 is over");
    assert_eq!(f.notices(), ["late c2"]);
}

#[test]
fn a_change_reaches_what_runs() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    f.lives(1, "c1");
    f.start(&container("c1", "default", "web"), 1).unwrap();
    f.lives(2, "c2");
    f.take(Order::Started { container: container("c2", "default", "db"), pid: 2 });
    f.kernel.calls();

    let both = policies(&[("p", "/b"), ("q", "/q")]);
    f.change(Arc::clone(&both));
    assert_eq!(f.kernel.calls(), ["update c1"]);
    assert_eq!(f.kernel.digest("c1"), Some(wanted(&both)));
    f.change(Arc::clone(&both));
    assert_eq!(f.kernel.calls(), [""; 0], "equal digests are equal rulesets");

    f.change(Arc::default());
    assert_eq!(f.kernel.calls(), ["update c1"]);
    assert_eq!(
        f.kernel.digest("c1"),
        Some(nothing()),
        "it stays armed, so that nothing of it is ever lost sight of"
    );
    f.take(Order::Sweep);
    assert_eq!(f.kernel.calls(), [""; 0]);
    f.change(both);
    assert_eq!(f.kernel.calls(), ["update c1"]);
    assert_eq!(f.notices(), [""; 0], "a new policy for what runs is no lapse");
}

#[test]
fn a_new_policy_arms_what_runs_already() {
    let mut f = Fixture::new(Arc::default());
    f.lives(1, "c1");
    f.take(Order::Started { container: container("c1", "default", "web"), pid: 1 });
    f.change(policies(&[("p", "/a")]));
    assert_eq!(f.kernel.calls(), ["arm c1 1 Running"]);
    assert_eq!(f.notices(), [""; 0], "no policy was late: there was none");
}

#[test]
fn policies_that_cannot_be_lifted_stay_in_force_until_they_can() {
    let old = policies(&[("p", "/a")]);
    let mut f = Fixture::new(Arc::clone(&old));
    f.lives(1, "c1");
    f.start(&container("c1", "default", "web"), 1).unwrap();
    f.kernel.breaks("update", true);
    f.change(Arc::default());
    assert_eq!(f.kernel.digest("c1"), Some(wanted(&old)));
    f.kernel.breaks("update", false);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.digest("c1"), Some(nothing()));
}

#[test]
fn a_failed_update_leaves_the_old_ruleset_and_is_tried_again() {
    let old = policies(&[("p", "/a")]);
    let mut f = Fixture::new(Arc::clone(&old));
    f.lives(1, "c1");
    f.start(&container("c1", "default", "web"), 1).unwrap();
    f.kernel.breaks("update", true);
    let new = policies(&[("p", "/b")]);
    f.change(Arc::clone(&new));
    assert_eq!(f.kernel.digest("c1"), Some(wanted(&old)));
    let id = container("c1", "default", "web").id.clone();
    assert!(f.registry.standing(&id).is_armed() && f.registry.standing(&id).problem.is_some());
    f.kernel.breaks("update", false);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.digest("c1"), Some(wanted(&new)));
    assert!(f.registry.standing(&id).is_armed() && f.registry.standing(&id).problem.is_none());
    // as it was before, by a policy that comes back
    f.kernel.breaks("update", true);
    f.change(old);
    assert!(f.registry.standing(&id).problem.is_some());
    f.change(new);
    assert_eq!(f.registry.standing(&id).problem, None, "the kernel has what is wanted");
}

#[test]
fn a_start_between_a_change_and_its_turn_gets_the_new_ruleset() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    f.lives(1, "c1");
    let new = policies(&[("p", "/b")]);
    f.policies.send_replace(Arc::clone(&new));
    f.start(&container("c1", "default", "web"), 1).unwrap();
    assert_eq!(f.kernel.digest("c1"), Some(wanted(&new)));
    f.kernel.calls();
    f.take(Order::PoliciesChanged);
    assert_eq!(f.kernel.calls(), [""; 0]);
}

#[test]
fn a_start_does_not_wait_behind_other_updates() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    for pid in 1..=50 {
        let id = format!("c{pid}");
        f.lives(pid, &id);
        f.start(&container(&id, "default", "web"), pid).unwrap();
    }
    f.policies.send_replace(policies(&[("p", "/b")]));
    f.reconciler.take(Order::PoliciesChanged); // 50 updates to do, none done
    f.kernel.calls();
    f.lives(99, "urgent");
    let (reply, mut answer) = oneshot::channel();
    f.reconciler.take(Order::Start { container: container("urgent", "default", "web"), pid: 99, reply });
    assert!(answer.try_recv().unwrap().is_ok());
    assert_eq!(f.kernel.calls(), ["arm urgent 99 Created"]);
    f.work();
    assert_eq!(f.kernel.calls().len(), 50);
}

#[test]
fn the_sweep_finds_the_end_that_nobody_told() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    f.lives(1, "c1");
    f.lives(2, "c1"); // another process of the container
    f.start(&container("c1", "default", "web"), 1).unwrap();
    f.dies(1);
    f.take(Order::Sweep);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), ["c1"], "it still has a process");
    f.dies(2);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), [""; 0]);
}

#[test]
fn what_was_adopted_without_a_process_does_not_stay_forever() {
    let set = policies(&[("p", "/a")]);
    let kernel = Arc::<Recording>::default();
    kernel.preset("c1", Some(wanted(&set)));
    let mut f = Fixture::with(kernel, set);
    let created = || Present { container: container("c1", "default", "web"), pid: 0, running: false };
    f.synchronize(vec![created()]);
    f.synchronize(Vec::new());
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), [""; 0]);
}

#[test]
fn the_end_is_not_taken_from_one_look() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    f.lives(1, "c1");
    f.start(&container("c1", "default", "web"), 1).unwrap();
    f.dies(1);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), ["c1"]);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), [""; 0]);
}

#[test]
fn when_processes_cannot_be_listed_nothing_is_taken_for_dead() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    f.lives(1, "c1");
    f.start(&container("c1", "default", "web"), 1).unwrap();
    std::fs::remove_dir_all(f.proc.path()).unwrap();
    for _ in 0..3 {
        f.take(Order::Sweep);
    }
    assert_eq!(f.kernel.ids(), ["c1"]);
}

#[test]
fn a_disarming_that_fails_is_tried_again_though_the_container_is_forgotten() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    f.synchronize(Vec::new());
    f.lives(1, "c1");
    let c1 = container("c1", "default", "web");
    f.start(&c1, 1).unwrap();
    f.dies(1);
    f.kernel.breaks("disarm", true);
    f.take(Order::Removed(c1.id.clone()));
    assert_eq!(f.kernel.ids(), ["c1"]);
    f.kernel.breaks("disarm", false);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), [""; 0]);
}

#[test]
fn what_vanished_from_the_kernel_is_armed_again_and_reported() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    f.lives(1, "c1");
    f.start(&container("c1", "default", "web"), 1).unwrap();
    f.kernel.preset("c1", None);
    f.kernel.calls();
    f.take(Order::Sweep);
    assert_eq!(f.kernel.calls(), ["arm c1 1 Running"]);
    assert_eq!(f.notices(), ["late c1"]);
}

#[test]
fn a_reused_pid_is_not_armed() {
    let mut f = Fixture::new(Arc::default());
    f.lives(1, "c1");
    f.take(Order::Started { container: container("c1", "default", "web"), pid: 1 });
    add(f.proc.path(), 1, 'S', 2000, "/somebody-else");
    f.change(policies(&[("p", "/a")]));
    assert_eq!(f.kernel.calls(), [""; 0]);
}

#[test]
fn a_running_container_whose_process_cannot_be_seen_is_reported() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    let present = Present { container: container("c1", "default", "web"), pid: 5, running: true };
    assert_eq!(f.synchronize(vec![present]), Synced { adopted: 0, late: 0, failed: 1, unknown: 0 });
    assert_eq!(f.notices(), ["unprotected c1"]);
}

#[test]
fn a_refused_start_is_no_alarm_unless_the_runtime_starts_it_all_the_same() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    f.kernel.breaks("arm", true);
    for (pid, id) in [(1, "c1"), (2, "c2")] {
        f.lives(pid, id);
        f.start(&container(id, "default", "web"), pid).unwrap_err();
    }
    f.kernel.breaks("arm", false);
    f.kernel.calls();
    f.dies(1); // as it should; the other runs on
    f.take(Order::Sweep);
    assert_eq!(f.kernel.calls(), ["arm c2 2 Running"]);
    assert_eq!(f.notices(), ["late c2"]);
}

#[test]
fn another_first_process_is_armed_anew() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    f.lives(1, "c1");
    let c1 = container("c1", "default", "web");
    f.start(&c1, 1).unwrap();
    f.dies(1);
    f.lives(2, "c1");
    f.kernel.calls();
    f.start(&c1, 2).unwrap();
    assert_eq!(f.kernel.calls(), ["disarm c1", "arm c1 2 Created"]);
    f.dies(2);
    f.lives(3, "c1");
    f.kernel.breaks("disarm", true);
    assert!(f.start(&c1, 3).is_err(), "the new process has no identity");
}

#[test]
fn what_is_armed_cannot_be_read_so_nothing_is_disarmed() {
    let set = policies(&[("p", "/a")]);
    let kernel = Arc::<Recording>::default();
    kernel.preset("over", Some(wanted(&set)));
    kernel.breaks("armed", true);
    let mut f = Fixture::with(kernel, set);
    f.synchronize(Vec::new());
    assert_eq!(f.kernel.ids(), ["over"]);
    f.kernel.breaks("armed", false);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), [""; 0]);
}

#[test]
fn the_thread_ends_with_its_orders() {
    let f = Fixture::new(policies(&[("p", "/a")]));
    let (orders, taken) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || f.reconciler.run(&taken));
    orders.send(Order::Sweep).unwrap();
    drop(orders);
    thread.join().unwrap();
}

/// A policy `name` that blocks executing `path` for `app: web` in the namespace `default`.
fn processes(name: &str, path: &str) -> Arc<PolicySet> {
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: web}}}}\n  process: {{matchPaths: [{{path: {path}}}]}}\n"
    );
    let parsed = parse("test.yaml", &text);
    assert_eq!(parsed.errors, []);
    Arc::new(PolicySet::new(parsed.policies.into_iter().map(Arc::new).collect()))
}

impl Fixture {
    /// Makes a link in the root of a process.
    fn link(&self, pid: i32, link: &str, target: &str) {
        let path = self.proc.path().join(pid.to_string()).join("root").join(link);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::remove_file(&path).ok();
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    /// What becomes of executing a program in a container.
    fn exec(&self, id: &str, path: &str) -> Verdict {
        let ruleset = self.registry.ruleset(&self.kernel.digest(id).expect("armed")).expect("known");
        ruleset.decide(&Access::exec(path.as_bytes())).verdict
    }
}

#[test]
fn links_in_the_container_are_followed_when_it_is_armed_and_when_policies_change() {
    let mut f = Fixture::new(processes("p", "/bin/ls"));
    f.lives(7, "c1");
    f.link(7, "bin", "usr/bin");
    assert_eq!(f.start(&container("c1", "default", "web"), 7), Ok(()));
    assert_eq!(f.exec("c1", "/usr/bin/ls"), Verdict::Block);
    assert_eq!(f.exec("c1", "/bin/ls"), Verdict::Block);
    let standing = f.registry.standing(&ContainerId::new("c1").unwrap());
    assert_eq!(standing.names, ["/bin/ls (resolves to /usr/bin/ls)"], "as `status` shows it");

    f.change(processes("p", "/bin/cat"));
    assert_eq!(f.kernel.calls(), ["arm c1 7 Created", "update c1"]);
    assert_eq!(f.exec("c1", "/usr/bin/cat"), Verdict::Block);
    assert_eq!(f.exec("c1", "/usr/bin/ls"), Verdict::Allow);
}

#[test]
fn a_link_that_is_not_followed_is_told_with_its_policy() {
    let mut f = Fixture::new(processes("p", "/bin/ls"));
    f.lives(7, "c1");
    f.link(7, "bin/ls", "toybox");
    assert_eq!(f.start(&container("c1", "default", "web"), 7), Ok(()));
    let gaps = f.registry.standing(&ContainerId::new("c1").unwrap()).gaps;
    let told: Vec<_> = gaps.iter().map(|gap| (gap.policy.name.as_str(), gap.reason)).collect();
    assert_eq!(told, [("p", enforcer_core::coverage::GapReason::MultiCall)]);
}

#[test]
fn what_a_container_makes_of_its_links_takes_no_name_away() {
    let mut f = Fixture::new(processes("p", "/bin/ls"));
    f.lives(7, "c1");
    f.link(7, "bin", "usr/bin");
    assert_eq!(f.start(&container("c1", "default", "web"), 7), Ok(()));
    f.link(7, "bin", "elsewhere");
    f.change(processes("another-name", "/bin/ls"));
    for path in ["/bin/ls", "/usr/bin/ls", "/elsewhere/ls"] {
        assert_eq!(f.exec("c1", path), Verdict::Block, "{path}");
    }
    f.link(7, "bin", "third");
    f.change(processes("p", "/bin/ls"));
    assert_eq!(f.exec("c1", "/usr/bin/ls"), Verdict::Block, "the first name counts");
    // the policy is taken away and comes back, as when it is replaced
    f.change(processes("p", "/bin/cat"));
    assert_eq!(f.exec("c1", "/usr/bin/ls"), Verdict::Allow);
    f.change(processes("p", "/bin/ls"));
    assert_eq!(f.exec("c1", "/usr/bin/ls"), Verdict::Block, "still");
}

#[test]
fn names_of_paths_that_rules_named_once_are_remembered_up_to_a_bound() {
    let mut f = Fixture::new(processes("p", "/bin/ls"));
    f.lives(7, "c1");
    f.link(7, "bin", "usr/bin");
    let c1 = container("c1", "default", "web");
    assert_eq!(f.start(&c1, 7), Ok(()));
    for n in 0..3 * GONE {
        f.change(processes("p", &format!("/bin/program-{n}")));
        let names = &f.reconciler.known.get(&c1.id).unwrap().names;
        assert_eq!(names.len(), 1 + (n + 1).min(GONE), "after {n} changes");
        if n > 0 {
            assert_eq!(names[1].0.to_string(), format!("/bin/program-{}", n - 1), "the newest first");
        }
    }
    assert_eq!(f.exec("c1", &format!("/usr/bin/program-{}", 3 * GONE - 1)), Verdict::Block);
}

/// New rules are in force after a look at what is new in them; the rest is looked at right after.
#[test]
fn a_change_does_not_wait_for_what_was_looked_up_before() {
    let mut f = Fixture::new(processes("p", "/bin/ls"));
    f.lives(7, "c1");
    f.link(7, "bin", "usr/bin");
    assert_eq!(f.start(&container("c1", "default", "web"), 7), Ok(()));
    f.kernel.calls();
    f.link(7, "bin", "elsewhere");
    let both = [&processes("p", "/bin/ls"), &processes("new", "/bin/cat")].map(|set| {
        set.selecting(&container("c1", "default", "web").subject).into_iter().cloned().collect::<Vec<_>>()
    });
    f.policies.send_replace(Arc::new(PolicySet::new(both.concat())));
    f.reconciler.take(Order::PoliciesChanged);

    f.reconciler.step();
    assert_eq!(f.kernel.calls(), ["update c1"]);
    let of = |f: &Fixture| ["/usr/bin/ls", "/elsewhere/ls", "/elsewhere/cat"].map(|path| f.exec("c1", path));
    assert_eq!(of(&f), [Verdict::Block, Verdict::Allow, Verdict::Block]);
    assert!(!f.reconciler.is_idle());

    f.reconciler.step();
    assert_eq!(f.kernel.calls(), ["update c1"]);
    assert_eq!(of(&f), [Verdict::Block; 3]);
    assert!(f.reconciler.is_idle());

    // where nothing else is found, that is no change
    f.change(processes("p", "/bin/ls"));
    assert_eq!(f.kernel.calls(), ["update c1"]);
    // and what could not be looked up is asked again before the rules are in force
    f.reconciler.known.values_mut().for_each(|known| known.looked_up = None);
    f.link(7, "bin", "third");
    f.policies.send_replace(processes("again", "/bin/ls"));
    f.reconciler.take(Order::PoliciesChanged);
    f.reconciler.step();
    assert_eq!(f.exec("c1", "/third/ls"), Verdict::Block);
}

#[test]
fn containers_whose_links_agree_share_a_ruleset() {
    let mut f = Fixture::new(processes("p", "/bin/ls"));
    for (pid, link) in [(1, "usr/bin"), (2, "usr/bin"), (3, "other")] {
        f.lives(pid, &format!("c{pid}"));
        f.link(pid, "bin", link);
        assert_eq!(f.start(&container(&format!("c{pid}"), "default", "web"), pid), Ok(()));
    }
    assert_eq!(f.kernel.digest("c1"), f.kernel.digest("c2"));
    assert_ne!(f.kernel.digest("c1"), f.kernel.digest("c3"));
    let of = |id: &str| {
        Arc::clone(&f.reconciler.known[&ContainerId::new(id).unwrap()].linked.as_ref().unwrap().ruleset)
    };
    assert!(Arc::ptr_eq(&of("c1"), &of("c2")), "one in memory, too");
    f.take(Order::Removed(ContainerId::new("c3").unwrap()));
    f.take(Order::Sweep);
    let made: BTreeSet<_> = f.reconciler.linked.values().map(|answer| answer.linked.as_ptr()).collect();
    assert_eq!(made.len(), 1, "and no more than are wanted");
}

#[test]
fn a_change_reaches_only_whom_it_touches() {
    let web = policies(&[("p", "/x")]);
    let mut f = Fixture::new(Arc::clone(&web));
    for (pid, app) in [(1, "web"), (2, "db")] {
        f.lives(pid, &format!("c{pid}"));
        let c = container(&format!("c{pid}"), "default", app);
        f.take(Order::Started { container: c, pid });
    }
    f.kernel.calls();
    let of_db = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: db, namespace: default}\n\
                 spec:\n  selector: {matchLabels: {app: db}}\n  file: {matchPaths: [{path: /y}]}\n";
    let mut both = web.policies().to_vec();
    both.extend(parse("db.yaml", of_db).policies.into_iter().map(Arc::new));
    f.policies.send_replace(Arc::new(PolicySet::new(both)));
    f.reconciler.take(Order::PoliciesChanged);
    let queued: Vec<_> = f.reconciler.queue.iter().map(ContainerId::as_str).collect();
    assert_eq!(queued, ["c2"]);
    f.work();
    assert_eq!(f.kernel.calls(), ["arm c2 2 Running"]);
}

#[test]
fn strict_refuses_links_that_are_not_followed() {
    let mut f = Fixture::new(processes("p", "/bin/ls"));
    f.reconciler.selection.strict = true;
    f.lives(7, "c1");
    f.link(7, "bin/ls", "coreutils");
    let refusal = f.start(&container("c1", "default", "web"), 7).unwrap_err();
    assert!(refusal.contains("strict") && refusal.contains("program of many names"), "{refusal}");
    assert_eq!(f.kernel.calls(), [""; 0]);
    f.lives(8, "c2");
    assert_eq!(f.start(&container("c2", "default", "web"), 8), Ok(()));
}

#[test]
fn a_namespace_sets_the_postures_of_its_pods() {
    let allow = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p, namespace: default}\n\
                 spec:\n  selector: {}\n  process: {matchPaths: [{path: /app}]}\n  action: Allow\n";
    let policies: Vec<_> = parse("p.yaml", allow).policies.into_iter().map(Arc::new).collect();
    let namespace = |posture: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: default, annotations: {{kubearmor-file-posture: {posture}}}}}\n"
        );
        parse("n.yaml", &text).namespaces
    };
    let mut f = Fixture::new(Arc::new(PolicySet::new(policies.clone())));
    f.lives(7, "c1");
    assert_eq!(f.start(&container("c1", "default", "web"), 7), Ok(()));
    assert_eq!(f.exec("c1", "/other"), Verdict::Audit, "the node's");
    f.change(Arc::new(PolicySet::with_namespaces(policies.clone(), namespace("block"))));
    assert_eq!(f.exec("c1", "/other"), Verdict::Block);
    f.change(Arc::new(PolicySet::with_namespaces(policies.clone(), namespace("allow"))));
    assert_eq!(f.exec("c1", "/other"), Verdict::Allow);
    f.change(Arc::new(PolicySet::new(policies)));
    assert_eq!(f.exec("c1", "/other"), Verdict::Audit);
}

#[test]
fn a_pod_cannot_wish_its_policies_away_unless_the_node_says_so() {
    let set = policies(&[("p", "/x")]);
    for (wish, honoured, armed) in [
        (Wish::Disabled, false, Some(Verdict::Block)),
        (Wish::Audited, false, Some(Verdict::Block)),
        (Wish::Disabled, true, None),
        (Wish::Audited, true, Some(Verdict::Audit)),
        (Wish::None, true, Some(Verdict::Block)),
    ] {
        let mut f = Fixture::new(Arc::clone(&set));
        f.reconciler.selection.honour_pod_annotations = honoured;
        f.lives(7, "c1");
        let wishing = Container { wish, ..container("c1", "default", "web").as_ref().clone() };
        f.take(Order::Started { container: Arc::new(wishing), pid: 7 });
        let ruleset = f.kernel.digest("c1").and_then(|digest| f.registry.ruleset(&digest));
        let verdict = ruleset.map(|ruleset| ruleset.decide(&Access::read(b"/x")).verdict);
        assert_eq!(verdict, armed, "{wish:?} {honoured}");
    }
}
#[test]
fn a_cluster_policy_and_a_policy_of_the_same_name_are_two() {
    let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p, namespace: default}\n\
                spec:\n  selector: {}\n  process: {matchPaths: [{path: /a}]}\n---\n\
                apiVersion: security.kubearmor.com/v1\nkind: KubeArmorClusterPolicy\nmetadata: {name: p}\n\
                spec:\n  selector: {matchExpressions: [{key: namespace, operator: In, values: [default]}]}\n  \
                process: {matchPaths: [{path: /b}]}\n";
    let parsed = parse("p.yaml", text);
    assert_eq!(parsed.errors, []);
    let mut f = Fixture::new(Arc::new(PolicySet::new(parsed.policies.into_iter().map(Arc::new).collect())));
    for (pid, namespace) in [(1, "default"), (2, "other")] {
        f.lives(pid, &format!("c{pid}"));
        assert_eq!(f.start(&container(&format!("c{pid}"), namespace, "web"), pid), Ok(()));
    }
    assert_eq!((f.exec("c1", "/a"), f.exec("c1", "/b")), (Verdict::Block, Verdict::Block));
    assert_eq!(f.kernel.ids(), ["c1"]);
}

mod batch;
mod covered;
mod found;
mod host;
mod keep;
mod untold;
mod visible;
