//! The state of a plugin's connection, for all to see.

use std::sync::Arc;
use std::time::Duration;

use crate::event::EventMask;
use crate::version::NriVersion;

/// The runtime at the other end, as its Configure request tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeInfo {
    /// Such as `containerd`.
    pub name: String,
    /// In the runtime's own notation, such as `v2.2.1` or `2.1.9+unknown`.
    pub version: String,
    /// The NRI it speaks; `None`: it does not say, and its name and version are in no table of ours.
    pub nri_version: Option<NriVersion>,
    /// Whether the runtime itself said so (since NRI 0.12), or a table of releases.
    pub nri_version_stated: bool,
    /// The events offered to [`Plugin::configure`](crate::Plugin::configure), then those subscribed to.
    pub events: EventMask,
    /// The events that the plugin asked for in vain, because the runtime is too old for them.
    pub unavailable: EventMask,
    /// Configuration text of a pre-installed plugin; empty: none.
    pub config: String,
    /// The runtime's limit for a registration. NRI 0.7.
    pub registration_timeout: Option<Duration>,
    /// The runtime's limit for a request. NRI 0.7.
    pub request_timeout: Option<Duration>,
}

/// Where a plugin's connection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Trying to connect and to register.
    Connecting {
        /// Tries since the last connection that worked, from 1.
        attempt: u32,
    },
    /// Registered and configured; the list of what runs is yet to come.
    Registered(Arc<RuntimeInfo>),
    /// In service: the plugin knows what runs and is asked about every event.
    Synchronized(Arc<RuntimeInfo>),
    /// Not connected. **What starts now starts without the plugin.**
    Lost {
        /// Why.
        reason: Lost,
        /// Until the next try; `None`: there will be none.
        retry_in: Option<Duration>,
    },
    /// Ended by the plugin's own wish.
    Stopped,
}

impl State {
    /// The runtime, while there is one.
    #[must_use]
    pub fn runtime(&self) -> Option<&Arc<RuntimeInfo>> {
        match self {
            Self::Registered(runtime) | Self::Synchronized(runtime) => Some(runtime),
            _ => None,
        }
    }

    /// Whether the plugin is in service.
    #[must_use]
    pub fn is_synchronized(&self) -> bool {
        matches!(self, Self::Synchronized(_))
    }
}

/// Why a connection was lost or never came to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// The socket is not there or nobody listens.
    #[error("cannot connect to `{socket}`: {why}")]
    Connect {
        /// The socket's path.
        socket: String,
        /// The system's words.
        why: String,
    },
    /// The runtime ended the connection: it stopped, or it dropped the plugin.
    #[error("the runtime closed the connection")]
    Closed,
    /// The bytes on the trunk were not the protocol's, or it broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The runtime refused the registration, or did not answer.
    #[error("registration failed: {0}")]
    Register(String),
    /// The plugin refused its configuration, or none of its events is known to the runtime.
    #[error("configuration failed: {0}")]
    Configure(String),
    /// The plugin's own synchronisation failed.
    #[error("synchronisation failed: {0}")]
    Synchronize(String),
}
