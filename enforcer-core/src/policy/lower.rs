//! From what is written to what it means: names judged, paths parsed, inheritance resolved.
//!
//! What is left of a rule that cannot be enforced as written is told in the [module above](super).

use std::collections::{BTreeMap, BTreeSet};

use super::error::{Errors, Located, Place, shown, suggest};
use super::names::{
    CONTAINER_NAME, HOST_LABELS, IGNORED_LABELS, is_dns_label, is_dns_name, is_label_key, is_label_value,
};
use super::selector::{Expression, Scope, Selector, Values};
use super::wire::{ExpressionDoc, MetaDoc, ObjectDoc, PolicyDoc, RuleDoc, SectionDoc, SelectorDoc, SpecDoc};
use super::{Gap, Kind, Policy, PolicyId, PolicyRule};
use crate::coverage::GapReason;
use crate::path::{AbsPath, PathError};
use crate::posture::{Class, Effect};
use crate::ruleset::{Conditions, Object, Origin};

/// What KubeArmor reports where a policy names no severity.
const DEFAULT_SEVERITY: u8 = 1;
/// Where a policy without a namespace lives.
const DEFAULT_NAMESPACE: &str = "default";

/// The policy; worthless unless `errors` stays empty.
pub(super) fn policy(errors: &Errors<'_>, doc: PolicyDoc) -> Policy {
    let PolicyDoc { kind, name, namespace, spec } = doc;
    let SpecDoc { place, selector, process, file, unenforced, meta } = spec;
    let id = policy_id(errors, kind, &name, namespace.as_ref());
    let selector = self::selector(errors, &id, &selector);

    let mut lowering =
        Lowering { errors, id: &id, rules: Vec::new(), whitelists: BTreeSet::new(), gaps: Vec::new() };
    action(errors, meta.action.as_ref(), true);
    severity(errors, meta.severity.as_ref());
    let mut written = unenforced.len();
    for (class, section) in [(Class::Process, process), (Class::File, file)] {
        if let Some(section) = section {
            written += section.rules.len();
            lowering.section(class, section, &meta);
        }
    }
    if written == 0 && errors.is_empty() {
        errors.add(
            &place,
            "the policy has no rules",
            Some("add a section, such as `file`, with rules".to_owned()),
        );
    }
    for part in unenforced {
        lowering.gap(part.place.field, part.reason, "nothing of it has any effect".to_owned());
    }
    let Lowering { mut rules, mut whitelists, mut gaps, .. } = lowering;
    if kind != Kind::KubeArmorPolicy {
        rules.clear();
        whitelists.clear();
        gaps = vec![Gap {
            policy: id.clone(),
            field: "kind".to_owned(),
            reason: GapReason::Kind(kind),
            advice: match kind {
                Kind::KubeArmorHostPolicy => "the host's own processes are left alone".to_owned(),
                _ => "write a `KubeArmorPolicy` in each namespace instead".to_owned(),
            },
        }];
    }
    Policy { id, selector, rules, whitelists: whitelists.into_iter().collect(), gaps }
}

fn policy_id(
    errors: &Errors<'_>,
    kind: Kind,
    name: &Located<String>,
    namespace: Option<&Located<String>>,
) -> PolicyId {
    let rule = "lower-case letters, digits and `-`, with a letter or digit at both ends";
    if !is_dns_name(&name.value) {
        let message = format!("`{}` is no name", shown(&name.value));
        errors.add(&name.place, message, Some(format!("a name has {rule}, and may have dots")));
    }
    if let Some(namespace) = namespace
        && !is_dns_label(&namespace.value)
    {
        let message = format!("`{}` is no namespace", shown(&namespace.value));
        errors.add(&namespace.place, message, Some(format!("a namespace has {rule}")));
    }
    let namespace = match (kind.namespaced(), namespace) {
        (false, _) => "",
        (true, None) => DEFAULT_NAMESPACE,
        (true, Some(namespace)) => &namespace.value,
    };
    PolicyId { kind, namespace: namespace.to_owned(), name: name.value.clone() }
}

