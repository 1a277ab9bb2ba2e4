use super::crd::tests::assert_admitted;
use super::*;
use crate::coverage::GapReason;
use crate::posture::Effect;
use crate::ruleset::{Postures, Ruleset};

const HEAD: &str =
    "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p}\nspec:\n";

/// A policy with this spec, six spaces less indented in the errors' columns than it looks here.
fn with_spec(spec: &str) -> ParsedFile {
    parse("f", &format!("{HEAD}{spec}"))
}

fn good(spec: &str) -> Policy {
    let mut parsed = with_spec(spec);
    assert_eq!(messages(&parsed), Vec::<String>::new());
    assert_eq!(parsed.policies.len(), 1);
    // A text of megabytes would be checked for minutes, and what it is about is its length.
    if spec.len() < 100_000 {
        assert_admitted(&format!("{HEAD}{spec}"));
    }
    parsed.policies.remove(0)
}

fn messages(parsed: &ParsedFile) -> Vec<String> {
    parsed.errors.iter().map(ToString::to_string).collect()
}

/// The policy, if the programs could do all that the language says.
fn everything(spec: &str) -> Policy {
    let text = format!("{HEAD}{spec}");
    let mut parsed = parse_for(Support { everything: true }, "f", &text);
    assert_eq!(messages(&parsed), Vec::<String>::new());
    assert_admitted(&text);
    parsed.policies.remove(0)
}

/// Its rules as they print, each for each source.
fn written(policy: &Policy) -> Vec<String> {
    let rules = policy.rules().iter().flat_map(|rule| {
        let PolicyRule { class, sources, object, conditions, origin } = rule;
        let about = format!("{} {class} {object}{conditions}", origin.action);
        let from = sources.iter().map(|source| format!(" from {source}"));
        let any = sources.is_empty().then(String::new);
        any.into_iter().chain(from).map(move |from| format!("{about}{from}")).collect::<Vec<_>>()
    });
    rules.collect()
}

/// The one error of a spec.
fn bad(spec: &str) -> String {
    let parsed = with_spec(spec);
    assert!(parsed.policies.is_empty(), "accepted: {spec}");
    assert_eq!(parsed.errors.len(), 1, "{:?}", messages(&parsed));
    parsed.errors[0].to_string()
}

fn subject(labels: &[(&str, &str)]) -> Subject {
    Subject {
        namespace: "default".into(),
        pod: "p".into(),
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        container: "main".into(),
        ..Subject::default()
    }
}

// Inheritance: the four cases of KubeArmor's own tests.

fn inherited(spec_level: &str, section_level: &str, rule_level: &str) -> (Effect, u8, Vec<String>, String) {
    let policy = good(&format!(
        "  selector: {{}}\n{spec_level}\n  file:\n{section_level}\n    matchPaths:\n    - path: /x\n{rule_level}\n"
    ));
    let Origin { action, severity, tags, message, .. } = policy.rules()[0].origin.as_ref().clone();
    (action, severity, tags, message)
}

const SPEC: &str = "  action: Audit\n  severity: 2\n  tags: [spec]\n  message: of spec";
const SECTION: &str = "    action: Allow\n    severity: 3\n    tags: [section]\n    message: of section";
const RULE: &str = "      action: Block\n      severity: 4\n      tags: [rule]\n      message: of rule";

fn expect(action: Effect, severity: u8, name: &str) -> (Effect, u8, Vec<String>, String) {
    (action, severity, vec![name.into()], format!("of {name}"))
}

#[test]
fn global_only() {
    assert_eq!(inherited(SPEC, "", ""), expect(Effect::Audit, 2, "spec"));
    assert_eq!(inherited("", SECTION, ""), expect(Effect::Allow, 3, "section"));
}

#[test]
fn local_only() {
    assert_eq!(inherited("", "", RULE), expect(Effect::Block, 4, "rule"));
}

