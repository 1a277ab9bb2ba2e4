//! Containers of which no runtime tells: those that an earlier daemon armed, and those of a node without NRI.

use super::*;
use crate::order::Running;
use crate::seccomp::ledger::Created;

/// One of podman's, armed by an earlier daemon under the policies of now.
fn armed_before() -> Fixture {
    let set = policies(&[("p", "/a")]);
    let kernel = Arc::<Recording>::default();
    kernel.preset("c1", Some(wanted(&set)));
    Fixture::with(kernel, set)
}

fn id() -> ContainerId {
    ContainerId::new("c1").unwrap()
}

fn found(pid: i32) -> Order {
    Order::Found { container: container("c1", "default", "web"), pid, started: true }
}

#[test]
fn who_is_found_gets_changes_of_policies_and_its_name_back() {
    let mut f = armed_before();
    f.kernel.has_tasks(&[("c1", 7)]);
    f.lives(7, "elsewhere"); // no cgroup names it
    f.take(found(7));
    assert_eq!(f.kernel.calls(), [""; 0], "it has its rules");
    assert_eq!(f.registry.container(&id()).unwrap().subject.pod, "pod");
    let next = policies(&[("p", "/b")]);
    f.policies.send_replace(Arc::clone(&next));
    f.take(Order::PoliciesChanged);
    assert_eq!(f.kernel.digest("c1"), Some(wanted(&next)));
    f.take(Order::Sweep);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), ["c1"], "its process lives");
    f.dies(7);
    f.kernel.has_tasks(&[]);
    f.take(Order::Sweep);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), [""; 0]);
    assert!(f.notices.lock().unwrap().is_empty(), "it was protected all the time");
}

#[test]
fn a_process_that_only_has_the_number_is_not_its() {
    let mut f = armed_before();
    f.kernel.has_tasks(&[("c1", 8)]);
    f.lives(7, "elsewhere");
    f.take(found(7)); // the number that podman noted is another process's by now
    let next = policies(&[("p", "/b")]);
    f.policies.send_replace(Arc::clone(&next));
    f.take(Order::PoliciesChanged);
    assert_eq!(f.kernel.calls(), ["update c1"]);
    f.take(Order::Sweep);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), ["c1"], "a task of it lives");
    f.kernel.has_tasks(&[]);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), [""; 0], "though that process lives on");
}

#[test]
fn who_is_found_too_late_is_left_alone() {
    let mut f = armed_before();
    f.kernel.preset("c1", None);
    f.take(found(7));
    assert!(f.registry.container(&id()).is_none(), "it is over");
    // started again meanwhile
    f.lives(9, "c1");
    f.start(&container("c1", "default", "web"), 9).unwrap();
    let calls = f.kernel.calls();
    f.take(found(7));
    assert!(!calls.is_empty() && f.kernel.calls().is_empty());
}

/// Its daemon armed it after the hook had given up, and died before it knew.
#[test]
fn one_that_was_armed_too_late_is_armed_as_one_that_runs() {
    let armed = |listed: bool, started: bool, waits: bool| {
        let mut f = armed_before();
        f.kernel.has_tasks(&[("c1", 7)]);
        if waits {
            f.kernel.waits("c1");
        }
        f.lives(7, "c1");
        let container = container("c1", "default", "web");
        // with a runtime that tells nothing of podman's, and on a node without NRI
        if listed {
            let (reply, _answer) = oneshot::channel();
            let running = vec![Running { container, pid: 7, started, created: Created::default() }];
            f.take(Order::Listed { running, unknown: 0, reply });
        } else {
            f.take(Order::Found { container, pid: 7, started });
        }
        assert_eq!(f.kernel.calls(), [""; 0], "the runtime may be at work still");
        for _ in 0..3 {
            f.take(Order::Sweep);
        }
        f.kernel.calls()
    };
    for listed in [false, true] {
        assert_eq!(armed(listed, true, true), ["arm c1 7 Running"]);
        assert_eq!(armed(listed, true, false), [""; 0], "it was armed in time");
        // `podman init`: what executes there is the runtime, and is not to be judged
        assert_eq!(armed(listed, false, true), [""; 0]);
    }
}

