//! What an earlier daemon armed, while it is not known which policies there are.

use std::collections::BTreeSet;

use enforcer_core::policy::Kind;
use enforcer_core::ruleset::Postures;

use super::host::{host, host_policy};
use super::*;
use crate::api::Resource;
use crate::api::node::NodeLabels;

const CONTAINERS: Resource = Resource::Policies(Kind::KubeArmorPolicy);
const HOST: Resource = Resource::Policies(Kind::KubeArmorHostPolicy);

/// The set, which lacks what there is of these.
fn lacking<const N: usize>(set: &PolicySet, lacks: [Resource; N]) -> Arc<PolicySet> {
    Arc::new(PolicySet::new(set.policies().to_vec()).with_unread(BTreeSet::from(lacks)))
}

/// A kernel in which an earlier daemon armed these with a policy on `/before`.
fn armed(ids: &[&str]) -> Arc<Recording> {
    let kernel = Arc::<Recording>::default();
    ids.iter().for_each(|id| kernel.preset(id, Some(wanted(&policies(&[("p", "/before")])))));
    kernel
}

/// One in which it armed the host.
fn host_armed() -> Arc<Recording> {
    let kernel = Arc::<Recording>::default();
    drop(Fixture::of_host(Arc::clone(&kernel), host_policy("/before")));
    assert_eq!(kernel.calls(), ["arm (host) 1 Running"]);
    kernel
}

impl Fixture {
    fn problem(&self, id: &str) -> String {
        let id = if id == "(host)" { ContainerId::host() } else { ContainerId::new(id).unwrap() };
        self.registry.standing(&id).problem.unwrap_or_default()
    }
}

#[test]
fn what_is_armed_stays_so_until_the_policies_are_known() {
    let kernel = armed(&["exempt", "gone", "selected", "unselected"]);
    kernel.preset("lifted", Some(nothing()));
    kernel.preset("same", Some(wanted(&policies(&[("f", "/of-files")]))));
    // a policy of files selects what is `web`, and what the API server has is not known
    let of_files = policies(&[("f", "/of-files")]);
    let mut f = Fixture::with(Arc::clone(&kernel), lacking(&of_files, [CONTAINERS]));
    f.lives(5, "exempt");
    let exempt = Present { container: container("exempt", "kube-system", "web"), pid: 5, running: true };
    let present = vec![
        exempt,
        f.running("lifted", 2, "web"),
        f.running("same", 3, "web"),
        f.running("selected", 4, "web"),
        f.running("unselected", 6, "db"),
    ];
    let synced = f.synchronize(present);
    assert_eq!(synced, Synced { adopted: 5, late: 0, failed: 0, unknown: 0 });
    assert_eq!(kernel.calls(), ["update lifted", "update exempt", "disarm gone"]);
    for id in ["selected", "unselected"] {
        let problem = f.problem(id);
        assert!(
            problem.starts_with(
                "it keeps the rules that an earlier daemon put in force: the policies are not known yet"
            ),
            "{problem}"
        );
        assert!(problem.contains(CONTAINERS.kind()), "{problem}");
    }
    assert_eq!(["exempt", "lifted", "same"].map(|id| f.problem(id)), [""; 3]);
    // it may be all that holds them
    assert_eq!(kernel.times_settled(), 0);

    // what comes of files, and of another kind, changes nothing of that
    f.change(lacking(&policies(&[("f", "/other")]), [CONTAINERS]));
    f.take(Order::Sweep);
    assert_eq!(kernel.calls(), ["update lifted"], "which this daemon has armed");
    assert_eq!(kernel.times_settled(), 0);
    // who starts now has what is known
    f.lives(7, "new");
    f.start(&container("new", "default", "web"), 7).unwrap();
    assert_eq!(kernel.calls(), ["arm new 7 Created"]);

    let all = policies(&[("f", "/other"), ("p", "/before")]);
    f.change(Arc::clone(&all));
    let mut calls = kernel.calls();
    calls.sort_unstable();
    assert_eq!(calls, ["update lifted", "update new", "update same", "update selected", "update unselected"]);
    assert_eq!(["lifted", "new", "same", "selected"].map(|id| kernel.digest(id).unwrap()), [wanted(&all); 4]);
    assert_eq!(kernel.digest("unselected"), Some(nothing()));
    assert_eq!(["selected", "unselected"].map(|id| f.problem(id)), [""; 2]);
    assert_eq!(kernel.times_settled(), 1);
    f.take(Order::Sweep);
    assert_eq!((kernel.calls(), kernel.times_settled()), (vec![], 1), "once");
    assert_eq!(f.notices(), [""; 0]);
}

