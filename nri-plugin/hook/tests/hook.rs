//! The program, against daemons that answer, and against what else may stand in their place.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nri_enforcer_hook::config::EXEMPT_FILE;
use nri_enforcer_hook::message::{Answer, Request, body_len};
use nri_enforcer_hook::spec::Adjustment;
use nri_enforcer_hook::spool::{self, OpenStart};
use nri_enforcer_hook::state::Stage;

/// Milliseconds.
const DEADLINE: u64 = 400;
/// Names the socket to the test `listener`, in a process of another user.
const LISTENER: &str = "HOOK_TEST_LISTENER";
const NOBODY: u32 = 65_534;

struct Gate {
    dir: tempfile::TempDir,
}

/// What the program did.
#[derive(Debug)]
struct Done {
    exit: i32,
    out: String,
    told: String,
    took: Duration,
}

impl Gate {
    fn new(mode: &str) -> Self {
        let gate = Self { dir: tempfile::tempdir().unwrap() };
        gate.configure(&format!(
            r#"{{"socket":"{}","deadlineMillis":{DEADLINE},"mode":"{mode}","exemptNamespaces":["infra"],"spool":"{}"}}"#,
            gate.path("sock").display(),
            gate.path("spool").display()
        ));
        gate
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, text: &str) {
        std::fs::write(self.path("config"), text).unwrap();
    }

    /// Answers one caller with these bytes, in pieces with pauses, and hands its request over.
    fn answers(&self, pieces: Vec<Vec<u8>>, pause: Duration) -> std::thread::JoinHandle<Request> {
        let listener = UnixListener::bind(self.path("sock")).unwrap();
        std::thread::spawn(move || {
            let (mut caller, _) = listener.accept().unwrap();
            let request = request(&mut caller);
            for piece in pieces {
                let _gone = caller.write_all(&piece);
                std::thread::sleep(pause);
            }
            request
        })
    }

    fn answer(&self, answer: &Answer) -> std::thread::JoinHandle<Request> {
        self.answers(vec![answer.encode()], Duration::ZERO)
    }

    /// `call`: the stage, and `--podman`.
    fn command(&self, call: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer-hook"));
        command.args(call.split(' ')).arg("--config").arg(self.path("config"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, call: &str, input: &[u8]) -> Done {
        let begin = Instant::now();
        let mut child = self.command(call).spawn().unwrap();
        let _closed = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        Done { out, exit: output.status.code().expect("no signal"), told, took: begin.elapsed() }
    }

    /// A container of this namespace is about to start.
    fn start(&self, namespace: &str) -> Done {
        self.run("createRuntime", self.state(namespace, "creating").as_bytes())
    }

    fn state(&self, namespace: &str, status: &str) -> String {
        let bundle = self.path("bundle");
        std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
        std::fs::write(bundle.join("config.json"), r#"{"root":{"path":"rootfs"}}"#).unwrap();
        format!(
            r#"{{"ociVersion":"1.2.0","id":"c1","status":"{status}","pid":7,"bundle":"{}","annotations":{{
                "io.kubernetes.cri.sandbox-namespace":"{namespace}","io.kubernetes.cri.sandbox-name":"web-1",
                "io.kubernetes.cri.container-name":"main","io.kubernetes.cri.container-type":"container"}}}}"#,
            bundle.display()
        )
    }
}

fn request(caller: &mut UnixStream) -> Request {
    let mut head = [0; 4];
    caller.read_exact(&mut head).unwrap();
    let mut body = vec![0; body_len(head).unwrap()];
    caller.read_exact(&mut body).unwrap();
    Request::decode(&body).unwrap()
}

