//! Events in both dialects, adjustments of every size, and what nobody asked for.
#![cfg(test)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use nri::fake::{FakeError, FakePlugin, FakeRuntime, Options, TrunkError};
use nri::*;

const OLD: &str = "2.1.9+unknown";
const NEW: &str = "v2.3.1";

async fn start(version: &str, recorder: &Arc<Recorder>, events: EventMask) -> (FakePlugin, Running, Place) {
    let place = Place::new();
    let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd(version)).unwrap();
    let running = Running::start(builder(place.socket()).events(events), recorder);
    let plugin = within(runtime.accept()).await.unwrap();
    running.synchronized().await;
    (plugin, running, place)
}

#[tokio::test]
async fn both_dialects_reach_the_same_handlers() {
    for version in [OLD, NEW] {
        let recorder = Arc::new(Recorder::default());
        let (plugin, running, _place) = start(version, &recorder, EventMask::ALL).await;
        let mut expected = vec!["Configure", "Synchronize"];
        for event in PLAIN {
            plugin.event(*event, &pod("p"), Some(&container("c"))).await.unwrap();
            expected.push(event.name());
        }
        plugin.create_container(&pod("p"), &container("c")).await.unwrap();
        plugin.stop_container(&pod("p"), &container("c")).await.unwrap();
        let mut resources = LinuxResources::default();
        resources.pids = Some(7);
        plugin.update_container(&pod("p"), &container("c"), &resources).await.unwrap();
        assert_eq!(recorder.resources.lock().unwrap().as_ref(), Some(&resources));
        expected.extend(["CreateContainer", "StopContainer", "UpdateContainer"]);
        assert_eq!(recorder.names(), expected, "{version}");
        for (name, about) in recorder.calls.lock().unwrap().iter().skip(2) {
            assert_eq!(about, if name.contains("Pod") { "p" } else { "c" }, "{name}");
        }
        let counters = running.handle.counters();
        assert_eq!((counters.unimplemented, counters.refusals, counters.panics), (0, 0, 0));
        assert_eq!(counters.requests, 12);
    }
}

#[tokio::test]
async fn events_since_nri_0_10() {
    let recorder = Arc::new(Recorder::default());
    let (plugin, _running, _place) = start(NEW, &recorder, EventMask::ALL).await;
    plugin.event(Event::PostUpdatePodSandbox, &pod("p"), None).await.unwrap();
    // pod { id: "p" }, linux_resources { pids { limit: 9 } }
    let request = [0x0a, 3, 0x0a, 1, b'p', 0x1a, 4, 0x42, 2, 0x08, 9];
    plugin.call("UpdatePodSandbox", request.to_vec()).await.unwrap();
    assert_eq!(recorder.resources.lock().unwrap().as_ref().unwrap().pids, Some(9));

    let mut request = Validation::default();
    request.container = container("c");
    request.adjustment = ContainerAdjustment::new().env("A", "b");
    request.plugins = vec![PluginInstance::default()];
    let mut owners = FieldOwners::default();
    owners.simple.insert(32, "10-seccomp".to_owned());
    owners.compound.insert(6, BTreeMap::from([("A".to_owned(), "10-env".to_owned())]));
    request.owners.insert("c".to_owned(), owners);
    assert_eq!(plugin.validate(&request).await.unwrap(), Ok(()));
    assert_eq!(recorder.validation.lock().unwrap().as_ref(), Some(&request));
    recorder.told("ValidateContainerAdjustment", Act::Refuse("not this env"));
    assert_eq!(plugin.validate(&request).await.unwrap(), Err("not this env".to_owned()));
}

#[tokio::test]
async fn a_refusal_is_an_error_status_with_the_plugins_text() {
    for version in [OLD, NEW] {
        let recorder = Arc::new(Recorder::default());
        for handler in ["CreateContainer", "StartContainer", "RunPodSandbox"] {
            recorder.told(handler, Act::Refuse("policy `default/x` says no"));
        }
        let (plugin, running, _place) = start(version, &recorder, EventMask::ALL).await;
        let errors = [
            plugin.create_container(&pod("p"), &container("c")).await.map(|_| ()),
            plugin.start_container(&pod("p"), &container("c")).await,
            plugin.event(Event::RunPodSandbox, &pod("p"), None).await,
        ];
        for error in errors {
            let error = error.unwrap_err();
            assert!(!error.fails_open(), "{error}");
            let FakeError::Status { code: 2, message } = error else { panic!("{error}") };
            assert_eq!(message, "policy `default/x` says no");
        }
        assert_eq!(running.handle.counters().refusals, 3);
        // The plugin stays in service.
        plugin.remove_container(&pod("p"), &container("c")).await.unwrap();
    }
}

