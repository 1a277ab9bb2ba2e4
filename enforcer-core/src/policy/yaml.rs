//! YAML text to trees whose every node knows its line and column.
//!
//! The one place that knows the YAML parser. It stops here what YAML can do and a policy never needs: deep nesting,
//! aliases that multiply, tags, keys that are no scalars.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// The longest text that is read, in bytes: far beyond the 1.5 MiB that an API server stores in an object.
pub(super) const MAX_TEXT: usize = 16 << 20;
/// The deepest nesting; a policy needs 6 levels, a list of policies 8.
const MAX_DEPTH: usize = 64;
/// What a document may weigh with its aliases written out: two million nodes without text.
const MAX_WEIGHT: usize = 4 * MAX_TEXT;
/// What a node weighs beside its text.
const NODE_WEIGHT: usize = 32;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) value: Value,
    weight: usize, // INVARIANT: of the subtree, aliases written out; at most MAX_WEIGHT
    depth: usize,  // INVARIANT: of the subtree, aliases written out; at most MAX_DEPTH
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// `plain` scalars have no quotes, and mean what they look like: `true`, `1`, `~`.
    Scalar {
        text: Rc<str>,
        plain: bool,
    },
    Sequence(Rc<[Node]>),
    Mapping(Rc<[(Key, Node)]>),
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) text: Rc<str>,
}

#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
    pub(super) help: Option<&'static str>,
}

/// The documents of a text, in order; empty ones are left out. An error in one does not touch those after it.
pub(super) fn documents(text: &str) -> Vec<Result<Node, SyntaxError>> {
    if text.len() > MAX_TEXT {
        let message = format!("the file has {} bytes, more than {MAX_TEXT}", text.len());
        return vec![Err(SyntaxError {
            line: 1,
            column: 1,
            message,
            help: Some("split it into several files"),
        })];
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    for (lines_before, chunk) in chunks(text) {
        if has_content(chunk) {
            parse(chunk, lines_before, &mut found);
        }
    }
    found
}

/// Cuts a text before each line that starts a document, and says how many lines come before each piece. Such a line
/// means the same wherever it stands, even within a block scalar, so no YAML need be understood to find it.
fn chunks(text: &str) -> Vec<(usize, &str)> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker && offset > start {
            chunks.extend(text.get(start..offset).map(|chunk| (start_line, chunk)));
            (start, start_line) = (offset, number);
        }
        offset += line.len();
    }
    chunks.extend(text.get(start..).map(|chunk| (start_line, chunk)));
    chunks
}

/// Whether there is more than comments, directives, markers and blank lines.
fn has_content(chunk: &str) -> bool {
    chunk.lines().any(|line| {
        let line = line.strip_prefix("---").or_else(|| line.strip_prefix("...")).unwrap_or(line).trim();
        !(line.is_empty() || line.starts_with('#') || line.starts_with('%'))
    })
}

fn parse(chunk: &str, lines_before: usize, found: &mut Vec<Result<Node, SyntaxError>>) {
    let mut builder = Builder { lines_before, ..Builder::default() };
    for event in Parser::new_from_str(chunk) {
        let result = match event {
            Ok((event, span)) => builder.take(&event, span),
            Err(error) => {
                let help =
                    error.info().contains("tab").then_some("indent with spaces, YAML allows no tabs there");
                let marker = error.marker();
                Err(builder.error(
                    marker.line(),
                    marker.col(),
                    format!("invalid YAML: {}", error.info()),
                    help,
                ))
            }
        };
        match result {
            Ok(None) => {}
            Ok(Some(document)) => found.push(Ok(document)),
            Err(error) => return found.push(Err(error)),
        }
    }
}

/// Builds trees from events with a stack of its own: no input decides how deep the program's goes.
#[derive(Default)]
struct Builder {
    lines_before: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
}

/// A collection whose end has not been seen.
struct Open {
    line: usize,
    column: usize,
    anchor: usize,
    weight: usize,
    depth: usize,
    children: Children,
}

enum Children {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<(Key, Node)>, key: Option<Key> },
}

impl Builder {
    fn error(&self, line: usize, column: usize, message: String, help: Option<&'static str>) -> SyntaxError {
        SyntaxError { line: line + self.lines_before, column: column + 1, message, help }
    }

