//! The daemon's side: a socket at which whoever is root asks for a change, and the clock that ends it.
//!
//! A caller sends one [`Request`] as a line of JSON and gets one [`Answer`] likewise. Where that is [`Answer::Pending`]
//! another one follows when the change has ended, and the caller may send [`Request::Confirm`] or [`Request::Revert`]
//! meanwhile. That a caller goes changes nothing: the change ends in time, by a clock that nobody sets.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use enforcer_core::policy::parse;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Take};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{NewFile, Pending, keep};
use crate::exit::chain;
use crate::socket::{Socket, SocketError, is_root};
use crate::store::read;

/// The longest request, in bytes.
const MAX_REQUEST: u64 = 64 << 20;
/// How long a caller may take for its request, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The least and the most that a change waits to be confirmed.
pub const WITHIN: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// When reverting is tried again after it has failed.
const AGAIN: Duration = Duration::from_secs(1);
/// Callers at a time; more wait for their turn.
const CALLERS: usize = 16;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "request", deny_unknown_fields)]
pub enum Request {
    /// To put files into the first policy directory.
    #[serde(rename_all = "camelCase")]
    Apply {
        /// The files.
        files: Vec<NewFile>,
        /// Milliseconds after which that is undone unless it is confirmed; `None`: it stays.
        #[serde(default)]
        confirm_within: Option<u64>,
    },
    /// To keep what is pending.
    Confirm,
    /// To end what is pending now.
    Revert,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "answer")]
pub enum Answer {
    /// The files are in the directory, for good.
    Applied {
        /// The directory.
        dir: PathBuf,
    },
    /// They are in the directory, and wait to be confirmed.
    Pending {
        /// The directory.
        dir: PathBuf,
    },
    /// The change was confirmed.
    Confirmed {
        /// Its files.
        files: Vec<String>,
    },
    /// The change was reverted.
    Reverted {
        /// Its files.
        files: Vec<String>,
        /// Why.
        why: String,
    },
    /// Nothing is pending.
    Nothing,
    /// What was asked is not done.
    Refused {
        /// Why.
        why: String,
    },
}

/// Called with the files of a change that was reverted, and why.
pub type Tell = Box<dyn Fn(&[String], &str) + Send + Sync>;

/// Reverts what an earlier daemon left pending, before the policies are read; the files.
pub fn revert_left(dirs: &[PathBuf]) -> Vec<String> {
    let mut reverted = Vec::new();
    for dir in dirs {
        let left = Pending::left(dir).and_then(|left| {
            left.map(|left| left.revert().map(|()| left.names().map(str::to_owned).collect::<Vec<_>>()))
                .transpose()
        });
        match left {
            Ok(names) => reverted.extend(names.into_iter().flatten()),
            Err(error) => {
                tracing::error!(dir = %dir.display(), error = chain(&error), "a change that was not confirmed cannot be reverted");
            }
        }
    }
    if !reverted.is_empty() {
        tracing::warn!(
            files = reverted.join(", "),
            "reverted a change that was not confirmed: the daemon ended before"
        );
    }
    reverted
}

/// Changes of the first policy directory, one at a time.
pub struct Changes {
    dir: Option<PathBuf>,
    nudge: Arc<Notify>,
    tell: Tell,
    waiting: Mutex<Option<Waiting>>,
}

struct Waiting {
    pending: Pending,
    until: Instant,
    ended: watch::Sender<Option<Answer>>,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("dir", &self.dir).finish_non_exhaustive()
    }
}

fn refused(why: impl Into<String>) -> Answer {
    Answer::Refused { why: why.into() }
}

/// Why what the file replaces could not come back into force with the file: of one that has errors, or cannot be read, the
/// last good version is in force, and that is nowhere but in memory until another version comes.
fn not_to_come_back(dir: &Path, name: &str) -> Option<String> {
    let path = dir.join(name);
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        _ => {}
    }
    let what = match read(&path) {
        Ok(text) => format!("has errors: {}", parse(name, &text).errors.first()?),
        Err(error) => format!("cannot be read: {error}"),
    };
    Some(format!(
        "`{}` {what}; reverting would not bring back what is in force of it: mend or remove it first, or apply without \
         --confirm-within",
        path.display()
    ))
}

impl Changes {
    /// Of the first of these directories. `nudge` is notified when files have changed.
    #[must_use]
    pub fn new(dirs: &[PathBuf], nudge: Arc<Notify>, tell: Tell) -> Arc<Self> {
        Arc::new(Self { dir: dirs.first().cloned(), nudge, tell, waiting: Mutex::default() })
    }

    // after a panic of a holder what is in the directory is the truth, and the next start of the daemon reverts it
    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts files in place. Where they are to be confirmed, also what tells how that ends.
    fn apply(
        self: &Arc<Self>,
        files: &[NewFile],
        within: Option<Duration>,
    ) -> (Answer, Option<watch::Receiver<Option<Answer>>>) {
        let Some(dir) = &self.dir else {
            return (refused("the daemon has no policy directory (--policy-dir)"), None);
        };
        if within.is_some_and(|within| !WITHIN.contains(&within)) {
            return (refused("a change waits for 1 second to 1 hour"), None);
        }
        for file in files {
            if let Some(error) = parse(&file.name, &file.text).errors.first() {
                return (refused(format!("`{}` has errors: {error}", file.name)), None);
            }
        }
        if within.is_some()
            && let Some(why) = files.iter().find_map(|file| not_to_come_back(dir, &file.name))
        {
            return (refused(why), None);
        }
        let mut waiting = self.waiting();
        let result = match within {
            None => keep(dir, files).map(|()| (Answer::Applied { dir: dir.clone() }, None)),
            Some(within) => Pending::begin(dir, files).map(|pending| {
                let (ended, ends) = watch::channel(None);
                let until = Instant::now() + within;
                *waiting = Some(Waiting { pending, until, ended });
                let changes = Arc::clone(self);
                tokio::spawn(async move { changes.end_in_time(until).await });
                (Answer::Pending { dir: dir.clone() }, Some(ends))
            }),
        };
        match result {
            Ok(done) => {
                self.nudge.notify_one();
                let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
                tracing::info!(files = names.join(", "), ?within, "applied");
                done
            }
            Err(error) => (refused(chain(&error)), None),
        }
    }

