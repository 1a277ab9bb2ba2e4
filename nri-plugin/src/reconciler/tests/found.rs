//! Containers that an earlier daemon armed, and of which no runtime tells.

use super::*;

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
    let armed = |started: bool, waits: bool| {
        let mut f = armed_before();
        f.kernel.has_tasks(&[("c1", 7)]);
        if waits {
            f.kernel.waits("c1");
        }
        f.lives(7, "c1");
        f.take(Order::Found { container: container("c1", "default", "web"), pid: 7, started });
        assert_eq!(f.kernel.calls(), [""; 0], "the runtime may be at work still");
        for _ in 0..3 {
            f.take(Order::Sweep);
        }
        f.kernel.calls()
    };
    assert_eq!(armed(true, true), ["arm c1 7 Running"]);
    assert_eq!(armed(true, false), [""; 0], "it was armed in time");
    // `podman init`: what executes there is the runtime, and is not to be judged
    assert_eq!(armed(false, true), [""; 0]);
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
