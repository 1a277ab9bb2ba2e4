//! A container for each trick, and the policies it is tried under.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use enforcer_core::decide::Verdict;
use enforcer_core::enforce::root::Root;
use enforcer_core::enforce::{ContainerId, Stage, Target};
use enforcer_core::event::{Event, EventBy, Op};
use enforcer_core::links::LookUps;
use enforcer_core::ruleset::{PostureAction, Postures, Ruleset};

const BASE: &str = "/tmp/corpus";
const SECRET: &str = "TOP SECRET\n";

/// What a trick is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To read a file.
    Read,
    /// To change a file that may be read.
    Write,
    /// To execute a program.
    Exec,
    /// Nothing that a policy is about.
    Harmless,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Exec => "exec",
            Self::Harmless => "harmless",
        })
    }
}

/// The policy that it is tried under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under {
    /// None.
    Nothing,
    /// Rules that block what it is after.
    Block,
    /// Rules that allow all that is needed but what it is after; posture block.
    Allow,
}

/// The rules; `None` for none.
pub fn rules(kind: Kind, under: Under) -> Option<Ruleset> {
    const ELSEWHERE: &str = "{dir: /work/, recursive: true}, {dir: /tmp/, recursive: true}, {dir: /dev/, recursive: true}, \
        {dir: /proc/, recursive: true}, {dir: /sys/, recursive: true}, {dir: /mnt/, recursive: true}, \
        {dir: /alias/, recursive: true}, {dir: /vol/other/, recursive: true}, {dir: /lib64/, recursive: true}, \
        {dir: /, readOnly: true}";
    let text = match (kind, under) {
        (_, Under::Nothing) => return None,
        (Kind::Read | Kind::Harmless, Under::Block) => {
            "  file:\n    matchPaths: [{path: /prot/secret}, {path: /vol/top/prot/secret}]\n    \
             matchDirectories: [{dir: /prot/tree/, recursive: true}, {dir: /vol/deep/, recursive: true}]\n  action: Block\n"
                .to_owned()
        }
        (Kind::Write, Under::Block) => "  file:\n    matchPaths: [{path: /prot/secret, readOnly: true}]\n    \
             matchDirectories: [{dir: /prot/tree/, recursive: true, readOnly: true}, {dir: /vol/top/prot/, recursive: true, readOnly: true}]\n  action: Block\n"
            .to_owned(),
        (Kind::Exec, Under::Block) => {
            "  process:\n    matchPaths: [{path: /prot/prog}, {path: /prot/dyn}, {path: /prot/script}]\n  action: Block\n".to_owned()
        }
        (Kind::Read | Kind::Harmless, Under::Allow) => {
            format!("  file:\n    matchDirectories: [{ELSEWHERE}]\n  action: Allow\n")
        }
        (Kind::Write, Under::Allow) => format!(
            "  file:\n    matchDirectories: [{ELSEWHERE}, {{dir: /prot/, recursive: true, readOnly: true}}, {{dir: /vol/, recursive: true, readOnly: true}}]\n  action: Allow\n"
        ),
        (Kind::Exec, Under::Allow) => "  process:\n    matchPaths: [{path: /evade}, {path: /work/script}, {path: /work/script2}, {path: /work/binfmt}]\n    \
             matchDirectories: [{dir: /lib64/, recursive: true}]\n  action: Allow\n"
            .to_owned(),
    };
    Some(ruleset(&text))
}

fn ruleset(rules: &str) -> Ruleset {
    let postures =
        Postures { file: PostureAction::Block, process: Some(PostureAction::Block), ..Postures::default() };
    crate::resolved(rules, postures).ruleset
}

/// The rules by all names that the image has for their paths, as the daemon finds them in a container's root.
pub fn linked(ruleset: &Ruleset) -> Ruleset {
    let root = Root::at(format!("{BASE}/lower")).unwrap();
    for _ in 0..20 {
        let found: BTreeMap<_, _> = root.look_up(&LookUps::of(ruleset)).into_iter().collect();
        let linked = ruleset.with_links(|path| found.get(path).cloned().unwrap_or_default());
        if linked.gaps.is_empty() {
            return linked.ruleset;
        } // an emulated machine may be too slow for the search's limit
    }
    panic!("not all names are found")
}

