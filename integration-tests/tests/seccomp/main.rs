//! Seccomp policies on real containers, under runc and crun on this machine: its kernel needs no BPF-LSM for them.

mod services;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use enforcer_core::policy::parse;
use enforcer_core::seccomp::{self, Arch, Base, SeccompProfile, compile};
use lab::node::{Daemon, Options};
use lab::oci::{PROGRAM, Runtime};
use lab::run::Target;
use lab::testing::{Node, in_guest_with_program};
use lab::vm::{Containerd, Kernel, Spec};
use nri::fake::FakeRuntime;
use nri::{Container, LinuxContainer, PodSandbox, ProfileKind, SecurityProfile};
use serde_json::Value;

/// A policy for the pods of `app: web`.
fn policy(name: &str, body: &str) -> String {
    format!(
        "---\napiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\n\
         metadata: {{name: {name}, namespace: default}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n{body}\n"
    )
}

fn compiled(policies: &str, base: &Base) -> Result<SeccompProfile> {
    let parsed = parse("policies.yaml", policies);
    ensure!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    let policies: Vec<_> = parsed.seccomp.iter().collect();
    ensure!(!policies.is_empty(), "no policy");
    let node = seccomp::Node { arch: Arch::X86_64, libseccomp: Runtime::libseccomp()? };
    Ok(compile(&policies, base, &node)?)
}

/// The runtime's default, as for a container without capabilities, which is what these are.
fn runtime_default() -> Base {
    Base::RuntimeDefault([].into())
}