#[test]
fn local_trumps_global() {
    assert_eq!(inherited(SPEC, "", RULE), expect(Effect::Block, 4, "rule"));
    assert_eq!(inherited(SPEC, SECTION, RULE), expect(Effect::Block, 4, "rule"));
    assert_eq!(inherited(SPEC, SECTION, ""), expect(Effect::Allow, 3, "section"));
}

#[test]
fn global_fills_gaps() {
    let found =
        inherited(SPEC, "    severity: 3\n    tags: []", "      message: of rule\n      action: \"\"");
    assert_eq!(found, (Effect::Audit, 3, vec!["spec".into()], "of rule".into()));
    assert_eq!(
        inherited("", "", ""),
        (Effect::Block, 1, vec![], String::new()),
        "nothing said: Block, severity 1"
    );
}

#[test]
fn lower_case_actions_are_taken_at_the_level_of_the_spec_alone() {
    for (text, effect) in [("allow", Effect::Allow), ("audit", Effect::Audit), ("block", Effect::Block)] {
        assert_eq!(inherited(&format!("  action: {text}"), "", "").0, effect);
    }
    let error = bad("  selector: {}\n  file:\n    action: allow\n    matchPaths: [{path: /x}]");
    assert_eq!(error, "f:7:13: spec.file.action: `allow` is no action\n  help: did you mean `Allow`?");
    let error = bad("  selector: {}\n  file:\n    matchPaths: [{path: /x, action: audit}]");
    assert!(error.contains("spec.file.matchPaths[0].action: `audit` is no action"), "{error}");
    // Wrong ones never fall back to something weaker.
    assert!(bad("  selector: {}\n  action: ALLOW\n  file: {matchPaths: [{path: /x}]}").contains("no action"));
    assert!(bad("  selector: {}\n  file: {matchPaths: [{path: /x}]}\n  action: Deny").contains("no action"));
}

// Errors: place, message, help.

