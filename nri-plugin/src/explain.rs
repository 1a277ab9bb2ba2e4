//! `explain`: what the policies decide about one access, and why: by policy files, or by what a running container has.

mod choose;
pub mod document;
pub mod inquiry;
mod live;

use std::collections::BTreeMap;

use enforcer_core::coverage::Coverage;
use enforcer_core::decide::Verdict;
use enforcer_core::explain::{Explanation, Question, SeccompExplanation};
use enforcer_core::path::AbsPath;
use enforcer_core::ruleset::Class;
use enforcer_core::subject::Subject;

use crate::cli::{ExpectedVerdict, ExplainArgs, Output, postures};
use crate::compile;
use crate::exit::{Exit, chain};
use crate::input;
use crate::judge::{Answer, Asked, Judge, of_seccomp};
use crate::term::{BAD, BOLD, DIM, WARN, complain, of_verdict, paint, say, say_json};

/// Answers, and prints the answer.
pub fn run(args: &ExplainArgs) -> Exit {
    if args.policies.is_empty() {
        return live::run(args);
    }
    let (answer, coverage) = match answer(args) {
        Ok(answer) => answer,
        Err(problem) => {
            complain(format!("{}: {problem}\n", paint(BAD, "error")));
            return Exit::BadInput;
        }
    };
    match args.output {
        Output::Json => say_json(&answer),
        Output::Text => {
            // that no rule speaks about it is no answer where a seccomp policy has one
            if answer.ruled || answer.seccomp.is_none() {
                print(&answer.explanation);
            }
            answer.seccomp.iter().for_each(print_seccomp);
        }
    }
    // beside the answer, which is about the rules that the kernel would have
    for gap in &coverage.gaps {
        complain(format!("{}: not considered: {gap}\n", paint(WARN, "warning")));
    }
    ended(args, answer.verdict())
}

/// Whether the verdict is the one that is expected.
fn ended(args: &ExplainArgs, verdict: Verdict) -> Exit {
    match args.expect.map(Verdict::from) {
        Some(expected) if expected != verdict => {
            complain(format!("{}: expected {expected}, got {verdict}\n", paint(BAD, "error")));
            Exit::No
        }
        _ => Exit::Ok,
    }
}

/// The access, and the executable that acts.
fn parse(args: &ExplainArgs) -> Result<(Question, Option<AbsPath>), String> {
    let question: Question = args.access.parse().map_err(|error| format!("--access: {}", chain(&error)))?;
    if question.class() != Class::Process {
        let flag = if args.parent.is_some() { Some("--parent") } else { None };
        if let Some(flag) = flag.or((!args.args.is_empty()).then_some("--args")) {
            return Err(format!("{flag} is about `process:exec:...`, and the access is none"));
        }
    }
    let (flag, source) = match (&args.source, &args.parent) {
        (None, Some(parent)) => ("--parent", Some(parent)),
        (source, _) => ("--source", source.as_ref()),
    };
    let source = source.map(|path| path.parse::<AbsPath>()).transpose();
    let source = source.map_err(|error| format!("{flag}: {}", chain(&error)))?;
    Ok((question, source))
}

fn answer(args: &ExplainArgs) -> Result<(Answer, Coverage), String> {
    let (question, source) = parse(args)?;
    let inputs = input::load(&args.policies).map_err(|error| chain(&error))?;
    input::refuse_bad(&inputs)?;
    let labels: BTreeMap<String, String> =
        args.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
    let namespace = args.namespace.clone().unwrap_or_default();
    let subject = match args.host {
        true => Subject::of_host(labels),
        false => Subject { namespace, labels, container: args.container.clone(), ..Subject::default() },
    };
    let judge = Judge::new(&inputs, &subject, postures(&args.postures), args.root.as_deref())?;
    let asked = Asked {
        question: &question,
        source: source.as_ref(),
        args: &args.args,
        terminal: args.tty,
        uid: args.uid,
        owner: args.owner,
    };
    let answer = judge.answer(&asked, || compile::base(&args.base, &args.capabilities))?;
    Ok((answer, judge.coverage))
}

fn print_seccomp(explanation: &SeccompExplanation) {
    let SeccompExplanation { policy, rule, reason, .. } = explanation;
    let reason = format!("by seccomp: {reason}");
    let verdict = of_seccomp(explanation);
    print(&Explanation { verdict, policy: policy.clone(), rule: rule.clone(), reason });
}

fn print(explanation: &Explanation) {
    let Explanation { verdict, policy, rule, reason } = explanation;
    say(format!("{}  {reason}\n", paint(of_verdict(*verdict), verdict)));
    for (title, value) in [("policy", policy), ("rule", rule)] {
        if let Some(value) = value {
            say(format!("  {} {}\n", paint(DIM, format!("{title:<6}")), paint(BOLD, value)));
        }
    }
}

impl From<ExpectedVerdict> for Verdict {
    fn from(expected: ExpectedVerdict) -> Self {
        match expected {
            ExpectedVerdict::Allow => Self::Allow,
            ExpectedVerdict::Audit => Self::Audit,
            ExpectedVerdict::Block => Self::Block,
        }
    }
}
