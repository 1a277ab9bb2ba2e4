//! The same cluster in a guest whose kernel has BPF-LSM. The test stays on this machine and is an administrator with kubectl and
//! helm: an emulated machine would take ten times as long for them. It is saved once with the cluster running in it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::cache::{artefact, stripped};
use lab::vm::{self, Containerd, GUEST_ADDRESS, Job, Kernel, Machine, Running, Spec, Streams};
use nix::fcntl::{Flock, FlockArg};

use super::certificates;
use super::cluster::{Cluster, LONGEST, TAIL};
use super::components::{self, NODE_IP, Places, SERVICE_IP, words};
use super::node;
use super::tools::{self, kubectl};

/// Nothing translates the service's address, so the server is at its very port.
const API: u16 = 443;
/// The port of the feed, as the chart has it.
const FEED: u16 = 32767;
/// A cluster starts in two minutes there, on a machine that has nothing else to do.
const START_LIMIT: Duration = Duration::from_secs(1200);
/// What serves the API.
const SERVER: [&str; 2] = ["etcd", "kube-apiserver"];
/// What needs it. There is no proxy: the guest has no iptables.
const OTHERS: [&str; 3] = ["kube-controller-manager", "kube-scheduler", "kubelet"];
/// What of the network plugins is used.
const PLUGINS: [&str; 3] = ["bridge", "host-local", "loopback"];
/// What a machine needs that is so slow, and perhaps saved for long, beside [`Places::arguments`]: the tokens that the manager
/// would have its controllers use expire in an hour.
const SLOW: [(&str, &str); 4] = [
    ("etcd", "--heartbeat-interval=1000 --election-timeout=10000"),
    ("kube-apiserver", "--profiling=false --etcd-compaction-interval=0"),
    (
        "kube-controller-manager",
        "--controllers=daemonset,namespace,nodelifecycle,root-ca-cert-publisher,serviceaccount,serviceaccount-token \
         --node-monitor-grace-period=1h --use-service-account-credentials=false \
         --kubeconfig=/var/lib/cluster/pki/admin.conf",
    ),
    (
        "kubelet",
        "--make-iptables-util-chains=false --housekeeping-interval=1m --runtime-request-timeout=10m \
         --node-status-update-frequency=30s",
    ),
];

/// A cluster in a guest of its own.
#[derive(Debug)]
pub struct Guest {
    machine: Running,
}

impl Guest {
    /// Where this machine reaches the feed of alerts.
    pub fn feed(&self) -> Result<String> {
        Ok(self.machine.address(FEED)?.to_string())
    }

    /// The ends of its logs, as kubelet serves them.
    fn show_logs(&self) {
        for name in [&SERVER[..], &OTHERS].concat() {
            let path = format!("/api/v1/nodes/node-1/proxy/logs/cluster/{name}.log");
            let said = kubectl(&["get", "--raw", &path]).map(|said| said.all()).unwrap_or_default();
            let lines: Vec<_> = said.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default();
            println!("--- {name} in the guest\n{}", tail.join("\n"));
        }
        println!("{}", self.machine.tail());
    }
}

/// Runs the body in a fresh copy of the guest, with the chart's image on its node. What cannot be had fails the test.
pub fn within(body: fn(&mut Cluster, &Guest) -> Result<()>) -> Result<()> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster-guest");
    let lock = fs::File::create(dir.with_extension("lock"))?;
    let _alone = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .with_context(|| format!("another run has `{}`", dir.display()))?;
    let _none = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("images"))?;
    let machine = machine(&dir)?;
    node::chart_image(&dir)?;
    let keys = "ca.crt admin.crt admin.key";
    // as if it had been saved two days ago: what expires in that time does so in each run
    let job = Job::script(format!(
        "set -e; date -s @$(($(date +%s) + 172800)) >&2; ctr -n k8s.io images import chart.tar >&2; tar -cf - -C {} {keys}",
        on_node().pki.display()
    ));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let job = job.file("chart.tar", dir.join("images/chart.tar"));
    let (outcome, machine) = job.run_on(&machine, Streams { out: &mut out, err: &mut err })?;
    ensure!(outcome.status == 0, "the image: {}", String::from_utf8_lossy(&err));
    let keys = dir.join("admin");
    tar::Archive::new(out.as_slice()).unpack(&keys).context("the administrator's keys")?;
    certificates::configure(&keys, "admin", &format!("https://{}", machine.address(API)?))?;
    tools::configure(&keys.join("admin.conf"), &dir)?;
    let mut cluster = Cluster::elsewhere(&dir);
    let ready = || Ok(kubectl(&["get", "--raw", "/readyz"])?.good.then_some(()));
    tools::until("the API server in the guest answers", LONGEST, ready).with_context(|| machine.tail())?;
    cluster.note(&format!("the cluster is restored, in {:.1} s", outcome.restore.as_secs_f64()));
    let guest = Guest { machine };
    let result = body(&mut cluster, &guest);
    if let Err(error) = cluster.verdict(result) {
        guest.show_logs();
        return Err(error);
    }
    Ok(fs::remove_dir_all(&dir)?)
}