/// No runtime tells what there is: a node with podman alone.
#[test]
fn what_is_over_does_not_stay_where_no_runtime_tells() {
    let mut f = armed_before();
    f.kernel.has_tasks(&[("c1", 7)]);
    for _ in 0..3 {
        f.take(Order::Sweep);
    }
    f.take(Order::Gone(id()));
    assert_eq!(f.kernel.ids(), ["c1"], "a task of it lives");
    f.kernel.has_tasks(&[]);
    f.kernel.breaks("lives", true);
    f.take(Order::Sweep);
    f.take(Order::Gone(id()));
    assert_eq!(f.kernel.ids(), ["c1"], "the kernel did not say");
    f.kernel.breaks("lives", false);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), [""; 0]);
    // the hook tells it
    let mut f = armed_before();
    f.kernel.has_tasks(&[]);
    f.take(Order::Gone(id()));
    assert_eq!(f.kernel.ids(), [""; 0]);
    // a lock that does not know tasks says nothing of a runtime that may tell yet
    let mut f = armed_before();
    for _ in 0..3 {
        f.take(Order::Sweep);
    }
    assert_eq!(f.kernel.ids(), ["c1"]);
}

#[test]
fn what_no_cgroup_names_is_not_over_while_its_tasks_live() {
    let mut f = armed_before();
    f.kernel.has_tasks(&[("c1", 7)]);
    f.synchronize(Vec::new());
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), ["c1"]);
    f.kernel.has_tasks(&[]);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.ids(), [""; 0]);
}

/// A node without NRI: this runs of podman's, and so many more of which nobody knows who they are.
fn list(f: &mut Fixture, running: &[(&str, i32)], unknown: usize) -> Synced {
    let (reply, mut answer) = oneshot::channel();
    let of = |(id, pid): &(&str, i32)| Running {
        container: container(id, "default", "web"),
        pid: *pid,
        started: true,
        created: Created { profile: Some((*id).to_owned()), ..Created::default() },
    };
    f.take(Order::Listed { running: running.iter().map(of).collect(), unknown, reply });
    answer.try_recv().expect("answered once idle")
}

/// The programs of the version before hold what runs, in maps that this one does not read, until it is armed here.
#[test]
fn without_nri_an_upgrade_arms_what_runs_and_then_lets_the_old_version_go() {
    let set = policies(&[("p", "/a")]);
    let mut f = Fixture::new(Arc::clone(&set));
    f.lives(7, "c1");
    f.kernel.breaks("arm", true);
    let failed = Synced { failed: 1, ..Synced::default() };
    assert_eq!(list(&mut f, &[("c1", 7)], 0), failed);
    assert_eq!(f.kernel.times_settled(), 0, "only the old version has its rules");
    f.kernel.breaks("arm", false);
    let unknown = list(&mut f, &[("c1", 7)], 1);
    assert_eq!((unknown.failed, unknown.unknown, f.kernel.digest("c1")), (0, 1, Some(wanted(&set))));
    assert_eq!(f.kernel.times_settled(), 0, "nor is it known whose the rules are that it has for others");
    assert!(list(&mut f, &[("c1", 7)], 0).is_complete());
    assert_eq!(f.kernel.times_settled(), 1);
    // from now on policies reach it, and its end is found
    let next = policies(&[("p", "/b")]);
    f.policies.send_replace(Arc::clone(&next));
    f.take(Order::PoliciesChanged);
    assert_eq!(f.kernel.digest("c1"), Some(wanted(&next)));
    f.dies(7);
    f.take(Order::Gone(id()));
    assert_eq!(f.kernel.ids(), [""; 0]);
}

#[test]
fn without_nri_what_runs_is_adopted_and_what_is_armed_and_over_is_let_go_at_once() {
    let mut f = armed_before();
    f.kernel.preset("over", f.kernel.digest("c1"));
    f.lives(7, "c1");
    f.lives(8, "c2");
    f.policies.send_replace(policies(&[])); // and c2, which no policy selects, is known for later ones
    let found = list(&mut f, &[("c1", 7), ("c2", 8), ("gone", 9)], 0);
    assert_eq!(found, Synced { adopted: 1, ..Synced::default() });
    assert_eq!(f.kernel.ids(), ["c1"]);
    assert_eq!(f.registry.seccomp().created(&id()).unwrap().profile.as_deref(), Some("c1"));
    assert!(f.registry.container(&ContainerId::new("gone").unwrap()).is_none());
    let later = policies(&[("p", "/b")]);
    f.policies.send_replace(Arc::clone(&later));
    f.take(Order::PoliciesChanged);
    assert_eq!(["c1", "c2"].map(|id| f.kernel.digest(id)), [Some(wanted(&later)); 2]);
    assert_eq!(f.notices(), [""; 0], "nothing selected it before");
}

