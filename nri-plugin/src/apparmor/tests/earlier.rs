//! Containers that an earlier daemon armed, found by their processes.

use super::*;
use crate::lock::Lock;

/// A process that has a profile.
fn runs(kernel: &Memory, dir: &tempfile::TempDir, (pid, started): (i32, u64), cgroup: &str, profile: &str) {
    add(&dir.path().join("proc"), pid, 'S', started, cgroup);
    fs::write(dir.path().join(format!("proc/{pid}/status")), "NoNewPrivs:\t0\n").unwrap();
    kernel.kept().loaded.insert(profile.parse().unwrap(), "before".into());
    kernel.runs(pid, profile);
}

fn id(digits: &str) -> ContainerId {
    ContainerId::new(digits.repeat(32)).unwrap()
}

const OTHER: &str = "nri-enforcer.shop.other";

/// Else a container that may write its cgroup has a say in what is in the profile of another one.
#[test]
fn a_cgroup_that_a_container_made_is_not_another_container() {
    let (kernel, dir) = (Memory::default(), tempfile::tempdir().unwrap());
    let [mine, victim, pod] = ["0a", "0b", "0c"].map(id);
    runs(&kernel, &dir, (5, 50), &format!("/kubepods.slice/cri-containerd-{mine}.scope/{victim}"), OTHER);
    runs(&kernel, &dir, (7, 70), &format!("/kubepods.slice/cri-containerd-{victim}.scope"), WEB);
    for (pid, cgroup) in [
        (10, format!("/machine.slice/machine-libpod_pod_{pod}.slice/libpod-{}.scope/container", id("0d"))),
        (11, format!("/libpod_parent/{pod}/libpod-{}", id("0e"))),
    ] {
        runs(&kernel, &dir, (pid, 100), &cgroup, WEB);
    }
    let node = Node::after(kernel, dir);
    let name = |id: &ContainerId| node.profiles.name_of(id).map(|name| name.to_string());
    assert_eq!((name(&mine).as_deref(), name(&victim).as_deref()), (Some(OTHER), Some(WEB)));
    assert_eq!(
        (name(&pod), name(&id("0d")).as_deref(), name(&id("0e")).as_deref()),
        (None, Some(WEB), Some(WEB))
    );
}

#[test]
fn the_process_that_the_runtime_lists_says_which_profile_a_container_has() {
    let (kernel, dir) = (Memory::default(), tempfile::tempdir().unwrap());
    let cgroup = format!("/kubepods.slice/cri-containerd-{}.scope", id("0a"));
    runs(&kernel, &dir, (5, 50), &cgroup, OTHER);
    runs(&kernel, &dir, (7, 70), &cgroup, WEB);
    let node = Node::after(kernel, dir);
    let web = id("0a");
    assert_eq!(node.profiles.name_of(&web).unwrap().as_str(), OTHER, "none takes the place of another");
    node.profiles.listed(&web, 5);
    assert_eq!(node.profiles.name_of(&web).unwrap().as_str(), OTHER);
    node.profiles.listed(&web, 7);
    assert_eq!(node.profiles.name_of(&web), None);
    assert!(!node.profiles.armed().unwrap().contains_key(&web), "so it is armed anew");
    node.profiles.arm(&Target { id: web.clone(), pid: 7, stage: Stage::Running }, &blocks("/a")).unwrap();
    assert!(node.kernel.text(WEB).unwrap().contains("/a") && node.kernel.text(OTHER).unwrap() == "before");
}

/// Else after a restart whoever has the lower number takes away the rules of the other.
#[test]
fn who_came_first_is_known_after_a_restart() {
    let (kernel, dir) = (Memory::default(), tempfile::tempdir().unwrap());
    let scope = |id: &ContainerId| format!("/kubepods.slice/cri-containerd-{id}.scope");
    let (first, second) = (id("0f"), id("0a"));
    runs(&kernel, &dir, (5, 900), &scope(&second), WEB);
    runs(&kernel, &dir, (6, 950), &scope(&first), WEB);
    runs(&kernel, &dir, (7, 100), &scope(&first), WEB);
    let node = Node::after(kernel, dir);
    let (a, b) = (blocks("/a"), blocks("/b"));
    let results = node.profiles.update_all(&[(&second, &b), (&first, &a)]);
    assert!(results[0].as_ref().is_err_and(KernelError::is_uncovered) && results[1].is_ok(), "{results:?}");
    assert!(node.kernel.text(WEB).unwrap().contains("/a"));
}

