//! The OCI hook on a real containerd: what becomes of a container when the daemon is not as it should be, and that a
//! daemon that dies between create and start leaves nothing unprotected. The table of results is in the hook's readme.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::node::{Alert, Container, Daemon, Options, RunningContainer, RunningPod};
use lab::outcome::{self, LATE, Outcome, PROTECTED, RECORDED, REFUSED, STARTS};
use lab::page::Table;
use lab::run::{DAEMON_FILE, DAEMON_FOLDER, hook};
use lab::stand_in::{Behaviour, listen, slow, stand_in};
use lab::testing::{Node, in_guest_with};
use lab::vm::{Containerd, Kernel, Spec};
use nix::sys::signal::Signal;

const POLICY: &str = include_str!("../../examples/policies/block-etc-passwd-read.yaml");
const TABLE: Table = Table {
    page: "nri-plugin/hook/README.md",
    begin: "<!-- the table that integration-tests/tests/gate.rs measures -->\n",
    end: "<!-- end of the table -->",
};
/// What the policy selects.
const LABEL: (&str, &str) = ("app", "my-web-app");
/// The hook as an administrator installs it for every container.
const STATIC: &str = "/run/hook/nri-enforcer-hook";
/// Where the daemon looks for the hook that it puts into containers. There is none until the test puts it there.
const HOOK: &str = "/run/lab-daemon/hook/nri-enforcer-hook";
const SOCKET: &str = "/run/nri-enforcer/gate.sock";
const SPOOL: &str = "/var/lib/nri-enforcer/open-starts";
/// The runtime's socket of NRI.
const NRI: &str = "/var/run/nri/nri.sock";
/// The daemon's socket of NRI after its restart.
const LATE_NRI: &str = "/run/late-nri.sock";
/// How long the hook waits, in milliseconds: the most there is, since an emulated machine is slower than a node.
const PATIENCE: u64 = 5_000;
/// The same where it waits in vain.
const SHORT: u64 = 2_000;

#[test]
fn gate_linux_6_1_containerd_1_7() -> Result<()> {
    gate("gate_linux_6_1_containerd_1_7", Kernel::V6_1, Containerd::V1_7)
}

#[test]
fn gate_linux_6_12_containerd_2_1() -> Result<()> {
    gate("gate_linux_6_12_containerd_2_1", Kernel::V6_12, Containerd::V2_1)
}

fn gate(name: &str, kernel: Kernel, containerd: Containerd) -> Result<()> {
    let spec = Spec::node(kernel, containerd);
    let said = in_guest_with(name, &spec, true, &[("hook", hook)], |node| Box::pin(matrix(node)))?;
    said.map_or(Ok(()), |said| TABLE.compare(TABLE.said(&said)?))
}

/// The pods of the matrix, and what was found.
struct Matrix {
    web: RunningPod,
    system: RunningPod,
    count: u32,
    table: String,
    recorded: usize,
    /// The hook's, in milliseconds.
    patience: u64,
}

/// Three containers that are created and not started: for a shut gate, an open one, and of an exempt namespace.
struct Created([RunningContainer; 3]);

impl Matrix {
    async fn create(&mut self, node: &Node) -> Result<Created> {
        self.count += 1;
        let (count, container) = (self.count, |name| Container::new(name, &["/bin/first"]));
        let closed = node.cri.create(&self.web, &container("closed"), count).await?;
        let open = node.cri.create(&self.web, &container("open"), count).await?;
        Ok(Created([closed, open, node.cri.create(&self.system, &container("exempt"), count).await?]))
    }

    /// One more container of the pod that the policy selects.
    async fn one(&self, node: &Node, name: &str) -> Result<RunningContainer> {
        Ok(node.cri.create(&self.web, &Container::new(name, &["/bin/first"]), 0).await?)
    }

    fn mode(&self, mode: &str) -> Result<()> {
        configure(STATIC, mode, &["kube-system"], self.patience)
    }

