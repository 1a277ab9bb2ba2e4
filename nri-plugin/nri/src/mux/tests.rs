use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;

fn start(capacity: usize) -> (Mux, DuplexStream, DuplexStream, DuplexStream, Arc<AtomicU64>) {
    let (trunk, peer) = tokio::io::duplex(capacity);
    let dropped = Arc::new(AtomicU64::new(0));
    let (mux, ends) = Mux::start(trunk, &[PLUGIN, RUNTIME], Framing::GoSafe, Arc::clone(&dropped));
    let [one, two] = <[DuplexStream; 2]>::try_from(ends).unwrap();
    (mux, one, two, peer, dropped)
}

fn message(length: usize) -> Vec<u8> {
    let mut message = u32::try_from(length).unwrap().to_be_bytes().to_vec();
    message.extend([0, 0, 0, 1, 1, 0]);
    message.extend((0..length).map(|i| u8::try_from(i % 251).unwrap()));
    message
}

async fn read_frame(peer: &mut DuplexStream) -> (u32, Vec<u8>) {
    let id = peer.read_u32().await.unwrap();
    let mut payload = vec![0; peer.read_u32().await.unwrap() as usize];
    peer.read_exact(&mut payload).await.unwrap();
    (id, payload)
}

#[tokio::test]
async fn a_message_is_4096_bytes_and_all_the_rest_however_it_was_written() {
    for length in [0, 1, 4085, 4086, 4087, 9000, 300_000, 4 << 20] {
        for piece in [usize::MAX, 4096, 1000] {
            let (_mux, mut one, _two, mut peer, _) = start(64 << 10);
            let message = message(length);
            let expected: Vec<usize> = match message.len() {
                total if total <= 4096 => vec![total],
                total => vec![4096, total - 4096],
            };
            let whole = message.clone();
            let write = tokio::spawn(async move {
                for piece in message.chunks(piece.min(message.len())) {
                    one.write_all(piece).await.unwrap();
                }
                one
            });
            let mut got = Vec::new();
            for length in expected {
                let (id, payload) = read_frame(&mut peer).await;
                assert_eq!((id, payload.len()), (PLUGIN, length));
                got.extend(payload);
            }
            assert!(got == whole);
            drop(write.await);
        }
    }
}

#[tokio::test]
async fn the_longest_frame_keeps_to_the_limit_of_runtimes() {
    // 4 MiB and a ttrpc header is what NRI sends at most since 0.7.
    assert!(message(4 << 20).len() - 4096 <= (4 << 20) + 10);
    let (mut mux, mut one, _two, _peer, _) = start(64 << 10);
    one.write_all(&u32::to_be_bytes((4 << 20) + 1)).await.unwrap();
    one.write_all(&[0; 6]).await.unwrap();
    assert!(matches!(mux.ended().await, MuxError::Unsendable { connection: PLUGIN, .. }));
}

