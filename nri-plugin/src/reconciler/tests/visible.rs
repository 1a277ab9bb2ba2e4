//! Containers that are to be seen.

use enforcer_core::ruleset::Class;
use enforcer_core::visibility::Visibility;

use super::*;
use crate::observe::watches::Who;

fn seen(annotation: &str) -> Arc<PolicySet> {
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: default, annotations: {{kubearmor-visibility: '{annotation}'}}}}"
    );
    let parsed = parse("n.yaml", &text);
    assert_eq!(parsed.errors, []);
    Arc::new(PolicySet::with_namespaces(Vec::new(), parsed.namespaces))
}

fn armed(f: &Fixture, id: &str) -> Arc<Ruleset> {
    f.registry.ruleset(&f.kernel.digest(id).expect("armed")).expect("known")
}

#[test]
fn a_namespace_makes_its_containers_visible_and_nobody_is_alerted() {
    let mut f = Fixture::new(Arc::default());
    for (pid, namespace) in [(7, "default"), (8, "other"), (9, "kube-system")] {
        f.lives(pid, &format!("c{pid}"));
        f.take(Order::Started { container: container(&format!("c{pid}"), namespace, "web"), pid });
    }
    assert!(f.kernel.calls().is_empty(), "nobody asked for it");
    f.change(seen("process,file"));
    assert_eq!(f.kernel.ids(), ["c7"]);
    let ruleset = armed(&f, "c7");
    assert!(ruleset.only_observes() && ruleset.observes(Class::File) && !ruleset.observes(Class::Network));
    assert!(f.notices().is_empty(), "no policy was late");
    assert_eq!(ruleset.decide(&Access::read(b"/x")).verdict, Verdict::Allow);
    f.change(seen("none"));
    assert!(armed(&f, "c7").is_empty());
}

#[test]
fn what_is_only_observed_starts_also_where_it_cannot_be() {
    let mut f = Fixture::new(seen("file"));
    f.lives(7, "c1");
    f.kernel.breaks("arm", true);
    assert_eq!(f.start(&container("c1", "default", "web"), 7), Ok(()));
    assert_eq!((f.kernel.ids().len(), f.notices().len()), (0, 0));
    f.kernel.breaks("arm", false);
    f.take(Order::Sweep);
    assert!(armed(&f, "c1").only_observes());
    assert!(f.notices().is_empty());
}

/// Beside a policy: it holds as before, and what it does not speak about is seen.
#[test]
fn a_policy_and_visibility_hold_together() {
    let both = |annotation| {
        let namespace = parse(
            "n.yaml",
            &format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: default, annotations: {{kubearmor-visibility: '{annotation}'}}}}"
            ),
        );
        Arc::new(PolicySet::with_namespaces(
            policies(&[("p", "/x")]).policies().to_vec(),
            namespace.namespaces,
        ))
    };
    let mut f = Fixture::new(both("none"));
    f.lives(7, "c1");
    f.start(&container("c1", "default", "web"), 7).unwrap();
    let without = f.kernel.digest("c1");
    assert_eq!(
        without,
        f.reconciler
            .selection
            .resolve(&policies(&[("p", "/x")]), &container("c1", "default", "web").subject, Wish::None)
            .map(|merged| merged.ruleset.digest()),
        "nothing differs"
    );
    f.change(both("file"));
    let ruleset = armed(&f, "c1");
    assert!(ruleset.observes(Class::File) && !ruleset.only_observes());
    assert_eq!(ruleset.decide(&Access::read(b"/x")).verdict, Verdict::Block);
    f.kernel.breaks("arm", true);
    f.lives(8, "c2");
    assert!(f.start(&container("c2", "default", "web"), 8).is_err(), "its policy must hold");
}

