//! The command's side: asks the daemon, and prints.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use comfy_table::{Cell, Color, ColumnConstraint};

use super::document::{API_VERSION, ApiStatus, ContainerStatus, Document, HostStatus, State, Verdicts};
use crate::cli::{Output, StatusArgs};
use crate::exit::Exit;
use crate::seccomp::ledger::State as Profile;
use crate::term::{BAD, GOOD, WARN, clean, complain, mark, paint, say, say_json, table};

/// How long the daemon may take for its whole answer.
const LONGEST: Duration = Duration::from_secs(10);
/// The longest answer, in bytes: that of some 100,000 containers.
const MAX_ANSWER: u64 = 64 << 20;
/// How much of a digest is shown to people, in characters.
const SHORT: usize = 12;
/// How wide the table is where no terminal has a width, in characters.
const WIDE: u16 = 160;
/// How many other names of paths are shown to people.
const TOLD: usize = 4;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error(
        "no daemon answers at `{0}`: {1}; is `nri-enforcer run` running, with the same --status-socket? (only root may ask)"
    )]
    Socket(String, std::io::Error),
    #[error("the daemon's answer is cut off: {0}")]
    CutOff(std::io::Error),
    #[error("the daemon's answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
    #[error("the daemon's answer makes no sense: {0}")]
    Nonsense(serde_json::Error),
    #[error("the daemon speaks `{0}`, this command `{API_VERSION}`: use the command of the daemon's version")]
    Version(String),
}

/// Asks, and prints the answer.
pub fn run(args: &StatusArgs) -> Exit {
    let mut document = match ask(&args.status_socket) {
        Ok(document) => document,
        Err(error) => {
            complain(format!("{}: {error}\n", paint(BAD, "error")));
            return Exit::No;
        }
    };
    if let Some(namespace) = &args.namespace {
        document.containers.retain(|one| one.namespace == *namespace);
    }
    let daemon = &document.daemon;
    let observes = daemon.lock == "none" && !daemon.seccomp_only;
    let good = daemon.connected
        && !observes
        && daemon.uncombined.is_none()
        && daemon.unknown.is_empty()
        && daemon.without_hook.is_none()
        && daemon.not_reverted.is_none()
        && daemon
            .host
            .as_ref()
            .is_none_or(|host| host.problem.is_none() && host.not_enforced == 0 && host.awaiting_labels == 0)
        && daemon.api.as_ref().is_none_or(|api| api.has_set)
        && document.containers.iter().all(|one| one.state.is_good());
    if args.pending {
        document.containers.retain(|one| !one.state.is_good());
    }
    match args.output {
        Output::Json => say_json(&document),
        Output::Text => print(&document, good),
    }
    if good { Exit::Ok } else { Exit::No }
}

