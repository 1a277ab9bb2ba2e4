//! Questions and answers in words: what would happen to an access, and why.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::decide::{Access, DecidedBy, Decision, PathAccess, PathClass, Target, Verdict};
use crate::path::{AbsPath, PathError};
use crate::posture::{Class, UnknownClass};
use crate::ruleset::{Effect, Object, Origin, PostureAction, Rule, Ruleset};

/// The policy that is named where the default posture decided, as KubeArmor's alerts name it.
pub const DEFAULT_POSTURE: &str = "DefaultPosture";

/// An access as a person writes it: `CLASS:OP:OBJECT`, such as `file:read:/etc/passwd` or `process:exec:/bin/sh`.
///
/// ```
/// use enforcer_core::explain::Question;
///
/// let question: Question = "file:create:/tmp/x".parse()?;
/// let access = question.access(Some(b"/bin/touch"), 1000, 0);
/// let path = access.path().expect("a file is accessed");
/// assert!(path.write);
/// assert_eq!(path.owner, None, "who creates a file owns it");
/// assert_eq!(question.to_string(), "creating /tmp/x");
/// # Ok::<(), enforcer_core::explain::QuestionError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    operation: &'static Operation,
    object: AbsPath,
}

#[derive(Debug, PartialEq, Eq)]
struct Operation {
    class: Class,
    names: &'static [&'static str],
    doing: &'static str,
    write: bool,
    /// Whether the object comes into being, so that it has no owner yet.
    creates: bool,
    /// Whether what lies below moves with it.
    tree: bool,
}

const fn operation(class: Class, names: &'static [&'static str], doing: &'static str) -> Operation {
    Operation { class, names, doing, write: false, creates: false, tree: false }
}

const fn writing(names: &'static [&'static str], doing: &'static str) -> Operation {
    Operation { write: true, ..operation(Class::File, names, doing) }
}

const fn creating(names: &'static [&'static str], doing: &'static str) -> Operation {
    Operation { creates: true, ..writing(names, doing) }
}

const OPERATIONS: [Operation; 14] = [
    operation(Class::Process, &["exec"], "executing"),
    operation(Class::File, &["read", "open"], "reading"),
    writing(&["write", "append"], "writing"),
    writing(&["truncate"], "truncating"),
    writing(&["delete", "unlink"], "deleting"),
    Operation { tree: true, ..writing(&["rename"], "renaming from or to") },
    writing(&["link"], "linking from or to"),
    writing(&["chmod"], "changing the mode of"),
    writing(&["chown"], "changing the owner of"),
    writing(&["rmdir"], "removing the directory"),
    creating(&["create"], "creating"),
    creating(&["mkdir"], "making the directory"),
    creating(&["symlink"], "making the symbolic link"),
    creating(&["mknod"], "making the node"),
];

impl Question {
    /// The kind of access.
    #[must_use]
    pub fn class(&self) -> Class {
        self.operation.class
    }

    /// The access, by this executable and user, to a file with this owner; what creates its object has no use for the
    /// owner.
    #[must_use]
    pub fn access<'a>(&'a self, source: Option<&'a [u8]>, uid: u32, owner: u32) -> Access<'a> {
        let Operation { class, write, creates, tree, .. } = *self.operation;
        let owner = (!creates).then_some(owner);
        let class = if class == Class::Process { PathClass::Process } else { PathClass::File };
        let path = self.object.as_bytes();
        let target = Target::Path(PathAccess { class, path, write, tree, owner, args: None });
        Access { source, uid, ..Access::to(target) }
    }
}

/// `reading /etc/passwd`
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.operation.doing, self.object)
    }
}

impl FromStr for Question {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let mut parts = text.splitn(3, ':');
        let (Some(class), Some(name), Some(object)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(QuestionError::Shape(text.to_owned()));
        };
        let class = match class.parse()? {
            class @ (Class::Process | Class::File) => class,
            other => return Err(QuestionError::NotEnforced(other.as_str())),
        };
        let mut of_class = OPERATIONS.iter().filter(|operation| operation.class == class);
        let Some(operation) = of_class.clone().find(|operation| operation.names.contains(&name)) else {
            let names: Vec<_> = of_class.by_ref().flat_map(|operation| operation.names).copied().collect();
            return Err(QuestionError::UnknownOperation {
                class,
                given: name.to_owned(),
                names: names.join("`, `"),
            });
        };
        let object =
            object.parse().map_err(|source| QuestionError::Object { given: object.to_owned(), source })?;
        Ok(Self { operation, object })
    }
}

/// Why a text is no [`Question`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// Not three parts.
    #[error(
        "`{0}` is not `CLASS:OP:OBJECT`; write it as in `file:read:/etc/passwd` or `process:exec:/bin/sh`"
    )]
    Shape(String),
    /// The class.
    #[error(transparent)]
    Class(#[from] UnknownClass),
    /// A class that no rule is enforced in yet.
    #[error(
        "{0} accesses are not enforced yet, so there is no verdict on them; ask about `file` or `process`"
    )]
    NotEnforced(&'static str),
    /// The operation.
    #[error("`{given}` is no {class} operation; there are `{names}`")]
    UnknownOperation {
        /// The class.
        class: Class,
        /// The operation as given.
        given: String,
        /// Those there are.
        names: String,
    },
    /// The object.
    #[error("`{given}` is no object of an access: {source}")]
    Object {
        /// The object as given.
        given: String,
        /// What is wrong with it.
        source: PathError,
    },
}

/// A decision in words, fit for JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
                let rule = self.rules().iter().find(|rule| {
                    rule.origin == id
                        && rule
                            .source
                            .as_ref()
                            .is_none_or(|s| access.source.is_some_and(|path| s.names(path)))
                });
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
    sentence += &match &rule.object {
        Object::Path(path) => format!(" names the path `{path}`"),
        Object::BaseName(name) => format!(" names every `{name}`"),
        Object::Directory { dir, recursive: true } => format!(" names everything under `{dir}`"),
        Object::Directory { dir, recursive: false } => format!(" names what is directly in `{dir}`"),
        other => format!(" names `{other}`"),
    };
    if let Some(source) = &rule.source {
        sentence += &format!(" for `{source}`");
    }
    if exempt {
        sentence += match (
            rule.conditions.read_only && access.path().is_some_and(|path| !path.write),
            rule.conditions.owner_only,
        ) {
            (true, _) => " and exempts reading (`readOnly`)",
            (false, true) => " and exempts the owner (`ownerOnly`)",
            (false, false) => "",
        };
    }
    if !message.is_empty() {
        sentence += &format!(" ({message})");
    }
    sentence
}

#[cfg(test)]
mod tests;
