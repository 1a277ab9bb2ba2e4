//! Whether it is known what runs, and the ready file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;

use crate::api::Health;
use crate::connection::Connection;

/// How often to look whether the API server has told its policies, where none are known of an earlier time.
const LOOK: Duration = Duration::from_millis(200);

/// Tells how the connection to the runtime stands, and writes the ready file once it is known what runs and there are
/// policies to enforce.
pub(super) async fn observe(mut connection: Connection, api: Option<Health>, mut ready: Option<PathBuf>) {
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
        if in_service && let Some(path) = ready.take() {
            match std::fs::write(&path, "ready\n") {
                Ok(()) => tracing::info!(file = %path.display(), "ready"),
                Err(error) => tracing::error!(%error, file = %path.display(), "cannot write the ready file"),
            }
        }
        tokio::select! {
            changed = changed(&mut connection.nri) => if changed.is_err() { return },
            changed = connection.synced.changed(), if ready.is_some() || without_nri && !served => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK), if ready.is_some() && !has_set => {}
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
