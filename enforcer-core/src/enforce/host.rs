//! The host's own processes: armed as one container, with those left alone that keep the node alive.
//!
//! A process is the host's if it executes a program in the mount namespace of the first process, or did so before the
//! rules came, and is neither exempt nor of a container. It stays the host's whatever namespace or cgroup it goes to;
//! what it accesses then counts under the names that it has in its present mount namespace. A container that is armed
//! takes it. What a container runtime starts is exempt for good, so containers that no policy selects are left alone.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use enforcer_bpf::types;
use libbpf_rs::MapFlags;
use rustix::fs::statfs;

use super::arm::boottime_ns;
use super::error::EnforceError;
use super::state::{Entry, InForce, State, place_of};
use super::{Armed, ContainerId, Enforcer, lock};
use crate::needed::{DAEMONS, DAEMONS_OF_SOME, MONITORS, SSHD, SSHD_SESSIONS, SYSTEMD};
use crate::ruleset::Ruleset;

/// `HINT_HOST`.
pub(super) const HINT_HOST: u32 = 0x8000_0000;
/// `SUBJECT_EXEMPT` and `SUBJECT_HOST`.
const EXEMPT: u32 = 1;
const HOST: u32 = 4;
/// `EXEMPT_NAME_BYTES`, without the NUL.
const NAME_BYTES: usize = 55;
/// `EXEMPT_LEVELS`.
const LEVELS: usize = 8;
/// `PROC_PID_INIT_INO` (include/linux/proc_ns.h): the pid namespace of the machine.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// `CGROUP2_SUPER_MAGIC` (include/uapi/linux/magic.h).
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// How far something is exempt from the host's policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// As long as it is there: what it starts is judged once that executes a program elsewhere.
    Here,
    /// With all its descendants, wherever they go: a container runtime.
    Below,
    /// The same, and a process of the host that executes a program in such a cgroup, or such a program, is a container's from then
    /// on: where runtimes without a daemon put their containers, and what they start them with.
    Containers,
}

/// What is exempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exempt {
    /// A cgroup of the v2 hierarchy with all below it, by its path from the root, such as `system.slice/ssh.service`.
    Cgroup(String),
    /// A program, by its absolute path on the host, links followed. It counts for root (by the real user id), for who runs
    /// it when the host is armed, and, but on overlayfs and btrfs, for who executes it later and is not the host's yet; under
    /// [`Reach::Containers`] also for who is.
    Program(PathBuf),
}

impl Exempt {
    /// Reads an absolute path as a program, anything else as a cgroup.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Program(PathBuf::from(text)));
        }
        let names: Vec<&str> = text.split('/').collect();
        if names.iter().any(|name| name.is_empty() || *name == "." || *name == "..") {
            return Err(format!(
                "`{text}` is neither an absolute path of a program nor a cgroup such as `system.slice/ssh.service`"
            ));
        }
        if names.len() > LEVELS || names.iter().any(|name| name.len() > NAME_BYTES) {
            return Err(format!(
                "the cgroup `{text}` is deeper than {LEVELS} levels, or has a name longer than {NAME_BYTES} bytes"
            ));
        }
        Ok(Self::Cgroup(text.to_owned()))
    }
}

impl std::fmt::Display for Exempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cgroup(path) => f.write_str(path),
            Self::Program(path) => path.display().fmt(f),
        }
    }
}

/// All that is exempt, beside the first process, the kernel's own threads and helpers, and the calling process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostExempt {
    /// What, and how far.
    pub entries: Vec<(Exempt, Reach)>,
    /// The host's root directory: `/proc/1/root` unless in a test.
    pub root: PathBuf,
}

impl HostExempt {
    /// Nothing but what is exempt anyway.
    #[must_use]
    pub fn nothing() -> Self {
        Self { entries: Vec::new(), root: PathBuf::from("/proc/1/root") }
    }

