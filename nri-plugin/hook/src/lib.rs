//! The OCI runtime hook of nri-enforcer, and what it and the daemon say to each other.
//!
//! A runtime runs the hook at `createRuntime`, before the container's first instruction, and fails the container when
//! the hook fails. podman also runs it at `precreate`, where it edits the container's configuration. So whatever became of
//! the daemon since the container was created, nothing starts unprotected that a policy may select. [`run`] is what the program does; [`message`] is the protocol, [`spool`] the record of what was
//! let through, both of which the daemon reads.

#![forbid(unsafe_code)]

mod ask;
pub mod config;
mod json;
pub mod message;
pub mod run;
pub mod spec;
pub mod spool;
pub mod state;
mod users;
