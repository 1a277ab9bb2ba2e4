//! Patterns over paths: `matchPatterns`.
//!
//! | | matches |
//! |---|---|
//! | `*` | any run of bytes without `/`, the empty one too |
//! | `**` | any run of bytes, with `/` |
//! | `?` | one byte that is not `/` |
//! | `[abc]`, `[a-z]` | one byte of the set |
//! | `[^a-z]`, `[!a-z]` | one byte that is not of the set, and not `/` |
//! | `{a,b*}` | one of these patterns; they may nest, and be empty |
//! | `\x` | `x` itself |
//! | all else | itself |
//!
//! A pattern is about the whole path, byte by byte. It starts with `/`, or with `**`. A `/` at its end, which no path of the
//! kernel has, is left out: the pattern is about the directory itself.

mod machine;
mod parse;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use self::machine::Machine;

/// The longest pattern, in bytes.
pub const MAX_PATTERN_LEN: usize = 1024;
/// How deep alternatives nest at most.
pub const MAX_NESTING: usize = 16;

/// A pattern, parsed. Two are equal when they are spelled the same.
///
/// ```
/// use enforcer_core::pattern::Pattern;
///
/// let pattern: Pattern = "/home/*/.ssh/{id_*,authorized_keys}".parse()?;
/// assert!(pattern.matches(b"/home/ann/.ssh/id_rsa"));
/// assert!(!pattern.matches(b"/home/ann/b/.ssh/id_rsa"), "`*` stops at `/`");
/// assert!(pattern.could_match_below(b"/home"));
/// assert!(!pattern.could_match_below(b"/etc"));
/// # Ok::<(), enforcer_core::pattern::PatternError>(())
/// ```
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    parts: Arc<[Part]>, // INVARIANT: what the text says; each part can match something
    machine: Arc<Machine>,
}

/// One part of a pattern; a pattern matches what its parts match one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// These bytes; at least one.
    Literal(Vec<u8>),
    /// `*`: any run of bytes without `/`.
    AnyRun,
    /// `**`: any run of bytes.
    AnyRunDeep,
    /// `?`: one byte that is not `/`.
    AnyByte,
    /// One byte of a set.
    Set(ByteSet),
    /// One of these.
    Alternatives(Vec<Vec<Part>>),
}

impl Pattern {
    /// The parts.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches the whole of `path`.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.machine.matches(path)
    }

    /// Whether there is a path below `directory` that it matches: some bytes, at least one, that make `directory`, a
    /// `/` and themselves a match.
    #[must_use]
    pub fn could_match_below(&self, directory: &[u8]) -> bool {
        let slash: &[u8] = if directory.ends_with(b"/") { b"" } else { b"/" };
        self.machine.could_go_on(directory.iter().chain(slash).copied())
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let text = parse::without_last_slash(text);
        let parts = parse::parse(text)?;
        let machine = Arc::new(Machine::new(&parts));
        Ok(Self { text: text.into(), parts: parts.into(), machine })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

/// A set of bytes. `/` is in none that comes from a pattern.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ByteSet([u64; 4]);

impl ByteSet {
    /// Every byte.
    pub const ALL: Self = Self([u64::MAX; 4]);

    /// One byte.
    #[must_use]
    pub fn of(byte: u8) -> Self {
        Self::default().with(byte)
    }

    /// Every byte but `/`.
    #[must_use]
    pub fn not_slash() -> Self {
        Self::ALL.without(b'/')
    }

    /// Whether the byte is in it.
    #[must_use]
    pub fn contains(&self, byte: u8) -> bool {
        let (word, bit) = Self::place(byte);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Whether no byte is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// The bytes that are in it, in order.
    pub fn bytes(&self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(|byte| self.contains(*byte))
    }

    fn with(mut self, byte: u8) -> Self {
        let (word, bit) = Self::place(byte);
        self.0.iter_mut().skip(word).take(1).for_each(|word| *word |= bit);
        self
    }

    fn without(mut self, byte: u8) -> Self {
        let (word, bit) = Self::place(byte);
        self.0.iter_mut().skip(word).take(1).for_each(|word| *word &= !bit);
        self
    }

    fn inverted(self) -> Self {
        Self(self.0.map(|word| !word))
    }

    fn place(byte: u8) -> (usize, u64) {
        (usize::from(byte / 64), 1 << (byte % 64))
    }
}

impl fmt::Debug for ByteSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<u8> = self.bytes().collect();
        write!(f, "ByteSet({})", bytes.escape_ascii())
    }
}

/// Why a text is no [`Pattern`], and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {at} of the pattern: {problem}")]
pub struct PatternError {
    /// The character, from 1.
    pub at: usize,
    /// What is wrong there.
    pub problem: PatternProblem,
}

/// What can be wrong with a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternProblem {
    /// No bytes at all.
    #[error("it is empty")]
    Empty,
    /// Longer than [`MAX_PATTERN_LEN`].
    #[error("{0} bytes, more than {MAX_PATTERN_LEN}")]
    TooLong(usize),
    /// It cannot match an absolute path, at least in one of its alternatives.
    #[error("it starts neither with `/` nor with `**`")]
    Relative,
    /// It holds a zero byte, which no path does.
    #[error("a zero byte, which no path holds")]
    ZeroByte,
    /// A `\` with nothing after it.
    #[error("nothing follows the `\\`; for a backslash write `\\\\`")]
    LoneEscape,
    /// A `[` without its `]`.
    #[error("the `[` has no `]`; for the bracket itself write `\\[`")]
    OpenSet,
    /// A set of nothing.
    #[error("the set is empty; for the bracket itself write `\\[`")]
    EmptySet,
    /// A range from the greater to the lesser.
    #[error("the range ends before it starts")]
    Range,
    /// A `/` in a set.
    #[error("a set never matches `/`; use alternatives, such as `{{/,x}}`")]
    SlashInSet,
    /// A character of more than one byte in a set.
    #[error("`{0}` is more than one byte, and a set is of bytes; use alternatives, such as `{{{0},x}}`")]
    WideInSet(char),
    /// A `{` without its `}`.
    #[error("the `{{` has no `}}`; for the brace itself write `\\{{`")]
    OpenAlternatives,
    /// A `}` without its `{`.
    #[error("the `}}` has no `{{`; for the brace itself write `\\}}`")]
    StrayBrace,
    /// `{a}`, with nothing to choose from.
    #[error("one alternative alone; write `{{a,b}}`, or `\\{{` for the brace itself")]
    OneAlternative,
    /// Nested deeper than [`MAX_NESTING`].
    #[error("alternatives nest deeper than {MAX_NESTING}")]
    TooDeep,
    /// A component that no path of the kernel has: an empty one, `.` or `..`.
    #[error("no path has `{0}` in it, since each is judged in its shortest form")]
    NeverInPath(&'static str),
    /// More than one `/` at its end.
    #[error("no path ends in `/`; leave it out, or write `/**` for what is below")]
    EndsInSlash,
}

#[cfg(test)]
mod tests;
