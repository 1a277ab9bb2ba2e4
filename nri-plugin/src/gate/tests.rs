//! The gate over its socket, with the real reconciler and a recording kernel.

use super::*;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream as Stream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use enforcer_core::ruleset::RulesetDigest;

use nri_enforcer_hook::spec::CRUN_HANDLERS;

use super::strangers::Strangers;
use crate::container::Selection;
use crate::kernel::Kernel;
use crate::kernel::recording::Recording;
use crate::metrics::Metrics;
use crate::order::Present;
use crate::procs::{Procs, tests::add};
use crate::reconciler::Reconciler;
use crate::reconciler::tests::{container, policies};
use crate::registry::Registry;
use crate::seccomp::Seccomp;
use crate::seccomp::ledger::{Created, State};

/// Names the socket to the test `stranger`, in a process of another user.
const STRANGER: &str = "GATE_TEST_SOCKET";

struct Node {
    dir: tempfile::TempDir,
    kernel: Arc<Recording>,
    orders: Sender<Order>,
    synced: watch::Sender<bool>,
    policies: watch::Sender<Arc<crate::set::PolicySet>>,
    registry: Arc<Registry>,
    podman: Arc<PodmanGate>,
    serving: tokio::task::JoinHandle<()>,
    metrics: Metrics,
    told: Box<dyn FnMut() -> Vec<[String; 3]> + Send>,
}

impl Node {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(without_nri: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = Arc::<Recording>::default();
        let (policies, seen) = watch::channel(policies(&[("no-passwd", "/etc/passwd")]));
        let (orders, taken) = std::sync::mpsc::channel();
        let selection = Selection { exempt: ["kube-system".to_owned()].into(), ..Selection::default() };
        let registry = Arc::<Registry>::default();
        let seccomp = seccomp(&selection, &registry);
        seccomp.connected(Some(nri::NriVersion::new(0, 12, 0)));
        let podman = podman_gate(dir.path(), &selection, seen.clone(), &registry, Arc::clone(&seccomp));
        let given = {
            let seen = seen.clone();
            Arc::new(move |id: &ContainerId| seccomp.given(&Arc::clone(&seen.borrow()), id))
        };
        let procs = Procs::at(dir.path().join("proc"));
        let reconciler = Reconciler::new(
            Arc::clone(&kernel),
            selection,
            seen,
            Arc::clone(&registry),
            procs,
            Box::new(|_| {}),
        );
        std::thread::spawn(move || reconciler.run(&taken));
        let (synced, is_synced) = watch::channel(true);
        let state = (!without_nri).then(|| watch::channel(nri::State::Synchronized(Arc::default())).1);
        let connection = Connection::new(state, is_synced);
        let (events, told) = crate::api::reports::events::recorded();
        let gate = Gate::open(&dir.path().join("gate/sock")).unwrap();
        let gate = gate.telling(Some(events.at_gate(Arc::clone(&registry))));
        let metrics = Metrics::default();
        let serving = tokio::spawn(gate.serve(
            orders.clone(),
            connection,
            Arc::default(),
            given,
            Arc::clone(&podman),
            metrics.clone(),
        ));
        let told = Box::new(told);
        Self { dir, kernel, orders, synced, policies, registry, podman, serving, metrics, told }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("gate/sock")
    }

    /// Process 7 is the first one of `id`; `root` is the host's at this moment.
    fn lives(&self, id: &str) -> PathBuf {
        add(&self.dir.path().join("proc"), 7, 'S', 1000, &format!("/k8s.io/{id}"));
        self.dir.path().join("proc/7/root")
    }

    fn created(&self, id: &str, app: &str) {
        self.orders.send(Order::Created(container(id, "default", app))).unwrap();
    }

    /// How many questions had this answer.
    fn counted(&self, stage: &'static str, answer: &'static str) -> usize {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics.registry()).unwrap();
        let name = "nri_enforcer_gate_question_duration_seconds_count";
        let line = format!("{name}{{stage=\"{stage}\",answer=\"{answer}\"}} ");
        text.lines().find_map(|told| told.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    async fn started(&self, id: &str) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let container = container(id, "default", "web");
        self.orders.send(Order::Start { container, pid: 7, reply }).unwrap();
        answer.await.unwrap().map_err(|refusal| refusal.to_string())
    }

