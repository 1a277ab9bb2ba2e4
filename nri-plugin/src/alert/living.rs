//! What an event or audit record of the kernel does not tell of the acting process, from `/proc`, as long as the process lives. Another one
//! that has its number by now was started after the event, and is told apart by that.

use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use super::{Alert, escape};
use crate::procs::{About, Process, Procs};

/// Processes looked up in a second. What is more keeps its fields empty: `/proc` must not hold up the reading of events.
const IN_A_SECOND: u32 = 500;
/// The first pid namespace, which has this number on every kernel (`PROC_PID_INIT_INO` of `linux/proc_ns.h`). The numbers of
/// events are those of processes there.
const FIRST: &str = "pid:[4026531836]";
/// The major number of pseudo-terminals (`UNIX98_PTY_SLAVE_MAJOR` of `linux/major.h`).
const PTS: u32 = 136;

/// How much earlier than the start of its process a record may seem to be: the kernel takes the time of a record from a clock
/// that it sets forward some hundred times a second, cut to milliseconds, and the two clocks are read one after another.
/// No process number is given out twice in so short a time.
const BLUR: Duration = Duration::from_millis(20);

/// What an audit record leaves out of the process that it names. What is not known is empty, as in an [`Alert`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acting {
    host_ppid: u32,
    pid: u32,
    ppid: u32,
    uid: Option<u32>,
    cwd: String,
    tty: String,
    parent: String,
}

impl Acting {
    /// Fills it in, where the alert does not know better.
    pub fn fill(self, alert: &mut Alert) {
        (alert.host_ppid, alert.pid, alert.ppid) = (self.host_ppid, self.pid, self.ppid);
        (alert.cwd, alert.tty) = (self.cwd, self.tty);
        alert.uid = alert.uid.or(self.uid);
        // of an execution it is the executable that calls execve, which nobody tells
        if alert.parent_process_name.is_empty() && alert.operation != "Process" {
            alert.parent_process_name = self.parent;
        }
    }
}

