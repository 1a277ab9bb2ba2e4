//! The commands as users run them: output, exit codes, and the contract of `explain`.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const POLICY: &str = "apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata:
  name: block-passwd
  namespace: default
spec:
  selector:
    matchLabels:
      app: web
  file:
    matchPaths:
    - path: /etc/passwd
    - path: /var/spool/mail
      ownerOnly: true
    - path: /etc/shadow
      fromSource:
      - path: /usr/bin/cat
  action: Block
---
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata:
  name: allow-bin
  namespace: default
spec:
  selector:
    matchLabels:
      app: web
      kubearmor.io/container.name: '[main]'
  process:
    matchDirectories:
    - dir: /usr/bin/
  action: Allow
";

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn nri_enforcer<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(args: I) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nri-enforcer")).args(args).env_remove("RUST_LOG").output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// `explain` about a pod `app=web` in the namespace `default`.
fn explain(policy: &Path, more: &[&str]) -> Output {
    let policy = policy.to_str().unwrap();
    let base = ["explain", "--policy", policy, "--namespace", "default", "--label", "app=web"];
    nri_enforcer(base.iter().chain(more))
}

fn answer(policy: &Path, more: &[&str]) -> Value {
    let output = explain(policy, &[more, &["-o", "json"]].concat());
    assert_eq!(code(&output), 0, "{}", err(&output));
    let value: Value = serde_json::from_str(&out(&output)).unwrap();
    let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    assert_eq!(keys, ["policy", "reason", "rule", "verdict"], "the contract's keys and no others");
    assert!(!value["reason"].as_str().unwrap().is_empty());
    value
}

#[track_caller]
fn says(policy: &Path, more: &[&str], verdict: &str, by: Value, rule: Value) {
    let value = answer(policy, more);
    assert_eq!(
        json!([value["verdict"], value["policy"], value["rule"]]),
        json!([verdict, by, rule]),
        "{value}"
    );
}

#[test]
fn explain_names_the_verdict_the_policy_and_the_rule() {
    let dir = Dir::new();
    let p = &dir.write("p.yaml", POLICY);
    let by = || json!("block-passwd");
    let read = ["--access", "file:read:/etc/passwd"];
    says(p, &read, "block", by(), json!("spec.file.matchPaths[0]"));
    says(p, &["--access", "file:write:/etc/passwd"], "block", by(), json!("spec.file.matchPaths[0]"));
    says(p, &["--access", "file:read:/etc/hosts"], "allow", Value::Null, Value::Null);
    says(p, &[&read[..], &["--label", "app=db"]].concat(), "allow", Value::Null, Value::Null);
    says(p, &[&read[..], &["--source", "/bin/sh"]].concat(), "block", by(), json!("spec.file.matchPaths[0]"));
    // a directory works like the file
    says(dir.0.path(), &read, "block", by(), json!("spec.file.matchPaths[0]"));
}

#[test]
fn explain_asks_for_source_user_and_owner() {
    let dir = Dir::new();
    let p = &dir.write("p.yaml", POLICY);
    let shadow = ["--access", "file:read:/etc/shadow"];
    says(p, &shadow, "allow", Value::Null, Value::Null);
    let cat = [&shadow[..], &["--source", "/usr/bin/cat"]].concat();
    says(p, &cat, "block", json!("block-passwd"), json!("spec.file.matchPaths[2]"));
    let mail = ["--access", "file:read:/var/spool/mail"];
    let rule = || json!("spec.file.matchPaths[1]");
    says(
        p,
        &[&mail[..], &["--uid", "1000", "--owner", "1000"]].concat(),
        "allow",
        json!("block-passwd"),
        rule(),
    );
    says(
        p,
        &[&mail[..], &["--uid", "1000", "--owner", "0"]].concat(),
        "block",
        json!("block-passwd"),
        rule(),
    );
}

#[test]
fn explain_knows_containers_and_postures() {
    let dir = Dir::new();
    let p = &dir.write("p.yaml", POLICY);
    let exec = ["--access", "process:exec:/tmp/x"];
    let main = [&exec[..], &["--container", "main"]].concat();
    says(p, &exec, "allow", Value::Null, Value::Null);
    let posture = || json!("DefaultPosture");
    says(p, &main, "audit", posture(), Value::Null);
    says(p, &[&main[..], &["--posture", "file=block"]].concat(), "block", posture(), Value::Null);
    let own = [&main[..], &["--posture", "file=block", "--posture", "process=allow"]].concat();
    says(p, &own, "allow", posture(), Value::Null);
    let allowed = ["--container", "main", "--access", "process:exec:/usr/bin/id"];
    says(p, &allowed, "allow", json!("allow-bin"), json!("spec.process.matchDirectories[0]"));
}