/// One that waits in vain for its first execution is judged by no rules: those that are known are better than none.
#[test]
fn what_was_armed_in_vain_gets_the_rules_that_are_known() {
    let kernel = armed(&["late"]);
    kernel.waits("late");
    let set = policies(&[("f", "/of-files")]);
    let mut f = Fixture::with(Arc::clone(&kernel), lacking(&set, [CONTAINERS]));
    let present = vec![f.running("late", 1, "web")];
    f.synchronize(present);
    assert_eq!(kernel.calls(), [""; 0]);
    f.take(Order::Sweep);
    assert_eq!(
        (kernel.calls(), kernel.digest("late")),
        (vec!["arm late 1 Running".to_owned()], Some(wanted(&set)))
    );
}

#[test]
fn the_hosts_rules_stay_until_its_policies_are_known() {
    let of_files = host_policy("/of-files");
    for (set, then) in [(Arc::default(), "disarm (host)"), (of_files, "arm (host) 1 Running")] {
        let kernel = host_armed();
        let mut f = Fixture::of_host(Arc::clone(&kernel), lacking(&set, [HOST]));
        assert_eq!(kernel.calls(), [""; 0]);
        f.synchronize(Vec::new());
        (0..3).for_each(|_| f.take(Order::Sweep));
        assert_eq!((kernel.calls(), kernel.times_settled()), (vec![], 0));
        let problem = f.problem("(host)");
        assert!(problem.contains(HOST.kind()), "{problem}");
        f.change(set);
        assert_eq!((kernel.calls(), kernel.times_settled()), (vec![then.to_owned()], 1));
        assert_eq!(f.problem("(host)"), "");
    }
    // also before the first sweep
    let kernel = host_armed();
    let mut f = Fixture::with(Arc::clone(&kernel), lacking(&host_policy("/of-files"), [HOST]));
    f.reconciler.selection.host = Some(Postures::default());
    f.lives(1, "init.scope");
    f.take(Order::Started { container: host(), pid: 1 });
    assert_eq!(kernel.calls(), [""; 0]);
    // what there is for containers is not about the host
    let kernel = host_armed();
    drop(Fixture::of_host(Arc::clone(&kernel), lacking(&PolicySet::default(), [CONTAINERS])));
    assert_eq!(kernel.calls(), ["disarm (host)"]);
}

/// Its policies are there, and whether they are about this node is not known.
#[test]
fn the_hosts_rules_stay_until_its_labels_are_known() {
    let elsewhere = || PolicySet::new(policies_of_zone()).with_node(NodeLabels::Unknown);
    let kernel = host_armed();
    let mut f = Fixture::of_host(Arc::clone(&kernel), Arc::new(elsewhere()));
    assert_eq!(kernel.calls(), [""; 0]);
    assert!(f.problem("(host)").ends_with("the labels of this node are not known yet"));
    f.change(Arc::new(elsewhere().with_node(NodeLabels::Known(Arc::default()))));
    assert_eq!(kernel.calls(), ["disarm (host)"]);
    // where no policy waits for them it is known
    let kernel = host_armed();
    let here = PolicySet::new(host_policy("/x").policies().to_vec()).with_node(NodeLabels::Unknown);
    drop(Fixture::of_host(Arc::clone(&kernel), Arc::new(here)));
    assert_eq!(kernel.calls(), ["arm (host) 1 Running"]);
}

fn policies_of_zone() -> Vec<Arc<enforcer_core::policy::Policy>> {
    let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {name: z}\nspec:\n  \
                nodeSelector: {matchLabels: {zone: b}}\n  file: {matchPaths: [{path: /z}]}\n  action: Block\n";
    parse("zone.yaml", text).policies.into_iter().map(Arc::new).collect()
}
