//! Sockets of the daemon's: in a directory of root's alone, gone with the daemon.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

/// The directory of sockets unless told otherwise; the daemon's own.
const DEFAULT_DIR: &str = "/run/nri-enforcer";
/// How long to wait before accepting again after that has failed (no descriptors left).
const AGAIN: Duration = Duration::from_millis(50);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The socket cannot be made.
    #[error("cannot listen at `{}`", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others could get at the socket.
    #[error("`{}` must be a directory of root's alone: run `chown root` and `chmod 700` on it, or name a socket elsewhere with {flag}", path.display())]
    Directory {
        /// The directory of the socket.
        path: PathBuf,
        /// The flag that names the socket.
        flag: &'static str,
    },
    /// Something else is there, or is in use.
    #[error("`{}` {what}", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
        /// Who has it, and what to do.
        what: &'static str,
    },
}

/// A socket that is listened at. It goes when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Makes the socket, in a directory of root's alone; `flag` is the one that names it. A socket that nobody listens at any more is replaced.
    ///
    /// # Errors
    /// When it cannot be made, others could get at it, or somebody listens there.
    pub fn open(path: &Path, flag: &'static str) -> Result<Self, SocketError> {
        let fail = |source| SocketError::Listen { path: path.to_owned(), source };
        let dir = path.parent().ok_or_else(|| fail(ErrorKind::InvalidInput.into()))?;
        own_directory(dir)
            .map_err(fail)?
            .then_some(())
            .ok_or_else(|| SocketError::Directory { path: dir.to_owned(), flag })?;
        let taken = |what| Err(SocketError::Taken { path: path.to_owned(), what });
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
            Ok(about) if !about.file_type().is_socket() => {
                return taken("is there, and is no socket: remove it");
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => return taken("is in use: another nri-enforcer listens there"),
                // its daemon was killed
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(fail)?
                }
                Err(error) => return Err(fail(error)),
            },
        }
        let listener = UnixListener::bind(path).map_err(fail)?;
        let socket = Self { listener, path: path.to_owned() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
        Ok(socket)
    }

    /// The next caller, however long that takes.
    pub async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((caller, _)) => return caller,
                Err(error) => {
                    tracing::error!(%error, socket = %self.path.display(), "cannot accept a caller");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}

/// Makes the directory, if there is none; whether it is root's alone. The default one is the daemon's, so it is shut.
fn own_directory(dir: &Path) -> std::io::Result<bool> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let about = std::fs::symlink_metadata(dir)?;
    if !about.is_dir() || about.uid() != nix::unistd::geteuid().as_raw() {
        return Ok(false);
    }
    if about.mode() & 0o077 != 0 && dir == Path::new(DEFAULT_DIR) {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
        return Ok(true);
    }
    Ok(about.mode() & 0o077 == 0)
}

/// Whether the caller is root; else who it is, for people.
///
/// # Errors
/// When it is not.
pub fn is_root(caller: &UnixStream) -> Result<(), String> {
    let peer = caller.peer_cred().map_err(|error| error.to_string())?;
    if peer.uid() == 0 { Ok(()) } else { Err(format!("user {}, not root", peer.uid())) }
}
