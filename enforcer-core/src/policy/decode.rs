//! Reading a YAML tree field by field. Every reader takes an error down and answers `None`, so that one pass finds
//! all the errors of a document.

use std::collections::BTreeMap;

use super::error::{Errors, Located, Place, nearest, shown, suggest};
use super::yaml::{Key, Node, Plain, Value};

/// A node on the way down from the root.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    pub(super) errors: &'a Errors<'a>,
    node: &'a Node,
    field: String,
}

/// A mapping whose fields are taken one by one; what is left at the end is unknown.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    cursor: Cursor<'a>,
    entries: &'a [(Key, Node)],
    known: Vec<&'static str>,
}

impl<'a> Cursor<'a> {
    pub(super) fn root(errors: &'a Errors<'a>, node: &'a Node) -> Self {
        Self { errors, node, field: String::new() }
    }

    pub(super) fn place(&self) -> Place {
        Place { line: self.node.line, column: self.node.column, field: self.field.clone() }
    }

    pub(super) fn error(&self, message: impl Into<String>, help: Option<String>) {
        self.errors.add(&self.place(), message, help);
    }

    pub(super) fn is_null(&self) -> bool {
        self.node.is_null()
    }

    fn below(&self, key: &str, node: &'a Node) -> Self {
        let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        let field = match (self.field.is_empty(), plain) {
            (true, _) => shown(key),
            (false, true) => format!("{}.{}", self.field, shown(key)),
            (false, false) => format!("{}[\"{}\"]", self.field, shown(key)),
        };
        Self { errors: self.errors, node, field }
    }

    fn expected(&self, what: &str, help: Option<String>) {
        self.error(format!("expected {what}, found {}", self.node.what()), help);
    }

    /// Takes down every key that stands twice in one mapping, in the whole subtree: of two values one would silently
    /// lose.
    pub(super) fn refuse_duplicate_keys(&self) {
        match &self.node.value {
            Value::Scalar { .. } => {}
            Value::Sequence(items) => items.iter().enumerate().for_each(|(index, node)| {
                let field = format!("{}[{index}]", self.field);
                Self { errors: self.errors, node, field }.refuse_duplicate_keys();
            }),
            Value::Mapping(entries) => {
                self.refuse_duplicate_keys_here();
                entries.iter().for_each(|(key, node)| self.below(&key.text, node).refuse_duplicate_keys());
            }
        }
    }

    /// The same for this mapping alone.
    pub(super) fn refuse_duplicate_keys_here(&self) {
        let Value::Mapping(entries) = &self.node.value else { return };
        let mut first = BTreeMap::new();
        for (key, node) in entries.iter() {
            if let Some(line) = first.insert(&*key.text, key.line) {
                let field = self.below(&key.text, node).field;
                let place = Place { line: key.line, column: key.column, field };
                let message = format!("`{}` is already set on line {line}", shown(&key.text));
                self.errors.add(&place, message, Some("leave one of the two out".to_owned()));
            }
        }
    }

