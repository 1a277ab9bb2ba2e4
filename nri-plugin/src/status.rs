//! `status`: how each container of this node stands to its policies. The daemon says it at a socket, the command prints it.

pub mod document;
mod policies;
pub mod serve;
pub mod show;

#[cfg(test)]
pub(crate) mod tests;