fn selector(errors: &Errors<'_>, id: &PolicyId, doc: &SelectorDoc) -> Selector {
    let SelectorDoc { labels, expressions } = doc;
    let mut selected = BTreeMap::new();
    let mut containers = BTreeSet::new();
    for (key, value) in labels {
        if id.kind == Kind::KubeArmorHostPolicy && key.value.starts_with(HOST_LABELS) {
            // Names of hosts, with wildcards and commas: to be read when host policies are enforced.
        } else if key.value == CONTAINER_NAME {
            containers = self::containers(errors, value);
        } else {
            label(errors, &key.place, &key.value, &value.place, &value.value);
            selected.insert(key.value.clone(), value.value.clone());
        }
    }
    let expressions = expressions.iter().filter_map(|doc| expression(errors, id.kind, doc)).collect();
    let scope = match id.kind {
        Kind::KubeArmorPolicy => Scope::Namespace(id.namespace.clone()),
        Kind::KubeArmorClusterPolicy => Scope::Cluster,
        Kind::KubeArmorHostPolicy => Scope::Host,
    };
    Selector { scope, labels: selected, containers, expressions }
}

fn label(errors: &Errors<'_>, key_place: &Place, key: &str, value_place: &Place, value: &str) {
    if IGNORED_LABELS.contains(&key) {
        let help = "a controller sets it anew with every rollout; select by a label of your own".to_owned();
        errors.add(key_place, format!("nothing is selected by the label `{key}`"), Some(help));
    }
    if !is_label_key(key) {
        let help = "at most 63 letters, digits, `-`, `_` and `.`, perhaps after `domain/`".to_owned();
        errors.add(key_place, format!("`{}` is no label", shown(key)), Some(help));
    }
    if !is_label_value(value) {
        let help = "at most 63 letters, digits, `-`, `_` and `.`".to_owned();
        errors.add(value_place, format!("`{}` is no value of a label", shown(value)), Some(help));
    }
}

/// `[a,b]`, or one name alone. An empty list, and an empty text, select every container; so does a list of nothing
/// but commas.
fn containers(errors: &Errors<'_>, value: &Located<String>) -> BTreeSet<String> {
    let text = value.value.trim();
    if text.is_empty() {
        return BTreeSet::new();
    }
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let names = inner.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .inspect(|name| {
            if !is_dns_label(name) {
                let help = "write names of lower-case letters, digits and `-`, such as `\"[main,proxy]\"`"
                    .to_owned();
                errors.add(&value.place, format!("`{}` is no container's name", shown(name)), Some(help));
            }
        })
        .map(str::to_owned)
        .collect()
}

fn expression(errors: &Errors<'_>, kind: Kind, doc: &ExpressionDoc) -> Option<Expression> {
    let ExpressionDoc { key, operator, values } = doc;
    let keys: &[&str] = if kind.namespaced() { &["label"] } else { &["namespace", "label"] };
    if !keys.contains(&&*key.value) {
        let help = match is_label_key(&key.value)
            && suggest(&key.value, keys.iter().copied()).starts_with("there")
        {
            true => format!("write `key: label` and the values as `{}=value`", shown(&key.value)),
            false => suggest(&key.value, keys.iter().copied()),
        };
        errors.add(&key.place, format!("`{}` is no key", shown(&key.value)), Some(help));
        return None;
    }
    let wanted = match &*operator.value {
        "In" => true,
        "NotIn" => false,
        other => {
            let help = suggest(other, ["In", "NotIn"]);
            errors.add(&operator.place, format!("`{}` is no operator", shown(other)), Some(help));
            return None;
        }
    };
    if key.value == "namespace" {
        let namespaces = values.iter().map(|value| value.value.clone()).collect();
        return Some(Expression { values: Values::Namespaces(namespaces), wanted });
    }
    let labels = values.iter().filter_map(|text| match text.value.split_once('=') {
        Some((CONTAINER_NAME, _)) => {
            let help = format!("write `{CONTAINER_NAME}: \"[name]\"` under `matchLabels`");
            errors.add(&text.place, "no container is selected by an expression", Some(help));
            None
        }
        Some((key, value)) => {
            label(errors, &text.place, key, &text.place, value);
            Some((key.to_owned(), value.to_owned()))
        }
        None => {
            let message = format!("`{}` is no label with a value", shown(&text.value));
            errors.add(&text.place, message, Some("write `key=value`".to_owned()));
            None
        }
    });
    Some(Expression { values: Values::Labels(labels.collect()), wanted })
}

