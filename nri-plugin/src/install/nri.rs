//! Whether a runtime listens at its NRI socket, asked of the socket itself: of a node whose configuration is not known,
//! or not to be touched, nothing else says so.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::Failure;
use super::plan::Plan;
use crate::cli::InstallArgs;
use crate::config::NO_NRI;

/// The socket can be connected to. Nothing is said there: to the runtime that is a plugin that went before it registered.
///
/// # Errors
/// When nothing listens there, with what to do. Of a node without NRI nothing is asked.
pub fn listens(args: &InstallArgs, plan: &Plan) -> Result<(), Failure> {
    if args.nri_socket == Path::new(NO_NRI) {
        return Ok(());
    }
    let (shown, place) = (args.nri_socket.display(), if args.dry_run { "would be" } else { "is" });
    let path = plan.resolve(&args.nri_socket)?; // `/var/run` is a link, in the root of the host
    UnixStream::connect(plan.root().at(&path)).map(drop).map_err(|error| {
        Failure::no(format!(
            "the hook {place} in place, but no runtime answers at `{shown}` ({error}): turn NRI on (`disable = false` in containerd's \
             section `io.containerd.nri.v1.nri`, or this command without --hook-only), and restart the runtime; or name its \
             socket with --nri-socket"
        ))
    })
}

/// Whether there is such a socket, be it that nothing listens; or that the node is said to have none.
pub fn is_there(args: &InstallArgs, plan: &Plan) -> bool {
    let there = |path: PathBuf| plan.root().at(&path).exists();
    args.nri_socket == Path::new(NO_NRI) || plan.resolve(&args.nri_socket).is_ok_and(there)
}
