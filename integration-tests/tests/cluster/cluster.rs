//! Kubernetes' programs on the node, each with a log of its own, and what a test notes about them.

use std::fmt::Debug;
use std::fs::{self, File};
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
use serde_json::json;

use super::certificates;
use super::tools::{self, kubectl};

/// The node's address.
pub const NODE_IP: &str = "10.98.0.1";
/// The address of the service `kubernetes`.
pub const SERVICE_IP: &str = "10.96.0.1";
/// How long anything may take that takes seconds. This machine may have more to do.
pub const LONGEST: Duration = Duration::from_secs(90);
/// Where kubelet looks for pods that no API server knows.
pub const STATIC_PODS: &str = "/etc/kubernetes/manifests";
/// Lines of each log that a failure shows.
const TAIL: usize = 25;

/// A cluster of one node.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    server: Option<Process>,
    containerd: Option<Process>,
    others: Vec<Process>,
    begin: Instant,
    wrong: Vec<String>,
    checks: usize,
}

impl Cluster {
    /// Starts everything below `dir`, and waits until the node is ready.
    pub fn start(dir: &Path) -> Result<Self> {
        let mut cluster = Self {
            dir: dir.to_owned(),
            server: None,
            containerd: None,
            others: Vec::new(),
            begin: Instant::now(),
            wrong: Vec::new(),
            checks: 0,
        };
        fs::create_dir_all(dir.join("logs"))?;
        certificates::make(&cluster.pki())?;
        match cluster.start_programs() {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.show_logs();
                Err(error.context("the cluster does not start"))
            }
        }
    }

    fn start_programs(&mut self) -> Result<()> {
        let url = "http://127.0.0.1:2379";
        let mut etcd = Command::new(artefact("etcd")?);
        etcd.args(["--name", "only", "--unsafe-no-fsync", "--log-level", "warn", "--data-dir"])
            .arg(self.dir.join("etcd"));
        etcd.args(["--listen-client-urls", url, "--advertise-client-urls", url]);
        self.run("etcd", &mut etcd)?;
        self.start_server()?;
        let (account, ca) = (self.file("service-account.key"), self.file("ca.crt"));
        let mut manager = self.component("kube-controller-manager", "controller-manager")?;
        manager
            .arg(format!("--service-account-private-key-file={account}"))
            .arg(format!("--root-ca-file={ca}"));
        manager.args(["--leader-elect=false", "--use-service-account-credentials=true", "--port=0"]);
        manager.arg(format!("--cert-dir={}", self.dir.join("manager").display()));
        self.run("controller-manager", &mut manager)?;
        let mut scheduler = self.component("kube-scheduler", "scheduler")?;
        scheduler
            .args(["--leader-elect=false", "--port=0"])
            .arg(format!("--cert-dir={}", self.dir.join("scheduler").display()));
        self.run("scheduler", &mut scheduler)?;
        self.prepare_containerd()?;
        self.start_containerd()?;
        for archive in ["pause", "root", "chart"] {
            let archive = self.dir.join(format!("images/{archive}.tar"));
            tools::output(Command::new("ctr").args(["-n", "k8s.io", "images", "import"]).arg(archive))?;
        }
        fs::create_dir_all(STATIC_PODS)?;
        let mut kubelet = self.component("kubelet", "node")?;
        kubelet.args([
            "--hostname-override=node-1",
            "--container-runtime=remote",
            "--cgroup-driver=cgroupfs",
        ]);
        kubelet.arg(format!("--node-ip={NODE_IP}")).arg(format!("--client-ca-file={ca}"));
        kubelet.arg("--container-runtime-endpoint=unix:///run/containerd/containerd.sock");
        kubelet.args([
            "--anonymous-auth=false",
            "--authentication-token-webhook=true",
            "--authorization-mode=Webhook",
        ]);
        kubelet.arg(format!("--pod-manifest-path={STATIC_PODS}"));
        // what the machine has to spare is no matter of the test's
        kubelet.args([
            "--fail-swap-on=false",
            "--enforce-node-allocatable=",
            "--eviction-hard=",
            "--oom-score-adj=0",
        ]);
        kubelet.args(["--image-gc-high-threshold=100", "--resolv-conf=", "--sync-frequency=5s"]);
        self.run("kubelet", &mut kubelet)?;
        let mut proxy = self.component("kube-proxy", "proxy")?;
        proxy.args(["--hostname-override=node-1", "--proxy-mode=iptables", "--oom-score-adj=0"]);
        proxy.args([
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ]);
        self.run("proxy", &mut proxy)?;
        let ready = || {
            Ok(kubectl(&["wait", "node/node-1", "--for=condition=Ready", "--timeout=1s"])?.good.then_some(()))
        };
        tools::until("the node is ready", LONGEST, ready)?;
        let account = || Ok(kubectl(&["get", "serviceaccount", "default"])?.good.then_some(()));
        tools::until("there is a service account", LONGEST, account)?;
        self.note(&format!("the cluster is there, in {} s", self.begin.elapsed().as_secs()));
        Ok(())
    }

    fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    fn file(&self, name: &str) -> String {
        self.pki().join(name).to_string_lossy().into_owned()
    }

    /// A file of this run, e.g. a log; kept when the test fails.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(name)
    }

    /// A folder for a test's own files.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    fn component(&self, program: &str, user: &str) -> Result<Command> {
        let mut command = Command::new(artefact("kubernetes")?.join(program));
        let config = self.file(&format!("{user}.conf"));
        command.arg(format!("--kubeconfig={config}"));
        if matches!(program, "kube-controller-manager" | "kube-scheduler") {
            command
                .arg(format!("--authentication-kubeconfig={config}"))
                .arg(format!("--authorization-kubeconfig={config}"));
        }
        Ok(command)
    }

    fn run(&mut self, name: &'static str, command: &mut Command) -> Result<()> {
        let process = Process::start(name, command, &self.log(&format!("{name}.log")))?;
        self.others.push(process);
        Ok(())
    }

    /// Starts the API server, and waits until it answers.
    pub fn start_server(&mut self) -> Result<()> {
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts:nri-enforcer"]}, {"level": "None"}],
        });
        fs::write(self.pki().join("audit.yaml"), policy.to_string())?;
        let mut server = Command::new(artefact("kubernetes")?.join("kube-apiserver"));
        for (flag, file) in [
            ("tls-cert-file", "server.crt"),
            ("tls-private-key-file", "server.key"),
            ("client-ca-file", "ca.crt"),
            ("kubelet-client-certificate", "apiserver-kubelet.crt"),
            ("kubelet-client-key", "apiserver-kubelet.key"),
            ("service-account-key-file", "service-account.key"),
            ("service-account-signing-key-file", "service-account.key"),
            ("audit-policy-file", "audit.yaml"),
            ("cert-dir", "generated"),
        ] {
            server.arg(format!("--{flag}={}", self.file(file)));
        }
        server.arg(format!("--audit-log-path={}", self.log("audit.log").display()));
        server.args([
            "--etcd-servers=http://127.0.0.1:2379",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
        ]);
        server.args([
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/24",
        ]);
        server.args([
            "--secure-port=6443",
            "--kubelet-preferred-address-types=InternalIP",
            "--enable-admission-plugins=NodeRestriction",
        ]);
        server.arg(format!("--advertise-address={NODE_IP}"));
        let process = Process::start("apiserver", &mut server, &self.log("apiserver.log"))?;
        self.server = Some(process);
        tools::configure(&self.pki().join("admin.conf"), &self.dir)?;
        let ready = || {
            if let Some(server) = &mut self.server {
                server.must_run()?;
            }
            Ok(kubectl(&["get", "--raw", "/readyz"])?.good.then_some(()))
        };
        tools::until("the API server is ready", LONGEST, ready)
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
        let network = json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [{
            "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }]});
        fs::write("/etc/cni/net.d/10-pods.conflist", network.to_string())?;
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
        if self.server.is_some() {
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
        }
        for name in ["apiserver", "containerd", "kubelet"] {
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
