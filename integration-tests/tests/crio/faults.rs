//! What becomes of CRI-O's containers when the daemon is not as it should be, with the hook that `install --runtime crio` puts into
//! each. CRI-O runs it while it creates a container, not when it starts one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::node::{Container, Daemon, Options, Pod, RunningContainer, RunningPod};
use lab::outcome::{self, LATE, Outcome, PROTECTED, RECORDED, REFUSED, STARTS};
use lab::page::Table;
use lab::run::{DAEMON_FILE, DAEMON_FOLDER};
use lab::stand_in::{Behaviour, slow, stand_in};
use lab::testing::Node;
use nix::sys::signal::Signal;

use super::{
    GATE, LABEL, NRI, POLICY, SPOOL, configure, first_creation, in_service, install, passed, soon, told,
};

/// What this measures.
pub const TABLE: Table = Table {
    page: "nri-plugin/hook/README.md",
    begin: "<!-- the table that integration-tests/tests/crio measures -->\n",
    end: "<!-- end of CRI-O's table -->",
};
/// The daemon's socket of NRI after its restart.
const LATE_NRI: &str = "/run/late-nri.sock";
/// How long the hook waits, in milliseconds: the most there is, since an emulated machine is slower than a node.
const PATIENCE: u64 = 5_000;
/// The same where it waits in vain.
const SHORT: u64 = 2_000;

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

impl Matrix {
    /// Creates one, or says that the hook refused it.
    async fn create(&self, node: &Node, pod: &RunningPod, name: &str) -> Result<Option<RunningContainer>> {
        match node.cri.create(pod, &Container::new(name, &["/bin/first"]), self.count).await {
            Ok(created) => Ok(Some(created)),
            Err(status) => {
                let told = status.message();
                let hooks = told.contains("nri-enforcer-hook: ") && told.contains("must not start");
                ensure!(hooks, "another error: {told}");
                Ok(None)
            }
        }
    }

    async fn run(&self, node: &Node, pod: &RunningPod, name: &str) -> Result<Outcome> {
        match self.create(node, pod, name).await? {
            Some(created) => start(node, &created).await,
            None => Ok(REFUSED),
        }
    }

    /// Creates and starts one for a shut gate, one of an exempt namespace, and one for an open gate.
    async fn row(&mut self, node: &mut Node, what: &str, wanted: [Outcome; 3]) -> Result<()> {
        self.count += 1;
        configure("closed", self.patience)?;
        let closed = self.run(node, &self.web, "closed").await.with_context(|| format!("{what}: closed"))?;
        let exempt =
            self.run(node, &self.system, "exempt").await.with_context(|| format!("{what}: exempt"))?;
        ensure!(records(node)? <= self.recorded, "{what}: recorded without need");
        configure("open", self.patience)?;
        let open = self.run(node, &self.web, "open").await.with_context(|| format!("{what}: open"))?;
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
        self.note(node, what, [closed, open, exempt], wanted);
        Ok(())
    }

    fn note(&mut self, node: &mut Node, what: &str, found: [Outcome; 3], wanted: [Outcome; 3]) {
        node.check(what, found, wanted);
        let [closed, open, exempt] = found.map(Outcome::text);
        self.table.push_str(&format!("| {what} | {closed} | {open} | {exempt} |\n"));
    }
}

/// One daemon for what becomes of it, and another one for its return.
pub async fn matrix(node: &mut Node) -> Result<()> {
    install(node)?;
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
    its_end(node, &mut matrix).await?;
    others_in_its_place(node, &mut matrix).await?;
    its_return(node, &mut matrix).await?;
    TABLE.say(&matrix.table);
    Ok(())
}

/// In time and too late.
async fn its_answers(node: &mut Node, matrix: &mut Matrix) -> Result<()> {
    let before = passed(node);
    matrix.row(node, "answers", [PROTECTED, PROTECTED, STARTS]).await?;
    node.check("it was the hook that armed them", passed(node) - before, 2);
    for (what, patience, millis, wanted) in [
        (
            "answers just before the hook's deadline",
            PATIENCE,
            PATIENCE * 7 / 10,
            [PROTECTED, PROTECTED, STARTS],
        ),
        ("answers after the hook's deadline", SHORT, SHORT * 3 / 2, [REFUSED, LATE, STARTS]),
    ] {
        let stop = slow(Path::new(GATE), Duration::from_millis(millis))?;
        matrix.patience = patience;
        matrix.row(node, what, wanted).await?;
        stop()?;
    }
    matrix.patience = PATIENCE;
    // it lives, and tells what the hook let through all the same
    all_told(node, matrix).await
}

/// Waits until the daemon has told what the hook let through.
async fn all_told(node: &Node, matrix: &Matrix) -> Result<()> {
    soon("what was recorded is told", || told(node).is_ok_and(|told| told == matrix.recorded)).await
}

