//! What policies decide about the accesses of one container: for `explain` and `test`. The answer is `Ruleset::decide`'s,
//! which every enforcing part is tested against, and that of seccomp policies.

use std::path::Path;

use enforcer_core::coverage::Coverage;
use enforcer_core::decide::{Access, DecidedBy, Target, Verdict};
use enforcer_core::enforce::root::Root;
use enforcer_core::explain::{Explanation, Question, SeccompExplanation};
use enforcer_core::links::{Link, OtherName};
use enforcer_core::path::AbsPath;
use enforcer_core::policy::{PolicyId, SeccompPolicy};
use enforcer_core::ruleset::{Class, Postures, Resolved, Ruleset};
use enforcer_core::seccomp::{self, Arch, Base, BaseProfile, Node, SeccompProfile};
use enforcer_core::subject::Subject;
use serde::Serialize;

use crate::cli::LibseccompVersion;
use crate::exit::chain;
use crate::input::{self, Input};

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What is accessed.
    pub question: &'a Question,
    /// The executable that acts.
    pub source: Option<&'a AbsPath>,
    /// The arguments after the first that a process is started with.
    pub args: &'a [String],
    /// Whether who acts has a controlling terminal.
    pub terminal: bool,
    /// The user id that acts.
    pub uid: u32,
    /// The user id that owns the object.
    pub owner: u32,
}

impl Asked<'_> {
    /// The paths that it names, whose links matter.
    pub fn paths(&self) -> impl Iterator<Item = AbsPath> {
        let access = self.question.access(None, self.uid, self.owner);
        let object = access.path().and_then(|access| AbsPath::new(access.path).ok());
        object.into_iter().chain(self.source.cloned())
    }
}

/// The answer of the rules that the kernel's programs have, and that of seccomp policies.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// Of the rules.
    #[serde(flatten)]
    pub explanation: Explanation,
    /// Of seccomp policies, where the access is a system call and one selects the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<SeccompExplanation>,
    /// The policy whose rule decided, by its whole name.
    #[serde(skip)]
    pub policy: Option<PolicyId>,
    /// Whether a rule decided, or the posture of a class that has some.
    #[serde(skip)]
    pub ruled: bool,
}

impl From<Explanation> for Answer {
    fn from(explanation: Explanation) -> Self {
        Self { explanation, seccomp: None, policy: None, ruled: true }
    }
}

impl Answer {
    /// What happens: both ask about every call, and the stricter of the two counts.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let seccomp = self.seccomp.as_ref().map_or(Verdict::Allow, of_seccomp);
        seccomp.max(self.explanation.verdict)
    }
}

/// A seccomp action as a verdict.
#[must_use]
pub fn of_seccomp(explanation: &SeccompExplanation) -> Verdict {
    match (explanation.passes, explanation.action.as_str()) {
        (true, "allow") => Verdict::Allow,
        (true, _) => Verdict::Audit,
        (false, _) => Verdict::Block,
    }
}

/// A container with its rules.
#[derive(Debug)]
pub struct Judge<'a> {
    /// The rules, with the links of the image where there is one.
    pub ruleset: Ruleset,
    /// What of the policies is not in them.
    pub coverage: Coverage,
    /// The seccomp policies that select it.
    pub seccomp: Vec<&'a SeccompPolicy>,
    root: Option<Root>,
}

impl<'a> Judge<'a> {
    /// The rules of the subject. `node`: the postures of its node; `root`: its image, whose links are followed.
    ///
    /// # Errors
    /// When the image cannot be opened.
    pub fn new(
        inputs: &'a [Input],
        subject: &Subject,
        node: Postures,
        root: Option<&Path>,
    ) -> Result<Self, String> {
        let postures = input::namespace_postures(inputs, &subject.namespace, node);
        let Resolved { ruleset, coverage } = Ruleset::resolve(input::policies(inputs), &postures, subject);
        let seccomp = input::seccomp(inputs).filter(|policy| policy.selects(subject)).collect();
        let Some(dir) = root else { return Ok(Self { ruleset, coverage, seccomp, root: None }) };
        let (root, linked) = input::with_links(&ruleset, dir)?;
        let coverage = Coverage::new(coverage.gaps.into_iter().chain(linked.gaps));
        Ok(Self { ruleset: linked.ruleset, coverage, seccomp, root: Some(root) })
    }

    /// The profile that seccomp policies become, where one selects the container; for a runtime with this libseccomp.
    ///
    /// # Errors
    /// When the profile below them cannot be read or is none, or none can be made on this architecture.
    pub fn profile(
        &self,
        base: impl FnOnce() -> Result<Base, String>,
        libseccomp: LibseccompVersion,
    ) -> Result<Option<SeccompProfile>, String> {
        if self.seccomp.is_empty() {
            return Ok(None);
        }
        let node = Node { arch: known(Arch::native())?, libseccomp: libseccomp.0 };
        let made = seccomp::compile(&self.seccomp, &base()?, &node);
        made.map(Some).map_err(|error| below(&error))
    }