    async fn ask(&self, request: &Request) -> Answer {
        self.say(request.encode()).await.expect("an answer")
    }

    /// Sends bytes; `None`: it hung up without an answer.
    async fn say(&self, bytes: Vec<u8>) -> Option<Answer> {
        let socket = self.socket();
        tokio::task::spawn_blocking(move || say(&socket, &bytes)).await.unwrap()
    }

    /// Waits until every order so far has been carried out.
    async fn idle(&self) {
        let (reply, answer) = oneshot::channel();
        let container = container("nobody", "nowhere", "none");
        self.orders.send(Order::Start { container, pid: 0, reply }).unwrap();
        answer.await.unwrap().unwrap();
    }
}

/// podman with the containers of its tests.
pub(crate) fn podman_gate(
    dir: &Path,
    selection: &Selection,
    policies: watch::Receiver<Arc<crate::set::PolicySet>>,
    registry: &Arc<Registry>,
    seccomp: Arc<Seccomp>,
) -> Arc<PodmanGate> {
    let apparmor = |_: &crate::set::PolicySet, container: &crate::container::Container| match container
        .subject
        .container
        .as_str()
    {
        "web" => Ok(Some("a-profile".to_owned())),
        _ => Ok(None),
    };
    let storage = crate::podman::tests::storage(&dir.join("storage")).running_in(&dir.join("run"));
    let (selection, registry) = (selection.clone(), Arc::clone(registry));
    let strangers = Arc::new(Strangers::new(Procs::at(dir.join("proc"))));
    Arc::new(PodmanGate::new(storage, selection, policies, registry, seccomp, Box::new(apparmor), strangers))
}

pub(crate) fn seccomp(selection: &Selection, registry: &Arc<Registry>) -> Arc<Seccomp> {
    crate::seccomp::tests::seccomp(selection, registry, Path::new("/nonexistent"))
}

/// Seccomp policies that select `app: web` in `default`, and no other policy.
pub(crate) fn seccomp_only() -> Arc<crate::set::PolicySet> {
    crate::seccomp::tests::set(&crate::seccomp::tests::policy(
        "p",
        "web",
        "  action: Block\n  syscalls: [rmdir]",
    ))
}

fn say(socket: &Path, bytes: &[u8]) -> Option<Answer> {
    let mut gate = Stream::connect(socket).unwrap();
    let _hung_up = gate.write_all(bytes);
    let mut head = [0; 4];
    gate.read_exact(&mut head).ok()?;
    let mut body = vec![0; body_len(head).unwrap()];
    gate.read_exact(&mut body).ok()?;
    Some(Answer::decode(&body).unwrap())
}

fn request(id: &str) -> Request {
    Request {
        stage: Stage::CreateRuntime,
        id: id.into(),
        pid: 7,
        patience_millis: 1_000,
        root: Some("/bundle/rootfs".into()),
        root_inode: Some(5),
        namespace: "default".into(),
        pod: "pod".into(),
        container: "main".into(),
        podman: false,
        seccomp: None,
        seccomp_digest: String::new(),
    }
}