#[tokio::test]
async fn received_frames_are_bytes_of_a_stream() {
    let (_mux, mut one, mut two, mut peer, dropped) = start(1 << 20);
    for (id, payload) in [(1, &b"he"[..]), (2, b"other"), (1, b""), (7, b"nobody"), (1, b"llo"), (0, b"")] {
        peer.write_all(&write::frame_header(id, payload.len()).unwrap()).await.unwrap();
        peer.write_all(payload).await.unwrap();
    }
    let mut got = [0; 5];
    one.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
    two.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"other");
    tokio::task::yield_now().await;
    assert_eq!(dropped.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[tokio::test]
async fn sixteen_mebibytes_are_taken_and_one_byte_more_is_refused() {
    let (mut mux, mut one, _two, mut peer, _) = start(64 << 10);
    let send = tokio::spawn(async move {
        peer.write_all(&write::frame_header(1, MAX_RECEIVED).unwrap()).await.unwrap();
        let chunk = vec![9; 1 << 20];
        for _ in 0..16 {
            peer.write_all(&chunk).await.unwrap();
        }
        peer.write_all(&write::frame_header(2, MAX_RECEIVED + 1).unwrap()).await.unwrap();
        peer
    });
    let mut got = vec![0; MAX_RECEIVED];
    one.read_exact(&mut got).await.unwrap();
    assert!(got.iter().all(|byte| *byte == 9));
    let error = timeout(STALL * 5, mux.ended()).await.expect("takes the frame");
    assert!(matches!(error, MuxError::Oversized { connection: 2, length } if length == MAX_RECEIVED + 1));
    assert!(error.to_string().contains("16777217 bytes on connection 2"), "{error}");
    assert_eq!(one.read(&mut [0; 8]).await.unwrap(), 0, "the connections are closed");
    drop(send.await);
}

#[tokio::test]
async fn a_claim_alone_takes_no_memory_and_ends_with_the_trunk() {
    let (mut mux, mut one, _two, mut peer, _) = start(1024);
    peer.write_all(&write::frame_header(1, MAX_RECEIVED).unwrap()).await.unwrap();
    peer.write_all(b"little").await.unwrap();
    let mut got = [0; 6];
    one.read_exact(&mut got).await.unwrap();
    drop(peer);
    assert!(matches!(mux.ended().await, MuxError::Truncated));
}

#[tokio::test]
async fn the_trunks_end_is_clean_only_between_frames() {
    for (bytes, clean) in [
        (&b""[..], true),
        (b"\0\0\0\x01\0\0\0\0", true),
        (b"\0\0\0", false),
        (b"\0\0\0\x01\0\0\0\x02x", false),
    ] {
        let (mut mux, mut one, mut two, mut peer, _) = start(1024);
        peer.write_all(bytes).await.unwrap();
        drop(peer);
        let error = mux.ended().await;
        assert_eq!(matches!(error, MuxError::Closed), clean, "{bytes:?}: {error}");
        let mut rest = Vec::new();
        one.read_to_end(&mut rest).await.unwrap();
        assert_eq!(two.read_to_end(&mut rest).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_connection_that_is_not_read_holds_the_other_up_for_a_second_at_most() {
    let (mut mux, _unread, mut two, mut peer, _) = start(1 << 20);
    // A little more than the buffer, so that the frame behind it waits.
    peer.write_all(&write::frame_header(1, BUFFER + 1).unwrap()).await.unwrap();
    peer.write_all(&vec![0; BUFFER + 1]).await.unwrap();
    peer.write_all(&write::frame_header(2, 1).unwrap()).await.unwrap();
    peer.write_all(b"x").await.unwrap();
    let started = std::time::Instant::now();
    let error = timeout(STALL * 5, mux.ended()).await.unwrap();
    assert!(matches!(error, MuxError::Stalled { connection: 1 }), "{error}");
    assert!(started.elapsed() >= STALL * 9 / 10);
    assert_eq!(two.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_fits_the_buffer_holds_nobody_up() {
    let (_mux, _unread, mut two, mut peer, _) = start(1 << 20);
    peer.write_all(&write::frame_header(1, BUFFER).unwrap()).await.unwrap();
    peer.write_all(&vec![0; BUFFER]).await.unwrap();
    peer.write_all(&write::frame_header(2, 1).unwrap()).await.unwrap();
    peer.write_all(b"x").await.unwrap();
    let mut got = [0];
    timeout(STALL / 2, two.read_exact(&mut got)).await.unwrap().unwrap();
}

#[tokio::test]
async fn two_connections_with_much_to_say_take_turns() {
    let (_mux, one, two, mut peer, _) = start(1024);
    let mut writers = Vec::new();
    for mut end in [one, two] {
        writers.push(tokio::spawn(async move {
            for _ in 0..50 {
                end.write_all(&message(100_000)).await.unwrap();
            }
            end
        }));
    }
    // Within the first twenty messages both have had their say, and a message's frames stay together.
    let mut seen = [0; 3];
    for _ in 0..20 {
        let (id, first) = read_frame(&mut peer).await;
        let (other, rest) = read_frame(&mut peer).await;
        assert_eq!((id, first.len() + rest.len()), (other, 100_010));
        seen[id as usize] += 1;
    }
    assert!(seen[1] >= 5 && seen[2] >= 5, "{seen:?}");
    drop(peer);
    for writer in writers {
        writer.abort();
    }
}

#[tokio::test]
async fn an_end_of_ours_that_goes_away_ends_the_trunk() {
    let (mut mux, one, _two, mut peer, _) = start(1024);
    drop(one);
    assert!(matches!(mux.ended().await, MuxError::ConnectionEnded { connection: 1 }));
    drop(mux);
    assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
}
