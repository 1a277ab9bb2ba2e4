//! The node daemon and command line `nri-enforcer`.

#![deny(unsafe_code)]

pub mod alert;
pub mod alerts;
pub mod apparmor;
pub mod check;
pub mod cli;
pub mod compile;
pub mod config;
pub mod container;
pub mod crds;
pub mod diff;
pub mod documents;
pub mod exit;
pub mod explain;
pub mod feed;
pub mod gate;
pub mod inject;
pub mod input;
pub mod install;
pub mod judge;
pub mod kernel;
pub mod limit;
pub mod lock;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod order;
pub mod plugin;
pub mod podman;
pub mod policy_test;
pub mod probe;
pub mod procs;
pub mod reconciler;
pub mod registry;
pub mod report;
pub mod roots;
pub mod run;
pub mod seccomp;
pub mod set;
pub mod socket;
pub mod status;
pub mod store;
pub mod term;
pub mod unload;
pub mod watch;
