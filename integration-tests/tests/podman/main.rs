//! podman, Debian's own of two releases, on this machine: its containers are selected by name, label, image and pod, get the profile of
//! their seccomp policies in their configuration, and start only when the daemon says so. What becomes of them when it is
//! not as it should be ([`faults`]) is a table in the hook's readme.

mod faults;

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer_core::enforce::ContainerId;
use lab::node::{Daemon, Options};
use lab::outcome;
use lab::podman::{IMAGE, PROGRAM, Podman, Version};
use lab::run::{Target, hook};
use lab::stand_in::listen;
use lab::vm::{Containerd, Kernel, Spec};
use nix::sys::signal::Signal;

const HOOK_CONFIG: &str = "/opt/nri-enforcer/nri-enforcer-hook.json";

/// How long the hook waits, in milliseconds.
const PATIENCE: u64 = 3_000;

/// What the policies deny, each with an errno of its own; then what podman's own profile denies, and what both allow.
const RMDIR: &str = "64:84:buf";
const SYNC: &str = "64:162";
const PERSONALITY: &str = "64:135:1";
const GETPID: &str = "64:39";

/// Selected by label, name, image, and the label of a pod.
const POLICIES: &str = "
apiVersion: security.kubearmor.com/v1
kind: KubeArmorSeccompPolicy
metadata: {name: by-label}
spec:
  selector: {matchLabels: {app: web}}
  action: Block
  syscalls: ['rmdir:95']
---
apiVersion: security.kubearmor.com/v1
kind: KubeArmorSeccompPolicy
metadata: {name: by-name}
spec:
  selector: {matchLabels: {kubearmor.io/container.name: '[db]'}}
  action: Block
  syscalls: ['rmdir:96']
---
apiVersion: security.kubearmor.com/v1
kind: KubeArmorSeccompPolicy
metadata: {name: by-image}
spec:
  selector: {matchLabels: {nri-enforcer.io/image: localhost_shop_web, nri-enforcer.io/image-tag: v1}}
  action: Block
  syscalls: ['sync:97']
---
apiVersion: security.kubearmor.com/v1
kind: KubeArmorSeccompPolicy
metadata: {name: by-pod}
spec:
  selector: {matchLabels: {tier: front}}
  action: Block
  syscalls: ['rmdir:98']
";

/// The name of an image whose author would like it to be left alone: too long to be a label.
const HOSTILE: &str = "localhost/an-image-whose-name-is-so-long-that-no-label-has-the-room-to-hold-it:v1";

/// What that author writes into it. podman copies annotations over its own, and labels into the container's.
const FORGED: [&str; 20] = [
    "--annotation=io.kubernetes.cri.sandbox-namespace=kube-system",
    "--annotation=io.kubernetes.pod.namespace=kube-system",
    "--annotation=io.kubernetes.cri.sandbox-name=coredns",
    "--annotation=io.kubernetes.pod.name=coredns",
    "--annotation=io.kubernetes.cri.container-name=coredns",
    "--annotation=io.kubernetes.container.name=coredns",
    "--annotation=io.kubernetes.cri.container-type=sandbox",
    "--annotation=io.kubernetes.cri-o.ContainerType=sandbox",
    "--annotation=io.container.manager=cri-o",
    "--annotation=kubearmor-policy=disabled",
    "--annotation=nri-enforcer.io/seccomp=0",
    "--annotation=nri-enforcer.io/refused=",
    // for crun: a filter that allows everything, in place of the profile
    "--annotation=run.oci.seccomp_bpf_data=BgAAAAAA/38=",
    // files of the host for what hooks print
    "--annotation=run.oci.hooks.stdout=/tmp/nri-enforcer-an-image-wrote",
    "--annotation=run.oci.hooks.stderr=/tmp/nri-enforcer-an-image-wrote",
    // and to be run where no policy reaches
    "--annotation=run.oci.handler=krun",
    "--annotation=module.wasm.image/variant=compat",
    "--label=nri-enforcer.io/image=localhost_shop_web",
    "--label=nri-enforcer.io/image-tag=v1",
    "--label=io.kubernetes.pod.namespace=kube-system",
];

struct Node {
    podman: Podman,
    daemon: Daemon,
    dir: tempfile::TempDir,
}

