use std::collections::BTreeMap;

use enforcer_core::policy::{Kind, Policy, parse};
use serde_json::{Value, json};

use super::aggregate::{Nodes, Sum};
use super::conditions::{reduced, status};
use super::known::Digest;
use super::wire::{Daemon, MAX_BYTES, NodeReport, PolicyReport};
use super::*;
use crate::api::objects::About;
use crate::api::{Key, Resource};
use crate::set::PolicySet;
use crate::status::document::{PolicyGap, PolicyStatus};

pub(super) fn about(name: &str, generation: i64) -> Arc<About> {
    let resource = Resource::Policies(Kind::KubeArmorPolicy);
    let key = Key { resource, namespace: "n".into(), name: name.into() };
    Arc::new(About {
        key,
        uid: format!("uid of {name}"),
        generation,
        refused: None,
        policy: None,
        seccomp: None,
    })
}

pub(super) fn report(node: &str, policies: Vec<PolicyReport>) -> NodeReport {
    let daemon = Daemon { connected: true, ..Daemon::default() };
    let mut report = NodeReport::new(node, daemon, &PolicySet::default(), Vec::new(), &Vec::new(), MAX_BYTES);
    report.policies = policies;
    report
}

pub(super) fn one(name: &str, generation: i64, containers: u32) -> PolicyReport {
    PolicyReport { uid: format!("uid of {name}"), generation, containers, ..PolicyReport::default() }
}

pub(super) fn gap(field: &str) -> PolicyGap {
    PolicyGap { field: field.into(), reason: "no".into(), advice: String::new() }
}

pub(super) const FRESH: Duration = Duration::ZERO;
pub(super) const STALE: Duration = Duration::from_secs(1800);

pub(super) fn sums(nodes: &Nodes, generation: i64) -> Sum<'_> {
    nodes.sum(&[about("p", generation)], STALE).remove(0)
}

#[test]
fn what_stands_in_the_way_is_told_as_long_as_somebody_tries_and_it_does() {
    let health = Health::default();
    let told = || health.all_untold().into_keys().collect::<Vec<_>>();
    let (mut one, mut other) = (Line::new(&health), Line::new(&health));
    one.note::<()>("read", Err(Trouble::Absent)).unwrap_err();
    other.note::<()>("write", Err(Trouble::Refused(500, "no".into()))).unwrap_err();
    assert_eq!(told(), ["read", "write"]);
    // it goes on for now, and may end in the same way
    one.works();
    assert_eq!(told(), ["write"]);
    one.note::<()>("read", Err(Trouble::Absent)).unwrap_err();
    assert_eq!(told(), ["read", "write"]);
    // one says one thing at a time
    one.note::<()>("list", Err(Trouble::Absent)).unwrap_err();
    assert_eq!(told(), ["list", "write"]);
    other.note("write", Ok(())).unwrap();
    assert_eq!(told(), ["list"]);
    drop(one);
    assert_eq!(told(), [""; 0]);
}

/// Were the one that writes statuses gone, the election would keep its lease, and all statuses would stay as they are.
#[test]
fn the_end_of_any_part_ends_all_and_is_named() {
    for name in ["the report of this node", "the writer of events", "the writer of statuses", "the election"]
    {
        let dir = tempfile::tempdir().unwrap();
        let api = Api::load(Some(dir.path().join("none")), &dir.path().join("state")).unwrap();
        let reports = api.reports("node", None, DEFAULT_INTERVAL, &Metrics::default());
        let reports = Reports { parts: Parts::failing(name), ..reports };
        let policies = watch::channel(Arc::default());
        let status =
            crate::status::tests::status(Default::default(), &Arc::default(), policies.1, dir.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_end, ends) = oneshot::channel();
        let ended = runtime.block_on(reports.run(Arc::new(status), ends));
        assert_eq!(ended, Err(format!("{name} ended: it panicked: a fault of {name}")));
    }
}

