//! Processes of the host, and what the kernel and the daemon say.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The state of the host, and the lock.
pub fn status() -> Result<(Value, String)> {
    let output = Command::new("./nri-enforcer").args(["status", "-o", "json"]).output()?;
    let document: Value = serde_json::from_slice(&output.stdout).context("status")?;
    let lock = document["daemon"]["lock"].as_str().unwrap_or_default().to_owned();
    let all = document["containers"].as_array().cloned().unwrap_or_default();
    let host = all.into_iter().find(|one| one["host"] == true).unwrap_or_default();
    Ok((host, lock))
}

/// A command as a process of the host. A program by its path, any other as one of busybox's: by the name alone the shell
/// would do it itself, without executing anything.
pub fn as_host_command(words: &[&str]) -> Command {
    in_domain("host_t", words)
}

fn in_domain(domain: &str, words: &[&str]) -> Command {
    let script =
        format!("printf 'system_u:system_r:{domain}:s0' > /proc/self/attr/exec || exit 99; exec \"$@\"");
    let by_path = words.first().is_some_and(|word| word.starts_with('/'));
    let mut command = Command::new("/bin/busybox");
    command.args(["sh", "-c", &script, "sh"]).args((!by_path).then_some("/bin/busybox")).args(words);
    command
}

/// Has the tool that resets labels, with these arguments, do so as the system does it: as root, in a domain that the base policy
/// lets change any label. Whether it says that it was done, and what it says.
pub fn reset(words: &str) -> Result<(bool, String)> {
    let words = format!("/usr/sbin/{words}");
    let output = in_domain("setfiles_t", &words.split(' ').collect::<Vec<_>>()).output()?;
    ensure!(output.status.code() != Some(99), "{words}: {}", text(&output.stderr));
    Ok((output.status.success(), text(&output.stdout) + &text(&output.stderr)))
}

/// Runs one: its output, and whether it succeeds.
pub fn as_host(command: &str) -> (String, bool) {
    let output = as_host_command(&command.split(' ').collect::<Vec<_>>()).output().unwrap();
    assert_ne!(output.status.code(), Some(99), "{command}: {}", text(&output.stderr));
    (text(&output.stdout), output.status.success())
}

pub fn can(command: &str) -> bool {
    as_host(command).1
}

/// What the kernel says of a domain and a file.
pub fn allows(domain: &str, label: &str, permission: &str) -> Result<bool> {
    let number = |path: &str| -> Result<u32> {
        Ok(fs::read_to_string(format!("/sys/fs/selinux/class/file/{path}"))?.trim().parse()?)
    };
    let mut access = fs::File::options().read(true).write(true).open("/sys/fs/selinux/access")?;
    let question = format!("system_u:system_r:{domain}:s0 {label} {}", number("index")?);
    access.write_all(question.as_bytes())?;
    let mut answer = String::new();
    access.read_to_string(&mut answer)?;
    let allowed = u32::from_str_radix(answer.split(' ').next().unwrap_or_default(), 16)?;
    Ok(allowed >> (number(&format!("perms/{permission}"))? - 1) & 1 == 1)
}

pub fn within(mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !holds() {
        ensure!(Instant::now() < deadline, "it does not come to be");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// All that is below `/t`, with its label.
pub fn labels() -> Vec<(String, String)> {
    let paths = said(Command::new("find").arg("/t")).unwrap();
    let mut found: Vec<(String, String)> = paths.lines().map(|path| (path.to_owned(), label(path))).collect();
    found.sort();
    found
}

pub fn label(path: &str) -> String {
    let mut bytes = [0; 256];
    let length = rustix::fs::lgetxattr(path, "security.selinux", &mut bytes[..]).unwrap_or(0);
    text(&bytes[..length]).trim_end_matches('\0').to_owned()
}

pub fn relabel(path: &str, label: &str) -> Result<()> {
    let flags = rustix::fs::XattrFlags::empty();
    Ok(rustix::fs::lsetxattr(path, "security.selinux", format!("{label}\0").as_bytes(), flags)?)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn said(command: &mut Command) -> Result<String> {
    let Output { stdout, .. } = command.output()?;
    Ok(text(&stdout))
}

pub fn sh(command: &str) -> Result<()> {
    let output = Command::new("/bin/busybox").args(["sh", "-c", command]).output()?;
    ensure!(output.status.success(), "{command}: {}", text(&output.stderr));
    Ok(())
}
