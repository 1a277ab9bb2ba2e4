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

use crate::procs::{Process, Procs};

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
    procs: Procs,
    jobs: Option<Sender<Job>>,
    threads: Arc<AtomicUsize>,
    slow: BTreeMap<ContainerId, Instant>, // did not answer, and when
}

/// The paths of one container.
#[derive(Debug, Clone)]
pub struct Question {
    /// The container.
    pub id: ContainerId,
    /// Its first process. Once that has ended, its number may be another's, so nothing found there counts.
    pub process: Process,
    /// Where in the root of that process the container's root is; `/` once the process has changed to it.
    pub below: PathBuf,
    /// What is to be looked up in its root.
    pub paths: Arc<LookUps>,
}

/// Questions that are being answered, one after another.
#[derive(Debug, Default)]
pub struct Asked {
    questions: VecDeque<(Question, bool)>, // and whether a thread is asked it at all
    thread: Option<Asking>, // the one that has the rest of them; None before one was sent, and if none is free
}

impl Asked {
    /// No more questions come: the thread is free once it has answered these.
    pub fn end(&mut self) {
        if let Some(thread) = &mut self.thread {
            thread.send();
            thread.questions = None;
        }
    }
}

/// Questions that a thread is woken for: waking it for each takes longer than answering it.
const TOGETHER: usize = 32;

#[derive(Debug)]
struct Asking {
    questions: Option<Sender<Vec<Sent>>>, // None once no more come
    unsent: Vec<Sent>,
    answers: Receiver<Found>,
}

impl Asking {
    fn ask(&mut self, question: Sent) {
        self.unsent.push(question);
        if self.unsent.len() >= TOGETHER {
            self.send();
        }
    }

    fn send(&mut self) {
        if let Some(questions) = self.questions.as_ref().filter(|_| !self.unsent.is_empty()) {
            // one that panicked gives no answer either
            let _gone = questions.send(std::mem::take(&mut self.unsent));
        }
    }
}

/// What a thread has to know of a question.
type Sent = (Process, PathBuf, Arc<LookUps>);

#[derive(Debug)]
struct Job {
    procs: Procs,
    questions: Receiver<Vec<Sent>>,
    reply: Sender<Found>,
}

impl Roots {
    /// Of these processes.
    #[must_use]
    pub fn new(procs: Procs) -> Self {
        Self { procs, jobs: None, threads: Arc::default(), slow: BTreeMap::new() }
    }

    /// Looks the paths up in the root of a container's process. Takes half a second at most.
    pub fn look_up(&mut self, question: Question) -> Found {
        let mut asked = Asked::default();
        self.ask(&mut asked, question);
        asked.end();
        self.answer(&mut asked)
    }

    /// Begins to look up the paths of one more container.
    pub fn ask(&mut self, asked: &mut Asked, question: Question) {
        // decided once: an answer belongs to the next question that was sent
        let sent = self.is_asked(&question);
        if sent {
            if asked.questions.iter().all(|(_, sent)| !sent) {
                asked.thread = self.begin();
            }
            self.send(asked.thread.as_mut(), &question);
        }
        asked.questions.push_back((question, sent));
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
        let answer = match asked.thread.as_mut().map(|thread| {
            thread.send();
            thread.answers.recv_timeout(LIMIT + LIMIT / 4)
        }) {
            Some(Ok(found)) => {
                self.slow.remove(&question.id);
                return found;
            }
            Some(Err(RecvTimeoutError::Timeout)) => Unknown::Late,
            Some(Err(RecvTimeoutError::Disconnected)) => Unknown::Unreadable,
            None => Unknown::Late, // no thread is free
        };
        // that thread is left behind; the others' questions go to another one
        self.slow.retain(|_, when| when.elapsed() < AGAIN);
        self.slow.insert(question.id, Instant::now());
        self.jobs = None;
        let more = asked.thread.take().is_some_and(|thread| thread.questions.is_some());
        if asked.questions.iter().any(|(_, sent)| *sent) {
            asked.thread = self.begin();
            for (question, _) in asked.questions.iter().filter(|(_, sent)| *sent) {
                self.send(asked.thread.as_mut(), question);
            }
        }
        if !more {
            asked.end();
        }
        all(&question.paths, answer)
    }

