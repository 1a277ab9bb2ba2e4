//! `alerts`: the daemon's alerts for people.

mod lines;

use std::io::{BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use self::lines::{Line, Lines};
use crate::apply::client::Daemon;
use crate::cli::{AlertAction, AlertsArgs, Label, Output, Since};
use crate::exit::Exit;
use crate::term::{BAD, BOLD, DIM, WARN, clean, complain, paint, printable};

/// What is shown of an alert and filtered by. More fields are passed over, and missing ones are empty.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Alert {
    timestamp: u64,
    updated_time: String,
    namespace_name: String,
    pod_name: String,
    container_name: String,
    labels: String,
    source: String,
    policy_name: String,
    policy_namespace: String,
    rule: String,
    severity: String,
    message: String,
    #[serde(rename = "Type")]
    kind: String,
    operation: String,
    resource: String,
    data: String,
    action: String,
    count: u64,
}

/// Prints the alerts that the filters let through, until the end, if there is one.
pub fn run(args: &AlertsArgs) -> Exit {
    match print(args) {
        Ok(0) => Exit::Ok,
        Ok(strange) => {
            let lines = if strange == 1 { "1 line is" } else { &format!("{strange} lines are") };
            complain(format!("{}: {lines} no alert\n", paint(WARN, "warning")));
            Exit::No
        }
        Err(problem) => {
            complain(format!("{}: {}\n", paint(BAD, "error"), clean(&problem)));
            Exit::BadInput
        }
    }
}

/// How many lines are no alerts.
fn print(args: &AlertsArgs) -> Result<u64, String> {
    let unreadable = |error: std::io::Error| match &args.file {
        Some(path) => format!("cannot read `{}`: {error}", path.display()),
        None => format!("the daemon at `{}`: {error}", args.admin_socket.display()),
    };
    let mut lines = match &args.file {
        Some(path) => Lines::open(path, args.follow).map_err(unreadable)?,
        None => {
            let (lines, count) = ask(args)?;
            Lines::of_daemon(lines, count)
        }
    };
    let mut strange = 0;
    while let Some(line) = lines.next_line().map_err(unreadable)? {
        let told = match line {
            Line::Whole(text) if text.trim_ascii().is_empty() => continue,
            Line::Whole(text) => alert(text),
            Line::TooLong => None,
        };
        let Some((alert, text)) = told else {
            strange += 1;
            continue;
        };
        if !alert.passes(args) {
            continue;
        }
        let text = match args.output {
            Output::Json => format!("{}\n", text.trim_end()),
            Output::Text => alert.to_line(),
        };
        match anstream::stdout().write_all(text.as_bytes()) {
            // whoever read has seen enough
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            result => result.map_err(|error| format!("cannot write: {error}"))?,
        }
    }
    Ok(strange)
}

fn ask(args: &AlertsArgs) -> Result<(BufReader<UnixStream>, Option<usize>), String> {
    let refused = |why| format!("{why}; `nri-enforcer alerts FILE` reads a file of alerts, and `-` stdin");
    Daemon::reach(&args.admin_socket).map_err(refused)?.alerts(args.follow)
}

fn alert(line: &[u8]) -> Option<(Alert, &str)> {
    let text = std::str::from_utf8(line).ok()?;
    let alert: Alert = serde_json::from_str(text).ok()?;
    // any object would do for serde, as no field has to be there
    (!alert.kind.is_empty()).then_some((alert, text))
}

impl Alert {
    fn passes(&self, args: &AlertsArgs) -> bool {
        let AlertsArgs { namespaces, pods, containers, labels, policies, .. } = args;
        let AlertsArgs { operations, severity, action, since, .. } = args;
        if since.is_some_and(|Since(since)| self.time() < since) {
            return false;
        }
        if self.data.split(' ').any(|word| matches!(word, "notice=dropped" | "notice=ring-full")) {
            return true; // what is lost could have been any
        }
        let is_one =
            |wanted: &[String], name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
        let whole = format!("{}/{}", self.policy_namespace, self.policy_name);
        let action = action.is_none_or(|action| match action {
            AlertAction::Block => self.action == "Block",
            AlertAction::Audit => self.action == "Audit",
        });
        let severe = severity.is_none_or(|least| self.severity.parse().is_ok_and(|told: u8| told >= least));
        let by = is_one(policies, &self.policy_name) || is_one(policies, &whole);
        is_one(namespaces, &self.namespace_name)
            && is_one(pods, &self.pod_name)
            && is_one(containers, &self.container_name)
            && labels.iter().all(|wanted| self.has(wanted))
            && (operations.is_empty() || operations.iter().any(|one| one.as_str() == self.operation))
            && (self.is_of_several() || by && severe)
            && action
    }

    fn has(&self, Label { key, value }: &Label) -> bool {
        let is = |told: &str| told.split_once('=') == Some((key.as_str(), value.as_str()));
        self.labels.split(',').any(is)
    }

    /// Whether it is a summary of what several policies decided, any of them.
    fn is_of_several(&self) -> bool {
        self.count > 1 && self.policy_name.is_empty()
    }

    fn time(&self) -> SystemTime {
        let told = humantime::parse_rfc3339_weak(&self.updated_time).ok();
        let seconds = || SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.timestamp));
        told.or_else(seconds).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// One line; what processes and policies are called must not steer the terminal, nor look like another line.
    fn to_line(&self) -> String {
        let clean = |text: &str| -> String {
            text.chars().map(|c| if c == '\t' { ' ' } else { printable(c) }).collect()
        };
        let Self { updated_time, namespace_name, pod_name, container_name, .. } = self;
        let style = match (self.action.as_str(), self.kind.as_str()) {
            ("Block", _) => BAD,
            (_, "SystemEvent") => BOLD,
            _ => WARN,
        };
        let mut line = format!("{} {}", paint(DIM, clean(updated_time)), paint(style, clean(&self.action)));
        if !pod_name.is_empty() {
            line += &format!(" {}", clean(&format!("{namespace_name}/{pod_name} {container_name}")));
        }
        if self.kind != "SystemEvent" {
            let what = format!("{} {}", self.operation.to_lowercase(), self.resource);
            line += &format!(" {}", paint(BOLD, clean(&what)));
            if !self.source.is_empty() {
                line += &format!(" by {}", clean(&self.source));
            }
            let policy = format!("{} {}", self.policy_name, self.rule);
            line += &format!(" {}", paint(DIM, clean(policy.trim_end())));
        }
        if self.count > 1 {
            line += &format!(" {}", paint(BOLD, format!("({} times)", self.count)));
        }
        if !self.message.is_empty() {
            line += &format!(": {}", clean(&self.message));
        }
        line + "\n"
    }
}
