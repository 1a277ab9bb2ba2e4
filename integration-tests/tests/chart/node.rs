//! The daemon in the container that the chart describes, on a real kernel: with those capabilities, mounts and that
//! seccomp profile alone it enforces.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use enforcer_core::capability::Capability;
use enforcer_core::seccomp::{Arch, runtime_default};
use lab::cache;
use lab::node::{Daemon, Options, RunningPod};
use lab::run::{DAEMON_FILE, Target, hook};
use lab::testing::{File, Node, in_guest_with};
use lab::vm::{Containerd, Kernel, Spec};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::dashboard;
use super::helm::{self, at, list};
use super::page::Page;

const POLICY: &str = include_str!("../../../examples/policies/block-etc-passwd-read.yaml");
/// Where the daemon's files of the lab are: policies, which the chart mounts, alerts, what says that it is ready.
const FOLDER: &str = "/run/pod/daemon";
/// The roots of the containers.
pub const ROOT: &str = "/run/pod/root";
/// What programs of this machine are linked with, of the guest's; the image of the chart needs none.
const LIBRARIES: [&str; 3] = ["/usr/lib", "/lib", "/lib64"];

fn spec() -> Spec {
    Spec::node(Kernel::V6_12, Containerd::V2_1)
}

pub fn daemon() -> Result<PathBuf> {
    cache::stripped(&Target { spec: spec(), daemon: None }.daemon()?)
}

fn release() -> Result<PathBuf> {
    written("release.json", &[])
}

/// A file with the release's pod and configurations.
pub fn written(name: &str, values: helm::Values<'_>) -> Result<PathBuf> {
    // there is no API server in the guest
    let policies = format!("policies.hostDir={FOLDER}/policies");
    let own = ["crds.install=false", "policies.kubeApi=false", &policies];
    let values = [&own[..], values].concat();
    let objects = helm::objects(&values)?;
    let pod = helm::pod(&objects)?;
    let file = |name: &str| helm::config(&objects, name);
    let uninstall = helm::objects(&["crds.install=false", "uninstall=true"])?;
    let release = json!({
        "pod": pod,
        "uninstall": helm::pod(&uninstall)?,
        "files": {"config.yaml": file("config.yaml")?, "hook.json": file("hook.json")?},
        "queries": dashboard::queries()?,
    });
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, serde_json::to_vec(&release)?)?;
    Ok(path)
}

#[test]
fn the_daemon_of_the_chart_enforces_in_its_pod() -> Result<()> {
    let files: &[File] = &[(DAEMON_FILE, daemon), ("nri-enforcer-hook", hook), ("release.json", release)];
    let name = "node::the_daemon_of_the_chart_enforces_in_its_pod";
    in_guest_with(name, &spec(), false, files, |node| Box::pin(enforces(node))).map(drop)
}

/// Lays the release out as kubelet would, runs its init container, and starts the daemon in its own.
pub async fn start(node: &mut Node, release: &Value) -> Result<()> {
    let etc = Path::new(ROOT).with_file_name("etc");
    fs::create_dir_all(&etc)?;
    for (name, text) in release.get("files").and_then(Value::as_object).into_iter().flatten() {
        let mut text = text.as_str().context("a text")?.to_owned();
        if name == "config.yaml" {
            let mut config: serde_yaml::Mapping = serde_yaml::from_str(&text)?;
            config.remove("kubeApi"); // there is no API server
            text = serde_yaml::to_string(&config)?;
        }
        fs::write(etc.join(name), text)?;
    }
    fs::create_dir_all(format!("{ROOT}/usr/local/bin"))?;
    for program in [DAEMON_FILE, "nri-enforcer-hook"] {
        let to = format!("{ROOT}/usr/local/bin/{program}");
        fs::copy(program, &to)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }

    let pod = release.get("pod").context("the pod")?;
    let install = list(pod, "/initContainers").next().context("an init container")?;
    let output = Command::new("sh").arg(bundle(pod, install, &[])?).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the init container: {said}");
    node.check("the hook is on the node", Path::new("/opt/nri-enforcer/nri-enforcer-hook").is_file(), true);

    let container = list(pod, "/containers").next().context("the daemon")?;
    let own = [("--alerts", "alerts"), ("--ready-file", "ready")];
    let own: Vec<String> =
        own.iter().flat_map(|(flag, name)| [(*flag).to_owned(), format!("{FOLDER}/{name}")]).collect();
    let program = bundle(pod, container, &own)?;
    node.daemon = Daemon::new(FOLDER.as_ref(), Options { program, ..Options::default() })?;
    node.daemon.write_policy("policy.yaml", POLICY)?;
    node.daemon.start().await
}

/// What the daemon may not do is in its log.
pub fn lacks_nothing(node: &mut Node) {
    let log = node.daemon.whole_log();
    for wrong in ["Operation not permitted", "Permission denied", "ERROR"] {
        let lines: Vec<_> =
            log.lines().filter(|line| line.contains(wrong) && !line.contains("\"Timestamp\"")).collect();
        node.check(&format!("no `{wrong}` in its log"), lines, Vec::new());
    }
}

