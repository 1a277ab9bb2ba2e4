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
/// The largest record, in bytes: a name of AppArmor's has up to 8192, twice as many in hexadecimal, and a link has two.
/// What is longer is cut off.
const MAX_RECORD: usize = 32 << 10;

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
        /// There was more of it than is taken.
        cut: bool,
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
        let (length, sender, cut) = match received {
            Ok(received) => (received.bytes, received.address, received.flags.contains(MsgFlags::MSG_TRUNC)),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Message::Nothing),
            Err(Errno::ENOBUFS) => return Ok(Message::Lost),
            Err(error) => return Err(error.into()),
        };
        // whoever may administer the network can send to this socket, too
        if sender.is_none_or(|sender| sender.pid() != 0) {
            return Ok(Message::Nothing);
        }
        let message = self.message.get(..length).unwrap_or_default();
        Ok(record(message, cut).unwrap_or(Message::Nothing))
    }
}

/// The type and the text of a message. The kernel's length field of audit messages does not count the header, so the text
/// is what came.
fn record(message: &[u8], cut: bool) -> Option<Message> {
    let kind = message.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes)?;
    let text = String::from_utf8_lossy(message.get(HEADER..)?);
    Some(Message::Record { kind, text: text.trim_end_matches(['\0', '\n']).to_owned(), cut })
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Mutex, PoisonError};

    use nix::sys::socket::{getsockname, sendto};

    use super::*;

    /// The one kind of message that a program may have the kernel make a record of though audit is off (`AUDIT_USER_AVC`).
    const USER_AVC: u16 = 1107;
    /// `NLM_F_REQUEST`
    const REQUEST: u16 = 1;
    const KERNEL: u32 = 0;
    /// How long one wait lasts, and how many are made for what certainly comes.
    const POLL: Duration = Duration::from_millis(50);
    const WAITS: usize = 400;

    pub(in crate::audit) fn open(buffer: usize) -> Socket {
        Socket::open(buffer, POLL).expect("this takes root, and a kernel with audit")
    }

    /// Another program, which may administer the network, and audit.
    struct Other(OwnedFd);

    impl Other {
        fn new() -> Self {
            let kind = (AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC);
            Self(socket(kind.0, kind.1, kind.2, SockProtocol::NetlinkAudit).unwrap())
        }

        fn send(&self, to: u32, kind: u16, text: &str) {
            let length = u32::try_from(HEADER + text.len() + 1).unwrap();
            let mut message = length.to_ne_bytes().to_vec();
            message.extend([kind, REQUEST].into_iter().flat_map(u16::to_ne_bytes));
            message.extend([0; 8]);
            message.extend(text.as_bytes());
            message.push(0); // the kernel puts an end there anyway
            sendto(self.0.as_raw_fd(), &message, &NetlinkAddr::new(to, 0), MsgFlags::empty()).unwrap();
        }
    }

    /// One test at a time: the kernel itself drops what comes too fast.
    static TURN: Mutex<()> = Mutex::new(());

    /// Listens until something is heard that holds; whenever nothing is, it is said again.
    fn until(socket: &mut Socket, say: impl Fn(), holds: impl Fn(&Message) -> bool) -> Message {
        let heard = (0..WAITS).find_map(|_| match socket.heard().unwrap() {
            Message::Nothing => {
                say();
                None
            }
            message => holds(&message).then_some(message),
        });
        heard.expect("it comes")
    }

    fn says(message: &Message, text: &str) -> bool {
        matches!(message, Message::Record { text: record, .. } if record.contains(text))
    }

    fn own(text: &str) -> String {
        format!("op={text} of={}", std::process::id())
    }

    /// What another program sends is no record, whatever it says; what the kernel makes of its words is one, of another kind.
    #[test]
    fn the_kernel_alone_is_believed() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut socket, other) = (open(1 << 20), Other::new());
        let port = getsockname::<NetlinkAddr>(socket.fd.as_raw_fd()).unwrap().pid();
        let forged = format!("audit(1.000:2): apparmor=\"DENIED\" {}", own("forged"));
        let last = own("last");
        let say = || {
            other.send(port, 1400, &forged);
            other.send(KERNEL, USER_AVC, &last);
        };
        let heard = until(&mut socket, say, |message| says(message, &own("forged")) || says(message, &last));
        assert!(matches!(&heard, Message::Record { kind: USER_AVC, cut: false, .. }), "{heard:?}");
    }

    #[test]
    fn a_record_that_is_too_long_is_told_as_cut_off() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut socket, other) = (open(1 << 20), Other::new());
        let (begin, next) = (own("long"), own("next"));
        let long = format!("{begin} {}", "x".repeat(300));
        socket.message.truncate(HEADER + 200);
        let heard =
            until(&mut socket, || other.send(KERNEL, USER_AVC, &long), |message| says(message, &begin));
        let Message::Record { text, cut: true, .. } = heard else { panic!("{heard:?}") };
        assert_eq!(text.len(), 200);
        // the next one is whole again
        socket.message.resize(HEADER + MAX_RECORD, 0);
        let heard =
            until(&mut socket, || other.send(KERNEL, USER_AVC, &next), |message| says(message, &next));
        assert!(matches!(heard, Message::Record { cut: false, .. }), "{heard:?}");
    }

    #[test]
    fn records_that_have_no_room_are_told_as_lost() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut socket, other) = (open(1), Other::new()); // the kernel gives its least
        let many = format!("{} {}", own("many"), "x".repeat(500));
        // nothing is read before the kernel's thread has had its turn
        let say = || {
            (0..50).for_each(|_| other.send(KERNEL, USER_AVC, &many));
            std::thread::sleep(POLL);
        };
        until(&mut socket, say, |message| *message == Message::Lost);
    }

    #[test]
    fn a_short_message_is_none() {
        let mut message = vec![0; HEADER];
        message[4..6].copy_from_slice(&1326_u16.to_ne_bytes());
        message.extend(b"audit(1:2): pid=7\0");
        let text = "audit(1:2): pid=7".to_owned();
        assert_eq!(record(&message, false), Some(Message::Record { kind: 1326, text, cut: false }));
        assert_eq!(record(&message[..10], false), None);
    }
}
