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
