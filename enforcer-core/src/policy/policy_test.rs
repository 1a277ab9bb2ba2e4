//! Documents of the kind `PolicyTest`: accesses of one container, and what policies must decide about each.
//!
//! Reading them is all that is done here; the policies and the image that they name are files, which are for the caller to
//! read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::decode::{Cursor, Fields};
use super::error::{Errors, Located, Place, nearest, shown, suggest};
use super::names::{is_dns_label, is_label_key, is_label_value};
use super::{Kind, PolicyError, PolicyId, yaml};
use crate::capability::Capability;
use crate::decide::Verdict;
use crate::explain::{DEFAULT_POSTURE, Question};
use crate::path::AbsPath;
use crate::posture::{Class, PostureAction, Postures};
use crate::subject::Subject;

const API_VERSION: &str = "test.nri-enforcer.io/v1";
const KIND: &str = "PolicyTest";
/// The most cases of one test.
const MAX_CASES: usize = 10_000;
/// The most entries of every other list.
const MAX_ENTRIES: usize = 1000;
/// The longest text, in bytes: twice that of the longest path.
const MAX_TEXT: usize = 8192;

/// A test: a container, and accesses of it.
#[derive(Debug, Clone)]
pub struct PolicyTest {
    /// Its name; empty where it has none.
    pub name: String,
    /// Files of policies, and directories of them; at least one.
    pub policies: Vec<TestPath>,
    /// The container.
    pub subject: Subject,
    /// The name of its image; empty where none is given.
    pub image: String,
    /// The postures of its node.
    pub postures: Postures,
    /// The root of an image, whose links are followed.
    pub root: Option<TestPath>,
    /// The seccomp profile below the policies.
    pub base: TestBase,
    /// The accesses; at least one.
    pub cases: Vec<Case>,
}

/// The seccomp profile that a container has before any policy.
#[derive(Debug, Clone)]
pub enum TestBase {
    /// The one that a runtime gives, for these capabilities; none stand for those that it gives.
    RuntimeDefault(Vec<Capability>),
    /// None.
    Unconfined,
    /// This file of OCI JSON.
    File(TestPath),
}

/// A path that a test names, and where.
#[derive(Debug, Clone)]
pub struct TestPath {
    /// As written: relative to the file of the test.
    pub path: PathBuf,
    named: Named,
}

/// An access, and what must become of it.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name; the access where it has none.
    pub name: String,
    /// What is accessed.
    pub question: Question,
    /// The executable that acts.
    pub source: Option<AbsPath>,
    /// The arguments after the first that a process is started with.
    pub args: Vec<String>,
    /// Whether who acts has a controlling terminal.
    pub terminal: bool,
    /// The user id that acts.
    pub uid: u32,
    /// The user id that owns the object.
    pub owner: u32,
    /// What must become of it.
    pub expect: Verdict,
    /// The policy that must have decided: its name, its namespace and name, or [`DEFAULT_POSTURE`].
    pub policy: Option<String>,
    /// The rule that must have decided, by its place in the policy.
    pub rule: Option<String>,
    /// The line at which the case stands, from 1.
    pub line: usize,
    policy_named: Option<Named>,
}

/// Where something is written.
#[derive(Debug, Clone)]
struct Named {
    file: String,
    place: Place,
}

impl Named {
    fn error(&self, message: String, help: Option<String>) -> PolicyError {
        let Self { file, place: Place { line, column, field } } = self;
        PolicyError { file: file.clone(), line: *line, column: *column, field: field.clone(), message, help }
    }
}

impl TestPath {
    /// An error about what is at the path, where the test names it.
    #[must_use]
    pub fn error(&self, message: String) -> PolicyError {
        self.named.error(message, Some("paths are relative to the file of the test".to_owned()))
    }
}

impl PolicyTest {
    /// An error for each case whose deciding policy is none of these: it could not pass.
    #[must_use]
    pub fn unknown_policies<'p>(&self, ids: impl Iterator<Item = &'p PolicyId>) -> Vec<PolicyError> {
        let mut known = vec![DEFAULT_POSTURE.to_owned()];
        for id in ids {
            known.extend([id.to_string(), id.name.clone()]);
        }
        let cases =
            self.cases.iter().filter_map(|case| Some((case.policy.as_ref()?, case.policy_named.as_ref()?)));
        let unknown = cases.filter(|(name, _)| !known.contains(name));
        let error = |(name, named): (&String, &Named)| {
            let help = nearest(name, known.iter().map(String::as_str));
            let help = help.map(|name| format!("did you mean `{name}`?"));
            let otherwise = || "name one that is among `policies`".to_owned();
            named.error(format!("there is no policy `{}`", shown(name)), Some(help.unwrap_or_else(otherwise)))
        };
        unknown.map(error).collect()
    }
}

