//! `test` as users run it: policy tests that pass, fail, and make no sense.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

const POLICIES: &str = "apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: { name: files, namespace: shop }
spec:
  selector: { matchLabels: { app: web } }
  file:
    matchPaths:
    - { path: /var/run/key }
    - { path: /etc/hosts, fromSource: [{ path: /bin/cat }], action: Audit }
  process:
    matchPaths: [{ path: /bin/sh, allowedArgs: [-c], action: Allow }]
  action: Block
---
apiVersion: security.kubearmor.com/v1
kind: KubeArmorSeccompPolicy
metadata: { name: calls, namespace: shop }
spec:
  selector: { matchLabels: { app: web } }
  syscalls:
  - { name: socket, args: [{ index: 0, op: '==', value: 38 }] }
  - mkdir
  action: Block
";
const HEAD: &str = "apiVersion: test.nri-enforcer.io/v1
kind: PolicyTest
policies: [policies]
subject: { namespace: shop, labels: { app: web } }
";

struct Dir(tempfile::TempDir);

impl Dir {
    /// With the policies in a folder of their own.
    fn new() -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(dir.path().join("policies")).unwrap();
        dir.write("policies/p.yaml", POLICIES);
        dir
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// Exit code, stdout, stderr.
fn test(path: &Path, more: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
    let output = command.arg("test").arg(path).args(more).env_remove("RUST_LOG").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().expect("no panic, no signal"), text(&output.stdout), text(&output.stderr))
}

/// The cases of a test that is not refused, as JSON.
fn cases(dir: &Dir, text: &str) -> (i32, Vec<Value>) {
    let (code, out, err) = test(&dir.write("t.yaml", text), &["-o", "json"]);
    assert_ne!(code, 2, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["ok"], json!(code == 0));
    (code, report["tests"][0]["cases"].as_array().unwrap().clone())
}

#[test]
fn the_example_of_the_readme_passes() {
    let examples = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/tests"));
    let (code, out, err) = test(examples, &[]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("6 passed"), "{out}");
}

#[test]
fn a_case_asks_what_explain_asks() {
    let dir = Dir::new();
    let (code, cases) = cases(
        &dir,
        &format!(
            "{HEAD}postures: {{process: block}}
cases:
- {{access: 'file:read:/var/run/key', expect: Block, policy: files, rule: 'spec.file.matchPaths[0]'}}
- {{access: 'file:read:/etc/hosts', expect: Allow}}
- {{access: 'file:read:/etc/hosts', source: /bin/cat, expect: Audit, policy: shop/files}}
- {{access: 'process:exec:/bin/sh', args: [-c], expect: allow, policy: files}}
- {{access: 'process:exec:/bin/sh', args: [-x], parent: /bin/sh, expect: Block, policy: DefaultPosture}}
- {{access: 'syscall:mkdir', expect: Block, policy: calls, rule: 'spec.syscalls[1]'}}
- {{access: 'syscall:socket:38', expect: Block, policy: shop/calls}}
- {{access: 'syscall:socket:2,1', expect: Allow}}
"
        ),
    );
    let failed: Vec<&Value> = cases.iter().filter(|case| case["pass"] == false).collect();
    assert_eq!((code, failed), (0, vec![]));
    assert_eq!(cases[0]["policy"], "shop/files");
    assert_eq!(cases[6]["policy"], "shop/calls");
}

#[test]
fn a_case_fails_for_the_verdict_the_policy_and_the_rule() {
    let dir = Dir::new();
    let text = format!(
        "{HEAD}cases:
- {{name: verdict, access: 'file:read:/var/run/key', expect: Allow}}
- {{name: policy, access: 'file:read:/var/run/key', expect: Block, policy: calls}}
- {{name: rule, access: 'file:read:/var/run/key', expect: Block, rule: 'spec.file.matchPaths[1]'}}
- {{name: posture, access: 'file:read:/var/run/key', expect: Block, policy: DefaultPosture}}
- {{name: good, access: 'file:read:/var/run/key', expect: Block}}
"
    );
    let (code, cases) = cases(&dir, &text);
    let pass: Vec<&Value> = cases.iter().map(|case| &case["pass"]).collect();
    assert_eq!((code, pass), (1, vec![&json!(false); 4].into_iter().chain([&json!(true)]).collect()));
    let (code, out, _) = test(&dir.write("t.yaml", &text), &[]);
    assert_eq!(code, 1);
    assert!(
        out.contains("t.yaml:6: expected allow, got block by shop/files spec.file.matchPaths[0]"),
        "{out}"
    );
    assert!(out.contains("4 failed, 1 passed"), "{out}");
    assert!(!out.contains('\u{1b}'), "no colours where nobody sees them");
}

