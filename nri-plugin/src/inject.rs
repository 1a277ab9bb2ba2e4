//! The OCI hook, put into the containers that a policy selects: the second lock, for a daemon that dies between the
//! creation of a container and its start.
//!
//! A hook that cannot be run fails each container, so it is looked at anew for each of them, and left out when it is not
//! as it should be. A runtime may be configured to refuse hooks (`reject_oci_hook_adjustment`, NRI 0.10 and later), which
//! fails the creation and tells the plugin no more than that the container is removed, and CRI-O not even that: there the same
//! container of the same pod is created again. Where that happens to `PATIENCE`
//! containers with a hook, and none has been created, others get none; after `AGAIN` it is tried anew. One container that
//! is created with a hook shows that the runtime takes it: then nothing that becomes of containers switches it off, as
//! whoever can let containers fail could do that. What goes without is told: in the log, as an alert, and in the status.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use enforcer_core::enforce::ContainerId;
use nri::{ContainerAdjustment, Hook, HookPoint};
use nri_enforcer_hook::config::{self, Config, Mode};
use nri_enforcer_hook::state::Stage;

use crate::container::Container;
use crate::order::Notice;

/// The root directory of the host, where runtimes run the hook, for a daemon that has another one.
const HOST: &str = "/proc/1/root";
/// Seconds after which the runtime ends the hook; its own deadline is shorter.
pub(crate) const TIMEOUT_SECONDS: i64 = 10;
/// So many creations that failed, and not one with a hook that succeeded, mean that the runtime refuses hooks.
const PATIENCE: usize = 3;
/// After so long that is put to the test again, at the price of one container that is created twice.
const AGAIN: Duration = Duration::from_secs(300);
/// What a hook that is left out means.
const MEANS: &str =
    "what is created without it and started while this daemon is dead or late starts unprotected";
/// Creations that are watched at most.
const WATCHED: usize = 256;

/// Puts the hook into containers.
pub struct Injection {
    path: Option<PathBuf>,
    state: Mutex<State>,
    again: Duration,
    notify: crate::seccomp::Notify,
}

impl std::fmt::Debug for Injection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Injection")
            .field("path", &self.path)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Default for Injection {
    fn default() -> Self {
        Self::new(None, Box::new(|_| {}))
    }
}

#[derive(Debug, Default)]
struct State {
    problem: Option<String>,                        // told last, so that it is told once
    permitted: bool,                                // a container with a hook has been created
    created: BTreeMap<ContainerId, Arc<Container>>, // with a hook, perhaps: neither created so far as is known, nor removed
    failed: usize,
    off: Option<Instant>, // since when, as the runtime seems to refuse hooks
    validates: bool,      // the runtime has validators, which may forbid hooks
}

impl Injection {
    /// Of this program, by its path on the host; `None`: no container gets a hook. `notify` is told what goes without.
    #[must_use]
    pub fn new(path: Option<PathBuf>, notify: crate::seccomp::Notify) -> Self {
        let injection = Self { path, state: Mutex::default(), again: AGAIN, notify };
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
    pub fn add(&self, container: &Arc<Container>, adjustment: ContainerAdjustment) -> ContainerAdjustment {
        let Some(path) = &self.path else { return adjustment };
        let usable = self.usable(path);
        let mut state = self.state();
        let same = |one: &Container| {
            !one.pod_uid.is_empty()
                && (&one.pod_uid, &one.subject.container)
                    == (&container.pod_uid, &container.subject.container)
        };
        let before = state.created.values().find(|one| same(one)).map(|one| one.id.clone());
        if let Some(before) = before {
            self.was_not_created(&mut state, &before);
        }
        if usable && state.off.is_some_and(|since| since.elapsed() >= self.again) {
            tracing::warn!(%container, "gets the OCI hook, to find out whether the runtime still refuses hooks");
            (state.off, state.failed) = (None, PATIENCE.saturating_sub(1));
        }
        if let Some(reason) = state.without() {
            drop(state);
            (self.notify)(Notice::WithoutHook { container: Arc::clone(container), reason });
            return adjustment;
        }
        if state.validates && !state.permitted && state.created.len() < WATCHED {
            state.created.insert(container.id.clone(), Arc::clone(container));
        }
        let path = path.to_string_lossy();
        let hook = |stage: Stage| {
            Hook::new(path.as_ref()).args([path.as_ref(), stage.name()]).timeout(TIMEOUT_SECONDS)
        };
        adjustment
            .hook(HookPoint::CreateRuntime, hook(Stage::CreateRuntime))
            .hook(HookPoint::Poststop, hook(Stage::Poststop))
    }

    /// Whether containers are to get the hook.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.path.is_some()
    }

