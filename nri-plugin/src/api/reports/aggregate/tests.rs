use super::super::tests::{FRESH, STALE, about, gap, one, report, sums};
use super::*;

#[test]
fn texts_that_no_report_has_any_more_are_not_kept_without_a_list() {
    let mut nodes = Nodes::default();
    for number in 0..10_000 {
        let refused = format!("{number}: {}", "x".repeat(MAX_TEXT * 2));
        nodes.set(report("a", vec![PolicyReport { refused, ..one(&number.to_string(), 1, 0) }]), FRESH);
        assert!(nodes.bytes <= 4 * FEW * MAX_TEXT, "{}", nodes.bytes);
    }
    assert!(nodes.troubles.len() <= FEW && nodes.uids.len() <= FEW, "{}", nodes.troubles.len());
    assert!(nodes.troubles.iter().all(|one| one.refused.len() <= MAX_TEXT), "longer than any daemon writes");
    nodes.tidy();
    assert_eq!((nodes.troubles.len(), nodes.uids.len()), (1, 1));
    nodes.gone("a");
    nodes.tidy();
    assert_eq!((nodes.troubles.len(), nodes.uids.len(), nodes.bytes), (0, 0, 0));
}

#[test]
fn what_a_report_has_twice_counts_once_and_what_is_more_than_any_daemon_writes_not_at_all() {
    let mut nodes = Nodes::default();
    nodes.set(report("a", vec![one("p", 1, 3); 1_000]), FRESH);
    assert_eq!((sums(&nodes, 1).nodes, sums(&nodes, 1).containers), (1, 3));
    let many = (0..MAX_REPORTED + 10).map(|number| one(&number.to_string(), 1, 0));
    nodes.set(report("a", many.collect()), FRESH);
    assert_eq!(nodes.nodes["a"].entries.len(), MAX_REPORTED);
    let gaps = (0..MAX_GAPS + 10).map(|number| gap(&number.to_string())).collect();
    let long = one(&"x".repeat(MAX_UID), 1, 0);
    nodes.set(report("a", vec![PolicyReport { gaps, ..one("p", 1, 3) }, long]), FRESH);
    assert_eq!(nodes.nodes["a"].entries.len(), 1);
    assert_eq!(nodes.nodes["a"].entries[0].troubles.as_ref().unwrap().gaps.len(), MAX_GAPS);
}

#[test]
fn what_is_summed_up_has_no_texts_of_its_own() {
    let gaps: Vec<_> = (0..10).map(|number| gap(&format!("{number}{}", "x".repeat(100)))).collect();
    let names: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    let each = || names.iter().map(|name| PolicyReport { gaps: gaps.clone(), ..one(name, 1, 1) }).collect();
    let mut nodes = Nodes::default();
    nodes.set(report("a", each()), FRESH);
    nodes.set(report("b", each()), FRESH);
    assert_eq!(nodes.troubles.len(), 1);
    let of_reports = nodes.troubles.iter().next().unwrap().gaps.as_ptr_range();
    let abouts: Vec<_> = names.iter().map(|name| about(name, 1)).collect();
    for sum in nodes.sum(&abouts, STALE) {
        assert!(sum.gaps.len() == 10 && sum.gaps.values().all(|nodes| *nodes == 2), "{sum:?}");
        assert!(sum.gaps.keys().all(|gap| of_reports.contains(&std::ptr::from_ref(*gap))));
    }
}

#[test]
fn a_gap_is_as_long_as_a_status_has_it_and_counts_once_for_a_node() {
    let long = |end: &str| gap(&format!("{}{end}", "x".repeat(MAX_TEXT)));
    let mut nodes = Nodes::default();
    nodes.set(report("a", vec![PolicyReport { gaps: vec![long("1"), long("2")], ..one("p", 1, 1) }]), FRESH);
    let sum = sums(&nodes, 1);
    let lengths: Vec<_> = sum.gaps.iter().map(|(gap, nodes)| (gap.field.len(), *nodes)).collect();
    assert_eq!(lengths, [(MAX_GAP, 1)]);
}

#[test]
fn texts_that_nobody_has_any_more_take_no_room_from_a_report() {
    let mut nodes = Nodes::default();
    let most = 10 * (MAX_TEXT + size_of::<Troubles>() + 200);
    for number in 0..1_000 {
        let refused = format!("{number} {}", "x".repeat(MAX_TEXT));
        nodes.set_within(report("a", vec![PolicyReport { refused, ..one("p", 1, 0) }]), FRESH, most);
        assert_eq!(sums(&nodes, 1).untold, 0, "{number}");
    }
    nodes.set_within(report("b", vec![one("p", 1, 3)]), FRESH, most);
    assert_eq!((sums(&nodes, 1).nodes, sums(&nodes, 1).untold), (2, 0));
    assert!(nodes.bytes <= most && nodes.full.is_none(), "{}", nodes.bytes);
}

#[test]
fn a_node_for_whose_report_there_is_no_room_is_not_known() {
    let mut nodes = Nodes::default();
    let large = |node: &str| {
        let each = (0..100).map(|n| {
            let refused = format!("{node}{n}{}", "x".repeat(1000));
            let name = if n == 0 { "p".to_owned() } else { n.to_string() };
            PolicyReport { refused, ..one(&name, 1, 1) }
        });
        report(node, each.collect())
    };
    nodes.set(report("a", vec![one("p", 1, 3)]), FRESH);
    nodes.set_within(large("b"), FRESH, 1_000);
    assert_eq!((sums(&nodes, 1).nodes, sums(&nodes, 1).untold), (1, 1));
    assert!(nodes.bytes < 1_000, "{}", nodes.bytes);
    nodes.set(report("b", vec![one("p", 1, 3)]), FRESH);
    assert_eq!((sums(&nodes, 1).nodes, sums(&nodes, 1).untold), (2, 0), "there is room again");
    for number in 2..=MAX_NODES {
        nodes.set(report(&number.to_string(), vec![one("p", 1, 0)]), FRESH);
    }
    assert_eq!(nodes.nodes.len(), MAX_NODES);
    assert_eq!(sums(&nodes, 1).untold, 1, "more than are kept in mind");
    nodes.gone("2");
    assert_eq!(sums(&nodes, 1).untold, 0);
}
