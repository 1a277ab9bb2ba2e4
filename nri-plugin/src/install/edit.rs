//! One key of a TOML file, set and unset again, with every other byte left as it is.
//!
//! The file is read for where its parts are, and the text is edited there: a document that is written anew loses line
//! ends. Whatever the edit, the result is read again, and counts only if its data differ in that key alone.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toml_edit::{Array, Document, Item};

/// Why a file cannot be edited.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EditError {
    /// It is not TOML.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What the parser said.
        message: String,
    },
    /// The key is written in a way that is not edited here.
    #[error("`{0}` is written in a way that is not edited here: set it by hand")]
    Unsupported(String),
}

/// A text of TOML, or a template of it: then lines with `{{` are taken for comments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toml {
    text: String,
    template: bool,
}

/// What was done to a file. All texts are as they are in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// The key, with the tables that it is in.
    pub key: Vec<String>,
    /// The value now.
    pub value: String,
    /// The value before, or what was added.
    pub before: Before,
}

/// How a key was before its edit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Before {
    /// It had this value.
    Value(String),
    /// It was not there; this text was added.
    Added(String),
}

/// What became of an edit when it was undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// The file is as it was before.
    Restored,
    /// The key is not there any more.
    Gone,
    /// Somebody has given it another value since; it is left.
    Changed,
    /// It has our value still, and cannot be taken out without touching something else.
    Stuck,
}

impl Toml {
    /// Reads a file; `template`: of Go's `text/template`.
    ///
    /// # Errors
    /// When it is no TOML.
    pub fn new(text: String, template: bool) -> Result<Self, EditError> {
        let toml = Self { text, template };
        toml.parse().map(|_| ())?;
        Ok(toml)
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its data; an empty object where there are none.
    #[must_use]
    pub fn data(&self) -> Value {
        // it was parsed before, so it is TOML
        toml_edit::de::from_str(&self.visible()).unwrap_or_else(|_| Value::Object(Map::new()))
    }

    /// The text without lines of a template, each byte at its place.
    fn visible(&self) -> String {
        if !self.template {
            return self.text.clone();
        }
        let mask = |line: &str| match line.contains("{{") {
            true => line.bytes().map(|byte| if byte == b'\n' { '\n' } else { '#' }).collect(),
            false => line.to_owned(),
        };
        self.text.split_inclusive('\n').map(mask).collect()
    }

    fn parse(&self) -> Result<Document<String>, EditError> {
        let text = self.visible();
        Document::parse(text.clone()).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.rsplit('\n').next().unwrap_or_default();
            EditError::Syntax {
                line: before.matches('\n').count() + 1,
                column: line.chars().count() + 1,
                message: error.message().replace('\n', "; "),
            }
        })
    }

    /// The text of the value of a key, as it is written.
    fn written(&self, key: &[&str]) -> Option<(std::ops::Range<usize>, String)> {
        let document = self.parse().ok()?;
        let item = key.iter().try_fold(document.as_item(), |item, key| item.get(key))?;
        let span = item.as_value()?.span()?;
        Some((span.clone(), self.text.get(span)?.to_owned()))
    }

    /// Sets a key to `value`, which is TOML; `None`: it has that value already.
    ///
    /// # Errors
    /// When it is written in a way that is not edited here.
    pub fn set(&mut self, key: &[&str], value: &str) -> Result<Option<Edit>, EditError> {
        let unsupported = || EditError::Unsupported(dotted(key));
        let wanted_value: Value = toml_edit::de::from_str::<Value>(&format!("v = {value}"))
            .ok()
            .and_then(|data| data.get("v").cloned())
            .ok_or_else(unsupported)?;
        let mut wanted = self.data();
        if key.iter().try_fold(&wanted, |data, key| data.get(key)) == Some(&wanted_value) {
            return Ok(None);
        }
        put(&mut wanted, key, wanted_value).ok_or_else(unsupported)?;
        let edit = |before| Edit {
            key: key.iter().map(|key| (*key).to_owned()).collect(),
            value: value.to_owned(),
            before,
        };
        if let Some((span, before)) = self.written(key) {
            self.replace(span, value, |data| *data == wanted).ok_or_else(unsupported)?;
            return Ok(Some(edit(Before::Value(before))));
        }
        for (at, added) in self.places(key, value) {
            if self.replace(at..at, &added, |data| *data == wanted).is_some() {
                return Ok(Some(edit(Before::Added(added))));
            }
        }
        Err(unsupported())
    }

    /// Takes a text out of an array of texts, if it is there.
    ///
    /// # Errors
    /// When the array is written in a way that is not edited here.
    pub fn without(&mut self, key: &[&str], element: &str) -> Result<Option<Edit>, EditError> {
        let Some((_, written)) = self.written(key) else { return Ok(None) };
        let Ok(mut array) = written.parse::<toml_edit::Value>() else { return Ok(None) };
        let Some(array) = array.as_array_mut() else { return Ok(None) };
        let before = array.len();
        Array::retain(array, |value| value.as_str() != Some(element));
        if array.len() == before {
            return Ok(None);
        }
        let text = array.to_string().replace("\r\n", "\n").replace('\n', self.line_end());
        self.set(key, text.trim())
    }

    /// Undoes an edit, and nothing else.
    pub fn undo(&mut self, edit: &Edit) -> Undone {
        let key: Vec<&str> = edit.key.iter().map(String::as_str).collect();
        let Some((span, now)) = self.written(&key) else { return Undone::Gone };
        if now != edit.value {
            return Undone::Changed;
        }
        let data = self.data();
        match &edit.before {
            Before::Value(before) => {
                let others = without(&data, &key, 0);
                match self.replace(span, before, |data| without(data, &key, 0) == others) {
                    Some(()) => Undone::Restored,
                    None => Undone::Stuck,
                }
            }
            Before::Added(added) => {
                // With the table that came with it, unless others have put something into that; else its line.
                let whole =
                    self.text.find(added.as_str()).filter(|at| self.text.rfind(added.as_str()) == Some(*at));
                let whole = whole.map(|at| at..at + added.len());
                let start =
                    self.text.get(..span.start).and_then(|text| text.rfind('\n')).map_or(0, |at| at + 1);
                let end =
                    self.text.get(span.end..).and_then(|text| text.find('\n')).map(|at| span.end + at + 1);
                let line = start..end.unwrap_or(self.text.len());
                for span in whole.into_iter().chain([line]) {
                    let left = |now: &Value| (0..key.len()).any(|depth| *now == without(&data, &key, depth));
                    if self.replace(span, "", left).is_some() {
                        return Undone::Restored;
                    }
                }
                Undone::Stuck
            }
        }
    }

    /// Puts a text in the place of another one, if the result is as it should be.
    fn replace(
        &mut self,
        span: std::ops::Range<usize>,
        text: &str,
        good: impl Fn(&Value) -> bool,
    ) -> Option<()> {
        let mut edited = self.text.get(..span.start)?.to_owned();
        edited.push_str(text);
        edited.push_str(self.text.get(span.end..)?);
        let edited = Self::new(edited, self.template).ok()?;
        good(&edited.data()).then(|| *self = edited)
    }

    fn line_end(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }

    /// Where a key could be added, and what.
    fn places(&self, key: &[&str], value: &str) -> Vec<(usize, String)> {
        let mut places = Vec::new();
        let Some((name, tables)) = key.split_last() else { return places };
        let (name, end) = (quoted(name), self.line_end());
        let document = self.parse().ok();
        let table = document
            .as_ref()
            .and_then(|document| tables.iter().try_fold(document.as_item(), |item, table| item.get(table)));
        let span = table.and_then(Item::span);
        let written = span.clone().and_then(|span| self.text.get(span)).unwrap_or_default();
        if let Some(span) = span {
            if written.starts_with('[') {
                let before = self.text.get(..span.start).unwrap_or_default();
                let indent = format!("{}  ", before.rsplit('\n').next().unwrap_or_default());
                let rest = self.text.get(span.end..).unwrap_or_default();
                places.push(match rest.find('\n') {
                    Some(at) => (span.end + at + 1, format!("{indent}{name} = {value}{end}")),
                    None => (self.text.len(), format!("{end}{indent}{name} = {value}{end}")),
                });
            } else if written.starts_with('{') {
                let comma = if table.and_then(Item::as_inline_table).is_some_and(|table| table.is_empty()) {
                    " "
                } else {
                    ","
                };
                places.push((span.start + 1, format!(" {name} = {value}{comma}")));
            }
        }
        let mut added = String::new();
        if !self.text.is_empty() {
            added.push_str(if self.text.ends_with('\n') { "" } else { end });
            added.push_str(if tables.is_empty() { "" } else { end });
        }
        if !tables.is_empty() {
            let header: Vec<String> = tables.iter().map(|table| quoted(table)).collect();
            added.push_str(&format!("[{}]{end}  ", header.join(".")));
        }
        added.push_str(&format!("{name} = {value}{end}"));
        places.push((self.text.len(), added));
        places
    }
}

