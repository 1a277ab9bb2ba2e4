//! The daemon's part of AppArmor, with a kernel that only remembers. A real one is in `integration-tests/tests/apparmor`.

use std::collections::HashMap;
use std::fs;
use std::sync::mpsc::{Receiver, Sender, channel};

use enforcer_core::compile::apparmor::AppArmorProfile;
use enforcer_core::enforce::{Stage, Target};
use enforcer_core::policy::parse;
use enforcer_core::ruleset::RulesetDigest;

use super::*;
use crate::container::{Selection, Wish};
use crate::kernel::Kernel;
use crate::kernel::recording::Recording;
use crate::procs::tests::add;

#[derive(Debug, Default)]
struct Kept {
    loaded: BTreeMap<ProfileName, String>,
    children: BTreeMap<ProfileName, BTreeSet<String>>,
    processes: BTreeSet<(i32, ProfileName)>,
    loads: Vec<String>,
    begun: usize,
    broken: bool,
    complains: bool,
}

/// A kernel that remembers profiles.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Kept>>, Arc<Mutex<Option<Receiver<()>>>>);

/// As long as something is in it, loads wait.
pub(crate) type Held = Arc<Mutex<Option<Sender<()>>>>;

impl Memory {
    /// Makes every load wait until what is returned is taken; a thread does that in the end, so that a test fails and does
    /// not hang.
    pub(crate) fn hold(&self) -> Held {
        let (sender, receiver) = channel();
        *self.1.lock().unwrap() = Some(receiver);
        let held: Held = Arc::new(Mutex::new(Some(sender)));
        let at_last = Arc::clone(&held);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(8));
            at_last.lock().unwrap().take();
        });
        held
    }

    /// Waits until a load has begun.
    pub(crate) fn begun(&self) {
        while self.kept().begun == 0 {
            std::thread::yield_now();
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }

    /// The text that is loaded under a name.
    fn text(&self, name: &str) -> Option<String> {
        self.kept().loaded.get(&name.parse().unwrap()).cloned()
    }

    /// What was loaded since the last time.
    fn loads(&self) -> Vec<String> {
        std::mem::take(&mut self.kept().loads)
    }

    pub(crate) fn has(&self, name: &ProfileName) -> bool {
        self.kept().loaded.contains_key(name)
    }

    pub(crate) fn runs(&self, pid: i32, name: &str) {
        self.kept().processes.insert((pid, name.parse().unwrap()));
    }
}

impl Loader for Memory {
    fn load(&self, profile: &AppArmorProfile) -> Result<(), AppArmorError> {
        self.kept().begun += 1;
        if let Some(held) = &*self.1.lock().unwrap() {
            held.recv().unwrap_err();
        }
        let mut kept = self.kept();
        if kept.broken {
            return Err(AppArmorError::NotEnforced(profile.name.to_string()));
        }
        let begin = format!("{}//", profile.name);
        let children = profile.profiles.iter().filter_map(|one| one.strip_prefix(&begin)).map(str::to_owned);
        kept.children.entry(profile.name.clone()).or_default().extend(children);
        kept.loads.push(profile.name.to_string());
        kept.loaded.insert(profile.name.clone(), profile.text.clone());
        Ok(())
    }

    fn children(&self, name: &ProfileName) -> Result<BTreeSet<String>, AppArmorError> {
        Ok(self.kept().children.get(name).cloned().unwrap_or_default())
    }

    fn loaded(&self) -> Result<BTreeSet<ProfileName>, AppArmorError> {
        if self.kept().complains {
            return Err(AppArmorError::Unenforced { mode: "complain".into(), path: "/mode".into() });
        }
        Ok(self.kept().loaded.keys().cloned().collect())
    }

    fn processes(&self) -> Result<BTreeSet<(i32, ProfileName)>, AppArmorError> {
        Ok(self.kept().processes.clone())
    }

