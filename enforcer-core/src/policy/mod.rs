#![doc = include_str!("policy.md")]

mod crd;
mod decode;
mod error;
mod id;
mod inherit;
mod lower;
mod names;
mod namespace;
mod objects;
mod policy_test;
mod rules;
mod seccomp;
mod select;
mod selector;
mod wire;
mod yaml;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::crd::{crd, crd_plural};
use self::decode::Cursor;
use self::error::Errors;
pub use self::error::PolicyError;
pub(crate) use self::error::{nearest, suggest};
pub use self::id::{Kind, PolicyId};
pub use self::namespace::Namespace;
pub use self::policy_test::{Case, ParsedTests, PolicyTest, TestBase, TestPath, parse_tests};
pub use self::seccomp::{Deny, SeccompPolicy, SeccompRule};
pub use self::selector::{Scope, Selector};
pub use crate::coverage::Gap;
use crate::path::AbsPath;
use crate::posture::Class;
use crate::ruleset::{Conditions, Object, Origin};
use crate::subject::Subject;
use crate::support::Support;

/// A policy that is valid: every name known, every path parsed, at least one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    id: PolicyId,
    selector: Selector,
    rules: Vec<PolicyRule>,
    whitelists: Vec<Class>,
    native: Option<String>,
    gaps: Vec<Gap>,
}

/// A rule as its policy states it, for every source at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// What kind of access it speaks about.
    pub class: Class,
    /// The executables one of which must be acting; empty for any.
    pub sources: Vec<AbsPath>,
    /// What is accessed.
    pub object: Object,
    /// What narrows it.
    pub conditions: Conditions,
    /// Where it stands, what it does, and what its alerts say.
    pub origin: Arc<Origin>,
}

impl Policy {
    /// Its kind, namespace and name.
    #[must_use]
    pub fn id(&self) -> &PolicyId {
        &self.id
    }

    /// Which containers it is about.
    #[must_use]
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Whether it is about this container.
    #[must_use]
    pub fn selects(&self, subject: &Subject) -> bool {
        self.selector.selects(subject)
    }

    /// The rules that can be enforced, in the order of the text.
    #[must_use]
    pub fn rules(&self) -> &[PolicyRule] {
        &self.rules
    }

    /// The classes in which it has Allow rules, enforceable or not.
    #[must_use]
    pub fn whitelists(&self) -> &[Class] {
        &self.whitelists
    }

    /// Its native AppArmor rules, as written; `None` where it has none. For [`compile::apparmor`](crate::compile::apparmor)
    /// alone: to everything else they are one of its [`gaps`](Self::gaps).
    #[must_use]
    pub fn native_apparmor(&self) -> Option<&str> {
        self.native.as_deref()
    }

    /// What it says and nothing enforces.
    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }
}

/// What became of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParsedFile {
    /// The policies without a mistake, in the order of the text.
    pub policies: Vec<Policy>,
    /// The seccomp policies without a mistake, in the order of the text.
    pub seccomp: Vec<SeccompPolicy>,
    /// The namespaces, in the order of the text; also those of which a part is wrong.
    pub namespaces: Vec<Namespace>,
    /// What is wrong with the others.
    pub errors: Vec<PolicyError>,
}

/// Reads the policies of a file; `file_name` is for the errors alone. A file has any number of YAML documents, each a
/// policy, a [`Namespace`] or a `List` of them; a mistake in one policy leaves out that policy and no other.
///
/// Paths are normalised: `//` and `/./` count as `/`. `..` is refused, since where it leads depends on symbolic links.
#[must_use]
pub fn parse(file_name: &str, text: &str) -> ParsedFile {
    parse_for(Support::default(), file_name, text)
}

/// The same for programs that can do more or less.
pub(crate) fn parse_for(support: Support, file_name: &str, text: &str) -> ParsedFile {
    let mut file = File {
        name: file_name,
        support,
        lines: BTreeMap::new(),
        namespace_lines: BTreeMap::new(),
        parsed: ParsedFile::default(),
    };
    for document in yaml::documents(text) {
        match document {
            Ok(root) => file.document(&root),
            Err(error) => file.syntax_error(error),
        }
    }
    file.parsed
}

struct File<'a> {
    name: &'a str,
    support: Support,
    /// Where each policy is defined.
    lines: BTreeMap<PolicyId, usize>,
    /// The same for namespaces.
    namespace_lines: BTreeMap<String, usize>,
    parsed: ParsedFile,
}

impl File<'_> {
    fn document(&mut self, root: &yaml::Node) {
        let errors = Errors::new(self.name);
        let root = Cursor::root(&errors, root);
        match wire::list_items(&root) {
            Some(items) => {
                items.iter().for_each(|item| self.item(item));
                drop(items);
            }
            None => self.item(&root),
        }
        self.parsed.errors.extend(errors.into_sorted());
    }

    fn item(&mut self, cursor: &Cursor<'_>) {
        if namespace::is_one(cursor) {
            self.namespace(cursor);
        } else if seccomp::is_one(cursor) {
            self.seccomp(cursor);
        } else {
            self.policy(cursor);
        }
    }

    fn namespace(&mut self, cursor: &Cursor<'_>) {
        let errors = Errors::new(self.name);
        if let Some((namespace, name)) = namespace::decode(cursor, &errors) {
            match self.namespace_lines.get(&name.value) {
                Some(line) => {
                    let message = format!("the namespace `{}` is already defined on line {line}", name.value);
                    errors.add(&name.place, message, Some("leave one of the two out".to_owned()));
                }
                None => {
                    self.namespace_lines.insert(name.value, name.place.line);
                    self.parsed.namespaces.push(namespace);
                }
            }
        }
        self.parsed.errors.extend(errors.into_sorted());
    }

    fn policy(&mut self, cursor: &Cursor<'_>) {
        let errors = Errors::new(self.name);
        let policy = wire::decode(cursor.with_errors(&errors)).map(|doc| {
            let place = doc.name.place.clone();
            (lower::policy(&errors, doc, self.support), place)
        });
        if let Some((policy, place)) = policy
            && self.is_new(policy.id(), &place, &errors)
        {
            self.parsed.policies.push(policy);
        }
        self.parsed.errors.extend(errors.into_sorted());
    }

    fn seccomp(&mut self, cursor: &Cursor<'_>) {
        let errors = Errors::new(self.name);
        if let Some(doc) = seccomp::decode(cursor.clone(), &errors) {
            let (policy, place) = seccomp::policy(&errors, doc);
            if self.is_new(policy.id(), &place, &errors) {
                self.parsed.seccomp.push(policy);
            }
        }
        self.parsed.errors.extend(errors.into_sorted());
    }

    /// Whether there is no other policy with this identity, and no error.
    fn is_new(&mut self, id: &PolicyId, place: &error::Place, errors: &Errors<'_>) -> bool {
        match self.lines.get(id) {
            Some(line) => {
                let message = format!("`{id}` is already defined on line {line}");
                errors.add(place, message, Some("give each policy a name of its own".to_owned()));
                false
            }
            None if errors.is_empty() => {
                self.lines.insert(id.clone(), place.line);
                true
            }
            None => false,
        }
    }

    fn syntax_error(&mut self, error: yaml::SyntaxError) {
        let yaml::SyntaxError { line, column, message, help } = error;
        self.parsed.errors.push(PolicyError {
            file: self.name.to_owned(),
            line,
            column,
            field: String::new(),
            message,
            help: help.map(str::to_owned),
        });
    }
}

#[cfg(test)]
mod tests;
