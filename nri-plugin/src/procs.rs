//! Which processes live: the daemon's second source about containers, beside what the runtime tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use enforcer_core::enforce::ContainerId;

/// One process and no other: a pid is reused, a pid with its start time is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// As the host numbers it.
    pub pid: i32,
    started: u64, // clock ticks since boot, field 22 of /proc/PID/stat
}

impl Process {
    /// When it was started, in clock ticks since the boot.
    #[must_use]
    pub const fn started(self) -> u64 {
        self.started
    }
}

/// What a process is beside its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its parent; 0: of another pid namespace.
    pub parent: u32,
    /// The real user id.
    pub uid: u32,
    /// Its numbers in the pid namespaces that it is in, from the outermost on.
    pub pids: Vec<u32>,
}

/// A `/proc` of the host's pid namespace.
#[derive(Debug, Clone)]
pub struct Procs {
    root: PathBuf,
}

impl Default for Procs {
    fn default() -> Self {
        Self::at("/proc")
    }
}

impl Procs {
    /// The one mounted at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The process that has this pid now; `None` if there is none, or it is dead and only waits to be reaped.
    #[must_use]
    pub fn find(&self, pid: i32) -> Option<Process> {
        let stat = std::fs::read_to_string(self.root.join(pid.to_string()).join("stat")).ok()?;
        // the name, in parentheses, may hold anything: what follows the last `)` is fields 3 and up
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        if matches!(fields.next()?, "Z" | "X" | "x") {
            return None;
        }
        Some(Process { pid, started: fields.nth(18)?.parse().ok()? })
    }

    /// Whether the process still lives.
    #[must_use]
    pub fn alive(&self, process: Process) -> bool {
        self.find(process.pid) == Some(process)
    }

    /// Where one of its links leads, such as `cwd` or `exe`. It may be another process's by now: see [`Procs::alive`].
    #[must_use]
    pub fn link(&self, process: Process, name: &str) -> Option<PathBuf> {
        std::fs::read_link(self.root.join(process.pid.to_string()).join(name)).ok()
    }

    /// The device number of its terminal; `None` where it has none.
    #[must_use]
    pub fn terminal(&self, process: Process) -> Option<u32> {
        let stat = std::fs::read_to_string(self.root.join(process.pid.to_string()).join("stat")).ok()?;
        let device = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(4)?.parse().ok()?;
        (device != 0).then_some(device)
    }