    /// What keeps a node alive: systemd and its parts, kubelet, container runtimes, and the master of sshd, but none of
    /// its sessions.
    #[must_use]
    pub fn defaults() -> Self {
        let cgroups = |names: &[&str], reach| -> Vec<(Exempt, Reach)> {
            names.iter().map(|name| (Exempt::Cgroup((*name).to_owned()), reach)).collect()
        };
        let programs = |paths: &[&str], reach| -> Vec<(Exempt, Reach)> {
            paths.iter().map(|path| (Exempt::Program(PathBuf::from(path)), reach)).collect()
        };
        let entries = [
            cgroups(HERE, Reach::Here),
            cgroups(BELOW, Reach::Below),
            cgroups(CONTAINERS, Reach::Containers),
            programs(&[SYSTEMD, SSHD, SSHD_SESSIONS].concat(), Reach::Here),
            programs(&[DAEMONS, DAEMONS_OF_SOME].concat(), Reach::Below),
            // a unit that runs podman has it leave conmon in the unit's own cgroup, which nobody can name beforehand
            programs(MONITORS, Reach::Containers),
        ];
        Self { entries: entries.concat(), ..Self::nothing() }
    }

    /// The entries as keys of the maps, and what of them is not there on this host at present.
    fn resolve(&self) -> Result<Resolved, EnforceError> {
        let hierarchy = self.hierarchy()?;
        let mut resolved = Resolved::default();
        for (exempt, reach) in &self.entries {
            let (found, there) = match exempt {
                Exempt::Cgroup(path) => {
                    let path = hierarchy.join(path);
                    (resolved.add_cgroup(&path, *reach), path.exists())
                }
                Exempt::Program(path) => {
                    let path = self.root.join(path.strip_prefix("/").unwrap_or(path));
                    let found = resolved.add_program(&path, *reach);
                    (found, found)
                }
            };
            if !found || !there {
                resolved.missing.push(exempt.to_string());
            }
        }
        Ok(resolved)
    }

    /// Where the v2 hierarchy is mounted.
    fn hierarchy(&self) -> Result<PathBuf, EnforceError> {
        let places = ["sys/fs/cgroup", "sys/fs/cgroup/unified"].map(|place| self.root.join(place));
        let is_v2 = |place: &PathBuf| statfs(place).is_ok_and(|about| about.f_type == CGROUP2_MAGIC);
        places.into_iter().find(is_v2).ok_or_else(|| {
            EnforceError::Host(
                "the host has no cgroup v2, by which those are told who must be left alone".into(),
            )
        })
    }
}

const HERE: &[&str] = &["init.scope", "system.slice/ssh.service", "system.slice/sshd.service"];
const BELOW: &[&str] = &[
    "system.slice/kubelet.service",
    "system.slice/containerd.service",
    "system.slice/crio.service",
    "system.slice/docker.service",
    "system.slice/podman.service",
    "system.slice/k3s.service",
    "system.slice/k3s-agent.service",
    "system.slice/rke2-server.service",
    "system.slice/rke2-agent.service",
    // packaging/systemd of github.com/Mirantis/cri-dockerd
    "system.slice/cri-docker.service",
    // `k0s install`: one service has all that it starts, docs/k0s-multi-node.md of github.com/k0sproject/k0s
    "system.slice/k0scontroller.service",
    "system.slice/k0sworker.service",
    // the daemons of snap/snapcraft.yaml of github.com/canonical/microk8s, as snapd names their services
    "system.slice/snap.microk8s.daemon-kubelite.service",
    "system.slice/snap.microk8s.daemon-containerd.service",
    "system.slice/snap.microk8s.daemon-k8s-dqlite.service",
    "system.slice/snap.microk8s.daemon-etcd.service",
    "system.slice/snap.microk8s.daemon-flanneld.service",
    "system.slice/snap.microk8s.daemon-apiserver-proxy.service",
    "system.slice/snap.microk8s.daemon-apiserver-kicker.service",
    "system.slice/snap.microk8s.daemon-cluster-agent.service",
    "runtime.slice",
    "kubelet.slice",
];
const CONTAINERS: &[&str] = &["kubepods", "kubepods.slice", "machine.slice", "libpod_parent"];

