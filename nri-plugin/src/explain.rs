//! `explain`: what the policies decide about one access. The answer is `Ruleset::decide`'s, which every enforcing part
//! is tested against.

use std::collections::BTreeMap;

use enforcer_core::coverage::Coverage;
use enforcer_core::decide::Verdict;
use enforcer_core::explain::{Explanation, Question};
use enforcer_core::path::AbsPath;
use enforcer_core::ruleset::{Resolved, Ruleset};
use enforcer_core::subject::Subject;

use crate::cli::{ExpectedVerdict, ExplainArgs, Output, postures};
use crate::exit::{Exit, chain};
use crate::input::{self, Input};
use crate::term::{BAD, BOLD, DIM, WARN, complain, of_verdict, paint, render, say, say_json};

/// Answers, and prints the answer.
pub fn run(args: &ExplainArgs) -> Exit {
    let (explanation, coverage) = match answer(args) {
        Ok(answer) => answer,
        Err(problem) => {
            complain(format!("{}: {problem}\n", paint(BAD, "error")));
            return Exit::BadInput;
        }
    };
    match args.output {
        Output::Json => say_json(&explanation),
        Output::Text => print(&explanation),
    }
    // beside the answer, which is about the rules that the kernel would have
    for gap in &coverage.gaps {
        complain(format!("{}: not considered: {gap}\n", paint(WARN, "warning")));
    }
    match args.expect.map(Verdict::from) {
        Some(expected) if expected != explanation.verdict => {
            complain(format!("{}: expected {expected}, got {}\n", paint(BAD, "error"), explanation.verdict));
            Exit::No
        }
        _ => Exit::Ok,
    }
}

fn answer(args: &ExplainArgs) -> Result<(Explanation, Coverage), String> {
    let question: Question = args.access.parse().map_err(|error| format!("--access: {}", chain(&error)))?;
    let source = args.source.as_deref().map(str::parse::<AbsPath>).transpose();
    let source = source.map_err(|error| format!("--source: {}", chain(&error)))?;
    let inputs = input::load(&args.policies).map_err(|error| chain(&error))?;
    refuse_bad_policies(&inputs)?;
    if args.host {
        return Ok((host(), Coverage::default()));
    }
    let labels: BTreeMap<String, String> =
        args.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
    let namespace = args.namespace.clone().unwrap_or_default();
    let subject = Subject { namespace, pod: String::new(), labels, container: args.container.clone() };
    let Resolved { ruleset, coverage } =
        Ruleset::resolve(input::policies(&inputs), &postures(&args.postures), &subject);
    let access = question.access(source.as_ref().map(AbsPath::as_bytes), args.uid, args.owner);
    Ok((ruleset.explain(&question, &access), coverage))
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

/// A verdict by half of the policies would be a wrong one.
fn refuse_bad_policies(inputs: &[Input]) -> Result<(), String> {
    let errors: Vec<String> = input::errors(inputs).map(|(error, text)| render(error, text)).collect();
    errors.iter().for_each(complain);
    match errors.len() {
        0 => {}
        1 => return Err("the policies have an error".into()),
        number => return Err(format!("the policies have {number} errors")),
    }
    if let Some((policy, first, second)) = input::duplicates(inputs).first() {
        return Err(format!(
            "the policy `{policy}` is defined in `{}` and in `{}`",
            first.display(),
            second.display()
        ));
    }
    if input::policies(inputs).next().is_none() {
        return Err(
            "there is no policy in what --policy names; policies are in *.yaml, *.yml and *.json files"
                .into(),
        );
    }
    Ok(())
}

/// What holds for a process of the host today.
fn host() -> Explanation {
    Explanation {
        verdict: Verdict::Allow,
        policy: None,
        rule: None,
        reason: "processes of the host are not judged: this version does not enforce KubeArmorHostPolicy yet"
            .into(),
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
