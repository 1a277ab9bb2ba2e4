//! Looks up paths in the roots of containers. A container chooses its own file systems, and one of them may never
//! answer, so this is done by a thread of its own: who asks waits for a time and no longer, and a thread that hangs is
//! left behind.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
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

/// The paths of one container.
#[derive(Debug, Clone)]
pub struct Question {
    /// The container.
    pub id: ContainerId,
    /// Its first process.
    pub pid: i32,
    /// Where in the root of that process the container's root is; `/` once the process has changed to it.
    pub below: PathBuf,
    /// What is to be looked up in its root.
    pub paths: Arc<LookUps>,
}

/// Questions that are being answered, one after another.
#[derive(Debug, Default)]
pub struct Asked {
    questions: VecDeque<(Question, bool)>, // and whether a thread is asked it at all
    answers: Option<Receiver<Found>>,      // of the job that has the rest of the questions
}

#[derive(Debug)]
struct Job {
    roots: Vec<(PathBuf, Arc<LookUps>)>,
    reply: Sender<Found>,
}

impl Roots {
    /// Of the processes in the `/proc` that is mounted at `proc`.
    #[must_use]
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), jobs: None, threads: Arc::default(), slow: BTreeMap::new() }
    }

    /// Looks the paths up in the root of a container's process. Takes half a second at most.
    pub fn look_up(&mut self, question: Question) -> Found {
        let mut asked = self.ask(vec![question]);
        self.answer(&mut asked)
    }

    /// Begins to look paths up for many containers.
    pub fn ask(&mut self, questions: Vec<Question>) -> Asked {
        // decided once: an answer belongs to the next question that was sent
        let questions = questions.into_iter().map(|question| {
            let sent = self.is_asked(&question);
            (question, sent)
        });
        let mut asked = Asked { questions: questions.collect(), answers: None };
        self.send(&mut asked);
        asked
    }

    /// The questions that have no answer yet are given up. Their thread may hang on one of them, so it is left behind.
    pub fn give_up(&mut self, asked: &Asked) {
        if asked.questions.iter().any(|(_, sent)| *sent) {
            self.jobs = None;
        }
    }

    /// The answer to the first question that has none yet. Takes half a second at most; the work on the next one goes on
    /// meanwhile.
    pub fn answer(&mut self, asked: &mut Asked) -> Found {
        let Some((question, sent)) = asked.questions.pop_front() else { return Vec::new() };
        if !sent {
            return if question.paths.paths.is_empty() {
                Vec::new()
            } else {
                all(&question.paths, Unknown::Late)
            };
        }
        let answer = match asked.answers.as_ref().map(|answers| answers.recv_timeout(LIMIT + LIMIT / 4)) {
            Some(Ok(found)) => {
                self.slow.remove(&question.id);
                return found;
            }
            Some(Err(RecvTimeoutError::Timeout)) => Unknown::Late,
            Some(Err(RecvTimeoutError::Disconnected)) => Unknown::Unreadable,
            None => Unknown::Late, // no thread is free
        };
        // that thread is left behind; the others' questions go to another one
        self.slow.insert(question.id, Instant::now());
        self.jobs = None;
        self.send(asked);
        all(&question.paths, answer)
    }

    /// Whether a thread is asked this at all.
    fn is_asked(&self, question: &Question) -> bool {
        !question.paths.paths.is_empty()
            && self.slow.get(&question.id).is_none_or(|when| when.elapsed() >= AGAIN)
    }

    /// The container is over.
    pub fn forget(&mut self, id: &ContainerId) {
        self.slow.remove(id);
    }

    /// Gives the questions to a thread.
    fn send(&mut self, asked: &mut Asked) {
        let (reply, answers) = channel();
        asked.answers = None;
        let root = |question: &Question| {
            let below = question.below.strip_prefix("/").unwrap_or(&question.below);
            self.proc.join(question.pid.to_string()).join("root").join(below)
        };
        let roots: Vec<_> = asked
            .questions
            .iter()
            .filter(|(_, sent)| *sent)
            .map(|(question, _)| (root(question), Arc::clone(&question.paths)))
            .collect();
        if roots.is_empty() {
            return;
        }
        let job = Job { roots, reply };
        // a thread that panicked has dropped its end, so the job goes to another one
        let job = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        };
        if let Some(job) = job {
            let Some(jobs) = self.spawn() else { return };
            if jobs.send(job).is_err() {
                return;
            }
            self.jobs = Some(jobs);
        }
        asked.answers = Some(answers);
    }

    fn spawn(&self) -> Option<Sender<Job>> {
        if self.threads.load(Ordering::Relaxed) >= MAX_THREADS {
            return None;
        }
        let (jobs, taken) = channel();
        let counted = Counted::new(&self.threads);
        let body = move || {
            work(&taken);
            drop(counted);
        };
        std::thread::Builder::new().name("links".into()).spawn(body).ok()?;
        Some(jobs)
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
    for Job { roots, reply } in jobs {
        for (root, paths) in roots {
            let found = match Root::at(&root) {
                Ok(root) => root.until(Instant::now() + LIMIT).look_up(&paths),
                Err(_) => all(&paths, Unknown::Unreadable),
            };
            if reply.send(found).is_err() {
                break; // given up meanwhile
            }
        }
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

    fn question(id: &str, pid: i32, texts: &[&str]) -> Question {
        let id = ContainerId::new(id).unwrap();
        let paths = texts.iter().map(|text| text.parse().unwrap()).collect();
        Question { id, pid, below: "/".into(), paths: Arc::new(LookUps { paths, ..LookUps::default() }) }
    }

    #[test]
    fn only_what_has_another_name_is_told() {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(proc.path().join("7/root/usr/bin")).unwrap();
        symlink("usr/bin", proc.path().join("7/root/bin")).unwrap();
        let mut roots = Roots::new(proc.path());
        for _ in 0..2 {
            let found = roots.look_up(question("c", 7, &["/usr/bin/ls", "/bin/ls", "/none"]));
            let [(path, answer)] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!(
                (path.to_string().as_str(), answer.names[0].target.to_string().as_str()),
                ("/bin/ls", "/usr/bin/ls")
            );
        }
        assert_eq!(roots.threads.load(Ordering::Relaxed), 1);
        let found = roots.look_up(question("c", 8, &["/bin/ls"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Unreadable), "no such process");
    }

    /// A thread that takes a job and never answers, as one that hangs in whatever it does last.
    fn hanging(roots: &mut Roots) -> Receiver<Job> {
        let (jobs, taken) = channel::<Job>();
        roots.jobs = Some(jobs);
        taken
    }

    #[test]
    fn a_root_that_never_answers_is_left_behind() {
        let mut roots = Roots::new("/nonexistent");
        let taken = hanging(&mut roots);
        let begin = Instant::now();
        let found = roots.look_up(question("hangs", 1, &["/x"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Late));
        assert!(begin.elapsed() < 4 * LIMIT);
        let begin = Instant::now();
        let found = roots.look_up(question("hangs", 1, &["/x"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Late));
        assert!(begin.elapsed() < LIMIT / 2, "not asked again at once");
        // others are, by another thread
        let found = roots.look_up(question("other", 1, &["/x"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Unreadable));
        drop(taken);
        roots.forget(&id("hangs"));
        let found = roots.look_up(question("hangs", 1, &["/x"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Unreadable));
    }

    #[test]
    fn those_asked_together_with_one_that_hangs_are_answered_by_another_thread() {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(proc.path().join("7/root")).unwrap();
        symlink("usr/bin", proc.path().join("7/root/bin")).unwrap();
        let mut roots = Roots::new(proc.path());
        let taken = hanging(&mut roots);
        let names = ["hangs", "nothing to ask", "a", "b"];
        let paths = |name: &str| if name == "nothing to ask" { &[][..] } else { &["/bin/ls"] };
        let mut asked = roots.ask(names.iter().map(|name| question(name, 7, paths(name))).collect());
        let begin = Instant::now();
        let answers: Vec<Found> = names.iter().map(|_| roots.answer(&mut asked)).collect();
        assert!(begin.elapsed() < 4 * LIMIT, "one wait, not one for each");
        assert_eq!(answers[0][0].1.unknown, Some(Unknown::Late));
        assert_eq!(answers[1], []);
        for answer in &answers[2..] {
            assert_eq!(answer[0].1.names[0].target.to_string(), "/usr/bin/ls");
        }
        drop(taken);
    }

    #[test]
    fn each_gets_its_own_answer_when_one_may_be_asked_again_meanwhile() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, target) in [(7, "usr/bin"), (8, "sbin"), (9, "opt")] {
            std::fs::create_dir_all(proc.path().join(format!("{pid}/root/{target}"))).unwrap();
            symlink(target, proc.path().join(format!("{pid}/root/bin"))).unwrap();
        }
        let mut roots = Roots::new(proc.path());
        let asked_again = Duration::from_millis(200);
        let when = Instant::now().checked_sub(AGAIN.saturating_sub(asked_again)).unwrap();
        roots.slow.insert(id("slow"), when);
        let mut asked = roots.ask(vec![
            question("slow", 7, &["/bin/x"]),
            question("a", 8, &["/bin/x"]),
            question("b", 9, &["/bin/x"]),
        ]);
        std::thread::sleep(2 * asked_again);
        assert_eq!(roots.answer(&mut asked)[0].1.unknown, Some(Unknown::Late), "it was not sent");
        for target in ["/sbin/x", "/opt/x"] {
            assert_eq!(roots.answer(&mut asked)[0].1.names[0].target.to_string(), target);
        }
    }

    #[test]
    fn a_thread_with_questions_given_up_is_left_behind() {
        let mut roots = Roots::new("/nonexistent");
        let taken = hanging(&mut roots);
        let asked = roots.ask(vec![question("hangs", 1, &["/x"])]);
        roots.give_up(&asked);
        let found = roots.look_up(question("other", 1, &["/x"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Unreadable), "answered by another thread");
        drop(taken);

        // a thread without such questions goes on
        let mut asked = roots.ask(vec![question("a", 1, &["/x"])]);
        roots.answer(&mut asked);
        roots.give_up(&asked);
        assert!(roots.jobs.is_some());
    }

    #[test]
    fn threads_are_bounded() {
        let mut roots = Roots::new("/nonexistent");
        let hanging: Vec<Counted> = (0..MAX_THREADS).map(|_| Counted::new(&roots.threads)).collect();
        assert_eq!(roots.look_up(question("a", 1, &["/x"]))[0].1.unknown, Some(Unknown::Late));
        drop(hanging);
        assert_eq!(roots.look_up(question("b", 1, &["/x"]))[0].1.unknown, Some(Unknown::Unreadable));
    }
}
