use super::super::events::queue;
use super::super::tests::{one, report};
use super::super::wire::PolicyReport;
use super::super::{Pace, Shared};
use super::*;
use crate::api::client::Connector;
use crate::api::{Abouts, Health};
use crate::metrics::Metrics;

fn shared() -> Shared {
    Shared {
        connector: Arc::new(Connector { kubeconfig: Some("/nonexistent/kubeconfig".into()) }),
        namespace: None,
        node_name: "a".into(),
        abouts: watch::channel(Abouts::default()).1,
        health: Health::default(),
        metrics: Metrics::default(),
        pace: Pace::default(),
    }
}

fn untold(shared: &Shared) -> Vec<&'static str> {
    shared.health.all_untold().into_keys().collect()
}

/// A node that was silent for long tells again, so that there is nothing to delete: nobody tries, and nobody would note it.
#[tokio::test]
async fn a_report_that_need_not_be_deleted_any_more_is_not_told_as_one_that_cannot_be() {
    // a time that has passed since this machine was started
    let shared = Shared { pace: Pace { interval: Duration::from_millis(10) }, ..shared() };
    let (refusals, _queue) = queue(&shared.metrics);
    let mut leader = Leader::new(&shared, &refusals);
    let statuses = "write the statuses of policies";
    leader.statuses.line.note::<()>(statuses, Err(Trouble::Absent)).unwrap_err();
    let mut long_ago = report("b", Vec::new());
    let then = SystemTime::now() - shared.pace.forgotten() * 2;
    long_ago.renew_time = humantime::format_rfc3339_micros(then).to_string();
    leader.take(Change::List);
    leader.take(Change::Set(Box::new(long_ago)));
    leader.take(Change::Listed);
    leader.tidy().await;
    assert_eq!(untold(&shared), ["delete the report of a node that is gone", statuses], "each by itself");
    leader.take(Change::Set(Box::new(report("b", Vec::new()))));
    leader.tidy().await;
    assert_eq!(untold(&shared), [statuses]);
    drop(leader);
    assert_eq!(untold(&shared), [""; 0], "another daemon may lead: here nobody tries");
}

#[tokio::test]
async fn texts_that_no_report_has_any_more_go_with_time() {
    let shared = shared();
    let (refusals, _queue) = queue(&shared.metrics);
    let mut leader = Leader::new(&shared, &refusals);
    let refused = "x".repeat(1_000);
    leader.take(Change::Set(Box::new(report("a", vec![PolicyReport { refused, ..one("p", 1, 0) }]))));
    leader.take(Change::Gone("a".into()));
    assert!(leader.nodes.bytes() > 1_000);
    leader.tidy().await;
    assert_eq!(leader.nodes.bytes(), 0);
}

#[test]
fn what_a_status_says_is_told_from_what_stands_in_the_way_of_writing_it() {
    let refused = |code, why: &str| Trouble::Refused(code, why.into());
    for unfit in [refused(400, ""), refused(422, ""), refused(413, ""), refused(500, "request is too large")]
    {
        assert!(is_about_content(&unfit), "{unfit}");
    }
    for other in [refused(500, ""), refused(409, ""), refused(429, ""), refused(503, ""), Trouble::Absent] {
        assert!(!is_about_content(&other), "{other}");
    }
}

#[test]
fn a_mistake_of_a_namespace_is_told_once_and_another_one_again() {
    let (refusals, mut taken) = super::super::events::recorded();
    let about = |uid: &str, why: &str| {
        let key = crate::api::object::Key {
            resource: crate::api::object::Resource::Namespaces,
            namespace: String::new(),
            name: "shop".into(),
        };
        let refused = Some(why.to_owned());
        Arc::new(About { key, uid: uid.into(), generation: 0, refused, policy: None, seccomp: None })
    };
    let mut namespaces = Namespaces::default();
    let mut told = |wrong: &[Arc<About>]| {
        namespaces.tell(wrong, &refusals);
        taken().into_iter().map(|[_, uid, note]| format!("{uid} {note}")).collect::<Vec<_>>()
    };
    assert_eq!(told(&[about("1", "x"), about("2", "x")]), ["1 x", "2 x"]);
    assert_eq!(told(&[about("1", "x"), about("2", "y")]), ["2 y"]);
    assert_eq!(told(&[about("2", "y")]), [""; 0]);
    assert_eq!(told(&[about("1", "x"), about("2", "y")]), ["1 x"], "it was mended meanwhile");
}