    /// Starts the three, and notes what became of them.
    async fn row(
        &mut self,
        node: &mut Node,
        what: &str,
        created: Created,
        wanted: [Outcome; 3],
    ) -> Result<()> {
        let Created([closed, open, exempt]) = created;
        self.mode("closed")?;
        let (closed, exempt) = tokio::join!(start(node, &closed), start(node, &exempt));
        ensure!(records(node)? <= self.recorded, "{what}: recorded without need");
        self.mode("open")?;
        let open = start(node, &open).await?;
        if matches!(wanted[1], RECORDED | LATE) {
            soon("it is recorded", || records(node).is_ok_and(|now| now > self.recorded)).await?;
        }
        let now = records(node)?;
        let open = match (open, now > self.recorded) {
            (STARTS, recorded) => Outcome::Unprotected { recorded },
            (PROTECTED, true) => LATE,
            (other, recorded) => {
                ensure!(!recorded, "{what}: recorded without need");
                other
            }
        };
        self.recorded = self.recorded.max(now);
        let found = [closed?, open, exempt?];
        node.check(what, found, wanted);
        let [closed, open, exempt] = found.map(Outcome::text);
        self.table.push_str(&format!("| {what} | {closed} | {open} | {exempt} |\n"));
        Ok(())
    }

    /// The same for containers that are created now.
    async fn new_row(&mut self, node: &mut Node, what: &str, wanted: [Outcome; 3]) -> Result<()> {
        let created = self.create(node).await?;
        self.row(node, what, created, wanted).await
    }
}

/// One daemon for what becomes of it, and another one for its return: loading the programs takes longer than all else.
async fn matrix(node: &mut Node) -> Result<()> {
    install()?;
    configure(STATIC, "closed", &["kube-system"], PATIENCE)?;
    let connections = in_service(node);
    node.runtime.kill()?;
    node.runtime.start()?;
    node.cri = node.runtime.cri().await?;
    soon("the daemon is connected again", || in_service(node) > connections).await?;
    // also in the exempt namespace: what starts there does so for no other reason
    let exempt = POLICY.replace("namespace: default", "namespace: kube-system");
    ensure!(exempt != POLICY, "the policy has another namespace");
    node.daemon.apply("policy.yaml", &format!("{POLICY}\n---\n{exempt}")).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let system = node.pod("kube-system", "web", &[LABEL]).await?;
    let table =
        "| the daemon | mode `closed` | mode `open` | exempt namespace |\n|---|---|---|---|\n".to_owned();
    let mut matrix = Matrix { web, system, count: 0, table, recorded: 0, patience: PATIENCE };

    its_answers(node, &mut matrix).await?;
    let (hangs, dies) = (matrix.create(node).await?, matrix.create(node).await?);
    node.daemon.signal(Signal::SIGSTOP)?;
    matrix.patience = SHORT;
    matrix.row(node, "hangs (SIGSTOP)", hangs, [REFUSED, RECORDED, STARTS]).await?;
    matrix.patience = PATIENCE;
    dropped(node, &mut matrix).await?;
    node.daemon.end(Signal::SIGKILL)?;
    matrix.row(node, "was killed after the container's creation", dies, [REFUSED, RECORDED, STARTS]).await?;
    others_in_its_place(node, &mut matrix).await?;
    its_return(node, &mut matrix).await?;
    its_own_hook(node, &mut matrix).await?;
    TABLE.say(&matrix.table);
    Ok(())
}

/// In time and too late.
async fn its_answers(node: &mut Node, matrix: &mut Matrix) -> Result<()> {
    matrix.new_row(node, "answers", [PROTECTED, PROTECTED, STARTS]).await?;
    node.check("it was the hook that armed them", passed(node), 2);
    for (what, patience, millis, wanted) in [
        (
            "answers just before the hook's deadline",
            PATIENCE,
            PATIENCE * 7 / 10,
            [PROTECTED, PROTECTED, STARTS],
        ),
        ("answers after the hook's deadline", SHORT, SHORT * 3 / 2, [REFUSED, LATE, STARTS]),
    ] {
        let created = matrix.create(node).await?;
        let stop = slow(Path::new(SOCKET), Duration::from_millis(millis))?;
        matrix.patience = patience;
        matrix.row(node, what, created, wanted).await?;
        stop()?;
    }
    matrix.patience = PATIENCE;
    // it lives, and tells what the hook let through all the same
    all_told(node, matrix).await
}