    fn of_process(&self, pid: i32) -> Result<Option<ProfileName>, AppArmorError> {
        Ok(self.kept().processes.iter().find(|(of, _)| *of == pid).map(|(_, name)| name.clone()))
    }

    fn remove_unused(&self, keep: &BTreeSet<ProfileName>) -> Result<Vec<ProfileName>, AppArmorError> {
        let mut kept = self.kept();
        let used: BTreeSet<_> = kept.processes.iter().map(|(_, name)| name.clone()).collect();
        let unused = |name: &&ProfileName| !keep.contains(*name) && !used.contains(*name);
        let removed: Vec<_> = kept.loaded.keys().filter(unused).cloned().collect();
        for name in &removed {
            kept.loaded.remove(name);
        }
        Ok(removed)
    }
}

mod earlier;
mod told;

/// A ruleset without rules.
pub(crate) fn no_rules() -> Arc<Ruleset> {
    nothing()
}

type Natives = Arc<Mutex<HashMap<String, Vec<Native>>>>;

struct Node {
    kernel: Memory,
    profiles: Arc<Profiles>,
    natives: Natives,
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self::after(Memory::default(), tempfile::tempdir().unwrap())
    }

    /// A daemon that finds what is there.
    fn after(kernel: Memory, dir: tempfile::TempDir) -> Self {
        let profiles = Profiles::with(Box::new(kernel.clone()), dir.path().into()).unwrap();
        let node = Self { kernel, profiles: Arc::new(profiles), natives: Natives::default(), dir };
        node.knows();
        node
    }

    fn knows(&self) {
        let natives = Arc::clone(&self.natives);
        self.profiles.ask(Box::new(move |id| {
            let natives = natives.lock().unwrap().get(id.as_str()).cloned().unwrap_or_default();
            let namespace = if id.as_str().starts_with("1e") { "bank" } else { "shop" };
            Some((namespace.to_owned(), natives))
        }));
    }

    /// A container that its runtime has created with this profile.
    fn created(&self, id: &str, pid: i32, profile: &str) -> Target {
        let root = self.dir.path();
        fs::create_dir_all(root.join("proc/6")).unwrap();
        add(&root.join("proc"), pid, 'S', 100, "/");
        let stat = fs::read_to_string(root.join(format!("proc/{pid}/stat"))).unwrap();
        fs::write(root.join(format!("proc/{pid}/stat")), stat.replacen("S 1 ", "S 6 ", 1)).unwrap();
        let bundle = root.join("bundles").join(id);
        fs::create_dir_all(&bundle).unwrap();
        let config =
            format!(r#"{{"process": {{"apparmorProfile": "{profile}", "noNewPrivileges": false}}}}"#);
        fs::write(bundle.join("config.json"), config).unwrap();
        let shim = root.join("proc/6/cwd");
        let _first = fs::remove_file(&shim);
        std::os::unix::fs::symlink(&bundle, &shim).unwrap();
        Target { id: ContainerId::new(id).unwrap(), pid, stage: Stage::Created }
    }
}

fn blocks(path: &str) -> Ruleset {
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: p, namespace: shop}}\n\
         spec:\n  selector: {{}}\n  file: {{matchPaths: [{{path: {path}}}]}}\n"
    );
    let subject = Subject { namespace: "shop".into(), ..Subject::default() };
    Ruleset::resolve(&parse("p.yaml", &text).policies, &Postures::default(), &subject).ruleset
}

fn native(text: &str) -> Native {
    let policy = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: n, namespace: shop}}\n\
         spec:\n  selector: {{}}\n  apparmor: |\n    {text}\n"
    );
    let subject = Subject { namespace: "shop".into(), ..Subject::default() };
    Native::of(&parse("n.yaml", &policy).policies, &subject).pop().unwrap()
}

/// The same from one program.
fn blocks_from(path: &str, source: &str) -> Ruleset {
    blocks(&format!("{path}, fromSource: [{{path: {source}}}]"))
}