/// It hangs, is dropped, goes on without a connection, and is killed.
async fn its_end(node: &mut Node, matrix: &mut Matrix) -> Result<()> {
    node.daemon.signal(Signal::SIGSTOP)?;
    first_creation(node, &matrix.system, "hangs", 0).await?;
    matrix.patience = SHORT;
    matrix.row(node, "hangs (SIGSTOP)", [REFUSED, RECORDED, STARTS]).await?;
    matrix.patience = PATIENCE;
    let away = format!("{NRI}.away");
    fs::rename(NRI, &away)?;
    let lost = |node: &Node| node.daemon.whole_log().matches("no connection to the runtime").count();
    let before = lost(node);
    node.daemon.signal(Signal::SIGCONT)?;
    soon("the daemon finds that it was dropped", || lost(node) > before).await?;
    let what = "was dropped by the runtime, and has no connection since";
    matrix.row(node, what, [REFUSED, RECORDED, STARTS]).await?;
    let connections = in_service(node);
    fs::rename(&away, NRI)?;
    soon("the daemon is connected again", || in_service(node) > connections).await?;
    all_told(node, matrix).await?;
    configure("closed", PATIENCE)?;
    matrix.count += 1;
    let mut created = Vec::new();
    for (pod, name) in [(&matrix.web, "closed"), (&matrix.web, "open"), (&matrix.system, "exempt")] {
        created.push(matrix.create(node, pod, name).await?.context("it was refused")?);
    }
    node.daemon.end(Signal::SIGKILL)?;
    let mut found = [STARTS; 3];
    for (one, created) in found.iter_mut().zip(&created) {
        *one = start(node, created).await?;
    }
    // the hook is run no more
    let what = "was killed after the container's creation";
    matrix.note(node, what, found, [PROTECTED, PROTECTED, STARTS]);
    matrix.row(node, "was killed before it", [REFUSED, RECORDED, STARTS]).await?;
    forged(node, matrix).await
}

/// A pod that writes it into its annotations is neither of an exempt namespace nor what only holds namespaces.
async fn forged(node: &mut Node, matrix: &Matrix) -> Result<()> {
    configure("closed", PATIENCE)?;
    for (key, value) in [
        ("io.kubernetes.cri.sandbox-namespace", "kube-system"),
        ("io.kubernetes.pod.namespace", "kube-system"),
        ("io.kubernetes.cri.container-type", "sandbox"),
        ("io.kubernetes.cri-o.ContainerType", "sandbox"),
    ] {
        let mut pod = Pod::new("forged", &[LABEL], Container::idle("any"));
        pod.annotations = [(key.to_owned(), value.to_owned())].into();
        let pod = node.cri.run_pod(&pod).await?;
        let found = matrix.run(node, &pod, "forged").await.with_context(|| key)?;
        node.check(&format!("a pod that says {key}={value}"), found, REFUSED);
        node.cri.remove_pod(&pod).await?;
    }
    Ok(())
}

/// The daemon is dead.
async fn others_in_its_place(node: &mut Node, matrix: &mut Matrix) -> Result<()> {
    fs::remove_file(GATE).context("the socket of a killed daemon")?;
    matrix.row(node, "is not there, nor its socket", [REFUSED, RECORDED, STARTS]).await?;
    for (what, behaviour) in [
        ("is dead, and another user's program says `armed` at its socket", Behaviour::Nobody),
        ("is dead, and something sends garbage at its socket", Behaviour::Garbage),
        ("is dead, and something is silent at its socket", Behaviour::Silent),
    ] {
        let stop = stand_in(Path::new(GATE), Path::new("/proc/self/exe"), behaviour)?;
        matrix.patience = if behaviour == Behaviour::Silent { SHORT } else { PATIENCE };
        matrix.row(node, what, [REFUSED, RECORDED, STARTS]).await?;
        stop()?;
    }
    matrix.patience = PATIENCE;
    Ok(())
}

/// The daemon comes back, at first without the runtime.
async fn its_return(node: &mut Node, matrix: &mut Matrix) -> Result<()> {
    let folder = Path::new(DAEMON_FOLDER);
    let arguments = ["--nri-socket", LATE_NRI].map(str::to_owned).to_vec();
    let options = Options { program: folder.join(DAEMON_FILE), arguments, ..Options::default() };
    node.daemon = Daemon::new(folder, options)?;
    node.daemon.spawn()?;
    matrix.row(node, "is starting", [REFUSED, RECORDED, STARTS]).await?;
    soon("the gate opens", || Path::new(GATE).exists()).await?;
    matrix.row(node, "runs, and has no connection to the runtime", [REFUSED, RECORDED, STARTS]).await?;
    symlink(NRI, LATE_NRI)?;
    node.daemon.wait_until_ready().await?;
    all_told(node, matrix).await?;
    matrix.row(node, "is there again", [PROTECTED, PROTECTED, STARTS]).await
}

/// Starts one that was created, and says what became of it.
async fn start(node: &Node, container: &RunningContainer) -> Result<Outcome> {
    node.cri.start(container).await?;
    let state = node.cri.wait(container, Duration::from_secs(60)).await?.context("it does not end")?;
    match state.exit {
        Some(0) => Ok(STARTS),
        Some(13) => Ok(PROTECTED),
        other => bail!("it ended with {other:?} ({})", state.reason),
    }
}

/// How many were recorded so far.
fn records(node: &Node) -> Result<usize> {
    Ok(outcome::recorded(SPOOL.as_ref(), &node.daemon.alerts_now()?)?.len())
}
