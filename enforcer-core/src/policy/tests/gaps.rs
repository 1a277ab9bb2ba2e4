//! What is not enforced, and what is left of such rules.

use super::*;
use crate::decide::{Access, DecidedBy, Verdict};
use crate::ruleset::{Conditions, PostureAction, Rule};
use crate::support::Support;

/// What a spec of rules, an Allow and a Block of each, leaves when the programs cannot do a thing.
fn block() -> Postures {
    Class::ALL
        .into_iter()
        .fold(Postures::default(), |postures, class| postures.with(class, PostureAction::Block))
}

#[test]
fn what_no_program_will_ever_do_is_a_gap_with_advice() {
    let policy = everything(
        "  selector: {}\n  network: {matchDNSQueries: [{domain: example.com, fromSource: [{path: /bin/x}]}]}\n  \
         syscalls:\n    matchSyscalls:\n    - {syscall: [unlink], fromSource: [{dir: /usr/bin/, recursive: true}, {path: /bin/x}]}\n    \
         - {syscall: [rmdir], fromSource: [{dir: /bin/}]}\n    matchPaths: [{path: /etc/, recursive: true, syscall: [chmod]}]\n  \
         apparmor: |\n    deny /x r,\n",
    );
    assert_eq!(
        gaps(&policy),
        [
            ("spec.network.matchDNSQueries[0]".into(), GapReason::Dns),
            ("spec.syscalls.matchSyscalls[0].fromSource[0].dir".into(), GapReason::SourceDirectory),
            ("spec.syscalls.matchSyscalls[1].fromSource[0].dir".into(), GapReason::SourceDirectory),
            ("spec.syscalls.matchPaths[0]".into(), GapReason::SyscallPath),
            ("spec.apparmor".into(), GapReason::AppArmor),
        ]
    );
    assert_eq!(written(&policy), ["audit syscall unlink from /bin/x"]);
    assert!(policy.whitelists().is_empty());
    assert!(policy.gaps().iter().all(|gap| gap.advice.len() > 30 && !gap.advice.ends_with('.')));
}

#[test]
fn every_rule_is_enforced_or_a_gap() {
    let spec = "  selector: {}\n  action: Audit\n  process:\n    matchPaths: [{path: /a, allowedArgs: [-x], pts: false}, {execname: b}]\n    \
                matchPatterns: [{pattern: /b/*}]\n  file:\n    matchPatterns: [{pattern: /a/*}]\n    matchDirectories: [{dir: /d/, pts: false}]\n  \
                network:\n    matchProtocols: [{protocol: tcp}]\n    matchDestinations: [{cidr: 10.0.0.0/8}]\n    matchListeners: [{ports: 80}]\n  \
                capabilities: {matchCapabilities: [{capability: net_raw}]}\n  syscalls: {matchSyscalls: [{syscall: [unlink]}]}\n  presets: [{name: exec}]\n";
    let policy = good(spec);
    let enforced: Vec<_> = policy.rules().iter().map(|rule| rule.origin.rule.clone()).collect();
    for rule in everything(spec).rules() {
        let place = &rule.origin.rule;
        let gap = policy.gaps().iter().any(|gap| gap.field.starts_with(place.as_str()));
        assert!(gap || enforced.contains(place), "{place}");
    }
    // What is resolved has nothing that the compiler refuses.
    let resolved = Ruleset::resolve([&policy], &block(), &subject(&[]));
    let refused = |rule: &&Rule| Support::default().rule_gap(rule).is_some();
    assert_eq!(resolved.ruleset.rules().iter().find(refused), None);
    assert_eq!(resolved.coverage.gaps.len(), policy.gaps().len());
}

#[test]
fn a_condition_that_cannot_be_checked_never_lets_more_pass() {
    let decide = |rule: &str| {
        let policy =
            good(&format!("  selector: {{}}\n  process:\n    matchPaths:\n    - path: /bin/x\n{rule}\n"));
        let resolved = Ruleset::resolve([&policy], &block(), &subject(&[]));
        // By who meets no condition.
        let asked = |path| Access::exec(path).with_args(&[b"--other"]).on_terminal();
        let decide = |path| resolved.ruleset.decide(&asked(path));
        (resolved.coverage.gaps.len(), decide(b"/bin/x"), decide(b"/bin/other"))
    };
    for (condition, gap) in [
        ("      allowedArgs: [-c]", Support::default().args_gap(&with_args())),
        ("      pts: false", Support::default().terminal_gap(Class::Process, &without_terminal())),
    ] {
        let (gaps, rule, other) = decide(condition);
        assert_eq!(gaps, usize::from(gap.is_some()));
        assert_eq!((rule.verdict, other.verdict), (Verdict::Block, Verdict::Allow));
        let (_, rule, _) = decide(&format!("{condition}\n      action: Audit"));
        assert_eq!(rule.verdict, Verdict::Audit);
        // Neither widened to every use of the program, nor the class opened by the loss of its only Allow rule.
        let (_, rule, other) = decide(&format!("{condition}\n      action: Allow"));
        assert_eq!((rule.verdict, rule.by), (Verdict::Block, DecidedBy::DefaultPosture));
        assert_eq!(other.verdict, Verdict::Block);
    }
    let policy = good("  selector: {}\n  process: {matchPaths: [{path: /bin/x, pts: true}]}");
    assert!(policy.gaps().is_empty(), "`pts: true` says nothing");
}

fn with_args() -> Conditions {
    Conditions { args: Some(crate::ruleset::Args::new(["x".into()])), ..Conditions::default() }
}

fn without_terminal() -> Conditions {
    Conditions { no_terminal: true, ..Conditions::default() }
}

