//! The daemon as a service of systemd, by the unit that we ship: installed as nri-plugin/docs/without-nri.md says, with podman
//! beside it, and systemd as the first process. Whatever systemd does to it, what is armed stays in force.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::testing::Checks;

use crate::{
    DENIED, HOOK, IMAGE, LABEL, OPENED, POLICY, ended, podman, said, set_up_hook, set_up_podman, sh,
};

const UNIT: &str = include_str!("../../../manifests/systemd/nri-enforcer.service");
const TEMPORARY: &str = include_str!("../../../manifests/systemd/nri-enforcer.conf");
const PROGRAM: &str = "/usr/local/bin/nri-enforcer";
const CONFIG: &str = "/etc/nri-enforcer/config.yaml";
const GOOD: &str = "policyDirs: [/etc/nri-enforcer/policies]\nalerts: /var/log/nri-enforcer/alerts.jsonl\nhostPolicies: true\n";
const ALERTS: &str = "/var/log/nri-enforcer/alerts.jsonl";
const RUN: &str = "/run/nri-enforcer";
const SERVICE: &str = "nri-enforcer.service";
/// As podman has one, without a word about our unit: what orders the two is our unit alone.
const RESTART: &str = "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
    ExecStart=/opt/podman/bin/podman start --all --filter restart-policy=always\n[Install]\nWantedBy=multi-user.target\n";
/// A runtime that tells whether it is denied what the host's processes are, where `conmon` calls it. This test is a service, so podman
/// leaves both in its cgroup.
const SEEING: &str = "/usr/local/bin/seeing-runc";
const SEES: &str = "#!/bin/busybox sh\ncase \" $* \" in *' create '*) /bin/busybox cat /srv/secret >/tmp/seen 2>&1;; esac\nexec /usr/sbin/runc \"$@\"\n";
/// Those of the unit: `CAP_DAC_READ_SEARCH`, `CAP_SYS_PTRACE`, `CAP_MAC_ADMIN`, `CAP_AUDIT_READ`, `CAP_PERFMON`, `CAP_BPF`.
const CAPABILITIES: u64 = 1 << 2 | 1 << 19 | 1 << 33 | 1 << 37 | 1 << 38 | 1 << 39;

/// What is done one after another.
type Step = fn(&mut Checks) -> Result<()>;

pub fn service(checks: &mut Checks) -> Result<()> {
    let steps: [(&str, Step); 7] = [
        ("install", |_| install()),
        ("before the first run", before_the_first_run),
        ("a wrong configuration", wrong_configuration),
        ("running", running),
        ("confined", confined),
        ("reload", reload),
        ("killed, stopped and booted", killed_stopped_and_booted),
    ];
    let result = steps.iter().try_for_each(|(name, step)| {
        let begin = Instant::now();
        let done = step(checks).with_context(|| (*name).to_owned());
        println!("{name}: {:.1} s", begin.elapsed().as_secs_f64());
        done
    });
    let journal = systemctl(&["status", "-n", "100", "--no-pager", "-l", SERVICE])?;
    println!("{}", text(&journal));
    if result.is_err() {
        println!("{}", fs::read_to_string(ALERTS).unwrap_or_default());
    }
    result
}

fn install() -> Result<()> {
    set_up_podman()?;
    fs::create_dir_all("/usr/local/bin")?;
    sh(&format!("cp nri-enforcer {PROGRAM} && chmod 755 {PROGRAM}"))?;
    fs::write(format!("/etc/systemd/system/{SERVICE}"), UNIT)?;
    fs::write("/etc/systemd/system/podman-restart.service", RESTART)?;
    fs::create_dir_all("/etc/nri-enforcer/policies")?;
    fs::write("/etc/nri-enforcer/policies/web.yaml", POLICY)?;
    fs::write("/etc/nri-enforcer/policies/host.yaml", host_policy("host-secret", "/srv/secret"))?;
    fs::create_dir_all("/srv")?;
    fs::write("/srv/secret", "x")?;
    fs::write("/srv/free", "x")?;
    set_up_hook(PROGRAM)?;
    fs::write(SEEING, SEES)?;
    sh(&format!("chmod 755 {SEEING}"))?;
    // not on overlayfs, as the root is: there no program is known by its file
    sh(
        "mkdir -p /usr/libexec/podman && mount -t tmpfs tmpfs /usr/libexec/podman && cp /opt/podman/bin/conmon /usr/libexec/podman",
    )?;
    sh("sed -i s#/opt/podman/bin/conmon#/usr/libexec/podman/conmon# /etc/containers/containers.conf")?;
    succeeds(systemctl(&["daemon-reload"])?)
}

