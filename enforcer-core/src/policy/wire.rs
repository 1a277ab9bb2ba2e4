//! Policy documents as they are written: the shape is known, the values are not yet judged.

use super::Kind;
use super::decode::{Cursor, Fields};
use super::error::{Located, Place, shown, suggest};
use super::names::API_VERSION;
use super::rules::{self, SectionDoc};

/// The longest message or tag, in bytes.
pub(super) const MAX_MESSAGE: usize = 1024;
/// The most tags of one rule, section or spec.
pub(super) const MAX_TAGS: usize = 32;

/// One policy.
#[derive(Debug)]
pub(super) struct PolicyDoc {
    pub(super) kind: Kind,
    pub(super) name: Located<String>,
    pub(super) namespace: Option<Located<String>>,
    pub(super) spec: SpecDoc,
}

#[derive(Debug)]
pub(super) struct SpecDoc {
    pub(super) place: Place,
    pub(super) selector: SelectorDoc,
    pub(super) sections: Vec<SectionDoc>,
    pub(super) meta: MetaDoc,
}

/// `selector` and `nodeSelector` alike; which fields may be there depends on the kind.
#[derive(Debug, Default)]
pub(super) struct SelectorDoc {
    pub(super) labels: Vec<(Located<String>, Located<String>)>,
    pub(super) expressions: Vec<ExpressionDoc>,
}

#[derive(Debug)]
pub(super) struct ExpressionDoc {
    pub(super) key: Located<String>,
    pub(super) operator: Located<String>,
    pub(super) values: Vec<Located<String>>,
}

/// What rule, section and spec have in common; the nearest that says something counts.
#[derive(Debug, Default)]
pub(super) struct MetaDoc {
    pub(super) severity: Option<Located<i64>>,
    pub(super) tags: Vec<String>,
    pub(super) message: Option<String>,
    pub(super) action: Option<Located<String>>,
}

/// The items of a document that is a `List`, as `kubectl get -o yaml` writes it; `None` for any other.
pub(super) fn list_items<'a>(root: &Cursor<'a>) -> Option<Vec<Cursor<'a>>> {
    let mut fields = root.clone().fields_quietly()?;
    let mut is = |name, wanted| fields.get(name).is_some_and(|cursor| cursor.is_text(wanted));
    if !(is("apiVersion", "v1") && is("kind", "List")) {
        return None;
    }
    root.refuse_duplicate_keys_here();
    fields.get("metadata");
    let items = fields.require("items", "a list has `items`").map(|cursor| cursor.items());
    fields.finish();
    Some(items.unwrap_or_default())
}

/// One policy. A wrong one is left out, with an error taken down.
pub(super) fn decode(root: Cursor<'_>) -> Option<PolicyDoc> {
    root.refuse_duplicate_keys();
    let mut fields = root.fields()?;
    let version = fields.require("apiVersion", &format!("write `apiVersion: {API_VERSION}`"));
    let kind = fields.require("kind", "write `kind: KubeArmorPolicy`");
    let version = version.and_then(|cursor| cursor.text());
    let kind = kind.and_then(|cursor| cursor.text()).and_then(|text| decode_kind(&fields, &text));
    let (version, kind) = (version?, kind?);
    check_version(&fields, &version);
    let metadata = fields.require("metadata", "a policy has `metadata` with a `name`");
    let spec = fields.require("spec", "a policy has a `spec` with a selector and rules");
    // What the cluster writes there is nothing a policy says.
    fields.get("status");
    fields.finish();

    let metadata = metadata.and_then(|metadata| decode_metadata(metadata, kind));
    let spec = spec.and_then(|spec| decode_spec(spec, kind));
    let (name, namespace) = metadata?;
    Some(PolicyDoc { kind, name, namespace, spec: spec? })
}

pub(super) fn check_version(fields: &Fields<'_>, version: &Located<String>) {
    if version.value != API_VERSION {
        let message = format!("`{}` is no known version", shown(&version.value));
        fields.cursor().errors.add(&version.place, message, Some(format!("write `{API_VERSION}`")));
    }
}

fn decode_kind(fields: &Fields<'_>, text: &Located<String>) -> Option<Kind> {
    let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == text.value);
    if known.is_none() {
        let help = match &*text.value {
            // Too much like the others to be called a slip of the pen.
            "KubeArmorNetworkPolicy" | "KubeArmorConfig" => "this kind is not read".to_owned(),
            "PolicyTest" => "policy tests stand in a directory of their own".to_owned(),
            other => suggest(other, Kind::ALL.map(Kind::as_str)),
        };
        fields.cursor().errors.add(
            &text.place,
            format!("`{}` is no kind of policy", shown(&text.value)),
            Some(help),
        );
    }
    known
}