struct Lowering<'a, 'e> {
    errors: &'a Errors<'e>,
    id: &'a PolicyId,
    rules: Vec<PolicyRule>,
    whitelists: BTreeSet<Class>,
    gaps: Vec<Gap>,
}

impl Lowering<'_, '_> {
    fn gap(&mut self, field: String, reason: GapReason, advice: String) {
        self.gaps.push(Gap { policy: self.id.clone(), field, reason, advice });
    }

    fn section(&mut self, class: Class, doc: SectionDoc, spec: &MetaDoc) {
        let SectionDoc { rules, meta } = doc;
        action(self.errors, meta.action.as_ref(), false);
        severity(self.errors, meta.severity.as_ref());
        for rule in rules {
            self.rule(class, rule, [&meta, spec]);
        }
    }

    fn rule(&mut self, class: Class, doc: RuleDoc, [section, spec]: [&MetaDoc; 2]) {
        let RuleDoc { place, object, sources, read_only, owner_only, pts, allowed_args, meta } = doc;
        let own_action = action(self.errors, meta.action.as_ref(), false);
        severity(self.errors, meta.severity.as_ref());
        let inherited = inherit([&meta, section, spec]);
        let effect = own_action.or_else(|| inherited.action()).unwrap_or(Effect::Block);
        if effect == Effect::Allow {
            self.whitelists.insert(class);
        }

        let sources: Vec<_> = sources.iter().filter_map(|source| file_path(self.errors, source)).collect();
        let object = match object {
            ObjectDoc::Path(path) => file_path(self.errors, &path).map(Object::Path),
            ObjectDoc::BaseName(name) => base_name(self.errors, &name).map(Object::BaseName),
            ObjectDoc::Directory { dir, recursive } => {
                directory(self.errors, &dir).map(|dir| Object::Directory { dir, recursive })
            }
            ObjectDoc::Pattern => {
                let advice = match effect {
                    Effect::Allow => "what it would allow falls to the default posture".to_owned(),
                    Effect::Audit => "nothing is reported for it; name paths or directories".to_owned(),
                    Effect::Block => "nothing is blocked by it; name paths or directories".to_owned(),
                };
                return self.gap(place.field, GapReason::Pattern, advice);
            }
        };
        let conditions = [
            allowed_args.map(|place| (place, GapReason::AllowedArgs)),
            pts.filter(|pts| !pts.value).map(|pts| (pts.place, GapReason::Terminal)),
        ];
        let mut unchecked = false;
        for (place, reason) in conditions.into_iter().flatten() {
            unchecked = true;
            let advice = match effect {
                Effect::Allow => {
                    "the rule allows nothing, and what it would allow falls to the default posture"
                }
                Effect::Audit => "the rule is enforced without it, and reports more than it says",
                Effect::Block => "the rule is enforced without it, and blocks more than it says",
            };
            self.gap(place.field, reason, advice.to_owned());
        }
        if unchecked && effect == Effect::Allow {
            return;
        }
        let Some(object) = object else { return };
        self.rules.push(PolicyRule {
            class,
            sources,
            object,
            conditions: Conditions { read_only, owner_only, ..Conditions::default() },
            origin: Origin {
                policy: self.id.clone(),
                rule: place.field,
                severity: inherited.severity,
                tags: inherited.tags.to_vec(),
                message: inherited.message.to_owned(),
                action: effect,
            },
        });
    }
}

/// What holds for a rule: of itself, its section and its spec, the nearest that says something.
struct Inherited<'a> {
    severity: u8,
    tags: &'a [String],
    message: &'a str,
    action: Option<&'a str>,
}

impl Inherited<'_> {
    fn action(&self) -> Option<Effect> {
        self.action.and_then(effect)
    }
}

