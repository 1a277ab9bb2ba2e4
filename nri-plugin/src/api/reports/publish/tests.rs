use super::super::events::queue;
use super::super::tests::{one, report};
use super::super::wire::PolicyReport;
use super::super::{Pace, Shared};
use super::*;
use crate::api::client::Connector;
use crate::api::{Abouts, Health};
use crate::metrics::Metrics;

#[tokio::test]
async fn texts_that_no_report_has_any_more_go_with_time() {
    let (_sender, abouts) = watch::channel(Abouts::default());
    let metrics = Metrics::default();
    let shared = Shared {
        connector: Arc::new(Connector { kubeconfig: None }),
        namespace: None,
        node_name: "a".into(),
        abouts,
        health: Health::default(),
        metrics: metrics.clone(),
        pace: Pace::default(),
    };
    let (refusals, _queue) = queue(&metrics);
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
