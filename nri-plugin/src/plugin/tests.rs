//! The plugin against a runtime, over the real protocol, with the real reconciler and a recording kernel.

use super::*;
use std::time::Instant;

use enforcer_core::subject::Subject;
use nri::fake::{FakeError, FakePlugin, FakeRuntime, Options};
use nri_enforcer_hook::spec::{CRUN_FILTER, CRUN_HANDLERS, CRUN_HOOK_OUTPUT};

use crate::apparmor::tests::{Held, Memory};
use crate::kernel::recording::Recording;
use crate::podman::{IMAGE_LABEL, TAG_LABEL};
use crate::procs::Procs;
use crate::procs::tests::add;
use crate::reconciler::Reconciler;
use crate::reconciler::tests::policies;

struct Node {
    kernel: Arc<Recording>,
    policies: watch::Sender<Arc<PolicySet>>,
    orders: Sender<Order>,
    synced: watch::Receiver<bool>,
    dir: tempfile::TempDir,
    runtime: FakeRuntime,
    _stop: oneshot::Sender<()>,
}

impl Node {
    fn new(set: Arc<PolicySet>, selection: Selection, options: Options) -> Self {
        Self::with_hook(set, selection, options, Arc::default())
    }

    fn with_hook(
        set: Arc<PolicySet>,
        selection: Selection,
        options: Options,
        injection: Arc<Injection>,
    ) -> Self {
        Self::with_profiles(set, selection, options, injection, None)
    }

    fn with_profiles(
        set: Arc<PolicySet>,
        selection: Selection,
        options: Options,
        injection: Arc<Injection>,
        profiles: Option<Arc<Profiles>>,
    ) -> Self {
        let (policies, seen) = watch::channel(set);
        Self::build((policies, seen.clone()), seen, selection, options, injection, profiles)
    }

    /// With a plugin that reads other policies than the reconciler.
    fn reading(
        set: Arc<PolicySet>,
        reads: watch::Receiver<Arc<PolicySet>>,
        selection: Selection,
        options: Options,
    ) -> Self {
        Self::build(watch::channel(set), reads, selection, options, Arc::default(), None)
    }

    fn build(
        (policies, reads): (watch::Sender<Arc<PolicySet>>, watch::Receiver<Arc<PolicySet>>),
        seen: watch::Receiver<Arc<PolicySet>>,
        selection: Selection,
        options: Options,
        injection: Arc<Injection>,
        profiles: Option<Arc<Profiles>>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = Arc::<Recording>::default();
        let (orders, taken) = std::sync::mpsc::channel();
        let procs = Procs::at(dir.path().join("proc"));
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        let (registry, notify) = (Arc::<Registry>::default(), Box::new(|_| {}));
        let reconciler = Reconciler::new(
            Arc::clone(&kernel),
            selection.clone(),
            reads,
            Arc::clone(&registry),
            procs.clone(),
            notify,
        );
        std::thread::spawn(move || reconciler.run(&taken));
        let (synced, is_synced) = watch::channel(false);
        let seccomp = crate::seccomp::tests::seccomp(&selection, &registry, dir.path());
        let plugin = Plugin::new(selection, seen, registry, injection, seccomp, orders.clone(), synced)
            .with_profiles(profiles)
            .with_procs(procs);
        let runtime = FakeRuntime::bind(dir.path().join("nri.sock"), options).unwrap();
        let stub = nri::Stub::builder("nri-enforcer", "10").socket(runtime.path()).events(Plugin::events());
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(stub.run(Arc::new(plugin), async {
            let _dropped = stopped.await;
        }));
        Self { kernel, policies, orders, synced: is_synced, dir, runtime, _stop: stop }
    }

    fn lives(&self, pid: u32) {
        let pid = i32::try_from(pid).unwrap();
        add(&self.dir.path().join("proc"), pid, 'S', 1000, &format!("/c{pid}"));
    }