impl Node {
    fn new(version: Version) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("podman"))?;
        let podman = Podman::new(version, &dir.path().join("podman"))?;
        let program = Target { spec: Spec::node(Kernel::V6_12, Containerd::V2_1), daemon: None }.daemon()?;
        let installed = podman
            .beside(&program, &["install", "--runtime", "podman", "--hook", &hook()?.to_string_lossy()])?;
        ensure!(installed.status.success(), "install: {}", String::from_utf8_lossy(&installed.stderr));
        let path = |name: &str| dir.path().join(name).display().to_string();
        let arguments = [
            "--seccomp-only".to_owned(),
            format!("--podman-storage={}", podman.storage().display()),
            format!("--gate-socket={}", path("gate/sock")),
            format!("--status-socket={}", path("gate/status")),
            format!("--nri-socket={}", path("no-nri.sock")),
            format!("--open-starts={}", path("spool")),
            format!("--seccomp-dir={}", path("kubelet")),
        ];
        let options = Options { program, arguments: arguments.to_vec(), ..Options::default() };
        let daemon = Daemon::new(&dir.path().join("daemon"), options)?;
        daemon.write_policy("p.yaml", POLICIES)?;
        let mut node = Self { podman, daemon, dir };
        node.configure("closed", &["kube-system"], PATIENCE)?;
        node.start()?;
        Ok(node)
    }

    fn start(&mut self) -> Result<()> {
        self.daemon.spawn()?;
        let socket = self.socket();
        soon(&format!("the gate opens\n{}", self.daemon.log()), || socket.exists())
    }

    /// The daemon again, with podman's storage elsewhere: podman needs its files itself.
    fn restart_with(&mut self, storage: &Path) -> Result<()> {
        self.daemon.end(Signal::SIGTERM)?;
        let arguments = &mut self.daemon.options_mut().arguments;
        arguments.retain(|one| !one.starts_with("--podman-storage="));
        arguments.push(format!("--podman-storage={}", storage.display()));
        self.start()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("gate/sock")
    }

    fn configure(&self, mode: &str, exempt: &[&str], patience: u64) -> Result<()> {
        let config = serde_json::json!({
            "mode": mode, "exemptNamespaces": exempt, "deadlineMillis": patience,
            "socket": self.socket(), "spool": self.dir.path().join("spool"),
        });
        let from = self.dir.path().join("hook.json");
        fs::write(&from, config.to_string())?;
        self.ok("cp", &[&from.to_string_lossy(), HOOK_CONFIG]).map(drop)
    }

    fn ok(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = match program {
            "podman" => self.podman.run(arguments)?,
            other => self.podman.beside(Path::new(other), arguments)?,
        };
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {arguments:?}: {said}\n{}", self.daemon.log());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn podman(&self, arguments: &[&str]) -> Result<String> {
        self.ok("podman", arguments)
    }

    /// Runs a container of the image, and returns how its system calls end.
    fn ends(&self, options: &[&str]) -> Result<[String; 4]> {
        let calls = [RMDIR, SYNC, PERSONALITY, GETPID];
        let arguments = [&["run", "--rm"], options, &[IMAGE, PROGRAM], &calls].concat();
        ends(&self.podman(&arguments)?, calls)
    }

    /// Whether the daemon says something of the container, which lives or not.
    fn knows(&self, id: &str) -> bool {
        let mut told = String::new();
        let asked = UnixStream::connect(self.dir.path().join("gate/status"))
            .and_then(|mut daemon| daemon.read_to_string(&mut told));
        asked.is_ok() && told.contains(id)
    }

    /// How many open starts are recorded, and not told yet.
    fn waiting(&self) -> usize {
        fs::read_dir(self.dir.path().join("spool")).map_or(0, |entries| entries.count())
    }

    /// How many are told.
    fn told(&self) -> Result<usize> {
        Ok(outcome::told(&self.daemon.alerts_now()?).len())
    }

    /// How many were recorded so far.
    fn recorded(&self) -> Result<usize> {
        Ok(outcome::recorded(&self.dir.path().join("spool"), &self.daemon.alerts_now()?)?.len())
    }
}

fn ends<const N: usize>(output: &str, calls: [&str; N]) -> Result<[String; N]> {
    let of = |call: &str| {
        let end = output.lines().find_map(|line| line.split_once('\t').filter(|(made, _)| *made == call));
        end.map(|(_, end)| end.trim().to_owned()).unwrap_or_default()
    };
    let ends = calls.map(of);
    ensure!(ends.iter().all(|end| !end.is_empty()), "not every call was made: {output}");
    Ok(ends)
}

