//! The plugin's end of the protocol: connects, registers, serves, and connects again.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::event::EventMask;
use crate::handle::{Handle, Shared};
use crate::mux::Framing;
use crate::plugin::Plugin;
use crate::state::{Lost, State};

/// Where runtimes listen unless they are configured otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/nri/nri.sock";

/// Why a stub cannot be built, or has ended for good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name does not fit.
    #[error("plugin name `{0}` is not made of letters, digits, `_`, `.`, `+` and `-`")]
    Name(String),
    /// The index does not fit.
    #[error("plugin index `{0}` is not two digits, such as `10`")]
    Index(String),
    /// The plugin asks for no event at all.
    #[error("no event to subscribe to")]
    NoEvents,
    /// What the runtime handed to a pre-installed plugin does not fit.
    #[error("`{variable}={value}`: {why}")]
    Environment {
        /// The variable's name.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// The connection ended, and this one cannot be made again (pre-installed mode, or reconnecting turned off).
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// Collects what a [`Stub`] needs to know.
#[derive(Clone, Debug)]
pub struct StubBuilder {
    pub(crate) name: String,
    pub(crate) index: String,
    pub(crate) socket: PathBuf,
    pub(crate) events: EventMask,
    pub(crate) reconnect: bool,
    pub(crate) register_timeout: Duration,
    pub(crate) longest_pause: Duration,
    pub(crate) environment: bool,
    pub(crate) framing: Framing,
}

impl StubBuilder {
    /// The runtime's socket; [`DEFAULT_SOCKET`] if not given.
    #[must_use]
    pub fn socket(mut self, path: impl AsRef<Path>) -> Self {
        self.socket = path.as_ref().to_owned();
        self
    }

    /// The events to subscribe to; all if not given. What the runtime does not know is left out of the subscription
    /// and told in [`RuntimeInfo::unavailable`](crate::RuntimeInfo::unavailable).
    #[must_use]
    pub fn events(mut self, events: impl Into<EventMask>) -> Self {
        self.events = events.into();
        self
    }

    /// Whether to connect again after a loss; yes if not given.
    #[must_use]
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// How long to wait for the answer to the registration; 30 s if not given. A runtime takes plugins one after
    /// the other, and each silent one before us costs it 5 s.
    #[must_use]
    pub fn register_timeout(mut self, timeout: Duration) -> Self {
        self.register_timeout = timeout;
        self
    }

    /// The longest pause between two tries; 3 s if not given. While nobody listens it is 200 ms at most.
    #[must_use]
    pub fn longest_pause(mut self, pause: Duration) -> Self {
        self.longest_pause = pause;
        self
    }

    /// Runs as a pre-installed plugin where a runtime started this process as one: takes the connection, name and
    /// index from `NRI_PLUGIN_SOCKET`, `NRI_PLUGIN_NAME` and `NRI_PLUGIN_IDX`. Where `NRI_PLUGIN_SOCKET` is not set
    /// this changes nothing.
    #[must_use]
    pub fn environment(mut self) -> Self {
        self.environment = true;
        self
    }

    /// Writes each message in one frame, which runtimes do not survive: to show that a test of the framing would notice.
    #[cfg(feature = "fake-runtime")]
    #[doc(hidden)]
    #[must_use]
    pub fn without_frame_rule(mut self) -> Self {
        self.framing = Framing::OneFrame;
        self
    }

    /// Checks what was given.
    ///
    /// # Errors
    /// A name, an index or an environment that the runtime would refuse.
    pub fn build(self) -> Result<Stub, Error> {
        let named = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
        if self.name.is_empty() || !self.name.chars().all(named) {
            return Err(Error::Name(self.name));
        }
        if self.index.len() != 2 || !self.index.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Error::Index(self.index));
        }
        if self.events.is_empty() {
            return Err(Error::NoEvents);
        }
        Ok(Stub { options: self, shared: Arc::new(Shared::new()) })
    }

    /// [`Self::build`] and [`Stub::run`] in one.
    ///
    /// # Errors
    /// Those of both.
    pub async fn run<P: Plugin>(
        self,
        plugin: Arc<P>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), Error> {
        self.build()?.run(plugin, shutdown).await
    }
}

/// A plugin's end of the connection to its runtime.
#[derive(Debug)]
pub struct Stub {
    options: StubBuilder,
    shared: Arc<Shared>,
}

impl Stub {
    /// Begins to describe a plugin. `name`: letters, digits, `_.+-`. `index`: two digits; plugins are called in
    /// their order.
    #[must_use]
    pub fn builder(name: impl Into<String>, index: impl Into<String>) -> StubBuilder {
        StubBuilder {
            name: name.into(),
            index: index.into(),
            socket: DEFAULT_SOCKET.into(),
            events: EventMask::ALL,
            reconnect: true,
            register_timeout: Duration::from_secs(30),
            longest_pause: Duration::from_secs(3),
            environment: false,
            framing: Framing::GoSafe,
        }
    }

    /// A handle to observe the connection and to update containers. It stays good across reconnections.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// The connection's state, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    /// Serves until `shutdown` is ready. Lost connections are made again.
    ///
    /// # Errors
    /// A loss that cannot be mended: in pre-installed mode, or with [`StubBuilder::reconnect`] off.
    pub async fn run<P: Plugin>(
        self,
        plugin: Arc<P>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), Error> {
        let plugin: Arc<dyn Plugin> = plugin;
        crate::session::serve(self.options, self.shared, plugin, None, shutdown).await
    }

    /// As [`Self::run`], but over a stream that is there already, and no other.
    ///
    /// # Errors
    /// The end of the stream.
    pub async fn run_over<P: Plugin>(
        self,
        trunk: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        plugin: Arc<P>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), Error> {
        let plugin: Arc<dyn Plugin> = plugin;
        crate::session::serve(self.options, self.shared, plugin, Some(Box::new(trunk)), shutdown).await
    }
}
