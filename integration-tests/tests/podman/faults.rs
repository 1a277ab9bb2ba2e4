//! What becomes of podman's containers when the daemon is not as it should be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::outcome::{Outcome, PROTECTED, RECORDED, REFUSED, STARTS};
use lab::page::Table;
use lab::podman::{IMAGE, PROGRAM, Version};
use lab::stand_in::{Behaviour, slow, stand_in};
use nix::sys::signal::Signal;

use crate::{FORGED, HOSTILE, Node, PATIENCE, RMDIR, ends, soon};

const TABLE: Table = Table {
    page: "nri-plugin/hook/README.md",
    begin: "<!-- the table that integration-tests/tests/podman measures -->\n",
    end: "<!-- end of podman's table -->",
};
/// How long the hook waits, in milliseconds, where it waits in vain.
const SHORT: u64 = 1_500;

/// What has become of containers so far.
struct Matrix {
    node: Node,
    table: String,
    wrong: Vec<String>,
    recorded: usize,
    /// The hook's, in milliseconds.
    patience: u64,
}

impl Matrix {
    /// Starts one that is created, and says what became of it.
    fn start(&mut self, name: &str, wanted: Outcome) -> Result<Outcome> {
        let output = self.node.podman.run(&["start", "-a", name])?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let now = || self.node.recorded();
        if wanted == RECORDED {
            soon("it is recorded", || now().is_ok_and(|now| now > self.recorded))?;
        }
        let (before, now) = (self.recorded, now()?);
        self.recorded = before.max(now);
        let recorded = now > before;
        if !output.status.success() {
            ensure!(
                err.contains("nri-enforcer-hook: ") && err.contains("must not start"),
                "another error: {err}"
            );
            ensure!(!recorded, "recorded, and refused: {err}");
            return Ok(REFUSED);
        }
        match ends(&out, [RMDIR])?[0].as_str() {
            "errno 95" => Ok(PROTECTED),
            "errno 2" => Ok(Outcome::Unprotected { recorded }),
            other => bail!("{other}\n{err}"),
        }
    }

    fn created(&self, number: usize) -> Result<[String; 4]> {
        let names = ["closed", "open", "forged", "exempt"].map(|name| format!("{name}-{number}"));
        for (name, image) in names.iter().zip([IMAGE, IMAGE, HOSTILE, IMAGE]) {
            self.node.podman(&["create", "--name", name, "-l", "app=web", image, PROGRAM, RMDIR])?;
        }
        Ok(names)
    }

    fn row(&mut self, what: &str, names: [String; 4], wanted: [Outcome; 3]) -> Result<()> {
        let [closed, open, forged] = wanted;
        let wanted = [closed, open, forged, STARTS];
        let mut found = wanted;
        let cells = names.iter().zip(GATES).zip(found.iter_mut());
        for ((name, (mode, exempt)), cell) in cells {
            self.node.configure(mode, exempt, self.patience)?;
            *cell = self.start(name, *cell).with_context(|| format!("{what}: {name}"))?;
        }
        if found != wanted {
            self.wrong.push(format!("{what}: {found:?}, not {wanted:?}"));
        }
        self.table.push_str(&format!("| {what} | {} |\n", found.map(Outcome::text).join(" | ")));
        Ok(())
    }
}

/// How the hook is configured for each column of the table.
const GATES: [(&str, &[&str]); 4] = [
    ("closed", &["kube-system"]),
    ("open", &["kube-system"]),
    ("closed", &["kube-system"]),
    ("closed", &["kube-system", "default"]),
];

#[test]
fn what_becomes_of_containers_when_the_daemon_is_not_as_it_should_be() -> Result<()> {
    matrix(Version::V4)
}

#[test]
fn what_becomes_of_podman_5s_containers_when_the_daemon_is_not_as_it_should_be() -> Result<()> {
    matrix(Version::V5)
}

