//! Where audit records come from: a log, or the kernel itself.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::record::Line;
use crate::audit::socket::{Message, Socket};

/// The type of seccomp's records (`AUDIT_SECCOMP`).
const AUDIT_SECCOMP: u16 = 1326;
/// Bytes for records that were not read yet: about 50,000 of them.
const BUFFER: usize = 32 << 20;
/// How long one wait lasts.
const POLL: Duration = Duration::from_millis(200);

/// Reads the lines of a log.
///
/// # Errors
/// Those of the system; the lines before were handed over.
pub fn file(reader: impl Read, mut each: impl FnMut(Line)) -> io::Result<()> {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        // a line without an end does not fill the memory
        if reader.by_ref().take(1 << 20).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        each(Line::parse(&String::from_utf8_lossy(&line)));
    }
}

/// Reads the kernel's log from its beginning, and what is added until the time is over.
///
/// # Errors
/// Those of the system.
pub fn kmsg(path: &Path, time: Duration, mut each: impl FnMut(Line)) -> io::Result<()> {
    let mut log = std::fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let end = Instant::now() + time;
    let mut record = vec![0; 16 << 10]; // a read gives one whole record, and fails for a smaller buffer
    loop {
        match log.read(&mut record) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                each(Line::parse(&String::from_utf8_lossy(record.get(..length).unwrap_or_default())))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() >= end {
                    return Ok(());
                }
                std::thread::sleep(POLL);
            }
            // records were overwritten before they could be read
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => each(Line::Lost),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Listens to the kernel's audit records, from now until the time is over. `listening` is called once nothing is
/// missed any more.
///
/// # Errors
/// Those of the system: `CAP_AUDIT_READ` is needed, and the host's first network namespace.
pub fn audit(time: Duration, listening: impl FnOnce(), mut each: impl FnMut(Line)) -> io::Result<()> {
    let mut socket = Socket::open(BUFFER, POLL)?;
    listening();
    let end = Instant::now() + time;
    while Instant::now() < end {
        match socket.heard()? {
            Message::Record { kind: AUDIT_SECCOMP, text, .. } => each(Line::record(&text)),
            Message::Lost => each(Line::Lost),
            Message::Record { .. } | Message::Nothing => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whatever_is_in_them() {
        let log = b"audit: type=1326 audit(1:2): pid=7 comm=\"a\" exe=\"/a\" arch=c000003e syscall=0 code=0x7ffc0000\n\
            \xff\xfe\nkauditd_printk_skb: 5 callbacks suppressed";
        let mut lines = Vec::new();
        file(log.as_slice(), |line| lines.push(line)).unwrap();
        assert!(matches!(lines.as_slice(), [Line::Record(_), Line::Other, Line::Lost]), "{lines:?}");
    }
}
