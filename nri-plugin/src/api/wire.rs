//! What the API server's lists and watches are made of.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::trouble::Trouble;

/// The longest line of a watch, in bytes. An object of 1.5 MB may be several times that when signs of it are escaped.
pub(super) const MAX_LINE: usize = 16 << 20;

/// A page of a list. Of the items none has been looked into: one that cannot be decoded stops no other.
#[derive(Deserialize)]
pub(super) struct Page<'a> {
    #[serde(default)]
    pub(super) metadata: PageMetadata,
    /// `null` in an empty list of some servers; an answer without it is no list, and no proof of anything.
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PageMetadata {
    #[serde(rename = "resourceVersion")]
    pub(super) version: String,
    /// Where the next page begins; `None` or empty: this is the last one.
    #[serde(rename = "continue")]
    pub(super) more: Option<String>,
}

/// An event of a watch.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(rename = "type")]
    pub(super) sort: String,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

/// Makes lines of the parts that come.
#[derive(Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// The lines that this part ends, without the empty ones.
    pub(super) fn take(&mut self, part: &[u8]) -> Vec<Vec<u8>> {
        self.0.extend_from_slice(part);
        if !part.contains(&b'\n') {
            return Vec::new();
        }
        let mut lines: Vec<Vec<u8>> = self.0.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        self.0 = lines.pop().unwrap_or_default();
        lines.retain(|line| !line.is_empty());
        lines
    }

    /// Whether what has come of the next line may still become one.
    ///
    /// # Errors
    /// When it is longer than [`MAX_LINE`].
    pub(super) fn bounded(&self) -> Result<(), Trouble> {
        if self.0.len() > MAX_LINE { Err(Trouble::TooLong(MAX_LINE)) } else { Ok(()) }
    }
}

/// What came makes no sense.
pub(super) fn nonsense(what: &dyn std::fmt::Display) -> Trouble {
    Trouble::Nonsense(what.to_string())
}

/// A value of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_wherever_they_are_cut() {
        let text = b"one\n\ntwo\nthree";
        for at in 0..=text.len() {
            let (first, second) = text.split_at(at);
            let mut lines = Lines::default();
            let found: Vec<Vec<u8>> = [first, second].iter().flat_map(|part| lines.take(part)).collect();
            assert_eq!(found, [b"one", b"two"], "{at}");
            assert_eq!(lines.0, b"three");
        }
        let mut lines = Lines::default();
        assert_eq!(lines.take(&vec![b'x'; MAX_LINE]).len(), 0);
        assert_eq!(lines.bounded(), Ok(()));
        lines.take(b"x");
        assert_eq!(lines.bounded(), Err(Trouble::TooLong(MAX_LINE)));
    }

    #[test]
    fn a_list_may_be_empty_and_has_to_be_one() {
        let page = |text: &'static str| {
            serde_json::from_str::<Page<'static>>(text).map(|page| page.items.map_or(0, |items| items.len()))
        };
        assert_eq!(page(r#"{"metadata":{"resourceVersion":"1"},"items":null}"#).unwrap(), 0);
        assert_eq!(page(r#"{"items":[{},7]}"#).unwrap(), 2);
        assert!(page(r#"{"metadata":{}}"#).is_err());
    }
}
