//! `learn policy`: from what a container does to the least policy that allows it.
//!
//! The command asks the daemon, at its admin socket, to watch a container for a while ([`serve`]); the daemon makes it
//! visible as long as the connection lives, and collects what it does. The command makes rules of that ([`generalise`]),
//! writes them, and asks the policy that it has written about every access before it hands it out ([`write`]).

pub mod command;
pub mod generalise;
pub mod serve;
pub mod wire;
pub mod write;

#[cfg(test)]
mod tests;