/// How many containers the daemon has armed before their root changed.
fn passed(node: &Node) -> usize {
    node.daemon.whole_log().matches("let through the gate").count()
}

/// Waits until the daemon has told what the hook let through.
async fn all_told(node: &Node, matrix: &Matrix) -> Result<()> {
    soon("what was recorded is told", || told(node).is_ok_and(|told| told == matrix.recorded)).await
}

/// It hung for longer than the runtime waits for a plugin, and was dropped. It goes on now, and cannot connect again.
async fn dropped(node: &mut Node, matrix: &mut Matrix) -> Result<()> {
    let away = format!("{NRI}.away");
    fs::rename(NRI, &away)?;
    let lost = |node: &Node| node.daemon.whole_log().matches("no connection to the runtime").count();
    let before = lost(node);
    node.daemon.signal(Signal::SIGCONT)?;
    soon("the daemon finds that it was dropped", || lost(node) > before).await?;
    let what = "was dropped by the runtime, and has no connection since";
    matrix.new_row(node, what, [REFUSED, RECORDED, STARTS]).await?;
    let meanwhile = matrix.one(node, "meanwhile").await?;
    let connections = in_service(node);
    fs::rename(&away, NRI)?;
    soon("the daemon is connected again", || in_service(node) > connections).await?;
    matrix.mode("closed")?;
    let found = start(node, &meanwhile).await?;
    node.check("one created while it had no connection, and started now", found, PROTECTED);
    all_told(node, matrix).await
}

/// The daemon is dead.
async fn others_in_its_place(node: &mut Node, matrix: &mut Matrix) -> Result<()> {
    fs::remove_file(SOCKET).context("the socket of a killed daemon")?;
    matrix.new_row(node, "is not there, nor its socket", [REFUSED, RECORDED, STARTS]).await?;
    for (what, behaviour) in [
        ("is dead, and another user's program says `armed` at its socket", Behaviour::Nobody),
        ("is dead, and something sends garbage at its socket", Behaviour::Garbage),
        ("is dead, and something is silent at its socket", Behaviour::Silent),
    ] {
        let stop = stand_in(Path::new(SOCKET), Path::new("/proc/self/exe"), behaviour)?;
        matrix.patience = if behaviour == Behaviour::Silent { SHORT } else { PATIENCE };
        matrix.new_row(node, what, [REFUSED, RECORDED, STARTS]).await?;
        stop()?;
    }
    matrix.patience = PATIENCE;
    Ok(())
}

/// The daemon comes back, at first without the runtime.
async fn its_return(node: &mut Node, matrix: &mut Matrix) -> Result<()> {
    let back = matrix.one(node, "back").await?;
    let folder = Path::new(DAEMON_FOLDER);
    let arguments = ["--nri-socket", LATE_NRI, "--hook", HOOK].map(str::to_owned).to_vec();
    let options = Options { program: folder.join(DAEMON_FILE), arguments, ..Options::default() };
    node.daemon = Daemon::new(folder, options)?;
    node.daemon.spawn()?;
    matrix.new_row(node, "is starting", [REFUSED, RECORDED, STARTS]).await?;
    soon("the gate opens", || Path::new(SOCKET).exists()).await?;
    matrix.new_row(node, "runs, and has no connection to the runtime", [REFUSED, RECORDED, STARTS]).await?;
    symlink(NRI, LATE_NRI)?;
    node.daemon.wait_until_ready().await?;
    all_told(node, matrix).await?;
    let alerts = node.daemon.alerts().await?;
    let mut open = alerts.iter().filter(|alert| alert["Data"] == "notice=open");
    node.check("its pod is told", open.all(|alert| alert["PodName"] == "web"), true);
    matrix.mode("closed")?;
    let found = start(node, &back).await?;
    node.check("one created while the daemon was dead, and started now", found, PROTECTED);
    Ok(())
}

