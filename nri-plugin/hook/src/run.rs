//! What the program does: reads the state, asks the daemon, and says by its exit status whether the container may start.

use std::ffi::OsString;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::ask::{Deadline, Trouble, ask, tell};
use crate::config::{Config, FILE, Mode};
use crate::message::{Answer, Request, readable};
use crate::spec::{Adjustment, MAX_PROFILE_BYTES, MAX_SPEC_BYTES, Spec};
use crate::spool::{self, OpenStart};
use crate::state::{MAX_STATE_BYTES, PODMAN_NAMESPACE, REFUSED_ANNOTATION, Runtime, Stage, State, root_of};
use crate::users;

const USAGE: &str = "\
usage: nri-enforcer-hook createRuntime|poststop [--config FILE]
       nri-enforcer-hook precreate|createRuntime|poststop --podman [--config FILE]
An OCI runtime runs it as its hook of that name, with the container's state on standard input; podman at precreate with its
configuration, which it takes back from standard output. --podman says that it is podman, whose images write annotations.
The configuration is nri-enforcer-hook.json beside the program.
";
/// Bytes of an id or a name in what is told.
const SHOWN: usize = 128;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: the container may start.
    Pass,
    /// 1: it must not.
    Fail,
    /// 2: the program was called in a way that makes no sense, which fails the container too.
    Usage,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Pass => 0,
            Exit::Fail => 1,
            Exit::Usage => 2,
        })
    }
}

/// Carries the hook out, with the state on standard input; what there is to tell goes to `told`, a configuration to `out`.
pub fn run(arguments: impl Iterator<Item = OsString>, out: &mut dyn Write, told: &mut dyn Write) -> Exit {
    let begin = Instant::now();
    let Called { stage, runtime, config } = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(problem) => {
            say(told, format_args!("{problem}\n{USAGE}"));
            return Exit::Usage;
        }
    };
    let path = config.unwrap_or_else(beside);
    let (config, problem) = Config::load(&path);
    if let Some(problem) = problem {
        say(told, format_args!("{}", readable(&problem, 1024)));
    }
    let deadline = Deadline::of(begin, config.deadline);
    let state =
        || read_input(&deadline, MAX_STATE_BYTES).and_then(|bytes| State::parse(&bytes, stage, runtime));
    match stage {
        Stage::Precreate => precreate(&config, &path, &deadline, out, told),
        Stage::CreateRuntime => create(&config, &path, state(), &deadline, told),
        Stage::Poststop => {
            stopped(&config, state(), &deadline, told);
            Exit::Pass // a container is gone, whatever the daemon says; runtimes fail its deletion otherwise
        }
    }
}

/// What the command line says.
struct Called {
    stage: Stage,
    runtime: Runtime,
    config: Option<PathBuf>,
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Called, String> {
    let (mut stage, mut runtime, mut config) = (None, Runtime::Cri, None);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--config") if config.is_none() => {
                config = Some(PathBuf::from(arguments.next().ok_or("--config needs a file")?));
            }
            Some("--podman") => runtime = Runtime::Podman,
            Some(name) if stage.is_none() && Stage::named(name).is_some() => stage = Stage::named(name),
            _ => return Err(format!("`{}` makes no sense", readable(&argument.to_string_lossy(), SHOWN))),
        }
    }
    let stage = stage.ok_or("which hook is it?")?;
    if stage == Stage::Precreate && runtime != Runtime::Podman {
        return Err(
            "only podman has the stage `precreate`: run `nri-enforcer install --runtime podman`".into()
        );
    }
    Ok(Called { stage, runtime, config })
}

/// The configuration in the directory of the program.
fn beside() -> PathBuf {
    // /proc is there wherever a runtime runs; without it there is no configuration, and the defaults count
    std::env::current_exe()
        .map(|program| program.with_file_name(FILE))
        .unwrap_or_else(|_| PathBuf::from(FILE))
}

