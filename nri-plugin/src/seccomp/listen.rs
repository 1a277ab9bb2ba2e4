//! Where audit records come from: a log, or the kernel itself.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::record::Line;

/// The multicast group of audit records (`AUDIT_NLGRP_READLOG` of `linux/audit.h`), as a mask. It works beside auditd,
/// and unlike the kernel's log it is not held to ten lines in five seconds.
const READLOG: u32 = 1;
/// The type of seccomp's records (`AUDIT_SECCOMP`).
const AUDIT_SECCOMP: u16 = 1326;
/// Bytes before the text of a netlink message: length (32 bits), type (16), flags (16), sequence (32), port (32).
const HEADER: usize = 16;
/// The largest record, in bytes (`MAX_AUDIT_MESSAGE_LENGTH`).
const MAX_RECORD: usize = 8970;
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
    let socket = open()?;
    listening();
    let end = Instant::now() + time;
    let mut message = vec![0; HEADER + MAX_RECORD];
    while Instant::now() < end {
        match recv(socket.as_raw_fd(), &mut message, MsgFlags::empty()) {
            Ok(length) => {
                let message = message.get(..length).unwrap_or_default();
                if let Some(text) = seccomp_record(message) {
                    each(Line::record(&text));
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(Errno::ENOBUFS) => each(Line::Lost),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkAudit)?;
    setsockopt(&socket, RcvBufForce, &BUFFER)?;
    let poll = TimeVal::milliseconds(i64::try_from(POLL.as_millis()).unwrap_or(1));
    setsockopt(&socket, ReceiveTimeout, &poll)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, READLOG))?;
    Ok(socket)
}

/// The text of a message, if it is a record of seccomp. The kernel's length field of audit messages does not count the
/// header, so the text is what came.
fn seccomp_record(message: &[u8]) -> Option<String> {
    let kind = message.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes)?;
    let text = message.get(HEADER..)?;
    (kind == AUDIT_SECCOMP).then(|| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
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

    #[test]
    fn a_message_of_another_type_or_a_short_one_is_none() {
        let mut message = vec![0; HEADER];
        assert_eq!(seccomp_record(&message), None);
        message[4..6].copy_from_slice(&AUDIT_SECCOMP.to_ne_bytes());
        message.extend(b"audit(1:2): pid=7\0");
        assert_eq!(seccomp_record(&message).as_deref(), Some("audit(1:2): pid=7"));
        assert_eq!(seccomp_record(&message[..10]), None);
    }
}
