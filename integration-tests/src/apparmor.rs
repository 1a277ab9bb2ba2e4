//! The real `apparmor_parser`, on this machine: it only compiles, so no kernel with AppArmor is needed.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use enforcer_core::compile::apparmor::FEATURES;

use crate::cache;

/// What the parser makes of a profile: the bytes for the kernel.
///
/// # Errors
/// When the lab is not set up, or the parser refuses the profile; with what it says.
pub fn compiled(profile: &str) -> Result<Vec<u8>> {
    let folder = cache::artefact("apparmor")?;
    let features = tempfile::NamedTempFile::new()?;
    std::fs::write(features.path(), FEATURES)?;
    // The parser is of another release: it runs by the loader of its own C library.
    let mut child = Command::new(folder.join("ld-linux-x86-64.so.2"))
        .arg("--library-path")
        .arg(&folder)
        .arg(folder.join("apparmor_parser"))
        .args(["--skip-kernel-load", "--skip-cache", "--stdout", "--features-file"])
        .arg(features.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start apparmor_parser")?;
    let mut stdin = child.stdin.take().context("no input")?;
    let text = profile.to_owned();
    // it may stop reading at a mistake
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()).unwrap_or_default());
    let output = child.wait_with_output()?;
    writer.join().ok();
    if !output.status.success() {
        bail!("apparmor_parser refuses the profile: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}
