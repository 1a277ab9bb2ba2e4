//! Callers of the feed.

use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::ServingStatus;

use super::Feed;
use super::address::Address;
use super::peers::{Peer, Peers, Share};
use super::service::{LogService, QUESTION};
use crate::exit::chain;
use crate::parts::Ended;
use crate::socket::Socket;

/// Connections at a time; more wait for their turn.
pub const CALLERS: usize = 16;
/// How many of them one address of the network may have. Further ones are hung up on.
const OF_ONE: usize = 4;
/// Streams of a connection at a time.
const STREAMS: u32 = 8;
/// What a caller may send that was not read yet, in bytes.
const WINDOW: u32 = 64 << 10;
/// A connection that is silent for so long is asked whether somebody is there, and closed when nobody answers in `ANSWER`.
const SILENT: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(10);
/// How long a caller may take to begin: the length of what HTTP/2 begins with, and how often that is looked for.
const ASKING: Duration = Duration::from_secs(5);
const PREFACE: usize = 24;
const LITTLE: Duration = Duration::from_millis(20);
/// How long to wait before accepting again after that has failed (no descriptors left).
const AGAIN: Duration = Duration::from_millis(200);

/// Where the feed listens. A socket of the file system goes when this is dropped.
#[derive(Debug)]
pub enum Listener {
    /// Of the network.
    Tcp(TcpListener),
    /// Of the file system.
    Unix(Socket),
}

/// Listens.
///
/// # Errors
/// When that is not possible; the text names the flag.
pub async fn open(address: &Address) -> anyhow::Result<Listener> {
    let listener = match address {
        Address::Tcp(at) => {
            let listener = TcpListener::bind(at).await;
            let listener = listener.map_err(|error| match error.kind() {
                ErrorKind::AddrInUse => anyhow::anyhow!(
                    "cannot listen at `{at}` (--feed): somebody does already, as KubeArmor does at 32767; name another port, or end \
                     the other one"
                ),
                _ => anyhow::Error::new(error).context(format!("cannot listen at `{at}` (--feed)")),
            })?;
            let address = listener.local_addr().context("the address of --feed")?;
            tracing::info!(%address, "serving alerts by gRPC, in plain text and to whoever asks");
            Listener::Tcp(listener)
        }
        Address::Unix(path) => {
            let socket = Socket::open(path, "--feed")?;
            tracing::info!(%address, "serving alerts by gRPC");
            Listener::Unix(socket)
        }
    };
    Ok(listener)
}

/// Serves callers until it is dropped. Nobody else waits for them.
///
/// # Errors
/// Why nobody is served any more.
pub async fn serve(listener: Listener, feed: Arc<Feed>) -> Ended {
    let (taken, incoming) = mpsc::channel(1);
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in ["", LogService::NAME] {
        reporter.set_service_status(service, ServingStatus::Serving).await;
    }
    let serving = Server::builder()
        .max_concurrent_streams(STREAMS)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .http2_keepalive_interval(Some(SILENT))
        .http2_keepalive_timeout(Some(ANSWER))
        .add_service(health.max_decoding_message_size(QUESTION))
        .add_service(LogService(Arc::clone(&feed)))
        .serve_with_incoming(ReceiverStream::new(incoming));
    tokio::select! {
        () = accept(listener, taken, &feed) => Ok(()),
        ended = serving => ended.map_err(|error| chain(&error)),
    }
}

async fn accept(listener: Listener, taken: mpsc::Sender<std::io::Result<Caller>>, feed: &Feed) {
    let (places, peers) = (Arc::new(Semaphore::new(CALLERS)), Peers::default());
    let mut full = false; // and that was said
    loop {
        let place = if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            full = false;
            place
        } else {
            if !std::mem::replace(&mut full, true) {
                tracing::warn!(
                    connections = CALLERS,
                    "all connections of the alert feed are taken; further callers wait until one ends"
                );
            }
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            place
        };
        let (stream, peer) = match &listener {
            Listener::Unix(socket) => (Channel::Unix(socket.accept().await), Peer(None)),
            Listener::Tcp(listener) => match listener.accept().await {
                Ok((stream, from)) => (Channel::Tcp(stream), Peer(Some(from.ip().to_canonical()))),
                Err(error) => {
                    tracing::warn!(%error, "cannot take a caller of --feed");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            },
        };
        let Some(share) = peers.take(peer, OF_ONE) else {
            feed.refuse();
            continue;
        };
        let taken = taken.clone();
        tokio::spawn(async move {
            if timeout(ASKING, stream.begins()).await.is_ok_and(|begun| begun) {
                let _ending = taken.send(Ok(Caller { stream, peer, _held: (place, share) })).await;
            }
        });
    }
}

/// A connection, with the place that it takes.
struct Caller {
    stream: Channel,
    peer: Peer,
    _held: (OwnedSemaphorePermit, Share),
}

enum Channel {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Channel {
    /// Waits until the caller has said that it speaks HTTP/2; from there on the server looks after it. False: it hung up.
    async fn begins(&self) -> bool {
        let Self::Tcp(stream) = self else { return true }; // root may take all places
        let mut preface = [0; PREFACE];
        loop {
            match stream.peek(&mut preface).await {
                Ok(PREFACE) => return true,
                Ok(0) | Err(_) => return false,
                Ok(_) => tokio::time::sleep(LITTLE).await,
            }
        }
    }
}

impl Connected for Caller {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Caller {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match &mut self.stream {
            Channel::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Channel::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Caller {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match &mut self.stream {
            Channel::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Channel::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.stream {
            Channel::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Channel::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.stream {
            Channel::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Channel::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