fn soon(what: &str, done: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        ensure!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn containers_are_selected_and_get_their_profiles() -> Result<()> {
    selected(&Node::new(Version::V4)?)
}

#[test]
fn containers_of_podman_5_are_selected_and_get_their_profiles() -> Result<()> {
    let node = Node::new(Version::V5)?;
    ensure!(node.podman(&["info", "--format", "{{.Host.DatabaseBackend}}"])?.trim() == "sqlite");
    selected(&node)
}

fn selected(node: &Node) -> Result<()> {
    // every container is of the image; podman's own profile stays in force below the policies
    let (plain, own, ok) = ("errno 2", "errno 38", "ok");
    for (options, rmdir) in [
        (&["--name", "a", "-l", "app=web"][..], "errno 95"),
        (&["--name", "db"], "errno 96"),
        (&["--name", "other", "-l", "app=other"], plain),
        (&["--security-opt", "seccomp=unconfined", "-l", "app=web"], "errno 95"),
    ] {
        let own = if options.contains(&"seccomp=unconfined") { ok } else { own };
        let found = node.ends(options)?;
        ensure!(found == [rmdir, "errno 97", own, ok], "{options:?}: {found:?}");
    }
    node.podman(&["pod", "create", "--infra=false", "--name", "shop", "-l", "tier=front"])?;
    let found = node.ends(&["--pod", "shop"])?;
    ensure!(found[0] == "errno 98", "in the pod: {found:?}");
    // what is not told about, and no policy selects, is not touched at all
    node.podman(&["tag", IMAGE, "localhost/plain"])?;
    node.podman(&["create", "--name", "plain", "localhost/plain", PROGRAM, RMDIR, SYNC])?;
    let found = ends(&node.podman(&["start", "-a", "plain"])?, [RMDIR, SYNC])?;
    ensure!(found == [plain, ok], "{found:?}");
    ensure!(
        !configuration(node, "plain")?.contains("nri-enforcer.io"),
        "a container that nothing selects is changed"
    );
    life(node)?;
    for one in [an_image_chooses_nothing, own_cgroup, infra, begun] {
        one(node)?;
    }
    Ok(())
}

/// What an image says of itself neither exempts its containers nor makes them another image's.
fn an_image_chooses_nothing(node: &Node) -> Result<()> {
    node.podman.build(HOSTILE, &FORGED)?;
    let calls = [RMDIR, SYNC];
    let arguments = [&["run", "--rm", "-l", "app=web", HOSTILE, PROGRAM][..], &calls].concat();
    let found = ends(&node.podman(&arguments)?, calls)?;
    ensure!(found == ["errno 99", "ok"], "runc: {found:?}");
    // crun takes no hybrid of cgroup v1 and v2
    let script = "if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi";
    let output = node.podman.run_after(script, &[&["--runtime", "crun"], &arguments[..]].concat())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "crun: {said}\n{}", node.daemon.log());
    let found = ends(&String::from_utf8_lossy(&output.stdout), calls)?;
    ensure!(found == ["errno 99", "ok"], "crun: {found:?}");
    let written = Path::new("/tmp/nri-enforcer-an-image-wrote");
    ensure!(!written.exists(), "crun has made `{}`", written.display());
    node.podman(&["create", "--name", "hostile", "-l", "app=web", HOSTILE, PROGRAM, RMDIR])?;
    ensure!(ends(&node.podman(&["start", "-a", "hostile"])?, [RMDIR])? == ["errno 99"]);
    let given = configuration(node, "hostile")?;
    let handled = given.contains("run.oci.handler") || given.contains("module.wasm");
    ensure!(!handled && given.contains("io.container.manager"), "{given}");
    node.podman(&["rm", "hostile"])?;
    Ok(())
}

/// A container in the cgroup of who runs it.
fn own_cgroup(node: &Node) -> Result<()> {
    let script = "for d in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do\n\
        if [ -e $d/cgroup.procs ]; then mkdir -p $d/own; echo $$ >$d/own/cgroup.procs; fi\ndone";
    let arguments = ["run", "--rm", "--cgroups=split", "-l", "app=web", IMAGE, PROGRAM, RMDIR];
    let output = node.podman.run_after(script, &arguments)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "--cgroups=split: {said}\n{}", node.daemon.log());
    let found = ends(&String::from_utf8_lossy(&output.stdout), [RMDIR])?;
    ensure!(found == ["errno 99"], "--cgroups=split: {found:?}");
    Ok(())
}

/// The container that only holds the namespaces of a pod is left alone, by podman's own word and not by an annotation.
fn infra(node: &Node) -> Result<()> {
    let command = format!("{PROGRAM} {RMDIR}");
    let options = ["--name", "held", "-l", "tier=front", "--infra-image", IMAGE, "--infra-name", "infra"];
    node.podman(&[&["pod", "create"], &options[..], &["--infra-command", &command]].concat())?;
    let found = ends(&node.podman(&["start", "-a", "infra"])?, [RMDIR])?;
    ensure!(found == ["errno 2"], "infra: {found:?}");
    Ok(())
}

