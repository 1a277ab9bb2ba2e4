//! The socket at which the OCI hook asks whether a container may start. What is said there is
//! [`nri_enforcer_hook::message`]; whoever is not root is not listened to.
//!
//! Every question has an answer before the hook gives up, or none: then the hook fails the container.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use enforcer_core::enforce::ContainerId;
use nri_enforcer_hook::message::{Answer, Request, body_len};
use nri_enforcer_hook::state::Stage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::inject::Injection;
use crate::order::{Caller, Gated, Order};

/// The directory of the socket unless told otherwise; the daemon's own.
const DEFAULT_DIR: &str = "/run/nri-enforcer";
/// How long a caller may take to say what it wants.
const ASKING: Duration = Duration::from_millis(500);
/// How long any answer may take at most, whatever the patience of the caller.
const LONGEST: Duration = Duration::from_secs(5);
/// Callers at a time; more wait for their turn.
const CALLERS: usize = 64;
/// How long to wait before accepting again after that has failed (no descriptors left).
const AGAIN: Duration = Duration::from_millis(50);

/// Why there is no gate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// The socket cannot be made.
    #[error("cannot listen at `{}`", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others could get at the socket.
    #[error("`{}` must be a directory of root's alone: run `chown root` and `chmod 700` on it, or name a socket elsewhere with --gate-socket", path.display())]
    Directory {
        /// The directory of the socket.
        path: PathBuf,
    },
    /// Something else is there, or is in use.
    #[error("`{}` {what}", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
        /// Who has it, and what to do.
        what: &'static str,
    },
}

/// The gate, open to callers. The socket goes when it is dropped.
#[derive(Debug)]
pub struct Gate {
    listener: UnixListener,
    path: PathBuf,
}

impl Gate {
    /// Makes the socket, in a directory of root's alone. A socket that nobody listens at any more is replaced.
    ///
    /// # Errors
    /// When it cannot be made, others could get at it, or somebody listens there.
    pub fn open(path: &Path) -> Result<Self, GateError> {
        let fail = |source| GateError::Listen { path: path.to_owned(), source };
        let dir = path.parent().ok_or_else(|| fail(ErrorKind::InvalidInput.into()))?;
        own_directory(dir)
            .map_err(fail)?
            .then_some(())
            .ok_or_else(|| GateError::Directory { path: dir.to_owned() })?;
        let taken = |what| Err(GateError::Taken { path: path.to_owned(), what });
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
            Ok(about) if !about.file_type().is_socket() => {
                return taken("is there, and is no socket: remove it");
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => return taken("is in use: another nri-enforcer listens there"),
                // its daemon was killed
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(fail)?
                }
                Err(error) => return Err(fail(error)),
            },
        }
        let listener = UnixListener::bind(path).map_err(fail)?;
        let gate = Self { listener, path: path.to_owned() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
        Ok(gate)
    }

    /// Answers callers, by what the reconciler says. `synced` says whether the runtime has told what there is.
    /// `injection` learns that hooks are run.
    pub async fn serve(
        self,
        orders: Sender<Order>,
        synced: watch::Receiver<bool>,
        injection: Arc<Injection>,
    ) {
        let places = Arc::new(Semaphore::new(CALLERS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((caller, _)) => {
                    let (orders, synced, injection) =
                        (orders.clone(), synced.clone(), Arc::clone(&injection));
                    tokio::spawn(async move {
                        if let Err(problem) = attend(caller, &orders, synced, &injection).await {
                            tracing::warn!(problem, "a caller of the gate that makes no sense");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "cannot accept a caller of the gate");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}

/// Makes the directory, if there is none; whether it is root's alone. The default one is the daemon's, so it is shut.
fn own_directory(dir: &Path) -> std::io::Result<bool> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let about = std::fs::symlink_metadata(dir)?;
    if !about.is_dir() || about.uid() != nix::unistd::geteuid().as_raw() {
        return Ok(false);
    }
    if about.mode() & 0o077 != 0 && dir == Path::new(DEFAULT_DIR) {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
        return Ok(true);
    }
    Ok(about.mode() & 0o077 == 0)
}

/// Hears one caller out, and answers.
async fn attend(
    mut caller: UnixStream,
    orders: &Sender<Order>,
    synced: watch::Receiver<bool>,
    injection: &Injection,
) -> Result<(), String> {
    let begin = Instant::now();
    let peer = caller.peer_cred().map_err(|error| error.to_string())?;
    if peer.uid() != 0 {
        return Err(format!("user {}, not root", peer.uid()));
    }
    let asking = begin + ASKING;
    let request = match timeout_at(asking, read(&mut caller)).await {
        Ok(request) => request?,
        Err(_) => return Err("it does not say what it wants".into()),
    };
    let request = match Request::decode(&request) {
        Ok(request) => request,
        Err(problem) => {
            let reason = format!("the hook's message makes no sense: {problem}");
            answer(&mut caller, &Answer::Refused { reason }, asking).await;
            return Err(problem);
        }
    };
    // a fifth of the hook's patience is left for the way
    let patience = Duration::from_millis(request.patience_millis).mul_f32(0.8).min(LONGEST);
    let deadline = begin + patience;
    match request.stage {
        Stage::Poststop => {
            let id = ContainerId::new(request.id).map_err(|error| error.to_string())?;
            let _ending = orders.send(Order::Gone(id));
        }
        Stage::CreateRuntime => {
            let said = judge(request, orders, synced, injection, deadline).await;
            if let Answer::Refused { reason } = &said {
                tracing::error!(reason, "refused at the gate");
            }
            answer(&mut caller, &said, begin + LONGEST).await;
        }
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

/// A caller that does not hear the answer has given up, and has failed its container.
async fn answer(caller: &mut UnixStream, answer: &Answer, deadline: Instant) {
    let message = answer.encode();
    let _unheard = timeout_at(deadline, caller.write_all(&message)).await;
}

/// What the hook is answered.
async fn judge(
    request: Request,
    orders: &Sender<Order>,
    mut synced: watch::Receiver<bool>,
    injection: &Injection,
    deadline: Instant,
) -> Answer {
    let refused = |reason: String| Answer::Refused { reason };
    let who = format!("container `{}` of pod `{}/{}`", request.container, request.namespace, request.pod);
    let id = match ContainerId::new(request.id) {
        Ok(id) => id,
        Err(error) => return refused(format!("{who}: {error}")),
    };
    injection.started(&id);
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
            Ok(Ok(Gated::Armed)) => return Answer::Armed,
            Ok(Ok(Gated::Nothing)) => return Answer::Nothing,
            Ok(Ok(Gated::Refused(refusal))) => return refused(refusal.to_string()),
            // the runtime may tell about it in a moment, when the daemon has just started
            Ok(Ok(Gated::Unknown)) if !known_all => match timeout_at(deadline, synced.changed()).await {
                Ok(Ok(())) => {}
                _ => {
                    let why = "the daemon has no connection to the runtime's NRI (yet), so it does not know the container";
                    return refused(format!("{who}: {why}; is NRI on? then start the container again"));
                }
            },
            Ok(Ok(Gated::Unknown)) => {
                let why = "the runtime created it while the daemon was not connected, or without NRI";
                return refused(format!("{who}: {why}, so its labels are not known; create it again"));
            }
            Ok(Err(_)) => return refused(format!("{who}: the daemon is ending; start the container again")),
            Err(_) => return refused(format!("{who}: the kernel took too long; start the container again")),
        }
    }
}

#[cfg(test)]
mod tests;
