//! Whether it is known what runs, and who is told: a ready file, and the service manager.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;

use crate::api::Health;
use crate::connection::Connection;

/// How often to look whether the API server has told its policies, where none are known of an earlier time.
const LOOK: Duration = Duration::from_millis(200);

/// Where a service manager waits to be told that the daemon is ready: a path, or a name that begins with `@` (`sd_notify(3)`).
const MANAGER_ENV: &str = "NOTIFY_SOCKET";

/// Who waits to be told, once, that the daemon is ready.
#[derive(Debug)]
pub(super) struct Waiting {
    file: Option<PathBuf>,
    manager: Option<OsString>,
}

impl Waiting {
    /// Whoever is to read this file, and the service manager that has started this process, if one waits.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file, manager: std::env::var_os(MANAGER_ENV) }
    }

    const fn is_anyone(&self) -> bool {
        self.file.is_some() || self.manager.is_some()
    }

    fn tell(&mut self) {
        if let Some(path) = self.file.take() {
            match std::fs::write(&path, "ready\n") {
                Ok(()) => tracing::info!(file = %path.display(), "ready"),
                Err(error) => tracing::error!(%error, file = %path.display(), "cannot write the ready file"),
            }
        }
        if let Some(socket) = self.manager.take() {
            match tell_manager(&socket) {
                Ok(()) => tracing::info!("ready, as the service manager is told"),
                Err(error) => {
                    tracing::error!(%error, ?socket, "cannot tell the service manager that it is ready")
                }
            }
        }
    }
}

fn tell_manager(socket: &OsStr) -> std::io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}

/// Tells how the connection to the runtime stands, and tells who waits for it once it is known what runs and there are
/// policies to enforce.
pub(super) async fn observe(mut connection: Connection, api: Option<Health>, mut waiting: Waiting) {
    let mut lost = String::new(); // what was said last
    let without_nri = connection.is_without_nri();
    let mut served = false; // of a node without
    loop {
        let synced = *connection.synced.borrow_and_update();
        match connection.nri.as_mut().map(|state| state.borrow_and_update().clone()) {
            None if synced && !served => {
                served = true;
                tracing::info!(
                    "in service, without NRI: what starts without the OCI hook starts unprotected"
                );
            }
            Some(nri::State::Lost { reason, .. }) if reason.to_string() != lost => {
                lost = reason.to_string();
                tracing::error!(%reason, "no connection to the runtime: what starts now without the OCI hook starts unprotected; will try on");
            }
            Some(nri::State::Synchronized(_)) => {
                lost.clear();
                tracing::info!("in service");
            }
            _ => {}
        }
        let has_set = api.as_ref().is_none_or(Health::has_set);
        let in_service = connection.knows() && has_set;
        if in_service {
            waiting.tell();
        }
        tokio::select! {
            changed = changed(&mut connection.nri) => if changed.is_err() { return },
            changed = connection.synced.changed(), if waiting.is_anyone() || without_nri && !served => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK), if waiting.is_anyone() && !has_set => {}
        }
    }
}

/// Waits for a change of the connection; forever where there is to be none.
async fn changed(state: &mut Option<watch::Receiver<nri::State>>) -> Result<(), watch::error::RecvError> {
    match state {
        Some(state) => state.changed().await,
        None => std::future::pending().await,
    }
}

/// Of an earlier daemon, or at the end.
///
/// # Errors
/// When it cannot be removed.
pub(super) fn remove_ready(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the old ready file `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("nri-enforcer-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, manager) in [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}").into()),
        ] {
            let file = dir.path().join("ready");
            let mut waiting = Waiting { file: Some(file.clone()), manager: Some(manager) };
            assert!(waiting.is_anyone());
            waiting.tell();
            assert!(!waiting.is_anyone() && file.exists());
            waiting.tell();
            socket.set_nonblocking(true).unwrap();
            let mut bytes = [0; 64];
            let length = socket.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"READY=1");
            assert_eq!(socket.recv(&mut bytes).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        }
        // nobody is there: that is told, and nothing else
        Waiting { file: None, manager: Some("/nowhere/notify".into()) }.tell();
    }
}