fn inherit(metas: [&MetaDoc; 3]) -> Inherited<'_> {
    Inherited {
        severity: metas
            .iter()
            .find_map(|meta| meta.severity.as_ref())
            .and_then(|severity| u8::try_from(severity.value).ok())
            .unwrap_or(DEFAULT_SEVERITY),
        tags: metas.iter().map(|meta| &*meta.tags).find(|tags| !tags.is_empty()).unwrap_or_default(),
        message: metas
            .iter()
            .find_map(|meta| meta.message.as_deref().filter(|message| !message.is_empty()))
            .unwrap_or_default(),
        action: metas
            .iter()
            .filter_map(|meta| meta.action.as_ref())
            .map(|a| &*a.value)
            .find(|a| !a.is_empty()),
    }
}

fn effect(text: &str) -> Option<Effect> {
    match text {
        "Allow" | "allow" => Some(Effect::Allow),
        "Audit" | "audit" => Some(Effect::Audit),
        "Block" | "block" => Some(Effect::Block),
        _ => None,
    }
}

/// An action where one is written; an empty one says nothing. Lower case is taken where `lower_case` says so, which
/// is at the level of the spec alone, as KubeArmor has it.
pub(super) fn action(
    errors: &Errors<'_>,
    text: Option<&Located<String>>,
    lower_case: bool,
) -> Option<Effect> {
    let text = text.filter(|text| !text.value.is_empty())?;
    let is_lower = text.value.starts_with(|c: char| c.is_ascii_lowercase());
    let found = effect(&text.value).filter(|_| lower_case || !is_lower);
    if found.is_none() {
        let help = suggest(&text.value, ["Allow", "Audit", "Block"]);
        errors.add(&text.place, format!("`{}` is no action", shown(&text.value)), Some(help));
    }
    found
}

pub(super) fn severity(errors: &Errors<'_>, severity: Option<&Located<i64>>) {
    if let Some(severity) = severity
        && !(1..=10).contains(&severity.value)
    {
        let help = "1 is the least, 10 the most severe".to_owned();
        errors.add(
            &severity.place,
            format!("a severity of {} is not within 1 to 10", severity.value),
            Some(help),
        );
    }
}

/// A path that names a file: it does not end in `/`.
pub(super) fn file_path(errors: &Errors<'_>, text: &Located<String>) -> Option<AbsPath> {
    if text.value.starts_with('/') && text.value.ends_with('/') {
        let message = format!("`{}` is a directory", shown(&text.value));
        let help = "use `matchDirectories`, or leave the last `/` out".to_owned();
        errors.add(&text.place, message, Some(help));
        return None;
    }
    path(errors, text)
}

fn directory(errors: &Errors<'_>, text: &Located<String>) -> Option<AbsPath> {
    if text.value.starts_with('/') && !text.value.ends_with('/') {
        let message = format!("the directory `{}` does not end in `/`", shown(&text.value));
        let help = format!("write `{}/`, or use `matchPaths` for a file", shown(&text.value));
        errors.add(&text.place, message, Some(help));
        return None;
    }
    path(errors, text)
}

fn path(errors: &Errors<'_>, text: &Located<String>) -> Option<AbsPath> {
    let error = match AbsPath::new(&text.value) {
        Ok(path) => return Some(path),
        Err(error) => error,
    };
    let help = match error {
        PathError::Empty | PathError::Relative => Some("write the path from the root of the container on"),
        PathError::ParentComponent => Some("write the path that is meant, without `..`"),
        PathError::ZeroByte | PathError::TooLong(_) => None,
    };
    let message =
        if text.value.is_empty() { error.to_string() } else { format!("{error}: `{}`", shown(&text.value)) };
    errors.add(&text.place, message, help.map(str::to_owned));
    None
}

fn base_name(errors: &Errors<'_>, name: &Located<String>) -> Option<String> {
    let text = &name.value;
    if text.is_empty() || text.contains(['/', '\0']) || matches!(&**text, "." | "..") {
        let message = format!("`{}` is no name of an executable", shown(text));
        errors.add(&name.place, message, Some("write the last part of its path, such as `sh`".to_owned()));
        return None;
    }
    Some(text.clone())
}
