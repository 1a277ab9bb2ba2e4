//! Paths and patterns as AppArmor spells them.
//!
//! | | here | AppArmor |
//! |---|---|---|
//! | a directory | `/d` | `/d/` |
//! | `*` after a `/`, at the end or before a `/` | the empty run, too | at least one byte |
//! | a name that starts with `**` | allowed | a path starts with `/` |
//! | a set | of bytes, never `/` | as written |
//!
//! So a pattern is first cut into forms that start with `/` and end in anything but `/`, then a `/` that may follow is
//! added where directories are meant. No byte of a path or pattern stands for itself in the text but letters, digits and
//! `/_.-`: all others are written as `\ooo`, which no reader takes for a sign.

use std::fmt::Write as _;

use crate::path::{AbsPath, ROTATING};
use crate::pattern::{ByteSet, Part, Pattern};
use crate::ruleset::Object;

/// The most forms that one pattern is cut into, and the most steps that this may take.
const MAX_FORMS: usize = 64;
const MAX_STEPS: usize = 4096;
/// The longest text of one form, in bytes.
const MAX_FORM_LEN: usize = 16 << 10;

/// The pattern is more than AppArmor rules can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooComplex;

/// What an object about files is in AppArmor's spelling, each to be put between quotes. With `directories`, the paths of
/// directories are meant as well. `None` for an object that is not about files.
pub(super) fn globs(object: &Object, directories: bool) -> Option<Result<Vec<String>, TooComplex>> {
    let slash = if directories { "{,/}" } else { "" };
    Some(Ok(match object {
        Object::Path(path) if path.is_root() => vec!["/".to_owned()],
        Object::Path(path) => vec![of_path(path) + slash],
        Object::BaseName(name) => vec![format!("/{{,**/}}{}{slash}", escape(name.as_bytes()))],
        Object::Directory { dir, recursive } => {
            let below = if *recursive { "**" } else { "*,*/" };
            vec![match dir.is_root() {
                true => format!("/{{,{below}}}"),
                false => {
                    let below = if *recursive { "/**" } else { "/*,/*/" };
                    format!("{}{{,/,{below}}}", of_path(dir))
                }
            }]
        }
        Object::Pattern(pattern) => return Some(of_pattern(pattern, slash)),
        _ => return None,
    }))
}

/// Where a pattern has a `**`, which stands for directories that no list can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deep {
    No,
    /// At the end: the pattern is about those directories themselves, too.
    AtEnd,
    Within,
}

/// The directories above an object: renaming one of them moves what the object is about.
pub(super) fn above(object: &Object) -> Result<(Vec<String>, Deep), TooComplex> {
    match object {
        Object::Path(path) | Object::Directory { dir: path, .. } => {
            let components: Vec<&[u8]> = path.components().collect();
            let depths = 1..components.len();
            let of = |depth| {
                let parents = components.iter().take(depth);
                parents.fold("/".to_owned(), |text, name| text + &component(name) + "/")
            };
            Ok((depths.map(of).collect(), Deep::No))
        }
        Object::Pattern(pattern) => {
            let mut forms = Forms::default();
            forms.heads(pattern.parts())?;
            let mut found = Vec::new();
            let each = forms.found.iter().map(|form| ends_of_components(&[], form, &mut found));
            let deep = each.max().unwrap_or(Deep::No);
            let mut texts = Vec::new();
            for parts in found {
                let text = text(&parts)?;
                if text != "/" && !texts.contains(&text) {
                    texts.push(text);
                }
                if texts.len() > MAX_FORMS {
                    return Err(TooComplex);
                }
            }
            Ok((texts, deep))
        }
        _ => Ok((Vec::new(), Deep::No)),
    }
}

/// Bytes that stand for themselves.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'_' | b'.' | b'-' => {
                text.push(char::from(*byte))
            }
            // writing to a string cannot fail
            _ => write!(text, "\\{byte:03o}").unwrap_or_default(),
        }
    }
    text
}

/// A path; components that rotate begin with `..`.
pub(super) fn of_path(path: &AbsPath) -> String {
    path.components().fold(String::new(), |text, name| text + "/" + &component(name))
}

fn component(name: &[u8]) -> String {
    if name == ROTATING { "..*".to_owned() } else { escape(name) }
}