fn host_policy(name: &str, path: &str) -> String {
    format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {{name: {name}}}\n\
         spec:\n  nodeSelector: {{matchLabels: {{kubernetes.io/os: linux}}}}\n  action: Block\n\
         \x20 file: {{matchPaths: [{{path: {path}}}]}}\n"
    )
}

/// After each boot `/run` is empty.
fn before_the_first_run(checks: &mut Checks) -> Result<()> {
    checks.check("there is nothing in /run", Path::new(RUN).exists(), false);
    let output = run(&["--rm"])?;
    let told = said(&output).contains("does not listen");
    checks.check("the gate is closed", (output.status.success(), told), (false, true));
    let (exit, said) = as_a_user()?;
    checks.check(&format!("a user's container: {said}"), exit, Some(1));
    // as systemd does at each boot, before anything else
    fs::create_dir_all("/etc/tmpfiles.d")?;
    fs::write("/etc/tmpfiles.d/nri-enforcer.conf", TEMPORARY)?;
    succeeds(Command::new("systemd-tmpfiles").arg("--create").output()?)?;
    checks.check("the mode of its directory", mode(RUN)?, 0o700);
    let (exit, said) = as_a_user()?;
    checks.check(&format!("a user's container, with the directory: {said}"), exit, Some(0));
    Ok(())
}

/// The hook as a user's own podman runs it.
fn as_a_user() -> Result<(Option<i32>, String)> {
    let mut child = Command::new("/bin/busybox")
        .args(["unshare", "-U", "-r", HOOK, "createRuntime", "--podman"])
        .uid(65534)
        .gid(65534)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let state = r#"{"id":"c1","pid":7,"status":"creating"}"#;
    child.stdin.take().context("a pipe")?.write_all(state.as_bytes())?;
    let output = child.wait_with_output()?;
    Ok((output.status.code(), said(&output)))
}

/// The reason is in `systemctl status`, for as long as it is wrong; and once it is right, the daemon comes by itself.
fn wrong_configuration(checks: &mut Checks) -> Result<()> {
    fs::write(CONFIG, GOOD.replace("hostPolicies", "hostPolicy"))?;
    checks.check("it starts", systemctl(&["enable", "--now", SERVICE])?.status.success(), false);
    let told = || systemctl(&["status", "--no-pager", "-l", SERVICE]).map(|output| text(&output));
    let reason = |text: &str| text.contains(CONFIG) && text.contains("hostPolicy");
    until("the reason is in `systemctl status`", || told().is_ok_and(|text| reason(&text)))?;
    let restarts = || property("NRestarts").ok()?.parse::<u32>().ok();
    until("it is tried on", || restarts().is_some_and(|count| count > 2))?;
    // never: else it is given up after five times, with a word about that alone in `systemctl status`
    checks.check("when it is given up", property("StartLimitIntervalUSec")?, "0".to_owned());
    until("the reason is there still", || told().is_ok_and(|text| reason(&text)))?;
    println!("{}", told()?);
    fs::write(CONFIG, GOOD)?;
    until("it comes once the configuration is good", || is("active"))
}

