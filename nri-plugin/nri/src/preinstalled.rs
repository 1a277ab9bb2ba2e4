//! Plugins that a runtime starts itself, with the connection already made.
//!
//! The runtime leaves the plugin its end of a socket pair as a file descriptor, and tells the number in the
//! environment.

use std::env;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UnixStream;

use crate::stub::{Error, StubBuilder};

const NAME: &str = "NRI_PLUGIN_NAME";
const INDEX: &str = "NRI_PLUGIN_IDX";
const SOCKET: &str = "NRI_PLUGIN_SOCKET";

/// The descriptor can be taken once only.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the connection, and the name and index that go with it, where the environment has one and the options
/// say to look. `None`: dial.
pub(crate) fn take(options: &mut StubBuilder) -> Result<Option<UnixStream>, Error> {
    if !options.environment {
        return Ok(None);
    }
    let Some(value) = env::var_os(SOCKET) else {
        return Ok(None);
    };
    let value = value.to_string_lossy().into_owned();
    let wrong = |why: String| Error::Environment { variable: SOCKET, value: value.clone(), why };
    let fd: RawFd = value.parse().map_err(|_| wrong("not the number of a descriptor".to_owned()))?;
    if fd < 3 {
        return Err(wrong("not a descriptor that a runtime would choose".to_owned()));
    }
    let link =
        std::fs::read_link(format!("/proc/self/fd/{fd}")).map_err(|e| wrong(format!("not open: {e}")))?;
    if !link.to_string_lossy().starts_with("socket:") {
        return Err(wrong("not a socket".to_owned()));
    }
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(wrong("already in use by this process".to_owned()));
    }
    if let Ok(name) = env::var(NAME) {
        options.name = name;
    }
    if let Ok(index) = env::var(INDEX) {
        options.index = index;
    }
    adopt(fd).map(Some).map_err(|error| wrong(error.to_string()))
}

/// Makes a stream of the descriptor. The copy that is kept is closed on exec, unlike what we were given: nobody whom
/// the plugin starts should inherit a connection that amounts to root.
fn adopt(fd: RawFd) -> std::io::Result<UnixStream> {
    #[expect(unsafe_code, reason = "there is no safe way to take a descriptor known by its number")]
    // SAFETY: the descriptor was seen to be an open socket. The environment variable hands it to this process for
    // this very purpose, and `TAKEN` makes sure that it is taken no more than once, so that nothing else owns it.
    let given = unsafe { OwnedFd::from_raw_fd(fd) };
    let stream = StdUnixStream::from(given.try_clone()?);
    drop(given);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
