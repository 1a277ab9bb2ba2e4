//! The policy as YAML, and its test; and whether they say what they should.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_core::capability::Capability;
use enforcer_core::decide::{Access as Asked, Verdict};
use enforcer_core::network::{Protocol, SocketAccess, SocketOp};
use enforcer_core::policy::parse;
use enforcer_core::ruleset::{Class, PostureAction, Postures, Ruleset};
use enforcer_core::subject::Subject;
use serde::Serialize;

use super::generalise::{Learned, Sources, Target, text};
use crate::observe::watches::Access;

/// The most accesses that a test asks about. A policy test may have 10,000 cases.
pub(super) const CASES: usize = 5_000;
/// What no container has.
const NEVER: &str = "/nri-enforcer-never-seen";

/// Whom the policy is for.
#[derive(Debug, Clone)]
pub struct About {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Whom it selects.
    pub labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    spec: Spec<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
    namespace: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    selector: Selector<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<Matches<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<Matches<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Protocols<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Capabilities<'a>>,
    action: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Selector<'a> {
    match_labels: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Matches<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    match_paths: Vec<Match<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    match_directories: Vec<Match<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    match_patterns: Vec<Match<'a>>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Match<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dir: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    recursive: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    from_source: Vec<Source<'a>>,
}

#[derive(Serialize)]
struct Source<'a> {
    path: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Protocols<'a> {
    match_protocols: Vec<OfProtocol<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OfProtocol<'a> {
    protocol: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    from_source: Vec<Source<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Capabilities<'a> {
    match_capabilities: Vec<OfCapability<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OfCapability<'a> {
    capability: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    from_source: Vec<Source<'a>>,
}

fn sources(of: &Sources) -> Vec<Source<'_>> {
    of.iter().flatten().map(|path| Source { path }).collect()
}

fn matches<'a>(all: impl Iterator<Item = (&'a Target, bool, &'a Sources)>) -> Option<Matches<'a>> {
    let mut matches =
        Matches { match_paths: Vec::new(), match_directories: Vec::new(), match_patterns: Vec::new() };
    let mut any = false;
    for (target, read_only, of) in all {
        any = true;
        let one = Match { read_only, from_source: sources(of), ..Match::default() };
        match target {
            Target::Path(path) => matches.match_paths.push(Match { path: Some(path), ..one }),
            Target::Directory(dir, recursive) => {
                matches.match_directories.push(Match { dir: Some(dir), recursive: *recursive, ..one });
            }
            Target::Pattern(pattern) => matches.match_patterns.push(Match { pattern: Some(pattern), ..one }),
        }
    }
    any.then_some(matches)
}

/// The policy.
///
/// # Errors
/// When it cannot be written as YAML.
pub fn policy(learned: &Learned, about: &About) -> Result<String, String> {
    let protocols: Vec<_> = learned
        .network
        .iter()
        .map(|(protocol, of)| OfProtocol { protocol: protocol.as_str(), from_source: sources(of) })
        .collect();
    let capabilities: Vec<_> = learned
        .capabilities
        .iter()
        .map(|(capability, of)| OfCapability { capability, from_source: sources(of) })
        .collect();
    let document = Document {
        api_version: "security.kubearmor.com/v1",
        kind: "KubeArmorPolicy",
        metadata: Metadata { name: &about.name, namespace: &about.namespace },
        spec: Spec {
            selector: Selector { match_labels: &about.labels },
            process: matches(learned.process.iter().map(|(target, of)| (target, false, of))),
            file: matches(learned.file.iter().map(|((target, read_only), of)| (target, *read_only, of))),
            network: (!protocols.is_empty()).then_some(Protocols { match_protocols: protocols }),
            capabilities: (!capabilities.is_empty())
                .then_some(Capabilities { match_capabilities: capabilities }),
            action: "Allow",
        },
    };
    serde_yaml::to_string(&document).map_err(|error| error.to_string())
}

/// What a policy means for whom it selects, where all that it does not allow is denied.
///
/// # Errors
/// When it is not one that is read without a mistake.
pub fn means(text: &str, about: &About) -> Result<Ruleset, String> {
    let parsed = parse("learned", text);
    if let Some(error) = parsed.errors.first() {
        return Err(error.to_string());
    }
    let subject =
        Subject { namespace: about.namespace.clone(), labels: about.labels.clone(), ..Subject::default() };
    let block = [Class::Process, Class::File, Class::Network, Class::Capability]
        .into_iter()
        .fold(Postures::default(), |postures, class| postures.with(class, PostureAction::Block));
    let resolved = Ruleset::resolve(&parsed.policies, &block, &subject);
    match resolved.coverage.gaps.first() {
        Some(gap) => Err(gap.to_string()),
        None => Ok(resolved.ruleset),
    }
}

/// The access as it is decided; `None` for a capability that is not known.
fn asked(access: &Access) -> Option<Asked<'_>> {
    Some(match access {
        Access::Exec(path) => Asked::exec(path),
        Access::Read(path) => Asked::read(path),
        Access::Write(path) => Asked::write(path),
        Access::Socket(family, kind, protocol) => Asked::socket(socket(*family, *kind, *protocol)),
        Access::Capability(number) => Asked::capability(Capability::by_number(*number)?),
    })
}

