//! One connection after another.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::UnixStream;
use ttrpc::asynchronous::transport::{Listener, Socket};
use ttrpc::asynchronous::{Client, Server};

use crate::event::EventMask;
use crate::handle::{Shared, count};
use crate::link::{Link, Progress};
use crate::mux::{self, Mux, MuxError};
use crate::plugin::Plugin;
use crate::preinstalled;
use crate::proto::{api, api_ttrpc};
use crate::service::Service;
use crate::state::{Lost, State};
use crate::stub::{Error, StubBuilder};
use crate::version::NriVersion;

/// First pause that is one; the first try after a loss comes at once.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause while nobody listens: asking costs next to nothing, and what starts meanwhile starts without us.
const LISTEN_PAUSE: Duration = Duration::from_millis(200);

/// How long a shutdown waits for the answers to what was asked before it; above any handler's time under the usual limit.
const LAST_ANSWER: Duration = Duration::from_secs(3);

/// How long the last answer takes to be written.
const FAREWELL: Duration = Duration::from_millis(20);

/// A connection that was in service for so long makes a later loss the first one again.
const GOOD: Duration = Duration::from_secs(1);

/// How long the runtime gets to read an error before we hang up.
const GRACE: Duration = Duration::from_millis(500);

/// How a connection ended.
enum End {
    Shutdown,
    Lost {
        reason: Lost,
        /// The runtime hung up on our subscription, and may have done so because of it.
        cautious: bool,
        /// Since when it was in service, if it was.
        served: Option<Instant>,
    },
}

/// What a trunk can be: a socket, or any other two-way stream.
pub(crate) trait Trunk: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Trunk for T {}