fn read_input(deadline: &Deadline, most: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match deadline.wait(rustix::stdio::stdin(), PollFlags::IN) {
            Ok(()) => {}
            Err(Trouble::Late(_)) => return Err("the runtime did not send it in time".into()),
            Err(_) => return Err("standard input cannot be waited for".into()),
        }
        match rustix::io::read(rustix::stdio::stdin(), chunk.as_mut_slice()) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend(chunk.iter().take(count)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(format!("standard input cannot be read: {error}")),
        }
        if bytes.len() > most {
            return Err(format!("it has more than {most} bytes"));
        }
    }
}

/// A container that was not let through, or was only because the gate stands open.
struct Doubt {
    why: String,
    advice: String,
}

fn create(
    config: &Config,
    path: &Path,
    state: Result<State, String>,
    deadline: &Deadline,
    told: &mut dyn Write,
) -> Exit {
    let (about, doubt) = match &state {
        Ok(state) => (Some(state), vouched(config, state, deadline).err()),
        Err(problem) => (
            None,
            Some(doubt(
                format!("its OCI state makes no sense: {problem}"),
                "is the runtime one that runs OCI hooks?",
            )),
        ),
    };
    let Some(doubt) = doubt else { return Exit::Pass };
    let who = Named(about);
    if config.mode == Mode::Closed {
        return refuse(&who, &doubt, path, told);
    }
    let Doubt { why, advice } = doubt;
    let why = readable(&why, 8 << 10);
    say(told, format_args!("{who} starts, and may be unprotected (the mode is open): {why}; {advice}"));
    let text = |text: &str| readable(text, SHOWN);
    let start = OpenStart {
        time_millis: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|since| u64::try_from(since.as_millis()).ok())
            .unwrap_or(0),
        id: about.map(|state| text(&state.id)).unwrap_or_default(),
        namespace: about.and_then(|state| state.namespace().ok().flatten()).map(text).unwrap_or_default(),
        pod: about.map(|state| text(state.pod())).unwrap_or_default(),
        container: about.map(|state| text(state.container())).unwrap_or_default(),
        reason: why,
        more: 0,
    };
    if let Err(problem) = spool::record(&config.spool, &start) {
        say(told, format_args!("{problem}"));
    }
    Exit::Pass
}

/// Says that the container must not start.
fn refuse(who: &dyn fmt::Display, doubt: &Doubt, path: &Path, told: &mut dyn Write) -> Exit {
    let Doubt { why, advice } = doubt;
    let why = readable(why, 8 << 10);
    say(
        told,
        format_args!(
            "{who} must not start: {why}; {advice} (\"mode\": \"open\" in `{}` lets containers start unprotected)",
            path.display()
        ),
    );
    Exit::Fail
}

/// Hands podman's configuration back, with what the daemon wants in it. podman does not show what is said here, so where
/// there is no good answer, that is written into the configuration, and `createRuntime`, which finds it there, decides.
fn precreate(
    config: &Config,
    path: &Path,
    deadline: &Deadline,
    out: &mut dyn Write,
    told: &mut dyn Write,
) -> Exit {
    let parsed =
        read_input(deadline, MAX_SPEC_BYTES).and_then(|bytes| Spec::parse(&bytes).map(|spec| (bytes, spec)));
    let given = parsed.and_then(|(bytes, spec)| match wanted(config, &spec, deadline) {
        Ok(None) if !spec.forged() => Ok(bytes),
        Ok(wanted) => spec.adjusted(wanted.unwrap_or_default()),
        Err(Doubt { why, advice }) => {
            let why = readable(&format!("{why}; {advice}"), 8 << 10);
            let annotations = [(REFUSED_ANNOTATION.to_owned(), why)].into();
            spec.adjusted(Adjustment { annotations, ..Adjustment::default() })
        }
    });
    let written = given.and_then(|given| {
        let written = out.write_all(&given).and_then(|()| out.flush());
        written.map_err(|error| format!("it cannot be handed back: {error}"))
    });
    match written {
        Ok(()) => Exit::Pass,
        // without it there is nothing to hand back, whatever the mode
        Err(problem) => {
            let doubt = doubt(format!("its configuration: {problem}"), "is it podman that runs this hook?");
            refuse(&"the container", &doubt, path, told)
        }
    }
}