fn matrix(version: Version) -> Result<()> {
    let table = "| the daemon | mode `closed` | mode `open` | `closed`, an image that says it is exempt | `closed`, `default` exempt |\n\
        |---|---|---|---|---|\n";
    let node = Node::new(version)?;
    node.podman.build(HOSTILE, &FORGED)?;
    let mut matrix = Matrix { node, table: table.into(), wrong: Vec::new(), recorded: 0, patience: PATIENCE };
    let mut created = (0..12).map(|number| matrix.created(number)).collect::<Result<Vec<_>>>()?.into_iter();
    let mut next = || created.next().context("a row more than containers");
    let (good, bad) = ([PROTECTED; 3], [REFUSED, RECORDED, REFUSED]);
    let socket = matrix.node.socket();

    matrix.row("answers", next()?, good)?;
    for (what, patience, millis, wanted) in [
        ("answers just before the hook's deadline", PATIENCE, PATIENCE * 7 / 10, good),
        ("answers after the hook's deadline", SHORT, SHORT * 3 / 2, bad),
    ] {
        let stop = slow(&socket, Duration::from_millis(millis))?;
        matrix.patience = patience;
        matrix.row(what, next()?, wanted)?;
        stop()?;
    }
    matrix.patience = PATIENCE;
    let (storage, elsewhere) = (matrix.node.podman.storage(), matrix.node.dir.path().join("elsewhere"));
    matrix.node.restart_with(&elsewhere)?;
    matrix.row("does not find the container in podman's files", next()?, bad)?;
    // it lives, and tells what the hook let through all the same
    soon("the records are taken", || matrix.node.waiting() == 0)?;
    matrix.node.restart_with(&storage)?;
    matrix.node.daemon.signal(Signal::SIGSTOP)?;
    matrix.patience = SHORT;
    matrix.row("hangs (SIGSTOP)", next()?, bad)?;
    matrix.patience = PATIENCE;
    matrix.node.daemon.end(Signal::SIGKILL)?;
    matrix.row("was killed after the container's creation", next()?, bad)?;
    fs::remove_file(&socket)?;
    matrix.row("is not there, nor its socket", next()?, bad)?;
    others_in_its_place(&mut matrix, &mut next, bad)?;
    // it begins, and does not come to its gate
    matrix.node.daemon.spawn()?;
    matrix.node.daemon.signal(Signal::SIGSTOP)?;
    ensure!(!socket.exists(), "it was faster than the signal");
    matrix.row("is starting", next()?, bad)?;
    matrix.node.daemon.signal(Signal::SIGCONT)?;
    soon("the gate opens", || socket.exists())?;
    matrix.row("is there again", next()?, good)?;
    soon("each is told", || {
        matrix.node.waiting() == 0 && matrix.node.told().is_ok_and(|told| told == matrix.recorded)
    })?;

    ensure!(matrix.wrong.is_empty(), "{}", matrix.wrong.join("\n"));
    TABLE.compare(&matrix.table)
}

/// The daemon is dead.
fn others_in_its_place(
    matrix: &mut Matrix,
    mut next: impl FnMut() -> Result<[String; 4]>,
    wanted: [Outcome; 3],
) -> Result<()> {
    let socket = matrix.node.socket();
    // another user's program must be one that it may reach
    let above = socket.parent().and_then(Path::parent).context("a directory")?;
    fs::set_permissions(above, fs::Permissions::from_mode(0o755))?;
    let program = above.join("listener");
    // by a process of its own: what another test starts just now would inherit the descriptor that writes it
    let copied = Command::new("cp").arg(std::env::current_exe()?).arg(&program).status()?;
    ensure!(copied.success(), "cp");
    for (what, behaviour) in [
        ("is dead, and another user's program says `armed` at its socket", Behaviour::Nobody),
        ("is dead, and something sends garbage at its socket", Behaviour::Garbage),
        ("is dead, and something is silent at its socket", Behaviour::Silent),
    ] {
        let stop = stand_in(&socket, &program, behaviour)?;
        matrix.patience = if behaviour == Behaviour::Silent { SHORT } else { PATIENCE };
        matrix.row(what, next()?, wanted)?;
        stop()?;
    }
    matrix.patience = PATIENCE;
    Ok(())
}