    pub(super) fn fields(self) -> Option<Fields<'a>> {
        match &self.node.value {
            Value::Mapping(entries) => Some(Fields { entries, cursor: self, known: Vec::new() }),
            Value::Scalar { .. } | Value::Sequence(_) => {
                self.expected("a mapping", None);
                None
            }
        }
    }

    /// The fields, without an error where there are none.
    pub(super) fn fields_quietly(self) -> Option<Fields<'a>> {
        matches!(self.node.value, Value::Mapping(_)).then(|| self.fields()).flatten()
    }

    /// Whether this is that very text.
    pub(super) fn is_text(&self, wanted: &str) -> bool {
        matches!(&self.node.value, Value::Scalar { text, .. } if **text == *wanted)
    }

    /// The same node with errors of its own.
    pub(super) fn with_errors<'b>(&self, errors: &'b Errors<'b>) -> Cursor<'b>
    where
        'a: 'b,
    {
        Cursor { errors, node: self.node, field: self.field.clone() }
    }

    /// The entries of a mapping with free keys.
    pub(super) fn entries(&self) -> Vec<(Located<String>, Cursor<'a>)> {
        match &self.node.value {
            Value::Mapping(entries) => entries
                .iter()
                .map(|(key, node)| {
                    let below = self.below(&key.text, node);
                    let place = Place { line: key.line, column: key.column, field: below.field.clone() };
                    (Located { value: key.text.to_string(), place }, below)
                })
                .collect(),
            Value::Scalar { .. } | Value::Sequence(_) => {
                self.expected("a mapping", None);
                Vec::new()
            }
        }
    }

    pub(super) fn items(&self) -> Vec<Cursor<'a>> {
        match &self.node.value {
            Value::Sequence(items) => items
                .iter()
                .enumerate()
                .map(|(index, node)| Self {
                    errors: self.errors,
                    node,
                    field: format!("{}[{index}]", self.field),
                })
                .collect(),
            Value::Scalar { .. } | Value::Mapping(_) => {
                self.expected("a list", Some("start each item with `- `".to_owned()));
                Vec::new()
            }
        }
    }

    pub(super) fn text(&self) -> Option<Located<String>> {
        match &self.node.value {
            Value::Scalar { text, plain } if !plain || Plain::of(text) == Plain::Text => {
                Some(Located { value: text.to_string(), place: self.place() })
            }
            Value::Scalar { text, .. } => {
                let help = match Plain::of(text) {
                    Plain::Null => "write the text, or `\"\"` for an empty one".to_owned(),
                    _ => format!("put it in quotes: `\"{}\"`", shown(text)),
                };
                self.expected("a string", Some(help));
                None
            }
            Value::Sequence(_) | Value::Mapping(_) => {
                let help = "brackets and braces that are meant as text go in quotes".to_owned();
                self.expected("a string", Some(help));
                None
            }
        }
    }

    /// A text, or a number as it is written.
    pub(super) fn text_or_number(&self) -> Option<Located<String>> {
        match &self.node.value {
            Value::Scalar { text, plain: true } if text.parse::<i64>().is_ok() => {
                Some(Located { value: text.to_string(), place: self.place() })
            }
            _ => self.text(),
        }
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::Sequence(_))
    }

    pub(super) fn is_empty_list(&self) -> bool {
        matches!(&self.node.value, Value::Sequence(items) if items.is_empty())
    }

    pub(super) fn texts(&self) -> Vec<Located<String>> {
        self.items().iter().filter_map(Cursor::text).collect()
    }

    pub(super) fn flag(&self) -> Option<Located<bool>> {
        let value = match &self.node.value {
            Value::Scalar { text, plain: true } => match &**text {
                "true" | "True" | "TRUE" => Some(true),
                "false" | "False" | "FALSE" => Some(false),
                _ => None,
            },
            _ => None,
        };
        if value.is_none() {
            self.expected("`true` or `false`", Some("write `true` or `false`, without quotes".to_owned()));
        }
        value.map(|value| Located { value, place: self.place() })
    }

    /// A whole number of 64 bits, in any base; a negative one is what the kernel gets of it.
    pub(super) fn integer(&self) -> Option<Located<u64>> {
        let value = match &self.node.value {
            Value::Scalar { text, .. } => integer(text),
            Value::Sequence(_) | Value::Mapping(_) => None,
        };
        if value.is_none() {
            self.expected("a whole number of at most 64 bits", Some("write `38`, `0x26` or `-1`".to_owned()));
        }
        value.map(|value| Located { value, place: self.place() })
    }

    pub(super) fn number(&self) -> Option<Located<i64>> {
        let value = match &self.node.value {
            Value::Scalar { text, plain: true } => text.parse().ok(),
            _ => None,
        };
        if value.is_none() {
            self.expected("a whole number", None);
        }
        value.map(|value| Located { value, place: self.place() })
    }
}

fn integer(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix('-') {
        let magnitude: i64 =
            digits.parse().ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit()))?;
        return Some(magnitude.wrapping_neg().cast_unsigned());
    }
    let (digits, radix) = match text.get(..2) {
        Some("0x" | "0X") => (text.get(2..)?, 16),
        Some("0o") => (text.get(2..)?, 8),
        Some("0b") => (text.get(2..)?, 2),
        _ => (text, 10),
    };
    u64::from_str_radix(digits, radix).ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_hexdigit()))
}

impl<'a> Fields<'a> {
    pub(super) fn cursor(&self) -> &Cursor<'a> {
        &self.cursor
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the field is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, _)| &*key.text == name)
    }

    /// The field's value, if the field is there. The last of two, which are an error anyway.
    pub(super) fn get(&mut self, name: &'static str) -> Option<Cursor<'a>> {
        self.known.push(name);
        let (_, node) = self.entries.iter().rev().find(|(key, _)| &*key.text == name)?;
        Some(self.cursor.below(name, node))
    }

    /// The same of a field that may stand there without a value, which Kubernetes takes for its absence.
    pub(super) fn get_unless_null(&mut self, name: &'static str) -> Option<Cursor<'a>> {
        self.get(name).filter(|cursor| !cursor.is_null())
    }

    /// The field's value; its absence is an error.
    pub(super) fn require(&mut self, name: &'static str, help: &str) -> Option<Cursor<'a>> {
        let found = self.get(name);
        if found.is_none() {
            self.cursor.error(format!("`{name}` is missing"), Some(help.to_owned()));
        }
        found
    }

    /// Takes down what nobody asked for.
    pub(super) fn finish(self) {
        self.finish_with(None);
    }

    /// The same, with help for a name that is near none of the known ones.
    pub(super) fn finish_with(self, otherwise: Option<&str>) {
        for (key, node) in self.entries {
            if self.known.contains(&&*key.text) {
                continue;
            }
            let known = self.known.iter().copied();
            let help = match (&*key.text, otherwise) {
                ("<<", _) => {
                    "merge keys are not read; write the fields out, or use an alias for a whole value"
                        .to_owned()
                }
                (given, Some(otherwise)) if nearest(given, known.clone()).is_none() => otherwise.to_owned(),
                (given, _) => suggest(given, known),
            };
            let field = self.cursor.below(&key.text, node).field;
            let place = Place { line: key.line, column: key.column, field };
            self.cursor.errors.add(&place, format!("unknown field `{}`", shown(&key.text)), Some(help));
        }
    }
}
