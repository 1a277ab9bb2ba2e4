//! Profiles on a real kernel with AppArmor: what a process under them may do, against `decide`; how they are loaded,
//! exchanged and removed; and that nobody gets out of them. All in one guest.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use enforcer_core::capability::Capability;
use enforcer_core::compile::apparmor::{AppArmorProfile, Native, Options, ProfileName, child_of, compile};
use enforcer_core::coverage::GapReason;
use enforcer_core::decide::{Access, Verdict};
use enforcer_core::enforce::apparmor::{AppArmor, AppArmorError};
use enforcer_core::network::{SocketAccess, SocketOp};
use enforcer_core::policy::{Policy, parse};
use enforcer_core::ruleset::{Class, PostureAction, Postures, Ruleset};
use enforcer_core::subject::Subject;
use lab::vm::{self, Job, Kernel, Spec, Streams};
use lab::{cache, image};

/// Before each line of the table of differences: what the kernel denies or allows in another way than `decide`. Those that
/// deny more are told in the documentation of `compile::apparmor`, those that deny less are gaps, too.
const DIFFERS: &str = "differs: ";
/// Set in the guest.
const INSIDE: &str = "NRI_ENFORCER_APPARMOR_TEST";

#[test]
fn a_real_kernel_does_what_decide_says() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let machine =
        vm::machine(&Spec::plain(Kernel::V6_12), &|text| println!("{text}")).expect("`make setup` as root");
    let script = format!(
        "{INSIDE}=1 RUST_BACKTRACE=0 exec ./apparmor --exact guest::a_real_kernel_does_what_decide_says --nocapture 2>&1"
    );
    let parser = cache::artefact("apparmor").unwrap().join("apparmor_parser");
    let job = Job::script(script)
        .file("apparmor", cache::stripped(&std::env::current_exe().unwrap()).unwrap())
        .file("apparmor_parser", parser);
    let mut out = Vec::new();
    let outcome = job.run(&machine, Streams { out: &mut out, err: &mut std::io::sink() }).unwrap();
    let out = String::from_utf8_lossy(&out);
    print!("{out}");
    println!("{:?}", outcome.elapsed);
    assert_eq!(outcome.status, 0, "the test failed in its guest");
    let found: String =
        out.lines().filter_map(|line| line.strip_prefix(DIFFERS)).flat_map(|line| [line, "\n"]).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apparmor/differences.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &found).unwrap();
    }
    let recorded = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        recorded,
        found,
        "the differences are others: run with UPDATE_GOLDEN=1, and look at {}",
        path.display()
    );
}

/// The policies, and the postures under which each is tried.
const POLICIES: [(&str, &str); 11] = [
    (
        "paths",
        "file: {matchPaths: [{path: /w/data/a}], matchDirectories: [{dir: /w/data/deep/, recursive: true}]}",
    ),
    (
        "a hole",
        "file: {matchDirectories: [{dir: /w/data/, recursive: true}], matchPaths: [{path: /w/data/a, action: Allow}, \
         {path: /w/data/deep/x, action: Audit}]}",
    ),
    (
        "read only",
        "file: {matchDirectories: [{dir: /w/data/, readOnly: true}, {dir: /w/bin/, recursive: true, readOnly: true}]}",
    ),
    ("owners", "file: {matchDirectories: [{dir: /w/data/, recursive: true, ownerOnly: true}]}"),
    (
        "a whitelist",
        "action: Allow\n  file: {matchDirectories: [{dir: /w/bin/, recursive: true}, {dir: /w/data/deep/, recursive: true, \
         ownerOnly: true}, {dir: /w/data/, readOnly: true}, {dir: /proc/, recursive: true}]}",
    ),
    ("patterns", "file: {matchPatterns: [{pattern: \"/w/**/[a-f]\"}, {pattern: \"/w/data/{deep,x*}/?\"}]}"),
    (
        "sources",
        "file: {matchDirectories: [{dir: /w/data/, recursive: true, fromSource: [{path: /w/bin/source}]}], matchPaths: \
         [{path: /w/data/b}, {path: /w/data/a, action: Allow, fromSource: [{path: /w/bin/source}]}]}",
    ),
    (
        "processes",
        "process: {matchPaths: [{path: /w/bin/tool}, {path: /w/bin/other, fromSource: [{path: /w/bin/source}]}]}",
    ),
    (
        "a whitelist of processes",
        "action: Allow\n  process: {matchPaths: [{path: /w/bin/tool}], matchDirectories: [{dir: /w/bin/, recursive: true, \
         fromSource: [{path: /w/bin/source}]}]}",
    ),
    (
        "sockets",
        "network: {matchProtocols: [{protocol: udp}, {protocol: raw}, {protocol: tcp, action: Allow}]}",
    ),
    ("capabilities", "capabilities: {matchCapabilities: [{capability: sys_chroot}]}"),
];