const WEB: &str = "nri-enforcer.shop.web";

#[test]
fn a_container_that_names_a_profile_has_its_rules_in_it_and_others_are_told_what_to_do() {
    let node = Node::new();
    let web = node.created("c1", 7, WEB);
    node.profiles.arm(&web, &blocks("/a")).unwrap();
    assert!(node.kernel.text(WEB).unwrap().contains("deny \"/a"));
    assert_eq!(node.profiles.armed().unwrap()[&web.id], blocks("/a").digest());
    assert_eq!(node.profiles.name_of(&web.id).unwrap().as_str(), WEB);
    for profile in ["", "docker-default", "unconfined"] {
        let other = node.created("c2", 8, profile);
        let error = node.profiles.arm(&other, &blocks("/a")).unwrap_err();
        assert!(error.is_uncovered() && error.to_string().contains("nri-enforcer.shop.NAME"), "{error}");
        assert!(!node.profiles.armed().unwrap().contains_key(&other.id));
    }
    assert_eq!(node.kernel.loads(), [WEB], "nothing else was touched");
}

/// Else a pod of one namespace would have a say in what containers of another may do.
#[test]
fn the_profile_of_another_namespace_is_not_touched() {
    let node = Node::new();
    let bank = "nri-enforcer.bank.web";
    node.kernel.kept().loaded.insert(bank.parse().unwrap(), "theirs".into());
    let error = node.profiles.arm(&node.created("c1", 7, bank), &blocks("/a")).unwrap_err();
    assert!(error.is_uncovered() && error.to_string().contains("nri-enforcer.shop."), "{error}");
    assert_eq!(node.kernel.text(bank).unwrap(), "theirs");
}

#[test]
fn containers_that_share_a_profile_change_together_by_one_load() {
    let node = Node::new();
    let both = [node.created("c1", 7, WEB), node.created("c2", 8, WEB)];
    both.iter().for_each(|one| node.profiles.arm(one, &blocks("/a")).unwrap());
    assert_eq!(node.kernel.loads(), [WEB]);
    let next = blocks("/b");
    let results = node.profiles.update_all(&[(&both[0].id, &next), (&both[1].id, &next)]);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(node.kernel.loads(), [WEB]);
    assert!(node.kernel.text(WEB).unwrap().contains("deny \"/b"));
}

/// Else the kernel keeps them with their old rules, for the processes that are in them.
#[test]
fn children_that_are_loaded_are_in_the_next_profile() {
    let node = Node::new();
    let web = node.created("c1", 7, WEB);
    node.profiles.arm(&web, &blocks_from("/a", "/bin/x")).unwrap();
    let has = |children: usize, denied: usize| {
        let text = node.kernel.text(WEB).unwrap();
        assert_eq!(text.matches("  profile ").count(), children, "{text}");
        assert_eq!(text.matches("deny \"/b{,/}\"").count(), denied, "{text}");
    };
    has(2, 0);
    node.profiles.update(&web.id, &blocks("/b")).unwrap();
    has(2, 3);
    let Node { kernel, dir, .. } = node;
    let node = Node::after(kernel, dir);
    node.profiles.arm(&node.created("c1", 7, WEB), &blocks("/b")).unwrap();
    let text = node.kernel.text(WEB).unwrap();
    assert_eq!(text.matches("  profile ").count(), 2, "an earlier daemon's, too: {text}");
}

/// Compiling one takes seconds.
#[test]
fn a_profile_is_loaded_while_another_one_takes_its_time() {
    let node = Node::new();
    let held = node.kernel.hold();
    let begin = Instant::now();
    std::thread::scope(|threads| {
        let slow = threads.spawn(|| node.profiles.give(&ContainerId::new("0a").unwrap(), &nothing(), &[]));
        node.kernel.begun();
        node.profiles.pod("pod", [WEB.parse().unwrap()]);
        node.profiles.pods([]);
        node.profiles.tend();
        node.profiles.pod_removed("pod");
        assert_eq!(node.profiles.armed().unwrap(), BTreeMap::new());
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
        held.lock().unwrap().take();
        let name = slow.join().unwrap().unwrap();
        assert!(node.kernel.text(name.as_str()).is_some());
    });
}

