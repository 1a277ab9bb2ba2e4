//! `test`: do the policies decide what they should? Nothing is needed for it but the files.

mod junit;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use comfy_table::{Cell, Color};
use enforcer_core::coverage::{Coverage, Gap};
use enforcer_core::decide::Verdict;
use enforcer_core::policy::{
    Case, Policy, PolicyError, PolicyTest, SeccompPolicy, TestBase, TestPath, parse_tests,
};
use enforcer_core::seccomp::Base;
use serde::Serialize;

use crate::cli::{BaseChoice, LibseccompVersion, TestArgs, TestOutput};
use crate::compile;
use crate::exit::{Exit, chain};
use crate::input::{self, Input};
use crate::judge::{Answer, Asked, Judge, of_seccomp};
use crate::podman::name_image;
use crate::store::{policy_files, read};
use crate::term::{BAD, BOLD, GOOD, WARN, clean, complain, mark, paint, render, say, say_json, table};

/// The answer, as `-o json` prints it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every case passes (and, with `--strict`, there is no gap).
    pub ok: bool,
    /// How many cases pass.
    pub passed: usize,
    /// How many do not.
    pub failed: usize,
    /// Test by test.
    pub tests: Vec<TestReport>,
}

/// One test.
#[derive(Debug, Serialize)]
pub struct TestReport {
    /// Its file.
    pub file: PathBuf,
    /// Its name; empty where it has none.
    pub name: String,
    /// Its cases, in the order of the text.
    pub cases: Vec<CaseReport>,
    /// What of its policies nothing enforces, so that the cases say nothing about it.
    pub gaps: Vec<Gap>,
}

/// One case.
#[derive(Debug, Serialize)]
pub struct CaseReport {
    /// Its name, or its access.
    pub name: String,
    /// The line at which it stands.
    pub line: usize,
    /// Whether what was decided is what is expected.
    pub pass: bool,
    /// What is expected.
    pub expected: Expected,
    /// What was decided.
    pub verdict: Verdict,
    /// The policy that decided, `NAMESPACE/NAME`, or `DefaultPosture`; none where nothing did.
    pub policy: Option<String>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
}

