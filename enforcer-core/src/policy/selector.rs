//! Which containers a policy is about.

use std::collections::{BTreeMap, BTreeSet};

use crate::subject::{HOSTNAME_LABEL, Subject};

/// Selects containers. Everything it says must hold.
///
/// A selector that says nothing beyond its scope selects every container there: `selector: {}` in a
/// `KubeArmorPolicy` means all pods of its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    pub(super) scope: Scope,
    pub(super) labels: BTreeMap<String, String>,
    /// Empty selects every container of a pod.
    pub(super) containers: BTreeSet<String>,
    pub(super) expressions: Vec<Expression>,
    /// Names of hosts; empty selects every host.
    pub(super) hosts: BTreeSet<String>,
}

/// Where a policy looks for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// In one namespace.
    Namespace(String),
    /// In all of them.
    Cluster,
    /// On nodes: it is about the host's own processes.
    Host,
}

/// One of `matchExpressions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression {
    pub(super) values: Values,
    /// `In` where true: one of the values must hold. Else `NotIn`: none may.
    pub(super) wanted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Values {
    Labels(BTreeSet<(String, String)>),
    Namespaces(BTreeSet<String>),
}

impl Selector {
    /// Where it looks.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Labels that every container it selects has.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Whether it selects this container.
    #[must_use]
    pub fn selects(&self, subject: &Subject) -> bool {
        let Self { scope, labels, containers, expressions, hosts } = self;
        let in_scope = match scope {
            Scope::Namespace(namespace) => !subject.host && *namespace == subject.namespace,
            Scope::Cluster => !subject.host,
            Scope::Host => subject.host,
        };
        in_scope
            && labels.iter().all(|(key, value)| subject.labels.get(key) == Some(value))
            && (containers.is_empty() || containers.contains(&subject.container))
            && (hosts.is_empty()
                || subject.labels.get(HOSTNAME_LABEL).is_some_and(|name| hosts.contains(name)))
            && expressions.iter().all(|expression| expression.holds(subject))
    }
}

impl Expression {
    fn holds(&self, subject: &Subject) -> bool {
        let found = match &self.values {
            Values::Labels(labels) => {
                labels.iter().any(|(key, value)| subject.labels.get(key) == Some(value))
            }
            Values::Namespaces(namespaces) => namespaces.contains(&subject.namespace),
        };
        found == self.wanted
    }
}
