//! Many containers at once: in parts, so that no order waits long.

use std::time::Instant;

use super::super::batch::{FIRST, PATIENCE};
use super::*;

/// Containers `c000` and so on, which run since before.
fn crowd(set: Arc<PolicySet>, many: usize) -> Fixture {
    let mut f = Fixture::new(set);
    let present: Vec<Present> =
        (0..many).map(|n| f.running(&id(n), 1000 + i32::try_from(n).unwrap(), "web")).collect();
    f.synchronize(present);
    f
}

fn id(n: usize) -> String {
    format!("c{n:03}")
}

/// A start waits for some containers' new rules, not for all: what is not done with stays in the queue.
#[test]
fn a_change_of_many_containers_is_made_in_parts() {
    let mut f = crowd(policies(&[("p", "/1")]), 600);
    f.kernel.calls();
    f.policies.send_replace(policies(&[("p", "/2")]));
    f.reconciler.take(Order::PoliciesChanged);
    f.reconciler.step();
    let first = f.kernel.calls().len();
    assert!((1..=256).contains(&first), "{first}");
    assert!(!f.reconciler.is_idle());
    f.work();
    assert_eq!(first + f.kernel.calls().len(), 600, "each once");
    let digest = wanted(&policies(&[("p", "/2")]));
    assert!((0..600).all(|n| f.kernel.digest(&id(n)) == Some(digest)));
}

/// Links that take long to follow are no reason for an order to wait: the containers go back to where they were.
#[test]
fn what_takes_too_long_is_given_back() {
    let mut f = crowd(policies(&[("p", "/1")]), 100);
    let after = policies(&[("p", "/2")]);
    f.policies.send_replace(Arc::clone(&after));
    f.reconciler.take(Order::PoliciesChanged);
    let batch = f.reconciler.next_batch();
    let found = f.reconciler.answered(Instant::now(), batch);
    assert_eq!((found.len(), f.reconciler.queue.len()), (100, 0));
    let long_ago = Instant::now().checked_sub(PATIENCE * 2).unwrap();
    f.reconciler.apply(false, long_ago, found);
    let has = |f: &Fixture, n: usize| f.kernel.digest(&id(n)) == Some(wanted(&after));
    assert_eq!((0..100).filter(|n| has(&f, *n)).count(), FIRST, "a part, then the rest is given back");
    let given_back: Vec<String> = f.reconciler.queue.iter().map(ToString::to_string).collect();
    assert_eq!(given_back, (FIRST..100).map(id).collect::<Vec<_>>(), "as they were");
    // nor is there more than one answer waited for
    let batch = f.reconciler.next_batch();
    let found = f.reconciler.answered(long_ago, batch);
    assert_eq!((found.len(), f.reconciler.queue.len()), (1, 100 - FIRST - 1));
    f.reconciler.apply(false, Instant::now(), found);
    f.work();
    assert!((0..100).all(|n| has(&f, n)));
}

/// What was begun ahead is for the policies of then.
#[test]
fn an_order_ends_what_was_begun_ahead() {
    let mut f = crowd(policies(&[("p", "/1")]), 600);
    f.policies.send_replace(policies(&[("p", "/2")]));
    f.reconciler.take(Order::PoliciesChanged);
    f.reconciler.step();
    assert!(f.reconciler.ahead.is_some());
    let after = policies(&[("p", "/3")]);
    f.policies.send_replace(Arc::clone(&after));
    f.reconciler.take(Order::PoliciesChanged);
    assert!(f.reconciler.ahead.is_none());
    f.reconciler.step();
    assert!(f.reconciler.ahead.is_some());
    // one of those that are begun
    f.take(Order::Removed(ContainerId::new("c300").unwrap()));
    let armed = f.kernel.armed().unwrap();
    assert_eq!(armed.len(), 599);
    assert!(armed.values().all(|digest| *digest == wanted(&after)));
}