/// What became of a file of tests.
#[derive(Debug, Clone, Default)]
pub struct ParsedTests {
    /// The tests without a mistake, in the order of the text.
    pub tests: Vec<PolicyTest>,
    /// What is wrong with the others.
    pub errors: Vec<PolicyError>,
    /// How many documents are policies, namespaces or lists, and were passed over.
    pub passed_over: usize,
}

/// Reads the tests of a file; `file_name` is for the errors alone. With `among_policies`, documents that are something
/// else that this crate reads are passed over; everything that is no test is an error otherwise.
///
/// ```
/// use enforcer_core::policy::parse_tests;
///
/// let parsed = parse_tests("t.yaml", "
/// apiVersion: test.nri-enforcer.io/v1
/// kind: PolicyTest
/// policies: [web.yaml]
/// subject: { namespace: default, labels: { app: web } }
/// cases:
/// - { access: file:read:/etc/passwd, expect: Block }
/// - { access: file:read:/etc/hosts, expect: Alow }
/// ", false);
/// assert_eq!((parsed.errors[0].line, parsed.errors[0].column), (8, 43));
/// assert_eq!(parsed.errors[0].help.as_deref(), Some("did you mean `Allow`?"));
/// ```
#[must_use]
pub fn parse_tests(file_name: &str, text: &str, among_policies: bool) -> ParsedTests {
    let mut parsed = ParsedTests::default();
    for document in yaml::documents(text) {
        let errors = Errors::new(file_name);
        match document {
            Ok(root) => {
                let root = Cursor::root(&errors, &root);
                if among_policies && is_something_else(&root) {
                    parsed.passed_over += 1;
                } else if let Some(test) = decode(&root, file_name)
                    && errors.is_empty()
                {
                    parsed.tests.push(test);
                }
            }
            Err(yaml::SyntaxError { line, column, message, help }) => {
                errors.add(&Place { line, column, field: String::new() }, message, help.map(str::to_owned));
            }
        }
        parsed.errors.extend(errors.into_sorted());
    }
    parsed
}

fn is_something_else(root: &Cursor<'_>) -> bool {
    let Some(mut fields) = root.clone().fields_quietly() else { return false };
    let kinds = Kind::ALL.map(Kind::as_str).into_iter().chain(["Namespace", "List"]);
    let kind = fields.get("kind");
    kind.is_some_and(|kind| kinds.into_iter().any(|known| kind.is_text(known)))
}

fn text(fields: &mut Fields<'_>, name: &'static str) -> Option<Located<String>> {
    fields.get(name).and_then(|cursor| bounded(&cursor))
}

/// A text that is told in errors and results.
fn bounded(cursor: &Cursor<'_>) -> Option<Located<String>> {
    let text = cursor.text()?;
    if text.value.len() > MAX_TEXT {
        cursor.error(
            format!("{} bytes, more than {MAX_TEXT}", text.value.len()),
            Some("write less".to_owned()),
        );
        return None;
    }
    Some(text)
}

/// The items of a list that is not too long.
fn items<'a>(cursor: &Cursor<'a>, most: usize) -> Vec<Cursor<'a>> {
    let items = cursor.items();
    if items.len() > most {
        cursor.error(
            format!("{} entries, more than {most}", items.len()),
            Some("spread them over several tests".into()),
        );
        return Vec::new();
    }
    items
}

/// The same where nothing to do cannot be meant.
fn some<'a>(cursor: &Cursor<'a>, most: usize) -> Vec<Cursor<'a>> {
    if cursor.is_empty_list() {
        cursor.error("the list is empty", Some("list at least one".to_owned()));
    }
    items(cursor, most)
}

