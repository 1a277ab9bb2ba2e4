//! The command's side: asks the daemon about a container that runs, and prints.

use enforcer_core::explain::Explanation;

use super::document::{AsWritten, GapTold, Query, SeccompTold, Told, Which};
use super::{ended, parse, print};
use crate::apply::client::Daemon;
use crate::apply::serve::{Answer, Request};
use crate::cli::{BaseChoice, ExplainArgs, Output};
use crate::exit::Exit;
use crate::status::document::{ContainerStatus, State};
use crate::term::{BAD, DIM, WARN, clean, complain, of_verdict, paint, say, say_json, table};

/// How much of a digest is shown to people, in characters.
const SHORT: usize = 12;
/// How many gaps are shown to people.
const GAPS: usize = 8;

/// Asks, and prints the answer.
pub(super) fn run(args: &ExplainArgs) -> Exit {
    let answer = query(args).and_then(|query| {
        Daemon::reach(&args.admin_socket)?.ask(&Request::Explain { query: Box::new(query) })
    });
    match answer {
        Ok(Answer::Explained { told }) => {
            match args.output {
                Output::Json => say_json(&told),
                Output::Text => show(&told),
            }
            ended(args, told.verdict())
        }
        Ok(Answer::Choose { containers }) => {
            let none = containers.is_empty();
            match none {
                true => complain(format!(
                    "{}: the daemon knows no such container; `nri-enforcer status` shows those of this node\n",
                    paint(BAD, "error")
                )),
                false => choose(&containers),
            }
            Exit::BadInput
        }
        Ok(Answer::Refused { why }) => wrong(&why),
        Ok(_) => wrong("the daemon's answer makes no sense"),
        Err(problem) => wrong(&problem),
    }
}

fn wrong(problem: &str) -> Exit {
    complain(format!("{}: {}\n", paint(BAD, "error"), clean(problem)));
    Exit::BadInput
}

fn query(args: &ExplainArgs) -> Result<Query, String> {
    // what makes no sense need not be asked
    let (_, source) = parse(args)?;
    if let Some(flag) = said_in_vain(args) {
        return Err(format!(
            "{flag} goes with --policy: without it, the daemon is asked what this host really has"
        ));
    }
    let container = Some(args.container.clone()).filter(|name| !name.is_empty());
    let which = match (&args.pod, &args.id) {
        (Some(pod), _) => match pod.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Which::Pod { namespace: namespace.to_owned(), name: name.to_owned(), container }
            }
            _ => return Err("--pod: expected NAMESPACE/NAME, for example default/web-0".to_owned()),
        },
        (None, Some(id)) => Which::Id(id.clone()),
        (None, None) => Which::Host,
    };
    Ok(Query {
        which,
        access: args.access.clone(),
        source: source.map(|path| path.to_string()),
        args: args.args.clone(),
        terminal: args.tty,
        uid: args.uid,
        owner: args.owner,
    })
}

/// What says something about processes of the host, of which the daemon knows better.
fn said_in_vain(args: &ExplainArgs) -> Option<&'static str> {
    let said = [
        (args.namespace.is_some(), "--namespace"),
        (!args.labels.is_empty(), "--label"),
        (!args.container.is_empty(), "--container"),
        (!args.postures.is_empty(), "--posture"),
        (args.base != BaseChoice::RuntimeDefault, "--base"),
        (!args.capabilities.is_empty(), "--cap"),
        (args.root.is_some(), "--root"),
    ];
    said.into_iter().find(|(is_said, _)| args.host && *is_said).map(|(_, flag)| flag)
}

fn choose(containers: &[ContainerStatus]) {
    let mut list = table(["CONTAINER", "STATE", "ID"], 3);
    for one in containers {
        list.add_row([clean(&one.container), word(one.state).to_owned(), clean(&one.id)]);
    }
    complain(format!(
        "{}: more than one container is meant: name one with --container or --id\n{list}\n",
        paint(BAD, "error")
    ));
}

fn show(told: &Told) {
    let Told { explanation, seccomp, lock, ruleset, as_written, gaps, notes, container, .. } = told;
    print(&cleaned(explanation));
    if let Some(seccomp) = seccomp {
        show_seccomp(seccomp);
    }
    let who = match container.host {
        true => "the host".to_owned(),
        false => format!("container {} of {}/{}", container.container, container.namespace, container.pod),
    };
    let held = match (lock, ruleset) {
        (Some(lock), Some(digest)) => {
            let short: String = digest.chars().take(SHORT).collect();
            format!("ruleset {short} held by {lock}")
        }
        _ => "no ruleset".to_owned(),
    };
    let audited = if container.audited { ", audited" } else { "" };
    let by = format!("{who}: {}{audited}, {held}", word(container.state));
    say(format!("  {} {}\n", paint(DIM, "for   "), clean(&by)));
    if let Some(AsWritten { explanation, not_in_force }) = as_written {
        let Explanation { verdict, reason, .. } = explanation;
        complain(format!(
            "{}: the policies say {}, and that is not in force: {}\n  {}\n",
            paint(WARN, "warning"),
            paint(of_verdict(*verdict), verdict),
            clean(not_in_force),
            clean(reason)
        ));
    }
    for note in notes {
        complain(format!("{}: {}\n", paint(DIM, "note"), clean(note)));
    }
    for GapTold { policy, field, reason, advice } in gaps.iter().take(GAPS) {
        let gap = format!("{policy}: {field}: {reason}; {advice}");
        complain(format!("{}: not enforced as written: {}\n", paint(WARN, "warning"), clean(&gap)));
    }
    if let Some(more) = gaps.len().checked_sub(GAPS).filter(|more| *more > 0) {
        complain(format!("{}: {more} more gaps by --output json\n", paint(WARN, "warning")));
    }
}

fn show_seccomp(seccomp: &SeccompTold) {
    let SeccompTold { verdict, policy, rule, reason, not_in_force, .. } = seccomp;
    let reason = format!("by seccomp: {reason}");
    print(&cleaned(&Explanation { verdict: *verdict, policy: policy.clone(), rule: rule.clone(), reason }));
    if let Some(why) = not_in_force {
        complain(format!("{}: its processes do not have that: {}\n", paint(WARN, "warning"), clean(why)));
    }
}

fn cleaned(explanation: &Explanation) -> Explanation {
    let Explanation { verdict, policy, rule, reason } = explanation;
    let of = |text: &Option<String>| text.as_deref().map(clean);
    Explanation { verdict: *verdict, policy: of(policy), rule: of(rule), reason: clean(reason) }
}

const fn word(state: State) -> &'static str {
    match state {
        State::Armed => "armed",
        State::PendingRestart => "pending restart",
        State::NotCovered => "not covered",
        State::Exempt => "exempt",
        State::NotSelected => "not selected",
        State::Ended => "ended",
    }
}
