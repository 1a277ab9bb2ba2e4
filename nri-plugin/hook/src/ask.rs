//! One question to the daemon, within a deadline.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    socket_with, sockopt,
};

use crate::message::{Answer, Request, body_len};

/// How long to wait before another try at a daemon whose queue of callers is full.
const AGAIN: Duration = Duration::from_millis(5);

/// When everything must be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn of(begin: Instant, limit: Duration) -> Self {
        Self { at: begin + limit, limit }
    }

    /// What is left; `None`: nothing.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Waits until something can be done with `fd`.
    pub(crate) fn wait(&self, fd: BorrowedFd<'_>, what: PollFlags) -> Result<(), Trouble> {
        loop {
            let left = self.left().ok_or(Trouble::Late(self.limit))?;
            // rounded up to microseconds, so that the last wait is not for no time
            let left =
                Timespec::try_from(left + Duration::from_micros(1)).map_err(|_| Trouble::Late(self.limit))?;
            match poll(&mut [PollFd::from_borrowed_fd(fd, what)], Some(&left)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(Trouble::Broken(error.into())),
            }
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Nobody listens.
    Absent(io::Error),
    /// Someone listens who is not root.
    NotRoot(u32),
    /// Nothing came in time.
    Late(Duration),
    /// The connection ended, or failed.
    Broken(io::Error),
    /// What came is no answer.
    Garbage(String),
}

/// Asks, and waits for the answer.
pub(crate) fn ask(socket: &Path, request: &Request, deadline: &Deadline) -> Result<Answer, Trouble> {
    let daemon = tell(socket, request, deadline)?;
    let mut head = [0; 4];
    receive(&daemon, &mut head, deadline)?;
    let mut body = vec![0; body_len(head).map_err(Trouble::Garbage)?];
    receive(&daemon, &mut body, deadline)?;
    Answer::decode(&body).map_err(Trouble::Garbage)
}

/// Sends the message, to root only.
pub(crate) fn tell(socket: &Path, request: &Request, deadline: &Deadline) -> Result<OwnedFd, Trouble> {
    let absent = |errno: Errno| Trouble::Absent(errno.into());
    let address = SocketAddrUnix::new(socket.as_os_str().as_bytes()).map_err(absent)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let daemon = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(absent)?;
    loop {
        match connect(&daemon, &address) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match deadline.left() {
                Some(left) => std::thread::sleep(left.min(AGAIN)),
                None => return Err(Trouble::Late(deadline.limit)),
            },
            Err(error) => return Err(absent(error)),
        }
    }
    // of whoever called listen(), not of whoever owns the file
    let peer = sockopt::socket_peercred(&daemon).map_err(|error| Trouble::Broken(error.into()))?;
    if !peer.uid.is_root() {
        return Err(Trouble::NotRoot(peer.uid.as_raw()));
    }
    let message = request.encode();
    let mut rest = message.as_slice();
    while !rest.is_empty() {
        match send(&daemon, rest, SendFlags::NOSIGNAL) {
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
            Err(Errno::AGAIN) => deadline.wait(daemon.as_fd(), PollFlags::OUT)?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(Trouble::Broken(error.into())),
        }
    }
    Ok(daemon)
}

fn receive(daemon: &OwnedFd, into: &mut [u8], deadline: &Deadline) -> Result<(), Trouble> {
    let mut have = 0;
    while let Some(rest) = into.get_mut(have..).filter(|rest| !rest.is_empty()) {
        match recv(daemon, rest, RecvFlags::empty()) {
            Ok((0, _)) => return Err(Trouble::Broken(io::ErrorKind::UnexpectedEof.into())),
            Ok((count, _)) => have += count,
            Err(Errno::AGAIN) => deadline.wait(daemon.as_fd(), PollFlags::IN)?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(Trouble::Broken(error.into())),
        }
    }
    Ok(())
}