/// Else whoever may create a pod could free those of others from their rules.
#[test]
fn whoever_comes_later_or_has_no_rules_takes_none_away_from_another() {
    let node = Node::new();
    let [idle, first, second] = [("c0", 9), ("c1", 7), ("c2", 8)];
    let arm = |(id, pid), rules: &Ruleset| node.profiles.arm(&node.created(id, pid, WEB), rules);
    let has = |path: &str| node.kernel.text(WEB).unwrap().contains(&format!("deny \"{path}"));
    let [of_idle, of_first, of_second] = ["c0", "c1", "c2"].map(|id| ContainerId::new(id).unwrap());
    arm(idle, &nothing()).unwrap();
    arm(first, &blocks("/a")).unwrap();
    assert!(has("/a"), "one without rules was there before");
    let error = arm(second, &blocks("/b")).unwrap_err();
    assert!(error.is_uncovered() && error.to_string().contains("is its own"), "{error}");
    assert!(has("/a") && !has("/b"));
    // a pod that is about to come takes nothing away either
    node.profiles.pod("pod", [WEB.parse().unwrap()]);
    node.profiles.prepare("pod", &WEB.parse().unwrap(), &nothing(), &[]).unwrap();
    assert!(has("/a"));
    // the policies of the first change, and others stay
    node.profiles.update(&of_first, &blocks("/c")).unwrap();
    assert!(has("/c"));
    assert!(node.profiles.update(&of_second, &blocks("/d")).unwrap_err().is_uncovered());
    assert!(has("/c"));
    node.profiles.disarm(&of_first).unwrap();
    node.profiles.update(&of_second, &blocks("/d")).unwrap();
    assert!(has("/d"));
    assert!(
        node.profiles.update(&of_idle, &nothing()).unwrap_err().is_uncovered(),
        "it is told what it runs under"
    );
}

#[test]
fn what_cannot_be_loaded_is_no_gap_and_what_was_loaded_stays() {
    let node = Node::new();
    let web = node.created("c1", 7, WEB);
    node.kernel.kept().broken = true;
    let error = node.profiles.arm(&web, &blocks("/a")).unwrap_err();
    assert!(!error.is_uncovered(), "it refuses the start: {error}");
    assert_eq!(node.profiles.armed().unwrap(), BTreeMap::new());
    node.kernel.kept().broken = false;
    node.profiles.arm(&web, &blocks("/a")).unwrap();
    node.kernel.kept().broken = true;
    node.profiles.update(&web.id, &blocks("/b")).unwrap_err();
    assert_eq!(node.profiles.armed().unwrap()[&web.id], blocks("/a").digest());
    node.kernel.kept().broken = false;
    node.profiles.update(&web.id, &blocks("/b")).unwrap();
}

/// What is lost is told, and let go, where it is mended: by the reconciler.
#[test]
fn who_only_looks_lets_nothing_go() {
    let node = Node::new();
    let web = node.created("c1", 7, WEB);
    node.profiles.arm(&web, &blocks("/a")).unwrap();
    assert_eq!(node.profiles.look().unwrap()[&web.id], blocks("/a").digest());
    let content = node.kernel.kept().loaded.remove(&WEB.parse().unwrap()).unwrap();
    assert_eq!(node.profiles.look().unwrap(), BTreeMap::new(), "somebody has removed the profile");
    node.kernel.kept().loaded.insert(WEB.parse().unwrap(), content);
    assert_eq!(node.profiles.look().unwrap()[&web.id], blocks("/a").digest(), "nothing was let go");
    node.kernel.kept().loaded.clear();
    assert_eq!(node.profiles.armed().unwrap(), BTreeMap::new());
    assert!(!node.profiles.state().bound.contains_key(&web.id));
}