/// What is in it is the only place that says what its containers are to have.
#[test]
fn a_profile_stays_as_it_is_until_the_policies_are_known() {
    let (kernel, dir) = (Memory::default(), tempfile::tempdir().unwrap());
    let web = id("0a");
    runs(&kernel, &dir, (5, 50), &format!("/kubepods.slice/cri-containerd-{web}.scope"), WEB);
    let node = Node::after(kernel, dir);
    let untold = Arc::new(Mutex::new(Some("they are not known".to_owned())));
    let why = Arc::clone(&untold);
    node.profiles.waits(Box::new(move |_| why.lock().unwrap().clone()));
    // who comes meanwhile and shares it does not take the place of what was there
    let new = node.created("c1", 7, WEB);
    let error = node.profiles.arm(&new, &blocks("/a")).unwrap_err();
    assert!(error.is_uncovered() && error.to_string().ends_with("put in it: they are not known"), "{error}");
    Kernel::tend(&node.profiles);
    assert_eq!(node.kernel.text(WEB).unwrap(), "before");
    *untold.lock().unwrap() = None;
    let (a, b) = (blocks("/a"), blocks("/b"));
    let results = node.profiles.update_all(&[(&web, &b), (&new.id, &a)]);
    assert!(results[0].is_ok() && results[1].as_ref().is_err_and(KernelError::is_uncovered), "{results:?}");
    assert!(node.kernel.text(WEB).unwrap().contains("/b"));
}

/// The same beside BPF-LSM, where profiles have native rules alone.
#[test]
fn native_rules_stay_until_the_policies_are_known() {
    let (kernel, dir) = (Memory::default(), tempfile::tempdir().unwrap());
    let web = id("0a");
    runs(&kernel, &dir, (5, 50), &format!("/kubepods.slice/cri-containerd-{web}.scope"), WEB);
    let node = Node::after(kernel, dir);
    let untold = Arc::new(Mutex::new(Some("they are not known".to_owned())));
    let why = Arc::clone(&untold);
    node.profiles.waits(Box::new(move |_| why.lock().unwrap().clone()));
    let bpf = Arc::<Recording>::default();
    let lock = Beside::new(Arc::clone(&bpf), Arc::clone(&node.profiles), false);
    let lacks = Arc::<Mutex<BTreeMap<String, Option<String>>>>::default();
    let told = Arc::clone(&lacks);
    lock.lacking(Box::new(move |id, what| drop(told.lock().unwrap().insert(id.to_string(), what))));
    bpf.preset(web.as_str(), Some(blocks("/a").digest()));
    lock.tend();
    assert_eq!(node.kernel.text(WEB).unwrap(), "before");
    // those of a file are known, and whether they are in it is not
    node.natives.lock().unwrap().insert(web.to_string(), vec![native("deny /n/** w,")]);
    lock.tend();
    assert_eq!(node.kernel.text(WEB).unwrap(), "before");
    let lack = lacks.lock().unwrap()[web.as_str()].clone().unwrap();
    assert!(lack.contains("they are not known"), "{lack}");
    *untold.lock().unwrap() = None;
    lock.tend();
    assert!(node.kernel.text(WEB).unwrap().contains("/n/"));
    assert_eq!(lacks.lock().unwrap()[web.as_str()], None);
}

/// Else what denies in the profile of a running container would go, and nobody would be told.
#[test]
fn native_rules_of_an_earlier_daemon_stay_until_the_container_is_known() {
    let (kernel, dir) = (Memory::default(), tempfile::tempdir().unwrap());
    let web = id("0a");
    runs(&kernel, &dir, (5, 50), &format!("/kubepods.slice/cri-containerd-{web}.scope"), WEB);
    let profiles = Profiles::with(Box::new(kernel.clone()), dir.path().into()).unwrap();
    let profiles = Arc::new(profiles.for_natives_alone());
    let known = Arc::new(Mutex::new(false));
    let knows = Arc::clone(&known);
    profiles.ask(Box::new(move |_| {
        let natives = || ("shop".to_owned(), vec![native("deny /n/** w,")]);
        knows.lock().unwrap().then(natives)
    }));
    let bpf = Arc::<Recording>::default();
    let lock = Beside::new(Arc::clone(&bpf), Arc::clone(&profiles), false);
    bpf.arm(&Target { id: web.clone(), pid: 5, stage: Stage::Running }, &blocks("/a")).unwrap();
    lock.tend();
    assert_eq!((kernel.loads(), kernel.text(WEB).as_deref()), (vec![], Some("before")));
    *known.lock().unwrap() = true;
    lock.tend();
    assert!(kernel.text(WEB).unwrap().contains("deny \"/n/**\" w"));
}

/// A container as the runtime tells of it.
fn told(id: &ContainerId, app: &str) -> Arc<crate::container::Container> {
    crate::reconciler::tests::container(id.as_str(), "shop", app)
}