#[test]
fn errors_say_where_and_what_to_do() {
    for (spec, expected) in [
        (
            "  selector: {}\n  file:\n    matchPath:\n    - path: /x\n",
            "f:7:5: spec.file.matchPath: unknown field `matchPath`\n  help: did you mean `matchPaths`?",
        ),
        (
            "  selector: {}\n  file:\n    matchPaths:\n    - path: /x\n      ownerOnly: yes\n",
            "f:9:18: spec.file.matchPaths[0].ownerOnly: expected `true` or `false`, found a boolean\n  help: write `true` or `false`, without quotes",
        ),
        (
            "  selector: {}\n  file:\n    matchPaths:\n    - path: /x\n      path: /y\n",
            "f:9:7: spec.file.matchPaths[0].path: `path` is already set on line 8\n  help: leave one of the two out",
        ),
        (
            "  selector: {}\n  file:\n    matchPaths:\n    - path: etc/passwd\n",
            "f:8:13: spec.file.matchPaths[0].path: the path does not start with `/`: `etc/passwd`\n  help: write the path from the root of the container on",
        ),
        (
            "  selector: {}\n  file:\n    matchPaths:\n    - path: /etc/\n",
            "f:8:13: spec.file.matchPaths[0].path: `/etc/` is a directory\n  help: use `matchDirectories`, or leave the last `/` out",
        ),
        (
            "  selector: {}\n  file:\n    matchPaths:\n    - path: /a/../b\n",
            "f:8:13: spec.file.matchPaths[0].path: the path holds a `..` component: `/a/../b`\n  help: write the path that is meant, without `..`",
        ),
        (
            "  selector: {}\n  file:\n    matchDirectories:\n    - dir: /etc\n",
            "f:8:12: spec.file.matchDirectories[0].dir: the directory `/etc` does not end in `/`\n  help: write `/etc/`, or use `matchPaths` for a file",
        ),
        (
            "  selector: {}\n  severity: 11\n  file:\n    matchPaths:\n    - path: /x\n",
            "f:6:13: spec.severity: a severity of 11 is not within 1 to 10\n  help: 1 is the least, 10 the most severe",
        ),
        ("  selector: {}\n  file:\n", "f:6:7: spec.file: expected a mapping, found nothing"),
        (
            "  selector: {}\n  file: {matchPaths: []}\n",
            "f:5:3: spec: the policy has no rules\n  help: add a section, such as `file`, with rules",
        ),
        (
            "  selector: {}\n  file:\n    matchPaths:\n    - {}\n",
            "f:8:7: spec.file.matchPaths[0]: the rule is empty\n  help: say what it is about, or leave it out",
        ),
        (
            "  selector: {}\n  file:\n    matchPaths:\n    - ownerOnly: true\n",
            "f:8:7: spec.file.matchPaths[0]: the rule names no path\n  help: give it a `path`, such as `/etc/passwd`",
        ),
        (
            "  selector: {}\n  file:\n    matchPaths:\n    - path: /x\n      fromSource: []\n",
            "f:9:19: spec.file.matchPaths[0].fromSource: no source\n  help: list at least one, or leave `fromSource` out",
        ),
        (
            "  selector: {}\n  process:\n    matchPaths:\n    - path: /x\n      execname: y\n",
            "f:9:17: spec.process.matchPaths[0].execname: `path` and `execname` exclude each other\n  help: write two rules",
        ),
        (
            "  selector: {}\n  process:\n    matchPaths:\n    - execname: a/b\n",
            "f:8:17: spec.process.matchPaths[0].execname: `a/b` is no name of an executable\n  help: write the last part of its path, such as `sh`",
        ),
        (
            "  file:\n    matchPaths:\n    - path: /x\n",
            "f:5:3: spec: `selector` is missing\n  help: `selector: {}` selects every pod of the namespace",
        ),
        (
            "  selector:\n  file:\n    matchPaths:\n    - path: /x\n",
            "f:5:11: spec.selector: the selector is empty\n  help: `selector: {}` selects every pod of the namespace",
        ),
        (
            "  selector: {matchLabels: {app: true}}\n  file:\n    matchPaths:\n    - path: /x\n",
            "f:5:33: spec.selector.matchLabels.app: expected a string, found a boolean\n  help: put it in quotes: `\"true\"`",
        ),
        (
            "  selector: {matchLabels: {version: 1.0}}\n  file:\n    matchPaths:\n    - path: /x\n",
            "f:5:37: spec.selector.matchLabels.version: expected a string, found a number\n  help: put it in quotes: `\"1.0\"`",
        ),
        (
            "  selector: {matchLabels: {on: on}}\n  file:\n    matchPaths:\n    - path: /x\n",
            "f:5:32: spec.selector.matchLabels.on: expected a string, found a boolean\n  help: put it in quotes: `\"on\"`",
        ),
        (
            "  selector: {}\n  file:\n    matchPaths:\n      path: /x\n",
            "f:8:7: spec.file.matchPaths: expected a list, found a mapping\n  help: start each item with `- `",
        ),
        (
            "  selector: {}\n  <<: {}\n  file:\n    matchPaths:\n    - path: /x\n",
            "f:6:3: spec[\"<<\"]: unknown field `<<`\n  help: merge keys are not read; write the fields out, or use an alias for a whole value",
        ),
    ] {
        assert_eq!(bad(spec), expected, "{spec}");
    }
}

#[test]
fn all_errors_of_a_policy_are_told_at_once_in_the_order_of_the_text() {
    let parsed = with_spec(
        "  selectr: {}\n  file:\n    matchPaths:\n    - path: x\n    - pth: /y\n  severity: 0\n  action: Deny\n",
    );
    let places: Vec<_> = parsed.errors.iter().map(|error| (error.line, error.field.as_str())).collect();
    assert_eq!(
        places,
        [
            (5, "spec"),
            (5, "spec.selectr"),
            (8, "spec.file.matchPaths[0].path"),
            (9, "spec.file.matchPaths[1]"),
            (9, "spec.file.matchPaths[1].pth"),
            (10, "spec.severity"),
            (11, "spec.action"),
        ],
        "{:?}",
        messages(&parsed)
    );
}