#[test]
fn links_of_an_image_and_the_name_of_an_image_count() {
    let dir = Dir::new();
    std::fs::create_dir_all(dir.path().join("image/var")).unwrap();
    std::os::unix::fs::symlink("/run", dir.path().join("image/var/run")).unwrap();
    let case = "cases:\n- {access: 'file:read:/run/key', expect: Block}\n";
    assert_eq!(test(&dir.write("t.yaml", &format!("{HEAD}{case}")), &[]).0, 1);
    assert_eq!(test(&dir.write("t.yaml", &format!("{HEAD}root: image\n{case}")), &[]).0, 0);
    let (code, _, err) = test(&dir.write("t.yaml", &format!("{HEAD}root: nowhere\n{case}")), &[]);
    assert_eq!(code, 2);
    assert!(err.contains("t.yaml:5:7") && err.contains("nowhere"), "{err}");
    // podman's containers are selected by it
    let by_image = POLICIES.replace("app: web", "nri-enforcer.io/image: r_x");
    dir.write("policies/p.yaml", &by_image);
    let head = HEAD.replace("labels: { app: web }", "image: 'r/x:1'");
    let case = "cases:\n- {access: 'file:read:/var/run/key', expect: Block}\n";
    assert_eq!(test(&dir.write("t.yaml", &format!("{head}{case}")), &[]).0, 0);
}

#[test]
fn bad_input_is_told_with_its_place_and_runs_nothing() {
    let dir = Dir::new();
    let case = "cases:\n- {access: 'file:read:/x', expect: Allow}\n";
    let wrong = |text: &str, place: &str, what: &str| {
        let (code, out, err) = test(&dir.write("t.yaml", text), &[]);
        assert_eq!((code, out.as_str()), (2, ""), "{text}\n{err}");
        assert!(err.contains(place) && err.contains(what), "{text}\n{err}");
    };
    wrong(&format!("{HEAD}case:\n- x\n"), "t.yaml:5:1", "did you mean `cases`?");
    wrong(&format!("{HEAD}{}", case.replace("Allow", "Alow")), "t.yaml:6:36", "did you mean `Allow`?");
    wrong(
        &format!("{HEAD}{}", case.replace("Allow", "Allow, policy: filse")),
        "t.yaml:6:51",
        "did you mean `files`?",
    );
    wrong(
        &HEAD.replace("[policies]", "[none.yaml]").replace("subject", &format!("{case}subject")),
        "t.yaml:3:12",
        "none.yaml",
    );
    wrong(&format!("{HEAD}cases: [\n"), "t.yaml:", "invalid YAML");
    wrong("", "", "no test");
    wrong(&HEAD.replace("PolicyTest", "PolicyTst"), "t.yaml:2:7", "kind: PolicyTest");
    // policies with errors decide nothing
    dir.write("policies/q.yaml", "kind: KubeArmorPolicy\n");
    wrong(&format!("{HEAD}{case}"), "q.yaml:1:1", "apiVersion");
    assert_eq!(test(Path::new("/nonexistent"), &[]).0, 2);
}

#[test]
fn in_a_directory_policies_are_passed_over_and_mistakes_are_not() {
    let dir = Dir::new();
    dir.write("p.yaml", POLICIES);
    let case = "cases:\n- {access: 'file:read:/x', expect: Allow}\n";
    dir.write("t.yaml", &format!("{HEAD}{case}"));
    assert_eq!(test(dir.path(), &[]).0, 0);
    dir.write("u.yaml", &HEAD.replace("PolicyTest", "PolicyTests"));
    assert_eq!(test(dir.path(), &[]).0, 2);
}

#[test]
fn gaps_are_told_and_fail_when_strict() {
    let dir = Dir::new();
    let dns = "  network: { matchDNSQueries: [{ domain: example.com }] }\n  action: Block\n---";
    dir.write("policies/p.yaml", &POLICIES.replace("  action: Block\n---", dns));
    let path = dir.write("t.yaml", &format!("{HEAD}cases:\n- {{access: 'file:read:/x', expect: Allow}}\n"));
    let (code, _, err) = test(&path, &[]);
    assert_eq!(code, 0);
    assert!(err.contains("spec.network.matchDNSQueries[0]"), "{err}");
    assert_eq!(test(&path, &["--strict"]).0, 1);
    let (_, xml, _) = test(&path, &["--strict", "-o", "junit"]);
    let document = roxmltree::Document::parse(&xml).unwrap();
    assert_eq!(document.root_element().attribute("failures"), Some("1"));
}