/// Host policies and podman's containers, from what it sees through its sandbox.
fn running(checks: &mut Checks) -> Result<()> {
    checks.check("a file of the host", (host("/srv/secret")?, host("/srv/free")?), (false, true));
    // mounted since it was started; then come rules about it, without which nobody could mount there
    sh("mount -t tmpfs tmpfs /mnt && echo x >/mnt/secret && echo x >/mnt/free")?;
    fs::write("/etc/nri-enforcer/policies/mnt.yaml", host_policy("later", "/mnt/secret"))?;
    until("a policy that comes is in force", || host("/mnt/secret").is_ok_and(|read| !read))?;
    checks.check("a later mount of the host", (host("/mnt/secret")?, host("/mnt/free")?), (false, true));
    let output = podman(&["run", "--rm", "-l", &label(), IMAGE, "/first"])?;
    checks.check("a container's first instruction", ended(&output), denied());
    checks.check("one without the label", ended(&run(&["--rm"])?), (Some(OPENED), "OPENED".to_owned()));
    let output = podman(&["--runtime", SEEING, "run", "--rm", IMAGE, "/first"])?;
    checks.check("one of a service", ended(&output), (Some(OPENED), "OPENED".to_owned()));
    let seen = fs::read_to_string("/tmp/seen")?;
    checks.check("its runtime is none of the host's", seen.as_str(), "x");
    for (name, more) in [("running", "--restart=no"), ("again", "--restart=always")] {
        let output = podman(&["run", "-d", "-l", &label(), "--name", name, more, IMAGE, "/pause"])?;
        ensure!(output.status.success(), "{}", said(&output));
        checks.check(name, first(name)?, denied());
    }
    let output = Command::new(PROGRAM).arg("status").output()?;
    let known = text(&output).contains("running") && text(&output).contains("No NRI, by configuration");
    checks.check(&format!("status: {}", text(&output)), (output.status.code(), known), (Some(0), true));
    let alert = |name: &str| fs::read_to_string(ALERTS).is_ok_and(|text| text.contains(name));
    until("alerts of both", || alert("\"ContainerName\":\"running\"") && alert("host-secret"))
}

/// What the unit takes away is gone.
fn confined(checks: &mut Checks) -> Result<()> {
    let pid = property("MainPID")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        checks.check(set, field(set), format!("{CAPABILITIES:016x}"));
    }
    checks.check("no new privileges", field("NoNewPrivs"), "1".to_owned());
    checks.check("system calls are filtered", field("Seccomp"), "2".to_owned());
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
    checks.check("out of memory", score.trim(), "-900");
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt"));
    checks.check("it is in the host's mount namespace", namespace(&pid)? == namespace("1")?, true);
    let modes = ["/etc/nri-enforcer", "/var/lib/nri-enforcer", "/var/log/nri-enforcer", RUN].map(mode);
    let modes = modes.into_iter().collect::<Result<Vec<_>>>()?;
    checks.check("modes of its directories", modes, vec![0o755, 0o700, 0o700, 0o700]);
    checks.check("mode of its alerts", mode(ALERTS)?, 0o600);
    Ok(())
}

/// Policies are read again, and so is the file of alerts opened: as `logrotate` needs it.
fn reload(checks: &mut Checks) -> Result<()> {
    let before = property("MainPID")?;
    fs::rename(ALERTS, format!("{ALERTS}.1"))?;
    succeeds(systemctl(&["reload", SERVICE])?)?;
    until("there is a new file", || Path::new(ALERTS).exists())?;
    checks.check("it is the same process", (property("MainPID")?, is("active")), (before, true));
    Ok(())
}

