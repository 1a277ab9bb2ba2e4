//! The lab's own command line.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/policies/block-etc-passwd-read.yaml");

fn lab(arguments: &[&str]) -> Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_lab")).args(arguments).output().context("run lab")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `lab run -o json` and its exit status.
fn json(arguments: &[&str]) -> Result<(Value, Option<i32>)> {
    let all: Vec<_> = ["run", "-o", "json"].iter().chain(arguments).copied().collect();
    let output = lab(&all)?;
    let report = serde_json::from_slice(&output.stdout);
    Ok((report.with_context(|| text(&output.stderr))?, output.status.code()))
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().map(|o| o.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[test]
fn bad_usage_is_told_before_a_machine_is_started() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let bad = folder.path().join("bad.yaml");
    std::fs::write(
        &bad,
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: x}\nspec: {nonsense: 1}\n",
    )?;
    let bad = bad.to_string_lossy();
    for (arguments, reason) in [
        (vec!["run"], "nothing to run"),
        (vec!["run", "--policy", "/nowhere.yaml", "--", "id"], "/nowhere.yaml"),
        (vec!["run", "--policy", &bad, "--", "id"], "bad.yaml:4"),
        (vec!["run", "--pod", "/nowhere.yaml", "--", "id"], "/nowhere.yaml"),
        (vec!["run", "--rootfs", "/nowhere", "--", "id"], "/nowhere"),
        (vec!["run", "--exec", "echo 'x"], "quote"),
        (vec!["run", "--kernel", "2.4", "--", "id"], "6.12"),
        (vec!["run", "--posture", "file=perhaps", "--", "id"], "posture"),
        (vec!["fly"], "unrecognized"),
    ] {
        let output = lab(&arguments)?;
        let error = text(&output.stderr);
        ensure!(output.status.code() == Some(2), "{arguments:?}: {:?}: {error}", output.status);
        ensure!(error.contains(reason), "{arguments:?}: `{reason}` is not in: {error}");
    }
    Ok(())
}

#[test]
fn a_report_has_its_shape() -> Result<()> {
    let (report, status) =
        json(&["--policy", POLICY, "--label", "app=my-web-app", "--", "cat", "/etc/passwd"])?;
    ensure!(keys(&report) == ["alerts", "entry", "execs"], "{report:#}");
    let exec = &report["execs"][0];
    ensure!(keys(exec) == ["command", "exit", "stderr", "stdout"], "{exec:#}");
    ensure!(exec["command"] == "cat /etc/passwd" && exec["exit"] == 1 && exec["stdout"] == "", "{exec:#}");
    ensure!(exec["stderr"].as_str().is_some_and(|e| e.contains("Permission denied")), "{exec:#}");
    ensure!(report["entry"]["started"] == true && report["entry"]["exit"].is_null(), "{report:#}");
    let alerts = report["alerts"].as_array().context("alerts")?;
    ensure!(alerts.len() == 1, "{alerts:#?}");
    ensure!(
        alerts[0]["PolicyName"] == "block-etc-passwd-read" && alerts[0]["Resource"] == "/etc/passwd",
        "{alerts:#?}"
    );
    ensure!(status == Some(1), "the command's exit status is the lab's: {status:?}");
    Ok(())
}

#[test]
fn a_manifest_with_init_containers_and_users() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let manifest = folder.path().join("pod.yaml");
    let yaml = "
kind: Pod
metadata: {name: web, labels: {app: my-web-app}}
spec:
  securityContext: {runAsUser: 1000}
  initContainers: [{name: prepare, command: [sh, -c, 'echo $WHO; exit 0'], env: [{name: WHO, value: init}]}]
  containers:
  - {name: first, command: [/bin/first]}
  - {name: side, command: [sleep, '1000']}
";
    std::fs::write(&manifest, yaml)?;
    let manifest = manifest.to_string_lossy();
    let arguments = ["--containerd", "1.7", "--policy", POLICY, "--pod", &manifest, "--container", "side"];
    let commands = [
        "--exec",
        "stat -c %u /proc/self/status",
        "--exec",
        "echo $((1+2)) > /tmp/x; cat /tmp/x",
        "--exec",
        "no-such-program",
    ];
    let (report, status) = json(&[&arguments[..], &commands].concat())?;
    ensure!(report["init"][0]["stdout"] == "init\n" && report["init"][0]["exit"] == 0, "{report:#}");
    ensure!(report["entry"]["container"] == "side" && report["entry"]["exit"].is_null(), "{report:#}");
    ensure!(report["execs"][0]["stdout"] == "1000\n", "{report:#}");
    ensure!(report["execs"][1]["stdout"] == "3\n" && report["execs"][2]["exit"] == 127, "{report:#}");
    ensure!(
        report["alerts"].as_array().is_some_and(|a| a.len() == 1 && a[0]["ContainerName"] == "first"),
        "{report:#}"
    );
    ensure!(status == Some(0), "several programs: 0, not {status:?}");
    Ok(())
}