/// podman up to 4.5 copies an image's annotations into the configuration, and the runtime those into the state.
#[test]
fn an_image_gets_past_no_daemon_by_the_length_of_its_annotations() {
    let gate = Gate::new("open");
    let daemon = gate.answer(&Answer::Refused { reason: "a policy selects it".into() });
    let long = format!(r#""annotations":{{"a":"{}","#, "x".repeat(3 << 20));
    let state = gate.state("shop", "creating").replace(r#""annotations":{"#, &long);
    let done = gate.run("createRuntime --podman", state.as_bytes());
    assert!(done.told.contains("a policy selects it"), "{done:?}");
    assert_eq!(daemon.join().unwrap().id, "c1");
}

#[test]
fn the_daemon_is_asked_and_its_answer_counts() {
    for (answer, exit) in [
        (Answer::Armed, 0),
        (Answer::Nothing, 0),
        (Answer::Refused { reason: "the kernel took too long; do it again".into() }, 1),
    ] {
        let gate = Gate::new("closed");
        let daemon = gate.answer(&answer);
        let done = gate.start("shop");
        assert_eq!(done.exit, exit, "{done:?}");
        let request = daemon.join().unwrap();
        assert_eq!((request.stage, request.id.as_str(), request.pid), (Stage::CreateRuntime, "c1", 7));
        assert_eq!((request.namespace.as_str(), request.pod.as_str()), ("shop", "web-1"));
        let root = gate.path("bundle/rootfs").canonicalize().unwrap();
        assert_eq!(request.root.as_deref(), root.to_str());
        assert_eq!(request.root_inode, Some(std::os::unix::fs::MetadataExt::ino(&root.metadata().unwrap())));
        assert!((1..=DEADLINE).contains(&request.patience_millis));
        if exit == 0 {
            assert_eq!(done.told, "");
        } else {
            for part in ["container `main` of pod `shop/web-1`", "took too long; do it again", "mode"] {
                assert!(done.told.contains(part), "{part}: {}", done.told);
            }
        }
    }
}

/// Puts something at the socket; another process, where it is one.
type Stand = Box<dyn Fn(&Gate) -> Option<Child>>;

/// Faults by name, what stands at the socket, and what the program must say.
fn faults() -> Vec<(&'static str, Stand, &'static str)> {
    fn pieces(pieces: Vec<Vec<u8>>, pause: u64) -> Stand {
        Box::new(move |gate| {
            drop(gate.answers(pieces.clone(), Duration::from_millis(pause)));
            None
        })
    }
    let armed = Answer::Armed.encode();
    let slowly = armed.iter().map(|byte| vec![*byte]).collect();
    vec![
        ("absent", Box::new(|_| None), "start nri-enforcer"),
        (
            "nobody listens any more",
            Box::new(|gate| {
                drop(UnixListener::bind(gate.path("sock")).unwrap());
                None
            }),
            "start nri-enforcer",
        ),
        (
            "a file",
            Box::new(|gate| {
                std::fs::write(gate.path("sock"), "").unwrap();
                None
            }),
            "start nri-enforcer",
        ),
        (
            "another user",
            Box::new(|gate| {
                std::fs::set_permissions(gate.dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
                let program = std::env::current_exe().unwrap();
                let child = Command::new(program)
                    .args(["--exact", "listener"])
                    .env(LISTENER, gate.path("sock"))
                    .stdout(Stdio::null())
                    .uid(NOBODY)
                    .spawn()
                    .expect("this test must run as root");
                while UnixStream::connect(gate.path("sock")).is_err() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Some(child)
            }),
            "user 65534",
        ),
        ("silence", pieces(vec![vec![]], 2_000), "within 400 ms"),
        ("one byte now and then", pieces(slowly, 60), "within 400 ms"),
        ("an end", pieces(vec![], 0), "hung up"),
        ("half an answer", pieces(vec![armed[..9].to_vec()], 0), "hung up"),
        ("garbage", pieces(vec![b"HTTP/1.1 200 OK\r\n\r\n".to_vec()], 500), "makes no sense"),
        ("no answer of ours", pieces(vec![[&[0, 0, 0, 2][..], b"{}"].concat()], 500), "makes no sense"),
        (
            "another version",
            pieces(vec![[&[0, 0, 0, 13][..], b"{\"version\":9}"].concat()], 500),
            "one release",
        ),
        (
            "a refusal",
            pieces(vec![Answer::Refused { reason: "cannot be armed".into() }.encode()], 0),
            "cannot be armed",
        ),
    ]
}

#[test]
fn without_a_permission_of_the_daemon_nothing_starts_unless_exempt_or_open() {
    for (name, stand, wanted) in faults() {
        for (mode, namespace, exit) in [("closed", "shop", 1), ("open", "shop", 0), ("closed", "infra", 0)] {
            let gate = Gate::new(mode);
            let child = stand(&gate);
            let done = gate.start(namespace);
            let at = format!("{name}, {mode}, {namespace}: {done:?}");
            if let Some(mut child) = child {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            assert_eq!(done.exit, exit, "{at}");
            assert!(done.took < Duration::from_millis(DEADLINE + 1_500), "{at}");
            let spool::Found { starts, problems } = spool::read(&gate.path("spool")).unwrap();
            assert_eq!(problems, [""; 0], "{at}");
            if namespace == "infra" {
                assert!(done.told.is_empty() && starts.is_empty(), "{at}");
                continue;
            }
            assert!(done.told.contains(wanted) && done.told.lines().count() == 1, "{at}");
            if mode == "closed" {
                assert_eq!(starts, [], "{at}");
                continue;
            }
            let [(_, OpenStart { id, namespace, pod, container, reason, time_millis, more })] =
                starts.as_slice()
            else {
                panic!("{at}: {starts:?}")
            };
            assert_eq!([id, namespace, pod, container], ["c1", "shop", "web-1", "main"], "{at}");
            assert!(done.told.contains(reason.as_str()) && *time_millis > 0 && *more == 0, "{at}");
        }
    }
}

/// Not a test by itself: the other user of the test above, which answers as the daemon would.
#[test]
fn listener() {
    let Some(path) = std::env::var_os(LISTENER) else { return };
    let listener = UnixListener::bind(path).unwrap();
    for caller in listener.incoming() {
        let _gone = caller.unwrap().write_all(&Answer::Armed.encode());
    }
}

/// Damages of a configuration by name: what the file is to be, its mode, its owner, and what must be told of it.
type Damage = (&'static str, Option<String>, u32, u32, &'static str);

/// `infra` is exempt by the file itself, `shop` nowhere.
fn damages_that_leave_the_list() -> Vec<Damage> {
    let with = |what: &str| Some(format!(r#"{{"mode":"open","exemptNamespaces":["infra"],{what}}}"#));
    vec![
        ("a key that is not known", with(r#""mod":"open""#), 0o644, 0, "`mod`"),
        ("no such mode", with(r#""mode":"ajar""#), 0o644, 0, "`ajar`"),
        ("a deadline out of bounds", with(r#""deadlineMillis":60000"#), 0o644, 0, "`deadlineMillis`"),
        ("a deadline that is none", with(r#""deadlineMillis":"1s""#), 0o644, 0, "`deadlineMillis`"),
        ("a socket that is no path", with(r#""socket":"run/x""#), 0o644, 0, "`socket`"),
        ("a spool that is no path", with(r#""spool":7"#), 0o644, 0, "`spool`"),
        (
            "a namespace that is no text",
            Some(r#"{"mode":"open","exemptNamespaces":[1,"infra"]}"#.into()),
            0o644,
            0,
            "`exemptNamespaces`",
        ),
    ]
}

/// The file tells no list that could be believed.
fn damages_that_take_the_list() -> Vec<Damage> {
    let whole = r#"{"mode":"open","exemptNamespaces":["shop"]}"#;
    let long = format!("{whole}{}", " ".repeat(70_000));
    vec![
        ("an end that is missing", Some(whole.strip_suffix('}').unwrap().into()), 0o644, 0, "line 1"),
        ("nothing in it", Some(String::new()), 0o644, 0, "no JSON"),
        ("no object", Some(r#"["shop"]"#.into()), 0o644, 0, "no JSON object"),
        (
            "no list",
            Some(r#"{"mode":"open","exemptNamespaces":"shop"}"#.into()),
            0o644,
            0,
            "`exemptNamespaces`",
        ),
        (
            "a misspelt key",
            Some(r#"{"mode":"open","exemptNamespace":["shop"]}"#.into()),
            0o644,
            0,
            "`exemptNamespace`",
        ),
        ("too long", Some(long), 0o644, 0, "65536 bytes"),
        ("its group can write it", Some(whole.into()), 0o664, 0, "others than root"),
        ("everybody can write it", Some(whole.into()), 0o646, 0, "others than root"),
        ("another user's", Some(whole.into()), 0o644, NOBODY, "others than root"),
        ("gone", None, 0o644, 0, "it is gone"),
    ]
}

impl Gate {
    /// Puts such a file in the place of the configuration.
    fn damage(&self, (_, text, mode, owner, _): &Damage) {
        let path = self.path("config");
        let _none = std::fs::remove_file(&path);
        if let Some(text) = text {
            self.configure(text);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode)).unwrap();
            std::os::unix::fs::chown(&path, Some(*owner), None).unwrap();
        }
    }

    /// Writes the list that `install` keeps.
    fn keep(&self, text: &str, mode: u32) {
        std::fs::write(self.path(EXEMPT_FILE), text).unwrap();
        std::fs::set_permissions(self.path(EXEMPT_FILE), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Whether containers of these namespaces start with a bad configuration and no daemon. Which do not are refused for
    /// that they are not vouched for, and for nothing else.
    fn exempts(&self, what: &str, told: &str, namespaces: [(&str, bool); 3]) {
        for (namespace, starts) in namespaces {
            let done = self.start(namespace);
            let at = format!("{what}, {namespace}: {done:?}");
            assert!(done.told.contains("bad configuration") && done.told.contains(told), "{at}");
            assert_eq!(done.exit, i32::from(!starts), "{at}");
            assert_eq!(done.told.contains("must not start: nri-enforcer does not listen"), !starts, "{at}");
        }
    }
}

#[test]
fn a_bad_configuration_exempts_whom_it_names_and_opens_nothing() {
    let gate = Gate::new("closed");
    for damage in damages_that_leave_the_list() {
        gate.damage(&damage);
        gate.exempts(damage.0, damage.4, [("infra", true), ("shop", false), ("kube-system", false)]);
        // the list that is kept is older than what the file says
        gate.keep(r#"{"exemptNamespaces":["shop"]}"#, 0o644);
        gate.exempts(damage.0, damage.4, [("infra", true), ("shop", false), ("kube-system", false)]);
        std::fs::remove_file(gate.path(EXEMPT_FILE)).unwrap();
    }
}

#[test]
fn a_configuration_that_cannot_be_believed_exempts_whom_the_last_good_one_did() {
    let gate = Gate::new("closed");
    for damage in damages_that_take_the_list() {
        gate.keep(r#"{"exemptNamespaces":["infra","kube-system"]}"#, 0o644);
        gate.damage(&damage);
        gate.exempts(damage.0, damage.4, [("infra", true), ("shop", false), ("kube-system", true)]);
        // a list that others can write is nobody's word, and one that makes no sense none at all
        for (text, mode) in [(r#"{"exemptNamespaces":["shop"]}"#, 0o664), ("{", 0o644), ("{}", 0o644)] {
            gate.keep(text, mode);
            gate.exempts(damage.0, damage.4, [("infra", false), ("shop", false), ("kube-system", true)]);
        }
    }
}

#[test]
fn a_state_that_makes_no_sense_starts_nothing() {
    let gate = Gate::new("closed");
    let deep = "[".repeat(100_000);
    let endless = vec![b' '; 3 << 20];
    let of_another_stage = gate.state("infra", "running");
    for state in [&b""[..], b"{}", b"\xff\x00", deep.as_bytes(), &endless, of_another_stage.as_bytes()] {
        let done = gate.run("createRuntime", state);
        assert_eq!((done.exit, done.told.contains("OCI state makes no sense")), (1, true), "{done:?}");
    }
    let open = Gate::new("open");
    assert_eq!(open.run("createRuntime", b"{").exit, 0);
    assert_eq!(spool::read(&open.path("spool")).unwrap().starts.len(), 1, "recorded all the same");
}

#[test]
fn a_runtime_that_sends_no_state_is_not_waited_for() {
    let gate = Gate::new("closed");
    let begin = Instant::now();
    let mut child = gate.command("createRuntime").spawn().unwrap();
    let stdin = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(begin.elapsed() < Duration::from_millis(DEADLINE + 1_500));
    drop(stdin);
}

#[test]
fn nobody_hears_and_yet_the_exit_status_is_right() {
    let gate = Gate::new("closed");
    let mut command = gate.command("createRuntime");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command.stderr(writer).spawn().unwrap();
    child.stdin.take().unwrap().write_all(gate.state("shop", "creating").as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn the_end_of_a_container_is_told_and_never_fails() {
    let gate = Gate::new("closed");
    let state = gate.state("shop", "stopped");
    let done = gate.run("poststop", state.as_bytes());
    assert_eq!(done.exit, 0, "no daemon");
    assert!(done.told.contains("is over"), "{done:?}");
    assert_eq!(gate.run("poststop", b"{").exit, 0, "no state");
    let daemon = gate.answers(vec![], Duration::ZERO);
    assert_eq!(gate.run("poststop", state.as_bytes()).exit, 0);
    let request = daemon.join().unwrap();
    assert_eq!((request.stage, request.id.as_str()), (Stage::Poststop, "c1"));
}

#[test]
fn a_call_that_makes_no_sense_fails() {
    let gate = Gate::new("open");
    for stage in ["prestart", "--help", "", "--podman", "precreate"] {
        let done = gate.run(stage, b"{}");
        assert_eq!((done.exit, done.told.contains("usage:")), (2, true), "{stage}: {done:?}");
    }
}

const ID: &str = "3051cfbb6f4b136dd927d1869fe98a135fab86c6b4801d5f0eae5403d751e74a";

#[test]
fn podmans_configuration_is_handed_back_with_what_the_daemon_wants() {
    let spec = format!(
        r#"{{ "linux": {{"cgroupsPath": "/libpod_parent/libpod-{ID}", "seccomp": {{"defaultAction": "SCMP_ACT_ERRNO"}}}}}}"#
    );
    let run = |gate: &Gate, spec: &str| gate.run("precreate --podman", spec.as_bytes());
    let parsed = |done: &Done| serde_json::from_str::<serde_json::Value>(&done.out).unwrap();

    let gate = Gate::new("closed");
    let asked = gate.answer(&Answer::Nothing);
    let done = run(&gate, &spec);
    assert_eq!((done.exit, done.out.as_str()), (0, spec.as_str()), "to the byte");
    let request = asked.join().unwrap();
    assert_eq!((request.id.as_str(), request.namespace.as_str(), request.podman), (ID, "default", true));
    assert_eq!(request.seccomp, Some(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO"})));

    let gate = Gate::new("closed");
    let seccomp = serde_json::json!({"defaultAction": "SCMP_ACT_KILL"});
    let _asked =
        gate.answer(&Answer::Adjust(Adjustment { seccomp: Some(seccomp.clone()), ..Adjustment::default() }));
    let done = run(&gate, &spec);
    assert_eq!((done.exit, &parsed(&done)["linux"]["seccomp"]), (0, &seccomp));

    // no good answer: createRuntime decides, and finds why
    for mode in ["closed", "open"] {
        let gate = Gate::new(mode);
        let done = run(&gate, &spec);
        let told = parsed(&done)["annotations"]["nri-enforcer.io/refused"].clone();
        assert!(done.exit == 0 && told.as_str().unwrap().contains("does not listen"), "{mode}: {told}");
        let _asked = gate.answer(&Answer::Armed); // whatever the daemon says now
        let state = serde_json::json!({
            "id": ID, "pid": 7, "status": "creating",
            "annotations": {"nri-enforcer.io/refused": told},
        });
        let done = gate.run("createRuntime --podman", state.to_string().as_bytes());
        assert_eq!(done.exit, i32::from(mode == "closed"), "{}", done.told);
        assert!(done.told.contains("at its creation: nri-enforcer does not listen"), "{}", done.told);
    }
    // what is no configuration cannot be handed on
    for mode in ["closed", "open"] {
        let done = run(&Gate::new(mode), "{");
        assert_eq!((done.exit, done.out.as_str()), (1, ""));
        assert!(done.told.contains("no JSON"), "{}", done.told);
    }
    // one that is exempt, as the administrator has written, whoever it is
    let gate = Gate::new("closed");
    gate.configure(r#"{"exemptNamespaces": ["default"]}"#);
    for spec in [spec.as_str(), "{}"] {
        let done = run(&gate, spec);
        assert_eq!((done.exit, done.out.as_str(), done.told.as_str()), (0, spec, ""));
    }
}

/// podman shows nothing of what `precreate` says: the reason must come from where the mode decides.
#[test]
fn a_container_of_podmans_that_is_not_known_is_judged_by_the_mode() {
    for mode in ["closed", "open"] {
        let gate = Gate::new(mode);
        let done = gate.run("precreate --podman", br#"{"annotations":{"own":"kept"}}"#);
        let after: serde_json::Value = serde_json::from_str(&done.out).unwrap();
        let told = after["annotations"]["nri-enforcer.io/refused"].as_str().unwrap();
        assert!(done.exit == 0 && told.contains("cgroupsPath"), "{mode}: {done:?}");
        assert_eq!(after["annotations"]["own"], "kept");
        let state = serde_json::json!({
            "id": ID, "pid": 7, "status": "creating", "annotations": after["annotations"],
        });
        let _asked = gate.answer(&Answer::Armed); // nobody has told the daemon who it is
        let done = gate.run("createRuntime --podman", state.to_string().as_bytes());
        assert_eq!(done.exit, i32::from(mode == "closed"), "{}", done.told);
        assert!(done.told.contains("does not say which container it is"), "{}", done.told);
        let starts = spool::read(&gate.path("spool")).unwrap().starts;
        assert_eq!(starts.len(), usize::from(mode == "open"), "{mode}: {starts:?}");
        assert!(starts.iter().all(|(_, start)| start.reason.contains("cgroupsPath")), "{starts:?}");
    }
}

/// podman copies the annotations of an image over its own.
#[test]
fn an_image_of_podmans_cannot_exempt_itself() {
    let annotations = serde_json::json!({
        "io.kubernetes.cri.sandbox-namespace": "infra", "io.kubernetes.pod.namespace": "infra",
        "io.kubernetes.cri.sandbox-name": "x", "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri-o.ContainerType": "sandbox", "io.container.manager": "cri-o",
        "nri-enforcer.io/seccomp": "forged", "run.oci.seccomp_bpf_data": "BgAAAAAA/38=", "own": "kept",
        "run.oci.handler": "krun",
    });
    let spec =
        serde_json::json!({"linux": {"cgroupsPath": format!("/libpod-{ID}")}, "annotations": annotations});
    let state = serde_json::json!({"id": ID, "pid": 7, "status": "creating", "annotations": annotations});
    let (spec, state) = (spec.to_string(), state.to_string());
    let handed_back = |done: &Done| serde_json::from_str::<serde_json::Value>(&done.out).unwrap();

    let gate = Gate::new("closed");
    let done = gate.run("precreate --podman", spec.as_bytes());
    let told = handed_back(&done)["annotations"]["nri-enforcer.io/refused"].clone();
    assert!(told.as_str().is_some_and(|told| told.contains("does not listen")), "{done:?}");
    let done = gate.run("createRuntime --podman", state.as_bytes());
    assert_eq!((done.exit, done.told.contains("does not listen")), (1, true), "{done:?}");

    let asked = gate.answer(&Answer::Nothing);
    let done = gate.run("precreate --podman", spec.as_bytes());
    let after = handed_back(&done);
    assert_eq!(after["annotations"].get("nri-enforcer.io/seccomp"), None, "{after}");
    assert_eq!(after["annotations"]["own"], "kept");
    assert_eq!(after["annotations"]["run.oci.handler"], "krun", "no policy selects it: {after}");
    assert_eq!(asked.join().unwrap().namespace, "default");
    let gate = Gate::new("closed");
    let without = ["run.oci.handler".to_owned()].into();
    let _asked = gate.answer(&Answer::Adjust(Adjustment { without, ..Adjustment::default() }));
    let after = handed_back(&gate.run("precreate --podman", spec.as_bytes()));
    assert_eq!(
        (after["annotations"].get("run.oci.handler"), &after["annotations"]["own"]),
        (None, &"kept".into())
    );
    let gate = Gate::new("closed");
    let asked = gate.answer(&Answer::Armed);
    assert_eq!(gate.run("createRuntime --podman", state.as_bytes()).exit, 0);
    let request = asked.join().unwrap();
    let names = [request.namespace.as_str(), request.pod.as_str(), request.container.as_str()];
    assert_eq!((request.podman, names), (true, ["default", "", ""]));
    // what says that it is podman's, under another runtime, is nothing more than any container of no pod
    let gate = Gate::new("closed");
    let asked = gate.answer(&Answer::Nothing);
    let state = r#"{"id":"c1","pid":7,"status":"creating","annotations":{"io.container.manager":"libpod",
        "nri-enforcer.io/refused":"x","nri-enforcer.io/seccomp":"d"}}"#;
    assert_eq!(gate.run("createRuntime", state.as_bytes()).exit, 0);
    let request = asked.join().unwrap();
    assert_eq!(
        (request.podman, request.namespace.as_str(), request.seccomp_digest.as_str()),
        (false, "", "")
    );
}

/// In a user namespace whose root is nobody outside, as rootless podman runs hooks; and as root, who cannot be kept out.
#[test]
fn a_users_own_containers_are_let_through_where_the_socket_is_roots() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("hook");
    std::fs::copy(env!("CARGO_BIN_EXE_nri-enforcer-hook"), &program).unwrap();
    for path in [dir.path(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let run = |gate: &str| {
        let script = format!(
            "mount -t tmpfs tmpfs /run && {gate} && exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \
             unshare --user --map-root-user \"$0\" createRuntime --podman"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(&program);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let state = r#"{"id":"c1","pid":7,"status":"creating"}"#;
        child.stdin.take().unwrap().write_all(state.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let there = "mkdir -m 700 /run/nri-enforcer";
    assert_eq!(run(there), (Some(0), String::new()));
    let (exit, told) = run("true");
    assert!(exit == Some(1) && told.contains("does not listen"), "no daemon has run: {told}");
    // root's configuration counts, though root is nobody there
    let config = dir.path().join(nri_enforcer_hook::config::FILE);
    std::fs::write(&config, r#"{"socket": "/run/elsewhere/gate.sock"}"#).unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(run("mkdir -m 700 /run/elsewhere"), (Some(0), String::new()));
    let (exit, told) = run(there);
    assert!(
        exit == Some(1) && told.contains("/run/elsewhere"),
        "it is not where the configuration says: {told}"
    );
}
