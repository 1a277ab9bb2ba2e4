//! Builds the program as it is installed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `cargo build-hook`; where the program is then.
#[expect(clippy::panic, reason = "without the program there is nothing to test or to measure")]
pub fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("/"));
    // flags of this run, such as those for coverage, would make another program of it
    let output =
        Command::new(env!("CARGO")).current_dir(root).arg("build-hook").env_remove("RUSTFLAGS").output();
    let output = output.unwrap_or_else(|error| panic!("cargo cannot be run: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("hook/nri-enforcer-hook")
}
