//! `explain`: what the policies decide about one access. The answer is `Ruleset::decide`'s, which every enforcing part
//! is tested against.

use std::collections::BTreeMap;

use enforcer_core::coverage::Coverage;
use enforcer_core::decide::{Access, Target, Verdict};
use enforcer_core::enforce::root::Root;
use enforcer_core::explain::{Explanation, Question, SeccompExplanation};
use enforcer_core::links::Link;
use enforcer_core::path::AbsPath;
use enforcer_core::ruleset::{Class, Resolved, Ruleset};
use enforcer_core::seccomp::{Arch, BaseProfile, Node};
use enforcer_core::subject::Subject;
use serde::Serialize;

use crate::cli::{ExpectedVerdict, ExplainArgs, Output, postures};
use crate::compile;
use crate::exit::{Exit, chain};
use crate::input::{self, Input};
use crate::term::{BAD, BOLD, DIM, WARN, complain, of_verdict, paint, say, say_json};

/// Answers, and prints the answer.
pub fn run(args: &ExplainArgs) -> Exit {
    let (Answer { mut explanation, seccomp }, coverage) = match answer(args) {
        Ok(answer) => answer,
        Err(problem) => {
            complain(format!("{}: {problem}\n", paint(BAD, "error")));
            return Exit::BadInput;
        }
    };
    match args.output {
        Output::Json => say_json(&Answer { explanation: explanation.clone(), seccomp: seccomp.clone() }),
        Output::Text => print(&explanation),
    }
    if let Some(seccomp) = &seccomp {
        // Both ask about every call; the stricter of the two is what happens.
        let verdict = match (seccomp.passes, seccomp.action.as_str()) {
            (true, "allow") => Verdict::Allow,
            (true, _) => Verdict::Audit,
            (false, _) => Verdict::Block,
        };
        if args.output == Output::Text {
            print_seccomp(seccomp, verdict);
        }
        explanation.verdict = stricter(explanation.verdict, verdict);
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

/// The answer of the rules that the kernel's programs have, and that of seccomp policies.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    explanation: Explanation,
    #[serde(skip_serializing_if = "Option::is_none")]
    seccomp: Option<SeccompExplanation>,
}

impl From<Explanation> for Answer {
    fn from(explanation: Explanation) -> Self {
        Self { explanation, seccomp: None }
    }
}

const fn stricter(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Block, _) | (_, Verdict::Block) => Verdict::Block,
        (Verdict::Audit, _) | (_, Verdict::Audit) => Verdict::Audit,
        (Verdict::Allow, Verdict::Allow) => Verdict::Allow,
    }
}

/// What seccomp policies say about a system call, where one selects the container.
fn seccomp(
    args: &ExplainArgs,
    question: &Question,
    inputs: &[Input],
    subject: &Subject,
) -> Result<Option<SeccompExplanation>, String> {
    let policies: Vec<_> = input::seccomp(inputs).filter(|policy| policy.selects(subject)).collect();
    let Some(arch) = Arch::native().filter(|_| question.class() == Class::Syscall && !policies.is_empty())
    else {
        return Ok(None);
    };
    // The meaning does not depend on the version, only what a profile says of it does.
    let node = Node { arch, libseccomp: (u32::MAX, 0, 0) };
    let base = compile::base(&args.base, &args.capabilities)?;
    let base = BaseProfile::new(&base, &node).map_err(|error| format!("--base: {}", chain(&error)))?;
    Ok(question.explain_seccomp(&policies, &base, arch))
}

fn answer(args: &ExplainArgs) -> Result<(Answer, Coverage), String> {
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
    let inputs = input::load(&args.policies).map_err(|error| chain(&error))?;
    input::refuse_bad(&inputs)?;
    if args.host {
        return Ok((host().into(), Coverage::default()));
    }
    let labels: BTreeMap<String, String> =
        args.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
    let namespace = args.namespace.clone().unwrap_or_default();
    let subject = Subject { namespace, pod: String::new(), labels, container: args.container.clone() };
    let postures = input::namespace_postures(&inputs, &subject.namespace, postures(&args.postures));
    let Resolved { mut ruleset, mut coverage } =
        Ruleset::resolve(input::policies(&inputs), &postures, &subject);
    let started_with: Vec<&[u8]> = args.args.iter().map(String::as_bytes).collect();
    let access = question.access(source.as_ref().map(AbsPath::as_bytes), args.uid, args.owner);
    let mut access = Access { terminal: args.tty, ..access }.with_args(&started_with);
    let seccomp = seccomp(args, &question, &inputs, &subject)?;
    let Some(dir) = &args.root else {
        return Ok((Answer { explanation: ruleset.explain(&question, &access), seccomp }, coverage));
    };

    let (root, linked) = input::with_links(&ruleset, dir)?;
    ruleset = linked.ruleset;
    coverage = Coverage::new(coverage.gaps.into_iter().chain(linked.gaps));
    let object = access.path().and_then(|access| seen(&root, access.path, follows(&args.access)));
    let acting = access.source.and_then(|source| seen(&root, source, true));
    if let (Target::Path(path), Some((seen, _))) = (&mut access.target, &object) {
        path.path = seen;
    }
    if let Some((seen, _)) = &acting {
        access.source = Some(seen);
    }
    let mut explanation = ruleset.explain(&question, &access);
    for (_, link) in [&object, &acting].into_iter().flatten() {
        explanation.reason = format!("{link}: {}", explanation.reason);
    }
    Ok((Answer { explanation, seccomp }, coverage))
}

/// Whether the operation of a question is about what a link leads to, rather than about the name itself.
fn follows(question: &str) -> bool {
    let of_names = ["delete", "unlink", "rename", "link", "rmdir", "mkdir", "symlink", "mknod"];
    !question.split(':').nth(1).is_some_and(|operation| of_names.contains(&operation))
}

/// The path as the kernel sees it, where that is another one, and both in words.
fn seen(root: &Root, path: &[u8], follow: bool) -> Option<(Vec<u8>, Link)> {
    let path = AbsPath::new(path).ok()?;
    let name = root.resolve(&path).names.into_iter().next()?;
    let target = if follow { name.target } else { name.place };
    // of the directories that replace one another, any
    let bytes = target
        .components()
        .flat_map(|name| [&b"/"[..], if name == b".." { b"..data" } else { name }].concat());
    (target != path).then(|| (bytes.collect(), Link { path, target: target.clone() }))
}

fn print_seccomp(explanation: &SeccompExplanation, verdict: Verdict) {
    let SeccompExplanation { policy, rule, reason, .. } = explanation;
    say(format!("{}  by seccomp: {reason}\n", paint(of_verdict(verdict), verdict)));
    for (title, value) in [("policy", policy), ("rule", rule)] {
        if let Some(value) = value {
            say(format!("  {} {}\n", paint(DIM, format!("{title:<6}")), paint(BOLD, value)));
        }
    }
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