/// What the daemon itself gives the hook to. (The one that every container has lets these pass.)
async fn its_own_hook(node: &mut Node, matrix: &mut Matrix) -> Result<()> {
    configure(STATIC, "closed", &["kube-system", "default"], PATIENCE)?;
    let without = matrix.one(node, "without").await?;
    let told = |alert: &Alert| alert["Data"] == "notice=without-hook" && alert["ContainerName"] == "without";
    let alerts = node.daemon.wait_for_alert(Duration::from_secs(10), told).await?;
    node.check("its lack of a hook is told", alerts.iter().filter(|alert| told(alert)).count(), 1);
    fs::create_dir(Path::new(HOOK).parent().context("a directory")?)?;
    fs::copy(STATIC, HOOK)?;
    configure(HOOK, "closed", &["kube-system"], PATIENCE)?;
    let (answered, died) = (matrix.one(node, "answered").await?, matrix.one(node, "died").await?);
    let before = passed(node);
    let found = start(node, &answered).await?;
    node.check("hook by NRI: the daemon answers", (found, passed(node) - before), (PROTECTED, 1));
    node.daemon.end(Signal::SIGKILL)?;
    let found = start(node, &died).await?;
    node.check("hook by NRI: the daemon died between create and start", found, REFUSED);
    let found = start(node, &without).await?;
    node.check("without a hook, as documented", found, STARTS);
    Ok(())
}

/// Starts a container, and says what became of it.
async fn start(node: &Node, container: &RunningContainer) -> Result<Outcome> {
    if let Err(status) = node.cri.start(container).await {
        let told = status.message();
        ensure!(
            told.contains("nri-enforcer-hook: ") && told.contains("must not start"),
            "another error: {told}"
        );
        return Ok(REFUSED);
    }
    let state = node.cri.wait(container, Duration::from_secs(60)).await?.context("it does not end")?;
    match state.exit {
        Some(0) => Ok(STARTS),
        Some(13) => Ok(PROTECTED),
        other => bail!("it ended with {other:?} ({})", state.reason),
    }
}

/// Puts the hook into the runtime's base specification, so that every container has it.
fn install() -> Result<()> {
    fs::create_dir("/run/hook")?;
    fs::copy("hook", STATIC)?;
    let output = Command::new("ctr").args(["oci", "spec"]).output()?;
    let mut spec: serde_json::Value = serde_json::from_slice(&output.stdout).context("ctr oci spec")?;
    let hook = |stage: &str| serde_json::json!([{"path": STATIC, "args": [STATIC, stage], "timeout": 10}]);
    let hooks = serde_json::json!({"createRuntime": hook("createRuntime"), "poststop": hook("poststop")});
    spec.as_object_mut().context("ctr oci spec")?.insert("hooks".into(), hooks);
    fs::write("/etc/containerd/base.json", spec.to_string())?;
    let path = "/etc/containerd/config.toml";
    let config = fs::read_to_string(path)?;
    let plugin = match config.starts_with("version = 2") {
        true => "io.containerd.grpc.v1.cri",
        false => "io.containerd.cri.v1.runtime",
    };
    let runtime = format!(
        "\n[plugins.\"{plugin}\".containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n  \
         base_runtime_spec = \"/etc/containerd/base.json\"\n"
    );
    let config = config.replace("plugin_request_timeout = \"10s\"", "plugin_request_timeout = \"4s\"");
    Ok(fs::write(path, config + &runtime)?)
}

fn configure(hook: &str, mode: &str, exempt: &[&str], patience: u64) -> Result<()> {
    let config = serde_json::json!({"mode": mode, "exemptNamespaces": exempt, "deadlineMillis": patience});
    Ok(fs::write(format!("{hook}.json"), config.to_string())?)
}

/// How many open starts are told.
fn told(node: &Node) -> Result<usize> {
    Ok(outcome::told(&node.daemon.alerts_now()?).len())
}

/// How many were recorded so far.
fn records(node: &Node) -> Result<usize> {
    Ok(outcome::recorded(SPOOL.as_ref(), &node.daemon.alerts_now()?)?.len())
}

fn in_service(node: &Node) -> usize {
    node.daemon.whole_log().matches("in service").count()
}

async fn soon(what: &str, done: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !done() {
        ensure!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Not a test by itself: another user's program, which answers what the daemon would.
#[test]
fn listener() -> Result<()> {
    listen()
}
