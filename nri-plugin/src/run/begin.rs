//! What the daemon begins with, by its configuration.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use enforcer_core::seccomp::{Arch, Node};

use crate::config::Config;
use crate::container::Selection;
use crate::plugin::Plugin;
use crate::registry::Registry;
use crate::seccomp::profiles::Profiles;
use crate::seccomp::{Seccomp, UnknownMachine, libseccomp};

/// The NRI plugin's end of the connection; `None`: this node has no NRI.
pub(super) fn stub(config: &Config) -> anyhow::Result<Option<nri::Stub>> {
    let Some(socket) = &config.nri_socket else { return Ok(None) };
    let stub = nri::Stub::builder(&config.plugin_name, &config.plugin_index);
    let stub = stub.socket(socket).events(Plugin::events()).build();
    stub.map(Some).context("cannot make the NRI plugin")
}

/// What applies seccomp policies, for this configuration.
pub(super) fn seccomp(
    config: &Config,
    selection: &Selection,
    registry: &Arc<Registry>,
    notify: crate::seccomp::Notify,
) -> Seccomp {
    let libseccomp = config.libseccomp.unwrap_or_else(libseccomp::of_runtime);
    let profiles = match config.seccomp_dirs.as_slice() {
        [] => Profiles::detect(Path::new("/")),
        dirs => Profiles::new(dirs.to_vec()),
    };
    // where the machine is not known, everything else is still enforced
    let node = Arch::native()
        .map(|arch| Node { arch, libseccomp })
        .ok_or_else(|| UnknownMachine(std::env::consts::ARCH.to_owned()));
    Seccomp::new(selection.clone(), node, profiles, Arc::clone(registry), "/".into(), notify)
}
