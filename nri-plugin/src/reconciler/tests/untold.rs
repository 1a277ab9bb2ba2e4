//! Containers of whose start nobody tells.

use super::*;
use crate::procs::tests::executes;
use crate::seccomp::ledger::{Created, State};

/// A container that was created, under policies.
fn created() -> (Fixture, ContainerId) {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    let c1 = container("c1", "default", "web");
    let created = Created { profile: Some("p".into()), ..Created::default() };
    f.registry.seccomp().put(Arc::clone(&c1), created);
    f.take(Order::Created(Arc::clone(&c1)));
    (f, c1.id.clone())
}

impl Fixture {
    fn sweeps(&mut self, times: usize) -> Vec<String> {
        (0..times).for_each(|_| self.take(Order::Sweep));
        self.kernel.calls()
    }
}

/// NRI hears of its creation, and of no start.
#[test]
fn what_is_restored_from_a_checkpoint_is_found_and_armed_as_one_that_runs() {
    let (mut f, id) = created();
    assert_eq!(f.sweeps(3), [""; 0], "it has no process");
    f.lives(9, "c1");
    f.lives(8, "c1");
    add(f.proc.path(), 9, 'S', 900, "/k8s.io/c1");
    executes(f.proc.path(), 9, true);
    assert_eq!(f.sweeps(1), [""; 0], "its start may be told yet");
    assert_eq!(f.sweeps(1), ["arm c1 9 Running"]);
    assert_eq!(f.notices(), ["late c1"]);
    assert!(f.registry.standing(&id).is_armed());
    assert_eq!(f.registry.seccomp().state(&id), Some(State::NotApplied), "the checkpoint has its filters");
    assert_eq!(f.sweeps(3), [""; 0]);
    f.dies(9);
    f.dies(8);
    assert_eq!(f.sweeps(2), ["disarm c1"]);
}

/// CRI-O has the runtime's process in the cgroup from the creation on.
#[test]
fn what_waits_for_its_start_is_not_taken_for_a_workload() {
    let (mut f, id) = created();
    f.lives(7, "c1");
    executes(f.proc.path(), 7, false);
    assert_eq!(f.sweeps(9), [""; 0]);
    assert_eq!(f.start(&container("c1", "default", "web"), 7), Ok(()));
    assert_eq!(f.kernel.calls(), ["arm c1 7 Created"]);
    assert_eq!(f.sweeps(12), [""; 0]);
    assert_eq!((f.notices(), f.registry.seccomp().state(&id)), (vec![], Some(State::InForce)));
}

#[test]
fn a_workload_does_not_hide_for_ever_behind_a_program_of_no_mount() {
    let (mut f, id) = created();
    f.lives(7, "c1");
    assert_eq!(f.sweeps(8), [""; 0]);
    f.dies(7);
    f.sweeps(1);
    f.lives(7, "c1");
    assert_eq!(f.sweeps(9), [""; 0], "one that waits now");
    assert_eq!(f.sweeps(1), ["arm c1 7 Running"]);
    assert_eq!(f.notices(), ["late c1"]);
    assert_eq!(f.registry.seccomp().state(&id), Some(State::InForce), "nothing shows that it was restored");
    // the runtime's process, after all
    assert_eq!(f.start(&container("c1", "default", "web"), 7), Ok(()));
    assert_eq!(f.kernel.ids(), ["c1"]);
}

#[test]
fn a_start_that_is_under_way_is_not_taken_for_one_that_nobody_told() {
    let (mut f, _) = created();
    f.lives(7, "c1");
    assert_eq!(f.sweeps(1), [""; 0]);
    assert_eq!(f.start(&container("c1", "default", "web"), 7), Ok(()));
    executes(f.proc.path(), 7, true);
    assert_eq!(f.sweeps(3), ["arm c1 7 Created"]);
    assert_eq!(f.notices(), [""; 0]);
    // and what no policy selects is known for a later one
    let (mut f, _) = created();
    f.change(policies(&[]));
    f.lives(7, "c1");
    executes(f.proc.path(), 7, true);
    assert_eq!(f.sweeps(2), [""; 0]);
    f.change(policies(&[("p", "/b")]));
    assert_eq!(f.kernel.calls(), ["arm c1 7 Running"]);
}

/// podman's, which `precreate` notes, and which the runtime then cannot make, or the gate refuses.
#[test]
fn what_failed_on_its_way_is_forgotten_after_some_minutes() {
    let mut f = Fixture::new(policies(&[("p", "/a")]));
    let [noted, refused, runs, begins] =
        ["noted", "refused", "runs", "begins"].map(|id| container(id, "default", "web"));
    for one in [&noted, &refused, &runs, &begins] {
        f.registry.seccomp().put_apart(Arc::clone(one), Created::default());
    }
    f.take(Order::Created(refused));
    f.lives(7, "elsewhere");
    f.start(&runs, 7).unwrap();
    f.lives(8, "begins");
    let host = Arc::new(Container { id: ContainerId::host(), ..(*noted).clone() });
    f.registry.seccomp().put_apart(host, Created::default());
    let noted = |f: &Fixture| {
        let entries = f.registry.seccomp().entries_now().into_iter();
        entries.map(|entry| entry.container.id.to_string()).collect::<Vec<_>>()
    };
    f.registry.seccomp().pass(std::time::Duration::from_secs(290));
    f.sweeps(2);
    assert_eq!(noted(&f).len(), 5);
    f.registry.seccomp().pass(std::time::Duration::from_secs(10));
    f.sweeps(1);
    assert_eq!(noted(&f), ["(host)", "begins", "runs"]);
    assert_eq!(f.reconciler.known.keys().map(ContainerId::as_str).collect::<Vec<_>>(), ["runs"]);
}

/// podman's: the gate refused its second start, and the hook's mode is `open`.
#[test]
fn what_is_started_again_is_not_taken_for_the_process_of_its_run_before() {
    let (mut f, id) = created();
    f.change(policies(&[]));
    f.lives(7, "c1");
    let web = container("c1", "default", "web");
    f.take(Order::Started { container: Arc::clone(&web), pid: 7 });
    f.take(Order::Created(Arc::clone(&web)));
    assert!(f.reconciler.known[&id].process.is_some(), "it lives");
    f.dies(7);
    f.take(Order::Created(web));
    f.lives(9, "c1");
    executes(f.proc.path(), 9, true);
    f.change(policies(&[("p", "/a")]));
    assert_eq!(f.sweeps(1), [""; 0]);
    assert_eq!(f.sweeps(1), ["arm c1 9 Running"]);
    assert_eq!(f.notices(), ["late c1"]);
}
