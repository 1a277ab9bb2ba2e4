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
