//! Arbitrary bytes on the trunk: no panic, no hang. `cargo +nightly fuzz run trunk` in the crate's folder.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use nri::{Plugin, Stub};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Nothing;
impl Plugin for Nothing {}

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (trunk, mut peer) = tokio::io::duplex(64 << 10);
        let stub = Stub::builder("fuzz", "00").build().unwrap();
        let feed = async {
            let _ = peer.write_all(bytes).await;
            let mut said = [0; 4096];
            while let Ok(Ok(1..)) = tokio::time::timeout(Duration::from_millis(1), peer.read(&mut said)).await {}
            drop(peer);
        };
        let run = stub.run_over(trunk, Arc::new(Nothing), std::future::pending());
        let both = async { tokio::join!(run, feed) };
        tokio::time::timeout(Duration::from_secs(5), both).await.expect("hangs").0.expect_err("ends without a reason");
    });
});
