//! What an event of the kernel does not tell of the acting process, from `/proc`, as long as the process lives. Another one
//! that has its number by now was started after the event, and is told apart by that.

use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};

use super::{Alert, escape};
use crate::procs::{Process, Procs};

/// Processes looked up in a second. What is more keeps its fields empty: `/proc` must not hold up the reading of events.
const IN_A_SECOND: u32 = 500;
/// The first pid namespace, which has this number on every kernel (`PROC_PID_INIT_INO` of `linux/proc_ns.h`). The numbers of
/// events are those of processes there.
const FIRST: &str = "pid:[4026531836]";
/// The major number of pseudo-terminals (`UNIX98_PTY_SLAVE_MAJOR` of `linux/major.h`).
const PTS: u32 = 136;

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
        if self.second.is_none_or(|begin| now.saturating_duration_since(begin) >= Duration::from_secs(1)) {
            (self.second, self.looked_up) = (Some(now), 0);
        }
        self.looked_up += 1;
        let Some(procs) = self.procs.as_ref().filter(|_| self.looked_up <= IN_A_SECOND) else { return };
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
