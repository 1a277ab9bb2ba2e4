//! Arbitrary bytes on the trunk: no panic, no hang, and the loss is noticed. Bounded: a few seconds.
#![cfg(test)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use nri::fake::{FakeRuntime, Options};
use nri::{Error, Lost, Stub};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Feeds a stub with bytes, in pieces, and hangs up. Gives how its connection ended, and what was asked of the plugin.
async fn swallow(pieces: impl Iterator<Item = &[u8]>, pause: Duration) -> (Lost, Vec<String>) {
    let (trunk, mut peer) = tokio::io::duplex(64 << 10);
    let stub = Stub::builder("recorder", "42").build().unwrap();
    let feed = async {
        for piece in pieces {
            if peer.write_all(piece).await.is_err() {
                break;
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        // What the plugin says is read, so that it is not held up, until it hangs up or has been silent for a moment.
        let mut said = [0; 4096];
        while let Ok(Ok(1..)) = tokio::time::timeout(Duration::from_millis(2), peer.read(&mut said)).await {}
        drop(peer);
    };
    let recorder = Arc::new(Recorder::default());
    let run = stub.run_over(trunk, Arc::clone(&recorder), std::future::pending());
    let (result, ()) = within(async { tokio::join!(run, feed) }).await;
    match result {
        Err(Error::Lost(reason)) => (reason, recorder.names()),
        other => panic!("{other:?}"),
    }
}

/// Records what a runtime says to a plugin in a session with a bit of everything.
async fn record() -> Vec<u8> {
    let place = Place::new();
    let mut options = Options::containerd("v2.3.1");
    options.containers = vec![container("a"), container("b")];
    options.pods = vec![pod("p")];
    let mut runtime = FakeRuntime::bind(place.socket(), options).unwrap();
    let between = place.socket().with_extension("between");
    let listener = UnixListener::bind(&between).unwrap();
    let recorded = Arc::new(Mutex::new(Vec::new()));
    let (copy, to) = (Arc::clone(&recorded), place.socket());
    let proxy = tokio::spawn(async move {
        let (plugin, _) = listener.accept().await.unwrap();
        let (mut from_plugin, mut to_plugin) = plugin.into_split();
        let (mut from_runtime, mut to_runtime) = UnixStream::connect(to).await.unwrap().into_split();
        let there = async { tokio::io::copy(&mut from_plugin, &mut to_runtime).await.map(|_| ()) };
        let back = async {
            let mut chunk = [0; 4096];
            loop {
                let count = from_runtime.read(&mut chunk).await?;
                if count == 0 {
                    return std::io::Result::Ok(());
                }
                copy.lock().unwrap().extend_from_slice(&chunk[..count]);
                to_plugin.write_all(&chunk[..count]).await?;
            }
        };
        let _ = tokio::join!(there, back);
    });
    let running = Running::start(builder(&between), &Arc::new(Recorder::default()));
    let plugin = within(runtime.accept()).await.unwrap();
    plugin.create_container(&pod("p"), &container("c")).await.unwrap();
    plugin.start_container(&pod("p"), &container("c")).await.unwrap();
    plugin.validate(&Default::default()).await.unwrap().unwrap();
    plugin.state_change(3, &pod("p"), None).await.unwrap();
    running.synchronized().await;
    running.handle.update_containers(Vec::new()).await.unwrap();
    drop((plugin, running, runtime));
    let _ = within(proxy).await;
    let bytes = recorded.lock().unwrap().clone();
    assert!(bytes.len() > 300, "{}", bytes.len());
    bytes
}

/// The frames of a recording.
fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while let Some(length) = bytes.get(4..8) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let (frame, rest) = bytes.split_at(8 + length);
        frames.push(frame);
        bytes = rest;
    }
    frames
}

fn mutate(rng: &mut SmallRng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..6) {
            0 => bytes[at] = rng.random(),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes[at] = [0, 0xff, 0x7f, 0x80][rng.random_range(0..4)],
            3 => bytes.truncate(at.max(1)),
            4 => {
                let cut: Vec<u8> = bytes.drain(at..(at + rng.random_range(0..40)).min(bytes.len())).collect();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, cut);
                bytes.push(0);
            }
            _ => {
                let again = bytes[at..(at + rng.random_range(0..60)).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

// One test, because the panic hook is the whole process's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arbitrary_bytes_neither_panic_nor_hang() {
    let recorded = record().await;
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        before(info);
    }));

    // The recording itself is a session that ends well.
    let (lost, asked) = swallow(frames(&recorded).into_iter(), Duration::from_millis(20)).await;
    assert_eq!(lost, Lost::Closed);
    for handler in ["Configure", "Synchronize", "CreateContainer", "StartContainer", "RemovePodSandbox"] {
        assert!(asked.iter().any(|name| name == handler), "{handler} in {asked:?}");
    }
    assert_eq!(swallow([].into_iter(), Duration::ZERO).await.0, Lost::Closed);

    let seed = std::env::var("NRI_GARBAGE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_122);
    let rounds = std::env::var("NRI_GARBAGE_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1500);
    let mut asked = 0;
    let mut rng = SmallRng::seed_from_u64(seed);
    for round in 0..rounds {
        let bytes = match round % 3 {
            0 => {
                let mut bytes = vec![0; rng.random_range(1..400)];
                rng.fill_bytes(&mut bytes);
                bytes
            }
            1 => {
                // Good frames around bad messages.
                let mut bytes = Vec::new();
                for _ in 0..rng.random_range(1..6) {
                    let length = rng.random_range(0_u32..60);
                    bytes.extend(rng.random_range(0_u32..4).to_be_bytes());
                    bytes.extend(length.to_be_bytes());
                    let mut payload = vec![0; length as usize];
                    rng.fill_bytes(&mut payload);
                    // A plausible ttrpc header every other time.
                    if length > 10 && rng.random() {
                        payload[..4].copy_from_slice(&(length - 10).to_be_bytes());
                        payload[8] = rng.random_range(0..5);
                    }
                    bytes.extend(payload);
                }
                bytes
            }
            _ => mutate(&mut rng, &recorded),
        };
        let piece = rng.random_range(1..=bytes.len());
        let context = format!("seed {seed}, round {round}: {bytes:02x?}");
        let lost =
            tokio::time::timeout(Duration::from_secs(10), swallow(bytes.chunks(piece), Duration::ZERO)).await;
        asked += lost.unwrap_or_else(|_| panic!("hangs: {context}")).1.len();
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "panics: {context}");
    } // The bytes get as far as the plugin often enough.
    assert!(asked > rounds / 4, "{asked}");
}