    /// Decides. `base` is asked for where seccomp policies have a say.
    ///
    /// # Errors
    /// When the profile below seccomp policies cannot be read or is none, or none can be made on this architecture.
    pub fn answer(
        &self,
        asked: &Asked<'_>,
        base: impl FnOnce() -> Result<Base, String>,
    ) -> Result<Answer, String> {
        let other_name =
            |path: &AbsPath| self.root.as_ref().and_then(|root| root.resolve(path).names.into_iter().next());
        let answer = of_rules(&self.ruleset, asked, &other_name);
        Ok(Answer { seccomp: of_seccomp_policies(&self.seccomp, asked.question, base)?, ..answer })
    }
}

/// What rules say. `other_name`: by what other name the kernel knows a path, by links on the way to it.
pub fn of_rules(
    ruleset: &Ruleset,
    asked: &Asked<'_>,
    other_name: &dyn Fn(&AbsPath) -> Option<OtherName>,
) -> Answer {
    let Asked { question, source, args, terminal, uid, owner } = *asked;
    let args: Vec<&[u8]> = args.iter().map(String::as_bytes).collect();
    let access = question.access(source.map(AbsPath::as_bytes), uid, owner);
    let mut access = Access { terminal, ..access }.with_args(&args);
    let object = access.path().and_then(|access| seen(other_name, access.path, question.follows_links()));
    let acting = access.source.and_then(|source| seen(other_name, source, true));
    if let (Target::Path(path), Some((seen, _))) = (&mut access.target, &object) {
        path.path = seen;
    }
    if let Some((seen, _)) = &acting {
        access.source = Some(seen);
    }
    let mut explanation = ruleset.explain(question, &access);
    for (_, link) in [&object, &acting].into_iter().flatten() {
        explanation.reason = format!("{link}: {}", explanation.reason);
    }
    let by = ruleset.decide(&access).by;
    let policy = match by {
        DecidedBy::Rule(id) | DecidedBy::Exempt(id) => ruleset.origin(id),
        DecidedBy::DefaultPosture | DecidedBy::NoRule => None,
    };
    let policy = policy.map(|origin| origin.policy.clone());
    Answer { explanation, seccomp: None, policy, ruled: by != DecidedBy::NoRule }
}

/// What seccomp policies say about a system call, where one selects the container. `base` is asked for where they have a say.
///
/// # Errors
/// When the profile below them cannot be read or is none, or none can be made on this architecture.
pub fn of_seccomp_policies(
    policies: &[&SeccompPolicy],
    question: &Question,
    base: impl FnOnce() -> Result<Base, String>,
) -> Result<Option<SeccompExplanation>, String> {
    let asked = question.class() == Class::Syscall && !policies.is_empty();
    if !asked {
        return Ok(None);
    }
    let arch = known(Arch::native())?;
    // The meaning does not depend on the version, only what a profile says of it does.
    let node = Node { arch, libseccomp: (u32::MAX, 0, 0) };
    let base = BaseProfile::new(&base()?, &node).map_err(|error| below(&error))?;
    Ok(question.explain_seccomp(policies, &base, arch))
}

/// The architecture whose system calls are meant.
fn known(arch: Option<Arch>) -> Result<Arch, String> {
    arch.ok_or_else(|| {
        let arch = std::env::consts::ARCH;
        format!("seccomp policies select the container, and no seccomp profiles are made for this architecture (`{arch}`)")
    })
}

fn below(error: &(dyn std::error::Error + 'static)) -> String {
    format!("the profile below the policies: {}", chain(error))
}

/// The path as the kernel sees it, where that is another one, and both in words.
fn seen(
    other_name: &dyn Fn(&AbsPath) -> Option<OtherName>,
    path: &[u8],
    follow: bool,
) -> Option<(Vec<u8>, Link)> {
    let path = AbsPath::new(path).ok()?;
    let name = other_name(&path)?;
    let target = if follow { name.target } else { name.place };
    // of the directories that replace one another, any
    let bytes = target
        .components()
        .flat_map(|name| [&b"/"[..], if name == b".." { b"..data" } else { name }].concat());
    (target != path).then(|| (bytes.collect(), Link { path, target: target.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_architecture_without_profiles_is_an_error() {
        assert_eq!(known(Some(Arch::X86_64)), Ok(Arch::X86_64));
        assert!(known(None).unwrap_err().contains("no seccomp profiles are made for this architecture"));
    }
}
