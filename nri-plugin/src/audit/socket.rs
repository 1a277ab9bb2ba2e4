//! The kernel's audit records, as it hands them to whoever listens beside auditd.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The multicast group of audit records (`AUDIT_NLGRP_READLOG` of `linux/audit.h`), as a mask. It works beside auditd,
/// and unlike the kernel's log it is not held to ten lines in five seconds.
const READLOG: u32 = 1;
/// Bytes before the text of a netlink message: length (32 bits), type (16), flags (16), sequence (32), port (32).
const HEADER: usize = 16;
/// The largest record, in bytes (`MAX_AUDIT_MESSAGE_LENGTH`).
const MAX_RECORD: usize = 8970;

/// Listens.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    message: Vec<u8>,
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A record.
    Record {
        /// Its type, of `linux/audit.h`.
        kind: u16,
        /// What it says. What is no UTF-8 in it, which the kernel does not write, is replaced.
        text: String,
    },
    /// Records were lost: they came faster than they were read.
    Lost,
    /// Nothing for now.
    Nothing,
}

impl Socket {
    /// Nothing is missed from now on. `buffer`: bytes for records that were not read yet; without `CAP_NET_ADMIN` the
    /// kernel gives no more than its usual most (`net.core.rmem_max`). `poll`: how long one wait lasts.
    ///
    /// # Errors
    /// Those of the system: `CAP_AUDIT_READ` is needed.
    pub fn open(buffer: usize, poll: Duration) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkAudit)?;
        if setsockopt(&fd, RcvBufForce, &buffer).is_err() {
            setsockopt(&fd, RcvBuf, &buffer)?;
        }
        let poll = TimeVal::milliseconds(i64::try_from(poll.as_millis()).unwrap_or(1));
        setsockopt(&fd, ReceiveTimeout, &poll)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, READLOG))?;
        Ok(Self { fd, message: vec![0; HEADER + MAX_RECORD] })
    }

    /// Waits for a record.
    ///
    /// # Errors
    /// Those of the system.
    pub fn heard(&mut self) -> io::Result<Message> {
        let mut parts = [IoSliceMut::new(&mut self.message)];
        let received = recvmsg::<NetlinkAddr>(self.fd.as_raw_fd(), &mut parts, None, MsgFlags::empty());
        let (length, sender) = match received {
            Ok(received) => (received.bytes, received.address),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Message::Nothing),
            Err(Errno::ENOBUFS) => return Ok(Message::Lost),
            Err(error) => return Err(error.into()),
        };
        // whoever may administer the network can send to this socket, too
        if sender.is_none_or(|sender| sender.pid() != 0) {
            return Ok(Message::Nothing);
        }
        Ok(record(self.message.get(..length).unwrap_or_default()).unwrap_or(Message::Nothing))
    }
}

/// The type and the text of a message. The kernel's length field of audit messages does not count the header, so the text
/// is what came.
fn record(message: &[u8]) -> Option<Message> {
    let kind = message.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes)?;
    let text = String::from_utf8_lossy(message.get(HEADER..)?);
    Some(Message::Record { kind, text: text.trim_end_matches(['\0', '\n']).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_message_is_none() {
        let mut message = vec![0; HEADER];
        message[4..6].copy_from_slice(&1326_u16.to_ne_bytes());
        message.extend(b"audit(1:2): pid=7\0");
        let text = "audit(1:2): pid=7".to_owned();
        assert_eq!(record(&message), Some(Message::Record { kind: 1326, text }));
        assert_eq!(record(&message[..10]), None);
    }
}