/// podman's files are older than what the gate says.
#[test]
fn what_started_while_podmans_files_were_read_stays_as_the_gate_told_it() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    f.lives(9, "c1");
    f.start(&container("c1", "default", "web"), 9).unwrap();
    let calls = f.kernel.calls();
    assert!(!calls.is_empty() && list(&mut f, &[("c1", 7)], 0).is_complete());
    f.take(Order::Sweep);
    f.take(Order::Sweep);
    assert_eq!((f.kernel.calls(), f.kernel.ids()), (vec![], vec!["c1".to_owned()]));
}

#[test]
fn where_the_kernel_does_not_say_what_is_armed_nothing_is_taken_over() {
    let mut f = armed_before();
    f.kernel.breaks("armed", true);
    let (reply, mut answer) = oneshot::channel();
    f.take(Order::Listed { running: vec![], unknown: 0, reply });
    answer.try_recv().unwrap_err();
    f.kernel.breaks("armed", false);
    f.kernel.has_tasks(&[]);
    f.take(Order::Sweep);
    assert_eq!((f.kernel.ids(), f.kernel.times_settled()), (vec!["c1".to_owned()], 0));
}

/// podman's `--pid=host --cgroups=disabled --restart=always`: the workload has forked, and its first process ended.
#[test]
fn a_restart_does_not_disarm_what_lives_on_from_the_run_before() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    let (web, id) = (container("c1", "default", "web"), id());
    let asks = |f: &mut Fixture, pid: i32| {
        f.lives(pid, "elsewhere");
        f.take(Order::Created(Arc::clone(&web)));
        let (reply, mut answer) = oneshot::channel();
        let namespace = "default".into();
        let caller = crate::order::Caller { id: id.clone(), pid, root: None, root_inode: Some(5), namespace };
        f.take(Order::Gate { caller, reply });
        answer.try_recv().unwrap()
    };
    assert!(matches!(asks(&mut f, 7), Gated::Armed));
    f.kernel.has_tasks(&[("c1", 7), ("c1", 8)]);
    f.dies(7);
    f.kernel.has_tasks(&[("c1", 8)]);
    f.take(Order::Gone(id.clone()));
    f.kernel.calls();
    f.kernel.breaks("lives", true);
    match asks(&mut f, 9) {
        Gated::Refused(why) => assert!(why.to_string().contains("kernel cannot be asked"), "{why}"),
        other => panic!("not refused: {other:?}"),
    }
    f.kernel.breaks("lives", false);
    for pid in [9, 9, 10] {
        match asks(&mut f, pid) {
            Gated::Refused(why) => {
                let why = why.to_string();
                assert!(why.contains("tasks of its run before live on") && why.contains("end them"), "{why}");
            }
            other => panic!("not refused: {other:?}"),
        }
    }
    // the hook's mode is `open`: it runs all the same
    for _ in 0..3 {
        f.take(Order::Sweep);
    }
    assert_eq!((f.kernel.calls(), f.kernel.ids()), (vec![], vec!["c1".to_owned()]));
    assert!(f.registry.standing(&id).problem.unwrap().contains("tasks of its run before live on"));
    f.kernel.has_tasks(&[]);
    f.take(Order::Sweep);
    assert_eq!(f.kernel.calls(), ["disarm c1", "arm c1 10 Running"]);
    assert_eq!(f.notices(), ["late c1"]);
    assert_eq!(f.registry.standing(&id).problem, None);
    // whoever does not wait for the answer cannot have it disarmed either
    f.kernel.has_tasks(&[("c1", 10)]);
    f.lives(11, "c1");
    let (reply, answer) = oneshot::channel();
    drop(answer);
    f.take(Order::Start { container: web, pid: 11, reply });
    assert_eq!(f.kernel.calls(), [""; 0]);
}

