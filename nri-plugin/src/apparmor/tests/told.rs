//! What the reconciler and the status document learn of profiles.

use tokio::sync::oneshot;

use super::*;
use crate::lock::Lock;
use crate::order::{Notice, Order};
use crate::procs::Procs;
use crate::reconciler::Reconciler;
use crate::reconciler::tests::container;

/// A reconciler whose one lock is AppArmor.
struct Daemon {
    node: Node,
    policies: watch::Sender<Arc<PolicySet>>,
    registry: Arc<Registry>,
    reconciler: Reconciler<Arc<Profiles>>,
}

const SHARED: &str = "nri-enforcer.default.web";

/// Policies of the namespace `default`: what follows `spec:` of each.
fn set(specs: &[&str]) -> Arc<PolicySet> {
    let policy = |(number, spec): (usize, &&str)| {
        let text = format!(
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: p{number}, namespace: default}}\n\
             spec:\n  {spec}\n"
        );
        let parsed = parse("p.yaml", &text);
        assert_eq!(parsed.errors, []);
        Arc::new(parsed.policies.into_iter().next().unwrap())
    };
    Arc::new(PolicySet::new(specs.iter().enumerate().map(policy).collect()))
}

const FILE: &str = "selector: {}\n  file: {matchPaths: [{path: /a}]}";
const NATIVE: &str = "selector: {matchLabels: {app: db}}\n  apparmor: |\n    deny /n/** w,";

impl Daemon {
    fn new(set: Arc<PolicySet>) -> Self {
        let node = Node::new();
        let profiles = Profiles::with(Box::new(node.kernel.clone()), node.dir.path().into()).unwrap();
        let node = Node { profiles: Arc::new(profiles), ..node };
        let selection = Selection { lock: Lock::AppArmor, ..Selection::default() };
        let (policies, seen) = watch::channel(set);
        let registry = Arc::<Registry>::default();
        node.profiles.ask(about(&selection, &seen, &registry));
        let told = Arc::clone(&registry);
        node.profiles.lacking(Box::new(move |id, what| told.lacks(id, what)));
        let procs = Procs::at(node.dir.path().join("proc"));
        let notify = Box::new(|_: Notice| {});
        let kernel = Arc::new(Arc::clone(&node.profiles));
        let reconciler = Reconciler::new(kernel, selection, seen, Arc::clone(&registry), procs, notify);
        Self { node, policies, registry, reconciler }
    }

    fn take(&mut self, order: Order) {
        self.reconciler.take(order);
        while !self.reconciler.is_idle() {
            self.reconciler.step();
        }
    }

    fn start(&mut self, id: &str, pid: i32, app: &str) {
        self.node.created(id, pid, SHARED);
        let (reply, mut answer) = oneshot::channel();
        self.take(Order::Start { container: container(id, "default", app), pid, reply });
        answer.try_recv().unwrap().unwrap();
    }

    fn change(&mut self, set: Arc<PolicySet>) {
        self.policies.send_replace(set);
        self.take(Order::PoliciesChanged);
        self.sweeps();
    }

    fn sweeps(&mut self) {
        self.take(Order::Sweep);
        self.take(Order::Sweep);
    }

    fn lacks(&self, id: &str) -> Option<String> {
        self.registry.standing(&ContainerId::new(id).unwrap()).lacks
    }
}

/// The digest of what is armed says nothing of them.
#[test]
fn native_rules_that_are_not_in_force_are_told() {
    let mut daemon = Daemon::new(set(&[FILE]));
    daemon.start("c1", 7, "db");
    daemon.sweeps();
    assert_eq!(daemon.lacks("c1"), None);
    daemon.node.kernel.kept().broken = true;
    daemon.change(set(&[FILE, NATIVE]));
    assert!(daemon.lacks("c1").is_some());
    daemon.node.kernel.kept().broken = false;
    daemon.sweeps();
    assert_eq!(daemon.lacks("c1"), None);
    assert!(daemon.node.kernel.text(SHARED).unwrap().contains("/n/**"));
}