    /// Whether a thread is asked this at all.
    fn is_asked(&self, question: &Question) -> bool {
        !question.paths.paths.is_empty()
            && self.slow.get(&question.id).is_none_or(|when| when.elapsed() >= AGAIN)
    }

    /// A thread that takes questions.
    fn begin(&mut self) -> Option<Asking> {
        let (questions, taken) = channel();
        let (reply, answers) = channel();
        let job = Job { procs: self.procs.clone(), questions: taken, reply };
        // a thread that panicked has dropped its end, so the job goes to another one
        let job = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        };
        if let Some(job) = job {
            let jobs = self.spawn()?;
            jobs.send(job).ok()?;
            self.jobs = Some(jobs);
        }
        Some(Asking { questions: Some(questions), unsent: Vec::new(), answers })
    }

    fn send(&self, thread: Option<&mut Asking>, question: &Question) {
        let Some(thread) = thread else { return };
        let below = question.below.strip_prefix("/").unwrap_or(&question.below);
        let root = self.procs.path().join(question.process.pid.to_string()).join("root").join(below);
        thread.ask((question.process, root, Arc::clone(&question.paths)));
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
    for Job { procs, questions, reply } in jobs {
        for (process, root, paths) in questions.into_iter().flatten() {
            let found = Root::at(&root).ok().map(|root| root.until(Instant::now() + LIMIT).look_up(&paths));
            let found =
                found.filter(|_| procs.alive(process)).unwrap_or_else(|| all(&paths, Unknown::Unreadable));
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
    use crate::procs::tests::add;
    use std::os::unix::fs::symlink;

    fn id(text: &str) -> ContainerId {
        ContainerId::new(text).unwrap()
    }

    fn question(id: &str, process: Process, texts: &[&str]) -> Question {
        let id = ContainerId::new(id).unwrap();
        let paths = texts.iter().map(|text| text.parse().unwrap()).collect();
        Question { id, process, below: "/".into(), paths: Arc::new(LookUps { paths, ..LookUps::default() }) }
    }

    /// A `/proc`, and its living process with this number.
    fn process(proc: &tempfile::TempDir, pid: i32) -> (Procs, Process) {
        add(proc.path(), pid, 'S', 100, "/");
        let procs = Procs::at(proc.path());
        let process = procs.find(pid).unwrap();
        (procs, process)
    }

    /// No process at all, and one that there was.
    fn nobody() -> (Procs, Process) {
        process(&tempfile::tempdir().unwrap(), 1)
    }

    #[test]
    fn only_what_has_another_name_is_told() {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(proc.path().join("7/root/usr/bin")).unwrap();
        symlink("usr/bin", proc.path().join("7/root/bin")).unwrap();
        let (procs, seven) = process(&proc, 7);
        let mut roots = Roots::new(procs);
        for _ in 0..2 {
            let found = roots.look_up(question("c", seven, &["/usr/bin/ls", "/bin/ls", "/none"]));
            let [(path, answer)] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!(
                (path.to_string().as_str(), answer.names[0].target.to_string().as_str()),
                ("/bin/ls", "/usr/bin/ls")
            );
        }
        assert_eq!(roots.threads.load(Ordering::Relaxed), 1);
        add(proc.path(), 7, 'S', 101, "/");
        let found = roots.look_up(question("c", seven, &["/bin/ls"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Unreadable), "another process by now");
        std::fs::remove_dir_all(proc.path().join("7")).unwrap();
        let found = roots.look_up(question("c", seven, &["/bin/ls"]));
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
        let (procs, one) = nobody();
        let mut roots = Roots::new(procs);
        let taken = hanging(&mut roots);
        let long_ago = Instant::now().checked_sub(AGAIN).unwrap();
        roots.slow.insert(id("long ago"), long_ago);
        let begin = Instant::now();
        let found = roots.look_up(question("hangs", one, &["/x"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Late));
        assert!(begin.elapsed() < 4 * LIMIT);
        assert!(roots.slow.keys().eq([&id("hangs")]), "nobody forgets containers, whoever asks");
        let begin = Instant::now();
        let found = roots.look_up(question("hangs", one, &["/x"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Late));
        assert!(begin.elapsed() < LIMIT / 2, "not asked again at once");
        // others are, by another thread
        let found = roots.look_up(question("other", one, &["/x"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Unreadable));
        drop(taken);
        roots.slow.insert(id("hangs"), long_ago);
        let found = roots.look_up(question("hangs", one, &["/x"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Unreadable));
    }

    #[test]
    fn those_asked_together_with_one_that_hangs_are_answered_by_another_thread() {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(proc.path().join("7/root")).unwrap();
        symlink("usr/bin", proc.path().join("7/root/bin")).unwrap();
        let (procs, seven) = process(&proc, 7);
        let mut roots = Roots::new(procs);
        let taken = hanging(&mut roots);
        let names = ["hangs", "nothing to ask", "a", "b"];
        let paths = |name: &str| if name == "nothing to ask" { &[][..] } else { &["/bin/ls"] };
        let mut asked = Asked::default();
        names.iter().for_each(|name| roots.ask(&mut asked, question(name, seven, paths(name))));
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
        let [seven, eight, nine] = [7, 8, 9].map(|pid| process(&proc, pid).1);
        let mut roots = Roots::new(Procs::at(proc.path()));
        let asked_again = Duration::from_millis(200);
        let when = Instant::now().checked_sub(AGAIN.saturating_sub(asked_again)).unwrap();
        roots.slow.insert(id("slow"), when);
        let mut asked = Asked::default();
        for (name, process) in [("slow", seven), ("a", eight), ("b", nine)] {
            roots.ask(&mut asked, question(name, process, &["/bin/x"]));
        }
        std::thread::sleep(2 * asked_again);
        assert_eq!(roots.answer(&mut asked)[0].1.unknown, Some(Unknown::Late), "it was not sent");
        for target in ["/sbin/x", "/opt/x"] {
            assert_eq!(roots.answer(&mut asked)[0].1.names[0].target.to_string(), target);
        }
    }

    #[test]
    fn a_thread_with_questions_given_up_is_left_behind() {
        let (procs, one) = nobody();
        let mut roots = Roots::new(procs);
        let taken = hanging(&mut roots);
        let mut asked = Asked::default();
        roots.ask(&mut asked, question("hangs", one, &["/x"]));
        roots.give_up(&asked);
        let found = roots.look_up(question("other", one, &["/x"]));
        assert_eq!(found[0].1.unknown, Some(Unknown::Unreadable), "answered by another thread");
        drop(taken);

        // a thread without such questions goes on
        let mut asked = Asked::default();
        roots.ask(&mut asked, question("a", one, &["/x"]));
        roots.answer(&mut asked);
        roots.give_up(&asked);
        assert!(roots.jobs.is_some());
    }

    #[test]
    fn threads_are_bounded() {
        let (procs, one) = nobody();
        let mut roots = Roots::new(procs);
        let hanging: Vec<Counted> = (0..MAX_THREADS).map(|_| Counted::new(&roots.threads)).collect();
        assert_eq!(roots.look_up(question("a", one, &["/x"]))[0].1.unknown, Some(Unknown::Late));
        drop(hanging);
        assert_eq!(roots.look_up(question("b", one, &["/x"]))[0].1.unknown, Some(Unknown::Unreadable));
    }
}
