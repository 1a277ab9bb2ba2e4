//! Programs that are run for what they say, and that may take too long.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often is looked whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// One that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    out: File,
    err: File,
}

/// One that has not.
#[derive(Debug)]
pub(super) enum Unended {
    /// It could not be started.
    Unstarted(io::Error),
    /// It took longer than it might, and was ended.
    TooSlow,
    /// What it is run with could not be made, or whether it has ended not be found out.
    Io(io::Error),
}

impl Ended {
    /// Runs a program, with nothing to read.
    pub(super) fn within(limit: Duration, command: &mut Command) -> Result<Self, Unended> {
        // a pipe that nobody empties would stop it
        let file = |name| in_memory(name, b"").map_err(Unended::Io);
        let (out, err) = (file("out")?, file("err")?);
        let clone = |file: &File| file.try_clone().map_err(Unended::Io);
        command.stdin(Stdio::null()).stdout(clone(&out)?).stderr(clone(&err)?);
        let mut child = command.spawn().map_err(Unended::Unstarted)?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait().map_err(Unended::Io)? {
                return Ok(Self { status, out, err });
            }
            if Instant::now() > deadline {
                child.kill().and_then(|()| child.wait()).map_err(Unended::Io)?;
                return Err(Unended::TooSlow);
            }
            sleep(PAUSE);
        }
    }

    /// The first bytes of what it wrote.
    pub(super) fn out(&self, most: u64) -> io::Result<Vec<u8>> {
        read(&self.out, most)
    }

    /// The first bytes of what it said was wrong, as text.
    pub(super) fn err(&self, most: u64) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&read(&self.err, most)?).trim().to_owned())
    }
}

fn read(mut file: &File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file that no other program can find, for one that is started.
pub(super) fn in_memory(name: &str, content: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_heard_up_to_a_bound() {
        let shell = |script: &str, limit| {
            Ended::within(Duration::from_secs(limit), Command::new("sh").args(["-c", script]))
        };
        let ended = shell("echo out; echo ' err ' >&2; exit 3", 60).unwrap();
        assert_eq!(
            (ended.status.code(), ended.out(3).unwrap(), ended.err(60).unwrap().as_str()),
            (Some(3), b"out".to_vec(), "err")
        );
        assert_eq!(ended.out(60).unwrap(), b"out\n", "as often as one likes");
        // more than a pipe holds
        let ended = shell("head -c 1000000 /dev/zero", 60).unwrap();
        assert_eq!(ended.out(u64::MAX).unwrap().len(), 1_000_000);
        assert!(matches!(shell("exec sleep 60", 0), Err(Unended::TooSlow)));
        let missing = Ended::within(Duration::from_secs(60), &mut Command::new("/no/such/program"));
        assert!(matches!(missing, Err(Unended::Unstarted(_))), "{missing:?}");
    }
}
