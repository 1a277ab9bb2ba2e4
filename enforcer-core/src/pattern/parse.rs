//! From the text of a pattern to its parts.

use super::{ByteSet, MAX_NESTING, MAX_PATTERN_LEN, Part, PatternError, PatternProblem};

pub(super) fn parse(text: &str) -> Result<Vec<Part>, PatternError> {
    let mut parser = Parser { chars: text.chars().collect(), at: 0 };
    if text.len() > MAX_PATTERN_LEN {
        return Err(parser.wrong(PatternProblem::TooLong(text.len())));
    }
    let (parts, end) = parser.sequence(0)?;
    match end {
        End::Text => {}
        // only inside alternatives is a comma an end
        End::Brace | End::Comma => return Err(parser.before(PatternProblem::StrayBrace)),
    }
    if parts.is_empty() {
        return Err(parser.wrong(PatternProblem::Empty));
    }
    if !absolute(&parts) {
        return Err(PatternError { at: 1, problem: PatternProblem::Relative });
    }
    refuse_what_no_path_has(text)?;
    Ok(parts)
}

/// The text without the one `/` at its end that stands for itself.
pub(super) fn without_last_slash(text: &str) -> &str {
    match text.strip_suffix('/') {
        Some(rest) if !rest.is_empty() && !rest.ends_with(['/', '\\']) => rest,
        _ => text,
    }
}

/// What ended a sequence.
enum End {
    Text,
    Comma,
    Brace,
}

struct Parser {
    chars: Vec<char>,
    at: usize, // the next character's index
}

impl Parser {
    fn next(&mut self) -> Option<char> {
        let c = self.chars.get(self.at).copied();
        self.at += usize::from(c.is_some());
        c
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    /// An error at the next character.
    fn wrong(&self, problem: PatternProblem) -> PatternError {
        PatternError { at: self.at + 1, problem }
    }

    /// An error at the character just read.
    fn before(&self, problem: PatternProblem) -> PatternError {
        PatternError { at: self.at.max(1), problem }
    }

    fn sequence(&mut self, nesting: usize) -> Result<(Vec<Part>, End), PatternError> {
        let mut parts = Vec::new();
        loop {
            let end = match self.next() {
                None => End::Text,
                Some(',') if nesting > 0 => End::Comma,
                Some('}') => End::Brace,
                Some(c) => {
                    let part = self.part(c, nesting)?;
                    append(&mut parts, part);
                    continue;
                }
            };
            return Ok((parts, end));
        }
    }

    fn part(&mut self, c: char, nesting: usize) -> Result<Part, PatternError> {
        Ok(match c {
            '?' => Part::AnyByte,
            '*' => {
                let mut stars = 1;
                while self.peek() == Some('*') {
                    self.at += 1;
                    stars += 1;
                }
                if stars == 1 { Part::AnyRun } else { Part::AnyRunDeep }
            }
            '[' => Part::Set(self.set()?),
            '{' => self.alternatives(nesting)?,
            '\\' => {
                let c = self.next().ok_or_else(|| self.before(PatternProblem::LoneEscape))?;
                self.literal(c)?
            }
            c => self.literal(c)?,
        })
    }

    fn literal(&self, c: char) -> Result<Part, PatternError> {
        if c == '\0' {
            return Err(self.before(PatternProblem::ZeroByte));
        }
        Ok(Part::Literal(c.encode_utf8(&mut [0; 4]).as_bytes().to_vec()))
    }

    fn set(&mut self) -> Result<ByteSet, PatternError> {
        let open = self.at;
        let inverted = matches!(self.peek(), Some('^' | '!'));
        self.at += usize::from(inverted);
        let mut set = ByteSet::default();
        loop {
            let first = match self.next() {
                None => return Err(PatternError { at: open, problem: PatternProblem::OpenSet }),
                Some(']') if set.is_empty() => {
                    return Err(PatternError { at: open, problem: PatternProblem::EmptySet });
                }
                Some(']') => break,
                Some(c) => self.byte_of_set(c, open)?,
            };
            let is_range = self.peek() == Some('-') && self.chars.get(self.at + 1) != Some(&']');
            if !is_range {
                set = set.with(first);
                continue;
            }
            self.at += 1;
            let c = self.next().ok_or(PatternError { at: open, problem: PatternProblem::OpenSet })?;
            let last = self.byte_of_set(c, open)?;
            if last < first {
                return Err(self.before(PatternProblem::Range));
            }
            set = (first..=last).fold(set, ByteSet::with);
        }
        Ok(if inverted { set.inverted() } else { set }.without(b'/'))
    }

    fn byte_of_set(&mut self, c: char, open: usize) -> Result<u8, PatternError> {
        let c = match c {
            '\\' => self.next().ok_or(PatternError { at: open, problem: PatternProblem::OpenSet })?,
            c => c,
        };
        match u8::try_from(c) {
            Ok(b'/') => Err(self.before(PatternProblem::SlashInSet)),
            Ok(0) => Err(self.before(PatternProblem::ZeroByte)),
            Ok(byte) if byte.is_ascii() => Ok(byte),
            _ => Err(self.before(PatternProblem::WideInSet(c))),
        }
    }

    fn alternatives(&mut self, nesting: usize) -> Result<Part, PatternError> {
        let open = self.at;
        if nesting == MAX_NESTING {
            return Err(self.before(PatternProblem::TooDeep));
        }
        let mut alternatives = Vec::new();
        loop {
            let (parts, end) = self.sequence(nesting + 1)?;
            alternatives.push(parts);
            match end {
                End::Comma => {}
                End::Brace => break,
                End::Text => {
                    return Err(PatternError { at: open, problem: PatternProblem::OpenAlternatives });
                }
            }
        }
        if alternatives.len() == 1 {
            return Err(PatternError { at: open, problem: PatternProblem::OneAlternative });
        }
        Ok(Part::Alternatives(alternatives))
    }
}

/// Literals that stand together become one, and so do runs.
fn append(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), part) {
        (Some(Part::Literal(bytes)), Part::Literal(more)) => bytes.extend(more),
        (_, part) => parts.push(part),
    }
}

fn absolute(parts: &[Part]) -> bool {
    match parts.split_first() {
        Some((Part::Literal(bytes), _)) => bytes.first() == Some(&b'/'),
        Some((Part::AnyRunDeep, _)) => true,
        Some((Part::Alternatives(alternatives), rest)) => {
            alternatives.iter().all(|parts| if parts.is_empty() { absolute(rest) } else { absolute(parts) })
        }
        _ => false,
    }
}

/// A pattern with such a component would be a rule that never does anything.
fn refuse_what_no_path_has(text: &str) -> Result<(), PatternError> {
    let mut start = 0; // of a component, in characters
    for (index, component) in text.split('/').enumerate() {
        let length = component.chars().count();
        let next = start + length + 1;
        let never = match component {
            "" if index > 0 && next <= text.chars().count() => Some("//"),
            "." => Some("/./"),
            ".." => Some("/../"),
            _ => None,
        };
        if let Some(never) = never {
            return Err(PatternError { at: start + 1, problem: PatternProblem::NeverInPath(never) });
        }
        start = next;
    }
    if text.len() > 1 && text.ends_with('/') {
        return Err(PatternError { at: text.chars().count(), problem: PatternProblem::EndsInSlash });
    }
    Ok(())
}
