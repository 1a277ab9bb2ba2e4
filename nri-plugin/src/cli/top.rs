//! What happens on a node now: `top`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Output;

pub(super) const TOP_HELP: &str = "\
Keys:
  left, right  sort by another column
  r            the other way round
  up, down     the rows above or below; also page up, page down
  q, Esc       end

Denials and audited accesses are counted since the daemon started. What the programs in the kernel cost is measured while
`top` runs and not otherwise; measuring costs a little itself, for every BPF program of the machine. Without a terminal the
table is printed once.

Exit codes:
  0  shown
  1  the daemon does not answer, or not any more
  2  bad usage

Example:
  nri-enforcer top --once -o json --interval 5s";

/// `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Time between two looks, over which rates are taken: 100ms to 1m
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    pub interval: std::time::Duration,
    /// Look for one interval, print, and end
    #[arg(long)]
    pub once: bool,
    /// What denials are sorted by
    #[arg(long, value_enum, default_value_t)]
    pub sort: Sort,
    /// Output format of --once
    #[arg(short, long, value_enum, default_value_t, requires = "once")]
    pub output: Output,
    /// The daemon's socket, as given to `run`
    #[arg(long, value_name = "PATH", default_value = crate::config::DEFAULT_ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
}

/// What denials are sorted by, in the order of the columns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Namespace, pod and name.
    Container,
    /// The policy's name.
    Policy,
    /// How many a second.
    #[default]
    Rate,
    /// How many since the daemon started.
    Total,
    /// The last one.
    Last,
}

fn interval(text: &str) -> Result<std::time::Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let (least, most) = (std::time::Duration::from_millis(100), std::time::Duration::from_secs(60));
    if (least..=most).contains(&interval) { Ok(interval) } else { Err("expected 100ms to 1m".to_owned()) }
}