#[derive(Debug, Default)]
struct Resolved {
    cgroups: Vec<(types::exempt_cgroup, u32)>,
    programs: Vec<(types::exempt_program, u32)>,
    missing: Vec<String>,
}

impl Resolved {
    /// Whether the cgroup above is there; then one with this name will be exempt, be it there or to come.
    fn add_cgroup(&mut self, path: &Path, reach: Reach) -> bool {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
        let Ok(parent) = std::fs::metadata(parent) else { return false };
        let mut key = types::exempt_cgroup { parent: parent.ino(), ..Default::default() };
        key.name.iter_mut().zip(name.as_encoded_bytes()).for_each(|(to, from)| *to = *from);
        self.cgroups.push((key, number(reach)));
        true
    }

    fn add_program(&mut self, path: &Path, reach: Reach) -> bool {
        let Ok(about) = std::fs::metadata(path) else { return false };
        let device = rustix::fs::major(about.dev()) << 20 | rustix::fs::minor(about.dev());
        let key = types::exempt_program { inode: about.ino(), device, pad: 0 };
        self.programs.push((key, number(reach)));
        true
    }
}

/// `enum host_exempt`.
const fn number(reach: Reach) -> u32 {
    match reach {
        Reach::Here => 1,
        Reach::Below => 2,
        Reach::Containers => 3,
    }
}

impl Enforcer {
    /// Tells who is left alone when [the host](ContainerId::host) is armed; what of it is not on this host. To be called
    /// before, and again from time to time, for programs are replaced and cgroups made.
    ///
    /// # Errors
    /// When the host has no cgroup v2, or the maps cannot be written: then what was exempt before still is.
    pub fn exempt(&self, exempt: &HostExempt) -> Result<Vec<String>, EnforceError> {
        let resolved = exempt.resolve()?;
        // the new ones first, so that nobody is without in between
        for (key, reach) in &resolved.cgroups {
            self.maps.exempt_cgroups.set(*key, reach, MapFlags::ANY)?;
        }
        for (key, reach) in &resolved.programs {
            self.maps.exempt_programs.set(*key, reach, MapFlags::ANY)?;
        }
        for (key, _) in self.maps.exempt_cgroups.entries()? {
            let same = |(other, _): &(types::exempt_cgroup, u32)| {
                other.parent == key.parent && other.name == key.name
            };
            if !resolved.cgroups.iter().any(same) {
                self.maps.exempt_cgroups.remove(key)?;
            }
        }
        for (key, _) in self.maps.exempt_programs.entries()? {
            let same = |(other, _): &(types::exempt_program, u32)| {
                other.inode == key.inode && other.device == key.device
            };
            if !resolved.programs.iter().any(same) {
                self.maps.exempt_programs.remove(key)?;
            }
        }
        *lock(&self.exempt) = Some(exempt.clone());
        Ok(resolved.missing)
    }

    /// [Looks](Self::exempt) for the same again. Nothing where nobody was told.
    ///
    /// # Errors
    /// As there.
    pub fn exempt_again(&self) -> Result<(), EnforceError> {
        let exempt = lock(&self.exempt).clone();
        exempt.map_or(Ok(()), |exempt| self.exempt(&exempt).map(drop))
    }