#[test]
fn errors_of_the_head() {
    let spec = "spec: {selector: {}, file: {matchPaths: [{path: /x}]}}";
    for (head, expected) in [
        ("kind: KubeArmorPolicy\nmetadata: {name: p}", "f:1:1: `apiVersion` is missing"),
        ("apiVersion: security.kubearmor.com/v1\nmetadata: {name: p}", "f:1:1: `kind` is missing"),
        (
            "apiVersion: security.kubearmor.com/v2\nkind: KubeArmorPolicy\nmetadata: {name: p}",
            "f:1:13: apiVersion: `security.kubearmor.com/v2` is no known version\n  help: write `security.kubearmor.com/v1`",
        ),
        (
            "apiVersion: security.kubearmor.com/v1\nkind: KubearmorPolicy\nmetadata: {name: p}",
            "f:2:7: kind: `KubearmorPolicy` is no kind of policy\n  help: did you mean `KubeArmorPolicy`?",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}",
            "f:2:7: kind: `Pod` is no kind of policy\n  help: there are `KubeArmorPolicy`",
        ),
        (
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {}",
            "f:3:11: metadata: `name` is missing",
        ),
        (
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: My_Policy}",
            "f:3:18: metadata.name: `My_Policy` is no name",
        ),
        (
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p, namespace: a.b}",
            "f:3:32: metadata.namespace: `a.b` is no namespace",
        ),
    ] {
        let parsed = parse("f", &format!("{head}\n{spec}\n"));
        assert!(parsed.policies.is_empty());
        assert!(parsed.errors[0].to_string().starts_with(expected), "{:?}", messages(&parsed));
    }
}

// Files of several documents.

const POLICY: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: NAME}\n\
                      spec: {selector: {}, file: {matchPaths: [{path: /x}]}}\n";

#[test]
fn one_bad_document_does_not_hide_the_others() {
    let good = |name: &str| POLICY.replace("NAME", name);
    for broken in [
        "a: [\n",
        "a: b: c\n",
        "\t- x\n",
        "just text\n",
        "- a\n",
        "a: *x\n",
        "\"open\n",
        "!!map {}\n",
        "&a [*a]\n",
    ] {
        let text = format!("{}---\n{broken}--- # the last\n{}", good("one"), good("two"));
        let parsed = parse("f", &text);
        let names: Vec<_> = parsed.policies.iter().map(|policy| &*policy.id().name).collect();
        assert_eq!(names, ["one", "two"], "{broken:?}: {:?}", messages(&parsed));
        assert!(!parsed.errors.is_empty(), "{broken:?}");
        assert!(parsed.errors.iter().all(|error| (5..8).contains(&error.line)), "{:?}", messages(&parsed));
    }
}

#[test]
fn empty_documents_are_none() {
    for text in
        ["", "---\n", "# nothing\n", "---\n# nothing\n---\n...\n", "\u{feff}", "%YAML 1.2\n---\n", "~\n"]
    {
        assert_eq!(parse("f", text), ParsedFile::default(), "{text:?}");
    }
    let text = format!(
        "\u{feff}%YAML 1.2\n---\n---\r\n{}...\n---\n",
        POLICY.replace("NAME", "p").replace('\n', "\r\n")
    );
    let parsed = parse("f", &text);
    assert_eq!((parsed.policies.len(), messages(&parsed)), (1, vec![]));
}

#[test]
fn a_name_is_defined_once() {
    let text = format!("{0}---\n{0}", POLICY.replace("NAME", "p"));
    let parsed = parse("f", &text);
    assert_eq!(parsed.policies.len(), 1);
    assert_eq!(
        messages(&parsed),
        [
            "f:8:18: metadata.name: `default/p` is already defined on line 3\n  help: give each policy a name of its own"
        ]
    );
}