#[test]
fn the_next_daemon_knows_who_has_which_profile() {
    let dir = tempfile::tempdir().unwrap();
    let (id, kernel) = ("0f".repeat(32), Memory::default());
    add(&dir.path().join("proc"), 7, 'S', 100, &format!("/kubepods.slice/cri-containerd-{id}.scope"));
    fs::write(dir.path().join("proc/7/status"), "Name:\tx\nNoNewPrivs:\t0\n").unwrap();
    kernel.kept().loaded.insert(WEB.parse().unwrap(), "before".into());
    kernel.runs(7, WEB);
    let node = Node::after(kernel, dir);
    let id = ContainerId::new(id).unwrap();
    assert_eq!(node.profiles.armed().unwrap()[&id], RulesetDigest::from_bytes([0; 32]));
    node.profiles.pods([]);
    node.profiles.tend();
    assert_eq!(node.kernel.text(WEB).unwrap(), "before", "nobody has said what should be in it");
    node.profiles.update(&id, &blocks("/a")).unwrap();
    assert!(node.kernel.text(WEB).unwrap().contains("deny \"/a"));
    // one of another namespace, which has it too, has no say
    let theirs = "1e".repeat(32);
    add(
        &node.dir.path().join("proc"),
        5,
        'S',
        100,
        &format!("/kubepods.slice/cri-containerd-{theirs}.scope"),
    );
    node.kernel.runs(5, WEB);
    let Node { kernel, dir, .. } = node;
    let node = Node::after(kernel, dir);
    let theirs = ContainerId::new(theirs).unwrap();
    node.profiles.update(&id, &blocks("/a")).unwrap();
    assert!(node.profiles.update(&theirs, &blocks("/b")).unwrap_err().is_uncovered());
    assert!(node.kernel.text(WEB).unwrap().contains("deny \"/a"));
    // one that runs without
    let other = Target { id: ContainerId::new("c2").unwrap(), pid: 9, stage: Stage::Running };
    assert!(node.profiles.arm(&other, &blocks("/a")).unwrap_err().is_uncovered());
}

#[test]
fn a_profile_stays_as_long_as_a_pod_names_it_or_somebody_has_it() {
    let node = Node::new();
    let name: ProfileName = WEB.parse().unwrap();
    node.profiles.prepare("pod", &name, &Arc::new(blocks("/a")), &[]).unwrap();
    assert!(node.kernel.text(WEB).is_none(), "the pod was removed meanwhile");
    node.profiles.pod("pod", [name.clone()]);
    node.profiles.prepare("pod", &name, &Arc::new(blocks("/a")), &[]).unwrap();
    node.kernel.kept().loaded.insert("nri-enforcer.shop.old".parse().unwrap(), String::new());
    node.profiles.tend();
    assert!(node.kernel.text("nri-enforcer.shop.old").is_some(), "the runtime has not told its pods yet");
    node.profiles.pods([("pod".to_owned(), [name].into())]);
    node.profiles.tend();
    assert!(node.kernel.text("nri-enforcer.shop.old").is_none());
    assert!(node.kernel.text(WEB).is_some(), "its image may still be fetched");
    let web = node.created("c1", 7, WEB);
    node.profiles.arm(&web, &blocks("/a")).unwrap();
    node.profiles.pod_removed("pod");
    node.profiles.tend();
    assert!(node.kernel.text(WEB).is_some(), "a container has it");
    node.kernel.runs(7, WEB);
    node.profiles.disarm(&web.id).unwrap();
    node.profiles.tend();
    assert!(node.kernel.text(WEB).is_some(), "a process still has it");
    node.kernel.kept().processes.clear();
    node.profiles.tend();
    assert!(node.kernel.text(WEB).is_none());
}

