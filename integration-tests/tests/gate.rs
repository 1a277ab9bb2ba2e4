//! The OCI hook on a real containerd: what becomes of a container when the daemon is not as it should be, and that a
//! daemon that dies between create and start leaves nothing unprotected. The table of results is in the hook's readme.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::node::{Alert, Container, Daemon, Options, RunningContainer, RunningPod};
use lab::run::{DAEMON_FILE, DAEMON_FOLDER, hook};
use lab::stand_in::{Behaviour, listen, stand_in};
use lab::testing::{Node, in_guest_with};
use lab::vm::{Containerd, Kernel, Spec};
use nix::sys::signal::Signal;

const POLICY: &str = include_str!("../../examples/policies/block-etc-passwd-read.yaml");
const README: &str = include_str!("../../nri-plugin/hook/README.md");
const BEGIN: &str = "<!-- the table that integration-tests/tests/gate.rs measures -->\n";
const END: &str = "<!-- end of the table -->";
/// What the policy selects.
const LABEL: (&str, &str) = ("app", "my-web-app");
/// The hook as an administrator installs it for every container.
const STATIC: &str = "/run/hook/nri-enforcer-hook";
/// Where the daemon looks for the hook that it puts into containers. There is none until the test puts it there.
const HOOK: &str = "/run/lab-daemon/hook/nri-enforcer-hook";
const SOCKET: &str = "/run/nri-enforcer/gate.sock";
const SPOOL: &str = "/var/lib/nri-enforcer/open-starts";
/// The daemon's socket of NRI after its restart.
const LATE_NRI: &str = "/run/late-nri.sock";

/// Only what depends on kernel and runtime; with the rest the hook deals alone.
#[test]
fn gate_linux_6_1_containerd_1_7() -> Result<()> {
    let spec = Spec::node(Kernel::V6_1, Containerd::V1_7);
    let name = "gate_linux_6_1_containerd_1_7";
    in_guest_with(name, &spec, true, &[("hook", hook)], |node| Box::pin(matrix(node, false)))
}

#[test]
fn gate_linux_6_12_containerd_2_1() -> Result<()> {
    let spec = Spec::node(Kernel::V6_12, Containerd::V2_1);
    let name = "gate_linux_6_12_containerd_2_1";
    in_guest_with(name, &spec, true, &[("hook", hook)], |node| Box::pin(matrix(node, true)))
}

/// What became of a container whose first instruction opens what the policy denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Protected,
    Refused,
    Unprotected { recorded: bool },
}

impl Outcome {
    fn text(self) -> &'static str {
        match self {
            Self::Protected => "starts under its policies",
            Self::Refused => "**does not start**",
            Self::Unprotected { recorded: true } => "starts unprotected, recorded",
            Self::Unprotected { recorded: false } => "starts",
        }
    }
}

const PROTECTED: Outcome = Outcome::Protected;
const REFUSED: Outcome = Outcome::Refused;
const RECORDED: Outcome = Outcome::Unprotected { recorded: true };
const STARTS: Outcome = Outcome::Unprotected { recorded: false };

/// The pods of the matrix, and what was found.
struct Matrix {
    web: RunningPod,
    system: RunningPod,
    count: u32,
    table: String,
    recorded: usize,
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