#[test]
fn a_list_holds_policies_of_which_each_stands_alone() {
    let item = |name: &str| format!("- {}", POLICY.replace("NAME", name).trim_end().replace('\n', "\n  "));
    let text = format!(
        "apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: \"\"}}\nitems:\n{}\n{}\n{}\n",
        item("one"),
        item("BAD"),
        item("two")
    );
    let parsed = parse("f", &text);
    let names: Vec<_> = parsed.policies.iter().map(|policy| &*policy.id().name).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(parsed.errors.len(), 1);
    assert_eq!((parsed.errors[0].line, &*parsed.errors[0].field), (11, "items[1].metadata.name"));
    let twice = parse("f", "apiVersion: v1\nkind: List\nitems: []\nitems: []\n");
    assert!(twice.errors[0].to_string().contains("already set on line 3"));
}

#[test]
fn aliases_stand_for_what_they_name_and_cannot_multiply() {
    let policy = good(
        "  selector: {}\n  file:\n    matchPaths:\n    - path: /x\n      fromSource: &s\n      - path: /bin/a\n\
         \x20   - path: /y\n      fromSource: *s\n",
    );
    assert_eq!(policy.rules()[0].sources, policy.rules()[1].sources);

    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let below = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(", "));
    }
    assert!(parse("f", &bomb).errors[0].to_string().contains("too large with its aliases written out"));

    let mut chain = "a0: &a0 [x]\n".to_owned();
    for level in 1..1000 {
        chain += &format!("a{level}: &a{level} [*a{}]\n", level - 1);
    }
    assert!(parse("f", &chain).errors[0].to_string().contains("nested more than 64 levels deep"));
}

#[test]
fn hostile_shapes_are_refused_without_harm() {
    let started = std::time::Instant::now();
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
        "? ".repeat(50_000),
        "a: [".to_owned() + &"x,".repeat(500_000),
        "&a ".repeat(100_000),
        "\"".to_owned() + &"\\x41".repeat(100_000),
        "? [a]\n: b\n".to_owned(),
        "? {a: b}\n: b\n".to_owned(),
        "x".repeat(yaml::MAX_TEXT + 1),
        format!("{}: [{}]\n", "k".repeat(200_000), "{},".repeat(10_000)),
        (0..50_000).map(|n| format!("k{n}: 1\n")).collect(),
    ] {
        let parsed = parse("f", &text);
        assert!(parsed.policies.is_empty() && !parsed.errors.is_empty());
        assert!(parsed.errors.len() <= 100);
        let said: usize = messages(&parsed).iter().map(String::len).sum();
        assert!(said < 100_000, "{said} bytes of errors");
    }
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn long_paths_pass_up_to_the_kernels_limit() {
    let path = |len: usize| format!("/{}", "a".repeat(len - 1));
    good(&format!("  selector: {{}}\n  file:\n    matchPaths:\n    - path: {}\n", path(4095)));
    let error = bad(&format!("  selector: {{}}\n  file:\n    matchPaths:\n    - path: {}\n", path(4096)));
    assert!(error.contains("4096 bytes long, the kernel's limit is 4095") && error.len() < 400, "{error}");
}

#[test]
fn what_every_rule_carries_is_bounded() {
    let policy = |meta: &str| format!("  selector: {{}}\n  {meta}\n  file: {{matchPaths: [{{path: /x}}]}}");
    good(&policy(&format!("message: {}", "m".repeat(1024))));
    assert!(bad(&policy(&format!("message: {}", "m".repeat(1025)))).contains("1025 bytes, more than 1024"));
    good(&policy(&format!("tags: [{}]", ["t"; 32].join(","))));
    assert!(bad(&policy(&format!("tags: [{}]", ["t"; 33].join(",")))).contains("33 tags, more than 32"));
    assert!(bad(&policy(&format!("tags: [{}]", "t".repeat(1025)))).contains("spec.tags[0]: 1025 bytes"));
    let rules = |count| {
        let rules = vec!["{path: /x}"; count].join(",");
        format!("  selector: {{}}\n  file: {{matchPaths: [{rules}]}}")
    };
    assert_eq!(good(&rules(100_000)).rules().len(), 100_000);
    assert!(bad(&rules(100_001)).contains("100001 entries, more than 100000"));
}