    /// Why selected containers get no hook now; `None`: they do, or are not to. Examines the program.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if let Some(path) = &self.path {
            let _told = self.usable(path);
        }
        self.state().without()
    }

    /// The runtime has created a container, or starts it: it takes the hook, if that has one.
    pub fn created(&self, id: &ContainerId) {
        let mut state = self.state();
        if state.created.remove(id).is_some() {
            if state.off.take().is_some() {
                tracing::warn!("the runtime takes the OCI hook; containers get it again");
            }
            (state.permitted, state.failed) = (true, 0);
            state.created.clear();
        }
    }

    /// The runtime forgets a container.
    pub fn removed(&self, id: &ContainerId) {
        self.was_not_created(&mut self.state(), id);
    }

    fn was_not_created(&self, state: &mut State, id: &ContainerId) {
        if state.created.remove(id).is_some() && state.off.is_none() {
            state.failed += 1;
            if state.failed >= PATIENCE {
                state.off = Some(Instant::now());
                tracing::error!(
                    "{PATIENCE} containers that got the OCI hook were not created, and none was: the runtime seems to refuse \
                     hooks (reject_oci_hook_adjustment of NRI's default validator); for {} s no container gets one: {MEANS}",
                    self.again.as_secs()
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
                    "the OCI hook `{}` {problem}; no container gets it: {MEANS}",
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

impl State {
    /// Why containers get no hook.
    fn without(&self) -> Option<String> {
        if let Some(problem) = &self.problem {
            return Some(format!("the OCI hook {problem}: {MEANS}"));
        }
        self.off.map(|_| format!("the runtime seems to refuse hooks (reject_oci_hook_adjustment): {MEANS}"))
    }
}

/// Whether this hook, by its path on the host, lets nothing start that the daemon does not vouch for: so says its
/// configuration, and where that makes no sense the hook itself does.
#[must_use]
pub fn is_shut(hook: &Path) -> bool {
    is_shut_at(host(), hook)
}

fn is_shut_at(host: &Path, hook: &Path) -> bool {
    let config = host.join(hook.strip_prefix("/").unwrap_or(hook)).with_file_name(config::FILE);
    Config::load(&config).0.mode == Mode::Closed
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
    // in a directory like /tmp nobody can replace what is root's
    let about = examine(host, path, |about| about.is_dir() && about.mode() & 0o1000 != 0)
        .and_then(|about| about.ok_or_else(|| "is not there".into()))?;
    match about.is_file() && about.mode() & 0o111 != 0 {
        true => Ok(()),
        false => Err("is no program".into()),
    }
}

/// Whether only root can put a program there, as far as it exists. A directory like /tmp will not do: once the program is gone
/// others make one in its place, and runtimes go on running what has its name.
pub(crate) fn check_place(host: &Path, path: &Path) -> Result<(), String> {
    examine(host, path, |_| false).map(drop)
}

/// Examines each part of `path` that is there, the root directory among them; what the last one is, `None`: it is not there.
/// Others may write to what is `shared`.
fn examine(host: &Path, path: &Path, shared: impl Fn(&Metadata) -> bool) -> Result<Option<Metadata>, String> {
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return Err("is no absolute path".into());
    }
    let cannot = |error: std::io::Error| format!("cannot be examined: {error}");
    let mut at = host.to_owned();
    let mut about = std::fs::metadata(&at).map_err(cannot)?;
    loop {
        let shown = || Path::new("/").join(at.strip_prefix(host).unwrap_or(&at));
        if about.is_symlink() {
            return Err(format!("is reached by a link, `{}`", shown().display()));
        }
        if about.uid() != 0 || (about.mode() & 0o022 != 0 && !shared(&about)) {
            return Err(format!("can be replaced by others than root (`{}`)", shown().display()));
        }
        let Some(component) = components.next() else { return Ok(Some(about)) };
        let Component::Normal(name) = component else { return Err("has `..` in its path".into()) };
        at.push(name);
        about = match std::fs::symlink_metadata(&at) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            about => about.map_err(cannot)?,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn id(number: usize) -> ContainerId {
        ContainerId::new(format!("c{number}")).unwrap()
    }

    fn injection(path: Option<PathBuf>) -> (Injection, Arc<Mutex<Vec<String>>>) {
        let told = Arc::<Mutex<Vec<String>>>::default();
        let notices = Arc::clone(&told);
        let notify = move |notice| match notice {
            Notice::WithoutHook { container, reason } => {
                notices.lock().unwrap().push(format!("{}: {reason}", container.id));
            }
            other => panic!("{other:?}"),
        };
        (Injection::new(path, Box::new(notify)), told)
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
        let container = crate::reconciler::tests::container(&format!("c{number}"), "default", "web");
        let adjustment = injection.add(&container, ContainerAdjustment::new());
        adjustment.hooks.create_runtime.len() + adjustment.hooks.poststop.len()
    }

    #[test]
    fn a_hook_that_is_not_as_it_should_be_is_left_out_until_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path());
        let (injection, told) = injection(Some(path.clone()));
        assert_eq!(hooks(&injection, 0), 2);
        assert!(injection.problem().is_none() && told.lock().unwrap().is_empty());
        // whoever asks learns it also where no container is created
        std::fs::remove_file(&path).unwrap();
        assert!(injection.problem().unwrap().contains("is not there"));
        program(dir.path());
        assert_eq!(injection.problem(), None);
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
        assert!(injection.problem().unwrap().contains("reached by a link"));
        assert!(told.lock().unwrap().last().unwrap().starts_with("c0: the OCI hook is reached by a link"));
        let relative = Injection::new(Some("bin/hook".into()), Box::new(|_| {}));
        assert_eq!(hooks(&relative, 0), 0, "relative");
        let (none, told) = super::tests::injection(None);
        assert_eq!((hooks(&none, 0), none.problem()), (0, None));
        assert!(told.lock().unwrap().is_empty());
    }

    /// As the hook reads it.
    #[test]
    fn a_hook_is_shut_unless_its_configuration_says_that_it_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, hook) = (dir.path().join("opt"), Path::new("/opt/nri-enforcer-hook"));
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join(config::FILE);
        assert!(is_shut_at(dir.path(), hook), "no configuration");
        for (text, shut) in [(r#"{"mode":"open"}"#, false), (r#"{"mode":"closed"}"#, true), ("{", true)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(is_shut_at(dir.path(), hook), shut, "{text}");
        }
        std::fs::write(&file, r#"{"mode":"open"}"#).unwrap();
        mode(&file, 0o666);
        assert!(is_shut_at(dir.path(), hook), "anybody may have written it");
    }

    #[test]
    fn a_runtime_that_refuses_hooks_is_asked_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let (mut injection, told) = injection(Some(program(dir.path())));
        let refused = |injection: &Injection, numbers: std::ops::Range<usize>| {
            for number in numbers {
                assert_eq!(hooks(injection, number), 2, "{number}");
                injection.removed(&id(number));
            }
        };
        injection.connected(true);
        refused(&injection, 0..PATIENCE);
        assert_eq!(hooks(&injection, 9), 0);
        assert!(injection.problem().unwrap().contains("refuse hooks"));
        let all = told.lock().unwrap().clone();
        assert!(
            all.len() == 1 && all[0].starts_with("c9: ") && all[0].contains("starts unprotected"),
            "{all:?}"
        );
        // one that is tried again, and refused
        injection.again = Duration::ZERO;
        refused(&injection, 10..11);
        injection.again = AGAIN;
        assert_eq!(hooks(&injection, 12), 0);
        // and taken
        injection.again = Duration::ZERO;
        assert_eq!(hooks(&injection, 13), 2);
        injection.created(&id(13));
        injection.again = AGAIN;
        assert_eq!(injection.problem(), None);
        refused(&injection, 14..30);
        injection.connected(true);
        assert_eq!(hooks(&injection, 9), 2, "another connection, perhaps another configuration");
    }

    /// As CRI-O, which tells no end of what it has refused: the same container of the same pod comes again.
    #[test]
    fn a_runtime_that_tells_no_end_is_seen_to_refuse_hooks() {
        let dir = tempfile::tempdir().unwrap();
        let (injection, _told) = injection(Some(program(dir.path())));
        injection.connected(true);
        let tries: Vec<_> = (0..5).map(|number| hooks(&injection, number)).collect();
        assert_eq!(tries, [2, 2, 2, 0, 0]);
    }

    /// Who can let containers fail must not be able to switch the second lock off.
    #[test]
    fn one_that_is_created_shows_that_hooks_are_permitted_whatever_fails_later() {
        let dir = tempfile::tempdir().unwrap();
        let (injection, told) = injection(Some(program(dir.path())));
        injection.connected(true);
        assert_eq!(hooks(&injection, 0), 2);
        injection.created(&id(0));
        for number in 0..20 {
            assert_eq!(hooks(&injection, number), 2);
            injection.removed(&id(number));
        }
        // and a runtime without validators cannot refuse hooks
        injection.connected(false);
        for number in 0..20 {
            assert_eq!(hooks(&injection, number), 2);
            injection.removed(&id(number));
        }
        assert!(told.lock().unwrap().is_empty());
    }
}
