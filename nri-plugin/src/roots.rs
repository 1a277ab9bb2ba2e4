//! Looks up paths in the roots of containers. A container chooses its own file systems, and one of them may never
//! answer, so this is done by a thread of its own: who asks waits for a time and no longer, and a thread that hangs is
//! left behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use enforcer_core::enforce::ContainerId;
use enforcer_core::enforce::root::Root;
use enforcer_core::links::{LookUps, Resolution, Unknown};
use enforcer_core::path::AbsPath;

/// How long one container's paths may take: a start waits for it.
const LIMIT: Duration = Duration::from_millis(500);
/// How long a container that did not answer is not asked again.
const AGAIN: Duration = Duration::from_secs(60);
/// Threads at one time, those left behind included.
const MAX_THREADS: usize = 8;

/// What was found: paths with another name, and those that could not be looked up; the others have no other name.
pub type Found = Vec<(AbsPath, Resolution)>;

/// Looks up paths in the roots of processes.
#[derive(Debug)]
pub struct Roots {
    proc: PathBuf,
    jobs: Option<Sender<Job>>,
    threads: Arc<AtomicUsize>,
    slow: BTreeMap<ContainerId, Instant>, // did not answer, and when
}

#[derive(Debug)]
struct Job {
    root: PathBuf,
    paths: Arc<LookUps>,
    reply: SyncSender<Found>,
}

impl Roots {
    /// Of the processes in the `/proc` that is mounted at `proc`.
    #[must_use]
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), jobs: None, threads: Arc::default(), slow: BTreeMap::new() }
    }

    /// Looks the paths up in the root of a container's process, or in a directory below it. Takes half a second at most.
    pub fn look_up(&mut self, id: &ContainerId, pid: i32, below: &Path, paths: &Arc<LookUps>) -> Found {
        if paths.paths.is_empty() {
            return Vec::new();
        }
        if self.slow.get(id).is_some_and(|when| when.elapsed() < AGAIN) {
            return all(paths, Unknown::Late);
        }
        let root = self.proc.join(pid.to_string()).join("root");
        let root = root.join(below.strip_prefix("/").unwrap_or(below));
        match self.ask(root, paths) {
            Ok(found) => {
                self.slow.remove(id);
                found
            }
            Err(unknown) => {
                self.slow.insert(id.clone(), Instant::now());
                all(paths, unknown)
            }
        }
    }

    /// The container is over.
    pub fn forget(&mut self, id: &ContainerId) {
        self.slow.remove(id);
    }

    fn ask(&mut self, root: PathBuf, paths: &Arc<LookUps>) -> Result<Found, Unknown> {
        let (reply, answer) = sync_channel(1);
        let job = Job { root, paths: Arc::clone(paths), reply };
        // a thread that panicked has dropped its end, so the job goes to another one
        let job = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        };
        if let Some(job) = job {
            let jobs = self.spawn()?;
            jobs.send(job).map_err(|_| Unknown::Unreadable)?;
            self.jobs = Some(jobs);
        }
        answer.recv_timeout(LIMIT + LIMIT / 4).map_err(|error| {
            self.jobs = None;
            match error {
                RecvTimeoutError::Timeout => Unknown::Late,
                RecvTimeoutError::Disconnected => Unknown::Unreadable,
            }
        })
    }

    fn spawn(&self) -> Result<Sender<Job>, Unknown> {
        if self.threads.load(Ordering::Relaxed) >= MAX_THREADS {
            return Err(Unknown::Late);
        }
        let (jobs, taken) = channel();
        let counted = Counted::new(&self.threads);
        let body = move || {
            work(&taken);
            drop(counted);
        };
        std::thread::Builder::new().name("links".into()).spawn(body).map_err(|_| Unknown::Unreadable)?;
        Ok(jobs)
    }
}

/// One of the threads, until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(threads: &Arc<AtomicUsize>) -> Self {
        threads.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(threads))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn work(jobs: &Receiver<Job>) {
    for Job { root, paths, reply } in jobs {
        let found = match Root::at(&root) {
            Ok(root) => root.until(Instant::now() + LIMIT).look_up(&paths),
            Err(_) => all(&paths, Unknown::Unreadable),
        };
        let _gave_up = reply.send(found);
    }
}

/// The answer where nothing could be looked up.
#[must_use]
pub fn all(paths: &LookUps, unknown: Unknown) -> Found {
    let answer = Resolution { names: Vec::new(), unknown: Some(unknown) };
    paths.paths.iter().map(|path| (path.clone(), answer.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn id(text: &str) -> ContainerId {
        ContainerId::new(text).unwrap()
    }

    fn paths(texts: &[&str]) -> Arc<LookUps> {
        let paths = texts.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(LookUps { paths, ..LookUps::default() })
    }

    #[test]
    fn only_what_has_another_name_is_told() {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(proc.path().join("7/root/usr/bin")).unwrap();
        symlink("usr/bin", proc.path().join("7/root/bin")).unwrap();
        let mut roots = Roots::new(proc.path());
        for _ in 0..2 {
            let found =
                roots.look_up(&id("c"), 7, Path::new("/"), &paths(&["/usr/bin/ls", "/bin/ls", "/none"]));
            let [(path, answer)] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!(
                (path.to_string().as_str(), answer.names[0].target.to_string().as_str()),
                ("/bin/ls", "/usr/bin/ls")
            );
        }
        assert_eq!(roots.threads.load(Ordering::Relaxed), 1);
        let found = roots.look_up(&id("c"), 8, Path::new("/"), &paths(&["/bin/ls"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Unreadable), "no such process");
    }

    #[test]
    fn a_root_that_never_answers_is_left_behind() {
        // a named pipe in the place of the answer: the thread hangs in whatever it does last
        let mut roots = Roots::new("/nonexistent");
        let (jobs, taken) = channel::<Job>();
        roots.jobs = Some(jobs);
        let begin = Instant::now();
        let found = roots.look_up(&id("hangs"), 1, Path::new("/"), &paths(&["/x"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Late));
        assert!(begin.elapsed() < 4 * LIMIT);
        let begin = Instant::now();
        assert_eq!(
            roots.look_up(&id("hangs"), 1, Path::new("/"), &paths(&["/x"]))[0].1.unknown,
            Some(Unknown::Late)
        );
        assert!(begin.elapsed() < LIMIT / 2, "not asked again at once");
        // others are, by another thread
        assert_eq!(
            roots.look_up(&id("other"), 1, Path::new("/"), &paths(&["/x"]))[0].1.unknown,
            Some(Unknown::Unreadable)
        );
        drop(taken);
        roots.forget(&id("hangs"));
        assert_eq!(
            roots.look_up(&id("hangs"), 1, Path::new("/"), &paths(&["/x"]))[0].1.unknown,
            Some(Unknown::Unreadable)
        );
    }

    #[test]
    fn threads_are_bounded() {
        let mut roots = Roots::new("/nonexistent");
        let hanging: Vec<Counted> = (0..MAX_THREADS).map(|_| Counted::new(&roots.threads)).collect();
        assert_eq!(
            roots.look_up(&id("a"), 1, Path::new("/"), &paths(&["/x"]))[0].1.unknown,
            Some(Unknown::Late)
        );
        drop(hanging);
        assert_eq!(
            roots.look_up(&id("b"), 1, Path::new("/"), &paths(&["/x"]))[0].1.unknown,
            Some(Unknown::Unreadable)
        );
    }
}
