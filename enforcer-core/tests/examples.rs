//! Every policy under `examples/policies`, against what it was found to mean when it was last looked at.
//!
//! `UPDATE_GOLDEN=1 cargo test -p enforcer-core --test examples` writes the files of `tests/golden` anew; look at the
//! difference before it is committed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use enforcer_core::compile::apparmor;
use enforcer_core::policy::{ParsedFile, Policy, SeccompPolicy, parse};
use enforcer_core::ruleset::{PostureAction, Postures, Ruleset};
use enforcer_core::seccomp::{Arch, Base, Node, compile};
use enforcer_core::subject::Subject;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

/// A container for each shape of selector in the examples.
fn subjects() -> Vec<Subject> {
    let subject = |namespace: &str, container: &str, labels: &[(&str, &str)]| Subject {
        namespace: namespace.into(),
        pod: "pod".into(),
        container: container.into(),
        labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        ..Subject::default()
    };
    vec![
        subject("default", "main", &[("app", "my-web-app"), ("pod-template-hash", "5d5f")]),
        subject("default", "main", &[]),
        subject("shop", "main", &[("app", "checkout")]),
        subject("shop", "metrics", &[("app", "checkout")]),
        subject("shop", "main", &[("tier", "backend"), ("env", "production")]),
        subject("shop", "main", &[("tier", "backend"), ("env", "testing")]),
        subject("mail", "main", &[("app", "spool")]),
        subject("web", "main", &[("app", "nginx")]),
        subject("web", "main", &[("app", "uploads")]),
        subject("payments", "main", &[]),
    ]
}

fn parsed(path: &Path) -> ParsedFile {
    let text = fs::read_to_string(path).unwrap();
    let parsed = parse(&path.file_name().unwrap().to_string_lossy(), &text);
    let errors: Vec<_> = parsed.errors.iter().map(ToString::to_string).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(parsed.policies.len() + parsed.seccomp.len() > 0, "{} holds no policy", path.display());
    parsed
}

fn dump(policies: &[Policy]) -> String {
    let block = Postures { file: PostureAction::Block, ..Postures::default() };
    let mut out = String::new();
    for policy in policies {
        writeln!(out, "policy {}", policy.id()).unwrap();
        for gap in policy.gaps() {
            writeln!(out, "  gap {}: {}; {}", gap.field, gap.reason, gap.advice).unwrap();
        }
        let mut selected = 0;
        for subject in subjects().iter().filter(|subject| policy.selects(subject)) {
            selected += 1;
            writeln!(out, "  selects {} {} {:?}", subject.namespace, subject.container, subject.labels)
                .unwrap();
            if selected > 1 {
                continue;
            }
            let ruleset = Ruleset::resolve([policy], &block, subject).ruleset;
            for line in ruleset.to_string().lines() {
                writeln!(out, "    {line}").unwrap();
            }
            for origin in ruleset.origins() {
                let enforcer_core::ruleset::Origin { policy: _, rule, severity, tags, message, action } =
                    origin.as_ref();
                writeln!(out, "    origin {rule}: {action}, severity {severity}, tags {tags:?}, {message:?}")
                    .unwrap();
            }
            writeln!(out, "    digest {}", ruleset.digest()).unwrap();
            out.push_str(&dump_apparmor(policy, subject));
        }
        assert!(selected > 0, "no subject of this test is selected by {}: add one", policy.id());
        assert!(selected < subjects().len(), "{} selects everything", policy.id());
    }
    out
}

/// What AppArmor makes of a policy beside what every profile holds, and what it cannot say.
fn dump_apparmor(policy: &Policy, subject: &Subject) -> String {
    let block = Postures { file: PostureAction::Block, ..Postures::default() };
    let options = apparmor::Options::named("nri-enforcer.example".parse().unwrap());
    let of = |policies: &[&Policy]| {
        let ruleset = Ruleset::resolve(policies.iter().copied(), &block, subject).ruleset;
        let natives = apparmor::Native::of(policies.iter().copied(), subject);
        apparmor::compile(&ruleset, &natives, &options)
    };
    // where a line stands and which priority it takes with it says nothing new
    let bare = |line: &str| {
        let line = line.trim();
        line.split_once(' ')
            .filter(|(first, _)| first.starts_with("priority="))
            .map_or(line, |(_, rest)| rest)
            .to_owned()
    };
    let nothing = of(&[]).text;
    let everywhere: BTreeSet<String> = nothing.lines().map(bare).collect();
    let profile = of(&[policy]);
    let found: BTreeSet<String> = profile.text.lines().map(bare).collect();
    let is_own = |line: &&str| !everywhere.contains(&bare(line)) || !line.starts_with("  ");
    let own = profile.text.lines().filter(is_own).map(|line| format!("    {line}\n"));
    let without = everywhere.difference(&found).map(|line| format!("    without {line}\n"));
    let gaps =
        profile.gaps.iter().map(|gap| format!("    gap {}: {}; {}\n", gap.field, gap.reason, gap.advice));
    let lines = own.chain(without).chain(gaps);
    format!("  AppArmor, beside what every profile holds\n{}", lines.collect::<String>())
}