/// podman's files tell which containers have begun: by that one is known that was armed too late.
fn begun(node: &Node) -> Result<()> {
    let files = nri_plugin::podman::Podman::new(node.podman.storage());
    let made = node.podman(&["create", "--name", "slow", "-l", "app=web", IMAGE, PROGRAM, "64:34"])?; // pause
    let id = ContainerId::new(made.trim())?;
    let has_begun = || files.living(&id).map(|living| living.started);
    let mut found = vec![has_begun()];
    let all = [&["init"][..], &["start"], &["stop", "-t", "0"], &["init"], &["start"]];
    for command in all {
        node.podman(&[command, &["slow"]].concat())?;
        found.push(has_begun());
    }
    let wanted = [false, false, true, false, false, true].map(Some);
    ensure!(found == wanted, "created, and after {all:?}: {found:?}");
    node.podman(&["rm", "--force", "--time", "0", "slow"])?;
    Ok(())
}

/// A container's configuration, as podman gave it to the runtime.
fn configuration(node: &Node, name: &str) -> Result<String> {
    let id = node.podman(&["inspect", "--format", "{{.Id}}", name])?;
    let path = node.podman.storage().join("vfs-containers").join(id.trim()).join("userdata/config.json");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The digest of the profile in the configuration of `web`.
fn digest(node: &Node) -> Result<String> {
    let configuration: serde_json::Value = serde_json::from_str(&configuration(node, "web")?)?;
    let digest = configuration.pointer("/annotations/nri-enforcer.io~1seccomp").context("no digest")?;
    Ok(digest.as_str().context("no text")?.to_owned())
}

/// Create, start, change the policies, restart, stop, remove.
fn life(node: &Node) -> Result<()> {
    node.podman(&["create", "--name", "web", "-l", "app=web", IMAGE, PROGRAM, RMDIR])?;
    let start = || Ok::<_, anyhow::Error>(ends(&node.podman(&["start", "-a", "web"])?, [RMDIR])?[0].clone());
    ensure!(start()? == "errno 95");
    let first = digest(node)?;
    ensure!(start()? == "errno 95", "again");
    ensure!(digest(node)? == first, "another digest, and the policies are the same");
    let denies = |errno: &str| {
        let before = node.daemon.policy_changes();
        node.daemon.write_policy("p.yaml", &POLICIES.replace("rmdir:95", &format!("rmdir:{errno}")))?;
        soon("the policies change", || node.daemon.policy_changes() > before)
    };
    denies("99")?;
    ensure!(start()? == "errno 99", "the new policies, from the next start");
    ensure!(digest(node)? != first, "the same digest, and the policies are others");
    node.podman(&["rm", "web"])?;
    // one that runs on: restart under other policies, stop
    let options = ["--name", "web", "-l", "app=web", "--log-driver=k8s-file"];
    node.podman(&[&["run", "-d"], &options[..], &[IMAGE, PROGRAM, RMDIR, "64:34"]].concat())?; // pause
    // the log of a run before may be kept or not
    let ends_with = |wanted: &str| {
        let last = || {
            let logs = node.podman(&["logs", "web"]).unwrap_or_default();
            let mut ends = logs.lines().filter_map(|line| line.split_once('\t'));
            // the run before was killed within its line
            ends.rfind(|(call, _)| call.ends_with(RMDIR)).map(|(_, end)| end.trim().to_owned())
        };
        soon(&format!("a run that ends with {wanted}"), || last().as_deref() == Some(wanted))
            .with_context(|| format!("{:?}", node.podman(&["logs", "web"])))
    };
    ends_with("errno 99")?;
    denies("95")?;
    node.podman(&["restart", "-t", "0", "web"])?;
    ends_with("errno 95")?;
    denies("99")?;
    let id = node.podman(&["inspect", "--format", "{{.Id}}", "web"])?;
    ensure!(node.knows(id.trim()), "the daemon does not know the container that runs");
    node.podman(&["stop", "-t", "0", "web"])?;
    // its end is told by the hook: the daemon itself looks for that twice, 30 s apart
    soon("the daemon forgets the container", || !node.knows(id.trim()))?;
    node.podman(&["rm", "web"])?;
    let told = node.daemon.whole_log();
    ensure!(!told.contains("makes no sense"), "{told}");
    Ok(())
}

/// Not a test by itself: another user's program, which answers what the daemon would.
#[test]
fn listener() -> Result<()> {
    listen()
}
