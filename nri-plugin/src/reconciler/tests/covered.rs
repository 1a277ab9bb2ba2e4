//! Containers whose rules no lock holds, as they were created: told, or refused.

use super::*;
use crate::lock::Lock;
use crate::order::Caller;

impl Fixture {
    /// What the OCI hook of a container of the namespace `default` is answered, whose first process is `pid`.
    fn gate(&mut self, id: &str, pid: i32) -> Gated {
        let id = ContainerId::new(id).unwrap();
        let caller = Caller { id, pid, root: None, root_inode: None, namespace: "default".into() };
        let (reply, mut answer) = oneshot::channel();
        self.take(Order::Gate { caller, reply });
        answer.try_recv().expect("answered")
    }
}

fn refused(gated: Gated) -> String {
    match gated {
        Gated::Refused(refusal) => refusal.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

/// Others that share its profile may have other rules now.
#[test]
fn a_container_that_cannot_have_its_rules_any_more_is_told_once() {
    let mut f = Fixture::new(policies(&[("p", "/x")]));
    let web = container("c1", "default", "web");
    f.lives(7, "c1");
    f.start(&web, 7).unwrap();
    f.kernel.breaks("uncovered", true);
    f.change(policies(&[("p", "/y")]));
    assert_eq!(f.notices(), ["unprotected c1"]);
    f.take(Order::Sweep);
    f.take(Order::Sweep);
    assert_eq!(f.notices(), [""; 0]);
    f.kernel.breaks("uncovered", false);
    f.take(Order::Sweep);
    assert_eq!(f.registry.standing(&web.id).problem, None);
    assert_eq!(f.notices(), [""; 0]);
}

/// Nothing failed: it was created so that it cannot have its rules. That is told, and tried again; with strict it does not
/// start, nor where the OCI hook holds the gate shut: whoever may write a pod would be rid of its policies by that.
#[test]
fn a_container_that_cannot_have_its_rules_starts_and_is_told_unless_it_must_have_them() {
    for (strict, must_hold) in [(false, false), (true, false), (false, true)] {
        let mut f = Fixture::new(policies(&[("p", "/x")]));
        (f.reconciler.selection.strict, f.reconciler.selection.must_hold) = (strict, must_hold);
        f.kernel.breaks("uncovered", true);
        let web = container("c1", "default", "web");
        f.lives(7, "c1");
        let started = f.start(&web, 7);
        if strict || must_hold {
            let why = started.unwrap_err();
            let advice = if strict { "--strict" } else { "set `mode` of the OCI hook" };
            assert!(why.contains("`default/p`") && why.contains("it has no profile"), "{why}");
            assert!(why.contains(advice), "{why}");
            assert_eq!(f.notices(), [""; 0], "it does not run");
            continue;
        }
        started.unwrap();
        assert_eq!(f.notices(), ["unprotected c1"]);
        let standing = f.registry.standing(&web.id);
        assert_eq!((standing.is_armed(), standing.problem.as_deref()), (false, Some("it has no profile")));
        f.take(Order::Sweep);
        assert_eq!(f.notices(), [""; 0], "told once");
        f.kernel.breaks("uncovered", false);
        f.take(Order::Sweep);
        assert_eq!(
            (f.registry.standing(&web.id).is_armed(), f.notices()),
            (true, vec!["late c1".to_owned()])
        );
    }
}

/// "Armed" is that all is in force and was read back. Whether what is not starts is the hook's to say, by its mode.
#[test]
fn the_gate_never_says_armed_of_a_container_that_is_not() {
    for (must_hold, is_podmans) in [(false, false), (false, true), (true, false)] {
        let mut f = Fixture::new(policies(&[("p", "/x")]));
        f.reconciler.selection.must_hold = must_hold;
        f.kernel.breaks("uncovered", true);
        let web = container("c1", "default", "web");
        f.lives(7, "c1");
        f.take(Order::Created(Arc::clone(&web)));
        let why = refused(f.gate("c1", 7));
        assert!(why.contains("`default/p`") && why.contains("it has no profile"), "{why}");
        assert_eq!(f.notices(), [""; 0], "it does not run yet");
        let told: &[&str] = if must_hold { &[] } else { &["unprotected c1"] };
        if !must_hold && is_podmans {
            f.take(Order::Sweep);
            f.take(Order::Sweep);
            assert_eq!(f.notices(), told, "nobody asks again, and it is told once");
        }
        // the hook's mode is `open`: the runtime starts it
        assert_eq!(f.start(&web, 7).is_err(), must_hold);
        assert_eq!(f.notices(), if is_podmans { &[] } else { told });
    }
}

/// What BPF-LSM holds stays in force, should it start in spite of that.
#[test]
fn a_container_that_lacks_native_rules_is_refused_and_keeps_the_others() {
    for must_hold in [false, true] {
        let mut f = Fixture::new(policies(&[("p", "/x")]));
        f.reconciler.selection.must_hold = must_hold;
        let web = container("c1", "default", "web");
        f.lives(7, "c1");
        f.take(Order::Created(Arc::clone(&web)));
        f.registry.lacks(&web.id, Some("native rules are not in force".into()));
        assert!(refused(f.gate("c1", 7)).contains("native rules are not in force"));
        assert_eq!(f.kernel.ids(), ["c1"]);
        assert_eq!(f.start(&web, 7).is_err(), must_hold);
        assert_eq!(f.kernel.ids(), ["c1"]);
        f.registry.lacks(&web.id, None);
        assert!(matches!(f.gate("c1", 7), Gated::Armed));
        f.start(&web, 7).unwrap();
    }
}

/// The hook is there so that nothing starts without its policies.
#[test]
fn where_no_lock_works_the_gate_refuses_what_policies_select() {
    for (lock, reason) in
        [(Lock::Nothing, "no lock works"), (Lock::Selinux, "policies on the host's own processes alone")]
    {
        let mut f = Fixture::new(policies(&[("p", "/x")]));
        f.reconciler.selection.lock = lock;
        for (id, pid, app) in [("c1", 7, "web"), ("c2", 8, "db")] {
            f.lives(pid, id);
            f.take(Order::Created(container(id, "default", app)));
            match (f.gate(id, pid), app) {
                (Gated::Nothing, "db") => {}
                (gated, "web") => assert!(refused(gated).contains(reason)),
                (other, app) => panic!("{app}: {other:?}"),
            }
        }
        assert_eq!(f.kernel.calls(), [""; 0]);
    }
}
