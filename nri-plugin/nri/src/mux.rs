//! Several connections over one stream, the trunk.
//!
//! A frame is a header of two big-endian `u32`, connection id and payload length, and the payload. There is no
//! opening, no closing and no credit: an id is simply used, and the end of the trunk ends everything. To us each
//! connection is a stream of bytes. To a runtime written in Go it is not: its reader hands out one frame per read,
//! and a frame that is larger than the buffer it reads into (4096 bytes, unless it is in the middle of a message)
//! kills the connection, so that the runtime goes on without the plugin. Hence the [writer's rule](write).

mod read;
pub(crate) mod write;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, split};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

pub(crate) use write::Framing;

/// The plugin's service: the runtime calls, the plugin answers.
pub(crate) const PLUGIN: u32 = 1;
/// The runtime's service: the plugin calls, the runtime answers.
pub(crate) const RUNTIME: u32 = 2;

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 8;

/// Largest payload taken in: what NRI up to 0.6 may send. Later versions split at 4 MiB and 10 bytes.
pub(crate) const MAX_RECEIVED: usize = 16 << 20;

/// Bytes that a connection holds in each direction before its writer must wait.
const BUFFER: usize = 64 << 10;

/// How long one connection that is not read may hold up the others before the trunk is given up.
const STALL: Duration = Duration::from_secs(1);

/// Why a trunk ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MuxError {
    /// The peer closed it between two frames.
    #[error("the peer closed the trunk")]
    Closed,
    /// The peer closed it within a frame.
    #[error("the trunk ended within a frame")]
    Truncated,
    /// A frame claims more than anybody sends.
    #[error(
        "frame of {length} bytes on connection {connection}, more than the {MAX_RECEIVED} that NRI allows"
    )]
    Oversized { connection: u32, length: usize },
    /// A connection took nothing for [`STALL`] while more arrived for it.
    #[error("connection {connection} was not read for {STALL:?}")]
    Stalled { connection: u32 },
    /// A message of our own is larger than ttrpc's limit.
    #[error("message of {length} bytes on connection {connection}, more than ttrpc allows")]
    Unsendable { connection: u32, length: usize },
    /// One of our own ends went away.
    #[error("connection {connection} ended")]
    ConnectionEnded { connection: u32 },
    /// The system's error.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A running trunk. Dropping it closes the trunk and every connection on it.
#[derive(Debug)]
pub(crate) struct Mux {
    tasks: JoinSet<MuxError>,
}

impl Mux {
    /// Runs connections with the given ids over `trunk`, and gives the ends to talk through, in the same order.
    /// Frames for other ids are dropped and counted in `dropped`.
    pub(crate) fn start<T>(
        trunk: T,
        ids: &[u32],
        framing: Framing,
        dropped: Arc<AtomicU64>,
    ) -> (Self, Vec<DuplexStream>)
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (trunk_reader, trunk_writer) = split(trunk);
        // The lock is fair: connections with much to say take turns, message by message.
        let trunk_writer = Arc::new(Mutex::new(trunk_writer));
        let mut tasks = JoinSet::new();
        let mut inbound = HashMap::new();
        let mut ends = Vec::new();
        for &id in ids {
            let (ours, theirs) = tokio::io::duplex(BUFFER);
            let (from_connection, to_connection) = split(ours);
            inbound.insert(id, to_connection);
            tasks.spawn(write::run(id, from_connection, Arc::clone(&trunk_writer), framing));
            ends.push(theirs);
        }
        tasks.spawn(read::run(trunk_reader, inbound, dropped));
        (Self { tasks }, ends)
    }

    /// Waits for the end of the trunk. Afterwards every connection is closed.
    pub(crate) async fn ended(&mut self) -> MuxError {
        let first = self.tasks.join_next().await;
        self.tasks.shutdown().await;
        match first {
            Some(Ok(error)) => error,
            Some(Err(error)) => MuxError::Io(io::Error::other(error)),
            None => MuxError::Closed,
        }
    }
}

#[cfg(test)]
mod tests;