fn reason(answer: Answer) -> String {
    match answer {
        Answer::Refused { reason } => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_a_policy_selects_is_armed_and_read_back_at_its_start() {
    let node = Node::new();
    node.lives("c1");
    node.created("c1", "web");
    assert_eq!(node.ask(&request("c1")).await, Answer::Armed);
    assert_eq!(node.kernel.calls(), ["arm c1 7 Creating { root: Some(5) }"]);
    node.started("c1").await.unwrap();
    assert_eq!(node.kernel.calls(), ["arm c1 7 Created"]);
    // what died between is not armed for its successor
    std::fs::remove_dir_all(node.dir.path().join("proc/7")).unwrap();
    add(&node.dir.path().join("proc"), 7, 'S', 2000, "/k8s.io/c1");
    assert_eq!(node.ask(&request("c1")).await, Answer::Armed);
    assert_eq!(node.kernel.calls(), ["disarm c1", "arm c1 7 Creating { root: Some(5) }"]);
}

/// A daemon that was away answers somebody who has given up, and in the mode `open` has let the container start.
#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_is_gone_has_its_container_armed_as_one_that_runs_once_it_has_its_root() {
    let node = Node::new();
    let root = node.lives("c1");
    node.created("c1", "web");
    let sweep = async || {
        node.orders.send(Order::Sweep).unwrap();
        node.idle().await;
        node.kernel.calls()
    };
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    let aside = node.dir.path().join("aside");
    std::fs::create_dir(&aside).unwrap();
    let asking = Request { root_inode: Some(inode(&aside)), ..request("c1") };
    let mut hook = Stream::connect(node.socket()).unwrap();
    hook.shutdown(std::net::Shutdown::Read).unwrap(); // before the daemon can answer
    hook.write_all(&asking.encode()).unwrap();
    drop(hook);
    let begin = std::time::Instant::now();
    while node.counted("create_runtime", "armed") != 1 {
        assert!(begin.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.idle().await;
    assert_eq!(node.kernel.calls().len(), 1, "as one that has not begun");
    for _ in 0..3 {
        assert_eq!(sweep().await, [""; 0], "the runtime is at work still");
    }
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::rename(&aside, &root).unwrap();
    assert_eq!(sweep().await, [""; 0]);
    let mut calls = sweep().await;
    while calls.is_empty() && begin.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(5)).await; // it is armed between two orders
        calls = node.kernel.calls();
    }
    assert_eq!(calls, ["arm c1 7 Running"]);
    assert_eq!(sweep().await, [""; 0], "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_policy_selects_has_nothing_to_wait_for() {
    let node = Node::new();
    node.kernel.breaks("arm", true);
    node.lives("c1");
    node.created("c1", "db");
    assert_eq!(node.ask(&request("c1")).await, Answer::Nothing);
    // the runtime has not told about these
    for namespace in ["kube-system", "elsewhere"] {
        let stranger = Request { namespace: namespace.into(), ..request("c2") };
        assert_eq!(node.ask(&stranger).await, Answer::Nothing);
    }
    assert_eq!(node.kernel.calls(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_runtime_has_not_told_about_is_refused_where_a_policy_may_select_it() {
    let node = Node::new();
    let why = reason(node.ask(&request("c1")).await);
    for part in ["container `main` of pod `default/pod`", "labels are not known", "create it again"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    let why = reason(node.ask(&Request { patience_millis: 100, ..request(&"x".repeat(200)) }).await);
    assert!(why.contains("128"), "{why}");

    // before the runtime has told at all, that is waited for
    node.synced.send_replace(false);
    let why = reason(node.ask(&Request { patience_millis: 100, ..request("c1") }).await);
    assert!(why.contains("no connection"), "{why}");
    let later = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        node.lives("c1");
        let (reply, answer) = oneshot::channel();
        let present = vec![Present { container: container("c1", "default", "web"), pid: 0, running: false }];
        node.orders.send(Order::Synchronize { present, reply }).unwrap();
        answer.await.unwrap();
        node.synced.send_replace(true);
    };
    let patient = Request { patience_millis: 5_000, ..request("c1") };
    assert_eq!(tokio::join!(node.ask(&patient), later).0, Answer::Armed);
    // counted a moment after the answer
    let begin = std::time::Instant::now();
    while node.counted("create_runtime", "armed") != 1 {
        assert!(begin.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(node.counted("create_runtime", "refused"), 3);
}

/// Nothing on disk and no list yet: that is no set of policies that selects nothing.
#[tokio::test(flavor = "multi_thread")]
async fn until_the_policies_are_known_only_what_is_exempt_may_start() {
    let node = Node::new();
    let known = Arc::clone(&node.policies.borrow());
    let unread = || [crate::api::Resource::Namespaces].into();
    let of_files = crate::set::PolicySet::new(known.policies().to_vec()).with_unread(unread());
    node.lives("c1");
    node.created("c1", "web");
    node.created("c2", "db");
    let system = container("c3", "kube-system", "web");
    node.orders.send(Order::Created(system)).unwrap();
    for set in [crate::set::PolicySet::default().with_unread(unread()), of_files] {
        node.policies.send(Arc::new(set)).unwrap();
        // whether the runtime has told about it or not, and whatever a directory's policies say
        for id in ["c1", "c2", "c4"] {
            let why = reason(node.ask(&request(id)).await);
            for part in [
                "`main` of pod `default/pod`",
                "not known yet",
                "its Namespace,",
                "start the container again",
            ] {
                assert!(why.contains(part), "{id}, {part}: {why}");
            }
        }
        for stage in [Stage::Precreate, Stage::CreateRuntime] {
            assert!(reason(node.ask(&of_podman(stage)).await).contains("not known yet"));
            let unknown = Request { id: "0".repeat(64), ..of_podman(stage) };
            assert!(reason(node.ask(&unknown).await).contains("its name and labels are not known"));
        }
        for id in ["c3", "c5"] {
            let exempt = Request { namespace: "kube-system".into(), ..request(id) };
            assert_eq!(node.ask(&exempt).await, Answer::Nothing, "{id}");
        }
    }
    assert_eq!(node.kernel.calls(), [""; 0]);
    node.policies.send(known).unwrap();
    assert_eq!(node.ask(&request("c1")).await, Answer::Armed);
    assert_eq!(node.ask(&request("c2")).await, Answer::Nothing);
}

/// There nobody tells about it later.
#[tokio::test(flavor = "multi_thread")]
async fn without_nri_what_is_not_podmans_starts_where_no_policy_reaches_and_nowhere_else() {
    let node = Node::with(true);
    for synced in [false, true] {
        node.synced.send_replace(synced);
        let why = reason(node.ask(&Request { patience_millis: 60_000, ..request("c1") }).await);
        assert!(why.contains("no NRI by configuration") && why.contains("exempt the namespace"), "{why}");
        for namespace in ["kube-system", "elsewhere"] {
            let stranger = Request { namespace: namespace.into(), ..request("c2") };
            assert_eq!(node.ask(&stranger).await, Answer::Nothing);
        }
    }
    node.lives(crate::podman::tests::WEB);
    assert_eq!(node.ask(&of_podman(Stage::CreateRuntime)).await, Answer::Armed, "as ever");
}

/// The profile is given at the creation: whoever was not there for it, or came before the policies, has none.
#[tokio::test(flavor = "multi_thread")]
async fn what_seccomp_policies_select_does_not_start_without_its_profile() {
    let node = Node::new();
    node.policies.send(seccomp_only()).unwrap();
    let why = reason(node.ask(&request("c1")).await);
    assert!(why.contains("labels are not known"), "{why}");
    for namespace in ["kube-system", "elsewhere"] {
        let stranger = Request { namespace: namespace.into(), ..request("c1") };
        assert_eq!(node.ask(&stranger).await, Answer::Nothing, "no policy reaches it");
    }
    // the runtime tells about it, created while the daemon was away: armed or not, it has no profile
    let ledger = node.registry.seccomp();
    for (id, app) in [("c1", "web"), ("c2", "db")] {
        node.created(id, app);
        ledger.put(container(id, "default", app), Created::default());
    }
    let why = reason(node.ask(&request("c1")).await);
    assert!(why.contains("`default/p`") && why.contains("created without the profile"), "{why}");
    assert_eq!(node.ask(&request("c2")).await, Answer::Nothing, "no policy selects it");
    // what it was created with is noted a moment after the reconciler knows it
    ledger.forget(&ContainerId::new("c1").unwrap());
    node.synced.send_replace(false);
    let later = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let created = Created { profile: Some("d".into()), ..Created::default() };
        ledger.put(container("c1", "default", "web"), created);
        node.synced.send_replace(true);
    };
    let patient = Request { patience_millis: 5_000, ..request("c1") };
    assert_eq!(tokio::join!(node.ask(&patient), later).0, Answer::Nothing);
    // the same where other policies arm it
    ledger.put(container("c1", "default", "web"), Created::default());
    let file = policies(&[("no-passwd", "/etc/passwd")]);
    let both =
        crate::set::PolicySet::new(file.policies().to_vec()).with_seccomp(seccomp_only().seccomp().to_vec());
    node.policies.send(Arc::new(both)).unwrap();
    node.lives("c1");
    let why = reason(node.ask(&request("c1")).await);
    assert!(why.contains("created without the profile"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_arming_that_fails_or_takes_too_long_refuses() {
    let mut node = Node::new();
    node.created("c1", "web");
    assert!(reason(node.ask(&request("c1")).await).contains("hostPID"), "no process");
    node.lives("c1");
    node.kernel.breaks("arm", true);
    assert!(reason(node.ask(&request("c1")).await).contains("arm is broken"));
    let told = (node.told)();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1][..2] == ["pod", "uid"] && told[1][2].contains("arm is broken"), "{told:?}");
    node.kernel.breaks("arm", false);
    node.kernel.slow(Duration::from_millis(600));
    let begin = std::time::Instant::now();
    let why = reason(node.ask(&Request { patience_millis: 300, ..request("c1") }).await);
    assert!(why.contains("took too long"), "{why}");
    assert!(begin.elapsed() < Duration::from_millis(300), "before the hook gives up");
}

/// Before `pivot_root` the root of the process is the host's: links are those of the directory that is to be the root.
#[tokio::test(flavor = "multi_thread")]
async fn links_are_looked_up_where_the_root_will_be() {
    async fn digest(at: &str, request: Request) -> RulesetDigest {
        let node = Node::new();
        let root = node.lives("c1");
        for dir in ["bundle/rootfs/etc", "etc"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        symlink("../data/passwd", root.join(at)).unwrap();
        node.created("c1", "web");
        assert_eq!(node.ask(&request).await, Answer::Armed);
        node.kernel.digest("c1").unwrap()
    }
    let plain = digest("etc/none", request("c1")).await;
    assert_eq!(digest("etc/passwd", request("c1")).await, plain, "the host's links");
    assert_ne!(digest("bundle/rootfs/etc/passwd", request("c1")).await, plain);
    let unknown = Request { root: None, root_inode: None, ..request("c1") };
    assert_eq!(digest("etc/passwd", unknown).await, plain, "not known: none are followed before the start");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_looked_up_in_the_root_once_it_has_changed() {
    async fn digest(link: bool) -> RulesetDigest {
        let node = Node::new();
        let root = node.lives("c1");
        let bundle = root.join("bundle/rootfs");
        std::fs::create_dir_all(bundle.join("etc")).unwrap();
        if link {
            symlink("../data/shadow", bundle.join("etc/shadow")).unwrap();
        }
        let inode = std::fs::metadata(&bundle).unwrap().ino();
        node.created("c1", "web");
        assert_eq!(node.ask(&Request { root_inode: Some(inode), ..request("c1") }).await, Answer::Armed);
        let before = node.kernel.digest("c1").unwrap();
        // the runtime changes the root; nobody tells
        let aside = node.dir.path().join("aside");
        std::fs::rename(&bundle, &aside).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        std::fs::rename(&aside, &root).unwrap();
        node.policies.send(policies(&[("no-shadow", "/etc/shadow")])).unwrap();
        node.orders.send(Order::PoliciesChanged).unwrap();
        while node.kernel.digest("c1") == Some(before) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        node.kernel.digest("c1").unwrap()
    }
    assert_ne!(digest(true).await, digest(false).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_container_disarms_it_unless_it_lives() {
    let node = Node::new();
    node.lives("c1");
    node.created("c1", "web");
    assert_eq!(node.ask(&request("c1")).await, Answer::Armed);
    let gone = Request { stage: Stage::Poststop, pid: 0, ..request("c1") };
    assert_eq!(node.say(gone.encode()).await, None, "nobody waits for an answer");
    node.idle().await;
    assert_eq!(node.kernel.ids(), ["c1"], "it lives");
    std::fs::remove_dir_all(node.dir.path().join("proc/7")).unwrap();
    assert_eq!(node.say(gone.encode()).await, None);
    node.idle().await;
    assert_eq!(node.kernel.ids(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_make_no_sense_disturb_nobody() {
    let node = Node::new();
    node.lives("c1");
    node.created("c1", "web");
    let silent: Vec<Stream> = (0..40).map(|_| Stream::connect(node.socket()).unwrap()).collect();
    for bytes in
        [&b""[..], b"\0", b"\xff\xff\xff\xff", b"\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\x10\0{"]
    {
        assert_eq!(node.say(bytes.to_vec()).await, None, "{bytes:?}");
    }
    let other = [&[0, 0, 0, 13][..], br#"{"version":2}"#].concat();
    assert!(reason(node.say(other).await.unwrap()).contains("one release"));
    assert_eq!(node.ask(&request("c1")).await, Answer::Armed);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_root_is_answered() {
    use std::os::unix::fs::PermissionsExt;
    let node = Node::new();
    node.lives("c1");
    node.created("c1", "web");
    // as if the directory did not keep them out
    for (path, mode) in
        [(node.dir.path(), 0o755), (&node.dir.path().join("gate"), 0o755), (&node.socket(), 0o777)]
    {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let stranger = |uid: u32| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "gate::tests::stranger"]).env(STRANGER, node.socket()).uid(uid);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        tokio::task::spawn_blocking(move || command.status().expect("this test must run as root").success())
    };
    assert!(!stranger(65_534).await.unwrap(), "answered");
    assert_eq!(node.kernel.calls(), [""; 0]);
    assert!(stranger(0).await.unwrap(), "the same as root");
}

/// Not a test by itself: the other user of the test above, which fails where it gets no answer.
#[test]
fn stranger() {
    if let Some(socket) = std::env::var_os(STRANGER) {
        assert_eq!(say(Path::new(&socket), &request("c1").encode()), Some(Answer::Armed));
    }
}

#[tokio::test]
async fn the_socket_is_roots_alone_and_replaced_only_when_nobody_listens() {
    use std::os::unix::fs::PermissionsExt;
    let node = Node::new();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let (dir, socket) = (node.dir.path().join("gate"), node.socket());
    assert_eq!((mode(&dir), mode(&socket)), (0o700, 0o600));
    assert!(matches!(Gate::open(&socket), Err(SocketError::Taken { .. })), "another daemon");
    node.serving.abort();
    while socket.exists() {
        tokio::task::yield_now().await;
    }
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap()); // killed
    assert!(socket.exists());
    drop(Gate::open(&socket).unwrap());
    std::fs::write(&socket, "").unwrap();
    assert!(matches!(Gate::open(&socket), Err(SocketError::Taken { .. })), "a file");
    std::fs::remove_file(&socket).unwrap();
    for bad in [0o755, 0o770, 0o701] {
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(bad)).unwrap();
        let error = Gate::open(&socket).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{bad:o}: {error}");
    }
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&dir, Some(65_534), None).unwrap();
    assert!(matches!(Gate::open(&socket), Err(SocketError::Directory { .. })), "another's");
}

pub(crate) fn of_podman(stage: Stage) -> Request {
    Request { stage, podman: true, ..request(crate::podman::tests::WEB) }
}

#[tokio::test]
async fn a_container_of_podmans_is_identified_given_its_profile_and_armed() {
    let node = Node::new();
    node.lives(crate::podman::tests::WEB);
    let Answer::Adjust(adjustment) = node.ask(&of_podman(Stage::Precreate)).await else {
        panic!("no adjustment")
    };
    assert_eq!((adjustment.apparmor.as_deref(), adjustment.seccomp), (Some("a-profile"), None));
    // its rules begin with the first program that it executes: crun must execute one
    assert_eq!(adjustment.without, CRUN_HANDLERS.map(str::to_owned).into());
    // its label `app=web` selects it, though no runtime has told about it
    assert_eq!(node.ask(&of_podman(Stage::CreateRuntime)).await, Answer::Armed);
    assert!(node.kernel.armed().unwrap().contains_key(&ContainerId::new(crate::podman::tests::WEB).unwrap()));
}

#[tokio::test]
async fn one_that_cannot_be_identified_is_refused_where_a_policy_may_select_it() {
    let node = Node::new();
    for stage in [Stage::Precreate, Stage::CreateRuntime] {
        let unknown = Request { id: "0".repeat(64), ..of_podman(stage) };
        let why = reason(node.ask(&unknown).await);
        assert!(why.contains("its name and labels are not known"), "{why}");
        // podman has no namespaces: who says otherwise has it from the image
        for namespace in ["elsewhere", "kube-system"] {
            let elsewhere = Request { namespace: namespace.into(), ..unknown.clone() };
            assert!(matches!(node.ask(&elsewhere).await, Answer::Refused { .. }), "{namespace}");
        }
    }
    node.policies.send(policies(&[])).unwrap();
    let unknown = Request { id: "0".repeat(64), ..of_podman(Stage::CreateRuntime) };
    assert_eq!(node.ask(&unknown).await, Answer::Nothing, "no policy reaches it");
    let bad = Request { seccomp: Some(serde_json::json!([1])), ..of_podman(Stage::Precreate) };
    assert!(reason(node.ask(&bad).await).contains("seccomp profile makes no sense"));
}

/// podman's state may be busy at that moment, and no policy reach podman's containers.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_known_at_its_start_is_looked_for_and_so_is_what_was_restored() {
    let node = Node::new();
    let web = ContainerId::new(crate::podman::tests::WEB).unwrap();
    let storage = node.dir.path().join("storage");
    let bolt = storage.join("libpod/bolt_state.db");
    let good = std::fs::read(&bolt).unwrap();
    std::fs::write(&bolt, "").unwrap();
    node.lives("elsewhere"); // `--cgroups=disabled`: of its process only the hook tells
    let reaching = node.policies.send_replace(policies(&[]));
    assert_eq!(node.ask(&of_podman(Stage::CreateRuntime)).await, Answer::Nothing);
    let told = node.podman.strangers().all();
    assert!(told[&web].contains("name and labels are not known"), "{told:?}");
    let reaching = crate::set::PolicySet::new(reaching.policies().to_vec());
    node.policies.send_replace(Arc::new(reaching.with_seccomp(seccomp_only().seccomp().to_vec())));
    let (podman, procs) = (Arc::clone(&node.podman), Procs::at(node.dir.path().join("proc")));
    let every = Duration::from_millis(5);
    let looking = tokio::spawn(podman.look_on(Arc::clone(&node.kernel), procs, node.orders.clone(), every));
    let until = async |done: &dyn Fn() -> bool| {
        while !done() {
            tokio::time::sleep(every).await;
        }
    };
    let armed = || !node.kernel.ids().is_empty();
    std::fs::write(&bolt, good).unwrap();
    crate::podman::tests::notes(&storage, r#"{"state": 3, "pid": 7}"#);
    until(&armed).await;
    assert_eq!(node.kernel.calls(), [format!("arm {web} 7 Running")]);
    until(&|| node.podman.strangers().all().is_empty()).await;
    assert_eq!(node.registry.seccomp().state(&web), Some(State::PendingRestart), "it has no profile of ours");
    // a checkpoint ends it, and when it is restored under crun no hook is run
    std::fs::remove_dir_all(node.dir.path().join("proc/7")).unwrap();
    node.say(of_podman(Stage::Poststop).encode()).await;
    until(&|| !armed()).await;
    crate::podman::tests::notes(&storage, r#"{"state": 3}"#);
    let unknown = || node.podman.strangers().all();
    until(&|| unknown().get(&web).is_some_and(|why| why.contains("no process of it"))).await;
    // and is looked for, though podman's files do not change any more
    add(&node.dir.path().join("proc"), 8, 'S', 2000, &format!("/libpod-{web}"));
    until(&armed).await;
    until(&|| unknown().is_empty()).await;
    assert_eq!(node.kernel.calls(), [format!("disarm {web}"), format!("arm {web} 8 Running")]);
    assert!(!looking.is_finished(), "the end of a part is the daemon's");
    looking.abort();
}

/// crun fails before `createRuntime`, or the gate refuses: nobody tells of its end.
#[tokio::test]
async fn what_was_noted_at_precreate_is_forgotten_at_its_end_though_it_never_came_to_the_gate() {
    let node = Node::new();
    let web = ContainerId::new(crate::podman::tests::WEB).unwrap();
    let noted = || node.registry.seccomp().created(&web).is_some();
    node.lives("another");
    node.ask(&of_podman(Stage::Precreate)).await;
    assert!(noted());
    assert_eq!(node.say(of_podman(Stage::Poststop).encode()).await, None);
    node.idle().await;
    assert!(!noted());
    // what the gate refuses is known all the same, should it run: the hook's mode may be `open`
    node.policies.send(seccomp_only()).unwrap();
    assert!(node.registry.container(&web).is_none());
    assert!(reason(node.ask(&of_podman(Stage::CreateRuntime)).await).contains("was not run at `precreate`"));
    node.idle().await;
    assert!(node.registry.container(&web).is_some() && noted());
    // it failed, and nobody tells
    node.registry.seccomp().pass(Duration::from_secs(300));
    node.orders.send(Order::Sweep).unwrap();
    node.idle().await;
    assert!(!noted());
}

/// The files may be large and the disk slow: many starts at once wait for one another.
#[tokio::test(flavor = "multi_thread")]
async fn podmans_files_are_read_for_one_caller_at_a_time() {
    let node = Node::new();
    let slow = node.dir.path().join("storage/libpod/bolt_state.db");
    let state = std::fs::read(&slow).unwrap();
    std::fs::remove_file(&slow).unwrap();
    let made = Command::new("mkfifo").arg(&slow).status().unwrap();
    assert!(made.success());
    let held = std::fs::File::options().read(true).write(true).open(&slow).unwrap(); // so that readers wait
    let readers = || {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        open.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == slow)).count() - 1
    };
    // who looks for what an earlier daemon armed takes its turn, too
    node.kernel.preset(crate::podman::tests::WEB, Some(RulesetDigest::from_bytes([7; 32])));
    let finding =
        tokio::spawn(Arc::clone(&node.podman).find_armed(Arc::clone(&node.kernel), node.orders.clone()));
    let asking = Request { patience_millis: 500, ..of_podman(Stage::CreateRuntime) };
    let (first, second, third) = tokio::join!(node.ask(&asking), node.ask(&asking), node.ask(&asking));
    for answer in [first, second, third] {
        assert!(reason(answer).contains("could not be read in time"));
    }
    assert_eq!(readers(), 1, "the others have not begun");
    // and when the disk answers again, so does the daemon
    std::fs::remove_file(&slow).unwrap();
    std::fs::write(&slow, state).unwrap();
    drop(held);
    node.lives(crate::podman::tests::WEB);
    finding.await.unwrap();
    Arc::clone(&node.podman).find_armed(Arc::clone(&node.kernel), node.orders.clone()).await;
    node.idle().await;
    assert!(node.registry.container(&ContainerId::new(crate::podman::tests::WEB).unwrap()).is_some());
    assert_eq!(node.ask(&of_podman(Stage::CreateRuntime)).await, Answer::Armed);
}

#[test]
fn what_seccomp_policies_select_must_have_been_given_their_profile() {
    let dir = tempfile::tempdir().unwrap();
    let (_policies, seen) = watch::channel(seccomp_only());
    let registry = Arc::<Registry>::default();
    let selection = Selection::default();
    let gate = podman_gate(dir.path(), &selection, seen, &registry, seccomp(&selection, &registry));
    let web = gate.identify(&of_podman(Stage::CreateRuntime)).unwrap();
    let create = |digest: &str| {
        let request = Request { seccomp_digest: digest.into(), ..of_podman(Stage::CreateRuntime) };
        gate.create(&web, &request).map_err(reason)
    };
    assert!(create("").unwrap_err().contains("was not run at `precreate`"));
    let own = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
        [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]});
    let request = Request { seccomp: Some(own), ..of_podman(Stage::Precreate) };
    let Answer::Adjust(adjustment) = gate.precreate(&web, &request) else { panic!("no adjustment") };
    let profile = adjustment.seccomp.unwrap().to_string();
    assert!(
        profile.contains("\"rmdir\"") && profile.contains("\"errnoRet\":13"),
        "its own is kept: {profile}"
    );
    assert_eq!(adjustment.without.len(), CRUN_HANDLERS.len());
    let digest = &adjustment.annotations["nri-enforcer.io/seccomp"];
    assert_eq!(create(digest), Ok(()));
    assert!(create("").is_err() && create("another").is_err());
    // the runtime that lists containers does not know it, and yet it is remembered until its end
    registry.seccomp().replace([]);
    assert_eq!(create(digest), Ok(()));
    registry.end(&ContainerId::new(crate::podman::tests::WEB).unwrap());
    assert!(create(digest).is_err(), "over");
}
