//! `diff` as users run it: what a change of the policies alters for one container. Running ones: `status.rs`.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::process::Command;

use serde_json::{Value, json};

/// Rules of a policy for the pods of `app: web`.
fn policy(name: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  selector: {{matchLabels: {{app: web}}}}\n{rules}"
    )
}

fn seccomp(call: &str) -> String {
    format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\nmetadata: {{name: calls, namespace: shop}}\n\
         spec:\n  selector: {{matchLabels: {{app: web}}}}\n  syscalls: [{call}]\n  action: Block\n"
    )
}

/// Exit code, stdout, stderr.
fn diff(old: &str, new: &str, more: &[&str]) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    for (side, text) in [("old", old), ("new", new)] {
        std::fs::create_dir(dir.path().join(side)).unwrap();
        std::fs::write(dir.path().join(side).join("p.yaml"), text).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
    command.current_dir(dir.path()).env_remove("RUST_LOG");
    command.args(["diff", "--old", "old", "--new", "new", "--namespace", "shop", "--label", "app=web"]);
    let output = command.args(more).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().expect("no panic, no signal"), text(&output.stdout), text(&output.stderr))
}

/// What changes, as JSON.
fn changes(old: &str, new: &str, more: &[&str]) -> Value {
    let (code, out, err) = diff(old, new, &[more, &["-o", "json"]].concat());
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    assert_eq!(code, i32::from(report["changed"] == true), "{out}");
    report["containers"][0].clone()
}

const BLOCK: &str = "  file: {matchPaths: [{path: /etc/passwd}]}\n  action: Block\n";

#[test]
fn the_same_policies_change_nothing() {
    let old = policy("files", BLOCK);
    let (code, out, err) = diff(&old, &format!("# another text\n{old}"), &[]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "Nothing changes.\n", ""));
    // a policy for other pods is none of its business
    let other = policy("other", BLOCK).replace("app: web", "app: db");
    assert_eq!(diff(&old, &format!("{old}---\n{other}"), &[]).0, 0);
}

#[test]
fn a_class_that_becomes_a_whitelist_is_told_first() {
    let old = policy("files", BLOCK);
    let allow =
        policy("allow", "  file: {matchDirectories: [{dir: /srv/, recursive: true}]}\n  action: Allow\n");
    let both = format!("{old}---\n{allow}");
    let flip = changes(&old, &both, &["--posture", "file=block"]);
    assert_eq!(
        flip["otherwise"],
        json!([{
            "class": "file", "old": null, "new": "block", "because": "shop/allow spec.file.matchDirectories[0]",
            "meaning": "becomes a whitelist: everything else is now blocked",
        }])
    );
    let (code, out, _) = diff(&old, &both, &["--posture", "file=block"]);
    assert_eq!(code, 1);
    assert!(
        out.starts_with("file: becomes a whitelist: everything else is now blocked (shop/allow "),
        "{out}"
    );
    let audited = changes(&old, &both, &[]);
    assert_eq!(
        audited["otherwise"][0]["meaning"],
        "becomes a whitelist: everything else now passes and is reported"
    );
    let back = changes(&both, &old, &["--posture", "file=block"]);
    assert_eq!(back["otherwise"][0]["meaning"], "is no whitelist any more: everything else passes now");
    // a namespace's posture
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {kubearmor-file-posture: block}}\n";
    let posture = changes(&both, &format!("{both}---\n{namespace}"), &[]);
    assert_eq!(
        posture["otherwise"][0]["meaning"],
        "is a whitelist with another posture: everything else is now blocked"
    );
    assert_eq!(posture["rules"], json!([]));
}

