//! A node with a thousand containers under a thousand policies: how long a change of the policies takes to be in force
//! from the file's change on, and how much memory the daemon holds.
//!
//! The daemon is the real one, in a process of its own, connected to a fake runtime. Its containers all have this
//! benchmark's process as their first one, so links are looked up in this machine's root. Only the kernel is not there:
//! in its place rulesets are compiled, once for each digest, and dropped. What exchanging a thousand rulesets costs in
//! the kernel's maps is measured in a guest by `make bench`; add that to the times here.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use enforcer_core::compile::bpf::{compile, compile_all};
use enforcer_core::enforce::{ContainerId, Target};
use enforcer_core::policy::{Policy, parse};
use enforcer_core::ruleset::{Ruleset, RulesetDigest};
use enforcer_core::subject::Subject;
use nix::time::{ClockId, clock_gettime};
use nri::fake::{FakeRuntime, Options};
use nri::{Container, ContainerState, PodSandbox};
use nri_plugin::cli::RunArgs;
use nri_plugin::config::Config;
use nri_plugin::container::Selection;
use nri_plugin::kernel::{Kernel, KernelError};
use nri_plugin::set::PolicySet;

type Outcome<T> = Result<T, Box<dyn Error>>;

const CONTAINERS: usize = 1_000;
const POLICIES: usize = 1_000;
const RULES: usize = 10;
/// On one CPU.
const COMPILED: Duration = Duration::from_secs(1);
/// From the change of a file until all containers that it touches have their rules.
const CHANGE: Duration = Duration::from_millis(100);
/// The same where no two containers share rules: 100 ms are not reached on two CPUs, both of which are busy from the
/// beginning to the end. 126 to 132 ms are the best that was measured: a container takes some 30 us to be resolved, 30
/// for its links, 40 to look its paths up and 40 to be compiled.
const CHANGE_OWN: Duration = Duration::from_millis(150);
/// What the daemon may hold after its start, in KiB.
const MEMORY: u64 = 40 << 10;
/// The same after changes that gave every container other rules: what the changes leave is spread over the pages of what
/// was, and the names of the last paths that rules named are kept.
const MEMORY_CHANGED: u64 = 48 << 10;
/// And where no two containers share rules.
const MEMORY_OWN: u64 = 52 << 10;
/// Set in the daemon's process: where everything is.
const ROLE: &str = "NODE_BENCH_DIR";

fn main() -> Outcome<()> {
    if let Some(dir) = std::env::var_os(ROLE) {
        return daemon(Path::new(&dir));
    }
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return Ok(());
    }
    let mut within = compiling()?;
    for shape in [Shape::Own, Shape::Shared] {
        within &= node(shape)?;
    }
    if within { Ok(()) } else { Err("a limit is missed".into()) }
}

/// What the containers have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Each container is selected by a policy of its own.
    Own,
    /// Replicas: a hundred workloads, each selected by ten policies.
    Shared,
}

impl Shape {
    fn app(self, n: usize) -> String {
        let n = if self == Self::Own { n } else { n % 100 };
        format!("app-{n}")
    }

    fn name(self) -> &'static str {
        match self {
            Self::Own => "each with a policy of its own",
            Self::Shared => "replicas of 100 workloads, ten policies for each",
        }
    }
}

fn policy(name: &str, selector: &str, path: impl Fn(usize) -> String) -> String {
    let rules: String = (0..RULES).map(|n| format!("      - path: {}\n", path(n))).collect();
    format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  selector: {selector}\n  file:\n    matchPaths:\n{rules}"
    )
}

/// Half of the paths lead through a link (`/bin`, where that is one).
fn own_policy(shape: Shape, n: usize) -> String {
    let selector = format!("{{matchLabels: {{app: {}}}}}", shape.app(n));
    policy(&format!("policy-{n}"), &selector, |rule| match rule % 2 {
        0 => format!("/bin/program-{n}-{rule}"),
        _ => format!("/srv/data-{n}/directory/file-{rule}"),
    })
}

fn say(what: &str, shape: &str, found: String, limit: &str) {
    println!("{what:<58} {shape:<50} {found:>12}  {limit}");
}