/// What the daemon wants changed; `None`: nothing.
fn wanted(config: &Config, spec: &Spec, deadline: &Deadline) -> Result<Option<Adjustment>, Doubt> {
    if config.exempt.contains(PODMAN_NAMESPACE) {
        return Ok(None);
    }
    let id = spec.id.as_ref().map_err(|problem| {
        doubt(
            format!("its configuration does not say which container it is: {problem}"),
            "is it podman that runs this hook?",
        )
    })?;
    let seccomp = spec.seccomp().cloned();
    if seccomp.as_ref().is_some_and(|profile| profile.to_string().len() > MAX_PROFILE_BYTES) {
        return Err(doubt(
            format!("its seccomp profile has more than {MAX_PROFILE_BYTES} bytes"),
            "give it a smaller one (--security-opt seccomp=FILE)",
        ));
    }
    let request = Request {
        stage: Stage::Precreate,
        id: id.clone(),
        pid: 0,
        patience_millis: patience(deadline),
        root: None,
        root_inode: None,
        namespace: PODMAN_NAMESPACE.to_owned(),
        pod: String::new(),
        container: String::new(),
        podman: true,
        seccomp,
        seccomp_digest: String::new(),
    };
    match ask(&config.socket, &request, deadline) {
        Ok(Answer::Nothing) => Ok(None),
        Ok(Answer::Adjust(adjustment)) if adjustment == Adjustment::default() => Ok(None),
        Ok(Answer::Adjust(adjustment)) => Ok(Some(adjustment)),
        Ok(Answer::Armed) => Err(doubt(
            "the daemon gives an answer to another question".into(),
            "is it of the hook's release?",
        )),
        Ok(Answer::Refused { reason }) => Err(doubt("the daemon refuses it".into(), &reason)),
        Err(trouble) if is_a_users(&trouble) => Ok(None),
        Err(trouble) => Err(explain(&config.socket, &trouble)),
    }
}

/// Whether the container may start: exempt, or the daemon says so.
fn vouched(config: &Config, state: &State, deadline: &Deadline) -> Result<(), Doubt> {
    let namespace =
        state.namespace().map_err(|problem| doubt(problem, "correct the annotations of its pod"))?;
    if namespace.is_some_and(|namespace| config.exempt.contains(namespace)) || state.holds_the_pod() {
        return Ok(());
    }
    if let Some(why) = state.refused() {
        return Err(doubt(format!("at its creation: {why}"), "then start it again"));
    }
    let answer = ask(&config.socket, &request(Stage::CreateRuntime, state, deadline), deadline);
    match answer {
        Ok(Answer::Armed | Answer::Nothing) => Ok(()),
        Ok(Answer::Adjust(_)) => Err(doubt(
            "the daemon gives an answer to another question".into(),
            "is it of the hook's release?",
        )),
        Ok(Answer::Refused { reason }) => Err(doubt("the daemon refuses it".into(), &reason)),
        Err(trouble) if is_a_users(&trouble) => Ok(()),
        Err(trouble) => Err(explain(&config.socket, &trouble)),
    }
}

fn request(stage: Stage, state: &State, deadline: &Deadline) -> Request {
    let root = (stage == Stage::CreateRuntime).then(|| root(&state.bundle)).flatten();
    Request {
        stage,
        id: state.id.clone(),
        pid: state.pid,
        patience_millis: patience(deadline),
        root_inode: root.as_ref().map(|(_, inode)| *inode),
        root: root.map(|(path, _)| path),
        namespace: state.namespace().ok().flatten().unwrap_or_default().to_owned(),
        pod: state.pod().to_owned(),
        container: state.container().to_owned(),
        podman: state.runtime == Runtime::Podman,
        seccomp: None,
        seccomp_digest: state.seccomp().to_owned(),
    }
}