    /// Starts the three, and notes what became of them.
    async fn row(
        &mut self,
        node: &mut Node,
        what: &str,
        created: Created,
        wanted: [Outcome; 3],
    ) -> Result<()> {
        let Created([closed, open, exempt]) = created;
        configure(STATIC, "closed", &["kube-system"])?;
        let (closed, exempt) = tokio::join!(start(node, &closed), start(node, &exempt));
        ensure!(records() == self.recorded, "{what}: recorded without need");
        configure(STATIC, "open", &["kube-system"])?;
        let open = match (start(node, &open).await?, records() > self.recorded) {
            (STARTS, recorded) => Outcome::Unprotected { recorded },
            (other, recorded) => {
                ensure!(!recorded, "{what}: recorded without need");
                other
            }
        };
        self.recorded = records();
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

async fn matrix(node: &mut Node, all: bool) -> Result<()> {
    install()?;
    let connections = in_service(node);
    configure(STATIC, "closed", &["kube-system"])?;
    node.daemon.end(Signal::SIGTERM)?;
    node.runtime.kill()?;
    node.runtime.start()?;
    node.cri = node.runtime.cri().await?;
    node.daemon.options_mut().arguments = vec!["--hook".into(), HOOK.into()];
    node.daemon.start().await?;
    soon("the daemon is connected again", || in_service(node) > connections).await?;
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let system = node.pod("kube-system", "web", &[LABEL]).await?;
    let table =
        "| the daemon | mode `closed` | mode `open` | exempt namespace |\n|---|---|---|---|\n".to_owned();
    let mut matrix = Matrix { web, system, count: 0, table, recorded: 0 };

    matrix.new_row(node, "answers", [PROTECTED, PROTECTED, STARTS]).await?;
    node.check("it was the hook that armed them", passed(node), 2);

    let (hangs, dies) = (matrix.create(node).await?, matrix.create(node).await?);
    // What the daemon itself gives the hook to. (The one that every container has lets these pass.)
    let one = |name| Container::new(name, &["/bin/first"]);
    let without = node.cri.create(&matrix.web, &one("without"), 0).await?;
    let told = |alert: &Alert| alert["Data"] == "notice=without-hook" && alert["ContainerName"] == "without";
    let alerts = node.daemon.wait_for_alert(Duration::from_secs(10), told).await?;
    node.check("its lack of a hook is told", alerts.iter().filter(|alert| told(alert)).count(), 1);
    fs::create_dir(Path::new(HOOK).parent().context("a directory")?)?;
    fs::copy(STATIC, HOOK)?;
    configure(HOOK, "closed", &["kube-system"])?;
    let answered = node.cri.create(&matrix.web, &one("answered"), 0).await?;
    let died = node.cri.create(&matrix.web, &one("died"), 0).await?;
    configure(STATIC, "closed", &["kube-system", "default"])?;
    let found = start(node, &answered).await?;
    node.check("hook by NRI: the daemon answers", (found, passed(node)), (PROTECTED, 3));

    if all {
        node.daemon.signal(Signal::SIGSTOP)?;
        matrix.row(node, "hangs (SIGSTOP)", hangs, [REFUSED, RECORDED, STARTS]).await?;
    }
    node.daemon.end(Signal::SIGKILL)?;
    matrix.row(node, "was killed after the container's creation", dies, [REFUSED, RECORDED, STARTS]).await?;
    configure(STATIC, "closed", &["kube-system", "default"])?;
    let found = start(node, &died).await?;
    node.check("hook by NRI: the daemon died between create and start", found, REFUSED);
    let found = start(node, &without).await?;
    node.check("without a hook, as documented", found, STARTS);

    if all {
        others_in_its_place(node, &mut matrix).await?;
        its_return(node, &mut matrix).await?;
    }
    let committed = README.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let (committed, _) = committed.context("the table of nri-plugin/hook/README.md is not there")?;
    let same = match all {
        true => committed == matrix.table,
        false => matrix.table.lines().all(|row| committed.lines().any(|one| one == row)),
    };
    if !same {
        println!("measured:\n{}", matrix.table);
    }
    node.check("the table of nri-plugin/hook/README.md", same, true);
    Ok(())
}

/// How many containers the daemon has armed before their root changed.
fn passed(node: &Node) -> usize {
    node.daemon.whole_log().matches("let through the gate").count()
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
        matrix.new_row(node, what, [REFUSED, RECORDED, STARTS]).await?;
        stop()?;
    }
    Ok(())
}

/// The daemon comes back, at first without the runtime.
async fn its_return(node: &mut Node, matrix: &mut Matrix) -> Result<()> {
    fs::remove_file(HOOK)?;
    let back = node.cri.create(&matrix.web, &Container::new("back", &["/bin/first"]), 0).await?;
    let folder = Path::new(DAEMON_FOLDER);
    let arguments = ["--nri-socket", LATE_NRI].map(str::to_owned).to_vec();
    let options = Options { program: folder.join(DAEMON_FILE), arguments, ..Options::default() };
    node.daemon = Daemon::new(folder, options)?;
    node.daemon.spawn()?;
    matrix.new_row(node, "is starting", [REFUSED, RECORDED, STARTS]).await?;
    let recorded = matrix.recorded;
    soon("the gate opens", || Path::new(SOCKET).exists()).await?;
    soon("the records are taken", || records() == 0).await?;
    matrix.recorded = 0;
    matrix.new_row(node, "runs, and has no connection to the runtime", [REFUSED, RECORDED, STARTS]).await?;
    symlink("/var/run/nri/nri.sock", LATE_NRI)?;
    node.daemon.wait_until_ready().await?;
    let alerts = node.daemon.alerts().await?;
    let open: Vec<_> = alerts.iter().filter(|alert| alert["Data"] == "notice=open").collect();
    node.check("alerts about what started meanwhile", open.len(), recorded);
    node.check("they name the pod", open.iter().all(|alert| alert["PodName"] == "web"), true);
    configure(STATIC, "closed", &["kube-system"])?;
    let found = start(node, &back).await?;
    node.check("one created while the daemon was dead, and started now", found, PROTECTED);
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

fn configure(hook: &str, mode: &str, exempt: &[&str]) -> Result<()> {
    let config = serde_json::json!({"mode": mode, "exemptNamespaces": exempt, "deadlineMillis": 2_000});
    Ok(fs::write(format!("{hook}.json"), config.to_string())?)
}

/// How many open starts are recorded.
fn records() -> usize {
    fs::read_dir(SPOOL).map_or(0, |entries| entries.count())
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
