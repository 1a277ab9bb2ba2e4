//! Machines: a stock Debian kernel under QEMU without KVM. Booting takes 3 to 10 s, so it is done once per
//! configuration: the running machine is saved, and each job gets a fresh copy of it in about 0.2 s.

mod initrd;
mod job;
mod qmp;
mod snapshot;
mod systemd;
mod times;

use std::fmt;
use std::str::FromStr;

pub use job::{Job, Outcome, Running, Streams};
pub use snapshot::{Machine, machine};

/// A kernel of Debian: the oldest that is supported, the newest long-term one, and the newest of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// Linux 6.1
    V6_1,
    /// Linux 6.12
    V6_12,
    /// The newest that Debian has, whichever that was when the lab was set up
    Newest,
}

/// A containerd of Debian: 13's, and the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Containerd {
    /// 1.7, which speaks NRI 0.6
    V1_7,
    /// 2.1, which speaks NRI 0.8
    V2_1,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::Newest];
    /// Those that everything is tested on.
    pub const LONG_TERM: [Self; 2] = [Self::V6_1, Self::V6_12];
}

impl Containerd {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V1_7, Self::V2_1];
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Newest => "newest",
        })
    }
}

impl fmt::Display for Containerd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_7 => "1.7",
            Self::V2_1 => "2.1",
        })
    }
}

impl FromStr for Kernel {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|k| k.to_string() == s)
            .ok_or_else(|| format!("`{s}` is not a kernel of the lab: 6.1, 6.12 or newest"))
    }
}

impl FromStr for Containerd {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|k| k.to_string() == s)
            .ok_or_else(|| format!("`{s}` is not a containerd of the lab: 1.7 or 2.1"))
    }
}

/// What a machine is to be. Equal specifications share one saved machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its kernel.
    pub kernel: Kernel,
    /// The containerd that is running in it with the lab's images; `None`: none is running, and it is up sooner.
    pub containerd: Option<Containerd>,
    /// More words for the kernel's command line, e.g. `preempt=full`.
    pub append: String,
    /// systemd is the first process, and jobs are run by a service of it. Not with a containerd.
    pub systemd: bool,
    /// The guest's clock counts instructions (1 ns each), on one CPU: equal in every run, whatever the host does.
    pub icount: bool,
    /// Memory in MiB; only what the guest touches is taken from the host.
    pub memory_mib: u32,
    /// TCP ports of the guest that this machine reaches ([`Running::address`]). None: the guest has no network. It never reaches
    /// this machine, nor what is beyond: its own address is [`GUEST_ADDRESS`].
    pub ports: Vec<u16>,
}

/// The address of `eth0` in a guest with a network, which the guest has to set.
pub const GUEST_ADDRESS: &str = "10.0.2.15";

impl Spec {
    /// A machine with this kernel and a running containerd.
    #[must_use]
    pub fn node(kernel: Kernel, containerd: Containerd) -> Self {
        Self { containerd: Some(containerd), ..Self::plain(kernel) }
    }

    /// A machine with this kernel and no container runtime.
    #[must_use]
    pub fn plain(kernel: Kernel) -> Self {
        Self {
            kernel,
            containerd: None,
            append: String::new(),
            systemd: false,
            icount: false,
            memory_mib: 2048,
            ports: Vec::new(),
        }
    }

    /// A machine with this kernel in which systemd is the first process.
    #[must_use]
    pub fn systemd(kernel: Kernel) -> Self {
        Self { systemd: true, ..Self::plain(kernel) }
    }

    /// A name to show and to file it under, e.g. `6.1-containerd-1.7`. Not unique: the key of the cache is.
    #[must_use]
    pub fn name(&self) -> String {
        let mut name = self.kernel.to_string();
        if let Some(containerd) = self.containerd {
            name.push_str(&format!("-containerd-{containerd}"));
        }
        for (has, word) in [(self.systemd, "-systemd"), (self.icount, "-icount")] {
            name.push_str(if has { word } else { "" });
        }
        if !self.ports.is_empty() {
            name.push_str("-network");
        }
        for word in self.append.split_whitespace() {
            name.push('-');
            name.extend(word.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '='));
        }
        name
    }
}
