//! From a connection to the trunk, by the rule that readers written in Go need: a message's first
//! `min(length, 4096)` bytes are one frame, all the rest is one more, and no frame is empty.
//!
//! That is the only division that is safe for every length. Small frames throughout would overflow the peer's
//! queue of 256 frames, and one large frame does not fit the 4096 bytes of its first read.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use super::{HEADER, MuxError};

/// Bytes of a ttrpc header: `u32` length, `u32` stream id, `u8` type, `u8` flags; big endian.
const MESSAGE_HEADER: usize = 10;

/// Largest ttrpc payload.
const MAX_MESSAGE: usize = 4 << 20;

/// What a peer's first read of a message takes.
const FIRST_FRAME: usize = 4096;

/// How messages become frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// The rule of this module.
    GoSafe,
    /// One frame per message: what breaks a reader written in Go. Only to show that a test would notice.
    #[cfg(any(test, feature = "fake-runtime"))]
    OneFrame,
}

/// Sends whole messages from the connection to the trunk until either ends.
pub(crate) async fn run<R, W>(id: u32, mut connection: R, trunk: Arc<Mutex<W>>, framing: Framing) -> MuxError
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut message = Vec::new();
    loop {
        if let Err(error) = next_message(id, &mut connection, &mut message).await {
            return error;
        }
        let mut trunk = trunk.lock().await;
        if let Err(error) = send(id, &message, &mut *trunk, framing).await {
            return error.into();
        }
    }
}

/// Reads one ttrpc message, header included.
async fn next_message<R: AsyncRead + Unpin>(
    id: u32,
    connection: &mut R,
    message: &mut Vec<u8>,
) -> Result<(), MuxError> {
    let ended = |_| MuxError::ConnectionEnded { connection: id };
    let mut header = [0; MESSAGE_HEADER];
    connection.read_exact(&mut header).await.map_err(ended)?;
    let [a, b, c, d, ..] = header;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(MuxError::Unsendable { connection: id, length });
    }
    message.clear();
    message.extend_from_slice(&header);
    message.resize(MESSAGE_HEADER.saturating_add(length), 0);
    let body = message.get_mut(MESSAGE_HEADER..).unwrap_or_default();
    connection.read_exact(body).await.map_err(ended)?;
    Ok(())
}

async fn send<W: AsyncWrite + Unpin>(
    id: u32,
    message: &[u8],
    trunk: &mut W,
    framing: Framing,
) -> std::io::Result<()> {
    let first = match framing {
        Framing::GoSafe => message.len().min(FIRST_FRAME),
        #[cfg(any(test, feature = "fake-runtime"))]
        Framing::OneFrame => message.len(),
    };
    let (first, rest) = message.split_at_checked(first).unwrap_or((message, &[]));
    for payload in [first, rest] {
        if !payload.is_empty() {
            trunk.write_all(&frame_header(id, payload.len())?).await?;
            trunk.write_all(payload).await?;
        }
    }
    trunk.flush().await
}

/// A frame's header.
pub(crate) fn frame_header(id: u32, length: usize) -> std::io::Result<[u8; HEADER]> {
    let length = u32::try_from(length).map_err(std::io::Error::other)?;
    let [a, b, c, d] = id.to_be_bytes();
    let [e, f, g, h] = length.to_be_bytes();
    Ok([a, b, c, d, e, f, g, h])
}
