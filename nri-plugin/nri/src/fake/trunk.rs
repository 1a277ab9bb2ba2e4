//! The trunk as a runtime written in Go reads it: by frames, not by bytes.
//!
//! The rules are those of NRI's multiplexer under ttrpc's buffered reader: a read hands out one whole frame and fails
//! if the frame is larger than the buffer it reads into, which is 4096 bytes unless more than that is still missing of a
//! message; a connection's queue holds 256 frames, and one more ends the trunk.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, split};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;

use crate::mux::{Framing, write};

/// Frames that a connection's queue holds.
pub(crate) const QUEUE: usize = 256;

/// The buffer of the reader.
pub(crate) const BUFFER: usize = 4096;

/// Bytes of a ttrpc header.
const MESSAGE_HEADER: usize = 10;

/// Why the runtime's side gave up the trunk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrunkError {
    /// The plugin closed it.
    #[error("the plugin closed the trunk")]
    Closed,
    /// A frame did not fit the buffer it was read into.
    #[error("cannot allocate memory: frame of {frame} bytes, buffer of {buffer}")]
    NoMemory {
        /// Bytes of the frame.
        frame: usize,
        /// Bytes of the buffer.
        buffer: usize,
    },
    /// More frames than the queue holds.
    #[error("failed to queue payload for reading: {QUEUE} frames are waiting on connection {connection}")]
    QueueFull {
        /// The connection.
        connection: u32,
    },
    /// A request whose stream id is even or not above the one before it.
    #[error("invalid stream id {0}")]
    StreamId(u32),
    /// A frame without a payload, which no well-behaved peer sends.
    #[error("empty frame")]
    EmptyFrame,
    /// The system's words.
    #[error("{0}")]
    Io(String),
}

/// One connection's frames, in order.
pub(crate) struct GoReader {
    frames: mpsc::Receiver<Vec<u8>>,
    buffered: Vec<u8>,
}

impl GoReader {
    pub(crate) fn new(frames: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { frames, buffered: Vec::new() }
    }

    /// One read of the connection below the buffer.
    async fn frame(&mut self, buffer: usize) -> Result<Vec<u8>, TrunkError> {
        let frame = self.frames.recv().await.ok_or(TrunkError::Closed)?;
        match frame.len() {
            0 => Err(TrunkError::EmptyFrame),
            length if length > buffer => Err(TrunkError::NoMemory { frame: length, buffer }),
            _ => Ok(frame),
        }
    }

    /// Reads until `length` bytes are there, as a buffered reader does: what is asked for in larger pieces than the
    /// buffer goes past it.
    async fn read_full(&mut self, length: usize) -> Result<Vec<u8>, TrunkError> {
        let mut out = Vec::new();
        while out.len() < length {
            let missing = length.saturating_sub(out.len());
            if self.buffered.is_empty() {
                if missing >= BUFFER {
                    out.extend(self.frame(missing).await?);
                    continue;
                }
                self.buffered = self.frame(BUFFER).await?;
            }
            out.extend(self.buffered.drain(..missing.min(self.buffered.len())));
        }
        Ok(out)
    }

    /// Reads one ttrpc message, header included.
    pub(crate) async fn message(&mut self) -> Result<Vec<u8>, TrunkError> {
        let mut message = self.read_full(MESSAGE_HEADER).await?;
        let mut length = [0; 4];
        length.copy_from_slice(message.get(..4).unwrap_or(&[0; 4]));
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        message.extend(self.read_full(length).await?);
        Ok(message)
    }
}

/// A trunk that runs; dropping it closes it.
#[derive(Debug)]
pub(crate) struct Trunk {
    ended: watch::Receiver<Option<TrunkError>>,
    tasks: std::sync::Mutex<JoinSet<()>>,
}

impl Trunk {
    /// Runs connections with the given ids, and gives the ends to talk through, in the same order.
    pub(crate) fn start<T>(trunk: T, ids: &[u32]) -> (Self, Vec<DuplexStream>)
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = split(trunk);
        let writer = Arc::new(Mutex::new(writer));
        let (end, ended) = watch::channel(None);
        let end = Arc::new(end);
        let mut tasks = JoinSet::new();
        let mut queues = HashMap::new();
        let mut ends = Vec::new();
        for &id in ids {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let (from_connection, to_connection) = split(ours);
            let (queue, frames) = mpsc::channel(QUEUE);
            queues.insert(id, queue);
            let writer = Arc::clone(&writer);
            tasks.spawn(async move {
                write::run(id, from_connection, writer, Framing::GoSafe).await;
            });
            tasks.spawn(deliver(GoReader::new(frames), to_connection, Arc::clone(&end)));
            ends.push(theirs);
        }
        tasks.spawn(async move {
            let error = read_frames(reader, queues).await;
            give_up(&end, error);
        });
        (Self { ended, tasks: tasks.into() }, ends)
    }

    /// Why it ended; waits until it has.
    pub(crate) async fn ended(&self) -> TrunkError {
        let mut ended = self.ended.clone();
        let reason = ended.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or(TrunkError::Closed)
    }

    /// Hangs up.
    pub(crate) fn close(&self) {
        self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).abort_all();
    }

    /// Why it ended, if it has.
    pub(crate) fn end(&self) -> Option<TrunkError> {
        self.ended.borrow().clone()
    }
}