    /// Waits until every order so far has been carried out.
    async fn idle(&self) {
        let (reply, answer) = oneshot::channel();
        let container = crate::reconciler::tests::container("nobody", "nowhere", "none");
        self.orders.send(Order::Start { container, pid: 0, reply }).unwrap();
        answer.await.unwrap().unwrap();
    }
}

fn pod(namespace: &str, app: &str) -> PodSandbox {
    let mut pod = PodSandbox::default();
    (pod.id, pod.name) = (format!("pod-{namespace}-{app}"), "web-1".into());
    pod.namespace = namespace.into();
    pod.labels.insert("app".into(), app.into());
    pod
}

fn container(of: &PodSandbox, pid: u32) -> nri::Container {
    let mut container = nri::Container::default();
    (container.id, container.name, container.pid) = (format!("c{pid}"), "main".into(), pid);
    container.pod_sandbox_id.clone_from(&of.id);
    container
}

fn state(mut container: nri::Container, state: ContainerState) -> nri::Container {
    container.state = state;
    container
}

fn refusal<T: std::fmt::Debug>(result: Result<T, FakeError>) -> String {
    match result {
        Err(FakeError::Status { message, .. }) => message,
        other => panic!("not refused: {other:?}"),
    }
}

fn block() -> Arc<PolicySet> {
    policies(&[("no-passwd", "/etc/passwd")])
}

fn options() -> Options {
    Options::containerd("2.1.9")
}

async fn create_and_start(
    plugin: &FakePlugin,
    pod: &PodSandbox,
    pid: u32,
) -> Result<ContainerAdjustment, FakeError> {
    let adjustment = plugin.create_container(pod, &container(pod, 0)).await?;
    plugin.start_container(pod, &container(pod, pid)).await?;
    Ok(adjustment)
}

