//! `explain` about containers that run: the daemon's program and the command.

use std::process::Command;

use serde_json::Value;

use super::{Daemon, FILES, SECCOMP, container, end, pod};

fn explain(daemon: &Daemon, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
    command.arg("explain").arg("--admin-socket").arg(daemon.dir.path().join("run/admin.sock"));
    end(&command.args(args).output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_asks_what_a_container_really_has() {
    let policies = [("calls.yaml", SECCOMP), ("files.yaml", FILES)];
    let (daemon, _runtime, plugin) = Daemon::serving(&policies, &["--seccomp-only"]).await;
    let web = pod("web", "default");
    for (id, name) in [("c1aaaa", "init"), ("c2bbbb", "main")] {
        let mut one = container(&web, id);
        one.name = name.into();
        plugin.create_container(&web, &one).await.unwrap();
        plugin.start_container(&web, &one).await.unwrap();
    }
    let read = ["--access", "file:read:/etc/passwd"];
    let of_pod = |more: &[&str]| explain(&daemon, &[&["--pod", "default/web-1"], more].concat());

    // which one is meant
    let (code, out, err) = of_pod(&read);
    assert_eq!((code, out.as_str()), (2, ""));
    for part in ["name one with --container or --id", "init", "main", "c1aaaa", "c2bbbb"] {
        assert!(err.contains(part), "{part} is not in:\n{err}");
    }
    plugin.stop_container(&web, &container(&web, "c1aaaa")).await.unwrap();
    let (code, out, err) = of_pod(&read);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("allow  the kernel has no rules for it, so nothing is denied"), "{out}");
    assert!(out.contains("container main of default/web-1: not covered, no ruleset"), "{out}");
    assert!(err.contains("the policies say block") && err.contains("default/files"), "{err}");

    // for programs, and what is expected
    let (code, out, _) =
        explain(&daemon, &[&["--id", "c2bb", "-o", "json", "--expect", "block"], &read[..]].concat());
    assert_eq!(code, 1);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&told["verdict"], &told["lock"], &told["ruleset"]),
        (&"allow".into(), &Value::Null, &Value::Null)
    );
    let written = &told["asWritten"];
    assert_eq!((&written["verdict"], &written["policy"]), (&"block".into(), &"files".into()));
    assert_eq!(
        (&told["container"]["id"], &told["container"]["state"]),
        (&"c2bbbb".into(), &"notCovered".into())
    );
    assert_eq!(told["gaps"][0]["policy"], "default/files");
    let (code, out, err) = of_pod(&["-c", "main", "--access", "syscall:mkdir", "--expect", "block"]);
    assert!(code == 0 && out.contains("by seccomp: `default/calls` blocks"), "{out}{err}");

    // what is nothing
    for (args, wanted) in [
        (&["--pod", "default/cache", "--access", "file:read:/x"][..], "knows no such container"),
        (&["--id", "dddd", "--access", "file:read:/x"], "knows no such container"),
        (&["--pod", "web-1", "--access", "file:read:/x"], "expected NAMESPACE/NAME"),
        (&["--pod", "default/web-1", "--access", "file:eat:/x"], "--access"),
        (&["--host", "--access", "file:read:/x"], "knows no such container"),
        (&["--host", "--label", "a=b", "--access", "file:read:/x"], "--label goes with --policy"),
        (&["--host", "--posture", "file=block", "--access", "file:read:/x"], "--posture goes with --policy"),
        (&["--host", "--root", "/", "--access", "file:read:/x"], "--root goes with --policy"),
        (&["--host", "--container", "x", "--access", "file:read:/x"], "--container goes with --policy"),
        (&["--host", "--namespace", "x", "--access", "file:read:/x"], "--namespace goes with --policy"),
        (&["--host", "--cap", "net_raw", "--access", "file:read:/x"], "--cap goes with --policy"),
        (&["--host", "--base", "unconfined", "--access", "file:read:/x"], "--base goes with --policy"),
        (&["--pod", "default/web-1", "--policy", "x", "--access", "file:read:/x"], "cannot be used with"),
        (&["--id", "c2bb", "--label", "a=b", "--access", "file:read:/x"], "cannot be used with"),
        (&["--access", "file:read:/x"], "required"),
    ] {
        let (code, out, err) = explain(&daemon, args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(err.contains(wanted), "{args:?}: {err}");
    }
    drop(daemon);
    let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
    command.args([
        "explain",
        "--admin-socket",
        "/nonexistent/admin",
        "--id",
        "c2bb",
        "--access",
        "file:read:/x",
    ]);
    let (code, _, err) = end(&command.output().unwrap());
    assert!(code == 2 && err.contains("no daemon answers at `/nonexistent/admin`"), "{err}");
}
