//! The socket at which the OCI hook asks whether a container may start. What is said there is
//! [`nri_enforcer_hook::message`]; whoever is not root is not listened to.
//!
//! Every question has an answer before the hook gives up, or none: then the hook fails the container.

pub mod podman;
pub mod strangers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use enforcer_core::enforce::ContainerId;
use nri_enforcer_hook::message::{Answer, Request, body_len};
use nri_enforcer_hook::state::Stage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use self::podman::{Known, PodmanGate};
use crate::connection::Connection;
use crate::container::AWAIT_ADVICE;
use crate::inject::Injection;
use crate::metrics::{Metrics, Question};
use crate::order::{Caller, Gated, Order, Refusal};
use crate::socket::{Socket, SocketError, is_root};

/// How long a caller may take to say what it wants.
const ASKING: Duration = Duration::from_millis(500);
/// How long any answer may take at most, whatever the patience of the caller.
const LONGEST: Duration = Duration::from_secs(5);
/// Callers at a time; more wait for their turn.
const CALLERS: usize = 64;

/// The gate, open to callers. The socket goes when it is dropped.
pub struct Gate {
    socket: Socket,
    refused: Option<Refused>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Gate {
    /// Makes the socket.
    ///
    /// # Errors
    /// When it cannot be made, others could get at it, or somebody listens there.
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        Ok(Self { socket: Socket::open(path, "--gate-socket")?, refused: None })
    }

    /// The same, and `refused` is told of those who may not start.
    #[must_use]
    pub fn telling(self, refused: Option<Refused>) -> Self {
        Self { refused, ..self }
    }