#[test]
fn rules_come_go_and_change_and_verdicts_say_what_that_means() {
    let old = policy("files", BLOCK);
    let audit = changes(&old, &old.replace("action: Block", "action: Audit"), &[]);
    let rule = &audit["rules"][0];
    assert_eq!((&rule["change"], &rule["about"]), (&json!("changed"), &json!("file /etc/passwd")));
    assert_eq!((&rule["old"][0]["does"], &rule["new"][0]["does"]), (&json!("block"), &json!("audit")));
    assert_eq!(
        rule["verdicts"],
        json!([{"access": "read", "old": "block", "new": "audit"}, {"access": "write", "old": "block", "new": "audit"}])
    );
    let gone = changes(
        &old,
        &policy("files", "  capabilities: {matchCapabilities: [{capability: net_raw}]}\n  action: Block\n"),
        &[],
    );
    let told: Vec<_> =
        gone["rules"].as_array().unwrap().iter().map(|rule| json!([rule["change"], rule["about"]])).collect();
    assert_eq!(told[0], json!(["removed", "file /etc/passwd"]));
    assert_eq!(told[1][0], "added");
    assert_eq!(gone["rules"][0]["verdicts"][0], json!({"access": "read", "old": "block", "new": "allow"}));
    // another rule does the same: gone, and nothing is different
    let dir = policy("dir", "  file: {matchDirectories: [{dir: /etc/}]}\n  action: Block\n");
    let kept = changes(&format!("{old}---\n{dir}"), &dir, &[]);
    assert_eq!(kept["rules"][0]["verdicts"][0], json!({"access": "read", "old": "block", "new": "block"}));
    // a condition
    let owner = changes(&old, &old.replace("passwd}", "passwd, ownerOnly: true}"), &[]);
    assert_eq!(owner["rules"][0]["new"][0]["does"], "block ownerOnly");
    assert_eq!(owner["rules"][0]["change"], "changed");
}

#[test]
fn what_only_alerts_show_is_told_apart() {
    let old = policy("files", BLOCK);
    let severe = changes(&old, &old.replace("action:", "severity: 9\n  action:"), &[]);
    assert_eq!(severe["rules"][0]["change"], "reported");
    let moved = old.replace("[{path: /etc/passwd}]", "[{path: /a}, {path: /etc/passwd}]");
    let moved = changes(&old, &moved, &[]);
    let told: Vec<_> = moved["rules"].as_array().unwrap().iter().map(|rule| rule["change"].clone()).collect();
    assert_eq!(told, ["added", "moved"]);
}

#[test]
fn gaps_come_and_go() {
    let old = policy("files", BLOCK);
    let dns = old.replace("  action", "  network: {matchDNSQueries: [{domain: example.com}]}\n  action");
    let new = changes(&old, &dns, &[]);
    assert_eq!(new["new_gaps"][0]["field"], "spec.network.matchDNSQueries[0]");
    assert_eq!(changes(&dns, &old, &[])["closed_gaps"][0]["field"], "spec.network.matchDNSQueries[0]");
    assert_eq!(new["rules"], json!([]));
}

#[test]
fn seccomp_policies_change_the_profile_and_what_runs_is_pending_restart() {
    let change = changes(&seccomp("mkdir"), &seccomp("rmdir"), &[]);
    assert_eq!(change["seccomp"]["pendingRestart"], true);
    let digests =
        [&change["seccomp"]["old"], &change["seccomp"]["new"]].map(|digest| digest.as_str().unwrap());
    assert_ne!(digests[0], digests[1]);
    assert_eq!(digests[0].len(), 64);
    let fresh = changes(
        &policy("files", BLOCK),
        &format!("{}---\n{}", policy("files", BLOCK), seccomp("mkdir")),
        &[],
    );
    assert_eq!(fresh["seccomp"]["old"], Value::Null);
    assert_eq!(changes(&seccomp("mkdir"), &seccomp("mkdir"), &[]).get("seccomp"), None);
    let (_, out, _) = diff(&seccomp("mkdir"), &seccomp("rmdir"), &[]);
    assert!(out.contains("pending restart"), "{out}");
}

#[test]
fn no_policy_at_all_is_a_change_and_bad_input_is_none() {
    let old = policy("files", BLOCK);
    assert_eq!(changes(&old, "", &[])["rules"][0]["change"], "removed");
    for (old, new, more) in [
        ("", "", &[][..]),
        (&*old, "kind: x\n", &[]),
        ("kind: x\n", &*old, &[]),
        (&*old, &*old, &["--base", "/nonexistent"]),
        (&*old, &*old, &["--root", "/nonexistent"]),
        (&*old, &*old, &["--running"]),
    ] {
        let (code, out, err) = diff(old, new, more);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.contains("error"), "{err}");
    }
}