fn socket(family: u16, kind: u16, protocol: u16) -> SocketAccess {
    SocketAccess { op: SocketOp::Create, family, kind, protocol, address: None, port: 0 }
}

fn verdict(ruleset: &Ruleset, access: &Access, source: &[u8]) -> Option<Verdict> {
    let asked = asked(access)?;
    let asked = if source.is_empty() { asked } else { asked.from(source) };
    Some(ruleset.decide(&asked).verdict)
}

/// What of these the policy denies.
#[must_use]
pub fn denied(ruleset: &Ruleset, accesses: &BTreeSet<(Access, Vec<u8>)>) -> BTreeSet<Access> {
    let allowed = |access, source: &Vec<u8>| verdict(ruleset, access, source) == Some(Verdict::Allow);
    accesses
        .iter()
        .filter(|(access, source)| !allowed(access, source))
        .map(|(access, _)| access.clone())
        .collect()
}

/// An access for people, and as a policy test asks about it; `None` where its path is no text.
#[must_use]
pub fn question(access: &Access) -> Option<String> {
    let text = |path: &Vec<u8>| text(path).ok();
    Some(match access {
        Access::Exec(path) => format!("process:exec:{}", text(path)?),
        Access::Read(path) => format!("file:read:{}", text(path)?),
        Access::Write(path) => format!("file:write:{}", text(path)?),
        Access::Socket(family, kind, protocol) => format!("network:create:{family}:{kind}:{protocol}"),
        Access::Capability(number) => format!("capability:use:{}", Capability::by_number(*number)?.name()),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Test<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Name<'a>,
    policies: [&'a str; 1],
    subject: Who<'a>,
    postures: Blocking,
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct Name<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Who<'a> {
    namespace: &'a str,
    labels: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Blocking {
    process: &'static str,
    file: &'static str,
    network: &'static str,
    capability: &'static str,
}

#[derive(Serialize)]
struct Case {
    access: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    expect: &'static str,
}

/// A test that what was seen is allowed by the policy in the file `path`, and that some of what was not is denied. How many
/// accesses it leaves out, since a test has room for so many.
///
/// # Errors
/// When it cannot be written as YAML.
pub fn test(
    accesses: &BTreeSet<(Access, Vec<u8>)>,
    ruleset: &Ruleset,
    about: &About,
    path: &str,
    with_sources: bool,
) -> Result<(String, usize), String> {
    let source = |source: &Vec<u8>| text(source).ok().filter(|_| with_sources);
    let mut seen = BTreeSet::new();
    for (access, by) in accesses {
        if verdict(ruleset, access, by) == Some(Verdict::Allow)
            && let Some(question) = question(access)
        {
            seen.insert((question, source(by)));
        }
    }
    let left_out = seen.len().saturating_sub(CASES);
    let allow = |(access, source)| Case { access, source, expect: "Allow" };
    let mut cases: Vec<Case> = seen.into_iter().take(CASES).map(allow).collect();
    cases.extend(unseen(ruleset).into_iter().map(|access| Case { access, source: None, expect: "Block" }));
    let block = "block";
    let test = Test {
        api_version: "test.nri-enforcer.io/v1",
        kind: "PolicyTest",
        metadata: Name { name: &about.name },
        policies: [path],
        subject: Who { namespace: &about.namespace, labels: &about.labels },
        postures: Blocking { process: block, file: block, network: block, capability: block },
        cases,
    };
    serde_yaml::to_string(&test).map(|text| (text, left_out)).map_err(|error| error.to_string())
}

/// A few accesses that the policy denies: one of each class that it has, and a change of what may only be read.
fn unseen(ruleset: &Ruleset) -> Vec<String> {
    let never = || NEVER.as_bytes().to_vec();
    let mut some = vec![Access::Exec(never()), Access::Read(never()), Access::Write(never())];
    let read_only = ruleset.rules().iter().filter(|rule| rule.conditions.read_only);
    let paths = read_only.filter_map(|rule| match &rule.object {
        enforcer_core::ruleset::Object::Path(path) => Some(Access::Write(path.as_bytes().to_vec())),
        _ => None,
    });
    let blocked = |access: &Access| verdict(ruleset, access, &[]) == Some(Verdict::Block);
    some.extend(paths.filter(blocked).take(1));
    let socket = |protocol: Protocol| match protocol {
        Protocol::Tcp => Access::Socket(2, 1, 6),
        Protocol::Udp => Access::Socket(2, 2, 17),
        _ => Access::Socket(17, 3, 0),
    };
    some.extend([Protocol::Tcp, Protocol::Udp, Protocol::Packet].map(socket).into_iter().find(blocked));
    let capabilities = Capability::all().map(|one| Access::Capability(one.number().into()));
    some.extend(capabilities.filter(blocked).take(1));
    some.iter().filter(|access| blocked(access)).filter_map(question).collect()
}
