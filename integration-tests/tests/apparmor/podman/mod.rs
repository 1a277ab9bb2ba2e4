//! Profiles of podman's containers, in the guest of [`super::node`]: podman itself is this machine's, its runc the guest's.

mod corpus;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use lab::node::Daemon;
use lab::testing::Node;
use lab::{cache, image};
use nix::sys::signal::Signal;

pub(super) use self::corpus::compared;
use super::node::POLICY;

const PODMAN: &str = "/opt/podman/bin/podman";
const IMAGE: &str = "localhost/visit:1";
/// Puts podman together from what came with the job, and the daemon's hook into its place.
const SETUP: &str = r#"set -e
mkdir -p /opt/podman /etc/containers /usr/share/containers /var/tmp
tar -xf podman.tar -C /opt/podman
for file in /opt/podman/lib/*; do # newer ones stay
  there=/usr/lib/x86_64-linux-gnu/${file##*/}; [ -e "$there" ] || cp -a "$file" "$there"
done
cp /opt/podman/seccomp.json /usr/share/containers/
cat >/etc/containers/containers.conf <<X
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
conmon_path = ["/opt/podman/bin/conmon"]
[containers]
netns = "none"
X
cat >/etc/containers/storage.conf <<X
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
X
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
chmod 755 hook
./nri-enforcer install --runtime podman --hook "$PWD/hook"
# a profile takes an emulated machine longer than a second
sed -i "s/{/{\"deadlineMillis\": 5000, /" /opt/nri-enforcer/nri-enforcer-hook.json"#;

/// podman and its libraries in one file, those of this machine among them.
pub(super) fn packed() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("podman.tar");
    let script = r#"set -e
libraries=$(LD_LIBRARY_PATH=$1/lib ldd "$1/bin/podman" "$1/bin/conmon" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u)
tar -chf "$2" --transform 's,.*/lib/,lib/,;s,.*/x86_64-linux-gnu/,lib/,' -C "$1" bin seccomp.json $libraries"#;
    let made = Command::new("bash")
        .args(["-c", script, "bash"])
        .arg(cache::artefact("podman")?)
        .arg(&path)
        .output()?;
    ensure!(made.status.success(), "podman is not packed: {}", String::from_utf8_lossy(&made.stderr));
    Ok(path)
}

/// What a program says that reads this.
fn said(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let output = run(program, arguments, input)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {complaint}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a program that reads this.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run `{program}`"))?;
    // one that does not start reads nothing
    let _unread = child.stdin.take().context("no input")?.write_all(input.as_bytes());
    Ok(child.wait_with_output()?)
}

fn podman(arguments: &[&str], input: &str) -> Result<String> {
    said(PODMAN, arguments, input)
}

fn import() -> Result<()> {
    let mut tar = tar::Builder::new(Vec::new());
    let files: [(&str, &[u8], u32); 3] = [
        ("visit", image::VISIT, 0o755),
        ("etc/passwd", b"root:x:0:0::/:/visit\n", 0o644),
        ("etc/hosts.txt", b"x", 0o644),
    ];
    for (path, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len().try_into()?);
        header.set_mode(mode);
        tar.append_data(&mut header, path, content)?;
    }
    fs::write("visit.tar", tar.into_inner()?)?;
    podman(&["import", "-q", "visit.tar", IMAGE], "").map(drop)
}

/// A container that policies select is given a profile of its own; nothing else is.
pub(super) async fn containers(node: &mut Node, daemon: &mut Daemon) -> Result<()> {
    said("sh", &["-c", SETUP], "")?;
    import()?;
    daemon.end(Signal::SIGTERM)?;
    daemon.write_policy("policy.yaml", POLICY)?;
    daemon.start().await?;
    let lines = "read /etc/passwd\nread /etc/hosts.txt\n";
    let run = ["run", "--rm", "-i"];
    let selected = ["--label", "app=my-web-app", IMAGE, "/visit"];
    let answers = podman(&[&run[..], &selected].concat(), lines)?;
    node.check("a container of podman's that policies select", answers.as_str(), "13\n0");
    let label = podman(&[&run[..], &selected, &["label"]].concat(), "")?;
    let own = label.starts_with("nri-enforcer.podman_.") && label.ends_with(" (enforce)");
    node.check("its profile is its own", own, true);
    let answers = podman(&[&run[..], &[IMAGE, "/visit"]].concat(), lines)?;
    node.check("one that no policy selects", answers.as_str(), "0\n0");

    podman(&[&["run", "-d", "-i", "--name", "idle"][..], &selected].concat(), "")?;
    let label = podman(&["exec", "idle", "/visit", "label"], "")?;
    node.check(
        "what enters by exec has podman's own, as documented",
        label.starts_with("nri-enforcer."),
        false,
    );
    podman(&["rm", "-f", "-t", "0", "idle"], "").map(drop)
}
