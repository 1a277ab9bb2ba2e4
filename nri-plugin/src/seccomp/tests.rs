//! Seccomp policies against a runtime, over the real protocol.

use super::*;
use std::path::Path;
use std::sync::Mutex;

use enforcer_core::policy::parse;
use enforcer_core::seccomp::Arch;
use enforcer_core::seccomp::oci::{ActionName, LinuxSeccomp};
use nri::fake::{FakeError, FakePlugin, FakeRuntime, Options};
use nri::{LinuxContainer, PodSandbox, ProfileKind, SecurityProfile, Validation};
use tokio::sync::{oneshot, watch};

use super::ledger::{ANNOTATION, FILE_ANNOTATION, POLICIES_ANNOTATION, State};
use crate::kernel::Absent;
use crate::plugin::Plugin;
use crate::procs::Procs;
use crate::reconciler::Reconciler;

/// What applies seccomp policies on a node whose kubelet is below `root`.
pub(crate) fn seccomp(selection: &Selection, registry: &Arc<Registry>, root: &Path) -> Arc<Seccomp> {
    noting(known(), selection, registry, root, Box::new(|_| {}))
}

fn known() -> Result<Node, UnknownMachine> {
    Ok(Node { arch: Arch::X86_64, libseccomp: (2, 5, 4) })
}

fn noting(
    node: Result<Node, UnknownMachine>,
    selection: &Selection,
    registry: &Arc<Registry>,
    root: &Path,
    notify: Notify,
) -> Arc<Seccomp> {
    let profiles = Profiles::detect(root);
    Arc::new(Seccomp::new(selection.clone(), node, profiles, Arc::clone(registry), root.into(), notify))
}

/// A seccomp policy in the namespace `default` for the pods of `app`.
pub(crate) fn policy(name: &str, app: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\n\
         metadata: {{name: {name}, namespace: default}}\nspec:\n  selector: {{matchLabels: {{app: {app}}}}}\n{spec}\n"
    )
}

pub(crate) fn set(text: &str) -> Arc<PolicySet> {
    let parsed = parse("p.yaml", text);
    assert_eq!(parsed.errors, []);
    let policies = parsed.policies.into_iter().map(Arc::new).collect();
    let seccomp = parsed.seccomp.into_iter().map(Arc::new).collect();
    Arc::new(PolicySet::new(policies).with_seccomp(seccomp))
}

const BLOCK: &str = "  syscalls: [mkdir, mkdirat]\n  action: Block";

struct Fixture {
    seccomp: Arc<Seccomp>,
    policies: watch::Sender<Arc<PolicySet>>,
    registry: Arc<Registry>,
    notices: Arc<Mutex<Vec<String>>>,
    dir: tempfile::TempDir,
    runtime: FakeRuntime,
    _stop: oneshot::Sender<()>,
}

impl Fixture {
    /// A node whose runtime has this version, with a kubelet.
    fn new(set: Arc<PolicySet>, selection: Selection, runtime: Options) -> Self {
        Self::on(known(), set, selection, runtime)
    }

    /// One on which another daemon has left profiles.
    fn with_files(files: &[(&str, &str)], set: Arc<PolicySet>, runtime: Options) -> Self {
        Self::made(files, known(), set, Selection::default(), runtime)
    }

    fn on(
        node: Result<Node, UnknownMachine>,
        set: Arc<PolicySet>,
        selection: Selection,
        runtime: Options,
    ) -> Self {
        Self::made(&[], node, set, selection, runtime)
    }