#[test]
fn nodes_are_added_up_by_generation_and_those_that_are_silent_do_not_count() {
    let mut nodes = Nodes::default();
    nodes.list();
    nodes.set(report("a", vec![one("p", 2, 3), one("other", 1, 9)]), FRESH);
    nodes.set(report("b", vec![one("p", 1, 5)]), FRESH);
    nodes.set(report("c", vec![one("p", 2, 7)]), STALE * 2);
    nodes.listed();
    let sum = sums(&nodes, 2);
    assert_eq!((sum.nodes, sum.behind, sum.containers), (1, 1, 3));
    // it lives, whatever its clock says
    nodes.set(report("c", vec![one("p", 2, 7)]), STALE * 2);
    assert_eq!(sums(&nodes, 2).containers, 10);
    assert!(nodes.silent(FRESH + Duration::from_secs(1)).is_empty());
    // another list, in which one is missing
    nodes.list();
    nodes.set(
        report(
            "a",
            vec![PolicyReport { uncovered: 1, reason: "why".into(), gaps: vec![gap("x")], ..one("p", 2, 3) }],
        ),
        FRESH,
    );
    nodes.set(report("c", vec![PolicyReport { gaps: vec![gap("x"), gap("y")], ..one("p", 3, 7) }]), FRESH);
    nodes.listed();
    let sum = sums(&nodes, 2);
    assert_eq!((sum.nodes, sum.behind, sum.uncovered), (2, 0, 1), "a later generation than the holder knows");
    assert_eq!(sum.why, Some(("a", "why")));
    assert_eq!(sum.gaps, BTreeMap::from([(&gap("x"), 2), (&gap("y"), 1)]));
    nodes.gone("a");
    assert_eq!(sums(&nodes, 2).nodes, 1);
    // another policy under the name
    let anew = About { uid: "another".into(), ..About::clone(&about("p", 1)) };
    assert_eq!(nodes.sum(&[Arc::new(anew)], STALE), [Sum { untold: 1, ..Sum::default() }]);
}

#[test]
fn nothing_is_in_force_that_a_node_has_not_told_or_cannot_know() {
    let mut nodes = Nodes::default();
    nodes.set(report("a", vec![one("p", 1, 3)]), FRESH);
    let enforced = |nodes: &Nodes| said(&about("p", 1), &sums(nodes, 1), "Enforced");
    let wanted = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    assert_eq!(enforced(&nodes), wanted("True", "Enforced"));
    nodes.set(report("b", vec![one("other", 1, 3)]), FRESH);
    assert_eq!(enforced(&nodes), wanted("Unknown", "Progressing"), "without it");
    nodes.set(report("b", vec![one("p", 1, 0)]), FRESH);
    assert_eq!(enforced(&nodes), wanted("True", "Enforced"));
    let apart = |policies| NodeReport { daemon: Daemon::default(), ..report("b", policies) };
    nodes.set(apart(vec![one("p", 1, 0)]), FRESH);
    assert_eq!(enforced(&nodes), wanted("Unknown", "NotConnected"));
    nodes.gone("a");
    assert_eq!(enforced(&nodes), wanted("Unknown", "NotConnected"), "no node knows a container");
    nodes.set(apart(vec![PolicyReport { uncovered: 1, ..one("p", 1, 0) }]), FRESH);
    assert_eq!(enforced(&nodes), wanted("False", "ContainersUncovered"), "what is worse comes first");
}

/// The condition's status and reason.
fn said(about: &About, sum: &Sum<'_>, name: &str) -> (String, String) {
    let status = status(about, sum, &Digest::default(), "now");
    let all = status["conditions"].as_array().unwrap().clone();
    let its = all.into_iter().find(|one| one["type"] == name).unwrap();
    assert!(its["message"].as_str().is_some_and(|message| !message.is_empty()), "{its}");
    (its["status"].as_str().unwrap().into(), its["reason"].as_str().unwrap().into())
}

