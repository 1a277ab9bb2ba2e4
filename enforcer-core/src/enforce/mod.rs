//! Into the kernel.

pub mod door;
mod error;
mod image;
mod maps;

pub use error::EnforceError;
