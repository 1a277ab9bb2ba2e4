//! The lab: a real containerd on a real Debian kernel in a virtual machine, in which policies are tried and tested.
//!
//! [`vm`] boots a machine once, saves it, and restores a fresh copy for each job in a fraction of a second; no KVM is
//! needed. [`node`] is what runs inside: pods started over CRI, and the daemon under test. [`run`] puts the two
//! together for the command line, [`testing`] for the tests. [`bench`] counts what enforcement costs.
#![forbid(unsafe_code)]

pub mod apparmor;
pub mod bench;
pub mod cache;
pub mod cli;
pub mod commands;
pub mod corpus;
pub mod cpio;
pub mod demo;
pub mod image;
pub mod loaded;
pub mod node;
pub mod oci;
pub mod outcome;
pub mod page;
pub mod podman;
pub mod run;
pub mod stand_in;
pub mod testing;
pub mod verifier;
pub mod vm;
