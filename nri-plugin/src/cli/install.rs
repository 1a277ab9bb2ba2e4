//! `install`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub(super) const INSTALL_HELP: &str = "\
What is there is edited in place: comments, order and line ends stay. A changed file has a copy beside it
(FILE.nri-enforcer-backup). What was done is recorded in /var/lib/nri-enforcer/installed, and --uninstall undoes just that.

Exit codes:
  0  all is as it should be, changed or not
  1  nothing was changed, as something is in the way; or --uninstall had to leave something
  2  bad usage, or a configuration that cannot be read

Examples:
  nri-enforcer install --runtime containerd --dry-run
  nri-enforcer install --runtime containerd --base-runtime-spec
  nri-enforcer install --runtime containerd --hook-only
  nri-enforcer install --runtime containerd --required-plugin --dry-run
  nri-enforcer install --runtime podman --uninstall";

/// `install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Which runtime
    #[arg(long, value_enum)]
    pub runtime: Runtime,
    /// Undo what was installed; what others have changed since stays
    #[arg(long)]
    pub uninstall: bool,
    /// Show the differences, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Root of the host, where it is mounted elsewhere; all other paths but --hook and --hook-config are below it
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// The OCI hook to copy [default: nri-enforcer-hook beside this program]
    #[arg(long, value_name = "FILE", conflicts_with = "uninstall")]
    pub hook: Option<PathBuf>,
    /// Where the hook and its configuration are put
    #[arg(long, value_name = "DIR", default_value = "/opt/nri-enforcer")]
    pub hook_dir: PathBuf,
    /// Configuration of the hook to copy, unless one that was changed by hand is there [default: mode closed, kube-system
    /// exempt]
    #[arg(long, value_name = "FILE", conflicts_with = "uninstall")]
    pub hook_config: Option<PathBuf>,
    /// containerd's configuration, or a template of it (*.tmpl, as k3s has)
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml")]
    pub config: PathBuf,
    /// containerd: put the hook into the base specification of each runtime, so that every container has it
    #[arg(long, conflicts_with = "uninstall")]
    pub base_runtime_spec: bool,
    /// containerd 2.2 and later: refuse every container that the daemon has not seen created, but those of pods with the
    /// annotation of --toleration-annotation. For a daemon that is a service of the host: one that runs in a pod must have
    /// that annotation, and so must all that it waits for
    #[arg(long, conflicts_with = "uninstall")]
    pub required_plugin: bool,
    /// Annotation of pods that start while the daemon is away
    #[arg(long, value_name = "KEY", default_value = "tolerate-missing-plugins.nri-enforcer.io", requires = "required_plugin",
          value_parser = toleration)]
    pub toleration_annotation: String,
    /// Name under which the daemon registers with the runtime: what its own --plugin-name says
    #[arg(long, value_name = "NAME", default_value = crate::config::PLUGIN_NAME, requires = "required_plugin",
          value_parser = plugin_name)]
    pub plugin_name: String,
    /// Put the hook in place and leave the runtime's configuration alone; fails where the runtime does not answer at its NRI
    /// socket
    #[arg(long, conflicts_with_all = ["uninstall", "base_runtime_spec", "required_plugin"])]
    pub hook_only: bool,
    /// The runtime's NRI socket, for --hook-only; `none`: the node has no NRI, and none is looked for
    #[arg(long, value_name = "PATH", default_value = crate::config::DEFAULT_NRI_SOCKET)]
    pub nri_socket: PathBuf,
    /// Program that prints containerd's specification (`ctr oci spec`)
    #[arg(long, value_name = "PROGRAM", default_value = "ctr")]
    pub ctr: PathBuf,
    /// Program that checks containerd's configuration (`containerd config dump`); left out where it is not there
    #[arg(long, value_name = "PROGRAM", default_value = "containerd")]
    pub containerd: PathBuf,
}

/// NRI looks for the key itself, `KEY/pod` and `KEY/container.NAME`, so it has no part before a slash.
fn toleration(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    match text.len() <= 63 && text.chars().all(good) && end(text.chars().next()) && end(text.chars().last()) {
        true => Ok(text.to_owned()),
        false => Err(
            "no name of small letters, digits, `-` and `.`, of 63 at most, such as `tolerate.example.org`"
                .to_owned(),
        ),
    }
}

fn plugin_name(text: &str) -> Result<String, String> {
    match crate::config::is_plugin_name(text) {
        true => Ok(text.to_owned()),
        false => Err("no name of letters, digits, and the characters `_.+-`".to_owned()),
    }
}

/// `in-root`.
#[derive(Debug, Args)]
pub struct InRootArgs {
    /// The root
    pub root: PathBuf,
    /// The program there, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<std::ffi::OsString>,
}

/// A container runtime that can be set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// containerd.
    Containerd,
    /// CRI-O.
    Crio,
    /// podman, as root.
    Podman,
}