#[test]
fn a_text_in_brackets_without_quotes_is_told_apart() {
    let error = bad(
        "  selector: {matchLabels: {kubearmor.io/container.name: [a]}}\n  file: {matchPaths: [{path: /x}]}",
    );
    assert!(error.contains("expected a string, found a list\n  help: brackets"), "{error}");
}

#[test]
fn a_field_without_a_value_is_absent_unless_that_is_sure_to_be_a_slip() {
    let policy = good(
        "  selector: {matchExpressions: }\n  severity:\n  tags:\n  message:\n  file:\n    matchPaths:\n    - path: /x\n      \
         fromSource:\n",
    );
    assert_eq!((policy.rules()[0].sources.len(), policy.rules()[0].origin.severity), (0, 1));
    for (name, spec) in [
        ("spec.selector.matchLabels", "  selector: {matchLabels: }\n  file: {matchPaths: [{path: /x}]}"),
        (
            "spec.file.matchPaths",
            "  selector: {}\n  file: {matchPaths: }\n  process: {matchPaths: [{path: /x}]}",
        ),
        ("spec.action", "  selector: {}\n  action:\n  file: {matchPaths: [{path: /x}]}"),
    ] {
        let error = bad(spec);
        assert!(error.contains(name) && error.contains("found nothing"), "{error}");
    }
}

#[test]
fn what_a_cluster_adds_is_taken() {
    let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata:\n  name: p\n  uid: x\n  \
                resourceVersion: \"1\"\n  generation: 1\n  creationTimestamp: null\n  labels: {a: b}\n  annotations: \
                {a: b}\n  managedFields: [{manager: x}]\nspec: {selector: {}, file: {matchPaths: [{path: /x}]}}\n\
                status: {status: OK}\n";
    assert_eq!(messages(&parse("f", text)), Vec::<String>::new());
}

// Gaps.

fn gaps(policy: &Policy) -> Vec<(String, GapReason)> {
    policy.gaps().iter().map(|gap| (gap.field.clone(), gap.reason)).collect()
}

#[test]
fn mistakes_in_sections_that_are_not_enforced_show_all_the_same() {
    for (section, expected) in [
        ("network: {matchProtocols: [{protocol: tpc}]}", "did you mean `tcp`?"),
        ("network: {matchProtocols: [{protocl: tcp}]}", "did you mean `protocol`?"),
        ("capabilities: {matchCapabilities: [{capability: net_ray}]}", "did you mean `net_raw`?"),
        (
            "capabilities: {matchCapabilities: [{capability: bpf, fromSource: [{path: x}]}]}",
            "does not start with `/`",
        ),
        ("capabilities: {action: Deny, matchCapabilities: [{capability: bpf}]}", "`Deny` is no action"),
        ("syscalls: {matchSyscalls: [{syscall: [Unlink]}]}", "`Unlink` is no system call"),
        ("presets: [{name: filelesExec}]", "did you mean `filelessExec`?"),
        ("device: {matchDevice: [{class: x}]}", "unknown field `device`"),
    ] {
        let parsed = with_spec(&format!("  selector: {{}}\n  {section}\n"));
        assert!(parsed.policies.is_empty(), "{section}");
        assert!(
            messages(&parsed).iter().any(|message| message.contains(expected)),
            "{:?}",
            messages(&parsed)
        );
    }
}

mod gaps;
mod language;
mod selectors;