    fn made(
        files: &[(&str, &str)],
        node: Result<Node, UnknownMachine>,
        set: Arc<PolicySet>,
        selection: Selection,
        runtime: Options,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("var/lib/kubelet")).unwrap();
        for (name, text) in files {
            let kubelet = dir.path().join("var/lib/kubelet/seccomp/nri-enforcer");
            std::fs::create_dir_all(&kubelet).unwrap();
            std::fs::write(kubelet.join(name), text).unwrap();
        }
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        let registry = Arc::<Registry>::default();
        let notices = Arc::<Mutex<Vec<String>>>::default();
        let notify = {
            let notices = Arc::clone(&notices);
            Box::new(move |notice: Notice| {
                notices.lock().unwrap().push(match notice {
                    Notice::SeccompPending { container, policies } => {
                        format!("pending {} {policies}", container.id)
                    }
                    Notice::SeccompNotApplied { container, advice, .. } => {
                        format!("not applied {} {advice}", container.id)
                    }
                    other => panic!("not about seccomp: {other:?}"),
                });
            })
        };
        let seccomp = noting(node, &selection, &registry, dir.path(), notify);
        seccomp.refresh(&set, true);
        let (policies, seen) = watch::channel(set);
        let (orders, taken) = std::sync::mpsc::channel();
        let reconciler = Reconciler::new(
            Arc::new(Absent),
            selection.clone(),
            seen.clone(),
            Arc::clone(&registry),
            Procs::at(dir.path().join("proc")),
            Box::new(|_| {}),
        );
        std::thread::spawn(move || reconciler.run(&taken));
        let (synced, _) = watch::channel(false);
        let plugin = Plugin::new(
            selection,
            seen,
            Arc::clone(&registry),
            Arc::default(),
            Arc::clone(&seccomp),
            orders,
            synced,
        );
        let runtime = FakeRuntime::bind(dir.path().join("nri.sock"), runtime).unwrap();
        let stub = nri::Stub::builder("nri-enforcer", "10").socket(runtime.path()).events(Plugin::events());
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(stub.run(Arc::new(plugin), async {
            let _dropped = stopped.await;
        }));
        Self { seccomp, policies, registry, notices, dir, runtime, _stop: stop }
    }

    fn change(&self, set: Arc<PolicySet>) {
        self.policies.send_replace(Arc::clone(&set));
        self.seccomp.refresh(&set, true);
    }

    fn notices(&self) -> Vec<String> {
        std::mem::take(&mut self.notices.lock().unwrap())
    }

    async fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..500 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited in vain: {what}");
    }

    fn state(&self, id: &str) -> Option<State> {
        self.registry.seccomp().state(&id.parse_id())
    }

    /// The profiles of this node, by name.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("var/lib/kubelet/seccomp/nri-enforcer"));
        let names =
            entries.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// Makes the bundle of a container as containerd's shim has it, and its process.
    fn bundle(&self, pid: u32, id: &str, seccomp: Option<&LinuxSeccomp>) {
        let root = self.dir.path();
        crate::procs::tests::add(&root.join("proc"), i32::try_from(pid).unwrap(), 'S', 1000, "/c");
        let shim = root.join("proc/1"); // the parent that `add` gives
        std::fs::create_dir_all(&shim).unwrap();
        let bundle = root.join("bundles").join(id);
        std::fs::create_dir_all(&bundle).unwrap();
        let _again = std::fs::remove_file(shim.join("cwd"));
        std::os::unix::fs::symlink(&bundle, shim.join("cwd")).unwrap();
        let config = serde_json::json!({"linux": {"seccomp": seccomp}});
        std::fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    }
}

trait ParseId {
    fn parse_id(&self) -> enforcer_core::enforce::ContainerId;
}

impl ParseId for str {
    fn parse_id(&self) -> enforcer_core::enforce::ContainerId {
        enforcer_core::enforce::ContainerId::new(self).unwrap()
    }
}

fn pod(app: &str) -> PodSandbox {
    let mut pod = PodSandbox::default();
    (pod.id, pod.name, pod.namespace) = (format!("pod-{app}"), format!("{app}-1"), "default".into());
    pod.labels.insert("app".into(), app.into());
    pod
}

fn container(of: &PodSandbox, id: &str, pid: u32) -> nri::Container {
    let mut container = nri::Container::default();
    (container.id, container.name, container.pid) = (id.into(), "main".into(), pid);
    container.pod_sandbox_id.clone_from(&of.id);
    container
}

fn asked_for(mut container: nri::Container, kind: ProfileKind, file: &str) -> nri::Container {
    let mut profile = SecurityProfile::default();
    (profile.kind, profile.localhost_ref) = (kind, file.into());
    let mut linux = LinuxContainer::default();
    linux.seccomp_profile = Some(profile);
    container.linux = Some(linux);
    container
}

/// What the runtime would make of an adjustment: NRI loses the errno of the default action.
fn as_generated(adjustment: &ContainerAdjustment) -> LinuxSeccomp {
    let mut policy = adjustment.linux.seccomp_policy.clone().expect("adjusted");
    policy.default_errno = None;
    wire::from_nri(&policy).unwrap()
}

fn action(profile: &LinuxSeccomp, name: &str) -> Option<(ActionName, Option<u32>)> {
    let entry = profile.syscalls.iter().find(|entry| entry.names.iter().any(|one| one == name))?;
    Some((entry.action, entry.errno_ret))
}

fn refusal<T: std::fmt::Debug>(result: Result<T, FakeError>) -> String {
    match result {
        Err(FakeError::Status { message, .. }) => message,
        other => panic!("not refused: {other:?}"),
    }
}

async fn created(plugin: &FakePlugin, pod: &PodSandbox, container: &nri::Container) -> ContainerAdjustment {
    plugin.create_container(pod, container).await.unwrap()
}