#[test]
fn conditions_say_what_holds_and_nothing_in_a_policys_favour_that_is_not_known() {
    let all = Sum { nodes: 2, containers: 3, ..Sum::default() };
    let (policy, refused) = (about("p", 1), Some((1, "no such path")));
    let x = gap("x");
    for (sum, accepted, enforced) in [
        (Sum::default(), ("Unknown", "NotReported"), ("Unknown", "NotReported")),
        (Sum { behind: 2, ..Sum::default() }, ("Unknown", "Progressing"), ("Unknown", "Progressing")),
        (all.clone(), ("True", "Accepted"), ("True", "Enforced")),
        (Sum { containers: 0, ..all.clone() }, ("True", "Accepted"), ("True", "NoContainers")),
        (Sum { gaps: [(&x, 1)].into(), ..all.clone() }, ("True", "Accepted"), ("True", "WithGaps")),
        (Sum { behind: 1, ..all.clone() }, ("True", "Accepted"), ("Unknown", "Progressing")),
        (Sum { untold: 1, ..all.clone() }, ("True", "Accepted"), ("Unknown", "Progressing")),
        (
            Sum { disconnected: Some((1, "a")), ..all.clone() },
            ("True", "Accepted"),
            ("Unknown", "NotConnected"),
        ),
        (
            Sum { uncovered: 1, behind: 1, ..all.clone() },
            ("True", "Accepted"),
            ("False", "ContainersUncovered"),
        ),
        (
            Sum { containers: 0, unheld: Some((1, "a")), ..all.clone() },
            ("True", "Accepted"),
            ("False", "NoLock"),
        ),
        (Sum { unheld: Some((1, "a")), untold: 1, ..all.clone() }, ("True", "Accepted"), ("False", "NoLock")),
        (Sum { overridden: Some((1, "a")), ..all.clone() }, ("True", "Accepted"), ("False", "Overridden")),
        (Sum { refused, ..all.clone() }, ("False", "Invalid"), ("False", "NotAccepted")),
        (Sum { refused, older: 1, ..all.clone() }, ("False", "Invalid"), ("False", "OlderVersion")),
    ] {
        let told = |name| said(&policy, &sum, name);
        let wanted = |(status, reason): (&str, &str)| (status.to_owned(), reason.to_owned());
        assert_eq!((told("Accepted"), told("Enforced")), (wanted(accepted), wanted(enforced)), "{sum:?}");
    }
}

/// A label that no node has would else read as if everything were well.
#[test]
fn a_host_policy_that_selects_no_node_is_not_told_as_enforced() {
    let mut policy = About::clone(&about("h", 1));
    policy.key.resource = Resource::Policies(Kind::KubeArmorHostPolicy);
    for (containers, wanted) in [(0, ("False", "NoNodes")), (1, ("True", "Enforced"))] {
        let sum = Sum { nodes: 2, containers, ..Sum::default() };
        assert_eq!(said(&policy, &sum, "Enforced"), (wanted.0.to_owned(), wanted.1.to_owned()));
    }
}

#[test]
fn a_condition_keeps_its_time_until_it_is_another() {
    let policy = about("p", 1);
    let sum = Sum { nodes: 1, containers: 3, ..Sum::default() };
    let hashes = std::hash::RandomState::new();
    let of = |status: &Value| Digest::of(status, &hashes);
    let first = status(&policy, &sum, &of(&json!({})), "1");
    assert_eq!(first["status"], "OK");
    assert_eq!(status(&policy, &sum, &of(&first), "2"), first, "nothing to write");
    let more = status(&policy, &Sum { containers: 4, ..sum.clone() }, &of(&first), "3");
    assert_eq!(more["conditions"][1]["lastTransitionTime"], "1", "another message");
    assert_ne!(more, first);
    let worse = status(&policy, &Sum { uncovered: 1, ..sum }, &of(&more), "4");
    let times: Vec<&Value> =
        worse["conditions"].as_array().unwrap().iter().map(|one| &one["lastTransitionTime"]).collect();
    assert_eq!(times, ["1", "4"]);
}

