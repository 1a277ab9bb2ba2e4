//! `key=value` of a record.

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'t> {
    /// Its name.
    pub key: &'t str,
    /// What it holds, without quotes.
    pub value: &'t str,
    /// Whether there were quotes.
    pub quoted: bool,
}

impl Field<'_> {
    /// A name as the kernel writes it: as it is, in quotes; or in hexadecimal, without. (`(null)` is neither.)
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let upper = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
        let hexadecimal = !self.quoted
            && !self.value.is_empty()
            && self.value.len().is_multiple_of(2)
            && self.value.as_bytes().iter().all(upper);
        if !hexadecimal {
            return self.value.as_bytes().to_vec();
        }
        let pair = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        self.value.as_bytes().chunks(2).filter_map(pair).collect()
    }
}

/// `key=value` with spaces between; in quotes a value may contain spaces. A quote that is not closed ends the fields.
pub fn fields(text: &str) -> impl Iterator<Item = Field<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start();
            let (key, after) = rest.split_once('=')?;
            // a word without `=`, such as the record's number
            if let Some((at, space)) = key.char_indices().rev().find(|(_, char)| char.is_whitespace()) {
                rest = rest.get(at + space.len_utf8()..)?;
                continue;
            }
            let quoted = after.strip_prefix('"');
            let (value, after) = match quoted {
                Some(text) => text.split_once('"')?,
                None => after.split_once(char::is_whitespace).unwrap_or((after, "")),
            };
            rest = after;
            return Some(Field { key, value, quoted: quoted.is_some() });
        }
    })
}