    /// Answers callers, by what the reconciler says, and `given`. `connection` says whether what there is is known.
    /// `injection` learns that hooks are run.
    pub async fn serve(
        self,
        orders: Sender<Order>,
        connection: Connection,
        injection: Arc<Injection>,
        given: Given,
        podman: Arc<PodmanGate>,
        metrics: Metrics,
    ) {
        let refused = self.refused;
        let asked = Asked { orders, connection, injection, given, podman, metrics, refused };
        let places = Arc::new(Semaphore::new(CALLERS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let caller = self.socket.accept().await;
            let asked = asked.clone();
            tokio::spawn(async move {
                if let Err(problem) = attend(caller, &asked).await {
                    tracing::warn!(problem, "a caller of the gate that makes no sense");
                }
                drop(place);
            });
        }
    }
}

/// Whom the gate asks.
#[derive(Clone)]
struct Asked {
    orders: Sender<Order>,
    connection: Connection,
    injection: Arc<Injection>,
    given: Given,
    podman: Arc<PodmanGate>,
    metrics: Metrics,
    refused: Option<Refused>,
}

/// Is told who asked and was refused, and why. Must not wait.
pub type Refused = Arc<dyn Fn(&Request, &str) + Send + Sync>;

/// Whether a container that a runtime has told about was given the profile of its seccomp policies.
pub type Given = Arc<dyn Fn(&ContainerId) -> Result<(), Refusal> + Send + Sync>;

/// Hears one caller out, and answers.
async fn attend(mut caller: UnixStream, asked: &Asked) -> Result<(), String> {
    let begin = Instant::now();
    is_root(&caller)?;
    let mut question = Question { stage: "unknown", answer: "none" };
    let result = answer_one(&mut caller, asked, begin, &mut question).await;
    asked.metrics.questions.get_or_create(&question).observe(begin.elapsed().as_secs_f64());
    result
}

/// The same, and says in `question` what was asked and answered.
async fn answer_one(
    caller: &mut UnixStream,
    asked: &Asked,
    begin: Instant,
    question: &mut Question,
) -> Result<(), String> {
    let asking = begin + ASKING;
    let request = match timeout_at(asking, read(caller)).await {
        Ok(request) => request?,
        Err(_) => return Err("it does not say what it wants".into()),
    };
    let request = match Request::decode(&request) {
        Ok(request) => request,
        Err(problem) => {
            let reason = format!("the hook's message makes no sense: {problem}");
            question.answer = "refused";
            answer(caller, &Answer::Refused { reason }, asking).await;
            return Err(problem);
        }
    };
    // a fifth of the hook's patience is left for the way
    let patience = Duration::from_millis(request.patience_millis).mul_f32(0.8).min(LONGEST);
    let deadline = begin + patience;
    question.stage = match request.stage {
        Stage::Poststop => "poststop",
        Stage::Precreate => "precreate",
        Stage::CreateRuntime => "create_runtime",
    };
    let id = ContainerId::new(request.id.clone());
    let said = match request.stage {
        Stage::Poststop => {
            let id = id.map_err(|error| error.to_string())?;
            let _ending = asked.orders.send(Order::Gone(id));
            return Ok(());
        }
        Stage::Precreate => adjustment(request, asked, deadline).await.unwrap_or_else(|answer| answer),
        Stage::CreateRuntime => {
            let told = asked.refused.as_ref().map(|refused| (refused, request.clone()));
            let said = judge(request, asked, deadline).await;
            if let Answer::Refused { reason } = &said {
                tracing::error!(reason, "refused at the gate");
                told.iter().for_each(|(refused, request)| refused(request, reason));
            }
            said
        }
    };
    question.answer = match &said {
        Answer::Armed => "armed",
        Answer::Nothing => "nothing",
        Answer::Refused { .. } => "refused",
        Answer::Adjust(_) => "adjusted",
    };
    let heard = answer(caller, &said, begin + LONGEST).await;
    // it may have begun before it was armed
    if let (false, Answer::Armed, Ok(id)) = (heard, said, id) {
        let _ending = asked.orders.send(Order::Unheard(id));
    }
    Ok(())
}

async fn read(caller: &mut UnixStream) -> Result<Vec<u8>, String> {
    let mut head = [0; 4];
    caller.read_exact(&mut head).await.map_err(|error| error.to_string())?;
    let mut body = vec![0; body_len(head)?];
    caller.read_exact(&mut body).await.map_err(|error| error.to_string())?;
    Ok(body)
}

/// Whether the caller can hear it. One that does not has given up: it has failed its container, or lets it start where its
/// mode is `open`.
async fn answer(caller: &mut UnixStream, answer: &Answer, deadline: Instant) -> bool {
    let message = answer.encode();
    matches!(timeout_at(deadline, caller.write_all(&message)).await, Ok(Ok(())))
}

/// What is to be changed in the configuration of a container of podman's.
///
/// # Errors
/// The answer, where that need not or cannot be known.
async fn adjustment(request: Request, asked: &Asked, deadline: Instant) -> Result<Answer, Answer> {
    let container = identify(asked, &request, deadline).await?;
    let late = late(&request, "its profile was not made in time");
    let wanted = move |podman: &PodmanGate| podman.precreate(&container, &request);
    with_podman(&asked.podman, deadline, wanted).await.ok_or(late)
}

/// Who the container of podman's is. Only one caller's question reads podman's files at a time, also when the caller has
/// given up: they may be large, and the disk may hang.
///
/// # Errors
/// What to answer where that need not or cannot be known.
async fn identify(asked: &Asked, request: &Request, deadline: Instant) -> Known {
    let late = late(request, "podman's files could not be read in time");
    let turn = timeout_at(deadline, Arc::clone(&asked.podman.reading).acquire_owned()).await;
    let not_in_time = || asked.podman.not_known(request, "podman's files could not be read in time");
    let Ok(Ok(turn)) = turn else {
        not_in_time();
        return Err(late);
    };
    let asking = request.clone();
    let reading = move |podman: &PodmanGate| {
        let known = podman.identify(&asking);
        drop(turn);
        known
    };
    let known = with_podman(&asked.podman, deadline, reading).await;
    known.unwrap_or_else(|| {
        not_in_time();
        Err(late)
    })
}

fn late(request: &Request, why: &str) -> Answer {
    Answer::Refused { reason: format!("container `{}`: {why}; start the container again", request.id) }
}

/// Does what may take as long as the disk does, aside; `None`: it takes too long, or the daemon is ending.
async fn with_podman<T: Send + 'static>(
    podman: &Arc<PodmanGate>,
    deadline: Instant,
    work: impl FnOnce(&PodmanGate) -> T + Send + 'static,
) -> Option<T> {
    let podman = Arc::clone(podman);
    let working = tokio::task::spawn_blocking(move || work(&podman));
    timeout_at(deadline, working).await.ok()?.ok()
}

