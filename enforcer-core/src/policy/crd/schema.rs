//! Pieces of structural schemas.

use serde_json::{Map, Value, json};

use crate::policy::inherit::{ACTIONS, SEVERITIES};
use crate::policy::wire::{MAX_MESSAGE, MAX_TAGS};
use crate::posture::Effect;

/// A mapping with these fields.
pub(super) fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>, required: &[&str]) -> Value {
    let fields: Map<String, Value> =
        fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    let mut found = json!({"type": "object", "properties": fields});
    if !required.is_empty() {
        set(&mut found, "required", json!(required));
    }
    found
}

/// The schema with one keyword more.
pub(super) fn with(mut schema: Value, keyword: &str, value: Value) -> Value {
    set(&mut schema, keyword, value);
    schema
}

fn set(schema: &mut Value, keyword: &str, value: Value) {
    if let Some(schema) = schema.as_object_mut() {
        schema.insert(keyword.to_owned(), value);
    }
}

/// The schema with a description.
pub(super) fn described(schema: Value, text: &str) -> Value {
    with(schema, "description", json!(text))
}

/// The schema with a rule over several fields.
pub(super) fn ruled(schema: Value, rule: &str, message: &str) -> Value {
    with(schema, "x-kubernetes-validations", json!([{"rule": rule, "message": message}]))
}

/// One of these words.
pub(super) fn words<'a>(names: impl IntoIterator<Item = &'a str>) -> Value {
    json!({"type": "string", "enum": names.into_iter().collect::<Vec<_>>()})
}

/// A list.
pub(super) fn texts(item: Value) -> Value {
    json!({"type": "array", "items": item})
}

/// A list of at least one item, and no more than this many.
pub(super) fn at_most(list: Value, most: Option<usize>) -> Value {
    let list = with(list, "minItems", json!(1));
    match most {
        Some(most) => with(list, "maxItems", json!(most)),
        None => list,
    }
}

/// A text that this expression matches.
pub(super) fn matching(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

/// `a|b|c`, for a regular expression; the names have no sign in them that means something there.
pub(super) fn either<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join("|")
}

/// `severity`, `tags`, `message` and `action`, which a rule takes from its section and a section from its spec. Actions
/// are also taken in lower case where `lower_case` says so.
pub(super) fn meta(can: impl Fn(Effect) -> bool, lower_case: bool) -> [(&'static str, Value); 4] {
    let actions = ACTIONS.iter().filter(|(effect, ..)| can(*effect));
    let actions = actions.flat_map(|(_, name, lower)| [Some(*name), lower_case.then_some(*lower)]);
    let actions = actions.flatten().chain([""]);
    let (least, most) = (SEVERITIES.start(), SEVERITIES.end());
    [
        (
            "action",
            described(
                words(actions),
                "What is done about a match; nothing said, or nothing in it, is inherited, and at last `Block`.",
            ),
        ),
        (
            "severity",
            json!({"type": "integer", "format": "int64", "minimum": least, "maximum": most, "description": "What alerts carry; 10 is the most severe."}),
        ),
        (
            "tags",
            json!({"type": "array", "maxItems": MAX_TAGS, "items": {"type": "string", "maxLength": MAX_MESSAGE}, "description": "What alerts carry."}),
        ),
        ("message", json!({"type": "string", "maxLength": MAX_MESSAGE, "description": "What alerts carry."})),
    ]
}