    pub(super) fn arm_host(&self, ruleset: &Ruleset) -> Result<Armed, EnforceError> {
        let Some(exempt) = lock(&self.exempt).clone() else {
            return Err(EnforceError::Host("nobody said who is exempt".into()));
        };
        self.exempt(&exempt)?;
        let id = ContainerId::host();
        if lock(&self.state).containers.contains_key(&id) {
            self.update(&id, ruleset)?;
            let state = lock(&self.state);
            let entry = state.containers.get(&id).ok_or_else(|| EnforceError::NotArmed(id.to_string()))?;
            // the daemon before may have been killed while it armed the host, or disarmed it
            let tasks = self.put_processes(&id, entry)?;
            return Ok(Armed { ruleset: ruleset.digest(), tasks, already: true });
        }
        let mnt_ns = self.namespace_of_first()?;
        let mut state = lock(&self.state);
        let acquired = state.acquire(&self.maps, &self.names, &[ruleset])?;
        let [rules] = acquired.as_slice() else { return Err(EnforceError::Full("rulesets")) };
        let slot = match state.take_slot() {
            Ok(slot) => slot,
            Err(error) => {
                state.release(&self.names, rules.id);
                return Err(error);
            }
        };
        let entry = Entry {
            key: boottime_ns(),
            slot,
            ruleset: rules.id,
            cgroup_id: 0,
            mnt_ns,
            held: true,
            host: true,
        };
        self.names.learn_container(entry.key, id.clone());
        match self.put_host(&state, &id, &entry, rules) {
            Ok(tasks) => {
                state.containers.insert(id, entry);
                self.searcher.ask();
                Ok(Armed { ruleset: ruleset.digest(), tasks, already: false })
            }
            Err(error) => {
                self.take_back(&mut state, &entry)?;
                Err(error)
            }
        }
    }

    fn put_host(
        &self,
        state: &State,
        id: &ContainerId,
        entry: &Entry,
        rules: &InForce,
    ) -> Result<u32, EnforceError> {
        self.attach_for(state)?;
        self.settle_namespaces(state, Some(entry.mnt_ns))?;
        self.insert(id, entry, rules, (0, 0))?;
        self.put_processes(id, entry)
    }

    /// Those that run, and from here on those to come. What is done already stays as it is.
    fn put_processes(&self, id: &ContainerId, entry: &Entry) -> Result<u32, EnforceError> {
        // itself first: from the next statement on it would be found like any other
        self.exempt_caller(id, entry)?;
        if self.maps.host.get(0)?.is_none_or(|held| held.container != entry.key) {
            self.exempt_running(id, entry)?;
            let host = types::host { container: entry.key, mnt_ns: entry.mnt_ns, slot: entry.slot };
            self.maps.host.set(0, &host, MapFlags::ANY)?;
        }
        let ask = types::mark { subject: subject(entry, HOST), mnt_ns: entry.mnt_ns, ..Default::default() };
        let tasks = self.mark_until_none(id, ask, types::mark_mode::MARK_HOST)?;
        let held = self.maps.host.get(0)?;
        if held.is_none_or(|held| held.container != entry.key || held.mnt_ns != entry.mnt_ns) {
            return Err(EnforceError::ReadBack("the host".into()));
        }
        let held = self.maps.armed.get(entry.slot)?;
        if held.is_none_or(|held| held.container != entry.key || held.ruleset != entry.ruleset) {
            return Err(EnforceError::ReadBack("the rules of the host".into()));
        }
        let (word, bit) = place_of(entry.mnt_ns);
        let held = self.maps.armed_namespaces.get(0)?;
        if held.is_none_or(|held| held.words.get(word).is_none_or(|held| held & bit == 0)) {
            return Err(EnforceError::ReadBack("the mount namespace of the host".into()));
        }
        Ok(tasks)
    }

    /// The calling process is exempt, with what it starts, unless a container has it: then it stays under the rules of that,
    /// which is none of the host's either.
    fn exempt_caller(&self, id: &ContainerId, entry: &Entry) -> Result<(), EnforceError> {
        let pid = std::process::id();
        let ask = types::mark { subject: subject(entry, EXEMPT), pid, ..Default::default() };
        let found = self.mark(id, ask, types::mark_mode::MARK_PROCESS)?.found;
        if found == 0 { Err(EnforceError::Host("the daemon cannot exempt itself".into())) } else { Ok(()) }
    }