    /// A whole document at its end.
    fn take(&mut self, event: &Event<'_>, span: Span) -> Result<Option<Node>, SyntaxError> {
        let (line, column) = (span.start.line(), span.start.col());
        let at = (line + self.lines_before, column + 1);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd => Ok(None),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                self.root = None;
                Ok(None)
            }
            Event::DocumentEnd => Ok(self.root.take().filter(|root| !root.is_null())),
            Event::Alias(anchor) => match self.anchors.get(anchor).cloned() {
                Some(node) => self.add(node, 0).map(|()| None),
                None => Err(self.error(line, column, "an alias within what it stands for".to_owned(), None)),
            },
            Event::Scalar(text, style, anchor, tag) => {
                let mut plain = *style == ScalarStyle::Plain;
                if let Some(tag) = tag {
                    if !(tag.is_yaml_core_schema() && tag.suffix == "str") {
                        return Err(self.tag(line, column));
                    }
                    plain = false;
                }
                let node = Node {
                    line: at.0,
                    column: at.1,
                    weight: NODE_WEIGHT.saturating_add(text.len()),
                    depth: 1,
                    value: Value::Scalar { text: Rc::from(text.as_ref()), plain },
                };
                self.add(node, *anchor).map(|()| None)
            }
            Event::SequenceStart(anchor, tag) => {
                let children = Children::Sequence(Vec::new());
                self.open(line, column, *anchor, tag.is_some(), children).map(|()| None)
            }
            Event::MappingStart(anchor, tag) => {
                let children = Children::Mapping { entries: Vec::new(), key: None };
                self.open(line, column, *anchor, tag.is_some(), children).map(|()| None)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    let anchor = open.anchor;
                    self.add(open.close(), anchor).map(|()| None)
                }
                None => Err(self.error(line, column, "an end without a start".to_owned(), None)),
            },
        }
    }

    fn tag(&self, line: usize, column: usize) -> SyntaxError {
        self.error(line, column, "a policy has no tags".to_owned(), Some("leave the word after `!` out"))
    }

    fn open(
        &mut self,
        line: usize,
        column: usize,
        anchor: usize,
        tagged: bool,
        children: Children,
    ) -> Result<(), SyntaxError> {
        if tagged {
            return Err(self.tag(line, column));
        }
        if let Some(Open { children: Children::Mapping { key: None, .. }, .. }) = self.open.last() {
            return Err(self.error(line, column, "a key that is no text".to_owned(), None));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(self.too_deep(line, column));
        }
        self.open.push(Open {
            line: line + self.lines_before,
            column: column + 1,
            anchor,
            weight: NODE_WEIGHT,
            depth: 1,
            children,
        });
        Ok(())
    }

    fn too_deep(&self, line: usize, column: usize) -> SyntaxError {
        self.error(line, column, format!("nested more than {MAX_DEPTH} levels deep"), None)
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        parent.weight = parent.weight.saturating_add(node.weight);
        parent.depth = parent.depth.max(node.depth.saturating_add(1));
        let (line, column) = (node.line.saturating_sub(self.lines_before), node.column.saturating_sub(1));
        if parent.weight > MAX_WEIGHT {
            let help = Some("write fewer aliases");
            return Err(self.error(line, column, "too large with its aliases written out".to_owned(), help));
        }
        if parent.depth > MAX_DEPTH {
            return Err(self.too_deep(line, column));
        }
        match &mut parent.children {
            Children::Sequence(items) => items.push(node),
            Children::Mapping { entries, key } => match (key.take(), node.value) {
                (Some(key), value) => entries.push((key, Node { value, ..node })),
                (None, Value::Scalar { text, .. }) => {
                    *key = Some(Key { line: node.line, column: node.column, text });
                }
                (None, Value::Sequence(_) | Value::Mapping(_)) => {
                    return Err(self.error(line, column, "a key that is no text".to_owned(), None));
                }
            },
        }
        Ok(())
    }
}

impl Open {
    fn close(self) -> Node {
        let Self { line, column, anchor: _, weight, depth, children } = self;
        let value = match children {
            Children::Sequence(items) => Value::Sequence(items.into()),
            Children::Mapping { entries, key: _ } => Value::Mapping(entries.into()),
        };
        Node { line, column, value, weight, depth }
    }
}

/// What a scalar without quotes means to a YAML reader, the one of Kubernetes included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    Null,
    Boolean,
    Number,
    Text,
}

impl Plain {
    pub(super) fn of(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "" | "~" | "null" => Self::Null,
            // YAML 1.1, which the API server's clients read, takes the last four for booleans as well.
            "true" | "false" | "yes" | "no" | "on" | "off" => Self::Boolean,
            lower if is_number(lower) => Self::Number,
            _ => Self::Text,
        }
    }
}

fn is_number(lower: &str) -> bool {
    let digits = lower.trim_start_matches(['+', '-']);
    let all =
        |digits: &str, radix| !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix) || c == '_');
    if let Some(hex) = digits.strip_prefix("0x") {
        return all(hex, 16);
    }
    if let Some(octal) = digits.strip_prefix("0o") {
        return all(octal, 8);
    }
    if let Some(binary) = digits.strip_prefix("0b") {
        return all(binary, 2);
    }
    matches!(digits, ".inf" | ".nan")
        || (digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && digits.replace('_', "").parse::<f64>().is_ok())
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if Plain::of(text) == Plain::Null)
    }

    /// What it is, for an error.
    pub(super) fn what(&self) -> &'static str {
        match &self.value {
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
            Value::Scalar { plain: false, .. } => "a string",
            Value::Scalar { text, plain: true } => match Plain::of(text) {
                Plain::Null => "nothing",
                Plain::Boolean => "a boolean",
                Plain::Number => "a number",
                Plain::Text => "a string",
            },
        }
    }
}