#[test]
fn a_profile_that_somebody_took_away_is_not_armed_any_more() {
    let node = Node::new();
    let web = node.created("c1", 7, WEB);
    node.profiles.arm(&web, &blocks("/a")).unwrap();
    node.kernel.kept().loaded.clear();
    assert_eq!(node.profiles.armed().unwrap(), BTreeMap::new());
    node.profiles.arm(&web, &blocks("/a")).unwrap();
    assert!(node.kernel.text(WEB).is_some());
    // its process turns out to have another one
    let mut state = node.profiles.state();
    let bound = state.bound.get_mut(&web.id).unwrap();
    bound.since = bound.since.checked_sub(STARTING * 2).unwrap();
    drop(state);
    assert_eq!(node.profiles.armed().unwrap(), BTreeMap::new());
}

/// What is loaded denies nothing then.
#[test]
fn where_the_node_complains_nothing_is_armed_until_it_enforces_again() {
    let node = Node::new();
    let web = node.created("c1", 7, WEB);
    node.profiles.arm(&web, &blocks("/a")).unwrap();
    node.kernel.kept().complains = true;
    assert_eq!(node.profiles.armed().unwrap(), BTreeMap::new());
    assert_eq!(node.profiles.look().unwrap(), BTreeMap::new());
    let refused = node.profiles.arm(&web, &blocks("/a")).unwrap_err();
    assert!(!refused.is_uncovered() && chain(&refused).contains("in the mode `complain`"), "{refused}");
    node.kernel.kept().complains = false;
    assert_eq!(node.profiles.armed().unwrap()[&web.id], blocks("/a").digest());
}

#[test]
fn native_rules_that_change_are_loaded_though_the_ruleset_is_the_same() {
    let node = Node::new();
    let web = node.created("c1", 7, WEB);
    node.profiles.arm(&web, &blocks("/a")).unwrap();
    node.natives.lock().unwrap().insert("c1".into(), vec![native("deny /n/** w,")]);
    node.profiles.tend();
    let text = node.kernel.text(WEB).unwrap();
    assert!(text.contains("deny \"/a") && text.contains("deny \"/n/**\" w"), "{text}");
}

#[test]
fn beside_bpf_a_profile_has_native_rules_alone_and_who_has_none_is_told() {
    let node = Node::new();
    let profiles = Profiles::with(Box::new(node.kernel.clone()), node.dir.path().into()).unwrap();
    let node = Node { profiles: Arc::new(profiles.for_natives_alone()), ..node };
    node.knows();
    let lacks = Arc::<Mutex<BTreeMap<String, Option<String>>>>::default();
    let bpf = Arc::<Recording>::default();
    let both = |strict| {
        let both = Beside::new(Arc::clone(&bpf), Arc::clone(&node.profiles), strict);
        let lacks = Arc::clone(&lacks);
        both.lacking(Box::new(move |id, what| {
            lacks.lock().unwrap().insert(id.to_string(), what);
        }));
        both
    };
    let lacking = |id: &str| lacks.lock().unwrap().get(id).cloned().flatten();
    for id in ["c1", "c2"] {
        node.natives.lock().unwrap().insert(id.into(), vec![native("deny /n/** w,")]);
    }
    let (with, without) = (node.created("c1", 7, WEB), node.created("c2", 8, ""));
    let plain = node.created("c3", 9, "");
    let lock = both(false);
    node.created("c1", 7, WEB);
    lock.arm(&with, &blocks("/a")).unwrap();
    let text = node.kernel.text(WEB).unwrap();
    assert!(text.contains("deny \"/n/**\" w") && !text.contains("\"/a"), "{text}");
    node.created("c2", 8, "");
    lock.arm(&without, &blocks("/a")).unwrap();
    assert!(lacking("c2").unwrap().contains("native AppArmor rules are not in force"));
    node.created("c3", 9, "");
    lock.arm(&plain, &blocks("/a")).unwrap();
    assert_eq!((lacking("c1"), lacking("c3")), (None, None));
    assert_eq!(bpf.ids(), ["c1", "c2", "c3"], "BPF has the rest of all");
    // a policy with native rules comes, and goes
    node.natives.lock().unwrap().insert("c3".into(), vec![native("deny /m/** w,")]);
    lock.tend();
    assert!(lacking("c3").is_some() && lacking("c1").is_none());
    node.natives.lock().unwrap().clear();
    lock.tend();
    assert_eq!((lacking("c2"), lacking("c3")), (None, None));
    assert!(!node.kernel.text(WEB).unwrap().contains("/n/"));
    // strict: refused, and nothing is left
    node.natives.lock().unwrap().insert("c4".into(), vec![native("deny /n/** w,")]);
    let error = both(true).arm(&node.created("c4", 10, ""), &blocks("/a")).unwrap_err();
    assert!(error.is_uncovered() && !bpf.ids().contains(&"c4".to_owned()), "{error}");
    // what runs already keeps what BPF-LSM can hold, and is told
    let running = Target { stage: Stage::Running, ..node.created("c4", 10, "") };
    both(true).arm(&running, &blocks("/a")).unwrap();
    assert!(bpf.ids().contains(&"c4".to_owned()) && lacking("c4").is_some());
}