#[test]
fn an_allowed_pattern_keeps_its_class_a_whitelist() {
    let policy = good("  selector: {}\n  file: {action: Allow, matchPatterns: [{pattern: /tmp/*}]}");
    assert_eq!(policy.whitelists(), [Class::File]);
    assert_eq!(policy.rules().len() + policy.gaps().len(), 1);
    let policy = good("  selector: {}\n  file: {matchPatterns: [{pattern: /tmp/*}]}");
    assert!(policy.whitelists().is_empty());
}

fn host_policy_text(selector: &str) -> String {
    format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {{name: h}}\nspec:\n  \
         nodeSelector: {{matchLabels: {selector}}}\n  process: {{matchPaths: [{{path: /x}}]}}\n"
    )
}

fn host_policy(selector: &str) -> Policy {
    let mut parsed = parse("f", &host_policy_text(selector));
    assert_eq!(messages(&parsed), Vec::<String>::new());
    parsed.policies.remove(0)
}

#[test]
fn a_host_policy_is_about_nodes_and_no_container() {
    let node = |labels: &[(&str, &str)]| Subject::of_host(subject(labels).labels);
    let one = node(&[("a", "b"), ("kubernetes.io/hostname", "one")]);
    let selects = |selector: &str, subject: &Subject| host_policy(selector).selects(subject);
    assert!(selects("{}", &one) && selects("{a: b}", &one) && !selects("{a: c}", &one));
    assert!(!selects("{}", &subject(&[("a", "b")])), "a container");
    assert!(
        selects("{kubernetes.io/hostname: one}", &one) && !selects("{kubernetes.io/hostname: two}", &one)
    );
    for (names, selected) in
        [("'*'", true), ("one", true), ("'two, one'", true), ("two", false), ("'two,*'", true)]
    {
        assert_eq!(selects(&format!("{{a: b, kubearmor.io/hostname: {names}}}"), &one), selected, "{names}");
    }
    assert!(!selects("{kubearmor.io/hostname: one}", &node(&[])), "a node whose name is not known");
    for nobody in ["''", "','", "' , '"] {
        let parsed = parse("f", &host_policy_text(&format!("{{kubearmor.io/hostname: {nobody}}}")));
        let [message] = &messages(&parsed)[..] else { panic!("{nobody}: {:?}", parsed.errors) };
        assert!(message.contains("`kubearmor.io/hostname` names no host"), "{message}");
        assert!(parsed.policies.is_empty(), "it would select every node");
    }
    let pattern = host_policy("{kubearmor.io/hostnamereg: 'one|.*'}");
    assert!(!pattern.selects(&one));
    assert_eq!(gaps(&pattern), [("spec.nodeSelector.matchLabels".into(), GapReason::HostPattern)]);
    // and what is about containers is not about the host
    let every = good("  selector: {}\n  file: {matchPaths: [{path: /x}]}");
    let host = Subject { namespace: "default".into(), ..node(&[]) };
    assert!(every.selects(&subject(&[])) && !every.selects(&host));
}

#[test]
fn what_a_host_policy_says_about_devices_is_a_gap() {
    let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {name: h, namespace: n}\nspec:\n  \
                nodeSelector: {matchLabels: {a: b, kubearmor.io/hostname: '*'}}\n  process: {matchPaths: [{path: /x}]}\n  device: \
                {matchDevice: [{class: MASS-STORAGE, subClass: 2, protocol: 0x50, level: 1}]}\n";
    let parsed = parse("f", text);
    assert_eq!(messages(&parsed), Vec::<String>::new());
    let [host] = &parsed.policies[..] else { panic!() };
    assert_eq!(gaps(host).iter().map(|(_, reason)| *reason).collect::<Vec<_>>(), [GapReason::Device]);
    assert_eq!((host.rules().len(), host.whitelists().len(), host.id().to_string()), (1, 0, "h".into()));
    let resolved = Ruleset::resolve(&parsed.policies, &Postures::default(), &subject(&[("a", "b")]));
    assert!(resolved.ruleset.is_empty() && resolved.coverage.is_full(), "it selects no container");
    for (device, expected) in [
        ("{class: X, level: 0}", "the level is less than 1"),
        ("{subClass: 1}", "`class` is missing"),
        ("{class: X, levl: 1}", "did you mean `level`?"),
    ] {
        let parsed =
            parse("f", &text.replace("{class: MASS-STORAGE, subClass: 2, protocol: 0x50, level: 1}", device));
        assert!(
            messages(&parsed).iter().any(|message| message.contains(expected)),
            "{:?}",
            messages(&parsed)
        );
    }
}

#[test]
fn a_cluster_policy_is_enforced_in_the_namespaces_that_it_selects() {
    let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorClusterPolicy\nmetadata: {name: c}\nspec:\n  \
                selector:\n    matchExpressions:\n    - {key: namespace, operator: NotIn, values: [kube-system]}\n    \
                - {key: label, operator: In, values: [tier=web, tier=api]}\n  file: {action: Allow, matchPaths: [{path: /x}]}\n";
    let parsed = parse("f", text);
    assert_eq!(messages(&parsed), Vec::<String>::new());
    let [cluster] = &parsed.policies[..] else { panic!() };
    assert!(cluster.gaps().is_empty());
    assert_eq!((cluster.id().to_string(), cluster.selector().scope()), ("c".into(), &Scope::Cluster));
    for (namespace, label, selected) in [
        ("default", "web", true),
        ("other", "api", true),
        ("kube-system", "web", false),
        ("default", "db", false),
    ] {
        let subject = Subject { namespace: namespace.into(), ..subject(&[("tier", label)]) };
        let resolved = Ruleset::resolve([cluster], &block(), &subject);
        assert_eq!(resolved.ruleset.is_empty(), !selected, "{namespace} {label}");
        assert_eq!(resolved.ruleset.whitelisted(Class::File), selected);
    }
}
