//! What an API server does with an object: structural schemas, unknown fields refused as `kubectl` asks for, rules of CEL.

use cel::{Context, Program};
use regex::Regex;
use serde_json::Value;

/// What is wrong with a value, each with its field.
pub(super) fn validate(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Walk { field: String::new(), found: &mut found }.value(schema, value, true);
    found
}

struct Walk<'a> {
    field: String,
    found: &'a mut Vec<String>,
}

/// Every keyword that this knows; another one in a schema is an error of the test.
const KEYWORDS: [&str; 22] = [
    "additionalProperties",
    "allOf",
    "anyOf",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minimum",
    "multipleOf",
    "not",
    "oneOf",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

impl Walk<'_> {
    fn wrong(&mut self, message: impl std::fmt::Display) {
        self.found.push(format!("{}: {message}", self.field));
    }

    fn below(&mut self, field: &str, schema: &Value, value: &Value, structural: bool) {
        let field = format!("{}{field}", self.field);
        Walk { field, found: self.found }.value(schema, value, structural);
    }

    /// `structural` is false below `anyOf` and the like, where no field is declared.
    fn value(&mut self, schema: &Value, value: &Value, structural: bool) {
        for keyword in schema.as_object().unwrap().keys() {
            let known = KEYWORDS.contains(&&**keyword) || keyword.starts_with("x-kubernetes-list-");
            assert!(known, "unknown keyword {keyword}");
        }
        let free = schema.get("x-kubernetes-preserve-unknown-fields").is_some();
        let either = schema.get("x-kubernetes-int-or-string").is_some();
        match schema.get("type").and_then(Value::as_str) {
            Some(wanted) if wanted != kind(value) => return self.wrong(format!("must be of type {wanted}")),
            None if either && !matches!(kind(value), "integer" | "string") => {
                return self.wrong("integer or string");
            }
            None if structural && !free && !either => panic!("{}: no type in the schema", self.field),
            _ => {}
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array)
            && !words.contains(value)
        {
            self.wrong(format!("{value} is not supported"));
        }
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        if let Some(number) = value.as_f64() {
            let outside = bound("minimum").is_some_and(|least| number < least)
                || bound("maximum").is_some_and(|most| number > most)
                || bound("multipleOf").is_some_and(|of| number % of != 0.0);
            if outside {
                self.wrong(format!("{number} is out of bounds"));
            }
        }
        let count = |name: &str| {
            schema.get(name).and_then(Value::as_u64).map(|count| usize::try_from(count).unwrap())
        };
        if let Some(text) = value.as_str() {
            if count("maxLength").is_some_and(|most| text.chars().count() > most) {
                self.wrong("too long");
            }
            let pattern = schema.get("pattern").and_then(Value::as_str);
            if pattern.is_some_and(|pattern| !Regex::new(pattern).unwrap().is_match(text)) {
                self.wrong(format!("`{text}` does not match"));
            }
        }
        if let Some(items) = value.as_array() {
            if count("minItems").is_some_and(|least| items.len() < least)
                || count("maxItems").is_some_and(|most| items.len() > most)
            {
                self.wrong(format!("{} items", items.len()));
            }
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    self.below(&format!("[{index}]"), schema, item, structural);
                }
            }
        }
        self.fields(schema, value, structural && !free);
        self.junctors(schema, value);
        self.rules(schema, value);
    }

    fn fields(&mut self, schema: &Value, value: &Value, closed: bool) {
        let Some(fields) = value.as_object() else { return };
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            if !fields.contains_key(name.as_str().unwrap()) {
                self.wrong(format!("{name} is required"));
            }
        }
        let bare = schema.get("properties").is_none() && schema.get("additionalProperties").is_none();
        for (name, value) in fields {
            let known = schema.get("properties").and_then(|known| known.get(name));
            match known.or_else(|| schema.get("additionalProperties")) {
                Some(schema) => self.below(
                    &format!(".{name}"),
                    schema,
                    value,
                    closed || known.is_some() && schema.get("type").is_some(),
                ),
                // `metadata`, which the server checks by itself
                None if closed && !(bare && self.field == ".metadata") => {
                    self.wrong(format!("unknown field `{name}`"))
                }
                None => {}
            }
        }
    }

    fn junctors(&mut self, schema: &Value, value: &Value) {
        let holds = |schema: &Value| {
            let mut found = Vec::new();
            Walk { field: String::new(), found: &mut found }.value(schema, value, false);
            found.is_empty()
        };
        let holding = |name: &str| {
            let schemas = schema.get(name)?.as_array()?;
            Some((schemas.iter().filter(|schema| holds(schema)).count(), schemas.len()))
        };
        if holding("anyOf").is_some_and(|(held, _)| held == 0) {
            self.wrong("none of anyOf");
        }
        if holding("oneOf").is_some_and(|(held, _)| held != 1) {
            self.wrong("not one of oneOf");
        }
        if holding("allOf").is_some_and(|(held, all)| held != all) {
            self.wrong("not all of allOf");
        }
        if schema.get("not").is_some_and(holds) {
            self.wrong("what it must not be");
        }
    }

    fn rules(&mut self, schema: &Value, value: &Value) {
        for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
            let mut context = Context::default();
            context.add_variable("self", value).unwrap();
            let program = Program::compile(rule["rule"].as_str().unwrap()).unwrap();
            if program.execute(&context).unwrap() != cel::Value::Bool(true) {
                self.wrong(rule["message"].as_str().unwrap());
            }
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