/// The pure stages alone: every container resolved, and every ruleset compiled. Whether that keeps the limit.
fn compiling() -> Outcome<bool> {
    let mut within = true;
    for shape in [Shape::Own, Shape::Shared] {
        let mut policies: Vec<std::sync::Arc<Policy>> = Vec::new();
        for n in 0..POLICIES {
            let parsed = parse("bench.yaml", &own_policy(shape, n));
            if let Some(error) = parsed.errors.into_iter().next() {
                return Err(error.into());
            }
            policies.extend(parsed.policies.into_iter().map(std::sync::Arc::new));
        }
        let begin = Instant::now();
        let set = PolicySet::new(policies);
        let selection = Selection::default();
        let mut compiled = BTreeSet::new();
        for n in 0..CONTAINERS {
            let labels = [("app".to_owned(), shape.app(n))].into();
            let subject = Subject { namespace: "shop".into(), labels, ..Subject::default() };
            let merged = selection.resolve(&set, &subject, Default::default()).ok_or("not selected")?;
            if compiled.insert(merged.ruleset.digest()) {
                compile(&merged.ruleset)?;
            }
        }
        let took = begin.elapsed();
        let what = "1,000 policies resolved and compiled for 1,000 containers";
        say(what, shape.name(), milliseconds(took), &format!("limit {} ms", COMPILED.as_millis()));
        within &= took <= COMPILED;
    }
    Ok(within)
}

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// The daemon and its lines: the time at which so many containers had been given rules.
struct Daemon {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Daemon {
    /// When the `count`th ruleset after the last one asked for was in place.
    fn reached(&mut self, count: usize) -> Outcome<Duration> {
        let (mut seen, mut last) = (0, Duration::ZERO);
        while seen < count {
            let line = self.lines.next().ok_or("the daemon ended")??;
            let (number, when) = line.split_once(' ').ok_or("no count")?;
            seen += number.parse::<usize>()?;
            last = Duration::from_nanos(when.parse()?);
        }
        Ok(last)
    }

