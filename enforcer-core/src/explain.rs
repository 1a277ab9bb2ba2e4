//! Questions and answers in words: what would happen to an access, and why.

mod question;
mod seccomp;
mod socket;

use serde::{Deserialize, Serialize};

pub use self::question::{Question, QuestionError};
pub use self::seccomp::SeccompExplanation;
use crate::decide::{Access, DecidedBy, Decision, Verdict, held, speaks};
use crate::network::{Endpoint, Protocol};
use crate::ruleset::{Effect, Object, Origin, PostureAction, Rule, Ruleset};

/// The policy that is named where the default posture decided, as KubeArmor's alerts name it.
pub const DEFAULT_POSTURE: &str = "DefaultPosture";

/// A decision in words, fit for JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What would happen.
    pub verdict: Verdict,
    /// The name of the policy that decided, [`DEFAULT_POSTURE`] where the posture did, or none where nothing did.
    pub policy: Option<String>,
    /// The place of the rule in the policy, such as `spec.file.matchPaths[0]`.
    pub rule: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
}

impl Ruleset {
    /// Decides and says why. `question` is what `access` came from.
    #[must_use]
    pub fn explain(&self, question: &Question, access: &Access<'_>) -> Explanation {
        let Decision { verdict, by } = self.decide(access);
        let (origin, exempt) = match by {
            DecidedBy::Rule(id) => (self.origin(id).map(|origin| (id, origin)), false),
            DecidedBy::Exempt(id) => (self.origin(id).map(|origin| (id, origin)), true),
            DecidedBy::DefaultPosture | DecidedBy::NoRule => (None, false),
        };
        match origin {
            Some((id, origin)) => {
                let mut its = self.rules().iter().filter(|rule| rule.origin == id);
                let rule = its.find(|rule| speaks(rule, access));
                let mut reason = by_rule(question, access, origin, rule, exempt);
                if let Some(link) = access.path().and_then(|access| self.written_as(id, access.path)) {
                    reason += &format!("; {link}");
                }
                Explanation {
                    verdict,
                    policy: Some(origin.policy.name.clone()),
                    rule: Some(origin.rule.clone()),
                    reason,
                }
            }
            None if by == DecidedBy::DefaultPosture => Explanation {
                verdict,
                policy: Some(DEFAULT_POSTURE.to_owned()),
                rule: None,
                reason: self.by_posture(question),
            },
            None => Explanation { verdict, policy: None, rule: None, reason: self.by_nothing(question) },
        }
    }

    fn by_posture(&self, question: &Question) -> String {
        let class = question.class();
        let why = self
            .rules()
            .iter()
            .find(|rule| rule.class == class && rule.effect == Effect::Allow)
            .and_then(|rule| self.origin(rule.origin))
            .map_or_else(
                || "an Allow rule that cannot be enforced".to_owned(),
                |origin| format!("`{}` {}", origin.policy, origin.rule),
            );
        let outcome = match self.posture(class) {
            PostureAction::Allow => "so it passes",
            PostureAction::Audit => "so it passes and is reported",
            PostureAction::Block => "so it is denied",
        };
        format!(
            "no rule matches {question}, and since {why} makes {class} accesses a whitelist, the default posture \
             decides: {}, {outcome}",
            self.posture(class)
        )
    }

    fn by_nothing(&self, question: &Question) -> String {
        let class = question.class();
        if self.is_empty() {
            "no policy has a rule for this container, so everything passes".to_owned()
        } else if self.rules().iter().any(|rule| rule.class == class) {
            format!(
                "no rule matches {question}, and no Allow rule makes {class} accesses a whitelist, so it passes"
            )
        } else {
            format!("no policy has a {class} rule for this container, so {question} passes")
        }
    }
}

fn by_rule(
    question: &Question,
    access: &Access<'_>,
    origin: &Origin,
    rule: Option<&Rule>,
    exempt: bool,
) -> String {
    let Origin { policy, rule: place, message, .. } = origin;
    let does = match (exempt, origin.action) {
        (true, Effect::Block) => "does not block",
        (true, _) => "does not report",
        (false, Effect::Allow) => "allows",
        (false, Effect::Audit) => "allows and reports",
        (false, Effect::Block) => "blocks",
    };
    let mut sentence = format!("`{policy}` {does} {question}: {place}");
    let Some(rule) = rule else { return sentence };
    sentence += &names(&rule.object);
    if let Some(source) = &rule.source {
        sentence += &format!(" for `{source}`");
    }
    let mut holds = held(&rule.conditions, access).into_iter().filter(|(_, holds)| *holds == Some(true));
    if let (true, Some((condition, _))) = (exempt, holds.next()) {
        let who = match condition {
            "readOnly" => "reading",
            "ownerOnly" => "the owner",
            "allowedArgs" => "these arguments",
            _ => "who has no terminal",
        };
        sentence += &format!(" and exempts {who} (`{condition}`)");
    }
    if !message.is_empty() {
        sentence += &format!(" ({message})");
    }
    sentence
}

/// What an object is about, as the end of a sentence.
fn names(object: &Object) -> String {
    match object {
        Object::Path(path) => format!(" names the path `{path}`"),
        Object::BaseName(name) => format!(" names every `{name}`"),
        Object::Pattern(pattern) => format!(" names what matches `{pattern}`"),
        Object::Directory { dir, recursive: true } => format!(" names everything under `{dir}`"),
        Object::Directory { dir, recursive: false } => format!(" names what is directly in `{dir}`"),
        Object::Applet { program, name } => {
            format!(" names `{}`, which `{program}` is called", name.escape_ascii())
        }
        Object::Sockets(Protocol::All) => " names every socket".to_owned(),
        Object::Sockets(protocol) => format!(" names `{protocol}` sockets"),
        Object::Destination(end) => format!(" names what goes to {}", endpoint(end)),
        Object::Listener(end) => format!(" names what listens on {}", endpoint(end)),
        Object::Capability(capability) => format!(" names the capability `{capability}`"),
        Object::Syscall(syscall) => format!(" names the system call `{syscall}`"),
        Object::Preset(preset) => format!(" is the preset `{preset}`"),
    }
}

fn endpoint(endpoint: &Endpoint) -> String {
    let Endpoint { net, ports, protocol } = endpoint;
    let net = net.map_or_else(|| "any address".to_owned(), |net| format!("`{net}`"));
    let ports = match ports.to_string() {
        all if all == "*" => String::new(),
        ports => format!(", port {ports}"),
    };
    let protocol = protocol.map(|protocol| format!(" by `{protocol}`")).unwrap_or_default();
    format!("{net}{ports}{protocol}")
}

#[cfg(test)]
mod tests;