#[test]
fn gaps_of_seccomp_policies_count_too() {
    let dir = Dir::new();
    // a call that the runtime's libseccomp does not know
    let calls = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\nmetadata: {name: mseal, namespace: shop}\n\
                 spec: {selector: {matchLabels: {app: web}}, syscalls: [mseal], action: Block}\n";
    dir.write("policies/calls.yaml", calls);
    let cases = "cases:\n- {access: 'file:read:/x', expect: Allow}\n";
    let path = dir.write("t.yaml", &format!("{HEAD}{cases}"));
    let (code, _, err) = test(&path, &[]);
    assert!(code == 0 && err.contains("shop/mseal") && err.contains("mseal"), "{code} {err}");
    assert_eq!(test(&path, &["--strict"]).0, 1);
    // one that does not select the container has none
    dir.write("policies/calls.yaml", &calls.replace("app: web", "app: db"));
    assert_eq!(test(&path, &["--strict"]), (0, test(&path, &[]).1, String::new()));
    // and a base that is none is an error, at its place
    dir.write("policies/calls.yaml", calls);
    let path = dir.write("t.yaml", &format!("{HEAD}seccomp: {{base: none.json}}\n{cases}"));
    let (code, _, err) = test(&path, &[]);
    assert!(code == 2 && err.contains("none.json") && err.contains("t.yaml:"), "{code} {err}");
}

#[test]
fn junit_holds_every_text_that_a_test_may_have() {
    let dir = Dir::new();
    let name = r#""<a href='x'>&amp; ]]> \u0007 \u001b[31m \uFFFE ä""#;
    let path = dir.write(
        "<&>.yaml",
        &format!("{HEAD}metadata: {{name: {name}}}\ncases:\n- {{name: {name}, access: 'file:read:/x', expect: Block}}\n\
                  - {{access: 'file:read:/y', expect: Allow}}\n"),
    );
    let (code, xml, _) = test(&path, &["-o", "junit"]);
    assert_eq!(code, 1);
    let document = roxmltree::Document::parse(&xml).unwrap();
    let root = document.root_element();
    assert_eq!(
        (root.tag_name().name(), root.attribute("tests"), root.attribute("failures")),
        ("testsuites", Some("2"), Some("1"))
    );
    let suite = root.first_element_child().unwrap();
    assert_eq!((suite.attribute("tests"), suite.attribute("failures")), (Some("2"), Some("1")));
    let cases: Vec<_> = suite.children().filter(roxmltree::Node::is_element).collect();
    assert_eq!(cases[0].attribute("name"), Some("<a href='x'>&amp; ]]> \u{fffd} \u{fffd}[31m \u{fffd} ä"));
    assert_eq!(cases[0].attribute("line"), Some("7"));
    let failure = cases[0].first_element_child().unwrap();
    assert!(failure.attribute("message").unwrap().starts_with("expected block, got allow"));
    assert_eq!(failure.text(), failure.attribute("message"));
    assert!(cases[1].first_element_child().is_none());
}

#[test]
fn no_file_makes_it_panic() {
    let dir = Dir::new();
    let whole = format!(
        "{HEAD}postures: {{file: block}}\nroot: .\nseccomp: {{base: unconfined}}\ncases:\n\
                         - {{access: 'process:exec:/bin/sh', args: [a], uid: 1, expect: Block, policy: files}}\n"
    );
    // cut short, and with lines left out
    for end in (0..whole.len()).step_by(7) {
        test(&dir.write("t.yaml", whole.get(..end).unwrap()), &[]);
    }
    for line in 0..whole.lines().count() {
        let text: Vec<&str> =
            whole.lines().enumerate().filter(|(n, _)| *n != line).map(|(_, text)| text).collect();
        test(&dir.write("t.yaml", &text.join("\n")), &[]);
    }
    for text in ["[]", "- a", "cases", "{}", "\u{0}", "? {a: b}\n: c", "&a [*a]", "!!binary x"] {
        assert_eq!(test(&dir.write("t.yaml", text), &[]).0, 2, "{text}");
    }
    std::fs::write(dir.path().join("t.yaml"), [0xff, 0xfe, 0]).unwrap();
    assert_eq!(test(&dir.path().join("t.yaml"), &[]).0, 2);
}
