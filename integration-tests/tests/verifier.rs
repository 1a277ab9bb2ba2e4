//! Every program loads on every kernel, and the verifier goes through no more of it than is recorded.

use std::process::Command;

use anyhow::{Context, Result, ensure};

fn compare(kernel: &str) -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_lab")).args(["verifier", "--kernel", kernel]).output();
    let output = output.context("run lab")?;
    println!("{}", String::from_utf8_lossy(&output.stdout));
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn on_6_1() -> Result<()> {
    compare("6.1")
}

#[test]
fn on_6_12() -> Result<()> {
    compare("6.12")
}

#[test]
fn on_the_newest() -> Result<()> {
    compare("newest")
}