/// A key as TOML has it.
fn quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !key.is_empty() && key.chars().all(bare) {
        true => key.to_owned(),
        false => Value::from(key).to_string(), // JSON's strings are TOML's
    }
}

/// A key for people.
fn dotted(key: &[&str]) -> String {
    key.iter().map(|key| quoted(key)).collect::<Vec<_>>().join(".")
}

fn put(data: &mut Value, key: &[&str], value: Value) -> Option<()> {
    let (last, tables) = key.split_last()?;
    let mut at = data;
    for table in tables {
        at = at.as_object_mut()?.entry(*table).or_insert_with(|| Value::Object(Map::new()));
    }
    at.as_object_mut()?.insert((*last).to_owned(), value);
    Some(())
}

/// The data without a key, and without as many of the tables around it as are empty then, `depth` at most.
fn without(data: &Value, key: &[&str], depth: usize) -> Value {
    let mut data = data.clone();
    for level in 0..=depth {
        let Some((last, tables)) = key.get(..key.len().saturating_sub(level)).and_then(<[_]>::split_last)
        else {
            break;
        };
        let parent = tables.iter().try_fold(&mut data, |at, table| at.get_mut(table));
        let Some(parent) = parent.and_then(Value::as_object_mut) else { break };
        let empty = parent.get(*last).and_then(Value::as_object).is_some_and(Map::is_empty);
        if level == 0 || empty {
            parent.remove(*last);
        }
    }
    data
}

#[cfg(test)]
mod tests;