fn newest() -> Options {
    Options::containerd("2.4.0")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selected_container_gets_the_merged_profile_and_its_digests() {
    for version in ["2.3.0", "2.4.0"] {
        let set = set(&policy("no-mkdir", "web", BLOCK));
        let mut f = Fixture::new(set, Selection::default(), Options::containerd(version));
        let plugin = f.runtime.accept().await.unwrap();
        let web = pod("web");
        let adjustment = created(&plugin, &web, &container(&web, "c1", 0)).await;
        let profile = as_generated(&adjustment);
        // merged with the runtime's default, as the container shows nothing
        assert_eq!(profile.default_action, ActionName::Errno, "{version}");
        assert_eq!(action(&profile, "read").map(|(action, _)| action), Some(ActionName::Allow));
        assert!(action(&profile, "mkdir").is_none_or(|(action, _)| action == ActionName::Errno));
        assert_eq!(
            action(&profile, "clone3"),
            Some((ActionName::Errno, Some(38))),
            "glibc falls back on ENOSYS"
        );
        assert!(nri::fake::encoded_len(&adjustment) > 4096, "larger than one frame");
        // what is sent has another default: the annotation tells the whole profile, as `compile --seccomp` prints it
        let policies = f.policies.borrow().seccomp().to_vec();
        let whole = f.seccomp.compile(&policies, &base::runtime_default()).unwrap();
        assert_eq!(adjustment.annotations[ANNOTATION], whole.digest().to_string());
        assert_ne!(adjustment.annotations[ANNOTATION], adjustment.annotations[POLICIES_ANNOTATION]);
        assert_eq!(adjustment.annotations[POLICIES_ANNOTATION].len(), 64);
        assert!(!adjustment.annotations.contains_key(FILE_ANNOTATION));
        // what no policy selects is not touched
        let db = pod("db");
        assert!(created(&plugin, &db, &container(&db, "c2", 0)).await.is_empty());
    }
}

/// NRI 0.10 and 0.11 end with the runtime's death where a rule of the profile has an errno.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_would_die_of_a_profile_gets_none() {
    for (runtime, version) in
        [("containerd", "2.2.0"), ("containerd", "2.2.7"), ("cri-o", "1.34.11"), ("cri-o", "1.36.3")]
    {
        let set = set(&policy("no-mkdir", "web", BLOCK));
        let mut f = Fixture::new(set, Selection::default(), Options::runtime(runtime, version));
        let plugin = f.runtime.accept().await.unwrap();
        let mut request = nri::Validation::default();
        (request.pod, request.container) = (pod("web"), container(&pod("web"), "c1", 0));
        request.adjustment = created(&plugin, &request.pod, &request.container).await;
        assert_eq!(request.adjustment.linux.seccomp_policy, None, "{runtime} {version}");
        assert!(request.adjustment.annotations.contains_key(FILE_ANNOTATION), "{:?}", request.adjustment);
        plugin.validate(&request).await.unwrap().expect("nothing went past the plugin");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_does_not_show_what_a_container_has_is_a_gap() {
    let policies = set(&policy("no-mkdir", "web", BLOCK));
    let web = pod("web");
    let shown = asked_for(container(&web, "c1", 0), ProfileKind::RuntimeDefault, "");
    for (raw, gap) in [(shown, false), (container(&web, "c1", 0), true)] {
        for strict in [false, true] {
            let selection = Selection { strict, ..Selection::default() };
            let mut f = Fixture::new(Arc::clone(&policies), selection, newest());
            let plugin = f.runtime.accept().await.unwrap();
            if strict && gap {
                let text = refusal(plugin.create_container(&web, &raw).await);
                assert!(text.contains("`default/no-mkdir`") && text.contains("does not show it"), "{text}");
                continue;
            }
            let adjustment = created(&plugin, &web, &raw).await;
            let profile = as_generated(&adjustment);
            assert_eq!(profile.default_action, ActionName::Errno, "over the runtime's default");
            let entries = f.registry.seccomp().entries_now();
            assert_eq!(entries[0].gaps, Some(usize::from(gap)));
            // the runtime lists it again, to this daemon or another, and its annotations are all that is known
            let mut running = raw.clone();
            running.annotations = adjustment.annotations.clone();
            running.state = nri::ContainerState::Running;
            let mut options = newest();
            (options.pods, options.containers) = (vec![web.clone()], vec![running]);
            let mut f = Fixture::new(Arc::clone(&policies), Selection::default(), options);
            let _plugin = f.runtime.accept().await.unwrap();
            f.eventually("it is listed", |f| f.registry.seccomp().entries_now().len() == 1).await;
            let entry = f.registry.seccomp().entries_now().remove(0);
            let by_seccomp = f.seccomp.selecting(&policies, &entry.container);
            let gaps = entry.gaps.unwrap_or_else(|| f.seccomp.gaps_alone(&by_seccomp, &entry.created));
            assert_eq!((by_seccomp.len(), gaps), (1, usize::from(gap)), "as `status` counts them");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_policy_that_selects_a_container_is_in_its_profile_whatever_their_order() {
    let (a, b) = (policy("a", "web", BLOCK), policy("b", "web", "  syscalls: [rmdir]\n  action: Block"));
    let other = policy("c", "db", "  syscalls: [chdir]\n  action: Block");
    let mut digests = Vec::new();
    for text in [a.clone() + &b + &other, b + &other + &a] {
        let mut f = Fixture::new(set(&text), Selection::default(), newest());
        let plugin = f.runtime.accept().await.unwrap();
        let web = pod("web");
        let raw = asked_for(container(&web, "c1", 0), ProfileKind::Unconfined, "");
        let adjustment = created(&plugin, &web, &raw).await;
        let profile = as_generated(&adjustment);
        for name in ["mkdir", "mkdirat", "rmdir"] {
            assert_eq!(action(&profile, name), Some((ActionName::Errno, Some(1))), "{name}");
        }
        assert_eq!(action(&profile, "chdir"), None, "no policy of its");
        digests.push(adjustment.annotations[ANNOTATION].clone());
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_profile_that_the_container_has_is_what_the_policies_are_merged_with() {
    let set = set(&policy("no-mkdir", "web", BLOCK));
    let mut f = Fixture::new(set, Selection::default(), newest());
    let plugin = f.runtime.accept().await.unwrap();
    let web = pod("web");
    // privileged: none
    let raw = asked_for(container(&web, "c1", 0), ProfileKind::Unconfined, "");
    let profile = as_generated(&created(&plugin, &web, &raw).await);
    assert_eq!(profile.default_action, ActionName::Allow);
    assert_eq!(action(&profile, "mkdir"), Some((ActionName::Errno, Some(1))));
    // shown
    let own = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
    let own: LinuxSeccomp = serde_json::from_str(own).unwrap();
    let mut raw = asked_for(container(&web, "c2", 0), ProfileKind::Localhost, "/nowhere");
    raw.linux.as_mut().unwrap().seccomp_policy = Some(wire::to_nri(&own));
    let profile = as_generated(&created(&plugin, &web, &raw).await);
    assert_eq!(action(&profile, "acct"), Some((ActionName::Errno, Some(13))));
    assert_eq!(action(&profile, "mkdir"), Some((ActionName::Errno, Some(1))));
    // a file that the runtime only names
    let path = f.dir.path().join("own.json");
    std::fs::write(&path, serde_json::to_string(&own).unwrap()).unwrap();
    let raw = asked_for(container(&web, "c3", 0), ProfileKind::Localhost, path.to_str().unwrap());
    let profile = as_generated(&created(&plugin, &web, &raw).await);
    assert_eq!(action(&profile, "acct"), Some((ActionName::Errno, Some(13))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_cannot_be_known_is_never_replaced() {
    let file = |web: &PodSandbox| asked_for(container(web, "c1", 0), ProfileKind::Localhost, "/no/such/file");
    let web = pod("web");
    let set = set(&policy("no-mkdir", "web", BLOCK));
    let mut f = Fixture::new(Arc::clone(&set), Selection::default(), newest());
    let plugin = f.runtime.accept().await.unwrap();
    assert!(created(&plugin, &web, &file(&web)).await.is_empty());
    let notices = f.notices();
    assert!(
        notices.len() == 1 && notices[0].contains("not applied c1") && notices[0].contains("/no/such/file")
    );
    // a restart would change nothing
    f.seccomp.refresh(&f.policies.borrow().clone(), true);
    assert_eq!((f.state("c1"), f.notices().len()), (Some(State::NotApplied), 0));
    let mut f = Fixture::new(set, Selection { strict: true, ..Selection::default() }, newest());
    let plugin = f.runtime.accept().await.unwrap();
    let text = refusal(plugin.create_container(&web, &file(&web)).await);
    for part in ["`default/no-mkdir`", "/no/such/file", "strict"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exempt_or_may_wish_gets_nothing() {
    let set = set(&policy("no-mkdir", "web", BLOCK));
    let exempt = Selection { exempt: ["default".to_owned()].into(), ..Selection::default() };
    let honours = Selection { honour_pod_annotations: true, ..Selection::default() };
    let mut web = pod("web");
    web.annotations.insert("kubearmor-policy".into(), "disabled".into());
    for (selection, untouched) in [(exempt, true), (honours, true), (Selection::default(), false)] {
        let mut f = Fixture::new(Arc::clone(&set), selection, newest());
        let plugin = f.runtime.accept().await.unwrap();
        let adjustment = created(&plugin, &web, &container(&web, "c1", 0)).await;
        assert_eq!(adjustment.is_empty(), untouched);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_went_past_the_plugin_is_refused() {
    let set = set(&policy("no-mkdir", "web", BLOCK));
    let mut f = Fixture::new(set, Selection::default(), newest());
    let plugin = f.runtime.accept().await.unwrap();
    let web = pod("web");
    let validation = |adjustment: &ContainerAdjustment| {
        let mut validation = Validation::default();
        (validation.pod, validation.container) = (pod("web"), container(&pod("web"), "c1", 0));
        validation.adjustment = adjustment.clone();
        validation
    };
    let past = plugin.validate(&validation(&ContainerAdjustment::new())).await.unwrap();
    assert!(past.unwrap_err().contains("seccomp profile is missing"));
    let adjustment = created(&plugin, &web, &container(&web, "c1", 0)).await;
    plugin.validate(&validation(&adjustment)).await.unwrap().expect("as the plugin answered");
    // the answer came too late, or another plugin took the profile away
    let mut without = adjustment.clone();
    without.linux.seccomp_policy = None;
    assert!(plugin.validate(&validation(&without)).await.unwrap().is_err());
    let mut without = adjustment.clone();
    without.annotations.remove(ANNOTATION);
    assert!(
        plugin.validate(&validation(&without)).await.unwrap().is_err(),
        "the digest is of another profile, or gone"
    );
    assert!(plugin.validate(&validation(&ContainerAdjustment::new())).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_waits_for_its_restart_also_after_one_of_the_daemon() {
    let old = set(&policy("no-mkdir", "web", BLOCK));
    let new = set(&policy("no-mkdir", "web", "  syscalls: [mkdir, mkdirat, rmdir]\n  action: Block"));
    let mut f = Fixture::new(Arc::clone(&old), Selection::default(), newest());
    let plugin = f.runtime.accept().await.unwrap();
    let web = pod("web");
    let adjustment = created(&plugin, &web, &container(&web, "c1", 0)).await;
    f.seccomp.refresh(&old, true);
    assert_eq!((f.notices().len(), f.state("c1")), (0, Some(State::InForce)));
    f.change(Arc::clone(&new));
    f.change(Arc::clone(&new));
    assert_eq!(f.notices(), ["pending c1 policy `default/no-mkdir`"], "told once");
    assert_eq!(f.state("c1"), Some(State::PendingRestart));

    // another daemon knows it by the annotations alone
    let mut running = container(&web, "c1", 0);
    running.annotations = adjustment.annotations.clone();
    running.state = nri::ContainerState::Running;
    let mut options = newest();
    (options.pods, options.containers) = (vec![web.clone()], vec![running, container(&web, "c9", 0)]);
    let mut f = Fixture::new(new, Selection::default(), options);
    let plugin = f.runtime.accept().await.unwrap();
    assert_eq!(f.state("c1"), Some(State::PendingRestart));
    // one that came while no daemon was there
    assert_eq!(f.state("c9"), Some(State::PendingRestart));
    assert_eq!(f.notices().len(), 2);
    f.change(old);
    assert_eq!(f.state("c1"), Some(State::InForce), "the policies are again what it has");
    plugin.remove_container(&web, &container(&web, "c1", 0)).await.unwrap();
    f.eventually("forgotten", |f| f.state("c1").is_none()).await;
}

/// A runtime may hand annotations of a pod on to its containers.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_cannot_say_what_its_containers_were_created_with() {
    let set = set(&policy("no-mkdir", "web", BLOCK));
    let mut f = Fixture::new(Arc::clone(&set), Selection::default(), newest());
    let plugin = f.runtime.accept().await.unwrap();
    let annotations = created(&plugin, &pod("web"), &container(&pod("web"), "c1", 0)).await.annotations;
    let mut forging = pod("web");
    forging.id = "forging".into();
    forging.annotations = annotations.clone();
    let made = |pod: &PodSandbox, id: &str| {
        let mut container = container(pod, id, 0);
        container.annotations = annotations.clone();
        container
    };
    let mut options = newest();
    options.pods = vec![pod("web"), forging.clone()];
    options.containers = vec![made(&pod("web"), "c1"), made(&forging, "c2")];
    let mut f = Fixture::new(Arc::clone(&set), Selection::default(), options);
    let plugin = f.runtime.accept().await.unwrap();
    f.eventually("known", |f| f.state("c2").is_some()).await;
    assert_eq!((f.state("c1"), f.state("c2")), (Some(State::InForce), Some(State::PendingRestart)));
    // and one that is told about only when it starts
    for (pod, id, state) in [(&pod("web"), "c3", State::InForce), (&forging, "c4", State::PendingRestart)] {
        plugin.start_container(pod, &made(pod, id)).await.unwrap();
        f.eventually("compared", |f| f.state(id) == Some(state)).await;
    }
    // whichever of its annotations it is, it is not created
    for by_pod in [true, false] {
        for key in [ANNOTATION, POLICIES_ANNOTATION, FILE_ANNOTATION, crate::plugin::ANNOTATION] {
            for app in ["web", "db"] {
                let mut forging = pod(app);
                let mut one = container(&forging, "c5", 0);
                let annotations = if by_pod { &mut forging.annotations } else { &mut one.annotations };
                annotations.insert(key.into(), "x".into());
                let asked = plugin.create_container(&forging, &one).await;
                if app == "db" {
                    assert!(asked.unwrap().is_empty(), "no policy selects it");
                    continue;
                }
                let told = refusal(asked);
                assert!(told.contains("`default/no-mkdir`") && told.contains(key), "{told}");
            }
        }
    }
}

/// What the OCI hook asks for the containers that a runtime has told about.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_must_have_been_given_its_profile_where_the_runtime_takes_one() {
    let set = set(&policy("no-mkdir", "web", BLOCK));
    for (version, refuses) in [("2.4.0", true), ("2.1.9", false)] {
        let mut options = Options::containerd(version);
        let earlier = |id: &str| container(&pod("web"), id, 0);
        let mut given = earlier("given");
        given.annotations.insert(ANNOTATION.into(), "by another daemon".into());
        (options.pods, options.containers) = (vec![pod("web")], vec![earlier("missed"), given]);
        let mut f = Fixture::new(Arc::clone(&set), Selection::default(), options);
        let plugin = f.runtime.accept().await.unwrap();
        f.eventually("known", |f| f.state("missed").is_some()).await;
        let web = pod("web");
        created(&plugin, &web, &container(&web, "created", 0)).await;
        let unknown = asked_for(container(&web, "unknown", 0), ProfileKind::Localhost, "/no/such/file");
        created(&plugin, &web, &unknown).await;
        created(&plugin, &pod("db"), &container(&pod("db"), "other", 0)).await;
        let known = |f: &Fixture, id: &str| f.registry.container(&id.parse_id()).is_some();
        f.eventually("told", |f| known(f, "other")).await;
        let ask = |id: &str| f.seccomp.given(&f.policies.borrow().clone(), &id.parse_id());
        for id in ["given", "created", "unknown", "other", "nobody"] {
            assert!(ask(id).is_ok(), "{version}: {id}");
        }
        assert_eq!(ask("missed").is_err(), refuses, "{version}");
        // policies that come between creation and start
        f.change(super::tests::set(
            &[policy("no-mkdir", "web", BLOCK), policy("no-rmdir", "db", BLOCK)].concat(),
        ));
        assert_eq!(ask("other").is_err(), refuses, "{version}");
        assert!(ask("created").is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_waits_for_no_restart_and_keeps_its_file_until_it_is_removed() {
    let old = set(&policy("p", "web", BLOCK));
    let new = set(&policy("p", "web", "  syscalls: [mkdir, mkdirat, rmdir]\n  action: Block"));
    for version in ["2.1.9", "2.4.0"] {
        let mut f = Fixture::new(Arc::clone(&old), Selection::default(), Options::containerd(version));
        let plugin = f.runtime.accept().await.unwrap();
        let web = pod("web");
        let (c1, c2) = (container(&web, "c1", 0), container(&web, "c2", 0));
        let adjustment = created(&plugin, &web, &c1).await;
        created(&plugin, &web, &c2).await;
        f.notices();
        plugin.stop_container(&web, &c1).await.unwrap();
        f.change(Arc::clone(&new));
        assert_eq!(f.notices(), ["pending c2 policy `default/p`"], "{version}");
        assert_eq!((f.state("c1"), f.state("c2")), (Some(State::Ended), Some(State::PendingRestart)));
        f.change(Arc::default());
        assert_eq!(
            f.files().len(),
            usize::from(version == "2.1.9"),
            "it may be started again, with this file"
        );
        f.change(Arc::clone(&new));
        f.notices();
        // one of the same id, as podman starts it again: with the profile that it was created with
        plugin.start_container(&web, &c1).await.unwrap();
        // (where its pod has to name the profile, it has none here)
        let old = version == "2.1.9";
        let again = Some(if old { State::NotApplied } else { State::PendingRestart });
        f.eventually("compared", |f| f.state("c1") == again).await;
        f.eventually("told", |f| f.notices.lock().unwrap().iter().any(|one| one.contains(" c1 "))).await;
        plugin.stop_container(&web, &c1).await.unwrap();
        assert_eq!(f.state("c1"), Some(State::Ended));
        plugin.remove_container(&web, &c1).await.unwrap();
        f.eventually("forgotten", |f| f.state("c1").is_none()).await;
        // one that ended before this daemon came, and that the runtime therefore did not list
        let mut c3 = container(&web, "c3", 0);
        c3.annotations = adjustment.annotations;
        plugin.start_container(&web, &c3).await.unwrap();
        f.eventually("known by its annotations", |f| f.state("c3") == again).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_an_unknown_machine_each_seccomp_policy_is_a_gap_and_containers_keep_what_they_have() {
    let machine = || Err(UnknownMachine("pdp11".into()));
    let nothing = Arc::<PolicySet>::default();
    let policies = set(&policy("p", "web", BLOCK));
    for version in ["2.1.9", "2.4.0"] {
        let (set, selection) = (Arc::clone(&policies), Selection::default());
        let mut f = Fixture::on(machine(), set, selection, Options::containerd(version));
        let plugin = f.runtime.accept().await.unwrap();
        let web = pod("web");
        plugin.event(nri::Event::RunPodSandbox, &web, None).await.unwrap();
        assert!(created(&plugin, &web, &container(&web, "c1", 0)).await.is_empty());
        plugin.start_container(&web, &container(&web, "c1", 0)).await.unwrap();
        let notices = f.notices();
        assert!(notices.len() == 1 && notices[0].contains("`pdp11`"), "{notices:?}");
        assert_eq!((f.state("c1"), f.files().len()), (Some(State::NotApplied), 0), "no restart changes that");
        f.change(Arc::clone(&nothing));
        assert_eq!(f.state("c1"), Some(State::InForce), "nothing is missing");
        f.change(Arc::clone(&policies));
        assert_eq!((f.state("c1"), f.notices().len()), (Some(State::NotApplied), 1), "told again");
        f.change(Arc::clone(&policies));
        assert_eq!(f.notices().len(), 0, "once");
    }
    let strict = Selection { strict: true, ..Selection::default() };
    let mut f = Fixture::on(machine(), policies, strict, newest());
    let plugin = f.runtime.accept().await.unwrap();
    let web = pod("web");
    let text = refusal(plugin.create_container(&web, &container(&web, "c1", 0)).await);
    assert!(text.contains("`default/p`") && text.contains("no seccomp profiles are made"), "{text}");
    let db = pod("db");
    assert!(created(&plugin, &db, &container(&db, "c2", 0)).await.is_empty(), "no policy, no gap");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_runtime_leaves_it_to_the_pod_to_name_the_profile() {
    let text = policy("a", "web", BLOCK) + &policy("b", "web", "  syscalls: [rmdir]\n  action: Block");
    let set = set(&text);
    for strict in [false, true] {
        let selection = Selection { strict, ..Selection::default() };
        let mut f = Fixture::new(Arc::clone(&set), selection, Options::containerd("2.1.9"));
        let plugin = f.runtime.accept().await.unwrap();
        assert_eq!(f.files(), ["default.a+b.json"], "there before any pod");
        let web = pod("web");
        let adjustment = created(&plugin, &web, &container(&web, "c1", 0)).await;
        assert_eq!(adjustment.linux.seccomp_policy, None);
        assert_eq!(adjustment.annotations[FILE_ANNOTATION], "nri-enforcer/default.a+b.json");

        // it has what the file says
        let file = f.dir.path().join("var/lib/kubelet/seccomp/nri-enforcer/default.a+b.json");
        let profile: LinuxSeccomp = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        f.bundle(7, "c1", Some(&profile));
        plugin.start_container(&web, &container(&web, "c1", 7)).await.unwrap();
        assert_eq!((f.notices().len(), f.state("c1")), (0, Some(State::InForce)));

        // another one, none, and one that cannot be seen
        let other = LinuxSeccomp { default_action: ActionName::Log, ..profile };
        for (profile, why) in [(Some(&other), "another one"), (None, "has none")] {
            created(&plugin, &web, &container(&web, "c2", 0)).await;
            f.bundle(8, "c2", profile);
            let start = plugin.start_container(&web, &container(&web, "c2", 8)).await;
            let notices = f.notices();
            assert!(notices[0].contains(why) && notices[0].contains("default.a+b.json"), "{notices:?}");
            assert_eq!(f.state("c2"), Some(State::NotApplied));
            match strict {
                true => assert!(refusal(start).contains("localhostProfile: nri-enforcer/default.a+b.json")),
                false => start.unwrap(),
            }
        }
        created(&plugin, &web, &container(&web, "c3", 0)).await;
        let start = plugin.start_container(&web, &container(&web, "c3", 9)).await;
        assert_eq!(start.is_err(), strict);
        assert!(f.notices()[0].contains("process 9"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_daemon_finds_out_which_pods_do_not_name_their_profile() {
    let set = set(&policy("a", "web", BLOCK));
    let mut f = Fixture::new(Arc::clone(&set), Selection::default(), Options::containerd("2.1.9"));
    let plugin = f.runtime.accept().await.unwrap();
    let web = pod("web");
    let adjustment = created(&plugin, &web, &container(&web, "c1", 0)).await;
    let file = f.dir.path().join("var/lib/kubelet/seccomp/nri-enforcer/default.a.json");
    let profile: LinuxSeccomp = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    for (has, pid, wanted) in [
        (Some(&profile), 7, State::InForce),
        (None, 7, State::NotApplied),
        (None, 0, State::InForce), // not started yet: looked at then
    ] {
        let mut running = container(&web, "c1", pid);
        running.annotations = adjustment.annotations.clone();
        running.state = nri::ContainerState::Running;
        let mut options = Options::containerd("2.1.9");
        (options.pods, options.containers) = (vec![web.clone()], vec![running]);
        let mut f = Fixture::new(Arc::clone(&set), Selection::default(), options);
        f.bundle(7, "c1", has);
        let _plugin = f.runtime.accept().await.unwrap();
        f.eventually("known", |f| f.state("c1").is_some()).await;
        f.eventually("looked at", |f| f.state("c1") == Some(wanted)).await;
    }
}

/// Without an annotation the runtime's configuration alone tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_profile_stays_also_for_a_container_that_was_created_while_no_daemon_was_there() {
    let old = set(&policy("a", "web", BLOCK));
    let new = set(&policy("a", "web", "  syscalls: [mkdir, mkdirat, rmdir]\n  action: Block"));
    let before = Fixture::new(Arc::clone(&old), Selection::default(), Options::containerd("2.1.9"));
    let file = before.dir.path().join("var/lib/kubelet/seccomp/nri-enforcer/default.a.json");
    let text = std::fs::read_to_string(file).unwrap();
    let profile: LinuxSeccomp = serde_json::from_str(&text).unwrap();
    for (has, now, state, stays) in [
        (Some(&profile), &old, State::InForce, true),
        (Some(&profile), &new, State::PendingRestart, true), // of the file that this daemon found
        (None, &old, State::PendingRestart, false),
    ] {
        let mut options = Options::containerd("2.1.9");
        let mut running = container(&pod("web"), "c1", 7);
        running.state = nri::ContainerState::Running;
        (options.pods, options.containers) = (vec![pod("web")], vec![running]);
        let files = [("default.a.json", text.as_str())];
        let mut f = Fixture::with_files(&files, Arc::clone(now), options);
        f.bundle(7, "c1", has);
        let _plugin = f.runtime.accept().await.unwrap();
        f.eventually("known", |f| f.state("c1") == Some(state)).await;
        f.change(Arc::default());
        assert_eq!(f.files().len(), usize::from(stays), "{state:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_of_policies_that_are_gone_stay_while_a_container_has_them() {
    let both = policy("a", "web", BLOCK) + &policy("b", "db", BLOCK);
    let mut f = Fixture::new(set(&both), Selection::default(), Options::containerd("1.7.24"));
    assert_eq!(f.files(), ["default.a.json", "default.b.json"]);
    f.seccomp.refresh(&PolicySet::default(), true);
    assert_eq!(f.files().len(), 2, "nobody knows yet what is in use");
    let plugin = f.runtime.accept().await.unwrap();
    let web = pod("web");
    created(&plugin, &web, &container(&web, "c1", 0)).await;
    f.change(Arc::default());
    assert_eq!(f.files(), ["default.a.json"]);
    plugin.remove_container(&web, &container(&web, "c1", 0)).await.unwrap();
    let removed = |f: &Fixture| {
        f.seccomp.refresh(&PolicySet::default(), true);
        f.files().is_empty()
    };
    f.eventually("removed", removed).await;
}

/// What the API server has is not known: then what a container was created under is not gone.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_gone_while_the_policies_are_not_known() {
    let untold = || {
        let kind = crate::api::Resource::Policies(enforcer_core::policy::Kind::KubeArmorSeccompPolicy);
        Arc::new(PolicySet::default().with_unread([kind].into()))
    };
    let before = set(&policy("a", "web", BLOCK));
    let web = pod("web");
    let mut f = Fixture::new(Arc::clone(&before), Selection::default(), newest());
    let plugin = f.runtime.accept().await.unwrap();
    created(&plugin, &web, &container(&web, "c1", 0)).await;
    f.change(untold());
    assert_eq!((f.state("c1"), f.notices().len()), (Some(State::InForce), 0));
    f.change(Arc::default());
    assert_eq!((f.state("c1"), f.notices().len()), (Some(State::PendingRestart), 1));

    let mut f = Fixture::new(before, Selection::default(), Options::containerd("1.7.24"));
    let _plugin = f.runtime.accept().await.unwrap();
    let removed = |set: Arc<PolicySet>| {
        f.seccomp.refresh(&set, true);
        f.files().is_empty()
    };
    f.eventually("known what is in use", |f| f.seccomp.synchronized.load(Ordering::Relaxed)).await;
    assert!(!removed(untold()), "a pod may name it");
    assert!(removed(Arc::default()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_several_policies_select_in_a_way_that_no_selector_tells_has_its_profile_in_time() {
    let by_tier = policy("b", "web", BLOCK).replace("{app: web}", "{tier: front}");
    let mut f = Fixture::new(
        set(&(policy("a", "web", BLOCK) + &by_tier)),
        Selection::default(),
        Options::containerd("2.1.9"),
    );
    let plugin = f.runtime.accept().await.unwrap();
    assert_eq!(f.files(), ["default.a.json", "default.b.json"]);
    let mut web = pod("web");
    web.labels.insert("tier".into(), "front".into());
    plugin.event(nri::Event::RunPodSandbox, &web, None).await.unwrap();
    assert_eq!(f.files(), ["default.a+b.json", "default.a.json", "default.b.json"]);
    f.seccomp.refresh(&f.policies.borrow().clone(), true);
    assert_eq!(f.files().len(), 3, "its policies are there");
}