#[test]
fn a_watched_container_is_visible_as_long_as_somebody_watches() {
    let mut f = Fixture::new(Arc::default());
    f.lives(7, "c1");
    let web = container("c1", "default", "web");
    f.take(Order::Started { container: Arc::clone(&web), pid: 7 });
    let watches = Arc::clone(&f.reconciler.selection.watches);
    let who = Who {
        namespace: "default".into(),
        pod: Some("pod".into()),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        container: None,
        id: None,
    };
    let watching = watches.begin(who.clone(), Visibility::of([Class::Process])).unwrap();
    f.take(Order::Watched(who.clone()));
    assert!(armed(&f, "c1").observes(Class::Process));
    // one that starts meanwhile is from its first instruction on
    f.lives(8, "c2");
    f.start(&container("c2", "default", "web"), 8).unwrap();
    assert!(armed(&f, "c2").observes(Class::Process));
    f.lives(9, "c3");
    f.start(&container("c3", "default", "db"), 9).unwrap();
    assert_eq!(f.kernel.ids(), ["c1", "c2"]);
    drop(watching);
    f.take(Order::Watched(who));
    assert!(armed(&f, "c1").is_empty() && armed(&f, "c2").is_empty());
}

/// Whoever asked has given up, so that the container runs: an identity that waits for its first execution would wait for
/// ever.
#[test]
fn a_start_that_nobody_waits_for_any_more_is_armed_as_one_that_runs() {
    for set in [seen("process"), policies(&[("p", "/x")])] {
        let mut f = Fixture::new(set);
        f.lives(7, "c1");
        let (reply, answer) = oneshot::channel();
        drop(answer);
        f.take(Order::Start { container: container("c1", "default", "web"), pid: 7, reply });
        assert_eq!(f.kernel.calls(), ["arm c1 7 Running"]);
        let late: &[&str] = if armed(&f, "c1").only_observes() { &[] } else { &["late c1"] };
        assert_eq!(f.notices(), late);
    }
}

/// Its rules stay in force meanwhile. A daemon that could not arm it tries again.
#[test]
fn what_was_armed_after_its_start_was_given_up_is_armed_again_as_one_that_runs() {
    for broken in [false, true] {
        let mut f = Fixture::new(policies(&[("p", "/x")]));
        f.lives(7, "c1");
        let (web, id) = (container("c1", "default", "web"), ContainerId::new("c1").unwrap());
        f.start(&web, 7).unwrap();
        f.kernel.calls();
        f.kernel.breaks("arm", broken);
        f.reconciler.was_too_late(&id, Late::Begun); // as if the answer had found nobody
        f.work();
        if broken {
            assert!(f.registry.standing(&id).problem.is_some());
            f.kernel.breaks("arm", false);
            f.kernel.calls();
            f.take(Order::Sweep);
        }
        assert_eq!(f.kernel.calls(), ["arm c1 7 Running"]);
        assert_eq!(f.notices().last().map(String::as_str), Some("late c1"));
        // once
        f.take(Order::Sweep);
        f.work();
        assert!(f.kernel.calls().is_empty());
    }
}

/// The runtime stops what it was refused.
#[test]
fn one_whose_late_start_was_stopped_is_no_alert() {
    let mut f = Fixture::new(policies(&[("p", "/x")]));
    f.lives(7, "c1");
    let (web, id) = (container("c1", "default", "web"), ContainerId::new("c1").unwrap());
    f.start(&web, 7).unwrap();
    f.kernel.calls();
    f.dies(7);
    f.reconciler.was_too_late(&id, Late::Begun);
    f.work();
    assert!(f.kernel.calls().is_empty() && f.notices().is_empty());
}

/// What cannot be disarmed for the process before it is disarmed first, whatever comes to be known.
#[test]
fn what_stays_armed_for_another_process_is_never_taken_for_one_that_has_begun() {
    let mut f = Fixture::new(policies(&[("p", "/x")]));
    f.lives(7, "c1");
    let (web, id) = (container("c1", "default", "web"), ContainerId::new("c1").unwrap());
    f.start(&web, 7).unwrap();
    f.lives(8, "c1");
    f.kernel.breaks("disarm", true);
    assert!(f.start(&web, 8).unwrap_err().contains("cannot be disarmed"));
    f.reconciler.was_too_late(&id, Late::Begun); // nobody heard the refusal
    f.work();
    f.kernel.calls();
    f.kernel.breaks("disarm", false);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.calls(), ["disarm c1", "arm c1 8 Running"]);
}