    /// What `/proc/PID/status` tells of it. It may be another process's by now: see [`Procs::alive`].
    #[must_use]
    pub fn about(&self, process: Process) -> Option<About> {
        let path = self.root.join(process.pid.to_string()).join("status");
        let text = std::fs::read_to_string(path).ok()?;
        // the name, which a process chooses, has its line breaks escaped
        let field =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::split_ascii_whitespace);
        Some(About {
            parent: field("PPid:")?.next()?.parse().ok()?,
            uid: field("Uid:")?.next()?.parse().ok()?,
            pids: field("NSpid:")?.map_while(|pid| pid.parse().ok()).collect(),
        })
    }

    /// The inode number of a process's root directory.
    #[must_use]
    pub fn root_inode(&self, process: Process) -> Option<u64> {
        let root = self.root.join(process.pid.to_string()).join("root/."); // `root` itself is a link
        Some(std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(root).ok()?))
    }

    /// Whether the cgroup path of a process names this container: see [`Procs::inhabited`].
    #[must_use]
    pub fn is_in(&self, process: Process, id: &ContainerId) -> bool {
        let path = self.root.join(process.pid.to_string()).join("cgroup");
        std::fs::read_to_string(path).is_ok_and(|cgroups| cgroups.contains(id.as_str()))
            && self.alive(process)
    }

    /// Those of `ids` that some process's cgroup path names: their containers are not over, whatever became of the
    /// first process. Every container runtime has the id in the path.
    ///
    /// # Errors
    /// When processes cannot be listed: then nothing may be taken for dead.
    pub fn inhabited(&self, ids: &BTreeSet<ContainerId>) -> io::Result<BTreeSet<ContainerId>> {
        let mut found = BTreeSet::new();
        self.each_in(ids, |id, _| {
            found.insert(id.clone());
        })?;
        Ok(found)
    }

    /// The same, each with the oldest process that lives there. One in the host's mount namespace is no container's: the
    /// cgroup of a `conmon`, which watches over one, has the id in its path, too.
    ///
    /// # Errors
    /// When processes cannot be listed.
    pub fn oldest(&self, ids: &BTreeSet<ContainerId>) -> io::Result<BTreeMap<ContainerId, Process>> {
        let mounts = |pid: i32| std::fs::read_link(self.root.join(pid.to_string()).join("ns/mnt")).ok();
        let host = mounts(1);
        let mut found: BTreeMap<ContainerId, Process> = BTreeMap::new();
        self.each_in(ids, |id, pid| {
            let Some(process) = self.find(pid).filter(|_| host.is_none() || mounts(pid) != host) else {
                return;
            };
            let oldest = found.entry(id.clone()).or_insert(process);
            if (process.started, process.pid) < (oldest.started, oldest.pid) {
                *oldest = process;
            }
        })?;
        Ok(found)
    }

    /// Calls `each` with what of `ids` the cgroup path of a process names, and the process's number.
    fn each_in(
        &self,
        ids: &BTreeSet<ContainerId>,
        mut each: impl FnMut(&ContainerId, i32),
    ) -> io::Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        for entry in std::fs::read_dir(&self.root)? {
            let path = entry?.path();
            let pid = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            if let Some(pid) = pid
                && let Ok(cgroups) = std::fs::read_to_string(path.join("cgroup"))
            {
                ids.iter().filter(|id| cgroups.contains(id.as_str())).for_each(|id| each(id, pid));
            }
        }
        Ok(())
    }

    /// Whether the program of the process is of a mount of its own mount namespace. So it is of a workload. What a runtime
    /// prepares a container with is of the host's mounts, or of none (a memfd), until it executes the workload. A workload may
    /// have such a program, too: what is not shown so may have begun all the same.
    #[must_use]
    pub fn has_begun(&self, process: Process) -> bool {
        let at = |name: &str| self.root.join(process.pid.to_string()).join(name);
        let mount = || -> io::Result<String> {
            let program = File::options().read(true).custom_flags(libc::O_PATH).open(at("exe"))?;
            let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
            let mount = about.lines().find_map(|line| line.strip_prefix("mnt_id:"));
            Ok(mount.unwrap_or_default().trim().to_owned())
        };
        let (Ok(mount), Ok(mounts)) = (mount(), std::fs::read_to_string(at("mountinfo"))) else {
            return false;
        };
        mounts.lines().any(|line| line.split(' ').next() == Some(mount.as_str())) && self.alive(process)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A directory that looks like `/proc` with one process.
    pub(crate) fn add(root: &Path, pid: i32, state: char, started: u64, cgroup: &str) {
        let dir = root.join(pid.to_string());
        std::fs::create_dir_all(dir.join("root")).unwrap();
        let stat = format!("{pid} (a ) b) {state} 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 {started} 0 0");
        std::fs::write(dir.join("stat"), stat).unwrap();
        std::fs::write(dir.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
    }

    /// Its program is a file of a mount that its mount namespace has, or that only another one has.
    pub(crate) fn executes(root: &Path, pid: i32, own: bool) {
        let dir = root.join(pid.to_string());
        std::os::unix::fs::symlink(dir.join("stat"), dir.join("exe")).unwrap();
        let file = File::open(dir.join("stat")).unwrap();
        let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap();
        let mount = about.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap().trim();
        let mounts = format!("1{mount} 1 0:5 / /{mount} rw - x x rw\n");
        let own = if own { format!("{mount} 1 0:5 / / rw - x x rw\n") } else { String::new() };
        std::fs::write(dir.join("mountinfo"), mounts + &own).unwrap();
    }

    #[test]
    fn a_workload_has_its_program_of_a_mount_of_its_own() {
        let own = i32::try_from(std::process::id()).unwrap();
        let procs = Procs::default();
        assert!(procs.has_begun(procs.find(own).unwrap()), "this test was executed");
        let dir = tempfile::tempdir().unwrap();
        let procs = Procs::at(dir.path());
        for (pid, begun) in [(7, true), (8, false)] {
            add(dir.path(), pid, 'S', 100, "/");
            let process = procs.find(pid).unwrap();
            assert!(!procs.has_begun(process), "nothing is known of it");
            executes(dir.path(), pid, begun);
            assert_eq!(procs.has_begun(process), begun);
        }
    }

    #[test]
    fn the_oldest_process_of_a_container_is_its_first() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, state, started, id) in
            [(9, 'S', 100, "abc"), (3, 'S', 200, "abc"), (4, 'Z', 50, "abc"), (5, 'S', 50, "def")]
        {
            add(dir.path(), pid, state, started, &format!("/kubepods/{id}"));
        }
        let ids = ["abc", "ghi"].map(|id| ContainerId::new(id).unwrap()).into();
        let procs = Procs::at(dir.path());
        let found = || {
            let found = procs.oldest(&ids).unwrap().into_iter();
            found.map(|(id, process)| (id.to_string(), process.pid)).collect::<Vec<_>>()
        };
        assert_eq!(found(), [("abc".to_owned(), 9)]);
        // that is who watches over it
        add(dir.path(), 1, 'S', 1, "/");
        for (pid, mounts) in [(1, "mnt:[1]"), (9, "mnt:[1]"), (3, "mnt:[2]")] {
            let ns = dir.path().join(format!("{pid}/ns"));
            std::fs::create_dir(&ns).unwrap();
            std::os::unix::fs::symlink(mounts, ns.join("mnt")).unwrap();
        }
        assert_eq!(found(), [("abc".to_owned(), 3)]);
        assert!(Procs::at("/nonexistent").oldest(&ids).is_err());
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let dir = tempfile::tempdir().unwrap();
        let procs = Procs::at(dir.path());
        add(dir.path(), 7, 'S', 100, "/");
        let process = procs.find(7).unwrap();
        assert!(procs.alive(process));
        add(dir.path(), 7, 'S', 101, "/");
        assert!(!procs.alive(process));
        add(dir.path(), 7, 'Z', 100, "/");
        assert!(!procs.alive(process), "a zombie executes nothing");
        assert_eq!(procs.find(8), None);
    }

    #[test]
    fn this_process_lives() {
        let own = i32::try_from(std::process::id()).unwrap();
        let process = Procs::default().find(own).unwrap();
        assert!(Procs::default().alive(process));
    }

    #[test]
    fn a_container_is_found_by_the_cgroups_of_its_processes() {
        let dir = tempfile::tempdir().unwrap();
        add(dir.path(), 7, 'S', 100, "/kubepods.slice/cri-containerd-abc.scope/nested");
        std::fs::create_dir(dir.path().join("sys")).unwrap();
        let ids = ["abc", "def"].map(|id| ContainerId::new(id).unwrap()).into();
        let found = Procs::at(dir.path()).inhabited(&ids).unwrap();
        assert_eq!(found.iter().map(ContainerId::as_str).collect::<Vec<_>>(), ["abc"]);
        assert!(Procs::at("/nonexistent").inhabited(&ids).is_err());
    }
}