fn decode(root: &Cursor<'_>, file: &str) -> Option<PolicyTest> {
    root.refuse_duplicate_keys();
    let mut fields = root.clone().fields()?;
    let errors = root.errors;
    for (name, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let help = format!("write `{name}: {wanted}`");
        let given = fields.require(name, &help).and_then(|cursor| bounded(&cursor));
        if let Some(given) = given.filter(|given| given.value != wanted) {
            let message = format!("`{}` is no {name} of a test", shown(&given.value));
            errors.add(&given.place, message, Some(help));
            return None; // something else: its fields would be errors one and all
        }
    }
    let name = fields.get("metadata").and_then(metadata).unwrap_or_default();
    let policies = fields.require("policies", "list the files of the policies, relative to this one");
    let policies = policies.map(|cursor| some(&cursor, MAX_ENTRIES)).unwrap_or_default();
    let policies =
        policies.iter().filter_map(|cursor| path(cursor.errors, &bounded(cursor)?, file)).collect();
    let subject =
        fields.require("subject", "say which container: `subject: { namespace: default, labels: {} }`");
    let (subject, image) = subject.and_then(self::subject).unwrap_or_default();
    let postures = fields.get("postures").map(|cursor| postures(&cursor)).unwrap_or_default();
    let root = text(&mut fields, "root").and_then(|text| path(errors, &text, file));
    let base = fields.get("seccomp").and_then(|cursor| base(cursor, file));
    let cases = fields.require("cases", "list accesses, each with what is expected");
    let cases = cases.map(|cursor| some(&cursor, MAX_CASES)).unwrap_or_default();
    fields.finish();
    let cases = cases.into_iter().filter_map(|cursor| case(cursor, file)).collect();
    let base = base.unwrap_or(TestBase::RuntimeDefault(Vec::new()));
    Some(PolicyTest { name, policies, subject, image, postures, root, base, cases })
}

fn metadata(cursor: Cursor<'_>) -> Option<String> {
    let mut fields = cursor.fields()?;
    let name = fields
        .require("name", "give the test a name, or leave `metadata` out")
        .and_then(|cursor| bounded(&cursor));
    fields.finish();
    Some(name?.value)
}

fn path(errors: &Errors<'_>, text: &Located<String>, file: &str) -> Option<TestPath> {
    let Located { value, place } = text;
    if value.is_empty() {
        errors.add(place, "the path is empty", Some("name a file, relative to this one".to_owned()));
        return None;
    }
    Some(TestPath { path: value.into(), named: Named { file: file.to_owned(), place: place.clone() } })
}

fn subject(cursor: Cursor<'_>) -> Option<(Subject, String)> {
    let mut fields = cursor.fields()?;
    let errors = fields.cursor().errors;
    let namespace =
        fields.require("namespace", "name the pod's namespace").and_then(|cursor| bounded(&cursor));
    let labels = fields.get_unless_null("labels").map(|cursor| cursor.entries()).unwrap_or_default();
    let [pod, container, image] = ["pod", "container", "image"]
        .map(|name| text(&mut fields, name).map(|text| text.value).unwrap_or_default());
    fields.finish();
    let namespace = namespace?;
    if !is_dns_label(&namespace.value) {
        errors.add(&namespace.place, format!("`{}` is no namespace", shown(&namespace.value)), None);
    }
    let mut of_pod = BTreeMap::new();
    for (key, value) in labels {
        let Some(value) = value.text() else { continue };
        let wrong = match (is_label_key(&key.value), is_label_value(&value.value)) {
            (true, true) => None,
            (false, _) => Some((&key, "no label")),
            (true, false) => Some((&value, "no value of a label")),
        };
        if let Some((given, what)) = wrong {
            errors.add(&given.place, format!("`{}` is {what}", shown(&given.value)), None);
        }
        of_pod.insert(key.value, value.value);
    }
    let namespace = namespace.value;
    Some((Subject { namespace, pod, labels: of_pod, container, host: false }, image))
}

fn postures(cursor: &Cursor<'_>) -> Postures {
    let classes = Class::ALL.into_iter().filter(|class| class.can(crate::posture::Effect::Allow));
    let names = || classes.clone().map(Class::as_str);
    let mut postures = Postures::default();
    for (key, value) in cursor.entries() {
        let class =
            key.value.parse::<Class>().ok().filter(|class| names().any(|name| name == class.as_str()));
        if class.is_none() {
            let message = format!("`{}` is no class with a posture", shown(&key.value));
            cursor.errors.add(&key.place, message, Some(suggest(&key.value, names())));
        }
        let Some(action) = value.text() else { continue };
        match (class, action.value.to_ascii_lowercase().parse::<PostureAction>()) {
            (Some(class), Ok(action)) => postures = postures.with(class, action),
            (None, Ok(_)) => {}
            (_, Err(_)) => {
                let help = suggest(&action.value, ["allow", "audit", "block"]);
                cursor.errors.add(
                    &action.place,
                    format!("`{}` is no posture", shown(&action.value)),
                    Some(help),
                );
            }
        }
    }
    postures
}

