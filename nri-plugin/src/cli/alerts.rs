//! `alerts`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::SystemTime;

use clap::{Args, ValueEnum};

use super::Output;

pub(super) const ALERTS_HELP: &str = "\
Reads what `run --alerts` writes. A notice that alerts were lost is shown whatever the filters.

Exit codes:
  0  everything was read
  1  some lines are no alerts; stderr says how many
  2  bad usage, or a file that cannot be read

Examples:
  nri-enforcer alerts -f --namespace default /var/log/nri-enforcer/alerts.jsonl
  nri-enforcer alerts --since 10m --action block /var/log/nri-enforcer/alerts.jsonl";

/// `alerts`.
#[derive(Debug, Args)]
pub struct AlertsArgs {
    /// File of alerts; `-` is stdin
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,
    /// Go on with what is written later, also when the file is replaced or cut
    #[arg(short, long)]
    pub follow: bool,
    /// Only of this namespace; may be repeated
    #[arg(long = "namespace", value_name = "NS")]
    pub namespaces: Vec<String>,
    /// Only of this pod; may be repeated
    #[arg(long = "pod", value_name = "NAME")]
    pub pods: Vec<String>,
    /// Only of this policy, NAME or NAMESPACE/NAME, or DefaultPosture; may be repeated
    #[arg(long = "policy", value_name = "NAME")]
    pub policies: Vec<String>,
    /// Only those with this action
    #[arg(long, value_enum)]
    pub action: Option<AlertAction>,
    /// Only those of the last TIME, as in 90s or 2h, or since a time as in 2026-11-22T18:59:04Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Output format; json: the lines as they are
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What was done to the access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AlertAction {
    /// It was denied.
    Block,
    /// It passed, and was reported.
    Audit,
}

/// `--since`: the time that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since(pub SystemTime);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = humantime::parse_rfc3339_weak(text) {
            return Ok(Self(time));
        }
        let ago =
            humantime::parse_duration(text).map_err(|error| format!("{error}; write 10m, or a time"))?;
        // before the beginning of time there was nothing, too
        Ok(Self(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)))
    }
}