fn of_pattern(pattern: &Pattern, slash: &str) -> Result<Vec<String>, TooComplex> {
    let mut heads = Forms::default();
    heads.heads(pattern.parts())?;
    let mut tails = Forms::default();
    for form in &heads.found {
        tails.tails(form)?;
    }
    let mut texts = Vec::new();
    if pattern.matches(b"/") {
        texts.push("/".to_owned());
    }
    for form in &tails.found {
        let text = text(form)? + slash;
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    Ok(texts)
}

/// Forms of a pattern: together they match what it matches, of the paths that there are.
#[derive(Default)]
struct Forms {
    found: Vec<Vec<Part>>,
    steps: usize,
}

impl Forms {
    fn step(&mut self) -> Result<(), TooComplex> {
        self.steps += 1;
        if self.steps > MAX_STEPS || self.found.len() > MAX_FORMS { Err(TooComplex) } else { Ok(()) }
    }

    /// Those that start with a literal `/`.
    fn heads(&mut self, parts: &[Part]) -> Result<(), TooComplex> {
        self.step()?;
        match parts.split_first() {
            Some((Part::Literal(bytes), _)) if bytes.first() == Some(&b'/') => {
                self.found.push(parts.to_vec())
            }
            Some((Part::AnyRunDeep, rest)) => {
                self.found.push([&[Part::Literal(b"/".to_vec())], parts].concat());
                self.heads(rest)?;
            }
            // no `/` can be in the run, so only the empty one helps
            Some((Part::AnyRun, rest)) => self.heads(rest)?,
            Some((Part::Alternatives(alternatives), rest)) => {
                for parts in alternatives {
                    self.heads(&[parts, rest].concat())?;
                }
            }
            Some((Part::Literal(_) | Part::AnyByte | Part::Set(_), _)) | None => {}
        }
        Ok(())
    }

    /// Those that end in something else than a `/`.
    fn tails(&mut self, parts: &[Part]) -> Result<(), TooComplex> {
        self.step()?;
        match parts.split_last() {
            Some((Part::AnyRun | Part::AnyRunDeep, rest)) => {
                self.found.push([parts, &[Part::AnyByte]].concat());
                self.tails(rest)?;
            }
            Some((Part::Alternatives(alternatives), rest)) => {
                for parts in alternatives {
                    self.tails(&[rest, parts].concat())?;
                }
            }
            Some((Part::Literal(bytes), _)) if bytes.last() == Some(&b'/') => {}
            Some((Part::Literal(_) | Part::AnyByte | Part::Set(_), _)) => self.found.push(parts.to_vec()),
            None => {}
        }
        Ok(())
    }
}

/// What stands before and with each `/` of `parts`, after `before`. What follows a `**` is left out.
fn ends_of_components(before: &[Part], parts: &[Part], found: &mut Vec<Vec<Part>>) -> Deep {
    let mut before = before.to_vec();
    for (index, part) in parts.iter().enumerate() {
        let deep = match part {
            Part::Literal(bytes) => {
                for (index, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                    let start = Part::Literal(bytes.iter().take(index + 1).copied().collect());
                    found.push([&*before, &[start]].concat());
                }
                Deep::No
            }
            Part::AnyRunDeep => Deep::AtEnd,
            Part::Alternatives(alternatives) => {
                let each = alternatives.iter().map(|parts| ends_of_components(&before, parts, found));
                each.max().unwrap_or(Deep::No)
            }
            Part::AnyRun | Part::AnyByte | Part::Set(_) => Deep::No,
        };
        match deep {
            Deep::No => before.push(part.clone()),
            Deep::AtEnd if index + 1 == parts.len() => return Deep::AtEnd,
            Deep::AtEnd | Deep::Within => return Deep::Within,
        }
    }
    Deep::No
}

fn text(parts: &[Part]) -> Result<String, TooComplex> {
    let mut out = String::new();
    for part in parts {
        match part {
            Part::Literal(bytes) => out.push_str(&escape(bytes)),
            Part::AnyRun => out.push('*'),
            Part::AnyRunDeep => out.push_str("**"),
            Part::AnyByte => out.push('?'),
            Part::Set(set) => out.push_str(&of_set(set)?),
            Part::Alternatives(alternatives) => {
                let texts = alternatives.iter().map(|parts| text(parts)).collect::<Result<Vec<_>, _>>()?;
                out.push('{');
                out.push_str(&texts.join(","));
                out.push('}');
            }
        }
        if out.len() > MAX_FORM_LEN {
            return Err(TooComplex);
        }
    }
    Ok(out)
}

/// One byte of a set: letters, digits and bytes beyond ASCII in brackets, where all others could be signs.
fn of_set(set: &ByteSet) -> Result<String, TooComplex> {
    // `/` is in no set, and the zero byte in no path
    let bytes =
        |wanted: bool| (1..=u8::MAX).filter(move |byte| *byte != b'/' && set.contains(*byte) == wanted);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
    if bytes(false).all(|byte| plain(&byte)) {
        return Ok(format!("[^\\000/{}]", ranges(bytes(false))));
    }
    let mut choices: Vec<String> =
        bytes(true).filter(|byte| !plain(byte)).map(|byte| escape(&[byte])).collect();
    let brackets = ranges(bytes(true).filter(plain));
    if !brackets.is_empty() {
        choices.push(format!("[{brackets}]"));
    }
    match &*choices {
        [] => Err(TooComplex), // the zero byte alone
        [one] => Ok(one.clone()),
        _ => Ok(format!("{{{}}}", choices.join(","))),
    }
}

fn ranges(bytes: impl Iterator<Item = u8>) -> String {
    let bytes: Vec<u8> = bytes.collect();
    let mut text = String::new();
    for run in bytes.chunk_by(|one, next| one.checked_add(1) == Some(*next)) {
        if let (Some(first), Some(last)) = (run.first(), run.last()) {
            text.push_str(&escape(&[*first]));
            if first != last {
                text.push('-');
                text.push_str(&escape(&[*last]));
            }
        }
    }
    text
}