#[test]
fn explain_follows_links_in_an_image() {
    let dir = Dir::new();
    let policy =
        POLICY.replace("path: /etc/passwd", "path: /var/run/key").replace("/usr/bin/cat", "/bin/cat");
    let p = &dir.write("p.yaml", &policy);
    let root = dir.0.path().join("root");
    std::fs::create_dir_all(root.join("var")).unwrap();
    for (link, target) in [("var/run", "/run"), ("bin", "usr/bin")] {
        std::os::unix::fs::symlink(target, root.join(link)).unwrap();
    }
    let at = root.to_str().unwrap();
    for object in ["/run/key", "/var/run/key"] {
        let access = format!("file:read:{object}");
        says(
            p,
            &["--root", at, "--access", &access],
            "block",
            json!("block-passwd"),
            json!("spec.file.matchPaths[0]"),
        );
    }
    let value = answer(p, &["--root", at, "--access", "file:read:/run/key"]);
    let reason = value["reason"].as_str().unwrap();
    assert!(reason.contains("/var/run/key (resolves to /run/key)"), "{reason}");
    let shadow = ["--root", at, "--access", "file:read:/etc/shadow", "--source"];
    for source in ["/bin/cat", "/usr/bin/cat"] {
        assert_eq!(answer(p, &[&shadow[..], &[source]].concat())["verdict"], "block", "{source}");
    }
    // without an image the kernel's name is another one
    assert_eq!(answer(p, &["--access", "file:read:/run/key"])["verdict"], "allow");
    // the link itself is what is deleted, and it is protected
    let value = answer(p, &["--root", at, "--access", "file:delete:/var/run"]);
    assert_eq!(value["verdict"], "block", "{value}");
    assert_eq!(code(&explain(p, &["--root", "/nonexistent", "--access", "file:read:/x"])), 2);
}