#[test]
fn a_container_whose_profile_has_the_native_rules_of_others_is_told() {
    let mut daemon = Daemon::new(set(&[FILE, NATIVE]));
    daemon.start("c1", 7, "web");
    daemon.start("c2", 8, "db");
    daemon.sweeps();
    assert_eq!(daemon.lacks("c1"), None);
    assert!(daemon.lacks("c2").unwrap().contains("is its own"), "it has the ruleset, and no native rules");
}

/// Else `/healthz` takes the daemon for dead, which is killed then, and begins anew.
#[test]
fn a_sign_of_life_is_given_between_profiles() {
    let node = Node::new();
    let kernel = node.kernel.clone();
    node.profiles.gives_signs(Box::new(move || kernel.kept().loads.push("alive".into())));
    let names = ["nri-enforcer.shop.a", "nri-enforcer.shop.b", "nri-enforcer.shop.c"];
    let ids = ["c1", "c2", "c3"];
    for (pid, (id, name)) in (7..).zip(ids.iter().zip(names)) {
        node.profiles.arm(&node.created(id, pid, name), &blocks("/a")).unwrap();
    }
    node.kernel.loads();
    let each: Vec<_> = names.iter().flat_map(|name| [*name, "alive"]).collect();
    let (next, ids) = (blocks("/b"), ids.map(|id| ContainerId::new(id).unwrap()));
    let results = node.profiles.update_all(&ids.each_ref().map(|id| (id, &next)));
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(node.kernel.loads(), each);
    for id in &ids {
        node.natives.lock().unwrap().insert(id.to_string(), vec![native("deny /n/** w,")]);
    }
    node.profiles.tend();
    assert_eq!(node.kernel.loads(), each);
    let patience = crate::metrics::health::PATIENCE;
    assert!(enforcer_core::enforce::apparmor::PARSER_DEADLINE * 2 < patience, "and one takes no longer");
}

/// Nobody asks for a container whose policies are the same.
#[test]
fn a_container_whose_profile_changes_with_others_is_told() {
    let node = Node::new();
    let lacks = Arc::<Mutex<BTreeMap<String, bool>>>::default();
    let told = Arc::clone(&lacks);
    node.profiles.lacking(Box::new(move |id, what| {
        told.lock().unwrap().insert(id.to_string(), what.is_some());
    }));
    let both = [node.created("c1", 7, WEB), node.created("c2", 8, WEB)];
    for one in &both {
        node.created(one.id.as_str(), one.pid, WEB);
        node.profiles.arm(one, &blocks("/a")).unwrap();
    }
    node.profiles.update(&both[0].id, &blocks("/b")).unwrap();
    assert_eq!(*lacks.lock().unwrap(), BTreeMap::from([("c1".into(), false), ("c2".into(), true)]));
}

/// Else a denial is taken for that of rules, or of a container, of days ago.
#[test]
fn what_was_before_counts_for_some_seconds() {
    let node = Node::new();
    let both = [node.created("c1", 7, WEB), node.created("c2", 8, WEB)];
    for one in &both {
        node.created(one.id.as_str(), one.pid, WEB);
        node.profiles.arm(one, &blocks("/a")).unwrap();
    }
    let ids = both.each_ref().map(|one| one.id.clone());
    let next = blocks("/b");
    node.profiles.update_all(&ids.each_ref().map(|id| (id, &next))).into_iter().for_each(|one| one.unwrap());
    node.profiles.disarm(&ids[1]).unwrap();
    let (now, name) = (Instant::now(), WEB.parse().unwrap());
    let holders = node.profiles.holders(&name, None, now);
    assert_eq!((holders.containers.as_slice(), holders.acted), (ids.as_slice(), None));
    assert_eq!(holders.contents.len(), 2);
    let holders = node.profiles.holders(&name, None, now + crate::apparmor::state::LATELY);
    assert_eq!((holders.containers.as_slice(), holders.acted.as_ref()), (&ids[..1], Some(&ids[0])));
    let digests: Vec<_> = holders.contents.iter().map(|one| one.ruleset).collect();
    assert_eq!(digests, [Some(next.digest())]);
}
