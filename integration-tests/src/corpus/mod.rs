//! One corpus of policies and probes for every back end.
//!
//! The policies are whole files (`corpus/*.yaml`). Each is put in force on a real kernel by each back end, in the same
//! [`world`] of files and programs; then `programs/visit.c` tries the same [`probes`] there, and what the kernel answers is
//! [compared](compare) with `decide`. Each difference has a reason: a gap that the back end tells of the very rule that
//! decided, or a heading of the documentation. [`record`] keeps them by back end, and [`document`] makes one page of all.

pub mod actor;
pub mod compare;
pub mod document;
pub mod probes;
pub mod record;
pub mod world;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use enforcer_core::policy::{Policy, parse};
use enforcer_core::ruleset::{Class, PostureAction, Postures, Ruleset};
use enforcer_core::subject::Subject;
use serde_yaml::{Mapping, Value};

/// The label of containers that the policies select.
pub const LABEL: (&str, &str) = ("app", "corpus");
/// The namespace that they are in.
const NAMESPACE: &str = "default";
/// The label of the node that they select as host policies.
const NODE_LABEL: (&str, &str) = ("kubernetes.io/os", "linux");

macro_rules! embedded {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../corpus/", $name, ".yaml")))),+]
    };
}

/// The policies: name and text.
pub const POLICIES: &[(&str, &str)] = embedded![
    "paths",
    "closer-rules",
    "read-only",
    "owner-only",
    "owner-read-only",
    "file-whitelist",
    "patterns",
    "sources",
    "processes",
    "process-whitelist",
    "unreadable-program",
    "base-names",
    "arguments",
    "arguments-whitelist",
    "terminals",
    "sockets",
    "endpoints",
    "capabilities",
    "capability-whitelist",
];

/// Whom the policies are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A container: as they are written.
    Container,
    /// The host's own processes: the same rules as `KubeArmorHostPolicy`.
    Host,
}

impl About {
    fn subject(self) -> Subject {
        let labels = |(key, value): (&str, &str)| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        match self {
            Self::Container => {
                Subject { namespace: NAMESPACE.to_owned(), labels: labels(LABEL), ..Subject::default() }
            }
            Self::Host => Subject::of_host(labels(NODE_LABEL)),
        }
    }
}

/// One policy under one posture.
#[derive(Clone, Debug)]
pub struct Case {
    /// The policy's name.
    pub name: &'static str,
    /// The posture of every class.
    pub posture: PostureAction,
    /// The policy.
    pub policies: Vec<Policy>,
    /// What it means.
    pub ruleset: Ruleset,
    text: String,
}

impl Case {
    /// The policy file of a daemon: the policy, and the postures of its namespace.
    #[must_use]
    pub fn documents(&self) -> String {
        let Self { text, posture, .. } = self;
        let keys = ["process", "file", "network", "capabilities"];
        let postures: String =
            keys.iter().map(|key| format!("    kubearmor-{key}-posture: {posture}\n")).collect();
        format!(
            "{text}---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  annotations:\n{postures}"
        )
    }

    /// The programs that the probes are tried by: two where the policy tells who acts.
    #[must_use]
    pub fn programs(&self) -> &'static [&'static str] {
        let tells = self.ruleset.rules().iter().any(|rule| rule.source.is_some());
        if tells { &[world::OTHER, world::SOURCE] } else { &[world::OTHER] }
    }
}

/// Each policy under the postures `audit` and `block`; under one alone where these are the same.
///
/// # Errors
/// When a policy cannot be read, selects nothing, or has a part that nothing enforces.
pub fn cases(about: About) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (name, text) in POLICIES {
        let text = match about {
            About::Container => (*text).to_owned(),
            About::Host => of_host(text).with_context(|| (*name).to_owned())?,
        };
        let parsed = parse(&format!("{name}.yaml"), &text);
        ensure!(parsed.errors.is_empty(), "{name}: {:?}", parsed.errors);
        let mut before = None;
        for posture in [PostureAction::Audit, PostureAction::Block] {
            let postures =
                Class::ALL.into_iter().fold(Postures::default(), |all, class| all.with(class, posture));
            let resolved = Ruleset::resolve(&parsed.policies, &postures, &about.subject());
            ensure!(resolved.coverage.is_full(), "{name}: {}", resolved.coverage);
            let ruleset = resolved.ruleset;
            ensure!(!ruleset.is_empty(), "{name} selects nothing");
            if before.replace(ruleset.digest()) != Some(ruleset.digest()) {
                let (policies, text) = (parsed.policies.clone(), text.clone());
                cases.push(Case { name, posture, policies, ruleset, text });
            }
        }
    }
    Ok(cases)
}

/// The same rules as a policy on the host's own processes.
fn of_host(text: &str) -> Result<String> {
    let mut document: Value = serde_yaml::from_str(text)?;
    let of = |key: &str, value: Value| Mapping::from_iter([(Value::from(key), value)]);
    let top = document.as_mapping_mut().context("no mapping")?;
    top.insert("kind".into(), "KubeArmorHostPolicy".into());
    let metadata = top.get_mut("metadata").and_then(Value::as_mapping_mut).context("no metadata")?;
    metadata.remove("namespace");
    let spec = top.get_mut("spec").and_then(Value::as_mapping_mut).context("no spec")?;
    spec.remove("selector").context("no selector")?;
    let (key, value) = NODE_LABEL;
    spec.insert("nodeSelector".into(), of("matchLabels", of(key, value.into()).into()).into());
    Ok(serde_yaml::to_string(&document)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    #[test]
    fn every_policy_of_the_folder_is_tried_on_containers_and_on_hosts() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
        let files =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let files: BTreeSet<String> =
            files.filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned)).collect();
        for about in [About::Container, About::Host] {
            let cases = cases(about).unwrap();
            let tried: BTreeSet<String> = cases.iter().map(|case| case.name.to_owned()).collect();
            assert_eq!(tried, files);
            for case in cases {
                assert!(
                    case.ruleset.origins().iter().all(|origin| origin.policy.name == case.name),
                    "{}",
                    case.name
                );
            }
        }
    }

    #[test]
    fn a_policy_means_the_same_on_a_host() {
        let rules = |about| {
            let cases = cases(about).unwrap();
            let of = |case: Case| (case.name, case.posture, case.ruleset.rules().to_vec());
            cases.into_iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(rules(About::Container), rules(About::Host));
    }

    #[test]
    fn a_daemon_reads_its_documents_without_a_complaint() {
        for case in cases(About::Container).unwrap() {
            let parsed = parse("case.yaml", &case.documents());
            assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
            assert_eq!((&parsed.policies, parsed.namespaces.len()), (&case.policies, 1));
            let postures = parsed.namespaces[0].postures();
            assert_eq!(postures.len(), 4);
            assert!(postures.values().all(|posture| *posture == case.posture), "{postures:?}");
        }
    }
}