#[test]
fn a_status_that_the_server_does_not_take_loses_its_gaps_and_long_messages_alone() {
    let long = "x".repeat(2_000);
    let gaps: Vec<_> = (0..100).map(|n| gap(&format!("{n}{}", "y".repeat(500)))).collect();
    let sum = Sum {
        nodes: 2,
        uncovered: 1,
        why: Some(("a", &long)),
        gaps: gaps.iter().map(|gap| (gap, 1)).collect(),
        ..Sum::default()
    };
    let whole = status(&about("p", 3), &sum, &Digest::default(), "1");
    let less = reduced(whole.clone());
    assert!(serde_json::to_vec(&less).unwrap().len() < 1_000, "{less:#}");
    assert_eq!(less["gaps"], json!([]));
    let fields = ["type", "status", "reason", "lastTransitionTime", "observedGeneration"];
    for (less, whole) in [0, 1].map(|at| (&less["conditions"][at], &whole["conditions"][at])) {
        assert!(fields.iter().all(|field| less[field] == whole[field]), "{less:#}");
        let message = less["message"].as_str().unwrap();
        assert!(message == whole["message"] || message.len() == 256 && message.ends_with("..."), "{less:#}");
    }
    assert_eq!(["status", "nodes"].map(|field| &less[field]), ["status", "nodes"].map(|field| &whole[field]));
}

#[test]
fn a_report_has_a_bound_and_what_matters_is_not_what_is_left_out() {
    let long = "x".repeat(200);
    let abouts: Abouts = (0..9_000).map(|number| about(&format!("{long}{number}"), 1)).collect();
    let report = |abouts: &Abouts| {
        NodeReport::new("a", Daemon::default(), &PolicySet::default(), Vec::new(), abouts, MAX_BYTES)
    };
    let some = report(&abouts);
    assert_eq!(some.total, 9_000);
    assert!(some.omitted > 0 && some.policies.len() > 1_500, "{}", some.omitted);
    assert!(serde_json::to_vec(&some).unwrap().len() < MAX_BYTES + 1_000);
    assert_eq!(usize::try_from(some.omitted).unwrap() + some.policies.len(), 9_000);
    // nothing before the server has told which version it is
    let mut unknown = About::clone(&abouts[0]);
    unknown.generation = 0;
    assert!(report(&vec![Arc::new(unknown)]).policies.is_empty());
}

fn policy(name: &str) -> Arc<Policy> {
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: {name}, namespace: n}}\n\
         spec: {{selector: {{}}, file: {{matchPaths: [{{path: /x}}]}}, action: Block}}\n"
    );
    Arc::new(parse("p", &text).policies.remove(0))
}

fn told(name: &str, gaps: Vec<PolicyGap>) -> PolicyStatus {
    PolicyStatus {
        kind: "KubeArmorPolicy".into(),
        namespace: "n".into(),
        name: name.into(),
        containers: 5,
        uncovered: 1,
        reason: "\u{e4}".repeat(10_000),
        unheld: true,
        gaps,
        rules: BTreeMap::new(),
    }
}

/// A policy of the API server.
fn of(policy: &Arc<Policy>) -> Arc<About> {
    let name = &policy.id().name;
    Arc::new(About { policy: Some(Arc::clone(policy)), ..About::clone(&about(name, 1)) })
}

#[test]
fn a_policy_that_is_not_in_the_set_yet_is_left_out_unless_a_directory_has_its_name() {
    let (old, new) = (policy("p"), policy("p"));
    let made = |set: PolicySet, about: &Arc<About>| {
        let told = vec![told("p", Vec::new())];
        NodeReport::new("a", Daemon::default(), &set, told, &vec![Arc::clone(about)], MAX_BYTES).policies
    };
    let set = || PolicySet::new(vec![Arc::clone(&old)]);
    assert_eq!(made(PolicySet::default(), &of(&new)), []);
    assert_eq!(made(set(), &of(&new)), [], "the set has another version");
    let known = made(set(), &of(&old));
    assert!(!known[0].overridden && known[0].containers == 5 && known[0].unheld, "{known:?}");
    let of_file = set().with_those_of_files([old.id().clone()].into());
    let overridden = made(of_file, &of(&new));
    assert!(overridden[0].overridden && overridden[0].containers == 0, "{overridden:?}");
    // nothing of it is in force, but its last version is in the set yet
    let refused = About { refused: Some("no".into()), ..About::clone(&about("p", 2)) };
    let refused = made(set(), &Arc::new(refused));
    assert_eq!((refused[0].refused.as_str(), refused[0].containers, refused[0].overridden), ("no", 0, false));
}