fn base(cursor: Cursor<'_>, file: &str) -> Option<TestBase> {
    let errors = cursor.errors;
    let mut fields = cursor.fields()?;
    let base = text(&mut fields, "base");
    let capabilities = fields.get("capabilities");
    fields.finish();
    let mut given = Vec::new();
    for name in
        capabilities.iter().flat_map(|cursor| items(cursor, MAX_ENTRIES)).filter_map(|cursor| cursor.text())
    {
        match Capability::by_name(&name.value) {
            Some(capability) => given.push(capability),
            None => {
                let help = suggest(&name.value, Capability::all().map(Capability::name));
                errors.add(&name.place, format!("`{}` is no capability", shown(&name.value)), Some(help));
            }
        }
    }
    let base = match base {
        None => return Some(TestBase::RuntimeDefault(given)),
        Some(base) => base,
    };
    let of_base = match &*base.value {
        "runtime-default" => return Some(TestBase::RuntimeDefault(given)),
        "unconfined" => TestBase::Unconfined,
        _ => TestBase::File(path(errors, &base, file)?),
    };
    if let Some(cursor) = capabilities {
        cursor
            .error("only `base: runtime-default` depends on capabilities", Some("leave them out".to_owned()));
    }
    Some(of_base)
}

fn case(cursor: Cursor<'_>, file: &str) -> Option<Case> {
    let line = cursor.place().line;
    let mut fields = cursor.fields()?;
    let errors = fields.cursor().errors;
    let name = text(&mut fields, "name");
    let access = fields
        .require("access", "write one as in `file:read:/etc/passwd`")
        .and_then(|cursor| bounded(&cursor));
    let source = text(&mut fields, "source");
    let parent = text(&mut fields, "parent");
    let args = fields.get("args");
    let terminal = fields.get("tty").and_then(|cursor| cursor.flag()).is_some_and(|flag| flag.value);
    let [uid, owner] =
        ["uid", "owner"].map(|name| fields.get(name).and_then(|cursor| user(&cursor)).unwrap_or_default());
    let expect =
        fields.require("expect", "write `Allow`, `Audit` or `Block`").and_then(|cursor| bounded(&cursor));
    let policy = text(&mut fields, "policy");
    let rule = text(&mut fields, "rule").map(|rule| rule.value);
    fields.finish();

    let question = access.as_ref().and_then(|access| {
        let parsed = access.value.parse::<Question>();
        parsed.map_err(|error| errors.add(&access.place, error.to_string(), None)).ok()
    });
    let execution = question.as_ref().is_none_or(|question| question.class() == Class::Process);
    if let (Some(parent), false) = (&parent, execution) {
        let help = "who acts is the `source`".to_owned();
        errors.add(&parent.place, "only `process:exec:...` has a parent", Some(help));
    }
    if let (Some(args), false) = (&args, execution) {
        args.error("only `process:exec:...` has arguments", Some("leave them out".to_owned()));
    }
    if let (Some(_), Some(parent)) = (&source, &parent) {
        let help = "they are two names of the same; leave one out".to_owned();
        errors.add(&parent.place, "there is a `source` already", Some(help));
    }
    let source = source.or(parent).and_then(|source| {
        let parsed = source.value.parse::<AbsPath>();
        parsed.map_err(|error| errors.add(&source.place, error.to_string(), None)).ok()
    });
    let args = args
        .iter()
        .flat_map(|cursor| items(cursor, MAX_ENTRIES))
        .filter_map(|cursor| cursor.text_or_number());
    let args = args.map(|arg| arg.value).collect();
    let expect = expect.and_then(|expect| verdict(errors, &expect));
    let policy_named =
        policy.as_ref().map(|policy| Named { file: file.to_owned(), place: policy.place.clone() });
    let policy = policy.map(|policy| policy.value);
    let name = name.map(|name| name.value).unwrap_or(access?.value);
    let (question, expect) = (question?, expect?);
    Some(Case {
        name,
        question,
        source,
        args,
        terminal,
        uid,
        owner,
        expect,
        policy,
        rule,
        line,
        policy_named,
    })
}

fn user(cursor: &Cursor<'_>) -> Option<u32> {
    let number = cursor.number()?.value;
    let id = u32::try_from(number).ok();
    if id.is_none() {
        cursor.error(format!("`{number}` is no user id"), Some(format!("there are 0 to {}", u32::MAX)));
    }
    id
}

fn verdict(errors: &Errors<'_>, given: &Located<String>) -> Option<Verdict> {
    let names = [("Allow", Verdict::Allow), ("Audit", Verdict::Audit), ("Block", Verdict::Block)];
    let known = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(&given.value));
    if known.is_none() {
        let help = suggest(&given.value, names.map(|(name, _)| name));
        errors.add(&given.place, format!("`{}` is no verdict", shown(&given.value)), Some(help));
    }
    known.map(|(_, verdict)| *verdict)
}

#[cfg(test)]
mod tests;
