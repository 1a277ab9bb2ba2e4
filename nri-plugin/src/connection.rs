//! How the daemon learns what runs: from the runtime, over NRI, or, on a node that has no NRI, from podman's files and the
//! kernel.

use tokio::sync::watch;

/// Who tells what runs, and whether that is known.
#[derive(Debug, Clone)]
pub struct Connection {
    /// How the connection to the runtime stands; `None`: by configuration there is none.
    pub(crate) nri: Option<watch::Receiver<nri::State>>,
    /// Whether what runs has been taken over.
    pub(crate) synced: watch::Receiver<bool>,
}

impl Connection {
    /// With the state of the connection to the runtime; `None`: the node is configured to have no NRI (`--nri-socket none`).
    #[must_use]
    pub fn new(nri: Option<watch::Receiver<nri::State>>, synced: watch::Receiver<bool>) -> Self {
        Self { nri, synced }
    }

    /// Whether the node has no NRI by configuration, so that only the OCI hook and podman's files tell of containers.
    #[must_use]
    pub fn is_without_nri(&self) -> bool {
        self.nri.is_none()
    }

    /// Whether a runtime is connected, be it that it has not told yet what runs.
    #[must_use]
    pub fn has_runtime(&self) -> bool {
        self.nri.as_ref().is_some_and(|state| state.borrow().runtime().is_some())
    }

    /// Why it is not known what runs; `None`: it is.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        let connected = self.nri.as_ref().is_none_or(|state| state.borrow().is_synchronized());
        match (connected, *self.synced.borrow()) {
            (true, true) => None,
            (true, false) => Some("what runs has not been taken over yet"),
            (false, _) => Some("not connected to the runtime"),
        }
    }

    /// Whether it is known what runs.
    #[must_use]
    pub fn knows(&self) -> bool {
        self.problem().is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn without_nri_nothing_is_waited_for_but_what_runs() {
        let (synced, is_synced) = watch::channel(false);
        let (state, connected) = watch::channel(nri::State::Connecting { attempt: 1 });
        let (over, without) =
            (Connection::new(Some(connected), is_synced.clone()), Connection::new(None, is_synced));
        assert!(!over.is_without_nri() && without.is_without_nri());
        assert_eq!(over.problem(), Some("not connected to the runtime"));
        assert_eq!(without.problem(), Some("what runs has not been taken over yet"));
        synced.send_replace(true);
        assert!(!over.knows() && without.knows());
        state.send_replace(nri::State::Synchronized(Arc::default()));
        assert!(over.knows() && over.has_runtime() && !without.has_runtime());
    }
}
