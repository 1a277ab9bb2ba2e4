//! The daemon's side: a socket at which whoever is root asks for a change, or about a container.
//!
//! A caller that looks on ([`Request::Top`]) may ask again and again, one that reads alerts ([`Request::Alerts`]) gets lines to the end. Any other one sends one [`Request`] as a line of JSON and gets one [`Answer`] likewise. Where that is [`Answer::Pending`]
//! another one follows when the change has ended, and the caller may send [`Request::Confirm`] or [`Request::Revert`]
//! meanwhile. That a caller goes changes nothing: the change ends in time, by a clock that nobody sets.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use enforcer_core::policy::PolicyId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Take};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::NewFile;
use super::changes::{Changes, Own};
use crate::diff::document as diff;
use crate::diff::node::Compared;
use crate::explain::document::{Query, Told};
use crate::explain::inquiry::{Inquired, Inquiry};
use crate::feed::Feed;
use crate::learn::serve::{Observatory, Wanted};
use crate::learn::wire::Report;
use crate::socket::{Socket, SocketError, is_root};
use crate::status::document::ContainerStatus;
use crate::top::document::Snapshot;
use crate::top::source::Source;

/// The longest request, in bytes.
const MAX_REQUEST: u64 = 64 << 20;
/// How long a caller may take for its request, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long who looks on may ask nothing: the kernel measures meanwhile. More than the longest interval of `top`.
const ONLOOKER: Duration = Duration::from_secs(180);
/// Callers at a time; more wait for their turn.
const CALLERS: usize = 16;
/// Of those that look on or watch, besides: they may stay, and must not keep a change from being confirmed. More are
/// refused.
const ONLOOKERS: usize = 8;
/// Of those that read alerts, besides. One that reads slowly, or not at all, keeps its place until it goes, and loses alerts.
const READERS: usize = 8;

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
    /// What has been counted. The kernel measures its programs from the first time until the caller goes.
    Top,
    /// What becomes of an access of a container.
    Explain {
        /// The access.
        query: Box<Query>,
    },
    /// What the policies of these files would alter.
    Diff {
        /// The files.
        files: Vec<NewFile>,
        /// Policies in force that would go.
        #[serde(default)]
        removed: Vec<PolicyId>,
        /// For containers of this namespace alone.
        #[serde(default)]
        namespace: Option<String>,
    },
    /// To be told what containers do, until the time is over or the caller sends no more.
    Watch(Wanted),
    /// To be told the last alerts, as lines after the answer.
    Alerts {
        /// And those that come from now on, until the caller goes.
        follow: bool,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "answer")]
pub enum Answer {
    /// The files are in the directory, for good.
    Applied {
        /// The directory.
        dir: PathBuf,
        /// What of them is not in force, and why.
        #[serde(default)]
        remarks: Vec<String>,
    },
    /// They are in the directory, and wait to be confirmed.
    Pending {
        /// The directory.
        dir: PathBuf,
        /// What of them is not in force, and why.
        #[serde(default)]
        remarks: Vec<String>,
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
    /// What becomes of an access.
    Explained {
        /// All that is told.
        told: Box<Told>,
    },
    /// What policies would alter.
    Compared {
        /// By container.
        containers: Vec<diff::Container>,
        /// What could not be found out; for people.
        #[serde(default)]
        notes: Vec<String>,
    },
    /// What has been counted.
    Counted {
        /// All of it.
        counted: Box<Snapshot>,
    },
    /// One of these containers is to be named; none: there is no such container.
    Choose {
        /// The containers.
        containers: Vec<ContainerStatus>,
    },
    /// Nothing is pending.
    Nothing,
    /// Containers are watched; these run already.
    Watching {
        /// Their ids.
        containers: Vec<String>,
    },
    /// How much was seen so far.
    Progress {
        /// Accesses.
        events: u64,
        /// Different ones.
        accesses: usize,
        /// Of so many containers.
        containers: usize,
    },
    /// Alerts follow, each a line as `run --alerts` writes it, to the end.
    Alerts {
        /// How many; `None`: those that come, too, and so any number.
        #[serde(default)]
        count: Option<usize>,
    },
    /// What was seen, at the end.
    Seen {
        /// All of it.
        report: Box<Report>,
    },
    /// What was asked is not done.
    Refused {
        /// Why.
        why: String,
    },
}

/// Who does what is asked. Clones are the same.
#[derive(Debug, Clone)]
pub struct Clerks {
    /// Changes of the policies.
    pub changes: Arc<Changes>,
    /// What becomes of accesses.
    pub inquiry: Arc<Inquiry>,
    /// What has been counted.
    pub source: Arc<Source>,
    /// What containers do.
    pub observatory: Arc<Observatory>,
    /// Alerts.
    pub feed: Arc<Feed>,
}

/// Places of callers that may stay.
#[derive(Debug, Clone)]
struct Seats {
    onlookers: Arc<Semaphore>,
    readers: Arc<Semaphore>,
}

impl Seats {
    fn new() -> Self {
        let [onlookers, readers] = [ONLOOKERS, READERS].map(|seats| Arc::new(Semaphore::new(seats)));
        Self { onlookers, readers }
    }