#[tokio::test]
async fn an_event_not_subscribed_to_is_unimplemented_and_falls_back_to_nothing() {
    let recorder = Arc::new(Recorder::default());
    let (plugin, running, _place) = start(NEW, &recorder, Event::CreateContainer.into()).await;
    // A runtime sends what it should not: as a procedure it is UNIMPLEMENTED, 12, and never NOT_FOUND, 5 ...
    for event in Event::ALL.iter().filter(|event| **event != Event::CreateContainer) {
        let error = plugin.call(event.name(), Vec::new()).await.unwrap_err();
        assert!(matches!(error, FakeError::Status { code: 12, .. }), "{event}: {error}");
    }
    // ... so that the runtime falls back to a StateChange, which does no harm.
    for event in PLAIN {
        plugin.event_unasked(*event, &pod("p"), Some(&container("c"))).await.unwrap();
    }
    assert_eq!(recorder.names(), ["Configure", "Synchronize"]);
    assert_eq!(running.handle.counters().unimplemented, 13 + 2 * 8);
}

#[tokio::test]
async fn unknown_events_procedures_and_bytes_do_no_harm() {
    let recorder = Arc::new(Recorder::default());
    let (plugin, _running, _place) = start(NEW, &recorder, EventMask::ALL).await;
    for number in [0, 4, 8, 15, 16, 99, -1, i32::MAX, i32::MIN] {
        plugin.state_change(number, &pod("p"), None).await.unwrap();
    }
    let error = plugin.call("BlessContainer", Vec::new()).await.unwrap_err();
    assert!(matches!(error, FakeError::Status { code: 12, .. }), "{error}");
    let error = plugin.call("StartContainer", vec![0xff; 40]).await.unwrap_err();
    assert!(matches!(error, FakeError::Status { .. }), "{error}");
    assert_eq!(recorder.names(), ["Configure", "Synchronize"]);
    // A request without a pod or a container is one about empty ones.
    plugin.call("StartContainer", Vec::new()).await.unwrap();
    assert_eq!(recorder.names().last().unwrap(), "StartContainer");
}

fn full_adjustment() -> ContainerAdjustment {
    let mut syscall = LinuxSyscall::default();
    syscall.names = vec!["openat".to_owned(), "open".to_owned()];
    syscall.action = "SCMP_ACT_ERRNO".to_owned();
    syscall.errno_ret = Some(0);
    let mut arg = LinuxSeccompArg::default();
    (arg.index, arg.value, arg.value_two, arg.op) = (2, u64::MAX, 1, "SCMP_CMP_MASKED_EQ".to_owned());
    syscall.args = vec![arg];
    let mut seccomp = LinuxSeccomp::default();
    seccomp.default_action = "SCMP_ACT_ALLOW".to_owned();
    seccomp.default_errno = Some(38);
    seccomp.architectures = vec!["SCMP_ARCH_X86_64".to_owned()];
    seccomp.syscalls = vec![syscall];
    let mut resources = LinuxResources::default();
    let mut memory = LinuxMemory::default();
    (memory.limit, memory.swappiness, memory.disable_oom_killer) = (Some(-1), Some(0), Some(false));
    resources.memory = Some(memory);
    resources.unified.insert("memory.high".to_owned(), "1G".to_owned());
    let mut device = LinuxDevice::default();
    (device.path, device.kind, device.major, device.file_mode) =
        ("/dev/x".into(), "c".into(), 7, Some(0o600));
    let mut scheduler = LinuxScheduler::default();
    scheduler.policy = SchedulerPolicy::Batch;
    scheduler.flags = vec![SchedulerFlag::ResetOnFork, SchedulerFlag::Other(77)];
    let mut policy = MemoryPolicy::default();
    (policy.mode, policy.nodes) = (MemoryPolicyMode::Interleave, "0-1".to_owned());
    let mut rdt = Rdt::default();
    (rdt.clos_id, rdt.schemata) = (Some(String::new()), Some(vec!["L3:0=f".to_owned()]));
    let mut adjustment = ContainerAdjustment::new()
        .annotation("example.org/a", "1")
        .remove_annotation("gone")
        .mount(Mount::bind("/host", "/in").option("ro"))
        .remove_mount("/tmp")
        .env("A", "")
        .remove_env("B")
        .hook(HookPoint::CreateRuntime, Hook::new("/bin/hook").args(["hook", "x"]).env("K", "v").timeout(0))
        .hook(HookPoint::Poststop, Hook::new("/bin/after"))
        .rlimit(Rlimit::new("RLIMIT_NOFILE", u64::MAX, 1))
        .args(["/bin/sh", ""])
        .cdi_device("vendor.com/gpu=0")
        .seccomp(seccomp)
        .device(device)
        .resources(resources.clone())
        .namespace(LinuxNamespace::new("-network", ""))
        .sysctl("net.core.somaxconn", "1")
        .update(ContainerUpdate::new("other", resources));
    adjustment.linux.oom_score_adj = Some(0);
    adjustment.linux.io_priority = Some(IoPriority::default());
    adjustment.linux.scheduler = Some(scheduler);
    adjustment.linux.memory_policy = Some(policy);
    adjustment.linux.rdt = Some(rdt);
    adjustment.linux.net_devices.insert("eth1".to_owned(), "net0".to_owned());
    adjustment.linux.cgroups_path = "/x".to_owned();
    adjustment
}

