//! The OCI hook, put into the containers that a policy selects: the second lock, for a daemon that dies between the
//! creation of a container and its start.
//!
//! A hook that cannot be run fails each container, so it is looked at anew for each of them, and left out when it is not
//! as it should be. A runtime may be configured to refuse hooks (`reject_oci_hook_adjustment`, NRI 0.10 and later), which
//! fails the creation and tells the plugin no more than that the container is removed. Where that happens to the first
//! [`PATIENCE`] containers with a hook, and to no other, no more get one until the next connection.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use enforcer_core::enforce::ContainerId;
use nri::{ContainerAdjustment, Hook, HookPoint};
use nri_enforcer_hook::state::Stage;

/// The root directory of the host, where runtimes run the hook, for a daemon that has another one.
const HOST: &str = "/proc/1/root";
/// Seconds after which the runtime ends the hook; its own deadline is shorter.
pub(crate) const TIMEOUT_SECONDS: i64 = 10;
/// So many refused creations, and not one with a hook that succeeded, mean that the runtime refuses hooks.
const PATIENCE: usize = 3;
/// Creations that are watched at most.
const WATCHED: usize = 256;

/// Puts the hook into containers.
#[derive(Debug, Default)]
pub struct Injection {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    problem: Option<String>,        // told last, so that it is told once
    permitted: bool,                // a container with a hook has come to its start
    created: BTreeSet<ContainerId>, // with a hook, and neither started nor removed yet
    refused: usize,
    validates: bool, // the runtime has validators, which may forbid hooks
}

impl Injection {
    /// Of this program, by its path on the host; `None`: no container gets a hook.
    #[must_use]
    pub fn new(path: Option<PathBuf>) -> Self {
        let injection = Self { path, state: Mutex::default() };
        if let Some(path) = &injection.path {
            let _told = injection.usable(path);
        }
        injection
    }

    /// A runtime has connected; `validates`: one that may forbid hooks.
    pub fn connected(&self, validates: bool) {
        let mut state = self.state();
        let problem = state.problem.take();
        *state = State { problem, validates, ..State::default() };
    }

    /// Adds the hook to what is asked for a container that a policy selects.
    pub fn add(&self, id: &ContainerId, adjustment: ContainerAdjustment) -> ContainerAdjustment {
        let Some(path) = self.path.as_deref().filter(|path| self.usable(path)) else { return adjustment };
        let mut state = self.state();
        if state.refused >= PATIENCE {
            return adjustment;
        }
        if state.validates && !state.permitted && state.created.len() < WATCHED {
            state.created.insert(id.clone());
        }
        let path = path.to_string_lossy();
        let hook = |stage: Stage| {
            Hook::new(path.as_ref()).args([path.as_ref(), stage.name()]).timeout(TIMEOUT_SECONDS)
        };
        adjustment
            .hook(HookPoint::CreateRuntime, hook(Stage::CreateRuntime))
            .hook(HookPoint::Poststop, hook(Stage::Poststop))
    }

    /// The runtime starts a container, so its creation was not refused.
    pub fn started(&self, id: &ContainerId) {
        let mut state = self.state();
        if state.created.remove(id) {
            (state.permitted, state.refused) = (true, 0);
            state.created.clear();
        }
    }

    /// The runtime forgets a container.
    pub fn removed(&self, id: &ContainerId) {
        let mut state = self.state();
        if state.created.remove(id) && !state.permitted && state.refused < PATIENCE {
            state.refused += 1;
            if state.refused == PATIENCE {
                tracing::error!(
                    "{PATIENCE} containers that got the OCI hook were removed before their start, and none has started: the \
                     runtime seems to refuse hooks (reject_oci_hook_adjustment of NRI's default validator); no container gets \
                     one until the next connection, so what is created now and started while this daemon is dead or late \
                     starts unprotected"
                );
            }
        }
    }

    /// Whether the program can be run, and only root can have written it. What is wrong is told once.
    fn usable(&self, path: &Path) -> bool {
        let problem = check(host(), path).err();
        let mut state = self.state();
        if problem != state.problem {
            match &problem {
                Some(problem) => tracing::error!(
                    "the OCI hook `{}` {problem}; no container gets it, so what starts while this daemon is dead or late \
                     starts unprotected",
                    path.display()
                ),
                None => {
                    tracing::info!(hook = %path.display(), "containers that a policy selects get the OCI hook")
                }
            }
            state.problem.clone_from(&problem);
        }
        problem.is_none()
    }

