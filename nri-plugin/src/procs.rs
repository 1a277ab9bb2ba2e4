//! Which processes live: the daemon's second source about containers, beside what the runtime tells.

use std::collections::{BTreeMap, BTreeSet};
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
    /// came by exec came later. The monitor of CRI-O and podman, whose own cgroup has the id in its name too, is none of them.
    ///
    /// # Errors
    /// When processes cannot be listed.
    pub fn first(&self, ids: &BTreeSet<ContainerId>) -> std::io::Result<BTreeMap<ContainerId, Process>> {
        let mut found: BTreeMap<&ContainerId, Vec<(Process, u32)>> = BTreeMap::new();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        for entry in std::fs::read_dir(&self.root)? {
            let path = entry?.path();
            let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            let Ok(cgroups) = std::fs::read_to_string(path.join("cgroup")) else { continue };
            for id in ids.iter().filter(|id| is_of(&cgroups, id)) {
                if let Some((process, parent)) = self.find_with_parent(pid) {
                    found.entry(id).or_default().push((process, parent));
                }
            }
        }
        let first = found.into_iter().filter_map(|(id, processes)| {
            let inside: BTreeSet<i32> = processes.iter().map(|(process, _)| process.pid).collect();
            let begun_outside = processes
                .iter()
                .filter(|(_, parent)| i32::try_from(*parent).is_ok_and(|parent| !inside.contains(&parent)));
            let first =
                begun_outside.map(|(process, _)| *process).min_by_key(|one| (one.started, one.pid))?;
            Some((id.clone(), first))
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
    pub fn inhabited(&self, ids: &BTreeSet<ContainerId>) -> std::io::Result<BTreeSet<ContainerId>> {
        let mut found = BTreeSet::new();
        if ids.is_empty() {
            return Ok(found);
        }
        for entry in std::fs::read_dir(&self.root)? {
            let path = entry?.path();
            if is_pid(&path)
                && let Ok(cgroups) = std::fs::read_to_string(path.join("cgroup"))
            {
                found.extend(ids.iter().filter(|id| cgroups.contains(id.as_str())).cloned());
            }
        }
        Ok(found)
    }
}

/// Whether a process with these lines of `/proc/PID/cgroup` is of the container, and not its monitor: some part of a path is
/// `ID`, `PREFIX-ID` or `PREFIX-ID.scope`, or what is below that.
fn is_of(cgroups: &str, id: &ContainerId) -> bool {
    cgroups.lines().flat_map(|line| line.split('/')).any(|part| {
        let before = part.strip_suffix(".scope").unwrap_or(part).strip_suffix(id.as_str());
        before.is_some_and(|before| !before.ends_with("conmon-"))
    })
}

fn is_pid(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
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