/// Milliseconds that are left.
fn patience(deadline: &Deadline) -> u64 {
    u64::try_from(deadline.left().unwrap_or_default().as_millis()).unwrap_or(0)
}

/// The directory that is to be the container's root. What cannot be found out is left out: the daemon then knows no
/// links before the start, and says so.
fn root(bundle: &str) -> Option<(String, u64)> {
    let bundle = Path::new(bundle).is_absolute().then(|| Path::new(bundle))?;
    let mut spec = Vec::new();
    std::fs::File::open(bundle.join("config.json"))
        .ok()?
        .take(MAX_SPEC_BYTES as u64)
        .read_to_end(&mut spec)
        .ok()?;
    let root = bundle.join(root_of(&spec).ok()?).canonicalize().ok()?;
    let inode = root.metadata().ok()?.ino();
    Some((root.into_os_string().into_string().ok()?, inode))
}

fn stopped(config: &Config, state: Result<State, String>, deadline: &Deadline, told: &mut dyn Write) {
    let state = match state {
        Ok(state) => state,
        Err(problem) => return say(told, format_args!("the OCI state makes no sense: {problem}")),
    };
    // nothing depends on it: the daemon finds out by itself what is over, a little later
    if let Err(trouble) = tell(&config.socket, &request(Stage::Poststop, &state, deadline), deadline) {
        let Doubt { why, .. } = explain(&config.socket, &trouble);
        say(told, format_args!("cannot tell the daemon that {} is over: {why}", Named(Some(&state))));
    }
}

fn doubt(why: String, advice: &str) -> Doubt {
    Doubt { why, advice: advice.to_owned() }
}

/// Whether the hook is run for a user's own container (rootless podman), who may not even see the socket. The daemon does not
/// protect those, and their users choose the hooks themselves: failing them would protect nothing.
fn is_a_users(trouble: &Trouble) -> bool {
    let Trouble::Absent(error) = trouble else { return false };
    error.kind() == ErrorKind::PermissionDenied && users::own()
}

fn explain(socket: &Path, trouble: &Trouble) -> Doubt {
    let at = socket.display();
    match trouble {
        Trouble::Absent(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            doubt(
                format!("nri-enforcer does not listen at `{at}` ({error})"),
                "start nri-enforcer on this node",
            )
        }
        Trouble::Absent(error) => doubt(
            format!("cannot connect to `{at}`: {error}"),
            "is `socket` the --gate-socket of nri-enforcer?",
        ),
        Trouble::NotRoot(uid) => doubt(
            format!("user {uid}, not root, listens at `{at}`"),
            "find out who that is, remove the socket, and start nri-enforcer again",
        ),
        Trouble::Late(limit) => doubt(
            format!("nri-enforcer did not answer at `{at}` within {} ms", limit.as_millis()),
            "look at its log; start it again if it hangs, or raise `deadlineMillis` if the node is slow",
        ),
        Trouble::Broken(error) => doubt(
            format!("nri-enforcer hung up without an answer at `{at}`: {error}"),
            "look at its log; start it again if it has died",
        ),
        Trouble::Garbage(problem) => doubt(
            format!("what listens at `{at}` gives an answer that makes no sense: {problem}"),
            "is that nri-enforcer, and of the hook's release?",
        ),
    }
}

/// A container, for people.
struct Named<'a>(Option<&'a State>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(state) = self.0 else { return f.write_str("the container") };
        let shown = |text: &str| readable(text, SHOWN);
        match state.namespace() {
            Ok(Some(namespace)) if state.runtime == Runtime::Cri => {
                let (container, pod) = (shown(state.container()), shown(state.pod()));
                write!(
                    f,
                    "container `{container}` of pod `{}/{pod}` ({})",
                    shown(namespace),
                    shown(&state.id)
                )
            }
            _ => write!(f, "container `{}`", shown(&state.id)),
        }
    }
}

/// Whoever called may have closed its end; then nobody wants to know.
fn say(told: &mut dyn Write, text: fmt::Arguments<'_>) {
    let _unheard = writeln!(told, "nri-enforcer-hook: {text}");
}
