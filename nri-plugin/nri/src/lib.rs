#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod dispatch;
mod event;
#[cfg(feature = "fake-runtime")]
pub mod fake;
mod handle;
mod link;
mod mux;
mod plugin;
mod preinstalled;
mod proto;
mod service;
mod session;
mod state;
mod stub;
mod types;
mod version;

pub use async_trait::async_trait;
pub use event::{Event, EventMask};
pub use handle::{Counters, Handle, UpdateError};
pub use plugin::{Context, Plugin, Refusal};
pub use state::{Lost, RuntimeInfo, State};
pub use stub::{DEFAULT_SOCKET, Error, Stub, StubBuilder};
pub use types::*;
pub use version::NriVersion;