/// From its first instruction on, and nothing of it is as for a container that a policy selects.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_to_be_seen_is_observed_before_its_start_is_answered_and_never_refused() {
    let selection =
        Selection { visibility: "process".parse().unwrap(), strict: true, ..Selection::default() };
    let mut node = Node::new(Arc::default(), selection, options());
    let plugin = node.runtime.accept().await.unwrap();
    node.lives(7);
    let web = pod("default", "web");
    let adjustment = create_and_start(&plugin, &web, 7).await.unwrap();
    assert!(!adjustment.annotations.contains_key(ANNOTATION), "{adjustment:?}");
    assert_eq!(node.kernel.ids(), ["c7"]);
    node.kernel.breaks("arm", true);
    node.lives(8);
    create_and_start(&plugin, &web, 8).await.unwrap();
    assert_eq!(node.kernel.ids(), ["c7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selected_container_is_annotated_and_armed_before_its_start_is_answered() {
    for version in ["1.7.24", "2.1.9", "2.4.0"] {
        let mut node = Node::new(block(), Selection::default(), Options::containerd(version));
        let plugin = node.runtime.accept().await.unwrap();
        node.lives(7);
        let web = pod("default", "web");
        let adjustment = create_and_start(&plugin, &web, 7).await.unwrap();
        let digest = node.kernel.digest("c7").expect("armed").to_string();
        assert_eq!(
            adjustment,
            ContainerAdjustment::new().annotation("nri-enforcer.io/ruleset", digest),
            "{version}"
        );
        assert_eq!(node.kernel.calls(), ["arm c7 7 Created"]);
        plugin.stop_container(&web, &container(&web, 7)).await.unwrap();
        node.idle().await;
        assert_eq!(node.kernel.calls(), [""; 0], "what is left of it stays under its rules");
        plugin.remove_container(&web, &container(&web, 7)).await.unwrap();
        node.idle().await;
        assert_eq!(node.kernel.calls(), ["disarm c7"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_policy_selects_and_what_is_exempt_starts_whatever_is_broken() {
    let selection = Selection { exempt: ["default".to_owned()].into(), ..Selection::default() };
    for (selection, pod) in [
        (Selection::default(), pod("default", "db")),
        (Selection::default(), pod("other", "web")),
        (selection, pod("default", "web")),
    ] {
        let mut node = Node::new(block(), selection, options());
        node.kernel.breaks("arm", true);
        node.kernel.breaks("armed", true);
        let plugin = node.runtime.accept().await.unwrap();
        let adjustment = create_and_start(&plugin, &pod, 0).await.unwrap();
        assert!(adjustment.is_empty());
        node.idle().await;
        assert_eq!(node.kernel.calls(), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn until_the_policies_are_known_a_shut_gate_is_shut_to_creations_and_starts() {
    let unread = || [crate::api::Resource::Namespaces].into();
    let shut = Selection {
        must_hold: true,
        exempt: ["kube-system".to_owned()].into(),
        honour_pod_annotations: true,
        ..Selection::default()
    };
    let open = Selection { must_hold: false, ..shut.clone() };
    let mut wishes = pod("default", "db");
    wishes.annotations.insert(WISH_ANNOTATION.into(), "disabled".into());
    for (selection, pod, refused) in [
        (&shut, pod("default", "db"), true),
        (&shut, pod("default", "web"), true),
        (&shut, pod("kube-system", "web"), false),
        (&shut, wishes, false),
        (&open, pod("default", "db"), false),
    ] {
        let set = PolicySet::new(block().policies().to_vec()).with_unread(unread());
        let mut node = Node::new(Arc::new(set), selection.clone(), options());
        let plugin = node.runtime.accept().await.unwrap();
        node.lives(7);
        let container = container(&pod, 7);
        let [created, started] = [
            plugin.create_container(&pod, &container).await.map(drop),
            plugin.start_container(&pod, &container).await,
        ];
        for result in [created, started] {
            match refused {
                true => {
                    let why = refusal(result);
                    for part in ["`main` of pod `default/web-1`", "not known yet", "nri-enforcer status"] {
                        assert!(why.contains(part), "{part}: {why}");
                    }
                }
                false => result.unwrap(),
            }
        }
        if refused {
            node.policies.send(Arc::default()).unwrap(); // the list has come, and is empty
            create_and_start(&plugin, &pod, 7).await.unwrap();
        }
    }
}

/// As CRI-O before 1.36, which never tells a process.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_the_runtime_does_not_tell_is_found() {
    let untold = |pid| {
        let mut container = container(&pod("default", "web"), pid);
        container.pid = 0;
        container
    };
    let mut options = Options::runtime("cri-o", "1.34.0");
    options.pods = vec![pod("default", "web")];
    options.containers = vec![state(untold(8), ContainerState::Running)];
    let mut node = Node::new(block(), Selection::default(), options);
    node.lives(7);
    node.lives(8);
    let plugin = node.runtime.accept().await.unwrap();
    node.idle().await;
    assert_eq!(node.kernel.calls(), ["arm c8 8 Running"]);
    let web = pod("default", "web");
    plugin.create_container(&web, &untold(7)).await.unwrap();
    plugin.start_container(&web, &untold(7)).await.unwrap();
    assert_eq!(node.kernel.calls(), ["arm c7 7 Created"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_be_armed_is_refused_with_its_reason() {
    let mut node = Node::new(block(), Selection::default(), options());
    let plugin = node.runtime.accept().await.unwrap();
    let web = pod("default", "web");
    node.lives(7);
    node.kernel.breaks("arm", true);
    let text = refusal(create_and_start(&plugin, &web, 7).await);
    for part in ["`main`", "`default/web-1`", "`default/no-passwd`", "arm is broken"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(refusal(create_and_start(&plugin, &web, 0).await).contains("did not tell its first process"));
    node.kernel.breaks("arm", false);
    create_and_start(&plugin, &web, 7).await.expect("the connection outlives a refusal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_hangs_refuses_the_start_before_the_runtime_gives_up() {
    let mut node = Node::new(block(), Selection::default(), options());
    let plugin = node.runtime.accept().await.unwrap();
    node.lives(7);
    node.kernel.slow(Duration::from_secs(4));
    let web = pod("default", "web");
    let begin = Instant::now();
    let text = refusal(create_and_start(&plugin, &web, 7).await);
    assert!(text.contains("took too long"), "{text}");
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "after the runtime's deadline it would start unprotected"
    );
    create_and_start(&plugin, &pod("default", "db"), 0).await.expect("others do not wait behind it");
}

/// It is not refused, and executes its workload while the kernel still works: what was armed for one that waits is undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_hangs_has_a_container_that_is_only_seen_armed_as_one_that_runs() {
    let selection = Selection { visibility: "process".parse().unwrap(), ..Selection::default() };
    let mut node = Node::new(Arc::default(), selection, options());
    let plugin = node.runtime.accept().await.unwrap();
    node.lives(7);
    node.kernel.slow(Duration::from_millis(2500));
    let begin = Instant::now();
    create_and_start(&plugin, &pod("default", "web"), 7).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "before the runtime's deadline");
    node.kernel.slow(Duration::ZERO);
    let mut calls = Vec::new();
    while calls.len() < 2 && begin.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        calls.extend(node.kernel.calls());
    }
    assert_eq!(calls, ["arm c7 7 Created", "arm c7 7 Running"]);
}

/// The plugin knew the set before, the reconciler the one that is in force: what that refuses does not start.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_bound_when_the_start_is_carried_out_is_refused_though_it_was_not_when_it_was_asked_for() {
    let selection = Selection { visibility: "process".parse().unwrap(), ..Selection::default() };
    let (_old, before) = watch::channel(Arc::default());
    let mut node = Node::reading(block(), before, selection, options());
    let plugin = node.runtime.accept().await.unwrap();
    node.lives(7);
    node.kernel.breaks("arm", true);
    let text = refusal(create_and_start(&plugin, &pod("default", "web"), 7).await);
    assert!(text.contains("arm is broken") && text.contains("no-passwd"), "{text}");
    node.kernel.breaks("arm", false);
    create_and_start(&plugin, &pod("default", "web"), 7).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_cannot_be_armed_refuses_only_what_is_selected() {
    let mut node = Node::new(block(), Selection::default(), options());
    let plugin = node.runtime.accept().await.unwrap();
    let long = |pod: &PodSandbox| {
        let mut container = container(pod, 7);
        container.id = "x".repeat(129);
        container
    };
    let (web, db) = (pod("default", "web"), pod("default", "db"));
    assert!(refusal(plugin.create_container(&web, &long(&web)).await).contains("128 bytes"));
    assert!(refusal(plugin.start_container(&web, &long(&web)).await).contains("128 bytes"));
    plugin.create_container(&db, &long(&db)).await.expect("not selected");
    plugin.start_container(&db, &long(&db)).await.expect("not selected");
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_refuses_gaps_and_lists_them() {
    let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p, namespace: default}\n\
                spec:\n  selector: {matchLabels: {app: web}}\n  network: {matchDNSQueries: [{domain: example.com}]}\n  action: Block\n";
    let parsed = enforcer_core::policy::parse("p", text);
    let set = Arc::new(PolicySet::new(parsed.policies.into_iter().map(Arc::new).collect()));
    let strict = Selection { strict: true, ..Selection::default() };
    let mut node = Node::new(Arc::clone(&set), strict, options());
    let plugin = node.runtime.accept().await.unwrap();
    let web = pod("default", "web");
    let text = refusal(plugin.create_container(&web, &container(&web, 0)).await);
    for part in ["policy `default/p`", "spec.network.matchDNSQueries[0]", "--strict"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(refusal(plugin.start_container(&web, &container(&web, 7)).await).contains("spec.network"));
    create_and_start(&plugin, &pod("default", "db"), 0).await.expect("not selected");

    let mut node = Node::new(set, Selection::default(), options());
    let plugin = node.runtime.accept().await.unwrap();
    let adjustment =
        create_and_start(&plugin, &web, 0).await.expect("without strict the rest is enforced: nothing here");
    assert!(adjustment.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_went_past_the_plugin_is_rejected() {
    let mut node = Node::new(block(), Selection::default(), Options::containerd("2.4.0"));
    let plugin = node.runtime.accept().await.unwrap();
    assert!(plugin.events().contains(Event::ValidateContainerAdjustment));
    let mut request = Validation::default();
    request.pod = pod("default", "web");
    request.container = container(&request.pod, 0);
    let reason = plugin.validate(&request).await.unwrap().expect_err("annotation missing");
    assert!(reason.contains("went past this plugin"), "{reason}");
    request.adjustment = plugin.create_container(&request.pod, &request.container).await.unwrap();
    plugin.validate(&request).await.unwrap().expect("annotated");
    request.pod = pod("default", "db");
    request.adjustment = ContainerAdjustment::new();
    plugin.validate(&request).await.unwrap().expect("not selected");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_already_is_armed_when_the_connection_begins() {
    let (web, db) = (pod("default", "web"), pod("default", "db"));
    let mut options = options();
    options.pods = vec![web.clone(), db.clone()];
    options.containers = vec![
        state(container(&web, 7), ContainerState::Running),
        state(container(&db, 8), ContainerState::Running),
        state(container(&web, 9), ContainerState::Stopped),
        state(container(&web, 10), ContainerState::Paused),
    ];
    let mut node = Node::new(block(), Selection::default(), options);
    [7, 8, 10].into_iter().for_each(|pid| node.lives(pid));
    let _plugin = node.runtime.accept().await.unwrap();
    node.synced.wait_for(|synced| *synced).await.unwrap();
    assert_eq!(node.kernel.calls(), ["arm c7 7 Running", "arm c10 10 Running"]);

    // the runtime comes back, a container ended meanwhile and another started
    let containers = vec![
        state(container(&web, 7), ContainerState::Running),
        state(container(&web, 11), ContainerState::Running),
    ];
    node.runtime.options.containers = containers;
    node.lives(11);
    std::fs::remove_dir_all(node.dir.path().join("proc/10")).unwrap();
    drop(_plugin);
    let _plugin = node.runtime.accept().await.unwrap();
    node.idle().await;
    assert!(node.kernel.calls().contains(&"arm c11 11 Running".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_synchronisation_keeps_the_connection_and_is_finished() {
    let web = pod("default", "web");
    let mut options = options();
    options.pods = vec![web.clone()];
    options.request_timeout = Duration::from_millis(500);
    let running = |pid| state(container(&web, pid), ContainerState::Running);
    options.containers = (1..=4).map(running).collect();
    let mut node = Node::new(block(), Selection::default(), options);
    (1..=4).for_each(|pid| node.lives(pid));
    node.kernel.slow(Duration::from_millis(200));
    let plugin = node.runtime.accept().await.expect("answered in time");
    assert!(!*node.synced.borrow(), "not ready before it is through");
    node.synced.wait_for(|synced| *synced).await.unwrap();
    assert_eq!(node.kernel.ids().len(), 4);
    create_and_start(&plugin, &pod("default", "db"), 0).await.expect("still connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_comes_reaches_a_running_container() {
    let mut node = Node::new(Arc::default(), Selection::default(), options());
    let plugin = node.runtime.accept().await.unwrap();
    node.lives(7);
    create_and_start(&plugin, &pod("default", "web"), 7).await.unwrap();
    node.policies.send_replace(block());
    node.orders.send(Order::PoliciesChanged).unwrap();
    let begin = Instant::now();
    while node.kernel.digest("c7").is_none() {
        assert!(begin.elapsed() < Duration::from_secs(10), "never armed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(node.kernel.calls(), ["arm c7 7 Running"]);
}

#[test]
fn a_container_is_described_with_what_its_runtime_tells() {
    let mut pod = pod("default", "web");
    pod.labels.insert(IMAGE_LABEL.into(), "another".into());
    pod.labels.insert(TAG_LABEL.into(), "another".into());
    pod.labels.insert("io.kubernetes.pod.name".into(), "web-1".into());
    pod.labels.insert("io.cri-containerd.kind".into(), "sandbox".into());
    pod.labels.insert("io.kubernetes.app".into(), "a label as any other".into());
    let mut one = container(&pod, 7);
    one.annotations.insert("io.kubernetes.cri.image-name".into(), "example.com/web:1".into());
    let (subject, image) = describe(Some(&pod), &one);
    assert_eq!(image, "example.com/web:1");
    assert_eq!((&*subject.namespace, &*subject.pod, &*subject.container), ("default", "web-1", "main"));
    let own = [("app", "web"), ("io.kubernetes.app", "a label as any other")];
    assert_eq!(subject.labels, own.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    one.labels.insert("io.kubernetes.pod.namespace".into(), "default".into());
    let (orphan, _) = describe(None, &one);
    assert_eq!((&*orphan.namespace, orphan.labels.len()), ("default", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_cannot_have_crun_put_another_filter_in_place_of_its_policies() {
    let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\nmetadata: {name: calls}\n\
        spec:\n  selector: {matchLabels: {app: web}}\n  action: Block\n  syscalls: [rmdir]\n";
    let parsed = enforcer_core::policy::parse("p.yaml", text);
    let set = PolicySet::default().with_seccomp(parsed.seccomp.into_iter().map(Arc::new).collect());
    let mut node = Node::new(Arc::new(set), Selection::default(), Options::containerd("2.4.0"));
    let plugin = node.runtime.accept().await.unwrap();
    let filter = (CRUN_FILTER.to_owned(), "BgAAAAAA/38=".to_owned());
    for by_pod in [true, false] {
        for app in ["web", "db"] {
            let mut pod = pod("default", app);
            let mut one = container(&pod, 7);
            let annotations = if by_pod { &mut pod.annotations } else { &mut one.annotations };
            annotations.extend([filter.clone()]);
            let created = plugin.create_container(&pod, &one).await;
            if app == "db" {
                assert!(created.unwrap().is_empty(), "no policy selects it");
                continue;
            }
            let told = refusal(created);
            assert!(told.contains("`default/calls`") && told.contains(CRUN_FILTER), "{told}");
        }
    }
    let web = pod("default", "web");
    let adjustment = plugin.create_container(&web, &container(&web, 7)).await.unwrap();
    assert!(adjustment.annotations.contains_key("nri-enforcer.io/seccomp"));
}

/// Nothing is executed then, with which rules begin; a virtual machine's system calls are none of this kernel's.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_cannot_have_crun_run_it_where_no_policy_reaches() {
    let mut node = Node::new(block(), Selection::default(), Options::containerd("2.4.0"));
    let plugin = node.runtime.accept().await.unwrap();
    for (key, by_pod) in CRUN_HANDLERS.into_iter().flat_map(|key| [(key, true), (key, false)]) {
        for app in ["web", "db"] {
            node.lives(7);
            let mut pod = pod("default", app);
            let mut one = container(&pod, 7);
            let annotations = if by_pod { &mut pod.annotations } else { &mut one.annotations };
            annotations.insert(key.into(), "krun".into());
            let created = plugin.create_container(&pod, &one).await;
            // created while the daemon was away, or before the policies came
            let started = plugin.start_container(&pod, &one).await;
            if app == "db" {
                assert!(created.unwrap().is_empty(), "no policy selects it");
                started.unwrap();
                continue;
            }
            for told in [refusal(created), refusal(started)] {
                assert!(told.contains("`default/no-passwd`") && told.contains(key), "{told}");
            }
            assert!(node.kernel.digest("c7").is_none());
        }
    }
}

/// crun looks at these only where a container has hooks, so it is ours that would make them work.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_cannot_have_crun_write_files_of_the_host_by_the_hook() {
    let dir = tempfile::tempdir().unwrap();
    let hook = dir.path().join("hook");
    for (wanted, by_pod) in [(false, true), (true, true), (true, false)] {
        let injection = Arc::new(Injection::new(wanted.then(|| hook.clone()), Box::new(|_| {})));
        let mut node =
            Node::with_hook(block(), Selection::default(), Options::containerd("2.1.9"), injection);
        let plugin = node.runtime.accept().await.unwrap();
        for (app, installed) in [("web", false), ("db", false), ("web", true), ("db", true)] {
            let mut pod = pod("default", app);
            let mut one = container(&pod, 7);
            let path = if installed { "/opt/nri-enforcer/nri-enforcer-hook" } else { "/opt/another/hook" };
            let mut hooks = nri::Hooks::default();
            hooks.create_runtime.push(nri::Hook::new(path));
            one.hooks = Some(hooks);
            let annotations = if by_pod { &mut pod.annotations } else { &mut one.annotations };
            annotations.insert(format!("{CRUN_HOOK_OUTPUT}stdout"), "/etc/nologin".into());
            let created = plugin.create_container(&pod, &one).await;
            if installed || (wanted && app == "web") {
                let told = refusal(created);
                assert!(told.contains("`run.oci.hooks.stdout`") && told.contains("remove"), "{told}");
            } else {
                created.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selected_container_gets_the_hook_until_the_runtime_is_seen_to_refuse_it() {
    let dir = tempfile::tempdir().unwrap();
    let hook = dir.path().join("hook");
    std::fs::write(&hook, "").unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (version, forbids) in [("1.7.24", false), ("2.1.9", false), ("2.2.0", false), ("2.2.0", true)] {
        let injection = Arc::new(Injection::new(Some(hook.clone()), Box::new(|_| {})));
        let mut node =
            Node::with_hook(block(), Selection::default(), Options::containerd(version), injection);
        let plugin = node.runtime.accept().await.unwrap();
        let (web, db) = (pod("default", "web"), pod("default", "db"));
        let other = plugin.create_container(&db, &container(&db, 1)).await.unwrap();
        assert!(other.is_empty(), "not selected");
        let mut hooks = Vec::new();
        for pid in 7..13 {
            let adjustment = plugin.create_container(&web, &container(&web, pid)).await.unwrap();
            assert!(adjustment.annotations.contains_key(ANNOTATION));
            let points = [&adjustment.hooks.create_runtime, &adjustment.hooks.poststop];
            for (point, name) in points.into_iter().zip(["createRuntime", "poststop"]) {
                let path = hook.to_string_lossy().into_owned();
                for one in point {
                    assert_eq!((&one.path, &one.args), (&path, &vec![path.clone(), name.to_owned()]));
                }
            }
            hooks.push(points.map(Vec::len));
            if !forbids && pid == 7 {
                // created, and never started: the others were not even created
                let created = Event::PostCreateContainer;
                plugin.event(created, &web, Some(&container(&web, pid))).await.unwrap();
            } else if !forbids && pid == 12 {
                node.lives(pid);
                plugin.start_container(&web, &container(&web, pid)).await.unwrap();
            }
            plugin.remove_container(&web, &container(&web, pid)).await.unwrap();
        }
        let wanted = if forbids { [[1, 1], [1, 1], [1, 1], [0, 0], [0, 0], [0, 0]] } else { [[1, 1]; 6] };
        assert_eq!(hooks, wanted, "{version}, forbids: {forbids}");
    }
}

/// Profiles that are not loaded until what is returned is taken.
fn slow_profiles() -> (Memory, Arc<Profiles>, Held) {
    let kernel = Memory::default();
    let profiles = Profiles::with(Box::new(kernel.clone()), "/nonexistent".into()).unwrap();
    let held = kernel.hold();
    (kernel, Arc::new(profiles), held)
}

/// Else the runtime drops the plugin while a profile is compiled for another pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_waits_for_the_profiles_of_others() {
    let (kernel, profiles, held) = slow_profiles();
    let mut node = Node::with_profiles(
        block(),
        Selection::default(),
        options(),
        Arc::default(),
        Some(Arc::clone(&profiles)),
    );
    let plugin = node.runtime.accept().await.unwrap();
    let begin = Instant::now();
    let loading = std::thread::spawn(move || {
        let nothing =
            Ruleset::resolve([], &enforcer_core::ruleset::Postures::default(), &Subject::default()).ruleset;
        profiles.give(&ContainerId::new("0a").unwrap(), &Arc::new(nothing), &[])
    });
    kernel.begun();
    let (one, two) = (pod("a", "web"), pod("b", "web"));
    let (first, second) = tokio::join!(
        plugin.event(Event::RemovePodSandbox, &one, None),
        plugin.event(Event::RemovePodSandbox, &two, None)
    );
    first.and(second).unwrap();
    let db = pod("default", "db");
    plugin.create_container(&db, &container(&db, 0)).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    held.lock().unwrap().take();
    loading.join().unwrap().unwrap();
}

/// Else what runs stays as it is while profiles are compiled, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronisation_waits_for_no_profile() {
    let (kernel, profiles, held) = slow_profiles();
    let mut web = pod("default", "web");
    web.annotations.insert("apparmor.nri-enforcer.io/main".into(), "nri-enforcer.default.web".into());
    let main = state(container(&web, 7), ContainerState::Running);
    let mut options = options();
    (options.pods, options.containers) = (vec![web], vec![main]);
    let mut node =
        Node::with_profiles(block(), Selection::default(), options, Arc::default(), Some(profiles));
    node.lives(7);
    let _plugin = node.runtime.accept().await.unwrap();
    kernel.begun();
    let synced = tokio::time::timeout(Duration::from_secs(4), node.synced.wait_for(|synced| *synced)).await;
    assert!(synced.is_ok_and(|synced| synced.is_ok()), "not synchronized while a profile is compiled");
    assert_eq!(node.kernel.calls(), ["arm c7 7 Running"]);
    held.lock().unwrap().take();
}

/// Whoever looks at a container sees by that which profile it should have.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_annotated_with_the_profile_that_it_is_to_have() {
    let native = {
        let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: n, namespace: default}\n\
                    spec:\n  selector: {matchLabels: {app: web}}\n  apparmor: |\n    deny /n r,\n";
        let parsed = enforcer_core::policy::parse("p", text);
        assert_eq!(parsed.errors, []);
        Arc::new(PolicySet::new(parsed.policies.into_iter().map(Arc::new).collect()))
    };
    let key = "nri-enforcer.io/apparmor-profile";
    let mut named = pod("default", "web");
    named.annotations.insert("apparmor.nri-enforcer.io/main".into(), "nri-enforcer.default.web".into());
    for (lock, set, wanted) in [
        (Lock::AppArmor, block(), true),
        (Lock::Both, native, true),
        (Lock::Both, block(), false),
        (Lock::Bpf, block(), false),
    ] {
        let selection = Selection { lock, ..Selection::default() };
        let mut node = Node::new(set, selection, options());
        let plugin = node.runtime.accept().await.unwrap();
        for (pod, name) in [
            (&named, "nri-enforcer.default.web"),
            (&pod("default", "web"), "nri-enforcer.default.web-1.main"),
        ] {
            let adjustment = plugin.create_container(pod, &container(pod, 7)).await.unwrap();
            let told = adjustment.annotations.get(key).map(String::as_str);
            assert_eq!(told, wanted.then_some(name), "{lock:?}");
        }
        let db = pod("default", "db");
        assert!(plugin.create_container(&db, &container(&db, 8)).await.unwrap().is_empty(), "{lock:?}");
    }
}
