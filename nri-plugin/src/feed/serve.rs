//! Callers of the feed.

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
use super::service::{LogService, QUESTION};
use crate::exit::chain;
use crate::socket::Socket;

/// Connections at a time; more wait for their turn.
pub const CALLERS: usize = 16;
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
            let listener = listener.with_context(|| format!("cannot listen at `{at}` (--feed)"))?;
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
pub async fn serve(listener: Listener, feed: Arc<Feed>) {
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
        .add_service(LogService(feed))
        .serve_with_incoming(ReceiverStream::new(incoming));
    tokio::select! {
        () = accept(listener, taken) => {}
        ended = serving => {
            let why = ended.err().map_or_else(|| "by itself".into(), |error| chain(&error));
            tracing::error!(why, "the alert feed ended; enforcement goes on");
        }
    }
}

async fn accept(listener: Listener, taken: mpsc::Sender<std::io::Result<Caller>>) {
    let places = Arc::new(Semaphore::new(CALLERS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let peer = match &listener {
            Listener::Unix(socket) => Peer::Unix(socket.accept().await),
            Listener::Tcp(listener) => match listener.accept().await {
                Ok((stream, _)) => Peer::Tcp(stream),
                Err(error) => {
                    tracing::warn!(%error, "cannot take a caller of --feed");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            },
        };
        let taken = taken.clone();
        tokio::spawn(async move {
            if timeout(ASKING, peer.begins()).await.is_ok_and(|begun| begun) {
                let _ending = taken.send(Ok(Caller { peer, _place: place })).await;
            }
        });
    }
}

/// A connection, with the place that it takes.
struct Caller {
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

enum Peer {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Peer {
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
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Caller {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match &mut self.peer {
            Peer::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Peer::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Caller {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match &mut self.peer {
            Peer::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Peer::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.peer {
            Peer::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Peer::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.peer {
            Peer::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Peer::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