/// A daemon that has started while a container of an earlier one runs, as it is before the runtime has told of any.
struct Restarted {
    kernel: Memory,
    node: Node,
    registry: Arc<Registry>,
    web: ContainerId,
    _policies: watch::Sender<Arc<PolicySet>>,
}

impl Restarted {
    /// `policies` are known. `natives_alone`: beside BPF-LSM.
    fn new(policies: &str, natives_alone: bool) -> Self {
        let (kernel, dir) = (Memory::default(), tempfile::tempdir().unwrap());
        let web = id("0a");
        runs(&kernel, &dir, (5, 50), &format!("/kubepods.slice/cri-containerd-{web}.scope"), WEB);
        let mut profiles = Profiles::with(Box::new(kernel.clone()), dir.path().into()).unwrap();
        if natives_alone {
            profiles = profiles.for_natives_alone();
        }
        let set = PolicySet::new(parse("p.yaml", policies).policies.into_iter().map(Arc::new).collect());
        let (sender, policies) = watch::channel(Arc::new(set));
        let lock = if natives_alone { Lock::Both } else { Lock::AppArmor };
        let (registry, selection) = (Arc::<Registry>::default(), Selection { lock, ..Selection::default() });
        profiles.ask(about(&selection, &policies, &registry));
        profiles.waits(awaits(&selection, &policies, &registry));
        let node =
            Node { kernel: kernel.clone(), profiles: Arc::new(profiles), natives: Natives::default(), dir };
        Self { kernel, node, registry, web, _policies: sender }
    }

    fn text(&self) -> String {
        self.kernel.text(WEB).unwrap()
    }

    /// One that comes now and shares the profile.
    fn newcomer(&self, app: &str) -> Target {
        let new = self.node.created("c1", 7, WEB);
        self.registry.add(told(&new.id, app));
        new
    }
}

const NATIVE: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\n\
    metadata: {name: n, namespace: shop}\nspec:\n  selector: {matchLabels: {app: web}}\n  apparmor: |\n    deny /n/** w,\n";

/// Policies are known from the start, and of which containers the profile is is not.
#[test]
fn a_newcomer_takes_no_rules_from_one_that_is_not_settled_yet() {
    let r = Restarted::new("", false);
    let profiles = &r.node.profiles;
    Kernel::tend(profiles);
    let new = r.newcomer("web");
    let error = profiles.arm(&new, &blocks("/a")).unwrap_err();
    assert!(error.is_uncovered() && error.to_string().contains("has not told of its container"), "{error}");
    r.registry.add(told(&r.web, "web"));
    // as when policies change before it is its turn
    Kernel::tend(profiles);
    let error = profiles.arm(&new, &blocks("/a")).unwrap_err();
    assert!(error.is_uncovered() && error.to_string().contains("has not been looked at yet"), "{error}");
    assert_eq!((r.kernel.loads(), r.text()), (vec![], "before".to_owned()));
    let b = blocks("/b");
    assert!(profiles.update(&r.web, &b).is_ok());
    assert!(r.text().contains("/b"));
}

#[test]
fn a_newcomer_beside_another_lock_takes_no_native_rules_away() {
    let r = Restarted::new(NATIVE, true);
    let bpf = Arc::<Recording>::default();
    let lock = Beside::new(Arc::clone(&bpf), Arc::clone(&r.node.profiles), false);
    bpf.preset(r.web.as_str(), Some(blocks("/a").digest()));
    lock.tend();
    let new = r.newcomer("other");
    lock.arm(&new, &blocks("/a")).unwrap();
    lock.tend();
    assert_eq!((r.kernel.loads(), r.text()), (vec![], "before".to_owned()));
    // told of, and the next one comes before anybody tends
    r.registry.add(told(&r.web, "web"));
    lock.arm(&new, &blocks("/a")).unwrap();
    assert!(r.text().contains("deny \"/n/**\" w"), "{}", r.text());
}

/// Else nobody could change a profile any more after one of its containers has ended at the wrong time.
#[test]
fn what_is_over_or_no_container_keeps_no_profile() {
    for over in [false, true] {
        let r = Restarted::new(NATIVE, true);
        let lock = Beside::new(Arc::<Recording>::default(), Arc::clone(&r.node.profiles), false);
        let new = r.newcomer("web");
        lock.arm(&new, &blocks("/a")).unwrap();
        lock.tend();
        assert_eq!(r.text(), "before");
        match over {
            true => fs::remove_dir_all(r.node.dir.path().join("proc/5")).unwrap(),
            // it is what holds the namespaces of a pod
            false => r.node.profiles.pods([(r.web.to_string(), BTreeSet::new())]),
        }
        lock.tend();
        assert!(r.text().contains("deny \"/n/**\" w"), "{over} {}", r.text());
    }
}
