//! What the tests work with: a shell that plays a container, and very deep directories.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use enforcer_core::enforce::{ContainerId, Stage, Target};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};

/// Names the directory to the test `descend`, in a container.
pub const DESCEND: &str = "NRI_ENFORCER_DESCEND";

/// `levels` directories, each in the one before, with a file in the last.
pub fn dig(top: &str, levels: usize) {
    fs::create_dir_all(top).unwrap();
    let mut dir: OwnedFd = fs::File::open(top).unwrap().into();
    for _ in 0..levels {
        mkdirat(&dir, "d", Mode::S_IRWXU).unwrap();
        dir = openat(&dir, "d", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    }
    openat(&dir, "file", OFlag::O_CREAT | OFlag::O_WRONLY, Mode::S_IRWXU).unwrap();
}

/// A shell in a mount namespace of its own, which reads commands.
pub struct Container {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pub id: ContainerId,
    cgroup: Option<PathBuf>,
}

impl Container {
    /// Waits, in its namespaces, before its first exec there.
    pub fn created(id: &str, own_cgroup: bool) -> Self {
        let cgroup = own_cgroup.then(|| PathBuf::from(format!("/sys/fs/cgroup/test-{id}")));
        let enter = match &cgroup {
            Some(dir) => {
                fs::create_dir_all(dir).unwrap();
                format!("echo $$ > {}/cgroup.procs; ", dir.display())
            }
            None => String::new(),
        };
        let script = format!(
            "{enter}exec unshare -m --propagation private /bin/sh -c 'echo ready; read go; exec /bin/sh'"
        );
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut container = Self { child, stdin, stdout, id: ContainerId::new(id).unwrap(), cgroup };
        assert_eq!(container.line(), "ready");
        container
    }

    /// A process of the host, in a cgroup of its own where one is named.
    pub fn of_host(program: &str, cgroup: Option<&str>) -> Self {
        let enter =
            cgroup.map_or(String::new(), |name| format!("echo $$ > /sys/fs/cgroup/{name}/cgroup.procs; "));
        let mut child = Command::new("sh")
            .args(["-c", &format!("{enter}exec {program}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut process = Self { child, stdin, stdout, id: ContainerId::host(), cgroup: None };
        assert_eq!(process.run("true"), 0);
        process
    }

    pub fn target(&self, stage: Stage) -> Target {
        Target { id: self.id.clone(), pid: self.pid(), stage }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The first exec.
    pub fn start(&mut self) {
        writeln!(self.stdin, "go").unwrap();
    }

    /// Executes `visit` in the shell's place; from now on it is [asked](Self::ask).
    pub fn becomes(&mut self, visit: &str) {
        // all of the line is read before the first of it is done, and nothing more until then
        writeln!(self.stdin, "echo ready; exec {visit}").unwrap();
        assert_eq!(self.line(), "ready");
    }

    /// What `visit` answers.
    pub fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        lab::corpus::actor::ask(&mut self.stdin, &mut self.stdout, line)
    }

    /// Runs a command in the shell; its exit status.
    pub fn run(&mut self, command: &str) -> i32 {
        writeln!(self.stdin, "( {command} ) >/dev/null 2>&1; echo $?").unwrap();
        self.line().parse().unwrap()
    }

    /// Opens or closes descriptors of the shell itself.
    pub fn open(&mut self, redirections: &str) {
        writeln!(self.stdin, "exec {redirections}; echo $?").unwrap();
        assert_eq!(self.line(), "0", "exec {redirections}");
    }

    /// Whether the shell itself, without an exec, may read a file.
    pub fn reads(&mut self, path: &str) -> bool {
        self.run(&format!("true < {path}")) == 0
    }

    /// The same, within half a minute: the kernel detaches programs one after another, a moment after their links are
    /// gone.
    pub fn reads_soon(&mut self, path: &str) -> bool {
        (0..300).any(|_| {
            let reads = self.reads(path);
            if !reads {
                std::thread::sleep(Duration::from_millis(100));
            }
            reads
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(dir) = &self.cgroup {
            let _ = Command::new("sh")
                .arg("-c")
                .arg(format!("rmdir {0}/* {0} 2>/dev/null", dir.display()))
                .status();
        }
    }
}