#[tokio::test]
async fn every_field_of_an_adjustment_arrives() {
    let recorder = Arc::new(Recorder::default());
    let (plugin, _running, _place) = start(NEW, &recorder, EventMask::ALL).await;
    assert!(plugin.create_container(&pod("p"), &container("c")).await.unwrap().is_empty());
    *recorder.adjustment.lock().unwrap() = full_adjustment();
    assert_eq!(plugin.create_container(&pod("p"), &container("c")).await.unwrap(), full_adjustment());
}

/// An adjustment of about so many bytes.
fn large(bytes: usize) -> ContainerAdjustment {
    ContainerAdjustment::new().annotation("example.org/large", "x".repeat(bytes))
}

#[tokio::test]
async fn adjustments_of_every_size_survive_a_reader_written_in_go() {
    let recorder = Arc::new(Recorder::default());
    let (plugin, _running, _place) = start(OLD, &recorder, EventMask::ALL).await;
    // Around the first frame's end byte by byte, around 64 KiB, and up to a megabyte.
    for bytes in (4000..4140).chain([8150, 9000, 65_490, 65_536, 70_000, 1 << 20, 4_000_000]) {
        *recorder.adjustment.lock().unwrap() = large(bytes);
        let got = plugin.create_container(&pod("p"), &container("c")).await;
        assert_eq!(got.unwrap(), large(bytes), "{bytes}");
    }
    // More than a message can be is an error and not a lost connection.
    *recorder.adjustment.lock().unwrap() = large(5 << 20);
    let error = plugin.create_container(&pod("p"), &container("c")).await.unwrap_err();
    assert!(!error.fails_open(), "{error}");
    plugin.start_container(&pod("p"), &container("c")).await.unwrap();
}

#[tokio::test]
async fn without_the_frame_rule_the_reader_written_in_go_hangs_up() {
    for bytes in [5000, 70_000] {
        let place = Place::new();
        let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd(OLD)).unwrap();
        let recorder = Arc::new(Recorder::default());
        *recorder.adjustment.lock().unwrap() = large(bytes);
        let _running = Running::start(builder(place.socket()).without_frame_rule(), &recorder);
        let plugin = within(runtime.accept()).await.unwrap();
        let error = within(plugin.create_container(&pod("p"), &container("c"))).await.unwrap_err();
        assert!(error.fails_open(), "{error}");
        assert!(matches!(plugin.closed().await, TrunkError::NoMemory { buffer: 4096, .. }));
    }
}

#[tokio::test]
async fn a_container_arrives_with_every_field() {
    let recorder = Arc::new(Recorder::default());
    let mut c = container("c");
    c.name = "web".to_owned();
    c.state = ContainerState::Running;
    c.labels.insert("app".to_owned(), "web".to_owned());
    c.args = vec!["/bin/web".to_owned()];
    c.env = vec!["A=b".to_owned()];
    c.mounts = vec![Mount::bind("/a", "/b")];
    c.pid = 4711;
    (c.created_at, c.exit_code, c.cdi_devices) = (1, -1, vec!["v/c=d".to_owned()]);
    let mut user = User::default();
    (user.uid, user.additional_gids) = (1000, vec![4, 5]);
    c.user = Some(user);
    let mut image = Image::default();
    image.name = "example.com/shop/web:1".to_owned();
    c.image = Some(image);
    let mut linux = LinuxContainer::default();
    linux.namespaces = vec![LinuxNamespace::new("pid", "")];
    linux.cgroups_path = "/k8s.io/c".to_owned();
    linux.oom_score_adj = Some(-998);
    linux.seccomp_policy = full_adjustment().linux.seccomp_policy;
    let mut profile = SecurityProfile::default();
    profile.kind = ProfileKind::Localhost;
    linux.seccomp_profile = Some(profile);
    c.linux = Some(linux);
    let mut p = pod("p");
    (p.pid, p.ips, p.runtime_handler) = (1, vec!["10.0.0.1".to_owned()], "kata".to_owned());
    p.annotations.insert("k".to_owned(), "v".to_owned());
    let mut linux = LinuxPodSandbox::default();
    linux.cgroup_parent = "/kubepods".to_owned();
    p.linux = Some(linux);

    let place = Place::new();
    let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd(NEW)).unwrap();
    (runtime.options.pods, runtime.options.containers) = (vec![p.clone()], vec![c.clone()]);
    let _running = Running::start(builder(place.socket()), &recorder);
    let _plugin = within(runtime.accept()).await.unwrap();
    assert_eq!(*recorder.synchronized.lock().unwrap(), (vec![p], vec![c]));
}

#[tokio::test]
async fn a_thousand_events_in_a_row_are_quick() {
    let recorder = Arc::new(Recorder::default());
    let (plugin, _running, _place) = start(NEW, &recorder, EventMask::ALL).await;
    let started = std::time::Instant::now();
    for _ in 0..1000 {
        plugin.start_container(&pod("p"), &container("c")).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}
