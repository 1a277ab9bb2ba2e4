//! JSON objects by hand: a derive would be a procedural macro, which a static build cannot have.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// An object with its keys; whoever reads takes out what he knows.
pub(crate) struct Object(Map<String, Value>);

impl Object {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(object)) => Ok(Self(object)),
            Ok(_) => Err("it is no JSON object".into()),
            Err(error) => Err(format!("it is no JSON: {error}")),
        }
    }

    /// Whatever it is; `None` where the key is absent or null.
    pub(crate) fn any(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    /// A text; `None` where the key is absent or null.
    pub(crate) fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("`{key}` is no text")),
        }
    }

    /// A whole number from 0 on; `None` where the key is absent or null.
    pub(crate) fn number(&mut self, key: &str) -> Result<Option<u64>, String> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                value.as_u64().map(Some).ok_or_else(|| format!("`{key}` is no whole number from 0 on"))
            }
        }
    }

    /// A list of texts; `None` where the key is absent or null.
    pub(crate) fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>, String> {
        let wrong = || format!("`{key}` is no list of texts");
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(list)) => {
                let text = |value| if let Value::String(text) = value { Ok(text) } else { Err(wrong()) };
                list.into_iter().map(text).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(wrong()),
        }
    }

    /// Texts by name; none where the key is absent or null.
    pub(crate) fn named_texts(&mut self, key: &str) -> Result<BTreeMap<String, String>, String> {
        let wrong = || format!("`{key}` is no object of texts");
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(Value::Object(named)) => {
                let text = |(name, value)| {
                    if let Value::String(text) = value { Ok((name, text)) } else { Err(wrong()) }
                };
                named.into_iter().map(text).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    /// An object; `None` where the key is absent or something else.
    pub(crate) fn object(&mut self, key: &str) -> Option<Self> {
        match self.0.remove(key) {
            Some(Value::Object(object)) => Some(Self(object)),
            _ => None,
        }
    }

    /// A key that nobody has taken out.
    pub(crate) fn unknown(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }
}
