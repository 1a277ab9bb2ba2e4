//! Kubernetes' programs on the node, each with a log of its own, and what a test notes about them.

use std::fmt::Debug;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::cache::artefact;
use lab::image::PAUSE_IMAGE;
use lab::oci::Runtime;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::certificates;
use super::components::{self, Places};
use super::tools::{self, kubectl};

/// How long anything may take that takes seconds. This machine may have more to do, and an emulated one is slow.
pub const LONGEST: Duration = Duration::from_secs(300);
/// Lines of each log that a failure shows.
pub const TAIL: usize = 25;

/// A cluster of one node.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    places: Places,
    /// None in a guest, as the other programs.
    server: Option<Process>,
    containerd: Option<Process>,
    others: Vec<Process>,
    /// Lines of the API server's audit log that were written before it was ready.
    starting: Vec<Range<usize>>,
    begin: Instant,
    wrong: Vec<String>,
    checks: usize,
}

impl Cluster {
    /// Starts everything below `dir`, and waits until the node is ready.
    pub fn start(dir: &Path) -> Result<Self> {
        let mut cluster = Self::elsewhere(dir);
        cluster.places.prepare()?;
        certificates::make(&cluster.places)?;
        match cluster.start_programs() {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.show_logs();
                Err(error.context("the cluster does not start"))
            }
        }
    }

    /// One whose programs run elsewhere; `dir` is for the test's own files.
    pub fn elsewhere(dir: &Path) -> Self {
        let places =
            Places { pki: dir.join("pki"), state: dir.join("state"), logs: dir.join("logs"), port: 6443 };
        Self {
            dir: dir.to_owned(),
            places,
            server: None,
            containerd: None,
            others: Vec::new(),
            starting: Vec::new(),
            begin: Instant::now(),
            wrong: Vec::new(),
            checks: 0,
        }
    }

    fn start_programs(&mut self) -> Result<()> {
        self.run("etcd")?;
        self.start_server()?;
        self.run("kube-controller-manager")?;
        self.run("kube-scheduler")?;
        self.prepare_containerd()?;
        self.start_containerd()?;
        for archive in ["pause", "root", "chart"] {
            let archive = self.dir.join(format!("images/{archive}.tar"));
            tools::output(Command::new("ctr").args(["-n", "k8s.io", "images", "import"]).arg(archive))?;
        }
        self.run("kubelet")?;
        self.run("kube-proxy")?;
        let ready = || {
            Ok(kubectl(&["wait", "node/node-1", "--for=condition=Ready", "--timeout=1s"])?.good.then_some(()))
        };
        tools::until("the node is ready", LONGEST, ready)?;
        let account = || Ok(kubectl(&["get", "serviceaccount", "default"])?.good.then_some(()));
        tools::until("there is a service account", LONGEST, account)?;
        self.note(&format!("the cluster is there, in {} s", self.begin.elapsed().as_secs()));
        Ok(())
    }

    /// A file of this run, e.g. a log; kept when the test fails.
    pub fn log(&self, name: &str) -> PathBuf {
        self.places.logs.join(name)
    }

    /// A folder for a test's own files.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    fn run(&mut self, name: &'static str) -> Result<()> {
        let process = self.process(name)?;
        self.others.push(process);
        Ok(())
    }

    fn process(&self, name: &'static str) -> Result<Process> {
        let mut command = Command::new(components::program(name)?);
        Process::start(name, command.args(self.places.arguments(name)), &self.log(&format!("{name}.log")))
    }

    /// Starts the API server, and waits until it answers.
    pub fn start_server(&mut self) -> Result<()> {
        let before = self.audited();
        let process = self.process("kube-apiserver")?;
        self.server = Some(process);
        tools::configure(&self.places.pki.join("admin.conf"), &self.dir)?;
        let ready = || {
            if let Some(server) = &mut self.server {
                server.must_run()?;
            }
            Ok(kubectl(&["get", "--raw", "/readyz"])?.good.then_some(()))
        };
        tools::until("the API server is ready", LONGEST, ready)?;
        self.starting.push(before..self.audited());
        Ok(())
    }

    /// How many lines its audit log has.
    fn audited(&self) -> usize {
        fs::read_to_string(self.log("audit.log")).map_or(0, |log| log.lines().count())
    }

    /// Whether a line of that log, from 0, was written while it started: it answers before it knows who may do what.
    pub fn was_starting(&self, line: usize) -> bool {
        self.starting.iter().any(|lines| lines.contains(&line))
    }

    /// Ends the API server as a crash does.
    pub fn kill_server(&mut self) -> Result<()> {
        self.server.take().context("an API server")?.kill()
    }

    /// containerd's programs, network and configuration where a node has them: NRI is off, as it is by default.
    fn prepare_containerd(&self) -> Result<()> {
        let containerd = artefact("containerd-1.7")?;
        for program in ["containerd", "containerd-shim-runc-v2", "ctr"] {
            fs::copy(containerd.join(program), Path::new("/usr/local/bin").join(program))?;
        }
        fs::copy(Runtime::Runc.program()?, "/usr/local/bin/runc")?;
        for dir in ["/etc/containerd", "/etc/cni/net.d", "/opt/cni"] {
            fs::create_dir_all(dir)?;
        }
        symlink(artefact("network-plugins")?, "/opt/cni/bin")?;
        fs::write("/etc/cni/net.d/10-pods.conflist", components::pod_network().to_string())?;
        // oom_score_adj: a machine whose root may not lower it starts no pod else
        let config = format!(
            "version = 2\n# the node's own\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"{PAUSE_IMAGE}\"\n  \
             restrict_oom_score_adj = true\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"/opt/cni/bin\"\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  \
             runtime_type = \"io.containerd.runc.v2\"\n"
        );
        Ok(fs::write("/etc/containerd/config.toml", config)?)
    }

    /// Starts containerd, and waits until it answers.
    pub fn start_containerd(&mut self) -> Result<()> {
        let process =
            Process::start("containerd", &mut Command::new("containerd"), &self.log("containerd.log"))?;
        self.containerd = Some(process);
        let ready = || Ok(tools::output(Command::new("ctr").arg("version")).is_ok().then_some(()));
        tools::until("containerd answers", LONGEST, ready)
    }

    /// What an administrator does after a change of its configuration.
    pub fn restart_containerd(&mut self) -> Result<()> {
        self.containerd.take().context("a containerd")?.end()?;
        self.start_containerd()
    }

    /// Notes that something is as it should be, or is not. The test goes on, and fails at its end.
    pub fn check<T: PartialEq + Debug>(&mut self, what: &str, found: T, wanted: T) {
        self.checks += 1;
        if found == wanted {
            self.note(&format!("ok    {what}"));
        } else {
            self.note(&format!("WRONG {what}: {found:?}, not {wanted:?}"));
            self.wrong.push(what.to_owned());
        }
    }

    /// The same for a text that must have another in it.
    pub fn check_has(&mut self, what: &str, text: &str, part: &str) {
        let shown = if text.contains(part) { part } else { text };
        self.check(what, shown, part);
    }

    /// Says something, with the time.
    pub fn note(&self, text: &str) {
        println!("{:>6.1} s  {text}", self.begin.elapsed().as_secs_f64());
    }

    /// What becomes of the test.
    pub fn verdict(&mut self, result: Result<()>) -> Result<()> {
        if result.is_err() || !self.wrong.is_empty() {
            self.show_logs();
        }
        result.context("the test could not go on")?;
        ensure!(self.checks > 0, "the test checked nothing");
        ensure!(
            self.wrong.is_empty(),
            "{} of {} checks are wrong: {:#?}",
            self.wrong.len(),
            self.checks,
            self.wrong
        );
        self.note(&format!("{} checks", self.checks));
        Ok(())
    }

    fn show_logs(&self) {
        for arguments in [
            &["get", "pods,events", "-A", "-o", "wide"][..],
            &[
                "logs",
                "-n",
                "nri-enforcer",
                "-l",
                "app.kubernetes.io/name=nri-enforcer",
                "--all-containers",
                "--tail=60",
            ],
        ] {
            if let Ok(said) = kubectl(arguments) {
                println!("--- kubectl {}\n{}", arguments.join(" "), said.all());
            }
        }
        for name in ["kube-apiserver", "containerd", "kubelet"] {
            let log = fs::read_to_string(self.log(&format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default();
            println!("--- {name}\n{}", tail.join("\n"));
        }
    }
}

/// A program that ends with us.
#[derive(Debug)]
struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name, child })
    }

    fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended: {status}", self.name),
        }
    }

    fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGTERM)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}