/// What is tried of files; each as root and as the user with this number.
const USER: u32 = 1000;
const FILES: [&str; 6] =
    ["/w/data/a", "/w/data/b", "/w/data/mine", "/w/data/deep/x", "/w/data/deep/c", "/w/free/y"];
const DIRECTORIES: [&str; 3] = ["/w/data", "/w/data/deep", "/w/free"];
const PROGRAMS: [&str; 3] = ["/w/bin/tool", "/w/bin/other", "/w/bin/source"];
const SOCKETS: [(u16, u16, u16); 6] = [(2, 1, 0), (2, 2, 0), (2, 3, 255), (10, 1, 6), (1, 1, 0), (16, 3, 0)];

struct Set {
    policies: Vec<Policy>,
    ruleset: Ruleset,
}

fn set(spec: &str, posture: PostureAction) -> Set {
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec:\n  selector: {{}}\n  {spec}\n"
    );
    let parsed = parse("test.yaml", &text);
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    let postures = Class::ALL.into_iter().fold(Postures::default(), |all, class| all.with(class, posture));
    let ruleset = Ruleset::resolve(&parsed.policies, &postures, &subject()).ruleset;
    Set { policies: parsed.policies, ruleset }
}

fn subject() -> Subject {
    Subject { namespace: "default".into(), ..Subject::default() }
}

/// The child of the one source.
fn source() -> String {
    child_of(&"/w/bin/source".parse().unwrap())
}

fn profile(set: &Set, name: &str) -> AppArmorProfile {
    compile(&set.ruleset, &Native::of(&set.policies, &subject()), &Options::named(name.parse().unwrap()))
}