async fn enforces(node: &mut Node) -> Result<()> {
    let release: Value = serde_json::from_slice(&fs::read("release.json")?)?;
    start(node, &release).await?;

    let web = node.pod("default", "web", &[("app", "my-web-app")]).await?;
    let first = node.entry(&web, "first", 0, &["/bin/first"]).await?;
    node.check("the first instruction is denied", first, 13); // EACCES
    let idle = node.idle(&web, "idle").await?;
    let read = node.exec(&idle, "cat /etc/passwd").await?;
    node.check("what enters is denied", read.exit, 1);
    let other_pod = node.pod("default", "other", &[("app", "other")]).await?;
    let other = node.idle(&other_pod, "idle").await?;
    let read = node.exec(&other, "cat /etc/passwd").await?;
    node.check("others are not", read.exit, 0);
    let denied = |alert: &Value| alert.get("PolicyName") == Some(&"block-etc-passwd-read".into());
    let alerts = node.daemon.wait_for_alert(Duration::from_secs(20), denied).await?;
    node.check("an alert names the policy", alerts.iter().any(denied), true);
    let text = dashboard::get("127.0.0.1:9750")?;
    let queries: Vec<(String, String)> =
        serde_json::from_value(release.get("queries").context("queries")?.clone())?;
    // the rest is of an API server, a feed, and so on: see `dashboard.rs`
    let queries: Vec<_> = queries.iter().filter(|(_, query)| dashboard::is_of_kernels(query)).collect();
    node.check("queries about the kernel's side", queries.len() >= 8, true);
    let page = Page::read(&text)?;
    dashboard::check(&page, queries.into_iter())?;
    let without = alerts.iter().any(|alert| at(alert, "/Data").contains("notice=without-hook"));
    node.check("containers get the hook", without, false);
    lacks_nothing(node);
    node.daemon.end(Signal::SIGTERM)?;
    leaves(node, &release, &[web, other_pod]).await
}

/// What the chart does with `uninstall`: the kernel's side goes at once, the hook when no container has it.
async fn leaves(node: &mut Node, release: &Value, pods: &[RunningPod]) -> Result<()> {
    let pod = release.get("uninstall").context("the pod that uninstalls")?;
    let steps: Vec<_> = list(pod, "/initContainers").collect();
    ensure!(steps.len() == 2, "{} steps", steps.len());
    let step = |number: usize| -> Result<(bool, String)> {
        let output =
            Command::new("sh").arg(bundle(pod, steps.get(number).context("a step")?, &[])?).output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let pinned = || fs::read_dir("/sys/fs/bpf/nri-enforcer").is_ok_and(|mut pins| pins.next().is_some());
    node.check("rules stay when the daemon ends", pinned(), true);
    node.check("the kernel's side goes", (step(0)?, pinned()), ((true, String::new()), false));
    let hook = Path::new("/opt/nri-enforcer/nri-enforcer-hook");
    let (done, said) = step(1)?;
    node.check(
        "it waits for containers with the hook",
        (done, said.contains("still runs it"), hook.exists()),
        (false, true, true),
    );
    for pod in pods {
        node.cri.remove_pod(pod).await?;
    }
    let (done, said) = step(1)?;
    ensure!(done, "the hook does not go: {said}");
    node.check(
        "then the hook goes",
        hook.exists() || Path::new("/var/lib/nri-enforcer/installed").exists(),
        false,
    );
    Ok(())
}

/// A script that runs a container of the pod with its own and these arguments, as kubelet and runc would.
fn bundle(pod: &Value, container: &Value, more: &[String]) -> Result<PathBuf> {
    let name = at(container, "/name");
    let dir = Path::new(ROOT).with_file_name(name);
    fs::create_dir_all(&dir)?;
    let added: Vec<_> =
        list(container, "/securityContext/capabilities/add").filter_map(Value::as_str).collect();
    let capabilities: BTreeSet<Capability> =
        added.iter().map(|name| Capability::by_name(name).context("a capability")).collect::<Result<_>>()?;
    let seccomp = runtime_default::profile(Arch::native().context("this machine")?, &capabilities);
    let capabilities: Vec<_> = added.iter().map(|name| format!("CAP_{name}")).collect();
    let mut arguments = vec![format!("/usr/local/bin/{DAEMON_FILE}")];
    arguments.extend(list(container, "/args").filter_map(Value::as_str).map(str::to_owned));
    arguments.extend(more.iter().cloned());
    let read_only = ["nosuid", "noexec", "nodev", "ro"];
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": read_only}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": read_only}),
    ];
    let bind = |from: &str, to: &str, access: &str| json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", "rprivate", access]});
    mounts.extend(LIBRARIES.map(|path| bind(path, path, "ro")));
    for mount in list(container, "/volumeMounts") {
        let volume = list(pod, "/volumes").find(|volume| at(volume, "/name") == at(mount, "/name"));
        let volume = volume.with_context(|| format!("no volume for {mount}"))?;
        let from = match at(volume, "/hostPath/path") {
            "" => Path::new(ROOT).with_file_name("etc").to_string_lossy().into_owned(),
            path => path.to_owned(),
        };
        if at(volume, "/hostPath/type") == "DirectoryOrCreate" {
            fs::create_dir_all(&from)?;
        }
        let access = if mount.get("readOnly") == Some(&Value::from(true)) { "ro" } else { "rw" };
        mounts.push(bind(&from, at(mount, "/mountPath"), access));
    }
    if !more.is_empty() {
        mounts.push(bind(FOLDER, FOLDER, "rw")); // the lab's own
        fs::create_dir_all(FOLDER)?;
    }
    let context = container.get("securityContext").context("a security context")?;
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NODE_NAME=node", "POD_NAMESPACE=security"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": context.get("allowPrivilegeEscalation") == Some(&Value::from(false)),
        },
        "root": {"path": ROOT, "readonly": context.get("readOnlyRootFilesystem") == Some(&Value::from(true))},
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "cgroup"}],
            "cgroupsPath": format!("/pod-{name}"),
            "seccomp": seccomp,
            "maskedPaths": [
                "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    fs::write(dir.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
    let script = dir.join("run");
    fs::write(&script, format!("#!/bin/sh\nexec runc run --bundle {} {name}\n", dir.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}