fn on_node() -> Places {
    Places {
        pki: "/var/lib/cluster/pki".into(),
        state: "/var/lib/cluster".into(),
        // kubelet shows what is below /var/log
        logs: "/var/log/cluster".into(),
        port: API,
    }
}

/// The machine with a cluster that is ready and has nothing in it.
fn machine(dir: &Path) -> Result<Machine> {
    let say = |text: &str| println!("{text}");
    let spec =
        Spec { memory_mib: 4096, ports: vec![API, FEED], ..Spec::node(Kernel::V6_12, Containerd::V1_7) };
    let keys = Places { pki: dir.join("pki"), ..on_node() };
    certificates::make(&keys)?;
    let archive = dir.join("pki.tar");
    let mut tar = tar::Builder::new(fs::File::create(&archive)?);
    tar.append_dir_all("pki", &keys.pki)?;
    tar.into_inner()?;
    let mut job = Job::script(script())
        .bytes("audit.yaml", components::audit_policy().to_string())
        .bytes("10-pods.conflist", components::pod_network().to_string())
        // keys are new each time; what they are made for is not
        .bytes("certificates.rs", include_str!("certificates.rs"))
        .helper("pki.tar", archive)
        .file("kubectl", artefact("kubectl")?);
    for name in SERVER.iter().chain(&OTHERS) {
        job = job.file(name, stripped(&components::program(name)?)?);
    }
    let plugins = artefact("network-plugins")?;
    for name in PLUGINS {
        job = job.file(name, plugins.join(name));
    }
    job.limit = Some(START_LIMIT);
    vm::machine(&spec, &say)?.after("kubernetes", &job, &say)
}

/// Starts the cluster on the node, and leaves it running.
fn script() -> String {
    let places = on_node();
    let [pki, state, logs] = [&places.pki, &places.state, &places.logs].map(|path| path.display());
    let start = |name: &&str| {
        let more = SLOW.iter().find(|(program, _)| program == name).map(|(_, more)| words(more));
        let arguments = [places.arguments(name), more.unwrap_or_default()].concat();
        format!("{name} {} >{logs}/{name}.log 2>&1 </dev/null &\n", arguments.join(" "))
    };
    let [server, others] = [&SERVER[..], &OTHERS].map(|names| names.iter().map(start).collect::<String>());
    format!(
        r#"
set -e
mount --make-rshared /
mkdir -p /usr/local/bin /usr/lib/cni /etc/cni/net.d {state} {logs} {static_pods}
for f in {programs} kubectl; do mv $f /usr/local/bin; done
for f in {plugins}; do mv $f /usr/lib/cni; done # where Debian has them
mv 10-pods.conflist /etc/cni/net.d; tar -xf pki.tar -C {state}; mv audit.yaml {pki}
echo +cpuset >/sys/fs/cgroup/cgroup.subtree_control
echo 1 >/proc/sys/net/ipv4/ip_forward
hostname node-1
ifconfig lo:1 {NODE_IP} netmask 255.255.255.255; ifconfig lo:2 {SERVICE_IP} netmask 255.255.255.255
ifconfig eth0 {GUEST_ADDRESS} netmask 255.255.255.0 up; ip route add default dev eth0
export KUBECONFIG={pki}/admin.conf
# each try takes seconds here
await() {{ i=0; until "$@" >/tmp/await 2>&1; do i=$((i + 1)); [ $i -lt 100 ] || {{ cat /tmp/await; tail -n 15 {logs}/*.log /run/containerd.log; exit 1; }}; sleep 1; done; }}
{server}await kubectl get --raw /readyz
{others}await kubectl wait node/node-1 --for=condition=Ready --timeout=5s
await kubectl get serviceaccount default
"#,
        static_pods = components::STATIC_PODS,
        programs = [&SERVER[..], &OTHERS].concat().join(" "),
        plugins = PLUGINS.join(" "),
    )
}