    /// One for whoever asks this, where it may stay; else nothing.
    fn take(&self, request: &Request) -> Result<Option<OwnedSemaphorePermit>, String> {
        let (seats, all, what) = match request {
            Request::Top | Request::Watch(_) => (&self.onlookers, ONLOOKERS, "look on"),
            Request::Alerts { .. } => (&self.readers, READERS, "read alerts"),
            _ => return Ok(None),
        };
        let taken = Arc::clone(seats).try_acquire_owned();
        taken.map(Some).map_err(|_| format!("{all} {what} already, and there is room for no more"))
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

    /// Does what callers ask, and what an earlier daemon left to do.
    pub async fn serve(self, clerks: Clerks) {
        let changes = Arc::clone(&clerks.changes);
        tokio::join!(changes.settle(), self.answer(clerks));
    }

    async fn answer(self, clerks: Clerks) {
        let (places, seats) = (Arc::new(Semaphore::new(CALLERS)), Seats::new());
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let caller = self.0.accept().await;
            let (clerks, seats) = (clerks.clone(), seats.clone());
            tokio::spawn(async move {
                if let Err(problem) = talk(caller, clerks, place, seats).await {
                    tracing::warn!(problem, "a caller at the admin socket");
                }
            });
        }
    }
}

/// Whoever may stay gives its place for a seat.
async fn talk(
    caller: UnixStream,
    clerks: Clerks,
    place: OwnedSemaphorePermit,
    seats: Seats,
) -> Result<(), String> {
    is_root(&caller)?;
    let Clerks { changes, inquiry, source, observatory, feed } = clerks;
    let (reads, mut writes) = caller.into_split();
    let mut reads = BufReader::new(reads.take(MAX_REQUEST));
    let request = timeout(PATIENCE, next(&mut reads)).await.map_err(|_| "sends no request")??;
    let Some(request) = request else { return Ok(()) };
    let _seat = match seats.take(&request) {
        Ok(seat) => seat.inspect(|_| drop(place)),
        Err(why) => return send(&mut writes, &Answer::Refused { why }).await,
    };
    let (answer, own) = match request {
        Request::Top => return look_on(&mut reads, &mut writes, &source).await,
        Request::Watch(wanted) => return watch(reads, writes, wanted, &observatory).await,
        Request::Alerts { follow } => return alerts(reads, writes, &feed, follow).await,
        Request::Explain { query } => (explain(&inquiry, &query).await, None),
        Request::Diff { files, removed, namespace } => {
            match inquiry.compare(&files, &removed, namespace.as_deref()).await {
                Ok(Compared { containers, notes }) => (Answer::Compared { containers, notes }, None),
                Err(why) => (Answer::Refused { why }, None),
            }
        }
        request => tokio::task::block_in_place(|| change(&changes, request)),
    };
    send(&mut writes, &answer).await?;
    let Some(Own { until, mut ends }) = own else { return Ok(()) };
    loop {
        tokio::select! {
            changed = ends.changed() => {
                let answer = changed.ok().and_then(|()| ends.borrow_and_update().clone());
                let Some(answer) = answer else { return Ok(()) };
                send(&mut writes, &answer).await?;
                // of what cannot be reverted now there is more to tell
                if !matches!(answer, Answer::Refused { .. }) {
                    return Ok(());
                }
            }
            request = next(&mut reads) => {
                let keep = match request? {
                    Some(Request::Confirm) => true,
                    Some(Request::Revert) => false,
                    Some(_) => return Err("asks for something else before its change has ended".into()),
                    None => return Ok(()),
                };
                // this caller's change alone; how that ends is told above
                let end = || changes.end(Some(until), keep, "that was asked for");
                let answer = tokio::task::block_in_place(end);
                if matches!(answer, Answer::Refused { .. }) && !ends.has_changed().unwrap_or_default() {
                    send(&mut writes, &answer).await?;
                }
            }
        }
    }
}

/// Tells what has been counted as often as that is asked.
async fn look_on(
    reads: &mut BufReader<Take<OwnedReadHalf>>,
    writes: &mut OwnedWriteHalf,
    source: &Source,
) -> Result<(), String> {
    let look = tokio::task::block_in_place(|| source.look());
    loop {
        let counted = tokio::task::block_in_place(|| source.snapshot(&look));
        send(writes, &Answer::Counted { counted: Box::new(counted) }).await?;
        let asked = timeout(ONLOOKER, next(reads)).await;
        match asked.map_err(|_| "looks on, and asks nothing any more")?? {
            Some(Request::Top) => {}
            Some(_) => return Err("looks on, and asks for something else".into()),
            None => return Ok(()),
        }
    }
}

async fn explain(inquiry: &Inquiry, query: &Query) -> Answer {
    match inquiry.explain(query).await {
        Ok(Inquired::Told(told)) => Answer::Explained { told },
        Ok(Inquired::Choose(containers)) => Answer::Choose { containers },
        Err(why) => Answer::Refused { why },
    }
}

/// Does what is asked; for what waits, how to see it end.
fn change(changes: &Arc<Changes>, request: Request) -> (Answer, Option<Own>) {
    match request {
        Request::Apply { files, confirm_within } => {
            changes.apply(&files, confirm_within.map(Duration::from_millis))
        }
        Request::Confirm => (changes.end(None, true, ""), None),
        Request::Revert => (changes.end(None, false, "that was asked for"), None),
        _ => (Answer::Refused { why: "that is no change".to_owned() }, None),
    }
}

/// Tells what containers do until the time is over, the caller has sent its end, or does not take what it is told.
async fn watch(
    mut reads: BufReader<Take<OwnedReadHalf>>,
    writes: OwnedWriteHalf,
    wanted: Wanted,
    observatory: &Arc<Observatory>,
) -> Result<(), String> {
    let ended = async {
        let _whatever = next(&mut reads).await;
    };
    let writes = Arc::new(tokio::sync::Mutex::new(writes));
    let tell = |answer: Answer| {
        let writes = Arc::clone(&writes);
        async move { send(&mut *writes.lock().await, &answer).await }
    };
    Arc::clone(observatory).watch(wanted, ended, tell).await
}

/// Tells the last alerts; with `follow` also those that come, until the caller goes. It may take its time: what it is too
/// slow for is lost, and told to it.
async fn alerts(
    mut reads: BufReader<Take<OwnedReadHalf>>,
    mut writes: OwnedWriteHalf,
    feed: &Arc<Feed>,
    follow: bool,
) -> Result<(), String> {
    if !follow {
        let lines = feed.last_lines();
        send(&mut writes, &Answer::Alerts { count: Some(lines.len()) }).await?;
        return take(&mut writes, &lines.concat()).await;
    }
    send(&mut writes, &Answer::Alerts { count: None }).await?;
    let mut lines = feed.follow_lines();
    loop {
        tokio::select! {
            line = lines.next() => match line {
                Some(line) => take(&mut writes, &line).await?,
                None => return Ok(()),
            },
            _gone = next(&mut reads) => return Ok(()),
        }
    }
}

/// Has the caller take alerts, however long that takes. That it goes is no trouble.
async fn take(writes: &mut OwnedWriteHalf, lines: &[u8]) -> Result<(), String> {
    match writes.write_all(lines).await {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
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

async fn send(writes: &mut OwnedWriteHalf, answer: &Answer) -> Result<(), String> {
    let mut line = serde_json::to_vec(answer).map_err(|error| error.to_string())?;
    line.push(b'\n');
    let sent = timeout(PATIENCE, writes.write_all(&line)).await;
    sent.map_err(|_| "does not take the answer")?.map_err(|error| error.to_string())
}
