//! A fake runtime: the other end of the protocol, to test plugins against without a container runtime.
//!
//! It speaks both dialects, keeps to a runtime's time limits, sends the list of what runs in parts, and reads the trunk
//! by the rules of a runtime written in Go, so that what a real runtime would not survive ends the connection here
//! too. It does not run containers.
//!
//! ```
//! # async fn example() -> Result<(), nri::fake::FakeError> {
//! use nri::fake::{FakeRuntime, Options};
//! use nri::{Container, PodSandbox};
//!
//! let mut runtime = FakeRuntime::bind("/run/example/nri.sock", Options::containerd("2.1.9"))?;
//! let plugin = runtime.accept().await?; // registered, configured and synchronised
//! let adjustment = plugin.create_container(&PodSandbox::default(), &Container::default()).await?;
//! # Ok(())
//! # }
//! ```

mod plugin;
mod trunk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protobuf::Message as _;
use tokio::net::UnixListener;

pub use plugin::{FakePlugin, Registration};
pub use trunk::TrunkError;

use crate::event::EventMask;
use crate::types::wire::Wire as _;
use crate::types::{Container, ContainerAdjustment, ContainerUpdate, PodSandbox};
use crate::version::NriVersion;

/// How events without an answer are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// As StateChange: NRI before 0.12.
    StateChange,
    /// By a procedure each, and as StateChange where the plugin has none: NRI from 0.12 on.
    PerEvent,
}

/// What a fake runtime is like.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The name it gives.
    pub runtime_name: String,
    /// The version it gives.
    pub runtime_version: String,
    /// The NRI it says it speaks; empty: it does not say.
    pub nri_version: String,
    /// How it sends events.
    pub dialect: Dialect,
    /// The events it knows; a plugin that asks for more is dropped.
    pub known_events: EventMask,
    /// How long it waits for a registration.
    pub registration_timeout: Duration,
    /// How long it waits for an answer, before it goes on without the plugin.
    pub request_timeout: Duration,
    /// Whether it tells its time limits.
    pub tells_timeouts: bool,
    /// How long it takes to answer a registration. Configure is not held up by it, as in real runtimes.
    pub registration_delay: Duration,
    /// Why it refuses registrations; empty: it does not.
    pub refuse_registration: String,
    /// Configuration text for the plugin.
    pub config: String,
    /// Bytes of the largest message that it sends.
    pub largest_message: usize,
    /// The pods of [`FakeRuntime::accept`]'s synchronisation.
    pub pods: Vec<PodSandbox>,
    /// The containers of [`FakeRuntime::accept`]'s synchronisation.
    pub containers: Vec<Container>,
    /// Containers whose updates fail.
    pub failing_updates: Vec<String>,
}

/// How many bytes an adjustment has on the wire.
#[must_use]
pub fn encoded_len(adjustment: &ContainerAdjustment) -> u64 {
    adjustment.clone().into_wire().compute_size()
}

impl Options {
    /// A containerd of this version, with the NRI that it contains.
    #[must_use]
    pub fn containerd(version: &str) -> Self {
        Self::runtime("containerd", version)
    }

    /// A runtime by name and version, such as `cri-o` and `1.34.0`, with the NRI that it contains; the newest, if it
    /// is not known.
    #[must_use]
    pub fn runtime(name: &str, version: &str) -> Self {
        let nri = NriVersion::of_runtime(name, version).unwrap_or(NriVersion::OURS);
        let newest = nri >= NriVersion::new(0, 12, 0);
        Self {
            runtime_name: name.to_owned(),
            runtime_version: version.to_owned(),
            nri_version: if newest { format!("v{nri}") } else { String::new() },
            dialect: if newest { Dialect::PerEvent } else { Dialect::StateChange },
            known_events: EventMask::known_to(Some(nri)),
            registration_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(2),
            tells_timeouts: nri >= NriVersion::new(0, 7, 0),
            registration_delay: Duration::ZERO,
            refuse_registration: String::new(),
            config: String::new(),
            largest_message: 4 << 20,
            pods: Vec::new(),
            containers: Vec::new(),
            failing_updates: Vec::new(),
        }
    }
}

/// What a runtime sees go wrong with a plugin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FakeError {
    /// The plugin answered with an error: the runtime refuses, and keeps the plugin.
    #[error("status {code}: {message}")]
    Status {
        /// The gRPC status code.
        code: i32,
        /// The plugin's text.
        message: String,
    },
    /// The plugin did not answer in time: the runtime drops it and goes on without it.
    #[error("the plugin did not answer in time")]
    TimedOut,
    /// The connection ended: the runtime goes on without the plugin.
    #[error(transparent)]
    Trunk(TrunkError),
    /// The plugin subscribed to these bits, which the runtime does not know.
    #[error("invalid plugin events: {0:#x}")]
    InvalidEvents(u32),
    /// The plugin did not keep to the rules of synchronisation in parts.
    #[error("the plugin does not support synchronisation in parts")]
    BadSynchronize,
    /// Anything else.
    #[error("{0}")]
    Other(String),
    /// The socket.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FakeError {
    /// Whether a runtime lets the container through after this, as it does for all but the plugin's own word.
    #[must_use]
    pub fn fails_open(&self) -> bool {
        !matches!(self, Self::Status { .. })
    }
}

/// A runtime that listens on a socket.
#[derive(Debug)]
pub struct FakeRuntime {
    listener: UnixListener,
    path: PathBuf,
    /// What it is like to plugins that connect from now on.
    pub options: Options,
}

impl FakeRuntime {
    /// Listens on `path`, in place of whatever is there.
    ///
    /// # Errors
    /// Those of the system.
    pub fn bind(path: impl AsRef<Path>, options: Options) -> Result<Self, FakeError> {
        let path = path.as_ref().to_owned();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        Ok(Self { listener: UnixListener::bind(&path)?, path, options })
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a plugin to connect, and no further: it is not registered yet.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn connected(&mut self) -> Result<FakePlugin, FakeError> {
        let (trunk, _) = self.listener.accept().await?;
        FakePlugin::start(trunk, Arc::new(self.options.clone())).await
    }

    /// Waits for a plugin to connect and takes it into service: registration, configuration, synchronisation.
    ///
    /// # Errors
    /// Whatever of these fails.
    pub async fn accept(&mut self) -> Result<FakePlugin, FakeError> {
        self.accept_with_updates().await.map(|(plugin, _)| plugin)
    }

    /// As [`Self::accept`]; gives the plugin's updates of what runs as well.
    ///
    /// # Errors
    /// Whatever fails.
    pub async fn accept_with_updates(&mut self) -> Result<(FakePlugin, Vec<ContainerUpdate>), FakeError> {
        let mut plugin = self.connected().await?;
        plugin.registered().await?;
        plugin.configure().await?;
        let (updates, _) = plugin.synchronize(&self.options.pods, &self.options.containers).await?;
        Ok((plugin, updates))
    }
}