/// Starts a program under a profile, with these lines to read.
fn start(label: &str, program: &[&str], lines: &str) -> Child {
    let script = "printf 'exec %s' \"$0\" > /proc/self/attr/apparmor/exec || exit 99; exec \"$@\"";
    let mut child = Command::new("sh")
        .args(["-c", script, label])
        .args(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child
}

/// What the program answers to each line.
fn tried(label: &str, program: &[&str], lines: &[String]) -> Vec<String> {
    let output = start(label, program, &(lines.join("\n") + "\n")).wait_with_output().unwrap();
    assert!(output.status.success(), "{label} {program:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Each line with what `decide` is to be asked for it: all of them must pass.
fn attempts() -> Vec<(String, Vec<Access<'static>>)> {
    let mut found = Vec::new();
    let mut add = |line: String, accesses: Vec<Access<'static>>| found.push((line, accesses));
    for uid in [0, USER] {
        let by = |access: Access<'static>, owner| access.by(uid, Some(owner));
        let line = |line: String| if uid == 0 { line } else { format!("as {uid} {line}") };
        for path in FILES {
            let owner = if path.ends_with("mine") { USER } else { 0 };
            let (read, write) =
                (by(Access::read(path.as_bytes()), owner), by(Access::write(path.as_bytes()), owner));
            add(line(format!("read {path}")), vec![read]);
            add(line(format!("write {path}")), vec![write]);
            if uid == 0 {
                let free = || by(Access::write(b"/w/free/new"), 0);
                add(format!("chmod {path}"), vec![write]);
                add(format!("rename {path} /w/free/new"), vec![write, free()]);
                add(format!("link {path} /w/free/new"), vec![write, free()]);
            }
        }
        let new = Access::write(b"/w/data/deep/new").by(uid, None);
        add(line("create /w/data/deep/new".into()), vec![new]);
        add(line("mkdir /w/data/deep/new".into()), vec![new]);
    }
    for path in DIRECTORIES {
        let renamed = Access::rename_directory(path.as_bytes());
        add(format!("read {path}"), vec![Access::read(path.as_bytes())]);
        add(format!("rename {path} /w/elsewhere"), vec![renamed, Access::rename_directory(b"/w/elsewhere")]);
    }
    for path in PROGRAMS {
        add(format!("exec {path}"), vec![Access::exec(path.as_bytes())]);
    }
    for (family, kind, protocol) in SOCKETS {
        let socket = SocketAccess { op: SocketOp::Create, family, kind, protocol, address: None, port: 0 };
        add(format!("socket {family} {kind} {protocol}"), vec![Access::socket(socket)]);
    }
    add("chroot /".into(), vec![Access::capability(Capability::by_name("sys_chroot").unwrap())]);
    found
}

/// Whether a line executes a program that may not read itself.
fn unreadable(ruleset: &Ruleset, line: &str) -> bool {
    let path = line.strip_prefix("exec ").map(str::as_bytes);
    path.is_some_and(|path| {
        let reads = Access { source: Some(path), ..Access::read(path) };
        ruleset.decide(&reads).verdict == Verdict::Block
    })
}

fn world() {
    for dir in ["/w/bin", "/w/data/deep", "/w/free"] {
        fs::create_dir_all(dir).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    for path in FILES {
        fs::write(path, "x").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    }
    std::os::unix::fs::chown("/w/data/mine", Some(USER), Some(USER)).unwrap();
    for path in PROGRAMS {
        fs::write(path, image::VISIT).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn inside() {
    world();
    let apparmor = AppArmor::open(Some(Path::new("/lab/apparmor_parser"))).unwrap();
    let mut asked = 0;
    let (mut stricter, mut weaker) = (BTreeSet::new(), BTreeSet::new());
    let mut wrong = Vec::new();
    for (name, spec) in POLICIES {
        for posture in [PostureAction::Audit, PostureAction::Block] {
            let set = set(spec, posture);
            let profile = profile(&set, "nri-enforcer.policy");
            // nobody is in the children of the one before
            apparmor.remove_unused(&BTreeSet::new()).unwrap();
            apparmor.load(&profile).unwrap_or_else(|error| panic!("{error}\n{}", profile.text));
            let has_gap = |reason| profile.gaps.iter().any(|gap| gap.reason == reason);
            let all = profile.name.as_str();
            let apart = profile.profiles.len() > 1;
            // the executable, its label, and whether the profile knows it
            let mut actors = vec![("/w/bin/other", all.to_owned(), !apart)];
            if apart {
                actors.push(("/w/bin/other", format!("{all}//other"), true));
                actors.push(("/w/bin/source", format!("{all}//{}", source()), true));
            }
            for (program, label, known) in actors {
                let attempts = attempts();
                let lines: Vec<String> = attempts.iter().map(|(line, _)| line.clone()).collect();
                let answers = tried(&label, &[program], &lines);
                assert_eq!(answers.len(), lines.len(), "{label}: {answers:?}");
                for ((line, accesses), answer) in attempts.iter().zip(&answers) {
                    let passes = |source: &&str| {
                        let allowed = |access: &Access<'static>| {
                            set.ruleset.decide(&access.from(source.as_bytes())).verdict != Verdict::Block
                        };
                        accesses.iter().all(allowed)
                    };
                    let sources = if known { vec![program] } else { vec!["/w/bin/other", "/w/bin/source"] };
                    let wanted = sources.iter().all(passes);
                    asked += 1;
                    let found = match answer.as_str() {
                        "0" => true,
                        "13" | "1" => false,
                        // killed, since the profile that it leads to lets it not be read
                        "255" if apart && unreadable(&set.ruleset, line) => {
                            stricter.insert(format!("{name}: {line} in another profile"));
                            continue;
                        }
                        _ => panic!("{name} {posture}: {label}: {line}: {answer}"),
                    };
                    let moved = line.starts_with("rename")
                        && accesses.iter().any(|access| access.path().is_some_and(|path| path.tree));
                    let others = line.starts_with("link /w/data/mine");
                    match (wanted, found) {
                        (false, true) if moved && has_gap(GapReason::AppArmorTree) => {
                            weaker.insert(format!("{name}: {line}"));
                        }
                        (true, false) if !known || others => {
                            stricter.insert(format!("{name}: {line}"));
                        }
                        (wanted, found) if wanted != found => {
                            wrong.push(format!("{name} {posture}: {label}: {line}: {answer}"));
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    println!("{asked} attempts");
    for (how, found) in [("stricter", &stricter), ("weaker", &weaker)] {
        found.iter().for_each(|what| println!("{DIFFERS}{how}: {what}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    transitions(&apparmor);
    claims(&apparmor);
    exchanged(&apparmor);
    lifecycle(&apparmor);
}

/// Executing leads to the right profile, and nothing leads out.
fn transitions(apparmor: &AppArmor) {
    let profile = profile(&set(POLICIES[6].1, PostureAction::Audit), "nri-enforcer.sources");
    apparmor.load(&profile).unwrap();
    let all = profile.name.as_str();
    let label = |child: &str| format!("{all}{child} (enforce)");
    let of_source = format!("//{}", source());
    for start in ["", "//other", &of_source] {
        let lines = ["label /w/bin/other", "label /w/bin/source"].map(str::to_owned);
        let answers = tried(&format!("{all}{start}"), &["/w/bin/tool"], &lines);
        assert_eq!(answers, [label("//other"), "0".into(), label(&of_source), "0".into()], "{start:?}");
    }
    let escapes: Vec<String> =
        ["current changeprofile unconfined", "exec exec unconfined", "current changeprofile ALL//other"]
            .iter()
            .chain(&[
                "exec exec ALL//SOURCE",
                "current changehat 0000000000000000^other",
                "exec exec docker-default",
            ])
            .map(|way| {
                let (file, text) = way.split_once(' ').unwrap();
                format!(
                    "put /proc/self/attr/apparmor/{file} {}",
                    text.replace("ALL", all).replace("SOURCE", &source())
                )
            })
            .chain(["put /sys/kernel/security/apparmor/.remove nri-enforcer.sources".to_owned()])
            .collect();
    for start in ["", "//other", &of_source] {
        let answers = tried(&format!("{all}{start}"), &["/w/bin/tool"], &escapes);
        for (way, answer) in escapes.iter().zip(&answers) {
            assert!(answer != "0", "{start}: {way}");
        }
    }
    // what the kernel denies without an escape is what it says
    let answers = tried(all, &["/w/bin/other", "through", "/w/bin/source"], &["read /w/data/b".to_owned()]);
    assert_eq!(answers, ["13"]);
}

/// What the documentation says of `ld.so`, scripts, what the runtime starts, and mounts; and that the kernel reports.
fn claims(apparmor: &AppArmor) {
    let rules = "process: {matchPaths: [{path: /w/bin/tool}, {path: /w/bin/dynamic}]}\n  file: {matchPaths: [{path: /w/data/b}]}";
    let profile = profile(&set(rules, PostureAction::Audit), "nri-enforcer.claims");
    apparmor.load(&profile).unwrap();
    for (path, content) in [
        ("/w/bin/dynamic", image::GOAL_DYNAMIC),
        ("/w/bin/unnamed", image::GOAL_DYNAMIC),
        ("/w/bin/script", b"#!/w/bin/tool nothing\n"),
    ] {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let status = |command: &str| {
        let mut child = start(profile.name.as_str(), &["sh", "-c", command], "");
        child.wait().unwrap().code()
    };
    let ld_so = |program: &str| status(&format!("/lib64/ld-linux-x86-64.so.2 {program}"));
    assert_eq!(ld_so("/w/bin/unnamed"), status("/w/bin/unnamed"), "that is how it ends when it runs");
    assert_ne!(
        ld_so("/w/bin/dynamic"),
        status("/w/bin/unnamed"),
        "a program that is named is not run by ld.so"
    );
    assert_eq!(status("exec /w/bin/dynamic"), Some(126));
    assert_eq!(status("exec /w/bin/tool nothing"), Some(126));
    assert_ne!(status("/w/bin/script"), Some(126), "the interpreter of a script is not judged");
    let start = start(profile.name.as_str(), &["/w/bin/tool", "nothing"], "").wait().unwrap();
    assert!(start.success(), "what the runtime starts is not judged");
    for mount in ["mount --bind /w/free /w/data", "mount -t tmpfs none /w/free", "mount -o remount,ro /"] {
        assert_ne!(status(mount), Some(0), "{mount}");
    }
    // the kernel's log holds so many lines a second and no more, unless it is told otherwise; a thread of its own writes them
    let limit = |seconds: &str| fs::write("/proc/sys/kernel/printk_ratelimit", seconds).unwrap();
    let told = || {
        let log = Command::new("dmesg").output().unwrap().stdout;
        String::from_utf8_lossy(&log).lines().any(|line| {
            line.contains("apparmor=\"DENIED\"")
                && line.contains("nri-enforcer.claims")
                && line.contains("/w/data/b")
        })
    };
    limit("0");
    let reported = (0..50).any(|_| {
        assert_ne!(status("true < /w/data/b"), Some(0));
        std::thread::sleep(Duration::from_millis(100));
        told()
    });
    limit("5");
    assert!(reported, "no report");
}

/// While profiles are exchanged, what all of them deny is denied.
fn exchanged(apparmor: &AppArmor) {
    let both = ["a", "b"].map(|other| {
        let rules = format!("file: {{matchPaths: [{{path: /w/data/deep/c}}, {{path: /w/data/{other}}}]}}");
        profile(&set(&rules, PostureAction::Audit), "nri-enforcer.exchanged")
    });
    apparmor.load(&both[0]).unwrap();
    let lines = "read /w/data/deep/c\n".repeat(20_000);
    let reader = std::thread::spawn(move || {
        start("nri-enforcer.exchanged", &["/w/bin/other"], &lines).wait_with_output()
    });
    let mut exchanges = 0;
    while !reader.is_finished() && exchanges < 400 {
        exchanges += 1;
        apparmor.load(&both[exchanges % 2]).unwrap();
    }
    let answers = String::from_utf8(reader.join().unwrap().unwrap().stdout).unwrap();
    let denied = answers.lines().filter(|answer| *answer == "13").count();
    println!("{exchanges} exchanges, {denied} denied");
    assert!(exchanges > 3, "only {exchanges} exchanges");
    assert_eq!((denied, answers.lines().count()), (20_000, 20_000));
}

/// Loaded, exchanged under a process, kept while it is used, found again, removed.
fn lifecycle(apparmor: &AppArmor) {
    let blocks = |path: &str| set(&format!("file: {{matchPaths: [{{path: {path}}}]}}"), PostureAction::Audit);
    let name: ProfileName = "nri-enforcer.life".parse().unwrap();
    apparmor.load(&profile(&blocks("/w/data/a"), name.as_str())).unwrap();
    let mut one = Asked::start(name.as_str(), "/w/bin/other");
    let mut ask = |line: &str| one.ask(line);
    assert_eq!((ask("read /w/data/a"), ask("read /w/data/b")), ("13".into(), "0".into()));
    // exchanged under the process
    apparmor.load(&profile(&blocks("/w/data/b"), name.as_str())).unwrap();
    assert_eq!((ask("read /w/data/a"), ask("read /w/data/b")), ("0".into(), "13".into()));
    // what the parser refuses changes nothing
    let bad = AppArmorProfile { text: "profile x {".into(), ..profile(&blocks("/x"), name.as_str()) };
    assert!(matches!(apparmor.load(&bad), Err(AppArmorError::Refused { .. })));
    assert_eq!(ask("read /w/data/b"), "13");
    // another daemon finds it, and removes what nobody has: the profiles of others stay
    Command::new("sh")
        .args(["-c", "echo 'profile stranger { file, }' | /lab/apparmor_parser -K -r"])
        .status()
        .unwrap();
    let again = AppArmor::open(Some(Path::new("/lab/apparmor_parser"))).unwrap();
    let loaded = again.loaded().unwrap();
    assert!(loaded.contains(&name) && loaded.len() == 5, "{loaded:?}");
    assert_eq!(again.in_use().unwrap(), BTreeSet::from([name.clone()]));
    let kept: ProfileName = "nri-enforcer.policy".parse().unwrap();
    let removed = again.remove_unused(&BTreeSet::from([kept.clone()])).unwrap();
    let unused =
        ["claims", "exchanged", "sources"].map(|name| format!("nri-enforcer.{name}").parse().unwrap());
    assert_eq!(removed, unused);
    assert_eq!(ask("read /w/data/b"), "13", "it is used");
    one.end();
    assert_eq!(again.remove_unused(&BTreeSet::from([kept.clone()])).unwrap(), [name]);
    assert_eq!(again.loaded().unwrap(), BTreeSet::from([kept]));
    let left = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap();
    assert!(left.contains("stranger (enforce)") && !left.contains("sources"), "{left}");
    let nowhere = AppArmor::open(Some(Path::new("/nonexistent"))).unwrap();
    let refused = nowhere.load(&profile(&blocks("/x"), "nri-enforcer.x"));
    assert!(matches!(refused, Err(AppArmorError::NoParser { .. })), "{refused:?}");
    children(apparmor);
}

/// A process in a child has the rules of the profile that is loaded, whatever became of its source. The kernel would let
/// it keep those of before.
fn children(apparmor: &AppArmor) {
    let name: ProfileName = "nri-enforcer.children".parse().unwrap();
    let of = |rules: &str, keep| {
        let set = set(&format!("file: {{matchPaths: [{rules}]}}"), PostureAction::Audit);
        compile(&set.ruleset, &[], &Options { keep, ..Options::named(name.clone()) })
    };
    let load = |rules: &str| apparmor.load(&of(rules, apparmor.children(&name).unwrap())).unwrap();
    let first = "{path: /w/data/a, fromSource: [{path: /w/bin/source}]}";
    load(first);
    let mut one = Asked::start(&format!("{name}//{}", source()), "/w/bin/source");
    let mut other = Asked::start(&format!("{name}//other"), "/w/bin/other");
    let mut ask = || {
        let mut both = |file: &str| [one.ask(&format!("read {file}")), other.ask(&format!("read {file}"))];
        (both("/w/data/a"), both("/w/data/b"))
    };
    let no = || "13".to_owned();
    let yes = || "0".to_owned();
    assert_eq!(ask(), ([no(), yes()], [yes(), yes()]));
    // a source that comes before it in the alphabet
    load(&format!("{first}, {{path: /w/data/b, fromSource: [{{path: /w/bin/a}}]}}"));
    assert_eq!(ask(), ([no(), yes()], [yes(), yes()]));
    // no rule has a source any more
    let last = "{path: /w/data/b}";
    let refused = apparmor.load(&of(last, BTreeSet::new()));
    assert!(matches!(refused, Err(AppArmorError::ChildrenStay { .. })), "{refused:?}");
    load(last);
    assert_eq!(ask(), ([yes(), yes()], [no(), no()]));
    one.end();
    other.end();
}

/// A program that answers line by line.
struct Asked {
    child: Child,
    stdin: std::process::ChildStdin,
    stdout: std::io::BufReader<std::process::ChildStdout>,
}

impl Asked {
    fn start(label: &str, program: &str) -> Self {
        let script = "printf 'exec %s' \"$0\" > /proc/self/attr/apparmor/exec || exit 99; exec \"$1\"";
        let mut child = Command::new("sh")
            .args(["-c", script, label, program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        let mut answer = String::new();
        std::io::BufRead::read_line(&mut self.stdout, &mut answer).unwrap();
        answer.trim().to_owned()
    }

    fn end(self) {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        child.wait().unwrap();
    }
}
