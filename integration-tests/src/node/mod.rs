//! A node: containerd, pods and the daemon under test, on the machine that this code runs on (which is a guest of
//! [`crate::vm`], or a host of the user's).

mod cri;
mod daemon;
mod manifest;
mod messages;
mod runtime;

pub use cri::{Cri, Output, RunningContainer, RunningPod, State, start_failure};
pub use daemon::{Alert, Daemon, Options};
pub use manifest::{Container, Pod, parse};
pub use runtime::Runtime;