#[test]
fn a_container_of_podmans_is_given_a_profile_and_nobody_else_may_have_it() {
    let node = Node::new();
    let id = ContainerId::new("ab".repeat(32)).unwrap();
    let name = node.profiles.give(&id, &Arc::new(blocks("/a")), &[]).unwrap();
    assert!(node.kernel.text(name.as_str()).unwrap().contains("deny \"/a"));
    let gated = Target { id: id.clone(), pid: 7, stage: Stage::Creating { root: None } };
    node.profiles.arm(&gated, &blocks("/a")).unwrap();
    assert_eq!(node.profiles.armed().unwrap()[&id], blocks("/a").digest());
    let other = node.created("c2", 8, name.as_str());
    assert!(node.profiles.arm(&other, &nothing()).unwrap_err().is_uncovered());
    // it was handed the profile, and its configuration says otherwise
    let told = node.created(id.as_str(), 9, "containers-default");
    assert!(node.profiles.arm(&told, &blocks("/a")).unwrap_err().is_uncovered());
}

/// It may be armed again for another first process; one that was never created is not asked about again.
#[test]
fn what_a_container_of_podmans_was_given_is_kept_for_some_minutes() {
    let node = Node::new();
    let id = ContainerId::new("ab".repeat(32)).unwrap();
    let name = node.profiles.give(&id, &Arc::new(blocks("/a")), &[]).unwrap();
    node.profiles.pods([]);
    let gated = Target { id: id.clone(), pid: 7, stage: Stage::Creating { root: None } };
    let later = || {
        let mut state = node.profiles.state();
        let (_, needed) = state.given.get_mut(&id).unwrap();
        *needed = needed.checked_sub(GIVEN).unwrap();
    };
    node.profiles.arm(&gated, &blocks("/a")).unwrap();
    later();
    node.profiles.tend();
    node.profiles.disarm(&id).unwrap();
    node.profiles.tend();
    assert!(node.kernel.text(name.as_str()).is_some());
    node.profiles.arm(&gated, &blocks("/b")).unwrap();
    node.profiles.disarm(&id).unwrap();
    later();
    node.profiles.tend();
    assert!(node.kernel.text(name.as_str()).is_none());
    assert!(node.profiles.state().given.is_empty());
}

