//! What seccomp policies do to a system call, in words.

use serde::Serialize;

use super::Question;
use crate::policy::SeccompPolicy;
use crate::posture::Effect;
use crate::seccomp::decide::{By, Decision};
use crate::seccomp::{Action, Arch, BaseProfile, Call, SyscallName, decide, errno};

/// The answer of seccomp policies, fit for JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeccompExplanation {
    /// What happens: `allow`, `log`, `errno 1`, ...
    pub action: String,
    /// The name of the errno, where it is one.
    pub errno: Option<&'static str>,
    /// The policy whose rule decides.
    pub policy: Option<String>,
    /// The place of the rule in the policy, such as `spec.syscalls[0]`.
    pub rule: Option<String>,
    /// What the profile below the policies does.
    pub base: String,
    /// Why, in a sentence.
    pub reason: String,
    /// Whether the system call is made.
    pub passes: bool,
}

impl Question {
    /// What these policies, all of which select the container, make of a system call on this architecture; `None` where
    /// the question is about something else, or the architecture has no such call.
    #[must_use]
    pub fn explain_seccomp(
        &self,
        policies: &[&SeccompPolicy],
        base: &BaseProfile,
        native: Arch,
    ) -> Option<SeccompExplanation> {
        let (syscall, args) = self.syscall()?;
        let name = SyscallName::by_name(syscall.name())?;
        let call = Call { arch: native, number: name.number(native)?, args: args.unwrap_or_default() };
        let Decision { action, by, base } = decide(policies, base, native, &call);
        let (policy, rule, mut reason) = match by {
            By::Rule(rule) => {
                let origin = &rule.origin;
                let does = match origin.action {
                    Effect::Allow => "allows",
                    Effect::Audit => "allows and reports",
                    Effect::Block => "blocks",
                };
                let mut reason = format!("`{}` {does} {self}: {}", origin.policy, origin.rule);
                if !origin.message.is_empty() {
                    reason += &format!(" ({})", origin.message);
                }
                (Some(origin.policy.to_string()), Some(origin.rule.clone()), reason)
            }
            By::Whitelist => {
                let reason =
                    format!("no rule names {self}, and an Allow rule makes the policies a whitelist");
                (None, None, reason)
            }
            By::NoRule => (None, None, format!("no rule names {self}")),
            By::Arch => (None, None, "no policy allows anything on this architecture".to_owned()),
        };
        reason += &format!("; the profile below says {}: together {}", said(base), said(action));
        if args.is_none() && conditional(policies, name) {
            reason += "; arguments make a difference, and were taken for zeros";
        }
        let errno = match action {
            Action::Errno(number) => errno::name(number),
            _ => None,
        };
        let passes = action.passes();
        Some(SeccompExplanation {
            action: action.to_string(),
            errno,
            policy,
            rule,
            base: base.to_string(),
            reason,
            passes,
        })
    }
}

fn said(action: Action) -> String {
    match action {
        Action::Errno(number) => errno::name(number).map_or_else(|| action.to_string(), str::to_owned),
        other => other.to_string(),
    }
}

fn conditional(policies: &[&SeccompPolicy], name: SyscallName) -> bool {
    let mut rules = policies.iter().flat_map(|policy| policy.rules());
    rules.any(|rule| !rule.conditions.is_empty() && rule.syscalls.contains(&name))
}