    // after a panic at worst a problem is told twice
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's root directory: the daemon's own, unless it is in a container, where it needs `hostPID` and CAP_SYS_PTRACE
/// to see the host's; without them the hook is not found, and that is told.
fn host() -> &'static Path {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let elsewhere = namespace("1").is_some_and(|first| Some(first) != namespace("self"));
    Path::new(if elsewhere { HOST } else { "/" })
}

/// Whether `path`, below the root directory `host`, is a program that only root can have written. No component may be a
/// link: it would be followed in the daemon's root here, and in the host's by the runtime.
pub(crate) fn check(host: &Path, path: &Path) -> Result<(), String> {
    let mut at = host.to_owned();
    let mut components = path.components().peekable();
    if components.next() != Some(Component::RootDir) {
        return Err("is no absolute path".into());
    }
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else { return Err("has `..` in its path".into()) };
        at.push(name);
        let about = std::fs::symlink_metadata(&at).map_err(|error| format!("cannot be examined: {error}"))?;
        let kind = about.file_type();
        if kind.is_symlink() {
            return Err(format!(
                "is reached by a link, `{}`",
                at.strip_prefix(host).unwrap_or(&at).display()
            ));
        }
        // in a directory like /tmp nobody can replace what is root's
        let sticky = kind.is_dir() && about.mode() & 0o1000 != 0;
        if about.uid() != 0 || (about.mode() & 0o022 != 0 && !sticky) {
            return Err(format!(
                "can be replaced by others than root (`{}`)",
                Path::new("/").join(at.strip_prefix(host).unwrap_or(&at)).display()
            ));
        }
        if components.peek().is_none() && (!kind.is_file() || about.mode() & 0o111 == 0) {
            return Err("is no program".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn id(number: usize) -> ContainerId {
        ContainerId::new(format!("c{number}")).unwrap()
    }

    fn program(dir: &Path) -> PathBuf {
        let path = dir.join("hook");
        std::fs::write(&path, "").unwrap();
        mode(&path, 0o755);
        path
    }

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn hooks(injection: &Injection, number: usize) -> usize {
        let adjustment = injection.add(&id(number), ContainerAdjustment::new());
        adjustment.hooks.create_runtime.len() + adjustment.hooks.poststop.len()
    }

    #[test]
    fn a_hook_that_is_not_as_it_should_be_is_left_out_until_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path());
        let injection = Injection::new(Some(path.clone()));
        assert_eq!(hooks(&injection, 0), 2);
        for bad in [0o644, 0o775, 0o757] {
            mode(&path, bad);
            assert_eq!(hooks(&injection, 0), 0, "{bad:o}");
        }
        mode(&path, 0o755);
        assert_eq!(hooks(&injection, 0), 2);
        mode(dir.path(), 0o777);
        assert_eq!(hooks(&injection, 0), 0, "others can replace it");
        mode(dir.path(), 0o700);
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        assert_eq!(hooks(&injection, 0), 0, "another's");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(hooks(&injection, 0), 0, "gone");
        std::os::unix::fs::symlink("/bin/true", &path).unwrap();
        assert_eq!(hooks(&injection, 0), 0, "a link");
        assert_eq!(hooks(&Injection::new(Some("bin/hook".into())), 0), 0, "relative");
        assert_eq!(hooks(&Injection::new(None), 0), 0);
    }

    #[test]
    fn a_runtime_that_refuses_hooks_is_not_asked_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let injection = Injection::new(Some(program(dir.path())));
        injection.connected(true);
        for number in 0..PATIENCE {
            assert_eq!(hooks(&injection, number), 2);
            injection.removed(&id(number));
        }
        assert_eq!(hooks(&injection, 9), 0);
        injection.connected(true);
        assert_eq!(hooks(&injection, 9), 2, "another connection, perhaps another configuration");
    }

    #[test]
    fn one_start_shows_that_hooks_are_permitted_whatever_fails_later() {
        let dir = tempfile::tempdir().unwrap();
        let injection = Injection::new(Some(program(dir.path())));
        injection.connected(true);
        assert_eq!(hooks(&injection, 0), 2);
        injection.started(&id(0));
        for number in 1..20 {
            assert_eq!(hooks(&injection, number), 2);
            injection.removed(&id(number));
        }
        // and a runtime without validators cannot refuse hooks
        injection.connected(false);
        for number in 0..20 {
            assert_eq!(hooks(&injection, number), 2);
            injection.removed(&id(number));
        }
    }
}
