//! `lab verifier`, on one kernel; `tests/kernel/verified.rs` asks all of them.

use std::process::Command;

use anyhow::{Context, Result, ensure};

#[test]
fn on_6_1() -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_lab")).args(["verifier", "--kernel", "6.1"]).output();
    let output = output.context("run lab")?;
    println!("{}", String::from_utf8_lossy(&output.stdout));
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