#[test]
fn gaps_of_some_do_not_leave_the_troubles_of_others_out() {
    let long = |n: usize| PolicyGap { advice: "y".repeat(300), ..gap(&format!("{n}{}", "x".repeat(300))) };
    let policies: Vec<_> = (0..101).map(|n| policy(&format!("p{n:03}"))).collect();
    let told = (0..101).map(|n| told(&format!("p{n:03}"), (0..100).map(long).collect())).collect();
    let abouts: Abouts = policies.iter().map(of).collect();
    let report = NodeReport::new("a", Daemon::default(), &PolicySet::new(policies), told, &abouts, MAX_BYTES);
    assert_eq!((report.policies.len(), report.omitted), (101, 0));
    assert_eq!(report.policies[0].gaps.len(), 100);
    assert_eq!(report.policies[100].gaps, [long(0)], "it must not read as if it had none");
    assert!(report.bytes() > MAX_BYTES / 2 && report.bytes() <= MAX_BYTES, "{}", report.bytes());
}

#[test]
fn a_report_is_not_larger_than_its_bound_as_the_api_server_writes_it() {
    let refused =
        |n| About { refused: Some("<\u{2028}".repeat(150)), ..About::clone(&about(&format!("p{n}"), 1)) };
    let abouts: Abouts = (0..3_000).map(|n| Arc::new(refused(n))).collect();
    let made =
        |most| NodeReport::new("a", Daemon::default(), &PolicySet::default(), Vec::new(), &abouts, most);
    let as_go_does = |report: &NodeReport| {
        let text = serde_json::to_string(&report.policies).unwrap();
        text.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").len()
    };
    let report = made(MAX_BYTES);
    let bytes = as_go_does(&report);
    assert!(bytes <= MAX_BYTES + 1 && bytes > MAX_BYTES / 2, "{bytes}");
    assert!(report.policies.len() > 1_500, "texts are short then: {}", report.policies.len());
    let half = as_go_does(&made(MAX_BYTES / 2));
    assert!(half <= MAX_BYTES / 2 + 1, "{half}");
}

#[test]
fn what_is_too_large_is_told_from_other_refusals() {
    let refused = |code, why: &str| Trouble::Refused(code, why.into()).is_too_large();
    assert!(refused(413, "") && refused(500, "etcdserver: request is too large"));
    assert!(refused(500, "rpc error: trying to send message larger than max (3 vs. 2)"));
    assert!(!refused(500, "etcdserver: leader changed") && !refused(422, "too large"));
}

#[test]
fn texts_are_cut_between_signs() {
    assert_eq!(cut("abcdef", 6), "abcdef");
    assert_eq!(cut("abcdefg", 6), "abc...");
    assert_eq!(cut("\u{e4}\u{e4}\u{e4}\u{e4}", 6), "\u{e4}...");
}

/// The numbers that the module tells.
#[test]
fn a_thousand_policies_fit_into_a_report() {
    let abouts: Abouts = (0..1_000).map(|number| about(&format!("policy-of-a-team-{number}"), 3)).collect();
    let report =
        NodeReport::new("a", Daemon::default(), &PolicySet::default(), Vec::new(), &abouts, MAX_BYTES);
    let bytes = serde_json::to_vec(&report).unwrap().len();
    assert!(report.omitted == 0 && (100_000..160_000).contains(&bytes), "{bytes}");
}