#[test]
fn podman_is_told_a_profile_for_what_policies_select_and_an_error_where_it_cannot_be_loaded() {
    use crate::lock::Lock;
    use crate::reconciler::tests::{container, policies};

    let node = Node::new();
    let set = policies(&[("p", "/a")]);
    let [web, db] = ["web", "db"].map(|app| container(&"ab".repeat(32), "default", app));
    let selection = Selection { lock: Lock::AppArmor, ..Selection::default() };
    let ask = for_podman(Some(&node.profiles), &selection);
    let name = format!("nri-enforcer.podman_.{}", web.id);
    assert_eq!(ask(&set, &web), Ok(Some(name.clone())));
    assert!(node.kernel.text(&name).unwrap().contains("deny \"/a"));
    assert_eq!(ask(&set, &db), Ok(None), "no policy selects it");
    let strict = for_podman(Some(&node.profiles), &Selection { strict: true, ..selection.clone() });
    assert!(strict(&set, &web).unwrap_err().contains("podman exec"));
    assert_eq!(strict(&set, &db), Ok(None));
    node.kernel.kept().broken = true;
    node.profiles.state().loaded.clear();
    assert!(ask(&set, &web).is_err(), "the creation is refused");
    assert_eq!(for_podman(None, &selection)(&set, &web), Ok(None));
    // beside BPF-LSM only native rules need a profile
    let profiles = Profiles::with(Box::new(node.kernel.clone()), node.dir.path().into()).unwrap();
    let profiles = Arc::new(profiles.for_natives_alone());
    let selection = Selection { lock: Lock::Both, ..Selection::default() };
    assert_eq!(for_podman(Some(&profiles), &selection)(&set, &web), Ok(None));
}

/// A native rule is a gap where AppArmor does not hold it, and none where it does; what AppArmor cannot say is one there.
#[test]
fn gaps_are_those_of_the_lock_that_holds_the_rules() {
    use crate::lock::Lock;
    use enforcer_core::coverage::GapReason;

    let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: n, namespace: shop}\n\
        spec:\n  selector: {}\n  process: {matchPaths: [{path: /bin/x}]}\n  apparmor: |\n    deny /n r,\n    change_profile,\n";
    let parsed = parse("p.yaml", text);
    assert_eq!(parsed.errors, []);
    let set = crate::set::PolicySet::new(parsed.policies.into_iter().map(Arc::new).collect());
    let subject = Subject { namespace: "shop".into(), ..Subject::default() };
    let of = |lock, wish| {
        let selection = Selection { lock, honour_pod_annotations: true, ..Selection::default() };
        let merged = selection.resolve(&set, &subject, wish).unwrap();
        let gaps: Vec<GapReason> = merged.coverage.gaps.iter().map(|gap| gap.reason).collect();
        (gaps, merged.natives.len(), merged.ruleset.is_empty())
    };
    assert_eq!(of(Lock::Bpf, Wish::None), (vec![GapReason::AppArmor], 0, false));
    assert_eq!(of(Lock::Both, Wish::None), (vec![GapReason::AppArmorNative], 1, false));
    let (gaps, natives, _) = of(Lock::AppArmor, Wish::None);
    assert_eq!((gaps, natives), (vec![GapReason::AppArmorNative, GapReason::AppArmorProcess], 1));
    let (gaps, natives, _) = of(Lock::Both, Wish::Audited);
    assert_eq!(
        (gaps, natives),
        (vec![GapReason::AppArmor], 0),
        "native rules deny, and it is not to be denied anything"
    );
    let (gaps, natives, nothing) = of(Lock::Nothing, Wish::None);
    assert_eq!((gaps, natives, nothing), (vec![GapReason::AppArmor, GapReason::NoLock], 0, true));
}

/// `compile --apparmor` prints profiles that people load by themselves.
#[test]
fn a_profile_that_is_of_no_namespace_is_never_removed() {
    let kernel = Memory::default();
    for name in ["nri-enforcer.web", "nri-enforcer.shop.old"] {
        kernel.kept().loaded.insert(name.parse().unwrap(), String::new());
    }
    let node = Node::after(kernel, tempfile::tempdir().unwrap());
    node.profiles.pods([]);
    node.profiles.tend();
    assert!(node.kernel.text("nri-enforcer.web").is_some());
    assert!(node.kernel.text("nri-enforcer.shop.old").is_none());
}