/// Runs the calls in a container under both runtimes, with the profile as it is and in the form for NRI, and compares how
/// they end.
fn check(profile: &SeccompProfile, wanted: &[(&str, &str)]) -> Result<()> {
    let mut wrong = Vec::new();
    for (form, profile) in [("whole", &profile.oci), ("for NRI", profile.without_default_errno())] {
        for runtime in Runtime::ALL {
            let calls: Vec<&str> = wanted.iter().map(|(call, _)| *call).collect();
            let ends = runtime.run(&serde_json::to_value(profile)?, &calls)?;
            for (call, wanted) in wanted {
                let found = ends.get(*call).map_or("nothing", String::as_str);
                // runc has an answer of its own for a number that nobody knows; crun gives the default, of which NRI
                // loses the errno
                let lost = runtime == Runtime::Crun && form == "for NRI";
                let wanted = if *call == UNKNOWN && lost { "errno 1" } else { *wanted };
                let any_errno = wanted == "errno" && found.starts_with("errno ");
                if found != wanted && !any_errno {
                    wrong.push(format!("{runtime:?}, {form}: {call}: {found}, not {wanted}"));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A number that no kernel has a system call for.
const UNKNOWN: &str = "64:9999";

#[test]
fn what_a_policy_says_is_what_the_kernel_does() -> Result<()> {
    let profile = compiled(
        &policy(
            "p",
            "  action: Block\n  syscalls: [mkdir, 'rmdir:EACCES', {name: sethostname, errno: kill}, \
             {name: uname, action: Audit}, {name: swapoff, errno: 95}]",
        ),
        &runtime_default(),
    )?;
    check(
        &profile,
        &[
            ("64:39", "ok"),                // getpid
            ("64:83:buf,0x1ff", "errno 1"), // mkdir
            ("64:84:buf", "errno 13"),      // rmdir
            ("64:170:buf,1", "signal 31"),  // sethostname
            ("64:63:buf", "ok"),            // uname
            ("64:168:buf", "errno 95"), // swapoff: the policy's errno before that of the runtime's default
            ("64:435:buf,0", "errno 38"), // clone3: glibc falls back on this, and on no other
            (UNKNOWN, "errno 38"),
        ],
    )
}

#[test]
fn a_number_that_nobody_knows_returns_enosys_and_a_known_one_what_it_did() -> Result<()> {
    let whitelist = format!("{NEEDED}\n  defaultErrno: EACCES");
    for (text, denied) in [
        (policy("p", "  action: Block\n  syscalls: [mkdir]"), "errno 1"),
        (policy("p", &whitelist), "errno 13"),
    ] {
        let profile = compiled(&text, &runtime_default())?;
        ensure!(profile.gaps.is_empty(), "{:?}", profile.gaps);
        ensure!(profile.oci.default_errno_ret == Some(38), "else crun would not answer as runc does");
        check(&profile, &[("64:39", "ok"), ("64:246:0,0,0,0", denied), (UNKNOWN, "errno 38")])?; // kexec_load
    }
    Ok(())
}

#[test]
fn other_ways_into_the_kernel_are_no_way_round_a_policy() -> Result<()> {
    let block = policy("p", "  action: Block\n  syscalls: [mkdir, {name: uname, errno: kill}]");
    let ways = [
        ("32:20", "ok"),                 // getpid
        ("32:39:0,0", "errno 1"),        // mkdir
        ("32:122:0", "signal 31"),       // uname
        ("x32:83:buf,0x1ff", "errno 1"), // mkdir: without a filter ENOSYS, as this kernel has no x32
        ("x32:63:buf", "signal 31"),
    ];
    check(&compiled(&block, &runtime_default())?, &ways)?;
    check(&compiled(&block, &Base::Unconfined)?, &ways)
}

#[test]
fn arguments_are_compared_and_stray_bits_are_no_way_round() -> Result<()> {
    let text = policy(
        "p",
        "  action: Block\n  syscalls:\n    - {name: socket, args: [{index: 0, value: 16}]}\n    \
         - {name: personality, args: [{index: 0, value: 8}]}\n    \
         - {name: fcntl, args: [{index: 1, op: '>=', value: 1024}], errno: EACCES}\n    \
         - {name: getpriority, args: [{index: 0, op: '!=', value: 0}]}",
    );
    check(
        &compiled(&text, &runtime_default())?,
        &[
            ("64:41:1,1,0", "ok"),              // a Unix socket
            ("64:41:16,3,0", "errno 1"),        // netlink
            ("64:41:0x100000010,3,0", "errno"), // the kernel looks at 32 bits, and sees netlink; any errno will do
            ("64:41:40,1,0", "errno 1"),        // vsock, by the runtime's default
            // the runtime's default allows these personalities and no others
            ("64:135:0", "ok"),
            ("64:135:0xffffffff", "ok"),
            ("64:135:0x20000", "ok"),
            ("64:135:8", "errno 1"), // by the policy
            ("64:135:1", "errno 1"), // by the default
            ("64:72:1,3", "ok"),     // F_GETFL
            ("64:72:1,1024", "errno 13"),
            ("64:72:1,0x100000400", "errno 13"),
            ("64:140:0,0", "ok"),
            ("64:140:1,0", "errno 1"),
        ],
    )
}

/// What runtimes need between loading the filter and the container's program, and that program itself.
const NEEDED: &str = "  action: Allow\n  syscalls: ['@default', '@basic-io', '@file-system', '@process', '@io-event', \
    '@signal', fcntl, getdents64, prctl, capget, capset]";

#[test]
fn policies_together_allow_what_one_allows_and_none_denies() -> Result<()> {
    // four system calls that nothing else here makes, and one that nobody allows
    let calls = ["64:140:0,0", "64:146:1", "64:99:buf", "64:148:0,buf", "64:252:1,0", UNKNOWN];
    let needed = policy("needed", NEEDED);
    let first = policy(
        "first",
        "  syscalls:\n    - {names: [getpriority, sched_get_priority_max, sched_rr_get_interval], action: Allow}\n    \
         - {name: sysinfo, action: Block}",
    );
    let second = policy(
        "second",
        "  syscalls:\n    - {names: [getpriority, sysinfo], action: Allow}\n    \
         - {name: sched_get_priority_max, action: Block}",
    );
    let ends = |ends: [&'static str; 6]| calls.into_iter().zip(ends).collect::<Vec<_>>();
    let both = compiled(&(needed.clone() + &first + &second), &Base::Unconfined)?;
    check(&both, &ends(["ok", "errno 1", "errno 1", "ok", "errno 1", "errno 38"]))?;
    let one = compiled(&(needed.clone() + &first), &Base::Unconfined)?;
    check(&one, &ends(["ok", "ok", "errno 1", "ok", "errno 1", "errno 38"]))?;
    // and never more than the container may without them
    let base = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
    let one = compiled(&(needed + &first), &Base::Profile(serde_json::from_str(base)?))?;
    check(&one, &ends(["errno 13", "ok", "errno 1", "ok", "errno 1", "errno 38"]))
}

/// What the documentation shows, and what it says that a whitelist must have.
#[test]
fn the_policy_that_the_documentation_shows_and_the_groups_that_it_names_run_a_container() -> Result<()> {
    let section = include_str!("../../../nri-plugin/docs/seccomp.md");
    let (_, example) = section.split_once("```yaml\n").context("no example")?;
    let (example, _) = example.split_once("```").context("it does not end")?;
    let profile = compiled(example, &runtime_default())?;
    check(
        &profile,
        &[
            ("64:39", "ok"),
            ("64:41:1,1,0", "ok"),
            ("64:41:38,5,0", "errno 97"),
            ("64:165:0,0,0,0,0", "errno 1"),
        ],
    )?;
    let (_, advice) = section.split_once("start from\n").context("no advice")?;
    let (advice, _) = advice.split_once(", or learn it").context("it does not end")?;
    let groups: Vec<&str> = advice.split('`').filter(|part| part.starts_with('@')).collect();
    let text = policy("p", &format!("  action: Allow\n  syscalls: {}", serde_json::to_string(&groups)?));
    check(&compiled(&text, &Base::Unconfined)?, &[("64:39", "ok"), ("64:165:0,0,0,0,0", "errno 1")])
}

/// The daemon and command line under test.
fn program() -> Result<PathBuf> {
    // of a target only the daemon's path is asked for
    Target { spec: Spec::node(Kernel::V6_12, Containerd::V2_1), daemon: None }.daemon()
}

fn cli(arguments: &[&str]) -> Result<(i32, String, String)> {
    let output = Command::new(program()?).args(arguments).stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
}

/// A node with the real daemon and a fake runtime: what NRI 0.12 has no package for.
struct Served {
    daemon: Daemon,
    runtime: FakeRuntime,
    _dir: tempfile::TempDir,
}

impl Served {
    async fn start(policies: &str, arguments: &[&str]) -> Result<(Self, nri::fake::FakePlugin)> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("nri.sock");
        let mut all = vec!["--nri-socket".to_owned(), socket.display().to_string()];
        for (flag, path) in
            [("seccomp-dir", "kubelet/seccomp"), ("gate-socket", "run/gate"), ("status-socket", "run/status")]
        {
            all.push(format!("--{flag}={}", dir.path().join(path).display()));
        }
        all.extend(arguments.iter().map(|one| (*one).to_owned()));
        let mut daemon =
            Daemon::new(dir.path(), Options { program: program()?, postures: vec![], arguments: all })?;
        daemon.write_policy("p.yaml", policies)?;
        let mut runtime = FakeRuntime::bind(&socket, nri::fake::Options::containerd("2.4.0"))?;
        let (started, plugin) = tokio::join!(daemon.start(), runtime.accept());
        started?;
        Ok((Self { daemon, runtime, _dir: dir }, plugin?))
    }
}

fn pod() -> PodSandbox {
    let mut pod = PodSandbox::default();
    (pod.id, pod.name, pod.namespace) = ("pod".into(), "web-1".into(), "default".into());
    pod.labels.insert("app".into(), "web".into());
    pod
}

fn container(id: &str, kind: ProfileKind) -> Container {
    let mut profile = SecurityProfile::default();
    profile.kind = kind;
    let mut linux = LinuxContainer::default();
    linux.seccomp_profile = Some(profile);
    let mut container = Container::default();
    (container.id, container.name, container.pod_sandbox_id) = (id.into(), "main".into(), "pod".into());
    container.linux = Some(linux);
    container
}

/// The `linux.seccomp` that a runtime makes of an adjustment: the errno of the default action gets lost.
fn generated(policy: &nri::LinuxSeccomp) -> Value {
    let syscalls = policy.syscalls.iter().map(|one| {
        let args = one.args.iter().map(|arg| {
            serde_json::json!({"index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op})
        });
        // crun takes no `null`
        let errno = one.errno_ret.map(|errno| ("errnoRet".to_owned(), errno.into()));
        let entry = [
            ("names".to_owned(), serde_json::json!(one.names)),
            ("action".to_owned(), one.action.clone().into()),
            ("args".to_owned(), args.collect::<Vec<_>>().into()),
        ];
        Value::Object(entry.into_iter().chain(errno).collect())
    });
    serde_json::json!({
        "defaultAction": policy.default_action,
        "architectures": policy.architectures,
        "flags": policy.flags,
        "syscalls": syscalls.collect::<Vec<_>>(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_adjustment_is_a_profile_that_runtimes_take() -> Result<()> {
    let text =
        policy("p", "  action: Block\n  syscalls: [mkdir, 'rmdir:EACCES', {name: uname, action: Audit}]");
    let (node, plugin) = Served::start(&text, &["--seccomp-only"]).await?;
    let calls = ["64:39", "64:83:buf,0x1ff", "64:84:buf", "64:63:buf", "64:135:1", "64:435:buf,0", UNKNOWN];
    for (kind, personality, clone3) in
        [(ProfileKind::RuntimeDefault, "errno 1", "errno 38"), (ProfileKind::Unconfined, "ok", "errno 22")]
    {
        let adjustment = plugin.create_container(&pod(), &container("c1", kind)).await?;
        let policy =
            adjustment.linux.seccomp_policy.clone().context("no seccomp policy in the adjustment")?;
        let digest = adjustment.annotations.get("nri-enforcer.io/seccomp").context("no digest")?;
        ensure!(digest.len() == 64, "{digest}");
        let seccomp = generated(&policy);
        for runtime in Runtime::ALL {
            let ends = runtime.run(&seccomp, &calls)?;
            // a number that nobody knows: see `check`
            let unknown = match (runtime, kind) {
                (Runtime::Crun, ProfileKind::RuntimeDefault) => "errno 1",
                _ => "errno 38",
            };
            let wanted = ["ok", "errno 1", "errno 13", "ok", personality, clone3, unknown];
            let wanted: BTreeMap<_, _> =
                calls.iter().zip(wanted).map(|(call, end)| ((*call).to_owned(), end.to_owned())).collect();
            ensure!(ends == wanted, "{runtime:?} {kind:?}: {ends:?}, not {wanted:?}");
        }
        if kind == ProfileKind::RuntimeDefault {
            let wire = nri::fake::encoded_len(&adjustment);
            ensure!(wire > 4096, "only {wire} bytes: smaller than what the mux has to cut");
        }
    }
    // what runs waits for its restart
    node.daemon.apply("p.yaml", &text.replace("mkdir, ", "")).await?;
    let told = |alert: &Value| alert["Data"] == "notice=seccomp-pending-restart";
    let alerts = node.daemon.wait_for_alert(std::time::Duration::from_secs(20), told).await?;
    ensure!(alerts.iter().any(told), "{alerts:?}\n{}", node.daemon.log());
    let _served = node.runtime;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_bpf_lsm_serves_seccomp_policies_and_tells_the_rest() -> Result<()> {
    let other = "---\napiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\n\
        metadata: {name: files, namespace: default}\nspec:\n  selector: {matchLabels: {app: web}}\n  \
        file: {matchPaths: [{path: /etc/passwd}]}\n  action: Block\n";
    let text = policy("p", "  action: Block\n  syscalls: [mkdir]") + other;
    let (node, plugin) = Served::start(&text, &["--seccomp-only"]).await?;
    let container = container("c1", ProfileKind::RuntimeDefault);
    let adjustment = plugin.create_container(&pod(), &container).await?;
    ensure!(adjustment.linux.seccomp_policy.is_some());
    plugin.start_container(&pod(), &container).await?;
    let log = node.daemon.whole_log();
    ensure!(log.contains("default/files") && log.contains("enforces seccomp policies alone"), "{log}");
    drop((node, plugin));
    // strict: a container whose rules have a gap does not start
    let (_node, plugin) = Served::start(&text, &["--seccomp-only", "--strict"]).await?;
    let refused = plugin.create_container(&pod(), &container).await.expect_err("refused").to_string();
    ensure!(refused.contains("default/files"), "{refused}");
    Ok(())
}

#[test]
fn what_an_audit_policy_logs_is_learnt_and_enough_to_run() -> Result<()> {
    let audit = compiled(&policy("audit", "  action: Audit\n  syscalls: ['@known']"), &Base::Unconfined)?;
    let calls = ["64:39", "64:140:0,0", "32:20", "64:63:buf"];
    for runtime in Runtime::ALL {
        let mut learning = Command::new(program()?)
            .args(["learn", "seccomp", "--for", "3s", "--exe", PROGRAM])
            .args(["--namespace", "default", "--label", "app=web", "--name", "web"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // it says when nothing is missed any more
        let mut said = [0; 9];
        std::io::Read::read_exact(learning.stderr.as_mut().context("no stderr")?, &mut said)?;
        ensure!(&said == b"listening", "{}", String::from_utf8_lossy(&said));
        runtime.run(&serde_json::to_value(&audit.oci)?, &calls)?;
        let output = learning.wait_with_output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let learnt = String::from_utf8(output.stdout)?;
        for name in ["exit", "fork", "getpid", "getpriority", "uname", "wait4", "write"] {
            ensure!(learnt.contains(&format!("    - {name}\n")), "{name} is not in\n{learnt}");
        }
        ensure!(learnt.contains("1 of x86)"), "{learnt}");
        // what the runtime itself does before it executes the program differs from run to run
        let both = learnt.clone() + &policy("needed", NEEDED);
        let profile = serde_json::to_value(&compiled(&both, &Base::Unconfined)?.oci)?;
        let ends = runtime.run(&profile, &["64:39", "64:140:0,0", "64:63:buf", "64:146:1", "64:99:buf"])?;
        let denied: Vec<&str> =
            ends.iter().filter(|(_, end)| *end != "ok").map(|(call, _)| call.as_str()).collect();
        ensure!(denied == ["64:146:1", "64:99:buf"], "{runtime:?}: {ends:?} under\n{learnt}");
    }
    Ok(())
}

#[test]
fn an_old_runtime_takes_the_profile_that_the_pod_names_containerd_1_7() -> Result<()> {
    let name = "an_old_runtime_takes_the_profile_that_the_pod_names_containerd_1_7";
    let spec = Spec::node(Kernel::V6_12, Containerd::V1_7);
    in_guest_with_program(name, &spec, &[], |node| Box::pin(localhost_profile(node))).map(drop)
}

#[test]
fn an_old_runtime_takes_the_profile_that_the_pod_names_containerd_2_1() -> Result<()> {
    let name = "an_old_runtime_takes_the_profile_that_the_pod_names_containerd_2_1";
    let spec = Spec::node(Kernel::V6_12, Containerd::V2_1);
    in_guest_with_program(name, &spec, &[], |node| Box::pin(localhost_profile(node))).map(drop)
}

/// What a runtime before NRI 0.10 does: a real one, with the daemon for seccomp policies alone.
async fn localhost_profile(node: &mut Node) -> Result<()> {
    use lab::node::Container;
    const FILE: &str = "/run/kubelet/seccomp/nri-enforcer/default.p.json";
    let options = |strict: &[&str]| Options {
        program: "./nri-enforcer".into(),
        postures: vec![],
        arguments: ["--seccomp-only", "--seccomp-dir", "/run/kubelet/seccomp"]
            .iter()
            .chain(strict)
            .map(|one| (*one).to_owned())
            .collect(),
    };
    let text = policy("p", "  action: Block\n  syscalls: [mkdir, mkdirat]");
    let mut daemon = Daemon::new("/run/seccomp-daemon".as_ref(), options(&[]))?;
    daemon.write_policy("p.yaml", &text)?;
    daemon.start().await?;
    let web = node.pod("default", "web", &[("app", "web")]).await?;
    let run = |name: &str, file: Option<&str>| Container {
        seccomp: file.map(str::to_owned),
        ..Container::new(name, &["/bin/sh", "-c", "touch /a && mkdir /b"])
    };
    let ends = async |node: &Node, container: Container, attempt: u32| -> Result<Result<i32, String>> {
        let created = node.cri.create(&web, &container, attempt).await?;
        if let Err(refused) = node.cri.start(&created).await {
            return Ok(Err(refused.message().to_owned()));
        }
        let state = node.cri.wait(&created, std::time::Duration::from_secs(60)).await?;
        Ok(Ok(state.and_then(|state| state.exit).context("it does not end")?))
    };
    let not_applied = |alerts: &[Value]| -> Vec<String> {
        let told = alerts.iter().filter(|alert| alert["Data"] == "notice=seccomp-not-applied");
        told.map(|alert| alert["ContainerName"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let named = ends(node, run("named", Some(FILE)), 0).await?;
    node.check("a container that names the profile", named, Ok(1));
    node.check("alerts about it", not_applied(&daemon.alerts().await?), vec![]);
    let unnamed = ends(node, run("unnamed", None), 0).await?;
    node.check("a container that does not", unnamed, Ok(0));
    node.check("alerts about it", not_applied(&daemon.alerts().await?), vec!["unnamed".to_owned()]);

    // the profile stays while a container has it, also over a restart of the daemon
    let idle = Container { seccomp: Some(FILE.into()), ..Container::idle("idle") };
    let idle = node.cri.create(&web, &idle, 0).await?;
    node.cri.start(&idle).await?;
    daemon.end(nix::sys::signal::Signal::SIGTERM)?;
    let mut daemon = Daemon::new("/run/seccomp-daemon".as_ref(), options(&["--strict"]))?;
    daemon.start().await?;
    let refused = ends(node, run("unnamed", None), 1).await?;
    let told = refused.is_err_and(|why| why.contains("localhostProfile: nri-enforcer/default.p.json"));
    node.check("strict refuses what does not name it", told, true);
    let named = ends(node, run("named", Some(FILE)), 1).await?;
    node.check("and nothing else", named, Ok(1));
    let before = daemon.policy_changes();
    daemon.remove_policy("p.yaml")?;
    daemon.wait_for_change(before).await?;
    let alerts = daemon
        .wait_for_alert(std::time::Duration::from_secs(20), |alert| {
            alert["Data"] == "notice=seccomp-pending-restart" && alert["ContainerName"] == "idle"
        })
        .await?;
    let pending = alerts.iter().any(|alert| alert["ContainerName"] == "idle");
    node.check("pending restart after the policy went", pending, true);
    node.check("its profile is still there", Path::new(FILE).exists(), true);
    if !pending {
        println!("{}", daemon.log());
    }
    Ok(())
}