/// The OCI hook has given up, and its mode may be `open`: the container may begin before it is armed.
#[test]
fn what_the_gate_arms_unheard_is_armed_again_as_one_that_runs_unless_its_start_is_asked_about() {
    for asked in [false, true] {
        let mut f = Fixture::new(policies(&[("p", "/x")]));
        f.lives(7, "c1");
        let web = container("c1", "default", "web");
        f.take(Order::Created(Arc::clone(&web)));
        let id = ContainerId::new("c1").unwrap();
        let namespace = "default".into();
        let caller = crate::order::Caller { id, pid: 7, root: None, root_inode: None, namespace };
        let (reply, answer) = oneshot::channel();
        drop(answer);
        f.take(Order::Gate { caller, reply });
        assert_eq!(f.kernel.calls(), ["arm c1 7 Creating { root: None }"]);
        if asked {
            f.start(&web, 7).unwrap();
            f.kernel.calls();
        }
        f.take(Order::Sweep);
        assert!(f.kernel.calls().is_empty(), "the runtime has some time for its own work");
        f.take(Order::Sweep);
        let again: &[&str] = if asked { &[] } else { &["arm c1 7 Running"] };
        assert_eq!(f.kernel.calls(), again);
        let told: &[&str] = if asked { &[] } else { &["late c1"] };
        assert_eq!(f.notices(), told);
    }
}

/// What is armed for another process does not reach the first one, and goes first.
#[test]
fn what_is_armed_for_another_process_is_disarmed_first() {
    for broken in [false, true] {
        let mut f = Fixture::new(policies(&[("p", "/x")]));
        f.lives(7, "c1");
        let (web, id) = (container("c1", "default", "web"), ContainerId::new("c1").unwrap());
        f.start(&web, 7).unwrap();
        f.lives(8, "c1");
        f.kernel.calls();
        f.kernel.breaks("disarm", broken);
        let (reply, answer) = oneshot::channel();
        drop(answer);
        f.take(Order::Start { container: web, pid: 8, reply });
        f.work();
        if broken {
            assert_eq!(f.kernel.calls(), ["disarm c1"]);
            assert!(f.registry.standing(&id).problem.is_some());
            f.kernel.breaks("disarm", false);
            f.take(Order::Sweep);
        }
        assert_eq!(f.kernel.calls(), ["disarm c1", "arm c1 8 Running"]);
        assert_eq!(f.notices(), ["late c1"]);
    }
}

/// Whoever learns what it does is told that its start is missing.
#[test]
fn a_watched_container_that_was_armed_late_is_missed() {
    for broken in [true, false] {
        let mut f = Fixture::new(Arc::default());
        let who =
            Who { namespace: "default".into(), pod: None, labels: [].into(), container: None, id: None };
        let watches = Arc::clone(&f.reconciler.selection.watches);
        let watching = watches.begin(who.clone(), Visibility::of([Class::Process])).unwrap();
        f.take(Order::Watched(who.clone()));
        f.lives(7, "c1");
        f.kernel.breaks("arm", broken);
        f.start(&container("c1", "default", "web"), 7).unwrap();
        f.kernel.breaks("arm", false);
        f.take(Order::Sweep);
        assert!(armed(&f, "c1").observes(Class::Process));
        let id = ContainerId::new("c1").unwrap();
        assert_eq!(watching.seen().missed.contains_key(&id), broken);
        let (_keep, policies) = watch::channel(Arc::default());
        let (orders, _taken) = std::sync::mpsc::channel();
        let (selection, registry) = (f.reconciler.selection.clone(), Arc::clone(&f.registry));
        let observatory = crate::learn::serve::Observatory::new(
            selection,
            policies,
            registry,
            orders,
            Box::new(|| Some(0)),
        );
        let problems = observatory.problems(&who, &watching.seen(), Visibility::of([Class::Process]));
        assert_eq!(
            problems.iter().any(|problem| problem.contains("start was not seen")),
            broken,
            "{problems:?}"
        );
    }
}