/// What the hook is answered.
async fn judge(request: Request, asked: &Asked, deadline: Instant) -> Answer {
    let Asked { orders, injection, .. } = asked;
    let mut synced = asked.connection.synced.clone();
    let refused = |reason: String| Answer::Refused { reason };
    let podmans = match request.podman {
        true => match identify(asked, &request, deadline).await {
            Ok(container) => Some(container),
            Err(answer) => return answer,
        },
        false => None,
    };
    if let Some(container) = &podmans {
        asked.podman.begins(container);
        // also what is refused here: where the hook's mode is `open` it runs, and is to be known then
        let _ending = orders.send(Order::Created(Arc::clone(container)));
        if let Err(answer) = asked.podman.create(container, &request) {
            return answer;
        }
    }
    let who = format!("container `{}` of pod `{}/{}`", request.container, request.namespace, request.pod);
    let id = match ContainerId::new(request.id) {
        Ok(id) => id,
        Err(error) => return refused(format!("{who}: {error}")),
    };
    injection.created(&id);
    let caller = Caller {
        id,
        pid: request.pid,
        root: request.root.map(PathBuf::from),
        root_inode: request.root_inode,
        namespace: request.namespace,
    };
    loop {
        let known_all = *synced.borrow_and_update();
        let (reply, answer) = oneshot::channel();
        if orders.send(Order::Gate { caller: caller.clone(), reply }).is_err() {
            return refused(format!("{who}: the daemon is ending; start the container again"));
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(gated @ (Gated::Armed | Gated::Nothing))) => match podmans {
                // whether it has its profile was looked at above
                Some(_) if matches!(gated, Gated::Armed) => return Answer::Armed,
                Some(container) => {
                    // nobody else tells that it starts; a later policy may select it
                    let _ending = orders.send(Order::Started { container, pid: caller.pid });
                    return Answer::Nothing;
                }
                None => match (asked.given)(&caller.id) {
                    Ok(()) if matches!(gated, Gated::Armed) => return Answer::Armed,
                    Ok(()) => return Answer::Nothing,
                    // what it was created with is noted a moment later than that it is there
                    Err(_) if !known_all && told_later(&mut synced, deadline).await => {}
                    Err(refusal) => return refused(refusal.to_string()),
                },
            },
            Ok(Ok(Gated::Refused(refusal))) => return refused(refusal.to_string()),
            Ok(Ok(Gated::Awaits(why))) => return refused(format!("{who}: {why}; {AWAIT_ADVICE}")),
            // nobody will ever tell about it
            Ok(Ok(Gated::Unknown)) if asked.connection.is_without_nri() => {
                let why = "this node has no NRI by configuration (--nri-socket none), so the labels of its pod are not known, and \
                           policies reach its namespace";
                return refused(format!(
                    "{who}: {why}; connect the daemon to the runtime's NRI, or exempt the namespace"
                ));
            }
            // the runtime may tell about it in a moment, when the daemon has just started
            Ok(Ok(Gated::Unknown)) if !known_all => {
                if !told_later(&mut synced, deadline).await {
                    let why = "the daemon has no connection to the runtime's NRI (yet), so it does not know the container";
                    return refused(format!("{who}: {why}; is NRI on? then start the container again"));
                }
            }
            Ok(Ok(Gated::Unknown)) => {
                let why = "the runtime created it while the daemon was not connected, or without NRI";
                return refused(format!("{who}: {why}, so its labels are not known; create it again"));
            }
            Ok(Err(_)) => return refused(format!("{who}: the daemon is ending; start the container again")),
            Err(_) => return refused(format!("{who}: the kernel took too long; start the container again")),
        }
    }
}

/// Waits until the runtime has told what there is, as long as an answer is of use.
async fn told_later(synced: &mut watch::Receiver<bool>, deadline: Instant) -> bool {
    matches!(timeout_at(deadline, synced.changed()).await, Ok(Ok(())))
}

#[cfg(test)]
pub(crate) mod tests;
