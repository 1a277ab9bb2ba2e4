//! `alerts` as users run it.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

fn alert(time: &str, namespace: &str, policy: &str, action: &str, resource: &str) -> String {
    serde_json::json!({
        "Timestamp": 0, "UpdatedTime": time, "NamespaceName": namespace, "PodName": "web-1", "ContainerName": "main",
        "Labels": format!("app=web,tier={namespace}"), "Severity": if policy == "files" { "7" } else { "3" },
        "PolicyName": policy, "PolicyNamespace": namespace, "Rule": "spec.file.matchPaths[0]", "Message": "",
        "Type": "MatchedPolicy", "Source": "/bin/cat", "Operation": "File", "Resource": resource, "Data": "op=open-read",
        "Action": action, "Unknown": [1],
    })
    .to_string()
        + "\n"
}

fn four() -> String {
    [
        alert("2026-11-22T10:00:00.5Z", "shop", "files", "Block", "/etc/passwd"),
        alert("2026-11-22T11:00:00Z", "shop", "other", "Audit", "/a\u{1b}[2J\n/b"),
        alert("2026-11-22T12:00:00Z", "bank", "files", "Audit", "/c"),
        "{\"UpdatedTime\":\"2026-11-22T13:00:00Z\",\"Type\":\"SystemEvent\",\"Action\":\"Audit\",\
         \"Message\":\"7 alerts were dropped\",\"Data\":\"notice=dropped count=7\"}\n"
            .to_owned(),
    ]
    .concat()
}

/// Exit code, stdout, stderr.
fn alerts(text: &[u8], more: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
    command.arg("alerts").args(more).env_remove("RUST_LOG");
    if !more.iter().any(|arg| arg.starts_with('/') || arg.starts_with("--admin-socket=")) {
        command.arg("-");
    }
    let mut process =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _refused = process.stdin.take().unwrap().write_all(text);
    let output = process.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().expect("no panic, no signal"), text(&output.stdout), text(&output.stderr))
}

#[test]
fn an_alert_is_a_line_that_steers_no_terminal() {
    let (code, out, err) = alerts(four().as_bytes(), &[]);
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines,
        [
            "2026-11-22T10:00:00.5Z Block shop/web-1 main file /etc/passwd by /bin/cat files spec.file.matchPaths[0]",
            "2026-11-22T11:00:00Z Audit shop/web-1 main file /a\u{fffd}[2J\u{fffd}/b by /bin/cat other \
             spec.file.matchPaths[0]",
            "2026-11-22T12:00:00Z Audit bank/web-1 main file /c by /bin/cat files spec.file.matchPaths[0]",
            "2026-11-22T13:00:00Z Audit: 7 alerts were dropped",
        ]
    );
    assert_eq!(alerts(four().as_bytes(), &["-o", "json"]).1, four(), "as they are");
}

#[test]
fn a_summary_says_how_many_it_is() {
    let summary = |policy: &str| {
        alert("2026-11-22T10:00:00Z", "shop", policy, "Block", "/x").replace('{', "{\"Count\":998,")
    };
    let (_, out, _) = alerts(summary("files").as_bytes(), &["--policy", "files"]);
    assert_eq!(
        out,
        "2026-11-22T10:00:00Z Block shop/web-1 main file /x by /bin/cat files spec.file.matchPaths[0] (998 times)\n"
    );
    let several = alerts(summary("").as_bytes(), &["--policy", "files", "--namespace", "shop"]);
    assert!(
        several.1.contains("(998 times)"),
        "what several policies decided could have been this one: {several:?}"
    );
    assert_eq!(alerts(summary("").as_bytes(), &["--namespace", "bank"]).1, "");
}

#[test]
fn filters_pass_what_they_name_and_what_was_lost() {
    let count = |more: &[&str]| alerts(four().as_bytes(), more).1.lines().count();
    for (filter, wanted) in [
        (&["--namespace", "shop"][..], 2),
        (&["--namespace", "shop", "--namespace", "bank"], 3),
        (&["--pod", "web-1"], 3),
        (&["--pod", "web"], 0),
        (&["--container", "main"], 3),
        (&["--container", "web-1"], 0),
        (&["--label", "app=web"], 3),
        (&["--label", "app=web", "--label", "tier=bank"], 1),
        (&["--label", "tier=bank", "--label", "tier=shop"], 0),
        (&["--label", "app=we"], 0),
        (&["--operation", "file"], 3),
        (&["--operation", "process"], 0),
        (&["--operation", "network", "--operation", "file"], 3),
        (&["--severity", "4"], 2),
        (&["--severity", "7"], 2),
        (&["--severity", "8"], 0),
        (&["--policy", "files"], 2),
        (&["--policy", "bank/files"], 1),
        (&["--action", "block"], 1),
        (&["--action", "audit", "--namespace", "shop"], 1),
    ] {
        assert_eq!(count(filter), wanted + 1, "{filter:?}");
    }
    let ring = four().replace("notice=dropped", "notice=ring-full");
    assert_eq!(alerts(ring.as_bytes(), &["--pod", "web"]).1.lines().count(), 1, "lost in the kernel");
    assert_eq!(count(&["--since", "2026-11-22T12:00:00Z"]), 2);
    assert_eq!(count(&["--since", "2026-11-22T13:30:00Z"]), 0);
    assert_eq!(alerts(b"", &["--since", "soon"]).0, 2);
    assert_eq!(alerts(b"", &["--severity", "11"]).0, 2);
}

#[test]
fn what_is_no_alert_is_counted_and_a_file_that_is_not_there_is_an_error() {
    let text = [b"{}\n[1]\nhello\n\xff\xfe\n\n{\"Type\": 7}\n", four().as_bytes()].concat();
    let (code, out, err) = alerts(&text, &[]);
    assert_eq!((code, out.lines().count()), (1, 4));
    assert!(err.contains("5 lines are no alert"), "{err}");
    let (code, _, err) = alerts(b"", &["/nonexistent"]);
    assert_eq!(code, 2);
    assert!(err.contains("/nonexistent"), "{err}");
    assert_eq!(alerts(b"", &[Path::new("/").to_str().unwrap()]).0, 2);
}

#[test]
fn follow_goes_on_through_rotation_and_ends_when_nobody_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alerts.jsonl");
    let one = |resource: &str| alert("2026-11-22T10:00:00Z", "shop", "files", "Block", resource);
    std::fs::write(&path, one("/one")).unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"))
        .args(["alerts", "-f"])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut told = |wanted: &str| {
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains(wanted), "{line}");
    };
    told(" /one ");
    std::fs::File::options().append(true).open(&path).unwrap().write_all(one("/two").as_bytes()).unwrap();
    told(" /two ");
    std::fs::rename(&path, dir.path().join("alerts.jsonl.1")).unwrap();
    std::fs::write(&path, one("/three")).unwrap();
    told(" /three ");
    drop(lines);
    let begin = std::time::Instant::now();
    while process.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < std::time::Duration::from_secs(20), "it goes on for nobody");
        std::fs::File::options().append(true).open(&path).unwrap().write_all(one("/x").as_bytes()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(process.wait().unwrap().code(), Some(0));
}