/// What a seccomp policy is, and what it makes of an unconfined container: the entries, but for those that only deny what
/// nothing names.
fn dump_seccomp(policies: &[SeccompPolicy]) -> String {
    let mut out = String::new();
    for policy in policies {
        writeln!(out, "seccomp policy {}", policy.id()).unwrap();
        let selected: Vec<_> = subjects().into_iter().filter(|subject| policy.selects(subject)).collect();
        for subject in &selected {
            writeln!(out, "  selects {} {} {:?}", subject.namespace, subject.container, subject.labels)
                .unwrap();
        }
        assert!(!selected.is_empty(), "no subject of this test is selected by {}: add one", policy.id());
        for rule in policy.rules() {
            let origin = &rule.origin;
            let names: Vec<_> = rule.syscalls.iter().map(|name| name.as_str()).collect();
            writeln!(out, "  {} {}: {names:?}", origin.rule, origin.action).unwrap();
            writeln!(out, "    severity {}, tags {:?}, {:?}", origin.severity, origin.tags, origin.message)
                .unwrap();
            for arg in &rule.conditions {
                writeln!(
                    out,
                    "    argument {}: {:?} {:#x} {:#x}",
                    arg.index, arg.op, arg.value, arg.value_two
                )
                .unwrap();
            }
        }
        let node = Node { arch: Arch::X86_64, libseccomp: (2, 6, 0) };
        let profile = compile(&[policy], &Base::Unconfined, &node).unwrap();
        for gap in &profile.gaps {
            writeln!(out, "  gap {gap}").unwrap();
        }
        let oci = profile.without_default_errno();
        writeln!(out, "  otherwise {:?}, {:?}", oci.default_action, oci.architectures).unwrap();
        for entry in oci.syscalls.iter().filter(|entry| entry.action != oci.default_action) {
            writeln!(out, "  {:?} {:?} {:?}", entry.action, entry.errno_ret, entry.names).unwrap();
            for arg in &entry.args {
                writeln!(
                    out,
                    "    argument {}: {:?} {:#x} {:#x}",
                    arg.index, arg.op, arg.value, arg.value_two
                )
                .unwrap();
            }
        }
        writeln!(out, "  digest {}", profile.digest()).unwrap();
    }
    out
}

#[test]
fn every_example_means_what_it_meant() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut expected_files = BTreeSet::new();
    let mut wrong = Vec::new();
    let examples = files(&folder("../examples/policies"), "yaml");
    assert!(examples.len() >= 10, "only {} examples found", examples.len());
    for path in examples {
        let golden = folder("tests/golden").join(path.with_extension("txt").file_name().unwrap());
        expected_files.insert(golden.clone());
        let parsed = parsed(&path);
        let found = dump(&parsed.policies) + &dump_seccomp(&parsed.seccomp);
        if update {
            fs::write(&golden, &found).unwrap();
        }
        match fs::read_to_string(&golden) {
            Ok(expected) if expected == found => {}
            Ok(expected) => wrong.push(format!("{}\nexpected:\n{expected}found:\n{found}", golden.display())),
            Err(error) => wrong.push(format!("{}: {error}; run with UPDATE_GOLDEN=1", golden.display())),
        }
    }
    for golden in files(&folder("tests/golden"), "txt") {
        if !expected_files.contains(&golden) {
            wrong.push(format!("{}: no example has this name", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The two YAML readers agree on every example: what a cluster's tools read is what is read here.
#[test]
fn another_reader_sees_the_same_documents() {
    use serde::Deserialize as _;
    for path in files(&folder("../examples/policies"), "yaml") {
        let text = fs::read_to_string(&path).unwrap();
        let values: Vec<_> = serde_yaml::Deserializer::from_str(&text)
            .map(|document| serde_yaml::Value::deserialize(document).unwrap())
            .collect();
        let found = parsed(&path);
        let of = |value: &serde_yaml::Value| {
            let name = value["metadata"]["name"].as_str().or_else(|| value["name"].as_str());
            name.unwrap().to_owned()
        };
        let names: Vec<_> = values.iter().map(of).collect();
        let seccomp = found.seccomp.iter().map(|policy| policy.id().name.clone());
        let read: Vec<_> =
            found.policies.iter().map(|policy| policy.id().name.clone()).chain(seccomp).collect();
        assert_eq!(names, read);
        // JSON is YAML: the same policy out of an API server's mouth.
        let mut again = ParsedFile::default();
        for value in &values {
            let parsed = parse("json", &serde_json::to_string(value).unwrap());
            assert_eq!(parsed.errors, []);
            again.policies.extend(parsed.policies);
            again.seccomp.extend(parsed.seccomp);
        }
        assert_eq!((again.policies, again.seccomp), (found.policies, found.seccomp));
    }
}