/// Serves until `shutdown`, over the `given` trunk until that ends or, without one, over one connection after another.
pub(crate) async fn serve(
    mut options: StubBuilder,
    shared: Arc<Shared>,
    plugin: Arc<dyn Plugin>,
    given: Option<Box<dyn Trunk>>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let mut shutdown = std::pin::pin!(shutdown);
    let mut given = match given {
        Some(given) => Some(given),
        None => preinstalled::take(&mut options)?.map(boxed),
    };
    let reconnect = options.reconnect && given.is_none();
    let mut attempt = 0_u32;
    let mut cautious = false;
    let mut told = None;
    loop {
        attempt = attempt.saturating_add(1);
        shared.state.send_replace(State::Connecting { attempt });
        let trunk = match given.take() {
            Some(trunk) => Ok(trunk),
            None => tokio::select! {
                biased;
                () = &mut shutdown => break,
                trunk = UnixStream::connect(&options.socket) => trunk.map(boxed),
            },
        };
        let (reason, longest) = match trunk {
            Err(error) => {
                let socket = options.socket.display().to_string();
                let reason = Lost::Connect { socket, why: error.to_string() };
                (reason, LISTEN_PAUSE.min(options.longest_pause))
            }
            Ok(trunk) => {
                count(&shared.counters.connections);
                let end = connection(&options, &shared, &plugin, trunk, cautious, shutdown.as_mut()).await;
                match end {
                    End::Shutdown => break,
                    End::Lost { reason, cautious: again_cautiously, served } => {
                        cautious = again_cautiously;
                        if served.is_some() {
                            told = None;
                        }
                        if served.is_some_and(|since| since.elapsed() >= GOOD) {
                            attempt = 0;
                        }
                        (reason, options.longest_pause)
                    }
                }
            }
        };
        let pause = pause(attempt, longest);
        // Once per reason, and not several times a second while there is no runtime.
        if told.as_ref() == Some(&reason) {
            tracing::debug!(%reason, ?pause, attempt, "still not connected");
        } else {
            tracing::warn!(%reason, reconnect, "not connected");
            told = Some(reason.clone());
        }
        shared
            .state
            .send_replace(State::Lost { reason: reason.clone(), retry_in: reconnect.then_some(pause) });
        if !reconnect {
            return Err(Error::Lost(reason));
        }
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    shared.state.send_replace(State::Stopped);
    Ok(())
}

fn boxed(trunk: UnixStream) -> Box<dyn Trunk> {
    Box::new(trunk)
}

/// Pause after the `attempt`-th try in a row: none after the first, then doubling up to `longest`, each shortened by up
/// to half by chance so that the plugins of a node do not come in step.
fn pause(attempt: u32, longest: Duration) -> Duration {
    let Some(doublings) = attempt.checked_sub(2) else {
        return Duration::ZERO;
    };
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    let whole = FIRST_PAUSE.saturating_mul(factor).min(longest);
    let chance = u32::try_from(RandomState::new().hash_one(attempt) % 512).unwrap_or_default();
    whole.saturating_sub(whole * chance / 1024)
}

/// One connection, from the trunk to its end.
async fn connection(
    options: &StubBuilder,
    shared: &Arc<Shared>,
    plugin: &Arc<dyn Plugin>,
    trunk: Box<dyn Trunk>,
    cautious: bool,
    mut shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> End {
    let dropped = Arc::clone(&shared.counters.frames_dropped);
    let (mut mux, ends) = Mux::start(trunk, &[mux::PLUGIN, mux::RUNTIME], options.framing, dropped);
    let Ok([plugin_end, runtime_end]) = <[DuplexStream; 2]>::try_from(ends) else {
        return lost(Lost::Broken("the multiplexer gave no connections".to_owned()));
    };
    let client = api_ttrpc::RuntimeClient::new(Client::new(Socket::new(runtime_end)));
    let link =
        Arc::new(Link::new(Arc::clone(plugin), Arc::clone(shared), options.events, cautious, client.clone()));
    let service: Arc<dyn api_ttrpc::Plugin + Send + Sync> = Arc::new(Service(Arc::clone(&link)));
    // Dropping the server stops it and ends its connection.
    let mut server = Server::new()
        .add_listener(Listener::new(Once(Some(plugin_end))))
        .register_service(api_ttrpc::create_plugin(service));
    if let Err(error) = server.start().await {
        return lost(Lost::Broken(error.to_string()));
    }

    let request = api::RegisterPluginRequest {
        plugin_name: options.name.clone(),
        plugin_idx: options.index.clone(),
        NRI_version: format!("v{}", NriVersion::OURS),
        ..Default::default()
    };
    let mut served = None;
    let reason = {
        let register =
            client.register_plugin(ttrpc::context::with_duration(options.register_timeout), &request);
        let mut register = std::pin::pin!(register);
        let mut ended = std::pin::pin!(mux.ended());
        let mut failed = std::pin::pin!(link.failed());
        let mut state = shared.state.subscribe();
        let mut synchronized = std::pin::pin!(async { drop(state.wait_for(State::is_synchronized).await) });
        let mut registered = false;
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => {
                    // Hanging up on a request would let its container through: answer first.
                    let answered = async {
                        link.idle().await;
                        tokio::time::sleep(FAREWELL).await;
                    };
                    tokio::select! {
                        _ = tokio::time::timeout(LAST_ANSWER, answered) => {}
                        _ = &mut ended => {}
                    }
                    link.end();
                    return End::Shutdown;
                }
                reason = &mut failed => {
                    // The runtime hangs up by itself once it has read our error.
                    let _ = tokio::time::timeout(GRACE, &mut ended).await;
                    break reason;
                }
                answer = &mut register, if !registered => match answer {
                    Ok(_) => registered = true,
                    Err(ttrpc::Error::RpcStatus(status)) => break Lost::Register(status.message),
                    // No answer is how a closed connection looks from here.
                    Err(error) => break tokio::time::timeout(GRACE, &mut ended)
                        .await
                        .map_or_else(|_| Lost::Register(error.to_string()), loss),
                },
                error = &mut ended => break loss(error),
                () = &mut synchronized, if served.is_none() => served = Some(Instant::now()),
            }
        }
    };
    link.end();
    let unstated = link.runtime().is_some_and(|runtime| {
        !runtime.nri_version_stated && !(runtime.events - EventMask::OLDEST).is_empty()
    });
    let cautious = unstated && link.progress() == Progress::Configured;
    End::Lost { reason, cautious, served }
}

fn lost(reason: Lost) -> End {
    End::Lost { reason, cautious: false, served: None }
}

/// A multiplexer's end as others see it.
fn loss(error: MuxError) -> Lost {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match error {
        MuxError::Closed => Lost::Closed,
        MuxError::Io(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => Lost::Closed,
        error => Lost::Broken(error.to_string()),
    }
}

/// A listener that has one connection and never another. It does not end, for that would stop the server.
pub(crate) struct Once(pub(crate) Option<DuplexStream>);

impl futures_core::Stream for Once {
    type Item = io::Result<DuplexStream>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        match self.0.take() {
            Some(connection) => Poll::Ready(Some(Ok(connection))),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let longest = Duration::from_secs(3);
        assert_eq!(pause(1, longest), Duration::ZERO);
        for attempt in 2..200 {
            let pause = pause(attempt, longest);
            assert!(pause <= longest && pause >= FIRST_PAUSE / 2, "{attempt}: {pause:?}");
        }
        assert!(pause(60, longest) >= longest / 2);
        assert!((0..100).map(|_| pause(60, longest)).collect::<std::collections::HashSet<_>>().len() > 1);
    }
}