fn put(path: &str, content: &[u8], mode: u32) {
    let path = format!("{BASE}/lower/{path}");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The image, and a binary format whose interpreter is what tricks are to execute.
pub fn prepare() {
    let format = "insmod ./binfmt_misc.ko && mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && \
        echo ':evade:M::EVADE::/prot/prog:' > /proc/sys/fs/binfmt_misc/register";
    assert!(Command::new("sh").args(["-c", format]).status().unwrap().success());
    for dir in ["prot/tree/empty", "work", "tmp", "vol", "mnt", "alias", "proc", "sys", "dev", "lib64"] {
        fs::create_dir_all(format!("{BASE}/lower/{dir}")).unwrap();
    }
    put("evade", lab::image::EVADE, 0o755);
    put("prot/secret", SECRET.as_bytes(), 0o644);
    let long = "n".repeat(255);
    for name in ["copied", "recreated", "deleted", "written", &long] {
        put(&format!("prot/tree/{name}"), SECRET.as_bytes(), 0o644);
    }
    put("prot/prog", lab::image::GOAL, 0o755);
    put("prot/dyn", lab::image::GOAL_DYNAMIC, 0o755);
    put("prot/script", b"#!/work/goal\n", 0o755);
    put("work/script", b"#!/prot/prog\n", 0o755);
    put("work/script2", b"#!/work/script\n", 0o755);
    put("work/binfmt", b"EVADE\n", 0o755);
    put("work/goal-dynamic", lab::image::GOAL_DYNAMIC, 0o755);
    put("work/goal", lab::image::GOAL, 0o755);
    put("work/decoy", b"nothing here\n", 0o644);
    let lower = |path: &str| format!("{BASE}/lower/{path}");
    fs::hard_link(lower("prot/secret"), lower("work/old-link")).unwrap();
    for library in ["/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"] {
        let name = PathBuf::from(library);
        put(&format!("lib64/{}", name.file_name().unwrap().display()), &fs::read(library).unwrap(), 0o755);
    }
    fs::write("/corpus-secret", SECRET).unwrap();
    fs::create_dir_all("/sys/fs/cgroup/corpus").unwrap();
}

/// Kind and name of every trick that the program knows.
pub fn list() -> Vec<(Kind, String)> {
    let output = Command::new(format!("{BASE}/lower/evade")).arg("list").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let trick = |line: &str| {
        let (kind, name) = line.split_once(' ').unwrap();
        let kind = match kind {
            "r" => Kind::Read,
            "w" => Kind::Write,
            "x" => Kind::Exec,
            _ => Kind::Harmless,
        };
        (kind, name.to_owned())
    };
    text.lines().map(trick).collect()
}

/// How a trick ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended(Option<i32>);

impl Ended {
    pub fn reached(self) -> bool {
        self.0 == Some(0)
    }

    pub fn denied(self) -> bool {
        matches!(self.0, Some(1 | 13)) // EPERM, EACCES
    }

    pub fn errno(self) -> Option<i32> {
        self.0
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            Some(0) => "reached".into(),
            Some(1) => "EPERM".into(),
            Some(13) => "EACCES".into(),
            Some(250) => "cannot".into(),
            Some(251) => "no effect".into(),
            Some(n) => nix::errno::Errno::from_raw(n).to_string().split(':').next().unwrap().to_owned(),
            None => "no result".into(),
        };
        f.pad(&text)
    }
}

/// What the first denial says: the rule or the posture that decided, why not by the path, and the operation.
pub fn describe(events: &[Event]) -> String {
    let denied = |event: &&Event| event.verdict == Verdict::Block && event.op != Op::Held;
    let Some(event) = events.iter().find(denied) else {
        return String::new();
    };
    match event.by {
        EventBy::Rule(_) => format!("rule, {}", event.op.as_str()),
        EventBy::DefaultPosture => format!("posture, {}", event.op.as_str()),
        EventBy::Unresolved(why) => match event.strongest {
            Some(EventBy::Rule(_)) => format!("rule, {why:?}, {}", event.op.as_str()),
            Some(EventBy::DefaultPosture) => format!("posture, {why:?}, {}", event.op.as_str()),
            _ => format!("{why:?}, {}", event.op.as_str()),
        },
        other => format!("{other:?}"),
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A container that waits before its first exec.
#[derive(Debug)]
pub struct Sandbox {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    pid: i32,
    pub id: ContainerId,
    dir: PathBuf,
    cgroup: PathBuf,
    started: bool,
    said: String,
}

impl Sandbox {
    pub fn new(arguments: &[&str], host_pid: bool) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/corpus-{number}"));
        let cgroup = PathBuf::from(format!("/sys/fs/cgroup/corpus/{number}"));
        for part in ["upper", "work", "root"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        fs::create_dir_all(&cgroup).unwrap();
        symlink(format!("{BASE}/lower"), dir.join("lower")).unwrap();
        let mut child = Command::new(format!("{BASE}/lower/evade"))
            .args(["box".as_ref(), dir.as_os_str(), cgroup.as_os_str()])
            .args([if host_pid { "1" } else { "0" }, "--"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut pid = None;
        let mut ready = false;
        while pid.is_none() || !ready {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                panic!("no container: {}", fs::read_to_string(dir.join("stderr")).unwrap());
            }
            match line.trim().split_once(' ') {
                Some(("pid", number)) => pid = number.parse().ok(),
                _ => ready |= line.trim() == "ready",
            }
        }
        let id = ContainerId::new(format!("corpus-{number}")).unwrap();
        Self { child, stdout, pid: pid.unwrap(), id, dir, cgroup, started: false, said: String::new() }
    }

    pub fn target(&self, stage: Stage) -> Target {
        Target { id: self.id.clone(), pid: self.pid, stage }
    }

    /// The first exec.
    pub fn start(&mut self) {
        self.started = true;
        writeln!(self.child.stdin.as_ref().unwrap(), "go").unwrap();
    }

    /// Waits until the trick waits for the policy.
    pub fn waits(&mut self) {
        self.start();
        let mut line = String::new();
        while line.trim() != "waiting" {
            line.clear();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "it ended: {}", self.said());
        }
    }

    /// Lets it go on.
    pub fn go_on(&mut self) {
        writeln!(self.child.stdin.as_ref().unwrap(), "go").unwrap();
    }

    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// All that it says until it ends, which it must within `limit`.
    pub fn output(&mut self, limit: Duration) -> String {
        if !self.started {
            self.start();
        }
        let deadline = Instant::now() + limit;
        while !self.ended() {
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        text
    }

    /// How the trick ended.
    pub fn result(&mut self) -> Ended {
        self.said = self.output(Duration::from_secs(20));
        let last = self.said.lines().rev().find_map(|line| line.strip_prefix("RESULT "));
        Ended(last.and_then(|number| number.trim().parse().ok()))
    }

    /// What it wrote, for whoever looks for an error.
    pub fn said(&self) -> String {
        format!(
            "  {} {}",
            self.said.trim(),
            fs::read_to_string(self.dir.join("stderr")).unwrap_or_default().trim()
        )
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = fs::remove_dir_all(&self.dir);
        let _ = fs::remove_dir(self.cgroup.join("sub"));
        let _ = fs::remove_dir(&self.cgroup);
    }
}
