//! Programs of the host: `containerd` and `ctr`.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use super::root::Root;
use crate::cli::InRootArgs;

/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);
/// Bytes of its output at most; the largest configuration printed has 20 KiB.
const MAX_BYTES: u64 = 4 << 20;
/// What `in-root` exits with, as `chroot` does, when it may not change the root, and when the program cannot be run.
const NO_ROOT: u8 = 125;
const NOT_RUN: u8 = 127;

/// Runs a program of the host, and returns what it prints; `None`: there is none that can be run.
///
/// # Errors
/// When it fails: what it said.
pub fn output(root: &Root, program: &Path, arguments: &[&str]) -> Result<Option<String>, String> {
    let name = program.display();
    let fail = |error: std::io::Error| format!("cannot run `{name}`: {error}");
    let (mut out, mut err) = (scratch().map_err(fail)?, scratch().map_err(fail)?);
    // in another process, since changing the root is for all of one
    let mut command = if root.is_own() {
        Command::new(program)
    } else {
        let mut command = Command::new(std::env::current_exe().map_err(fail)?);
        command.arg("in-root").arg(root.dir()).arg(program);
        command
    };
    command.args(arguments).stdin(Stdio::null());
    command.stdout(out.try_clone().map_err(fail)?).stderr(err.try_clone().map_err(fail)?);
    let mut child = match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        child => child.map_err(fail)?,
    };
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait().map_err(fail)? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ended = child.kill().and_then(|()| child.wait());
                return Err(format!("`{name}` does not end within {} s", LIMIT.as_secs()));
            }
            None => std::thread::sleep(PAUSE),
        }
    };
    if !root.is_own() && [NO_ROOT, NOT_RUN].map(|code| Some(code.into())).contains(&status.code()) {
        return Ok(None);
    }
    let (told, said) = (text(&mut out).map_err(fail)?, text(&mut err).map_err(fail)?);
    match status.success() {
        true => Ok(Some(told)),
        false => {
            let last = said.trim().lines().last().unwrap_or_default().to_owned();
            Err(format!("`{name} {}` says: {last} ({status})", arguments.join(" ")))
        }
    }
}

/// `in-root`: changes the root, and becomes the program. Returns only where that fails.
#[must_use]
pub fn in_root(args: &InRootArgs) -> ExitCode {
    let changed = nix::unistd::chroot(&args.root).and_then(|()| nix::unistd::chdir("/"));
    if changed.is_err() {
        return ExitCode::from(NO_ROOT);
    }
    if let Some((program, arguments)) = args.command.split_first() {
        let _why = Command::new(program).args(arguments).exec();
    }
    ExitCode::from(NOT_RUN)
}

/// A file without a name: a pipe that nobody empties would stop the program.
fn scratch() -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let dir = std::env::temp_dir();
    match File::options().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(&dir) {
        Err(_) => {
            // a file system without nameless files
            let path = dir.join(format!("nri-enforcer-install-{}", std::process::id()));
            let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        file => file,
    }
}

fn text(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_and_what_it_does_not() {
        let root = Root::new(Path::new("/"));
        let run = |program: &str, arguments: &[&str]| output(&root, Path::new(program), arguments);
        assert_eq!(run("echo", &["a", "b"]), Ok(Some("a b\n".into())));
        assert_eq!(run("no-such-program-here", &[]), Ok(None));
        let error = run("sh", &["-c", "echo first >&2; echo second >&2; exit 3"]).unwrap_err();
        assert!(error.contains("says: second") && error.contains('3'), "{error}");
    }
}