/// What the daemon says.
pub(crate) fn ask(socket: &Path) -> Result<Document, Unanswered> {
    let nobody = |error| Unanswered::Socket(socket.display().to_string(), error);
    let mut daemon = UnixStream::connect(socket).map_err(nobody)?;
    let deadline = Instant::now() + LONGEST;
    let mut text = Vec::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        daemon.set_read_timeout(Some(left)).map_err(nobody)?;
        match daemon.read(&mut piece) {
            Ok(0) if text.is_empty() => return Err(nobody(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(0) => break,
            Ok(length) => text.extend(piece.iter().take(length)),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if text.is_empty() => return Err(nobody(error)),
            Err(error) => return Err(Unanswered::CutOff(error)),
        }
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_ANSWER {
            return Err(Unanswered::TooLong);
        }
        if Instant::now() >= deadline {
            return Err(Unanswered::CutOff(std::io::ErrorKind::TimedOut.into()));
        }
    }
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(Unanswered::Nonsense)?;
    match value.get("apiVersion").and_then(serde_json::Value::as_str) {
        Some(API_VERSION) => serde_json::from_value(value).map_err(Unanswered::Nonsense),
        other => Err(Unanswered::Version(other.unwrap_or("nothing").to_owned())),
    }
}

fn print(document: &Document, good: bool) {
    let Document { daemon, containers, .. } = document;
    let titles = [
        "",
        "Namespace",
        "Pod",
        "Container",
        "Policies",
        "Ruleset",
        "Gaps",
        "Blocked",
        "Audited",
        "Seccomp profile",
        "Why",
    ];
    let mut rows = table(titles, 1);
    if !std::io::stdout().is_terminal() {
        rows.set_width(WIDE);
    }
    rows.column_iter_mut().skip(5).take(4).for_each(|column| {
        column.set_constraint(ColumnConstraint::ContentWidth);
    });
    for one in containers {
        let (word, color) = state(one.state);
        let gaps = match one.gaps {
            0 => Cell::new("0"),
            some => mark(&some.to_string(), Color::Yellow),
        };
        let names = [&one.namespace, &one.pod, &one.container].map(|name| Cell::new(clean(name)));
        let counts = |count: fn(&Verdicts) -> u64| match &one.verdicts {
            Some(verdicts) => Cell::new(count(verdicts)),
            None => Cell::new("?"),
        };
        let more = [
            Cell::new(clean(&one.policies.join(" "))),
            Cell::new(one.ruleset.as_deref().map_or_else(|| "-".to_owned(), |digest| clean(&short(digest)))),
            gaps,
            counts(|verdicts| verdicts.blocked),
            counts(|verdicts| verdicts.audited),
            Cell::new(profile(one)),
            Cell::new(clean(&why(one))),
        ];
        rows.add_row([mark(word, color)].into_iter().chain(names).chain(more));
    }
    if !containers.is_empty() {
        say(format!("{rows}\n"));
    }
    if daemon.lock == "none" && !daemon.seccomp_only {
        let text = "NO LOCK WORKS ON THIS NODE: no rule but seccomp policies is enforced; `nri-enforcer probe` says what is missing.";
        say(format!("{}\n", paint(BAD, text)));
    } else if daemon.lock.contains("apparmor") {
        say(format!("{}\n", paint(GOOD, format!("Rules are held by {}.", clean(&daemon.lock)))));
    }
    if let Some(why) = daemon.not_seen.as_ref().filter(|_| daemon.lock != "none") {
        say(format!(
            "{}\n",
            paint(WARN, clean(&format!("Not everything that is denied is counted: {why}.")))
        ));
    }
    if let Some(why) = &daemon.uncombined {
        let text =
            format!("AppArmor is not beside BPF-LSM (--combine), so native AppArmor rules are gaps: {why}.");
        say(format!("{}\n", paint(BAD, clean(&text))));
    }
    if daemon.seccomp_only {
        say(format!("{}\n", paint(WARN, "This daemon enforces seccomp policies alone.")));
    }
    let connection = match (daemon.connected, daemon.without_nri) {
        (true, false) => None,
        (true, true) => {
            Some((WARN, "No NRI, by configuration: what starts without the OCI hook starts unprotected."))
        }
        (false, false) => Some((
            BAD,
            "The daemon is not connected to the runtime: what starts now without the OCI hook starts unprotected.",
        )),
        (false, true) => Some((
            BAD,
            "No NRI, by configuration, and what runs has not been taken over yet; the daemon's log says why.",
        )),
    };
    if let Some((style, text)) = connection {
        say(format!("{}\n", paint(style, text)));
    }
    for (id, why) in &daemon.unknown {
        let text = format!("Container {id} may run, and no policy reaches it: {why}.");
        say(format!("{}\n", paint(BAD, clean(&text))));
    }
    if let Some(host) = &daemon.host {
        print_host(host);
    }
    if let Some(why) = &daemon.without_hook {
        say(format!(
            "{}\n",
            paint(BAD, clean(&format!("Containers are created without the OCI hook: {why}.")))
        ));
    }
    if let Some(why) = &daemon.not_reverted {
        say(format!(
            "{}\n",
            paint(BAD, clean(&format!("A change that was not confirmed is not reverted: {why}.")))
        ));
    }
    for what in &daemon.untrusted {
        say(format!(
            "{}\n",
            paint(WARN, clean(&format!("{what}: whoever that is decides what is enforced.")))
        ));
    }
    if let Some(api) = &daemon.api {
        print_api(api);
    }
    let bad = containers.iter().filter(|one| !one.state.is_good()).count();
    let verdict = match (good, bad) {
        (true, _) => paint(GOOD, "Every container that policies select is covered."),
        (false, 0) => String::new(),
        (false, 1) => paint(BAD, "1 container is not covered, or pending restart."),
        (false, bad) => paint(BAD, format!("{bad} containers are not covered, or pending restart.")),
    };
    if !verdict.is_empty() {
        say(format!("{verdict}\n"));
    }
}

fn print_host(host: &HostStatus) {
    let told = |style, text: String| say(format!("{}\n", paint(style, clean(&text))));
    if let Some(why) = &host.problem {
        told(BAD, format!("Policies on the host's own processes are not enforced: {why}."));
    } else if host.not_enforced > 0 {
        told(
            WARN,
            format!(
                "Policies on the host's own processes that are not enforced (--host-policies): {}.",
                host.not_enforced
            ),
        );
    }
    if host.awaiting_labels > 0 {
        told(
            BAD,
            format!(
                "Policies on the host's own processes that wait for the labels of this node, and are not enforced: {}.",
                host.awaiting_labels
            ),
        );
    }
    if host.enforced && !host.not_found.is_empty() {
        told(
            WARN,
            format!("Exempt from policies on the host, and not found on it: {}.", host.not_found.join(", ")),
        );
    }
}

fn print_api(api: &ApiStatus) {
    let told = |style, text: String| say(format!("{}\n", paint(style, clean(&text))));
    match api.staleness_seconds {
        Some(age) => {
            let age = humantime::format_duration(Duration::from_secs(age));
            say(format!("The API server's policies were last known to be current {age} ago.\n"));
        }
        None if api.has_set => {
            let age = api.age_seconds.map(|age| humantime::format_duration(Duration::from_secs(age)));
            let age = age.map(|age| format!(", saved {age} ago,")).unwrap_or_default();
            told(
                WARN,
                format!("The API server has not been read yet: its last known policies{age} are in force."),
            );
        }
        None => told(
            BAD,
            "The API server has not been read yet: its policies are not in force. Where the OCI hook's mode is `closed`, only \
             what is exempt starts until its policies on containers are known."
                .into(),
        ),
    }
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (kind, trouble) in &api.troubles {
        kinds.entry(trouble).or_default().push(kind);
    }
    for (trouble, kinds) in kinds {
        told(WARN, format!("{}: {trouble}.", kinds.join(", ")));
    }
    for (kind, count) in &api.left_out {
        told(
            WARN,
            format!("{kind}: {count} or more have no room here and are left out; their status says why."),
        );
    }
    for (what, why) in &api.untold {
        told(WARN, format!("Cannot {}: {}; enforcement goes on.", clean(what), clean(why)));
    }
    if let Some(why) = &api.not_restored {
        told(WARN, format!("At its start the daemon had no last known policies: {why}."));
    }
    if let Some(why) = &api.not_saved {
        told(WARN, format!("The API server's policies cannot be saved for the next start: {why}."));
    }
}

fn state(state: State) -> (&'static str, Color) {
    match state {
        State::Armed => ("armed", Color::Green),
        State::PendingRestart => ("pending restart", Color::Yellow),
        State::NotCovered => ("not covered", Color::Red),
        State::Exempt => ("exempt", Color::Grey),
        State::NotSelected => ("not selected", Color::Grey),
        State::Ended => ("ended", Color::Grey),
    }
}

/// Why it stands so; where that is plain, by which other names its rules hold.
fn why(one: &ContainerStatus) -> String {
    let more = one.names.len().saturating_sub(TOLD);
    let told: Vec<&str> = one.names.iter().take(TOLD).map(String::as_str).collect();
    match (one.reason.is_empty(), more) {
        (false, _) => one.reason.clone(),
        (true, 0) => told.join("; "),
        (true, more) => format!("{}; {more} more by --output json", told.join("; ")),
    }
}

fn short(digest: &str) -> String {
    digest.chars().take(SHORT).collect()
}

/// The profile for people: the beginning of its digest.
fn profile(one: &ContainerStatus) -> String {
    let Some(seccomp) = &one.seccomp else { return "-".to_owned() };
    let digest = seccomp.profile.as_deref().map(short).unwrap_or_default();
    let word = match seccomp.state {
        Profile::InForce => "applied",
        Profile::PendingRestart => "pending restart",
        Profile::NotApplied => "not applied",
        Profile::Ended => "ended",
    };
    clean(format!("{word} {digest}").trim())
}