/// A policy that lists what may run does not list the lab's idle program; the container is there all the same.
#[test]
fn whitelists_and_roots_of_the_users_own() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root");
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::write(root.join("bin/one"), lab::image::FIRST)?;
    std::fs::write(root.join("bin/two"), lab::image::FIRST)?;
    for name in ["one", "two"] {
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(root.join("bin").join(name), executable)?;
    }
    let policy = folder.path().join("policy.yaml");
    let yaml = "
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: only-one, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  process: {matchPaths: [{path: /bin/one}]}
  action: Allow
";
    std::fs::write(&policy, yaml)?;
    let arguments = [
        "--policy",
        &policy.to_string_lossy(),
        "--rootfs",
        &root.to_string_lossy(),
        "--namespace",
        "shop",
        "--label",
        "app=web",
        "--posture",
        "process=block",
        "--posture",
        "file=allow",
        "--kernel",
        "6.1", // which loads the daemon's programs soonest: postures need one that is started for them
        "--exec",
        "/bin/one",
        "--exec",
        "/bin/two",
    ]
    .map(str::to_owned);
    let (report, _) = json(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    // ENOENT: this root has no /etc/passwd.
    ensure!(report["execs"][0]["exit"] == 2 && report["execs"][0]["stdout"] == "OTHER\n", "{report:#}");
    let two = &report["execs"][1];
    ensure!(
        two["exit"] != 0 && two["stderr"].as_str().is_some_and(|e| e.contains("permission denied")),
        "{report:#}"
    );
    let alerts = report["alerts"].as_array().context("alerts")?;
    ensure!(alerts.len() == 1 && alerts[0]["PolicyName"] == "DefaultPosture", "{report:#}");
    ensure!(alerts[0]["Resource"] == "/bin/two", "{report:#}");
    Ok(())
}

#[test]
fn the_demonstration_holds() -> Result<()> {
    let output = lab(&["demo", "--kernel", "6.1", "--containerd", "1.7", "--policy", POLICY])?;
    let shown = text(&output.stdout);
    ensure!(output.status.success(), "{shown}{}", text(&output.stderr));
    for step in ["1.", "2.", "3.", "4.", "DENIED (exit 13)", "OPENED (exit 0)", "spec.file.matchPaths[0]"] {
        ensure!(shown.contains(step), "`{step}` is not shown:\n{shown}");
    }
    Ok(())
}

#[test]
fn a_program_of_this_machine_runs_in_a_guest() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("script");
    std::fs::write(&script, "echo \"$1\"; uname -r; cat data; exit 7\n")?;
    let data = folder.path().join("data");
    std::fs::write(&data, "hello\n")?;
    let put = [format!("{}", script.display()), format!("{}:data", data.display())];
    let output =
        lab(&["guest", "--kernel", "6.1", "--put", &put[0], "--put", &put[1], "--", "sh", "script", "a b"])?;
    let lines = text(&output.stdout);
    let lines: Vec<_> = lines.lines().collect();
    ensure!(output.status.code() == Some(7), "{:?} {lines:?} {}", output.status, text(&output.stderr));
    ensure!(lines[0] == "a b" && lines[1].starts_with("6.1.") && lines[2] == "hello", "{lines:?}");
    Ok(())
}

/// On this machine's own kernel: containers run, and policies are enforced or refused as a whole, never left out.
#[test]
fn a_host_enforces_or_says_why_not() -> Result<()> {
    let (report, status) = json(&["--host", "--", "/bin/first"])?;
    ensure!(report["execs"][0]["stdout"] == "OPENED\n" && status == Some(0), "{report:#}");
    let output =
        lab(&["run", "--host", "--policy", POLICY, "--label", "app=my-web-app", "--", "/bin/first"])?;
    let shown = format!("{}{}", text(&output.stdout), text(&output.stderr));
    match output.status.code() {
        Some(13) => ensure!(shown.contains("DENIED") && shown.contains("spec.file.matchPaths[0]"), "{shown}"),
        Some(125) => ensure!(shown.contains("cannot enforce") && !shown.contains("OPENED"), "{shown}"),
        other => ensure!(false, "{other:?}: {shown}"),
    }
    Ok(())
}
