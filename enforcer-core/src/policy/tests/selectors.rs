//! Which containers policies are about.

use super::*;

#[test]
fn labels_are_all_wanted_and_the_namespace_with_them() {
    let policy = good("  selector: {matchLabels: {a: x, b: \"1\"}}\n  file: {matchPaths: [{path: /x}]}");
    assert!(policy.selects(&subject(&[("a", "x"), ("b", "1"), ("c", "z")])));
    assert!(!policy.selects(&subject(&[("a", "x")])));
    assert!(!policy.selects(&subject(&[("a", "x"), ("b", "2")])));
    let elsewhere = Subject { namespace: "other".into(), ..subject(&[("a", "x"), ("b", "1")]) };
    assert!(!policy.selects(&elsewhere), "a policy without a namespace is in `default`");
}

#[test]
fn an_empty_selector_selects_the_namespace() {
    for selector in ["{}", "{matchLabels: {}}", "{matchExpressions: []}"] {
        let policy = good(&format!("  selector: {selector}\n  file: {{matchPaths: [{{path: /x}}]}}"));
        assert!(policy.selects(&subject(&[])));
        assert!(!policy.selects(&Subject { namespace: "other".into(), ..subject(&[]) }));
    }
}

#[test]
fn container_names() {
    let selects = |value: &str, container: &str| {
        let policy = good(&format!(
            "  selector: {{matchLabels: {{a: x, kubearmor.io/container.name: \"{value}\"}}}}\n  file: {{matchPaths: [{{path: /x}}]}}"
        ));
        policy.selects(&Subject { container: container.into(), ..subject(&[("a", "x")]) })
    };
    assert!(selects("[a,b]", "a") && selects("[a,b]", "b") && !selects("[a,b]", "c"));
    assert!(selects("[a, b]", "b"));
    for all in ["[]", "", "[,]"] {
        assert!(selects(all, "a") && selects(all, "b"), "{all:?}");
    }
    assert!(selects("[container-1,,]", "container-1") && !selects("[container-1,,]", ""));
    assert!(selects("a", "a") && !selects("a", "b"), "one name needs no brackets");
    for wrong in ["[a", "a]", ".*", "[A]", "a b"] {
        let error = bad(&format!(
            "  selector: {{matchLabels: {{kubearmor.io/container.name: \"{wrong}\"}}}}\n  file: {{matchPaths: [{{path: /x}}]}}"
        ));
        assert!(error.contains("is no container's name"), "{error}");
    }
}

#[test]
fn expressions_all_hold_whatever_their_order() {
    let policy = |expressions: &[&str]| {
        good(&format!(
            "  selector: {{matchLabels: {{a: x}}, matchExpressions: [{}]}}\n  file: {{matchPaths: [{{path: /x}}]}}",
            expressions.join(", ")
        ))
    };
    let one_of = "{key: label, operator: In, values: [t=front, t=back]}";
    let none_of = "{key: label, operator: NotIn, values: [env=test, env=dev]}";
    for expressions in [[one_of, none_of], [none_of, one_of]] {
        let policy = policy(&expressions);
        assert!(policy.selects(&subject(&[("a", "x"), ("t", "front")])));
        assert!(policy.selects(&subject(&[("a", "x"), ("t", "back"), ("env", "live")])));
        assert!(!policy.selects(&subject(&[("a", "x"), ("t", "back"), ("env", "dev")])));
        assert!(!policy.selects(&subject(&[("a", "x"), ("t", "other")])));
        assert!(!policy.selects(&subject(&[("t", "front")])), "labels count as well");
    }
}

#[test]
fn selectors_that_cannot_be_meant() {
    for (selector, expected) in [
        ("{matchLabel: {}}", "did you mean `matchLabels`?"),
        ("{app: mariadb}", "unknown field `app`\n  help: labels go under `matchLabels`"),
        ("{matchLabels: {pod-template-hash: x}}", "nothing is selected by the label `pod-template-hash`"),
        ("{matchLabels: {\"a b\": x}}", "`a b` is no label"),
        ("{matchLabels: {a: \"b c\"}}", "`b c` is no value of a label"),
        ("{matchLabels: {a: ~}}", "expected a string, found nothing"),
        (
            "{matchExpressions: [{key: app, operator: In, values: [x]}]}",
            "write `key: label` and the values as `app=value`",
        ),
        ("{matchExpressions: [{key: label, operator: Exists, values: [a=b]}]}", "`Exists` is no operator"),
        ("{matchExpressions: [{key: label, operator: in, values: [a=b]}]}", "did you mean `In`?"),
        ("{matchExpressions: [{key: label, operator: In, values: []}]}", "no value to compare with"),
        ("{matchExpressions: [{key: label, operator: In, values: [a]}]}", "write `key=value`"),
        (
            "{matchExpressions: [{key: label, operator: In, values: [kubearmor.io/container.name=a]}]}",
            "no container is selected by an expression",
        ),
    ] {
        let error = bad(&format!("  selector: {selector}\n  file: {{matchPaths: [{{path: /x}}]}}"));
        assert!(error.contains(expected), "{error}");
    }
}