/// As the kernel does when memory is out; and before the next one is there it is stopped. What was armed stays in force, no
/// container starts, and a boot has the daemon there before podman starts what it starts then.
fn killed_stopped_and_booted(checks: &mut Checks) -> Result<()> {
    let (before, restarts) = (property("MainPID")?, property("NRestarts")?);
    let reads = Reads::begin();
    succeeds(systemctl(&["kill", "--signal=KILL", "--kill-who=main", SERVICE])?)?;
    until("it is gone", || !Path::new(&format!("/proc/{before}")).exists())?;
    without_it(checks, "killed")?;
    let again = || property("MainPID").is_ok_and(|pid| pid != before && pid != "0");
    until("systemd starts another", || again() && is("activating"))?;
    checks.check("a restart is counted", property("NRestarts")? == restarts, false);
    succeeds(systemctl(&["stop", SERVICE])?)?;
    let state = (property("ActiveState")?, property("Result")?);
    checks.check("it is stopped, and has not failed", state, ("inactive".into(), "success".into()));
    without_it(checks, "stopped")?;
    let output = podman(&["stop", "-t", "0", "again"])?;
    ensure!(output.status.success(), "{}", said(&output));
    fs::remove_dir_all(RUN)?;
    succeeds(systemctl(&["enable", "podman-restart.service"])?)?;
    succeeds(systemctl(&["start", "multi-user.target"])?)?;
    let of_podman = |name| of("podman-restart.service", name);
    until("podman's service has run", || of_podman("ActiveState").is_ok_and(|state| state == "active"))?;
    let ready: u64 = property("ActiveEnterTimestampMonotonic")?.parse()?;
    let begun: u64 = of_podman("ExecMainStartTimestampMonotonic")?.parse()?;
    let order = format!("the daemon is ready ({ready} us) before podman begins ({begun} us)");
    checks.check(&order, 0 < ready && ready <= begun, true);
    checks.check("what podman has started", first("again")?, denied());
    reads.end(checks)?;
    checks.check("a file of the host", (host("/srv/secret")?, host("/srv/free")?), (false, true));
    checks.check("what ran all the time", first("running")?, denied());
    let output = podman(&["run", "--rm", "-l", &label(), IMAGE, "/first"])?;
    checks.check("a start", ended(&output), denied());
    let output = Command::new(PROGRAM).arg("status").output()?;
    checks.check(&format!("status: {}", text(&output)), output.status.code(), Some(0));
    Ok(())
}

fn without_it(checks: &mut Checks, when: &str) -> Result<()> {
    checks.check(&format!("{when}: a file of the host"), host("/srv/secret")?, false);
    checks.check(&format!("{when}: what runs"), first("running")?, denied());
    checks.check(&format!("{when}: a start"), run(&["--rm"])?.status.success(), false);
    Ok(())
}

/// Reads a file of the host that is denied, again and again, while something is done to the daemon.
struct Reads {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(usize, usize)>,
}

impl Reads {
    fn begin() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let (mut denied, mut read) = (0, 0);
            while !until.load(Ordering::Relaxed) {
                let count = if fs::read("/srv/secret").is_ok() { &mut read } else { &mut denied };
                *count += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            (denied, read)
        });
        Self { over, thread }
    }

    fn end(self, checks: &mut Checks) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        let (denied, read) = self.thread.join().ok().context("a thread")?;
        checks.check(&format!("meanwhile, of {denied} tries"), (denied > 0, read), (true, 0));
        Ok(())
    }
}

/// Runs `first` in a container that no policy selects.
fn run(options: &[&str]) -> Result<Output> {
    podman(&[&["run"], options, &[IMAGE, "/first"]].concat())
}

fn first(name: &str) -> Result<(Option<i32>, String)> {
    podman(&["exec", name, "/first"]).map(|output| ended(&output))
}

/// Whether a process of the host can read it.
fn host(path: &str) -> Result<bool> {
    Ok(Command::new("/bin/busybox").args(["cat", path]).output()?.status.success())
}

fn denied() -> (Option<i32>, String) {
    (Some(DENIED), "DENIED".to_owned())
}

fn label() -> String {
    format!("{}={}", LABEL.0, LABEL.1)
}

fn mode(path: &str) -> Result<u32> {
    let about = fs::metadata(path).with_context(|| path.to_owned())?;
    Ok(about.permissions().mode() & 0o7777)
}

fn systemctl(arguments: &[&str]) -> Result<Output> {
    Command::new("systemctl").args(arguments).output().context("run systemctl")
}

fn is(state: &str) -> bool {
    systemctl(&["is-active", SERVICE]).is_ok_and(|output| text(&output).trim() == state)
}

fn property(name: &str) -> Result<String> {
    of(SERVICE, name)
}

fn of(unit: &str, name: &str) -> Result<String> {
    Ok(text(&systemctl(&["show", "--value", "-p", name, unit])?).trim().to_owned())
}

fn succeeds(output: Output) -> Result<()> {
    ensure!(output.status.success(), "{}", said(&output));
    Ok(())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn until(what: &str, done: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        ensure!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