/// What a case expects.
#[derive(Debug, Serialize)]
pub struct Expected {
    /// The verdict.
    pub verdict: Verdict,
    /// The policy that must have decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The rule that must have decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// Runs the tests, and prints how they ended.
pub fn run(args: &TestArgs) -> Exit {
    let tests = match load(&args.paths).and_then(|files| judge_all(&files)) {
        Ok(tests) => tests,
        Err(problem) => {
            complain(format!("{}: {problem}\n", paint(BAD, "error")));
            return Exit::BadInput;
        }
    };
    let cases = || tests.iter().flat_map(|test| &test.cases);
    let failed = cases().filter(|case| !case.pass).count();
    let passed = cases().count() - failed;
    let incomplete = args.strict && tests.iter().any(|test| !test.gaps.is_empty());
    let report = Report { ok: failed == 0 && !incomplete, passed, failed, tests };
    match args.output {
        TestOutput::Json => say_json(&report),
        TestOutput::Text => print(&report),
        TestOutput::Junit => match junit::xml(&report, args.strict) {
            Ok(xml) => say(xml),
            Err(error) => {
                complain(format!("{}: {error}\n", paint(BAD, "error")));
                return Exit::No;
            }
        },
    }
    let (style, word) = if args.strict { (BAD, "error") } else { (WARN, "warning") };
    let gaps: BTreeSet<&Gap> = report.tests.iter().flat_map(|test| &test.gaps).collect();
    for gap in gaps {
        complain(format!("{}: not considered: {gap}\n", paint(style, word)));
    }
    if report.ok { Exit::Ok } else { Exit::No }
}

/// The tests of one file.
struct File {
    path: PathBuf,
    text: String,
    tests: Vec<PolicyTest>,
}

fn load(paths: &[PathBuf]) -> Result<Vec<File>, String> {
    let unreadable = |path: &Path, error| format!("cannot read `{}`: {error}", path.display());
    let (mut files, mut errors) = (Vec::new(), 0);
    for path in paths {
        let is_dir = path.is_dir();
        let found = match is_dir {
            true => policy_files(path).map_err(|error| unreadable(path, error))?.into_iter().collect(),
            false => vec![path.clone()],
        };
        for path in found {
            let text = read(&path).map_err(|error| unreadable(&path, error))?;
            let parsed = parse_tests(&path.display().to_string(), &text, is_dir);
            parsed.errors.iter().for_each(|error| complain(render(error, &text)));
            errors += parsed.errors.len();
            files.push(File { path, text, tests: parsed.tests });
        }
    }
    match errors {
        0 if files.iter().all(|file| file.tests.is_empty()) => {
            Err("there is no test there: a document with `kind: PolicyTest` is one".to_owned())
        }
        0 => Ok(files),
        1 => Err("the tests have an error".to_owned()),
        number => Err(format!("the tests have {number} errors")),
    }
}

fn judge_all(files: &[File]) -> Result<Vec<TestReport>, String> {
    let mut reports = Vec::new();
    for file in files {
        for test in &file.tests {
            reports.push(judge(&file.path, test).map_err(|problem| match problem {
                Problem::InTest(errors) => {
                    errors.iter().for_each(|error| complain(render(error, &file.text)));
                    format!("a test in `{}` cannot be run", file.path.display())
                }
                Problem::Elsewhere(problem) => problem,
            })?);
        }
    }
    Ok(reports)
}

/// Why a test cannot be run.
enum Problem {
    /// What it says makes no sense.
    InTest(Vec<PolicyError>),
    /// The policies do not.
    Elsewhere(String),
}

fn judge(path: &Path, test: &PolicyTest) -> Result<TestReport, Problem> {
    let beside = path.parent().unwrap_or(Path::new(""));
    let in_test = |at: &TestPath, problem| Problem::InTest(vec![at.error(problem)]);
    let mut inputs: Vec<Input> = Vec::new();
    for at in &test.policies {
        let read = input::load(&[beside.join(&at.path)]).map_err(|error| in_test(at, chain(&error)))?;
        if read.iter().all(|input| input.parsed == Default::default()) {
            return Err(in_test(at, "there is no policy there".to_owned()));
        }
        inputs.extend(read);
    }
    input::refuse_bad(&inputs).map_err(Problem::Elsewhere)?;
    let ids = input::policies(&inputs).map(Policy::id);
    let unknown = test.unknown_policies(ids.chain(input::seccomp(&inputs).map(SeccompPolicy::id)));
    if !unknown.is_empty() {
        return Err(Problem::InTest(unknown));
    }

    let mut subject = test.subject.clone();
    name_image(&mut subject.labels, &test.image);
    let root = test.root.as_ref();
    let dir = root.map(|root| beside.join(&root.path));
    let judge = Judge::new(&inputs, &subject, test.postures, dir.as_deref());
    let judge = judge.map_err(|problem| match root {
        Some(root) => in_test(root, problem),
        None => Problem::Elsewhere(problem),
    })?;
    let base = || base(&test.base, beside);
    let of_base = |problem| match &test.base {
        TestBase::File(at) => in_test(at, problem),
        _ => Problem::Elsewhere(problem),
    };
    let mut gaps = judge.coverage.gaps.clone();
    if let Some(profile) = judge.profile(base, LibseccompVersion::default()).map_err(of_base)? {
        gaps.extend(profile.gaps);
    }
    let mut cases = Vec::new();
    for case in &test.cases {
        let Case { question, source, args, terminal, uid, owner, .. } = case;
        let asked =
            Asked { question, source: source.as_ref(), args, terminal: *terminal, uid: *uid, owner: *owner };
        let answer = judge.answer(&asked, base).map_err(of_base)?;
        cases.push(compare(case, &answer));
    }
    Ok(TestReport { file: path.to_owned(), name: test.name.clone(), cases, gaps: Coverage::new(gaps).gaps })
}

fn base(base: &TestBase, beside: &Path) -> Result<Base, String> {
    match base {
        TestBase::Unconfined => Ok(Base::Unconfined),
        TestBase::RuntimeDefault(capabilities) => compile::base(&BaseChoice::RuntimeDefault, capabilities),
        TestBase::File(at) => compile::base(&BaseChoice::File(beside.join(&at.path)), &[]),
    }
}

/// Who decided, and why.
struct Decider {
    policy: Option<String>,
    rule: Option<String>,
    reason: String,
}

impl Decider {
    /// Whether it is the one of that name, with or without the namespace, and of that rule.
    fn is(&self, case: &Case) -> bool {
        let named = |name: &String| {
            let own = self.policy.as_deref().unwrap_or_default();
            own == name || own.rsplit_once('/').is_some_and(|(_, own)| own == name)
        };
        case.policy.as_ref().is_none_or(named) && (case.rule.is_none() || case.rule == self.rule)
    }
}

fn compare(case: &Case, answer: &Answer) -> CaseReport {
    let verdict = answer.verdict();
    let by_rules = &answer.explanation;
    let of_rules = (by_rules.verdict == verdict).then(|| Decider {
        policy: answer.policy.as_ref().map(ToString::to_string).or_else(|| by_rules.policy.clone()),
        rule: by_rules.rule.clone(),
        reason: by_rules.reason.clone(),
    });
    let by_seccomp = answer.seccomp.as_ref().filter(|seccomp| of_seccomp(seccomp) == verdict);
    let of_seccomp = by_seccomp.map(|seccomp| Decider {
        policy: seccomp.policy.clone(),
        rule: seccomp.rule.clone(),
        reason: format!("by seccomp: {}", seccomp.reason),
    });
    // Where both say the same, either has decided.
    let mut deciders: Vec<Decider> = of_rules.into_iter().chain(of_seccomp).collect();
    let fits = deciders.iter().position(|decider| decider.is(case));
    let told = fits.or_else(|| deciders.iter().position(|decider| decider.policy.is_some()));
    let Decider { policy, rule, reason } = match told.unwrap_or_default() {
        index if index < deciders.len() => deciders.swap_remove(index),
        _ => Decider { policy: None, rule: None, reason: String::new() },
    };
    CaseReport {
        name: case.name.clone(),
        line: case.line,
        pass: verdict == case.expect && fits.is_some(),
        expected: Expected { verdict: case.expect, policy: case.policy.clone(), rule: case.rule.clone() },
        verdict,
        policy,
        rule,
        reason,
    }
}

impl CaseReport {
    /// What is not as it should be, in a sentence.
    fn problem(&self) -> String {
        let Self { expected, verdict, policy, rule, reason, .. } = self;
        let told = |verdict: Verdict, policy: &Option<String>, rule: &Option<String>| {
            let by = policy.iter().chain(rule).map(String::as_str).collect::<Vec<_>>().join(" ");
            if by.is_empty() { verdict.to_string() } else { format!("{verdict} by {by}") }
        };
        let wanted = told(expected.verdict, &expected.policy, &expected.rule);
        clean(&format!("expected {wanted}, got {}: {reason}", told(*verdict, policy, rule)))
    }
}

impl TestReport {
    /// File and name.
    fn title(&self) -> String {
        let colon = if self.name.is_empty() { "" } else { ": " };
        clean(&format!("{}{colon}{}", self.file.display(), self.name))
    }
}

fn print(report: &Report) {
    for test in &report.tests {
        say(format!("{}\n", paint(BOLD, test.title())));
        let mut rows = table(["", "Case", "Verdict", "Decided by"], 1);
        for case in &test.cases {
            let (word, color) = if case.pass { ("ok", Color::Green) } else { ("FAIL", Color::Red) };
            let by = case.policy.iter().chain(&case.rule).map(String::as_str).collect::<Vec<_>>().join(" ");
            let verdict = match case.verdict {
                Verdict::Allow => Color::Green,
                Verdict::Audit => Color::Yellow,
                Verdict::Block => Color::Red,
            };
            rows.add_row([
                mark(word, color),
                Cell::new(clean(&case.name)),
                mark(&case.verdict.to_string(), verdict),
                Cell::new(if by.is_empty() { "-".to_owned() } else { clean(&by) }),
            ]);
        }
        say(format!("{rows}\n\n"));
        for case in test.cases.iter().filter(|case| !case.pass) {
            let place = format!("{}:{}", test.file.display(), case.line);
            let word = paint(BAD, "FAIL");
            say(format!("{word} {}: {}\n", clean(&place), case.problem()));
        }
    }
    let Report { passed, failed, .. } = report;
    let told = match failed {
        0 => paint(GOOD, format!("{passed} passed")),
        _ => paint(BAD, format!("{failed} failed, {passed} passed")),
    };
    say(format!("{told}\n"));
}
