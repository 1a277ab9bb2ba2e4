//! `diff` without `--old`: the daemon's program and the command.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Daemon, FILES, SECCOMP, container, end, pod};

#[tokio::test(flavor = "multi_thread")]
async fn diff_compares_with_what_the_daemon_has_in_force() {
    let policies = [("calls.yaml", SECCOMP), ("files.yaml", FILES)];
    let (daemon, _runtime, plugin) = Daemon::serving(&policies, &["--seccomp-only"]).await;
    for (app, namespace, id) in
        [("web", "default", "c1"), ("db", "default", "c2"), ("web", "kube-system", "c3")]
    {
        let pod = pod(app, namespace);
        plugin.create_container(&pod, &container(&pod, id)).await.unwrap();
        plugin.start_container(&pod, &container(&pod, id)).await.unwrap();
    }
    let diff = |text: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
        command.arg("diff").args(more);
        if !more.contains(&"--admin-socket") {
            command.arg("--admin-socket").arg(daemon.dir.path().join("run/admin.sock"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let _refused = process.stdin.take().unwrap().write_all(text.as_bytes());
        end(&process.wait_with_output().unwrap())
    };
    let rmdir = SECCOMP.replace("mkdir", "rmdir");
    let (code, out, err) = diff(&rmdir, &["--new", "-", "-o", "json"]);
    assert_eq!((code, err.as_str()), (1, ""));
    let report: Value = serde_json::from_str(&out).unwrap();
    let told: Vec<_> = report["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["pod"], &one["seccomp"]["pendingRestart"]))
        .collect();
    assert_eq!(told, [(&"db-1".into(), &Value::Null), (&"web-1".into(), &true.into())], "not the exempt one");
    let (code, out, _) = diff(&rmdir, &["--new", "-"]);
    assert_eq!(code, 1);
    assert!(out.contains("default/web-1 main") && out.contains("Nothing changes for 1 container."), "{out}");
    // what has the same name and says the same; what is not named stays
    assert_eq!(diff(SECCOMP, &["--new", "-"]).0, 0);
    assert_eq!(diff(&rmdir, &["--new", "-", "--namespace", "other"]).0, 0, "nothing runs there");
    // rules are gaps on this node
    let more = FILES.replace("name: files", "name: more");
    let (code, out, _) = diff(&more, &["--new", "-"]);
    assert!(code == 1 && out.contains("new gap: default/more: spec.file.matchPaths[0]"), "{out}");
    // a policy that goes
    let (code, out, err) = diff("", &["--remove", "kscmp/default/calls", "-o", "json"]);
    assert_eq!((code, err.as_str()), (1, ""));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["containers"][1]["seccomp"]["pendingRestart"], true, "{report:#}");
    let (code, out, _) = diff("", &["--remove", "ksp/default/files"]);
    assert!(code == 1 && out.contains("gap"), "{out}");
    assert_eq!(diff(SECCOMP, &["--new", "-", "--remove", "kscmp/default/calls"]).0, 0, "it goes and comes");
    // a file, and both sides
    let new = daemon.dir.path().join("new.yaml");
    fs::write(&new, &rmdir).unwrap();
    assert_eq!(diff("", &["--new", new.to_str().unwrap()]).0, 1);
    let old = daemon.dir.path().join("policies/calls.yaml");
    let sides =
        ["--old", old.to_str().unwrap(), "--new", "-", "--namespace", "default", "--label", "app=web"];
    assert_eq!(diff(SECCOMP, &sides).0, 0);
    assert_eq!(diff(&rmdir, &sides).0, 1);

    for (text, args, wanted) in [
        ("kind: Nonsense\n", &["--new", "-"][..], "<stdin>"),
        ("", &["--new", "-"], "there is no policy in what --new names"),
        ("", &["--remove", "ksp/default/nothing"], "no KubeArmorPolicy default/nothing is in force"),
        ("", &["--remove", "default/files"], "`default` is no kind of policy"),
        ("", &["--remove", "ksp/default/files", "--old", "."], "cannot be used with"),
        (SECCOMP, &["--new", "-", "--label", "app=web"], "--label goes with --old"),
        (SECCOMP, &["--old", "-", "--new", "-", "--running"], "cannot both be read from stdin"),
        (SECCOMP, &["--old", "-", "--new", "-"], "--old goes with --namespace"),
        (SECCOMP, &["--new", "-", "--admin-socket", "/nonexistent"], "no daemon answers at `/nonexistent`"),
    ] {
        let (code, out, err) = diff(text, args);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.contains(wanted), "{wanted} is not in:\n{err}");
    }
}