/// When this machine was booted, by the clock as it is set now.
#[must_use]
pub fn booted() -> SystemTime {
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    SystemTime::now().checked_sub(since_boot).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Looks processes up.
#[derive(Debug)]
pub struct Living {
    /// None where `/proc` has the processes of another pid namespace.
    procs: Option<Procs>,
    tick: Duration,
    second: Option<Instant>,
    looked_up: u32,
}

impl Living {
    /// In this `/proc`.
    #[must_use]
    pub fn new(procs: Procs) -> Self {
        let namespace = std::fs::read_link(procs.path().join("self/ns/pid"));
        let first = namespace.is_ok_and(|namespace| namespace.as_os_str() == FIRST);
        Self::with(first.then_some(procs))
    }

    fn with(procs: Option<Procs>) -> Self {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
        let ticks =
            ticks.and_then(|ticks| u32::try_from(ticks).ok()).filter(|ticks| *ticks > 0).unwrap_or(100);
        Self { procs, tick: Duration::from_secs(1) / ticks, second: None, looked_up: 0 }
    }

    /// Fills in the working directory and the terminal, and the parent's executable where the event has none.
    /// `since_boot_ns`: when it happened.
    pub fn tell(&mut self, alert: &mut Alert, since_boot_ns: u64, now: Instant) {
        let may = self.may_look(now);
        let Some(procs) = self.procs.as_ref().filter(|_| may) else { return };
        if let Some(process) = self.find(procs, alert.host_pid, since_boot_ns) {
            let (cwd, terminal) = (procs.link(process, "cwd"), procs.terminal(process));
            // all of it is of that process where it still is there
            if procs.alive(process) {
                alert.cwd = cwd.map(|path| escape(path.as_os_str().as_encoded_bytes())).unwrap_or_default();
                alert.tty = terminal.map(name).unwrap_or_default();
            }
        }
        if alert.parent_process_name.is_empty()
            && let Some(parent) = self.find(procs, alert.host_ppid, since_boot_ns)
            && let Some(executable) = procs.link(parent, "exe").filter(|_| procs.alive(parent))
        {
            alert.parent_process_name = escape(executable.as_os_str().as_encoded_bytes());
        }
    }

    /// What is not told of the process of an audit record of this `time`; `None`: it is over.
    pub fn acting(&mut self, pid: u32, time: SystemTime, now: Instant) -> Option<Acting> {
        let since_boot = time.duration_since(booted()).ok()?.saturating_add(BLUR);
        self.acting_at(pid, u64::try_from(since_boot.as_nanos()).ok()?, now)
    }

    fn acting_at(&mut self, pid: u32, since_boot_ns: u64, now: Instant) -> Option<Acting> {
        let may = self.may_look(now);
        let procs = self.procs.as_ref().filter(|_| may)?;
        let process = self.find(procs, pid, since_boot_ns)?;
        let About { parent, uid, pids } = procs.about(process)?;
        let path = |path: std::path::PathBuf| escape(path.as_os_str().as_encoded_bytes());
        let mut acting = Acting {
            host_ppid: parent,
            pid: pids.last().copied().unwrap_or(0),
            uid: Some(uid),
            cwd: procs.link(process, "cwd").map(path).unwrap_or_default(),
            tty: procs.terminal(process).map(name).unwrap_or_default(),
            ..Acting::default()
        };
        if !procs.alive(process) {
            return None; // any of it may be another's
        }
        if let Some(parent) = self.find(procs, parent, since_boot_ns) {
            let (about, executable) = (procs.about(parent), procs.link(parent, "exe"));
            if procs.alive(parent) {
                acting.parent = executable.map(path).unwrap_or_default();
                // in its own namespace, as events have it
                acting.ppid = about.and_then(|about| about.pids.last().copied()).unwrap_or(0);
            }
        }
        Some(acting)
    }

    /// Whether to look up one more in this second.
    fn may_look(&mut self, now: Instant) -> bool {
        if self.second.is_none_or(|begin| now.saturating_duration_since(begin) >= Duration::from_secs(1)) {
            (self.second, self.looked_up) = (Some(now), 0);
        }
        self.looked_up += 1;
        self.looked_up <= IN_A_SECOND
    }

    /// The process that had this number then, if it still has it.
    fn find(&self, procs: &Procs, pid: u32, since_boot_ns: u64) -> Option<Process> {
        let process = procs.find(i32::try_from(pid).ok().filter(|pid| *pid > 0)?)?;
        let started = u128::from(process.started()) * self.tick.as_nanos();
        (started <= u128::from(since_boot_ns)).then_some(process)
    }
}

/// A terminal as the kernel calls it, by its device number as `/proc/PID/stat` has it.
fn name(device: u32) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    match (major, minor) {
        (PTS, _) => format!("pts{minor}"),
        (4, 0..64) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (5, 1) => "console".to_owned(),
        _ => format!("{major}:{minor}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const TICK: u64 = 10_000_000;

    /// Process 7 of the parent 6, started at those ticks, at a terminal.
    fn proc(terminal: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (pid, started, exe, cwd) in [(6, 50, "/bin/sh", "/"), (7, 100, "/bin/cat", "/var/w\\w")] {
            let at = dir.path().join(pid.to_string());
            std::fs::create_dir(&at).unwrap();
            let stat =
                format!("{pid} (a ) b) S 6 1 1 {terminal} -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 {started} 0 0");
            std::fs::write(at.join("stat"), stat).unwrap();
            symlink(exe, at.join("exe")).unwrap();
            symlink(cwd, at.join("cwd")).unwrap();
        }
        dir
    }

    fn told(living: &mut Living, at: u64, now: Instant) -> (String, String, String) {
        let mut alert = Alert { host_pid: 7, host_ppid: 6, ..Alert::default() };
        living.tell(&mut alert, at, now);
        (alert.cwd, alert.tty, alert.parent_process_name)
    }

    #[test]
    fn who_lives_is_told_and_who_came_later_is_another() {
        let dir = proc((136 << 8) | 3);
        let mut living = Living::with(Some(Procs::at(dir.path())));
        let now = Instant::now();
        let all = ("/var/w\\\\w".to_owned(), "pts3".to_owned(), "/bin/sh".to_owned());
        assert_eq!(told(&mut living, 100 * TICK, now), all);
        // the number is another process's by now
        assert_eq!(told(&mut living, 100 * TICK - 1, now), (String::new(), String::new(), "/bin/sh".into()));
        assert_eq!(told(&mut living, 10 * TICK, now), Default::default());
        std::fs::remove_dir_all(dir.path().join("7")).unwrap();
        assert_eq!(told(&mut living, 100 * TICK, now).2, "/bin/sh");
        // what the event told stays
        let mut alert = Alert { host_ppid: 6, parent_process_name: "/bin/mine".into(), ..Alert::default() };
        living.tell(&mut alert, 100 * TICK, now);
        assert_eq!(alert.parent_process_name, "/bin/mine");
    }

    /// As the kernel writes it: a name may be anything.
    fn status(dir: &tempfile::TempDir, pid: u32, parent: u32, pids: &str) {
        let at = dir.path().join(pid.to_string());
        let text =
            format!("Name:\tx\\nUid:\\t7\nState:\tS\nPPid:\t{parent}\nUid:\t1000\t1\t2\t3\nNSpid:\t{pids}\n");
        std::fs::write(at.join("status"), text).unwrap();
    }

    #[test]
    fn of_an_audit_record_all_that_lives_is_told_and_nobody_is_root_for_want_of_knowledge() {
        let dir = proc((136 << 8) | 3);
        status(&dir, 6, 1, "6\t1");
        status(&dir, 7, 6, "7\t12");
        let mut living = Living::with(Some(Procs::at(dir.path())));
        let now = Instant::now();
        let told = |living: &mut Living, at: u64, uid| {
            let mut alert = Alert { host_pid: 7, uid, ..Alert::default() };
            living.acting_at(7, at, now).unwrap_or_default().fill(&mut alert);
            (
                alert.host_ppid,
                alert.pid,
                alert.ppid,
                alert.uid,
                alert.cwd,
                alert.tty,
                alert.parent_process_name,
            )
        };
        let all =
            |ppid, uid| (6, 12, ppid, Some(uid), "/var/w\\\\w".into(), "pts3".into(), "/bin/sh".to_owned());
        assert_eq!(told(&mut living, 100 * TICK, None), all(1, 1000));
        assert_eq!(told(&mut living, 100 * TICK, Some(33)), all(1, 33), "what the record tells stays");
        // the parent is in the namespace above
        status(&dir, 6, 1, "6");
        assert_eq!(told(&mut living, 100 * TICK, None), all(6, 1000));
        // the number is another process's by now
        let nothing = (0, 0, 0, None, String::new(), String::new(), String::new());
        assert_eq!(told(&mut living, 100 * TICK - 1, None), nothing);
        assert_eq!(told(&mut Living::with(None), 100 * TICK, None), nothing, "another pid namespace");
        let of_exec = Alert { operation: "Process", ..Alert::default() };
        let mut alert = of_exec.clone();
        living.acting_at(7, 100 * TICK, now).unwrap().fill(&mut alert);
        assert_eq!(
            (alert.parent_process_name.as_str(), alert.host_ppid),
            ("", 6),
            "not the one that executes"
        );
        std::fs::remove_dir_all(dir.path().join("7")).unwrap();
        assert_eq!(living.acting_at(7, 100 * TICK, now), None);
        let line = serde_json::to_value(Alert::default()).unwrap();
        assert_eq!(line["UID"], -1);
        assert_eq!(crate::feed::messages::Alert::from(&Alert::default()).uid, -1);
    }

    #[test]
    fn times_of_records_are_those_of_this_machine() {
        let mut living = Living::with(Some(Procs::default()));
        let (now, clock) = (Instant::now(), SystemTime::now());
        let own = std::process::id();
        let acting = living.acting(own, clock, now).unwrap();
        assert_eq!((acting.pid, acting.uid), (own, Some(nix::unistd::getuid().as_raw())));
        assert_eq!(acting.cwd, std::env::current_dir().unwrap().display().to_string());
        assert_eq!(
            living.acting(own, clock - Duration::from_secs(86_400), now),
            None,
            "it was started later"
        );
        assert_eq!(living.acting(own, SystemTime::UNIX_EPOCH, now), None);
    }

    #[test]
    fn a_flood_is_not_looked_up() {
        let dir = proc(0);
        let mut living = Living::with(Some(Procs::at(dir.path())));
        let now = Instant::now();
        let found = (0..2 * IN_A_SECOND).filter(|_| !told(&mut living, 100 * TICK, now).0.is_empty()).count();
        assert_eq!(found, IN_A_SECOND as usize);
        assert!(!told(&mut living, 100 * TICK, now + Duration::from_secs(1)).0.is_empty());
        assert_eq!(
            told(&mut Living::with(None), 100 * TICK, now),
            Default::default(),
            "another pid namespace"
        );
    }

    #[test]
    fn terminals_have_the_kernels_names() {
        let of = |major: u32, minor: u32| name((major << 8) | (minor & 0xff) | ((minor & 0xf_ff00) << 12));
        let names = [of(136, 0), of(136, 300), of(4, 1), of(4, 64), of(5, 1), of(204, 64)];
        assert_eq!(names, ["pts0", "pts300", "tty1", "ttyS0", "console", "204:64"]);
    }
}
