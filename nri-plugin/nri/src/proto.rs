//! The generated messages and services, fenced in here: no other module's public face shows them, so that the
//! protobuf library is not part of this crate's own promise of stability.
#![allow(
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::restriction,
    clippy::pedantic,
    missing_docs,
    missing_debug_implementations,
    nonstandard_style,
    rust_2018_idioms,
    unused,
    reason = "generated code is not held to the house's lints"
)]

/// The messages.
pub(crate) mod api {
    include!(concat!(env!("OUT_DIR"), "/api.rs"));
}

/// The ttrpc services: traits to serve and clients to call.
pub(crate) mod api_ttrpc {
    include!(concat!(env!("OUT_DIR"), "/api_ttrpc.rs"));
}