    /// What runs an exempt program as root, in the host's mount namespace, is exempt, with what it starts. By the
    /// program's path: the numbers that the kernel has
    /// for a file are others than those that it tells on overlayfs and btrfs, where a program is exempt in this way alone.
    fn exempt_running(&self, id: &ContainerId, entry: &Entry) -> Result<(), EnforceError> {
        let exempt = lock(&self.exempt).clone();
        let programs: Vec<PathBuf> = exempt
            .into_iter()
            .flat_map(|exempt| exempt.entries)
            .filter_map(|(one, reach)| match one {
                Exempt::Program(path) if reach != Reach::Here => Some(path),
                _ => None,
            })
            .collect();
        let processes = std::fs::read_dir("/proc").map_err(|error| EnforceError::Host(error.to_string()))?;
        for process in processes.flatten() {
            let pid = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            let program = std::fs::read_link(process.path().join("exe"));
            if let (Some(pid), Ok(program)) = (pid, program)
                && programs.contains(&program)
            {
                // one that has ended by now is nobody
                let ask = types::mark {
                    subject: subject(entry, EXEMPT),
                    pid,
                    mnt_ns: entry.mnt_ns,
                    ..Default::default()
                };
                self.mark(id, ask, types::mark_mode::MARK_PROCESS)?;
            }
        }
        Ok(())
    }

    /// The mount namespace of the machine's first process.
    fn namespace_of_first(&self) -> Result<u32, EnforceError> {
        let own = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        if own != Path::new(FIRST_PID_NAMESPACE) {
            let why = "the daemon needs the pid namespace of the node (`hostPID: true`)";
            return Err(EnforceError::Host(why.into()));
        }
        let mode = types::mark_mode::MARK_FIND.0;
        let found = self.run(types::mark { mode, pid: 1, ..Default::default() })?;
        if found.found == 0 {
            return Err(EnforceError::NoProcess { pid: 1 });
        }
        Ok(found.mnt_ns)
    }
}

fn subject(entry: &Entry, state: u32) -> types::subject {
    types::subject {
        container: entry.key,
        mnt_ns: entry.mnt_ns,
        slot: entry.slot,
        state,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exemption_is_a_program_or_a_cgroup() {
        assert_eq!(Exempt::parse("/usr/bin/x"), Ok(Exempt::Program("/usr/bin/x".into())));
        assert_eq!(
            Exempt::parse("system.slice/x.service"),
            Ok(Exempt::Cgroup("system.slice/x.service".into()))
        );
        let long = "x".repeat(NAME_BYTES + 1);
        for bad in ["", ".", "a/../b", "a//b", "a/", &long, "a/b/c/d/e/f/g/h/i"] {
            assert!(Exempt::parse(bad).is_err(), "{bad}");
        }
        let defaults = HostExempt::defaults();
        assert!(defaults.entries.iter().all(|(one, _)| Exempt::parse(&one.to_string()).as_ref() == Ok(one)));
    }

    #[test]
    fn a_cgroup_is_exempt_by_its_name_before_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut resolved = Resolved::default();
        assert!(resolved.add_cgroup(&dir.path().join("to-come.service"), Reach::Below));
        assert!(!resolved.add_cgroup(&dir.path().join("no.slice/x.service"), Reach::Below));
        assert!(!resolved.add_program(&dir.path().join("none"), Reach::Here));
        let [(key, reach)] = resolved.cgroups[..] else { panic!() };
        assert_eq!((key.parent, reach), (std::fs::metadata(dir.path()).unwrap().ino(), 2));
        assert_eq!((&key.name[..15], key.name[15]), (&b"to-come.service"[..], 0));
    }

    #[test]
    fn the_numbers_are_those_of_the_programs() {
        use types::host_exempt as H;
        let numbers = [Reach::Here, Reach::Below, Reach::Containers].map(number);
        assert_eq!(numbers, [H::HOST_EXEMPT_HERE.0, H::HOST_EXEMPT_BELOW.0, H::HOST_EXEMPT_CONTAINERS.0]);
    }
}