    fn memory(&self) -> Outcome<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// The time in the middle, in milliseconds.
fn median(times: &mut [Duration]) -> Outcome<Duration> {
    times.sort_unstable();
    Ok(*times.get(times.len() / 2).ok_or("nothing was measured")?)
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Whether it keeps the limits.
fn node(shape: Shape) -> Outcome<bool> {
    let dir = tempfile::tempdir()?;
    let policies = dir.path().join("policies");
    std::fs::create_dir(&policies)?;
    for n in 0..POLICIES {
        std::fs::write(policies.join(format!("policy-{n}.yaml")), own_policy(shape, n))?;
    }
    let mut options = Options::containerd("2.1.9");
    options.request_timeout = Duration::from_secs(60);
    for n in 0..CONTAINERS {
        let mut pod = PodSandbox::default();
        (pod.id, pod.name, pod.namespace) = (format!("pod-{n:060}"), format!("web-{n}"), "shop".into());
        pod.labels.insert("app".into(), shape.app(n));
        let mut container = Container::default();
        (container.id, container.name, container.pid) =
            (format!("{n:064}"), "main".into(), std::process::id());
        container.pod_sandbox_id.clone_from(&pod.id);
        container.state = ContainerState::Running;
        options.pods.push(pod);
        options.containers.push(container);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut fake = runtime.block_on(async { FakeRuntime::bind(dir.path().join("nri.sock"), options) })?;
    let mut child = Command::new(std::env::current_exe()?)
        .env(ROLE, dir.path())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(dir.path().join("log"))?)
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let mut daemon = Daemon { child, lines };
    let plugin = runtime.block_on(fake.accept())?;
    daemon.reached(CONTAINERS)?;
    std::thread::sleep(Duration::from_secs(2));
    let after_start = daemon.memory()?;

    // as an editor or kubelet saves: complete beside, then renamed
    let change = |name: &str, text: &str| -> Outcome<Duration> {
        let new = dir.path().join("new");
        std::fs::write(&new, text)?;
        let begin = now();
        std::fs::rename(&new, policies.join(name))?;
        Ok(begin)
    };
    let mut every = Vec::new();
    let mut one = Vec::new();
    for round in 0..5 {
        let text = policy("every", "{}", |rule| format!("/bin/every-{round}-{rule}"));
        let begin = change("every.yaml", &text)?;
        every.push(daemon.reached(CONTAINERS)? - begin);
        std::thread::sleep(Duration::from_millis(300));
        let touched = if shape == Shape::Own { 1 } else { CONTAINERS / 100 };
        let begin =
            change("policy-7.yaml", &own_policy(shape, 7).replace("file-3", &format!("other-{round}")))?;
        one.push(daemon.reached(touched)? - begin);
        std::thread::sleep(Duration::from_millis(300));
    }
    let most = if shape == Shape::Own { CHANGE_OWN } else { CHANGE };
    let (every, one) = (median(&mut every)?, median(&mut one)?);
    let limit = format!("limit {} ms", most.as_millis());
    say("a change that touches all, from the file on", shape.name(), milliseconds(every), &limit);
    say("a change of one of the policies, from the file on", shape.name(), milliseconds(one), "");
    let in_time = every <= most;
    let most = if shape == Shape::Own { MEMORY_OWN } else { MEMORY_CHANGED };
    let limit = |most: u64| format!("limit {} MiB, of which the programs and libbpf take a part", most >> 10);
    let after_changes = daemon.memory()?;
    say("memory of the daemon after the start", shape.name(), format!("{after_start} KiB"), &limit(MEMORY));
    say("memory of the daemon after ten changes", shape.name(), format!("{after_changes} KiB"), &limit(most));
    drop(plugin);
    Ok(in_time && after_start <= MEMORY && after_changes <= most)
}

/// The daemon's process.
fn daemon(dir: &Path) -> Outcome<()> {
    let at = |name: &str| -> Option<PathBuf> { Some(dir.join(name)) };
    let args = RunArgs {
        policy_dirs: vec![dir.join("policies")],
        nri_socket: Some(at("nri.sock")),
        gate_socket: at("gate/gate.sock"),
        status_socket: at("gate/status.sock"),
        open_starts: at("open-starts"),
        alerts: at("alerts"),
        ..RunArgs::default()
    };
    let config = Config::new(args, None)?;
    nri_plugin::run::run(config, |_| Ok(NoKernel::default()), nri_plugin::kernel::open_apparmor)?;
    Ok(())
}

/// Compiles what it gets, and tells when.
#[derive(Default)]
struct NoKernel(Mutex<Armed>);

#[derive(Default)]
struct Armed {
    containers: BTreeMap<ContainerId, RulesetDigest>,
    users: BTreeMap<RulesetDigest, usize>,
}

impl NoKernel {
    fn put(&self, updates: &[(&ContainerId, &Ruleset)]) -> Vec<Result<(), KernelError>> {
        let Ok(mut armed) = self.0.lock() else {
            return updates.iter().map(|_| Err(KernelError::new("poisoned"))).collect();
        };
        let new: BTreeMap<_, _> = updates.iter().map(|(_, ruleset)| (ruleset.digest(), *ruleset)).collect();
        let new: Vec<&Ruleset> = new
            .into_iter()
            .filter(|(digest, _)| !armed.users.contains_key(digest))
            .map(|(_, ruleset)| ruleset)
            .collect();
        if let Some(error) = std::hint::black_box(compile_all(&new)).into_iter().find_map(Result::err) {
            return updates.iter().map(|_| Err(KernelError::new(error.to_string()))).collect();
        }
        for (id, ruleset) in updates {
            let digest = ruleset.digest();
            *armed.users.entry(digest).or_default() += 1;
            if let Some(before) = armed.containers.insert((*id).clone(), digest)
                && let Some(users) = armed.users.get_mut(&before)
            {
                *users -= 1;
                if *users == 0 {
                    armed.users.remove(&before);
                }
            }
        }
        updates.iter().map(|_| Ok(())).collect()
    }
}

/// So many more have their rules.
fn tell(count: usize) {
    println!("{count} {}", now().as_nanos());
}

impl Kernel for NoKernel {
    fn arm(&self, target: &Target, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.put(&[(&target.id, ruleset)]).into_iter().collect::<Result<(), _>>()?;
        tell(1);
        Ok(())
    }

    fn update(&self, id: &ContainerId, ruleset: &Ruleset) -> Result<(), KernelError> {
        self.put(&[(id, ruleset)]).into_iter().collect::<Result<(), _>>()?;
        tell(1);
        Ok(())
    }

    fn update_all(&self, updates: &[(&ContainerId, &Ruleset)]) -> Vec<Result<(), KernelError>> {
        let results = self.put(updates);
        tell(updates.len());
        results
    }

    fn disarm(&self, _: &ContainerId) -> Result<(), KernelError> {
        Ok(())
    }

    fn armed(&self) -> Result<BTreeMap<ContainerId, RulesetDigest>, KernelError> {
        Ok(self.0.lock().map_err(|_| KernelError::new("poisoned"))?.containers.clone())
    }
}