/// podman's, by its files: restored from a checkpoint, for which crun runs no hooks.
#[test]
fn what_runs_with_another_process_than_the_gate_told_is_armed_for_that() {
    let identified = |pid: i32, started: bool| {
        let container = container("c1", "default", "web");
        Order::Identified(vec![Running { container, pid, started, created: Created::default() }])
    };
    for tasks in [false, true] {
        let mut f = Fixture::new(policies(&[("p", "/a")]));
        f.lives(7, "c1");
        f.start(&container("c1", "default", "web"), 7).unwrap();
        f.kernel.calls();
        f.lives(9, "c1");
        f.take(identified(9, true));
        assert_eq!(f.kernel.calls(), [""; 0], "its first process lives: the files are older than the gate");
        f.dies(7);
        f.take(identified(9, false));
        f.take(identified(10, true));
        assert_eq!(f.kernel.calls(), [""; 0], "it has not begun, or is over");
        if tasks {
            f.kernel.has_tasks(&[("c1", 8)]);
        }
        f.take(identified(9, true));
        let calls: &[&str] = if tasks { &[] } else { &["disarm c1", "arm c1 9 Running"] };
        assert_eq!(f.kernel.calls(), calls);
        f.kernel.has_tasks(&[]);
        f.take(Order::Sweep);
        assert_eq!(f.kernel.calls().len(), if tasks { 2 } else { 0 });
        assert_eq!((f.notices(), f.kernel.ids()), (vec!["late c1".to_owned()], vec!["c1".to_owned()]));
    }
    // an earlier daemon armed it for a process that is over
    let mut f = armed_before();
    f.kernel.has_tasks(&[]);
    f.lives(7, "c1");
    f.take(identified(7, true));
    assert_eq!(f.kernel.calls(), ["disarm c1", "arm c1 7 Running"]);
    // nobody knew it
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    f.lives(7, "c1");
    f.take(identified(7, true));
    assert_eq!(
        (f.kernel.calls(), f.notices()),
        (vec!["arm c1 7 Running".to_owned()], vec!["late c1".to_owned()])
    );
    assert_eq!(f.registry.seccomp().created(&id()), Some(Created::default()));
}

/// The scene of a restart whose old tasks live on, and no policy selects it at that moment: it is armed with no rules.
#[test]
fn a_policy_that_comes_after_a_restart_is_not_taken_for_one_of_the_process_of_before() {
    let web = || container("c1", "default", "web");
    let restored = |f: &mut Fixture| {
        f.take(Order::Sweep);
        crate::procs::tests::executes(f.proc.path(), 9, true);
        f.take(Order::Sweep);
        f.take(Order::Sweep);
    };
    let started = |f: &mut Fixture| f.take(Order::Started { container: web(), pid: 9 });
    let unanswered = |f: &mut Fixture| {
        let (reply, answer) = oneshot::channel();
        drop(answer);
        f.take(Order::Start { container: web(), pid: 9, reply });
    };
    let ways: [&dyn Fn(&mut Fixture); 3] = [&started, &unanswered, &restored];
    for (number, way) in ways.into_iter().enumerate() {
        let mut f = Fixture::new(policies(&[("p", "/a")]));
        f.lives(7, "c1");
        f.start(&web(), 7).unwrap();
        f.kernel.has_tasks(&[("c1", 7), ("c1", 8)]);
        f.dies(7);
        f.kernel.has_tasks(&[("c1", 8)]);
        f.change(policies(&[]));
        assert_eq!(f.kernel.digest("c1"), Some(nothing()));
        f.take(Order::Created(web()));
        f.lives(9, "c1");
        f.kernel.calls();
        way(&mut f);
        let later = policies(&[("p", "/b")]);
        f.change(Arc::clone(&later));
        let calls = f.kernel.calls();
        assert!(!calls.iter().any(|call| call.contains("disarm")), "{number}: {calls:?}");
        let problem = f.registry.standing(&id()).problem;
        assert!(problem.is_some_and(|why| why.contains("tasks of its run before live on")), "{number}");
        f.kernel.has_tasks(&[]);
        f.take(Order::Sweep);
        assert_eq!(f.kernel.calls(), ["disarm c1", "arm c1 9 Running"], "{number}");
        assert_eq!((f.kernel.digest("c1"), f.notices()), (Some(wanted(&later)), vec!["late c1".to_owned()]));
    }
}

/// With AppArmor each listing reads all profiles, and every process.
#[test]
fn whoever_is_known_and_lives_costs_no_look_at_the_kernel() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    let running = |f: &Fixture| {
        let of = |(id, pid): (&str, i32)| {
            f.lives(pid, id);
            let container = container(id, "default", "web");
            Running { container, pid, started: true, created: Created::default() }
        };
        [("c1", 7), ("c2", 8), ("c3", 9)].map(of).into()
    };
    let all = running(&f);
    f.take(Order::Identified(all));
    assert_eq!((f.kernel.times_listed(), f.kernel.ids().len()), (1, 3), "one for all");
    let again = running(&f);
    f.take(Order::Identified(again));
    assert_eq!(f.kernel.times_listed(), 1);
    assert!(f.registry.process(&id()).is_some(), "nobody need tell it again");
    f.take(Order::Removed(id()));
    assert_eq!(f.registry.process(&id()), None);
}
