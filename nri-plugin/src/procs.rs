//! Which processes live: the daemon's second source about containers, beside what the runtime tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Once;

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
        self.find_with_parent(pid).map(|(process, _)| process)
    }

    fn find_with_parent(&self, pid: i32) -> Option<(Process, u32)> {
        let stat = std::fs::read_to_string(self.root.join(pid.to_string()).join("stat")).ok()?;
        // the name, in parentheses, may hold anything: what follows the last `)` is fields 3 and up
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        if matches!(fields.next()?, "Z" | "X" | "x") {
            return None;
        }
        let parent = fields.next()?.parse().ok()?;
        Some((Process { pid, started: fields.nth(17)?.parse().ok()? }, parent))
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

    /// The first processes of `ids`, as far as they have any, for a runtime that does not tell them (CRI-O before 1.36). Of the
    /// processes in a container's cgroup that is the one that was started first, but for what another one of them started: what
    /// came by exec came later. The monitor of CRI-O and podman, whose own cgroup has the id in its name too, is none of them, nor is what is
    /// in the host's mount namespace, or this daemon's: a runtime at work that has joined the cgroup already.
    ///
    /// # Errors
    /// When processes cannot be listed.
    pub fn first(&self, ids: &BTreeSet<ContainerId>) -> io::Result<BTreeMap<ContainerId, Process>> {
        let mounts = |process: &str| std::fs::read_link(self.root.join(process).join("ns/mnt")).ok();
        let outside: Vec<PathBuf> = ["1", "self"].into_iter().filter_map(mounts).collect();
        let is_outside = |pid: i32| mounts(&pid.to_string()).is_some_and(|mounts| outside.contains(&mounts));
        let mut found: BTreeMap<ContainerId, Vec<(Process, u32)>> = BTreeMap::new();
        self.each_in(ids, |id, pid, cgroups| {
            if is_of(cgroups, id)
                && !is_outside(pid)
                && let Some(process) = self.find_with_parent(pid)
            {
                found.entry(id.clone()).or_default().push(process);
            }
        })?;
        let first = found.into_iter().filter_map(|(id, processes)| {
            let inside: BTreeSet<i32> = processes.iter().map(|(process, _)| process.pid).collect();
            let begun_outside = processes
                .iter()
                .filter(|(_, parent)| i32::try_from(*parent).is_ok_and(|parent| !inside.contains(&parent)));
            let first =
                begun_outside.map(|(process, _)| *process).min_by_key(|one| (one.started, one.pid))?;
            Some((id, first))
        });
        Ok(first.collect())
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
        self.each_in(ids, |id, _, _| {
            found.insert(id.clone());
        })?;
        Ok(found)
    }

    /// The same, each with the oldest process that lives there and is certainly the container's own. The cgroup of a `conmon`,
    /// which watches over a container, has the id in its path, too. So what is in such a cgroup is left out, and what shares its
    /// mount namespace with the host, this daemon, or any process outside of the container: a node's services may have one of
    /// their own. Nobody is found where the host's namespace cannot be read.
    ///
    /// # Errors
    /// When processes cannot be listed.
    pub fn oldest(&self, ids: &BTreeSet<ContainerId>) -> io::Result<BTreeMap<ContainerId, Process>> {
        let mut inside: BTreeMap<ContainerId, BTreeSet<i32>> = BTreeMap::new();
        self.each_in(ids, |id, pid, cgroups| {
            if is_of(cgroups, id) {
                inside.entry(id.clone()).or_default().insert(pid);
            }
        })?;
        if inside.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mounts = |process: &str| std::fs::read_link(self.root.join(process).join("ns/mnt")).ok();
        let Some(host) = mounts("1") else {
            UNREADABLE.call_once(|| {
                tracing::error!(
                    "the mount namespace of the host's first process cannot be read, so no container is found by its processes: the \
                     daemon must be root, with hostPID and CAP_SYS_PTRACE"
                );
            });
            return Ok(BTreeMap::new());
        };
        let own = mounts("self");
        let mut shared: BTreeMap<PathBuf, Vec<i32>> = BTreeMap::new();
        self.each(|pid, _| {
            if let Some(mounts) = mounts(&pid.to_string()).filter(|mounts| *mounts != host) {
                shared.entry(mounts).or_default().push(pid);
            }
        })?;
        let mut found: BTreeMap<ContainerId, Process> = BTreeMap::new();
        for (_, pids) in shared.iter().filter(|(mounts, _)| own.as_ref() != Some(*mounts)) {
            let alone = |inside: &BTreeSet<i32>| pids.iter().all(|pid| inside.contains(pid));
            for (id, _) in inside.iter().filter(|(_, inside)| alone(inside)) {
                for process in pids.iter().filter_map(|pid| self.find(*pid)) {
                    let oldest = found.entry(id.clone()).or_insert(process);
                    if (process.started, process.pid) < (oldest.started, oldest.pid) {
                        *oldest = process;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Calls `each` with what of `ids` the cgroup path of a process names, the process's number, and its cgroups.
    fn each_in(
        &self,
        ids: &BTreeSet<ContainerId>,
        mut each: impl FnMut(&ContainerId, i32, &str),
    ) -> io::Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        self.each(|pid, path| {
            if let Ok(cgroups) = std::fs::read_to_string(path.join("cgroup")) {
                ids.iter().filter(|id| cgroups.contains(id.as_str())).for_each(|id| each(id, pid, &cgroups));
            }
        })
    }

    /// Calls `each` with the number of every process, and its directory.
    fn each(&self, mut each: impl FnMut(i32, &Path)) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.root)? {
            let path = entry?.path();
            if let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) {
                each(pid, &path);
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

/// Said once: that the host's mount namespace cannot be read.
static UNREADABLE: Once = Once::new();

/// Whether a process with these lines of `/proc/PID/cgroup` is of the container, and not its monitor's (`crio-conmon-ID.scope`,
/// `libpod-conmon-ID.scope`): some part of a path is `ID`, `PREFIX-ID` or `PREFIX-ID.scope`, or what is below that.
fn is_of(cgroups: &str, id: &ContainerId) -> bool {
    cgroups.lines().flat_map(|line| line.split('/')).any(|part| {
        let before = part.strip_suffix(".scope").unwrap_or(part).strip_suffix(id.as_str());
        before.is_some_and(|before| !before.ends_with("conmon-"))
    })
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
        // it has a mount namespace of its own, and the host's first process has another one
        for pid in [pid, 1] {
            if !root.join(format!("{pid}/ns/mnt")).is_symlink() {
                mounts(root, pid, pid);
            }
        }
    }

    /// It is in this mount namespace.
    pub(crate) fn mounts(root: &Path, pid: i32, namespace: i32) {
        let ns = root.join(format!("{pid}/ns"));
        std::fs::create_dir_all(&ns).unwrap();
        let _none = std::fs::remove_file(ns.join("mnt"));
        std::os::unix::fs::symlink(format!("mnt:[{namespace}]"), ns.join("mnt")).unwrap();
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
        // one of the host's
        mounts(dir.path(), 9, 1);
        assert_eq!(found(), [("abc".to_owned(), 3)]);
        assert!(Procs::at("/nonexistent").oldest(&ids).is_err());
    }

    /// The node's services are in a mount namespace of their own.
    #[test]
    fn what_watches_over_a_container_is_not_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let ids = ["abc"].map(|id| ContainerId::new(id).unwrap()).into();
        let procs = Procs::at(dir.path());
        let found =
            || procs.oldest(&ids).unwrap().into_values().map(|process| process.pid).collect::<Vec<_>>();
        for scope in ["crio-conmon-abc.scope", "libpod-conmon-abc.scope", "libpod-conmon-abc"] {
            add(dir.path(), 5, 'S', 50, &format!("/kubepods.slice/{scope}"));
            assert_eq!(found(), [0; 0], "alone in its mount namespace");
        }
        // a runtime's process, in the cgroup of the container, in the services' namespace
        add(dir.path(), 4, 'S', 40, "/system.slice/kubelet.service");
        add(dir.path(), 6, 'S', 60, "/kubepods.slice/crio-abc.scope");
        for other in [4, 5] {
            mounts(dir.path(), 4, 4);
            mounts(dir.path(), 5, 5);
            mounts(dir.path(), 6, other);
            assert_eq!(found(), [0; 0]);
        }
        // this daemon's
        mounts(dir.path(), 6, 6);
        std::fs::create_dir_all(dir.path().join("self/ns")).unwrap();
        std::os::unix::fs::symlink("mnt:[6]", dir.path().join("self/ns/mnt")).unwrap();
        assert_eq!(found(), [0; 0]);
        std::fs::remove_dir_all(dir.path().join("self")).unwrap();
        add(dir.path(), 7, 'S', 70, "/kubepods.slice/crio-abc.scope/conmon-abc");
        mounts(dir.path(), 7, 6);
        assert_eq!(found(), [6], "a workload may call its cgroups as it likes");
        std::fs::remove_dir_all(dir.path().join("6")).unwrap();
        assert_eq!(found(), [7]);
        std::fs::remove_dir_all(dir.path().join("1")).unwrap();
        assert_eq!(found(), [0; 0], "nobody knows which namespace is the host's");
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

    /// The same, with a parent.
    fn add_child(root: &Path, pid: i32, parent: i32, started: u64, cgroup: &str) {
        add(root, pid, 'S', started, cgroup);
        let stat = root.join(pid.to_string()).join("stat");
        let text = std::fs::read_to_string(&stat).unwrap();
        std::fs::write(&stat, text.replace(" S 1 ", &format!(" S {parent} "))).unwrap();
    }

    #[test]
    fn the_first_process_of_a_container_is_found_by_its_cgroup() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (pid, parent, started, cgroup) in [
            (5, 1, 90, "/kubepods/pod7/crio-conmon-abc"), // the monitor
            (30, 5, 100, "/kubepods/pod7/crio-abc"), // the first process, after the numbers of pids began again
            (7, 30, 100, "/kubepods/pod7/crio-abc"), // its child, in the same tick
            (8, 5, 120, "/kubepods/pod7/crio-abc/x"), // by exec
            (9, 1, 80, "/kubepods.slice/crio-conmon-def.scope"),
            (10, 9, 95, "/kubepods.slice/crio-def.scope/container"), // crun
            (11, 1, 1, "/kubepods/pod7/crio-abcd"),
            (12, 1, 1, "/"),
        ] {
            add_child(root, pid, parent, started, cgroup);
        }
        add(root, 13, 'Z', 1, "/crio-def.scope");
        add_child(root, 14, 5, 99, "/kubepods/pod7/crio-abc"); // a runtime that has joined it
        let mounts = |pid: i32| root.join(format!("{pid}/ns/mnt"));
        std::fs::remove_file(mounts(14)).unwrap();
        std::os::unix::fs::symlink(std::fs::read_link(mounts(1)).unwrap(), mounts(14)).unwrap();
        let ids: BTreeSet<_> = ["abc", "def", "none"].map(|id| ContainerId::new(id).unwrap()).into();
        let first = Procs::at(root).first(&ids).unwrap();
        let pids: Vec<_> = first.iter().map(|(id, process)| (id.as_str(), process.pid)).collect();
        assert_eq!(pids, [("abc", 30), ("def", 10)]);
        assert!(Procs::at("/nonexistent").first(&ids).is_err());
        assert!(Procs::at("/nonexistent").first(&BTreeSet::new()).unwrap().is_empty());
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