/// The first reason stays.
fn give_up(end: &watch::Sender<Option<TrunkError>>, error: TrunkError) {
    end.send_if_modified(|reason| {
        let first = reason.is_none();
        reason.get_or_insert(error);
        first
    });
}

/// Passes whole messages on to a connection.
async fn deliver<W: AsyncWrite + Unpin>(
    mut reader: GoReader,
    mut to: W,
    end: Arc<watch::Sender<Option<TrunkError>>>,
) {
    let mut last = 0;
    loop {
        match reader.message().await.and_then(|message| rising(message, &mut last)) {
            Ok(message) => {
                if to.write_all(&message).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                give_up(&end, error);
                return;
            }
        }
    }
}

/// Lets a message through that a server written in Go would not refuse: requests come with odd, rising stream ids.
fn rising(message: Vec<u8>, last: &mut u32) -> Result<Vec<u8>, TrunkError> {
    const REQUEST: u8 = 1;
    if let [_, _, _, _, a, b, c, d, REQUEST, ..] = *message {
        let id = u32::from_be_bytes([a, b, c, d]);
        if id % 2 == 0 || id <= *last {
            return Err(TrunkError::StreamId(id));
        }
        *last = id;
    }
    Ok(message)
}

/// Sorts frames into the queues until the trunk ends or one is full.
pub(crate) async fn read_frames<R: AsyncRead + Unpin>(
    mut trunk: R,
    queues: HashMap<u32, mpsc::Sender<Vec<u8>>>,
) -> TrunkError {
    loop {
        let mut header = [0; 8];
        if let Err(error) = trunk.read_exact(&mut header).await {
            return match error.kind() {
                std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => TrunkError::Closed,
                _ => TrunkError::Io(error.to_string()),
            };
        }
        let [a, b, c, d, e, f, g, h] = header;
        let connection = u32::from_be_bytes([a, b, c, d]);
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([e, f, g, h])).unwrap_or_default()];
        if let Err(error) = trunk.read_exact(&mut payload).await {
            return TrunkError::Io(error.to_string());
        }
        if let Some(queue) = queues.get(&connection) {
            match queue.try_send(payload) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => return TrunkError::QueueFull { connection },
                Err(mpsc::error::TrySendError::Closed(_)) => return TrunkError::Closed,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut message = u32::try_from(length).unwrap().to_be_bytes().to_vec();
        message.extend([0, 0, 0, 1, 1, 0]);
        message.resize(MESSAGE_HEADER + length, 7);
        message
    }

    async fn read(message: &[u8], cuts: &[usize]) -> Result<Vec<u8>, TrunkError> {
        let (queue, frames) = mpsc::channel(QUEUE);
        let mut rest = message;
        for cut in cuts {
            let (frame, tail) = rest.split_at(*cut);
            queue.send(frame.to_vec()).await.unwrap();
            rest = tail;
        }
        queue.send(rest.to_vec()).await.unwrap();
        GoReader::new(frames).message().await
    }

    #[tokio::test]
    async fn reads_what_go_reads_and_refuses_what_go_refuses() {
        let large = message(10_000);
        assert_eq!(read(&message(100), &[]).await.as_deref(), Ok(&*message(100)));
        // Header alone, then the rest; the buffer full, then the rest; small frames throughout.
        assert_eq!(read(&large, &[10]).await.as_deref(), Ok(&*large));
        assert_eq!(read(&large, &[4096]).await.as_deref(), Ok(&*large));
        assert_eq!(read(&large, &[4096, 4096]).await.as_deref(), Ok(&*large));
        // All in one frame; 5000-byte chunks.
        assert_eq!(read(&large, &[]).await, Err(TrunkError::NoMemory { frame: 10_010, buffer: 4096 }));
        assert_eq!(read(&large, &[5000]).await, Err(TrunkError::NoMemory { frame: 5000, buffer: 4096 }));
        // The last frame is larger than what is missing only if two messages share it.
        let mut two = large.clone();
        two.extend(&large);
        assert!(matches!(read(&two, &[4096]).await, Err(TrunkError::NoMemory { .. })));
        assert_eq!(read(&large, &[4096, 0]).await, Err(TrunkError::EmptyFrame));
    }

    #[test]
    fn stream_ids_must_be_odd_and_rise() {
        let request = |id: u8| vec![0, 0, 0, 0, 0, 0, 0, id, 1, 0];
        let mut last = 0;
        for (id, ok) in [(1, true), (3, true), (3, false), (1, false), (4, false), (9, true)] {
            assert_eq!(rising(request(id), &mut last).is_ok(), ok, "{id}");
        }
        let response = vec![0, 0, 0, 0, 0, 0, 0, 2, 2, 0];
        assert!(rising(response, &mut last).is_ok());
    }

    #[tokio::test]
    async fn a_full_queue_ends_the_trunk() {
        let (queue, _unread) = mpsc::channel(QUEUE);
        let mut bytes = Vec::new();
        for _ in 0..=QUEUE {
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 42]);
        }
        let error = read_frames(&bytes[..], HashMap::from([(1, queue)])).await;
        assert_eq!(error, TrunkError::QueueFull { connection: 1 });
    }
}