pub(super) fn decode_metadata(
    cursor: Cursor<'_>,
    kind: Kind,
) -> Option<(Located<String>, Option<Located<String>>)> {
    let mut fields = cursor.fields()?;
    let name = fields.require("name", "give the policy a name").and_then(|cursor| cursor.text());
    // The API server takes the namespace off what lives in none.
    let namespace = fields.get("namespace").filter(|_| kind.namespaced());
    // What the cluster keeps beside the name; it says nothing about what is enforced.
    for kept in [
        "labels",
        "annotations",
        "uid",
        "resourceVersion",
        "generation",
        "generateName",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "finalizers",
        "managedFields",
        "ownerReferences",
        "selfLink",
    ] {
        fields.get(kept);
    }
    fields.finish();
    let namespace = match namespace {
        Some(cursor) => Some(cursor.text()?),
        None => None,
    };
    Some((name?, namespace))
}

fn decode_spec(cursor: Cursor<'_>, kind: Kind) -> Option<SpecDoc> {
    let place = cursor.place();
    let mut fields = cursor.fields()?;
    let meta = decode_meta(&mut fields);
    let selector = decode_selector(&mut fields, kind);
    let sections = rules::decode(&mut fields, kind);
    fields.finish();
    // Without its selector a policy is wrong already; the rest is still judged, to tell all that is.
    let selector = selector.unwrap_or_default();
    Some(SpecDoc { place, selector, sections, meta })
}

pub(super) fn decode_selector(fields: &mut Fields<'_>, kind: Kind) -> Option<SelectorDoc> {
    let (name, help) = match kind {
        Kind::KubeArmorPolicy | Kind::KubeArmorSeccompPolicy => {
            ("selector", "`selector: {}` selects every pod of the namespace")
        }
        Kind::KubeArmorClusterPolicy => ("selector", "`selector: {}` selects every pod of the cluster"),
        Kind::KubeArmorHostPolicy => ("nodeSelector", "`nodeSelector: {}` selects every node"),
    };
    let cursor = fields.require(name, help)?;
    if cursor.is_null() {
        cursor.error("the selector is empty", Some(help.to_owned()));
        return None;
    }
    let mut fields = cursor.fields()?;
    let labels = match kind {
        Kind::KubeArmorPolicy | Kind::KubeArmorHostPolicy | Kind::KubeArmorSeccompPolicy => {
            fields.get("matchLabels")
        }
        Kind::KubeArmorClusterPolicy => None,
    };
    let expressions = match kind {
        Kind::KubeArmorPolicy | Kind::KubeArmorClusterPolicy | Kind::KubeArmorSeccompPolicy => {
            fields.get_unless_null("matchExpressions")
        }
        Kind::KubeArmorHostPolicy => None,
    };
    let labelled = kind != Kind::KubeArmorClusterPolicy;
    fields.finish_with(labelled.then_some("labels go under `matchLabels`"));
    let labels = labels
        .map(|cursor| cursor.entries())
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.text()?)))
        .collect();
    let expressions = expressions
        .map(|cursor| cursor.items())
        .unwrap_or_default()
        .into_iter()
        .filter_map(decode_expression)
        .collect();
    Some(SelectorDoc { labels, expressions })
}

fn decode_expression(cursor: Cursor<'_>) -> Option<ExpressionDoc> {
    let mut fields = cursor.fields()?;
    let key = fields.require("key", "write `key: label`").and_then(|cursor| cursor.text());
    let operator = fields.require("operator", "write `operator: In` or `operator: NotIn`");
    let values = fields.require("values", "list the values");
    fields.finish();
    let values = values?;
    let texts = values.texts();
    if texts.is_empty() {
        values.error("no value to compare with", Some("list at least one".to_owned()));
    }
    Some(ExpressionDoc { key: key?, operator: operator?.text()?, values: texts })
}

pub(super) fn decode_meta(fields: &mut Fields<'_>) -> MetaDoc {
    MetaDoc {
        severity: fields.get_unless_null("severity").and_then(|cursor| cursor.number()),
        tags: fields.get_unless_null("tags").map(|cursor| decode_tags(&cursor)).unwrap_or_default(),
        message: fields.get_unless_null("message").and_then(|cursor| bounded(&cursor)),
        action: fields.get("action").and_then(|cursor| cursor.text()),
    }
}

fn decode_tags(cursor: &Cursor<'_>) -> Vec<String> {
    let items = cursor.items();
    if items.len() > MAX_TAGS {
        cursor.error(format!("{} tags, more than {MAX_TAGS}", items.len()), None);
    }
    items.iter().filter_map(bounded).collect()
}

/// A text that every rule below carries, and every alert: a large one would be there thousands of times.
fn bounded(cursor: &Cursor<'_>) -> Option<String> {
    let text = cursor.text()?.value;
    if text.len() > MAX_MESSAGE {
        cursor.error(format!("{} bytes, more than {MAX_MESSAGE}", text.len()), Some("write less".to_owned()));
        return None;
    }
    Some(text)
}
