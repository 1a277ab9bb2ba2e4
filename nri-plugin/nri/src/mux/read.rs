//! From the trunk to the connections.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{HEADER, MAX_RECEIVED, MuxError, STALL};

/// Bytes passed on at a time: a frame's claim alone takes no memory.
const CHUNK: usize = 16 << 10;

/// Passes frames on until the trunk ends.
///
/// A connection that is full holds the trunk back, which is the only back-pressure the protocol has; but not for
/// longer than [`STALL`], because the other connection's frames wait behind it.
pub(super) async fn run<R, W>(
    mut trunk: R,
    mut connections: HashMap<u32, W>,
    dropped: Arc<AtomicU64>,
) -> MuxError
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut chunk = vec![0; CHUNK];
    loop {
        if let Err(error) = frame(&mut trunk, &mut connections, &dropped, &mut chunk).await {
            return error;
        }
    }
}

async fn frame<R, W>(
    trunk: &mut R,
    connections: &mut HashMap<u32, W>,
    dropped: &AtomicU64,
    chunk: &mut [u8],
) -> Result<(), MuxError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (id, length) = header(trunk).await?;
    if length > MAX_RECEIVED {
        return Err(MuxError::Oversized { connection: id, length });
    }
    let mut connection = connections.get_mut(&id);
    if connection.is_none() {
        dropped.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(connection = id, length, "frame for a connection that nobody opened");
    }
    let mut left = length;
    while left > 0 {
        let room = left.min(chunk.len());
        let part = chunk.get_mut(..room).unwrap_or_default();
        let count = trunk.read(part).await?;
        if count == 0 {
            return Err(MuxError::Truncated);
        }
        left = left.saturating_sub(count);
        if let Some(connection) = connection.as_mut() {
            let bytes = part.get(..count).unwrap_or_default();
            timeout(STALL, connection.write_all(bytes))
                .await
                .map_err(|_| MuxError::Stalled { connection: id })?
                .map_err(|_| MuxError::ConnectionEnded { connection: id })?;
        }
    }
    Ok(())
}

/// The next frame's connection and length. The end of the trunk is only clean before the first byte.
async fn header<R: AsyncRead + Unpin>(trunk: &mut R) -> Result<(u32, usize), MuxError> {
    let mut header = [0; HEADER];
    let first = trunk.read(&mut header).await?;
    if first == 0 {
        return Err(MuxError::Closed);
    }
    let rest = header.get_mut(first..).unwrap_or_default();
    trunk.read_exact(rest).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => MuxError::Truncated,
        _ => MuxError::Io(error),
    })?;
    let [a, b, c, d, e, f, g, h] = header;
    let length = u32::from_be_bytes([e, f, g, h]);
    // A length beyond the address space is beyond the limit too.
    Ok((u32::from_be_bytes([a, b, c, d]), usize::try_from(length).unwrap_or(usize::MAX)))
}