    async fn end_in_time(&self, until: Instant) {
        sleep_until(until).await;
        loop {
            // another one may wait by now
            let due = self.waiting().as_ref().is_some_and(|waiting| waiting.until <= Instant::now());
            if !due {
                return;
            }
            match tokio::task::block_in_place(|| self.end(false, "it was not confirmed in time")) {
                Answer::Refused { why } => tracing::error!(why, "cannot revert; will try again"),
                _ => return,
            }
            sleep(AGAIN).await;
        }
    }

    /// Ends what is pending.
    fn end(&self, keep: bool, why: &str) -> Answer {
        let mut waiting = self.waiting();
        let Some(Waiting { pending, until, ended }) = waiting.as_ref() else { return Answer::Nothing };
        if keep && *until <= Instant::now() {
            return refused("it comes too late: the change is being reverted");
        }
        let done = if keep { pending.confirm() } else { pending.revert() };
        if let Err(error) = done {
            return refused(chain(&error));
        }
        let files: Vec<String> = pending.names().map(str::to_owned).collect();
        let answer = match keep {
            true => {
                tracing::info!(files = files.join(", "), "confirmed");
                Answer::Confirmed { files }
            }
            false => {
                tracing::warn!(files = files.join(", "), why, "reverted");
                (self.tell)(&files, why);
                Answer::Reverted { files, why: why.to_owned() }
            }
        };
        ended.send_replace(Some(answer.clone()));
        *waiting = None;
        drop(waiting);
        self.nudge.notify_one();
        answer
    }
}

/// The socket, open to callers. It goes when this is dropped.
#[derive(Debug)]
pub struct Desk(Socket);

impl Desk {
    /// Makes the socket.
    ///
    /// # Errors
    /// When it cannot be made, others could get at it, or somebody listens there.
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        Socket::open(path, "--admin-socket").map(Self)
    }

    /// Does what callers ask.
    pub async fn serve(self, changes: Arc<Changes>) {
        let places = Arc::new(Semaphore::new(CALLERS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let caller = self.0.accept().await;
            let changes = Arc::clone(&changes);
            tokio::spawn(async move {
                if let Err(problem) = talk(caller, changes).await {
                    tracing::warn!(problem, "a caller that asked for a change");
                }
                drop(place);
            });
        }
    }
}

async fn talk(caller: UnixStream, changes: Arc<Changes>) -> Result<(), String> {
    is_root(&caller)?;
    let (reads, mut writes) = caller.into_split();
    let mut reads = BufReader::new(reads.take(MAX_REQUEST));
    let request = timeout(PATIENCE, next(&mut reads)).await.map_err(|_| "sends no request")??;
    let Some(request) = request else { return Ok(()) };
    let (answer, ends) = tokio::task::block_in_place(|| match request {
        Request::Apply { files, confirm_within } => {
            changes.apply(&files, confirm_within.map(Duration::from_millis))
        }
        Request::Confirm => (changes.end(true, ""), None),
        Request::Revert => (changes.end(false, "that was asked for"), None),
    });
    send(&mut writes, &answer).await?;
    let Some(mut ends) = ends else { return Ok(()) };
    loop {
        tokio::select! {
            ended = ends.changed() => {
                let answer = ends.borrow().clone();
                return match (ended, answer) {
                    (Ok(()), Some(answer)) => send(&mut writes, &answer).await,
                    _ => Ok(()),
                };
            }
            request = next(&mut reads) => {
                let keep = match request? {
                    Some(Request::Confirm) => true,
                    Some(Request::Revert) => false,
                    Some(Request::Apply { .. }) => return Err("asks for another change before this one has ended".into()),
                    None => return Ok(()),
                };
                // it is this caller's change as long as that has not ended
                let over = ends.borrow().is_some(); // not within the call below, which tells how it ended
                if over {
                    continue;
                }
                let answer = tokio::task::block_in_place(|| changes.end(keep, "that was asked for"));
                if let Answer::Refused { .. } = answer {
                    send(&mut writes, &answer).await?;
                }
            }
        }
    }
}

/// The next request; `None`: the caller has gone.
async fn next(reads: &mut BufReader<Take<OwnedReadHalf>>) -> Result<Option<Request>, String> {
    let mut line = Vec::new();
    reads.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(|error| format!("no request: {error}"))
}

async fn send(writes: &mut tokio::net::unix::OwnedWriteHalf, answer: &Answer) -> Result<(), String> {
    let mut line = serde_json::to_vec(answer).map_err(|error| error.to_string())?;
    line.push(b'\n');
    let sent = timeout(PATIENCE, writes.write_all(&line)).await;
    sent.map_err(|_| "does not take the answer")?.map_err(|error| error.to_string())
}