#[test]
fn explain_asks_for_arguments_terminal_and_parent() {
    let dir = Dir::new();
    let p = &dir.write(
        "p.yaml",
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p}\nspec:\n  selector: {}\n  \
         process:\n    matchPaths:\n    - {path: /bin/py, allowedArgs: [-m, x], pts: false, fromSource: [{path: /bin/sh}]}\n",
    );
    let verdict = |more: &[&str]| {
        let args = [&["--access", "process:exec:/bin/py", "--tty"][..], more].concat();
        let value = answer(p, &args);
        value["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict(&["--parent", "/bin/sh", "--args", "-c", "--args", "x"]), "block");
    assert_eq!(verdict(&["--source", "/bin/sh", "--args=-m", "--args=-c"]), "block");
    assert_eq!(verdict(&["--parent", "/bin/bash", "--args", "-c"]), "allow");
    for access in ["network:connect:tcp:[::1]:443", "capability:use:net_raw", "syscall:unlink", "preset:exec"]
    {
        let value = answer(p, &["--access", access]);
        assert_eq!(value["verdict"], "allow", "{access}");
    }
}

#[test]
fn explain_expects_with_its_exit_code() {
    let dir = Dir::new();
    let p = &dir.write("p.yaml", POLICY);
    let read = ["--access", "file:read:/etc/passwd"];
    assert_eq!(code(&explain(p, &[&read[..], &["--expect", "block"]].concat())), 0);
    let output = explain(p, &[&read[..], &["--expect", "allow", "-o", "json"]].concat());
    assert_eq!(code(&output), 1);
    assert_eq!(
        serde_json::from_str::<Value>(&out(&output)).unwrap()["verdict"],
        "block",
        "the answer comes anyway"
    );
    assert!(err(&output).contains("expected allow, got block"), "{}", err(&output));
}

#[test]
fn explain_refuses_bad_input_with_exit_code_2() {
    let dir = Dir::new();
    let p = &dir.write("p.yaml", POLICY);
    let bad = &dir.write("bad.yaml", "kind: KubeArmorPolicy\nmetadata: {name: x}\nspec: {}\n");
    let empty = &dir.write("empty.yaml", "# nothing\n");
    let read = "file:read:/etc/passwd";
    let cases: &[(&Path, &[&str], &str)] = &[
        (p, &["--access", "file"], "CLASS:OP:OBJECT"),
        (p, &["--access", "file:fetch:/x"], "fetch"),
        (p, &["--access", "files:read:/x"], "`files`"),
        (p, &["--access", "file:read:etc/passwd"], "etc/passwd"),
        (p, &["--access", "network:connect:tcp"], "an address is missing"),
        (p, &["--access", read, "--source", "cat"], "--source"),
        (p, &["--access", "process:exec:/bin/x", "--parent", "cat"], "--parent"),
        (p, &["--access", read, "--parent", "/bin/cat"], "--parent is about `process:exec"),
        (p, &["--access", read, "--args", "-x"], "--args is about `process:exec"),
        (p, &["--access", "process:exec:/x", "--source", "/a", "--parent", "/b"], "cannot be used with"),
        (p, &["--access", "capability:use:net_ray"], "`net_raw`"),
        (p, &["--access", "syscall:unlnik"], "`unlink`"),
        (p, &["--access", read, "--posture", "file=deny"], "deny"),
        (p, &["--access", read, "--label", "app"], "KEY=VALUE"),
        (p, &["--access", read, "--uid", "root"], "root"),
        (p, &["--access", read, "--expect", "deny"], "deny"),
        (p, &[], "--access"),
        (bad, &["--access", read], "bad.yaml:"),
        (empty, &["--access", read], "no policy"),
        (Path::new("/nonexistent.yaml"), &["--access", read], "/nonexistent.yaml"),
    ];
    for (policy, args, part) in cases {
        let output = explain(policy, args);
        assert_eq!(code(&output), 2, "{args:?}: {}", err(&output));
        assert!(err(&output).contains(part), "`{part}` is not in: {}", err(&output));
        assert_eq!(out(&output), "", "{args:?}");
    }
    let without_namespace = ["explain", "--policy", p.to_str().unwrap(), "--access", read];
    assert_eq!(code(&nri_enforcer(without_namespace)), 2);
}

#[test]
fn explain_asks_host_policies_about_the_host() {
    let dir = Dir::new();
    let host =
        POLICY.replace("KubeArmorPolicy", "KubeArmorHostPolicy").replace("  selector:", "  nodeSelector:");
    let (of_pods, of_host) = (dir.write("p.yaml", POLICY), dir.write("h.yaml", &host));
    let verdict = |policy: &Path, label: &str| {
        let args = ["--host", "--label", label, "--access", "file:read:/etc/passwd", "-o", "json"];
        let output = nri_enforcer(["explain", "--policy", policy.to_str().unwrap()].iter().chain(&args));
        assert_eq!(code(&output), 0, "{}", err(&output));
        let value: Value = serde_json::from_str(&out(&output)).unwrap();
        value["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict(&of_host, "app=web"), "block");
    assert_eq!(verdict(&of_host, "app=db"), "allow");
    assert_eq!(verdict(&of_pods, "app=web"), "allow");
}

#[test]
fn explain_for_people_is_not_coloured_in_a_pipe() {
    let dir = Dir::new();
    let p = dir.write("p.yaml", POLICY);
    let output = explain(&p, &["--access", "file:read:/etc/passwd"]);
    let text = out(&output);
    assert!(text.starts_with("block  "), "{text}");
    assert!(
        text.contains("policy block-passwd") && text.contains("rule   spec.file.matchPaths[0]"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn check_shows_errors_at_their_place_and_counts_the_rest() {
    let dir = Dir::new();
    let good = dir.write("good.yaml", POLICY);
    let output = nri_enforcer(["check", "--no-host", good.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert_eq!(out(&output), format!("ok   {}: 2 policies\n", good.display()));

    let bad = dir.write("bad.yaml", &POLICY.replacen("matchPaths", "matchPathz", 1));
    let output = nri_enforcer(["check", "--no-host", bad.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    let text = out(&output);
    let line = POLICY.lines().position(|line| line.contains("matchPaths")).unwrap() + 1;
    assert!(text.contains(&format!("{}:{line}:5", bad.display())), "{text}");
    assert!(text.contains(&format!("{line} |     matchPathz:\n   |     ^\n")), "{text}");
    assert!(text.contains("matchPaths`?"), "{text}");
    assert!(text.ends_with(&format!("bad  {}: 1 policy, 1 error\n", bad.display())), "{text}");
}

#[test]
fn check_as_json_has_files_errors_and_gaps() {
    let dir = Dir::new();
    let gaps =
        POLICY.replacen("  file:", "  network: {matchDNSQueries: [{domain: example.com}]}\n  file:", 1);
    dir.write("a.yaml", &gaps);
    dir.write("b.yaml", "kind: [");
    let path = dir.0.path().to_str().unwrap();
    let output = nri_enforcer(["check", "--no-host", "-o", "json", path]);
    assert_eq!(code(&output), 1);
    let value: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(value["ok"], false);
    assert_eq!(value["files"][0]["policies"][1]["name"], "allow-bin");
    assert!(value["files"][1]["errors"][0]["line"].as_u64().unwrap() >= 1);
    assert_eq!(value["gaps"][0]["field"], "spec.network.matchDNSQueries[0]");
    assert_eq!(value["host"], Value::Null);
}

#[test]
fn check_fails_for_gaps_only_when_strict() {
    let dir = Dir::new();
    let text =
        POLICY.replacen("  file:", "  network: {matchDNSQueries: [{domain: example.com}]}\n  file:", 1);
    let path = dir.write("p.yaml", &text);
    let path = path.to_str().unwrap();
    let output = nri_enforcer(["check", "--no-host", path]);
    assert_eq!(code(&output), 0);
    for part in ["Not enforced", "default/block-passwd", "spec.network.matchDNSQueries[0]"] {
        assert!(out(&output).contains(part), "{part} is not in: {}", out(&output));
    }
    assert_eq!(code(&nri_enforcer(["check", "--no-host", "--strict", path])), 1);
}

#[test]
fn check_says_which_lock_holds_whose_rules() {
    let dir = Dir::new();
    let native = POLICY.replacen("  file:", "  apparmor: |\n    deny /n r,\n    change_profile,\n  file:", 1);
    let path = dir.write("p.yaml", &native);
    let path = path.to_str().unwrap();
    let told = |more: &[&str]| -> Value {
        let args = [&["check", "--no-host", "-o", "json", path], more].concat();
        serde_json::from_str(&out(&nri_enforcer(args))).unwrap()
    };
    let (alone, both) = (told(&[]), told(&["--combine"]));
    let names = |told: &Value, lock: &str| {
        let all = told["held"][lock].as_array().cloned().unwrap_or_default();
        all.iter().map(|id| id["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(names(&alone, "bpf").contains(&"block-passwd".to_owned()), "{alone}");
    assert_eq!(names(&alone, "apparmor"), [] as [&str; 0]);
    assert_eq!(names(&both, "apparmor"), ["block-passwd"]);
    let reasons = |told: &Value| {
        told["gaps"].as_array().unwrap().iter().map(|gap| gap["reason"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(reasons(&alone), ["\"native AppArmor rules are not read\""]);
    assert_eq!(reasons(&both), ["\"a native AppArmor rule is not taken\""]);
    let text = out(&nri_enforcer(["check", "--no-host", "--combine", path]));
    assert!(text.contains("Held by AppArmor: native rules of default/block-passwd"), "{text}");
    // of each rule, for the lock of another node
    let holders = |told: &Value| {
        let rules = told["rules"].as_array().unwrap();
        let of = rules.iter().find(|one| one["policy"]["name"] == "block-passwd").unwrap();
        of["held"].clone()
    };
    let files = json!(["spec.file.matchPaths[0]", "spec.file.matchPaths[1]", "spec.file.matchPaths[2]"]);
    assert_eq!(holders(&alone), json!({"bpf": files, "none": ["spec.apparmor"]}));
    assert_eq!(holders(&both), json!({"bpf": files, "apparmor": ["spec.apparmor"]}));
    assert_eq!((&alone["lock"], &both["lock"]), (&json!("bpf"), &json!("bpf+apparmor")));
    let (apparmor, selinux) = (told(&["--lock", "apparmor"]), told(&["--lock", "selinux"]));
    assert_eq!(holders(&apparmor)["none"], Value::Null, "{apparmor}");
    assert_eq!(holders(&apparmor)["apparmor"].as_array().unwrap().len(), 4, "{apparmor}");
    let reasons = reasons(&apparmor);
    assert!(reasons.iter().any(|reason| reason.contains("AppArmor knows who acts")), "{reasons:?}");
    assert_eq!(selinux["held"], json!({}), "labels hold no rule of a container");
    let output = nri_enforcer(["check", "--no-host", "--lock", "apparmor", "--combine", path]);
    assert!(code(&output) == 2 && err(&output).contains("--combine is for bpf"), "{}", err(&output));
}

/// A node without a daemon that answers may have any lock: what is said holds for one of them alone.
#[test]
fn check_says_for_which_lock_it_judged_and_why() {
    let dir = Dir::new();
    let (path, seccomp) = (dir.write("p.yaml", POLICY), dir.write("seccomp.yaml", SECCOMP));
    let nowhere = format!("--status-socket={}", dir.0.path().join("none.sock").display());
    let told = |path: &Path, more: &[&str]| {
        let args = [&["check", "-o", "json", path.to_str().unwrap()], more].concat();
        let output = nri_enforcer(args);
        assert_eq!(code(&output), 0);
        let report: Value = serde_json::from_str(&out(&output)).unwrap();
        let of = |value: &Value| value.as_str().unwrap().to_owned();
        let [lock, by, why] = [&report["lock"], &report["judged"]["by"], &report["judged"]["why"]].map(of);
        (lock, by, why, err(&output))
    };
    let (lock, by, why, said) = told(&path, &[&nowhere]);
    assert_eq!((lock.as_str(), by.as_str()), ("bpf", "default"));
    for part in ["no daemon answers at `", "none.sock`", "; --lock names that of a node"] {
        assert!(why.contains(part), "{part} is not in: {why}");
    }
    assert_eq!(said, format!("warning: judged for the lock bpf: {why}\n"));
    let (lock, by, why, said) = told(&path, &["--no-host"]);
    assert_eq!((lock.as_str(), by.as_str()), ("bpf", "default"));
    assert!(why.contains("no daemon is asked (--no-host)") && said.contains(&why), "{why} {said}");
    for (option, name) in [("--lock=apparmor", "apparmor"), ("--combine", "bpf+apparmor")] {
        let (lock, by, _, said) = told(&path, &[&nowhere, option]);
        assert_eq!((lock.as_str(), by.as_str(), said.as_str()), (name, "option", ""));
    }
    assert_eq!(told(&seccomp, &[&nowhere]).3, "", "seccomp policies need no lock");
}

#[test]
fn check_refuses_one_policy_twice_and_what_is_not_there() {
    let dir = Dir::new();
    let (a, b) = (dir.write("a.yaml", POLICY), dir.write("b.yaml", POLICY));
    let output = nri_enforcer(["check", "--no-host", a.to_str().unwrap(), b.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert!(out(&output).contains("`default/allow-bin` is defined in"), "{}", out(&output));
    let output = nri_enforcer(["check", "--no-host", "/nonexistent"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("/nonexistent"));
    assert_eq!(code(&nri_enforcer(["check"])), 2);
}

#[test]
fn every_example_policy_passes_the_check() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/policies");
    let output = nri_enforcer(["check", "--no-host", examples]);
    assert_eq!(code(&output), 0, "{}", out(&output));
}

#[test]
fn probe_answers_in_both_forms() {
    let nobody = ["--status-socket", "/nonexistent"];
    let output = nri_enforcer([&["probe", "-o", "json"][..], &nobody].concat());
    let value: Value = serde_json::from_str(&out(&output)).unwrap();
    let enforces = value["enforces"].as_bool().unwrap();
    assert_eq!(code(&output), i32::from(!enforces), "the exit code says what the answer says");
    let checks = value["checks"].as_array().unwrap();
    assert!(!checks.is_empty());
    let locks = value["locks"].as_array().unwrap();
    let names: Vec<_> = locks.iter().map(|lock| lock["lock"].as_str().unwrap()).collect();
    assert_eq!(names, ["bpf", "apparmor", "selinux"]);
    let taken: Vec<_> = locks.iter().filter(|lock| lock["taken"] == true).collect();
    assert_eq!(enforces, !taken.is_empty(), "without --host-policies SELinux is not taken: {locks:?}");
    assert!(taken.iter().all(|lock| lock["works"] == true && lock["fails"] == false), "{taken:?}");
    assert_eq!(value["running"], Value::Null);
    assert!(locks.iter().all(|lock| !lock["why"].as_str().unwrap().is_empty()), "{locks:?}");
    let text = out(&nri_enforcer([&["probe"][..], &nobody].concat()));
    for check in checks {
        let name = check["name"].as_str().unwrap();
        let word = name.split_whitespace().next().unwrap();
        assert!(text.contains(word), "{word} is not in: {text}");
    }
}

/// What a daemon with these settings would take, by its flags and by its file.
#[test]
fn probe_reads_the_settings_that_decide_which_lock_is_taken() {
    let dir = Dir::new();
    let config =
        dir.write("config.yaml", "policyDirs: [/p]\nlsmOrder: [selinux, apparmor]\nhostPolicies: true\n");
    let (config, misspelt) = (config.to_str().unwrap(), dir.write("bad.yaml", "lsmOrders: [bpf]\n"));
    let order = |settings: &[&str]| {
        let output = nri_enforcer([&["probe", "-o", "json"][..], settings].concat());
        let value: Value = serde_json::from_str(&out(&output)).unwrap();
        let locks = value["locks"].as_array().unwrap();
        locks.iter().map(|lock| lock["lock"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(order(&["--lsm-order", "apparmor"]), ["apparmor", "bpf", "selinux"]);
    assert_eq!(order(&["--config", config]), ["selinux", "apparmor", "bpf"]);
    assert_eq!(
        order(&["--config", config, "--lsm-order", "bpf", "--combine"]),
        ["bpf", "apparmor", "selinux"]
    );
    for (settings, part) in [
        (&["--lsm-order", "bpf,smack"][..], "`smack` is no lock"),
        (&["--lsm-order", "apparmor,bpf", "--combine"], "begins with `bpf`"),
        (&["--config", misspelt.to_str().unwrap()], "lsmOrders"),
    ] {
        let output = nri_enforcer([&["probe"][..], settings].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(code(&output) == 2 && error.contains(part), "{settings:?}: {error}");
    }
}

#[test]
fn probe_says_what_to_do_where_there_is_no_nri() {
    let dir = Dir::new();
    let nri = |socket: &str| {
        let config = dir.write("config.yaml", &format!("policyDirs: [/p]\nnriSocket: {socket}\n"));
        let config = config.to_str().unwrap();
        let output = nri_enforcer(["probe", "--config", config, "-o", "json"]);
        let value: Value = serde_json::from_str(&out(&output)).unwrap();
        assert_eq!(
            value["nri"].is_string(),
            out(&nri_enforcer(["probe", "--config", config])).contains("No runtime's NRI socket")
        );
        value["nri"].as_str().map(str::to_owned)
    };
    assert!(nri("/nonexistent/nri.sock").unwrap().contains("--nri-socket none"));
    assert_eq!((nri("none"), nri("/etc/passwd")), (None, None));
}

#[test]
fn run_refuses_a_bad_command_line_with_exit_code_2() {
    let dir = Dir::new();
    let config = dir.write("config.yaml", "policyDirs: [/p]\nunknown: 1\n");
    for (args, part) in [
        (vec!["run"], "--policy-dir"),
        (vec!["run", "--policy-dir", "/p", "--plugin-index", "7"], "two digits"),
        (vec!["run", "--policy-dir", "/p", "--lsm-order", "bpf,smack"], "`smack` is no lock"),
        (vec!["run", "--policy-dir", "/p", "--log-level", "a=b=c"], "log filter"),
        (vec!["run", "--config", config.to_str().unwrap()], "unknown"),
        (vec!["run", "--config", "/nonexistent.yaml"], "/nonexistent.yaml"),
        (vec!["walk"], "walk"),
    ] {
        let output = nri_enforcer(&args);
        assert_eq!(code(&output), 2, "{args:?}: {}", err(&output));
        assert!(err(&output).contains(part), "`{part}` is not in: {}", err(&output));
    }
}

#[test]
fn run_fails_with_exit_code_1_where_it_cannot_start() {
    let output = nri_enforcer(["run", "--policy-dir", "/nonexistent"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("/nonexistent"), "{}", err(&output));
    let dir = Dir::new();
    let here = dir.0.path().to_str().unwrap();
    let output = nri_enforcer(["run", "--policy-dir", here, "--seccomp-only", "--alerts", here]);
    assert_eq!(code(&output), 1, "alerts cannot be written to a directory");
    assert!(err(&output).contains("cannot open the alerts file"), "{}", err(&output));
    assert_eq!(out(&output), "", "stdout belongs to the alerts");
}

#[test]
fn a_log_becomes_a_policy_that_check_takes() {
    let dir = Dir::new();
    let (log, policy) = (dir.0.path().join("log"), dir.0.path().join("policy.yaml"));
    let record = |number: u32| {
        format!(
            "[ 1.0] audit: type=1326 audit(1.2:{number}): auid=0 uid=0 gid=0 ses=1 pid=7 comm=\"a\" exe=\"/a\" sig=0 \
             arch=c000003e syscall={number} compat=0 ip=0x1 code=0x7ffc0000\n"
        )
    };
    std::fs::write(&log, record(1) + &record(0) + "kauditd_printk_skb: 9 callbacks suppressed\n").unwrap();
    let from = log.to_str().unwrap();
    let all =
        ["learn", "seccomp", "--from", from, "--name", "web", "--namespace", "default", "--label", "app=web"];
    let output = nri_enforcer(all);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(out(&output).contains("    - read\n    - write\n"), "{}", out(&output));
    assert!(err(&output).contains("not complete"), "{}", err(&output));
    std::fs::write(&policy, out(&output)).unwrap();
    let output = nri_enforcer(["check", "--no-host", policy.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}{}", out(&output), err(&output));
    assert!(out(&output).contains("1 policy"), "{}", out(&output));
    std::fs::write(&log, "nothing of that sort\n").unwrap();
    let output = nri_enforcer(all);
    assert_eq!((code(&output), out(&output).as_str()), (1, ""));
    assert!(err(&output).contains("action: Audit"), "{}", err(&output));
}

#[test]
fn unload_asks_before_it_unprotects() {
    let dir = Dir::new();
    let here = dir.0.path().to_str().unwrap();
    let output = nri_enforcer(["unload", "--bpffs", here]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("--yes"), "{}", err(&output));
}

#[test]
fn help_documents_the_exit_codes() {
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["check", "--help"],
        &["explain", "--help"],
        &["probe", "--help"],
        &["status", "--help"],
        &["learn", "seccomp", "--help"],
        &["seccomp", "systemd", "--help"],
    ] {
        let output = nri_enforcer(args);
        assert_eq!(code(&output), 0);
        assert!(out(&output).contains("Exit codes:"), "{args:?}");
    }
}

const SECCOMP: &str = "kind: KubeArmorSeccompPolicy
name: sockets
app: web
syscalls:
- {name: socket, args: [{index: 0, value: 38}], errno: EAFNOSUPPORT}
- {name: reboot, action: Audit}
";

#[test]
fn compile_prints_the_profile_that_a_runtime_gets() {
    let dir = Dir::new();
    let policy = dir.write("seccomp.yaml", SECCOMP);
    let compile = |label: &str, more: &[&str]| {
        let policy = policy.to_str().unwrap();
        let base = ["compile", "--seccomp", "--policy", policy, "--namespace", "default", "--label", label];
        nri_enforcer([&base, more].concat())
    };
    let output = compile("app=web", &["--base", "unconfined", "--strict"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let profile: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ALLOW");
    let entries = profile["syscalls"].as_array().unwrap();
    let of = |name: &str| entries.iter().find(|entry| entry["names"] == json!([name])).unwrap();
    let args = json!([{"index": 0, "value": 0xffff_ffff_u32, "valueTwo": 38, "op": "SCMP_CMP_MASKED_EQ"}]);
    assert_eq!((of("socket")["errnoRet"].clone(), of("socket")["args"].clone()), (json!(97), args));
    assert_eq!(of("reboot")["action"], "SCMP_ACT_LOG");

    let output = compile("app=web", &["--cap", "sys_admin"]);
    let profile: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&profile["defaultAction"], &profile["defaultErrnoRet"]),
        (&json!("SCMP_ACT_ERRNO"), &json!(38)),
        "what nobody knows"
    );
    assert_eq!(err(&output), "");
    let output = compile("app=web", &["--nri", "--strict"]);
    assert_eq!(code(&output), 0);
    let profile: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(profile.get("defaultErrnoRet"), None);
    assert!(err(&output).contains("crun"), "{}", err(&output));

    // the profile is one that can be the base of others
    let base = dir.write("base.json", &String::from_utf8(output.stdout).unwrap());
    assert_eq!(code(&compile("app=web", &["--base", base.to_str().unwrap()])), 0);
    let output = compile("app=db", &[]);
    assert_eq!(code(&output), 0);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no seccomp policy selects"), "{output:?}");
    for bad in [&["--base", "/nonexistent"][..], &["--cap", "sys_admni"], &["--libseccomp", "2.5"]] {
        assert_eq!(code(&compile("app=web", bad)), 2, "{bad:?}");
    }
}

const APPARMOR: &str = "apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  file:
    matchPaths: [{path: /etc/passwd}]
    matchDirectories: [{dir: /srv/, recursive: true, readOnly: true, action: Allow}]
  network: {matchDestinations: [{cidr: 10.0.0.0/8}]}
  apparmor: |
    deny /native r,
    /bin/x ux,
";

#[test]
fn compile_prints_the_profile_of_apparmor() {
    let dir = Dir::new();
    let policy = dir.write("web.yaml", APPARMOR);
    let compile = |label: &str, more: &[&str]| {
        let policy = policy.to_str().unwrap();
        let base = ["compile", "--apparmor", "--policy", policy, "--namespace", "default", "--label", label];
        nri_enforcer([&base, more].concat())
    };
    let output = compile("app=web", &[]);
    assert_eq!(code(&output), 0, "{output:?}");
    let (text, gaps) = (out(&output), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(text.starts_with("profile nri-enforcer.profile flags="), "{text}");
    for line in [r#"audit deny "/etc/passwd{,/}" rwl,"#, r#"audit "/{,**}" rw,"#, r#"deny "/native" r,"#] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("ux"), "{text}");
    assert!(gaps.contains("spec.network.matchDestinations[0]: AppArmor has no such rule"), "{gaps}");
    assert!(gaps.contains("spec.apparmor: a native AppArmor rule is not taken; `/bin/x ux`"), "{gaps}");
    assert!(!gaps.contains("native AppArmor rules are not read"), "{gaps}");
    assert_eq!(code(&compile("app=web", &["--strict"])), 1);

    let output = compile("app=web", &["--posture", "file=block", "--name", "nri-enforcer.web"]);
    assert!(out(&output).starts_with("profile nri-enforcer.web flags="));
    assert!(!out(&output).contains(r#""/{,**}" rw,"#), "{output:?}");
    let output = compile("app=db", &["--strict"]);
    assert_eq!(code(&output), 0);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("no rule is about this container"),
        "{output:?}"
    );
    for bad in [&["--name", "docker-default"][..], &["--seccomp"], &["--nri"], &["--root", "/nonexistent"]] {
        assert_eq!(code(&compile("app=web", bad)), 2, "{bad:?}");
    }
}

#[test]
fn check_asks_nothing_of_the_host_for_seccomp_policies() {
    let dir = Dir::new();
    let policy = dir.write("seccomp.yaml", SECCOMP);
    let output = nri_enforcer(["check", "--strict", "-o", "json", policy.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &report["ok"], report.get("host")), (0, &json!(true), None));
    dir.write("other.yaml", POLICY);
    let output = nri_enforcer(["check", "-o", "json", dir.0.path().to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["host"]["enforces"].is_boolean(), "{report}");
}

#[test]
fn compile_tells_where_a_profile_has_no_room_for_what_nobody_knows() {
    let dir = Dir::new();
    let mut text = "kind: KubeArmorSeccompPolicy\nname: long\napp: web\nsyscalls:\n".to_owned();
    for name in ["fcntl", "ioctl", "getsockopt"] {
        for value in [1, 12, 123, 1234, 12345] {
            text += &format!("- {{name: {name}, args: [{{index: 1, value: {value}}}]}}\n");
        }
    }
    let policy = dir.write("long.yaml", &(text + "action: Block\n"));
    let arguments = |more: &[&'static str]| {
        let base =
            ["compile", "--seccomp", "--namespace", "default", "--label", "app=web", "--strict", "--policy"];
        [&base, &[policy.to_str().unwrap()][..], more]
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let output = nri_enforcer(arguments(&[]));
    assert_eq!(code(&output), 1);
    let told = "default/long: spec: system calls that are not known yet are denied by another errno";
    assert!(err(&output).contains(told), "{}", err(&output));
    assert_eq!(code(&nri_enforcer(arguments(&["--nri"]))), 0, "that form has another default anyway");
    assert_eq!(code(&nri_enforcer(arguments(&["--base", "unconfined"]))), 0, "nothing is denied by default");
}

#[test]
fn explain_asks_seccomp_policies_about_arguments() {
    let dir = Dir::new();
    let policy = dir.write("seccomp.yaml", SECCOMP);
    let found = |access: &str| {
        let output = explain(&policy, &["--access", access, "-o", "json"]);
        assert_eq!(code(&output), 0, "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["seccomp"].clone()
    };
    let blocked = found("syscall:socket:38,3");
    assert_eq!((&blocked["errno"], &blocked["policy"]), (&json!("EAFNOSUPPORT"), &json!("default/sockets")));
    assert_eq!((&blocked["rule"], &blocked["base"]), (&json!("syscalls[0]"), &json!("errno 1")));
    assert_eq!(found("syscall:socket:2")["action"], "allow");
    assert_eq!(found("syscall:reboot")["errno"], "EPERM", "the runtime's default denies it");
    let output = explain(&policy, &["--access", "syscall:socket:38", "--expect", "block"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let output = explain(&policy, &["--access", "syscall:reboot"]);
    assert!(out(&output).starts_with("block  by seccomp: "), "no rule speaks about it: {}", out(&output));
    let output = explain(&policy, &["--access", "syscall:socket:1,2,3,4,5,6,7"]);
    assert_eq!(code(&output), 2);
}
