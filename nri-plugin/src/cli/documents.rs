//! `completions`, `crds` and `man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

pub(super) const COMPLETIONS_HELP: &str = "\
Examples:
  nri-enforcer completions bash > /etc/bash_completion.d/nri-enforcer
  nri-enforcer completions zsh > /usr/local/share/zsh/site-functions/_nri-enforcer";

pub(super) const CRDS_HELP: &str = "\
Exit codes:
  0  the definitions are on stdout, or written
  1  one cannot be written
  2  bad usage

Example:
  nri-enforcer crds | kubectl apply --server-side -f -";

pub(super) const MAN_HELP: &str = "\
Exit codes:
  0  the page is on stdout, or the pages are written
  1  a page cannot be written
  2  bad usage

Example:
  nri-enforcer man --dir /usr/local/share/man/man1";

/// `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write the pages of all commands into this directory, which is made if need be
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `crds`.
#[derive(Debug, Args)]
pub struct CrdsArgs {
    /// Write a file for each kind into this directory, which is made if need be
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
