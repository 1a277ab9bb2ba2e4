//! The host among the containers.

use enforcer_core::coverage::GapReason;
use enforcer_core::ruleset::Postures;

use super::*;
use crate::lock::Lock;

pub(super) fn host() -> Arc<Container> {
    let labels = [("rack".to_owned(), "a".to_owned())].into();
    let (id, subject) = (ContainerId::host(), Subject::of_host(labels));
    Arc::new(Container { id, subject, pod_uid: String::new(), image: String::new(), wish: Wish::None })
}

pub(super) fn host_policy(path: &str) -> Arc<PolicySet> {
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {{name: h}}\nspec:\n  \
         nodeSelector: {{matchLabels: {{rack: a}}}}\n  file: {{matchPaths: [{{path: {path}}}]}}\n  action: Block\n"
    );
    let parsed = parse("test.yaml", &text);
    assert_eq!(parsed.errors, []);
    Arc::new(PolicySet::new(parsed.policies.into_iter().map(Arc::new).collect()))
}

fn nothing() -> Arc<PolicySet> {
    Arc::default()
}

impl Fixture {
    /// A daemon that enforces host policies, which has begun.
    pub(super) fn of_host(kernel: Arc<Recording>, set: Arc<PolicySet>) -> Self {
        let mut f = Self::with(kernel, set);
        f.reconciler.selection.host = Some(Postures::default());
        f.lives(1, "init.scope");
        f.reconciler.take(Order::Started { container: host(), pid: 1 });
        f.take(Order::Sweep);
        f
    }
}

#[test]
fn the_host_has_its_own_policies_as_long_as_there_are_any() {
    let mut f = Fixture::of_host(Arc::default(), host_policy("/x"));
    assert_eq!(f.kernel.calls(), ["arm (host) 1 Running"]);
    // no runtime lists it, and no cgroup has its name
    f.synchronize(Vec::new());
    (0..3).for_each(|_| f.take(Order::Sweep));
    assert_eq!((f.kernel.calls(), f.kernel.ids()), (vec![], vec!["(host)".to_owned()]));
    f.change(host_policy("/y"));
    assert_eq!(f.kernel.calls(), ["update (host)"]);
    f.change(policies(&[("p", "/x")]));
    assert_eq!(f.kernel.calls(), ["disarm (host)"], "it is nobody's any more, and found anew the next time");
    f.change(host_policy("/y"));
    assert_eq!(f.kernel.calls(), ["arm (host) 1 Running"]);
    assert_eq!(f.notices(), Vec::<String>::new());
}

#[test]
fn the_next_daemon_lifts_what_no_policy_says_any_more() {
    let kernel = Arc::<Recording>::default();
    drop(Fixture::of_host(Arc::clone(&kernel), host_policy("/x")));
    kernel.calls();
    let f = Fixture::of_host(Arc::clone(&kernel), nothing());
    assert_eq!(f.kernel.calls(), ["disarm (host)"], "at once, and not with the first synchronisation");
}

#[test]
fn the_next_daemon_does_what_is_not_done_of_arming_it() {
    for path in ["/x", "/y"] {
        let kernel = Arc::<Recording>::default();
        drop(Fixture::of_host(Arc::clone(&kernel), host_policy("/x")));
        kernel.calls();
        let mut f = Fixture::of_host(Arc::clone(&kernel), host_policy(path));
        assert_eq!(f.kernel.calls(), ["arm (host) 1 Running"], "{path}");
        f.take(Order::Sweep);
        assert_eq!(f.kernel.calls(), Vec::<String>::new(), "once");
    }
}

#[test]
fn host_policies_are_gaps_unless_they_are_enforced() {
    let (set, host) = (host_policy("/x"), host());
    let mut selection = Selection { host: Some(Postures::default()), ..Selection::default() };
    let resolve = |selection: &Selection| selection.resolve(&set, &host.subject, host.wish).unwrap();
    assert!(!resolve(&selection).is_nothing() && resolve(&selection).coverage.is_full());
    let gap = |selection: &Selection| {
        let merged = resolve(&Selection { merged: Arc::default(), ..selection.clone() });
        assert!(merged.is_nothing());
        merged.coverage.gaps.iter().map(|gap| gap.reason).collect::<Vec<_>>()
    };
    selection.lock = Lock::AppArmor;
    assert_eq!(gap(&selection), [GapReason::HostPolicies]);
    // SELinux holds what it can say, and nothing of containers
    selection.lock = Lock::Selinux;
    selection.merged = Arc::default();
    assert!(!resolve(&selection).is_nothing() && resolve(&selection).coverage.is_full());
    let web = container("c", "default", "web");
    let of_container = selection.resolve(&policies(&[("p", "/x")]), &web.subject, Wish::None).unwrap();
    let reasons: Vec<_> = of_container.coverage.gaps.iter().map(|gap| gap.reason).collect();
    assert_eq!((of_container.is_nothing(), reasons), (true, vec![GapReason::SelinuxContainer]));
    (selection.lock, selection.host) = (Lock::Bpf, None);
    assert_eq!(gap(&selection), [GapReason::HostPolicies]);
    // and none of it is about containers
    assert!(selection.resolve(&set, &container("c", "default", "web").subject, Wish::None).is_none());
}
